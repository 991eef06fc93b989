//! Rule of Conv, any number of spatial axes, any stride, padding, dilation and number of groups.

use std::collections::BTreeMap;

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{Node, Tensor};
use crate::vjp::window::{self, Axis};
use crate::vjp::{Lowered, Mode, Vjp, depthwise, matmul};

/// Output positions per image up to which [`lower`] takes a matrix product: at 8x8 ONNX Runtime's CPU
/// provider runs it 2 to 3 times as fast as Conv, which works image by image; at 16x16 it gains nothing.
const MAX_POSITIONS: i64 = 64;

/// Y as one matrix product over the whole mini-batch where images are small. Saves the right factor, which
/// dW needs too.
pub(super) fn lower(b: &mut Builder, node: &Node, _: &Mode) -> Result<Lowered, GradError> {
    let conv = Conv::read(b, node)?;
    let n_positions: i64 = conv.axes.iter().map(|a| a.output).product();
    if conv.groups > 1 || conv.window_size() == 1 || n_positions > MAX_POSITIONS {
        b.push(node.clone())?;
        return Ok(Lowered::default());
    }
    let columns = columns(b, &node.inputs[0], (conv.groups, conv.c_in), &conv.axes, offsets(&conv.axes))?;
    let weight = emit::reshape(b, &node.inputs[1], &[conv.c_out, -1])?;
    let product = match node.input(2) {
        Some(bias) => {
            let bias = emit::reshape(b, bias, &[-1, 1])?;
            b.op("Gemm", &[&weight, &columns, &bias], &[])?
        }
        None => b.op("Gemm", &[&weight, &columns], &[])?,
    };
    let channels_first = conv.channels_first(b, &product, &node.inputs[0])?;
    let perm = swapped(2 + conv.axes.len(), 0);
    b.op_named("Transpose", &[&channels_first], &[("perm", perm.into())], &node.outputs[0])?;
    Ok(Lowered { saved: BTreeMap::from([("columns", columns)]), next_state: Vec::new() })
}

/// Y = X ⋆ W + b with X `[N, C, …]`, W `[M, C/groups, …]`, b `[M]`, Y `[N, M, …]`: dX is dY convolved with
/// the mirrored W, dW is X correlated with dY, db is dY summed over batch and space.
pub(super) fn conv(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let conv = Conv::read(v.g, v.node)?;
    if v.needs(0) {
        let plain = conv.axes.iter().all(|a| a.stride == 1 && a.begin.max(a.end) < a.extent());
        let dx = if plain { conv.input_by_conv(v)? } else { conv.input_by_transpose(v)? };
        v.set_dx(0, dx);
    }
    if v.needs(1) {
        let dw = if conv.groups > 1 && conv.c_in == 1 {
            depthwise::weight(v, &conv.axes, conv.groups)?
        } else {
            conv.weight(v)?
        };
        v.set_dx(1, dw);
    }
    if v.needs(2) {
        let axes: Vec<i64> = [0].into_iter().chain(2..2 + conv.axes.len() as i64).collect();
        let dy = v.dy();
        let db = emit::reduce(v.g, "ReduceSum", &dy, &axes, false)?;
        v.set_dx(2, db);
    }
    Ok(())
}

struct Conv {
    axes: Vec<Axis>,
    groups: i64,
    /// Input channels of one group.
    c_in: i64,
    /// Output channels of one group.
    c_out: i64,
}

impl Conv {
    fn read(b: &Builder, node: &Node) -> Result<Self, GradError> {
        let w = b.shape(&node.inputs[1])?;
        let Some(w) = w.iter().map(|d| d.size().map(|n| n as i64)).collect::<Option<Vec<i64>>>() else {
            return Err(emit::shape_error(node, "a weight of known shape", emit::show(w)));
        };
        let axes = window::axes(node, b.shape(&node.inputs[0])?, None, &w[2..])?;
        let groups = node.int("group", 1)?;
        Ok(Conv { axes, groups, c_in: w[1], c_out: w[0] / groups })
    }

    fn each(&self, f: impl Fn(&Axis) -> i64) -> Vec<i64> {
        self.axes.iter().map(f).collect()
    }

    /// Number of weights between one input channel and one output channel.
    fn window_size(&self) -> i64 {
        self.axes.iter().map(|a| a.kernel).product()
    }

