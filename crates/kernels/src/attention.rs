//! Self-attention over packed sequences of different lengths, without padding.

#[cfg(target_arch = "x86_64")]
mod tiled;

use crate::act::{exp2_of_negative, exp2_times_254, exp2_times_8191};
use crate::dtype::Dtype;
use crate::gemm::rows::{Mode, RowScale};
use crate::isa::Isa;
use crate::simd::{CACHE_LINE_FLOATS, DotKernel, Dots, Kernel, Simd};
use crate::tile::{
    BlockRow, F32, I16, K_BLOCK, MAX_TILE_ROWS, PANEL, PanelRow, Product, U8I8, multiply, tiles,
    with_tile_rows,
};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Working memory of [`varlen`]: grows to what the longest sequence needs and is then reused. One per thread.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Keys of one head, transposed: for each `PANEL` keys, the words of the head's features.
    keys: Vec<PanelRow>,
    /// What the products of each key are too large by, where queries have an offset; padded to whole panels.
    key_offsets: Vec<f32>,
    /// Values of one head: for each `PANEL` features, the words of the tokens.
    values: Vec<PanelRow>,
    /// What each feature's numbers are multiplied by to be values, padded to whole panels.
    value_steps: Vec<f32>,
    /// Queries of one tile, `MAX_TILE_ROWS` for each block of features. Its first rows also serve to pack a key.
    queries: Vec<BlockRow>,
    /// Scores of one tile, rows of `score_stride`.
    scores: Vec<f32>,
    /// Weights of one tile, `MAX_TILE_ROWS` for each block of keys.
    weights: Vec<BlockRow>,
}

impl Scratch {
    /// Empty; the first call grows it.
    pub fn new() -> Self {
        Scratch::default()
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        (self.keys.capacity() + self.values.capacity()) * size_of::<PanelRow>()
            + (self.queries.capacity() + self.weights.capacity()) * size_of::<BlockRow>()
            + (self.key_offsets.capacity() + self.value_steps.capacity() + self.scores.capacity())
                * size_of::<f32>()
    }
}

/// What attention is computed over.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Where sequences start, and at last the number of tokens.
    pub cu_seqlens: &'a [u32],
    /// Number of heads.
    pub heads: usize,
    /// Features of a head.
    pub head_size: usize,
    /// What the products of queries and keys are multiplied by.
    pub scale: f32,
    /// The keys that a query is compared with.
    pub sees: Sees,
}

/// Which keys of its own sequence a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// All.
    All,
    /// Those at most so many tokens before and after it.
    Near(usize),
    /// Those before it, and its own.
    Before,
}

impl Sees {
    /// The keys that the query at `token` sees, in a sequence of `len` tokens.
    pub fn keys(self, token: usize, len: usize) -> Range<usize> {
        match self {
            Sees::All => 0..len,
            Sees::Near(tokens) => {
                token.saturating_sub(tokens)..len.min(token.saturating_add(tokens).saturating_add(1))
            }
            Sees::Before => 0..len.min(token + 1),
        }
    }

    /// Whether every query of a sequence of `len` tokens sees all of it.
    pub(crate) fn is_all(self, len: usize) -> bool {
        match self {
            Sees::All => true,
            Sees::Near(tokens) => tokens >= len,
            Sees::Before => len <= 1,
        }
    }
}

