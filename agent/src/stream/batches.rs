//! Which samples make the mini-batches of an epoch.

use crate::draw::Draw;
use crate::ids::SampleId;

/// One epoch's ingredients.
#[derive(Clone, Copy, Debug)]
pub struct BatchPlan<'a> {
    /// Samples of the experience.
    pub current: &'a [SampleId],
    /// Samples remembered from earlier ones.
    pub replay: &'a [SampleId],
    /// New samples in a mini-batch.
    pub batch_size: usize,
    /// Remembered samples in a mini-batch, beside the new ones.
    pub replay_batch_size: usize,
    /// Public samples without labels, and how many of them are in a mini-batch.
    pub proxy: &'a [SampleId],
    pub proxy_batch_size: usize,
    pub seed: u64,
    pub experience: u32,
    pub epoch: u32,
}

/// Samples of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MiniBatch {
    /// New ones, then remembered ones, then those without labels.
    pub ids: Vec<SampleId>,
    pub n_new: usize,
    pub n_remembered: usize,
}

/// The mini-batches: the current samples shuffled and cut (the last batch may be short), each followed by the
/// next of the remembered samples, and of the public ones, which are shuffled too and start anew when
/// they run out.
pub fn epoch_batches(plan: &BatchPlan<'_>) -> Vec<MiniBatch> {
    let counters = [u64::from(plan.experience), u64::from(plan.epoch)];
    let shuffled = |ids: &[SampleId], purpose: &str| {
        let mut ids = ids.to_vec();
        Draw::new(plan.seed, purpose).shuffle(&mut ids, &counters);
        ids
    };
    let current = shuffled(plan.current, "batches");
    let replay = shuffled(plan.replay, "replay-batches");
    // A mini-batch never holds the same remembered sample twice.
    let n_replayed = plan.replay_batch_size.min(replay.len());
    let mut remembered = replay.iter().cycle();
    let proxy = shuffled(plan.proxy, "proxy-batches");
    let n_public = plan.proxy_batch_size.min(proxy.len());
    let mut public = proxy.iter().cycle();
    current
        .chunks(plan.batch_size.max(1))
        .map(|chunk| MiniBatch {
            ids: chunk
                .iter()
                .chain(remembered.by_ref().take(n_replayed))
                .chain(public.by_ref().take(n_public))
                .copied()
                .collect(),
            n_new: chunk.len(),
            n_remembered: n_replayed,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(range: std::ops::Range<u32>) -> Vec<SampleId> {
        range.map(SampleId).collect()
    }

    proptest! {
        #[test]
        fn an_epoch_has_every_current_sample_once(
            n_current in 0_u32..200, n_replay in 0_u32..50, batch in 1_usize..40, replayed in 0_usize..60,
            n_public in 0_u32..40, public in 1_usize..50, seed: u64, epoch in 0_u32..5,
        ) {
            let (current, replay) = (ids(0..n_current), ids(1000..1000 + n_replay));
            let proxy = ids(2000..2000 + n_public);
            let batches = epoch_batches(&BatchPlan {
                current: &current, replay: &replay, batch_size: batch, replay_batch_size: replayed,
                proxy: &proxy, proxy_batch_size: public,
                seed, experience: 0, epoch,
            });
            let mut seen: Vec<SampleId> = batches.iter().flat_map(|b| &b.ids).copied().filter(|id| id.0 < 1000).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, current);
            for batch in &batches {
                let mut replayed_ids: Vec<_> = batch.ids.iter().filter(|id| (1000..2000).contains(&id.0)).collect();
                prop_assert!(batch.ids[..batch.n_new].iter().all(|id| id.0 < 1000));
                let without_label = &batch.ids[batch.n_new + batch.n_remembered..];
                prop_assert!(without_label.iter().all(|id| id.0 >= 2000));
                prop_assert_eq!(without_label.len(), public.min(proxy.len()));
                prop_assert_eq!(replayed_ids.len(), replayed.min(replay.len()));
                replayed_ids.sort_unstable();
                replayed_ids.dedup();
                prop_assert_eq!(replayed_ids.len(), replayed.min(replay.len()));
            }
        }
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let current = ids(0..64);
        let plan = BatchPlan {
            current: &current,
            replay: &[],
            batch_size: 16,
            replay_batch_size: 0,
            proxy: &[],
            proxy_batch_size: 0,
            seed: 1,
            experience: 0,
            epoch: 0,
        };
        assert_eq!(epoch_batches(&plan), epoch_batches(&plan));
        assert_ne!(epoch_batches(&plan), epoch_batches(&BatchPlan { epoch: 1, ..plan }));
    }
}
