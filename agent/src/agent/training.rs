//! The loop: experiences, epochs, mini-batches, and what happens between them.

use std::path::Path;
use std::time::Instant;

use dkt_models::DualHead;
use onnx_grad::graph::Graph;

use super::{Agent, AgentError, Ending, setup};
use crate::durable;
use crate::ids::{SampleId, View};
use crate::strategy::schedule::stepped;
use crate::strategy::{
    ALPHA, FINETUNE_EPOCHS, FINETUNE_FROM, FINETUNE_RATE, Importance, Mixing, NOISE_ETA, NOISE_GAMMA,
    Retention, TEMPERATURE, TrainsOn,
};
use crate::stream::batches::{BatchPlan, epoch_batches};
use crate::telemetry::event::{Epoch, Evaluated, Event, HeadAccuracy, Initial, Usage};
use crate::train::checkpoint::Position;
use crate::train::runtime::{FrozenTeacher, Scalars};

/// Folder of the networks after each experience.
const MODELS_DIR: &str = "models";

/// How the epochs of an experience are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Labels only: the student head stays as it is.
    Pretraining,
    Training,
    /// On as many samples of every class.
    FineTuning,
}

/// The epochs of one experience, counted through its stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epochs {
    pretraining: u32,
    training: u32,
    fine_tuning: u32,
}

impl Epochs {
    pub fn all(self) -> u32 {
        self.pretraining + self.training + self.fine_tuning
    }

    fn before_fine_tuning(self) -> u32 {
        self.pretraining + self.training
    }

    /// The stage of an epoch, and its number within the stage.
    fn stage(self, epoch: u32) -> (Stage, u32) {
        if epoch < self.pretraining {
            (Stage::Pretraining, epoch)
        } else if epoch < self.before_fine_tuning() {
            (Stage::Training, epoch - self.pretraining)
        } else {
            (Stage::FineTuning, epoch - self.before_fine_tuning())
        }
    }
}

