//! The product of a few rows with a panel of 32 columns, held in registers: the heart of `gemm` and `attention`.
//!
//! A matrix `[k, columns]` is kept as panels of [`PANEL`] columns: panel after panel, each as many [`PanelRow`]s as
//! its height in words, the last panel partly used. A word holds one f32, two 16-bit or four 8-bit numbers of
//! neighbouring `k`. The rows stand in blocks of [`K_BLOCK`] words at a fixed stride, so that one pointer reaches
//! all of them and no two rows compete for a cache set.
//! Each result is one chain of multiply-adds in the order of `k`, whatever tile it is computed in: that is
//! what makes every kernel above independent of the batch.

use crate::simd::{Dots, Simd};

/// Columns of a packed panel: two vectors of AVX-512, two cache lines.
pub(crate) const PANEL: usize = 32;

/// Words of a row that stand side by side. A panel of this height is 48 KiB.
pub(crate) const K_BLOCK: usize = 384;

/// Words from one row of a block to the next: one cache line more than a block, so that rows at equal `k`
/// lie in different cache sets.
const ROW_STRIDE: usize = K_BLOCK + 16;

/// Rows of the largest tile of any instruction set.
pub(crate) const MAX_TILE_ROWS: usize = 12;

/// Words of `k` in one step of the tile unit, where there is one: heights of panels are multiples of it there.
pub(crate) const TILE_STEP: usize = 16;

/// Pieces of 8 bits that an f32 is the sum of.
pub(crate) const PIECES: usize = 3;

/// The largest bf16.
pub(crate) const BF16_MAX: f32 = f32::from_bits(0x7F7F_0000);

/// What the words of rows and panels are in the tile unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Pairs of bf16; sums are f32.
    Bf16,
    /// Fours of u8 by fours of i8; sums are i32.
    U8I8,
    /// Pairs of f32, each as [`PIECES`] bf16: for every [`TILE_STEP`] words of pairs as many of the largest pieces,
    /// then of the next ones; sums are f32.
    Pieces,
}

/// One row of a block, on its own cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct BlockRow([u32; ROW_STRIDE]);

impl BlockRow {
    pub(crate) const ZERO: BlockRow = BlockRow([0; ROW_STRIDE]);
}

impl std::ops::Deref for BlockRow {
    type Target = [u32; ROW_STRIDE];

    #[inline(always)]
    fn deref(&self) -> &[u32; ROW_STRIDE] {
        &self.0
    }
}

impl std::ops::DerefMut for BlockRow {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u32; ROW_STRIDE] {
        &mut self.0
    }
}

/// The `PANEL` columns of a panel at one word of `k`, on its own cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct PanelRow(pub(crate) [u32; PANEL]);

impl PanelRow {
    pub(crate) const ZERO: PanelRow = PanelRow([0; PANEL]);
}

/// How numbers of one format are multiplied and summed.
pub(crate) trait Product<S: Simd>: Copy {
    /// Sums of a vector of columns.
    type Acc: Copy;
    /// A vector of columns of a panel row, as it is multiplied.
    type Columns: Copy;
    /// Words of a row for one word of a panel.
    const ROW_WORDS: usize;

    fn zero(self, s: S) -> Self::Acc;
    fn columns(self, s: S, words: &[u32]) -> Self::Columns;
    /// `acc + row . columns`, where the row's words start at `k`.
    fn step(
        self,
        s: S,
        acc: [Self::Acc; 2],
        row: &BlockRow,
        k: usize,
        columns: [Self::Columns; 2],
    ) -> [Self::Acc; 2];
}

/// f32 by f32.
#[derive(Clone, Copy)]
pub(crate) struct F32;

/// f32 by f32 in the tile unit, as [`Numbers::Pieces`].
#[derive(Clone, Copy)]
pub(crate) struct Pieces;

impl<S: Simd> Product<S> for F32 {
    type Acc = S::V;
    type Columns = S::V;
    const ROW_WORDS: usize = 1;

    #[inline(always)]
    fn zero(self, s: S) -> S::V {
        s.splat(0.0)
    }
    #[inline(always)]
    fn columns(self, s: S, words: &[u32]) -> S::V {
        s.as_f32(s.load_words(words))
    }
    #[inline(always)]
    fn step(self, s: S, acc: [S::V; 2], row: &BlockRow, k: usize, columns: [S::V; 2]) -> [S::V; 2] {
        let x = s.splat(f32::from_bits(row[k]));
        [s.fma(x, columns[0], acc[0]), s.fma(x, columns[1], acc[1])]
    }
}

