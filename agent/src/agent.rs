//! One agent from start to end: its stream of experiences, the training loop, and the exchange beside it.
//!
//! Everything here runs on one thread, which owns the network and the exchange engine. Between two training
//! steps it takes in what has arrived from peers and labels a bounded number of rows for them; it never waits
//! for anyone while it trains.

mod learner;
mod link;
mod setup;
mod teaching;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dkt_models::step::TrainingStep;
use dkt_models::{DualHead, ModelError};
use onnx_grad::GradError;
use tracing::info;

use self::learner::Learner;
use self::link::Link;
use crate::config::AgentConfig;
use crate::data::view::ViewFn;
use crate::data::{DataError, ImageShape};
use crate::durable::{self, WriteError};
use crate::exchange::ExchangeError;
use crate::exchange::connection::ConnectionConfig;
use crate::exchange::engine::Event as ExchangeEvent;
use crate::ids::{Digest, Round, SampleId, View};
use crate::stream::batches::{BatchPlan, epoch_batches};
use crate::stream::replay::ReplayBuffer;
use crate::stream::{ExperienceStream, StreamError};
use crate::telemetry::event::{self, Evaluated, Event, Record};
use crate::train::checkpoint::{
    self, Checkpoint, CheckpointError, CheckpointStore, EpochSums, Manifest, Newest, Position,
};
use crate::train::runtime::{RuntimeError, TrainSession};

/// Name of the final model in the run's folder.
const MODEL_FILE: &str = "model.onnx";

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("model `{network}` and data `{data}` do not fit: expected {what} {expected}, found {found}")]
    Mismatch { network: String, data: String, what: &'static str, expected: String, found: String },
    #[error(
        "`data.crop_padding`: expected less than the smaller side of the images ({shape}), found {padding}"
    )]
    CropPadding { padding: u8, shape: ImageShape },
}

impl From<GradError> for AgentError {
    fn from(error: GradError) -> Self {
        AgentError::Model(error.into())
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The whole stream is trained.
    Finished,
    /// Stopped from outside; a checkpoint holds everything.
    Stopped,
}

/// Runs the agent that `config` describes until its stream ends or `stop` is set.
///
/// # Errors
/// [`AgentError`]; checkpoints written before stay valid.
pub fn run(
    config: &AgentConfig,
    stop: &AtomicBool,
    on_record: &mut dyn FnMut(&Record),
) -> Result<Ending, AgentError> {
    let mut agent = match Agent::new(config, stop, on_record) {
        // Nothing was trained, so nothing has to be saved.
        Err(AgentError::Exchange(ExchangeError::Stopped)) => return Ok(Ending::Stopped),
        agent => agent?,
    };
    let ending = agent.train()?;
    agent.end(ending)?;
    Ok(ending)
}

/// What a checkpoint must agree with.
struct Identity {
    training_graph: Digest,
    /// Of the training images and their augmentation: what peers must have too.
    views: Digest,
    /// Of all data.
    data: Digest,
    settings: BTreeMap<String, serde_json::Value>,
}

struct Agent<'a> {
    config: &'a AgentConfig,
    stop: &'a AtomicBool,
    on_record: &'a mut dyn FnMut(&Record),
    started: Instant,
    traffic_reported: Instant,
    step: TrainingStep,
    learner: Learner,
    stream: ExperienceStream,
    replay: ReplayBuffer,
    link: Option<Link>,
    checkpoints: CheckpointStore,
    identity: Identity,
    position: Position,
    /// Of the epoch that `position` is in.
    sums: EpochSums,
    epochs: Vec<event::Epoch>,
    round: Round,
    evaluated: Vec<Evaluated>,
    out: PathBuf,
}

impl<'a> Agent<'a> {
    fn new(
        config: &'a AgentConfig,
        stop: &'a AtomicBool,
        on_record: &'a mut dyn FnMut(&Record),
    ) -> Result<Self, AgentError> {
        let started = Instant::now();
        // What is wrong with the configuration is found before anything takes time.
        let connection = config.exchange.enabled.then(|| ConnectionConfig::new(config)).transpose()?;
        let source = setup::load_data(config)?;
        let stream = ExperienceStream::class_incremental(
            &source.train,
            &source.test,
            config.stream.experiences,
            &config.stream.class_order,
        )?;
        let model = setup::load_model(config, &source)?;
        let step = TrainingStep::derive(&model, &config.train.step_options())?;
        let session = TrainSession::new(&step, config.train.device, config.train.threads)?;
        let views = ViewFn::new(&source.train, config.data.augmentation());
        let identity = Identity {
            training_graph: Digest::of(&step.train.encode()),
            views: views.digest(),
            data: setup::data_digest(views.digest(), &source),
            settings: setup::training_settings(config),
        };
        let out = config.out_dir();
        let checkpoints = CheckpointStore::open(&out.join("checkpoints"), config.checkpoint.keep)?;
        let mut agent = Agent {
            config,
            stop,
            on_record,
            started,
            traffic_reported: started,
            step,
            learner: Learner::new(config, source, views, session),
            stream,
            replay: ReplayBuffer::new(config.replay.capacity, config.seed),
            link: None,
            checkpoints,
            identity,
            position: Position::default(),
            sums: EpochSums::default(),
            epochs: Vec::new(),
            round: Round(0),
            evaluated: Vec::new(),
            out,
        };
        agent.resume()?;
        if let Some(connection) = connection {
            agent.waiting(format!("connecting to {}", config.exchange.broker));
            let mut link = agent.connect(connection, Digest::of(&model.graph().encode()))?;
            if agent.round > Round(0) {
                // A run that goes on teaches what its network knows already.
                link.step(ExchangeEvent::RoundStarted(agent.round));
            }
            agent.link = Some(link);
        }
        agent.announce(&model);
        Ok(agent)
    }

