//! Herding: exemplars whose mean stays near the mean of their class.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::SampleId;

/// The first `n` exemplars of one class, best first (Rebuffi et al. 2017, algorithm 4).
///
/// Features are scaled to length 1. Each next exemplar is the one with which the mean of those chosen comes nearest
/// to the mean of all; of equals the one with the smallest id. Samples without features are left out.
pub fn herd(ids: &BTreeSet<SampleId>, features: &BTreeMap<SampleId, Vec<f32>>, n: usize) -> Vec<SampleId> {
    let mut left: Vec<(SampleId, Vec<f64>)> =
        ids.iter().filter_map(|id| Some((*id, unit(features.get(id)?)))).collect();
    let Some(n_features) = left.first().map(|(_, f)| f.len()) else { return Vec::new() };
    let mut mean = vec![0.0; n_features];
    for (_, feature) in &left {
        add(&mut mean, feature);
    }
    let n_all = left.len() as f64;
    mean.iter_mut().for_each(|m| *m /= n_all);
    let mut chosen = Vec::new();
    let mut sum = vec![0.0; n_features];
    while chosen.len() < n && !left.is_empty() {
        let k = chosen.len() as f64 + 1.0;
        let distance = |feature: &[f64]| -> f64 {
            mean.iter().zip(&sum).zip(feature).map(|((m, s), f)| (m - (s + f) / k).powi(2)).sum()
        };
        let mut best = (0, f64::INFINITY);
        for (i, (_, feature)) in left.iter().enumerate() {
            let distance = distance(feature);
            if distance < best.1 {
                best = (i, distance);
            }
        }
        // Removed in place: of equal samples the smallest id has to stay the first.
        let (id, feature) = left.remove(best.0);
        add(&mut sum, &feature);
        chosen.push(id);
    }
    chosen
}

fn unit(feature: &[f32]) -> Vec<f64> {
    let norm = feature.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
    feature.iter().map(|v| f64::from(*v) / norm).collect()
}

fn add(sum: &mut [f64], feature: &[f64]) {
    sum.iter_mut().zip(feature).for_each(|(s, f)| *s += f);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn herded(features: &[[f32; 2]], n: usize) -> Vec<u32> {
        let features: BTreeMap<SampleId, Vec<f32>> =
            (0..).zip(features).map(|(id, f)| (SampleId(id), f.to_vec())).collect();
        herd(&features.keys().copied().collect(), &features, n).into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn the_first_is_the_one_nearest_to_the_mean_and_the_next_balances_it() {
        // Unit vectors at 0, 10, 50 and 90 degrees; their mean lies at about 37 degrees.
        let at = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
        let features = [at(0.0), at(10.0), at(50.0), at(90.0)];
        assert_eq!(herded(&features, 1), [2]);
        // With 50 the mean of the chosen comes nearest by 10: at 30 degrees.
        assert_eq!(herded(&features, 2), [2, 1]);
        assert_eq!(herded(&features, 9).len(), 4);
    }

    #[test]
    fn length_does_not_matter_and_equals_come_in_the_order_of_their_ids() {
        assert_eq!(herded(&[[1.0, 1.0], [5.0, 5.0], [0.1, 0.1]], 3), [0, 1, 2]);
        assert!(herded(&[], 3).is_empty());
    }
}
