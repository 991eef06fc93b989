//! Brokers of several makers, each a child process with a folder of its own: what one suite of tests runs on.

mod nats;
mod rabbitmq;

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

pub use self::nats::nats;
pub use self::rabbitmq::rabbitmq;
use crate::broker::{find, free_port, wait_until, wait_until_listening};
use crate::peer::Peer;
use crate::process::Process;
use crate::repository;

/// A program that is the broker or a part of it, and the port of 127.0.0.1 on which it listens.
pub type Program = (Command, u16);

/// Says which programs, started one after the other, are a broker that keeps its files in the folder and listens on
/// the port. It is asked before each start, and leaves alone what the broker has written there.
pub type Prepare = fn(&Path, u16) -> Vec<Program>;

/// A broker without security; ended when this is dropped.
pub struct Broker {
    pub port: u16,
    prepare: Prepare,
    folder: TempDir,
    processes: Vec<Process>,
}

impl Broker {
    /// # Panics
    /// If it is not installed, or does not start.
    pub fn start(prepare: Prepare) -> Self {
        let folder = tempfile::tempdir().expect("a folder is made");
        let mut broker = Broker { port: free_port(), prepare, folder, processes: Vec::new() };
        broker.restart();
        broker
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        while let Some(process) = self.processes.pop() {
            drop(process);
        }
    }

    /// Starts it on the same port, with what it has written into its folder, and waits until it lets clients in.
    ///
    /// # Panics
    /// If it does not.
    pub fn restart(&mut self) {
        self.kill();
        for (command, port) in (self.prepare)(self.folder.path(), self.port) {
            let mut process = Process::start(command);
            wait_until_listening(&mut process, port);
            self.processes.push(process);
        }
        // A port may be open before the broker behind it is ready.
        let last = self.processes.last_mut().expect("a broker has a program");
        wait_until(last, "the broker to let somebody in", || {
            Peer::connect(self.port, "somebody", None).is_ok()
        });
    }

    /// As [`Broker::restart`], with an empty folder: whatever it knew is forgotten.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart_empty(&mut self) {
        self.kill();
        self.folder = tempfile::tempdir().expect("a folder is made");
        self.restart();
    }

    /// Where agents reach it.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The last that was started goes first.
        self.kill();
    }
}

/// mosquitto with `dev.conf`, as it is.
pub fn mosquitto(_: &Path, port: u16) -> Vec<Program> {
    let mut command = Command::new(find("mosquitto"));
    command.arg("-c").arg(repository("broker-config/dev.conf")).arg("-p").arg(port.to_string());
    vec![(command, port)]
}

/// A shipped configuration in which each `from`, which must be there, is replaced.
fn changed(shipped: &str, changes: &[(&str, &str)]) -> String {
    let mut text = fs::read_to_string(repository(shipped)).expect("a shipped configuration is text");
    for (from, to) in changes {
        text = crate::broker::replaced(&text, from, to);
    }
    text
}
