use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::zoo::{self, BuildOptions};

fn of_zoo(name: &str) -> Vec<Layer> {
    let network = zoo::find(name).unwrap();
    let options = BuildOptions { seed: 1, classes: network.classes, input: network.input };
    layers(&zoo::build(name, &options).unwrap()).unwrap()
}

fn names(layers: &[Layer]) -> Vec<&str> {
    layers.iter().map(|l| l.name.as_str()).collect()
}

/// What holds for every network.
fn check(of: &str, layers: &[Layer]) {
    assert!((3..=MAX_LAYERS).contains(&layers.len()), "{of}: {layers:?}");
    let distinct: BTreeSet<&str> = names(layers).into_iter().collect();
    assert_eq!(distinct.len(), layers.len(), "{of}: {:?}", names(layers));
    let values: BTreeSet<&str> = layers.iter().map(|l| l.value.as_str()).collect();
    assert_eq!(values.len(), layers.len(), "{of}: {layers:?}");
    for layer in layers {
        assert!(matches!(layer.shape[0], Dim::Symbol(_)), "{of}: {layer:?}");
        assert!(layer.shape[1..].iter().all(|d| d.size().is_some()), "{of}: {layer:?}");
    }
}

#[test]
fn the_layers_of_the_zoo_are_those_that_one_would_name() {
    let heads = ["features", "cl_logits", "st_logits"];
    let blocks = |stages: &[usize]| -> Vec<String> {
        let stage = |(s, n): (usize, &usize)| (0..*n).map(move |b| format!("layer{s}.{b}"));
        ["conv1".to_owned()].into_iter().chain((1..).zip(stages).flat_map(stage)).collect()
    };
    let encoder = (0..6).flat_map(|i| [format!("blocks.{i}.attn"), format!("blocks.{i}.mlp")]);
    let mut encoder: Vec<String> = encoder.collect();
    // The first one also holds the patches, and has its name from the last of its matrices.
    encoder[0] = "blocks.0.attn.proj".to_owned();
    let expected: [(&str, Vec<String>); 6] = [
        ("digits-cnn", ["conv1", "conv2", "conv3"].map(str::to_owned).to_vec()),
        ("slim-resnet18", blocks(&[2, 2, 2, 2])),
        ("resnet18", blocks(&[2, 2, 2, 2])),
        ("resnet32", blocks(&[5, 5, 5])),
        ("resnet34", blocks(&[3, 4, 6, 3])),
        ("vit-lite", encoder),
    ];
    for (network, inner) in expected {
        let layers = of_zoo(network);
        check(network, &layers);
        let inner = inner.iter().map(String::as_str);
        assert_eq!(names(&layers), inner.chain(heads).collect::<Vec<_>>(), "{network}");
    }
}

#[test]
fn every_network_of_the_zoo_has_layers_within_the_limit() {
    for network in zoo::list() {
        let layers = of_zoo(network.name);
        check(network.name, &layers);
        assert_eq!(names(&layers)[layers.len() - 3..], ["features", "cl_logits", "st_logits"]);
    }
    // MobileNetV2 has more: 35 activations and 10 sums.
    let mobilenet = of_zoo("mobilenet-v2");
    assert_eq!(mobilenet.len(), MAX_LAYERS);
    assert_eq!(mobilenet[0].name, "features.0.0", "the first stays");
    assert_eq!(mobilenet[16].name, "features.18.0", "and the last");
}

#[test]
fn a_residual_block_ends_after_its_activation_and_a_transformers_at_its_sum() {
    let resnet = of_zoo("slim-resnet18");
    let value = |name: &str, layers: &[Layer]| layers.iter().find(|l| l.name == name).unwrap().clone();
    let block = value("layer4.1", &resnet);
    assert!(block.value.starts_with("Relu"), "{block:?}");
    assert_eq!(block.shape, vec!["batch".into(), 160.into(), 4.into(), 4.into()]);
    let vit = of_zoo("vit-lite");
    let block = value("blocks.5.mlp", &vit);
    assert!(block.value.starts_with("Add") && block.shape[1..] == [256.into()], "{block:?}");
}

