//! The few shape idioms that rules and losses emit again and again, each written once.

use crate::builder::Builder;
use crate::error::GradError;
use crate::graph::{Attribute, DataType, Dim, Node, Tensor};
use crate::write::data_type_code;

/// Sums a gradient back to the shape `target` that broadcasting enlarged.
///
/// # Errors
/// [`GradError::Shape`] where two dimensions are not known to be equal when the graph is derived.
pub(crate) fn unbroadcast(b: &mut Builder, gradient: &str, target: &[Dim]) -> Result<String, GradError> {
    let from = b.shape(gradient)?.clone();
    let Some(Summed { n_leading, inner }) = summed_axes(&from, target) else {
        return Err(GradError::Shape {
            node: gradient.to_owned(),
            op: "ReduceSum".to_owned(),
            expected: format!("a shape known to broadcast from {}", show(target)),
            found: show(&from),
        });
    };
    let leading: Vec<i64> = (0..n_leading as i64).collect();
    if inner.is_empty() && leading.is_empty() {
        return Ok(gradient.to_owned());
    }
    if inner.is_empty() {
        return reduce(b, "ReduceSum", gradient, &leading, false);
    }
    let all: Vec<i64> = leading.iter().copied().chain(inner).collect();
    let sum = reduce(b, "ReduceSum", gradient, &all, true)?;
    if leading.is_empty() {
        return Ok(sum);
    }
    let axes = b.ints(&leading)?;
    b.op("Squeeze", &[&sum, &axes], &[])
}

#[derive(Debug, PartialEq, Eq)]
struct Summed {
    /// Leading axes that the target does not have.
    n_leading: usize,
    /// Axes that the target has with size 1.
    inner: Vec<i64>,
}

/// `None` where it cannot be told whether an axis was broadcast.
fn summed_axes(from: &[Dim], target: &[Dim]) -> Option<Summed> {
    let n_leading = from.len().checked_sub(target.len())?;
    let mut inner = Vec::new();
    for (i, (wide, narrow)) in from[n_leading..].iter().zip(target).enumerate() {
        if wide == narrow {
            continue;
        }
        if narrow.size() != Some(1) {
            return None;
        }
        inner.push((n_leading + i) as i64);
    }
    Some(Summed { n_leading, inner })
}

/// A reduction over `axes` (not empty), which moved from attribute to input at different opsets.
pub(crate) fn reduce(
    b: &mut Builder,
    op: &str,
    x: &str,
    axes: &[i64],
    keepdims: bool,
) -> Result<String, GradError> {
    let keepdims = ("keepdims", Attribute::Int(keepdims.into()));
    if op == "ReduceSum" || b.opset() >= 18 {
        let axes = b.ints(axes)?;
        b.op(op, &[x, &axes], &[keepdims])
    } else {
        b.op(op, &[x], &[("axes", axes.into()), keepdims])
    }
}

/// Reshapes `x` to the shape of `like`, by a constant wherever that keeps the names of its symbols.
pub(crate) fn reshape_like(b: &mut Builder, x: &str, like: &str) -> Result<String, GradError> {
    let (from, target) = (b.shape(x)?.clone(), b.shape(like)?.clone());
    if from == target {
        return Ok(x.to_owned());
    }
    let mut n_inferred = 0;
    let dims: Option<Vec<i64>> = target
        .iter()
        .enumerate()
        .map(|(i, dim)| match dim.size() {
            Some(n) => Some(n as i64),
            None if from.get(i) == Some(dim) => Some(0),
            None => {
                n_inferred += 1;
                (from.contains(dim) && n_inferred == 1).then_some(-1)
            }
        })
        .collect();
    let shape = match dims {
        Some(dims) => b.ints(&dims)?,
        None => b.op("Shape", &[like], &[])?,
    };
    b.op("Reshape", &[x, &shape], &[])
}

/// Reshapes to constant dimensions, of which one may be -1.
pub(crate) fn reshape(b: &mut Builder, x: &str, dims: &[i64]) -> Result<String, GradError> {
    let shape = b.ints(dims)?;
    b.op("Reshape", &[x, &shape], &[])
}

