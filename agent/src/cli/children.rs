//! Agents as child processes: those of one arm are started when their time comes, watched, stopped, and waited for.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::log::{Format, Log, tell};
use super::{CliError, io_error};
use crate::config::lab::EMBEDDED;
use crate::membership::{self, Action, Change, Membership, Moment};
use crate::report::metrics_json;
use crate::report::record::{Arm, RunRecord};
use crate::telemetry::event::{Event, Record};
use crate::telemetry::progress::{Progress, Style};

/// Lines from agents that wait to be shown. When the queue is full, the agents' pipes fill, and then the agents
/// wait a second at most and drop lines (`telemetry::progress`): training does not stop, and what came of it is in the
/// agents' own files. Who joins or leaves after an experience whose line was dropped does so after the next. The loop
/// that drains the queue waits for a terminal that shows bars, for an agent that is ending, and a second at most for
/// the reader of its own lines.
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
    agents: Vec<Watched>,
}

struct Watched {
    pid: Pid,
    /// Told already, by itself. On a second signal an agent ends without saving.
    is_asked: bool,
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
        let is_first = !std::mem::replace(&mut state.set, true);
        state.agents.iter().filter(|agent| !(is_first && agent.is_asked)).for_each(|agent| signal(agent.pid));
    }

    pub fn is_set(&self) -> bool {
        self.state().set
    }

    /// From now on signals go to this agent, too.
    fn watch(&self, agent: &Child) {
        let mut state = self.state();
        let Some(pid) = Pid::from_raw(agent.id() as i32) else { return };
        state.agents.push(Watched { pid, is_asked: false });
        if state.set {
            signal(pid);
        }
    }

    /// Asks this agent alone to save and end, unless all are.
    fn ask(&self, agent: &Child) {
        let mut state = self.state();
        let is_set = state.set;
        let pid = Pid::from_raw(agent.id() as i32);
        if let Some(watched) = state.agents.iter_mut().find(|a| Some(a.pid) == pid && !is_set) {
            watched.is_asked = true;
            signal(watched.pid);
        }
    }

    /// The agent is about to be waited for: after that its number may be another process's.
    fn forget(&self, agent: &Child) {
        let agent = Pid::from_raw(agent.id() as i32);
        self.state().agents.retain(|a| Some(a.pid) != agent);
    }
}

fn signal(agent: Pid) {
    // One that has ended by itself needs no signal.
    let _ = kill_process(agent, Signal::TERM);
}

/// Agents by their places, those that are running; those left when this is dropped are ended.
struct Children(Vec<Option<Running>>);

struct Running {
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
        for agent in self.0.iter_mut().flatten() {
            // One that has ended by itself cannot be killed, and need not be.
            let _ = agent.child.kill();
            let _ = agent.child.wait();
        }
    }
}

/// What agents run under.
pub(super) struct Host<'a> {
    pub log: &'a Log,
    pub stop: &'a Stop,
    /// From when on the times are that are shown.
    pub started: Instant,
}

/// Runs agents to their ends, all from the start, with progress as `show` makes it from their names.
pub(super) fn run_agents(
    name: &str,
    agents: &[Planned],
    show: impl FnOnce(&[String]) -> Progress,
    host: &Host<'_>,
) -> Result<Arm, CliError> {
    let names: Vec<String> = agents.iter().map(|a| a.name.clone()).collect();
    let membership = Membership::of_all(&names);
    host.log.tell(&format!("{name}: {}\n", names.join(", ")));
    ArmRun::new(agents, membership, show(&names), host).run(name, |_| Ok(()))
}

/// As [`run_agents`], where agents are there as `membership` says. `keep` has its history whenever that grows.
pub(super) fn run_arm(
    name: &str,
    agents: &[Planned],
    membership: Membership,
    style: Style,
    host: &Host<'_>,
    keep: impl FnMut(&[Change]) -> Result<(), CliError>,
) -> Result<Arm, CliError> {
    let names: Vec<String> = agents.iter().map(|a| a.name.clone()).collect();
    host.log.tell(&format!("{name}: {}\n", names.join(", ")));
    ArmRun::new(agents, membership, Progress::new(style, &names), host).run(name, keep)
}

/// The agents of an arm while they run.
struct ArmRun<'a> {
    agents: &'a [Planned],
    membership: Membership,
    progress: Progress,
    host: &'a Host<'a>,
    children: Children,
    runs: Vec<RunRecord>,
    /// When each agent's process was started, in seconds on the host's clock.
    began_s: Vec<f64>,
    lines: mpsc::SyncSender<(usize, Output)>,
    received: mpsc::Receiver<(usize, Output)>,
}

impl<'a> ArmRun<'a> {
    fn new(agents: &'a [Planned], membership: Membership, progress: Progress, host: &'a Host<'a>) -> Self {
        let (lines, received) = mpsc::sync_channel(QUEUE_LINES);
        ArmRun {
            agents,
            membership,
            progress,
            host,
            children: Children(agents.iter().map(|_| None).collect()),
            runs: vec![RunRecord::default(); agents.len()],
            began_s: vec![0.0; agents.len()],
            lines,
            received,
        }
    }

