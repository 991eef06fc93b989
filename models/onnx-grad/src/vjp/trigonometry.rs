//! Rules of the circular and hyperbolic functions and of their inverses.

use crate::error::GradError;
use crate::vjp::Vjp;

/// y = sin x: dx = dy cos x.
pub(super) fn sin(v: &mut Vjp<'_>) -> Result<(), GradError> {
    times(v, "Cos")
}

/// y = cos x: dx = -dy sin x.
pub(super) fn cos(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let sin = v.op("Sin", &[v.x(0)], &[])?;
    let product = v.op("Mul", &[&v.dy(), &sin], &[])?;
    let dx = v.op("Neg", &[&product], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = tan x: dx = dy (1 + y²).
pub(super) fn tan(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let square = v.op("Mul", &[v.y(0), v.y(0)], &[])?;
    let one = one(v)?;
    let slope = v.op("Add", &[&one, &square], &[])?;
    v.set_dx_by_slope(&slope)
}

/// y = sinh x: dx = dy cosh x.
pub(super) fn sinh(v: &mut Vjp<'_>) -> Result<(), GradError> {
    times(v, "Cosh")
}

/// y = cosh x: dx = dy sinh x.
pub(super) fn cosh(v: &mut Vjp<'_>) -> Result<(), GradError> {
    times(v, "Sinh")
}

/// y = arcsin x: dx = dy / sqrt(1 - x²). Undefined at -1 and 1.
pub(super) fn asin(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dx = over_root(v, Squared::Below)?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = arccos x: dx = -dy / sqrt(1 - x²). Undefined at -1 and 1.
pub(super) fn acos(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dx = over_root(v, Squared::Below)?;
    let dx = v.op("Neg", &[&dx], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = arctan x: dx = dy / (1 + x²).
pub(super) fn atan(v: &mut Vjp<'_>) -> Result<(), GradError> {
    over(v, Squared::Plus)
}

/// y = arsinh x: dx = dy / sqrt(x² + 1).
pub(super) fn asinh(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dx = over_root(v, Squared::Plus)?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = arcosh x: dx = dy / sqrt(x² - 1). Undefined at 1.
pub(super) fn acosh(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dx = over_root(v, Squared::Above)?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = artanh x: dx = dy / (1 - x²). Undefined at -1 and 1, as y is.
pub(super) fn atanh(v: &mut Vjp<'_>) -> Result<(), GradError> {
    over(v, Squared::Below)
}

/// How x² stands to 1.
#[derive(Clone, Copy)]
enum Squared {
    /// x² + 1
    Plus,
    /// 1 - x²
    Below,
    /// x² - 1
    Above,
}

/// dx = dy f(x).
fn times(v: &mut Vjp<'_>, derivative: &str) -> Result<(), GradError> {
    let slope = v.op(derivative, &[v.x(0)], &[])?;
    v.set_dx_by_slope(&slope)
}

fn over(v: &mut Vjp<'_>, squared: Squared) -> Result<(), GradError> {
    let divisor = with_one(v, squared)?;
    let dx = v.op("Div", &[&v.dy(), &divisor], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

fn over_root(v: &mut Vjp<'_>, squared: Squared) -> Result<String, GradError> {
    let divisor = with_one(v, squared)?;
    let root = v.op("Sqrt", &[&divisor], &[])?;
    v.op("Div", &[&v.dy(), &root], &[])
}

fn with_one(v: &mut Vjp<'_>, squared: Squared) -> Result<String, GradError> {
    let square = v.op("Mul", &[v.x(0), v.x(0)], &[])?;
    let one = one(v)?;
    match squared {
        Squared::Plus => v.op("Add", &[&square, &one], &[]),
        Squared::Below => v.op("Sub", &[&one, &square], &[]),
        Squared::Above => v.op("Sub", &[&square, &one], &[]),
    }
}

fn one(v: &mut Vjp<'_>) -> Result<String, GradError> {
    v.g.scalar(v.g.value(v.x(0))?.dtype, 1.0)
}
