//! The command line: arguments in, exit codes and one clear message out.

mod broker;
mod eval;
mod model;
mod run;
mod testbed;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::agent::AgentError;
use crate::config::ConfigError;
use crate::data::DataError;
use crate::durable::WriteError;
use crate::eval::EvalError;
use crate::exchange::ExchangeError;
use crate::stream::StreamError;
use crate::train::checkpoint::CheckpointError;
use crate::train::runtime::RuntimeError;

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 unexpected failure; 2 wrong command line; 65 model or data refused; \
66 file not found; 69 broker, runtime or device not available; 74 cannot read or write; 78 wrong configuration; \
130 ended at once by a second Ctrl-C.

Set DKT_LOG (for example DKT_LOG=dkt_agent=debug) for a log on standard error.";

/// Agents that learn from their own streams of experiences and teach each other by soft targets.
#[derive(Parser)]
#[command(name = "dkt", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one agent of a fleet
    Run(run::Arguments),
    /// Run a whole lab of agents on this machine and report on it
    Testbed(testbed::Arguments),
    /// Run an MQTT broker for trying things out (no security; loopback by default)
    Broker(broker::Arguments),
    /// Evaluate a dual-head ONNX model on test data, without ONNX Runtime
    Eval(eval::Arguments),
    /// List, build, inspect and prepare networks
    #[command(subcommand)]
    Model(model::Command),
}

/// Why a command ended without doing what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Model(#[from] dkt_models::ModelError),
    #[error(transparent)]
    Graph(#[from] onnx_grad::GradError),
    #[error(transparent)]
    Read(#[from] onnx_grad::ReadError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Eval(#[from] EvalError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("cannot {action} `{}`", .path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("agent `{agent}` ended with exit code {code}; its messages are in `{}`", .log.display())]
    Child { agent: String, code: u8, log: PathBuf },
    #[cfg(not(feature = "broker"))]
    #[error("this build has no embedded broker; build with `--features broker`, or name a broker's URL")]
    NoBroker,
}

impl CliError {
    fn exit_code(&self) -> u8 {
        /// Data or model refused.
        const DATA: u8 = 65;
        const NO_INPUT: u8 = 66;
        const UNAVAILABLE: u8 = 69;
        const IO: u8 = 74;
        const CONFIG: u8 = 78;
        if let CliError::Child { code, .. } = self {
            return *code;
        }
        if self.is_not_found() {
            return NO_INPUT;
        }
        match self {
            CliError::Config(_) | CliError::Stream(_) | CliError::Agent(AgentError::Stream(_)) => CONFIG,
            CliError::Exchange(ExchangeError::Url { .. })
            | CliError::Agent(AgentError::Exchange(ExchangeError::Url { .. })) => CONFIG,
            CliError::Data(DataError::Unknown { .. })
            | CliError::Agent(AgentError::Data(DataError::Unknown { .. })) => NO_INPUT,
            CliError::Model(_)
            | CliError::Graph(_)
            | CliError::Read(_)
            | CliError::Data(_)
            | CliError::Eval(_) => DATA,
            CliError::Agent(AgentError::Model(_) | AgentError::Data(_) | AgentError::Mismatch { .. }) => DATA,
            CliError::Runtime(e) | CliError::Agent(AgentError::Runtime(e)) => match e {
                RuntimeError::LibraryNotFound { .. }
                | RuntimeError::LoadLibrary { .. }
                | RuntimeError::Provider { .. } => UNAVAILABLE,
                _ => 1,
            },
            CliError::Exchange(_) | CliError::Agent(AgentError::Exchange(_)) => UNAVAILABLE,
            CliError::Checkpoint(e) | CliError::Agent(AgentError::Checkpoint(e)) => match e {
                CheckpointError::Mismatch { .. } | CheckpointError::Version { .. } => CONFIG,
                _ => IO,
            },
            CliError::Io { .. } | CliError::Write(_) | CliError::Agent(AgentError::Write(_)) => IO,
            _ => 1,
        }
    }

    /// Whether somewhere below this error is a file that is not there.
    fn is_not_found(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return io.kind() == std::io::ErrorKind::NotFound;
            }
            cause = error.source();
        }
        false
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("DKT_LOG")
                .unwrap_or_else(|_| EnvFilter::new("warn,rumqttd=off,rumqttc=off")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let result = match arguments.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Testbed(arguments) => testbed::run(arguments),
        Command::Broker(arguments) => broker::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Model(command) => model::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dkt: {}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// The error and its causes, outermost first, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(error.to_string().trim_end());
        cause = error.source();
    }
    // A TOML error draws the place that it names.
    let is_drawing =
        |line: &&str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    text.lines().filter(|line| !is_drawing(line)).map(str::trim).collect::<Vec<_>>().join(", ")
}

fn io_error<'a>(action: &'static str, path: &'a std::path::Path) -> impl Fn(std::io::Error) -> CliError + 'a {
    move |source| CliError::Io { action, path: path.to_owned(), source }
}
