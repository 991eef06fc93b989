//! The path integral of Synaptic Intelligence (Zenke et al. 2017).

use onnx_grad::graph::Tensor;
use onnx_grad::{Clip, LOSS_SCALE, LossScale, Optimizer, Precision, StateRole, TrainSpec, derive};

use crate::net::{SGD, Trainer, assert_close, plain, rows, scalar, spec, value};

const NAMES: [&str; 4] = ["w1", "w2", "w3", "b3"];

fn path(name: &str) -> String {
    format!("{name}.path")
}

#[test]
fn the_paths_of_all_parameters_sum_to_the_change_of_the_loss() {
    let graph = plain();
    // Bounded so that every step is shorter than its gradient says, with momentum and weight decay.
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.01 };
    let integral = TrainSpec { path_integral: true, clip: Some(Clip::Norm(0.02)), ..spec(&graph, sgd) };
    let training = derive(&graph, &integral).unwrap();
    let roles: Vec<&str> = training
        .state
        .iter()
        .filter(|s| s.role == StateRole::PathIntegral)
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(roles.len(), NAMES.len());
    let mut trainer = Trainer::new(&training);
    assert!(NAMES.iter().all(|name| trainer.values(&path(name)).iter().all(|&v| v == 0.0)));
    let first = value(&trainer.step(&rows(0, 16)), "loss");
    for _ in 0..39 {
        trainer.step(&rows(0, 16));
    }
    let sum: f32 = NAMES.iter().flat_map(|name| trainer.values(&path(name))).sum();
    let change = value(&trainer.step(&rows(0, 16)), "loss") - first;
    assert!(change < -0.05, "it learned: {change}");
    assert!((sum - change).abs() < 0.05 * change.abs(), "{sum} and {change}");
}

#[test]
fn a_path_is_the_gradient_before_its_bound_times_the_move() {
    let graph = plain();
    let free = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let mut slope = Trainer::new(&derive(&graph, &spec(&graph, free)).unwrap());
    let start = slope.state.clone();
    slope.step(&rows(0, 16));
    let integral =
        TrainSpec { path_integral: true, clip: Some(Clip::Norm(0.01)), ..spec(&graph, Optimizer::ADAMW) };
    let mut bounded = Trainer::new(&derive(&graph, &integral).unwrap());
    bounded.step(&rows(0, 16));
    for name in NAMES {
        let before = start[name].to_f32().unwrap();
        let gradient = slope.values(name).into_iter().zip(&before).map(|(after, p)| (p - after) / 0.1);
        let moved = bounded.values(name).into_iter().zip(&before).map(|(after, p)| after - p);
        let expected: Vec<f32> = gradient.zip(moved).map(|(g, d)| g * d).collect();
        assert!(expected.iter().any(|&e| e < -1e-4), "{name}: {expected:?}");
        assert_close(&bounded.values(&path(name)), &expected, 1e-3, name);
    }
}

#[test]
fn a_path_moves_with_its_parameter_only() {
    let graph = plain();
    let whole = TrainSpec { path_integral: true, ..spec(&graph, SGD) };
    let mut parts = Trainer::new(&derive(&graph, &TrainSpec { accumulate: true, ..whole.clone() }).unwrap());
    let mut whole = Trainer::new(&derive(&graph, &whole).unwrap());
    for _ in 0..2 {
        whole.step(&rows(0, 16));
        for (from, to) in [(0, 9), (9, 16)] {
            let before = parts.values("w2.path");
            let mut feeds = rows(from, to);
            feeds.push(("micro_batch_weight", scalar((to - from) as f32 / 16.0)));
            feeds.push(("micro_batch_last", scalar(if to == 16 { 1.0 } else { 0.0 })));
            parts.step(&feeds);
            assert_eq!(parts.values("w2.path") == before, to < 16);
        }
    }
    for name in NAMES {
        assert_close(&parts.values(&path(name)), &whole.values(&path(name)), 1e-3, name);
    }
}

#[test]
fn a_step_that_overflows_leaves_paths_as_they_are() {
    let graph = plain();
    let half = TrainSpec {
        path_integral: true,
        precision: Precision::Float16(LossScale::default()),
        ..spec(&graph, SGD)
    };
    let mut trainer = Trainer::new(&derive(&graph, &half).unwrap());
    trainer.step(&rows(0, 16));
    let before = trainer.values("w1.path");
    assert!(before.iter().any(|&v| v != 0.0));
    // ONNX Runtime computes float16 graphs in float32 on the CPU, so it takes this much to overflow.
    trainer.state.insert(LOSS_SCALE.to_owned(), scalar(3e38));
    let mut feeds = rows(0, 16);
    let labels: Vec<f32> = feeds[1].1.to_f32().unwrap().iter().map(|v| v * 100.0).collect();
    feeds[1].1 = Tensor::from_f32(&[16, 3], &labels);
    let outputs = trainer.step(&feeds);
    assert!(!value(&outputs, "grad_norm").is_finite());
    assert_eq!(trainer.values("w1.path"), before);
}