/// `softmax(q . k^T * scale) . v` within each sequence, for each head; never across sequences.
///
/// - `dtype`: f32; else products of integers, of 8 bits for int8 and of 16 bits for every other mode, with one scale
///   a sequence and head for the queries, one for the keys, and one for each feature of the values. With
///   [`Isa::Amx`], bf16 and int8 both have products of bf16. The softmax is f32 in all of them.
/// - `qkv`: `[tokens, 3 * heads * head_size]`, the blocks q, k and v side by side
/// - `out`: `[tokens, heads * head_size]`
///
/// A row's result depends on its own sequence alone, bit for bit on one `Isa`. Scratch memory is linear in the
/// longest sequence.
///
/// # Panics
/// When a slice is not as long as its shape says, or `cu_seqlens` does not rise from 0 to the number of tokens.
pub fn varlen(isa: Isa, dtype: Dtype, qkv: &[f32], shape: Shape<'_>, scratch: &mut Scratch, out: &mut [f32]) {
    let width = shape.heads * shape.head_size;
    assert!(width > 0, "attention over heads of no width");
    assert_eq!(qkv.len(), 3 * out.len(), "qkv is three times as wide as out");
    assert_eq!(shape.cu_seqlens.first(), Some(&0), "cu_seqlens starts at 0");
    assert!(shape.cu_seqlens.is_sorted(), "cu_seqlens rises");
    let tokens = shape.cu_seqlens.last().map_or(0, |&last| last as usize);
    assert_eq!(out.len(), tokens * width, "out [{tokens}, {} x {}]", shape.heads, shape.head_size);
    let call = Varlen { dtype, qkv, shape, scratch, out };
    match (isa, dtype) {
        (_, Dtype::F32) => isa.run(call),
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx(proof), Dtype::Bf16 | Dtype::Int8) => {
            proof.base.enter_dots(tiled::Tiled::new(proof, call));
        }
        (_, Dtype::Bf16 | Dtype::Int16 | Dtype::Int8) => isa.run_dots(call),
    }
}

struct Varlen<'a> {
    dtype: Dtype,
    qkv: &'a [f32],
    shape: Shape<'a>,
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
}

impl Kernel for Varlen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.attend(s, F32);
    }
}

impl DotKernel for Varlen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, D: Dots<S>>(self, s: S, dots: D) {
        match self.dtype {
            Dtype::F32 => unreachable!("f32 has kernels of its own"),
            Dtype::Bf16 | Dtype::Int16 => self.attend(s, I16(dots)),
            Dtype::Int8 => self.attend(s, U8I8(dots)),
        }
    }
}

impl Varlen<'_> {
    #[inline(always)]
    fn attend<S: Simd, P: Precision<S>>(self, s: S, precision: P) {
        self.for_each_head(
            #[inline(always)]
            |head, scratch, out| {
                let scales = Scales::of::<S, P>(s, head);
                scratch.pack(s, precision, head, scales);
                attend_head(s, precision, head, scales, scratch, out);
            },
        );
    }

    /// Calls `attend` with every head of every sequence and the sequence's rows of the output.
    #[inline(always)]
    fn for_each_head(self, mut attend: impl FnMut(&Head<'_>, &mut Scratch, &mut [f32])) {
        let Shape { cu_seqlens, heads, head_size, scale, sees } = self.shape;
        let width = heads * head_size;
        // With log2(e) in the scale, the softmax is one of powers of two.
        let scale = scale * LOG2_E;
        for bounds in cu_seqlens.windows(2).filter(|bounds| bounds[0] < bounds[1]) {
            let (start, end) = (bounds[0] as usize, bounds[1] as usize);
            let qkv = &self.qkv[start * 3 * width..end * 3 * width];
            let out = &mut self.out[start * width..end * width];
            for head in 0..heads {
                let first = head * head_size;
                attend(&Head { qkv, width, first, size: head_size, scale, sees }, self.scratch, out);
            }
        }
    }
}

/// What the products of attention are computed with: the formats of the linear layers, and weights and values.
trait Precision<S: Simd>: Mode<S> + Product<S, Acc = <Self as Mode<S>>::Sum> {
    /// The largest integer of queries and keys of so many features.
    fn feature_max(head_size: usize) -> f32;
    /// The largest integer of a value.
    const VALUE_MAX: f32;
    /// What a weight of 1 is multiplied by.
    const WEIGHT_MAX: f32;
    /// Keys whose products are summed before they become f32.
    const KEYS_PER_BLOCK: usize;
    /// What is added to the integers of queries, which then are unsigned.
    const QUERY_OFFSET: f32 = 0.0;

    fn to_f32(self, s: S, acc: Self::Sum) -> S::V;
    /// `2^x` for x in -126..=0, 0 below, times [`Precision::WEIGHT_MAX`].
    fn weight(self, s: S, x: S::V) -> S::V;
    /// Stores `LANES` weights in the words that they fill. What rounding leaves over is carried to the next ones, so
    /// that many weights below one step keep their sum.
    fn store_weights(self, s: S, weights: S::V, carry: &mut S::V, to: &mut [u32]);
    /// Words of the values of neighbouring tokens, already scaled; those that a word does not hold are not used.
    fn value_words(self, s: S, values: [S::V; 4]) -> S::I;
}

