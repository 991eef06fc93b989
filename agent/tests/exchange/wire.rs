//! The bytes of messages: what is written reads back, and what is wrong is refused by name and at no great cost.

use std::collections::BTreeMap;

use dkt_agent::exchange::message::{Message, TargetChunk};
use dkt_agent::exchange::rows::{Encoding, Floats, Rows};
use dkt_agent::exchange::sample_list::SampleList;
use dkt_agent::exchange::topic::Leaf;
use dkt_agent::exchange::wire::{
    MAX_MESSAGE_BYTES, MAX_SAMPLES, WireError, decode, encode, views_per_repair,
};
use dkt_agent::ids::{SampleId, View};
use proptest::prelude::*;
use serde_cbor::Value;

use crate::messages::{
    any_message, fields, forms_of_targets, key, one_of_each, samples, seeded, with, without,
};

/// The ends of topics, by what is published there.
const STATUS: usize = 0;
const DEMAND: usize = 1;
const REPAIR: usize = 2;
const TARGETS: usize = 3;

fn leaves() -> [Leaf; 5] {
    one_of_each().map(|(leaf, _)| leaf)
}

fn tagged(tag: u64, bytes: &[u8]) -> Value {
    Value::Tag(tag, Box::new(Value::Bytes(bytes.to_vec())))
}

/// What decoding `kind` with one field changed says of it.
fn refusal(kind: usize, name: &str, value: Value) -> String {
    let (leaf, message) = &one_of_each()[kind];
    match decode(leaf, &with(&encode(message), name, value.clone())) {
        Ok(message) => panic!("`{name}` {value:?} was read as {message:?}"),
        Err(error) => error.to_string(),
    }
}

proptest! {
    #![proptest_config(seeded(2000))]

    #[test]
    fn messages_read_back_as_written((leaf, message) in any_message()) {
        prop_assert_eq!(decode(&leaf, &encode(&message)).unwrap(), message);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_usize..5) {
        let _ = decode(&leaves()[kind], &bytes);
    }

    /// Well-formed maps with the right keys and anything in them get further than random bytes do.
    #[test]
    fn any_values_under_the_right_keys_are_read_or_refused(
        kind in 0_usize..16,
        changes in proptest::collection::vec((0_usize..13, any::<i64>(), 0_usize..8), 1..4),
    ) {
        let targets = forms_of_targets().into_iter().map(|message| (leaves()[TARGETS].clone(), message));
        let (leaf, message) = one_of_each().into_iter().chain(targets).nth(kind).unwrap();
        let mut fields = fields(&encode(&message));
        for (field, n, shape) in changes {
            let name = fields.keys().nth(field % fields.len()).unwrap().clone();
            let value = match shape {
                0 => Value::Integer(n.into()),
                1 => Value::Bytes(n.to_le_bytes().to_vec()),
                2 => Value::Text(n.to_string()),
                3 => Value::Array(vec![Value::Integer(n.into())]),
                4 => tagged(n as u64 % 90, &[0; 12]),
                7 => Value::Array(vec![Value::Integer(n.into()), Value::Bytes(n.to_le_bytes().to_vec())]),
                5 => Value::Float(f64::from_bits(n as u64)),
                _ => Value::Map(BTreeMap::from([(Value::Integer(n.into()), Value::Bytes(vec![0; 3]))])),
            };
            fields.insert(name, value);
        }
        let bytes = serde_cbor::to_vec(&Value::Map(fields)).unwrap();
        if let Ok(read) = decode(&leaf, &bytes) {
            prop_assert_eq!(decode(&leaf, &encode(&read)).unwrap(), read);
        }
    }
}

#[test]
fn a_message_cut_short_is_refused() {
    for (leaf, message) in one_of_each() {
        let bytes = encode(&message);
        for n in 1..bytes.len() {
            assert!(
                matches!(decode(&leaf, &bytes[..n]), Err(WireError::Cbor(_))),
                "{n} bytes of {message:?}"
            );
        }
    }
}

#[test]
fn a_message_with_a_byte_changed_is_refused_or_is_another_valid_message() {
    for (leaf, message) in one_of_each() {
        let bytes = encode(&message);
        for at in 0..bytes.len() {
            for mask in [0x01, 0x07, 0x20, 0x40, 0x80, 0xe0, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= mask;
                if let Ok(read) = decode(&leaf, &changed) {
                    assert_eq!(decode(&leaf, &encode(&read)).unwrap(), read, "byte {at} with {mask:#x}");
                }
            }
        }
    }
}

