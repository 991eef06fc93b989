//! Streams of experiences: which classes come when, which samples make a mini-batch, what is remembered.
//!
//! `docs/streams.md` states every format here exactly.

pub mod batches;
pub mod herding;
pub mod memory;

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::draw::Draw;
use crate::ids::SampleId;

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(
        "{classes} classes do not divide into {experiences} experiences; choose a number that divides them"
    )]
    NotDivisible { classes: usize, experiences: usize },
    #[error("class order: expected every class from 0 to {} once, found {found:?}", .classes - 1)]
    ClassOrder { classes: usize, found: Vec<u16> },
    #[error("class `{class}` has no {split} samples")]
    EmptyClass { class: String, split: &'static str },
}

/// The order in which classes come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a seed (a whole number from 0 on) or a list of all class indices")]
pub enum ClassOrder {
    /// A shuffle of all classes.
    Seed(u64),
    List(Vec<u16>),
}

/// One chunk of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experience {
    pub classes: Vec<u16>,
    /// In the order of the data set.
    pub train: Vec<SampleId>,
    /// Held out of the training split.
    pub validation: Vec<SampleId>,
    /// Indices into the test split.
    pub test: Vec<SampleId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExperienceStream {
    experiences: Vec<Experience>,
}

impl ExperienceStream {
    /// Disjoint classes in each experience, equally many, one head over all of them.
    ///
    /// # Errors
    /// [`StreamError`] if the classes do not divide, the order is none, or a class is empty.
    pub fn class_incremental(
        train: &Dataset,
        test: &Dataset,
        n_experiences: usize,
        order: &ClassOrder,
    ) -> Result<Self, StreamError> {
        let n_classes = train.classes.len();
        if n_experiences == 0 || n_classes == 0 || !n_classes.is_multiple_of(n_experiences) {
            return Err(StreamError::NotDivisible { classes: n_classes, experiences: n_experiences });
        }
        let classes = ordered_classes(n_classes, order)?;
        let mut experiences = Vec::with_capacity(n_experiences);
        for classes in classes.chunks_exact(n_classes / n_experiences) {
            experiences.push(Experience {
                train: samples_of(train, classes, "training")?,
                validation: Vec::new(),
                test: samples_of(test, classes, "test")?,
                classes: classes.to_vec(),
            });
        }
        Ok(ExperienceStream { experiences })
    }

    pub fn experiences(&self) -> &[Experience] {
        &self.experiences
    }

    /// Whether the task is known, in training and in testing.
    pub fn tells_tasks(&self) -> bool {
        false
    }

    /// For each class, the classes of its task; empty where the task is not known.
    pub fn classes_of_tasks(&self) -> Vec<Vec<u16>> {
        Vec::new()
    }
}

fn ordered_classes(n_classes: usize, order: &ClassOrder) -> Result<Vec<u16>, StreamError> {
    let all: Vec<u16> = (0..n_classes).map(|c| c as u16).collect();
    match order {
        ClassOrder::Seed(seed) => {
            let mut classes = all;
            Draw::new(*seed, "class-order").shuffle(&mut classes, &[]);
            Ok(classes)
        }
        ClassOrder::List(list) => {
            let mut sorted = list.clone();
            sorted.sort_unstable();
            if sorted == all {
                Ok(list.clone())
            } else {
                Err(StreamError::ClassOrder { classes: n_classes, found: list.clone() })
            }
        }
    }
}

fn samples_of(data: &Dataset, classes: &[u16], split: &'static str) -> Result<Vec<SampleId>, StreamError> {
    if let Some(class) = classes.iter().find(|class| !data.labels.contains(class)) {
        return Err(StreamError::EmptyClass { class: data.classes[usize::from(*class)].clone(), split });
    }
    let ids = (0_u32..).zip(&data.labels).filter(|(_, label)| classes.contains(label));
    Ok(ids.map(|(id, _)| SampleId(id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits() -> crate::data::DataSource {
        crate::data::load("digits").unwrap()
    }

    fn stream(n: usize, order: &ClassOrder) -> Result<ExperienceStream, StreamError> {
        let source = digits();
        ExperienceStream::class_incremental(&source.train, &source.test, n, order)
    }

    #[test]
    fn every_sample_is_in_one_experience() {
        let source = digits();
        let stream = stream(5, &ClassOrder::Seed(3)).unwrap();
        let mut train: Vec<u32> =
            stream.experiences().iter().flat_map(|e| e.train.iter().map(|id| id.0)).collect();
        train.sort_unstable();
        assert_eq!(train, (0..source.train.len() as u32).collect::<Vec<_>>());
        for experience in stream.experiences() {
            assert_eq!(experience.classes.len(), 2);
            assert!(experience.test.iter().all(|id| experience.classes.contains(&source.test.label(*id))));
        }
    }

    #[test]
    fn a_list_is_taken_as_it_is_and_seeds_differ() {
        let list: Vec<u16> = vec![9, 1, 2, 3, 4, 5, 6, 7, 8, 0];
        let listed = stream(5, &ClassOrder::List(list)).unwrap();
        assert_eq!(listed.experiences()[0].classes, [9, 1]);
        let order = |seed| {
            let stream = stream(5, &ClassOrder::Seed(seed)).unwrap();
            stream.experiences().iter().flat_map(|e| e.classes.clone()).collect::<Vec<_>>()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn impossible_streams_are_refused() {
        let refused = |n, order| stream(n, &order).unwrap_err().to_string();
        assert!(refused(3, ClassOrder::Seed(0)).contains("10 classes do not divide into 3"));
        assert!(refused(5, ClassOrder::List(vec![1, 2])).contains("expected every class from 0 to 9 once"));
    }
}
