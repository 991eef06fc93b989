//! The table of derivative rules: operator, opsets, rule, inputs that never get a gradient, and how the
//! forward node is written in training where its derivative needs values that the plain node hides.
//!
//! A rule is a vector-Jacobian product: given `dy(i)`, the gradients of the loss with respect to the node's
//! outputs, it emits nodes that compute `dx(i)`, those with respect to its inputs.

mod activation;
mod conv;
mod conv_transpose;
mod depthwise;
mod dropout;
mod einsum;
mod elementwise;
mod generate;
mod index;
mod instance_norm;
mod layer_norm;
mod linear;
mod lrn;
mod matmul;
mod movement;
mod norm;
mod pad;
mod pool;
mod reduce;
mod resize;
mod select;
mod slice;
mod softmax;
mod trigonometry;
mod window;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{Attribute, Node, Shape};

/// Emits the nodes that compute the input gradients of one forward node.
pub(crate) type Rule = fn(&mut Vjp<'_>) -> Result<(), GradError>;

/// Writes one forward node as nodes that all have rules, the node's own output names among theirs.
pub(crate) type Decompose = fn(&mut Builder, &Node) -> Result<(), GradError>;

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

/// What `Dropout` nodes do in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dropout {
    /// Nothing, as in inference: a student is compared with a teacher that drops nothing.
    #[default]
    Off,
    /// Drop what the int64 input `seed` decides.
    Seeded,
}

/// Training-time choices that a lowering may depend on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mode {
    pub batch_norm: BatchNorm,
    pub dropout: Dropout,
}

/// What a lowering leaves behind. The node's own output names must have been emitted.
#[derive(Debug, Default)]
pub(crate) struct Lowered {
    /// Values that the rule reads with [`Vjp::saved`].
    pub saved: BTreeMap<&'static str, String>,
    /// (initialiser, value it has after this step): running statistics.
    pub next_state: Vec<(String, String)>,
}

impl Lowered {
    fn saving<const N: usize>(saved: [(&'static str, String); N]) -> Self {
        Lowered { saved: BTreeMap::from(saved), next_state: Vec::new() }
    }
}

/// How an operator is differentiated.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// By its rule.
    Rule(Rule),
    /// By its rule, after it is written in another form that keeps what the rule needs.
    Lowered(Lower, Rule),
    /// By the rules of the operators that it is written as.
    Decomposed(Decompose),
    /// Not at all: the output is constant wherever it is smooth, or no floating number. Nothing behind it learns.
    Constant,
}

/// One line of the table.
pub(crate) struct Entry {
    pub op: &'static str,
    /// Versions of `ai.onnx` in which the rule holds.
    pub opsets: RangeInclusive<u32>,
    pub how: How,
    /// Inputs that never get a gradient: indices, shapes, axes.
    pub stop: &'static [usize],
    /// Where the derivative does not exist, and what is taken there.
    pub undefined: &'static str,
}

impl Entry {
    const fn new(op: &'static str, how: How) -> Self {
        Entry { op, opsets: OPSETS, how, stop: &[], undefined: "" }
    }

    const fn stop(self, stop: &'static [usize]) -> Self {
        Entry { stop, ..self }
    }

    const fn since(self, opset: u32) -> Self {
        Entry { opsets: opset..=*OPSETS.end(), ..self }
    }

    const fn undefined(self, undefined: &'static str) -> Self {
        Entry { undefined, ..self }
    }

    /// Whether the `i`-th input never gets a gradient.
    pub fn stops(&self, i: usize) -> bool {
        matches!(self.how, How::Constant) || self.stop.contains(&i)
    }
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

