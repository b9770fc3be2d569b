//! What a handful of measurements can show: intervals beside every mean, so that chance is not taken for a difference.
//!
//! All intervals are of 95 %. Random numbers come from a seed, so that the same measurements give the same report.

use serde::{Deserialize, Serialize};

/// Two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;
/// Two-sided 95 % quantiles of Student's t by degrees of freedom from 1; the last one stands for all above.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];
/// Resamples of a bootstrap.
const RESAMPLES: usize = 2_000;

/// From `low` to `high`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// A handful of numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The numbers, in the order in which they were measured.
    pub samples: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, of a sample; 0 of a single number.
    pub sd: f64,
}

/// A share of a count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// How many are.
    pub hits: u64,
    /// Of how many.
    pub of: u64,
    /// `hits / of`.
    pub share: f64,
    /// Wilson's interval of the share.
    pub interval: Interval,
}

/// How much larger one measurement is than another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Of the geometric means.
    pub ratio: f64,
    /// Welch's interval, on logarithms; `None` where a side has one sample.
    pub interval: Option<Interval>,
}

/// A difference of two shares over the same things.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Things that only this one has.
    pub only_this: u64,
    /// Things that only the other one has.
    pub only_other: u64,
    /// Things in all.
    pub of: u64,
    /// This share less the other.
    pub delta: f64,
    /// Interval of the delta (Bonett and Price 2012).
    pub interval: Interval,
}

/// What one stretch of text adds to a mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stretch {
    /// Sum over its positions.
    pub sum: f64,
    /// Positions.
    pub count: u64,
}

impl Interval {
    /// Whether two intervals share a number: then this measurement cannot tell what they are of apart.
    #[must_use]
    pub fn overlaps(&self, other: &Interval) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

impl Summary {
    /// `None` of no numbers.
    #[must_use]
    pub fn of(samples: Vec<f64>) -> Option<Summary> {
        let (mean, sd) = moments(&samples)?;
        Some(Summary { samples, mean, sd })
    }

    /// This over the other; `None` where a number is not above 0.
    #[must_use]
    pub fn over(&self, other: &Summary) -> Option<Ratio> {
        let logarithms = |samples: &[f64]| -> Option<(f64, f64, f64)> {
            let samples: Option<Vec<f64>> =
                samples.iter().map(|value| (*value > 0.0).then(|| value.ln())).collect();
            let samples = samples?;
            let (mean, sd) = moments(&samples)?;
            Some((mean, sd * sd / samples.len() as f64, samples.len() as f64))
        };
        let (mean, error, n) = logarithms(&self.samples)?;
        let (mean_other, error_other, n_other) = logarithms(&other.samples)?;
        let difference = mean - mean_other;
        let interval = (n > 1.0 && n_other > 1.0).then(|| {
            let both = error + error_other;
            // Welch and Satterthwaite; measurements without any spread have no use for it.
            let freedom = if both > 0.0 {
                both * both / (error * error / (n - 1.0) + error_other * error_other / (n_other - 1.0))
            } else {
                n + n_other - 2.0
            };
            let reach = t(freedom) * both.sqrt();
            Interval { low: (difference - reach).exp(), high: (difference + reach).exp() }
        });
        Some(Ratio { ratio: difference.exp(), interval })
    }
}

impl Share {
    /// `None` of nothing.
    #[must_use]
    pub fn of(hits: u64, of: u64) -> Option<Share> {
        if of == 0 {
            return None;
        }
        let (n, share) = (of as f64, hits as f64 / of as f64);
        let middle = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let reach = Z / (1.0 + Z * Z / n) * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        let interval = Interval { low: (middle - reach).max(0.0), high: (middle + reach).min(1.0) };
        Some(Share { hits, of, share, interval })
    }
}

impl Paired {
    /// Of the things that only one of two has; `None` of nothing.
    #[must_use]
    pub fn of(only_this: u64, only_other: u64, of: u64) -> Option<Paired> {
        if of == 0 {
            return None;
        }
        let n = of as f64 + 2.0;
        let (this, other) = ((only_this as f64 + 1.0) / n, (only_other as f64 + 1.0) / n);
        let middle = this - other;
        let reach = Z * ((this + other - middle * middle) / n).sqrt();
        Some(Paired {
            only_this,
            only_other,
            of,
            delta: (only_this as f64 - only_other as f64) / of as f64,
            interval: Interval { low: (middle - reach).max(-1.0), high: (middle + reach).min(1.0) },
        })
    }
}

/// The mean over the positions of all stretches, and its interval by resampling whole stretches: positions of one
/// stretch are not independent of each other. No interval from fewer than two; `None` without positions.
#[must_use]
pub fn mean_of_stretches(stretches: &[Stretch], seed: u64) -> Option<(f64, Option<Interval>)> {
    let mean = |chosen: &mut dyn Iterator<Item = &Stretch>| -> Option<f64> {
        let (sum, count) = chosen.fold((0.0, 0), |(sum, count), s| (sum + s.sum, count + s.count));
        (count > 0).then(|| sum / count as f64)
    };
    let of_all = mean(&mut stretches.iter())?;
    if stretches.len() < 2 {
        return Some((of_all, None));
    }
    let mut random = Random(seed);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let mut chosen = (0..stretches.len()).map(|_| &stretches[random.below(stretches.len())]);
            mean(&mut chosen)
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let interval = Interval { low: quantile(&means, 0.025), high: quantile(&means, 0.975) };
    Some((of_all, Some(interval)))
}

/// The quantile of sorted numbers, between two of them where it falls there; 0 of none.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

fn moments(samples: &[f64]) -> Option<(f64, f64)> {
    if samples.is_empty() {
        return None;
    }
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|value| (value - mean).powi(2)).sum();
    Some((mean, if samples.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 }))
}

