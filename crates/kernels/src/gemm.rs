//! Linear layers: products with weights packed once, bias, activation and residual in the same call.

mod pack;
pub(crate) mod rows;
#[cfg(target_arch = "x86_64")]
mod tiled;

use crate::act::{self, Accuracy, Activation};
use crate::isa::Isa;
use crate::simd::{DotKernel, Dots, Kernel, Simd};
use crate::tile::{
    Bf16, BlockRow, F32, I16, K_BLOCK, Numbers, PANEL, PREFETCH_EVERY, PanelRow, Product, U8I8, WidenedBf16,
    multiply, tiles, with_tile_rows,
};
pub use pack::PackedWeight;
#[cfg(target_arch = "x86_64")]
pub(crate) use pack::tile_numbers;
use rows::{Mode, RowScale};
use std::ops::Range;

use crate::dtype::Dtype;

/// Packed rows that share one reading of the weights stay in the second-level cache beside them: half of the
/// smallest such cache in use.
const ROW_BLOCK_BYTES: usize = 384 << 10;

/// Rows of a block, whatever their width: enough to be worth reading the weights once more, and few enough that
/// the results of a panel stay in the first two caches until their epilogue.
const ROW_BLOCK: std::ops::RangeInclusive<usize> = 48..=384;

/// What happens to a product before it is handed back, in this order: bias, activation, residual.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// `[out_features]`
    pub bias: Option<&'a [f32]>,
    /// Applied to product + bias.
    pub activation: Activation,
    /// `[rows, out_features]`, added after the activation.
    pub residual: Option<&'a [f32]>,
}

/// Working memory of [`linear`]: grows to what one block of rows needs and is then reused. One per thread.
#[derive(Debug, Default)]
pub struct Scratch {
    /// For each [`K_BLOCK`] words of a row, the rows of a block.
    words: Vec<BlockRow>,
    scales: Vec<RowScale>,
    /// What stands between two layers, as the rows of a block.
    hidden: Vec<BlockRow>,
    /// The same as numbers.
    hidden_values: Vec<f32>,
    /// Sums that are not whole yet.
    #[cfg(target_arch = "x86_64")]
    partial: Vec<crate::amx::Sums>,
}

impl Scratch {
    /// Empty; the first call grows it.
    pub fn new() -> Self {
        Scratch::default()
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        (self.words.capacity() + self.hidden.capacity()) * size_of::<BlockRow>()
            + self.scales.capacity() * size_of::<RowScale>()
            + self.hidden_values.capacity() * size_of::<f32>()
            + self.partial_bytes()
    }

    #[cfg(target_arch = "x86_64")]
    fn partial_bytes(&self) -> usize {
        self.partial.capacity() * size_of::<crate::amx::Sums>()
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn partial_bytes(&self) -> usize {
        0
    }
}

/// `out[rows, out_features] = activation(x[rows, in_features] . W^T + bias) + residual`, with the products of the
/// weight's dtype.
///
/// A row's result depends on nothing but that row, the weight and the epilogue, bit for bit on one `Isa`.
///
/// # Panics
/// When a slice is not as long as its shape says, or the weight was packed for an `Isa` with other panels.
pub fn linear(
    isa: Isa,
    x: &[f32],
    rows: usize,
    weight: &PackedWeight,
    epilogue: Epilogue<'_>,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let (n, k) = (weight.out_features(), weight.in_features());
    assert_eq!(x.len(), rows * k, "x [{rows}, {k}]");
    assert_eq!(out.len(), rows * n, "out [{rows}, {n}]");
    assert!(epilogue.bias.is_none_or(|bias| bias.len() == n), "bias [{n}]");
    assert!(epilogue.residual.is_none_or(|r| r.len() == rows * n), "residual [{rows}, {n}]");
    let call = Linear { x, weight, epilogue, scratch, out };
    match (isa, weight.tiles()) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx(proof), Some(numbers)) => {
            return proof.base.enter_dots(tiled::Tiled::new(proof, numbers, call));
        }
        (_, None) => {}
        (_, Some(numbers)) => panic!("{} has no products of {numbers:?}", isa.name()),
    }
    match weight.dtype() {
        Dtype::F32 => isa.run(call),
        Dtype::Bf16 | Dtype::Int16 | Dtype::Int8 => isa.run_dots(call),
    }
}

