//! What the pages promise, in Python: training graphs by the specification's checker, and the pages' own examples.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dkt_models::DualHead;
use dkt_models::step::{Distillation, Retention, StepOptions, TrainingStep, derive_classifier};
use dkt_models::zoo::{self, BuildOptions};
use dkt_tests::process::run;
use dkt_tests::repository;
use onnx_grad::graph::Graph;
use onnx_grad::{Clip, Dropout, LossScale, Optimizer, Precision, Recompute};

/// Python with the packages of tests/python/requirements.txt.
pub fn python<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let packages =
        std::env::var_os("DKT_TEST_PYTHONPATH").map_or_else(|| repository(".python"), PathBuf::from);
    for package in ["onnx", "blake3", "cbor2", "cryptography", "paho"] {
        assert!(packages.join(package).is_dir(), "`make python` brings the Python packages of the tests");
    }
    let mut command = Command::new("python3");
    command.args(arguments).env("PYTHONPATH", packages).env("ORT_DISABLE_TELEMETRY", "1");
    command
}

/// Every choice that changes what a training graph is made of, once.
fn variants() -> Vec<(&'static str, StepOptions)> {
    let plain = StepOptions::default;
    vec![
        ("plain", plain()),
        (
            "kl-sgd",
            StepOptions {
                distill: Distillation::kl(),
                optimizer: Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 },
                clip: Some(Clip::Value(0.1)),
                ..plain()
            },
        ),
        (
            "accumulated",
            StepOptions {
                optimizer: Optimizer::RMS_PROP,
                accumulate: true,
                dropout: Dropout::Seeded,
                ..plain()
            },
        ),
        ("recomputed", StepOptions { recompute: Recompute::Parts(4), decay_matrices_only: true, ..plain() }),
        ("float16", StepOptions { precision: Precision::Float16(LossScale::default()), ..plain() }),
        (
            "retained",
            StepOptions {
                retention: Some(Retention::Distill),
                penalty: true,
                class_mask: true,
                gradient_noise: true,
                path_integral: true,
                ..plain()
            },
        ),
        (
            "retained-float16",
            StepOptions {
                retention: Some(Retention::Logits),
                penalty: true,
                gradient_noise: true,
                path_integral: true,
                accumulate: true,
                precision: Precision::Float16(LossScale::default()),
                ..plain()
            },
        ),
        ("bfloat16", StepOptions { precision: Precision::BFloat16, optimizer: Optimizer::ADAMW, ..plain() }),
    ]
}

fn write(folder: &Path, name: &str, graph: &Graph) -> PathBuf {
    let path = folder.join(format!("{name}.onnx"));
    fs::write(&path, graph.encode()).unwrap();
    path
}

#[test]
fn every_training_graph_passes_the_checker_of_the_specification() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for network in zoo::list() {
        let options = BuildOptions { seed: 1, classes: network.classes, input: network.input };
        let model = DualHead::from_graph(zoo::build(network.name, &options).unwrap()).unwrap();
        // One network of each kind in every variant, the others in the plain one.
        let all = ["digits-cnn", "mobilenet-v2", "vit-lite"].contains(&network.name);
        for (variant, options) in variants().into_iter().take(if all { usize::MAX } else { 1 }) {
            let step = TrainingStep::derive(&model, &options).unwrap();
            files.push(write(folder.path(), &format!("{}.{variant}", network.name), &step.train));
        }
        // Beside the step, what strategies read of the network.
        let options =
            StepOptions { features: true, fisher: true, class_mask: true, ..StepOptions::default() };
        let step = TrainingStep::derive(&model, &options).unwrap();
        files.push(write(folder.path(), &format!("{}.evaluate", network.name), &step.evaluate));
        let importance = step.importance.unwrap();
        files.push(write(folder.path(), &format!("{}.importance", network.name), &importance));
    }
    let single = model_with_one_head();
    let step = derive_classifier(&single, None, &StepOptions::default()).unwrap();
    files.push(write(folder.path(), "single", &step.graph));
    // Both of PyTorch's exporters, the oldest and the newest opset.
    let exports = repository("models/export/reference/architectures");
    for entry in fs::read_dir(exports).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name().into_string().unwrap())).unwrap();
        if name.ends_with(".script13.onnx") || name.ends_with(".dynamo21.onnx") {
            let graph = Graph::read(&path).unwrap();
            let half = StepOptions {
                precision: Precision::Float16(LossScale::default()),
                recompute: Recompute::Parts(3),
                ..StepOptions::default()
            };
            for (variant, options) in [("plain", StepOptions::default()), ("float16", half)] {
                let step = derive_classifier(&graph, None, &options)
                    .unwrap_or_else(|e| panic!("{name} {variant}: {e}"));
                files.push(write(folder.path(), &format!("{name}.{variant}"), &step.graph));
            }
        }
    }
    let mut arguments = vec![repository("tests/python/check_models.py")];
    let n_files = files.len();
    arguments.extend(files);
    let output = run(python(arguments));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_eq!(output.stdout.lines().count(), n_files, "{}", output.stdout);
}

