//! What an answer is likely to go on with, where it stays near a text that is known beforehand.
//!
//! A corrected text is most of the text, and a JSON document most of the last one of its schema. Tokens of that are put
//! into the batch behind the answer's last one; where the model chooses the same, one step gives several tokens, and what
//! it chooses is what it would have chosen one by one (Leviathan, Kalman, Matias 2023; the draft is a text, as in prompt
//! lookup).

use haul_frames::Call;

use crate::engine::Engine;
use crate::llama::Token;

/// Tokens ahead of an answer in one batch: fewer while it does not agree with the draft.
const AHEAD_MIN: usize = 2;
const AHEAD_MAX: usize = 8;
/// How far ahead in the draft a token is looked for when the answer went on differently.
const SEARCH_TOKENS: usize = 8;

/// A text that the answer is likely to be near, and how far the answer has come in it.
pub(crate) struct Draft {
    tokens: Vec<Token>,
    /// Of which the answer has said or left out.
    at: usize,
    /// Tokens that agreed since one did not.
    agreed: usize,
    /// Tokens of the answer since one was found in the draft.
    astray: usize,
}

impl Draft {
    /// A call's own draft, or the last answer of its form; empty for models that cannot take back what they have read.
    pub(crate) fn new(engine: &Engine, call: &Call, last: Vec<Token>) -> Result<Self, String> {
        match &call.draft {
            _ if engine.recurrent => Ok(Self::of(vec![])),
            Some(text) => {
                let mut tokens = engine.model().tokenize(text)?;
                // A text begins with it, and an answer does not.
                if tokens.first() == Some(&engine.model().bos()) {
                    tokens.remove(0);
                }
                Ok(Self::of(tokens))
            }
            None => Ok(Self::of(last)),
        }
    }

    fn of(tokens: Vec<Token>) -> Self {
        Self { tokens, at: 0, agreed: AHEAD_MAX, astray: 0 }
    }

    /// What the answer is likely to go on with, at most so many tokens; nothing where it is astray.
    pub(crate) fn ahead(&self, most: usize) -> &[Token] {
        if self.astray > 0 {
            return &[];
        }
        let left = &self.tokens[self.at..];
        &left[..self.agreed.clamp(AHEAD_MIN, AHEAD_MAX).min(most).min(left.len())]
    }

    /// The answer went on by a token.
    pub(crate) fn go_on(&mut self, token: Token) {
        if self.astray == 0 && self.tokens.get(self.at) == Some(&token) {
            self.at += 1;
            self.agreed += 1;
            return;
        }
        self.agreed = 0;
        let within = self.tokens[self.at..].iter().take(SEARCH_TOKENS + self.astray);
        match within.copied().position(|drafted| drafted == token) {
            Some(skipped) => (self.at, self.astray) = (self.at + skipped + 1, 0),
            None => self.astray += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters as tokens.
    fn tokens(text: &str) -> Vec<Token> {
        text.bytes().map(|byte| Token(i32::from(byte))).collect()
    }

    /// Steps that an answer takes whose draft is a text, one token chosen beyond what agrees in each.
    fn steps(draft: &str, answer: &str) -> usize {
        let (mut draft, answer) = (Draft::of(tokens(draft)), tokens(answer));
        let (mut said, mut steps) = (0, 0);
        while said < answer.len() {
            let ahead = draft.ahead(usize::MAX).to_vec();
            let agree = ahead.iter().zip(&answer[said..]).take_while(|(a, b)| a == b).count();
            for token in &answer[said..(said + agree + 1).min(answer.len())] {
                draft.go_on(*token);
            }
            said += agree + 1;
            steps += 1;
        }
        steps
    }

    #[test]
    fn an_answer_that_is_the_draft_takes_a_ninth_of_the_steps() {
        assert_eq!(steps("abcdefghijklmnopqr", "abcdefghijklmnopqr"), 2);
        assert_eq!(steps("", "abcdef"), 6, "without a draft each token is a step");
    }

    #[test]
    fn the_draft_is_found_again_behind_what_the_answer_changed() {
        let draft = "the commitee have approved it";
        for answer in
            ["the committee have approved it", "the commitee has approved it", "commitee have approved it"]
        {
            let steps = steps(draft, answer);
            assert!(steps <= 10, "{answer}: {steps} steps for {} tokens", answer.len());
        }
    }

    #[test]
    fn an_answer_of_other_words_costs_nothing_ahead() {
        let mut draft = Draft::of(tokens("abcdefgh"));
        for token in tokens("0123456789") {
            draft.go_on(token);
            assert!(draft.ahead(usize::MAX).is_empty());
        }
        draft.go_on(Token(i32::from(b'd')));
        assert_eq!(draft.ahead(usize::MAX), tokens("ef"), "found again, and careful at first");
        assert_eq!(draft.ahead(1), tokens("e"));
    }
}