/// Two linear layers one after the other: `activation(x . up^T + up_bias) . down^T + down_bias + residual`.
#[derive(Clone, Copy, Debug)]
pub struct FeedForward<'a> {
    /// The first layer.
    pub up: &'a PackedWeight,
    /// Of the first layer: `[up.out_features]`
    pub up_bias: Option<&'a [f32]>,
    /// Between the layers.
    pub activation: Activation,
    /// The second layer, whose inputs are the first one's outputs.
    pub down: &'a PackedWeight,
    /// Of the second layer: `[down.out_features]`
    pub down_bias: Option<&'a [f32]>,
    /// `[rows, down.out_features]`
    pub residual: Option<&'a [f32]>,
}

/// What stands between two layers stays in the second-level cache.
const HIDDEN_BYTES: usize = 768 << 10;

/// What two calls of [`linear`] give, bit for bit, without a place for what stands between the layers: `out`
/// `[rows, down.out_features]` of `x` `[rows, up.in_features]`.
///
/// # Panics
/// When a slice is not as long as its shape says, or a weight was packed for an `Isa` with other panels.
pub fn feed_forward(
    isa: Isa,
    x: &[f32],
    rows: usize,
    layers: FeedForward<'_>,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let FeedForward { up, up_bias, activation, down, down_bias, residual } = layers;
    let (n, k, hidden) = (down.out_features(), up.in_features(), up.out_features());
    assert_eq!(down.in_features(), hidden, "the second layer's inputs");
    assert_eq!(x.len(), rows * k, "x [{rows}, {k}]");
    assert_eq!(out.len(), rows * n, "out [{rows}, {n}]");
    assert!(up_bias.is_none_or(|bias| bias.len() == hidden), "bias [{hidden}]");
    assert!(down_bias.is_none_or(|bias| bias.len() == n), "bias [{n}]");
    assert!(residual.is_none_or(|r| r.len() == rows * n), "residual [{rows}, {n}]");
    #[cfg(target_arch = "x86_64")]
    if let (Isa::Amx(proof), Some(Numbers::Bf16), Some(Numbers::Bf16)) = (isa, up.tiles(), down.tiles()) {
        return proof.base.enter_dots(tiled::TiledFeedForward::new(proof, x, layers, scratch, out));
    }
    let block_rows = (HIDDEN_BYTES / (hidden * size_of::<f32>())).clamp(*ROW_BLOCK.start(), *ROW_BLOCK.end());
    let mut values = std::mem::take(&mut scratch.hidden_values);
    values.resize(block_rows.min(rows) * hidden, 0.0);
    let mut residual = residual.map(|residual| residual.chunks(block_rows * n));
    for (x, out) in x.chunks(block_rows * k).zip(out.chunks_mut(block_rows * n)) {
        let rows = out.len() / n;
        let values = &mut values[..rows * hidden];
        let epilogue = Epilogue { bias: up_bias, activation, residual: None };
        linear(isa, x, rows, up, epilogue, scratch, values);
        let residual = residual.as_mut().and_then(Iterator::next);
        let epilogue = Epilogue { bias: down_bias, activation: Activation::Identity, residual };
        linear(isa, values, rows, down, epilogue, scratch, out);
    }
    scratch.hidden_values = values;
}

struct Linear<'a> {
    x: &'a [f32],
    weight: &'a PackedWeight,
    epilogue: Epilogue<'a>,
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
}

impl Kernel for Linear<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.multiply(s, F32);
    }
}

impl DotKernel for Linear<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, D: Dots<S>>(self, s: S, dots: D) {
        match self.weight.dtype() {
            Dtype::F32 => unreachable!("f32 has kernels of its own"),
            Dtype::Bf16 if D::HAS_BF16 => self.multiply(s, Bf16(dots)),
            Dtype::Bf16 => self.multiply(s, WidenedBf16),
            Dtype::Int16 => self.multiply(s, I16(dots)),
            Dtype::Int8 => self.multiply(s, U8I8(dots)),
        }
    }
}

