//! Strategies beside PyTorch and avalanche-lib: the same network, the same mini-batches, the same losses and
//! parameters after them (`agent/data/fixtures/strategies`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use dkt_agent::config::AgentConfig;
use dkt_agent::strategy::importance::{self, Fisher};
use dkt_agent::strategy::{ALPHA, BETA, DAMPING, DECAY, Importance, LAMBDA, Retention, TEMPERATURE};
use dkt_agent::train::device::Device;
use dkt_agent::train::runtime::{ImportanceSession, Scalars, StepReport, TrainSession};
use dkt_models::DualHead;
use dkt_models::step::TrainingStep;
use dkt_tests::repository;
use onnx_grad::graph::Graph;
use safetensors::SafeTensors;
use serde_json::Value;

const CLASSES: usize = 10;
/// The promise: losses and parameters agree within this, relative to the largest value.
const TOLERANCE: f64 = 1e-4;

fn file(name: &str) -> PathBuf {
    repository("agent/data/fixtures/strategies").join(name)
}

struct Oracle {
    name: &'static str,
    description: Value,
    tensors: BTreeMap<String, Vec<f32>>,
}

impl Oracle {
    fn read(name: &'static str) -> Self {
        let description = serde_json::from_slice(&fs::read(file(&format!("{name}.json"))).unwrap()).unwrap();
        let bytes = fs::read(file(&format!("{name}.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter();
        let floats = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let tensors = tensors.map(|(name, tensor)| (name, floats(tensor.data()))).collect();
        Oracle { name, description, tensors }
    }

    /// Classes of the experiences before this one.
    fn earlier(&self, experience: usize) -> Vec<Vec<u16>> {
        let classes: Vec<Vec<u16>> = serde_json::from_value(self.description["classes"].clone()).unwrap();
        classes[..experience].to_vec()
    }

    /// Tensors whose names begin so, by the rest of their names.
    fn group(&self, prefix: &str) -> BTreeMap<&str, &[f32]> {
        let named = self.tensors.iter().filter_map(|(n, v)| Some((n.strip_prefix(prefix)?, v.as_slice())));
        named.collect()
    }

    /// An agent's configuration with that strategy and the oracle's optimiser.
    fn config(&self, strategy: &str) -> AgentConfig {
        let optimizer = &self.description["optimizer"];
        let optimizer = match optimizer["name"].as_str().unwrap() {
            "sgd" => format!("{{ name = \"sgd\", momentum = {} }}", optimizer["momentum"]),
            "adam" => format!("{{ name = \"adam\", eps = {} }}", optimizer["eps"]),
            other => panic!("optimiser {other}"),
        };
        let text = format!(
            "agent = \"a\"\nfleet = \"f\"\n[train]\nclip_norm = 0.0\noptimizer = {optimizer}\n{strategy}"
        );
        toml::from_str(&text).unwrap()
    }
}

/// Largest difference relative to the largest expected value.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f64, |m, v| m.max(f64::from(v.abs())));
    let pairs = found.iter().zip(expected);
    pairs.map(|(f, e)| f64::from((f - e).abs())).fold(0.0, f64::max) / largest.max(1e-12)
}

fn assert_loss(found: f32, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("{what}"));
    let close = (f64::from(found) - expected).abs() <= TOLERANCE * expected.abs().max(1e-3);
    assert!(close, "{what}: expected {expected}, found {found}");
}

/// An agent's strategy without its stream: the mini-batches are the oracle's.
struct Run<'a> {
    oracle: &'a Oracle,
    config: AgentConfig,
    session: TrainSession,
    importance: Option<ImportanceSession>,
    contributions: BTreeMap<String, Vec<f32>>,
    excluded: BTreeSet<String>,
}

impl<'a> Run<'a> {
    fn new(oracle: &'a Oracle, strategy: &str) -> Self {
        let config = oracle.config(strategy);
        let graph = Graph::read(&file("network.onnx")).unwrap();
        let excluded = importance::normalization_parameters(&graph);
        let step =
            TrainingStep::derive(&DualHead::from_graph(graph).unwrap(), &config.step_options()).unwrap();
        let session = TrainSession::new(&step, Device::Cpu, 1).unwrap();
        let importance = step.importance.as_ref().map(|g| ImportanceSession::new(g, &session, 1).unwrap());
        Run { oracle, config, session, importance, contributions: BTreeMap::new(), excluded }
    }

