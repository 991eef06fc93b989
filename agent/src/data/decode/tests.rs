use png::{BitDepth, ColorType};
use proptest::prelude::*;

use super::*;
use crate::data::testing::{GREY, RGB, fixture, png as encode};

const FIXTURES: [&str; 5] = ["colour.png", "grey.png", "colour.jpg", "progressive.jpg", "grey.jpg"];

/// Row `y`, column `x` of what `make.py` draws.
fn ramp(x: usize, y: usize) -> [u8; 3] {
    [16 * x + y, 128, 255 - 16 * y].map(|value| value as u8)
}

#[test]
fn fixtures_are_what_they_were_made_from() {
    for name in FIXTURES {
        let image = decode(&fixture(name), None).unwrap();
        assert_eq!((image.width, image.height), (16, 12), "{name}");
        assert_eq!(image.is_grey, name.starts_with("grey"), "{name}");
        let expected: Vec<u8> = (0..12)
            .flat_map(|y| (0..16).map(move |x| ramp(x, y)))
            .flat_map(|pixel| pixel[..if image.is_grey { 1 } else { 3 }].to_vec())
            .collect();
        // JPEG loses a little: this much, at quality 95.
        let tolerance = if name.ends_with(".png") { 0 } else { 6 };
        let off = image.pixels.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(off.is_some_and(|off| off <= tolerance), "{name}: off by {off:?}");
        assert_eq!(image.pixels.len(), expected.len(), "{name}");
    }
}

#[test]
fn jpeg_pixels_are_the_same_on_every_processor() {
    // Of the decoder without instructions of one processor; another version of it may give others.
    let hash =
        |name: &str| blake3::hash(&decode(&fixture(name), None).unwrap().pixels).to_hex()[..16].to_owned();
    assert_eq!(
        ["colour.jpg", "progressive.jpg", "grey.jpg"].map(hash),
        ["b350ae2b1e5bb58a", "b350ae2b1e5bb58a", "a587fa6cdf7ff83c"]
    );
}

#[test]
fn png_of_every_colour_becomes_grey_or_rgb() {
    let check = |kind, data: &[u8], is_grey, expected: &[u8]| {
        let image = decode(&encode(2, 1, kind, data), None).unwrap();
        assert_eq!((image.is_grey, &image.pixels[..]), (is_grey, expected), "{kind:?}");
    };
    check(GREY, &[7, 9], true, &[7, 9]);
    check((ColorType::Grayscale, BitDepth::Sixteen), &[7, 1, 9, 2], true, &[7, 9]);
    check((ColorType::Grayscale, BitDepth::One), &[0b0100_0000], true, &[0, 255]);
    check((ColorType::GrayscaleAlpha, BitDepth::Eight), &[7, 0, 9, 255], true, &[7, 9]);
    check(RGB, &[1, 2, 3, 4, 5, 6], false, &[1, 2, 3, 4, 5, 6]);
    check((ColorType::Rgba, BitDepth::Eight), &[1, 2, 3, 0, 4, 5, 6, 9], false, &[1, 2, 3, 4, 5, 6]);
    check((ColorType::Indexed, BitDepth::Eight), &[1, 0], false, &[4, 5, 6, 1, 2, 3]);
}

#[test]
fn another_size_is_told_without_decoding() {
    for name in FIXTURES {
        let error = decode(&fixture(name), Some((12, 16))).unwrap_err();
        assert!(matches!(error, DecodeError::Size { width: 16, height: 12 }), "{name}: {error}");
        assert!(decode(&fixture(name), Some((16, 12))).is_ok(), "{name}");
    }
    // A header that promises more than fits, and nothing behind it.
    let mut huge = fixture("colour.png");
    huge[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let crc = {
        let mut crc = flate2::Crc::new();
        crc.update(&huge[12..29]);
        crc.sum()
    };
    huge[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = decode(&huge, None).unwrap_err();
    assert!(matches!(error, DecodeError::Size { width: 65535, height: 65535 }), "{error}");
}

#[test]
fn every_truncation_is_refused() {
    for name in FIXTURES {
        let whole = fixture(name);
        for n in 0..whole.len() {
            assert!(decode(&whole[..n], None).is_err(), "{name}, {n} of {} bytes", whole.len());
        }
    }
    assert!(matches!(decode(b"GIF89a", None), Err(DecodeError::Unknown)));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(which in 0_usize..5, at in any::<prop::sample::Index>(), bytes in any::<[u8; 4]>()) {
        let mut image = fixture(FIXTURES[which]);
        let at = at.index(image.len() - 4);
        image[at..at + 4].copy_from_slice(&bytes);
        let _ = decode(&image, None);
        let _ = has_end(&image[at..]);
    }
}
