//! The zoo: networks as a table, built with weights that a seed determines.

mod digits_cnn;
mod layers;
mod mobilenet;
mod resnet;
mod vit;

use onnx_grad::graph::Graph;

use self::layers::Layers;
pub(crate) use self::layers::append_heads;
use crate::dual_head::DualHead;
use crate::error::ModelError;

/// What a network is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    pub seed: u64,
    /// Classes of each head.
    pub classes: usize,
    /// C, H, W.
    pub input: [usize; 3],
}

/// Emits a backbone from the named input of so many channels to its features `[batch, features]`; returns their
/// name and number.
type Backbone = fn(&mut Layers, &str, usize) -> Result<(String, usize), onnx_grad::GradError>;

/// Smallest height and width: after three halvings something is left.
const MIN_SIZE: usize = 8;

/// One line of the table.
pub struct Network {
    pub name: &'static str,
    pub description: &'static str,
    /// Default input C, H, W.
    pub input: [usize; 3],
    /// Default number of classes.
    pub classes: usize,
    backbone: Backbone,
}

impl Network {
    /// Number of trainable values at the default input and classes.
    ///
    /// # Errors
    /// None in practice: every network of the table builds.
    pub fn n_parameters(&self) -> Result<usize, ModelError> {
        let options = BuildOptions { seed: 0, classes: self.classes, input: self.input };
        Ok(DualHead::from_graph(build(self.name, &options)?)?.n_parameters())
    }
}

static NETWORKS: [Network; 7] = [
    Network {
        name: "digits-cnn",
        description: "three 3x3 convolutions (16, 32, 64) with batch normalisation, for 8x8 digits",
        input: [1, 8, 8],
        classes: 10,
        backbone: digits_cnn::backbone,
    },
    Network {
        name: "slim-resnet18",
        description: "ResNet18 with a third of the width (Lopez-Paz and Ranzato 2017), 160 features",
        input: [3, 32, 32],
        classes: 100,
        backbone: resnet::slim18,
    },
    Network {
        name: "resnet18",
        description: "ResNet18 (He et al. 2016) with a 3x3 stem for small images, 512 features",
        input: [3, 32, 32],
        classes: 100,
        backbone: resnet::resnet18,
    },
    Network {
        name: "resnet32",
        description: "CIFAR ResNet32 (He et al. 2016, section 4.2), 1x1 shortcuts, 64 features",
        input: [3, 32, 32],
        classes: 100,
        backbone: resnet::resnet32,
    },
    Network {
        name: "resnet34",
        description: "ResNet34 (He et al. 2016) with a 3x3 stem for small images, 512 features",
        input: [3, 32, 32],
        classes: 100,
        backbone: resnet::resnet34,
    },
    Network {
        name: "mobilenet-v2",
        description: "MobileNetV2 (Sandler et al. 2018) with three strides less for small images, 1280 features",
        input: [3, 32, 32],
        classes: 100,
        backbone: mobilenet::v2,
    },
    Network {
        name: "vit-lite",
        description: "vision transformer (after ViT-Lite, Hassani et al. 2021): 6 layers, 4 heads, 4x4 patches, 256 features",
        input: [3, 32, 32],
        classes: 100,
        backbone: vit::lite,
    },
];

pub fn list() -> &'static [Network] {
    &NETWORKS
}

/// # Errors
/// [`ModelError::UnknownNetwork`] with the names there are.
pub fn find(name: &str) -> Result<&'static Network, ModelError> {
    NETWORKS.iter().find(|n| n.name == name).ok_or_else(|| ModelError::UnknownNetwork {
        name: name.to_owned(),
        known: NETWORKS.iter().map(|n| n.name).collect::<Vec<_>>().join(", "),
    })
}

/// Builds a dual-head network: input `input` float32 `[batch, C, H, W]`, outputs `cl_logits` and `st_logits`.
///
/// # Errors
/// [`ModelError::UnknownNetwork`], [`ModelError::NoClasses`], [`ModelError::InputTooSmall`].
pub fn build(name: &str, options: &BuildOptions) -> Result<Graph, ModelError> {
    let network = find(name)?;
    let [c, h, w] = options.input;
    if options.classes == 0 {
        return Err(ModelError::NoClasses);
    }
    if c == 0 || h < MIN_SIZE || w < MIN_SIZE {
        let expected = [1, MIN_SIZE, MIN_SIZE];
        return Err(ModelError::InputTooSmall { network: network.name, expected, found: options.input });
    }
    let mut layers = Layers::new(network.name, options)?;
    let (features, n_features) = (network.backbone)(&mut layers, "input", c)?;
    layers.heads(&features, n_features, options.classes)
}
