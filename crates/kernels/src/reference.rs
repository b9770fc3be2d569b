//! Scalar twins of the kernels: plain loops, f32 storage, f64 arithmetic. The oracle of the tests and of the
//! encoder's reference device; slow, and meant to be read.

use crate::act::Activation;
use crate::attention::Sees;
use crate::cells::{Cache, Heads, Mask, Shape};
use crate::dropout::{MaskKey, Rate, philox};
use crate::dtype::Dtype;
use crate::gemm::Epilogue;
use crate::norm::L2_NORM_MIN;
use crate::perturb::{Perturbation, normals};
use crate::rotary::Angles;
use half::f16;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// [`crate::gemm::linear`] with the weight `[out_features, in_features]` as PyTorch stores it, exactly: what every
/// dtype comes near to.
pub fn linear(
    x: &[f32],
    rows: usize,
    weight: &[f32],
    out_features: usize,
    in_features: usize,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) {
    assert_eq!(x.len(), rows * in_features, "x [{rows}, {in_features}]");
    assert_eq!(weight.len(), out_features * in_features, "weight [{out_features}, {in_features}]");
    assert_eq!(out.len(), rows * out_features, "out [{rows}, {out_features}]");
    let widened = |numbers: &[f32]| numbers.iter().map(|&v| f64::from(v)).collect();
    let operands =
        Operands { in_features, x: widened(x), weight: widened(weight), row_steps: vec![0.0; rows] };
    operands.linear(epilogue, out);
}

/// The numbers that a dtype makes of the rows and the weight of a linear layer.
#[derive(Clone, Debug)]
pub struct Operands {
    /// Width of a row and of an output's weights.
    pub in_features: usize,
    /// `[rows, in_features]`; a row of integers that holds a NaN or an infinity is all NaN.
    pub x: Vec<f64>,
    /// `[out_features, in_features]`
    pub weight: Vec<f64>,
    /// `[rows]`: how far apart neighbouring integers of a row are; 0 where each number is rounded by itself.
    pub row_steps: Vec<f64>,
}

impl Operands {
    /// Rounds `x` `[rows, in_features]` and `weight` `[out_features, in_features]`.
    pub fn rounded(dtype: Dtype, x: &[f32], weight: &[f32], in_features: usize) -> Operands {
        let rows = || x.chunks_exact(in_features);
        let outputs = || weight.chunks_exact(in_features);
        let unscaled = |number: fn(f32) -> f64| Operands {
            in_features,
            x: x.iter().map(|&v| number(v)).collect(),
            weight: weight.iter().map(|&v| number(v)).collect(),
            row_steps: rows().map(|_| 0.0).collect(),
        };
        let scaled = |weight: Vec<Integers>, rows: Vec<Integers>| Operands {
            in_features,
            x: rows.iter().flat_map(Integers::numbers).collect(),
            weight: weight.iter().flat_map(Integers::numbers).collect(),
            row_steps: rows.iter().map(|row| f64::from(row.step)).collect(),
        };
        match dtype {
            Dtype::F32 => unscaled(f64::from),
            Dtype::Bf16 => unscaled(bf16),
            Dtype::Int16 => {
                // The 31 bits of a sum are shared evenly for the output that needs most of them.
                let share = outputs().map(|w| magnitude_sum(w) / f64::from(magnitude(w))).fold(1.0, f64::max);
                let weight_max = (SUM_MAX / share).sqrt().floor().min(32_767.0) as f32;
                let weight: Vec<_> = outputs().map(|w| Integers::symmetric(w, weight_max, 0.0)).collect();
                let sum = weight.iter().map(|w| magnitude_sum(&w.integers)).fold(1.0, f64::max);
                let row_max = (SUM_MAX / sum).floor().min(32_767.0) as f32;
                scaled(weight, rows().map(|x| Integers::symmetric(x, row_max, ROW_STEP_MIN)).collect())
            }
            Dtype::Int8 => {
                let weight_max = (SUM_MAX / 255.0 / in_features as f64).floor().min(127.0) as f32;
                let weight = outputs().map(|w| Integers::symmetric(w, weight_max, 0.0)).collect();
                scaled(weight, rows().map(|x| Integers::from_low(x, 255.0, ROW_STEP_MIN)).collect())
            }
        }
    }

