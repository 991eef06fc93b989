//! `[data]`.

use serde::{Deserialize, Serialize};

use super::Check;
use crate::data::view::Augmentation;
use crate::data::view::cutmix::CutMix;
use crate::data::view::fixed::Fixed;
use crate::data::view::jitter::ColorJitter;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// `digits`, or the path of a data set (`docs/data.md`). Default: `digits`.
    pub source: String,
    /// Only the first so many classes; 0 for all. Default: 0.
    pub classes: usize,
    /// Only the first so many training samples of each class; 0 for all. Default: 0.
    pub samples_per_class: usize,
    /// Only the first so many test samples of each class; 0 for all. Default: 0.
    pub test_samples_per_class: usize,
    /// Augmented views of each sample, used in turn, one an epoch. Default: 4.
    pub views: u8,
    /// Pixels of zero padding around the image before a random crop of the original size. Default: 1.
    pub crop_padding: u8,
    /// Random horizontal flip. Default: false.
    pub flip: bool,
    pub color_jitter: ColorJitterConfig,
    /// Probability, in the last view, that a box of another sample is mixed in (CutMix); it rises to that from 0.1
    /// in the first. Default: 0.
    pub cutmix: f64,
    /// Mean and standard deviation of the training split, or given ones. Default: `auto`.
    pub normalization: NormalizationConfig,
}

/// How far from 1 the factors of colour jitter lie at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColorJitterConfig {
    /// Default: 0.
    pub brightness: f64,
    /// Default: 0.
    pub contrast: f64,
    /// Default: 0.
    pub saturation: f64,
}

/// What pixel values are normalised by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"auto\", or { mean = [...], std = [...] } with a number for each channel"
)]
pub enum NormalizationConfig {
    Measured(Measured),
    Given(GivenNormalization),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measured {
    /// Of the training split.
    Auto,
}

/// Of each channel, where pixel values go from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenNormalization {
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            source: "digits".to_owned(),
            classes: 0,
            samples_per_class: 0,
            test_samples_per_class: 0,
            views: 4,
            crop_padding: 1,
            flip: false,
            color_jitter: ColorJitterConfig::default(),
            cutmix: 0.0,
            normalization: NormalizationConfig::Measured(Measured::Auto),
        }
    }
}

impl DataConfig {
    pub fn augmentation(&self) -> Augmentation {
        let ColorJitterConfig { brightness, contrast, saturation } = self.color_jitter;
        let target = Fixed::of(self.cutmix);
        Augmentation {
            crop_padding: self.crop_padding,
            flip: self.flip,
            color_jitter: ColorJitter {
                brightness: Fixed::of(brightness),
                contrast: Fixed::of(contrast),
                saturation: Fixed::of(saturation),
            },
            cutmix: (!target.is_zero()).then_some(CutMix { target, n_views: self.views }),
        }
    }

    /// What each key must be.
    pub(super) fn checks(&self) -> impl Iterator<Item = Check> {
        let share = |v: f64| (0.0..=1.0).contains(&v);
        let jitter = self.color_jitter;
        let checks: [Check; 4] = [
            ("data.views", self.views > 0, "at least 1", self.views.to_string()),
            (
                "data.color_jitter",
                [jitter.brightness, jitter.contrast, jitter.saturation].into_iter().all(share),
                "brightness, contrast and saturation from 0 to 1",
                format!("{jitter:?}"),
            ),
            ("data.cutmix", share(self.cutmix), "a probability from 0 to 1", self.cutmix.to_string()),
            (
                "data.normalization",
                self.normalization.is_sound(),
                "\"auto\", or for each channel a mean from 0 to 1 and a std above 0 and at most 1, white being 1",
                format!("{:?}", self.normalization),
            ),
        ];
        checks.into_iter()
    }
}

impl NormalizationConfig {
    fn is_sound(&self) -> bool {
        let NormalizationConfig::Given(given) = self else { return true };
        given.mean.len() == given.std.len()
            && given.mean.iter().all(|v| (0.0..=1.0).contains(v))
            && given.std.iter().all(|v| *v > 0.0 && *v <= 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DataConfig, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn every_augmentation_reaches_the_views() {
        assert_eq!(
            parse("").unwrap().augmentation(),
            Augmentation { crop_padding: 1, ..Augmentation::default() }
        );
        let text = "views = 9\ncrop_padding = 4\nflip = true\ncutmix = 0.5\n\
                    color_jitter = { brightness = 0.25, contrast = 0.5, saturation = 1.0 }";
        let expected = Augmentation {
            crop_padding: 4,
            flip: true,
            color_jitter: ColorJitter {
                brightness: Fixed::of(0.25),
                contrast: Fixed::of(0.5),
                saturation: Fixed::ONE,
            },
            cutmix: Some(CutMix { target: Fixed::of(0.5), n_views: 9 }),
        };
        assert_eq!(parse(text).unwrap().augmentation(), expected);
    }

    #[test]
    fn a_configuration_reads_as_it_was_written() {
        for text in ["", "normalization = { mean = [0.5, 0.25], std = [0.5, 0.125] }\ncutmix = 0.5"] {
            let config = parse(text).unwrap();
            assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_key() {
        for (text, key) in [
            ("views = 0", "data.views"),
            ("cutmix = 1.5", "data.cutmix"),
            ("cutmix = nan", "data.cutmix"),
            ("color_jitter = { brightness = -0.1 }", "data.color_jitter"),
            ("color_jitter = { contrast = 1.1 }", "data.color_jitter"),
            ("normalization = { mean = [0.5], std = [0.0] }", "data.normalization"),
            ("normalization = { mean = [0.5, 0.5], std = [1.0] }", "data.normalization"),
        ] {
            let refused: Vec<&str> =
                parse(text).unwrap().checks().filter(|(_, holds, ..)| !holds).map(|(key, ..)| key).collect();
            assert_eq!(refused, [key], "{text}");
        }
        for (text, says) in [
            ("normalization = \"none\"", "expected \"auto\", or { mean"),
            ("normalization = { mean = [0.5] }", "expected \"auto\", or { mean"),
            ("color_jitter = { hue = 0.1 }", "unknown field `hue`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