/// By whole degrees of freedom, rounded down: the wider interval.
fn t(freedom: f64) -> f64 {
    let whole = (freedom.floor() as usize).clamp(1, T.len());
    T[whole - 1]
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-9, "{found} is not {wanted}");
    }

    /// The numbers are those of `tests/golden/statistics_reference.py`.
    #[test]
    fn numbers_are_those_of_the_reference() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../tests/golden/statistics.json")).unwrap();
        let number = |path: &str| golden.pointer(path).and_then(serde_json::Value::as_f64).unwrap();
        let summary = Summary::of(vec![101.0, 97.5, 103.25, 99.0, 100.5]).unwrap();
        near(summary.mean, number("/summary/mean"));
        near(summary.sd, number("/summary/sd"));
        let ratio = summary.over(&Summary::of(vec![80.0, 82.5, 79.0, 81.0]).unwrap()).unwrap();
        near(ratio.ratio, number("/ratio/ratio"));
        near(ratio.interval.unwrap().low, number("/ratio/low"));
        near(ratio.interval.unwrap().high, number("/ratio/high"));
        for (at, (hits, of)) in [(0, 16), (9, 16), (16, 16), (4_873, 5_000)].into_iter().enumerate() {
            let share = Share::of(hits, of).unwrap();
            near(share.interval.low, number(&format!("/wilson/{at}/low")));
            near(share.interval.high, number(&format!("/wilson/{at}/high")));
        }
        for (at, (this, other, of)) in [(0, 0, 16), (1, 6, 16), (3, 0, 200)].into_iter().enumerate() {
            let paired = Paired::of(this, other, of).unwrap();
            near(paired.delta, number(&format!("/paired/{at}/delta")));
            near(paired.interval.low, number(&format!("/paired/{at}/low")));
            near(paired.interval.high, number(&format!("/paired/{at}/high")));
        }
        let stretches: Vec<Stretch> = (1..=12_u64)
            .map(|no| Stretch { sum: ((no * no * 37) % 101) as f64 / 10.0, count: 3 + no % 4 })
            .collect();
        let (mean, interval) = mean_of_stretches(&stretches, 42).unwrap();
        near(mean, number("/bootstrap/mean"));
        near(interval.unwrap().low, number("/bootstrap/low"));
        near(interval.unwrap().high, number("/bootstrap/high"));
    }

    #[test]
    fn what_cannot_be_said_is_not_said() {
        assert_eq!(Summary::of(vec![]), None);
        assert_eq!(Share::of(0, 0), None);
        assert_eq!(Paired::of(0, 0, 0), None);
        assert_eq!(mean_of_stretches(&[], 1), None);
        let one = Stretch { sum: 3.0, count: 2 };
        assert_eq!(mean_of_stretches(&[one], 1), Some((1.5, None)));
        let single = Summary::of(vec![2.0]).unwrap();
        assert_eq!(single.over(&single).unwrap().interval, None);
        assert_eq!(single.over(&Summary::of(vec![0.0]).unwrap()), None);
        assert!(quantile(&[], 0.5).abs() < 1e-12);
    }

    #[test]
    fn equal_measurements_are_told_as_equal() {
        let same = Summary::of(vec![5.0, 5.0, 5.0]).unwrap();
        let ratio = same.over(&same).unwrap();
        assert_eq!((ratio.ratio, ratio.interval), (1.0, Some(Interval { low: 1.0, high: 1.0 })));
        let (a, b) = (Interval { low: 0.0, high: 1.0 }, Interval { low: 1.0, high: 2.0 });
        assert!(a.overlaps(&b) && b.overlaps(&a));
        assert!(!a.overlaps(&Interval { low: 1.1, high: 2.0 }));
    }
}
