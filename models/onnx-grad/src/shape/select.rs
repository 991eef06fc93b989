//! Operators that pick elements or interleave axes.

use super::{Context, one};
use crate::builder::Value;
use crate::emit::show;
use crate::error::GradError;
use crate::graph::{DataType, Dim};

pub(super) fn gather_nd(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let (x, indices) = (c.x(0)?, c.shape(1)?);
    let n_batch = usize::try_from(c.node.int("batch_dims", 0)?).unwrap_or(usize::MAX);
    let length = indices.last().and_then(Dim::size);
    let (Some(length), Some((_, outer))) = (length, indices.split_last()) else {
        return Err(c.error("indices with a last axis of known size", show(indices)));
    };
    if n_batch > outer.len() || n_batch.saturating_add(length) > x.shape.len() {
        let expected = format!("indices into rank {} past {n_batch} batch axes", x.shape.len());
        return Err(c.error(expected, show(indices)));
    }
    one(x.dtype, [outer, &x.shape[n_batch + length..]].concat())
}

/// As many as the condition holds for.
pub(super) fn compress(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let condition = c.tensors.get(1).copied().flatten();
    let n_taken = condition.map(|t| t.bytes.iter().filter(|&&b| b != 0).count());
    let along = c.node.attributes.contains_key("axis").then(|| c.node.int("axis", 0)).transpose()?;
    let (mut shape, axis) = match along {
        Some(axis) => (x.shape.clone(), c.axis(axis, x.shape.len())?),
        None => (vec![Dim::Size(0)], 0),
    };
    shape[axis] = n_taken.map_or_else(|| c.unknown_dim(axis), Dim::Size);
    one(x.dtype, shape)
}

/// The largest or smallest, and their indices.
pub(super) fn top_k(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let axis = c.axis(c.node.int("axis", -1)?, x.shape.len())?;
    let mut shape = x.shape.clone();
    shape[axis] = match c.dims(1).as_deref() {
        Some([k]) => k.clone(),
        _ => c.unknown_dim(axis),
    };
    let indices = Value { dtype: DataType::I64, shape: shape.clone(), content: None };
    Ok(vec![Value { dtype: x.dtype, shape, content: None }, indices])
}

/// Each block of channels becomes a square of positions.
pub(super) fn depth_to_space(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let (x, block) = image_and_block(c)?;
    let smaller = |n: usize| n.is_multiple_of(block * block).then(|| n / (block * block));
    let channels = scaled(c, &x.shape[1], 1, smaller)?;
    let larger = |n: usize| Some(n * block);
    let shape = vec![
        x.shape[0].clone(),
        channels,
        scaled(c, &x.shape[2], 2, larger)?,
        scaled(c, &x.shape[3], 3, larger)?,
    ];
    one(x.dtype, shape)
}

/// Each square of positions becomes a block of channels.
pub(super) fn space_to_depth(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let (x, block) = image_and_block(c)?;
    let channels = scaled(c, &x.shape[1], 1, |n| Some(n * block * block))?;
    let smaller = |n: usize| n.is_multiple_of(block).then(|| n / block);
    let shape = vec![
        x.shape[0].clone(),
        channels,
        scaled(c, &x.shape[2], 2, smaller)?,
        scaled(c, &x.shape[3], 3, smaller)?,
    ];
    one(x.dtype, shape)
}

fn image_and_block<'a>(c: &Context<'a>) -> Result<(&'a Value, usize), GradError> {
    let x = c.x(0)?;
    let block = usize::try_from(c.node.int("blocksize", 0)?).unwrap_or(0);
    if x.shape.len() != 4 || block == 0 {
        return Err(c.error("an input [N, C, H, W] and a block size", format!("{}, {block}", show(&x.shape))));
    }
    Ok((x, block))
}

fn scaled(
    c: &Context<'_>,
    dim: &Dim,
    axis: usize,
    scale: impl Fn(usize) -> Option<usize>,
) -> Result<Dim, GradError> {
    let Some(size) = dim.size() else { return Ok(c.unknown_dim(axis)) };
    let scaled = scale(size).ok_or_else(|| c.error(format!("whole blocks on axis {axis}"), size.to_string()));
    Ok(Dim::Size(scaled?))
}
