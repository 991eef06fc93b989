//! Data as an agent's stream sees it: its reduced form, in the domains of the stream, normalised, and fit for its
//! augmentation.

use super::{StreamError, domain};
use crate::config::{DataConfig, NormalizationConfig, StreamConfig};
use crate::data::{DataSource, Dataset, Normalization};

/// Largest value of a pixel.
const WHITE: f64 = 255.0;

/// `source` as the configuration wants it.
///
/// # Errors
/// [`StreamError`] if it has too few classes or samples, or images that cannot be what they should.
pub fn prepared(
    mut source: DataSource,
    data: &DataConfig,
    stream: &StreamConfig,
) -> Result<DataSource, StreamError> {
    let shape = source.train.shape;
    if data.augmentation().color_jitter.needs_grey() && ![1, 3].contains(&shape.channels) {
        return Err(StreamError::NoGrey { shape });
    }
    let n_classes = match data.classes {
        0 => source.train.classes.len(),
        n => n,
    };
    if n_classes > source.train.classes.len() {
        return Err(StreamError::TooFewClasses { expected: n_classes, found: source.train.classes.len() });
    }
    let per_class = data.samples_per_class;
    source.train = reduced(source.train, n_classes, per_class, "data.samples_per_class")?;
    let per_class = data.test_samples_per_class;
    source.test = reduced(source.test, n_classes, per_class, "data.test_samples_per_class")?;
    domain::transform(&mut source, stream)?;
    source.normalization = match &data.normalization {
        NormalizationConfig::Measured(_) => Normalization::of(&source.train),
        NormalizationConfig::Given(given) => {
            if given.mean.len() != usize::from(shape.channels) {
                return Err(StreamError::Normalization { channels: shape.channels, found: given.mean.len() });
            }
            let in_pixels = |values: &[f64]| values.iter().map(|v| (v * WHITE) as f32).collect();
            Normalization { mean: in_pixels(&given.mean), std: in_pixels(&given.std) }
        }
    };
    Ok(source)
}

/// The first `per_class` samples (0: all) of each of the first `n_classes` classes, in the order of the data set.
fn reduced(
    data: Dataset,
    n_classes: usize,
    per_class: usize,
    key: &'static str,
) -> Result<Dataset, StreamError> {
    if n_classes == data.classes.len() && per_class == 0 {
        return Ok(data);
    }
    let Dataset { mut classes, shape, pixels, labels } = data;
    classes.truncate(n_classes);
    let mut n_kept = vec![0; n_classes];
    let mut kept = Dataset { classes, shape, pixels: Vec::new(), labels: Vec::new() };
    for (image, label) in pixels.chunks_exact(shape.n_pixels()).zip(labels) {
        let Some(n) = n_kept.get_mut(usize::from(label)) else { continue };
        if per_class == 0 || *n < per_class {
            *n += 1;
            kept.pixels.extend_from_slice(image);
            kept.labels.push(label);
        }
    }
    match n_kept.iter().position(|n| *n < per_class) {
        Some(class) => Err(StreamError::TooFewSamples {
            key,
            class: kept.classes[class].clone(),
            expected: per_class,
            found: n_kept[class],
        }),
        None => Ok(kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ColorJitterConfig, GivenNormalization};
    use crate::data::ImageShape;
    use crate::ids::SampleId;

    fn digits() -> DataSource {
        crate::data::load("digits").unwrap()
    }

    fn made(data: &DataConfig) -> Result<DataSource, StreamError> {
        prepared(digits(), data, &StreamConfig::default())
    }

    #[test]
    fn what_is_not_asked_for_changes_nothing() {
        assert_eq!(made(&DataConfig::default()).unwrap(), digits());
    }

    #[test]
    fn reduced_forms_have_the_first_samples_of_the_first_classes() {
        let config = DataConfig {
            classes: 4,
            samples_per_class: 10,
            test_samples_per_class: 3,
            ..DataConfig::default()
        };
        let (whole, source) = (digits(), made(&config).unwrap());
        assert_eq!((source.train.len(), source.test.len()), (40, 12));
        assert_eq!(source.train.classes, ["0", "1", "2", "3"]);
        let n = whole.train.shape.n_pixels();
        for class in 0..4 {
            let first = |data: &Dataset, count: usize| -> Vec<u8> {
                let ids = (0..data.len() as u32).map(SampleId).filter(|id| data.label(*id) == class);
                ids.take(count).flat_map(|id| data.image(id).to_vec()).collect()
            };
            assert_eq!(first(&source.train, usize::MAX), first(&whole.train, 10), "class {class}");
            assert_eq!(first(&source.test, usize::MAX), first(&whole.test, 3), "class {class}");
            assert_eq!(first(&source.train, usize::MAX).len(), 10 * n);
        }
        assert_eq!(source.normalization, Normalization::of(&source.train));
        assert_ne!(source.normalization, whole.normalization);
        let classes = made(&DataConfig { classes: 2, ..DataConfig::default() }).unwrap();
        assert_eq!((classes.train.len(), classes.test.len()), (142 + 145, 36 + 37));
    }

    #[test]
    fn given_normalization_is_in_units_of_white() {
        let given = GivenNormalization { mean: vec![0.5], std: vec![0.25] };
        let config = DataConfig { normalization: NormalizationConfig::Given(given), ..DataConfig::default() };
        let expected = Normalization { mean: vec![127.5], std: vec![63.75] };
        assert_eq!(made(&config).unwrap().normalization, expected);
    }

    #[test]
    fn what_the_data_do_not_have_is_refused() {
        let refused = |config: DataConfig| made(&config).unwrap_err().to_string();
        let base = DataConfig::default;
        let error = refused(DataConfig { classes: 11, ..base() });
        assert!(error.contains("at most the 10 classes of the data, found 11"), "{error}");
        let error = refused(DataConfig { samples_per_class: 140, ..base() });
        assert!(error.contains("`data.samples_per_class` = 140, but class `8` has 139"), "{error}");
        let error = refused(DataConfig { test_samples_per_class: 36, ..base() });
        assert!(error.contains("`data.test_samples_per_class` = 36, but class `8` has 35"), "{error}");
        let three = GivenNormalization { mean: vec![0.5; 3], std: vec![0.25; 3] };
        let error = refused(DataConfig { normalization: NormalizationConfig::Given(three), ..base() });
        assert!(error.contains("for each of 1 channels, found 3"), "{error}");
        let mut two = digits();
        for data in [&mut two.train, &mut two.test] {
            data.shape = ImageShape { channels: 2, height: 4, width: 8 };
        }
        let jitter = |color_jitter| DataConfig { color_jitter, ..base() };
        let none = ColorJitterConfig::default();
        let stream = StreamConfig::default();
        let brightness = jitter(ColorJitterConfig { brightness: 0.5, ..none });
        assert!(prepared(two.clone(), &brightness, &stream).is_ok(), "any channel has a brightness");
        let saturation = jitter(ColorJitterConfig { saturation: 0.5, ..none });
        let error = prepared(two, &saturation, &stream).unwrap_err().to_string();
        assert!(error.contains("found images of 2x4x8"), "{error}");
    }
}
