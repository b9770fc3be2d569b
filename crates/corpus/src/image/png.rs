//! PNG, with what Pillow makes of each of its modes.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, Limits, Transformations};

use super::{Rgb, check_size, corrupt, from_grey};
use crate::verdict::ParseFailure;

/// Bytes of the decoder's own buffers, besides pixels.
const BUFFER_BYTES_MAX: usize = 512 << 20;

pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, ParseFailure> {
    let failed = |error: png::DecodingError| corrupt("PNG", error);
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: BUFFER_BYTES_MAX });
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    let mut reader = decoder.read_info().map_err(failed)?;
    let (width, height) = reader.info().size();
    check_size(width, height)?;
    let bytes = reader.output_buffer_size().ok_or_else(|| corrupt("PNG", "a size beyond memory"))?;
    let mut raw = vec![0; bytes];
    let frame = reader.next_frame(&mut raw).map_err(failed)?;
    // Only indexed images have one; without it they are black, as in Pillow.
    let palette = reader.info().palette.clone().unwrap_or_default();
    let rows = raw.chunks_exact(frame.line_size.max(1)).take(height as usize);
    Ok(match frame.color_type {
        ColorType::Grayscale => {
            let grey: Vec<u8> = rows.flat_map(|row| grey(row, frame.bit_depth, width)).collect();
            from_grey(width, height, &grey)
        }
        ColorType::Indexed => {
            let colour = |index: u8| {
                let at = usize::from(index) * 3;
                // Beyond the palette, Pillow has black.
                palette.get(at..at + 3).map_or([0; 3], |rgb| [rgb[0], rgb[1], rgb[2]])
            };
            let pixels = rows.flat_map(|row| indices(row, frame.bit_depth, width)).flat_map(colour).collect();
            Rgb { width, height, pixels }
        }
        ColorType::GrayscaleAlpha => {
            let step = if frame.bit_depth == BitDepth::Sixteen { 4 } else { 2 };
            let grey: Vec<u8> = rows.flat_map(|row| row.iter().copied().step_by(step)).collect();
            from_grey(width, height, &grey)
        }
        ColorType::Rgb => Rgb { width, height, pixels: colours(&raw, 3, frame.bit_depth) },
        ColorType::Rgba => Rgb { width, height, pixels: colours(&raw, 4, frame.bit_depth) },
    })
}

/// The first three of so many channels; of 16 bits, the upper eight.
fn colours(raw: &[u8], channels: usize, depth: BitDepth) -> Vec<u8> {
    let bytes = if depth == BitDepth::Sixteen { 2 } else { 1 };
    let pixels = raw.chunks_exact(channels * bytes);
    pixels.flat_map(|pixel| [pixel[0], pixel[bytes], pixel[2 * bytes]]).collect()
}

/// Narrow values are stretched to 0..=255. Wide ones are cut off at 255, as Pillow does: nearly all become white.
fn grey(row: &[u8], depth: BitDepth, width: u32) -> Vec<u8> {
    match depth {
        BitDepth::Sixteen => row.chunks_exact(2).map(|v| if v[0] == 0 { v[1] } else { 255 }).collect(),
        BitDepth::Eight => row.to_vec(),
        BitDepth::Four => indices(row, depth, width).map(|value| value * 17).collect(),
        BitDepth::Two => indices(row, depth, width).map(|value| value * 85).collect(),
        BitDepth::One => indices(row, depth, width).map(|value| value * 255).collect(),
    }
}

/// Values of up to eight bits, the first in the uppermost ones.
fn indices(row: &[u8], depth: BitDepth, width: u32) -> impl Iterator<Item = u8> {
    let bits = (depth as u8).min(8);
    let mask = u8::MAX >> (8 - bits);
    let each = 8 / bits;
    let of_byte = move |byte: u8| (0..each).map(move |no| byte >> (8 - bits * (no + 1)) & mask);
    row.iter().copied().flat_map(of_byte).take(width as usize)
}
