//! An agent without a network: the exchange as in `dkt`, with logits out of nothing.

use std::error::Error;
use std::fs;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use dkt_agent::config::AgentConfig;
use dkt_agent::exchange::connection::{Connection, ConnectionConfig, Incoming};
use dkt_agent::exchange::engine::{Action, Engine, EngineConfig, Event, Limits};
use dkt_agent::ids::{AgentId, Digest};
use dkt_agent::telemetry::event::TrafficOfKind;
use rustix::time::{ClockId, clock_gettime};

/// Who it is and what its data is like.
pub struct Synthetic {
    pub name: String,
    pub n_samples: u32,
    pub n_classes: usize,
    /// Agents to learn from; empty for all.
    pub teachers: Vec<AgentId>,
}

pub struct Agent {
    pub engine: Engine,
    connection: Connection,
    started: Instant,
    n_classes: usize,
    /// Of the most rows labelled at once so far: made once, so that a benchmark does not measure their making.
    logits: Vec<f32>,
}

impl Agent {
    /// Connects to the broker on this port.
    ///
    /// # Errors
    /// If the name is none, or the broker does not answer.
    pub fn start(port: u16, synthetic: Synthetic) -> Result<Self, Box<dyn Error>> {
        let Synthetic { name, n_samples, n_classes, teachers } = synthetic;
        let mut config: AgentConfig = toml::from_str(&format!("agent = \"{name}\"\nfleet = \"synthetic\""))?;
        config.exchange.broker = format!("mqtt://127.0.0.1:{port}");
        let engine = Engine::new(EngineConfig {
            agent: config.agent.clone(),
            fleet: config.fleet.clone(),
            session: 1,
            data: Digest::of(b"rows"),
            n_samples,
            classes: (0..n_classes).map(|class| class.to_string()).collect(),
            model: Digest::of(b"model"),
            temperature: 2.0,
            teachers,
            chunk_bytes: config.exchange.chunk_bytes,
            encoding: config.exchange.encoding.encoding(),
            delta: config.exchange.delta,
            accepts: None,
            sends: None,
            inputs_in_flight: config.exchange.inputs_in_flight,
            limits: Limits::default(),
        });
        let connection = ConnectionConfig::new(&config)?;
        let connection = Connection::start(connection, engine.last_will(), &AtomicBool::new(false))?;
        Ok(Agent { engine, connection, started: Instant::now(), n_classes, logits: Vec::new() })
    }

    pub fn step(&mut self, event: Event) {
        for action in self.engine.step(event, self.started.elapsed()) {
            match action {
                Action::Subscribe(filters) => self.connection.subscribe(filters),
                Action::Publish { topic, message, retain } => self.connection.publish(topic, message, retain),
                Action::Warn(text) => eprintln!("{text}"),
            }
        }
    }

    /// Takes in what is there, after waiting for up to `longest` for the first message.
    pub fn pump(&mut self, longest: Duration) {
        let mut next = self.connection.recv_timeout(longest);
        while let Some(incoming) = next {
            self.step(match incoming {
                Incoming::Connected => Event::Connected,
                Incoming::Disconnected => Event::Disconnected,
                Incoming::Message { topic, message, .. } => Event::Received { topic, message: *message },
            });
            next = self.connection.try_recv();
        }
        self.step(Event::Tick);
    }

    /// Goes on until `done`.
    ///
    /// # Errors
    /// If that takes longer than `timeout`.
    pub fn pump_until(
        &mut self,
        timeout: Duration,
        done: impl Fn(&Engine) -> bool,
    ) -> Result<(), Box<dyn Error>> {
        let began = Instant::now();
        while !done(&self.engine) {
            if began.elapsed() > timeout {
                return Err("waited in vain for other agents".into());
            }
            self.pump(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Labels up to `max` rows that peers want, without a network. How many there were.
    pub fn label(&mut self, max: usize) -> usize {
        if !self.connection.has_room() {
            return 0;
        }
        let Some((view, ids)) = self.engine.next_label_batch(max) else { return 0 };
        let n = ids.len();
        let made = self.logits.len()..n * self.n_classes;
        self.logits.extend(made.map(|i| (i % 977) as f32 / 61.0 - 8.0));
        let logits = self.logits[..n * self.n_classes].to_vec();
        self.step(Event::Labelled { view, ids, logits });
        n
    }

    /// Totals of one kind of message.
    ///
    /// # Errors
    /// If there is no such kind.
    pub fn traffic(&self, kind: &str) -> Result<TrafficOfKind, Box<dyn Error>> {
        let kinds = self.connection.traffic().kinds;
        kinds.into_iter().find(|k| k.kind == kind).ok_or_else(|| format!("no kind `{kind}`").into())
    }

    pub fn stop(self) {
        self.connection.stop();
    }
}

/// What a process has used.
pub struct Usage {
    pub cpu_s: f64,
    /// Resident.
    pub peak_mib: f64,
}

impl Usage {
    /// # Errors
    /// If the system does not say, or not as Linux does.
    pub fn of_this_process() -> Result<Self, Box<dyn Error>> {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let status = fs::read_to_string("/proc/self/status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("VmHWM is there")?;
        let peak_kib: f64 = peak.trim().trim_end_matches(" kB").parse()?;
        Ok(Usage { cpu_s: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9, peak_mib: peak_kib / 1024.0 })
    }
}
