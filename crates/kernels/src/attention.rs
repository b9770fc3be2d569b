//! Self-attention over packed sequences of different lengths, without padding.

use crate::act::exp2_of_negative;
use crate::isa::Isa;
use crate::simd::{CACHE_LINE_FLOATS, Kernel, Simd};
use crate::tile::{BlockRow, K_BLOCK, MAX_TILE_ROWS, PANEL, PanelRow, ROW_STRIDE, multiply, with_tile_rows};
use std::f32::consts::LOG2_E;

/// Working memory of [`varlen`]: grows to what the longest sequence needs and is then reused. One per thread.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Keys of one head, transposed: `[len / PANEL, head_size]` rows of `PANEL` keys.
    keys: Vec<PanelRow>,
    /// Values of one head: `[head_size / PANEL, len]` rows of `PANEL` features.
    values: Vec<PanelRow>,
    /// Scaled queries of one tile: `[head_size / K_BLOCK, MAX_TILE_ROWS]` block rows.
    queries: Vec<BlockRow>,
    /// Scores, then weights, of one tile: `[len / K_BLOCK, MAX_TILE_ROWS]` block rows.
    scores: Vec<BlockRow>,
}

impl Scratch {
    /// Empty; the first call grows it.
    pub fn new() -> Self {
        Scratch::default()
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        (self.keys.capacity() + self.values.capacity()) * size_of::<PanelRow>()
            + (self.queries.capacity() + self.scores.capacity()) * size_of::<BlockRow>()
    }
}

/// `softmax(q . k^T * scale) . v` within each sequence, for each head; never across sequences.
///
/// - `qkv`: `[tokens, 3 * heads * head_size]`, the blocks q, k and v side by side
/// - `cu_seqlens`: where sequences start, and at last the number of tokens
/// - `out`: `[tokens, heads * head_size]`
///
/// A row's result depends on its own sequence alone, bit for bit on one `Isa`. The exponential is within 2 ulp.
/// Scratch memory is linear in the longest sequence.
///
/// # Panics
/// When a slice is not as long as its shape says, or `cu_seqlens` does not rise from 0 to the number of tokens.
#[expect(clippy::too_many_arguments, reason = "the operation has these operands")]
pub fn varlen(
    isa: Isa,
    qkv: &[f32],
    cu_seqlens: &[u32],
    heads: usize,
    head_size: usize,
    scale: f32,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let width = heads * head_size;
    let tokens = check_shapes(qkv.len(), out.len(), width, cu_seqlens);
    assert_eq!(out.len(), tokens * width, "out [{tokens}, {heads} x {head_size}]");
    isa.run(Varlen { qkv, cu_seqlens, heads, head_size, scale, scratch, out });
}

/// The number of tokens.
fn check_shapes(qkv: usize, out: usize, width: usize, cu_seqlens: &[u32]) -> usize {
    assert!(width > 0, "attention over heads of no width");
    assert_eq!(qkv, 3 * out, "qkv is three times as wide as out");
    assert_eq!(cu_seqlens.first(), Some(&0), "cu_seqlens starts at 0");
    assert!(cu_seqlens.is_sorted(), "cu_seqlens rises");
    cu_seqlens.last().map_or(0, |&last| last as usize)
}

struct Varlen<'a> {
    qkv: &'a [f32],
    cu_seqlens: &'a [u32],
    heads: usize,
    head_size: usize,
    scale: f32,
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
}

impl Kernel for Varlen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.heads * self.head_size;
        for bounds in self.cu_seqlens.windows(2).filter(|bounds| bounds[0] < bounds[1]) {
            let (start, end) = (bounds[0] as usize, bounds[1] as usize);
            let qkv = &self.qkv[start * 3 * width..end * 3 * width];
            let out = &mut self.out[start * width..end * width];
            for head in 0..self.heads {
                let head = Head { qkv, width, first: head * self.head_size, size: self.head_size };
                self.scratch.pack(s, &head);
                attend(s, &head, self.scale, self.scratch, out);
            }
        }
    }
}

/// One head of one sequence.
struct Head<'a> {
    /// `[len, 3 * width]`
    qkv: &'a [f32],
    /// `heads * head_size`
    width: usize,
    /// Column of the head's first feature in the q block.
    first: usize,
    size: usize,
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
    /// Copies a head's keys and values into panels and makes room for its tiles. What stands past the end of a
    /// key or value panel reaches no result, so it is not cleared.
    #[inline(always)]
    fn pack<S: Simd>(&mut self, s: S, head: &Head<'_>) {
        let len = head.len();
        let blocks = |k: usize| k.div_ceil(K_BLOCK) * MAX_TILE_ROWS;
        self.keys.resize(len.div_ceil(PANEL) * head.size, PanelRow::ZERO);
        self.values.resize(head.size.div_ceil(PANEL) * len, PanelRow::ZERO);
        self.queries.resize(blocks(head.size), [0.0; ROW_STRIDE]);
        self.scores.resize(blocks(len), [0.0; ROW_STRIDE]);
        for (panel_no, panel) in self.keys.chunks_exact_mut(head.size).enumerate() {
            let keys: [&[f32]; PANEL] =
                std::array::from_fn(|i| head.vector((panel_no * PANEL + i).min(len - 1), 1));
            for (feature, row) in panel.iter_mut().enumerate() {
                row.0 = std::array::from_fn(|i| keys[i][feature]);
            }
        }
        for token in 0..len {
            for (panel_no, features) in head.vector(token, 2).chunks(PANEL).enumerate() {
                let row = &mut self.values[panel_no * len + token];
                copy_scaled(s, features, 1.0, &mut row.0);
            }
        }
    }
}