#[test]
fn a_message_without_a_field_or_under_another_topic_is_refused() {
    for (leaf, message) in one_of_each() {
        let bytes = encode(&message);
        for name in fields(&bytes).into_keys() {
            let Value::Text(name) = name else { panic!("{name:?}") };
            let error = decode(&leaf, &without(&bytes, &name)).expect_err(&name);
            // Which of these there must be depends on the others.
            let says_itself =
                matches!(&error, WireError::Field { .. }) && ["ids", "logits"].contains(&&name[..]);
            assert!(matches!(error, WireError::Cbor(_)) || says_itself, "without `{name}`: {error}");
        }
        for other in leaves().iter().filter(|other| **other != leaf) {
            assert!(matches!(decode(other, &bytes), Err(WireError::Cbor(_))), "{message:?} under {other:?}");
        }
    }
}

#[test]
fn fields_of_later_revisions_are_ignored() {
    let inside =
        [(Value::Integer(-1), Value::Null), (key("deep"), Value::Array(vec![tagged(84, &[0; 4]); 3]))];
    let later = [
        Value::Integer(7),
        Value::Text("x".to_owned()),
        tagged(55799, b"y"),
        Value::Map(BTreeMap::from(inside)),
        Value::Float(f64::NAN),
        Value::Bool(true),
    ];
    for (leaf, message) in one_of_each() {
        for value in &later {
            for name in ["a", "later", "zz"] {
                let bytes = with(&encode(&message), name, value.clone());
                assert_eq!(decode(&leaf, &bytes).unwrap(), message, "`{name}` {value:?}");
            }
        }
    }
}

#[test]
fn other_versions_are_refused_whatever_else_they_hold() {
    for (leaf, message) in one_of_each() {
        for version in [0, 2, 24, u64::MAX] {
            let v = Value::Integer(version.into());
            let only = serde_cbor::to_vec(&Value::Map(BTreeMap::from([(key("v"), v.clone())]))).unwrap();
            for bytes in [only, with(&encode(&message), "v", v)] {
                let error = decode(&leaf, &bytes).unwrap_err();
                assert!(matches!(error, WireError::Version { found } if found == version), "{error}");
            }
        }
    }
}

#[test]
fn keys_may_come_in_any_order_and_lengths_may_be_indefinite() {
    for (leaf, message) in one_of_each() {
        let bytes = encode(&message);
        // `fields` sorts: shorter keys first.
        let sorted = serde_cbor::to_vec(&Value::Map(fields(&bytes))).unwrap();
        assert_ne!(sorted, bytes);
        assert_eq!(decode(&leaf, &sorted).unwrap(), message);
        let indefinite = [&[0xbf], &bytes[1..], &[0xff]].concat();
        assert_eq!(decode(&leaf, &indefinite).unwrap(), message);
    }
}

#[test]
fn a_field_that_comes_twice_is_refused() {
    for (leaf, message) in one_of_each() {
        let bytes = encode(&message);
        let twice = [&[bytes[0] + 1, 0x61, b'v', 0x01], &bytes[1..]].concat();
        assert!(matches!(decode(&leaf, &twice), Err(WireError::Cbor(_))));
    }
}

/// serde reads a field by its number, by a byte string, and a structure as an array of its values as well.
#[test]
fn a_key_that_is_not_text_is_refused() {
    for (leaf, message) in one_of_each() {
        let bytes = encode(&message);
        for (number, (name, value)) in fields(&bytes).into_iter().enumerate() {
            let Value::Text(text) = &name else { panic!("{name:?}") };
            for other in [Value::Integer(number as i128), Value::Bytes(text.as_bytes().to_vec())] {
                let mut fields = fields(&bytes);
                fields.remove(&name);
                fields.insert(other.clone(), value.clone());
                let wrong = serde_cbor::to_vec(&Value::Map(fields)).unwrap();
                assert!(matches!(decode(&leaf, &wrong), Err(WireError::Cbor(_))), "{other:?}");
            }
        }
        let values = serde_cbor::to_vec(&Value::Array(fields(&bytes).into_values().collect())).unwrap();
        assert!(matches!(decode(&leaf, &values), Err(WireError::Cbor(_))));
    }
}

