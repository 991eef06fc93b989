//! What can go wrong, each with the data a caller needs to act.

use crate::graph::DataType;

/// One operator of the forward graph that has no derivative rule here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnsupportedNode {
    pub op: String,
    pub domain: String,
    pub opset: u32,
    pub node: String,
}

#[derive(Debug, thiserror::Error)]
pub enum GradError {
    #[error("expected {expected}, found a tensor of {found}")]
    ElementType { expected: &'static str, found: DataType },
    #[error("attribute `{name}` of {op} node `{node}` is not {expected}")]
    Attribute { node: String, op: String, name: String, expected: &'static str },
    #[error("{op} node `{node}`: expected {expected}, found {found}")]
    Shape { node: String, op: String, expected: String, found: String },
    #[error("{op} node `{node}` reads `{value}`, which no input, initialiser or earlier node gives")]
    UnknownValue { node: String, op: String, value: String },
    #[error("the graph has no value `{value}`; it has {known}")]
    NoSuchValue { value: String, known: String },
    #[error("value `{value}` is defined twice")]
    Redefined { value: String },
    #[error("no derivative rule for {}", list_unsupported(.0))]
    Unsupported(Vec<UnsupportedNode>),
}

fn list_unsupported(nodes: &[UnsupportedNode]) -> String {
    nodes
        .iter()
        .map(|n| {
            let domain = if n.domain.is_empty() { "ai.onnx" } else { &n.domain };
            format!("`{}` ({domain} opset {}) at node `{}`", n.op, n.opset, n.node)
        })
        .collect::<Vec<_>>()
        .join(", ")
}
