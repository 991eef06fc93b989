//! Tensors as safetensors files.

use std::collections::{BTreeMap, HashMap};

use onnx_grad::graph::{DataType, Tensor};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Element types on both sides.
const TYPES: [(DataType, Dtype); 9] = [
    (DataType::F16, Dtype::F16),
    (DataType::BF16, Dtype::BF16),
    (DataType::F32, Dtype::F32),
    (DataType::F64, Dtype::F64),
    (DataType::I8, Dtype::I8),
    (DataType::U8, Dtype::U8),
    (DataType::I32, Dtype::I32),
    (DataType::I64, Dtype::I64),
    (DataType::Bool, Dtype::BOOL),
];

/// A file of these tensors.
///
/// # Errors
/// What safetensors refuses: a tensor whose bytes do not fit its shape.
pub fn encode<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, SafeTensorError> {
    let mut views = Vec::new();
    for (name, tensor) in tensors {
        let view = TensorView::new(to_safetensors(tensor.dtype), tensor.dims.clone(), &tensor.bytes)?;
        views.push((name, view));
    }
    safetensors::serialize(views, Some(metadata))
}

/// The tensors of a file by their names, or the name and type of one that cannot be used.
pub(super) fn decode(file: &SafeTensors<'_>) -> Result<BTreeMap<String, Tensor>, (String, Dtype)> {
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let Some(dtype) = from_safetensors(view.dtype()) else { return Err((name, view.dtype())) };
        let tensor = Tensor { dtype, dims: view.shape().to_vec(), bytes: view.data().to_vec() };
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn to_safetensors(dtype: DataType) -> Dtype {
    TYPES.iter().find(|(ours, _)| *ours == dtype).expect("invariant: TYPES lists every DataType").1
}

fn from_safetensors(dtype: Dtype) -> Option<DataType> {
    TYPES.iter().find(|(_, theirs)| *theirs == dtype).map(|(ours, _)| *ours)
}
