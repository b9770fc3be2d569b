//! Sixteen lanes with AVX-512.
#![expect(unsafe_code, reason = "entering code compiled for AVX-512 and loading through pointers")]

use super::{Kernel, Simd};
use crate::isa::Avx512;
use half::f16;
use std::arch::x86_64::*;

const LANES: usize = 16;

/// An intrinsic that is unsafe only because the processor must have it.
macro_rules! proven {
    ($call:expr) => {
        // SAFETY: `self` is an `Avx512`, which exists only after `isa::probe_avx512` found F, BW, DQ and VL.
        unsafe { $call }
    };
}

impl Avx512 {
    /// Runs `kernel` compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn compiled_for_avx512<K: Kernel>(s: Avx512, kernel: K) -> K::Output {
            kernel.run(s)
        }
        proven!(compiled_for_avx512(self, kernel))
    }
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 12;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        proven!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> __m512 {
        assert!(x.len() >= LANES);
        // SAFETY: the assertion leaves 16 floats to read, `self` proves AVX-512 F.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32]) {
        assert!(out.len() >= LANES);
        // SAFETY: the assertion leaves 16 floats to write, `self` proves AVX-512 F.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_partial(self, x: &[f32], fill: f32) -> __m512 {
        assert!(x.len() <= LANES);
        let mask = low_lanes(x.len());
        // SAFETY: only the `x.len()` masked lanes are read, `self` proves AVX-512 F.
        unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask, x.as_ptr()) }
    }
    #[inline(always)]
    fn store_partial(self, v: __m512, out: &mut [f32]) {
        assert!(out.len() <= LANES);
        let mask = low_lanes(out.len());
        // SAFETY: only the `out.len()` masked lanes are written, `self` proves AVX-512 F.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, v) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16]) -> __m512 {
        assert!(x.len() >= LANES);
        // SAFETY: the assertion leaves 16 halves (32 bytes) to read, `self` proves AVX-512 F.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8]) -> __m512 {
        assert!(x.len() >= LANES);
        // SAFETY: the assertion leaves 16 bytes to read, `self` proves AVX-512 F.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn prefetch(self, x: &f32) {
        // SAFETY: a prefetch of any address reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(x).cast()) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        proven!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes))
    }
    #[inline(always)]
    fn mantissa_to_exponent(self, v: __m512) -> __m512 {
        proven!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(v))))
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        proven!(_mm512_reduce_add_ps(v))
    }
    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        proven!(_mm512_reduce_max_ps(v))
    }
}

/// Mask of the first `count` lanes, `count <= 16`.
#[inline(always)]
fn low_lanes(count: usize) -> __mmask16 {
    ((1_u32 << count) - 1) as __mmask16
}
