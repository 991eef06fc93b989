//! Rules of operators that make a tensor from a few numbers.

use crate::emit;
use crate::error::GradError;
use crate::graph::{Attribute, Tensor};
use crate::vjp::Vjp;

const ALL: [(&str, Attribute); 1] = [("keepdims", Attribute::Int(0))];

/// y_i = start + i delta: dstart = Σ dy, ddelta = Σ i dy. The limit only decides how many there are.
pub(super) fn range(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let (start, delta, y, dy) = (v.x(0), v.x(2), v.y(0), v.dy());
    if v.needs(0) {
        let dx = v.op("ReduceSum", &[&dy], &ALL)?;
        v.set_dx(0, dx);
    }
    if v.needs(2) {
        let from_start = v.op("Sub", &[y, start], &[])?;
        let i = v.op("Div", &[&from_start, delta], &[])?;
        let product = v.op("Mul", &[&dy, &i], &[])?;
        let dx = v.op("ReduceSum", &[&product], &ALL)?;
        v.set_dx(2, dx);
    }
    Ok(())
}

/// y is on at the indices, off elsewhere, for the values [off, on]: don = Σ dy at the indices, doff = Σ dy elsewhere.
pub(super) fn one_hot(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dtype = v.g.value(v.y(0))?.dtype;
    let flags: Vec<Tensor> =
        [0.0, 1.0].into_iter().map(|x| Tensor::scalar(dtype, x)).collect::<Result<_, _>>()?;
    let bytes = flags.into_iter().flat_map(|t| t.bytes).collect();
    let flags = v.g.constant(Tensor { dtype, dims: vec![2], bytes })?;
    let axis = [("axis", Attribute::Int(v.node.int("axis", -1)?))];
    let mut on = v.op("OneHot", &[v.x(0), v.x(1), &flags], &axis)?;
    if v.g.shape(&on)? != v.g.shape(v.y(0))? {
        // The depth is not known: the dimension has one name here and another there.
        on = emit::reshape_like(v.g, &on, v.y(0))?;
    }
    let dy = v.dy();
    let at_indices = v.op("Mul", &[&dy, &on], &[])?;
    let elsewhere = v.op("Sub", &[&dy, &at_indices], &[])?;
    let mut sums = Vec::new();
    let one = v.g.ints(&[1])?;
    for part in [elsewhere, at_indices] {
        let sum = v.op("ReduceSum", &[&part], &ALL)?;
        sums.push(v.op("Reshape", &[&sum, &one], &[])?);
    }
    let dx = v.op("Concat", &[&sums[0], &sums[1]], &[("axis", Attribute::Int(0))])?;
    v.set_dx(2, dx);
    Ok(())
}
