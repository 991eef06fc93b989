//! Rules of LRN and LpNormalization.

use crate::emit;
use crate::error::GradError;
use crate::graph::{DataType, Dim, Tensor};
use crate::vjp::Vjp;

/// y = x dᵝ⁻, with d = bias + alpha / size * Σ x² over a window of channels, and dᵝ⁻ = d^-beta:
/// dx = dy dᵝ⁻ - 2 alpha beta / size * x Σ (dy y / d), the sum over the windows that x is in.
///
/// Both sums are products with a band matrix `[C, C]`: on ONNX Runtime's CPU provider a small part of the rest.
pub(super) fn lrn(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let shape = v.x_shape(0)?;
    let Some(n_channels) = shape.get(1).and_then(Dim::size) else {
        return Err(emit::shape_error(v.node, "a number of channels", emit::show(&shape)));
    };
    let dtype = v.g.value(v.x(0))?.dtype;
    let size = v.node.int("size", 1)?;
    if size % 2 == 0 {
        return Err(emit::shape_error(
            v.node,
            "an odd `size`, as ONNX Runtime's kernels do",
            size.to_string(),
        ));
    }
    let attribute = |name, default| v.node.float(name, default).map(f64::from);
    let (alpha, beta, bias) = (attribute("alpha", 1e-4)?, attribute("beta", 0.75)?, attribute("bias", 1.0)?);
    let share = alpha / size as f64;

    let flat = [0, n_channels as i64, -1];
    let x = emit::reshape(v.g, v.x(0), &flat)?;
    let dy = v.dy();
    let dy = emit::reshape(v.g, &dy, &flat)?;
    let dims = [n_channels, n_channels];
    v.g.room_for(DataType::F64, &dims)?;
    let window = v.g.constant(Tensor::from_f64(dtype, &dims, &band(n_channels, size, share))?)?;
    let square = v.op("Mul", &[&x, &x], &[])?;
    let d = v.op("MatMul", &[&window, &square], &[])?;
    let bias = v.g.scalar(dtype, bias)?;
    let d = v.op("Add", &[&d, &bias], &[])?;
    let minus_beta = v.g.scalar(dtype, -beta)?;
    let power = v.op("Pow", &[&d, &minus_beta], &[])?;
    let direct = v.op("Mul", &[&dy, &power], &[])?;
    let through = v.op("Mul", &[&direct, &x], &[])?;
    let through = v.op("Div", &[&through, &d], &[])?;
    let window =
        v.g.constant(Tensor::from_f64(dtype, &dims, &band(n_channels, size, 2.0 * beta * share))?)?;
    let through = v.op("MatMul", &[&window, &through], &[])?;
    let through = v.op("Mul", &[&through, &x], &[])?;
    let dx = v.op("Sub", &[&direct, &through], &[])?;
    let dx = emit::reshape_like(v.g, &dx, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

/// Row major: `value` where the column's channel is in the row's window.
fn band(n_channels: usize, size: i64, value: f64) -> Vec<f64> {
    let n = n_channels as i64;
    (0..n)
        .flat_map(|row| (0..n).map(move |column| (column - row).abs()))
        .map(|distance| if distance <= size / 2 { value } else { 0.0 })
        .collect()
}

/// y = x / n with the norm n along one axis: dx = (dy - s Σ dy y) / n, with s = y for p = 2 and s = sign x for
/// p = 1.
///
/// Where n = 0, ONNX Runtime gives y = 0, and dx = 0 is taken.
pub(super) fn lp_normalization(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let rank = v.x_shape(0)?.len();
    let axes = [emit::axis(v.node, v.node.int("axis", -1)?, rank)? as i64];
    let dtype = v.g.value(v.x(0))?.dtype;
    let p = v.node.int("p", 2)?;
    let (direction, norm) = match p {
        1 => {
            let sign = v.op("Sign", &[v.x(0)], &[])?;
            let size = v.op("Mul", &[v.x(0), &sign], &[])?;
            (sign, emit::reduce(v.g, "ReduceSum", &size, &axes, true)?)
        }
        2 => (v.y(0).to_owned(), emit::reduce(v.g, "ReduceL2", v.x(0), &axes, true)?),
        _ => return Err(emit::shape_error(v.node, "`p` of 1 or 2", p.to_string())),
    };
    let one = v.g.scalar(dtype, 1.0)?;
    let is_positive = v.op("Sign", &[&norm], &[])?;
    let is_zero = v.op("Sub", &[&one, &is_positive], &[])?;
    let divisor = v.op("Add", &[&norm, &is_zero], &[])?;
    let inverse = v.op("Div", &[&is_positive, &divisor], &[])?;
    let dy = v.dy();
    let product = v.op("Mul", &[&dy, v.y(0)], &[])?;
    let slope = emit::reduce(v.g, "ReduceSum", &product, &axes, true)?;
    let along = v.op("Mul", &[&direction, &slope], &[])?;
    let across = v.op("Sub", &[&dy, &along], &[])?;
    let dx = v.op("Mul", &[&across, &inverse], &[])?;
    v.set_dx(0, dx);
    Ok(())
}
