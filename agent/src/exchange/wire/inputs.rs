//! Images that a student sends to be labelled, as CBOR.

use serde::{Deserialize, Serialize};
use serde_cbor::tags::Tagged;

use super::{
    MAX_MESSAGE_BYTES, OVERHEAD_BYTES, Octets, VERSION, WireError, cbor, digest, field, octets, sample_list,
};
use crate::data::ImageShape;
use crate::exchange::message::Inputs;
use crate::ids::{AgentId, View};

/// Teachers that a message can name.
pub const MAX_NAMED_TEACHERS: usize = 64;
/// What the name of a teacher takes at most: 64 characters and their length.
const NAME_BYTES: usize = 66;

#[derive(Serialize, Deserialize)]
pub(super) struct InputsWire<'a> {
    v: u64,
    session: u64,
    #[serde(borrow)]
    data: Octets<'a>,
    view: u8,
    shape: [u16; 3],
    #[serde(borrow)]
    ids: Tagged<Octets<'a>>,
    #[serde(borrow)]
    pixels: Octets<'a>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    teachers: Vec<&'a str>,
}

pub(super) fn encode(m: &Inputs) -> Vec<u8> {
    cbor(&InputsWire {
        v: VERSION,
        session: m.session,
        data: octets(&m.data.0),
        view: m.view.0,
        shape: to_wire(m.shape),
        ids: sample_list::listed(&m.ids),
        pixels: octets(&m.pixels),
        teachers: m.teachers.iter().map(AgentId::as_str).collect(),
    })
}

/// Images that fit into a message of `max_bytes` beside the names of teachers, at least 1; none if not even one fits
/// into the longest message.
pub fn images_per_message(shape: ImageShape, max_bytes: usize) -> usize {
    let of = |bytes: usize| bytes.saturating_sub(OVERHEAD_BYTES) / (4 + shape.n_pixels());
    of(max_bytes).max(1).min(of(MAX_MESSAGE_BYTES - MAX_NAMED_TEACHERS * NAME_BYTES))
}

pub(super) fn decode(wire: InputsWire) -> Result<Inputs, WireError> {
    let ids = sample_list::read_listed("ids", wire.ids.tag, &wire.ids.value)?;
    let shape = shape("shape", wire.shape)?;
    let n_pixels = wire.pixels.0.len();
    if ids.len().checked_mul(shape.n_pixels()) != Some(n_pixels) {
        return Err(field("pixels", "a byte for each pixel of each sample", n_pixels));
    }
    if wire.teachers.len() > MAX_NAMED_TEACHERS {
        return Err(field("teachers", "at most 64 names", wire.teachers.len()));
    }
    let name = |name: &str| {
        let short = || name.chars().take(80).collect::<String>();
        name.parse::<AgentId>().map_err(|_| field("teachers", "names of agents", short()))
    };
    Ok(Inputs {
        session: wire.session,
        data: digest("data", &wire.data)?,
        view: View(wire.view),
        shape,
        ids,
        teachers: wire.teachers.into_iter().map(name).collect::<Result<_, _>>()?,
        pixels: wire.pixels.0.into_owned(),
    })
}

/// Channels, height, width.
pub(super) fn to_wire(shape: ImageShape) -> [u16; 3] {
    [shape.channels, shape.height, shape.width]
}

pub(super) fn shape(
    name: &'static str,
    [channels, height, width]: [u16; 3],
) -> Result<ImageShape, WireError> {
    if [channels, height, width].contains(&0) {
        return Err(field(
            name,
            "channels, height and width of at least 1",
            format!("{channels}x{height}x{width}"),
        ));
    }
    Ok(ImageShape { channels, height, width })
}