/// Repeats `x`, of the same rank, along its axes of size 1 to the shape of `like`.
pub(crate) fn expand_like(b: &mut Builder, x: &str, like: &str) -> Result<String, GradError> {
    let (from, target) = (b.shape(x)?.clone(), b.shape(like)?.clone());
    if from == target {
        return Ok(x.to_owned());
    }
    // Expand broadcasts both ways, so 1 leaves a dimension that `x` has already.
    let dims: Option<Vec<i64>> = from
        .iter()
        .zip(&target)
        .map(|(have, want)| if have == want { Some(1) } else { want.size().map(|n| n as i64) })
        .collect();
    let shape = match dims {
        Some(dims) => b.ints(&dims)?,
        None => b.op("Shape", &[like], &[])?,
    };
    b.op("Expand", &[x, &shape], &[])
}

/// Zeros of the shape and type of `like`.
pub(crate) fn zeros_like(b: &mut Builder, like: &str) -> Result<String, GradError> {
    let dtype = b.value(like)?.dtype;
    let shape = shape_of(b, like)?;
    // ConstantOfShape has no bfloat16 before opset 20.
    let is_narrow = dtype == DataType::BF16 && b.opset() < 20;
    let made = if is_narrow { DataType::F32 } else { dtype };
    let zeros = b.op("ConstantOfShape", &[&shape], &[("value", Tensor::zeros(made, &[1]).into())])?;
    if is_narrow { cast(b, &zeros, dtype) } else { Ok(zeros) }
}

/// The axes of `[N, C, …]` that the values of one channel lie along.
pub(crate) fn all_but_channel(rank: usize) -> Vec<i64> {
    [0].into_iter().chain(2..rank as i64).collect()
}

/// `[C]` as `[C, 1, …]` with `n` ones, which broadcasts over `[N, C, …]`.
pub(crate) fn trailing_ones(b: &mut Builder, x: &str, n: usize) -> Result<String, GradError> {
    if n == 0 {
        return Ok(x.to_owned());
    }
    let axes = b.ints(&(1..=n as i64).collect::<Vec<_>>())?;
    b.op("Unsqueeze", &[x, &axes], &[])
}

/// Name of the node's `i`-th output, or a new one where the node leaves that out.
pub(crate) fn output_or_fresh(b: &mut Builder, node: &Node, i: usize, stem: &str) -> String {
    node.output(i).map_or_else(|| b.fresh(stem), str::to_owned)
}

/// The dimensions of `x` as an int64 vector, constant where all are known.
pub(crate) fn shape_of(b: &mut Builder, x: &str) -> Result<String, GradError> {
    let dims: Option<Vec<i64>> = b.shape(x)?.iter().map(|d| d.size().map(|n| n as i64)).collect();
    match dims {
        Some(dims) => b.ints(&dims),
        None => b.op("Shape", &[x], &[]),
    }
}

/// One integer of a shape or a list of pads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Known(i64),
    /// A vector of length 1.
    Computed(String),
}

impl Entry {
    /// As an int64 vector of length 1.
    pub fn vector(self, b: &mut Builder) -> Result<String, GradError> {
        match self {
            Entry::Known(n) => b.ints(&[n]),
            Entry::Computed(name) => Ok(name),
        }
    }
}

/// The size of one axis of `x`.
pub(crate) fn dim(b: &mut Builder, x: &str, axis: usize) -> Result<Entry, GradError> {
    if let Some(n) = b.shape(x)?[axis].size() {
        return Ok(Entry::Known(n as i64));
    }
    let range = [("start", (axis as i64).into()), ("end", (axis as i64 + 1).into())];
    b.op("Shape", &[x], &range).map(Entry::Computed)
}

/// 0, 1, … up to the number that `n` holds as its only element.
pub(crate) fn count_to(b: &mut Builder, n: &str) -> Result<String, GradError> {
    let n = b.op("Squeeze", &[n], &[])?;
    let (zero, one) = (int(b, 0)?, int(b, 1)?);
    b.op("Range", &[&zero, &n, &one], &[])
}

/// 1 where `x` is 0, else 0, in the type of `x`.
pub(crate) fn is_zero(b: &mut Builder, x: &str) -> Result<String, GradError> {
    let dtype = b.value(x)?.dtype;
    let zero = b.scalar(dtype, 0.0)?;
    let is_zero = b.op("Equal", &[x, &zero], &[])?;
    cast(b, &is_zero, dtype)
}

