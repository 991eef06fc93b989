//! BatchNormalization in training.

use std::collections::BTreeMap;

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{DataType, Dim, Node, Tensor};
use crate::vjp::{BatchNorm, Lowered, Mode, Vjp};

/// In [`BatchNorm::Train`], normalises by the statistics of the mini-batch and moves the running ones.
///
/// The node's own `training_mode` is no way to it: the CUDA provider refuses it from opset 14 on, and its
/// running variance is the population's where PyTorch takes the unbiased one. The last step is a plain
/// inference node on the centred input, which every provider runs in one pass.
///
/// Saves the centred input and the batch variance `[C]`.
pub(super) fn lower(b: &mut Builder, node: &Node, mode: &Mode) -> Result<Lowered, GradError> {
    let [x, scale, bias, running_mean, running_var] = node.inputs.as_slice() else {
        return Err(emit::shape_error(node, "5 inputs", node.inputs.len().to_string()));
    };
    let y = &node.outputs[0];
    let epsilon = ("epsilon", node.float("epsilon", 1e-5)?.into());
    if mode.batch_norm == BatchNorm::Frozen {
        b.op_named("BatchNormalization", &[x, scale, bias, running_mean, running_var], &[epsilon], y)?;
        return Ok(Lowered::default());
    }
    let dtype = b.value(x)?.dtype;
    let axes = emit::all_but_channel(b.shape(x)?.len());
    let mean = emit::reduce(b, "ReduceMean", x, &axes, true)?;
    let centred = b.op("Sub", &[x, &mean], &[])?;
    let square = b.op("Mul", &[&centred, &centred], &[])?;
    let var = emit::reduce(b, "ReduceMean", &square, &axes, false)?;
    let zeros = no_mean(b, node, dtype)?;
    b.op_named("BatchNormalization", &[&centred, scale, bias, &zeros, &var], &[epsilon], y)?;

    let one = b.scalar(dtype, 1.0)?;
    let n = emit::count(b, x, &axes, dtype)?;
    let n_less_one = b.op("Sub", &[&n, &one], &[])?;
    // A single value has no variance; PyTorch refuses it, we leave the running one to decay.
    let n_less_one = b.op("Max", &[&n_less_one, &one], &[])?;
    let unbiased = b.op("Mul", &[&var, &n], &[])?;
    let unbiased = b.op("Div", &[&unbiased, &n_less_one], &[])?;
    let mean = emit::reshape_like(b, &mean, running_mean)?;
    let momentum = f64::from(node.float("momentum", 0.9)?);
    let next_mean = moved(b, running_mean, &mean, momentum)?;
    let next_var = moved(b, running_var, &unbiased, momentum)?;
    let saved = BTreeMap::from([("centred", centred), ("var", var)]);
    let next_state = vec![(running_mean.clone(), next_mean), (running_var.clone(), next_var)];
    Ok(Lowered { saved, next_state })
}

/// Y = scale * (X - mean) / sqrt(var + epsilon) + bias, per channel C of X `[N, C, …]`, M values each.
///
/// With x̂ the normalised X: dbias = Σ dy, dscale = Σ dy x̂, dX = k dy, and where mean and variance are the
/// batch's, dX = k (dy - dbias / M - x̂ dscale / M), with k = scale / sqrt(var + epsilon).
pub(super) fn batch_norm(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dtype = v.g.value(v.x(0))?.dtype;
    let rank = v.x_shape(0)?.len();
    let n_spatial = rank.saturating_sub(2);
    let axes = emit::all_but_channel(rank);
    let dy = v.dy();
    let batch_statistics = v.saved_if_any("centred").is_some();
    let var = v.saved_if_any("var").unwrap_or(v.x(4));
    let inverse_std = inverse_std(v, var, dtype)?;
    let k = v.op("Mul", &[v.x(1), &inverse_std], &[])?;

    let (mut dscale, mut dbias) = (None, None);
    if v.needs(1) || (v.needs(0) && batch_statistics) {
        let centred = match v.saved_if_any("centred") {
            Some(centred) => centred.to_owned(),
            None => {
                let mean = emit::trailing_ones(v.g, v.x(3), n_spatial)?;
                v.op("Sub", &[v.x(0), &mean], &[])?
            }
        };
        let product = v.op("Mul", &[&dy, &centred], &[])?;
        let sum = emit::reduce(v.g, "ReduceSum", &product, &axes, false)?;
        dscale = Some(v.op("Mul", &[&sum, &inverse_std], &[])?);
    }
    if v.needs(2) || (v.needs(0) && batch_statistics) {
        dbias = Some(emit::reduce(v.g, "ReduceSum", &dy, &axes, false)?);
    }
    if v.needs(0) {
        let factor = emit::trailing_ones(v.g, &k, n_spatial)?;
        let mut dx = v.op("Mul", &[&dy, &factor], &[])?;
        if let (Some(centred), Some(dscale), Some(dbias)) = (v.saved_if_any("centred"), &dscale, &dbias) {
            let n = emit::count(v.g, v.x(0), &axes, dtype)?;
            let minus_k = v.op("Neg", &[&k], &[])?;
            let share = v.op("Div", &[&minus_k, &n], &[])?;
            let slope = v.op("Mul", &[&share, dscale], &[])?;
            let offset = v.op("Mul", &[&share, dbias], &[])?;
            let zeros = no_mean(v.g, v.node, dtype)?;
            let epsilon = ("epsilon", v.node.float("epsilon", 1e-5)?.into());
            // slope * x̂ + offset, in one pass.
            let correction =
                v.op("BatchNormalization", &[centred, &slope, &offset, &zeros, var], &[epsilon])?;
            dx = v.op("Add", &[&dx, &correction], &[])?;
        }
        v.set_dx(0, dx);
    }
    for (i, gradient) in [(1, dscale), (2, dbias)] {
        if let Some(gradient) = gradient.filter(|_| v.needs(i)) {
            v.set_dx(i, gradient);
        }
    }
    Ok(())
}

/// running * momentum + batch * (1 - momentum), ONNX's way round; PyTorch's momentum is the other part.
fn moved(b: &mut Builder, running: &str, batch: &str, momentum: f64) -> Result<String, GradError> {
    let dtype = b.value(running)?.dtype;
    let (keep, take) = (b.scalar(dtype, momentum)?, b.scalar(dtype, 1.0 - momentum)?);
    let kept = b.op("Mul", &[running, &keep], &[])?;
    let taken = b.op("Mul", &[batch, &take], &[])?;
    b.op("Add", &[&kept, &taken], &[])
}

fn inverse_std(v: &mut Vjp<'_>, var: &str, dtype: DataType) -> Result<String, GradError> {
    let epsilon = v.g.scalar(dtype, v.node.float("epsilon", 1e-5)?.into())?;
    let shifted = v.op("Add", &[var, &epsilon], &[])?;
    let std = v.op("Sqrt", &[&shifted], &[])?;
    v.op("Reciprocal", &[&std], &[])
}

/// The mean of a centred input, `[C]`.
fn no_mean(b: &mut Builder, node: &Node, dtype: DataType) -> Result<String, GradError> {
    let scale = b.shape(&node.inputs[1])?;
    let Some(n_channels) = scale.first().and_then(Dim::size) else {
        return Err(emit::shape_error(node, "a scale of known shape", emit::show(scale)));
    };
    b.room_for(dtype, &[n_channels])?;
    b.constant(Tensor::zeros(dtype, &[n_channels]))
}
