//! Views: augmented images as pure functions of (data digest, sample id, view number), bit for bit the same on
//! every device. A teacher can so label the very image a student trains on without receiving it.

pub mod cutmix;
mod digest;
pub mod fixed;
pub mod jitter;

use self::cutmix::{CutMix, Mix};
use self::jitter::ColorJitter;
use super::{Dataset, Normalization};
use crate::draw::Draw;
use crate::ids::{Digest, SampleId, View};

/// What may happen to an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// Zero pixels put around the image before a crop of the original size at a random place.
    pub crop_padding: u8,
    /// Whether half of the views are flipped left to right.
    pub flip: bool,
    pub color_jitter: ColorJitter,
    /// None where no view is mixed.
    pub cutmix: Option<CutMix>,
}

/// Makes the views of one data set.
#[derive(Clone, Debug)]
pub struct ViewFn {
    augmentation: Augmentation,
    digest: Digest,
    placement: Draw,
    jitter: Draw,
    cutmix: Draw,
}

/// One view of some samples.
#[derive(Clone, Copy, Debug)]
pub struct ViewBatch<'a> {
    pub ids: &'a [SampleId],
    pub view: View,
    /// Samples that CutMix takes partners from, in the order of their ids: all that the agent trains on with labels in
    /// this epoch. With none no view is mixed.
    pub pool: &'a [SampleId],
}

