//! The UCI handwritten digits, shipped in the program: 1,797 images of 8x8, values 0 to 16.
//!
//! The published file has no split, so every fifth image of each class, in file order from the first, is for
//! testing: 364 images; the other 1,433 are for training.

use std::collections::BTreeMap;
use std::path::Path;

use super::format::{Reading, Splits};
use super::tree::Tree;
use super::{DataError, Dataset, idx};

const IMAGES: &[u8] = include_bytes!("../../data/digits/images-idx3-ubyte");
const LABELS: &[u8] = include_bytes!("../../data/digits/labels-idx1-ubyte");
/// One in this many images of a class is for testing.
const TEST_SHARE: usize = 5;

/// Nothing: the files are part of the program.
pub(super) fn tree() -> Tree {
    Tree::of("digits", BTreeMap::new())
}

pub(super) fn read(_: &Tree, _: &Reading) -> Result<Splits, DataError> {
    let (shape, pixels) = idx::images(IMAGES, Path::new("digits/images-idx3-ubyte"))?;
    let labels = idx::labels(LABELS, Path::new("digits/labels-idx1-ubyte"))?;
    let classes: Vec<String> = (0..10).map(|d| d.to_string()).collect();
    let empty = || Dataset { classes: classes.clone(), shape, pixels: Vec::new(), labels: Vec::new() };
    let (mut train, mut test) = (empty(), empty());
    let mut n_seen = [0_usize; 10];
    for (image, &label) in pixels.chunks_exact(shape.n_pixels()).zip(&labels) {
        let n_seen = &mut n_seen[usize::from(label)];
        let split = if n_seen.is_multiple_of(TEST_SHARE) { &mut test } else { &mut train };
        *n_seen += 1;
        split.pixels.extend_from_slice(image);
        split.labels.push(label);
    }
    Ok(Splits::whole(Some(train), test))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{load, load_test};

    #[test]
    fn the_split_is_as_documented() {
        let source = load("digits").unwrap();
        assert_eq!((source.train.len(), source.test.len()), (1433, 364));
        assert_eq!(source.train.shape.to_string(), "1x8x8");
        for class in 0..10 {
            let count = |d: &Dataset| d.labels.iter().filter(|&&l| l == class).count();
            assert!(count(&source.train) >= 139 && count(&source.test) >= 35, "class {class}");
        }
        assert_eq!(source.train.pixels.iter().max(), Some(&16));
        assert_eq!(load_test("digits").unwrap(), source.test);
    }
}
