//! Activation functions, over slices in place.

use crate::isa::Isa;
use crate::simd::{Kernel, Simd};
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

/// An activation function, named as in Hugging Face configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x`
    Identity,
    /// `gelu`: `x * (1 + erf(x / sqrt 2)) / 2`
    GeluErf,
    /// `gelu_new`, `gelu_pytorch_tanh`: `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2`
    GeluTanh,
    /// `quick_gelu`: `x * sigmoid(1.702 x)`
    QuickGelu,
    /// `max(x, 0)`
    Relu,
    /// `tanh(x)`
    Tanh,
    /// `silu`, `swish`: `x * sigmoid(x)`
    Silu,
}

/// `x = f(x)` for each element; NaN stays NaN.
///
/// Against the exact functions: within `2e-7 * max(1, |f(x)|)`, and within 3e-6 of the value wherever that is
/// above 1e-6 in magnitude.
pub fn apply(isa: Isa, f: Activation, x: &mut [f32]) {
    isa.run(Apply { f, x });
}

struct Apply<'a> {
    f: Activation,
    x: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        apply_with(s, self.f, self.x);
    }
}

/// [`apply`] for kernels that already run with `s`.
#[inline(always)]
pub(crate) fn apply_with<S: Simd>(s: S, f: Activation, x: &mut [f32]) {
    match f {
        Activation::Identity => {}
        Activation::GeluErf => for_each(
            s,
            x,
            #[inline(always)]
            |v| gelu_erf(s, v),
        ),
        Activation::GeluTanh => for_each(
            s,
            x,
            #[inline(always)]
            |v| gelu_tanh(s, v),
        ),
        Activation::QuickGelu => for_each(
            s,
            x,
            #[inline(always)]
            |v| scaled_silu(s, v, 1.702),
        ),
        Activation::Relu => for_each(
            s,
            x,
            #[inline(always)]
            |v| s.max(s.splat(0.0), v),
        ),
        Activation::Tanh => for_each(
            s,
            x,
            #[inline(always)]
            |v| tanh(s, v),
        ),
        Activation::Silu => for_each(
            s,
            x,
            #[inline(always)]
            |v| scaled_silu(s, v, 1.0),
        ),
    }
}

/// [`apply`] to the columns `columns` of rows of `n`.
#[inline(always)]
pub(crate) fn apply_columns_with<S: Simd>(
    s: S,
    f: Activation,
    accuracy: Accuracy,
    x: &mut [f32],
    n: usize,
    columns: Range<usize>,
) {
    if f == Activation::GeluErf && accuracy == Accuracy::Coarse {
        for row in x.chunks_exact_mut(n) {
            for_each(
                s,
                &mut row[columns.clone()],
                #[inline(always)]
                |v| coarse_gelu_erf(s, v),
            );
        }
    } else {
        for row in x.chunks_exact_mut(n) {
            apply_with(s, f, &mut row[columns.clone()]);
        }
    }
}

/// How near an activation comes to the exact function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accuracy {
    /// As [`apply`] says.
    Full,
    /// For numbers that are rounded to 16 bits or fewer next: `GeluErf` within 1e-4, or 3e-6 of large numbers.
    Coarse,
}

#[inline(always)]
fn for_each<S: Simd>(s: S, x: &mut [f32], f: impl Fn(S::V) -> S::V) {
    let mut whole = x.chunks_exact_mut(S::LANES);
    for x in &mut whole {
        s.store(f(s.load(x)), x);
    }
    let tail = whole.into_remainder();
    if tail.is_empty() {
        return;
    }
    s.store_partial(f(s.load_partial(tail, 0.0)), tail);
}

/// Adding it leaves the nearest integer, biased as an exponent, in the low bits of the mantissa.
const ROUND_AND_BIAS: f32 = 12_582_912.0 + 127.0;

/// `e^x` within 2 ulp for x in -87.3..=88.3; exactly 0 below -87.7, infinite above 88.4; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    /// ln 2 in two parts, the first short enough that its multiples are exact.
    const LN_2_PARTS: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = s.max(s.splat(-88.1), x);
    let x = s.min(s.splat(88.8), x);
    let biased = s.fma(x, s.splat(LOG2_E), s.splat(ROUND_AND_BIAS));
    let n = s.sub(biased, s.splat(ROUND_AND_BIAS));
    let rest = s.fnma(n, s.splat(LN_2_PARTS[0]), x);
    let rest = s.fnma(n, s.splat(LN_2_PARTS[1]), rest);
    exp2_of_parts(s, biased, s.mul(rest, s.splat(LOG2_E)))
}

