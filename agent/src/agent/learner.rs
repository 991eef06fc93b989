//! What an agent learns with and from: its network and data, and how one mini-batch is made.

use std::collections::BTreeMap;

use super::consolidate::Knowledge;
use crate::config::AgentConfig;
use crate::data::view::cutmix::write_label;
use crate::data::view::{ViewBatch, ViewFn};
use crate::data::{DataSource, Dataset};
use crate::draw::Draw;
use crate::eval::metrics::{Confusion, argmax};
use crate::ids::{Digest, SampleId, View};
use crate::strategy::{Retention, RowWeights};
use crate::stream::batches::MiniBatch;
use crate::stream::{Experience, ExperienceStream};
use crate::telemetry::event::{HeadAccuracy, MAX_CONFUSION_CLASSES};
use crate::train::runtime::{FrozenTeacher, Part, RuntimeError, Scalars, StepReport, TrainSession};

/// Rows evaluated at once.
const EVALUATION_BATCH: usize = 128;

/// Kind of a row without a label, after new and remembered ones.
const PUBLIC: usize = 2;

/// Images that all agents of the fleet have, beside training data of their own.
pub(crate) struct ProxySet {
    pub images: Dataset,
    pub views: ViewFn,
    pub n_views: u8,
}

/// Which views a mini-batch is seen in.
#[derive(Clone, Copy)]
pub(crate) struct EpochViews {
    pub training: View,
    /// Of the public set, where there is one.
    pub public: View,
}

pub(crate) struct Learner {
    pub session: TrainSession,
    pub source: DataSource,
    pub views: ViewFn,
    /// Rows without labels are samples of this; of the training data where there is none.
    pub proxy: Option<ProxySet>,
    pub knowledge: Knowledge,
    /// The trained network that teaches in this experience, where there is one.
    pub teacher: Option<FrozenTeacher>,
    pub n_classes: usize,
    /// By class: the classes among which one is to be told from the others; empty where all are.
    tasks: Vec<Vec<u16>>,
    /// Parts of a mini-batch that are computed one after another.
    micro_batches: usize,
    /// Seeds of dropout and gradient noise by step and part.
    seeds: Draw,
}

/// One trained mini-batch.
pub(crate) struct Trained {
    pub report: StepReport,
    /// Rows that had a teacher.
    pub n_taught: usize,
}

impl Learner {
    pub fn new(
        config: &AgentConfig,
        source: DataSource,
        views: ViewFn,
        proxy: Option<ProxySet>,
        stream: &ExperienceStream,
        session: TrainSession,
        knowledge: Knowledge,
    ) -> Self {
        Learner {
            n_classes: source.train.classes.len(),
            session,
            source,
            views,
            proxy,
            knowledge,
            teacher: None,
            tasks: stream.classes_of_tasks(),
            micro_batches: config.train.micro_batches,
            seeds: Draw::new(config.seed, "dropout"),
        }
    }

    /// The views of an epoch: they take turns.
    pub fn views_of_epoch(&self, epoch: u32, n_views: u8) -> EpochViews {
        let turn = |n_views: u8| View((epoch % u32::from(n_views)) as u8);
        EpochViews {
            training: turn(n_views),
            public: self.proxy.as_ref().map_or(View(0), |proxy| turn(proxy.n_views)),
        }
    }

    /// Of what teachers label: the views' digest, and the number of samples.
    pub fn taught_data(&self) -> (Digest, usize) {
        match &self.proxy {
            Some(proxy) => (proxy.views.digest(), proxy.images.len()),
            None => (self.views.digest(), self.source.train.len()),
        }
    }

