//! Rule of Pad.

use crate::emit;
use crate::error::GradError;
use crate::vjp::Vjp;
use crate::vjp::linear::{self, Matrix};

/// y = x with padding.
///
/// Constant padding: dy without it; what was padded with gets the sum of dy over the padding. Other modes repeat
/// elements of x: each gets the sum of dy over its copies.
pub(super) fn pad(v: &mut Vjp<'_>) -> Result<(), GradError> {
    match v.node.string("mode", "constant")? {
        "constant" => constant(v),
        mode @ ("reflect" | "edge" | "wrap") => copies(v, mode),
        other => Err(emit::shape_error(v.node, "a known `mode`", format!("`{other}`"))),
    }
}

/// (axis, pads before, pads after) of the padded axes.
fn given(v: &Vjp<'_>) -> Result<Vec<(usize, i64, i64)>, GradError> {
    let rank = v.x_shape(0)?.len();
    let pads = v.const_ints(1)?;
    let axes = if v.node.input(3).is_some() { v.const_ints(3)? } else { (0..rank as i64).collect() };
    let padded = axes.iter().zip(pads.iter().zip(&pads[axes.len()..]));
    padded.map(|(&axis, (&before, &after))| Ok((emit::axis(v.node, axis, rank)?, before, after))).collect()
}

fn constant(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    // A negative pad crops; taking it back pads with zeros.
    let dx = if emit::const_ints(v.g, v.x(1)).is_some() {
        let rank = v.x_shape(0)?.len();
        let mut pads = vec![0; 2 * rank];
        for (axis, before, after) in given(v)? {
            pads[axis] = -before;
            pads[rank + axis] = -after;
        }
        let pads = v.g.ints(&pads)?;
        v.op("Pad", &[&dy, &pads], &[])?
    } else {
        let pads = v.op("Neg", &[v.x(1)], &[])?;
        match v.node.input(3) {
            Some(axes) => v.op("Pad", &[&dy, &pads, "", axes], &[])?,
            None => v.op("Pad", &[&dy, &pads], &[])?,
        }
    };
    // Padding an axis of unknown size loses its name.
    let dx = emit::reshape_like(v.g, &dx, v.x(0))?;
    if v.needs(2) {
        let all = v.op("ReduceSum", &[&dy], &[("keepdims", 0_i64.into())])?;
        let inside = v.op("ReduceSum", &[&dx], &[("keepdims", 0_i64.into())])?;
        let padding = v.op("Sub", &[&all, &inside], &[])?;
        let padding = emit::reshape_like(v.g, &padding, v.x(2))?;
        v.set_dx(2, padding);
    }
    v.set_dx(0, dx);
    Ok(())
}

fn copies(v: &mut Vjp<'_>, mode: &str) -> Result<(), GradError> {
    let mut padded = given(v)?;
    padded.sort_unstable();
    let mut matrices = Vec::new();
    for (axis, before, after) in padded {
        if (before, after) == (0, 0) {
            continue;
        }
        let size = linear::size_of_axis(v, axis)?;
        if mode == "wrap" && before.min(after) < 0 {
            return Err(emit::shape_error(
                v.node,
                "pads of at least 0 with `mode` `wrap`",
                before.min(after).to_string(),
            ));
        }
        let n_out = usize::try_from(before + size as i64 + after).unwrap_or(0);
        let mut matrix = Matrix::zeros(v.g, n_out, size)?;
        for (out, position) in (0..n_out).zip(-before..) {
            matrix.add(out, source(mode, position, size as i64), 1.0);
        }
        matrices.push((axis, matrix));
    }
    let dx = linear::transposed(v, &v.dy(), &matrices)?;
    v.set_dx(0, dx);
    Ok(())
}

/// The position in an axis of `size` that is shown at `position` of its continuation to both sides.
fn source(mode: &str, position: i64, size: i64) -> usize {
    let source = match mode {
        "edge" => position.clamp(0, size - 1),
        "wrap" => position.rem_euclid(size),
        // The edge itself is not repeated: 2 1 | 0 1 2 3 | 2 1.
        _ => {
            let period = (2 * (size - 1)).max(1);
            let phase = position.rem_euclid(period);
            phase.min(period - phase).min(size - 1)
        }
    };
    source as usize
}