    /// A matrix `[M, N*space]` as `[M, N, space]`, with the N of `x`.
    fn channels_first(&self, b: &mut Builder, matrix: &str, x: &str) -> Result<String, GradError> {
        let space = self.each(|a| a.output);
        if let Some(n) = b.shape(x)?[0].size() {
            return emit::reshape(b, matrix, &[vec![self.c_out, n as i64], space].concat());
        }
        let n = b.op("Shape", &[x], &[("start", 0_i64.into()), ("end", 1_i64.into())])?;
        let (channels, space) = (b.ints(&[self.c_out])?, b.ints(&space)?);
        let shape = b.op("Concat", &[&channels, &n, &space], &[("axis", 0_i64.into())])?;
        b.op("Reshape", &[matrix, &shape], &[])
    }

    /// dX for stride 1: a plain Conv, the fastest kernel that every provider has.
    fn input_by_conv(&self, v: &mut Vjp<'_>) -> Result<String, GradError> {
        let weight = self.mirrored_weight(v)?;
        let pads = [self.each(|a| a.extent() - 1 - a.begin), self.each(|a| a.extent() - 1 - a.end)].concat();
        let attributes = [
            ("dilations", self.each(|a| a.dilation).into()),
            ("group", self.groups.into()),
            ("pads", pads.into()),
        ];
        v.op("Conv", &[&v.dy(), &weight], &attributes)
    }

    /// dX for any stride.
    fn input_by_transpose(&self, v: &mut Vjp<'_>) -> Result<String, GradError> {
        // Input behind the last window gets no gradient, but it counts for the shape.
        let missed = self.each(|a| a.input + a.begin + a.end - (a.output - 1) * a.stride - a.extent());
        let attributes = [
            ("dilations", self.each(|a| a.dilation).into()),
            ("group", self.groups.into()),
            ("output_padding", missed.into()),
            ("pads", [self.each(|a| a.begin), self.each(|a| a.end)].concat().into()),
            ("strides", self.each(|a| a.stride).into()),
        ];
        v.op("ConvTranspose", &[&v.dy(), v.x(1)], &attributes)
    }

    /// W with every spatial axis reversed and, within each group, input and output channels swapped.
    ///
    /// A product with a permutation matrix reverses the window exactly, in half the time of a Slice backwards.
    fn mirrored_weight(&self, v: &mut Vjp<'_>) -> Result<String, GradError> {
        let n = self.window_size();
        let mut weight = emit::reshape(v.g, v.x(1), &[self.groups, self.c_out, self.c_in, n])?;
        if self.c_in > 1 && self.c_out > 1 {
            weight = swap(v.g, &weight, 1)?;
        }
        if n > 1 {
            let n = n as usize;
            let reversal: Vec<f64> = (0..n * n).map(|i| f64::from(i / n + i % n + 1 == n)).collect();
            let dtype = v.g.value(&weight)?.dtype;
            let reversal = v.g.constant(Tensor::from_f64(dtype, &[n, n], &reversal)?)?;
            weight = v.op("MatMul", &[&weight, &reversal], &[])?;
        }
        let swapped = [vec![self.groups * self.c_in, self.c_out], self.each(|a| a.kernel)].concat();
        emit::reshape(v.g, &weight, &swapped)
    }

    /// dW as one matrix product: of dY, shifted along the first spatial axis, with X, shifted along the others,
    /// where that is possible; else of dY `[M/groups, N*space]` with all [`columns`] of X, per group.
    ///
    /// On ONNX Runtime's CPU provider the time goes into copies: a 3x3 window takes 3 of X and 3 of dY, where
    /// the columns are 9 of X. A Conv with batch and channels swapped is slower than either.
    fn weight(&self, v: &mut Vjp<'_>) -> Result<String, GradError> {
        let (x, dy) = (v.x(0), v.dy());
        if let (None, [first, rest @ ..], 1) = (v.saved("columns"), self.axes.as_slice(), self.groups) {
            let mirrored = first.stride == 1 && first.begin.max(first.end) < first.extent();
            if mirrored && first.kernel > 1 && rest.iter().any(|a| a.kernel > 1) {
                return self.weight_by_axis(v, first, rest);
            }
        }
        let columns = match v.saved("columns") {
            Some(columns) => columns.to_owned(),
            None => columns(v.g, x, (self.groups, self.c_in), &self.axes, offsets(&self.axes))?,
        };
        let dy = swap(v.g, &dy, 0)?;
        let dw = if self.groups == 1 {
            let dy = emit::reshape(v.g, &dy, &[self.c_out, -1])?;
            matmul::gemm_op(v, [&dy, &columns], [false, true], 1.0)?
        } else {
            let dy = emit::reshape(v.g, &dy, &[self.groups, self.c_out, -1])?;
            let columns = matmul::transpose_last(v, &columns)?;
            v.op("MatMul", &[&dy, &columns], &[])?
        };
        emit::reshape_like(v.g, &dw, v.x(1))
    }

