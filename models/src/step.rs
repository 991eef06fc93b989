//! The DKT training step: both losses appended to a dual-head network, differentiated, with an optimiser.

use std::collections::BTreeMap;

use glob::Pattern;
use onnx_grad::check;
use onnx_grad::graph::{Graph, Tensor, ValueInfo};
use onnx_grad::loss::Reduction;
use onnx_grad::{
    BatchNorm, Clip, Dropout, Optimizer, ParameterGroup, Precision, Recompute, StateRole, StateTensor,
    TrainSpec, TrainingGraph,
};

use crate::dual_head::{CL_LOGITS, DualHead, ST_LOGITS};
use crate::error::ModelError;
use crate::features;
use crate::losses::{self, WithLoss};

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

/// What keeps the CL head near its own past: near logits that the same network gave before, `past_logits`.
///
/// Rows whose `past_weight` is 0 add nothing; sums are divided as if every row had a past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Sum over the groups of classes in `past_groups` of the mean over the N rows of
    /// KL(softmax(past / T) || softmax(cl / T)), each softmax over the group's classes alone, with T the input
    /// `retention_temperature`; no T^2. One group: Li and Hoiem 2016 (LwF). One an experience: Castro et al. 2018
    /// (EEIL).
    Distill,
    /// Mean over all N*K elements of the squared difference of raw logits (Buzzega et al. 2020, DER).
    Logits,
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
    /// A term `loss.retention` that keeps the CL head near its own past, weighed by `retention_weight`.
    pub retention: Option<Retention>,
    /// A term `loss.penalty`, weighed by `penalty_weight`: Σ importance * (p - anchor)² over all trained parameters
    /// `<p>` on which `loss.cl` depends, with held tensors `<p>.importance` and `<p>.anchor` (EWC, Kirkpatrick et al.
    /// 2017; Synaptic Intelligence, Zenke et al. 2017).
    pub penalty: bool,
    /// An input `class_mask` `[N, K]`: `loss.cl` is over the classes where it is 1.
    pub class_mask: bool,
    /// Inputs `gradient_noise` and `seed`: see [`TrainSpec::gradient_noise`].
    pub gradient_noise: bool,
    /// State tensors `<p>.path`: see [`TrainSpec::path_integral`].
    pub path_integral: bool,
    /// Whether [`TrainingStep::evaluate`] puts out the features.
    pub features: bool,
    /// Whether there is [`TrainingStep::importance`].
    pub fisher: bool,
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
            retention: None,
            penalty: false,
            class_mask: false,
            gradient_noise: false,
            path_integral: false,
            features: false,
            fisher: false,
            freeze: Vec::new(),
        }
    }
}

impl StepOptions {
    /// # Errors
    /// [`ModelError::NoSuchParameter`] if a pattern matches none.
    fn spec(&self, with_loss: &WithLoss, logits: &[&str]) -> Result<TrainSpec, ModelError> {
        let WithLoss { graph, parts, held } = with_loss;
        let mut all = onnx_grad::trainable(graph, "loss")?;
        all.retain(|name| !held.contains(name));
        for pattern in self.freeze.iter().chain(self.groups.iter().map(|g| &g.pattern)) {
            if !all.iter().any(|name| pattern.matches(name)) {
                return Err(ModelError::NoSuchParameter { pattern: pattern.as_str().to_owned() });
            }
        }
        let trainable = self.trained(all);
        Ok(TrainSpec {
            groups: self.parameter_groups(graph, &trainable),
            clip: self.clip,
            accumulate: self.accumulate,
            batch_norm: self.batch_norm,
            dropout: self.dropout,
            precision: self.precision,
            recompute: self.recompute.clone(),
            gradient_noise: self.gradient_noise,
            path_integral: self.path_integral,
            held: held.clone(),
            outputs: parts.iter().chain(logits).map(|&n| (n.to_owned(), n.to_owned())).collect(),
            ..TrainSpec::new("loss", trainable, self.optimizer)
        })
    }

    /// Those of `parameters` that are not frozen.
    pub(crate) fn trained(&self, mut parameters: Vec<String>) -> Vec<String> {
        parameters.retain(|name| !self.freeze.iter().any(|p| p.matches(name)));
        parameters
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
    ///
    /// With [`StepOptions::features`] it has an output [`crate::FEATURES`] `[N, F]` too: what the CL head reads.
    pub evaluate: Graph,
    /// The gradients of `loss.cl` by themselves, for the diagonal of the Fisher information ([`StepOptions::fisher`]).
    ///
    /// Inputs: the image, `labels`, `class_mask` where the step has one, and state under its names. Outputs:
    /// `<p>.grad`, mean over the rows, of every trained parameter on which `loss.cl` depends. Batch normalisation uses
    /// the running statistics, dropout is off, everything is float32.
    pub importance: Option<Graph>,
    pub state: Vec<StateTensor>,
    pub input_name: String,
    /// C, H, W.
    pub input_dims: [usize; 3],
    pub n_classes: usize,
    forward: Graph,
}

impl TrainingStep {
    /// # Errors
    /// [`ModelError::Graph`] with every operator that has no derivative; [`ModelError::NoSuchParameter`];
    /// [`ModelError::NoFeatures`] where they are asked for.
    pub fn derive(model: &DualHead, options: &StepOptions) -> Result<Self, ModelError> {
        let forward = model.graph().clone();
        let with_loss = losses::dual_head(model, options)?;
        let spec = options.spec(&with_loss, &[CL_LOGITS, ST_LOGITS])?;
        let training = onnx_grad::derive(&with_loss.graph, &spec)?;
        let evaluated = if options.features { &features::with_features(&forward)? } else { &forward };
        let importance = options.fisher.then(|| cl_gradients(model, options)).transpose()?;
        Ok(TrainingStep {
            evaluate: with_state_as_inputs(evaluated, &training.state),
            importance: importance.map(|graph| with_state_as_inputs(&graph, &training.state)),
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
        let of_network =
            |t: &&StateTensor| matches!(t.role, StateRole::Parameter | StateRole::RunningStatistic);
        for tensor in self.state.iter().filter(of_network) {
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
/// Without a name, `logits` is the graph's first output. What the options say of the CL head counts for these logits.
///
/// # Errors
/// [`ModelError::Logits`] if there is no such output; as [`TrainingStep::derive`].
pub fn derive_classifier(
    graph: &Graph,
    logits: Option<&str>,
    options: &StepOptions,
) -> Result<TrainingGraph, ModelError> {
    let (with_loss, logits) = losses::classifier(graph, logits, options)?;
    Ok(onnx_grad::derive(&with_loss.graph, &options.spec(&with_loss, &[&logits])?)?)
}

/// The gradients of `loss.cl` with the running statistics, as `<p>.grad`.
fn cl_gradients(model: &DualHead, options: &StepOptions) -> Result<Graph, ModelError> {
    let graph = losses::cl_alone(model, options.class_mask)?;
    let parameters = options.trained(onnx_grad::trainable(&graph, "loss.cl")?);
    let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
    Ok(check::gradients(&graph, "loss.cl", &parameters, BatchNorm::Frozen)?)
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