    fn announce(&mut self, model: &DualHead) {
        let source = &self.learner.source;
        let name = |class: &u16| source.train.classes[usize::from(*class)].clone();
        let experiences: Vec<Vec<String>> =
            self.stream.experiences().iter().map(|e| e.classes.iter().map(name).collect()).collect();
        let n_steps = (0..experiences.len()).map(|e| self.n_steps_of(e)).sum();
        self.emit(Event::Started(event::Started {
            agent: self.config.agent.to_string(),
            fleet: self.config.fleet.to_string(),
            network: self.config.model.network.clone(),
            n_parameters: model.n_parameters() as u64,
            device: self.config.train.device.to_string(),
            exchange: self.config.exchange.enabled,
            experiences,
            n_epochs: self.config.train.epochs,
            n_steps,
            resumed_at_step: self.position.step,
        }));
        // A run that goes on tells its whole course, so that its report has all of it.
        for epoch in self.epochs.clone() {
            self.emit(Event::Epoch(epoch));
        }
        for evaluated in self.evaluated.clone() {
            self.emit(Event::Evaluated(evaluated));
        }
    }

    fn n_steps_of(&self, experience: usize) -> u64 {
        let n = self.stream.experiences()[experience].train.len();
        n.div_ceil(self.config.train.batch_size) as u64 * u64::from(self.config.train.epochs)
    }

    fn emit(&mut self, event: Event) {
        (self.on_record)(&Record { t_s: self.started.elapsed().as_secs_f64(), event });
    }

