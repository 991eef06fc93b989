//! One node test as a differentiable problem: which inputs are variables, in what precision, with what loss.

use std::collections::{BTreeMap, BTreeSet};

use onnx_grad::check::{self, Derivative};
use onnx_grad::graph::{Attribute, DataType, Graph, Tensor};
use onnx_grad::{BatchNorm, Builder, GradError};

use crate::Verdict;
use crate::compare::{self, Problem};
use crate::report;
use crate::support::Runner;

type Tensors = BTreeMap<String, Tensor>;

/// Inputs that the specification wants in float32 whatever the type of the rest is: (operator, input).
const ALWAYS_F32: [(&str, usize); 1] = [("Resize", 2)];

/// What training graphs are at least of.
const MIN_OPSET: u32 = 17;

/// Why a test fails in one precision; it may pass in another.
enum Trouble {
    Verdict(Verdict),
    /// The training graph is refused or does not run.
    Derived(String),
    /// Its outputs are not those expected.
    Forward(String),
}

/// Derives the gradient of Σ ⟨u, y⟩ over the floating outputs y, in float64 where ONNX Runtime has the kernels.
pub fn check(mut model: Graph, inputs: Tensors, expected: &Tensors) -> Verdict {
    let produced: BTreeSet<&String> = model.nodes.iter().flat_map(|n| &n.outputs).collect();
    // A model in training form has outputs that reading takes away.
    model.outputs.retain(|o| produced.contains(&o.name) && expected.contains_key(&o.name));
    // As derivation does.
    model.opset = model.opset.max(MIN_OPSET);
    let training = model.metadata.contains_key("training");
    let batch_norm = if training { BatchNorm::Train } else { BatchNorm::Frozen };
    let variables = variables(&model);
    if variables.moved.is_empty() {
        return Verdict::NotApplicable("no floating output depends on a floating input".to_owned());
    }
    if variables.moved.iter().all(|name| inputs.get(name).is_none_or(|t| t.n_elements() == 0)) {
        return Verdict::NotApplicable("empty tensors".to_owned());
    }
    for (name, tensor) in &inputs {
        if !variables.moved.contains(name) {
            model.inputs.retain(|i| i.name != *name);
            model.initializers.insert(name.clone(), tensor.clone());
        }
    }
    let at: Tensors =
        inputs.into_iter().filter(|(name, _)| variables.moved.contains(name.as_str())).collect();
    let mut troubles = Vec::new();
    for dtype in [DataType::F64, DataType::F32] {
        match check_in(dtype, &model, &variables, &at, expected, batch_norm) {
            Ok(verdict) | Err(Trouble::Verdict(verdict)) => return verdict,
            Err(trouble) => troubles.push(trouble),
        }
    }
    let plain = run_plain(&in_type(&model, DataType::F32), &at, expected);
    match (plain, troubles.pop()) {
        (Err(Trouble::Derived(why)), _) => {
            Verdict::NotApplicable(format!("ONNX Runtime: {}", report::runtime_error(&why)))
        }
        (Err(_), _) if training => Verdict::NotApplicable("training mode".to_owned()),
        (Err(_), _) => Verdict::NotApplicable("ONNX Runtime's own values are not those expected".to_owned()),
        (Ok(()), Some(Trouble::Derived(why))) => Verdict::Failed(format!("training graph: {why}")),
        (Ok(()), Some(Trouble::Forward(why))) => Verdict::Failed(format!("forward value: {why}")),
        (Ok(()), _) => Verdict::Failed("no verdict".to_owned()),
    }
}

/// Floating graph inputs that a floating output depends on.
struct Variables {
    /// Through any edge but stop-edges: those that finite differences move.
    moved: BTreeSet<String>,
    /// Those of them that gradients can reach. The others must have none.
    derived: BTreeSet<String>,
}

