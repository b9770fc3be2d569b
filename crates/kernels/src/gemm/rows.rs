//! How the rows of each dtype are packed, and how their sums become f32 again.

use super::PackedWeight;
use crate::act::Accuracy;
use crate::simd::{Dots, MAX_LANES, Simd};
use crate::tile::{
    BF16_MAX, Bf16, BlockRow, F32, I16, K_BLOCK, PIECES, Pieces, TILE_STEP, U8I8, WidenedBf16,
};
use std::ops::Range;

/// Rows of f32 on their way into products and out of them.
pub(crate) trait Mode<S: Simd>: Copy {
    /// Elements of a row in one of its words.
    const ELEMENTS_PER_WORD: usize;
    /// Elements of a row in a [`BlockRow`].
    const ELEMENTS_PER_BLOCK: usize = K_BLOCK * Self::ELEMENTS_PER_WORD;
    /// Of activations between two layers of this format.
    const ACCURACY: Accuracy = Accuracy::Coarse;
    /// What the layer gives for a vector of outputs.
    type Layer: Copy;
    /// Sums of a vector of columns.
    type Sum: Copy;

    /// Sums that were kept as words.
    fn sum(self, s: S, words: S::I) -> Self::Sum;
    /// What a row's numbers are scaled by; `row_max` is the largest integer that may stand for one of them.
    fn scale(self, s: S, x: &[f32], row_max: f32) -> RowScale;
    /// Packs elements of a row, at most as many as a [`BlockRow`] holds.
    fn pack(self, s: S, scale: RowScale, x: &[f32], to: &mut BlockRow);
    fn layer(self, s: S, weight: &PackedWeight, bias: Option<&[f32]>, outputs: Range<usize>) -> Self::Layer;
    /// Sums to outputs, bias added.
    fn finish(self, s: S, acc: Self::Sum, scale: RowScale, layer: Self::Layer) -> S::V;
}

/// A row stands for `integer * step + origin`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowScale {
    pub(crate) step: f32,
    /// What multiplies an element, less the origin, to give its integer.
    pub(crate) inverse: f32,
    pub(crate) origin: f32,
}

/// Rows whose numbers differ by less than this are one number.
const STEP_MIN: f32 = 1e-30;

impl RowScale {
    /// The numbers as they are.
    pub(crate) const ONE: RowScale = RowScale { step: 1.0, inverse: 1.0, origin: 0.0 };

    /// Integers from `-max` to `max` for numbers up to `largest` in magnitude; with a NaN or an infinity among them,
    /// which `largest` then is, all results are NaN.
    #[inline(always)]
    pub(crate) fn symmetric(largest: f32, max: f32) -> RowScale {
        let step = largest / max;
        if !largest.is_finite() {
            RowScale { step: f32::NAN, inverse: 0.0, origin: 0.0 }
        } else if step > STEP_MIN {
            RowScale { step, inverse: 1.0 / step, origin: 0.0 }
        } else {
            RowScale { step: 0.0, inverse: 0.0, origin: 0.0 }
        }
    }

    /// Integers 0 to `max` for numbers from `low` to `high`; `poison` is 0, or NaN for a row that holds a NaN or an
    /// infinity, whose results must be NaN.
    #[inline(always)]
    pub(crate) fn between(low: f32, high: f32, max: f32, poison: f32) -> RowScale {
        let step = (high - low) / max;
        if step > STEP_MIN {
            RowScale { step: step + poison, inverse: 1.0 / step, origin: low }
        } else {
            RowScale { step: poison, inverse: 0.0, origin: low + poison }
        }
    }
}

/// `[bias]` of a vector of outputs, or zeros.
#[inline(always)]
fn load_bias<S: Simd>(s: S, bias: Option<&[f32]>, outputs: Range<usize>) -> S::V {
    match bias {
        Some(bias) => s.load_up_to(&bias[outputs], 0.0),
        None => s.splat(0.0),
    }
}

impl<S: Simd> Mode<S> for F32 {
    const ELEMENTS_PER_WORD: usize = 1;
    const ACCURACY: Accuracy = Accuracy::Full;
    type Layer = S::V;
    type Sum = S::V;

    #[inline(always)]
    fn sum(self, s: S, words: S::I) -> S::V {
        s.as_f32(words)
    }
    #[inline(always)]
    fn scale(self, _: S, _: &[f32], _: f32) -> RowScale {
        RowScale::ONE
    }
    #[inline(always)]
    fn pack(self, _: S, _: RowScale, x: &[f32], to: &mut BlockRow) {
        for (to, x) in to.iter_mut().zip(x) {
            *to = x.to_bits();
        }
    }
    #[inline(always)]
    fn layer(self, s: S, _: &PackedWeight, bias: Option<&[f32]>, outputs: Range<usize>) -> S::V {
        load_bias(s, bias, outputs)
    }
    #[inline(always)]
    fn finish(self, s: S, acc: S::V, _: RowScale, bias: S::V) -> S::V {
        s.add(acc, bias)
    }
}