    fn run(
        mut self,
        name: &str,
        mut keep: impl FnMut(&[Change]) -> Result<(), CliError>,
    ) -> Result<Arm, CliError> {
        let mut actions = self.membership.start();
        for i in 0..self.agents.len() {
            if let Some(moment) = self.membership.waits_for(i) {
                self.say(i, Event::Waiting { message: format!("joins after {moment}") });
            }
        }
        loop {
            let is_news = actions.iter().any(|action| matches!(action, Action::Tell(..)));
            for action in actions {
                self.act(action)?;
            }
            if is_news {
                keep(self.membership.history())?;
            }
            if self.membership.is_over() {
                break;
            }
            // Never without an answer: every agent that is there tells its end.
            let Ok((index, output)) = self.received.recv() else { break };
            actions = match output {
                Output::Record(record) => self.on_record(index, *record),
                Output::End => self.on_end(index)?,
            };
        }
        self.progress.finish();
        let membership = self.membership.history().to_vec();
        Ok(Arm { name: name.to_owned(), agents: std::mem::take(&mut self.runs), membership })
    }

    fn on_record(&mut self, agent: usize, mut record: Record) -> Vec<Action> {
        // How one agent goes on by itself: the lab says how all of it does.
        if matches!(record.event, Event::Stopped { .. }) {
            return Vec::new();
        }
        self.runs[agent].apply(&record);
        record.t_s += self.began_s[agent];
        self.progress.on(&self.agents[agent].name, &record);
        match &record.event {
            Event::Evaluated(evaluated) if !self.host.stop.is_set() => {
                let experience = evaluated.experience as usize + 1;
                self.membership.on(membership::Event::Trained(Moment { agent, experience }))
            }
            _ => Vec::new(),
        }
    }

    /// # Errors
    /// [`CliError::Child`] if it has failed.
    fn on_end(&mut self, agent: usize) -> Result<Vec<Action>, CliError> {
        let Some(mut running) = self.children.0[agent].take() else { return Ok(Vec::new()) };
        self.host.stop.forget(&running.child);
        let status = running.child.wait().map_err(io_error("wait for", &running.log))?;
        // One that is stopped before it listens for that has nothing to save.
        let is_stopped = self.host.stop.is_set() && status.signal() == Some(Signal::TERM.as_raw());
        if !status.success() && !is_stopped {
            self.progress.finish();
            tell(&running.said());
            let agent = self.agents[agent].name.clone();
            return Err(CliError::Child { agent, code: exit_code(status), log: running.log });
        }
        self.read_course(agent)?;
        if self.host.stop.is_set() {
            self.membership.on(membership::Event::Stopping);
        }
        let finished = self.runs[agent].finished.is_some();
        Ok(self.membership.on(membership::Event::Ended { agent, finished }))
    }

    /// The agent's own file has its whole course; of the lines that came from it, some may have been dropped.
    fn read_course(&mut self, agent: usize) -> Result<(), CliError> {
        let path = self.agents[agent].out.join("metrics.json");
        match metrics_json::read(&path, &mut self.runs[agent]) {
            // It was stopped before there was anything to write.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            read => read.map_err(io_error("read", &path)),
        }
    }

    fn act(&mut self, action: Action) -> Result<(), CliError> {
        match action {
            Action::Start(agent) => {
                self.began_s[agent] = self.host.started.elapsed().as_secs_f64();
                let running =
                    start(&self.agents[agent], self.host.log.log_format, agent, self.lines.clone())?;
                self.host.stop.watch(&running.child);
                self.children.0[agent] = Some(running);
            }
            Action::Stop(agent) => {
                if let Some(running) = &self.children.0[agent] {
                    self.host.stop.ask(&running.child);
                }
            }
            Action::Tell(agent, change) => match change.change {
                membership::Kind::Left => {
                    let comes_back = self.membership.waits_for(agent);
                    let comes_back = comes_back.map(|moment| format!("; comes back after {moment}"));
                    let message = format!("{change}{}", comes_back.unwrap_or_default());
                    self.say(agent, Event::Waiting { message });
                }
                membership::Kind::NeverJoined | membership::Kind::NeverRejoined => {
                    self.say(agent, Event::Warning { message: change.to_string() });
                }
                // Its start is told by itself.
                membership::Kind::Joined | membership::Kind::Rejoined => {}
            },
        }
        Ok(())
    }

    /// What is to be said of an agent that does not run.
    fn say(&mut self, agent: usize, event: Event) {
        let record = Record { t_s: self.host.started.elapsed().as_secs_f64(), event };
        self.progress.on(&self.agents[agent].name, &record);
    }
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
    let Planned { out, tensorboard, toml, .. } = agent;
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
    Ok(Running { child, log, log_starts_at })
}
