//! Small members of the families of networks that people train, against PyTorch:
//! `models/export/reference/architectures.py` wrote what is read here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::fixture::{self, TOLERANCE, difference, size};
use crate::support::Runner;
use onnx_grad::graph::{DataType, Graph, Tensor};
use onnx_grad::{BatchNorm, Builder, GradError, Optimizer, TrainSpec, check, derive, loss};

const N_STEPS: usize = 5;
/// Below this share of the network's largest gradient, in float64, a gradient is 0 but for rounding: that of a
/// bias before batch normalisation, for one.
const ZERO: f64 = 1e-12;

macro_rules! architectures {
    ($($name:ident)*) => {
        /// Every network, each with a test of its own.
        const NETWORKS: &[&str] = &[$(stringify!($name)),*];

        $(#[test]
        fn $name() {
            verify(stringify!($name));
        })*
    };
}

architectures! {
    convnext
    deit
    densenet
    efficientnet
    googlenet
    mlp_mixer
    mnasnet
    mobilenet_v2
    mobilenet_v3
    regnet
    resnet_basic
    resnet_bottleneck
    shufflenet_v2
    squeezenet
    swin
    swin_v2
    vgg
    vgg_bn
    vit
}

#[test]
fn every_exported_network_is_tested() {
    let found: BTreeSet<String> = files().into_iter().map(|(network, _)| network).collect();
    let tested: BTreeSet<String> = NETWORKS.iter().map(|&n| n.to_owned()).collect();
    assert_eq!(found, tested);
}

fn folder() -> PathBuf {
    fixture::folder().join("architectures")
}

/// (network, file name) of every exported graph.
fn files() -> Vec<(String, String)> {
    let names = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<(String, String)> = names
        .filter(|name| name.ends_with(".onnx"))
        .map(|name| (name.split('.').next().unwrap().to_owned(), name))
        .collect();
    files.sort();
    files
}

