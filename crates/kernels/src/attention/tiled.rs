//! Attention in the tile unit: products of bf16, 32 queries at a time.

use super::{Head, Scratch, Varlen, mask, score_stride};
use crate::act::exp2_coarse;
use crate::amx::{AddTo, ROWS, Sums, TileRows, TileSums, TileUnit};
use crate::isa::Amx;
use crate::simd::{CACHE_LINE_FLOATS, DotKernel, Dots, Simd};
use crate::tile::{BlockRow, K_BLOCK, Numbers, PANEL, PanelRow, TILE_STEP};
use std::ops::Range;

/// Numbers in a word.
const PER_WORD: usize = 2;

/// Keys whose weights stand in one block of words.
const KEYS_PER_BLOCK: usize = PER_WORD * K_BLOCK;

/// Attention whose products the tile unit computes.
pub(super) struct Tiled<'a> {
    unit: TileUnit,
    call: Varlen<'a>,
}

impl<'a> Tiled<'a> {
    pub(super) fn new(proof: Amx, call: Varlen<'a>) -> Self {
        Tiled { unit: TileUnit::configure(proof), call }
    }
}

impl DotKernel for Tiled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, D: Dots<S>>(self, s: S, dots: D) {
        let Tiled { unit, call } = self;
        call.for_each_head(
            #[inline(always)]
            |head, scratch, out| {
                let shape = Shape::of(head);
                scratch.make_room(shape);
                pack_keys(s, dots, head, shape, scratch);
                pack_values(s, head, shape, scratch);
                let is_bounded = bound(s, head) <= SCORE_MAX && head.sees.is_all(shape.len);
                for start in (0..head.len()).step_by(ROWS) {
                    let queries = start..head.len().min(start + ROWS);
                    pack_queries(s, dots, head, shape, queries.clone(), scratch);
                    let factors = if is_bounded {
                        weigh_at_once(s, dots, &unit, head, shape, queries.len(), scratch)
                    } else {
                        weigh_by_largest(s, dots, &unit, head, shape, queries.clone(), scratch)
                    };
                    average(s, &unit, head, shape, queries, &factors, scratch, out);
                }
            },
        );
    }
}

/// Sizes of a head in whole steps of the unit.
#[derive(Clone, Copy)]
struct Shape {
    len: usize,
    feature_words: usize,
    token_words: usize,
    stride: usize,
}

impl Shape {
    fn of(head: &Head<'_>) -> Shape {
        let words = |numbers: usize| numbers.div_ceil(PER_WORD).next_multiple_of(TILE_STEP);
        let len = head.len();
        Shape { len, feature_words: words(head.size), token_words: words(len), stride: score_stride(len) }
    }
}

impl Scratch {
    fn make_room(&mut self, shape: Shape) {
        let Shape { len, feature_words, token_words, stride } = shape;
        let head_panels = (feature_words * PER_WORD).div_ceil(PANEL);
        self.keys.resize(len.div_ceil(PANEL) * feature_words, PanelRow::ZERO);
        self.values.resize(head_panels * token_words, PanelRow::ZERO);
        self.queries.resize(feature_words.div_ceil(K_BLOCK) * ROWS, BlockRow::ZERO);
        self.scores.resize(stride * ROWS, 0.0);
        self.weights.resize(token_words.div_ceil(K_BLOCK) * ROWS, BlockRow::ZERO);
    }
}

/// A row of the packed queries or a key: the words of its features, zeros to the end of a step.
#[inline(always)]
fn pack_row<S: Simd, D: Dots<S>>(
    s: S,
    dots: D,
    x: &[f32],
    feature_words: usize,
    rows: &mut [BlockRow],
    r: usize,
) {
    for (block, first) in (0..feature_words * PER_WORD).step_by(K_BLOCK * PER_WORD).enumerate() {
        let row = &mut rows[block * ROWS + r];
        let end = (feature_words * PER_WORD).min(first + K_BLOCK * PER_WORD);
        for at in (first..end).step_by(S::LANES) {
            let v = s.load_up_to(x.get(at..).unwrap_or(&[]), 0.0);
            dots.store_rounded_bf16(s, v, &mut row[(at - first) / PER_WORD..]);
        }
    }
}

/// What stands past the last key of the last panel is left over from before; its scores are never read.
#[inline(always)]
fn pack_keys<S: Simd, D: Dots<S>>(s: S, dots: D, head: &Head<'_>, shape: Shape, scratch: &mut Scratch) {
    let words = shape.feature_words;
    for token in 0..shape.len {
        pack_row(s, dots, head.vector(token, 1), words, &mut scratch.queries, 0);
        let panel = &mut scratch.keys[token / PANEL * words..][..words];
        for (block, panel) in panel.chunks_mut(K_BLOCK).enumerate() {
            for (row, &word) in panel.iter_mut().zip(scratch.queries[block * ROWS].iter()) {
                row.0[token % PANEL] = word;
            }
        }
    }
}

