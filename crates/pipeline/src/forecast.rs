//! Forecasts: what a few sampled items of each stratum cost, to a range of what all of them will.
//!
//! The range is a rescaled bootstrap (Rao and Wu 1988): of `n` sampled items of a stratum, `n - 1` are drawn with
//! replacement, which gives totals the variance that drawing another sample would have. What was sampled is known and
//! varies no more; only the rest of a stratum does.

use serde::{Deserialize, Serialize};

use crate::progress::Point;

/// Samples drawn again. The 10th and 90th percentile of so many differ by some percent of the range from seed to seed.
const REPLICATES: usize = 1000;
/// Standard deviation of the logarithm of a machine's speed between a sample of seconds and a run of hours: its
/// clock, its caches and its other work are not the same. Of 16 forecasts on a virtual machine whose host has other guests,
/// errors had a root mean square of 0.11.
pub const SPEED_SPREAD: f64 = 0.11;
/// The same for a stratum of which a single item was sampled, so that nothing is known of its spread.
const LONE_SPREAD: f64 = 0.5;
/// One seed, so that equal samples give equal forecasts.
const SEED: u64 = 0x4861_756c;
/// Steps of a timeline by which a running job is forecast; neighbours are added together until there are so few, for
/// items that finish together are one observation.
const STEPS_MAX: usize = 24;
/// Fewer steps say nothing about their spread.
const STEPS_MIN: usize = 4;

/// Items of one kind and about one size.
#[derive(Clone, Debug, PartialEq)]
pub struct Stratum {
    /// What they have in common, besides their size; a stratum of which nothing was sampled goes by its kind.
    pub kind: String,
    /// How many there are.
    pub items: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// What their cost grows with.
    pub scale: Scale,
    /// Those that were tried.
    pub sampled: Vec<Sampled>,
}

/// What the cost of a stratum grows with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// The number of items: within a stratum, bytes say little about the cost of one.
    Items,
    /// Bytes.
    Bytes,
}

/// One item that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Its bytes, of those that were tried.
    pub bytes: u64,
    /// What it cost, in each of the currencies of the forecast.
    pub costs: Vec<f64>,
}

/// One figure: the middle of what is to be expected, and the range that holds it in four of five cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// 10th percentile.
    pub low: f64,
    /// Median.
    pub middle: f64,
    /// 90th percentile.
    pub high: f64,
}

/// One drawing of everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Replicate {
    /// What all items cost, in each currency.
    pub totals: Vec<f64>,
    /// Time, as a multiple of what it would be at the speed of the sample.
    pub slowness: f64,
}

/// Ranges of the figures that `derive` makes of what all items cost. `costs` is the number of currencies; `derive`
/// gives as many figures for every replicate. `speed_spread` is the standard deviation of the logarithm of the machine's
/// speed, [`SPEED_SPREAD`] of one that has nothing else to do.
pub fn ranges(
    strata: &[Stratum],
    costs: usize,
    speed_spread: f64,
    derive: impl Fn(&Replicate) -> Vec<f64>,
) -> Vec<Range> {
    let mut random = Random(SEED);
    let replicates: Vec<Vec<f64>> = (0..REPLICATES)
        .map(|_| {
            let totals = totals(strata, costs, &mut random);
            derive(&Replicate { totals, slowness: random.log_normal(speed_spread) })
        })
        .collect();
    let figures = replicates.first().map_or(0, Vec::len);
    (0..figures).map(|figure| Range::of(replicates.iter().map(|r| r[figure]).collect())).collect()
}

