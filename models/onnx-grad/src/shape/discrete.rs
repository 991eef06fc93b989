//! Shapes of operators that draw, search or classify elements: what has no derivative.

use super::{Context, arithmetic, broadcast_all, one};
use crate::builder::Value;
use crate::error::GradError;
use crate::graph::{DataType, Dim, Shape};

/// Element by element, to a truth value.
pub(super) fn test(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    one(DataType::Bool, c.shape(0)?.clone())
}

/// The shifts may be of any integer type.
pub(super) fn shift(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    one(c.x(0)?.dtype, broadcast_all(c, 0)?)
}

pub(super) fn bitwise(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let dtype = c.x(0)?.dtype;
    if dtype.is_float() {
        return Err(c.error("integers", dtype.to_string()));
    }
    arithmetic(c)
}

/// ArgMax and ArgMin.
pub(super) fn arg_extremum(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let mut shape = c.shape(0)?.clone();
    let axis = c.axis(c.node.int("axis", 0)?, shape.len())?;
    if c.node.int("keepdims", 1)? != 0 {
        shape[axis] = Dim::Size(1);
    } else {
        shape.remove(axis);
    }
    one(DataType::I64, shape)
}

pub(super) fn non_zero(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let rank = c.shape(0)?.len();
    one(DataType::I64, vec![Dim::Size(rank), c.unknown_dim(1)])
}

pub(super) fn one_hot(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let mut shape = c.shape(0)?.clone();
    let axis = c.axis(c.node.int("axis", -1)?, shape.len() + 1)?;
    let depth = c.dims(1).and_then(|dims| dims.into_iter().next());
    shape.insert(axis, depth.unwrap_or_else(|| c.unknown_dim(axis)));
    one(c.x(2)?.dtype, shape)
}

/// As the input, in the type that `dtype` names: EyeLike, RandomNormalLike, RandomUniformLike, Bernoulli.
pub(super) fn like(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    one(named_type(c)?.unwrap_or(x.dtype), x.shape.clone())
}

/// RandomNormal and RandomUniform.
pub(super) fn random(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let dims = c.node.ints("shape")?.ok_or_else(|| c.error("an attribute `shape`", "none"))?;
    let shape: Option<Shape> = dims.iter().map(|&d| usize::try_from(d).ok().map(Dim::Size)).collect();
    let shape = shape.ok_or_else(|| c.error("dimensions of 0 or more", format!("{dims:?}")))?;
    one(named_type(c)?.unwrap_or(DataType::F32), shape)
}

fn named_type(c: &Context<'_>) -> Result<Option<DataType>, GradError> {
    match c.node.int("dtype", 0)? {
        0 => Ok(None),
        code => c.data_type(code).map(Some),
    }
}
