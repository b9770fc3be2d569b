//! Attention of a language model's tokens over a cache whose cells several sequences share: a mask says which token sees
//! which cell.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use half::f16;

use crate::act::exp2_of_negative;
use crate::attention::score_stride;
use crate::isa::Isa;
use crate::simd::{CACHE_LINE_FLOATS, Kernel, MAX_LANES, Simd};
use crate::tile::{BlockRow, F32, K_BLOCK, MAX_TILE_ROWS, PANEL, PanelRow, multiply, tiles, with_tile_rows};

/// The number of cells is a multiple of it.
pub const CELLS_STEP: usize = PANEL;

/// The size of a head is a multiple of it.
pub const HEAD_SIZE_STEP: usize = 16;

/// Working memory of [`attend`]: grows to what the largest cache needs and is then reused. One per thread.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Which panels of cells each token sees.
    seen: Vec<bool>,
    /// Panels of cells that any token sees, ascending.
    panels: Vec<usize>,
    /// For each token, from the first to the last of `panels` that it sees.
    ranges: Vec<Range<usize>>,
    /// Keys of one head, transposed: for each of `panels`, a row for each feature.
    keys: Vec<PanelRow>,
    /// Values of one head: for each `PANEL` features, a row for each cell of `panels`.
    values: Vec<PanelRow>,
    /// Queries of one tile, `MAX_TILE_ROWS` for each block of features.
    queries: Vec<BlockRow>,
    /// Scores of one tile.
    scores: Vec<f32>,
    /// Weights of one tile, `MAX_TILE_ROWS` for each block of cells.
    weights: Vec<BlockRow>,
}

impl Scratch {
    /// Empty; the first call grows it.
    pub fn new() -> Self {
        Scratch::default()
    }
}

/// Vectors of several heads: head `h` of row `r` begins at `r * row + h * head`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a, T> {
    /// From the first head of the first row on.
    pub data: &'a [T],
    /// Elements from one row to the next.
    pub row: usize,
    /// Elements from one head to the next.
    pub head: usize,
}

impl<T> Heads<'_, T> {
    #[inline(always)]
    fn vector(&self, row: usize, head: usize, size: usize) -> &[T] {
        &self.data[row * self.row + head * self.head..][..size]
    }
}

/// Keys and values of all cells, a row for each.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a> {
    /// What queries are multiplied with.
    pub keys: Heads<'a, f16>,
    /// What is summed by weight.
    pub values: Heads<'a, f16>,
    /// A multiple of [`CELLS_STEP`].
    pub cells: usize,
}

/// What is added to the scores of a token, one row for each: minus infinity where it does not see a cell.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// From the first cell of the first token on.
    pub data: &'a [f16],
    /// Elements from the row of one token to that of the next.
    pub row: usize,
}

impl Mask<'_> {
    /// What a token's scores with the cells of a panel are changed by.
    #[inline(always)]
    fn panel(&self, token: usize, panel: usize) -> &[f16; PANEL] {
        let row = &self.data[token * self.row + panel * PANEL..];
        row.first_chunk().expect("whole panels of cells")
    }
}

/// Heads of the queries, and of the cache that they share.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// A multiple of `cache_heads`: query head `h` reads head `h / (heads / cache_heads)` of the cache.
    pub heads: usize,
    /// Heads of the keys and values.
    pub cache_heads: usize,
    /// Features of a head, a multiple of [`HEAD_SIZE_STEP`].
    pub head_size: usize,
    /// What the products of queries and keys are multiplied by.
    pub scale: f32,
}

/// `softmax(q . k^T * scale + mask) . v` of each token and head, in f32. A token that sees no cell gets zeros.
///
/// - `queries`: a row for each token
/// - `out`: `[tokens, heads * head_size]`
///
/// Of the panels of [`CELLS_STEP`] cells, those that no token sees are not read, and a tile of tokens is multiplied with those
/// between the first and the last that it sees. A token's result depends on the token and on the cells that it sees, bit for
/// bit on one `Isa`, as long as all values are finite: what is not seen has the weight 0, which makes NaN of infinity.
///
/// # Panics
/// When a slice is shorter than its shape says, or a number is not the multiple that it has to be.
pub fn attend(
    isa: Isa,
    shape: Shape,
    queries: Heads<'_, f32>,
    cache: Cache<'_>,
    mask: Mask<'_>,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let width = shape.heads * shape.head_size;
    assert!(width > 0 && shape.head_size.is_multiple_of(HEAD_SIZE_STEP), "heads of {}", shape.head_size);
    assert!(
        shape.heads.is_multiple_of(shape.cache_heads),
        "{} heads of {} in the cache",
        shape.heads,
        shape.cache_heads
    );
    assert!(cache.cells.is_multiple_of(CELLS_STEP), "{} cells", cache.cells);
    assert!(out.len().is_multiple_of(width), "out [tokens, {} x {}]", shape.heads, shape.head_size);
    isa.run(Attend { shape, queries, cache, mask, scratch, out });
}