    /// `activation(x . weight^T + bias) + residual` with these numbers, in f64.
    pub fn linear(&self, epilogue: Epilogue<'_>, out: &mut [f32]) {
        let out_features = self.weight.len() / self.in_features;
        for (i, out) in out.iter_mut().enumerate() {
            let (row, output) = (i / out_features, i % out_features);
            let x = &self.x[row * self.in_features..][..self.in_features];
            let weight = &self.weight[output * self.in_features..][..self.in_features];
            let product: f64 = x.iter().zip(weight).map(|(x, w)| x * w).sum();
            let bias = epilogue.bias.map_or(0.0, |bias| f64::from(bias[output]));
            let residual = epilogue.residual.map_or(0.0, |residual| f64::from(residual[i]));
            *out = (activation(epilogue.activation, product + bias) + residual) as f32;
        }
    }
}

/// What a sum of products of integers stays below.
const SUM_MAX: f64 = 2_147_000_000.0;

/// Rows whose integers would be no further apart than this are one number.
const ROW_STEP_MIN: f32 = 1e-30;

/// Numbers that stand for `integer * step + origin`.
struct Integers {
    integers: Vec<f32>,
    step: f32,
    origin: f32,
}

impl Integers {
    /// Integers `-max..=max`, the largest magnitude at an end of them.
    fn symmetric(x: &[f32], max: f32, step_min: f32) -> Integers {
        Integers::rounded(x, magnitude(x) / max, 0.0, step_min)
    }

    /// Integers `0..=max` from the least number to the largest.
    fn from_low(x: &[f32], max: f32, step_min: f32) -> Integers {
        let low = x.iter().copied().fold(f32::INFINITY, f32::min);
        let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Integers::rounded(x, (high - low) / max, low, step_min)
    }

    fn rounded(x: &[f32], step: f32, origin: f32, step_min: f32) -> Integers {
        if x.iter().any(|v| !v.is_finite()) {
            return Integers { integers: vec![f32::NAN; x.len()], step: f32::NAN, origin };
        }
        if step <= step_min {
            return Integers { integers: vec![0.0; x.len()], step: 0.0, origin };
        }
        let integer = |&v: &f32| ((f64::from(v) - f64::from(origin)) / f64::from(step)).round_ties_even();
        Integers { integers: x.iter().map(|v| integer(v) as f32).collect(), step, origin }
    }

    fn numbers(&self) -> impl Iterator<Item = f64> {
        let (step, origin) = (f64::from(self.step), f64::from(self.origin));
        self.integers.iter().map(move |&integer| f64::from(integer) * step + origin)
    }
}

/// The nearest bfloat16, ties to the one whose last bit is 0.
fn bf16(x: f32) -> f64 {
    const CUT: u32 = 0xffff;
    let cut = x.to_bits() & CUT;
    let kept = x.to_bits() - cut;
    let is_up = cut > 0x8000 || (cut == 0x8000 && kept & 0x1_0000 != 0);
    f64::from(if x.is_nan() || !is_up { f32::from_bits(kept) } else { f32::from_bits(kept + 0x1_0000) })
}

fn magnitude(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |largest, v| v.abs().max(largest))
}

fn magnitude_sum(x: &[f32]) -> f64 {
    x.iter().map(|v| f64::from(v.abs())).sum()
}

/// [`crate::attention::varlen`].
pub fn attention(
    qkv: &[f32],
    cu_seqlens: &[u32],
    heads: usize,
    head_size: usize,
    scale: f32,
    sees: Sees,
    out: &mut [f32],
) {
    let width = heads * head_size;
    assert_eq!(qkv.len(), 3 * out.len(), "qkv is three times as wide as out");
    let vector = |token: usize, block: usize, head: usize| {
        &qkv[(token * 3 + block) * width + head * head_size..][..head_size]
    };
    for bounds in cu_seqlens.windows(2) {
        let tokens = bounds[0] as usize..bounds[1] as usize;
        for (query, head) in tokens.clone().flat_map(|t| (0..heads).map(move |h| (t, h))) {
            let seen = |&key: &usize| match sees {
                Sees::All => true,
                Sees::Near(tokens) => key.abs_diff(query) <= tokens,
                Sees::Before => key <= query,
            };
            let score = |key| dot_f32(vector(query, 0, head), vector(key, 1, head)) * f64::from(scale);
            let scores: Vec<f64> = tokens.clone().filter(seen).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for feature in 0..head_size {
                let values = tokens.clone().filter(seen).map(|t| f64::from(vector(t, 2, head)[feature]));
                let sum: f64 = values.zip(&weights).map(|(value, weight)| value * weight).sum();
                out[query * width + head * head_size + feature] = (sum / total) as f32;
            }
        }
    }
}

