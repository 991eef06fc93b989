//! The table of derivative rules: operator, opsets, rule, inputs that never get a gradient, and how the
//! forward node is written in training where its derivative needs values that the plain node hides.
//!
//! A rule is a vector-Jacobian product: given `dy(i)`, the gradients of the loss with respect to the node's
//! outputs, it emits nodes that compute `dx(i)`, those with respect to its inputs.

mod conv;
mod elementwise;
mod matmul;
mod movement;
mod norm;
mod pool;
mod reduce;
mod softmax;
mod window;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::builder::Builder;
use crate::emit;
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

    /// Sets the gradient of the `i`-th input to `gradient`, summed over the axes that broadcasting repeated.
    pub fn set_dx_summed(&mut self, i: usize, gradient: &str) -> Result<(), GradError> {
        let shape = self.x_shape(i)?;
        let summed = emit::unbroadcast(self.g, gradient, &shape)?;
        self.set_dx(i, summed);
        Ok(())
    }

    /// `x` where the boolean `mask` is true, else zero. On ONNX Runtime's CPU provider a product with the
    /// mask is faster than `Where` with a scalar.
    pub fn masked(&mut self, x: &str, mask: &str) -> Result<String, GradError> {
        let dtype = self.g.value(x)?.dtype;
        let mask = emit::cast(self.g, mask, dtype)?;
        self.op("Mul", &[x, &mask], &[])
    }

    /// Content of the `i`-th input, which must be known when the graph is derived.
    pub fn const_ints(&self, i: usize) -> Result<Vec<i64>, GradError> {
        emit::const_ints(self.g, self.x(i)).ok_or_else(|| {
            let expected = format!("input {i} to be a constant");
            emit::shape_error(self.node, expected, format!("`{}`, which is computed", self.x(i)))
        })
    }

    pub fn finish(self) -> Vec<Option<String>> {
        self.dx
    }
}

/// The rule for `node` at `opset`, if there is one.
pub(crate) fn entry(node: &Node, opset: u32) -> Option<&'static Entry> {
    TABLE.iter().find(|e| e.op == node.op && node.domain.is_empty() && e.opsets.contains(&opset))
}

/// Versions of `ai.onnx` that we read.
pub(crate) const OPSETS: RangeInclusive<u32> = 13..=21;

const fn plain(op: &'static str, rule: Rule) -> Entry {
    Entry { op, opsets: OPSETS, rule, stop: &[], lower: None }
}

const fn stopped(op: &'static str, rule: Rule, stop: &'static [usize]) -> Entry {
    Entry { stop, ..plain(op, rule) }
}

const fn lowered(op: &'static str, rule: Rule, stop: &'static [usize], lower: Lower) -> Entry {
    Entry { lower: Some(lower), ..stopped(op, rule, stop) }
}

/// Every operator that can be differentiated.
pub(crate) static TABLE: &[Entry] = &[
    plain("Add", elementwise::sum),
    plain("Sub", elementwise::sub),
    plain("Mul", elementwise::mul),
    plain("Div", elementwise::div),
    plain("Neg", elementwise::neg),
    plain("Sqrt", elementwise::sqrt),
    plain("Exp", elementwise::exp),
    plain("Log", elementwise::log),
    plain("Pow", elementwise::pow),
    plain("Relu", elementwise::relu),
    plain("Sigmoid", elementwise::sigmoid),
    plain("Tanh", elementwise::tanh),
    plain("Identity", elementwise::identity),
    plain("Cast", elementwise::cast),
    plain("Sum", elementwise::sum),
    plain("Max", elementwise::extremum),
    plain("Min", elementwise::extremum),
    stopped("Clip", elementwise::clip, &[1, 2]),
    stopped("Where", elementwise::r#where, &[0]),
    lowered("Dropout", elementwise::identity, &[1, 2], elementwise::lower_dropout),
    plain("MatMul", matmul::matmul),
    plain("Gemm", matmul::gemm),
    plain("Softmax", softmax::softmax),
    plain("LogSoftmax", softmax::log_softmax),
    stopped("ReduceSum", reduce::sum, &[1]),
    stopped("ReduceMean", reduce::mean, &[1]),
    stopped("ReduceMax", reduce::extremum, &[1]),
    stopped("ReduceMin", reduce::extremum, &[1]),
    plain("GlobalAveragePool", reduce::global_average),
    plain("GlobalMaxPool", reduce::global_max),
    stopped("Reshape", movement::reshape, &[1]),
    plain("Flatten", movement::reshape),
    stopped("Squeeze", movement::reshape, &[1]),
    stopped("Unsqueeze", movement::reshape, &[1]),
    plain("Transpose", movement::transpose),
    plain("Concat", movement::concat),
    stopped("Split", movement::split, &[1]),
    stopped("Slice", movement::slice, &[1, 2, 3, 4]),
    stopped("Pad", movement::pad, &[1, 2, 3]),
    stopped("Expand", movement::expand, &[1]),
    stopped("Gather", movement::gather, &[1]),
    lowered("Conv", conv::conv, &[], conv::lower),
    plain("AveragePool", pool::average),
    lowered("MaxPool", pool::max, &[], pool::lower_max),
    lowered("BatchNormalization", norm::batch_norm, &[3, 4], norm::lower),
];
