//! For checking rules, ours and those to come: which there are, and the bare derivative of any scalar.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::derive::MIN_OPSET;
use crate::error::GradError;
use crate::graph::Graph;
use crate::recompute::Recompute;
use crate::vjp::{self, BatchNorm, How, Mode};
use crate::{reverse, shape};

/// One line of the table of derivative rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub op: &'static str,
    /// Versions of `ai.onnx` in which the rule holds.
    pub opsets: RangeInclusive<u32>,
    /// Inputs that never get a gradient.
    pub stop: &'static [usize],
    pub how: Derivative,
    /// Where the derivative does not exist, and what is taken there.
    pub undefined: &'static str,
}

/// How an operator is differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivative {
    /// By a rule for the node as it is.
    Rule,
    /// By a rule, after the node is written in another form that keeps what the rule needs.
    Lowered,
    /// By the rules of the operators that it is written as.
    Decomposed,
    /// Constant wherever it is smooth, or no floating number: nothing behind it learns.
    Constant,
}

/// The table, in its order.
pub fn rules() -> Vec<Rule> {
    let how = |how| match how {
        How::Rule(_) => Derivative::Rule,
        How::Lowered(..) => Derivative::Lowered,
        How::Decomposed(_) => Derivative::Decomposed,
        How::Constant => Derivative::Constant,
    };
    let rule = |e: &vjp::Entry| Rule {
        op: e.op,
        opsets: e.opsets.clone(),
        stop: e.stop,
        how: how(e.how),
        undefined: e.undefined,
    };
    vjp::TABLE.iter().map(rule).collect()
}

/// Every operator whose shapes are known: those that a graph may hold.
pub fn operators() -> impl Iterator<Item = &'static str> {
    shape::operators()
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
    let opset = graph.opset.max(MIN_OPSET);
    let mut forward =
        reverse::copy_forward(graph, opset, &wanted, &values, &Mode { batch_norm, ..Mode::default() })?;
    let mut gradients = reverse::differentiate(&mut forward, loss, None, &values, &Recompute::Nothing)?;
    gradients.sort_unstable();
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
