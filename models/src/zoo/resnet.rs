//! Residual networks for small images (He et al. 2016): a 3x3 stem without pooling, stages of basic blocks, mean
//! over what is left of the image. Where a block changes size its shortcut is a 1x1 convolution.

use onnx_grad::GradError;

use super::layers::Layers;

/// (width, blocks) of each stage; every stage but the first halves the image.
type Stages = [(usize, usize)];

type Features = Result<(String, usize), GradError>;

/// Slim ResNet18 of Gradient Episodic Memory: 20 instead of 64 channels.
pub(super) fn slim18(l: &mut Layers, x: &str, channels: usize) -> Features {
    resnet(l, x, channels, &[(20, 2), (40, 2), (80, 2), (160, 2)])
}

pub(super) fn resnet18(l: &mut Layers, x: &str, channels: usize) -> Features {
    resnet(l, x, channels, &[(64, 2), (128, 2), (256, 2), (512, 2)])
}

pub(super) fn resnet32(l: &mut Layers, x: &str, channels: usize) -> Features {
    resnet(l, x, channels, &[(16, 5), (32, 5), (64, 5)])
}

pub(super) fn resnet34(l: &mut Layers, x: &str, channels: usize) -> Features {
    resnet(l, x, channels, &[(64, 3), (128, 4), (256, 6), (512, 3)])
}

fn resnet(l: &mut Layers, x: &str, channels: usize, stages: &Stages) -> Features {
    let mut inputs = stages[0].0;
    let mut x = l.conv_bn(x, ("conv1", "bn1"), (channels, inputs), 3, 1)?;
    x = l.relu(&x)?;
    for (stage, &(width, n_blocks)) in (1..).zip(stages) {
        for block in 0..n_blocks {
            let stride = if stage > 1 && block == 0 { 2 } else { 1 };
            x = basic_block(l, &x, &format!("layer{stage}.{block}"), (inputs, width), stride)?;
            inputs = width;
        }
    }
    Ok((l.global_average(&x)?, inputs))
}

fn basic_block(
    l: &mut Layers,
    x: &str,
    name: &str,
    (inputs, width): (usize, usize),
    stride: usize,
) -> Result<String, GradError> {
    let names = |i: usize| (format!("{name}.conv{i}"), format!("{name}.bn{i}"));
    let (conv, bn) = names(1);
    let y = l.conv_bn(x, (&conv, &bn), (inputs, width), 3, stride)?;
    let y = l.relu(&y)?;
    let (conv, bn) = names(2);
    let y = l.conv_bn(&y, (&conv, &bn), (width, width), 3, 1)?;
    let shortcut = if stride != 1 || inputs != width {
        let (conv, bn) = (format!("{name}.shortcut.0"), format!("{name}.shortcut.1"));
        l.conv_bn(x, (&conv, &bn), (inputs, width), 1, stride)?
    } else {
        x.to_owned()
    };
    let sum = l.add(&y, &shortcut)?;
    l.relu(&sum)
}
