//! BMP without compression: palettes of 1, 4 and 8 bits, and colours of 24 and 32. Others are refused by name.

use super::{Rgb, check_size, corrupt};
use crate::verdict::{ParseFailure, Verdict};

/// Bytes of the oldest header, whose palette has three bytes a colour, and of the one that all others begin with.
const CORE_HEADER: u32 = 12;
const INFO_HEADER: u32 = 40;
const FILE_HEADER: usize = 14;

pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, ParseFailure> {
    let header = Header::read(bytes).ok_or_else(|| corrupt("BMP", "it ends within its header"))?;
    check_size(header.width, header.height)?;
    if header.compression != 0 || ![1, 4, 8, 24, 32].contains(&header.bits) {
        let why = format!("a BMP of {} bits with compression {}", header.bits, header.compression);
        return Err(ParseFailure::new(Verdict::Unsupported, why));
    }
    let (width, height) = (header.width as usize, header.height as usize);
    let stride = (width * usize::from(header.bits)).div_ceil(32) * 4;
    // An offset beyond the file leaves no rows, which the check of their length names.
    let rows = bytes.get(header.pixels_at..).unwrap_or_default();
    // Some writers leave the padding of the last row out.
    let needed = stride * (height - 1) + (width * usize::from(header.bits)).div_ceil(8);
    if rows.len() < needed {
        return Err(corrupt("BMP", format!("{} bytes of pixels, not {needed}", rows.len())));
    }
    let mut pixels = Vec::with_capacity(width * height * 3);
    for row in 0..height {
        let at = if header.is_top_down { row } else { height - 1 - row };
        let row = &rows[at * stride..rows.len().min((at + 1) * stride)];
        match header.bits {
            24 | 32 => {
                let colours = row.chunks_exact(usize::from(header.bits) / 8).take(width);
                pixels.extend(colours.flat_map(|c| [c[2], c[1], c[0]]));
            }
            bits => {
                let each = 8 / bits;
                let index = |x: usize| {
                    let shift = 8 - bits * (x as u16 % each + 1);
                    usize::from(row[x / usize::from(each)]) >> shift & ((1 << bits) - 1)
                };
                pixels.extend((0..width).flat_map(|x| header.colour(bytes, index(x))));
            }
        }
    }
    Ok(Rgb { width: header.width, height: header.height, pixels })
}

struct Header {
    width: u32,
    height: u32,
    is_top_down: bool,
    bits: u16,
    compression: u32,
    pixels_at: usize,
    palette_at: usize,
    colours: usize,
    colour_bytes: usize,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Header> {
        let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let pixels_at = u32_at(10)? as usize;
        let size = u32_at(FILE_HEADER)?;
        let palette_at = FILE_HEADER + size as usize;
        if size == CORE_HEADER {
            let bits = u16_at(24)?;
            return Some(Header {
                width: u16_at(18)?.into(),
                height: u16_at(20)?.into(),
                is_top_down: false,
                bits,
                compression: 0,
                pixels_at,
                palette_at,
                colours: 1 << bits.min(8),
                colour_bytes: 3,
            });
        }
        if size < INFO_HEADER {
            return None;
        }
        let (bits, height) = (u16_at(28)?, u32_at(22)? as i32);
        let colours = match u32_at(46)? as usize {
            0 => 1 << bits.min(8),
            colours => colours.min(256),
        };
        Some(Header {
            width: u32_at(18)?,
            height: height.unsigned_abs(),
            is_top_down: height < 0,
            bits,
            compression: u32_at(30)?,
            pixels_at,
            palette_at,
            colours,
            colour_bytes: 4,
        })
    }

    /// Beyond the palette there is black.
    fn colour(&self, bytes: &[u8], index: usize) -> [u8; 3] {
        let at = self.palette_at + index * self.colour_bytes;
        let stored = bytes.get(at..at + 3).filter(|_| index < self.colours);
        stored.map_or([0; 3], |c| [c[2], c[1], c[0]])
    }
}