    fn constant(&self, constant: &dkt_agent::strategy::Constant) -> f32 {
        let has = self.config.strategy.strategy().constants.iter().any(|c| c.name == constant.name);
        if has { self.config.strategy.get(constant) as f32 } else { 0.0 }
    }

    fn asks_past_network(&self) -> bool {
        use Retention::{PastNetwork, PastNetworkByExperience};
        matches!(self.config.strategy.strategy().retention, PastNetwork | PastNetworkByExperience)
    }

    /// Makes a step's mini-batch the current one, weighed as the strategy weighs it.
    fn fill(&mut self, at: &str, n_new: usize, n: usize) {
        let tensor = |name: &str| self.oracle.tensors.get(&format!("{at}.{name}"));
        let weights =
            self.config.strategy.strategy().row_weights([n_new, n - n_new, 0], self.constant(&BETA));
        let asks_past_network = self.asks_past_network();
        let batch = self.session.batch_mut(n).unwrap();
        batch.input.copy_from_slice(tensor("input").unwrap());
        batch.labels.copy_from_slice(tensor("labels").unwrap());
        for (row, labels) in batch.labels.chunks_exact_mut(CLASSES).enumerate() {
            labels.iter_mut().for_each(|l| *l *= weights.labels[usize::from(row >= n_new)]);
        }
        batch.teacher_weight.fill(0.0);
        if let (Some(logits), Some(weight)) = (tensor("teacher_logits"), tensor("teacher_weight")) {
            batch.teacher_logits.copy_from_slice(logits);
            batch.teacher_weight.copy_from_slice(weight);
        }
        batch.past_logits.fill(0.0);
        for (row, weight) in batch.past_weight.iter_mut().enumerate() {
            *weight = weights.past[usize::from(row >= n_new)];
        }
        let stored = tensor("past_logits");
        if asks_past_network {
            if self.session.has_past() {
                self.session.label_by_past().unwrap();
                let found = self.session.batch_mut(n).unwrap().past_logits;
                assert!(difference(found, stored.unwrap()) < TOLERANCE, "past logits at {at}");
            } else {
                batch_without_past(&mut self.session, n);
            }
        } else if let Some(stored) = stored.filter(|_| !batch.past_logits.is_empty()) {
            batch.past_logits.copy_from_slice(stored);
        }
    }

    fn step(&mut self, learning_rate: f32, distill: (f32, f32)) -> StepReport {
        let scalars = Scalars {
            learning_rate,
            distill_weight: distill.0,
            temperature: distill.1,
            retention_weight: self.constant(&ALPHA),
            retention_temperature: self.constant(&TEMPERATURE).max(1e-3),
            penalty_weight: self.constant(&LAMBDA) * self.config.strategy.strategy().penalty_factor(),
            gradient_noise: 0.0,
        };
        self.session.step(&scalars).unwrap()
    }

    fn consolidate(&mut self, experience: usize) {
        let strategy = self.config.strategy.strategy();
        let state = self.session.state().unwrap();
        let written = match strategy.importance {
            Importance::None => BTreeMap::new(),
            Importance::PathIntegral => {
                let damping = self.constant(&DAMPING);
                importance::consolidate_path(&state, &mut self.contributions, &self.excluded, damping)
                    .unwrap()
            }
            Importance::Fisher | Importance::OnlineFisher => {
                let online = strategy.importance == Importance::OnlineFisher;
                let fisher = self.fisher(experience);
                let decay = online.then(|| self.constant(&DECAY));
                importance::consolidate_fisher(&state, &fisher, decay).unwrap()
            }
        };
        self.session.write(&written).unwrap();
        if self.asks_past_network() {
            self.session.keep_past().unwrap();
        }
    }

