//! Whether trials agree: signal and noise, intraclass correlation, ranks.

use serde::Serialize;

use super::ranks::{pearson, ranks, spearman};
use super::{mean, variance};
use crate::statistics::quantile;

/// At least these: usable.
const USABLE_SPEARMAN: f64 = 0.8;
const USABLE_SNR: f64 = 2.0;
const USABLE_ICC: f64 = 0.75;
/// Below one of these: failed.
const FAILED_SPEARMAN: f64 = 0.6;
const FAILED_SNR: f64 = 1.0;

/// Values of trials over images.
#[derive(Clone, Copy, Debug)]
pub struct Trials<'a> {
    /// `trials * images` values, a trial after the other.
    pub values: &'a [f64],
    /// How many trials.
    pub trials: usize,
}

/// What one quantity is worth as a measurement of images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reliability {
    /// Repetitions.
    pub num_trials: usize,
    /// Images.
    pub num_images: usize,
    /// R1: variance over images of the mean over trials.
    pub signal: Option<f64>,
    /// R2: mean over images of the variance over trials.
    pub noise: Option<f64>,
    /// R3: signal over noise; the signal still has a share of the noise in it.
    pub snr: Option<f64>,
    /// R4: ICC(1,1).
    pub icc: Option<f64>,
    /// R5: the median over pairs of trials.
    pub pairwise_spearman_median: Option<f64>,
    /// Between the quartiles.
    pub pairwise_spearman_iqr: Option<f64>,
    /// The lower quartile.
    pub pairwise_spearman_q25: Option<f64>,
    /// The upper quartile.
    pub pairwise_spearman_q75: Option<f64>,
    /// What follows.
    pub status: Status,
    /// R6: the ICC of the mean of all trials, by Spearman and Brown.
    pub icc_of_mean: Option<f64>,
    /// R7: Spearman's correlation of the mean of the first half of the trials and that of the second.
    pub split_half: Option<f64>,
    /// R7 stretched to all trials, by Spearman and Brown.
    pub split_half_of_mean: Option<f64>,
}

/// A verdict in the words of the study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Ranks, signal and correlation are all high.
    Usable,
    /// Between the two.
    Marginal,
    /// Trials rank images differently, or the noise is larger than the signal.
    Failed,
    /// Fewer than two trials, which cannot agree or disagree.
    InsufficientTrials,
    /// Fewer than two images, or values that are no numbers.
    Skipped,
}

impl Status {
    /// As in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Usable => "usable",
            Status::Marginal => "marginal",
            Status::Failed => "failed",
            Status::InsufficientTrials => "insufficient_trials",
            Status::Skipped => "skipped",
        }
    }
}

impl Trials<'_> {
    /// Images.
    #[must_use]
    pub fn images(&self) -> usize {
        self.values.len().checked_div(self.trials).unwrap_or(0)
    }

    pub(super) fn trial(&self, trial: usize) -> &[f64] {
        &self.values[trial * self.images()..][..self.images()]
    }

    fn image(&self, image: usize) -> Vec<f64> {
        (0..self.trials).map(|trial| self.trial(trial)[image]).collect()
    }

    /// The mean over some trials, for each image.
    #[must_use]
    pub fn means(&self, trials: std::ops::Range<usize>) -> Vec<f64> {
        (0..self.images()).map(|image| mean(&self.image(image)[trials.clone()])).collect()
    }

    /// R2; not a number of one trial.
    #[must_use]
    pub fn noise(&self) -> f64 {
        let within: Vec<f64> = (0..self.images()).map(|image| variance(&self.image(image), 1)).collect();
        mean(&within)
    }

    /// What they are worth.
    #[must_use]
    pub fn reliability(&self) -> Reliability {
        let (trials, images) = (self.trials, self.images());
        let nothing = Reliability {
            num_trials: trials,
            num_images: images,
            signal: None,
            noise: None,
            snr: None,
            icc: None,
            pairwise_spearman_median: None,
            pairwise_spearman_iqr: None,
            pairwise_spearman_q25: None,
            pairwise_spearman_q75: None,
            status: Status::Skipped,
            icc_of_mean: None,
            split_half: None,
            split_half_of_mean: None,
        };
        if images < 2 || self.values.iter().any(|value| !value.is_finite()) {
            return nothing;
        }
        let means = self.means(0..trials);
        let signal = variance(&means, 1);
        if trials < 2 {
            return Reliability { signal: Some(signal), status: Status::InsufficientTrials, ..nothing };
        }
        let noise = self.noise();
        let snr = (noise > 0.0).then(|| signal / noise);
        let icc = icc(signal, noise, trials);
        let pairs = self.pairs();
        let [q25, median, q75] = [0.25, 0.5, 0.75].map(|share| quantile(&pairs, share));
        let split_half = self.split_half();
        Reliability {
            signal: Some(signal),
            noise: Some(noise),
            snr,
            icc,
            pairwise_spearman_median: Some(median),
            pairwise_spearman_iqr: Some(q75 - q25),
            pairwise_spearman_q25: Some(q25),
            pairwise_spearman_q75: Some(q75),
            status: status(median, snr, icc),
            icc_of_mean: icc.and_then(|icc| spearman_brown(icc, trials as f64)),
            split_half,
            split_half_of_mean: split_half
                .and_then(|half| spearman_brown(half, trials as f64 / (trials / 2) as f64)),
            ..nothing
        }
    }

    /// Spearman's correlation of each pair of trials, sorted; 0 where a trial does not tell images apart.
    fn pairs(&self) -> Vec<f64> {
        let ranked: Vec<Vec<f64>> = (0..self.trials).map(|trial| ranks(self.trial(trial))).collect();
        let mut pairs = Vec::new();
        for (no, a) in ranked.iter().enumerate() {
            pairs.extend(ranked[no + 1..].iter().map(|b| pearson(a, b).unwrap_or(0.0)));
        }
        pairs.sort_by(f64::total_cmp);
        pairs
    }

    /// The first half of the trials against as many after them.
    fn split_half(&self) -> Option<f64> {
        let half = self.trials / 2;
        spearman(&self.means(0..half), &self.means(half..2 * half))
    }
}

/// `(MSB - MSW) / (MSB + (K - 1) MSW)`; none where nothing varies.
fn icc(signal: f64, noise: f64, trials: usize) -> Option<f64> {
    let between = trials as f64 * signal;
    let all = between + (trials as f64 - 1.0) * noise;
    (all > 0.0).then(|| (between - noise) / all)
}

/// The reliability of something `times` as long; none where there is none to begin with.
fn spearman_brown(reliability: f64, times: f64) -> Option<f64> {
    (reliability >= 0.0).then(|| times * reliability / (1.0 + (times - 1.0) * reliability))
}

/// Without noise there is nothing that a signal could be too small for.
fn status(spearman: f64, snr: Option<f64>, icc: Option<f64>) -> Status {
    let snr = snr.unwrap_or(f64::INFINITY);
    if spearman >= USABLE_SPEARMAN && snr >= USABLE_SNR && icc.is_some_and(|icc| icc >= USABLE_ICC) {
        Status::Usable
    } else if spearman < FAILED_SPEARMAN || snr < FAILED_SNR {
        Status::Failed
    } else {
        Status::Marginal
    }
}
