//! Gradient check of a network: its derived gradients beside central differences of its loss.
//!
//! This is the pure part: what a runtime has to compute, with which numbers, and what follows from the results.

mod verdict;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use onnx_grad::BatchNorm;
use onnx_grad::graph::{DataType, Dim, Graph, Node, Tensor, ValueInfo};

pub use self::verdict::{Finding, Verdict, examine};
use crate::dual_head::{DualHead, show};
use crate::error::ModelError;
use crate::init::Source;
use crate::losses;
use crate::step::StepOptions;

/// What a gradient check computes.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientCheck {
    /// The network in its training form with the output `loss`; parameters are inputs of their own names.
    pub loss: Graph,
    /// The same with a further output `<name>.grad` for every parameter.
    pub gradients: Graph,
    /// Parameters that training changes.
    pub parameters: BTreeMap<String, Tensor>,
    /// Initialisers that training leaves alone: name, shape, why.
    pub untrained: Vec<(String, Vec<usize>, &'static str)>,
    /// Which loss is checked, for people.
    pub loss_name: &'static str,
    inputs: Vec<ValueInfo>,
}

impl GradientCheck {
    /// Of both heads' losses where the network has two and `logits` is not given, else of the cross-entropy of
    /// `logits`, or of the first output.
    ///
    /// # Errors
    /// As [`crate::step::TrainingStep::derive`]; [`ModelError::NothingToTrain`].
    pub fn new(graph: &Graph, logits: Option<&str>) -> Result<Self, ModelError> {
        let dual_head = DualHead::from_graph(graph.clone()).ok().filter(|_| logits.is_none());
        let (mut with_loss, loss_name) = match dual_head {
            Some(model) => {
                let graph = losses::dual_head(&model, &StepOptions::default())?.graph;
                (graph, "cross-entropy of `cl_logits` and half the mean squared error of `st_logits`")
            }
            None => (losses::classifier(graph, logits, &StepOptions::default())?.0.graph, "cross-entropy"),
        };
        let names = onnx_grad::trainable(&with_loss, "loss")?;
        let parameters: BTreeMap<String, Tensor> =
            names.iter().filter_map(|n| Some((n.clone(), with_loss.initializers.get(n)?.clone()))).collect();
        if parameters.is_empty() {
            return Err(ModelError::NothingToTrain);
        }
        let untrained = untrained(&with_loss, &parameters);
        let inputs = with_loss.inputs.clone();
        with_loss.outputs = vec![ValueInfo { name: "loss".into(), dtype: DataType::F32, shape: Vec::new() }];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut gradients = onnx_grad::check::gradients(&with_loss, "loss", &names, BatchNorm::Train)?;
        for (name, tensor) in &parameters {
            gradients.initializers.remove(name);
            let shape = tensor.dims.iter().map(|&d| d.into()).collect();
            gradients.inputs.push(ValueInfo { name: name.clone(), dtype: tensor.dtype, shape });
        }
        let mut loss = gradients.clone();
        loss.outputs.truncate(1);
        remove_unused(&mut loss);
        Ok(GradientCheck { loss, gradients, parameters, untrained, loss_name, inputs })
    }

    /// Seeded inputs of `batch` rows: normal numbers, one-hot labels, a teacher for every row, 0 or 1 for
    /// integers.
    ///
    /// # Errors
    /// [`ModelError::FreeDimension`] for a symbol other than that of the batch.
    pub fn feeds(&self, seed: u64, batch: usize) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let symbol = self.inputs.iter().find(|i| i.name == "labels").and_then(|l| l.shape.first()).cloned();
        let mut feeds = BTreeMap::new();
        for input in &self.inputs {
            let size = |dim: &Dim| match dim {
                Dim::Size(n) => Some(*n),
                other => (Some(other) == symbol.as_ref()).then_some(batch),
            };
            let dims: Option<Vec<usize>> = input.shape.iter().map(size).collect();
            let dims = dims.ok_or_else(|| ModelError::FreeDimension { found: show(input) })?;
            feeds.insert(input.name.clone(), draw(&input.name, input.dtype, &dims, seed)?);
        }
        Ok(feeds)
    }
}

