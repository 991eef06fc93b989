//! What one file may ask of a reader: a small file must not make gigabytes, nor run for hours.
//!
//! Each limit is far above what a network that is trained on one device needs. Whatever is beyond is an error
//! ([`GradError::Limit`], [`crate::ReadError::Limit`]) that names the constant.

use crate::error::GradError;
use crate::graph::{DataType, Dim, Shape};

/// Bytes of a file, and of all tensors of a model together: protobuf's own limit for one message.
pub const MAX_FILE_BYTES: u64 = 2 * 1024 * 1024 * 1024 - 1;
/// Bytes of a name in a file: of a node, a value, or a dimension.
pub const MAX_NAME_BYTES: usize = 1024;
/// Nodes of one graph, forward or derived.
pub const MAX_NODES: usize = 1 << 17;
/// Outputs of one node.
pub const MAX_OUTPUTS: usize = 1024;
/// Axes of one tensor.
pub const MAX_RANK: usize = 32;
/// Elements of one tensor, dimensions that are only known by name left out and those of size 0 counted as 1.
/// With [`MAX_ATTRIBUTE`] it keeps the geometry of sliding windows within 64 bits.
pub const MAX_ELEMENTS: usize = 1 << 31;
/// Magnitude of an integer attribute: a stride, a pad, an axis.
pub const MAX_ATTRIBUTE: u64 = 1 << 30;
/// Positions of one window of a depthwise convolution: each is several nodes.
pub const MAX_WINDOW: usize = 4096;
/// Bytes of tied initialisers that are copied: a node of a few bytes copies a tensor of any size.
pub const MAX_UNTIED_BYTES: usize = 512 * 1024 * 1024;
/// Bytes that derivation makes out of nothing, all together: constants, shapes, names and nodes, not the tensors
/// of the file.
pub const MAX_MADE_BYTES: usize = 256 * 1024 * 1024;
/// Bytes of integer contents that are followed; from then on only short ones are, which shapes are made of.
pub(crate) const MAX_CONTENT_BYTES: usize = 32 * 1024 * 1024;

/// # Errors
/// [`GradError::Limit`] if no value of this shape is taken.
pub(crate) fn check_shape(node: &str, shape: &[Dim]) -> Result<(), GradError> {
    let exceeded = |what: &str, found: usize, limit: usize, name| GradError::Limit {
        what: format!("{what} at `{node}`"),
        found: found as u64,
        limit: limit as u64,
        name,
    };
    if shape.len() > MAX_RANK {
        return Err(exceeded("axes of a tensor", shape.len(), MAX_RANK, "MAX_RANK"));
    }
    let sizes = shape.iter().filter_map(Dim::size);
    let n_elements = sizes.fold(1_usize, |n, d| n.saturating_mul(d.max(1)));
    if n_elements > MAX_ELEMENTS {
        return Err(exceeded("elements of a tensor", n_elements, MAX_ELEMENTS, "MAX_ELEMENTS"));
    }
    Ok(())
}

/// Bytes of a shape in memory.
pub(crate) fn shape_bytes(shape: &Shape) -> usize {
    let symbol = |dim: &Dim| if let Dim::Symbol(s) = dim { s.len() } else { 0 };
    shape.iter().map(|dim| size_of::<Dim>() + symbol(dim)).sum()
}

/// Bytes of a tensor; the largest number where that is too large to tell.
pub(crate) fn tensor_bytes(dtype: DataType, dims: &[usize]) -> usize {
    dims.iter().fold(dtype.size_bytes(), |n, &d| n.saturating_mul(d))
}
