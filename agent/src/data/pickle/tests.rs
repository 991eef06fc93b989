use proptest::prelude::*;

use super::*;
use crate::data::testing::fixture;

const FIXTURES: [&str; 6] = [
    "cifar10-batch",
    "cifar10-columns-first",
    "cifar10-meta",
    "cifar100-batch",
    "cifar100-meta",
    "batch-python3",
];

fn of(operations: &[u8]) -> Result<String, String> {
    let bytes = [b"\x80\x02", operations].concat();
    read(&bytes, Path::new("x")).map(|value| format!("{value:?}")).map_err(|error| error.to_string())
}

#[test]
fn numbers_texts_lists_and_dictionaries_are_read() {
    let bytes = b"\x80\x02}(U\x01aK\x01X\x01\x00\x00\x00b](M\x00\x01J\xff\xff\xff\xff\x88N)eu.";
    let value = read(bytes, Path::new("x")).unwrap();
    assert_eq!(value.get("a"), Some(&Value::Int(1)));
    let Some(Value::Sequence { items, .. }) = value.get("b") else { panic!("{value:?}") };
    let nothing = Value::Sequence { items: Vec::new(), nesting: 1 };
    assert_eq!(items[..], [Value::Int(256), Value::Int(-1), Value::Bool(true), Value::None, nothing]);
    assert_eq!(value.get("c"), None);
}

#[test]
fn nothing_but_what_makes_arrays_can_be_named_or_called() {
    for (operations, expected) in [
        (&b"cos\nsystem\nU\x02ls\x85R."[..], "found `os.system`"),
        (b"c__builtin__\neval\n.", "found `__builtin__.eval`"),
        (b"cnumpy\nload\n.", "found `numpy.load`"),
        (b"cnumpy\nndarray\n)R.", "expected a call that makes an array"),
        (b"c_codecs\nencode\nU\x01aU\x04utf8\x86R.", "expected a call that makes an array"),
        (b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87RN\x85b.", "expected the state of an array"),
        (b"}i.", "operations of the CIFAR releases, found 0x69"),
        (b"}\x93.", "found 0x93"),
        (b"c\n", "a short name"),
    ] {
        let error = of(operations).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_would_grow_is_bounded() {
    let error = of(&[vec![b'N'; MAX_VALUES + 1], b".".to_vec()].concat()).unwrap_err();
    assert!(error.contains("expected at most 1048576 values"), "{error}");
    let nested = |n: usize| of(&[vec![b']'; n], vec![b'a'; n - 1], b".".to_vec()].concat());
    assert!(nested(8).is_ok());
    assert!(nested(9).unwrap_err().contains("8 lists within lists"));
    let tuples = [b")".to_vec(), vec![0x85; 8], b".".to_vec()].concat();
    assert!(of(&tuples).unwrap_err().contains("8 lists within lists"));
    // One text, encoded again and again.
    let text = [&b"X\x64\x00\x00\x00"[..], &[b'a'; 100]].concat();
    let encode = [b"c_codecs\nencode\nq\x00", &text[..], b"q\x01X\x06\x00\x00\x00latin1q\x02\x86R"].concat();
    let encoded = |n| of(&[&b"("[..], &encode, &b"h\x00h\x01h\x02\x86R".repeat(n), b"t."].concat());
    assert!(encoded(0).is_ok());
    let error = encoded(2).unwrap_err();
    assert!(error.contains("each used once"), "{error}");
    // A list that is used twice could hold itself.
    let error = of(b"]q\x00h\x00a.").unwrap_err();
    assert!(error.contains("only texts and functions to be used twice"), "{error}");
}

#[test]
fn operations_without_what_they_need_are_refused() {
    for operations in [
        &b"."[..],
        b"a.",
        b"]a.",
        b"e.",
        b"(e.",
        b"u.",
        b"}U\x01as.",
        b"t.",
        b"\x85.",
        b"R.",
        b"b.",
        b"q\x00.",
        b"NN.",
        b"(.",
    ] {
        assert!(of(operations).is_err(), "{operations:?}");
    }
    assert!(of(b"}(Nu.").unwrap_err().contains("a key without a value"));
    // Not beyond a mark.
    assert!(of(b"](a.").is_err());
}

#[test]
fn every_truncation_and_every_trailing_byte_is_refused() {
    for name in FIXTURES {
        let whole = fixture(name);
        assert!(read(&whole, Path::new(name)).is_ok(), "{name}");
        for n in 0..whole.len() {
            assert!(read(&whole[..n], Path::new(name)).is_err(), "{name}, {n} bytes");
        }
        let error = read(&[&whole[..], b"."].concat(), Path::new(name)).unwrap_err().to_string();
        assert!(error.contains("the pickle's end, found 1 bytes after what comes"), "{error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = of(&bytes);
    }

    #[test]
    fn no_operations_make_it_panic(
        operations in proptest::collection::vec(
            prop::sample::select(&b"NK\x01U\x02u1]})(tae\x85\x86\x87suqhRb\x88.cnumpy\ndtype\n"[..]), 0..200)
    ) {
        let _ = of(&operations);
    }

    #[test]
    fn no_change_of_a_fixture_makes_it_panic(which in 0_usize..6, at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = fixture(FIXTURES[which]);
        let n = bytes.len().min(400);
        bytes[at.index(n)] = to;
        let _ = read(&bytes, Path::new("x"));
    }
}
