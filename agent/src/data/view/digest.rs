//! What peers must have in common to mean the same by (sample, view).

use super::Augmentation;
use crate::data::Dataset;
use crate::ids::Digest;

/// BLAKE3 over a tag, the numbers of the images and of the augmentation (each 8 bytes, little endian), and all
/// pixels. Colour jitter and CutMix have a tag of their own, so that data without them keep their digest.
pub(super) fn of(data: &Dataset, augmentation: &Augmentation) -> Digest {
    let Augmentation { crop_padding, flip, color_jitter, cutmix } = augmentation;
    let shape = data.shape;
    let mut numbers = vec![
        data.len() as u64,
        shape.channels.into(),
        shape.height.into(),
        shape.width.into(),
        (*crop_padding).into(),
        (*flip).into(),
    ];
    let plain = color_jitter.is_off() && cutmix.is_none();
    if !plain {
        let jitter = [color_jitter.brightness, color_jitter.contrast, color_jitter.saturation];
        numbers.extend(jitter.map(|distance| u64::from(distance.parts())));
        numbers.extend(cutmix.map_or([0, 0], |c| [u64::from(c.target.parts()), u64::from(c.n_views)]));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(if plain { b"dkt.data.1" } else { b"dkt.data.2" });
    numbers.iter().for_each(|number| _ = hasher.update(&number.to_le_bytes()));
    hasher.update(&data.pixels);
    Digest(*hasher.finalize().as_bytes())
}
