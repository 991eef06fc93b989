//! Rule of Slice.

use crate::emit::{self, Entry};
use crate::error::GradError;
use crate::graph::DataType;
use crate::shape::{self, Picked};
use crate::vjp::Vjp;

/// y = x at every `step`-th position from `start` to `end` of some axes: dy where it came from, zero elsewhere.
///
/// With step 1 that is padding; with others, one zero is appended to dy, and a Gather takes it wherever nothing
/// came from. Where positions depend on sizes known only when the graph runs, so do pads and indices.
pub(super) fn slice(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let shape = v.x_shape(0)?;
    let rank = shape.len();
    let bounds = emit::const_ints(v.g, v.x(1)).zip(emit::const_ints(v.g, v.x(2)));
    let axes = if v.node.input(3).is_some() {
        v.const_ints(3)?
    } else {
        let n_bounds = v.x_shape(1)?.first().and_then(|d| d.size());
        (0..n_bounds.unwrap_or(rank) as i64).collect()
    };
    let steps = if v.node.input(4).is_some() { v.const_ints(4)? } else { vec![1; axes.len()] };
    let fits = |n: usize| n == axes.len();
    // Shape inference does not read long ones, and so has not compared them.
    if !bounds.as_ref().is_none_or(|(starts, ends)| fits(starts.len()) && fits(ends.len()))
        || !fits(steps.len())
    {
        let expected = format!("as many starts, ends and steps as axes, {}", axes.len());
        return Err(emit::shape_error(v.node, expected, "other numbers of them"));
    }
    let mut dx = v.dy();
    let mut pads = vec![Entry::Known(0); 2 * rank];
    for (i, &axis) in axes.iter().enumerate() {
        let axis = emit::axis(v.node, axis, rank)?;
        let bounds = bounds.as_ref().map(|(starts, ends)| (starts[i], ends[i]));
        match (bounds, shape[axis].size()) {
            (Some((start, end)), Some(size)) => {
                let picked = shape::picked(start, end, steps[i], size);
                if steps[i] == 1 {
                    pads[axis] = Entry::Known(picked.first as i64);
                    pads[rank + axis] = Entry::Known((size - picked.first - picked.n) as i64);
                } else {
                    v.g.room_for(DataType::I64, &[size])?;
                    let sources = sources(picked, size);
                    let sources = v.g.ints(&sources)?;
                    dx = spread_along(v, &dx, axis, rank, &sources)?;
                }
            }
            (Some((start, _)), None) if steps[i] == 1 => {
                (pads[axis], pads[rank + axis]) = pads_of_unknown(v, axis, start)?;
            }
            _ => {
                let sources = sources_of_unknown(v, i, axis)?;
                dx = spread_along(v, &dx, axis, rank, &sources)?;
            }
        }
    }
    if pads.iter().any(|p| *p != Entry::Known(0)) {
        let pads = emit::join(v.g, &pads)?;
        dx = v.op("Pad", &[&dx, &pads], &[])?;
    }
    // Padding an axis of unknown size loses its name.
    let dx = emit::reshape_like(v.g, &dx, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

/// For each of `size` positions, the index in the slice that it went to, or one past the last.
fn sources(picked: Picked, size: usize) -> Vec<i64> {
    let mut sources = vec![picked.n as i64; size];
    for (i, position) in picked.positions().enumerate() {
        sources[position] = i as i64;
    }
    sources
}

/// How many positions lie before and after a slice of step 1 from `start` of an axis of unknown size.
fn pads_of_unknown(v: &mut Vjp<'_>, axis: usize, start: i64) -> Result<(Entry, Entry), GradError> {
    let size = emit::dim(v.g, v.x(0), axis)?.vector(v.g)?;
    let n_sliced = emit::dim(v.g, v.y(0), axis)?.vector(v.g)?;
    let rest = v.op("Sub", &[&size, &n_sliced], &[])?;
    if start == 0 {
        return Ok((Entry::Known(0), Entry::Computed(rest)));
    }
    let given = v.g.ints(&[start])?;
    let begin = if start > 0 {
        v.op("Min", &[&given, &size], &[])?
    } else {
        let from_front = v.op("Add", &[&size, &given], &[])?;
        let zero = v.g.ints(&[0])?;
        v.op("Max", &[&from_front, &zero], &[])?
    };
    let n_after = v.op("Sub", &[&rest, &begin], &[])?;
    Ok((Entry::Computed(begin), Entry::Computed(n_after)))
}

/// As [`sources`], computed when the graph runs: the positions of the axis, sliced as the axis was, say where
/// each element of the slice came from.
fn sources_of_unknown(v: &mut Vjp<'_>, i: usize, axis: usize) -> Result<String, GradError> {
    let at = v.g.ints(&[i as i64])?;
    let mut bounds = Vec::new();
    for input in [1, 2, 4].into_iter().filter(|&input| v.node.input(input).is_some()) {
        bounds.push(v.op("Gather", &[v.x(input), &at], &[])?);
    }
    let size = emit::dim(v.g, v.x(0), axis)?.vector(v.g)?;
    let n_sliced = emit::dim(v.g, v.y(0), axis)?.vector(v.g)?;
    let front = v.g.ints(&[0])?;
    let positions = emit::count_to(v.g, &size)?;
    let mut inputs = vec![positions.as_str(), &bounds[0], &bounds[1], &front];
    inputs.extend(bounds.get(2).map(String::as_str));
    let positions = v.op("Slice", &inputs, &[])?;
    let order = emit::count_to(v.g, &n_sliced)?;
    let nothing = v.op("Expand", &[&n_sliced, &size], &[])?;
    v.op("ScatterElements", &[&nothing, &positions, &order], &[])
}

/// Element `sources[i]` of `axis` at position `i`, zero where that is one past the last.
fn spread_along(
    v: &mut Vjp<'_>,
    x: &str,
    axis: usize,
    rank: usize,
    sources: &str,
) -> Result<String, GradError> {
    let padded = emit::append_zero(v.g, x, axis, rank)?;
    v.op("Gather", &[&padded, sources], &[("axis", (axis as i64).into())])
}
