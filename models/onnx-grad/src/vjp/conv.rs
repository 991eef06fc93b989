//! Rule of Conv, any number of spatial axes, any stride, padding, dilation and number of groups.

use crate::builder::Builder;
use crate::emit::{self, Entry};
use crate::error::GradError;
use crate::graph::{DataType, Node, Tensor};
use crate::limits::MAX_WINDOW;
use crate::vjp::window::{self, Axis};
use crate::vjp::{Lowered, Mode, Vjp, depthwise, matmul};

/// Output positions per image up to which Y and dX are matrix products: ONNX Runtime's CPU provider runs Conv image
/// by image, which does not pay for small ones.
const MAX_POSITIONS: i64 = 64;

/// Y as one matrix product over the whole mini-batch where images are small. Saves the right factor, which
/// dW needs too.
pub(super) fn lower(b: &mut Builder, node: &Node, _: &Mode) -> Result<Lowered, GradError> {
    let conv = Conv::read(b, node)?;
    if !conv.is_small() {
        b.push(node.clone())?;
        return Ok(Lowered::default());
    }
    let columns = columns(b, &node.inputs[0], (1, conv.c_in), &conv.axes, &shifts(b, &conv.axes)?)?;
    let weight = emit::reshape(b, &node.inputs[1], &[conv.c_out, -1])?;
    let product = match node.input(2) {
        Some(bias) => {
            let bias = emit::reshape(b, bias, &[-1, 1])?;
            b.op("Gemm", &[&weight, &columns, &bias], &[])?
        }
        None => b.op("Gemm", &[&weight, &columns], &[])?,
    };
    let dims = [vec![conv.c_out], conv.each(|a| a.output)].concat();
    let (y, perm) = batch_apart(b, &product, &dims, &node.inputs[0])?;
    b.op_named("Transpose", &[&y], &[("perm", perm.into())], &node.outputs[0])?;
    Ok(Lowered::saving([("columns", columns)]))
}

