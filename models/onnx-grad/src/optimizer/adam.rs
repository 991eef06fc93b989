//! Adam and AdamW.

use super::{Group, Optimizer, STEP, Update, add_scaled, averaged, scalars, slot};
use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{DataType, Tensor};

/// Scalars that every update of a group reads.
pub(super) struct Shared {
    beta1: f64,
    beta2: f64,
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

impl Shared {
    /// `None` for other optimisers.
    pub(super) fn emit(b: &mut Builder, group: &Group<'_>) -> Result<Option<Self>, GradError> {
        let (beta1, beta2, eps, decoupled) = match *group.optimizer {
            Optimizer::Adam { beta1, beta2, eps, .. } => (beta1, beta2, eps, false),
            Optimizer::AdamW { beta1, beta2, eps, .. } => (beta1, beta2, eps, true),
            Optimizer::Sgd { .. } | Optimizer::RmsProp { .. } => return Ok(None),
        };
        let dtype = DataType::F32;
        let [eps, one] = scalars(b, dtype, [eps, 1.0])?;
        // In f32, 1 - 0.999^1 would be wrong in the fifth digit.
        let step = emit::cast(b, STEP, DataType::F64)?;
        let correction1 = bias_correction(b, beta1, &step)?;
        let correction2 = bias_correction(b, beta2, &step)?;
        let correction1 = emit::cast(b, &correction1, dtype)?;
        let root_correction = b.op("Sqrt", &[&correction2], &[])?;
        let root_correction = emit::cast(b, &root_correction, dtype)?;
        let step_size = b.op("Div", &[&group.learning_rate, &correction1], &[])?;
        let shrink = if decoupled && group.weight_decay != 0.0 {
            let decay = b.scalar(dtype, group.weight_decay)?;
            let share = b.op("Mul", &[&group.learning_rate, &decay], &[])?;
            Some(b.op("Sub", &[&one, &share], &[])?)
        } else {
            None
        };
        let weight_decay = if decoupled { 0.0 } else { group.weight_decay };
        Ok(Some(Shared { beta1, beta2, eps, step_size, root_correction, shrink, weight_decay }))
    }
}

/// 1 - beta^step, in f64.
fn bias_correction(b: &mut Builder, beta: f64, step: &str) -> Result<String, GradError> {
    let [beta, one] = scalars(b, DataType::F64, [beta, 1.0])?;
    let power = b.op("Pow", &[&beta, step], &[])?;
    b.op("Sub", &[&one, &power], &[])
}

/// p - step_size * m / (sqrt(v) / root_correction + eps), in the order in which PyTorch rounds.
pub(super) fn update(
    b: &mut Builder,
    name: &str,
    gradient: &str,
    init: &Tensor,
    group: &Group<'_>,
    shared: &Shared,
    updates: &mut Vec<Update>,
) -> Result<(), GradError> {
    let gradient = add_scaled(b, gradient, name, shared.weight_decay)?;
    let (m, m_init) = slot(b, name, "m", init)?;
    let (v, v_init) = slot(b, name, "v", init)?;
    let [kept, taken] = averaged(b, &m, &gradient, shared.beta1)?;
    let m_next = group.next(b, &m, "Add", &[&kept, &taken])?;
    let square = b.op("Mul", &[&gradient, &gradient], &[])?;
    let [kept, taken] = averaged(b, &v, &square, shared.beta2)?;
    let v_next = group.next(b, &v, "Add", &[&kept, &taken])?;
    let root = b.op("Sqrt", &[&v_next], &[])?;
    let root = b.op("Div", &[&root, &shared.root_correction], &[])?;
    let divisor = b.op("Add", &[&root, &shared.eps], &[])?;
    let direction = b.op("Div", &[&m_next, &divisor], &[])?;
    let change = b.op("Mul", &[&direction, &shared.step_size], &[])?;
    let start = match &shared.shrink {
        Some(shrink) => b.op("Mul", &[name, shrink], &[])?,
        None => name.to_owned(),
    };
    let value = group.next(b, name, "Sub", &[&start, &change])?;
    updates.push((name.to_owned(), init.clone(), value));
    updates.push((m, m_init, m_next));
    updates.push((v, v_init, v_next));
    Ok(())
}
