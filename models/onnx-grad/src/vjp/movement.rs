//! Rules of operators that move elements and compute nothing.

use crate::emit::{self, Entry};
use crate::error::GradError;
use crate::graph::DataType;
use crate::vjp::Vjp;

/// Reshape, Flatten, Squeeze, Unsqueeze: dy in the input's shape.
pub(super) fn reshape(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    let dx = emit::reshape_like(v.g, &dy, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

/// The inverse permutation.
pub(super) fn transpose(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let rank = v.x_shape(0)?.len() as i64;
    let perm: Vec<i64> = v.node.ints("perm")?.map_or_else(|| (0..rank).rev().collect(), <[i64]>::to_vec);
    let dx = v.op("Transpose", &[&v.dy()], &[("perm", inverse(&perm).into())])?;
    v.set_dx(0, dx);
    Ok(())
}

/// Each input gets its part of dy.
pub(super) fn concat(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axis = emit::axis(v.node, v.node.int("axis", 0)?, v.y_shape(0)?.len())?;
    let n_parts = v.node.inputs.len();
    let mut sizes = Vec::with_capacity(n_parts);
    for i in 0..n_parts {
        sizes.push(emit::dim(v.g, v.x(i), axis)?);
    }
    let split = emit::join(v.g, &sizes)?;
    let parts: Vec<String> = (0..n_parts).map(|_| v.g.fresh("Split")).collect();
    let names: Vec<&str> = parts.iter().map(String::as_str).collect();
    v.g.op_multi("Split", &[&v.dy(), &split], &[("axis", (axis as i64).into())], &names)?;
    for (i, part) in parts.into_iter().enumerate() {
        if v.needs(i) {
            let part = emit::reshape_like(v.g, &part, v.x(i))?;
            v.set_dx(i, part);
        }
    }
    Ok(())
}

/// The parts' gradients joined; zeros for a part that nothing depends on.
pub(super) fn split(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let mut parts = Vec::new();
    for i in 0..v.node.outputs.len() {
        let part = match v.dy_at(i) {
            Some(dy) => dy.to_owned(),
            None => emit::zeros_like(v.g, v.y(i))?,
        };
        parts.push(part);
    }
    let axis = v.node.int("axis", 0)?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let dx = v.op("Concat", &parts, &[("axis", axis.into())])?;
    // Joining parts of unknown size loses the name of their sum.
    let dx = emit::reshape_like(v.g, &dx, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = x, repeated: dy summed over the repetitions.
pub(super) fn expand(v: &mut Vjp<'_>) -> Result<(), GradError> {
    v.set_dx_summed(0, &v.dy())
}

/// y = x, repeated `repeats` times along each axis: dy summed over the repetitions.
pub(super) fn tile(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let shape = v.x_shape(0)?;
    let known = emit::const_ints(v.g, v.x(1));
    let repeated = |axis: usize| known.as_ref().is_none_or(|repeats| repeats[axis] != 1);
    if (0..shape.len()).all(|axis| !repeated(axis) || shape[axis].size() == Some(1)) {
        return v.set_dx_summed(0, &v.dy());
    }
    // An axis of r repetitions of n elements is read as [r, n], of which r is summed.
    let (mut parts, mut summed) = (Vec::new(), Vec::new());
    for axis in 0..shape.len() {
        if repeated(axis) {
            summed.push(parts.len() as i64);
            parts.push(match &known {
                Some(repeats) => Entry::Known(repeats[axis]),
                None => {
                    let at = v.g.ints(&[axis as i64])?;
                    Entry::Computed(v.op("Gather", &[v.x(1), &at], &[])?)
                }
            });
        }
        parts.push(emit::dim(v.g, v.x(0), axis)?);
    }
    let split = emit::join(v.g, &parts)?;
    let dy = v.op("Reshape", &[&v.dy(), &split], &[])?;
    let sum = emit::reduce(v.g, "ReduceSum", &dy, &summed, false)?;
    let dx = emit::reshape_like(v.g, &sum, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

/// The inverse permutation: SpaceToDepth, whose blocks come first among the channels (DCR); where the forward
/// node takes them last (CRD), the channels are put in that order.
pub(super) fn depth_to_space(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let block = v.node.int("blocksize", 1)?;
    let mut dx = v.op("SpaceToDepth", &[&v.dy()], &[("blocksize", block.into())])?;
    if v.node.string("mode", "DCR")? == "CRD" {
        let channels = v.x_shape(0)?[1].size().map(|n| n as i64);
        let n_channels =
            channels.ok_or_else(|| emit::shape_error(v.node, "a known number of channels", "a symbol"))?;
        v.g.room_for(DataType::I64, &[n_channels as usize])?;
        let n_out = n_channels / (block * block);
        let order: Vec<i64> =
            (0..n_channels).map(|c| c % (block * block) * n_out + c / (block * block)).collect();
        let order = v.g.ints(&order)?;
        dx = v.op("Gather", &[&dx, &order], &[("axis", 1_i64.into())])?;
    }
    let dx = emit::reshape_like(v.g, &dx, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

/// The inverse permutation: DepthToSpace.
pub(super) fn space_to_depth(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let block = v.node.int("blocksize", 1)?;
    let dx = v.op("DepthToSpace", &[&v.dy()], &[("blocksize", block.into())])?;
    let dx = emit::reshape_like(v.g, &dx, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

/// Runs of each sequence reversed: the same again.
pub(super) fn reverse_sequence(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let (time, batch) = (v.node.int("time_axis", 0)?, v.node.int("batch_axis", 1)?);
    let axes = [("time_axis", time.into()), ("batch_axis", batch.into())];
    let dx = v.op("ReverseSequence", &[&v.dy(), v.x(1)], &axes)?;
    v.set_dx(0, dx);
    Ok(())
}

fn inverse(perm: &[i64]) -> Vec<i64> {
    let mut inverse = vec![0; perm.len()];
    for (i, &p) in perm.iter().enumerate() {
        inverse[p as usize] = i as i64;
    }
    inverse
}
