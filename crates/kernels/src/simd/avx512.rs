//! Sixteen lanes with AVX-512.
#![expect(unsafe_code, reason = "entering code compiled for AVX-512 and loading through pointers")]

use super::{DotKernel, Dots, Kernel, Simd};
use crate::isa::{Avx512, Avx512Bf16, Avx512Vnni};
use half::f16;
use std::arch::x86_64::*;
use std::mem::transmute;

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

    /// Runs `kernel` compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn enter_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn compiled_for_avx512<K: DotKernel>(s: Avx512, kernel: K) -> K::Output {
            kernel.run(s, s)
        }
        proven!(compiled_for_avx512(self, kernel))
    }
}

impl Avx512Vnni {
    /// Runs `kernel` compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn enter_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn compiled_for_vnni<K: DotKernel>(s: Avx512Vnni, kernel: K) -> K::Output {
            kernel.run(s.base, s)
        }
        // SAFETY: an `Avx512Vnni` exists only after `isa::probe_avx512_vnni` found all of these features.
        unsafe { compiled_for_vnni(self, kernel) }
    }
}

impl Avx512Bf16 {
    /// Runs `kernel` compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn enter_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
        fn compiled_for_bf16<K: DotKernel>(s: Avx512Bf16, kernel: K) -> K::Output {
            kernel.run(s.base.base, s)
        }
        // SAFETY: an `Avx512Bf16` exists only after `isa::probe_avx512_bf16` found all of these features.
        unsafe { compiled_for_bf16(self, kernel) }
    }
}

impl Simd for Avx512 {
    type V = __m512;
    type I = __m512i;
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
    fn prefetch<T>(self, x: &T) {
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
    fn splat_word(self, x: u32) -> __m512i {
        proven!(_mm512_set1_epi32(x.cast_signed()))
    }
    #[inline(always)]
    fn load_words(self, x: &[u32]) -> __m512i {
        assert!(x.len() >= LANES);
        // SAFETY: the assertion leaves 16 words to read, `self` proves AVX-512 F.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn xor_words(self, a: __m512i, b: __m512i) -> __m512i {
        proven!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn multiply_words(self, a: __m512i, b: __m512i) -> [__m512i; 2] {
        // Products are of every other lane: of the even ones, and of the odd ones moved there.
        const ODD_TO_EVEN: i32 = 0b11_11_01_01;
        const EVEN_TO_ODD: i32 = 0b10_10_00_00;
        let odd = |v| proven!(_mm512_shuffle_epi32::<ODD_TO_EVEN>(v));
        let even = proven!(_mm512_mul_epu32(a, b));
        let odd = proven!(_mm512_mul_epu32(odd(a), odd(b)));
        [
            proven!(_mm512_mask_shuffle_epi32::<ODD_TO_EVEN>(odd, 0x5555, even)),
            proven!(_mm512_mask_shuffle_epi32::<EVEN_TO_ODD>(even, 0xaaaa, odd)),
        ]
    }
    #[inline(always)]
    fn transpose_words(self, [a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
        let (ab, cd) = (proven!(_mm512_unpacklo_epi32(a, b)), proven!(_mm512_unpacklo_epi32(c, d)));
        let (ab_high, cd_high) = (proven!(_mm512_unpackhi_epi32(a, b)), proven!(_mm512_unpackhi_epi32(c, d)));
        [
            proven!(_mm512_unpacklo_epi64(ab, cd)),
            proven!(_mm512_unpackhi_epi64(ab, cd)),
            proven!(_mm512_unpacklo_epi64(ab_high, cd_high)),
            proven!(_mm512_unpackhi_epi64(ab_high, cd_high)),
        ]
    }
    #[inline(always)]
    fn scale_or_drop(self, bits: __m512i, threshold: u16, factor: f32, x: &mut [f32]) {
        let stays = proven!(_mm512_cmpge_epu16_mask(bits, _mm512_set1_epi16(threshold.cast_signed())));
        let factor = self.splat(factor);
        let (left, right) = x.split_at_mut(LANES);
        let of_left = proven!(_mm512_maskz_mov_ps(stays as u16, factor));
        let of_right = proven!(_mm512_maskz_mov_ps((stays >> LANES) as u16, factor));
        self.store(self.mul(self.load(left), of_left), left);
        self.store(self.mul(self.load(right), of_right), right);
    }
    #[inline(always)]
    fn store_words(self, v: __m512i, out: &mut [u32]) {
        assert!(out.len() >= LANES);
        // SAFETY: the assertion leaves 16 words to write, `self` proves AVX-512 F.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn to_f32(self, v: __m512i) -> __m512 {
        proven!(_mm512_cvtepi32_ps(v))
    }
    #[inline(always)]
    fn round(self, v: __m512) -> __m512i {
        proven!(_mm512_cvtps_epi32(v))
    }
    #[inline(always)]
    fn as_f32(self, v: __m512i) -> __m512 {
        proven!(_mm512_castsi512_ps(v))
    }
    #[inline(always)]
    fn bits(self, v: __m512) -> __m512i {
        proven!(_mm512_castps_si512(v))
    }
    #[inline(always)]
    fn low_bf16(self, v: __m512i) -> __m512 {
        proven!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(v)))
    }
    #[inline(always)]
    fn high_bf16(self, v: __m512i) -> __m512 {
        proven!(_mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()))))
    }
    #[inline(always)]
    fn round_bf16(self, v: __m512) -> __m512 {
        // Half a unit of the last place, less one where that place is even; then the low half is cut off.
        let bits = proven!(_mm512_castps_si512(v));
        let odd = proven!(_mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1)));
        let bias = proven!(_mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let rounded = self.high_bf16(proven!(_mm512_add_epi32(bits, bias)));
        proven!(_mm512_mask_mov_ps(
            rounded,
            _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v),
            _mm512_set1_ps(f32::NAN)
        ))
    }
    #[inline(always)]
    fn max_magnitude(self, bits: __m512i, v: __m512) -> __m512i {
        let magnitude = proven!(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(i32::MAX)));
        proven!(_mm512_max_epi32(bits, magnitude))
    }
    #[inline(always)]
    fn largest_magnitude(self, bits: __m512i) -> f32 {
        f32::from_bits(proven!(_mm512_reduce_max_epi32(bits)).cast_unsigned())
    }
    #[inline(always)]
    fn pair_i16(self, even: __m512i, odd: __m512i) -> __m512i {
        proven!(_mm512_mask_blend_epi16(0xaaaa_aaaa, even, _mm512_slli_epi32::<16>(odd)))
    }
    #[inline(always)]
    fn pair_bf16(self, even: __m512, odd: __m512) -> __m512i {
        let (even, odd) = (self.bits(self.round_bf16(even)), self.bits(self.round_bf16(odd)));
        proven!(_mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(even), odd))
    }
    #[inline(always)]
    fn quad_i8(self, [a, b, c, d]: [__m512i; 4]) -> __m512i {
        let low = proven!(_mm512_set1_epi32(0xff));
        let a = proven!(_mm512_and_si512(a, low));
        let b = proven!(_mm512_slli_epi32::<8>(_mm512_and_si512(b, low)));
        let c = proven!(_mm512_slli_epi32::<16>(_mm512_and_si512(c, low)));
        let d = proven!(_mm512_slli_epi32::<24>(d));
        proven!(_mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d)))
    }
    #[inline(always)]
    fn store_u8(self, v: __m512i, out: &mut [u32]) {
        assert!(out.len() >= LANES / 4);
        // SAFETY: the assertion leaves 4 words to write, `self` proves AVX-512 F.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(v)) }
    }
    #[inline(always)]
    fn store_i16(self, v: __m512i, out: &mut [u32]) {
        assert!(out.len() >= LANES / 2);
        // SAFETY: the assertion leaves 8 words to write, `self` proves AVX-512 F.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(v)) }
    }
    #[inline(always)]
    fn store_bf16(self, v: __m512, out: &mut [u32]) {
        self.store_i16(proven!(_mm512_srli_epi32::<16>(_mm512_castps_si512(v))), out);
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

impl Dots<Avx512> for Avx512 {
    const HAS_BF16: bool = false;

    #[inline(always)]
    fn i16(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        proven!(_mm512_add_epi32(acc, _mm512_madd_epi16(a, b)))
    }
    #[inline(always)]
    fn u8i8(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // Not the 8-bit product instruction, which saturates: even and odd bytes apart, as 16 bits.
        let low = proven!(_mm512_set1_epi16(0x00ff));
        let even = proven!(_mm512_madd_epi16(
            _mm512_and_si512(a, low),
            _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b))
        ));
        let odd = proven!(_mm512_madd_epi16(_mm512_srli_epi16::<8>(a), _mm512_srai_epi16::<8>(b)));
        proven!(_mm512_add_epi32(acc, _mm512_add_epi32(even, odd)))
    }
    #[inline(always)]
    fn bf16(self, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        widened_bf16(self, acc, a, b)
    }
}

