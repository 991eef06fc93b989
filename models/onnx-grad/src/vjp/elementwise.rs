//! Rules of operators that work element by element, broadcasting both ways where they take two inputs.

use crate::emit;
use crate::error::GradError;
use crate::graph::{DataType, Tensor};
use crate::vjp::Vjp;

/// Add and Sum, y = x0 + x1 + …: every input gets dy.
pub(super) fn sum(v: &mut Vjp<'_>) -> Result<(), GradError> {
    for i in 0..v.node.inputs.len() {
        if v.needs(i) {
            v.set_dx_summed(i, &v.dy())?;
        }
    }
    Ok(())
}

/// y = (x0 + x1 + …) / n: every input gets dy / n.
pub(super) fn mean(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let n = v.g.scalar(v.g.value(v.y(0))?.dtype, v.node.inputs.len() as f64)?;
    let share = v.op("Div", &[&v.dy(), &n], &[])?;
    for i in 0..v.node.inputs.len() {
        if v.needs(i) {
            v.set_dx_summed(i, &share)?;
        }
    }
    Ok(())
}

/// y = a - b: da = dy, db = -dy.
pub(super) fn sub(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    if v.needs(0) {
        v.set_dx_summed(0, &dy)?;
    }
    if v.needs(1) {
        let shape = v.x_shape(1)?;
        let summed = emit::unbroadcast(v.g, &dy, &shape)?;
        let db = v.op("Neg", &[&summed], &[])?;
        v.set_dx(1, db);
    }
    Ok(())
}

/// y = a * b: da = dy * b, db = dy * a.
pub(super) fn mul(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    for i in 0..2 {
        if v.needs(i) {
            let product = v.op("Mul", &[&dy, v.x(1 - i)], &[])?;
            v.set_dx_summed(i, &product)?;
        }
    }
    Ok(())
}

/// y = a / b: da = dy / b, db = -(dy / b) * y. Undefined at b = 0, as y is.
pub(super) fn div(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    let da = v.op("Div", &[&dy, v.x(1)], &[])?;
    if v.needs(0) {
        v.set_dx_summed(0, &da)?;
    }
    if v.needs(1) {
        let product = v.op("Mul", &[&da, v.y(0)], &[])?;
        let shape = v.x_shape(1)?;
        let summed = emit::unbroadcast(v.g, &product, &shape)?;
        let db = v.op("Neg", &[&summed], &[])?;
        v.set_dx(1, db);
    }
    Ok(())
}

/// y = a - b k for a whole number k: da = dy, db = -dy * k.
pub(super) fn modulo(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    if v.needs(0) {
        v.set_dx_summed(0, &dy)?;
    }
    if v.needs(1) {
        let multiple = v.op("Sub", &[v.y(0), v.x(0)], &[])?;
        let quotient = v.op("Div", &[&multiple, v.x(1)], &[])?;
        let minus_k = v.op("Round", &[&quotient], &[])?;
        let db = v.op("Mul", &[&dy, &minus_k], &[])?;
        v.set_dx_summed(1, &db)?;
    }
    Ok(())
}

/// y = x ^ e: dx = dy * e * x ^ (e - 1), de = dy * y * ln x.
///
/// Undefined: dx at x = 0 for e < 1 (for e = 0 too, where the limit is 0), de at x <= 0. At x = 0 we take de = 0.
pub(super) fn pow(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    let dtype = v.g.value(v.x(0))?.dtype;
    if v.needs(0) {
        let square = !v.needs(1) && v.g.constant_content(v.x(1)).is_some_and(is_two);
        let dx = if square {
            // Losses and norms are made of squares; Pow is many times dearer than Mul.
            let twice = v.op("Add", &[v.x(0), v.x(0)], &[])?;
            v.op("Mul", &[&dy, &twice], &[])?
        } else {
            let exponent = if v.g.value(v.x(1))?.dtype == dtype {
                v.x(1).to_owned()
            } else {
                emit::cast(v.g, v.x(1), dtype)?
            };
            let one = v.g.scalar(dtype, 1.0)?;
            let less = v.op("Sub", &[&exponent, &one], &[])?;
            let power = v.op("Pow", &[v.x(0), &less], &[])?;
            let slope = v.op("Mul", &[&exponent, &power], &[])?;
            v.op("Mul", &[&dy, &slope], &[])?
        };
        v.set_dx_summed(0, &dx)?;
    }
    if v.needs(1) {
        // 0 * ln 0 would be no number.
        let base = emit::nonzero(v.g, v.x(0))?;
        let ln = v.op("Log", &[&base], &[])?;
        let slope = v.op("Mul", &[v.y(0), &ln], &[])?;
        let de = v.op("Mul", &[&dy, &slope], &[])?;
        let de = if v.g.value(v.x(1))?.dtype == dtype {
            de
        } else {
            let exponent = v.g.value(v.x(1))?.dtype;
            emit::cast(v.g, &de, exponent)?
        };
        v.set_dx_summed(1, &de)?;
    }
    Ok(())
}

