//! How long a run still takes, by its pace of late. Pure: times are those of the events.

use std::collections::VecDeque;

/// Epochs over which the pace is taken: with replay, later experiences have longer steps than the first.
const N_EPOCHS: usize = 16;

/// When how many training steps were done.
#[derive(Clone, Copy)]
struct Mark {
    t_s: f64,
    step: u64,
}

/// Steps done, and the time they took.
pub struct Pace {
    start: Mark,
    /// The last [`N_EPOCHS`] of this process.
    epochs: VecDeque<Mark>,
}

impl Pace {
    /// Training goes on from `step`.
    pub fn starting(t_s: f64, step: u64) -> Self {
        Pace { start: Mark { t_s, step }, epochs: VecDeque::new() }
    }

    /// An epoch has ended. One that an earlier process has trained is told again, and says nothing of the pace.
    pub fn epoch(&mut self, t_s: f64, step: u64) {
        if step <= self.start.step {
            return;
        }
        if self.epochs.len() == N_EPOCHS {
            self.epochs.pop_front();
        }
        self.epochs.push_back(Mark { t_s, step });
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.epochs.back().unwrap_or(&self.start).step
    }

    /// Seconds until `n_steps` are done; `None` before the first epoch.
    pub fn left_s(&self, n_steps: u64) -> Option<f64> {
        let last = self.epochs.back()?;
        // The first epoch's time has the wait for peers in it.
        let first = self.epochs.front().filter(|_| self.epochs.len() > 1).unwrap_or(&self.start);
        let done = last.step.checked_sub(first.step).filter(|n| *n > 0)?;
        Some((last.t_s - first.t_s) / done as f64 * n_steps.saturating_sub(last.step) as f64)
    }
}

/// For a person: seconds below two minutes, minutes below two hours, then hours.
pub fn duration(seconds: f64) -> String {
    let minutes = seconds / 60.0;
    if minutes < 2.0 {
        format!("{seconds:.0} s")
    } else if minutes < 120.0 {
        format!("{minutes:.0} min")
    } else {
        format!("{:.0} h", minutes / 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_goes_by_steps_whatever_their_number_in_an_epoch() {
        let mut pace = Pace::starting(10.0, 0);
        assert_eq!(pace.left_s(100), None);
        // Of the first epoch, half a minute was spent waiting for peers.
        pace.epoch(50.0, 10);
        assert_eq!(pace.left_s(100), Some(360.0));
        // Experiences of 10 and of 30 steps an epoch, a step a second.
        pace.epoch(60.0, 20);
        assert_eq!(pace.left_s(100), Some(80.0));
        pace.epoch(90.0, 50);
        assert_eq!(pace.left_s(100), Some(50.0));
        pace.epoch(140.0, 100);
        assert_eq!((pace.left_s(100), pace.step()), (Some(0.0), 100));
    }

    #[test]
    fn a_run_that_goes_on_counts_what_it_does_itself() {
        let mut pace = Pace::starting(1.0, 500);
        for told_again in [100, 200, 300, 400, 500] {
            pace.epoch(1.0, told_again);
        }
        assert_eq!((pace.left_s(1000), pace.step()), (None, 500));
        pace.epoch(101.0, 600);
        assert_eq!(pace.left_s(1000), Some(400.0));
    }

    #[test]
    fn only_the_pace_of_late_counts() {
        let mut pace = Pace::starting(0.0, 0);
        for i in 1..=100_u32 {
            // From the fiftieth epoch on a step takes ten times as long.
            let t_s = f64::from(i.min(50)) + 10.0 * f64::from(i.saturating_sub(50));
            pace.epoch(t_s, u64::from(i));
        }
        assert_eq!(pace.left_s(200), Some(1000.0));
    }

    #[test]
    fn durations_are_short() {
        let table = [(0.2, "0 s"), (119.0, "119 s"), (150.0, "2 min"), (7000.0, "117 min"), (9000.0, "2 h")];
        for (seconds, text) in table {
            assert_eq!(duration(seconds), text);
        }
    }
}
