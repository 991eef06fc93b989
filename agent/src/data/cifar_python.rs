//! CIFAR-10 and CIFAR-100, Python release: pickled dictionaries with a NumPy array of bytes `[n, 3072]` and lists of
//! labels.

use super::cifar::{self, BATCHES, SHAPE};
use super::format::{Reading, Splits};
use super::pickle::{self, Value};
use super::tree::{Listing, Tree};
use super::{DataError, Dataset, check_classes, check_pixels, limits};

/// One of the two data sets.
struct Release {
    train: &'static [&'static str],
    test: &'static str,
    meta: &'static str,
    /// Key of the labels in a batch.
    labels: &'static str,
    /// Key of the classes' names in `meta`.
    names: &'static str,
}

const RELEASES: [Release; 2] = [
    Release {
        train: &BATCHES,
        test: "test_batch",
        meta: "batches.meta",
        labels: "labels",
        names: "label_names",
    },
    Release {
        train: &["train"],
        test: "test",
        meta: "meta",
        labels: "fine_labels",
        names: "fine_label_names",
    },
];

fn release(listing: &Listing) -> Option<&'static Release> {
    let has = |name: &str| listing.files.contains(name);
    let has_images = |release: &Release| release.train.iter().any(|name| has(name)) || has(release.test);
    // `train` and `test` alone may be anything.
    RELEASES.iter().find(|release| has_images(release) && (release.train.len() > 1 || has(release.meta)))
}

pub(super) fn recognise(listing: &Listing) -> bool {
    release(listing).is_some()
}

pub(super) fn read(tree: &Tree, reading: &Reading) -> Result<Splits, DataError> {
    let listing = tree.list("")?;
    let Some(release) = release(&listing) else {
        return Err(DataError::NoImages { path: tree.root_path() });
    };
    let classes = class_names(tree, release)?;
    cifar::splits(tree, &listing, reading, &classes, [release.train, &[release.test]], |name, data| {
        add_batch(tree, name, release, data)
    })
}

fn add_batch(tree: &Tree, name: &str, release: &Release, data: &mut Dataset) -> Result<(), DataError> {
    let path = tree.path(name);
    // File names and labels are beside the pixels.
    let bytes = tree.read(name, 2 * limits::MAX_PIXEL_BYTES)?;
    let batch = pickle::read(&bytes, &path)?;
    let wrong = |key: &str, expected: String, found: String| {
        DataError::format(&path, format!("{expected} under `{key}`"), found)
    };
    let array = match batch.get("data") {
        Some(Value::Array(array)) => array,
        other => return Err(wrong("data", "an array".to_owned(), pickle::kind(other))),
    };
    let n_images = match array.shape[..] {
        [n, row] if array.element == b"u1" && row == SHAPE.n_pixels() => n,
        _ => {
            let found = format!("{} {:?}", String::from_utf8_lossy(array.element), array.shape);
            return Err(wrong("data", format!("an array u1 [n, {}]", SHAPE.n_pixels()), found));
        }
    };
    let labels = match batch.get(release.labels) {
        Some(Value::Sequence { items, .. }) => items,
        other => return Err(wrong(release.labels, "a list".to_owned(), pickle::kind(other))),
    };
    if labels.len() != n_images {
        return Err(DataError::Counts { path, images: n_images, labels: labels.len() });
    }
    check_pixels(data.len() + n_images, SHAPE, &path)?;
    for (image, label) in labels.iter().enumerate() {
        let Value::Int(label) = *label else {
            return Err(wrong(release.labels, "a list of integers".to_owned(), pickle::kind(Some(label))));
        };
        let n_classes = data.classes.len();
        match u16::try_from(label).ok().filter(|label| usize::from(*label) < n_classes) {
            Some(label) => data.labels.push(label),
            None => return Err(DataError::Label { path, image, label, n_classes }),
        }
    }
    if array.columns_first {
        for image in 0..n_images {
            data.pixels.extend(array.data.iter().skip(image).step_by(n_images));
        }
    } else {
        data.pixels.extend_from_slice(&array.data);
    }
    Ok(())
}

fn class_names(tree: &Tree, release: &Release) -> Result<Vec<String>, DataError> {
    let path = tree.path(release.meta);
    let bytes = tree.read(release.meta, limits::MAX_NAMES_BYTES)?;
    let meta = pickle::read(&bytes, &path)?;
    let expected = || format!("a list of names under `{}`", release.names);
    let Some(Value::Sequence { items, .. }) = meta.get(release.names) else {
        return Err(DataError::format(&path, expected(), pickle::kind(meta.get(release.names))));
    };
    check_classes(items.len(), &path)?;
    let name = |item: &Value| match item {
        Value::Text(name) => Ok(String::from_utf8_lossy(name).into_owned()),
        other => Err(DataError::format(&path, expected(), pickle::kind(Some(other)))),
    };
    items.iter().map(name).collect()
}

#[cfg(test)]
mod tests;