    /// Over the experience's mini-batches once more.
    fn fisher(&mut self, experience: usize) -> BTreeMap<String, Vec<f32>> {
        let mut importance = self.importance.take().unwrap();
        let mut fisher = Fisher::default();
        for step in self.oracle.description["steps"].as_array().unwrap() {
            if step["experience"] == experience {
                let n = step["n_rows"].as_u64().unwrap() as usize;
                self.fill(&format!("exp{experience}.step{}", step["step"]), n, n);
                fisher.add(&importance.gradients(&mut self.session).unwrap());
            }
        }
        let means = fisher.means(importance.names());
        self.importance = Some(importance);
        means
    }

    fn assert_state(&self, prefix: &str) {
        let state = self.session.state().unwrap();
        let expected = self.oracle.group(prefix);
        assert!(expected.len() >= 12, "{}: {} tensors of {prefix}", self.oracle.name, expected.len());
        for (name, expected) in expected {
            let found = difference(&state[name].to_f32().unwrap(), expected);
            assert!(found < TOLERANCE, "{}: {prefix}{name} is off by {found:e}", self.oracle.name);
        }
    }
}

fn batch_without_past(session: &mut TrainSession, n: usize) {
    session.batch_mut(n).unwrap().past_weight.fill(0.0);
}

/// Runs all of the oracle's steps and compares the losses and the state at every end.
///
/// `compare` gets each step's report, the oracle's losses, and where it is.
fn agrees(
    name: &'static str,
    strategy: &str,
    distill: (f32, f32),
    compare: impl Fn(&StepReport, &Value, &str),
) {
    let oracle = Oracle::read(name);
    let mut run = Run::new(&oracle, strategy);
    if run.config.strategy.strategy().importance == Importance::PathIntegral {
        let anchors = importance::anchor(&run.session.state().unwrap()).unwrap();
        run.session.write(&anchors).unwrap();
    }
    let steps = oracle.description["steps"].as_array().unwrap();
    assert!(steps.len() >= 20 || name.starts_with("eeil"), "{name}: {} steps", steps.len());
    let (mut experience, mut stage) = (0, "train");
    for step in steps {
        let now = step["experience"].as_u64().unwrap() as usize;
        if now != experience {
            run.assert_state(&format!("exp{experience}.end."));
            run.consolidate(experience);
            assert_importances(&run, experience);
            (experience, stage) = (now, "train");
            set_groups(&mut run, experience);
        }
        if step["stage"].as_str().unwrap() != stage {
            stage = step["stage"].as_str().unwrap();
            run.session.keep_past().unwrap();
            run.session.reset_optimizer().unwrap();
            set_groups(&mut run, experience + 1);
        }
        let number = |key: &str| step[key].as_u64().unwrap() as usize;
        let at = format!("exp{experience}.step{}", number("step"));
        run.fill(&at, number("n_current"), number("n_rows"));
        let report = run.step(step["learning_rate"].as_f64().unwrap() as f32, distill);
        compare(&report, &step["losses"], &format!("{name} {at}"));
    }
    run.assert_state("final.");
}

fn set_groups(run: &mut Run<'_>, until: usize) {
    let earlier = run.oracle.earlier(until);
    let earlier: Vec<&[u16]> = earlier.iter().map(Vec::as_slice).collect();
    let groups = run.config.strategy.strategy().past_groups(&earlier, false);
    run.session.set_past_groups(&groups).unwrap();
}

/// Importances of all earlier experiences together, where the oracle has them in one.
fn assert_importances(run: &Run<'_>, experience: usize) {
    let expected = run.oracle.group(&format!("exp{experience}.importance."));
    let is_sum = run.config.strategy.strategy().importance != Importance::Fisher || experience == 0;
    let state = run.session.state().unwrap();
    for (name, expected) in expected.into_iter().filter(|_| is_sum) {
        let Some(found) = state.get(&format!("{name}.importance")) else {
            assert!(expected.iter().all(|v| *v == 0.0), "{}: no importance of {name}", run.oracle.name);
            continue;
        };
        let found = difference(&found.to_f32().unwrap(), expected);
        // Squares, and quotients by squares near 0, of what agrees within the tolerance.
        assert!(found < 100.0 * TOLERANCE, "{}: importance of {name} is off by {found:e}", run.oracle.name);
    }
}