fn is_two(exponent: &Tensor) -> bool {
    let two = match exponent.dtype {
        DataType::I64 => 2_i64.to_le_bytes().to_vec(),
        DataType::I32 => 2_i32.to_le_bytes().to_vec(),
        dtype => Tensor::scalar(dtype, 2.0).map_or_else(|_| Vec::new(), |t| t.bytes),
    };
    exponent.bytes == two
}

/// y = -x: dx = -dy.
pub(super) fn neg(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dx = v.op("Neg", &[&v.dy()], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = |x|: dx = dy sign(x). At 0 we take 0.
pub(super) fn abs(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let sign = v.op("Sign", &[v.x(0)], &[])?;
    v.set_dx_by_slope(&sign)
}

/// y = 1 / x: dx = -dy * y². Undefined at 0, as y is.
pub(super) fn reciprocal(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let square = v.op("Mul", &[v.y(0), v.y(0)], &[])?;
    let product = v.op("Mul", &[&v.dy(), &square], &[])?;
    let dx = v.op("Neg", &[&product], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = sqrt x: dx = dy / 2y. Undefined at 0.
pub(super) fn sqrt(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let twice = v.op("Add", &[v.y(0), v.y(0)], &[])?;
    let dx = v.op("Div", &[&v.dy(), &twice], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = e^x: dx = dy * y.
pub(super) fn exp(v: &mut Vjp<'_>) -> Result<(), GradError> {
    v.set_dx_by_slope(v.y(0))
}

/// y = ln x: dx = dy / x.
pub(super) fn log(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dx = v.op("Div", &[&v.dy(), v.x(0)], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = 1 / (1 + e^-x): dx = dy * (y - y²).
pub(super) fn sigmoid(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let square = v.op("Mul", &[v.y(0), v.y(0)], &[])?;
    let slope = v.op("Sub", &[v.y(0), &square], &[])?;
    v.set_dx_by_slope(&slope)
}

/// y = tanh x: dx = dy * (1 - y²).
pub(super) fn tanh(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let one = v.g.scalar(v.g.value(v.y(0))?.dtype, 1.0)?;
    let square = v.op("Mul", &[v.y(0), v.y(0)], &[])?;
    let slope = v.op("Sub", &[&one, &square], &[])?;
    v.set_dx_by_slope(&slope)
}

/// y = x: dx = dy.
pub(super) fn identity(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    v.set_dx(0, dy);
    Ok(())
}

/// Between floating types: dx = dy, cast back. Integers get no gradient.
pub(super) fn cast(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dtype = v.g.value(v.x(0))?.dtype;
    if dtype.is_float() {
        let dy = v.dy();
        let dx = emit::cast(v.g, &dy, dtype)?;
        v.set_dx(0, dx);
    }
    Ok(())
}

/// y = c ? a : b: da = dy where c, db = dy where not c.
pub(super) fn r#where(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    if v.needs(1) {
        let da = v.masked(&dy, v.x(0))?;
        v.set_dx_summed(1, &da)?;
    }
    if v.needs(2) {
        let otherwise = v.op("Not", &[v.x(0)], &[])?;
        let db = v.masked(&dy, &otherwise)?;
        v.set_dx_summed(2, &db)?;
    }
    Ok(())
}

/// Max and Min: the inputs equal to y share dy evenly, as in PyTorch.
pub(super) fn extremum(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dtype = v.g.value(v.y(0))?.dtype;
    let mut winners = Vec::new();
    for i in 0..v.node.inputs.len() {
        let equal = v.op("Equal", &[v.x(i), v.y(0)], &[])?;
        winners.push(emit::cast(v.g, &equal, dtype)?);
    }
    let names: Vec<&str> = winners.iter().map(String::as_str).collect();
    let n_winners = v.op("Sum", &names, &[])?;
    let share = v.op("Div", &[&v.dy(), &n_winners], &[])?;
    for (i, winner) in winners.iter().enumerate() {
        if v.needs(i) {
            let dx = v.op("Mul", &[&share, winner], &[])?;
            v.set_dx_summed(i, &dx)?;
        }
    }
    Ok(())
}
