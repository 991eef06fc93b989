//! Type and shape of every operator's outputs, as far as they are known before the graph runs.
//!
//! A table from operator to function; each function follows the shape section of the operator's page in the
//! ONNX specification. Integer contents (the result of `Shape`, the target of `Reshape`) are followed too
//! ([`fold`]), so that what PyTorch writes for a dynamic batch size keeps its meaning.

mod arity;
mod discrete;
mod einsum;
mod fold;
mod int;
mod layers;
mod movement;
mod resize;
mod select;

use crate::builder::Value;
use crate::emit::show;
use crate::error::GradError;
use crate::graph::{Attribute, DataType, Dim, Node, Shape, Tensor};
use crate::limits;
pub(crate) use einsum::{Equation, Label};
pub(crate) use int::Int;
pub(crate) use movement::{Picked, picked};

type Infer = fn(&Context<'_>) -> Result<Vec<Value>, GradError>;

/// Every operator that is read or emitted.
static TABLE: &[(&str, Infer)] = &[
    ("Abs", same),
    ("Acos", same),
    ("Acosh", same),
    ("Add", arithmetic),
    ("And", logical),
    ("ArgMax", discrete::arg_extremum),
    ("ArgMin", discrete::arg_extremum),
    ("Asin", same),
    ("Asinh", same),
    ("Atan", same),
    ("Atanh", same),
    ("AveragePool", layers::pool),
    ("BatchNormalization", same),
    ("Bernoulli", discrete::like),
    ("BitShift", discrete::shift),
    ("BitwiseAnd", discrete::bitwise),
    ("BitwiseNot", same),
    ("BitwiseOr", discrete::bitwise),
    ("BitwiseXor", discrete::bitwise),
    ("Cast", cast),
    ("CastLike", cast_like),
    ("Ceil", same),
    ("Celu", same),
    ("Clip", same),
    ("Compress", select::compress),
    ("Concat", movement::concat),
    ("Constant", movement::constant),
    ("ConstantOfShape", movement::constant_of_shape),
    ("Conv", layers::conv),
    ("ConvTranspose", layers::conv_transpose),
    ("Cos", same),
    ("Cosh", same),
    ("CumSum", same),
    ("DepthToSpace", select::depth_to_space),
    ("Div", arithmetic),
    ("Dropout", dropout),
    ("Einsum", einsum::einsum),
    ("Elu", same),
    ("Equal", comparison),
    ("Erf", same),
    ("Exp", same),
    ("Expand", movement::expand),
    ("EyeLike", discrete::like),
    ("Flatten", movement::flatten),
    ("Floor", same),
    ("Gather", movement::gather),
    ("GatherElements", movement::gather_elements),
    ("GatherND", select::gather_nd),
    ("Gelu", same),
    ("Gemm", layers::gemm),
    ("GlobalAveragePool", layers::global_pool),
    ("GlobalLpPool", layers::global_pool),
    ("GlobalMaxPool", layers::global_pool),
    ("Greater", comparison),
    ("GreaterOrEqual", comparison),
    ("GroupNormalization", same),
    ("HardSigmoid", same),
    ("HardSwish", same),
    ("Identity", identity),
    ("InstanceNormalization", same),
    ("IsInf", discrete::test),
    ("IsNaN", discrete::test),
    ("LRN", same),
    ("LayerNormalization", layers::layer_norm),
    ("LeakyRelu", same),
    ("Less", comparison),
    ("LessOrEqual", comparison),
    ("Log", same),
    ("LogSoftmax", same),
    ("LpNormalization", same),
    ("LpPool", layers::pool),
    ("MatMul", layers::matmul),
    ("Max", arithmetic),
    ("MaxPool", layers::pool),
    ("Mean", arithmetic),
    ("MeanVarianceNormalization", same),
    ("Min", arithmetic),
    ("Mish", same),
    ("Mod", arithmetic),
    ("Mul", arithmetic),
    ("Neg", same),
    ("NonZero", discrete::non_zero),
    ("Not", same),
    ("OneHot", discrete::one_hot),
    ("Or", logical),
    ("PRelu", same),
    ("Pad", movement::pad),
    ("Pow", pow),
    ("RandomNormal", discrete::random),
    ("RandomNormalLike", discrete::like),
    ("RandomUniform", discrete::random),
    ("RandomUniformLike", discrete::like),
    ("Range", movement::range),
    ("Reciprocal", same),
    ("ReduceL1", movement::reduce),
    ("ReduceL2", movement::reduce),
    ("ReduceLogSum", movement::reduce),
    ("ReduceLogSumExp", movement::reduce),
    ("ReduceMax", movement::reduce),
    ("ReduceMean", movement::reduce),
    ("ReduceMin", movement::reduce),
    ("ReduceProd", movement::reduce),
    ("ReduceSum", movement::reduce),
    ("ReduceSumSquare", movement::reduce),
    ("Relu", same),
    ("Reshape", movement::reshape),
    ("Resize", resize::resize),
    ("ReverseSequence", same),
    ("Round", same),
    ("ScatterElements", same),
    ("ScatterND", same),
    ("Selu", same),
    ("Shape", movement::shape_of),
    ("Sigmoid", same),
    ("Sign", same),
    ("Sin", same),
    ("Sinh", same),
    ("Size", movement::size_of),
    ("Slice", movement::slice),
    ("Softmax", same),
    ("Softplus", same),
    ("Softsign", same),
    ("SpaceToDepth", select::space_to_depth),
    ("Split", movement::split),
    ("Sqrt", same),
    ("Squeeze", movement::squeeze),
    ("Sub", arithmetic),
    ("Sum", arithmetic),
    ("Tan", same),
    ("Tanh", same),
    ("ThresholdedRelu", same),
    ("Tile", movement::tile),
    ("TopK", select::top_k),
    ("Transpose", movement::transpose),
    ("Trilu", same),
    ("Unsqueeze", movement::unsqueeze),
    ("Where", r#where),
    ("Xor", logical),
];

/// The operators of the table.
pub(crate) fn operators() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(op, _)| *op)
}

