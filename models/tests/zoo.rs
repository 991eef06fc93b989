//! Every network of the zoo: built, derived, trained a few steps on ONNX Runtime.

#![allow(clippy::unwrap_used)]

#[path = "../onnx-grad/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use dkt_models::heads::{AttachOptions, attach_heads};
use dkt_models::step::{Distillation, StepOptions, TrainingStep};
use dkt_models::zoo::{self, BuildOptions, Network};
use dkt_models::{DualHead, ModelError};
use glob::Pattern;
use onnx_grad::graph::{Graph, Tensor};
use onnx_grad::{LossScale, Precision, Recompute};
use support::Runner;

fn build(network: &Network, seed: u64) -> Graph {
    let options = BuildOptions { seed, classes: network.classes, input: network.input };
    zoo::build(network.name, &options).unwrap()
}

fn model(name: &str) -> DualHead {
    DualHead::from_graph(build(zoo::find(name).unwrap(), 1)).unwrap()
}

/// A mini-batch with distinct images, labels and teachers.
fn batch(step: &TrainingStep, n: usize) -> Vec<(&'static str, Tensor)> {
    let [c, h, w] = step.input_dims;
    let k = step.n_classes;
    let pixels: Vec<f32> = (0..n * c * h * w).map(|i| ((i * 7919) % 97) as f32 / 48.5 - 1.0).collect();
    let mut labels = vec![0.0; n * k];
    (0..n).for_each(|row| labels[row * k + row % k] = 1.0);
    let teacher: Vec<f32> = (0..n * k).map(|i| ((i * 31) % 17) as f32 / 8.0 - 1.0).collect();
    vec![
        ("input", Tensor::from_f32(&[n, c, h, w], &pixels)),
        ("labels", Tensor::from_f32(&[n, k], &labels)),
        ("teacher_logits", Tensor::from_f32(&[n, k], &teacher)),
        ("teacher_weight", Tensor::from_f32(&[n], &vec![1.0; n])),
    ]
}

fn scalar(value: f32) -> Tensor {
    Tensor::from_f32(&[], &[value])
}

struct Trainer {
    runner: Runner,
    state: BTreeMap<String, Tensor>,
    n_steps: u32,
}

impl Trainer {
    fn new(step: &TrainingStep) -> Self {
        let state = step.state.iter().map(|s| (s.name.clone(), s.init.clone())).collect();
        Trainer { runner: Runner::new(&step.train), state, n_steps: 0 }
    }

    /// Trains one step; the losses (`loss`, `loss.cl`, `loss.st`).
    fn step(&mut self, batch: &[(&str, Tensor)]) -> [f32; 3] {
        self.n_steps += 1;
        let mut feeds = batch.to_vec();
        feeds.extend([
            ("learning_rate", scalar(1e-3)),
            ("distill_weight", scalar(0.5)),
            ("temperature", scalar(2.0)),
            ("step", scalar(self.n_steps as f32)),
        ]);
        feeds.extend(self.state.iter().map(|(name, t)| (name.as_str(), t.clone())));
        let outputs = self.runner.run(&feeds);
        for (name, tensor) in &mut self.state {
            *tensor = outputs[&format!("{name}.next")].clone();
        }
        ["loss", "loss.cl", "loss.st"].map(|name| outputs[name].to_f32().unwrap()[0])
    }
}

#[test]
fn slim_resnet18_has_as_many_parameters_as_published() {
    assert_eq!(model("slim-resnet18").n_parameters(), 1_125_340);
}

