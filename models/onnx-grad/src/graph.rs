//! The graph as every other module sees it: no protobuf, names as strings, order as written.

use std::collections::BTreeMap;

use crate::error::GradError;

/// Element type of a tensor, named as in ONNX `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    F16,
    BF16,
    F32,
    F64,
    I8,
    U8,
    I32,
    I64,
    Bool,
}

impl DataType {
    /// Size of one element in bytes.
    pub fn size_bytes(self) -> usize {
        match self {
            DataType::I8 | DataType::U8 | DataType::Bool => 1,
            DataType::F16 | DataType::BF16 => 2,
            DataType::F32 | DataType::I32 => 4,
            DataType::F64 | DataType::I64 => 8,
        }
    }

    /// Gradients exist for these types only.
    pub fn is_float(self) -> bool {
        matches!(self, DataType::F16 | DataType::BF16 | DataType::F32 | DataType::F64)
    }
}

impl std::fmt::Display for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DataType::F16 => "float16",
            DataType::BF16 => "bfloat16",
            DataType::F32 => "float32",
            DataType::F64 => "float64",
            DataType::I8 => "int8",
            DataType::U8 => "uint8",
            DataType::I32 => "int32",
            DataType::I64 => "int64",
            DataType::Bool => "bool",
        })
    }
}

/// One dimension: a number, or a name that stands for the same unknown number everywhere (`batch`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    Size(usize),
    Symbol(String),
}

impl Dim {
    /// The number, if it is known when the graph is derived.
    pub fn size(&self) -> Option<usize> {
        match self {
            Dim::Size(n) => Some(*n),
            Dim::Symbol(_) => None,
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Dim::Size(n)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Dim::Symbol(name.to_owned())
    }
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Dim::Size(n) => write!(f, "{n}"),
            Dim::Symbol(s) => f.write_str(s),
        }
    }
}

/// Dimensions, outermost first. Empty for a scalar.
pub type Shape = Vec<Dim>;

/// A dense tensor in host memory, little endian, row major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub dtype: DataType,
    pub dims: Vec<usize>,
    /// `dims` product times the element size, little endian.
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn from_f32(dims: &[usize], values: &[f32]) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { dtype: DataType::F32, dims: dims.to_vec(), bytes }
    }

    pub fn from_i64(dims: &[usize], values: &[i64]) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { dtype: DataType::I64, dims: dims.to_vec(), bytes }
    }

    /// A floating scalar of type `dtype` (rounded to nearest where it is narrower than f64).
    ///
    /// # Errors
    /// [`GradError::ElementType`] if `dtype` is not a floating type.
    pub fn scalar(dtype: DataType, value: f64) -> Result<Self, GradError> {
        let bytes = match dtype {
            DataType::F32 => (value as f32).to_le_bytes().to_vec(),
            DataType::F64 => value.to_le_bytes().to_vec(),
            DataType::F16 | DataType::BF16 => f16_bytes(dtype, value as f32),
            other => return Err(GradError::ElementType { expected: "a floating type", found: other }),
        };
        Ok(Tensor { dtype, dims: Vec::new(), bytes })
    }

    /// Values of any floating type.
    ///
    /// # Errors
    /// [`GradError::ElementType`] if `dtype` is not a floating type.
    pub fn from_f64(dtype: DataType, dims: &[usize], values: &[f64]) -> Result<Self, GradError> {
        let mut bytes = Vec::with_capacity(values.len() * dtype.size_bytes());
        for &value in values {
            bytes.extend(Tensor::scalar(dtype, value)?.bytes);
        }
        Ok(Tensor { dtype, dims: dims.to_vec(), bytes })
    }

    pub fn zeros(dtype: DataType, dims: &[usize]) -> Self {
        let n_elements: usize = dims.iter().product();
        Tensor { dtype, dims: dims.to_vec(), bytes: vec![0; n_elements * dtype.size_bytes()] }
    }

    pub fn n_elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// # Errors
    /// [`GradError::ElementType`] unless the tensor is float32.
    pub fn to_f32(&self) -> Result<Vec<f32>, GradError> {
        self.require(DataType::F32, "float32")?;
        Ok(self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// # Errors
    /// [`GradError::ElementType`] unless the tensor is int64.
    pub fn to_i64(&self) -> Result<Vec<i64>, GradError> {
        self.require(DataType::I64, "int64")?;
        Ok(self
            .bytes
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            .collect())
    }

    fn require(&self, dtype: DataType, expected: &'static str) -> Result<(), GradError> {
        if self.dtype == dtype { Ok(()) } else { Err(GradError::ElementType { expected, found: self.dtype }) }
    }
}

/// IEEE half or bfloat16 bytes of `value`, rounded to nearest even; overflow gives infinity.
fn f16_bytes(dtype: DataType, value: f32) -> Vec<u8> {
    match dtype {
        DataType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
        _ => half::bf16::from_f32(value).to_le_bytes().to_vec(),
    }
}

/// Value of a node attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Float(f32),
    Int(i64),
    String(String),
    Tensor(Tensor),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<String>),
}

