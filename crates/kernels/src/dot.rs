//! Dot products of one stored row with a query, for scans that are bound by memory.

use crate::isa::Isa;
use crate::simd::{DotKernel, Dots, Kernel, MAX_LANES, Simd};
use half::f16;

/// Independent sums, to hide the latency of a multiply-add.
const SUMS: usize = 4;

/// `sum(a * b)` in f32.
///
/// # Panics
/// When the lengths differ.
pub fn f32(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    dot(isa, a, b)
}

/// `sum(row * query)`, the row widened to f32.
///
/// # Panics
/// When the lengths differ.
pub fn f16(isa: Isa, row: &[f16], query: &[f32]) -> f32 {
    dot(isa, row, query)
}

/// A query for [`bytes`]: its numbers in 16 bits and one scale, cut into a high and a low byte of either sign, because
/// the instructions multiply bytes.
#[derive(Clone, Debug)]
pub struct ByteQuery {
    /// Words of four numbers, zeros past the last.
    high: Vec<u32>,
    low: Vec<u32>,
    /// What the centre of the rows' bytes adds to every product.
    centre: i64,
    scale: f32,
    residual: f32,
}

/// The byte that stands for zero in a row.
pub const BYTE_CENTRE: u8 = 128;

/// Largest number of a query in two bytes of either sign: 127 x 256 + 127.
const QUERY_MAX: f32 = 32_639.0;

impl ByteQuery {
    /// The query must be finite.
    pub fn new(query: &[f32]) -> Self {
        let largest = query.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let scale = if largest > 0.0 { largest / QUERY_MAX } else { 1.0 };
        let numbers: Vec<i32> =
            query.iter().map(|x| (x / scale).round().clamp(-QUERY_MAX, QUERY_MAX) as i32).collect();
        let low = |number: &i32| ((number + 128) & 255) - 128;
        let words = |byte: &dyn Fn(&i32) -> i32| -> Vec<u32> {
            let word = |four: &[i32]| {
                let mut bytes = [0; 4];
                bytes.iter_mut().zip(four).for_each(|(to, number)| *to = byte(number) as u8);
                u32::from_le_bytes(bytes)
            };
            numbers.chunks(4).map(word).collect()
        };
        let lost = |(x, number): (&f32, &i32)| f64::from(*x) - f64::from(scale) * f64::from(*number);
        let residual: f64 = query.iter().zip(&numbers).map(lost).map(|lost| lost * lost).sum();
        Self {
            high: words(&|number| (number - low(number)) / 256),
            low: words(&low),
            centre: i64::from(BYTE_CENTRE) * numbers.iter().map(|&number| i64::from(number)).sum::<i64>(),
            scale,
            residual: residual.sqrt() as f32,
        }
    }

    /// Words of a row: four numbers each.
    pub fn words(&self) -> usize {
        self.high.len()
    }

    /// Query = scale x its numbers + residual.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Length of the residual.
    pub fn residual(&self) -> f32 {
        self.residual
    }
}

/// For each row, the exact `sum((byte - 128) * number of the query)`, rounded once to f32; the scales are the caller's.
/// A row is `query.words()` words of four bytes; what stands past its last number does not count.
///
/// # Panics
/// When `rows` is not as many rows as `out`.
pub fn bytes(isa: Isa, rows: &[u32], query: &ByteQuery, out: &mut [f32]) {
    assert_eq!(rows.len(), out.len() * query.words(), "dot products of {} rows", out.len());
    isa.run_dots(Bytes { rows, query, out });
}

struct Bytes<'a> {
    rows: &'a [u32],
    query: &'a ByteQuery,
    out: &'a mut [f32],
}

/// Rows multiplied side by side: each load of the query serves all of them.
const ROWS_TOGETHER: usize = 4;