/// [`crate::cells::attend`].
pub fn attend(shape: Shape, queries: Heads<'_, f32>, cache: Cache<'_>, mask: Mask<'_>, out: &mut [f32]) {
    let Shape { heads, cache_heads, head_size, scale } = shape;
    for (at, out) in out.chunks_exact_mut(head_size).enumerate() {
        let (token, head) = (at / heads, at % heads);
        let query = &queries.data[token * queries.row + head * queries.head..][..head_size];
        let vector = |of: Heads<'_, f16>, cell: usize| -> Vec<f32> {
            let head = head / (heads / cache_heads);
            let vector = &of.data[cell * of.row + head * of.head..][..head_size];
            vector.iter().map(|feature| feature.to_f32()).collect()
        };
        let mask = |cell: usize| mask.data[token * mask.row + cell].to_f64();
        let seen: Vec<usize> = (0..cache.cells).filter(|&cell| mask(cell) > f64::NEG_INFINITY).collect();
        let score = |&cell: &usize| dot_f32(query, &vector(cache.keys, cell)) * f64::from(scale) + mask(cell);
        let scores: Vec<f64> = seen.iter().map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let mut sums = vec![0.0; head_size];
        for (&cell, weight) in seen.iter().zip(&weights) {
            for (sum, value) in sums.iter_mut().zip(vector(cache.values, cell)) {
                *sum += weight * f64::from(value);
            }
        }
        let total: f64 = weights.iter().sum();
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = if seen.is_empty() { 0.0 } else { (sum / total) as f32 };
        }
    }
}

/// [`crate::rotary::rotate`].
pub fn rotate(qkv: &mut [f32], cu_seqlens: &[u32], heads: usize, angles: &Angles) {
    let half = angles.head_size() / 2;
    let width = heads * angles.head_size();
    for ends in cu_seqlens.windows(2) {
        for token in ends[0]..ends[1] {
            let (cos, sin) = angles.at((token - ends[0]) as usize);
            let row = &mut qkv[token as usize * 3 * width..][..2 * width];
            for head in row.chunks_exact_mut(angles.head_size()) {
                for i in 0..half {
                    let (left, right) = (f64::from(head[i]), f64::from(head[half + i]));
                    let (cos, sin) = (f64::from(cos[i]), f64::from(sin[i]));
                    head[i] = (left * cos - right * sin) as f32;
                    head[half + i] = (right * cos + left * sin) as f32;
                }
            }
        }
    }
}

/// [`crate::gate::gate`].
pub fn gate(f: Activation, x: &[f32], width: usize, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let at = i / width * 2 * width + i % width;
        *out = (activation(f, f64::from(x[at])) * f64::from(x[at + width])) as f32;
    }
}

/// [`crate::act::apply`].
pub fn activate(f: Activation, x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = activation(f, f64::from(*x)) as f32);
}

/// [`crate::dropout::dropout`].
pub fn dropout(rate: Rate, mask: MaskKey, site: u32, x: &mut [f32]) {
    let MaskKey { key, trial, pass } = mask;
    for (i, x) in x.iter_mut().enumerate() {
        let words = philox([(i / 8) as u32, site, pass, trial], key);
        let bits = (words[i % 8 / 2] >> (16 * (i % 2))) & 0xFFFF;
        let factor =
            if f64::from(bits) < rate.p() * 65_536.0 { 0.0 } else { (1.0 / (1.0 - rate.p())) as f32 };
        *x *= factor;
    }
}

/// [`crate::perturb::perturb`].
pub fn perturb(perturbation: Perturbation, mask: MaskKey, site: u32, x: &mut [f32]) {
    let (add, times) = match perturbation {
        Perturbation::Dropout(rate) => return dropout(rate, mask, site, x),
        Perturbation::Gaussian(magnitude) => (magnitude.get() * deviation(x), 0.0),
        Perturbation::Scale(magnitude) => (0.0, magnitude.get()),
    };
    let MaskKey { key, trial, pass } = mask;
    for (i, x) in x.iter_mut().enumerate() {
        let words = philox([(i / 8) as u32, site, pass, trial], key);
        let bits = (words[i % 8 / 2] >> (16 * (i % 2))) & 0xFFFF;
        *x += (add + times * *x) * normals()[bits as usize];
    }
}

fn deviation(x: &[f32]) -> f32 {
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
    let squares: f64 = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
    if x.len() < 2 { 0.0 } else { (squares / (x.len() - 1) as f64).sqrt() as f32 }
}

/// [`crate::norm::layer_norm`].
pub fn layer_norm(x: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32) {
    let d = gamma.len();
    for row in x.chunks_exact_mut(d) {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / d as f64;
        let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / d as f64;
        let factor = 1.0 / (variance + f64::from(eps)).sqrt();
        for ((v, &gamma), &beta) in row.iter_mut().zip(gamma).zip(beta) {
            *v = ((f64::from(*v) - mean) * factor * f64::from(gamma) + f64::from(beta)) as f32;
        }
    }
}

