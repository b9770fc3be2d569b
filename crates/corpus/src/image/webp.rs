//! WebP: lossy, lossless, and the first frame of an animation.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::{Rgb, check_size, corrupt};
use crate::verdict::ParseFailure;

/// Bytes of the decoder's own buffers.
const BUFFER_BYTES_MAX: usize = 1 << 30;

pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, ParseFailure> {
    let failed = |error| corrupt("WebP", error);
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(failed)?;
    decoder.set_memory_limit(BUFFER_BYTES_MAX);
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let size = decoder.output_buffer_size().ok_or_else(|| corrupt("WebP", "a size beyond memory"))?;
    let mut raw = vec![0; size];
    if decoder.is_animated() {
        decoder.read_frame(&mut raw).map_err(failed)?;
    } else {
        decoder.read_image(&mut raw).map_err(failed)?;
    }
    let pixels = if decoder.has_alpha() {
        raw.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
    } else {
        raw
    };
    Ok(Rgb { width, height, pixels })
}
