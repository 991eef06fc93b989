//! NPY: one NumPy array in a file, as NumPy's `lib.format` describes it (versions 1 to 3).

use std::path::Path;

use super::DataError;

const MAGIC: &[u8] = b"\x93NUMPY";

/// An array in C's order.
#[derive(Debug, PartialEq)]
pub(super) struct Array<'a> {
    /// Type of the elements: byte order, kind, bytes of one, as `<i8`.
    pub element: String,
    pub shape: Vec<usize>,
    pub data: &'a [u8],
}

/// Reads a whole file.
///
/// # Errors
/// [`DataError::Format`] if it is cut short, goes on after its end, or is in Fortran's order.
pub(super) fn read<'a>(bytes: &'a [u8], path: &Path) -> Result<Array<'a>, DataError> {
    let no_array = |found: &str| DataError::format(path, "an NPY file", found);
    let Some((version, rest)) = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk::<2>())
    else {
        return Err(no_array("another beginning"));
    };
    let header = match version[0] {
        1 => rest.split_first_chunk().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
        2 | 3 => rest.split_first_chunk().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
        version => return Err(no_array(&format!("version {version}"))),
    };
    let Some((header, data)) = header.and_then(|(n, rest)| rest.split_at_checked(n)) else {
        return Err(no_array("the file's end within its header"));
    };
    let Some(header) = str::from_utf8(header).ok().and_then(parse_header) else {
        return Err(no_array("a header that cannot be read"));
    };
    if header.columns_first {
        let expected = "an array in C's order (numpy.ascontiguousarray)";
        return Err(DataError::format(path, expected, "one in Fortran's order"));
    }
    let (element, shape) = (header.element, header.shape);
    let Some(n_bytes) = element_bytes(&element).filter(|n| *n > 0) else {
        return Err(DataError::format(path, "an array of numbers or texts", format!("`{element}`")));
    };
    let expected = shape.iter().try_fold(n_bytes, |n, size| n.checked_mul(*size));
    if expected != Some(data.len()) {
        let expected = format!("the data of an array `{element}` {shape:?}");
        return Err(DataError::format(path, expected, format!("{} bytes", data.len())));
    }
    Ok(Array { element, shape, data })
}

impl Array<'_> {
    /// Whole numbers of any width; `None` if the elements are something else, or one has more than 63 bits.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        let (order, kind) = (self.element.as_bytes()[0], self.element.as_bytes()[1]);
        let n_bytes = element_bytes(&self.element)?;
        if !matches!(kind, b'u' | b'i' | b'b') || !matches!(n_bytes, 1 | 2 | 4 | 8) {
            return None;
        }
        let number = |element: &[u8]| {
            let mut wide = [0; 8];
            wide[..n_bytes].copy_from_slice(element);
            if order == b'>' {
                wide[..n_bytes].reverse();
            }
            let unused = 64 - 8 * n_bytes as u32;
            let number = u64::from_le_bytes(wide);
            match kind {
                b'i' => Some((number << unused).cast_signed() >> unused),
                _ => i64::try_from(number).ok(),
            }
        };
        self.data.chunks_exact(n_bytes).map(number).collect()
    }

    /// Texts: `U` (4 bytes a character) or `S` (bytes), without the zeros that fill them up.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        let (order, kind) = (self.element.as_bytes()[0], self.element.as_bytes()[1]);
        let text = |element: &[u8]| match kind {
            b'S' => String::from_utf8(element.to_vec()).ok(),
            b'U' => element
                .as_chunks::<4>()
                .0
                .iter()
                .map(|c| {
                    let code = if order == b'>' { u32::from_be_bytes(*c) } else { u32::from_le_bytes(*c) };
                    char::from_u32(code)
                })
                .collect(),
            _ => None,
        };
        let texts = self.data.chunks_exact(element_bytes(&self.element)?).map(text);
        texts.map(|text| Some(text?.trim_end_matches('\0').to_owned())).collect()
    }
}

/// Of `<u2`, `|S10`, `<U3` and their like; `None` for elements with fields, and for objects.
fn element_bytes(element: &str) -> Option<usize> {
    let mut chars = element.chars();
    let (order, kind) = (chars.next()?, chars.next()?);
    let n: usize = chars.as_str().parse().ok()?;
    let is_known =
        matches!(order, '<' | '>' | '|' | '=') && matches!(kind, 'u' | 'i' | 'b' | 'f' | 'S' | 'U');
    let width = if kind == 'U' { 4 } else { 1 };
    if is_known { n.checked_mul(width) } else { None }
}

struct Header {
    element: String,
    columns_first: bool,
    shape: Vec<usize>,
}

/// A Python dictionary with the keys `descr`, `fortran_order` and `shape`, in any order, each once.
fn parse_header(text: &str) -> Option<Header> {
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim_start();
    let (mut element, mut columns_first, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (key, value) = rest.split_once(':')?;
        let value = value.trim_start();
        let end = match key.trim().trim_matches(['\'', '"']) {
            "descr" => {
                let quote = value.chars().next().filter(|c| "'\"".contains(*c))?;
                let (text, end) = value[1..].split_once(quote)?;
                element.replace(text.to_owned()).is_none().then_some(end)
            }
            "fortran_order" => {
                let known = [("False", false), ("True", true)];
                let (is, end) = known.iter().find_map(|(name, is)| Some((*is, value.strip_prefix(name)?)))?;
                columns_first.replace(is).is_none().then_some(end)
            }
            "shape" => {
                let (sizes, end) = value.strip_prefix('(')?.split_once(')')?;
                let sizes = sizes.trim().trim_end_matches(',');
                let sizes: Option<Vec<usize>> = match sizes.is_empty() {
                    true => Some(Vec::new()),
                    false => sizes.split(',').map(|size| size.trim().parse().ok()).collect(),
                };
                shape.replace(sizes?).is_none().then_some(end)
            }
            _ => None,
        }?;
        let end = end.trim_start();
        rest = if end.is_empty() { end } else { end.strip_prefix(',')?.trim_start() };
    }
    Some(Header { element: element?, columns_first: columns_first?, shape: shape? })
}

#[cfg(test)]
mod tests;
