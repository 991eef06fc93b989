//! NATS with `nats.conf`, on other ports and with its store in a folder of the test.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Program, changed};
use crate::broker::{find, free_port};

/// # Panics
/// If nats-server is not installed, or the configuration is no longer what is expected.
pub fn nats(folder: &Path, port: u16) -> Vec<Program> {
    let store = folder.join("store").display().to_string();
    let text = changed(
        "broker-config/nats.conf",
        &[
            ("127.0.0.1:1883", &format!("127.0.0.1:{port}")),
            ("127.0.0.1:4222", &format!("127.0.0.1:{}", free_port())),
            ("/var/lib/nats/dkt", &store),
        ],
    );
    let file = folder.join("nats.conf");
    fs::write(&file, text).expect("the configuration is written");
    let mut command = Command::new(find("nats-server"));
    command.arg("-c").arg(file);
    vec![(command, port)]
}
