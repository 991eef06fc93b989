//! `train.optimizer`.

use onnx_grad::Optimizer;
use serde::{Deserialize, Serialize};

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
    RmsProp {
        #[serde(default = "alpha")]
        alpha: f64,
        #[serde(default = "eps")]
        eps: f64,
        #[serde(default)]
        momentum: f64,
        #[serde(default)]
        centered: bool,
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

fn alpha() -> f64 {
    0.99
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
    /// Whether parameters shrink where they have no gradient.
    pub(super) fn decays(self) -> bool {
        let (OptimizerConfig::Sgd { weight_decay, .. }
        | OptimizerConfig::RmsProp { weight_decay, .. }
        | OptimizerConfig::Adam { weight_decay, .. }
        | OptimizerConfig::AdamW { weight_decay, .. }) = self;
        weight_decay > 0.0
    }

    /// Whether every constant is in the range in which the method is defined.
    pub(super) fn is_sound(self) -> bool {
        let not_negative = |v: f64| v.is_finite() && v >= 0.0;
        match self {
            OptimizerConfig::Sgd { momentum, nesterov, weight_decay } => {
                not_negative(momentum) && not_negative(weight_decay) && (momentum > 0.0 || !nesterov)
            }
            OptimizerConfig::RmsProp { alpha, eps, momentum, weight_decay, .. } => {
                let sound = [momentum, weight_decay].into_iter().all(not_negative);
                (0.0..1.0).contains(&alpha) && not_negative(eps) && eps > 0.0 && sound
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
            OptimizerConfig::RmsProp { alpha, eps, momentum, centered, weight_decay } => {
                Optimizer::RmsProp { alpha, eps, momentum, centered, weight_decay }
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
