//! The only file that touches tract: evaluates forward ONNX models in pure Rust.

use std::fmt::Write as _;
use std::sync::Arc;

use dkt_models::{CL_LOGITS, ST_LOGITS};
use serde::Serialize;
use tract_onnx::prelude::*;

use super::metrics::{Confusion, argmax};
use crate::data::{Dataset, Normalization};
use crate::ids::SampleId;

#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// `reason` is tract's own account: its error type is no standard error.
    #[error("tract cannot {action}: {reason}")]
    Tract { action: &'static str, reason: String },
    #[error("the model takes images of {expected:?}, the data has {found:?}; use data of the model's size")]
    Input { expected: [usize; 3], found: [usize; 3] },
    #[error("the model was trained on the classes {expected:?}, the data has {found:?}")]
    ClassNames { expected: Vec<String>, found: Vec<String> },
    #[error("the model has {expected} classes, the data {found}; use the data that the model was trained on")]
    Classes { expected: usize, found: usize },
}

fn failed(action: &'static str) -> impl Fn(TractError) -> EvalError {
    move |error| EvalError::Tract { action, reason: format!("{error:#}") }
}

/// Names of the heads and of their outputs.
const HEADS: [(&str, &str); 2] = [("cl", CL_LOGITS), ("student", ST_LOGITS)];

/// A dual-head model, planned for one batch size.
pub struct Evaluator {
    plan: Arc<TypedSimplePlan>,
    batch: usize,
    input: [usize; 3],
    n_classes: usize,
}

impl Evaluator {
    /// Plans a forward model with input `[batch, C, H, W]` and outputs `cl_logits`, `st_logits`.
    ///
    /// # Errors
    /// [`EvalError::Tract`] with tract's own reason.
    pub fn new(onnx: &[u8], input: [usize; 3], batch: usize) -> Result<Self, EvalError> {
        let [c, h, w] = input;
        let plan = tract_onnx::onnx()
            .with_ignore_output_shapes(true)
            .with_ignore_value_info(true)
            .model_for_read(&mut &onnx[..])
            .and_then(|model| model.with_outputs_by_name(HEADS.map(|(_, output)| output)))
            .and_then(|model| model.with_input_fact(0, f32::fact([batch, c, h, w]).into()))
            .and_then(|model| model.into_optimized())
            .map_err(failed("use the model"))?;
        let n_classes = plan
            .output_fact(0)
            .ok()
            .and_then(|fact| fact.shape.as_concrete().and_then(|dims| dims.last().copied()))
            .unwrap_or(0);
        let plan = plan.into_runnable().map_err(failed("plan the model"))?;
        Ok(Evaluator { plan, batch, input, n_classes })
    }

    /// Raw logits of both heads (continual-learning, student), each `[n, K]`, for `n` inputs `[n, C, H, W]`.
    ///
    /// # Errors
    /// [`EvalError::Tract`] if the run fails.
    pub fn logits(&self, input: &[f32]) -> Result<[Vec<f32>; 2], EvalError> {
        let [c, h, w] = self.input;
        let row = c * h * w;
        let mut heads = [Vec::new(), Vec::new()];
        for rows in input.chunks(self.batch * row) {
            // The plan is for one batch size: a short batch is filled up, and the rest not read.
            let mut full = rows.to_vec();
            full.resize(self.batch * row, 0.0);
            let tensor =
                Tensor::from_shape(&[self.batch, c, h, w], &full).map_err(failed("take the input"))?;
            let outputs = self.plan.run(tvec!(tensor.into())).map_err(failed("run the model"))?;
            for (head, output) in heads.iter_mut().zip(&outputs) {
                let view = output.to_plain_array_view::<f32>().map_err(failed("read the output"))?;
                head.extend(view.iter().take(rows.len() / row * self.n_classes));
            }
        }
        Ok(heads)
    }

    /// Evaluates both heads on every sample of a split.
    ///
    /// # Errors
    /// [`EvalError`] if model and data do not fit.
    pub fn evaluate(&self, data: &Dataset, normalization: &Normalization) -> Result<Evaluation, EvalError> {
        let found = [data.shape.channels, data.shape.height, data.shape.width].map(usize::from);
        if found != self.input {
            return Err(EvalError::Input { expected: self.input, found });
        }
        if data.classes.len() != self.n_classes {
            return Err(EvalError::Classes { expected: self.n_classes, found: data.classes.len() });
        }
        let ids: Vec<SampleId> = (0..data.len() as u32).map(SampleId).collect();
        let mut confusions = [Confusion::new(self.n_classes), Confusion::new(self.n_classes)];
        let mut input = vec![0.0; self.batch * data.shape.n_pixels()];
        for ids in ids.chunks(self.batch) {
            let input = &mut input[..ids.len() * data.shape.n_pixels()];
            normalization.fill_batch(data, ids, input);
            for (confusion, logits) in confusions.iter_mut().zip(self.logits(input)?) {
                for (row, id) in logits.chunks_exact(self.n_classes).zip(ids) {
                    confusion.add(usize::from(data.label(*id)), argmax(row));
                }
            }
        }
        let heads = HEADS.iter().zip(&confusions).map(|((head, _), confusion)| HeadEvaluation {
            head: (*head).to_owned(),
            accuracy: confusion.accuracy(),
            per_class: (0..self.n_classes).map(|c| confusion.class_accuracy(c)).collect(),
            confusion: (0..self.n_classes).map(|c| confusion.row(c).to_vec()).collect(),
        });
        Ok(Evaluation { n_samples: data.len(), classes: data.classes.clone(), heads: heads.collect() })
    }
}

/// Accuracies of a model on one split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    pub n_samples: usize,
    pub classes: Vec<String>,
    pub heads: Vec<HeadEvaluation>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadEvaluation {
    /// `cl` or `student`.
    pub head: String,
    /// 0 to 1; `None` without samples.
    pub accuracy: Option<f64>,
    pub per_class: Vec<Option<f64>>,
    /// Row: label; column: prediction.
    pub confusion: Vec<Vec<u64>>,
}

impl Evaluation {
    /// A table for people: a line a class, a column a head, per cent.
    pub fn to_table(&self) -> String {
        let percent = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{:.1}", 100.0 * v));
        let mut table = format!("{} test samples, accuracy in per cent\n\n{:<12}", self.n_samples, "class");
        table.extend(self.heads.iter().map(|h| format!("{:>9}", h.head)));
        let mut line = |label: &str, values: Vec<Option<f64>>| {
            let _ = write!(table, "\n{label:<12}");
            for value in values {
                let _ = write!(table, "{:>9}", percent(value));
            }
        };
        for (i, class) in self.classes.iter().enumerate() {
            line(class, self.heads.iter().map(|h| h.per_class[i]).collect());
        }
        line("all", self.heads.iter().map(|h| h.accuracy).collect());
        table.push('\n');
        table
    }
}
