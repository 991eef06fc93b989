//! Linear maps along one axis by a constant matrix: what Resize and the padding modes are.

use crate::emit;
use crate::error::GradError;
use crate::graph::Tensor;
use crate::vjp::Vjp;

/// Row major, one row per output position.
pub(super) struct Matrix {
    pub n_out: usize,
    pub n_in: usize,
    pub values: Vec<f64>,
}

impl Matrix {
    pub fn zeros(n_out: usize, n_in: usize) -> Self {
        Matrix { n_out, n_in, values: vec![0.0; n_out * n_in] }
    }

    /// Output position `i` is input position `sources[i]`.
    pub fn selection(sources: &[usize], n_in: usize) -> Self {
        let mut matrix = Matrix::zeros(sources.len(), n_in);
        for (out, &source) in sources.iter().enumerate() {
            matrix.add(out, source, 1.0);
        }
        matrix
    }

    pub fn add(&mut self, out: usize, input: usize, weight: f64) {
        self.values[out * self.n_in + input] += weight;
    }

    fn is_identity(&self) -> bool {
        self.n_out == self.n_in
            && self.values.iter().enumerate().all(|(i, &w)| w == f64::from(i % (self.n_in + 1) == 0))
    }
}

/// Where y = A x along `axis`: Aᵀ `dy` along it.
pub(super) fn transposed_along(
    v: &mut Vjp<'_>,
    dy: &str,
    axis: usize,
    rank: usize,
    matrix: &Matrix,
) -> Result<String, GradError> {
    if matrix.is_identity() {
        return Ok(dy.to_owned());
    }
    let from_left = axis + 2 == rank;
    let constant = constant(v, dy, matrix, from_left)?;
    if from_left {
        return v.op("MatMul", &[&constant, dy], &[]);
    }
    if axis + 1 == rank {
        return v.op("MatMul", &[dy, &constant], &[]);
    }
    let mut swapped: Vec<i64> = (0..rank as i64).collect();
    swapped.swap(axis, rank - 1);
    let perm = [("perm", swapped.into())];
    let last = v.op("Transpose", &[dy], &perm)?;
    let product = v.op("MatMul", &[&last, &constant], &[])?;
    v.op("Transpose", &[&product], &perm)
}

/// The matrix, or its transpose, in the type of `like`.
fn constant(v: &mut Vjp<'_>, like: &str, matrix: &Matrix, transposed: bool) -> Result<String, GradError> {
    let dtype = v.g.value(like)?.dtype;
    let (n_rows, n_columns) =
        if transposed { (matrix.n_in, matrix.n_out) } else { (matrix.n_out, matrix.n_in) };
    let mut bytes = Vec::with_capacity(n_rows * n_columns * dtype.size_bytes());
    for row in 0..n_rows {
        for column in 0..n_columns {
            let (out, input) = if transposed { (column, row) } else { (row, column) };
            bytes.extend(Tensor::scalar(dtype, matrix.values[out * matrix.n_in + input])?.bytes);
        }
    }
    v.g.constant(Tensor { dtype, dims: vec![n_rows, n_columns], bytes })
}

/// The axis's size, which a matrix along it needs.
pub(super) fn size_of_axis(v: &Vjp<'_>, axis: usize) -> Result<usize, GradError> {
    let shape = v.x_shape(0)?;
    let size = shape[axis].size().filter(|&size| size > 0);
    size.ok_or_else(|| {
        emit::shape_error(v.node, format!("a known size of axis {axis}, not 0"), emit::show(&shape))
    })
}