struct Attend<'a> {
    shape: Shape,
    queries: Heads<'a, f32>,
    cache: Cache<'a>,
    mask: Mask<'a>,
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Attend { shape, queries, cache, mask, scratch, out } = self;
        let tokens = out.len() / (shape.heads * shape.head_size);
        scratch.look(mask, tokens, cache.cells / PANEL);
        scratch.make_room(shape.head_size);
        let group = shape.heads / shape.cache_heads;
        for cache_head in 0..shape.cache_heads {
            scratch.pack(s, cache, cache_head, shape.head_size);
            let head = Group { shape, first: cache_head * group, group, queries, mask };
            for (start, rows) in tiles::<S>(tokens * group) {
                with_tile_rows!(rows, S, attend_tile::<S>(s, head, start, scratch, out));
            }
        }
    }
}

/// The heads of queries that read one head of the cache. Their rows are computed alike: the heads of a token, and then
/// those of the next.
#[derive(Clone, Copy)]
struct Group<'a> {
    shape: Shape,
    /// The first head.
    first: usize,
    /// Number of heads.
    group: usize,
    queries: Heads<'a, f32>,
    mask: Mask<'a>,
}

impl Group<'_> {
    fn token(self, row: usize) -> usize {
        row / self.group
    }

    fn head(self, row: usize) -> usize {
        self.first + row % self.group
    }
}

impl Scratch {
    /// Finds the panels that tokens see.
    #[inline(always)]
    fn look(&mut self, mask: Mask<'_>, tokens: usize, panels: usize) {
        const UNSEEN: u16 = f16::NEG_INFINITY.to_bits();
        self.seen.clear();
        for token in 0..tokens {
            for panel in 0..panels {
                let sees = mask.panel(token, panel).iter().fold(
                    false,
                    #[inline(always)]
                    |sees, mask| sees | (mask.to_bits() != UNSEEN),
                );
                self.seen.push(sees);
            }
        }
        let seen = &self.seen;
        let is_used = |panel: &usize| (0..tokens).any(|token| seen[token * panels + panel]);
        self.panels.clear();
        self.panels.extend((0..panels).filter(is_used));
        self.ranges.clear();
        for token in 0..tokens {
            let sees = |panel: &usize| seen[token * panels + panel];
            let first = self.panels.iter().position(sees).unwrap_or(0);
            let end = self.panels.iter().rposition(sees).map_or(0, |last| last + 1);
            self.ranges.push(first..end);
        }
    }

    fn make_room(&mut self, head_size: usize) {
        let cells = self.panels.len() * PANEL;
        self.keys.resize(self.panels.len() * head_size, PanelRow::ZERO);
        self.values.resize(head_size.div_ceil(PANEL) * cells, PanelRow::ZERO);
        self.queries.resize(head_size.div_ceil(K_BLOCK) * MAX_TILE_ROWS, BlockRow::ZERO);
        self.scores.resize(score_stride(cells) * MAX_TILE_ROWS, 0.0);
        self.weights.resize(cells.div_ceil(K_BLOCK) * MAX_TILE_ROWS, BlockRow::ZERO);
    }

    /// Widens a head's keys and values of the panels that are seen.
    #[inline(always)]
    fn pack<S: Simd>(&mut self, s: S, cache: Cache<'_>, head: usize, size: usize) {
        let cells = self.panels.len() * PANEL;
        for (place, &panel) in self.panels.iter().enumerate() {
            if let Some(&next) = self.panels.get(place + 1) {
                prefetch(s, cache, head, size, next);
            }
            let keys = &mut self.keys[place * size..][..size];
            pack_keys(s, cache.keys, head, panel, keys);
            for i in 0..PANEL {
                let value = cache.values.vector(panel * PANEL + i, head, size);
                for first in (0..size).step_by(S::LANES) {
                    let row = &mut self.values[first / PANEL * cells + place * PANEL + i];
                    s.store_words(s.bits(s.load_f16(&value[first..])), &mut row.0[first % PANEL..]);
                }
            }
        }
    }
}

/// Keys of a panel's cells, a row for each feature.
#[inline(always)]
fn pack_keys<S: Simd>(s: S, from: Heads<'_, f16>, head: usize, panel: usize, keys: &mut [PanelRow]) {
    for i in 0..PANEL {
        let key = from.vector(panel * PANEL + i, head, keys.len());
        for first in (0..key.len()).step_by(S::LANES) {
            let mut lanes = [0; MAX_LANES];
            s.store_words(s.bits(s.load_f16(&key[first..])), &mut lanes);
            for (row, word) in keys[first..][..S::LANES].iter_mut().zip(lanes) {
                row.0[i] = word;
            }
        }
    }
}

/// A row holds all heads, so that those of one head are too far apart for a processor to fetch them ahead by itself.
#[inline(always)]
fn prefetch<S: Simd>(s: S, cache: Cache<'_>, head: usize, size: usize, panel: usize) {
    for cell in panel * PANEL..(panel + 1) * PANEL {
        for vector in [cache.keys.vector(cell, head, size), cache.values.vector(cell, head, size)] {
            for line in vector.chunks(CACHE_LINE_HALVES) {
                s.prefetch(&line[0]);
            }
        }
    }
}

