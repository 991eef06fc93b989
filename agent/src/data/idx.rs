//! IDX files, as MNIST is published: big-endian header, then bytes.

use std::fs;
use std::path::Path;

use super::{DataError, DataSource, Dataset, ImageShape};

/// File names of the two splits: images, labels.
const SPLITS: [(&str, &str); 2] = [
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
];
/// Element type of all IDX files read here.
const UNSIGNED_BYTE: u8 = 8;

pub(super) fn load(folder: &Path) -> Result<DataSource, DataError> {
    let split = |(images, labels): (&str, &str)| -> Result<(ImageShape, Vec<u8>, Vec<u16>), DataError> {
        let (images_path, labels_path) = (folder.join(images), folder.join(labels));
        let (shape, pixels) = self::images(&read(&images_path)?, &images_path)?;
        let labels = self::labels(&read(&labels_path)?, &labels_path)?;
        let n_images = pixels.len() / shape.n_pixels();
        if n_images != labels.len() {
            return Err(DataError::Counts { path: images_path, images: n_images, labels: labels.len() });
        }
        Ok((shape, pixels, labels))
    };
    let (train, test) = (split(SPLITS[0])?, split(SPLITS[1])?);
    let n_classes = train.2.iter().chain(&test.2).max().map_or(0, |&last| last + 1);
    let classes: Vec<String> = (0..n_classes).map(|c| c.to_string()).collect();
    let dataset = |(shape, pixels, labels)| Dataset { classes: classes.clone(), shape, pixels, labels };
    DataSource::new(dataset(train), dataset(test))
}

fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    fs::read(path).map_err(|source| DataError::Io { path: path.to_owned(), source })
}

/// Images `[n, H, W]`, or `[n, C, H, W]` for colour.
pub(super) fn images(bytes: &[u8], path: &Path) -> Result<(ImageShape, Vec<u8>), DataError> {
    let (dims, data) = parse(bytes, path)?;
    let size = |n: usize| u16::try_from(n).ok().filter(|n| *n > 0);
    let shape = match dims[..] {
        [_, h, w] => size(h).zip(size(w)).map(|(height, width)| ImageShape { channels: 1, height, width }),
        [_, c, h, w] => size(c).zip(size(h).zip(size(w))).map(|(channels, (height, width))| ImageShape {
            channels,
            height,
            width,
        }),
        _ => None,
    };
    let shape = shape.ok_or_else(|| {
        format_error(path, "images [n, height, width] or [n, channels, height, width]", format!("{dims:?}"))
    })?;
    Ok((shape, data.to_vec()))
}

/// Labels `[n]`.
pub(super) fn labels(bytes: &[u8], path: &Path) -> Result<Vec<u16>, DataError> {
    let (dims, data) = parse(bytes, path)?;
    if dims.len() != 1 {
        return Err(format_error(path, "labels [n]", format!("{dims:?}")));
    }
    Ok(data.iter().map(|&b| u16::from(b)).collect())
}

fn parse<'a>(bytes: &'a [u8], path: &Path) -> Result<(Vec<usize>, &'a [u8]), DataError> {
    let Some((&[0, 0, UNSIGNED_BYTE, rank], rest)) = bytes.split_first_chunk::<4>() else {
        let found = format!("{:02x?}", &bytes[..bytes.len().min(4)]);
        return Err(format_error(path, "an IDX file of unsigned bytes (00 00 08 and the rank)", found));
    };
    let header_bytes = 4 * usize::from(rank);
    let Some((header, data)) = rest.split_at_checked(header_bytes) else {
        return Err(format_error(path, format!("{header_bytes} bytes of sizes"), rest.len().to_string()));
    };
    let dims: Vec<usize> =
        header.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b) as usize).collect();
    let expected = dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    match expected {
        Some(n) if n == data.len() => Ok((dims, data)),
        Some(n) => Err(format_error(path, format!("{n} bytes of data"), data.len().to_string())),
        None => Err(format_error(path, "sizes that fit into memory", format!("{dims:?}"))),
    }
}

fn format_error(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> DataError {
    DataError::Format { path: path.to_owned(), expected: expected.into(), found: found.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rank: u8, dims: &[u32], data: &[u8]) -> Vec<u8> {
        let sizes = dims.iter().flat_map(|d| d.to_be_bytes());
        [0, 0, 8, rank].into_iter().chain(sizes).chain(data.iter().copied()).collect()
    }

    #[test]
    fn a_folder_of_the_published_names_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for (i, (images, labels)) in SPLITS.into_iter().enumerate() {
            let n = 3 - i as u32;
            fs::write(dir.path().join(images), file(3, &[n, 2, 2], &vec![7; 4 * n as usize])).unwrap();
            fs::write(dir.path().join(labels), file(1, &[n], &vec![4; n as usize])).unwrap();
        }
        let source = super::super::load(dir.path().to_str().unwrap()).unwrap();
        assert_eq!((source.train.len(), source.test.len(), source.train.classes.len()), (3, 2, 5));
        let labels = dir.path().join(SPLITS[0].1);
        fs::write(&labels, file(1, &[2], &[4, 4])).unwrap();
        assert!(matches!(load(dir.path()), Err(DataError::Counts { images: 3, labels: 2, .. })));
        fs::remove_file(labels).unwrap();
        assert!(matches!(load(dir.path()), Err(DataError::Io { .. })));
    }

    #[test]
    fn damaged_files_are_refused_with_what_was_expected() {
        let whole = file(3, &[2, 2, 2], &[1; 8]);
        let check = |bytes: &[u8], expected: &str| {
            let error = images(bytes, Path::new("x")).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&whole[..whole.len() - 1], "expected 8 bytes of data, found 7");
        check(&[&whole[..], &[0]].concat(), "expected 8 bytes of data, found 9");
        check(&whole[..9], "12 bytes of sizes");
        check(b"GIF8", "an IDX file");
        check(&[], "an IDX file");
        check(&file(4, &[u32::MAX; 4], &[]), "sizes that fit into memory");
        check(&file(1, &[8], &[1; 8]), "images [n, height, width]");
        check(&file(3, &[0, 0, 0], &[]), "images [n, height, width]");
    }
}