#[test]
fn bytes_behind_a_message_are_refused() {
    for (leaf, message) in one_of_each() {
        for more in [&[0x00][..], &[0xf6], &[0xa0], &encode(&message)] {
            let bytes = [&encode(&message), more].concat();
            assert!(matches!(decode(&leaf, &bytes), Err(WireError::Cbor(_))), "{more:?}");
        }
    }
}

#[test]
fn an_empty_payload_takes_back_what_was_retained() {
    for leaf in leaves() {
        assert_eq!(decode(&leaf, &[]).unwrap(), Message::Cleared);
    }
    assert_eq!(encode(&Message::Cleared), [0; 0]);
}

#[test]
fn a_message_beyond_the_bound_is_refused_before_it_is_read() {
    let bytes = vec![0x00; MAX_MESSAGE_BYTES + 1];
    for leaf in leaves() {
        assert!(matches!(decode(&leaf, &bytes), Err(WireError::TooLarge { found }) if found == bytes.len()));
        assert!(matches!(decode(&leaf, &bytes[1..]), Err(WireError::Cbor(_))));
    }
}

#[test]
fn each_wrong_value_is_refused_by_the_name_of_its_field() {
    let int = |n: i128| Value::Integer(n);
    let text = |s: &str| Value::Text(s.to_owned());
    let names = |n, length| Value::Array(vec![text(&"x".repeat(length)); n]);
    let set = |bytes: &[u8]| Value::Map(BTreeMap::from([(int(0), Value::Bytes(bytes.to_vec()))]));
    let cases = [
        (STATUS, "state", text("asleep"), "`state`: expected online, finished or offline, found asleep"),
        (STATUS, "data", Value::Bytes(vec![0; 31]), "`data`: expected 32 bytes, found 31"),
        (STATUS, "model", Value::Bytes(vec![0; 33]), "`model`: expected 32 bytes, found 33"),
        (STATUS, "classes", names(0, 0), "`classes`: expected 1 to 4096, found 0"),
        (STATUS, "classes", names(4097, 0), "`classes`: expected 1 to 4096, found 4097"),
        (STATUS, "classes", names(2, 257), "`classes`: expected names of at most 256 bytes, found 257"),
        (DEMAND, "n_views", int(0), "`n_views`: expected at least 1, found 0"),
        (DEMAND, "n_samples", int(0), "`n_samples`: expected 1 to 8000000, found 0"),
        (DEMAND, "n_samples", int(8_000_001), "`n_samples`: expected 1 to 8000000, found 8000001"),
        (DEMAND, "n_samples", int(4_294_967_295), "`n_samples`: expected 1 to 8000000, found 4294967295"),
        (DEMAND, "samples", Value::Bytes(vec![0; 2]), "`samples`: expected one bit for each"),
        (DEMAND, "samples", Value::Bytes(vec![0; 4]), "`samples`: expected one bit for each"),
        (DEMAND, "samples", Value::Bytes(vec![0, 0, 0x10]), "`samples`: expected one bit for each"),
        (REPAIR, "round", int(0), "`round`: expected at least 1, found 0"),
        (REPAIR, "missing", Value::Map(BTreeMap::new()), "`missing`: expected at least one view, found 0"),
        (REPAIR, "missing", set(&[0; 2]), "`missing`: expected one bit for each"),
        (REPAIR, "missing", set(&[0, 0, 0xff]), "`missing`: expected one bit for each"),
        (TARGETS, "round", int(0), "`round`: expected at least 1, found 0"),
        (TARGETS, "temperature", int(0), "`temperature`: expected a positive number, found 0"),
        (TARGETS, "temperature", Value::Float(-1.0), "`temperature`: expected a positive number, found -1"),
        (
            TARGETS,
            "temperature",
            Value::Float(f64::NAN),
            "`temperature`: expected a positive number, found NaN",
        ),
        (TARGETS, "temperature", Value::Float(1e300), "`temperature`: expected a positive number, found inf"),
        (TARGETS, "n_classes", int(0), "`n_classes`: expected 1 to 4096, found 0"),
        (TARGETS, "n_classes", int(4097), "`n_classes`: expected 1 to 4096, found 4097"),
        (
            TARGETS,
            "n_classes",
            int(2),
            "`logits`: expected typed array 64 (uint8), 84 (float16) or 85 (float32)",
        ),
        (TARGETS, "ids", tagged(70, &[]), "`ids`: expected 4 bytes for each of at least one sample, found 0"),
        (
            TARGETS,
            "ids",
            tagged(70, &[0; 7]),
            "`ids`: expected 4 bytes for each of at least one sample, found 7",
        ),
        (TARGETS, "ids", tagged(70, &[0; 12]), "`logits`: expected typed array"),
        (
            TARGETS,
            "ids",
            tagged(66, &[0; 8]),
            "`ids`: expected typed array 70 (uint32, little endian), found Some(66)",
        ),
        (
            TARGETS,
            "ids",
            Value::Bytes(vec![0; 8]),
            "`ids`: expected typed array 70 (uint32, little endian), found None",
        ),
        // Behind the tagged `ids`: the library keeps the last tag in a place that all values share.
        (
            TARGETS,
            "logits",
            Value::Bytes(vec![0; 12]),
            "`logits`: expected typed array 64 (uint8), 84 (float16) or 85 (float32), ids x n_classes, found tag None",
        ),
        (TARGETS, "logits", tagged(80, &[0; 12]), "`logits`: expected typed array"),
        (TARGETS, "logits", tagged(86, &[0; 48]), "`logits`: expected typed array"),
        (TARGETS, "logits", tagged(84, &[0; 11]), "`logits`: expected typed array"),
        (TARGETS, "logits", tagged(84, &[0; 13]), "`logits`: expected typed array"),
        (TARGETS, "logits", tagged(85, &[0; 12]), "`logits`: expected typed array"),
        (TARGETS, "logits", tagged(84, &[0, 0x7c].repeat(6)), "a logit is not finite"),
        (TARGETS, "logits", tagged(84, &[1, 0xfe].repeat(6)), "a logit is not finite"),
        (TARGETS, "logits", tagged(85, &f32::NAN.to_le_bytes().repeat(6)), "a logit is not finite"),
        (TARGETS, "logits", tagged(85, &f32::NEG_INFINITY.to_le_bytes().repeat(6)), "a logit is not finite"),
    ];
    for (kind, name, value, expected) in cases {
        let found = refusal(kind, name, value.clone());
        assert!(found.starts_with(expected), "`{name}` {value:?}: {found}");
    }
}

