//! Dropout in training, with a mask that the input `seed` decides.
//!
//! ONNX's own `Dropout` and `RandomUniform` take their seed from an attribute and go on from call to call, so
//! that no step can be repeated. Here every element's fate is a pure function of (seed, layer, row, position),
//! computed in integers: the same on every machine and every provider.

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{DataType, Node, Tensor};
use crate::recompute::RECOMPUTED;
use crate::vjp::{Dropout, Lowered, Mode, Vjp};

/// Scalar input, int64, that decides the masks of all layers. Any number; a new one each step.
pub const SEED: &str = "seed";

/// Modulus of the hash, the largest prime below 2^31: products of two residues stay within int64.
const PRIME: i64 = 2_147_483_647;
/// A primitive root of [`PRIME`] with good spectral properties (Park and Miller 1988, as revised in 1993).
const MULTIPLIER: i64 = 48_271;

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
    let hash = hash(b, node)?;
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

/// An int64 `[rows, columns]` of residues for `[N, …]` elements: r c mod p squared, with r a well mixed number
/// of the row, the seed and the layer, and c one of the column and the layer.
///
/// Rows and columns are few, so that their mixing costs nothing, and two products an element remain.
fn hash(b: &mut Builder, node: &Node) -> Result<String, GradError> {
    let x = &node.inputs[0];
    if !b.has(SEED) {
        b.input(SEED, DataType::I64, Vec::new())?;
    }
    // Computed again, a layer must draw the same mask.
    let layer = layer_key(node.name.strip_suffix(RECOMPUTED).unwrap_or(&node.name));
    let prime = emit::int(b, PRIME)?;
    let rows = emit::reshape(b, x, &[if b.shape(x)?.is_empty() { 1 } else { 0 }, -1])?;
    let mut keys = Vec::new();
    for (axis, key) in [(0_i64, layer), (1, layer ^ 0x5555_5555)] {
        let n = b.op("Shape", &[&rows], &[("start", axis.into()), ("end", (axis + 1).into())])?;
        let index = emit::count_to(b, &n)?;
        let mut key = emit::int(b, key.rem_euclid(PRIME))?;
        if axis == 0 {
            let seed = b.op("Mod", &[SEED, &prime], &[])?;
            key = mix(b, &seed, &key, &prime)?;
        }
        let mixed = mix(b, &index, &key, &prime)?;
        let mixed = mix(b, &mixed, &key, &prime)?;
        let axes = b.ints(&[1 - axis])?;
        keys.push(b.op("Unsqueeze", &[&mixed, &axes], &[])?);
    }
    let product = product(b, &keys[0], &keys[1], &prime)?;
    self::product(b, &product, &product, &prime)
}

/// ((x + key) * a)^5 mod p: a permutation of the residues, as 5 has no common factor with p - 1.
fn mix(b: &mut Builder, x: &str, key: &str, prime: &str) -> Result<String, GradError> {
    let shifted = b.op("Add", &[x, key], &[])?;
    let shifted = b.op("Mod", &[&shifted, prime], &[])?;
    let multiplier = emit::int(b, MULTIPLIER)?;
    let x = product(b, &shifted, &multiplier, prime)?;
    let square = product(b, &x, &x, prime)?;
    let fourth = product(b, &square, &square, prime)?;
    product(b, &fourth, &x, prime)
}

fn product(b: &mut Builder, x: &str, y: &str, prime: &str) -> Result<String, GradError> {
    let product = b.op("Mul", &[x, y], &[])?;
    b.op("Mod", &[&product, prime], &[])
}

/// Differs from layer to layer and is the same on every machine (FNV-1a).
fn layer_key(name: &str) -> i64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash >> 33) as i64
}
