//! Derives a training graph of standard ONNX operators from a forward ONNX graph.

pub mod builder;
pub mod check;
mod derive;
mod emit;
pub mod error;
mod exporter;
mod gradients;
pub mod graph;
pub mod loss;
mod optimizer;
mod precision;
mod proto;
mod read;
mod recompute;
mod reverse;
mod shape;
mod vjp;
mod write;

pub use builder::{Builder, Value};
pub use derive::{
    APPLIED, CONTRACT_KEY, CONTRACT_VERSION, StateRole, StateTensor, TrainSpec, TrainingGraph, derive,
    trainable,
};
pub use error::{GradError, ReadError, UnsupportedNode};
pub use gradients::{Clip, GRAD_NORM, MICRO_BATCH_LAST, MICRO_BATCH_WEIGHT};
pub use optimizer::{LEARNING_RATE, Optimizer, ParameterGroup, STEP};
pub use precision::{FINITE_STEPS, LOSS_SCALE, LossScale, Precision};
pub use recompute::Recompute;
pub use vjp::dropout::SEED;
pub use vjp::{BatchNorm, Dropout};
