//! Losses as forward subgraphs: appended to a graph and differentiated like everything else.
//!
//! N rows of K classes throughout. Rows that have no teacher weigh 0 and then add nothing to the sum; they
//! count in the mean all the same, so that a batch with few teachers distils gently.

use crate::builder::Builder;
use crate::emit;
use crate::error::GradError;

/// What the sum of a distillation loss is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// All N*K elements: PyTorch's `reduction='mean'`, also for `kl_div`.
    #[default]
    Mean,
    /// The N rows: PyTorch's `reduction='batchmean'`.
    BatchMean,
}

/// Loss of the CL head: cross-entropy with hard or mixed labels.
///
/// - divergence: -Σ_k target * log softmax(logits), the cross-entropy; the sign makes it positive
/// - quantity: logits against probabilities, at temperature 1
/// - reduction: mean over the N rows
///
/// # Shapes
/// - `logits`: `[N, K]`   - `target_probs`: `[N, K]`, rows sum to 1   - result: scalar
///
/// # Errors
/// [`GradError::Shape`] if the shapes differ.
pub fn cross_entropy(b: &mut Builder, logits: &str, target_probs: &str) -> Result<String, GradError> {
    require_rows(b, logits, target_probs)?;
    let log_probs = b.op("LogSoftmax", &[logits], &[("axis", 1_i64.into())])?;
    let terms = b.op("Mul", &[target_probs, &log_probs], &[])?;
    let rows = emit::reduce(b, "ReduceSum", &terms, &[1], false)?;
    let mean = emit::reduce(b, "ReduceMean", &rows, &[0], false)?;
    b.op("Neg", &[&mean], &[])
}

/// Loss of the student head against its teachers: squared distance of raw logits.
///
/// - divergence: (student - teacher)², which is symmetric; positive
/// - quantity: raw logits, no softmax; no temperature on either side, so no T² either
/// - reduction: mean over all N*K elements, rows without teacher included
///
/// # Shapes
/// - `student_logits`, `teacher_logits`: `[N, K]`   - `row_weight`: `[N]`, 0 where a row has no teacher; its
///   teacher logits must be finite all the same   - result: scalar
///
/// # Errors
/// [`GradError::Shape`] if the shapes differ.
pub fn mse(
    b: &mut Builder,
    student_logits: &str,
    teacher_logits: &str,
    row_weight: &str,
) -> Result<String, GradError> {
    require_rows(b, student_logits, teacher_logits)?;
    let difference = b.op("Sub", &[student_logits, teacher_logits], &[])?;
    let square = b.op("Mul", &[&difference, &difference], &[])?;
    let rows = emit::reduce(b, "ReduceMean", &square, &[1], false)?;
    weighted_mean(b, &rows, row_weight)
}

/// Loss of the student head against its teachers: divergence of softened probabilities.
///
/// - divergence: KL(teacher || student) = Σ_k p (log p - log q), p the teacher's, q the student's; positive
/// - quantity: probabilities, softmax(logits / T)
/// - temperature: on both sides
/// - reduction: mean over all N*K elements or over the N rows ([`Reduction`]), rows without teacher included
/// - T²: multiplied in if `scale_t2`, which keeps the gradient's size independent of T
///
/// # Shapes
/// - `student_logits`, `teacher_logits`: `[N, K]`   - `row_weight`: `[N]`, 0 where a row has no teacher; its
///   teacher logits must be finite all the same   - `temperature`: scalar > 0   - result: scalar
///
/// # Errors
/// [`GradError::Shape`] if the shapes differ.
pub fn kl(
    b: &mut Builder,
    student_logits: &str,
    teacher_logits: &str,
    row_weight: &str,
    temperature: &str,
    reduction: Reduction,
    scale_t2: bool,
) -> Result<String, GradError> {
    require_rows(b, student_logits, teacher_logits)?;
    let student = softened(b, student_logits, temperature)?;
    let teacher = softened(b, teacher_logits, temperature)?;
    let probs = b.op("Exp", &[&teacher], &[])?;
    let gap = b.op("Sub", &[&teacher, &student], &[])?;
    let terms = b.op("Mul", &[&probs, &gap], &[])?;
    let along_classes = match reduction {
        Reduction::Mean => "ReduceMean",
        Reduction::BatchMean => "ReduceSum",
    };
    let rows = emit::reduce(b, along_classes, &terms, &[1], false)?;
    let loss = weighted_mean(b, &rows, row_weight)?;
    if !scale_t2 {
        return Ok(loss);
    }
    let t2 = b.op("Mul", &[temperature, temperature], &[])?;
    b.op("Mul", &[&loss, &t2], &[])
}

/// log softmax(logits / temperature)
fn softened(b: &mut Builder, logits: &str, temperature: &str) -> Result<String, GradError> {
    let softer = b.op("Div", &[logits, temperature], &[])?;
    b.op("LogSoftmax", &[&softer], &[("axis", 1_i64.into())])
}

/// Σ_n weight * row / N
fn weighted_mean(b: &mut Builder, rows: &str, row_weight: &str) -> Result<String, GradError> {
    let expected = b.shape(rows)?.clone();
    require(b, "row weights", &expected, row_weight)?;
    let weighted = b.op("Mul", &[rows, row_weight], &[])?;
    emit::reduce(b, "ReduceMean", &weighted, &[0], false)
}

fn require_rows(b: &Builder, logits: &str, targets: &str) -> Result<(), GradError> {
    let expected = b.shape(logits)?.clone();
    if expected.len() != 2 {
        return Err(mismatch("logits", "[N, K]".to_owned(), emit::show(&expected)));
    }
    require(b, "targets", &expected, targets)
}

fn require(b: &Builder, what: &str, expected: &[crate::graph::Dim], value: &str) -> Result<(), GradError> {
    let found = b.shape(value)?;
    if found == expected {
        return Ok(());
    }
    Err(mismatch(&format!("{what} `{value}`"), emit::show(expected), emit::show(found)))
}

fn mismatch(what: &str, expected: String, found: String) -> GradError {
    GradError::Shape { node: what.to_owned(), op: "loss".to_owned(), expected, found }
}
