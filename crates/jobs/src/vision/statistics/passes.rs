//! The quantities of one image, from its passes.
//!
//! Nearly all follow from the products of passes with each other (their Gram matrix), which is small and is kept in
//! files where the passes are not.

use serde::Serialize;

use super::spectrum::eigenvalues;
use super::{Bias, mean, variance};

/// Eigenvalues that are kept.
const TOP: usize = 10;
/// Cosines are held this far from 1 before their angle is taken, as the study does.
const COSINE_MARGIN: f64 = 1e-6;
/// A norm of a covariance is at least this, as the study has it.
const NORM_MIN: f64 = 1e-12;

/// Passes of one image.
#[derive(Clone, Copy, Debug)]
pub struct Passes<'a> {
    /// `passes * dim` numbers, a pass after the other.
    pub features: &'a [f64],
    /// Numbers of one pass.
    pub dim: usize,
}

/// Products of passes with each other.
#[derive(Clone, Debug)]
pub struct Gram {
    /// `passes * passes`.
    pub products: Vec<f64>,
    /// How many.
    pub passes: usize,
    /// Numbers of one pass.
    pub dim: usize,
}

/// What the passes of one image say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quantities {
    /// Of features as they are.
    pub pre: Spread,
    /// Of features of length 1.
    pub post: Spread,
    /// V2, with R9.
    pub angular_var: Estimate,
    /// V11.
    pub norm_var: f64,
    /// V12.
    pub mean_cosine_dev: f64,
}

/// How passes spread.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// V1, with R9.
    pub trace: Estimate,
    /// V5: the ten largest, or as many as there are.
    pub eigs_top10: Vec<f64>,
    /// V6.
    pub effective_rank: Option<f64>,
    /// V7.
    pub spectral_entropy: Option<f64>,
    /// V8 and V9 are one number: the largest eigenvalue over the sum of all, which is the trace.
    pub top1_ratio: Option<f64>,
    /// V10, where the passes themselves are there.
    pub max_dim_var: Option<f64>,
    /// V3, where the passes themselves are there.
    pub offdiag: Option<f64>,
    /// Of the covariance, from which V3 begins.
    #[serde(skip)]
    norm_squared: f64,
}

/// What a run keeps of the passes of an image, at each number of passes that it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// V1 of features as they are, with R9.
    pub trace_pre: Estimate,
    /// V1 of features of length 1, with R9.
    pub trace_post: Estimate,
    /// V2.
    pub angular_var: f64,
}

/// A number with the error that the number of passes leaves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Its standard error, by leaving out a pass at a time (R9); none of fewer than three passes.
    pub se: Option<f64>,
}