impl<S: Simd> Mode<S> for WidenedBf16 {
    const ELEMENTS_PER_WORD: usize = 1;
    type Layer = S::V;
    type Sum = S::V;

    #[inline(always)]
    fn sum(self, s: S, words: S::I) -> S::V {
        s.as_f32(words)
    }
    #[inline(always)]
    fn scale(self, _: S, _: &[f32], _: f32) -> RowScale {
        RowScale::ONE
    }
    #[inline(always)]
    fn pack(self, s: S, _: RowScale, x: &[f32], to: &mut BlockRow) {
        for at in (0..x.len()).step_by(S::LANES) {
            s.store_words(s.bits(s.round_bf16(s.load_up_to(&x[at..], 0.0))), &mut to[at..]);
        }
    }
    #[inline(always)]
    fn layer(self, s: S, _: &PackedWeight, bias: Option<&[f32]>, outputs: Range<usize>) -> S::V {
        load_bias(s, bias, outputs)
    }
    #[inline(always)]
    fn finish(self, s: S, acc: S::V, _: RowScale, bias: S::V) -> S::V {
        s.add(acc, bias)
    }
}

impl<S: Simd, D: Dots<S>> Mode<S> for Bf16<D> {
    const ELEMENTS_PER_WORD: usize = 2;
    type Layer = S::V;
    type Sum = S::V;

    #[inline(always)]
    fn sum(self, s: S, words: S::I) -> S::V {
        s.as_f32(words)
    }
    #[inline(always)]
    fn scale(self, _: S, _: &[f32], _: f32) -> RowScale {
        RowScale::ONE
    }
    #[inline(always)]
    fn pack(self, s: S, _: RowScale, x: &[f32], to: &mut BlockRow) {
        for at in (0..x.len()).step_by(S::LANES) {
            self.0.store_rounded_bf16(s, s.load_up_to(&x[at..], 0.0), &mut to[at / 2..]);
        }
    }
    #[inline(always)]
    fn layer(self, s: S, _: &PackedWeight, bias: Option<&[f32]>, outputs: Range<usize>) -> S::V {
        load_bias(s, bias, outputs)
    }
    #[inline(always)]
    fn finish(self, s: S, acc: S::V, _: RowScale, bias: S::V) -> S::V {
        s.add(acc, bias)
    }
}

impl<S: Simd> Mode<S> for Pieces {
    const ELEMENTS_PER_WORD: usize = 2;
    const ELEMENTS_PER_BLOCK: usize = K_BLOCK * 2 / PIECES;
    const ACCURACY: Accuracy = Accuracy::Full;
    type Layer = S::V;
    type Sum = S::V;

    #[inline(always)]
    fn sum(self, s: S, words: S::I) -> S::V {
        s.as_f32(words)
    }
    #[inline(always)]
    fn scale(self, _: S, _: &[f32], _: f32) -> RowScale {
        RowScale::ONE
    }
    #[inline(always)]
    fn pack(self, s: S, _: RowScale, x: &[f32], to: &mut BlockRow) {
        let steps = to.chunks_exact_mut(PIECES * TILE_STEP);
        for (x, to) in x.chunks(2 * TILE_STEP).zip(steps) {
            for at in (0..x.len()).step_by(S::LANES) {
                let mut rest = s.load_up_to(&x[at..], 0.0);
                for piece in 0..PIECES {
                    // The largest numbers would round to infinity.
                    let bounded = if piece == 0 { clamp_to_bf16(s, rest) } else { rest };
                    let rounded = s.round_bf16(bounded);
                    rest = s.sub(rest, rounded);
                    s.store_bf16(rounded, &mut to[piece * TILE_STEP + at / 2..]);
                }
            }
        }
    }
    #[inline(always)]
    fn layer(self, s: S, _: &PackedWeight, bias: Option<&[f32]>, outputs: Range<usize>) -> S::V {
        load_bias(s, bias, outputs)
    }
    #[inline(always)]
    fn finish(self, s: S, acc: S::V, _: RowScale, bias: S::V) -> S::V {
        s.add(acc, bias)
    }
}

#[inline(always)]
fn clamp_to_bf16<S: Simd>(s: S, x: S::V) -> S::V {
    let most = s.splat(BF16_MAX);
    let x = s.select_lt(x, most, x, most);
    let least = s.splat(-BF16_MAX);
    s.select_lt(least, x, x, least)
}

/// Scale and bias of a vector of outputs, and for rows with an origin the sum of its weights.
#[derive(Clone, Copy)]
pub(crate) struct IntLayer<V> {
    scale: V,
    bias: V,
    weight_sum: V,
}

