//! `dkt model derive`.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use dkt_models::notes;
use dkt_models::step::{Distillation, Group, Retention, StepOptions, TrainingStep, derive_classifier};
use dkt_models::{CL_LOGITS, DualHead, ST_LOGITS};
use onnx_grad::graph::Graph;
use onnx_grad::loss::Reduction;
use onnx_grad::{
    BatchNorm, CONTRACT_KEY, CONTRACT_VERSION, Clip, Dropout, Optimizer, Recompute, StateRole, StateTensor,
};

use super::{keep_apart, with_list, write};
use crate::cli::{CliError, print};
use crate::config::{DistillReduction, NamePattern, PrecisionConfig};
use crate::durable;
use crate::train::tensors;

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// The network as exported for inference
    #[arg(value_name = "FORWARD.onnx")]
    model: PathBuf,
    /// Where the training step goes
    #[arg(short, long, value_name = "TRAIN.onnx")]
    output: PathBuf,
    /// Also write what to feed at the first step: parameters, running statistics, the optimiser's and held tensors
    #[arg(long, value_name = "STATE.safetensors")]
    state: Option<PathBuf>,

    /// What is minimised [default: mse for a network with two heads, else cross-entropy]
    #[arg(long, value_enum, help_heading = "Loss")]
    loss: Option<LossName>,
    /// Output that cross-entropy compares with the labels [default: the first]
    #[arg(long, value_name = "OUTPUT", help_heading = "Loss")]
    logits: Option<String>,
    /// What kl is divided by [default: mean]
    #[arg(long, value_enum, help_heading = "Loss")]
    kl_reduction: Option<DistillReduction>,
    /// Multiply kl by the square of the temperature
    #[arg(long, help_heading = "Loss")]
    t2: bool,

    /// Keep the first head near logits that it gave before: by divergence within groups of classes (distill), or by
    /// the squares of differences (logits)
    #[arg(long, value_enum, help_heading = "Strategy")]
    retention: Option<RetentionName>,
    /// Tie parameters to earlier values, each as its importance says
    #[arg(long, help_heading = "Strategy")]
    penalty: bool,
    /// Compare labels with those classes alone that the input `class_mask` keeps
    #[arg(long, help_heading = "Strategy")]
    class_mask: bool,
    /// Add noise to the gradient, as the inputs `gradient_noise` and `seed` decide
    #[arg(long, help_heading = "Strategy")]
    gradient_noise: bool,
    /// Sum up what each parameter's moves did to the loss
    #[arg(long, help_heading = "Strategy")]
    path_integral: bool,

    /// How parameters move; names and meaning are PyTorch's
    #[arg(long, value_enum, default_value_t = OptimizerName::Adam, help_heading = "Optimizer")]
    optimizer: OptimizerName,
    /// Weight decay of all parameters that are in no group [default: 0.01 with adamw, else 0]
    #[arg(
        long, value_name = "FACTOR", value_parser = parse_factor, allow_negative_numbers = true,
        help_heading = "Optimizer"
    )]
    weight_decay: Option<f64>,
    /// Momentum of sgd and rmsprop [default: 0.9 with sgd, 0 with rmsprop]
    #[arg(
        long, value_name = "FACTOR", value_parser = parse_factor, allow_negative_numbers = true,
        help_heading = "Optimizer"
    )]
    momentum: Option<f64>,
    /// No weight decay on biases and the scales of norms (tensors of less than two dimensions)
    #[arg(long, help_heading = "Optimizer")]
    decay_matrices_only: bool,
    /// Other constants for parameters that match: lr is a factor of the learning rate; the first group that matches
    /// counts
    #[arg(
        long = "group", value_name = "PATTERN:lr=0.1,weight_decay=0", value_parser = parse_group,
        help_heading = "Optimizer"
    )]
    groups: Vec<Group>,
    /// Parameters to leave as they are, for example 'conv1*'
    #[arg(long, value_name = "PATTERN", help_heading = "Optimizer")]
    freeze: Vec<NamePattern>,
    /// L2 norm to which the gradient is clipped; 0 for no clipping [default: 5]
    #[arg(
        long, value_name = "NORM", value_parser = parse_clip, allow_negative_numbers = true,
        help_heading = "Optimizer"
    )]
    clip_norm: Option<f32>,
    /// Bound of every element of the gradient, in place of the norm; 0 for no clipping
    #[arg(
        long, value_name = "BOUND", value_parser = parse_clip, allow_negative_numbers = true,
        conflicts_with = "clip_norm", help_heading = "Optimizer"
    )]
    clip_value: Option<f32>,

    /// Add up gradients of several micro-batches before parameters move
    #[arg(long, help_heading = "Step")]
    accumulate: bool,
    /// Let dropout layers drop, as the input `seed` decides
    #[arg(long, help_heading = "Step")]
    dropout: bool,
    /// Statistics that normalise: the mini-batch's (train) or the running ones (frozen)
    #[arg(long, value_enum, default_value_t = BatchNormName::Train, help_heading = "Step")]
    batch_norm: BatchNormName,
    /// Type of products; parameters are float32 in each
    #[arg(long, value_enum, default_value_t = PrecisionConfig::F32, help_heading = "Step")]
    precision: PrecisionConfig,
    /// Nodes to compute twice instead of keeping their activations, by their names; one segment a pattern
    #[arg(long, value_name = "PATTERN", help_heading = "Step")]
    recompute: Vec<NamePattern>,
    /// Compute all but the last of N segments of the network twice
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..),
        conflicts_with = "recompute", help_heading = "Step"
    )]
    recompute_parts: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum LossName {
    /// Two heads: cross-entropy, and the mean squared error of the student head's raw logits
    Mse,
    /// Two heads: cross-entropy, and the Kullback-Leibler divergence of softened probabilities
    Kl,
    /// One head: cross-entropy with the labels
    CrossEntropy,
}

