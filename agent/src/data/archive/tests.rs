use std::io::{Cursor, Write};

use proptest::prelude::*;

use super::*;
use crate::data::testing::{Written, gzip, tar as archive};

/// `b` ends with more zeros than the end of an archive has.
fn files() -> Vec<(&'static str, &'static [u8])> {
    vec![("./a", b"first"), ("in/b", &[0; 2048]), (".hidden/c", b"not kept")]
}

fn expected() -> Files {
    Files::from([("a".to_owned(), b"first".to_vec()), ("in/b".to_owned(), vec![0; 2048])])
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn zipped() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files() {
        writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn read_bytes(bytes: &[u8]) -> Result<Option<Files>, DataError> {
    let written = Written::new(&[("archive", bytes)]);
    read(&written.path("archive"))
}

#[test]
fn archives_are_known_by_their_content() {
    let tar = archive(&files());
    for (what, bytes) in [("gz", gzip(&tar)), ("xz", xz(&tar)), ("zip", zipped()), ("tar", tar)] {
        assert_eq!(read_bytes(&bytes).unwrap(), Some(expected()), "{what}");
    }
    assert_eq!(read_bytes(b"something else").unwrap(), None);
    assert_eq!(read_bytes(b"").unwrap(), None);
}

#[test]
fn every_truncation_is_refused() {
    let tar = archive(&files());
    let n_zeros = tar.iter().rev().take_while(|byte| **byte == 0).count();
    // The last file's padding, two blocks of zeros: one of them is an end.
    let end = tar.len() - n_zeros.min(1024) + 512;
    for (what, bytes, end) in [
        ("gz", gzip(&tar), usize::MAX),
        ("xz", xz(&tar), usize::MAX),
        ("zip", zipped(), usize::MAX),
        ("tar", tar, end),
    ] {
        for n in 0..bytes.len().min(end) {
            // Too short to be known as an archive, or known to be cut.
            let read = read_bytes(&bytes[..n]);
            assert!(!matches!(read, Ok(Some(_))), "{what}, {n} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn what_follows_an_archive_is_refused() {
    let tar = archive(&files());
    for bytes in
        [[&tar[..], b"x"].concat(), gzip(&[&tar[..], b"x"].concat()), [&gzip(&tar)[..], b"x"].concat()]
    {
        assert!(read_bytes(&bytes).is_err());
    }
    assert_eq!(read_bytes(&[&tar[..], &[0; 5000]].concat()).unwrap(), Some(expected()), "zeros are padding");
}

#[test]
fn names_and_links_out_of_an_archive_are_refused() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "link", "/etc/passwd").unwrap();
    let error = read_bytes(&builder.into_inner().unwrap()).unwrap_err().to_string();
    assert!(error.contains("files and folders alone, found something else, `link`"), "{error}");

    let mut climbing = archive(&[("aa/bb", b"x")]);
    climbing[..5].copy_from_slice(b"aa/..");
    let sum: u32 =
        climbing[..148].iter().chain(&[b' '; 8]).chain(&climbing[156..512]).map(|b| u32::from(*b)).sum();
    climbing[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = read_bytes(&climbing).unwrap_err().to_string();
    assert!(error.contains("names within the archive, found aa/.."), "{error}");
}

#[test]
fn a_size_that_is_too_large_is_refused_before_it_is_read() {
    let mut kept = Kept::new(Path::new("x"));
    let error = kept.add("a", limits::MAX_ARCHIVE_BYTES + 1, std::io::empty()).unwrap_err();
    assert!(error.to_string().contains("more than 17179869184 bytes of files"), "{error}");
    kept.n_bytes = limits::MAX_ARCHIVE_BYTES;
    assert!(matches!(kept.add("a", 1, std::io::empty()), Err(DataError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(which in 0_usize..4, at in any::<prop::sample::Index>(), bytes in any::<[u8; 3]>()) {
        let tar = archive(&files());
        let mut whole = match which {
            0 => gzip(&tar),
            1 => xz(&tar),
            2 => zipped(),
            _ => tar,
        };
        let at = at.index(whole.len() - 3);
        whole[at..at + 3].copy_from_slice(&bytes);
        let _ = read_bytes(&whole);
    }
}

#[test]
fn long_names_are_read_in_both_forms_and_bounded() {
    let long = format!("{}/image.png", "folder".repeat(30));
    let mut gnu = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    gnu.append_data(&mut header, &long, &b"abc"[..]).unwrap();
    let expected = Files::from([(long.clone(), b"abc".to_vec())]);
    assert_eq!(read_bytes(&gnu.into_inner().unwrap()).unwrap(), Some(expected.clone()), "gnu");

    let mut pax = tar::Builder::new(Vec::new());
    pax.append_pax_extensions([("comment", &b"x"[..]), ("path", long.as_bytes())]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_path("short").unwrap();
    header.set_cksum();
    pax.append(&header, &b"abc"[..]).unwrap();
    assert_eq!(read_bytes(&pax.into_inner().unwrap()).unwrap(), Some(expected), "pax");

    // An entry that says how a name goes on, and goes on itself.
    let mut bomb = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_path("././@LongLink").unwrap();
    let zeros = vec![0; MAX_EXTENSION_BYTES as usize + 1];
    header.set_size(zeros.len() as u64);
    header.set_cksum();
    bomb.append(&header, &zeros[..]).unwrap();
    let error = read_bytes(&bomb.into_inner().unwrap()).unwrap_err().to_string();
    assert!(error.contains("more than 65536 bytes of a name"), "{error}");
}

#[test]
fn a_link_in_a_zip_archive_is_refused_as_in_others() {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    writer.add_symlink("link", "a", zip::write::SimpleFileOptions::default()).unwrap();
    let error = read_bytes(&writer.finish().unwrap().into_inner()).unwrap_err().to_string();
    assert!(error.contains("something else, `link`"), "{error}");
}
