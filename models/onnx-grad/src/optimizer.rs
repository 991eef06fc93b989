//! Parameter updates as emitted nodes.
//!
//! Every update reads `learning_rate` and, where it corrects a bias, `step` (both float scalars fed at run
//! time), and the optimiser's own tensors, which are state like the parameters.

use std::collections::BTreeMap;

use crate::builder::Builder;
use crate::error::GradError;
use crate::graph::{DataType, Tensor};
use crate::write::data_type_code;

/// Optimiser and constants, PyTorch's names and semantics (`torch.optim`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// g = g + weight_decay * p; m = momentum * m + g; p -= lr * (g + momentum * m if Nesterov, else m).
    ///
    /// PyTorch starts m with the first gradient, which is the same as starting with zero.
    Sgd { momentum: f64, nesterov: bool, weight_decay: f64 },
    /// Kingma and Ba 2015, algorithm 1; weight decay is added to the gradient.
    Adam { beta1: f64, beta2: f64, eps: f64, weight_decay: f64 },
    /// Loshchilov and Hutter 2019, algorithm 2: weight decay acts on the parameter, p -= lr * weight_decay * p.
    AdamW { beta1: f64, beta2: f64, eps: f64, weight_decay: f64 },
}

impl Optimizer {
    /// Adam with PyTorch's default constants.
    pub const ADAM: Optimizer = Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
}

/// Name of the gradient's norm among the outputs.
pub const GRAD_NORM: &str = "grad_norm";
pub const LEARNING_RATE: &str = "learning_rate";
pub const STEP: &str = "step";

/// (state tensor, initial content, value after the step).
pub(crate) type Update = (String, Tensor, String);

/// Emits the L2 norm of all gradients as [`GRAD_NORM`], before clipping, and the gradients scaled by
/// min(1, max_norm / (norm + 1e-6)) where there is a `max_norm`, as `torch.nn.utils.clip_grad_norm_` does.
pub(crate) fn clip(
    b: &mut Builder,
    gradients: BTreeMap<String, String>,
    max_norm: Option<f32>,
) -> Result<BTreeMap<String, String>, GradError> {
    b.set_scope("clip");
    let mut squares = Vec::new();
    for gradient in gradients.values() {
        squares.push(b.op("ReduceSumSquare", &[gradient], &[("keepdims", 0_i64.into())])?);
    }
    let squares: Vec<&str> = squares.iter().map(String::as_str).collect();
    let sum = b.op("Sum", &squares, &[])?;
    b.op_named("Sqrt", &[&sum], &[], GRAD_NORM)?;
    let Some(max_norm) = max_norm else { return Ok(gradients) };
    let dtype = b.value(GRAD_NORM)?.dtype;
    let [tiny, max, one] = scalars(b, dtype, [1e-6, max_norm.into(), 1.0])?;
    let divisor = b.op("Add", &[GRAD_NORM, &tiny], &[])?;
    let quotient = b.op("Div", &[&max, &divisor], &[])?;
    let factor = b.op("Min", &[&quotient, &one], &[])?;
    let mut clipped = BTreeMap::new();
    for (parameter, gradient) in gradients {
        let gradient = b.op("Mul", &[&gradient, &factor], &[])?;
        clipped.insert(parameter, gradient);
    }
    Ok(clipped)
}

