//! What one agent is told: `AGENT.toml`, every key with its unit and default.
//!
//! Unknown keys are errors, and every value is checked before anything starts.

pub mod lab;

use std::path::{Path, PathBuf};

use dkt_models::step::{Distillation, StepOptions};
use onnx_grad::{BatchNorm, Clip, Optimizer};
use serde::{Deserialize, Serialize};

use crate::data::view::Augmentation;
use crate::ids::{AgentId, FleetId};
use crate::stream::ClassOrder;
use crate::train::device::Device;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration `{}`", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` is not a valid configuration", .path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("`{}`: `{key}` must be {expected}, found {found}", .path.display())]
    Value { path: PathBuf, key: &'static str, expected: &'static str, found: String },
    #[error("`{}`: two agents are called `{agent}`; give each a name of its own", .path.display())]
    DuplicateAgent { path: PathBuf, agent: String },
}

/// Most threads of one operator.
const MAX_THREADS: usize = 1024;
/// Most rows in a mini-batch, and most labelled for peers after a step: they are in memory at once.
const MAX_BATCH: usize = 65_536;

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
    #[serde(default)]
    pub stream: StreamConfig,
    #[serde(default)]
    pub train: TrainConfig,
    #[serde(default)]
    pub replay: ReplayConfig,
    #[serde(default)]
    pub exchange: ExchangeConfig,
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
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
pub struct DataConfig {
    /// `digits`, or a folder with IDX files. Default: `digits`.
    pub source: String,
    /// Augmented views of each sample, used in turn, one an epoch. Default: 4.
    pub views: u8,
    /// Pixels of zero padding around the image before a random crop of the original size. Default: 1.
    pub crop_padding: u8,
    /// Random horizontal flip. Default: false.
    pub flip: bool,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig { source: "digits".to_owned(), views: 4, crop_padding: 1, flip: false }
    }
}

