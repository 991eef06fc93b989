//! RMSprop.

use super::{Group, Update, add_scaled, averaged, scaled, slot};
use crate::builder::Builder;
use crate::error::GradError;
use crate::graph::Tensor;

pub(super) struct Constants {
    pub alpha: f64,
    pub eps: f64,
    pub momentum: f64,
    pub centered: bool,
}

pub(super) fn update(
    b: &mut Builder,
    name: &str,
    gradient: &str,
    init: &Tensor,
    group: &Group<'_>,
    constants: &Constants,
    updates: &mut Vec<Update>,
) -> Result<(), GradError> {
    let gradient = add_scaled(b, gradient, name, group.weight_decay)?;
    let (v, v_init) = slot(b, name, "v", init)?;
    let square = b.op("Mul", &[&gradient, &gradient], &[])?;
    let [kept, taken] = averaged(b, &v, &square, constants.alpha)?;
    let v_next = group.next(b, &v, "Add", &[&kept, &taken])?;
    let mut variance = v_next.clone();
    if constants.centered {
        let (mean, mean_init) = slot(b, name, "mean", init)?;
        let [kept, taken] = averaged(b, &mean, &gradient, constants.alpha)?;
        let mean_next = group.next(b, &mean, "Add", &[&kept, &taken])?;
        let square = b.op("Mul", &[&mean_next, &mean_next], &[])?;
        let difference = b.op("Sub", &[&v_next, &square], &[])?;
        // Rounding takes it below zero where the gradient stays the same.
        let zero = b.scalar(init.dtype, 0.0)?;
        variance = b.op("Max", &[&difference, &zero], &[])?;
        updates.push((mean, mean_init, mean_next));
    }
    let root = b.op("Sqrt", &[&variance], &[])?;
    let eps = b.scalar(init.dtype, constants.eps)?;
    let divisor = b.op("Add", &[&root, &eps], &[])?;
    let mut direction = b.op("Div", &[&gradient, &divisor], &[])?;
    if constants.momentum != 0.0 {
        let (slot, zeros) = slot(b, name, "momentum", init)?;
        let decayed = scaled(b, &slot, constants.momentum)?;
        direction = group.next(b, &slot, "Add", &[&decayed, &direction])?;
        updates.push((slot, zeros, direction.clone()));
    }
    let change = b.op("Mul", &[&direction, &group.learning_rate], &[])?;
    let value = group.next(b, name, "Sub", &[name, &change])?;
    updates.push((name.to_owned(), init.clone(), value));
    updates.push((v, v_init, v_next));
    Ok(())
}
