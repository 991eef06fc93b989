//! Messages as CBOR (RFC 8949), numbers in bulk as typed arrays (RFC 8746). `docs/protocol.cddl` is the boundary.
//!
//! Decoding checks everything that can be checked without knowing the peer: version, sizes, finite logits. It
//! allocates no more than a small multiple of the message's own length.

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_cbor::tags::Tagged;

use super::message::{AgentState, Demand, Message, Repair, SampleSet, Status, TargetChunk};
use super::topic::Leaf;
use crate::ids::{Digest, Round, SampleId, View};

/// The version that this build speaks.
pub const VERSION: u64 = 1;
/// Longest message taken or sent, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Most classes of a fleet.
pub const MAX_CLASSES: usize = 4096;
/// Longest name of a class, in bytes.
pub const MAX_CLASS_NAME_BYTES: usize = 256;

/// RFC 8746, section 2.1: little-endian arrays.
const TAG_U32_LE: u64 = 70;
const TAG_F16_LE: u64 = 84;
const TAG_F32_LE: u64 = 85;

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("expected at most {MAX_MESSAGE_BYTES} bytes, found {found}")]
    TooLarge { found: usize },
    #[error("expected protocol version {VERSION}, found {found}")]
    Version { found: u64 },
    #[error("not the CBOR that was expected")]
    Cbor(#[source] serde_cbor::Error),
    #[error("`{field}`: expected {expected}, found {found}")]
    Field { field: &'static str, expected: &'static str, found: String },
    #[error("a logit is not finite")]
    NotFinite,
}

#[derive(Serialize, Deserialize)]
struct Head {
    v: u64,
}

#[derive(Serialize, Deserialize)]
struct StatusWire {
    v: u64,
    state: String,
    session: u64,
    data: ByteBuf,
    classes: Vec<String>,
    model: ByteBuf,
    round: u64,
}

#[derive(Serialize, Deserialize)]
struct DemandWire {
    v: u64,
    data: ByteBuf,
    n_samples: u32,
    n_views: u8,
    samples: ByteBuf,
}

#[derive(Serialize, Deserialize)]
struct RepairWire {
    v: u64,
    data: ByteBuf,
    round: u64,
    n_samples: u32,
    missing: Vec<ByteBuf>,
}

#[derive(Serialize, Deserialize)]
struct TargetsWire {
    v: u64,
    data: ByteBuf,
    model: ByteBuf,
    round: u64,
    temperature: f32,
    view: u8,
    n_classes: u32,
    ids: Tagged<ByteBuf>,
    logits: Tagged<ByteBuf>,
}

/// Bytes of a message as it is published. [`Message::Cleared`] is empty.
pub fn encode(message: &Message) -> Vec<u8> {
    match message {
        Message::Status(m) => cbor(&StatusWire {
            v: VERSION,
            state: state_name(m.state).to_owned(),
            session: m.session,
            data: bytes(&m.data.0),
            classes: m.classes.clone(),
            model: bytes(&m.model.0),
            round: m.round.0,
        }),
        Message::Demand(m) => cbor(&DemandWire {
            v: VERSION,
            data: bytes(&m.data.0),
            n_samples: m.samples.n_samples(),
            n_views: m.n_views,
            samples: bytes(m.samples.bits()),
        }),
        Message::Repair(m) => cbor(&RepairWire {
            v: VERSION,
            data: bytes(&m.data.0),
            round: m.round.0,
            n_samples: m.missing.first().map_or(0, SampleSet::n_samples),
            missing: m.missing.iter().map(|set| bytes(set.bits())).collect(),
        }),
        Message::Targets(m) => cbor(&TargetsWire {
            v: VERSION,
            data: bytes(&m.data.0),
            model: bytes(&m.model.0),
            round: m.round.0,
            temperature: m.temperature,
            view: m.view.0,
            n_classes: (m.logits.len() / m.ids.len().max(1)) as u32,
            ids: Tagged::new(
                Some(TAG_U32_LE),
                ByteBuf::from(m.ids.iter().flat_map(|id| id.0.to_le_bytes()).collect::<Vec<u8>>()),
            ),
            logits: Tagged::new(Some(TAG_F16_LE), ByteBuf::from(f16_bytes(&m.logits))),
        }),
        Message::Cleared => Vec::new(),
    }
}

fn cbor<T: Serialize>(value: &T) -> Vec<u8> {
    serde_cbor::to_vec(value).expect("invariant: these structures have a CBOR form")
}

fn bytes(slice: &[u8]) -> ByteBuf {
    ByteBuf::from(slice.to_vec())
}

/// Half precision; what it cannot hold becomes its largest finite value.
fn f16_bytes(logits: &[f32]) -> Vec<u8> {
    let limit = f16::MAX.to_f32();
    logits.iter().flat_map(|v| f16::from_f32(v.clamp(-limit, limit)).to_le_bytes()).collect()
}

/// Rows of `n_classes` logits that fit into a message of `max_bytes`, at least 1.
pub fn rows_per_chunk(n_classes: usize, max_bytes: usize) -> usize {
    /// Everything in a chunk of soft targets that is not a row, rounded up.
    const OVERHEAD_BYTES: usize = 256;
    (max_bytes.saturating_sub(OVERHEAD_BYTES) / (4 + 2 * n_classes)).max(1)
}

