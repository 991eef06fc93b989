//! What the tests of the readers share.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{DataError, DataSource, load};

/// A file that `agent/data/fixtures/make.py` has made.
pub(super) fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fixtures");
    fs::read(folder.join(name)).unwrap()
}

/// A data set that a test writes.
pub(super) struct Written(TempDir);

impl Written {
    pub(super) fn new(files: &[(&str, &[u8])]) -> Self {
        let written = Written(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, bytes)| written.write(name, bytes));
        written
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn spec(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(super) fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    pub(super) fn load(&self) -> Result<DataSource, DataError> {
        load(self.spec())
    }

    pub(super) fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }

    /// Checks that a file is refused at whatever byte it is cut off, and with a byte more, by an error that has its
    /// name; then leaves it whole.
    pub(super) fn refuses_any_other_length(&self, name: &str, whole: &[u8]) {
        let more = [whole, &[0]].concat();
        for n in (0..whole.len()).chain([more.len()]) {
            self.write(name, &more[..n]);
            let error = self.error();
            assert!(error.contains(name), "{name}, {n} of {} bytes: {error}", whole.len());
        }
        self.write(name, whole);
        self.load().unwrap();
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar archive of these files.
pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A PNG file of `color` with `depth`.
pub(super) fn png(
    width: u32,
    height: u32,
    (color, depth): (png::ColorType, png::BitDepth),
    pixels: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == png::ColorType::Indexed {
        encoder.set_palette(vec![1, 2, 3, 4, 5, 6]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(pixels).unwrap();
    writer.finish().unwrap();
    bytes
}

pub(super) const GREY: (png::ColorType, png::BitDepth) = (png::ColorType::Grayscale, png::BitDepth::Eight);
pub(super) const RGB: (png::ColorType, png::BitDepth) = (png::ColorType::Rgb, png::BitDepth::Eight);