impl<S: Simd> Precision<S> for F32 {
    fn feature_max(_: usize) -> f32 {
        1.0
    }
    const VALUE_MAX: f32 = 1.0;
    const WEIGHT_MAX: f32 = 1.0;
    const KEYS_PER_BLOCK: usize = K_BLOCK;

    #[inline(always)]
    fn to_f32(self, _: S, acc: S::V) -> S::V {
        acc
    }
    #[inline(always)]
    fn weight(self, s: S, x: S::V) -> S::V {
        exp2_of_negative(s, x)
    }
    #[inline(always)]
    fn store_weights(self, s: S, weights: S::V, _: &mut S::V, to: &mut [u32]) {
        s.store_words(s.bits(weights), to);
    }
    #[inline(always)]
    fn value_words(self, s: S, values: [S::V; 4]) -> S::I {
        s.bits(values[0])
    }
}

impl<S: Simd, D: Dots<S>> Precision<S> for I16<D> {
    /// Of a sum of products over the features, 31 bits are shared evenly.
    fn feature_max(head_size: usize) -> f32 {
        (I32_SUM_MAX / head_size as f32).sqrt().min(32_767.0).floor()
    }
    /// 11 bits of values and 13 of weights leave 7 for the sum over a block of 128 keys.
    const VALUE_MAX: f32 = 2047.0;
    const WEIGHT_MAX: f32 = 8191.0;
    const KEYS_PER_BLOCK: usize = 128;

    #[inline(always)]
    fn to_f32(self, s: S, acc: S::I) -> S::V {
        s.to_f32(acc)
    }
    #[inline(always)]
    fn weight(self, s: S, x: S::V) -> S::V {
        exp2_times_8191(s, x)
    }
    #[inline(always)]
    fn store_weights(self, s: S, weights: S::V, carry: &mut S::V, to: &mut [u32]) {
        // The carry is at most 1/2 either way: it alone rounds to 0, so what is not seen stays 0.
        let wanted = s.add(weights, *carry);
        let stored = s.round(wanted);
        *carry = s.sub(wanted, s.to_f32(stored));
        s.store_i16(stored, to);
    }
    #[inline(always)]
    fn value_words(self, s: S, values: [S::V; 4]) -> S::I {
        s.pair_i16(s.round(values[0]), s.round(values[1]))
    }
}

impl<S: Simd, D: Dots<S>> Precision<S> for U8I8<D> {
    /// A byte, less for heads so wide that a sum over the features would overflow.
    fn feature_max(head_size: usize) -> f32 {
        (I32_SUM_MAX / (255.0 * head_size as f32)).min(127.0).floor()
    }
    const VALUE_MAX: f32 = 127.0;
    /// One less than a byte holds, for the carry.
    const WEIGHT_MAX: f32 = 254.0;
    const KEYS_PER_BLOCK: usize = 4 * K_BLOCK;
    const QUERY_OFFSET: f32 = 128.0;

    #[inline(always)]
    fn to_f32(self, s: S, acc: S::I) -> S::V {
        s.to_f32(acc)
    }
    #[inline(always)]
    fn weight(self, s: S, x: S::V) -> S::V {
        exp2_times_254(s, x)
    }
    #[inline(always)]
    fn store_weights(self, s: S, weights: S::V, carry: &mut S::V, to: &mut [u32]) {
        let wanted = s.add(weights, *carry);
        let stored = s.round(wanted);
        *carry = s.sub(wanted, s.to_f32(stored));
        s.store_u8(stored, to);
    }
    #[inline(always)]
    fn value_words(self, s: S, [a, b, c, d]: [S::V; 4]) -> S::I {
        s.quad_i8([s.round(a), s.round(b), s.round(c), s.round(d)])
    }
}

/// What a sum of 16-bit products stays below, with room for the rounding of its factors.
const I32_SUM_MAX: f32 = 2_147_000_000.0;

/// One head of one sequence.
struct Head<'a> {
    /// `[len, 3 * width]`
    qkv: &'a [f32],
    /// `heads * head_size`
    width: usize,
    /// Column of the head's first feature in the q block.
    first: usize,
    size: usize,
    /// Of the scores, for powers of two.
    scale: f32,
    sees: Sees,
}