#[inline(always)]
fn int_layer<S: Simd>(
    s: S,
    weight: &PackedWeight,
    bias: Option<&[f32]>,
    outputs: Range<usize>,
) -> IntLayer<S::V> {
    IntLayer {
        scale: s.load_up_to(&weight.scales()[outputs.clone()], 0.0),
        weight_sum: s.load_up_to(&weight.sums()[outputs.clone()], 0.0),
        bias: load_bias(s, bias, outputs),
    }
}

impl<S: Simd, D: Dots<S>> Mode<S> for I16<D> {
    const ELEMENTS_PER_WORD: usize = 2;
    type Layer = IntLayer<S::V>;
    type Sum = S::I;

    #[inline(always)]
    fn sum(self, _: S, words: S::I) -> S::I {
        words
    }
    #[inline(always)]
    fn scale(self, s: S, x: &[f32], row_max: f32) -> RowScale {
        let mut largest = s.splat_word(0);
        for at in (0..x.len()).step_by(S::LANES) {
            largest = s.max_magnitude(largest, s.load_up_to(&x[at..], 0.0));
        }
        RowScale::symmetric(s.largest_magnitude(largest), row_max)
    }
    #[inline(always)]
    fn pack(self, s: S, scale: RowScale, x: &[f32], to: &mut BlockRow) {
        let inverse = s.splat(scale.inverse);
        for at in (0..x.len()).step_by(S::LANES) {
            let v = s.mul(s.load_up_to(&x[at..], 0.0), inverse);
            s.store_i16(s.round(v), &mut to[at / 2..]);
        }
    }
    #[inline(always)]
    fn layer(
        self,
        s: S,
        weight: &PackedWeight,
        bias: Option<&[f32]>,
        outputs: Range<usize>,
    ) -> IntLayer<S::V> {
        int_layer(s, weight, bias, outputs)
    }
    #[inline(always)]
    fn finish(self, s: S, acc: S::I, scale: RowScale, layer: IntLayer<S::V>) -> S::V {
        s.fma(s.mul(s.to_f32(acc), s.splat(scale.step)), layer.scale, layer.bias)
    }
}

impl<S: Simd, D: Dots<S>> Mode<S> for U8I8<D> {
    const ELEMENTS_PER_WORD: usize = 4;
    type Layer = IntLayer<S::V>;
    type Sum = S::I;

    #[inline(always)]
    fn sum(self, _: S, words: S::I) -> S::I {
        words
    }
    #[inline(always)]
    fn scale(self, s: S, x: &[f32], row_max: f32) -> RowScale {
        let Span { low, high, poison } = span(s, x);
        RowScale::between(low, high, row_max, poison)
    }
    #[inline(always)]
    fn pack(self, s: S, scale: RowScale, x: &[f32], to: &mut BlockRow) {
        let (inverse, origin) = (s.splat(scale.inverse), s.splat(scale.origin));
        for at in (0..x.len()).step_by(S::LANES) {
            let v = s.sub(s.load_up_to(&x[at..], scale.origin), origin);
            s.store_u8(s.round(s.mul(v, inverse)), &mut to[at / 4..]);
        }
    }
    #[inline(always)]
    fn layer(
        self,
        s: S,
        weight: &PackedWeight,
        bias: Option<&[f32]>,
        outputs: Range<usize>,
    ) -> IntLayer<S::V> {
        int_layer(s, weight, bias, outputs)
    }
    #[inline(always)]
    fn finish(self, s: S, acc: S::I, scale: RowScale, layer: IntLayer<S::V>) -> S::V {
        let origin = s.mul(layer.weight_sum, s.splat(scale.origin));
        s.fma(s.fma(s.to_f32(acc), s.splat(scale.step), origin), layer.scale, layer.bias)
    }
}

/// The least and the largest number of a row. `poison` is 0, or NaN if the row holds a NaN or an infinity.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) low: f32,
    pub(crate) high: f32,
    pub(crate) poison: f32,
}

#[inline(always)]
pub(crate) fn span<S: Simd>(s: S, x: &[f32]) -> Span {
    let first = s.splat(x[0]);
    let zero = s.splat(0.0);
    // Two chains, to hide the latency of each.
    let (mut low, mut high, mut poison) = ([first; 2], [first; 2], [zero; 2]);
    let mut at = 0;
    while at < x.len() {
        let left = s.load_up_to(&x[at..], x[0]);
        let right = s.load_up_to(x.get(at + S::LANES..).unwrap_or(&[]), x[0]);
        low = [s.min(left, low[0]), s.min(right, low[1])];
        high = [s.max(left, high[0]), s.max(right, high[1])];
        poison = [s.fma(left, zero, poison[0]), s.fma(right, zero, poison[1])];
        at += 2 * S::LANES;
    }
    Span {
        low: s.least(s.min(low[0], low[1])),
        high: s.largest(s.max(high[0], high[1])),
        poison: s.sum(s.add(poison[0], poison[1])),
    }
}

const _: () = assert!(MAX_LANES <= 16, "the last vector of a full row may end a cache line past it");
