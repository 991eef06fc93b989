//! The `[train]` section: optimiser, losses, and how the training step is derived.

use std::str::FromStr;

use clap::ValueEnum;
use dkt_models::step::{Group, StepOptions};
use glob::Pattern;
use onnx_grad::{BatchNorm, Clip, Dropout, LossScale, Precision, Recompute};
use serde::{Deserialize, Serialize};

use super::{Check, DistillConfig, MAX_BATCH, MAX_THREADS, OptimizerConfig};
use crate::strategy::schedule::LearningRateSchedule;
use crate::train::device::Device;

const DEFAULT_CLIP_NORM: f32 = 5.0;
/// Most epochs of an experience, and of what comes before it.
const MAX_EPOCHS: u32 = 1_000_000;

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
    /// Rows of the proxy set (`stream.proxy`) in a mini-batch, beside new and replayed ones. Default: 32.
    pub proxy_batch_size: usize,
    /// Default: 0.001.
    pub learning_rate: f32,
    /// Course of the learning rate within each experience. Default: constant.
    pub schedule: LearningRateSchedule,
    /// Epochs before the first experience's own in which the student head is not trained. Default: 0.
    pub pretrain_epochs: u32,
    /// When an experience ends before its last epoch. Default: never.
    pub early_stopping: EarlyStoppingConfig,
    /// Default: Adam.
    pub optimizer: OptimizerConfig,
    /// Parameters with constants of their own; the first group that matches counts. Default: none.
    pub groups: Vec<GroupConfig>,
    /// Whether weight decay spares biases and the scales of norms (tensors of less than two dimensions).
    /// Default: false.
    pub decay_matrices_only: bool,
    /// Glob patterns of parameters that stay as they are. Default: none.
    pub freeze: Vec<NamePattern>,
    /// L2 norm to which the gradient of all parameters is clipped; 0 switches clipping off. Default: 5.
    pub clip_norm: f32,
    /// Bound of every element of the gradient, in place of `clip_norm`; 0 for none. Default: 0.
    pub clip_value: f32,
    /// Parts of a mini-batch that are computed one after another and moved by as one: less memory, the same
    /// gradient, except that batch normalisation sees parts. Default: 1.
    pub micro_batches: usize,
    /// Whether dropout layers drop; seeded by the agent's seed and the step. Default: false.
    pub dropout: bool,
    /// `f32`, or `f16` or `bf16` for products on CUDA. Default: `f32`.
    pub precision: PrecisionConfig,
    /// Glob patterns of nodes whose activations are computed twice instead of kept, one segment each; or a
    /// number of segments of equal size. Default: none.
    pub recompute: RecomputeConfig,
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
            proxy_batch_size: 32,
            learning_rate: 0.001,
            schedule: LearningRateSchedule::default(),
            pretrain_epochs: 0,
            early_stopping: EarlyStoppingConfig::default(),
            optimizer: OptimizerConfig::default(),
            groups: Vec::new(),
            decay_matrices_only: false,
            freeze: Vec::new(),
            clip_norm: DEFAULT_CLIP_NORM,
            clip_value: 0.0,
            micro_batches: 1,
            dropout: false,
            precision: PrecisionConfig::F32,
            recompute: RecomputeConfig::default(),
            batch_norm: BatchNormConfig::Train,
            distill: DistillConfig::default(),
        }
    }
}

impl TrainConfig {
    /// What the training graph is derived with.
    pub fn step_options(&self) -> StepOptions {
        StepOptions {
            distill: self.distill.distillation(),
            optimizer: self.optimizer.into(),
            groups: self.groups.iter().map(GroupConfig::group).collect(),
            decay_matrices_only: self.decay_matrices_only,
            clip: if self.clip_value > 0.0 {
                Some(Clip::Value(self.clip_value))
            } else {
                (self.clip_norm > 0.0).then_some(Clip::Norm(self.clip_norm))
            },
            accumulate: self.micro_batches > 1,
            batch_norm: match self.batch_norm {
                BatchNormConfig::Train => BatchNorm::Train,
                BatchNormConfig::Frozen => BatchNorm::Frozen,
            },
            dropout: if self.dropout { Dropout::Seeded } else { Dropout::Off },
            precision: self.precision.into(),
            recompute: self.recompute.recompute(),
            freeze: self.freeze.iter().map(|p| p.0.clone()).collect(),
            ..StepOptions::default()
        }
    }

