//! Image folders: `train/<class>/*.png` or `.jpg`, and `test/<class>/…`, in a folder or an archive.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::decode::{self, DecodeError, Image};
use super::format::{Damaged, Reading, Splits, Wanted};
use super::tree::{Listing, Tree};
use super::{DataError, Dataset, ImageShape, check_classes, check_pixels, limits};

const TRAIN: &str = "train";
/// Names of the test split's folder; the first that is there counts.
const TEST: [&str; 3] = ["test", "val", "valid"];
/// Endings of the names of images, in small letters.
const ENDINGS: [&str; 3] = [".png", ".jpg", ".jpeg"];
/// Images that a thread decodes before it takes more.
const CHUNK: usize = 64;

pub(super) fn recognise(listing: &Listing) -> bool {
    [TRAIN].iter().chain(&TEST).any(|folder| listing.folders.contains(*folder))
}

/// An image that is to be read.
struct File {
    name: String,
    label: u16,
}

pub(super) fn read(tree: &Tree, reading: &Reading) -> Result<Splits, DataError> {
    let folders = tree.list("")?.folders;
    let missing = |split, expected: &str| DataError::Missing {
        path: tree.root_path(),
        split,
        expected: expected.to_owned(),
    };
    let Some(test) = TEST.into_iter().find(|name| folders.contains(*name)) else {
        return Err(missing(
            "test",
            "a folder `test`, `val` or `valid` beside `train`, with a folder for each class",
        ));
    };
    let mut classes = tree.list(test)?.folders;
    if folders.contains(TRAIN) {
        let trained = tree.list(TRAIN)?.folders;
        if let Some(other) = classes.difference(&trained).next() {
            return Err(DataError::TestClass { path: tree.path(&format!("{test}/{other}")) });
        }
        classes = trained;
    } else if reading.wanted == Wanted::Both {
        return Err(missing("training", "a folder `train` with a folder for each class"));
    }
    check_classes(classes.len(), &tree.root_path())?;
    let mut files = match reading.wanted {
        Wanted::Both => images(tree, TRAIN, &classes)?,
        Wanted::Test => Vec::new(),
    };
    let n_train = files.len();
    files.extend(images(tree, test, &classes)?);
    assemble(tree, reading, files, n_train, test, classes.into_iter().collect())
}

/// The images of a split: its classes in order, file names in the order of their bytes.
fn images(tree: &Tree, split: &str, classes: &BTreeSet<String>) -> Result<Vec<File>, DataError> {
    let there = tree.list(split)?.folders;
    let mut files = Vec::new();
    for (label, class) in (0..=u16::MAX).zip(classes) {
        if !there.contains(class) {
            continue;
        }
        for name in tree.list(&format!("{split}/{class}"))?.files {
            let small = name.to_ascii_lowercase();
            if ENDINGS.iter().any(|ending| small.ends_with(ending)) {
                files.push(File { name: format!("{split}/{class}/{name}"), label });
            }
        }
    }
    if files.is_empty() {
        return Err(DataError::NoImages { path: tree.path(split) });
    }
    Ok(files)
}

