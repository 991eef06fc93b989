//! What happens to the gradients between the reverse walk and the optimiser: unscaling, accumulation over
//! micro-batches, noise, the norm, clipping.

use std::collections::BTreeMap;

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{DataType, Tensor};
use crate::hash;
use crate::optimizer::Update;

/// Name of the gradient's norm among the outputs.
pub const GRAD_NORM: &str = "grad_norm";
/// Share of this micro-batch in the mean over all that are accumulated: its rows over all their rows.
pub const MICRO_BATCH_WEIGHT: &str = "micro_batch_weight";
/// 1 in the last micro-batch, after which parameters move; else 0.
pub const MICRO_BATCH_LAST: &str = "micro_batch_last";

/// Standard deviation of the noise that is added to every element of the gradient.
pub const GRADIENT_NOISE: &str = "gradient_noise";

/// Bound on the gradients of all parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// All are scaled by min(1, max / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_` does.
    Norm(f32),
    /// Every element is clamped to `[-max, max]`, as `torch.nn.utils.clip_grad_value_` does.
    Value(f32),
}

/// (parameter, gradient), in the order in which the forward graph reads the parameters.
///
/// Of nodes that could run next, ONNX Runtime runs what the later ones need first. In this order it comes to the
/// gradients of the last layers first, as they become known, and holds no activation longer than its layer needs.
pub(crate) type Gradients = Vec<(String, String)>;

/// Divides the gradients by the loss's scale.
pub(crate) fn unscale(
    b: &mut Builder,
    gradients: &Gradients,
    loss_scale: &str,
) -> Result<Gradients, GradError> {
    b.set_scope("unscale");
    let one = b.scalar(DataType::F32, 1.0)?;
    let factor = b.op("Div", &[&one, loss_scale], &[])?;
    each(gradients, |gradient| b.op("Mul", &[gradient, &factor], &[]))
}

/// Adds the weighted gradients of this micro-batch to those of the ones before; gives the sums, and the state
/// that holds them (zero again after the last micro-batch).
pub(crate) fn accumulate(
    b: &mut Builder,
    gradients: &Gradients,
    parameters: &BTreeMap<String, Tensor>,
    is_last: &str,
) -> Result<(Gradients, Vec<Update>), GradError> {
    b.set_scope("accumulate");
    b.input(MICRO_BATCH_WEIGHT, DataType::F32, Vec::new())?;
    let (mut sums, mut state) = (Vec::new(), Vec::new());
    for (parameter, gradient) in gradients {
        let init = &parameters[parameter];
        let name = format!("{parameter}.accumulated");
        let shape = init.dims.iter().map(|&d| d.into()).collect();
        b.input(&name, init.dtype, shape)?;
        let share = b.op("Mul", &[gradient, MICRO_BATCH_WEIGHT], &[])?;
        let sum = b.op("Add", &[&name, &share], &[])?;
        let zero = b.scalar(init.dtype, 0.0)?;
        let next = b.op_named("Where", &[is_last, &zero, &sum], &[], &format!("{name}.next"))?;
        state.push((name, Tensor::zeros(init.dtype, &init.dims), next));
        sums.push((parameter.clone(), sum));
    }
    Ok((sums, state))
}

/// Adds to every element [`GRADIENT_NOISE`] times a draw from the standard normal distribution, which is a pure
/// function of the seed, the parameter and the element's place (Neelakantan et al. 2015).
pub(crate) fn add_noise(b: &mut Builder, gradients: &Gradients) -> Result<Gradients, GradError> {
    b.input(GRADIENT_NOISE, DataType::F32, Vec::new())?;
    let mut noisy = Vec::with_capacity(gradients.len());
    for (parameter, gradient) in gradients {
        let name = format!("{parameter}.noise");
        b.set_scope(&name);
        let dims = if b.shape(parameter)?.is_empty() { [1, -1] } else { [0, -1] };
        let grid = emit::reshape(b, parameter, &dims)?;
        let draws = hash::normals(b, &grid, &name)?;
        let noise = b.op("Mul", &[&draws, GRADIENT_NOISE], &[])?;
        let noise = emit::reshape_like(b, &noise, parameter)?;
        let dtype = b.value(gradient)?.dtype;
        let noise = if dtype == DataType::F32 { noise } else { emit::cast(b, &noise, dtype)? };
        noisy.push((parameter.clone(), b.op("Add", &[gradient, &noise], &[])?));
    }
    Ok(noisy)
}

/// Emits the L2 norm of all gradients together as [`GRAD_NORM`].
pub(crate) fn norm(b: &mut Builder, gradients: &Gradients) -> Result<(), GradError> {
    b.set_scope("norm");
    let mut squares = Vec::new();
    for (_, gradient) in gradients {
        squares.push(b.op("ReduceSumSquare", &[gradient], &[("keepdims", 0_i64.into())])?);
    }
    let squares: Vec<&str> = squares.iter().map(String::as_str).collect();
    let sum = b.op("Sum", &squares, &[])?;
    b.op_named("Sqrt", &[&sum], &[], GRAD_NORM)?;
    Ok(())
}

/// Bounds the gradients; reads [`GRAD_NORM`].
pub(crate) fn clip(
    b: &mut Builder,
    gradients: Gradients,
    clip: Option<Clip>,
) -> Result<Gradients, GradError> {
    b.set_scope("clip");
    let dtype = b.value(GRAD_NORM)?.dtype;
    match clip {
        None => Ok(gradients),
        Some(Clip::Norm(max)) => {
            let (tiny, max, one) =
                (b.scalar(dtype, 1e-6)?, b.scalar(dtype, max.into())?, b.scalar(dtype, 1.0)?);
            let divisor = b.op("Add", &[GRAD_NORM, &tiny], &[])?;
            let quotient = b.op("Div", &[&max, &divisor], &[])?;
            let factor = b.op("Min", &[&quotient, &one], &[])?;
            each(&gradients, |gradient| b.op("Mul", &[gradient, &factor], &[]))
        }
        Some(Clip::Value(max)) => {
            let (low, high) = (b.scalar(dtype, -f64::from(max))?, b.scalar(dtype, max.into())?);
            each(&gradients, |gradient| b.op("Clip", &[gradient, &low, &high], &[]))
        }
    }
}

fn each(
    gradients: &Gradients,
    mut f: impl FnMut(&str) -> Result<String, GradError>,
) -> Result<Gradients, GradError> {
    gradients.iter().map(|(parameter, gradient)| Ok((parameter.clone(), f(gradient)?))).collect()
}

/// Emits a boolean scalar: whether the scalar `x` is above 0.5.
pub(crate) fn is_set(b: &mut Builder, x: &str) -> Result<String, GradError> {
    let half = b.scalar(DataType::F32, 0.5)?;
    b.op("Greater", &[x, &half], &[])
}

/// Emits a boolean scalar: whether the gradient's norm is a finite number.
pub(crate) fn is_finite(b: &mut Builder) -> Result<String, GradError> {
    let largest = b.scalar(DataType::F32, f32::MAX.into())?;
    b.op("LessOrEqual", &[GRAD_NORM, &largest], &[])
}
