//! Running statistics of BatchNormalization over a training step.

use crate::support::Runner;
use onnx_grad::graph::{DataType, Dim, Graph, Tensor};
use onnx_grad::{BatchNorm, Builder, Optimizer, StateRole, TrainSpec, TrainingGraph, derive};

const MOMENTUM: f32 = 0.75;
const EPSILON: f32 = 0.01;
const VALUES: [f32; 8] = [1.0, -2.0, 3.0, 0.5, 2.5, -1.0, 4.0, 7.0];

/// Y = BN(X), Z = BN(Y * Y) with one set of parameters and running statistics, loss Σ Z².
fn called_twice() -> Graph {
    let mut b = Builder::new("twice", 17);
    b.input("x", DataType::F32, vec!["batch".into(), Dim::Size(2)]).unwrap();
    let vector = |values: [f32; 2]| Tensor::from_f32(&[2], &values);
    for (name, values) in [
        ("scale", [2.0, 0.5]),
        ("bias", [0.5, -1.0]),
        ("running.mean", [1.0, -3.0]),
        ("running.var", [4.0, 0.5]),
    ] {
        b.initializer(name, vector(values)).unwrap();
    }
    let norm = |b: &mut Builder, x: &str, y: &str| {
        let attributes = [("momentum", MOMENTUM.into()), ("epsilon", EPSILON.into())];
        let inputs = [x, "scale", "bias", "running.mean", "running.var"];
        b.op_named("BatchNormalization", &inputs, &attributes, y).unwrap();
    };
    norm(&mut b, "x", "y");
    let square = b.op("Mul", &["y", "y"], &[]).unwrap();
    norm(&mut b, &square, "z");
    let square = b.op("Mul", &["z", "z"], &[]).unwrap();
    b.op_named("ReduceSum", &[&square], &[("keepdims", 0_i64.into())], "loss").unwrap();
    b.output("z").unwrap();
    b.finish()
}

fn training(batch_norm: BatchNorm) -> TrainingGraph {
    let trained = vec!["scale".to_owned(), "bias".to_owned()];
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let spec = TrainSpec {
        batch_norm,
        outputs: vec![("z".to_owned(), "z".to_owned())],
        ..TrainSpec::new("loss", trained, sgd)
    };
    derive(&called_twice(), &spec).unwrap()
}

/// Mean, biased variance, and the normalised values times scale plus bias, of one column.
fn normalised(column: &[f32], scale: f32, bias: f32) -> (f32, f32, Vec<f32>) {
    let n = column.len() as f32;
    let mean = column.iter().sum::<f32>() / n;
    let var = column.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n;
    let y = column.iter().map(|v| scale * (v - mean) / (var + EPSILON).sqrt() + bias).collect();
    (mean, var, y)
}

#[test]
fn a_layer_called_twice_moves_its_running_statistics_twice() {
    let training = training(BatchNorm::Train);
    let statistics: Vec<&str> = training
        .state
        .iter()
        .filter(|s| s.role == StateRole::RunningStatistic)
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(statistics, ["running.mean", "running.var"]);

    let mut feeds: Vec<(&str, Tensor)> =
        training.state.iter().map(|s| (s.name.as_str(), s.init.clone())).collect();
    feeds.push(("x", Tensor::from_f32(&[4, 2], &VALUES)));
    feeds.push(("learning_rate", Tensor::from_f32(&[], &[0.1])));
    let results = Runner::new(&training.graph).run(&feeds);

    let start = [(2.0, 0.5, 1.0, 4.0), (0.5, -1.0, -3.0, 0.5)];
    for (c, (scale, bias, mut mean, mut var)) in start.into_iter().enumerate() {
        let x: Vec<f32> = VALUES.iter().skip(c).step_by(2).copied().collect();
        let (mean_1, var_1, y) = normalised(&x, scale, bias);
        let square: Vec<f32> = y.iter().map(|y| y * y).collect();
        let (mean_2, var_2, _) = normalised(&square, scale, bias);
        for (batch_mean, batch_var) in [(mean_1, var_1), (mean_2, var_2)] {
            mean = MOMENTUM * mean + (1.0 - MOMENTUM) * batch_mean;
            var = MOMENTUM * var + (1.0 - MOMENTUM) * batch_var * 4.0 / 3.0;
        }
        for (name, expected) in [("running.mean.next", mean), ("running.var.next", var)] {
            let found = results[name].to_f32().unwrap()[c];
            assert!(
                (found - expected).abs() < 1e-5 * expected.abs().max(1.0),
                "{name}[{c}]: {found}, {expected}"
            );
        }
    }
}

#[test]
fn frozen_statistics_are_no_state_and_normalise() {
    let training = training(BatchNorm::Frozen);
    let names: Vec<&str> = training.state.iter().map(|s| s.name.as_str()).collect();
    assert!(!names.iter().any(|n| n.starts_with("running")), "{names:?}");

    let mut feeds: Vec<(&str, Tensor)> =
        training.state.iter().map(|s| (s.name.as_str(), s.init.clone())).collect();
    feeds.push(("x", Tensor::from_f32(&[4, 2], &VALUES)));
    feeds.push(("learning_rate", Tensor::from_f32(&[], &[0.1])));
    let results = Runner::new(&training.graph).run(&feeds);
    let norm = |x: f32| 2.0 * (x - 1.0) / (4.0 + EPSILON).sqrt() + 0.5;
    let z = results["z"].to_f32().unwrap()[4];
    let expected = norm(norm(VALUES[4]).powi(2));
    assert!((z - expected).abs() < 1e-5, "{z}, {expected}");
    for name in ["scale", "bias"] {
        let (before, after) =
            (&feeds.iter().find(|f| f.0 == name).unwrap().1, &results[&format!("{name}.next")]);
        assert_ne!(before.to_f32().unwrap(), after.to_f32().unwrap(), "{name} is trained");
    }
}
