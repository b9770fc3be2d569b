//! Which call is sent next: of calls that begin alike one goes ahead, and the others when it is answered.

use std::collections::VecDeque;

use super::wire::{beginning, beginning_bytes};
use crate::call::Call;
use crate::schedule::batches;

/// A beginning that is shorter is not waited for: vLLM keeps blocks of 16 tokens, which have some 64 bytes.
const SHARED_BYTES_MIN: usize = 64;

/// The calls that are still to be sent.
pub(super) struct Plan {
    groups: VecDeque<Group>,
}

struct Group {
    waiting: VecDeque<usize>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its first call is to go ahead.
    Cold,
    /// This call is on its way.
    Warming(usize),
    /// The others may follow.
    Warm,
}

impl Plan {
    pub(super) fn new(calls: &[Call]) -> Self {
        let beginnings: Vec<String> = calls.iter().map(|call| beginning(&call.prompt)).collect();
        let groups = batches(beginnings.iter().map(String::as_str).enumerate(), usize::MAX);
        let group = |numbers: Vec<usize>| {
            let is_long = numbers
                .first()
                .is_some_and(|first| beginning_bytes(&calls[*first].prompt) >= SHARED_BYTES_MIN);
            Group { waiting: numbers.into(), state: if is_long { State::Cold } else { State::Warm } }
        };
        Self { groups: groups.into_iter().map(|batch| group(batch.numbers)).collect() }
    }

    /// The next call that may be sent now.
    pub(super) fn next(&mut self) -> Option<usize> {
        let at = self.groups.iter().position(|group| !matches!(group.state, State::Warming(_)))?;
        let group = &mut self.groups[at];
        let number = group.waiting.pop_front()?;
        if group.state == State::Cold {
            group.state = State::Warming(number);
        }
        if group.waiting.is_empty() {
            self.groups.remove(at);
        }
        Some(number)
    }

    /// A call is answered, or will not be: who waited for it goes on.
    pub(super) fn answered(&mut self, number: usize) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.state == State::Warming(number)) {
            group.state = State::Warm;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Prompt;

    #[test]
    fn one_call_goes_ahead_of_those_that_begin_alike() {
        let document = "The lighthouse stood on the rock since 1871, and its keepers wrote down every storm.";
        let ask = |shared: &str, rest: &str| Call::greedy(Prompt::chat(None, shared, rest), 8);
        let calls = [
            ask(document, "Who?"),
            ask("", "Something else."),
            ask(document, "Where?"),
            ask("", "Another thing."),
            ask(document, "When?"),
        ];
        let mut plan = Plan::new(&calls);
        let mut sent: Vec<usize> = std::iter::from_fn(|| plan.next()).collect();
        assert_eq!(sent, [1, 3, 0], "those that share nothing wait for nobody");
        plan.answered(1);
        assert_eq!(plan.next(), None);
        plan.answered(0);
        sent = std::iter::from_fn(|| plan.next()).collect();
        assert_eq!(sent, [2, 4]);
        assert_eq!(plan.next(), None);
    }
}