#[test]
fn every_network_takes_images_of_other_sizes_and_refuses_those_too_small() {
    for network in zoo::list() {
        let sized = |input| zoo::build(network.name, &BuildOptions { seed: 1, classes: 3, input });
        for input in [[1, 28, 28], [3, 8, 8], [2, 13, 40]] {
            let model = DualHead::from_graph(sized(input).unwrap()).unwrap();
            assert_eq!(model.input_dims(), input, "{}", network.name);
        }
        for input in [[1, 7, 8], [1, 8, 7], [0, 8, 8]] {
            assert!(matches!(sized(input), Err(ModelError::InputTooSmall { .. })), "{}", network.name);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for network in zoo::list() {
        let graph = build(network, 5);
        assert_eq!(graph.encode(), build(network, 5).encode(), "{}", network.name);
        assert_ne!(graph.encode(), build(network, 6).encode(), "{}", network.name);
        assert_eq!(Graph::decode(&graph.encode()).unwrap(), graph, "{}", network.name);
    }
}

#[test]
fn the_committed_digits_network_is_what_the_builder_makes() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo/digits-cnn.onnx");
    let built = build(zoo::find("digits-cnn").unwrap(), 0).encode();
    assert_eq!(std::fs::read(path).unwrap(), built, "renew it with `dkt model build digits-cnn`");
}

#[test]
fn every_network_learns_a_mini_batch() {
    for network in zoo::list() {
        let model = DualHead::from_graph(build(network, 1)).unwrap();
        let step = TrainingStep::derive(&model, &StepOptions::default()).unwrap();
        assert!(step.train.nodes.iter().all(|n| n.domain.is_empty()));
        let mut trainer = Trainer::new(&step);
        let batch = batch(&step, 4);
        let first = trainer.step(&batch);
        let mut last = first;
        for _ in 0..3 {
            last = trainer.step(&batch);
        }
        assert!(last[0] < first[0], "{}: loss went from {first:?} to {last:?}", network.name);
    }
}

#[test]
fn both_forms_of_the_forward_graph_agree_after_training() {
    let model = model("digits-cnn");
    let step = TrainingStep::derive(&model, &StepOptions::default()).unwrap();
    let mut trainer = Trainer::new(&step);
    let batch = batch(&step, 5);
    trainer.step(&batch);
    let exported = support::run(&step.export(&trainer.state).unwrap(), &batch);
    let mut feeds = batch.clone();
    feeds.extend(trainer.state.iter().map(|(name, t)| (name.as_str(), t.clone())));
    let bound = support::run(&step.evaluate, &feeds);
    for head in ["cl_logits", "st_logits"] {
        // The runtime folds constant parameters into its own forms, so the last bits differ.
        let pairs = exported[head].to_f32().unwrap().into_iter().zip(bound[head].to_f32().unwrap());
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-5), "{head}: {:?}", pairs.collect::<Vec<_>>());
    }
}

#[test]
fn rows_without_a_teacher_have_no_influence_on_the_student_head() {
    for distill in [Distillation::Mse, Distillation::kl()] {
        let options = StepOptions { distill, ..StepOptions::default() };
        let step = TrainingStep::derive(&model("digits-cnn"), &options).unwrap();
        let mut untaught = batch(&step, 4);
        untaught[3].1 = Tensor::from_f32(&[4], &[0.0; 4]);
        let mut trainer = Trainer::new(&step);
        let head = trainer.state["student_head.weight"].clone();
        let losses = trainer.step(&untaught);
        assert_eq!(losses[2], 0.0, "{distill:?}");
        assert_eq!(trainer.state["student_head.weight"], head, "{distill:?}");

        let mut other_teacher = batch(&step, 4);
        other_teacher[3].1 = Tensor::from_f32(&[4], &[1.0, 1.0, 0.0, 1.0]);
        let a = Trainer::new(&step).step(&other_teacher);
        let mut logits = other_teacher[2].1.to_f32().unwrap();
        logits[20..30].fill(9.0);
        other_teacher[2].1 = Tensor::from_f32(&[4, 10], &logits);
        assert_eq!(Trainer::new(&step).step(&other_teacher), a, "{distill:?}: a masked row was read");
    }
}