/// `2^x` within 2 ulp for x in -126..=0; exactly 0 below -126.5; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp2_of_negative<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-127.0), x);
    let biased = s.add(x, s.splat(ROUND_AND_BIAS));
    exp2_of_parts(s, biased, s.sub(x, s.sub(biased, s.splat(ROUND_AND_BIAS))))
}

/// `8191 * 2^x` within 4e-6 of its value for x in -126..=0; exactly 0 below -126.5; NaN stays NaN. For weights that
/// become integers up to 8191.
#[inline(always)]
pub(crate) fn exp2_times_8191<S: Simd>(s: S, x: S::V) -> S::V {
    scaled_exp2(s, x, &EXP2_TIMES_8191)
}

/// [`exp2_times_8191`] for integers up to 254.
#[inline(always)]
pub(crate) fn exp2_times_254<S: Simd>(s: S, x: S::V) -> S::V {
    const POLYNOMIAL: [f32; 5] = scaled(EXP2_TIMES_8191, 254.0 / 8191.0);
    scaled_exp2(s, x, &POLYNOMIAL)
}

/// `2^x` within 8e-5 of its value for x in -126..=127; exactly 0 below -126.5; NaN stays NaN. For weights that become
/// bf16, of 4e-3.
#[inline(always)]
pub(crate) fn exp2_coarse<S: Simd>(s: S, x: S::V) -> S::V {
    /// As `EXP2_TIMES_8191`, of one power less.
    const POLYNOMIAL: [f32; 4] = [5.517_162_4e-2, 2.426_111_3e-1, 6.932_609_7e-1, 9.999_280_6e-1];
    scaled_exp2(s, x, &POLYNOMIAL)
}

/// 8191 * 2^x within 4e-6 of its value for |x| <= 1/2, highest power first (least squares on Chebyshev points,
/// reweighted to equal ripples).
const EXP2_TIMES_8191: [f32; 5] = [78.3887, 458.0232, 1967.8668, 5677.361, 8190.994];

const fn scaled([a, b, c, d, e]: [f32; 5], by: f32) -> [f32; 5] {
    [a * by, b * by, c * by, d * by, e * by]
}

/// `2^x` for x < 127.5, where the polynomial gives it for |x| <= 1/2.
#[inline(always)]
fn scaled_exp2<S: Simd, const N: usize>(s: S, x: S::V, near: &[f32; N]) -> S::V {
    let x = s.max(s.splat(-127.0), x);
    let biased = s.add(x, s.splat(ROUND_AND_BIAS));
    let rest = s.sub(x, s.sub(biased, s.splat(ROUND_AND_BIAS)));
    s.mul(polynomial(s, rest, near), s.mantissa_to_exponent(biased))
}

/// `2^(n + rest)` for |rest| <= 1/2, where `biased` is n + [`ROUND_AND_BIAS`] and n in -127..=128.
#[inline(always)]
fn exp2_of_parts<S: Simd>(s: S, biased: S::V, rest: S::V) -> S::V {
    /// 2^x within 2e-8 of its value for |x| <= 1/2, highest power first (least squares on Chebyshev points,
    /// reweighted to equal ripples).
    const POLYNOMIAL: [f32; 7] =
        [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_4e-2, 2.402_264_8e-1, LN_2, 1.0];
    s.mul(polynomial(s, rest, &POLYNOMIAL), s.mantissa_to_exponent(biased))
}

/// Horner's rule, highest power first.
#[inline(always)]
fn polynomial<S: Simd>(s: S, x: S::V, coefficients: &[f32]) -> S::V {
    let mut sum = s.splat(coefficients[0]);
    for &c in &coefficients[1..] {
        sum = s.fma(sum, x, s.splat(c));
    }
    sum
}

