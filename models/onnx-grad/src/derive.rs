//! Forward graph with a loss in, one training step as an ordinary ONNX graph out.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::exporter;
use crate::gradients::{self, Clip, GRAD_NORM, Gradients, MICRO_BATCH_LAST};
use crate::graph::{DataType, Graph, Node, Tensor};
use crate::hash::SEED;
use crate::optimizer::{self, Optimizer, ParameterGroup};
use crate::path_integral;
use crate::precision::{self, LOSS_SCALE, Precision};
use crate::recompute::Recompute;
use crate::reverse;
use crate::vjp::{BatchNorm, Dropout, Mode};

/// Output, where steps can be skipped: 1 if parameters moved in this one, else 0.
pub const APPLIED: &str = "applied";
/// Version of the contract in `docs/training-graph.md` that derived graphs keep.
pub const CONTRACT_VERSION: &str = "2";
/// Metadata key that holds [`CONTRACT_VERSION`].
pub const CONTRACT_KEY: &str = "onnx-grad.contract";
/// Training graphs are at least of this opset: rules use `ScatterElements` with a reduction (16). From 13 to 17
/// the operators with a rule changed in element types and new optional attributes only, so that a forward
/// graph of 13 means the same under 17.
pub(crate) const MIN_OPSET: u32 = 17;

/// What is to be trained, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSpec {
    /// The scalar to minimise; becomes the output `loss`.
    pub loss: String,
    /// Initialisers to train; see [`trainable`].
    pub trainable: Vec<String>,
    pub optimizer: Optimizer,
    /// Parameters with a learning rate or weight decay of their own.
    pub groups: Vec<ParameterGroup>,
    pub clip: Option<Clip>,
    /// Whether gradients of several micro-batches can be added up before parameters move.
    pub accumulate: bool,
    pub batch_norm: BatchNorm,
    pub dropout: Dropout,
    pub precision: Precision,
    pub recompute: Recompute,
    /// Whether normal noise is added to the gradient, before its norm is taken and bounded: inputs
    /// [`GRADIENT_NOISE`](crate::GRADIENT_NOISE) and [`SEED`].
    pub gradient_noise: bool,
    /// Whether every parameter `<p>` gets a state tensor `<p>.path`, the integral of the loss along its path.
    pub path_integral: bool,
    /// Initialisers that the loss reads and the step does not change, to be fed as inputs
    /// ([`StateRole::Held`]). None of them is trained.
    pub held: Vec<String>,
    /// Further values to put out: (value, output name).
    pub outputs: Vec<(String, String)>,
}

impl TrainSpec {
    /// Minimises `loss` with `optimizer`: no groups, no clipping, every choice the plainest.
    pub fn new(loss: &str, trainable: Vec<String>, optimizer: Optimizer) -> Self {
        TrainSpec {
            loss: loss.to_owned(),
            trainable,
            optimizer,
            groups: Vec::new(),
            clip: None,
            accumulate: false,
            batch_norm: BatchNorm::Train,
            dropout: Dropout::Off,
            precision: Precision::Full,
            recompute: Recompute::Nothing,
            gradient_noise: false,
            path_integral: false,
            held: Vec::new(),
            outputs: Vec::new(),
        }
    }
}

/// What a state tensor is to training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateRole {
    Parameter,
    /// A moving average kept by a layer, part of the forward graph too.
    RunningStatistic,
    /// The optimiser's own, the sums of accumulated gradients and the loss scale among them.
    Optimizer,
    /// `<parameter>.path`: the sum over steps of gradient times change, to be set to zero between experiences
    /// (Synaptic Intelligence, Zenke et al. 2017).
    PathIntegral,
    /// Read but not changed by the step; it has no `<name>.next` and changes between experiences only.
    Held,
}

impl StateRole {
    /// Whether the training graph has an output `<name>.next`.
    pub fn moves(self) -> bool {
        self != StateRole::Held
    }
}

