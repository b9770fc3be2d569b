//! Whether images that are made worse become less certain: the test that a measure of uncertainty must pass.

use serde::Serialize;

use super::mean;
use super::ranks::ranks;
use crate::statistics::quantile;

/// Pairs up to which every outcome is counted, as scipy does.
const EXACT_MAX: usize = 50;

/// The same images before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Images.
    pub num_images: usize,
    /// W1: share of images whose value grew.
    pub frac_increased: f64,
    /// The median of what was added.
    pub median_diff: f64,
    /// Its mean.
    pub mean_diff: f64,
    /// The mean after over the mean before, less 1, in percent.
    pub rel_change_pct: f64,
    /// W2: Wilcoxon's test of signed ranks, one-sided: how often chance alone makes values grow so. None where no image
    /// changed.
    pub wilcoxon_p: Option<f64>,
}

impl Paired {
    /// None of no images, or where the sides differ in number.
    #[must_use]
    pub fn of(before: &[f64], after: &[f64]) -> Option<Paired> {
        if before.is_empty() || before.len() != after.len() {
            return None;
        }
        let added: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        let mut sorted = added.clone();
        sorted.sort_by(f64::total_cmp);
        Some(Paired {
            num_images: added.len(),
            frac_increased: added.iter().filter(|added| **added > 0.0).count() as f64 / added.len() as f64,
            median_diff: quantile(&sorted, 0.5),
            mean_diff: mean(&added),
            rel_change_pct: 100.0 * (mean(after) / mean(before) - 1.0),
            wilcoxon_p: wilcoxon(&added),
        })
    }
}

/// The chance of a sum of positive ranks at least so large. Exact for few pairs without ties, else normal, corrected
/// for ties; images without a change are left out.
fn wilcoxon(added: &[f64]) -> Option<f64> {
    let changed: Vec<f64> = added.iter().copied().filter(|added| *added != 0.0).collect();
    if changed.is_empty() {
        return None;
    }
    let sizes: Vec<f64> = changed.iter().map(|added| added.abs()).collect();
    let ranked = ranks(&sizes);
    let positive: f64 =
        ranked.iter().zip(&changed).filter(|(_, added)| **added > 0.0).map(|(rank, _)| rank).sum();
    let ties = tied(&sizes);
    if changed.len() <= EXACT_MAX && ties == 0.0 && changed.len() == added.len() {
        return Some(exact(changed.len(), positive as usize));
    }
    let n = changed.len() as f64;
    let expected = n * (n + 1.0) / 4.0;
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
    Some(upper_tail((positive - expected) / variance.sqrt()))
}

/// The sum of `t^3 - t` over groups of `t` equal sizes.
fn tied(sizes: &[f64]) -> f64 {
    let mut sorted = sizes.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.chunk_by(|a, b| a == b).map(|group| (group.len() as f64).powi(3) - group.len() as f64).sum()
}

/// The share of all ways to sign `1..=n` whose positive ranks sum to at least `sum`.
fn exact(n: usize, sum: usize) -> f64 {
    let largest = n * (n + 1) / 2;
    let mut ways = vec![0.0; largest + 1];
    ways[0] = 1.0;
    for rank in 1..=n {
        for at in (rank..=largest).rev() {
            ways[at] += ways[at - rank];
        }
    }
    ways[sum..].iter().sum::<f64>() / 2.0_f64.powi(n as i32)
}

/// The normal distribution above `z`: a continued fraction far out, a series near the middle; both end at the
/// precision of f64.
fn upper_tail(z: f64) -> f64 {
    const NEAR: f64 = 3.0;
    const TERMS: i32 = 200;
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if z.abs() < NEAR {
        let (mut term, mut sum) = (z, z);
        for k in 1..TERMS {
            term *= z * z / f64::from(2 * k + 1);
            sum += term;
        }
        return 0.5 - density * sum;
    }
    let mut below = z.abs();
    for k in (1..TERMS).rev() {
        below = z.abs() + f64::from(k) / below;
    }
    let tail = density / below;
    if z > 0.0 { tail } else { 1.0 - tail }
}