impl Linear<'_> {
    #[inline(always)]
    fn multiply<S: Simd, M: Mode<S> + Product<S, Acc = M::Sum>>(self, s: S, mode: M) {
        let Linear { x, weight, epilogue, scratch, out } = self;
        let (n, k) = (weight.out_features(), weight.in_features());
        let row_words = weight.height() * M::ROW_WORDS;
        let block_rows = block_rows(row_words);
        let mut residual = epilogue.residual.map(|residual| residual.chunks(block_rows * n));
        for (x, out) in x.chunks(block_rows * k).zip(out.chunks_mut(block_rows * n)) {
            let rows = out.len() / n;
            let block = Block { rows, stride: rows, k, row_words };
            block.pack(s, mode, x, weight.row_max(), scratch);
            let residual = residual.as_mut().and_then(Iterator::next);
            let mut panels = weight.panels();
            for start in (0..n).step_by(PANEL) {
                let (panel, next) = panels.split_at(weight.height());
                let columns = start..n.min(start + PANEL);
                let bias = epilogue.bias;
                if epilogue.activation == Activation::Identity {
                    let layer = Layer { weight, bias, residual, columns };
                    block.multiply(s, mode, scratch, panel, next, &layer, out);
                } else {
                    let layer = Layer { weight, bias, residual: None, columns: columns.clone() };
                    block.multiply(s, mode, scratch, panel, next, &layer, out);
                    finish(s, epilogue.activation, M::ACCURACY, residual, columns, out, n);
                }
                panels = next;
            }
        }
    }
}

/// Rows of a block of rows of so many words.
fn block_rows(row_words: usize) -> usize {
    (ROW_BLOCK_BYTES / (row_words * size_of::<u32>())).clamp(*ROW_BLOCK.start(), *ROW_BLOCK.end())
}

/// The shape of a block of packed rows.
#[derive(Clone, Copy)]
struct Block {
    rows: usize,
    /// Room for rows in each block of words.
    stride: usize,
    /// Elements of a row.
    k: usize,
    /// Words of a row.
    row_words: usize,
}

/// What a panel's sums are finished with.
struct Layer<'a> {
    weight: &'a PackedWeight,
    bias: Option<&'a [f32]>,
    /// Of the rows of the block, where nothing stands between the bias and it.
    residual: Option<&'a [f32]>,
    /// Outputs of the panel.
    columns: Range<usize>,
}

impl Block {
    #[inline(always)]
    fn pack<S: Simd, M: Mode<S>>(self, s: S, mode: M, x: &[f32], row_max: f32, scratch: &mut Scratch) {
        let blocks = self.row_words.div_ceil(K_BLOCK);
        if scratch.words.len() < blocks * self.stride {
            scratch.words.resize(blocks * self.stride, BlockRow::ZERO);
        }
        scratch.scales.clear();
        for (r, x) in x.chunks_exact(self.k).enumerate() {
            let scale = mode.scale(s, x, row_max);
            for (block, x) in x.chunks(M::ELEMENTS_PER_BLOCK).enumerate() {
                mode.pack(s, scale, x, &mut scratch.words[block * self.stride + r]);
            }
            scratch.scales.push(scale);
        }
    }

