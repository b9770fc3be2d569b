//! How many passes a measurement needs: the noise of a trace falls with one over the passes, images differ as they do.

use serde::Serialize;

use super::reliability::Trials;
use super::{mean, variance};

/// Passes for which a reader wants to know.
const ASKED: [usize; 5] = [4, 16, 64, 256, 1024];
/// What a measurement should reach.
const TARGET_ICC: f64 = 0.75;

/// R8: `ICC(T) = cv2 / (cv2 + c / T)`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Law {
    /// Passes of the trials that it was taken from.
    pub passes: usize,
    /// Variance between images, less what noise adds to it, over the square of the mean.
    pub cv2: f64,
    /// Passes times the variance within an image, over the square of the mean.
    pub c: f64,
    /// What it says of other numbers of passes.
    pub icc: Vec<At>,
    /// Passes for an ICC of .75; none where images do not differ.
    pub passes_for_icc_75: Option<u64>,
}

/// The law at one number of passes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct At {
    /// How many.
    pub passes: usize,
    /// The ICC of trials of so many.
    pub icc: f64,
}

impl Law {
    /// From trials of so many passes each; none of fewer than two trials or images.
    #[must_use]
    pub fn of_trials(trials: &Trials, passes: usize) -> Option<Law> {
        if trials.trials < 2 {
            return None;
        }
        let means = trials.means(0..trials.trials);
        Law::of(&means, trials.noise(), trials.trials, passes)
    }

    /// From one trial, with the squared error of each image's value.
    #[must_use]
    pub fn of_errors(values: &[f64], squared_errors: &[f64], passes: usize) -> Option<Law> {
        Law::of(values, mean(squared_errors), 1, passes)
    }

    /// From means of so many trials, and the variance of one trial.
    fn of(means: &[f64], within: f64, trials: usize, passes: usize) -> Option<Law> {
        let square = mean(means) * mean(means);
        let between = (variance(means, 1) - within / trials as f64).max(0.0);
        if !(square > 0.0 && within.is_finite() && between.is_finite()) {
            return None;
        }
        let (cv2, c) = (between / square, passes as f64 * within / square);
        let law = Law { passes, cv2, c, icc: vec![], passes_for_icc_75: None };
        let needed = c * TARGET_ICC / (1.0 - TARGET_ICC) / cv2;
        Some(Law {
            icc: ASKED
                .iter()
                .filter_map(|&passes| Some(At { passes, icc: law.at(passes as f64)? }))
                .collect(),
            passes_for_icc_75: (cv2 > 0.0).then(|| needed.ceil().max(1.0) as u64),
            ..law
        })
    }

    /// The ICC of trials of so many passes; none where nothing varies.
    #[must_use]
    pub fn at(&self, passes: f64) -> Option<f64> {
        let all = self.cv2 + self.c / passes;
        (all > 0.0).then(|| self.cv2 / all)
    }
}
