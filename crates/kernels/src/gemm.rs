//! Linear layers: f32 products with weights packed once, bias, activation and residual in the same call.

use crate::act::{self, Activation};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};
use crate::tile::{BlockRow, K_BLOCK, MAX_TILE_ROWS, PANEL, PanelRow, ROW_STRIDE, multiply, with_tile_rows};
use std::ops::Range;

/// Rows that share one reading of the weights; a block of them (150 KiB) stays in the second-level cache. A
/// multiple of every tile height.
const ROW_BLOCK: usize = 96;

/// Outputs computed for a block of rows before the next ones, so that their sums (192 KiB) stay in the
/// second-level cache between two blocks of `k`.
const OUTPUT_BLOCK: usize = 512;

/// The weight of a linear layer, in the panels of 32 outputs that the product reads.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    /// In the order in which the product reads them: for each block of outputs, for each block of `k`, the
    /// panels of these outputs over that `k`, padded with zeros to whole panels.
    panels: Vec<PanelRow>,
    out_features: usize,
    in_features: usize,
}

impl PackedWeight {
    /// Packs a weight `[out_features, in_features]`, row-major as PyTorch stores it.
    ///
    /// # Panics
    /// When `weight` is not `out_features * in_features` long, or either is zero.
    pub fn pack(weight: &[f32], out_features: usize, in_features: usize) -> Self {
        assert!(out_features > 0 && in_features > 0, "a weight of {out_features} x {in_features}");
        assert_eq!(weight.len(), out_features * in_features, "weight [{out_features}, {in_features}]");
        let mut panels = Vec::with_capacity(out_features.div_ceil(PANEL) * in_features);
        for outputs in blocks(out_features, OUTPUT_BLOCK) {
            for k_range in blocks(in_features, K_BLOCK) {
                for first in outputs.clone().step_by(PANEL) {
                    let width = PANEL.min(outputs.end - first);
                    for k in k_range.clone() {
                        let mut row = PanelRow::ZERO;
                        for (i, value) in row.0[..width].iter_mut().enumerate() {
                            *value = weight[(first + i) * in_features + k];
                        }
                        panels.push(row);
                    }
                }
            }
        }
        PackedWeight { panels, out_features, in_features }
    }

    /// Width of a result row.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Width of an input row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Memory held, padding included.
    pub fn bytes(&self) -> usize {
        size_of_val(self.panels.as_slice())
    }
}

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

/// `out[rows, out_features] = activation(x[rows, in_features] . W^T + bias) + residual`
///
/// A row's result depends on nothing but that row, the weight and the epilogue, bit for bit on one `Isa`.
///
/// # Panics
/// When a slice is not as long as its shape says.
pub fn linear(
    isa: Isa,
    x: &[f32],
    rows: usize,
    weight: &PackedWeight,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) {
    let (n, k) = (weight.out_features, weight.in_features);
    assert_eq!(x.len(), rows * k, "x [{rows}, {k}]");
    assert_eq!(out.len(), rows * n, "out [{rows}, {n}]");
    assert!(epilogue.bias.is_none_or(|bias| bias.len() == n), "bias [{n}]");
    assert!(epilogue.residual.is_none_or(|r| r.len() == rows * n), "residual [{rows}, {n}]");
    isa.run(Linear { x, weight, epilogue, out });
}

struct Linear<'a> {
    x: &'a [f32],
    weight: &'a PackedWeight,
    epilogue: Epilogue<'a>,
    out: &'a mut [f32],
}

