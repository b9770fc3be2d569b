//! Scalar twins of the kernels: plain loops, f32 storage, f64 arithmetic. The oracle of the tests and of the
//! encoder's reference device; slow, and meant to be read.

use crate::act::Activation;
use crate::gemm::Epilogue;
use crate::norm::L2_NORM_MIN;
use half::f16;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// [`crate::gemm::linear`] with the weight `[out_features, in_features]` as PyTorch stores it.
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
    for (i, out) in out.iter_mut().enumerate() {
        let (row, output) = (i / out_features, i % out_features);
        let product =
            dot_f32(&x[row * in_features..][..in_features], &weight[output * in_features..][..in_features]);
        let bias = epilogue.bias.map_or(0.0, |bias| f64::from(bias[output]));
        let residual = epilogue.residual.map_or(0.0, |residual| f64::from(residual[i]));
        *out = (activation(epilogue.activation, product + bias) + residual) as f32;
    }
}

/// [`crate::attention::varlen`].
pub fn attention(
    qkv: &[f32],
    cu_seqlens: &[u32],
    heads: usize,
    head_size: usize,
    scale: f32,
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
            let score = |key| dot_f32(vector(query, 0, head), vector(key, 1, head)) * f64::from(scale);
            let scores: Vec<f64> = tokens.clone().map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for feature in 0..head_size {
                let values = tokens.clone().map(|t| f64::from(vector(t, 2, head)[feature]));
                let sum: f64 = values.zip(&weights).map(|(value, weight)| value * weight).sum();
                out[query * width + head * head_size + feature] = (sum / total) as f32;
            }
        }
    }
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

/// [`crate::dot::i8`].
pub fn dot_i8(row: &[i8], query: &[f32]) -> f64 {
    row.iter().zip(query).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

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
