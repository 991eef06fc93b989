//! The table of formats, and how what lies at a path is recognised as one of them.
//!
//! To add one: its reader in a file of its own, and a line in [`FORMATS`].

use std::path::{Path, PathBuf};

use super::tree::{Listing, Tree};
use super::{DataError, DataSource, Dataset, cifar, cifar_python, digits, idx, image_folder, limits, npz};

/// How a data set may be kept.
#[derive(Debug)]
pub struct Format {
    pub name: &'static str,
    /// What an error says was expected.
    expected: &'static str,
    /// Whether a folder with these names in it holds one.
    recognise: fn(&Listing) -> bool,
    read: fn(&Tree, &Reading) -> Result<Splits, DataError>,
}

/// All formats; the first that recognises a folder reads it.
pub const FORMATS: [Format; 6] = [
    // By its name alone: it lies nowhere.
    Format { name: DIGITS, expected: "`digits`", recognise: |_| false, read: digits::read },
    Format {
        name: "IDX",
        expected: "the IDX files of MNIST and its relatives (`train-images-idx3-ubyte`, also as `.gz`)",
        recognise: idx::recognise,
        read: idx::read,
    },
    Format {
        name: "CIFAR, binary release",
        expected: "CIFAR-10 or CIFAR-100 (`data_batch_1.bin` or `train.bin`",
        recognise: cifar::recognise,
        read: cifar::read,
    },
    Format {
        name: "CIFAR, Python release",
        expected: "`data_batch_1`, or `train` and `meta`)",
        recognise: cifar_python::recognise,
        read: cifar_python::read,
    },
    Format {
        name: "NPZ",
        expected: "an NPZ file with `x_train` or `train_images`",
        recognise: npz::recognise,
        read: npz::read,
    },
    Format {
        name: "image folder",
        expected: "an image folder (`train/<class>/*.png` or `.jpg`)",
        recognise: image_folder::recognise,
        read: image_folder::read,
    },
];

/// The data set that the program holds.
const DIGITS: &str = "digits";

/// Which splits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Both,
    Test,
}

/// What a reader is told.
pub(super) struct Reading<'a> {
    pub wanted: Wanted,
    /// Called with (files read, files in all), from any thread, where there are many.
    pub on_progress: &'a (dyn Fn(usize, usize) + Sync),
}

/// What a reader gives.
#[derive(Debug)]
pub(super) struct Splits {
    /// There where both splits were wanted.
    pub train: Option<Dataset>,
    pub test: Dataset,
    /// Files that were left out, in their order.
    pub damaged: Vec<Damaged>,
}

/// A file that was left out.
#[derive(Debug)]
pub(super) struct Damaged {
    pub path: PathBuf,
    pub error: DataError,
}

impl Splits {
    /// Of a format that gives all or nothing.
    pub(super) fn whole(train: Option<Dataset>, test: Dataset) -> Self {
        Splits { train, test, damaged: Vec::new() }
    }

    /// Both, unless a file is damaged.
    ///
    /// # Errors
    /// The first damaged file's.
    fn undamaged(self) -> Result<(Option<Dataset>, Dataset), DataError> {
        match self.damaged.into_iter().next() {
            Some(damaged) => Err(damaged.error),
            None => Ok((self.train, self.test)),
        }
    }
}

/// Loads `digits`, which the program holds, or what lies at a path.
///
/// # Errors
/// [`DataError`], naming the file.
pub fn load(spec: &str) -> Result<DataSource, DataError> {
    let (format, tree) = find(spec)?;
    let reading = Reading { wanted: Wanted::Both, on_progress: &|_, _| () };
    let (train, test) = (format.read)(&tree, &reading)?.undamaged()?;
    DataSource::new(train.expect("invariant: a reader gives the splits it was asked for"), test)
}

