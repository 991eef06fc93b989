//! What a training step can do beside the plain one: groups, accumulation, recomputation, dropout, precision.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::Runner;
use onnx_grad::graph::{DataType, Graph, Node, Tensor};
use onnx_grad::{
    APPLIED, Builder, Clip, Dropout, FINITE_STEPS, GRAD_NORM, GradError, LOSS_SCALE, LossScale, Optimizer,
    ParameterGroup, Precision, Recompute, SEED, TrainSpec, TrainingGraph, derive, loss, trainable,
};

const SGD: Optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };

/// x [batch, 6] -> 5 -> 5 -> 3 logits, cross-entropy with `labels`; `middle` is what stands between the two
/// hidden layers.
fn network(middle: impl FnOnce(&mut Builder, &str) -> String) -> Graph {
    let mut b = Builder::new("network", 17);
    b.input("x", DataType::F32, vec!["batch".into(), 6.into()]).unwrap();
    b.input("labels", DataType::F32, vec!["batch".into(), 3.into()]).unwrap();
    for (name, dims) in [("w1", [6, 5]), ("w2", [5, 5]), ("w3", [5, 3])] {
        b.initializer(name, Tensor::from_f32(&dims, &numbers(dims[0] * dims[1], dims[1]))).unwrap();
    }
    b.initializer("b3", Tensor::from_f32(&[3], &[0.1, 0.2, -0.3])).unwrap();
    let h = b.op("MatMul", &["x", "w1"], &[]).unwrap();
    let h = b.op_named("Tanh", &[&h], &[], "first").unwrap();
    let h = middle(&mut b, &h);
    let h = b.op("MatMul", &[&h, "w2"], &[]).unwrap();
    let h = b.op_named("Tanh", &[&h], &[], "second").unwrap();
    let logits = b.op("MatMul", &[&h, "w3"], &[]).unwrap();
    b.op_named("Add", &[&logits, "b3"], &[], "logits").unwrap();
    let loss = loss::cross_entropy(&mut b, "logits", "labels").unwrap();
    b.op_named("Identity", &[&loss], &[], "loss").unwrap();
    b.finish()
}

fn plain() -> Graph {
    network(|_, h| h.to_owned())
}

fn numbers(n: usize, salt: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + salt * 31) % 97) as f32 / 48.5 - 1.0).collect()
}

fn spec(graph: &Graph, optimizer: Optimizer) -> TrainSpec {
    TrainSpec::new("loss", trainable(graph, "loss").unwrap(), optimizer)
}

/// Rows `from..to` of one fixed batch.
fn rows(from: usize, to: usize) -> Vec<(&'static str, Tensor)> {
    let (x, n) = (numbers(6 * 16, 3), to - from);
    let labels: Vec<f32> =
        (from..to).flat_map(|row| (0..3).map(move |k| if row % 3 == k { 1.0 } else { 0.0 })).collect();
    vec![
        ("x", Tensor::from_f32(&[n, 6], &x[6 * from..6 * to])),
        ("labels", Tensor::from_f32(&[n, 3], &labels)),
    ]
}

fn scalar(value: f32) -> Tensor {
    Tensor::from_f32(&[], &[value])
}

struct Trainer {
    runner: Runner,
    state: BTreeMap<String, Tensor>,
    step: f32,
}

impl Trainer {
    fn new(training: &TrainingGraph) -> Self {
        let state = training.state.iter().map(|s| (s.name.clone(), s.init.clone())).collect();
        Trainer { runner: Runner::new(&training.graph), state, step: 1.0 }
    }

    /// Runs one step; the outputs without the next state.
    fn step(&mut self, feeds: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
        let mut feeds = feeds.to_vec();
        feeds.push(("learning_rate", scalar(0.1)));
        feeds.push(("step", scalar(self.step)));
        feeds.extend(self.state.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())));
        let mut outputs = self.runner.run(&feeds);
        for (name, tensor) in &mut self.state {
            *tensor = outputs.remove(&format!("{name}.next")).unwrap();
        }
        self.step += 1.0;
        outputs
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.state[name].to_f32().unwrap()
    }
}

