//! ONNX Runtime trains, tract evaluates: on every network of the zoo they must say the same.

use std::fs;

use dkt_agent::eval::evaluator::Evaluator;
use dkt_agent::train::device::Device;
use dkt_agent::train::runtime::{Scalars, TrainSession};
use dkt_models::DualHead;
use dkt_models::step::{StepOptions, TrainingStep};
use dkt_models::zoo::{self, BuildOptions, Network};
use dkt_tests::config;
use dkt_tests::process::run;

use crate::dkt;

/// Rows of a mini-batch: the fewest of which batch normalisation can learn something.
const BATCH: usize = 2;
const STEPS: usize = 3;
/// Largest difference of two logits.
const TOLERANCE: f32 = 1e-4;

/// Distinct images, the same every time.
fn images(step: &TrainingStep) -> Vec<f32> {
    let n = BATCH * step.input_dims.iter().product::<usize>();
    (0..n).map(|i| ((i * 7919) % 97) as f32 / 48.5 - 1.0).collect()
}

fn train(session: &mut TrainSession, images: &[f32], n_classes: usize) {
    let scalars = Scalars { distill_weight: 0.5, temperature: 2.0, ..Scalars::PLAIN };
    for _ in 0..STEPS {
        let batch = session.batch_mut(BATCH).unwrap();
        batch.input.copy_from_slice(images);
        batch.labels.fill(0.0);
        (0..BATCH).for_each(|row| batch.labels[row * n_classes + row] = 1.0);
        (0..).zip(&mut *batch.teacher_logits).for_each(|(i, logit)| *logit = (i % 17) as f32 / 8.0 - 1.0);
        batch.teacher_weight.fill(1.0);
        session.step(&scalars).unwrap();
    }
}

/// The largest difference between the logits of both runtimes, for the network as it is now.
fn difference(session: &mut TrainSession, step: &TrainingStep, images: &[f32]) -> f32 {
    let exported = step.export(&session.state().unwrap()).unwrap().encode();
    let tract = Evaluator::new(&exported, step.input_dims, BATCH).unwrap().logits(images).unwrap();
    let ort = session.logits(BATCH, |input| input.copy_from_slice(images)).unwrap();
    let pairs = |a: &[f32], b: &[f32]| {
        assert_eq!((a.len(), b.len()), (BATCH * step.n_classes, BATCH * step.n_classes));
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    pairs(&tract[0], &ort.cl).max(pairs(&tract[1], &ort.student))
}

fn check(network: &Network) {
    let options = BuildOptions { seed: 1, classes: network.classes, input: network.input };
    let model = DualHead::from_graph(zoo::build(network.name, &options).unwrap()).unwrap();
    let step = TrainingStep::derive(&model, &StepOptions::default()).unwrap();
    let mut session = TrainSession::new(&step, Device::Cpu, 1).unwrap();
    let images = images(&step);
    let untrained = session.logits(BATCH, |input| input.copy_from_slice(&images)).unwrap();
    let before = difference(&mut session, &step, &images);
    train(&mut session, &images, step.n_classes);
    let after = difference(&mut session, &step, &images);
    let trained = session.logits(BATCH, |input| input.copy_from_slice(&images)).unwrap();
    assert_ne!(untrained, trained, "{}: training changes nothing", network.name);
    assert!(before <= TOLERANCE, "{}: logits differ by {before} before training", network.name);
    assert!(after <= TOLERANCE, "{}: logits differ by {after} after training", network.name);
}

/// Those that take most of the time, so that the zoo is checked in two halves at once.
fn is_wide(network: &&Network) -> bool {
    ["resnet18", "resnet34"].contains(&network.name)
}

#[test]
fn both_runtimes_agree_on_every_narrow_network_before_and_after_training() {
    zoo::list().iter().filter(|network| !is_wide(network)).for_each(check);
}

#[test]
fn both_runtimes_agree_on_every_wide_network_before_and_after_training() {
    zoo::list().iter().filter(is_wide).for_each(check);
}

#[test]
fn the_runtime_leaves_no_trace_of_telemetry() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config::alone(folder.path(), "alice");
    config.train.epochs = 1;
    let file = config::write(folder.path(), &config);
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    let mut command = dkt(["run".as_ref(), file.as_os_str()]);
    // The program must see to it by itself, whatever the machine's settings.
    command.env_remove("ORT_DISABLE_TELEMETRY").env("HOME", &home).env("TMPDIR", &home);
    for variable in
        ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"]
    {
        command.env_remove(variable);
    }
    let output = run(command);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let left: Vec<_> = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "it left {left:?}");
}
