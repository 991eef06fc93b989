//! Data sets as users have them: inspected, trained on, evaluated on.

use std::fs;
use std::path::{Path, PathBuf};

use dkt_agent::config::{DataConfig, NormalizationConfig};
use dkt_models::zoo::{self, BuildOptions};
use dkt_tests::process::{Output, run};
use dkt_tests::{config, repository};
use serde_json::Value;
use tempfile::TempDir;

use crate::{dkt, start};

fn fixture(name: &str) -> Vec<u8> {
    fs::read(repository("agent/data/fixtures").join(name)).unwrap()
}

fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Two classes, three training images of which two are alike, and two test images of which one is a training image.
fn pets() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, image) in [
        ("train/cat/1.png", "colour.png"),
        ("train/cat/2.png", "colour.png"),
        ("train/dog/1.jpg", "colour.jpg"),
        ("test/cat/1.png", "colour.png"),
        ("test/dog/1.jpg", "grey.jpg"),
    ] {
        write(folder.path(), name, &fixture(image));
    }
    folder
}

fn inspect(data: &Path, options: &[&str]) -> Output {
    let command = ["data".as_ref(), "inspect".as_ref(), data.as_os_str()];
    run(dkt(command.into_iter().chain(options.iter().map(AsRef::as_ref))))
}

fn inspect_json(data: &Path) -> (Output, Value) {
    let output = inspect(data, &["--json"]);
    let json = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output, json)
}

/// The words of the lines that begin with `name`.
fn lines<'a>(output: &'a Output, name: &str) -> Vec<Vec<&'a str>> {
    let lines = output.stdout.lines().filter_map(|line| line.strip_prefix(name));
    lines.map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn a_good_folder_is_described() {
    let folder = pets();
    let output = inspect(folder.path(), &[]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    for (name, expected) in [
        ("path", &[folder.path().to_str().unwrap()][..]),
        ("format", &["image", "folder"]),
        ("images  ", &["3", "2"]),
        ("channels x height x width", &["3x12x16", "3x12x16"]),
        ("images of a class", &["1", "to", "2", "1", "to", "1"]),
        ("duplicates within the split", &["1", "0"]),
        ("also among training images", &["1"]),
        ("cat", &["2", "1"]),
        ("dog", &["1", "1"]),
    ] {
        assert_eq!(lines(&output, name), [expected], "`{name}` in:\n{}", output.stdout);
    }
    assert!(output.stdout.contains("the augmentation of"), "{}", output.stdout);
    assert!(!output.stdout.contains("amaged"), "{}", output.stdout);
}

#[test]
fn the_digest_is_that_of_the_documentation() {
    let (output, json) = inspect_json(Path::new("digits"));
    assert_eq!(output.code, Some(0));
    assert_eq!(json["format"], "digits");
    assert_eq!((&json["train"]["n_images"], &json["test"]["n_images"]), (&1433.into(), &364.into()));
    assert_eq!(json["train"]["range"], serde_json::json!([0, 16]));
    assert_eq!(json["train"]["n_per_class"].as_array().unwrap().len(), 10);
    normalization_can_be_pasted(&inspect(Path::new("digits"), &[]), &json);
    let streams = fs::read_to_string(repository("docs/streams.md")).unwrap();
    let digest = json["digest"].as_str().unwrap();
    let row = format!("| data digest, no crop padding, no flips | `{digest}` |");
    assert!(streams.contains(&row), "expected in docs/streams.md: {row}");
}

/// The text has a line of a configuration that says what the JSON says in pixel units, and docs/data.md has it too.
fn normalization_can_be_pasted(output: &Output, json: &Value) {
    let mut lines = output.stdout.lines();
    let line = lines.find(|line| line.starts_with("normalization = ")).unwrap();
    let NormalizationConfig::Given(given) = toml::from_str::<DataConfig>(line).unwrap().normalization else {
        panic!("{line}");
    };
    for (given, measured) in [(&given.mean, &json["train"]["mean"]), (&given.std, &json["train"]["std"])] {
        let measured: Vec<f64> = serde_json::from_value(measured.clone()).unwrap();
        assert_eq!((given.len(), measured.len()), (1, 1));
        assert!((255.0 * given[0] - measured[0]).abs() < 255.0 * 1e-6, "{line}: {measured:?}");
    }
    let docs = fs::read_to_string(repository("docs/data.md")).unwrap();
    assert!(docs.contains(&format!("\n{line}\n")), "expected in docs/data.md: {line}");
}

#[test]
fn damaged_images_are_all_named() {
    let folder = pets();
    let whole = fixture("colour.jpg");
    write(folder.path(), "train/dog/2.jpg", &whole[..whole.len() / 2]);
    write(folder.path(), "test/dog/2.png", b"no image");
    let files =
        ["train/dog/2.jpg", "test/dog/2.png"].map(|name| folder.path().join(name).display().to_string());

    let output = inspect(folder.path(), &[]);
    assert_eq!(output.code, Some(65), "{output:?}");
    assert!(output.stderr.contains("2 damaged files"), "{output:?}");
    assert_eq!(lines(&output, "images  "), [["3", "2"]], "without them: {}", output.stdout);
    assert_eq!(lines(&output, "digest"), [["none,", "as", "files", "are", "damaged"]]);
    for file in &files {
        assert!(output.stdout.contains(&format!("  `{file}`: expected a whole PNG or JPEG")), "{output:?}");
    }

    let (output, json) = inspect_json(folder.path());
    assert_eq!(output.code, Some(65));
    assert_eq!(json["digest"], Value::Null);
    let paths: Vec<&str> =
        json["damaged"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, files);

    // A run stops at the first.
    let root = tempfile::tempdir().unwrap();
    let mut config = config::alone(root.path(), "alice");
    config.data.source = folder.path().display().to_string();
    let output = run(dkt(["run".as_ref(), config::write(root.path(), &config).as_os_str()]));
    assert_eq!(output.code, Some(65), "{output:?}");
    assert!(output.stderr.contains(&files[0]) && !output.stderr.contains(&files[1]), "{output:?}");
}

#[test]
fn what_cannot_be_read_at_all_is_refused() {
    let folder = pets();
    fs::remove_dir_all(folder.path().join("test")).unwrap();
    let output = inspect(folder.path(), &[]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(65), ""), "{output:?}");
    assert!(output.stderr.contains("has no test split: expected a folder `test`"), "{output:?}");
    let output = inspect(&folder.path().join("nothing"), &["--json"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(66), ""), "{output:?}");
    assert!(output.stderr.contains("no data at"), "{output:?}");
}