/// Loads the test split alone; what only training needs may be missing.
///
/// # Errors
/// [`DataError`], naming the file.
pub fn load_test(spec: &str) -> Result<Dataset, DataError> {
    let (format, tree) = find(spec)?;
    let reading = Reading { wanted: Wanted::Test, on_progress: &|_, _| () };
    Ok((format.read)(&tree, &reading)?.undamaged()?.1)
}

/// Reads both splits of what lies at a path, leaving out files that are damaged.
pub(super) fn read(
    spec: &str,
    on_progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<(&'static Format, Splits), DataError> {
    let (format, tree) = find(spec)?;
    Ok((format, (format.read)(&tree, &Reading { wanted: Wanted::Both, on_progress })?))
}

/// The format of what lies at a path, and its files.
fn find(spec: &str) -> Result<(&'static Format, Tree), DataError> {
    if spec == DIGITS {
        return Ok((&FORMATS[0], digits::tree()));
    }
    let path = Path::new(spec);
    if !path.exists() {
        return Err(DataError::Unknown { path: path.to_owned() });
    }
    let unrecognized = || DataError::Unrecognized { path: path.to_owned(), expected: all_expected() };
    let mut tree = Tree::open(path)?.ok_or_else(unrecognized)?;
    let format = descend(&mut tree)?.ok_or_else(unrecognized)?;
    Ok((format, tree))
}

/// Enters the folder that holds a data set: this one, or the only one below it that does, or what an only folder
/// holds.
fn descend(tree: &mut Tree) -> Result<Option<&'static Format>, DataError> {
    let recognise = |listing: &Listing| FORMATS.iter().find(|format| (format.recognise)(listing));
    for _ in 0..limits::MAX_DEPTH {
        let listing = tree.list("")?;
        if let Some(format) = recognise(&listing) {
            return Ok(Some(format));
        }
        let mut found: Option<(&'static Format, String)> = None;
        for folder in &listing.folders {
            let Some(format) = recognise(&tree.list(folder)?) else { continue };
            if let Some((_, first)) = found {
                return Err(DataError::Ambiguous { path: tree.root_path(), first, second: folder.clone() });
            }
            found = Some((format, folder.clone()));
        }
        if let Some((format, folder)) = found {
            tree.enter(&folder);
            return Ok(Some(format));
        }
        let mut folders = listing.folders.iter();
        match (folders.next(), folders.next()) {
            (Some(only), None) => tree.enter(only),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

fn all_expected() -> String {
    let expected: Vec<&str> = FORMATS[1..].iter().map(|format| format.expected).collect();
    format!("{}, in a folder or an archive (tar, tar.gz, tar.xz, zip)", expected.join(", "))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn error(path: &Path) -> String {
        load(path.to_str().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_data_set_is_refused_with_what_would_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = error(&dir.path().join("nothing"));
        assert!(
            nothing.ends_with("nothing`: it is neither `digits`, which is built in, nor a path that exists")
        );
        let file = dir.path().join("file");
        fs::write(&file, "neither").unwrap();
        for path in [dir.path(), &file] {
            let error = error(path);
            assert!(error.contains("holds no data set that is known"), "{error}");
            for expected in ["train-images-idx3-ubyte", "data_batch_1.bin", "x_train", "train/<class>"] {
                assert!(error.contains(expected), "{error}");
            }
        }
    }

    #[test]
    fn a_data_set_is_found_below_the_folder_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("data/cifar-10-batches-bin");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("data_batch_1.bin"), [0; 3073]).unwrap();
        for path in [dir.path(), &dir.path().join("data"), &inner] {
            let (format, tree) = find(path.to_str().unwrap()).unwrap();
            assert_eq!((format.name, tree.root_path()), ("CIFAR, binary release", inner.clone()));
        }
        let other = dir.path().join("data/cifar-10-batches-py");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("data_batch_1"), []).unwrap();
        let error = error(dir.path());
        assert!(error.contains("`cifar-10-batches-bin` and `cifar-10-batches-py`; name one"), "{error}");
    }
}
