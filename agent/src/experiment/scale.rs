//! Sizes of an experiment: those of the thesis for the whole of CIFAR-100, and smaller ones of the same shape for
//! other data or less time.
//!
//! Shares are rounded to the nearest whole number. Floors keep something to learn; they hold as far as the data go.

use crate::data::{DataSource, Dataset, ImageShape};
use crate::ids::Digest;

/// Training samples in an experience of Split-CIFAR-100: mini-batches of full size are for those.
pub const FULL_EXPERIENCE: usize = 5_000;
/// Share of the training samples that is kept for replay: 2,000 of the 50,000 of CIFAR-100.
const REPLAY_SHARE: f64 = 0.04;
/// Most experiences.
const MAX_EXPERIENCES: usize = 10;
/// Classes are left out by the scale only where there are more.
const MANY_CLASSES: usize = 10;

/// Smallest number of classes in an experience: with one there is nothing to tell apart.
const MIN_CLASSES: usize = 2;
const MIN_TRAIN: usize = 20;
const MIN_TEST: usize = 10;
const MIN_EPOCHS: u32 = 2;
const MIN_BATCH: usize = 32;
/// Samples of each class that are kept for replay at least.
const MIN_REPLAY: usize = 2;

/// What the data set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub classes: usize,
    /// Of the class that has the fewest.
    pub train_per_class: usize,
    pub test_per_class: usize,
    pub shape: ImageShape,
}

impl Facts {
    pub fn of(source: &DataSource) -> Self {
        let smallest = |data: &Dataset| {
            let mut counts = vec![0; data.classes.len()];
            data.labels.iter().for_each(|label| counts[usize::from(*label)] += 1);
            counts.into_iter().min().unwrap_or(0)
        };
        Facts {
            classes: source.train.classes.len(),
            train_per_class: smallest(&source.train),
            test_per_class: smallest(&source.test),
            shape: source.train.shape,
        }
    }
}

/// Digest of both splits with their labels, for the identity of an experiment.
pub fn digest(source: &DataSource) -> String {
    let mut hasher = blake3::Hasher::new();
    for split in [&source.train, &source.test] {
        hasher.update(&(split.len() as u64).to_le_bytes());
        split.labels.iter().for_each(|label| _ = hasher.update(&label.to_le_bytes()));
        hasher.update(&split.pixels);
    }
    Digest(*hasher.finalize().as_bytes()).short()
}

/// What an experiment uses of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub experiences: usize,
    /// The first so many classes.
    pub classes: usize,
    /// Samples of each class; `None` for all.
    pub train_per_class: Option<usize>,
    pub test_per_class: Option<usize>,
    /// Training samples in an experience, about.
    pub experience: usize,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScaleError {
    #[error("the scale must be above 0 and at most 1, found {found}")]
    Scale { found: f64 },
    #[error(
        "the data have {classes} classes, expected at least {} for two experiences", 2 * MIN_CLASSES
    )]
    Classes { classes: usize },
    #[error("a class of the data has no training or no test samples; `dkt data inspect` tells which")]
    EmptyClass,
}

/// Number of experiences, and classes in each: the largest number of experiences up to 10 that divides the classes;
/// where there is none, 10 and as many classes as they hold.
fn split(classes: usize) -> (usize, usize) {
    let most = MAX_EXPERIENCES.min(classes / MIN_CLASSES);
    let experiences = (2..=most).rev().find(|n| classes.is_multiple_of(*n)).unwrap_or(most);
    (experiences, classes / experiences)
}

fn share(whole: usize, scale: f64) -> usize {
    (whole as f64 * scale).round() as usize
}

/// The data of an experiment at that scale.
///
/// # Errors
/// [`ScaleError`] if the scale is none, or there are too few classes for two experiences.
pub fn sizes(facts: &Facts, scale: f64) -> Result<Sizes, ScaleError> {
    if !(scale > 0.0 && scale <= 1.0) {
        return Err(ScaleError::Scale { found: scale });
    }
    if facts.train_per_class.min(facts.test_per_class) == 0 {
        return Err(ScaleError::EmptyClass);
    }
    if facts.classes < 2 * MIN_CLASSES {
        return Err(ScaleError::Classes { classes: facts.classes });
    }
    let (experiences, in_each) = split(facts.classes);
    let in_each = if facts.classes > MANY_CLASSES { share(in_each, scale).max(MIN_CLASSES) } else { in_each };
    let samples = |all: usize, least: usize| {
        // Classes of different sizes get the same number each, unless all is asked for.
        (scale < 1.0).then(|| share(all, scale).max(least).min(all))
    };
    let train_per_class = samples(facts.train_per_class, MIN_TRAIN);
    Ok(Sizes {
        experiences,
        classes: experiences * in_each,
        train_per_class,
        test_per_class: samples(facts.test_per_class, MIN_TEST),
        experience: in_each * train_per_class.unwrap_or(facts.train_per_class),
    })
}