fn draw(name: &str, dtype: DataType, dims: &[usize], seed: u64) -> Result<Tensor, ModelError> {
    let source = Source::new(seed, name);
    let n: usize = dims.iter().product();
    let bit = |i: usize| source.at(i as u64) & 1;
    let values: Vec<f32> = match name {
        "labels" => {
            let k = dims.last().copied().unwrap_or(1).max(1);
            (0..n)
                .map(|i| f32::from(u8::from(source.at((i / k) as u64) % k as u64 == (i % k) as u64)))
                .collect()
        }
        "teacher_weight" => vec![1.0; n],
        "distill_weight" => vec![0.5; n],
        "temperature" => vec![2.0; n],
        _ => (0..n as u64).map(|i| source.normal(i) as f32).collect(),
    };
    match dtype {
        DataType::F32 => Ok(Tensor::from_f32(dims, &values)),
        DataType::I64 => Ok(Tensor::from_i64(dims, &(0..n).map(|i| bit(i) as i64).collect::<Vec<_>>())),
        DataType::Bool => {
            let bytes = (0..n).map(|i| bit(i) as u8).collect();
            Ok(Tensor { dtype, dims: dims.to_vec(), bytes })
        }
        DataType::I32 => {
            let bytes = (0..n).flat_map(|i| (bit(i) as i32).to_le_bytes()).collect();
            Ok(Tensor { dtype, dims: dims.to_vec(), bytes })
        }
        found => Err(ModelError::InputType { name: name.to_owned(), found }),
    }
}

/// Every floating initialiser that is read but not trained, and why.
fn untrained(
    graph: &Graph,
    parameters: &BTreeMap<String, Tensor>,
) -> Vec<(String, Vec<usize>, &'static str)> {
    let mut reaches_loss = BTreeSet::from(["loss"]);
    let mut readers: HashMap<&str, Vec<(&Node, usize)>> = HashMap::new();
    let read: BTreeSet<&String> = graph.nodes.iter().flat_map(|n| &n.inputs).collect();
    for node in graph.nodes.iter().rev().filter(|n| n.outputs.iter().any(|o| !o.is_empty())) {
        let reached = node.outputs.iter().any(|o| reaches_loss.contains(o.as_str()));
        for (i, input) in node.inputs.iter().enumerate().filter(|_| reached) {
            reaches_loss.insert(input);
            readers.entry(input).or_default().push((node, i));
        }
    }
    let why = |name: &str, tensor: &Tensor| match readers.get(name) {
        None => "the loss does not depend on it",
        Some(readers) if readers.iter().any(|(n, i)| n.op == "BatchNormalization" && *i >= 3) => {
            "running statistic: follows the mini-batches, without a gradient"
        }
        Some(_) if tensor.dims.is_empty() => "a number without dimensions counts as a constant",
        Some(_) => "no gradient comes to where it is read",
    };
    graph
        .initializers
        .iter()
        .filter(|(name, t)| {
            read.contains(name)
                && t.dtype.is_float()
                && !parameters.contains_key(*name)
                && !is_constant(graph, name, t)
        })
        .map(|(name, t)| (name.clone(), t.dims.clone(), why(name, t)))
        .collect()
}

/// Scalars of the losses, which are none of the network's.
fn is_constant(graph: &Graph, name: &str, tensor: &Tensor) -> bool {
    tensor.dims.is_empty()
        && graph.nodes.iter().any(|n| n.name.starts_with("loss") && n.inputs.iter().any(|i| i == name))
}