#[derive(Clone, Copy, ValueEnum)]
enum RetentionName {
    /// Kullback-Leibler divergence of softened probabilities
    Distill,
    /// Mean squared error of raw logits
    Logits,
}

#[derive(Clone, Copy, ValueEnum)]
enum OptimizerName {
    /// Stochastic gradient descent
    Sgd,
    Rmsprop,
    Adam,
    Adamw,
}

#[derive(Clone, Copy, ValueEnum)]
enum BatchNormName {
    Train,
    Frozen,
}

impl Arguments {
    fn loss(&self, graph: &Graph) -> Result<LossName, CliError> {
        let has = |name: &str| graph.outputs.iter().any(|o| o.name == name);
        let loss = self.loss.unwrap_or(if self.logits.is_none() && has(CL_LOGITS) && has(ST_LOGITS) {
            LossName::Mse
        } else {
            LossName::CrossEntropy
        });
        let refuse = |option, needs| Err(CliError::OptionNeeds { option, needs });
        if self.logits.is_some() && loss != LossName::CrossEntropy {
            return refuse("--logits", "--loss cross-entropy");
        }
        if self.kl_reduction.is_some() && loss != LossName::Kl {
            return refuse("--kl-reduction", "--loss kl");
        }
        if self.t2 && loss != LossName::Kl {
            return refuse("--t2", "--loss kl");
        }
        if self.momentum.is_some() && !matches!(self.optimizer, OptimizerName::Sgd | OptimizerName::Rmsprop) {
            return refuse("--momentum", "--optimizer sgd or rmsprop");
        }
        Ok(loss)
    }

