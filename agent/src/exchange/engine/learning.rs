//! The student's side: what it wants, what has come, and asking again for what has not.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Action, Engine, EngineConfig};
use crate::exchange::message::{AgentState, Demand, Message, Repair, SampleSet, TargetChunk};
use crate::exchange::target_store::TargetStore;
use crate::exchange::topic::{Leaf, targets_filter};
use crate::exchange::wire::views_per_repair;
use crate::ids::{AgentId, Round, SampleId, View};

/// Asking one teacher for what is missing.
#[derive(Clone, Copy, Debug)]
struct Asking {
    /// When to look whether something is missing; `None` while nothing new is expected.
    at: Option<Duration>,
    wait: Duration,
    /// A retained repair may lie at the broker: of this run, or of one before.
    outstanding: bool,
}

pub(super) struct Learning {
    pub store: TargetStore,
    asking: BTreeMap<AgentId, Asking>,
    repair_after: Duration,
}

impl Learning {
    pub fn new(config: &EngineConfig) -> Self {
        Learning {
            store: TargetStore::new(config.classes.len(), config.limits.max_target_bytes),
            asking: BTreeMap::new(),
            repair_after: config.limits.repair_after,
        }
    }

    /// Something is to come from this teacher: look whether it has after the shortest wait.
    pub fn expect(&mut self, teacher: &AgentId, now: Duration) {
        let anew = Asking { at: Some(now + self.repair_after), wait: self.repair_after, outstanding: true };
        match self.asking.get_mut(teacher) {
            Some(asking) => *asking = Asking { outstanding: asking.outstanding, ..anew },
            None => _ = self.asking.insert(teacher.clone(), anew),
        }
    }

    fn expect_all(&mut self, now: Duration) {
        for asking in self.asking.values_mut() {
            (asking.at, asking.wait) = (Some(now + self.repair_after), self.repair_after);
        }
    }

    /// After a reconnection nobody knows what the broker has kept.
    pub fn connected(&mut self, now: Duration) {
        self.asking.values_mut().for_each(|asking| asking.outstanding = true);
        self.expect_all(now);
    }
}

impl Engine {
    pub(super) fn targets_filter(&self, teacher: &AgentId) -> String {
        targets_filter(&self.config.fleet, teacher, &self.config.data)
    }

    pub(super) fn demand(
        &mut self,
        samples: &[SampleId],
        n_views: u8,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let mut set = SampleSet::new(self.config.n_samples);
        samples.iter().for_each(|id| set.insert(*id));
        self.learning.store.demand(Demand { data: self.config.data, n_views, samples: set });
        self.publish_demands(actions);
        self.learning.expect_all(now);
        self.outgoing.expect(now, self.config.limits.repair_after);
    }

    /// Nothing is wanted any more, and what the broker keeps of it is taken back.
    pub(super) fn withdraw(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.learning.store.withdraw();
        self.outgoing.forget();
        self.publish_demands(actions);
        let teachers: Vec<AgentId> = self.learning.asking.keys().cloned().collect();
        teachers.iter().for_each(|teacher| self.ask(teacher, now, actions));
    }

    pub(super) fn targets(
        &mut self,
        teacher: &AgentId,
        chunk: &TargetChunk,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        if !self.is_teacher(teacher) {
            return self.stats.refuse("not a teacher of ours");
        }
        let n_classes = self.config.classes.len();
        if chunk.data != self.config.data || chunk.n_classes != n_classes {
            return self.stats.refuse("other data");
        }
        // The status alone says which run of the teacher counts and how far it is. A chunk that overtakes it is
        // asked for again; one left over from an earlier run, or of an invented round, must not hold a place
        // that newer rows could then not take.
        match self.peers.get(teacher) {
            Some(peer) if peer.teaches && peer.session == chunk.session && peer.round >= chunk.round => {}
            _ => return self.stats.refuse("soft targets that no status announces"),
        }
        let counts = self.learning.store.apply(teacher, chunk);
        if counts.over_bound > 0 && self.stats.rows_over_bound == 0 {
            let bytes = self.config.limits.max_target_bytes;
            actions.push(Action::Warn(format!("no room for more soft targets than {bytes} bytes of them")));
        }
        self.stats.chunks_in += 1;
        self.stats.rows_applied += counts.applied;
        self.stats.rows_renewed += counts.renewed;
        self.stats.rows_lacking += counts.lacking;
        self.stats.rows_stale += counts.stale;
        self.stats.rows_unwanted += counts.unwanted;
        self.stats.rows_over_bound += counts.over_bound;
        if counts.applied + counts.renewed > 0 {
            self.inputs_answered(chunk, now);
            self.learning.expect(teacher, now);
        }
    }

    /// What `teacher` has been heard to have and this agent lacks.
    pub(super) fn missing(&self, teacher: &AgentId) -> BTreeMap<View, SampleSet> {
        match self.peers.get(teacher) {
            Some(peer)
                if peer.teaches
                    && peer.state != AgentState::Offline
                    && peer.round > Round(0)
                    && self.is_teacher(teacher) =>
            {
                self.learning.store.missing(teacher, peer.round)
            }
            _ => BTreeMap::new(),
        }
    }

    /// Asks each teacher from whom nothing has come for a while for what is missing.
    pub(super) fn ask_for_missing(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let due = self.learning.asking.iter().filter(|(_, asking)| asking.at.is_some_and(|at| at <= now));
        let due: Vec<AgentId> = due.map(|(teacher, _)| teacher.clone()).collect();
        due.iter().for_each(|teacher| self.ask(teacher, now, actions));
    }

    /// Asks ever less often while that does not help; takes the question back when nothing is missing.
    fn ask(&mut self, teacher: &AgentId, now: Duration, actions: &mut Vec<Action>) {
        // Who sends images asks by sending them again.
        let missing = if self.config.sends.is_some() { BTreeMap::new() } else { self.missing(teacher) };
        let filter = self.targets_filter(teacher);
        let Some(asking) = self.learning.asking.get_mut(teacher) else { return };
        let message = if missing.is_empty() {
            asking.at = None;
            if !std::mem::take(&mut asking.outstanding) {
                return;
            }
            Message::Cleared
        } else {
            if asking.wait > self.learning.repair_after {
                // Asking has not helped: perhaps the subscription was lost.
                actions.push(Action::Subscribe(vec![filter]));
            }
            asking.at = Some(now + asking.wait);
            asking.wait = (asking.wait * 2).min(self.config.limits.repair_at_most);
            asking.outstanding = true;
            self.stats.repairs_out += 1;
            let round = self.peers.get(teacher).map_or(Round(0), |peer| peer.round);
            let missing = missing.into_iter().take(views_per_repair(self.config.n_samples)).collect();
            Message::Repair(Repair { data: self.config.data, round, missing })
        };
        let topic = self.topic(Leaf::Repair { teacher: teacher.clone() });
        actions.push(Action::Publish { topic, message, retain: true });
    }
}
