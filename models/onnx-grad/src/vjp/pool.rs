//! Rules of windowed pooling, 1-D and 2-D.

use std::collections::BTreeMap;

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;
use crate::graph::{Attribute, DataType, Node, Tensor};
use crate::vjp::window::{self, Axis};
use crate::vjp::{Lowered, Mode, Vjp};

/// The pool with its second output, the flat index of each maximum in X.
pub(super) fn lower_max(b: &mut Builder, node: &Node, _: &Mode) -> Result<Lowered, GradError> {
    if node.output(1).is_some() && node.int("storage_order", 0)? != 0 {
        return Err(emit::shape_error(node, "`Indices` in row-major order", "`storage_order` 1"));
    }
    let indices = match node.output(1) {
        Some(name) => name.to_owned(),
        None => b.fresh("Indices"),
    };
    let mut training = node.clone();
    training.outputs = vec![node.outputs[0].clone(), indices.clone()];
    b.push(training)?;
    Ok(Lowered { saved: BTreeMap::from([("indices", indices)]), next_state: Vec::new() })
}

/// Each maximum's gradient goes to the element it came from (the first one where several are equal); where
/// windows overlap they add up. Saves the indices.
pub(super) fn max(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axes = read(v)?;
    let indices = v.saved("indices").expect("invariant: the lowering of MaxPool saves its indices");
    let indices = emit::reshape(v.g, indices, &[-1])?;
    let dy = v.dy();
    let dy = emit::reshape(v.g, &dy, &[-1])?;
    let zeros = emit::zeros_like(v.g, v.x(0))?;
    let zeros = emit::reshape(v.g, &zeros, &[-1])?;
    // `add` is slower, and on GPUs its order of summation varies: only where an index can repeat.
    let reduction = if axes.iter().any(|a| a.stride < a.extent()) { "add" } else { "none" };
    let scattered = v.op(
        "ScatterElements",
        &[&zeros, &indices, &dy],
        &[("axis", 0_i64.into()), ("reduction", reduction.into())],
    )?;
    let dx = emit::reshape_like(v.g, &scattered, v.x(0))?;
    v.set_dx(0, dx);
    Ok(())
}

/// Averaging is linear and separable: with one matrix A `[output, input]` per spatial axis, Y = A X Bᵀ and
/// dX = Aᵀ dY B. That covers every stride, padding, dilation and rounding by two small products.
pub(super) fn average(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let axes = read(v)?;
    let dtype = v.g.value(v.x(0))?.dtype;
    let include_pad = v.node.int("count_include_pad", 0)? != 0;
    // Until opset 18 the divisor was the whole window, even where rounding up moves it beyond the padding.
    let whole_window = v.g.opset() < 19;
    let mut gradient = v.dy();
    for (i, axis) in axes.iter().enumerate().rev() {
        let matrix = averaging_matrix(axis, include_pad, whole_window);
        let (n_rows, n_columns) = (axis.output as usize, axis.input as usize);
        if i + 1 == axes.len() {
            let matrix = constant(v, dtype, &[n_rows, n_columns], &matrix)?;
            gradient = v.op("MatMul", &[&gradient, &matrix], &[])?;
        } else {
            let transposed: Vec<f32> = (0..n_columns)
                .flat_map(|c| (0..n_rows).map(move |r| (r, c)))
                .map(|(r, c)| matrix[r * n_columns + c])
                .collect();
            let matrix = constant(v, dtype, &[n_columns, n_rows], &transposed)?;
            gradient = v.op("MatMul", &[&matrix, &gradient], &[])?;
        }
    }
    v.set_dx(0, gradient);
    Ok(())
}

/// Row major `[output, input]`: the weight of each input position in each output position.
fn averaging_matrix(axis: &Axis, include_pad: bool, whole_window: bool) -> Vec<f32> {
    let mut matrix = vec![0.0; (axis.output * axis.input) as usize];
    for output in 0..axis.output {
        let start = output * axis.stride - axis.begin;
        let positions: Vec<i64> = (0..axis.kernel).map(|k| start + k * axis.dilation).collect();
        let inside = positions.iter().filter(|&&p| (0..axis.input).contains(&p));
        let n_counted = match (include_pad, whole_window) {
            (false, _) => inside.clone().count(),
            (true, true) => positions.len(),
            (true, false) => positions.iter().filter(|&&p| p < axis.input + axis.end).count(),
        };
        for position in inside {
            matrix[(output * axis.input + position) as usize] = 1.0 / n_counted as f32;
        }
    }
    matrix
}

fn constant(v: &mut Vjp<'_>, dtype: DataType, dims: &[usize], values: &[f32]) -> Result<String, GradError> {
    let matrix = v.g.constant(Tensor::from_f32(dims, values))?;
    if dtype == DataType::F32 { Ok(matrix) } else { emit::cast(v.g, &matrix, dtype) }
}

fn read(v: &Vjp<'_>) -> Result<Vec<Axis>, GradError> {
    let Some(Attribute::Ints(kernel)) = v.node.attributes.get("kernel_shape") else {
        return Err(emit::shape_error(v.node, "attribute `kernel_shape`", "none"));
    };
    let axes = window::axes(v.node, &v.x_shape(0)?, Some(&v.y_shape(0)?), kernel)?;
    if axes.len() > 2 {
        return Err(emit::shape_error(v.node, "one or two spatial dimensions", axes.len().to_string()));
    }
    Ok(axes)
}
