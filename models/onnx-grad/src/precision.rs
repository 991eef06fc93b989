//! Mixed precision: products in float16 or bfloat16, everything that sums or exponentiates in float32.
//!
//! Parameters stay float32 and are cast where a product reads them, so that gradients and updates are
//! float32 too (Micikevicius et al. 2018). The lists follow PyTorch's autocast.

use std::collections::{HashMap, HashSet};

use crate::builder::Builder;
use crate::error::GradError;
use crate::graph::{Attribute, DataType, Graph, Node, Tensor};
use crate::optimizer::Update;
use crate::write::data_type_code;

/// Type that a training step computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Precision {
    /// Everything in the forward graph's own type.
    #[default]
    Full,
    /// Products in float16, with a loss scale that follows the gradients' range.
    Float16(LossScale),
    /// Products of matrices in bfloat16, whose range needs no loss scale. Convolutions stay in float32: ONNX has
    /// none in bfloat16 before opset 22.
    BFloat16,
}

impl Precision {
    pub(crate) fn compute_type(self) -> Option<DataType> {
        match self {
            Precision::Full => None,
            Precision::Float16(_) => Some(DataType::F16),
            Precision::BFloat16 => Some(DataType::BF16),
        }
    }
}

/// Dynamic loss scale, PyTorch's `GradScaler`: it doubles after `growth_interval` steps in a row with finite
/// gradients, and halves after a step without, which is skipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    pub init: f32,
    pub growth_interval: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        LossScale { init: 65_536.0, growth_interval: 2_000 }
    }
}

/// The largest power of two of float32.
const LARGEST_SCALE: f64 = (1_u128 << 127) as f64;

/// State: the factor of the loss.
pub const LOSS_SCALE: &str = "loss_scale";
/// State: steps with finite gradients since the scale last changed.
pub const FINITE_STEPS: &str = "loss_scale.finite_steps";

/// Operators that are faster in low precision and sum in a wider accumulator.
const LOW: &[&str] = &["Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"];

/// Those of [`LOW`] that ONNX has in bfloat16: the others only from opset 22 on.
const LOW_BFLOAT16: &[&str] = &["Gemm", "MatMul"];

/// Operators that may stay in bfloat16 between two products; many others have no such form.
const STAY_BFLOAT16: &[&str] =
    &["Add", "Flatten", "Identity", "Mul", "Relu", "Reshape", "Squeeze", "Sub", "Transpose", "Unsqueeze"];

/// Operators whose results leave low precision's range or resolution, and those that have no float16.
const HIGH: &[&str] = &[
    "BatchNormalization",
    "Celu",
    "CumSum",
    "Exp",
    "GlobalAveragePool",
    "GroupNormalization",
    "InstanceNormalization",
    "IsInf",
    "LRN",
    "LayerNormalization",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "MeanVarianceNormalization",
    "Mish",
    "Pow",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Softmax",
    "Softplus",
    "Sqrt",
];

/// Inputs whose type does not follow the data's.
fn keeps_its_type(op: &str, input: usize) -> bool {
    matches!((op, input), ("Dropout", 1) | ("Resize", 1 | 2))
}

/// Writes the float32 part of `graph` in mixed precision. Values named in `keep` stay float32.
///
/// # Errors
/// What shape inference refuses.
pub(crate) fn lower(graph: &Graph, low: DataType, keep: &[&str]) -> Result<Graph, GradError> {
    let mut b = Builder::new(&graph.name, graph.opset);
    for input in &graph.inputs {
        b.input(&input.name, input.dtype, input.shape.clone())?;
    }
    for (name, tensor) in &graph.initializers {
        b.initializer(name, tensor.clone())?;
    }
    let mut cast = Casts { low, of: HashMap::new(), computed: HashSet::new() };
    for node in &graph.nodes {
        let computed_low = cast.wants_low(&b, node);
        let mut node = node.clone();
        for i in 0..node.inputs.len() {
            if !node.inputs[i].is_empty() {
                let low = computed_low && !keeps_its_type(&node.op, i);
                node.inputs[i] = cast.to(&mut b, &node.inputs[i], low)?;
            }
        }
        let names = node.outputs.clone();
        if computed_low {
            for output in node.outputs.iter_mut().filter(|o| !o.is_empty()) {
                *output = format!("{output}.{low}");
            }
        }
        b.push(node.clone())?;
        for (name, output) in names.iter().zip(&node.outputs).filter(|(n, o)| n != o) {
            if b.value(output)?.dtype == low {
                cast.of.insert(name.clone(), output.clone());
                cast.computed.insert(name.clone());
            } else {
                // Not a float: a shape, a mask. The node that gives it may have the value's name already.
                push_named(&mut b, "Identity", output, [], name, "alias")?;
            }
        }
    }
    for name in keep.iter().copied().chain(graph.outputs.iter().map(|o| o.name.as_str())) {
        cast.to(&mut b, name, false)?;
    }
    let mut lowered = b.finish();
    lowered.outputs.clone_from(&graph.outputs);
    Ok(lowered)
}

