//! Tensor data in other files, as PyTorch writes it for large models.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};

use crate::error::ReadError;

/// Tensor data in another file: only one that lies in the model's own folder, under a bare name.
pub(super) fn read(
    entries: &BTreeMap<&str, &str>,
    name: &str,
    folder: Option<&Path>,
    expected: usize,
) -> Result<Vec<u8>, ReadError> {
    let entry = |key: &str| entries.get(key).copied();
    let location = entry("location").unwrap_or_default();
    let refused = || ReadError::ExternalLocation { name: name.to_owned(), location: location.to_owned() };
    // `.` and a slash at the end are no components, so the whole must be the one that is there.
    let mut components = Path::new(location).components();
    let file = match (components.next(), components.next()) {
        (Some(Component::Normal(file)), None) if file == location => file,
        _ => return Err(refused()),
    };
    let folder =
        folder.ok_or_else(|| ReadError::NoFolder { name: name.to_owned(), location: location.to_owned() })?;
    let path = folder.join(file);
    let failed = |source| ReadError::Io { path: path.clone(), source };
    if !fs::symlink_metadata(&path).map_err(failed)?.is_file() {
        return Err(refused());
    }
    let number = |key: &str| -> Result<Option<usize>, ReadError> {
        entry(key).map(|text| text.parse().map_err(|_| refused())).transpose()
    };
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(expected);
    if length != expected {
        return Err(ReadError::TensorSize { name: name.to_owned(), expected, found: length });
    }
    let too_short = |size: u64| ReadError::TensorSize {
        name: name.to_owned(),
        expected,
        found: usize::try_from(size.saturating_sub(offset as u64)).unwrap_or(usize::MAX),
    };
    let mut file = fs::File::open(&path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size.checked_sub(offset as u64).is_none_or(|rest| rest < length as u64) {
        return Err(too_short(size));
    }
    file.seek(SeekFrom::Start(offset as u64)).map_err(failed)?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
