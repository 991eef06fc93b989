//! Data sets: images of one size with labels, in memory, and the views of them that agents train on.
//!
//! [`mod@format`] is the table of what can be read; `docs/data.md` says the same to users.

mod archive;
mod cifar;
mod cifar_python;
mod decode;
mod digits;
mod error;
pub mod format;
mod idx;
mod image_folder;
pub mod inspect;
mod limits;
mod normalization;
mod npy;
mod npz;
mod pickle;
#[cfg(test)]
mod testing;
mod tree;
pub mod view;

use std::path::Path;

pub use self::error::DataError;
pub use self::format::{load, load_test};
pub use self::normalization::{Normalization, TrainedOn};
use crate::ids::SampleId;

/// Size of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    pub channels: u16,
    pub height: u16,
    pub width: u16,
}

impl ImageShape {
    /// Of sizes as a file says them; `None` if one is 0 or above 65,535.
    fn of(channels: usize, height: usize, width: usize) -> Option<Self> {
        let size = |n: usize| u16::try_from(n).ok().filter(|n| *n > 0);
        Some(ImageShape { channels: size(channels)?, height: size(height)?, width: size(width)? })
    }

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

    /// Refuses a split that cannot be trained or evaluated on; `path` is what it was read from.
    ///
    /// # Errors
    /// [`DataError`] if there are no images, more than ids or classes allow, as many labels as images are not, or a
    /// label that has no class.
    fn checked(self, path: &Path) -> Result<Self, DataError> {
        let owned = || path.to_owned();
        let images = self.pixels.len() / self.shape.n_pixels();
        if images == 0 {
            return Err(DataError::NoImages { path: owned() });
        }
        if images != self.labels.len() {
            return Err(DataError::Counts { path: owned(), images, labels: self.labels.len() });
        }
        if images > limits::MAX_IMAGES {
            return Err(DataError::TooLarge {
                path: owned(),
                what: "images",
                limit: limits::MAX_IMAGES as u64,
            });
        }
        check_classes(self.classes.len(), path)?;
        let n_classes = self.classes.len();
        if let Some(at) = self.labels.iter().position(|label| usize::from(*label) >= n_classes) {
            let label = self.labels[at].into();
            return Err(DataError::Label { path: owned(), image: at, label, n_classes });
        }
        Ok(self)
    }
}

/// Refuses more classes than a label can tell apart.
fn check_classes(n_classes: usize, path: &Path) -> Result<(), DataError> {
    if n_classes > limits::MAX_CLASSES {
        return Err(DataError::Classes { path: path.to_owned(), found: n_classes });
    }
    Ok(())
}

/// Refuses data whose pixels would not be kept in memory.
fn check_pixels(n_images: usize, shape: ImageShape, path: &Path) -> Result<(), DataError> {
    let bytes = (n_images as u64).checked_mul(shape.n_pixels() as u64);
    if bytes.is_none_or(|bytes| bytes > limits::MAX_PIXEL_BYTES) {
        let limit = limits::MAX_PIXEL_BYTES;
        return Err(DataError::TooLarge { path: path.to_owned(), what: "bytes of pixels", limit });
    }
    Ok(())
}

/// Names of classes that are only counted: `0`, `1`, and so on to the largest label.
fn numbered(labels: &[&[u16]]) -> Vec<String> {
    let last = labels.iter().flat_map(|labels| labels.iter()).max();
    last.map_or(Vec::new(), |last| (0..=*last).map(|class| class.to_string()).collect())
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
}
