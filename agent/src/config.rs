//! What one agent is told: `AGENT.toml`, every key with its unit and default.
//!
//! Unknown keys are errors, and every value is checked before anything starts.

mod class_order;
mod data;
mod distill;
mod encoding;
pub mod lab;
mod members;
mod optimizer;
mod sharing;
mod strategy;
mod stream;
mod train;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::data::{ColorJitterConfig, DataConfig, GivenNormalization, Measured, NormalizationConfig};
pub use self::distill::{DistillConfig, DistillLoss, DistillReduction};
pub use self::encoding::EncodingConfig;
pub use self::optimizer::OptimizerConfig;
pub use self::sharing::{ProxyConfig, Sharing};
pub use self::strategy::{ReplayConfig, StrategyConfig, TeacherConfig};
pub use self::stream::StreamConfig;
pub use self::train::{
    BatchNormConfig, EarlyStoppingConfig, GroupConfig, NamePattern, PrecisionConfig, RecomputeConfig,
    TrainConfig,
};
use crate::ids::{AgentId, FleetId, quoted};
use crate::strategy::TrainsOn;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration `{}`", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` is not a valid configuration", .path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("`{}`: `{key}` must be {expected}, found {found}", .path.display())]
    Value { path: PathBuf, key: &'static str, expected: &'static str, found: String },
    #[error("`{}`: `strategy.{name}` must be {expected}, found {found}", .path.display())]
    Constant { path: PathBuf, name: String, expected: String, found: f64 },
    /// Of a lab; by its name, or its place among the agents.
    #[error("agent {agent}")]
    OfAgent { agent: String, source: Box<ConfigError> },
    #[error("`{}`: two agents are called `{agent}`; give each a name of its own", .path.display())]
    DuplicateAgent { path: PathBuf, agent: String },
    #[error(
        "`{}`: `{agent}` has the class order of `{name}`, but this lab has {}; name one of them",
        .path.display(), quoted(.known)
    )]
    OrderOfNobody { path: PathBuf, agent: AgentId, name: String, known: Vec<String> },
    #[error(
        "`{}`: {} have each other's class order; give one of them a seed or a list",
        .path.display(), quoted(.names)
    )]
    OrderCircle { path: PathBuf, names: Vec<String> },
    #[error(
        "`{}`: `{key}` of `{agent}` waits for `{name}`, but this lab has {}; name one of them",
        .path.display(), quoted(.known)
    )]
    MemberOfNobody { path: PathBuf, agent: AgentId, key: &'static str, name: String, known: Vec<String> },
    #[error(
        "`{}`: `exchange.teachers` of `{agent}` names `{name}`, but its fleet `{fleet}` has {} in this lab; correct \
         it, or give the lab the `broker` at which others are",
        .path.display(), if .known.is_empty() { "nobody else".to_owned() } else { quoted(.known) }
    )]
    TeacherOfNobody { path: PathBuf, agent: AgentId, fleet: FleetId, name: AgentId, known: Vec<AgentId> },
    #[error(
        "`{}`: `{key}` of `{agent}`: expected an experience of `{other}` from 1 to {last}, found {found}",
        .path.display()
    )]
    MemberBeyondStream {
        path: PathBuf,
        agent: AgentId,
        key: &'static str,
        other: AgentId,
        last: usize,
        found: usize,
    },
    #[error(
        "`{}`: `leave` of `{agent}`: expected at least 1 and fewer than the {n_experiences} experiences of its \
         stream, found {found}",
        .path.display()
    )]
    LeavesTooLate { path: PathBuf, agent: AgentId, n_experiences: usize, found: usize },
    #[error("`{}`: `{agent}` has `rejoin` and no `leave`; say when it leaves, too", .path.display())]
    RejoinsWithoutLeaving { path: PathBuf, agent: AgentId },
    #[error("`{}`: these would wait for ever: {}; let one of them begin by itself", .path.display(), .waits.join(", "))]
    WaitForEver { path: PathBuf, waits: Vec<String> },
}

/// A key, whether its value is fine, what it must be, what it is.
type Check = (&'static str, bool, &'static str, String);

