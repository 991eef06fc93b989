//! Strategies of continual learning: one row each.
//!
//! A row says what a strategy trains on, what it remembers, and what it adds to the loss. A new strategy that
//! combines what is there is a new row; Distributed Knowledge Transfer goes on top of any, since it has a head of its
//! own. A new mechanism is a variant of one of the enums below, and the code that acts on it: on a mini-batch in
//! `agent/learner.rs`, after an experience in `agent/consolidate.rs`.

pub mod importance;
pub mod schedule;

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use crate::stream::memory::Selection;

/// Which samples an experience trains on, apart from those remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainsOn {
    Experience,
    /// Those of the experience and of all before it.
    SeenSoFar,
    /// Those of the whole stream, which becomes a single experience.
    Everything,
}

/// Whether samples of earlier experiences are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rehearsal {
    Never,
    /// Where the configuration gives the memory a capacity.
    Optional,
    /// A part of the method: with this capacity where the configuration gives none.
    Needed {
        capacity: usize,
        selection: Selection,
    },
}

/// How remembered samples come into mini-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixing {
    /// So many beside the new ones of each mini-batch, again and again.
    Beside,
    /// As further samples of the experience: once an epoch.
    Joined,
}

/// What keeps the continual-learning head near its own past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    None,
    /// The network as it was before the experience labels the mini-batch; its softened probabilities over all
    /// earlier classes are distilled.
    PastNetwork,
    /// The same, with probabilities over each earlier experience's classes by themselves.
    PastNetworkByExperience,
    /// Remembered samples have the logits of the time when they were stored.
    StoredLogits,
}

/// How much a parameter has mattered, which weighs its squared distance from where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    None,
    /// Diagonal of the Fisher information after each experience; the penalties of all experiences add up.
    Fisher,
    /// The same, decayed, around the newest parameters alone.
    OnlineFisher,
    /// What its way has contributed to the loss's fall.
    PathIntegral,
}

/// A number that a strategy takes from `[strategy]`.
#[derive(Debug)]
pub struct Constant {
    pub name: &'static str,
    pub default: f64,
    pub range: RangeInclusive<f64>,
    /// Whether it counts something.
    pub is_whole: bool,
    pub what: &'static str,
}

/// One row of [`STRATEGIES`].
#[derive(Debug)]
pub struct Strategy {
    pub name: &'static str,
    /// What it does, and its source.
    pub what: &'static str,
    pub trains_on: TrainsOn,
    pub rehearsal: Rehearsal,
    pub mixing: Mixing,
    pub retention: Retention,
    pub importance: Importance,
    /// Whether each experience ends with an equal number of samples of every class.
    pub balanced_fine_tuning: bool,
    /// Whether noise that falls with the step is added to the gradient.
    pub gradient_noise: bool,
    pub constants: &'static [&'static Constant],
}

const fn real(name: &'static str, default: f64, range: RangeInclusive<f64>, what: &'static str) -> Constant {
    Constant { name, default, range, is_whole: false, what }
}

const fn whole(name: &'static str, default: f64, range: RangeInclusive<f64>, what: &'static str) -> Constant {
    Constant { name, default, range, is_whole: true, what }
}

const ANY: RangeInclusive<f64> = 0.0..=1e9;

pub static ALPHA: Constant = real("alpha", 1.0, ANY, "weight of the term that keeps the past");
pub static TEMPERATURE: Constant =
    real("temperature", 2.0, 1e-3..=1e3, "of the past network's probabilities");
static DER_ALPHA: Constant = real("alpha", 0.1, ANY, "weight of the stored logits");
pub static BETA: Constant = real("beta", 0.5, ANY, "weight of the remembered samples' labels");
pub static LAMBDA: Constant = real("lambda", 1.0, ANY, "weight of the penalty");
pub static DAMPING: Constant = real("damping", 1e-7, 1e-12..=1e9, "added to the square of a parameter's way");
pub static DECAY: Constant = real("decay", 0.9, 0.0..=1.0, "factor of the older importances");
pub static FINETUNE_EPOCHS: Constant =
    whole("finetune_epochs", 30.0, 0.0..=1e6, "epochs of balanced fine-tuning");
pub static FINETUNE_FROM: Constant =
    whole("finetune_from", 2.0, 1.0..=65_536.0, "first experience, counted from 1, that is fine-tuned");
pub static FINETUNE_RATE: Constant =
    real("finetune_rate", 0.1, 1e-6..=1e3, "factor of the learning rate in fine-tuning");
