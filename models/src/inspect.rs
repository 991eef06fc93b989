//! What is in a model file, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use onnx_grad::GradError;
use onnx_grad::graph::Graph;

use crate::dual_head::{DualHead, n_parameters, show, show_shape};
use crate::error::ModelError;
use crate::notes::notes;
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
        notes: notes(graph),
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
    fn notes_are_shown() {
        let options = BuildOptions { seed: 1, classes: 3, input: [1, 8, 8] };
        let mut folded = zoo::build("digits-cnn", &options).unwrap();
        for node in folded.nodes.iter_mut().filter(|n| n.op == "BatchNormalization") {
            node.op = "Identity".to_owned();
            node.inputs.truncate(1);
        }
        let text = inspect(&folded).to_text(false);
        assert!(text.contains("\nnote         convolutions, and nothing that normalises"), "{text}");
    }
}
