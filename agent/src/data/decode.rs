//! PNG and JPEG files to pixels. What a file is follows from its content, not from its name.

use std::io::Cursor;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::limits;

/// Decoded: grey `[H, W]` or RGB `[H, W, 3]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Image {
    pub width: usize,
    pub height: usize,
    pub is_grey: bool,
    pub pixels: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("neither")]
    Unknown,
    #[error("{0}")]
    Png(#[from] png::DecodingError),
    #[error("{0}")]
    Jpeg(String),
    #[error("the end of the file before that of the image")]
    Truncated,
    #[error("{width}x{height} pixels")]
    Size { width: usize, height: usize },
    #[error("no pixels that can be read")]
    Layout,
}

/// Decodes an image; one of another size than `size` (width, height), where that is given, gives
/// [`DecodeError::Size`] without being decoded.
///
/// PNG: any depth and colour; 16 bits become 8, transparency is dropped. JPEG: baseline and progressive, YCbCr, grey
/// or CMYK, without regard to an orientation in its metadata.
pub(super) fn decode(bytes: &[u8], size: Option<(usize, usize)>) -> Result<Image, DecodeError> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        png(bytes, size)
    } else if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        jpeg(bytes, size)
    } else {
        Err(DecodeError::Unknown)
    }
}

fn check_size(width: usize, height: usize, wanted: Option<(usize, usize)>) -> Result<(), DecodeError> {
    let max_side = usize::from(u16::MAX);
    let fits = (1..=max_side).contains(&width)
        && (1..=max_side).contains(&height)
        && width * height <= limits::MAX_IMAGE_PIXELS;
    if fits && wanted.is_none_or(|wanted| wanted == (width, height)) {
        Ok(())
    } else {
        Err(DecodeError::Size { width, height })
    }
}

fn png(bytes: &[u8], wanted: Option<(usize, usize)>) -> Result<Image, DecodeError> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_ignore_text_chunk(true);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let header = decoder.read_header_info()?;
    let (width, height) = (header.width as usize, header.height as usize);
    check_size(width, height, wanted)?;
    let mut reader = decoder.read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().ok_or(DecodeError::Layout)?];
    let frame = reader.next_frame(&mut pixels)?;
    // The rest of the file too: its end says that it is whole.
    reader.finish()?;
    pixels.truncate(frame.buffer_size());
    let (samples, is_grey) = match frame.color_type {
        png::ColorType::Grayscale => (1, true),
        png::ColorType::GrayscaleAlpha => (2, true),
        png::ColorType::Rgb => (3, false),
        png::ColorType::Rgba => (4, false),
        png::ColorType::Indexed => return Err(DecodeError::Layout),
    };
    let kept = if is_grey { 1 } else { 3 };
    if samples > kept {
        pixels = pixels.chunks_exact(samples).flat_map(|pixel| pixel[..kept].iter().copied()).collect();
    }
    image(width, height, is_grey, pixels)
}

fn jpeg(bytes: &[u8], wanted: Option<(usize, usize)>) -> Result<Image, DecodeError> {
    let failed = |error: zune_jpeg::errors::DecodeErrors| DecodeError::Jpeg(error.to_string());
    if !has_end(bytes) {
        return Err(DecodeError::Truncated);
    }
    let side = usize::from(u16::MAX);
    let options = DecoderOptions::new_safe().set_strict_mode(true).set_max_width(side).set_max_height(side);
    let mut decoder = JpegDecoder::new_with_options(Cursor::new(bytes), options);
    decoder.decode_headers().map_err(failed)?;
    let header = decoder.info().ok_or(DecodeError::Layout)?;
    let (width, height) = (usize::from(header.width), usize::from(header.height));
    check_size(width, height, wanted)?;
    let is_grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let color = if is_grey { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(color));
    let pixels = decoder.decode().map_err(failed)?;
    image(width, height, is_grey, pixels)
}

fn image(width: usize, height: usize, is_grey: bool, pixels: Vec<u8>) -> Result<Image, DecodeError> {
    let n = width * height * if is_grey { 1 } else { 3 };
    if pixels.len() != n {
        return Err(DecodeError::Layout);
    }
    Ok(Image { width, height, is_grey, pixels })
}

/// Whether the segments of a JPEG file lead to its end-of-image marker (ITU-T T.81, annex B). A decoder may fill up
/// an image that is cut short.
fn has_end(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xd9;
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    loop {
        // Any number of fill bytes 0xff before a marker's code.
        while bytes.get(at) == Some(&0xff) && bytes.get(at + 1) == Some(&0xff) {
            at += 1;
        }
        let Some([0xff, marker]) = bytes.get(at..at + 2) else { return false };
        at += 2;
        if *marker == END_OF_IMAGE {
            return true;
        }
        let Some(length) = bytes.get(at..at + 2) else { return false };
        at += usize::from(u16::from_be_bytes([length[0], length[1]]));
        if *marker == START_OF_SCAN {
            let Some(data) = bytes.get(at..) else { return false };
            // In a scan's data, 0xff is followed by 0 or a restart marker.
            let is_end = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7 | 0xff);
            let Some(n) = data.windows(2).position(is_end) else { return false };
            at += n;
        }
    }
}

#[cfg(test)]
mod tests;
