//! Noise that is added to the gradient (Neelakantan et al. 2015).

use onnx_grad::graph::{DataType, Graph, Tensor};
use onnx_grad::{Builder, Clip, Dropout, GRAD_NORM, GRADIENT_NOISE, Optimizer, SEED, TrainSpec, derive};

use crate::net::{SGD, Trainer, assert_close, dropout, network, plain, rows, scalar, spec, value};

const PLAIN_SGD: Optimizer = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
/// Shapes as networks have them: a matrix, a convolution's kernels, a bias, positions of a transformer.
const SHAPES: [(&str, &[usize]); 4] = [
    ("matrix", &[300, 200]),
    ("kernels", &[60, 40, 5, 5]),
    ("bias", &[60_000]),
    ("positions", &[1, 200, 300]),
];
const N_VALUES: usize = 60_000;

fn feeds(seed: i64, noise: f32) -> [(&'static str, Tensor); 2] {
    [(SEED, Tensor::from_i64(&[], &[seed])), (GRADIENT_NOISE, scalar(noise))]
}

/// A loss on which no parameter has an influence, so that the gradient is the noise alone.
fn flat() -> Graph {
    let mut b = Builder::new("flat", 17);
    b.input("zero", DataType::F32, Vec::new()).unwrap();
    let mut sums = Vec::new();
    for (name, dims) in SHAPES {
        b.initializer(name, Tensor::zeros(DataType::F32, dims)).unwrap();
        let nothing = b.op("Mul", &[name, "zero"], &[]).unwrap();
        sums.push(b.op("ReduceSum", &[&nothing], &[("keepdims", 0_i64.into())]).unwrap());
    }
    b.op_named("Sum", &sums.iter().map(String::as_str).collect::<Vec<_>>(), &[], "loss").unwrap();
    b.finish()
}

/// Draws of each parameter in the step of one seed.
fn draws(seed: i64) -> Vec<Vec<f64>> {
    let graph = flat();
    let noisy = TrainSpec { gradient_noise: true, ..spec(&graph, PLAIN_SGD) };
    let mut trainer = Trainer::new(&derive(&graph, &noisy).unwrap());
    let zero = [("zero", scalar(0.0))];
    // At the test's learning rate of 0.1, a parameter moves from 0 by minus the draw.
    trainer.step(&[feeds(seed, 10.0).as_slice(), &zero].concat());
    SHAPES.iter().map(|(name, _)| trainer.values(name).into_iter().map(|v| -f64::from(v)).collect()).collect()
}

/// A mean of n independent numbers of standard deviation `deviation` is within five of its own.
fn assert_mean(values: impl Iterator<Item = f64>, expected: f64, deviation: f64, what: &str) {
    let (sum, n) = values.fold((0.0, 0_usize), |(sum, n), v| (sum + v, n + 1));
    let (mean, bound) = (sum / n as f64, 5.0 * deviation / (n as f64).sqrt());
    assert!((mean - expected).abs() < bound, "{what}: {mean}, expected {expected} ± {bound}");
}

fn product<'a>(a: &'a [f64], b: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    a.iter().zip(b).map(|(a, b)| a * b)
}

#[test]
fn noise_is_normal() {
    for (values, (name, _)) in draws(7).iter().zip(SHAPES) {
        assert_eq!(values.len(), N_VALUES);
        let power = |n: i32| values.iter().map(move |v| v.powi(n));
        // Moments of the standard normal distribution, and the deviations of their terms.
        assert_mean(power(1), 0.0, 1.0, &format!("{name}: mean"));
        assert_mean(power(2), 1.0, 2.0_f64.sqrt(), &format!("{name}: variance"));
        assert_mean(power(3), 0.0, 15.0_f64.sqrt(), &format!("{name}: skewness"));
        assert_mean(power(4), 3.0, 96.0_f64.sqrt(), &format!("{name}: kurtosis"));
        // P(|v| < 1) and P(|v| > 3)
        let share = |inside: fn(f64) -> bool| values.iter().map(move |&v| f64::from(u8::from(inside(v))));
        assert_mean(share(|v| v.abs() < 1.0), 0.682_689, 0.465_4, &format!("{name}: within 1"));
        assert_mean(share(|v| v.abs() > 3.0), 0.002_700, 0.051_9, &format!("{name}: beyond 3"));
        assert!(values.iter().all(|v| v.abs() < 5.8), "{name}");
    }
}