/// `x * phi(x)` by way of the upper tail `q = phi(-|x|)`, so that small results keep their digits.
#[inline(always)]
fn gelu_erf<S: Simd>(s: S, x: S::V) -> S::V {
    /// log2(q) of |x|, highest power first: smooth enough for a polynomial, and falling for good beyond the
    /// 0..=5.8 it was fitted on (least squares on Chebyshev points, reweighted; q within 1e-6 of its value).
    const POLYNOMIAL: [f32; 11] = [
        -1.797_078_8e-8,
        5.726_626_6e-7,
        -7.807_796e-6,
        5.746_462e-5,
        -2.120_460_8e-4,
        -1.454_296_3e-4,
        7.131_933e-3,
        -5.257_218e-2,
        -4.591_754_4e-1,
        -1.151_11,
        -9.999_999e-1,
    ];
    let tail = exp2_of_negative(s, polynomial(s, s.abs(x), &POLYNOMIAL));
    s.mul(x, s.select_lt(x, s.splat(0.0), tail, s.sub(s.splat(1.0), tail)))
}

/// `x * phi(x)` within 9e-5, and beyond 6 within 3e-6 of the magnitude of `x`, at half the cost of [`gelu_erf`].
#[inline(always)]
pub(crate) fn coarse_gelu_erf<S: Simd>(s: S, x: S::V) -> S::V {
    /// `phi` is 0 or 1 to 2e-5 beyond.
    const END: f32 = 4.2;
    /// `(phi(x) - 1/2) / x` as a polynomial of x^2, highest power first, for |x| <= [`END`], where it is `1/2 / END`
    /// but for rounding (least squares on Chebyshev points, reweighted to equal ripples of `x * phi(x)`).
    const POLYNOMIAL: [f32; 8] = [
        -9.017_534e-10,
        7.941_340_4e-8,
        -3.037_932e-6,
        6.689_07e-5,
        -9.506_575_3e-4,
        9.298_23e-3,
        -6.552_82e-2,
        3.984_658_7e-1,
    ];
    let near = s.max(s.splat(-END), s.min(s.splat(END), x));
    let phi = s.fma(near, polynomial(s, s.mul(near, near), &POLYNOMIAL), s.splat(0.5));
    s.mul(x, phi)
}

/// `(1 + tanh(z)) / 2 = sigmoid(2 z)`
#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    /// sqrt(8 / pi)
    const SLOPE: f32 = 1.595_769;
    let cubic = s.fma(s.mul(x, x), s.splat(0.044_715 * SLOPE), s.splat(SLOPE));
    x_sigmoid(s, x, s.mul(x, cubic))
}

/// `x * sigmoid(scale * x)`
#[inline(always)]
fn scaled_silu<S: Simd>(s: S, x: S::V, scale: f32) -> S::V {
    x_sigmoid(s, x, s.mul(x, s.splat(scale)))
}

/// `x * sigmoid(z)`
#[inline(always)]
fn x_sigmoid<S: Simd>(s: S, x: S::V, z: S::V) -> S::V {
    let decay = exp(s, s.sub(s.splat(0.0), z));
    s.div(x, s.add(s.splat(1.0), decay))
}

