//! Derived training graphs on stock ONNX Runtime.

use std::collections::BTreeMap;

use crate::support::Runner;
use onnx_grad::graph::{DataType, Dim, Graph, Node, Tensor};
use onnx_grad::{Builder, Clip, GradError, Optimizer, TrainSpec, TrainingGraph, derive, loss, trainable};

/// x [batch, 2] -> 8 -> 2 logits, with cross-entropy against `labels` [batch, 2].
fn mlp() -> (Graph, String) {
    let mut b = Builder::new("mlp", 17);
    b.input("x", DataType::F32, vec!["batch".into(), 2.into()]).unwrap();
    b.input("labels", DataType::F32, vec!["batch".into(), 2.into()]).unwrap();
    let weight = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 13) as f32 / 6.5 - 1.0).collect() };
    b.initializer("fc1.weight", Tensor::from_f32(&[2, 8], &weight(16))).unwrap();
    b.initializer("fc1.bias", Tensor::from_f32(&[8], &weight(8))).unwrap();
    b.initializer("fc2.weight", Tensor::from_f32(&[8, 2], &weight(16))).unwrap();
    let hidden = b.op("MatMul", &["x", "fc1.weight"], &[]).unwrap();
    let hidden = b.op("Add", &[&hidden, "fc1.bias"], &[]).unwrap();
    let hidden = b.op("Tanh", &[&hidden], &[]).unwrap();
    let logits = b.op_named("MatMul", &[&hidden, "fc2.weight"], &[], "logits").unwrap();
    let loss = loss::cross_entropy(&mut b, &logits, "labels").unwrap();
    (b.finish(), loss)
}

fn spec(graph: &Graph, loss: &str, optimizer: Optimizer) -> TrainSpec {
    TrainSpec::new(loss, trainable(graph, loss).unwrap(), optimizer)
}

/// Feeds `<name>.next` back as `<name>`.
struct Trainer {
    runner: Runner,
    state: BTreeMap<String, Tensor>,
    step: u32,
}

impl Trainer {
    fn new(graph: &TrainingGraph) -> Self {
        let state = graph.state.iter().map(|s| (s.name.clone(), s.init.clone())).collect();
        Trainer { runner: Runner::new(&graph.graph), state, step: 0 }
    }

    fn step(&mut self, data: &[(&str, Tensor)], learning_rate: f32) -> BTreeMap<String, Tensor> {
        self.step += 1;
        let mut feeds = data.to_vec();
        feeds.push(("learning_rate", Tensor::from_f32(&[], &[learning_rate])));
        feeds.push(("step", Tensor::from_f32(&[], &[self.step as f32])));
        feeds.extend(self.state.iter().map(|(name, t)| (name.as_str(), t.clone())));
        let outputs = self.runner.run(&feeds);
        for (name, tensor) in &mut self.state {
            *tensor = outputs[&format!("{name}.next")].clone();
        }
        outputs
    }
}

#[test]
fn an_mlp_learns_exclusive_or() {
    let (graph, loss) = mlp();
    let training = derive(&graph, &spec(&graph, &loss, Optimizer::ADAM)).unwrap();
    let mut trainer = Trainer::new(&training);
    let data = [
        ("x", Tensor::from_f32(&[4, 2], &[0., 0., 0., 1., 1., 0., 1., 1.])),
        ("labels", Tensor::from_f32(&[4, 2], &[1., 0., 0., 1., 0., 1., 1., 0.])),
    ];
    let first = trainer.step(&data, 0.05)["loss"].to_f32().unwrap()[0];
    for _ in 0..200 {
        trainer.step(&data, 0.05);
    }
    let last = trainer.step(&data, 0.05)["loss"].to_f32().unwrap()[0];
    assert!(first > 0.5 && last < 0.01, "loss went from {first} to {last}");
}

#[test]
fn one_graph_serves_every_batch_size() {
    let (graph, loss) = mlp();
    let training = derive(&graph, &spec(&graph, &loss, Optimizer::ADAM)).unwrap();
    assert_eq!(training.graph.inputs[0].shape[0], Dim::Symbol("batch".to_owned()));
    let mut trainer = Trainer::new(&training);
    for n in [1, 3, 7] {
        let labels: Vec<f32> = (0..n).flat_map(|_| [1.0, 0.0]).collect();
        let data = [
            ("x", Tensor::from_f32(&[n, 2], &vec![0.5; 2 * n])),
            ("labels", Tensor::from_f32(&[n, 2], &labels)),
        ];
        assert!(trainer.step(&data, 0.01)["loss"].to_f32().unwrap()[0].is_finite());
    }
}

