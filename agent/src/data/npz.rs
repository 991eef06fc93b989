//! NPZ files with the arrays of both splits, named as Keras or as MedMNIST names them.

use super::format::{Reading, Splits, Wanted};
use super::npy;
use super::tree::{Listing, Tree};
use super::{DataError, Dataset, ImageShape, check_classes, check_pixels, limits, numbered};

/// Images and labels of a split.
struct Names {
    images: &'static str,
    labels: &'static str,
}

/// Training split, test split.
const SCHEMES: [[Names; 2]; 2] = [
    [
        Names { images: "x_train.npy", labels: "y_train.npy" },
        Names { images: "x_test.npy", labels: "y_test.npy" },
    ],
    [
        Names { images: "train_images.npy", labels: "train_labels.npy" },
        Names { images: "test_images.npy", labels: "test_labels.npy" },
    ],
];
/// Names of the classes, where there are any.
const CLASSES: [&str; 2] = ["classes.npy", "label_names.npy"];
/// Arrays that an error says were found.
const MAX_NAMED: usize = 16;

fn scheme(listing: &Listing) -> Option<&'static [Names; 2]> {
    SCHEMES.iter().find(|scheme| scheme.iter().any(|names| listing.files.contains(names.images)))
}

pub(super) fn recognise(listing: &Listing) -> bool {
    scheme(listing).is_some()
}

pub(super) fn read(tree: &Tree, reading: &Reading) -> Result<Splits, DataError> {
    let listing = tree.list("")?;
    let Some([train, test]) = scheme(&listing) else {
        return Err(DataError::NoImages { path: tree.root_path() });
    };
    let is_wanted = reading.wanted == Wanted::Both;
    let wanted = if is_wanted { &[train, test][..] } else { &[test] };
    check_there(tree, &listing, wanted.iter().flat_map(|names| [names.images, names.labels]))?;
    let test_labels = labels(tree, test.labels)?;
    // Also for the test split alone: the classes are those of both.
    let train_labels = match is_wanted || listing.files.contains(train.labels) {
        true => labels(tree, train.labels)?,
        false => Vec::new(),
    };
    let classes = match CLASSES.iter().find(|name| listing.files.contains(**name)) {
        Some(name) => class_names(tree, name)?,
        None => numbered(&[&train_labels, &test_labels]),
    };
    let split = |names: &Names, labels| -> Result<Dataset, DataError> {
        let (shape, pixels) = images(tree, names.images)?;
        Dataset { classes: classes.clone(), shape, pixels, labels }.checked(&tree.path(names.images))
    };
    let train = match is_wanted {
        true => Some(split(train, train_labels)?),
        false => None,
    };
    Ok(Splits::whole(train, split(test, test_labels)?))
}

/// Refuses a file that lacks one of these arrays, and names all that it lacks.
fn check_there<'a>(
    tree: &Tree,
    listing: &Listing,
    wanted: impl Iterator<Item = &'a str>,
) -> Result<(), DataError> {
    let named = |name: &str| format!("`{}`", name.trim_end_matches(".npy"));
    let missing: Vec<String> = wanted.filter(|name| !listing.files.contains(*name)).map(named).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let found = listing.files.iter().take(MAX_NAMED).map(|name| named(name)).collect();
    Err(DataError::Arrays { path: tree.root_path(), missing, found })
}

/// Images `[n, H, W]`, `[n, H, W, C]` or `[n, C, H, W]` with 1 or 3 channels, as `[n, C, H, W]`.
fn images(tree: &Tree, name: &str) -> Result<(ImageShape, Vec<u8>), DataError> {
    let path = tree.path(name);
    let bytes = tree.read(name, 2 * limits::MAX_PIXEL_BYTES)?;
    let array = npy::read(&bytes, &path)?;
    if array.element != "|u1" && array.element != "<u1" {
        let expected = "images of unsigned bytes (`uint8`, 0 to 255)";
        return Err(DataError::format(path, expected, format!("`{}`", array.element)));
    }
    let is_channels = |n: usize| n == 1 || n == 3;
    let (shape, channels_last) = match array.shape[..] {
        [_, h, w] => (ImageShape::of(1, h, w), false),
        [_, h, w, c] if is_channels(c) && !is_channels(h) => (ImageShape::of(c, h, w), true),
        [_, c, h, w] if is_channels(c) && !is_channels(w) => (ImageShape::of(c, h, w), false),
        _ => (None, false),
    };
    let Some(shape) = shape else {
        let expected =
            "images [n, H, W], or [n, H, W, C] or [n, C, H, W] with 1 or 3 channels, and no doubt which";
        return Err(DataError::format(path, expected, format!("{:?}", array.shape)));
    };
    check_pixels(array.shape[0], shape, &path)?;
    if !channels_last {
        return Ok((shape, array.data.to_vec()));
    }
    let mut pixels = Vec::with_capacity(array.data.len());
    for image in array.data.chunks_exact(shape.n_pixels()) {
        for channel in 0..usize::from(shape.channels) {
            pixels.extend(image.iter().skip(channel).step_by(shape.channels.into()));
        }
    }
    Ok((shape, pixels))
}

/// Labels `[n]` or `[n, 1]`.
fn labels(tree: &Tree, name: &str) -> Result<Vec<u16>, DataError> {
    let path = tree.path(name);
    // Eight bytes at most, for an image of one byte at least.
    let bytes = tree.read(name, 8 * limits::MAX_PIXEL_BYTES)?;
    let array = npy::read(&bytes, &path)?;
    let wrong = || {
        let found = format!("`{}` {:?}", array.element, array.shape);
        DataError::format(&path, "labels [n] or [n, 1], integers", found)
    };
    if !matches!(array.shape[..], [_] | [_, 1]) {
        return Err(wrong());
    }
    let labels = array.integers().ok_or_else(wrong)?;
    let label = |(image, label): (usize, i64)| {
        let n_classes = limits::MAX_CLASSES;
        u16::try_from(label).map_err(|_| DataError::Label { path: path.clone(), image, label, n_classes })
    };
    labels.into_iter().enumerate().map(label).collect()
}

fn class_names(tree: &Tree, name: &str) -> Result<Vec<String>, DataError> {
    let path = tree.path(name);
    let bytes = tree.read(name, limits::MAX_NAMES_BYTES)?;
    let array = npy::read(&bytes, &path)?;
    check_classes(array.shape.first().copied().unwrap_or(0), &path)?;
    match array.texts() {
        Some(texts) if array.shape.len() == 1 => Ok(texts),
        _ => {
            let found = format!("`{}` {:?}", array.element, array.shape);
            Err(DataError::format(path, "names of classes [K], texts", found))
        }
    }
}

#[cfg(test)]
mod tests;
