//! What goes into a training step and comes out, apart from state.

/// Factors of one step, fed as scalars to training graphs that have them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalars {
    pub learning_rate: f32,
    /// Factor of the student head's loss.
    pub distill_weight: f32,
    pub temperature: f32,
    /// Factor of what keeps the continual-learning head near its past, and its temperature.
    pub retention_weight: f32,
    pub retention_temperature: f32,
    /// Factor of the squared distances from earlier parameters.
    pub penalty_weight: f32,
    /// Standard deviation of the noise that is added to the gradient.
    pub gradient_noise: f32,
}

impl Scalars {
    /// Learns from labels alone, with a rate of 0.001.
    pub const PLAIN: Scalars = Scalars {
        learning_rate: 0.001,
        distill_weight: 0.0,
        temperature: 1.0,
        retention_weight: 0.0,
        retention_temperature: 1.0,
        penalty_weight: 0.0,
        gradient_noise: 0.0,
    };
}

/// What part of a mini-batch a run of the training graph takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Its rows over those of the mini-batch.
    pub weight: f32,
    /// Whether parameters move after it.
    pub is_last: bool,
    /// Decides which values dropout takes out, and the gradient's noise.
    pub seed: i64,
}

impl Part {
    /// All of it, in a network without dropout.
    pub const WHOLE: Part = Part { weight: 1.0, is_last: true, seed: 0 };
}

/// What a step computed on its mini-batch, before the update.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    pub loss: f32,
    pub loss_cl: f32,
    pub loss_st: f32,
    /// Unweighted; 0 where the loss has no such term.
    pub loss_retention: f32,
    pub loss_penalty: f32,
    /// L2 norm of the gradient of all parameters, before clipping.
    pub grad_norm: f32,
    /// Whether parameters stayed as they are because a gradient overflowed in float16.
    pub skipped: bool,
}

/// The current mini-batch, to be filled in place. Slices that the training graph does not read are empty.
pub struct BatchBuffers<'a> {
    /// `[N, C, H, W]`, normalised.
    pub input: &'a mut [f32],
    /// `[N, K]`, rows sum to 1, or to the row's weight.
    pub labels: &'a mut [f32],
    /// `[N, K]` raw logits; rows of weight 0 are not looked at.
    pub teacher_logits: &'a mut [f32],
    /// `[N]`, 0 where a row has no teacher.
    pub teacher_weight: &'a mut [f32],
    /// `[N, K]` raw logits of the past, and `[N]`, 0 where a row has none.
    pub past_logits: &'a mut [f32],
    pub past_weight: &'a mut [f32],
    /// `[N, K]`, 1 for classes that may be predicted.
    pub class_mask: &'a mut [f32],
}

/// Raw logits of both heads, each `[N, K]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    pub cl: Vec<f32>,
    pub student: Vec<f32>,
}