/// Most threads of one operator.
const MAX_THREADS: usize = 1024;
/// Most rows in a mini-batch, and most labelled for peers after a step: they are in memory at once.
const MAX_BATCH: usize = 65_536;
/// Most memory for soft targets: a TiB.
const MAX_TARGET_MIB: usize = 1024 * 1024;

/// Configuration of one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Name of this agent: topic level, MQTT client id, certificate's common name.
    pub agent: AgentId,
    /// The group whose members teach each other.
    pub fleet: FleetId,
    /// Seeds weights, batch order and replay. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Folder for checkpoints, metrics and the final model. Default: `runs/<agent>`.
    #[serde(default)]
    pub out: Option<PathBuf>,
    #[serde(default)]
    pub model: ModelConfig,
    #[serde(default)]
    pub data: DataConfig,
    /// Public images, with `exchange.sharing = "proxy"`. Default: none.
    #[serde(default)]
    pub proxy: Option<ProxyConfig>,
    #[serde(default)]
    pub stream: StreamConfig,
    #[serde(default)]
    pub train: TrainConfig,
    #[serde(default)]
    pub strategy: StrategyConfig,
    #[serde(default)]
    pub replay: ReplayConfig,
    #[serde(default)]
    pub teacher: TeacherConfig,
    #[serde(default)]
    pub exchange: ExchangeConfig,
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    #[serde(default)]
    pub report: ReportConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// A network of the zoo (`dkt model list`) or a path to a dual-head ONNX file. Default: `digits-cnn`.
    pub network: String,
    /// Seeds the initial weights of a zoo network. Default: the agent's seed.
    pub seed: Option<u64>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig { network: "digits-cnn".to_owned(), seed: None }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExchangeConfig {
    /// Whether soft targets are exchanged at all. Default: true.
    pub enabled: bool,
    /// `mqtt://host:port`, or `mqtts://host:port` with `tls`. Default: `mqtt://127.0.0.1:1883`.
    pub broker: String,
    /// What teachers label for this agent. Default: `ids`.
    pub sharing: Sharing,
    /// Agents to learn from; empty for everyone in the fleet. Default: empty.
    pub teachers: Vec<AgentId>,
    /// Epochs after which the agent's peers are told a new round of soft targets. Default: 2.
    pub refresh_epochs: u32,
    /// Most rows labelled for peers after each training step. Default: 64.
    pub rows_per_step: usize,
    /// Most of its time that an agent gives to labelling for peers while it trains, above 0 and below 1. Default: 0.3.
    pub labelling_share: f64,
    /// Upper bound of one message of soft targets or images, of which it holds one at least. Default: 65536.
    pub chunk_bytes: usize,
    /// How rows of soft targets are written: `f32`, `f16`, `u8` or `{ top_k = 2 }`. Default: `f16`.
    pub encoding: EncodingConfig,
    /// A row is not sent again in a new round while no more of its softmax (at `train.distill.temperature`) has moved
    /// than this share; 0 sends every row in every round. Default: 0.
    pub delta: f32,
    /// Memory for rows of soft targets received, in MiB; rows beyond it are refused. Default: 256.
    pub max_target_mib: usize,
    /// Views of each sample whose soft targets are wanted; images of other views take those of these, in turn. 0 for
    /// all of `data.views`. Default: 0.
    pub views: u8,
    /// Whether images that students send, with `sharing = "inputs"`, are labelled. Default: true.
    pub label_inputs: bool,
    /// Most images sent and not answered yet, with `sharing = "inputs"`. Default: 256.
    pub inputs_in_flight: usize,
    /// Number of peers to wait for before training begins; of `teachers`, where these are listed. Default: 0.
    pub wait_for_peers: usize,
    /// Longest such wait, in seconds; training begins without them then. Default: 30.
    pub wait_at_most_s: f64,
    /// Longest time, in seconds, to go on teaching peers that have not finished. Default: 60.
    pub linger_s: f64,
    /// Time allowed for the first connection to the broker, in seconds. Default: 10.
    pub connect_timeout_s: f64,
    pub tls: Option<TlsConfig>,
    /// Signed messages: all agents of the fleet have them, or none. Default: none.
    pub signing: Option<SigningConfig>,
}

