//! What a run takes of memory, and the largest batch that fits. Pixels and results stand on disk; of an image, memory has
//! numbers alone.

use haul_encoder::vision::{Footprint, footprint};
use haul_kernels::dtype::Dtype;

use super::{McError, Run, passing};

const MIB: u64 = 1 << 20;
/// The program itself, its journal and its files of results.
const BASE_BYTES: u64 = 128 * MIB;
/// Of a weight in f32 as it is packed, at most: for tiles it stands in three pieces.
const F32_BYTES: u64 = 6;
/// Buffers of a batch, and what kernels take beside them, over the buffers alone.
const BUFFERS_PERCENT: u64 = 150;
/// Of an image: its path, its hash, places in lists.
const IMAGE_BYTES: u64 = 512;
/// Of a trial over an image: what tables have of it.
const TRIAL_BYTES: u64 = 256;
/// Copies of the pixels of a group that is begun: as they are kept, and side by side.
const PIXEL_COPIES: u64 = 2;
/// The same as numbers, until its prefix is there.
const PIXEL_NUMBERS: u64 = 4;
/// Groups ahead of the one that passes are computed over, beside one for each thread.
const WAITING_GROUPS: u64 = 1;
/// A process that decodes has this at least, and no more than [`haul_corpus::limits::Limits::DEFAULT`] gives.
pub const DECODER_BYTES_MIN: u64 = 512 * MIB;

/// Processes that decode within so many bytes, and what each of them may take; at least one that has the least.
#[must_use]
pub fn decoders(bytes: u64, threads: usize, most: u64) -> (usize, u64) {
    let room = bytes.saturating_sub(BASE_BYTES);
    let count = (room / DECODER_BYTES_MIN).clamp(1, threads.max(1) as u64);
    (count as usize, (room / count).clamp(DECODER_BYTES_MIN, most))
}

impl Run<'_> {
    /// The largest batch, up to the one that was asked for, with which the run stays within so many bytes.
    ///
    /// # Errors
    /// [`McError::Memory`] where it does not with one pass at a time, or files of the tower that do not fit each other.
    pub fn batch_within(&self, bytes: u64, threads: usize) -> Result<usize, McError> {
        let footprint = self.footprint()?;
        let fixed = self.fixed_bytes(footprint);
        let each = self.bytes_of_a_pass(footprint, threads);
        let held = self.held_bytes();
        let needed = fixed.max(BASE_BYTES + DECODER_BYTES_MIN).max(fixed + each + held);
        if needed > bytes {
            return Err(McError::Memory { bytes, needed });
        }
        let room = (bytes - fixed - held) / each.max(1);
        Ok(self.settings.batch.min(room as usize).max(1))
    }

    fn footprint(&self) -> Result<Footprint, McError> {
        let config = &self.tower.config;
        Ok(footprint(&self.tower.folder, config, &self.settings.sites.of(config)?)?)
    }

    /// Whatever the batch.
    fn fixed_bytes(&self, footprint: Footprint) -> u64 {
        let weights = match self.dtype {
            Dtype::F32 => F32_BYTES * footprint.weights,
            // What rounding does is measured against f32, whose weights stand beside them.
            _ => (2 + F32_BYTES) * footprint.weights,
        };
        let of_image = IMAGE_BYTES + TRIAL_BYTES * self.settings.series().len() as u64;
        BASE_BYTES + footprint.file_bytes + weights + of_image * self.images.len() as u64
    }

    /// For each pass in a batch: its buffers on every thread, and an image of the group that is computed at once.
    fn bytes_of_a_pass(&self, footprint: Footprint, threads: usize) -> u64 {
        let models = if self.dtype == Dtype::F32 { 1 } else { 2 };
        let buffers = models * threads as u64 * footprint.pass_bytes * BUFFERS_PERCENT / 100;
        let ahead = threads as u64 + WAITING_GROUPS;
        let pixels = (PIXEL_COPIES + ahead * PIXEL_NUMBERS) * self.tower.image_bytes() as u64;
        buffers + (1 + ahead) * footprint.state_bytes + pixels
    }

    /// Passes of trials that end early, until they do.
    fn held_bytes(&self) -> u64 {
        let of_image = (self.settings.longest() * self.tower.dim() * size_of::<f32>()) as u64;
        if self.settings.enough.is_some() {
            (passing::HELD_BYTES_MAX as u64).max(of_image)
        } else {
            2 * of_image
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoders_share_what_there_is() {
        let most = 2048 * MIB;
        assert_eq!(decoders(u64::MAX, 2, most), (2, most));
        assert_eq!(decoders(2048 * MIB, 2, most), (2, 960 * MIB));
        assert_eq!(decoders(1024 * MIB, 8, most), (1, 896 * MIB));
        assert_eq!(decoders(0, 8, most), (1, DECODER_BYTES_MIN));
    }
}
