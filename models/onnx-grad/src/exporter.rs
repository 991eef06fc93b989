//! Undoes what exporters do to a network that is still to be trained.

use std::collections::{BTreeMap, HashSet};

use crate::error::ReadError;
use crate::graph::{Graph, Tensor};
use crate::limits::MAX_UNTIED_BYTES;

/// Brings a graph as read into the form that inference, and derivation, start from:
///
/// - BatchNormalization and Dropout of a network exported in training mode act as in inference. A second call of
///   the same BatchNormalization, which starts from the running statistics that the first has moved, names the
///   layer's own instead.
/// - An initialiser that is an `Identity` of another becomes one of its own. PyTorch's TorchScript exporter
///   ties initialisers that are equal, as those of all fresh BatchNorm layers are; trained as one they would
///   stay equal. Weights shared on purpose have one name and are not touched.
///
/// # Errors
/// [`ReadError::Limit`] if the copies take too much; [`ReadError::MovedStatistic`] if anything but another
/// BatchNormalization reads what one in training mode makes of its statistics.
pub(crate) fn undo(graph: &mut Graph) -> Result<(), ReadError> {
    let mut moved = BTreeMap::new();
    let mut dropped = HashSet::new();
    for node in graph.nodes.iter_mut().filter(|n| n.domain.is_empty()) {
        match node.op.as_str() {
            "BatchNormalization" => {
                node.attributes.remove("training_mode");
                for statistic in node.inputs.iter_mut().skip(3) {
                    if let Some(layers) = moved.get(statistic) {
                        String::clone_from(statistic, layers);
                    }
                }
                let n_kept = node.outputs.len().min(1);
                let given: Vec<String> = node.outputs.drain(n_kept..).filter(|o| !o.is_empty()).collect();
                dropped.extend(given.iter().cloned());
                for (output, statistic) in given.into_iter().zip(node.inputs.iter().skip(3)) {
                    moved.insert(output, statistic.clone());
                }
            }
            "Dropout" => node.inputs.truncate(2),
            _ => {}
        }
    }
    let read = graph.nodes.iter().flat_map(|node| node.inputs.iter().map(|i| (&node.name, i)));
    let put_out = graph.outputs.iter().map(|o| (&o.name, &o.name));
    if let Some((reader, value)) = read.chain(put_out).find(|(_, value)| dropped.contains(*value)) {
        return Err(ReadError::MovedStatistic { value: value.clone(), reader: reader.clone() });
    }
    let Graph { nodes, initializers, outputs, .. } = graph;
    let is_output: HashSet<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
    let mut n_bytes = 0;
    nodes.retain(|node| {
        let ([from], [to]) = (node.inputs.as_slice(), node.outputs.as_slice()) else { return true };
        if node.op != "Identity" || !node.domain.is_empty() || is_output.contains(to.as_str()) {
            return true;
        }
        let Some(tensor) = initializers.get(from) else { return true };
        n_bytes += tensor.bytes.len();
        if n_bytes <= MAX_UNTIED_BYTES {
            let tensor = tensor.clone();
            initializers.insert(to.clone(), tensor);
        }
        false
    });
    if n_bytes > MAX_UNTIED_BYTES {
        return Err(ReadError::Limit {
            what: "bytes of initialisers that are `Identity` of others".to_owned(),
            found: n_bytes as u64,
            limit: MAX_UNTIED_BYTES as u64,
            name: "MAX_UNTIED_BYTES",
        });
    }
    Ok(())
}

/// Whether an initialiser is a constant that torch.export wrote down as a tensor of one element: `val_7`, the scale
/// of attention for one. What it makes of parameters (`val_13`, a transposed weight) has more.
pub(crate) fn is_constant(name: &str, tensor: &Tensor) -> bool {
    let numbered =
        name.strip_prefix("val_").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    numbered && tensor.n_elements() == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;
    use crate::graph::{Attribute, DataType, Node, Tensor};

    #[test]
    fn tied_initialisers_become_independent() {
        let mut b = Builder::new("tied", 17);
        b.input("x", DataType::F32, vec!["batch".into(), 2.into()]).unwrap();
        b.initializer("a", Tensor::from_f32(&[2], &[1.0, 2.0])).unwrap();
        b.op_named("Identity", &["a"], &[], "b").unwrap();
        b.op_named("Identity", &["b"], &[], "c").unwrap();
        b.op_named("Identity", &["x"], &[], "same").unwrap();
        let sum = b.op("Add", &["same", "c"], &[]).unwrap();
        b.op_named("Identity", &["a"], &[], "y").unwrap();
        b.output(&sum).unwrap();
        b.output("y").unwrap();
        let mut graph = b.finish();
        undo(&mut graph).unwrap();
        assert_eq!(graph.initializers["b"], graph.initializers["a"]);
        assert_eq!(graph.initializers["c"], graph.initializers["a"]);
        let ops: Vec<&str> = graph.nodes.iter().map(|n| n.op.as_str()).collect();
        assert_eq!(ops, ["Identity", "Add", "Identity"], "of `same`, the sum, and the output `y`");
    }

    #[test]
    fn training_mode_is_taken_back() {
        let node = |op: &str, inputs: &[&str], outputs: &[&str]| Node {
            name: op.to_owned(),
            op: op.to_owned(),
            domain: String::new(),
            inputs: inputs.iter().map(|&s| s.to_owned()).collect(),
            outputs: outputs.iter().map(|&s| s.to_owned()).collect(),
            attributes: Default::default(),
        };
        let mut graph = Builder::new("training", 17).finish();
        graph.nodes.push(node(
            "BatchNormalization",
            &["x", "scale", "bias", "mean", "var"],
            &["y", "m", "v"],
        ));
        graph.nodes[0].attributes.insert("training_mode".to_owned(), Attribute::Int(1));
        graph.nodes[0].attributes.insert("momentum".to_owned(), Attribute::Float(0.9));
        graph.nodes.push(node("Dropout", &["y", "ratio", "training"], &["z", "mask"]));
        graph.nodes.push(node("BatchNormalization", &["z", "scale", "bias", "m", "v"], &["a", "m2", "v2"]));
        graph.nodes.push(node("BatchNormalization", &["a", "scale", "bias", "m2", "v2"], &["b", "m3", "v3"]));
        undo(&mut graph).unwrap();
        assert_eq!(graph.nodes[0].outputs, ["y"]);
        assert_eq!(graph.nodes[0].attributes.keys().collect::<Vec<_>>(), ["momentum"]);
        assert_eq!(graph.nodes[1].inputs, ["y", "ratio"]);
        for (i, input, output) in [(2, "z", "a"), (3, "a", "b")] {
            assert_eq!(graph.nodes[i].inputs, [input, "scale", "bias", "mean", "var"]);
            assert_eq!(graph.nodes[i].outputs, [output]);
        }
    }
}
