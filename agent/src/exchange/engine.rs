//! The exchange as a pure state machine: events in, actions out. It reads no clock, opens no socket, draws no
//! random number; time comes in with each event.

mod inputs;
mod learning;
mod sending;
mod sent;
mod teaching;
mod unheard;

use std::collections::BTreeMap;
use std::time::Duration;

use self::inputs::{Outgoing, Received};
use self::learning::Learning;
use self::sending::Sending;
use self::teaching::{Demander, Teaching};
use self::unheard::Unheard;
use super::message::{AgentState, Demand, Message, Status};
use super::rows::Encoding;
use super::topic::{Leaf, Topic, common_filters};
use super::wire::MAX_SAMPLES;
use crate::data::ImageShape;
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
    /// At most [`MAX_SAMPLES`], or nothing can be demanded.
    pub n_samples: u32,
    /// At least one.
    pub classes: Vec<String>,
    pub model: Digest,
    pub temperature: f32,
    /// Agents to learn from; empty for all.
    pub teachers: Vec<AgentId>,
    /// Upper bound of one message of soft targets, or of images.
    pub chunk_bytes: usize,
    /// Of the rows sent.
    pub encoding: Encoding,
    /// Rows are not sent again in a new round while no more of their softmax has moved than this; 0 sends all.
    pub delta: f32,
    /// Images of this shape are labelled for students that send them.
    pub accepts: Option<ImageShape>,
    /// Teachers do not have the data: it sends its images, of this shape, in place of a demand.
    pub sends: Option<ImageShape>,
    /// Images sent and not answered yet, at most.
    pub inputs_in_flight: usize,
    pub limits: Limits,
}

/// Times and bounds, with defaults for a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long nothing must have come from a teacher before what is missing is asked for.
    pub repair_after: Duration,
    /// The wait doubles up to this while asking does not help.
    pub repair_at_most: Duration,
    /// How often status and demand are said again: what was lost on the way is missing for no longer.
    pub announce_every: Duration,
    /// Bound of the memory that rows of teachers take.
    pub max_target_bytes: usize,
    /// Bound of the memory that demands of students take.
    pub max_teaching_bytes: usize,
    /// Bound of the memory of rows sent, where there is a `delta`; rows beyond it are sent each round.
    pub max_sent_bytes: usize,
    /// Bound of the memory that images of students take while they wait to be labelled.
    pub max_inputs_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            repair_after: Duration::from_secs(2),
            repair_at_most: Duration::from_secs(60),
            announce_every: Duration::from_secs(60),
            max_target_bytes: 256 * 1024 * 1024,
            max_teaching_bytes: 64 * 1024 * 1024,
            max_sent_bytes: 64 * 1024 * 1024,
            max_inputs_bytes: 64 * 1024 * 1024,
        }
    }
}

/// Everything that can happen.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
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
    /// What [`Engine::next_label_batch`] asked for: raw logits `[ids, classes]` of this round's network.
    Labelled {
        view: View,
        ids: Vec<SampleId>,
        logits: Vec<f32>,
    },
    /// What [`Engine::next_inputs`] asked for: pixels `[ids, C, H, W]`.
    Inputs {
        view: View,
        ids: Vec<SampleId>,
        pixels: Vec<u8>,
    },
    /// What [`Engine::next_received_inputs`] asked for: raw logits `[ids, classes]` of this round's network.
    LabelledInputs {
        /// The student's.
        data: Digest,
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
#[expect(clippy::large_enum_variant, reason = "there are few at a time")]
pub enum Action {
    Subscribe(Vec<String>),
    Publish {
        topic: Topic,
        message: Message,
        retain: bool,
    },
    /// Something that a person should know, once.
    Warn(String),
}

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub chunks_in: u64,
    pub chunks_out: u64,
    pub rows_applied: u64,
    /// Held, and said by their teacher to be the same in a new round.
    pub rows_renewed: u64,
    /// Said to be the same and not held.
    pub rows_lacking: u64,
    pub rows_stale: u64,
    pub rows_unwanted: u64,
    pub rows_over_bound: u64,
    /// Labelled by the own network and not sent.
    pub rows_not_finite: u64,
    /// Said to be the same as in an earlier round, instead of being sent.
    pub rows_same_out: u64,
    /// Sent though they may have hardly changed: there was no room to remember what was sent before.
    pub rows_not_remembered: u64,
    pub repairs_out: u64,
    pub repairs_in: u64,
    /// Images sent to be labelled.
    pub inputs_out: u64,
    /// Images that students have sent, and those of them that were dropped for want of room.
    pub inputs_in: u64,
    pub inputs_over_bound: u64,
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
    state: AgentState,
    session: u64,
    /// The last one announced in this session.
    round: Round,
    data: Digest,
    /// It sends its images, in place of a demand.
    sends: bool,
    /// Same classes, and the same data or images that it labels: it can teach.
    teaches: bool,
    /// The same the other way round: it can be taught.
    learns: bool,
    /// A person has been told that it does not fit.
    warned: bool,
    subscribed: bool,
}

