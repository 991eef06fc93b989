//! The replay memory: which samples of earlier experiences are kept, within a bound.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::herding;
use crate::draw::Draw;
use crate::ids::SampleId;

/// How the samples that are kept are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// A uniform sample of everything offered (Vitter 1985, algorithm R).
    Reservoir,
    /// Equally many of each class, a uniform sample of the class.
    ClassBalanced,
    /// Equally many of each class, those whose mean feature stays nearest to the class's (Rebuffi et al. 2017).
    Herding,
}

/// What is kept. Its whole state is how many samples were offered and which are held, in order; draws follow from
/// the seed.
#[derive(Clone, Debug)]
pub struct ReplayMemory {
    selection: Selection,
    capacity: usize,
    /// Places in the reservoir.
    places: Draw,
    /// The rank of a sample within its class.
    ranks: Draw,
    n_seen: u64,
    /// By class where classes have equal shares, and then best first.
    ids: Vec<SampleId>,
}

impl ReplayMemory {
    pub fn new(selection: Selection, capacity: usize, seed: u64) -> Self {
        let (places, ranks) = (Draw::new(seed, "replay"), Draw::new(seed, "replay-rank"));
        ReplayMemory { selection, capacity, places, ranks, n_seen: 0, ids: Vec::new() }
    }

    /// Whether [`ReplayMemory::offer`] reads features.
    pub fn needs_features(&self) -> bool {
        self.selection == Selection::Herding && self.capacity > 0
    }

    /// Samples of which [`ReplayMemory::offer`] reads features when it is offered `new`: those, and those held of
    /// the same classes.
    pub fn candidates(&self, new: &[SampleId], label: impl Fn(SampleId) -> u16) -> Vec<SampleId> {
        let classes: BTreeSet<u16> = new.iter().map(|id| label(*id)).collect();
        let held = self.ids.iter().filter(|id| classes.contains(&label(**id)));
        let all: BTreeSet<SampleId> = held.chain(new).copied().collect();
        all.into_iter().collect()
    }

    /// Offers the samples of an experience, in order. `features` has those of [`ReplayMemory::candidates`], and is
    /// read by herding alone.
    pub fn offer(
        &mut self,
        new: &[SampleId],
        label: impl Fn(SampleId) -> u16,
        features: &BTreeMap<SampleId, Vec<f32>>,
    ) {
        if self.capacity == 0 {
            return;
        }
        match self.selection {
            Selection::Reservoir => self.offer_to_reservoir(new),
            Selection::ClassBalanced | Selection::Herding => self.offer_by_class(new, label, features),
        }
    }

    /// The n-th sample ever offered takes the place of a draw below n, if that is within the capacity.
    fn offer_to_reservoir(&mut self, new: &[SampleId]) {
        for &id in new {
            self.n_seen += 1;
            if self.ids.len() < self.capacity {
                self.ids.push(id);
            } else {
                let place = self.places.below(self.n_seen, &[self.n_seen]);
                if let Some(held) = usize::try_from(place).ok().and_then(|p| self.ids.get_mut(p)) {
                    *held = id;
                }
            }
        }
    }

    /// A class keeps its best: the smallest draws, or the first that herding takes. Shares only shrink, so that the
    /// best of what is held and what is new are the best of all that were ever offered.
    fn offer_by_class(
        &mut self,
        new: &[SampleId],
        label: impl Fn(SampleId) -> u16,
        features: &BTreeMap<SampleId, Vec<f32>>,
    ) {
        self.n_seen += new.len() as u64;
        let mut classes: BTreeMap<u16, Vec<SampleId>> = BTreeMap::new();
        for &id in &self.ids {
            classes.entry(label(id)).or_default().push(id);
        }
        let mut offered: BTreeMap<u16, Vec<SampleId>> = BTreeMap::new();
        for &id in new {
            offered.entry(label(id)).or_default().push(id);
        }
        for class in offered.keys() {
            classes.entry(*class).or_default();
        }
        let n_classes = classes.len();
        let (share, n_larger) = (self.capacity / n_classes.max(1), self.capacity % n_classes.max(1));
        for (i, (class, held)) in classes.iter_mut().enumerate() {
            let share = share + usize::from(i < n_larger);
            if let Some(offered) = offered.remove(class) {
                let all: BTreeSet<SampleId> = held.iter().copied().chain(offered).collect();
                *held = match self.selection {
                    Selection::Herding => herding::herd(&all, features, share),
                    _ => self.ranked(all),
                };
            }
            held.truncate(share);
        }
        self.ids = classes.into_values().flatten().collect();
    }

