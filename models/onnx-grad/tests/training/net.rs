//! The small network that the tests of this binary train.

use std::collections::BTreeMap;

use onnx_grad::graph::{DataType, Graph, Tensor};
use onnx_grad::{Builder, Optimizer, TrainSpec, TrainingGraph, loss, trainable};

use crate::support::Runner;

pub(super) const SGD: Optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };

/// x [batch, 6] -> 5 -> 5 -> 3 logits, cross-entropy with `labels`; `middle` is what stands between the two
/// hidden layers.
pub(super) fn network(middle: impl FnOnce(&mut Builder, &str) -> String) -> Graph {
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

pub(super) fn plain() -> Graph {
    network(|_, h| h.to_owned())
}

pub(super) fn numbers(n: usize, salt: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + salt * 31) % 97) as f32 / 48.5 - 1.0).collect()
}

pub(super) fn spec(graph: &Graph, optimizer: Optimizer) -> TrainSpec {
    TrainSpec::new("loss", trainable(graph, "loss").unwrap(), optimizer)
}

/// Rows `from..to` of one fixed batch.
pub(super) fn rows(from: usize, to: usize) -> Vec<(&'static str, Tensor)> {
    let (x, n) = (numbers(6 * 16, 3), to - from);
    let labels: Vec<f32> =
        (from..to).flat_map(|row| (0..3).map(move |k| if row % 3 == k { 1.0 } else { 0.0 })).collect();
    vec![
        ("x", Tensor::from_f32(&[n, 6], &x[6 * from..6 * to])),
        ("labels", Tensor::from_f32(&[n, 3], &labels)),
    ]
}

pub(super) fn scalar(value: f32) -> Tensor {
    Tensor::from_f32(&[], &[value])
}

pub(super) struct Trainer {
    pub(super) runner: Runner,
    pub(super) state: BTreeMap<String, Tensor>,
    pub(super) step: f32,
    /// What the step does not change.
    held: Vec<String>,
}

impl Trainer {
    pub(super) fn new(training: &TrainingGraph) -> Self {
        let state = training.state.iter().map(|s| (s.name.clone(), s.init.clone())).collect();
        let held = training.state.iter().filter(|s| !s.role.moves()).map(|s| s.name.clone()).collect();
        Trainer { runner: Runner::new(&training.graph), state, step: 1.0, held }
    }

    /// Runs one step; the outputs without the next state.
    pub(super) fn step(&mut self, feeds: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
        let mut feeds = feeds.to_vec();
        feeds.push(("learning_rate", scalar(0.1)));
        feeds.push(("step", scalar(self.step)));
        feeds.extend(self.state.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())));
        let mut outputs = self.runner.run(&feeds);
        for (name, tensor) in self.state.iter_mut().filter(|(name, _)| !self.held.contains(name)) {
            *tensor = outputs.remove(&format!("{name}.next")).unwrap();
        }
        self.step += 1.0;
        outputs
    }

    pub(super) fn values(&self, name: &str) -> Vec<f32> {
        self.state[name].to_f32().unwrap()
    }
}

pub(super) fn value(outputs: &BTreeMap<String, Tensor>, name: &str) -> f32 {
    outputs[name].to_f32().unwrap()[0]
}

pub(super) fn assert_close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let size = b.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance * size, "{what}: {a} and {b}");
    }
}

/// Drops a quarter, as `dropped`.
pub(super) fn dropout(b: &mut Builder, x: &str) -> String {
    let ratio = b.constant(Tensor::from_f32(&[], &[0.25])).unwrap();
    b.op_named("Dropout", &[x, &ratio], &[], "dropped").unwrap()
}
