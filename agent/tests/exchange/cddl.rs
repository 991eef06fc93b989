//! What the encoder writes is what docs/protocol.cddl allows, and that file allows nothing else.

use std::collections::BTreeMap;

use ::cddl::validate_cbor_from_slice;
use dkt_agent::exchange::envelope::{Envelope, seal};
use dkt_agent::exchange::message::Message;
use dkt_agent::exchange::wire::{decode, encode};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use serde_cbor::Value;

use crate::messages::{any_message, fields, forms_of_targets, key, one_of_each, seeded, with, without};

const CDDL: &str = include_str!("../../../docs/protocol.cddl");
const KINDS: [&str; 5] = ["status", "demand", "repair", "targets", "inputs"];

fn kind(message: &Message) -> &'static str {
    match message {
        Message::Status(_) => KINDS[0],
        Message::Demand(_) => KINDS[1],
        Message::Repair(_) => KINDS[2],
        Message::Targets(_) => KINDS[3],
        Message::Inputs(_) => KINDS[4],
        Message::Cleared => panic!("no CBOR"),
    }
}

/// Against one rule: the first of a file is the one that counts.
fn validate(rule: &str, bytes: &[u8]) -> Result<(), String> {
    let cddl = format!("start = {rule}\n{CDDL}");
    validate_cbor_from_slice(&cddl, bytes, None).map_err(|error| error.to_string())
}

proptest! {
    #![proptest_config(seeded(60))]

    #[test]
    fn every_encoded_message_is_allowed((_, message) in any_message()) {
        let checked = validate(kind(&message), &encode(&message));
        prop_assert!(checked.is_ok(), "{:?}", checked);
    }
}

#[test]
fn each_kind_is_a_message_and_no_other_kind() {
    for (_, message) in one_of_each() {
        let bytes = encode(&message);
        assert_eq!(validate("message", &bytes), Ok(()), "{message:?}");
        for rule in KINDS {
            assert_eq!(validate(rule, &bytes).is_ok(), rule == kind(&message), "{message:?} as {rule}");
        }
    }
}

#[test]
fn a_missing_field_is_refused() {
    for (_, message) in one_of_each() {
        let bytes = encode(&message);
        for name in fields(&bytes).into_keys() {
            let Value::Text(name) = name else { panic!("{name:?}") };
            assert!(
                validate(kind(&message), &without(&bytes, &name)).is_err(),
                "{message:?} without `{name}`"
            );
        }
    }
}

#[test]
fn every_form_of_soft_targets_is_allowed_and_lacks_nothing() {
    for message in forms_of_targets() {
        let bytes = encode(&message);
        assert_eq!(validate("targets", &bytes), Ok(()), "{message:?}");
        let fields = fields(&bytes);
        for name in ["ids", "logits", "scale", "offset", "rest", "classes"] {
            // Where other samples are the same, such a message is allowed as one that says only that.
            if fields.contains_key(&key(name)) && !fields.contains_key(&key("same")) {
                let part = validate("targets", &without(&bytes, name));
                // Without its classes a row is one of fewer logits: the file does not count them.
                let is_dense = ["classes", "rest"].contains(&name);
                assert!(part.is_err() || is_dense, "{message:?} without `{name}`");
            }
        }
    }
}

/// What the file refuses in one form the decoder refuses too.
#[test]
fn wrong_forms_of_soft_targets_are_refused_by_both() {
    let bytes = |n: usize| Value::Bytes(vec![1; n]);
    let tagged = |tag: u64, n: usize| Value::Tag(tag, Box::new(bytes(n)));
    let same = |base: Value, ids: Value| Value::Map(BTreeMap::from([(key("base"), base), (key("ids"), ids)]));
    let window = |first: i128, bits: Value| Value::Array(vec![Value::Integer(first), bits]);
    let cases = [
        (2, "scale", vec![bytes(4), tagged(80, 4), Value::Array(vec![Value::Float(0.5); 2])]),
        (2, "offset", vec![bytes(4), tagged(64, 2)]),
        (2, "ids", vec![window(8_000_000, bytes(1)), window(-1, bytes(1)), Value::Array(vec![bytes(1)])]),
        (3, "logits", vec![bytes(4), tagged(64, 2), tagged(70, 8)]),
        (10, "same", vec![same(Value::Integer(0), window(0, bytes(1))), same(Value::Integer(1), bytes(4))]),
        (10, "same", vec![same(Value::Integer(1), tagged(64, 4)), Value::Null, window(1, bytes(1))]),
    ];
    for (of, name, values) in cases {
        let encoded = encode(&forms_of_targets().swap_remove(of));
        assert!(fields(&encoded).contains_key(&key(name)), "`{name}`");
        let [.., (leaf, _), _] = one_of_each();
        for value in values {
            let wrong = with(&encoded, name, value.clone());
            assert!(validate("targets", &wrong).is_err(), "`{name}` {value:?} is allowed");
            assert!(decode(&leaf, &wrong).is_err(), "`{name}` {value:?} is read");
        }
    }
}

#[test]
fn a_later_field_is_allowed() {
    for (_, message) in one_of_each() {
        let bytes = with(&encode(&message), "later", Value::Array(vec![Value::Null]));
        assert_eq!(validate(kind(&message), &bytes), Ok(()), "{message:?}");
    }
}

