//! Evaluates what exporters compute with shapes: small integer and boolean tensors, by number or by symbol.
//!
//! A value's content is known where it can be computed here; whatever else a node computes stays unknown,
//! and shapes that depend on it are refused where they are needed.

use super::int::Int;
use crate::graph::{Attribute, DataType, Node};

/// Tensors with more elements are data, not shapes, and are not followed.
pub(super) const MAX_ELEMENTS: usize = 1 << 16;

/// An integer or boolean tensor whose content is known. Booleans are 0 and 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub dims: &'a [usize],
    pub content: &'a [Int],
}

impl Known<'_> {
    fn scalar(&self) -> Option<&Int> {
        self.content.first().filter(|_| self.content.len() == 1)
    }

    fn numbers(&self) -> Option<Vec<i64>> {
        self.content.iter().map(Int::number).collect()
    }
}

/// Content of the first output of `node`, of type `dtype` and shape `dims`. `None` where it is not followed.
pub(super) fn fold(
    node: &Node,
    inputs: &[Option<Known<'_>>],
    dtype: DataType,
    dims: &[usize],
) -> Option<Vec<Int>> {
    evaluate(node, inputs, dtype, dims)?.into_iter().map(|int| held(int, dtype)).collect()
}

/// `int` as an element of type `dtype`; `None` where it does not fit.
fn held(int: Int, dtype: DataType) -> Option<Int> {
    match dtype {
        DataType::I32 => int.number().is_none_or(|n| i32::try_from(n).is_ok()).then_some(int),
        _ => Some(int),
    }
}

fn evaluate(node: &Node, inputs: &[Option<Known<'_>>], dtype: DataType, dims: &[usize]) -> Option<Vec<Int>> {
    let n_elements = dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(d))?;
    if n_elements > MAX_ELEMENTS {
        return None;
    }
    if n_elements == 0 {
        return Some(Vec::new());
    }
    let x = |i: usize| inputs.get(i).copied().flatten();
    match node.op.as_str() {
        "Cast" | "CastLike" => cast(dtype, x(0)?),
        "Identity" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
            Some(x(0)?.content.to_vec()).filter(|content| content.len() == n_elements)
        }
        "Add" => zip(x(0)?, x(1)?, dims, Int::checked_add),
        "Sub" => zip(x(0)?, x(1)?, dims, |a, b| a.checked_add(&b.checked_neg()?)),
        "Mul" => zip(x(0)?, x(1)?, dims, Int::checked_mul),
        "Div" => zip(x(0)?, x(1)?, dims, Int::checked_div),
        "Mod" if node.int("fmod", 0).ok()? == 0 => {
            zip(x(0)?, x(1)?, dims, |a, b| modulo(a.number()?, b.number()?).map(Int::from))
        }
        "Max" if inputs.len() == 2 => zip(x(0)?, x(1)?, dims, |a, b| numbers(a, b, |a, b| a.max(b))),
        "Min" if inputs.len() == 2 => zip(x(0)?, x(1)?, dims, |a, b| numbers(a, b, |a, b| a.min(b))),
        "Equal" => zip(x(0)?, x(1)?, dims, |a, b| a.is_equal(b).map(truth)),
        "Less" => zip(x(0)?, x(1)?, dims, |a, b| numbers(a, b, |a, b| i64::from(a < b))),
        "LessOrEqual" => zip(x(0)?, x(1)?, dims, |a, b| numbers(a, b, |a, b| i64::from(a <= b))),
        "Greater" => zip(x(0)?, x(1)?, dims, |a, b| numbers(a, b, |a, b| i64::from(a > b))),
        "GreaterOrEqual" => zip(x(0)?, x(1)?, dims, |a, b| numbers(a, b, |a, b| i64::from(a >= b))),
        "And" => zip(x(0)?, x(1)?, dims, |a, b| numbers(a, b, |a, b| a & b)),
        "Or" => zip(x(0)?, x(1)?, dims, |a, b| numbers(a, b, |a, b| a | b)),
        "Not" => x(0)?.content.iter().map(|a| a.number().map(|a| truth(a == 0))).collect(),
        "Neg" => x(0)?.content.iter().map(Int::checked_neg).collect(),
        "Where" => choose(x(0)?, x(1)?, x(2)?, dims),
        "Expand" => spread(x(0)?, dims),
        "ConstantOfShape" => Some(vec![constant_of_shape(node)?; n_elements]),
        "Range" => range(x(0)?, x(1)?, x(2)?),
        "Concat" => concat(node, inputs, dims),
        "Gather" => gather(node, x(0)?, x(1)?),
        "Slice" => slice(inputs, x(0)?, dims),
        "Transpose" => transpose(node, x(0)?, dims),
        "ReduceProd" if n_elements == 1 => {
            x(0)?.content.iter().try_fold(Int::from(1), |product, a| product.checked_mul(a)).map(|p| vec![p])
        }
        _ => None,
    }
}

