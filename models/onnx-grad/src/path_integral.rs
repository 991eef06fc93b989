//! How much each parameter's moves changed the loss, summed over steps (Synaptic Intelligence, Zenke et al. 2017).

use std::collections::BTreeMap;

use crate::builder::Builder;
use crate::error::GradError;
use crate::gradients::Gradients;
use crate::graph::Tensor;
use crate::optimizer::{Update, slot};

/// Emits `<p>.path.next = <p>.path + g * (<p>.next - <p>)` for every parameter; `apply` is a boolean scalar that
/// says whether parameters move in this step (`None`: always).
///
/// The integral is of the loss along the path that the parameters take, so that g must be the slope of the loss
/// itself: before the bound on its size, without noise and without weight decay. All of these change how far a
/// parameter moves, which the second factor has.
pub(crate) fn update(
    b: &mut Builder,
    gradients: &Gradients,
    parameters: &BTreeMap<String, Tensor>,
    apply: Option<&str>,
) -> Result<Vec<Update>, GradError> {
    b.set_scope("path");
    let mut updates = Vec::with_capacity(gradients.len());
    for (parameter, gradient) in gradients {
        let (path, zeros) = slot(b, parameter, "path", &parameters[parameter])?;
        let change = b.op("Sub", &[&format!("{parameter}.next"), parameter], &[])?;
        let of_loss = b.op("Mul", &[gradient, &change], &[])?;
        let next = format!("{path}.next");
        match apply {
            None => b.op_named("Add", &[&path, &of_loss], &[], &next)?,
            // A gradient that overflowed would leave its mark even where nothing moves.
            Some(apply) => {
                let sum = b.op("Add", &[&path, &of_loss], &[])?;
                b.op_named("Where", &[apply, &sum, &path], &[], &next)?
            }
        };
        updates.push((path, zeros, next));
    }
    Ok(updates)
}