impl Default for ExchangeConfig {
    fn default() -> Self {
        ExchangeConfig {
            enabled: true,
            broker: "mqtt://127.0.0.1:1883".to_owned(),
            sharing: Sharing::Ids,
            teachers: Vec::new(),
            refresh_epochs: 2,
            rows_per_step: 64,
            labelling_share: 0.3,
            chunk_bytes: 64 * 1024,
            encoding: EncodingConfig::F16,
            delta: 0.0,
            max_target_mib: 256,
            views: 0,
            label_inputs: true,
            inputs_in_flight: 256,
            wait_for_peers: 0,
            wait_at_most_s: 30.0,
            linger_s: 60.0,
            connect_timeout_s: 10.0,
            tls: None,
            signing: None,
        }
    }
}

/// PEM files of a mutually authenticated connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate of the authority that signed the broker's.
    pub ca: PathBuf,
    /// This agent's certificate; its common name is the agent's name.
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// What messages are signed and checked with, as `dkt keys add` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningConfig {
    /// This agent's private Ed25519 key: PKCS #8, PEM.
    pub key: PathBuf,
    /// Folder with the public key of each agent, this one's among them, as `<agent>.pub`.
    pub signers: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Training steps between checkpoints; 0 for none but that on a stop. Default: 200.
    pub every_steps: u64,
    /// Checkpoints kept. Default: 3.
    pub keep: usize,
    /// Whether the network after each experience is kept too, as `models/experience-<i>.onnx` in the agent's folder.
    /// Default: false.
    pub models: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { every_steps: 200, keep: 3, models: false }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportConfig {
    /// Whether event files for TensorBoard are written as training goes on. Default: false.
    pub tensorboard: bool,
}