/// loss = sum of g * p with constant g, so that the gradient of `p` is g at every step.
fn linear(g: &[f32], p: &[f32]) -> (Graph, String) {
    let mut b = Builder::new("linear", 17);
    b.input("g", DataType::F32, vec![g.len().into()]).unwrap();
    b.initializer("p", Tensor::from_f32(&[p.len()], p)).unwrap();
    let product = b.op("Mul", &["g", "p"], &[]).unwrap();
    let loss = b.op("ReduceSum", &[&product], &[("keepdims", 0_i64.into())]).unwrap();
    (b.finish(), loss)
}

/// The update rule as in PyTorch's documentation, in f64: (p, g, step) -> p.
type Reference = Box<dyn FnMut(f64, f64, i32) -> f64>;

#[test]
fn optimisers_follow_their_definitions() {
    const LR: f64 = 0.1;
    let sgd = |momentum: f64, nesterov: bool, weight_decay: f64| -> Reference {
        let mut velocity = 0.0;
        Box::new(move |p, g, _| {
            let g = g + weight_decay * p;
            velocity = momentum * velocity + g;
            p - LR * if nesterov { g + momentum * velocity } else { velocity }
        })
    };
    let adam = |weight_decay: f64, decoupled: bool| -> Reference {
        let (mut m, mut v) = (0.0, 0.0);
        Box::new(move |p, g, step| {
            let g = if decoupled { g } else { g + weight_decay * p };
            let p = if decoupled { p - LR * weight_decay * p } else { p };
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let (m_hat, v_hat) = (m / (1.0 - 0.9_f64.powi(step)), v / (1.0 - 0.999_f64.powi(step)));
            p - LR * m_hat / (v_hat.sqrt() + 1e-8)
        })
    };
    let rms_prop = |momentum: f64, centered: bool, weight_decay: f64| -> Reference {
        let (mut v, mut mean, mut velocity) = (0.0, 0.0, 0.0);
        Box::new(move |p, g, _| {
            let g = g + weight_decay * p;
            v = 0.9 * v + 0.1 * g * g;
            mean = 0.9 * mean + 0.1 * g;
            let variance: f64 = if centered { v - mean * mean } else { v };
            velocity = momentum * velocity + g / (variance.sqrt() + 1e-8);
            p - LR * velocity
        })
    };
    let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
    let rms = |momentum, centered, weight_decay| Optimizer::RmsProp {
        alpha: 0.9,
        eps,
        momentum,
        centered,
        weight_decay,
    };
    let cases: Vec<(Optimizer, Reference)> = vec![
        (Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 }, sgd(0.0, false, 0.0)),
        (Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.01 }, sgd(0.9, false, 0.01)),
        (Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.01 }, sgd(0.9, true, 0.01)),
        (Optimizer::Adam { beta1, beta2, eps, weight_decay: 0.0 }, adam(0.0, false)),
        (Optimizer::Adam { beta1, beta2, eps, weight_decay: 0.05 }, adam(0.05, false)),
        (Optimizer::AdamW { beta1, beta2, eps, weight_decay: 0.05 }, adam(0.05, true)),
        (rms(0.0, false, 0.0), rms_prop(0.0, false, 0.0)),
        (rms(0.5, false, 0.05), rms_prop(0.5, false, 0.05)),
        (rms(0.5, true, 0.05), rms_prop(0.5, true, 0.05)),
    ];
    for (optimizer, mut reference) in cases {
        let (graph, loss) = linear(&[0.0], &[1.5]);
        let mut trainer = Trainer::new(&derive(&graph, &spec(&graph, &loss, optimizer)).unwrap());
        let mut expected = 1.5;
        for (step, g) in [0.5_f32, -1.0, 2.0].into_iter().enumerate() {
            trainer.step(&[("g", Tensor::from_f32(&[1], &[g]))], LR as f32);
            expected = reference(expected, g.into(), step as i32 + 1);
            let found = trainer.state["p"].to_f32().unwrap()[0];
            let error = (f64::from(found) - expected).abs() / expected.abs();
            assert!(error < 1e-6, "{optimizer:?}, step {step}: expected {expected}, found {found}");
        }
    }
}

#[test]
fn a_gradient_that_stays_the_same_leaves_centered_rms_prop_finite() {
    let (graph, loss) = linear(&[0.0; 4], &[0.0; 4]);
    let centered =
        Optimizer::RmsProp { alpha: 0.5, eps: 1e-8, momentum: 0.0, centered: true, weight_decay: 0.0 };
    let mut trainer = Trainer::new(&derive(&graph, &spec(&graph, &loss, centered)).unwrap());
    for _ in 0..60 {
        trainer.step(&[("g", Tensor::from_f32(&[4], &[0.1, 0.3, 0.7, 1.1]))], 1e-12);
        let p = trainer.state["p"].to_f32().unwrap();
        assert!(p.iter().all(|p| p.is_finite()), "{p:?}");
    }
}

