//! A fleet in one thread and in virtual time: engines, a broker with retained messages and last wills, faults.
//!
//! Messages travel as bytes. Everything random is drawn from the seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use dkt_agent::data::ImageShape;
use dkt_agent::draw::Draw;
use dkt_agent::exchange::engine::{Action, Engine, EngineConfig, Event, Limits};
use dkt_agent::exchange::envelope::ENVELOPE_BYTES;
use dkt_agent::exchange::message::Message;
use dkt_agent::exchange::rows::Encoding;
use dkt_agent::exchange::topic::{KINDS, Topic};
use dkt_agent::exchange::wire;
use dkt_agent::ids::{AgentId, Digest, Round, SampleId, View};

pub const N_SAMPLES: u32 = 40;
pub const N_CLASSES: usize = 4;
/// Between two training steps, each with a tick and a batch of labels.
const STEP: Duration = Duration::from_millis(500);
const ROWS_PER_STEP: usize = 16;
const LATENCY_MS: u64 = 20;
/// With [`DELTA`] at [`DELTA_TEMPERATURE`] a row of [`label`] is not sent again in the next two rounds.
pub const DELTA: f32 = 0.00045;
pub const DELTA_TEMPERATURE: f32 = 1000.0;
const ROUNDS_WITHIN_DELTA: f32 = 2.0;
const LONGEST_DETOUR_MS: u64 = 3000;
const LONGEST_ABSENCE_MS: u64 = 8000;

pub fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn name(agent: usize) -> AgentId {
    format!("agent-{agent}").parse().unwrap()
}

pub fn config(agent: usize) -> EngineConfig {
    EngineConfig {
        agent: name(agent),
        fleet: "fleet".parse().unwrap(),
        session: 0,
        data: Digest::of(b"data"),
        n_samples: N_SAMPLES,
        classes: ["a", "b", "c", "d"].map(str::to_owned).to_vec(),
        model: Digest::of(b"model"),
        temperature: 2.0,
        teachers: Vec::new(),
        // Several chunks in each batch of labels.
        chunk_bytes: 256 + ENVELOPE_BYTES + 6 * 12,
        encoding: Encoding::F16,
        delta: 0.0,
        accepts: None,
        sends: None,
        inputs_in_flight: 12,
        limits: Limits::default(),
    }
}

/// Of images that say which they are: sample, view, and whose.
pub const SHAPE: ImageShape = ImageShape { channels: 1, height: 2, width: 3 };

/// An agent that has data of its own, and labels what others send.
pub fn sender(agent: usize) -> EngineConfig {
    EngineConfig {
        data: Digest::of(format!("data of {agent}").as_bytes()),
        accepts: Some(SHAPE),
        sends: Some(SHAPE),
        ..config(agent)
    }
}

pub fn pixels(agent: usize, view: View, ids: &[SampleId]) -> Vec<u8> {
    let image = |id: &SampleId| [&id.0.to_le_bytes()[..], &[view.0, agent as u8]].concat();
    ids.iter().flat_map(image).collect()
}

/// What the network of an agent says in one round of one session: numbers that half precision holds exactly.
pub fn label(agent: usize, session: u64, round: Round, id: SampleId, view: View) -> [f32; N_CLASSES] {
    [agent as f32, session as f32, round.0 as f32, (id.0 * 8 + u32::from(view.0)) as f32]
}

/// Chances in a thousand.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub loss: u64,
    pub duplication: u64,
    /// Of a delivery that overtakes or is overtaken: more than MQTT allows.
    pub reordering: u64,
    /// Of a last will that the broker publishes late, when the agent may be there again.
    pub late_will: u64,
}

pub struct Agent {
    pub engine: Engine,
    pub config: EngineConfig,
    pub round: Round,
    pub samples: BTreeSet<SampleId>,
    pub n_views: u8,
    pub warnings: Vec<String>,
    /// What a student with one teacher holds: session and round of each row.
    held: BTreeMap<(SampleId, View), (f32, f32)>,
    /// Labels nothing.
    mute: bool,
    started: Duration,
    connection: Option<u64>,
    filters: BTreeSet<String>,
}

