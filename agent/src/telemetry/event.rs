//! What an agent tells the world while it runs: one closed set of events, written as JSON lines.
//!
//! `dkt run --progress json` prints them, `dkt testbed` reads them from its agents, and the report is made
//! from nothing else.

use serde::{Deserialize, Serialize};

/// An event and when it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Seconds since the agent's process started.
    pub t_s: f64,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Started(Started),
    Initial(Initial),
    Epoch(Epoch),
    Evaluated(Evaluated),
    /// Totals since the process started.
    Traffic(Traffic),
    Checkpointed {
        /// Training steps done when the checkpoint was taken.
        step: u64,
        size_bytes: u64,
    },
    Warning {
        message: String,
    },
    /// The agent does not train just now.
    Waiting {
        /// What it does instead, for a person.
        message: String,
    },
    Finished(Finished),
    /// Asked to stop, the agent has saved and ends.
    Stopped {
        /// The command that goes on from there.
        goes_on_with: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    pub agent: String,
    pub fleet: String,
    pub network: String,
    pub n_parameters: u64,
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// Whether soft targets are exchanged with peers.
    pub exchange: bool,
    /// Class names of each experience, in the order of the stream.
    pub experiences: Vec<Vec<String>>,
    pub n_epochs: u32,
    pub n_steps: u64,
    /// Steps already done, when the run goes on from a checkpoint.
    pub resumed_at_step: u64,
    /// Names of all classes, by their index: what rows and columns of a confusion matrix are.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Test images of each experience, in the order of the stream.
    #[serde(default)]
    pub n_test: Vec<u64>,
    /// What measures the energy that the board draws, `ina3221` or `rapl`; nothing where nothing can be read.
    #[serde(default)]
    pub energy: Option<String>,
    /// Every key of the configuration that this process runs with, the strategy's constants among them, nested as in
    /// `AGENT.toml`; `null` for a key that is not set, and for all of it in events of earlier releases.
    #[serde(default)]
    pub configuration: serde_json::Value,
}

/// Test accuracies of the network before its first step, the baseline of forward transfer. Only of a stream of more
/// than one experience.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Initial {
    pub heads: Vec<HeadAccuracy>,
}

/// Means over one epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 0.
    pub experience: u32,
    /// Within the experience, from 0.
    pub epoch: u32,
    /// How many the experience has if nothing ends it early; 0 in events of earlier releases.
    #[serde(default)]
    pub n_epochs: u32,
    /// Training steps done in the whole run.
    pub step: u64,
    pub loss: f32,
    pub loss_cl: f32,
    pub loss_st: f32,
    /// Share of the epoch's rows that had a teacher, 0 to 1.
    pub teacher_share: f32,
    pub samples_per_second: f32,
    pub n_peers: u32,
    /// Steps that moved nothing, because a gradient overflowed in float16.
    #[serde(default)]
    pub n_skipped: u32,
    /// Learning rate of the epoch's last step, after its schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f32>,
    /// Weight of the student head's loss in this epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill_weight: Option<f32>,
    /// Accuracy of the continual-learning head on the experience's validation split, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_accuracy: Option<f64>,
    /// Distance to what the network answered before, of strategies that keep it (LwF, EEIL, DER).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_retention: Option<f32>,
    /// Penalty for moving parameters that mattered before, of strategies that have one (EWC, SI).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_penalty: Option<f32>,
}

/// Test accuracies after an experience, and what the experience took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The experience just trained, from 0: the row of the accuracy matrix.
    pub experience: u32,
    pub heads: Vec<HeadAccuracy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeadAccuracy {
    /// `cl` or `student`.
    pub head: String,
    /// Accuracy on the test set of every experience of the stream, 0 to 1: one row of the accuracy matrix.
    pub per_experience: Vec<f64>,
    /// Accuracy on the whole test stream, 0 to 1.
    pub stream: f64,
    /// Counts over the whole test stream, `[K, K]` for K classes: row by label, column by prediction. Left out above
    /// [`MAX_CONFUSION_CLASSES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Vec<Vec<u64>>>,
}

/// Classes up to which confusion matrices are told, kept in checkpoints and drawn: their size is the square of it.
pub const MAX_CONFUSION_CLASSES: usize = 200;

/// What one experience took, in all processes that had a part in it; its evaluation is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Wall time.
    pub seconds: f64,
    /// Wall time in training steps, with the labelling for peers between them.
    pub training_seconds: f64,
    /// Rows trained, replayed ones among them.
    pub n_samples: u64,
    /// Time that all threads of the process had a processor.
    pub cpu_seconds: f64,
    /// Energy that the whole board drew, in joules; nothing where it was not measured throughout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_joules: Option<f64>,
}

impl Default for Usage {
    /// Nothing yet, and all of it measured.
    fn default() -> Self {
        Usage {
            seconds: 0.0,
            training_seconds: 0.0,
            n_samples: 0,
            cpu_seconds: 0.0,
            energy_joules: Some(0.0),
        }
    }
}

impl Usage {
    /// Rows trained in a second of training; nothing without training.
    pub fn samples_per_second(&self) -> Option<f64> {
        (self.training_seconds > 0.0).then(|| self.n_samples as f64 / self.training_seconds)
    }
}

/// Messages and payload bytes by kind of message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    pub kinds: Vec<TrafficOfKind>,
    /// Messages that arrived and were not taken in; only reasons for which there were some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedForReason>,
    /// Messages that were not sent: at a full queue, without a connection, or beyond the bound of a message.
    #[serde(default)]
    pub dropped_out: u64,
    /// Messages that arrived and were lost at a full queue.
    #[serde(default)]
    pub dropped_in: u64,
}

impl Traffic {
    /// How many messages were refused, by reason: `signature 2, unsigned 1`; empty if none was.
    pub fn refused_in_words(&self) -> String {
        let words: Vec<String> =
            self.refused.iter().map(|of| format!("{} {}", of.reason, of.messages)).collect();
        words.join(", ")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedForReason {
    /// As `docs/protocol.md` lists them.
    pub reason: String,
    pub messages: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrafficOfKind {
    /// `status`, `demand`, `repair`, `targets` or `inputs`.
    pub kind: String,
    pub messages_out: u64,
    pub bytes_out: u64,
    pub messages_in: u64,
    pub bytes_in: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub n_steps: u64,
    /// The final model as plain forward ONNX, relative to the run's folder.
    pub model: String,
    /// Rows of soft targets applied, and those that were refused, stale or not asked for.
    pub rows_applied: u64,
    pub rows_refused: u64,
    /// Messages that were dropped, on their way out or in.
    pub n_dropped: u64,
    /// Wall time spent on labelling for peers.
    #[serde(default)]
    pub labelling_seconds: f64,
    /// Messages from peers that were not taken in, for whatever reason; 0 in events of earlier releases.
    #[serde(default)]
    pub n_refused: u64,
}
