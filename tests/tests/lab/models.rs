//! `dkt model`: from a classifier, or from nothing, to a training graph.

use std::fs;
use std::path::Path;

use dkt_models::zoo::{self, BuildOptions};
use dkt_tests::process::run;
use dkt_tests::repository;
use onnx_grad::graph::Graph;

use crate::dkt;

/// Runs `dkt model` in `folder`, which must succeed; what it prints.
fn model<const N: usize>(folder: &Path, arguments: [&str; N]) -> String {
    let mut command = dkt(["model"].iter().chain(&arguments));
    command.current_dir(folder);
    let output = run(command);
    assert_eq!(output.code, Some(0), "{arguments:?}: {}", output.stderr);
    output.stdout
}

#[test]
fn the_list_has_every_network_of_the_zoo() {
    let folder = tempfile::tempdir().unwrap();
    let list = model(folder.path(), ["list"]);
    for network in zoo::list() {
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(network.name));
        assert!(line.is_some_and(|line| line.ends_with(network.description)), "{}: {list}", network.name);
    }
    let slim = list.lines().find(|line| line.starts_with("slim-resnet18")).unwrap();
    // Lopez-Paz and Ranzato's network, and a second head.
    assert!(slim.contains("1125340") && slim.contains("3x32x32"), "{slim}");
}

#[test]
fn a_built_network_is_the_same_every_time_and_the_committed_one() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let said = model(folder.path(), ["build", "digits-cnn", "-o", "a.onnx"]);
    assert!(said.starts_with("a.onnx: "), "{said}");
    assert!(read("a.onnx") == fs::read(repository("models/zoo/digits-cnn.onnx")).unwrap());
    model(
        folder.path(),
        ["build", "digits-cnn", "-o", "b.onnx", "--seed", "5", "--classes", "3", "--input", "1x9x8"],
    );
    assert!(read("a.onnx") != read("b.onnx"));
    let inspected = model(folder.path(), ["inspect", "b.onnx"]);
    for line in [
        "`input` float32 [batch, 1, 9, 8]",
        "`st_logits` float32 [batch, 3]",
        "a training step can be derived",
    ] {
        assert!(inspected.contains(line), "expected `{line}` in:\n{inspected}");
    }
    assert!(!inspected.contains("cl_head.weight"));
    assert!(
        model(folder.path(), ["inspect", "b.onnx", "--parameters"])
            .contains("cl_head.weight float32 [3, 64]")
    );
}

#[test]
fn a_classifier_is_given_heads_and_a_training_graph_the_same_every_time() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    // The digits network without its student head: an ordinary classifier.
    let mut classifier =
        zoo::build("digits-cnn", &BuildOptions { seed: 3, classes: 10, input: [1, 8, 8] }).unwrap();
    classifier.nodes.retain(|n| !n.outputs.iter().any(|o| o == "st_logits"));
    classifier.outputs.retain(|o| o.name == "cl_logits");
    classifier.initializers.retain(|name, _| !name.starts_with("student_head"));
    fs::write(folder.path().join("classifier.onnx"), classifier.encode()).unwrap();
    let inspected = model(folder.path(), ["inspect", "classifier.onnx"]);
    assert!(
        inspected.contains("not a dual-head network") && inspected.contains("attach-heads"),
        "{inspected}"
    );

    model(folder.path(), ["attach-heads", "classifier.onnx", "-o", "dual.onnx"]);
    let inspected = model(folder.path(), ["inspect", "dual.onnx"]);
    assert!(inspected.contains("continual-learning and student, 10 classes"), "{inspected}");

    model(folder.path(), ["derive", "dual.onnx", "-o", "train.onnx"]);
    model(folder.path(), ["derive", "dual.onnx", "-o", "again.onnx"]);
    assert!(read("train.onnx") == read("again.onnx"), "deriving twice gives two graphs");
    let train = Graph::read(&folder.path().join("train.onnx")).unwrap();
    assert!(train.nodes.iter().all(|node| node.domain.is_empty()), "only standard operators");
    let outputs: Vec<&str> = train.outputs.iter().map(|o| o.name.as_str()).collect();
    for name in ["loss", "loss.cl", "loss.st", "grad_norm", "cl_logits", "st_logits", "conv1.weight.next"] {
        assert!(outputs.contains(&name), "expected output `{name}`, found {outputs:?}");
    }
    // Every way to derive it is another graph.
    let options: [&[&str]; 4] =
        [&["--loss", "kl"], &["--optimizer", "sgd"], &["--optimizer", "adamw"], &["--clip-norm", "0"]];
    for options in options {
        let mut command = dkt(["model", "derive", "dual.onnx", "-o", "other.onnx"].iter().chain(options));
        command.current_dir(folder.path());
        let output = run(command);
        assert_eq!(output.code, Some(0), "{options:?}: {}", output.stderr);
        assert!(output.stdout.contains("feed each `<name>` and take `<name>.next`"), "{}", output.stdout);
        assert!(read("other.onnx") != read("train.onnx"), "{options:?} changes nothing");
    }
}
