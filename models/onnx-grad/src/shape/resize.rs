//! Resize.

use super::{Context, one};
use crate::builder::Value;
use crate::error::GradError;
use crate::graph::{Dim, Shape};

pub(super) fn resize(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let rank = x.shape.len();
    if c.node.string("keep_aspect_ratio_policy", "stretch")? != "stretch" {
        return Err(c.error("`keep_aspect_ratio_policy` `stretch`", "another"));
    }
    let axes: Vec<usize> = match c.node.ints("axes")? {
        Some(axes) => axes.iter().map(|&a| c.axis(a, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let mut shape: Shape = x.shape.clone();
    let scales =
        c.tensors.get(2).copied().flatten().map(|t| t.to_f32()).transpose()?.filter(|s| !s.is_empty());
    let sizes = if c.opt(3).is_some() { c.dims(3) } else { None };
    for (i, &axis) in axes.iter().enumerate() {
        let scale = scales.as_ref().and_then(|s| s.get(i)).copied();
        shape[axis] = match (scale, sizes.as_ref().and_then(|s| s.get(i)), shape[axis].size()) {
            (_, Some(size), _) => size.clone(),
            (Some(1.0), None, _) => continue,
            (Some(scale), None, Some(n)) => Dim::Size((n as f32 * scale).floor() as usize),
            _ => c.unknown_dim(axis),
        };
    }
    one(x.dtype, shape)
}
