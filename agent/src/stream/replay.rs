//! The replay buffer: a uniform sample of everything offered so far, of bounded size.

use crate::draw::Draw;
use crate::ids::SampleId;

/// Reservoir sampling (Vitter 1985, algorithm R). Its whole state is how many samples were offered and which are
/// held; the draws follow from the seed.
#[derive(Clone, Debug)]
pub struct ReplayBuffer {
    capacity: usize,
    draw: Draw,
    n_seen: u64,
    ids: Vec<SampleId>,
}

impl ReplayBuffer {
    pub fn new(capacity: usize, seed: u64) -> Self {
        ReplayBuffer { capacity, draw: Draw::new(seed, "replay"), n_seen: 0, ids: Vec::new() }
    }

    /// Offers samples in order: the n-th ever offered takes the place of a draw below n, if that is within the
    /// capacity.
    pub fn offer(&mut self, ids: &[SampleId]) {
        for &id in ids {
            self.n_seen += 1;
            if self.ids.len() < self.capacity {
                self.ids.push(id);
            } else {
                let place = self.draw.below(self.n_seen, &[self.n_seen]);
                if let Some(held) = usize::try_from(place).ok().and_then(|p| self.ids.get_mut(p)) {
                    *held = id;
                }
            }
        }
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

    #[test]
    fn every_sample_is_held_equally_often() {
        let mut n_held = [0_u32; 40];
        for seed in 0..2000 {
            let mut buffer = ReplayBuffer::new(10, seed);
            buffer.offer(&(0..40).map(SampleId).collect::<Vec<_>>());
            assert_eq!(buffer.ids().len(), 10);
            for id in buffer.ids() {
                n_held[id.0 as usize] += 1;
            }
        }
        // 2000 trials at 1/4: mean 500, standard deviation 19.4.
        assert!(n_held.iter().all(|n| (400..600).contains(n)), "{n_held:?}");
    }

    #[test]
    fn a_restored_buffer_goes_on_as_the_one_that_was_saved() {
        let ids: Vec<SampleId> = (0..100).map(SampleId).collect();
        let mut whole = ReplayBuffer::new(10, 7);
        whole.offer(&ids);
        let mut first = ReplayBuffer::new(10, 7);
        first.offer(&ids[..60]);
        let mut second = ReplayBuffer::new(10, 7);
        second.restore(first.n_seen(), first.ids().to_vec());
        second.offer(&ids[60..]);
        assert_eq!(second.ids(), whole.ids());
    }

    #[test]
    fn no_capacity_holds_nothing() {
        let mut buffer = ReplayBuffer::new(0, 1);
        buffer.offer(&[SampleId(1)]);
        assert!(buffer.ids().is_empty());
    }
}