    /// dW(k, l) = Σ dY(p) X(p + k, q + l) = Σ dY(p - k) X(p, q + l) for offsets k along the first axis and l along
    /// the others: every k with every l in one product `[M*first, C*rest]`.
    fn weight_by_axis(&self, v: &mut Vjp<'_>, first: &Axis, rest: &[Axis]) -> Result<String, GradError> {
        let whole = |size: i64| Axis { input: size, output: size, ..Axis::POINT };
        let of_x: Vec<Axis> = [whole(first.input)].iter().chain(rest).copied().collect();
        let x = columns(v.g, v.x(0), (1, self.c_in), &of_x, offsets(&of_x))?;
        let mirrored = Axis {
            input: first.output,
            output: first.input,
            begin: first.extent() - 1 - first.begin,
            end: first.extent() - 1 - first.end,
            ..*first
        };
        let of_dy: Vec<Axis> =
            std::iter::once(mirrored).chain(rest.iter().map(|a| whole(a.output))).collect();
        let mut backwards = offsets(&of_dy);
        backwards.reverse();
        let dy = v.dy();
        let dy = columns(v.g, &dy, (1, self.c_out), &of_dy, backwards)?;
        let dw = matmul::gemm_op(v, [&dy, &x], [false, true], 1.0)?;
        let window: i64 = rest.iter().map(|a| a.kernel).product();
        let dw = emit::reshape(v.g, &dw, &[self.c_out, first.kernel, self.c_in, window])?;
        let dw = swap(v.g, &dw, 1)?;
        emit::reshape_like(v.g, &dw, v.x(1))
    }
}

/// X shifted by every one of the `offsets`, `[C/groups * window, N*space]`, per group where there are several.
fn columns(
    b: &mut Builder,
    x: &str,
    (groups, channels): (i64, i64),
    axes: &[Axis],
    offsets: Vec<Vec<i64>>,
) -> Result<String, GradError> {
    let each = |f: &dyn Fn(&Axis) -> i64| -> Vec<i64> { axes.iter().map(f).collect() };
    let mut x = swap(b, x, 0)?;
    let needed_end = |a: &Axis| ((a.output - 1) * a.stride + a.extent() - a.begin - a.input).max(0);
    let padded = each(&|a| a.begin + a.input + needed_end(a));
    if padded != each(&|a| a.input) {
        let pads = [vec![0, 0], each(&|a| a.begin), vec![0, 0], each(&needed_end)].concat();
        let pads = b.ints(&pads)?;
        x = b.op("Pad", &[&x, &pads], &[])?;
    }
    let names = b.ints(&(2..2 + axes.len() as i64).collect::<Vec<_>>())?;
    let steps = b.ints(&each(&|a| a.stride))?;
    let rows = channels * offsets.len() as i64;
    let mut shifted = Vec::new();
    for offset in offsets {
        let ends: Vec<i64> =
            offset.iter().zip(axes).map(|(o, a)| o + (a.output - 1) * a.stride + 1).collect();
        let (starts, ends) = (b.ints(&offset)?, b.ints(&ends)?);
        shifted.push(b.op("Slice", &[&x, &starts, &ends, &names, &steps], &[])?);
    }
    let shifted: Vec<&str> = shifted.iter().map(String::as_str).collect();
    let columns = match *shifted {
        [_] if padded == each(&|a| a.output) => x,
        [only] => only.to_owned(),
        // In front of N the window's axis follows C, as in the weight.
        _ => b.op("Concat", &shifted, &[("axis", 1_i64.into())])?,
    };
    let matrix = if groups == 1 { vec![rows, -1] } else { vec![groups, rows, -1] };
    emit::reshape(b, &columns, &matrix)
}

/// The permutation of `rank` axes that swaps `axis` and `axis + 1`.
fn swapped(rank: usize, axis: usize) -> Vec<i64> {
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    perm.swap(axis, axis + 1);
    perm
}

fn swap(b: &mut Builder, x: &str, axis: usize) -> Result<String, GradError> {
    let perm = swapped(b.shape(x)?.len(), axis);
    b.op("Transpose", &[x], &[("perm", perm.into())])
}

/// Where in the padded input each weight of the window starts, the last axis fastest.
fn offsets(axes: &[Axis]) -> Vec<Vec<i64>> {
    axes.iter().fold(vec![Vec::new()], |prefixes, axis| {
        prefixes
            .iter()
            .flat_map(|prefix| {
                (0..axis.kernel).map(move |k| [prefix.as_slice(), &[k * axis.dilation]].concat())
            })
            .collect()
    })
}
