//! JPEG. The decoder differs from libjpeg-turbo, which Pillow has, by a level here and there.

use std::io::Cursor;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{Rgb, SIDE_MAX, check_size, corrupt};
use crate::verdict::ParseFailure;

const START_OF_SCAN: [u8; 2] = [0xff, 0xda];
const END: [u8; 2] = [0xff, 0xd9];

pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, ParseFailure> {
    let options = DecoderOptions::default()
        .set_max_width(SIDE_MAX as usize)
        .set_max_height(SIDE_MAX as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(Cursor::new(bytes), options);
    let failed = |error| corrupt("JPEG", error);
    decoder.decode_headers().map_err(failed)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| corrupt("JPEG", "no size"))?;
    let (width, height) = (width as u32, height as u32);
    check_size(width, height)?;
    if is_cut(bytes) {
        return Err(corrupt("JPEG", format!("it ends within its picture, after {} bytes", bytes.len())));
    }
    let pixels = decoder.decode().map_err(failed)?;
    let wanted = width as usize * height as usize * 3;
    if pixels.len() != wanted {
        return Err(corrupt("JPEG", format!("{} bytes of pixels, not {wanted}", pixels.len())));
    }
    Ok(Rgb { width, height, pixels })
}

/// Whether the mark of the end is missing behind the last scan: the decoder would fill with grey what did not come.
fn is_cut(bytes: &[u8]) -> bool {
    let last = |mark: [u8; 2]| bytes.windows(2).rposition(|pair| *pair == mark);
    last(END) < last(START_OF_SCAN)
}