/// `x` with 1 in the place of 0: a divisor where the quotient at 0 does not count.
pub(crate) fn nonzero(b: &mut Builder, x: &str) -> Result<String, GradError> {
    let is_zero = is_zero(b, x)?;
    b.op("Add", &[x, &is_zero], &[])
}

/// An int64 scalar.
pub(crate) fn int(b: &mut Builder, value: i64) -> Result<String, GradError> {
    b.constant(Tensor::from_i64(&[], &[value]))
}

/// `axis` and `axis + 1` of `x` swapped.
pub(crate) fn swap(b: &mut Builder, x: &str, axis: usize) -> Result<String, GradError> {
    let mut perm: Vec<i64> = (0..b.shape(x)?.len() as i64).collect();
    perm.swap(axis, axis + 1);
    b.op("Transpose", &[x], &[("perm", perm.into())])
}

/// `x` with one more element, zero, at the end of `axis`.
pub(crate) fn append_zero(b: &mut Builder, x: &str, axis: usize, rank: usize) -> Result<String, GradError> {
    let mut pads = vec![0; 2 * rank];
    pads[rank + axis] = 1;
    let pads = b.ints(&pads)?;
    b.op("Pad", &[x, &pads], &[])
}

/// The entries as one vector: a constant where all are known.
pub(crate) fn join(b: &mut Builder, entries: &[Entry]) -> Result<String, GradError> {
    let mut parts = Vec::new();
    let mut known = Vec::new();
    for entry in entries {
        match entry {
            Entry::Known(n) => known.push(*n),
            Entry::Computed(name) => {
                if !known.is_empty() {
                    parts.push(b.ints(&std::mem::take(&mut known))?);
                }
                parts.push(name.clone());
            }
        }
    }
    if !known.is_empty() || parts.is_empty() {
        parts.push(b.ints(&known)?);
    }
    if let [only] = parts.as_slice() {
        return Ok(only.clone());
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    b.op("Concat", &parts, &[("axis", 0_i64.into())])
}

/// Number of elements along `axes` of `x`, as a scalar of type `dtype`.
pub(crate) fn count(b: &mut Builder, x: &str, axes: &[i64], dtype: DataType) -> Result<String, GradError> {
    let shape = b.shape(x)?.clone();
    let known: f64 = axes.iter().filter_map(|&a| shape[a as usize].size()).map(|n| n as f64).product();
    let mut product: Option<String> = None;
    for &axis in axes.iter().filter(|&&a| shape[a as usize].size().is_none()) {
        let size = dim(b, x, axis as usize)?.vector(b)?;
        let size = b.op("Squeeze", &[&size], &[])?;
        let size = cast(b, &size, dtype)?;
        product = Some(match product {
            None => size,
            Some(product) => b.op("Mul", &[&product, &size], &[])?,
        });
    }
    match product {
        Some(product) if known == 1.0 => Ok(product),
        Some(product) => {
            let known = b.scalar(dtype, known)?;
            b.op("Mul", &[&product, &known], &[])
        }
        None => b.scalar(dtype, known),
    }
}

pub(crate) fn cast(b: &mut Builder, x: &str, to: DataType) -> Result<String, GradError> {
    let code = i64::from(data_type_code(to));
    b.op("Cast", &[x], &[("to", code.into())])
}

/// Content of an int64 tensor that is known when the graph is derived.
pub(crate) fn const_ints(b: &Builder, name: &str) -> Option<Vec<i64>> {
    if let Some(tensor) = b.constant_content(name) {
        return tensor.to_i64().ok();
    }
    let content = b.value(name).ok()?.content.as_ref()?;
    content.iter().map(crate::shape::Int::number).collect()
}

/// Non-negative axis, counted from the front.
///
/// # Errors
/// [`GradError::Shape`] if the rank has no such axis.
pub(crate) fn axis(node: &Node, axis: i64, rank: usize) -> Result<usize, GradError> {
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_front)
        .ok()
        .filter(|&a| a < rank)
        .ok_or_else(|| shape_error(node, format!("an axis of a tensor of rank {rank}"), axis.to_string()))
}