    fn optimizer(&self) -> Optimizer {
        let decay = |otherwise: f64| self.weight_decay.unwrap_or(otherwise);
        match self.optimizer {
            OptimizerName::Sgd => Optimizer::Sgd {
                momentum: self.momentum.unwrap_or(0.9),
                nesterov: false,
                weight_decay: decay(0.0),
            },
            OptimizerName::Rmsprop => Optimizer::RmsProp {
                alpha: 0.99,
                eps: 1e-8,
                momentum: self.momentum.unwrap_or(0.0),
                centered: false,
                weight_decay: decay(0.0),
            },
            OptimizerName::Adam => {
                Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: decay(0.0) }
            }
            OptimizerName::Adamw => {
                Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: decay(0.01) }
            }
        }
    }

    fn clip(&self) -> Option<Clip> {
        let positive = |bound: &f32| *bound > 0.0;
        match self.clip_value {
            Some(bound) => Some(bound).filter(positive).map(Clip::Value),
            None => Some(self.clip_norm.unwrap_or(5.0)).filter(positive).map(Clip::Norm),
        }
    }

    fn options(self, loss: LossName) -> StepOptions {
        let reduction = match self.kl_reduction {
            Some(DistillReduction::BatchMean) => Reduction::BatchMean,
            _ => Reduction::Mean,
        };
        let patterns = |patterns: Vec<NamePattern>| patterns.into_iter().map(|p| p.0).collect::<Vec<_>>();
        StepOptions {
            distill: match loss {
                LossName::Kl => Distillation::Kl { reduction, scale_t2: self.t2 },
                _ => Distillation::Mse,
            },
            optimizer: self.optimizer(),
            clip: self.clip(),
            groups: self.groups,
            decay_matrices_only: self.decay_matrices_only,
            accumulate: self.accumulate,
            batch_norm: match self.batch_norm {
                BatchNormName::Train => BatchNorm::Train,
                BatchNormName::Frozen => BatchNorm::Frozen,
            },
            dropout: if self.dropout { Dropout::Seeded } else { Dropout::Off },
            precision: self.precision.into(),
            recompute: match (self.recompute_parts, self.recompute) {
                (Some(n), _) => Recompute::Parts(n as usize),
                (None, names) if names.is_empty() => Recompute::Nothing,
                (None, names) => Recompute::Matching(patterns(names)),
            },
            freeze: patterns(self.freeze),
            retention: self.retention.map(|retention| match retention {
                RetentionName::Distill => Retention::Distill,
                RetentionName::Logits => Retention::Logits,
            }),
            penalty: self.penalty,
            class_mask: self.class_mask,
            gradient_noise: self.gradient_noise,
            path_integral: self.path_integral,
            ..StepOptions::default()
        }
    }
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let (output, state_output) = (arguments.output.clone(), arguments.state.clone());
    keep_apart(&arguments.model, &output)?;
    if let Some(path) = &state_output {
        keep_apart(&arguments.model, path)?;
        if *path == output {
            return Err(CliError::SameFile { path: output });
        }
    }
    let graph = Graph::read(&arguments.model)?;
    let loss = arguments.loss(&graph)?;
    let logits = arguments.logits.clone();
    let mut notes = notes::notes(&graph);
    if arguments.dropout && !graph.nodes.iter().any(|n| n.op == "Dropout") {
        notes.push(
            "--dropout changes nothing: the network has no Dropout layer, which exporters leave out in evaluation mode \
             (models/export/README.md)"
                .to_owned(),
        );
    }
    let options = arguments.options(loss);
    let minimised = match (loss, &logits, graph.outputs.first()) {
        (LossName::CrossEntropy, Some(name), _) => format!("cross-entropy of `{name}`"),
        (LossName::CrossEntropy, None, Some(first)) => format!("cross-entropy of `{}`", first.name),
        _ => "losses of both heads".to_owned(),
    };
    let (train, state) = match loss {
        LossName::CrossEntropy => {
            let training = derive_classifier(&graph, logits.as_deref(), &options).map_err(with_list)?;
            (training.graph, training.state)
        }
        LossName::Mse | LossName::Kl => {
            let step = TrainingStep::derive(&DualHead::from_graph(graph)?, &options).map_err(with_list)?;
            (step.train, step.state)
        }
    };
    write(&train, &output)?;
    if let Some(path) = &state_output {
        write_state(&state, path)?;
    }
    print(&summary(&train, &state, &minimised))?;
    for note in notes {
        print(&format!("note: {note}\n"))?;
    }
    Ok(())
}