/// Whether shapes are known for `op`: without them nothing that follows can be derived.
pub(crate) fn is_known(op: &str) -> bool {
    TABLE.iter().any(|(name, _)| *name == op)
}

/// Types, shapes and integer contents of `node`'s outputs.
///
/// `value` looks up what is known of an input; `tensor` its content where it is constant.
///
/// # Errors
/// [`GradError::Shape`] and [`GradError::Arity`] where the inputs cannot be this operator's; [`GradError::Limit`]
/// where they or what they give are beyond [`limits`]; [`GradError::UnknownOperator`].
pub(crate) fn infer<'a>(
    node: &'a Node,
    opset: u32,
    value: &dyn Fn(&str) -> Option<&'a Value>,
    tensor: &dyn Fn(&str) -> Option<&'a Tensor>,
) -> Result<Vec<Value>, GradError> {
    let known = TABLE.iter().find(|(op, _)| *op == node.op && node.domain.is_empty());
    let (_, infer) = known.ok_or_else(|| GradError::UnknownOperator {
        op: node.op.clone(),
        node: node.name.clone(),
        opset,
    })?;
    arity::check(node)?;
    check_attributes(node)?;
    let inputs = (0..node.inputs.len()).map(|i| node.input(i).and_then(value)).collect();
    let tensors = (0..node.inputs.len()).map(|i| node.input(i).and_then(tensor)).collect();
    let context = Context { node, opset, inputs, tensors };
    let mut values = infer(&context)?;
    for value in &values {
        limits::check_shape(&node.name, &value.shape)?;
    }
    if let Some(first) = values.first_mut().filter(|v| v.content.is_none() && holds_integers(v.dtype)) {
        first.content = folded(&context, first);
    }
    Ok(values)
}

/// Integers that stay small, so that sums and products of a few of them fit in 64 bits.
fn check_attributes(node: &Node) -> Result<(), GradError> {
    // A constant holds anything, and `Shape` clamps its bounds.
    if matches!(node.op.as_str(), "Constant" | "Shape") {
        return Ok(());
    }
    for (name, attribute) in &node.attributes {
        let values = match attribute {
            Attribute::Int(value) => std::slice::from_ref(value),
            Attribute::Ints(values) => values,
            _ => continue,
        };
        if let Some(value) = values.iter().find(|v| v.unsigned_abs() > limits::MAX_ATTRIBUTE) {
            return Err(GradError::Limit {
                what: format!("attribute `{name}` of {} node `{}`", node.op, node.name),
                found: value.unsigned_abs(),
                limit: limits::MAX_ATTRIBUTE,
                name: "MAX_ATTRIBUTE",
            });
        }
    }
    Ok(())
}

