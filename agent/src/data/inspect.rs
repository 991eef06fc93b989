//! What `dkt data inspect` says of a data set.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::path::PathBuf;

use serde::Serialize;

use super::view::{Augmentation, ViewFn};
use super::{DataError, DataSource, Dataset, format};
use crate::ids::SampleId;

/// A data set, described.
#[derive(Debug, Serialize)]
pub struct Inspection {
    pub format: &'static str,
    /// As it was given.
    pub path: String,
    pub classes: Vec<String>,
    pub train: Split,
    pub test: Split,
    /// Test images that are, pixel by pixel, among the training images too.
    pub n_test_images_in_train: usize,
    /// Of the training images, without padding and flips; none where files are damaged.
    pub digest: Option<String>,
    /// Files that were left out, and why.
    pub damaged: Vec<Damaged>,
}

/// A file that was left out.
#[derive(Debug, Serialize)]
pub struct Damaged {
    pub path: PathBuf,
    pub error: String,
}

/// One split, described.
#[derive(Debug, Serialize)]
pub struct Split {
    pub n_images: usize,
    /// Channels, height, width.
    pub shape: [u16; 3],
    /// Images of each class, in the order of the classes.
    pub n_per_class: Vec<usize>,
    /// Least and greatest pixel value.
    pub range: [u8; 2],
    /// Of each channel, in pixel units: 0 to 255.
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
    /// Images that are, pixel by pixel, another one of this split before them.
    pub n_duplicates: usize,
}

/// Reads and describes both splits; files of an image folder that are damaged are left out and named.
///
/// # Errors
/// [`DataError`] if the data set cannot be read at all.
pub fn inspect(spec: &str, on_progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Inspection, DataError> {
    let (format, splits) = format::read(spec, on_progress)?;
    let train = splits.train.expect("invariant: a reader gives the splits it was asked for");
    let source = DataSource::new(train, splits.test)?;
    let (train, test) = (&source.train, &source.test);
    let in_train = hashes(train);
    let augmentation = Augmentation::default();
    let digest = || ViewFn::new(train, augmentation).digest().to_string();
    Ok(Inspection {
        format: format.name,
        path: spec.to_owned(),
        classes: train.classes.clone(),
        n_test_images_in_train: ids(test).filter(|id| in_train.contains(&hash(test, *id))).count(),
        digest: splits.damaged.is_empty().then(digest),
        train: describe(train, in_train.len()),
        test: describe(test, hashes(test).len()),
        damaged: splits.damaged.into_iter().map(damaged).collect(),
    })
}

fn damaged(file: format::Damaged) -> Damaged {
    let mut error = file.error.to_string();
    if let Some(cause) = file.error.source() {
        error += &format!(": {cause}");
    }
    Damaged { path: file.path, error }
}

fn ids(data: &Dataset) -> impl Iterator<Item = SampleId> {
    (0..data.len()).map(|id| SampleId(id as u32))
}

fn hash(data: &Dataset, id: SampleId) -> [u8; 32] {
    *blake3::hash(data.image(id)).as_bytes()
}

/// One for each image that differs from all others.
fn hashes(data: &Dataset) -> BTreeSet<[u8; 32]> {
    ids(data).map(|id| hash(data, id)).collect()
}

fn describe(data: &Dataset, n_distinct: usize) -> Split {
    let normalization = super::Normalization::of(data);
    let mut n_per_class = vec![0; data.classes.len()];
    for label in &data.labels {
        n_per_class[usize::from(*label)] += 1;
    }
    let range = data.pixels.iter().fold([u8::MAX, 0], |[low, high], v| [low.min(*v), high.max(*v)]);
    Split {
        n_images: data.len(),
        shape: [data.shape.channels, data.shape.height, data.shape.width],
        n_per_class,
        range,
        mean: normalization.mean,
        std: normalization.std,
        n_duplicates: data.len() - n_distinct,
    }
}
