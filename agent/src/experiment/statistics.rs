//! Means over seeds and paired differences.

use serde::Serialize;

/// Of a few values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub n: usize,
    pub mean: f64,
    /// Sample standard deviation, with n - 1; none of a single value.
    pub sd: Option<f64>,
}

pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// `None` without values.
pub fn summary(values: &[f64]) -> Option<Summary> {
    let mean = mean(values)?;
    let n = values.len();
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let sd = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
    Some(Summary { n, mean, sd })
}

/// Of the differences `treated - control` of every seed that both have; values by seed.
pub fn paired(treated: &[(u64, f64)], control: &[(u64, f64)]) -> Option<Summary> {
    let difference = |(seed, value): &(u64, f64)| {
        let (_, other) = control.iter().find(|(of, _)| of == seed)?;
        Some(value - other)
    };
    summary(&treated.iter().filter_map(difference).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, expected: f64) -> bool {
        found.is_some_and(|found| (found - expected).abs() < 1e-12)
    }

    #[test]
    fn mean_and_deviation_of_a_worked_example() {
        let of = summary(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert_eq!((of.n, of.mean), (8, 5.0));
        assert!(close(of.sd, (32.0_f64 / 7.0).sqrt()));
        assert_eq!(summary(&[3.0]), Some(Summary { n: 1, mean: 3.0, sd: None }));
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn differences_are_within_a_seed() {
        // The two arms differ by 1 in each seed, although the seeds differ by much more.
        let control = [(0, 10.0), (1, 20.0), (2, 30.0)];
        let treated = [(2, 31.0), (0, 11.0), (7, 99.0)];
        assert_eq!(paired(&treated, &control), Some(Summary { n: 2, mean: 1.0, sd: Some(0.0) }));
        assert_eq!(paired(&treated, &[]), None);
    }
}
