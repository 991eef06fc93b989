//! Random numbers that are a pure function of the input `seed` and of the place in a tensor.
//!
//! ONNX's own random operators take their seed from an attribute and go on from call to call, so that no step
//! can be repeated. Here every element's draw is computed in integers: the same on every machine and provider. What
//! normal numbers are made of it with is not, to the last bit: logarithm, root and cosine in float32.

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::DataType;

/// Scalar input, int64, that decides all draws of a step. Any number; a new one each step.
pub const SEED: &str = "seed";

/// Modulus of the hash, the largest prime below 2^31: products of two residues stay within int64.
pub(crate) const PRIME: i64 = 2_147_483_647;
/// A primitive root of [`PRIME`] with good spectral properties (Park and Miller 1988, as revised in 1993).
const MULTIPLIER: i64 = 48_271;
/// A draw in (0, 1) has so many bits: with half a step more, float32 holds it exactly.
const UNIFORM_BITS: u32 = 23;

/// An int64 tensor of residues for the elements of `grid` `[rows, columns]`: r c mod p squared, with r a well
/// mixed number of the row, the seed and `key`, and c one of the column and `key`.
///
/// Rows and columns are few, so that their mixing costs nothing, and two products an element remain. Declares
/// [`SEED`] where nobody has yet.
///
/// # Errors
/// As [`Builder::op`].
pub(crate) fn residues(b: &mut Builder, grid: &str, key: i64) -> Result<String, GradError> {
    declare_seed(b)?;
    let prime = emit::int(b, PRIME)?;
    let mut keys = Vec::new();
    for (axis, key) in [(0_i64, key), (1, key ^ 0x5555_5555)] {
        let n = b.op("Shape", &[grid], &[("start", axis.into()), ("end", (axis + 1).into())])?;
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

/// float32 draws from the standard normal distribution for the elements of `grid` `[rows, columns]` (Box and
/// Muller 1958): sqrt(-2 ln u) cos(2 pi v), with u and v uniform. None is beyond 5.8 in size.
///
/// # Errors
/// As [`Builder::op`].
pub(crate) fn normals(b: &mut Builder, grid: &str, name: &str) -> Result<String, GradError> {
    let u = uniform(b, grid, name_key(&format!("{name}.radius")))?;
    let v = uniform(b, grid, name_key(&format!("{name}.angle")))?;
    let log = b.op("Log", &[&u], &[])?;
    let minus_two = b.scalar(DataType::F32, -2.0)?;
    let square = b.op("Mul", &[&log, &minus_two], &[])?;
    let radius = b.op("Sqrt", &[&square], &[])?;
    let turn = b.scalar(DataType::F32, std::f64::consts::TAU)?;
    let angle = b.op("Mul", &[&v, &turn], &[])?;
    let cosine = b.op("Cos", &[&angle], &[])?;
    b.op("Mul", &[&radius, &cosine], &[])
}

/// float32 in the open interval (0, 1), 2^-23 apart; never 0, whose logarithm would be infinite.
fn uniform(b: &mut Builder, grid: &str, key: i64) -> Result<String, GradError> {
    let residues = residues(b, grid, key)?;
    let surplus = emit::int(b, 1 << (31 - UNIFORM_BITS))?;
    let high_bits = b.op("Div", &[&residues, &surplus], &[])?;
    let number = emit::cast(b, &high_bits, DataType::F32)?;
    let half = b.scalar(DataType::F32, 0.5)?;
    let number = b.op("Add", &[&number, &half], &[])?;
    let step = b.scalar(DataType::F32, 1.0 / f64::from(1 << UNIFORM_BITS))?;
    b.op("Mul", &[&number, &step], &[])
}

fn declare_seed(b: &mut Builder) -> Result<(), GradError> {
    if !b.has(SEED) {
        b.input(SEED, DataType::I64, Vec::new())?;
    }
    Ok(())
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

/// Differs from name to name and is the same on every machine (FNV-1a).
pub(crate) fn name_key(name: &str) -> i64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash >> 33) as i64
}
