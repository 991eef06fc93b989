//! The whole of which a run is a part: how many of its runs are done, and how long it may still take.

use std::time::{Duration, Instant};

/// Below this share of the work nothing is said of the time that is left.
const ENOUGH: f64 = 0.01;

#[derive(Clone, Debug)]
pub struct Whole {
    n_runs: usize,
    /// Those that were done before `started` among them.
    n_done: usize,
    n_done_before: usize,
    started: Instant,
}

impl Whole {
    pub fn new(n_runs: usize, n_done: usize) -> Self {
        Whole { n_runs, n_done, n_done_before: n_done, started: Instant::now() }
    }

    /// One more run is done.
    pub fn done(&mut self) {
        self.n_done += 1;
    }

    /// Where it stands, with a share (0 to 1) of the current run.
    pub fn text(&self, share: f64) -> String {
        let left = remaining(
            self.started.elapsed(),
            (self.n_done - self.n_done_before) as f64 + share,
            (self.n_runs - self.n_done) as f64 - share,
        );
        let left = left.map_or(String::new(), |left| format!(", about {} left", rough(left)));
        format!("{} of {} runs done{left}", self.n_done, self.n_runs)
    }

    pub(super) fn n_runs(&self) -> usize {
        self.n_runs
    }

    pub(super) fn n_done(&self) -> usize {
        self.n_done
    }
}

/// Time for `left` runs, as `done` took `elapsed`.
fn remaining(elapsed: Duration, done: f64, left: f64) -> Option<Duration> {
    if done < ENOUGH * (done + left) {
        return None;
    }
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * left / done).ok()
}

fn rough(time: Duration) -> String {
    match time.as_secs() {
        s if s < 90 => format!("{s} s"),
        s if s < 90 * 60 => format!("{} min", (s + 30) / 60),
        s if s < 48 * 3600 => format!("{} h", (s + 1800) / 3600),
        s => format!("{} days", (s + 43_200) / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_in_proportion() {
        let hour = Duration::from_secs(3600);
        assert_eq!(remaining(hour, 1.5, 3.0), Some(2 * hour));
        assert_eq!(remaining(hour, 0.0, 3.0), None);
        assert_eq!(remaining(hour, 2.0, 0.0), Some(Duration::ZERO));
        for (seconds, text) in
            [(89, "89 s"), (90, "2 min"), (5399, "90 min"), (7200, "2 h"), (259_200, "3 days")]
        {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn runs_done_before_say_nothing_about_time() {
        let mut whole = Whole::new(6, 4);
        assert_eq!(whole.text(0.0), "4 of 6 runs done");
        whole.done();
        assert!(whole.text(0.5).starts_with("5 of 6 runs done, about "), "{}", whole.text(0.5));
    }
}