#[test]
fn the_gradient_is_clipped_to_its_norm_and_the_norm_is_reported() {
    let (graph, loss) = linear(&[0.0, 0.0], &[0.0, 0.0]);
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let clipped = TrainSpec { clip: Some(Clip::Norm(1.0)), ..spec(&graph, &loss, sgd) };
    let mut trainer = Trainer::new(&derive(&graph, &clipped).unwrap());
    let outputs = trainer.step(&[("g", Tensor::from_f32(&[2], &[3.0, 4.0]))], 1.0);
    assert_eq!(outputs["grad_norm"].to_f32().unwrap(), [5.0]);
    let p = trainer.state["p"].to_f32().unwrap();
    assert!((p[0] + 0.6).abs() < 1e-5 && (p[1] + 0.8).abs() < 1e-5, "{p:?}");
    // A gradient within the bound is left alone.
    trainer.step(&[("g", Tensor::from_f32(&[2], &[0.3, 0.0]))], 1.0);
    assert!((trainer.state["p"].to_f32().unwrap()[0] + 0.9).abs() < 1e-5);
}

#[test]
fn deriving_twice_gives_the_same_bytes_of_standard_operators() {
    let (graph, loss) = mlp();
    let spec = spec(&graph, &loss, Optimizer::ADAM);
    let (one, two) = (derive(&graph, &spec).unwrap(), derive(&graph, &spec).unwrap());
    assert_eq!(one.graph.encode(), two.graph.encode());
    assert!(one.graph.nodes.iter().all(|n| n.domain.is_empty()));
    assert_eq!(Graph::decode(&one.graph.encode()).unwrap(), one.graph);
}

#[test]
fn every_state_input_has_its_next() {
    let (graph, loss) = mlp();
    let training = derive(&graph, &spec(&graph, &loss, Optimizer::ADAM)).unwrap();
    for state in &training.state {
        assert!(training.graph.inputs.iter().any(|i| i.name == state.name), "{}", state.name);
        let next = format!("{}.next", state.name);
        assert!(training.graph.outputs.iter().any(|o| o.name == next), "{next}");
    }
    assert_eq!(training.state.len(), 9, "three parameters with two moments each");
}

#[test]
fn all_operators_without_a_rule_are_reported_at_once() {
    let mut b = Builder::new("odd", 17);
    b.input("x", DataType::F32, vec![2.into()]).unwrap();
    b.initializer("p", Tensor::from_f32(&[2], &[1.0, 2.0])).unwrap();
    let y = b.op("Mul", &["x", "p"], &[]).unwrap();
    let loss = b.op("ReduceSum", &[&y], &[("keepdims", 0_i64.into())]).unwrap();
    let mut graph = b.finish();
    for op in ["Unique", "Det"] {
        let between = format!("before {op}");
        let outputs = std::mem::replace(&mut graph.nodes[0].outputs, vec![between.clone()]);
        let (op, name) = (op.to_owned(), op.to_owned());
        graph.nodes.insert(1, Node { op, name, inputs: vec![between], outputs, ..graph.nodes[0].clone() });
    }
    let spec = TrainSpec { trainable: vec!["p".to_owned()], ..spec(&graph, &loss, Optimizer::ADAM) };
    let Err(GradError::Unsupported(nodes)) = derive(&graph, &spec) else { panic!("expected a refusal") };
    assert_eq!(nodes.iter().map(|n| n.op.as_str()).collect::<Vec<_>>(), ["Det", "Unique"]);
}

#[test]
fn derived_graphs_grow_as_the_network_does() {
    let n_nodes = |depth: usize| {
        let mut b = Builder::new("deep", 17);
        b.input("x", DataType::F32, vec!["batch".into(), 4.into()]).unwrap();
        let mut h = "x".to_owned();
        for i in 0..depth {
            let w = b.initializer(&format!("w{i}"), Tensor::from_f32(&[4, 4], &[0.1; 16])).unwrap();
            let y = b.op("MatMul", &[&h, &w], &[]).unwrap();
            let y = b.op("Tanh", &[&y], &[]).unwrap();
            // A residual connection: its gradient is a sum over both ways.
            h = if i == 0 { y } else { b.op("Add", &[&y, &h], &[]).unwrap() };
        }
        let loss = b.op("ReduceSum", &[&h], &[("keepdims", 0_i64.into())]).unwrap();
        let graph = b.finish();
        derive(&graph, &spec(&graph, &loss, Optimizer::ADAM)).unwrap().graph.nodes.len()
    };
    let nodes = [10, 20, 40, 80].map(n_nodes);
    assert_eq!(nodes[2] - nodes[1], 2 * (nodes[1] - nodes[0]), "{nodes:?}");
    assert_eq!(nodes[3] - nodes[2], 4 * (nodes[1] - nodes[0]), "{nodes:?}");
}
