//! Lists of samples as CBOR: a typed array of ids (RFC 8746), or the first id and a bit for each that follows.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_cbor::tags::Tagged;

use super::{MAX_SAMPLES, Octets, WireError, field, octets, typed};
use crate::exchange::sample_list::SampleList;
use crate::ids::SampleId;

/// RFC 8746, section 2.1: little-endian array.
const TAG_U32_LE: u64 = 70;

/// Ids one by one, as a typed array.
pub(super) fn listed<'a>(ids: &[SampleId]) -> Tagged<Octets<'a>> {
    typed(TAG_U32_LE, ids.iter().flat_map(|id| id.0.to_le_bytes()).collect())
}

/// At least one id, out of a typed array.
pub(super) fn read_listed(
    name: &'static str,
    tag: Option<u64>,
    bytes: &Octets,
) -> Result<Vec<SampleId>, WireError> {
    if tag != Some(TAG_U32_LE) {
        return Err(field(name, "typed array 70 (uint32, little endian)", format!("{tag:?}")));
    }
    let (ids, rest) = bytes.0.as_chunks::<4>();
    if !rest.is_empty() || ids.is_empty() {
        return Err(field(name, "4 bytes for each of at least one sample", bytes.0.len()));
    }
    Ok(ids.iter().map(|b| SampleId(u32::from_le_bytes(*b))).collect())
}

/// What the tag of a list belongs to.
pub(super) enum IdsWire<'a> {
    Listed(Octets<'a>),
    Window(u32, Octets<'a>),
}

impl<'a> IdsWire<'a> {
    pub fn of(list: &'a SampleList) -> Tagged<Self> {
        match list {
            SampleList::Listed(ids) => {
                let Tagged { tag, value } = listed(ids);
                Tagged::new(tag, IdsWire::Listed(value))
            }
            SampleList::Window { first, bits } => Tagged::new(None, IdsWire::Window(first.0, octets(bits))),
        }
    }

    pub fn list(self, name: &'static str, tag: Option<u64>) -> Result<SampleList, WireError> {
        match self {
            IdsWire::Listed(bytes) => read_listed(name, tag, &bytes).map(SampleList::Listed),
            IdsWire::Window(first, bits) => {
                if tag.is_some() {
                    return Err(field(name, "no tag before a first sample and bits", format!("{tag:?}")));
                }
                if first >= MAX_SAMPLES {
                    return Err(field(name, "a first sample below 8000000", first));
                }
                if bits.0.last().is_none_or(|last| *last == 0) {
                    return Err(field(name, "bits that end with a byte that is not 0", bits.0.len()));
                }
                Ok(SampleList::Window { first: SampleId(first), bits: bits.0.into_owned() })
            }
        }
    }
}

impl Serialize for IdsWire<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            IdsWire::Listed(bytes) => bytes.serialize(serializer),
            IdsWire::Window(first, bits) => (first, bits).serialize(serializer),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for IdsWire<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdsVisitor;

        impl<'de> Visitor<'de> for IdsVisitor {
            type Value = IdsWire<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a typed array, or a first sample and bits")
            }

            fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(IdsWire::Listed(Octets(bytes.into())))
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(IdsWire::Listed(Octets(bytes.to_vec().into())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let first = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                let bits = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
                Ok(IdsWire::Window(first, bits))
            }
        }

        deserializer.deserialize_any(IdsVisitor)
    }
}