/// Every export of the network; all that fail are named.
fn verify(network: &str) {
    let expected = fixture::read(&folder().join(format!("{network}.safetensors")));
    let batches = fixture::read(&folder().join("batches.safetensors"));
    let mut failures = Vec::new();
    for (_, file) in files().into_iter().filter(|(n, _)| n == network) {
        match verify_file(&file, &expected, &batches) {
            Ok(error) => println!("{file}: largest relative error {error:.1e}"),
            Err(why) => failures.push(format!("{file}: {why}")),
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// The largest relative error, or what is wrong.
fn verify_file(
    file: &str,
    expected: &BTreeMap<String, Tensor>,
    batches: &BTreeMap<String, Tensor>,
) -> Result<f64, String> {
    let forward = Graph::read(&folder().join(file)).map_err(|e| e.to_string())?;
    let graph = with_loss(forward).map_err(|e| e.to_string())?;
    let mut errors = Errors(0.0);
    verify_gradients(&graph, expected, batches, &mut errors)?;
    let adamw = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-4, weight_decay: 0.01 };
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    for (case, optimizer, learning_rate) in [("sgd", sgd, 0.01), ("adamw", adamw, 0.001)] {
        verify_steps(&graph, (case, optimizer, learning_rate), expected, batches, &mut errors)?;
    }
    Ok(errors.0)
}

fn with_loss(forward: Graph) -> Result<Graph, GradError> {
    let mut b = Builder::from_graph(forward)?;
    let rows = b.shape("logits")?.clone();
    b.input("labels", DataType::F32, rows)?;
    let cross_entropy = loss::cross_entropy(&mut b, "logits", "labels")?;
    b.op_named("Identity", &[&cross_entropy], &[], "loss")?;
    Ok(b.finish())
}

fn parameters(expected: &BTreeMap<String, Tensor>) -> Vec<String> {
    expected.keys().filter_map(|key| key.strip_prefix("grad.")).map(str::to_owned).collect()
}

fn batch(batches: &BTreeMap<String, Tensor>, step: usize) -> Vec<(&'static str, Tensor)> {
    vec![
        ("input", batches[&format!("x.{step}")].clone()),
        ("labels", batches[&format!("labels.{step}")].clone()),
    ]
}

fn verify_gradients(
    graph: &Graph,
    expected: &BTreeMap<String, Tensor>,
    batches: &BTreeMap<String, Tensor>,
    errors: &mut Errors,
) -> Result<(), String> {
    let parameters = parameters(expected);
    let names: Vec<&str> = parameters.iter().map(String::as_str).collect();
    let derived =
        check::gradients(graph, "loss", &names, BatchNorm::Train).map_err(|e| format!("gradients: {e}"))?;
    let results = Runner::new(&derived).run(&batch(batches, 0));
    let largest = names.iter().map(|n| size(&expected[&format!("grad.{n}")])).fold(0.0, f64::max);
    for name in names {
        let key = format!("grad.{name}");
        let own = size(&expected[&key]);
        let scale = if own < ZERO * largest { largest } else { own };
        errors.add(&results[&format!("{name}.grad")], &expected[&key], scale, &key)?;
    }
    Ok(())
}

fn verify_steps(
    graph: &Graph,
    (case, optimizer, learning_rate): (&str, Optimizer, f32),
    expected: &BTreeMap<String, Tensor>,
    batches: &BTreeMap<String, Tensor>,
    errors: &mut Errors,
) -> Result<(), String> {
    let spec = TrainSpec::new("loss", parameters(expected), optimizer);
    let training = derive(graph, &spec).map_err(|e| format!("derive: {e}"))?;
    let mut state: BTreeMap<&str, Tensor> =
        training.state.iter().map(|s| (s.name.as_str(), s.init.clone())).collect();
    let initial: BTreeMap<String, Tensor> =
        training.state.iter().map(|s| (s.name.clone(), s.init.clone())).collect();
    let mut runner = Runner::new(&training.graph);
    for step in 0..N_STEPS {
        let mut feeds = batch(batches, step);
        feeds.push(("learning_rate", Tensor::from_f32(&[], &[learning_rate])));
        feeds.push(("step", Tensor::from_f32(&[], &[(step + 1) as f32])));
        feeds.extend(state.iter().map(|(name, tensor)| (*name, tensor.clone())));
        let mut results = runner.run(&feeds);
        if step == 0 {
            errors.add(&results["loss"], &expected["loss"], size(&expected["loss"]), "loss")?;
        }
        for (name, tensor) in &mut state {
            *tensor = results.remove(&format!("{name}.next")).expect("the next state");
        }
        if step == 0 {
            for name in parameters(expected) {
                let after =
                    first_step(&initial[&name], &expected[&format!("grad.{name}")], optimizer, learning_rate);
                errors.add(&state[name.as_str()], &after, size(&after), &format!("{case}.after1.{name}"))?;
            }
        }
        let after = if step == 0 { "after1.".to_owned() } else { format!("{case}.after{}.", step + 1) };
        for (key, tensor) in expected.iter().filter(|(key, _)| key.starts_with(&after)) {
            errors.add(&state[&key[after.len()..]], tensor, size(tensor), key)?;
        }
    }
    Ok(())
}

/// What the first step makes of a parameter: momentum is the gradient yet, and Adam's moments correct to g and g².
fn first_step(parameter: &Tensor, gradient: &Tensor, optimizer: Optimizer, learning_rate: f32) -> Tensor {
    let (p, g) = (parameter.to_f32().unwrap(), gradient.to_f32().unwrap());
    let lr = f64::from(learning_rate);
    let next = |p: f64, g: f64| match optimizer {
        Optimizer::Sgd { .. } => p - lr * g,
        Optimizer::AdamW { eps, weight_decay, .. } => {
            p * (1.0 - lr * weight_decay) - lr * g / (g.abs() + eps)
        }
        other => panic!("no fixture is of {other:?}"),
    };
    let values: Vec<f32> = p.iter().zip(&g).map(|(&p, &g)| next(p.into(), g.into()) as f32).collect();
    Tensor::from_f32(&parameter.dims, &values)
}

/// The largest relative error so far.
struct Errors(f64);

impl Errors {
    fn add(&mut self, found: &Tensor, expected: &Tensor, scale: f64, what: &str) -> Result<(), String> {
        if found.dims != expected.dims {
            return Err(format!("{what}: expected dimensions {:?}, found {:?}", expected.dims, found.dims));
        }
        let error = difference(found, expected);
        self.0 = self.0.max(if error == 0.0 { 0.0 } else { error / scale });
        if error <= TOLERANCE * scale {
            return Ok(());
        }
        Err(format!("{what}: off by {error:.2e} where {scale:.2e} is the largest"))
    }
}