/// Integers as integers or booleans; a symbol is neither zero nor negative.
fn cast(to: DataType, x: Known<'_>) -> Option<Vec<Int>> {
    let cast = |a: &Int| match (to, a.number()) {
        (DataType::Bool, Some(a)) => Some(truth(a != 0)),
        (DataType::Bool, None) => a.is_equal(&Int::from(0)).map(|zero| truth(!zero)),
        (DataType::I32, Some(number)) => i32::try_from(number).ok().map(|_| a.clone()),
        (DataType::I32 | DataType::I64, _) => Some(a.clone()),
        _ => None,
    };
    x.content.iter().map(cast).collect()
}

fn truth(value: bool) -> Int {
    Int::from(i64::from(value))
}

/// The rest that has the divisor's sign.
fn modulo(a: i64, b: i64) -> Option<i64> {
    let rest = a.checked_rem(b)?;
    Some(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
}

fn numbers(a: &Int, b: &Int, f: impl Fn(i64, i64) -> i64) -> Option<Int> {
    Some(Int::from(f(a.number()?, b.number()?)))
}

/// Index in a tensor of shape `from` of every element of `dims` that it is broadcast to, in row-major order.
fn broadcast_index(from: &[usize], dims: &[usize]) -> Option<Vec<usize>> {
    let n_leading = dims.len().checked_sub(from.len())?;
    let mut index = vec![0];
    for (axis, &dim) in dims.iter().enumerate() {
        let size = axis.checked_sub(n_leading).map_or(1, |a| from[a]);
        if size != 1 && size != dim {
            return None;
        }
        let step = if size == 1 { 0 } else { 1 };
        index = index.iter().flat_map(|i| (0..dim).map(move |k| i * size + k * step)).collect();
    }
    Some(index)
}

fn spread(x: Known<'_>, dims: &[usize]) -> Option<Vec<Int>> {
    broadcast_index(x.dims, dims)?.into_iter().map(|i| x.content.get(i).cloned()).collect()
}

fn zip(
    a: Known<'_>,
    b: Known<'_>,
    dims: &[usize],
    f: impl Fn(&Int, &Int) -> Option<Int>,
) -> Option<Vec<Int>> {
    spread(a, dims)?.iter().zip(&spread(b, dims)?).map(|(a, b)| f(a, b)).collect()
}

fn choose(condition: Known<'_>, a: Known<'_>, b: Known<'_>, dims: &[usize]) -> Option<Vec<Int>> {
    let (condition, a, b) = (spread(condition, dims)?, spread(a, dims)?, spread(b, dims)?);
    condition
        .iter()
        .zip(a.into_iter().zip(b))
        .map(|(c, (a, b))| Some(if c.number()? == 0 { b } else { a }))
        .collect()
}

fn constant_of_shape(node: &Node) -> Option<Int> {
    match node.attributes.get("value") {
        Some(Attribute::Tensor(value)) => super::integers(value)?.into_iter().next(),
        _ => None,
    }
}

fn range(start: Known<'_>, limit: Known<'_>, delta: Known<'_>) -> Option<Vec<Int>> {
    let (start, limit, delta) =
        (start.scalar()?.number()?, limit.scalar()?.number()?, delta.scalar()?.number()?);
    let n = super::movement::range_len(start, limit, delta)?;
    if n > MAX_ELEMENTS {
        return None;
    }
    (0..n as i64).map(|i| Some(Int::from(start.checked_add(i.checked_mul(delta)?)?))).collect()
}

/// An axis counted from the front.
fn axis(axis: i64, rank: usize) -> Option<usize> {
    let from_front = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(from_front).ok().filter(|&a| a < rank)
}

/// (elements before `axis`, along it, behind it)
fn around(dims: &[usize], axis: usize) -> (usize, usize, usize) {
    (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product())
}

fn concat(node: &Node, inputs: &[Option<Known<'_>>], dims: &[usize]) -> Option<Vec<Int>> {
    let axis = axis(node.int("axis", 0).ok()?, dims.len())?;
    let parts: Vec<Known<'_>> = inputs.iter().copied().collect::<Option<_>>()?;
    let mut content = Vec::new();
    for outer in 0..dims[..axis].iter().product() {
        for part in &parts {
            let n: usize = part.dims[axis..].iter().product();
            content.extend_from_slice(part.content.get(outer * n..(outer + 1) * n)?);
        }
    }
    debug_assert_eq!(content.len(), dims.iter().product::<usize>());
    Some(content)
}

fn gather(node: &Node, x: Known<'_>, indices: Known<'_>) -> Option<Vec<Int>> {
    let axis = axis(node.int("axis", 0).ok()?, x.dims.len())?;
    let (n_outer, size, n_inner) = around(x.dims, axis);
    let mut content = Vec::new();
    for outer in 0..n_outer {
        for index in indices.numbers()? {
            let index = if index < 0 { index + size as i64 } else { index };
            let index = usize::try_from(index).ok().filter(|&i| i < size)?;
            let start = (outer * size + index) * n_inner;
            content.extend_from_slice(x.content.get(start..start + n_inner)?);
        }
    }
    Some(content)
}

fn slice(inputs: &[Option<Known<'_>>], x: Known<'_>, dims: &[usize]) -> Option<Vec<Int>> {
    let numbers = |i: usize, default: Vec<i64>| match inputs.get(i) {
        None => Some(default),
        Some(known) => known.as_ref()?.numbers(),
    };
    let starts = numbers(1, Vec::new())?;
    let ends = numbers(2, Vec::new())?;
    let axes = numbers(3, (0..starts.len() as i64).collect())?;
    let steps = numbers(4, vec![1; starts.len()])?;
    let mut picked: Vec<Vec<usize>> = x.dims.iter().map(|&d| (0..d).collect()).collect();
    for (((&start, &end), &a), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let axis = axis(a, x.dims.len())?;
        picked[axis] = super::movement::picked(start, end, step, x.dims[axis]).positions().collect();
    }
    let mut index = vec![0];
    for (positions, &size) in picked.iter().zip(x.dims) {
        index = index.iter().flat_map(|i| positions.iter().map(move |p| i * size + p)).collect();
    }
    debug_assert_eq!(index.len(), dims.iter().product::<usize>());
    index.into_iter().map(|i| x.content.get(i).cloned()).collect()
}

fn transpose(node: &Node, x: Known<'_>, dims: &[usize]) -> Option<Vec<Int>> {
    let rank = x.dims.len();
    let perm: Vec<usize> = match node.ints("perm").ok()? {
        None => (0..rank).rev().collect(),
        Some(perm) => perm.iter().map(|&p| axis(p, rank)).collect::<Option<_>>()?,
    };
    let strides: Vec<usize> = (0..rank).map(|a| x.dims[a + 1..].iter().product()).collect();
    let mut index = vec![0];
    for (&dim, stride) in dims.iter().zip(perm.iter().map(|&p| strides[p])) {
        index = index.iter().flat_map(|i| (0..dim).map(move |k| i + k * stride)).collect();
    }
    index.into_iter().map(|i| x.content.get(i).cloned()).collect()
}
