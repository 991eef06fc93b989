use super::super::tests::fixture;
use super::*;

/// Three Gaussian blobs in 20 dimensions, and their labels.
fn blobs() -> (Activations, Vec<usize>, serde_json::Value) {
    let fixture = fixture()["tsne"].clone();
    let size = |name: &str| fixture[name].as_u64().unwrap() as usize;
    let values = fixture["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    let n = 3 * size("n_each");
    let labels = (0..n).map(|i| i / size("n_each")).collect();
    (Activations::new(n, size("n_features"), values), labels, fixture)
}

fn options() -> Options {
    Options { perplexity: 15.0, ..Options::default() }
}

#[test]
fn blobs_stay_apart_and_the_divergence_is_that_of_scikit_learn() {
    let (x, labels, fixture) = blobs();
    let embedding = tsne(&x, &options()).unwrap();
    let y = &embedding.positions;
    let nearest = |i: usize| {
        let distance = |j: &usize| (y[i][0] - y[*j][0]).powi(2) + (y[i][1] - y[*j][1]).powi(2);
        (0..y.len()).filter(|j| *j != i).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap()
    };
    let agree = (0..y.len()).filter(|&i| labels[nearest(i)] == labels[i]).count();
    assert!(agree as f64 > 0.95 * y.len() as f64, "{agree} of {}", y.len());
    let theirs = fixture["kl_divergence"].as_f64().unwrap();
    let ours = embedding.kl_divergence;
    assert!(ours <= 1.1 * theirs && ours > 0.5 * theirs, "{ours}, theirs {theirs}");
}

#[test]
fn the_seed_decides_and_nothing_else() {
    let (x, _, _) = blobs();
    let short = Options { n_iterations: 60, ..options() };
    let embedding = tsne(&x, &short).unwrap();
    assert_eq!(tsne(&x, &short).unwrap(), embedding);
    assert_ne!(tsne(&x, &Options { seed: 1, ..short }).unwrap(), embedding);
}

/// Threads take whole rows, each summed in order.
#[test]
fn forces_do_not_depend_on_threads() {
    let n = 3 * ROWS_PER_THREAD + 5;
    let y: Vec<[f64; 2]> = (0..n).map(|i| [(i as f64).sin(), (i as f64 * 0.7).cos()]).collect();
    let p = vec![1.0 / (n * n) as f64; n * n];
    for (i, force) in forces(&p, &y).iter().enumerate() {
        let alone = force_on(i, &p[i * n..][..n], &y);
        assert_eq!(force.repulsion, alone.repulsion);
        assert_eq!((force.attraction, force.similarity), (alone.attraction, alone.similarity));
    }
}

#[test]
fn every_sample_has_the_perplexity_asked_for() {
    let (x, _, _) = blobs();
    let n = x.n_samples();
    let distances = squared_distances(&x);
    for i in [0, 57, 119] {
        let mut row = vec![0.0; n];
        conditional_probabilities(&mut row, &distances[i * n..][..n], i, 15_f64.ln());
        let entropy: f64 = row.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        assert!((entropy.exp() - 15.0).abs() < 1e-3, "{}", entropy.exp());
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12 && row[i] == 0.0);
    }
    let p = joint_probabilities(&x, 15.0);
    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    assert!((0..n).all(|i| (0..i).all(|j| p[i * n + j] == p[j * n + i])));
}

/// By differences of the divergence at a few coordinates.
#[test]
fn forces_are_the_gradient_of_the_divergence() {
    let (x, _, _) = blobs();
    let n = x.n_samples();
    let p = joint_probabilities(&x, 15.0);
    let y: Vec<[f64; 2]> = (0..n).map(|i| [(i as f64 * 1.3).sin(), (i as f64 * 0.7).cos()]).collect();
    let forces = forces(&p, &y);
    let z: f64 = forces.iter().map(|f| f.similarity).sum();
    for (i, axis) in [(0, 0), (17, 1), (80, 0), (119, 1)] {
        let at = |step: f64| {
            let mut moved = y.clone();
            moved[i][axis] += step;
            kl_divergence(&p, &moved)
        };
        let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
        let found = 4.0 * (forces[i].attraction[axis] - forces[i].repulsion[axis] / z);
        assert!((found - expected).abs() < 1e-7 + 1e-4 * expected.abs(), "{found}, expected {expected}");
    }
}

#[test]
fn samples_of_equal_features_end_in_finite_places() {
    let mut values = vec![0.5; 3 * 12];
    values[33..].copy_from_slice(&[1.0, 2.0, 3.0]);
    let options = Options { perplexity: 3.0, n_iterations: 300, seed: 0 };
    for values in [values, vec![0.5; 3 * 12]] {
        let embedding = tsne(&Activations::new(12, 3, values), &options).unwrap();
        assert!(embedding.positions.iter().flatten().all(|v| v.is_finite()), "{embedding:?}");
        assert!(embedding.kl_divergence.is_finite());
    }
}

#[test]
fn sizes_and_perplexities_out_of_range_are_refused() {
    let of = |n: usize, perplexity: f64| {
        tsne(&Activations::new(n, 1, vec![0.0; n]), &Options { perplexity, ..Options::default() })
            .unwrap_err()
            .to_string()
    };
    assert!(of(3, 2.0).contains("from 4 to 2000 samples, found 3"));
    assert!(of(2001, 30.0).contains("found 2001"));
    for perplexity in [10.0, 0.5, f64::NAN] {
        assert!(of(10, perplexity).contains("below the 10 samples"));
    }
}