/// Whether contents of this type are followed.
fn holds_integers(dtype: DataType) -> bool {
    matches!(dtype, DataType::I64 | DataType::I32 | DataType::Bool)
}

/// Content of the node's first output, `y`.
fn folded(c: &Context<'_>, y: &Value) -> Option<Vec<Int>> {
    let dims = |shape: &Shape| shape.iter().map(Dim::size).collect::<Option<Vec<usize>>>();
    let of_inputs: Vec<Option<Vec<usize>>> = c.inputs.iter().map(|v| dims(&v.as_ref()?.shape)).collect();
    let known = |(value, dims): (&Option<&'_ Value>, &'_ Option<Vec<usize>>)| -> Option<_> {
        Some((dims.clone()?, value.as_ref()?.content.clone()?))
    };
    let inputs: Vec<Option<(Vec<usize>, Vec<Int>)>> = c.inputs.iter().zip(&of_inputs).map(known).collect();
    let inputs: Vec<Option<fold::Known<'_>>> = inputs
        .iter()
        .map(|known| known.as_ref().map(|(dims, content)| fold::Known { dims, content }))
        .collect();
    fold::fold(c.node, &inputs, y.dtype, &dims(&y.shape)?)
}

/// Content of a small integer or boolean tensor.
pub(crate) fn integers(tensor: &Tensor) -> Option<Vec<Int>> {
    if !holds_integers(tensor.dtype) || tensor.n_elements() > fold::MAX_ELEMENTS {
        return None;
    }
    let numbers: Vec<i64> = match tensor.dtype {
        DataType::I64 => tensor.to_i64().ok()?,
        DataType::I32 => tensor
            .bytes
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]).into())
            .collect(),
        DataType::Bool => tensor.bytes.iter().map(|&b| i64::from(b != 0)).collect(),
        _ => return None,
    };
    Some(numbers.into_iter().map(Int::from).collect())
}

/// One node and what is known of its inputs.
struct Context<'a> {
    node: &'a Node,
    opset: u32,
    inputs: Vec<Option<&'a Value>>,
    tensors: Vec<Option<&'a Tensor>>,
}

