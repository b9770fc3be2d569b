//! Exact nearest rows by cosine.
//!
//! A pass in whole numbers over all rows finds every row that could be among the best, because its error is known:
//! with the row `u` of length 1 and its int8 form `v`, the query `q` of length 1 and its int16 form `p`,
//! `q.u - p.v = q.(u - v) + (q - p).v`, so by Cauchy-Schwarz `|q.u - p.v| <= |u - v| + |q - p| (1 + |u - v|)`. Only
//! those rows are scored again from their f16 numbers, so the result is that of scoring all rows from f16.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;
use haul_kernels::dot::{self, BYTE_CENTRE, ByteQuery};
use haul_kernels::isa::Isa;
use zerocopy::IntoBytes;

use crate::payload::check_of;

/// A query of length 1.
pub(crate) struct Query {
    isa: Isa,
    unit: Vec<f32>,
    bytes: ByteQuery,
}

/// A row and its cosine to the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scored {
    pub(crate) chunk_id: i64,
    pub(crate) score: f32,
}

/// Rows as a segment holds them; the row at `i` belongs to chunk `chunk_ids[i]`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) dim: usize,
    /// `[rows]`
    pub(crate) chunk_ids: &'a [i64],
    /// `[rows]`, row of length 1 = scale x codes + residual
    pub(crate) scales: &'a [f32],
    /// `[rows]`, length of the residual
    pub(crate) residuals: &'a [f32],
    /// `[rows]`, 1 / length of the f16 row
    pub(crate) inverse_norms: &'a [f32],
    /// `[rows]`, checks of the f16 rows
    pub(crate) row_checks: &'a [i64],
    /// `[rows, dim / 4 rounded up]`, words of four bytes; a byte is a code + 128
    pub(crate) codes: &'a [u32],
    /// `[rows, dim]`
    pub(crate) halves: &'a [f16],
}

/// A row whose f16 numbers are not those that were stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Damaged {
    /// Its place among the rows.
    pub(crate) row: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn halves_of(&self, row: usize) -> &'a [f16] {
        &self.halves[row * self.dim..][..self.dim]
    }

    /// Whether the f16 numbers of a row are those that were stored.
    pub(crate) fn is_whole(&self, row: usize) -> bool {
        check_of(blake3::hash(self.halves_of(row).as_bytes()).as_bytes()) == self.row_checks[row]
    }
}

/// The `k` best of the allowed rows: best first, among equals the lower chunk first.
///
/// # Errors
/// A row that could be among them is damaged.
pub(crate) fn nearest(
    rows: Rows<'_>,
    query: &Query,
    allowed: Option<&ChunkSet>,
    k: usize,
    threads: usize,
) -> Result<Vec<Scored>, Damaged> {
    if k == 0 || rows.chunk_ids.is_empty() {
        return Ok(Vec::new());
    }
    // Each thread takes a share when it is done with one, so a core that other work slows down takes fewer.
    let shares = rows.chunk_ids.len().div_ceil(SHARE_ROWS);
    let next = &AtomicUsize::new(0);
    let scan = || {
        let mut coarse = Coarse::new(k);
        loop {
            let start = next.fetch_add(1, Ordering::Relaxed) * SHARE_ROWS;
            if start >= rows.chunk_ids.len() {
                return coarse;
            }
            coarse.scan(rows, start..(start + SHARE_ROWS).min(rows.chunk_ids.len()), query, allowed);
        }
    };
    let parts: Vec<Coarse> = std::thread::scope(|scope| {
        let scans: Vec<_> = (0..threads.clamp(1, shares)).map(|_| scope.spawn(scan)).collect();
        scans.into_iter().map(|scan| scan.join().expect("a scan does not panic")).collect()
    });
    let floor = kth_best(parts.iter().flat_map(|part| part.lowers.iter().map(|lower| lower.0.0)), k);
    let mut candidates: Vec<&Candidate> =
        parts.iter().flat_map(|part| &part.candidates).filter(|candidate| candidate.upper >= floor).collect();
    candidates.sort_unstable_by(|a, b| b.upper.total_cmp(&a.upper));
    let mut best = Vec::new();
    let mut exact = BinaryHeap::with_capacity(k + 1);
    for &&Candidate { row, upper } in &candidates {
        if exact.len() == k && exact.peek().is_some_and(|Reverse(Ordered(kth))| upper < *kth) {
            // Nor can any row after it, whose bound is not higher.
            break;
        }
        if !rows.is_whole(row) {
            return Err(Damaged { row });
        }
        let score = query.score(rows.halves_of(row), rows.inverse_norms[row]);
        best.push(Scored { chunk_id: rows.chunk_ids[row], score });
        exact.push(Reverse(Ordered(score)));
        if exact.len() > k {
            exact.pop();
        }
    }
    keep_best(&mut best, k);
    Ok(best)
}

