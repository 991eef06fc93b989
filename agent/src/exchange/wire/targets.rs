//! Soft targets as CBOR: rows of logits as typed arrays (RFC 8746).

use half::f16;
use serde::{Deserialize, Deserializer, Serialize};
use serde_cbor::tags::Tagged;

use super::sample_list::IdsWire;
use super::{MAX_CLASSES, Octets, VERSION, WireError, cbor, digest, field, octets, round, text_keys, typed};
use crate::exchange::message::{Same, TargetChunk};
use crate::exchange::rows::{Floats, Rows, class_bytes};
use crate::ids::{Round, View};

/// RFC 8746, section 2.1: little-endian arrays.
const TAG_U8: u64 = 64;
const TAG_U16_LE: u64 = 69;
const TAG_F16_LE: u64 = 84;
const TAG_F32_LE: u64 = 85;

type Typed<'a> = Tagged<Octets<'a>>;

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
    #[serde(borrow, default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    ids: Option<Tagged<IdsWire<'a>>>,
    #[serde(borrow, default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    classes: Option<Typed<'a>>,
    #[serde(borrow, default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    logits: Option<Typed<'a>>,
    #[serde(borrow, default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    scale: Option<Typed<'a>>,
    #[serde(borrow, default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    offset: Option<Typed<'a>>,
    #[serde(borrow, default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    rest: Option<Typed<'a>>,
    #[serde(borrow, default, deserialize_with = "given_map", skip_serializing_if = "Option::is_none")]
    same: Option<SameWire<'a>>,
}

#[derive(Serialize, Deserialize)]
struct SameWire<'a> {
    base: u64,
    #[serde(borrow)]
    ids: Tagged<IdsWire<'a>>,
}

/// A field that may be left out, but is not null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn given_map<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    text_keys::deserialize(deserializer).map(Some)
}

pub(super) fn encode(m: &TargetChunk) -> Vec<u8> {
    let mut wire = TargetsWire {
        v: VERSION,
        session: m.session,
        data: octets(&m.data.0),
        model: octets(&m.model.0),
        round: m.round.0,
        temperature: m.temperature,
        view: m.view.0,
        n_classes: m.n_classes as u32,
        ids: None,
        classes: None,
        logits: None,
        scale: None,
        offset: None,
        rest: None,
        same: m.same.as_ref().map(|same| SameWire { base: same.base.0, ids: IdsWire::of(&same.ids) }),
    };
    if !m.ids.is_empty() {
        wire.ids = Some(IdsWire::of(&m.ids));
        match &m.rows {
            Rows::Dense(logits) => wire.logits = Some(floats(logits)),
            Rows::Affine { bytes, scale, offset } => {
                wire.logits = Some(typed(TAG_U8, bytes.clone()));
                (wire.scale, wire.offset) = (Some(floats(scale)), Some(floats(offset)));
            }
            Rows::TopK { classes, logits, rest } => {
                wire.classes = Some(if class_bytes(m.n_classes) == 1 {
                    typed(TAG_U8, classes.iter().map(|class| *class as u8).collect())
                } else {
                    typed(TAG_U16_LE, le_bytes(classes, u16::to_le_bytes))
                });
                (wire.logits, wire.rest) = (Some(floats(logits)), Some(floats(rest)));
            }
        }
    }
    cbor(&wire)
}

fn floats<'a>(values: &Floats) -> Typed<'a> {
    match values {
        Floats::F16(values) => typed(TAG_F16_LE, le_bytes(values, |v| v.to_le_bytes())),
        Floats::F32(values) => typed(TAG_F32_LE, le_bytes(values, |v| v.to_le_bytes())),
    }
}

/// In place, which the compiler turns into a copy; chained together they would go through one by one.
fn le_bytes<T: Copy, const N: usize>(values: &[T], of: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut bytes = vec![0; N * values.len()];
    for (to, v) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *to = of(*v);
    }
    bytes
}

pub(super) fn decode(mut wire: TargetsWire) -> Result<TargetChunk, WireError> {
    let n_classes = wire.n_classes as usize;
    if !(1..=MAX_CLASSES).contains(&n_classes) {
        return Err(field("n_classes", "1 to 4096", n_classes));
    }
    if !wire.temperature.is_finite() || wire.temperature <= 0.0 {
        return Err(field("temperature", "a positive number", wire.temperature));
    }
    let chunk_round = round(wire.round)?;
    let same = wire.same.take().map(|same| same_rows(same, chunk_round)).transpose()?;
    let ids = match wire.ids.take() {
        Some(ids) => ids.value.list("ids", ids.tag)?,
        None if same.is_some() && wire.logits.is_none() => Vec::new().into(),
        None => return Err(field("ids", "the samples of `logits`, or `same` alone", "none")),
    };
    let rows = if ids.is_empty() { Rows::none() } else { rows(&wire, ids.len(), n_classes)? };
    Ok(TargetChunk {
        session: wire.session,
        data: digest("data", &wire.data)?,
        model: digest("model", &wire.model)?,
        round: chunk_round,
        temperature: wire.temperature,
        view: View(wire.view),
        n_classes,
        ids,
        rows,
        same,
    })
}

