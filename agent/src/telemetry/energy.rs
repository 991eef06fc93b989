//! Energy that the board draws, where it tells it.
//!
//! A table of sources, of which the first that can be read is used:
//!
//! | Source | What it measures | Read from |
//! | --- | --- | --- |
//! | `ina3221` | input power of a Jetson module | hwmon, or the iio of older JetPacks; see `ina3221.rs` |
//! | `rapl` | energy of processor packages and their memory | powercap; see `rapl.rs` |
//!
//! A thread reads the source ten times a second; power is integrated by trapezoids. Where nothing can be read there is
//! no energy, which is not the same as none. What is measured is the whole board, with all that runs on it.

mod ina3221;
mod rapl;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{debug, info};

/// Time between two readings.
const INTERVAL: Duration = Duration::from_millis(100);
/// The longest hole between two readings that is bridged. A longer one leaves its experience without energy: power was
/// not seen for too long, and a counter may have begun again more than once.
const MAX_HOLE: Duration = Duration::from_secs(10);
/// Folders of a kind that are looked at.
const MAX_FOLDERS: usize = 64;

/// Finds a source below the root of a file system. `None`: there is no such thing; an error: it cannot be read.
type Find = fn(&Path) -> io::Result<Option<Reader>>;

const SOURCES: [(&str, Find); 2] = [
    ("ina3221", |root| Ok(ina3221::Rails::find(root)?.map(Reader::Power))),
    ("rapl", |root| Ok(rapl::Zones::find(root)?.map(Reader::Counters))),
];

enum Reader {
    Power(ina3221::Rails),
    Counters(rapl::Zones),
}

impl Reader {
    /// Joules since the last successful reading, which was `seconds` ago. An error changes nothing.
    fn advance(&mut self, seconds: f64) -> io::Result<f64> {
        match self {
            Reader::Power(rails) => rails.advance(seconds),
            Reader::Counters(zones) => zones.advance(),
        }
    }
}

/// A source and what it has come to.
struct Meter {
    reader: Reader,
    read_at: Instant,
    joules: f64,
    /// Whether no hole was too long since the energy was last taken.
    is_whole: bool,
}

impl Meter {
    fn read(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.read_at);
        // What cannot be read now is made up for by the next reading that can.
        if let Ok(joules) = self.reader.advance(passed.as_secs_f64()) {
            self.is_whole &= passed <= MAX_HOLE;
            self.joules += joules;
            self.read_at = now;
        }
    }

    /// Joules since the last call; `None` where the readings have a hole.
    fn take(&mut self, now: Instant) -> Option<f64> {
        self.read(now);
        let is_whole = self.is_whole && now.saturating_duration_since(self.read_at) <= MAX_HOLE;
        let joules = std::mem::take(&mut self.joules);
        self.is_whole = true;
        is_whole.then_some(joules)
    }
}

/// Measures until it is dropped.
pub struct EnergyMeter {
    source: &'static str,
    meter: Arc<Mutex<Meter>>,
    /// Its end is the thread's.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EnergyMeter {
    /// The first source below `root` (`/` outside of tests) that can be read. `None` if there is none: then a line of
    /// the debug log says why, once.
    pub fn find(root: &Path) -> Option<Self> {
        let (source, reader) = first(root)?;
        let meter = Meter { reader, read_at: Instant::now(), joules: 0.0, is_whole: true };
        let meter = Arc::new(Mutex::new(meter));
        let (running, stopped) = channel();
        let sampled = Arc::clone(&meter);
        let sample = move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                lock(&sampled).read(Instant::now());
            }
        };
        match thread::Builder::new().name("energy".to_owned()).spawn(sample) {
            Ok(thread) => Some(EnergyMeter { source, meter, running: Some(running), thread: Some(thread) }),
            Err(error) => {
                debug!(source, %error, "no thread to measure energy");
                None
            }
        }
    }

    /// Its name in the table.
    pub fn source(&self) -> &'static str {
        self.source
    }

    /// Joules since the last call, or since the start; `None` where they were not measured throughout.
    pub fn take(&self) -> Option<f64> {
        lock(&self.meter).take(Instant::now())
    }
}

impl Drop for EnergyMeter {
    fn drop(&mut self) {
        self.running = None;
        if let Some(thread) = self.thread.take() {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}

fn lock(meter: &Mutex<Meter>) -> MutexGuard<'_, Meter> {
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}

fn first(root: &Path) -> Option<(&'static str, Reader)> {
    let mut reasons = Vec::new();
    for (source, find) in SOURCES {
        match find(root) {
            Ok(Some(reader)) => {
                info!(source, "energy is measured");
                return Some((source, reader));
            }
            Ok(None) => reasons.push(format!("{source}: not there")),
            Err(error) => reasons.push(format!("{source}: {error}")),
        }
    }
    debug!(reasons = reasons.join("; "), "energy is not measured");
    None
}

/// Paths below `root` that match the pattern, in order.
fn matching(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let pattern =
        format!("{}/{pattern}", glob::Pattern::escape(root.to_string_lossy().trim_end_matches('/')));
    glob::glob(&pattern).into_iter().flatten().filter_map(Result::ok).take(MAX_FOLDERS).collect()
}

/// A file's one line; an error names the file.
fn line(path: &Path) -> io::Result<String> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("`{}`: {e}", path.display()));
    Ok(std::fs::read_to_string(path).map_err(named)?.trim().to_owned())
}

/// A file's one number; an error names the file.
fn number<T: std::str::FromStr>(path: &Path) -> io::Result<T> {
    let text = line(path)?;
    text.parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("`{}`: expected a number, found `{text}`", path.display()),
        )
    })
}

#[cfg(test)]
mod tests;
