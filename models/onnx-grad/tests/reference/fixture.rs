//! What PyTorch computed, and how close to it is close enough.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onnx_grad::graph::{DataType, Tensor};
use safetensors::SafeTensors;

/// Largest absolute difference over largest absolute value, per tensor. PyTorch computed in float64.
pub const TOLERANCE: f64 = 1e-4;

/// The folder of the fixtures.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../export/reference")
}

/// Reads the named tensors of a safetensors file, all of them float32.
pub fn read(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |view: &safetensors::tensor::TensorView<'_>| Tensor {
        dtype: DataType::F32,
        dims: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    tensors.iter().map(|(name, view)| (name.to_owned(), tensor(&view))).collect()
}

/// Largest absolute value.
pub fn size(tensor: &Tensor) -> f64 {
    tensor.to_f32().unwrap().iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max)
}

/// Largest absolute difference; infinite where a value is not finite.
pub fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (found.to_f32().unwrap(), expected.to_f32().unwrap());
    let error = |(f, e): (&f32, &f32)| (f64::from(*f) - f64::from(*e)).abs();
    let finite = found.iter().all(|f| f.is_finite());
    if finite { found.iter().zip(&expected).map(error).fold(0.0, f64::max) } else { f64::INFINITY }
}
