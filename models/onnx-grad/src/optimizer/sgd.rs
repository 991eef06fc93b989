//! Stochastic gradient descent with momentum.

use super::{Group, Update, add_scaled, scaled, slot};
use crate::builder::Builder;
use crate::error::GradError;
use crate::graph::Tensor;

pub(super) fn update(
    b: &mut Builder,
    name: &str,
    gradient: &str,
    init: &Tensor,
    group: &Group<'_>,
    (momentum, nesterov): (f64, bool),
    updates: &mut Vec<Update>,
) -> Result<(), GradError> {
    let mut direction = add_scaled(b, gradient, name, group.weight_decay)?;
    if momentum != 0.0 {
        let (slot, zeros) = slot(b, name, "momentum", init)?;
        let decayed = scaled(b, &slot, momentum)?;
        let velocity = group.next(b, &slot, "Add", &[&decayed, &direction])?;
        direction = if nesterov { add_scaled(b, &direction, &velocity, momentum)? } else { velocity.clone() };
        updates.push((slot, zeros, velocity));
    }
    let change = b.op("Mul", &[&direction, &group.learning_rate], &[])?;
    let value = group.next(b, name, "Sub", &[name, &change])?;
    updates.push((name.to_owned(), init.clone(), value));
    Ok(())
}
