//! Rows of logits as they travel: a teacher packs them, a student unpacks one at a time.
//!
//! They stay packed until a row is wanted, so that a message costs memory in proportion to its length.

use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;

/// How a teacher writes its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    F32,
    F16,
    /// A byte a logit, with a scale and an offset for each row.
    U8,
    /// The so many largest logits, at least 1, and one that stands for all others. Of fewer classes: all.
    TopK(usize),
}

/// Numbers, of either precision.
#[derive(Clone, Debug, PartialEq)]
pub enum Floats {
    F16(Vec<f16>),
    F32(Vec<f32>),
}

/// N rows of K logits.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// `[N, K]`.
    Dense(Floats),
    /// `[N, K]` bytes and for each row a scale and an offset: a logit is offset + scale * byte.
    Affine { bytes: Vec<u8>, scale: Floats, offset: Floats },
    /// `[N, k]` classes and their logits, and for each row the logit of every other class.
    TopK { classes: Vec<u16>, logits: Floats, rest: Floats },
}

impl Encoding {
    /// Bytes of a row of `n_classes` logits, without the sample's id.
    pub fn row_bytes(self, n_classes: usize) -> usize {
        match self {
            Encoding::F32 => 4 * n_classes,
            Encoding::F16 => 2 * n_classes,
            Encoding::U8 => n_classes + 4,
            Encoding::TopK(k) => k.min(n_classes) * (class_bytes(n_classes) + 2) + 2,
        }
    }
}

/// Bytes of the index of one of `n_classes` classes.
pub fn class_bytes(n_classes: usize) -> usize {
    if n_classes <= 256 { 1 } else { 2 }
}

impl Floats {
    pub fn len(&self) -> usize {
        match self {
            Floats::F16(values) => values.len(),
            Floats::F32(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// # Panics
    /// If there are not so many.
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Floats::F16(values) => values[i].to_f32(),
            Floats::F32(values) => values[i],
        }
    }

    pub fn are_finite(&self) -> bool {
        match self {
            Floats::F16(values) => values.iter().all(|v| v.is_finite()),
            Floats::F32(values) => values.iter().all(|v| v.is_finite()),
        }
    }

    /// Those from `start` on, as many as `out` takes.
    fn copy(&self, start: usize, out: &mut [f32]) {
        let end = start + out.len();
        match self {
            Floats::F16(values) => values[start..end].convert_to_f32_slice(out),
            Floats::F32(values) => out.copy_from_slice(&values[start..end]),
        }
    }
}

impl Rows {
    /// Packs `[N, K]` finite logits. In all but [`Encoding::F32`] what half precision cannot hold becomes its
    /// largest finite value; `temperature`, above 0, is that at which [`Encoding::TopK`] keeps the softmax.
    pub fn pack(encoding: Encoding, logits: &[f32], n_classes: usize, temperature: f32) -> Self {
        match encoding {
            Encoding::F32 => Rows::Dense(Floats::F32(logits.to_vec())),
            Encoding::F16 => {
                let clamped: Vec<f32> = logits.iter().map(|v| clamped(*v)).collect();
                Rows::Dense(Floats::F16(Vec::from_f32_slice(&clamped)))
            }
            Encoding::U8 => affine(logits, n_classes),
            Encoding::TopK(k) => top_k(k.clamp(1, n_classes), logits, n_classes, temperature),
        }
    }

    /// Writes the `[K]` logits of row `i`.
    ///
    /// # Panics
    /// Unless there is such a row of so many logits.
    pub fn unpack(&self, i: usize, out: &mut [f32]) {
        let n_classes = out.len();
        match self {
            Rows::Dense(logits) => logits.copy(i * n_classes, out),
            Rows::Affine { bytes, scale, offset } => {
                let (scale, offset) = (scale.get(i), offset.get(i));
                let bytes = &bytes[i * n_classes..(i + 1) * n_classes];
                out.iter_mut().zip(bytes).for_each(|(v, byte)| *v = offset + scale * f32::from(*byte));
            }
            Rows::TopK { classes, logits, rest } => {
                let k = classes.len() / rest.len();
                out.fill(rest.get(i));
                for at in i * k..(i + 1) * k {
                    out[usize::from(classes[at])] = logits.get(at);
                }
            }
        }
    }

