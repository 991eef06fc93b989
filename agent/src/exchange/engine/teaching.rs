//! The teacher's side: what peers demand, and what of it this round has yet to label.

use std::collections::BTreeMap;

use super::sent::Sent;
use super::{Engine, EngineConfig, MAX_PEERS, Peer};
use crate::exchange::message::{Demand, Repair, SampleSet};
use crate::ids::{AgentId, Round, SampleId, View};

/// What a demand takes beside its set, rounded up.
const DEMAND_OVERHEAD_BYTES: usize = 256;

/// Work of one view.
struct ViewWork {
    /// By any student who is there.
    wanted: SampleSet,
    /// Labelled in this round, and no student has said that it lacks it.
    done: SampleSet,
    /// How many samples are wanted and not done.
    n_left: usize,
    /// Where to go on, so that whoever asks again and again does not keep others waiting.
    cursor: u32,
}

/// Who demands, and of whom: of all teachers or of this one by its name. An agent that comes back with other teachers
/// may have left the one beside the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Demander {
    pub student: AgentId,
    pub of_this_teacher: bool,
}

/// The demands of all peers. There is no queue: what is left to do is what is wanted and not done, so it cannot
/// outgrow the data set, and what nobody wants any more is not labelled.
pub(super) struct Teaching {
    n_samples: u32,
    max_demands: usize,
    max_views: usize,
    demands: BTreeMap<Demander, Demand>,
    views: Vec<ViewWork>,
    /// The view whose turn it is.
    turn: usize,
    /// `wanted` and `n_left` are out of date.
    changed: bool,
}

impl Teaching {
    pub fn new(config: &EngineConfig) -> Self {
        let set_bytes = config.n_samples.div_ceil(8) as usize;
        let half = config.limits.max_teaching_bytes / 2;
        Teaching {
            n_samples: config.n_samples,
            max_demands: (half / (set_bytes + DEMAND_OVERHEAD_BYTES)).clamp(1, MAX_PEERS),
            max_views: (half / (2 * set_bytes).max(1)).clamp(1, usize::from(u8::MAX)),
            demands: BTreeMap::new(),
            views: Vec::new(),
            turn: 0,
            changed: false,
        }
    }

    /// Everything is to be labelled anew.
    pub fn start_round(&mut self) {
        self.views.clear();
        self.changed = true;
    }

    /// Students have come or gone.
    pub fn students_changed(&mut self) {
        self.changed = true;
    }

    /// False, and nothing changed, if there is no room for another demand.
    fn demand(
        &mut self,
        of: Demander,
        demand: Demand,
        sent: &mut Sent,
        is_student: impl Fn(&AgentId) -> bool,
    ) -> bool {
        let before = self.demands.get(&of);
        if before == Some(&demand) {
            return true;
        }
        // What was labelled before the student wanted it, it has not kept.
        for (view, work) in (0..demand.n_views).zip(&mut self.views) {
            let mut fresh = demand.samples.clone();
            if let Some(before) = before.filter(|before| view < before.n_views) {
                fresh.subtract(&before.samples);
            }
            work.done.subtract(&fresh);
        }
        let held = |id, view| before.is_some_and(|before| before.wants(id, view));
        sent.ask(|id, view| demand.wants(id, view) && !held(id, view));
        if before.is_none() && self.demands.len() >= self.max_demands {
            self.demands.retain(|of, _| is_student(&of.student));
            if self.demands.len() >= self.max_demands {
                return false;
            }
        }
        self.demands.insert(of, demand);
        self.changed = true;
        true
    }

    pub fn forget(&mut self, of: &Demander) {
        self.changed |= self.demands.remove(of).is_some();
    }

    fn relabel(&mut self, missing: &BTreeMap<View, SampleSet>) {
        for (view, set) in missing {
            if let Some(work) = self.views.get_mut(usize::from(view.0)) {
                work.done.subtract(set);
            }
        }
        self.changed = true;
    }

