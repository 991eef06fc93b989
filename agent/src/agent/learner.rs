//! What an agent learns with and from: its network, data, replay memory, and how one mini-batch is made.

use crate::config::AgentConfig;
use crate::data::view::ViewFn;
use crate::data::{DataSource, Dataset};
use crate::draw::Draw;
use crate::eval::metrics::argmax;
use crate::ids::{SampleId, View};
use crate::telemetry::event::HeadAccuracy;
use crate::train::runtime::{Part, RuntimeError, Scalars, StepReport, TrainSession};

/// Rows evaluated at once.
const EVALUATION_BATCH: usize = 128;

pub(crate) struct Learner {
    pub session: TrainSession,
    pub source: DataSource,
    views: ViewFn,
    n_classes: usize,
    scalars: Scalars,
    /// Parts of a mini-batch that are computed one after another.
    micro_batches: usize,
    /// Seeds of dropout by step and part.
    dropout: Draw,
}

/// One trained mini-batch.
pub(crate) struct Trained {
    pub report: StepReport,
    /// Rows that had a teacher.
    pub n_taught: usize,
}

impl Learner {
    pub fn new(config: &AgentConfig, source: DataSource, views: ViewFn, session: TrainSession) -> Self {
        let train = &config.train;
        Learner {
            n_classes: source.train.classes.len(),
            session,
            source,
            views,
            scalars: Scalars {
                learning_rate: train.learning_rate,
                distill_weight: train.distill.weight,
                temperature: train.distill.temperature,
            },
            micro_batches: train.micro_batches,
            dropout: Draw::new(config.seed, "dropout"),
        }
    }

    /// Trains on one view of the samples. `teacher` writes a row of soft targets if there is one.
    pub fn train(
        &mut self,
        ids: &[SampleId],
        view: View,
        mut teacher: impl FnMut(SampleId, View, &mut [f32]) -> bool,
    ) -> Result<Trained, RuntimeError> {
        let step = self.session.n_steps();
        let rows_of_part = ids.len().div_ceil(self.micro_batches).max(1);
        let n_parts = ids.len().div_ceil(rows_of_part);
        let mut n_taught = 0;
        let mut losses = [0.0; 3];
        let mut last = None;
        for (i, part) in ids.chunks(rows_of_part).enumerate() {
            n_taught += self.fill(part, view, &mut teacher)?;
            let part = Part {
                weight: part.len() as f32 / ids.len() as f32,
                is_last: i + 1 == n_parts,
                seed: self.dropout.at(&[step, i as u64]) as i64,
            };
            let report = self.session.step_part(&self.scalars, &part)?;
            for (sum, loss) in losses.iter_mut().zip([report.loss, report.loss_cl, report.loss_st]) {
                *sum += part.weight * loss;
            }
            last = Some(report);
        }
        let last = last.expect("invariant: a mini-batch has a row");
        let [loss, loss_cl, loss_st] = losses;
        Ok(Trained { report: StepReport { loss, loss_cl, loss_st, ..last }, n_taught })
    }

    /// Makes the samples the current mini-batch; how many have a teacher.
    fn fill(
        &mut self,
        ids: &[SampleId],
        view: View,
        mut teacher: impl FnMut(SampleId, View, &mut [f32]) -> bool,
    ) -> Result<usize, RuntimeError> {
        let k = self.n_classes;
        let batch = self.session.batch_mut(ids.len())?;
        self.views.fill_batch(&self.source.train, &self.source.normalization, ids, view, batch.input);
        batch.labels.fill(0.0);
        let mut n_taught = 0;
        for (row, id) in ids.iter().enumerate() {
            batch.labels[row * k + usize::from(self.source.train.label(*id))] = 1.0;
            let targets = &mut batch.teacher_logits[row * k..(row + 1) * k];
            let taught = teacher(*id, view, targets);
            if !taught {
                targets.fill(0.0);
            }
            batch.teacher_weight[row] = f32::from(u8::from(taught));
            n_taught += usize::from(taught);
        }
        Ok(n_taught)
    }

    /// Raw logits `[N, K]` of the continual-learning head on one view of the samples: soft targets for peers.
    pub fn label(&mut self, ids: &[SampleId], view: View) -> Result<Vec<f32>, RuntimeError> {
        let Learner { session, views, source, .. } = self;
        let logits = session.logits(ids.len(), |input| {
            views.fill_batch(&source.train, &source.normalization, ids, view, input);
        })?;
        Ok(logits.cl)
    }

    /// Accuracy of both heads on the test samples of each experience, and on all of them.
    pub fn evaluate(&mut self, experiences: &[Vec<SampleId>]) -> Result<Vec<HeadAccuracy>, RuntimeError> {
        let mut heads = ["cl", "student"].map(|head| HeadAccuracy {
            head: head.to_owned(),
            per_experience: Vec::new(),
            stream: 0.0,
        });
        let mut n_correct_in_all = [0_usize; 2];
        for ids in experiences {
            let n_correct = self.count_correct(ids)?;
            for h in 0..2 {
                heads[h].per_experience.push(n_correct[h] as f64 / ids.len().max(1) as f64);
                n_correct_in_all[h] += n_correct[h];
            }
        }
        let n: usize = experiences.iter().map(Vec::len).sum();
        for (head, n_correct) in heads.iter_mut().zip(n_correct_in_all) {
            head.stream = n_correct as f64 / n.max(1) as f64;
        }
        Ok(heads.into())
    }

    fn count_correct(&mut self, ids: &[SampleId]) -> Result<[usize; 2], RuntimeError> {
        let Learner { session, source, n_classes, .. } = self;
        let test: &Dataset = &source.test;
        let mut n_correct = [0; 2];
        for ids in ids.chunks(EVALUATION_BATCH) {
            let logits = session.logits(ids.len(), |input| {
                source.normalization.fill_batch(test, ids, input);
            })?;
            for (h, logits) in [logits.cl, logits.student].iter().enumerate() {
                n_correct[h] += logits
                    .chunks_exact(*n_classes)
                    .zip(ids)
                    .filter(|(row, id)| argmax(row) == usize::from(test.label(**id)))
                    .count();
            }
        }
        Ok(n_correct)
    }
}
