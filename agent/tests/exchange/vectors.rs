//! The examples of RFC 8949: well-formed items (appendix A) are ignored under a key that a later revision may add,
//! items that are not well-formed (appendix F) have their message refused.

use dkt_agent::exchange::wire::{WireError, decode, encode};
use serde_cbor::Value;

use crate::messages::one_of_each;

/// Simple values that have no meaning (RFC 8949, section 3.3), which the decoder does not know.
const UNASSIGNED: [&str; 3] = ["f0", "f818", "f8ff"];

/// Hexadecimal, whether its encoding is the shortest, and its value as JSON, or `-` where JSON has none.
fn appendix_a() -> impl Iterator<Item = (&'static str, bool, &'static str)> {
    let lines = include_str!("rfc8949_appendix_a.tsv").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let [item, form, value] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        (item, form == "shortest", value)
    })
}

/// Section F.1 by its paragraphs: heads cut short; strings cut short; arrays and maps cut short; a tag of nothing;
/// strings, arrays and maps of indefinite length that do not end; reserved additional information; simple values
/// in two bytes that belong into one; chunks of another type; a break where none may be; an odd map; indefinite
/// lengths where there are none.
const APPENDIX_F: [&str; 12] = [
    "18 19 1a 1b 1901 1a0102 1b01020304050607 38 58 78 98 9a01ff00 b8 d8 f8 f900 fa0000 fb000000",
    "41 61 5affffffff00 5bffffffffffffffff010203 7affffffff00 7b7fffffffffffffff010203",
    "81 818181818181818181 8200 a1 a20102 a100 a2000000",
    "c0",
    "5f4100 7f6100",
    "9f 9f0102 bf bf01020102 819f 9f8000 9f9f9f9f9fffffffff 9f819f819f9fffffff",
    "1c 1d 1e 3c 3d 3e 5c 5d 5e 7c 7d 7e 9c 9d 9e bc bd be dc dd de fc fd fe",
    "f800 f801 f818 f81f",
    "5f00ff 5f21ff 5f6100ff 5f80ff 5fa0ff 5fc000ff 5fe0ff 7f4100ff 5f5f4100ffff 7f7f6100ffff",
    "ff 81ff 8200ff a1ff a1ff00 a100ff a20000ff 9f81ff 9f829f819f9fffffffff",
    "bf00ff bf000000ff",
    "1f 3f df",
];

fn bytes(item: &str) -> Vec<u8> {
    (0..item.len()).step_by(2).map(|i| u8::from_str_radix(&item[i..i + 2], 16).unwrap()).collect()
}

/// A message with one field more, the last, whose value is `item`.
fn with_later_field(message: &[u8], item: &[u8]) -> Vec<u8> {
    assert_eq!(message[0] >> 5, 5, "a map with its length in the first byte");
    assert!(message[0] & 0x1f < 23);
    let mut longer = message.to_vec();
    longer[0] += 1;
    longer.extend(b"\x65later");
    longer.extend(item);
    longer
}

#[test]
fn well_formed_items_are_ignored_under_a_key_of_a_later_revision() {
    let mut n = 0;
    for (item, _, _) in appendix_a() {
        n += 1;
        for (leaf, message) in one_of_each() {
            let found = decode(&leaf, &with_later_field(&encode(&message), &bytes(item)));
            if UNASSIGNED.contains(&item) {
                assert!(matches!(found, Err(WireError::Cbor(_))), "{item}: {found:?}");
            } else {
                assert_eq!(found.unwrap_or_else(|e| panic!("{item}: {e:?}")), message, "{item}");
            }
        }
    }
    assert_eq!(n, 82);
}

#[test]
fn well_formed_items_are_no_messages() {
    for (item, _, _) in appendix_a() {
        for (leaf, _) in one_of_each() {
            assert!(decode(&leaf, &bytes(item)).is_err(), "{item} under {leaf:?}");
        }
    }
}

/// The decoder underneath reads what the appendix says, and writes the shortest form.
#[test]
fn values_are_those_of_the_appendix() {
    let mut n = 0;
    for (item, shortest, json) in appendix_a() {
        // Tags 2 and 3 are numbers of any length, which no message has.
        if json == "-" || item.starts_with("c2") || item.starts_with("c3") {
            continue;
        }
        let read: Value = serde_cbor::from_slice(&bytes(item)).unwrap();
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let same = match &read {
            // As text: JSON's reader holds no integer below that of 64 bits.
            Value::Integer(n) => n.to_string() == json,
            Value::Float(n) => value.as_f64() == Some(*n),
            _ => read == serde_cbor::value::to_value(&value).unwrap(),
        };
        assert!(same, "{item}: expected {json}, found {read:?}");
        if shortest && !matches!(read, Value::Float(_)) {
            assert_eq!(serde_cbor::to_vec(&read).unwrap(), bytes(item), "{item}");
        }
        n += 1;
    }
    assert_eq!(n, 57);
}

#[test]
fn items_that_are_not_well_formed_have_their_message_refused() {
    for item in APPENDIX_F.iter().flat_map(|line| line.split(' ')) {
        for (leaf, message) in one_of_each() {
            for broken in [bytes(item), with_later_field(&encode(&message), &bytes(item))] {
                let found = decode(&leaf, &broken);
                assert!(matches!(found, Err(WireError::Cbor(_))), "{item} under {leaf:?}: {found:?}");
            }
        }
    }
}