/// Exported classifiers of torchvision and others, one family each, and the blocks they have.
#[test]
fn exported_networks_have_layers_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("export/reference/architectures");
    let mut families: BTreeMap<String, Vec<Layer>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "onnx") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let graph = Graph::read(&path).unwrap();
            let layers = layers(&graph).unwrap();
            check(&name, &layers);
            let family = name.split('.').next().unwrap().to_owned();
            let shapes = |layers: &[Layer]| layers.iter().map(|l| l.shape[1..].to_vec()).collect::<Vec<_>>();
            let first = families.entry(family).or_insert_with(|| layers.clone());
            assert_eq!(shapes(first), shapes(&layers), "{name}: the same layers from every exporter");
        }
    }
    assert_eq!(families.len(), 19);
    let of = |family: &str| names(&families[family]);
    let stages = ["conv1", "layer1.0", "layer2.0", "layer3.0", "layer4.0", "features", "logits"];
    assert_eq!(of("resnet_basic"), stages);
    assert_eq!(of("googlenet"), ["0.conv", "2.conv", "3.conv", "5", "6", "8", "features", "logits"]);
    let mixer =
        ["blocks.0.mlp_tokens.fc2", "blocks.0.mlp_channels", "blocks.1.mlp_tokens", "blocks.1.mlp_channels"];
    assert_eq!(of("mlp_mixer")[..4], mixer);
    // A convolution gives the logits, and two heads on different tokens: neither has features that all heads read.
    for family in ["squeezenet", "deit"] {
        assert!(!of(family).contains(&FEATURES), "{family}");
    }
}

/// `x * sigmoid(x)` written out, twice, the second after a sum.
#[test]
fn an_activation_that_is_written_out_is_one() {
    let mut b = Builder::new("silu", 17);
    b.input("x", DataType::F32, vec!["n".into(), 3.into(), 4.into(), 4.into()]).unwrap();
    let weight = |outputs: usize, inputs: usize| {
        onnx_grad::graph::Tensor::from_f32(&[outputs, inputs, 1, 1], &vec![0.1; outputs * inputs])
    };
    b.initializer("a.weight", weight(8, 3)).unwrap();
    b.initializer("b.weight", weight(8, 8)).unwrap();
    b.initializer("fc.weight", onnx_grad::graph::Tensor::from_f32(&[8, 2], &[0.1; 16])).unwrap();
    let a = b.op("Conv", &["x", "a.weight"], &[]).unwrap();
    let s = b.op("Sigmoid", &[&a], &[]).unwrap();
    let first = b.op("Mul", &[&a, &s], &[]).unwrap();
    let c = b.op("Conv", &[&first, "b.weight"], &[]).unwrap();
    let sum = b.op("Add", &[&c, &first], &[]).unwrap();
    let s = b.op("Sigmoid", &[&sum], &[]).unwrap();
    let second = b.op("Mul", &[&sum, &s], &[]).unwrap();
    let pooled = b.op("GlobalAveragePool", &[&second], &[]).unwrap();
    let features = b.op("Flatten", &[&pooled], &[]).unwrap();
    b.op_named("MatMul", &[&features, "fc.weight"], &[], "logits").unwrap();
    b.output("logits").unwrap();
    let found = layers(&b.finish()).unwrap();
    let values: Vec<&str> = found.iter().map(|l| l.value.as_str()).collect();
    assert_eq!(values, [first.as_str(), &second, &features, "logits"]);
    assert_eq!(names(&found), ["a", "b", "features", "logits"]);
}

#[test]
fn what_is_left_of_many_is_evenly_chosen() {
    assert_eq!(evenly((0..45).collect::<Vec<i32>>(), 5), [0, 11, 22, 33, 44]);
    assert_eq!(evenly(vec![1, 2, 3], 3), [1, 2, 3]);
    assert_eq!(evenly((0..10).collect::<Vec<i32>>(), 1), [9]);
    for n in 2..45 {
        assert_eq!(evenly((0..45).collect::<Vec<i32>>(), n).len(), n);
    }
}
