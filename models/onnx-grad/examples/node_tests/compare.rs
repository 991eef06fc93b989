//! Values and directional derivatives of a training graph against what they ought to be.

use std::collections::{BTreeMap, BTreeSet};

use onnx_grad::graph::{DataType, Tensor};

use crate::Verdict;
use crate::support::Runner;

type Tensors = BTreeMap<String, Tensor>;

const SEED: u64 = 20_240_229;
const N_DIRECTIONS: usize = 3;
/// How often inputs are moved off a kink, each time from where the test has them.
const N_NUDGES: usize = 8;

/// How finely finite differences can tell.
struct Precision {
    /// Step of the central difference, in units of the input's scale.
    step: f64,
    /// An input's scale is 1, or its root mean square times this where that is above 1.
    reach: f64,
    /// How far gradient and difference may be apart, relative to the derivative's size.
    tolerance: f64,
    /// Smallest size of a derivative that this is relative to, in units of the loss's own size.
    floor: f64,
    /// How far the differences to the left and to the right may be apart before the point is taken for a kink.
    kink: f64,
    /// How far inputs are moved off a kink.
    nudge: f64,
}

impl Precision {
    fn scale(&self, values: &[f64]) -> f64 {
        let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let rms = norm(&finite) / (finite.len().max(1) as f64).sqrt();
        (self.reach * rms).max(1.0)
    }
}

/// Rounding gives 1e-16 / 1e-5 relative to the loss, truncation 1e-10.
const F64: Precision =
    Precision { step: 1e-5, reach: 1e-4, tolerance: 1e-6, floor: 1e-3, kink: 1e-3, nudge: 0.02 };
/// Rounding gives 6e-8 / 2e-3 relative to the loss, truncation 4e-6.
const F32: Precision =
    Precision { step: 2e-3, reach: 1.0, tolerance: 2e-3, floor: 0.05, kink: 2e-2, nudge: 0.1 };

/// A training graph at the point where its test has it.
pub struct Problem<'a> {
    runner: &'a mut Runner,
    at: Tensors,
    /// Inputs with a gradient in the graph. That of the others is zero.
    derived: &'a BTreeSet<String>,
    /// u by output y.
    u: BTreeMap<String, Vec<f64>>,
    /// u by the name of its input.
    u_feeds: Vec<(String, Tensor)>,
    results: Tensors,
    dtype: DataType,
    precision: &'static Precision,
    draws: Draws,
}

impl<'a> Problem<'a> {
    /// `mixed`: parts of a float64 graph compute in float32.
    ///
    /// # Errors
    /// What ONNX Runtime says when the graph runs.
    pub fn new(
        runner: &'a mut Runner,
        at: Tensors,
        derived: &'a BTreeSet<String>,
        cotangents: BTreeMap<String, String>,
        expected: &Tensors,
        dtype: DataType,
        mixed: bool,
    ) -> ort::Result<Self> {
        let mut draws = Draws(SEED);
        let mut u = BTreeMap::new();
        let mut u_feeds = Vec::new();
        for (y, input) in cotangents {
            let dims = &expected[&y].dims;
            // As the graph sees them: rounded.
            let tensor = tensor(dtype, dims, &draws.normal(dims.iter().product()));
            u.insert(y, floats(&tensor).unwrap_or_default());
            u_feeds.push((input, tensor));
        }
        let precision = if dtype == DataType::F64 && !mixed { &F64 } else { &F32 };
        let mut problem =
            Problem { runner, at, derived, u, u_feeds, results: Tensors::new(), dtype, precision, draws };
        let at = problem.at.clone();
        problem.results = problem.run(&at)?;
        Ok(problem)
    }

