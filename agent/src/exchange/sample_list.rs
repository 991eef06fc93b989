//! Samples that a message names, as it writes them: one by one, or a bit each from the first to the last.

use crate::ids::SampleId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleList {
    /// In the order of what belongs to them.
    Listed(Vec<SampleId>),
    /// Ascending: bit j % 8 of byte j / 8 stands for sample `first` + j.
    Window { first: SampleId, bits: Vec<u8> },
}

/// Bytes of an id in a list.
const ID_BYTES: usize = 4;

impl SampleList {
    /// The shorter form of ids that ascend.
    pub fn shortest(ids: &[SampleId]) -> Self {
        let (Some(first), Some(last)) = (ids.first().copied(), ids.last()) else {
            return SampleList::Listed(Vec::new());
        };
        let n_bytes = window_bytes(first, *last);
        if n_bytes >= ID_BYTES * ids.len() {
            return SampleList::Listed(ids.to_vec());
        }
        let mut bits = vec![0; n_bytes];
        for id in ids {
            let at = (id.0 - first.0) as usize;
            bits[at / 8] |= 1 << (at % 8);
        }
        SampleList::Window { first, bits }
    }

    /// How many of these ascending ids a list of at most `max_bytes` takes, with `bytes_each` more for each.
    pub fn fitting(ids: &[SampleId], bytes_each: usize, max_bytes: usize) -> usize {
        let fits = |n: usize| {
            let list_bytes = (ID_BYTES * n).min(window_bytes(ids[0], ids[n - 1]));
            n * bytes_each + list_bytes <= max_bytes
        };
        (1..=ids.len()).take_while(|n| fits(*n)).last().unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = SampleId> + '_ {
        let (listed, first, bits): (&[SampleId], u32, &[u8]) = match self {
            SampleList::Listed(ids) => (ids, 0, &[]),
            SampleList::Window { first, bits } => (&[], first.0, bits),
        };
        let window = bits.iter().enumerate().flat_map(move |(i, byte)| {
            let set = (0..8).filter(move |bit| byte >> bit & 1 == 1);
            set.map(move |bit| SampleId(first.saturating_add(8 * i as u32 + bit)))
        });
        listed.iter().copied().chain(window)
    }

    pub fn len(&self) -> usize {
        match self {
            SampleList::Listed(ids) => ids.len(),
            SampleList::Window { bits, .. } => bits.iter().map(|byte| byte.count_ones() as usize).sum(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes on the wire, without heads.
    pub fn n_bytes(&self) -> usize {
        match self {
            SampleList::Listed(ids) => ID_BYTES * ids.len(),
            SampleList::Window { bits, .. } => bits.len(),
        }
    }
}

impl From<Vec<SampleId>> for SampleList {
    fn from(ids: Vec<SampleId>) -> Self {
        SampleList::Listed(ids)
    }
}

fn window_bytes(first: SampleId, last: SampleId) -> usize {
    (last.0 - first.0) as usize / 8 + 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn some_ids() -> impl Strategy<Value = Vec<SampleId>> {
        let close = proptest::collection::btree_set(0_u32..300, 0..80);
        let far = proptest::collection::btree_set(any::<u32>(), 0..20);
        let sorted = |ids: BTreeSet<u32>| ids.into_iter().map(SampleId).collect();
        prop_oneof![close, far].prop_map(sorted)
    }

    proptest! {
        #[test]
        fn both_forms_hold_the_same_and_the_shorter_is_taken(ids in some_ids()) {
            let list = SampleList::shortest(&ids);
            prop_assert_eq!(list.iter().collect::<Vec<_>>(), ids.clone());
            prop_assert_eq!(list.len(), ids.len());
            prop_assert!(list.n_bytes() <= 4 * ids.len());
            if let SampleList::Listed(ids) = &list && let [first, .., last] = ids[..] {
                prop_assert!(4 * ids.len() <= window_bytes(first, last));
            }
        }

        #[test]
        fn as_many_fit_as_said_and_one_more_does_not(ids in some_ids(), each in 0_usize..30, max in 0_usize..900) {
            let n_bytes = |n: usize| n * each + SampleList::shortest(&ids[..n]).n_bytes();
            let n = SampleList::fitting(&ids, each, max);
            prop_assert!(n_bytes(n) <= max);
            prop_assert!(n == ids.len() || n_bytes(n + 1) > max);
        }
    }
}
