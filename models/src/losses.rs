//! Losses appended to a forward graph: the scalar `loss`, and the inputs that it reads.

use onnx_grad::graph::{DataType, Dim, Graph, Tensor};
use onnx_grad::loss::{self, Anchored};
use onnx_grad::{Builder, trainable};

use crate::dual_head::{CL_LOGITS, DualHead, ST_LOGITS, show};
use crate::error::ModelError;
use crate::step::{Distillation, Retention, StepOptions};

/// A forward graph with its losses and no outputs.
pub(crate) struct WithLoss {
    pub graph: Graph,
    /// The parts of the loss that are put out beside it, in order.
    pub parts: Vec<&'static str>,
    /// Initialisers that the loss reads and that are no parameters.
    pub held: Vec<String>,
}

/// A dual-head network with `loss.cl`, `loss.st`, what `options` add, and `loss`.
pub(crate) fn dual_head(model: &DualHead, options: &StepOptions) -> Result<WithLoss, ModelError> {
    let mut b = without_outputs(model.graph())?;
    let batch = b.shape(CL_LOGITS)?[0].clone();
    let per_class = vec![batch.clone(), Dim::Size(model.n_classes())];
    b.input("labels", DataType::F32, per_class.clone())?;
    b.input("teacher_logits", DataType::F32, per_class)?;
    b.input("teacher_weight", DataType::F32, vec![batch])?;
    b.input("distill_weight", DataType::F32, Vec::new())?;
    b.input("temperature", DataType::F32, Vec::new())?;
    let mut terms = Terms::default();
    cross_entropy(&mut b, CL_LOGITS, options.class_mask)?;
    b.set_scope("loss.st");
    let st = match options.distill {
        Distillation::Mse => loss::mse(&mut b, ST_LOGITS, "teacher_logits", "teacher_weight")?,
        Distillation::Kl { reduction, scale_t2 } => {
            let (teacher, weight) = ("teacher_logits", "teacher_weight");
            loss::kl(&mut b, ST_LOGITS, teacher, weight, "temperature", reduction, scale_t2)?
        }
    };
    b.op_named("Identity", &[&st], &[], "loss.st")?;
    terms.weighed.push(("loss.st", "distill_weight"));
    terms.keep_past(&mut b, CL_LOGITS, options)?;
    terms.sum(b)
}

/// A classifier with `loss`, the cross-entropy of `logits` with the input `labels`, and what `options` add; and the
/// name of its logits.
pub(crate) fn classifier(
    graph: &Graph,
    logits: Option<&str>,
    options: &StepOptions,
) -> Result<(WithLoss, String), ModelError> {
    if graph.metadata.contains_key(onnx_grad::CONTRACT_KEY) {
        return Err(ModelError::TrainingGraph);
    }
    let found = || graph.outputs.iter().map(show).collect::<Vec<_>>().join(", ");
    let output = match logits {
        None => graph.outputs.first(),
        Some(name) => graph.outputs.iter().find(|o| o.name == name),
    };
    let logits = output
        .filter(|o| o.shape.len() == 2 && o.dtype == DataType::F32)
        .ok_or_else(|| ModelError::Logits { name: logits.map(str::to_owned), found: found() })?;
    if logits.shape[1] == Dim::Size(1) {
        return Err(ModelError::OneClass { found: show(logits) });
    }
    let name = logits.name.clone();
    let mut b = without_outputs(graph)?;
    let shape = b.shape(&name)?.clone();
    b.input("labels", DataType::F32, shape)?;
    if options.retention.is_none() && !options.penalty && !options.class_mask {
        b.set_scope("loss");
        let value = loss::cross_entropy(&mut b, &name, "labels")?;
        b.op_named("Identity", &[&value], &[], "loss")?;
        return Ok((WithLoss { graph: b.finish(), parts: Vec::new(), held: Vec::new() }, name));
    }
    let mut terms = Terms::default();
    cross_entropy(&mut b, &name, options.class_mask)?;
    terms.keep_past(&mut b, &name, options)?;
    Ok((terms.sum(b)?, name))
}

/// A dual-head network with `loss.cl` alone, and no outputs.
pub(crate) fn cl_alone(model: &DualHead, class_mask: bool) -> Result<Graph, ModelError> {
    let mut b = without_outputs(model.graph())?;
    let shape = b.shape(CL_LOGITS)?.clone();
    b.input("labels", DataType::F32, shape)?;
    cross_entropy(&mut b, CL_LOGITS, class_mask)?;
    Ok(b.finish())
}

fn without_outputs(graph: &Graph) -> Result<Builder, ModelError> {
    Ok(Builder::from_graph(Graph { outputs: Vec::new(), ..graph.clone() })?)
}

