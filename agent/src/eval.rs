//! How good a network is: metrics, and evaluation without ONNX Runtime.

pub mod evaluator;
pub mod metrics;

pub use evaluator::EvalError;