impl Head<'_> {
    fn len(&self) -> usize {
        self.qkv.len() / (3 * self.width)
    }

    /// This head's query (`block` 0), key (1) or value (2) of a token.
    #[inline(always)]
    fn vector(&self, token: usize, block: usize) -> &[f32] {
        &self.qkv[(token * 3 + block) * self.width + self.first..][..self.size]
    }

    /// A vector of the values of a token.
    #[inline(always)]
    fn values<S: Simd>(&self, s: S, token: usize, features: &Range<usize>) -> S::V {
        s.load_up_to(&self.vector(token, 2)[features.clone()], 0.0)
    }

    /// The keys that a query sees.
    fn keys_of(&self, token: usize) -> Range<usize> {
        self.sees.keys(token, self.len())
    }

    /// Starts loading what the next head will copy of a token, while this head computes.
    #[inline(always)]
    fn prefetch_next<S: Simd>(&self, s: S, token: usize) {
        let next = self.first + self.size;
        if next < self.width {
            for block in 0..3 {
                let vector = &self.qkv[(token * 3 + block) * self.width + next..][..self.size];
                for line in vector.chunks(CACHE_LINE_FLOATS) {
                    s.prefetch(&line[0]);
                }
                // A vector that starts inside a line ends in one more.
                s.prefetch(&vector[self.size - 1]);
            }
        }
    }
}

impl Scratch {
    /// Packs a head's keys and values into panels and makes room for its tiles.
    #[inline(always)]
    fn pack<S: Simd, P: Precision<S>>(&mut self, s: S, precision: P, head: &Head<'_>, scales: Scales) {
        let len = head.len();
        let feature_words = head.size.div_ceil(P::ELEMENTS_PER_WORD);
        let token_words = len.div_ceil(P::ELEMENTS_PER_WORD);
        let padded = |n: usize| n.next_multiple_of(PANEL);
        self.keys.resize(padded(len) / PANEL * feature_words, PanelRow::ZERO);
        self.key_offsets.resize(padded(len), 0.0);
        self.values.resize(padded(head.size) / PANEL * token_words, PanelRow::ZERO);
        self.value_steps.resize(padded(head.size), 0.0);
        self.queries.resize((feature_words * P::ROW_WORDS).div_ceil(K_BLOCK) * MAX_TILE_ROWS, BlockRow::ZERO);
        self.scores.resize(score_stride(len) * MAX_TILE_ROWS, 0.0);
        self.weights.resize(len.div_ceil(P::KEYS_PER_BLOCK) * MAX_TILE_ROWS, BlockRow::ZERO);
        self.pack_keys(s, precision, head, scales.keys, feature_words);
        self.pack_values(s, precision, head, token_words);
    }

    /// What stands past the last key of the last panel is left over from before; its scores are never read.
    #[inline(always)]
    fn pack_keys<S: Simd, P: Precision<S>>(
        &mut self,
        s: S,
        precision: P,
        head: &Head<'_>,
        scale: RowScale,
        feature_words: usize,
    ) {
        for token in 0..head.len() {
            pack_row(s, precision, scale, head.vector(token, 1), &mut self.queries, 0);
            let panel = &mut self.keys[token / PANEL * feature_words..][..feature_words];
            for (block, panel) in panel.chunks_mut(K_BLOCK).enumerate() {
                let words = &self.queries[block * MAX_TILE_ROWS];
                for (row, &word) in panel.iter_mut().zip(words.iter()) {
                    row.0[token % PANEL] = word;
                }
            }
        }
        if P::QUERY_OFFSET > 0.0 {
            self.sum_keys(s, precision, feature_words);
        }
    }

    /// The sum of each key's integers times the offset of the queries, by a query of ones.
    #[inline(always)]
    fn sum_keys<S: Simd, P: Precision<S>>(&mut self, s: S, precision: P, feature_words: usize) {
        for block in self.queries.iter_mut().step_by(MAX_TILE_ROWS) {
            block.fill(u32::from_le_bytes([1; 4]));
        }
        let panels = self.keys.chunks_exact(feature_words);
        for (panel, offsets) in panels.zip(self.key_offsets.chunks_exact_mut(PANEL)) {
            for column in (0..PANEL).step_by(2 * S::LANES) {
                let [acc] =
                    multiply::<S, P, 1>(s, precision, &self.queries, MAX_TILE_ROWS, 0, panel, column, &[]);
                let offset = s.splat(P::QUERY_OFFSET);
                let to = &mut offsets[column..];
                s.store(s.mul(precision.to_f32(s, acc[0]), offset), to);
                s.store(s.mul(precision.to_f32(s, acc[1]), offset), &mut to[S::LANES..]);
            }
        }
    }