impl From<f32> for Attribute {
    fn from(v: f32) -> Self {
        Attribute::Float(v)
    }
}
impl From<i64> for Attribute {
    fn from(v: i64) -> Self {
        Attribute::Int(v)
    }
}
impl From<&str> for Attribute {
    fn from(v: &str) -> Self {
        Attribute::String(v.to_owned())
    }
}
impl From<Tensor> for Attribute {
    fn from(v: Tensor) -> Self {
        Attribute::Tensor(v)
    }
}
impl From<Vec<i64>> for Attribute {
    fn from(v: Vec<i64>) -> Self {
        Attribute::Ints(v)
    }
}
impl From<&[i64]> for Attribute {
    fn from(v: &[i64]) -> Self {
        Attribute::Ints(v.to_vec())
    }
}

/// One operator call. An empty string among `inputs` or `outputs` is an optional one left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub name: String,
    pub op: String,
    /// Empty for the standard domain `ai.onnx`.
    pub domain: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: BTreeMap<String, Attribute>,
}

impl Node {
    /// The `i`-th input, or `None` where it is absent or left out.
    pub fn input(&self, i: usize) -> Option<&str> {
        self.inputs.get(i).map(String::as_str).filter(|s| !s.is_empty())
    }

    /// The `i`-th output, or `None` where it is absent or left out.
    pub fn output(&self, i: usize) -> Option<&str> {
        self.outputs.get(i).map(String::as_str).filter(|s| !s.is_empty())
    }

    /// The first output that is not left out: no other node has it. Empty where there is none, which shape
    /// inference refuses.
    pub(crate) fn first_output(&self) -> &str {
        self.outputs.iter().map(String::as_str).find(|o| !o.is_empty()).unwrap_or_default()
    }

    /// # Errors
    /// [`GradError::Attribute`] if the attribute is there with another type.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, GradError> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(v)) => Ok(*v),
            Some(_) => Err(self.attribute_error(name, "an integer")),
        }
    }

    /// # Errors
    /// [`GradError::Attribute`] if the attribute is there with another type.
    pub fn float(&self, name: &str, default: f32) -> Result<f32, GradError> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(v)) => Ok(*v),
            Some(_) => Err(self.attribute_error(name, "a float")),
        }
    }

    /// # Errors
    /// [`GradError::Attribute`] if the attribute is there with another type.
    pub fn ints(&self, name: &str) -> Result<Option<&[i64]>, GradError> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(v)) => Ok(Some(v)),
            Some(_) => Err(self.attribute_error(name, "a list of integers")),
        }
    }

    /// # Errors
    /// [`GradError::Attribute`] if the attribute is there with another type.
    pub fn string<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, GradError> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::String(v)) => Ok(v),
            Some(_) => Err(self.attribute_error(name, "a string")),
        }
    }

    fn attribute_error(&self, name: &str, expected: &'static str) -> GradError {
        GradError::Attribute { node: self.name.clone(), op: self.op.clone(), name: name.to_owned(), expected }
    }
}

/// Name, type and shape of a graph input or output.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueInfo {
    pub name: String,
    pub dtype: DataType,
    pub shape: Shape,
}

/// A model: nodes in topological order, initialisers by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub name: String,
    /// Version of the standard domain `ai.onnx`.
    pub opset: u32,
    pub inputs: Vec<ValueInfo>,
    pub outputs: Vec<ValueInfo>,
    pub initializers: BTreeMap<String, Tensor>,
    pub nodes: Vec<Node>,
    /// `metadata_props` of the model.
    pub metadata: BTreeMap<String, String>,
}
