//! Which numbers of a feature tell images apart: weights that are taken from one run and frozen for others.

use super::{mean, variance};

/// Numbers of the trace over the most telling ones.
pub const TOP_DIMS: usize = 64;

/// A weight for each number of a feature; they sum to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    weights: Vec<f64>,
    /// The most telling ones, the first of equal ones first.
    top: Vec<usize>,
}

impl Weights {
    /// The variance over images of each number's mean over passes. `means`: a row for each image. None where
    /// images do not differ or are fewer than two.
    #[must_use]
    pub fn of_means(means: &[Vec<f64>]) -> Option<Weights> {
        let dim = means.first()?.len();
        let over_images = |d: usize| means.iter().map(|row| row[d]).collect::<Vec<_>>();
        Weights::of((0..dim).map(|d| variance(&over_images(d), 1)).collect())
    }

    /// From a file; scaled to sum to 1. None where they are not all finite, at least 0, and some of them more.
    #[must_use]
    pub fn of(weights: Vec<f64>) -> Option<Weights> {
        let sum: f64 = weights.iter().sum();
        let is_usable = weights.iter().all(|weight| *weight >= 0.0) && sum > 0.0 && sum.is_finite();
        if !is_usable {
            return None;
        }
        let weights: Vec<f64> = weights.into_iter().map(|weight| weight / sum).collect();
        let mut top: Vec<usize> = (0..weights.len()).collect();
        top.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
        top.truncate(TOP_DIMS);
        Some(Weights { weights, top })
    }

    /// As they are frozen.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.weights
    }

    /// V13.
    #[must_use]
    pub fn weighted_trace(&self, variances: &[f64]) -> f64 {
        self.weights.iter().zip(variances).map(|(weight, variance)| weight * variance).sum()
    }

    /// V14.
    #[must_use]
    pub fn top_trace(&self, variances: &[f64]) -> f64 {
        mean(&self.top.iter().map(|&d| variances[d]).collect::<Vec<_>>())
    }
}
