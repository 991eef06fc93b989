use crate::data::testing::{Written, fixture, gzip, tar};
use crate::data::{DataError, load, load_test};

/// Row `i` of what `make.py` puts into a batch.
fn pixels(first: usize, i: usize) -> Vec<u8> {
    (0..3072).map(|j| ((first + i + 7 * j) % 251) as u8).collect()
}

fn cifar10(batch: &str) -> Written {
    let (batch, meta) = (fixture(batch), fixture("cifar10-meta"));
    let written = Written::new(&[("batches.meta", &meta), ("test_batch", &batch)]);
    (1..=5).for_each(|i| written.write(&format!("data_batch_{i}"), &batch));
    written
}

#[test]
fn cifar_10_is_read_as_published_and_as_python_3_writes_it() {
    let written = cifar10("cifar10-batch");
    let source = written.load().unwrap();
    assert_eq!((source.train.len(), source.test.len()), (10, 2));
    assert_eq!(source.test.labels, [6, 9]);
    assert_eq!(source.test.pixels, [pixels(10, 0), pixels(10, 1)].concat());
    assert_eq!(source.train.pixels, source.test.pixels.repeat(5));
    assert_eq!(source.train.classes[..3], ["airplane", "automobile", "bird"]);
    assert_eq!(load_test(written.spec()).unwrap(), source.test);
    for other in ["batch-python3", "cifar10-columns-first"] {
        assert_eq!(cifar10(other).load().unwrap(), source, "{other}");
    }
}

#[test]
fn cifar_100_is_read_from_the_archive() {
    let (batch, meta) = (fixture("cifar100-batch"), fixture("cifar100-meta"));
    let archive = gzip(&tar(&[
        ("cifar-100-python/file.txt~", b""),
        ("cifar-100-python/meta", &meta),
        ("cifar-100-python/test", &batch),
        ("cifar-100-python/train", &batch),
    ]));
    let written = Written::new(&[("cifar-100-python.tar.gz", &archive)]);
    let source = load(written.path("cifar-100-python.tar.gz").to_str().unwrap()).unwrap();
    assert_eq!(source.train.labels, [19, 29], "the fine ones");
    assert_eq!(source.train.pixels, [pixels(20, 0), pixels(20, 1)].concat());
    assert_eq!((source.train.classes.len(), source.train.classes[29].as_str()), (100, "fine 29"));
}

/// A batch with one text in the place of another.
fn changed(from: &[u8], to: &[u8]) -> Vec<u8> {
    let batch = fixture("cifar10-batch");
    let at = batch.windows(from.len()).position(|window| window == from).unwrap();
    [&batch[..at], to, &batch[at + from.len()..]].concat()
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let written = cifar10("cifar10-batch");
    written.remove("data_batch_5");
    let error = written.error();
    assert!(error.contains("has no training split: expected a file `data_batch_5`"), "{error}");
    let check = |batch: &[u8], expected: &str| {
        let written = cifar10("cifar10-batch");
        written.write("data_batch_1", batch);
        let error = written.error();
        assert!(error.contains("data_batch_1") && error.contains(expected), "{error}");
    };
    check(&changed(b"K\x06K\x09e", b"K\x06K\x0ae"), "image 1 has the label 10, expected one below 10");
    check(&changed(b"K\x06K\x09e", b"K\x06Ne"), "expected a list of integers under `labels`, found none");
    check(&changed(b"U\x06labels", b"U\x06labelz"), "expected a list under `labels`, found nothing");
    check(&changed(b"U\x04data", b"U\x04date"), "expected an array under `data`, found nothing");
    check(
        &changed(b"U\x02u1", b"U\x02i1"),
        "expected an array u1 [n, 3072] under `data`, found i1 [2, 3072]",
    );
    check(&changed(b"K\x02M\x00\x0c\x86", b"K\x02M\x00\x0b\x86"), "as many bytes as the array's sizes say");
    let written = cifar10("cifar10-batch");
    written.write("test_batch", &changed(b"K\x06K\x09e", b"K\x06e"));
    assert!(matches!(written.load(), Err(DataError::Counts { images: 2, labels: 1, .. })));
    written.write("batches.meta", &fixture("cifar100-meta"));
    assert!(written.error().contains("a list of names under `label_names`, found nothing"));
}