fn write_state(state: &[StateTensor], path: &std::path::Path) -> Result<(), CliError> {
    let metadata = HashMap::from([(CONTRACT_KEY.to_owned(), CONTRACT_VERSION.to_owned())]);
    let bytes = tensors::encode(state.iter().map(|s| (s.name.as_str(), &s.init)), metadata)
        .map_err(|source| CliError::State { path: path.to_owned(), source })?;
    durable::write(path, &bytes)?;
    print(&format!("{}: {} tensors, {} bytes\n", path.display(), state.len(), bytes.len()))
}

/// What is trained and what is fed, on one line.
fn summary(train: &Graph, state: &[StateTensor], minimised: &str) -> String {
    let of_role = |role| state.iter().filter(move |s| s.role == role);
    let n_values: usize = of_role(StateRole::Parameter).map(|s| s.init.n_elements()).sum();
    let names: BTreeSet<&str> = state.iter().map(|s| s.name.as_str()).collect();
    let fed: Vec<&str> =
        train.inputs.iter().map(|i| i.name.as_str()).filter(|name| !names.contains(name)).collect();
    let n_held = of_role(StateRole::Held).count();
    let held = if n_held == 0 {
        String::new()
    } else {
        format!("; {n_held} held tensors, which steps do not change")
    };
    format!(
        "trains {} parameters ({n_values} values) on the {minimised}; {} state tensors: feed each `<name>` and take `<name>.next` after every step{held}; beside them feed {}\n",
        of_role(StateRole::Parameter).count(),
        state.len() - n_held,
        fed.join(", ")
    )
}

fn parse_factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|f: &f64| f.is_finite() && *f >= 0.0);
    factor.ok_or_else(|| "expected 0 or a positive number".to_owned())
}

fn parse_clip(text: &str) -> Result<f32, String> {
    let norm = text.parse().ok().filter(|norm: &f32| norm.is_finite() && *norm >= 0.0);
    norm.ok_or_else(|| "expected 0 or a positive number".to_owned())
}

/// Names may hold colons, constants do not.
fn parse_group(text: &str) -> Result<Group, String> {
    let form = || "expected PATTERN:lr=FACTOR,weight_decay=FACTOR, for example conv1*:lr=0.1".to_owned();
    let (pattern, constants) = text.rsplit_once(':').ok_or_else(form)?;
    let pattern: NamePattern = pattern.parse().map_err(|e| format!("{e}"))?;
    let mut group = Group { pattern: pattern.0, learning_rate_factor: 1.0, weight_decay: None };
    for constant in constants.split(',') {
        let (key, value) = constant.split_once('=').ok_or_else(form)?;
        let value = parse_factor(value).map_err(|e| format!("`{constant}`: {e}"))?;
        match key.trim() {
            "lr" => group.learning_rate_factor = value,
            "weight_decay" => group.weight_decay = Some(value),
            _ => return Err(form()),
        }
    }
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_a_pattern_and_constants() {
        let group = parse_group("onnx::Conv_*:lr=0.1,weight_decay=0").unwrap();
        assert_eq!(group.pattern.as_str(), "onnx::Conv_*");
        assert_eq!((group.learning_rate_factor, group.weight_decay), (0.1, Some(0.0)));
        assert_eq!(parse_group("*:weight_decay=0.5").unwrap().learning_rate_factor, 1.0);
        for (text, says) in [
            ("conv1*", "expected PATTERN:lr="),
            ("conv1*:", "expected PATTERN:lr="),
            ("conv1*:rate=1", "expected PATTERN:lr="),
            ("conv1*:lr=-1", "`lr=-1`: expected 0 or a positive number"),
            ("conv1*:lr=nan", "expected 0 or a positive number"),
            ("[:lr=1", "glob pattern"),
        ] {
            let error = parse_group(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