impl Dots<Avx512> for Avx512Vnni {
    const HAS_BF16: bool = false;

    #[inline(always)]
    fn i16(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` exists only after `isa::probe_avx512_vnni` found AVX-512 VNNI.
        unsafe { _mm512_dpwssd_epi32(acc, a, b) }
    }
    #[inline(always)]
    fn u8i8(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` exists only after `isa::probe_avx512_vnni` found AVX-512 VNNI.
        unsafe { _mm512_dpbusd_epi32(acc, a, b) }
    }
    #[inline(always)]
    fn bf16(self, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        widened_bf16(self.base, acc, a, b)
    }
}

impl Dots<Avx512> for Avx512Bf16 {
    const HAS_BF16: bool = true;

    #[inline(always)]
    fn i16(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        self.base.i16(acc, a, b)
    }
    #[inline(always)]
    fn u8i8(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        self.base.u8i8(acc, a, b)
    }
    #[inline(always)]
    fn bf16(self, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: `self` exists only after `isa::probe_avx512_bf16` found AVX-512 BF16; any 512 bits are 32 bf16.
        unsafe {
            let [a, b] = [transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b)];
            _mm512_dpbf16_ps(acc, a, b)
        }
    }
    #[inline(always)]
    fn store_rounded_bf16(self, _: Avx512, v: __m512, out: &mut [u32]) {
        assert!(out.len() >= LANES / 2);
        // SAFETY: `self` exists only after `isa::probe_avx512_bf16` found AVX-512 BF16; the assertion leaves 8 words to
        // write.
        unsafe {
            let rounded = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), rounded);
        }
    }
}

/// Both products of a pair in f32.
#[inline(always)]
fn widened_bf16(s: Avx512, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
    let acc = s.fma(s.low_bf16(a), s.low_bf16(b), acc);
    s.fma(s.high_bf16(a), s.high_bf16(b), acc)
}

/// Mask of the first `count` lanes, `count <= 16`.
#[inline(always)]
fn low_lanes(count: usize) -> __mmask16 {
    ((1_u32 << count) - 1) as __mmask16
}