fn whole_and_labels(report: &StepReport, losses: &Value, at: &str) {
    assert_loss(report.loss, &losses["loss"], at);
    if losses["past_cl"].is_null() {
        assert_loss(report.loss_cl, &losses["cl"], at);
    }
}

#[test]
fn naive_and_replay_agree_with_avalanche() {
    agrees("naive", "[strategy]\nname = \"naive\"", (0.0, 1.0), whole_and_labels);
    agrees("naive_adam", "[strategy]\nname = \"naive\"", (0.0, 1.0), whole_and_labels);
    agrees("replay", "[strategy]\nname = \"replay\"", (0.0, 1.0), whole_and_labels);
}

#[test]
fn learning_without_forgetting_agrees_with_avalanche() {
    let strategy = "[strategy]\nname = \"lwf\"\nalpha = 1.5\ntemperature = 2";
    agrees("lwf", strategy, (0.0, 1.0), |report, losses, at| {
        whole_and_labels(report, losses, at);
        if let Some(past) = losses.get("past") {
            assert_loss(report.loss_retention, past, at);
        }
    });
}

#[test]
fn dark_experience_replay_agrees_with_avalanche() {
    for (name, strategy) in [
        ("der", "[strategy]\nname = \"der\"\nalpha = 0.5"),
        ("der_pp", "[strategy]\nname = \"der++\"\nalpha = 0.5\nbeta = 0.5"),
    ] {
        agrees(name, strategy, (0.0, 1.0), |report, losses, at| {
            assert_loss(report.loss, &losses["loss"], at);
            if let Some(past) = losses.get("past") {
                assert_loss(report.loss_retention, past, at);
            }
        });
    }
}

#[test]
fn elastic_weight_consolidation_agrees_with_avalanche() {
    // The penalties of several experiences are one, and their sum lacks a constant.
    agrees("ewc", "[strategy]\nname = \"ewc\"\nlambda = 8", (0.0, 1.0), |report, losses, at| {
        assert_loss(report.loss_cl, &losses["cl"], at);
    });
    let online = "[strategy]\nname = \"online-ewc\"\nlambda = 128\ndecay = 0.5";
    agrees("ewc_online", online, (0.0, 1.0), |report, losses, at| {
        whole_and_labels(report, losses, at);
        if let Some(penalty) = losses.get("penalty") {
            assert_loss(report.loss_penalty, penalty, at);
        }
    });
}

#[test]
fn synaptic_intelligence_agrees_with_avalanche() {
    for (name, lambda, damping) in [("si", 1024, 0.1), ("si_default", 8192, 1e-7)] {
        let strategy = format!("[strategy]\nname = \"si\"\nlambda = {lambda}\ndamping = {damping:?}");
        agrees(name, &strategy, (0.0, 1.0), |report, losses, at| {
            whole_and_labels(report, losses, at);
            if let Some(penalty) = losses.get("penalty") {
                assert_loss(report.loss_penalty, penalty, at);
            }
        });
    }
}

#[test]
fn end_to_end_incremental_learning_agrees_with_the_paper() {
    agrees("eeil", "[strategy]\nname = \"eeil\"\nnoise_eta = 0", (0.0, 1.0), |report, losses, at| {
        assert_loss(report.loss_cl, &losses["cl"], at);
        let parts = losses.as_object().unwrap().iter().filter(|(name, _)| name.starts_with("past_kl."));
        let sum: f64 = parts.map(|(_, loss)| loss.as_f64().unwrap()).sum();
        assert_loss(report.loss_retention, &sum.into(), at);
    });
}

#[test]
fn knowledge_transfer_on_top_of_replay_agrees_with_pytorch() {
    let with_student = |report: &StepReport, losses: &Value, at: &str| {
        whole_and_labels(report, losses, at);
        assert_loss(report.loss_st, &losses["st"], at);
    };
    agrees("dkt_mse", "[strategy]\nname = \"replay\"", (0.5, 1.0), with_student);
    let kl = "[train.distill]\nloss = \"kl\"\n[strategy]\nname = \"replay\"";
    agrees("dkt_kl", kl, (5.0, 2.0), with_student);
}