/// A number of epochs at that scale, or another key that counts epochs: a 0 stays, and what is not 0 does not
/// become it.
pub fn epochs(full: u32, scale: f64) -> u32 {
    if full == 0 { 0 } else { ((f64::from(full) * scale).round() as u32).max(1) }
}

/// Passes over each experience at that scale.
pub fn passes(full: u32, scale: f64) -> u32 {
    epochs(full, scale).max(MIN_EPOCHS.min(full))
}

/// New samples in a mini-batch: `full` for an experience of 5,000, in proportion for a smaller one, so that an
/// epoch has about as many steps; down to a power of two.
pub fn batch_size(full: usize, sizes: &Sizes) -> usize {
    let part = share(full, sizes.experience as f64 / FULL_EXPERIENCE as f64).max(1);
    if part >= full { full } else { (1 << part.ilog2()).clamp(MIN_BATCH.min(full), full) }
}

/// Samples that are kept of earlier experiences: 4 % of all, at least two of each class.
pub fn replay_capacity(sizes: &Sizes) -> usize {
    share(sizes.experience * sizes.experiences, REPLAY_SHARE).max(MIN_REPLAY * sizes.classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(classes: usize, train_per_class: usize, test_per_class: usize) -> Facts {
        let shape = ImageShape { channels: 3, height: 32, width: 32 };
        Facts { classes, train_per_class, test_per_class, shape }
    }

    /// Experiences, classes, training and test samples of a class (0: all), batch of 256, replay capacity.
    fn row(facts: &Facts, scale: f64) -> [usize; 6] {
        let sizes = sizes(facts, scale).unwrap();
        [
            sizes.experiences,
            sizes.classes,
            sizes.train_per_class.unwrap_or(0),
            sizes.test_per_class.unwrap_or(0),
            batch_size(256, &sizes),
            replay_capacity(&sizes),
        ]
    }

    #[test]
    fn data_by_scale() {
        let (cifar100, cifar10, digits) = (facts(100, 500, 100), facts(10, 5000, 1000), facts(10, 139, 35));
        for (data, scale, expected) in [
            (cifar100, 1.0, [10, 100, 0, 0, 256, 2000]),
            (cifar100, 0.5, [10, 50, 250, 50, 64, 500]),
            (cifar100, 0.1, [10, 20, 50, 10, 32, 40]),
            (cifar100, 0.001, [10, 20, 20, 10, 32, 40]),
            (cifar10, 1.0, [5, 10, 0, 0, 256, 2000]),
            (cifar10, 0.1, [5, 10, 500, 100, 32, 200]),
            (digits, 1.0, [5, 10, 0, 0, 32, 56]),
            (digits, 0.01, [5, 10, 20, 10, 32, 20]),
            // Fewer samples than the floor: all of them.
            (facts(10, 12, 4), 0.5, [5, 10, 12, 4, 32, 20]),
            // No number of experiences divides 47 classes: 40 of them are used.
            (facts(47, 2400, 400), 1.0, [10, 40, 0, 0, 256, 3840]),
            (facts(26, 4800, 800), 1.0, [2, 26, 0, 0, 256, 4992]),
            (facts(4, 100, 10), 1.0, [2, 4, 0, 0, 32, 16]),
        ] {
            assert_eq!(row(&data, scale), expected, "{data:?} at {scale}");
        }
    }

    #[test]
    fn epochs_by_scale() {
        for (full, scale, expected) in
            [(300, 1.0, 300), (300, 0.1, 30), (30, 0.05, 2), (10, 0.001, 1), (0, 0.5, 0)]
        {
            assert_eq!(epochs(full, scale), expected, "{full} at {scale}");
        }
        for (full, scale, expected) in [(300, 0.001, 2), (1, 0.5, 1), (800, 0.05, 40)] {
            assert_eq!(passes(full, scale), expected, "{full} at {scale}");
        }
    }

    #[test]
    fn what_has_no_size_is_refused() {
        for scale in [0.0, -1.0, 1.5, f64::NAN] {
            assert!(matches!(sizes(&facts(10, 100, 10), scale), Err(ScaleError::Scale { .. })), "{scale}");
        }
        assert_eq!(sizes(&facts(3, 100, 10), 1.0), Err(ScaleError::Classes { classes: 3 }));
    }

    #[test]
    fn facts_are_those_of_the_smallest_class() {
        let facts = Facts::of(&crate::data::load("digits").unwrap());
        assert_eq!((facts.classes, facts.train_per_class, facts.test_per_class), (10, 139, 35));
    }
}
