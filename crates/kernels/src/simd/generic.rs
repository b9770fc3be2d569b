//! Four lanes in plain Rust, for processors without kernels of their own.

use super::{Dots, Simd};
use half::f16;

/// Runs on every processor.
#[derive(Clone, Copy)]
pub(crate) struct Generic;

const LANES: usize = 4;
type V = [f32; LANES];
type I = [u32; LANES];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Generic {
    type V = V;
    type I = I;
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> V {
        let x = &x[..LANES];
        std::array::from_fn(|i| x[i])
    }
    #[inline(always)]
    fn store(self, v: V, out: &mut [f32]) {
        out[..LANES].copy_from_slice(&v);
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16]) -> V {
        let x = &x[..LANES];
        std::array::from_fn(|i| x[i].to_f32())
    }
    #[inline(always)]
    fn prefetch<T>(self, _: &T) {}
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn fnma(self, a: V, b: V, c: V) -> V {
        self.sub(c, self.mul(a, b))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, yes: V, no: V) -> V {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn mantissa_to_exponent(self, v: V) -> V {
        v.map(|x| f32::from_bits(x.to_bits() << 23))
    }
    #[inline(always)]
    fn splat_word(self, x: u32) -> I {
        [x; LANES]
    }
    #[inline(always)]
    fn load_words(self, x: &[u32]) -> I {
        let x = &x[..LANES];
        std::array::from_fn(|i| x[i])
    }
    #[inline(always)]
    fn xor_words(self, a: I, b: I) -> I {
        std::array::from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn multiply_words(self, a: I, b: I) -> [I; 2] {
        let product = |i| u64::from(a[i]) * u64::from(b[i]);
        [std::array::from_fn(|i| (product(i) >> 32) as u32), std::array::from_fn(|i| product(i) as u32)]
    }
    #[inline(always)]
    fn transpose_words(self, v: [I; 4]) -> [I; 4] {
        std::array::from_fn(|j| std::array::from_fn(|i| v[i][j]))
    }
    #[inline(always)]
    fn scale_or_drop(self, bits: I, threshold: u16, factor: f32, x: &mut [f32]) {
        for (i, x) in x[..2 * LANES].iter_mut().enumerate() {
            let bits = (bits[i / 2] >> (16 * (i % 2))) as u16;
            *x *= if bits < threshold { 0.0 } else { factor };
        }
    }
    #[inline(always)]
    fn store_words(self, v: I, out: &mut [u32]) {
        out[..LANES].copy_from_slice(&v);
    }
    #[inline(always)]
    fn to_f32(self, v: I) -> V {
        v.map(|x| x.cast_signed() as f32)
    }
    #[inline(always)]
    fn round(self, v: V) -> I {
        v.map(|x| (x.round_ties_even() as i32).cast_unsigned())
    }
    #[inline(always)]
    fn as_f32(self, v: I) -> V {
        v.map(f32::from_bits)
    }
    #[inline(always)]
    fn bits(self, v: V) -> I {
        v.map(f32::to_bits)
    }
    #[inline(always)]
    fn low_bf16(self, v: I) -> V {
        v.map(|x| f32::from_bits(x << 16))
    }
    #[inline(always)]
    fn high_bf16(self, v: I) -> V {
        v.map(|x| f32::from_bits(x & 0xffff_0000))
    }
    #[inline(always)]
    fn round_bf16(self, v: V) -> V {
        v.map(|x| half::bf16::from_f32(x).to_f32())
    }
    #[inline(always)]
    fn max_magnitude(self, bits: I, v: V) -> I {
        std::array::from_fn(|i| bits[i].max(v[i].abs().to_bits()))
    }
    #[inline(always)]
    fn pair_i16(self, even: I, odd: I) -> I {
        std::array::from_fn(|i| (even[i] & 0xffff) | (odd[i] << 16))
    }
    #[inline(always)]
    fn pair_bf16(self, even: V, odd: V) -> I {
        let bits = |x| u32::from(half::bf16::from_f32(x).to_bits());
        std::array::from_fn(|i| bits(even[i]) | bits(odd[i]) << 16)
    }
    #[inline(always)]
    fn quad_i8(self, bytes: [I; 4]) -> I {
        std::array::from_fn(|i| u32::from_le_bytes(bytes.map(|lanes| lanes[i] as u8)))
    }
    #[inline(always)]
    fn store_u8(self, v: I, out: &mut [u32]) {
        out[0] = u32::from_le_bytes(v.map(|x| x as u8));
    }
    #[inline(always)]
    fn store_i16(self, v: I, out: &mut [u32]) {
        out[0] = (v[0] & 0xffff) | (v[1] << 16);
        out[1] = (v[2] & 0xffff) | (v[3] << 16);
    }
    #[inline(always)]
    fn store_bf16(self, v: V, out: &mut [u32]) {
        self.store_i16(v.map(|x| x.to_bits() >> 16), out);
    }
}

impl Dots<Generic> for Generic {
    const HAS_BF16: bool = false;

    #[inline(always)]
    fn i16(self, acc: I, a: I, b: I) -> I {
        let half = |x: u32, shift: u32| i32::from((x >> shift) as i16);
        std::array::from_fn(|i| {
            let sum = half(a[i], 0) * half(b[i], 0) + half(a[i], 16) * half(b[i], 16);
            acc[i].wrapping_add(sum.cast_unsigned())
        })
    }
    #[inline(always)]
    fn u8i8(self, acc: I, a: I, b: I) -> I {
        std::array::from_fn(|i| {
            let products = a[i].to_le_bytes().into_iter().zip(b[i].to_le_bytes());
            let sum: i32 = products.map(|(a, b)| i32::from(a) * i32::from(b.cast_signed())).sum();
            acc[i].wrapping_add(sum.cast_unsigned())
        })
    }
    #[inline(always)]
    fn bf16(self, acc: V, a: I, b: I) -> V {
        let acc = self.fma(self.low_bf16(a), self.low_bf16(b), acc);
        self.fma(self.high_bf16(a), self.high_bf16(b), acc)
    }
}
