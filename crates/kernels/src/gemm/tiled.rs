//! Linear layers in the tile unit: the same packed rows and panels, 32 rows and 32 outputs at a time.

use super::rows::{Mode, RowScale};
use super::{Block, FeedForward, Linear, PackedWeight, Scratch, add};
use crate::act::{self, Accuracy, Activation, coarse_gelu_erf};
use crate::amx::{AHEAD_BYTES, AddTo, ROWS, Sums, TileRows, TileUnit};
use crate::isa::Amx;
use crate::simd::{DotKernel, Dots, Simd};
use crate::tile::{Bf16, BlockRow, K_BLOCK, Numbers, PANEL, PanelRow, Pieces, TILE_STEP, U8I8};
use std::ops::Range;

/// Words of `k` that are multiplied at a time: of 32 rows and of a panel they are 12 KiB each, so that the rows, the panel,
/// the next one and the sums stay in a first-level cache of 48 KiB. A whole number of steps of every format.
const CHUNK_WORDS: usize = K_BLOCK / 4;

/// Panels that every 32 rows meet before the next words or panels. Their words, their sums and the rows of a block stay in
/// a second-level cache of 2 MiB, which every processor with tiles has.
const BLOCK_PANELS: usize = 8;

/// Parts in which the words of a panel are loaded ahead, one while 32 rows meet another panel.
const SHARES: usize = TILE_STEP * size_of::<PanelRow>() / AHEAD_BYTES;

/// Rows that share one reading of the weights.
const ROW_BLOCK: usize = 8 * ROWS;

/// A linear layer whose products the tile unit computes.
pub(super) struct Tiled<'a> {
    unit: TileUnit,
    numbers: Numbers,
    layer: Linear<'a>,
}

impl<'a> Tiled<'a> {
    pub(super) fn new(proof: Amx, numbers: Numbers, layer: Linear<'a>) -> Self {
        Tiled { unit: TileUnit::configure(proof), numbers, layer }
    }
}

impl DotKernel for Tiled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, D: Dots<S>>(self, s: S, dots: D) {
        match self.numbers {
            Numbers::Bf16 => self.multiply(s, Bf16(dots)),
            Numbers::U8I8 => self.multiply(s, U8I8(dots)),
            Numbers::Pieces => self.multiply(s, Pieces),
        }
    }
}

impl Tiled<'_> {
    #[inline(always)]
    fn multiply<S: Simd, M: Mode<S>>(self, s: S, mode: M) {
        let Tiled { unit, numbers, layer: Linear { x, weight, epilogue, scratch, out } } = self;
        let (n, k) = (weight.out_features(), weight.in_features());
        let mut residual = epilogue.residual.map(|residual| residual.chunks(ROW_BLOCK * n));
        for (x, out) in x.chunks(ROW_BLOCK * k).zip(out.chunks_mut(ROW_BLOCK * n)) {
            let stride = pack_block(s, mode, weight, x, scratch);
            let residual = residual.as_mut().and_then(Iterator::next);
            let Scratch { words, scales, partial, .. } = &mut *scratch;
            let end = Ending { weight, bias: epilogue.bias, scales, residual };
            let rows = RowsOf { words, stride, count: out.len() / n };
            products(
                &unit,
                numbers,
                rows,
                weight,
                partial,
                #[inline(always)]
                |rows, columns, sums| {
                    let place = Place { rows, columns, n };
                    place.finish(s, mode, end, epilogue.activation, sums, out);
                },
            );
        }
    }
}

/// Two layers of bf16 whose products the tile unit computes. What stands between them is packed as it is finished.
pub(super) struct TiledFeedForward<'a> {
    unit: TileUnit,
    x: &'a [f32],
    layers: FeedForward<'a>,
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
}

impl<'a> TiledFeedForward<'a> {
    pub(super) fn new(
        proof: Amx,
        x: &'a [f32],
        layers: FeedForward<'a>,
        scratch: &'a mut Scratch,
        out: &'a mut [f32],
    ) -> Self {
        TiledFeedForward { unit: TileUnit::configure(proof), x, layers, scratch, out }
    }
}

