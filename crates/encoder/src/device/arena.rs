//! The buffers of one worker: allocated once, grown to the largest batch.

use crate::device::{Batch, Part};
use crate::program::{BufferId, Program, Rows};

#[derive(Default)]
pub(super) struct Arena {
    buffers: Vec<Vec<f32>>,
    lengths: Vec<usize>,
}

impl Arena {
    /// Makes room for a batch. What the buffers hold is not defined; in a debug build it is NaN, so that an operation
    /// which reads what nobody wrote, in this batch, shows in the finished rows.
    pub(super) fn prepare(&mut self, program: &Program, batch: &Batch) {
        self.buffers.resize_with(program.buffers.len(), Vec::new);
        self.lengths.clear();
        for (values, buffer) in self.buffers.iter_mut().zip(&program.buffers) {
            let rows = match buffer.rows {
                Rows::Tokens => batch.tokens(),
                Rows::Sequences => batch.sequences(),
            };
            let length = rows * buffer.width;
            if values.len() < length {
                values.resize(length, 0.0);
            }
            if cfg!(debug_assertions) {
                values.fill(f32::NAN);
            }
            self.lengths.push(length);
        }
    }

    pub(super) fn read(&self, id: BufferId) -> &[f32] {
        &self.buffers[id.0][..self.lengths[id.0]]
    }

    /// Puts what a prefix left of each pass's image into its place.
    pub(super) fn restore(&mut self, program: &Program, batch: &Batch) {
        let (Part::Suffix { state, passes, .. }, Some(split)) = (&batch.part, program.split()) else {
            return;
        };
        for (id, values) in split.live.iter().zip(&state.buffers) {
            let of_image = values.len() / state.images;
            let rows = self.buffers[id.0].chunks_exact_mut(of_image);
            for (rows, pass) in rows.zip(passes) {
                rows.copy_from_slice(&values[pass.image * of_image..][..of_image]);
            }
        }
    }

    /// Rows of a buffer in this batch.
    pub(super) fn rows(&self, program: &Program, id: BufferId) -> usize {
        self.lengths[id.0] / program.width(id)
    }

    /// Writes a buffer while the others can be read; the buffer itself is out of reach meanwhile.
    pub(super) fn write(&mut self, id: BufferId, fill: impl FnOnce(&Arena, &mut [f32])) {
        let mut values = std::mem::take(&mut self.buffers[id.0]);
        fill(self, &mut values[..self.lengths[id.0]]);
        self.buffers[id.0] = values;
    }

    pub(super) fn bytes(&self) -> usize {
        self.buffers.iter().map(|values| values.capacity() * size_of::<f32>()).sum()
    }
}
