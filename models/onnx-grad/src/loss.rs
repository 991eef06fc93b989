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
/// A row of targets whose sum is s is that of probabilities with weight s: its loss is s times theirs, and it counts
/// as one row in the mean.
///
/// # Shapes
/// - `logits`: `[N, K]`   - `target_probs`: `[N, K]`, rows sum to 1, or to the row's weight   - result: scalar
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

/// Loss that keeps a head near its own past: divergence of softened probabilities within groups of classes.
///
/// - divergence: KL(past || now) = Σ_k p (log p - log q), p of the past logits and q of those now; positive
/// - quantity: probabilities, softmax(logits / T) over the classes of the group alone, which is 0 at all others
/// - temperature: on both sides; no T²
/// - reduction: sum over the groups of the mean over the N rows, rows without a past included
///
/// With one group of all classes known before, this is Learning without Forgetting (Li and Hoiem 2016) as Avalanche
/// has it; with one group an earlier experience, the distillation of EEIL (Castro et al. 2018). A group without
/// classes adds nothing.
///
/// # Shapes
/// - `logits`, `past_logits`: `[N, K]`   - `row_weight`: `[N]`, 0 where a row has no past; its past logits must be
///   finite all the same   - `groups`: `[G, K]`, 1 where a class is in the group, else 0
/// - `temperature`: scalar > 0   - result: scalar
///
/// # Errors
/// [`GradError::Shape`] if the shapes differ.
pub fn kl_within_groups(
    b: &mut Builder,
    logits: &str,
    past_logits: &str,
    row_weight: &str,
    groups: &str,
    temperature: &str,
) -> Result<String, GradError> {
    require_rows(b, logits, past_logits)?;
    let shape = b.shape(groups)?.clone();
    if shape.len() != 2 || shape[1] != b.shape(logits)?[1] {
        let expected = format!("[G, {}]", b.shape(logits)?[1]);
        return Err(mismatch(&format!("groups `{groups}`"), expected, emit::show(&shape)));
    }
    let outside = outside(b, groups)?;
    let middle = b.ints(&[1])?;
    let outside = b.op("Unsqueeze", &[&outside, &middle], &[])?;
    let now = within_groups(b, logits, &outside, temperature)?;
    let past = within_groups(b, past_logits, &outside, temperature)?;
    let probs = b.op("Exp", &[&past], &[])?;
    let gap = b.op("Sub", &[&past, &now], &[])?;
    let terms = b.op("Mul", &[&probs, &gap], &[])?;
    let of_groups = emit::reduce(b, "ReduceSum", &terms, &[2], false)?;
    let has_classes = emit::reduce(b, "ReduceMax", groups, &[1], true)?;
    let of_groups = b.op("Mul", &[&of_groups, &has_classes], &[])?;
    let rows = emit::reduce(b, "ReduceSum", &of_groups, &[0], false)?;
    weighted_mean(b, &rows, row_weight)
}

/// log softmax(logits / temperature) `[G, N, K]`, with `outside` `[G, 1, K]` added to what the softmax reads.
fn within_groups(
    b: &mut Builder,
    logits: &str,
    outside: &str,
    temperature: &str,
) -> Result<String, GradError> {
    let softer = b.op("Div", &[logits, temperature], &[])?;
    let first = b.ints(&[0])?;
    let softer = b.op("Unsqueeze", &[&softer, &first], &[])?;
    let masked = b.op("Add", &[&softer, outside], &[])?;
    b.op("LogSoftmax", &[&masked], &[("axis", 2_i64.into())])
}

/// `logits` for a softmax over the classes of `class_mask` alone: at the others its probability is 0.
///
/// # Shapes
/// - `logits`: `[N, K]`   - `class_mask`: `[N, K]`, 1 where a class may be predicted, else 0; a row of zeros masks
///   nothing   - result: `[N, K]`
///
/// # Errors
/// [`GradError::Shape`] if the shapes differ.
pub fn masked(b: &mut Builder, logits: &str, class_mask: &str) -> Result<String, GradError> {
    let expected = b.shape(logits)?.clone();
    require(b, "class mask", &expected, class_mask)?;
    let outside = outside(b, class_mask)?;
    b.op("Add", &[logits, &outside], &[])
}

/// 0 where `mask` is 1, and where it is 0 a number that makes a class impossible: e^-10000 is 0 even in float64.
fn outside(b: &mut Builder, mask: &str) -> Result<String, GradError> {
    let dtype = b.value(mask)?.dtype;
    let (one, far) = (b.scalar(dtype, 1.0)?, b.scalar(dtype, 1e4)?);
    let outside = b.op("Sub", &[mask, &one], &[])?;
    b.op("Mul", &[&outside, &far], &[])
}

/// A tensor that a quadratic penalty ties to a former value of its own. All three have one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchored {
    pub parameter: String,
    /// Weight of each element's square, at least 0.
    pub importance: String,
    pub anchor: String,
}

/// Quadratic penalty: Σ importance * (parameter - anchor)² over all elements of all tensors, with no factor 1/2
/// (elastic weight consolidation, Kirkpatrick et al. 2017; Synaptic Intelligence, Zenke et al. 2017).
///
/// # Errors
/// [`GradError::NothingToTrain`] if there is no tensor; [`GradError::Shape`] if the shapes of one differ.
pub fn quadratic_penalty(b: &mut Builder, anchored: &[Anchored]) -> Result<String, GradError> {
    let mut sums = Vec::with_capacity(anchored.len());
    for Anchored { parameter, importance, anchor } in anchored {
        let expected = b.shape(parameter)?.clone();
        require(b, "importance", &expected, importance)?;
        require(b, "anchor", &expected, anchor)?;
        let distance = b.op("Sub", &[parameter, anchor], &[])?;
        let square = b.op("Mul", &[&distance, &distance], &[])?;
        let weighted = b.op("Mul", &[importance, &square], &[])?;
        sums.push(b.op("ReduceSum", &[&weighted], &[("keepdims", 0_i64.into())])?);
    }
    if sums.is_empty() {
        return Err(GradError::NothingToTrain);
    }
    b.op("Sum", &sums.iter().map(String::as_str).collect::<Vec<_>>(), &[])
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
