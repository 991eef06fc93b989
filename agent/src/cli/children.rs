//! Agents as child processes: those of one arm are started together, watched, stopped together, and waited for.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::log::Format;
use super::{CliError, io_error};
use crate::config::lab::EMBEDDED;
use crate::report::record::{Arm, RunRecord};
use crate::telemetry::event::{Event, Record};
use crate::telemetry::progress::{Progress, Style};

/// Lines from agents that wait to be shown. When the queue is full, the agents' pipes fill, and then the agents
/// wait a second at most and drop lines (`telemetry::progress`): training does not stop. The loop that drains the
/// queue waits for a terminal that shows bars, for an agent that is ending, and a second at most for the reader of
/// its own lines.
const QUEUE_LINES: usize = 1024;

/// An agent as it is going to run.
pub(super) struct Planned {
    pub name: String,
    pub out: PathBuf,
    /// Where its event files go, if any are wanted.
    pub tensorboard: Option<PathBuf>,
    /// Its own configuration, as it could also be run by hand.
    pub toml: String,
}

/// The broker of the lab, stopped when this is dropped.
pub(super) struct LabBroker {
    pub url: String,
    #[cfg(feature = "broker")]
    _embedded: Option<crate::exchange::broker::EmbeddedBroker>,
}

#[cfg(feature = "broker")]
pub(super) fn start_broker(broker: &str) -> Result<LabBroker, CliError> {
    if broker != EMBEDDED {
        return Ok(LabBroker { url: broker.to_owned(), _embedded: None });
    }
    let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let broker = crate::exchange::broker::EmbeddedBroker::start(any_port)?;
    Ok(LabBroker { url: format!("mqtt://{}", broker.addr()), _embedded: Some(broker) })
}

#[cfg(not(feature = "broker"))]
pub(super) fn start_broker(broker: &str) -> Result<LabBroker, CliError> {
    if broker == EMBEDDED {
        return Err(CliError::NoBroker);
    }
    Ok(LabBroker { url: broker.to_owned() })
}

/// Hands signals on to the agents as SIGTERM, on which they save and end. They are in process groups of their own,
/// so that a Ctrl-C reaches them by this way alone.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<Mutex<StopState>>);

#[derive(Default)]
struct StopState {
    set: bool,
    agents: Vec<Pid>,
}

impl Stop {
    pub fn listen() -> std::io::Result<Self> {
        let mut signals = super::run::Signals::listen()?;
        let stop = Stop::default();
        let listener = stop.clone();
        thread::spawn(move || {
            loop {
                signals.wait();
                listener.set();
            }
        });
        Ok(stop)
    }

    fn state(&self) -> MutexGuard<'_, StopState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self) {
        let mut state = self.state();
        state.set = true;
        state.agents.iter().for_each(|agent| signal(*agent));
    }

    pub fn is_set(&self) -> bool {
        self.state().set
    }

    /// From now on signals go to these agents.
    fn watch(&self, agents: &Children) {
        let mut state = self.state();
        state.agents = agents.0.iter().filter_map(|agent| Pid::from_raw(agent.child.id() as i32)).collect();
        if state.set {
            state.agents.iter().for_each(|agent| signal(*agent));
        }
    }

    /// The agent is about to be waited for: after that its number may be another process's.
    fn forget(&self, agent: &Child) {
        let agent = Pid::from_raw(agent.id() as i32);
        self.state().agents.retain(|a| Some(*a) != agent);
    }
}

fn signal(agent: Pid) {
    // One that has ended by itself needs no signal.
    let _ = kill_process(agent, Signal::TERM);
}

/// Agents that are running; those left when this is dropped are ended.
struct Children(Vec<Running>);

struct Running {
    name: String,
    child: Child,
    /// What it says on standard error, after what it said when it ran before.
    log: PathBuf,
    log_starts_at: u64,
}

impl Running {
    /// What it has said.
    fn said(&self) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.log_starts_at))?;
            file.take(MAX_SAID_BYTES).read_to_end(&mut text)
        });
        read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&text).into_owned())
    }
}

/// How much of an agent's log is shown where it ends the lab.
const MAX_SAID_BYTES: u64 = 1024 * 1024;

