//! Soft targets received: the newest of each teacher for each demanded view of a sample.

use std::collections::{BTreeMap, HashMap};

use super::message::{Demand, SampleSet, TargetChunk};
use crate::ids::{AgentId, Round, SampleId, View};

/// What a row takes beside its logits: key, round, allocation, and the table's free places; rounded up.
const ROW_OVERHEAD_BYTES: usize = 64;

/// What became of the rows of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub applied: u64,
    /// Not newer than what is held.
    pub stale: u64,
    /// Not demanded.
    pub unwanted: u64,
    /// Beyond the store's bound.
    pub over_bound: u64,
}

/// Rows of one teacher, each of the round it was labelled in.
type Rows = HashMap<(SampleId, View), (Round, Box<[f32]>)>;

/// A bounded store. Rows are `[K]` raw logits.
#[derive(Clone, Debug)]
pub struct TargetStore {
    n_classes: usize,
    max_rows: usize,
    n_rows: usize,
    wanted: Option<Demand>,
    teachers: BTreeMap<AgentId, Rows>,
}

impl TargetStore {
    /// `max_bytes` bounds the memory of all rows.
    pub fn new(n_classes: usize, max_bytes: usize) -> Self {
        let max_rows = max_bytes / (4 * n_classes + ROW_OVERHEAD_BYTES);
        TargetStore { n_classes, max_rows, n_rows: 0, wanted: None, teachers: BTreeMap::new() }
    }

    /// Rows that are not demanded any more are let go.
    pub fn demand(&mut self, demand: Demand) {
        for rows in self.teachers.values_mut() {
            rows.retain(|(id, view), _| is_wanted(&demand, *id, *view));
        }
        self.n_rows = self.teachers.values().map(HashMap::len).sum();
        self.wanted = Some(demand);
    }

    /// Nothing is demanded any more, and nothing held.
    pub fn withdraw(&mut self) {
        *self = TargetStore { teachers: BTreeMap::new(), n_rows: 0, wanted: None, ..*self };
    }

    pub fn wanted(&self) -> Option<&Demand> {
        self.wanted.as_ref()
    }

    /// Keeps those rows that are demanded and newer than what is held.
    pub fn apply(&mut self, teacher: &AgentId, chunk: &TargetChunk) -> Applied {
        let mut counts = Applied::default();
        let Some(wanted) = &self.wanted else {
            return Applied { unwanted: chunk.ids.len() as u64, ..counts };
        };
        let rows = self.teachers.entry(teacher.clone()).or_default();
        for (id, logits) in chunk.ids.iter().zip(chunk.logits.chunks_exact(self.n_classes)) {
            let key = (*id, chunk.view);
            if !is_wanted(wanted, *id, chunk.view) {
                counts.unwanted += 1;
            } else if let Some((round, held)) = rows.get_mut(&key) {
                if chunk.round > *round {
                    *round = chunk.round;
                    held.copy_from_slice(logits);
                    counts.applied += 1;
                } else {
                    counts.stale += 1;
                }
            } else if self.n_rows >= self.max_rows {
                counts.over_bound += 1;
            } else {
                rows.insert(key, (chunk.round, logits.into()));
                self.n_rows += 1;
                counts.applied += 1;
            }
        }
        counts
    }

    /// The mean of the teachers' logits for one view of a sample. False, and `out` untouched, without any.
    pub fn row(&self, id: SampleId, view: View, out: &mut [f32]) -> bool {
        let mut found = self.teachers.values().filter_map(|rows| rows.get(&(id, view)));
        let Some((_, first)) = found.next() else { return false };
        out.copy_from_slice(first);
        let mut n = 1.0;
        for (_, logits) in found {
            n += 1.0;
            out.iter_mut().zip(logits).for_each(|(sum, v)| *sum += v);
        }
        if n > 1.0 {
            out.iter_mut().for_each(|sum| *sum /= n);
        }
        true
    }

    /// What is demanded and not held from `teacher` at `round` or later, by view; views that lack nothing are
    /// left out. A row for which there is no room is not missed: it would be asked for for ever.
    pub fn missing(&self, teacher: &AgentId, round: Round) -> BTreeMap<View, SampleSet> {
        let mut missing = BTreeMap::new();
        let Some(wanted) = &self.wanted else { return missing };
        let rows = self.teachers.get(teacher);
        let mut room = self.max_rows - self.n_rows;
        for view in (0..wanted.n_views).map(View) {
            for id in wanted.samples.iter() {
                match rows.and_then(|rows| rows.get(&(id, view))) {
                    Some((held, _)) if *held >= round => continue,
                    Some(_) => {}
                    None if room == 0 => continue,
                    None => room -= 1,
                }
                let set = || SampleSet::new(wanted.samples.n_samples());
                missing.entry(view).or_insert_with(set).insert(id);
            }
        }
        missing
    }

    /// Whether a row of `teacher` is held at `round` or later.
    pub fn holds(&self, teacher: &AgentId, id: SampleId, view: View, round: Round) -> bool {
        let rows = self.teachers.get(teacher);
        rows.and_then(|rows| rows.get(&(id, view))).is_some_and(|(held, _)| *held >= round)
    }

    /// Lets any later round of `teacher` replace what is held: it has begun to count anew.
    pub fn forget_rounds(&mut self, teacher: &AgentId) {
        for (round, _) in self.teachers.get_mut(teacher).into_iter().flat_map(HashMap::values_mut) {
            *round = Round(0);
        }
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }
}

fn is_wanted(demand: &Demand, id: SampleId, view: View) -> bool {
    view.0 < demand.n_views && demand.samples.contains(id)
}