/// Decodes all files and puts the images of each split together; the first `n_train` files are for training.
fn assemble(
    tree: &Tree,
    reading: &Reading,
    files: Vec<File>,
    n_train: usize,
    test: &str,
    classes: Vec<String>,
) -> Result<Splits, DataError> {
    let first = files.iter().find_map(|file| Some((file, image(tree, &file.name, None).ok()?)));
    let (first, size, is_grey) = match first {
        Some((file, image)) => (tree.path(&file.name), Some((image.width, image.height)), image.is_grey),
        None => (PathBuf::new(), None, true),
    };
    let (width, height) = size.unwrap_or((1, 1));
    let shape = |is_grey| {
        let shape = ImageShape::of(if is_grey { 1 } else { 3 }, height, width);
        shape.expect("invariant: a decoder refuses sizes that are too large")
    };
    let check_splits = |shape| {
        check_pixels(n_train, shape, &tree.path(TRAIN))?;
        check_pixels(files.len() - n_train, shape, &tree.path(test))
    };
    // Before memory is taken, as far as the first image tells.
    check_splits(shape(is_grey))?;

    let decoded = decode_all(tree, &files, size, reading.on_progress);
    let is_grey = decoded.iter().flatten().all(|image| image.is_grey);
    let shape = shape(is_grey);
    check_splits(shape)?;
    let empty = |n: usize| Dataset {
        classes: classes.clone(),
        shape,
        pixels: Vec::with_capacity(n * shape.n_pixels()),
        labels: Vec::with_capacity(n),
    };
    let (mut train_split, mut test_split) = (empty(n_train), empty(files.len() - n_train));
    let mut damaged = Vec::new();
    for (index, (file, image)) in files.iter().zip(decoded).enumerate() {
        let split = if index < n_train { &mut train_split } else { &mut test_split };
        match image {
            Ok(image) => {
                add_channels_first(&image, is_grey, &mut split.pixels);
                split.labels.push(file.label);
            }
            Err(error) => {
                let path = tree.path(&file.name);
                damaged.push(Damaged { error: described(error, path.clone(), &first, size), path });
            }
        }
    }
    // Where all are damaged, the first of them says more than that there are none.
    let mut checked = |split: Dataset, name: &str| match split.is_empty() && !damaged.is_empty() {
        true => Err(damaged.remove(0).error),
        false => split.checked(&tree.path(name)),
    };
    let train = match reading.wanted {
        Wanted::Both => Some(checked(train_split, TRAIN)?),
        Wanted::Test => None,
    };
    let test = checked(test_split, test)?;
    Ok(Splits { train, test, damaged })
}

/// Why an image is not there.
enum Failed {
    Read(DataError),
    Decode(DecodeError),
}

fn described(failed: Failed, path: PathBuf, first: &Path, size: Option<(usize, usize)>) -> DataError {
    match (failed, size) {
        (Failed::Read(error), _) => error,
        (Failed::Decode(DecodeError::Size { width, height }), Some((first_width, first_height))) => {
            DataError::ImageSizes {
                path,
                size: format!("{width}x{height}"),
                first: first.to_owned(),
                first_size: format!("{first_width}x{first_height}"),
            }
        }
        (Failed::Decode(error), _) => {
            DataError::format(path, "a whole PNG or JPEG image of at most 65535x65535", error.to_string())
        }
    }
}

fn image(tree: &Tree, name: &str, size: Option<(usize, usize)>) -> Result<Image, Failed> {
    let bytes = tree.read(name, limits::MAX_IMAGE_FILE_BYTES).map_err(Failed::Read)?;
    decode::decode(&bytes, size).map_err(Failed::Decode)
}

/// Decodes in as many threads as there are processors. What is decoded, and its order, do not depend on that.
fn decode_all(
    tree: &Tree,
    files: &[File],
    size: Option<(usize, usize)>,
    on_progress: &(dyn Fn(usize, usize) + Sync),
) -> Vec<Result<Image, Failed>> {
    let chunks: Vec<&[File]> = files.chunks(CHUNK).collect();
    let (next, n_done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let mut decoded = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = chunks.get(index) else { return decoded };
            let images: Vec<_> = chunk.iter().map(|file| image(tree, &file.name, size)).collect();
            decoded.push((index, images));
            on_progress(n_done.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len(), files.len());
        }
    };
    let n_threads = thread::available_parallelism().map_or(1, usize::from).min(chunks.len());
    let mut decoded = thread::scope(|scope| {
        let others: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
        let mut decoded = work();
        for other in others {
            decoded.extend(other.join().expect("invariant: decoding does not panic"));
        }
        decoded
    });
    decoded.sort_by_key(|(index, _)| *index);
    decoded.into_iter().flat_map(|(_, images)| images).collect()
}

/// `[H, W]` or `[H, W, 3]` as `[C, H, W]`; grey among colours becomes a colour.
fn add_channels_first(image: &Image, is_grey: bool, out: &mut Vec<u8>) {
    match (image.is_grey, is_grey) {
        (true, true) => out.extend_from_slice(&image.pixels),
        (true, false) => (0..3).for_each(|_| out.extend_from_slice(&image.pixels)),
        (false, _) => {
            for channel in 0..3 {
                out.extend(image.pixels.iter().skip(channel).step_by(3));
            }
        }
    }
}

#[cfg(test)]
mod tests;
