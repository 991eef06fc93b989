//! Operators that move, select or reduce elements, and the shape arithmetic around them.

use super::int::{self, Int};
use super::{Context, broadcast, constant_tensor, one};
use crate::builder::Value;
use crate::emit::show;
use crate::error::GradError;
use crate::graph::{Attribute, DataType, Dim, Shape};
use crate::limits::{MAX_ATTRIBUTE, MAX_RANK};

pub(super) fn reshape(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let keep_zero = c.node.int("allowzero", 0)? != 0;
    if c.shape(1)?.len() != 1 {
        return Err(c.error("a target of one dimension", show(c.shape(1)?)));
    }
    let Some(target) = c.content(1) else {
        let target = c.shape(1)?;
        let rank = target.first().and_then(Dim::size);
        let rank = rank.filter(|&rank| rank <= MAX_RANK);
        let rank = rank.ok_or_else(|| c.error("a target of known, small length", show(target)))?;
        return one(x.dtype, (0..rank).map(|i| c.unknown_dim(i)).collect());
    };
    let mut shape = Vec::with_capacity(target.len());
    let mut inferred = None;
    for (i, dim) in target.iter().enumerate() {
        match dim.number() {
            Some(0) if !keep_zero => {
                let kept = x.shape.get(i).cloned();
                shape.push(kept.ok_or_else(|| c.error(format!("an axis {i} to keep"), show(&x.shape)))?);
            }
            Some(-1) if inferred.is_none() => {
                inferred = Some(i);
                shape.push(Dim::Size(1));
            }
            _ => {
                let dim = dim.to_dim();
                shape.push(dim.ok_or_else(|| c.error("sizes and at most one -1", format!("{target:?}")))?);
            }
        }
    }
    let refuse = || c.error(format!("as many elements as {}", show(&x.shape)), show(&shape));
    let (from, to) = (int::product(&x.shape), int::product(&shape));
    match (inferred, from, to) {
        (Some(i), Some(from), Some(to)) => {
            let exact = from.checked_div(&to).filter(|n| n.checked_mul(&to).as_ref() == Some(&from));
            shape[i] = match exact.and_then(|n| n.to_dim()) {
                Some(dim) => dim,
                None if from.number().is_some() && to.number().is_some() => return Err(refuse()),
                None => c.unknown_dim(i),
            };
        }
        (Some(i), ..) => shape[i] = c.unknown_dim(i),
        (None, Some(from), Some(to)) if from.is_equal(&to) == Some(false) => return Err(refuse()),
        (None, ..) => {}
    }
    one(x.dtype, shape)
}

pub(super) fn flatten(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let axis = c.node.int("axis", 1)?;
    let rank = x.shape.len();
    let axis = if axis == rank as i64 { rank } else { c.axis(axis, rank)? };
    let product = |i: usize, dims: &[Dim]| {
        int::product(dims).and_then(|n| n.to_dim()).unwrap_or_else(|| c.unknown_dim(i))
    };
    one(x.dtype, vec![product(0, &x.shape[..axis]), product(1, &x.shape[axis..])])
}

pub(super) fn transpose(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let rank = x.shape.len();
    let order: Vec<usize> = match c.node.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(perm) if perm.len() == rank && !perm.iter().any(|&p| p < 0) => c.axes(perm, rank)?,
        Some(perm) => {
            return Err(c.error(format!("`perm` to be a permutation of {rank} axes"), format!("{perm:?}")));
        }
    };
    one(x.dtype, order.into_iter().map(|p| x.shape[p].clone()).collect())
}

pub(super) fn concat(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let first = c.x(0)?;
    let axis = c.axis(c.node.int("axis", 0)?, first.shape.len())?;
    let mut shape = first.shape.clone();
    let mut total = Some(0);
    for i in 0..c.inputs.len() {
        let other = c.shape(i)?;
        let fits = other.len() == shape.len()
            && (0..shape.len()).all(|a| {
                a == axis || other[a] == shape[a] || other[a].size().is_none() || shape[a].size().is_none()
            });
        if !fits {
            let expected = format!("shapes that differ on axis {axis} only");
            return Err(c.error(expected, format!("{} and {}", show(&first.shape), show(other))));
        }
        total = total.zip(other[axis].size()).map(|(a, b)| a + b);
    }
    shape[axis] = total.map_or_else(|| c.unknown_dim(axis), Dim::Size);
    one(super::require_one_type(c)?, shape)
}

