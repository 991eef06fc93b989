//! The files at a path: in a folder, or in an archive that is read as if it were unpacked.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{DataError, archive, limits};

/// Files by their names, `/` between folders, relative to a root within the path.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    /// Empty, or a folder's name within the path.
    root: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Folder,
    /// Of files alone, by their names from the top of the archive.
    Archive(BTreeMap<String, Vec<u8>>),
}

/// What lies directly in a folder; nothing whose name begins with a dot.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Listing {
    pub files: BTreeSet<String>,
    pub folders: BTreeSet<String>,
}

impl Tree {
    /// A folder, or an archive that is read here.
    ///
    /// # Errors
    /// [`DataError::Io`] if there is nothing that can be read; of [`archive::read`]; `None` for a file that is no
    /// archive.
    pub(super) fn open(path: &Path) -> Result<Option<Tree>, DataError> {
        let tree = |content| Tree { path: path.to_owned(), root: String::new(), content };
        let metadata = fs::metadata(path).map_err(io_error(path))?;
        if metadata.is_dir() {
            return Ok(Some(tree(Content::Folder)));
        }
        Ok(archive::read(path)?.map(|files| tree(Content::Archive(files))))
    }

    /// Files in memory, under a name that errors show.
    pub(super) fn of(name: &str, files: BTreeMap<String, Vec<u8>>) -> Tree {
        Tree { path: name.into(), root: String::new(), content: Content::Archive(files) }
    }

    /// Goes down into a folder.
    pub(super) fn enter(&mut self, folder: &str) {
        self.root = self.name(folder);
    }

    /// Of the root.
    pub(super) fn root_path(&self) -> PathBuf {
        self.path(String::new().as_str())
    }

    /// Where a file lies, as a user would look for it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        let mut path = self.path.clone();
        path.extend(self.name(name).split('/').filter(|part| !part.is_empty()));
        path
    }

    fn name(&self, name: &str) -> String {
        match (self.root.as_str(), name) {
            ("", name) => name.to_owned(),
            (root, "") => root.to_owned(),
            (root, name) => format!("{root}/{name}"),
        }
    }

    /// What lies directly in `folder`; the empty name is the root.
    ///
    /// # Errors
    /// [`DataError`] if it cannot be read, holds too much, or a name is no UTF-8.
    pub(super) fn list(&self, folder: &str) -> Result<Listing, DataError> {
        let mut listing = Listing::default();
        let path = self.path(folder);
        match &self.content {
            Content::Folder => {
                for entry in fs::read_dir(&path).map_err(io_error(&path))? {
                    let entry = entry.map_err(io_error(&path))?;
                    let Ok(name) = entry.file_name().into_string() else {
                        return Err(DataError::format(entry.path(), "a name in UTF-8", "other bytes"));
                    };
                    if name.starts_with('.') {
                        continue;
                    }
                    // By way of the path: what a link leads to counts.
                    let is_folder = fs::metadata(entry.path()).map_err(io_error(&entry.path()))?.is_dir();
                    listing.add(name, is_folder);
                    if listing.files.len() + listing.folders.len() > limits::MAX_FILES {
                        let limit = limits::MAX_FILES as u64;
                        return Err(DataError::TooLarge { path, what: "files", limit });
                    }
                }
            }
            Content::Archive(files) => {
                let mut prefix = self.name(folder);
                if !prefix.is_empty() {
                    prefix.push('/');
                }
                let below = files.range(prefix.clone()..).map_while(|(name, _)| name.strip_prefix(&prefix));
                for name in below {
                    match name.split_once('/') {
                        Some((first, _)) => listing.add(first.to_owned(), true),
                        None => listing.add(name.to_owned(), false),
                    }
                }
            }
        }
        Ok(listing)
    }

    /// A file's content.
    ///
    /// # Errors
    /// [`DataError`] if it cannot be read, or has more than `limit` bytes.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Cow<'_, [u8]>, DataError> {
        let path = self.path(name);
        let too_large = |path| DataError::TooLarge { path, what: "bytes", limit };
        match &self.content {
            Content::Folder => {
                // Whoever opens a pipe waits for somebody to write into it.
                if !fs::metadata(&path).map_err(io_error(&path))?.is_file() {
                    return Err(DataError::format(path, "a file", "something else"));
                }
                let file = File::open(&path).map_err(io_error(&path))?;
                let bytes = read_up_to(file, limit).map_err(io_error(&path))?;
                bytes.map(Cow::Owned).ok_or_else(|| too_large(path))
            }
            Content::Archive(files) => match files.get(&self.name(name)) {
                Some(bytes) if bytes.len() as u64 > limit => Err(too_large(path)),
                Some(bytes) => Ok(Cow::Borrowed(bytes)),
                None => Err(DataError::format(self.root_path(), format!("a file `{name}`"), "none")),
            },
        }
    }
}

impl Listing {
    fn add(&mut self, name: String, is_folder: bool) {
        if !name.starts_with('.') {
            if is_folder { &mut self.folders } else { &mut self.files }.insert(name);
        }
    }
}

/// All that `reader` gives; `None` if that is more than `limit` bytes.
pub(super) fn read_up_to(reader: impl Read, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

pub(super) fn io_error<'a>(path: &'a Path) -> impl Fn(std::io::Error) -> DataError + 'a {
    move |source| DataError::Io { path: path.to_owned(), source }
}
