use proptest::prelude::*;

use super::*;
use crate::data::testing::{Written, gzip, tar};
use crate::data::{load, load_test};

/// A record of CIFAR-10 whose pixels are `label`, `label + 1`, ...
fn record(labels: &[u8]) -> Vec<u8> {
    let first = labels[labels.len() - 1];
    labels.iter().copied().chain((0..3072).map(|i: u32| first.wrapping_add(i as u8))).collect()
}

fn names(n: usize) -> Vec<u8> {
    (0..n).map(|i| format!("class {i}\n")).chain(["\n".to_owned()]).collect::<String>().into_bytes()
}

/// Five batches of one image each, and a test batch of two, in the published folder.
fn cifar10() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> =
        (1..=5).map(|i| (format!("data_batch_{i}.bin"), record(&[i]))).collect();
    files.push(("test_batch.bin".to_owned(), [record(&[9]), record(&[0])].concat()));
    files.push(("batches.meta.txt".to_owned(), names(10)));
    files.iter().map(|(name, bytes)| (format!("cifar-10-batches-bin/{name}"), bytes.clone())).collect()
}

fn written(files: &[(String, Vec<u8>)]) -> Written {
    Written::new(&files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect::<Vec<_>>())
}

#[test]
fn cifar_10_is_read_from_the_folder_or_the_archive() {
    let files = cifar10();
    let written = written(&files);
    let source = written.load().unwrap();
    assert_eq!(source.train.labels, [1, 2, 3, 4, 5]);
    assert_eq!(source.test.labels, [9, 0]);
    assert_eq!(source.train.shape, SHAPE);
    assert_eq!(source.train.classes[9], "class 9");
    assert_eq!(source.train.image(crate::ids::SampleId(2)), &record(&[3])[1..]);
    assert_eq!(load_test(written.spec()).unwrap(), source.test);

    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let archive = tar(&files);
    for (name, bytes) in [("cifar-10-binary.tar.gz", gzip(&archive)), ("cifar-10-binary.tar", archive)] {
        let written = Written::new(&[(name, &bytes)]);
        assert_eq!(load(written.path(name).to_str().unwrap()).unwrap(), source, "{name}");
    }
}

#[test]
fn cifar_100_has_coarse_and_fine_labels_and_fine_ones_are_used() {
    let written = Written::new(&[
        ("train.bin", &[record(&[11, 99]), record(&[3, 0])].concat()),
        ("test.bin", &record(&[0, 47])),
        ("fine_label_names.txt", &names(100)),
        ("coarse_label_names.txt", &names(20)),
    ]);
    let source = written.load().unwrap();
    assert_eq!((source.train.labels, source.test.labels), (vec![99, 0], vec![47]));
    assert_eq!(source.train.classes.len(), 100);
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let files = cifar10();
    let check = |name: &str, bytes: Option<&[u8]>, expected: &[&str]| {
        let written = written(&files);
        let name = format!("cifar-10-batches-bin/{name}");
        match bytes {
            Some(bytes) => written.write(&name, bytes),
            None => written.remove(&name),
        }
        let error = written.error();
        for expected in expected {
            assert!(error.contains(expected), "{error}");
        }
    };
    check("test_batch.bin", None, &["cifar-10-batches-bin` has no test split", "`test_batch.bin`"]);
    check("data_batch_3.bin", None, &["has no training split", "`data_batch_3.bin`"]);
    check("data_batch_3.bin", Some(&[]), &["data_batch_3.bin` has no images"]);
    let out_of_range = [record(&[1]), record(&[10])].concat();
    check(
        "data_batch_2.bin",
        Some(&out_of_range),
        &["data_batch_2.bin", "image 1 has the label 10, expected one below 10"],
    );
    check(
        "batches.meta.txt",
        Some(&names(9)),
        &["batches.meta.txt", "expected 10 names, one a line, found 9"],
    );
}

#[test]
fn every_other_length_is_refused() {
    let name = "cifar-10-batches-bin/data_batch_4.bin";
    written(&cifar10()).refuses_any_other_length(name, &record(&[4]));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), n in 0_usize..4) {
        let bytes = [vec![1; 3073 * n], bytes].concat();
        let written = written(&cifar10());
        written.write("cifar-10-batches-bin/data_batch_1.bin", &bytes);
        let is_whole = bytes.len().is_multiple_of(3073) && n > 0;
        prop_assert_eq!(written.load().is_ok(), is_whole);
    }
}