/// Values past the last token and the last feature are zeros.
#[inline(always)]
fn pack_values<S: Simd>(s: S, head: &Head<'_>, shape: Shape, scratch: &mut Scratch) {
    for first in (0..shape.feature_words * PER_WORD).step_by(S::LANES) {
        let features = first.min(head.size)..head.size.min(first + S::LANES);
        let panel = &mut scratch.values[first / PANEL * shape.token_words..][..shape.token_words];
        for (word, row) in panel.iter_mut().enumerate() {
            let value = |token: usize| {
                if token < shape.len { head.values(s, token, &features) } else { s.splat(0.0) }
            };
            let pair = s.pair_bf16(value(word * PER_WORD), value(word * PER_WORD + 1));
            s.store_words(pair, &mut row.0[first % PANEL..]);
        }
    }
}

#[inline(always)]
fn pack_queries<S: Simd, D: Dots<S>>(
    s: S,
    dots: D,
    head: &Head<'_>,
    shape: Shape,
    queries: Range<usize>,
    scratch: &mut Scratch,
) {
    for (r, query) in queries.enumerate() {
        pack_row(s, dots, head.vector(query, 0), shape.feature_words, &mut scratch.queries, r);
        head.prefetch_next(s, query);
    }
}

/// Powers of two up to this, and down to its inverse, are weights as they are: a sum of them stays far inside f32,
/// and with it their products with values up to 2^13. Where all scores are near the lower end, values below 2^-36 are lost.
const SCORE_MAX: f32 = 90.0;

/// Sequences of more tokens, or values of a larger magnitude, could take the sums out of f32.
const LEN_MAX: usize = 1 << 16;
const VALUE_MAX: f32 = 8192.0;

/// What the magnitude of a score cannot exceed, by the lengths of queries and keys; infinite where sums of weights and
/// values might not be numbers. What holds a NaN or an infinity does not count: its results are none whatever the way.
#[inline(always)]
fn bound<S: Simd>(s: S, head: &Head<'_>) -> f32 {
    if head.len() > LEN_MAX {
        return f32::INFINITY;
    }
    let (mut queries, mut keys, mut values) = (0.0_f32, 0.0_f32, s.splat(0.0));
    for token in 0..head.len() {
        queries = queries.max(square_length(s, head.vector(token, 0)));
        keys = keys.max(square_length(s, head.vector(token, 1)));
        let x = head.vector(token, 2);
        for at in (0..x.len()).step_by(S::LANES) {
            let magnitude = s.abs(s.load_up_to(&x[at..], 0.0));
            let finite = s.select_lt(magnitude, s.splat(f32::INFINITY), magnitude, s.splat(0.0));
            values = s.max(finite, values);
        }
    }
    if s.largest(values) <= VALUE_MAX { (queries * keys).sqrt() * head.scale.abs() } else { f32::INFINITY }
}

/// The square of a vector's length; 0 if a NaN or an infinity is in it.
#[inline(always)]
fn square_length<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for at in (0..x.len()).step_by(S::LANES) {
        let v = s.load_up_to(&x[at..], 0.0);
        sum = s.fma(v, v, sum);
    }
    let sum = s.sum(sum);
    if sum.is_finite() || x.iter().all(|v| v.is_finite()) { sum } else { 0.0 }
}

/// Weights `2^score` of all keys, of 32 of them at a time as soon as their scores are there; returns the inverses of
/// their sums.
#[inline(always)]
fn weigh_at_once<S: Simd, D: Dots<S>>(
    s: S,
    dots: D,
    unit: &TileUnit,
    head: &Head<'_>,
    shape: Shape,
    queries: usize,
    scratch: &mut Scratch,
) -> [f32; ROWS] {
    let factor = s.splat(head.scale);
    let (mut sums, mut scores) = ([[0.0; CACHE_LINE_FLOATS]; ROWS], Sums::ZERO);
    for (panel_no, panel) in scratch.keys.chunks_exact(shape.feature_words).enumerate() {
        let rows = TileRows::alone(&scratch.queries);
        unit.multiply(Numbers::Bf16, rows, panel, scores.place(AddTo::Zero), &[]);
        let keys = panel_no * PANEL..shape.len.min((panel_no + 1) * PANEL);
        if keys.len() < PANEL {
            for scores in &mut scores.0 {
                scores[keys.len()..].fill(f32::NEG_INFINITY);
            }
        }
        let (block, word) = (keys.start / KEYS_PER_BLOCK, keys.start % KEYS_PER_BLOCK / PER_WORD);
        let rows = &mut scratch.weights[block * ROWS..][..queries];
        for ((row, scores), sums) in rows.iter_mut().zip(&scores.0).zip(&mut sums) {
            let left = exp2_coarse(s, s.mul(s.load(scores), factor));
            let right = exp2_coarse(s, s.mul(s.load(&scores[S::LANES..]), factor));
            let words = &mut row[word..][..PANEL / PER_WORD];
            dots.store_rounded_bf16(s, left, words);
            dots.store_rounded_bf16(s, right, &mut words[S::LANES / PER_WORD..]);
            s.store(s.add(s.add(left, right), s.load(sums)), sums);
        }
    }
    let mut factors = [0.0; ROWS];
    for (factor, sums) in factors.iter_mut().zip(&sums[..queries]) {
        *factor = 1.0 / s.sum(s.load(sums));
    }
    factors
}

