//! From ONNX bytes to a [`Graph`]: everything about a file is checked here, before anything is computed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use prost::Message;

use crate::error::ReadError;
use crate::exporter;
use crate::graph::{Attribute, DataType, Dim, Graph, Node, Shape, Tensor, ValueInfo};
use crate::proto::{
    AttributeProto, DATA_LOCATION_EXTERNAL, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
    attribute_type, data_type,
};
use crate::vjp::OPSETS;

/// Protobuf's own limit for one message, and ours for a file of tensor data.
const MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024 - 1;

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
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_BYTES {
        return Err(ReadError::TooLarge { path: path.to_owned(), size_bytes: size, limit_bytes: MAX_BYTES });
    }
    fs::read(path).map_err(failed)
}

fn decode(bytes: &[u8], folder: Option<&Path>) -> Result<Graph, ReadError> {
    let model = ModelProto::decode(bytes).map_err(ReadError::Protobuf)?;
    let graph = model.graph.ok_or(ReadError::NoGraph)?;
    if let Some(function) = model.functions.first() {
        return Err(ReadError::Function { name: function.name.clone().unwrap_or_default() });
    }
    let opset = model
        .opset_import
        .iter()
        .filter(|o| matches!(o.domain.as_deref(), None | Some("" | "ai.onnx")))
        .find_map(|o| o.version)
        .unwrap_or(1);
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
    let mut initializers = BTreeMap::new();
    for tensor in proto.initializer {
        let name = tensor.name.clone().unwrap_or_default();
        let tensor = read_tensor(tensor, &name, folder)?;
        if initializers.insert(name.clone(), tensor).is_some() {
            return Err(ReadError::DuplicateInitializer { name });
        }
    }
    let mut n_unnamed = 0;
    let mut inputs = Vec::new();
    for input in &proto.input {
        // Before IR version 4 every initialiser was listed among the inputs too.
        if !initializers.contains_key(input.name.as_deref().unwrap_or_default()) {
            inputs.push(read_value_info(input, &mut n_unnamed)?);
        }
    }
    let outputs =
        proto.output.iter().map(|o| read_value_info(o, &mut n_unnamed)).collect::<Result<_, _>>()?;
    let mut names = BTreeSet::new();
    let mut nodes = Vec::with_capacity(proto.node.len());
    for node in proto.node {
        nodes.push(read_node(node, &mut names)?);
    }
    let name = proto.name.unwrap_or_default();
    let mut graph = Graph { name, opset, inputs, outputs, initializers, nodes, metadata };
    exporter::undo(&mut graph);
    Ok(graph)
}

fn read_value_info(info: &ValueInfoProto, n_unnamed: &mut usize) -> Result<ValueInfo, ReadError> {
    let name = info.name.clone().unwrap_or_default();
    let tensor = info
        .r#type
        .as_ref()
        .and_then(|t| t.tensor_type.as_ref())
        .ok_or_else(|| ReadError::NotATensor { name: name.clone() })?;
    let dtype = read_data_type(tensor.elem_type.unwrap_or(0), &name)?;
    let dims = tensor.shape.as_ref().ok_or_else(|| ReadError::NoShape { name: name.clone() })?;
    let shape: Shape = dims
        .dim
        .iter()
        .map(|dim| match (dim.dim_value.and_then(|n| usize::try_from(n).ok()), dim.dim_param.as_deref()) {
            (Some(n), _) => Dim::Size(n),
            (None, Some(symbol)) if !symbol.is_empty() => Dim::Symbol(symbol.to_owned()),
            _ => {
                *n_unnamed += 1;
                Dim::Symbol(format!("unnamed_{}", *n_unnamed - 1))
            }
        })
        .collect();
    Ok(ValueInfo { name, dtype, shape })
}

fn read_node(node: NodeProto, names: &mut BTreeSet<String>) -> Result<Node, ReadError> {
    let op = node.op_type.unwrap_or_default();
    let stem = node
        .name
        .filter(|n| !n.is_empty())
        .or_else(|| node.output.iter().find(|o| !o.is_empty()).cloned())
        .unwrap_or_else(|| op.clone());
    let name = (0_usize..)
        .map(|i| if i == 0 { stem.clone() } else { format!("{stem}_{i}") })
        .find(|name| names.insert(name.clone()))
        .expect("invariant: an unused number exists");
    let mut attributes = BTreeMap::new();
    for attribute in node.attribute {
        let key = attribute.name.clone().unwrap_or_default();
        let value = read_attribute(attribute, &op, &name)?;
        attributes.insert(key, value);
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

fn read_tensor(proto: TensorProto, name: &str, folder: Option<&Path>) -> Result<Tensor, ReadError> {
    let dtype = read_data_type(proto.data_type.unwrap_or(0), name)?;
    let negative = || ReadError::Dimensions { name: name.to_owned(), dims: proto.dims.clone() };
    let dims: Vec<usize> =
        proto.dims.iter().map(|&d| usize::try_from(d).map_err(|_| negative())).collect::<Result<_, _>>()?;
    let expected = dims
        .iter()
        .try_fold(dtype.size_bytes(), |n, &d| n.checked_mul(d))
        .filter(|&n| n as u64 <= MAX_BYTES)
        .ok_or_else(negative)?;
    let bytes = if proto.data_location == Some(DATA_LOCATION_EXTERNAL) {
        read_external(&proto, name, folder, expected)?
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

/// Tensor data in another file: only one that lies in the model's own folder, under a bare name.
fn read_external(
    proto: &TensorProto,
    name: &str,
    folder: Option<&Path>,
    expected: usize,
) -> Result<Vec<u8>, ReadError> {
    let entry = |key: &str| {
        proto.external_data.iter().find(|e| e.key.as_deref() == Some(key)).and_then(|e| e.value.as_deref())
    };
    let location = entry("location").unwrap_or_default();
    let refused = || ReadError::ExternalLocation { name: name.to_owned(), location: location.to_owned() };
    let mut components = Path::new(location).components();
    let (Some(Component::Normal(file)), None) = (components.next(), components.next()) else {
        return Err(refused());
    };
    let path: PathBuf = folder.ok_or_else(refused)?.join(file);
    let failed = |source| ReadError::Io { path: path.clone(), source };
    if !fs::symlink_metadata(&path).map_err(failed)?.is_file() {
        return Err(refused());
    }
    let number = |key: &str| -> Result<Option<usize>, ReadError> {
        entry(key).map(|text| text.parse().map_err(|_| refused())).transpose()
    };
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(expected);
    if length != expected {
        return Err(ReadError::TensorSize { name: name.to_owned(), expected, found: length });
    }
    let too_short = |size: u64| ReadError::TensorSize {
        name: name.to_owned(),
        expected,
        found: usize::try_from(size.saturating_sub(offset as u64)).unwrap_or(usize::MAX),
    };
    let mut file = fs::File::open(&path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size.checked_sub(offset as u64).is_none_or(|rest| rest < length as u64) {
        return Err(too_short(size));
    }
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset as u64)).map_err(failed)?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
