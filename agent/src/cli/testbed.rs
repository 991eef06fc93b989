//! `dkt testbed`: every agent of a lab as a process of its own, once with the exchange and, if asked, once
//! without.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::children::{Host, Planned, Stop, run_arm, start_broker};
use super::log::Log;
use super::run::{TENSORBOARD_DIR, TensorBoardArguments};
use super::{CliError, io_error, print};
use crate::config::lab::LabConfig;
use crate::config::{AgentConfig, ConfigError};
use crate::durable;
use crate::membership::{Change, Membership};
use crate::report::record::LabRecord;
use crate::telemetry::progress::Style;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The lab's configuration
    #[arg(value_name = "LAB.toml")]
    lab: PathBuf,
    /// Folder for everything the lab writes; what an earlier lab left there is replaced, except with --resume
    #[arg(long, default_value = "runs/lab", value_name = "FOLDER")]
    out: PathBuf,
    /// Go on with the lab in the folder, each agent from its newest checkpoint
    #[arg(long)]
    resume: bool,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t = Style::Auto)]
    progress: Style,
    #[command(flatten)]
    tensorboard: TensorBoardArguments,
}

pub(super) fn run(arguments: Arguments, log: &Log) -> Result<(), CliError> {
    let started = Instant::now();
    let lab = LabConfig::read(&arguments.lab)?;
    let stop = Stop::listen().map_err(io_error("listen for", Path::new("signals")))?;
    let broker = start_broker(&lab.broker)?;
    // Everything that can be refused is, before the results of an earlier lab are gone.
    let arms = plan(&lab, &broker.url, &arguments)?;
    if !arguments.resume {
        clear(&arguments.out)?;
    } else if !arguments.out.join(MARKER).exists() {
        return Err(CliError::NoLab { path: arguments.out });
    }
    let host = Host { log, stop: &stop, started };
    let style = log.style(arguments.progress);
    let mut record = LabRecord { title: lab.title.clone(), arms: Vec::new() };
    for (name, agents) in &arms {
        let members = agents.iter().map(|agent| agent.name.clone()).zip(lab.members.iter().copied());
        let history = arguments.out.join(name.replace(' ', "-") + HISTORY_SUFFIX);
        let membership = Membership::new(members, &read_history(&history)?);
        let keep = |changes: &[Change]| write_history(&history, changes);
        record.arms.push(run_arm(name, agents, membership, style, &host, keep)?);
        if stop.is_set() {
            break;
        }
    }
    crate::report::metrics_csv::write(&record, &arguments.out.join("metrics.csv"))?;
    crate::report::metrics_json::write(&record, &arguments.out.join("metrics.json"))?;
    crate::report::html::write(&record, &arguments.out.join("report.html"))?;
    let mut text = format!("{}\n", crate::report::table::render(&record));
    if stop.is_set() {
        text += &format!(
            "Stopped: the agents are shown as far as they came. `dkt testbed {} --out {}{}{}{} --resume` goes on from \
             there.\n",
            arguments.lab.display(),
            arguments.out.display(),
            arguments.progress.as_given(),
            arguments.tensorboard.as_given(),
            log.as_given()
        );
    }
    text += &format!("Written to {}:\n  report.html, metrics.csv, metrics.json\n", arguments.out.display());
    for agent in &lab.agents {
        text += &format!("  {}/model.onnx\n", agent.agent);
    }
    print(&text)
}

/// End of the names of the files that say who has joined and left in each arm, for a lab that goes on.
const HISTORY_SUFFIX: &str = "-membership.json";

fn read_history(path: &Path) -> Result<Vec<Change>, CliError> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes.map_err(io_error("read", path))?,
    };
    serde_json::from_slice(&bytes).map_err(|e| io_error("read", path)(e.into()))
}

fn write_history(path: &Path, changes: &[Change]) -> Result<(), CliError> {
    let text = serde_json::to_vec(changes).map_err(|e| io_error("write", path)(e.into()))?;
    Ok(durable::write(path, &text)?)
}

/// Folder of the control's agents, beside those of the agents that exchange.
const CONTROL_DIR: &str = "exchange-off";

/// The agents of every arm of the lab, checked with the settings that the testbed makes.
fn plan(
    lab: &LabConfig,
    broker: &str,
    arguments: &Arguments,
) -> Result<Vec<(&'static str, Vec<Planned>)>, CliError> {
    let is_taken = |agent: &&AgentConfig| [CONTROL_DIR, TENSORBOARD_DIR].contains(&agent.agent.as_str());
    if let Some(agent) = lab.agents.iter().find(is_taken) {
        return Err(CliError::Config(ConfigError::Value {
            path: arguments.lab.clone(),
            key: "agents.agent",
            expected: "another name, as the testbed keeps the folder of that name for itself",
            found: format!("`{}`", agent.agent),
        }));
    }
    let arm = |name: &'static str, exchange, dir: &Path| {
        let plan = |agent| plan_agent(agent, (name, exchange), broker, dir, arguments);
        let agents = lab.agents.iter().map(plan).collect::<Result<Vec<Planned>, CliError>>();
        agents.map(|agents| (name, agents))
    };
    let mut arms = vec![arm("exchange on", true, &arguments.out)?];
    if lab.control {
        arms.push(arm("exchange off", false, &arguments.out.join(CONTROL_DIR))?);
    }
    Ok(arms)
}

fn plan_agent(
    agent: &AgentConfig,
    (arm, exchange): (&str, bool),
    broker: &str,
    dir: &Path,
    Arguments { lab, tensorboard, out: lab_dir, .. }: &Arguments,
) -> Result<Planned, CliError> {
    let mut config = agent.clone();
    let out = dir.join(config.agent.as_str());
    config.out = Some(out.clone());
    // One that never exchanges does not in any arm.
    config.exchange.enabled &= exchange;
    broker.clone_into(&mut config.exchange.broker);
    config.validate(lab)?;
    let toml = toml::to_string(&config)
        .map_err(|e| ConfigError::Read { path: lab.to_owned(), source: std::io::Error::other(e) })?;
    // TensorBoard names a run by its path, and shows those of a folder side by side.
    let tensorboard = tensorboard.folder(config.report.tensorboard, lab_dir);
    let tensorboard = tensorboard.map(|root| root.join(arm.replace(' ', "-")).join(config.agent.as_str()));
    Ok(Planned { name: config.agent.to_string(), out, tensorboard, toml })
}

/// Name of the file that marks a folder as a lab's own, so that nobody else's is ever emptied.
pub(super) const MARKER: &str = ".dkt-testbed";

/// Empties the folder of an earlier lab.
fn clear(out: &Path) -> Result<(), CliError> {
    let occupied = out.exists() && fs::read_dir(out).map_err(io_error("list", out))?.next().is_some();
    if occupied && !out.join(MARKER).exists() {
        let source = std::io::Error::other("it is not empty and no earlier testbed's; choose another --out");
        return Err(io_error("write to", out)(source));
    }
    if occupied {
        fs::remove_dir_all(out).map_err(io_error("empty", out))?;
    }
    fs::create_dir_all(out).map_err(io_error("create", out))?;
    fs::write(out.join(MARKER), "").map_err(io_error("write to", out))
}
