//! What can go wrong, each with the data a caller needs to act.

use std::path::PathBuf;

use crate::graph::{DataType, Node};

/// One operator of the forward graph that has no derivative rule here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnsupportedNode {
    pub op: String,
    pub domain: String,
    pub opset: u32,
    pub node: String,
}

impl UnsupportedNode {
    pub(crate) fn new(node: &Node, opset: u32) -> Self {
        UnsupportedNode { op: node.op.clone(), domain: node.domain.clone(), opset, node: node.name.clone() }
    }
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
    #[error(
        "value `{value}` is defined twice; names that a training graph feeds (docs/training-graph.md) cannot be values of the forward graph"
    )]
    Redefined { value: String },
    #[error("no parameter is left to train")]
    NothingToTrain,
    #[error("{op} node `{node}`: expected {expected} {what}(s), none left out, found {found}")]
    Arity { node: String, op: String, what: &'static str, expected: String, found: usize },
    #[error("{what}: expected at most {limit} (`limits::{name}`), found {found}")]
    Limit { what: String, found: u64, limit: u64, name: &'static str },
    #[error(
        "operator `{op}` (opset {opset}) at node `{node}` is not known; only operators with known shapes can be used"
    )]
    UnknownOperator { op: String, node: String, opset: u32 },
    #[error("no derivative rule for {}", list_unsupported(.0))]
    Unsupported(Vec<UnsupportedNode>),
    #[error("loss `{value}`: expected a floating scalar, found {found}")]
    LossNotScalar { value: String, found: String },
    #[error(
        "`{name}` is to be trained: expected a floating initialiser that reaches the loss, found {found}"
    )]
    NotTrainable { name: String, found: &'static str },
    #[error("`{name}` is to be held: expected an initialiser that training leaves alone, found {found}")]
    NotHeld { name: String, found: &'static str },
    #[error("`{pattern}` is to be recomputed, but no node or value has such a name")]
    NothingToRecompute { pattern: String },
    #[error(
        "{op} node `{node}`: the rule gives input {input} a gradient of shape {found}, expected {expected}"
    )]
    GradientShape { node: String, op: String, input: usize, expected: String, found: String },
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

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot use `{}`", .path.display())]
    File { path: PathBuf, source: Box<ReadError> },
    #[error("cannot read `{}`", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("`{}` has {size_bytes} bytes, expected at most {limit_bytes}", .path.display())]
    TooLarge { path: PathBuf, size_bytes: u64, limit_bytes: u64 },
    #[error("`{}` is no regular file", .path.display())]
    NotAFile { path: PathBuf },
    #[error("{what}: expected at most {limit} (`limits::{name}`), found {found}")]
    Limit { what: String, found: u64, limit: u64, name: &'static str },
    #[error("not an ONNX file")]
    Protobuf(#[source] prost::DecodeError),
    #[error("not an ONNX file: it holds no graph")]
    NoGraph,
    #[error(
        "expected ai.onnx opset {first} to {last}, found {found}; export the model again with such an opset_version"
    )]
    Opset { found: i64, first: u32, last: u32 },
    #[error("the file imports no opset of ai.onnx")]
    NoOpset,
    #[error("the file imports opsets {first} and {second} of ai.onnx")]
    TwoOpsets { first: i64, second: i64 },
    #[error("model-local function `{name}` is not supported; export the model with its functions inlined")]
    Function { name: String },
    #[error("sparse initialisers are not supported")]
    SparseInitializer,
    #[error("initialiser `{name}` is there twice")]
    DuplicateInitializer { name: String },
    #[error("{what} has no name")]
    NoName { what: &'static str },
    #[error("value `{value}` is given by {first} and by {second}")]
    Redefined { value: String, first: String, second: String },
    #[error("output `{name}` is there twice")]
    DuplicateOutput { name: String },
    #[error("output `{name}` is given by no input, initialiser or node")]
    UnknownOutput { name: String },
    #[error("{op} node `{node}` reads `{value}`, which no input, initialiser or node gives")]
    UnknownValue { node: String, op: String, value: String },
    #[error(
        "{op} node `{node}` reads `{value}`, which only the later node `{giver}` gives; expected nodes in topological \
         order, as ONNX requires"
    )]
    Order { node: String, op: String, value: String, giver: String },
    #[error("the nodes {} read each other's outputs in a circle", list(.nodes))]
    Cycle { nodes: Vec<String> },
    #[error("`{name}` is not a tensor")]
    NotATensor { name: String },
    #[error("`{name}` has no shape; export the model with shapes for its inputs and outputs")]
    NoShape { name: String },
    #[error("`{name}` has ONNX element type {code}, which is not supported")]
    ElementType { name: String, code: i32 },
    #[error("tensor `{name}` has dimensions {dims:?}, which no tensor can have")]
    Dimensions { name: String, dims: Vec<i64> },
    #[error("tensor `{name}`: expected {expected} bytes, found {found}")]
    TensorSize { name: String, expected: usize, found: usize },
    #[error("tensor `{name}` lies in `{location}`, expected a file of a bare name in the model's own folder")]
    ExternalLocation { name: String, location: String },
    #[error(
        "tensor `{name}` lies in another file, `{location}`, but the model was given as bytes, without a folder"
    )]
    NoFolder { name: String, location: String },
    #[error("`{reader}` reads `{value}`, a statistic that BatchNormalization gives in training mode only")]
    MovedStatistic { value: String, reader: String },
    #[error("attribute `{name}` of {op} node `{node}` is there twice")]
    DuplicateAttribute { op: String, node: String, name: String },
    #[error("attribute `{name}` of {op} node `{node}` holds {found}, which is not supported")]
    Attribute { op: String, node: String, name: String, found: &'static str },
}

/// The first few names; a circle of nodes can be long.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}
