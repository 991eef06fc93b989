//! Parameter updates as emitted nodes.
//!
//! Every update reads `learning_rate` and, where it corrects a bias, `step` (both float scalars fed at run
//! time), and the optimiser's own tensors, which are state like the parameters.

mod adam;
mod rms_prop;
mod sgd;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::builder::Builder;
use crate::error::GradError;
use crate::gradients::Gradients;
use crate::graph::{DataType, Tensor};

/// Optimiser and constants, PyTorch's names and semantics (`torch.optim`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// g = g + weight_decay * p; m = momentum * m + g; p -= lr * (g + momentum * m if Nesterov, else m).
    ///
    /// PyTorch starts m with the first gradient, which is the same as starting with zero.
    Sgd { momentum: f64, nesterov: bool, weight_decay: f64 },
    /// Tieleman and Hinton 2012, lecture 6e; weight decay is added to the gradient.
    ///
    /// v = alpha * v + (1 - alpha) * g², less the square of g's own average if `centered`;
    /// m = momentum * m + g / (sqrt v + eps); p -= lr * m.
    RmsProp { alpha: f64, eps: f64, momentum: f64, centered: bool, weight_decay: f64 },
    /// Kingma and Ba 2015, algorithm 1; weight decay is added to the gradient.
    Adam { beta1: f64, beta2: f64, eps: f64, weight_decay: f64 },
    /// Loshchilov and Hutter 2019, algorithm 2: weight decay acts on the parameter, p -= lr * weight_decay * p.
    AdamW { beta1: f64, beta2: f64, eps: f64, weight_decay: f64 },
}

impl Optimizer {
    /// Adam with PyTorch's default constants.
    pub const ADAM: Optimizer = Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    /// AdamW with PyTorch's default constants.
    pub const ADAMW: Optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    /// RMSprop with PyTorch's default constants.
    pub const RMS_PROP: Optimizer =
        Optimizer::RmsProp { alpha: 0.99, eps: 1e-8, momentum: 0.0, centered: false, weight_decay: 0.0 };

    fn weight_decay(&self) -> f64 {
        match *self {
            Optimizer::Sgd { weight_decay, .. }
            | Optimizer::RmsProp { weight_decay, .. }
            | Optimizer::Adam { weight_decay, .. }
            | Optimizer::AdamW { weight_decay, .. } => weight_decay,
        }
    }
}

/// Parameters with constants of their own (PyTorch's `param_groups`).
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterGroup {
    /// A parameter that is in several groups belongs to the first.
    pub parameters: Vec<String>,
    /// Factor of the learning rate.
    pub learning_rate_factor: f64,
    /// In place of the optimiser's, where given.
    pub weight_decay: Option<f64>,
}

pub const LEARNING_RATE: &str = "learning_rate";
pub const STEP: &str = "step";

/// (state tensor, initial content, value after the step).
pub(crate) type Update = (String, Tensor, String);

/// What the updates of one group share.
struct Group<'a> {
    optimizer: &'a Optimizer,
    /// Name of the group's learning rate.
    learning_rate: String,
    weight_decay: f64,
    /// A boolean scalar: where it is false, state stays as it is.
    apply: Option<&'a str>,
}

impl Group<'_> {
    /// Emits the last node of an update, whose output is the next value of the state tensor `name`.
    fn next(&self, b: &mut Builder, name: &str, op: &str, inputs: &[&str]) -> Result<String, GradError> {
        let next = format!("{name}.next");
        let Some(apply) = self.apply else { return b.op_named(op, inputs, &[], &next) };
        let moved = b.op(op, inputs, &[])?;
        b.op_named("Where", &[apply, &moved, name], &[], &next)
    }
}

/// Emits the update of every parameter; returns all state that follows from it, parameters included.
///
/// The scalars that several updates share are computed once.
pub(crate) fn update(
    b: &mut Builder,
    optimizer: &Optimizer,
    groups: &[ParameterGroup],
    gradients: &Gradients,
    parameters: &BTreeMap<String, Tensor>,
    apply: Option<&str>,
) -> Result<Vec<Update>, GradError> {
    b.set_scope("update");
    b.input(LEARNING_RATE, DataType::F32, Vec::new())?;
    b.input(STEP, DataType::F32, Vec::new())?;
    let mut group_of = BTreeMap::new();
    for group in groups {
        for parameter in &group.parameters {
            group_of.entry(parameter.as_str()).or_insert(group);
        }
    }
    let mut shared: BTreeMap<[u64; 2], (Group<'_>, Option<adam::Shared>)> = BTreeMap::new();
    let mut updates = Vec::new();
    for (name, gradient) in gradients {
        let own = group_of.get(name.as_str());
        let factor = own.map_or(1.0, |g| g.learning_rate_factor);
        let weight_decay = own.and_then(|g| g.weight_decay).unwrap_or(optimizer.weight_decay());
        let key = [factor.to_bits(), weight_decay.to_bits()];
        let (group, of_adam) = match shared.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let learning_rate = scaled(b, LEARNING_RATE, factor)?;
                let group = Group { optimizer, learning_rate, weight_decay, apply };
                let of_adam = adam::Shared::emit(b, &group)?;
                new.insert((group, of_adam))
            }
        };
        let init = &parameters[name];
        match (optimizer, of_adam) {
            (&Optimizer::Sgd { momentum, nesterov, .. }, _) => {
                sgd::update(b, name, gradient, init, group, (momentum, nesterov), &mut updates)?;
            }
            (&Optimizer::RmsProp { alpha, eps, momentum, centered, .. }, _) => {
                let constants = rms_prop::Constants { alpha, eps, momentum, centered };
                rms_prop::update(b, name, gradient, init, group, &constants, &mut updates)?;
            }
            (_, Some(of_adam)) => adam::update(b, name, gradient, init, group, of_adam, &mut updates)?,
            (_, None) => unreachable!("Adam's shared scalars are emitted with its first group"),
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
pub(crate) fn slot(
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

/// `factor * x`, or `x` itself where the factor is 1.
fn scaled(b: &mut Builder, x: &str, factor: f64) -> Result<String, GradError> {
    if factor == 1.0 {
        return Ok(x.to_owned());
    }
    let factor = b.scalar(b.value(x)?.dtype, factor)?;
    b.op("Mul", &[x, &factor], &[])
}

/// `x + factor * y`, or `x` itself where the factor is 0.
fn add_scaled(b: &mut Builder, x: &str, y: &str, factor: f64) -> Result<String, GradError> {
    if factor == 0.0 {
        return Ok(x.to_owned());
    }
    let scaled = scaled(b, y, factor)?;
    b.op("Add", &[x, &scaled], &[])
}

/// keep * average + (1 - keep) * x: the operands of the last sum.
fn averaged(b: &mut Builder, average: &str, x: &str, keep: f64) -> Result<[String; 2], GradError> {
    let [keep, take] = scalars(b, b.value(x)?.dtype, [keep, 1.0 - keep])?;
    let kept = b.op("Mul", &[average, &keep], &[])?;
    let taken = b.op("Mul", &[x, &take], &[])?;
    Ok([kept, taken])
}
