//! A set of samples that knows which place each has in it.

use super::message::SampleSet;
use crate::ids::SampleId;

/// Samples whose bits are counted together: those of a 64-bit word.
const WORD: u32 = 64;

#[derive(Clone, Debug)]
pub struct RankedSet {
    words: Vec<u64>,
    /// How many samples come before each word.
    before: Vec<u32>,
}

impl RankedSet {
    pub fn new(set: &SampleSet) -> Self {
        let word = |bytes: &[u8]| {
            bytes.iter().enumerate().fold(0, |word, (i, byte)| word | u64::from(*byte) << (8 * i))
        };
        let words: Vec<u64> = set.bits().chunks(WORD as usize / 8).map(word).collect();
        let mut before = Vec::with_capacity(words.len());
        let mut n = 0;
        for word in &words {
            before.push(n);
            n += word.count_ones();
        }
        RankedSet { words, before }
    }

    /// How many samples of the set come before this one; `None` if it is not in the set.
    pub fn rank(&self, id: SampleId) -> Option<u32> {
        let at = (id.0 / WORD) as usize;
        let (word, bit) = (*self.words.get(at)?, 1 << (id.0 % WORD));
        (word & bit != 0).then(|| self.before[at] + (word & (bit - 1)).count_ones())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranks_count_up_from_0_in_the_order_of_samples(n in 1_u32..400, ids in proptest::collection::btree_set(0_u32..400, 0..200)) {
            let ids: BTreeSet<u32> = ids.into_iter().filter(|id| *id < n).collect();
            let mut set = SampleSet::new(n);
            ids.iter().for_each(|id| set.insert(SampleId(*id)));
            let ranked = RankedSet::new(&set);
            let mut next = 0;
            for id in 0..n + 100 {
                let expected = ids.contains(&id).then_some(next);
                prop_assert_eq!(ranked.rank(SampleId(id)), expected);
                next += u32::from(expected.is_some());
            }
        }
    }
}
