//! Derives a training graph of standard ONNX operators from a forward ONNX graph.

pub mod builder;
pub mod check;
mod derive;
mod emit;
pub mod error;
mod exporter;
pub mod graph;
pub mod loss;
mod optimizer;
mod proto;
mod read;
mod reverse;
mod shape;
mod vjp;
mod write;

pub use builder::{Builder, Value};
pub use derive::{
    CONTRACT_KEY, CONTRACT_VERSION, StateRole, StateTensor, TrainSpec, TrainingGraph, derive, trainable,
};
pub use error::{GradError, ReadError, UnsupportedNode};
pub use optimizer::{GRAD_NORM, LEARNING_RATE, Optimizer, STEP};
pub use vjp::BatchNorm;
