//! Vectors of f32 behind one trait, so that each kernel is written once, in safe code.
//!
//! A kernel is a value that implements [`Kernel`]; `Isa::run` enters a function compiled for the instruction
//! set and calls it there. Everything a kernel calls with a `Simd` must be `#[inline(always)]`, closures
//! too: code that is not inlined into that function is compiled without its instructions, and runs fifty
//! times slower.

mod generic;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

pub(crate) use generic::Generic;
use half::f16;

/// The most lanes any instruction set here has.
pub(crate) const MAX_LANES: usize = 16;

/// Floats in a cache line of x86.
pub(crate) const CACHE_LINE_FLOATS: usize = 16;

/// Work to be done with whatever instruction set it is given.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Vector operations of one instruction set. `load*` and `store` take the first `LANES` elements of a slice
/// and panic if there are fewer; the `_partial` forms take slices of at most `LANES`.
pub(crate) trait Simd: Copy {
    /// `LANES` f32.
    type V: Copy;
    const LANES: usize;
    /// Rows of the largest product tile (of two vectors a row) that stays in registers.
    const TILE_ROWS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32]);
    fn load_f16(self, x: &[f16]) -> Self::V;
    fn load_i8(self, x: &[i8]) -> Self::V;

    /// Starts loading the cache line of `x` into the second-level cache, where the processor can.
    fn prefetch(self, x: &f32);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, in one rounding where the processor can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`, in one rounding where the processor can.
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of each lane; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each lane; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `yes` where `a < b`, else `no`.
    fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The bits of each lane shifted left by 23: an integer in the mantissa becomes the exponent.
    fn mantissa_to_exponent(self, v: Self::V) -> Self::V;

    /// Sum of the lanes, always in the same order.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; MAX_LANES];
        self.store(v, &mut lanes);
        halve(
            lanes,
            #[inline(always)]
            |a, b| a + b,
        )
    }

    /// Largest lane.
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; MAX_LANES];
        self.store(v, &mut lanes);
        halve(lanes, f32::max)
    }

    /// Lanes past the end of `x` hold `fill`.
    #[inline(always)]
    fn load_partial(self, x: &[f32], fill: f32) -> Self::V {
        let mut lanes = [fill; MAX_LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// Stores the first `out.len()` lanes.
    #[inline(always)]
    fn store_partial(self, v: Self::V, out: &mut [f32]) {
        let mut lanes = [0.0; MAX_LANES];
        self.store(v, &mut lanes);
        let len = out.len();
        out.copy_from_slice(&lanes[..len]);
    }

    /// Any length: the first `LANES` of a longer slice, `fill` past the end of a shorter one.
    #[inline(always)]
    fn load_up_to(self, x: &[f32], fill: f32) -> Self::V {
        if x.len() >= Self::LANES { self.load(x) } else { self.load_partial(x, fill) }
    }

    /// Any length: as many lanes as `out` has room for.
    #[inline(always)]
    fn store_up_to(self, v: Self::V, out: &mut [f32]) {
        if out.len() >= Self::LANES { self.store(v, out) } else { self.store_partial(v, out) }
    }

    /// |v|
    #[inline(always)]
    fn abs(self, v: Self::V) -> Self::V {
        self.max(self.sub(self.splat(0.0), v), v)
    }
}

/// Folds the lanes by halves: 16 to 8 to 4 to 2 to 1.
#[inline(always)]
fn halve(mut lanes: [f32; MAX_LANES], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = MAX_LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = fold(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}