    /// Whether parameters shrink where they have no gradient.
    fn decays(&self) -> bool {
        self.optimizer.decays() || self.groups.iter().any(|g| g.weight_decay.is_some_and(|decay| decay > 0.0))
    }

    /// What each key must be.
    pub(super) fn checks(&self) -> impl Iterator<Item = Check> {
        let finite_positive = |v: f32| v.is_finite() && v > 0.0;
        let checks: [Check; 17] = [
            (
                "train.threads",
                (1..=MAX_THREADS).contains(&self.threads),
                "between 1 and 1024",
                self.threads.to_string(),
            ),
            (
                "train.optimizer",
                self.optimizer.is_sound(),
                "beta1 and beta2 from 0 to below 1, eps above 0, momentum and weight_decay finite and not below 0, and a momentum with nesterov",
                format!("{:?}", self.optimizer),
            ),
            (
                "train.epochs",
                (1..=MAX_EPOCHS).contains(&self.epochs),
                "between 1 and 1000000",
                self.epochs.to_string(),
            ),
            (
                "train.pretrain_epochs",
                self.pretrain_epochs <= MAX_EPOCHS,
                "between 0 and 1000000",
                self.pretrain_epochs.to_string(),
            ),
            (
                "train.batch_size",
                (1..=MAX_BATCH).contains(&self.batch_size),
                "between 1 and 65536",
                self.batch_size.to_string(),
            ),
            (
                "train.proxy_batch_size",
                (1..=MAX_BATCH).contains(&self.proxy_batch_size),
                "between 1 and 65536",
                self.proxy_batch_size.to_string(),
            ),
            (
                "train.learning_rate",
                finite_positive(self.learning_rate),
                "a positive number",
                self.learning_rate.to_string(),
            ),
            (
                "train.clip_norm",
                self.clip_norm.is_finite() && self.clip_norm >= 0.0,
                "0 or a positive number",
                self.clip_norm.to_string(),
            ),
            (
                "train.clip_value",
                self.clip_value.is_finite() && self.clip_value >= 0.0,
                "0 or a positive number",
                self.clip_value.to_string(),
            ),
            (
                "train.clip_norm",
                self.clip_value == 0.0 || self.clip_norm == 0.0 || self.clip_norm == DEFAULT_CLIP_NORM,
                "left out where clip_value is given",
                self.clip_norm.to_string(),
            ),
            (
                "train.micro_batches",
                (1..=MAX_BATCH).contains(&self.micro_batches),
                "between 1 and 65536",
                self.micro_batches.to_string(),
            ),
            (
                "train.groups",
                self.groups.iter().all(GroupConfig::is_sound),
                "groups with learning_rate_factor and weight_decay finite and not below 0",
                format!("{:?}", self.groups),
            ),
            (
                "train.precision",
                self.precision == PrecisionConfig::F32 || self.device != Device::Cpu,
                "\"f32\" on the device cpu, which computes float16 and bfloat16 slower or not at all",
                format!("\"{}\"", self.precision.name()),
            ),
            (
                "train.recompute",
                !matches!(self.recompute, RecomputeConfig::Parts(0 | 1)),
                "a list of patterns, or at least 2 segments",
                match &self.recompute {
                    RecomputeConfig::Parts(parts) => parts.to_string(),
                    other => format!("{other:?}"),
                },
            ),
            (
                "train.schedule",
                self.schedule.is_sound(),
                "`every` at least 1, `gamma` above 0, `floor` between 0 and 1, `warmup_epochs` at most 1000000",
                format!("{:?}", self.schedule),
            ),
            (
                "train.early_stopping.margin",
                self.early_stopping.margin.is_finite() && self.early_stopping.margin >= 0.0,
                "0 or a positive number",
                self.early_stopping.margin.to_string(),
            ),
            (
                "train.pretrain_epochs",
                self.pretrain_epochs == 0 || !self.decays(),
                "0 where there is weight decay, which would move the student head",
                self.pretrain_epochs.to_string(),
            ),
        ];
        checks.into_iter().chain(self.distill.checks())
    }
}