#[inline(always)]
fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    /// (tanh(x) - x) / x^3 as a polynomial of x^2 for |x| < 0.625, highest power first (Cephes, tanhf).
    const POLYNOMIAL: [f32; 5] =
        [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1];
    let square = s.mul(x, x);
    let near = s.fma(s.mul(x, square), polynomial(s, square, &POLYNOMIAL), x);
    let magnitude = s.abs(x);
    let grown = exp(s, s.add(magnitude, magnitude));
    let far = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(grown, s.splat(1.0))));
    let far = s.select_lt(x, s.splat(0.0), s.sub(s.splat(0.0), far), far);
    s.select_lt(magnitude, s.splat(0.625), near, far)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp<'a>(&'a mut [f32]);

    impl Kernel for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for_each(
                s,
                self.0,
                #[inline(always)]
                |v| exp(s, v),
            );
        }
    }

    struct Exp2<'a>(&'a mut [f32]);

    impl Kernel for Exp2<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for_each(
                s,
                self.0,
                #[inline(always)]
                |v| exp2_of_negative(s, v),
            );
        }
    }

    struct Exp2Times8191<'a>(&'a mut [f32]);

    impl Kernel for Exp2Times8191<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for_each(
                s,
                self.0,
                #[inline(always)]
                |v| exp2_times_8191(s, v),
            );
        }
    }

    fn thousandths(range: std::ops::RangeInclusive<i32>) -> Vec<f32> {
        range.map(|n| n as f32 * 1e-3).collect()
    }

    fn assert_within_two_ulp(isa: Isa, inputs: &[f32], results: &[f32], exact: fn(f64) -> f64) {
        for (&x, &result) in inputs.iter().zip(results) {
            let exact = exact(f64::from(x));
            let error_ulp = (f64::from(result) - exact).abs() / exact / f64::from(f32::EPSILON);
            assert!(error_ulp <= 2.0, "{} at {x}: {result}, {error_ulp:.2} ulp off", isa.name());
        }
    }

    #[test]
    fn exponentials_are_within_two_ulp() {
        for isa in Isa::available() {
            let inputs = thousandths(-87_300..=88_300);
            let mut results = inputs.clone();
            isa.run(Exp(&mut results));
            assert_within_two_ulp(isa, &inputs, &results, f64::exp);

            let inputs = thousandths(-126_000..=0);
            let mut results = inputs.clone();
            isa.run(Exp2(&mut results));
            assert_within_two_ulp(isa, &inputs, &results, f64::exp2);
        }
    }

    #[test]
    fn weights_of_8191_are_within_four_millionths() {
        for isa in Isa::available() {
            let inputs = thousandths(-126_000..=0);
            let mut results = inputs.clone();
            isa.run(Exp2Times8191(&mut results));
            for (&x, &result) in inputs.iter().zip(&results) {
                let exact = 8191.0 * f64::from(x).exp2();
                let error = (f64::from(result) / exact - 1.0).abs();
                assert!(error <= 4e-6, "{} at {x}: {result}, not {exact}: {error:e} off", isa.name());
            }
            let mut x = [-126.6, -127.0, -1e30, f32::NEG_INFINITY, f32::NAN];
            isa.run(Exp2Times8191(&mut x));
            assert_eq!(x[..4], [0.0; 4], "{}", isa.name());
            assert!(x[4].is_nan(), "{}", isa.name());
        }
    }

    struct CoarseGelu<'a>(&'a mut [f32]);

    impl Kernel for CoarseGelu<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let len = self.0.len();
            apply_columns_with(s, Activation::GeluErf, Accuracy::Coarse, self.0, len, 0..len);
        }
    }

    #[test]
    fn coarse_gelu_is_within_its_bounds() {
        for isa in Isa::available() {
            let mut inputs = thousandths(-12_000..=12_000);
            inputs.extend([-1e4, -100.0, 100.0, 1e4]);
            let mut results = inputs.clone();
            isa.run(CoarseGelu(&mut results));
            for (&x, &result) in inputs.iter().zip(&results) {
                let exact = crate::reference::activation(Activation::GeluErf, f64::from(x));
                let (error, bound) =
                    ((f64::from(result) - exact).abs(), 1e-4_f64.max(3e-6 * f64::from(x.abs())));
                assert!(error <= bound, "{} at {x}: {result}, not {exact}", isa.name());
            }
            let mut nan = [f32::NAN];
            isa.run(CoarseGelu(&mut nan));
            assert!(nan[0].is_nan(), "{}", isa.name());
        }
    }

    #[test]
    fn exponentials_end_in_zero_infinity_and_nan() {
        for isa in Isa::available() {
            let mut x = [-87.7, -89.0, -1e30, f32::NEG_INFINITY, 88.4, 100.0, 1e30, f32::INFINITY, 0.0];
            isa.run(Exp(&mut x));
            let inf = f32::INFINITY;
            assert_eq!(x, [0.0, 0.0, 0.0, 0.0, inf, inf, inf, inf, 1.0], "{}", isa.name());
            let mut x = [-126.6, -127.0, -1e30, f32::NEG_INFINITY, 0.0, -1.0];
            isa.run(Exp2(&mut x));
            assert_eq!(x, [0.0, 0.0, 0.0, 0.0, 1.0, 0.5], "{}", isa.name());
            let mut x = [f32::NAN; 2];
            isa.run(Exp(&mut x[..1]));
            isa.run(Exp2(&mut x[1..]));
            assert!(x[0].is_nan() && x[1].is_nan(), "{}", isa.name());
        }
    }
}
