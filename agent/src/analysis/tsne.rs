//! t-distributed stochastic neighbour embedding (van der Maaten and Hinton 2008), exact: every pair of samples counts.
//!
//! Settings are those that have become usual: early exaggeration of 12 for 250 iterations, a learning rate that grows
//! with the number of samples (Belkina et al. 2019), and a start from the first two principal components, which keeps
//! large distances meaningful where a random start does not (Kobak and Berens 2019). Sums run in a fixed order, so the
//! same seed gives the same embedding whatever the number of threads.

use super::{Activations, AnalysisError, MAX_SAMPLES, MIN_SAMPLES, pca};
use crate::draw::Draw;

/// How an embedding is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Effective number of neighbours of a sample.
    pub perplexity: f64,
    pub n_iterations: usize,
    /// Of the jitter at the start, by which samples of equal features come apart.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { perplexity: 30.0, n_iterations: 1000, seed: 0 }
    }
}

/// Places in the plane.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    pub positions: Vec<[f64; 2]>,
    /// KL(P || Q) in nats, which the embedding makes small: 0 if distances in the plane told all.
    pub kl_divergence: f64,
}

const EARLY_EXAGGERATION: f64 = 12.0;
const EARLY_ITERATIONS: usize = 250;
const EARLY_MOMENTUM: f64 = 0.5;
const MOMENTUM: f64 = 0.8;
const MIN_LEARNING_RATE: f64 = 50.0;
/// Of every coordinate's own rate (Jacobs 1988).
const MIN_GAIN: f64 = 0.01;
/// Standard deviation of the first component at the start, and what jitter adds of it.
const START_SPREAD: f64 = 1e-4;
const JITTER: f64 = 0.01;
/// Rounds in which a sample's bandwidth is halved or doubled, and the error in log perplexity that is none.
const MAX_BANDWIDTH_ROUNDS: usize = 100;
const BANDWIDTH_TOLERANCE: f64 = 1e-5;
/// Rows of pairs that are worth a thread.
const ROWS_PER_THREAD: usize = 128;

/// Embeds samples in the plane by their features.
///
/// # Errors
/// [`AnalysisError::Samples`] and [`AnalysisError::Perplexity`].
pub fn tsne(x: &Activations, options: &Options) -> Result<Embedding, AnalysisError> {
    let n = x.n_samples();
    if !(MIN_SAMPLES..=MAX_SAMPLES).contains(&n) {
        return Err(AnalysisError::Samples { found: n });
    }
    if !(options.perplexity >= 1.0 && options.perplexity < n as f64) {
        return Err(AnalysisError::Perplexity { found: options.perplexity, n_samples: n });
    }
    let p = joint_probabilities(x, options.perplexity);
    let mut y = start(x, options.seed);
    let learning_rate = (n as f64 / EARLY_EXAGGERATION / 4.0).max(MIN_LEARNING_RATE);
    let (mut update, mut gains) = (vec![[0.0; 2]; n], vec![[1.0; 2]; n]);
    for iteration in 0..options.n_iterations {
        let is_early = iteration < EARLY_ITERATIONS;
        let (exaggeration, momentum) =
            if is_early { (EARLY_EXAGGERATION, EARLY_MOMENTUM) } else { (1.0, MOMENTUM) };
        if iteration == EARLY_ITERATIONS {
            update.fill([0.0; 2]);
            gains.fill([1.0; 2]);
        }
        let forces = forces(&p, &y);
        let z: f64 = forces.iter().map(|f| f.similarity).sum();
        for (i, force) in forces.iter().enumerate() {
            for axis in 0..2 {
                let gradient = 4.0 * (exaggeration * force.attraction[axis] - force.repulsion[axis] / z);
                let gain: &mut f64 = &mut gains[i][axis];
                let turns = update[i][axis] * gradient >= 0.0;
                *gain = if turns { *gain * 0.8 } else { *gain + 0.2 }.max(MIN_GAIN);
                update[i][axis] = momentum * update[i][axis] - learning_rate * *gain * gradient;
                y[i][axis] += update[i][axis];
            }
        }
        centre(&mut y);
    }
    let kl_divergence = kl_divergence(&p, &y);
    Ok(Embedding { positions: y, kl_divergence })
}

/// The first two principal components, made small, and a little jitter (purpose `tsne`, counters sample and axis).
fn start(x: &Activations, seed: u64) -> Vec<[f64; 2]> {
    let mut y = pca::first_two(x, seed);
    let spread = (y.iter().map(|p| p[0] * p[0]).sum::<f64>() / y.len() as f64).sqrt();
    let scale = if spread > 0.0 { START_SPREAD / spread } else { 0.0 };
    let draw = Draw::new(seed, "tsne");
    for (i, point) in (0..).zip(&mut y) {
        for (axis, value) in (0..).zip(point) {
            let uniform = draw.at(&[i, axis]) as f64 / u64::MAX as f64 - 0.5;
            *value = *value * scale + JITTER * START_SPREAD * uniform;
        }
    }
    centre(&mut y);
    y
}

fn centre(y: &mut [[f64; 2]]) {
    for axis in 0..2 {
        let mean = y.iter().map(|p| p[axis]).sum::<f64>() / y.len() as f64;
        y.iter_mut().for_each(|p| p[axis] -= mean);
    }
}