impl<'a> Context<'a> {
    fn x(&self, i: usize) -> Result<&'a Value, GradError> {
        self.opt(i).ok_or_else(|| self.error(format!("at least {} inputs", i + 1), "fewer".to_owned()))
    }

    fn opt(&self, i: usize) -> Option<&'a Value> {
        self.inputs.get(i).copied().flatten()
    }

    fn shape(&self, i: usize) -> Result<&'a Shape, GradError> {
        Ok(&self.x(i)?.shape)
    }

    /// The `i`-th input's integers, where all are numbers.
    fn constant_ints(&self, i: usize) -> Option<Vec<i64>> {
        if let Some(tensor) = self.tensors.get(i).copied().flatten() {
            return (tensor.n_elements() <= fold::MAX_ELEMENTS).then(|| tensor.to_i64().ok())?;
        }
        self.content(i)?.iter().map(Int::number).collect()
    }

    /// The `i`-th input's integers, as numbers or by symbol.
    fn content(&self, i: usize) -> Option<&'a [Int]> {
        self.opt(i)?.content.as_deref()
    }

    /// The `i`-th input as a shape.
    fn dims(&self, i: usize) -> Option<Shape> {
        self.content(i)
            .filter(|_| self.shape(i).is_ok_and(|s| s.len() <= 1))?
            .iter()
            .map(Int::to_dim)
            .collect()
    }

    fn error(&self, expected: impl Into<String>, found: impl Into<String>) -> GradError {
        GradError::Shape {
            node: self.node.name.clone(),
            op: self.node.op.clone(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The type with this number in ONNX.
    fn data_type(&self, code: i64) -> Result<DataType, GradError> {
        crate::write::data_type_of_code(code)
            .ok_or_else(|| self.error("a supported element type", format!("ONNX element type {code}")))
    }

    /// A dimension that is only known when the graph runs, named after the node's first output.
    fn unknown_dim(&self, axis: usize) -> Dim {
        let name = self.node.outputs.first().map_or("", String::as_str);
        Dim::Symbol(format!("{name}.dim{axis}"))
    }

    /// `axis` counted from the front.
    fn axis(&self, axis: i64, rank: usize) -> Result<usize, GradError> {
        let from_front = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(from_front)
            .ok()
            .filter(|&a| a < rank)
            .ok_or_else(|| self.error(format!("an axis within rank {rank}"), axis.to_string()))
    }

    /// Axes counted from the front, each named once.
    fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, GradError> {
        if axes.len() > rank.min(limits::MAX_RANK) {
            let most = rank.min(limits::MAX_RANK);
            return Err(self.error(format!("at most {most} axes"), axes.len().to_string()));
        }
        let axes: Vec<usize> = axes.iter().map(|&a| self.axis(a, rank)).collect::<Result<_, _>>()?;
        match (1..axes.len()).find(|&i| axes[..i].contains(&axes[i])) {
            Some(i) => Err(self.error("axes that are named once", format!("axis {} twice", axes[i]))),
            None => Ok(axes),
        }
    }
}

fn one(dtype: DataType, shape: Shape) -> Result<Vec<Value>, GradError> {
    Ok(vec![Value { dtype, shape, content: None }])
}

fn same(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    one(x.dtype, x.shape.clone())
}

fn identity(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    Ok(vec![c.x(0)?.clone()])
}

fn dropout(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let mask = Value { dtype: DataType::Bool, shape: x.shape.clone(), content: None };
    Ok(vec![Value { content: None, ..x.clone() }, mask])
}

fn cast(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    one(c.data_type(c.node.int("to", 0)?)?, x.shape.clone())
}

fn cast_like(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    one(c.x(1)?.dtype, c.shape(0)?.clone())
}

/// Shape of operands broadcast against each other, as NumPy does; `None` where they do not fit.
pub(crate) fn broadcast(shapes: &[&Shape]) -> Option<Shape> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut result = vec![Dim::Size(1); rank];
    for shape in shapes {
        let offset = rank - shape.len();
        for (out, dim) in result[offset..].iter_mut().zip(shape.iter()) {
            if *out == *dim || *dim == Dim::Size(1) {
                continue;
            }
            if *out != Dim::Size(1) {
                return None;
            }
            *out = dim.clone();
        }
    }
    Some(result)
}

fn broadcast_all(c: &Context<'_>, first: usize) -> Result<Shape, GradError> {
    let shapes: Vec<&Shape> = (first..c.inputs.len()).map(|i| c.shape(i)).collect::<Result<_, _>>()?;
    broadcast(&shapes).ok_or_else(|| {
        let found = shapes.iter().map(|s| show(s)).collect::<Vec<_>>().join(" and ");
        c.error("shapes that broadcast against each other", found)
    })
}

fn require_one_type(c: &Context<'_>) -> Result<DataType, GradError> {
    let dtype = c.x(0)?.dtype;
    for i in 1..c.inputs.len() {
        let other = c.x(i)?.dtype;
        if other != dtype {
            return Err(c.error("inputs of one type", format!("{dtype} and {other}")));
        }
    }
    Ok(dtype)
}

fn arithmetic(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    one(require_one_type(c)?, broadcast_all(c, 0)?)
}

/// The exponent may have a type of its own.
fn pow(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    one(c.x(0)?.dtype, broadcast_all(c, 0)?)
}

fn comparison(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    require_one_type(c)?;
    one(DataType::Bool, broadcast_all(c, 0)?)
}

fn logical(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    one(DataType::Bool, broadcast_all(c, 0)?)
}

fn r#where(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let (dtype, other) = (c.x(1)?.dtype, c.x(2)?.dtype);
    if dtype != other {
        return Err(c.error("branches of one type", format!("{dtype} and {other}")));
    }
    one(dtype, broadcast_all(c, 0)?)
}

/// The tensor that a `Constant` node gives, whatever attribute holds it.
pub(crate) fn constant_tensor(node: &Node) -> Option<Tensor> {
    let floats = |dims: &[usize], v: &[f32]| Tensor::from_f32(dims, v);
    node.attributes.iter().find_map(|(name, value)| match (name.as_str(), value) {
        ("value", Attribute::Tensor(t)) => Some(t.clone()),
        ("value_int", Attribute::Int(v)) => Some(Tensor::from_i64(&[], &[*v])),
        ("value_ints", Attribute::Ints(v)) => Some(Tensor::from_i64(&[v.len()], v)),
        ("value_float", Attribute::Float(v)) => Some(floats(&[], &[*v])),
        ("value_floats", Attribute::Floats(v)) => Some(floats(&[v.len()], v)),
        _ => None,
    })
}
