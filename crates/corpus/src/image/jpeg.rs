//! JPEG, to the bits of libjpeg-turbo, which Pillow has.

use libjpeg_turbo_rs::{ColorSpace, DecodeLimits, Decoder, FrameHeader, PixelFormat};

use super::{Rgb, SIDE_MAX, check_size, corrupt};
use crate::verdict::{ParseFailure, Verdict};

const START_OF_SCAN: [u8; 2] = [0xff, 0xda];
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
        max_memory: None,
    };
    let failed = |error| corrupt("JPEG", error);
    let mut decoder = Decoder::new_with_limits(bytes, limits).map_err(failed)?;
    let (width, height) = (u32::from(decoder.header().width), u32::from(decoder.header().height));
    check_size(width, height)?;
    if is_cut(bytes) {
        return Err(corrupt("JPEG", format!("it ends within its picture, after {} bytes", bytes.len())));
    }
    check_inks(decoder.header())?;
    let is_ink = matches!(decoder.jpeg_color_space(), ColorSpace::Cmyk | ColorSpace::Ycck);
    decoder.set_output_format(if is_ink { PixelFormat::Cmyk } else { PixelFormat::Rgb });
    let values = decoder.decode_image().map_err(failed)?.data;
    let wanted = width as usize * height as usize * if is_ink { 4 } else { 3 };
    if values.len() != wanted {
        return Err(corrupt("JPEG", format!("{} bytes of pixels, not {wanted}", values.len())));
    }
    Ok(Rgb { width, height, pixels: if is_ink { from_ink(&values) } else { values } })
}

/// Four inks are read at one size, or with the middle two at half of it, as Adobe writes them. Others would be enlarged
/// otherwise, and the decoder panics at some of them.
fn check_inks(header: &FrameHeader) -> Result<(), ParseFailure> {
    let sizes: Vec<_> =
        header.components.iter().map(|ink| (ink.horizontal_sampling, ink.vertical_sampling)).collect();
    match sizes[..] {
        [first, (1, 1), (1, 1), last] if first == last && matches!(first, (1 | 2, 1) | (2, 2)) => Ok(()),
        [_, _, _, _] => {
            let why = format!("JPEG: four inks, stored at {sizes:?} of a block, are not read");
            Err(ParseFailure::new(Verdict::Unsupported, why))
        }
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

/// Whether the mark of the end is missing behind the last scan: the decoder would fill with grey what did not come.
fn is_cut(bytes: &[u8]) -> bool {
    let last = |mark: [u8; 2]| bytes.windows(2).rposition(|pair| *pair == mark);
    last(END) < last(START_OF_SCAN)
}