impl DotKernel for TiledFeedForward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, D: Dots<S>>(self, s: S, dots: D) {
        let TiledFeedForward { unit, x, layers, scratch, out } = self;
        let FeedForward { up, up_bias, activation, down, down_bias, residual } = layers;
        let (mode, numbers) = (Bf16(dots), Numbers::Bf16);
        let (n, k) = (down.out_features(), up.in_features());
        let mut residual = residual.map(|residual| residual.chunks(ROW_BLOCK * n));
        for (x, out) in x.chunks(ROW_BLOCK * k).zip(out.chunks_mut(ROW_BLOCK * n)) {
            let stride = pack_block(s, mode, up, x, scratch);
            let count = out.len() / n;
            let hidden = down.height().div_ceil(K_BLOCK) * stride;
            if scratch.hidden.len() < hidden {
                scratch.hidden.resize(hidden, BlockRow::ZERO);
            }
            let Scratch { words, scales, hidden, partial, .. } = &mut *scratch;
            let end = Ending { weight: up, bias: up_bias, scales, residual: None };
            products(
                &unit,
                numbers,
                RowsOf { words, stride, count },
                up,
                partial,
                #[inline(always)]
                |rows, columns, sums| {
                    // Packed rows have no width of an output.
                    Place { rows, columns, n: 0 }.pack(s, mode, end, activation, sums, hidden, stride);
                },
            );
            let residual = residual.as_mut().and_then(Iterator::next);
            let end = Ending { weight: down, bias: down_bias, scales, residual };
            products(
                &unit,
                numbers,
                RowsOf { words: hidden, stride, count },
                down,
                partial,
                #[inline(always)]
                |rows, columns, sums| {
                    Place { rows, columns, n }.finish(s, mode, end, Activation::Identity, sums, out);
                },
            );
        }
    }
}

/// Packs rows for the products with a weight, and returns the room for rows in each block of words.
#[inline(always)]
fn pack_block<S: Simd, M: Mode<S>>(
    s: S,
    mode: M,
    weight: &PackedWeight,
    x: &[f32],
    scratch: &mut Scratch,
) -> usize {
    let k = weight.in_features();
    let rows = x.len() / k;
    let block = Block { rows, stride: rows.next_multiple_of(ROWS), k, row_words: weight.height() };
    block.clear_row_ends::<S, M>(scratch);
    block.pack(s, mode, x, weight.row_max(), scratch);
    block.stride
}

impl Block {
    /// Zeros in the words that a row does not fill and the unit reads; what is in the way of a zero could be a NaN.
    #[inline(always)]
    fn clear_row_ends<S: Simd, M: Mode<S>>(self, scratch: &mut Scratch) {
        if self.k.is_multiple_of(M::ELEMENTS_PER_WORD * TILE_STEP) {
            return;
        }
        let last = self.k / M::ELEMENTS_PER_BLOCK * self.stride;
        if scratch.words.len() < last + self.stride {
            scratch.words.resize(last + self.stride, BlockRow::ZERO);
        }
        for row in &mut scratch.words[last..last + self.stride] {
            row.fill(0);
        }
    }
}

/// The packed rows of a block.
#[derive(Clone, Copy)]
struct RowsOf<'a> {
    words: &'a [BlockRow],
    /// Room for rows in each block of words: whole tiles.
    stride: usize,
    count: usize,
}

