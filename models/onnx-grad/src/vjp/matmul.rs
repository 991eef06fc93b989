//! Rules of matrix products.

use crate::emit;
use crate::error::GradError;
use crate::vjp::Vjp;

/// Y = A B, batched and broadcast as NumPy's `matmul`: dA = dY Bᵀ, dB = Aᵀ dY, summed over broadcast
/// batch axes. A vector is a matrix of one row (left) or one column (right).
pub(super) fn matmul(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let (a_rank, b_rank) = (v.x_shape(0)?.len(), v.x_shape(1)?.len());
    if b_rank == 2 && a_rank >= 2 {
        return shared_right(v);
    }
    let (mut dy, mut a, mut b) = (v.dy(), v.x(0).to_owned(), v.x(1).to_owned());
    if b_rank == 1 {
        dy = unsqueeze(v, &dy, -1)?;
        b = unsqueeze(v, &b, -1)?;
    }
    if a_rank == 1 {
        dy = unsqueeze(v, &dy, -2)?;
        a = unsqueeze(v, &a, 0)?;
    }
    if v.needs(0) {
        let transposed = transpose_last(v, &b)?;
        let da = v.op("MatMul", &[&dy, &transposed], &[])?;
        set_like_matrix(v, 0, &da, &a)?;
    }
    if v.needs(1) {
        let transposed = transpose_last(v, &a)?;
        let db = v.op("MatMul", &[&transposed, &dy], &[])?;
        set_like_matrix(v, 1, &db, &b)?;
    }
    Ok(())
}

/// One right matrix for the whole batch, as in a linear layer: dB is one product over all rows instead of
/// a batch of products and their sum.
fn shared_right(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    if v.needs(0) {
        let transposed = transpose_last(v, v.x(1))?;
        let da = v.op("MatMul", &[&dy, &transposed], &[])?;
        v.set_dx(0, da);
    }
    if v.needs(1) {
        let (a, dy) = (rows(v, v.x(0))?, rows(v, &dy)?);
        let db = gemm_op(v, [&a, &dy], [true, false], 1.0)?;
        v.set_dx(1, db);
    }
    Ok(())
}

/// Y = alpha op(A) op(B) + beta C, where op transposes or not: dA and dB are products of the same kind,
/// dC = beta dY summed to C's shape.
pub(super) fn gemm(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let (trans_a, trans_b) = (v.node.int("transA", 0)? != 0, v.node.int("transB", 0)? != 0);
    let (alpha, beta) = (v.node.float("alpha", 1.0)?, v.node.float("beta", 1.0)?);
    let dy = v.dy();
    if v.needs(0) {
        let da = if trans_a {
            gemm_op(v, [v.x(1), &dy], [trans_b, true], alpha)?
        } else {
            gemm_op(v, [&dy, v.x(1)], [false, !trans_b], alpha)?
        };
        v.set_dx(0, da);
    }
    if v.needs(1) {
        let db = if trans_b {
            gemm_op(v, [&dy, v.x(0)], [true, trans_a], alpha)?
        } else {
            gemm_op(v, [v.x(0), &dy], [!trans_a, false], alpha)?
        };
        v.set_dx(1, db);
    }
    if v.needs(2) {
        let shape = v.x_shape(2)?;
        let mut dc = emit::unbroadcast(v.g, &dy, &shape)?;
        if beta != 1.0 {
            let beta = v.g.scalar(v.g.value(&dc)?.dtype, beta.into())?;
            dc = v.op("Mul", &[&dc, &beta], &[])?;
        }
        v.set_dx(2, dc);
    }
    Ok(())
}

/// `alpha` times the product of two matrices, each transposed first where asked.
pub(super) fn gemm_op(
    v: &mut Vjp<'_>,
    [a, b]: [&str; 2],
    [trans_a, trans_b]: [bool; 2],
    alpha: f32,
) -> Result<String, GradError> {
    let attributes = [
        ("alpha", alpha.into()),
        ("transA", i64::from(trans_a).into()),
        ("transB", i64::from(trans_b).into()),
    ];
    v.op("Gemm", &[a, b], &attributes)
}

/// Swaps the last two axes.
pub(super) fn transpose_last(v: &mut Vjp<'_>, x: &str) -> Result<String, GradError> {
    let rank = v.g.shape(x)?.len();
    emit::swap(v.g, x, rank - 2)
}

/// All leading axes as one.
fn rows(v: &mut Vjp<'_>, x: &str) -> Result<String, GradError> {
    let rank = v.g.shape(x)?.len() as i64;
    if rank == 2 { Ok(x.to_owned()) } else { v.op("Flatten", &[x], &[("axis", (rank - 1).into())]) }
}

fn unsqueeze(v: &mut Vjp<'_>, x: &str, axis: i64) -> Result<String, GradError> {
    let axes = v.g.ints(&[axis])?;
    v.op("Unsqueeze", &[x, &axes], &[])
}

/// Sums over broadcast batch axes to the shape of `matrix`, then drops the axis a vector was given.
fn set_like_matrix(v: &mut Vjp<'_>, i: usize, gradient: &str, matrix: &str) -> Result<(), GradError> {
    let shape = v.g.shape(matrix)?.clone();
    let summed = emit::unbroadcast(v.g, gradient, &shape)?;
    let dx = emit::reshape_like(v.g, &summed, v.x(i))?;
    v.set_dx(i, dx);
    Ok(())
}
