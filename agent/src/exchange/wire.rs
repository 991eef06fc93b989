//! Messages as CBOR (RFC 8949), numbers in bulk as typed arrays (RFC 8746). `docs/protocol.cddl` is the boundary.
//!
//! Decoding checks everything that can be checked without knowing the peer: version, sizes, finite logits. It
//! allocates in proportion to the message's own length, whatever lengths it declares.

mod inputs;
mod sample_list;
mod targets;
mod text_keys;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_cbor::tags::Tagged;

pub use self::inputs::{MAX_NAMED_TEACHERS, images_per_message};
use super::envelope::ENVELOPE_BYTES;
use super::message::{AgentState, Demand, Message, Repair, SampleSet, Status};
use super::topic::Leaf;
use crate::ids::{Digest, Round, View};

/// The version that this build speaks.
pub const VERSION: u64 = 1;
/// Longest message taken or sent, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Most samples of a data set: a set of them fits into a message.
pub const MAX_SAMPLES: u32 = 8_000_000;
/// Most classes of a fleet.
pub const MAX_CLASSES: usize = 4096;
/// Longest name of a class, in bytes.
pub const MAX_CLASS_NAME_BYTES: usize = 256;

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

#[derive(Deserialize)]
struct Head {
    v: u64,
}

#[derive(Serialize, Deserialize)]
struct StatusWire<'a> {
    v: u64,
    state: Cow<'a, str>,
    session: u64,
    #[serde(borrow)]
    data: Octets<'a>,
    classes: Cow<'a, [String]>,
    #[serde(borrow)]
    model: Octets<'a>,
    round: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepts: Option<[u16; 3]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sends: Option<[u16; 3]>,
}

#[derive(Serialize, Deserialize)]
struct DemandWire<'a> {
    v: u64,
    #[serde(borrow)]
    data: Octets<'a>,
    n_samples: u32,
    n_views: u8,
    #[serde(borrow)]
    samples: Octets<'a>,
}

#[derive(Serialize, Deserialize)]
struct RepairWire<'a> {
    v: u64,
    #[serde(borrow)]
    data: Octets<'a>,
    round: u64,
    n_samples: u32,
    #[serde(borrow)]
    missing: BTreeMap<u8, Octets<'a>>,
}

/// A byte string. What serde would also read as one, text and arrays of numbers, is refused: peers that send it
/// would be understood here and nowhere else.
struct Octets<'a>(Cow<'a, [u8]>);

impl Serialize for Octets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Octets<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OctetsVisitor;

        impl<'de> Visitor<'de> for OctetsVisitor {
            type Value = Octets<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Octets(Cow::Borrowed(bytes)))
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Octets(Cow::Owned(bytes.to_vec())))
            }
        }

        deserializer.deserialize_bytes(OctetsVisitor)
    }
}

/// Bytes of a message as it is published. [`Message::Cleared`] is empty.
pub fn encode(message: &Message) -> Vec<u8> {
    match message {
        Message::Status(m) => cbor(&StatusWire {
            v: VERSION,
            state: state_name(m.state).into(),
            session: m.session,
            data: octets(&m.data.0),
            classes: (&m.classes).into(),
            model: octets(&m.model.0),
            round: m.round.0,
            accepts: m.accepts.map(inputs::to_wire),
            sends: m.sends.map(inputs::to_wire),
        }),
        Message::Demand(m) => cbor(&DemandWire {
            v: VERSION,
            data: octets(&m.data.0),
            n_samples: m.samples.n_samples(),
            n_views: m.n_views,
            samples: octets(m.samples.bits()),
        }),
        Message::Repair(m) => cbor(&RepairWire {
            v: VERSION,
            data: octets(&m.data.0),
            round: m.round.0,
            n_samples: m.missing.values().next().map_or(0, SampleSet::n_samples),
            missing: m.missing.iter().map(|(view, set)| (view.0, octets(set.bits()))).collect(),
        }),
        Message::Targets(m) => targets::encode(m),
        Message::Inputs(m) => inputs::encode(m),
        Message::Cleared => Vec::new(),
    }
}

fn cbor<T: Serialize>(value: &T) -> Vec<u8> {
    serde_cbor::to_vec(value).expect("invariant: these structures have a CBOR form")
}

fn octets(bytes: &[u8]) -> Octets<'_> {
    Octets(Cow::Borrowed(bytes))
}

fn typed<'a>(tag: u64, bytes: Vec<u8>) -> Tagged<Octets<'a>> {
    Tagged::new(Some(tag), Octets(Cow::Owned(bytes)))
}