/// Decodes what arrived under a topic ending in `leaf`.
///
/// # Errors
/// [`WireError`] with what is wrong; never panics, whatever the bytes.
pub fn decode(leaf: &Leaf, bytes: &[u8]) -> Result<Message, WireError> {
    if bytes.is_empty() {
        return Ok(Message::Cleared);
    }
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(WireError::TooLarge { found: bytes.len() });
    }
    let Head { v } = from_cbor(bytes)?;
    if v != VERSION {
        return Err(WireError::Version { found: v });
    }
    match leaf {
        Leaf::Status => from_cbor(bytes).and_then(status).map(Message::Status),
        Leaf::Demand => from_cbor(bytes).and_then(demand).map(Message::Demand),
        Leaf::Repair { .. } => from_cbor(bytes).and_then(repair).map(Message::Repair),
        Leaf::Targets { .. } => from_cbor(bytes).and_then(targets).map(Message::Targets),
    }
}

/// Trailing bytes are an error.
fn from_cbor<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    serde_cbor::from_slice(bytes).map_err(WireError::Cbor)
}

const STATES: [(AgentState, &str); 3] =
    [(AgentState::Online, "online"), (AgentState::Finished, "finished"), (AgentState::Offline, "offline")];

fn state_name(state: AgentState) -> &'static str {
    STATES.iter().find(|(s, _)| *s == state).expect("invariant: STATES lists every state").1
}

fn field(field: &'static str, expected: &'static str, found: impl ToString) -> WireError {
    WireError::Field { field, expected, found: found.to_string() }
}

fn digest(name: &'static str, bytes: &ByteBuf) -> Result<Digest, WireError> {
    let bytes: [u8; 32] = bytes[..].try_into().map_err(|_| field(name, "32 bytes", bytes.len()))?;
    Ok(Digest(bytes))
}

fn sample_set(name: &'static str, n_samples: u32, bits: ByteBuf) -> Result<SampleSet, WireError> {
    let n_bytes = bits.len();
    SampleSet::from_bits(n_samples, bits.into_vec())
        .ok_or_else(|| field(name, "one bit for each of `n_samples` and no more", format!("{n_bytes} bytes")))
}

fn status(wire: StatusWire) -> Result<Status, WireError> {
    let state = STATES.iter().find(|(_, name)| *name == wire.state);
    let (state, _) = state.ok_or_else(|| {
        field("state", "online, finished or offline", wire.state.chars().take(32).collect::<String>())
    })?;
    if wire.classes.len() > MAX_CLASSES {
        return Err(field("classes", "at most 4096", wire.classes.len()));
    }
    if let Some(long) = wire.classes.iter().find(|c| c.len() > MAX_CLASS_NAME_BYTES) {
        return Err(field("classes", "names of at most 256 bytes", long.len()));
    }
    Ok(Status {
        state: *state,
        session: wire.session,
        data: digest("data", &wire.data)?,
        classes: wire.classes,
        model: digest("model", &wire.model)?,
        round: Round(wire.round),
    })
}

fn demand(wire: DemandWire) -> Result<Demand, WireError> {
    if wire.n_views == 0 {
        return Err(field("n_views", "at least 1", 0));
    }
    Ok(Demand {
        data: digest("data", &wire.data)?,
        n_views: wire.n_views,
        samples: sample_set("samples", wire.n_samples, wire.samples)?,
    })
}

fn repair(wire: RepairWire) -> Result<Repair, WireError> {
    if !(1..=256).contains(&wire.missing.len()) {
        return Err(field("missing", "1 to 256 views", wire.missing.len()));
    }
    let missing = wire.missing.into_iter().map(|bits| sample_set("missing", wire.n_samples, bits));
    Ok(Repair {
        data: digest("data", &wire.data)?,
        round: Round(wire.round),
        missing: missing.collect::<Result<_, _>>()?,
    })
}

fn targets(wire: TargetsWire) -> Result<TargetChunk, WireError> {
    if wire.ids.tag != Some(TAG_U32_LE) {
        return Err(field("ids", "typed array 70 (uint32, little endian)", format!("{:?}", wire.ids.tag)));
    }
    let (ids, rest) = wire.ids.value.as_chunks::<4>();
    if !rest.is_empty() || ids.is_empty() {
        return Err(field("ids", "4 bytes for each of at least one sample", wire.ids.value.len()));
    }
    let n_classes = wire.n_classes as usize;
    if !(1..=MAX_CLASSES).contains(&n_classes) {
        return Err(field("n_classes", "1 to 4096", n_classes));
    }
    if !wire.temperature.is_finite() || wire.temperature <= 0.0 {
        return Err(field("temperature", "a positive number", wire.temperature));
    }
    let n_values = ids.len() * n_classes;
    let raw = &wire.logits.value;
    let logits: Vec<f32> = match wire.logits.tag {
        Some(TAG_F16_LE) if raw.len() == 2 * n_values => {
            let halves: Vec<f16> = raw.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)).collect();
            halves.to_f32_vec()
        }
        Some(TAG_F32_LE) if raw.len() == 4 * n_values => {
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
        data: digest("data", &wire.data)?,
        model: digest("model", &wire.model)?,
        round: Round(wire.round),
        temperature: wire.temperature,
        view: View(wire.view),
        ids: ids.iter().map(|b| SampleId(u32::from_le_bytes(*b))).collect(),
        logits,
    })
}
