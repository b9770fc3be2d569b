//! How far a model's next-token distributions are from those of another one, on a text.
//!
//! Of the base, the `k` most likely tokens of each position are kept; what is left is one bucket. The Kullback-Leibler
//! divergence over these `k + 1` buckets is a lower bound of that over the whole vocabulary, and exactly 0 for equal
//! distributions.

use haul_generate::local::Scored;
use serde::Serialize;

use crate::statistics::{Interval, Share, Stretch, mean_of_stretches, quantile};

/// Tokens of the base that are kept at each position.
pub const TOP_K: u32 = 64;
/// A probability below this is counted as this: numbers of 32 bits know no smaller rest.
const REST_MIN: f64 = 1e-9;
/// Of the resamples.
const SEED: u64 = 42;

/// A stretch of the text, and what the base says about it.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Token ids, with the token before every text where the model wants one.
    pub(crate) ids: Vec<i32>,
    /// Positions before this one say nothing about the text.
    pub(crate) first: usize,
    /// By position: the base's most likely tokens with ln p.
    pub(crate) top: Vec<Vec<(i32, f32)>>,
    /// By position but the last: the base's ln p of the token that follows.
    pub(crate) next: Vec<f32>,
}

/// A distribution of numbers, one a position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// By resampling windows; `None` where there is one window.
    pub interval: Option<Interval>,
    /// Half are below.
    pub median: f64,
    /// 90 % are below.
    pub p90: f64,
    /// 99 % are below.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// A model against the base.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Positions compared.
    pub positions: u64,
    /// Windows that they stand in.
    pub windows: u64,
    /// Tokens of the base at each position; the rest is one bucket.
    pub top_k: u32,
    /// Kullback-Leibler divergence from the base, in nats, a lower bound.
    pub kld: Spread,
    /// Positions whose most likely token is the base's.
    pub same_top: Share,
    /// Root mean square of what the probability of the base's most likely token changed by.
    pub delta_p_rms: f64,
    /// The change that lowered it most; 0 where none did.
    pub delta_p_worst: f64,
    /// Perplexity of the text.
    pub perplexity: f64,
    /// The base's.
    pub base_perplexity: f64,
    /// Perplexity over the base's.
    pub perplexity_ratio: f64,
    /// By resampling windows.
    pub perplexity_ratio_interval: Option<Interval>,
}

/// Cuts a text into windows of as many tokens, and takes at most `windows_max` of them, evenly spread. `before` is the
/// token that the model wants before every text. Windows of a single token say nothing and are left out.
pub(crate) fn windows(
    ids: &[i32],
    before: Option<i32>,
    window_tokens: usize,
    windows_max: usize,
) -> Vec<Window> {
    let room = (window_tokens - usize::from(before.is_some())).max(2);
    let all: Vec<&[i32]> = ids.chunks(room).filter(|ids| ids.len() > 1).collect();
    let taken = all.len().min(windows_max);
    (0..taken)
        .map(|at| Window {
            ids: before.into_iter().chain(all[at * all.len() / taken].iter().copied()).collect(),
            first: usize::from(before.is_some()),
            top: vec![],
            next: vec![],
        })
        .collect()
}

/// Tokens of a window: as many as allow sixteen windows, within bounds.
pub(crate) fn window_tokens(text_tokens: usize, room_tokens: usize) -> usize {
    const WINDOWS: usize = 16;
    const TOKENS_MIN: usize = 64;
    const TOKENS_MAX: usize = 512;
    (text_tokens / WINDOWS).clamp(TOKENS_MIN, TOKENS_MAX).min(room_tokens)
}

/// Divergence at one position: `base` are its most likely tokens with ln p, `other` what the other model says of them.
#[must_use]
pub fn kld(base: &[(i32, f32)], other: &[f32]) -> f64 {
    let p: Vec<f64> = base.iter().map(|(_, ln)| f64::from(*ln)).collect();
    let q: Vec<f64> = other.iter().map(|ln| f64::from(*ln)).collect();
    let sum = |lns: &[f64]| lns.iter().map(|ln| ln.exp()).sum::<f64>();
    let rest = |sum: f64| (1.0 - sum).max(REST_MIN);
    let (p_sum, q_sum) = (sum(&p), sum(&q));
    let (p_rest, q_rest) = (rest(p_sum), rest(q_sum));
    // Rounded numbers do not sum to 1; divided by their sums they do, and the divergence cannot be negative.
    let (p_all, q_all) = (p_sum + p_rest, q_sum + q_rest);
    let scale = p_all.ln() - q_all.ln();
    let buckets = p.iter().zip(&q).map(|(p, q)| p.exp() / p_all * (p - q - scale));
    let all = buckets.sum::<f64>() + p_rest / p_all * (p_rest.ln() - q_rest.ln() - scale);
    all.max(0.0)
}

