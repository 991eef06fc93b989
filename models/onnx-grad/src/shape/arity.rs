//! How many inputs and outputs each operator has.

use crate::error::GradError;
use crate::graph::Node;
use crate::limits::MAX_OUTPUTS;

/// Any number.
const ANY: usize = usize::MAX;

/// (operator, least and most inputs, least and most outputs), over opsets 13 to 21: the ONNX specification's
/// operators on tensors, those that have no shape here among them.
static TABLE: &[(&str, [usize; 2], [usize; 2])] = &[
    ("Abs", [1, 1], [1, 1]),
    ("Acos", [1, 1], [1, 1]),
    ("Acosh", [1, 1], [1, 1]),
    ("Add", [2, 2], [1, 1]),
    ("AffineGrid", [2, 2], [1, 1]),
    ("And", [2, 2], [1, 1]),
    ("ArgMax", [1, 1], [1, 1]),
    ("ArgMin", [1, 1], [1, 1]),
    ("Asin", [1, 1], [1, 1]),
    ("Asinh", [1, 1], [1, 1]),
    ("Atan", [1, 1], [1, 1]),
    ("Atanh", [1, 1], [1, 1]),
    ("AveragePool", [1, 1], [1, 1]),
    ("BatchNormalization", [5, 5], [1, 5]),
    ("Bernoulli", [1, 1], [1, 1]),
    ("BitShift", [2, 2], [1, 1]),
    ("BitwiseAnd", [2, 2], [1, 1]),
    ("BitwiseNot", [1, 1], [1, 1]),
    ("BitwiseOr", [2, 2], [1, 1]),
    ("BitwiseXor", [2, 2], [1, 1]),
    ("BlackmanWindow", [1, 1], [1, 1]),
    ("Cast", [1, 1], [1, 1]),
    ("CastLike", [2, 2], [1, 1]),
    ("Ceil", [1, 1], [1, 1]),
    ("Celu", [1, 1], [1, 1]),
    ("CenterCropPad", [2, 2], [1, 1]),
    ("Clip", [1, 3], [1, 1]),
    ("Col2Im", [3, 3], [1, 1]),
    ("Compress", [2, 2], [1, 1]),
    ("Concat", [1, ANY], [1, 1]),
    ("Constant", [0, 0], [1, 1]),
    ("ConstantOfShape", [1, 1], [1, 1]),
    ("Conv", [2, 3], [1, 1]),
    ("ConvInteger", [2, 4], [1, 1]),
    ("ConvTranspose", [2, 3], [1, 1]),
    ("Cos", [1, 1], [1, 1]),
    ("Cosh", [1, 1], [1, 1]),
    ("CumSum", [2, 2], [1, 1]),
    ("DFT", [1, 3], [1, 1]),
    ("DeformConv", [3, 5], [1, 1]),
    ("DepthToSpace", [1, 1], [1, 1]),
    ("DequantizeLinear", [2, 3], [1, 1]),
    ("Det", [1, 1], [1, 1]),
    ("Div", [2, 2], [1, 1]),
    ("Dropout", [1, 3], [1, 2]),
    ("DynamicQuantizeLinear", [1, 1], [3, 3]),
    ("Einsum", [1, ANY], [1, 1]),
    ("Elu", [1, 1], [1, 1]),
    ("Equal", [2, 2], [1, 1]),
    ("Erf", [1, 1], [1, 1]),
    ("Exp", [1, 1], [1, 1]),
    ("Expand", [2, 2], [1, 1]),
    ("EyeLike", [1, 1], [1, 1]),
    ("Flatten", [1, 1], [1, 1]),
    ("Floor", [1, 1], [1, 1]),
    ("GRU", [3, 6], [0, 2]),
    ("Gather", [2, 2], [1, 1]),
    ("GatherElements", [2, 2], [1, 1]),
    ("GatherND", [2, 2], [1, 1]),
    ("Gelu", [1, 1], [1, 1]),
    ("Gemm", [2, 3], [1, 1]),
    ("GlobalAveragePool", [1, 1], [1, 1]),
    ("GlobalLpPool", [1, 1], [1, 1]),
    ("GlobalMaxPool", [1, 1], [1, 1]),
    ("Greater", [2, 2], [1, 1]),
    ("GreaterOrEqual", [2, 2], [1, 1]),
    ("GridSample", [2, 2], [1, 1]),
    ("GroupNormalization", [3, 3], [1, 1]),
    ("HammingWindow", [1, 1], [1, 1]),
    ("HannWindow", [1, 1], [1, 1]),
    ("HardSigmoid", [1, 1], [1, 1]),
    ("HardSwish", [1, 1], [1, 1]),
    ("Hardmax", [1, 1], [1, 1]),
    ("Identity", [1, 1], [1, 1]),
    ("ImageDecoder", [1, 1], [1, 1]),
    ("InstanceNormalization", [3, 3], [1, 1]),
    ("IsInf", [1, 1], [1, 1]),
    ("IsNaN", [1, 1], [1, 1]),
    ("LRN", [1, 1], [1, 1]),
    ("LSTM", [3, 8], [0, 3]),
    ("LayerNormalization", [2, 3], [1, 3]),
    ("LeakyRelu", [1, 1], [1, 1]),
    ("Less", [2, 2], [1, 1]),
    ("LessOrEqual", [2, 2], [1, 1]),
    ("Log", [1, 1], [1, 1]),
    ("LogSoftmax", [1, 1], [1, 1]),
    ("LpNormalization", [1, 1], [1, 1]),
    ("LpPool", [1, 1], [1, 1]),
    ("MatMul", [2, 2], [1, 1]),
    ("MatMulInteger", [2, 4], [1, 1]),
    ("Max", [1, ANY], [1, 1]),
    ("MaxPool", [1, 1], [1, 2]),
    ("MaxRoiPool", [2, 2], [1, 1]),
    ("MaxUnpool", [2, 3], [1, 1]),
    ("Mean", [1, ANY], [1, 1]),
    ("MeanVarianceNormalization", [1, 1], [1, 1]),
    ("MelWeightMatrix", [5, 5], [1, 1]),
    ("Min", [1, ANY], [1, 1]),
    ("Mish", [1, 1], [1, 1]),
    ("Mod", [2, 2], [1, 1]),
    ("Mul", [2, 2], [1, 1]),
    ("Multinomial", [1, 1], [1, 1]),
    ("Neg", [1, 1], [1, 1]),
    ("NegativeLogLikelihoodLoss", [2, 3], [1, 1]),
    ("NonMaxSuppression", [2, 5], [1, 1]),
    ("NonZero", [1, 1], [1, 1]),
    ("Not", [1, 1], [1, 1]),
    ("OneHot", [3, 3], [1, 1]),
    ("Or", [2, 2], [1, 1]),
    ("PRelu", [2, 2], [1, 1]),
    ("Pad", [2, 4], [1, 1]),
    ("Pow", [2, 2], [1, 1]),
    ("QLinearConv", [8, 9], [1, 1]),
    ("QLinearMatMul", [8, 8], [1, 1]),
    ("QuantizeLinear", [2, 3], [1, 1]),
    ("RNN", [3, 6], [0, 2]),
    ("RandomNormal", [0, 0], [1, 1]),
    ("RandomNormalLike", [1, 1], [1, 1]),
    ("RandomUniform", [0, 0], [1, 1]),
    ("RandomUniformLike", [1, 1], [1, 1]),
    ("Range", [3, 3], [1, 1]),
    ("Reciprocal", [1, 1], [1, 1]),
    ("ReduceL1", [1, 2], [1, 1]),
    ("ReduceL2", [1, 2], [1, 1]),
    ("ReduceLogSum", [1, 2], [1, 1]),
    ("ReduceLogSumExp", [1, 2], [1, 1]),
    ("ReduceMax", [1, 2], [1, 1]),
    ("ReduceMean", [1, 2], [1, 1]),
    ("ReduceMin", [1, 2], [1, 1]),
    ("ReduceProd", [1, 2], [1, 1]),
    ("ReduceSum", [1, 2], [1, 1]),
    ("ReduceSumSquare", [1, 2], [1, 1]),
    ("RegexFullMatch", [1, 1], [1, 1]),
    ("Relu", [1, 1], [1, 1]),
    ("Reshape", [2, 2], [1, 1]),
    ("Resize", [1, 4], [1, 1]),
    ("ReverseSequence", [2, 2], [1, 1]),
    ("RoiAlign", [3, 3], [1, 1]),
    ("Round", [1, 1], [1, 1]),
    ("STFT", [2, 4], [1, 1]),
    ("ScatterElements", [3, 3], [1, 1]),
    ("ScatterND", [3, 3], [1, 1]),
    ("Selu", [1, 1], [1, 1]),
    ("Shape", [1, 1], [1, 1]),
    ("Shrink", [1, 1], [1, 1]),
    ("Sigmoid", [1, 1], [1, 1]),
    ("Sign", [1, 1], [1, 1]),
    ("Sin", [1, 1], [1, 1]),
    ("Sinh", [1, 1], [1, 1]),
    ("Size", [1, 1], [1, 1]),
    ("Slice", [3, 5], [1, 1]),
    ("Softmax", [1, 1], [1, 1]),
    ("SoftmaxCrossEntropyLoss", [2, 3], [1, 2]),
    ("Softplus", [1, 1], [1, 1]),
    ("Softsign", [1, 1], [1, 1]),
    ("SpaceToDepth", [1, 1], [1, 1]),
    ("Split", [1, 2], [1, ANY]),
    ("Sqrt", [1, 1], [1, 1]),
    ("Squeeze", [1, 2], [1, 1]),
    ("Sub", [2, 2], [1, 1]),
    ("Sum", [1, ANY], [1, 1]),
    ("Tan", [1, 1], [1, 1]),
    ("Tanh", [1, 1], [1, 1]),
    ("TfIdfVectorizer", [1, 1], [1, 1]),
    ("ThresholdedRelu", [1, 1], [1, 1]),
    ("Tile", [2, 2], [1, 1]),
    ("TopK", [2, 2], [2, 2]),
    ("Transpose", [1, 1], [1, 1]),
    ("Trilu", [1, 2], [1, 1]),
    ("Unique", [1, 1], [1, 4]),
    ("Unsqueeze", [2, 2], [1, 1]),
    ("Where", [3, 3], [1, 1]),
    ("Xor", [2, 2], [1, 1]),
];