/// A network for the images of [`pets`], in a file.
fn network(folder: &Path) -> PathBuf {
    let options = BuildOptions { seed: 1, classes: 2, input: [3, 12, 16] };
    let file = folder.join("network.onnx");
    fs::write(&file, zoo::build("digits-cnn", &options).unwrap().encode()).unwrap();
    file
}

fn eval(model: &Path, data: &Path) -> Output {
    run(dkt(["eval".as_ref(), model.as_os_str(), "--data".as_ref(), data.as_os_str(), "--json".as_ref()]))
}

#[test]
fn an_agent_trains_on_an_image_folder_and_is_evaluated_without_training_images() {
    let folder = pets();
    let root = tempfile::tempdir().unwrap();
    let mut config = config::alone(root.path(), "alice");
    config.data.source = folder.path().display().to_string();
    config.stream.experiences = 2;
    config.train.epochs = 2;
    let ended = start(&config).end();
    assert_eq!(ended.finished().n_steps, 4);

    fs::remove_dir_all(folder.path().join("train")).unwrap();
    let model = config.out.unwrap().join("model.onnx");
    let output = eval(&model, folder.path());
    assert_eq!(output.code, Some(0), "{output:?}");
    let json: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["n_samples"], 2);

    // A file that does not say how its pixels were normalised needs the training images for it.
    let output = eval(&network(root.path()), folder.path());
    assert_eq!(output.code, Some(65), "{output:?}");
    assert!(output.stderr.contains("has no training split"), "{output:?}");
    let output = eval(&network(root.path()), pets().path());
    assert_eq!(output.code, Some(0), "{output:?}");
}
