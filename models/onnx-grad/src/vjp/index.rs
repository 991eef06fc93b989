//! Rules of operators that read or write at given indices.
//!
//! Where indices may repeat, gradients add up by `ScatterElements`: ONNX Runtime's CPU provider runs `ScatterND` on
//! several threads, and with `add` they lose updates of one element.

use crate::emit::{self, Entry};
use crate::error::GradError;
use crate::graph::{Attribute, DataType, Tensor};
use crate::vjp::Vjp;

/// y = x at indices along one axis: each slice of dy is added where it was taken.
pub(super) fn gather(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let shape = v.x_shape(0)?;
    let n_index_axes = v.x_shape(1)?.len();
    let axis = emit::axis(v.node, v.node.int("axis", 0)?, shape.len())?;
    // dy with one axis in place of those of the indices.
    let dy = match n_index_axes {
        1 => v.dy(),
        0 => {
            let axes = v.g.ints(&[axis as i64])?;
            v.op("Unsqueeze", &[&v.dy(), &axes], &[])?
        }
        _ => {
            let mut parts = Vec::new();
            for outer in 0..axis {
                parts.push(emit::dim(v.g, v.x(0), outer)?);
            }
            parts.push(n_elements(v, v.x(1))?);
            for inner in axis + 1..shape.len() {
                parts.push(emit::dim(v.g, v.x(0), inner)?);
            }
            let target = emit::join(v.g, &parts)?;
            v.op("Reshape", &[&v.dy(), &target], &[])?
        }
    };
    let known = emit::const_ints(v.g, v.x(1)).zip(shape[axis].size());
    if let Some((_, size)) = &known {
        v.g.room_for(DataType::I64, &[*size])?;
    }
    let once = known.and_then(|(indices, size)| taken_once(&indices, size));
    let dx = match once {
        Some(sources) => put_once(v, &dy, axis, shape.len(), &sources)?,
        None => add_along(v, &dy, axis, shape.len())?,
    };
    let dx = emit::reshape_like(v.g, &dx, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

/// For each of `size` elements the place among `indices` that takes it, if none takes it twice.
fn taken_once(indices: &[i64], size: usize) -> Option<Vec<Option<usize>>> {
    let mut sources = vec![None; size];
    for (i, &index) in indices.iter().enumerate() {
        let index = if index < 0 { index + size as i64 } else { index };
        let source = sources.get_mut(usize::try_from(index).ok()?)?;
        if source.replace(i).is_some() {
            return None;
        }
    }
    Some(sources)
}

/// Zeros with slice `sources[i]` of `dy` at `i`: padding where those are a run, else the inverse Gather.
fn put_once(
    v: &mut Vjp<'_>,
    dy: &str,
    axis: usize,
    rank: usize,
    sources: &[Option<usize>],
) -> Result<String, GradError> {
    let n_taken = sources.iter().flatten().count();
    let begin = sources.iter().position(Option::is_some).unwrap_or(0);
    let is_run = sources[begin..].iter().take(n_taken).enumerate().all(|(i, s)| *s == Some(i));
    if is_run {
        let mut pads = vec![0; 2 * rank];
        pads[axis] = begin as i64;
        pads[rank + axis] = (sources.len() - begin - n_taken) as i64;
        if pads.iter().all(|&p| p == 0) {
            return Ok(dy.to_owned());
        }
        let pads = v.g.ints(&pads)?;
        return v.op("Pad", &[dy, &pads], &[]);
    }
    let padded =
        if n_taken == sources.len() { dy.to_owned() } else { emit::append_zero(v.g, dy, axis, rank)? };
    let sources: Vec<i64> = sources.iter().map(|s| s.unwrap_or(n_taken) as i64).collect();
    let sources = v.g.ints(&sources)?;
    v.op("Gather", &[&padded, &sources], &[("axis", (axis as i64).into())])
}

/// Zeros with every slice of `dy` added at its index.
fn add_along(v: &mut Vjp<'_>, dy: &str, axis: usize, rank: usize) -> Result<String, GradError> {
    let mut column = vec![1; rank];
    column[axis] = -1;
    let indices = emit::reshape(v.g, v.x(1), &column)?;
    let shape = v.op("Shape", &[dy], &[])?;
    let indices = v.op("Expand", &[&indices, &shape], &[])?;
    let zeros = emit::zeros_like(v.g, v.x(0))?;
    add_at(v, &zeros, &indices, dy, axis as i64)
}

fn add_at(v: &mut Vjp<'_>, to: &str, indices: &str, updates: &str, axis: i64) -> Result<String, GradError> {
    v.op("ScatterElements", &[to, indices, updates], &[("axis", axis.into()), ("reduction", "add".into())])
}

fn n_elements(v: &mut Vjp<'_>, x: &str) -> Result<Entry, GradError> {
    let sizes: Option<Vec<usize>> = v.g.shape(x)?.iter().map(|d| d.size()).collect();
    if let Some(sizes) = sizes {
        return Ok(Entry::Known(sizes.iter().product::<usize>() as i64));
    }
    let size = v.op("Size", &[x], &[])?;
    emit::reshape(v.g, &size, &[1]).map(Entry::Computed)
}

/// y = x at an index of its own per element, along one axis: each element of dy is added where it was taken.
pub(super) fn gather_elements(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axis = v.node.int("axis", 0)?;
    let zeros = emit::zeros_like(v.g, v.x(0))?;
    let dx = add_at(v, &zeros, v.x(1), &v.dy(), axis)?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = x at tuples of indices: each slice of dy is added where it was taken, the tuples counted through.
pub(super) fn gather_nd(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let n_batch = v.node.int("batch_dims", 0)?;
    let n_leading = n_batch + length_of_tuples(v)?;
    let n_outer = v.x_shape(1)?.len() as i64 - 1;
    let rows = rows(v, n_batch, n_leading)?;
    let dy = v.op("Flatten", &[&v.dy()], &[("axis", n_outer.into())])?;
    let zeros = emit::zeros_like(v.g, v.x(0))?;
    let zeros = v.op("Flatten", &[&zeros], &[("axis", n_leading.into())])?;
    let shape = v.op("Shape", &[&dy], &[])?;
    let rows = v.op("Expand", &[&rows, &shape], &[])?;
    let dx = add_at(v, &zeros, &rows, &dy, 0)?;
    let dx = emit::reshape_like(v.g, &dx, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

fn length_of_tuples(v: &Vjp<'_>) -> Result<i64, GradError> {
    let length = v.x_shape(1)?.last().and_then(|d| d.size());
    let length = length.ok_or_else(|| emit::shape_error(v.node, "indices of known length", "a symbol"))?;
    Ok(length as i64)
}

/// The row that each tuple of a GatherND means, `[n, 1]`, where the first `n_leading` axes of x are one.
fn rows(v: &mut Vjp<'_>, n_batch: i64, n_leading: i64) -> Result<String, GradError> {
    let last = [("axis", (-1_i64).into())];
    let n_outer = v.x_shape(1)?.len() - 1;
    let mut rows: Option<String> = None;
    for axis in 0..n_leading {
        // The batch axes are those of the indices too, whose names those of the result go by.
        let size = emit::dim(v.g, v.x(if axis < n_batch { 1 } else { 0 }), axis as usize)?;
        let size = size.vector(v.g)?;
        let index = if axis < n_batch {
            let positions = emit::count_to(v.g, &size)?;
            let mut column = vec![1; n_outer];
            column[axis as usize] = -1;
            emit::reshape(v.g, &positions, &column)?
        } else {
            let at = emit::int(v.g, axis - n_batch)?;
            let index = v.op("Gather", &[v.x(1), &at], &last)?;
            // A negative index counts from the end.
            v.op("Mod", &[&index, &size], &[])?
        };
        rows = Some(match rows {
            None => index,
            Some(rows) => {
                let first = v.op("Mul", &[&rows, &size], &[])?;
                v.op("Add", &[&first, &index], &[])?
            }
        });
    }
    let rows = rows.ok_or_else(|| emit::shape_error(v.node, "indices of at least one axis", "none"))?;
    emit::reshape(v.g, &rows, &[-1, 1])
}

/// y = x with `updates` written (or added) at an index of their own, along one axis: the updates get dy where they
/// went, x gets dy where nothing was written.
pub(super) fn scatter_elements(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axis = [("axis", v.node.int("axis", 0)?.into())];
    scatter(v, ["ScatterElements", "GatherElements"], &axis)
}

/// As [`scatter_elements`], slices at tuples of indices.
pub(super) fn scatter_nd(v: &mut Vjp<'_>) -> Result<(), GradError> {
    scatter(v, ["ScatterND", "GatherND"], &[])
}

/// `to` writes at the indices, `from` reads there.
fn scatter(
    v: &mut Vjp<'_>,
    [to, from]: [&str; 2],
    attributes: &[(&str, Attribute)],
) -> Result<(), GradError> {
    let adds = adds(v)?;
    if v.needs(0) {
        let dx = if adds {
            v.dy()
        } else {
            let zeros = emit::zeros_like(v.g, v.x(2))?;
            v.op(to, &[&v.dy(), v.x(1), &zeros], attributes)?
        };
        v.set_dx(0, dx);
    }
    if v.needs(2) {
        let dx = v.op(from, &[&v.dy(), v.x(1)], attributes)?;
        let dx = emit::reshape_like(v.g, &dx, v.x(2))?;
        v.set_dx(2, dx);
    }
    Ok(())
}

fn adds(v: &Vjp<'_>) -> Result<bool, GradError> {
    match v.node.string("reduction", "none")? {
        "none" => Ok(false),
        "add" => Ok(true),
        other => Err(emit::shape_error(v.node, "`reduction` `none` or `add`", format!("`{other}`"))),
    }
}

/// y = x where a constant condition holds, along one axis or flattened: a Gather at those positions.
pub(super) fn compress(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let condition = v.g.constant_content(v.x(1)).map(|t: &Tensor| t.bytes.clone());
    let condition =
        condition.ok_or_else(|| emit::shape_error(v.node, "a constant condition", "a computed one"))?;
    let shape = v.x_shape(0)?;
    let axis = v.node.attributes.contains_key("axis").then(|| v.node.int("axis", 0)).transpose()?;
    let (axis, rank, size) = match axis {
        Some(axis) => {
            let axis = emit::axis(v.node, axis, shape.len())?;
            (axis, shape.len(), shape[axis].size())
        }
        None => (0, 1, shape.iter().map(|d| d.size()).product()),
    };
    let size = size.ok_or_else(|| emit::shape_error(v.node, "an axis of known size", emit::show(&shape)))?;
    v.g.room_for(DataType::I64, &[size])?;
    let mut n_taken = 0;
    let sources: Vec<Option<usize>> = (0..size)
        .map(|i| {
            let taken = condition.get(i).is_some_and(|&c| c != 0);
            n_taken += usize::from(taken);
            taken.then(|| n_taken - 1)
        })
        .collect();
    let dx = put_once(v, &v.dy(), axis, rank, &sources)?;
    let dx = emit::reshape_like(v.g, &dx, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}
