//! Whether what a sweep found is kept: only where it is no slower than the defaults, measured beside them at the end.
//!
//! A sweep takes the best of many measurements, and the best of many is in part the luckiest. So what it found is
//! measured anew, in turns with the defaults, and that measurement alone decides.

use serde::Serialize;

/// Measurements of each of the two, in the order that [`TURNS`] gives.
pub const ROUNDS: usize = 2;
/// Whose turn it is: the defaults are first and last, so that a machine that becomes slower or faster meanwhile treats
/// both alike.
pub const TURNS: [Turn; 2 * ROUNDS] = [Turn::Defaults, Turn::Found, Turn::Found, Turn::Defaults];

/// What is measured in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The defaults.
    Defaults,
    /// What the sweep found.
    Found,
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kept")]
pub enum Settled {
    /// What the sweep found; it is so many times as fast as the defaults, and 1 at least.
    Found {
        /// Times as fast.
        gain: f64,
    },
    /// The defaults; what the sweep found is so many times as fast, and below 1. `None` where one of the two could not be
    /// measured.
    Defaults {
        /// Times as fast.
        gain: Option<f64>,
    },
}

/// By the fastest of the seconds of each: other work on the machine makes runs slower, and none faster.
#[must_use]
pub fn settle(defaults: &[f64], found: &[f64]) -> Settled {
    let fastest = |seconds: &[f64]| {
        seconds.iter().copied().filter(|seconds| *seconds > 0.0).min_by(|a, b| a.total_cmp(b))
    };
    match fastest(defaults).zip(fastest(found)).map(|(defaults, found)| defaults / found) {
        Some(gain) if gain >= 1.0 => Settled::Found { gain },
        gain => Settled::Defaults { gain },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_faster_beside_the_defaults_is_not_kept() {
        for (defaults, found, wanted) in [
            (vec![2.0, 2.2], vec![1.0, 4.0], Settled::Found { gain: 2.0 }),
            (vec![1.0], vec![1.0, 1.0], Settled::Found { gain: 1.0 }),
            // The sweep's row was from a quiet moment.
            (vec![1.0, 9.0], vec![1.25, 1.5], Settled::Defaults { gain: Some(0.8) }),
            (vec![], vec![1.0], Settled::Defaults { gain: None }),
            (vec![1.0], vec![], Settled::Defaults { gain: None }),
            (vec![1.0], vec![f64::NAN, 0.0], Settled::Defaults { gain: None }),
        ] {
            assert_eq!(settle(&defaults, &found), wanted, "{defaults:?} {found:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_never_slower(
            defaults in prop::collection::vec(0.01_f64..10.0, 0..4),
            found in prop::collection::vec(0.01_f64..10.0, 0..4),
        ) {
            let fastest = |seconds: &[f64]| seconds.iter().copied().fold(f64::INFINITY, f64::min);
            match settle(&defaults, &found) {
                Settled::Found { gain } => {
                    prop_assert!(gain >= 1.0 && fastest(&found) <= fastest(&defaults));
                }
                Settled::Defaults { gain } => {
                    prop_assert_eq!(gain.is_none(), defaults.is_empty() || found.is_empty());
                    prop_assert!(gain.is_none_or(|gain| gain < 1.0));
                }
            }
        }

        /// Other work can only hide a gain that there is, or a loss; it cannot make a loss of half look like a gain as long
        /// as one of the turns of each was quiet.
        #[test]
        fn a_quiet_turn_of_each_is_enough(busy in 1.0_f64..20.0, ratio in 0.2_f64..5.0) {
            let kept = settle(&[1.0, busy], &[busy * ratio, ratio]);
            prop_assert_eq!(matches!(kept, Settled::Found { .. }), ratio <= 1.0);
        }
    }
}
