//! The exchange as a pure state machine: events in, actions out. It reads no clock, opens no socket, draws no
//! random number; time comes in with each event.

mod learning;
mod teaching;

use std::collections::BTreeMap;
use std::time::Duration;

use self::learning::Learning;
use self::teaching::Teaching;
use super::message::{AgentState, Demand, Message, SampleSet, Status};
use super::topic::{Leaf, Topic, common_filters};
use crate::ids::{AgentId, Digest, FleetId, Round, SampleId, View};

/// Peers known at once; more are refused and counted.
pub const MAX_PEERS: usize = 4096;

/// What the engine is told once.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    pub agent: AgentId,
    pub fleet: FleetId,
    /// Differs between two runs of the agent.
    pub session: u64,
    pub data: Digest,
    pub n_samples: u32,
    pub classes: Vec<String>,
    pub model: Digest,
    pub temperature: f32,
    /// Agents to learn from; empty for all.
    pub teachers: Vec<AgentId>,
    /// Upper bound of one message of soft targets.
    pub chunk_bytes: usize,
    pub limits: Limits,
}

/// Times and bounds, with defaults for a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long nothing must have come from a teacher before what is missing is asked for.
    pub repair_after: Duration,
    /// The wait doubles up to this while asking does not help.
    pub repair_at_most: Duration,
    /// Bound of the logits held.
    pub max_target_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            repair_after: Duration::from_secs(2),
            repair_at_most: Duration::from_secs(60),
            max_target_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Everything that can happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The broker has accepted the connection.
    Connected,
    Disconnected,
    Received {
        topic: Topic,
        message: Message,
    },
    /// The agent trains on these samples from now, in the views `0..n_views`.
    Demand {
        samples: Vec<SampleId>,
        n_views: u8,
    },
    /// The agent's network has changed enough for its soft targets to be made anew.
    RoundStarted(Round),
    /// What [`Engine::next_label_batch`] asked for: raw logits `[ids, classes]`.
    Labelled {
        view: View,
        ids: Vec<SampleId>,
        logits: Vec<f32>,
    },
    /// The agent has trained its stream.
    Finished,
    /// Time has passed.
    Tick,
    /// The agent is about to end.
    Stopping,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Subscribe(Vec<String>),
    Publish { topic: Topic, message: Message, retain: bool },
    /// Something that a person should know, once.
    Warn(String),
}

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub chunks_in: u64,
    pub chunks_out: u64,
    pub rows_applied: u64,
    pub rows_stale: u64,
    pub rows_unwanted: u64,
    pub rows_over_bound: u64,
    pub repairs_out: u64,
    pub repairs_in: u64,
    /// Messages not taken, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

impl Stats {
    /// Rows that came and were not applied.
    pub fn rows_refused(&self) -> u64 {
        self.rows_stale + self.rows_unwanted + self.rows_over_bound
    }

    fn refuse(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }
}

/// Another agent of the fleet.
struct Peer {
    status: Status,
    /// Same data and classes: it can teach and be taught.
    fits: bool,
}

pub struct Engine {
    config: EngineConfig,
    state: AgentState,
    round: Round,
    peers: BTreeMap<AgentId, Peer>,
    learning: Learning,
    teaching: Teaching,
    stats: Stats,
}

impl Engine {
    pub fn new(config: EngineConfig) -> Self {
        Engine {
            learning: Learning::new(&config),
            teaching: Teaching::new(config.n_samples),
            state: AgentState::Online,
            round: Round(0),
            peers: BTreeMap::new(),
            stats: Stats::default(),
            config,
        }
    }

    /// The message that the broker is to publish, retained, if the connection breaks.
    pub fn last_will(&self) -> (Topic, Message) {
        let status = Status { state: AgentState::Offline, ..self.status() };
        (self.topic(Leaf::Status), Message::Status(status))
    }