/// Inputs and outputs within their numbers, none of the required ones left out: rules index them.
///
/// # Errors
/// [`GradError::Arity`], [`GradError::Limit`].
pub(super) fn check(node: &Node) -> Result<(), GradError> {
    if node.outputs.len() > MAX_OUTPUTS {
        return Err(GradError::Limit {
            what: format!("outputs of `{}`", node.name),
            found: node.outputs.len() as u64,
            limit: MAX_OUTPUTS as u64,
            name: "MAX_OUTPUTS",
        });
    }
    let known = TABLE.binary_search_by(|(op, ..)| (*op).cmp(node.op.as_str()));
    let (inputs, outputs) = known.map_or(([0, ANY], [0, ANY]), |i| (TABLE[i].1, TABLE[i].2));
    check_side(node, "input", &node.inputs, inputs)?;
    check_side(node, "output", &node.outputs, outputs)?;
    if node.outputs.iter().all(String::is_empty) {
        return Err(error(node, "output", [1, outputs[1]], 0));
    }
    Ok(())
}

fn check_side(
    node: &Node,
    what: &'static str,
    names: &[String],
    [least, most]: [usize; 2],
) -> Result<(), GradError> {
    if names.len() > most {
        return Err(error(node, what, [least, most], names.len()));
    }
    // Of any number of inputs none is optional.
    let required = if most == ANY && what == "input" { names.len().max(least) } else { least };
    let n_given = names.iter().take_while(|name| !name.is_empty()).count();
    if n_given < required {
        return Err(error(node, what, [required, most], n_given));
    }
    Ok(())
}

fn error(node: &Node, what: &'static str, [least, most]: [usize; 2], found: usize) -> GradError {
    let expected = match most {
        ANY => format!("at least {least}"),
        _ if most == least => format!("{least}"),
        _ => format!("{least} to {most}"),
    };
    GradError::Arity { node: node.name.clone(), op: node.op.clone(), what, expected, found }
}

#[cfg(test)]
mod tests {
    use super::TABLE;

    #[test]
    fn every_operator_of_the_shape_table_has_a_line() {
        assert!(TABLE.is_sorted_by_key(|(op, ..)| op));
        assert!(super::super::TABLE.is_sorted_by_key(|(op, _)| op));
        let known = |op: &str| TABLE.iter().any(|(name, ..)| *name == op);
        let missing: Vec<&str> =
            super::super::TABLE.iter().map(|(op, _)| *op).filter(|op| !known(op)).collect();
        assert!(missing.is_empty(), "no numbers of inputs and outputs for {missing:?}");
    }
}
