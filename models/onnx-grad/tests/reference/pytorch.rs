//! Whole training steps against PyTorch: `models/export/reference/make.py` wrote what is read here.

use std::collections::BTreeMap;

use crate::fixture::{self, TOLERANCE, difference, size};
use crate::support::Runner;
use onnx_grad::graph::{DataType, Graph, Tensor};
use onnx_grad::loss::{self, Reduction};
use onnx_grad::{BatchNorm, Builder, Clip, GradError, Optimizer, TrainSpec, check, derive};

const EXPORTERS: [&str; 4] = ["script17", "train17", "dynamo18", "dynamo20"];
const N_STEPS: usize = 5;
const DISTILL_WEIGHT: f32 = 0.5;
const TEMPERATURE: f32 = 2.0;
const CLIP_NORM: f32 = 5.0;

#[test]
fn mlp_trains_as_in_pytorch() {
    verify("mlp");
}

#[test]
fn digits_cnn_trains_as_in_pytorch() {
    verify("digits_cnn");
}

#[test]
fn resnet_trains_as_in_pytorch() {
    verify("resnet");
}

fn verify(network: &str) {
    let fixture = Fixture::read(network);
    for exporter in EXPORTERS {
        let forward = Graph::read(&fixture::folder().join(format!("{network}.{exporter}.onnx"))).unwrap();
        for (case, optimizer, learning_rate) in cases() {
            let context = format!("{network} {exporter} {case}");
            let graph = with_loss(forward.clone(), case).unwrap_or_else(|e| panic!("{context}: {e}"));
            verify_gradients(&fixture, &graph, case, &context);
            verify_steps(&fixture, &graph, case, optimizer, learning_rate, &context);
        }
    }
}

fn cases() -> [(&'static str, Optimizer, f32); 3] {
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    let adamw = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    [("mse.sgd", sgd, 0.05), ("mse.adam", Optimizer::ADAM, 0.001), ("kl.adamw", adamw, 0.001)]
}

/// The exported network with the loss of both heads as `loss`, its terms as `loss.cl` and `loss.st`.
fn with_loss(forward: Graph, case: &str) -> Result<Graph, GradError> {
    let mut b = Builder::from_graph(forward)?;
    let rows = b.shape("cl_logits")?.clone();
    b.input("labels", DataType::F32, rows.clone())?;
    b.input("teacher_logits", DataType::F32, rows.clone())?;
    b.input("teacher_weight", DataType::F32, rows[..1].to_vec())?;
    b.input("distill_weight", DataType::F32, Vec::new())?;
    b.input("temperature", DataType::F32, Vec::new())?;
    let cl = loss::cross_entropy(&mut b, "cl_logits", "labels")?;
    let (student, teacher, weight) = ("st_logits", "teacher_logits", "teacher_weight");
    let st = if case.starts_with("mse") {
        loss::mse(&mut b, student, teacher, weight)?
    } else {
        loss::kl(&mut b, student, teacher, weight, "temperature", Reduction::Mean, false)?
    };
    b.op_named("Identity", &[&cl], &[], "loss.cl")?;
    b.op_named("Identity", &[&st], &[], "loss.st")?;
    let weighted = b.op("Mul", &[&st, "distill_weight"], &[])?;
    b.op_named("Add", &[&cl, &weighted], &[], "loss")?;
    Ok(b.finish())
}

fn verify_gradients(fixture: &Fixture, graph: &Graph, case: &str, context: &str) {
    let parameters = fixture.parameters(case);
    let names: Vec<&str> = parameters.iter().map(String::as_str).collect();
    let derived = check::gradients(graph, "loss", &names, BatchNorm::Train)
        .unwrap_or_else(|e| panic!("{context}: {e}"));
    let results = Runner::new(&derived).run(&fixture.batch(0));
    for name in &parameters {
        let expected = &fixture.0[&format!("{case}.grad.{name}")];
        assert_close(&results[&format!("{name}.grad")], expected, &format!("{context}: gradient of {name}"));
    }
}

fn verify_steps(
    fixture: &Fixture,
    graph: &Graph,
    case: &str,
    optimizer: Optimizer,
    learning_rate: f32,
    context: &str,
) {
    let spec = TrainSpec {
        clip: Some(Clip::Norm(CLIP_NORM)),
        outputs: ["loss.cl", "loss.st"].map(|name| (name.to_owned(), name.to_owned())).to_vec(),
        ..TrainSpec::new("loss", fixture.parameters(case), optimizer)
    };
    let training = derive(graph, &spec).unwrap_or_else(|e| panic!("{context}: {e}"));
    let mut state: BTreeMap<&str, Tensor> =
        training.state.iter().map(|s| (s.name.as_str(), s.init.clone())).collect();
    let mut runner = Runner::new(&training.graph);
    for step in 0..N_STEPS {
        let mut feeds = fixture.batch(step);
        feeds.push(("learning_rate", Tensor::from_f32(&[], &[learning_rate])));
        feeds.push(("step", Tensor::from_f32(&[], &[(step + 1) as f32])));
        feeds.extend(state.iter().map(|(name, tensor)| (*name, tensor.clone())));
        let mut results = runner.run(&feeds);
        let n = step + 1;
        for name in ["loss", "loss.cl", "loss.st", "grad_norm"] {
            let expected = fixture.0[&format!("{case}.{name}")].to_f32().unwrap()[step];
            let expected = Tensor::from_f32(&[], &[expected]);
            assert_close(&results[name], &expected, &format!("{context}: {name} of step {n}"));
        }
        for (name, tensor) in &mut state {
            *tensor = results.remove(&format!("{name}.next")).expect("the next state");
        }
        let after = format!("{case}.after{n}.");
        for (key, expected) in fixture.0.iter().filter(|(key, _)| key.starts_with(&after)) {
            let name = &key[after.len()..];
            assert_close(&state[name], expected, &format!("{context}: {name} after step {n}"));
        }
    }
}

fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.dims, expected.dims, "{what}");
    let (size, error) = (size(expected), difference(found, expected));
    assert!(error <= TOLERANCE * size, "{what}: off by {error:.2e} where {size:.2e} is the largest");
}

/// Named tensors that PyTorch computed.
struct Fixture(BTreeMap<String, Tensor>);

impl Fixture {
    fn read(network: &str) -> Self {
        Fixture(fixture::read(&fixture::folder().join(format!("{network}.safetensors"))))
    }

    fn parameters(&self, case: &str) -> Vec<String> {
        let prefix = format!("{case}.grad.");
        self.0.keys().filter_map(|key| key.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    fn batch(&self, step: usize) -> Vec<(&'static str, Tensor)> {
        let tensor = |name: &str| self.0[&format!("batch.{step}.{name}")].clone();
        vec![
            ("input", tensor("x")),
            ("labels", tensor("labels")),
            ("teacher_logits", tensor("teacher_logits")),
            ("teacher_weight", tensor("teacher_weight")),
            ("distill_weight", Tensor::from_f32(&[], &[DISTILL_WEIGHT])),
            ("temperature", Tensor::from_f32(&[], &[TEMPERATURE])),
        ]
    }
}
