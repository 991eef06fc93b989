//! The training thread's side of the exchange: the pure engine, and the channels to and from the broker.
//!
//! Nothing here waits for a peer, except where the caller says for how long.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::exchange::ExchangeError;
use crate::exchange::connection::{Connection, ConnectionConfig, Incoming};
use crate::exchange::engine::{Action, Engine, EngineConfig, Event};
use crate::telemetry::event::Traffic;

/// Messages taken from the queue in one go, so that a flood cannot keep the agent from training.
const MESSAGES_PER_PUMP: usize = 64;

pub(crate) struct Link {
    pub engine: Engine,
    connection: Connection,
    started: Instant,
    /// What the engine has to say to a person and has not been told yet; it says each thing once.
    warnings: Vec<String>,
}

impl Link {
    /// Connects to the broker and announces the agent.
    ///
    /// # Errors
    /// [`ExchangeError`] if the broker cannot be reached in the time allowed, or before `stop` is set.
    pub fn start(
        engine: EngineConfig,
        connection: ConnectionConfig,
        stop: &AtomicBool,
    ) -> Result<Self, ExchangeError> {
        let engine = Engine::new(engine);
        let connection = Connection::start(connection, engine.last_will(), stop)?;
        Ok(Link { engine, connection, started: Instant::now(), warnings: Vec::new() })
    }

    /// Takes in what has arrived and sends what follows from it.
    pub fn pump(&mut self) {
        for _ in 0..MESSAGES_PER_PUMP {
            match self.connection.try_recv() {
                Some(incoming) => self.receive(incoming),
                None => break,
            }
        }
        self.step(Event::Tick);
    }

    /// As [`Link::pump`], but waits for up to `longest` for something to arrive.
    pub fn pump_or_wait(&mut self, longest: Duration) {
        if let Some(incoming) = self.connection.recv_timeout(longest) {
            self.receive(incoming);
        }
        self.pump();
    }

    fn receive(&mut self, incoming: Incoming) {
        let event = match incoming {
            Incoming::Connected => Event::Connected,
            Incoming::Disconnected => Event::Disconnected,
            Incoming::Message { topic, message, .. } => Event::Received { topic, message: *message },
        };
        self.step(event);
    }

    pub fn step(&mut self, event: Event) {
        for action in self.engine.step(event, self.started.elapsed()) {
            match action {
                Action::Subscribe(filters) => self.connection.subscribe(filters),
                Action::Publish { topic, message, retain } => {
                    self.connection.publish(topic, message, retain);
                }
                Action::Warn(text) => self.warnings.push(text),
            }
        }
    }

    /// Whether the network keeps up with what is sent.
    pub fn has_room(&self) -> bool {
        self.connection.has_room()
    }

    /// Time since the connection.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    pub fn traffic(&self) -> Traffic {
        self.connection.traffic()
    }

    /// Messages dropped at a bound: a full queue, or no connection.
    pub fn n_dropped(&self) -> u64 {
        let traffic = self.traffic();
        traffic.dropped_out + traffic.dropped_in
    }

    /// Messages from peers that were not taken in.
    pub fn n_refused(&self) -> u64 {
        self.traffic().refused.iter().map(|of_reason| of_reason.messages).sum()
    }

    /// Says goodbye and waits, for a bounded time, until everything queued is sent.
    pub fn stop(mut self) {
        self.step(Event::Stopping);
        self.connection.stop();
    }
}
