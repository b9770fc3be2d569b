//! From logits to a token, in the order of llama.cpp's own chain: penalty, top k, top p, min p, temperature.

use haul_frames::Sampling;

use crate::llama::Token;

/// A token and its logit.
type Candidate = (u32, f32);

/// Chooses tokens of one answer. The same sampling and logits give the same tokens.
pub(crate) struct Sampler {
    sampling: Sampling,
    random: u64,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        let random = u64::from(sampling.seed);
        Self { sampling, random }
    }

    /// Whether the likeliest token is all that is asked for.
    pub(crate) fn is_greedy(&self) -> bool {
        self.sampling.temperature <= 0.0 && self.repeats_freely()
    }

    fn repeats_freely(&self) -> bool {
        self.sampling.repeat_last == 0 || (self.sampling.repeat_penalty - 1.0).abs() < f32::EPSILON
    }

    /// The token to take. `said` are the tokens before it, the prompt's among them.
    pub(crate) fn choose(&mut self, logits: &[f32], said: &[Token]) -> Token {
        if self.is_greedy() {
            return likeliest(logits);
        }
        let mut logits = logits.to_vec();
        self.penalise(&mut logits, said);
        if self.sampling.temperature <= 0.0 {
            return likeliest(&logits);
        }
        let candidates = self.candidates(&logits);
        let weights = probabilities(&candidates, self.sampling.temperature);
        token(drawn(&candidates, &weights, self.uniform()))
    }

    fn penalise(&self, logits: &mut [f32], said: &[Token]) {
        if self.repeats_freely() {
            return;
        }
        let mut recent: Vec<_> =
            said.iter().rev().take(self.sampling.repeat_last as usize).map(|token| token.0).collect();
        recent.sort_unstable();
        recent.dedup();
        for token in recent {
            if let Some(logit) = logits.get_mut(token.unsigned_abs() as usize) {
                let penalty = self.sampling.repeat_penalty;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// What is left to draw from, likeliest first.
    fn candidates(&self, logits: &[f32]) -> Vec<Candidate> {
        let mut all: Vec<Candidate> =
            (0..).zip(logits.iter().copied()).filter(|(_, logit)| logit.is_finite()).collect();
        let kept = match self.sampling.top_k as usize {
            0 => all.len(),
            top_k => top_k.min(all.len()),
        };
        if kept < all.len() && kept > 0 {
            all.select_nth_unstable_by(kept - 1, by_likelihood);
            all.truncate(kept);
        }
        all.sort_unstable_by(by_likelihood);
        let weights = probabilities(&all, 1.0);
        let mut sum = 0.0;
        let least = weights.first().map_or(0.0, |first| first * self.sampling.min_p);
        let kept = weights
            .iter()
            .take_while(|weight| {
                let is_in = sum < self.sampling.top_p || self.sampling.top_p >= 1.0;
                sum += **weight;
                is_in && **weight >= least
            })
            .count();
        all.truncate(kept.max(1));
        all
    }

    /// A number from 0 to 1, by SplitMix64 (Steele, Lea, Flood 2014).
    fn uniform(&mut self) -> f32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u32 << 24) as f32
    }
}

fn by_likelihood(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn token(id: u32) -> Token {
    Token(id.cast_signed())
}

/// The first of the largest.
pub(crate) fn likeliest(logits: &[f32]) -> Token {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in (0_u32..).zip(logits.iter().copied()) {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    token(best.0)
}

/// Softmax of logits over a temperature.
fn probabilities(candidates: &[Candidate], temperature: f32) -> Vec<f32> {
    let largest = candidates.iter().map(|(_, logit)| *logit).fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> =
        candidates.iter().map(|(_, logit)| ((logit - largest) / temperature).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

fn drawn(candidates: &[Candidate], weights: &[f32], uniform: f32) -> u32 {
    let mut sum = 0.0;
    for ((id, _), weight) in candidates.iter().zip(weights) {
        sum += weight;
        if uniform < sum {
            return *id;
        }
    }
    candidates.last().map_or(0, |(id, _)| *id)
}

/// ln of the sum of exponentials, in f64: what turns logits into log-probabilities.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    largest + sum.ln()
}

/// The `k` likeliest tokens and their log-probabilities, likeliest first.
pub(crate) fn top(logits: &[f32], normaliser: f64, k: usize) -> Vec<(i32, f32)> {
    let k = k.min(logits.len());
    if k == 0 {
        return vec![];
    }
    let mut all: Vec<Candidate> = (0..).zip(logits.iter().copied()).collect();
    all.select_nth_unstable_by(k - 1, by_likelihood);
    all.truncate(k);
    all.sort_unstable_by(by_likelihood);
    all.into_iter().map(|(id, logit)| (id.cast_signed(), (f64::from(logit) - normaliser) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(change: impl FnOnce(&mut Sampling)) -> Sampling {
        let mut sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        change(&mut sampling);
        sampling
    }

    fn counts(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
        let mut counts = vec![0; logits.len()];
        let mut sampler = Sampler::new(sampling);
        for _ in 0..10_000 {
            counts[sampler.choose(logits, &[]).0.unsigned_abs() as usize] += 1;
        }
        counts
    }

    #[test]
    fn a_temperature_of_zero_takes_the_first_of_the_largest() {
        let mut sampler = Sampler::new(Sampling::GREEDY);
        assert_eq!(sampler.choose(&[1.0, 3.0, 3.0, -1.0], &[]).0, 1);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0];
        let total: f32 = logits.iter().map(|logit: &f32| logit.exp()).sum();
        for (count, logit) in counts(sampling(|_| {}), &logits).into_iter().zip(logits) {
            let expected = 10_000.0 * logit.exp() / total;
            assert!((count as f32 - expected).abs() < 250.0, "{count} for {expected}");
        }
    }

    #[test]
    fn each_limit_leaves_what_it_says() {
        // Probabilities 0.644, 0.237, 0.087, 0.032.
        let logits = [3.0, 2.0, 1.0, 0.0];
        let left = |change: fn(&mut Sampling)| {
            counts(sampling(change), &logits).iter().filter(|count| **count > 0).count()
        };
        assert_eq!(left(|_| {}), 4);
        assert_eq!(left(|s| s.top_k = 2), 2);
        assert_eq!(left(|s| s.top_p = 0.8), 2);
        assert_eq!(left(|s| s.top_p = 0.1), 1);
        assert_eq!(left(|s| s.min_p = 0.1), 3);
        assert_eq!(left(|s| s.temperature = 0.01), 1);
    }

    #[test]
    fn what_was_said_is_said_less() {
        let penalised = sampling(|s| {
            (s.temperature, s.repeat_penalty, s.repeat_last) = (0.0, 2.0, 2);
        });
        let mut sampler = Sampler::new(penalised);
        let said = [Token(0), Token(2), Token(1)];
        assert_eq!(sampler.choose(&[5.0, 4.0, 3.9], &said).0, 0, "the last two alone are penalised");
        assert_eq!(sampler.choose(&[-3.0, -2.0, -3.5], &said).0, 0, "a negative logit falls too");
    }

    #[test]
    fn log_probabilities_are_of_the_whole_vocabulary() {
        let logits = [1.0_f32, 2.0, 3.0];
        let found = top(&logits, log_sum_exp(&logits), 2);
        assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 1]);
        assert!(
            (found[0].1 - -0.407_606).abs() < 1e-6 && (found[1].1 - -1.407_606).abs() < 1e-6,
            "{found:?}"
        );
        assert!(top(&logits, 0.0, 0).is_empty());
        assert_eq!(top(&logits, 0.0, 9).len(), 3);
    }
}