    #[inline(always)]
    fn pack_values<S: Simd, P: Precision<S>>(
        &mut self,
        s: S,
        precision: P,
        head: &Head<'_>,
        token_words: usize,
    ) {
        let len = head.len();
        for first in (0..head.size).step_by(S::LANES) {
            let features = first..head.size.min(first + S::LANES);
            let inverse = if P::VALUE_MAX > 1.0 {
                let mut largest = s.splat(0.0);
                let mut poison = s.splat(0.0);
                for token in 0..len {
                    let value = head.values(s, token, &features);
                    largest = s.max(s.abs(value), largest);
                    poison = s.fma(value, s.splat(0.0), poison);
                }
                let step = s.div(s.max(largest, s.splat(VALUE_MIN)), s.splat(P::VALUE_MAX));
                s.store(s.add(step, poison), &mut self.value_steps[first..]);
                s.div(s.splat(1.0), step)
            } else {
                s.store(s.splat(1.0), &mut self.value_steps[first..]);
                s.splat(1.0)
            };
            let panel = &mut self.values[first / PANEL * token_words..][..token_words];
            for (word, row) in panel.iter_mut().enumerate() {
                let token = word * P::ELEMENTS_PER_WORD;
                let mut values = [s.splat(0.0); 4];
                for (i, value) in values[..P::ELEMENTS_PER_WORD.min(len - token)].iter_mut().enumerate() {
                    *value = s.mul(head.values(s, token + i, &features), inverse);
                }
                s.store_words(precision.value_words(s, values), &mut row.0[first % PANEL..]);
            }
        }
    }
}

/// Features of no larger magnitude are all zero.
const VALUE_MIN: f32 = 1e-30;

/// What the queries and the keys of a head are packed with.
#[derive(Clone, Copy)]
struct Scales {
    queries: RowScale,
    keys: RowScale,
}

impl Scales {
    #[inline(always)]
    fn of<S: Simd, P: Precision<S>>(s: S, head: &Head<'_>) -> Scales {
        if P::WEIGHT_MAX == 1.0 {
            return Scales { queries: RowScale::ONE, keys: RowScale::ONE };
        }
        let max = P::feature_max(head.size);
        let [queries, keys] = [largest_feature(s, head, 0), largest_feature(s, head, 1)];
        let queries = RowScale::symmetric(queries, max);
        let origin = -P::QUERY_OFFSET * queries.step;
        Scales { queries: RowScale { origin, ..queries }, keys: RowScale::symmetric(keys, max) }
    }
}

/// The largest magnitude among the queries (`block` 0) or keys (1) of a head; NaN or infinite if one of them is.
#[inline(always)]
fn largest_feature<S: Simd>(s: S, head: &Head<'_>, block: usize) -> f32 {
    let mut largest = s.splat_word(0);
    for token in 0..head.len() {
        let x = head.vector(token, block);
        for at in (0..x.len()).step_by(S::LANES) {
            largest = s.max_magnitude(largest, s.load_up_to(&x[at..], 0.0));
        }
    }
    s.largest_magnitude(largest)
}

/// Packs the features of a query or key into row `r` of each block of `rows`.
#[inline(always)]
fn pack_row<S: Simd, P: Precision<S>>(
    s: S,
    precision: P,
    scale: RowScale,
    x: &[f32],
    rows: &mut [BlockRow],
    r: usize,
) {
    for (block, x) in x.chunks(K_BLOCK * P::ELEMENTS_PER_WORD).enumerate() {
        precision.pack(s, scale, x, &mut rows[block * MAX_TILE_ROWS + r]);
    }
}

/// Floats from one row of scores to the next: whole panels, and a cache line so that rows lie in different sets.
pub(crate) fn score_stride(len: usize) -> usize {
    len.next_multiple_of(PANEL) + CACHE_LINE_FLOATS
}

