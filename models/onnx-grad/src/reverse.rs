//! The reverse walk: from the loss back to the trained parameters, one rule call per node.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::builder::{self, Builder};
use crate::emit;
use crate::error::{GradError, UnsupportedNode};
use crate::gradients::Gradients;
use crate::graph::{Graph, Node};
use crate::recompute::{Plan, Recompute};
use crate::vjp::{self, How, Lowered, Mode, Vjp};

/// A forward graph copied for training, with what its lowered nodes keep.
pub(crate) struct Forward {
    pub builder: Builder,
    /// The original nodes that are copied, in order: those that the wanted values depend on.
    nodes: Vec<Node>,
    /// What a lowered node keeps for its rule, by its first output: other nodes may have its name.
    saved: HashMap<String, BTreeMap<&'static str, String>>,
    /// (initialiser, value after the step).
    pub next_state: Vec<(String, String)>,
    mode: Mode,
}

/// Emits a forward node, lowered if gradients pass through it and the table says so.
pub(crate) fn emit_forward(
    builder: &mut Builder,
    node: &Node,
    on_path: bool,
    mode: &Mode,
) -> Result<Lowered, GradError> {
    match vjp::entry(node, builder.opset()).map(|entry| entry.how) {
        Some(How::Lowered(lower, _)) if on_path => {
            builder.infer(node)?;
            builder.set_scope(&node.name);
            lower(builder, node, mode)
        }
        _ => builder.push(node.clone()).map(|()| Lowered::default()),
    }
}

/// Copies the part of `graph` that `wanted` depends on, nodes decomposed or lowered where the table says so.
///
/// # Errors
/// [`GradError::Unsupported`] with every unknown operator; what shape inference or a lowering refuses.
pub(crate) fn copy_forward(
    graph: &Graph,
    opset: u32,
    wanted: &[&str],
    trained: &BTreeSet<&str>,
    mode: &Mode,
) -> Result<Forward, GradError> {
    let mut needed: HashSet<&str> = wanted.iter().copied().collect();
    let mut kept = Vec::new();
    for node in graph.nodes.iter().rev() {
        if node.outputs.iter().any(|o| needed.contains(o.as_str())) {
            needed.extend(node.inputs.iter().map(String::as_str).filter(|i| !i.is_empty()));
            kept.push(node.clone());
        }
    }
    kept.reverse();
    builder::refuse_unknown(&kept, opset)?;
    let empty = || -> Result<Builder, GradError> {
        let mut builder = Builder::new(&graph.name, opset);
        for input in &graph.inputs {
            builder.input(&input.name, input.dtype, input.shape.clone())?;
        }
        for (name, tensor) in &graph.initializers {
            if needed.contains(name.as_str()) {
                builder.initializer(name, tensor.clone())?;
            }
        }
        Ok(builder)
    };
    let is_decomposed =
        |node: &Node| vjp::entry(node, opset).is_some_and(|e| matches!(e.how, How::Decomposed(_)));
    let mut builder = empty()?;
    if kept.iter().any(is_decomposed) {
        let decomposed = decompose(empty()?, &kept, trained)?;
        // Constants that decompositions made.
        for (name, tensor) in decomposed.initializers {
            if !builder.has(&name) {
                builder.initializer(&name, tensor)?;
            }
        }
        kept = decomposed.nodes;
    }
    let on_path = depends_on(&kept, trained, opset);
    let mut saved = HashMap::new();
    let mut next_state: Vec<(String, String)> = Vec::new();
    for node in &kept {
        let on_path = node.outputs.iter().any(|o| on_path.contains(o.as_str()));
        let lowered = emit_forward(&mut builder, &after(node, &next_state), on_path, mode)?;
        saved.insert(node.first_output().to_owned(), lowered.saved);
        for (from, next) in lowered.next_state {
            match next_state.iter_mut().find(|(_, latest)| *latest == from) {
                Some((_, latest)) => *latest = next,
                None => next_state.push((from, next)),
            }
        }
    }
    Ok(Forward { builder, nodes: kept, saved, next_state, mode: *mode })
}

