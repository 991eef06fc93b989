//! Rules of windowed pooling, any number of spatial axes.

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::Node;
use crate::vjp::linear::{self, Matrix};
use crate::vjp::window::{self, Axis};
use crate::vjp::{Lowered, Mode, Vjp};

/// The pool with its second output, the flat index of each maximum in X.
pub(super) fn lower_max(b: &mut Builder, node: &Node, _: &Mode) -> Result<Lowered, GradError> {
    if node.output(1).is_some() && node.int("storage_order", 0)? != 0 {
        return Err(emit::shape_error(node, "`Indices` in row-major order", "`storage_order` 1"));
    }
    let indices = emit::output_or_fresh(b, node, 1, "Indices");
    let mut training = rounded_down(b, node)?;
    training.outputs = vec![node.outputs[0].clone(), indices.clone()];
    b.push(training)?;
    Ok(Lowered::saving([("indices", indices)]))
}

/// The pool as [`rounded_down`] writes it.
pub(super) fn lower(b: &mut Builder, node: &Node, _: &Mode) -> Result<Lowered, GradError> {
    let training = rounded_down(b, node)?;
    b.push(training)?;
    Ok(Lowered::default())
}

/// The same pool without `ceil_mode` where a last window would start in the end padding.
///
/// That window does not count, but before opset 22 ONNX Runtime expects it when it infers shapes, and then
/// refuses whatever has the shape that the pool really gives.
fn rounded_down(b: &Builder, node: &Node) -> Result<Node, GradError> {
    let mut plain = node.clone();
    let Some(kernel) = node.ints("kernel_shape")? else { return Ok(plain) };
    if node.int("ceil_mode", 0)? == 0 || node.string("auto_pad", "NOTSET")? != "NOTSET" {
        return Ok(plain);
    }
    let axes = window::axes(node, b.shape(&node.inputs[0])?, None, kernel)?;
    let n_windows = |a: &Axis| {
        let room = a.begin + a.input + a.end - a.extent();
        (room + a.stride - 1).div_euclid(a.stride) + 1
    };
    let starts_behind = |a: &Axis| (n_windows(a) - 1) * a.stride >= a.begin + a.input;
    // What hangs over the end padding as more of it, unless that changes what is divided by.
    let is_counted = node.int("count_include_pad", 0)? != 0 && b.opset() >= 19;
    let overhang = |a: &Axis| {
        let needed = (n_windows(a) - 1) * a.stride + a.extent() - a.begin - a.input - a.end;
        if starts_behind(a) { 0 } else { needed.max(0) }
    };
    let grows = axes.iter().any(|a| overhang(a) > 0);
    if !axes.iter().any(starts_behind) || (grows && is_counted) {
        return Ok(plain);
    }
    let begins = axes.iter().map(|a| a.begin);
    let pads: Vec<i64> = begins.chain(axes.iter().map(|a| a.end + overhang(a))).collect();
    plain.attributes.remove("ceil_mode");
    plain.attributes.insert("pads".to_owned(), pads.into());
    Ok(plain)
}