fn same_rows(wire: SameWire, chunk_round: Round) -> Result<Same, WireError> {
    let base = Round(wire.base);
    if base == Round(0) || base >= chunk_round {
        return Err(field("same.base", "at least 1 and below `round`", wire.base));
    }
    Ok(Same { base, ids: wire.ids.value.list("same.ids", wire.ids.tag)? })
}

/// The one of the forms that the fields make up, for `n_rows` samples.
fn rows(wire: &TargetsWire, n_rows: usize, n_classes: usize) -> Result<Rows, WireError> {
    let logits = wire.logits.as_ref().ok_or_else(|| field("logits", "a typed array", "none"))?;
    let found = || format!("tag {:?} with {} bytes", logits.tag, logits.value.0.len());
    let of_rows = |name, numbers: &Option<Typed>| {
        let numbers = numbers.as_ref().ok_or_else(|| field(name, "a number for each sample", "none"))?;
        finite(numbers, n_rows)?.ok_or_else(|| {
            let found = format!("tag {:?} with {} bytes", numbers.tag, numbers.value.0.len());
            field(name, "typed array 84 (float16) or 85 (float32), one for each sample", found)
        })
    };
    if let Some(classes) = &wire.classes {
        let rest = of_rows("rest", &wire.rest)?;
        let classes = top_classes(classes, n_rows, n_classes)?;
        let logits = finite(logits, classes.len())?.ok_or_else(|| {
            field("logits", "typed array 84 (float16) or 85 (float32), one for each of `classes`", found())
        })?;
        return Ok(Rows::TopK { classes, logits, rest });
    }
    if logits.tag == Some(TAG_U8) {
        let (scale, offset) = (of_rows("scale", &wire.scale)?, of_rows("offset", &wire.offset)?);
        if logits.value.0.len() != n_rows * n_classes {
            return Err(field("logits", "typed array 64 (uint8), ids x n_classes", found()));
        }
        for i in 0..n_rows {
            if scale.get(i) < 0.0 {
                return Err(field("scale", "0 or more", scale.get(i)));
            }
            if !(offset.get(i) + 255.0 * scale.get(i)).is_finite() {
                return Err(WireError::NotFinite);
            }
        }
        return Ok(Rows::Affine { bytes: logits.value.0.to_vec(), scale, offset });
    }
    let dense = finite(logits, n_rows * n_classes)?.ok_or_else(|| {
        field("logits", "typed array 64 (uint8), 84 (float16) or 85 (float32), ids x n_classes", found())
    })?;
    Ok(Rows::Dense(dense))
}

/// `n` finite numbers. `None` of another type or length.
fn finite(wire: &Typed, n: usize) -> Result<Option<Floats>, WireError> {
    let bytes = &wire.value.0;
    let floats = match wire.tag {
        Some(TAG_F16_LE) if bytes.len() == 2 * n => {
            Floats::F16(bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)).collect())
        }
        Some(TAG_F32_LE) if bytes.len() == 4 * n => {
            Floats::F32(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
        }
        _ => return Ok(None),
    };
    if floats.are_finite() { Ok(Some(floats)) } else { Err(WireError::NotFinite) }
}

/// As many for each of `n_rows`, from 1 to all, in each row each once.
fn top_classes(wire: &Typed, n_rows: usize, n_classes: usize) -> Result<Vec<u16>, WireError> {
    let bytes = &wire.value.0;
    let classes: Vec<u16> = match wire.tag {
        Some(TAG_U8) => bytes.iter().map(|b| u16::from(*b)).collect(),
        Some(TAG_U16_LE) if bytes.len().is_multiple_of(2) => {
            bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect()
        }
        tag => return Err(field("classes", "typed array 64 (uint8) or 69 (uint16)", format!("{tag:?}"))),
    };
    let k = classes.len() / n_rows;
    if !classes.len().is_multiple_of(n_rows) || !(1..=n_classes).contains(&k) {
        return Err(field("classes", "1 to n_classes for each sample", classes.len()));
    }
    // By class: the row, from 1, in which it came last.
    let mut seen = vec![0; n_classes];
    for (row, classes) in (1..).zip(classes.chunks_exact(k)) {
        for class in classes {
            match seen.get_mut(usize::from(*class)) {
                None => return Err(field("classes", "below n_classes", class)),
                Some(last) if *last == row => return Err(field("classes", "each once in a row", class)),
                Some(last) => *last = row,
            }
        }
    }
    Ok(classes)
}