/// `node` with the latest value of every state that a node before it moves: a layer that a network calls twice
/// moves its running statistics twice, as in PyTorch.
fn after(node: &Node, next_state: &[(String, String)]) -> Node {
    let mut node = node.clone();
    for input in &mut node.inputs {
        if let Some((_, latest)) = next_state.iter().find(|(state, _)| state == input) {
            input.clone_from(latest);
        }
    }
    node
}

/// `nodes` with those that gradients pass through written as the table decomposes them.
fn decompose(mut builder: Builder, nodes: &[Node], trained: &BTreeSet<&str>) -> Result<Graph, GradError> {
    let on_path = depends_on(nodes, trained, builder.opset());
    for node in nodes {
        match vjp::entry(node, builder.opset()).map(|entry| entry.how) {
            Some(How::Decomposed(decompose)) if node.outputs.iter().any(|o| on_path.contains(o.as_str())) => {
                builder.set_scope(&node.name);
                builder.infer(node)?;
                decompose(&mut builder, node)?;
            }
            _ => builder.push(node.clone())?,
        }
    }
    Ok(builder.finish())
}

/// Values that depend on any of `sources` along inputs that can have gradients, the sources among them.
fn depends_on<'a>(nodes: &'a [Node], sources: &BTreeSet<&'a str>, opset: u32) -> HashSet<&'a str> {
    let mut reached: HashSet<&str> = sources.iter().copied().collect();
    for node in nodes {
        let entry = vjp::entry(node, opset);
        let mut inputs = node.inputs.iter().enumerate().filter(|(i, _)| !entry.is_some_and(|e| e.stops(*i)));
        if inputs.any(|(_, input)| reached.contains(input.as_str())) {
            reached.extend(node.outputs.iter().map(String::as_str).filter(|o| !o.is_empty()));
        }
    }
    reached
}

/// Emits the gradient of the scalar `loss`, times `seed` where it is given, with respect to each of `parameters`,
/// named `<parameter>.grad`.
///
/// # Errors
/// [`GradError::Unsupported`] with every node on the way that has no rule; [`GradError::NothingToRecompute`].
pub(crate) fn differentiate(
    forward: &mut Forward,
    loss: &str,
    seed: Option<&str>,
    parameters: &BTreeSet<&str>,
    recompute: &Recompute,
) -> Result<Gradients, GradError> {
    let Forward { builder, nodes, saved, mode, .. } = forward;
    let reached = depends_on(nodes, parameters, builder.opset());
    refuse_unsupported(builder, nodes, &reached, loss)?;
    let dtype = builder.value(loss)?.dtype;
    let seed = match seed {
        Some(seed) => seed.to_owned(),
        None => builder.scalar(dtype, 1.0)?,
    };
    let mut contributions: HashMap<String, Vec<String>> = HashMap::from([(loss.to_owned(), vec![seed])]);
    let nothing_saved = BTreeMap::new();
    let mut plan = Plan::new(recompute, nodes)?;
    for (position, node) in nodes.iter().enumerate().rev() {
        let mut dy = Vec::with_capacity(node.outputs.len());
        for output in &node.outputs {
            dy.push(accumulate(builder, output, &mut contributions)?);
        }
        if dy.iter().all(Option::is_none) {
            continue;
        }
        let Some(entry) = vjp::entry(node, builder.opset()) else { continue };
        let (How::Rule(rule) | How::Lowered(_, rule)) = entry.how else { continue };
        let mut needs = Vec::with_capacity(node.inputs.len());
        for (i, input) in node.inputs.iter().enumerate() {
            let wanted = reached.contains(input.as_str()) && !entry.stops(i);
            needs.push(wanted && builder.value(input)?.dtype.is_float());
        }
        if !needs.contains(&true) {
            continue;
        }
        let known = dy.iter().flatten().next().expect("invariant: some output has a gradient");
        let again = plan.recomputed(builder, nodes, position, known, &reached, mode)?;
        let copy = again.map(|again| again.node(node));
        let saved = again.map_or(&*saved, |again| &again.saved);
        let kept = saved.get(node.first_output()).unwrap_or(&nothing_saved);
        builder.set_scope(&format!("{}.grad", node.name));
        let mut vjp = Vjp::new(builder, copy.as_ref().unwrap_or(node), dy, needs.clone(), kept);
        rule(&mut vjp)?;
        for (i, (dx, needed)) in vjp.finish().into_iter().zip(needs).enumerate() {
            if let Some(dx) = dx.filter(|_| needed) {
                check_shape(builder, node, i, &dx)?;
                contributions.entry(node.inputs[i].clone()).or_default().push(dx);
            }
        }
    }
    let mut gradients = Vec::with_capacity(parameters.len());
    for parameter in by_first_use(nodes, parameters) {
        let gradient = accumulate(builder, parameter, &mut contributions)?
            .ok_or(GradError::NotTrainable { name: parameter.to_owned(), found: "one that does not" })?;
        gradients.push((parameter.to_owned(), gradient));
    }
    Ok(gradients)
}

