//! Domains: which sample is of which, and what its images look like.

use super::{Domains, StreamError, StreamKind};
use crate::config::StreamConfig;
use crate::data::{DataSource, Dataset, ImageShape};
use crate::draw::Draw;

/// The domain of each training sample and of each test sample: the samples of every class are shuffled, and all are
/// dealt out one by one, from class to class.
///
/// # Errors
/// [`StreamError::TooFewForDomains`] if a class cannot be in every domain.
pub(super) fn domains_of(
    source: &DataSource,
    n_domains: usize,
    seed: u64,
) -> Result<[Vec<u16>; 2], StreamError> {
    let draw = Draw::new(seed, "domains");
    let deal = |data: &Dataset, number: u64, split: &'static str| {
        let mut domains = vec![0; data.len()];
        let mut next = (0..n_domains).map(|domain| domain as u16).cycle();
        for (class, name) in (0_u16..).zip(&data.classes) {
            let mut ids: Vec<usize> = (0..data.len()).filter(|id| data.labels[*id] == class).collect();
            if ids.len() < n_domains {
                return Err(StreamError::TooFewForDomains {
                    class: name.clone(),
                    split,
                    found: ids.len(),
                    experiences: n_domains,
                });
            }
            draw.shuffle(&mut ids, &[number, u64::from(class)]);
            ids.into_iter().zip(next.by_ref()).for_each(|(id, domain)| domains[id] = domain);
        }
        Ok(domains)
    };
    Ok([deal(&source.train, 0, "training")?, deal(&source.test, 1, "test")?])
}

/// Makes the images of both splits those of their domains, in their place.
///
/// # Errors
/// [`StreamError`] if the images cannot be turned, or a class cannot be in every domain.
pub(super) fn transform(source: &mut DataSource, config: &StreamConfig) -> Result<(), StreamError> {
    if config.kind != StreamKind::DomainIncremental || config.domains == Domains::Instances {
        return Ok(());
    }
    let shape = source.train.shape;
    if config.domains == Domains::Rotate && shape.height != shape.width {
        return Err(StreamError::NotSquare { shape });
    }
    let [train, test] = domains_of(source, config.experiences, config.seed)?;
    // For each domain, which pixel of the image comes to each place.
    let order = |domain: u64| match config.domains {
        Domains::Permute => permutation(shape, config.seed, domain),
        Domains::Rotate | Domains::Instances => turns(shape, domain),
    };
    let orders: Vec<Vec<usize>> = (0..config.experiences as u64).map(order).collect();
    for (data, domains) in [(&mut source.train, train), (&mut source.test, test)] {
        let images = data.pixels.chunks_exact_mut(shape.n_pixels());
        for (image, domain) in images.zip(domains) {
            let order = &orders[usize::from(domain)];
            for channel in image.chunks_exact_mut(order.len()) {
                let before = channel.to_vec();
                channel.iter_mut().zip(order).for_each(|(pixel, from)| *pixel = before[*from]);
            }
        }
    }
    Ok(())
}

/// So many quarter turns against the clock of a square image.
fn turns(shape: ImageShape, quarters: u64) -> Vec<usize> {
    let n = usize::from(shape.width);
    let mut order: Vec<usize> = (0..n * n).collect();
    for _ in 0..quarters % 4 {
        // The top row of a turned image is the right column of the image.
        order = (0..n * n).map(|at| order[(at % n) * n + n - 1 - at / n]).collect();
    }
    order
}