#[test]
fn values_of_another_type_are_refused() {
    let cbor = WireError::Cbor(serde_cbor::from_slice::<u8>(&[]).unwrap_err()).to_string();
    let digest = Value::Bytes(vec![0; 32]);
    let number = Value::Integer(1);
    let text = Value::Text("0".repeat(32));
    // Numbers one by one are not a byte string, though many libraries write one so.
    let list = Value::Array(vec![Value::Integer(0); 32]);
    let beyond = Value::Map(BTreeMap::from([(Value::Integer(256), Value::Bytes(vec![0; 3]))]));
    let typed = tagged(70, &[0; 3]);
    let cases = [
        (STATUS, "v", vec![&digest, &text, &list]),
        (STATUS, "session", vec![&digest, &text, &Value::Integer(-1), &Value::Float(1.0)]),
        (STATUS, "state", vec![&number, &list]),
        (STATUS, "data", vec![&number, &text, &list, &Value::Null]),
        (STATUS, "classes", vec![&digest, &text, &list]),
        (DEMAND, "n_views", vec![&digest, &Value::Integer(256), &Value::Integer(-1)]),
        (DEMAND, "n_samples", vec![&text, &Value::Integer(1 << 32)]),
        (DEMAND, "samples", vec![&text, &list, &number, &typed]),
        (REPAIR, "missing", vec![&digest, &list, &text, &beyond]),
        (TARGETS, "view", vec![&Value::Integer(256), &text]),
        (TARGETS, "temperature", vec![&digest, &text]),
        (TARGETS, "ids", vec![&text, &list]),
        (TARGETS, "logits", vec![&text, &list, &number]),
    ];
    for (kind, name, values) in cases {
        for value in values {
            assert_eq!(refusal(kind, name, value.clone()), cbor, "`{name}` {value:?}");
        }
    }
}

#[test]
fn single_precision_is_read_and_a_whole_number_as_temperature() {
    let (leaf, message) = &one_of_each()[TARGETS];
    let Message::Targets(mut expected) = message.clone() else { panic!("{message:?}") };
    let logits = [1e-30, -3.4e38, 0.1, 70000.0, -0.0, 1.0];
    expected.rows = Rows::Dense(Floats::F32(logits.to_vec()));
    let single: Vec<u8> = logits.iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
    let bytes =
        with(&with(&encode(message), "logits", tagged(85, &single)), "temperature", Value::Integer(2));
    assert_eq!(decode(leaf, &bytes).unwrap(), Message::Targets(expected));
}

