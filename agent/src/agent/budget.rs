//! How much of an agent's time may go into labelling for others while it trains.

/// Unused time is kept up to what so many seconds of work are worth, so that a quiet spell does not end in a long
/// stretch of labelling.
const KEPT_FROM_S: f64 = 10.0;

/// A token bucket (ITU-T I.371, annex A) in seconds: training fills it, labelling empties it, and it may be overdrawn
/// by one batch. Over any stretch of a run the share of labelling is so at most that of the configuration, but for one
/// batch and for what was kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LabellingBudget {
    /// Seconds of labelling for each second of training.
    rate: f64,
    kept_s: f64,
    most_s: f64,
    spent_s: f64,
}

impl LabellingBudget {
    /// For a `share` of all time, above 0 and below 1.
    pub fn new(share: f64) -> Self {
        LabellingBudget {
            rate: share / (1.0 - share),
            kept_s: 0.0,
            most_s: share * KEPT_FROM_S,
            spent_s: 0.0,
        }
    }

    /// Whether a batch may be labelled now.
    pub fn allows(&self) -> bool {
        self.kept_s >= 0.0
    }

    pub fn trained(&mut self, seconds: f64) {
        self.kept_s = (self.kept_s + self.rate * seconds).min(self.most_s);
    }

    /// Labelled between training steps.
    pub fn labelled(&mut self, seconds: f64) {
        self.kept_s -= seconds;
        self.spent_s += seconds;
    }

    /// Labelled while there was nothing to train: nobody is kept from anything.
    pub fn labelled_idly(&mut self, seconds: f64) {
        self.spent_s += seconds;
    }

    /// All seconds spent labelling.
    pub fn spent_s(&self) -> f64 {
        self.spent_s
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// (training, labelling) of a step, in seconds; labelling only where it is allowed.
    fn run(share: f64, steps: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let mut budget = LabellingBudget::new(share);
        let step = |(training, batch): &(f64, f64)| {
            budget.trained(*training);
            let labelling = if budget.allows() { *batch } else { 0.0 };
            budget.labelled(labelling);
            (*training, labelling)
        };
        steps.iter().map(step).collect()
    }

    proptest! {
        #[test]
        fn over_any_stretch_the_share_is_kept_but_for_one_batch_and_what_was_kept(
            share in 0.01_f64..0.99,
            steps in proptest::collection::vec((0.0_f64..2.0, 0.0_f64..5.0), 1..80),
        ) {
            let steps = run(share, &steps);
            for from in 0..steps.len() {
                let (mut training, mut labelling, mut longest) = (0.0, 0.0, 0.0_f64);
                for (trained, labelled) in &steps[from..] {
                    training += trained;
                    labelling += labelled;
                    longest = longest.max(*labelled);
                    let most = share / (1.0 - share) * training + share * KEPT_FROM_S + longest;
                    prop_assert!(labelling <= most + 1e-9, "{labelling} s in {training} s of training");
                }
            }
        }

        /// From the start there is nothing kept: then the share itself holds, but for one batch.
        #[test]
        fn the_share_of_the_whole_run_is_exceeded_by_one_batch_at_most_and_used_where_there_is_work(
            share in 0.05_f64..0.95, training in 0.001_f64..0.1, batch in 0.001_f64..1.0,
        ) {
            let steps = run(share, &vec![(training, batch); 2000]);
            let trained: f64 = steps.iter().map(|step| step.0).sum();
            let labelled: f64 = steps.iter().map(|step| step.1).sum();
            let allowed = share * (trained + labelled);
            prop_assert!(labelled <= allowed + batch, "{labelled} s, allowed {allowed} s");
            // With more work than allowed all of it is used; otherwise every step has its batch.
            let wanted = 2000.0 * batch;
            let due = share / (1.0 - share) * trained;
            prop_assert!(labelled >= wanted.min(due) - batch - 1e-6, "{labelled} s of {due} s");
        }
    }

    #[test]
    fn idle_time_costs_nothing_and_is_counted() {
        let mut budget = LabellingBudget::new(0.5);
        budget.labelled_idly(100.0);
        assert!(budget.allows());
        budget.labelled(1.0);
        assert!(!budget.allows());
        budget.trained(0.5);
        assert!(!budget.allows());
        budget.trained(0.5);
        assert!(budget.allows());
        assert_eq!(budget.spent_s(), 101.0);
    }
}
