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

/// As [`Kernel`], for work that multiplies small numbers.
pub(crate) trait DotKernel {
    type Output;
    fn run<S: Simd, D: Dots<S>>(self, s: S, dots: D) -> Self::Output;
}

/// Products of the small numbers in words, summed into the lane of the word. The integer sums are exact (the
/// callers keep them inside of i32), so they are equal on every instruction set.
pub(crate) trait Dots<S: Simd>: Copy {
    /// Whether [`Dots::bf16`] is an instruction; where it is none, bf16 is better widened once.
    const HAS_BF16: bool;
    /// `acc + a0 * b0 + a1 * b1` of two i16.
    fn i16(self, acc: S::I, a: S::I, b: S::I) -> S::I;
    /// `acc + a0 * b0 + .. + a3 * b3` of four u8 in `a` and i8 in `b`.
    fn u8i8(self, acc: S::I, a: S::I, b: S::I) -> S::I;
    /// `acc + a0 * b0 + a1 * b1` of two bf16 in f32.
    fn bf16(self, acc: S::V, a: S::I, b: S::I) -> S::V;
    /// Stores each lane rounded to the nearest bf16, ties to even, in `LANES / 2` words; a denormal may become 0.
    #[inline(always)]
    fn store_rounded_bf16(self, s: S, v: S::V, out: &mut [u32]) {
        s.store_bf16(s.round_bf16(v), out);
    }
}

/// Vector operations of one instruction set. `load*` and `store` take the first `LANES` elements of a slice
/// and panic if there are fewer; the `_partial` forms take slices of at most `LANES`.
pub(crate) trait Simd: Copy {
    /// `LANES` f32.
    type V: Copy;
    /// `LANES` words of 32 bits: i32, or two 16-bit or four 8-bit numbers of neighbouring `k`.
    type I: Copy;
    const LANES: usize;
    /// Rows of the largest product tile (of two vectors a row) that stays in registers.
    const TILE_ROWS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32]);
    fn load_f16(self, x: &[f16]) -> Self::V;

    /// Starts loading the cache line of `x` into the second-level cache, where the processor can.
    fn prefetch<T>(self, x: &T);

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

    fn splat_word(self, x: u32) -> Self::I;
    fn load_words(self, x: &[u32]) -> Self::I;
    fn xor_words(self, a: Self::I, b: Self::I) -> Self::I;
    /// The high and the low word of the product of each pair of words without sign.
    fn multiply_words(self, a: Self::I, b: Self::I) -> [Self::I; 2];
    /// Of every four lanes, word `i` of vector `j` changes places with word `j` of vector `i`.
    fn transpose_words(self, v: [Self::I; 4]) -> [Self::I; 4];
    /// `2 * LANES` numbers times `factor`; those whose 16 bits (the low half of a word first) are below `threshold` times
    /// 0.
    fn scale_or_drop(self, bits: Self::I, threshold: u16, factor: f32, x: &mut [f32]);
    fn store_words(self, v: Self::I, out: &mut [u32]);
    /// The nearest f32 of each i32.
    fn to_f32(self, v: Self::I) -> Self::V;
    /// The nearest i32 of each f32, ties to even; anything for what is outside of i32.
    fn round(self, v: Self::V) -> Self::I;
    /// The same bits as f32, and back.
    fn as_f32(self, v: Self::I) -> Self::V;
    fn bits(self, v: Self::V) -> Self::I;
    /// The bf16 in the low half of each word, widened.
    fn low_bf16(self, v: Self::I) -> Self::V;
    /// The bf16 in the high half of each word, widened.
    fn high_bf16(self, v: Self::I) -> Self::V;
    /// Each f32 rounded to the nearest bf16, ties to even; NaN stays NaN.
    fn round_bf16(self, v: Self::V) -> Self::V;
    /// The larger of `bits`, those of numbers that are not negative, and the bits of the magnitude of `v`. As
    /// integers, the bits rise with the number, infinity above all and NaN above infinity: none is lost.
    fn max_magnitude(self, bits: Self::I, v: Self::V) -> Self::I;
    /// Words with `even` in the low and `odd` in the high half, for numbers that fit 16 bits.
    fn pair_i16(self, even: Self::I, odd: Self::I) -> Self::I;
    /// Words with `even` in the low and `odd` in the high half, each rounded to the nearest bf16, ties to even; NaN
    /// stays NaN.
    fn pair_bf16(self, even: Self::V, odd: Self::V) -> Self::I;
    /// Words of four bytes, the low one of each.
    fn quad_i8(self, bytes: [Self::I; 4]) -> Self::I;
    /// Stores each lane as one byte (its low one): `LANES / 4` words.
    fn store_u8(self, v: Self::I, out: &mut [u32]);
    /// Stores each lane as an i16 (its low half): `LANES / 2` words.
    fn store_i16(self, v: Self::I, out: &mut [u32]);
    /// Stores each lane, already rounded to bf16, in 16 bits: `LANES / 2` words.
    fn store_bf16(self, v: Self::V, out: &mut [u32]);

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

    /// The number with the largest of the lanes' bits.
    #[inline(always)]
    fn largest_magnitude(self, bits: Self::I) -> f32 {
        let mut lanes = [0; MAX_LANES];
        self.store_words(bits, &mut lanes);
        lanes.into_iter().fold(0.0, |largest, bits| f32::from_bits(bits.max(f32::to_bits(largest))))
    }

    /// Least lane.
    #[inline(always)]
    fn least(self, v: Self::V) -> f32 {
        -self.largest(self.sub(self.splat(0.0), v))
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
