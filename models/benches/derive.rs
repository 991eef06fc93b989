//! Time to derive a training step, for networks of the size that people fine-tune.
//!
//! `cargo bench -p dkt-models --bench derive` prints medians: reading the forward file, deriving, encoding the
//! training graph. The depth is varied too: time must grow as the graph does.

use std::error::Error;
use std::time::Instant;

use dkt_models::step::{StepOptions, derive_classifier};
use onnx_grad::graph::{Attribute, DataType, Graph, Tensor};
use onnx_grad::{Builder, GradError};

const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    println!("network          forward nodes  file MB   read ms  derive ms  encode ms  training nodes");
    for (name, graph) in [
        ("resnet-152", resnet(&[3, 8, 36, 3])?),
        ("resnet, 2x deep", resnet(&[6, 16, 72, 6])?),
        ("resnet, 4x deep", resnet(&[12, 32, 144, 12])?),
        ("vit-b/16", vit(12)?),
        ("vit-b, 2x deep", vit(24)?),
    ] {
        let file = graph.encode();
        let mut times: [Vec<f64>; 3] = Default::default();
        let mut n_training = 0;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let forward = Graph::decode(&file)?;
            times[0].push(milliseconds(began));
            let began = Instant::now();
            let training = derive_classifier(&forward, None, &StepOptions::default())?;
            times[1].push(milliseconds(began));
            let began = Instant::now();
            drop(training.graph.encode());
            times[2].push(milliseconds(began));
            n_training = training.graph.nodes.len();
        }
        let [read, derive, encode] = times.map(median);
        println!(
            "{name:<16} {:>13} {:>8.1} {read:>9.1} {derive:>10.1} {encode:>10.1} {n_training:>15}",
            graph.nodes.len(),
            file.len() as f64 / 1e6
        );
    }
    Ok(())
}

fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A graph under construction, with parameters of no interesting value.
struct Net {
    b: Builder,
    n_parameters: usize,
}

impl Net {
    fn new(name: &str) -> Result<Self, GradError> {
        let mut b = Builder::new(name, 17);
        b.input("x", DataType::F32, vec!["batch".into(), 3.into(), 224.into(), 224.into()])?;
        Ok(Net { b, n_parameters: 0 })
    }

    fn parameter(&mut self, dims: &[usize]) -> Result<String, GradError> {
        self.n_parameters += 1;
        self.b.initializer(&format!("parameter_{}", self.n_parameters), Tensor::zeros(DataType::F32, dims))
    }

    fn op(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> Result<String, GradError> {
        self.b.op(op, inputs, attributes)
    }

    fn conv_bn(
        &mut self,
        x: &str,
        (inputs, outputs): (usize, usize),
        kernel: usize,
        stride: usize,
    ) -> Result<String, GradError> {
        let weight = self.parameter(&[outputs, inputs, kernel, kernel])?;
        let (k, s, p) = (kernel as i64, stride as i64, (kernel / 2) as i64);
        let attributes = [
            ("kernel_shape", vec![k, k].into()),
            ("strides", vec![s, s].into()),
            ("pads", vec![p; 4].into()),
        ];
        let y = self.op("Conv", &[x, &weight], &attributes)?;
        let [scale, bias, mean, var] = [(); 4].map(|()| self.parameter(&[outputs]));
        self.op("BatchNormalization", &[&y, &scale?, &bias?, &mean?, &var?], &[])
    }

    fn reshape(&mut self, x: &str, dims: &[i64]) -> Result<String, GradError> {
        let shape = self.b.ints(dims)?;
        self.op("Reshape", &[x, &shape], &[])
    }

    fn norm(&mut self, x: &str, width: usize) -> Result<String, GradError> {
        let (scale, bias) = (self.parameter(&[width])?, self.parameter(&[width])?);
        self.op("LayerNormalization", &[x, &scale, &bias], &[])
    }

    /// As PyTorch's exporters write `Linear` over tokens.
    fn linear(&mut self, x: &str, inputs: usize, outputs: usize) -> Result<String, GradError> {
        let (weight, bias) = (self.parameter(&[inputs, outputs])?, self.parameter(&[outputs])?);
        let product = self.op("MatMul", &[x, &weight], &[])?;
        self.op("Add", &[&product, &bias], &[])
    }

    /// As exporters write it below opset 20.
    fn gelu(&mut self, x: &str) -> Result<String, GradError> {
        let root = self.b.scalar(DataType::F32, std::f64::consts::SQRT_2)?;
        let (one, half) = (self.b.scalar(DataType::F32, 1.0)?, self.b.scalar(DataType::F32, 0.5)?);
        let erf = self.op("Div", &[x, &root], &[])?;
        let erf = self.op("Erf", &[&erf], &[])?;
        let gate = self.op("Add", &[&erf, &one], &[])?;
        let gated = self.op("Mul", &[x, &gate], &[])?;
        self.op("Mul", &[&gated, &half], &[])
    }

    fn finish(mut self, features: &str, width: usize) -> Result<Graph, GradError> {
        let (weight, bias) = (self.parameter(&[1000, width])?, self.parameter(&[1000])?);
        let logits = self.op("Gemm", &[features, &weight, &bias], &[("transB", 1_i64.into())])?;
        self.b.output(&logits)?;
        Ok(self.b.finish())
    }
}

/// Bottleneck ResNet (He et al. 2016, table 1) with so many blocks a stage; 152 layers are 3, 8, 36, 3.
fn resnet(blocks: &[usize; 4]) -> Result<Graph, GradError> {
    let mut net = Net::new("resnet")?;
    let x = net.conv_bn("x", (3, 64), 7, 2)?;
    let x = net.op("Relu", &[&x], &[])?;
    let pool = [
        ("kernel_shape", vec![3_i64, 3].into()),
        ("strides", vec![2_i64, 2].into()),
        ("pads", vec![1_i64; 4].into()),
    ];
    let mut x = net.op("MaxPool", &[&x], &pool)?;
    let mut inputs = 64;
    for (stage, &n_blocks) in blocks.iter().enumerate() {
        let width = 64 << stage;
        for block in 0..n_blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let y = net.conv_bn(&x, (inputs, width), 1, 1)?;
            let y = net.op("Relu", &[&y], &[])?;
            let y = net.conv_bn(&y, (width, width), 3, stride)?;
            let y = net.op("Relu", &[&y], &[])?;
            let y = net.conv_bn(&y, (width, 4 * width), 1, 1)?;
            let shortcut = if block == 0 { net.conv_bn(&x, (inputs, 4 * width), 1, stride)? } else { x };
            let sum = net.op("Add", &[&y, &shortcut], &[])?;
            x = net.op("Relu", &[&sum], &[])?;
            inputs = 4 * width;
        }
    }
    let pooled = net.op("GlobalAveragePool", &[&x], &[])?;
    let features = net.op("Flatten", &[&pooled], &[])?;
    net.finish(&features, inputs)
}

