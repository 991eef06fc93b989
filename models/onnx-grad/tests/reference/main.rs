//! Whole networks against PyTorch.

#![allow(clippy::unwrap_used)]

mod architectures;
mod fixture;
mod pytorch;
#[path = "../support/mod.rs"]
mod support;
