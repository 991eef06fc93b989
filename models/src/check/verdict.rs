//! One parameter's gradient against central differences of the loss.

use onnx_grad::graph::Tensor;

use crate::init::Source;

/// Changes of the loss that are aimed at, as shares of it: the large ones stand out of its rounding, the small
/// ones step over few kinks.
const CHANGES: [f64; 3] = [1e-2, 1e-3, 1e-4];
/// Further ones, where those do not confirm the gradient.
const MORE_CHANGES: [f64; 3] = [3e-3, 3e-4, 3e-5];
/// Longest step, as a share of the parameter's own length.
const LONGEST: f64 = 0.05;
/// Length of a parameter counts as at least that of elements of this size: one that starts at zero must move too.
const LEAST_ELEMENT: f64 = 0.3;
/// Size of the loss counts as at least this, so that one near zero does not make all steps vanish.
const LEAST_LOSS: f64 = 1e-3;
/// Relative difference up to which a difference quotient of float32 losses confirms a gradient.
const TOLERANCE: f64 = 1e-2;
/// Rounding of a float32 loss, as a share of it: some units in the last place.
const ROUNDING: f64 = 5e-7;
/// How far a change must stand out of the rounding to say something, and to say it alone.
const VISIBLE: f64 = 16.0;
const CLEAR: f64 = 100.0;
/// Steps, as shares of the largest, at which kinks matter little; and how many of them make an error certain.
const SMALL: f64 = 0.1;
const ENOUGH: usize = 3;
/// Least of the errors at small steps, as a share of the greatest, where they count as one and the same.
const STEADY: f64 = 0.5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Neither the gradient nor the loss moves beyond rounding.
    Zero,
    /// Derivative and differences are the same.
    Agrees,
    /// Differences contradict each other as much as they do the gradient, or are too few to tell.
    Kink,
    /// Differences at small steps agree with each other, and not with the gradient.
    Disagrees,
}

/// What a check of one parameter has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub name: String,
    pub dims: Vec<usize>,
    /// L2 norm of the gradient.
    pub norm: f64,
    /// Relative difference at the best step size, the worse of both directions; none where nothing moves.
    pub difference: Option<f64>,
    pub verdict: Verdict,
}

/// Changes of the loss from one side of the parameter to the other.
struct Change {
    predicted: f64,
    measured: f64,
    /// From the parameter to the side ahead.
    ahead: f64,
    /// Length of the step to either side, as a share of the largest.
    step: f64,
}

impl Change {
    /// By how much the slope is off.
    fn error(&self) -> f64 {
        (self.measured - self.predicted) / self.step
    }

    /// Whether the slopes to both sides have the gradient between them, as at a kink.
    fn is_between(&self) -> bool {
        let half = self.predicted / 2.0;
        (self.ahead - half) * (self.measured - self.ahead - half) < 0.0
    }
}

