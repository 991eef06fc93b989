//! What can be wrong with a network.

use onnx_grad::GradError;
use onnx_grad::graph::DataType;

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("the zoo has no network `{name}`; it has {known}")]
    UnknownNetwork { name: String, known: String },
    #[error("network `{network}` takes inputs of at least {expected:?}, found {found:?}")]
    InputTooSmall { network: &'static str, expected: [usize; 3], found: [usize; 3] },
    #[error("expected at least one class, found none")]
    NoClasses,
    #[error(
        "expected one image input [batch, C, H, W] of float32 with a free batch size (`dynamic_axes` or `dynamic_shapes` of PyTorch's exporters) and known C, H, W, found {found}"
    )]
    Input { found: String },
    #[error(
        "expected outputs `cl_logits` and `st_logits` of float32 [batch, classes], found {found}; attach heads with `dkt model attach-heads`"
    )]
    Outputs { found: String },
    #[error("this is a training step; give the forward file that it was derived from")]
    TrainingGraph,
    #[error("cannot attach heads: expected a classifier that ends in a linear layer, found {found}")]
    NoClassifier { found: String },
    #[error(
        "cannot put out features: expected `cl_logits` from a linear layer on [batch, features], found {found}"
    )]
    NoFeatures { found: String },
    #[error("the network has two heads already")]
    AlreadyDualHead,
    #[error("no trainable parameter matches `{pattern}`; `dkt model inspect --parameters` lists them")]
    NoSuchParameter { pattern: String },
    #[error(
        "expected {} of float32 [batch, classes] among the outputs, found {found}; export the network in float32 (mixed precision is a choice of training)",
        .name.as_ref().map_or_else(|| "logits".to_owned(), |name| format!("`{name}`"))
    )]
    Logits { name: Option<String>, found: String },
    #[error(
        "no initialiser of floating numbers with a dimension reaches the loss; there is nothing to train"
    )]
    NothingToTrain,
    #[error("expected known sizes except for the batch, found {found}; export the network with fixed ones")]
    FreeDimension { found: String },
    #[error("input `{name}`: expected float32, integers or booleans, found {found}")]
    InputType { name: String, found: DataType },
    #[error("cross-entropy needs at least 2 classes, found {found}; give a binary classifier two logits")]
    OneClass { found: String },
    #[error("the state lacks tensor `{name}`")]
    MissingState { name: String },
    #[error(transparent)]
    Graph(#[from] GradError),
    #[error(transparent)]
    Read(#[from] onnx_grad::ReadError),
}