fn variables(model: &Graph) -> Variables {
    let rules: BTreeMap<&str, check::Rule> = check::rules().into_iter().map(|r| (r.op, r)).collect();
    let outputs: BTreeSet<&str> =
        model.outputs.iter().filter(|o| o.dtype.is_float()).map(|o| o.name.as_str()).collect();
    let reach = |through_constant: bool| {
        let mut reached = outputs.clone();
        for node in model.nodes.iter().rev().filter(|n| n.outputs.iter().any(|o| !o.is_empty())) {
            let rule = rules.get(node.op.as_str());
            let constant = rule.is_some_and(|r| r.how == Derivative::Constant);
            if node.outputs.iter().any(|o| reached.contains(o.as_str())) && (through_constant || !constant) {
                let open = |i: &usize| !rule.is_some_and(|r| r.stop.contains(i));
                reached.extend((0..node.inputs.len()).filter(open).map(|i| node.inputs[i].as_str()));
            }
        }
        let inputs = model.inputs.iter().filter(|i| i.dtype.is_float() && reached.contains(i.name.as_str()));
        inputs.map(|i| i.name.clone()).collect::<BTreeSet<String>>()
    };
    Variables { moved: reach(true), derived: reach(false) }
}

fn check_in(
    dtype: DataType,
    model: &Graph,
    variables: &Variables,
    at: &Tensors,
    expected: &Tensors,
    batch_norm: BatchNorm,
) -> Result<Verdict, Trouble> {
    let model = in_type(model, dtype);
    let last = dtype == DataType::F32;
    let refused = |error: GradError| match error {
        GradError::Unsupported(_) => Trouble::Verdict(Verdict::NotApplicable(report::refused(&error))),
        // A model in float64 may be none where the specification has float32 only.
        error if !last => Trouble::Derived(error.to_string()),
        error if is_defect(&error) => Trouble::Verdict(Verdict::Failed(error.to_string())),
        error => Trouble::Verdict(Verdict::NotApplicable(report::refused(&error))),
    };
    let floating: Vec<&str> =
        model.outputs.iter().filter(|o| o.dtype.is_float()).map(|o| o.name.as_str()).collect();
    let of_all = derive(&model, &floating, dtype, variables, batch_norm);
    // Statistics that a normalisation gives beside its result may be refused.
    let derived = match of_all {
        Err(GradError::Shape { .. }) if floating.len() > 1 => {
            derive(&model, &floating[..1], dtype, variables, batch_norm)
        }
        result => result,
    };
    let Derived { training, cotangents, derived } = derived.map_err(refused)?;
    let mut runner = Runner::load(&training).map_err(|e| Trouble::Derived(e.to_string()))?;
    let mixed = dtype == DataType::F64 && has_f32(&training);
    let at: Tensors = at.iter().map(|(name, tensor)| (name.clone(), in_type_tensor(tensor, dtype))).collect();
    let mut problem = Problem::new(&mut runner, at, &derived, cotangents, expected, dtype, mixed)
        .map_err(|e| Trouble::Derived(e.to_string()))?;
    problem.check_forward(expected).map_err(Trouble::Forward)?;
    Ok(match problem.check_gradient() {
        Verdict::Passed { off_kink, .. } => {
            Verdict::Passed { in_f64: dtype == DataType::F64 && !mixed, off_kink }
        }
        other => other,
    })
}

/// Whether an error in derivation is the rule's own fault, not a form of the operator that it refuses.
fn is_defect(error: &GradError) -> bool {
    match error {
        GradError::GradientShape { .. } | GradError::Redefined { .. } => true,
        GradError::NoSuchValue { .. } | GradError::UnknownValue { .. } => true,
        // Of a node that a rule emitted.
        GradError::Shape { node, .. } => node.contains(".grad/"),
        _ => false,
    }
}

/// Whether anything is computed in float32, which bounds the precision of all.
fn has_f32(graph: &Graph) -> bool {
    let f32_code = Some(&Attribute::Int(1));
    graph.nodes.iter().any(|n| n.op == "Cast" && n.attributes.get("to") == f32_code)
        || graph.outputs.iter().any(|o| o.dtype == DataType::F32)
}

fn run_plain(model: &Graph, at: &Tensors, expected: &Tensors) -> Result<(), Trouble> {
    let mut runner = Runner::load(model).map_err(|e| Trouble::Derived(e.to_string()))?;
    let at: Vec<(&str, Tensor)> =
        at.iter().map(|(name, t)| (name.as_str(), in_type_tensor(t, DataType::F32))).collect();
    let found = runner.try_run(&at).map_err(|e| Trouble::Derived(e.to_string()))?;
    compare::check_values(&found, expected).map_err(Trouble::Forward)
}

const LOSS: &str = "check.loss";