/// Rows of f32 by pairs of bf16, widened once for all rows of the tile.
#[derive(Clone, Copy)]
pub(crate) struct WidenedBf16;

impl<S: Simd> Product<S> for WidenedBf16 {
    type Acc = S::V;
    type Columns = [S::V; 2];
    const ROW_WORDS: usize = 2;

    #[inline(always)]
    fn zero(self, s: S) -> S::V {
        s.splat(0.0)
    }
    #[inline(always)]
    fn columns(self, s: S, words: &[u32]) -> [S::V; 2] {
        let pairs = s.load_words(words);
        [s.low_bf16(pairs), s.high_bf16(pairs)]
    }
    #[inline(always)]
    fn step(self, s: S, acc: [S::V; 2], row: &BlockRow, k: usize, columns: [[S::V; 2]; 2]) -> [S::V; 2] {
        let [left, right] = columns;
        let even = s.splat(f32::from_bits(row[k]));
        let acc = [s.fma(even, left[0], acc[0]), s.fma(even, right[0], acc[1])];
        let odd = s.splat(f32::from_bits(row[k + 1]));
        [s.fma(odd, left[1], acc[0]), s.fma(odd, right[1], acc[1])]
    }
}

/// Pairs of bf16 by pairs of bf16.
#[derive(Clone, Copy)]
pub(crate) struct Bf16<D>(pub(crate) D);

impl<S: Simd, D: Dots<S>> Product<S> for Bf16<D> {
    type Acc = S::V;
    type Columns = S::I;
    const ROW_WORDS: usize = 1;

    #[inline(always)]
    fn zero(self, s: S) -> S::V {
        s.splat(0.0)
    }
    #[inline(always)]
    fn columns(self, s: S, words: &[u32]) -> S::I {
        s.load_words(words)
    }
    #[inline(always)]
    fn step(self, s: S, acc: [S::V; 2], row: &BlockRow, k: usize, columns: [S::I; 2]) -> [S::V; 2] {
        let x = s.splat_word(row[k]);
        [self.0.bf16(acc[0], x, columns[0]), self.0.bf16(acc[1], x, columns[1])]
    }
}

/// Pairs of i16 by pairs of i16.
#[derive(Clone, Copy)]
pub(crate) struct I16<D>(pub(crate) D);

impl<S: Simd, D: Dots<S>> Product<S> for I16<D> {
    type Acc = S::I;
    type Columns = S::I;
    const ROW_WORDS: usize = 1;

    #[inline(always)]
    fn zero(self, s: S) -> S::I {
        s.splat_word(0)
    }
    #[inline(always)]
    fn columns(self, s: S, words: &[u32]) -> S::I {
        s.load_words(words)
    }
    #[inline(always)]
    fn step(self, s: S, acc: [S::I; 2], row: &BlockRow, k: usize, columns: [S::I; 2]) -> [S::I; 2] {
        let x = s.splat_word(row[k]);
        [self.0.i16(acc[0], columns[0], x), self.0.i16(acc[1], columns[1], x)]
    }
}

/// Fours of u8 by fours of i8.
#[derive(Clone, Copy)]
pub(crate) struct U8I8<D>(pub(crate) D);

impl<S: Simd, D: Dots<S>> Product<S> for U8I8<D> {
    type Acc = S::I;
    type Columns = S::I;
    const ROW_WORDS: usize = 1;

    #[inline(always)]
    fn zero(self, s: S) -> S::I {
        s.splat_word(0)
    }
    #[inline(always)]
    fn columns(self, s: S, words: &[u32]) -> S::I {
        s.load_words(words)
    }
    #[inline(always)]
    fn step(self, s: S, acc: [S::I; 2], row: &BlockRow, k: usize, columns: [S::I; 2]) -> [S::I; 2] {
        let x = s.splat_word(row[k]);
        [self.0.u8i8(acc[0], x, columns[0]), self.0.u8i8(acc[1], x, columns[1])]
    }
}