fn model_with_one_head() -> Graph {
    let options = BuildOptions { seed: 3, classes: 10, input: [1, 8, 8] };
    let mut graph = zoo::build("digits-cnn", &options).unwrap();
    graph.nodes.retain(|n| !n.outputs.iter().any(|o| o == "st_logits"));
    graph.outputs.retain(|o| o.name == "cl_logits");
    graph.initializers.retain(|name, _| !name.starts_with("student_head"));
    graph
}

/// The first Python block of docs/training-graph.md.
fn example() -> String {
    let page = fs::read_to_string(repository("docs/training-graph.md")).unwrap();
    let (_, after) = page.split_once("```python\n").expect("the page has an example");
    after.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_example_of_the_contract_trains() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("example.py"), example()).unwrap();
    fs::write(path("single.onnx"), model_with_one_head().encode()).unwrap();
    fs::copy(repository("models/zoo/digits-cnn.onnx"), path("dual.onnx")).unwrap();
    for (model, options) in [
        ("dual.onnx", "--optimizer adam"),
        (
            "dual.onnx",
            "--retention distill --penalty --class-mask --gradient-noise --path-integral --optimizer sgd",
        ),
        ("single.onnx", "--optimizer rmsprop --accumulate --dropout --clip-value 1"),
    ] {
        let mut derive =
            crate::dkt(["model", "derive", model, "-o", "train.onnx", "--state", "state.safetensors"]);
        derive.args(options.split(' ')).current_dir(&folder);
        let output = run(derive);
        assert_eq!(output.code, Some(0), "{options}: {}", output.stderr);
        let before = fs::read(path("state.safetensors")).unwrap();
        let mut example = python(["example.py", "train.onnx", "state.safetensors"]);
        example.current_dir(&folder);
        let output = run(example);
        assert_eq!(output.code, Some(0), "{options}: {}", output.stderr);
        let losses: Vec<f32> = output
            .stdout
            .lines()
            .filter_map(|line| line.split("loss ").nth(1)?.split(',').next()?.parse().ok())
            .collect();
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        assert_eq!(losses.len(), 80, "{}", output.stdout);
        assert!(mean(&losses[60..]) < mean(&losses[..20]), "{options}: it does not learn: {losses:?}");
        assert!(fs::read(path("state.safetensors")).unwrap() != before, "{options}: the state was not saved");
    }
}

/// Rows of the tables of a page, and of what a program prints.
fn rows(text: &str) -> Vec<String> {
    let cells = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        cells.join(" | ").trim_end_matches([' ', '|']).to_owned()
    };
    text.lines().filter(|line| line.starts_with('|')).map(cells).collect()
}

#[test]
fn the_example_of_the_streams_gives_the_values_of_their_page() {
    let page = fs::read_to_string(repository("docs/streams.md")).unwrap();
    let output = run(python([repository("docs/streams_example.py")]));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let (page_rows, printed) = (rows(&page), rows(&output.stdout));
    assert!(printed.len() > 15, "{}", output.stdout);
    for row in &printed {
        assert!(page_rows.contains(row), "the page has no row `{row}`");
    }
    for line in output.stdout.lines().filter_map(|line| line.strip_prefix("data digest ")) {
        assert!(page.contains(line), "the page has no digest {line}");
    }
}

#[test]
fn the_short_example_of_the_streams_prints_what_the_page_says() {
    let page = fs::read_to_string(repository("docs/streams.md")).unwrap();
    let (_, after) = page.split_once("```python\n").expect("the page has an example");
    let output = run(python(["-c", after.split_once("```").unwrap().0]));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let numbers: Vec<&str> =
        output.stdout.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).collect();
    assert_eq!(numbers.len(), 11, "{}", output.stdout);
    let worked = page.split("## Worked example").nth(1).unwrap();
    let table: Vec<&str> =
        worked.split("```").next().unwrap().lines().filter(|l| l.starts_with('|')).collect();
    let cell = |row: usize| table[row].trim_matches('|').split('|').nth(1).unwrap().trim().to_owned();
    let said: Vec<String> =
        (2..6).flat_map(|row| cell(row).split(", ").map(str::to_owned).collect::<Vec<_>>()).collect();
    assert_eq!(numbers, said);
}