/// Axes from an attribute before `since`, from an input afterwards.
fn axes(c: &Context<'_>, since: u32, input: usize) -> Result<Option<Vec<i64>>, GradError> {
    if c.opset < since {
        return Ok(c.node.ints("axes")?.map(<[i64]>::to_vec));
    }
    match c.opt(input) {
        None => Ok(None),
        Some(_) => c.constant_ints(input).map(Some).ok_or_else(|| c.error("constant axes", "computed ones")),
    }
}

pub(super) fn reduce(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let since = if c.node.op == "ReduceSum" { 13 } else { 18 };
    let rank = x.shape.len();
    let given = axes(c, since, 1)?.filter(|a| !a.is_empty());
    let reduced: Vec<usize> = match given {
        Some(axes) => c.axes(&axes, rank)?,
        None if c.node.int("noop_with_empty_axes", 0)? != 0 => Vec::new(),
        None => (0..rank).collect(),
    };
    let keep = c.node.int("keepdims", 1)? != 0;
    let shape = (0..rank)
        .filter(|a| keep || !reduced.contains(a))
        .map(|a| if reduced.contains(&a) { Dim::Size(1) } else { x.shape[a].clone() })
        .collect();
    one(x.dtype, shape)
}

pub(super) fn squeeze(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let rank = x.shape.len();
    let dropped: Vec<usize> = match axes(c, 13, 1)? {
        Some(axes) => c.axes(&axes, rank)?,
        None => (0..rank).filter(|&a| x.shape[a] == Dim::Size(1)).collect(),
    };
    if let Some(&axis) = dropped.iter().find(|&&a| x.shape[a].size().is_some_and(|n| n != 1)) {
        return Err(c.error(format!("size 1 on axis {axis}"), show(&x.shape)));
    }
    one(x.dtype, (0..rank).filter(|a| !dropped.contains(a)).map(|a| x.shape[a].clone()).collect())
}

pub(super) fn unsqueeze(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let axes = axes(c, 13, 1)?.ok_or_else(|| c.error("axes", "none"))?;
    let rank = x.shape.len() + axes.len();
    let new = c.axes(&axes, rank)?;
    let mut kept = x.shape.iter();
    let shape: Shape = (0..rank)
        .filter_map(|a| if new.contains(&a) { Some(Dim::Size(1)) } else { kept.next().cloned() })
        .collect();
    one(x.dtype, shape)
}

pub(super) fn slice(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let rank = x.shape.len();
    let mut shape = x.shape.clone();
    let (starts, ends) = (c.constant_ints(1), c.constant_ints(2));
    // Where they are computed, any axis may be sliced.
    let computed = |i: usize| c.opt(i).is_some() && c.constant_ints(i).is_none();
    let given = |i: usize, n: usize, default: fn(usize) -> Vec<i64>| {
        if c.opt(i).is_some() { c.constant_ints(i) } else { Some(default(n)) }
    };
    let n = starts.as_ref().map_or(rank, Vec::len);
    let axes = given(3, n, |n| (0..n as i64).collect()).unwrap_or_else(|| (0..rank as i64).collect());
    let axes = c.axes(&axes, rank)?;
    let (Some(starts), Some(ends), Some(steps), false) =
        (starts, ends, given(4, n, |n| vec![1; n]), computed(3))
    else {
        for axis in axes {
            shape[axis] = c.unknown_dim(axis);
        }
        return one(x.dtype, shape);
    };
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] || steps.contains(&0) {
        return Err(c.error("starts, ends, axes and non-zero steps of one length", format!("{starts:?}")));
    }
    for (((&start, &end), &axis), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let Some(size) = shape[axis].size() else {
            let whole = start == 0 && step == 1 && end >= i64::from(i32::MAX);
            if !whole {
                shape[axis] = c.unknown_dim(axis);
            }
            continue;
        };
        shape[axis] = Dim::Size(picked(start, end, step, size).n);
    }
    one(x.dtype, shape)
}