fn remove_unused(graph: &mut Graph) {
    let mut used: BTreeSet<String> = graph.outputs.iter().map(|o| o.name.clone()).collect();
    let mut kept = Vec::with_capacity(graph.nodes.len());
    for node in std::mem::take(&mut graph.nodes).into_iter().rev() {
        if node.outputs.iter().any(|o| used.contains(o)) {
            used.extend(node.inputs.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.nodes = kept;
    graph.initializers.retain(|name, _| used.contains(name));
}

#[cfg(test)]
mod tests {
    use onnx_grad::Builder;

    use super::*;
    use crate::zoo::{self, BuildOptions};

    fn digits() -> Graph {
        zoo::build("digits-cnn", &BuildOptions { seed: 1, classes: 10, input: [1, 8, 8] }).unwrap()
    }

    #[test]
    fn every_parameter_has_a_gradient_and_is_fed() {
        let check = GradientCheck::new(&digits(), None).unwrap();
        assert!(check.loss_name.contains("st_logits"));
        let inputs: Vec<&str> = check.loss.inputs.iter().map(|i| i.name.as_str()).collect();
        let outputs: Vec<&str> = check.gradients.outputs.iter().map(|o| o.name.as_str()).collect();
        for name in check.parameters.keys() {
            assert!(inputs.contains(&name.as_str()), "{name}: {inputs:?}");
            assert!(outputs.contains(&format!("{name}.grad").as_str()), "{name}: {outputs:?}");
        }
        assert_eq!(check.loss.outputs.len(), 1);
        assert!(check.loss.nodes.len() < check.gradients.nodes.len());
    }

    #[test]
    fn one_head_leaves_the_other_untrained() {
        let check = GradientCheck::new(&digits(), Some("cl_logits")).unwrap();
        assert_eq!(check.loss_name, "cross-entropy");
        let student: Vec<_> =
            check.untrained.iter().filter(|(n, ..)| n.starts_with("student_head")).collect();
        assert_eq!(student.len(), 2, "{:?}", check.untrained);
        assert!(student.iter().all(|(.., why)| *why == "the loss does not depend on it"));
        assert!(matches!(GradientCheck::new(&digits(), Some("no")), Err(ModelError::Logits { .. })));
    }

    #[test]
    fn running_statistics_are_told_from_parameters() {
        let options = BuildOptions { seed: 1, classes: 10, input: [3, 32, 32] };
        let check = GradientCheck::new(&zoo::build("slim-resnet18", &options).unwrap(), None).unwrap();
        assert!(!check.untrained.is_empty());
        assert!(
            check.untrained.iter().all(|(.., why)| why.starts_with("running statistic")),
            "{:?}",
            check.untrained
        );
    }

    #[test]
    fn inputs_are_seeded_and_labels_one_hot() {
        let check = GradientCheck::new(&digits(), None).unwrap();
        let feeds = check.feeds(3, 4).unwrap();
        assert_eq!(feeds, check.feeds(3, 4).unwrap());
        assert_ne!(feeds, check.feeds(4, 4).unwrap());
        assert_eq!(feeds["input"].dims, [4, 1, 8, 8]);
        let labels = feeds["labels"].to_f32().unwrap();
        assert!(labels.chunks(10).all(|row| row.iter().sum::<f32>() == 1.0), "{labels:?}");
        assert!(feeds["distill_weight"].dims.is_empty());
    }

    #[test]
    fn a_second_free_dimension_is_refused() {
        let mut b = Builder::new("mean over time", 17);
        b.input("x", DataType::F32, vec!["batch".into(), "time".into(), 3.into()]).unwrap();
        b.initializer("w", Tensor::from_f32(&[3, 2], &[0.5; 6])).unwrap();
        let mean = b.op("ReduceMean", &["x"], &[("axes", vec![1].into()), ("keepdims", 0.into())]).unwrap();
        b.op_named("MatMul", &[&mean, "w"], &[], "logits").unwrap();
        b.output("logits").unwrap();
        let check = GradientCheck::new(&b.finish(), None).unwrap();
        assert!(
            matches!(check.feeds(0, 2), Err(ModelError::FreeDimension { found }) if found.contains("time"))
        );
    }
}
