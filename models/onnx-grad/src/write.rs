//! From a [`Graph`] to ONNX bytes, the same bytes for the same graph.

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message;

use crate::graph::{Attribute, DataType, Dim, Graph, Node, Tensor, ValueInfo};
use crate::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    attribute_type, data_type,
};

impl Graph {
    /// The model as a file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let domains: BTreeSet<&str> = self.nodes.iter().map(|n| n.domain.as_str()).collect();
        let standard = OperatorSetIdProto { domain: Some(String::new()), version: Some(self.opset.into()) };
        // Nodes of other domains are carried along; version 1 is what their vendors' operators have.
        let others = domains
            .into_iter()
            .filter(|d| !d.is_empty())
            .map(|d| OperatorSetIdProto { domain: Some(d.to_owned()), version: Some(1) });
        let model = ModelProto {
            ir_version: Some(ir_version(self.opset)),
            // Without a version: the same graph has the same bytes, and so the same digest, in every release.
            producer_name: Some("onnx-grad".to_owned()),
            graph: Some(GraphProto {
                node: self.nodes.iter().map(write_node).collect(),
                name: Some(self.name.clone()),
                initializer: self.initializers.iter().map(|(name, t)| write_tensor(name, t)).collect(),
                input: self.inputs.iter().map(write_value_info).collect(),
                output: self.outputs.iter().map(write_value_info).collect(),
                sparse_initializer: Vec::new(),
            }),
            opset_import: std::iter::once(standard).chain(others).collect(),
            metadata_props: self
                .metadata
                .iter()
                .map(|(k, v)| StringStringEntryProto { key: Some(k.clone()), value: Some(v.clone()) })
                .collect(),
            functions: Vec::new(),
        };
        model.encode_to_vec()
    }

    /// # Errors
    /// Whatever the file system answers.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, self.encode())
    }
}

/// The oldest IR version that goes with an opset, so that old runtimes accept the file.
fn ir_version(opset: u32) -> i64 {
    match opset {
        0..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        _ => 10,
    }
}

fn write_node(node: &Node) -> NodeProto {
    NodeProto {
        input: node.inputs.clone(),
        output: node.outputs.clone(),
        name: Some(node.name.clone()),
        op_type: Some(node.op.clone()),
        attribute: node.attributes.iter().map(|(name, value)| write_attribute(name, value)).collect(),
        domain: (!node.domain.is_empty()).then(|| node.domain.clone()),
    }
}

fn write_attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..Default::default() };
    let code = match value {
        Attribute::Float(v) => {
            proto.f = Some(*v);
            attribute_type::FLOAT
        }
        Attribute::Int(v) => {
            proto.i = Some(*v);
            attribute_type::INT
        }
        Attribute::String(v) => {
            proto.s = Some(v.as_bytes().to_vec());
            attribute_type::STRING
        }
        Attribute::Tensor(v) => {
            proto.t = Some(write_tensor("", v));
            attribute_type::TENSOR
        }
        Attribute::Floats(v) => {
            proto.floats.clone_from(v);
            attribute_type::FLOATS
        }
        Attribute::Ints(v) => {
            proto.ints.clone_from(v);
            attribute_type::INTS
        }
        Attribute::Strings(v) => {
            proto.strings = v.iter().map(|s| s.as_bytes().to_vec()).collect();
            attribute_type::STRINGS
        }
    };
    proto.r#type = Some(code);
    proto
}

/// ONNX's number for an element type, as `Cast` and `TensorProto` hold it.
pub(crate) fn data_type_code(dtype: DataType) -> i32 {
    match dtype {
        DataType::F32 => data_type::FLOAT,
        DataType::U8 => data_type::UINT8,
        DataType::I8 => data_type::INT8,
        DataType::I32 => data_type::INT32,
        DataType::I64 => data_type::INT64,
        DataType::Bool => data_type::BOOL,
        DataType::F16 => data_type::FLOAT16,
        DataType::F64 => data_type::DOUBLE,
        DataType::BF16 => data_type::BFLOAT16,
    }
}

/// The element type of ONNX's number for it.
pub(crate) fn data_type_of_code(code: i64) -> Option<DataType> {
    const TYPES: [DataType; 9] = [
        DataType::F32,
        DataType::U8,
        DataType::I8,
        DataType::I32,
        DataType::I64,
        DataType::Bool,
        DataType::F16,
        DataType::F64,
        DataType::BF16,
    ];
    TYPES.into_iter().find(|t| i64::from(data_type_code(*t)) == code)
}

fn write_tensor(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        dims: tensor.dims.iter().map(|&d| d as i64).collect(),
        data_type: Some(data_type_code(tensor.dtype)),
        name: Some(name.to_owned()),
        raw_data: Some(tensor.bytes.clone()),
        ..Default::default()
    }
}

fn write_value_info(info: &ValueInfo) -> ValueInfoProto {
    let dim = |dim: &Dim| match dim {
        Dim::Size(n) => DimensionProto { dim_value: Some(*n as i64), dim_param: None },
        Dim::Symbol(s) => DimensionProto { dim_value: None, dim_param: Some(s.clone()) },
    };
    ValueInfoProto {
        name: Some(info.name.clone()),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: Some(data_type_code(info.dtype)),
                shape: Some(TensorShapeProto { dim: info.shape.iter().map(dim).collect() }),
            }),
        }),
    }
}
