//! What is in a model file, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use onnx_grad::GradError;
use onnx_grad::graph::Graph;

use crate::dual_head::{DualHead, n_parameters, show, show_shape};
use crate::error::ModelError;
use crate::step::{StepOptions, TrainingStep, derive_classifier};

/// Facts about a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    pub name: String,
    pub opset: u32,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// Operator, number of nodes.
    pub operators: BTreeMap<String, usize>,
    /// Initialisers: name, type and shape.
    pub tensors: Vec<(String, String)>,
    pub n_parameters: usize,
    /// Classes of both heads, or why it is no dual-head network.
    pub dual_head: Result<usize, String>,
    /// Why it cannot be trained as it is; `None` if it can.
    pub obstacle: Option<String>,
    /// What training would do differently from what one might expect.
    pub notes: Vec<String>,
    pub metadata: BTreeMap<String, String>,
}

/// Inspects a graph, and tries whether a training step can be derived from it.
///
/// What is wrong with it is part of the answer.
pub fn inspect(graph: &Graph) -> Inspection {
    let mut operators = BTreeMap::new();
    for node in &graph.nodes {
        *operators.entry(node.op.clone()).or_insert(0) += 1;
    }
    let dual_head = DualHead::from_graph(graph.clone());
    let options = StepOptions::default();
    let obstacle = match &dual_head {
        Ok(model) => TrainingStep::derive(model, &options).err().map(obstacle),
        Err(no_heads) => match derive_classifier(graph, None, &options).err() {
            Some(ModelError::Logits { .. }) => Some(no_heads.to_string()),
            error => error.map(obstacle),
        },
    };
    let tensor = |(name, t): (&String, &onnx_grad::graph::Tensor)| {
        let shape = t.dims.iter().map(|&d| d.into()).collect();
        (name.clone(), format!("{} {}", t.dtype, show_shape(&shape)))
    };
    Inspection {
        name: graph.name.clone(),
        opset: graph.opset,
        inputs: graph.inputs.iter().map(show).collect(),
        outputs: graph.outputs.iter().map(show).collect(),
        operators,
        tensors: graph.initializers.iter().map(tensor).collect(),
        n_parameters: n_parameters(graph),
        dual_head: dual_head.map(|m| m.n_classes()).map_err(|e| e.to_string()),
        obstacle,
        notes: folded_batch_norm(graph).into_iter().collect(),
        metadata: graph.metadata.clone(),
    }
}

fn obstacle(error: ModelError) -> String {
    match error {
        ModelError::Graph(GradError::Unsupported(_) | GradError::UnknownOperator { .. }) => {
            format!("{error}; models/onnx-grad/OPS.md lists the operators that can be trained through")
        }
        other => other.to_string(),
    }
}

/// Where batch normalisation was probably folded into convolutions: what that means and what to do.
///
/// Convolutions then have biases, and nothing normalises. The TorchScript exporter gives what it has folded names
/// of its own.
pub fn folded_batch_norm(graph: &Graph) -> Option<String> {
    const NORMS: [&str; 4] =
        ["BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"];
    if graph.nodes.iter().any(|n| NORMS.contains(&n.op.as_str())) {
        return None;
    }
    let mut with_bias = graph.nodes.iter().filter(|n| n.op == "Conv" && n.input(2).is_some()).peekable();
    with_bias.peek()?;
    let is_folded = with_bias.any(|n| n.inputs[1..].iter().any(|i| i.starts_with("onnx::Conv_")));
    let what = if is_folded { "batch normalisation" } else { "if the network has batch normalisation, it" };
    Some(format!(
        "no BatchNormalization, and convolutions with biases: {what} was probably folded into the convolutions \
         at export, and the network trains without it; export again with \
         training=torch.onnx.TrainingMode.PRESERVE, or as models/export/README.md shows"
    ))
}

impl Inspection {
    /// Lines for a terminal; `tensors` lists every initialiser too.
    pub fn to_text(&self, tensors: bool) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: &str| {
            let _ = writeln!(text, "{label:<12} {value}");
        };
        line("graph", &self.name);
        line("opset", &self.opset.to_string());
        self.inputs.iter().for_each(|v| line("input", v));
        self.outputs.iter().for_each(|v| line("output", v));
        let operators: Vec<String> = self.operators.iter().map(|(op, n)| format!("{n} {op}")).collect();
        line("operators", &operators.join(", "));
        line("parameters", &format!("{} values", self.n_parameters));
        match &self.dual_head {
            Ok(classes) => line("heads", &format!("continual-learning and student, {classes} classes")),
            Err(why) => line("heads", &format!("not a dual-head network, as agents need: {why}")),
        }
        match &self.obstacle {
            None => line("training", "a training step can be derived"),
            Some(why) => line("training", &format!("not as it is: {why}")),
        }
        self.notes.iter().for_each(|note| line("note", note));
        self.metadata.iter().for_each(|(k, v)| line("metadata", &format!("{k} = {v}")));
        if tensors {
            self.tensors.iter().for_each(|(name, what)| line("tensor", &format!("{name} {what}")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::{self, BuildOptions};

    #[test]
    fn folded_batch_normalisation_is_suspected_where_convolutions_have_biases_and_nothing_normalises() {
        let build = |name: &str| {
            let network = zoo::find(name).unwrap();
            let options = BuildOptions { seed: 1, classes: network.classes, input: network.input };
            zoo::build(name, &options).unwrap()
        };
        assert_eq!(folded_batch_norm(&build("slim-resnet18")), None);
        let mut folded = build("digits-cnn");
        let bias = onnx_grad::graph::Tensor::from_f32(&[1], &[0.0]);
        for node in folded.nodes.iter_mut().filter(|n| n.op == "Conv") {
            node.inputs.truncate(2);
        }
        folded.nodes.retain(|n| n.op != "BatchNormalization");
        assert_eq!(folded_batch_norm(&folded), None, "no biases");
        for node in folded.nodes.iter_mut().filter(|n| n.op == "Conv") {
            node.inputs.push("bias".to_owned());
        }
        folded.initializers.insert("bias".to_owned(), bias);
        let note = folded_batch_norm(&folded).unwrap();
        assert!(note.contains("if the network has batch") && note.contains("PRESERVE"), "{note}");
        folded
            .nodes
            .iter_mut()
            .filter(|n| n.op == "Conv")
            .for_each(|n| n.inputs[1] = "onnx::Conv_34".to_owned());
        assert!(!folded_batch_norm(&folded).unwrap().contains("if the network"), "named so by the exporter");
        assert!(inspect(&folded).to_text(false).contains("note "), "it is shown");
    }
}
