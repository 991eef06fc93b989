//! What a training step can do beside the plain one, in the runtime and in whole agents.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dkt_agent::config::AgentConfig;
use dkt_agent::telemetry::event::Event;
use dkt_agent::train::device::Device;
use dkt_agent::train::runtime::{Part, RuntimeError, Scalars, StepCounts, StepReport, TrainSession};
use dkt_models::DualHead;
use dkt_models::step::{StepOptions, TrainingStep};
use dkt_models::zoo::{self, BuildOptions};
use dkt_tests::config;
use onnx_grad::graph::{Graph, Node, Tensor};
use onnx_grad::{BatchNorm, Dropout, LossScale, Precision};

use crate::start;

const SCALARS: Scalars =
    Scalars { learning_rate: 1e-2, distill_weight: 0.5, temperature: 2.0, ..Scalars::PLAIN };
const PIXELS: usize = 64;
const CLASSES: usize = 10;

/// The digits network with dropout before its heads.
fn with_dropout() -> Graph {
    let options = BuildOptions { seed: 3, classes: CLASSES, input: [1, 8, 8] };
    let mut graph = zoo::build("digits-cnn", &options).unwrap();
    let at = graph.nodes.iter().position(|n| n.op == "Flatten").unwrap();
    let features = graph.nodes[at].outputs[0].clone();
    for input in graph.nodes[at + 1..].iter_mut().flat_map(|n| &mut n.inputs) {
        if *input == features {
            "dropped".clone_into(input);
        }
    }
    graph.initializers.insert("ratio".to_owned(), Tensor::from_f32(&[], &[0.5]));
    let dropout = Node {
        name: "dropped".to_owned(),
        op: "Dropout".to_owned(),
        domain: String::new(),
        inputs: vec![features, "ratio".to_owned()],
        outputs: vec!["dropped".to_owned()],
        attributes: BTreeMap::new(),
    };
    graph.nodes.insert(at + 1, dropout);
    graph
}

fn session(options: &StepOptions) -> TrainSession {
    let model = DualHead::from_graph(with_dropout()).unwrap();
    TrainSession::new(&TrainingStep::derive(&model, options).unwrap(), Device::Cpu, 1).unwrap()
}

/// Trains on rows `from..to` of one fixed mini-batch.
fn rows(
    session: &mut TrainSession,
    (from, to): (usize, usize),
    part: &Part,
    brightness: f32,
) -> Result<StepReport, RuntimeError> {
    let batch = session.batch_mut(to - from).unwrap();
    for (row, n) in (from..to).enumerate() {
        for i in 0..PIXELS {
            let pixel = ((n * PIXELS + i) * 7919 % 97) as f32 / 48.5 - 1.0;
            batch.input[row * PIXELS + i] = pixel * brightness;
        }
        for k in 0..CLASSES {
            batch.labels[row * CLASSES + k] = f32::from(u8::from(n % CLASSES == k));
            batch.teacher_logits[row * CLASSES + k] = ((n + k) % 5) as f32 - 2.0;
        }
        batch.teacher_weight[row] = 1.0;
    }
    session.step_part(&SCALARS, part)
}

#[test]
fn parts_of_a_mini_batch_come_to_the_same_as_the_whole() {
    // Batch normalisation would see parts.
    let options = StepOptions { batch_norm: BatchNorm::Frozen, ..StepOptions::default() };
    let mut whole = session(&options);
    let mut parts = session(&StepOptions { accumulate: true, ..options });
    for step in 1..=3 {
        let expected = rows(&mut whole, (0, 10), &Part::WHOLE, 1.0).unwrap();
        let mut loss = 0.0;
        let mut norm = 0.0;
        for (from, to) in [(0, 4), (4, 8), (8, 10)] {
            let part = Part { weight: (to - from) as f32 / 10.0, is_last: to == 10, seed: 0 };
            let report = rows(&mut parts, (from, to), &part, 1.0).unwrap();
            loss += part.weight * report.loss;
            norm = report.grad_norm;
            assert_eq!(parts.n_steps(), if to == 10 { step } else { step - 1 });
        }
        assert!((loss - expected.loss).abs() < 1e-5 * expected.loss, "{loss} {}", expected.loss);
        assert!(
            (norm - expected.grad_norm).abs() < 1e-4 * expected.grad_norm,
            "{norm} {}",
            expected.grad_norm
        );
    }
    let (whole, parts) = (whole.state().unwrap(), parts.state().unwrap());
    for (name, tensor) in &whole {
        let (a, b) = (tensor.to_f32().unwrap(), parts[name].to_f32().unwrap());
        let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Adam divides by the gradient's size, so that rounding of small ones shows.
        assert!(far < 2e-4, "{name} differs by {far}");
    }
    assert!(
        parts
            .iter()
            .filter(|(n, _)| n.ends_with(".accumulated"))
            .all(|(_, t)| t.bytes.iter().all(|b| *b == 0))
    );
}

