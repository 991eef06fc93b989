//! Derives a training graph of standard ONNX operators from a forward ONNX graph.
//!
//! What comes out is one training step (forward, backward, optimiser) as an ordinary ONNX file, which any stock
//! build of ONNX Runtime runs from any language. `docs/training-graph.md` states its inputs and outputs; `OPS.md`
//! lists the operators that can be differentiated.
//!
//! # A classifier, from its file to a training graph
//!
//! ```no_run
//! use onnx_grad::graph::Graph;
//! use onnx_grad::{Builder, Clip, Optimizer, TrainSpec, derive, loss, trainable};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Any classifier of opset 13 to 21, for example a PyTorch export with output `logits` [batch, classes].
//! let mut b = Builder::from_graph(Graph::read("classifier.onnx".as_ref())?)?;
//! let shape = b.shape("logits")?.clone();
//! b.input("labels", onnx_grad::graph::DataType::F32, shape)?;
//! let loss = loss::cross_entropy(&mut b, "logits", "labels")?;
//! let graph = b.finish();
//!
//! // Everything that can learn, but for the first layer.
//! let mut parameters = trainable(&graph, &loss)?;
//! parameters.retain(|name| !name.starts_with("conv1"));
//! let spec = TrainSpec { clip: Some(Clip::Norm(5.0)), ..TrainSpec::new(&loss, parameters, Optimizer::ADAMW) };
//! let step = derive(&graph, &spec)?;
//! std::fs::write("train.onnx", step.graph.encode())?;
//! // `step.state` has the initial value of every input `<name>` that has an output `<name>.next`.
//! # Ok(())
//! # }
//! ```
//!
//! # A derivative by itself
//!
//! ```
//! use onnx_grad::graph::DataType;
//! use onnx_grad::{BatchNorm, Builder, check};
//!
//! # fn main() -> Result<(), onnx_grad::GradError> {
//! let mut b = Builder::new("square", 17);
//! b.input("x", DataType::F32, vec!["batch".into()])?;
//! let square = b.op("Mul", &["x", "x"], &[])?;
//! let loss = b.op("ReduceSum", &[&square], &[("keepdims", 0_i64.into())])?;
//! let derived = check::gradients(&b.finish(), &loss, &["x"], BatchNorm::Train)?;
//! assert_eq!(derived.outputs[0].name, "x.grad");
//! # Ok(())
//! # }
//! ```

pub mod builder;
pub mod check;
mod derive;
mod emit;
pub mod error;
mod exporter;
mod gradients;
pub mod graph;
mod hash;
pub mod limits;
pub mod loss;
mod optimizer;
mod path_integral;
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
pub use gradients::{Clip, GRAD_NORM, GRADIENT_NOISE, MICRO_BATCH_LAST, MICRO_BATCH_WEIGHT};
pub use hash::SEED;
pub use optimizer::{LEARNING_RATE, Optimizer, ParameterGroup, STEP};
pub use precision::{FINITE_STEPS, LOSS_SCALE, LossScale, Precision};
pub use recompute::Recompute;
pub use vjp::{BatchNorm, Dropout};
