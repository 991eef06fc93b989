//! What a network's file gives reason to point out before it is trained.

use std::collections::BTreeMap;

use onnx_grad::graph::{Dim, Graph};

/// Everything worth saying of `graph`, a sentence each.
pub fn notes(graph: &Graph) -> Vec<String> {
    const CHECKS: [fn(&Graph) -> Option<String>; 4] =
        [folded_batch_norm, merged_tensors, probabilities, fixed_batch];
    CHECKS.iter().filter_map(|check| check(graph)).collect()
}

const NORMS: [&str; 4] =
    ["BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"];

const EXPORT_AGAIN: &str = "export again with training=torch.onnx.TrainingMode.PRESERVE (dynamo=False) or \
                            optimize=False (dynamo=True), as models/export/README.md shows";

/// Several convolutions and nothing that normalises: few networks are made like that, many exported so.
///
/// The TorchScript exporter gives what it has folded names of its own.
fn folded_batch_norm(graph: &Graph) -> Option<String> {
    const SEVERAL: usize = 3;
    let convolutions: Vec<_> = graph.nodes.iter().filter(|n| n.op == "Conv").collect();
    let has_bias = convolutions.iter().any(|n| n.input(2).is_some());
    let normalises = graph.nodes.iter().any(|n| NORMS.contains(&n.op.as_str()));
    if normalises || convolutions.is_empty() || (!has_bias && convolutions.len() < SEVERAL) {
        return None;
    }
    let is_folded = convolutions.iter().any(|n| n.inputs[1..].iter().any(|i| i.starts_with("onnx::Conv_")));
    let what = if is_folded { "batch normalisation" } else { "if the network has batch normalisation, it" };
    Some(format!(
        "convolutions, and nothing that normalises: {what} was probably folded into the convolutions at export, and \
         the network trains without it; {EXPORT_AGAIN}"
    ))
}

/// One tensor for the scales or biases of several norms: exporters write equal tensors once.
fn merged_tensors(graph: &Graph) -> Option<String> {
    let mut readers: BTreeMap<&str, usize> = BTreeMap::new();
    for node in graph.nodes.iter().filter(|n| NORMS.contains(&n.op.as_str())) {
        for input in node.inputs.iter().skip(1).filter(|i| graph.initializers.contains_key(*i)) {
            *readers.entry(input).or_default() += 1;
        }
    }
    let (name, n_readers) = readers.into_iter().max_by_key(|(_, n)| *n).filter(|(_, n)| *n > 1)?;
    Some(format!(
        "`{name}` is read by {n_readers} normalisation layers: unless they are one module, the exporter has merged \
         equal tensors, and they will be trained as one; {EXPORT_AGAIN}"
    ))
}

/// Cross-entropy takes logits, and would take the softmax of a softmax.
fn probabilities(graph: &Graph) -> Option<String> {
    let output = &graph.outputs.first()?.name;
    let node = graph.nodes.iter().find(|n| n.op == "Softmax" && n.outputs.contains(output))?;
    Some(format!(
        "`{output}` is the result of a Softmax, but the losses take raw logits: export the network without it \
         (its input is `{}`)",
        node.inputs[0]
    ))
}

fn fixed_batch(graph: &Graph) -> Option<String> {
    let input = graph.inputs.first()?;
    match input.shape.first()? {
        Dim::Size(n) => Some(format!(
            "the batch size is fixed at {n}: a training graph takes exactly {n} rows, and agents refuse the network; \
             export with a free batch size (`dynamic_axes` or `dynamic_shapes`)"
        )),
        Dim::Symbol(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use onnx_grad::Builder;
    use onnx_grad::graph::{DataType, Tensor};

    use super::*;
    use crate::zoo::{self, BuildOptions};

    fn build(name: &str) -> Graph {
        let network = zoo::find(name).unwrap();
        let options = BuildOptions { seed: 1, classes: network.classes, input: network.input };
        zoo::build(name, &options).unwrap()
    }

    #[test]
    fn there_is_nothing_to_say_of_the_zoo() {
        for network in zoo::list() {
            assert_eq!(notes(&build(network.name)), Vec::<String>::new(), "{}", network.name);
        }
    }

    #[test]
    fn folded_batch_normalisation_is_suspected_where_nothing_normalises() {
        let mut folded = build("digits-cnn");
        for node in &mut folded.nodes {
            if node.op == "BatchNormalization" {
                node.op = "Identity".to_owned();
                node.inputs.truncate(1);
            }
        }
        let note = folded_batch_norm(&folded).unwrap();
        assert!(note.contains("if the network has") && note.contains("optimize=False"), "{note}");
        let conv = folded.nodes.iter_mut().find(|n| n.op == "Conv").unwrap();
        conv.inputs[1] = "onnx::Conv_7".to_owned();
        assert!(!folded_batch_norm(&folded).unwrap().contains("if the network"), "named so by the exporter");
    }

    #[test]
    fn norms_that_share_a_tensor_are_named() {
        let mut merged = build("vit-lite");
        for node in merged.nodes.iter_mut().filter(|n| n.op == "LayerNormalization") {
            node.inputs[1] = "norm.weight".to_owned();
        }
        let note = merged_tensors(&merged).unwrap();
        assert!(note.starts_with("`norm.weight` is read by 13 normalisation layers"), "{note}");
    }

    #[test]
    fn probabilities_and_a_fixed_batch_are_pointed_out() {
        let mut b = Builder::new("small", 17);
        b.input("x", DataType::F32, vec![2.into(), 3.into()]).unwrap();
        b.initializer("w", Tensor::from_f32(&[3, 2], &[0.5; 6])).unwrap();
        let y = b.op_named("MatMul", &["x", "w"], &[], "logits").unwrap();
        b.op_named("Softmax", &[&y], &[], "probs").unwrap();
        b.output("probs").unwrap();
        let notes = notes(&b.finish());
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].contains("`probs`") && notes[0].contains("`logits`"), "{notes:?}");
        assert!(notes[1].contains("fixed at 2"), "{notes:?}");
    }
}
