//! Rules of operators that move elements and compute nothing.

use crate::emit;
use crate::error::GradError;
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
        sizes.push(v.x_shape(i)?[axis].size().map(|n| n as i64));
    }
    let split = match sizes.iter().copied().collect::<Option<Vec<_>>>() {
        Some(sizes) => v.g.ints(&sizes)?,
        None => {
            let range = [("start", (axis as i64).into()), ("end", (axis as i64 + 1).into())];
            let mut parts = Vec::with_capacity(n_parts);
            for i in 0..n_parts {
                parts.push(v.op("Shape", &[v.x(i)], &range)?);
            }
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            v.op("Concat", &parts, &[("axis", 0_i64.into())])?
        }
    };
    let parts: Vec<String> = (0..n_parts).map(|_| v.g.fresh("Split")).collect();
    let names: Vec<&str> = parts.iter().map(String::as_str).collect();
    v.g.op_multi("Split", &[&v.dy(), &split], &[("axis", (axis as i64).into())], &names)?;
    for (i, part) in parts.into_iter().enumerate() {
        if v.needs(i) {
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
    v.set_dx(0, dx);
    Ok(())
}

/// y = x along constant starts, ends and steps: dy where it came from, zero elsewhere.
pub(super) fn slice(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let shape = v.x_shape(0)?;
    let (starts, ends) = (v.const_ints(1)?, v.const_ints(2)?);
    let axes = if v.node.input(3).is_some() { v.const_ints(3)? } else { (0..starts.len() as i64).collect() };
    let steps = if v.node.input(4).is_some() { v.const_ints(4)? } else { vec![1; starts.len()] };
    let mut dx = v.dy();
    let mut pads = vec![0; 2 * shape.len()];
    for (i, &axis) in axes.iter().enumerate() {
        let axis = emit::axis(v.node, axis, shape.len())?;
        let size = shape[axis].size().map(|n| n as i64);
        let size = match size {
            Some(size) => size,
            // Of an unknown size, everything from a given start on is all that can be padded back.
            None if steps[i] == 1 && starts[i] >= 0 && ends[i] >= i64::from(i32::MAX) => {
                pads[axis] = starts[i];
                continue;
            }
            None => {
                let expected = "a slice to the end of an axis of unknown size";
                return Err(emit::shape_error(v.node, expected, format!("{}..{}", starts[i], ends[i])));
            }
        };
        let positions = positions(starts[i], ends[i], steps[i], size);
        let n_sliced = positions.len();
        if steps[i] == 1 {
            pads[axis] = positions.first().copied().unwrap_or(0);
            pads[shape.len() + axis] = size - pads[axis] - n_sliced as i64;
        } else {
            dx = spread_along(v, &dx, axis, shape.len(), &positions, size)?;
        }
    }
    if pads.iter().any(|&p| p != 0) {
        let pads = v.g.ints(&pads)?;
        dx = v.op("Pad", &[&dx, &pads], &[])?;
    }
    // Padding an axis of unknown size loses its name.
    let dx = emit::reshape_like(v.g, &dx, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

/// The input positions that a slice takes from an axis of `size`, in its order (ONNX, operator Slice).
fn positions(start: i64, end: i64, step: i64, size: i64) -> Vec<i64> {
    let from_front = |i: i64| if i < 0 { i.saturating_add(size) } else { i };
    let (start, end) = if step > 0 {
        (from_front(start).clamp(0, size), from_front(end).clamp(0, size))
    } else {
        (from_front(start).clamp(0, size - 1), from_front(end).clamp(-1, size - 1))
    };
    std::iter::successors(Some(start), |i| Some(i + step))
        .take_while(|&i| if step > 0 { i < end } else { i > end })
        .collect()
}

/// Puts element `i` of `axis` at `positions[i]` of an axis of `size`, zeros elsewhere: one zero is appended,
/// and a Gather takes it wherever nothing came from.
fn spread_along(
    v: &mut Vjp<'_>,
    x: &str,
    axis: usize,
    rank: usize,
    positions: &[i64],
    size: i64,
) -> Result<String, GradError> {
    let mut pads = vec![0; 2 * rank];
    pads[rank + axis] = 1;
    let pads = v.g.ints(&pads)?;
    let padded = v.op("Pad", &[x, &pads], &[])?;
    let mut sources = vec![positions.len() as i64; size as usize];
    for (i, &position) in positions.iter().enumerate() {
        sources[position as usize] = i as i64;
    }
    let sources = v.g.ints(&sources)?;
    v.op("Gather", &[&padded, &sources], &[("axis", (axis as i64).into())])
}

/// y = x with constant padding: dy without it.
pub(super) fn pad(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let mode = v.node.string("mode", "constant")?;
    if mode != "constant" {
        return Err(emit::shape_error(v.node, "`mode` `constant`", format!("`{mode}`")));
    }
    let rank = v.x_shape(0)?.len();
    let given = v.const_ints(1)?;
    let axes = if v.node.input(3).is_some() { v.const_ints(3)? } else { (0..rank as i64).collect() };
    // A negative pad crops; taking it back pads with zeros.
    let mut pads = vec![0; 2 * rank];
    for (i, &axis) in axes.iter().enumerate() {
        let axis = emit::axis(v.node, axis, rank)?;
        pads[axis] = -given[i];
        pads[rank + axis] = -given[axes.len() + i];
    }
    let pads = v.g.ints(&pads)?;
    let dx = v.op("Pad", &[&v.dy(), &pads], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = x, repeated: dy summed over the repetitions.
pub(super) fn expand(v: &mut Vjp<'_>) -> Result<(), GradError> {
    v.set_dx_summed(0, &v.dy())
}

/// y = x at indices along one axis: each slice of dy is added where it was taken.
pub(super) fn gather(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let (x_rank, index_rank) = (v.x_shape(0)?.len(), v.x_shape(1)?.len());
    let axis = emit::axis(v.node, v.node.int("axis", 0)?, x_rank)?;
    // ScatterND adds whole slices along leading axes, so the gathered axis goes to the front and back.
    let front: Vec<i64> =
        [axis].into_iter().chain((0..x_rank).filter(|&i| i != axis)).map(|i| i as i64).collect();
    let index_axes = axis..axis + index_rank;
    let dy_front: Vec<i64> = index_axes
        .clone()
        .chain((0..v.y_shape(0)?.len()).filter(|i| !index_axes.contains(i)))
        .map(|i| i as i64)
        .collect();
    let (mut updates, mut like) = (v.dy(), v.x(0).to_owned());
    if axis > 0 {
        updates = v.op("Transpose", &[&updates], &[("perm", dy_front.into())])?;
        like = v.op("Transpose", &[&like], &[("perm", front.clone().into())])?;
    }
    let zeros = emit::zeros_like(v.g, &like)?;
    let last = v.g.ints(&[-1])?;
    let indices = v.op("Unsqueeze", &[v.x(1), &last], &[])?;
    let mut dx = v.op("ScatterND", &[&zeros, &indices, &updates], &[("reduction", "add".into())])?;
    if axis > 0 {
        dx = v.op("Transpose", &[&dx], &[("perm", inverse(&front).into())])?;
    }
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
