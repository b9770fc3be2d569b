//! Trials that end when an image is measured well enough.

use serde::Serialize;

use super::super::statistics::passes::Estimate;

/// Passes before anybody looks: the error of fewer is not known well enough to trust.
pub const PASSES_MIN: usize = 16;
/// Fewest passes between two looks; more of long trials, by this share of what they have.
const STEP: usize = 8;
const STEP_SHARE: usize = 8;

/// When an image is measured well enough.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Enough {
    /// The standard error (R9) of its `trace_pre` is at most this share of it.
    Share(f64),
    /// It is at most this.
    Error(f64),
}

impl Enough {
    /// Whether a trace is known so well.
    #[must_use]
    pub fn is_reached(self, trace: Estimate) -> bool {
        trace.se.is_some_and(|se| match self {
            Enough::Share(share) => se <= share * trace.value,
            Enough::Error(error) => se <= error,
        })
    }

    /// After how many passes somebody looks next.
    #[must_use]
    pub fn next_look(passes: usize, most: usize) -> usize {
        let next = if passes == 0 { PASSES_MIN } else { passes + (passes / STEP_SHARE).max(STEP) };
        next.min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_few_and_the_last_is_at_the_end() {
        let mut looks = vec![];
        while looks.last() != Some(&100) {
            looks.push(Enough::next_look(looks.last().copied().unwrap_or(0), 100));
        }
        assert_eq!(looks, [16, 24, 32, 40, 48, 56, 64, 72, 81, 91, 100]);
        assert_eq!(Enough::next_look(0, 5), 5);
    }

    #[test]
    fn an_error_that_is_not_known_is_not_small() {
        let trace = |value, se| Estimate { value, se };
        assert!(!Enough::Share(0.5).is_reached(trace(1.0, None)));
        assert!(Enough::Share(0.5).is_reached(trace(1.0, Some(0.5))));
        assert!(!Enough::Error(0.4).is_reached(trace(1.0, Some(0.5))));
        assert!(!Enough::Error(0.4).is_reached(trace(1.0, Some(f64::NAN))));
    }
}