/// Castro et al. have 0.3, with rates and networks that bear it; with others noise drowns the gradient.
pub static NOISE_ETA: Constant =
    real("noise_eta", 0.0, ANY, "deviation of the gradient's noise in the first step");
pub static NOISE_GAMMA: Constant = real("noise_gamma", 0.55, 0.0..=10.0, "power with which it falls");

const NAIVE: Strategy = Strategy {
    name: "naive",
    what: "trains on each experience as it comes: the lower bound",
    trains_on: TrainsOn::Experience,
    rehearsal: Rehearsal::Never,
    mixing: Mixing::Beside,
    retention: Retention::None,
    importance: Importance::None,
    balanced_fine_tuning: false,
    gradient_noise: false,
    constants: &[],
};

const RESERVOIR_200: Rehearsal = Rehearsal::Needed { capacity: 200, selection: Selection::Reservoir };
const BALANCED_200: Rehearsal = Rehearsal::Needed { capacity: 200, selection: Selection::ClassBalanced };

/// All strategies.
pub static STRATEGIES: [Strategy; 11] = [
    NAIVE,
    Strategy {
        name: "joint",
        what: "trains on the whole stream at once: the upper bound",
        trains_on: TrainsOn::Everything,
        ..NAIVE
    },
    Strategy {
        name: "cumulative",
        what: "trains on everything seen so far",
        trains_on: TrainsOn::SeenSoFar,
        ..NAIVE
    },
    Strategy {
        name: "replay",
        what: "remembered samples beside the new ones (Chaudhry et al. 2019)",
        rehearsal: RESERVOIR_200,
        ..NAIVE
    },
    Strategy {
        name: "lwf",
        what: "Learning without Forgetting (Li and Hoiem 2016): distils the network from before the experience",
        rehearsal: Rehearsal::Optional,
        retention: Retention::PastNetwork,
        constants: &[&ALPHA, &TEMPERATURE],
        ..NAIVE
    },
    Strategy {
        name: "eeil",
        what: "End-to-End Incremental Learning (Castro et al. 2018): distils, with a herded memory and balanced \
               fine-tuning",
        rehearsal: Rehearsal::Needed { capacity: 200, selection: Selection::Herding },
        mixing: Mixing::Joined,
        retention: Retention::PastNetworkByExperience,
        balanced_fine_tuning: true,
        gradient_noise: true,
        constants: &[
            &ALPHA,
            &TEMPERATURE,
            &FINETUNE_EPOCHS,
            &FINETUNE_FROM,
            &FINETUNE_RATE,
            &NOISE_ETA,
            &NOISE_GAMMA,
        ],
        ..NAIVE
    },
    Strategy {
        name: "der",
        what: "Dark Experience Replay (Buzzega et al. 2020): remembered samples keep their logits",
        rehearsal: BALANCED_200,
        retention: Retention::StoredLogits,
        constants: &[&DER_ALPHA],
        ..NAIVE
    },
    Strategy {
        name: "der++",
        what: "the same, and they keep their labels too",
        rehearsal: BALANCED_200,
        retention: Retention::StoredLogits,
        constants: &[&DER_ALPHA, &BETA],
        ..NAIVE
    },
    Strategy {
        name: "ewc",
        what: "Elastic Weight Consolidation (Kirkpatrick et al. 2017), one penalty an experience",
        rehearsal: Rehearsal::Optional,
        importance: Importance::Fisher,
        constants: &[&LAMBDA],
        ..NAIVE
    },
    Strategy {
        name: "online-ewc",
        what: "the same with one decaying penalty (Schwarz et al. 2018)",
        rehearsal: Rehearsal::Optional,
        importance: Importance::OnlineFisher,
        constants: &[&LAMBDA, &DECAY],
        ..NAIVE
    },
    Strategy {
        name: "si",
        what: "Synaptic Intelligence (Zenke et al. 2017)",
        rehearsal: Rehearsal::Optional,
        importance: Importance::PathIntegral,
        constants: &[&LAMBDA, &DAMPING],
        ..NAIVE
    },
];

/// The strategy of that name.
pub fn find(name: &str) -> Option<&'static Strategy> {
    STRATEGIES.iter().find(|s| s.name == name)
}

/// Names of all, for messages.
pub fn names() -> String {
    STRATEGIES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")
}

impl Strategy {
    /// The constants that it takes, for messages.
    pub fn describe_constants(&self) -> String {
        let mut text = String::new();
        for (i, constant) in self.constants.iter().enumerate() {
            let _ = write!(text, "{}{}", if i == 0 { "" } else { ", " }, constant.name);
        }
        if text.is_empty() { "none".to_owned() } else { text }
    }