/// Each maximum's gradient goes to the element it came from (the first one where several are equal); where
/// windows overlap they add up. Saves the indices.
pub(super) fn max(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axes = read(v)?;
    let indices = emit::reshape(v.g, v.saved("indices"), &[-1])?;
    let dy = v.dy();
    let dy = emit::reshape(v.g, &dy, &[-1])?;
    let zeros = emit::zeros_like(v.g, v.x(0))?;
    let zeros = emit::reshape(v.g, &zeros, &[-1])?;
    // `add` is slower, and on GPUs its order of summation varies: only where an index can repeat.
    let reduction = if axes.iter().any(|a| a.stride < a.extent()) { "add" } else { "none" };
    let scattered = v.op(
        "ScatterElements",
        &[&zeros, &indices, &dy],
        &[("axis", 0_i64.into()), ("reduction", reduction.into())],
    )?;
    let dx = emit::reshape_like(v.g, &scattered, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

/// Averaging is linear and separable: with one matrix A `[output, input]` per spatial axis, for two of them
/// Y = A X Bᵀ and dX = Aᵀ dY B. That covers every stride, padding, dilation and rounding by small products.
pub(super) fn average(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axes = read(v)?;
    let include_pad = v.node.int("count_include_pad", 0)? != 0;
    // Until opset 18 the divisor was the whole window, even where rounding up moves it beyond the padding.
    let whole_window = v.g.opset() < 19;
    let mut matrices = Vec::new();
    for (i, axis) in (2..).zip(&axes) {
        matrices.push((i, averaging_matrix(v, axis, include_pad, whole_window)?));
    }
    let dx = linear::transposed(v, &v.dy(), &matrices)?;
    v.set_dx(0, dx);
    Ok(())
}

/// Y = (Σ |x|^p)^(1/p) over each window: dX = sign(x) |x|^(p-1) Σ dy y^(1-p), the sum over the windows that x is
/// in. Where y = 0, 0 is taken.
pub(super) fn lp(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axes = read(v)?;
    let p = v.node.int("p", 2)?;
    let dy = v.dy();
    let share = norm_share(v, &dy, p)?;
    let mut matrices = Vec::new();
    for (i, axis) in (2..).zip(&axes) {
        matrices.push((i, summing_matrix(v, axis)?));
    }
    let summed = linear::transposed(v, &share, &matrices)?;
    let slope = norm_slope(v, p)?;
    let dx = v.op("Mul", &[&slope, &summed], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// As [`lp`], with all positions in one window.
pub(super) fn global_lp(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let p = v.node.int("p", 2)?;
    let dy = v.dy();
    let share = norm_share(v, &dy, p)?;
    let slope = norm_slope(v, p)?;
    let dx = v.op("Mul", &[&slope, &share], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// dy y^(1-p); any number where y = 0, as each x of that norm is 0 and so is its slope.
fn norm_share(v: &mut Vjp<'_>, dy: &str, p: i64) -> Result<String, GradError> {
    if p == 1 {
        return Ok(dy.to_owned());
    }
    let divisor = emit::nonzero(v.g, v.y(0))?;
    let divisor = power(v, &divisor, p - 1)?;
    v.op("Div", &[dy, &divisor], &[])
}

/// sign(x) |x|^(p-1).
fn norm_slope(v: &mut Vjp<'_>, p: i64) -> Result<String, GradError> {
    if p == 2 {
        return Ok(v.x(0).to_owned());
    }
    let sign = v.op("Sign", &[v.x(0)], &[])?;
    if p == 1 {
        return Ok(sign);
    }
    let size = v.op("Mul", &[v.x(0), &sign], &[])?;
    let size = power(v, &size, p - 1)?;
    v.op("Mul", &[&size, &sign], &[])
}

fn power(v: &mut Vjp<'_>, x: &str, exponent: i64) -> Result<String, GradError> {
    if exponent == 1 {
        return Ok(x.to_owned());
    }
    let dtype = v.g.value(x)?.dtype;
    let exponent = v.g.scalar(dtype, exponent as f64)?;
    v.op("Pow", &[x, &exponent], &[])
}

/// 1 where the window covers the position.
fn summing_matrix(v: &Vjp<'_>, axis: &Axis) -> Result<Matrix, GradError> {
    let mut matrix = Matrix::zeros(v.g, axis.output as usize, axis.input as usize)?;
    for output in 0..axis.output {
        let start = output * axis.stride - axis.begin;
        for k in axis.before(start, 0)..axis.before(start, axis.input) {
            matrix.add(output as usize, (start + k * axis.dilation) as usize, 1.0);
        }
    }
    Ok(matrix)
}

/// The weight of each input position in each output position.
fn averaging_matrix(
    v: &Vjp<'_>,
    axis: &Axis,
    include_pad: bool,
    whole_window: bool,
) -> Result<Matrix, GradError> {
    let mut matrix = Matrix::zeros(v.g, axis.output as usize, axis.input as usize)?;
    for output in 0..axis.output {
        let start = output * axis.stride - axis.begin;
        let inside = axis.before(start, 0)..axis.before(start, axis.input);
        let n_counted = match (include_pad, whole_window) {
            (false, _) => inside.end - inside.start,
            (true, true) => axis.kernel,
            (true, false) => axis.before(start, axis.input + axis.end),
        };
        for k in inside {
            matrix.add(output as usize, (start + k * axis.dilation) as usize, 1.0 / n_counted as f64);
        }
    }
    Ok(matrix)
}

fn read(v: &Vjp<'_>) -> Result<Vec<Axis>, GradError> {
    let kernel = v.node.ints("kernel_shape")?;
    let kernel = kernel.ok_or_else(|| emit::shape_error(v.node, "attribute `kernel_shape`", "none"))?;
    window::axes(v.node, &v.x_shape(0)?, Some(&v.y_shape(0)?), kernel)
}
