//! Files that are whole after a crash at any moment: written under another name, synced, renamed, and the folder
//! synced.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// End of the name of a file that is being written; it begins with a full stop.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", .path.display())]
pub struct WriteError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> WriteError + 'a {
    move |source| WriteError { action, path: path.to_owned(), source }
}

/// Writes `bytes` so that after a crash `path` holds either what it held before or all of them.
///
/// # Errors
/// [`WriteError`]; `path` is as before then, unless it was the folder that could not be synced.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    write_with_mode(path, bytes, 0o666)
}

/// As [`write()`], for nobody's eyes but this user's: mode 0600 from the first byte on.
///
/// # Errors
/// As [`write()`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    write_with_mode(path, bytes, 0o600)
}

fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteError> {
    // The parent of a bare file name is the empty path, which cannot be opened.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| failed("write", path)(io::ErrorKind::IsADirectory.into()))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(TEMPORARY_SUFFIX);
    let temporary = folder.join(temporary);
    let mut options = File::options();
    let written = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(failed("write", &temporary))
        .and_then(|()| fs::rename(&temporary, path).map_err(failed("rename to", path)));
    if written.is_err() {
        // What is there of the file is of no use, and a failure to remove it does no harm.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(failed("sync the folder", folder))
}

/// Makes a folder and those above it, if they are not there.
///
/// # Errors
/// [`WriteError`].
pub fn create_dir(path: &Path) -> Result<(), WriteError> {
    fs::create_dir_all(path).map_err(failed("create the folder", path))
}

/// As [`create_dir`], with mode 0700 for each folder that is made.
///
/// # Errors
/// [`WriteError`].
pub fn create_private_dir(path: &Path) -> Result<(), WriteError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).map_err(failed("create the folder", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.html");
        write(&path, b"first, and longer").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(dir.path()), ["report.html"]);
    }

    #[test]
    fn what_cannot_be_replaced_is_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir_all(path.join("inside")).unwrap();
        let error = write(&path, b"x").unwrap_err().to_string();
        assert!(error.starts_with("cannot rename to `") && error.ends_with("taken`"), "{error}");
        assert_eq!(names(dir.path()), ["taken"]);
        assert_eq!(names(&path), ["inside"]);
        let error = write(&dir.path().join("missing/file"), b"x").unwrap_err().to_string();
        assert!(error.contains(".file.tmp"), "{error}");
        assert!(write(Path::new("/"), b"x").is_err());
    }
}
