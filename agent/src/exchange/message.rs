//! What agents say to each other. `wire` holds the bytes.

use std::collections::BTreeMap;

use super::rows::Rows;
use super::sample_list::SampleList;
use crate::data::ImageShape;
use crate::ids::{AgentId, Digest, Round, SampleId, View};

/// A set of samples of one data set, a bit each: sample i is bit i % 8 of byte i / 8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleSet {
    n_samples: u32,
    bits: Vec<u8>,
}

impl SampleSet {
    /// An empty set over the samples `0..n_samples`.
    pub fn new(n_samples: u32) -> Self {
        SampleSet { n_samples, bits: vec![0; n_samples.div_ceil(8) as usize] }
    }

    /// `None` unless there is a bit for each sample and none beyond.
    pub fn from_bits(n_samples: u32, bits: Vec<u8>) -> Option<Self> {
        let beyond = n_samples % 8;
        let fits = bits.len() == n_samples.div_ceil(8) as usize
            && (beyond == 0 || bits.last().is_none_or(|last| last >> beyond == 0));
        fits.then_some(SampleSet { n_samples, bits })
    }

    /// Samples beyond the range are left out.
    pub fn insert(&mut self, id: SampleId) {
        if id.0 < self.n_samples {
            self.bits[id.0 as usize / 8] |= 1 << (id.0 % 8);
        }
    }

    pub fn contains(&self, id: SampleId) -> bool {
        self.bits.get(id.0 as usize / 8).is_some_and(|byte| byte >> (id.0 % 8) & 1 == 1)
    }

    /// Puts in what `other`, a set over the same samples, holds.
    pub fn add(&mut self, other: &SampleSet) {
        self.bits.iter_mut().zip(&other.bits).for_each(|(a, b)| *a |= b);
    }

    /// Takes out what `other`, a set over the same samples, holds.
    pub fn subtract(&mut self, other: &SampleSet) {
        self.bits.iter_mut().zip(&other.bits).for_each(|(a, b)| *a &= !b);
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = SampleId> + '_ {
        (0..self.n_samples).map(SampleId).filter(|id| self.contains(*id))
    }

    pub fn len(&self) -> usize {
        self.bits.iter().map(|b| b.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|b| *b == 0)
    }

    pub fn n_samples(&self) -> u32 {
        self.n_samples
    }

    pub fn bits(&self) -> &[u8] {
        &self.bits
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// Trains and teaches.
    Online,
    /// Has trained its stream; still teaches.
    Finished,
    /// Gone, by its own word or by its last will.
    Offline,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub state: AgentState,
    /// Differs between two runs of an agent.
    pub session: u64,
    /// Of the data set and its augmentation.
    pub data: Digest,
    /// Names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// Of the network's forward graph as it was before training.
    pub model: Digest,
    /// The last round of soft targets begun; 0 for none.
    pub round: Round,
    /// It labels images of this shape that students send; `None` if it labels none.
    pub accepts: Option<ImageShape>,
    /// It learns by sending images of this shape; `None` if its demand names what it wants.
    pub sends: Option<ImageShape>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    pub data: Digest,
    /// Every sample of `samples` is wanted in each of the views `0..n_views`.
    pub n_views: u8,
    pub samples: SampleSet,
}

impl Demand {
    pub fn wants(&self, id: SampleId, view: View) -> bool {
        view.0 < self.n_views && self.samples.contains(id)
    }
}

/// What a student lacks of a teacher's round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub data: Digest,
    /// The teacher's last round that the student knows of.
    pub round: Round,
    /// The views that lack something; at least one.
    pub missing: BTreeMap<View, SampleSet>,
}

/// Soft targets: what a teacher's continual-learning head says to one view of some samples.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetChunk {
    /// The run of the teacher that counts `round`.
    pub session: u64,
    pub data: Digest,
    pub model: Digest,
    pub round: Round,
    /// Softmax divisor that the teacher trains its own student head with; the logits are not divided by it.
    pub temperature: f32,
    pub view: View,
    pub n_classes: usize,
    /// Each once; may be empty where `same` is given.
    pub ids: SampleList,
    /// Raw logits, a row for each of `ids`.
    pub rows: Rows,
    pub same: Option<Same>,
}

/// Samples whose rows have hardly changed: whoever holds one that this session sent in round `base` or later holds
/// what is to be learned in the chunk's round.
#[derive(Clone, Debug, PartialEq)]
pub struct Same {
    /// Before the chunk's.
    pub base: Round,
    /// At least one.
    pub ids: SampleList,
}

/// Images of a student whose data nobody else has, to be labelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The student's run.
    pub session: u64,
    /// Of the student's data, under which the soft targets are to come back.
    pub data: Digest,
    pub view: View,
    pub shape: ImageShape,
    pub ids: Vec<SampleId>,
    /// `[ids, C, H, W]`: the view as it is before normalisation.
    pub pixels: Vec<u8>,
    /// Who is to label them; empty for everybody.
    pub teachers: Vec<AgentId>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    Status(Status),
    Demand(Demand),
    Repair(Repair),
    Targets(TargetChunk),
    Inputs(Inputs),
    /// An empty payload: what was retained under the topic holds no more.
    Cleared,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_in(n in 1_u32..300, ids in proptest::collection::btree_set(0_u32..400, 0..50)) {
            let mut set = SampleSet::new(n);
            ids.iter().for_each(|id| set.insert(SampleId(*id)));
            let expected: Vec<SampleId> = ids.iter().filter(|id| **id < n).map(|id| SampleId(*id)).collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(set.len(), expected.len());
            prop_assert_eq!(SampleSet::from_bits(n, set.bits().to_vec()), Some(set));
        }
    }

    proptest! {
        #[test]
        fn sets_are_added_and_subtracted(a in 0_u32..1 << 20, b in 0_u32..1 << 20) {
            let set = |bits: u32| SampleSet::from_bits(20, bits.to_le_bytes()[..3].to_vec()).unwrap();
            let (mut sum, mut rest) = (set(a), set(a));
            sum.add(&set(b));
            rest.subtract(&set(b));
            prop_assert_eq!(sum, set(a | b));
            prop_assert_eq!(rest, set(a & !b));
        }
    }

    #[test]
    fn bits_beyond_the_last_sample_are_refused() {
        assert!(SampleSet::from_bits(9, vec![0xff, 0x01]).is_some());
        assert!(SampleSet::from_bits(9, vec![0xff, 0x02]).is_none());
        assert!(SampleSet::from_bits(9, vec![0xff]).is_none());
    }
}
