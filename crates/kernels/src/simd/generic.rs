//! Four lanes in plain Rust, for processors without kernels of their own.

use super::Simd;
use half::f16;

/// Runs on every processor.
#[derive(Clone, Copy)]
pub(crate) struct Generic;

const LANES: usize = 4;
type V = [f32; LANES];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Generic {
    type V = V;
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
    fn load_i8(self, x: &[i8]) -> V {
        let x = &x[..LANES];
        std::array::from_fn(|i| f32::from(x[i]))
    }
    #[inline(always)]
    fn prefetch(self, _: &f32) {}
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
}
