use std::sync::Mutex;

use super::*;
use crate::data::testing::{GREY, RGB, Written, fixture, gzip, png, tar};
use crate::data::{format, load, load_test};

fn grey(value: u8) -> Vec<u8> {
    png(2, 1, GREY, &[value, value + 1])
}

fn colour(value: u8) -> Vec<u8> {
    png(2, 1, RGB, &[value, value + 1, value + 2, value + 10, value + 11, value + 12])
}

/// Classes `cat` and `dog`, grey.
fn pets() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("train/dog/10.png", grey(30)),
        ("train/dog/9.PNG", grey(40)),
        ("train/cat/a.png", grey(10)),
        ("train/cat/Z.png", grey(20)),
        ("train/cat/.hidden.png", vec![1]),
        ("train/cat/notes.txt", vec![2]),
        ("test/dog/1.png", grey(50)),
    ]
}

fn written(files: &[(&str, Vec<u8>)]) -> Written {
    Written::new(&files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect::<Vec<_>>())
}

#[test]
fn classes_and_files_come_in_the_order_of_their_names() {
    let written = written(&pets());
    let source = written.load().unwrap();
    assert_eq!(source.train.classes, ["cat", "dog"]);
    assert_eq!(source.train.labels, [0, 0, 1, 1]);
    assert_eq!(source.train.pixels, [20, 21, 10, 11, 30, 31, 40, 41], "Z before a, 10 before 9");
    assert_eq!(source.test.labels, [1]);
    assert_eq!(source.train.shape.to_string(), "1x1x2");
    assert_eq!(load_test(written.spec()).unwrap(), source.test);
}

#[test]
fn an_archive_reads_as_its_folder() {
    let folder = written(&pets()).load().unwrap();
    let prefixed: Vec<(String, Vec<u8>)> =
        pets().into_iter().map(|(name, bytes)| (format!("pets/{name}"), bytes)).collect();
    let archive = tar(&prefixed.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect::<Vec<_>>());
    let written = Written::new(&[("pets.tar", &archive), ("pets.tgz", &gzip(&archive))]);
    for name in ["pets.tar", "pets.tgz"] {
        assert_eq!(load(written.path(name).to_str().unwrap()).unwrap(), folder, "{name}");
    }
}

#[test]
fn one_colour_image_makes_all_of_them_colour() {
    let written = written(&pets());
    written.write("test/dog/2.png", &colour(60));
    let source = written.load().unwrap();
    assert_eq!(source.train.shape.to_string(), "3x1x2");
    assert_eq!(source.train.pixels[..6], [20, 21, 20, 21, 20, 21]);
    assert_eq!(source.test.pixels[6..], [60, 70, 61, 71, 62, 72], "channels first");
}

#[test]
fn jpeg_is_read_and_content_counts_not_the_name() {
    let written = Written::new(&[
        ("train/a/1.jpeg", &fixture("colour.jpg")),
        ("train/a/2.jpg", &fixture("colour.png")),
        ("val/a/1.jpg", &fixture("progressive.jpg")),
    ]);
    let source = written.load().unwrap();
    assert_eq!((source.train.len(), source.test.len()), (2, 1));
    assert_eq!(source.train.shape.to_string(), "3x12x16");
}

#[test]
fn val_and_valid_stand_in_for_test() {
    for name in ["val", "valid"] {
        let written = written(&[("train/a/1.png", grey(1)), (&format!("{name}/a/1.png"), grey(2))]);
        assert_eq!(written.load().unwrap().test.pixels, [2, 3]);
        written.write("test/a/1.png", &grey(9));
        assert_eq!(written.load().unwrap().test.pixels, [9, 10], "test comes first");
    }
}

#[test]
fn what_is_missing_is_named() {
    let check = |files: &[(&str, Vec<u8>)], expected: &str| {
        let error = written(files).error();
        assert!(error.contains(expected), "{error}");
    };
    let (train, test) = ([("train/a/1.png", grey(1))], [("test/a/1.png", grey(1))]);
    check(&train, "has no test split: expected a folder `test`, `val` or `valid`");
    check(&test, "has no training split: expected a folder `train`");
    assert_eq!(load_test(written(&test).spec()).unwrap().classes, ["a"]);
    check(&[train[0].clone(), ("test/1.png", grey(1))], "test` has no images");
    check(&[("train/1.png", grey(1)), ("test/2.png", grey(1))], "train` has no images");
    check(
        &[train[0].clone(), ("test/b/1.png", grey(1))],
        "test/b` is a class of the test split that the training",
    );
    let other_size = ("test/a/1.png", png(1, 2, GREY, &[1, 2]));
    let written = written(&[train[0].clone(), other_size]);
    let (first, other) = (written.path("train/a/1.png"), written.path("test/a/1.png"));
    let expected =
        format!("`{}` is 1x2 pixels and `{}` 2x1 (width x height)", other.display(), first.display());
    assert!(written.error().contains(&expected), "{}", written.error());
}

#[test]
fn damaged_files_are_left_out_and_all_of_them_named() {
    let written = written(&pets());
    let whole = grey(10);
    written.write("train/cat/Z.png", &whole[..whole.len() - 3]);
    written.write("train/dog/9.PNG", b"not an image");
    let error = written.error();
    assert!(error.contains("train/cat/Z.png") && error.contains("expected a whole PNG or JPEG"), "{error}");

    let calls = Mutex::new(Vec::new());
    let on_progress = |done, all| calls.lock().unwrap().push((done, all));
    let (_, splits) = format::read(written.spec(), &on_progress).unwrap();
    assert_eq!(splits.train.unwrap().pixels, [10, 11, 30, 31]);
    let damaged: Vec<&Path> = splits.damaged.iter().map(|damaged| damaged.path.as_path()).collect();
    assert_eq!(damaged, [written.path("train/cat/Z.png"), written.path("train/dog/9.PNG")]);
    assert_eq!(*calls.lock().unwrap(), [(4, 5), (5, 5)], "a call for each split");

    written.write("test/dog/1.png", &[]);
    let error = format::read(written.spec(), &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("Z.png"), "no test image is left: {error}");
}

#[test]
fn many_files_keep_their_order_whatever_the_threads_do() {
    let dir = Written::new(&[("test/a/1.png", &grey(1))]);
    let n = 5 * CHUNK + 7;
    for i in 0..n {
        dir.write(&format!("train/a/{i:05}.png"), &grey((i % 200) as u8));
    }
    let calls = Mutex::new(Vec::new());
    let on_progress = |done, all| calls.lock().unwrap().push((done, all));
    let (_, splits) = format::read(dir.spec(), &on_progress).unwrap();
    let expected: Vec<u8> = (0..n).flat_map(|i| [(i % 200) as u8, (i % 200) as u8 + 1]).collect();
    assert_eq!(splits.train.unwrap().pixels, expected);
    let last = calls.into_inner().unwrap().into_iter().max();
    assert_eq!(last, Some((n + 1, n + 1)));
}