struct Session {
    connection: u64,
    filters: BTreeSet<String>,
    will: (String, Rc<[u8]>),
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Step { agent: usize },
    Connect { agent: usize },
    Accepted { agent: usize, connection: u64 },
    Subscribe { agent: usize, connection: u64, filters: Vec<String> },
    Publish { agent: usize, connection: u64, topic: String, bytes: Rc<[u8]>, retain: bool },
    Will { topic: String, bytes: Rc<[u8]> },
    Deliver { agent: usize, connection: u64, topic: String, bytes: Rc<[u8]> },
}

pub struct Fleet {
    pub seed: u64,
    pub now: Duration,
    pub agents: Vec<Agent>,
    pub faults: Faults,
    /// Messages published so far, by kind; those that take a retained message back are not counted.
    pub published: [u64; KINDS.len()],
    draw: Draw,
    n_draws: u64,
    n_happenings: u64,
    n_connections: u64,
    queue: BinaryHeap<Reverse<(Duration, u64, Happening)>>,
    sessions: BTreeMap<usize, Session>,
    retained: BTreeMap<String, Rc<[u8]>>,
    /// When the last message on a link arrives: from an agent, to an agent.
    links: BTreeMap<(bool, usize), Duration>,
}

impl Fleet {
    pub fn new(seed: u64, configs: Vec<EngineConfig>) -> Self {
        let mut fleet = Fleet {
            seed,
            now: Duration::ZERO,
            agents: Vec::new(),
            faults: Faults::default(),
            published: [0; KINDS.len()],
            draw: Draw::new(seed, "fleet"),
            n_draws: 0,
            n_happenings: 0,
            n_connections: 0,
            queue: BinaryHeap::new(),
            sessions: BTreeMap::new(),
            retained: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        for (agent, config) in configs.into_iter().enumerate() {
            fleet.agents.push(Agent {
                engine: Engine::new(config.clone()),
                config,
                round: Round(0),
                samples: BTreeSet::new(),
                n_views: 1,
                warnings: Vec::new(),
                held: BTreeMap::new(),
                mute: false,
                started: Duration::ZERO,
                connection: None,
                filters: BTreeSet::new(),
            });
            let (step, connect) = (millis(fleet.below(500)), millis(fleet.below(2000)));
            fleet.at(step, Happening::Step { agent });
            fleet.at(connect, Happening::Connect { agent });
        }
        fleet
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.n_draws += 1;
        self.draw.below(n, &[self.n_draws])
    }

    pub fn chance(&mut self, in_a_thousand: u64) -> bool {
        in_a_thousand > 0 && self.below(1000) < in_a_thousand
    }

    fn at(&mut self, time: Duration, happening: Happening) {
        self.n_happenings += 1;
        self.queue.push(Reverse((time, self.n_happenings, happening)));
    }

    pub fn run_until(&mut self, end: Duration) {
        while self.queue.peek().is_some_and(|Reverse((time, ..))| *time <= end) {
            let Some(Reverse((time, _, happening))) = self.queue.pop() else { break };
            self.now = time;
            self.happen(happening);
        }
        self.now = end;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Step { agent } => {
                self.step(agent, Event::Tick);
                let (session, round) = (self.agents[agent].config.session, self.agents[agent].round);
                let next = self.agents[agent].engine.next_label_batch(ROWS_PER_STEP);
                if let Some((view, ids)) = next.filter(|_| !self.agents[agent].mute) {
                    let rows = ids.iter().map(|id| label(agent, session, round, *id, view));
                    let logits = rows.flatten().collect();
                    self.step(agent, Event::Labelled { view, ids, logits });
                }
                self.label_inputs(agent);
                while let Some((view, ids)) = self.agents[agent].engine.next_inputs() {
                    let pixels = pixels(agent, view, &ids);
                    self.step(agent, Event::Inputs { view, ids, pixels });
                }
                self.at(self.now + STEP, Happening::Step { agent });
            }
            Happening::Connect { agent } if self.agents[agent].connection.is_none() => {
                self.n_connections += 1;
                let connection = self.n_connections;
                let (topic, will) = self.agents[agent].engine.last_will();
                let will = (topic.to_string(), wire::encode(&will).into());
                // The connection renews its subscriptions by itself.
                let filters = self.agents[agent].filters.clone();
                self.sessions.insert(agent, Session { connection, filters: BTreeSet::new(), will });
                self.agents[agent].connection = Some(connection);
                self.subscribe(agent, connection, filters);
                self.at(self.now + millis(1), Happening::Accepted { agent, connection });
            }
            Happening::Connect { .. } => {}
            Happening::Accepted { agent, connection } => {
                if self.agents[agent].connection == Some(connection) {
                    self.step(agent, Event::Connected);
                }
            }
            Happening::Subscribe { agent, connection, filters } => self.subscribe(agent, connection, filters),
            Happening::Publish { agent, connection, topic, bytes, retain } => {
                if self.sessions.get(&agent).is_some_and(|session| session.connection == connection) {
                    self.publish(&topic, &bytes, retain);
                }
            }
            Happening::Will { topic, bytes } => self.publish(&topic, &bytes, true),
            Happening::Deliver { agent, connection, topic, bytes } => {
                if self.agents[agent].connection == Some(connection) {
                    let topic: Topic = topic.parse().unwrap();
                    let message = wire::decode(&topic.leaf, &bytes).unwrap();
                    let rows = match &message {
                        Message::Targets(chunk) => {
                            let same = chunk.same.iter().flat_map(|same| same.ids.iter());
                            (chunk.view, chunk.ids.iter().chain(same).collect())
                        }
                        _ => (View(0), Vec::new()),
                    };
                    self.step(agent, Event::Received { topic, message });
                    self.check_rows(agent, rows);
                }
            }
        }
    }

