//! LayerNormalization.

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{DataType, Dim, Node, Tensor};
use crate::vjp::{Lowered, Mode, Vjp};

/// The node with its outputs `Mean` and `InvStdDev`, which are saved.
///
/// Those are float32 whatever the input's type is: for another type both are computed beside the node.
pub(super) fn lower(b: &mut Builder, node: &Node, _: &Mode) -> Result<Lowered, GradError> {
    let x = node.inputs[0].as_str();
    let dtype = b.value(x)?.dtype;
    let (mean, inverse_std) = if dtype == DataType::F32 {
        let mean = emit::output_or_fresh(b, node, 1, "Mean");
        let inverse_std = emit::output_or_fresh(b, node, 2, "InvStdDev");
        let mut training = node.clone();
        training.outputs = vec![node.outputs[0].clone(), mean.clone(), inverse_std.clone()];
        b.push(training)?;
        (mean, inverse_std)
    } else {
        b.push(node.clone())?;
        let rank = b.shape(x)?.len();
        let first = emit::axis(node, node.int("axis", -1)?, rank)?;
        let axes: Vec<i64> = (first as i64..rank as i64).collect();
        let mean = emit::reduce(b, "ReduceMean", x, &axes, true)?;
        let centred = b.op("Sub", &[x, &mean], &[])?;
        let square = b.op("Mul", &[&centred, &centred], &[])?;
        let var = emit::reduce(b, "ReduceMean", &square, &axes, true)?;
        let epsilon = b.scalar(dtype, node.float("epsilon", 1e-5)?.into())?;
        let shifted = b.op("Add", &[&var, &epsilon], &[])?;
        let std = b.op("Sqrt", &[&shifted], &[])?;
        (mean, b.op("Reciprocal", &[&std], &[])?)
    };
    Ok(Lowered::saving([("mean", mean), ("inverse_std", inverse_std)]))
}

/// Y = scale * x̂ + bias, x̂ = (X - mean) / sqrt(var + epsilon) over the axes from `axis` on.
///
/// With g = dy * scale: dX = (g - mean(g) - x̂ mean(g x̂)) / sqrt(var + epsilon), dscale = Σ dy x̂ and
/// dbias = Σ dy over the axes before `axis`.
pub(super) fn layer_norm(v: &mut Vjp<'_>) -> Result<(), GradError> {
    if v.dy_at(1).or(v.dy_at(2)).is_some() {
        return Err(emit::shape_error(v.node, "a loss that depends on the first output only", "`Mean`"));
    }
    let n_normalised = normalised(v)?;
    let (mean, inverse_std) = (v.saved("mean"), v.saved("inverse_std"));
    // Everything as a matrix [rows, normalised].
    let dy = rows(v, &v.dy(), n_normalised)?;
    let x = rows(v, v.x(0), n_normalised)?;
    let mean = rows(v, mean, 1)?;
    let inverse_std = rows(v, inverse_std, 1)?;
    if v.needs(2) {
        let dbias = emit::reduce(v.g, "ReduceSum", &dy, &[0], false)?;
        let dbias = emit::reshape_like(v.g, &dbias, v.x(2))?;
        v.set_dx(2, dbias);
    }
    if !v.needs(0) && !v.needs(1) {
        return Ok(());
    }
    let centred = v.op("Sub", &[&x, &mean], &[])?;
    let normal = v.op("Mul", &[&centred, &inverse_std], &[])?;
    let product = v.op("Mul", &[&dy, &normal], &[])?;
    if v.needs(1) {
        let dscale = emit::reduce(v.g, "ReduceSum", &product, &[0], false)?;
        let dscale = emit::reshape_like(v.g, &dscale, v.x(1))?;
        v.set_dx(1, dscale);
    }
    if v.needs(0) {
        let (g, product) = if is_one(v)? {
            (dy, product)
        } else {
            let scale = match v.x_shape(1)?.len() {
                1 => v.x(1).to_owned(),
                _ => emit::reshape(v.g, v.x(1), &[-1])?,
            };
            (v.op("Mul", &[&dy, &scale], &[])?, v.op("Mul", &[&product, &scale], &[])?)
        };
        let offset = emit::reduce(v.g, "ReduceMean", &g, &[1], true)?;
        let slope = emit::reduce(v.g, "ReduceMean", &product, &[1], true)?;
        let along = v.op("Mul", &[&normal, &slope], &[])?;
        let across = v.op("Sub", &[&g, &along], &[])?;
        let across = v.op("Sub", &[&across, &offset], &[])?;
        let dx = v.op("Mul", &[&across, &inverse_std], &[])?;
        let dx = emit::reshape_like(v.g, &dx, v.x(0))?;
        v.set_dx(0, dx);
    }
    Ok(())
}

/// Number of elements that are normalised together.
fn normalised(v: &Vjp<'_>) -> Result<i64, GradError> {
    let (x, scale) = (v.x_shape(0)?, v.x_shape(1)?);
    let first = emit::axis(v.node, v.node.int("axis", -1)?, x.len())?;
    let n: Option<usize> = x[first..].iter().map(Dim::size).product();
    match n {
        Some(n) if scale == x[first..] => Ok(n as i64),
        _ => {
            let expected = format!("a scale of {}, all of it numbers", emit::show(&x[first..]));
            Err(emit::shape_error(v.node, expected, emit::show(&scale)))
        }
    }
}

fn rows(v: &mut Vjp<'_>, x: &str, n_columns: i64) -> Result<String, GradError> {
    match v.g.shape(x)?.as_slice() {
        [_, columns] if columns.size() == Some(n_columns as usize) => Ok(x.to_owned()),
        _ => emit::reshape(v.g, x, &[-1, n_columns]),
    }
}

/// Whether the scale is ones and stays so, as where another normalisation is written as this one.
fn is_one(v: &Vjp<'_>) -> Result<bool, GradError> {
    if v.needs(1) {
        return Ok(false);
    }
    let Some(scale) = v.g.constant_content(v.x(1)) else { return Ok(false) };
    let one = Tensor::scalar(scale.dtype, 1.0)?;
    Ok(scale.bytes.chunks(one.bytes.len()).all(|value| value == one.bytes))
}
