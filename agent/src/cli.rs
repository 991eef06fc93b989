//! The command line: arguments in, exit codes and one clear message out.

mod analyse;
mod broker;
mod children;
mod data;
mod eval;
mod experiment;
mod keys;
mod log;
mod model;
mod run;
mod testbed;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::agent::AgentError;
use crate::analysis::AnalysisError;
use crate::config::ConfigError;
use crate::data::DataError;
use crate::durable::WriteError;
use crate::eval::EvalError;
use crate::exchange::ExchangeError;
use crate::exchange::signing::SigningError;
use crate::experiment::folder::FolderError;
use crate::experiment::plan::PlanError;
use crate::experiment::result::ResultError;
use crate::experiment::teacher::TeacherError;
use crate::keys::KeysError;
use crate::stream::StreamError;
use crate::train::checkpoint::CheckpointError;
use crate::train::runtime::RuntimeError;

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 unexpected failure; 2 wrong command line; 65 model or data refused; \
66 file not found; 69 broker, runtime or device not available; 74 cannot read or write; \
78 wrong configuration, or training that diverged with it; \
130 ended at once by a second Ctrl-C.

Set DKT_LOG (for example DKT_LOG=dkt_agent=debug) for a log on standard error, of more than warnings.";

/// Agents that learn from their own streams of experiences and teach each other by soft targets.
#[derive(Parser)]
#[command(name = "dkt", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: log::Log,
}

#[derive(Subcommand)]
enum Command {
    /// Run one agent of a fleet
    Run(run::Arguments),
    /// Run a whole lab of agents on this machine and report on it
    Testbed(testbed::Arguments),
    /// Run a study: several seeds, treatment and control, one report
    Experiment(experiment::Arguments),
    /// Run an MQTT broker for trying things out (no security; loopback by default)
    Broker(broker::Arguments),
    /// Make and keep the certificates and keys of a lab
    #[command(subcommand)]
    Keys(keys::Command),
    /// Evaluate a dual-head ONNX model on test data, without ONNX Runtime
    Eval(eval::Arguments),
    /// Inspect data sets
    #[command(subcommand)]
    Data(data::Command),
    /// Compare the layers of networks, or draw their features
    #[command(subcommand)]
    Analyse(analyse::Command),
    /// List, build, inspect and prepare networks
    #[command(subcommand)]
    Model(model::Command),
}

/// Exit code: data or model refused.
const DATA: u8 = 65;
/// Exit code: wrong configuration, or training that diverged.
const CONFIG: u8 = 78;

