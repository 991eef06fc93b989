use proptest::prelude::*;

use super::*;
use crate::data::load_test;
use crate::data::testing::{Written, gzip};

fn file(rank: u8, dims: &[u32], data: &[u8]) -> Vec<u8> {
    let sizes = dims.iter().flat_map(|d| d.to_be_bytes());
    [0, 0, 8, rank].into_iter().chain(sizes).chain(data.iter().copied()).collect()
}

/// Three training images, two test images, of 2x2.
fn mnist() -> Written {
    let labels = |labels: &[u8]| file(1, &[labels.len() as u32], labels);
    Written::new(&[
        ("train-images-idx3-ubyte", &file(3, &[3, 2, 2], &(0..12).collect::<Vec<u8>>())),
        ("train-labels-idx1-ubyte", &labels(&[0, 4, 1])),
        ("t10k-images-idx3-ubyte", &file(3, &[2, 2, 2], &[7; 8])),
        ("t10k-labels-idx1-ubyte", &labels(&[1, 3])),
    ])
}

#[test]
fn a_folder_of_the_published_names_is_read() {
    let written = mnist();
    let source = written.load().unwrap();
    assert_eq!(
        (source.train.pixels.clone(), source.train.labels.clone()),
        ((0..12).collect(), vec![0, 4, 1])
    );
    assert_eq!((source.test.pixels.clone(), source.test.labels.clone()), (vec![7; 8], vec![1, 3]));
    assert_eq!(source.train.classes, ["0", "1", "2", "3", "4"]);
    assert_eq!(load_test(written.spec()).unwrap(), source.test);

    for name in ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"] {
        let packed = gzip(&std::fs::read(written.path(name)).unwrap());
        written.remove(name);
        written.write(&format!("{name}.gz"), &packed);
    }
    assert_eq!(written.load().unwrap(), source, "some packed");
}

#[test]
fn emnist_puts_its_name_before() {
    let written = mnist();
    for (from, to) in [
        ("train-images-idx3-ubyte", "emnist-letters-train-images-idx3-ubyte"),
        ("train-labels-idx1-ubyte", "emnist-letters-train-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte", "emnist-letters-test-images-idx3-ubyte"),
        ("t10k-labels-idx1-ubyte", "emnist-letters-test-labels-idx1-ubyte"),
    ] {
        std::fs::rename(written.path(from), written.path(to)).unwrap();
    }
    assert_eq!(written.load().unwrap(), mnist().load().unwrap());
    written.write("emnist-byclass-train-images-idx3-ubyte", &[]);
    let error = written.error();
    assert!(error.contains("several data sets") && error.contains("byclass-train"), "{error}");
    assert!(is_file_of("train-images.idx3-ubyte", TRAIN, IMAGES));
    assert!(!is_file_of("constrain-images-idx3-ubyte", TRAIN, IMAGES));
}

#[test]
fn what_is_missing_is_named() {
    let written = mnist();
    written.remove("train-labels-idx1-ubyte");
    let error = written.error();
    let expected =
        "has no training split: expected a file `train-labels-idx1-ubyte` or `train-labels-idx1-ubyte.gz`";
    assert!(error.contains(expected), "{error}");
    written.remove("train-images-idx3-ubyte");
    assert_eq!(load_test(written.spec()).unwrap().classes.len(), 4, "without training files");
    written.remove("t10k-images-idx3-ubyte");
    written.write("train-images-idx3-ubyte", &[]);
    let error = load_test(written.spec()).unwrap_err().to_string();
    assert!(error.contains("has no test split: expected a file `t10k-images-idx3-ubyte`"), "{error}");
}

#[test]
fn files_that_do_not_fit_each_other_are_refused() {
    let written = mnist();
    written.write("train-labels-idx1-ubyte", &file(1, &[2], &[4, 4]));
    assert!(matches!(written.load(), Err(DataError::Counts { images: 3, labels: 2, .. })));
    let written = mnist();
    written.write("t10k-images-idx3-ubyte", &file(3, &[2, 2, 3], &[7; 12]));
    assert!(written.error().contains("training images are 1x2x2, test images 1x2x3"));
    written.write("t10k-images-idx3-ubyte", &file(3, &[0, 2, 2], &[]));
    assert!(matches!(written.load(), Err(DataError::NoImages { .. })));
}

#[test]
fn damaged_files_are_refused_with_what_was_expected() {
    let whole = file(3, &[2, 2, 2], &[1; 8]);
    let check = |bytes: &[u8], expected: &str| {
        let error = images(bytes, Path::new("x")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&whole[..whole.len() - 1], "expected 8 bytes of data, found 7");
    check(&[&whole[..], &[0]].concat(), "expected 8 bytes of data, found 9");
    check(&whole[..9], "12 bytes of sizes");
    check(b"GIF8", "an IDX file");
    check(&[], "an IDX file");
    check(&file(4, &[u32::MAX; 4], &[]), "sizes that fit into memory");
    check(&file(1, &[8], &[1; 8]), "images [n, height, width]");
    check(&file(3, &[0, 0, 0], &[]), "images [n, height, width]");
}

#[test]
fn every_other_length_is_refused() {
    let written = mnist();
    for name in ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"] {
        let whole = std::fs::read(written.path(name)).unwrap();
        written.refuses_any_other_length(name, &whole);
        written.remove(name);
        let packed = format!("{name}.gz");
        written.refuses_any_other_length(&packed, &gzip(&whole));
        written.remove(&packed);
        written.write(name, &whole);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(rank in 0_u8..6, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        for start in [&[][..], &[0, 0, 8, rank]] {
            let bytes = [start, &bytes].concat();
            if let Ok((shape, pixels)) = images(&bytes, Path::new("x")) {
                prop_assert!(pixels.len().is_multiple_of(shape.n_pixels()));
            }
            let _ = labels(&bytes, Path::new("x"));
        }
    }
}
