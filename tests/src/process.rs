//! `dkt` as a child process: run to its end, or watched event by event.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use dkt_agent::telemetry::event::{Evaluated, Event, Finished, Record, Started, Traffic, TrafficOfKind};
use rustix::process::{Pid, Signal, kill_process};

use crate::deadline::Deadline;

/// What a child writes to one of its streams, line by line, as it comes. All of it is kept.
pub struct Lines {
    coming: Receiver<String>,
    all: Arc<Mutex<String>>,
}

impl Lines {
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, coming) = channel();
        let all = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&all);
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_str(&line);
                kept.push('\n');
                // Whoever watched may have seen enough.
                let _ = sender.send(line);
            }
        });
        Lines { coming, all }
    }

    /// The next line; `None` at the stream's end, and an error when the time is over.
    pub fn next(&self, deadline: Deadline) -> Result<Option<String>, RecvTimeoutError> {
        match self.coming.recv_timeout(deadline.left()) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(timeout) => Err(timeout),
        }
    }

    /// Reads on until the stream ends. False when the time is over before.
    pub fn drain(&self, deadline: Deadline) -> bool {
        loop {
            match self.next(deadline) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Everything until now.
    pub fn text(&self) -> String {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A child with both its streams read, ended when this is dropped.
pub struct Process {
    child: Child,
    pub stdout: Lines,
    pub stderr: Lines,
}

impl Process {
    /// # Panics
    /// If the program cannot be started.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let stdout = Lines::of(child.stdout.take().expect("standard output is piped"));
        let stderr = Lines::of(child.stderr.take().expect("standard error is piped"));
        Process { child, stdout, stderr }
    }

    /// The system's number of it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("the process is there");
    }

    /// Asks it to read its files again, which is what a service makes of a closed terminal.
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("the process is there");
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("the process is there");
    }

    /// Ends it without giving it a chance to do anything.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process is there");
    }

    /// Waits until it has closed both its streams, then for its end.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Deadline::default();
        let ended = self.stdout.drain(deadline) && self.stderr.drain(deadline);
        assert!(ended, "waited for the end of process {}", self.child.id());
        self.child.wait().expect("the process is ours")
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the process is ours").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- standard error of process {}:\n{}", self.child.id(), self.stderr.text());
        }
    }
}

/// What a program that has ended left behind.
#[derive(Debug)]
pub struct Output {
    /// `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end.
///
/// # Panics
/// If it does not end in time.
pub fn run(command: Command) -> Output {
    let mut process = Process::start(command);
    let code = process.wait().code();
    Output { code, stdout: process.stdout.text(), stderr: process.stderr.text() }
}

/// `dkt run --progress json` of one agent.
pub struct Agent {
    name: String,
    process: Process,
    spawned: Instant,
    events: Vec<Event>,
    /// When each happened, in seconds since the agent's start.
    times: Vec<f64>,
}

impl Agent {
    /// Starts `command`, which prints events.
    pub fn start(name: &str, command: Command) -> Self {
        let spawned = Instant::now();
        let process = Process::start(command);
        Agent { name: name.to_owned(), process, spawned, events: Vec::new(), times: Vec::new() }
    }

    /// Waits for an event out of which `pick` makes something; those before it are passed over.
    ///
    /// # Panics
    /// If it does not come, saying what did.
    pub fn wait_for<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        self.wait_for_record(what, |record| pick(&record.event))
    }

