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
    /// Said to be the same as what is held.
    pub renewed: u64,
    /// Said to be the same as what is not held: to be asked for.
    pub lacking: u64,
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
            rows.retain(|(id, view), _| demand.wants(*id, *view));
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

    /// Keeps those rows that are demanded and newer than what is held, and takes those for new that are said to be
    /// the same. The chunk is of as many classes as the store.
    pub fn apply(&mut self, teacher: &AgentId, chunk: &TargetChunk) -> Applied {
        let mut counts = Applied::default();
        let Some(wanted) = &self.wanted else {
            let n_same = chunk.same.as_ref().map_or(0, |same| same.ids.len());
            return Applied { unwanted: (chunk.ids.len() + n_same) as u64, ..counts };
        };
        let mut logits = vec![0.0; self.n_classes];
        let rows = self.teachers.entry(teacher.clone()).or_default();
        for (i, id) in chunk.ids.iter().enumerate() {
            let key = (id, chunk.view);
            if !wanted.wants(id, chunk.view) {
                counts.unwanted += 1;
            } else if let Some((round, held)) = rows.get_mut(&key) {
                if chunk.round > *round {
                    *round = chunk.round;
                    chunk.rows.unpack(i, held);
                    counts.applied += 1;
                } else {
                    counts.stale += 1;
                }
            } else if self.n_rows >= self.max_rows {
                counts.over_bound += 1;
            } else {
                chunk.rows.unpack(i, &mut logits);
                rows.insert(key, (chunk.round, logits.as_slice().into()));
                self.n_rows += 1;
                counts.applied += 1;
            }
        }
        for (id, base) in chunk.same.iter().flat_map(|same| same.ids.iter().map(|id| (id, same.base))) {
            let held = rows.get_mut(&(id, chunk.view)).map(|(round, _)| round);
            match held {
                _ if !wanted.wants(id, chunk.view) => counts.unwanted += 1,
                Some(round) if *round >= chunk.round => counts.stale += 1,
                Some(round) if *round >= base => {
                    *round = chunk.round;
                    counts.renewed += 1;
                }
                _ => counts.lacking += 1,
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
