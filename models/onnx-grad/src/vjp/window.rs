//! The geometry that convolution and pooling share.

use crate::emit;
use crate::error::GradError;
use crate::graph::{Dim, Node};

/// One spatial axis of a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    pub input: i64,
    pub output: i64,
    pub kernel: i64,
    pub stride: i64,
    pub dilation: i64,
    /// Padding before the first element.
    pub begin: i64,
    /// Padding behind the last element.
    pub end: i64,
}

impl Axis {
    /// Input positions from the first to the last that one window covers.
    pub fn extent(&self) -> i64 {
        (self.kernel - 1) * self.dilation + 1
    }
}

/// The spatial axes of a Conv, MaxPool or AveragePool node with window sizes `kernel`.
///
/// # Errors
/// [`GradError::Shape`] if a spatial dimension is not known when the graph is derived.
pub(super) fn axes(node: &Node, x: &[Dim], y: &[Dim], kernel: &[i64]) -> Result<Vec<Axis>, GradError> {
    let n_axes = kernel.len();
    let sizes = |shape: &[Dim]| -> Option<Vec<i64>> {
        shape.get(2..)?.iter().map(|d| d.size().map(|n| n as i64)).collect()
    };
    let (Some(inputs), Some(outputs)) = (sizes(x), sizes(y)) else {
        return Err(emit::shape_error(node, "spatial dimensions that are numbers", emit::show(x)));
    };
    if inputs.len() != n_axes || outputs.len() != n_axes {
        let expected = format!("{n_axes} spatial dimensions");
        return Err(emit::shape_error(node, expected, emit::show(x)));
    }
    let list = |name: &str, default: i64, n: usize| -> Result<Vec<i64>, GradError> {
        let values = node.ints(name)?.map_or_else(|| vec![default; n], <[i64]>::to_vec);
        if values.len() == n {
            Ok(values)
        } else {
            Err(emit::shape_error(node, format!("{n} `{name}`"), values.len().to_string()))
        }
    };
    let (strides, dilations) = (list("strides", 1, n_axes)?, list("dilations", 1, n_axes)?);
    let pads = list("pads", 0, 2 * n_axes)?;
    let auto_pad = node.string("auto_pad", "NOTSET")?;
    Ok((0..n_axes)
        .map(|i| {
            let mut axis = Axis {
                input: inputs[i],
                output: outputs[i],
                kernel: kernel[i],
                stride: strides[i],
                dilation: dilations[i],
                begin: pads[i],
                end: pads[n_axes + i],
            };
            if auto_pad.starts_with("SAME") {
                let total = ((axis.output - 1) * axis.stride + axis.extent() - axis.input).max(0);
                let smaller = total / 2;
                (axis.begin, axis.end) = match auto_pad {
                    "SAME_LOWER" => (total - smaller, smaller),
                    _ => (smaller, total - smaller),
                };
            } else if auto_pad == "VALID" {
                (axis.begin, axis.end) = (0, 0);
            }
            axis
        })
        .collect())
}