pub(crate) fn shape_error(node: &Node, expected: impl Into<String>, found: impl Into<String>) -> GradError {
    GradError::Shape {
        node: node.name.clone(),
        op: node.op.clone(),
        expected: expected.into(),
        found: found.into(),
    }
}

/// `[batch, 3, 8]`.
pub(crate) fn show(shape: &[Dim]) -> String {
    format!("[{}]", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(shape: &[&str]) -> Vec<Dim> {
        shape.iter().map(|d| d.parse::<usize>().map_or_else(|_| Dim::from(*d), Dim::from)).collect()
    }

    /// Shape that `from` has after [`unbroadcast`] to `target`, and the nodes that took.
    fn unbroadcast_shape(from: &[&str], target: &[&str]) -> Result<(Vec<Dim>, Vec<String>), GradError> {
        let mut b = Builder::new("test", 17);
        b.input("dy", DataType::F32, dims(from)).unwrap();
        let result = unbroadcast(&mut b, "dy", &dims(target))?;
        let shape = b.shape(&result)?.clone();
        Ok((shape, b.finish().nodes.into_iter().map(|n| n.op).collect()))
    }

    #[test]
    fn unbroadcast_sums_what_broadcasting_repeated() {
        let check = |from: &[&str], target: &[&str], ops: &[&str]| {
            let (shape, found) = unbroadcast_shape(from, target).unwrap();
            assert_eq!(shape, dims(target), "{from:?} to {target:?}");
            assert_eq!(found, ops, "{from:?} to {target:?}");
        };
        check(&["2", "3"], &["2", "3"], &[]);
        check(&["batch", "3"], &["batch", "3"], &[]);
        check(&["2", "3"], &["3"], &["ReduceSum"]);
        check(&["batch", "3"], &["3"], &["ReduceSum"]);
        check(&["2", "3"], &[], &["ReduceSum"]);
        check(&["batch", "3"], &["1", "3"], &["ReduceSum"]);
        check(&["batch", "3"], &["batch", "1"], &["ReduceSum"]);
        check(&["4", "2", "3"], &["2", "1"], &["ReduceSum", "Squeeze"]);
        check(&["1", "3"], &["3"], &["ReduceSum"]);
        check(&["1", "1"], &["1", "1"], &[]);
        check(&[], &[], &[]);
    }

    #[test]
    fn unbroadcast_refuses_what_it_cannot_tell() {
        for (from, target) in [
            (&["2", "3"][..], &["n", "3"][..]),
            (&["batch", "3"], &["n", "3"]),
            (&["2", "3"], &["2", "4"]),
            (&["3"], &["2", "3"]),
        ] {
            let error = unbroadcast_shape(from, target).unwrap_err().to_string();
            assert!(error.contains(&show(&dims(target))), "{error}");
            assert!(error.contains(&show(&dims(from))), "{error}");
        }
    }

    #[test]
    fn reshape_like_keeps_the_names_of_symbols() {
        let check = |from: &[&str], target: &[&str], ops: &[&str]| {
            let mut b = Builder::new("test", 17);
            b.input("x", DataType::F32, dims(from)).unwrap();
            b.input("like", DataType::F32, dims(target)).unwrap();
            let result = reshape_like(&mut b, "x", "like").unwrap();
            assert_eq!(b.shape(&result).unwrap(), &dims(target), "{from:?} to {target:?}");
            let found: Vec<String> = b.finish().nodes.into_iter().map(|n| n.op).collect();
            assert_eq!(found, ops, "{from:?} to {target:?}");
        };
        check(&["2", "6"], &["2", "6"], &[]);
        check(&["2", "6"], &["3", "4"], &["Reshape"]);
        check(&["batch", "6"], &["batch", "2", "3"], &["Reshape"]);
        check(&["1", "batch", "6"], &["batch", "6"], &["Reshape"]);
        check(&["a", "b", "6"], &["a", "6", "b"], &["Reshape"]);
        check(&["1", "a", "b"], &["a", "b"], &["Shape", "Reshape"]);
        check(&["flat"], &["batch", "2", "3"], &["Shape", "Reshape"]);
    }
}
