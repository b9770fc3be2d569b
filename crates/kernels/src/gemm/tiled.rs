//! Linear layers in the tile unit: the same packed rows and panels, 32 rows and 32 outputs at a time.

use super::rows::{Mode, RowScale};
use super::{Block, FeedForward, Linear, PackedWeight, Scratch, add};
use crate::act::{self, Accuracy, Activation, coarse_gelu_erf};
use crate::amx::{ROWS, Sums, TileUnit};
use crate::isa::Amx;
use crate::simd::{DotKernel, Dots, Simd};
use crate::tile::{Bf16, BlockRow, K_BLOCK, Numbers, PANEL, PanelRow, Pieces, TILE_STEP, U8I8};
use std::ops::{Range, RangeInclusive};

/// Packed rows that share one reading of the weights stay in the second-level cache beside them. Every processor with
/// tiles has 2 MiB of it.
const ROW_BLOCK_BYTES: usize = 768 << 10;

/// Panels that stay in that cache beside the rows of a block while every 32 rows meet all of them.
const PANEL_BLOCK_BYTES: usize = 384 << 10;

/// Rows of a block, whatever their width.
const ROW_BLOCK: RangeInclusive<usize> = 2 * ROWS..=16 * ROWS;

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
        let block_rows = block_rows(weight.height());
        let mut residual = epilogue.residual.map(|residual| residual.chunks(block_rows * n));
        for (x, out) in x.chunks(block_rows * k).zip(out.chunks_mut(block_rows * n)) {
            let stride = pack_block(s, mode, weight, x, scratch);
            let residual = residual.as_mut().and_then(Iterator::next);
            let Scratch { words, scales, .. } = &*scratch;
            let end = Ending { weight, bias: epilogue.bias, scales, residual };
            let rows = RowsOf { words, stride, count: out.len() / n };
            products(
                s,
                &unit,
                numbers,
                rows,
                weight,
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
        let block_rows = block_rows(down.height());
        let mut residual = residual.map(|residual| residual.chunks(block_rows * n));
        for (x, out) in x.chunks(block_rows * k).zip(out.chunks_mut(block_rows * n)) {
            let stride = pack_block(s, mode, up, x, scratch);
            let count = out.len() / n;
            let hidden = down.height().div_ceil(K_BLOCK) * stride;
            if scratch.hidden.len() < hidden {
                scratch.hidden.resize(hidden, BlockRow::ZERO);
            }
            let Scratch { words, scales, hidden, .. } = &mut *scratch;
            let end = Ending { weight: up, bias: up_bias, scales, residual: None };
            products(
                s,
                &unit,
                numbers,
                RowsOf { words, stride, count },
                up,
                #[inline(always)]
                |rows, columns, sums| {
                    // Packed rows have no width of an output.
                    Place { rows, columns, n: 0 }.pack(s, mode, end, activation, sums, hidden, stride);
                },
            );
            let residual = residual.as_mut().and_then(Iterator::next);
            let end = Ending { weight: down, bias: down_bias, scales, residual };
            products(
                s,
                &unit,
                numbers,
                RowsOf { words: hidden, stride, count },
                down,
                #[inline(always)]
                |rows, columns, sums| {
                    Place { rows, columns, n }.finish(s, mode, end, Activation::Identity, sums, out);
                },
            );
        }
    }
}

/// Rows of a block of rows of so many words.
fn block_rows(row_words: usize) -> usize {
    let fit = ROW_BLOCK_BYTES / (row_words * size_of::<u32>()) / ROWS * ROWS;
    fit.clamp(*ROW_BLOCK.start(), *ROW_BLOCK.end())
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
#[inline(always)]
fn products<S: Simd>(
    s: S,
    unit: &TileUnit,
    numbers: Numbers,
    rows: RowsOf<'_>,
    weight: &PackedWeight,
    mut finish: impl FnMut(Range<usize>, Range<usize>, &mut Sums),
) {
    let (n, row_words) = (weight.out_features(), weight.height());
    let block_panels = (PANEL_BLOCK_BYTES / (row_words * size_of::<PanelRow>())).max(1);
    let mut sums = Sums::ZERO;
    let mut panels = weight.panels();
    for first_panel in (0..n.div_ceil(PANEL)).step_by(block_panels) {
        let (these, next) = panels.split_at(panels.len().min(block_panels * row_words));
        let mut ahead = next[..next.len().min(these.len())].chunks(these.len().div_ceil(rows.stride / ROWS));
        panels = next;
        for first in (0..rows.count).step_by(ROWS) {
            prefetch(s, ahead.next().unwrap_or(&[]));
            for (i, panel) in these.chunks_exact(row_words).enumerate() {
                let to = sums.0.as_flattened_mut();
                unit.multiply(numbers, rows.words, rows.stride, first, panel, to, PANEL);
                let start = (first_panel + i) * PANEL;
                finish(first..rows.count.min(first + ROWS), start..n.min(start + PANEL), &mut sums);
            }
        }
    }
}

/// Starts loading panels into the second-level cache.
#[inline(always)]
fn prefetch<S: Simd>(s: S, panels: &[PanelRow]) {
    for row in panels {
        s.prefetch(&row.0[0]);
        s.prefetch(&row.0[PANEL / 2]);
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