/// An input `<name>` of the training graph that has an output `<name>.next`, unless it is [`StateRole::Held`].
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
/// [`GradError::NothingToTrain`], [`GradError::NotHeld`], [`GradError::LossNotScalar`]; what shape inference finds wrong with the graph.
pub fn derive(graph: &Graph, spec: &TrainSpec) -> Result<TrainingGraph, GradError> {
    let opset = graph.opset.max(MIN_OPSET);
    // A value of that name would be taken for the input.
    let draws = spec.dropout == Dropout::Seeded || spec.gradient_noise;
    if draws && defines(graph, SEED) {
        return Err(GradError::Redefined { value: SEED.to_owned() });
    }
    if spec.trainable.is_empty() {
        return Err(GradError::NothingToTrain);
    }
    let parameters = parameters(graph, &spec.trainable)?;
    let held = held(graph, &spec.held, &parameters)?;
    let trained: BTreeSet<&str> = parameters.keys().map(String::as_str).collect();
    let wanted: Vec<&str> = std::iter::once(spec.loss.as_str())
        .chain(spec.outputs.iter().map(|(value, _)| value.as_str()))
        .collect();
    let mode = Mode { batch_norm: spec.batch_norm, dropout: spec.dropout };
    let mixed = spec.precision.compute_type().map(|low| precision::lower(graph, low, &wanted)).transpose()?;
    let mut forward =
        reverse::copy_forward(mixed.as_ref().unwrap_or(graph), opset, &wanted, &trained, &mode)?;
    check_loss(&forward.builder, &spec.loss)?;
    let loss_scale = match spec.precision {
        Precision::Float16(_) => Some(forward.builder.input(LOSS_SCALE, DataType::F32, Vec::new())?),
        Precision::Full | Precision::BFloat16 => None,
    };
    let gradients =
        reverse::differentiate(&mut forward, &spec.loss, loss_scale.as_deref(), &trained, &spec.recompute)?;
    let moved_statistics = std::mem::take(&mut forward.next_state);
    let b = &mut forward.builder;
    let Updates { optimizer: updates, paths, statistics, applied } =
        update(b, spec, gradients, &parameters, loss_scale.as_deref(), moved_statistics)?;

    let mut state = Vec::new();
    let mut outputs = vec![output(b, &spec.loss, "loss")?];
    for (value, name) in &spec.outputs {
        outputs.push(output(b, value, name)?);
    }
    outputs.push(GRAD_NORM.to_owned());
    if let Some(applied) = applied {
        b.set_scope(APPLIED);
        let as_float = emit::cast(b, &applied, DataType::F32)?;
        outputs.push(output(b, &as_float, APPLIED)?);
    }
    for (name, init, next) in updates {
        let role = if parameters.contains_key(&name) { StateRole::Parameter } else { StateRole::Optimizer };
        outputs.push(output(b, &next, &format!("{name}.next"))?);
        state.push(StateTensor { name, init, role });
    }
    for (name, init, next) in paths {
        outputs.push(output(b, &next, &format!("{name}.next"))?);
        state.push(StateTensor { name, init, role: StateRole::PathIntegral });
    }
    for (name, next) in statistics {
        if spec.held.contains(&name) {
            return Err(GradError::NotHeld { name, found: "a running statistic" });
        }
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
    remove_unused(&mut graph);
    let is_read = |tensor: &StateTensor| graph.initializers.contains_key(&tensor.name);
    state.extend(held.into_iter().filter(is_read));
    initializers_to_inputs(&mut graph, &state);
    Ok(TrainingGraph { graph, state })
}

/// What follows from the gradients.
struct Updates {
    optimizer: Vec<optimizer::Update>,
    paths: Vec<optimizer::Update>,
    /// (running statistic, its next value)
    statistics: Vec<(String, String)>,
    /// Boolean scalar: whether parameters move in this step. `None` where they always do.
    applied: Option<String>,
}

/// Emits everything between the gradients and the next state.
fn update(
    b: &mut Builder,
    spec: &TrainSpec,
    mut gradients: Gradients,
    parameters: &BTreeMap<String, Tensor>,
    loss_scale: Option<&str>,
    mut statistics: Vec<(String, String)>,
) -> Result<Updates, GradError> {
    let mut updates = Vec::new();
    if let Some(loss_scale) = loss_scale {
        gradients = gradients::unscale(b, &gradients, loss_scale)?;
    }
    let mut is_last = None;
    if spec.accumulate {
        b.set_scope("accumulate");
        b.input(MICRO_BATCH_LAST, DataType::F32, Vec::new())?;
        let last = gradients::is_set(b, MICRO_BATCH_LAST)?;
        let (sums, accumulated) = gradients::accumulate(b, &gradients, parameters, &last)?;
        gradients = sums;
        updates.extend(accumulated);
        is_last = Some(last);
    }
    let of_loss = spec.path_integral.then(|| gradients.clone());
    if spec.gradient_noise {
        gradients = gradients::add_noise(b, &gradients)?;
    }
    gradients::norm(b, &gradients)?;
    let mut applied = is_last.clone();
    if let Precision::Float16(settings) = spec.precision {
        let finite = gradients::is_finite(b)?;
        updates.extend(precision::update_loss_scale(b, settings, &finite, is_last.as_deref())?);
        // A mini-batch that overflows must not leave its mark on the statistics either.
        for (name, next) in &mut statistics {
            *next = b.op("Where", &[&finite, next, name], &[])?;
        }
        applied = Some(match is_last {
            Some(last) => b.op("And", &[&last, &finite], &[])?,
            None => finite,
        });
    }
    let gradients = gradients::clip(b, gradients, spec.clip)?;
    let moved =
        optimizer::update(b, &spec.optimizer, &spec.groups, &gradients, parameters, applied.as_deref())?;
    let paths = match of_loss {
        Some(gradients) => path_integral::update(b, &gradients, parameters, applied.as_deref())?,
        None => Vec::new(),
    };
    Ok(Updates { optimizer: moved.into_iter().chain(updates).collect(), paths, statistics, applied })
}

/// Nodes and initialisers that no output depends on.
fn remove_unused(graph: &mut Graph) {
    let mut used: HashSet<String> = graph.outputs.iter().map(|o| o.name.clone()).collect();
    let mut kept: Vec<Node> = Vec::with_capacity(graph.nodes.len());
    for node in std::mem::take(&mut graph.nodes).into_iter().rev() {
        if node.outputs.iter().any(|o| used.contains(o)) {
            used.extend(node.inputs.iter().filter(|i| !i.is_empty()).cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.nodes = kept;
    graph.initializers.retain(|name, _| used.contains(name));
}

/// The initialisers that training changes by default: floating tensors with at least one dimension from which
/// the loss can be reached along inputs that can have gradients. Running statistics are not among them, nor are
/// constants of PyTorch's exporter (`val_7` of one element).
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
        let inputs = node.inputs.iter().enumerate().filter(|(i, _)| !entry.is_some_and(|e| e.stops(*i)));
        for (_, input) in inputs {
            wanted.insert(input);
            let learns =
                |t: &Tensor| t.dtype.is_float() && !t.dims.is_empty() && !exporter::is_constant(input, t);
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

/// # Errors
/// [`GradError::NotHeld`] for a name that is trained, or that no initialiser has.
fn held(
    graph: &Graph,
    names: &[String],
    parameters: &BTreeMap<String, Tensor>,
) -> Result<Vec<StateTensor>, GradError> {
    let tensor = |name: &String| {
        let refused = |found| GradError::NotHeld { name: name.clone(), found };
        if parameters.contains_key(name) {
            return Err(refused("a trained parameter"));
        }
        let init = graph.initializers.get(name).ok_or_else(|| refused("no initialiser of that name"))?;
        Ok(StateTensor { name: name.clone(), init: init.clone(), role: StateRole::Held })
    };
    names.iter().map(tensor).collect()
}

fn defines(graph: &Graph, value: &str) -> bool {
    graph.initializers.contains_key(value)
        || graph.inputs.iter().any(|input| input.name == value)
        || graph.nodes.iter().flat_map(|node| &node.outputs).any(|output| output == value)
}

fn check_loss(b: &Builder, loss: &str) -> Result<(), GradError> {
    let value = b.value(loss)?;
    if value.dtype.is_float() && value.shape.is_empty() {
        return Ok(());
    }
    let found = format!("{} {}", value.dtype, emit::show(&value.shape));
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
