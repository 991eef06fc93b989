//! CIFAR-10 and CIFAR-100 (Krizhevsky 2009), binary release: records of labels and 3x32x32 pixels, nothing else.

use super::format::{Reading, Splits, Wanted};
use super::tree::{Listing, Tree};
use super::{DataError, Dataset, ImageShape, check_pixels, limits};

/// Of all images, channels first.
pub(super) const SHAPE: ImageShape = ImageShape { channels: 3, height: 32, width: 32 };
/// Batches of CIFAR-10's training split at most: as many as are published.
pub(super) const BATCHES: [&str; 5] =
    ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"];

/// One of the two data sets.
struct Release {
    train: &'static [&'static str],
    test: &'static str,
    /// A file with one class name a line.
    names: &'static str,
    n_classes: usize,
    /// Labels of a record; the last is the one that is used: the fine one.
    n_labels: usize,
}

const RELEASES: [Release; 2] = [
    Release {
        train: &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        test: "test_batch.bin",
        names: "batches.meta.txt",
        n_classes: 10,
        n_labels: 1,
    },
    Release {
        train: &["train.bin"],
        test: "test.bin",
        names: "fine_label_names.txt",
        n_classes: 100,
        n_labels: 2,
    },
];

fn release(listing: &Listing) -> Option<&'static Release> {
    let has = |name: &str| listing.files.contains(name);
    RELEASES.iter().find(|release| release.train.iter().any(|name| has(name)) || has(release.test))
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
    splits(tree, &listing, reading, &classes, [release.train, &[release.test]], |name, data| {
        add_records(tree, name, release, data)
    })
}

/// Training and test split from their files, in order, from each of which `add` takes the images.
pub(super) fn splits(
    tree: &Tree,
    listing: &Listing,
    reading: &Reading,
    classes: &[String],
    [train, test]: [&[&str]; 2],
    add: impl Fn(&str, &mut Dataset) -> Result<(), DataError>,
) -> Result<Splits, DataError> {
    let split = |split, files: &[&str]| -> Result<Dataset, DataError> {
        let mut data =
            Dataset { classes: classes.to_vec(), shape: SHAPE, pixels: Vec::new(), labels: Vec::new() };
        for name in files {
            if !listing.files.contains(*name) {
                let expected = format!("a file `{name}`");
                return Err(DataError::Missing { path: tree.root_path(), split, expected });
            }
            add(name, &mut data)?;
        }
        data.checked(&tree.root_path())
    };
    let train = match reading.wanted {
        Wanted::Both => Some(split("training", train)?),
        Wanted::Test => None,
    };
    Ok(Splits::whole(train, split("test", test)?))
}

fn add_records(tree: &Tree, name: &str, release: &Release, data: &mut Dataset) -> Result<(), DataError> {
    let path = tree.path(name);
    let record_bytes = release.n_labels + SHAPE.n_pixels();
    // Labels are a small share of the bytes of a record.
    let bytes = tree.read(name, 2 * limits::MAX_PIXEL_BYTES)?;
    if bytes.is_empty() {
        return Err(DataError::NoImages { path });
    }
    if !bytes.len().is_multiple_of(record_bytes) {
        let expected = format!("records of {record_bytes} bytes");
        return Err(DataError::format(path, expected, format!("{} bytes", bytes.len())));
    }
    check_pixels(data.len() + bytes.len() / record_bytes, SHAPE, &path)?;
    for (image, record) in bytes.chunks_exact(record_bytes).enumerate() {
        let (labels, pixels) = record.split_at(release.n_labels);
        let label = labels[release.n_labels - 1];
        if usize::from(label) >= release.n_classes {
            let n_classes = release.n_classes;
            return Err(DataError::Label { path, image, label: label.into(), n_classes });
        }
        data.labels.push(label.into());
        data.pixels.extend_from_slice(pixels);
    }
    Ok(())
}

/// One name a line; empty lines at the end are part of the release.
fn class_names(tree: &Tree, release: &Release) -> Result<Vec<String>, DataError> {
    let path = tree.path(release.names);
    let bytes = tree.read(release.names, limits::MAX_NAMES_BYTES)?;
    let text =
        str::from_utf8(&bytes).map_err(|_| DataError::format(&path, "text in UTF-8", "other bytes"))?;
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.len() != release.n_classes {
        let expected = format!("{} names, one a line", release.n_classes);
        return Err(DataError::format(path, expected, names.len().to_string()));
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