/// Sorts best first, among equals the lower chunk first, and keeps `k`.
pub(crate) fn keep_best(scored: &mut Vec<Scored>, k: usize) {
    scored.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk_id.cmp(&b.chunk_id)));
    scored.truncate(k);
}

impl Query {
    /// `None` for a vector without a direction: a number is not finite, or all are zero.
    pub(crate) fn new(isa: Isa, vector: &[f32]) -> Option<Self> {
        let norm = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if !norm.is_finite() || norm == 0.0 {
            return None;
        }
        let unit: Vec<f32> = vector.iter().map(|&x| (f64::from(x) / norm) as f32).collect();
        Some(Self { isa, bytes: ByteQuery::new(&unit), unit })
    }

    /// Cosine to a row of f16 numbers.
    pub(crate) fn score(&self, row: &[f16], inverse_norm: f32) -> f32 {
        dot::f16(self.isa, row, &self.unit) * inverse_norm
    }
}

/// Little-endian f16 numbers, as the table `vectors` holds them.
pub(crate) fn decode_row(bytes: &[u8]) -> Vec<f16> {
    bytes.as_chunks().0.iter().map(|pair| f16::from_le_bytes(*pair)).collect()
}

/// All numbers finite, not all zero.
pub(crate) fn is_direction(row: &[f16]) -> bool {
    row.iter().all(|x| x.is_finite()) && row.iter().any(|x| *x != f16::ZERO && *x != f16::NEG_ZERO)
}

/// 1 / length. The row must be a direction.
pub(crate) fn inverse_norm(row: &[f16]) -> f32 {
    (1.0 / row.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>().sqrt()) as f32
}

/// Bytes of a row of codes, which is whole words.
pub(crate) fn code_bytes(dim: usize) -> usize {
    dim.next_multiple_of(size_of::<u32>())
}

/// Scale and length of the residual of a row in int8, whose numbers go into `codes`.
pub(crate) fn quantise(row: &[f16], inverse_norm: f32, codes: &mut [u8]) -> (f32, f32) {
    let unit = |x: &f16| x.to_f32() * inverse_norm;
    let largest = row.iter().map(|x| unit(x).abs()).fold(0.0, f32::max);
    let scale = largest / f32::from(i8::MAX);
    let mut residual = 0.0_f64;
    for (x, code) in row.iter().zip(codes) {
        let x = unit(x);
        let number = (x / scale).round().clamp(-127.0, 127.0) as i8;
        *code = number.cast_unsigned().wrapping_add(BYTE_CENTRE);
        let rest = f64::from(x) - f64::from(scale) * f64::from(number);
        residual += rest * rest;
    }
    (scale, residual.sqrt() as f32)
}

/// Chunks a search may return.
pub(crate) struct ChunkSet {
    words: Vec<u64>,
}

impl ChunkSet {
    pub(crate) fn of(chunk_ids: impl IntoIterator<Item = i64>) -> Self {
        let mut words = Vec::new();
        for id in chunk_ids {
            let Some((word, bit)) = Self::place(id) else { continue };
            if words.len() <= word {
                words.resize(word + 1, 0);
            }
            words[word] |= bit;
        }
        Self { words }
    }

    pub(crate) fn contains(&self, chunk_id: i64) -> bool {
        Self::place(chunk_id)
            .is_some_and(|(word, bit)| self.words.get(word).is_some_and(|bits| bits & bit != 0))
    }

    /// `None` for a negative id, which no sound library has.
    fn place(chunk_id: i64) -> Option<(usize, u64)> {
        Some((usize::try_from(chunk_id / 64).ok()?, 1_u64.checked_shl((chunk_id % 64).try_into().ok()?)?))
    }
}

/// Rows that a thread takes at once: a fraction of a millisecond.
const SHARE_ROWS: usize = 128 * BLOCK_ROWS;

/// What one thread found in its shares of the int8 pass.
struct Coarse {
    k: usize,
    /// The `k` best lower bounds, the least of them on top.
    lowers: BinaryHeap<Reverse<Ordered>>,
    candidates: Vec<Candidate>,
    prune_at: usize,
    /// The least of `k` lower bounds: no row below it can be among the best.
    floor: f32,
}

struct Candidate {
    row: usize,
    /// The row's score is not above this.
    upper: f32,
}

/// Candidates a thread gathers before it drops those that fell behind.
const CANDIDATES_BEFORE_PRUNE: usize = 4096;

impl Coarse {
    fn new(k: usize) -> Self {
        Self {
            k,
            lowers: BinaryHeap::with_capacity(k + 1),
            candidates: Vec::new(),
            prune_at: CANDIDATES_BEFORE_PRUNE.max(2 * k),
            floor: f32::NEG_INFINITY,
        }
    }