fn value(outputs: &BTreeMap<String, Tensor>, name: &str) -> f32 {
    outputs[name].to_f32().unwrap()[0]
}

fn assert_close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let size = b.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance * size, "{what}: {a} and {b}");
    }
}

#[test]
fn micro_batches_add_up_to_the_whole_batch() {
    let graph = plain();
    let adam = spec(&graph, Optimizer::ADAM);
    let mut whole = Trainer::new(&derive(&graph, &adam).unwrap());
    let accumulating = TrainSpec { accumulate: true, clip: Some(Clip::Norm(0.05)), ..adam.clone() };
    let mut parts = Trainer::new(&derive(&graph, &accumulating).unwrap());
    let mut clipped = Trainer::new(&derive(&graph, &TrainSpec { clip: accumulating.clip, ..adam }).unwrap());
    for _ in 0..3 {
        whole.step(&rows(0, 16));
        let norm = value(&clipped.step(&rows(0, 16)), GRAD_NORM);
        let before = parts.values("w2");
        for (from, to) in [(0, 7), (7, 14), (14, 16)] {
            let mut feeds = rows(from, to);
            feeds.push(("micro_batch_weight", scalar((to - from) as f32 / 16.0)));
            feeds.push(("micro_batch_last", scalar(if to == 16 { 1.0 } else { 0.0 })));
            let outputs = parts.step(&feeds);
            if to < 16 {
                assert_eq!(parts.values("w2"), before, "parameters wait for the last micro-batch");
                assert_eq!(value(&outputs, APPLIED), 0.0);
                parts.step -= 1.0;
            } else {
                assert_eq!(value(&outputs, APPLIED), 1.0);
                assert_close(&[value(&outputs, GRAD_NORM)], &[norm], 1e-5, "norm of the whole gradient");
                assert_eq!(parts.values("w2.accumulated"), vec![0.0; 25], "the next sum starts from zero");
            }
        }
    }
    for name in ["w1", "w2", "w3", "b3", "w2.m", "w2.v"] {
        assert_close(&parts.values(name), &clipped.values(name), 1e-4, name);
    }
    assert_ne!(whole.values("w2.m"), clipped.values("w2.m"), "the bound was in force");
}

#[test]
fn groups_have_constants_of_their_own() {
    let graph = plain();
    let decayed = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.5 };
    let group = |parameters: &[&str], learning_rate_factor, weight_decay| ParameterGroup {
        parameters: parameters.iter().map(|&p| p.to_owned()).collect(),
        learning_rate_factor,
        weight_decay,
    };
    let groups = vec![group(&["w2"], 0.0, None), group(&["b3", "w2"], 1.0, Some(0.0))];
    let grouped = TrainSpec { groups, ..spec(&graph, decayed) };
    let mut grouped = Trainer::new(&derive(&graph, &grouped).unwrap());
    let mut all = Trainer::new(&derive(&graph, &spec(&graph, decayed)).unwrap());
    let (start, feeds) = (grouped.state.clone(), rows(0, 16));
    grouped.step(&feeds);
    all.step(&feeds);
    assert_eq!(grouped.state["w2"], start["w2"], "no learning rate");
    assert_eq!(grouped.state["w1"], all.state["w1"], "in no group: as without groups");
    let decay: Vec<f32> = start["b3"].to_f32().unwrap().iter().map(|p| 0.1 * 0.5 * p).collect();
    let difference: Vec<f32> =
        grouped.values("b3").iter().zip(all.values("b3")).map(|(g, a)| g - a).collect();
    assert_close(&difference, &decay, 1e-4, "only the bias was spared");
}