/// Appends `loss.cl`, the cross-entropy of `logits` with the input `labels`, of those classes in `class_mask` if
/// there is one.
fn cross_entropy(b: &mut Builder, logits: &str, class_mask: bool) -> Result<(), ModelError> {
    b.set_scope("loss.cl");
    let masked = if class_mask {
        let shape = b.shape(logits)?.clone();
        b.input("class_mask", DataType::F32, shape)?;
        Some(loss::masked(b, logits, "class_mask")?)
    } else {
        None
    };
    let cl = loss::cross_entropy(b, masked.as_deref().unwrap_or(logits), "labels")?;
    b.op_named("Identity", &[&cl], &[], "loss.cl")?;
    Ok(())
}

/// What is added to `loss.cl`.
#[derive(Default)]
struct Terms {
    /// (value, the input that weighs it)
    weighed: Vec<(&'static str, &'static str)>,
    held: Vec<String>,
}

impl Terms {
    /// Appends `loss.retention` and `loss.penalty`, as far as the options ask for them, and their inputs.
    fn keep_past(&mut self, b: &mut Builder, logits: &str, options: &StepOptions) -> Result<(), ModelError> {
        if let Some(retention) = options.retention {
            b.set_scope("loss.retention");
            let value = retain(b, logits, retention)?;
            b.op_named("Identity", &[&value], &[], "loss.retention")?;
            b.input("retention_weight", DataType::F32, Vec::new())?;
            self.weighed.push(("loss.retention", "retention_weight"));
        }
        if options.penalty {
            b.set_scope("loss.penalty");
            let anchored = anchored(b, options)?;
            let value = loss::quadratic_penalty(b, &anchored)?;
            b.op_named("Identity", &[&value], &[], "loss.penalty")?;
            b.input("penalty_weight", DataType::F32, Vec::new())?;
            self.weighed.push(("loss.penalty", "penalty_weight"));
            self.held = anchored.into_iter().flat_map(|a| [a.importance, a.anchor]).collect();
        }
        Ok(())
    }

    /// Appends `loss`: `loss.cl` and all that is weighed.
    fn sum(self, mut b: Builder) -> Result<WithLoss, ModelError> {
        b.set_scope("loss");
        let mut sum = "loss.cl".to_owned();
        for (i, (value, weight)) in self.weighed.iter().enumerate() {
            let weighed = b.op("Mul", &[value, weight], &[])?;
            let is_last = i + 1 == self.weighed.len();
            sum = if is_last {
                b.op_named("Add", &[&sum, &weighed], &[], "loss")?
            } else {
                b.op("Add", &[&sum, &weighed], &[])?
            };
        }
        if self.weighed.is_empty() {
            b.op_named("Identity", &[&sum], &[], "loss")?;
        }
        let parts = ["loss.cl"].into_iter().chain(self.weighed.iter().map(|(value, _)| *value)).collect();
        Ok(WithLoss { graph: b.finish(), parts, held: self.held })
    }
}

/// The term that keeps `logits` near `past_logits`.
fn retain(b: &mut Builder, logits: &str, retention: Retention) -> Result<String, ModelError> {
    let shape = b.shape(logits)?.clone();
    b.input("past_weight", DataType::F32, vec![shape[0].clone()])?;
    b.input("past_logits", DataType::F32, shape.clone())?;
    Ok(match retention {
        Retention::Logits => loss::mse(b, logits, "past_logits", "past_weight")?,
        Retention::Distill => {
            b.input("past_groups", DataType::F32, vec!["past_groups".into(), shape[1].clone()])?;
            b.input("retention_temperature", DataType::F32, Vec::new())?;
            let (past, weight, groups) = ("past_logits", "past_weight", "past_groups");
            loss::kl_within_groups(b, logits, past, weight, groups, "retention_temperature")?
        }
    })
}

/// Importance and anchor, zeros at first, of every trained parameter on which `loss.cl` depends: those of the student
/// head have no influence on what the CL head predicts.
fn anchored(b: &mut Builder, options: &StepOptions) -> Result<Vec<Anchored>, ModelError> {
    let mut anchored = Vec::new();
    for parameter in options.trained(trainable(b.graph(), "loss.cl")?) {
        let zeros = b.graph().initializers.get(&parameter).map(|t| Tensor::zeros(t.dtype, &t.dims));
        let Some(zeros) = zeros else { continue };
        let importance = b.initializer(&format!("{parameter}.importance"), zeros.clone())?;
        let anchor = b.initializer(&format!("{parameter}.anchor"), zeros)?;
        anchored.push(Anchored { parameter, importance, anchor });
    }
    Ok(anchored)
}
