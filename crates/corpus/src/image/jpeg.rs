//! JPEG, to the bits of libjpeg-turbo, which Pillow has.

use libjpeg_turbo_rs::{ColorSpace, DecodeLimits, Decoder, FrameHeader, JpegError, PixelFormat};

use super::{Rgb, SIDE_MAX, check_size, corrupt};
use crate::verdict::{ParseFailure, Verdict};

const START_OF_SCAN: u8 = 0xda;
const END: [u8; 2] = [0xff, 0xd9];

/// Scans of a picture: a progressive one has about ten, and each costs as much as the whole picture.
const SCANS_MAX: usize = 500;

pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, ParseFailure> {
    let limits = DecodeLimits {
        max_width: SIDE_MAX as usize,
        max_height: SIDE_MAX as usize,
        // Ours are held below, with a verdict of their own.
        max_pixels: u64::MAX,
        max_scans: SCANS_MAX,
        // The worker's is held by the system.
        max_memory: None,
    };
    let mut decoder = Decoder::new_with_limits(bytes, limits).map_err(|error| failed(&error))?;
    let (width, height) = (u32::from(decoder.header().width), u32::from(decoder.header().height));
    check_size(width, height)?;
    check_samples(decoder.header())?;
    if is_cut(bytes) {
        return Err(corrupt("JPEG", format!("it ends within its picture, after {} bytes", bytes.len())));
    }
    let is_ink = matches!(decoder.jpeg_color_space(), ColorSpace::Cmyk | ColorSpace::Ycck);
    decoder.set_output_format(if is_ink { PixelFormat::Cmyk } else { PixelFormat::Rgb });
    // As libjpeg does where a progressive picture has not all of its scans.
    decoder.set_block_smoothing(true);
    let values = decoder.decode_image().map_err(|error| failed(&error))?.data;
    let wanted = width as usize * height as usize * if is_ink { 4 } else { 3 };
    if values.len() != wanted {
        return Err(corrupt("JPEG", format!("{} bytes of pixels, not {wanted}", values.len())));
    }
    Ok(Rgb { width, height, pixels: if is_ink { from_ink(&values) } else { values } })
}

fn failed(error: &JpegError) -> ParseFailure {
    let verdict = match error {
        JpegError::Unsupported(_) => Verdict::Unsupported,
        JpegError::LimitExceeded { .. } | JpegError::AllocationFailed { .. } => Verdict::TooLarge,
        _ => Verdict::Corrupt,
    };
    ParseFailure::new(verdict, format!("JPEG: {error}"))
}

/// Values have eight bits, as everywhere in Pillow. Four inks are read at one size, or with the middle two at half of it,
/// as Adobe writes them; the decoder panics at others.
fn check_samples(header: &FrameHeader) -> Result<(), ParseFailure> {
    let unsupported = |why: String| Err(ParseFailure::new(Verdict::Unsupported, format!("JPEG: {why}")));
    if header.precision != 8 {
        return unsupported(format!("values of {} bits; 8 are read", header.precision));
    }
    let sizes: Vec<_> =
        header.components.iter().map(|ink| (ink.horizontal_sampling, ink.vertical_sampling)).collect();
    match sizes[..] {
        [first, ..] if sizes.iter().all(|size| *size == first) => Ok(()),
        [first @ (1..=2, 1..=2), (1, 1), (1, 1), last] if first == last => Ok(()),
        [_, _, _, _] => unsupported(format!("four inks, stored at {sizes:?} of a block, are not read")),
        _ => Ok(()),
    }
}

/// Cyan, magenta, yellow and black to red, green and blue as in Pillow, which takes them for stored upside down, as
/// Adobe stores them, whatever a file says.
fn from_ink(values: &[u8]) -> Vec<u8> {
    let product = |a: u8, b: u8| {
        let both = u32::from(a) * u32::from(b) + 128;
        (((both >> 8) + both) >> 8) as u8
    };
    let (pixels, _) = values.as_chunks();
    pixels.iter().flat_map(|&[c, m, y, k]| [c, m, y].map(|ink| k - product(255 - ink, k))).collect()
}

/// Whether no mark of an end stands behind the beginning of the first scan. What stands behind the mark is another
/// picture's, or a film's; data that are missing before it are found by the decoder.
fn is_cut(bytes: &[u8]) -> bool {
    let scan = first_scan(bytes).unwrap_or(bytes.len());
    !bytes[scan..].windows(2).any(|pair| pair == END)
}

/// Where the first scan begins; those of a preview within the headers do not count.
fn first_scan(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        match *bytes.get(at + 1)? {
            START_OF_SCAN => return Some(at),
            // A byte that fills, and marks without a length.
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            _ => at += 2 + usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?])),
        }
    }
}