/// Which values exist in low precision.
struct Casts {
    low: DataType,
    /// Low-precision form by the name of the float32 value.
    of: HashMap<String, String>,
    /// Names of those that were computed in low precision: their float32 form is emitted when it is asked for.
    computed: HashSet<String>,
}

impl Casts {
    fn wants_low(&self, b: &Builder, node: &Node) -> bool {
        let is_low = |name: &&String| self.computed.contains(*name);
        let is_float = |name: &&String| is_low(name) || b.value(name).is_ok_and(|v| v.dtype == DataType::F32);
        let is_bfloat16 = self.low == DataType::BF16;
        let products = if is_bfloat16 { LOW_BFLOAT16 } else { LOW };
        match node.op.as_str() {
            op if is_bfloat16 && !products.contains(&op) && !STAY_BFLOAT16.contains(&op) => false,
            op if products.contains(&op) => node.inputs.iter().any(|i| is_float(&i)),
            op if HIGH.contains(&op) || op == "Cast" => false,
            // In between, a value stays in the precision it comes in; parameters and constants go along.
            _ => {
                let computed = |i: &&String| b.constant_content(i).is_none();
                node.inputs.iter().any(|i| is_low(&i))
                    && node.inputs.iter().filter(computed).filter(is_float).all(|i| is_low(&i))
            }
        }
    }

    /// The name of `value` in the wanted precision; other types are left alone.
    fn to(&mut self, b: &mut Builder, value: &str, low: bool) -> Result<String, GradError> {
        let existing = b.value(value).ok().map(|v| v.dtype);
        let cast = |to: DataType| [("to", Attribute::Int(data_type_code(to).into()))];
        match (self.of.get(value), existing) {
            (Some(form), _) if low => Ok(form.clone()),
            (Some(form), None) => {
                // The node that computes it in low precision has the value's name already.
                push_named(b, "Cast", form, cast(DataType::F32), value, "float32")?;
                Ok(value.to_owned())
            }
            (None, Some(DataType::F32)) if low => {
                let name = format!("{value}.{}", self.low);
                b.op_named("Cast", &[value], &cast(self.low), &name)?;
                self.of.insert(value.to_owned(), name.clone());
                Ok(name)
            }
            _ => Ok(value.to_owned()),
        }
    }
}

/// Emits a node of one input that gives `value` and is called `<value>.<suffix>`.
fn push_named<const N: usize>(
    b: &mut Builder,
    op: &str,
    input: &str,
    attributes: [(&str, Attribute); N],
    value: &str,
    suffix: &str,
) -> Result<(), GradError> {
    b.push(Node {
        name: format!("{value}.{suffix}"),
        op: op.to_owned(),
        domain: String::new(),
        inputs: vec![input.to_owned()],
        outputs: vec![value.to_owned()],
        attributes: attributes.map(|(k, v)| (k.to_owned(), v)).into(),
    })
}

/// Adds the loss scale's state as inputs; gives its next values, where `finite` says whether this step's
/// gradients are, and `is_last` whether it moves parameters at all.
pub(crate) fn update_loss_scale(
    b: &mut Builder,
    settings: LossScale,
    finite: &str,
    is_last: Option<&str>,
) -> Result<Vec<Update>, GradError> {
    b.set_scope(LOSS_SCALE);
    b.input(FINITE_STEPS, DataType::F32, Vec::new())?;
    let mut constant = |value: f64| b.scalar(DataType::F32, value);
    let (zero, one, two, half) = (constant(0.0)?, constant(1.0)?, constant(2.0)?, constant(0.5)?);
    let interval = constant(settings.growth_interval.into())?;
    let steps = b.op("Add", &[FINITE_STEPS, &one], &[])?;
    let grows = b.op("GreaterOrEqual", &[&steps, &interval], &[])?;
    let grown = b.op("Where", &[&grows, &two, &one], &[])?;
    let factor = b.op("Where", &[finite, &grown, &half], &[])?;
    let scale = b.op("Mul", &[LOSS_SCALE, &factor], &[])?;
    // Below 1 it would no longer help, and it would never come back from 0 or from infinity.
    let largest = b.scalar(DataType::F32, LARGEST_SCALE)?;
    let scale = b.op("Clip", &[&scale, &one, &largest], &[])?;
    let counts = b.op("Not", &[&grows], &[])?;
    let counts = b.op("And", &[&counts, finite], &[])?;
    let steps = b.op("Where", &[&counts, &steps, &zero], &[])?;
    let mut updates = Vec::new();
    for (name, init, value) in [(LOSS_SCALE, settings.init, scale), (FINITE_STEPS, 0.0, steps)] {
        let next = format!("{name}.next");
        let next = match is_last {
            Some(is_last) => b.op_named("Where", &[is_last, &value, name], &[], &next)?,
            None => b.op_named("Identity", &[&value], &[], &next)?,
        };
        updates.push((name.to_owned(), Tensor::from_f32(&[], &[init]), next));
    }
    Ok(updates)
}
