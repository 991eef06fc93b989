//! `dkt model`: networks in, ordinary ONNX files out.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use dkt_models::heads::{AttachOptions, attach_heads};
use dkt_models::step::TrainingStep;
use dkt_models::zoo::{self, BuildOptions};
use dkt_models::{DualHead, inspect};
use onnx_grad::graph::Graph;

use super::{CliError, print};
use crate::config::{DistillLoss, OptimizerConfig, TrainConfig};
use crate::durable;
use crate::exchange::wire::MAX_CLASSES;

/// Channels, rows or columns of an input.
const MAX_INPUT_SIZE: usize = 4096;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the networks of the zoo
    List,
    /// Build a network of the zoo with seeded weights
    Build {
        /// A name from `dkt model list`
        network: String,
        #[arg(short, long, value_name = "MODEL.onnx")]
        output: PathBuf,
        /// Seed of the initial weights
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Number of classes of both heads [default: the network's own]
        #[arg(long, value_parser = parse_classes)]
        classes: Option<usize>,
        /// Input as CHANNELSxHEIGHTxWIDTH [default: the network's own]
        #[arg(long, value_parser = parse_input, value_name = "CxHxW")]
        input: Option<[usize; 3]>,
    },
    /// Show inputs, outputs, operators and parameters, and whether the network can be trained
    Inspect {
        #[arg(value_name = "MODEL.onnx")]
        model: PathBuf,
        /// Also list every parameter
        #[arg(long)]
        parameters: bool,
    },
    /// Put a continual-learning head and a student head in the place of a classifier's last layer
    AttachHeads {
        /// An ordinary classifier, for example a PyTorch export
        #[arg(value_name = "CLASSIFIER.onnx")]
        model: PathBuf,
        #[arg(short, long, value_name = "MODEL.onnx")]
        output: PathBuf,
        /// Number of classes of both heads [default: the classifier's own]
        #[arg(long, value_parser = parse_classes)]
        classes: Option<usize>,
        /// Seed of the new heads' weights
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Derive the training step of a dual-head network as an ONNX graph (docs/training-graph.md)
    Derive {
        #[arg(value_name = "MODEL.onnx")]
        model: PathBuf,
        #[arg(short, long, value_name = "TRAIN.onnx")]
        output: PathBuf,
        /// Loss of the student head
        #[arg(long, value_enum, default_value_t = LossName::Mse)]
        loss: LossName,
        #[arg(long, value_enum, default_value_t = OptimizerName::Adam)]
        optimizer: OptimizerName,
        /// L2 norm to which the gradient is clipped; 0 for no clipping
        #[arg(long, default_value_t = 5.0, value_parser = parse_clip_norm, allow_negative_numbers = true)]
        clip_norm: f32,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum LossName {
    /// Mean squared error of the raw logits
    Mse,
    /// Kullback-Leibler divergence of the softened probabilities
    Kl,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum OptimizerName {
    /// Stochastic gradient descent, momentum 0.9
    Sgd,
    Adam,
    Adamw,
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::List => list()?,
        Command::Build { network, output, seed, classes, input } => {
            let entry = zoo::find(&network)?;
            let options = BuildOptions {
                seed,
                classes: classes.unwrap_or(entry.classes),
                input: input.unwrap_or(entry.input),
            };
            let graph = zoo::build(&network, &options)?;
            write(&graph, &output)?;
        }
        Command::Inspect { model, parameters } => {
            print(&inspect::inspect(&Graph::read(&model)?).to_text(parameters))?;
        }
        Command::AttachHeads { model, output, classes, seed } => {
            keep_apart(&model, &output)?;
            let graph = attach_heads(&Graph::read(&model)?, &AttachOptions { classes, seed })?;
            write(&graph, &output)?;
        }
        Command::Derive { model, output, loss, optimizer, clip_norm } => {
            keep_apart(&model, &output)?;
            let config = TrainConfig {
                distill: crate::config::DistillConfig {
                    loss: match loss {
                        LossName::Mse => DistillLoss::Mse,
                        LossName::Kl => DistillLoss::Kl,
                    },
                    ..Default::default()
                },
                optimizer: match optimizer {
                    OptimizerName::Sgd => {
                        OptimizerConfig::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 }
                    }
                    OptimizerName::Adam => OptimizerConfig::default(),
                    OptimizerName::Adamw => OptimizerConfig::adamw(),
                },
                clip_norm,
                ..Default::default()
            };
            let model = DualHead::from_graph(Graph::read(&model)?)?;
            let step = TrainingStep::derive(&model, &config.step_options())?;
            write(&step.train, &output)?;
            print(&format!(
                "{} state tensors; feed each `<name>` and take `<name>.next` after every step\n",
                step.state.len()
            ))?;
        }
    }
    Ok(())
}

/// A network is not replaced by what is made of it: a training step, for one, holds no weights.
fn keep_apart(model: &Path, output: &Path) -> Result<(), CliError> {
    match (model.canonicalize(), output.canonicalize()) {
        (Ok(model), Ok(output)) if model == output => Err(CliError::SameFile { path: output }),
        _ => Ok(()),
    }
}

fn list() -> Result<(), CliError> {
    let mut text =
        format!("{:<16} {:>11} {:>9} {:>9}  description\n", "network", "input", "classes", "params");
    for network in zoo::list() {
        let [c, h, w] = network.input;
        let n_parameters = network.n_parameters()?;
        text += &format!(
            "{:<16} {:>11} {:>9} {:>9}  {}\n",
            network.name,
            format!("{c}x{h}x{w}"),
            network.classes,
            n_parameters,
            network.description
        );
    }
    print(&text)
}

fn write(graph: &Graph, path: &Path) -> Result<(), CliError> {
    let bytes = graph.encode();
    durable::write(path, &bytes)?;
    print(&format!("{}: {} nodes, {} bytes\n", path.display(), graph.nodes.len(), bytes.len()))
}

fn parse_input(text: &str) -> Result<[usize; 3], String> {
    let size = |s: &str| s.parse().ok().filter(|n| (1..=MAX_INPUT_SIZE).contains(n));
    let sizes: Option<Vec<usize>> = text.split('x').map(size).collect();
    sizes.and_then(|s| <[usize; 3]>::try_from(s).ok()).ok_or_else(|| {
        format!("expected CHANNELSxHEIGHTxWIDTH, each from 1 to {MAX_INPUT_SIZE}, for example 3x32x32")
    })
}

fn parse_classes(text: &str) -> Result<usize, String> {
    let n_classes = text.parse().ok().filter(|n| (1..=MAX_CLASSES).contains(n));
    n_classes.ok_or_else(|| format!("expected from 1 to {MAX_CLASSES} classes"))
}

fn parse_clip_norm(text: &str) -> Result<f32, String> {
    let norm = text.parse().ok().filter(|norm: &f32| norm.is_finite() && *norm >= 0.0);
    norm.ok_or_else(|| "expected 0 or a positive number".to_owned())
}