#[test]
fn what_half_precision_cannot_hold_becomes_its_largest_value() {
    let (leaf, message) = &one_of_each()[TARGETS];
    let Message::Targets(mut chunk) = message.clone() else { panic!("{message:?}") };
    chunk.rows = Rows::pack(Encoding::F16, &[1e9, -1e9, f32::MAX, f32::MIN, 65520.0, 1e-9], 3, 2.0);
    let Message::Targets(read) = decode(leaf, &encode(&Message::Targets(chunk))).unwrap() else { panic!() };
    let mut rows = [0.0; 6];
    let (first, second) = rows.split_at_mut(3);
    read.rows.unpack(0, first);
    read.rows.unpack(1, second);
    assert_eq!(rows, [65504.0, -65504.0, 65504.0, -65504.0, 65504.0, 0.0]);
}

#[test]
fn lengths_that_promise_more_than_there_is_cost_nothing() {
    let heads: [u8; 5] = [0x5b, 0x7b, 0x9b, 0xbb, 0xdb];
    for n in [1_u64 << 20, 1 << 32, 1 << 40, 1 << 62, 1 << 63, u64::MAX] {
        for head in heads {
            let long = [&[head], &n.to_be_bytes()[..]].concat();
            for (leaf, message) in one_of_each() {
                assert!(decode(&leaf, &long).is_err());
                // In the place of each value, and as the value of an unknown field.
                let bytes = encode(&message);
                let first = [&[0xa2, 0x61, b'v', 0x01, 0x61, b'z'], &long[..]].concat();
                assert!(decode(&leaf, &first).is_err());
                for name in fields(&bytes).into_keys() {
                    let mut map = fields(&bytes);
                    map.remove(&name);
                    let mut hostile = vec![0xa0 + map.len() as u8 + 1];
                    for (key, value) in map {
                        hostile.extend(serde_cbor::to_vec(&key).unwrap());
                        hostile.extend(serde_cbor::to_vec(&value).unwrap());
                    }
                    hostile.extend(serde_cbor::to_vec(&name).unwrap());
                    hostile.extend(&long);
                    assert!(decode(&leaf, &hostile).is_err(), "{name:?}");
                }
            }
        }
    }
    #[cfg(target_os = "linux")]
    assert!(peak_bytes() < 4 << 30, "{} bytes of address space", peak_bytes());
}

/// Address space that this process has ever had: memory that is asked for and not touched counts too.
#[cfg(target_os = "linux")]
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn nesting_without_end_is_refused() {
    for n in [200, 100_000, MAX_MESSAGE_BYTES - 8] {
        for level in [0x81, 0x9f, 0xa1, 0xbf, 0xc1, 0xd7] {
            for leaf in leaves() {
                assert!(matches!(decode(&leaf, &vec![level; n]), Err(WireError::Cbor(_))));
                let inside = [&[0xa2, 0x61, b'v', 0x01, 0x61, b'z'][..], &vec![level; n]].concat();
                assert!(matches!(decode(&leaf, &inside), Err(WireError::Cbor(_))));
            }
        }
    }
}

/// A list of empty names is the worst case: a byte each on the wire.
#[test]
fn a_long_list_of_nothing_is_refused() {
    let names = Value::Array(vec![Value::Text(String::new()); MAX_MESSAGE_BYTES - 1000]);
    assert_eq!(refusal(STATUS, "classes", names), "`classes`: expected 1 to 4096, found 1047576");
}

