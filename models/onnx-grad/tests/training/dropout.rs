//! Seeded dropout.

use std::collections::BTreeMap;

use onnx_grad::graph::{DataType, Tensor};
use onnx_grad::{Builder, Dropout, Recompute, SEED, TrainSpec, derive};

use crate::net::{SGD, Trainer, dropout, network, numbers, rows, spec, value};

#[test]
fn dropout_that_is_off_needs_no_ratio() {
    let graph = network(|b, h| {
        let ratio = b.op("ReduceMax", &[h], &[("keepdims", 0_i64.into())]).unwrap();
        b.op_named("Dropout", &[h, &ratio], &[], "dropped").unwrap()
    });
    derive(&graph, &spec(&graph, SGD)).unwrap();
    let error = derive(&graph, &TrainSpec { dropout: Dropout::Seeded, ..spec(&graph, SGD) }).unwrap_err();
    assert!(error.to_string().contains("a constant `ratio`"), "{error}");
}

#[test]
fn dropout_follows_its_seed_and_its_gradient_the_mask() {
    let graph = network(dropout);
    let seeded = TrainSpec {
        dropout: Dropout::Seeded,
        outputs: ["first", "dropped"].map(|n| (n.to_owned(), n.to_owned())).to_vec(),
        ..spec(&graph, SGD)
    };
    let training = derive(&graph, &seeded).unwrap();
    let step = |seed: i64| {
        let mut trainer = Trainer::new(&training);
        let mut feeds = rows(0, 16);
        feeds.push((SEED, Tensor::from_i64(&[], &[seed])));
        let outputs = trainer.step(&feeds);
        (outputs, trainer.state)
    };
    let (outputs, state) = step(7);
    assert_eq!(step(7).1, state, "the same seed");
    assert_ne!(step(8).1, state, "another seed");
    let (x, y) = (outputs["first"].to_f32().unwrap(), outputs["dropped"].to_f32().unwrap());
    for (x, y) in x.iter().zip(&y) {
        assert!(*y == 0.0 || (y - x / 0.75).abs() < 1e-6, "{y} of {x}");
    }
    // Recomputation draws the same mask.
    let again = TrainSpec {
        recompute: Recompute::Matching(vec![glob::Pattern::new("*").unwrap()]),
        ..seeded.clone()
    };
    let mut again = Trainer::new(&derive(&graph, &again).unwrap());
    let mut feeds = rows(0, 16);
    feeds.push((SEED, Tensor::from_i64(&[], &[7])));
    again.step(&feeds);
    assert_eq!(again.state, state);
    // The derivative by finite differences of one weight before the mask.
    let gradient =
        |state: &BTreeMap<String, Tensor>| (numbers(30, 5)[8] - state["w1"].to_f32().unwrap()[8]) / 0.1;
    let by_gradient = gradient(&state);
    let loss_at = |by: f32| {
        let mut trainer = Trainer::new(&training);
        let mut w1 = trainer.values("w1");
        w1[8] += by;
        trainer.state.insert("w1".to_owned(), Tensor::from_f32(&[6, 5], &w1));
        value(&trainer.step(&feeds), "loss")
    };
    let by_difference = (loss_at(0.02) - loss_at(-0.02)) / 0.04;
    assert!(
        (by_gradient - by_difference).abs() < 2e-3 * by_difference.abs().max(0.1),
        "{by_gradient} {by_difference}"
    );
}

#[test]
fn a_graph_with_dropout_has_the_bytes_it_always_had() {
    let graph = network(dropout);
    let training = derive(&graph, &TrainSpec { dropout: Dropout::Seeded, ..spec(&graph, SGD) }).unwrap();
    let fnv1a = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let digest = training.graph.encode().iter().fold(0xcbf2_9ce4_8422_2325, fnv1a);
    assert_eq!(digest, 0xaa2c_dc5d_fd32_761f, "found {digest:#018x}");
}

#[test]
fn dropout_masks_look_like_coins() {
    let (n, m) = (64, 1000);
    let mut b = Builder::new("mask", 17);
    b.input("x", DataType::F32, vec!["batch".into(), m.into()]).unwrap();
    b.initializer("w", Tensor::from_f32(&[1], &[1.0])).unwrap();
    let mut h = b.op("Mul", &["x", "w"], &[]).unwrap();
    for name in ["one", "two"] {
        let ratio = b.constant(Tensor::from_f32(&[], &[0.5])).unwrap();
        let source = if name == "one" { h.clone() } else { "x".to_owned() };
        let source = if name == "two" { b.op("Mul", &[&source, "w"], &[]).unwrap() } else { source };
        h = b.op_named("Dropout", &[&source, &ratio], &[], name).unwrap();
    }
    let sum = b.op("Add", &["one", "two"], &[]).unwrap();
    b.op_named("ReduceSum", &[&sum], &[("keepdims", 0_i64.into())], "loss").unwrap();
    let graph = b.finish();
    let outputs = ["one", "two"].map(|n| (n.to_owned(), n.to_owned())).to_vec();
    let training =
        derive(&graph, &TrainSpec { dropout: Dropout::Seeded, outputs, ..spec(&graph, SGD) }).unwrap();
    let mut runner = Trainer::new(&training);
    let mut masks = |seed: i64| -> [Vec<f32>; 2] {
        let x = Tensor::from_f32(&[n, m], &vec![1.0; n * m]);
        let outputs = runner.step(&[("x", x), (SEED, Tensor::from_i64(&[], &[seed]))]);
        runner.state.insert("w".to_owned(), Tensor::from_f32(&[1], &[1.0]));
        // +1 kept, -1 dropped
        ["one", "two"].map(|name| outputs[name].to_f32().unwrap().iter().map(|v| v - 1.0).collect())
    };
    let [one, two] = masks(1);
    let [next, _] = masks(2);
    // A sum of k fair signs has standard deviation sqrt k; five of them in about 6,000 draws is one in 300.
    let fair = |signs: &mut dyn Iterator<Item = f32>, k: usize, what: &str| {
        let sum: f32 = signs.sum();
        assert!(sum.abs() < 5.0 * (k as f32).sqrt(), "{what}: {sum} of {k}");
    };
    let both = |a: &[f32], b: &[f32]| -> Vec<f32> { a.iter().zip(b).map(|(a, b)| a * b).collect() };
    fair(&mut one.iter().copied(), n * m, "whole mask");
    fair(&mut both(&one, &two).into_iter(), n * m, "two layers");
    fair(&mut both(&one, &next).into_iter(), n * m, "two seeds");
    for row in 0..n {
        fair(&mut one[row * m..(row + 1) * m].iter().copied(), m, "row");
        let other = (row + 1) % n;
        let pair = both(&one[row * m..(row + 1) * m], &one[other * m..(other + 1) * m]);
        fair(&mut pair.into_iter(), m, "two rows");
    }
    for column in 0..m {
        let at = |c: usize| -> Vec<f32> { (0..n).map(|row| one[row * m + c]).collect() };
        fair(&mut at(column).into_iter(), n, "column");
        fair(&mut both(&at(column), &at((column + 1) % m)).into_iter(), n, "two columns");
    }
    // Rows and columns are mixed by a product: corners of rectangles must not decide each other.
    let corners: Vec<f32> = (0..n - 1)
        .flat_map(|row| (0..m - 1).map(move |c| (row * m + c, row * m + c + 1)))
        .map(|(a, b)| one[a] * one[b] * one[a + m] * one[b + m])
        .collect();
    fair(&mut corners.iter().copied(), corners.len(), "rectangles");
}
