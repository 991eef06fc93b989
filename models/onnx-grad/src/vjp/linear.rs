//! Linear maps along single axes by constant matrices: what Resize, the padding modes and sums over windows are.

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{DataType, Tensor};
use crate::vjp::Vjp;

/// Row major, one row per output position.
pub(super) struct Matrix {
    pub n_out: usize,
    pub n_in: usize,
    pub values: Vec<f64>,
}

impl Matrix {
    /// # Errors
    /// [`GradError::Limit`] if it would be too large a constant.
    pub fn zeros(b: &Builder, n_out: usize, n_in: usize) -> Result<Self, GradError> {
        b.room_for(DataType::F64, &[n_out, n_in])?;
        Ok(Matrix { n_out, n_in, values: vec![0.0; n_out * n_in] })
    }

    pub fn add(&mut self, out: usize, input: usize, weight: f64) {
        self.values[out * self.n_in + input] += weight;
    }

    fn is_identity(&self) -> bool {
        self.n_out == self.n_in
            && self.values.iter().enumerate().all(|(i, &w)| w == f64::from(i % (self.n_in + 1) == 0))
    }
}

/// Where y = A x along each of the axes, in ascending order: the products of `dy` with every Aᵀ, in the shape of the
/// first input.
pub(super) fn transposed(
    v: &mut Vjp<'_>,
    dy: &str,
    matrices: &[(usize, Matrix)],
) -> Result<String, GradError> {
    let mut dx = dy.to_owned();
    for (axis, matrix) in matrices.iter().rev().filter(|(_, matrix)| !matrix.is_identity()) {
        let n_behind = v.g.shape(&dx)?.len() - axis - 1;
        if n_behind == 0 {
            let constant = constant(v, &dx, matrix, false)?;
            dx = v.op("MatMul", &[&dx, &constant], &[])?;
            continue;
        }
        if n_behind > 1 {
            // The axes behind this one as the columns of one matrix.
            dx = emit::reshape(v.g, &dx, &[vec![0; axis + 1], vec![-1]].concat())?;
        }
        let constant = constant(v, &dx, matrix, true)?;
        dx = v.op("MatMul", &[&constant, &dx], &[])?;
    }
    emit::reshape_like(v.g, &dx, v.x(0))
}

/// The matrix, or its transpose, in the type of `like`.
fn constant(v: &mut Vjp<'_>, like: &str, matrix: &Matrix, transposed: bool) -> Result<String, GradError> {
    let dtype = v.g.value(like)?.dtype;
    let (n_out, n_in) = (matrix.n_out, matrix.n_in);
    if !transposed {
        return v.g.constant(Tensor::from_f64(dtype, &[n_out, n_in], &matrix.values)?);
    }
    let positions = (0..n_in).flat_map(|input| (0..n_out).map(move |out| out * n_in + input));
    let values: Vec<f64> = positions.map(|i| matrix.values[i]).collect();
    v.g.constant(Tensor::from_f64(dtype, &[n_in, n_out], &values)?)
}

/// The axis's size, which a matrix along it needs.
pub(super) fn size_of_axis(v: &Vjp<'_>, axis: usize) -> Result<usize, GradError> {
    let shape = v.x_shape(0)?;
    let size = shape[axis].size().filter(|&size| size > 0);
    size.ok_or_else(|| {
        emit::shape_error(v.node, format!("a known size of axis {axis}, not 0"), emit::show(&shape))
    })
}