/// Sums over the windows of a text.
#[derive(Debug, Default)]
pub(crate) struct Divergences {
    klds: Vec<f64>,
    kld_windows: Vec<Stretch>,
    same_top: u64,
    squares: f64,
    worst: f64,
    next: Stretch,
    next_base: Stretch,
    next_windows: Vec<Stretch>,
}

impl Divergences {
    /// Adds what another model says about a window: its most likely token at each position, and ln p of the base's.
    pub(crate) fn add(&mut self, window: &Window, scored: &Scored) {
        let mut stretch = Stretch::default();
        for position in window.first..window.top.len() {
            let (base, other) = (&window.top[position], &scored.wanted[position]);
            let kld = kld(base, other);
            self.klds.push(kld);
            stretch.sum += kld;
            stretch.count += 1;
            let (Some((top, ln)), Some(ln_other)) = (base.first(), other.first()) else { continue };
            let own_top = scored.top[position].first().map(|(id, _)| id);
            self.same_top += u64::from(own_top == Some(top));
            let change = f64::from(*ln_other).exp() - f64::from(*ln).exp();
            self.squares += change * change;
            self.worst = self.worst.min(change);
        }
        self.kld_windows.push(stretch);
        let mut difference = Stretch::default();
        for (base, other) in window.next.iter().zip(&scored.next).skip(window.first) {
            let (base, other) = (f64::from(*base), f64::from(*other));
            for (stretch, ln) in
                [(&mut self.next_base, base), (&mut self.next, other), (&mut difference, base - other)]
            {
                stretch.sum += ln;
                stretch.count += 1;
            }
        }
        self.next_windows.push(difference);
    }