/// ViT-B/16 (Dosovitskiy et al. 2021, table 1) has 12 layers of width 768; without its class token.
fn vit(layers: usize) -> Result<Graph, GradError> {
    const WIDTH: usize = 768;
    const HEADS: usize = 12;
    const TOKENS: usize = 196;
    let mut net = Net::new("vit")?;
    let (weight, bias) = (net.parameter(&[WIDTH, 3, 16, 16])?, net.parameter(&[WIDTH])?);
    let patch = [("kernel_shape", vec![16_i64, 16].into()), ("strides", vec![16_i64, 16].into())];
    let x = net.op("Conv", &["x", &weight, &bias], &patch)?;
    let x = net.reshape(&x, &[0, WIDTH as i64, TOKENS as i64])?;
    let x = net.op("Transpose", &[&x], &[("perm", vec![0_i64, 2, 1].into())])?;
    let positions = net.parameter(&[1, TOKENS, WIDTH])?;
    let mut x = net.op("Add", &[&x, &positions], &[])?;
    for _ in 0..layers {
        let y = net.norm(&x, WIDTH)?;
        let mut heads = Vec::new();
        for perm in [[0_i64, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]] {
            let part = net.linear(&y, WIDTH, WIDTH)?;
            let part = net.reshape(&part, &[0, TOKENS as i64, HEADS as i64, (WIDTH / HEADS) as i64])?;
            heads.push(net.op("Transpose", &[&part], &[("perm", perm.to_vec().into())])?);
        }
        let scores = net.op("MatMul", &[&heads[0], &heads[1]], &[])?;
        let scale = net.b.scalar(DataType::F32, 0.125)?;
        let scores = net.op("Mul", &[&scores, &scale], &[])?;
        let weights = net.op("Softmax", &[&scores], &[("axis", (-1_i64).into())])?;
        let mixed = net.op("MatMul", &[&weights, &heads[2]], &[])?;
        let mixed = net.op("Transpose", &[&mixed], &[("perm", vec![0_i64, 2, 1, 3].into())])?;
        let mixed = net.reshape(&mixed, &[0, TOKENS as i64, WIDTH as i64])?;
        let y = net.linear(&mixed, WIDTH, WIDTH)?;
        x = net.op("Add", &[&x, &y], &[])?;
        let y = net.norm(&x, WIDTH)?;
        let y = net.linear(&y, WIDTH, 4 * WIDTH)?;
        let y = net.gelu(&y)?;
        let y = net.linear(&y, 4 * WIDTH, WIDTH)?;
        x = net.op("Add", &[&x, &y], &[])?;
    }
    let x = net.norm(&x, WIDTH)?;
    let mean = [("axes", vec![1_i64].into()), ("keepdims", 0_i64.into())];
    let features = net.op("ReduceMean", &[&x], &mean)?;
    net.finish(&features, WIDTH)
}
