//! Forward graph with a loss in, one training step as an ordinary ONNX graph out.

use std::collections::{BTreeMap, BTreeSet};

use crate::builder::Builder;
use crate::error::GradError;
use crate::graph::{Graph, Tensor};
use crate::optimizer::{self, GRAD_NORM, Optimizer};
use crate::reverse::{self, show};
use crate::vjp::{BatchNorm, Mode};

/// Version of the contract in `docs/training-graph.md` that derived graphs keep.
pub const CONTRACT_VERSION: &str = "1";
/// Metadata key that holds [`CONTRACT_VERSION`].
pub const CONTRACT_KEY: &str = "onnx-grad.contract";
/// Training graphs are at least of this opset: rules use `ScatterElements` with a reduction (16). From 13 to 17
/// the operators with a rule changed in element types and new optional attributes only, so that a forward
/// graph of 13 means the same under 17.
const MIN_OPSET: u32 = 17;

/// What is to be trained, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSpec {
    /// The scalar to minimise; becomes the output `loss`.
    pub loss: String,
    /// Initialisers to train; see [`trainable`].
    pub trainable: Vec<String>,
    pub optimizer: Optimizer,
    /// L2 norm to which the gradient of all parameters together is clipped.
    pub clip_norm: Option<f32>,
    pub batch_norm: BatchNorm,
    /// Further values to put out: (value, output name).
    pub outputs: Vec<(String, String)>,
}

/// What a state tensor is to training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateRole {
    Parameter,
    /// A moving average kept by a layer, part of the forward graph too.
    RunningStatistic,
    /// The optimiser's own.
    Optimizer,
}

/// An input `<name>` of the training graph that has an output `<name>.next`.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    pub name: String,
    /// What to feed at the first step.
    pub init: Tensor,
    pub role: StateRole,
}

/// A derived training step. `docs/training-graph.md` states its inputs and outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingGraph {
    pub graph: Graph,
    pub state: Vec<StateTensor>,
}

/// Derives the training step of a forward graph to which a loss has been appended.
///
/// The same input gives the same graph, to the byte once encoded; every node is of `ai.onnx`.
///
/// # Errors
/// [`GradError::Unsupported`] with every node that would need a rule; [`GradError::NotTrainable`],
/// [`GradError::LossNotScalar`]; what shape inference finds wrong with the graph.
pub fn derive(graph: &Graph, spec: &TrainSpec) -> Result<TrainingGraph, GradError> {
    let opset = graph.opset.max(MIN_OPSET);
    let parameters = parameters(graph, &spec.trainable)?;
    let trained: BTreeSet<&str> = parameters.keys().map(String::as_str).collect();
    let wanted: Vec<&str> = std::iter::once(spec.loss.as_str())
        .chain(spec.outputs.iter().map(|(value, _)| value.as_str()))
        .collect();
    let mode = Mode { batch_norm: spec.batch_norm };
    let mut forward = reverse::copy_forward(graph, opset, &wanted, &trained, &mode)?;
    check_loss(&forward.builder, &spec.loss)?;
    let gradients = reverse::differentiate(&mut forward, &spec.loss, &trained)?;
    let next_state = std::mem::take(&mut forward.next_state);
    let b = &mut forward.builder;
    let gradients = optimizer::clip(b, gradients, spec.clip_norm)?;
    let updates = optimizer::update(b, &spec.optimizer, &gradients, &parameters)?;

    let mut state = Vec::new();
    let mut outputs = vec![output(b, &spec.loss, "loss")?];
    for (value, name) in &spec.outputs {
        outputs.push(output(b, value, name)?);
    }
    outputs.push(GRAD_NORM.to_owned());
    for (name, init, next) in updates {
        let role = if parameters.contains_key(&name) { StateRole::Parameter } else { StateRole::Optimizer };
        outputs.push(output(b, &next, &format!("{name}.next"))?);
        state.push(StateTensor { name, init, role });
    }
    for (name, next) in next_state {
        let init = graph.initializers.get(&name).cloned().ok_or_else(|| GradError::NoSuchValue {
            value: name.clone(),
            known: "no initialiser of that name".to_owned(),
        })?;
        outputs.push(output(b, &next, &format!("{name}.next"))?);
        state.push(StateTensor { name, init, role: StateRole::RunningStatistic });
    }
    for name in outputs {
        b.output(&name)?;
    }
    let mut graph = forward.builder.finish();
    graph.metadata.insert(CONTRACT_KEY.to_owned(), CONTRACT_VERSION.to_owned());
    initializers_to_inputs(&mut graph, &state);
    Ok(TrainingGraph { graph, state })
}

