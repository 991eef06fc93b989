//! Support for the end-to-end tests: brokers and agents as child processes, certificates, configurations.
//!
//! Nothing here sleeps. Whoever waits says for what, up to a [`deadline::Deadline`], and fails with what came
//! instead. Children end when their owner is dropped, and tell what they said when a test fails.

pub mod broker;
pub mod brokers;
pub mod certs;
pub mod config;
pub mod deadline;
pub mod peer;
pub mod process;
pub mod synthetic;

use std::path::{Path, PathBuf};

/// A file of this repository.
///
/// # Panics
/// If it is not there.
pub fn repository(path: &str) -> PathBuf {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the repository");
    let file = root.join(path);
    assert!(file.exists(), "`{path}` is not in the repository");
    file
}