#[test]
fn clipping_by_value_bounds_every_element() {
    let graph = plain();
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let clipped = TrainSpec { clip: Some(Clip::Value(0.01)), ..spec(&graph, sgd) };
    let mut clipped = Trainer::new(&derive(&graph, &clipped).unwrap());
    let mut free = Trainer::new(&derive(&graph, &spec(&graph, sgd)).unwrap());
    let start = free.values("w3");
    let norms = [&mut clipped, &mut free].map(|t| value(&t.step(&rows(0, 16)), GRAD_NORM));
    assert_eq!(norms[0], norms[1], "the norm is that before clipping");
    let moved = |t: &Trainer| -> Vec<f32> { t.values("w3").iter().zip(&start).map(|(a, b)| a - b).collect() };
    let expected: Vec<f32> = moved(&free).iter().map(|d| d.clamp(-0.001, 0.001)).collect();
    assert!(
        expected.contains(&0.001) && expected.iter().any(|d| d.abs() < 0.001),
        "some, not all: {expected:?}"
    );
    assert_close(&moved(&clipped), &expected, 1e-3, "change of w3");
}

#[test]
fn recomputed_segments_change_nothing_but_what_is_kept() {
    let graph = network(|b, h| {
        let h = b.op_named("Exp", &[h], &[], "middle/exp").unwrap();
        b.op_named("Sigmoid", &[&h], &[], "middle/sigmoid").unwrap()
    });
    let plain = derive(&graph, &spec(&graph, SGD)).unwrap();
    let mut expected = Trainer::new(&plain);
    expected.step(&rows(0, 16));
    for recompute in [
        Recompute::Matching(vec![glob::Pattern::new("middle/*").unwrap()]),
        Recompute::Matching(["first", "middle/*", "second"].map(|p| glob::Pattern::new(p).unwrap()).to_vec()),
        Recompute::Parts(3),
    ] {
        let again = TrainSpec { recompute: recompute.clone(), ..spec(&graph, SGD) };
        let again = derive(&graph, &again).unwrap();
        let n_exp = |t: &TrainingGraph| t.graph.nodes.iter().filter(|n| n.op == "Exp").count();
        assert_eq!(n_exp(&again), n_exp(&plain) + 1, "{recompute:?}: computed twice");
        // The derivative of the sigmoid reads the second computation.
        let reads: Vec<&String> = again
            .graph
            .nodes
            .iter()
            .filter(|n| n.name.starts_with("middle/sigmoid.grad"))
            .flat_map(|n| &n.inputs)
            .collect();
        assert!(reads.iter().any(|r| *r == "middle/sigmoid.recomputed"), "{recompute:?}: {reads:?}");
        assert!(!reads.iter().any(|r| *r == "middle/sigmoid"), "{recompute:?}: {reads:?}");
        let mut trainer = Trainer::new(&again);
        trainer.step(&rows(0, 16));
        assert_eq!(trainer.state, expected.state, "{recompute:?}");
    }
    let unknown = Recompute::Matching(vec![glob::Pattern::new("layer9*").unwrap()]);
    let error = derive(&graph, &TrainSpec { recompute: unknown, ..spec(&graph, SGD) }).unwrap_err();
    assert!(error.to_string().contains("`layer9*`"), "{error}");
}

#[test]
fn gradients_are_taken_in_the_order_of_the_layers() {
    let mut b = Builder::new("names", 17);
    b.input("x", DataType::F32, vec!["batch".into(), 6.into()]).unwrap();
    let mut h = "x".to_owned();
    for name in ["stem", "middle", "head"] {
        b.initializer(name, Tensor::from_f32(&[6, 6], &numbers(36, 2))).unwrap();
        h = b.op("MatMul", &[&h, name], &[]).unwrap();
        h = b.op("Tanh", &[&h], &[]).unwrap();
    }
    b.op_named("ReduceMean", &[&h], &[("keepdims", 0_i64.into())], "loss").unwrap();
    let graph = b.finish();
    let training =
        derive(&graph, &spec(&graph, Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 }));
    // The runtime goes from the last node of the norm back: it must meet the last layer's gradient first, or
    // it computes all activations again before it needs any.
    let training = training.unwrap();
    let squares = training.graph.nodes.iter().filter(|n| n.op == "ReduceSumSquare").map(|n| &n.inputs[0]);
    let made = |value: &String| training.graph.nodes.iter().position(|n| n.outputs.contains(value)).unwrap();
    let positions: Vec<usize> = squares.map(made).collect();
    assert!(positions.is_sorted_by(|a, b| a > b) && positions.len() == 3, "{positions:?}");
    let state: Vec<&str> = training.state.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(state, ["stem", "middle", "head"]);
}