/// Y = X ⋆ W + b with X `[N, C, …]`, W `[M, C/groups, …]`, b `[M]`, Y `[N, M, …]`: dX is dY convolved with
/// the mirrored W, dW is X correlated with dY, db is dY summed over batch and space.
pub(super) fn conv(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let conv = Conv::read(v.g, v.node)?;
    if v.needs(0) {
        let plain = conv.axes.iter().all(|a| a.stride == 1 && a.begin.max(a.end) < a.extent());
        let dx = match (plain, conv.is_small()) {
            (true, true) => conv.input_by_product(v)?,
            (true, false) => conv.input_by_conv(v)?,
            (false, _) => conv.input_by_transpose(v)?,
        };
        v.set_dx(0, dx);
    }
    if v.needs(1) {
        let dw = if conv.groups > 1 && conv.c_in == 1 {
            conv.check_window(v.x(0))?;
            depthwise::weight(v, &conv.axes, conv.groups)?
        } else {
            conv.weight(v)?
        };
        v.set_dx(1, dw);
    }
    if v.needs(2) {
        let axes = emit::all_but_channel(2 + conv.axes.len());
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

    /// Each position of the window is a node.
    fn check_window(&self, x: &str) -> Result<(), GradError> {
        let n_offsets = self.window_size().unsigned_abs();
        if n_offsets <= MAX_WINDOW as u64 {
            return Ok(());
        }
        Err(GradError::Limit {
            what: format!("positions of a depthwise convolution's window over `{x}`"),
            found: n_offsets,
            limit: MAX_WINDOW as u64,
            name: "MAX_WINDOW",
        })
    }

    /// Whether Y and dX are matrix products.
    fn is_small(&self) -> bool {
        let n_positions: i64 = self.axes.iter().map(|a| a.output).product();
        self.groups == 1 && self.window_size() > 1 && n_positions <= MAX_POSITIONS
    }

    /// dX for stride 1 where images are small: Wᵀ times dY shifted by the mirrored window.
    fn input_by_product(&self, v: &mut Vjp<'_>) -> Result<String, GradError> {
        let mirrored: Vec<Axis> = self.axes.iter().map(Axis::mirrored).collect();
        let mut backwards = shifts(v.g, &mirrored)?;
        backwards.reverse();
        let dy = v.dy();
        let columns = columns(v.g, &dy, (1, self.c_out), &mirrored, &backwards)?;
        let weight = emit::reshape(v.g, v.x(1), &[self.c_out, self.c_in, self.window_size()])?;
        let weight = emit::swap(v.g, &weight, 0)?;
        let weight = emit::reshape(v.g, &weight, &[self.c_in, -1])?;
        let product = v.op("Gemm", &[&weight, &columns], &[])?;
        let dims = [vec![self.c_in], self.each(|a| a.input)].concat();
        let (dx, perm) = batch_apart(v.g, &product, &dims, v.x(0))?;
        v.op("Transpose", &[&dx], &[("perm", perm.into())])
    }

    /// dX for stride 1: a plain Conv, the fastest kernel that every provider has.
    fn input_by_conv(&self, v: &mut Vjp<'_>) -> Result<String, GradError> {
        let weight = self.mirrored_weight(v)?;
        let mirrored: Vec<Axis> = self.axes.iter().map(Axis::mirrored).collect();
        let pads = mirrored.iter().map(|a| a.begin).chain(mirrored.iter().map(|a| a.end)).collect::<Vec<_>>();
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
            weight = emit::swap(v.g, &weight, 1)?;
        }
        if n > 1 {
            let n = n as usize;
            v.g.room_for(DataType::F64, &[n, n])?;
            let reversal: Vec<f64> = (0..n * n).map(|i| f64::from(i / n + i % n + 1 == n)).collect();
            let dtype = v.g.value(&weight)?.dtype;
            let reversal = v.g.constant(Tensor::from_f64(dtype, &[n, n], &reversal)?)?;
            weight = v.op("MatMul", &[&weight, &reversal], &[])?;
        }
        let swapped = [vec![self.groups * self.c_in, self.c_out], self.each(|a| a.kernel)].concat();
        emit::reshape(v.g, &weight, &swapped)
    }

    /// dW as one matrix product: of dY, shifted along the first spatial axis, with X, shifted along the others,
    /// where that is possible; else of dY `[M/groups, space*N]` with all [`columns`] of X, per group.
    ///
    /// On ONNX Runtime's CPU provider the time goes into copies: a 3x3 window takes 3 of X and 3 of dY, where
    /// the columns are 9 of X. A Conv with batch and channels swapped is slower than either.
    fn weight(&self, v: &mut Vjp<'_>) -> Result<String, GradError> {
        let dy = v.dy();
        if let (None, [first, rest @ ..], 1) = (v.saved_if_any("columns"), self.axes.as_slice(), self.groups)
        {
            let is_plain = first.stride == 1 && first.begin.max(first.end) < first.extent();
            if is_plain && first.kernel > 1 && rest.iter().any(|a| a.kernel > 1) {
                return self.weight_by_axis(v, first, rest);
            }
        }
        let columns = match v.saved_if_any("columns") {
            Some(columns) => columns.to_owned(),
            None => columns(v.g, v.x(0), (self.groups, self.c_in), &self.axes, &shifts(v.g, &self.axes)?)?,
        };
        let dy = batch_last(v.g, &dy)?;
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
        let of_x: Vec<Axis> = std::iter::once(Axis::whole(first.input)).chain(rest.iter().copied()).collect();
        let x = columns(v.g, v.x(0), (1, self.c_in), &of_x, &shifts(v.g, &of_x)?)?;
        let rest_whole = rest.iter().map(|a| Axis::whole(a.output));
        let of_dy: Vec<Axis> = std::iter::once(first.mirrored()).chain(rest_whole).collect();
        let mut backwards = shifts(v.g, &of_dy)?;
        backwards.reverse();
        let dy = v.dy();
        let dy = columns(v.g, &dy, (1, self.c_out), &of_dy, &backwards)?;
        let dw = matmul::gemm_op(v, [&dy, &x], [false, true], 1.0)?;
        let window: i64 = rest.iter().map(|a| a.kernel).product();
        let dw = emit::reshape(v.g, &dw, &[self.c_out, first.kernel, self.c_in, window])?;
        let dw = emit::swap(v.g, &dw, 1)?;
        emit::reshape_like(v.g, &dw, v.x(1))
    }
}

