//! Runs a graph on ONNX Runtime's CPU provider.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use onnx_grad::graph::{DataType, Graph, Tensor};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::{DynValue, Tensor as OrtTensor};

/// A graph that is ready to run, any number of times.
pub struct Runner {
    session: Session,
    outputs: Vec<String>,
}

impl Runner {
    /// The error is ONNX Runtime's message.
    pub fn new(graph: &Graph) -> Result<Self, String> {
        let builder = Session::builder(environment()).map_err(|e| e.to_string())?;
        let mut builder = builder.with_intra_threads(1).map_err(|e| e.to_string())?;
        let session = builder.commit_from_memory(&graph.encode()).map_err(|e| e.to_string())?;
        Ok(Runner { session, outputs: graph.outputs.iter().map(|o| o.name.clone()).collect() })
    }

    /// All outputs by name.
    pub fn run(&mut self, feeds: &[(&str, &Tensor)]) -> Result<BTreeMap<String, Tensor>, String> {
        let mut inputs = Vec::new();
        for (name, tensor) in feeds {
            inputs.push(((*name).to_owned(), to_ort(tensor)));
        }
        let results = self.session.run(inputs).map_err(|e| e.to_string())?;
        Ok(self.outputs.iter().map(|name| (name.clone(), from_ort(&results[name.as_str()]))).collect())
    }
}

/// One per process, from the library that `ORT_DYLIB_PATH` names.
fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let library = std::env::var("ORT_DYLIB_PATH").expect("set ORT_DYLIB_PATH to libonnxruntime.so");
        let builder = ort::init_from(&library).unwrap_or_else(|e| panic!("cannot load `{library}`: {e}"));
        builder.with_telemetry(false).build().expect("an environment")
    })
}

fn to_ort(tensor: &Tensor) -> DynValue {
    let dims = tensor.dims.clone();
    match tensor.dtype {
        DataType::F32 => OrtTensor::from_array((dims, tensor.to_f32().unwrap())).unwrap().into_dyn(),
        DataType::F64 => OrtTensor::from_array((dims, to_f64(tensor))).unwrap().into_dyn(),
        DataType::I64 => OrtTensor::from_array((dims, tensor.to_i64().unwrap())).unwrap().into_dyn(),
        other => panic!("no test feeds {other}"),
    }
}

fn from_ort(value: &DynValue) -> Tensor {
    if let Ok((shape, data)) = value.try_extract_tensor::<f32>() {
        return Tensor::from_f32(&dims(shape), data);
    }
    if let Ok((shape, data)) = value.try_extract_tensor::<i64>() {
        return Tensor::from_i64(&dims(shape), data);
    }
    if let Ok((shape, data)) = value.try_extract_tensor::<bool>() {
        let bytes = data.iter().map(|&b| u8::from(b)).collect();
        return Tensor { dtype: DataType::Bool, dims: dims(shape), bytes };
    }
    let (shape, data) = value.try_extract_tensor::<f64>().expect("float32, float64, int64 or bool");
    from_f64(DataType::F64, &dims(shape), data)
}

fn dims(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&n| n as usize).collect()
}

/// Content of a floating tensor.
pub fn to_f64(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype {
        DataType::F32 => tensor.to_f32().unwrap().into_iter().map(f64::from).collect(),
        DataType::F64 => {
            tensor.bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        }
        other => panic!("{other} is no floating type of these tests"),
    }
}

/// A floating tensor of type `dtype`.
pub fn from_f64(dtype: DataType, dims: &[usize], values: &[f64]) -> Tensor {
    let bytes = values
        .iter()
        .flat_map(|&v| match dtype {
            DataType::F32 => (v as f32).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        })
        .collect();
    Tensor { dtype, dims: dims.to_vec(), bytes }
}
