//! Beginnings that were computed once and are no longer in the cache: copies of their states, in ordinary memory.
//!
//! Questions go through the windows of a document in rounds: when a window's turn comes again, its cells have long been
//! given to others. To put a copy back costs a hundredth of computing it.

use std::sync::Arc;

use crate::desk::common;
use crate::llama::{State, Token};

/// A shorter beginning is computed again, and what is less longer than a copy has none of its own: questions about one
/// window differ in their last words, and each would take the window's cells once more.
const BEGINNING_TOKENS_MIN: usize = 64;

/// Copies of beginnings, within a bound.
pub(crate) struct Beginnings {
    kept: Vec<Beginning>,
    tokens_max: usize,
    bytes_free: usize,
    /// Copies that were given up, which draws the next one.
    given_up: usize,
}

struct Beginning {
    tokens: Vec<Token>,
    state: Arc<State>,
}

impl Beginnings {
    /// For caches of so many cells: all copies together have no more, or else take no more than so many bytes.
    pub(crate) fn new(cells: u32, bytes_free: usize) -> Self {
        Self { kept: Vec::new(), tokens_max: cells as usize, bytes_free, given_up: 0 }
    }

    /// The copy that has most in common with `tokens`, and how much, if that is more than `have`.
    pub(crate) fn longer(&self, tokens: &[Token], have: usize) -> Option<(usize, Arc<State>)> {
        let by_common = self.kept.iter().map(|kept| (common(&kept.tokens, tokens), kept));
        let (most, kept) = by_common.max_by_key(|(common, _)| *common)?;
        (most > have && most >= BEGINNING_TOKENS_MIN).then(|| (most, Arc::clone(&kept.state)))
    }

    /// Whether a beginning is worth a copy, and has none.
    pub(crate) fn wants(&self, tokens: &[Token]) -> bool {
        let known = self.kept.iter().map(|kept| common(&kept.tokens, tokens)).max().unwrap_or(0);
        tokens.len() <= self.tokens_max && tokens.len() - known >= BEGINNING_TOKENS_MIN
    }

    /// Keeps a copy. What has to go for it is drawn by lot: in rounds, the oldest is the one that is needed next.
    pub(crate) fn keep(&mut self, tokens: Vec<Token>, state: State) {
        self.kept.retain(|kept| !tokens.starts_with(&kept.tokens));
        let is_full = |kept: &Self| {
            let bytes: usize = kept.kept.iter().map(|kept| kept.state.0.len()).sum();
            kept.tokens() + tokens.len() > kept.tokens_max && bytes + state.0.len() > kept.bytes_free
        };
        while !self.kept.is_empty() && is_full(self) {
            self.given_up += 1;
            // A multiplier of Knuth's spreads consecutive numbers.
            let lot = self.given_up.wrapping_mul(2_654_435_761) >> 7;
            self.kept.swap_remove(lot % self.kept.len());
        }
        self.kept.push(Beginning { tokens, state: Arc::new(state) });
    }

    pub(crate) fn forget(&mut self) {
        self.kept.clear();
    }

    fn tokens(&self) -> usize {
        self.kept.iter().map(|kept| kept.tokens.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(first: i32, count: usize) -> Vec<Token> {
        (first..).take(count).map(Token).collect()
    }

    fn copy() -> State {
        State(vec![0; 10])
    }

    #[test]
    fn a_round_over_more_than_there_is_room_for_finds_some() {
        let mut beginnings = Beginnings::new(1000, 0);
        let mut found = 0;
        for round in 0..10 {
            for window in 0..15 {
                let window = tokens(window * 1000, 100);
                if beginnings.longer(&window, 0).is_some() {
                    found += 1;
                } else if beginnings.wants(&window) {
                    beginnings.keep(window, copy());
                }
                assert!(beginnings.tokens() <= 1000, "round {round}");
            }
        }
        // The oldest one given up first would find none of 15 in a memory of 10.
        assert!(found > 40, "{found} of 135");
    }

    #[test]
    fn small_copies_are_kept_beyond_the_cells() {
        let mut beginnings = Beginnings::new(100, 30);
        for window in 0..4 {
            beginnings.keep(tokens(window * 1000, 100), copy());
        }
        assert_eq!(beginnings.kept.len(), 3, "30 bytes are 3 copies, and 100 cells are 1");
    }

    #[test]
    fn the_longest_common_beginning_is_found_and_a_longer_copy_takes_its_place() {
        let mut beginnings = Beginnings::new(500, 0);
        beginnings.keep(tokens(0, 100), copy());
        let mut other = tokens(0, 80);
        other.extend(tokens(5000, 80));
        assert_eq!(beginnings.longer(&other, 0).unwrap().0, 80);
        assert!(beginnings.longer(&other, 80).is_none(), "that much is there already");
        assert!(!beginnings.wants(&tokens(0, 90)), "a part of what is kept");
        assert!(!beginnings.wants(&tokens(0, 63)), "too short");
        assert!(!beginnings.wants(&tokens(0, 163)), "the same window with other last words");
        assert!(beginnings.wants(&tokens(0, 164)));
        beginnings.keep(tokens(0, 164), copy());
        assert_eq!(beginnings.kept.len(), 1);
        assert_eq!(beginnings.longer(&tokens(0, 200), 0).unwrap().0, 164);
    }
}