impl Kernel for Linear<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (n, k) = (self.weight.out_features, self.weight.in_features);
        // A call for a few rows must not pay for clearing a block for many.
        let (mut few, mut many);
        let block: &mut [BlockRow] = if self.out.len() <= MAX_TILE_ROWS * n {
            few = [[0.0; ROW_STRIDE]; MAX_TILE_ROWS];
            &mut few
        } else {
            many = [[0.0; ROW_STRIDE]; ROW_BLOCK];
            &mut many
        };
        let x_blocks = self.x.chunks(ROW_BLOCK * k);
        let out_blocks = self.out.chunks_mut(ROW_BLOCK * n);
        for (block_no, (x, out)) in x_blocks.zip(out_blocks).enumerate() {
            let rows = &mut block[..out.len() / n];
            let mut panels = self.weight.panels.as_slice();
            for outputs in blocks(n, OUTPUT_BLOCK) {
                for k_range in blocks(k, K_BLOCK) {
                    for (row, x) in rows.iter_mut().zip(x.chunks_exact(k)) {
                        row[..k_range.len()].copy_from_slice(&x[k_range.clone()]);
                    }
                    let start_from = match k_range.start {
                        0 => Start::Bias(self.epilogue.bias.unwrap_or(&[])),
                        _ => Start::Sums,
                    };
                    for start in outputs.clone().step_by(PANEL) {
                        add_panel(s, rows, k_range.len(), panels, start_from, Target { out, n, start });
                        panels = &panels[k_range.len()..];
                    }
                }
                finish(s, self.epilogue, block_no * ROW_BLOCK, outputs, out, n);
            }
        }
    }
}

/// `0..end` in ranges of `step`, the last one shorter.
fn blocks(end: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..end).step_by(step).map(move |start| start..end.min(start + step))
}

/// What the sums of a block of `k` start from.
#[derive(Clone, Copy)]
enum Start<'a> {
    /// The first block: the bias, or empty for zeros.
    Bias(&'a [f32]),
    /// A later block: the sums so far, which stand in the result.
    Sums,
}

/// Where products go: the columns from `start` of rows `n` wide.
struct Target<'a> {
    out: &'a mut [f32],
    n: usize,
    start: usize,
}

/// Adds the products of all rows with the panel of height `k_len` at the head of `panels`; what follows it is
/// read next and fetched meanwhile.
#[inline(always)]
fn add_panel<S: Simd>(
    s: S,
    rows: &[BlockRow],
    k_len: usize,
    panels: &[PanelRow],
    start_from: Start<'_>,
    target: Target<'_>,
) {
    let (panel, next) = panels.split_at(k_len);
    let Target { out, n, start } = target;
    for column in (0..PANEL.min(n - start)).step_by(2 * S::LANES) {
        let mut next = next.chunks(k_len.div_ceil(ROW_BLOCK / S::TILE_ROWS));
        for (tile, out) in rows.chunks(S::TILE_ROWS).zip(out.chunks_mut(S::TILE_ROWS * n)) {
            let ahead = next.next().unwrap_or(&[]);
            let target = Target { out, n, start: start + column };
            with_tile_rows!(tile.len(), s: S, product_tile(tile, panel, column, ahead, start_from, target));
        }
    }
}

#[inline(always)]
fn product_tile<S: Simd, const R: usize>(
    s: S,
    rows: &[BlockRow],
    panel: &[PanelRow],
    column: usize,
    ahead: &[PanelRow],
    start_from: Start<'_>,
    target: Target<'_>,
) {
    let Target { out, n, start } = target;
    let end = n.min(start + 2 * S::LANES);
    let middle = end.min(start + S::LANES);
    let mut acc = [[s.splat(0.0); 2]; R];
    for (r, acc) in acc.iter_mut().enumerate() {
        let sums = match start_from {
            Start::Bias([]) => continue,
            Start::Bias(bias) => bias,
            Start::Sums => &out[r * n..][..n],
        };
        *acc = [s.load_up_to(&sums[start..middle], 0.0), s.load_up_to(&sums[middle..end], 0.0)];
    }
    let acc = multiply(s, rows, R, panel, column, ahead, acc);
    for (r, acc) in acc.iter().enumerate() {
        s.store_up_to(acc[0], &mut out[r * n + start..r * n + middle]);
        s.store_up_to(acc[1], &mut out[r * n + middle..r * n + end]);
    }
}

/// Activation and residual of the columns `outputs` of a block of rows, whose first is row `first_row` of the
/// residual.
#[inline(always)]
fn finish<S: Simd>(
    s: S,
    epilogue: Epilogue<'_>,
    first_row: usize,
    outputs: Range<usize>,
    out: &mut [f32],
    n: usize,
) {
    for (r, row) in out.chunks_exact_mut(n).enumerate() {
        let sums = &mut row[outputs.clone()];
        act::apply_with(s, epilogue.activation, sums);
        if let Some(residual) = epilogue.residual {
            add(s, sums, &residual[(first_row + r) * n..][outputs.clone()]);
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
