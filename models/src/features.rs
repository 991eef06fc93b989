//! What the CL head reads, as an output of its own: nearest-mean classifiers and exemplar selection work on it.

use onnx_grad::Builder;
use onnx_grad::graph::Graph;

use crate::dual_head::{CL_LOGITS, show_shape};
use crate::error::ModelError;
use crate::heads::last_linear;

/// Output of the evaluation graph: the input of the continual-learning head, `[batch, features]`.
pub const FEATURES: &str = "features";

/// `graph` with a further output [`FEATURES`].
///
/// # Errors
/// [`ModelError::NoFeatures`] if `cl_logits` does not come from a linear layer; [`ModelError::Graph`] if another value
/// has the output's name.
pub(crate) fn with_features(graph: &Graph) -> Result<Graph, ModelError> {
    let refused = |found| ModelError::NoFeatures { found };
    let product = last_linear(graph, CL_LOGITS).map_err(refused)?.product;
    let is_transposed = product.op == "Gemm" && product.int("transA", 0)? != 0;
    let value = product.input(0).filter(|_| !is_transposed);
    let value = value.ok_or_else(|| refused(format!("a transposed Gemm `{}`", product.name)))?;
    let mut b = Builder::from_graph(graph.clone())?;
    let shape = b.shape(value)?;
    if shape.len() != 2 {
        return Err(refused(format!("one on {}", show_shape(shape))));
    }
    if value != FEATURES {
        b.op_named("Identity", &[value], &[], FEATURES)?;
    }
    if !graph.outputs.iter().any(|o| o.name == FEATURES) {
        b.output(FEATURES)?;
    }
    Ok(b.finish())
}