#[test]
fn dropout_follows_its_seed_through_a_saved_state() {
    let options = StepOptions { dropout: Dropout::Seeded, ..StepOptions::default() };
    let part = |seed| Part { seed, ..Part::WHOLE };
    let mut first = session(&options);
    for seed in [5, 6] {
        rows(&mut first, (0, 8), &part(seed), 1.0).unwrap();
    }
    let saved = first.state().unwrap();
    rows(&mut first, (0, 8), &part(7), 1.0).unwrap();
    let going_on = |seed| {
        let mut second = session(&options);
        second.restore(&saved, StepCounts { n_steps: 2, ..StepCounts::default() }).unwrap();
        rows(&mut second, (0, 8), &part(seed), 1.0).unwrap();
        second.state().unwrap()
    };
    assert!(going_on(7) == first.state().unwrap(), "the same, bit for bit");
    assert!(going_on(8) != first.state().unwrap(), "another seed");
}

#[test]
fn a_step_that_overflows_is_skipped_until_nothing_helps() {
    let scale = LossScale { init: f32::MAX / 2.0, growth_interval: 2000 };
    let options = StepOptions { precision: Precision::Float16(scale), ..StepOptions::default() };
    let mut session = session(&options);
    let before = session.state().unwrap();
    let report = rows(&mut session, (0, 8), &Part::WHOLE, 1.0).unwrap();
    assert!(report.skipped && report.loss.is_finite() && !report.grad_norm.is_finite(), "{report:?}");
    assert_eq!((session.n_steps(), session.counts().n_skipped), (1, 1));
    let after = session.state().unwrap();
    assert!(before.iter().filter(|(n, _)| !n.starts_with("loss_scale")).all(|(n, t)| after[n] == *t));
    assert_eq!(after["loss_scale"].to_f32().unwrap(), [f32::MAX / 4.0]);
    let mut lower = after;
    lower.insert("loss_scale".to_owned(), Tensor::from_f32(&[], &[1024.0]));
    session.restore(&lower, session.counts()).unwrap();
    assert!(!rows(&mut session, (0, 8), &Part::WHOLE, 1.0).unwrap().skipped, "a lower scale helps");
    assert_eq!((session.n_steps(), session.counts().n_skipped), (2, 1));
    assert!(session.state().unwrap()["conv1.weight"] != before["conv1.weight"]);
    let error = (0..100).find_map(|_| rows(&mut session, (0, 8), &Part::WHOLE, f32::NAN).err());
    assert!(matches!(error, Some(RuntimeError::NotFinite { .. })), "{error:?}");
}

/// Dropout, parts of mini-batches, groups, frozen parameters: whatever an agent on a CPU can be told.
fn everything(root: &Path) -> AgentConfig {
    let network = root.join("network.onnx");
    fs::write(&network, with_dropout().encode()).unwrap();
    let text = r#"
        epochs = 4
        dropout = true
        micro_batches = 3
        freeze = ["conv1*"]
        groups = [{ match = "cl_head*", learning_rate_factor = 0.5 }]
        decay_matrices_only = true
        recompute = 2
        optimizer = { name = "rmsprop", weight_decay = 0.01 }
        distill = { loss = "kl", reduction = "batchmean", scale_t2 = true }
    "#;
    let mut config = config::alone(root, "alice");
    config.train = toml::from_str(text).unwrap();
    config.model.network = network.display().to_string();
    config.checkpoint.every_steps = 10;
    config
}

#[test]
fn an_agent_with_every_option_goes_on_to_the_same_model() {
    let model = |root: &Path| fs::read(root.join("alice/model.onnx")).unwrap();
    let whole = tempfile::tempdir().unwrap();
    let ended = start(&everything(whole.path())).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let folder = tempfile::tempdir().unwrap();
    let mut agent = start(&everything(folder.path()));
    agent.wait_for("an experience", |event| matches!(event, Event::Evaluated(_)).then_some(()));
    agent.kill();
    agent.end();
    let resumed = start(&everything(folder.path())).end();
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert!(resumed.started().resumed_at_step > 0, "it began anew");
    assert!(model(folder.path()) == model(whole.path()), "it ended elsewhere");
    let trained = Graph::read(&folder.path().join("alice/model.onnx")).unwrap();
    let untrained = with_dropout();
    assert!(trained.initializers["conv1.weight"] == untrained.initializers["conv1.weight"], "frozen");
    assert!(trained.initializers["conv2.weight"] != untrained.initializers["conv2.weight"]);
}
