//! Archives, read into memory: tar, plain or packed by gzip or xz, and zip. Nothing is ever unpacked to disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::tree::{io_error, read_up_to};
use super::{DataError, limits};

/// Where a tar archive says that it is one, and how.
const USTAR_AT: usize = 257;
const USTAR: &[u8] = b"ustar";
/// Most bytes of an entry that names another.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;
/// Memory for unpacking xz, in KiB: its strongest preset needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;

type Files = BTreeMap<String, Vec<u8>>;

/// All files of an archive; `None` if the file is none.
///
/// # Errors
/// [`DataError::Io`] if the disk does not give it; [`DataError::Format`] if it is cut short, damaged or followed by
/// something else; [`DataError::TooLarge`].
pub(super) fn read(path: &Path) -> Result<Option<Files>, DataError> {
    let mut file = File::open(path).map_err(io_error(path))?;
    let start = read_up_to((&mut file).take(512), 512).map_err(io_error(path))?.unwrap_or_default();
    file.rewind().map_err(io_error(path))?;
    let reader = BufReader::with_capacity(1 << 16, file);
    let files = if start.starts_with(&[0x1f, 0x8b]) {
        tar(MultiGzDecoder::new(reader), path)?
    } else if start.starts_with(b"\xfd7zXZ\0") {
        tar(XzReader::new_mem_limit(reader, true, XZ_MEMORY_KIB), path)?
    } else if start.starts_with(b"PK\x03\x04") {
        zip(reader, path)?
    } else if start.get(USTAR_AT..).is_some_and(|rest| rest.starts_with(USTAR)) {
        tar(reader, path)?
    } else {
        return Ok(None);
    };
    Ok(Some(files))
}

/// The files that are kept, and how much they hold.
struct Kept<'a> {
    path: &'a Path,
    files: Files,
    n_bytes: u64,
}

impl<'a> Kept<'a> {
    fn new(path: &'a Path) -> Self {
        Kept { path, files: Files::new(), n_bytes: 0 }
    }

    /// Reads one file of `size` bytes, as the archive says.
    fn add(&mut self, name: &str, size: u64, reader: impl Read) -> Result<(), DataError> {
        let too_large = |what, limit| Err(DataError::TooLarge { path: self.path.to_owned(), what, limit });
        if self.files.len() >= limits::MAX_FILES {
            return too_large("files", limits::MAX_FILES as u64);
        }
        if self.n_bytes.saturating_add(size) > limits::MAX_ARCHIVE_BYTES {
            return too_large("bytes of files", limits::MAX_ARCHIVE_BYTES);
        }
        let file = self.path.join(name);
        let bytes = read_up_to(reader, size).map_err(unpacking(&file))?;
        match bytes {
            Some(bytes) if bytes.len() as u64 == size => {
                self.n_bytes += size + name.len() as u64;
                // As when unpacked: of two files with one name, the later one is there in the end.
                self.files.insert(name.to_owned(), bytes);
                Ok(())
            }
            Some(bytes) => Err(DataError::format(file, format!("{size} bytes"), bytes.len().to_string())),
            None => Err(DataError::format(file, format!("{size} bytes"), "more")),
        }
    }
}

fn tar(reader: impl Read, path: &Path) -> Result<Files, DataError> {
    let mut archive = tar::Archive::new(Watched { reader, at_end: false });
    let mut kept = Kept::new(path);
    // A name that is too long for a header comes before it, in an entry of its own.
    let mut long_name: Option<Vec<u8>> = None;
    // Raw, as such entries would otherwise be read however large they say they are.
    for entry in archive.entries().map_err(unpacking(path))?.raw(true) {
        let mut entry = entry.map_err(unpacking(path))?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() || kind.is_pax_local_extensions() || kind.is_pax_global_extensions() {
            let bytes = read_up_to(&mut entry, MAX_EXTENSION_BYTES).map_err(unpacking(path))?;
            let limit = MAX_EXTENSION_BYTES;
            let too_large = || DataError::TooLarge { path: path.to_owned(), what: "bytes of a name", limit };
            let bytes = bytes.ok_or_else(too_large)?;
            if kind.is_gnu_longname() {
                long_name = Some(bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
            } else if kind.is_pax_local_extensions() {
                let path_of =
                    |e: tar::PaxExtension<'_>| (e.key() == Ok("path")).then(|| e.value_bytes().to_vec());
                let extensions = tar::PaxExtensions::new(&bytes).filter_map(Result::ok);
                long_name = extensions.filter_map(path_of).last().or(long_name);
            }
            continue;
        }
        let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let Some(name) = clean(&name, path)? else { continue };
        if kind.is_dir() {
            continue;
        }
        if !kind.is_file() && !kind.is_contiguous() {
            let found = format!("something else, `{name}`");
            return Err(DataError::format(path, "an archive of files and folders alone", found));
        }
        kept.add(&name, entry.size(), &mut entry)?;
    }
    let mut rest = archive.into_inner();
    if rest.at_end {
        return Err(DataError::format(
            path,
            "a whole archive, ended by a block of zeros",
            "its end before that",
        ));
    }
    // To the very end, which is where the checksum of what it is packed in lies.
    let mut buffer = [0; 4096];
    loop {
        match rest.read(&mut buffer).map_err(unpacking(path))? {
            0 => return Ok(kept.files),
            n if buffer[..n].iter().all(|byte| *byte == 0) => {}
            _ => return Err(DataError::format(path, "nothing after the archive's end", "further bytes")),
        }
    }
}

/// Knows whether its reader has come to its end.
struct Watched<R> {
    reader: R,
    at_end: bool,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.at_end |= n == 0 && !buffer.is_empty();
        Ok(n)
    }
}

fn zip(reader: impl Read + Seek, path: &Path) -> Result<Files, DataError> {
    let failed = |error: zip::result::ZipError| match error {
        zip::result::ZipError::Io(error) => unpacking(path)(error),
        error => DataError::format(path, "a whole zip archive", error.to_string()),
    };
    let mut archive = zip::ZipArchive::new(reader).map_err(failed)?;
    let mut kept = Kept::new(path);
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(failed)?;
        let Some(name) = clean(entry.name_raw(), path)? else { continue };
        if entry.is_dir() {
            continue;
        }
        if !entry.is_file() {
            let found = format!("something else, `{name}`");
            return Err(DataError::format(path, "an archive of files and folders alone", found));
        }
        kept.add(&name, entry.size(), entry)?;
    }
    Ok(kept.files)
}

/// A name in an archive as a relative one; `None` for the top itself and for what is hidden.
fn clean(name: &[u8], path: &Path) -> Result<Option<String>, DataError> {
    let found = || String::from_utf8_lossy(name).into_owned();
    let text = str::from_utf8(name).map_err(|_| DataError::format(path, "names in UTF-8", found()))?;
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(DataError::format(path, "names within the archive", found()));
    }
    let is_hidden = parts.iter().any(|part| part.starts_with('.'));
    Ok((!parts.is_empty() && !is_hidden).then(|| parts.join("/")))
}

/// The disk's own errors remain such; all others are about what the file holds.
fn unpacking<'a>(path: &'a Path) -> impl Fn(io::Error) -> DataError + 'a {
    move |error| match error.raw_os_error() {
        Some(_) => io_error(path)(error),
        None => DataError::format(path, "a whole archive", error.to_string()),
    }
}

#[cfg(test)]
mod tests;
