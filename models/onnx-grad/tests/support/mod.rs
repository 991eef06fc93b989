//! Runs a graph on stock ONNX Runtime.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use onnx_grad::graph::{DataType, Graph, Tensor};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::{DynValue, Tensor as OrtTensor, TensorElementType};

fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let path = std::env::var("ORT_DYLIB_PATH")
            .expect("ORT_DYLIB_PATH must name libonnxruntime.so; `make runtime` brings one");
        let path = std::path::absolute(path).expect("the working directory exists");
        ort::init_from(path)
            .expect("ONNX Runtime loads")
            .with_telemetry(false)
            .build()
            .expect("an environment is created")
    })
}

/// A loaded graph.
pub struct Runner {
    session: Session,
}

impl Runner {
    pub fn new(graph: &Graph) -> Self {
        Self::load(graph).unwrap_or_else(|e| panic!("ONNX Runtime refuses graph `{}`: {e}", graph.name))
    }

    /// # Errors
    /// What ONNX Runtime says against the graph.
    pub fn load(graph: &Graph) -> ort::Result<Self> {
        let session = Session::builder(environment())
            .and_then(|b| Ok(b.with_intra_threads(1)?))
            .and_then(|mut b| b.commit_from_memory(&graph.encode()))?;
        Ok(Runner { session })
    }

    /// Outputs by name. Feeds that the graph does not take are left out.
    pub fn run(&mut self, feeds: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
        self.try_run(feeds).unwrap_or_else(|e| panic!("the graph runs: {e}"))
    }

    /// As [`Runner::run`].
    ///
    /// # Errors
    /// What ONNX Runtime says against the inputs.
    pub fn try_run(&mut self, feeds: &[(&str, Tensor)]) -> ort::Result<BTreeMap<String, Tensor>> {
        let taken: Vec<String> = self.session.inputs().iter().map(|i| i.name().to_owned()).collect();
        let inputs: Vec<(String, DynValue)> = feeds
            .iter()
            .filter(|(name, _)| taken.iter().any(|t| t == name))
            .map(|(name, tensor)| ((*name).to_owned(), to_ort(tensor)))
            .collect();
        let outputs = self.session.run(inputs)?;
        Ok(outputs.iter().map(|(name, value)| (name.to_owned(), from_ort(&value))).collect())
    }
}

/// Runs a graph once.
#[allow(dead_code)] // Not every test binary that includes this file needs it.
pub fn run(graph: &Graph, feeds: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
    Runner::new(graph).run(feeds)
}

fn to_ort(tensor: &Tensor) -> DynValue {
    let dims: Vec<i64> = tensor.dims.iter().map(|&d| d as i64).collect();
    let bytes = &tensor.bytes;
    match tensor.dtype {
        DataType::F32 => {
            let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            OrtTensor::from_array((dims, values)).unwrap().into_dyn()
        }
        DataType::F64 => {
            let values: Vec<f64> = bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
            OrtTensor::from_array((dims, values)).unwrap().into_dyn()
        }
        DataType::I64 => OrtTensor::from_array((dims, tensor.to_i64().unwrap())).unwrap().into_dyn(),
        DataType::I32 => {
            let values: Vec<i32> = bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
            OrtTensor::from_array((dims, values)).unwrap().into_dyn()
        }
        DataType::Bool => {
            let values: Vec<bool> = bytes.iter().map(|&b| b != 0).collect();
            OrtTensor::from_array((dims, values)).unwrap().into_dyn()
        }
        other => panic!("no test feeds {other}"),
    }
}

fn from_ort(value: &ort::value::ValueRef<'_>) -> Tensor {
    fn bytes<T: Copy, const N: usize>(values: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|&v| to_bytes(v)).collect()
    }
    let dims = |shape: &ort::value::Shape| shape.iter().map(|&d| d as usize).collect();
    match value.dtype().tensor_type() {
        Some(TensorElementType::Float32) => {
            let (shape, values) = value.try_extract_tensor::<f32>().unwrap();
            Tensor { dtype: DataType::F32, dims: dims(shape), bytes: bytes(values, f32::to_le_bytes) }
        }
        Some(TensorElementType::Float64) => {
            let (shape, values) = value.try_extract_tensor::<f64>().unwrap();
            Tensor { dtype: DataType::F64, dims: dims(shape), bytes: bytes(values, f64::to_le_bytes) }
        }
        Some(TensorElementType::Int64) => {
            let (shape, values) = value.try_extract_tensor::<i64>().unwrap();
            Tensor { dtype: DataType::I64, dims: dims(shape), bytes: bytes(values, i64::to_le_bytes) }
        }
        Some(TensorElementType::Int32) => {
            let (shape, values) = value.try_extract_tensor::<i32>().unwrap();
            Tensor { dtype: DataType::I32, dims: dims(shape), bytes: bytes(values, i32::to_le_bytes) }
        }
        Some(TensorElementType::Int8) => {
            let (shape, values) = value.try_extract_tensor::<i8>().unwrap();
            Tensor { dtype: DataType::I8, dims: dims(shape), bytes: bytes(values, i8::to_le_bytes) }
        }
        Some(TensorElementType::Uint8) => {
            let (shape, values) = value.try_extract_tensor::<u8>().unwrap();
            Tensor { dtype: DataType::U8, dims: dims(shape), bytes: bytes(values, u8::to_le_bytes) }
        }
        Some(TensorElementType::Bool) => {
            let (shape, values) = value.try_extract_tensor::<bool>().unwrap();
            let to_byte = |v| [u8::from(v)];
            Tensor { dtype: DataType::Bool, dims: dims(shape), bytes: bytes(values, to_byte) }
        }
        other => panic!("no test reads {other:?}"),
    }
}
