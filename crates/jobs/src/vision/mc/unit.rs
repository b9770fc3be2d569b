//! What is kept of the passes of one trial over one image, as numbers and as the bytes of a journal.

use std::ops::Range;

use super::super::statistics::Bias;
use super::super::statistics::passes::{Passes, Quantities, Summary};

/// Passes of one trial: what is computed of an image at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Number of the trial among those of so many passes.
    pub trial: usize,
    /// What masks call it.
    pub number: u32,
    /// How many.
    pub passes: usize,
    /// After so many of them a summary is kept; the last one is after all.
    pub snapshots: Vec<usize>,
}

/// What is kept beside moments and summaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Keep {
    /// Products of passes with each other.
    pub gram: bool,
    /// Off-diagonal ratios and eigenvalues.
    pub geometry: bool,
    /// All passes.
    pub passes: bool,
}

/// What is kept of a series over one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// How many there were: of a trial that ended early, fewer than asked for.
    pub passes: usize,
    /// Of each number of the features, over all passes.
    pub mean: Vec<f64>,
    /// Sums of squared deviations from it.
    pub m2: Vec<f64>,
    /// After each snapshot.
    pub summaries: Vec<Kept>,
    /// Products of passes with each other; empty unless asked for.
    pub gram: Vec<f64>,
    /// What else passes say; none unless asked for.
    pub geometry: Option<Geometry>,
    /// Of the distance of the mean to the feature without dropout, over that feature's length, after each snapshot.
    pub distances: Vec<f64>,
    /// All passes; empty unless asked for.
    pub features: Vec<f32>,
}

/// A summary as it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// V1, unbiased.
    pub trace_pre: f64,
    /// R9 of it; not a number of fewer than three passes.
    pub trace_pre_se: f64,
    /// V1 of features of length 1, unbiased.
    pub trace_post: f64,
    /// V2.
    pub angular_var: f64,
}

/// Of the shape of what passes spread over.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    /// V3, before and after scaling.
    pub offdiag: [f64; 2],
    /// V5, before and after scaling; not numbers where there are fewer.
    pub eigenvalues: [[f64; EIGENVALUES]; 2],
    /// V9.
    pub anisotropy: f64,
}

/// Eigenvalues that are kept.
pub const EIGENVALUES: usize = 10;
const KEPT: usize = 4;
const GEOMETRY: usize = 2 + 2 * EIGENVALUES + 1;

impl Unit {
    /// From the features of all passes, and that without dropout.
    #[must_use]
    pub fn of(features: &[f32], still: &[f32], series: &Series, keep: Keep) -> Unit {
        let dim = still.len();
        let numbers: Vec<f64> = features.iter().map(|&x| f64::from(x)).collect();
        let all = Passes { features: &numbers, dim };
        let mean = all.dim_means();
        let passes = all.count();
        let after = |wanted: &usize| Passes { features: &numbers[..passes.min(*wanted) * dim], dim };
        Unit {
            passes,
            m2: all.dim_squares(&mean),
            summaries: series.snapshots.iter().map(|passes| Kept::of(&after(passes).summary())).collect(),
            gram: if keep.gram { all.gram().products } else { vec![] },
            geometry: keep.geometry.then(|| Geometry::of(&all.quantities(Bias::Unbiased))),
            distances: series
                .snapshots
                .iter()
                .map(|passes| distance(&after(passes).dim_means(), still))
                .collect(),
            features: if keep.passes { features.to_vec() } else { vec![] },
            mean,
        }
    }

