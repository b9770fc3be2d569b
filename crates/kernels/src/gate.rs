//! Gated activations (GLU): half of a row is the gate of the other half.

use crate::act::{Activation, apply_with};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

/// `out[.., i] = f(x[.., i]) * x[.., width + i]`
///
/// - `x`: `[rows, 2 * width]`
/// - `out`: `[rows, width]`
///
/// A row's result depends on that row alone, bit for bit on one `Isa`.
///
/// # Panics
/// When `x` is not twice as long as `out`, or `out` is not whole rows.
pub fn gate(isa: Isa, f: Activation, x: &[f32], width: usize, out: &mut [f32]) {
    assert_eq!(x.len(), 2 * out.len(), "x is twice as wide as out");
    assert!(width > 0 && out.len().is_multiple_of(width), "out of {} in rows of {width}", out.len());
    isa.run(Gate { f, x, width, out });
}

struct Gate<'a> {
    f: Activation,
    x: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.x.chunks_exact(2 * self.width).zip(self.out.chunks_exact_mut(self.width));
        for (row, out) in rows {
            let (input, gate) = row.split_at(self.width);
            out.copy_from_slice(input);
            apply_with(s, self.f, out);
            for (out, gate) in out.chunks_mut(S::LANES).zip(gate.chunks(S::LANES)) {
                let product = s.mul(s.load_up_to(out, 0.0), s.load_up_to(gate, 0.0));
                s.store_up_to(product, out);
            }
        }
    }
}