    /// A network sees pixels, and nothing else.
    fn label_inputs(&mut self, agent: usize) {
        let (session, round) = (self.agents[agent].config.session, self.agents[agent].round);
        let Some(inputs) = self.agents[agent].engine.next_received_inputs(ROWS_PER_STEP) else { return };
        if self.agents[agent].mute {
            return;
        }
        let label = |image: &[u8; 6]| {
            let id = u32::from_le_bytes([image[0], image[1], image[2], image[3]]);
            assert_ne!(usize::from(image[5]), agent, "its own images");
            label(agent, session, round, SampleId(id), View(image[4]))
        };
        let (images, rest) = inputs.pixels.as_chunks::<6>();
        assert_eq!((images.len(), rest.len()), (inputs.ids.len(), 0));
        let logits = images.iter().flat_map(label).collect();
        let (data, view, ids) = (inputs.data, inputs.view, inputs.ids);
        self.step(agent, Event::LabelledInputs { data, view, ids, logits });
    }

    /// One event at one agent, and what follows from it.
    pub fn step(&mut self, agent: usize, event: Event) {
        let now = self.now - self.agents[agent].started;
        for action in self.agents[agent].engine.step(event, now) {
            let connection = self.agents[agent].connection;
            match action {
                Action::Warn(text) => self.agents[agent].warnings.push(text),
                Action::Subscribe(filters) => {
                    self.agents[agent].filters.extend(filters.iter().cloned());
                    // A queue of the client may be full, though not at the start, when it is empty.
                    let may_get_lost =
                        filters.iter().all(|f| f.contains("/targets/") || f.contains("/inputs/"));
                    if let Some(connection) = connection
                        && !(may_get_lost && self.chance(self.faults.loss))
                    {
                        self.send((true, agent), Happening::Subscribe { agent, connection, filters });
                    }
                }
                Action::Publish { topic, message, retain } => {
                    self.published[topic.kind()] += u64::from(message != Message::Cleared);
                    let (topic, bytes) = (topic.to_string(), wire::encode(&message).into());
                    assert!(connection.is_some(), "seed {}: says {topic} to nobody", self.seed);
                    if let Some(connection) = connection
                        && !self.chance(self.faults.loss)
                    {
                        let publish = Happening::Publish { agent, connection, topic, bytes, retain };
                        self.send((true, agent), publish);
                    }
                }
            }
        }
    }