/// A training graph and what belongs to it.
struct Derived {
    training: Graph,
    /// Name of the input u by output y.
    cotangents: BTreeMap<String, String>,
    /// Inputs whose gradients it gives.
    derived: BTreeSet<String>,
}

/// The gradients of Σ ⟨u, y⟩ over `outputs`.
fn derive(
    model: &Graph,
    outputs: &[&str],
    dtype: DataType,
    variables: &Variables,
    batch_norm: BatchNorm,
) -> Result<Derived, GradError> {
    let (graph, cotangents) = with_loss(model, outputs, dtype)?;
    let mut derived = variables.derived.clone();
    loop {
        let names: Vec<&str> = derived.iter().map(String::as_str).collect();
        match check::gradients(&graph, LOSS, &names, batch_norm) {
            // Behind integers: no gradient, which the comparison then takes for zero.
            Err(GradError::NotTrainable { name, .. }) if derived.remove(&name) => {}
            training => return Ok(Derived { training: training?, cotangents, derived }),
        }
    }
}

fn with_loss(
    model: &Graph,
    outputs: &[&str],
    dtype: DataType,
) -> Result<(Graph, BTreeMap<String, String>), GradError> {
    let mut b = Builder::from_graph(model.clone())?;
    let mut cotangents = BTreeMap::new();
    let mut terms = Vec::new();
    for &y in outputs {
        let value = b.value(y)?.clone();
        let u = b.input(&format!("check.u.{y}"), value.dtype, value.shape)?;
        let product = b.op("Mul", &[y, &u], &[])?;
        let sum = b.op("ReduceSum", &[&product], &[("keepdims", 0_i64.into())])?;
        let to = if dtype == DataType::F64 { 11 } else { 1 };
        let cast = [("to", Attribute::Int(to))];
        terms.push(if value.dtype == dtype { sum } else { b.op("Cast", &[&sum], &cast)? });
        cotangents.insert(y.to_owned(), u);
    }
    let terms: Vec<&str> = terms.iter().map(String::as_str).collect();
    b.op_named("Sum", &terms, &[], LOSS)?;
    Ok((b.finish(), cotangents))
}

/// The model with `dtype` in place of every floating type.
fn in_type(model: &Graph, dtype: DataType) -> Graph {
    let mut graph = model.clone();
    let kept: BTreeSet<&str> = model
        .nodes
        .iter()
        .flat_map(|n| ALWAYS_F32.iter().filter(|(op, _)| *op == n.op).filter_map(|(_, i)| n.input(*i)))
        .collect();
    for info in graph.inputs.iter_mut().chain(&mut graph.outputs).filter(|i| i.dtype.is_float()) {
        info.dtype = dtype;
    }
    for (name, tensor) in &mut graph.initializers {
        if !kept.contains(name.as_str()) {
            *tensor = in_type_tensor(tensor, dtype);
        }
    }
    for node in &mut graph.nodes {
        let stays = node.output(0).is_some_and(|o| kept.contains(o));
        for (name, value) in std::mem::take(&mut node.attributes) {
            let (name, value) = match (name.as_str(), value) {
                (_, value) if stays => (name, value),
                ("value_float", Attribute::Float(v)) if node.op == "Constant" => {
                    ("value".to_owned(), in_type_tensor(&Tensor::from_f32(&[], &[v]), dtype).into())
                }
                ("value_floats", Attribute::Floats(v)) if node.op == "Constant" => {
                    ("value".to_owned(), in_type_tensor(&Tensor::from_f32(&[v.len()], &v), dtype).into())
                }
                ("to" | "dtype" | "output_datatype", Attribute::Int(1 | 10 | 11 | 16)) => {
                    (name, Attribute::Int(if dtype == DataType::F64 { 11 } else { 1 }))
                }
                (_, Attribute::Tensor(t)) => (name, in_type_tensor(&t, dtype).into()),
                (_, value) => (name, value),
            };
            node.attributes.insert(name, value);
        }
    }
    graph
}

/// A floating tensor as `dtype`; any other as it is.
fn in_type_tensor(tensor: &Tensor, dtype: DataType) -> Tensor {
    match compare::floats(tensor) {
        Some(values) if tensor.dtype.is_float() => compare::tensor(dtype, &tensor.dims, &values),
        _ => tensor.clone(),
    }
}
