//! Data sets: images of one size with labels, in memory, and the views of them that agents train on.

mod digits;
mod idx;
pub mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::ids::SampleId;

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("no data at `{path}`: expected `digits`, or a folder with IDX files")]
    Unknown { path: String },
    #[error("cannot read `{}`", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("`{}`: expected {expected}, found {found}", .path.display())]
    Format { path: PathBuf, expected: String, found: String },
    #[error("`{}` has {images} images and {labels} labels", .path.display())]
    Counts { path: PathBuf, images: usize, labels: usize },
    #[error("training images are {train}, test images {test}; expected one size")]
    Shapes { train: ImageShape, test: ImageShape },
}

/// Size of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    pub channels: u16,
    pub height: u16,
    pub width: u16,
}

impl ImageShape {
    /// Bytes of one image.
    pub fn n_pixels(&self) -> usize {
        usize::from(self.channels) * usize::from(self.height) * usize::from(self.width)
    }
}

impl std::fmt::Display for ImageShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// One split of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    pub classes: Vec<String>,
    pub shape: ImageShape,
    /// `[n, C, H, W]`.
    pub pixels: Vec<u8>,
    /// `[n]`, each an index into `classes`.
    pub labels: Vec<u16>,
}

impl Dataset {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// `[C, H, W]`.
    pub fn image(&self, id: SampleId) -> &[u8] {
        let n = self.shape.n_pixels();
        &self.pixels[id.0 as usize * n..][..n]
    }

    pub fn label(&self, id: SampleId) -> u16 {
        self.labels[id.0 as usize]
    }
}

/// What turns a pixel value into the network's input: (value - mean) / std, per channel, in pixel units.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

impl Normalization {
    /// Mean and standard deviation of each channel over a split.
    pub fn of(data: &Dataset) -> Self {
        let channels = usize::from(data.shape.channels);
        let plane = data.shape.n_pixels() / channels;
        let (mut mean, mut std) = (Vec::new(), Vec::new());
        for channel in 0..channels {
            let values = || {
                data.pixels
                    .chunks_exact(plane)
                    .skip(channel)
                    .step_by(channels)
                    .flatten()
                    .map(|&v| u64::from(v))
            };
            // Integer sums: the same on every platform, whatever the order.
            let n = (data.len() * plane).max(1) as f64;
            let (sum, squares) = values().fold((0, 0), |(s, q), v| (s + v, q + v * v));
            let average = sum as f64 / n;
            mean.push(average as f32);
            std.push((squares as f64 / n - average * average).sqrt().max(1e-3) as f32);
        }
        Normalization { mean, std }
    }

    /// Writes one image, normalised.
    pub fn apply(&self, image: &[u8], out: &mut [f32]) {
        let plane = image.len() / self.mean.len();
        for (channel, (from, to)) in image.chunks_exact(plane).zip(out.chunks_exact_mut(plane)).enumerate() {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            for (value, out) in from.iter().zip(to) {
                *out = (f32::from(*value) - mean) / std;
            }
        }
    }

    /// Writes images as they are (no view), normalised: `[N, C, H, W]`.
    pub fn fill_batch(&self, data: &Dataset, ids: &[SampleId], out: &mut [f32]) {
        for (id, out) in ids.iter().zip(out.chunks_exact_mut(data.shape.n_pixels())) {
            self.apply(data.image(*id), out);
        }
    }
}

/// Both splits, and how to normalise them.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSource {
    pub train: Dataset,
    pub test: Dataset,
    pub normalization: Normalization,
}

impl DataSource {
    fn new(train: Dataset, test: Dataset) -> Result<Self, DataError> {
        if train.shape != test.shape {
            return Err(DataError::Shapes { train: train.shape, test: test.shape });
        }
        Ok(DataSource { normalization: Normalization::of(&train), train, test })
    }

    /// What a model trained on this data carries along in its file.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let numbers = |v: &[f32]| v.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        BTreeMap::from([
            ("dkt.classes".to_owned(), self.train.classes.join(",")),
            ("dkt.mean".to_owned(), numbers(&self.normalization.mean)),
            ("dkt.std".to_owned(), numbers(&self.normalization.std)),
        ])
    }
}

/// Loads `digits`, which the program holds, or a folder with IDX files.
///
/// # Errors
/// [`DataError`], naming the file.
pub fn load(spec: &str) -> Result<DataSource, DataError> {
    if spec == "digits" {
        return digits::load();
    }
    let path = Path::new(spec);
    if path.is_dir() { idx::load(path) } else { Err(DataError::Unknown { path: spec.to_owned() }) }
}
