//! `dkt model`: networks in, ordinary ONNX files out.

mod check;
mod derive;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use dkt_models::heads::{AttachOptions, attach_heads};
use dkt_models::zoo::{self, BuildOptions};
use dkt_models::{ModelError, inspect};
use onnx_grad::GradError;
use onnx_grad::graph::Graph;

use super::{CliError, print};
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
    /// Derive a network's training step as an ONNX graph that any ONNX Runtime runs (docs/training-graph.md)
    ///
    /// A network with two heads is trained on labels and on soft targets (`mse`, `kl`), any other classifier on
    /// labels alone (`cross-entropy`).
    Derive(Box<derive::Arguments>),
    /// Compare a network's derived gradients with differences of its loss, parameter by parameter
    ///
    /// Runs on ONNX Runtime, with random inputs and labels. Says which parameters training would change, and which
    /// not and why. Exit code 1 if a gradient disagrees.
    Check(check::Arguments),
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
        Command::Derive(arguments) => derive::run(*arguments)?,
        Command::Check(arguments) => check::run(&arguments)?,
    }
    Ok(())
}

/// Points to the list where an operator is the reason.
fn with_list(error: ModelError) -> CliError {
    match error {
        ModelError::Graph(error @ (GradError::Unsupported(_) | GradError::UnknownOperator { .. })) => {
            CliError::Operators(error)
        }
        other => other.into(),
    }
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
