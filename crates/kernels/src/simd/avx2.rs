//! Eight lanes with AVX2, FMA and F16C.
#![expect(unsafe_code, reason = "entering code compiled for AVX2 and loading through pointers")]

use super::{DotKernel, Dots, Kernel, Simd};
use crate::isa::{Avx2, AvxVnni};
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

    /// Runs `kernel` compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn enter_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled_for_avx2<K: DotKernel>(s: Avx2, kernel: K) -> K::Output {
            kernel.run(s, s)
        }
        proven!(compiled_for_avx2(self, kernel))
    }
}

impl AvxVnni {
    /// Runs `kernel` compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn enter_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        fn compiled_for_avx_vnni<K: DotKernel>(s: AvxVnni, kernel: K) -> K::Output {
            kernel.run(s.base, s)
        }
        // SAFETY: an `AvxVnni` exists only after `isa::probe_avx_vnni` found all of these features.
        unsafe { compiled_for_avx_vnni(self, kernel) }
    }
}

impl Simd for Avx2 {
    type V = __m256;
    type I = __m256i;
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
    fn prefetch<T>(self, x: &T) {
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
    #[inline(always)]
    fn splat_word(self, x: u32) -> __m256i {
        proven!(_mm256_set1_epi32(x.cast_signed()))
    }
    #[inline(always)]
    fn load_words(self, x: &[u32]) -> __m256i {
        assert!(x.len() >= LANES);
        // SAFETY: the assertion leaves 8 words to read, `self` proves AVX.
        unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn xor_words(self, a: __m256i, b: __m256i) -> __m256i {
        proven!(_mm256_xor_si256(a, b))
    }
    #[inline(always)]
    fn multiply_words(self, a: __m256i, b: __m256i) -> [__m256i; 2] {
        // Products are of every other lane: of the even ones, and of the odd ones moved there.
        let even = proven!(_mm256_mul_epu32(a, b));
        let odd = proven!(_mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b)));
        [
            proven!(_mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd)),
            proven!(_mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd))),
        ]
    }
    #[inline(always)]
    fn transpose_words(self, [a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
        let (ab, cd) = (proven!(_mm256_unpacklo_epi32(a, b)), proven!(_mm256_unpacklo_epi32(c, d)));
        let (ab_high, cd_high) = (proven!(_mm256_unpackhi_epi32(a, b)), proven!(_mm256_unpackhi_epi32(c, d)));
        [
            proven!(_mm256_unpacklo_epi64(ab, cd)),
            proven!(_mm256_unpackhi_epi64(ab, cd)),
            proven!(_mm256_unpacklo_epi64(ab_high, cd_high)),
            proven!(_mm256_unpackhi_epi64(ab_high, cd_high)),
        ]
    }
    #[inline(always)]
    fn scale_or_drop(self, bits: __m256i, threshold: u16, factor: f32, x: &mut [f32]) {
        let (left, right) = x.split_at_mut(LANES);
        let threshold = proven!(_mm256_set1_epi32(i32::from(threshold)));
        for (x, bits) in [
            (left, proven!(_mm256_castsi256_si128(bits))),
            (right, proven!(_mm256_extracti128_si256::<1>(bits))),
        ] {
            let falls_out = proven!(_mm256_cmpgt_epi32(threshold, _mm256_cvtepu16_epi32(bits)));
            let factor = proven!(_mm256_andnot_ps(_mm256_castsi256_ps(falls_out), self.splat(factor)));
            self.store(self.mul(self.load(x), factor), x);
        }
    }
    #[inline(always)]
    fn store_words(self, v: __m256i, out: &mut [u32]) {
        assert!(out.len() >= LANES);
        // SAFETY: the assertion leaves 8 words to write, `self` proves AVX.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn to_f32(self, v: __m256i) -> __m256 {
        proven!(_mm256_cvtepi32_ps(v))
    }
    #[inline(always)]
    fn round(self, v: __m256) -> __m256i {
        proven!(_mm256_cvtps_epi32(v))
    }
    #[inline(always)]
    fn as_f32(self, v: __m256i) -> __m256 {
        proven!(_mm256_castsi256_ps(v))
    }
    #[inline(always)]
    fn bits(self, v: __m256) -> __m256i {
        proven!(_mm256_castps_si256(v))
    }
    #[inline(always)]
    fn low_bf16(self, v: __m256i) -> __m256 {
        proven!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(v)))
    }
    #[inline(always)]
    fn high_bf16(self, v: __m256i) -> __m256 {
        proven!(_mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()))))
    }
    #[inline(always)]
    fn round_bf16(self, v: __m256) -> __m256 {
        // Half a unit of the last place, less one where that place is even; then the low half is cut off.
        let bits = proven!(_mm256_castps_si256(v));
        let odd = proven!(_mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1)));
        let bias = proven!(_mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let rounded = self.high_bf16(proven!(_mm256_add_epi32(bits, bias)));
        proven!(_mm256_blendv_ps(rounded, _mm256_set1_ps(f32::NAN), _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v)))
    }
    #[inline(always)]
    fn max_magnitude(self, bits: __m256i, v: __m256) -> __m256i {
        let magnitude = proven!(_mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(i32::MAX)));
        proven!(_mm256_max_epi32(bits, magnitude))
    }
    #[inline(always)]
    fn pair_i16(self, even: __m256i, odd: __m256i) -> __m256i {
        proven!(_mm256_blend_epi16::<0b1010_1010>(even, _mm256_slli_epi32::<16>(odd)))
    }
    #[inline(always)]
    fn pair_bf16(self, even: __m256, odd: __m256) -> __m256i {
        let [even, odd] = [even, odd].map(|v| self.bits(self.round_bf16(v)));
        proven!(_mm256_blend_epi16::<0b1010_1010>(_mm256_srli_epi32::<16>(even), odd))
    }
    #[inline(always)]
    fn quad_i8(self, [a, b, c, d]: [__m256i; 4]) -> __m256i {
        let low = proven!(_mm256_set1_epi32(0xff));
        let a = proven!(_mm256_and_si256(a, low));
        let b = proven!(_mm256_slli_epi32::<8>(_mm256_and_si256(b, low)));
        let c = proven!(_mm256_slli_epi32::<16>(_mm256_and_si256(c, low)));
        let d = proven!(_mm256_slli_epi32::<24>(d));
        proven!(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)))
    }
    #[inline(always)]
    fn store_u8(self, v: __m256i, out: &mut [u32]) {
        assert!(out.len() >= LANES / 4);
        // Cut to the low byte first, so that packing cannot saturate.
        let low = proven!(_mm256_and_si256(v, _mm256_set1_epi32(0xff)));
        let halves = proven!(_mm256_packs_epi32(low, low));
        let bytes = proven!(_mm256_packus_epi16(halves, halves));
        let joined = proven!(_mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4)));
        // SAFETY: the assertion leaves 2 words to write, `self` proves AVX2.
        unsafe { _mm_storel_epi64(out.as_mut_ptr().cast(), _mm256_castsi256_si128(joined)) }
    }
    #[inline(always)]
    fn store_i16(self, v: __m256i, out: &mut [u32]) {
        assert!(out.len() >= LANES / 2);
        // Cut to the low half first, so that packing cannot saturate.
        let low = proven!(_mm256_and_si256(v, _mm256_set1_epi32(0xffff)));
        let halves = proven!(_mm256_permute4x64_epi64::<0b10_00>(_mm256_packus_epi32(low, low)));
        // SAFETY: the assertion leaves 4 words to write, `self` proves AVX2.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_castsi256_si128(halves)) }
    }
    #[inline(always)]
    fn store_bf16(self, v: __m256, out: &mut [u32]) {
        self.store_i16(proven!(_mm256_srli_epi32::<16>(_mm256_castps_si256(v))), out);
    }
}

