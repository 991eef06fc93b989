//! `[train.distill]`: the student head's loss.

use clap::ValueEnum;
use dkt_models::step::Distillation;
use onnx_grad::loss::Reduction;
use serde::{Deserialize, Serialize};

use super::Check;
use crate::strategy::schedule::Every;

/// The student head's loss (Distributed Knowledge Transfer).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistillConfig {
    /// `mse` on raw logits, or `kl` of the softened probabilities. Default: `mse`.
    pub loss: DistillLoss,
    /// Factor of the student head's loss in the whole (`kd_rel` in the thesis). Default: 1.
    pub weight: f32,
    /// What is added to the weight from time to time; the weight never falls below 0. Default: 0.
    pub weight_step: f32,
    /// When: every so many epochs of an experience, or with each `experience`. Default: `experience`.
    pub weight_every: Every,
    /// Softmax divisor of `kl`, on both sides. Default: 2.
    pub temperature: f32,
    /// What `kl` is divided by: `mean`, N*K elements, or `batchmean`, N rows. Default: `mean`.
    pub reduction: DistillReduction,
    /// Whether `kl` is multiplied by the temperature's square. Default: false.
    pub scale_t2: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DistillReduction {
    /// By all elements, rows times classes
    Mean,
    /// By rows
    #[value(name = "batchmean")]
    BatchMean,
}

impl Default for DistillConfig {
    fn default() -> Self {
        DistillConfig {
            loss: DistillLoss::Mse,
            weight: 1.0,
            weight_step: 0.0,
            weight_every: Every::EXPERIENCE,
            temperature: 2.0,
            reduction: DistillReduction::Mean,
            scale_t2: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DistillLoss {
    Mse,
    Kl,
}

impl DistillConfig {
    pub(super) fn distillation(&self) -> Distillation {
        match self.loss {
            DistillLoss::Mse => Distillation::Mse,
            DistillLoss::Kl => Distillation::Kl {
                reduction: match self.reduction {
                    DistillReduction::Mean => Reduction::Mean,
                    DistillReduction::BatchMean => Reduction::BatchMean,
                },
                scale_t2: self.scale_t2,
            },
        }
    }

    /// What each key must be.
    pub(super) fn checks(&self) -> impl Iterator<Item = Check> {
        let finite_positive = |v: f32| v.is_finite() && v > 0.0;
        let checks: [Check; 6] = [
            (
                "train.distill.weight",
                self.weight.is_finite() && self.weight >= 0.0,
                "0 or a positive number",
                self.weight.to_string(),
            ),
            (
                "train.distill.temperature",
                finite_positive(self.temperature),
                "a positive number",
                self.temperature.to_string(),
            ),
            (
                "train.distill.reduction",
                self.loss == DistillLoss::Kl || self.reduction == DistillReduction::Mean,
                "\"mean\" with the loss \"mse\"",
                "\"batchmean\"".to_owned(),
            ),
            (
                "train.distill.scale_t2",
                self.loss == DistillLoss::Kl || !self.scale_t2,
                "false with the loss \"mse\", which has no temperature",
                self.scale_t2.to_string(),
            ),
            (
                "train.distill.weight_step",
                self.weight_step.is_finite(),
                "a number",
                self.weight_step.to_string(),
            ),
            (
                "train.distill.weight_every",
                self.weight_every != Every::Epochs(0),
                "at least 1 epoch, or \"experience\"",
                "0".to_owned(),
            ),
        ];
        checks.into_iter()
    }
}
