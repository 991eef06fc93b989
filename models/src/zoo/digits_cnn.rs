//! A small network for 8x8 images.

use onnx_grad::GradError;

use super::layers::Layers;

/// Three convolutions, 16, 32 and 64 wide, the last two halving the image.
pub(super) fn backbone(l: &mut Layers, x: &str, channels: usize) -> Result<(String, usize), GradError> {
    let widths = [(channels, 16, 1), (16, 32, 2), (32, 64, 2)];
    let mut x = x.to_owned();
    for (i, (inputs, outputs, stride)) in (1..).zip(widths) {
        let names = (format!("conv{i}"), format!("bn{i}"));
        x = l.conv_bn(&x, (&names.0, &names.1), (inputs, outputs), 3, stride)?;
        x = l.relu(&x)?;
    }
    Ok((l.global_average(&x)?, 64))
}
