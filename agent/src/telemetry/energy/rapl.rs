//! Energy counters of x86 processors (RAPL, Running Average Power Limit), Intel's and AMD's, by the kernel's powercap.
//!
//! `/sys/class/powercap/intel-rapl:<n>` are zones and `intel-rapl:<n>:<m>` their parts, each with a `name` and a
//! counter `energy_uj` in microjoules that begins again after `max_energy_range_uj` (kernel documentation,
//! `power/powercap`). Most systems let root alone read the counters.

use std::io;
use std::path::{Path, PathBuf};

use super::{line, matching, number};

/// The zones, each once: `intel-rapl-mmio` are the same packages by another way.
const ZONES: &str = "sys/class/powercap/intel-rapl:*";

/// Whether a zone is counted: packages are, and memory, which is no part of its package. Cores and graphics are parts
/// of a package, and `psys` has packages as its part.
fn counts(name: &str) -> bool {
    name.starts_with("package") || name == "dram"
}

pub(super) struct Zones(Vec<Zone>);

struct Zone {
    counter: PathBuf,
    /// The largest value of the counter.
    range_uj: u64,
    /// At the last reading.
    energy_uj: u64,
}

impl Zones {
    /// `None` without such zones. An error if one that counts cannot be read.
    pub fn find(root: &Path) -> io::Result<Option<Self>> {
        let mut zones = Vec::new();
        for folder in matching(root, ZONES) {
            if !line(&folder.join("name")).is_ok_and(|name| counts(&name)) {
                continue;
            }
            let counter = folder.join("energy_uj");
            let energy_uj = number(&counter)?;
            zones.push(Zone { counter, range_uj: number(&folder.join("max_energy_range_uj"))?, energy_uj });
        }
        Ok((!zones.is_empty()).then_some(Zones(zones)))
    }

    /// Joules since the last reading.
    pub fn advance(&mut self) -> io::Result<f64> {
        let now = self.0.iter().map(|zone| number(&zone.counter)).collect::<io::Result<Vec<u64>>>()?;
        let mut drawn_uj = 0.0;
        for (zone, now) in self.0.iter_mut().zip(now) {
            drawn_uj += zone.since_last(now) as f64;
            zone.energy_uj = now;
        }
        Ok(1e-6 * drawn_uj)
    }

    #[cfg(test)]
    pub fn has_seen(&self, energy_uj: u64) -> bool {
        self.0.iter().any(|zone| zone.energy_uj == energy_uj)
    }
}

impl Zone {
    /// Microjoules since the last reading, if the counter has begun again once at most.
    fn since_last(&self, now: u64) -> u64 {
        now.checked_sub(self.energy_uj)
            .unwrap_or_else(|| self.range_uj.saturating_sub(self.energy_uj).saturating_add(now))
    }
}