#[test]
fn recomputation_leaves_frozen_layers_as_they_are() {
    let mut b = Builder::new("frozen", 17);
    b.input("x", DataType::F32, vec!["batch".into(), 6.into()]).unwrap();
    for (name, value) in [("scale", 1.0), ("shift", 0.5), ("mean", 0.25), ("var", 4.0)] {
        b.initializer(name, Tensor::from_f32(&[6], &[value; 6])).unwrap();
    }
    b.initializer("w", Tensor::from_f32(&[6, 6], &numbers(36, 2))).unwrap();
    let statistics = ["x", "scale", "shift", "mean", "var"];
    b.op_named("BatchNormalization", &statistics, &[], "part/norm").unwrap();
    b.op_named("MatMul", &["part/norm", "w"], &[], "part/product").unwrap();
    let y = b.op("Exp", &["part/product"], &[]).unwrap();
    b.op_named("ReduceMean", &[&y], &[("keepdims", 0_i64.into())], "loss").unwrap();
    let graph = b.finish();
    let plain = TrainSpec::new("loss", vec!["w".to_owned()], SGD);
    let recompute = Recompute::Matching(vec![glob::Pattern::new("part/*").unwrap()]);
    let again = TrainSpec { recompute, ..plain.clone() };
    let [kept, again] = [plain, again].map(|spec| {
        let mut trainer = Trainer::new(&derive(&graph, &spec).unwrap());
        trainer.step(&rows(0, 16));
        trainer.values("w")
    });
    assert_eq!(again, kept, "no gradient reaches the norm: it stays in inference");
}

#[test]
fn recomputation_does_not_draw_again() {
    let graph = network(|b, h| {
        let noise = b.op_named("RandomNormalLike", &[h], &[], "middle/noise").unwrap();
        b.op_named("Mul", &[h, &noise], &[], "middle/noisy").unwrap()
    });
    let recompute = Recompute::Matching(vec![glob::Pattern::new("middle/*").unwrap()]);
    let training = derive(&graph, &TrainSpec { recompute, ..spec(&graph, SGD) }).unwrap();
    let draws = training.graph.nodes.iter().filter(|n| n.op == "RandomNormalLike").count();
    assert_eq!(draws, 1);
}

#[test]
fn names_that_a_training_graph_needs_are_refused() {
    let everything = |graph: &Graph| TrainSpec {
        accumulate: true,
        dropout: Dropout::Seeded,
        precision: Precision::Float16(LossScale::default()),
        ..spec(
            graph,
            Optimizer::RmsProp { alpha: 0.99, eps: 1e-8, momentum: 0.9, centered: true, weight_decay: 0.0 },
        )
    };
    for name in [
        SEED,
        LOSS_SCALE,
        FINITE_STEPS,
        APPLIED,
        GRAD_NORM,
        "learning_rate",
        "step",
        "micro_batch_weight",
        "micro_batch_last",
        "w1.next",
        "w1.accumulated",
        "w1.v",
        "w1.mean",
        "w1.momentum",
    ] {
        let forward = |dtype: DataType| {
            let mut graph = network(dropout);
            let shape = Vec::new();
            graph.inputs.push(onnx_grad::graph::ValueInfo { name: name.to_owned(), dtype, shape });
            derive(&graph, &everything(&graph))
        };
        for dtype in [DataType::F32, DataType::I64] {
            let error = forward(dtype).unwrap_err();
            assert!(matches!(&error, GradError::Redefined { value } if value == name), "{name}: {error}");
        }
    }
}

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