    /// A value that the lowering keeps in every case.
    pub fn saved(&self, key: &'static str) -> &'a str {
        self.saved_if_any(key).expect("invariant: the lowering saves it whatever the node is")
    }

    /// A value that the lowering keeps in some cases.
    pub fn saved_if_any(&self, key: &'static str) -> Option<&'a str> {
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

    /// Sets the gradient of the first input to dy times `slope`, y being a function of each element by itself.
    pub fn set_dx_by_slope(&mut self, slope: &str) -> Result<(), GradError> {
        let dx = self.op("Mul", &[&self.dy(), slope], &[])?;
        self.set_dx(0, dx);
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

const fn rule(op: &'static str, rule: Rule) -> Entry {
    Entry::new(op, How::Rule(rule))
}

const fn lowered(op: &'static str, rule: Rule, lower: Lower) -> Entry {
    Entry::new(op, How::Lowered(lower, rule))
}

const fn decomposed(op: &'static str, decompose: Decompose) -> Entry {
    Entry::new(op, How::Decomposed(decompose))
}

const fn constant(op: &'static str) -> Entry {
    Entry::new(op, How::Constant)
}

/// Every operator that can be differentiated, and those that are known to have no derivative.
pub(crate) static TABLE: &[Entry] = &[
    // Arithmetic.
    rule("Add", elementwise::sum),
    rule("Div", elementwise::div).undefined("where the divisor is 0"),
    rule("Max", elementwise::extremum).undefined("where inputs are equal: shared evenly"),
    rule("Mean", elementwise::mean),
    rule("Min", elementwise::extremum).undefined("where inputs are equal: shared evenly"),
    rule("Mod", elementwise::modulo).undefined("at multiples of the divisor: the dividend's 1"),
    rule("Mul", elementwise::mul),
    rule("Neg", elementwise::neg),
    rule("Pow", elementwise::pow).undefined(
        "base 0 with an exponent below 1; the exponent's where the base is negative, and at base 0: 0",
    ),
    rule("Sub", elementwise::sub),
    rule("Sum", elementwise::sum),
    // Functions of one variable.
    rule("Abs", elementwise::abs).undefined("at 0: 0"),
    rule("Acos", trigonometry::acos).undefined("at -1 and 1"),
    rule("Acosh", trigonometry::acosh).undefined("at 1"),
    rule("Asin", trigonometry::asin).undefined("at -1 and 1"),
    rule("Asinh", trigonometry::asinh),
    rule("Atan", trigonometry::atan),
    rule("Atanh", trigonometry::atanh).undefined("at -1 and 1"),
    rule("Cast", elementwise::cast),
    rule("CastLike", elementwise::cast).stop(&[1]),
    rule("Cos", trigonometry::cos),
    rule("Cosh", trigonometry::cosh),
    rule("Erf", activation::erf),
    rule("Exp", elementwise::exp),
    rule("Identity", elementwise::identity),
    rule("Log", elementwise::log).undefined("at 0"),
    rule("Reciprocal", elementwise::reciprocal).undefined("at 0"),
    rule("Sigmoid", elementwise::sigmoid),
    rule("Sin", trigonometry::sin),
    rule("Sinh", trigonometry::sinh),
    rule("Sqrt", elementwise::sqrt).undefined("at 0"),
    rule("Tan", trigonometry::tan).undefined("at the poles"),
    rule("Tanh", elementwise::tanh),
    rule("Where", elementwise::r#where).stop(&[0]),
    lowered("Dropout", dropout::dropout, dropout::lower).stop(&[1, 2]),
    // Activation functions. At a kink they take what PyTorch takes.
    rule("Clip", activation::clip).undefined("at the bounds: 0, and the bound takes all"),
    rule("Gelu", activation::gelu).since(20),
    rule("HardSigmoid", activation::hard_sigmoid).undefined("where it reaches 0 or 1: 0"),
    rule("LeakyRelu", activation::leaky_relu).undefined("at 0: alpha"),
    rule("Relu", activation::relu).undefined("at 0: 0"),
    rule("Softplus", activation::softplus),
    rule("Softsign", activation::softsign),
    rule("ThresholdedRelu", activation::thresholded_relu).undefined("at alpha: 0"),
    lowered("Celu", activation::exponential, activation::lower_exponential),
    lowered("Elu", activation::exponential, activation::lower_exponential).undefined("at 0: alpha"),
    lowered("HardSwish", activation::hard_swish, activation::lower_hard_swish)
        .since(14)
        .undefined("at -3: 0; at 3: 1"),
    lowered("Mish", activation::mish, activation::lower_mish).since(18),
    lowered("PRelu", activation::prelu, activation::lower_prelu).undefined("at 0: the slope"),
    lowered("Selu", activation::exponential, activation::lower_exponential).undefined("at 0: alpha gamma"),
    // Products and sliding windows.
    rule("ConvTranspose", conv_transpose::conv_transpose),
    rule("Einsum", einsum::einsum),
    rule("Gemm", matmul::gemm),
    rule("MatMul", matmul::matmul),
    lowered("AveragePool", pool::average, pool::lower),
    lowered("Conv", conv::conv, conv::lower),
    lowered("LpPool", pool::lp, pool::lower).undefined("where a norm is 0: 0"),
    lowered("MaxPool", pool::max, pool::lower_max)
        .undefined("where elements of a window are equal: the first takes all"),
    // Normalisation.
    decomposed("GroupNormalization", instance_norm::group).since(18),
    decomposed("InstanceNormalization", instance_norm::instance),
    decomposed("MeanVarianceNormalization", instance_norm::mean_variance)
        .undefined("where all values are equal"),
    lowered("BatchNormalization", norm::batch_norm, norm::lower).stop(&[3, 4]),
    lowered("LayerNormalization", layer_norm::layer_norm, layer_norm::lower).since(17),
    rule("LRN", lrn::lrn),
    rule("LogSoftmax", softmax::log_softmax),
    rule("LpNormalization", lrn::lp_normalization).undefined("at norm 0: 0"),
    rule("Softmax", softmax::softmax),
    // Reductions.
    rule("GlobalAveragePool", reduce::global_average),
    rule("GlobalLpPool", pool::global_lp).undefined("where a norm is 0: 0"),
    rule("GlobalMaxPool", reduce::global_max).undefined("where elements are equal: shared evenly"),
    rule("ReduceL1", reduce::l1).stop(&[1]).undefined("where an element is 0: 0"),
    rule("ReduceL2", reduce::l2).stop(&[1]).undefined("where all elements are 0: 0"),
    rule("ReduceLogSum", reduce::log_sum).stop(&[1]).undefined("where the sum is 0"),
    rule("ReduceLogSumExp", reduce::log_sum_exp).stop(&[1]),
    rule("ReduceMax", reduce::extremum).stop(&[1]).undefined("where elements are equal: shared evenly"),
    rule("ReduceMean", reduce::mean).stop(&[1]),
    rule("ReduceMin", reduce::extremum).stop(&[1]).undefined("where elements are equal: shared evenly"),
    rule("ReduceProd", reduce::product).stop(&[1]),
    rule("ReduceSum", reduce::sum).stop(&[1]),
    rule("ReduceSumSquare", reduce::sum_square).stop(&[1]),
    // Movement.
    rule("Compress", index::compress).stop(&[1]),
    rule("Concat", movement::concat),
    rule("CumSum", select::cumulative_sum).stop(&[1]),
    rule("DepthToSpace", movement::depth_to_space),
    rule("Expand", movement::expand).stop(&[1]),
    rule("Flatten", movement::reshape),
    rule("Gather", index::gather).stop(&[1]),
    rule("GatherElements", index::gather_elements).stop(&[1]),
    rule("GatherND", index::gather_nd).stop(&[1]),
    rule("OneHot", generate::one_hot).stop(&[0, 1]),
    rule("Pad", pad::pad).stop(&[1, 3]),
    rule("Range", generate::range).stop(&[1]).undefined("where a step reaches the limit exactly"),
    rule("Reshape", movement::reshape).stop(&[1]),
    rule("Resize", resize::resize).stop(&[1, 2, 3]),
    rule("ReverseSequence", movement::reverse_sequence).stop(&[1]),
    rule("ScatterElements", index::scatter_elements)
        .stop(&[1])
        .undefined("where an element is written twice, without a reduction: every update gets its gradient"),
    rule("ScatterND", index::scatter_nd)
        .stop(&[1])
        .undefined("where an element is written twice, without a reduction: every update gets its gradient"),
    rule("Slice", slice::slice).stop(&[1, 2, 3, 4]),
    rule("SpaceToDepth", movement::space_to_depth),
    rule("Split", movement::split).stop(&[1]),
    rule("Squeeze", movement::reshape).stop(&[1]),
    rule("Tile", movement::tile).stop(&[1]),
    rule("Transpose", movement::transpose),
    rule("Trilu", select::triangle).stop(&[1]),
    rule("Unsqueeze", movement::reshape).stop(&[1]),
    lowered("TopK", select::top_k, select::lower_top_k)
        .stop(&[1])
        .undefined("where elements are equal: those that the operator takes"),
    // Constant wherever they are smooth, or no floating numbers.
    constant("And"),
    constant("ArgMax"),
    constant("ArgMin"),
    constant("Bernoulli"),
    constant("BitShift"),
    constant("BitwiseAnd"),
    constant("BitwiseNot"),
    constant("BitwiseOr"),
    constant("BitwiseXor"),
    constant("Ceil"),
    constant("Equal"),
    constant("EyeLike"),
    constant("Floor"),
    constant("Greater"),
    constant("GreaterOrEqual"),
    constant("IsInf"),
    constant("IsNaN"),
    constant("Less"),
    constant("LessOrEqual"),
    constant("NonZero"),
    constant("Not"),
    constant("Or"),
    constant("RandomNormal"),
    constant("RandomNormalLike"),
    constant("RandomUniform"),
    constant("RandomUniformLike"),
    constant("Round"),
    constant("Shape"),
    constant("Sign"),
    constant("Size"),
    constant("Xor"),
];