    /// The next samples of one view. Views take turns, each until its last sample, so that what is labelled one after
    /// another goes into one message.
    pub fn next(
        &mut self,
        max: usize,
        sent: &mut Sent,
        round: Round,
        is_student: impl Fn(&AgentId) -> bool,
    ) -> Option<(View, Vec<SampleId>)> {
        if std::mem::take(&mut self.changed) {
            self.renew(is_student);
            // Those who are away for a while still hold what they have.
            let mut known = SampleSet::new(self.n_samples);
            self.demands.values().for_each(|demand| known.add(&demand.samples));
            let n_views = self.demands.values().map(|demand| demand.n_views).max().unwrap_or(0);
            sent.keep(round, |id, view| view.0 < n_views && known.contains(id));
        }
        let n_views = self.views.len();
        let view =
            (self.turn..self.turn + n_views).map(|v| v % n_views).find(|v| self.views[*v].n_left > 0)?;
        let ids = self.views[view].take(max);
        self.turn = if self.views[view].cursor == 0 { (view + 1) % n_views } else { view };
        Some((View(view as u8), ids))
    }

    /// Nothing is left to label, as far as is known.
    pub fn is_done(&self) -> bool {
        self.views.iter().all(|work| work.n_left == 0)
    }

    fn renew(&mut self, is_student: impl Fn(&AgentId) -> bool) {
        let here = self.demands.iter().filter(|(of, _)| is_student(&of.student)).map(|(_, demand)| demand);
        let mut demands: Vec<&Demand> = here.collect();
        demands.sort_by_key(|demand| demand.n_views);
        let n_views = demands.last().map_or(0, |demand| usize::from(demand.n_views));
        let none = SampleSet::new(self.n_samples);
        while self.views.len() < n_views {
            let (wanted, done) = (none.clone(), none.clone());
            self.views.push(ViewWork { wanted, done, n_left: 0, cursor: 0 });
        }
        // From the last view down: each demand for it is one for all views before it.
        let mut wanted = none;
        for (view, work) in self.views.iter_mut().enumerate().rev() {
            while let Some(demand) = demands.pop_if(|demand| usize::from(demand.n_views) > view) {
                wanted.add(&demand.samples);
            }
            work.wanted.clone_from(&wanted);
            let mut left = wanted.clone();
            left.subtract(&work.done);
            work.n_left = left.len();
        }
    }
}

impl ViewWork {
    /// Up to `max` samples that are left to do, from the cursor on, which ends at 0 behind the last.
    fn take(&mut self, max: usize) -> Vec<SampleId> {
        let n = self.wanted.n_samples();
        let is_left = |id: &SampleId| self.wanted.contains(*id) && !self.done.contains(*id);
        let left_from = |cursor: u32| (cursor..n).map(SampleId).filter(is_left);
        if left_from(self.cursor).next().is_none() {
            self.cursor = 0;
        }
        let mut left = left_from(self.cursor);
        let ids: Vec<SampleId> = left.by_ref().take(max.min(self.n_left)).collect();
        self.cursor = left.next().map_or(0, |next| next.0);
        ids.iter().for_each(|id| self.done.insert(*id));
        self.n_left -= ids.len();
        ids
    }
}

impl Engine {
    pub(super) fn peer_demand(&mut self, of: Demander, demand: Demand) {
        if demand.data != self.config.data || demand.samples.n_samples() != self.config.n_samples {
            return self.stats.refuse("other data");
        }
        if usize::from(demand.n_views) > self.teaching.max_views {
            self.teaching.forget(&of);
            return self.stats.refuse("views beyond the bound");
        }
        let is_student = |id: &AgentId| self.peers.get(id).is_some_and(Peer::is_student);
        if !self.teaching.demand(of, demand, &mut self.sending.sent, is_student) {
            self.stats.refuse("demands beyond the bound");
        }
    }

    pub(super) fn peer_repair(&mut self, student: &AgentId, repair: &Repair) {
        let of_this_data = |set: &SampleSet| set.n_samples() == self.config.n_samples;
        if repair.data != self.config.data || !repair.missing.values().all(of_this_data) {
            return self.stats.refuse("other data");
        }
        if !self.peers.get(student).is_some_and(Peer::is_student) {
            return self.stats.refuse("a repair of nobody who learns");
        }
        if repair.round != self.round {
            // Sent before this round was known, or retained since an earlier run: all is labelled anew anyway.
            return self.stats.refuse("a repair of another round");
        }
        self.stats.repairs_in += 1;
        self.teaching.relabel(&repair.missing);
    }
}