/// The initialisers that training changes by default: floating tensors with at least one dimension from which
/// the loss can be reached along inputs that can have gradients. Running statistics are not among them.
///
/// # Errors
/// [`GradError::NoSuchValue`] if there is no value `loss`.
pub fn trainable(graph: &Graph, loss: &str) -> Result<Vec<String>, GradError> {
    let mut wanted = BTreeSet::from([loss]);
    let mut found = BTreeSet::new();
    for node in graph.nodes.iter().rev() {
        if !node.outputs.iter().any(|o| wanted.contains(o.as_str())) {
            continue;
        }
        let entry = crate::vjp::entry(node, graph.opset.max(MIN_OPSET));
        for (i, input) in node.inputs.iter().enumerate().filter(|(i, _)| !entry.is_some_and(|e| e.stops(*i)))
        {
            wanted.insert(input);
            let learns = |t: &Tensor| t.dtype.is_float() && !t.dims.is_empty() && !is_statistic(&node.op, i);
            if graph.initializers.get(input).is_some_and(learns) {
                found.insert(input.clone());
            }
        }
    }
    if wanted.len() == 1 {
        return Err(GradError::NoSuchValue {
            value: loss.to_owned(),
            known: graph.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", "),
        });
    }
    Ok(found.into_iter().collect())
}

/// Inputs that hold moving averages: they are state, but no gradient changes them.
fn is_statistic(op: &str, input: usize) -> bool {
    op == "BatchNormalization" && input >= 3
}

fn parameters(graph: &Graph, names: &[String]) -> Result<BTreeMap<String, Tensor>, GradError> {
    let mut parameters = BTreeMap::new();
    for name in names {
        let refused = |found| GradError::NotTrainable { name: name.clone(), found };
        let tensor = graph.initializers.get(name).ok_or_else(|| refused("no initialiser of that name"))?;
        if !tensor.dtype.is_float() {
            return Err(refused("an integer tensor"));
        }
        parameters.insert(name.clone(), tensor.clone());
    }
    Ok(parameters)
}

fn check_loss(b: &Builder, loss: &str) -> Result<(), GradError> {
    let value = b.value(loss)?;
    if value.dtype.is_float() && value.shape.is_empty() {
        return Ok(());
    }
    let found = format!("{} {}", value.dtype, show(&value.shape));
    Err(GradError::LossNotScalar { value: loss.to_owned(), found })
}

/// Makes `value` known as `name`.
fn output(b: &mut Builder, value: &str, name: &str) -> Result<String, GradError> {
    if value == name {
        return Ok(name.to_owned());
    }
    b.op_named("Identity", &[value], &[], name)
}

/// State is fed, not stored: its initialisers become inputs, in the order of the state.
fn initializers_to_inputs(graph: &mut Graph, state: &[StateTensor]) {
    for tensor in state {
        if graph.initializers.remove(&tensor.name).is_some() {
            graph.inputs.push(crate::graph::ValueInfo {
                name: tensor.name.clone(),
                dtype: tensor.init.dtype,
                shape: tensor.init.dims.iter().map(|&d| d.into()).collect(),
            });
        }
    }
}