    fn scan(&mut self, rows: Rows<'_>, range: Range<usize>, query: &Query, allowed: Option<&ChunkSet>) {
        let slack = rounding_slack(rows.dim) + query.bytes.residual();
        let stretch = 1.0 + query.bytes.residual();
        let mut products = [0.0; BLOCK_ROWS];
        for row in range.clone() {
            let in_block = (row - range.start) % BLOCK_ROWS;
            if in_block == 0 {
                multiply(rows, row..range.end, query, allowed, &mut products);
            }
            let score = rows.scales[row] * products[in_block];
            let error = rows.residuals[row] * stretch + slack;
            // Written so that a product that is none, of a row that is not allowed, goes too.
            let is_near = score + error >= self.floor;
            if is_near {
                self.take(Candidate { row, upper: score + error }, score - error);
            }
        }
    }

    fn take(&mut self, candidate: Candidate, lower: f32) {
        self.candidates.push(candidate);
        self.lowers.push(Reverse(Ordered(lower)));
        if self.lowers.len() > self.k {
            self.lowers.pop();
            self.floor = self.lowers.peek().map_or(self.floor, |lower| lower.0.0);
        }
        if self.candidates.len() > self.prune_at {
            self.candidates.retain(|candidate| candidate.upper >= self.floor);
            self.prune_at = self.prune_at.max(2 * self.candidates.len());
        }
    }
}

/// Rows that are multiplied by one call.
const BLOCK_ROWS: usize = 64;

/// Products of the query with the first rows of `range`, in units of the row's scale; NaN for rows that are not allowed.
fn multiply(
    rows: Rows<'_>,
    range: Range<usize>,
    query: &Query,
    allowed: Option<&ChunkSet>,
    products: &mut [f32; BLOCK_ROWS],
) {
    let block = range.start..range.end.min(range.start + BLOCK_ROWS);
    let products = &mut products[..block.len()];
    let is_allowed = |chunk_id: &i64| allowed.is_none_or(|allowed| allowed.contains(*chunk_id));
    if allowed.is_some() && !rows.chunk_ids[block.clone()].iter().any(is_allowed) {
        return products.fill(f32::NAN);
    }
    let words = query.bytes.words();
    dot::bytes(query.isa, &rows.codes[block.start * words..block.end * words], &query.bytes, products);
    for (product, chunk_id) in products.iter_mut().zip(&rows.chunk_ids[block]) {
        *product = if is_allowed(chunk_id) { *product * query.bytes.scale() } else { f32::NAN };
    }
}

/// More than f32 rounding can add to the two computed scores of one row: a sum of n products in any order errs
/// by at most n u |a||b| with u = 2^-24 (Higham, Accuracy and Stability, 3.1), here with |a| <= 2, |b| = 1.
fn rounding_slack(dim: usize) -> f32 {
    const UNIT_ROUNDOFF: f32 = f32::EPSILON / 2.0;
    4.0 * (dim as f32 + 16.0) * UNIT_ROUNDOFF
}