/// `to = from * scale`, where `to` has room for whole vectors and what follows `from` in it is not used.
#[inline(always)]
fn copy_scaled<S: Simd>(s: S, from: &[f32], scale: f32, to: &mut [f32]) {
    for (from, to) in from.chunks(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
        s.store(s.mul(s.load_up_to(from, 0.0), s.splat(scale)), to);
    }
}

#[inline(always)]
fn attend<S: Simd>(s: S, head: &Head<'_>, scale: f32, scratch: &mut Scratch, out: &mut [f32]) {
    // With log2(e) in the scale, the softmax is one of powers of two.
    let scale = scale * LOG2_E;
    for start in (0..head.len()).step_by(S::TILE_ROWS) {
        let rows = S::TILE_ROWS.min(head.len() - start);
        for r in 0..rows {
            for (block, features) in head.vector(start + r, 0).chunks(K_BLOCK).enumerate() {
                let row = &mut scratch.queries[block * MAX_TILE_ROWS + r];
                copy_scaled(s, features, scale, row);
            }
            head.prefetch_next(s, start + r);
        }
        let out = &mut out[start * head.width..];
        with_tile_rows!(rows, s: S, attend_tile(head, scratch, out));
    }
}

/// The first `R` rows of `out`, from the first `R` rows of `scratch.queries`.
#[inline(always)]
fn attend_tile<S: Simd, const R: usize>(s: S, head: &Head<'_>, scratch: &mut Scratch, out: &mut [f32]) {
    let Scratch { keys, values, queries, scores } = scratch;
    let zero = [[s.splat(0.0); 2]; R];
    for (panel_no, panel) in keys.chunks_exact(head.size).enumerate() {
        let block = panel_no * PANEL / K_BLOCK * MAX_TILE_ROWS;
        for column in (0..PANEL).step_by(2 * S::LANES) {
            let acc = multiply(s, queries, MAX_TILE_ROWS, panel, column, &[], zero);
            let start = panel_no * PANEL % K_BLOCK + column;
            for (r, acc) in acc.iter().enumerate() {
                s.store(acc[0], &mut scores[block + r][start..]);
                s.store(acc[1], &mut scores[block + r][start + S::LANES..]);
            }
        }
    }
    let mut factor = [0.0; R];
    for (r, factor) in factor.iter_mut().enumerate() {
        *factor = 1.0 / exponentiate(s, scores, r, head.len());
    }
    for (panel_no, panel) in values.chunks_exact(head.len()).enumerate() {
        let panel_width = PANEL.min(head.size - panel_no * PANEL);
        for column in (0..panel_width).step_by(2 * S::LANES) {
            let acc = multiply(s, scores, MAX_TILE_ROWS, panel, column, &[], zero);
            let start = head.first + panel_no * PANEL + column;
            let tile_width = (panel_width - column).min(2 * S::LANES);
            let middle = tile_width.min(S::LANES);
            for (r, acc) in acc.iter().enumerate() {
                let factor = s.splat(factor[r]);
                let (left, right) = out[r * head.width + start..][..tile_width].split_at_mut(middle);
                s.store_up_to(s.mul(acc[0], factor), left);
                s.store_up_to(s.mul(acc[1], factor), right);
            }
        }
    }
}

/// Replaces the `len` scores of row `r` by `2^(score - largest)` and returns their sum.
#[inline(always)]
fn exponentiate<S: Simd>(s: S, scores: &mut [BlockRow], r: usize, len: usize) -> f32 {
    let blocks = || (0..len).step_by(K_BLOCK).enumerate();
    let mut largest = s.splat(f32::NEG_INFINITY);
    for (block, start) in blocks() {
        let row = &scores[block * MAX_TILE_ROWS + r][..K_BLOCK.min(len - start)];
        for chunk in row.chunks(S::LANES) {
            largest = s.max(s.load_up_to(chunk, f32::NEG_INFINITY), largest);
        }
    }
    let largest = s.splat(s.largest(largest));
    let mut sum = s.splat(0.0);
    for (block, start) in blocks() {
        let row = &mut scores[block * MAX_TILE_ROWS + r][..K_BLOCK.min(len - start)];
        for chunk in row.chunks_mut(S::LANES) {
            let weight = exp2_of_negative(s, s.sub(s.load_up_to(chunk, f32::NEG_INFINITY), largest));
            sum = s.add(sum, weight);
            s.store_up_to(weight, chunk);
        }
    }
    s.sum(sum)
}
