//! Images to pixels, as Pillow's `convert("RGB")` makes them. Runs inside a worker process: a hostile file may end it.
//!
//! [`decode`] tells formats by their first bytes and not by names, as Pillow does. Orientation in EXIF data, profiles of
//! colour and transparency are ignored, as Pillow ignores them; of several frames, the first is taken.
//! [`resize::Window`] and [`preprocess::Preprocess`] bring pixels to what a model takes.

pub mod preprocess;
pub mod resize;
pub mod treatment;

mod bmp;
mod jpeg;
mod png;
mod webp;

use std::io::Read;
use std::path::Path;

use preprocess::Preprocess;

use crate::parse;
use crate::verdict::{ParseFailure, Verdict};

/// Pixels of an image; Pillow refuses more than these as a bomb.
pub const PIXELS_MAX: u64 = 178_956_970;
/// Pixels of a side; a JPEG has no more.
pub const SIDE_MAX: u32 = 65_535;
/// Bytes of an image file.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

/// Changes when the same file gives other pixels; part of the key of everything made of them.
pub const VERSION: u32 = 2;

/// An image in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Red, green and blue of each pixel, row by row.
    pub pixels: Vec<u8>,
}

/// Formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    Bmp,
    Webp,
}

/// Reads a file and makes of it what a model takes.
pub(crate) fn read(path: &Path, preprocess: &Preprocess) -> Result<Rgb, ParseFailure> {
    let mut bytes = Vec::new();
    let file = parse::open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(parse::unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let why = format!("an image file of more than {FILE_BYTES_MAX} bytes");
        return Err(ParseFailure::new(Verdict::TooLarge, why));
    }
    preprocess.pixels(&decode(&bytes)?)
}

/// Reads an image. Bounds are held against what a header says, before there is room for pixels.
///
/// # Errors
/// What the file is instead, or where it ends.
pub fn decode(bytes: &[u8]) -> Result<Rgb, ParseFailure> {
    if bytes.is_empty() {
        return Err(ParseFailure::new(Verdict::Empty, "zero bytes"));
    }
    match format(bytes)? {
        Format::Png => png::decode(bytes),
        Format::Jpeg => jpeg::decode(bytes),
        Format::Bmp => bmp::decode(bytes),
        Format::Webp => webp::decode(bytes),
    }
}

fn format(bytes: &[u8]) -> Result<Format, ParseFailure> {
    let begins = |magic: &[u8]| bytes.starts_with(magic);
    if begins(b"\x89PNG\r\n\x1a\n") {
        return Ok(Format::Png);
    }
    if begins(b"\xff\xd8\xff") {
        return Ok(Format::Jpeg);
    }
    if begins(b"BM") {
        return Ok(Format::Bmp);
    }
    if begins(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Ok(Format::Webp);
    }
    let other: [(&[u8], &str); 6] = [
        (b"GIF8", "a GIF"),
        (b"II*\0", "a TIFF"),
        (b"MM\0*", "a TIFF"),
        (b"%PDF", "a PDF"),
        (b"PK\x03\x04", "a zip archive"),
        (b"<", "markup, such as HTML or SVG"),
    ];
    let is = other.into_iter().find(|(magic, _)| begins(magic)).map(|(_, name)| name);
    let is_text = !bytes.iter().take(512).any(|byte| *byte < 9 || *byte > 0x7e);
    let why = is.unwrap_or(if is_text { "text" } else { "of no known format" });
    Err(ParseFailure::new(Verdict::Unsupported, format!("{why}; JPEG, PNG, BMP and WebP are read")))
}

/// Refuses sizes that nothing is made of.
fn check_size(width: u32, height: u32) -> Result<(), ParseFailure> {
    if width == 0 || height == 0 {
        return Err(ParseFailure::new(Verdict::Corrupt, format!("an image of {width} x {height} pixels")));
    }
    if width > SIDE_MAX || height > SIDE_MAX || u64::from(width) * u64::from(height) > PIXELS_MAX {
        let why =
            format!("{width} x {height} pixels; at most {SIDE_MAX} a side and {PIXELS_MAX} in all are read");
        return Err(ParseFailure::new(Verdict::TooLarge, why));
    }
    Ok(())
}

fn corrupt(what: &str, why: impl std::fmt::Display) -> ParseFailure {
    ParseFailure::new(Verdict::Corrupt, format!("{what}: {why}"))
}

/// Grey to three equal values.
fn from_grey(width: u32, height: u32, grey: &[u8]) -> Rgb {
    Rgb { width, height, pixels: grey.iter().flat_map(|&value| [value; 3]).collect() }
}
