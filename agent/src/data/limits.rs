//! How much a data set may hold. What a file says of its size is compared with these before memory is taken.

/// Pixels of one split, one byte each.
pub(super) const MAX_PIXEL_BYTES: u64 = 16 << 30;
/// Files of one archive, unpacked.
pub(super) const MAX_ARCHIVE_BYTES: u64 = 16 << 30;
/// Files of one archive, or of one folder.
pub(super) const MAX_FILES: usize = 1 << 24;
/// Images of one split: a sample id has 32 bits.
pub(super) const MAX_IMAGES: usize = u32::MAX as usize;
/// A label has 16 bits.
pub(super) const MAX_CLASSES: usize = 1 << 16;
/// One encoded image.
pub(super) const MAX_IMAGE_FILE_BYTES: u64 = 256 << 20;
/// Decoded pixels of one image.
pub(super) const MAX_IMAGE_PIXELS: usize = 1 << 28;
/// A file with the names of classes.
pub(super) const MAX_NAMES_BYTES: u64 = 16 << 20;
/// Folders between a path and the data set that is looked for below it.
pub(super) const MAX_DEPTH: usize = 4;
