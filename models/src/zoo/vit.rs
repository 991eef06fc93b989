//! A vision transformer for small images (Dosovitskiy et al. 2021): pre-norm encoder layers over patches, learned
//! positions, the mean over all tokens instead of a class token (Beyer et al. 2022).

use onnx_grad::GradError;
use onnx_grad::graph::{DataType, Dim, Tensor};

use super::layers::Layers;
use crate::init;

/// Spread of positions and weights, as in the reference implementations.
const STD: f64 = 0.02;

struct Vit {
    patch: usize,
    width: usize,
    layers: usize,
    heads: usize,
    /// Hidden units of a layer's perceptron.
    hidden: usize,
}

pub(super) fn lite(l: &mut Layers, x: &str, channels: usize) -> Result<(String, usize), GradError> {
    Vit { patch: 4, width: 256, layers: 6, heads: 4, hidden: 512 }.backbone(l, x, channels)
}

impl Vit {
    /// Tokens stand in the rows of one matrix `[batch * tokens, width]` but for attention.
    fn backbone(&self, l: &mut Layers, x: &str, channels: usize) -> Result<(String, usize), GradError> {
        let patch = self.patch as i64;
        let weight = "patch_embed.weight";
        let dims = [self.width, channels, self.patch, self.patch];
        let fan_in = channels * self.patch * self.patch;
        l.b.initializer(weight, init::linear(l.seed, weight, &dims, fan_in))?;
        let bias = l.b.initializer("patch_embed.bias", Tensor::zeros(DataType::F32, &[self.width]))?;
        let attributes =
            [("kernel_shape", vec![patch, patch].into()), ("strides", vec![patch, patch].into())];
        let patches = l.b.op_named("Conv", &[x, weight, &bias], &attributes, "patch_embed.out")?;
        let space = l.b.shape(&patches)?[2..].iter().map(Dim::size).collect::<Option<Vec<_>>>();
        let n_tokens = space.unwrap_or_default().iter().product();
        let tokens = reshape(l, &patches, &[0, self.width as i64, n_tokens as i64])?;
        let tokens = l.b.op("Transpose", &[&tokens], &[("perm", vec![0, 2, 1].into())])?;
        let positions = init::normal(l.seed, "pos_embed", &[n_tokens, self.width], STD);
        l.b.initializer("pos_embed", positions)?;
        let tokens = l.add(&tokens, "pos_embed")?;
        let mut x = reshape(l, &tokens, &[-1, self.width as i64])?;
        for i in 0..self.layers {
            let name = format!("blocks.{i}");
            let y = self.norm(l, &x, &format!("{name}.norm1"))?;
            let y = self.attention(l, &y, &format!("{name}.attn"), n_tokens)?;
            x = l.add(&x, &y)?;
            let y = self.norm(l, &x, &format!("{name}.norm2"))?;
            let y = linear(l, &y, &format!("{name}.mlp.fc1"), (self.width, self.hidden))?;
            let y = gelu(l, &y)?;
            let y = linear(l, &y, &format!("{name}.mlp.fc2"), (self.hidden, self.width))?;
            x = l.add(&x, &y)?;
        }
        let x = self.norm(l, &x, "norm")?;
        let tokens = reshape(l, &x, &[-1, n_tokens as i64, self.width as i64])?;
        let attributes = [("axes", vec![1_i64].into()), ("keepdims", 0_i64.into())];
        let features = l.b.op_named("ReduceMean", &[&tokens], &attributes, "features")?;
        Ok((features, self.width))
    }

    fn norm(&self, l: &mut Layers, x: &str, name: &str) -> Result<String, GradError> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        l.b.initializer(&weight, Tensor::from_f32(&[self.width], &vec![1.0; self.width]))?;
        l.b.initializer(&bias, Tensor::zeros(DataType::F32, &[self.width]))?;
        let epsilon = [("epsilon", 1e-6_f32.into())];
        l.b.op_named("LayerNormalization", &[x, &weight, &bias], &epsilon, &format!("{name}.out"))
    }

    /// softmax(Q Kᵀ / sqrt d) V in every head, then a linear layer over the heads' outputs.
    fn attention(&self, l: &mut Layers, x: &str, name: &str, n_tokens: usize) -> Result<String, GradError> {
        let (tokens, heads, size) = (n_tokens as i64, self.heads as i64, (self.width / self.heads) as i64);
        let qkv = linear(l, x, &format!("{name}.qkv"), (self.width, 3 * self.width))?;
        let qkv = reshape(l, &qkv, &[-1, tokens, 3 * heads, size])?;
        let qkv = l.b.op("Transpose", &[&qkv], &[("perm", vec![0, 2, 1, 3].into())])?;
        let parts = ["q", "k", "v"].map(|part| format!("{name}.{part}"));
        let parts = parts.each_ref().map(String::as_str);
        let sizes = l.b.ints(&[heads; 3])?;
        l.b.op_multi("Split", &[&qkv, &sizes], &[("axis", 1_i64.into())], &parts)?;
        let [q, k, v] = parts;
        let scale = l.b.scalar(DataType::F32, 1.0 / (size as f64).sqrt())?;
        let q = l.b.op("Mul", &[q, &scale], &[])?;
        let k = l.b.op("Transpose", &[k], &[("perm", vec![0, 1, 3, 2].into())])?;
        let scores = l.b.op("MatMul", &[&q, &k], &[])?;
        let weights = l.b.op("Softmax", &[&scores], &[("axis", (-1_i64).into())])?;
        let mixed = l.b.op("MatMul", &[&weights, v], &[])?;
        let mixed = l.b.op("Transpose", &[&mixed], &[("perm", vec![0, 2, 1, 3].into())])?;
        let mixed = reshape(l, &mixed, &[-1, self.width as i64])?;
        linear(l, &mixed, &format!("{name}.proj"), (self.width, self.width))
    }
}

/// `<name>.weight` `[outputs, inputs]` and `<name>.bias`.
fn linear(
    l: &mut Layers,
    x: &str,
    name: &str,
    (inputs, outputs): (usize, usize),
) -> Result<String, GradError> {
    let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
    l.b.initializer(&weight, init::normal(l.seed, &weight, &[outputs, inputs], STD))?;
    l.b.initializer(&bias, Tensor::zeros(DataType::F32, &[outputs]))?;
    l.b.op_named("Gemm", &[x, &weight, &bias], &[("transB", 1_i64.into())], &format!("{name}.out"))
}

/// x * (1 + erf(x / sqrt 2)) / 2 (Hendrycks and Gimpel 2016), in operators of opset 17.
fn gelu(l: &mut Layers, x: &str) -> Result<String, GradError> {
    let root = l.b.scalar(DataType::F32, std::f64::consts::SQRT_2)?;
    let (one, half) = (l.b.scalar(DataType::F32, 1.0)?, l.b.scalar(DataType::F32, 0.5)?);
    let scaled = l.b.op("Div", &[x, &root], &[])?;
    let erf = l.b.op("Erf", &[&scaled], &[])?;
    let gate = l.b.op("Add", &[&erf, &one], &[])?;
    let gated = l.b.op("Mul", &[x, &gate], &[])?;
    l.b.op("Mul", &[&gated, &half], &[])
}

fn reshape(l: &mut Layers, x: &str, dims: &[i64]) -> Result<String, GradError> {
    let shape = l.b.ints(dims)?;
    l.b.op("Reshape", &[x, &shape], &[])
}
