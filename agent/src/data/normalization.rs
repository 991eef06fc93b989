//! How pixels become a network's input, and what a model file says of the data it was trained on.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{DataError, DataSource, Dataset};
use crate::ids::SampleId;

/// Metadata of a model file: a JSON list of class names, in the order of the logits.
const CLASSES_KEY: &str = "dkt.classes";
/// Metadata of a model file: a [`Normalization`] as JSON.
const NORMALIZATION_KEY: &str = "dkt.normalization";

/// What turns a pixel value into the network's input: (value - mean) / std, per channel, in pixel units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

    /// Of each channel: factor and offset that turn a value which this has normalised into one that `other` has.
    pub fn to_other(&self, other: &Normalization) -> Vec<(f32, f32)> {
        let channels = self.mean.iter().zip(&self.std).zip(other.mean.iter().zip(&other.std));
        channels.map(|((mean, std), (m, s))| (std / s, (mean - m) / s)).collect()
    }

    fn is_usable(&self, n_channels: usize) -> bool {
        self.mean.len() == n_channels
            && self.std.len() == n_channels
            && self.mean.iter().all(|v| v.is_finite())
            && self.std.iter().all(|v| v.is_finite() && *v > 0.0)
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

impl DataSource {
    /// What a model trained on this data carries along in its file.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (CLASSES_KEY.to_owned(), serde_json::json!(self.train.classes).to_string()),
            (NORMALIZATION_KEY.to_owned(), serde_json::json!(self.normalization).to_string()),
        ])
    }
}

/// What a model file says of the data it was trained on; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainedOn {
    pub classes: Option<Vec<String>>,
    pub normalization: Option<Normalization>,
}

impl TrainedOn {
    /// Reads what [`DataSource::metadata`] has written into the model file at `path`.
    ///
    /// # Errors
    /// [`DataError::Format`] if there is something else under its keys.
    pub fn read(
        metadata: &BTreeMap<String, String>,
        n_channels: usize,
        path: &Path,
    ) -> Result<Self, DataError> {
        fn entry<T: DeserializeOwned>(
            metadata: &BTreeMap<String, String>,
            key: &str,
            path: &Path,
        ) -> Result<Option<T>, DataError> {
            let Some(text) = metadata.get(key) else { return Ok(None) };
            serde_json::from_str(text).map(Some).map_err(|error| DataError::Format {
                path: path.to_owned(),
                expected: format!("metadata `{key}` as this program writes it"),
                found: error.to_string(),
            })
        }
        let normalization: Option<Normalization> = entry(metadata, NORMALIZATION_KEY, path)?;
        if let Some(found) = normalization.as_ref().filter(|n| !n.is_usable(n_channels)) {
            return Err(DataError::Format {
                path: path.to_owned(),
                expected: format!("a mean and a std above 0 for each of {n_channels} channels"),
                found: format!("mean {:?}, std {:?}", found.mean, found.std),
            });
        }
        Ok(TrainedOn { classes: entry(metadata, CLASSES_KEY, path)?, normalization })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::load;

    #[test]
    fn a_model_file_tells_what_it_was_trained_on() {
        let source = load("digits").unwrap();
        let path = Path::new("model.onnx");
        let read = TrainedOn::read(&source.metadata(), 1, path).unwrap();
        assert_eq!(read.classes, Some(source.train.classes.clone()));
        assert_eq!(read.normalization, Some(source.normalization.clone()));
        assert_eq!(TrainedOn::read(&BTreeMap::new(), 1, path).unwrap(), TrainedOn::default());
        let other = BTreeMap::from([(CLASSES_KEY.to_owned(), "cat,dog".to_owned())]);
        assert!(TrainedOn::read(&other, 1, path).unwrap_err().to_string().contains("dkt.classes"));
        let error = TrainedOn::read(&source.metadata(), 3, path).unwrap_err().to_string();
        assert!(error.contains("for each of 3 channels, found mean [4."), "{error}");
    }

    #[test]
    fn normalised_pixels_have_mean_0_and_variance_1() {
        let DataSource { train, normalization, .. } = load("digits").unwrap();
        let ids: Vec<SampleId> = (0..train.len() as u32).map(SampleId).collect();
        let mut values = vec![0.0; train.pixels.len()];
        normalization.fill_batch(&train, &ids, &mut values);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-5, "{mean} {variance}");
    }
}
