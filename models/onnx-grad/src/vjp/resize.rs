//! Rule of Resize.

use crate::emit;
use crate::error::GradError;
use crate::vjp::Vjp;
use crate::vjp::linear::{self, Matrix};

/// y = A x along every resized axis, A the matrix of interpolation weights: dx = Aᵀ dy along each.
pub(super) fn resize(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let (x, y) = (v.x_shape(0)?, v.y_shape(0)?);
    let rank = x.len();
    let scales = given_scales(v, rank)?;
    let how = Interpolation::of(v)?;
    let mut matrices = Vec::new();
    for axis in 0..rank {
        if x[axis] == y[axis] && scales[axis].is_none_or(|scale| scale == 1.0) {
            continue;
        }
        let n_in = linear::size_of_axis(v, axis)?;
        let n_out = y[axis].size().ok_or_else(|| {
            emit::shape_error(v.node, format!("a known size of output axis {axis}"), emit::show(&y))
        })?;
        let scale = scales[axis].unwrap_or(n_out as f32 / n_in as f32);
        let mut matrix = Matrix::zeros(v.g, n_out, n_in)?;
        how.weigh(&mut matrix, scale);
        matrices.push((axis, matrix));
    }
    let dx = linear::transposed(v, &v.dy(), &matrices)?;
    v.set_dx(0, dx);
    Ok(())
}

/// The scale of every axis where scales are given, not sizes.
fn given_scales(v: &Vjp<'_>, rank: usize) -> Result<Vec<Option<f32>>, GradError> {
    let mut scales = vec![None; rank];
    let Some(name) = v.node.input(2) else { return Ok(scales) };
    let tensor = v.g.constant_content(name);
    let tensor = tensor.ok_or_else(|| emit::shape_error(v.node, "constant scales", format!("`{name}`")))?;
    let axes = match v.node.ints("axes")? {
        Some(axes) => axes.to_vec(),
        None => (0..rank as i64).collect(),
    };
    // Sizes may come with an empty tensor of scales.
    for (axis, scale) in axes.into_iter().zip(tensor.to_f32()?) {
        scales[emit::axis(v.node, axis, rank)?] = Some(scale);
    }
    Ok(scales)
}

/// What the attributes say, as ONNX defines them; single precision where ONNX Runtime computes in it, since a
/// nearest position may hang on a rounding.
struct Interpolation<'a> {
    mode: &'a str,
    coordinates: &'a str,
    nearest: &'a str,
    cubic_coefficient: f32,
    exclude_outside: bool,
}

impl<'a> Interpolation<'a> {
    fn of(v: &Vjp<'a>) -> Result<Self, GradError> {
        let node = v.node;
        let how = Interpolation {
            mode: node.string("mode", "nearest")?,
            coordinates: node.string("coordinate_transformation_mode", "half_pixel")?,
            nearest: node.string("nearest_mode", "round_prefer_floor")?,
            cubic_coefficient: node.float("cubic_coeff_a", -0.75)?,
            exclude_outside: node.int("exclude_outside", 0)? != 0,
        };
        let known = [
            ("mode", how.mode, &["nearest", "linear", "cubic"][..]),
            (
                "coordinate_transformation_mode",
                how.coordinates,
                &["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"],
            ),
            ("nearest_mode", how.nearest, &["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
        ];
        for (name, value, values) in known {
            if !values.contains(&value) {
                let expected = format!("`{name}` to be one of {}", values.join(", "));
                return Err(emit::shape_error(node, expected, format!("`{value}`")));
            }
        }
        if node.int("antialias", 0)? != 0 {
            return Err(emit::shape_error(node, "`antialias` 0", "1"));
        }
        Ok(how)
    }

    /// Adds the weights of every output position.
    fn weigh(&self, matrix: &mut Matrix, scale: f32) {
        let (n_in, n_out) = (matrix.n_in, matrix.n_out);
        for out in 0..n_out {
            // All that is further outside looks at the edge alone.
            let at = self.coordinate(out as f32, n_in as f32, n_out as f32, scale);
            let at = at.clamp(-4.0, n_in as f32 + 4.0);
            match self.mode {
                "linear" => linear_weights(matrix, out, at),
                "cubic" => self.cubic_weights(matrix, out, at),
                _ => matrix.add(out, self.nearest(at, n_in), 1.0),
            }
        }
    }

    /// The position in the input that position `out` of the output looks at.
    fn coordinate(&self, out: f32, n_in: f32, n_out: f32, scale: f32) -> f32 {
        match self.coordinates {
            "asymmetric" => out / scale,
            "align_corners" if n_out == 1.0 => 0.0,
            "align_corners" => out * (n_in - 1.0) / (n_out - 1.0),
            "pytorch_half_pixel" if n_out <= 1.0 => 0.0,
            "half_pixel_symmetric" => {
                let offset = n_in / 2.0 * (1.0 - n_out / (scale * n_in));
                offset + (out + 0.5) / scale - 0.5
            }
            _ => (out + 0.5) / scale - 0.5,
        }
    }

    fn nearest(&self, at: f32, n_in: usize) -> usize {
        let nearest = match self.nearest {
            "floor" => at.floor(),
            "ceil" => at.ceil(),
            "round_prefer_floor" if at == at.floor() + 0.5 => at.floor(),
            _ => at.round(),
        };
        (nearest.max(0.0) as usize).min(n_in - 1)
    }

    /// Keys' cubic convolution over four neighbours; those outside repeat the edge, or are left out.
    fn cubic_weights(&self, matrix: &mut Matrix, out: usize, at: f32) {
        let a = f64::from(self.cubic_coefficient);
        let (base, fraction) = (at.floor() as i64, f64::from(at - at.floor()));
        let n_in = matrix.n_in as i64;
        let mut weights = [fraction + 1.0, fraction, 1.0 - fraction, 2.0 - fraction].map(|distance| {
            if distance <= 1.0 {
                ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0
            } else {
                ((a * distance - 5.0 * a) * distance + 8.0 * a) * distance - 4.0 * a
            }
        });
        if self.exclude_outside {
            for (i, weight) in (base - 1..).zip(&mut weights) {
                if !(0..n_in).contains(&i) {
                    *weight = 0.0;
                }
            }
            let sum: f64 = weights.iter().sum();
            weights = weights.map(|weight| weight / sum);
        }
        for (i, weight) in (base - 1..).zip(weights) {
            matrix.add(out, i.clamp(0, n_in - 1) as usize, weight);
        }
    }
}

/// Two neighbours, within the input.
fn linear_weights(matrix: &mut Matrix, out: usize, at: f32) {
    let at = at.clamp(0.0, (matrix.n_in - 1) as f32);
    let low = at as usize;
    let high = (low + 1).min(matrix.n_in - 1);
    let fraction = f64::from(at - low as f32);
    matrix.add(out, low, 1.0 - fraction);
    matrix.add(out, high, fraction);
}