    /// Factors of rows in a mini-batch of so many new rows, remembered rows, and rows without labels.
    ///
    /// New and remembered rows share one mean, except with stored logits: there the new rows have a mean of their own,
    /// and the remembered ones another, of their labels (times `beta`) and of the distance from what is stored.
    pub fn row_weights(&self, [n_new, n_remembered, n_public]: [usize; 3], beta: f32) -> RowWeights {
        let n = (n_new + n_remembered + n_public) as f32;
        let mean_over = |rows: usize| if rows == 0 { 0.0 } else { n / rows as f32 };
        if self.retention == Retention::StoredLogits {
            let of_remembered = mean_over(n_remembered);
            return RowWeights {
                labels: [mean_over(n_new), beta * of_remembered, 0.0],
                past: [0.0, of_remembered, 0.0],
            };
        }
        let of_labelled = mean_over(n_new + n_remembered);
        RowWeights { labels: [of_labelled, of_labelled, 0.0], past: [of_labelled, of_labelled, 0.0] }
    }

    /// What `lambda` is multiplied by: Synaptic Intelligence has a half in its penalty, Elastic Weight Consolidation,
    /// as avalanche-lib has it, none.
    pub fn penalty_factor(&self) -> f32 {
        if self.importance == Importance::PathIntegral { 0.5 } else { 1.0 }
    }

    /// Groups of earlier classes within each of which the past's probabilities are kept, where the classes of each
    /// earlier experience are `earlier`. `tells_tasks`: whether the head has one part a task.
    pub fn past_groups(&self, earlier: &[&[u16]], tells_tasks: bool) -> Vec<Vec<u16>> {
        let mut groups: Vec<Vec<u16>> = if self.retention == Retention::PastNetworkByExperience || tells_tasks
        {
            earlier.iter().map(|classes| classes.to_vec()).collect()
        } else {
            vec![earlier.concat()]
        };
        for group in &mut groups {
            group.sort_unstable();
            group.dedup();
        }
        // Where experiences have the same classes, they have one group.
        groups.sort();
        groups.dedup();
        groups
    }
}

/// Factors of new rows, of remembered ones, and of those without labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowWeights {
    /// Of labels.
    pub labels: [f32; 3],
    /// Of what is kept of the past.
    pub past: [f32; 3],
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_defaults_within_their_ranges() {
        let names: BTreeSet<&str> = STRATEGIES.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), STRATEGIES.len());
        for strategy in &STRATEGIES {
            let constants: BTreeSet<&str> = strategy.constants.iter().map(|c| c.name).collect();
            assert_eq!(constants.len(), strategy.constants.len(), "{}", strategy.name);
            for constant in strategy.constants {
                assert!(constant.range.contains(&constant.default), "{} {}", strategy.name, constant.name);
                assert!(!constant.is_whole || constant.default.fract() == 0.0);
            }
        }
    }

    #[test]
    fn remembered_rows_have_a_mean_of_their_own_with_stored_logits() {
        let weights = |name: &str, rows| find(name).unwrap().row_weights(rows, 0.5);
        let all = |labels, past| RowWeights { labels, past };
        assert_eq!(weights("replay", [12, 6, 0]), all([1.0, 1.0, 0.0], [1.0, 1.0, 0.0]));
        assert_eq!(weights("lwf", [12, 6, 18]), all([2.0, 2.0, 0.0], [2.0, 2.0, 0.0]));
        assert_eq!(weights("der++", [12, 0, 0]), all([1.0, 0.0, 0.0], [0.0; 3]));
        assert_eq!(weights("der++", [12, 6, 0]), all([1.5, 1.5, 0.0], [0.0, 3.0, 0.0]));
    }

    #[test]
    fn earlier_classes_are_one_group_or_one_an_experience() {
        let earlier: [&[u16]; 2] = [&[3, 1], &[0, 4]];
        let groups = |name: &str, tells_tasks| find(name).unwrap().past_groups(&earlier, tells_tasks);
        assert_eq!(groups("lwf", false), [[0, 1, 3, 4]]);
        assert_eq!(groups("lwf", true), [[0, 4], [1, 3]]);
        assert_eq!(groups("eeil", false), [[0, 4], [1, 3]]);
        assert_eq!(find("lwf").unwrap().past_groups(&[&[1, 0], &[0, 1]], true), [[0, 1]]);
    }
}