    /// As they stand in a journal: all numbers, little-endian, one after the other.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let summaries = self
            .summaries
            .iter()
            .flat_map(|kept| [kept.trace_pre, kept.trace_pre_se, kept.trace_post, kept.angular_var]);
        let geometry = self.geometry.iter().flat_map(|geometry| {
            let eigenvalues = geometry.eigenvalues.iter().flatten();
            geometry.offdiag.iter().chain(eigenvalues).chain([&geometry.anisotropy]).copied()
        });
        let parts = [&self.mean, &self.m2, &self.gram, &self.distances];
        let numbers = [self.passes as f64].into_iter().chain(parts.into_iter().flatten().copied());
        let numbers = numbers.chain(summaries).chain(geometry);
        let mut bytes: Vec<u8> = numbers.flat_map(f64::to_le_bytes).collect();
        bytes.extend(self.features.iter().flat_map(|x| x.to_le_bytes()));
        bytes
    }

    /// None of bytes of another length: they are of something else.
    #[must_use]
    pub fn of_bytes(bytes: &[u8], dim: usize, series: &Series, keep: Keep) -> Option<Unit> {
        let snapshots = series.snapshots.len();
        let gram = if keep.gram { series.passes * series.passes } else { 0 };
        let geometry = if keep.geometry { GEOMETRY } else { 0 };
        let features = if keep.passes { series.passes * dim } else { 0 };
        let numbers = 1 + 2 * dim + gram + snapshots + KEPT * snapshots + geometry;
        if bytes.len() != 8 * numbers + 4 * features {
            return None;
        }
        let (numbers, features) = bytes.split_at(8 * numbers);
        let numbers: Vec<f64> =
            numbers.chunks_exact(8).filter_map(|b| Some(f64::from_le_bytes(b.try_into().ok()?))).collect();
        let mut at = 0;
        let mut take = |count: usize| -> Range<usize> {
            at += count;
            at - count..at
        };
        let mut part = |count: usize| numbers[take(count)].to_vec();
        Some(Unit {
            passes: part(1)[0] as usize,
            mean: part(dim),
            m2: part(dim),
            gram: part(gram),
            distances: part(snapshots),
            summaries: part(KEPT * snapshots).chunks_exact(KEPT).map(Kept::of_numbers).collect(),
            geometry: keep.geometry.then(|| Geometry::of_numbers(&part(GEOMETRY))),
            features: features
                .chunks_exact(4)
                .filter_map(|b| Some(f32::from_le_bytes(b.try_into().ok()?)))
                .collect(),
        })
    }
}

impl Kept {
    fn of(summary: &Summary) -> Kept {
        Kept {
            trace_pre: summary.trace_pre.value,
            trace_pre_se: summary.trace_pre.se.unwrap_or(f64::NAN),
            trace_post: summary.trace_post.value,
            angular_var: summary.angular_var,
        }
    }

    fn of_numbers(numbers: &[f64]) -> Kept {
        Kept {
            trace_pre: numbers[0],
            trace_pre_se: numbers[1],
            trace_post: numbers[2],
            angular_var: numbers[3],
        }
    }
}

impl Geometry {
    fn of(all: &Quantities) -> Geometry {
        let spreads = [&all.pre, &all.post];
        Geometry {
            offdiag: spreads.map(|spread| spread.offdiag.unwrap_or(f64::NAN)),
            eigenvalues: spreads.map(|spread| {
                std::array::from_fn(|no| spread.eigs_top10.get(no).copied().unwrap_or(f64::NAN))
            }),
            anisotropy: all.pre.top1_ratio.unwrap_or(f64::NAN),
        }
    }

    fn of_numbers(numbers: &[f64]) -> Geometry {
        let eigenvalues = |from: usize| std::array::from_fn(|no| numbers[from + no]);
        Geometry {
            offdiag: [numbers[0], numbers[1]],
            eigenvalues: [eigenvalues(2), eigenvalues(2 + EIGENVALUES)],
            anisotropy: numbers[GEOMETRY - 1],
        }
    }
}

/// How far the mean of passes is from what the tower says without dropout, over the length of that.
fn distance(mean: &[f64], still: &[f32]) -> f64 {
    let (mut apart, mut length) = (0.0, 0.0);
    for (mean, &still) in mean.iter().zip(still) {
        let still = f64::from(still);
        apart += (mean - still) * (mean - still);
        length += still * still;
    }
    apart.sqrt() / length.sqrt().max(1e-12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_as_they_were() {
        let series = Series { trial: 0, number: 0, passes: 4, snapshots: vec![3, 4] };
        let features: Vec<f32> = (0..12).map(|n| ((n * 7) % 5) as f32 + 0.25).collect();
        for keep in [Keep::default(), Keep { gram: true, geometry: true, passes: true }] {
            let unit = Unit::of(&features, &[1.0, 2.0, 3.0], &series, keep);
            let back = Unit::of_bytes(&unit.to_bytes(), 3, &series, keep).unwrap();
            assert_eq!(back.to_bytes(), unit.to_bytes());
            assert_eq!((back.mean, back.m2, back.features), (unit.mean, unit.m2, unit.features));
            assert!(Unit::of_bytes(&[0; 8], 3, &series, keep).is_none());
        }
    }
}
