//! Why data cannot be read or is refused.

use std::path::PathBuf;

use super::{ImageShape, limits};

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error(
        "no data at `{}`: it is neither `digits`, which is built in, nor a path that exists",
        .path.display()
    )]
    Unknown { path: PathBuf },
    #[error("`{}` holds no data set that is known: expected {expected}", .path.display())]
    Unrecognized { path: PathBuf, expected: String },
    #[error("`{}` holds several data sets, `{first}` and `{second}`; name one of them", .path.display())]
    Ambiguous { path: PathBuf, first: String, second: String },
    #[error("cannot read `{}`", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("`{}`: expected {expected}, found {found}", .path.display())]
    Format { path: PathBuf, expected: String, found: String },
    #[error("`{}` has no {split} split: expected {expected}", .path.display())]
    Missing { path: PathBuf, split: &'static str, expected: String },
    #[error("`{}` lacks {}, and has {}", .path.display(), .missing.join(", "), .found.join(", "))]
    Arrays { path: PathBuf, missing: Vec<String>, found: Vec<String> },
    #[error("`{}` has no images", .path.display())]
    NoImages { path: PathBuf },
    #[error("`{}` has {images} images and {labels} labels", .path.display())]
    Counts { path: PathBuf, images: usize, labels: usize },
    #[error("`{}`: image {image} has the label {label}, expected one below {n_classes}", .path.display())]
    Label { path: PathBuf, image: usize, label: i64, n_classes: usize },
    #[error("`{}` has {found} classes, expected at most {}", .path.display(), limits::MAX_CLASSES)]
    Classes { path: PathBuf, found: usize },
    #[error("`{}` has more than {limit} {what}", .path.display())]
    TooLarge { path: PathBuf, what: &'static str, limit: u64 },
    #[error(
        "`{}` is {size} pixels and `{}` {first_size} (width x height); expected images of one size",
        .path.display(),
        .first.display()
    )]
    ImageSizes { path: PathBuf, size: String, first: PathBuf, first_size: String },
    #[error("`{}` is a class of the test split that the training split has not", .path.display())]
    TestClass { path: PathBuf },
    #[error("training images are {train}, test images {test}; expected one size")]
    Shapes { train: ImageShape, test: ImageShape },
}

impl DataError {
    /// A file whose content is not what it should be.
    pub(super) fn format(
        path: impl Into<PathBuf>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        DataError::Format { path: path.into(), expected: expected.into(), found: found.into() }
    }
}
