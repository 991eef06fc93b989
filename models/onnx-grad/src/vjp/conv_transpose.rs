//! Rule of ConvTranspose, any stride, padding, dilation and number of groups.

use std::collections::BTreeMap;

use crate::emit;
use crate::error::GradError;
use crate::graph::{Attribute, Node};
use crate::vjp::{Vjp, conv, window};

/// Y = X ⋆ᵀ W + b with X `[N, C, …]`, W `[C, M/groups, …]`: the linear map whose transpose is the Conv of dY
/// with the same W. So dX is that Conv, dW is that Conv's weight gradient with X in the place of its output's
/// gradient, and db is dY summed over batch and space.
pub(super) fn conv_transpose(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let dy = v.dy();
    let attributes = conv_attributes(v)?;
    if v.needs(0) {
        let listed: Vec<(&str, Attribute)> =
            attributes.iter().map(|(k, a)| (k.as_str(), a.clone())).collect();
        let dx = v.op("Conv", &[&dy, v.x(1)], &listed)?;
        v.set_dx(0, dx);
    }
    if v.needs(1) {
        let conv = Node {
            name: v.node.name.clone(),
            op: "Conv".to_owned(),
            domain: String::new(),
            inputs: vec![dy.clone(), v.x(1).to_owned()],
            outputs: vec![v.x(0).to_owned()],
            attributes,
        };
        let nothing_saved = BTreeMap::new();
        let x = Some(v.x(0).to_owned());
        let mut weight = Vjp::new(v.g, &conv, vec![x], vec![false, true], &nothing_saved);
        conv::conv(&mut weight)?;
        if let Some(dw) = weight.finish().remove(1) {
            v.set_dx(1, dw);
        }
    }
    if v.needs(2) {
        let axes = emit::all_but_channel(v.x_shape(0)?.len());
        let db = emit::reduce(v.g, "ReduceSum", &dy, &axes, false)?;
        v.set_dx(2, db);
    }
    Ok(())
}

/// Attributes of the Conv that takes dY to dX.
fn conv_attributes(v: &Vjp<'_>) -> Result<BTreeMap<String, Attribute>, GradError> {
    let (x, w, y) = (v.x_shape(0)?, v.x_shape(1)?, v.y_shape(0)?);
    let n_axes = x.len() - 2;
    let kernel = window::sizes(v.node, &w, n_axes)?;
    let (inputs, outputs) = (window::sizes(v.node, &x, n_axes)?, window::sizes(v.node, &y, n_axes)?);
    let list = |name: &str, default: i64| -> Result<Vec<i64>, GradError> {
        Ok(v.node.ints(name)?.map_or_else(|| vec![default; n_axes], <[i64]>::to_vec))
    };
    let (strides, dilations, extra) =
        (list("strides", 1)?, list("dilations", 1)?, list("output_padding", 0)?);
    let auto_pad = v.node.string("auto_pad", "NOTSET")?;
    let is_computed = v.node.ints("output_shape")?.is_some() || auto_pad.starts_with("SAME");
    let pads = if is_computed {
        // The padding follows from the output's size; what cannot be split evenly goes to the end for
        // SAME_UPPER, else to the beginning.
        let total: Vec<i64> = (0..n_axes)
            .map(|i| {
                let full = (inputs[i] - 1) * strides[i] + extra[i] + (kernel[i] - 1) * dilations[i] + 1;
                (full - outputs[i]).max(0)
            })
            .collect();
        let smaller: Vec<i64> = total.iter().map(|t| t / 2).collect();
        let larger: Vec<i64> = total.iter().map(|t| t - t / 2).collect();
        if auto_pad == "SAME_UPPER" { [smaller, larger].concat() } else { [larger, smaller].concat() }
    } else if auto_pad == "VALID" {
        vec![0; 2 * n_axes]
    } else {
        v.node.ints("pads")?.map_or_else(|| vec![0; 2 * n_axes], <[i64]>::to_vec)
    };
    Ok(BTreeMap::from([
        ("dilations".to_owned(), dilations.into()),
        ("group".to_owned(), v.node.int("group", 1)?.into()),
        ("pads".to_owned(), pads.into()),
        ("strides".to_owned(), strides.into()),
    ]))
}