/// `rows . panel` over the two vectors of columns that start at `column`.
///
/// `rows` holds one block of `block_rows` rows for each [`K_BLOCK`] words of the rows; the `R` rows from `first_row`
/// of each block are used. `ahead` is fetched into the second-level cache meanwhile, one row in [`PREFETCH_EVERY`]
/// steps.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the innermost product has these operands")]
pub(crate) fn multiply<S: Simd, P: Product<S>, const R: usize>(
    s: S,
    product: P,
    rows: &[BlockRow],
    block_rows: usize,
    first_row: usize,
    panel: &[PanelRow],
    column: usize,
    ahead: &[PanelRow],
) -> [[P::Acc; 2]; R] {
    assert!(column + 2 * S::LANES <= PANEL && first_row + R <= block_rows);
    let block_height = K_BLOCK / P::ROW_WORDS;
    assert!(
        rows.len() >= panel.len().div_ceil(block_height) * block_rows,
        "a block of rows for each block of k"
    );
    let mut acc = [[product.zero(s); 2]; R];
    // Not chunks, whose division by a number known only here costs more than a small tile.
    let mut rest = panel;
    let mut first = first_row;
    while !rest.is_empty() {
        let (panel, below) = rest.split_at(block_height.min(rest.len()));
        let rows: &[BlockRow; R] = rows[first..].first_chunk().expect("a block has all its rows");
        (rest, first) = (below, first + block_rows);
        let groups = panel.as_chunks::<PREFETCH_EVERY>().0;
        let fetched = groups.len().min(ahead.len());
        for (group, (panel, row)) in groups.iter().zip(ahead).enumerate() {
            s.prefetch(&row.0[0]);
            s.prefetch(&row.0[PANEL / 2]);
            for (i, columns) in panel.iter().enumerate() {
                step(s, product, rows, group * PREFETCH_EVERY + i, columns, column, &mut acc);
            }
        }
        for (k, columns) in panel.iter().enumerate().skip(fetched * PREFETCH_EVERY) {
            step(s, product, rows, k, columns, column, &mut acc);
        }
    }
    acc
}

/// Steps for each row of a panel that is fetched ahead: a tile fetches an eighth of a panel, which the tiles of a
/// block of rows share out among themselves.
pub(crate) const PREFETCH_EVERY: usize = 8;

/// `acc + rows . columns` for one word of `k`.
#[inline(always)]
fn step<S: Simd, P: Product<S>, const R: usize>(
    s: S,
    product: P,
    rows: &[BlockRow; R],
    k: usize,
    columns: &PanelRow,
    column: usize,
    acc: &mut [[P::Acc; 2]; R],
) {
    let columns =
        [product.columns(s, &columns.0[column..]), product.columns(s, &columns.0[column + S::LANES..])];
    for r in 0..R {
        acc[r] = product.step(s, acc[r], &rows[r], k * P::ROW_WORDS, columns);
    }
}

/// The heights of tiles, the largest first. A block of rows is cut into these; more of them would only be more code.
pub(crate) const TILE_HEIGHTS: [usize; 6] = [12, 8, 6, 4, 2, 1];

/// `(first row, height)` of the tiles of `rows` rows.
#[inline(always)]
pub(crate) fn tiles<S: Simd>(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let fits = |height: &&usize| **height <= S::TILE_ROWS && first + **height <= rows;
        let height = *TILE_HEIGHTS.iter().find(fits)?;
        first += height;
        Some((first - height, height))
    })
}

/// Calls `$function::<S, .., R>($arguments)` with `R` = `$rows`, one of [`TILE_HEIGHTS`] within the instruction set's
/// `TILE_ROWS`.
macro_rules! with_tile_rows {
    ($rows:expr, $set:ident, $function:ident::<$($type:ty),*>($($argument:expr),* $(,)?)) => {
        with_tile_rows!(@ $rows, $set, $function, ($($type),*), ($($argument),*), 1 2 4 6 8 12)
    };
    (@ $rows:expr, $set:ident, $function:ident, $types:tt, $arguments:tt, $($count:literal)*) => {
        match $rows {
            $($count if $count <= $set::TILE_ROWS => {
                with_tile_rows!(@call $function, $count, $types, $arguments)
            })*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
    (@call $function:ident, $count:literal, ($($type:ty),*), ($($argument:expr),*)) => {
        $function::<$($type,)* $count>($($argument),*)
    };
}
pub(crate) use with_tile_rows;
