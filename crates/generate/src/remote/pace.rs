//! How much a server is asked at once: what the user allows, and less while it says that it is busy.
//!
//! A refusal halves the calls that are in flight and holds all of them back, for as long as the server asks for, and a
//! little longer at random, so that they do not come together again. Each round of answers lets one more call go.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::LOOK_AGAIN;

/// A server that wants to be left alone for longer has no answer today.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// Waits that no server asks for double up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A wait is longer by up to one part in so many.
const JITTER_PART: u32 = 4;

/// Decides who may ask, and when.
pub(super) struct Pace {
    state: Mutex<State>,
    changed: Condvar,
    in_flight_max: usize,
    backoff_first: Duration,
}

struct State {
    in_flight: usize,
    /// Calls that may be in flight now.
    limit: usize,
    /// Answers since the limit changed.
    answers: usize,
    /// Refusals since the last answer; those of calls that were in flight together are one.
    refusals: u32,
    refused_at: Option<Instant>,
    /// Since when there was no answer but that it is busy.
    busy_since: Option<Instant>,
    /// Nobody asks before this.
    not_before: Option<Instant>,
}

/// The right to send one request.
pub(super) struct Turn<'a> {
    pace: &'a Pace,
    began: Instant,
}

/// What a refusal comes to.
pub(super) struct Refused {
    /// How long all calls wait now; `None` where that would be too long.
    pub(super) wait: Option<Duration>,
    /// How long no call had an answer.
    pub(super) unanswered: Duration,
}

impl Pace {
    pub(super) fn new(in_flight_max: usize, backoff_first: Duration) -> Self {
        let in_flight_max = in_flight_max.max(1);
        let state = State {
            in_flight: 0,
            limit: in_flight_max,
            answers: 0,
            refusals: 0,
            refused_at: None,
            busy_since: None,
            not_before: None,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), in_flight_max, backoff_first }
    }

    /// Waits until one more request may be sent; none is sent any more when the run is over.
    pub(super) fn turn(&self, is_over: &AtomicBool) -> Option<Turn<'_>> {
        let mut state = self.state();
        loop {
            if is_over.load(Ordering::Relaxed) {
                return None;
            }
            let began = Instant::now();
            let held =
                state.not_before.map_or(Duration::ZERO, |until| until.saturating_duration_since(began));
            if held.is_zero() && state.in_flight < state.limit {
                state.in_flight += 1;
                return Some(Turn { pace: self, began });
            }
            let look_again = if held.is_zero() { LOOK_AGAIN } else { held.min(LOOK_AGAIN) };
            let waited = self.changed.wait_timeout(state, look_again);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// The server has time.
    pub(super) fn answered(self) {
        let mut state = self.pace.state();
        state.refusals = 0;
        state.busy_since = None;
        state.answers += 1;
        if state.answers >= state.limit && state.limit < self.pace.in_flight_max {
            state.limit += 1;
            state.answers = 0;
        }
    }

    /// The server has no time, and perhaps says for how long.
    pub(super) fn refused(self, asked: Option<Duration>) -> Refused {
        let (pace, now) = (self.pace, Instant::now());
        let mut state = pace.state();
        if state.refused_at.is_none_or(|at| self.began > at) {
            state.refusals += 1;
            state.limit = (state.limit / 2).max(1);
            state.answers = 0;
            state.refused_at = Some(now);
        }
        let wait = match asked {
            Some(asked) if asked > RETRY_AFTER_MAX => None,
            Some(asked) if asked >= pace.backoff_first => Some(jittered(asked)),
            // "0 s" would be a loop that asks as fast as it can.
            _ => Some(jittered(backoff(pace.backoff_first, state.refusals))),
        };
        state.not_before = state.not_before.max(wait.map(|wait| now + wait));
        let unanswered = now - *state.busy_since.get_or_insert(now);
        Refused { wait, unanswered }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pace.state().in_flight -= 1;
        self.pace.changed.notify_one();
    }
}

/// The wait after so many failures, from 1.
pub(super) fn backoff(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX)
}

/// A wait that is a little longer, by chance.
pub(super) fn jittered(wait: Duration) -> Duration {
    // Hashers of maps begin with numbers that differ from each to the next: chance enough for this.
    let part = RandomState::new().build_hasher().finish() % 256;
    wait.saturating_add((wait / JITTER_PART / 256).saturating_mul(part as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(500);

    fn turn(pace: &Pace) -> Turn<'_> {
        pace.state().not_before = None;
        pace.turn(&AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn a_refusal_halves_what_is_in_flight_and_answers_bring_it_back() {
        let pace = Pace::new(16, FIRST);
        let in_flight: Vec<Turn<'_>> = (0..16).map(|_| turn(&pace)).collect();
        for refused in in_flight {
            refused.refused(None);
        }
        assert_eq!(pace.state().limit, 8, "calls in flight together are one refusal");
        for _ in 0..5 {
            turn(&pace).refused(None);
        }
        assert_eq!(pace.state().limit, 1);
        for _ in 0..200 {
            turn(&pace).answered();
        }
        let state = pace.state();
        assert_eq!((state.limit, state.in_flight), (16, 0));
    }

    #[test]
    fn a_wait_is_what_the_server_asks_for_or_doubles() {
        let pace = Pace::new(4, FIRST);
        let is_about = |wait: Option<Duration>, seconds: f64| {
            let wait = wait.unwrap().as_secs_f64();
            assert!((seconds..=1.25 * seconds).contains(&wait), "{wait} for {seconds}");
        };
        is_about(turn(&pace).refused(Some(Duration::from_secs(7))).wait, 7.0);
        is_about(turn(&pace).refused(Some(Duration::ZERO)).wait, 1.0);
        is_about(turn(&pace).refused(None).wait, 2.0);
        for _ in 0..100 {
            turn(&pace).refused(None);
        }
        is_about(turn(&pace).refused(None).wait, 30.0);
        turn(&pace).answered();
        is_about(turn(&pace).refused(None).wait, 0.5);
        // No clock reaches as far as some servers ask, and the other calls do not wait for it.
        pace.state().not_before = None;
        let refused = turn(&pace).refused(Some(Duration::MAX));
        assert_eq!((refused.wait, pace.state().not_before), (None, None));
    }

    #[test]
    fn nobody_waits_for_a_run_that_is_over() {
        let pace = Pace::new(1, FIRST);
        turn(&pace).refused(Some(Duration::from_secs(60)));
        assert!(pace.turn(&AtomicBool::new(true)).is_none());
    }
}
