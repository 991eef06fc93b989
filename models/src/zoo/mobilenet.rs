//! MobileNetV2 (Sandler et al. 2018, table 2) for small images: the stem and the first two stages that halve the
//! image keep its size.

use onnx_grad::GradError;

use super::layers::Layers;

/// (expansion, width, blocks, stride of the first block) of each stage.
const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];
const STEM: usize = 32;
const FEATURES: usize = 1280;

pub(super) fn v2(l: &mut Layers, x: &str, channels: usize) -> Result<(String, usize), GradError> {
    let mut x = l.conv_bn(x, ("features.0.0", "features.0.1"), (channels, STEM), 3, 1)?;
    x = l.relu6(&x)?;
    let mut inputs = STEM;
    let mut block = 1;
    for (expansion, width, n_blocks, first_stride) in STAGES {
        for i in 0..n_blocks {
            let stride = if i == 0 { first_stride } else { 1 };
            x = inverted_residual(l, &x, &format!("features.{block}"), (inputs, width), expansion, stride)?;
            inputs = width;
            block += 1;
        }
    }
    let (conv, bn) = (format!("features.{block}.0"), format!("features.{block}.1"));
    x = l.conv_bn(&x, (&conv, &bn), (inputs, FEATURES), 1, 1)?;
    x = l.relu6(&x)?;
    Ok((l.global_average(&x)?, FEATURES))
}

/// Widens, filters every channel on its own, narrows again without an activation.
fn inverted_residual(
    l: &mut Layers,
    x: &str,
    name: &str,
    (inputs, outputs): (usize, usize),
    expansion: usize,
    stride: usize,
) -> Result<String, GradError> {
    let hidden = inputs * expansion;
    let mut layer = 0;
    let mut names = || {
        layer += 1;
        (format!("{name}.conv.{layer}"), format!("{name}.bn.{layer}"))
    };
    let mut y = x.to_owned();
    if expansion > 1 {
        let (conv, bn) = names();
        y = l.conv_bn(&y, (&conv, &bn), (inputs, hidden), 1, 1)?;
        y = l.relu6(&y)?;
    }
    let (conv, bn) = names();
    y = l.depthwise_conv_bn(&y, (&conv, &bn), hidden, stride)?;
    y = l.relu6(&y)?;
    let (conv, bn) = names();
    y = l.conv_bn(&y, (&conv, &bn), (hidden, outputs), 1, 1)?;
    if stride == 1 && inputs == outputs { l.add(x, &y) } else { Ok(y) }
}
