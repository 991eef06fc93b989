//! `dkt eval`.

use std::path::PathBuf;

use dkt_models::DualHead;
use onnx_grad::graph::Graph;

use super::CliError;
use crate::data::{self, TrainedOn};
use crate::eval::EvalError;
use crate::eval::evaluator::Evaluator;

/// Rows evaluated at once.
const BATCH: usize = 64;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A dual-head model: forward ONNX with outputs `cl_logits` and `st_logits`
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// `digits`, or a path: docs/data.md lists the formats; the test split is used
    #[arg(long, value_name = "DATA")]
    data: String,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let test = data::load_test(&arguments.data)?;
    let model = DualHead::from_graph(Graph::read(&arguments.model)?)?;
    let trained_on = TrainedOn::read(&model.graph().metadata, model.input_dims()[0], &arguments.model)?;
    if let Some(expected) = trained_on.classes.filter(|classes| *classes != test.classes) {
        return Err(EvalError::ClassNames { expected, found: test.classes }.into());
    }
    // The network knows pixels only as they were normalised when it was trained.
    // Only where its file does not say how are training images needed.
    let normalization = match trained_on.normalization {
        Some(normalization) => normalization,
        None => data::load(&arguments.data)?.normalization,
    };
    let evaluator = Evaluator::new(&model.graph().encode(), model.input_dims(), BATCH)?;
    let evaluation = evaluator.evaluate(&test, &normalization)?;
    if arguments.json {
        super::print(&super::to_json(&evaluation)?)
    } else {
        super::print(&evaluation.to_table().to_string())
    }
}
