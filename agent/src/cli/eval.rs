//! `dkt eval`.

use std::path::PathBuf;

use dkt_models::DualHead;
use onnx_grad::graph::Graph;

use super::CliError;
use crate::data::TrainedOn;
use crate::eval::EvalError;
use crate::eval::evaluator::Evaluator;

/// Rows evaluated at once.
const BATCH: usize = 64;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A dual-head model: forward ONNX with outputs `cl_logits` and `st_logits`
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// `digits`, or a folder with IDX files; its test split is used
    #[arg(long, value_name = "DATA")]
    data: String,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let source = crate::data::load(&arguments.data)?;
    let model = DualHead::from_graph(Graph::read(&arguments.model)?)?;
    let trained_on = TrainedOn::read(&model.graph().metadata, model.input_dims()[0], &arguments.model)?;
    if let Some(expected) = trained_on.classes.filter(|classes| *classes != source.test.classes) {
        return Err(EvalError::ClassNames { expected, found: source.test.classes }.into());
    }
    // The network knows pixels only as they were normalised when it was trained.
    let normalization = trained_on.normalization.unwrap_or(source.normalization);
    let evaluator = Evaluator::new(&model.graph().encode(), model.input_dims(), BATCH)?;
    let evaluation = evaluator.evaluate(&source.test, &normalization)?;
    if arguments.json {
        let json = serde_json::to_string_pretty(&evaluation)
            .map_err(|e| super::io_error("write", "standard output".as_ref())(e.into()))?;
        super::print(&format!("{json}\n"))
    } else {
        super::print(&evaluation.to_table().to_string())
    }
}
