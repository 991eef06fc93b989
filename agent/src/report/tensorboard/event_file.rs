//! The file format of TensorBoard: protobuf messages `Event`, each a record of TFRecord framing.
//!
//! A record is its length (u64), the masked CRC-32C of those eight bytes, the message, and the masked CRC-32C of the
//! message, all little-endian. Field numbers are those of TensorFlow's `event.proto`, `summary.proto` and
//! `tensor.proto`; only the fields that are needed here are declared.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crc::{CRC_32_ISCSI, Crc};
use prost::Message;

/// Longest record that is read back; those that are written hold some hundred scalars or one configuration.
const MAX_RECORD_BYTES: u64 = 1024 * 1024;
/// How names of event files begin; the second since 1970 follows, then who wrote the file.
const PREFIX: &str = "events.out.tfevents.";
/// What the first event of a file says.
const FILE_VERSION: &str = "brain.Event:2";

static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
    #[prost(message, optional, tag = "8")]
    pub tensor: Option<Tensor>,
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
}

/// A tensor without dimensions.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Tensor {
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub strings: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Shape {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metadata {
    #[prost(message, optional, tag = "1")]
    pub plugin: Option<Plugin>,
    #[prost(int32, tag = "4")]
    pub data_class: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Plugin {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct SessionLog {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

impl SessionLog {
    /// What earlier files of the folder hold at the event's step or later no longer counts.
    pub const START: Self = SessionLog { status: 1 };
}

impl Value {
    pub fn scalar(tag: String, value: f32) -> Self {
        Value { tag, simple_value: Some(value), tensor: None, metadata: None }
    }

    /// Markdown.
    pub fn text(tag: String, text: String) -> Self {
        const DT_STRING: i32 = 7;
        const CLASS_TENSOR: i32 = 2;
        let plugin = Some(Plugin { name: "text".to_owned() });
        Value {
            tag,
            simple_value: None,
            tensor: Some(Tensor {
                dtype: DT_STRING,
                shape: Some(Shape {}),
                strings: vec![text.into_bytes()],
            }),
            metadata: Some(Metadata { plugin, data_class: CLASS_TENSOR }),
        }
    }
}

/// CRC-32C (Castagnoli) of `bytes`, masked as TFRecord wants it: a checksum of bytes that hold checksums.
fn masked_crc(bytes: &[u8]) -> u32 {
    CRC32C.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn append_record(to: &mut Vec<u8>, message: &[u8]) {
    let length = (message.len() as u64).to_le_bytes();
    to.extend_from_slice(&length);
    to.extend_from_slice(&masked_crc(&length).to_le_bytes());
    to.extend_from_slice(message);
    to.extend_from_slice(&masked_crc(message).to_le_bytes());
}

/// The next record's message; `None` at the end, and where a record is torn, damaged or too long.
fn next_record(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 12];
    if !fill(from, &mut header)? {
        return Ok(None);
    }
    let (length, crc) = header.split_at(8);
    if masked_crc(length).to_le_bytes() != crc {
        return Ok(None);
    }
    let length = length.iter().rev().fold(0, |n, byte| (n << 8) | u64::from(*byte));
    if length > MAX_RECORD_BYTES {
        return Ok(None);
    }
    let mut message = vec![0; length as usize];
    let mut crc = [0; 4];
    let is_whole = fill(from, &mut message)? && fill(from, &mut crc)?;
    Ok((is_whole && masked_crc(&message).to_le_bytes() == crc).then_some(message))
}

/// Reads into all of `buffer`; false if the end comes before.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

/// An event file that is being written.
pub(super) struct EventFile {
    pub path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates a file that readers take to be the newest of its folder: they go by the order of names, and the clock
    /// of a device may have gone back.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn create(folder: &Path, writer: &str, wall_time: f64) -> Result<Self, (PathBuf, io::Error)> {
        let newest = list(folder).ok().and_then(|files| Some(second_of(files.last()?)? + 1));
        let second = newest.unwrap_or(0).max(wall_time as u64);
        let path = folder.join(format!("{PREFIX}{second:010}.{writer}"));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(|e| (path.clone(), e))?;
        let mut file = EventFile { path, file };
        let version = Event { wall_time, step: 0, what: Some(What::FileVersion(FILE_VERSION.to_owned())) };
        file.append(&[version])?;
        Ok(file)
    }

    /// Hands whole records to the system, so that a reader sees them now.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn append(&mut self, events: &[Event]) -> Result<(), (PathBuf, io::Error)> {
        let mut bytes = Vec::new();
        events.iter().for_each(|event| append_record(&mut bytes, &event.encode_to_vec()));
        self.file.write_all(&bytes).map_err(|e| (self.path.clone(), e))
    }
}

fn second_of(file: &Path) -> Option<u64> {
    file.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

/// Event files of a folder, the oldest first.
///
/// # Errors
/// What the file system says.
pub(super) fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if second_of(&path).is_some() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Hands on the events of a file, as far as they are whole.
///
/// # Errors
/// What the file system says.
pub(super) fn read(path: &Path, mut on_event: impl FnMut(Event)) -> io::Result<()> {
    let mut file = BufReader::new(File::open(path)?);
    while let Some(message) = next_record(&mut file)? {
        let Ok(event) = Event::decode(message.as_slice()) else { break };
        on_event(event);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_specifications() {
        // RFC 3720, B.4: 32 bytes of zeros, of ones, rising and falling; and the check value of CRC-32C.
        let rising: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        let table: [(&[u8], u32); 5] = [
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&rising, 0x46dd_794e),
            (&falling, 0x113f_db5c),
            (b"123456789", 0xe306_9283),
        ];
        for (bytes, crc) in table {
            assert_eq!(CRC32C.checksum(bytes), crc);
        }
        // As TFRecord masks it, ((crc >> 15) | (crc << 17)) + 0xa282ead8; by TensorBoard's own function.
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }

    /// The first record of every file of TensorBoard's own writer, but for the time.
    #[test]
    fn the_first_record_is_byte_for_byte_that_of_others() {
        let version =
            Event { wall_time: 1.5, step: 0, what: Some(What::FileVersion(FILE_VERSION.to_owned())) };
        let mut record = Vec::new();
        append_record(&mut record, &version.encode_to_vec());
        let mut expected = vec![24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22, 9];
        expected.extend(1.5_f64.to_le_bytes());
        expected.extend([26, 13]);
        expected.extend(b"brain.Event:2");
        assert_eq!(record[..expected.len()], expected);
        assert_eq!(record.len(), expected.len() + 4);
    }

    #[test]
    fn what_is_torn_or_damaged_ends_a_file() {
        let mut bytes = Vec::new();
        append_record(&mut bytes, b"first");
        let first = bytes.len();
        append_record(&mut bytes, b"second");
        let messages = |bytes: &[u8]| {
            let mut from = bytes;
            std::iter::from_fn(|| next_record(&mut from).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(messages(&bytes), [b"first".to_vec(), b"second".to_vec()]);
        for end in first..bytes.len() {
            assert_eq!(messages(&bytes[..end]), [b"first".to_vec()], "{end} bytes");
        }
        for at in first..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(messages(&damaged), [b"first".to_vec()], "byte {at}");
        }
        let mut long = Vec::new();
        append_record(&mut long, &vec![0; MAX_RECORD_BYTES as usize + 1]);
        assert_eq!(messages(&long), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_new_file_comes_last_though_the_clock_has_gone_back() {
        let folder = tempfile::tempdir().unwrap();
        for wall_time in [2e9, 2e9, 17.0] {
            EventFile::create(folder.path(), "alice", wall_time).map_err(|(_, e)| e).unwrap();
        }
        let names: Vec<_> =
            list(folder.path()).unwrap().iter().map(|f| f.file_name().unwrap().to_owned()).collect();
        let name = |second: u64| std::ffi::OsString::from(format!("{PREFIX}{second}.alice"));
        assert_eq!(names, [name(2_000_000_000), name(2_000_000_001), name(2_000_000_002)]);
    }
}