/// A shuffle of the pixels of a channel; none for the first domain.
fn permutation(shape: ImageShape, seed: u64, domain: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..usize::from(shape.height) * usize::from(shape.width)).collect();
    if domain > 0 {
        Draw::new(seed, "permutation").shuffle(&mut order, &[domain]);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SampleId;
    use crate::stream::ExperienceStream;

    fn config(domains: Domains, experiences: usize) -> StreamConfig {
        StreamConfig { kind: StreamKind::DomainIncremental, domains, experiences, ..StreamConfig::default() }
    }

    #[test]
    fn turning_is_against_the_clock_and_four_quarters_are_none() {
        let shape = ImageShape { channels: 1, height: 3, width: 3 };
        assert_eq!(turns(shape, 1), [2, 5, 8, 1, 4, 7, 0, 3, 6]);
        assert_eq!(turns(shape, 2), [8, 7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(turns(shape, 4), turns(shape, 0));
    }

    #[test]
    fn images_are_those_of_their_domain_and_the_first_stays() {
        let source = crate::data::load("digits").unwrap();
        for (domains, n) in [(Domains::Rotate, 4), (Domains::Permute, 5), (Domains::Instances, 5)] {
            let config = config(domains, n);
            let mut changed = source.clone();
            transform(&mut changed, &config).unwrap();
            let stream = ExperienceStream::new(&source, &config).unwrap();
            assert_eq!(stream, ExperienceStream::new(&changed, &config).unwrap(), "labels decide alone");
            for experience in stream.experiences() {
                let domain = usize::from(experience.task);
                let mut n_changed = 0;
                let splits = [
                    (&experience.train, &source.train, &changed.train),
                    (&experience.test, &source.test, &changed.test),
                ];
                for (ids, before, after) in splits {
                    for &id in ids {
                        let (before, after) = (before.image(id), after.image(id));
                        let sorted = |image: &[u8]| {
                            let mut image = image.to_vec();
                            image.sort_unstable();
                            image
                        };
                        assert_eq!(sorted(before), sorted(after), "pixels only move");
                        n_changed += usize::from(before != after);
                        if domains == Domains::Rotate && domain == 2 {
                            assert!(before.iter().rev().eq(after), "half a turn");
                        }
                    }
                }
                let moved = domains != Domains::Instances && domain > 0;
                let all = experience.train.len() + experience.test.len();
                assert_eq!(n_changed > all * 9 / 10, moved, "{domains:?} {domain}: {n_changed} of {all}");
                assert!(moved || n_changed == 0, "{domains:?} {domain}");
            }
        }
    }

    #[test]
    fn domains_have_equally_many_samples_and_follow_the_seed() {
        let source = crate::data::load("digits").unwrap();
        let [train, test] = domains_of(&source, 7, 0).unwrap();
        let count = |domains: &[u16], domain| domains.iter().filter(|d| **d == domain).count();
        for domain in 0..7 {
            assert!((204..=205).contains(&count(&train, domain)), "{domain}");
            assert_eq!(count(&test, domain), 52, "{domain}");
        }
        assert_ne!(domains_of(&source, 7, 1).unwrap()[0], train);
        // A value of docs/streams.md.
        assert_eq!(permutation(source.train.shape, 0, 1)[..8], [33, 59, 9, 31, 54, 47, 23, 24]);
        assert_ne!(permutation(source.train.shape, 0, 1), permutation(source.train.shape, 0, 2));
        assert_ne!(permutation(source.train.shape, 0, 1), permutation(source.train.shape, 1, 1));
    }

    #[test]
    fn only_square_images_are_turned() {
        let mut source = crate::data::load("digits").unwrap();
        let square = transform(&mut source.clone(), &config(Domains::Rotate, 4));
        assert!(square.is_ok());
        for data in [&mut source.train, &mut source.test] {
            data.shape = ImageShape { channels: 1, height: 4, width: 16 };
        }
        let error = transform(&mut source, &config(Domains::Rotate, 4)).unwrap_err().to_string();
        assert!(error.contains("found images of 1x4x16"), "{error}");
        let before = source.train.image(SampleId(0)).to_vec();
        transform(&mut source, &config(Domains::Permute, 4)).unwrap();
        assert_eq!(source.train.image(SampleId(0)).len(), before.len());
    }
}