impl Agent<'_> {
    pub(super) fn epochs_of(&self, experience: usize) -> Epochs {
        let strategy = self.config.strategy.strategy();
        let of_config = |constant| self.config.strategy.get(constant) as u32;
        let is_tuned = strategy.balanced_fine_tuning && experience as u32 + 1 >= of_config(&FINETUNE_FROM);
        Epochs {
            pretraining: if experience == 0 { self.config.train.pretrain_epochs } else { 0 },
            training: self.config.train.epochs,
            fine_tuning: if is_tuned { of_config(&FINETUNE_EPOCHS) } else { 0 },
        }
    }

    /// Samples that are new in an experience, as far as its strategy is concerned.
    pub(super) fn new_samples(&self, experience: usize) -> Vec<SampleId> {
        let experiences = self.stream.experiences();
        let from = match self.config.strategy.strategy().trains_on {
            TrainsOn::Experience | TrainsOn::Everything => experience,
            TrainsOn::SeenSoFar => 0,
        };
        let mut ids: Vec<SampleId> =
            experiences[from..=experience].iter().flat_map(|e| e.train.iter().copied()).collect();
        ids.sort_unstable();
        ids
    }

    /// Steps of an experience if nothing ends it early.
    pub(super) fn n_steps_of(&self, experience: usize) -> u64 {
        let (capacity, _) = self.config.replay.resolved(self.config.strategy.strategy());
        let n_seen = |until: usize| -> usize {
            self.stream.experiences()[..until].iter().map(|e| e.train.len()).sum()
        };
        let n_joined = match self.config.strategy.strategy().mixing {
            Mixing::Beside => 0,
            Mixing::Joined => capacity.min(n_seen(experience)),
        };
        let n_of =
            |n: usize, epochs: u32| (n.div_ceil(self.config.train.batch_size) as u64) * u64::from(epochs);
        let epochs = self.epochs_of(experience);
        n_of(self.new_samples(experience).len() + n_joined, epochs.before_fine_tuning())
            + n_of(capacity.min(n_seen(experience + 1)), epochs.fine_tuning)
    }

    pub(super) fn train(&mut self) -> Result<Ending, AgentError> {
        self.evaluate_initially()?;
        self.wait_for_peers();
        self.usage.pass();
        for experience in self.position.experience as usize..self.stream.experiences().len() {
            self.begin_experience(experience)?;
            let epochs = self.epochs_of(experience);
            while self.position.epoch < epochs.all() {
                let epoch = self.position.epoch;
                if epoch == epochs.before_fine_tuning() && self.position.batch == 0 {
                    self.begin_fine_tuning(experience)?;
                }
                let Some(is_over) = self.train_epoch(experience, epochs)? else { return Ok(Ending::Stopped) };
                self.position.epoch = if is_over { epochs.before_fine_tuning() } else { epoch + 1 };
                if is_over && epoch + 1 < epochs.before_fine_tuning() {
                    let message = format!(
                        "experience {} ends early, after {} of {} epochs: its validation accuracy no longer rises",
                        experience + 1,
                        epoch + 1,
                        epochs.before_fine_tuning(),
                    );
                    self.emit(Event::Warning { message });
                }
                self.position.batch = 0;
                // What an experience came to is always worth telling.
                let is_last = self.position.epoch == epochs.all();
                if is_last || (epoch + 1).is_multiple_of(self.config.exchange.refresh_epochs) {
                    self.start_round();
                }
            }
            self.end_experience(experience, epochs)?;
        }
        self.save_if_possible()?;
        Ok(Ending::Finished)
    }

    fn begin_experience(&mut self, experience: usize) -> Result<(), AgentError> {
        self.demand(experience);
        let groups = self.past_groups(experience);
        self.learner.session.set_past_groups(&groups)?;
        let models = &self.config.teacher.models;
        if models.len() == 1 && self.learner.teacher.is_some() {
            return Ok(());
        }
        // The device need not have room for two.
        self.learner.teacher = None;
        let model = if models.len() == 1 { models.first() } else { models.get(experience) };
        self.learner.teacher = model
            .map(|path| {
                let model = DualHead::from_graph(Graph::read(path).map_err(dkt_models::ModelError::from)?)?;
                let source = &self.learner.source;
                let own = setup::check_teacher(path, &model, source)?;
                let normalizations = [own.as_ref().unwrap_or(&source.normalization), &source.normalization];
                let (session, n_threads) = (&self.learner.session, self.config.train.threads);
                Ok::<_, AgentError>(FrozenTeacher::new(&model, session, n_threads, normalizations)?)
            })
            .transpose()?;
        Ok(())
    }

    /// Classes of the experiences before `until`, in the groups within which the past is kept.
    fn past_groups(&self, until: usize) -> Vec<Vec<u16>> {
        let earlier: Vec<&[u16]> =
            self.stream.experiences()[..until].iter().map(|e| e.classes.as_slice()).collect();
        self.config.strategy.strategy().past_groups(&earlier, self.stream.tells_tasks())
    }

    /// The memory takes its share of the new classes, and the network as it is now, with all its classes, becomes
    /// what is to be kept.
    fn begin_fine_tuning(&mut self, experience: usize) -> Result<(), AgentError> {
        let ids = self.stream.experiences()[experience].train.clone();
        self.learner.remember(&mut self.memory, &ids)?;
        self.learner.session.keep_past()?;
        self.learner.session.reset_optimizer()?;
        Ok(())
    }

    /// Trains the rest of one epoch. `None` if the agent was stopped on the way; true if the accuracy no longer rises.
    fn train_epoch(&mut self, experience: usize, epochs: Epochs) -> Result<Option<bool>, AgentError> {
        let epoch = self.position.epoch;
        let (stage, within) = epochs.stage(epoch);
        let views = self.learner.views_of_epoch(epoch, self.config.data.views);
        if stage == Stage::FineTuning {
            self.learner.session.set_past_groups(&self.past_groups(experience + 1))?;
        }
        let (current, replay) = self.samples_of(experience, stage);
        let mut pool = [current.as_slice(), &replay].concat();
        pool.sort_unstable();
        pool.dedup();
        let public = self.public_samples();
        let batches = epoch_batches(&BatchPlan {
            current: &current,
            replay: &replay,
            batch_size: self.config.train.batch_size,
            replay_batch_size: self.config.replay.batch_size,
            proxy: &public,
            proxy_batch_size: self.config.train.proxy_batch_size,
            seed: self.config.seed,
            experience: experience as u32,
            epoch,
        });
        let scalars = self.scalars(experience as u32, stage, within);
        for batch in batches.iter().skip(self.position.batch as usize) {
            let began = Instant::now();
            let scalars = Scalars { gradient_noise: self.gradient_noise(stage), ..scalars };
            let link = &self.link;
            let n_views = self.taught_views();
            let trained = self.learner.train(batch, views, &pool, &scalars, |id, view, row| {
                let taught_as = View(view.0 % n_views);
                link.as_ref().is_some_and(|link| link.engine.teacher_row(id, taught_as, row))
            })?;
            self.sums.add(&trained.report, batch.ids.len(), trained.n_taught);
            self.position.batch += 1;
            self.position.step += 1;
            self.teach_beside_training(began.elapsed().as_secs_f64())?;
            self.sums.seconds += began.elapsed().as_secs_f64();
            if self.stopped() {
                self.save_checkpoint()?;
                return Ok(None);
            }
            let every = self.config.checkpoint.every_steps;
            if every > 0 && self.position.step.is_multiple_of(every) {
                self.save_if_possible()?;
            }
        }
        let validation = self.stream.experiences()[experience].validation.clone();
        let accuracy = self.learner.validate(&validation)?;
        self.report_epoch(experience as u32, epoch, &scalars, accuracy);
        let patience = self.config.train.early_stopping.patience;
        let margin = self.config.train.early_stopping.margin;
        let is_over = stage == Stage::Training
            && accuracy.is_some_and(|accuracy| self.early_stopping.is_over(accuracy, patience, margin));
        Ok(Some(is_over))
    }

    /// New and remembered samples of an epoch.
    fn samples_of(&self, experience: usize, stage: Stage) -> (Vec<SampleId>, Vec<SampleId>) {
        let remembered = self.memory.ids().to_vec();
        if stage == Stage::FineTuning {
            return (remembered, Vec::new());
        }
        let new = self.new_samples(experience);
        match self.config.strategy.strategy().mixing {
            Mixing::Beside => (new, remembered),
            Mixing::Joined => ([new, remembered].concat(), Vec::new()),
        }
    }

    fn scalars(&self, experience: u32, stage: Stage, epoch: u32) -> Scalars {
        let train = &self.config.train;
        let strategy = &self.config.strategy;
        let knowledge = &self.learner.knowledge;
        let factor = match stage {
            Stage::Pretraining => 1.0,
            Stage::Training => train.schedule.factor(epoch, train.epochs),
            Stage::FineTuning => {
                let n_epochs = strategy.get(&FINETUNE_EPOCHS) as u32;
                strategy.get(&FINETUNE_RATE) as f32 * train.schedule.factor(epoch, n_epochs)
            }
        };
        let distill = &train.distill;
        let distill_weight = match stage {
            Stage::Pretraining => 0.0,
            _ => stepped(distill.weight, distill.weight_step, distill.weight_every, experience, epoch),
        };
        Scalars {
            learning_rate: train.learning_rate * factor,
            distill_weight,
            temperature: distill.temperature,
            retention_weight: knowledge.constant_or_zero(&ALPHA),
            retention_temperature: knowledge.constant_or_zero(&TEMPERATURE).max(f32::MIN_POSITIVE),
            penalty_weight: knowledge.penalty_weight(),
            gradient_noise: 0.0,
        }
    }

    /// eta / (1 + t)^gamma with t the steps since the experience began (Neelakantan et al. 2015, for deviations).
    ///
    /// None in pre-training, where it would move the student head.
    fn gradient_noise(&self, stage: Stage) -> f32 {
        if !self.config.strategy.strategy().gradient_noise || stage == Stage::Pretraining {
            return 0.0;
        }
        let (eta, gamma) = (self.config.strategy.get(&NOISE_ETA), self.config.strategy.get(&NOISE_GAMMA));
        let t = self.position.step - self.position.experience_began;
        (eta / (1.0 + t as f64).powf(gamma)) as f32
    }

    fn report_epoch(&mut self, experience: u32, epoch: u32, scalars: &Scalars, validation: Option<f64>) {
        let strategy = self.config.strategy.strategy();
        let of = Epoch {
            experience,
            epoch,
            step: self.position.step,
            n_epochs: self.epochs_of(experience as usize).all(),
            n_peers: self.link.as_ref().map_or(0, |l| l.engine.peers().len() as u32),
            learning_rate: Some(scalars.learning_rate),
            distill_weight: Some(scalars.distill_weight),
            validation_accuracy: validation,
            loss_retention: (strategy.retention != Retention::None).then_some(0.0),
            loss_penalty: (strategy.importance != Importance::None).then_some(0.0),
            ..Epoch::default()
        };
        let sums = std::mem::take(&mut self.sums);
        self.usage.trained(sums.n_rows, sums.seconds);
        let epoch = sums.means(of);
        self.epochs.push(epoch.clone());
        self.emit(Event::Epoch(epoch));
    }

    fn end_experience(&mut self, experience: usize, epochs: Epochs) -> Result<(), AgentError> {
        if epochs.fine_tuning == 0 {
            let ids = self.stream.experiences()[experience].train.clone();
            self.learner.remember(&mut self.memory, &ids)?;
        }
        let samples = self.new_samples(experience);
        self.learner.consolidate(&samples, self.config.train.batch_size)?;
        self.evaluate(experience)?;
        if self.config.checkpoint.models {
            let path = Path::new(MODELS_DIR).join(format!("experience-{}.onnx", experience + 1));
            self.write_model(&path)?;
        }
        // What was done since training ended is in no experience.
        self.usage.begin(Usage::default());
        let step = self.position.step;
        self.position = Position {
            experience: experience as u32 + 1,
            step,
            experience_began: step,
            ..Position::default()
        };
        self.early_stopping = Default::default();
        Ok(())
    }

    /// The baseline of forward transfer, which a stream of one experience has not.
    fn evaluate_initially(&mut self) -> Result<(), AgentError> {
        if self.position.step > 0 || self.initial.is_some() || self.stream.experiences().len() < 2 {
            return Ok(());
        }
        let heads = self.learner.evaluate(self.stream.experiences())?.into_iter();
        let initial = Initial { heads: heads.map(|h| HeadAccuracy { confusion: None, ..h }).collect() };
        self.initial = Some(initial.clone());
        self.emit(Event::Initial(initial));
        Ok(())
    }

    fn evaluate(&mut self, experience: usize) -> Result<(), AgentError> {
        let usage = Some(self.usage.end());
        let heads = self.learner.evaluate(self.stream.experiences())?;
        let evaluated = Evaluated { experience: experience as u32, heads, usage };
        self.evaluated.push(evaluated.clone());
        self.emit(Event::Evaluated(evaluated));
        self.report_traffic();
        Ok(())
    }

    /// Writes the network as it is now, as plain forward ONNX, to a path within the agent's folder.
    pub(super) fn write_model(&self, path: &Path) -> Result<(), AgentError> {
        let path = self.out.join(path);
        if let Some(folder) = path.parent() {
            durable::create_dir(folder)?;
        }
        let mut graph = self.step.export(&self.learner.session.state()?)?;
        graph.metadata.extend(self.learner.source.metadata());
        durable::write(&path, &graph.encode())?;
        Ok(())
    }
}
