//! The losses against their definitions, computed here in float64.

use onnx_grad::graph::{DataType, Tensor};
use onnx_grad::loss::{self, Reduction};
use onnx_grad::{Builder, GradError};

const N: usize = 3;
const K: usize = 4;
const STUDENT: [f32; N * K] = [0.5, -1.0, 2.0, 0.1, 30.0, -30.0, 0.0, 1.0, -0.3, 0.2, 0.7, -2.0];
const TEACHER: [f32; N * K] = [1.5, 0.0, -2.0, 0.3, 20.0, -40.0, 5.0, 1.0, 0.0, 0.0, 0.0, 0.0];
const LABELS: [f32; N * K] = [0.0, 0.0, 1.0, 0.0, 0.7, 0.0, 0.3, 0.0, 0.0, 1.0, 0.0, 0.0];
/// The last row has no teacher.
const WEIGHT: [f32; N] = [1.0, 0.5, 0.0];
const TEMPERATURE: f32 = 2.0;

/// Runs the loss that `append` writes, on a batch whose size is not known when it is written.
fn run(append: impl Fn(&mut Builder) -> Result<String, GradError>) -> f64 {
    let mut b = Builder::new("loss", 17);
    let rows = vec!["batch".into(), K.into()];
    for name in ["student", "teacher", "labels"] {
        b.input(name, DataType::F32, rows.clone()).unwrap();
    }
    b.input("weight", DataType::F32, rows[..1].to_vec()).unwrap();
    b.input("temperature", DataType::F32, Vec::new()).unwrap();
    let loss = append(&mut b).unwrap();
    assert!(b.shape(&loss).unwrap().is_empty(), "a scalar");
    b.output(&loss).unwrap();
    let feeds = [
        ("student", Tensor::from_f32(&[N, K], &STUDENT)),
        ("teacher", Tensor::from_f32(&[N, K], &TEACHER)),
        ("labels", Tensor::from_f32(&[N, K], &LABELS)),
        ("weight", Tensor::from_f32(&[N], &WEIGHT)),
        ("temperature", Tensor::from_f32(&[], &[TEMPERATURE])),
    ];
    let results = crate::support::run(&b.finish(), &feeds);
    results[&loss].to_f32().unwrap()[0].into()
}

fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found} where {expected} is expected");
}

fn row(values: &[f32], n: usize) -> Vec<f64> {
    values[n * K..(n + 1) * K].iter().map(|&v| v.into()).collect()
}

fn log_softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let scaled: Vec<f64> = logits.iter().map(|l| l / temperature).collect();
    let largest = scaled.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scaled.iter().map(|l| (l - largest).exp()).sum();
    scaled.iter().map(|l| l - largest - sum.ln()).collect()
}

#[test]
fn cross_entropy_takes_mixed_labels_and_the_mean_over_rows() {
    let expected: f64 = (0..N)
        .map(|n| -> f64 {
            let log_probs = log_softmax(&row(&STUDENT, n), 1.0);
            row(&LABELS, n).iter().zip(log_probs).map(|(t, l)| -t * l).sum()
        })
        .sum();
    assert_close(run(|b| loss::cross_entropy(b, "student", "labels")), expected / N as f64);
}

#[test]
fn mse_divides_by_all_elements_and_skips_rows_without_teacher() {
    let expected: f64 = (0..N)
        .map(|n| -> f64 {
            let pairs = row(&STUDENT, n).into_iter().zip(row(&TEACHER, n));
            f64::from(WEIGHT[n]) * pairs.map(|(s, t)| (s - t).powi(2)).sum::<f64>()
        })
        .sum();
    assert_close(run(|b| loss::mse(b, "student", "teacher", "weight")), expected / (N * K) as f64);
}

#[test]
fn kl_softens_both_sides_and_offers_both_reductions() {
    let temperature = f64::from(TEMPERATURE);
    let sum: f64 = (0..N)
        .map(|n| -> f64 {
            let student = log_softmax(&row(&STUDENT, n), temperature);
            let teacher = log_softmax(&row(&TEACHER, n), temperature);
            f64::from(WEIGHT[n]) * teacher.iter().zip(student).map(|(t, s)| t.exp() * (t - s)).sum::<f64>()
        })
        .sum();
    let kl = |reduction, scale_t2| {
        run(|b| loss::kl(b, "student", "teacher", "weight", "temperature", reduction, scale_t2))
    };
    assert_close(kl(Reduction::Mean, false), sum / (N * K) as f64);
    assert_close(kl(Reduction::Mean, true), sum / (N * K) as f64 * temperature.powi(2));
    assert_close(kl(Reduction::BatchMean, false), sum / N as f64);
    assert_close(kl(Reduction::BatchMean, true), sum / N as f64 * temperature.powi(2));
}

#[test]
fn shapes_that_differ_are_named() {
    let mut b = Builder::new("loss", 17);
    b.input("student", DataType::F32, vec!["batch".into(), 4.into()]).unwrap();
    b.input("teacher", DataType::F32, vec!["batch".into(), 5.into()]).unwrap();
    b.input("weight", DataType::F32, vec![7.into()]).unwrap();
    let error = loss::mse(&mut b, "student", "teacher", "weight").unwrap_err().to_string();
    assert!(
        error.contains("`teacher`") && error.contains("[batch, 4]") && error.contains("[batch, 5]"),
        "{error}"
    );
    let error = loss::mse(&mut b, "student", "student", "weight").unwrap_err().to_string();
    assert!(error.contains("`weight`") && error.contains("[batch]") && error.contains("[7]"), "{error}");
    let error = loss::cross_entropy(&mut b, "weight", "weight").unwrap_err().to_string();
    assert!(error.contains("[N, K]"), "{error}");
}
