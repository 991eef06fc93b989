//! For checking rules, ours and those to come: which there are, and the bare derivative of any scalar.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::error::GradError;
use crate::graph::Graph;
use crate::reverse;
use crate::vjp::{self, BatchNorm, Mode};

/// One line of the table of derivative rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub op: &'static str,
    /// Versions of `ai.onnx` in which the rule holds.
    pub opsets: RangeInclusive<u32>,
    /// Inputs that never get a gradient.
    pub stop: &'static [usize],
    /// Whether training writes the node in another form.
    pub lowered: bool,
}

/// Every rule, in the order of the table.
pub fn rules() -> Vec<Rule> {
    vjp::TABLE
        .iter()
        .map(|e| Rule { op: e.op, opsets: e.opsets.clone(), stop: e.stop, lowered: e.lower.is_some() })
        .collect()
}

/// The graph in its training form with the outputs it has, and after them, for every name in `values`, the
/// gradient of the scalar `loss` as `<name>.grad`.
///
/// # Errors
/// As [`crate::derive`].
pub fn gradients(
    graph: &Graph,
    loss: &str,
    values: &[&str],
    batch_norm: BatchNorm,
) -> Result<Graph, GradError> {
    let values: BTreeSet<&str> = values.iter().copied().collect();
    let outputs: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
    let wanted = [&[loss], outputs.as_slice()].concat();
    let mut forward = reverse::copy_forward(graph, graph.opset, &wanted, &values, &Mode { batch_norm })?;
    let gradients = reverse::differentiate(&mut forward, loss, &values)?;
    let b = &mut forward.builder;
    for output in outputs {
        b.output(output)?;
    }
    for (value, gradient) in gradients {
        let name = format!("{value}.grad");
        if gradient != name {
            b.op_named("Identity", &[&gradient], &[], &name)?;
        }
        b.output(&name)?;
    }
    Ok(forward.builder.finish())
}
