//! Experiences: which samples come together, and when.

use std::collections::{BTreeMap, BTreeSet};

use super::domain::domains_of;
use super::{ClassOrder, StreamError, StreamKind};
use crate::config::StreamConfig;
use crate::data::{DataSource, Dataset};
use crate::draw::Draw;
use crate::ids::SampleId;

/// One chunk of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experience {
    /// Its number in the stream: the task, where that is known.
    pub task: u16,
    /// In the order in which they come; all of them, from 0 on, in a domain-incremental stream.
    pub classes: Vec<u16>,
    /// In the order of the data set.
    pub train: Vec<SampleId>,
    /// Held out of the training split, in its order: seen as they are, in no augmented view.
    pub validation: Vec<SampleId>,
    /// Indices into the test split.
    pub test: Vec<SampleId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExperienceStream {
    kind: StreamKind,
    experiences: Vec<Experience>,
    proxy: Vec<SampleId>,
    /// Classes of each task, where the task is known.
    tasks: Vec<Vec<u16>>,
}

impl ExperienceStream {
    /// The stream that `config` makes of `source`, one head over all classes.
    ///
    /// # Errors
    /// [`StreamError`] if the classes do not divide, the order is none, or a class has too few samples.
    pub fn new(source: &DataSource, config: &StreamConfig) -> Result<Self, StreamError> {
        let parts = match config.kind {
            StreamKind::ClassIncremental | StreamKind::TaskIncremental => by_classes(source, config)?,
            StreamKind::DomainIncremental => by_domains(source, config)?,
        };
        let mut experiences = Vec::with_capacity(parts.len());
        let mut proxy = Vec::new();
        for (task, Part { classes, train, test }) in (0_u16..).zip(parts) {
            let of = Share { data: &source.train, task, classes: &classes, config };
            let (train, public) = of.take_out("proxy", config.proxy, train)?;
            let (train, validation) = of.take_out("validation", config.validation, train)?;
            proxy.extend(public);
            experiences.push(Experience { task, classes, train, validation, test });
        }
        proxy.sort_unstable();
        let tasks = match config.kind {
            StreamKind::TaskIncremental => experiences.iter().map(|e| e.classes.clone()).collect(),
            StreamKind::ClassIncremental | StreamKind::DomainIncremental => Vec::new(),
        };
        Ok(ExperienceStream { kind: config.kind, experiences, proxy, tasks })
    }

    /// The same samples, all in one experience; tasks stay as they are.
    #[must_use]
    pub fn joined(self) -> Self {
        let mut all =
            Experience { task: 0, classes: vec![], train: vec![], validation: vec![], test: vec![] };
        for experience in self.experiences {
            all.classes.extend(experience.classes);
            all.train.extend(experience.train);
            all.validation.extend(experience.validation);
            all.test.extend(experience.test);
        }
        // In a domain-incremental stream every experience has all classes.
        let mut seen = BTreeSet::new();
        all.classes.retain(|class| seen.insert(*class));
        for ids in [&mut all.train, &mut all.validation, &mut all.test] {
            ids.sort_unstable();
        }
        ExperienceStream { experiences: vec![all], ..self }
    }

    /// Training samples of all classes that every agent may see at any time, but without their labels. In no
    /// experience.
    pub fn proxy(&self) -> &[SampleId] {
        &self.proxy
    }

    pub fn experiences(&self) -> &[Experience] {
        &self.experiences
    }

    /// Whether the task is known, in training and in testing.
    pub fn tells_tasks(&self) -> bool {
        self.kind == StreamKind::TaskIncremental
    }

    /// For each class, the classes of its task; empty where the task is not known.
    pub fn classes_of_tasks(&self) -> Vec<Vec<u16>> {
        let pairs = self.tasks.iter().flat_map(|classes| classes.iter().map(move |class| (class, classes)));
        pairs.collect::<BTreeMap<_, _>>().into_values().cloned().collect()
    }
}

/// An experience before its validation samples are held out.
struct Part {
    classes: Vec<u16>,
    train: Vec<SampleId>,
    test: Vec<SampleId>,
}

/// Disjoint classes in each experience, equally many.
fn by_classes(source: &DataSource, config: &StreamConfig) -> Result<Vec<Part>, StreamError> {
    let (n_classes, experiences) = (source.train.classes.len(), config.experiences);
    if experiences == 0 || n_classes == 0 || !n_classes.is_multiple_of(experiences) {
        return Err(StreamError::NotDivisible { classes: n_classes, experiences });
    }
    let order = ordered_classes(n_classes, &config.class_order)?;
    let parts = order.chunks_exact(n_classes / experiences).map(|classes| {
        Ok(Part {
            train: samples_of(&source.train, classes, "training")?,
            test: samples_of(&source.test, classes, "test")?,
            classes: classes.to_vec(),
        })
    });
    parts.collect()
}

