//! Rules of reductions.

use crate::emit;
use crate::error::GradError;
use crate::vjp::Vjp;

/// y = Σ x: dx = dy, repeated.
pub(super) fn sum(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = kept(v, &v.dy())?;
    spread(v, &dy)
}

/// y = Σ x / n: dx = dy / n, repeated.
pub(super) fn mean(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axes = axes(v)?;
    let dtype = v.g.value(v.x(0))?.dtype;
    let n = emit::count(v.g, v.x(0), &axes, dtype)?;
    let share = v.op("Div", &[&v.dy(), &n], &[])?;
    let share = kept(v, &share)?;
    spread(v, &share)
}

/// y = max x or min x: the elements equal to y share dy evenly, as in PyTorch's `amax`.
pub(super) fn extremum(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axes = axes(v)?;
    let (y, dy) = (kept(v, v.y(0))?, kept(v, &v.dy())?);
    share_among_equals(v, &y, &dy, &axes)
}

/// y = Σ x²: dx = 2 x dy.
pub(super) fn sum_square(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = kept_of_some(v, &v.dy())?;
    let twice = v.op("Add", &[&dy, &dy], &[])?;
    scale(v, v.x(0), &twice)
}

/// y = Σ |x|: dx = sign(x) dy.
pub(super) fn l1(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = kept_of_some(v, &v.dy())?;
    let sign = v.op("Sign", &[v.x(0)], &[])?;
    scale(v, &sign, &dy)
}

/// y = √Σ x²: dx = x dy / y, zero where all x are.
pub(super) fn l2(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = kept_of_some(v, &v.dy())?;
    let y = kept(v, v.y(0))?;
    // Where y is zero, so is x.
    let divisor = emit::nonzero(v.g, &y)?;
    let share = v.op("Div", &[&dy, &divisor], &[])?;
    scale(v, v.x(0), &share)
}

/// y = log Σ x: dx = dy / Σ x = dy / eʸ, repeated.
pub(super) fn log_sum(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = kept_of_some(v, &v.dy())?;
    let y = kept(v, v.y(0))?;
    let sum = v.op("Exp", &[&y], &[])?;
    let share = v.op("Div", &[&dy, &sum], &[])?;
    spread(v, &share)
}

/// y = log Σ eˣ: dx = eˣ⁻ʸ dy.
pub(super) fn log_sum_exp(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = kept_of_some(v, &v.dy())?;
    let y = kept(v, v.y(0))?;
    let below = v.op("Sub", &[v.x(0), &y], &[])?;
    let weight = v.op("Exp", &[&below], &[])?;
    scale(v, &weight, &dy)
}

/// y = Π x: dxᵢ = dy Π xⱼ over j ≠ i. That is dy y / xᵢ; with zeros in it, the product of all but the zeros if xᵢ is
/// the only one, else zero.
pub(super) fn product(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axes = axes(v)?;
    let dy = kept(v, &v.dy())?;
    if axes.is_empty() {
        v.set_dx(0, dy);
        return Ok(());
    }
    let is_zero = emit::is_zero(v.g, v.x(0))?;
    let divisor = v.op("Add", &[v.x(0), &is_zero], &[])?;
    let product = emit::reduce(v.g, "ReduceProd", &divisor, &axes, true)?;
    let n_zeros = emit::reduce(v.g, "ReduceSum", &is_zero, &axes, true)?;
    let n_other_zeros = v.op("Sub", &[&n_zeros, &is_zero], &[])?;
    let is_alone = emit::is_zero(v.g, &n_other_zeros)?;
    let dy = v.op("Mul", &[&dy, &product], &[])?;
    let share = v.op("Div", &[&dy, &divisor], &[])?;
    scale(v, &share, &is_alone)
}

fn scale(v: &mut Vjp<'_>, x: &str, by: &str) -> Result<(), GradError> {
    let dx = v.op("Mul", &[x, by], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// Spatial axes only, always kept: dx = dy / (number of positions), repeated.
pub(super) fn global_average(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axes: Vec<i64> = (2..v.x_shape(0)?.len() as i64).collect();
    let dtype = v.g.value(v.x(0))?.dtype;
    let n = emit::count(v.g, v.x(0), &axes, dtype)?;
    let share = v.op("Div", &[&v.dy(), &n], &[])?;
    spread(v, &share)
}

/// Spatial axes only, always kept: the positions equal to y share dy evenly.
pub(super) fn global_max(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axes: Vec<i64> = (2..v.x_shape(0)?.len() as i64).collect();
    share_among_equals(v, v.y(0), &v.dy(), &axes)
}

fn share_among_equals(v: &mut Vjp<'_>, y: &str, dy: &str, axes: &[i64]) -> Result<(), GradError> {
    let dtype = v.g.value(y)?.dtype;
    let equal = v.op("Equal", &[v.x(0), y], &[])?;
    let winners = emit::cast(v.g, &equal, dtype)?;
    let n_winners =
        if axes.is_empty() { winners.clone() } else { emit::reduce(v.g, "ReduceSum", &winners, axes, true)? };
    let share = v.op("Div", &[dy, &n_winners], &[])?;
    let dx = v.op("Mul", &[&winners, &share], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// The reduced axes, counted from the front.
fn axes(v: &Vjp<'_>) -> Result<Vec<i64>, GradError> {
    let rank = v.x_shape(0)?.len();
    let given = match v.node.input(1) {
        Some(_) => v.const_ints(1)?,
        None => v.node.ints("axes")?.unwrap_or_default().to_vec(),
    };
    if given.is_empty() && v.node.int("noop_with_empty_axes", 0)? != 0 {
        return Ok(given);
    }
    if given.is_empty() {
        return Ok((0..rank as i64).collect());
    }
    given.into_iter().map(|a| Ok(emit::axis(v.node, a, rank)? as i64)).collect()
}

/// As [`kept`], for operators that do more than reduce: with `noop_with_empty_axes` and no axes, releases of ONNX
/// differ in whether they do the rest.
fn kept_of_some(v: &mut Vjp<'_>, y: &str) -> Result<String, GradError> {
    if axes(v)?.is_empty() && !v.x_shape(0)?.is_empty() {
        return Err(emit::shape_error(v.node, "at least one axis", "none, with `noop_with_empty_axes`"));
    }
    kept(v, y)
}

/// `y`, or a value of its shape, with the reduced axes kept as 1.
fn kept(v: &mut Vjp<'_>, y: &str) -> Result<String, GradError> {
    let axes = axes(v)?;
    if axes.is_empty() || v.node.int("keepdims", 1)? != 0 {
        return Ok(y.to_owned());
    }
    let axes = v.g.ints(&axes)?;
    v.op("Unsqueeze", &[y, &axes], &[])
}

fn spread(v: &mut Vjp<'_>, gradient: &str) -> Result<(), GradError> {
    let dx = emit::expand_like(v.g, gradient, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}
