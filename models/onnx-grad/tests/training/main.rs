//! Derived training steps on ONNX Runtime.

#![allow(clippy::unwrap_used)]

mod batch_norm;
mod derive;
mod features;
mod loss;
#[path = "../support/mod.rs"]
mod support;
