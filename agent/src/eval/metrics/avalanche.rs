//! Our metrics against avalanche-lib's own, on predictions of a drawn stream:
//! `agent/data/fixtures/metrics.py` wrote what is read here.

use serde::Deserialize;

use super::{AccuracyMatrix, Confusion};

/// Relative to the value, or to 1e-3 where that is larger: differences of accuracies cancel.
const TOLERANCE: f64 = 1e-12;

#[derive(Deserialize)]
struct Fixture {
    /// Of the test samples of experience j.
    labels: Vec<Vec<usize>>,
    untrained: Vec<Vec<usize>>,
    /// `[i][j]`: on experience j after experience i.
    predictions: Vec<Vec<Vec<usize>>>,
    untrained_accuracy: Vec<f64>,
    after: Vec<After>,
}

#[derive(Deserialize)]
struct After {
    stream_accuracy: f64,
    trained_experience_accuracy: f64,
    forgetting: f64,
    backward_transfer: f64,
    forward_transfer: f64,
    accuracy_per_experience: Vec<(usize, f64)>,
    forgetting_per_experience: Vec<(usize, f64)>,
    backward_transfer_per_experience: Vec<(usize, f64)>,
    forward_transfer_per_experience: Vec<(usize, f64)>,
    confusion: Vec<Vec<u64>>,
}

fn fixture() -> Fixture {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/fixtures/metrics.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Accuracy per experience, of what was predicted on each.
fn accuracies(predictions: &[Vec<usize>], labels: &[Vec<usize>]) -> Vec<f64> {
    let of_experience = |(predictions, labels): (&Vec<usize>, &Vec<usize>)| {
        confusion(predictions, labels, 10).accuracy().unwrap()
    };
    predictions.iter().zip(labels).map(of_experience).collect()
}

fn confusion(predictions: &[usize], labels: &[usize], n_classes: usize) -> Confusion {
    let mut confusion = Confusion::new(n_classes);
    assert_eq!(predictions.len(), labels.len());
    for (&prediction, &label) in predictions.iter().zip(labels) {
        confusion.add(label, prediction);
    }
    confusion
}

#[track_caller]
fn assert_close(found: Option<f64>, expected: f64, what: &str, after: usize) {
    let found = found.unwrap_or_else(|| panic!("no {what} after experience {after}"));
    let difference = (found - expected).abs() / expected.abs().max(1e-3);
    assert!(difference <= TOLERANCE, "{what} after experience {after}: {found}, Avalanche says {expected}");
}

#[test]
fn metrics_of_a_stream_are_those_of_avalanche() {
    let fixture = fixture();
    let n_samples: Vec<usize> = fixture.labels.iter().map(Vec::len).collect();
    let n_experiences = n_samples.len();
    let baseline = accuracies(&fixture.untrained, &fixture.labels);
    for (j, expected) in fixture.untrained_accuracy.iter().enumerate() {
        assert_close(baseline.get(j).copied(), *expected, "accuracy before training", j);
    }
    let mut matrix = AccuracyMatrix::default();
    for (i, (predictions, expected)) in fixture.predictions.iter().zip(&fixture.after).enumerate() {
        matrix.push(accuracies(predictions, &fixture.labels));
        assert_eq!(expected.accuracy_per_experience.len(), n_experiences);
        for &(j, accuracy) in &expected.accuracy_per_experience {
            assert_close(matrix.rows()[i].get(j).copied(), accuracy, "accuracy", i);
        }
        let stream = matrix.stream_accuracy(i, &n_samples);
        assert_close(stream, expected.stream_accuracy, "stream accuracy", i);
        let trained = matrix.trained_experience_accuracy(i, &n_samples);
        assert_close(trained, expected.trained_experience_accuracy, "accuracy on trained experiences", i);

        let forgetting = matrix.forgetting_per_experience(i).unwrap();
        assert_eq!(forgetting.len(), expected.forgetting_per_experience.len());
        for (&(j, forgotten), &(k, moved)) in
            expected.forgetting_per_experience.iter().zip(&expected.backward_transfer_per_experience)
        {
            assert_eq!(j, k);
            assert_close(forgetting.get(j).copied(), forgotten, "forgetting of an experience", i);
            assert_close(forgetting.get(j).map(|f| -f), moved, "backward transfer of an experience", i);
        }
        if i > 0 {
            assert_close(matrix.forgetting_after(i), expected.forgetting, "forgetting", i);
            assert_close(matrix.forgetting(), expected.forgetting, "forgetting", i);
            assert_close(matrix.backward_transfer(), expected.backward_transfer, "backward transfer", i);
        } else {
            // Avalanche says 0 where nothing could be forgotten yet.
            assert_eq!((matrix.forgetting(), expected.forgetting), (None, 0.0));
        }

        let forward = matrix.forward_transfer_per_experience(i, &baseline).unwrap();
        assert_eq!(forward.len(), (i + 1).min(n_experiences - 1));
        for &(j, transfer) in &expected.forward_transfer_per_experience {
            // Avalanche says it once, when the experience comes next.
            assert_eq!(j, i + 1);
            assert_close(forward.get(i).copied(), transfer, "forward transfer to the next experience", i);
        }
        assert_close(matrix.forward_transfer(&baseline), expected.forward_transfer, "forward transfer", i);
    }
    assert_eq!(matrix.rows().len(), n_experiences);
}

#[test]
fn confusion_of_a_stream_is_that_of_avalanche() {
    let fixture = fixture();
    let labels = fixture.labels.concat();
    for (i, (predictions, expected)) in fixture.predictions.iter().zip(&fixture.after).enumerate() {
        let found = confusion(&predictions.concat(), &labels, expected.confusion.len());
        for (class, row) in expected.confusion.iter().enumerate() {
            assert_eq!(found.row(class), row, "class {class} after experience {i}");
        }
        assert_close(found.accuracy(), expected.stream_accuracy, "accuracy of the confusion matrix", i);
    }
}