    /// The products of all rows with one panel; `next` is read after it and fetched meanwhile.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "one panel's work has these operands")]
    fn multiply<S: Simd, M: Mode<S> + Product<S, Acc = M::Sum>>(
        self,
        s: S,
        mode: M,
        scratch: &Scratch,
        panel: &[PanelRow],
        next: &[PanelRow],
        layer: &Layer<'_>,
        out: &mut [f32],
    ) {
        let columns = layer.columns.len();
        let tile_count = self.rows.div_ceil(S::TILE_ROWS);
        let share = panel.len().div_ceil(tile_count).min(panel.len() / PREFETCH_EVERY + 1);
        for column in (0..columns).step_by(2 * S::LANES) {
            let mut next = next.chunks(share);
            for (first, height) in tiles::<S>(self.rows) {
                let tile = Tile { block: self, first, column, panel, ahead: next.next().unwrap_or(&[]) };
                with_tile_rows!(height, S, product_tile::<S, M>(s, mode, scratch, tile, layer, out));
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Tile<'a> {
    block: Block,
    /// First row.
    first: usize,
    /// First column in the panel.
    column: usize,
    panel: &'a [PanelRow],
    ahead: &'a [PanelRow],
}

#[inline(always)]
fn product_tile<S: Simd, M: Mode<S> + Product<S, Acc = M::Sum>, const R: usize>(
    s: S,
    mode: M,
    scratch: &Scratch,
    tile: Tile<'_>,
    layer: &Layer<'_>,
    out: &mut [f32],
) {
    let Tile { block, first, column, panel, ahead } = tile;
    let acc = multiply::<S, M, R>(s, mode, &scratch.words, block.rows, first, panel, column, ahead);
    let n = layer.weight.out_features();
    let start = layer.columns.start + column;
    let end = layer.columns.end.min(start + 2 * S::LANES);
    let middle = end.min(start + S::LANES);
    let left = mode.layer(s, layer.weight, layer.bias, start..middle);
    let right = mode.layer(s, layer.weight, layer.bias, middle..end);
    let scales: &[RowScale; R] = scratch.scales[first..].first_chunk().expect("a scale for each row");
    // Each loop short enough to be unrolled: a sum that is picked by a number would leave its register.
    let mut sums = [[s.splat(0.0); 2]; R];
    for r in 0..R {
        sums[r] = [mode.finish(s, acc[r][0], scales[r], left), mode.finish(s, acc[r][1], scales[r], right)];
    }
    if end - start < 2 * S::LANES {
        let mut rows = [[0.0; PANEL]; R];
        for r in 0..R {
            s.store(sums[r][0], &mut rows[r]);
            s.store(sums[r][1], &mut rows[r][S::LANES..]);
        }
        return store_part(&rows, layer.residual, first, start..end, n, out);
    }
    if let Some(residual) = layer.residual {
        for r in 0..R {
            let residual = &residual[(first + r) * n + start..][..2 * S::LANES];
            sums[r][0] = s.add(sums[r][0], s.load(residual));
            sums[r][1] = s.add(sums[r][1], s.load(&residual[S::LANES..]));
        }
    }
    for r in 0..R {
        let out = &mut out[(first + r) * n + start..][..2 * S::LANES];
        s.store(sums[r][0], out);
        s.store(sums[r][1], &mut out[S::LANES..]);
    }
}

/// Stores the first sums of each row, residual added, as the outputs `columns` of the rows from `first`.
#[cold]
#[inline(never)]
fn store_part(
    sums: &[[f32; PANEL]],
    residual: Option<&[f32]>,
    first: usize,
    columns: Range<usize>,
    n: usize,
    out: &mut [f32],
) {
    for (row, sums) in sums.iter().enumerate() {
        let at = (first + row) * n + columns.start;
        let out = &mut out[at..][..columns.len()];
        out.copy_from_slice(&sums[..columns.len()]);
        if let Some(residual) = residual {
            for (out, residual) in out.iter_mut().zip(&residual[at..]) {
                *out += residual;
            }
        }
    }
}

/// Activation and residual of the outputs `columns` of a block of rows.
#[inline(always)]
fn finish<S: Simd>(
    s: S,
    activation: Activation,
    accuracy: Accuracy,
    residual: Option<&[f32]>,
    columns: Range<usize>,
    out: &mut [f32],
    n: usize,
) {
    act::apply_columns_with(s, activation, accuracy, out, n, columns.clone());
    if let Some(residual) = residual {
        for (out, residual) in out.chunks_exact_mut(n).zip(residual.chunks_exact(n)) {
            add(s, &mut out[columns.clone()], &residual[columns.clone()]);
        }
    }
}

/// `x += y`
#[inline(always)]
fn add<S: Simd>(s: S, x: &mut [f32], y: &[f32]) {
    for (x, y) in x.chunks_mut(S::LANES).zip(y.chunks(S::LANES)) {
        let sum = s.add(s.load_up_to(x, 0.0), s.load_up_to(y, 0.0));
        s.store_up_to(sum, x);
    }
}