/// The `k`-th largest, or negative infinity when there are fewer.
fn kth_best(values: impl Iterator<Item = f32>, k: usize) -> f32 {
    let mut values: Vec<f32> = values.collect();
    if values.len() < k {
        return f32::NEG_INFINITY;
    }
    *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// f32 in its total order.
#[derive(Clone, Copy, PartialEq)]
struct Ordered(f32);

impl Eq for Ordered {}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a segment holds, in memory.
    #[derive(Debug)]
    struct Table {
        dim: usize,
        chunk_ids: Vec<i64>,
        scales: Vec<f32>,
        residuals: Vec<f32>,
        inverse_norms: Vec<f32>,
        row_checks: Vec<i64>,
        codes: Vec<u32>,
        halves: Vec<f16>,
    }

    impl Table {
        fn of(dim: usize, halves: Vec<f16>) -> Self {
            let count = halves.len() / dim;
            let mut table = Self {
                dim,
                // Neither in order nor without gaps.
                chunk_ids: (0..count as i64).map(|row| (row * 7919) % 100_003 + 1).collect(),
                scales: Vec::new(),
                residuals: Vec::new(),
                inverse_norms: Vec::new(),
                row_checks: Vec::new(),
                codes: vec![0; count * code_bytes(dim) / 4],
                halves,
            };
            for (row, codes) in table.halves.chunks(dim).zip(table.codes.chunks_mut(code_bytes(dim) / 4)) {
                let inverse = inverse_norm(row);
                let (scale, residual) = quantise(row, inverse, codes.as_mut_bytes());
                table.inverse_norms.push(inverse);
                table.scales.push(scale);
                table.residuals.push(residual);
                table.row_checks.push(check_of(blake3::hash(row.as_bytes()).as_bytes()));
            }
            table
        }

        fn rows(&self) -> Rows<'_> {
            Rows {
                dim: self.dim,
                chunk_ids: &self.chunk_ids,
                scales: &self.scales,
                residuals: &self.residuals,
                inverse_norms: &self.inverse_norms,
                row_checks: &self.row_checks,
                codes: &self.codes,
                halves: &self.halves,
            }
        }

        /// Every row scored from f16.
        fn plain_scan(&self, query: &Query, allowed: Option<&ChunkSet>, k: usize) -> Vec<Scored> {
            let mut scored: Vec<_> = self
                .halves
                .chunks(self.dim)
                .zip(&self.chunk_ids)
                .filter(|(_, chunk_id)| allowed.is_none_or(|allowed| allowed.contains(**chunk_id)))
                .map(|(row, &chunk_id)| Scored { chunk_id, score: query.score(row, inverse_norm(row)) })
                .collect();
            keep_best(&mut scored, k);
            scored
        }
    }

    /// Numbers between 1e-4 and 1e4 of either sign: rows of very different lengths, with outliers.
    fn number() -> impl Strategy<Value = f16> {
        (-4.0..4.0_f32, any::<bool>()).prop_map(|(exponent, negative)| {
            let magnitude = 10.0_f32.powf(exponent);
            f16::from_f32(if negative { -magnitude } else { magnitude })
        })
    }

    prop_compose! {
        fn table()(dim in 1..70_usize, rows in 1..300_usize)(
            halves in prop::collection::vec(number(), dim * rows),
            copies in prop::collection::vec((0..rows, 0..rows), 0..rows),
            dim in Just(dim),
        ) -> Table {
            let mut halves = halves;
            for (from, to) in copies {
                halves.copy_within(from * dim..(from + 1) * dim, to * dim);
            }
            Table::of(dim, halves)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_int8_pass_loses_nothing(
            table in table(), seed in prop::collection::vec(-1.0..1.0_f32, 70), k in 1..50_usize, threads in 1..5_usize
        ) {
            for isa in Isa::available() {
                let Some(query) = Query::new(isa, &seed[..table.dim]) else { continue };
                let odd = ChunkSet::of(table.chunk_ids.iter().copied().filter(|id| id % 2 == 1));
                for allowed in [None, Some(&odd)] {
                    let found = nearest(table.rows(), &query, allowed, k, threads).unwrap();
                    prop_assert_eq!(found, table.plain_scan(&query, allowed, k), "{}", isa.name());
                }
            }
        }
    }

    /// Wide rows, enough of them to prune candidates, and the query among them.
    #[test]
    fn many_wide_rows() {
        let (dim, count) = (384, 20_000);
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let table = Table::of(dim, (0..dim * count).map(|_| f16::from_f32(next())).collect());
        let query: Vec<f32> = table.halves[dim * 77..][..dim].iter().map(|x| x.to_f32()).collect();
        let query = Query::new(Isa::best(), &query).unwrap();
        for k in [1, 10, 100] {
            let found = nearest(table.rows(), &query, None, k, 2).unwrap();
            assert_eq!(found, table.plain_scan(&query, None, k));
            assert_eq!(found[0].chunk_id, table.chunk_ids[77]);
        }
        let mut coarse = Coarse::new(100);
        coarse.scan(table.rows(), 0..count, &query, None);
        let rescored = coarse.candidates.len();
        assert!(rescored < count / 4, "{rescored} of {count} rows are scored again");
    }

    /// Each row beats all before it, so every row is a candidate when it comes and the gathered ones are pruned.
    #[test]
    fn rows_in_rising_order() {
        let (dim, count, k) = (16, 30_000, 4_000);
        let row = |number: usize| {
            let angle = 1.5 * (1.0 - number as f32 / count as f32);
            let mut row = [f16::ZERO; 16];
            (row[0], row[1]) = (f16::from_f32(angle.cos()), f16::from_f32(angle.sin()));
            row
        };
        let table = Table::of(dim, (0..count).flat_map(row).collect());
        let mut query = [0.0; 16];
        query[0] = 1.0;
        let query = Query::new(Isa::best(), &query).unwrap();
        assert_eq!(nearest(table.rows(), &query, None, k, 1), Ok(table.plain_scan(&query, None, k)));
        let mut coarse = Coarse::new(k);
        coarse.scan(table.rows(), 0..count, &query, None);
        let kept = coarse.candidates.len();
        assert!(kept < count / 2, "{kept} of {count} rows are kept");
    }

    #[test]
    fn queries_without_a_direction() {
        for vector in [vec![0.0; 3], vec![], vec![1.0, f32::NAN], vec![f32::INFINITY, 1.0]] {
            assert!(Query::new(Isa::best(), &vector).is_none(), "{vector:?}");
        }
        assert!(Query::new(Isa::best(), &[1e-30, 0.0]).is_some());
    }
}