/// For each weight of the window, the last axis fastest: the input position that each output position reads, none
/// in the padding.
///
/// # Errors
/// [`GradError::Limit`] if these are too many.
fn shifts(b: &Builder, axes: &[Axis]) -> Result<Vec<Vec<Option<i64>>>, GradError> {
    let sizes = axes.iter().flat_map(|a| [a.kernel.max(1) as usize, a.output.max(1) as usize]);
    // An entry that may be absent takes twice the bytes of a number.
    b.room_for(DataType::I64, &[2].into_iter().chain(sizes).collect::<Vec<_>>())?;
    Ok(axes.iter().fold(vec![vec![Some(0)]], |shifts, axis| {
        let along = |shift: &[Option<i64>], k: i64| {
            let at = move |o: i64| o * axis.stride + k * axis.dilation - axis.begin;
            let inside = move |o: &i64| (0..axis.input).contains(&at(*o));
            let read = |before: &Option<i64>| {
                let before = *before;
                (0..axis.output).map(move |o| before.filter(|_| inside(&o)).map(|b| b * axis.input + at(o)))
            };
            shift.iter().flat_map(read).collect()
        };
        shifts.iter().flat_map(|shift| (0..axis.kernel).map(move |k| along(shift, k))).collect()
    }))
}

/// `x` `[N, C, …]` under every shift, `[C/groups * shifts, positions*N]`, per group where there are several.
///
/// One Gather copies the values that the whole batch has at a position, the padding being one more position. ONNX
/// Runtime's CPU provider runs it on all threads; Pad, a Slice for each shift and Concat took twice as long.
fn columns(
    b: &mut Builder,
    x: &str,
    (groups, channels): (i64, i64),
    axes: &[Axis],
    shifts: &[Vec<Option<i64>>],
) -> Result<String, GradError> {
    let n_positions: i64 = axes.iter().map(|a| a.input).product();
    let mut x = batch_last(b, x)?;
    let table: Vec<i64> = shifts.iter().flatten().map(|read| read.unwrap_or(n_positions)).collect();
    if !table.iter().copied().eq(0..n_positions) {
        x = emit::reshape(b, &x, &[groups * channels, n_positions, -1])?;
        if table.contains(&n_positions) {
            x = emit::append_zero(b, &x, 1, 3)?;
        }
        let table = b.ints(&table)?;
        x = b.op("Gather", &[&x, &table], &[("axis", 1_i64.into())])?;
    }
    let rows = channels * shifts.len() as i64;
    let matrix = if groups == 1 { vec![rows, -1] } else { vec![groups, rows, -1] };
    emit::reshape(b, &x, &matrix)
}

/// `[N, C, …]` as `[C, …, N]`.
fn batch_last(b: &mut Builder, x: &str) -> Result<String, GradError> {
    let rank = b.shape(x)?.len() as i64;
    let perm: Vec<i64> = (1..rank).chain([0]).collect();
    b.op("Transpose", &[x], &[("perm", perm.into())])
}

/// A matrix `[C, positions*N]` as `[C, …, N]` with the N of `x`, and the permutation to `[N, C, …]`.
fn batch_apart(
    b: &mut Builder,
    matrix: &str,
    dims: &[i64],
    x: &str,
) -> Result<(String, Vec<i64>), GradError> {
    let rank = dims.len() as i64;
    let perm: Vec<i64> = [rank].into_iter().chain(0..rank).collect();
    let mut shape: Vec<Entry> = dims.iter().copied().map(Entry::Known).collect();
    shape.push(emit::dim(b, x, 0)?);
    let shape = emit::join(b, &shape)?;
    Ok((b.op("Reshape", &[matrix, &shape], &[])?, perm))
}
