//! The DKT training step: both losses appended to a dual-head network, differentiated, with an optimiser.

use std::collections::BTreeMap;

use onnx_grad::graph::{DataType, Dim, Graph, Tensor, ValueInfo};
use onnx_grad::loss::{self, Reduction};
use onnx_grad::{BatchNorm, Builder, Optimizer, StateRole, StateTensor, TrainSpec};

use crate::dual_head::{CL_LOGITS, DualHead, ST_LOGITS};
use crate::error::ModelError;

/// The student head's loss against its teacher, weighed by `distill_weight` in the whole.
///
/// Rows whose `teacher_weight` is 0 add nothing; sums are divided as if every row had a teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distillation {
    /// Mean over all N*K elements of the squared difference of raw logits; no temperature.
    Mse,
    /// KL(softmax(teacher / T) || softmax(student / T)).
    Kl {
        reduction: Reduction,
        /// Whether the loss is multiplied by T^2 (Hinton et al. 2015).
        scale_t2: bool,
    },
}

impl Distillation {
    /// The method's: mean over all N*K elements, no T^2.
    pub fn kl() -> Self {
        Distillation::Kl { reduction: Reduction::Mean, scale_t2: false }
    }
}

/// How the step is derived.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOptions {
    pub distill: Distillation,
    pub optimizer: Optimizer,
    /// L2 norm to which the gradient of all parameters is clipped.
    pub clip_norm: Option<f32>,
    pub batch_norm: BatchNorm,
    /// Parameters whose names start with one of these stay as they are.
    pub freeze: Vec<String>,
}

impl Default for StepOptions {
    fn default() -> Self {
        StepOptions {
            distill: Distillation::Mse,
            optimizer: Optimizer::ADAM,
            clip_norm: Some(5.0),
            batch_norm: BatchNorm::Train,
            freeze: Vec::new(),
        }
    }
}

/// Everything a runtime needs to train and evaluate one network.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingStep {
    /// The training graph; `docs/training-graph.md` states its inputs and outputs.
    pub train: Graph,
    /// The forward graph with parameters and running statistics as inputs of the same names, so that a runtime
    /// can bind the very same buffers.
    pub evaluate: Graph,
    pub state: Vec<StateTensor>,
    pub input_name: String,
    /// C, H, W.
    pub input_dims: [usize; 3],
    pub n_classes: usize,
    forward: Graph,
}

impl TrainingStep {
    /// # Errors
    /// [`ModelError::Graph`] with every operator that has no derivative; [`ModelError::NothingToFreeze`].
    pub fn derive(model: &DualHead, options: &StepOptions) -> Result<Self, ModelError> {
        let forward = model.graph().clone();
        let mut b = Builder::from_graph(Graph { outputs: Vec::new(), ..forward.clone() })?;
        let batch = b.shape(CL_LOGITS)?[0].clone();
        append_losses(&mut b, &batch, model.n_classes(), options.distill)?;
        let graph = b.finish();
        let spec = TrainSpec {
            loss: "loss".to_owned(),
            trainable: trained(&graph, &options.freeze)?,
            optimizer: options.optimizer,
            clip_norm: options.clip_norm,
            batch_norm: options.batch_norm,
            outputs: ["loss.cl", "loss.st", CL_LOGITS, ST_LOGITS]
                .map(|n| (n.to_owned(), n.to_owned()))
                .into(),
        };
        let training = onnx_grad::derive(&graph, &spec)?;
        Ok(TrainingStep {
            evaluate: with_state_as_inputs(&forward, &training.state),
            train: training.graph,
            state: training.state,
            input_name: model.input_name().to_owned(),
            input_dims: model.input_dims(),
            n_classes: model.n_classes(),
            forward,
        })
    }

    /// The network as plain forward ONNX, with the values of `state` as its parameters.
    ///
    /// # Errors
    /// [`ModelError::MissingState`] if a tensor is not there.
    pub fn export(&self, state: &BTreeMap<String, Tensor>) -> Result<Graph, ModelError> {
        let mut graph = self.forward.clone();
        for tensor in self.state.iter().filter(|t| t.role != StateRole::Optimizer) {
            let value = state
                .get(&tensor.name)
                .ok_or_else(|| ModelError::MissingState { name: tensor.name.clone() })?;
            graph.initializers.insert(tensor.name.clone(), value.clone());
        }
        Ok(graph)
    }
}

/// Appends `loss.cl`, `loss.st` and `loss` = `loss.cl` + `distill_weight` * `loss.st`, and their inputs.
fn append_losses(
    b: &mut Builder,
    batch: &Dim,
    n_classes: usize,
    distill: Distillation,
) -> Result<(), ModelError> {
    let per_class = vec![batch.clone(), Dim::Size(n_classes)];
    b.input("labels", DataType::F32, per_class.clone())?;
    b.input("teacher_logits", DataType::F32, per_class)?;
    b.input("teacher_weight", DataType::F32, vec![batch.clone()])?;
    b.input("distill_weight", DataType::F32, Vec::new())?;
    b.input("temperature", DataType::F32, Vec::new())?;
    b.set_scope("loss.cl");
    let cl = loss::cross_entropy(b, CL_LOGITS, "labels")?;
    let cl = b.op_named("Identity", &[&cl], &[], "loss.cl")?;
    b.set_scope("loss.st");
    let st = match distill {
        Distillation::Mse => loss::mse(b, ST_LOGITS, "teacher_logits", "teacher_weight")?,
        Distillation::Kl { reduction, scale_t2 } => {
            loss::kl(b, ST_LOGITS, "teacher_logits", "teacher_weight", "temperature", reduction, scale_t2)?
        }
    };
    let st = b.op_named("Identity", &[&st], &[], "loss.st")?;
    b.set_scope("loss");
    let weighed = b.op("Mul", &[&st, "distill_weight"], &[])?;
    b.op_named("Add", &[&cl, &weighed], &[], "loss")?;
    Ok(())
}

fn trained(graph: &Graph, freeze: &[String]) -> Result<Vec<String>, ModelError> {
    let all = onnx_grad::trainable(graph, "loss")?;
    if let Some(pattern) = freeze.iter().find(|p| !all.iter().any(|name| name.starts_with(p.as_str()))) {
        return Err(ModelError::NothingToFreeze { pattern: pattern.clone() });
    }
    Ok(all.into_iter().filter(|name| !freeze.iter().any(|p| name.starts_with(p.as_str()))).collect())
}

fn with_state_as_inputs(forward: &Graph, state: &[StateTensor]) -> Graph {
    let mut graph = forward.clone();
    for tensor in state {
        if let Some(init) = graph.initializers.remove(&tensor.name) {
            graph.inputs.push(ValueInfo {
                name: tensor.name.clone(),
                dtype: init.dtype,
                shape: init.dims.iter().map(|&d| d.into()).collect(),
            });
        }
    }
    graph
}