/// Why a command ended without doing what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Agent(AgentError),
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
    Analysis(AnalysisError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    RunResult(#[from] ResultError),
    #[error(transparent)]
    Teacher(#[from] TeacherError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error("cannot {action} `{}`", .path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("`{}` would be overwritten by what is made of it; choose another output", .path.display())]
    SameFile { path: PathBuf },
    #[error("{option} needs {needs}")]
    OptionNeeds { option: &'static str, needs: &'static str },
    #[error("{0}; models/onnx-grad/OPS.md lists the operators that can be trained through")]
    Operators(onnx_grad::GradError),
    #[error("`{data}`: {n_damaged} damaged files; the list is on standard output")]
    DamagedFiles { data: String, n_damaged: usize },
    #[error("the derived gradient disagrees with differences of the loss: {names}")]
    Gradients { names: String },
    #[error("cannot write the state `{}`", .path.display())]
    State { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("there is no lab to go on with in `{}`; leave out --resume to start one", .path.display())]
    NoLab { path: PathBuf },
    #[error("agent `{agent}` ended with exit code {code}; its messages are in `{}`", .log.display())]
    Child { agent: String, code: u8, log: PathBuf },
    #[cfg(not(feature = "broker"))]
    #[error("this build has no embedded broker; build with `--features broker`, or name a broker's URL")]
    NoBroker,
}

impl CliError {
    fn exit_code(&self) -> u8 {
        const USAGE: u8 = 2;
        const NO_INPUT: u8 = 66;
        const UNAVAILABLE: u8 = 69;
        const IO: u8 = 74;
        if let CliError::Child { code, .. } = self {
            return *code;
        }
        match self.unread_file() {
            Some(io::ErrorKind::NotFound) => return NO_INPUT,
            Some(_) => return IO,
            None => {}
        }
        match self {
            CliError::SameFile { .. }
            | CliError::OptionNeeds { .. }
            | CliError::Analysis(AnalysisError::Pairs { .. } | AnalysisError::Perplexity { .. }) => USAGE,
            CliError::Plan(PlanError::Scale(_) | PlanError::Override(_) | PlanError::Seed { .. }) => USAGE,
            CliError::Config(_) | CliError::Stream(_) | CliError::Plan(_) => CONFIG,
            CliError::Folder(e) => match e {
                FolderError::Io { .. } | FolderError::Write(_) => IO,
                FolderError::InUse { .. } => UNAVAILABLE,
                _ => CONFIG,
            },
            CliError::RunResult(ResultError::Read { .. }) => IO,
            CliError::RunResult(_) => DATA,
            CliError::Teacher(TeacherError::None { .. }) => NO_INPUT,
            CliError::Teacher(_) => CONFIG,
            CliError::Keys(e) => match e {
                KeysError::Io { .. } | KeysError::Write(_) => IO,
                KeysError::Known { .. }
                | KeysError::Unknown { .. }
                | KeysError::Address { .. }
                | KeysError::Occupied { .. } => USAGE,
                KeysError::NoKeys { .. } => NO_INPUT,
                KeysError::InUse { .. } => UNAVAILABLE,
                KeysError::Register { .. }
                | KeysError::Version { .. }
                | KeysError::Leftover { .. }
                | KeysError::TooLong { .. }
                | KeysError::Pem { .. } => DATA,
                KeysError::AuthorityEnded { .. } => CONFIG,
                KeysError::Random | KeysError::Make(_) => 1,
            },
            CliError::Data(DataError::Unknown { .. }) | CliError::NoLab { .. } => NO_INPUT,
            CliError::Model(_)
            | CliError::Graph(_)
            | CliError::Operators(_)
            | CliError::Read(_)
            | CliError::Data(_)
            | CliError::DamagedFiles { .. }
            | CliError::Eval(_)
            | CliError::Analysis(_) => DATA,
            CliError::Runtime(e) => match e {
                RuntimeError::LibraryNotFound { .. }
                | RuntimeError::LoadLibrary { .. }
                | RuntimeError::Provider { .. } => UNAVAILABLE,
                // Training that diverged does so again.
                RuntimeError::NotFinite { .. } | RuntimeError::StateNotFinite { .. } => CONFIG,
                _ => 1,
            },
            CliError::Exchange(e) => match e {
                ExchangeError::BrokerUnreachable { .. }
                | ExchangeError::BrokerRejected { .. }
                | ExchangeError::Thread(_)
                | ExchangeError::Listen { .. } => UNAVAILABLE,
                ExchangeError::Signing(SigningError::Write(_)) => IO,
                _ => CONFIG,
            },
            CliError::Checkpoint(e) => match e {
                CheckpointError::Mismatch { .. } | CheckpointError::Version { .. } => CONFIG,
                CheckpointError::InUse { .. } => UNAVAILABLE,
                _ => IO,
            },
            CliError::Agent(
                AgentError::Mismatch { .. } | AgentError::Teacher { .. } | AgentError::ProxyShape { .. },
            ) => DATA,
            CliError::Agent(
                AgentError::Setting { .. } | AgentError::CropPadding { .. } | AgentError::Teachers { .. },
            ) => CONFIG,
            CliError::Io { .. } | CliError::Write(_) => IO,
            _ => 1,
        }
    }

    /// Why a file to be read could not be, if that is what this error is about.
    fn unread_file(&self) -> Option<io::ErrorKind> {
        let is_about_input = match self {
            CliError::Exchange(e) => matches!(
                e,
                ExchangeError::Certificate { .. }
                    | ExchangeError::Signing(SigningError::Read { .. } | SigningError::Signers { .. })
            ),
            CliError::Config(_)
            | CliError::Model(_)
            | CliError::Read(_)
            | CliError::Data(_)
            | CliError::Teacher(_)
            | CliError::Eval(_) => true,
            // What a command writes, and what an agent keeps for itself, is no input.
            _ => false,
        };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = is_about_input.then_some(self as _);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return Some(error.kind());
            }
            cause = error.source();
        }
        None
    }
}