#[inline(always)]
fn attend_head<S: Simd, P: Precision<S>>(
    s: S,
    precision: P,
    head: &Head<'_>,
    scales: Scales,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    // Not 0, which would make a weight of what a query of zeros does not see.
    let factor = match scales.queries.step * scales.keys.step * head.scale {
        0.0 => f32::MIN_POSITIVE,
        factor => factor,
    };
    for (start, rows) in tiles::<S>(head.len()) {
        for r in 0..rows {
            let query = head.vector(start + r, 0);
            pack_row(s, precision, scales.queries, query, &mut scratch.queries, r);
            head.prefetch_next(s, start + r);
        }
        let tile = Tile { head, start, factor };
        with_tile_rows!(rows, S, attend_tile::<S, P>(s, precision, tile, scratch, out));
    }
}

/// Queries that are computed together.
#[derive(Clone, Copy)]
struct Tile<'a> {
    head: &'a Head<'a>,
    /// Token of the first query.
    start: usize,
    /// What the scores are multiplied by.
    factor: f32,
}

#[inline(always)]
fn attend_tile<S: Simd, P: Precision<S>, const R: usize>(
    s: S,
    precision: P,
    tile: Tile<'_>,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let head = tile.head;
    let keys = head.keys_of(tile.start).start..head.keys_of(tile.start + R - 1).end;
    // Whole blocks of weights, so that a key's place in its block is its place in the sequence.
    let blocks = keys.start / P::KEYS_PER_BLOCK..keys.end.div_ceil(P::KEYS_PER_BLOCK);
    score::<S, P, R>(s, precision, head, &keys, scratch);
    let mut largest = [0.0; R];
    for (r, largest) in largest.iter_mut().enumerate() {
        *largest = mask(s, head.keys_of(tile.start + r), r, &blocks, P::KEYS_PER_BLOCK, head.len(), scratch);
    }
    let mut sums = [0.0; R];
    for (r, sum) in sums.iter_mut().enumerate() {
        *sum = weigh(s, precision, r, tile.factor, largest[r], &blocks, head.len(), scratch);
    }
    let token_words = head.len().div_ceil(P::ELEMENTS_PER_WORD);
    let block_words = P::KEYS_PER_BLOCK / P::ELEMENTS_PER_WORD;
    for (panel_no, panel) in scratch.values.chunks_exact(token_words).enumerate() {
        let panel_width = PANEL.min(head.size - panel_no * PANEL);
        for column in (0..panel_width).step_by(2 * S::LANES) {
            let mut total = [[s.splat(0.0); 2]; R];
            for block in blocks.clone() {
                let words = &panel[block * block_words..token_words.min((block + 1) * block_words)];
                let weights = &scratch.weights[block * MAX_TILE_ROWS..][..MAX_TILE_ROWS];
                let acc = multiply::<S, P, R>(s, precision, weights, MAX_TILE_ROWS, 0, words, column, &[]);
                for (total, acc) in total.iter_mut().zip(acc) {
                    total[0] = s.add(total[0], precision.to_f32(s, acc[0]));
                    total[1] = s.add(total[1], precision.to_f32(s, acc[1]));
                }
            }
            let first = panel_no * PANEL + column;
            let steps = &scratch.value_steps[first..];
            let steps = [s.load(steps), s.load(&steps[S::LANES..])];
            let tile_width = (panel_width - column).min(2 * S::LANES);
            let middle = tile_width.min(S::LANES);
            for (r, total) in total.iter().enumerate() {
                let factor = s.splat(1.0 / sums[r]);
                let out = &mut out[(tile.start + r) * head.width + head.first + first..][..tile_width];
                let (left, right) = out.split_at_mut(middle);
                s.store_up_to(s.mul(s.mul(total[0], steps[0]), factor), left);
                s.store_up_to(s.mul(s.mul(total[1], steps[1]), factor), right);
            }
        }
    }
}

