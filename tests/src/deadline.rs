//! How long a test waits for anything.

use std::time::{Duration, Instant};

/// For one event. Far above what any takes alone, because tests share a machine; and well above the minute after which
/// an agent says again what a broker may not have passed on.
const LONGEST: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Default for Deadline {
    fn default() -> Self {
        Deadline::after(LONGEST)
    }
}

impl Deadline {
    pub fn after(wait: Duration) -> Self {
        Deadline(Instant::now() + wait)
    }

    /// Time left; zero when it is over.
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }
}
