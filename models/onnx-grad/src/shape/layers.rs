//! Products, convolutions and pooling.

use super::{Context, broadcast, one};
use crate::builder::Value;
use crate::emit::show;
use crate::error::GradError;
use crate::graph::{DataType, Dim, Shape};

pub(super) fn matmul(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let (a, b) = (c.shape(0)?, c.shape(1)?);
    let refuse = || c.error("shapes that multiply as matrices", format!("{} and {}", show(a), show(b)));
    if a.is_empty() || b.is_empty() {
        return Err(refuse());
    }
    let (inner_a, inner_b) = (&a[a.len() - 1], if b.len() == 1 { &b[0] } else { &b[b.len() - 2] });
    if !may_be_equal(inner_a, inner_b) {
        return Err(refuse());
    }
    let batch_a = a[..a.len().saturating_sub(2)].to_vec();
    let batch_b = b[..b.len().saturating_sub(2)].to_vec();
    let mut shape = broadcast(&[&batch_a, &batch_b]).ok_or_else(refuse)?;
    if a.len() > 1 {
        shape.push(a[a.len() - 2].clone());
    }
    if b.len() > 1 {
        shape.push(b[b.len() - 1].clone());
    }
    one(c.x(0)?.dtype, shape)
}

/// Sizes must agree; a symbol may turn out to be any number.
fn may_be_equal(a: &Dim, b: &Dim) -> bool {
    match (a.size(), b.size()) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

pub(super) fn gemm(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let (a, b) = (c.shape(0)?, c.shape(1)?);
    let refuse = || c.error("two matrices that multiply", format!("{} and {}", show(a), show(b)));
    if a.len() != 2 || b.len() != 2 {
        return Err(refuse());
    }
    let oriented = |s: &Shape, transposed: bool| {
        if transposed { (s[1].clone(), s[0].clone()) } else { (s[0].clone(), s[1].clone()) }
    };
    let (m, k_a) = oriented(a, c.node.int("transA", 0)? != 0);
    let (k_b, n) = oriented(b, c.node.int("transB", 0)? != 0);
    if !may_be_equal(&k_a, &k_b) {
        return Err(refuse());
    }
    let shape = vec![m, n];
    if let Some(bias) = c.opt(2)
        && broadcast(&[&bias.shape, &shape]).as_ref() != Some(&shape)
    {
        return Err(c.error(format!("a bias that broadcasts to {}", show(&shape)), show(&bias.shape)));
    }
    one(c.x(0)?.dtype, shape)
}

/// Window of one spatial axis.
struct Window {
    kernel: usize,
    stride: usize,
    dilation: usize,
    pad_begin: usize,
    pad_end: usize,
}

/// The windows of all spatial axes; pads are 0 where `auto_pad` decides them.
fn windows(c: &Context<'_>, kernel: &[usize]) -> Result<Vec<Window>, GradError> {
    let rank = kernel.len();
    let list = |name: &str, default: usize, n: usize| -> Result<Vec<usize>, GradError> {
        let Some(values) = c.node.ints(name)? else { return Ok(vec![default; n]) };
        let sizes: Option<Vec<usize>> = values.iter().map(|&v| usize::try_from(v).ok()).collect();
        sizes
            .filter(|s| s.len() == n)
            .ok_or_else(|| c.error(format!("`{name}` to be {n} sizes"), format!("{values:?}")))
    };
    let (strides, dilations, pads) =
        (list("strides", 1, rank)?, list("dilations", 1, rank)?, list("pads", 0, 2 * rank)?);
    if strides.contains(&0) || dilations.contains(&0) || kernel.contains(&0) {
        return Err(c.error("strides, dilations and kernel of at least 1", "0"));
    }
    Ok((0..rank)
        .map(|i| Window {
            kernel: kernel[i],
            stride: strides[i],
            dilation: dilations[i],
            pad_begin: pads[i],
            pad_end: pads[rank + i],
        })
        .collect())
}

fn groups(c: &Context<'_>) -> Result<usize, GradError> {
    let group = c.node.int("group", 1)?;
    usize::try_from(group)
        .ok()
        .filter(|&g| g > 0)
        .ok_or_else(|| c.error("a `group` of at least 1", group.to_string()))
}

fn kernel_shape(c: &Context<'_>, weight: Option<&Shape>) -> Result<Vec<usize>, GradError> {
    let from_weight = || weight.and_then(|w| w.iter().skip(2).map(Dim::size).collect());
    c.node
        .ints("kernel_shape")?
        .and_then(|k| k.iter().map(|&v| usize::try_from(v).ok()).collect())
        .or_else(from_weight)
        .ok_or_else(|| c.error("a kernel of known size", "none"))
}

/// The windows of a weight `[…, …, kernel…]`.
fn weight_windows(c: &Context<'_>, w: &Shape) -> Result<Vec<Window>, GradError> {
    let kernel = kernel_shape(c, Some(w))?;
    if kernel.len() != w.len() - 2
        || kernel.iter().zip(&w[2..]).any(|(&k, w)| w.size().is_some_and(|w| w != k))
    {
        return Err(c.error(format!("a kernel as in weight {}", show(w)), format!("{kernel:?}")));
    }
    windows(c, &kernel)
}

/// Output sizes of a sliding window over `spatial`.
fn slide(
    c: &Context<'_>,
    spatial: &[Dim],
    windows: &[Window],
    ceil_mode: bool,
) -> Result<Vec<Dim>, GradError> {
    let auto_pad = c.node.string("auto_pad", "NOTSET")?;
    let mut out = Vec::with_capacity(spatial.len());
    for (i, (dim, w)) in spatial.iter().zip(windows).enumerate() {
        let Some(size) = dim.size() else {
            out.push(c.unknown_dim(2 + i));
            continue;
        };
        let extent = w.dilation * (w.kernel - 1) + 1;
        let n = match auto_pad {
            "SAME_UPPER" | "SAME_LOWER" => size.div_ceil(w.stride),
            "NOTSET" | "VALID" => {
                let padding = if auto_pad == "VALID" { 0 } else { w.pad_begin + w.pad_end };
                let room = (size + padding).checked_sub(extent).ok_or_else(|| {
                    c.error(format!("at least {extent} padded positions on axis {}", 2 + i), size.to_string())
                })?;
                if ceil_mode { ceil_windows(size, room, w) } else { room / w.stride + 1 }
            }
            other => return Err(c.error("a known `auto_pad`", format!("`{other}`"))),
        };
        out.push(Dim::Size(n));
    }
    Ok(out)
}

/// With `ceil_mode` the last window may hang over the end, but must not start in the end padding.
fn ceil_windows(size: usize, room: usize, w: &Window) -> usize {
    let n = room.div_ceil(w.stride) + 1;
    if (n - 1) * w.stride >= size + w.pad_begin { n - 1 } else { n }
}

pub(super) fn conv(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let (x, w) = (c.shape(0)?, c.shape(1)?);
    let group = groups(c)?;
    let fits = x.len() >= 3
        && x.len() == w.len()
        && match (x[1].size(), w[1].size()) {
            (Some(channels), Some(per_group)) => channels == per_group * group,
            _ => true,
        }
        && w[0].size().is_none_or(|channels| channels.is_multiple_of(group));
    if !fits {
        return Err(c.error(
            format!("input [N, C, ...] and weight [O, C / {group}, ...]"),
            format!("{} and {}", show(x), show(w)),
        ));
    }
    let windows = weight_windows(c, w)?;
    let mut shape = vec![x[0].clone(), w[0].clone()];
    shape.extend(slide(c, &x[2..], &windows, false)?);
    one(c.x(0)?.dtype, shape)
}

pub(super) fn conv_transpose(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let (x, w) = (c.shape(0)?, c.shape(1)?);
    if x.len() < 3 || x.len() != w.len() {
        return Err(c.error("input and weight of one rank", format!("{} and {}", show(x), show(w))));
    }
    let group = groups(c)?;
    let windows = weight_windows(c, w)?;
    let n_axes = windows.len();
    let extra = c.node.ints("output_padding")?;
    if let Some(extra) = extra.filter(|extra| extra.len() != n_axes) {
        return Err(c.error(format!("`output_padding` to be {n_axes} sizes"), format!("{extra:?}")));
    }
    let auto_pad = c.node.string("auto_pad", "NOTSET")?;
    // Behind the batch and channels where those are given too.
    let given = match c.node.ints("output_shape")? {
        Some(sizes) if sizes.len() < n_axes => {
            return Err(c.error(format!("an `output_shape` of {n_axes} sizes"), format!("{sizes:?}")));
        }
        sizes => sizes.map(|s| &s[s.len() - n_axes..]),
    };
    let channels = w[1].size().map_or_else(|| c.unknown_dim(1), |n| Dim::Size(n.saturating_mul(group)));
    let mut shape = vec![x[0].clone(), channels];
    for (i, (dim, w)) in x[2..].iter().zip(&windows).enumerate() {
        if let Some(&size) = given.and_then(|s| s.get(i)) {
            let size = usize::try_from(size);
            shape.push(Dim::Size(
                size.map_err(|_| c.error("an `output_shape` of sizes", "a negative number"))?,
            ));
            continue;
        }
        let extra = extra.and_then(|e| e.get(i)).map_or(0, |&e| e.max(0) as usize);
        shape.push(match dim.size() {
            None => c.unknown_dim(2 + i),
            Some(n) if auto_pad.starts_with("SAME") => Dim::Size(n * w.stride),
            Some(n) => {
                let pads = if auto_pad == "VALID" { 0 } else { w.pad_begin + w.pad_end };
                let full = n.saturating_sub(1) * w.stride + w.dilation * (w.kernel - 1) + 1 + extra;
                let size = full.checked_sub(pads);
                Dim::Size(size.ok_or_else(|| c.error("pads smaller than the output", full.to_string()))?)
            }
        });
    }
    one(c.x(0)?.dtype, shape)
}

/// The normalised values, their mean and their inverse standard deviation, the latter two float32.
pub(super) fn layer_norm(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let first = c.axis(c.node.int("axis", -1)?, x.shape.len())?;
    let mut shape = x.shape.clone();
    shape[first..].fill(Dim::Size(1));
    let statistics = Value { dtype: DataType::F32, shape, content: None };
    Ok(vec![Value { content: None, ..x.clone() }, statistics.clone(), statistics])
}

/// One output, or two with the indices of `MaxPool`.
pub(super) fn pool(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    let windows = windows(c, &kernel_shape(c, None)?)?;
    if x.shape.len() != 2 + windows.len() {
        return Err(c.error(format!("an input of rank {}", 2 + windows.len()), show(&x.shape)));
    }
    let mut shape = x.shape[..2].to_vec();
    shape.extend(slide(c, &x.shape[2..], &windows, c.node.int("ceil_mode", 0)? != 0)?);
    let indices = Value { dtype: DataType::I64, shape: shape.clone(), content: None };
    Ok(vec![Value { dtype: x.dtype, shape, content: None }, indices])
}

pub(super) fn global_pool(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let x = c.x(0)?;
    if x.shape.len() < 3 {
        return Err(c.error("an input [N, C, ...]", show(&x.shape)));
    }
    let ones = vec![Dim::Size(1); x.shape.len() - 2];
    one(x.dtype, [&x.shape[..2], &ones].concat())
}