/// Everything in a message that is not a row of soft targets or a set of samples, rounded up; with room for the
/// envelope of a signed one.
const OVERHEAD_BYTES: usize = 256 + ENVELOPE_BYTES;

/// Bytes of rows and ids that a message of soft targets of `max_bytes` has room for.
pub fn chunk_room(max_bytes: usize) -> usize {
    max_bytes.min(MAX_MESSAGE_BYTES).saturating_sub(OVERHEAD_BYTES)
}

/// Views that fit into a repair, at least 1.
pub fn views_per_repair(n_samples: u32) -> usize {
    /// Number of the view and length of its set.
    const VIEW_BYTES: usize = 8;
    let set_bytes = n_samples.div_ceil(8) as usize + VIEW_BYTES;
    ((MAX_MESSAGE_BYTES - OVERHEAD_BYTES) / set_bytes).max(1)
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
        Leaf::Demand { .. } => from_cbor(bytes).and_then(demand).map(Message::Demand),
        Leaf::Repair { .. } => from_cbor(bytes).and_then(repair).map(Message::Repair),
        Leaf::Targets { .. } => from_cbor(bytes).and_then(targets::decode).map(Message::Targets),
        Leaf::Inputs { .. } => from_cbor(bytes).and_then(inputs::decode).map(Message::Inputs),
    }
}

/// Trailing bytes are an error.
fn from_cbor<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    let mut deserializer = serde_cbor::Deserializer::from_slice(bytes);
    let value = text_keys::deserialize(&mut deserializer).map_err(WireError::Cbor)?;
    deserializer.end().map_err(WireError::Cbor)?;
    Ok(value)
}

const STATES: [(AgentState, &str); 3] =
    [(AgentState::Online, "online"), (AgentState::Finished, "finished"), (AgentState::Offline, "offline")];

fn state_name(state: AgentState) -> &'static str {
    STATES.iter().find(|(s, _)| *s == state).expect("invariant: STATES lists every state").1
}

fn field(field: &'static str, expected: &'static str, found: impl ToString) -> WireError {
    WireError::Field { field, expected, found: found.to_string() }
}

fn digest(name: &'static str, bytes: &Octets) -> Result<Digest, WireError> {
    let bytes: [u8; 32] = bytes.0[..].try_into().map_err(|_| field(name, "32 bytes", bytes.0.len()))?;
    Ok(Digest(bytes))
}

/// Rounds that soft targets belong to.
fn round(round: u64) -> Result<Round, WireError> {
    if round == 0 { Err(field("round", "at least 1", 0)) } else { Ok(Round(round)) }
}

fn sample_set(name: &'static str, n_samples: u32, bits: Octets) -> Result<SampleSet, WireError> {
    if !(1..=MAX_SAMPLES).contains(&n_samples) {
        return Err(field("n_samples", "1 to 8000000", n_samples));
    }
    let n_bytes = bits.0.len();
    SampleSet::from_bits(n_samples, bits.0.into_owned())
        .ok_or_else(|| field(name, "one bit for each of `n_samples` and no more", format!("{n_bytes} bytes")))
}

fn status(wire: StatusWire) -> Result<Status, WireError> {
    let state = STATES.iter().find(|(_, name)| *name == wire.state);
    let (state, _) = state.ok_or_else(|| {
        field("state", "online, finished or offline", wire.state.chars().take(32).collect::<String>())
    })?;
    if !(1..=MAX_CLASSES).contains(&wire.classes.len()) {
        return Err(field("classes", "1 to 4096", wire.classes.len()));
    }
    if let Some(long) = wire.classes.iter().find(|c| c.len() > MAX_CLASS_NAME_BYTES) {
        return Err(field("classes", "names of at most 256 bytes", long.len()));
    }
    Ok(Status {
        state: *state,
        session: wire.session,
        data: digest("data", &wire.data)?,
        classes: wire.classes.into_owned(),
        model: digest("model", &wire.model)?,
        round: Round(wire.round),
        accepts: wire.accepts.map(|shape| inputs::shape("accepts", shape)).transpose()?,
        sends: wire.sends.map(|shape| inputs::shape("sends", shape)).transpose()?,
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
    if wire.missing.is_empty() {
        return Err(field("missing", "at least one view", 0));
    }
    let set = |(view, bits)| Ok((View(view), sample_set("missing", wire.n_samples, bits)?));
    Ok(Repair {
        data: digest("data", &wire.data)?,
        round: round(wire.round)?,
        missing: wire.missing.into_iter().map(set).collect::<Result<_, _>>()?,
    })
}