/// When an experience ends before its last epoch: the continual-learning head's accuracy on the validation samples
/// (`stream.validation`) no longer rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStoppingConfig {
    /// Epochs without a gain after which the experience ends; 0 for never. Default: 0.
    pub patience: u32,
    /// What counts as a gain: more than this above the best so far. Default: 0.
    pub margin: f64,
}

/// Parameters whose names match, with constants of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Glob pattern of parameters' names.
    #[serde(rename = "match")]
    pub pattern: NamePattern,
    /// Factor of the learning rate. Default: 1.
    #[serde(default = "one")]
    pub learning_rate_factor: f64,
    /// In place of the optimiser's. Default: that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl GroupConfig {
    fn is_sound(&self) -> bool {
        let sound = |v: f64| v.is_finite() && v >= 0.0;
        sound(self.learning_rate_factor) && self.weight_decay.is_none_or(sound)
    }

    fn group(&self) -> Group {
        Group {
            pattern: self.pattern.0.clone(),
            learning_rate_factor: self.learning_rate_factor,
            weight_decay: self.weight_decay,
        }
    }
}

/// A glob pattern of names: `*`, `?` and `[...]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern(pub Pattern);

#[derive(Debug, thiserror::Error)]
#[error("expected a glob pattern of names, found `{found}` ({reason})")]
pub struct ParsePatternError {
    found: String,
    reason: &'static str,
}

impl FromStr for NamePattern {
    type Err = ParsePatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Pattern::new(text)
            .map(NamePattern)
            .map_err(|e| ParsePatternError { found: text.to_owned(), reason: e.msg })
    }
}

impl TryFrom<String> for NamePattern {
    type Error = ParsePatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.0.as_str().to_owned()
    }
}

/// Type in which products are computed; parameters are float32 in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionConfig {
    /// Everything in float32
    F32,
    /// Products in float16, with a loss scale that adapts itself
    F16,
    /// Products in bfloat16
    Bf16,
}

impl PrecisionConfig {
    fn name(self) -> &'static str {
        match self {
            PrecisionConfig::F32 => "f32",
            PrecisionConfig::F16 => "f16",
            PrecisionConfig::Bf16 => "bf16",
        }
    }
}

impl From<PrecisionConfig> for Precision {
    fn from(config: PrecisionConfig) -> Self {
        match config {
            PrecisionConfig::F32 => Precision::Full,
            PrecisionConfig::F16 => Precision::Float16(LossScale::default()),
            PrecisionConfig::Bf16 => Precision::BFloat16,
        }
    }
}

/// What is computed twice instead of kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of glob patterns or a number of segments")]
pub enum RecomputeConfig {
    Parts(usize),
    Matching(Vec<NamePattern>),
}

impl Default for RecomputeConfig {
    fn default() -> Self {
        RecomputeConfig::Matching(Vec::new())
    }
}