    /// Takes in one event. `now` counts from the engine's start and never goes back.
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Connected => self.connected(now, &mut actions),
            Event::Disconnected => {}
            Event::Received { topic, message } => self.received(topic, message, now, &mut actions),
            Event::Demand { samples, n_views } => self.demand(&samples, n_views, now, &mut actions),
            Event::RoundStarted(round) => {
                self.round = round;
                self.teaching.start_round(&self.peers);
                actions.push(self.publish_status());
            }
            Event::Labelled { view, ids, logits } => self.labelled(view, &ids, &logits, &mut actions),
            Event::Finished => {
                self.state = AgentState::Finished;
                actions.push(self.publish_status());
            }
            Event::Tick => self.ask_for_missing(now, &mut actions),
            Event::Stopping => {
                self.state = AgentState::Offline;
                actions.push(self.publish_status());
            }
        }
        actions
    }

    /// Up to `max` samples of one view that peers want labelled by the present network. What is handed out is
    /// not handed out again in this round, unless a peer says that it has not got it.
    pub fn next_label_batch(&mut self, max: usize) -> Option<(View, Vec<SampleId>)> {
        // Before the first round the network knows nothing worth telling.
        if self.round == Round(0) { None } else { self.teaching.next(max) }
    }

    /// Writes the teachers' mean logits for one view of a sample. False, and `out` untouched, without any.
    pub fn teacher_row(&self, id: SampleId, view: View, out: &mut [f32]) -> bool {
        self.learning.store.row(id, view, out)
    }

    /// Peers that are there and fit.
    pub fn peers(&self) -> Vec<&AgentId> {
        let here = |p: &Peer| p.fits && p.status.state != AgentState::Offline;
        self.peers.iter().filter(|(_, p)| here(p)).map(|(id, _)| id).collect()
    }

    /// Whether nobody who fits is still training, and nothing is left to label.
    pub fn all_peers_finished(&self) -> bool {
        let training = |p: &Peer| p.fits && p.status.state == AgentState::Online;
        !self.peers.values().any(training)
    }

    /// Demanded rows that are not held from each teacher at its last round.
    pub fn n_missing(&self) -> usize {
        let missing = |(id, round): (&AgentId, Round)| {
            self.learning.store.missing(id, round).iter().map(SampleSet::len).sum::<usize>()
        };
        self.teachers().map(missing).sum()
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Peers to learn from that have begun a round, with that round.
    fn teachers(&self) -> impl Iterator<Item = (&AgentId, Round)> {
        self.peers
            .iter()
            .filter(|(id, p)| p.fits && p.status.state != AgentState::Offline && self.is_teacher(id))
            .map(|(id, p)| (id, p.status.round))
            .filter(|(_, round)| *round > Round(0))
    }

    fn is_teacher(&self, id: &AgentId) -> bool {
        self.config.teachers.is_empty() || self.config.teachers.contains(id)
    }

    fn topic(&self, leaf: Leaf) -> Topic {
        Topic { fleet: self.config.fleet.clone(), agent: self.config.agent.clone(), leaf }
    }

    fn status(&self) -> Status {
        Status {
            state: self.state,
            session: self.config.session,
            data: self.config.data,
            classes: self.config.classes.clone(),
            model: self.config.model,
            round: self.round,
        }
    }

    fn publish_status(&self) -> Action {
        let message = Message::Status(self.status());
        Action::Publish { topic: self.topic(Leaf::Status), message, retain: true }
    }

    /// The broker may know nothing of this agent: everything retained is said again.
    fn connected(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let mut filters = common_filters(&self.config.fleet, &self.config.agent);
        let teachers = self.peers.keys().filter(|id| self.is_teacher(id));
        filters.extend(teachers.map(|id| self.targets_filter(id)));
        actions.push(Action::Subscribe(filters));
        actions.push(self.publish_status());
        if let Some(demand) = self.learning.store.wanted() {
            actions.push(self.publish_demand(demand.clone()));
        }
        self.learning.expect_anew(now);
    }

    fn publish_demand(&self, demand: Demand) -> Action {
        Action::Publish { topic: self.topic(Leaf::Demand), message: Message::Demand(demand), retain: true }
    }

    fn received(&mut self, topic: Topic, message: Message, now: Duration, actions: &mut Vec<Action>) {
        if topic.agent == self.config.agent {
            // The broker sends an agent's own retained messages back to it.
            return;
        }
        if topic.fleet != self.config.fleet {
            return self.stats.refuse("another fleet");
        }
        match (topic.leaf, message) {
            (Leaf::Status, Message::Status(status)) => self.peer_status(topic.agent, status, now, actions),
            (Leaf::Demand, Message::Demand(demand)) => self.peer_demand(topic.agent, demand),
            (Leaf::Demand, Message::Cleared) => self.teaching.forget(&topic.agent),
            (Leaf::Repair { teacher }, Message::Repair(repair)) if teacher == self.config.agent => {
                self.stats.repairs_in += 1;
                if repair.data == self.config.data {
                    self.teaching.relabel(&repair.missing);
                } else {
                    self.stats.refuse("other data");
                }
            }
            (Leaf::Targets { .. }, Message::Targets(chunk)) => self.targets(topic.agent, &chunk, now),
            (_, Message::Cleared) => {}
            _ => self.stats.refuse("message under another's topic"),
        }
    }

    fn peer_status(&mut self, id: AgentId, status: Status, now: Duration, actions: &mut Vec<Action>) {
        let known = self.peers.get(&id);
        if known.is_none() && self.peers.len() >= MAX_PEERS {
            return self.stats.refuse("too many peers");
        }
        let fits = status.data == self.config.data && status.classes == self.config.classes;
        if !fits && known.is_none_or(|p| p.fits) {
            let what = if status.data == self.config.data { "classes" } else { "data or augmentation" };
            actions.push(Action::Warn(format!("`{id}` has other {what}; nothing is exchanged with it")));
        }
        let began_anew =
            known.is_some_and(|p| p.status.session != status.session && p.status.round > status.round);
        if began_anew {
            self.learning.store.forget_rounds(&id);
        }
        let came = status.state != AgentState::Offline
            && known.is_none_or(|p| p.status.state == AgentState::Offline);
        if known.is_none() && fits && self.is_teacher(&id) {
            actions.push(Action::Subscribe(vec![self.targets_filter(&id)]));
        }
        if known.is_none_or(|p| p.status.round != status.round || came) {
            self.learning.expect(&id, now);
        }
        self.peers.insert(id.clone(), Peer { status, fits });
        if came && fits {
            self.teaching.enqueue_demand(&id);
        }
    }
}