#[test]
fn what_other_writers_may_choose_is_allowed() {
    let single = Value::Tag(85, Box::new(Value::Bytes(vec![0; 24])));
    let [.., (leaf, targets), _] = one_of_each();
    for (name, value) in
        [("temperature", Value::Integer(2)), ("temperature", 0.1_f64.into()), ("logits", single)]
    {
        let bytes = with(&encode(&targets), name, value.clone());
        assert_eq!(validate("targets", &bytes), Ok(()), "`{name}` {value:?}");
        assert!(decode(&leaf, &bytes).is_ok(), "`{name}` {value:?}");
    }
}

#[test]
fn envelopes_are_allowed_and_no_other_arrays() {
    let key = SigningKey::from_bytes(&[7; 32]);
    for message in [&b"\xa1\x61v\x01"[..], b""] {
        let sealed = seal(&key, "alice", "topic", 1 << 40, message);
        assert_eq!(validate("signed-message", &sealed), Ok(()));
        let Value::Tag(18, parts) = serde_cbor::from_slice(&sealed).unwrap() else { panic!("no tag") };
        let Value::Array(parts) = *parts else { panic!("no array") };
        for (part, wrong) in [
            (0, Value::Bytes(vec![0xa0])),
            (1, Value::Null),
            (2, Value::Null),
            (3, Value::Bytes(vec![0; 63])),
        ] {
            let mut parts = parts.clone();
            parts[part] = wrong;
            let wrong = serde_cbor::to_vec(&Value::Tag(18, Box::new(Value::Array(parts)))).unwrap();
            assert!(validate("signed-message", &wrong).is_err(), "part {part}");
            assert!(Envelope::read(&wrong).is_err(), "part {part}");
        }
    }
}

/// What the file refuses the decoder refuses too.
#[test]
fn wrong_values_are_refused_by_both() {
    let int = |n: i128| Value::Integer(n);
    let bytes = |n: usize| Value::Bytes(vec![0; n]);
    let tagged = |tag: u64, n: usize| Value::Tag(tag, Box::new(bytes(n)));
    let text = |s: &str| Value::Text(s.to_owned());
    let shape = |sizes: &[i128]| Value::Array(sizes.iter().map(|n| int(*n)).collect());
    let one = |view: Value, set: Value| Value::Map(BTreeMap::from([(view, set)]));
    let cases = [
        (0, "v", vec![int(0), int(2), text("1")]),
        (0, "state", vec![text("asleep"), int(1), Value::Null]),
        (0, "session", vec![int(-1), text("1"), Value::Float(1.5)]),
        (0, "data", vec![bytes(31), bytes(33), text(&"0".repeat(32)), Value::Array(vec![int(0); 32])]),
        (0, "classes", vec![Value::Array(Vec::new()), Value::Array(vec![text(&"x".repeat(257))]), text("a")]),
        (0, "classes", vec![Value::Array(vec![int(1)]), Value::Array(vec![text(""); 4097])]),
        (0, "model", vec![bytes(0), int(0)]),
        (0, "round", vec![int(-1), bytes(8)]),
        (1, "n_samples", vec![int(0), int(8_000_001), text("20")]),
        (1, "n_views", vec![int(0), int(256)]),
        (1, "samples", vec![text("abc"), Value::Array(vec![int(0); 3])]),
        (0, "accepts", vec![shape(&[0, 2, 3]), shape(&[2, 3]), shape(&[1, 2, 3, 4]), shape(&[1, 65_536, 3])]),
        (0, "sends", vec![shape(&[1, 2, 0]), bytes(6), text("1x2x3")]),
        (2, "round", vec![int(0)]),
        (2, "missing", vec![Value::Map(BTreeMap::new()), Value::Array(vec![bytes(3)]), bytes(3)]),
        (2, "missing", vec![one(text("0"), bytes(3)), one(int(0), text("abc"))]),
        (3, "session", vec![int(-1), bytes(8)]),
        (3, "round", vec![int(0)]),
        (3, "temperature", vec![int(0), Value::Float(-0.5), Value::Float(0.0), text("2")]),
        (3, "view", vec![int(-1), int(256)]),
        (3, "n_classes", vec![int(0), int(4097)]),
        (3, "ids", vec![bytes(8), tagged(66, 8), tagged(84, 8), Value::Array(vec![int(0); 2])]),
        (
            3,
            "logits",
            vec![bytes(12), tagged(80, 12), tagged(86, 48), Value::Array(vec![Value::Float(0.5); 6])],
        ),
        (4, "session", vec![int(-1)]),
        (4, "view", vec![int(-1), int(256)]),
        (
            4,
            "shape",
            vec![shape(&[0, 2, 3]), shape(&[6]), shape(&[1, 1, 2, 3]), shape(&[65_537, 2, 3]), int(6)],
        ),
        (4, "ids", vec![bytes(8), tagged(66, 8), Value::Array(vec![int(0); 2])]),
        (4, "pixels", vec![text("abcdefghijkl"), Value::Array(vec![int(0); 12])]),
        (4, "teachers", vec![Value::Array(vec![text("")]), Value::Array(vec![int(1)]), text("bob")]),
        (4, "teachers", vec![Value::Array(vec![text("bob"); 65]), Value::Array(vec![text(&"x".repeat(65))])]),
    ];
    let optional = ["accepts", "sends", "teachers"];
    for (of, name, values) in cases {
        let (leaf, message) = &one_of_each()[of];
        assert!(optional.contains(&name) || fields(&encode(message)).contains_key(&key(name)));
        for value in values {
            let wrong = with(&encode(message), name, value.clone());
            assert!(validate(KINDS[of], &wrong).is_err(), "{}: `{name}` {value:?} is allowed", KINDS[of]);
            assert!(decode(leaf, &wrong).is_err(), "{}: `{name}` {value:?} is read", KINDS[of]);
        }
    }
}
