//! Eight lanes with AVX2, FMA and F16C.
#![expect(unsafe_code, reason = "entering code compiled for AVX2 and loading through pointers")]

use super::{Kernel, Simd};
use crate::isa::Avx2;
use half::f16;
use std::arch::x86_64::*;

const LANES: usize = 8;

/// An intrinsic that is unsafe only because the processor must have it.
macro_rules! proven {
    ($call:expr) => {
        // SAFETY: `self` is an `Avx2`, which exists only after `isa::probe_avx2` found AVX2, FMA and F16C.
        unsafe { $call }
    };
}

impl Avx2 {
    /// Runs `kernel` compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled_for_avx2<K: Kernel>(s: Avx2, kernel: K) -> K::Output {
            kernel.run(s)
        }
        proven!(compiled_for_avx2(self, kernel))
    }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        proven!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> __m256 {
        assert!(x.len() >= LANES);
        // SAFETY: the assertion leaves 8 floats to read, `self` proves AVX.
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: __m256, out: &mut [f32]) {
        assert!(out.len() >= LANES);
        // SAFETY: the assertion leaves 8 floats to write, `self` proves AVX.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16]) -> __m256 {
        assert!(x.len() >= LANES);
        // SAFETY: the assertion leaves 8 halves (16 bytes) to read, `self` proves F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8]) -> __m256 {
        assert!(x.len() >= LANES);
        // SAFETY: the assertion leaves 8 bytes to read, `self` proves AVX2.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn prefetch(self, x: &f32) {
        // SAFETY: a prefetch of any address reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(x).cast()) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        proven!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        proven!(_mm256_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        proven!(_mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }
    #[inline(always)]
    fn mantissa_to_exponent(self, v: __m256) -> __m256 {
        proven!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(v))))
    }
}