impl Peer {
    fn fits(&self) -> bool {
        self.teaches || self.learns
    }

    /// Wants soft targets.
    fn is_student(&self) -> bool {
        self.learns && self.state == AgentState::Online
    }
}

pub struct Engine {
    config: EngineConfig,
    state: AgentState,
    round: Round,
    connected: bool,
    /// Has subscribed to what all agents listen to; the connection renews subscriptions by itself.
    subscribed: bool,
    /// When to say again what is retained.
    announce_at: Duration,
    peers: BTreeMap<AgentId, Peer>,
    learning: Learning,
    teaching: Teaching,
    sending: Sending,
    outgoing: Outgoing,
    received: Received,
    unheard: Unheard,
    stats: Stats,
}

impl Engine {
    pub fn new(config: EngineConfig) -> Self {
        Engine {
            learning: Learning::new(&config),
            teaching: Teaching::new(&config),
            sending: Sending::new(&config),
            outgoing: Outgoing::new(&config),
            received: Received::new(&config),
            unheard: Unheard::new(&config.teachers),
            state: AgentState::Online,
            round: Round(0),
            connected: false,
            subscribed: false,
            announce_at: Duration::ZERO,
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
            Event::Disconnected => {
                self.connected = false;
                self.sending.disconnected();
            }
            Event::Received { topic, message } => self.received(topic, message, now, &mut actions),
            Event::Demand { samples, n_views } => self.demand(&samples, n_views, now, &mut actions),
            Event::RoundStarted(round) => {
                self.send_held(&mut actions);
                self.round = round;
                self.teaching.start_round();
                actions.push(self.publish_status());
            }
            Event::Labelled { view, ids, logits } => {
                self.labelled(self.config.data, view, &ids, &logits, now, &mut actions);
            }
            Event::Inputs { view, ids, pixels } => self.publish_inputs(view, ids, pixels, &mut actions),
            Event::LabelledInputs { data, view, ids, logits } => {
                self.labelled(data, view, &ids, &logits, now, &mut actions);
            }
            Event::Finished => {
                self.state = AgentState::Finished;
                self.withdraw(now, &mut actions);
                actions.push(self.publish_status());
                self.tell_of_unheard(now, true, &mut actions);
            }
            Event::Tick if self.connected => {
                if self.announce_at <= now {
                    self.announce(now, &mut actions);
                }
                self.ask_for_missing(now, &mut actions);
                self.send_old(now, &mut actions);
                self.look_for_lacking(now, &mut actions);
                self.tell_of_unheard(now, false, &mut actions);
            }
            Event::Tick => {}
            Event::Stopping => {
                self.send_held(&mut actions);
                self.state = AgentState::Offline;
                self.withdraw(now, &mut actions);
                actions.push(self.publish_status());
            }
        }
        if !self.connected {
            // It would be lost on the way; the next connection begins with saying all of it again.
            actions.retain(|action| !matches!(action, Action::Publish { .. }));
        }
        actions
    }

    /// Up to `max` samples of one view that peers want labelled by the present network. What is handed out is
    /// not handed out again in this round, unless a peer says that it has not got it.
    pub fn next_label_batch(&mut self, max: usize) -> Option<(View, Vec<SampleId>)> {
        // Before the first round the network knows nothing worth telling; without a connection it tells nobody.
        if self.round == Round(0) || !self.connected {
            return None;
        }
        let is_student = |id: &AgentId| self.peers.get(id).is_some_and(Peer::is_student);
        self.teaching.next(max, &mut self.sending.sent, self.round, is_student)
    }