#[test]
fn frozen_parameters_stay_and_unknown_patterns_are_refused() {
    let options = StepOptions { freeze: vec![Pattern::new("conv1*").unwrap()], ..StepOptions::default() };
    let step = TrainingStep::derive(&model("digits-cnn"), &options).unwrap();
    assert!(!step.state.iter().any(|s| s.name.starts_with("conv1")));
    let options = StepOptions { freeze: vec![Pattern::new("layer9*").unwrap()], ..StepOptions::default() };
    let error = TrainingStep::derive(&model("digits-cnn"), &options).unwrap_err();
    assert!(matches!(error, ModelError::NoSuchParameter { pattern } if pattern == "layer9*"));
}

/// The digits network with its student head taken off: an ordinary classifier.
fn classifier() -> Graph {
    let mut graph = build(zoo::find("digits-cnn").unwrap(), 3);
    graph.nodes.retain(|n| !n.outputs.iter().any(|o| o == "st_logits"));
    graph.outputs.retain(|o| o.name == "cl_logits");
    graph.initializers.retain(|name, _| !name.starts_with("student_head"));
    graph
}

#[test]
fn attached_heads_keep_the_classifier_where_the_classes_are_the_same() {
    let classifier = classifier();
    let grown = DualHead::from_graph(attach_heads(&classifier, &AttachOptions::default()).unwrap()).unwrap();
    assert_eq!(grown.n_classes(), 10);
    let image = Tensor::from_f32(&[1, 1, 8, 8], &[0.25; 64]);
    let before = support::run(&classifier, &[("input", image.clone())]);
    let after = support::run(grown.graph(), &[("input", image)]);
    assert_eq!(before["cl_logits"], after["cl_logits"]);

    let options = AttachOptions { classes: Some(3), seed: 1 };
    let other = DualHead::from_graph(attach_heads(&classifier, &options).unwrap()).unwrap();
    assert_eq!(other.n_classes(), 3);
    assert!(matches!(
        attach_heads(grown.graph(), &AttachOptions::default()),
        Err(ModelError::AlreadyDualHead)
    ));
}

/// Loss and gradient norm of a first step, and the state after it.
fn first_step(network: &str, options: &StepOptions) -> (f32, f32, BTreeMap<String, Tensor>) {
    let step = TrainingStep::derive(&model(network), options).unwrap();
    let mut trainer = Trainer::new(&step);
    let mut feeds = batch(&step, 4);
    feeds.extend([
        ("learning_rate", scalar(1e-3)),
        ("distill_weight", scalar(0.5)),
        ("temperature", scalar(2.0)),
        ("step", scalar(1.0)),
    ]);
    feeds.extend(trainer.state.iter().map(|(name, t)| (name.as_str(), t.clone())));
    let mut outputs = trainer.runner.run(&feeds);
    let value = |name: &str| outputs[name].to_f32().unwrap()[0];
    let (loss, norm) = (value("loss"), value("grad_norm"));
    for (name, tensor) in &mut trainer.state {
        *tensor = outputs.remove(&format!("{name}.next")).unwrap();
    }
    (loss, norm, trainer.state)
}

#[test]
fn recomputation_gives_the_same_step_to_the_bit() {
    for network in ["digits-cnn", "mobilenet-v2"] {
        let plain = first_step(network, &StepOptions::default());
        let again = StepOptions { recompute: Recompute::Parts(4), ..StepOptions::default() };
        assert!(first_step(network, &again) == plain, "{network}");
    }
}

#[test]
fn half_precision_steps_are_close_to_full_ones() {
    for network in ["digits-cnn", "vit-lite"] {
        let (loss, norm, _) = first_step(network, &StepOptions::default());
        let half =
            StepOptions { precision: Precision::Float16(LossScale::default()), ..StepOptions::default() };
        let (half_loss, half_norm, state) = first_step(network, &half);
        assert!((half_loss - loss).abs() < 5e-3 * loss, "{network}: loss {half_loss} and {loss}");
        assert!((half_norm - norm).abs() < 2e-2 * norm, "{network}: norm {half_norm} and {norm}");
        assert!((half_loss, half_norm) != (loss, norm), "{network}: nothing was rounded");
        assert_eq!(state["loss_scale"].to_f32().unwrap(), [65_536.0]);
    }
}