/// Weights `2^(score - largest score)` of the keys that each query sees; returns the inverses of their sums.
#[inline(always)]
fn weigh_by_largest<S: Simd, D: Dots<S>>(
    s: S,
    dots: D,
    unit: &TileUnit,
    head: &Head<'_>,
    shape: Shape,
    queries: Range<usize>,
    scratch: &mut Scratch,
) -> [f32; ROWS] {
    let keys = head.keys_of(queries.start).start..head.keys_of(queries.end - 1).end;
    score(unit, &keys, shape, scratch);
    let blocks = blocks_of(head, &queries);
    let mut factors = [0.0; ROWS];
    for (r, query) in queries.enumerate() {
        let largest = mask(s, head.keys_of(query), r, &blocks, KEYS_PER_BLOCK, shape.len, scratch);
        factors[r] = 1.0 / weigh(s, dots, r, head.scale, largest, &blocks, shape, scratch);
    }
    factors
}

/// Whole blocks of weights, so that a key's place in its block is its place in the sequence.
fn blocks_of(head: &Head<'_>, queries: &Range<usize>) -> Range<usize> {
    let keys = head.keys_of(queries.start).start..head.keys_of(queries.end - 1).end;
    keys.start / KEYS_PER_BLOCK..keys.end.div_ceil(KEYS_PER_BLOCK)
}

/// The weighted sums of the values, times the factors.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one tile's work has these operands")]
fn average<S: Simd>(
    s: S,
    unit: &TileUnit,
    head: &Head<'_>,
    shape: Shape,
    queries: Range<usize>,
    factors: &[f32; ROWS],
    scratch: &Scratch,
    out: &mut [f32],
) {
    let blocks = blocks_of(head, &queries);
    let weights = TileRows::alone(&scratch.weights[blocks.start * ROWS..]);
    let words = blocks.start * K_BLOCK..shape.token_words.min(blocks.end * K_BLOCK);
    let mut sums = Sums::ZERO;
    for (panel_no, panel) in scratch.values.chunks_exact(shape.token_words).enumerate() {
        let panel = &panel[words.clone()];
        unit.multiply(Numbers::Bf16, weights, panel, sums.place(AddTo::Zero), &[]);
        let features = panel_no * PANEL..head.size.min((panel_no + 1) * PANEL);
        for ((query, sums), &factor) in queries.clone().zip(&sums.0).zip(factors) {
            let out = &mut out[query * head.width + head.first..][features.clone()];
            for (out, sums) in out.chunks_mut(S::LANES).zip(sums.chunks_exact(S::LANES)) {
                s.store_up_to(s.mul(s.load(sums), s.splat(factor)), out);
            }
        }
    }
}

/// The scores of all queries of a tile with `keys`, and what else is in the panels of these.
#[inline(always)]
fn score(unit: &TileUnit, keys: &Range<usize>, shape: Shape, scratch: &mut Scratch) {
    let Scratch { keys: panels, queries, scores, .. } = scratch;
    for panel_no in keys.start / PANEL..keys.end.div_ceil(PANEL) {
        let panel = &panels[panel_no * shape.feature_words..][..shape.feature_words];
        let sums =
            TileSums { values: &mut scores[panel_no * PANEL..], stride: shape.stride, add_to: AddTo::Zero };
        unit.multiply(Numbers::Bf16, TileRows::alone(queries), panel, sums, &[]);
    }
}

/// Weights `2^(factor * (score - largest))` of row `r` for all keys of `blocks`, of which the sum is returned.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one row of a tile has these operands")]
fn weigh<S: Simd, D: Dots<S>>(
    s: S,
    dots: D,
    r: usize,
    factor: f32,
    largest: f32,
    blocks: &Range<usize>,
    shape: Shape,
    scratch: &mut Scratch,
) -> f32 {
    let row = &scratch.scores[r * shape.stride..][..shape.stride - CACHE_LINE_FLOATS];
    let (factor, largest) = (s.splat(factor), s.splat(largest));
    let mut sum = [s.splat(0.0); 2];
    for block in blocks.clone() {
        let start = block * KEYS_PER_BLOCK;
        let scores = &row[start..row.len().min(start + KEYS_PER_BLOCK)];
        let words = &mut scratch.weights[block * ROWS + r];
        for (pair, words) in scores.chunks_exact(PANEL).zip(words.chunks_exact_mut(PANEL / PER_WORD)) {
            for at in 0..2 {
                let weight = exp2_coarse(s, s.mul(s.sub(s.load(&pair[at * S::LANES..]), largest), factor));
                sum[at] = s.add(sum[at], weight);
                dots.store_rounded_bf16(s, weight, &mut words[at * S::LANES / PER_WORD..]);
            }
        }
    }
    s.sum(s.add(sum[0], sum[1]))
}