/// Calls `finish` with the sums of every 32 rows and every 32 outputs: which rows, which outputs, and their sums.
///
/// [`BLOCK_PANELS`] panels at a time, and of them [`CHUNK_WORDS`] words of `k` at a time: 32 rows stay in the first-level
/// cache while they meet these panels, which come from the second. Sums that are not whole wait in `partial`.
#[inline(always)]
fn products(
    unit: &TileUnit,
    numbers: Numbers,
    rows: RowsOf<'_>,
    weight: &PackedWeight,
    partial: &mut Vec<Sums>,
    mut finish: impl FnMut(Range<usize>, Range<usize>, &mut Sums),
) {
    let (n, row_words) = (weight.out_features(), weight.height());
    let groups = rows.count.div_ceil(ROWS);
    let is_whole = row_words <= CHUNK_WORDS;
    let waiting = if is_whole { 1 } else { groups * BLOCK_PANELS };
    if partial.len() < waiting {
        partial.resize(waiting, Sums::ZERO);
    }
    let mut chunks = Chunks { weight, panel: 0, word: 0 }.peekable();
    while let Some(chunk) = chunks.next() {
        for group in 0..groups {
            let first = group * ROWS;
            let tile =
                TileRows { words: rows.words, stride: rows.stride, first, from_word: chunk.words.start };
            for (i, panel) in chunk.panels.chunks_exact(row_words).enumerate() {
                let sums = &mut partial[if is_whole { 0 } else { group * BLOCK_PANELS + i }];
                let add_to = if chunk.words.start == 0 { AddTo::Zero } else { AddTo::Values };
                let ahead = chunks.peek().map_or(&[][..], |next| next.share(i, group));
                unit.multiply(numbers, tile, &panel[chunk.words.clone()], sums.place(add_to), ahead);
                if chunk.words.end == row_words {
                    let start = (chunk.first_panel + i) * PANEL;
                    finish(first..rows.count.min(first + ROWS), start..n.min(start + PANEL), sums);
                }
            }
        }
    }
}

/// Some words of some panels.
struct Chunk<'a> {
    /// Whole, all of their words.
    panels: &'a [PanelRow],
    first_panel: usize,
    /// Words of a panel.
    height: usize,
    words: Range<usize>,
}

impl<'a> Chunk<'a> {
    /// The part of panel `i` that is loaded while a group of 32 rows meets another one.
    #[inline(always)]
    fn share(&self, i: usize, group: usize) -> &'a [PanelRow] {
        let rows = self.words.len() / SHARES;
        let start = i * self.height + self.words.start + group % SHARES * rows;
        self.panels.get(start..start + rows).unwrap_or(&[])
    }
}

/// The chunks of a weight: of [`BLOCK_PANELS`] panels all words, then of the next ones.
struct Chunks<'a> {
    weight: &'a PackedWeight,
    panel: usize,
    word: usize,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        let height = self.weight.height();
        let panels = self.weight.panels().get(self.panel * height..).filter(|panels| !panels.is_empty())?;
        let panels = &panels[..panels.len().min(BLOCK_PANELS * height)];
        let words = self.word..height.min(self.word + CHUNK_WORDS);
        let chunk = Chunk { panels, first_panel: self.panel, height, words: words.clone() };
        self.word = words.end;
        if self.word == height {
            (self.panel, self.word) = (self.panel + BLOCK_PANELS, 0);
        }
        Some(chunk)
    }
}

/// What the sums of a block of rows are finished with.
#[derive(Clone, Copy)]
struct Ending<'a> {
    weight: &'a PackedWeight,
    bias: Option<&'a [f32]>,
    /// Of the rows of the block.
    scales: &'a [RowScale],
    /// Rows of the block.
    residual: Option<&'a [f32]>,
}

/// Where a tile stands in the output of a block of rows.
struct Place {
    rows: Range<usize>,
    columns: Range<usize>,
    /// Width of a row of the output.
    n: usize,
}

impl Place {
    /// Sums to outputs: bias, activation, residual.
    #[inline(always)]
    fn finish<S: Simd, M: Mode<S>>(
        self,
        s: S,
        mode: M,
        end: Ending<'_>,
        activation: Activation,
        sums: &mut Sums,
        out: &mut [f32],
    ) {
        if activation == Activation::Identity && self.columns.len() == PANEL {
            return self.store(s, mode, end, sums, out);
        }
        self.activate(s, mode, end, activation, sums);
        for (row, values) in self.rows.clone().zip(&sums.0) {
            let place = self.of_row(row);
            let out = &mut out[place.clone()];
            out.copy_from_slice(&values[..out.len()]);
            if let Some(residual) = end.residual {
                add(s, out, &residual[place]);
            }
        }
    }

