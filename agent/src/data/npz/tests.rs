use crate::data::testing::{Written, fixture};
use crate::data::{load, load_test};

fn array(element: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|size| format!("{size},")).collect();
    let header = format!("{{'descr': '{element}', 'fortran_order': False, 'shape': ({sizes}), }}\n");
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// The arrays of an NPZ file, unpacked into a folder, which is read as well.
fn keras() -> Written {
    Written::new(&[
        ("x_train.npy", &array("|u1", &[2, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8])),
        ("y_train.npy", &array("|u1", &[2], &[0, 2])),
        ("x_test.npy", &array("|u1", &[1, 2, 2], &[9; 4])),
        ("y_test.npy", &array("<i8", &[1, 1], &[1, 0, 0, 0, 0, 0, 0, 0])),
    ])
}

#[test]
fn files_of_numpy_are_read() {
    let written = Written::new(&[("a.npz", &fixture("keras.npz")), ("b.npz", &fixture("medmnist.npz"))]);
    let source = load(written.path("a.npz").to_str().unwrap()).unwrap();
    assert_eq!(source.train.shape.to_string(), "1x4x6");
    assert_eq!((source.train.labels.clone(), source.test.labels.clone()), (vec![0, 2, 1, 2, 0], vec![1, 0]));
    assert_eq!(source.train.classes, ["0", "1", "2"]);
    assert_eq!(load_test(written.path("a.npz").to_str().unwrap()).unwrap(), source.test);

    let source = load(written.path("b.npz").to_str().unwrap()).unwrap();
    assert_eq!(source.train.shape.to_string(), "3x4x5");
    assert_eq!(source.train.labels, [0, 1, 1]);
    assert_eq!(source.train.classes, ["benign", "malignant"]);
}

#[test]
fn every_truncation_of_a_file_is_refused() {
    for name in ["keras.npz", "medmnist.npz"] {
        let whole = fixture(name);
        let written = Written::new(&[]);
        let path = written.path(name);
        for n in 0..whole.len() {
            written.write(name, &whole[..n]);
            let error = load(path.to_str().unwrap()).unwrap_err().to_string();
            assert!(error.contains(name), "{name}, {n} bytes: {error}");
        }
    }
}

#[test]
fn channels_may_come_first_or_last_where_there_is_no_doubt() {
    let shape_of = |shape: &[usize]| {
        let written = keras();
        let n = shape.iter().product();
        written
            .write("x_train.npy", &array("|u1", shape, &(0..n).map(|i: usize| i as u8).collect::<Vec<_>>()));
        written.write("x_test.npy", &array("|u1", &[&[1], &shape[1..]].concat(), &vec![0; n / shape[0]]));
        written.load().map(|source| (source.train.shape.to_string(), source.train.pixels))
    };
    assert_eq!(shape_of(&[2, 2, 4]).unwrap().0, "1x2x4");
    assert_eq!(shape_of(&[2, 2, 4, 1]).unwrap().0, "1x2x4");
    assert_eq!(shape_of(&[2, 1, 2, 4]).unwrap().0, "1x2x4");
    let (shape, pixels) = shape_of(&[2, 2, 1, 3]).unwrap();
    assert_eq!((shape.as_str(), &pixels[..6]), ("3x2x1", &[0, 3, 1, 4, 2, 5][..]));
    let (shape, pixels) = shape_of(&[2, 3, 2, 2]).unwrap();
    assert_eq!((shape.as_str(), &pixels[..6]), ("3x2x2", &[0, 1, 2, 3, 4, 5][..]));
    for doubtful in [&[2, 3, 4, 3][..], &[2, 4, 4, 4], &[2, 4], &[2, 0, 4]] {
        let error = shape_of(doubtful).unwrap_err().to_string();
        assert!(error.contains("x_train.npy") && error.contains("images [n, H, W]"), "{error}");
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let check = |name: &str, bytes: Option<&[u8]>, expected: &str| {
        let written = keras();
        match bytes {
            Some(bytes) => written.write(name, bytes),
            None => written.remove(name),
        }
        let error = written.error();
        assert!(error.contains(expected), "{error}");
    };
    check("y_train.npy", None, "lacks `y_train`, and has `x_test`, `x_train`, `y_test`");
    let written = keras();
    written.remove("x_test.npy");
    written.remove("y_test.npy");
    let error = written.error();
    assert!(error.ends_with("lacks `x_test`, `y_test`, and has `x_train`, `y_train`"), "{error}");
    check("x_train.npy", Some(&array("<f4", &[1, 1, 1], &[0; 4])), "expected images of unsigned bytes");
    check(
        "y_train.npy",
        Some(&array("<f4", &[2], &[0; 8])),
        "expected labels [n] or [n, 1], integers, found `<f4`",
    );
    check("y_train.npy", Some(&array("|u1", &[2, 3], &[0; 6])), "found `|u1` [2, 3]");
    check(
        "y_train.npy",
        Some(&array("|i1", &[2], &[0, 255])),
        "image 1 has the label -1, expected one below 65536",
    );
    check("y_train.npy", Some(&array("<i4", &[1], &[0, 0, 1, 0])), "image 0 has the label 65536");
    check("y_train.npy", Some(&array("|u1", &[3], &[0; 3])), "has 2 images and 3 labels");
    check("x_test.npy", Some(&array("|u1", &[0, 2, 2], &[])), "x_test.npy` has no images");
    check("classes.npy", Some(&array("|S1", &[2], b"ab")), "image 1 has the label 2, expected one below 2");
    check("classes.npy", Some(&array("|u1", &[2], b"ab")), "names of classes [K], texts");
    check(
        "label_names.npy",
        Some(&array("|S1", &[65537], &[b'a'; 65537])),
        "has 65537 classes, expected at most 65536",
    );
}

#[test]
fn every_other_length_of_an_array_is_refused() {
    let written = keras();
    for name in ["x_train.npy", "y_test.npy"] {
        let whole = std::fs::read(written.path(name)).unwrap();
        written.refuses_any_other_length(name, &whole);
    }
}
