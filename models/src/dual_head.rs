//! A forward graph that is known to be a dual-head network.

use onnx_grad::graph::{DataType, Dim, Graph, Shape, ValueInfo};

use crate::error::ModelError;

/// Output of the continual-learning head: raw logits `[batch, classes]`.
pub const CL_LOGITS: &str = "cl_logits";
/// Output of the student head: raw logits `[batch, classes]`.
pub const ST_LOGITS: &str = "st_logits";

/// A checked dual-head network.
#[derive(Clone, Debug, PartialEq)]
pub struct DualHead {
    graph: Graph,
    input_dims: [usize; 3],
    n_classes: usize,
}

impl DualHead {
    /// # Errors
    /// [`ModelError::Input`] and [`ModelError::Outputs`] with what was found instead; [`ModelError::TrainingGraph`].
    pub fn from_graph(graph: Graph) -> Result<Self, ModelError> {
        if graph.metadata.contains_key(onnx_grad::CONTRACT_KEY) {
            return Err(ModelError::TrainingGraph);
        }
        let input_dims = image_input(&graph)?;
        let refused =
            || ModelError::Outputs { found: graph.outputs.iter().map(show).collect::<Vec<_>>().join(", ") };
        let classes = |name: &str| {
            let output = graph.outputs.iter().find(|o| o.name == name)?;
            match output.shape.as_slice() {
                [_, Dim::Size(n)] if output.dtype == DataType::F32 && *n > 0 => Some(*n),
                _ => None,
            }
        };
        let n_classes = classes(CL_LOGITS).filter(|n| classes(ST_LOGITS) == Some(*n)).ok_or_else(refused)?;
        Ok(DualHead { graph, input_dims, n_classes })
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Name of the image input.
    pub fn input_name(&self) -> &str {
        &self.graph.inputs[0].name
    }

    /// C, H, W.
    pub fn input_dims(&self) -> [usize; 3] {
        self.input_dims
    }

    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// Number of trainable values.
    pub fn n_parameters(&self) -> usize {
        n_parameters(&self.graph)
    }
}

/// Number of values in the tensors that training would change.
pub(crate) fn n_parameters(graph: &Graph) -> usize {
    let mut names: Vec<String> =
        graph.outputs.iter().filter_map(|o| onnx_grad::trainable(graph, &o.name).ok()).flatten().collect();
    names.sort_unstable();
    names.dedup();
    names.iter().filter_map(|name| graph.initializers.get(name)).map(|t| t.n_elements()).sum()
}

/// C, H, W of a graph's only input.
pub(crate) fn image_input(graph: &Graph) -> Result<[usize; 3], ModelError> {
    if let [input] = graph.inputs.as_slice()
        && let [Dim::Symbol(_), Dim::Size(c), Dim::Size(h), Dim::Size(w)] = input.shape.as_slice()
        && input.dtype == DataType::F32
    {
        return Ok([*c, *h, *w]);
    }
    let found = graph.inputs.iter().map(show).collect::<Vec<_>>().join(", ");
    Err(ModelError::Input { found: if found.is_empty() { "none".to_owned() } else { found } })
}

/// `name float32 [batch, 10]`.
pub(crate) fn show(info: &ValueInfo) -> String {
    format!("`{}` {} {}", info.name, info.dtype, show_shape(&info.shape))
}

pub(crate) fn show_shape(shape: &Shape) -> String {
    format!("[{}]", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}