    /// As [`Agent::wait_for`], for events that happen from now on and not those on the way here.
    pub fn wait_from_now<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        // The agent's own clock starts after its process does.
        let now = self.spawned.elapsed().as_secs_f64();
        self.wait_for_record(what, |record| if record.t_s < now { None } else { pick(&record.event) })
    }

    fn wait_for_record<T>(&mut self, what: &str, mut pick: impl FnMut(&Record) -> Option<T>) -> T {
        let deadline = Deadline::default();
        loop {
            let Some(record) = self.next(what, deadline) else {
                panic!("{}: waited for {what}, and it ended; {}", self.name, self.account());
            };
            let picked = pick(&record);
            self.keep(record);
            if let Some(picked) = picked {
                return picked;
            }
        }
    }

    fn next(&mut self, what: &str, deadline: Deadline) -> Option<Record> {
        let line = self.process.stdout.next(deadline);
        let Ok(line) = line else { panic!("{}: waited for {what} in vain; {}", self.name, self.account()) };
        let line = line?;
        let record = serde_json::from_str(&line);
        Some(record.unwrap_or_else(|e| panic!("{}: expected an event, found `{line}` ({e})", self.name)))
    }

    /// The last events that came.
    fn account(&self) -> String {
        let last: Vec<&Event> = self.events.iter().rev().take(5).rev().collect();
        format!("{} events came, the last: {last:?}", self.events.len())
    }

    /// Waits for the start of training.
    pub fn started(&mut self) -> Started {
        self.wait_for("the start", |event| match event {
            Event::Started(started) => Some(started.clone()),
            _ => None,
        })
    }

    /// Waits until its log holds `text`.
    ///
    /// # Panics
    /// If that does not come.
    pub fn said(&self, text: &str) {
        let deadline = Deadline::default();
        while !self.process.stderr.text().contains(text) {
            let line = self.process.stderr.next(deadline);
            assert!(matches!(line, Ok(Some(_))), "{}: waited for `{text}`; {}", self.name, self.account());
        }
    }

    /// Waits for a checkpoint of at least `step` steps.
    pub fn checkpointed(&mut self, step: u64) -> u64 {
        self.wait_for("a checkpoint", |event| match event {
            Event::Checkpointed { step: saved, .. } if *saved >= step => Some(*saved),
            _ => None,
        })
    }

    pub fn terminate(&self) {
        self.process.terminate();
    }

    pub fn interrupt(&self) {
        self.process.interrupt();
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it does not come.
    pub fn end(mut self) -> Ended {
        let deadline = Deadline::default();
        while let Some(record) = self.next("the end", deadline) {
            self.keep(record);
        }
        let code = self.process.wait().code();
        let Agent { name, events, times, .. } = self;
        Ended { name, code, events, times, stderr: self.process.stderr.text() }
    }

    fn keep(&mut self, record: Record) {
        self.events.push(record.event);
        self.times.push(record.t_s);
    }
}

/// An agent that has ended, and everything it said.
#[derive(Debug)]
pub struct Ended {
    pub name: String,
    pub code: Option<i32>,
    pub events: Vec<Event>,
    times: Vec<f64>,
    pub stderr: String,
}

impl Ended {
    /// What it said last, having trained its whole stream.
    ///
    /// # Panics
    /// If it has not.
    pub fn finished(&self) -> &Finished {
        assert_eq!(self.code, Some(0), "{}: {}", self.name, self.stderr);
        let finished = self.events.iter().find_map(|event| match event {
            Event::Finished(finished) => Some(finished),
            _ => None,
        });
        finished.unwrap_or_else(|| panic!("{} did not finish: {}", self.name, self.stderr))
    }

    pub fn started(&self) -> &Started {
        let started = self.events.iter().find_map(|event| match event {
            Event::Started(started) => Some(started),
            _ => None,
        });
        started.unwrap_or_else(|| panic!("{} did not start: {}", self.name, self.stderr))
    }

    /// Share of rows that had a teacher, epoch by epoch.
    pub fn teacher_shares(&self) -> Vec<f32> {
        let share = |event: &Event| match event {
            Event::Epoch(epoch) => Some(epoch.teacher_share),
            _ => None,
        };
        self.events.iter().filter_map(share).collect()
    }

    pub fn evaluated(&self) -> Vec<&Evaluated> {
        let mut all = Vec::new();
        for event in &self.events {
            if let Event::Evaluated(evaluated) = event {
                all.push(evaluated);
            }
        }
        all
    }

    /// Seconds between its last account of the exchange and its end: how long it took to say goodbye.
    ///
    /// # Panics
    /// If it has not finished, or exchanged nothing.
    pub fn goodbye_s(&self) -> f64 {
        let last =
            |is: fn(&Event) -> bool| self.times[self.events.iter().rposition(is).expect("it finished")];
        last(|event| matches!(event, Event::Finished(_))) - last(|event| matches!(event, Event::Traffic(_)))
    }

    /// What it has sent and received of one kind of message in the end.
    pub fn traffic(&self, kind: &str) -> &TrafficOfKind {
        of_kind(self.last_traffic(), kind)
    }

    /// Messages that were refused for that reason.
    ///
    /// # Panics
    /// If the agent had no connection.
    pub fn refused(&self, reason: &str) -> u64 {
        let refused = &self.last_traffic().refused;
        refused.iter().find(|of_reason| of_reason.reason == reason).map_or(0, |of_reason| of_reason.messages)
    }

    fn last_traffic(&self) -> &Traffic {
        let last = self.events.iter().rev().find_map(|event| match event {
            Event::Traffic(traffic) => Some(traffic),
            _ => None,
        });
        last.unwrap_or_else(|| panic!("{} exchanged nothing", self.name))
    }
}

/// Totals of one kind of message.
pub fn of_kind<'a>(traffic: &'a Traffic, kind: &str) -> &'a TrafficOfKind {
    traffic.kinds.iter().find(|k| k.kind == kind).unwrap_or_else(|| panic!("no kind `{kind}` in {traffic:?}"))
}
