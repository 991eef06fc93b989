//! Soft targets received: the newest of each teacher for each demanded view of a sample.

use std::collections::{BTreeMap, HashMap};

use super::message::{Demand, SampleSet, TargetChunk};
use crate::ids::{AgentId, Round, SampleId, View};

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

/// A bounded store. Rows are `[K]` raw logits.
#[derive(Clone, Debug)]
pub struct TargetStore {
    n_classes: usize,
    max_rows: usize,
    n_rows: usize,
    wanted: Option<Demand>,
    teachers: BTreeMap<AgentId, HashMap<(SampleId, View), (Round, Box<[f32]>)>>,
}

impl TargetStore {
    /// `max_bytes` bounds the logits held.
    pub fn new(n_classes: usize, max_bytes: usize) -> Self {
        let max_rows = max_bytes / (4 * n_classes.max(1));
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

    /// What is demanded and not held from `teacher` at `round` or later: one set a view.
    pub fn missing(&self, teacher: &AgentId, round: Round) -> Vec<SampleSet> {
        let Some(wanted) = &self.wanted else { return Vec::new() };
        let rows = self.teachers.get(teacher);
        let held = |id, view| rows.and_then(|r| r.get(&(id, view))).is_some_and(|(held, _)| *held >= round);
        (0..wanted.n_views)
            .map(|view| {
                let mut missing = SampleSet::new(wanted.samples.n_samples());
                wanted.samples.iter().filter(|id| !held(*id, View(view))).for_each(|id| missing.insert(id));
                missing
            })
            .collect()
    }

    /// Lets any later round of `teacher` replace what is held: it has begun to count anew.
    pub fn forget_rounds(&mut self, teacher: &AgentId) {
        for (round, _) in self.teachers.entry(teacher.clone()).or_default().values_mut() {
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