    /// [`Place::finish`] of nearly all tiles of layers without an activation.
    #[inline(always)]
    fn store<S: Simd, M: Mode<S>>(self, s: S, mode: M, end: Ending<'_>, sums: &Sums, out: &mut [f32]) {
        let layers = self.layers(s, mode, end);
        for (row, sums) in self.rows.clone().zip(&sums.0) {
            let place = self.of_row(row);
            let [mut left, mut right] = finish_row(s, mode, sums, end.scales[row], layers);
            if let Some(residual) = end.residual {
                let residual = &residual[place.clone()];
                left = s.add(left, s.load(residual));
                right = s.add(right, s.load(&residual[S::LANES..]));
            }
            let out = &mut out[place];
            s.store(left, out);
            s.store(right, &mut out[S::LANES..]);
        }
    }

    /// Sums to outputs as the next layer's rows, which are `stride` in each block of words; outputs that there are
    /// not become zeros.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "one tile's work has these operands")]
    fn pack<S: Simd, D: Dots<S>>(
        self,
        s: S,
        mode: Bf16<D>,
        end: Ending<'_>,
        activation: Activation,
        sums: &mut Sums,
        rows: &mut [BlockRow],
        stride: usize,
    ) {
        let word = self.columns.start / 2;
        let (block, at) = (word / K_BLOCK, word % K_BLOCK);
        self.activate(s, mode, end, activation, sums);
        for (row, values) in self.rows.clone().zip(&mut sums.0) {
            values[self.columns.len()..].fill(0.0);
            let words = &mut rows[block * stride + row][at..];
            mode.0.store_rounded_bf16(s, s.load(values), words);
            mode.0.store_rounded_bf16(s, s.load(&values[S::LANES..]), &mut words[S::LANES / 2..]);
        }
    }

    /// Bias and activation, in place.
    #[inline(always)]
    fn activate<S: Simd, M: Mode<S>>(
        &self,
        s: S,
        mode: M,
        end: Ending<'_>,
        activation: Activation,
        sums: &mut Sums,
    ) {
        let layers = self.layers(s, mode, end);
        let is_coarse = activation == Activation::GeluErf && M::ACCURACY == Accuracy::Coarse;
        for (sums, &scale) in sums.0.iter_mut().zip(&end.scales[self.rows.clone()]) {
            let [mut left, mut right] = finish_row(s, mode, sums, scale, layers);
            if is_coarse {
                (left, right) = (coarse_gelu_erf(s, left), coarse_gelu_erf(s, right));
            }
            s.store(left, sums);
            s.store(right, &mut sums[S::LANES..]);
            if !is_coarse {
                act::apply_with(s, activation, sums);
            }
        }
    }

    #[inline(always)]
    fn layers<S: Simd, M: Mode<S>>(&self, s: S, mode: M, end: Ending<'_>) -> [M::Layer; 2] {
        let middle = self.columns.end.min(self.columns.start + S::LANES);
        // Not `map`, which is compiled without the instruction set.
        [
            mode.layer(s, end.weight, end.bias, self.columns.start..middle),
            mode.layer(s, end.weight, end.bias, middle..self.columns.end),
        ]
    }

    /// Where row `row` of the tile stands in the output.
    #[inline(always)]
    fn of_row(&self, row: usize) -> Range<usize> {
        row * self.n + self.columns.start..row * self.n + self.columns.end
    }
}

/// Sums of a row to outputs, bias added.
#[inline(always)]
fn finish_row<S: Simd, M: Mode<S>>(
    s: S,
    mode: M,
    sums: &[f32; PANEL],
    scale: RowScale,
    layers: [M::Layer; 2],
) -> [S::V; 2] {
    let (left, right) = (s.load(sums), s.load(&sums[S::LANES..]));
    [
        mode.finish(s, mode.sum(s, s.bits(left)), scale, layers[0]),
        mode.finish(s, mode.sum(s, s.bits(right)), scale, layers[1]),
    ]
}
