//! What goes into a training step and comes out, apart from state.

/// Factors of one step, fed as scalars.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalars {
    pub learning_rate: f32,
    /// Factor of the student head's loss.
    pub distill_weight: f32,
    pub temperature: f32,
}

/// What part of a mini-batch a run of the training graph takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Its rows over those of the mini-batch.
    pub weight: f32,
    /// Whether parameters move after it.
    pub is_last: bool,
    /// Decides which values dropout takes out.
    pub seed: i64,
}

impl Part {
    /// All of it, in a network without dropout.
    pub const WHOLE: Part = Part { weight: 1.0, is_last: true, seed: 0 };
}

/// What a step computed on its mini-batch, before the update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    pub loss: f32,
    pub loss_cl: f32,
    pub loss_st: f32,
    /// L2 norm of the gradient of all parameters, before clipping.
    pub grad_norm: f32,
    /// Whether parameters stayed as they are because a gradient overflowed in float16.
    pub skipped: bool,
}

/// The current mini-batch, to be filled in place.
pub struct BatchBuffers<'a> {
    /// `[N, C, H, W]`, normalised.
    pub input: &'a mut [f32],
    /// `[N, K]`, rows sum to 1.
    pub labels: &'a mut [f32],
    /// `[N, K]` raw logits; rows of weight 0 are not looked at.
    pub teacher_logits: &'a mut [f32],
    /// `[N]`, 0 where a row has no teacher.
    pub teacher_weight: &'a mut [f32],
}

/// Raw logits of both heads, each `[N, K]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    pub cl: Vec<f32>,
    pub student: Vec<f32>,
}