/// All classes in each experience.
fn by_domains(source: &DataSource, config: &StreamConfig) -> Result<Vec<Part>, StreamError> {
    let n_domains = config.experiences;
    let [train, test] = domains_of(source, n_domains, config.seed)?;
    let of = |domains: &[u16], domain: usize| -> Vec<SampleId> {
        let ids = (0_u32..).zip(domains).filter(|(_, d)| usize::from(**d) == domain);
        ids.map(|(id, _)| SampleId(id)).collect()
    };
    let parts = (0..n_domains).map(|domain| Part {
        classes: (0..source.train.classes.len()).map(|class| class as u16).collect(),
        train: of(&train, domain),
        test: of(&test, domain),
    });
    Ok(parts.collect())
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
        ClassOrder::SameAs(name) => Err(StreamError::OrderOfAnother { name: name.clone() }),
    }
}

fn samples_of(data: &Dataset, classes: &[u16], split: &'static str) -> Result<Vec<SampleId>, StreamError> {
    if let Some(class) = classes.iter().find(|class| !data.labels.contains(class)) {
        return Err(StreamError::EmptyClass { class: data.classes[usize::from(*class)].clone(), split });
    }
    let ids = (0_u32..).zip(&data.labels).filter(|(_, label)| classes.contains(label));
    Ok(ids.map(|(id, _)| SampleId(id)).collect())
}

/// Where a share of the samples is taken out.
struct Share<'a> {
    data: &'a Dataset,
    task: u16,
    classes: &'a [u16],
    config: &'a StreamConfig,
}