    /// Writes the teachers' mean logits for one view of a sample. False, and `out` untouched, without any.
    pub fn teacher_row(&self, id: SampleId, view: View, out: &mut [f32]) -> bool {
        self.learning.store.row(id, view, out)
    }

    /// Peers that are there and fit.
    pub fn peers(&self) -> Vec<&AgentId> {
        let here = |p: &Peer| p.fits() && p.state != AgentState::Offline;
        self.peers.iter().filter(|(_, p)| here(p)).map(|(id, _)| id).collect()
    }

    /// How many of them this agent learns from.
    pub fn n_teachers(&self) -> usize {
        self.peers().into_iter().filter(|id| self.is_teacher(id)).count()
    }

    /// Whether nobody who fits is still training; then nobody wants to be taught either.
    pub fn all_peers_finished(&self) -> bool {
        !self.peers.values().any(Peer::is_student)
    }

    /// Demanded rows that are not held from each teacher at its last round, as far as there is room for them.
    pub fn n_missing(&self) -> usize {
        self.peers.keys().flat_map(|id| self.missing(id).into_values()).map(|set| set.len()).sum()
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
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
            accepts: self.config.accepts,
            sends: self.config.sends,
        }
    }

    fn publish_status(&self) -> Action {
        let message = Message::Status(self.status());
        Action::Publish { topic: self.topic(Leaf::Status), message, retain: true }
    }

    /// What it demands now, of those it learns from; that it demands nothing, where an earlier run may have left a
    /// demand.
    fn publish_demands(&self, actions: &mut Vec<Action>) {
        // Numbers of samples tell those nothing who do not have them.
        let wanted = self.learning.store.wanted().filter(|_| self.config.sends.is_none());
        let mut publish = |teacher: Option<AgentId>, demand: Option<&Demand>| {
            let message = demand.cloned().map_or(Message::Cleared, Message::Demand);
            actions.push(Action::Publish {
                topic: self.topic(Leaf::Demand { teacher }),
                message,
                retain: true,
            });
        };
        publish(None, wanted.filter(|_| self.config.teachers.is_empty()));
        for teacher in &self.config.teachers {
            publish(Some(teacher.clone()), wanted);
        }
    }

    fn connected(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.connected = true;
        if !std::mem::replace(&mut self.subscribed, true) {
            actions.push(Action::Subscribe(common_filters(&self.config.fleet, &self.config.agent)));
            if self.config.n_samples > MAX_SAMPLES {
                let text = format!("more than {MAX_SAMPLES} samples; no peer takes demands for so many");
                actions.push(Action::Warn(text));
            }
            if let Some(shape) = self.config.sends.filter(|_| self.outgoing.is_impossible()) {
                let text = format!(
                    "images of {shape} are too large for a message; nobody can be asked to label them"
                );
                actions.push(Action::Warn(text));
            }
        }
        self.unheard.connected(now);
        self.announce(now, actions);
        self.learning.connected(now);
        self.outgoing.expect(now, self.config.limits.repair_after);
    }

    fn tell_of_unheard(&mut self, now: Duration, is_over: bool, actions: &mut Vec<Action>) {
        let text = self.unheard.tell(now, is_over, &self.config.fleet, self.peers.keys());
        actions.extend(text.map(Action::Warn));
    }

    /// Says what is retained. The broker may have lost it, and a peer may have missed it.
    fn announce(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.announce_at = now + self.config.limits.announce_every;
        actions.push(self.publish_status());
        self.publish_demands(actions);
        self.listen_to_inputs(actions);
    }

    fn received(&mut self, topic: Topic, message: Message, now: Duration, actions: &mut Vec<Action>) {
        if topic.fleet != self.config.fleet {
            return self.stats.refuse("another fleet");
        }
        if topic.agent == self.config.agent {
            return self.own_echo(&topic.leaf, &message, now);
        }
        match (topic.leaf, message) {
            (Leaf::Status, Message::Status(status)) => self.peer_status(topic.agent, &status, now, actions),
            (Leaf::Status, Message::Cleared) => self.peer_offline(&topic.agent),
            (Leaf::Demand { teacher }, message)
                if teacher.as_ref().is_none_or(|t| *t == self.config.agent) =>
            {
                let of = Demander { student: topic.agent, of_this_teacher: teacher.is_some() };
                match message {
                    Message::Demand(demand) => self.peer_demand(of, demand),
                    _ => self.teaching.forget(&of),
                }
            }
            (Leaf::Repair { teacher }, Message::Repair(repair)) if teacher == self.config.agent => {
                self.peer_repair(&topic.agent, &repair);
            }
            (Leaf::Targets { .. }, Message::Targets(chunk)) => {
                self.targets(&topic.agent, &chunk, now, actions)
            }
            (Leaf::Inputs { .. }, Message::Inputs(inputs)) => self.peer_inputs(&topic.agent, inputs, actions),
            (_, Message::Cleared) => {}
            _ => self.stats.refuse("message under another's topic"),
        }
    }

    /// The broker sends an agent's own messages back to it. A last will may come late, when the agent is there
    /// again: then peers must hear so.
    fn own_echo(&mut self, leaf: &Leaf, message: &Message, now: Duration) {
        let says_gone = match message {
            Message::Status(status) => status.state == AgentState::Offline,
            Message::Cleared => *leaf == Leaf::Status,
            _ => false,
        };
        if says_gone && self.state != AgentState::Offline {
            // Not at once: whatever sends such messages in a loop is answered seldom.
            self.announce_at = self.announce_at.min(now + self.config.limits.repair_after);
        }
    }

    /// Keeps what else is known: the will of an earlier run says nothing about the present one.
    fn peer_offline(&mut self, id: &AgentId) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.state = AgentState::Offline;
            self.teaching.students_changed();
            self.forget_inputs_of(id);
        }
    }

    /// Whether an agent of this status can teach, and whether it can be taught.
    fn fit(&self, status: &Status) -> (bool, bool) {
        let same_classes = status.classes == self.config.classes;
        let same_data = status.data == self.config.data;
        let teaches = self.config.sends.map_or(same_data, |shape| status.accepts == Some(shape));
        let learns = status.sends.map_or(same_data, |shape| self.config.accepts == Some(shape));
        (same_classes && teaches, same_classes && learns)
    }

    fn peer_status(&mut self, id: AgentId, status: &Status, now: Duration, actions: &mut Vec<Action>) {
        self.unheard.heard(&id);
        if status.state == AgentState::Offline {
            return self.peer_offline(&id);
        }
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&id) {
            return self.stats.refuse("too many peers");
        }
        let is_teacher = self.is_teacher(&id);
        let (filter, inputs_filter) = (self.targets_filter(&id), self.inputs_filter(&id, &status.data));
        let (teaches, learns) = self.fit(status);
        let peer = self.peers.entry(id.clone()).or_insert(Peer {
            state: AgentState::Offline,
            session: status.session,
            round: Round(0),
            data: status.data,
            sends: false,
            teaches: false,
            learns: false,
            warned: false,
            subscribed: false,
        });
        let came = peer.state == AgentState::Offline || !peer.teaches;
        let listens = learns && status.sends.is_some();
        let listened = peer.learns && peer.sends && peer.data == status.data;
        if peer.session != status.session {
            // Its rounds count anew, and its network may be another: all it has sent is to be replaced.
            (peer.session, peer.round) = (status.session, Round(0));
            self.learning.store.forget_rounds(&id);
            self.received.forget(&id);
        }
        // Within a session rounds only go up; a message delivered late does not take them back.
        let advanced = peer.round < status.round;
        peer.round = peer.round.max(status.round);
        peer.state = status.state;
        (peer.data, peer.sends) = (status.data, status.sends.is_some());
        (peer.teaches, peer.learns) = (teaches, learns);
        self.teaching.students_changed();
        if !peer.fits() {
            if !std::mem::replace(&mut peer.warned, true) {
                let what = if status.classes != self.config.classes && status.data == self.config.data {
                    "classes"
                } else {
                    "data or augmentation"
                };
                actions.push(Action::Warn(format!("`{id}` has other {what}; nothing is exchanged with it")));
            }
            return;
        }
        if is_teacher && teaches {
            if !std::mem::replace(&mut peer.subscribed, true) {
                actions.push(Action::Subscribe(vec![filter]));
            }
            if came || advanced {
                self.learning.expect(&id, now);
                self.outgoing.expect(now, self.config.limits.repair_after);
            }
        }
        if listens && !listened {
            actions.push(Action::Subscribe(vec![inputs_filter]));
        }
        self.forget_inputs_of(&id);
    }
}