/// The whole time of a running job, by the steps it has made so far; `None` while they are too few.
pub fn running(points: &[Point], bytes_total: u64) -> Option<Range> {
    let now = points.last()?;
    let steps = steps(points);
    if steps.len() < STEPS_MIN {
        return None;
    }
    let bytes_left = bytes_total.saturating_sub(now.bytes_done);
    let rest = Stratum {
        kind: String::new(),
        items: u64::MAX,
        bytes: bytes_left + steps.iter().map(|step| step.bytes).sum::<u64>(),
        scale: Scale::Bytes,
        sampled: steps,
    };
    let so_far: f64 = rest.sampled.iter().map(|step| step.costs[0]).sum();
    let whole = ranges(&[rest], 1, SPEED_SPREAD, |replicate| {
        vec![now.seconds + (replicate.totals[0] - so_far) * replicate.slowness]
    });
    whole.first().copied()
}

/// Bytes and seconds between moments at which something had been finished, at most [`STEPS_MAX`].
fn steps(points: &[Point]) -> Vec<Sampled> {
    let mut moments = vec![Point::default()];
    for point in points {
        if moments.last().is_some_and(|last| last.bytes_done < point.bytes_done) {
            moments.push(*point);
        }
    }
    let width = moments.len().div_ceil(STEPS_MAX).max(1);
    let kept: Vec<&Point> = moments.iter().step_by(width).collect();
    kept.windows(2)
        .map(|pair| Sampled {
            bytes: pair[1].bytes_done - pair[0].bytes_done,
            costs: vec![pair[1].seconds - pair[0].seconds],
        })
        .collect()
}

impl Range {
    fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let at = |percent: usize| figures.get(figures.len() * percent / 100).copied().unwrap_or(0.0);
        Self { low: at(10), middle: at(50), high: at(90) }
    }

    /// (measured - middle) / middle; 0 for a forecast of nothing.
    #[must_use]
    pub fn error(&self, measured: f64) -> f64 {
        if self.middle > 0.0 { (measured - self.middle) / self.middle } else { 0.0 }
    }
}

/// Costs of all strata, with what was sampled of each drawn again.
fn totals(strata: &[Stratum], costs: usize, random: &mut Random) -> Vec<f64> {
    let mut totals = vec![0.0; costs];
    for stratum in strata.iter().filter(|stratum| stratum.items > 0) {
        let sampled: Vec<&Sampled> = stratum.sampled.iter().collect();
        // Of a stratum without a sample, only the bytes can be compared with what was tried.
        let (tried, scale) = match sampled.is_empty() {
            false => (sampled, stratum.scale),
            true => (relatives(strata, &stratum.kind), Scale::Bytes),
        };
        let known = if stratum.sampled.is_empty() { &[] } else { stratum.sampled.as_slice() };
        let drawn = draw(&tried, random);
        let rest = rest(stratum, known, scale);
        let per = weight(&drawn, scale);
        let spread = if tried.len() == 1 { random.log_normal(LONE_SPREAD) } else { 1.0 };
        for (cost, total) in totals.iter_mut().enumerate() {
            let sum = |items: &[&Sampled]| items.iter().map(|item| item.costs[cost]).sum::<f64>();
            *total += known.iter().map(|item| item.costs[cost]).sum::<f64>();
            if per > 0.0 {
                *total += rest * sum(&drawn) / per * spread;
            }
        }
    }
    totals
}

/// What was sampled of the same kind, else of any.
fn relatives<'a>(strata: &'a [Stratum], kind: &str) -> Vec<&'a Sampled> {
    let of_kind: Vec<&Sampled> =
        strata.iter().filter(|stratum| stratum.kind == kind).flat_map(|stratum| &stratum.sampled).collect();
    if of_kind.is_empty() { strata.iter().flat_map(|stratum| &stratum.sampled).collect() } else { of_kind }
}

fn draw<'a>(tried: &[&'a Sampled], random: &mut Random) -> Vec<&'a Sampled> {
    match tried.len() {
        0 | 1 => tried.to_vec(),
        count => (1..count).map(|_| tried[random.below(count)]).collect(),
    }
}

