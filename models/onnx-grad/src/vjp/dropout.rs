//! Dropout in training, with a mask that the input `seed` decides.
//!
//! Every element's fate is a pure function of (seed, layer, row, position): see [`hash`].

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{DataType, Node, Tensor};
use crate::hash::{self, PRIME};
use crate::recompute::RECOMPUTED;
use crate::vjp::{Dropout, Lowered, Mode, Vjp};

/// y = x, or with [`Dropout::Seeded`] y = x * mask / (1 - ratio). Saves the scaled mask.
pub(super) fn lower(b: &mut Builder, node: &Node, mode: &Mode) -> Result<Lowered, GradError> {
    let (x, y) = (&node.inputs[0], &node.outputs[0]);
    let ratio = match node.input(1) {
        _ if mode.dropout == Dropout::Off => 0.0,
        None => 0.5,
        Some(name) => ratio(b, name).ok_or_else(|| {
            emit::shape_error(node, "a constant `ratio` of at least 0 and less than 1", format!("`{name}`"))
        })?,
    };
    if ratio == 0.0 {
        b.op_named("Identity", &[x], &[], y)?;
        if let Some(mask) = node.output(1) {
            let shape = emit::shape_of(b, x)?;
            let kept = Tensor { dtype: DataType::Bool, dims: vec![1], bytes: vec![1] };
            b.op_named("ConstantOfShape", &[&shape], &[("value", kept.into())], mask)?;
        }
        return Ok(Lowered::default());
    }
    let dtype = b.value(x)?.dtype;
    let grid = emit::reshape(b, x, &[if b.shape(x)?.is_empty() { 1 } else { 0 }, -1])?;
    // Computed again, a layer must draw the same mask.
    let layer = node.name.strip_suffix(RECOMPUTED).unwrap_or(&node.name);
    let hash = hash::residues(b, &grid, hash::name_key(layer))?;
    let threshold = emit::int(b, ((1.0 - ratio) * PRIME as f64) as i64)?;
    let kept = b.op("Less", &[&hash, &threshold], &[])?;
    let kept = emit::reshape_like(b, &kept, x)?;
    if let Some(mask) = node.output(1) {
        b.op_named("Identity", &[&kept], &[], mask)?;
    }
    let mask = emit::cast(b, &kept, dtype)?;
    let scale = b.scalar(dtype, 1.0 / (1.0 - ratio))?;
    let mask = b.op("Mul", &[&mask, &scale], &[])?;
    b.op_named("Mul", &[x, &mask], &[], y)?;
    Ok(Lowered::saving([("mask", mask)]))
}

/// dx = dy * mask / (1 - ratio); dy where dropout is off.
pub(super) fn dropout(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    let dx = match v.saved_if_any("mask") {
        Some(mask) => v.op("Mul", &[&dy, mask], &[])?,
        None => dy,
    };
    v.set_dx(0, dx);
    Ok(())
}

fn ratio(b: &Builder, name: &str) -> Option<f64> {
    let tensor = b.constant_content(name)?;
    let ratio = match tensor.dtype {
        DataType::F32 => f64::from(*tensor.to_f32().ok()?.first()?),
        DataType::F64 => f64::from_le_bytes(tensor.bytes.get(..8)?.try_into().ok()?),
        DataType::F16 => half::f16::from_le_bytes(tensor.bytes.get(..2)?.try_into().ok()?).to_f64(),
        DataType::BF16 => half::bf16::from_le_bytes(tensor.bytes.get(..2)?.try_into().ok()?).to_f64(),
        _ => return None,
    };
    (0.0..1.0).contains(&ratio).then_some(ratio)
}
