//! Metrics of continual learning, as the field defines them. Pure.

/// Index of the largest value, the first of equals.
pub fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = i;
        }
    }
    best
}

/// `R[i][j]`: accuracy (0 to 1) on the test samples of experience j after training experience i.
///
/// Rows may be missing at the end, while a run goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccuracyMatrix {
    rows: Vec<Vec<f64>>,
}

impl AccuracyMatrix {
    /// Adds the row after the next experience.
    pub fn push(&mut self, row: Vec<f64>) {
        self.rows.push(row);
    }

    pub fn rows(&self) -> &[Vec<f64>] {
        &self.rows
    }

    /// Mean accuracy on the experiences trained so far, after experience `i`: mean of `R[i][0..=i]`
    /// (Lopez-Paz and Ranzato 2017, ACC, for the last i).
    pub fn average_accuracy(&self, i: usize) -> Option<f64> {
        mean(self.rows.get(i)?.get(..=i)?.iter().copied())
    }

    /// Mean over the earlier experiences of `R[j][j] - R[T][j]`, T the last trained: what was known right after
    /// learning and is not any more. Avalanche's definition; Chaudhry et al. 2018 take the largest accuracy ever
    /// seen in the place of the first. `None` before the second experience.
    pub fn forgetting(&self) -> Option<f64> {
        self.backward_transfer().map(|transfer| -transfer)
    }

    /// Mean over the earlier experiences of `R[T][j] - R[j][j]` (Lopez-Paz and Ranzato 2017, BWT).
    pub fn backward_transfer(&self) -> Option<f64> {
        let (last, earlier) = self.rows.split_last()?;
        let change = earlier.iter().enumerate().map(|(j, row)| Some(last.get(j)? - row.get(j)?));
        mean(change.collect::<Option<Vec<_>>>()?.into_iter())
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0_u32), |(sum, n), v| (sum + v, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

/// Counts of (label, prediction).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    n_classes: usize,
    counts: Vec<u64>,
}

impl Confusion {
    pub fn new(n_classes: usize) -> Self {
        Confusion { n_classes, counts: vec![0; n_classes * n_classes] }
    }

    pub fn add(&mut self, label: usize, prediction: usize) {
        self.counts[label * self.n_classes + prediction] += 1;
    }

    /// Predictions for the samples of one class, by predicted class.
    pub fn row(&self, label: usize) -> &[u64] {
        &self.counts[label * self.n_classes..][..self.n_classes]
    }

    /// Share of right predictions, 0 to 1; `None` without samples.
    pub fn accuracy(&self) -> Option<f64> {
        let n_correct: u64 = (0..self.n_classes).map(|c| self.row(c)[c]).sum();
        ratio(n_correct, self.counts.iter().sum())
    }

    /// Share of right predictions for one class (recall); `None` without samples of it.
    pub fn class_accuracy(&self, class: usize) -> Option<f64> {
        ratio(self.row(class)[class], self.row(class).iter().sum())
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_and_forgetting_of_a_worked_example() {
        let mut matrix = AccuracyMatrix::default();
        assert_eq!(matrix.forgetting(), None);
        matrix.push(vec![0.9, 0.0, 0.1]);
        assert_eq!(matrix.forgetting(), None);
        matrix.push(vec![0.5, 0.8, 0.1]);
        matrix.push(vec![0.3, 0.6, 1.0]);
        let close = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-12;
        assert!(close(matrix.average_accuracy(0), 0.9));
        assert!(close(matrix.average_accuracy(1), 0.65));
        assert!(close(matrix.average_accuracy(2), 1.9 / 3.0));
        assert!(close(matrix.forgetting(), (0.6 + 0.2) / 2.0));
        assert_eq!(matrix.average_accuracy(3), None);
    }

    #[test]
    fn confusion_counts_per_class() {
        let mut confusion = Confusion::new(3);
        for (label, prediction) in [(0, 0), (0, 1), (1, 1), (1, 1)] {
            confusion.add(label, prediction);
        }
        assert_eq!(confusion.accuracy(), Some(0.75));
        assert_eq!(confusion.class_accuracy(0), Some(0.5));
        assert_eq!(confusion.class_accuracy(1), Some(1.0));
        assert_eq!(confusion.class_accuracy(2), None);
    }

    #[test]
    fn the_first_of_equal_values_wins() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