/// [`crate::norm::l2_normalize`].
pub fn l2_normalize(x: &mut [f32], d: usize) {
    for row in x.chunks_exact_mut(d) {
        let norm = dot_f32(row, row).sqrt();
        let divisor = if norm < f64::from(L2_NORM_MIN) { f64::from(L2_NORM_MIN) } else { norm };
        for v in row {
            *v = (f64::from(*v) / divisor) as f32;
        }
    }
}

/// [`crate::act::apply`].
pub fn apply(f: Activation, x: &mut [f32]) {
    for v in x {
        *v = activation(f, f64::from(*v)) as f32;
    }
}

/// An activation of one number, to f64 accuracy.
pub fn activation(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Identity => x,
        Activation::GeluErf => x * 0.5 * erfc(-x * FRAC_1_SQRT_2),
        Activation::GeluTanh => x * sigmoid((8.0 / PI).sqrt() * (x + 0.044_715 * x.powi(3))),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        // Not f64::max, which would drop a NaN.
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Tanh => x.tanh(),
        Activation::Silu => x * sigmoid(x),
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Complementary error function: the series of erf near zero, the continued fraction of erfc far from it
/// (Abramowitz and Stegun 7.1.6 and 7.1.14); both to about 1e-14.
fn erfc(x: f64) -> f64 {
    const SERIES_BELOW: f64 = 2.5;
    const TERMS: u32 = 120;
    if x.is_nan() {
        x
    } else if x.abs() < SERIES_BELOW {
        let mut term = x;
        let mut sum = x;
        for n in 1..TERMS {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        1.0 - 2.0 / PI.sqrt() * (-x * x).exp() * sum
    } else if x < 0.0 {
        2.0 - erfc(-x)
    } else {
        let mut fraction = x;
        for n in (1..TERMS).rev() {
            fraction = x + f64::from(n) / 2.0 / fraction;
        }
        (-x * x).exp() / (PI.sqrt() * fraction)
    }
}

/// [`crate::dot::f32`].
pub fn dot_f32(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// [`crate::dot::f16`].
pub fn dot_f16(row: &[f16], query: &[f32]) -> f64 {
    row.iter().zip(query).map(|(&a, &b)| a.to_f64() * f64::from(b)).sum()
}

/// [`crate::dot::bytes`] times both scales, of one row of bytes less their centre.
pub fn dot_i8(row: &[i8], query: &[f32]) -> f64 {
    row.iter().zip(query).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_and_ties_to_even() {
        let ulp = 2.0_f32.powi(-7);
        let cases = [
            (1.0, 1.0),
            (1.0 + 0.5 * ulp, 1.0),
            (1.0 + 0.501 * ulp, 1.0 + ulp),
            (1.0 + 1.5 * ulp, 1.0 + 2.0 * ulp),
            (-1.0 - 1.499 * ulp, -1.0 - ulp),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
        ];
        for (x, expected) in cases {
            assert_eq!(bf16(x), f64::from(expected), "{x}");
        }
        assert!(bf16(f32::from_bits(0x7fff_ffff)).is_nan());
    }

    #[test]
    fn integers_fill_their_range() {
        let Operands { x, weight, row_steps, .. } =
            Operands::rounded(Dtype::Int8, &[-1.0, 0.0, 1.5, 1.55], &[0.5, -2.0], 2);
        assert_eq!(row_steps, [1.0 / 255.0, (1.55 - 1.5) / 255.0].map(|step: f32| f64::from(step)));
        assert!(x[0] == -1.0 && x[1].abs() < 1e-7 && (x[3] - 1.55).abs() < 1e-6, "{x:?}");
        // 0.5 is 31.75 steps of 2 / 127.
        assert!((weight[0] - 64.0 / 127.0).abs() < 1e-7 && (weight[1] + 2.0).abs() < 1e-7, "{weight:?}");
    }

    #[test]
    fn erfc_has_the_values_of_the_tables() {
        let cases = [
            (-3.0, 1.999_977_909_503_001_4),
            (-0.5, 1.520_499_877_813_046_5),
            (0.0, 1.0),
            (0.1, 0.887_537_083_981_715),
            (1.0, 0.157_299_207_050_285_13),
            (2.4, 6.885_138_966_450_786e-4),
            (2.6, 2.360_344_165_293_492e-4),
            (5.0, 1.537_459_794_428_034_8e-12),
            (f64::INFINITY, 0.0),
        ];
        for (x, expected) in cases {
            let error = (erfc(x) - expected).abs();
            assert!(error <= 1e-11 * expected, "erfc({x}) = {}, not {expected}", erfc(x));
        }
    }
}
