//! Normalisations written as others: InstanceNormalization and GroupNormalization as LayerNormalization,
//! MeanVarianceNormalization by its definition.

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{Dim, Node, Tensor};

/// Every channel of every image by itself, then scale and bias `[C]` per channel.
pub(super) fn instance(b: &mut Builder, node: &Node) -> Result<(), GradError> {
    let channels = sizes(b, node)?[0];
    let normal = standardised(b, node, channels)?;
    let normal = spatial(b, node, &normal, None)?;
    affine_per_channel(b, node, &normal)
}

/// Every group of channels of every image by itself, then scale and bias: `[num_groups]` until opset 20,
/// `[C]` from 21 on.
pub(super) fn group(b: &mut Builder, node: &Node) -> Result<(), GradError> {
    let n_groups = node.int("num_groups", 0)?;
    let channels = sizes(b, node)?[0];
    if n_groups < 1 || channels % n_groups != 0 {
        return Err(emit::shape_error(
            node,
            format!("a `num_groups` that divides {channels}"),
            n_groups.to_string(),
        ));
    }
    let normal = standardised(b, node, n_groups)?;
    if b.opset() >= 21 {
        let normal = spatial(b, node, &normal, None)?;
        return affine_per_channel(b, node, &normal);
    }
    let (scale, bias) =
        (emit::trailing_ones(b, &node.inputs[1], 1)?, emit::trailing_ones(b, &node.inputs[2], 1)?);
    let scaled = b.op("Mul", &[&normal, &scale], &[])?;
    let shifted = b.op("Add", &[&scaled, &bias], &[])?;
    spatial(b, node, &shifted, Some(&node.outputs[0]))?;
    Ok(())
}

/// Y = (X - mean) / (std + 1e-9) over `axes`.
pub(super) fn mean_variance(b: &mut Builder, node: &Node) -> Result<(), GradError> {
    let x = node.inputs[0].as_str();
    let (dtype, rank) = (b.value(x)?.dtype, b.shape(x)?.len());
    let axes: Vec<i64> = node
        .ints("axes")?
        .unwrap_or(&[0, 2, 3])
        .iter()
        .map(|&a| emit::axis(node, a, rank).map(|a| a as i64))
        .collect::<Result<_, _>>()?;
    let mean = emit::reduce(b, "ReduceMean", x, &axes, true)?;
    let centred = b.op("Sub", &[x, &mean], &[])?;
    let square = b.op("Mul", &[&centred, &centred], &[])?;
    let var = emit::reduce(b, "ReduceMean", &square, &axes, true)?;
    let std = b.op("Sqrt", &[&var], &[])?;
    let tiny = b.scalar(dtype, 1e-9)?;
    let std = b.op("Add", &[&std, &tiny], &[])?;
    b.op_named("Div", &[&centred, &std], &[], &node.outputs[0])?;
    Ok(())
}

/// X as `[N, parts, …]`, each part with mean 0 and variance 1.
fn standardised(b: &mut Builder, node: &Node, n_parts: i64) -> Result<String, GradError> {
    let dtype = b.value(&node.inputs[0])?.dtype;
    let n_elements = sizes(b, node)?.iter().product::<i64>() / n_parts;
    let x = emit::reshape(b, &node.inputs[0], &[0, n_parts, n_elements])?;
    b.room_for(dtype, &[n_elements as usize])?;
    let ones = vec![1.0; n_elements as usize];
    let ones = b.constant(Tensor::from_f64(dtype, &[n_elements as usize], &ones)?)?;
    let epsilon = ("epsilon", node.float("epsilon", 1e-5)?.into());
    b.op("LayerNormalization", &[&x, &ones], &[epsilon])
}

/// `x` in the shape of the node's input.
fn spatial(b: &mut Builder, node: &Node, x: &str, name: Option<&str>) -> Result<String, GradError> {
    let shape = b.ints(&[vec![0], sizes(b, node)?].concat())?;
    match name {
        Some(name) => b.op_named("Reshape", &[x, &shape], &[], name),
        None => b.op("Reshape", &[x, &shape], &[]),
    }
}

fn affine_per_channel(b: &mut Builder, node: &Node, normal: &str) -> Result<(), GradError> {
    let n_spatial = b.shape(normal)?.len() - 2;
    let scale = emit::trailing_ones(b, &node.inputs[1], n_spatial)?;
    let bias = emit::trailing_ones(b, &node.inputs[2], n_spatial)?;
    let scaled = b.op("Mul", &[normal, &scale], &[])?;
    b.op_named("Add", &[&scaled, &bias], &[], &node.outputs[0])?;
    Ok(())
}

/// The dimensions behind the first one.
fn sizes(b: &Builder, node: &Node) -> Result<Vec<i64>, GradError> {
    let x = b.shape(&node.inputs[0])?;
    let sizes: Option<Vec<i64>> =
        x.get(1..).and_then(|s| s.iter().map(Dim::size).map(|n| n.map(|n| n as i64)).collect());
    sizes
        .filter(|s| !s.is_empty())
        .ok_or_else(|| emit::shape_error(node, "dimensions behind the first that are numbers", emit::show(x)))
}