#[test]
fn draws_do_not_follow_each_other() {
    let (one, next, far) = (draws(1), draws(2), draws(1 << 40));
    for (i, (name, dims)) in SHAPES.iter().enumerate() {
        assert_mean(product(&one[i], &next[i]), 0.0, 1.0, &format!("{name}: two steps"));
        assert_mean(product(&one[i], &far[i]), 0.0, 1.0, &format!("{name}: seeds far apart"));
        for j in 0..i {
            let what = format!("{name} and {}", SHAPES[j].0);
            assert_mean(product(&one[i], &one[j]), 0.0, 1.0, &what);
            // Sizes may depend on each other where signs do not.
            let squares = product(&one[i], &one[j]).map(|p| p * p);
            assert_mean(squares, 1.0, 8.0_f64.sqrt(), &format!("{what}: squares"));
        }
        let columns = N_VALUES / dims[0];
        for lag in [1, columns.min(N_VALUES / 2), columns + 1] {
            let (a, b) = (&one[i][..N_VALUES - lag.min(N_VALUES - 1)], &one[i][lag.min(N_VALUES - 1)..]);
            assert_mean(product(a, b), 0.0, 1.0, &format!("{name}: {lag} elements apart"));
        }
    }
    // Rows and columns are mixed by a product: corners of rectangles must not decide each other.
    let columns = SHAPES[0].1[1];
    let corners = (0..N_VALUES - columns - 1)
        .map(|i| one[0][i] * one[0][i + 1] * one[0][i + columns] * one[0][i + columns + 1]);
    assert_mean(corners, 0.0, 1.0, "rectangles");
}

#[test]
fn noise_follows_its_seed_and_is_in_the_norm_that_is_bounded() {
    let graph = plain();
    let noisy = TrainSpec { gradient_noise: true, clip: Some(Clip::Norm(0.05)), ..spec(&graph, PLAIN_SGD) };
    let training = derive(&graph, &noisy).unwrap();
    let step = |seed: i64, noise: f32| {
        let mut trainer = Trainer::new(&training);
        let outputs = trainer.step(&[rows(0, 16).as_slice(), &feeds(seed, noise)].concat());
        (value(&outputs, GRAD_NORM), trainer.state)
    };
    assert_eq!(step(7, 0.5), step(7, 0.5));
    assert_ne!(step(8, 0.5).1, step(7, 0.5).1);
    let silent = TrainSpec { gradient_noise: false, ..noisy.clone() };
    let mut silent = Trainer::new(&derive(&graph, &silent).unwrap());
    let start = silent.state.clone();
    let norm = value(&silent.step(&rows(0, 16)), GRAD_NORM);
    assert_eq!(step(7, 0.0), (norm, silent.state));
    // 73 draws of deviation 10 have a norm of about 85.
    let (noisy_norm, state) = step(7, 10.0);
    assert!((60.0..110.0).contains(&noisy_norm), "{noisy_norm}");
    let moved: f32 = state
        .iter()
        .flat_map(|(name, t)| t.to_f32().unwrap().into_iter().zip(start[name].to_f32().unwrap()))
        .map(|(after, before)| (after - before).powi(2))
        .sum();
    assert!(
        (moved.sqrt() - 0.005).abs() < 1e-5,
        "a step of learning rate times bound, found {}",
        moved.sqrt()
    );
}

#[test]
fn micro_batches_share_one_draw() {
    let graph = plain();
    let whole = TrainSpec { gradient_noise: true, ..spec(&graph, SGD) };
    let mut parts = Trainer::new(&derive(&graph, &TrainSpec { accumulate: true, ..whole.clone() }).unwrap());
    let mut whole = Trainer::new(&derive(&graph, &whole).unwrap());
    whole.step(&[rows(0, 16).as_slice(), &feeds(3, 0.5)].concat());
    // What is drawn in a run that moves nothing does not count.
    for (from, to, seed) in [(0, 7, 9), (7, 16, 3)] {
        let mut feeds = [rows(from, to).as_slice(), &feeds(seed, 0.5)].concat();
        feeds.push(("micro_batch_weight", scalar((to - from) as f32 / 16.0)));
        feeds.push(("micro_batch_last", scalar(if to == 16 { 1.0 } else { 0.0 })));
        parts.step(&feeds);
    }
    assert_close(&parts.values("w2"), &whole.values("w2"), 1e-5, "w2");
}

#[test]
fn noise_stays_out_of_the_path_and_shares_the_seed_of_dropout() {
    let graph = network(dropout);
    let integral = TrainSpec { path_integral: true, dropout: Dropout::Seeded, ..spec(&graph, PLAIN_SGD) };
    let noisy = TrainSpec { gradient_noise: true, ..integral.clone() };
    let [mut silent, mut noisy] = [integral, noisy].map(|spec| Trainer::new(&derive(&graph, &spec).unwrap()));
    let before = silent.values("w2");
    let feeds = [rows(0, 16).as_slice(), &feeds(3, 2.0)].concat();
    silent.step(&feeds);
    noisy.step(&feeds);
    let gradient = silent.values("w2").into_iter().zip(&before).map(|(after, p)| (p - after) / 0.1);
    let moved = noisy.values("w2").into_iter().zip(&before).map(|(after, p)| after - p);
    let expected: Vec<f32> = gradient.zip(moved).map(|(g, d)| g * d).collect();
    assert_close(&noisy.values("w2.path"), &expected, 1e-3, "w2.path");
}