    fn ranked(&self, ids: BTreeSet<SampleId>) -> Vec<SampleId> {
        let mut ranked: Vec<(u64, SampleId)> =
            ids.into_iter().map(|id| (self.ranks.at(&[u64::from(id.0)]), id)).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, id)| id).collect()
    }

    pub fn ids(&self) -> &[SampleId] {
        &self.ids
    }

    pub fn n_seen(&self) -> u64 {
        self.n_seen
    }

    /// Goes on from a saved state; ids beyond the capacity are left out.
    pub fn restore(&mut self, n_seen: u64, mut ids: Vec<SampleId>) {
        ids.truncate(self.capacity);
        self.n_seen = n_seen;
        self.ids = ids;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(selection: Selection, capacity: usize, seed: u64) -> ReplayMemory {
        ReplayMemory::new(selection, capacity, seed)
    }

    /// Class of a sample in these tests.
    fn label(id: SampleId) -> u16 {
        (id.0 / 100) as u16
    }

    fn ids(range: std::ops::Range<u32>) -> Vec<SampleId> {
        range.map(SampleId).collect()
    }

    fn offer(memory: &mut ReplayMemory, new: &[SampleId]) {
        let features: BTreeMap<SampleId, Vec<f32>> = memory
            .candidates(new, label)
            .into_iter()
            .map(|id| (id, vec![(id.0 % 7) as f32 + 1.0, (id.0 % 11) as f32, 1.0]))
            .collect();
        memory.offer(new, label, &features);
    }

    #[test]
    fn every_sample_is_held_equally_often() {
        for selection in [Selection::Reservoir, Selection::ClassBalanced] {
            let mut n_held = [0_u32; 40];
            for seed in 0..2000 {
                let mut memory = memory(selection, 10, seed);
                offer(&mut memory, &ids(0..15));
                offer(&mut memory, &ids(15..40));
                assert_eq!(memory.ids().len(), 10);
                for id in memory.ids() {
                    n_held[id.0 as usize] += 1;
                }
            }
            // 2000 trials at 1/4: mean 500, standard deviation 19.4.
            assert!(n_held.iter().all(|n| (400..600).contains(n)), "{selection:?} {n_held:?}");
        }
    }

    #[test]
    fn a_restored_memory_goes_on_as_the_one_that_was_saved() {
        for selection in [Selection::Reservoir, Selection::ClassBalanced, Selection::Herding] {
            let mut whole = memory(selection, 10, 7);
            let mut first = memory(selection, 10, 7);
            for memory in [&mut whole, &mut first] {
                offer(memory, &ids(0..60));
                offer(memory, &ids(100..160));
            }
            let mut second = memory(selection, 10, 7);
            second.restore(first.n_seen(), first.ids().to_vec());
            offer(&mut whole, &ids(60..100));
            offer(&mut second, &ids(60..100));
            assert_eq!(second.ids(), whole.ids(), "{selection:?}");
        }
    }

    #[test]
    fn classes_have_equal_shares() {
        for selection in [Selection::ClassBalanced, Selection::Herding] {
            let mut memory = memory(selection, 10, 7);
            for (n, expected) in [(1, vec![10]), (2, vec![5, 5]), (3, vec![4, 3, 3])] {
                offer(&mut memory, &ids((n - 1) * 100..n * 100));
                let held: Vec<usize> = (0..n as u16)
                    .map(|c| memory.ids().iter().filter(|id| label(**id) == c).count())
                    .collect();
                assert_eq!(held, expected, "{selection:?}");
            }
        }
    }

    /// Values of docs/streams.md, computed there by an independent program.
    #[test]
    fn the_written_format_is_kept() {
        let digits = crate::data::load("digits").unwrap().train;
        let label = |id: SampleId| digits.label(id);
        let all = ids(0..digits.len() as u32);
        let new: Vec<SampleId> = all.into_iter().filter(|id| [3, 8].contains(&label(*id))).collect();
        let first = |selection| {
            let mut memory = memory(selection, 100, 1);
            memory.offer(&new, label, &BTreeMap::new());
            memory.ids()[..8].iter().map(|id| id.0).collect::<Vec<_>>()
        };
        assert_eq!(first(Selection::Reservoir), [3, 8, 1379, 561, 969, 1158, 33, 42]);
        assert_eq!(first(Selection::ClassBalanced), [377, 635, 931, 475, 1378, 1178, 250, 1109]);
    }

    #[test]
    fn no_capacity_holds_nothing() {
        for selection in [Selection::Reservoir, Selection::ClassBalanced, Selection::Herding] {
            let mut memory = memory(selection, 0, 1);
            offer(&mut memory, &ids(0..3));
            assert!(memory.ids().is_empty());
        }
    }
}