    fn run(&mut self, at: &Tensors) -> ort::Result<Tensors> {
        let feeds: Vec<(&str, Tensor)> = at
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.clone()))
            .chain(self.u_feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())))
            .collect();
        self.runner.try_run(&feeds)
    }

    /// The training graph's outputs are those that the test expects.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_forward(&self, expected: &Tensors) -> Result<(), String> {
        check_values(&self.results, expected)
    }

    /// ⟨gradient, v⟩ against a central difference along v, for several v. Where the differences show a kink, at
    /// points nearby.
    pub fn check_gradient(&mut self) -> Verdict {
        let mut at = self.at.clone();
        for i_nudge in 0..=N_NUDGES {
            // A long step tells more; a short one stays clear of poles.
            for step in [self.precision.step, self.precision.step / 16.0] {
                match self.agrees(&at, step) {
                    Ok(Agreement::Yes) => return Verdict::Passed { in_f64: false, off_kink: i_nudge > 0 },
                    Ok(Agreement::No(why)) => return Verdict::Failed(why),
                    // An error: it runs at the test's own inputs, but close to them its outputs have other shapes.
                    Ok(Agreement::Kink) | Err(_) => {}
                }
            }
            at = self.nudged();
        }
        Verdict::NotApplicable("no finite difference to go by at, or near, the test's inputs".to_owned())
    }

    fn nudged(&mut self) -> Tensors {
        let mut nudged = Tensors::new();
        for (name, x) in &self.at {
            let values = floats(x).unwrap_or_default();
            let by = self.precision.nudge * self.precision.scale(&values);
            let v = self.draws.normal(values.len());
            let nudge = |(x, v): (&f64, f64)| if x.is_finite() { x + by * v } else { v };
            let values: Vec<f64> = values.iter().zip(v).map(nudge).collect();
            nudged.insert(name.clone(), tensor(self.dtype, &x.dims, &values));
        }
        nudged
    }

    fn agrees(&mut self, at: &Tensors, step: f64) -> ort::Result<Agreement> {
        let p = self.precision;
        let results = self.run(at)?;
        let mut gradients = BTreeMap::new();
        for name in self.derived {
            let gradient = &results[&format!("{name}.grad")];
            if gradient.dims != at[name].dims {
                let (found, expected) = (&gradient.dims, &at[name].dims);
                return Ok(Agreement::No(format!("gradient {found:?} of `{name}` {expected:?}")));
            }
            gradients.insert(name.clone(), floats(gradient).unwrap_or_default());
        }
        let (loss, loss_size) = self.loss(&results);
        for _ in 0..N_DIRECTIONS {
            let v: BTreeMap<&String, Vec<f64>> = at
                .iter()
                .map(|(name, x)| {
                    let values = floats(x).unwrap_or_default();
                    let by = p.scale(&values);
                    (name, self.draws.normal(values.len()).iter().map(|v| by * v).collect())
                })
                .collect();
            let mut difference = |from: f64, to: f64| -> ort::Result<Difference> {
                let (a, b) = (self.moved(at, &v, from * step), self.moved(at, &v, to * step));
                let loss_at = |this: &mut Self, point: &Tensors, by: f64| -> ort::Result<f64> {
                    if by == 0.0 { Ok(loss) } else { Ok(this.run(point).map(|r| this.loss(&r).0)?) }
                };
                let by_difference = loss_at(self, &b, to)? - loss_at(self, &a, from)?;
                let mut terms = Vec::new();
                for (name, gradient) in &gradients {
                    let (a, b) = (floats(&a[name]).unwrap_or_default(), floats(&b[name]).unwrap_or_default());
                    // The steps as rounding left them.
                    terms.extend(gradient.iter().zip(b.iter().zip(&a)).map(|(g, (b, a))| g * (b - a)));
                }
                let length = (to - from) * step;
                Ok(Difference {
                    by_difference: by_difference / length,
                    by_gradient: terms.iter().sum::<f64>() / length,
                    size: norm(&terms) / length,
                })
            };
            let central = difference(-1.0, 1.0)?;
            let size = central.size.max(central.by_difference.abs()).max(p.floor * loss_size).max(1e-12);
            let error = (central.by_difference - central.by_gradient).abs();
            if error <= p.tolerance * size {
                continue;
            }
            let (left, right) = (difference(-1.0, 0.0)?, difference(0.0, 1.0)?);
            let half = difference(-0.5, 0.5)?;
            let size = if size.is_finite() { size } else { central.by_difference.abs().max(1e-12) };
            let apart = |a: &Difference, b: &Difference| (a.by_difference - b.by_difference).abs() / size;
            // Where the difference still changes with the step it says nothing about an error of that size.
            let moves = (central.by_difference - half.by_difference).abs();
            let smooth = apart(&left, &right) <= p.kink && moves <= 0.2 * error.max(p.tolerance * size);
            let (by_difference, by_gradient) = (central.by_difference, central.by_gradient);
            return Ok(if smooth {
                Agreement::No(format!(
                    "derivative {by_difference:.6e} by difference, {by_gradient:.6e} by gradient"
                ))
            } else {
                Agreement::Kink
            });
        }
        Ok(Agreement::Yes)
    }

    fn moved(&self, at: &Tensors, v: &BTreeMap<&String, Vec<f64>>, by: f64) -> Tensors {
        at.iter()
            .map(|(name, x)| {
                let values = floats(x).unwrap_or_default();
                let values: Vec<f64> = values.iter().zip(&v[name]).map(|(x, v)| x + by * v).collect();
                (name.clone(), tensor(self.dtype, &x.dims, &values))
            })
            .collect()
    }

    /// Σ ⟨u, y⟩, summed here in float64, and the root of the sum of its terms' squares.
    fn loss(&self, results: &Tensors) -> (f64, f64) {
        let mut terms = Vec::new();
        for (y, u) in &self.u {
            let y = floats(&results[y]).unwrap_or_default();
            terms.extend(y.iter().zip(u).map(|(y, u)| y * u));
        }
        (terms.iter().sum(), norm(&terms))
    }
}