impl ViewFn {
    pub fn new(data: &Dataset, augmentation: Augmentation) -> Self {
        let digest = digest::of(data, &augmentation);
        let mut seed = [0; 8];
        seed.copy_from_slice(&digest.0[..8]);
        let draw = |purpose| Draw::new(u64::from_le_bytes(seed), purpose);
        ViewFn {
            augmentation,
            digest,
            placement: draw("view"),
            jitter: draw("color-jitter"),
            cutmix: draw("cutmix"),
        }
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
            self.placement.below(range, &at(0)) as usize,
            self.placement.below(range, &at(1)) as usize,
            self.augmentation.flip && self.placement.below(2, &at(2)) == 1,
        )
    }

    /// Writes view `view` of a sample, `[C, H, W]`, as it is before a mix.
    pub fn write(&self, data: &Dataset, id: SampleId, view: View, out: &mut [u8]) {
        self.place(data, id, view, out);
        if !self.augmentation.color_jitter.is_off() {
            let at = [u64::from(id.0), u64::from(view.0)];
            self.augmentation.color_jitter.apply(&self.jitter, at, data.shape, out);
        }
    }

    /// Crops and flips.
    fn place(&self, data: &Dataset, id: SampleId, view: View, out: &mut [u8]) {
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

    /// Writes a view of a sample, `[C, H, W]`, and the box of another's that CutMix puts into it. `scratch` has
    /// room for one image.
    fn write_mixed(
        &self,
        data: &Dataset,
        id: SampleId,
        batch: &ViewBatch<'_>,
        scratch: &mut [u8],
        out: &mut [u8],
    ) -> Option<Mix> {
        self.write(data, id, batch.view, out);
        let cutmix = self.augmentation.cutmix?;
        let patch = cutmix.patch(&self.cutmix, (id, batch.view), data.shape, batch.pool)?;
        self.write(data, patch.partner, batch.view, scratch);
        patch.paste(data.shape, scratch, out);
        Some(patch.mix(data.shape))
    }

    /// Writes one view of each sample, normalised: `[N, C, H, W]`. Says of each what CutMix has put into it.
    pub fn fill_batch(
        &self,
        data: &Dataset,
        normalization: &Normalization,
        batch: &ViewBatch<'_>,
        out: &mut [f32],
    ) -> Vec<Option<Mix>> {
        let n = data.shape.n_pixels();
        let (mut image, mut scratch) = (vec![0; n], vec![0; n]);
        let rows = batch.ids.iter().zip(out.chunks_exact_mut(n));
        rows.map(|(id, out)| {
            let mix = self.write_mixed(data, *id, batch, &mut scratch, &mut image);
            normalization.apply(&image, out);
            mix
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::fixed::Fixed;
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
        assert_eq!(view_of(Augmentation::default(), 1, 3), [7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn crops_and_flips_are_what_their_placement_says() {
        let augmentation = Augmentation { crop_padding: 1, flip: true, ..Augmentation::default() };
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
        let augmentation = Augmentation { crop_padding: 1, ..Augmentation::default() };
        let of = |augmentation| ViewFn::new(&data(), augmentation).digest();
        let mut other = data();
        other.pixels[0] ^= 1;
        let half = Fixed::of(0.5);
        let jitter = |brightness, contrast, saturation| Augmentation {
            color_jitter: ColorJitter { brightness, contrast, saturation },
            ..augmentation
        };
        let off = Fixed::default();
        let cutmix =
            |target, n_views| Augmentation { cutmix: Some(CutMix { target, n_views }), ..augmentation };
        let digests = std::collections::BTreeSet::from([
            of(augmentation),
            ViewFn::new(&other, augmentation).digest(),
            of(Augmentation { flip: true, ..augmentation }),
            of(Augmentation { crop_padding: 2, ..augmentation }),
            of(jitter(half, off, off)),
            of(jitter(off, half, off)),
            of(jitter(off, off, half)),
            of(cutmix(half, 4)),
            of(cutmix(half, 5)),
            of(cutmix(Fixed::ONE, 4)),
        ]);
        assert_eq!(digests.len(), 10);
    }

    /// The values of docs/streams.md, computed there by an independent program.
    #[test]
    fn digits_are_placed_by_the_written_format() {
        let source = crate::data::load("digits").unwrap();
        let views = ViewFn::new(&source.train, Augmentation { crop_padding: 1, ..Augmentation::default() });
        let digest = "bf57307a314864ad762c92b7138b82aea147757826eade7ad247e53afe6a8f0f";
        assert_eq!(views.digest().to_string(), digest);
        let places = [0, 1, 2, 3].map(|view| views.placement(SampleId(0), View(view)));
        assert_eq!(places, [(0, 2, false), (2, 1, false), (1, 2, false), (0, 1, false)]);
    }

    /// Five images of three channels, 3x4, as in docs/streams.md.
    fn colour() -> Dataset {
        let pixels = (0..5 * 36).map(|i| ((37 * i + 11) % 256) as u8).collect();
        let shape = ImageShape { channels: 3, height: 3, width: 4 };
        let classes = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        Dataset { classes, shape, pixels, labels: vec![0, 1, 2, 3, 4] }
    }

    const POOL: [SampleId; 5] = [SampleId(0), SampleId(1), SampleId(2), SampleId(3), SampleId(4)];

    fn all_of_it(cutmix: f64) -> Augmentation {
        let color_jitter =
            ColorJitter { brightness: Fixed::of(0.25), contrast: Fixed::of(0.5), saturation: Fixed::of(1.0) };
        let cutmix = (cutmix > 0.0).then_some(CutMix { target: Fixed::of(cutmix), n_views: 4 });
        Augmentation { crop_padding: 1, flip: true, color_jitter, cutmix }
    }

    /// (sample, view), its pixels in hexadecimal, its partner and how many of 12 pixels are the partner's.
    type Golden = ((u32, u8), &'static str, Option<(u32, u8)>);

    fn check_golden(cutmix: f64, digest: &str, golden: &[Golden]) {
        let data = colour();
        let views = ViewFn::new(&data, all_of_it(cutmix));
        assert_eq!(views.digest().to_string(), digest);
        for ((id, view), pixels, mix) in golden {
            let batch = ViewBatch { ids: &[], view: View(*view), pool: &POOL };
            let (mut out, mut scratch) = ([0; 36], [0; 36]);
            let found = views.write_mixed(&data, SampleId(*id), &batch, &mut scratch, &mut out);
            let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, *pixels, "sample {id}, view {view}");
            let expected = mix.map(|(partner, twelfths)| Mix {
                partner: SampleId(partner),
                share: (f64::from(twelfths) / 12.0) as f32,
            });
            assert_eq!(found, expected, "sample {id}, view {view}");
        }
    }

    /// Values of docs/streams.md, computed there by an independent program.
    #[test]
    fn views_are_those_of_the_written_format() {
        check_golden(
            0.0,
            "cf0cc4228c02beff9de5d731ad0b32755d1f8f589890fa69f5f054347ea518cd",
            &[
                ((1, 0), "00000000002a86c500ffff000000000000ff084900befbff0000000000ffff0000417dcd", None),
                ((1, 1), "bd0d2524859aaf242424242487b2c024485d7224242424244a778e240d22372424242424", None),
                ((2, 2), "1a5c761ab3b91a1a1a1a1a1ab91a2f1a6c86b91a1a1a1a1a8cb9b91a253e741a1a1a1a1a", None),
                ((0, 3), "0040ffff00d4a6680000000000ffffc000885b1d0000000000c6b376003dffef00000000", None),
                ((3, 3), "0000000000ccccacae7f590000000000cc98714c4f2000cc000000007b39120000cccca5", None),
            ],
        );
        check_golden(
            0.9,
            "3e24c662d78c9a24e1b0f04098471131b14606b82a98126a6854b77ccb9e8e65",
            &[
                (
                    (1, 0),
                    "000000007bd9b5902fdcca0000000000419d7954ceb690000000000010623e19947d5600",
                    Some((2, 6)),
                ),
                ((1, 1), "725f588a8c789a868874605a6d5a539799859581836f5b55685560939581907c7e6a5662", None),
                (
                    (2, 2),
                    "9f447500c4e2851300000000cb2f6000b1dabba600000000c4648a009bc5aa6200000000",
                    Some((4, 1)),
                ),
                ((0, 3), "0000000065461200fffcc8000000000010fffe00d9a6720000000000fcdca80085511e00", None),
                (
                    (3, 3),
                    "7ba5907bffe160906f00a791909e8974885858a500ffa08a8896816c00006e9dffc79882",
                    Some((4, 4)),
                ),
            ],
        );
    }

    /// Every image is one value of its own, so that each pixel tells whose it is.
    #[test]
    fn labels_are_mixed_as_pixels_are() {
        let shape = ImageShape { channels: 2, height: 6, width: 9 };
        let n_images = 7;
        let data = Dataset {
            classes: (0..n_images).map(|c| c.to_string()).collect(),
            shape,
            pixels: (0..n_images).flat_map(|i| std::iter::repeat_n(10 + i as u8, shape.n_pixels())).collect(),
            labels: (0..n_images).collect(),
        };
        let cutmix = Some(CutMix { target: Fixed::of(0.8), n_views: 8 });
        let views = ViewFn::new(&data, Augmentation { cutmix, ..Augmentation::default() });
        let normalization = Normalization { mean: vec![10.0; 2], std: vec![1.0; 2] };
        let pool: Vec<SampleId> = [1, 2, 5].map(SampleId).to_vec();
        let ids: Vec<SampleId> = (0..u32::from(n_images)).map(SampleId).collect();
        let mut n_mixed = Vec::new();
        for view in 0..8 {
            let mut out = vec![0.0; ids.len() * shape.n_pixels()];
            let batch = ViewBatch { ids: &ids, view: View(view), pool: &pool };
            let mixes = views.fill_batch(&data, &normalization, &batch, &mut out);
            n_mixed.push(mixes.iter().flatten().count());
            for ((id, mix), pixels) in ids.iter().zip(&mixes).zip(out.chunks_exact(shape.n_pixels())) {
                let mut label = vec![9.0; usize::from(n_images)];
                cutmix::write_label(&data, *id, mix.as_ref(), &mut label);
                let n_of = |class: usize| pixels.iter().filter(|p| **p == class as f32).count();
                for (class, part) in label.iter().enumerate() {
                    let expected = n_of(class) as f32 / shape.n_pixels() as f32;
                    assert!((part - expected).abs() < 1e-6, "{id:?} {mix:?}: class {class}");
                }
                assert!(mix.is_none_or(|mix| pool.contains(&mix.partner)));
            }
            // A part of a batch is what it is in the whole.
            let part = ViewBatch { ids: &ids[3..5], ..batch };
            let mut alone = vec![0.0; 2 * shape.n_pixels()];
            assert_eq!(views.fill_batch(&data, &normalization, &part, &mut alone), mixes[3..5]);
            assert_eq!(alone, out[3 * shape.n_pixels()..5 * shape.n_pixels()]);
            // Where there is nobody to mix with, nothing is mixed.
            let alone = ViewBatch { pool: &[], ..batch };
            assert!(views.fill_batch(&data, &normalization, &alone, &mut out).iter().all(Option::is_none));
        }
        assert!(n_mixed.iter().sum::<usize>() > 10, "{n_mixed:?}");
        assert!(n_mixed[4..].iter().sum::<usize>() > n_mixed[..4].iter().sum::<usize>(), "{n_mixed:?}");
    }
}
