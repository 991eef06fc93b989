//! Layers as PyTorch names and initialises them.

use onnx_grad::graph::{DataType, Graph, Tensor};
use onnx_grad::{Builder, GradError};

use super::BuildOptions;
use crate::dual_head::{CL_LOGITS, ST_LOGITS};
use crate::error::ModelError;
use crate::init;

/// The opset of every network of the zoo: old enough for ONNX Runtime 1.17 and for tract.
const OPSET: u32 = 17;

pub(super) struct Layers {
    pub b: Builder,
    pub seed: u64,
}

impl Layers {
    pub fn new(name: &str, options: &BuildOptions) -> Result<Self, GradError> {
        let mut b = Builder::new(name, OPSET);
        let [c, h, w] = options.input;
        b.input("input", DataType::F32, vec!["batch".into(), c.into(), h.into(), w.into()])?;
        Ok(Layers { b, seed: options.seed })
    }

    /// Convolution without bias, padded by half the kernel, then batch normalisation: `<name>.weight` and
    /// `<bn>.weight`, `.bias`, `.running_mean`, `.running_var`.
    pub fn conv_bn(
        &mut self,
        x: &str,
        names: (&str, &str),
        channels: (usize, usize),
        kernel: usize,
        stride: usize,
    ) -> Result<String, GradError> {
        self.grouped_conv_bn(x, names, channels, kernel, stride, 1)
    }

    /// As [`Layers::conv_bn`], every channel on its own.
    pub fn depthwise_conv_bn(
        &mut self,
        x: &str,
        names: (&str, &str),
        channels: usize,
        stride: usize,
    ) -> Result<String, GradError> {
        self.grouped_conv_bn(x, names, (channels, channels), 3, stride, channels)
    }

    fn grouped_conv_bn(
        &mut self,
        x: &str,
        (name, bn): (&str, &str),
        (inputs, outputs): (usize, usize),
        kernel: usize,
        stride: usize,
        groups: usize,
    ) -> Result<String, GradError> {
        let weight = format!("{name}.weight");
        let tensor =
            init::kaiming_fan_out(self.seed, &weight, [outputs, inputs / groups, kernel, kernel], groups);
        self.b.initializer(&weight, tensor)?;
        let (k, s, p) = (kernel as i64, stride as i64, (kernel / 2) as i64);
        let mut attributes = vec![
            ("kernel_shape", vec![k, k].into()),
            ("pads", vec![p; 4].into()),
            ("strides", vec![s, s].into()),
        ];
        if groups > 1 {
            attributes.push(("group", (groups as i64).into()));
        }
        let y = self.b.op_named("Conv", &[x, &weight], &attributes, &format!("{name}.out"))?;
        let mut inputs = vec![y];
        for (field, value) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            let tensor = Tensor::from_f32(&[outputs], &vec![value; outputs]);
            inputs.push(self.b.initializer(&format!("{bn}.{field}"), tensor)?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        // ONNX's momentum weighs the old value, PyTorch's the new one: 0.1 there.
        let attributes = [("epsilon", 1e-5.into()), ("momentum", 0.9.into())];
        self.b.op_named("BatchNormalization", &inputs, &attributes, &format!("{bn}.out"))
    }

    pub fn relu(&mut self, x: &str) -> Result<String, GradError> {
        self.b.op("Relu", &[x], &[])
    }

    /// min(max(x, 0), 6)
    pub fn relu6(&mut self, x: &str) -> Result<String, GradError> {
        let (low, high) = (self.b.scalar(DataType::F32, 0.0)?, self.b.scalar(DataType::F32, 6.0)?);
        self.b.op("Clip", &[x, &low, &high], &[])
    }

    pub fn add(&mut self, x: &str, y: &str) -> Result<String, GradError> {
        self.b.op("Add", &[x, y], &[])
    }

    /// Mean over height and width: `[batch, C, H, W]` to `[batch, C]`.
    pub fn global_average(&mut self, x: &str) -> Result<String, GradError> {
        let pooled = self.b.op("GlobalAveragePool", &[x], &[])?;
        self.b.op_named("Flatten", &[&pooled], &[("axis", 1_i64.into())], "features")
    }

    /// Ends the network with both heads.
    pub fn heads(mut self, features: &str, n_features: usize, classes: usize) -> Result<Graph, ModelError> {
        append_heads(&mut self.b, self.seed, features, n_features, classes)?;
        Ok(self.b.finish())
    }
}

/// Appends both linear heads and declares their outputs. A head that is there as `<name>.weight` is used.
pub(crate) fn append_heads(
    b: &mut Builder,
    seed: u64,
    features: &str,
    n_features: usize,
    classes: usize,
) -> Result<(), GradError> {
    for (head, output) in [("cl_head", CL_LOGITS), ("student_head", ST_LOGITS)] {
        let (weight, bias) = (format!("{head}.weight"), format!("{head}.bias"));
        if b.constant_content(&weight).is_none() {
            b.initializer(&weight, init::linear(seed, &weight, &[classes, n_features], n_features))?;
            b.initializer(&bias, init::linear(seed, &bias, &[classes], n_features))?;
        }
        b.op_named("Gemm", &[features, &weight, &bias], &[("transB", 1_i64.into())], output)?;
        b.output(output)?;
    }
    Ok(())
}