/// What a slice takes from an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Picked {
    /// 0 where nothing is taken.
    pub first: usize,
    pub step: i64,
    pub n: usize,
}

impl Picked {
    /// The indices, in the order of the slice.
    pub fn positions(self) -> impl Iterator<Item = usize> {
        let stride = self.step.unsigned_abs() as usize;
        (0..self.n).map(
            move |i| {
                if self.step > 0 { self.first + i * stride } else { self.first - i * stride }
            },
        )
    }
}

/// What a slice takes from an axis of `size`, for `step` other than 0 (ONNX, operator Slice).
pub(crate) fn picked(start: i64, end: i64, step: i64, size: usize) -> Picked {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let from_front = |i: i64| if i < 0 { i.saturating_add(size) } else { i };
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    // A start before the first element is the first one, whichever way the slice goes.
    let start = from_front(start).clamp(0.min(high), high);
    let end = from_front(end).clamp(low, high);
    let n = if step > 0 { range_len(start, end, step) } else { range_len(end, start, step.saturating_neg()) };
    let n = n.unwrap_or(0);
    Picked { first: if n == 0 { 0 } else { usize::try_from(start).unwrap_or(0) }, step, n }
}

pub(super) fn pad(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let rank = x.shape.len();
    let Some(pads) = c.constant_ints(1) else {
        return one(x.dtype, (0..rank).map(|a| c.unknown_dim(a)).collect());
    };
    let padded: Vec<usize> = match c.opt(3) {
        None => (0..rank).collect(),
        Some(_) => {
            let axes = c.constant_ints(3).ok_or_else(|| c.error("constant axes", "computed ones"))?;
            c.axes(&axes, rank)?
        }
    };
    if pads.len() != 2 * padded.len() {
        return Err(c.error(format!("{} pads", 2 * padded.len()), pads.len().to_string()));
    }
    if let Some(pad) = pads.iter().find(|p| p.unsigned_abs() > MAX_ATTRIBUTE) {
        return Err(
            c.error(format!("pads of at most {MAX_ATTRIBUTE} (`limits::MAX_ATTRIBUTE`)"), pad.to_string())
        );
    }
    let mut shape = x.shape.clone();
    for (i, &axis) in padded.iter().enumerate() {
        let by = pads[i] + pads[padded.len() + i];
        shape[axis] = match shape[axis].size() {
            _ if by == 0 => continue,
            None => c.unknown_dim(axis),
            Some(n) => usize::try_from(n as i64 + by)
                .map(Dim::Size)
                .map_err(|_| c.error("pads that leave something", format!("{pads:?}")))?,
        };
    }
    one(x.dtype, shape)
}

pub(super) fn split(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let axis = c.axis(c.node.int("axis", 0)?, x.shape.len())?;
    let n_outputs = c.node.outputs.len();
    let sizes: Vec<Dim> = match (c.dims(1), x.shape[axis].size()) {
        (Some(sizes), size) if sizes.len() == n_outputs => {
            let sum = sizes.iter().try_fold(0_usize, |sum, d| sum.checked_add(d.size()?));
            if size.is_some() && sum.is_some() && size != sum {
                return Err(c.error(format!("parts of {}", show(&x.shape)), show(&sizes)));
            }
            sizes
        }
        (None, Some(size)) if c.opt(1).is_none() => {
            let part = size.div_ceil(n_outputs);
            (0..n_outputs).map(|i| Dim::Size(part.min(size.saturating_sub(i * part)))).collect()
        }
        _ => {
            let part = |i: usize| Dim::Symbol(format!("{}.dim{axis}", c.node.outputs[i]));
            (0..n_outputs).map(part).collect()
        }
    };
    let part = |size: Dim| {
        let mut shape = x.shape.clone();
        shape[axis] = size;
        Value { dtype: x.dtype, shape, content: None }
    };
    Ok(sizes.into_iter().map(part).collect())
}