    /// In order, unless a fault has it otherwise.
    fn send(&mut self, link: (bool, usize), happening: Happening) {
        let mut time = self.now + millis(self.below(LATENCY_MS));
        if self.chance(self.faults.reordering) {
            time += millis(self.below(LONGEST_DETOUR_MS));
        } else {
            let last = self.links.entry(link).or_default();
            time = time.max(*last);
            *last = time;
        }
        self.at(time, happening);
    }

    fn subscribe(&mut self, agent: usize, connection: u64, filters: impl IntoIterator<Item = String>) {
        let Some(session) = self.sessions.get_mut(&agent).filter(|s| s.connection == connection) else {
            return;
        };
        let filters: Vec<String> = filters.into_iter().collect();
        session.filters.extend(filters.iter().cloned());
        let kept: Vec<_> =
            self.retained.iter().map(|(topic, bytes)| (topic.clone(), bytes.clone())).collect();
        for (topic, bytes) in kept {
            if filters.iter().any(|filter| matches(filter, &topic)) {
                self.deliver(agent, connection, &topic, &bytes);
            }
        }
    }

    fn publish(&mut self, topic: &str, bytes: &Rc<[u8]>, retain: bool) {
        match (retain, bytes.is_empty()) {
            (true, true) => _ = self.retained.remove(topic),
            (true, false) => _ = self.retained.insert(topic.to_owned(), bytes.clone()),
            (false, _) => {}
        }
        let subscribed = |session: &Session| session.filters.iter().any(|filter| matches(filter, topic));
        let to = self.sessions.iter().filter(|(_, session)| subscribed(session));
        let to: Vec<(usize, u64)> = to.map(|(agent, session)| (*agent, session.connection)).collect();
        for (agent, connection) in to {
            self.deliver(agent, connection, topic, bytes);
        }
    }

    fn deliver(&mut self, agent: usize, connection: u64, topic: &str, bytes: &Rc<[u8]>) {
        if self.chance(self.faults.loss) {
            return;
        }
        for _ in 0..=u64::from(self.chance(self.faults.duplication)) {
            let (topic, bytes) = (topic.to_owned(), bytes.clone());
            self.send((false, agent), Happening::Deliver { agent, connection, topic, bytes });
        }
    }

    /// The connection breaks; the broker publishes the last will, and the agent comes back after a while.
    pub fn disconnect(&mut self, agent: usize) {
        if let Some(session) = self.sessions.remove(&agent) {
            let late = if self.chance(self.faults.late_will) { LONGEST_ABSENCE_MS } else { 1 };
            let time = self.now + millis(self.below(late));
            let (topic, bytes) = session.will;
            self.at(time, Happening::Will { topic, bytes });
        }
        self.lose(agent);
    }

    fn lose(&mut self, agent: usize) {
        if self.agents[agent].connection.take().is_some() {
            self.step(agent, Event::Disconnected);
            let time = self.now + millis(self.below(LONGEST_ABSENCE_MS));
            self.at(time, Happening::Connect { agent });
        }
    }

    /// The broker loses all it knows, last wills too.
    pub fn restart_broker(&mut self) {
        self.sessions.clear();
        self.retained.clear();
        (0..self.agents.len()).for_each(|agent| self.lose(agent));
    }

    /// The agent dies and comes back: with its rounds as a checkpoint has them, or from the start.
    pub fn restart_agent(&mut self, agent: usize, round: Round) {
        self.disconnect(agent);
        let reborn = &mut self.agents[agent];
        reborn.config.session += 1;
        reborn.engine = Engine::new(reborn.config.clone());
        reborn.round = Round(0);
        reborn.started = self.now;
        reborn.held.clear();
        reborn.filters.clear();
        let (samples, n_views) = (reborn.samples.clone(), reborn.n_views);
        self.demand(agent, samples, n_views);
        if round > Round(0) {
            self.start_round(agent, round);
        }
    }

    /// The agent goes on, but its labels get lost.
    pub fn mute(&mut self, agent: usize) {
        self.agents[agent].mute = true;
    }