impl RecomputeConfig {
    fn recompute(&self) -> Recompute {
        match self {
            RecomputeConfig::Parts(n) => Recompute::Parts(*n),
            RecomputeConfig::Matching(patterns) if patterns.is_empty() => Recompute::Nothing,
            RecomputeConfig::Matching(patterns) => {
                Recompute::Matching(patterns.iter().map(|p| p.0.clone()).collect())
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNormConfig {
    Train,
    Frozen,
}

#[cfg(test)]
mod tests {
    use dkt_models::step::Distillation;
    use onnx_grad::loss::Reduction;

    use super::*;

    fn parse(text: &str) -> Result<TrainConfig, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    /// The keys whose values are refused.
    fn refused(text: &str) -> Vec<&'static str> {
        parse(text).unwrap().checks().filter(|(_, holds, ..)| !holds).map(|(key, ..)| key).collect()
    }

    #[test]
    fn what_is_left_out_derives_the_plain_step() {
        assert_eq!(parse("").unwrap().step_options(), StepOptions::default());
        assert_eq!(refused(""), [""; 0]);
    }

    #[test]
    fn every_key_reaches_the_derivation() {
        let text = r#"
            device = "cuda"
            freeze = ["conv1*"]
            groups = [{ match = "fc.*", learning_rate_factor = 0.1, weight_decay = 0.0 }, { match = "*" }]
            decay_matrices_only = true
            clip_value = 0.5
            micro_batches = 4
            dropout = true
            precision = "f16"
            recompute = ["layer1*", "layer2*"]
            optimizer = { name = "rmsprop", momentum = 0.5, centered = true }
            distill = { loss = "kl", reduction = "batchmean", scale_t2 = true }
        "#;
        assert_eq!(refused(text), [""; 0]);
        let options = parse(text).unwrap().step_options();
        let pattern = |text: &str| Pattern::new(text).unwrap();
        let group = |text: &str, learning_rate_factor, weight_decay| Group {
            pattern: pattern(text),
            learning_rate_factor,
            weight_decay,
        };
        assert_eq!(options.freeze, [pattern("conv1*")]);
        assert_eq!(options.groups, [group("fc.*", 0.1, Some(0.0)), group("*", 1.0, None)]);
        assert!(options.decay_matrices_only && options.accumulate);
        assert_eq!(options.clip, Some(Clip::Value(0.5)));
        assert_eq!(options.dropout, Dropout::Seeded);
        assert_eq!(options.precision, Precision::Float16(LossScale::default()));
        assert_eq!(options.recompute, Recompute::Matching(vec![pattern("layer1*"), pattern("layer2*")]));
        assert_eq!(options.distill, Distillation::Kl { reduction: Reduction::BatchMean, scale_t2: true });
        let expected = onnx_grad::Optimizer::RmsProp {
            alpha: 0.99,
            eps: 1e-8,
            momentum: 0.5,
            centered: true,
            weight_decay: 0.0,
        };
        assert_eq!(options.optimizer, expected);
        assert_eq!(parse("recompute = 3").unwrap().step_options().recompute, Recompute::Parts(3));
    }

    #[test]
    fn a_configuration_reads_as_it_was_written() {
        let text = "freeze = [\"a*\"]\nrecompute = 3\n[[groups]]\nmatch = \"b*\"\nlearning_rate_factor = 0.5";
        let config = parse(text).unwrap();
        assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_key() {
        for (text, key) in [
            ("precision = \"f16\"", "train.precision"),
            ("precision = \"bf16\"\ndevice = \"cpu\"", "train.precision"),
            ("clip_value = -1.0", "train.clip_value"),
            ("clip_value = 1.0\nclip_norm = 2.0", "train.clip_norm"),
            ("micro_batches = 0", "train.micro_batches"),
            ("groups = [{ match = \"a\", learning_rate_factor = -1.0 }]", "train.groups"),
            ("recompute = 1", "train.recompute"),
            ("optimizer = { name = \"rmsprop\", alpha = 1.0 }", "train.optimizer"),
            ("distill = { reduction = \"batchmean\" }", "train.distill.reduction"),
            ("distill = { scale_t2 = true }", "train.distill.scale_t2"),
        ] {
            assert_eq!(refused(text), [key], "{text}");
        }
        for (text, says) in [
            ("freeze = [\"a[\"]", "expected a glob pattern of names, found `a[`"),
            ("precision = \"f8\"", "unknown variant `f8`"),
            ("groups = [{ match = \"a\", lr = 1.0 }]", "unknown field `lr`"),
            ("groups = [{ weight_decay = 1.0 }]", "missing field `match`"),
            ("recompute = \"all\"", "expected a list of glob patterns or a number of segments"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
