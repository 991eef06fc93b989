//! Whole agents: real processes, real brokers, real faults.

#![allow(clippy::unwrap_used)]

mod access;
mod analysis;
mod bridge;
mod brokers;
mod churn;
mod commands;
mod data;
mod disk;
mod embedded;
mod exchange;
mod experiment;
mod keys;
mod learning;
mod logs;
mod metrics;
mod models;
mod mosquitto;
mod outage;
mod peers;
mod python;
mod refusals;
mod repository;
mod resume;
mod runtimes;
mod sharing;
mod shipped;
mod signing;
mod steps;
mod stops;
mod strategies;
mod streams;
mod tensorboard;
mod testbed;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use dkt_agent::config::AgentConfig;
use dkt_tests::config;
use dkt_tests::process::Agent;

/// The program, built with these tests, with its arguments.
fn dkt<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dkt-under-test"));
    // Usage texts show the name under which a program was called.
    command.arg0("dkt").args(arguments).env_remove("DKT_LOG").env_remove("DKT_LOG_FORMAT");
    command
}

/// `dkt testbed` of the lab of that text, which is written into `folder`; its results go to `folder/out`.
fn testbed(folder: &Path, lab: &str) -> Command {
    let (file, out) = (folder.join("lab.toml"), folder.join("out"));
    fs::write(&file, lab).unwrap();
    dkt(["testbed".as_ref(), file.as_os_str(), "--out".as_ref(), out.as_os_str()])
}

/// Writes the agent's configuration beside its folder, and starts it.
fn start(config: &AgentConfig) -> Agent {
    let out = config.out.as_deref().expect("agents of tests have a folder");
    let root = out.parent().expect("agents of tests share a folder");
    let file = config::write(root, config);
    let arguments = [OsStr::new("run"), file.as_ref(), OsStr::new("--progress"), OsStr::new("json")];
    Agent::start(config.agent.as_str(), dkt(arguments))
}