impl DataConfig {
    pub fn augmentation(&self) -> Augmentation {
        Augmentation { crop_padding: self.crop_padding, flip: self.flip }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// Number of experiences; must divide the number of classes. Default: 5.
    pub experiences: usize,
    /// A seed, or the list of all class indices in the order in which they come. Default: seed 0.
    pub class_order: ClassOrder,
}

impl Default for StreamConfig {
    fn default() -> Self {
        StreamConfig { experiences: 5, class_order: ClassOrder::Seed(0) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// `cpu`, `cuda` or `cuda:<index>`. There is no falling back from one to the other. Default: `cpu`.
    pub device: Device,
    /// Threads of one operator on the CPU. Default: 1.
    pub threads: usize,
    /// Passes over each experience. Default: 20.
    pub epochs: u32,
    /// New samples in a mini-batch, beside those replayed. Default: 32.
    pub batch_size: usize,
    /// Default: 0.001.
    pub learning_rate: f32,
    /// Default: Adam.
    pub optimizer: OptimizerConfig,
    /// L2 norm to which the gradient of all parameters is clipped; 0 switches clipping off. Default: 5.
    pub clip_norm: f32,
    /// Mini-batch statistics (`train`) or the running ones (`frozen`). Default: `train`.
    pub batch_norm: BatchNormConfig,
    pub distill: DistillConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            device: Device::Cpu,
            threads: 1,
            epochs: 20,
            batch_size: 32,
            learning_rate: 0.001,
            optimizer: OptimizerConfig::default(),
            clip_norm: 5.0,
            batch_norm: BatchNormConfig::Train,
            distill: DistillConfig::default(),
        }
    }
}

impl TrainConfig {
    /// What the training graph is derived with.
    pub fn step_options(&self) -> StepOptions {
        StepOptions {
            distill: self.distill.loss.into(),
            optimizer: self.optimizer.into(),
            clip: (self.clip_norm > 0.0).then_some(Clip::Norm(self.clip_norm)),
            batch_norm: match self.batch_norm {
                BatchNormConfig::Train => BatchNorm::Train,
                BatchNormConfig::Frozen => BatchNorm::Frozen,
            },
            ..StepOptions::default()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNormConfig {
    Train,
    Frozen,
}

/// The optimiser and its constants, PyTorch's names and defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "name")]
pub enum OptimizerConfig {
    Sgd {
        #[serde(default)]
        momentum: f64,
        #[serde(default)]
        nesterov: bool,
        #[serde(default)]
        weight_decay: f64,
    },
    Adam {
        #[serde(default = "beta1")]
        beta1: f64,
        #[serde(default = "beta2")]
        beta2: f64,
        #[serde(default = "eps")]
        eps: f64,
        #[serde(default)]
        weight_decay: f64,
    },
    AdamW {
        #[serde(default = "beta1")]
        beta1: f64,
        #[serde(default = "beta2")]
        beta2: f64,
        #[serde(default = "eps")]
        eps: f64,
        #[serde(default = "adamw_weight_decay")]
        weight_decay: f64,
    },
}

fn beta1() -> f64 {
    0.9
}
fn beta2() -> f64 {
    0.999
}
fn eps() -> f64 {
    1e-8
}
fn adamw_weight_decay() -> f64 {
    0.01
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig::Adam { beta1: beta1(), beta2: beta2(), eps: eps(), weight_decay: 0.0 }
    }
}

impl OptimizerConfig {
    pub fn adamw() -> Self {
        OptimizerConfig::AdamW {
            beta1: beta1(),
            beta2: beta2(),
            eps: eps(),
            weight_decay: adamw_weight_decay(),
        }
    }
}

impl OptimizerConfig {
    /// Whether every constant is in the range in which the method is defined.
    fn is_sound(self) -> bool {
        let not_negative = |v: f64| v.is_finite() && v >= 0.0;
        match self {
            OptimizerConfig::Sgd { momentum, nesterov, weight_decay } => {
                not_negative(momentum) && not_negative(weight_decay) && (momentum > 0.0 || !nesterov)
            }
            OptimizerConfig::Adam { beta1, beta2, eps, weight_decay }
            | OptimizerConfig::AdamW { beta1, beta2, eps, weight_decay } => {
                let decays = |beta: f64| (0.0..1.0).contains(&beta);
                decays(beta1) && decays(beta2) && not_negative(eps) && eps > 0.0 && not_negative(weight_decay)
            }
        }
    }
}

impl From<OptimizerConfig> for Optimizer {
    fn from(config: OptimizerConfig) -> Self {
        match config {
            OptimizerConfig::Sgd { momentum, nesterov, weight_decay } => {
                Optimizer::Sgd { momentum, nesterov, weight_decay }
            }
            OptimizerConfig::Adam { beta1, beta2, eps, weight_decay } => {
                Optimizer::Adam { beta1, beta2, eps, weight_decay }
            }
            OptimizerConfig::AdamW { beta1, beta2, eps, weight_decay } => {
                Optimizer::AdamW { beta1, beta2, eps, weight_decay }
            }
        }
    }
}

/// The student head's loss (Distributed Knowledge Transfer).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistillConfig {
    /// `mse` on raw logits, or `kl` of the softened probabilities. Default: `mse`.
    pub loss: DistillLoss,
    /// Factor of the student head's loss in the whole (`kd_rel` in the thesis). Default: 1.
    pub weight: f32,
    /// Softmax divisor of `kl`, on both sides. Default: 2.
    pub temperature: f32,
}

impl Default for DistillConfig {
    fn default() -> Self {
        DistillConfig { loss: DistillLoss::Mse, weight: 1.0, temperature: 2.0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DistillLoss {
    Mse,
    Kl,
}

impl From<DistillLoss> for Distillation {
    fn from(loss: DistillLoss) -> Self {
        match loss {
            DistillLoss::Mse => Distillation::Mse,
            DistillLoss::Kl => Distillation::kl(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Samples of earlier experiences that are kept (reservoir); 0 switches replay off. Default: 200.
    pub capacity: usize,
    /// Replayed samples in a mini-batch, beside the new ones. Default: 32.
    pub batch_size: usize,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        ReplayConfig { capacity: 200, batch_size: 32 }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExchangeConfig {
    /// Whether soft targets are exchanged at all. Default: true.
    pub enabled: bool,
    /// `mqtt://host:port`, or `mqtts://host:port` with `tls`. Default: `mqtt://127.0.0.1:1883`.
    pub broker: String,
    /// Agents to learn from; empty for everyone in the fleet. Default: empty.
    pub teachers: Vec<AgentId>,
    /// Epochs after which the agent's peers are told a new round of soft targets. Default: 2.
    pub refresh_epochs: u32,
    /// Rows labelled for peers after each training step: the share of time given to teaching. Default: 64.
    pub rows_per_step: usize,
    /// Upper bound of one message of soft targets. Default: 65536.
    pub chunk_bytes: usize,
    /// Number of peers to wait for before training begins. Default: 0.
    pub wait_for_peers: usize,
    /// Longest such wait, in seconds; training begins without them then. Default: 30.
    pub wait_at_most_s: f64,
    /// Longest time, in seconds, to go on teaching peers that have not finished. Default: 60.
    pub linger_s: f64,
    /// Time allowed for the first connection to the broker, in seconds. Default: 10.
    pub connect_timeout_s: f64,
    pub tls: Option<TlsConfig>,
}

impl Default for ExchangeConfig {
    fn default() -> Self {
        ExchangeConfig {
            enabled: true,
            broker: "mqtt://127.0.0.1:1883".to_owned(),
            teachers: Vec::new(),
            refresh_epochs: 2,
            rows_per_step: 64,
            chunk_bytes: 64 * 1024,
            wait_for_peers: 0,
            wait_at_most_s: 30.0,
            linger_s: 60.0,
            connect_timeout_s: 10.0,
            tls: None,
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Training steps between checkpoints; 0 for none but that on a stop. Default: 200.
    pub every_steps: u64,
    /// Checkpoints kept. Default: 3.
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { every_steps: 200, keep: 3 }
    }
}

impl AgentConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let config: AgentConfig = parse(path)?;
        config.validate(path)?;
        Ok(config)
    }

    /// Folder for everything the run writes.
    pub fn out_dir(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| Path::new("runs").join(self.agent.as_str()))
    }

    pub(crate) fn validate(&self, path: &Path) -> Result<(), ConfigError> {
        let train = &self.train;
        let exchange = &self.exchange;
        let finite_positive = |v: f32| v.is_finite() && v > 0.0;
        let seconds = |v: f64| v.is_finite() && (0.0..=1e6).contains(&v);
        let checks: [(&'static str, bool, &'static str, String); 20] = [
            ("data.views", self.data.views > 0, "at least 1", self.data.views.to_string()),
            (
                "stream.experiences",
                self.stream.experiences > 0,
                "at least 1",
                self.stream.experiences.to_string(),
            ),
            (
                "train.threads",
                (1..=MAX_THREADS).contains(&train.threads),
                "between 1 and 1024",
                train.threads.to_string(),
            ),
            (
                "train.optimizer",
                train.optimizer.is_sound(),
                "beta1 and beta2 from 0 to below 1, eps above 0, momentum and weight_decay finite and not below 0, and a momentum with nesterov",
                format!("{:?}", train.optimizer),
            ),
            ("train.epochs", train.epochs > 0, "at least 1", train.epochs.to_string()),
            (
                "train.batch_size",
                (1..=MAX_BATCH).contains(&train.batch_size),
                "between 1 and 65536",
                train.batch_size.to_string(),
            ),
            (
                "train.learning_rate",
                finite_positive(train.learning_rate),
                "a positive number",
                train.learning_rate.to_string(),
            ),
            (
                "train.clip_norm",
                train.clip_norm.is_finite() && train.clip_norm >= 0.0,
                "0 or a positive number",
                train.clip_norm.to_string(),
            ),
            (
                "train.distill.weight",
                train.distill.weight.is_finite() && train.distill.weight >= 0.0,
                "0 or a positive number",
                train.distill.weight.to_string(),
            ),
            (
                "train.distill.temperature",
                finite_positive(train.distill.temperature),
                "a positive number",
                train.distill.temperature.to_string(),
            ),
            (
                "replay.batch_size",
                self.replay.capacity == 0 || (1..=MAX_BATCH).contains(&self.replay.batch_size),
                "between 1 and 65536 where there is a replay capacity",
                self.replay.batch_size.to_string(),
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
                "exchange.chunk_bytes",
                (1024..=1024 * 1024).contains(&exchange.chunk_bytes),
                "between 1024 and 1048576 bytes",
                exchange.chunk_bytes.to_string(),
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
                "exchange.tls",
                exchange.broker.starts_with("mqtts://") == exchange.tls.is_some(),
                "given with an mqtts:// broker, and only then",
                exchange.broker.clone(),
            ),
            ("checkpoint.keep", self.checkpoint.keep > 0, "at least 1", self.checkpoint.keep.to_string()),
        ];
        for (key, holds, expected, found) in checks {
            if !holds {
                return Err(ConfigError::Value { path: path.to_owned(), key, expected, found });
            }
        }
        Ok(())
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}