/// Emits the update of every parameter; returns all state that follows from it, parameters included.
///
/// The scalars that all updates share are computed once.
pub(crate) fn update(
    b: &mut Builder,
    optimizer: &Optimizer,
    gradients: &BTreeMap<String, String>,
    parameters: &BTreeMap<String, Tensor>,
) -> Result<Vec<Update>, GradError> {
    b.set_scope("update");
    let dtype = DataType::F32;
    b.input(LEARNING_RATE, dtype, Vec::new())?;
    b.input(STEP, dtype, Vec::new())?;
    let mut updates = Vec::new();
    match *optimizer {
        Optimizer::Sgd { momentum, nesterov, weight_decay } => {
            for (name, gradient) in gradients {
                let init = &parameters[name];
                sgd(b, name, gradient, init, (momentum, nesterov, weight_decay), &mut updates)?;
            }
        }
        Optimizer::Adam { beta1, beta2, eps, weight_decay }
        | Optimizer::AdamW { beta1, beta2, eps, weight_decay } => {
            let decoupled = matches!(optimizer, Optimizer::AdamW { .. });
            let shared = AdamShared::emit(b, beta1, beta2, eps, weight_decay, decoupled)?;
            for (name, gradient) in gradients {
                adam(b, name, gradient, &parameters[name], &shared, &mut updates)?;
            }
        }
    }
    Ok(updates)
}

fn scalars<const N: usize>(
    b: &mut Builder,
    dtype: DataType,
    values: [f64; N],
) -> Result<[String; N], GradError> {
    let mut names = [const { String::new() }; N];
    for (name, value) in names.iter_mut().zip(values) {
        *name = b.scalar(dtype, value)?;
    }
    Ok(names)
}

/// Adds a state tensor of zeros beside `parameter`.
fn slot(
    b: &mut Builder,
    parameter: &str,
    suffix: &str,
    init: &Tensor,
) -> Result<(String, Tensor), GradError> {
    let name = format!("{parameter}.{suffix}");
    let zeros = Tensor::zeros(init.dtype, &init.dims);
    let shape = init.dims.iter().map(|&d| d.into()).collect();
    b.input(&name, init.dtype, shape)?;
    Ok((name, zeros))
}

fn next(name: &str) -> String {
    format!("{name}.next")
}

fn sgd(
    b: &mut Builder,
    name: &str,
    gradient: &str,
    init: &Tensor,
    (momentum, nesterov, weight_decay): (f64, bool, f64),
    updates: &mut Vec<Update>,
) -> Result<(), GradError> {
    let mut direction = add_scaled(b, gradient, name, weight_decay)?;
    if momentum != 0.0 {
        let (slot, zeros) = slot(b, name, "momentum", init)?;
        let [factor] = scalars(b, init.dtype, [momentum])?;
        let decayed = b.op("Mul", &[&slot, &factor], &[])?;
        let velocity = b.op_named("Add", &[&decayed, &direction], &[], &next(&slot))?;
        direction = if nesterov { add_scaled(b, &direction, &velocity, momentum)? } else { velocity.clone() };
        updates.push((slot, zeros, velocity));
    }
    let change = b.op("Mul", &[&direction, LEARNING_RATE], &[])?;
    let value = b.op_named("Sub", &[name, &change], &[], &next(name))?;
    updates.push((name.to_owned(), init.clone(), value));
    Ok(())
}

/// `x + factor * y`, or `x` itself where the factor is 0.
fn add_scaled(b: &mut Builder, x: &str, y: &str, factor: f64) -> Result<String, GradError> {
    if factor == 0.0 {
        return Ok(x.to_owned());
    }
    let dtype = b.value(x)?.dtype;
    let factor = b.scalar(dtype, factor)?;
    let scaled = b.op("Mul", &[y, &factor], &[])?;
    b.op("Add", &[x, &scaled], &[])
}

/// Scalars that every parameter's update reads.
struct AdamShared {
    beta1: String,
    one_minus_beta1: String,
    beta2: String,
    one_minus_beta2: String,
    eps: String,
    /// lr / (1 - beta1^step)
    step_size: String,
    /// sqrt(1 - beta2^step)
    root_correction: String,
    /// AdamW: 1 - lr * weight_decay.
    shrink: Option<String>,
    /// Adam's L2 term.
    weight_decay: f64,
}

