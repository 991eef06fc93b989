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
    assert!(inspected.contains("a training step can be derived"), "from labels alone: {inspected}");

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
    let options: [&[&str]; 24] = [
        &["--loss", "kl"],
        &["--loss", "kl", "--kl-reduction", "batchmean"],
        &["--loss", "kl", "--t2"],
        &["--loss", "cross-entropy"],
        &["--loss", "cross-entropy", "--logits", "st_logits"],
        &["--optimizer", "sgd"],
        &["--optimizer", "sgd", "--momentum", "0"],
        &["--optimizer", "rmsprop"],
        &["--optimizer", "adamw"],
        &["--optimizer", "adamw", "--decay-matrices-only"],
        &["--weight-decay", "0.1"],
        &["--group", "conv1*:lr=0.1,weight_decay=0"],
        &["--freeze", "conv1*", "--freeze", "bn1*"],
        &["--clip-norm", "0"],
        &["--clip-value", "1"],
        &["--accumulate", "--batch-norm", "frozen"],
        &["--precision", "f16"],
        &["--recompute-parts", "3"],
        &["--retention", "distill"],
        &["--retention", "logits"],
        &["--penalty"],
        &["--class-mask"],
        &["--gradient-noise"],
        &["--path-integral"],
    ];
    let mut seen = vec![read("train.onnx")];
    for options in options {
        let mut command = dkt(["model", "derive", "dual.onnx", "-o", "other.onnx"].iter().chain(options));
        command.current_dir(folder.path());
        let output = run(command);
        assert_eq!(output.code, Some(0), "{options:?}: {}", output.stderr);
        assert!(output.stdout.contains("feed each `<name>` and take `<name>.next`"), "{}", output.stdout);
        assert!(!seen.contains(&read("other.onnx")), "{options:?} changes nothing");
        seen.push(read("other.onnx"));
    }
}

/// Name, type and shape.
type TensorInfo = (String, String, Vec<u64>);

/// The tensors of a safetensors file, and the values of one.
fn tensors(file: &[u8], one: &str) -> (Vec<TensorInfo>, Vec<f32>) {
    let begin = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..begin]).unwrap();
    let mut tensors = Vec::new();
    let mut values = Vec::new();
    for (name, tensor) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
        let numbers = |key: &str| -> Vec<u64> {
            tensor[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
        };
        if name == one {
            let [from, to] = numbers("data_offsets").try_into().unwrap();
            let bytes = &file[begin + from as usize..begin + to as usize];
            values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        }
        tensors.push((name.clone(), tensor["dtype"].as_str().unwrap().to_owned(), numbers("shape")));
    }
    tensors.sort();
    (tensors, values)
}

#[test]
fn the_state_of_the_first_step_is_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path(), ["build", "digits-cnn", "-o", "model.onnx"]);
    let said = model(
        folder.path(),
        ["derive", "model.onnx", "-o", "train.onnx", "--state", "state.safetensors", "--precision", "f16"],
    );
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        matches!(lines[..], [train, state, _] if train.starts_with("train.onnx: ") && state.starts_with("state.safetensors: ")),
        "{said}"
    );
    assert!(
        lines[2].starts_with("trains 13 parameters (24708 values) on the ")
            && lines[2].contains("feed input, labels"),
        "{said}"
    );
    let train = Graph::read(&folder.path().join("train.onnx")).unwrap();
    let is_state = |name: &str| train.outputs.iter().any(|o| o.name == format!("{name}.next"));
    let mut expected: Vec<TensorInfo> = train
        .inputs
        .iter()
        .filter(|i| is_state(&i.name))
        .map(|i| {
            (i.name.clone(), "F32".to_owned(), i.shape.iter().map(|d| d.size().unwrap() as u64).collect())
        })
        .collect();
    expected.sort();
    let file = fs::read(folder.path().join("state.safetensors")).unwrap();
    let (found, weights) = tensors(&file, "conv1.weight");
    assert_eq!(found, expected);
    let forward = Graph::read(&folder.path().join("model.onnx")).unwrap();
    assert_eq!(weights, forward.initializers["conv1.weight"].to_f32().unwrap());
    assert_eq!(tensors(&file, "loss_scale").1, [65_536.0]);
    assert!(tensors(&file, "conv1.weight.m").1.iter().all(|v| *v == 0.0));
}

#[test]
fn a_check_says_of_every_parameter_that_its_gradient_agrees() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path(), ["build", "digits-cnn", "-o", "model.onnx"]);
    let said = model(folder.path(), ["check", "model.onnx", "--seed", "3"]);
    let forward = Graph::read(&folder.path().join("model.onnx")).unwrap();
    for name in onnx_grad::trainable(&forward, "cl_logits").unwrap() {
        let line = said.lines().find(|line| line.split_whitespace().next() == Some(&name)).unwrap();
        assert!(line.ends_with("agrees") || line.ends_with("kink or rounding"), "{line}");
    }
    assert!(said.contains("13 parameters trained; agrees "), "{said}");
    assert!(said.contains("not trained: bn1.running_mean") && said.contains("running statistic"), "{said}");
    assert_eq!(model(folder.path(), ["check", "model.onnx", "--seed", "3"]), said, "the same every time");

    // Batch normalisation folded away, and one head.
    let mut folded = forward;
    for node in folded.nodes.iter_mut().filter(|n| n.op == "Conv") {
        let n_channels = folded.initializers[&node.inputs[1]].dims[0];
        let bias = format!("{}.bias", node.name);
        folded
            .initializers
            .insert(bias.clone(), onnx_grad::graph::Tensor::from_f32(&[n_channels], &vec![0.1; n_channels]));
        node.inputs.push(bias);
    }
    for node in folded.nodes.iter_mut().filter(|n| n.op == "BatchNormalization") {
        node.op = "Identity".to_owned();
        node.inputs.truncate(1);
        node.attributes.clear();
    }
    fs::write(folder.path().join("folded.onnx"), folded.encode()).unwrap();
    let said = model(folder.path(), ["check", "folded.onnx", "--logits", "cl_logits", "--batch", "4"]);
    assert!(said.starts_with("loss: cross-entropy; 4 rows, seed 0\n"), "{said}");
    assert!(said.contains("student_head.bias") && said.contains("the loss does not depend on it"), "{said}");
    for said in [said, model(folder.path(), ["inspect", "folded.onnx"])] {
        assert!(said.contains("folded into the convolutions") && said.contains("PRESERVE"), "{said}");
    }
}