impl DotKernel for Bytes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, D: Dots<S>>(self, s: S, dots: D) {
        let Bytes { rows, query, out } = self;
        let words = query.words();
        if words == 0 {
            return out.fill(0.0);
        }
        let mut groups = rows.chunks_exact(ROWS_TOGETHER * words);
        let mut sums = out.chunks_exact_mut(ROWS_TOGETHER);
        for (rows, sums) in (&mut groups).zip(&mut sums) {
            sums.copy_from_slice(&rows_together::<S, D, ROWS_TOGETHER>(s, dots, rows, query));
        }
        let rest = groups.remainder().chunks_exact(words).zip(sums.into_remainder());
        for (row, sum) in rest {
            [*sum] = rows_together::<S, D, 1>(s, dots, row, query);
        }
    }
}

#[inline(always)]
fn rows_together<S: Simd, D: Dots<S>, const R: usize>(
    s: S,
    dots: D,
    rows: &[u32],
    query: &ByteQuery,
) -> [f32; R] {
    let words = query.words();
    let mut sums = [[s.splat_word(0); 2]; R];
    let whole = words - words % S::LANES;
    let mut at = 0;
    while at < whole {
        let (high, low) = (s.load_words(&query.high[at..]), s.load_words(&query.low[at..]));
        for row in 0..R {
            let bytes = s.load_words(&rows[row * words + at..]);
            sums[row] = [dots.u8i8(sums[row][0], bytes, high), dots.u8i8(sums[row][1], bytes, low)];
        }
        at += S::LANES;
    }
    if whole < words {
        let (high, low) = (padded(s, &query.high[whole..]), padded(s, &query.low[whole..]));
        for row in 0..R {
            let bytes = padded(s, &rows[row * words + whole..][..words - whole]);
            sums[row] = [dots.u8i8(sums[row][0], bytes, high), dots.u8i8(sums[row][1], bytes, low)];
        }
    }
    let mut products = [0.0; R];
    for row in 0..R {
        let [high, low] = sums[row];
        products[row] = (256 * sum_words(s, high) + sum_words(s, low) - query.centre) as f32;
    }
    products
}

/// Fewer words than there are lanes, and zeros.
#[inline(always)]
fn padded<S: Simd>(s: S, words: &[u32]) -> S::I {
    let mut lanes = [0; MAX_LANES];
    lanes[..words.len()].copy_from_slice(words);
    s.load_words(&lanes)
}

/// Sum of the lanes, as i32.
#[inline(always)]
fn sum_words<S: Simd>(s: S, words: S::I) -> i64 {
    let mut lanes = [0; MAX_LANES];
    s.store_words(words, &mut lanes);
    let mut sum = 0;
    for lane in lanes {
        sum += i64::from(lane.cast_signed());
    }
    sum
}

fn dot<T: Element>(isa: Isa, row: &[T], query: &[f32]) -> f32 {
    assert_eq!(row.len(), query.len(), "dot product of different lengths");
    isa.run(Dot { row, query })
}

/// A stored type that widens to f32.
trait Element: Copy {
    const ZERO: Self;
    /// The first `LANES` elements.
    fn load<S: Simd>(s: S, row: &[Self]) -> S::V;
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[Self]) -> S::V {
        s.load(row)
    }
}

impl Element for f16 {
    const ZERO: Self = f16::ZERO;
    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[Self]) -> S::V {
        s.load_f16(row)
    }
}

struct Dot<'a, T> {
    row: &'a [T],
    query: &'a [f32],
}

impl<T: Element> Kernel for Dot<'_, T> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); SUMS];
        let mut rows = self.row.chunks_exact(SUMS * S::LANES);
        let mut queries = self.query.chunks_exact(SUMS * S::LANES);
        for (row, query) in (&mut rows).zip(&mut queries) {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = i * S::LANES;
                *sum = s.fma(T::load(s, &row[at..]), s.load(&query[at..]), *sum);
            }
        }
        let tail = rows.remainder().chunks(S::LANES).zip(queries.remainder().chunks(S::LANES));
        for (row, query) in tail {
            let mut lanes = [T::ZERO; MAX_LANES];
            lanes[..row.len()].copy_from_slice(row);
            sums[0] = s.fma(T::load(s, &lanes), s.load_up_to(query, 0.0), sums[0]);
        }
        s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
    }
}
