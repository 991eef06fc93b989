//! Derived training steps on ONNX Runtime.

#![allow(clippy::unwrap_used)]

mod batch_norm;
mod derive;
mod dropout;
mod features;
mod loss;
mod net;
mod noise;
mod past;
mod path_integral;
mod precision;
#[path = "../support/mod.rs"]
mod support;