/// What of the stratum was not tried.
#[expect(clippy::cast_precision_loss, reason = "counts of a forecast; exact to 2^53")]
fn rest(stratum: &Stratum, known: &[Sampled], scale: Scale) -> f64 {
    match scale {
        Scale::Items => stratum.items.saturating_sub(known.len() as u64) as f64,
        Scale::Bytes => stratum.bytes.saturating_sub(known.iter().map(|item| item.bytes).sum::<u64>()) as f64,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a forecast; exact to 2^53")]
fn weight(drawn: &[&Sampled], scale: Scale) -> f64 {
    match scale {
        Scale::Items => drawn.len() as f64,
        Scale::Bytes => drawn.iter().map(|item| item.bytes as f64).sum(),
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `exp(spread * z)`; z is the sum of twelve uniform numbers less six, nearly normal.
    fn log_normal(&mut self, spread: f64) -> f64 {
        let z = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        (spread * z).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stratum(kind: &str, items: u64, costs: &[f64]) -> Stratum {
        let sampled = costs.iter().map(|&cost| Sampled { bytes: 10, costs: vec![cost] }).collect();
        Stratum { kind: kind.to_owned(), items, bytes: items * 10, scale: Scale::Items, sampled }
    }

    fn total(strata: &[Stratum]) -> Range {
        ranges(strata, 1, SPEED_SPREAD, |replicate| vec![replicate.totals[0]])[0]
    }

    #[test]
    fn what_was_tried_whole_is_known() {
        let range = total(&[stratum("a", 3, &[1.0, 2.0, 6.0])]);
        assert_eq!((range.low, range.middle, range.high), (9.0, 9.0, 9.0));
        assert_eq!(total(&[]), Range::default());
    }

    #[test]
    fn the_spread_of_a_stratum_is_the_spread_of_the_range() {
        let even = total(&[stratum("a", 1000, &[2.0; 10])]);
        assert!((even.low - 2000.0).abs() < 1e-9 && (even.high - 2000.0).abs() < 1e-9, "{even:?}");
        let uneven = total(&[stratum("a", 1000, &[1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0])]);
        assert!((uneven.middle / 2000.0 - 1.0).abs() < 0.15, "{uneven:?}");
        assert!(uneven.low < 1900.0 && uneven.high > 2100.0, "{uneven:?}");
        let wider = total(&[stratum("a", 1000, &[1.0, 3.0])]);
        assert!(wider.high - wider.low > uneven.high - uneven.low, "{wider:?}");
    }

    #[test]
    fn a_stratum_without_a_sample_goes_by_the_bytes_of_its_kind() {
        let strata = [stratum("a", 10, &[]), stratum("a", 2, &[4.0, 4.0]), stratum("b", 1, &[900.0])];
        let range = total(&strata);
        assert!((range.middle - (40.0 + 8.0 + 900.0)).abs() < 1e-6, "{range:?}");
    }

    /// Samples of a skewed population: in about four of five cases the range holds the truth.
    #[test]
    fn the_range_holds_the_truth_as_often_as_it_says() {
        let mut random = Random(7);
        let mut held = 0;
        for _ in 0..200 {
            let all: Vec<f64> = (0..300).map(|_| random.log_normal(0.8)).collect();
            let range = total(&[stratum("a", 300, &all[..24])]);
            let truth: f64 = all.iter().sum();
            held += usize::from(range.low <= truth && truth <= range.high);
        }
        assert!((130..=185).contains(&held), "{held} of 200");
    }

    #[test]
    fn a_running_job_is_forecast_by_its_steps() {
        let point = |n: u64| Point { seconds: n as f64, bytes_done: n * 100, ..Point::default() };
        assert_eq!(running(&(0..3).map(point).collect::<Vec<_>>(), 100_000), None);
        let range = running(&(0..50).map(point).collect::<Vec<_>>(), 100_000).unwrap();
        assert!((range.middle / 1000.0 - 1.0).abs() < 0.05, "{range:?}");
        assert!(range.low < 1000.0 && range.high > 1000.0, "{range:?}");
        assert!((range.error(1100.0) - 0.1).abs() < 0.05);
    }
}
