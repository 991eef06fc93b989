//! `dkt run`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustix::process::{getpid, kill_process};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::log::Log;
use super::{CliError, chain, io_error, print};
use crate::agent::Ending;
use crate::config::{AgentConfig, ConfigError};
use crate::report::record::{Arm, LabRecord, RunRecord};
use crate::report::tensorboard::TensorBoard;
use crate::telemetry::event::{Event, Record};
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
    #[command(flatten)]
    tensorboard: TensorBoardArguments,
}

#[derive(clap::Args)]
pub(super) struct TensorBoardArguments {
    /// Write event files for TensorBoard as training goes on, as `report.tensorboard` does; in the folder
    /// `tensorboard` below the others, unless another is given
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, require_equals = true)]
    tensorboard: Option<Option<PathBuf>>,
}

impl TensorBoardArguments {
    /// Where event files go, if they are wanted by the command line or by the configuration.
    pub fn folder(&self, is_configured: bool, out: &Path) -> Option<PathBuf> {
        let default = || out.join(TENSORBOARD_DIR);
        match &self.tensorboard {
            Some(folder) => Some(folder.clone().unwrap_or_else(default)),
            None => is_configured.then(default),
        }
    }

    /// As on a command line, with a space before; empty if they were not given.
    pub fn as_given(&self) -> String {
        match &self.tensorboard {
            Some(Some(folder)) => format!(" --tensorboard={}", folder.display()),
            Some(None) => " --tensorboard".to_owned(),
            None => String::new(),
        }
    }
}

/// Folder of event files below a run's or a lab's.
pub(super) const TENSORBOARD_DIR: &str = "tensorboard";

pub(super) fn run(arguments: Arguments, log: &Log) -> Result<(), CliError> {
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
    // From here on a signal stops the run: loading ONNX Runtime takes a while.
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(Arc::clone(&stop)).map_err(io_error("listen for", "signals".as_ref()))?;
    runtime::load()?;
    fs::create_dir_all(&out).map_err(io_error("create", &out))?;
    let name = config.agent.to_string();
    let mut progress = Progress::new(log.style(arguments.progress), std::slice::from_ref(&name));
    let mut tensorboard = arguments
        .tensorboard
        .folder(config.report.tensorboard, &out)
        .map(|folder| TensorBoard::new(folder, toml::to_string(&config).unwrap_or_default()));
    let mut run = RunRecord::default();
    let mut t_s = 0.0;
    let ending = crate::agent::run(&config, &stop, &mut |record| {
        t_s = record.t_s;
        progress.on(&name, record);
        run.apply(record);
        let written = tensorboard.as_mut().map(|board| board.on(record, &run, seconds_since_1970()));
        if let Some(Err(e)) = written {
            // Training is worth more than its pictures.
            let message = format!("{}; nothing more is written there", chain(&e));
            progress.on(&name, &Record { t_s, event: Event::Warning { message } });
            tensorboard = None;
        }
    });
    let options = arguments.progress.as_given() + &arguments.tensorboard.as_given() + &log.as_given();
    let goes_on_with = format!("dkt run {}{options}", arguments.config.display());
    let is_stopped = matches!(ending, Ok(Ending::Stopped));
    if is_stopped {
        let event = Event::Stopped { goes_on_with: goes_on_with.clone() };
        progress.on(&name, &Record { t_s, event });
    }
    progress.finish();
    let is_shown = arguments.progress != Style::Json;
    if run.started.is_none() {
        // Nothing has happened that an earlier report does not know.
        ending?;
        let text = format!("Stopped before training; `{goes_on_with}` goes on from here.\n");
        return if is_shown { print(&text) } else { Ok(()) };
    }
    let arm = if config.exchange.enabled { "exchange on" } else { "exchange off" };
    let record = LabRecord {
        title: name,
        arms: vec![Arm { name: arm.to_owned(), agents: vec![run], ..Arm::default() }],
    };
    crate::report::metrics_csv::write(&record, &out.join("metrics.csv"))?;
    crate::report::metrics_json::write(&record, &out.join("metrics.json"))?;
    crate::report::html::write(&record, &out.join("report.html"))?;
    ending?;
    if is_shown {
        let mut text = format!("{}\n", crate::report::table::render(&record));
        if is_stopped {
            text += &format!("Stopped and saved; `{goes_on_with}` goes on from here.\n");
        }
        text +=
            &format!("Written to {}: report.html, metrics.csv, metrics.json, model.onnx\n", out.display());
        print(&text)?;
    }
    Ok(())
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
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
