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

    /// Share of right predictions on all test samples after experience `i`, those of experiences to come
    /// among them: the mean of `R[i]`, weighed by the experiences' test samples (Avalanche's StreamAccuracy).
    pub fn stream_accuracy(&self, i: usize, n_samples: &[usize]) -> Option<f64> {
        pooled(self.rows.get(i)?, n_samples)
    }

    /// Share of right predictions on the test samples of the experiences trained so far, after experience `i`
    /// (Avalanche's TrainedExperienceAccuracy). Equal to [`Self::average_accuracy`] where experiences have
    /// equally many test samples.
    pub fn trained_experience_accuracy(&self, i: usize, n_samples: &[usize]) -> Option<f64> {
        pooled(self.rows.get(i)?.get(..=i)?, n_samples.get(..=i)?)
    }

    /// `R[j][j] - R[i][j]` for every experience j before `i`: what was known right after learning it and is
    /// not after experience `i` (Avalanche's ExperienceForgetting). Empty for the first experience.
    pub fn forgetting_per_experience(&self, i: usize) -> Option<Vec<f64>> {
        let after = self.rows.get(i)?;
        self.rows[..i].iter().enumerate().map(|(j, row)| Some(row.get(j)? - after.get(j)?)).collect()
    }

    /// Mean of [`Self::forgetting_per_experience`] (Avalanche's StreamForgetting). `None` for the first
    /// experience.
    pub fn forgetting_after(&self, i: usize) -> Option<f64> {
        mean(self.forgetting_per_experience(i)?.into_iter())
    }

    /// Mean over the experiences j before `i` of `max over l < i of R[l][j] - R[i][j]`: against the best that
    /// was ever known of it (Chaudhry et al. 2018). `None` for the first experience.
    pub fn maximum_forgetting_after(&self, i: usize) -> Option<f64> {
        let after = self.rows.get(i)?.get(..i)?;
        let forgotten = after.iter().enumerate().map(|(j, now)| {
            let known = self.rows[..i].iter().map(|row| row.get(j).copied());
            Some(known.reduce(|a, b| Some(a?.max(b?)))?? - now)
        });
        mean(forgotten.collect::<Option<Vec<_>>>()?.into_iter())
    }

    /// [`Self::forgetting_after`] the last experience trained. `None` before the second.
    pub fn forgetting(&self) -> Option<f64> {
        self.forgetting_after(self.rows.len().checked_sub(1)?)
    }

    /// Mean over the earlier experiences of `R[T][j] - R[j][j]`, T the last trained (Lopez-Paz and Ranzato
    /// 2017, BWT): [`Self::forgetting`] with the other sign.
    pub fn backward_transfer(&self) -> Option<f64> {
        self.forgetting().map(|forgetting| -forgetting)
    }

    /// `R[j - 1][j] - baseline[j]` for the experiences j from 1 to `i + 1`, as many as there are: what was
    /// known of an experience just before it came (Avalanche's ExperienceForwardTransfer). `baseline[j]` is
    /// the untrained network's accuracy on experience j.
    pub fn forward_transfer_per_experience(&self, i: usize, baseline: &[f64]) -> Option<Vec<f64>> {
        let before = self.rows.get(..=i)?.iter().enumerate();
        let known = before.map(|(j, row)| (row.get(j + 1), baseline.get(j + 1)));
        // The last experience has none after it.
        let known = known.take(baseline.len().saturating_sub(1));
        known.map(|(before, untrained)| Some(before? - untrained?)).collect()
    }

    /// Mean of [`Self::forward_transfer_per_experience`] (Avalanche's StreamForwardTransfer).
    pub fn forward_transfer_after(&self, i: usize, baseline: &[f64]) -> Option<f64> {
        mean(self.forward_transfer_per_experience(i, baseline)?.into_iter())
    }

    /// [`Self::forward_transfer_after`] the last experience trained (Lopez-Paz and Ranzato 2017, FWT, after
    /// all). `None` before the first.
    pub fn forward_transfer(&self, baseline: &[f64]) -> Option<f64> {
        self.forward_transfer_after(self.rows.len().checked_sub(1)?, baseline)
    }
}

/// Mean of accuracies, weighed by the samples that they are of; `None` without samples.
fn pooled(accuracies: &[f64], n_samples: &[usize]) -> Option<f64> {
    if accuracies.len() != n_samples.len() {
        return None;
    }
    let n_correct: f64 = accuracies.iter().zip(n_samples).map(|(accuracy, n)| accuracy * *n as f64).sum();
    let n: usize = n_samples.iter().sum();
    (n > 0).then(|| n_correct / n as f64)
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
mod avalanche;

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
    fn the_best_ever_known_counts_in_maximum_forgetting() {
        let mut matrix = AccuracyMatrix::default();
        matrix.push(vec![0.5, 0.75, 0.0]);
        assert_eq!(matrix.maximum_forgetting_after(0), None);
        matrix.push(vec![0.875, 0.25, 0.0]);
        matrix.push(vec![0.375, 0.125, 1.0]);
        // Experience 0 was known best after experience 1, experience 1 before it was learned.
        assert_eq!(matrix.maximum_forgetting_after(2), Some((0.5 + 0.625) / 2.0));
        assert_eq!(matrix.forgetting_after(2), Some((0.125 + 0.125) / 2.0));
    }

    #[test]
    fn what_is_not_known_yet_is_none() {
        let mut matrix = AccuracyMatrix::default();
        assert_eq!((matrix.forgetting(), matrix.forward_transfer(&[0.5, 0.5])), (None, None));
        matrix.push(vec![0.5, 0.75]);
        assert_eq!(matrix.forgetting_per_experience(0), Some(vec![]));
        assert_eq!(matrix.forward_transfer(&[0.5, 0.5]), Some(0.25));
        assert_eq!(matrix.forward_transfer(&[0.5, 0.5, 0.5]), Some(0.25));
        assert_eq!(matrix.stream_accuracy(0, &[1, 3]), Some((0.5 + 3.0 * 0.75) / 4.0));
        assert_eq!(matrix.stream_accuracy(0, &[1]), None);
        assert_eq!(matrix.stream_accuracy(0, &[0, 0]), None);
        assert_eq!(matrix.trained_experience_accuracy(1, &[1, 3]), None);
        // One experience alone has nothing after it.
        assert_eq!(matrix.forward_transfer(&[0.5]), None);
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