    /// Trains on one view of the samples. `teacher` writes a row of soft targets if there is one.
    pub fn train(
        &mut self,
        batch: &MiniBatch,
        views: EpochViews,
        pool: &[SampleId],
        scalars: &Scalars,
        mut teacher: impl FnMut(SampleId, View, &mut [f32]) -> bool,
    ) -> Result<Trained, RuntimeError> {
        let MiniBatch { ids, n_new, n_remembered } = batch;
        let step = self.session.n_steps();
        let n_labelled = n_new + n_remembered;
        let weights = self.knowledge.row_weights([*n_new, *n_remembered, ids.len() - n_labelled]);
        let kind_of_row = |row: usize| usize::from(row >= *n_new) + usize::from(row >= n_labelled);
        let kinds: Vec<usize> = (0..ids.len()).map(kind_of_row).collect();
        let rows_of_part = self.rows_of_part(ids.len());
        let n_parts = ids.len().div_ceil(rows_of_part);
        let mut n_taught = 0;
        let mut sum = StepReport::default();
        for (i, (part_ids, kinds)) in ids.chunks(rows_of_part).zip(kinds.chunks(rows_of_part)).enumerate() {
            let seen = ViewBatch { ids: part_ids, view: views.training, pool };
            n_taught += self.fill(&seen, views.public, kinds, weights, &mut teacher)?;
            let part = Part {
                weight: part_ids.len() as f32 / ids.len() as f32,
                is_last: i + 1 == n_parts,
                seed: self.seeds.at(&[step, i as u64]) as i64,
            };
            let report = self.session.step_part(scalars, &part)?;
            sum = StepReport {
                loss: sum.loss + part.weight * report.loss,
                loss_cl: sum.loss_cl + part.weight * report.loss_cl,
                loss_st: sum.loss_st + part.weight * report.loss_st,
                loss_retention: sum.loss_retention + part.weight * report.loss_retention,
                loss_penalty: sum.loss_penalty + part.weight * report.loss_penalty,
                ..report
            };
        }
        Ok(Trained { report: sum, n_taught })
    }

    /// Rows of each part of a mini-batch of `n`.
    pub fn rows_of_part(&self, n: usize) -> usize {
        n.div_ceil(self.micro_batches).max(1)
    }

    /// Makes the samples the current mini-batch; how many have a teacher. `kinds` says of each row whether it is new,
    /// remembered or without a label (0, 1, 2), in this order.
    fn fill(
        &mut self,
        seen: &ViewBatch<'_>,
        public_view: View,
        kinds: &[usize],
        weights: RowWeights,
        mut teacher: impl FnMut(SampleId, View, &mut [f32]) -> bool,
    ) -> Result<usize, RuntimeError> {
        let k = self.n_classes;
        let ViewBatch { ids, view, .. } = *seen;
        let Learner { session, source, views, proxy, knowledge, .. } = self;
        let batch = session.batch_mut(ids.len())?;
        // Only a public set of its own counts its samples anew.
        let n_own = if proxy.is_some() { kinds.partition_point(|kind| *kind < PUBLIC) } else { ids.len() };
        let (own_input, public_input) = batch.input.split_at_mut(n_own * source.train.shape.n_pixels());
        let own = ViewBatch { ids: &ids[..n_own], ..*seen };
        let mut mixes = views.fill_batch(&source.train, &source.normalization, &own, own_input);
        if let Some(proxy) = proxy {
            let public = ViewBatch { ids: &ids[n_own..], view: public_view, pool: &[] };
            mixes.extend(proxy.views.fill_batch(&proxy.images, &source.normalization, &public, public_input));
        }
        batch.past_logits.fill(0.0);
        let mut n_taught = 0;
        for (row, (id, mix)) in ids.iter().zip(&mixes).enumerate() {
            let of_row = row * k..(row + 1) * k;
            let kind = kinds[row];
            let is_own = row < n_own;
            let labels = &mut batch.labels[of_row.clone()];
            if is_own {
                write_label(&source.train, *id, mix.as_ref(), labels);
                labels.iter_mut().for_each(|label| *label *= weights.labels[kind]);
            } else {
                labels.fill(0.0);
            }
            let targets = &mut batch.teacher_logits[of_row.clone()];
            // With a public set teachers know nothing of other samples.
            let may_be_taught = is_own == proxy.is_none();
            let taught = may_be_taught && teacher(*id, if is_own { view } else { public_view }, targets);
            if !taught {
                targets.fill(0.0);
            }
            batch.teacher_weight[row] = f32::from(u8::from(taught));
            n_taught += usize::from(taught);
            if let Some(weight) = batch.past_weight.get_mut(row) {
                *weight = weights.past[kind];
                if knowledge.retention() == Retention::StoredLogits {
                    let stored = knowledge.stored(*id).filter(|_| is_own);
                    *weight *= f32::from(u8::from(stored.is_some()));
                    if let Some(stored) = stored {
                        batch.past_logits[of_row.clone()].copy_from_slice(stored);
                    }
                }
            }
            if let Some(mask) = batch.class_mask.get_mut(of_row) {
                if !is_own {
                    mask.fill(1.0);
                    continue;
                }
                mask.fill(0.0);
                // A sample and what is mixed into it may be of two tasks.
                for id in std::iter::once(*id).chain(mix.map(|mix| mix.partner)) {
                    let label = usize::from(source.train.label(id));
                    self.tasks[label].iter().for_each(|class| mask[usize::from(*class)] = 1.0);
                }
            }
        }
        if knowledge.asks_past_network() {
            if session.has_past() {
                session.label_by_past()?;
            } else {
                session.batch_mut(ids.len())?.past_weight.fill(0.0);
            }
        }
        if let Some(teacher) = &mut self.teacher {
            session.batch_mut(ids.len())?.teacher_weight.fill(1.0);
            teacher.label(session)?;
            n_taught = ids.len();
        }
        Ok(n_taught)
    }

