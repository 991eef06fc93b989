//! One agent, and its peers' messages put into its ear.

use std::collections::BTreeMap;
use std::time::Duration;

use dkt_agent::exchange::engine::{Action, Engine, EngineConfig, Event};
use dkt_agent::exchange::message::{
    AgentState, Demand, Message, Repair, Same, SampleSet, Status, TargetChunk,
};
use dkt_agent::exchange::rows::{Floats, Rows};
use dkt_agent::exchange::topic::{Leaf, Topic};
use dkt_agent::ids::{Round, SampleId, View};

use crate::fleet::{N_CLASSES, N_SAMPLES, config, millis, name};
use crate::messages::samples;

/// The agent that all this is done to; `peer-…` do it.
pub struct Victim {
    pub engine: Engine,
    pub now: Duration,
}

pub fn status(session: u64, round: u64) -> Status {
    let EngineConfig { data, classes, model, .. } = config(0);
    let round = Round(round);
    Status { state: AgentState::Online, session, data, classes, model, round, accepts: None, sends: None }
}

pub fn chunk(session: u64, round: u64, ids: &[u32], logit: f32) -> TargetChunk {
    let EngineConfig { data, model, temperature, .. } = config(0);
    TargetChunk {
        session,
        data,
        model,
        round: Round(round),
        temperature,
        view: View(0),
        n_classes: N_CLASSES,
        ids: ids.iter().copied().map(SampleId).collect::<Vec<_>>().into(),
        rows: Rows::Dense(Floats::F32(vec![logit; ids.len() * N_CLASSES])),
        same: None,
    }
}

/// One that has no rows, but says that these are the same as in round `base`.
pub fn same(session: u64, round: u64, base: u64, ids: &[u32]) -> TargetChunk {
    let ids: Vec<SampleId> = ids.iter().copied().map(SampleId).collect();
    let same = Some(Same { base: Round(base), ids: ids.into() });
    TargetChunk { same, ..chunk(session, round, &[], 0.0) }
}

pub fn demand(n_views: u8, ids: &[u32]) -> Message {
    Message::Demand(Demand { data: config(0).data, n_views, samples: samples(N_SAMPLES, ids) })
}

pub fn all() -> Vec<u32> {
    (0..N_SAMPLES).collect()
}

impl Victim {
    pub fn new(config: EngineConfig) -> Self {
        let mut victim = Victim { engine: Engine::new(config), now: Duration::ZERO };
        victim.step(Event::Connected);
        victim
    }

    /// In its first round, with a demand for two views of the first ten samples.
    pub fn at_work(config: EngineConfig) -> Self {
        let mut victim = Victim::new(config);
        victim.step(Event::RoundStarted(Round(1)));
        victim.step(Event::Demand { samples: (0..10).map(SampleId).collect(), n_views: 2 });
        victim
    }

    pub fn step(&mut self, event: Event) -> Vec<Action> {
        self.engine.step(event, self.now)
    }

    pub fn hear(&mut self, peer: &str, leaf: Leaf, message: Message) -> Vec<Action> {
        let topic = Topic { fleet: "fleet".parse().unwrap(), agent: peer.parse().unwrap(), leaf };
        self.step(Event::Received { topic, message })
    }

    pub fn hear_status(&mut self, peer: &str, status: Status) -> Vec<Action> {
        self.hear(peer, Leaf::Status, Message::Status(status))
    }

    pub fn hear_demand(&mut self, peer: &str, message: Message) {
        self.hear(peer, Leaf::Demand { teacher: None }, message);
    }

    pub fn hear_repair(&mut self, peer: &str, round: u64, missing: BTreeMap<View, SampleSet>) {
        let repair = Repair { data: config(0).data, round: Round(round), missing };
        self.hear(peer, Leaf::Repair { teacher: name(0) }, Message::Repair(repair));
    }

    pub fn hear_chunk(&mut self, peer: &str, chunk: TargetChunk) {
        self.hear(peer, Leaf::Targets { data: chunk.data.short() }, Message::Targets(chunk));
    }

    /// Ticks until `end`, four times a second.
    pub fn run_until(&mut self, end: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        while self.now < end {
            self.now += millis(250);
            actions.extend(self.step(Event::Tick));
        }
        actions
    }

    /// Everything that there is to label now.
    pub fn label_all(&mut self) -> Vec<(View, SampleId)> {
        let mut rows = Vec::new();
        while let Some((view, ids)) = self.engine.next_label_batch(7) {
            assert!(!ids.is_empty());
            rows.extend(ids.into_iter().map(|id| (view, id)));
        }
        rows
    }

    pub fn held(&self, id: u32) -> Option<f32> {
        let mut row = [0.0; N_CLASSES];
        self.engine.teacher_row(SampleId(id), View(0), &mut row).then_some(row[0])
    }

    pub fn refused(&self, reason: &str) -> u64 {
        self.engine.stats().refused.get(reason).copied().unwrap_or_default()
    }
}

pub fn repairs(actions: &[Action]) -> Vec<&Repair> {
    let repair = |action| match action {
        &Action::Publish { message: Message::Repair(ref repair), .. } => Some(repair),
        _ => None,
    };
    actions.iter().filter_map(repair).collect()
}
