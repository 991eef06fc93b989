//! Initial weights as pure functions of (seed, tensor name, element): the same on every platform.
//!
//! Only integer arithmetic, additions, products and square roots, which IEEE 754 rounds exactly, take part.

use onnx_grad::graph::Tensor;

/// A stream of numbers for one tensor.
pub(crate) struct Source {
    key: u64,
}

impl Source {
    /// FNV-1a (64 bit) over the name, mixed with the seed.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        Source { key: mix(hash ^ mix(seed)) }
    }

    pub(crate) fn at(&self, i: u64) -> u64 {
        mix(self.key.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Uniform in [-1, 1), 24 bits.
    fn uniform(&self, i: u64) -> f64 {
        (self.at(i) >> 40) as f64 / f64::from(1 << 23) - 1.0
    }

    /// Mean 0, variance 1: the sum of twelve 16-bit uniform numbers (Irwin-Hall), which has no tails beyond 6.
    pub(crate) fn normal(&self, i: u64) -> f64 {
        let sum: u64 = (0..3)
            .map(|j| {
                let x = self.at(3 * i + j);
                (x & 0xffff) + ((x >> 16) & 0xffff) + ((x >> 32) & 0xffff) + (x >> 48)
            })
            .sum();
        // Twelve uniform numbers over 0..=65535 have mean 12 * 65535 / 2 and variance 12 * (2^32 - 1) / 12.
        (sum as f64 - 6.0 * 65535.0) / 4_294_967_295.0_f64.sqrt()
    }
}

/// SplitMix64's output function (Steele, Lea and Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Normal with standard deviation sqrt(2 / fan_out) for a convolution `[O, I / groups, kH, kW]` before a ReLU
/// (He et al. 2015, eq. 14).
pub fn kaiming_fan_out(seed: u64, name: &str, dims: [usize; 4], groups: usize) -> Tensor {
    let [outputs, _, height, width] = dims;
    let std = (2.0 / (outputs / groups * height * width) as f64).sqrt();
    let source = Source::new(seed, name);
    fill(&dims, |i| source.normal(i) * std)
}

/// Uniform within 1 / sqrt(fan_in), PyTorch's default for weights and biases of `Linear`.
pub fn linear(seed: u64, name: &str, dims: &[usize], fan_in: usize) -> Tensor {
    let bound = 1.0 / (fan_in as f64).sqrt();
    let source = Source::new(seed, name);
    fill(dims, |i| source.uniform(i) * bound)
}

/// Normal with the given standard deviation.
pub fn normal(seed: u64, name: &str, dims: &[usize], std: f64) -> Tensor {
    let source = Source::new(seed, name);
    fill(dims, |i| source.normal(i) * std)
}

fn fill(dims: &[usize], value: impl Fn(u64) -> f64) -> Tensor {
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n as u64).map(|i| value(i) as f32).collect();
    Tensor::from_f32(dims, &values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_the_moments_they_should() {
        let weights = kaiming_fan_out(3, "conv.weight", [64, 32, 3, 3], 1).to_f32().unwrap();
        let n = weights.len() as f64;
        let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
        let variance = weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>() / n;
        let expected = 2.0 / (64.0 * 9.0);
        // Standard error of the mean 4.3e-4, of the variance 1 %.
        assert!(mean.abs() < 2e-3, "{mean}");
        assert!((variance / expected - 1.0).abs() < 0.05, "{variance} against {expected}");
        let bias = linear(3, "fc.bias", &[1000], 25).to_f32().unwrap();
        assert!(bias.iter().all(|b| b.abs() <= 0.2));
        assert!(bias.iter().any(|b| *b > 0.19) && bias.iter().any(|b| *b < -0.19));
    }

    #[test]
    fn seed_and_name_both_matter() {
        let base = linear(1, "a", &[4], 1);
        assert_eq!(base, linear(1, "a", &[4], 1));
        assert_ne!(base, linear(2, "a", &[4], 1));
        assert_ne!(base, linear(1, "b", &[4], 1));
    }
}
