//! Derives a training graph of standard ONNX operators from a forward ONNX graph.

pub mod builder;
mod emit;
pub mod error;
pub mod graph;
pub mod loss;
pub mod shape;
mod vjp;

pub use error::GradError;
pub use vjp::BatchNorm;
