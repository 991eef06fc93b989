//! `dkt run`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CliError, io_error};
use crate::agent::Ending;
use crate::config::AgentConfig;
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
    let ending = ending?;
    let arm = if config.exchange.enabled { "exchange on" } else { "exchange off" };
    let record = LabRecord { title: name, arms: vec![Arm { name: arm.to_owned(), agents: vec![run] }] };
    crate::report::metrics_csv::write(&record, &out.join("metrics.csv"))?;
    crate::report::html::write(&record, &out.join("report.html"))?;
    if arguments.progress != Style::Json {
        println!("{}", crate::report::table::render(&record));
        if ending == Ending::Stopped {
            println!("Stopped and saved; `dkt run {}` goes on from here.", arguments.config.display());
        }
        println!("Written to {}: report.html, metrics.csv, model.onnx", out.display());
    }
    Ok(())
}

/// Exit code of a process that is ended by SIGINT: 128 + 2.
const INTERRUPTED: i32 = 130;

/// Sets `stop` on the first SIGTERM or SIGINT; the training loop sees it after the step it is in. A second one
/// ends the process at once: what is on disk stays whole.
fn stop_on_signal(stop: Arc<AtomicBool>) -> std::io::Result<()> {
    let mut signals = Signals::listen()?;
    std::thread::spawn(move || {
        signals.wait();
        stop.store(true, Ordering::Relaxed);
        signals.wait();
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn listen() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (terminate, interrupt) = {
            let _guard = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        Ok(Signals { runtime, terminate, interrupt })
    }

    /// Blocks until the next of either.
    pub fn wait(&mut self) {
        let Signals { runtime, terminate, interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
    }
}
