//! One agent from start to end: its stream of experiences, the training loop, and the exchange beside it.
//!
//! Everything here runs on one thread, which owns the network and the exchange engine. Between two training
//! steps it takes in what has arrived from peers and labels a bounded number of rows for them; it never waits
//! for anyone while it trains.

mod budget;
mod consolidate;
mod learner;
mod link;
mod resume;
mod setup;
mod teaching;
mod training;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dkt_models::step::TrainingStep;
use dkt_models::{DualHead, ModelError};
use onnx_grad::GradError;

use self::budget::LabellingBudget;
use self::consolidate::Knowledge;
use self::learner::Learner;
use self::link::Link;
use crate::config::AgentConfig;
use crate::data::view::ViewFn;
use crate::data::{DataError, ImageShape};
use crate::durable::WriteError;
use crate::exchange::ExchangeError;
use crate::exchange::connection::ConnectionConfig;
use crate::exchange::engine::Event as ExchangeEvent;
use crate::ids::{Digest, Round};
use crate::strategy::schedule::EarlyStopping;
use crate::stream::memory::ReplayMemory;
use crate::stream::{ExperienceStream, StreamError};
use crate::telemetry::event::{self, Evaluated, Event, Initial, Record};
use crate::telemetry::usage::UsageMeter;
use crate::train::checkpoint::{CheckpointError, CheckpointStore, EpochSums, Position};
use crate::train::runtime::{ImportanceSession, RuntimeError, TrainSession};

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
    #[error(
        "`teacher.models`: expected one network, or one for each of {experiences} experiences, found {models}"
    )]
    Teachers { experiences: usize, models: usize },
    #[error("teacher `{}`: expected {what} {expected}, as the data has, found {found}", .path.display())]
    Teacher { path: PathBuf, what: &'static str, expected: String, found: String },
    #[error("`{key}` does not fit the network")]
    Setting { key: &'static str, source: ModelError },
    #[error("model `{network}` and data `{data}` do not fit: expected {what} {expected}, found {found}")]
    Mismatch { network: String, data: String, what: &'static str, expected: String, found: String },
    #[error("`{key}`: expected less than the smaller side of the images ({shape}), found {padding}")]
    CropPadding { key: &'static str, padding: u8, shape: ImageShape },
    #[error("`proxy.source` `{data}`: expected images of {shape}, as the training data has, found {found}")]
    ProxyShape { data: String, shape: ImageShape, found: ImageShape },
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
    memory: ReplayMemory,
    link: Option<Link>,
    budget: LabellingBudget,
    /// Images that were sent come first when something is labelled next.
    sent_first: bool,
    checkpoints: CheckpointStore,
    identity: Identity,
    position: Position,
    /// Of the epoch that `position` is in.
    sums: EpochSums,
    /// Of the experience that `position` is in.
    early_stopping: EarlyStopping,
    epochs: Vec<event::Epoch>,
    round: Round,
    usage: UsageMeter,
    initial: Option<Initial>,
    evaluated: Vec<Evaluated>,
    /// The last checkpoint could not be written.
    is_disk_at_fault: bool,
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
        let proxy = setup::load_proxy(config, &source)?;
        let stream = setup::stream(config, &source)?;
        let teachers = setup::check_teachers(config, &source, stream.experiences().len())?;
        let model = setup::load_model(config, &source)?;
        let step = setup::derive(config, &model)?;
        let session = TrainSession::new(&step, config.train.device, config.train.threads)?;
        let importance = step
            .importance
            .as_ref()
            .map(|graph| ImportanceSession::new(graph, &session, config.train.threads))
            .transpose()?;
        let knowledge = Knowledge::new(&config.strategy, importance, model.graph());
        let (capacity, selection) = config.replay.resolved(config.strategy.strategy());
        let views = ViewFn::new(&source.train, config.data.augmentation());
        let identity = Identity {
            training_graph: Digest::of(&step.train.encode()),
            data: setup::data_digest(views.digest(), &source, proxy.as_ref().map(|p| p.views.digest())),
            settings: setup::training_settings(config, &teachers),
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
            learner: Learner::new(config, source, views, proxy, &stream, session, knowledge),
            stream,
            memory: ReplayMemory::new(selection, capacity, config.seed),
            link: None,
            sent_first: false,
            budget: LabellingBudget::new(config.exchange.labelling_share),
            checkpoints,
            identity,
            position: Position::default(),
            sums: EpochSums::default(),
            early_stopping: EarlyStopping::default(),
            epochs: Vec::new(),
            round: Round(0),
            usage: UsageMeter::new(Path::new("/")),
            initial: None,
            evaluated: Vec::new(),
            is_disk_at_fault: false,
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
        for message in setup::without_effect(config, model.graph()) {
            agent.emit(Event::Warning { message });
        }
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
            n_epochs: self.epochs_of(0).all(),
            n_steps,
            resumed_at_step: self.position.step,
            classes: self.learner.source.train.classes.clone(),
            n_test: self.stream.experiences().iter().map(|e| e.test.len() as u64).collect(),
            energy: self.usage.energy_source().map(ToOwned::to_owned),
            configuration: self.config.effective().to_json(),
        }));
        // A run that goes on tells its whole course, so that its report has all of it.
        if let Some(initial) = self.initial.clone() {
            self.emit(Event::Initial(initial));
        }
        for epoch in self.epochs.clone() {
            self.emit(Event::Epoch(epoch));
        }
        for evaluated in self.evaluated.clone() {
            self.emit(Event::Evaluated(evaluated));
        }
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

    /// Writes the final model, goes on teaching those who have not finished, and says goodbye.
    fn end(&mut self, ending: Ending) -> Result<(), AgentError> {
        self.write_model(MODEL_FILE.as_ref())?;
        if ending == Ending::Finished {
            self.linger()?;
            self.report_traffic();
        }
        let stats = self.link.as_ref().map(|l| l.engine.stats().clone()).unwrap_or_default();
        let n_dropped = self.link.as_ref().map_or(0, |l| l.n_dropped());
        let n_refused = self.link.as_ref().map_or(0, |l| l.n_refused());
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
                labelling_seconds: self.budget.spent_s(),
                n_refused,
            }));
        }
        Ok(())
    }
}
