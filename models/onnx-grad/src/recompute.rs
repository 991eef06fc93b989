//! Recomputation: activations of chosen segments are not kept from the forward pass but computed once more when
//! the reverse walk comes to them (Chen et al. 2016, "Training deep nets with sublinear memory cost").

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{Node, Tensor};
use crate::reverse;
use crate::vjp::Mode;

/// Ends the names of nodes and values of a second computation.
pub(crate) const RECOMPUTED: &str = ".recomputed";

/// Operators that give something else when they run again: their results are kept.
const DRAWS: &[&str] =
    &["Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"];

/// Which forward nodes run twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Recompute {
    /// None: every activation that a derivative needs is kept.
    #[default]
    Nothing,
    /// One segment for each glob pattern: the nodes whose name, or the name of whose output, it matches.
    Matching(Vec<glob::Pattern>),
    /// So many segments of equally many nodes. The last is kept: its activations are needed at once.
    Parts(usize),
}

/// The segments of a list of nodes.
pub(crate) struct Plan {
    /// Segment of a node, by its position.
    segment_of: HashMap<usize, usize>,
    /// Positions of a segment's nodes, in order.
    members: HashMap<usize, Vec<usize>>,
    /// New names of a segment's values and what its lowered nodes saved, once it has been computed again.
    done: HashMap<usize, Recomputed>,
}

/// A segment that has been computed again.
pub(crate) struct Recomputed {
    /// New name by old name.
    names: HashMap<String, String>,
    /// What lowered nodes keep for their rules, by the node's first output.
    pub saved: HashMap<String, BTreeMap<&'static str, String>>,
}

impl Recomputed {
    /// The node as it stands in the second computation.
    pub(crate) fn node(&self, node: &Node) -> Node {
        let mut node = node.clone();
        for name in node.inputs.iter_mut().chain(&mut node.outputs) {
            if let Some(new) = self.names.get(name) {
                name.clone_from(new);
            }
        }
        node
    }
}

impl Plan {
    /// # Errors
    /// [`GradError::NothingToRecompute`] for a pattern that matches no node.
    pub(crate) fn new(recompute: &Recompute, nodes: &[Node]) -> Result<Self, GradError> {
        let mut segment_of = HashMap::new();
        match recompute {
            Recompute::Nothing => {}
            Recompute::Matching(patterns) => {
                for (segment, pattern) in patterns.iter().enumerate() {
                    let matches = |node: &Node| {
                        pattern.matches(&node.name) || node.outputs.iter().any(|o| pattern.matches(o))
                    };
                    let before = segment_of.len();
                    for (i, _) in nodes.iter().enumerate().filter(|(_, node)| matches(node)) {
                        segment_of.entry(i).or_insert(segment);
                    }
                    if segment_of.len() == before {
                        return Err(GradError::NothingToRecompute { pattern: pattern.as_str().to_owned() });
                    }
                }
            }
            Recompute::Parts(parts) => {
                let size = nodes.len().div_ceil((*parts).max(1)).max(1);
                let n_recomputed = nodes.len().saturating_sub(1) / size * size;
                segment_of.extend((0..n_recomputed).map(|i| (i, i / size)));
            }
        }
        segment_of.retain(|&i, _| !DRAWS.contains(&nodes[i].op.as_str()));
        let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
        for i in 0..nodes.len() {
            if let Some(&segment) = segment_of.get(&i) {
                members.entry(segment).or_default().push(i);
            }
        }
        Ok(Plan { segment_of, members, done: HashMap::new() })
    }

    /// The second computation of the segment that node `i` is in, emitted when it is first asked for.
    ///
    /// `on_path` are the values that gradients pass through: their nodes are lowered, as in the first computation.
    /// `dy` is a gradient that is known by now. What enters the segment has a zero made from it added, so that a
    /// runtime can neither compute the segment before nor merge it with the first computation.
    pub(crate) fn recomputed(
        &mut self,
        b: &mut Builder,
        nodes: &[Node],
        i: usize,
        dy: &str,
        on_path: &HashSet<&str>,
        mode: &Mode,
    ) -> Result<Option<&Recomputed>, GradError> {
        let Some(&segment) = self.segment_of.get(&i) else { return Ok(None) };
        if !self.done.contains_key(&segment) {
            let members: Vec<&Node> = self.members[&segment].iter().map(|&i| &nodes[i]).collect();
            let recomputed = compute_again(b, &members, segment, dy, on_path, mode)?;
            self.done.insert(segment, recomputed);
        }
        Ok(self.done.get(&segment))
    }
}

fn compute_again(
    b: &mut Builder,
    members: &[&Node],
    segment: usize,
    dy: &str,
    on_path: &HashSet<&str>,
    mode: &Mode,
) -> Result<Recomputed, GradError> {
    b.set_scope(&format!("recompute_{segment}"));
    let inner: HashSet<&String> = members.iter().flat_map(|n| &n.outputs).filter(|o| !o.is_empty()).collect();
    let mut again = Recomputed { names: HashMap::new(), saved: HashMap::new() };
    let flat = emit::reshape(b, dy, &[-1])?;
    let first = b.constant(Tensor::from_i64(&[], &[0]))?;
    let first = b.op("Gather", &[&flat, &first], &[])?;
    let dtype = b.value(dy)?.dtype;
    let zero = b.scalar(dtype, 0.0)?;
    let zero = b.op("Clip", &[&first, &zero, &zero], &[])?;
    for node in members {
        for input in node.inputs.iter().filter(|i| !i.is_empty()) {
            let is_parameter = b.constant_content(input).is_some();
            if inner.contains(input) || is_parameter || again.names.contains_key(input) {
                continue;
            }
            let dtype = b.value(input)?.dtype;
            if dtype.is_float() {
                let zero =
                    if b.value(&zero)?.dtype == dtype { zero.clone() } else { emit::cast(b, &zero, dtype)? };
                let entry = b.op("Add", &[input, &zero], &[])?;
                again.names.insert(input.clone(), entry);
            }
        }
        for output in node.outputs.iter().filter(|o| !o.is_empty()) {
            again.names.insert(output.clone(), format!("{output}{RECOMPUTED}"));
        }
        let copy = Node { name: format!("{}{RECOMPUTED}", node.name), ..again.node(node) };
        // Statistics that the second computation moves are left behind: the first one's count.
        let on_path = node.outputs.iter().any(|o| on_path.contains(o.as_str()));
        let lowered = reverse::emit_forward(b, &copy, on_path, mode)?;
        again.saved.insert(node.first_output().to_owned(), lowered.saved);
    }
    Ok(again)
}