    /// Makes training samples as they are, without augmentation, the current mini-batch, without any teacher.
    pub fn fill_plain(&mut self, ids: &[SampleId]) -> Result<(), RuntimeError> {
        let k = self.n_classes;
        let batch = self.session.batch_mut(ids.len())?;
        self.source.normalization.fill_batch(&self.source.train, ids, batch.input);
        batch.labels.fill(0.0);
        batch.teacher_weight.fill(0.0);
        batch.past_weight.fill(0.0);
        batch.class_mask.fill(0.0);
        for (row, id) in ids.iter().enumerate() {
            let label = usize::from(self.source.train.label(*id));
            batch.labels[row * k + label] = 1.0;
            if let Some(mask) = batch.class_mask.get_mut(row * k..(row + 1) * k) {
                self.tasks[label].iter().for_each(|class| mask[usize::from(*class)] = 1.0);
            }
        }
        Ok(())
    }

    /// Raw logits `[N, K]` of the continual-learning head on one view of the samples: soft targets for peers.
    pub fn label(&mut self, ids: &[SampleId], view: View) -> Result<Vec<f32>, RuntimeError> {
        let Learner { session, views, source, proxy, .. } = self;
        let (views, images) = match proxy {
            Some(proxy) => (&proxy.views, &proxy.images),
            None => (&*views, &source.train),
        };
        let logits = session.logits(ids.len(), |input| {
            // Nobody knows what a peer mixes its images with; `data.cutmix` is refused where there are peers.
            let seen = ViewBatch { ids, view, pool: &[] };
            views.fill_batch(images, &source.normalization, &seen, input);
        })?;
        Ok(logits.cl)
    }

    /// The same for images `[N, C, H, W]` of a peer, which are views already.
    pub fn label_images(&mut self, pixels: &[u8]) -> Result<Vec<f32>, RuntimeError> {
        let Learner { session, source, .. } = self;
        let n_pixels = source.train.shape.n_pixels();
        let logits = session.logits(pixels.len() / n_pixels, |input| {
            for (image, out) in pixels.chunks_exact(n_pixels).zip(input.chunks_exact_mut(n_pixels)) {
                source.normalization.apply(image, out);
            }
        })?;
        Ok(logits.cl)
    }

    /// Pixels `[N, C, H, W]` of one view of training samples: what a peer is sent that does not have them.
    pub fn pixels(&self, ids: &[SampleId], view: View) -> Vec<u8> {
        let n_pixels = self.source.train.shape.n_pixels();
        let mut pixels = vec![0; ids.len() * n_pixels];
        for (id, out) in ids.iter().zip(pixels.chunks_exact_mut(n_pixels)) {
            self.views.write(&self.source.train, *id, view, out);
        }
        pixels
    }

    /// Raw logits of the continual-learning head on training samples as they are, a row a sample.
    pub fn logits_of(&mut self, ids: &[SampleId]) -> Result<BTreeMap<SampleId, Vec<f32>>, RuntimeError> {
        self.rows_of(ids, |session, n, fill| Ok(session.logits(n, fill)?.cl))
    }

