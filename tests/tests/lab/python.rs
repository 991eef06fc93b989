//! Training graphs as Python sees them: the specification's checker, and the contract's own example.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dkt_models::DualHead;
use dkt_models::step::{Distillation, StepOptions, TrainingStep, derive_classifier};
use dkt_models::zoo::{self, BuildOptions};
use dkt_tests::process::run;
use dkt_tests::repository;
use onnx_grad::graph::Graph;
use onnx_grad::{Clip, Dropout, LossScale, Optimizer, Precision, Recompute};

/// Python with the packages of tests/python/requirements.txt.
fn python<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let packages =
        std::env::var_os("DKT_TEST_PYTHONPATH").map_or_else(|| repository(".python"), PathBuf::from);
    assert!(packages.join("onnx").is_dir(), "`make python` brings the Python packages of the tests");
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
    }
    let single = model_with_one_head();
    let step = derive_classifier(&single, None, &StepOptions::default()).unwrap();
    files.push(write(folder.path(), "single", &step.graph));
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
