//! Views: augmented images as pure functions of (data digest, sample id, view number), bit for bit the same on
//! every device. A teacher can so label the very image a student trains on without receiving it.

use super::{Dataset, Normalization};
use crate::draw::Draw;
use crate::ids::{Digest, SampleId, View};

/// What may happen to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Augmentation {
    /// Zero pixels put around the image before a crop of the original size at a random place.
    pub crop_padding: u8,
    /// Whether half of the views are flipped left to right.
    pub flip: bool,
}

/// Makes the views of one data set.
#[derive(Clone, Debug)]
pub struct ViewFn {
    augmentation: Augmentation,
    digest: Digest,
    draw: Draw,
}

impl ViewFn {
    pub fn new(data: &Dataset, augmentation: Augmentation) -> Self {
        let digest = digest(data, augmentation);
        let mut seed = [0; 8];
        seed.copy_from_slice(&digest.0[..8]);
        ViewFn { augmentation, digest, draw: Draw::new(u64::from_le_bytes(seed), "view") }
    }

    /// Of the images and the augmentation: peers with the same digest mean the same by (sample, view).
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Where the crop lies and whether it is flipped: (rows down, columns right, flipped), offsets within the
    /// padded image.
    fn placement(&self, id: SampleId, view: View) -> (usize, usize, bool) {
        let at = |what: u64| [u64::from(id.0), u64::from(view.0), what];
        let range = 2 * u64::from(self.augmentation.crop_padding) + 1;
        (
            self.draw.below(range, &at(0)) as usize,
            self.draw.below(range, &at(1)) as usize,
            self.augmentation.flip && self.draw.below(2, &at(2)) == 1,
        )
    }

    /// Writes view `view` of a sample, `[C, H, W]`.
    pub fn write(&self, data: &Dataset, id: SampleId, view: View, out: &mut [u8]) {
        let (height, width) = (usize::from(data.shape.height), usize::from(data.shape.width));
        let padding = usize::from(self.augmentation.crop_padding);
        let (down, right, flipped) = self.placement(id, view);
        let image = data.image(id);
        let plane = height * width;
        for (from, to) in image.chunks_exact(plane).zip(out.chunks_exact_mut(plane)) {
            for y in 0..height {
                for x in 0..width {
                    let column = if flipped { width - 1 - x } else { x };
                    let source = (y + down).checked_sub(padding).zip((column + right).checked_sub(padding));
                    to[y * width + x] = match source {
                        Some((row, column)) if row < height && column < width => from[row * width + column],
                        _ => 0,
                    };
                }
            }
        }
    }

    /// Writes one view of each sample, normalised: `[N, C, H, W]`.
    pub fn fill_batch(
        &self,
        data: &Dataset,
        normalization: &Normalization,
        ids: &[SampleId],
        view: View,
        out: &mut [f32],
    ) {
        let n = data.shape.n_pixels();
        let mut image = vec![0; n];
        for (id, out) in ids.iter().zip(out.chunks_exact_mut(n)) {
            self.write(data, *id, view, &mut image);
            normalization.apply(&image, out);
        }
    }
}

/// BLAKE3 over `dkt.data.1`, number of samples, channels, height, width, crop padding and flip (each 8 bytes,
/// little endian), and all pixels.
fn digest(data: &Dataset, augmentation: Augmentation) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"dkt.data.1");
    let shape = data.shape;
    let numbers = [
        data.len() as u64,
        shape.channels.into(),
        shape.height.into(),
        shape.width.into(),
        augmentation.crop_padding.into(),
        augmentation.flip.into(),
    ];
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&data.pixels);
    Digest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ImageShape;

    fn data() -> Dataset {
        let shape = ImageShape { channels: 1, height: 2, width: 3 };
        let classes = vec!["a".to_owned()];
        Dataset { classes, shape, pixels: (1..=12).collect(), labels: vec![0; 2] }
    }

    fn view_of(augmentation: Augmentation, id: u32, view: u8) -> Vec<u8> {
        let mut out = vec![99; 6];
        ViewFn::new(&data(), augmentation).write(&data(), SampleId(id), View(view), &mut out);
        out
    }

    #[test]
    fn without_augmentation_a_view_is_the_image() {
        assert_eq!(view_of(Augmentation { crop_padding: 0, flip: false }, 1, 3), [7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn crops_and_flips_are_what_their_placement_says() {
        let augmentation = Augmentation { crop_padding: 1, flip: true };
        let views = ViewFn::new(&data(), augmentation);
        let mut seen = std::collections::BTreeSet::new();
        for view in 0..200 {
            let (down, right, flipped) = views.placement(SampleId(0), View(view));
            seen.insert((down, right, flipped));
            let padded = |y: usize, x: usize| -> u8 {
                let inside = (1..3).contains(&y) && (1..4).contains(&x);
                if inside { (1 + (y - 1) * 3 + (x - 1)) as u8 } else { 0 }
            };
            let mut expected = Vec::new();
            for y in 0..2 {
                let row: Vec<u8> = (0..3).map(|x| padded(y + down, x + right)).collect();
                expected.extend(if flipped { row.into_iter().rev().collect::<Vec<_>>() } else { row });
            }
            assert_eq!(view_of(augmentation, 0, view), expected, "view {view}");
        }
        assert_eq!(seen.len(), 18, "all nine places, flipped and not");
    }

    #[test]
    fn the_digest_depends_on_images_and_augmentation() {
        let augmentation = Augmentation { crop_padding: 1, flip: false };
        let base = ViewFn::new(&data(), augmentation).digest();
        let mut other = data();
        other.pixels[0] ^= 1;
        assert_ne!(ViewFn::new(&other, augmentation).digest(), base);
        assert_ne!(ViewFn::new(&data(), Augmentation { flip: true, ..augmentation }).digest(), base);
    }
}
