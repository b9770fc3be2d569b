//! What a classifier is unsure of: margins, entropies, and how much the wording of a prompt moves its answer.

use crate::statistics::quantile;

use super::variance;

/// A1: the largest logit less the next; none of fewer than two.
#[must_use]
pub fn margin(logits: &[f64]) -> Option<f64> {
    let mut sorted = logits.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    Some(sorted.first()? - sorted.get(1)?)
}

/// A2: of the softmax, in nats.
#[must_use]
pub fn entropy(logits: &[f64]) -> f64 {
    -softmax(logits).iter().filter(|share| **share > 0.0).map(|share| share * share.ln()).sum::<f64>()
}

/// A3: the variance over templates of the largest share. `templates`: the logits of each.
#[must_use]
pub fn prompt_sensitivity(templates: &[Vec<f64>]) -> f64 {
    let largest = |logits: &Vec<f64>| softmax(logits).into_iter().fold(0.0, f64::max);
    variance(&templates.iter().map(largest).collect::<Vec<_>>(), 1)
}

/// Which values are at or below the quantile.
#[must_use]
pub fn lowest(values: &[f64], share: f64) -> Vec<bool> {
    let limit = quantile(&sorted(values), share);
    values.iter().map(|value| *value <= limit).collect()
}

/// Which values are at or above the quantile from the top.
#[must_use]
pub fn highest(values: &[f64], share: f64) -> Vec<bool> {
    let limit = quantile(&sorted(values), 1.0 - share);
    values.iter().map(|value| *value >= limit).collect()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}
