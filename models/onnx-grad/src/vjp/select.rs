//! Rules of operators that select by order or position: TopK, CumSum, Trilu.

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::Node;
use crate::vjp::{Lowered, Mode, Vjp};

/// TopK with its second output, where the values came from.
pub(super) fn lower_top_k(b: &mut Builder, node: &Node, _: &Mode) -> Result<Lowered, GradError> {
    let mut training = node.clone();
    let indices = emit::output_or_fresh(b, node, 1, "Indices");
    let values = emit::output_or_fresh(b, node, 0, "Values");
    training.outputs = vec![values, indices.clone()];
    b.push(training)?;
    Ok(Lowered::saving([("indices", indices)]))
}

/// y = the k largest or smallest of x: dy where they came from, zero elsewhere. Saves the indices.
pub(super) fn top_k(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let Some(dy) = v.dy_at(0).map(str::to_owned) else { return Ok(()) };
    let axis = v.node.int("axis", -1)?;
    let zeros = emit::zeros_like(v.g, v.x(0))?;
    let dx = v.op("ScatterElements", &[&zeros, v.saved("indices"), &dy], &[("axis", axis.into())])?;
    v.set_dx(0, dx);
    Ok(())
}

/// yᵢ = Σ xⱼ over j ≤ i: dxⱼ = Σ dyᵢ over i ≥ j, the sum from the other end.
pub(super) fn cumulative_sum(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let (exclusive, reverse) = (v.node.int("exclusive", 0)?, v.node.int("reverse", 0)?);
    let attributes = [("exclusive", exclusive.into()), ("reverse", (1 - reverse).into())];
    let dx = v.op("CumSum", &[&v.dy(), v.x(1)], &attributes)?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = x above or below a diagonal: the same part of dy.
pub(super) fn triangle(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    let mut inputs = vec![dy.as_str()];
    inputs.extend(v.node.input(1));
    let upper = v.node.int("upper", 1)?;
    let dx = v.op("Trilu", &inputs, &[("upper", upper.into())])?;
    v.set_dx(0, dx);
    Ok(())
}