    fn waiting(&mut self, message: String) {
        self.emit(Event::Waiting { message });
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn train(&mut self) -> Result<Ending, AgentError> {
        self.wait_for_peers();
        for experience in self.position.experience as usize..self.stream.experiences().len() {
            self.demand(experience);
            for epoch in self.position.epoch..self.config.train.epochs {
                if !self.train_epoch(experience, epoch)? {
                    return Ok(Ending::Stopped);
                }
                self.position.epoch = epoch + 1;
                self.position.batch = 0;
                // What an experience came to is always worth telling.
                let is_last = epoch + 1 == self.config.train.epochs;
                if is_last || (epoch + 1) % self.config.exchange.refresh_epochs == 0 {
                    self.start_round();
                }
            }
            let ids = self.stream.experiences()[experience].train.clone();
            self.replay.offer(&ids);
            self.evaluate(experience)?;
            self.position =
                Position { experience: experience as u32 + 1, epoch: 0, batch: 0, step: self.position.step };
        }
        self.save_checkpoint()?;
        Ok(Ending::Finished)
    }

    /// Trains the rest of one epoch. False if the agent was stopped on the way.
    fn train_epoch(&mut self, experience: usize, epoch: u32) -> Result<bool, AgentError> {
        let view = View((epoch % u32::from(self.config.data.views)) as u8);
        let batches = epoch_batches(&BatchPlan {
            current: &self.stream.experiences()[experience].train,
            replay: self.replay.ids(),
            batch_size: self.config.train.batch_size,
            replay_batch_size: self.config.replay.batch_size,
            seed: self.config.seed,
            experience: experience as u32,
            epoch,
        });
        for ids in batches.iter().skip(self.position.batch as usize) {
            let began = Instant::now();
            let link = &self.link;
            let trained = self.learner.train(ids, view, |id, view, row| {
                link.as_ref().is_some_and(|link| link.engine.teacher_row(id, view, row))
            })?;
            self.sums.add(&trained.report, ids.len(), trained.n_taught);
            self.position.batch += 1;
            self.position.step += 1;
            self.teach()?;
            self.sums.seconds += began.elapsed().as_secs_f64();
            if self.stopped() {
                self.save_checkpoint()?;
                return Ok(false);
            }
            let every = self.config.checkpoint.every_steps;
            if every > 0 && self.position.step.is_multiple_of(every) {
                self.save_checkpoint()?;
            }
        }
        let n_peers = self.link.as_ref().map_or(0, |l| l.engine.peers().len() as u32);
        let sums = std::mem::take(&mut self.sums);
        let epoch = sums.means(experience as u32, epoch, self.position.step, n_peers);
        self.epochs.push(epoch.clone());
        self.emit(Event::Epoch(epoch));
        Ok(true)
    }

    fn evaluate(&mut self, experience: usize) -> Result<(), AgentError> {
        let tests: Vec<Vec<SampleId>> = self.stream.experiences().iter().map(|e| e.test.clone()).collect();
        let heads = self.learner.evaluate(&tests)?;
        let evaluated = Evaluated { experience: experience as u32, heads };
        self.evaluated.push(evaluated.clone());
        self.emit(Event::Evaluated(evaluated));
        self.report_traffic();
        Ok(())
    }

    fn save_checkpoint(&mut self) -> Result<(), AgentError> {
        let checkpoint = Checkpoint {
            manifest: Manifest {
                version: checkpoint::VERSION,
                agent: self.config.agent.clone(),
                training_graph: self.identity.training_graph,
                data: self.identity.data,
                settings: self.identity.settings.clone(),
                position: self.position,
                n_skipped: self.learner.session.n_skipped(),
                sums: self.sums,
                replay_n_seen: self.replay.n_seen(),
                replay_ids: self.replay.ids().iter().map(|id| id.0).collect(),
                round: self.round,
                epochs: self.epochs.clone(),
                evaluated: self.evaluated.clone(),
            },
            tensors: self.learner.session.state()?,
        };
        let size_bytes = self.checkpoints.save(&checkpoint)?;
        self.emit(Event::Checkpointed { step: self.position.step, size_bytes });
        Ok(())
    }

    fn resume(&mut self) -> Result<(), AgentError> {
        let Newest { found, damaged } = self.checkpoints.newest()?;
        for error in damaged {
            let instead = if found.is_some() { "using the one before" } else { "training starts anew" };
            self.emit(Event::Warning { message: format!("{error}; {instead}") });
        }
        let Some((path, Checkpoint { manifest, tensors })) = found else { return Ok(()) };
        let Identity { training_graph, data, settings, .. } = &self.identity;
        let digests = |what, now: &Digest, saved: &Digest| {
            (now != saved).then(|| (what, now.to_string(), saved.to_string()))
        };
        let agent = &self.config.agent;
        let difference = (manifest.agent != *agent)
            .then(|| ("agent", agent.to_string(), manifest.agent.to_string()))
            .or_else(|| digests("data set", data, &manifest.data))
            // Before the network: the training graph depends on the configuration too.
            .or_else(|| {
                let (now, saved) = setup::different_setting(settings, &manifest.settings)?;
                Some(("training configuration", now, saved))
            })
            .or_else(|| digests("network", training_graph, &manifest.training_graph));
        if let Some((what, expected, found)) = difference {
            return Err(CheckpointError::Mismatch { path, what, expected, found }.into());
        }
        info!(path = %path.display(), step = manifest.position.step, "resuming");
        self.learner.session.restore(&tensors, manifest.position.step, manifest.n_skipped)?;
        let ids = manifest.replay_ids.into_iter().map(SampleId).collect();
        self.replay.restore(manifest.replay_n_seen, ids);
        self.position = manifest.position;
        self.round = manifest.round;
        self.sums = manifest.sums;
        self.epochs = manifest.epochs;
        self.evaluated = manifest.evaluated;
        Ok(())
    }

    /// Writes the final model, goes on teaching those who have not finished, and says goodbye.
    fn end(&mut self, ending: Ending) -> Result<(), AgentError> {
        let state = self.learner.session.state()?;
        let source = &self.learner.source;
        let mut graph = self.step.export(&state)?;
        graph.metadata.extend(source.metadata());
        durable::write(&self.out.join(MODEL_FILE), &graph.encode())?;
        if ending == Ending::Finished {
            self.linger()?;
            self.report_traffic();
        }
        let stats = self.link.as_ref().map(|l| l.engine.stats().clone()).unwrap_or_default();
        let n_dropped = self.link.as_ref().map_or(0, |l| l.n_dropped());
        if let Some(link) = self.link.take() {
            link.stop();
        }
        if ending == Ending::Finished {
            self.emit(Event::Finished(event::Finished {
                n_steps: self.position.step,
                model: MODEL_FILE.to_owned(),
                rows_applied: stats.rows_applied,
                rows_refused: stats.rows_refused(),
                n_dropped,
            }));
        }
        Ok(())
    }
}