/// The scores of all queries of a tile with `keys`, and what else is in the panels of these.
#[inline(always)]
fn score<S: Simd, P: Precision<S>, const R: usize>(
    s: S,
    precision: P,
    head: &Head<'_>,
    keys: &Range<usize>,
    scratch: &mut Scratch,
) {
    let stride = score_stride(head.len());
    let feature_words = head.size.div_ceil(P::ELEMENTS_PER_WORD);
    for panel_no in keys.start / PANEL..keys.end.div_ceil(PANEL) {
        let panel = &scratch.keys[panel_no * feature_words..][..feature_words];
        for column in (0..PANEL).step_by(2 * S::LANES) {
            let acc =
                multiply::<S, P, R>(s, precision, &scratch.queries, MAX_TILE_ROWS, 0, panel, column, &[]);
            let first = panel_no * PANEL + column;
            // Each loop short enough to be unrolled: a sum that is picked by a number would leave its register.
            let mut products = [[s.splat(0.0); 2]; R];
            for r in 0..R {
                products[r] = [precision.to_f32(s, acc[r][0]), precision.to_f32(s, acc[r][1])];
            }
            if P::QUERY_OFFSET > 0.0 {
                let offsets = &scratch.key_offsets[first..][..2 * S::LANES];
                let offsets = [s.load(offsets), s.load(&offsets[S::LANES..])];
                for products in &mut products {
                    *products = [s.sub(products[0], offsets[0]), s.sub(products[1], offsets[1])];
                }
            }
            for (r, products) in products.into_iter().enumerate() {
                let scores = &mut scratch.scores[r * stride + first..][..2 * S::LANES];
                s.store(products[0], scores);
                s.store(products[1], &mut scores[S::LANES..]);
            }
        }
    }
}

/// Sets the scores of row `r` to minus infinity where its query does not see the key, for all keys of `blocks`,
/// and returns the largest of the others.
#[inline(always)]
fn mask<S: Simd>(
    s: S,
    seen: Range<usize>,
    r: usize,
    blocks: &Range<usize>,
    keys_per_block: usize,
    len: usize,
    scratch: &mut Scratch,
) -> f32 {
    let stride = score_stride(len);
    let row = &mut scratch.scores[r * stride..][..stride];
    row[blocks.start * keys_per_block..seen.start].fill(f32::NEG_INFINITY);
    let end = (blocks.end * keys_per_block).min(stride - CACHE_LINE_FLOATS);
    row[seen.end..end].fill(f32::NEG_INFINITY);
    let scores = &row[seen.start / S::LANES * S::LANES..end];
    // Four chains, to hide the latency of a comparison.
    let [mut a, mut b, mut c, mut d] = [s.splat(f32::NEG_INFINITY); 4];
    let mut at = 0;
    while at + 4 * S::LANES <= scores.len() {
        a = s.max(s.load(&scores[at..]), a);
        b = s.max(s.load(&scores[at + S::LANES..]), b);
        c = s.max(s.load(&scores[at + 2 * S::LANES..]), c);
        d = s.max(s.load(&scores[at + 3 * S::LANES..]), d);
        at += 4 * S::LANES;
    }
    while at < scores.len() {
        a = s.max(s.load(&scores[at..]), a);
        at += S::LANES;
    }
    s.largest(s.max(s.max(a, b), s.max(c, d)))
}

/// Weights `2^(factor * (score - largest))` of row `r` for all keys of `blocks`. Stores them times
/// [`Precision::WEIGHT_MAX`], and returns their sum times the same.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one row of a tile has these operands")]
fn weigh<S: Simd, P: Precision<S>>(
    s: S,
    precision: P,
    r: usize,
    factor: f32,
    largest: f32,
    blocks: &Range<usize>,
    len: usize,
    scratch: &mut Scratch,
) -> f32 {
    let stride = score_stride(len);
    let row = &scratch.scores[r * stride..][..stride - CACHE_LINE_FLOATS];
    let (factor, largest) = (s.splat(factor), s.splat(largest));
    let (mut sum, mut carry) = (s.splat(0.0), s.splat(0.0));
    for block in blocks.clone() {
        let start = block * P::KEYS_PER_BLOCK;
        let scores = &row[start..row.len().min(start + P::KEYS_PER_BLOCK)];
        let words = &mut scratch.weights[block * MAX_TILE_ROWS + r];
        for at in (0..scores.len()).step_by(S::LANES) {
            // The difference first: that of two rounded products can leave no weight to scores in the millions.
            let exponent = s.mul(s.sub(s.load(&scores[at..]), largest), factor);
            let weight = precision.weight(s, exponent);
            sum = s.add(sum, weight);
            precision.store_weights(s, weight, &mut carry, &mut words[at / P::ELEMENTS_PER_WORD..]);
        }
    }
    s.sum(sum)
}