pub(super) fn expand(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let target = c.dims(1).ok_or_else(|| c.error("a target known by sizes or symbols", "a computed one"))?;
    let shape = broadcast(&[&x.shape, &target])
        .ok_or_else(|| c.error(format!("a target that {} broadcasts to", show(&x.shape)), show(&target)))?;
    one(x.dtype, shape)
}

pub(super) fn tile(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    if *c.shape(1)? != [Dim::Size(x.shape.len())] {
        return Err(c.error(format!("{} repeats", x.shape.len()), show(c.shape(1)?)));
    }
    let repeats = c.dims(1);
    if let (None, Some(numbers)) = (&repeats, c.constant_ints(1)) {
        return Err(c.error("repeats of 0 or more", format!("{numbers:?}")));
    }
    let shape = x.shape.iter().enumerate().map(|(axis, dim)| {
        let times = repeats.as_ref().and_then(|r| r.get(axis));
        let size = times.and_then(|times| int::product(&[dim.clone(), times.clone()])?.to_dim());
        size.unwrap_or_else(|| c.unknown_dim(axis))
    });
    one(x.dtype, shape.collect())
}

pub(super) fn gather(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let (x, indices) = (c.x(0)?, c.x(1)?);
    let axis = c.axis(c.node.int("axis", 0)?, x.shape.len())?;
    let shape = [&x.shape[..axis], &indices.shape, &x.shape[axis + 1..]].concat();
    one(x.dtype, shape)
}

pub(super) fn gather_elements(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    one(c.x(0)?.dtype, c.shape(1)?.clone())
}

pub(super) fn shape_of(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let shape = c.shape(0)?;
    let rank = shape.len() as i64;
    let bound = |i: i64| (if i < 0 { i + rank } else { i }).clamp(0, rank) as usize;
    let (start, end) = (bound(c.node.int("start", 0)?), bound(c.node.int("end", rank)?));
    let dims = shape.get(start..end.max(start)).unwrap_or_default().to_vec();
    let content = Some(dims.iter().map(Int::from).collect());
    Ok(vec![Value { dtype: DataType::I64, shape: vec![Dim::Size(dims.len())], content }])
}

pub(super) fn size_of(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let content = int::product(c.shape(0)?).map(|n| vec![n]);
    Ok(vec![Value { dtype: DataType::I64, shape: Vec::new(), content }])
}

pub(super) fn constant(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let tensor = constant_tensor(c.node).ok_or_else(|| c.error("a dense constant", "another kind"))?;
    let content = super::integers(&tensor);
    let shape = tensor.dims.iter().map(|&d| Dim::Size(d)).collect();
    Ok(vec![Value { dtype: tensor.dtype, shape, content }])
}

pub(super) fn constant_of_shape(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let dtype = match c.node.attributes.get("value") {
        Some(Attribute::Tensor(t)) => t.dtype,
        _ => DataType::F32,
    };
    let shape = c.dims(0).ok_or_else(|| c.error("a shape known by sizes or symbols", "a computed one"))?;
    one(dtype, shape)
}

pub(super) fn range(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let scalar = |i: usize| c.constant_ints(i).and_then(|v| v.first().copied());
    let n = match (scalar(0), scalar(1), scalar(2)) {
        (Some(start), Some(limit), Some(delta)) => range_len(start, limit, delta).map(Dim::Size),
        (Some(0), None, Some(1)) => c.content(1).and_then(|n| n.first()?.to_dim()),
        _ => None,
    };
    let n = n.unwrap_or_else(|| c.unknown_dim(0));
    one(c.x(0)?.dtype, vec![n])
}

/// Number of elements from `start` on that come before `limit`, `delta` apart.
pub(super) fn range_len(start: i64, limit: i64, delta: i64) -> Option<usize> {
    if delta == 0 {
        return None;
    }
    let (span, step) = (i128::from(limit) - i128::from(start), i128::from(delta));
    usize::try_from(((span + step - step.signum()) / step).max(0)).ok()
}
