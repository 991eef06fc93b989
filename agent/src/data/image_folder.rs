//! Image folders: `train/<class>/*.png` or `.jpg`, and `test/<class>/…`, in a folder or an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    let (first, size, mut is_grey) = match first {
        Some((file, image)) => (tree.path(&file.name), Some((image.width, image.height)), image.is_grey),
        None => (PathBuf::new(), None, true),
    };
    let (width, height) = size.unwrap_or((1, 1));
    let (train_files, test_files) = files.split_at(n_train);
    let (shape, train, tested) = loop {
        let shape = ImageShape::of(if is_grey { 1 } else { 3 }, height, width)
            .expect("invariant: a decoder refuses sizes that are too large");
        check_pixels(train_files.len(), shape, &tree.path(TRAIN))?;
        check_pixels(test_files.len(), shape, &tree.path(test))?;
        let decoder = Decoder { tree, size, shape, n_done: AtomicUsize::new(0), n_files: files.len() };
        let decode = |files| decoder.decode(files, reading.on_progress);
        match decode(train_files).and_then(|train| Some((train, decode(test_files)?))) {
            Some((train, test)) => break (shape, train, test),
            // Among grey images there is one that is not.
            None => is_grey = false,
        }
    };
    let mut damaged = Vec::new();
    let mut split = |files: &[File], Decoded { mut pixels, failed }: Decoded| {
        let n_pixels = shape.n_pixels();
        let mut labels = Vec::with_capacity(files.len());
        for (index, file) in files.iter().enumerate() {
            if !failed.contains_key(&index) {
                pixels.copy_within(index * n_pixels..(index + 1) * n_pixels, labels.len() * n_pixels);
                labels.push(file.label);
            }
        }
        pixels.truncate(labels.len() * n_pixels);
        for (index, error) in failed {
            let path = tree.path(&files[index].name);
            damaged.push(Damaged { error: described(error, path.clone(), &first, size), path });
        }
        Dataset { classes: classes.clone(), shape, pixels, labels }
    };
    let (train_split, test_split) = (split(train_files, train), split(test_files, tested));
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

/// The images of a split.
struct Decoded {
    /// `[n, C, H, W]`; of those that failed, anything.
    pixels: Vec<u8>,
    /// By their places.
    failed: BTreeMap<usize, Failed>,
}

/// What decodes the images of both splits to one shape.
struct Decoder<'a> {
    tree: &'a Tree,
    /// Width and height that all must have; nothing where no image could be decoded.
    size: Option<(usize, usize)>,
    shape: ImageShape,
    n_done: AtomicUsize,
    n_files: usize,
}

impl Decoder<'_> {
    /// Decodes in as many threads as there are processors, each image into its place; `None` if one is of colour where
    /// the shape has none. What is decoded, and its order, do not depend on the threads.
    fn decode(&self, files: &[File], on_progress: &(dyn Fn(usize, usize) + Sync)) -> Option<Decoded> {
        let n_pixels = self.shape.n_pixels();
        let mut pixels = vec![0; files.len() * n_pixels];
        let chunks = pixels.chunks_mut(CHUNK * n_pixels).zip(files.chunks(CHUNK)).enumerate();
        let n_threads = thread::available_parallelism().map_or(1, usize::from).min(chunks.len());
        let (chunks, is_of_colour) = (Mutex::new(chunks), AtomicBool::new(false));
        let failed = Mutex::new(BTreeMap::new());
        let work = || {
            while !is_of_colour.load(Ordering::Relaxed) {
                let Some((chunk, (pixels, files))) = locked(&chunks).next() else { return };
                for (i, (file, out)) in files.iter().zip(pixels.chunks_exact_mut(n_pixels)).enumerate() {
                    match image(self.tree, &file.name, self.size) {
                        Ok(image) if self.shape.channels == 1 && !image.is_grey => {
                            return is_of_colour.store(true, Ordering::Relaxed);
                        }
                        Ok(image) => write_channels_first(&image, out),
                        Err(error) => _ = locked(&failed).insert(chunk * CHUNK + i, error),
                    }
                }
                let n_done = self.n_done.fetch_add(files.len(), Ordering::Relaxed) + files.len();
                on_progress(n_done, self.n_files);
            }
        };
        thread::scope(|scope| {
            (1..n_threads).for_each(|_| _ = scope.spawn(work));
            work();
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        (!is_of_colour.into_inner()).then_some(Decoded { pixels, failed })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `[H, W]` or `[H, W, 3]` as `[C, H, W]`; grey among colours becomes a colour.
fn write_channels_first(image: &Image, out: &mut [u8]) {
    let n_samples = if image.is_grey { 1 } else { 3 };
    for (channel, out) in out.chunks_exact_mut(image.width * image.height).enumerate() {
        let samples = image.pixels.iter().skip(channel % n_samples).step_by(n_samples);
        out.iter_mut().zip(samples).for_each(|(out, sample)| *out = *sample);
    }
}

#[cfg(test)]
mod tests;