    /// What the heads read of training samples as they are, a row a sample.
    pub fn features_of(&mut self, ids: &[SampleId]) -> Result<BTreeMap<SampleId, Vec<f32>>, RuntimeError> {
        self.rows_of(ids, |session, n, fill| session.features(n, fill))
    }

    fn rows_of(
        &mut self,
        ids: &[SampleId],
        evaluate: impl Fn(&mut TrainSession, usize, &mut dyn FnMut(&mut [f32])) -> Result<Vec<f32>, RuntimeError>,
    ) -> Result<BTreeMap<SampleId, Vec<f32>>, RuntimeError> {
        let Learner { session, source, .. } = self;
        let mut rows = BTreeMap::new();
        for ids in ids.chunks(EVALUATION_BATCH) {
            let values = evaluate(session, ids.len(), &mut |input: &mut [f32]| {
                source.normalization.fill_batch(&source.train, ids, input);
            })?;
            let width = values.len() / ids.len();
            rows.extend(ids.iter().copied().zip(values.chunks_exact(width).map(<[f32]>::to_vec)));
        }
        Ok(rows)
    }

    /// Accuracy of both heads on the test samples of each experience and on all of them, and what was taken for what.
    pub fn evaluate(&mut self, experiences: &[Experience]) -> Result<Vec<HeadAccuracy>, RuntimeError> {
        let mut heads =
            ["cl", "student"].map(|head| HeadAccuracy { head: head.to_owned(), ..HeadAccuracy::default() });
        let mut counts = [Confusion::new(self.n_classes), Confusion::new(self.n_classes)];
        for Experience { test: ids, .. } in experiences {
            let n_correct = self.count(Split::Test, ids, &mut counts)?;
            for (head, n_correct) in heads.iter_mut().zip(n_correct) {
                head.per_experience.push(n_correct as f64 / ids.len().max(1) as f64);
            }
        }
        for (head, counts) in heads.iter_mut().zip(&counts) {
            head.stream = counts.accuracy().unwrap_or(0.0);
            let rows = || (0..self.n_classes).map(|class| counts.row(class).to_vec()).collect();
            head.confusion = (self.n_classes <= MAX_CONFUSION_CLASSES).then(rows);
        }
        Ok(heads.into())
    }

    /// Accuracy of the continual-learning head on held-out training samples; `None` without any.
    pub fn validate(&mut self, ids: &[SampleId]) -> Result<Option<f64>, RuntimeError> {
        let mut counts = [Confusion::new(self.n_classes), Confusion::new(self.n_classes)];
        self.count(Split::Train, ids, &mut counts)?;
        Ok(counts[0].accuracy())
    }

    /// Adds labels and predictions of the two heads to `counts`. Returns how many of these were right.
    fn count(
        &mut self,
        split: Split,
        ids: &[SampleId],
        counts: &mut [Confusion; 2],
    ) -> Result<[usize; 2], RuntimeError> {
        let Learner { session, source, n_classes, tasks, .. } = self;
        let data: &Dataset = match split {
            Split::Train => &source.train,
            Split::Test => &source.test,
        };
        let mut n_correct = [0; 2];
        for ids in ids.chunks(EVALUATION_BATCH) {
            let logits = session.logits(ids.len(), |input| {
                source.normalization.fill_batch(data, ids, input);
            })?;
            for (h, logits) in [logits.cl, logits.student].iter().enumerate() {
                for (row, id) in logits.chunks_exact(*n_classes).zip(ids) {
                    let label = usize::from(data.label(*id));
                    let prediction = predicted(row, tasks.get(label));
                    counts[h].add(label, prediction);
                    n_correct[h] += usize::from(label == prediction);
                }
            }
        }
        Ok(n_correct)
    }
}

#[derive(Clone, Copy)]
enum Split {
    Train,
    Test,
}

/// The class with the largest logit, of those that come into question.
fn predicted(row: &[f32], of: Option<&Vec<u16>>) -> usize {
    let Some(classes) = of else { return argmax(row) };
    let logits: Vec<f32> = classes.iter().map(|class| row[usize::from(*class)]).collect();
    usize::from(classes[argmax(&logits)])
}
