//! What a trained network has learned: how alike the layers of two networks are ([`cka`]), and where its features put
//! the images ([`tsne`]).
//!
//! The estimators are pure. [`network`] runs networks on ONNX Runtime, [`experiences`] and [`features`] put both
//! together; `report::analysis` shows what they give. docs/analysis.md has the formulas and how to read them.

pub mod cka;
pub mod experiences;
pub mod features;
pub mod network;
mod pca;
mod pooling;
pub mod samples;
pub mod tsne;

use std::path::PathBuf;

use crate::data::{DataError, ImageShape};
use crate::train::runtime::RuntimeError;

/// Most samples of an analysis: their distances and similarities are squares of this size in memory.
pub const MAX_SAMPLES: usize = 2000;
/// Fewest samples of an analysis; the unbiased estimator needs as many.
pub const MIN_SAMPLES: usize = 4;

/// Values of one layer for some samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Activations {
    n_samples: usize,
    n_features: usize,
    values: Vec<f32>,
}

impl Activations {
    /// `values` are `[n_samples, n_features]`, row major.
    ///
    /// # Panics
    /// If the number of values is another.
    pub fn new(n_samples: usize, n_features: usize, values: Vec<f32>) -> Self {
        assert_eq!(n_samples * n_features, values.len(), "invariant: samples times features values");
        Activations { n_samples, n_features, values }
    }

    pub fn n_samples(&self) -> usize {
        self.n_samples
    }

    pub fn n_features(&self) -> usize {
        self.n_features
    }

    /// `[n_samples, n_features]`, row major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Values less their feature's mean, in float64, row major. All zero where the features do not vary.
    fn centred(&self) -> Vec<f64> {
        /// What is left of a constant after its mean is taken off, as part of it.
        const ROUNDING: f64 = 1e-12;
        let p = self.n_features;
        let mut means = vec![0.0; p];
        for row in self.values.chunks_exact(p.max(1)) {
            means.iter_mut().zip(row).for_each(|(mean, &v)| *mean += f64::from(v));
        }
        means.iter_mut().for_each(|mean| *mean /= self.n_samples as f64);
        let mut centred: Vec<f64> = self.values.iter().map(|&v| f64::from(v)).collect();
        for row in centred.chunks_exact_mut(p.max(1)) {
            row.iter_mut().zip(&means).for_each(|(v, mean)| *v -= mean);
        }
        let squares: f64 = self.values.iter().map(|&v| f64::from(v).powi(2)).sum();
        if centred.iter().map(|v| v * v).sum::<f64>() <= ROUNDING * ROUNDING * squares {
            centred.fill(0.0);
        }
        centred
    }
}

/// Sum of products, in a fixed order that lets the compiler use wide registers.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    #[error(transparent)]
    Model(#[from] dkt_models::ModelError),
    #[error(transparent)]
    Read(#[from] onnx_grad::ReadError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("expected from {MIN_SAMPLES} to {MAX_SAMPLES} samples, found {found}")]
    Samples { found: usize },
    #[error("`{}` takes images of {expected:?} (channels, height, width), but the data's are {found}", .model.display())]
    Images { model: PathBuf, expected: [usize; 3], found: ImageShape },
    #[error(
        "`{}` was trained on classes {}, but the data has {}; give the data it was trained on",
        .model.display(), names(.expected), names(.found)
    )]
    ClassNames { model: PathBuf, expected: Vec<String>, found: Vec<String> },
    #[error("`{}`: layer `{layer}` holds values that are not finite; the network has diverged", .model.display())]
    NotFinite { model: PathBuf, layer: String },
    #[error("`{}`: expected rows that are a multiple of {expected} samples in layer `{layer}`, found shape {found:?}", .model.display())]
    Rows { model: PathBuf, layer: String, expected: usize, found: Vec<usize> },
    #[error(
        "expected one teacher, one student, or as many of each, found {teachers} teachers and {students} students"
    )]
    Pairs { teachers: usize, students: usize },
    #[error(
        "expected a perplexity from 1 to below the {n_samples} samples, found {found}; give more samples or a lower one"
    )]
    Perplexity { found: f64, n_samples: usize },
    #[error("the analysis was stopped before its end")]
    Stopped,
}

/// The first few, in words.
fn names(classes: &[String]) -> String {
    const SHOWN: usize = 10;
    let mut text = classes.iter().take(SHOWN).map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ");
    if classes.len() > SHOWN {
        text += &format!(" and {} more", classes.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What agent/data/fixtures/analysis.py has written.
    pub(super) fn fixture() -> serde_json::Value {
        serde_json::from_str(include_str!("../data/fixtures/analysis.json")).unwrap()
    }

    #[test]
    fn products_are_summed_whole() {
        let numbers: Vec<f64> = (0..19).map(f64::from).collect();
        assert_eq!(dot(&numbers, &numbers), 2109.0);
        assert_eq!(dot(&[], &[]), 0.0);
    }

    #[test]
    fn long_lists_of_classes_are_cut() {
        let classes: Vec<String> = (0..12).map(|i| i.to_string()).collect();
        assert!(names(&classes).ends_with("`9` and 2 more"));
        assert_eq!(names(&classes[..2]), "`0`, `1`");
    }
}
