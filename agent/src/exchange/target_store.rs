//! Soft targets received: the newest of each teacher for each demanded view of a sample.
//!
//! Rows are held in half precision, whatever form they came in, and in blocks: a row costs its logits and a round, and
//! what a store takes is known to the byte but for what its tables of blocks take.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::message::{Demand, SampleSet, TargetChunk};
use super::ranked_set::RankedSet;
use crate::ids::{AgentId, Round, SampleId, View};

/// Rows of one block, of samples that follow each other in the demand: a bit each in a `u64`.
const BLOCK_ROWS: u32 = 64;
/// What a block takes beside its rounds and logits: its place in a table, which may be half empty, and allocations.
const BLOCK_OVERHEAD_BYTES: usize = 160;

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

/// Rows of one view for samples of consecutive ranks.
#[derive(Clone, Debug)]
struct Block {
    /// A bit for each row that is there.
    held: u64,
    /// In which each was labelled.
    rounds: Box<[Round; BLOCK_ROWS as usize]>,
    /// `[BLOCK_ROWS, K]`.
    logits: Box<[f16]>,
}

/// Of one teacher, by view and rank of the first row.
type Blocks = HashMap<(View, u32), Block>;

/// Where a row is.
#[derive(Clone, Copy)]
struct Place {
    block: (View, u32),
    row: usize,
}

impl Block {
    fn new(n_classes: usize) -> Self {
        let logits = vec![f16::ZERO; BLOCK_ROWS as usize * n_classes].into();
        Block { held: 0, rounds: Box::new([Round(0); BLOCK_ROWS as usize]), logits }
    }

    fn bytes(n_classes: usize) -> usize {
        BLOCK_ROWS as usize * (size_of::<Round>() + 2 * n_classes) + BLOCK_OVERHEAD_BYTES
    }

    fn round(&self, row: usize) -> Option<Round> {
        (self.held >> row & 1 == 1).then(|| self.rounds[row])
    }

    /// `[K]`.
    fn row(&self, row: usize) -> &[f16] {
        let n_classes = self.logits.len() / BLOCK_ROWS as usize;
        &self.logits[row * n_classes..(row + 1) * n_classes]
    }

    /// Takes a row in, with the logits to be written.
    fn put(&mut self, row: usize, round: Round) -> &mut [f16] {
        let n_classes = self.logits.len() / BLOCK_ROWS as usize;
        self.held |= 1 << row;
        self.rounds[row] = round;
        &mut self.logits[row * n_classes..(row + 1) * n_classes]
    }
}

/// What is demanded, and where its rows have their places.
#[derive(Clone, Debug)]
struct Wanted {
    demand: Demand,
    ranks: RankedSet,
}

impl Wanted {
    fn place(&self, id: SampleId, view: View) -> Option<Place> {
        let rank = self.ranks.rank(id).filter(|_| view.0 < self.demand.n_views)?;
        Some(Place { block: (view, rank / BLOCK_ROWS), row: (rank % BLOCK_ROWS) as usize })
    }
}

/// A bounded store. Rows are `[K]` raw logits.
#[derive(Clone, Debug)]
pub struct TargetStore {
    n_classes: usize,
    max_blocks: usize,
    n_blocks: usize,
    wanted: Option<Wanted>,
    teachers: BTreeMap<AgentId, Blocks>,
}

impl TargetStore {
    /// `max_bytes` bounds the memory of all rows.
    pub fn new(n_classes: usize, max_bytes: usize) -> Self {
        let max_blocks = max_bytes / Block::bytes(n_classes);
        TargetStore { n_classes, max_blocks, n_blocks: 0, wanted: None, teachers: BTreeMap::new() }
    }

    /// Rows that are not demanded any more are let go, and so are those that have no room in their new places.
    pub fn demand(&mut self, demand: Demand) {
        let ranks = RankedSet::new(&demand.samples);
        let Some(before) = self.wanted.replace(Wanted { demand, ranks }) else { return };
        let teachers: Vec<AgentId> = self.teachers.keys().cloned().collect();
        for teacher in teachers {
            let old = self.teachers.remove(&teacher).unwrap_or_default();
            self.n_blocks -= old.len();
            for view in (0..before.demand.n_views).map(View) {
                for id in before.demand.samples.iter() {
                    let Some(from) = before.place(id, view) else { continue };
                    let Some(block) = old.get(&from.block) else { continue };
                    let Some(round) = block.round(from.row) else { continue };
                    let to = self.wanted.as_ref().and_then(|wanted| wanted.place(id, view));
                    if let Some(to) = to
                        && let Some(new) = self.block(&teacher, to)
                    {
                        new.put(to.row, round).copy_from_slice(block.row(from.row));
                    }
                }
            }
        }
    }

    /// The block of a place, made if there is room for it.
    fn block(&mut self, teacher: &AgentId, place: Place) -> Option<&mut Block> {
        if !self.teachers.contains_key(teacher) {
            self.teachers.insert(teacher.clone(), Blocks::new());
        }
        let blocks = self.teachers.get_mut(teacher)?;
        match blocks.entry(place.block) {
            Entry::Occupied(block) => Some(block.into_mut()),
            Entry::Vacant(_) if self.n_blocks >= self.max_blocks => None,
            Entry::Vacant(room) => {
                self.n_blocks += 1;
                Some(room.insert(Block::new(self.n_classes)))
            }
        }
    }

