//! The table of derivative rules: operator, opsets, rule, inputs that never get a gradient, and how the
//! forward node is written in training where its derivative needs values that the plain node hides.
//!
//! A rule is a vector-Jacobian product: given `dy(i)`, the gradients of the loss with respect to the node's
//! outputs, it emits nodes that compute `dx(i)`, those with respect to its inputs.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::builder::Builder;
use crate::error::GradError;
use crate::graph::{Attribute, Node, Shape};

/// Emits the nodes that compute the input gradients of one forward node.
pub(crate) type Rule = fn(&mut Vjp<'_>) -> Result<(), GradError>;

/// Writes one forward node for training in another form, which keeps what its rule needs.
pub(crate) type Lower = fn(&mut Builder, &Node, &Mode) -> Result<Lowered, GradError>;

/// How training differs from inference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchNorm {
    /// Normalise by the mini-batch's statistics and update the running ones, as PyTorch's `train()` does.
    #[default]
    Train,
    /// Normalise by the running statistics, which stay as they are.
    Frozen,
}

/// Training-time choices that a lowering may depend on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mode {
    pub batch_norm: BatchNorm,
}

/// What a lowering leaves behind. The node's own output names must have been emitted.
#[derive(Debug, Default)]
pub(crate) struct Lowered {
    /// Values that the rule reads with [`Vjp::saved`].
    pub saved: BTreeMap<&'static str, String>,
    /// (initialiser, value it has after this step): running statistics.
    pub next_state: Vec<(String, String)>,
}

/// One line of the table.
pub(crate) struct Entry {
    pub op: &'static str,
    /// Versions of `ai.onnx` in which the rule holds.
    pub opsets: RangeInclusive<u32>,
    pub rule: Rule,
    /// Inputs that never get a gradient: indices, shapes, axes.
    pub stop: &'static [usize],
    pub lower: Option<Lower>,
}

/// The rule's vocabulary for one forward node.
pub(crate) struct Vjp<'a> {
    /// Where nodes are emitted; its scope is set to the forward node's name followed by `.grad`.
    pub g: &'a mut Builder,
    pub node: &'a Node,
    dy: Vec<Option<String>>,
    needs: Vec<bool>,
    saved: &'a BTreeMap<&'static str, String>,
    dx: Vec<Option<String>>,
}

impl<'a> Vjp<'a> {
    pub fn new(
        g: &'a mut Builder,
        node: &'a Node,
        dy: Vec<Option<String>>,
        needs: Vec<bool>,
        saved: &'a BTreeMap<&'static str, String>,
    ) -> Self {
        let dx = vec![None; node.inputs.len()];
        Vjp { g, node, dy, needs, saved, dx }
    }

    /// Name of the `i`-th forward input.
    pub fn x(&self, i: usize) -> &'a str {
        &self.node.inputs[i]
    }

    /// Name of the `i`-th forward output.
    pub fn y(&self, i: usize) -> &'a str {
        &self.node.outputs[i]
    }

    /// Gradient with respect to the first output; the walk calls a rule only where there is one.
    pub fn dy(&self) -> String {
        self.dy[0].clone().expect("invariant: a rule with one output is called with its gradient")
    }

    /// Gradient with respect to the `i`-th output, if anything depends on it.
    #[allow(dead_code)]
    pub fn dy_at(&self, i: usize) -> Option<&str> {
        self.dy.get(i).and_then(|d| d.as_deref())
    }

    /// Whether the gradient of the `i`-th input is wanted.
    pub fn needs(&self, i: usize) -> bool {
        self.needs.get(i).copied().unwrap_or(false)
    }

    /// A value kept by the lowering.
    pub fn saved(&self, key: &'static str) -> Option<&'a str> {
        self.saved.get(key).map(String::as_str)
    }

    pub fn x_shape(&self, i: usize) -> Result<Shape, GradError> {
        Ok(self.g.shape(&self.node.inputs[i])?.clone())
    }

    pub fn y_shape(&self, i: usize) -> Result<Shape, GradError> {
        Ok(self.g.shape(&self.node.outputs[i])?.clone())
    }

    /// Emits a node with one output.
    pub fn op(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> Result<String, GradError> {
        self.g.op(op, inputs, attributes)
    }

    /// Sets the gradient of the `i`-th input. Its shape must be the input's.
    pub fn set_dx(&mut self, i: usize, gradient: String) {
        self.dx[i] = Some(gradient);
    }

    pub fn finish(self) -> Vec<Option<String>> {
        self.dx
    }
}

/// The rule for `op` at `opset`, if there is one.
pub(crate) fn entry(op: &str, opset: u32) -> Option<&'static Entry> {
    TABLE.iter().find(|e| e.op == op && e.opsets.contains(&opset))
}

/// Every operator that can be differentiated.
pub(crate) static TABLE: &[Entry] = &[];