    /// `None` where nothing was added.
    pub(crate) fn finish(mut self) -> Option<Divergence> {
        let (mean, interval) = mean_of_stretches(&self.kld_windows, SEED)?;
        let positions = self.klds.len() as u64;
        self.klds.sort_by(f64::total_cmp);
        let perplexity = |ln: Stretch| (-ln.sum / ln.count.max(1) as f64).exp();
        let (ratio, ratio_interval) = mean_of_stretches(&self.next_windows, SEED)?;
        Some(Divergence {
            positions,
            windows: self.kld_windows.len() as u64,
            top_k: TOP_K,
            kld: Spread {
                mean,
                interval,
                median: quantile(&self.klds, 0.5),
                p90: quantile(&self.klds, 0.9),
                p99: quantile(&self.klds, 0.99),
                max: self.klds.last().copied().unwrap_or(0.0),
            },
            same_top: Share::of(self.same_top, positions)?,
            delta_p_rms: (self.squares / positions as f64).sqrt(),
            delta_p_worst: self.worst,
            perplexity: perplexity(self.next),
            base_perplexity: perplexity(self.next_base),
            perplexity_ratio: ratio.exp(),
            perplexity_ratio_interval: ratio_interval
                .map(|interval| Interval { low: interval.low.exp(), high: interval.high.exp() }),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VOCABULARY: usize = 300;

    fn log_softmax(logits: &[f32]) -> Vec<f32> {
        let max = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - max).exp()).sum();
        logits.iter().map(|logit| (f64::from(*logit) - max - sum.ln()) as f32).collect()
    }

    fn top(lns: &[f32]) -> Vec<(i32, f32)> {
        let mut all: Vec<(i32, f32)> = (0..).zip(lns.iter().copied()).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(TOP_K as usize);
        all
    }

    fn exact(p: &[f32], q: &[f32]) -> f64 {
        p.iter().zip(q).map(|(p, q)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q))).sum()
    }

    fn wanted(base: &[(i32, f32)], lns: &[f32]) -> Vec<f32> {
        base.iter().map(|(id, _)| lns[*id as usize]).collect()
    }

    /// The numbers are those of `tests/golden/divergence_reference.py`.
    #[test]
    fn numbers_are_those_of_the_reference() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/divergence.json")).unwrap();
        let logits = |no: usize, shift: usize| -> Vec<f32> {
            (0..VOCABULARY).map(|at| (((at * 37 + no * 11) * (at + shift)) % 97) as f32 / 12.0).collect()
        };
        let mut all = Divergences::default();
        for no in 0..3 {
            let lns: Vec<(Vec<f32>, Vec<f32>)> = (0..4)
                .map(|at| {
                    let at = no * 4 + at;
                    (log_softmax(&logits(at, 5)), log_softmax(&logits(at, 5 + at % 3)))
                })
                .collect();
            let ids: Vec<i32> = (0..4).map(|at| ((no * 53 + at * 29) % VOCABULARY) as i32).collect();
            type Pair = (Vec<f32>, Vec<f32>);
            let next = |pick: fn(&Pair) -> &Vec<f32>| -> Vec<f32> {
                (0..3).map(|at| pick(&lns[at])[ids[at + 1] as usize]).collect()
            };
            let tops: Vec<_> = lns.iter().map(|(base, _)| top(base)).collect();
            let scored = Scored {
                top: lns.iter().map(|(_, other)| top(other)[..1].to_vec()).collect(),
                wanted: lns.iter().zip(&tops).map(|((_, other), top)| wanted(top, other)).collect(),
                next: next(|pair| &pair.1),
                ms: 0,
            };
            let next_base = next(|pair| &pair.0);
            all.add(&Window { ids, first: 0, top: tops, next: next_base }, &scored);
        }
        let found = serde_json::to_value(all.finish().unwrap()).unwrap();
        for (path, wanted) in golden.as_object().unwrap() {
            let found = found.pointer(path).and_then(serde_json::Value::as_f64).unwrap();
            let wanted = wanted.as_f64().unwrap();
            assert!(
                (found - wanted).abs() <= 1e-6 * wanted.abs().max(1e-3),
                "{path}: {found} is not {wanted}"
            );
        }
    }

    #[test]
    fn a_model_against_itself_is_exactly_the_same() {
        let lns = log_softmax(&(0..VOCABULARY).map(|at| ((at * 31) % 89) as f32 / 7.0).collect::<Vec<_>>());
        let tops = vec![top(&lns); 5];
        let scored = Scored {
            top: tops.iter().map(|top| top[..1].to_vec()).collect(),
            wanted: tops.iter().map(|top| wanted(top, &lns)).collect(),
            next: vec![lns[3]; 4],
            ms: 0,
        };
        let mut all = Divergences::default();
        for _ in 0..2 {
            let window = Window { ids: vec![3; 5], first: 1, top: tops.clone(), next: vec![lns[3]; 4] };
            all.add(&window, &scored);
        }
        let found = all.finish().unwrap();
        assert_eq!((found.positions, found.windows), (8, 2));
        assert_eq!(
            found.kld,
            Spread {
                mean: 0.0,
                interval: Some(Interval { low: 0.0, high: 0.0 }),
                median: 0.0,
                p90: 0.0,
                p99: 0.0,
                max: 0.0
            }
        );
        assert_eq!((found.same_top.hits, found.same_top.of, found.perplexity_ratio), (8, 8, 1.0));
        assert!(found.delta_p_rms == 0.0 && found.delta_p_worst == 0.0);
    }

    #[test]
    fn windows_take_the_whole_text_or_are_spread_over_it() {
        let ids: Vec<i32> = (0..100).collect();
        let all = windows(&ids, None, 33, 10);
        assert_eq!(
            all.iter().map(|window| window.ids.len()).collect::<Vec<_>>(),
            [33, 33, 33],
            "99 is alone"
        );
        let some = windows(&ids, Some(7), 11, 4);
        assert_eq!(some.iter().map(|window| window.ids[1]).collect::<Vec<_>>(), [0, 20, 50, 70]);
        assert!(some.iter().all(|window| window.ids[0] == 7 && window.first == 1));
        assert!(windows(&[1], None, 64, 4).is_empty());
        assert_eq!(window_tokens(500, 2048), 64);
        assert_eq!(window_tokens(5_000, 2048), 312);
        assert_eq!(window_tokens(50_000, 2048), 512);
        assert_eq!(window_tokens(50_000, 256), 256);
    }

    proptest! {
        #[test]
        fn a_lower_bound_and_never_negative(
            base in prop::collection::vec(-12.0_f32..12.0, VOCABULARY),
            change in prop::collection::vec(-3.0_f32..3.0, VOCABULARY),
            scale in 0.0_f32..1.0,
        ) {
            let other: Vec<f32> = base.iter().zip(&change).map(|(a, b)| a + scale * b).collect();
            let (p, q) = (log_softmax(&base), log_softmax(&other));
            let top = top(&p);
            let bound = kld(&top, &wanted(&top, &q));
            prop_assert!(bound >= 0.0);
            prop_assert!(bound <= exact(&p, &q) + 1e-5, "{bound} above {}", exact(&p, &q));
            prop_assert_eq!(kld(&top, &wanted(&top, &p)), 0.0);
        }
    }
}
