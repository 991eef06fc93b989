//! Head surgery: an ordinary classifier becomes a dual-head network.

use std::collections::HashSet;

use onnx_grad::Builder;
use onnx_grad::graph::{Graph, Node, Tensor};

use crate::dual_head::{DualHead, image_input, show_shape};
use crate::error::ModelError;
use crate::zoo::append_heads;

/// How the heads are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Classes of both heads; the classifier's own if `None`.
    pub classes: Option<usize>,
    /// Seeds the new heads' weights.
    pub seed: u64,
}

/// The layer that turns features into logits.
struct Classifier {
    /// Names of the nodes that go: the linear layer and what follows it.
    nodes: HashSet<String>,
    features: String,
    n_features: usize,
    n_classes: usize,
    /// `[classes, features]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Replaces the last linear layer (and a softmax after it) by `cl_head` and `student_head` on the same features.
///
/// The continual-learning head keeps the classifier's weights where the number of classes is the same.
///
/// # Errors
/// [`ModelError::NoClassifier`] with what the graph ends in; [`ModelError::AlreadyDualHead`].
pub fn attach_heads(graph: &Graph, options: &AttachOptions) -> Result<Graph, ModelError> {
    image_input(graph)?;
    if DualHead::from_graph(graph.clone()).is_ok() {
        return Err(ModelError::AlreadyDualHead);
    }
    let classifier = find_classifier(graph)?;
    let classes = options.classes.unwrap_or(classifier.n_classes);
    if classes == 0 {
        return Err(ModelError::NoClasses);
    }
    let mut trunk = graph.clone();
    trunk.nodes.retain(|n| !classifier.nodes.contains(&n.name));
    trunk.outputs.clear();
    let used: HashSet<&str> = trunk.nodes.iter().flat_map(|n| &n.inputs).map(String::as_str).collect();
    trunk.initializers.retain(|name, _| used.contains(name.as_str()));
    let mut b = Builder::from_graph(trunk.clone())?;
    if classes == classifier.n_classes {
        let dims = [classes, classifier.n_features];
        b.initializer("cl_head.weight", Tensor::from_f32(&dims, &classifier.weight))?;
        b.initializer("cl_head.bias", Tensor::from_f32(&[classes], &classifier.bias))?;
    }
    append_heads(&mut b, options.seed, &classifier.features, classifier.n_features, classes)?;
    Ok(b.finish())
}

/// The linear layer that the only output comes from.
fn find_classifier(graph: &Graph) -> Result<Classifier, ModelError> {
    let refused = |found: String| ModelError::NoClassifier { found };
    let [output] = graph.outputs.as_slice() else {
        return Err(refused(format!("{} outputs", graph.outputs.len())));
    };
    let Last { product, bias, nodes } = last_linear(graph, &output.name).map_err(refused)?;
    if product.op == "Gemm" {
        return gemm(graph, product, nodes);
    }
    matmul(graph, product, bias, nodes)
}

/// Where a value comes from, if that is a linear layer.
pub(crate) struct Last<'a> {
    /// A `Gemm` or `MatMul`; its input 0 are the features.
    pub product: &'a Node,
    /// What a `MatMul` is added to.
    pub bias: Option<&'a str>,
    /// Names of the layer's nodes and of those that follow it.
    nodes: HashSet<String>,
}

/// Walks back from `value` over softmax-like nodes to a `Gemm`, or a `MatMul` with or without `Add`.
///
/// # Errors
/// What there is in its place.
pub(crate) fn last_linear<'a>(graph: &'a Graph, value: &'a str) -> Result<Last<'a>, String> {
    let producer = |value: &str| graph.nodes.iter().find(|n| n.outputs.iter().any(|o| o == value));
    let (mut nodes, mut value) = (HashSet::new(), value);
    loop {
        let node = producer(value).ok_or_else(|| format!("no node that gives `{value}`"))?;
        nodes.insert(node.name.clone());
        match node.op.as_str() {
            "Softmax" | "LogSoftmax" | "Identity" => value = node.input(0).unwrap_or_default(),
            "Gemm" | "MatMul" => return Ok(Last { product: node, bias: None, nodes }),
            "Add" => {
                let (product, bias) = (0..2)
                    .find_map(|i| {
                        let product = producer(node.input(i)?).filter(|n| n.op == "MatMul")?;
                        Some((product, node.input(1 - i)?))
                    })
                    .ok_or_else(|| format!("`Add` node `{}` without a product", node.name))?;
                nodes.insert(product.name.clone());
                return Ok(Last { product, bias: Some(bias), nodes });
            }
            other => return Err(format!("`{other}` node `{}`", node.name)),
        }
    }
}

fn constant<'a>(graph: &'a Graph, node: &Node, i: usize) -> Result<&'a Tensor, ModelError> {
    node.input(i).and_then(|name| graph.initializers.get(name)).ok_or_else(|| ModelError::NoClassifier {
        found: format!("`{}` node `{}` whose input {i} is computed", node.op, node.name),
    })
}

fn gemm(graph: &Graph, node: &Node, nodes: HashSet<String>) -> Result<Classifier, ModelError> {
    let weight = constant(graph, node, 1)?;
    let plain = node.float("alpha", 1.0)? == 1.0 && node.float("beta", 1.0)? == 1.0;
    if !plain || node.int("transA", 0)? != 0 {
        return Err(ModelError::NoClassifier { found: format!("scaled or transposed Gemm `{}`", node.name) });
    }
    let bias = node.input(2).map(|_| constant(graph, node, 2)).transpose()?;
    linear(node, weight, node.int("transB", 0)? != 0, bias, nodes)
}

fn matmul(
    graph: &Graph,
    node: &Node,
    bias: Option<&str>,
    nodes: HashSet<String>,
) -> Result<Classifier, ModelError> {
    let weight = constant(graph, node, 1)?;
    let bias = bias
        .map(|name| {
            graph.initializers.get(name).ok_or_else(|| ModelError::NoClassifier {
                found: format!("computed bias `{name}` after `{}`", node.name),
            })
        })
        .transpose()?;
    linear(node, weight, false, bias, nodes)
}

fn linear(
    node: &Node,
    weight: &Tensor,
    transposed: bool,
    bias: Option<&Tensor>,
    nodes: HashSet<String>,
) -> Result<Classifier, ModelError> {
    let [rows, columns] = weight.dims[..] else {
        let shape = weight.dims.iter().map(|&d| d.into()).collect();
        return Err(ModelError::NoClassifier { found: format!("a weight of shape {}", show_shape(&shape)) });
    };
    let values = weight.to_f32()?;
    let (n_classes, n_features) = if transposed { (rows, columns) } else { (columns, rows) };
    let weight = if transposed {
        values
    } else {
        (0..n_classes)
            .flat_map(|k| (0..n_features).map(move |f| (k, f)))
            .map(|(k, f)| values[f * columns + k])
            .collect()
    };
    let bias = match bias {
        Some(bias) if bias.n_elements() == n_classes => bias.to_f32()?,
        Some(bias) => {
            return Err(ModelError::NoClassifier {
                found: format!("{} biases for {n_classes} classes", bias.n_elements()),
            });
        }
        None => vec![0.0; n_classes],
    };
    let features = node.input(0).unwrap_or_default().to_owned();
    Ok(Classifier { nodes, features, n_features, n_classes, weight, bias })
}