    /// Nothing is demanded any more, and nothing held.
    pub fn withdraw(&mut self) {
        *self = TargetStore { teachers: BTreeMap::new(), n_blocks: 0, wanted: None, ..*self };
    }

    pub fn wanted(&self) -> Option<&Demand> {
        self.wanted.as_ref().map(|wanted| &wanted.demand)
    }

    /// Keeps those rows that are demanded and newer than what is held, and takes those for new that are said to be
    /// the same. The chunk is of as many classes as the store.
    pub fn apply(&mut self, teacher: &AgentId, chunk: &TargetChunk) -> Applied {
        let mut counts = Applied::default();
        let n_same = chunk.same.as_ref().map_or(0, |same| same.ids.len());
        let Some(wanted) = self.wanted.take() else {
            return Applied { unwanted: (chunk.ids.len() + n_same) as u64, ..counts };
        };
        for (i, id) in chunk.ids.iter().enumerate() {
            let Some(place) = wanted.place(id, chunk.view) else {
                counts.unwanted += 1;
                continue;
            };
            let Some(block) = self.block(teacher, place) else {
                counts.over_bound += 1;
                continue;
            };
            if block.round(place.row).is_some_and(|held| chunk.round <= held) {
                counts.stale += 1;
            } else {
                chunk.rows.unpack_half(i, block.put(place.row, chunk.round));
                counts.applied += 1;
            }
        }
        for (id, base) in chunk.same.iter().flat_map(|same| same.ids.iter().map(|id| (id, same.base))) {
            let Some(place) = wanted.place(id, chunk.view) else {
                counts.unwanted += 1;
                continue;
            };
            let block = self.teachers.get_mut(teacher).and_then(|blocks| blocks.get_mut(&place.block));
            let held = block.and_then(|block| block.round(place.row).map(|_| &mut block.rounds[place.row]));
            match held {
                Some(round) if *round >= chunk.round => counts.stale += 1,
                Some(round) if *round >= base => {
                    *round = chunk.round;
                    counts.renewed += 1;
                }
                _ => counts.lacking += 1,
            }
        }
        self.wanted = Some(wanted);
        counts
    }

    /// The mean of the teachers' logits for one view of a sample. False, and `out` untouched, without any.
    pub fn row(&self, id: SampleId, view: View, out: &mut [f32]) -> bool {
        let Some(place) = self.wanted.as_ref().and_then(|wanted| wanted.place(id, view)) else {
            return false;
        };
        let mut found = self.teachers.values().filter_map(|blocks| {
            let block = blocks.get(&place.block)?;
            block.round(place.row).map(|_| block.row(place.row))
        });
        let Some(first) = found.next() else { return false };
        first.convert_to_f32_slice(out);
        let mut n = 1.0;
        for logits in found {
            n += 1.0;
            out.iter_mut().zip(logits).for_each(|(sum, v)| *sum += v.to_f32());
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
        let blocks = self.teachers.get(teacher);
        let mut room = self.max_blocks - self.n_blocks;
        // The last block that would have to be made, and whether there is room for it.
        let mut new: Option<((View, u32), bool)> = None;
        let has_no_room = |new: Option<((View, u32), bool)>, place: Place| new == Some((place.block, false));
        for view in (0..wanted.demand.n_views).map(View) {
            for id in wanted.demand.samples.iter() {
                let Some(place) = wanted.place(id, view) else { continue };
                match blocks.and_then(|blocks| blocks.get(&place.block)) {
                    Some(block) if block.round(place.row).is_some_and(|held| held >= round) => continue,
                    Some(_) => {}
                    None if new.is_some_and(|(at, _)| at == place.block) => {}
                    None => {
                        new = Some((place.block, room > 0));
                        room = room.saturating_sub(1);
                    }
                }
                if has_no_room(new, place) {
                    continue;
                }
                let set = || SampleSet::new(wanted.demand.samples.n_samples());
                missing.entry(view).or_insert_with(set).insert(id);
            }
        }
        missing
    }

    /// Whether a row of `teacher` is held at `round` or later.
    pub fn holds(&self, teacher: &AgentId, id: SampleId, view: View, round: Round) -> bool {
        let Some(place) = self.wanted.as_ref().and_then(|wanted| wanted.place(id, view)) else {
            return false;
        };
        let block = self.teachers.get(teacher).and_then(|blocks| blocks.get(&place.block));
        block.and_then(|block| block.round(place.row)).is_some_and(|held| held >= round)
    }

    /// Lets any later round of `teacher` replace what is held: it has begun to count anew.
    pub fn forget_rounds(&mut self, teacher: &AgentId) {
        for block in self.teachers.get_mut(teacher).into_iter().flat_map(HashMap::values_mut) {
            block.rounds.fill(Round(0));
        }
    }
}
