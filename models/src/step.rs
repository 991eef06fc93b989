//! The DKT training step: both losses appended to a dual-head network, differentiated, with an optimiser.

use std::collections::BTreeMap;

use glob::Pattern;
use onnx_grad::graph::{Graph, Tensor, ValueInfo};
use onnx_grad::loss::Reduction;
use onnx_grad::{
    BatchNorm, Clip, Dropout, Optimizer, ParameterGroup, Precision, Recompute, StateRole, StateTensor,
    TrainSpec, TrainingGraph,
};

use crate::dual_head::{CL_LOGITS, DualHead, ST_LOGITS};
use crate::error::ModelError;
use crate::losses;

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
    /// Loss of the student head; a classifier with one head has none.
    pub distill: Distillation,
    pub optimizer: Optimizer,
    pub groups: Vec<Group>,
    /// Whether weight decay spares tensors of less than two dimensions: biases and the scales of norms.
    pub decay_matrices_only: bool,
    pub clip: Option<Clip>,
    pub accumulate: bool,
    pub batch_norm: BatchNorm,
    pub dropout: Dropout,
    pub precision: Precision,
    pub recompute: Recompute,
    /// Parameters whose names match one of these stay as they are.
    pub freeze: Vec<Pattern>,
}

/// Parameters whose names match, with constants of their own. The first group that matches counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub pattern: Pattern,
    /// Factor of the learning rate.
    pub learning_rate_factor: f64,
    /// In place of the optimiser's, where given.
    pub weight_decay: Option<f64>,
}

impl Default for StepOptions {
    fn default() -> Self {
        StepOptions {
            distill: Distillation::Mse,
            optimizer: Optimizer::ADAM,
            groups: Vec::new(),
            decay_matrices_only: false,
            clip: Some(Clip::Norm(5.0)),
            accumulate: false,
            batch_norm: BatchNorm::Train,
            dropout: Dropout::Off,
            precision: Precision::Full,
            recompute: Recompute::Nothing,
            freeze: Vec::new(),
        }
    }
}

impl StepOptions {
    /// # Errors
    /// [`ModelError::NoSuchParameter`] if a pattern matches none.
    fn spec(&self, graph: &Graph, outputs: &[&str]) -> Result<TrainSpec, ModelError> {
        let all = onnx_grad::trainable(graph, "loss")?;
        for pattern in self.freeze.iter().chain(self.groups.iter().map(|g| &g.pattern)) {
            if !all.iter().any(|name| pattern.matches(name)) {
                return Err(ModelError::NoSuchParameter { pattern: pattern.as_str().to_owned() });
            }
        }
        let is_frozen = |name: &String| self.freeze.iter().any(|p| p.matches(name));
        let trainable: Vec<String> = all.into_iter().filter(|name| !is_frozen(name)).collect();
        Ok(TrainSpec {
            groups: self.parameter_groups(graph, &trainable),
            clip: self.clip,
            accumulate: self.accumulate,
            batch_norm: self.batch_norm,
            dropout: self.dropout,
            precision: self.precision,
            recompute: self.recompute.clone(),
            outputs: outputs.iter().map(|&n| (n.to_owned(), n.to_owned())).collect(),
            ..TrainSpec::new("loss", trainable, self.optimizer)
        })
    }

    /// One group for each of ours, and one for the rest; each in two where weight decay spares some.
    fn parameter_groups(&self, graph: &Graph, trainable: &[String]) -> Vec<ParameterGroup> {
        let rest = Group { pattern: Pattern::default(), learning_rate_factor: 1.0, weight_decay: None };
        let mut members: Vec<[Vec<String>; 2]> = vec![Default::default(); self.groups.len() + 1];
        for name in trainable {
            let group = self.groups.iter().position(|g| g.pattern.matches(name)).unwrap_or(self.groups.len());
            let is_matrix = graph.initializers.get(name).is_some_and(|t| t.dims.len() > 1);
            members[group][usize::from(self.decay_matrices_only && !is_matrix)].push(name.clone());
        }
        let group = |(group, [decayed, spared]): (&Group, [Vec<String>; 2])| {
            let with = |parameters, weight_decay| ParameterGroup {
                parameters,
                learning_rate_factor: group.learning_rate_factor,
                weight_decay,
            };
            // What a group says of itself counts for all its members.
            [with(decayed, group.weight_decay), with(spared, group.weight_decay.or(Some(0.0)))]
        };
        self.groups
            .iter()
            .chain([&rest])
            .zip(members)
            .flat_map(group)
            .filter(|group| !group.parameters.is_empty())
            .collect()
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
    /// [`ModelError::Graph`] with every operator that has no derivative; [`ModelError::NoSuchParameter`].
    pub fn derive(model: &DualHead, options: &StepOptions) -> Result<Self, ModelError> {
        let forward = model.graph().clone();
        let graph = losses::dual_head(model, options.distill)?;
        let spec = options.spec(&graph, &["loss.cl", "loss.st", CL_LOGITS, ST_LOGITS])?;
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

/// The training step of a classifier with one head: cross-entropy of `logits` `[N, K]` with the input `labels`.
///
/// Without a name, `logits` is the graph's first output.
///
/// # Errors
/// [`ModelError::Logits`] if there is no such output; as [`TrainingStep::derive`].
pub fn derive_classifier(
    graph: &Graph,
    logits: Option<&str>,
    options: &StepOptions,
) -> Result<TrainingGraph, ModelError> {
    let (with_loss, logits) = losses::classifier(graph, logits)?;
    Ok(onnx_grad::derive(&with_loss, &options.spec(&with_loss, &[&logits])?)?)
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
