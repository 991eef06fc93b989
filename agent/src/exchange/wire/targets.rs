//! Soft targets as CBOR: rows of logits as typed arrays (RFC 8746).

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};
use serde_cbor::tags::Tagged;

use super::{
    MAX_CLASSES, MAX_MESSAGE_BYTES, OVERHEAD_BYTES, Octets, VERSION, WireError, cbor, digest, field, octets,
    round, typed,
};
use crate::exchange::message::TargetChunk;
use crate::ids::{SampleId, View};

/// RFC 8746, section 2.1: little-endian arrays.
const TAG_U32_LE: u64 = 70;
const TAG_F16_LE: u64 = 84;
const TAG_F32_LE: u64 = 85;

#[derive(Serialize, Deserialize)]
pub(super) struct TargetsWire<'a> {
    v: u64,
    session: u64,
    #[serde(borrow)]
    data: Octets<'a>,
    #[serde(borrow)]
    model: Octets<'a>,
    round: u64,
    temperature: f32,
    view: u8,
    n_classes: u32,
    #[serde(borrow)]
    ids: Tagged<Octets<'a>>,
    #[serde(borrow)]
    logits: Tagged<Octets<'a>>,
}

pub(super) fn encode(m: &TargetChunk) -> Vec<u8> {
    cbor(&TargetsWire {
        v: VERSION,
        session: m.session,
        data: octets(&m.data.0),
        model: octets(&m.model.0),
        round: m.round.0,
        temperature: m.temperature,
        view: m.view.0,
        n_classes: (m.logits.len() / m.ids.len().max(1)) as u32,
        ids: typed(TAG_U32_LE, m.ids.iter().flat_map(|id| id.0.to_le_bytes()).collect()),
        logits: typed(TAG_F16_LE, f16_bytes(&m.logits)),
    })
}

/// Half precision; what it cannot hold becomes its largest finite value.
fn f16_bytes(logits: &[f32]) -> Vec<u8> {
    let limit = f16::MAX.to_f32();
    logits.iter().flat_map(|v| f16::from_f32(v.clamp(-limit, limit)).to_le_bytes()).collect()
}

/// Rows of `n_classes` logits that fit into a message of `max_bytes`, at least 1.
pub fn rows_per_chunk(n_classes: usize, max_bytes: usize) -> usize {
    let max_bytes = max_bytes.min(MAX_MESSAGE_BYTES);
    (max_bytes.saturating_sub(OVERHEAD_BYTES) / (4 + 2 * n_classes)).max(1)
}

pub(super) fn decode(wire: TargetsWire) -> Result<TargetChunk, WireError> {
    if wire.ids.tag != Some(TAG_U32_LE) {
        return Err(field("ids", "typed array 70 (uint32, little endian)", format!("{:?}", wire.ids.tag)));
    }
    let (ids, rest) = wire.ids.value.0.as_chunks::<4>();
    if !rest.is_empty() || ids.is_empty() {
        return Err(field("ids", "4 bytes for each of at least one sample", wire.ids.value.0.len()));
    }
    let n_classes = wire.n_classes as usize;
    if !(1..=MAX_CLASSES).contains(&n_classes) {
        return Err(field("n_classes", "1 to 4096", n_classes));
    }
    if !wire.temperature.is_finite() || wire.temperature <= 0.0 {
        return Err(field("temperature", "a positive number", wire.temperature));
    }
    let n_values = ids.len() * n_classes;
    let raw = &wire.logits.value.0;
    let logits: Vec<f32> = match wire.logits.tag {
        Some(TAG_F16_LE) if raw.len().is_multiple_of(2) && raw.len() / 2 == n_values => {
            let halves: Vec<f16> = raw.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)).collect();
            halves.to_f32_vec()
        }
        Some(TAG_F32_LE) if raw.len().is_multiple_of(4) && raw.len() / 4 == n_values => {
            raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        }
        tag => {
            let found = format!("tag {tag:?} with {} bytes for {n_values} values", raw.len());
            return Err(field("logits", "typed array 84 (float16) or 85 (float32), ids x n_classes", found));
        }
    };
    if logits.iter().any(|v| !v.is_finite()) {
        return Err(WireError::NotFinite);
    }
    Ok(TargetChunk {
        session: wire.session,
        data: digest("data", &wire.data)?,
        model: digest("model", &wire.model)?,
        round: round(wire.round)?,
        temperature: wire.temperature,
        view: View(wire.view),
        ids: ids.iter().map(|b| SampleId(u32::from_le_bytes(*b))).collect(),
        logits,
    })
}