    /// As [`Rows::unpack`], in half precision: what that cannot hold becomes its largest finite value.
    ///
    /// # Panics
    /// Unless there is such a row of so many logits.
    pub fn unpack_half(&self, i: usize, out: &mut [f16]) {
        if let Rows::Dense(Floats::F16(logits)) = self {
            return out.copy_from_slice(&logits[i * out.len()..(i + 1) * out.len()]);
        }
        let mut logits = vec![0.0; out.len()];
        self.unpack(i, &mut logits);
        out.iter_mut().zip(logits).for_each(|(half_v, v)| *half_v = half(v));
    }

    /// Without any.
    pub fn none() -> Self {
        Rows::Dense(Floats::F16(Vec::new()))
    }
}

/// The largest finite number of half precision; converted once, as the processor's instruction is no constant.
const MOST: f32 = f16::MAX.to_f32_const();

fn clamped(v: f32) -> f32 {
    v.clamp(-MOST, MOST)
}

/// The nearest, the largest finite one at most.
fn half(v: f32) -> f16 {
    f16::from_f32(clamped(v))
}

/// The largest that is not above `v`, which must be one that half precision reaches down to.
fn half_below(v: f32) -> f16 {
    let near = f16::from_f32(v);
    if near.to_f32() <= v {
        return near;
    }
    match near.to_bits() {
        0 | 0x8000 => f16::from_bits(0x8001),
        bits if bits & 0x8000 == 0 => f16::from_bits(bits - 1),
        bits => f16::from_bits(bits + 1),
    }
}

/// A byte is off by half a scale at most: the offset is rounded down and the scale up, and the bytes count from the
/// rounded ones.
fn affine(logits: &[f32], n_classes: usize) -> Rows {
    let (mut scales, mut offsets) = (Vec::new(), Vec::new());
    let mut bytes = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(n_classes) {
        let least = row.iter().copied().fold(f32::INFINITY, f32::min);
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let offset = half_below(clamped(least));
        let from = offset.to_f32();
        let scale = -half_below((from - clamped(most)) / 255.0);
        let step = scale.to_f32();
        let byte = |v: &f32| if step > 0.0 { ((clamped(*v) - from) / step).round() as u8 } else { 0 };
        bytes.extend(row.iter().map(byte));
        scales.push(scale);
        offsets.push(offset);
    }
    Rows::Affine { bytes, scale: Floats::F16(scales), offset: Floats::F16(offsets) }
}

fn top_k(k: usize, logits: &[f32], n_classes: usize, temperature: f32) -> Rows {
    let (mut classes, mut kept, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    let mut order: Vec<u16> = (0..n_classes as u16).collect();
    for row in logits.chunks_exact(n_classes) {
        let logit = |class: &u16| row[usize::from(*class)];
        // By index where equal, so that the same row is written the same way each time.
        order.sort_unstable_by(|a, b| logit(b).total_cmp(&logit(a)).then(a.cmp(b)));
        classes.extend_from_slice(&order[..k]);
        kept.extend(order[..k].iter().map(|class| half(logit(class))));
        rest.push(half(mean_in_softmax(order[k..].iter().map(logit), temperature)));
    }
    Rows::TopK { classes, logits: Floats::F16(kept), rest: Floats::F16(rest) }
}

/// The logit that, in the place of each of these, leaves their sum in the softmax as it is: T ln(mean(exp(v / T))).
/// 0 of none.
fn mean_in_softmax(logits: impl Iterator<Item = f32> + Clone, temperature: f32) -> f32 {
    let most = logits.clone().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut n) = (0.0, 0.0_f32);
    for v in logits {
        sum += ((v - most) / temperature).exp();
        n += 1.0;
    }
    if n == 0.0 { 0.0 } else { most + temperature * (sum / n).ln() }
}

#[cfg(test)]
mod tests;