/// The parameters in the order in which the nodes read them first.
fn by_first_use<'a>(nodes: &[Node], parameters: &BTreeSet<&'a str>) -> Vec<&'a str> {
    let mut first_use = HashMap::new();
    for (position, node) in nodes.iter().enumerate() {
        for input in &node.inputs {
            first_use.entry(input.as_str()).or_insert(position);
        }
    }
    let mut ordered: Vec<&str> = parameters.iter().copied().collect();
    ordered.sort_by_key(|parameter| first_use.get(parameter).copied().unwrap_or(nodes.len()));
    ordered
}

/// The nodes between the parameters and the loss that have no rule, all of them.
fn refuse_unsupported(
    builder: &Builder,
    nodes: &[Node],
    reached: &HashSet<&str>,
    loss: &str,
) -> Result<(), GradError> {
    let opset = builder.opset();
    let is_float = |value: &str| builder.value(value).is_ok_and(|v| v.dtype.is_float());
    let mut wanted = HashSet::from([loss]);
    let mut unsupported = Vec::new();
    for node in nodes.iter().rev() {
        let differentiated = node.outputs.iter().any(|o| wanted.contains(o.as_str()) && is_float(o));
        if !differentiated {
            continue;
        }
        let entry = vjp::entry(node, opset);
        let inputs: Vec<&str> = (0..)
            .zip(&node.inputs)
            .filter(|(i, input)| reached.contains(input.as_str()) && !entry.is_some_and(|e| e.stops(*i)))
            .map(|(_, input)| input.as_str())
            .collect();
        if entry.is_none() && !inputs.is_empty() {
            unsupported.push(UnsupportedNode::new(node, opset));
        }
        wanted.extend(inputs);
    }
    if unsupported.is_empty() {
        return Ok(());
    }
    unsupported.sort();
    Err(GradError::Unsupported(unsupported))
}

/// The gradient of `value` from all that depends on it, named `<value>.grad`.
fn accumulate(
    builder: &mut Builder,
    value: &str,
    contributions: &mut HashMap<String, Vec<String>>,
) -> Result<Option<String>, GradError> {
    let Some(parts) = contributions.remove(value) else { return Ok(None) };
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [only] => Ok(Some((*only).to_owned())),
        [_, _] => builder.op_named("Add", &parts, &[], &format!("{value}.grad")).map(Some),
        _ => builder.op_named("Sum", &parts, &[], &format!("{value}.grad")).map(Some),
    }
}

fn check_shape(builder: &Builder, node: &Node, input: usize, dx: &str) -> Result<(), GradError> {
    let expected = builder.shape(&node.inputs[input])?;
    let found = builder.shape(dx)?;
    // Symbols that stand for the same number may have different names on the two ways.
    let same = expected.len() == found.len()
        && expected.iter().zip(found).all(|(e, f)| match (e.size(), f.size()) {
            (Some(e), Some(f)) => e == f,
            _ => true,
        });
    if same {
        return Ok(());
    }
    Err(GradError::GradientShape {
        node: node.name.clone(),
        op: node.op.clone(),
        input,
        expected: emit::show(expected),
        found: emit::show(found),
    })
}