/// P, symmetric `[n, n]`, all entries together 1: the chance of a sample to have another as its neighbour, by a
/// Gaussian whose bandwidth gives each sample the same perplexity.
fn joint_probabilities(x: &Activations, perplexity: f64) -> Vec<f64> {
    let n = x.n_samples();
    let distances = squared_distances(x);
    let mut p = vec![0.0; n * n];
    for (i, (row, distances)) in p.chunks_exact_mut(n).zip(distances.chunks_exact(n)).enumerate() {
        conditional_probabilities(row, distances, i, perplexity.ln());
    }
    for i in 0..n {
        for j in 0..i {
            let joint = (p[i * n + j] + p[j * n + i]) / (2.0 * n as f64);
            p[i * n + j] = joint;
            p[j * n + i] = joint;
        }
    }
    p
}

/// `[n, n]`, in float64.
fn squared_distances(x: &Activations) -> Vec<f64> {
    let n = x.n_samples();
    let rows = x.centred();
    let row = |i: usize| &rows[i * x.n_features()..][..x.n_features()];
    let mut distances = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..i {
            let distance: f64 = row(i).iter().zip(row(j)).map(|(a, b)| (a - b).powi(2)).sum();
            distances[i * n + j] = distance;
            distances[j * n + i] = distance;
        }
    }
    distances
}

/// p(j | i) of one sample i, by bisection of its precision.
fn conditional_probabilities(row: &mut [f64], distances: &[f64], i: usize, log_perplexity: f64) {
    let others = || (0..distances.len()).filter(move |j| *j != i);
    let nearest = others().map(|j| distances[j]).fold(f64::INFINITY, f64::min);
    let mean = others().map(|j| distances[j] - nearest).sum::<f64>() / (distances.len() - 1) as f64;
    // The first guess is of the data's scale.
    let mut precision = if mean > 0.0 { 1.0 / mean } else { 1.0 };
    let (mut low, mut high) = (0.0, f64::INFINITY);
    for _ in 0..MAX_BANDWIDTH_ROUNDS {
        let (mut sum, mut weighted) = (0.0, 0.0);
        for j in others() {
            // Less the nearest's distance, which cancels: something is left of the farthest sample's neighbours too.
            let shifted = distances[j] - nearest;
            row[j] = (-precision * shifted).exp();
            sum += row[j];
            weighted += shifted * row[j];
        }
        row.iter_mut().for_each(|v| *v /= sum);
        let error = sum.ln() + precision * weighted / sum - log_perplexity;
        if error.abs() <= BANDWIDTH_TOLERANCE {
            break;
        }
        if error > 0.0 {
            low = precision;
            precision = if high.is_finite() { (low + high) / 2.0 } else { precision * 2.0 };
        } else {
            high = precision;
            precision = (low + high) / 2.0;
        }
    }
    row[i] = 0.0;
}

/// What pulls and pushes one sample, before normalisation.
#[derive(Clone, Copy, Default)]
struct Force {
    /// Sum of p w (y - y'), w being the similarity 1 / (1 + |y - y'|²) to another sample.
    attraction: [f64; 2],
    /// Sum of w² (y - y').
    repulsion: [f64; 2],
    /// Sum of w.
    similarity: f64,
}

/// Every sample's row is summed by itself, in order: threads change nothing.
fn forces(p: &[f64], y: &[[f64; 2]]) -> Vec<Force> {
    let n = y.len();
    let mut forces = vec![Force::default(); n];
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let n_threads = available.min(n / ROWS_PER_THREAD).max(1);
    let rows = n.div_ceil(n_threads);
    std::thread::scope(|scope| {
        for (part, forces) in forces.chunks_mut(rows).enumerate() {
            let work = move || {
                for (i, force) in (part * rows..).zip(forces) {
                    *force = force_on(i, &p[i * n..][..n], y);
                }
            };
            if n_threads > 1 {
                scope.spawn(work);
            } else {
                work();
            }
        }
    });
    forces
}

fn force_on(i: usize, p: &[f64], y: &[[f64; 2]]) -> Force {
    let mut force = Force::default();
    for (j, (p, other)) in p.iter().zip(y).enumerate() {
        if j == i {
            continue;
        }
        let d = [y[i][0] - other[0], y[i][1] - other[1]];
        let w = 1.0 / (1.0 + d[0] * d[0] + d[1] * d[1]);
        force.similarity += w;
        for (axis, d) in d.into_iter().enumerate() {
            force.attraction[axis] += p * w * d;
            force.repulsion[axis] += w * w * d;
        }
    }
    force
}

fn kl_divergence(p: &[f64], y: &[[f64; 2]]) -> f64 {
    let n = y.len();
    let w = |i: usize, j: usize| 1.0 / (1.0 + (y[i][0] - y[j][0]).powi(2) + (y[i][1] - y[j][1]).powi(2));
    let pairs = || (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
    let z = 2.0 * pairs().map(|(i, j)| w(i, j)).sum::<f64>();
    let term = |(i, j): (usize, usize)| {
        let p = p[i * n + j];
        if p > 0.0 { 2.0 * p * (p * z / w(i, j)).ln() } else { 0.0 }
    };
    pairs().map(term).sum()
}

#[cfg(test)]
mod tests;
