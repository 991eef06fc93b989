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
    /// A window that covers its own position only, of every one of `size`.
    pub fn whole(size: i64) -> Self {
        Axis { input: size, output: size, kernel: 1, stride: 1, dilation: 1, begin: 0, end: 0 }
    }

    /// The window that takes an output's gradient back to the input, for stride 1 and padding less than the window.
    pub fn mirrored(&self) -> Self {
        let before = self.extent() - 1;
        let (begin, end) = (before - self.begin, before - self.end);
        Axis { input: self.output, output: self.input, begin, end, ..*self }
    }

    /// Input positions from the first to the last that one window covers.
    pub fn extent(&self) -> i64 {
        (self.kernel - 1) * self.dilation + 1
    }

    /// How many positions of the window from `start` on lie before `end`, without going through them all.
    pub fn before(&self, start: i64, end: i64) -> i64 {
        ((end - start + self.dilation - 1) / self.dilation).clamp(0, self.kernel)
    }
}

/// The spatial axes of a Conv, MaxPool or AveragePool node with window sizes `kernel`.
///
/// Without the output's shape `y`, windows that do not fit whole are left out.
///
/// # Errors
/// [`GradError::Shape`] if a spatial dimension is not known when the graph is derived.
pub(super) fn axes(
    node: &Node,
    x: &[Dim],
    y: Option<&[Dim]>,
    kernel: &[i64],
) -> Result<Vec<Axis>, GradError> {
    let n_axes = kernel.len();
    let inputs = sizes(node, x, n_axes)?;
    let outputs = y.map(|y| sizes(node, y, n_axes)).transpose()?;
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
            let (input, kernel, stride, dilation) = (inputs[i], kernel[i], strides[i], dilations[i]);
            let extent = (kernel - 1) * dilation + 1;
            let (begin, end) = if auto_pad.starts_with("SAME") {
                let total = ((input + stride - 1) / stride * stride - stride + extent - input).max(0);
                let (smaller, larger) = (total / 2, total - total / 2);
                if auto_pad == "SAME_LOWER" { (larger, smaller) } else { (smaller, larger) }
            } else if auto_pad == "VALID" {
                (0, 0)
            } else {
                (pads[i], pads[n_axes + i])
            };
            let output = outputs.as_ref().map_or((begin + input + end - extent) / stride + 1, |y| y[i]);
            Axis { input, output, kernel, stride, dilation, begin, end }
        })
        .collect())
}

pub(super) fn sizes(node: &Node, shape: &[Dim], n_axes: usize) -> Result<Vec<i64>, GradError> {
    let sizes: Option<Vec<i64>> =
        shape.get(2..).and_then(|s| s.iter().map(|d| d.size().map(|n| n as i64)).collect());
    sizes.filter(|s| s.len() == n_axes).ok_or_else(|| {
        let expected = format!("{n_axes} spatial dimensions that are numbers");
        emit::shape_error(node, expected, emit::show(shape))
    })
}