/// The first form of targets that has this field, with it changed: what decoding says of it.
fn refusal_of_form(of: usize, name: &str, value: Value) -> String {
    let message = forms_of_targets().swap_remove(of);
    let bytes = encode(&message);
    assert!(fields(&bytes).contains_key(&key(name)), "`{name}` in {message:?}");
    match decode(&leaves()[TARGETS], &with(&bytes, name, value.clone())) {
        Ok(message) => panic!("`{name}` {value:?} was read as {message:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_form_of_soft_targets_reads_back_and_lacks_nothing_that_it_needs() {
    for message in forms_of_targets() {
        let (leaf, bytes) = (leaves()[TARGETS].clone(), encode(&message));
        assert_eq!(decode(&leaf, &bytes).unwrap(), message);
        let Message::Targets(TargetChunk { rows, .. }) = &message else { panic!() };
        let names_all = matches!(rows, Rows::TopK { classes, rest, .. } if classes.len() == 3 * rest.len());
        for name in ["ids", "logits", "scale", "offset", "rest", "classes"] {
            if fields(&bytes).contains_key(&key(name)) {
                // Without its classes a row of all of them is a dense one.
                let refused = decode(&leaf, &without(&bytes, name)).is_err();
                assert!(refused || (names_all && name == "classes"), "{message:?} without `{name}`");
                assert!(
                    decode(&leaf, &with(&bytes, name, Value::Null)).is_err(),
                    "{message:?}, `{name}` null"
                );
            }
        }
    }
}

#[test]
fn hostile_forms_of_soft_targets_are_refused_by_the_name_of_their_field() {
    const U8: usize = 2;
    const TOP_1: usize = 3;
    const TOP_3: usize = 4;
    const SAME: usize = 10;
    let halves = |values: &[f32]| {
        tagged(84, &values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect::<Vec<_>>())
    };
    let singles =
        |values: &[f32]| tagged(85, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    let window =
        |first: i128, bits: &[u8]| Value::Array(vec![Value::Integer(first), Value::Bytes(bits.to_vec())]);
    let same = |base: i128, ids: Value| {
        Value::Map(BTreeMap::from([(key("base"), Value::Integer(base)), (key("ids"), ids)]))
    };
    let not_finite = "a logit is not finite";
    let cases = [
        (U8, "logits", tagged(64, &[0; 5]), "`logits`: expected typed array 64 (uint8), ids x n_classes"),
        (U8, "logits", tagged(64, &[0; 7]), "`logits`: expected typed array 64 (uint8), ids x n_classes"),
        (U8, "logits", tagged(68, &[0; 6]), "`logits`: expected typed array"),
        (U8, "scale", halves(&[1.0]), "`scale`: expected typed array 84 (float16) or 85 (float32), one for"),
        (U8, "scale", tagged(64, &[1; 2]), "`scale`: expected typed array"),
        (U8, "scale", halves(&[1.0, -1.0]), "`scale`: expected 0 or more, found -1"),
        (U8, "scale", halves(&[1.0, f32::NAN]), not_finite),
        (U8, "scale", singles(&[1.0, f32::INFINITY]), not_finite),
        (U8, "scale", singles(&[1.0, 2e36]), not_finite),
        (U8, "offset", halves(&[1.0, 1.0, 1.0]), "`offset`: expected typed array"),
        (U8, "offset", halves(&[f32::NEG_INFINITY, 1.0]), not_finite),
        (TOP_1, "classes", tagged(64, &[]), "`classes`: expected 1 to n_classes for each sample, found 0"),
        (
            TOP_1,
            "classes",
            tagged(64, &[0; 3]),
            "`classes`: expected 1 to n_classes for each sample, found 3",
        ),
        (TOP_1, "classes", tagged(64, &[0, 1, 2, 3, 0, 1, 2, 3]), "`classes`: expected 1 to n_classes"),
        (TOP_1, "classes", tagged(64, &[0, 3]), "`classes`: expected below n_classes, found 3"),
        (TOP_1, "classes", tagged(69, &[0, 0, 0, 1]), "`classes`: expected below n_classes, found 256"),
        (TOP_1, "classes", tagged(69, &[0; 3]), "`classes`: expected typed array 64 (uint8) or 69 (uint16)"),
        (TOP_1, "classes", tagged(65, &[0; 4]), "`classes`: expected typed array 64 (uint8) or 69 (uint16)"),
        (
            TOP_3,
            "classes",
            tagged(64, &[0, 1, 0, 0, 1, 2]),
            "`classes`: expected each once in a row, found 0",
        ),
        (TOP_3, "classes", tagged(64, &[0, 1, 2, 0, 1]), "`classes`: expected 1 to n_classes"),
        (
            TOP_3,
            "logits",
            halves(&[0.0; 5]),
            "`logits`: expected typed array 84 (float16) or 85 (float32), one",
        ),
        (TOP_3, "logits", tagged(64, &[0; 6]), "`logits`: expected typed array"),
        (TOP_3, "logits", halves(&[f32::NAN; 6]), not_finite),
        (TOP_3, "rest", halves(&[0.0]), "`rest`: expected typed array"),
        (TOP_3, "rest", halves(&[0.0, f32::INFINITY]), not_finite),
        (U8, "ids", window(8_000_000, &[3]), "`ids`: expected a first sample below 8000000, found 8000000"),
        (U8, "ids", window(0, &[]), "`ids`: expected bits that end with a byte that is not 0, found 0"),
        (U8, "ids", window(0, &[3, 0]), "`ids`: expected bits that end with a byte that is not 0, found 2"),
        (U8, "ids", window(0, &[7]), "`scale`: expected typed array"),
        (U8, "ids", Value::Tag(70, Box::new(window(0, &[3]))), "`ids`: expected no tag before"),
        (
            SAME,
            "same",
            same(0, window(0, &[1])),
            "`same.base`: expected at least 1 and below `round`, found 0",
        ),
        (
            SAME,
            "same",
            same(3, window(0, &[1])),
            "`same.base`: expected at least 1 and below `round`, found 3",
        ),
        (SAME, "same", same(1, window(0, &[0])), "`same.ids`: expected bits that end with"),
        (
            SAME,
            "same",
            same(1, tagged(70, &[])),
            "`same.ids`: expected 4 bytes for each of at least one sample",
        ),
        (SAME, "same", same(1, Value::Bytes(vec![0; 4])), "`same.ids`: expected typed array 70"),
    ];
    for (of, name, value, expected) in cases {
        let found = refusal_of_form(of, name, value.clone());
        assert!(found.starts_with(expected), "`{name}` {value:?}: {found}");
    }
    let cbor = WireError::Cbor(serde_cbor::from_slice::<u8>(&[]).unwrap_err()).to_string();
    let tagged_bits = Value::Array(vec![Value::Integer(0), tagged(64, &[3])]);
    let three = Value::Array(vec![Value::Integer(0), Value::Bytes(vec![3]), Value::Null]);
    for (of, name, value) in [
        (U8, "ids", window(-1, &[3])),
        (U8, "ids", tagged_bits),
        (U8, "ids", three),
        (U8, "ids", Value::Array(vec![Value::Bytes(vec![3]), Value::Integer(0)])),
        (U8, "ids", Value::Null),
        (SAME, "same", Value::Null),
        (SAME, "same", window(1, &[1])),
    ] {
        assert_eq!(refusal_of_form(of, name, value.clone()), cbor, "`{name}` {value:?}");
    }
}

/// What a message promises of classes that are not there, or of samples in a window, costs no memory.
#[test]
fn a_message_takes_memory_in_proportion_to_its_length() {
    let message = forms_of_targets().swap_remove(10);
    let n = MAX_MESSAGE_BYTES - 1000;
    let window = Value::Array(vec![Value::Integer(0), Value::Bytes(vec![0xff; n])]);
    let same = Value::Map(BTreeMap::from([(key("base"), Value::Integer(1)), (key("ids"), window)]));
    let Message::Targets(read) = decode(&leaves()[TARGETS], &with(&encode(&message), "same", same)).unwrap()
    else {
        panic!()
    };
    let Some(same) = read.same else { panic!() };
    assert_eq!((same.ids.len(), same.ids.iter().last()), (8 * n, Some(SampleId(8 * n as u32 - 1))));
    assert!(matches!(same.ids, SampleList::Window { bits, .. } if bits.len() == n));
}

#[test]
fn the_largest_set_and_the_longest_repair_fit_into_a_message() {
    let (leaf, message) = &one_of_each()[REPAIR];
    let Message::Repair(mut repair) = message.clone() else { panic!("{message:?}") };
    repair.round.0 = u64::MAX;
    for n_samples in [1, 1000, 60_000, 1_300_000, 4_200_000, MAX_SAMPLES] {
        let n_views = views_per_repair(n_samples).min(256);
        repair.missing = (0..=255).take(n_views).map(|view| (View(view), samples(n_samples, &[0]))).collect();
        let repair = Message::Repair(repair.clone());
        let bytes = encode(&repair);
        assert!(
            bytes.len() <= MAX_MESSAGE_BYTES,
            "{n_views} views of {n_samples} samples: {} bytes",
            bytes.len()
        );
        assert_eq!(decode(leaf, &bytes).unwrap(), repair);
    }
}