    /// Topics under which the broker keeps a message.
    pub fn retained(&self) -> Vec<&str> {
        self.retained.keys().map(String::as_str).collect()
    }

    pub fn demand(&mut self, agent: usize, samples: BTreeSet<SampleId>, n_views: u8) {
        let event = Event::Demand { samples: samples.iter().copied().collect(), n_views };
        (self.agents[agent].samples, self.agents[agent].n_views) = (samples, n_views);
        let Agent { held, samples, .. } = &mut self.agents[agent];
        held.retain(|(id, view), _| view.0 < n_views && samples.contains(id));
        self.step(agent, event);
    }

    pub fn start_round(&mut self, agent: usize, round: Round) {
        self.agents[agent].round = round;
        self.step(agent, Event::RoundStarted(round));
    }

    /// Nothing that was not demanded is held; a row of one teacher is whole, and never gives way to an older one.
    fn check_rows(&mut self, agent: usize, (view, ids): (View, Vec<SampleId>)) {
        let seed = self.seed;
        let Agent { engine, config, samples, n_views, held, .. } = &mut self.agents[agent];
        for id in ids {
            let mut row = [0.0; N_CLASSES];
            let found = engine.teacher_row(id, view, &mut row);
            let wanted = view.0 < *n_views && samples.contains(&id);
            assert!(
                !found || wanted,
                "seed {seed}: agent {agent} holds {id:?} {view:?}, which it did not demand"
            );
            let [teacher] = &config.teachers[..] else { continue };
            if found {
                let [of, session, round, _] = row;
                let whole = label(of as usize, session as u64, Round(round as u64), id, view);
                assert_eq!(row, whole, "seed {seed}: agent {agent} holds a row that nobody labelled");
                assert_eq!(name(of as usize), *teacher, "seed {seed}: agent {agent} holds a row of another");
                let before = held.insert((id, view), (session, round));
                assert!(
                    before.is_none_or(|before| before <= (session, round)),
                    "seed {seed}: agent {agent}: {id:?} {view:?} went from {before:?} to {:?}",
                    (session, round)
                );
            }
        }
    }

    /// Whether `agent` holds of every demanded row what all its teachers say in their last round, and no other.
    pub fn is_served(&self, agent: usize) -> bool {
        let student = &self.agents[agent];
        let teaches = |(teacher, other): &(usize, &Agent)| {
            let listed = &student.config.teachers;
            *teacher != agent
                && (listed.is_empty() || listed.contains(&other.config.agent))
                && match student.config.sends {
                    Some(shape) => other.config.accepts == Some(shape),
                    None => other.config.data == student.config.data,
                }
                && other.config.classes == student.config.classes
                && other.round > Round(0)
        };
        let teachers: Vec<_> = self.agents.iter().enumerate().filter(teaches).collect();
        let keys = (0..=student.n_views).flat_map(|v| (0..N_SAMPLES).map(move |id| (SampleId(id), View(v))));
        for (id, view) in keys {
            let mut row = [0.0; N_CLASSES];
            let found = student.engine.teacher_row(id, view, &mut row);
            let wanted = view.0 < student.n_views && student.samples.contains(&id);
            let mut mean = [0.0; N_CLASSES];
            for (teacher, other) in &teachers {
                let said = label(*teacher, other.config.session, other.round, id, view);
                mean.iter_mut().zip(said).for_each(|(sum, v)| *sum += v);
            }
            mean.iter_mut().for_each(|sum| *sum /= teachers.len() as f32);
            let expected = wanted && !teachers.is_empty();
            // With a delta a row may be of one of the rounds in which it has hardly changed since.
            let spread = if student.config.delta > 0.0 { ROUNDS_WITHIN_DELTA + 1e-3 } else { 0.0 };
            let round = row[2];
            row[2] = mean[2];
            if found != expected || (found && (row != mean || !(mean[2] - spread..=mean[2]).contains(&round)))
            {
                return false;
            }
        }
        true
    }
}

/// MQTT 3.1.1, section 4.7; `#` does not occur.
fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (None, None) => return true,
            (Some(f), Some(t)) if f == "+" || f == t => {}
            _ => return false,
        }
    }
}
