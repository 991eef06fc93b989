//! From ONNX bytes to a [`Graph`]: everything about a file is checked here, before anything is computed.

mod external;
mod order;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::Path;

use prost::Message;

use crate::error::ReadError;
use crate::exporter;
use crate::graph::{Attribute, DataType, Dim, Graph, Node, Shape, Tensor, ValueInfo};
use crate::limits::{MAX_FILE_BYTES, MAX_NAME_BYTES, MAX_NODES};
use crate::proto::{
    AttributeProto, DATA_LOCATION_EXTERNAL, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
    attribute_type, data_type,
};
use crate::vjp::OPSETS;

impl Graph {
    /// Reads a model. Tensor data may lie in other files of the same folder, as PyTorch writes it.
    ///
    /// # Errors
    /// [`ReadError`], naming the file and what in it is refused.
    pub fn read(path: &Path) -> Result<Graph, ReadError> {
        let bytes = read_file(path)?;
        decode(&bytes, path.parent().map(Path::to_owned).as_deref())
            .map_err(|source| ReadError::File { path: path.to_owned(), source: Box::new(source) })
    }

    /// Decodes a model that holds all its tensors.
    ///
    /// # Errors
    /// [`ReadError`], naming what is refused.
    pub fn decode(bytes: &[u8]) -> Result<Graph, ReadError> {
        decode(bytes, None)
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(failed)?;
    // A device or a pipe may never end, or never begin.
    if !metadata.is_file() {
        return Err(ReadError::NotAFile { path: path.to_owned() });
    }
    let too_large =
        |size_bytes| ReadError::TooLarge { path: path.to_owned(), size_bytes, limit_bytes: MAX_FILE_BYTES };
    if metadata.len() > MAX_FILE_BYTES {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

fn decode(bytes: &[u8], folder: Option<&Path>) -> Result<Graph, ReadError> {
    let model = ModelProto::decode(bytes).map_err(ReadError::Protobuf)?;
    let graph = model.graph.ok_or(ReadError::NoGraph)?;
    if let Some(function) = model.functions.first() {
        return Err(ReadError::Function { name: function.name.clone().unwrap_or_default() });
    }
    let mut opsets = model
        .opset_import
        .iter()
        .filter(|o| matches!(o.domain.as_deref(), None | Some("" | "ai.onnx")))
        .map(|o| o.version.unwrap_or(0));
    let opset = opsets.next().ok_or(ReadError::NoOpset)?;
    if let Some(second) = opsets.find(|&o| o != opset) {
        return Err(ReadError::TwoOpsets { first: opset, second });
    }
    let opset = u32::try_from(opset).ok().filter(|v| OPSETS.contains(v)).ok_or(ReadError::Opset {
        found: opset,
        first: *OPSETS.start(),
        last: *OPSETS.end(),
    })?;
    let metadata = model
        .metadata_props
        .into_iter()
        .map(|entry| (entry.key.unwrap_or_default(), entry.value.unwrap_or_default()))
        .collect();
    read_graph(graph, opset, metadata, folder)
}

fn read_graph(
    proto: GraphProto,
    opset: u32,
    metadata: BTreeMap<String, String>,
    folder: Option<&Path>,
) -> Result<Graph, ReadError> {
    if !proto.sparse_initializer.is_empty() {
        return Err(ReadError::SparseInitializer);
    }
    // Before any is read: many tensors may lie at one place of another file.
    let mut n_bytes = 0;
    for tensor in &proto.initializer {
        n_bytes += Extent::of(tensor, tensor.name())?.n_bytes as u64;
    }
    if n_bytes > MAX_FILE_BYTES {
        return Err(exceeded("bytes of initialisers".to_owned(), n_bytes, MAX_FILE_BYTES, "MAX_FILE_BYTES"));
    }
    let mut initializers = BTreeMap::new();
    for tensor in proto.initializer {
        let name = checked_name(tensor.name.as_deref(), "an initialiser")?;
        let tensor = read_tensor(tensor, &name, folder)?;
        if initializers.insert(name.clone(), tensor).is_some() {
            return Err(ReadError::DuplicateInitializer { name });
        }
    }
    let mut symbols = Symbols::of(proto.input.iter().chain(&proto.output));
    let mut inputs = Vec::new();
    for input in &proto.input {
        // Before IR version 4 every initialiser was listed among the inputs too.
        if !initializers.contains_key(input.name.as_deref().unwrap_or_default()) {
            inputs.push(read_value_info(input, "an input", &mut symbols)?);
        }
    }
    let outputs = proto
        .output
        .iter()
        .map(|o| read_value_info(o, "an output", &mut symbols))
        .collect::<Result<_, _>>()?;
    if proto.node.len() > MAX_NODES {
        return Err(exceeded("nodes".to_owned(), proto.node.len() as u64, MAX_NODES as u64, "MAX_NODES"));
    }
    let mut names = NodeNames::default();
    let mut nodes = Vec::with_capacity(proto.node.len());
    for node in proto.node {
        nodes.push(read_node(node, &mut names)?);
    }
    let name = proto.name.unwrap_or_default();
    let mut graph = Graph { name, opset, inputs, outputs, initializers, nodes, metadata };
    order::check(&graph)?;
    exporter::undo(&mut graph)?;
    Ok(graph)
}

fn exceeded(what: String, found: u64, limit: u64, name: &'static str) -> ReadError {
    ReadError::Limit { what, found, limit, name }
}

/// The name of `what`, which must have one.
fn checked_name(name: Option<&str>, what: &'static str) -> Result<String, ReadError> {
    let name = name.filter(|n| !n.is_empty()).ok_or(ReadError::NoName { what })?;
    check_length(name)?;
    Ok(name.to_owned())
}

fn check_length(name: &str) -> Result<(), ReadError> {
    if name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    let start: String = name.chars().take(32).collect();
    let what = format!("bytes of the name `{start}...`");
    Err(exceeded(what, name.len() as u64, MAX_NAME_BYTES as u64, "MAX_NAME_BYTES"))
}

/// Names for dimensions that have neither a size nor a name, each another than all in the file.
struct Symbols<'a> {
    taken: HashSet<&'a str>,
    n_unnamed: usize,
}

impl<'a> Symbols<'a> {
    fn of(infos: impl Iterator<Item = &'a ValueInfoProto>) -> Self {
        let tensors = infos.filter_map(|i| i.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref());
        let taken = tensors.flat_map(|shape| &shape.dim).filter_map(|d| d.dim_param.as_deref()).collect();
        Symbols { taken, n_unnamed: 0 }
    }

    fn unnamed(&mut self) -> Dim {
        loop {
            let name = format!("unnamed_{}", self.n_unnamed);
            self.n_unnamed += 1;
            if !self.taken.contains(name.as_str()) {
                return Dim::Symbol(name);
            }
        }
    }
}

/// Names of nodes, made unique.
#[derive(Default)]
struct NodeNames {
    taken: BTreeSet<String>,
    /// Next number to try behind a name that is taken.
    next: HashMap<String, usize>,
}

impl NodeNames {
    fn unique(&mut self, stem: String) -> String {
        if self.taken.insert(stem.clone()) {
            return stem;
        }
        let next = self.next.entry(stem.clone()).or_insert(1);
        loop {
            let name = format!("{stem}_{next}");
            *next += 1;
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

fn read_value_info(
    info: &ValueInfoProto,
    what: &'static str,
    symbols: &mut Symbols<'_>,
) -> Result<ValueInfo, ReadError> {
    let name = checked_name(info.name.as_deref(), what)?;
    let tensor = info
        .r#type
        .as_ref()
        .and_then(|t| t.tensor_type.as_ref())
        .ok_or_else(|| ReadError::NotATensor { name: name.clone() })?;
    let dtype = read_data_type(tensor.elem_type.unwrap_or(0), &name)?;
    let dims = tensor.shape.as_ref().ok_or_else(|| ReadError::NoShape { name: name.clone() })?;
    let mut shape = Shape::with_capacity(dims.dim.len());
    for dim in &dims.dim {
        let size = dim.dim_value.and_then(|n| usize::try_from(n).ok());
        shape.push(match (size, dim.dim_param.as_deref()) {
            (Some(n), _) => Dim::Size(n),
            (None, Some(symbol)) if !symbol.is_empty() => {
                check_length(symbol)?;
                Dim::Symbol(symbol.to_owned())
            }
            _ => symbols.unnamed(),
        });
    }
    Ok(ValueInfo { name, dtype, shape })
}

fn read_node(node: NodeProto, names: &mut NodeNames) -> Result<Node, ReadError> {
    let op = node.op_type.unwrap_or_default();
    let stem = node
        .name
        .filter(|n| !n.is_empty())
        .or_else(|| node.output.iter().find(|o| !o.is_empty()).cloned())
        .unwrap_or_else(|| op.clone());
    for name in node.input.iter().chain(&node.output).chain([&stem]) {
        check_length(name)?;
    }
    let name = names.unique(stem);
    let mut attributes = BTreeMap::new();
    for attribute in node.attribute {
        let key = attribute.name.clone().unwrap_or_default();
        let value = read_attribute(attribute, &op, &name)?;
        if attributes.insert(key.clone(), value).is_some() {
            return Err(ReadError::DuplicateAttribute { op, node: name, name: key });
        }
    }
    let domain = node.domain.filter(|d| d != "ai.onnx").unwrap_or_default();
    Ok(Node { name, op, domain, inputs: node.input, outputs: node.output, attributes })
}

fn read_attribute(attribute: AttributeProto, op: &str, node: &str) -> Result<Attribute, ReadError> {
    let name = attribute.name.clone().unwrap_or_default();
    let refused = |what| ReadError::Attribute {
        op: op.to_owned(),
        node: node.to_owned(),
        name: name.clone(),
        found: what,
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| refused("bytes that are not UTF-8"));
    if attribute.g.is_some() {
        return Err(refused("a subgraph (control flow)"));
    }
    if attribute.ref_attr_name.is_some_and(|r| !r.is_empty()) {
        return Err(refused("a reference to a function's attribute"));
    }
    match attribute.r#type.unwrap_or(0) {
        attribute_type::FLOAT => Ok(Attribute::Float(attribute.f.unwrap_or(0.0))),
        attribute_type::INT => Ok(Attribute::Int(attribute.i.unwrap_or(0))),
        attribute_type::STRING => Ok(Attribute::String(text(attribute.s.unwrap_or_default())?)),
        attribute_type::TENSOR => {
            let tensor = attribute.t.ok_or_else(|| refused("no tensor"))?;
            Ok(Attribute::Tensor(read_tensor(tensor, &name, None)?))
        }
        attribute_type::FLOATS => Ok(Attribute::Floats(attribute.floats)),
        attribute_type::INTS => Ok(Attribute::Ints(attribute.ints)),
        attribute_type::STRINGS => {
            Ok(Attribute::Strings(attribute.strings.into_iter().map(text).collect::<Result<_, _>>()?))
        }
        attribute_type::GRAPH | attribute_type::GRAPHS => Err(refused("a subgraph (control flow)")),
        attribute_type::SPARSE_TENSOR => Err(refused("a sparse tensor")),
        attribute_type::UNDEFINED => Err(refused("a value of undefined type")),
        _ => Err(refused("an attribute type that no supported operator has")),
    }
}

fn read_data_type(code: i32, name: &str) -> Result<DataType, ReadError> {
    match code {
        data_type::FLOAT => Ok(DataType::F32),
        data_type::UINT8 => Ok(DataType::U8),
        data_type::INT8 => Ok(DataType::I8),
        data_type::INT32 => Ok(DataType::I32),
        data_type::INT64 => Ok(DataType::I64),
        data_type::BOOL => Ok(DataType::Bool),
        data_type::FLOAT16 => Ok(DataType::F16),
        data_type::DOUBLE => Ok(DataType::F64),
        data_type::BFLOAT16 => Ok(DataType::BF16),
        other => Err(ReadError::ElementType { name: name.to_owned(), code: other }),
    }
}

/// What a tensor says of itself.
struct Extent {
    dtype: DataType,
    dims: Vec<usize>,
    n_bytes: usize,
}

impl Extent {
    fn of(proto: &TensorProto, name: &str) -> Result<Self, ReadError> {
        let dtype = read_data_type(proto.data_type.unwrap_or(0), name)?;
        let impossible = || ReadError::Dimensions { name: name.to_owned(), dims: proto.dims.clone() };
        let dims: Option<Vec<usize>> = proto.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
        let dims = dims.ok_or_else(impossible)?;
        let n_bytes = dims
            .iter()
            .try_fold(dtype.size_bytes(), |n, &d| n.checked_mul(d.max(1)))
            .filter(|&n| n as u64 <= MAX_FILE_BYTES)
            .map(|n| if dims.contains(&0) { 0 } else { n })
            .ok_or_else(impossible)?;
        Ok(Extent { dtype, dims, n_bytes })
    }
}

fn read_tensor(proto: TensorProto, name: &str, folder: Option<&Path>) -> Result<Tensor, ReadError> {
    let Extent { dtype, dims, n_bytes: expected } = Extent::of(&proto, name)?;
    let bytes = if proto.data_location == Some(DATA_LOCATION_EXTERNAL) {
        let entries = proto.external_data.iter();
        let entries = entries.filter_map(|e| Some((e.key.as_deref()?, e.value.as_deref()?))).collect();
        external::read(&entries, name, folder, expected)?
    } else if let Some(raw) = proto.raw_data {
        raw
    } else {
        typed_bytes(&proto, dtype)
    };
    if bytes.len() != expected {
        return Err(ReadError::TensorSize { name: name.to_owned(), expected, found: bytes.len() });
    }
    Ok(Tensor { dtype, dims, bytes })
}

/// Little-endian bytes of the field that the specification gives to this type.
fn typed_bytes(proto: &TensorProto, dtype: DataType) -> Vec<u8> {
    let narrow = |n_bytes: usize| -> Vec<u8> {
        proto.int32_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(n_bytes)).collect()
    };
    match dtype {
        DataType::F32 => proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::F64 => proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::I64 => proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        other => narrow(other.size_bytes()),
    }
}
