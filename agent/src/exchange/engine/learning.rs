//! The student's side: what it wants, what has come, and asking again for what has not.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Action, Engine, EngineConfig};
use crate::exchange::message::{Demand, Message, Repair, SampleSet, TargetChunk};
use crate::exchange::target_store::TargetStore;
use crate::exchange::topic::{Leaf, targets_filter};
use crate::ids::{AgentId, SampleId};

/// Asking one teacher for what is missing.
#[derive(Clone, Copy, Debug)]
struct Asking {
    /// When to look next.
    at: Duration,
    wait: Duration,
    /// A retained repair message of ours is at the broker.
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
        let outstanding = self.asking.get(teacher).is_some_and(|a| a.outstanding);
        let asking = Asking { at: now + self.repair_after, wait: self.repair_after, outstanding };
        self.asking.insert(teacher.clone(), asking);
    }

    pub fn expect_anew(&mut self, now: Duration) {
        let teachers: Vec<AgentId> = self.asking.keys().cloned().collect();
        teachers.iter().for_each(|teacher| self.expect(teacher, now));
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
        let demand = Demand { data: self.config.data, n_views, samples: set };
        self.learning.store.demand(demand.clone());
        actions.push(self.publish_demand(demand));
        self.learning.expect_anew(now);
    }

    pub(super) fn targets(&mut self, teacher: AgentId, chunk: &TargetChunk, now: Duration) {
        if !self.is_teacher(&teacher) {
            return self.stats.refuse("not a teacher of ours");
        }
        let n_classes = self.config.classes.len();
        if chunk.data != self.config.data || chunk.logits.len() != chunk.ids.len() * n_classes {
            return self.stats.refuse("other data");
        }
        let Some(peer) = self.peers.get_mut(&teacher).filter(|p| p.fits) else {
            return self.stats.refuse("a peer without a status that fits");
        };
        // The chunk may overtake the status that announces its round.
        peer.status.round = peer.status.round.max(chunk.round);
        let counts = self.learning.store.apply(&teacher, chunk);
        self.stats.chunks_in += 1;
        self.stats.rows_applied += counts.applied;
        self.stats.rows_stale += counts.stale;
        self.stats.rows_unwanted += counts.unwanted;
        self.stats.rows_over_bound += counts.over_bound;
        if counts.applied > 0 {
            self.learning.expect(&teacher, now);
        }
    }

    /// Asks each teacher from whom nothing has come for a while for what is missing, ever less often while that
    /// does not help; takes the question back when nothing is missing.
    pub(super) fn ask_for_missing(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let due: Vec<_> = self
            .teachers()
            .filter(|(id, _)| self.learning.asking.get(id).is_some_and(|asking| asking.at <= now))
            .map(|(id, round)| (id.clone(), round))
            .collect();
        for (teacher, round) in due {
            let missing = self.learning.store.missing(&teacher, round);
            let lacking = missing.iter().any(|set| !set.is_empty());
            let Some(asking) = self.learning.asking.get_mut(&teacher) else { continue };
            let was_outstanding = asking.outstanding;
            asking.outstanding = lacking;
            asking.at = now + asking.wait;
            asking.wait = if lacking {
                (asking.wait * 2).min(self.config.limits.repair_at_most)
            } else {
                self.config.limits.repair_after
            };
            let message = match (lacking, was_outstanding) {
                (true, _) => {
                    self.stats.repairs_out += 1;
                    Message::Repair(Repair { data: self.config.data, round, missing })
                }
                (false, true) => Message::Cleared,
                (false, false) => continue,
            };
            actions.push(Action::Publish { topic: self.topic(Leaf::Repair { teacher }), message, retain: true });
        }
    }
}