impl Drop for Children {
    fn drop(&mut self) {
        for agent in &mut self.0 {
            // One that has ended by itself cannot be killed, and need not be.
            let _ = agent.child.kill();
            let _ = agent.child.wait();
        }
    }
}

pub(super) fn run_arm(
    name: &str,
    agents: &[Planned],
    style: Style,
    log: Format,
    stop: &Stop,
) -> Result<Arm, CliError> {
    run_agents(name, agents, |names| Progress::new(style, names), log, stop)
}

/// As [`run_arm`], with progress as `show` makes it from the agents' names, once they have started.
pub(super) fn run_agents(
    name: &str,
    agents: &[Planned],
    show: impl FnOnce(&[String]) -> Progress,
    log: Format,
    stop: &Stop,
) -> Result<Arm, CliError> {
    let names: Vec<String> = agents.iter().map(|a| a.name.clone()).collect();
    let (lines, received) = mpsc::sync_channel(QUEUE_LINES);
    let mut children = Children(Vec::new());
    for (index, agent) in agents.iter().enumerate() {
        children.0.push(start(agent, log, index, lines.clone())?);
    }
    drop(lines);
    stop.watch(&children);
    tell(&format!("{name}: {}\n", names.join(", ")));
    let mut progress = show(&names);
    let mut runs = vec![RunRecord::default(); agents.len()];
    for (index, output) in received {
        match output {
            // How one agent goes on by itself: the lab says how all of it does.
            Output::Record(record) if matches!(record.event, Event::Stopped { .. }) => {}
            Output::Record(record) => {
                progress.on(&names[index], &record);
                runs[index].apply(&record);
            }
            Output::End => {
                let agent = &mut children.0[index];
                stop.forget(&agent.child);
                let status = agent.child.wait().map_err(io_error("wait for", &agent.log))?;
                if !status.success() {
                    progress.finish();
                    tell(&agent.said());
                    return Err(CliError::Child {
                        agent: agent.name.clone(),
                        code: exit_code(status),
                        log: agent.log.clone(),
                    });
                }
            }
        }
    }
    progress.finish();
    Ok(Arm { name: name.to_owned(), agents: runs })
}

/// Writes to standard error; where nobody reads that, the lab goes on.
pub(super) fn tell(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// The code as a shell tells it: 128 and its number for a signal.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// What comes from an agent.
enum Output {
    Record(Box<Record>),
    /// It has closed its output; its exit code says why.
    End,
}

/// Writes the agent's own configuration and starts it.
fn start(
    agent: &Planned,
    log_format: Format,
    index: usize,
    lines: mpsc::SyncSender<(usize, Output)>,
) -> Result<Running, CliError> {
    let Planned { name, out, tensorboard, toml } = agent;
    fs::create_dir_all(out).map_err(io_error("create", out))?;
    let path = out.join("agent.toml");
    fs::write(&path, toml).map_err(io_error("write", &path))?;
    let log = out.join("agent.log");
    let stderr = OpenOptions::new().append(true).create(true).open(&log);
    let stderr = stderr.map_err(io_error("create", &log))?;
    let log_starts_at = stderr.metadata().map_err(io_error("read", &log))?.len();
    let log_format = if log_format == Format::Json { "json" } else { "plain" };
    let tensorboard = tensorboard.iter().map(|folder| {
        let mut option = OsString::from("--tensorboard=");
        option.push(folder);
        option
    });
    let exe = std::env::current_exe().map_err(io_error("find", Path::new("dkt")))?;
    let mut child = Command::new(&exe)
        .arg("run")
        .arg(&path)
        .args(["--progress", "json", "--log-format", log_format])
        .args(tensorboard)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .map_err(io_error("start", &exe))?;
    let stdout = child.stdout.take().expect("invariant: standard output is piped");
    thread::spawn(move || {
        // Where nobody receives any more, the lab has ended: there is nothing left to do.
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Ok(record) = serde_json::from_str(&line)
                && lines.send((index, Output::Record(Box::new(record)))).is_err()
            {
                return;
            }
        }
        let _ = lines.send((index, Output::End));
    });
    Ok(Running { name: name.clone(), child, log, log_starts_at })
}