impl AdamShared {
    fn emit(
        b: &mut Builder,
        beta1: f64,
        beta2: f64,
        eps: f64,
        weight_decay: f64,
        decoupled: bool,
    ) -> Result<Self, GradError> {
        let dtype = DataType::F32;
        let [beta1_name, beta2_name, one_minus_beta1, one_minus_beta2, eps, one] =
            scalars(b, dtype, [beta1, beta2, 1.0 - beta1, 1.0 - beta2, eps, 1.0])?;
        // In f32, 1 - 0.999^1 would be wrong in the fifth digit.
        let step = cast(b, STEP, DataType::F64)?;
        let correction1 = bias_correction(b, beta1, &step)?;
        let correction2 = bias_correction(b, beta2, &step)?;
        let correction1 = cast(b, &correction1, dtype)?;
        let root_correction = b.op("Sqrt", &[&correction2], &[])?;
        let root_correction = cast(b, &root_correction, dtype)?;
        let step_size = b.op("Div", &[LEARNING_RATE, &correction1], &[])?;
        let shrink = if decoupled && weight_decay != 0.0 {
            let decay = b.scalar(dtype, weight_decay)?;
            let share = b.op("Mul", &[LEARNING_RATE, &decay], &[])?;
            Some(b.op("Sub", &[&one, &share], &[])?)
        } else {
            None
        };
        Ok(AdamShared {
            beta1: beta1_name,
            one_minus_beta1,
            beta2: beta2_name,
            one_minus_beta2,
            eps,
            step_size,
            root_correction,
            shrink,
            weight_decay: if decoupled { 0.0 } else { weight_decay },
        })
    }
}

fn cast(b: &mut Builder, value: &str, dtype: DataType) -> Result<String, GradError> {
    let code = data_type_code(dtype);
    b.op("Cast", &[value], &[("to", i64::from(code).into())])
}

/// 1 - beta^step, in f64.
fn bias_correction(b: &mut Builder, beta: f64, step: &str) -> Result<String, GradError> {
    let [beta, one] = scalars(b, DataType::F64, [beta, 1.0])?;
    let power = b.op("Pow", &[&beta, step], &[])?;
    b.op("Sub", &[&one, &power], &[])
}

/// p - step_size * m / (sqrt(v) / root_correction + eps), in the order in which PyTorch rounds.
fn adam(
    b: &mut Builder,
    name: &str,
    gradient: &str,
    init: &Tensor,
    shared: &AdamShared,
    updates: &mut Vec<Update>,
) -> Result<(), GradError> {
    let gradient = add_scaled(b, gradient, name, shared.weight_decay)?;
    let (m, m_init) = slot(b, name, "m", init)?;
    let (v, v_init) = slot(b, name, "v", init)?;
    let decayed = b.op("Mul", &[&m, &shared.beta1], &[])?;
    let fresh = b.op("Mul", &[&gradient, &shared.one_minus_beta1], &[])?;
    let m_next = b.op_named("Add", &[&decayed, &fresh], &[], &next(&m))?;
    let decayed = b.op("Mul", &[&v, &shared.beta2], &[])?;
    let square = b.op("Mul", &[&gradient, &gradient], &[])?;
    let fresh = b.op("Mul", &[&square, &shared.one_minus_beta2], &[])?;
    let v_next = b.op_named("Add", &[&decayed, &fresh], &[], &next(&v))?;
    let root = b.op("Sqrt", &[&v_next], &[])?;
    let root = b.op("Div", &[&root, &shared.root_correction], &[])?;
    let divisor = b.op("Add", &[&root, &shared.eps], &[])?;
    let direction = b.op("Div", &[&m_next, &divisor], &[])?;
    let change = b.op("Mul", &[&direction, &shared.step_size], &[])?;
    let start = match &shared.shrink {
        Some(shrink) => b.op("Mul", &[name, shrink], &[])?,
        None => name.to_owned(),
    };
    let value = b.op_named("Sub", &[&start, &change], &[], &next(name))?;
    updates.push((name.to_owned(), init.clone(), value));
    updates.push((m, m_init, m_next));
    updates.push((v, v_init, v_next));
    Ok(())
}
