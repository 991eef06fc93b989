//! `dkt run`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{getpid, kill_process};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CliError, io_error, print};
use crate::agent::Ending;
use crate::config::{AgentConfig, ConfigError};
use crate::report::record::{Arm, LabRecord, RunRecord};
use crate::telemetry::progress::{Progress, Style};
use crate::train::runtime;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The agent's configuration
    #[arg(value_name = "AGENT.toml")]
    config: PathBuf,
    /// How progress is shown; `json` prints one event a line on standard output
    #[arg(long, value_enum, default_value_t = Style::Auto)]
    progress: Style,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let config = AgentConfig::read(&arguments.config)?;
    let out = config.out_dir();
    if out.join(super::testbed::MARKER).exists() {
        return Err(CliError::Config(ConfigError::Value {
            path: arguments.config,
            key: "out",
            expected: "a folder of the agent's own",
            found: format!("`{}`, with the results of a testbed", out.display()),
        }));
    }
    runtime::load()?;
    fs::create_dir_all(&out).map_err(io_error("create", &out))?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(Arc::clone(&stop)).map_err(io_error("listen for", "signals".as_ref()))?;
    let name = config.agent.to_string();
    let mut progress = Progress::new(arguments.progress, std::slice::from_ref(&name));
    let mut run = RunRecord::default();
    let ending = crate::agent::run(&config, &stop, &mut |record| {
        progress.on(&name, record);
        run.apply(record);
    });
    progress.finish();
    if run.started.is_none() {
        // Nothing has happened that an earlier report does not know.
        return ending.map(drop).map_err(CliError::from);
    }
    let arm = if config.exchange.enabled { "exchange on" } else { "exchange off" };
    let record = LabRecord { title: name, arms: vec![Arm { name: arm.to_owned(), agents: vec![run] }] };
    crate::report::metrics_csv::write(&record, &out.join("metrics.csv"))?;
    crate::report::metrics_json::write(&record, &out.join("metrics.json"))?;
    crate::report::html::write(&record, &out.join("report.html"))?;
    let ending = ending?;
    if arguments.progress != Style::Json {
        let mut text = format!("{}\n", crate::report::table::render(&record));
        if ending == Ending::Stopped {
            text +=
                &format!("Stopped and saved; `dkt run {}` goes on from here.\n", arguments.config.display());
        }
        text +=
            &format!("Written to {}: report.html, metrics.csv, metrics.json, model.onnx\n", out.display());
        print(&text)?;
    }
    Ok(())
}

/// Sets `stop` on the first signal; the training loop sees it after the step it is in. A second one ends the
/// process at once: what is on disk stays whole.
fn stop_on_signal(stop: Arc<AtomicBool>) -> std::io::Result<()> {
    let mut signals = Signals::listen()?;
    std::thread::spawn(move || {
        signals.wait();
        stop.store(true, Ordering::Relaxed);
        signals.wait();
        end_at_once();
    });
    Ok(())
}

/// Ends the process with code 130, as one that is ended by SIGINT (128 + 2), while other threads are within ONNX
/// Runtime: `std::process::exit` would run its static destructors under them, and crash.
fn end_at_once() -> ! {
    // Another program takes the place of this one, and nothing of this one runs any more. Not a signal: a
    // container's first process cannot be killed from within.
    let _not_replaced = Command::new("/bin/sh").args(["-c", "exit 130"]).exec();
    let _not_killed = kill_process(getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

/// SIGTERM, SIGINT, and the SIGHUP of a terminal that is closed.
pub(super) struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    /// Only while nobody has asked to stop.
    hangup: Option<Signal>,
}

impl Signals {
    pub fn listen() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (terminate, interrupt, hangup) = {
            let _guard = runtime.enter();
            let hangup = if ignores_hangups() { None } else { Some(signal(SignalKind::hangup())?) };
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, hangup)
        };
        Ok(Signals { runtime, terminate, interrupt, hangup })
    }

    /// Blocks until the next of them.
    pub fn wait(&mut self) {
        let Signals { runtime, terminate, interrupt, hangup } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = received(hangup) => {}
            }
        });
        // A closed terminal can send more than one, by its shell and by itself: the others have no effect.
        self.hangup = None;
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether this process was started to outlive its terminal, for example by `nohup`.
fn ignores_hangups() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The lowest bit is signal 1, SIGHUP.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