impl AgentConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut config: AgentConfig = parse(path)?;
        config.stream.class_order = class_order::of_file(path, config.stream.class_order)?;
        config.validate(path)?;
        Ok(config)
    }

    /// The same with what follows from the strategy written out: its constants, and what is kept for replay.
    #[must_use]
    pub fn effective(&self) -> Self {
        let (capacity, selection) = self.replay.resolved(self.strategy.strategy());
        let mut config = self.clone();
        config.strategy = self.strategy.with_defaults();
        config.replay.capacity = Some(capacity);
        config.replay.selection = (capacity > 0).then_some(selection);
        config
    }

    /// Every key with its value, nested as in TOML; `null` for what is not set.
    pub fn to_json(&self) -> serde_json::Value {
        // By way of text, in which 0.1 is the shortest number that is read as the same.
        let text = serde_json::to_string(self).expect("invariant: a configuration has a JSON form");
        serde_json::from_str(&text).expect("invariant: what was written as JSON reads")
    }

    /// Folder for everything the run writes.
    pub fn out_dir(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| Path::new("runs").join(self.agent.as_str()))
    }

    /// Experiences of the stream as the strategy sees it.
    pub fn n_experiences(&self) -> usize {
        match self.strategy.strategy().trains_on {
            TrainsOn::Everything => 1,
            TrainsOn::Experience | TrainsOn::SeenSoFar => self.stream.experiences,
        }
    }

    pub(crate) fn validate(&self, path: &Path) -> Result<(), ConfigError> {
        let exchange = &self.exchange;
        let seconds = |v: f64| v.is_finite() && (0.0..=1e6).contains(&v);
        let checks: [Check; 19] = [
            (
                "data.cutmix",
                self.data.cutmix == 0.0 || !exchange.enabled,
                "0 with the exchange, as a peer cannot know what an image is mixed with; use a [teacher] of the agent's own, or exchange.enabled = false",
                self.data.cutmix.to_string(),
            ),
            (
                "train.early_stopping.patience",
                self.train.early_stopping.patience == 0 || self.stream.validation > 0.0,
                "0, or `stream.validation` above 0: what is held out tells when to stop",
                self.train.early_stopping.patience.to_string(),
            ),
            (
                "teacher.models",
                self.teacher.models.is_empty() || !exchange.enabled,
                "empty, or `exchange.enabled` false: the student head has one kind of teacher",
                format!("{} with the exchange enabled", self.teacher.models.len()),
            ),
            (
                "exchange.refresh_epochs",
                exchange.refresh_epochs > 0,
                "at least 1",
                exchange.refresh_epochs.to_string(),
            ),
            (
                "exchange.rows_per_step",
                (1..=MAX_BATCH).contains(&exchange.rows_per_step),
                "between 1 and 65536",
                exchange.rows_per_step.to_string(),
            ),
            (
                "exchange.labelling_share",
                exchange.labelling_share > 0.0 && exchange.labelling_share < 1.0,
                "a share above 0 and below 1",
                exchange.labelling_share.to_string(),
            ),
            (
                "exchange.chunk_bytes",
                (1024..=1024 * 1024).contains(&exchange.chunk_bytes),
                "between 1024 and 1048576 bytes",
                exchange.chunk_bytes.to_string(),
            ),
            (
                "exchange.max_target_mib",
                (1..=MAX_TARGET_MIB).contains(&exchange.max_target_mib),
                "between 1 and 1048576 MiB",
                exchange.max_target_mib.to_string(),
            ),
            (
                "exchange.encoding",
                exchange.encoding.is_sound(),
                "\"f32\", \"f16\", \"u8\" or a top_k from 1 to 4096",
                exchange.encoding.to_string(),
            ),
            (
                "exchange.views",
                exchange.views <= self.data.views,
                "at most `data.views`; 0 for all of them",
                exchange.views.to_string(),
            ),
            (
                "exchange.delta",
                (0.0..=1.0).contains(&exchange.delta),
                "a share from 0 to 1",
                exchange.delta.to_string(),
            ),
            (
                "exchange.inputs_in_flight",
                (1..=MAX_BATCH).contains(&exchange.inputs_in_flight),
                "between 1 and 65536",
                exchange.inputs_in_flight.to_string(),
            ),
            (
                "exchange.wait_at_most_s",
                seconds(exchange.wait_at_most_s),
                "between 0 and 1000000 seconds",
                exchange.wait_at_most_s.to_string(),
            ),
            (
                "exchange.linger_s",
                seconds(exchange.linger_s),
                "between 0 and 1000000 seconds",
                exchange.linger_s.to_string(),
            ),
            (
                "exchange.connect_timeout_s",
                seconds(exchange.connect_timeout_s) && exchange.connect_timeout_s > 0.0,
                "more than 0 and at most 1000000 seconds",
                exchange.connect_timeout_s.to_string(),
            ),
            (
                "exchange.teachers",
                !exchange.teachers.contains(&self.agent),
                "names of other agents",
                format!("its own, `{}`", self.agent),
            ),
            (
                "exchange.teachers",
                exchange.teachers.iter().collect::<BTreeSet<_>>().len() == exchange.teachers.len(),
                "names of other agents, each once",
                quoted(&exchange.teachers),
            ),
            (
                "exchange.tls",
                exchange.broker.starts_with("mqtts://") == exchange.tls.is_some(),
                "given with an mqtts:// broker, and only then",
                exchange.broker.clone(),
            ),
            ("checkpoint.keep", self.checkpoint.keep > 0, "at least 1", self.checkpoint.keep.to_string()),
        ];
        let strategy = self.strategy.strategy();
        let sections = self.data.checks().chain(self.stream.checks()).chain(self.train.checks());
        let sections = sections.chain(self.proxy.iter().flat_map(ProxyConfig::checks));
        let sections =
            sections.chain(sharing::checks(exchange.sharing, self.proxy.as_ref(), self.stream.proxy));
        let sections = sections.chain(self.strategy.checks()).chain(self.replay.checks(strategy));
        for (key, holds, expected, found) in checks.into_iter().chain(sections) {
            if !holds {
                return Err(ConfigError::Value { path: path.to_owned(), key, expected, found });
            }
        }
        self.strategy.check_constants(path)
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    toml::from_str(&read_text(path)?)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}
