//! What an experience takes: wall time, processor time and, where the board tells it, energy.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::energy::EnergyMeter;
use super::event::Usage;

/// Measures one experience after another.
pub struct UsageMeter {
    energy: Option<EnergyMeter>,
    so_far: Usage,
    /// When `so_far` was last brought up to date, by either clock.
    at: Instant,
    cpu_at: Duration,
}

impl UsageMeter {
    /// Looks for a source of energy under `root`, which is `/` outside of tests.
    pub fn new(root: &Path) -> Self {
        let energy = EnergyMeter::find(root);
        UsageMeter { energy, so_far: Usage::default(), at: Instant::now(), cpu_at: cpu_time() }
    }

    /// What measures energy, if anything does.
    pub fn energy_source(&self) -> Option<&'static str> {
        self.energy.as_ref().map(EnergyMeter::source)
    }

    /// Begins an experience, or goes on with one that has taken `before`.
    pub fn begin(&mut self, before: Usage) {
        // What has passed since the last one is nobody's.
        self.so_far();
        self.so_far = before;
    }

    /// Leaves out what has passed since the last call of any method: no experience was being trained.
    pub fn pass(&mut self) {
        self.begin(self.so_far);
    }

    /// Adds rows that were trained, and the wall time of their steps.
    pub fn trained(&mut self, n_samples: u64, seconds: f64) {
        self.so_far.n_samples += n_samples;
        self.so_far.training_seconds += seconds;
    }

    /// What the experience has taken until now.
    pub fn so_far(&mut self) -> Usage {
        let (now, cpu_now) = (Instant::now(), cpu_time());
        self.so_far.seconds += now.duration_since(self.at).as_secs_f64();
        self.so_far.cpu_seconds += cpu_now.saturating_sub(self.cpu_at).as_secs_f64();
        (self.at, self.cpu_at) = (now, cpu_now);
        let drawn = self.energy.as_ref().and_then(EnergyMeter::take);
        self.so_far.energy_joules =
            self.so_far.energy_joules.zip(drawn).map(|(before, drawn)| before + drawn);
        self.so_far
    }

    /// What the experience took. A board that says it drew nothing does not measure.
    pub fn end(&mut self) -> Usage {
        let usage = self.so_far();
        Usage { energy_joules: usage.energy_joules.filter(|joules| *joules > 0.0), ..usage }
    }
}

/// Of all threads of this process, since it started.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_experience_that_goes_on_adds_to_what_it_had_taken() {
        let folder = tempfile::tempdir().unwrap();
        let mut meter = UsageMeter::new(folder.path());
        assert_eq!(meter.energy_source(), None);
        let before = Usage { seconds: 100.0, cpu_seconds: 50.0, n_samples: 8, ..Usage::default() };
        meter.begin(before);
        meter.trained(32, 0.5);
        meter.trained(16, 0.25);
        // Work that takes processor time, so that the clock moves.
        let mut sum = 0_u64;
        while cpu_time() == meter.cpu_at {
            sum = std::hint::black_box(sum + 1);
        }
        let usage = meter.end();
        assert!(usage.seconds > 100.0 && usage.cpu_seconds > 50.0, "{usage:?}");
        assert_eq!((usage.n_samples, usage.training_seconds), (56, 0.75));
        assert_eq!(usage.samples_per_second(), Some(56.0 / 0.75));
        assert_eq!(usage.energy_joules, None, "nothing measures it");
        meter.begin(Usage::default());
        let next = meter.end();
        assert!(next.seconds < 100.0 && next.cpu_seconds < 50.0 && next.n_samples == 0, "{next:?}");
        assert_eq!(next.samples_per_second(), None);
    }
}