/// Compares `gradient` with central differences along its own direction, and along the middle between it and a
/// random one, at several step sizes. `loss_at` gives the loss with other values of the parameter.
///
/// # Errors
/// Those of `loss_at`, and a parameter that is not float32.
pub fn examine<E: From<onnx_grad::GradError>>(
    name: &str,
    parameter: &Tensor,
    gradient: &[f32],
    seed: u64,
    mut loss_at: impl FnMut(&[f32]) -> Result<f32, E>,
) -> Result<Finding, E> {
    let values = parameter.to_f32()?;
    let start = f64::from(loss_at(&values)?);
    let loss = start.abs().max(LEAST_LOSS);
    let norm = length(gradient.iter().map(|&g| f64::from(g)));
    let source = Source::new(seed, name);
    let random = unit((0..values.len() as u64).map(|i| source.normal(i)).collect());
    let own = unit(gradient.iter().map(|&g| f64::from(g)).collect());
    let middle = unit(own.iter().zip(&random).map(|(g, r)| g + r).collect());
    let least = LEAST_ELEMENT * (values.len() as f64).sqrt();
    let longest = LONGEST * length(values.iter().map(|&v| f64::from(v))).max(least);
    let mut directions = vec![middle];
    if norm > 0.0 {
        directions.push(own);
    }
    let mut finding = Finding {
        name: name.to_owned(),
        dims: parameter.dims.clone(),
        norm,
        difference: None,
        verdict: Verdict::Zero,
    };
    for direction in directions {
        let slope: f64 = direction.iter().zip(gradient).map(|(d, g)| d * f64::from(*g)).sum();
        let mut changes = Vec::with_capacity(CHANGES.len() + MORE_CHANGES.len());
        let mut judged = (Verdict::Zero, None);
        for shares in [CHANGES, MORE_CHANGES] {
            for share in shares {
                let step = (share * loss / slope.abs()).min(longest * share / CHANGES[0]);
                let moved = |by: f64| -> Vec<f32> {
                    values.iter().zip(&direction).map(|(v, d)| (f64::from(*v) + by * d) as f32).collect()
                };
                let (ahead, behind) = (moved(step), moved(-step));
                // Of what the rounded values really differ by.
                let predicted = ahead
                    .iter()
                    .zip(&behind)
                    .zip(gradient)
                    .map(|((a, b), g)| (f64::from(*a) - f64::from(*b)) * f64::from(*g))
                    .sum();
                let (ahead, behind) = (f64::from(loss_at(&ahead)?), f64::from(loss_at(&behind)?));
                let step = share / CHANGES[0];
                changes.push(Change { predicted, measured: ahead - behind, ahead: ahead - start, step });
            }
            judged = judge(&changes, ROUNDING * loss);
            if judged.0 <= Verdict::Agrees {
                break;
            }
        }
        let (verdict, difference) = judged;
        finding.verdict = finding.verdict.max(verdict);
        finding.difference = match (finding.difference, difference) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(finding)
}

/// `rounding` is what a change may be off by for no other reason.
fn judge(changes: &[Change], rounding: f64) -> (Verdict, Option<f64>) {
    // A loss that is no number says nothing good of the gradient.
    if changes.iter().any(|c| !c.measured.is_finite() || !c.predicted.is_finite()) {
        return (Verdict::Disagrees, None);
    }
    let size = |c: &Change| c.predicted.abs().max(c.measured.abs());
    let beyond =
        |factor: f64| -> Vec<&Change> { changes.iter().filter(|c| size(c) > factor * rounding).collect() };
    let (mut seen, mut allowance) = (beyond(CLEAR), 0.0);
    if seen.is_empty() {
        (seen, allowance) = (beyond(VISIBLE), rounding);
    }
    if seen.is_empty() {
        return (Verdict::Zero, None);
    }
    let difference = |c: &&Change| (c.predicted - c.measured).abs() / size(c);
    let best = seen.iter().map(difference).fold(f64::INFINITY, f64::min);
    let confirmed = |c: &&Change| (c.predicted - c.measured).abs() <= TOLERANCE * size(c) + allowance;
    if seen.iter().any(confirmed) {
        return (Verdict::Agrees, Some(best));
    }
    // An error of the gradient is there however small the step; kinks and curvature fade with it.
    let small: Vec<&Change> = seen.into_iter().filter(|c| c.step <= SMALL).collect();
    let sizes = || small.iter().map(|c| c.error().abs());
    let is_steady = sizes().fold(f64::INFINITY, f64::min) >= STEADY * sizes().fold(0.0, f64::max)
        && small.windows(2).all(|pair| pair[0].error() * pair[1].error() > 0.0);
    let is_kink = small.iter().any(|c| c.is_between());
    let verdict =
        if small.len() >= ENOUGH && is_steady && !is_kink { Verdict::Disagrees } else { Verdict::Kink };
    (verdict, Some(best))
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

fn unit(values: Vec<f64>) -> Vec<f64> {
    let length = length(values.iter().copied());
    if length > 0.0 { values.into_iter().map(|v| v / length).collect() } else { values }
}

#[cfg(test)]
mod tests {
    use onnx_grad::GradError;

    use super::*;

    const VALUES: [f32; 4] = [0.5, -1.0, 2.0, 0.25];

    fn check(gradient: [f32; 4], loss: impl Fn(&[f32]) -> f64) -> Finding {
        let parameter = Tensor::from_f32(&[2, 2], &VALUES);
        examine("w", &parameter, &gradient, 1, |values| Ok::<_, GradError>(loss(values) as f32)).unwrap()
    }

    /// 1 + sum of i * tanh(w_i), and its derivative.
    fn smooth(values: &[f32]) -> f64 {
        1.0 + (1..).zip(values).map(|(i, v)| f64::from(i) * f64::from(*v).tanh()).sum::<f64>()
    }

    fn derivative() -> [f32; 4] {
        let mut i = 0.0;
        VALUES.map(|v| {
            i += 1.0;
            i * (1.0 - v.tanh() * v.tanh())
        })
    }

    #[test]
    fn the_derivative_of_a_smooth_loss_agrees() {
        let finding = check(derivative(), smooth);
        assert_eq!(finding.verdict, Verdict::Agrees, "{finding:?}");
        assert!(finding.difference.unwrap() < 1e-3, "{finding:?}");
        assert_eq!((finding.dims, finding.name.as_str()), (vec![2, 2], "w"));
    }

    #[test]
    fn wrong_gradients_disagree() {
        let good = derivative();
        for (what, wrong) in [
            ("half", good.map(|g| g / 2.0)),
            ("3 % too much", good.map(|g| g * 1.03)),
            ("the wrong sign", good.map(|g| -g)),
            ("one of four missing", [good[0], good[1], 0.0, good[3]]),
            ("elements in another order", [good[1], good[0], good[3], good[2]]),
            ("zero", [0.0; 4]),
        ] {
            let finding = check(wrong, smooth);
            assert_eq!(finding.verdict, Verdict::Disagrees, "{what}: {finding:?}");
        }
    }

    #[test]
    fn a_gradient_right_along_itself_only_is_found_by_the_other_direction() {
        // Its projection on the true gradient is its own length squared, so that along itself nothing shows.
        let finding = check([2.0, 0.0, 0.0, 0.0], |v| 1.0 + f64::from(2.0 * v[0] + 3.0 * v[1]));
        assert_eq!(finding.verdict, Verdict::Disagrees, "{finding:?}");
    }

    #[test]
    fn a_kink_under_the_parameter_is_told_from_an_error() {
        // A jump of slope a little way off: differences depend on the step.
        let kinked = |v: &[f32]| {
            1.0 + f64::from(v[0])
                + 4.0 * (f64::from(v[0]) - 0.5002).max(0.0)
                + 3.0 * (f64::from(v[0]) - 0.5).max(0.0)
        };
        assert_eq!(check([1.0, 0.0, 0.0, 0.0], kinked).verdict, Verdict::Kink);
    }

    #[test]
    fn what_fades_with_the_step_is_no_error_of_the_gradient() {
        let finding = check([0.0; 4], |v| 1.0 + 1e3 * (f64::from(v[0]) - 0.5).powi(3));
        assert_eq!(finding.verdict, Verdict::Kink, "{finding:?}");
    }

    #[test]
    fn what_moves_nothing_is_zero() {
        assert_eq!(check([0.0; 4], |_| 2.5).verdict, Verdict::Zero);
        // A bias before a batch normalisation: rounding is all there is.
        let finding = check([1e-8, -2e-8, 1e-8, 0.0], |_| 2.5);
        assert_eq!((finding.verdict, finding.difference), (Verdict::Zero, None));
    }

    #[test]
    fn a_loss_that_is_no_number_disagrees() {
        assert_eq!(
            check(derivative(), |v| if v == VALUES { 1.0 } else { f64::NAN }).verdict,
            Verdict::Disagrees
        );
    }
}