/// Numbers of 16 bits in a cache line.
const CACHE_LINE_HALVES: usize = 2 * CACHE_LINE_FLOATS;

#[inline(always)]
fn attend_tile<S: Simd, const R: usize>(
    s: S,
    group: Group<'_>,
    start: usize,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let size = group.shape.head_size;
    for r in 0..R {
        let query = group.queries.vector(group.token(start + r), group.head(start + r), size);
        for (block, query) in query.chunks(K_BLOCK).enumerate() {
            let words = &mut scratch.queries[block * MAX_TILE_ROWS + r];
            for (word, feature) in words.iter_mut().zip(query) {
                *word = feature.to_bits();
            }
        }
    }
    let tokens = group.token(start)..group.token(start + R - 1) + 1;
    let ranges = scratch.ranges[tokens].iter().filter(|range| !range.is_empty());
    let panels = ranges.clone().map(|range| range.start).min().unwrap_or(0)
        ..ranges.map(|range| range.end).max().unwrap_or(0);
    let largest = score::<S, R>(s, group, start, &panels, scratch);
    let sums = weigh::<S, R>(s, largest, panels.len() * PANEL, scratch);

    let cells = scratch.panels.len() * PANEL;
    let values = panels.start * PANEL..panels.end * PANEL;
    for first in (0..size).step_by(2 * S::LANES) {
        let values = &scratch.values[first / PANEL * cells..][values.clone()];
        let (weights, column) = (&scratch.weights, first % PANEL);
        let acc = multiply::<S, F32, R>(s, F32, weights, MAX_TILE_ROWS, 0, values, column, &[]);
        for (r, acc) in acc.into_iter().enumerate() {
            let factor = s.splat(if sums[r] == 0.0 { 0.0 } else { 1.0 / sums[r] });
            let at = (group.token(start + r) * group.shape.heads + group.head(start + r)) * size;
            let out = &mut out[at..][first..size.min(first + 2 * S::LANES)];
            s.store(s.mul(acc[0], factor), out);
            if out.len() > S::LANES {
                s.store(s.mul(acc[1], factor), &mut out[S::LANES..]);
            }
        }
    }
}

/// The scores of a tile with the cells of `panels`, and the largest of each row.
#[inline(always)]
fn score<S: Simd, const R: usize>(
    s: S,
    group: Group<'_>,
    start: usize,
    panels: &Range<usize>,
    scratch: &mut Scratch,
) -> [f32; R] {
    let size = group.shape.head_size;
    let stride = score_stride(scratch.panels.len() * PANEL);
    let (scale, unseen) = (s.splat(group.shape.scale), s.splat(f32::NEG_INFINITY));
    let mut largest = [unseen; R];
    for (place, panel) in panels.clone().enumerate() {
        let keys = &scratch.keys[panel * size..][..size];
        for column in (0..PANEL).step_by(2 * S::LANES) {
            let acc = multiply::<S, F32, R>(s, F32, &scratch.queries, MAX_TILE_ROWS, 0, keys, column, &[]);
            for (r, acc) in acc.into_iter().enumerate() {
                let mask = group.mask.panel(group.token(start + r), scratch.panels[panel]);
                let scores = &mut scratch.scores[r * stride + place * PANEL..][..PANEL];
                for (acc, column) in acc.into_iter().zip([column, column + S::LANES]) {
                    let mask = s.load_f16(&mask[column..]);
                    // Not the sum alone: a key may be infinite that this token does not see.
                    let score = s.fma(acc, scale, mask);
                    let score = s.select_lt(unseen, mask, score, unseen);
                    largest[r] = s.max(score, largest[r]);
                    s.store(score, &mut scores[column..]);
                }
            }
        }
    }
    largest.map(
        #[inline(always)]
        |largest| s.largest(largest),
    )
}

/// Weights `e^(score - largest)` of a tile's first `cells` scores, and their sums.
#[inline(always)]
fn weigh<S: Simd, const R: usize>(s: S, largest: [f32; R], cells: usize, scratch: &mut Scratch) -> [f32; R] {
    let stride = score_stride(scratch.panels.len() * PANEL);
    let mut sums = [0.0; R];
    for r in 0..R {
        // Of what sees nothing no weight is left, whatever is subtracted.
        let largest = s.splat(largest[r].max(f32::MIN));
        let mut sum = s.splat(0.0);
        for (block, scores) in scratch.scores[r * stride..][..cells].chunks(K_BLOCK).enumerate() {
            let words = &mut scratch.weights[block * MAX_TILE_ROWS + r];
            for at in (0..scores.len()).step_by(S::LANES) {
                let exponent = s.mul(s.sub(s.load(&scores[at..]), largest), s.splat(LOG2_E));
                let weight = exp2_of_negative(s, exponent);
                sum = s.add(sum, weight);
                s.store_words(s.bits(weight), &mut words[at..]);
            }
        }
        sums[r] = s.sum(sum);
    }
    sums
}
