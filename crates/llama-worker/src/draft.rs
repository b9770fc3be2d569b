//! What an answer is likely to go on with, where it stays near a text that is known beforehand.
//!
//! A corrected text is most of the text; a JSON document is most of the last one of its schema, its names are those of
//! others before it, and its values are quoted from the prompt. Tokens of that are put into the batch behind the answer's
//! last one; where the model chooses the same, one step gives several tokens, and what it chooses is what it would have
//! chosen one by one (Leviathan, Kalman, Matias 2023; the draft is a text, as in prompt lookup).

use haul_frames::Call;

use crate::engine::Engine;
use crate::llama::Token;

/// Tokens ahead of an answer in one batch: fewer while it does not agree with the draft.
const AHEAD_MIN: usize = 2;
const AHEAD_MAX: usize = 8;
/// Tokens ahead of an answer that were looked up in its prompt: on one core a batch of four takes hardly longer than one.
const LOOKED_UP: usize = 3;
/// Tokens by which a place in the prompt is known at best.
pub(crate) const PLACE_TOKENS_MAX: usize = 3;
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
    /// Answers of other calls before, each behind the end of its prompt, where answers have a form: what one goes on with
    /// is looked up in them and in its own prompt while there is no draft, or the answer is astray from it.
    earlier: Option<Vec<Token>>,
}

/// What calls before a call answered.
pub(crate) struct Known {
    /// The last answer of its form.
    pub(crate) last: Vec<Token>,
    /// The last ones of any form, each behind the end of its prompt.
    pub(crate) earlier: Vec<Token>,
}

impl Draft {
    /// A call's own draft, or what is known of answers of its form; nothing for models that cannot take back what they
    /// have read.
    pub(crate) fn new(engine: &Engine, call: &Call, known: Option<Known>) -> Result<Self, String> {
        match (&call.draft, known) {
            _ if engine.recurrent => Ok(Self::of(vec![])),
            (Some(text), _) => {
                let mut tokens = engine.model().plain(text)?;
                // A text begins with it, and an answer does not.
                if tokens.first() == Some(&engine.model().bos()) {
                    tokens.remove(0);
                }
                Ok(Self::of(tokens))
            }
            (None, Some(known)) => Ok(Self { earlier: Some(known.earlier), ..Self::of(known.last) }),
            (None, None) => Ok(Self::of(vec![])),
        }
    }

    fn of(tokens: Vec<Token>) -> Self {
        Self { tokens, at: 0, agreed: AHEAD_MAX, astray: 0, earlier: None }
    }

    /// What the answer is likely to go on with behind `said`, the prompt and itself so far, at most so many tokens.
    pub(crate) fn ahead<'a>(&'a self, said: &'a [Token], most: usize) -> &'a [Token] {
        let drafted = &self.tokens[self.at..];
        let (likely, count) = match &self.earlier {
            _ if self.astray == 0 && !drafted.is_empty() => {
                (drafted, self.agreed.clamp(AHEAD_MIN, AHEAD_MAX))
            }
            Some(earlier) => (followed(earlier, said), LOOKED_UP),
            None => (&[][..], 0),
        };
        &likely[..count.min(most).min(likely.len())]
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

/// What followed where the last tokens stood before; of several places the one that is like this one for longest, and
/// of those the last, in the call itself before those in others.
fn followed<'a>(earlier: &'a [Token], said: &'a [Token]) -> &'a [Token] {
    let places = |text: &'a [Token]| {
        (1..text.len()).map(move |end| {
            let before = text[..end].iter().rev();
            let like =
                before.zip(said.iter().rev()).take(PLACE_TOKENS_MAX).take_while(|(a, b)| a == b).count();
            (like, &text[end..])
        })
    };
    let place = places(earlier).chain(places(said)).max_by_key(|(like, _)| *like);
    place.map_or(&[], |(like, rest)| if like > 0 { rest } else { &[] })
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
            let ahead = draft.ahead(&[], usize::MAX).to_vec();
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
            assert!(draft.ahead(&[], usize::MAX).is_empty());
        }
        draft.go_on(Token(i32::from(b'd')));
        assert_eq!(draft.ahead(&[], usize::MAX), tokens("ef"), "found again, and careful at first");
        assert_eq!(draft.ahead(&[], 1), tokens("e"));
    }

    #[test]
    fn an_answer_with_a_form_goes_on_as_its_prompt_or_an_answer_before() {
        let looks_up = |earlier: &str, said: &str| {
            let draft = Draft { earlier: Some(tokens(earlier)), ..Draft::of(vec![]) };
            String::from_utf8(
                draft.ahead(&tokens(said), usize::MAX).iter().map(|token| token.0 as u8).collect(),
            )
        };
        assert_eq!(looks_up(">{one:1}", ">{").unwrap(), "one", "an answer begins like the one before");
        assert_eq!(looks_up(">{a:7}", "the margin is 2.75%>{a:2").unwrap(), ".75", "and quotes its prompt");
        assert_eq!(looks_up("xb1 xb2", "yb3 xb").unwrap(), "2", "the last of the places that are most alike");
        assert_eq!(looks_up("b1", "b2 b").unwrap(), "2 b", "its own prompt before the answers of others");
        assert_eq!(looks_up("abc", "z").unwrap(), "");
        assert_eq!(looks_up("", "").unwrap(), "");
        assert!(
            Draft::of(vec![]).ahead(&tokens("aba"), usize::MAX).is_empty(),
            "text without a form is not guessed"
        );
    }
}
