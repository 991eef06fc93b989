//! IDX files, as MNIST, Fashion-MNIST, KMNIST and EMNIST are published: big-endian header, then bytes; packed by
//! gzip or not.

use std::borrow::Cow;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::format::{Reading, Splits, Wanted};
use super::tree::{Listing, Tree, read_up_to};
use super::{DataError, Dataset, ImageShape, check_pixels, limits, numbered};

/// How the names of the two splits' files begin; EMNIST puts its own name before, and calls the second `test`.
const TRAIN: &[&str] = &["train"];
const TEST: &[&str] = &["t10k", "test"];
const IMAGES: &str = "images-idx3-ubyte";
const LABELS: &str = "labels-idx1-ubyte";
/// Element type of all IDX files read here.
const UNSIGNED_BYTE: u8 = 8;
/// A header is 4 bytes and up to 255 sizes of 4 bytes.
const MAX_HEADER_BYTES: u64 = 4 + 4 * 255;

pub(super) fn recognise(listing: &Listing) -> bool {
    listing.files.iter().any(|name| [TRAIN, TEST].iter().any(|split| is_file_of(name, split, IMAGES)))
}

/// Whether a file has a split's images or labels, by its name: `train-images-idx3-ubyte`, also with `.idx3`, with
/// something before it, and with `.gz` after it.
fn is_file_of(name: &str, split: &[&str], what: &str) -> bool {
    let name = name.strip_suffix(".gz").unwrap_or(name).replace(".idx", "-idx");
    split.iter().any(|split| {
        let end = format!("{split}-{what}");
        name.strip_suffix(&end).is_some_and(|before| before.is_empty() || before.ends_with('-'))
    })
}

pub(super) fn read(tree: &Tree, reading: &Reading) -> Result<Splits, DataError> {
    let listing = tree.list("")?;
    let labels = |split| -> Result<(String, Vec<u16>), DataError> {
        let name = find(tree, &listing, split, LABELS)?;
        let labels = labels(&content(tree, &name)?, &tree.path(&name))?;
        Ok((name, labels))
    };
    let test_labels = labels(TEST)?.1;
    // Only where they are not there can the test split do without the names of all classes.
    let train_labels = match labels(TRAIN) {
        Ok((_, labels)) => labels,
        Err(DataError::Missing { .. }) if reading.wanted == Wanted::Test => Vec::new(),
        Err(error) => return Err(error),
    };
    let classes = numbered(&[&train_labels, &test_labels]);
    let split = |split, labels| -> Result<Dataset, DataError> {
        let name = find(tree, &listing, split, IMAGES)?;
        let path = tree.path(&name);
        let (shape, pixels) = images(&content(tree, &name)?, &path)?;
        Dataset { classes: classes.clone(), shape, pixels, labels }.checked(&path)
    };
    let train = match reading.wanted {
        Wanted::Both => Some(split(TRAIN, train_labels)?),
        Wanted::Test => None,
    };
    Ok(Splits::whole(train, split(TEST, test_labels)?))
}

/// The one file with a split's images or labels. Where a file is there packed and unpacked, the unpacked one.
fn find(tree: &Tree, listing: &Listing, split: &[&str], what: &str) -> Result<String, DataError> {
    let is_also_unpacked =
        |name: &str| name.strip_suffix(".gz").is_some_and(|plain| listing.files.contains(plain));
    let mut names =
        listing.files.iter().filter(|name| is_file_of(name, split, what) && !is_also_unpacked(name));
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name.clone()),
        (Some(first), Some(second)) => {
            let (first, second) = (first.clone(), second.clone());
            Err(DataError::Ambiguous { path: tree.root_path(), first, second })
        }
        (None, _) => Err(DataError::Missing {
            path: tree.root_path(),
            split: if split == TRAIN { "training" } else { "test" },
            expected: format!("a file `{0}-{what}` or `{0}-{what}.gz`", split[0]),
        }),
    }
}

fn content<'a>(tree: &'a Tree, name: &str) -> Result<Cow<'a, [u8]>, DataError> {
    let limit = limits::MAX_PIXEL_BYTES + MAX_HEADER_BYTES;
    let bytes = tree.read(name, limit)?;
    if !name.ends_with(".gz") {
        return Ok(bytes);
    }
    let path = tree.path(name);
    match read_up_to(MultiGzDecoder::new(&bytes[..]), limit) {
        Ok(Some(bytes)) => Ok(Cow::Owned(bytes)),
        Ok(None) => Err(DataError::TooLarge { path, what: "bytes", limit }),
        Err(error) => Err(DataError::format(path, "a whole gzip file", error.to_string())),
    }
}

/// Images `[n, H, W]`, or `[n, C, H, W]` for colour.
pub(super) fn images(bytes: &[u8], path: &Path) -> Result<(ImageShape, Vec<u8>), DataError> {
    let (dims, data) = parse(bytes, path)?;
    let shape = match dims[..] {
        [_, h, w] => ImageShape::of(1, h, w),
        [_, c, h, w] => ImageShape::of(c, h, w),
        _ => None,
    };
    let shape = shape.ok_or_else(|| {
        let expected = "images [n, height, width] or [n, channels, height, width]";
        DataError::format(path, expected, format!("{dims:?}"))
    })?;
    check_pixels(dims[0], shape, path)?;
    Ok((shape, data.to_vec()))
}

/// Labels `[n]`.
pub(super) fn labels(bytes: &[u8], path: &Path) -> Result<Vec<u16>, DataError> {
    let (dims, data) = parse(bytes, path)?;
    if dims.len() != 1 {
        return Err(DataError::format(path, "labels [n]", format!("{dims:?}")));
    }
    Ok(data.iter().map(|&b| u16::from(b)).collect())
}

fn parse<'a>(bytes: &'a [u8], path: &Path) -> Result<(Vec<usize>, &'a [u8]), DataError> {
    let Some((&[0, 0, UNSIGNED_BYTE, rank], rest)) = bytes.split_first_chunk::<4>() else {
        let found = format!("{:02x?}", &bytes[..bytes.len().min(4)]);
        return Err(DataError::format(path, "an IDX file of unsigned bytes (00 00 08 and the rank)", found));
    };
    let header_bytes = 4 * usize::from(rank);
    let Some((header, data)) = rest.split_at_checked(header_bytes) else {
        let expected = format!("{header_bytes} bytes of sizes");
        return Err(DataError::format(path, expected, rest.len().to_string()));
    };
    let dims: Vec<usize> =
        header.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b) as usize).collect();
    let expected = dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    match expected {
        Some(n) if n == data.len() => Ok((dims, data)),
        Some(n) => Err(DataError::format(path, format!("{n} bytes of data"), data.len().to_string())),
        None => Err(DataError::format(path, "sizes that fit into memory", format!("{dims:?}"))),
    }
}

#[cfg(test)]
mod tests;