/// An agent's errors are those of its parts.
impl From<AgentError> for CliError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Model(e) => CliError::Model(e),
            AgentError::Data(e) => CliError::Data(e),
            AgentError::Stream(e) => CliError::Stream(e),
            AgentError::Runtime(e) => CliError::Runtime(e),
            AgentError::Exchange(e) => CliError::Exchange(e),
            AgentError::Checkpoint(e) => CliError::Checkpoint(e),
            AgentError::Write(e) => CliError::Write(e),
            AgentError::Setting { .. }
            | AgentError::Mismatch { .. }
            | AgentError::CropPadding { .. }
            | AgentError::Teachers { .. }
            | AgentError::Teacher { .. }
            | AgentError::ProxyShape { .. } => CliError::Agent(error),
        }
    }
}

/// An analysis's errors are those of its parts, and its own about models and data.
impl From<AnalysisError> for CliError {
    fn from(error: AnalysisError) -> Self {
        match error {
            AnalysisError::Model(e) => CliError::Model(e),
            AnalysisError::Read(e) => CliError::Read(e),
            AnalysisError::Data(e) => CliError::Data(e),
            AnalysisError::Runtime(e) => CliError::Runtime(e),
            AnalysisError::Samples { .. }
            | AnalysisError::Images { .. }
            | AnalysisError::ClassNames { .. }
            | AnalysisError::NotFinite { .. }
            | AnalysisError::Rows { .. }
            | AnalysisError::Pairs { .. }
            | AnalysisError::Perplexity { .. }
            | AnalysisError::Stopped => CliError::Analysis(error),
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let Arguments { command, log } = Arguments::parse();
    let result = log.start().and_then(|()| match command {
        Command::Run(arguments) => run::run(arguments, &log),
        Command::Testbed(arguments) => testbed::run(arguments, &log),
        Command::Experiment(arguments) => experiment::run(arguments, &log),
        Command::Broker(arguments) => broker::run(arguments),
        Command::Keys(command) => keys::run(command),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Data(command) => data::run(command),
        Command::Analyse(command) => analyse::run(command),
        Command::Model(command) => model::run(command),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.tell_end(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// The error and its causes, outermost first, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        // Some errors of others say their cause themselves.
        if !text.ends_with(reason.trim_end()) {
            text.push_str(": ");
            text.push_str(reason.trim_end());
        }
        cause = error.source();
    }
    // A TOML error draws the place that it names.
    let is_drawing =
        |line: &&str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    text.lines().filter(|line| !is_drawing(line)).map(str::trim).collect::<Vec<_>>().join(", ")
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> CliError + 'a {
    move |source| CliError::Io { action, path: path.to_owned(), source }
}

/// What `--json` prints.
fn to_json(value: &impl serde::Serialize) -> Result<String, CliError> {
    let json = serde_json::to_string_pretty(value);
    json.map(|json| json + "\n").map_err(|e| io_error("write", Path::new("standard output"))(e.into()))
}

/// Writes to standard output. That its reader has seen enough and gone is no error.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(io_error("write to", Path::new("standard output"))(e))
        }
        _ => Ok(()),
    }
}