impl Passes<'_> {
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.features.len().checked_div(self.dim).unwrap_or(0)
    }

    /// All quantities.
    #[must_use]
    pub fn quantities(&self, bias: Bias) -> Quantities {
        let mut found = self.gram().quantities(bias);
        found.pre.of_dims(&self.dim_variances());
        let unit = self.unit();
        found.post.of_dims(&Passes { features: &unit, dim: self.dim }.dim_variances());
        found
    }

    /// Traces and angles alone, straight from the features: work that grows with passes and no faster.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let unit = self.unit();
        let unit = Passes { features: &unit, dim: self.dim };
        let mean = unit.dim_means();
        let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        let limit = 1.0 - COSINE_MARGIN;
        let angle = |row: &[f64]| {
            let along: f64 = row.iter().zip(&mean).map(|(x, m)| x * m).sum();
            if length > 0.0 { (along / length).clamp(-limit, limit).acos() } else { 0.0_f64.acos() }
        };
        let angles: Vec<f64> = unit.features.chunks_exact(self.dim).map(angle).collect();
        Summary { trace_pre: self.trace(), trace_post: unit.trace(), angular_var: variance(&angles, 1) }
    }

    /// V1 of features as they are, with R9.
    #[must_use]
    pub fn trace(&self) -> Estimate {
        let means = self.dim_means();
        let square = |row: &[f64]| {
            row.iter().zip(&means).map(|(x, mean)| (x - mean) * (x - mean)).sum::<f64>() / self.dim as f64
        };
        trace_of(&self.features.chunks_exact(self.dim).map(square).collect::<Vec<f64>>(), Bias::Unbiased)
    }

    /// Sums of squared deviations of each number from its mean.
    #[must_use]
    pub fn dim_squares(&self, means: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.dim];
        for row in self.features.chunks_exact(self.dim) {
            for ((sum, value), mean) in sums.iter_mut().zip(row).zip(means) {
                *sum += (value - mean) * (value - mean);
            }
        }
        sums
    }

    /// Products of all passes.
    #[must_use]
    pub fn gram(&self) -> Gram {
        let rows: Vec<&[f64]> = self.features.chunks_exact(self.dim).collect();
        let passes = rows.len();
        let mut products = vec![0.0; passes * passes];
        for (s, a) in rows.iter().enumerate() {
            for (t, b) in rows.iter().enumerate().skip(s) {
                let product = a.iter().zip(*b).map(|(x, y)| x * y).sum();
                products[s * passes + t] = product;
                products[t * passes + s] = product;
            }
        }
        Gram { products, passes, dim: self.dim }
    }

    /// The variance of each number over the passes.
    #[must_use]
    pub fn dim_variances(&self) -> Vec<f64> {
        let column = |d: usize| self.features.iter().skip(d).step_by(self.dim).copied().collect::<Vec<f64>>();
        (0..self.dim).map(|d| variance(&column(d), 1)).collect()
    }

    /// The mean of each number over the passes.
    #[must_use]
    pub fn dim_means(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.dim];
        for row in self.features.chunks_exact(self.dim) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        sums.iter().map(|sum| sum / self.count() as f64).collect()
    }

    /// V4: the share of a covariance's absolute values that stands beside its diagonal. The square of the
    /// features' length in work, so only where it is asked for.
    #[must_use]
    pub fn offdiag_abs(&self) -> f64 {
        let means = self.dim_means();
        let centred: Vec<Vec<f64>> = (0..self.dim)
            .map(|d| self.features.iter().skip(d).step_by(self.dim).map(|value| value - means[d]).collect())
            .collect();
        let (mut all, mut diagonal) = (0.0, 0.0);
        for (d, a) in centred.iter().enumerate() {
            diagonal += a.iter().map(|x| x * x).sum::<f64>();
            for b in &centred[d + 1..] {
                all += 2.0 * a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>().abs();
            }
        }
        if all + diagonal > 0.0 { all / (all + diagonal) } else { 0.0 }
    }

    /// Each pass at length 1; one of nothing but zeros stays so.
    #[must_use]
    pub fn unit(&self) -> Vec<f64> {
        let mut unit = Vec::with_capacity(self.features.len());
        for row in self.features.chunks_exact(self.dim) {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            unit.extend(row.iter().map(|x| if length > 0.0 { x / length } else { 0.0 }));
        }
        unit
    }
}

impl Gram {
    /// All quantities but those that need single numbers of the passes.
    #[must_use]
    pub fn quantities(&self, bias: Bias) -> Quantities {
        let lengths: Vec<f64> = (0..self.passes).map(|t| self.at(t, t).max(0.0).sqrt()).collect();
        let unit = self.unit(&lengths);
        let angles = unit.angles(None);
        let leave_one_out: Vec<f64> = if self.passes < 3 {
            vec![]
        } else {
            (0..self.passes).map(|t| variance(&unit.angles(Some(t)).angles, 1)).collect()
        };
        Quantities {
            pre: self.spread(bias),
            post: unit.spread(bias),
            angular_var: Estimate { value: variance(&angles.angles, 1), se: jackknife(&leave_one_out) },
            norm_var: variance(&lengths, 1),
            mean_cosine_dev: 1.0 - mean(&angles.cosines),
        }
    }

    fn at(&self, s: usize, t: usize) -> f64 {
        self.products[s * self.passes + t]
    }

    /// Of the same passes at length 1.
    fn unit(&self, lengths: &[f64]) -> Gram {
        let product = |s: usize, t: usize| {
            let scale = lengths[s] * lengths[t];
            if scale > 0.0 { self.at(s, t) / scale } else { 0.0 }
        };
        let products = (0..self.passes * self.passes).map(|at| product(at / self.passes, at % self.passes));
        Gram { products: products.collect(), ..*self }
    }