enum Agreement {
    Yes,
    No(String),
    Kink,
}

/// A directional derivative, both ways.
struct Difference {
    by_difference: f64,
    by_gradient: f64,
    /// Root of the sum of the squares of the gradient's terms.
    size: f64,
}

/// Every output that the test expects, within the tolerance of ONNX's own test runner (1e-3 relative; half
/// precision: 1e-2).
///
/// # Errors
/// The first that is not as expected.
pub fn check_values(found: &Tensors, expected: &Tensors) -> Result<(), String> {
    for (name, expected) in expected {
        // Outputs of training mode, which is taken away when a model is read.
        let Some(found) = found.get(name) else { continue };
        if found.dims != expected.dims {
            return Err(format!("`{name}` is {:?}, expected {:?}", found.dims, expected.dims));
        }
        let relative = if matches!(expected.dtype, DataType::F16 | DataType::BF16) { 1e-2 } else { 1e-3 };
        let (Some(found), Some(expected)) = (floats(found), floats(expected)) else { continue };
        let absolute = 1e-5_f64.max(relative * 1e-2);
        let close = |a: f64, b: f64| {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= absolute + relative * b.abs()
        };
        if let Some((f, e)) = found.iter().zip(&expected).find(|(f, e)| !close(**f, **e)) {
            return Err(format!("`{name}` has {f}, expected {e}"));
        }
    }
    Ok(())
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Content of a tensor of any type.
pub fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    let b = &tensor.bytes;
    Some(match tensor.dtype {
        DataType::F16 => b.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f64()).collect(),
        DataType::BF16 => b.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f64()).collect(),
        DataType::F32 => b.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        DataType::F64 => b.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        DataType::I8 => b.iter().map(|&b| f64::from(b.cast_signed())).collect(),
        DataType::U8 | DataType::Bool => b.iter().map(|&b| f64::from(b)).collect(),
        DataType::I32 => b.as_chunks().0.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
        DataType::I64 => b.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
    })
}

/// A tensor of float64 or float32.
pub fn tensor(dtype: DataType, dims: &[usize], values: &[f64]) -> Tensor {
    let bytes = match dtype {
        DataType::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
    };
    Tensor { dtype, dims: dims.to_vec(), bytes }
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Mean 0, variance 1, and never beyond 1.74, so that a step has a known reach.
    fn normal(&mut self, n: usize) -> Vec<f64> {
        let uniform = |bits: u64| (bits >> 11) as f64 / (1_u64 << 53) as f64;
        (0..n).map(|_| (2.0 * uniform(self.next()) - 1.0) * 3_f64.sqrt()).collect()
    }
}
