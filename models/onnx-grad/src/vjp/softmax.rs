//! Rules of Softmax and LogSoftmax along one axis.

use crate::emit;
use crate::error::GradError;
use crate::vjp::Vjp;

/// y = e^x / Σ e^x: dx = y * (dy - Σ dy * y).
pub(super) fn softmax(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    let weighted = v.op("Mul", &[&dy, v.y(0)], &[])?;
    let sum = sum_along_axis(v, &weighted)?;
    let centred = v.op("Sub", &[&dy, &sum], &[])?;
    let dx = v.op("Mul", &[v.y(0), &centred], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

/// y = x - ln Σ e^x: dx = dy - e^y * Σ dy.
pub(super) fn log_softmax(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    let probs = v.op("Exp", &[v.y(0)], &[])?;
    let sum = sum_along_axis(v, &dy)?;
    let spread = v.op("Mul", &[&probs, &sum], &[])?;
    let dx = v.op("Sub", &[&dy, &spread], &[])?;
    v.set_dx(0, dx);
    Ok(())
}

fn sum_along_axis(v: &mut Vjp<'_>, x: &str) -> Result<String, GradError> {
    let axis = emit::axis(v.node, v.node.int("axis", -1)?, v.y_shape(0)?.len())?;
    emit::reduce(v.g, "ReduceSum", x, &[axis as i64], true)
}