fn dropout(b: &mut Builder, x: &str) -> String {
    let ratio = b.constant(Tensor::from_f32(&[], &[0.25])).unwrap();
    b.op_named("Dropout", &[x, &ratio], &[], "dropped").unwrap()
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

#[test]
fn half_precision_computes_products_low_and_keeps_masters_in_f32() {
    let graph = plain();
    let precision = Precision::Float16(LossScale { init: 1024.0, growth_interval: 2 });
    let training = derive(&graph, &TrainSpec { precision, ..spec(&graph, SGD) }).unwrap();
    assert!(training.state.iter().all(|s| s.init.dtype == DataType::F32));
    let mut half = Trainer::new(&training);
    let mut full = Trainer::new(&derive(&graph, &spec(&graph, SGD)).unwrap());
    let mut scales = Vec::new();
    for _ in 0..4 {
        let (h, f) = (half.step(&rows(0, 16)), full.step(&rows(0, 16)));
        assert_eq!(value(&h, APPLIED), 1.0);
        assert_close(&[value(&h, "loss")], &[value(&f, "loss")], 2e-3, "loss");
        assert_close(&[value(&h, GRAD_NORM)], &[value(&f, GRAD_NORM)], 5e-3, "norm, unscaled");
        scales.push(half.values(LOSS_SCALE)[0]);
    }
    assert_eq!(scales, [1024.0, 2048.0, 2048.0, 4096.0], "doubles after two finite steps");
    for name in ["w1", "w2", "w3", "b3"] {
        assert_close(&half.values(name), &full.values(name), 5e-3, name);
    }
    assert_ne!(half.values("w2"), full.values("w2"), "products were not rounded");
}

#[test]
fn bfloat16_leaves_operators_alone_that_onnx_does_not_have_in_it() {
    let mut b = Builder::new("network", 17);
    b.input("x", DataType::F32, vec!["batch".into(), 1.into(), 4.into(), 4.into()]).unwrap();
    b.input("labels", DataType::F32, vec!["batch".into(), 3.into()]).unwrap();
    b.initializer("w1", Tensor::from_f32(&[2, 1, 3, 3], &numbers(18, 1))).unwrap();
    b.initializer("w2", Tensor::from_f32(&[8, 3], &numbers(24, 2))).unwrap();
    let h = b.op("Conv", &["x", "w1"], &[]).unwrap();
    let h = b.op("Tanh", &[&h], &[]).unwrap();
    let h = b.op("Flatten", &[&h], &[]).unwrap();
    let logits = b.op("MatMul", &[&h, "w2"], &[]).unwrap();
    let loss = loss::cross_entropy(&mut b, &logits, "labels").unwrap();
    b.op_named("Identity", &[&loss], &[], "loss").unwrap();
    let graph = b.finish();
    let training =
        derive(&graph, &TrainSpec { precision: Precision::BFloat16, ..spec(&graph, SGD) }).unwrap();
    // The inference of shapes knows every value's type, as ONNX Runtime would find it.
    let typed = Builder::from_graph(training.graph.clone()).unwrap();
    let is_low = |node: &&Node| typed.value(&node.outputs[0]).unwrap().dtype == DataType::BF16;
    let low: BTreeSet<&str> = training.graph.nodes.iter().filter(is_low).map(|n| n.op.as_str()).collect();
    let have_it = BTreeSet::from(["Cast", "Gemm", "MatMul", "Reshape", "Transpose"]);
    assert!(low.contains("MatMul") && low.is_subset(&have_it), "{low:?}");
    let products = training.graph.nodes.iter().filter(|n| ["Gemm", "MatMul"].contains(&n.op.as_str()));
    let (low, high): (Vec<&Node>, Vec<&Node>) = products.partition(is_low);
    assert!(low.len() >= 2 && !high.is_empty(), "the convolution's products stay: {low:?} {high:?}");
}

#[test]
fn a_step_that_overflows_is_skipped_and_halves_the_scale() {
    let graph = plain();
    let precision = Precision::Float16(LossScale { init: 3e38, growth_interval: 100 });
    let mut half =
        Trainer::new(&derive(&graph, &TrainSpec { precision, ..spec(&graph, Optimizer::ADAM) }).unwrap());
    // ONNX Runtime computes float16 graphs in float32 on the CPU, so it takes this much to overflow.
    let mut feeds = rows(0, 16);
    let labels: Vec<f32> = feeds[1].1.to_f32().unwrap().iter().map(|v| v * 100.0).collect();
    feeds[1].1 = Tensor::from_f32(&[16, 3], &labels);
    let before = half.state.clone();
    let outputs = half.step(&feeds);
    assert_eq!(value(&outputs, APPLIED), 0.0);
    assert!(!value(&outputs, GRAD_NORM).is_finite());
    assert!(value(&outputs, "loss").is_finite());
    assert_eq!(half.values(LOSS_SCALE), [1.5e38]);
    assert_eq!(half.values(FINITE_STEPS), [0.0]);
    for (name, tensor) in before.iter().filter(|(name, _)| !name.starts_with(LOSS_SCALE)) {
        assert_eq!(&half.state[name], tensor, "{name} moved");
    }
    let skipped = (0..40).take_while(|_| value(&half.step(&feeds), APPLIED) == 0.0).count();
    assert!((1..39).contains(&skipped), "{skipped} more steps until the scale fits");
    assert_ne!(half.state["w1"], before["w1"]);
}

#[test]
fn the_loss_scale_stays_finite() {
    let graph = plain();
    let precision = Precision::Float16(LossScale { init: 2.0_f32.powi(126), growth_interval: 1 });
    let mut half = Trainer::new(&derive(&graph, &TrainSpec { precision, ..spec(&graph, SGD) }).unwrap());
    // So small a loss that its gradient is finite at any scale.
    let mut feeds = rows(0, 16);
    let labels: Vec<f32> = feeds[1].1.to_f32().unwrap().iter().map(|v| v * 1e-34).collect();
    feeds[1].1 = Tensor::from_f32(&[16, 3], &labels);
    for _ in 0..4 {
        assert_eq!(value(&half.step(&feeds), APPLIED), 1.0);
        assert_eq!(half.values(LOSS_SCALE), [2.0_f32.powi(127)]);
    }
}

#[test]
fn tied_weights_get_the_sum_of_their_gradients() {
    let tied = |separate: bool| {
        let mut b = Builder::new("tied", 17);
        b.input("x", DataType::F32, vec!["batch".into(), 6.into()]).unwrap();
        let w = Tensor::from_f32(&[6, 6], &numbers(36, 2));
        b.initializer("w", w.clone()).unwrap();
        if separate {
            b.initializer("v", w).unwrap();
        }
        let h = b.op("MatMul", &["x", "w"], &[]).unwrap();
        let h = b.op("Tanh", &[&h], &[]).unwrap();
        let back = b.op("Transpose", &[if separate { "v" } else { "w" }], &[]).unwrap();
        let y = b.op("MatMul", &[&h, &back], &[]).unwrap();
        let y = b.op("Mul", &[&y, &y], &[]).unwrap();
        b.op_named("ReduceMean", &[&y], &[("keepdims", 0_i64.into())], "loss").unwrap();
        b.finish()
    };
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let moved = |graph: &Graph| {
        let mut trainer = Trainer::new(&derive(graph, &spec(graph, sgd)).unwrap());
        trainer.step(&rows(0, 16));
        trainer
    };
    let (one, two) = (moved(&tied(false)), moved(&tied(true)));
    let start = numbers(36, 2);
    let change = |values: Vec<f32>| -> Vec<f32> { values.iter().zip(&start).map(|(v, s)| v - s).collect() };
    let sum: Vec<f32> =
        change(two.values("w")).iter().zip(change(two.values("v"))).map(|(a, b)| a + b).collect();
    assert_close(&change(one.values("w")), &sum, 1e-3, "w");
}
