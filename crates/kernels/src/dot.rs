//! Dot products of one stored row with a query, for scans that are bound by memory.

use crate::isa::Isa;
use crate::simd::{Kernel, MAX_LANES, Simd};
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

/// `sum(row * query)`, the row converted to f32; the scale of the row is the caller's.
///
/// # Panics
/// When the lengths differ.
pub fn i8(isa: Isa, row: &[i8], query: &[f32]) -> f32 {
    dot(isa, row, query)
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

impl Element for i8 {
    const ZERO: Self = 0;
    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[Self]) -> S::V {
        s.load_i8(row)
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
