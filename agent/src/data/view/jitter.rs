//! Colour jitter: brightness, contrast and saturation, each scaled by a factor of its own, in a random order.
//!
//! As torchvision's `ColorJitter` (without hue), in whole numbers: an image is blended with black, with the mean
//! of its grey image, or with its grey image.

use super::fixed::{BITS, Fixed};
use crate::data::ImageShape;
use crate::draw::Draw;

/// Weights of red, green and blue in grey, in 65,536ths (ITU-R BT.601: 0.299, 0.587, 0.114).
const GREY: [u32; 3] = [19_595, 38_470, 7_471];
/// Rounds to the nearest 65,536th; a half goes up.
const HALF: i64 = 1 << (BITS - 1);

/// How far each factor may lie from 1: it is uniform in `[1 - x, 1 + x]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColorJitter {
    pub brightness: Fixed,
    pub contrast: Fixed,
    pub saturation: Fixed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Brightness,
    Contrast,
    Saturation,
}

use Change::{Brightness, Contrast, Saturation};

/// All orders, numbered as the draw chooses them.
const ORDERS: [[Change; 3]; 6] = [
    [Brightness, Contrast, Saturation],
    [Brightness, Saturation, Contrast],
    [Contrast, Brightness, Saturation],
    [Contrast, Saturation, Brightness],
    [Saturation, Brightness, Contrast],
    [Saturation, Contrast, Brightness],
];

impl ColorJitter {
    pub fn is_off(&self) -> bool {
        *self == ColorJitter::default()
    }

    /// Whether images must have a grey form: one channel, or red, green and blue.
    pub fn needs_grey(&self) -> bool {
        !self.contrast.is_zero() || !self.saturation.is_zero()
    }

    /// Changes an image `[C, H, W]` by what `draw` says at (`at`, what).
    pub(super) fn apply(&self, draw: &Draw, at: [u64; 2], shape: ImageShape, image: &mut [u8]) {
        let what = |what: u64| [at[0], at[1], what];
        for change in ORDERS[draw.below(ORDERS.len() as u64, &what(3)) as usize] {
            let (number, distance) = match change {
                Brightness => (0, self.brightness),
                Contrast => (1, self.contrast),
                Saturation => (2, self.saturation),
            };
            if distance.is_zero() {
                continue;
            }
            let range = 2 * u64::from(distance.parts()) + 1;
            let lowest = Fixed::ONE.parts() - distance.parts();
            let factor = i64::from(lowest) + draw.below(range, &what(number)) as i64;
            change.apply(factor, shape, image);
        }
    }
}

impl Change {
    /// `factor` in 65,536ths.
    fn apply(self, factor: i64, shape: ImageShape, image: &mut [u8]) {
        let plane = usize::from(shape.height) * usize::from(shape.width);
        match self {
            Brightness => image.iter_mut().for_each(|v| *v = blend(*v, 0, factor)),
            Contrast => {
                let grey = grey(shape, image);
                let (sum, n) = (grey.iter().map(|&v| u64::from(v)).sum::<u64>(), grey.len() as u64);
                // Rounded; a half goes up. At most 255, as no value is more.
                let mean = ((2 * sum + n) / (2 * n).max(1)) as u8;
                image.iter_mut().for_each(|v| *v = blend(*v, mean, factor));
            }
            Saturation => {
                let grey = grey(shape, image);
                for channel in image.chunks_exact_mut(plane) {
                    channel.iter_mut().zip(&grey).for_each(|(v, grey)| *v = blend(*v, *grey, factor));
                }
            }
        }
    }
}

/// `factor * value + (1 - factor) * other`, rounded and within a byte.
fn blend(value: u8, other: u8, factor: i64) -> u8 {
    let rest = i64::from(Fixed::ONE.parts()) - factor;
    let mixed = (factor * i64::from(value) + rest * i64::from(other) + HALF) >> BITS;
    mixed.clamp(0, 255) as u8
}

/// The grey image `[H, W]`; an image of one channel is grey already.
fn grey(shape: ImageShape, image: &[u8]) -> Vec<u8> {
    let plane = usize::from(shape.height) * usize::from(shape.width);
    if shape.channels != 3 {
        return image[..plane].to_vec();
    }
    let of = |i: usize| (0..3).map(|c| GREY[c] * u32::from(image[c * plane + i])).sum::<u32>();
    (0..plane).map(|i| ((of(i) + HALF as u32) >> BITS) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RGB: ImageShape = ImageShape { channels: 3, height: 1, width: 2 };
    /// Two pixels, (200, 100, 0) and (10, 20, 30), channel by channel. Their grey: 118 and 18; its mean: 68.
    const IMAGE: [u8; 6] = [200, 10, 100, 20, 0, 30];

    fn changed(change: Change, factor: f64) -> Vec<u8> {
        let mut image = IMAGE.to_vec();
        change.apply((factor * 65_536.0) as i64, RGB, &mut image);
        image
    }

    #[test]
    fn each_change_blends_with_what_torchvision_blends_with() {
        assert_eq!(changed(Brightness, 0.5), [100, 5, 50, 10, 0, 15]);
        assert_eq!(changed(Brightness, 1.5), [255, 15, 150, 30, 0, 45], "clipped at white");
        assert_eq!(grey(RGB, &IMAGE), [118, 18]);
        assert_eq!(changed(Contrast, 0.0), [68; 6], "no contrast is one grey");
        assert_eq!(changed(Contrast, 2.0), [255, 0, 132, 0, 0, 0], "clipped at both ends");
        assert_eq!(changed(Saturation, 0.0), [118, 18, 118, 18, 118, 18], "no saturation is grey");
        assert_eq!(changed(Saturation, 0.5), [159, 14, 109, 19, 59, 24]);
        for change in ORDERS[0] {
            assert_eq!(changed(change, 1.0), IMAGE, "a factor of 1 changes nothing");
        }
    }

    #[test]
    fn factors_reach_both_ends_and_all_orders_come() {
        let half = ColorJitter { brightness: Fixed::of(0.5), ..ColorJitter::default() };
        let shape = ImageShape { channels: 1, height: 1, width: 1 };
        let draw = Draw::new(3, "color-jitter");
        let values: Vec<u8> = (0..2000)
            .map(|sample| {
                let mut image = [100];
                half.apply(&draw, [sample, 0], shape, &mut image);
                image[0]
            })
            .collect();
        assert_eq!((values.iter().min(), values.iter().max()), (Some(&50), Some(&150)));
        let mean = values.iter().map(|&v| u32::from(v)).sum::<u32>() / 2000;
        assert!((98..=102).contains(&mean), "{mean}");
        let orders: std::collections::BTreeSet<u64> = (0..100).map(|s| draw.below(6, &[s, 0, 3])).collect();
        assert_eq!(orders.len(), 6);
    }

    #[test]
    fn grey_images_have_no_saturation() {
        let full = ColorJitter { saturation: Fixed::ONE, ..ColorJitter::default() };
        let shape = ImageShape { channels: 1, height: 2, width: 2 };
        let mut image = [1, 50, 200, 255];
        full.apply(&Draw::new(1, "color-jitter"), [0, 0], shape, &mut image);
        assert_eq!(image, [1, 50, 200, 255]);
    }
}
