use proptest::prelude::*;

use super::*;

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn of(element: &str, n: usize, data: &[u8]) -> Vec<u8> {
    file(&format!("{{'descr': '{element}', 'fortran_order': False, 'shape': ({n},), }}          \n"), data)
}

#[test]
fn integers_of_every_width_and_order_are_read() {
    let check = |element: &str, data: &[u8], expected: Option<&[i64]>| {
        let bytes = of(element, expected.map_or(1, <[i64]>::len), data);
        let array = read(&bytes, Path::new("x")).unwrap();
        assert_eq!(array.integers().as_deref(), expected, "{element}");
    };
    check("|u1", &[0, 255], Some(&[0, 255]));
    check("|i1", &[1, 255], Some(&[1, -1]));
    check("|b1", &[0, 1], Some(&[0, 1]));
    check("<u2", &[1, 2, 255, 255], Some(&[513, 65535]));
    check(">i2", &[1, 2, 255, 255], Some(&[258, -1]));
    check("<i4", &[1, 0, 0, 0, 254, 255, 255, 255], Some(&[1, -2]));
    check(">u4", &[0, 0, 1, 0], Some(&[256]));
    check("<i8", &[255; 8], Some(&[-1]));
    check("<u8", &[255; 8], None);
    check("<f4", &[0; 4], None);
}

#[test]
fn texts_are_read() {
    let check = |element: &str, data: &[u8], expected: &[&str]| {
        let bytes = of(element, expected.len(), data);
        assert_eq!(read(&bytes, Path::new("x")).unwrap().texts().unwrap(), expected, "{element}");
    };
    check("|S3", b"cat\0dog"[..3].as_ref(), &["cat"]);
    check("|S3", b"ab\0cde", &["ab", "cde"]);
    check("<U2", &[b'a', 0, 0, 0, 0xe9, 0, 0, 0, b'b', 0, 0, 0, 0, 0, 0, 0], &["aé", "b"]);
    check(">U1", &[0, 0, 0, b'z'], &["z"]);
    let bytes = of("<U1", 1, &[255; 4]);
    assert_eq!(read(&bytes, Path::new("x")).unwrap().texts(), None);
}

#[test]
fn headers_are_read_in_any_order_and_refused_if_wrong() {
    let whole = file("{ \"shape\" : (2, 1) , 'fortran_order':False,'descr':'<u2'}", &[0; 4]);
    assert_eq!(read(&whole, Path::new("x")).unwrap().shape, [2, 1]);
    let scalar = file("{'descr': '|u1', 'fortran_order': False, 'shape': ()}", &[7]);
    assert_eq!(read(&scalar, Path::new("x")).unwrap().shape, [0_usize; 0]);
    let check = |header: &str, expected: &str| {
        let error = read(&file(header, &[0; 4]), Path::new("x")).unwrap_err().to_string();
        assert!(error.contains(expected), "{header}: {error}");
    };
    check("{'descr': '|u1', 'fortran_order': True, 'shape': (4,)}", "numpy.ascontiguousarray");
    check("{'descr': '|u1', 'fortran_order': False, 'shape': (5,)}", "array `|u1` [5], found 4 bytes");
    check(
        "{'descr': '|O', 'fortran_order': False, 'shape': (4,)}",
        "an array of numbers or texts, found `|O`",
    );
    check("{'descr': '<u99999999999999999999', 'fortran_order': False, 'shape': (4,)}", "numbers or texts");
    check("{'descr': '|S0', 'fortran_order': False, 'shape': (4,)}", "numbers or texts");
    check(
        &format!("{{'descr': '<u8', 'fortran_order': False, 'shape': ({},)}}", usize::MAX),
        "found 4 bytes",
    );
    for header in [
        "",
        "{}",
        "{'descr': '|u1', 'shape': (4,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-4,)}",
        "{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (4,)}",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (4,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4,), 'more': 1}",
    ] {
        check(header, "a header that cannot be read");
    }
    let mut version = of("|u1", 1, &[1]);
    version[6] = 4;
    assert!(read(&version, Path::new("x")).unwrap_err().to_string().contains("version 4"));
}

#[test]
fn every_other_length_is_refused() {
    let whole = of("<i4", 3, &[9; 12]);
    assert!(read(&whole, Path::new("x")).is_ok());
    for n in 0..whole.len() {
        assert!(read(&whole[..n], Path::new("x")).is_err(), "{n} bytes");
    }
    assert!(read(&[&whole[..], &[0]].concat(), Path::new("x")).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(header in "[{}a-z0-9'(), :<>|FT]{0,60}", data in proptest::collection::vec(any::<u8>(), 0..40)) {
        for bytes in [file(&header, &data), [b"\x93NUMPY", &data[..]].concat(), data] {
            if let Ok(array) = read(&bytes, Path::new("x")) {
                let _ = (array.integers(), array.texts());
            }
        }
    }
}
