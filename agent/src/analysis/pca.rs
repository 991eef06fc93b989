//! The first two principal components, where an embedding begins.

use super::{Activations, dot};
use crate::draw::Draw;

/// Rounds of power iteration; components that are still turning then are of nearly equal variance, and any of them
/// will do.
const MAX_ROUNDS: usize = 500;
/// Share of all variance that is rounding.
const ROUNDING: f64 = 1e-12;
/// Squared change of a direction of length 1 that counts as none.
const CONVERGED: f64 = 1e-18;

/// Scores of every sample on the first two principal components, by power iteration from directions drawn by `seed`;
/// zero where nothing varies. Each component's largest score is positive.
pub(super) fn first_two(x: &Activations, seed: u64) -> Vec<[f64; 2]> {
    let (n, p) = (x.n_samples(), x.n_features());
    let centred = x.centred();
    let draw = Draw::new(seed, "pca");
    let mut scores = vec![[0.0; 2]; n];
    let mut first: Option<Vec<f64>> = None;
    for component in 0..2 {
        let Some(direction) = power_iteration(&centred, p, first.as_deref(), |i| {
            draw.at(&[component as u64, i as u64]) as f64 / u64::MAX as f64 - 0.5
        }) else {
            break;
        };
        let projected: Vec<f64> = centred.chunks_exact(p).map(|row| dot(row, &direction)).collect();
        let largest = projected.iter().fold(0.0_f64, |a, &b| if b.abs() > a.abs() { b } else { a });
        for (score, value) in scores.iter_mut().zip(projected) {
            score[component] = value * largest.signum();
        }
        first = Some(direction);
    }
    scores
}

/// The direction of length 1 in which the rows vary most, at a right angle to `other`; `None` if there they do not.
fn power_iteration(
    rows: &[f64],
    p: usize,
    other: Option<&[f64]>,
    start: impl Fn(usize) -> f64,
) -> Option<Vec<f64>> {
    let unit = |mut v: Vec<f64>| {
        if let Some(other) = other {
            let along = dot(&v, other);
            v.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
        }
        let length = dot(&v, &v).sqrt();
        (length > 0.0).then(|| {
            v.iter_mut().for_each(|v| *v /= length);
            v
        })
    };
    let total = dot(rows, rows);
    let mut direction = unit((0..p).map(start).collect())?;
    for _ in 0..MAX_ROUNDS {
        let mut next = vec![0.0; p];
        for row in rows.chunks_exact(p) {
            let score = dot(row, &direction);
            next.iter_mut().zip(row).for_each(|(next, v)| *next += score * v);
        }
        // What is left of a direction at a right angle to all that varies is noise, and points back to the first.
        if dot(&next, &direction) <= ROUNDING * total {
            return None;
        }
        let next = unit(next)?;
        let change: f64 = next.iter().zip(&direction).map(|(a, b)| (a - b).powi(2)).sum();
        direction = next;
        if change < CONVERGED {
            break;
        }
    }
    Some(direction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ellipse_is_seen_along_its_axes() {
        // Axes of 3 and 1 along (0.6, 0.8) and (-0.8, 0.6), far from the origin; the third feature is constant.
        let angles = (0..40).map(|i| f64::from(i) * std::f64::consts::TAU / 40.0);
        let points: Vec<[f64; 2]> = angles.map(|a| [3.0 * a.cos(), a.sin()]).collect();
        let values = points
            .iter()
            .flat_map(|[a, b]| [0.6 * a - 0.8 * b + 100.0, 0.8 * a + 0.6 * b, 5.0].map(|v| v as f32))
            .collect();
        let scores = first_two(&Activations::new(40, 3, values), 1);
        for (score, point) in scores.iter().zip(&points) {
            let error = |k: usize| (score[k].abs() - point[k].abs()).abs();
            assert!(error(0) < 1e-4 && error(1) < 1e-4, "{score:?} {point:?}");
        }
        let largest = |k: usize| {
            scores.iter().map(|s| s[k]).fold(0.0_f64, |a, b| if b.abs() > a.abs() { b } else { a })
        };
        assert!(largest(0) > 0.0 && largest(1) > 0.0);
    }

    #[test]
    fn what_does_not_vary_scores_zero() {
        let constant = Activations::new(5, 2, vec![0.3; 10]);
        assert_eq!(first_two(&constant, 1), [[0.0; 2]; 5]);
        // On a line: one component.
        let line = Activations::new(5, 2, (0..5).flat_map(|i| [i as f32, 2.0 * i as f32]).collect());
        let scores = first_two(&line, 1);
        assert!((scores[4][0].abs() - 20_f64.sqrt()).abs() < 1e-9, "{scores:?}");
        assert!(scores.iter().all(|s| s[1].abs() < 1e-6), "{scores:?}");
    }
}
