//! The product of a few rows with a panel of 32 columns, held in registers: the heart of `gemm` and `attention`.
//!
//! A matrix `[k, columns]` is kept as panels of [`PANEL`] columns: panel after panel, each `[k, PANEL]`, the
//! last one partly used. The rows stand in blocks of [`K_BLOCK`] elements at a fixed stride, so that one
//! pointer reaches all of them and no two rows compete for a cache set.
//! Each result is one chain of multiply-adds in the order of `k`, whatever tile it is computed in: that is
//! what makes every kernel above independent of the batch.

use crate::simd::Simd;

/// Columns of a packed panel: two vectors of AVX-512, two cache lines.
pub(crate) const PANEL: usize = 32;

/// Elements of `k` handled at once. A panel of this height is 48 KiB and streams from the second-level cache as
/// fast as it is used; rows of 384, a common width, are done in one block.
pub(crate) const K_BLOCK: usize = 384;

/// Floats from one row of a block to the next: one cache line more than a block, so that rows at equal `k`
/// lie in different cache sets.
pub(crate) const ROW_STRIDE: usize = K_BLOCK + 16;

/// Rows of the largest tile of any instruction set.
pub(crate) const MAX_TILE_ROWS: usize = 12;

/// One row of a block.
pub(crate) type BlockRow = [f32; ROW_STRIDE];

/// The `PANEL` columns of a panel at one `k`, on its own cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct PanelRow(pub(crate) [f32; PANEL]);

impl PanelRow {
    pub(crate) const ZERO: PanelRow = PanelRow([0.0; PANEL]);
}

/// `acc + rows . panel` over the two vectors of columns that start at `column`.
///
/// `rows` holds one block of `block_rows` rows for each [`K_BLOCK`] of the panel's height; the first `R` rows
/// of each block are used. `ahead` is fetched into the second-level cache meanwhile, one row in
/// [`PREFETCH_EVERY`] steps.
#[inline(always)]
pub(crate) fn multiply<S: Simd, const R: usize>(
    s: S,
    rows: &[BlockRow],
    block_rows: usize,
    panel: &[PanelRow],
    column: usize,
    ahead: &[PanelRow],
    mut acc: [[S::V; 2]; R],
) -> [[S::V; 2]; R] {
    assert!(column + 2 * S::LANES <= PANEL && R <= block_rows);
    assert!(rows.len() >= panel.len().div_ceil(K_BLOCK) * block_rows, "a block of rows for each block of k");
    for (block, panel) in rows.chunks(block_rows).zip(panel.chunks(K_BLOCK)) {
        let rows: &[BlockRow; R] = block.first_chunk().expect("a block has all its rows");
        let (groups, rest) = panel.as_chunks::<PREFETCH_EVERY>();
        for (group, panel) in groups.iter().enumerate() {
            if let Some(row) = ahead.get(group) {
                s.prefetch(&row.0[0]);
                s.prefetch(&row.0[PANEL / 2]);
            }
            for (i, columns) in panel.iter().enumerate() {
                step(s, rows, group * PREFETCH_EVERY + i, columns, column, &mut acc);
            }
        }
        for (i, columns) in rest.iter().enumerate() {
            step(s, rows, groups.len() * PREFETCH_EVERY + i, columns, column, &mut acc);
        }
    }
    acc
}

/// Multiply-add steps for each row of a panel that is fetched ahead: a tile fetches an eighth of a panel, which
/// the tiles of a block of rows share out among themselves.
const PREFETCH_EVERY: usize = 8;

/// `acc + rows . columns` for one `k`.
#[inline(always)]
fn step<S: Simd, const R: usize>(
    s: S,
    rows: &[BlockRow; R],
    k: usize,
    columns: &PanelRow,
    column: usize,
    acc: &mut [[S::V; 2]; R],
) {
    let b = [s.load(&columns.0[column..]), s.load(&columns.0[column + S::LANES..])];
    for r in 0..R {
        let a = s.splat(rows[r][k]);
        acc[r][0] = s.fma(a, b[0], acc[r][0]);
        acc[r][1] = s.fma(a, b[1], acc[r][1]);
    }
}

/// Calls `$function::<S, R>($arguments)` with `R` = `$rows`, which is at most the instruction set's `TILE_ROWS`.
macro_rules! with_tile_rows {
    ($rows:expr, $s:ident : $set:ident, $function:ident($($argument:expr),* $(,)?)) => {
        with_tile_rows!(@ $rows, $s, $set, $function, ($($argument),*), 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    (@ $rows:expr, $s:ident, $set:ident, $function:ident, $arguments:tt, $($count:literal)*) => {
        match $rows {
            $($count if $count <= $set::TILE_ROWS => {
                with_tile_rows!(@call $function, $set, $count, $s, $arguments)
            })*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
    (@call $function:ident, $set:ident, $count:literal, $s:ident, ($($argument:expr),*)) => {
        $function::<$set, $count>($s, $($argument),*)
    };
}
pub(crate) use with_tile_rows;