impl Share<'_> {
    /// A share of each class of an experience's samples: (the others, those taken out), both in the order of the data
    /// set. At least one sample of each class is on each side.
    fn take_out(
        &self,
        purpose: &str,
        share: f64,
        samples: Vec<SampleId>,
    ) -> Result<(Vec<SampleId>, Vec<SampleId>), StreamError> {
        let Share { data, task, classes, config } = *self;
        if share == 0.0 {
            return Ok((samples, Vec::new()));
        }
        // Agents with the same seed take out the same samples of a class, whenever it comes.
        let domain = if config.kind == StreamKind::DomainIncremental { u64::from(task) } else { 0 };
        let draw = Draw::new(config.seed, purpose);
        let mut taken = vec![false; data.len()];
        for &class in classes {
            let mut ids: Vec<SampleId> =
                samples.iter().copied().filter(|id| data.label(*id) == class).collect();
            if ids.len() < 2 {
                return Err(StreamError::TooFewForShare {
                    class: data.classes[usize::from(class)].clone(),
                    purpose: purpose.to_owned(),
                });
            }
            draw.shuffle(&mut ids, &[u64::from(class), domain]);
            let n = (share * ids.len() as f64 + 0.5).floor() as usize;
            ids.truncate(n.clamp(1, ids.len() - 1));
            ids.iter().for_each(|id| taken[id.0 as usize] = true);
        }
        let (taken, left) = samples.into_iter().partition(|id| taken[id.0 as usize]);
        Ok((left, taken))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::ImageShape;
    use crate::stream::Domains;

    fn digits() -> DataSource {
        crate::data::load("digits").unwrap()
    }

    fn config(experiences: usize, class_order: ClassOrder) -> StreamConfig {
        StreamConfig { experiences, class_order, ..StreamConfig::default() }
    }

    fn stream(config: &StreamConfig) -> Result<ExperienceStream, StreamError> {
        ExperienceStream::new(&digits(), config)
    }

    fn order(config: &StreamConfig) -> Vec<u16> {
        stream(config).unwrap().experiences().iter().flat_map(|e| e.classes.clone()).collect()
    }

    fn first_of(config: &StreamConfig) -> Experience {
        stream(config).unwrap().experiences()[0].clone()
    }

    /// The values of docs/streams.md.
    #[test]
    fn the_written_format_is_kept() {
        assert_eq!(order(&config(5, ClassOrder::Seed(0))), [0, 6, 1, 8, 9, 2, 3, 5, 7, 4]);
        let second = config(5, ClassOrder::Seed(1));
        assert_eq!(order(&second), [8, 3, 6, 4, 7, 2, 5, 9, 1, 0]);
        let first = first_of(&second);
        let ids: Vec<u32> = first.train.iter().map(|id| id.0).collect();
        assert_eq!((ids.len(), &ids[..8]), (285, &[3, 8, 13, 18, 27, 28, 33, 42][..]));
        let held_out = StreamConfig { validation: 0.1, ..second };
        let first = first_of(&held_out);
        let ids: Vec<u32> = first.validation.iter().map(|id| id.0).collect();
        assert_eq!((ids.len(), &ids[..8]), (29, &VALIDATION[..]));
        let domains = StreamConfig { kind: StreamKind::DomainIncremental, ..StreamConfig::default() };
        let first = first_of(&domains);
        let ids = |ids: &[SampleId]| ids[..8].iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!((first.train.len(), first.test.len()), (287, 73));
        assert_eq!((ids(&first.train), ids(&first.test)), (DOMAIN_TRAIN.to_vec(), DOMAIN_TEST.to_vec()));
    }

    const VALIDATION: [u32; 8] = [72, 151, 214, 268, 279, 313, 319, 365];
    const DOMAIN_TRAIN: [u32; 8] = [1, 3, 12, 15, 17, 28, 30, 47];
    const DOMAIN_TEST: [u32; 8] = [6, 17, 18, 26, 27, 32, 44, 69];

    #[test]
    fn a_list_is_taken_as_it_is_and_seeds_differ() {
        let list: Vec<u16> = vec![9, 1, 2, 3, 4, 5, 6, 7, 8, 0];
        assert_eq!(order(&config(5, ClassOrder::List(list.clone()))), list);
        assert_eq!(order(&config(5, ClassOrder::Seed(1))), order(&config(5, ClassOrder::Seed(1))));
        assert_ne!(order(&config(5, ClassOrder::Seed(1))), order(&config(5, ClassOrder::Seed(2))));
    }

    #[test]
    fn tasks_are_the_experiences_that_have_a_class() {
        let list = ClassOrder::List(vec![9, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
        let classes = config(5, list);
        let tasks = StreamConfig { kind: StreamKind::TaskIncremental, ..classes.clone() };
        let (of_tasks, of_classes) = (stream(&tasks).unwrap(), stream(&classes).unwrap());
        assert_eq!(of_tasks.experiences(), of_classes.experiences(), "it is the same split");
        assert_eq!(of_tasks.experiences()[3].task, 3);
        assert!(of_tasks.tells_tasks() && !of_classes.tells_tasks());
        let siblings = of_tasks.classes_of_tasks();
        assert_eq!(siblings.len(), 10);
        assert_eq!([&siblings[1], &siblings[9], &siblings[4]], [&[9, 1][..], &[9, 1], &[4, 5]]);
        assert!(of_classes.classes_of_tasks().is_empty());
    }

    #[test]
    fn agents_hold_out_the_same_samples_whatever_their_class_order() {
        let validation = |order, seed| {
            let config = StreamConfig { validation: 0.2, seed, ..config(5, ClassOrder::Seed(order)) };
            let stream = stream(&config).unwrap();
            let mut ids: Vec<SampleId> =
                stream.experiences().iter().flat_map(|e| e.validation.clone()).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(validation(1, 0), validation(2, 0));
        assert_ne!(validation(1, 0), validation(1, 1));
    }

    #[test]
    fn impossible_streams_are_refused() {
        let refused = |config: StreamConfig| stream(&config).unwrap_err().to_string();
        assert!(refused(config(3, ClassOrder::Seed(0))).contains("10 classes do not divide into 3"));
        let short = config(5, ClassOrder::List(vec![1, 2]));
        assert!(refused(short).contains("expected every class from 0 to 9 once"));
        let other = config(5, ClassOrder::SameAs("alice".to_owned()));
        assert!(refused(other).contains("found that of `alice`"));
        let domains = |experiences| StreamConfig {
            kind: StreamKind::DomainIncremental,
            ..config(experiences, ClassOrder::Seed(0))
        };
        assert!(stream(&domains(35)).is_ok(), "the smallest class has 35 test samples");
        let error = refused(domains(36));
        assert!(error.contains("class `8` has 35 test samples, fewer than the 36 experiences"), "{error}");
        let mut few = digits();
        let second = few.train.labels.iter().position(|&l| l == 1).unwrap();
        few.train.labels.iter_mut().skip(second + 1).filter(|l| **l == 1).for_each(|l| *l = 2);
        let held_out = StreamConfig { validation: 0.5, ..StreamConfig::default() };
        let error = ExperienceStream::new(&few, &held_out).unwrap_err().to_string();
        assert!(error.contains("class `1` has 1 training sample"), "{error}");
    }

    /// A data set whose class c has `counts[c]` training samples and as many for testing, mixed by `seed`.
    fn source(counts: &[usize], seed: u64) -> DataSource {
        let mut labels: Vec<u16> =
            (0_u16..).zip(counts).flat_map(|(class, n)| std::iter::repeat_n(class, *n)).collect();
        Draw::new(seed, "test").shuffle(&mut labels, &[]);
        let shape = ImageShape { channels: 1, height: 2, width: 2 };
        let classes = (0..counts.len()).map(|c| c.to_string()).collect();
        let data = Dataset { classes, shape, pixels: vec![0; labels.len() * 4], labels };
        let normalization = crate::data::Normalization::of(&data);
        DataSource { train: data.clone(), test: data, normalization }
    }

    #[test]
    fn joined_experiences_are_one_and_keep_their_tasks() {
        let config = StreamConfig { kind: StreamKind::TaskIncremental, ..config(5, ClassOrder::Seed(3)) };
        let stream = ExperienceStream::new(&digits(), &config).unwrap();
        let joined = stream.clone().joined();
        let [all] = joined.experiences() else { panic!("{}", joined.experiences().len()) };
        assert_eq!(joined.classes_of_tasks(), stream.classes_of_tasks());
        let classes: Vec<u16> = stream.experiences().iter().flat_map(|e| e.classes.clone()).collect();
        assert_eq!(all.classes, classes);
        assert_eq!(all.train, (0..1433).map(SampleId).collect::<Vec<_>>());
        assert_eq!(all.test, (0..364).map(SampleId).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn every_sample_is_in_one_experience_or_held_out(
            per_experience in 1_usize..4, n_experiences in 1_usize..5, kind in 0_usize..3,
            counts in prop::collection::vec(16_usize..30, 16), order: u64, seed: u64,
            validation in prop_oneof![Just(0.0), 0.001..0.999_f64], proxy in prop_oneof![Just(0.0), 0.001..0.3_f64],
        ) {
            let kinds = [StreamKind::ClassIncremental, StreamKind::TaskIncremental, StreamKind::DomainIncremental];
            let source = source(&counts[..per_experience * n_experiences], seed);
            let class_order = ClassOrder::Seed(order);
            let config = StreamConfig {
                kind: kinds[kind], domains: Domains::Instances, experiences: n_experiences, class_order, validation, proxy,
                seed,
            };
            let stream = ExperienceStream::new(&source, &config).unwrap();
            prop_assert_eq!(&stream, &ExperienceStream::new(&source, &config).unwrap());
            let all = |of: fn(&Experience) -> Vec<SampleId>| {
                let mut ids: Vec<u32> =
                    stream.experiences().iter().flat_map(of).map(|id| id.0).collect();
                ids.sort_unstable();
                ids
            };
            let everything: Vec<u32> = (0..source.train.len() as u32).collect();
            let mut used = all(|e| [&e.train[..], &e.validation].concat());
            used.extend(stream.proxy().iter().map(|id| id.0));
            used.sort_unstable();
            prop_assert_eq!(&used, &everything);
            prop_assert_eq!(&all(|e| e.test.clone()), &everything);
            let public: std::collections::BTreeSet<u16> = stream.proxy().iter().map(|id| source.train.label(*id)).collect();
            prop_assert_eq!(public.len(), if proxy > 0.0 { source.train.classes.len() } else { 0 });
            prop_assert_eq!(stream.experiences().len(), n_experiences);
            for (i, e) in stream.experiences().iter().enumerate() {
                prop_assert_eq!(usize::from(e.task), i);
                prop_assert!(e.train.is_sorted() && e.validation.is_sorted() && e.test.is_sorted());
                for class in 0..source.train.classes.len() as u16 {
                    let count = |ids: &[SampleId]| ids.iter().filter(|id| source.train.label(**id) == class).count();
                    let has = e.classes.contains(&class);
                    prop_assert_eq!(count(&e.train) > 0, has);
                    prop_assert_eq!(count(&e.test) > 0, has);
                    prop_assert_eq!(count(&e.validation) > 0, has && validation > 0.0);
                    let (n, held_out) = (count(&e.train) + count(&e.validation), count(&e.validation));
                    let expected = validation * n as f64;
                    prop_assert!((held_out as f64 - expected).abs() <= 1.0, "{} of {}", held_out, n);
                }
            }
        }
    }
}