impl Dots<Avx2> for Avx2 {
    const HAS_BF16: bool = false;

    #[inline(always)]
    fn i16(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        proven!(_mm256_add_epi32(acc, _mm256_madd_epi16(a, b)))
    }
    #[inline(always)]
    fn u8i8(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // Not the 8-bit product instruction, which saturates: even and odd bytes apart, as 16 bits.
        let low = proven!(_mm256_set1_epi16(0x00ff));
        let even = proven!(_mm256_madd_epi16(
            _mm256_and_si256(a, low),
            _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b))
        ));
        let odd = proven!(_mm256_madd_epi16(_mm256_srli_epi16::<8>(a), _mm256_srai_epi16::<8>(b)));
        proven!(_mm256_add_epi32(acc, _mm256_add_epi32(even, odd)))
    }
    #[inline(always)]
    fn bf16(self, acc: __m256, a: __m256i, b: __m256i) -> __m256 {
        let acc = self.fma(self.low_bf16(a), self.low_bf16(b), acc);
        self.fma(self.high_bf16(a), self.high_bf16(b), acc)
    }
}

impl Dots<Avx2> for AvxVnni {
    const HAS_BF16: bool = false;

    #[inline(always)]
    fn i16(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` exists only after `isa::probe_avx_vnni` found AVX-VNNI.
        unsafe { _mm256_dpwssd_avx_epi32(acc, a, b) }
    }
    #[inline(always)]
    fn u8i8(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` exists only after `isa::probe_avx_vnni` found AVX-VNNI.
        unsafe { _mm256_dpbusd_avx_epi32(acc, a, b) }
    }
    #[inline(always)]
    fn bf16(self, acc: __m256, a: __m256i, b: __m256i) -> __m256 {
        self.base.bf16(acc, a, b)
    }
}
