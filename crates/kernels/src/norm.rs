//! Layer normalisation and unit length, in place over rows.

use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

/// The least norm that [`l2_normalize`] divides by, as in torch.
pub const L2_NORM_MIN: f32 = 1e-12;

/// `x = (x - mean) / sqrt(variance + eps) * gamma + beta` for each row of `gamma.len()` elements.
///
/// # Panics
/// When `beta` is not as long as `gamma`, or `x` is not whole rows.
pub fn layer_norm(isa: Isa, x: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32) {
    let d = gamma.len();
    assert_eq!(beta.len(), d, "beta [{d}]");
    assert!(d > 0 && x.len().is_multiple_of(d), "x of {} elements in rows of {d}", x.len());
    isa.run(LayerNorm { x, gamma, beta, eps });
}

struct LayerNorm<'a> {
    x: &'a mut [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.gamma.len();
        for row in self.x.chunks_exact_mut(d) {
            let mean = sum_of(
                s,
                row,
                0.0,
                #[inline(always)]
                |v| v,
            ) / d as f32;
            let centre = s.splat(mean);
            // Two passes: the variance of centred values does not cancel.
            let squares = sum_of(
                s,
                row,
                mean,
                #[inline(always)]
                |v| {
                    let v = s.sub(v, centre);
                    s.mul(v, v)
                },
            );
            let factor = s.splat(1.0 / (squares / d as f32 + self.eps).sqrt());
            let (gamma, beta) = (self.gamma.chunks(S::LANES), self.beta.chunks(S::LANES));
            for ((x, gamma), beta) in row.chunks_mut(S::LANES).zip(gamma).zip(beta) {
                let unit = s.mul(s.sub(s.load_up_to(x, 0.0), centre), factor);
                let scaled = s.fma(unit, s.load_up_to(gamma, 0.0), s.load_up_to(beta, 0.0));
                s.store_up_to(scaled, x);
            }
        }
    }
}

/// Divides each row of `d` elements by its norm, or by [`L2_NORM_MIN`] if that is larger.
///
/// # Panics
/// When `x` is not whole rows.
pub fn l2_normalize(isa: Isa, x: &mut [f32], d: usize) {
    assert!(d > 0 && x.len().is_multiple_of(d), "x of {} elements in rows of {d}", x.len());
    isa.run(L2Normalize { x, d });
}

struct L2Normalize<'a> {
    x: &'a mut [f32],
    d: usize,
}

impl Kernel for L2Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.d) {
            let norm = sum_of(
                s,
                row,
                0.0,
                #[inline(always)]
                |v| s.mul(v, v),
            )
            .sqrt();
            // Not f32::max, which would drop a NaN.
            let factor = s.splat(1.0 / if norm < L2_NORM_MIN { L2_NORM_MIN } else { norm });
            for x in row.chunks_mut(S::LANES) {
                let unit = s.mul(s.load_up_to(x, 0.0), factor);
                s.store_up_to(unit, x);
            }
        }
    }
}

/// Sum of `f` over a row, with `fill` in the lanes past its end; `f(fill)` must be zero.
#[inline(always)]
fn sum_of<S: Simd>(s: S, row: &[f32], fill: f32, f: impl Fn(S::V) -> S::V) -> f32 {
    let mut sums = [s.splat(0.0); 2];
    let mut pairs = row.chunks_exact(2 * S::LANES);
    for pair in &mut pairs {
        sums[0] = s.add(sums[0], f(s.load(pair)));
        sums[1] = s.add(sums[1], f(s.load(&pair[S::LANES..])));
    }
    for chunk in pairs.remainder().chunks(S::LANES) {
        sums[0] = s.add(sums[0], f(s.load_up_to(chunk, fill)));
    }
    s.sum(s.add(sums[0], sums[1]))
}
