//! What changes from epoch to epoch: learning rate, weight of the student head's loss, and when to stop. Pure.

use serde::{Deserialize, Serialize};

/// Course of the learning rate over the epochs of an experience, anew in each. A factor of `train.learning_rate`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "name")]
pub enum LearningRateSchedule {
    Constant {
        #[serde(default)]
        warmup_epochs: u32,
    },
    /// PyTorch's `StepLR`: `gamma` to the power of the number of whole `every` epochs behind.
    Step {
        every: u32,
        #[serde(default = "gamma")]
        gamma: f32,
        #[serde(default)]
        warmup_epochs: u32,
    },
    /// Half a cosine from 1 down to `floor` (Loshchilov and Hutter 2017, without restarts within an experience).
    Cosine {
        #[serde(default)]
        floor: f32,
        #[serde(default)]
        warmup_epochs: u32,
    },
}

/// Longest rise of the learning rate.
const MAX_WARMUP_EPOCHS: u32 = 1_000_000;

/// StepLR's default.
fn gamma() -> f32 {
    0.1
}

impl Default for LearningRateSchedule {
    fn default() -> Self {
        LearningRateSchedule::Constant { warmup_epochs: 0 }
    }
}

impl LearningRateSchedule {
    /// The factor in epoch `epoch` (from 0) of `n_epochs`.
    ///
    /// In the first `warmup_epochs` it rises linearly, 1/(w+1), 2/(w+1), …; the course of the schedule begins after
    /// them.
    pub fn factor(&self, epoch: u32, n_epochs: u32) -> f32 {
        let warmup = self.warmup_epochs();
        if epoch < warmup {
            return (epoch + 1) as f32 / (warmup + 1) as f32;
        }
        let (epoch, n_epochs) = (epoch - warmup, n_epochs.saturating_sub(warmup));
        match *self {
            LearningRateSchedule::Constant { .. } => 1.0,
            LearningRateSchedule::Step { every, gamma, .. } => {
                gamma.powi(i32::try_from(epoch / every.max(1)).unwrap_or(i32::MAX))
            }
            LearningRateSchedule::Cosine { floor, .. } => {
                let share = f64::from(epoch) / f64::from(n_epochs.max(1));
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
                (f64::from(floor) + (1.0 - f64::from(floor)) * cosine) as f32
            }
        }
    }

    fn warmup_epochs(&self) -> u32 {
        match *self {
            LearningRateSchedule::Constant { warmup_epochs }
            | LearningRateSchedule::Step { warmup_epochs, .. }
            | LearningRateSchedule::Cosine { warmup_epochs, .. } => warmup_epochs,
        }
    }

    /// Whether its constants make sense.
    pub fn is_sound(&self) -> bool {
        let share = |v: f32| (0.0..=1.0).contains(&v);
        if self.warmup_epochs() > MAX_WARMUP_EPOCHS {
            return false;
        }
        match *self {
            LearningRateSchedule::Constant { .. } => true,
            LearningRateSchedule::Step { every, gamma, .. } => every > 0 && gamma.is_finite() && gamma > 0.0,
            LearningRateSchedule::Cosine { floor, .. } => share(floor),
        }
    }
}

/// How often the weight of the student head's loss moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number of epochs or \"experience\"")]
pub enum Every {
    Epochs(u32),
    Experience(EveryExperience),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EveryExperience {
    Experience,
}

impl Every {
    pub const EXPERIENCE: Every = Every::Experience(EveryExperience::Experience);
}

/// `start + step * k` but not below 0, with k the number of times that `every` has passed: whole experiences, or
/// whole numbers of epochs within the experience.
pub fn stepped(start: f32, step: f32, every: Every, experience: u32, epoch: u32) -> f32 {
    let n_times = match every {
        Every::Epochs(epochs) => epoch / epochs.max(1),
        Every::Experience(_) => experience,
    };
    (start + step * n_times as f32).max(0.0)
}

/// Ends an experience whose accuracy no longer rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    /// Best so far; `None` before the first epoch of the experience.
    best: Option<f64>,
    /// Whether there was a gain over the first epoch. New classes can stay at 0 for some epochs.
    has_gained: bool,
    /// Epochs since the last gain.
    n_without_gain: u32,
}

impl EarlyStopping {
    /// Takes in the accuracy after an epoch. True if there was no gain of more than `margin` over the best for
    /// `patience` epochs in a row, after one at least.
    pub fn is_over(&mut self, accuracy: f64, patience: u32, margin: f64) -> bool {
        if self.best.is_none_or(|best| accuracy > best + margin) {
            self.has_gained |= self.best.is_some();
            self.best = Some(accuracy);
            self.n_without_gain = 0;
        } else {
            self.n_without_gain += u32::from(self.has_gained);
        }
        patience > 0 && self.n_without_gain >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(schedule: LearningRateSchedule, n: u32) -> Vec<f32> {
        (0..n).map(|epoch| schedule.factor(epoch, n)).collect()
    }

    #[test]
    fn schedules_follow_their_formulas() {
        use LearningRateSchedule::*;
        assert_eq!(factors(Constant { warmup_epochs: 0 }, 3), [1.0; 3]);
        assert_eq!(factors(Constant { warmup_epochs: 3 }, 5), [0.25, 0.5, 0.75, 1.0, 1.0]);
        let step = factors(Step { every: 2, gamma: 0.5, warmup_epochs: 0 }, 6);
        assert_eq!(step, [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]);
        let cosine = factors(Cosine { floor: 0.2, warmup_epochs: 1 }, 5);
        let expected = [0.5, 1.0, 0.2 + 0.8 * (0.5 + 0.5 * 0.5_f32.sqrt()), 0.6, 0.2 + 0.8 * 0.146_446_6];
        for (found, expected) in cosine.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{cosine:?}");
        }
    }

    #[test]
    fn the_weight_is_stepped_by_epochs_or_experiences_and_never_negative() {
        assert_eq!(stepped(0.5, 0.5, Every::EXPERIENCE, 3, 99), 2.0);
        assert_eq!(stepped(0.5, -0.2, Every::Epochs(10), 7, 25), 0.5 - 0.4);
        assert_eq!(stepped(0.5, -0.2, Every::Epochs(1), 0, 25), 0.0);
    }

    #[test]
    fn patience_counts_epochs_without_a_gain_beyond_the_margin() {
        let mut stopping = EarlyStopping::default();
        let accuracies = [0.5, 0.505, 0.6, 0.6, 0.59, 0.605];
        let over: Vec<bool> = accuracies.iter().map(|a| stopping.is_over(*a, 3, 0.01)).collect();
        assert_eq!(over, [false, false, false, false, false, true]);
        assert!(!EarlyStopping::default().is_over(0.1, 1, 0.0));
        let mut late = EarlyStopping::default();
        let over: Vec<bool> = [0.0, 0.0, 0.0, 0.3, 0.3].iter().map(|a| late.is_over(*a, 1, 0.01)).collect();
        assert_eq!(over, [false, false, false, false, true], "classes that are not learned yet");
        let mut never = EarlyStopping::default();
        assert!((0..100).all(|_| !never.is_over(0.5, 0, 0.0)));
    }
}