    fn spread(&self, bias: Bias) -> Spread {
        let centred = self.centred();
        let squares: Vec<f64> =
            (0..self.passes).map(|t| centred[t * self.passes + t] / self.dim as f64).collect();
        let trace = trace_of(&squares, bias);
        let freedom = self.passes as f64 - 1.0;
        let scaled: Vec<f64> = centred.iter().map(|product| product / freedom).collect();
        let eigenvalues = eigenvalues(&scaled, self.passes).unwrap_or_default();
        // Rounding leaves the last ones a little below zero.
        let eigenvalues: Vec<f64> = eigenvalues.into_iter().map(|value| value.max(0.0)).collect();
        let (sum, squares): (f64, f64) =
            eigenvalues.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        let shares = eigenvalues.iter().map(|value| value / sum).filter(|share| *share > 0.0);
        Spread {
            trace,
            effective_rank: (squares > 0.0).then(|| sum * sum / squares),
            spectral_entropy: (sum > 0.0).then(|| -shares.map(|share| share * share.ln()).sum::<f64>()),
            top1_ratio: eigenvalues.first().filter(|_| sum > 0.0).map(|first| first / sum),
            eigs_top10: eigenvalues.into_iter().take(TOP).collect(),
            max_dim_var: None,
            offdiag: None,
            norm_squared: squares,
        }
    }

    /// Products of deviations from the mean pass.
    fn centred(&self) -> Vec<f64> {
        let n = self.passes;
        let rows: Vec<f64> = (0..n).map(|s| mean(&self.products[s * n..][..n])).collect();
        let all = mean(&rows);
        (0..n * n).map(|at| self.products[at] - rows[at / n] - rows[at % n] + all).collect()
    }

    /// Of passes of length 1: the angle of each to the direction of their mean, all but one of them.
    fn angles(&self, without: Option<usize>) -> Angles {
        let kept: Vec<usize> = (0..self.passes).filter(|t| Some(*t) != without).collect();
        let along: Vec<f64> =
            kept.iter().map(|&s| kept.iter().map(|&t| self.at(s, t)).sum::<f64>()).collect();
        let length = along.iter().sum::<f64>().max(0.0).sqrt();
        let cosines: Vec<f64> =
            along.iter().map(|along| if length > 0.0 { along / length } else { 0.0 }).collect();
        let limit = 1.0 - COSINE_MARGIN;
        Angles { angles: cosines.iter().map(|cosine| cosine.clamp(-limit, limit).acos()).collect(), cosines }
    }
}

struct Angles {
    angles: Vec<f64>,
    cosines: Vec<f64>,
}

impl Spread {
    /// What needs the variance of each number.
    fn of_dims(&mut self, variances: &[f64]) {
        self.max_dim_var = variances.iter().copied().reduce(f64::max);
        let diagonal: f64 = variances.iter().map(|variance| variance * variance).sum();
        let beside = (self.norm_squared - diagonal).max(0.0).sqrt();
        self.offdiag = Some(beside / self.norm_squared.sqrt().max(NORM_MIN));
    }
}

/// From the squared deviation of each pass.
fn trace_of(squares: &[f64], bias: Bias) -> Estimate {
    Estimate {
        value: squares.iter().sum::<f64>() / (squares.len() as f64 - bias.ddof() as f64),
        se: jackknife(&without_one(squares, bias)),
    }
}

/// The trace without each pass in turn, from the squared deviations of all: leaving out one moves the mean.
fn without_one(squares: &[f64], bias: Bias) -> Vec<f64> {
    let passes = squares.len() as f64;
    if squares.len() < 3 {
        return vec![];
    }
    let sum: f64 = squares.iter().sum();
    let freedom = passes - 1.0 - bias.ddof() as f64;
    squares.iter().map(|square| (sum - square * passes / (passes - 1.0)) / freedom).collect()
}

/// R9, from values without each pass in turn.
fn jackknife(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    Some(((n - 1.0) * variance(values, 0)).sqrt())
}
