//! Losses appended to a forward graph: the scalar `loss`, and the inputs that it reads.

use onnx_grad::graph::{DataType, Dim, Graph};
use onnx_grad::{Builder, loss};

use crate::dual_head::{CL_LOGITS, DualHead, ST_LOGITS, show};
use crate::error::ModelError;
use crate::step::Distillation;

/// A dual-head network with `loss.cl`, `loss.st` and `loss`, and no outputs.
pub(crate) fn dual_head(model: &DualHead, distill: Distillation) -> Result<Graph, ModelError> {
    let mut b = Builder::from_graph(Graph { outputs: Vec::new(), ..model.graph().clone() })?;
    let batch = b.shape(CL_LOGITS)?[0].clone();
    append(&mut b, &batch, model.n_classes(), distill)?;
    Ok(b.finish())
}

/// A classifier with `loss`, the cross-entropy of `logits` with the input `labels`, and no outputs; and the
/// name of its logits.
pub(crate) fn classifier(graph: &Graph, logits: Option<&str>) -> Result<(Graph, String), ModelError> {
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
    let mut b = Builder::from_graph(Graph { outputs: Vec::new(), ..graph.clone() })?;
    let shape = b.shape(&logits.name)?.clone();
    b.input("labels", DataType::F32, shape)?;
    b.set_scope("loss");
    let value = loss::cross_entropy(&mut b, &logits.name, "labels")?;
    b.op_named("Identity", &[&value], &[], "loss")?;
    Ok((b.finish(), logits.name.clone()))
}

/// Appends `loss.cl`, `loss.st` and `loss` = `loss.cl` + `distill_weight` * `loss.st`, and their inputs.
fn append(b: &mut Builder, batch: &Dim, n_classes: usize, distill: Distillation) -> Result<(), ModelError> {
    let per_class = vec![batch.clone(), Dim::Size(n_classes)];
    b.input("labels", DataType::F32, per_class.clone())?;
    b.input("teacher_logits", DataType::F32, per_class)?;
    b.input("teacher_weight", DataType::F32, vec![batch.clone()])?;
    b.input("distill_weight", DataType::F32, Vec::new())?;
    b.input("temperature", DataType::F32, Vec::new())?;
    b.set_scope("loss.cl");
    let cl = loss::cross_entropy(b, CL_LOGITS, "labels")?;
    let cl = b.op_named("Identity", &[&cl], &[], "loss.cl")?;
    b.set_scope("loss.st");
    let st = match distill {
        Distillation::Mse => loss::mse(b, ST_LOGITS, "teacher_logits", "teacher_weight")?,
        Distillation::Kl { reduction, scale_t2 } => {
            loss::kl(b, ST_LOGITS, "teacher_logits", "teacher_weight", "temperature", reduction, scale_t2)?
        }
    };
    let st = b.op_named("Identity", &[&st], &[], "loss.st")?;
    b.set_scope("loss");
    let weighed = b.op("Mul", &[&st, "distill_weight"], &[])?;
    b.op_named("Add", &[&cl, &weighed], &[], "loss")?;
    Ok(())
}
