//! One call while it is answered: its sequence, what it has said, and how it goes on.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use haul_frames::{self as frames, Finish, TokenLogprob};

use crate::constrain::Form;
use crate::desk::Totals;
use crate::draft::Draft;
use crate::engine::{Engine, Fed, Output};
use crate::llama::{Marks, Token};
use crate::sample::{Sampler, likeliest, log_sum_exp, top};

/// A call that has a sequence.
pub(crate) struct Live {
    pub(crate) call: frames::Call,
    pub(crate) sequence: i32,
    pub(crate) prompt: Vec<Token>,
    /// Tokens of the prompt that are in the cache or in the present batch.
    pub(crate) fed: usize,
    pub(crate) reused: usize,
    pub(crate) consumed: usize,
    /// Tokens that it began with: the trunk's cells.
    pub(crate) began_at: usize,
    /// Cells that it may need beside the trunk's.
    pub(crate) reserved: usize,
    /// The prompt and the answer: what a penalty looks back on.
    pub(crate) said: Vec<Token>,
    pub(crate) draft: Draft,
    pub(crate) answer_tokens: u32,
    pub(crate) text: Vec<u8>,
    pub(crate) sampler: Sampler,
    pub(crate) form: Option<Form>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) start: Instant,
    /// Row of its logits in the present batch; those behind each token of `ahead` follow.
    pub(crate) row: Option<i32>,
    /// Tokens in the present batch that the answer may go on with.
    pub(crate) ahead: Vec<Token>,
}

impl Live {
    /// Adds the last token to the batch, and of what the answer is likely to go on with at most so many; the row of the first.
    pub(crate) fn feed(&mut self, engine: &mut Engine, ahead_max: usize) -> Result<i32, String> {
        let answer_tokens_left = (self.call.max_tokens - self.answer_tokens) as usize;
        self.ahead.extend_from_slice(self.draft.ahead(&self.said, ahead_max.min(answer_tokens_left - 1)));
        let first = self.said.len() - 1;
        let mut row = None;
        for (token, position) in self.said[first..].iter().chain(&self.ahead).zip(first as i32..) {
            let fed = Fed { token: *token, position, sequence: self.sequence, output: Output::Logits };
            row = row.or(Some(engine.add(fed)?));
        }
        row.ok_or_else(|| "a call without a prompt".to_owned())
    }

    /// Takes the next tokens of the answer from the batch; says how it ended, if it did.
    pub(crate) fn go_on(&mut self, engine: &mut Engine, totals: &Totals) -> Result<Option<Finish>, String> {
        let Some(row) = self.row else { return Ok(None) };
        if self.answer_tokens == 0 {
            self.consumed = engine.consumed(self.sequence).saturating_sub(self.ahead.len());
        }
        for (row, ahead) in (row..).zip(0..=self.ahead.len()) {
            let token = self.choose(engine.logits(row)?)?;
            if let Some(finish) = self.take(engine, row, token)? {
                return Ok(Some(finish));
            }
            if self.ahead.get(ahead) != Some(&token) {
                break;
            }
            totals.decode_tokens.fetch_add(1, Relaxed);
        }
        // The last token that was said is read in the next batch, and what was ahead in its place is taken back.
        if !self.ahead.is_empty() && !engine.forget(self.sequence, self.said.len() - 1) {
            return Err("the engine cannot take back what it has read".to_owned());
        }
        Ok(None)
    }

    /// Goes on by a token, chosen by a row's logits.
    fn take(&mut self, engine: &Engine, row: i32, token: Token) -> Result<Option<Finish>, String> {
        if engine.model().ends(token) {
            return Ok(Some(Finish::Stop));
        }
        if let Some(alternatives) = self.call.logprobs {
            self.logprobs.push(logprob(engine, engine.logits(row)?, token, alternatives as usize));
        }
        self.said.push(token);
        self.draft.go_on(token);
        self.answer_tokens += 1;
        let before = self.text.len();
        self.text.extend_from_slice(&engine.model().piece(token, Marks::Hidden));
        if let Some(form) = &mut self.form {
            form.accept(token)?;
        }
        if let Some(at) = stopped(&self.text, before, &self.call.stop) {
            self.text.truncate(at);
            return Ok(Some(Finish::Stop));
        }
        if self.form.as_ref().is_some_and(Form::is_complete) {
            return Ok(Some(Finish::Stop));
        }
        Ok((self.answer_tokens == self.call.max_tokens).then_some(Finish::Length))
    }

    fn choose(&mut self, logits: &[f32]) -> Result<Token, String> {
        let token = match &mut self.form {
            None => self.sampler.choose(logits, &self.said),
            Some(form) => {
                let first = likeliest(logits);
                if self.sampler.is_greedy() && form.allows(first)? {
                    first
                } else {
                    let mut allowed = logits.to_vec();
                    form.forbid(&mut allowed)?;
                    if !allowed.iter().any(|logit| logit.is_finite()) {
                        return Err("the grammar allows no token here".to_owned());
                    }
                    self.sampler.choose(&allowed, &self.said)
                }
            }
        };
        match logits.get(token.0.unsigned_abs() as usize) {
            Some(logit) if logit.is_finite() => Ok(token),
            _ => Err("the model's logits are no numbers".to_owned()),
        }
    }

    pub(crate) fn answer(self, finish: Finish) -> frames::Answer {
        frames::Answer {
            id: self.call.id,
            text: String::from_utf8_lossy(&self.text).into_owned(),
            finish,
            prompt_tokens: self.prompt.len() as u32,
            reused_tokens: self.reused as u32,
            consumed_tokens: self.consumed as u32,
            answer_tokens: self.answer_tokens,
            ms: self.start.elapsed().as_millis() as u64,
            logprobs: self.logprobs,
        }
    }
}

fn logprob(engine: &Engine, logits: &[f32], token: Token, alternatives: usize) -> TokenLogprob {
    let normaliser = log_sum_exp(logits);
    let text =
        |id: i32| String::from_utf8_lossy(&engine.model().piece(Token(id), Marks::Hidden)).into_owned();
    let logit = logits.get(token.0.unsigned_abs() as usize).copied().unwrap_or(f32::NEG_INFINITY);
    TokenLogprob {
        token: text(token.0),
        logprob: (f64::from(logit) - normaliser) as f32,
        top: top(logits, normaliser, alternatives).into_iter().map(|(id, ln)| (text(id), ln)).collect(),
    }
}

/// Where the first stop text begins that the bytes from `new` on complete.
fn stopped(text: &[u8], new: usize, stops: &[String]) -> Option<usize> {
    let found = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| {
        let stop = stop.as_bytes();
        let from = new.saturating_sub(stop.len() - 1);
        text[from..].windows(stop.len()).position(|window| window == stop).map(|at| from + at)
    });
    found.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_text_is_found_across_tokens() {
        let stops = ["\n\n".to_owned(), "END".to_owned(), String::new()];
        assert_eq!(stopped(b"one\n\ntwo", 3, &stops), Some(3));
        assert_eq!(stopped(b"one EN", 4, &stops), None);
        assert_eq!(stopped(b"one END", 6, &stops), Some(4), "begun by the token before");
        assert_eq!(stopped(b"END", 0, &["D".to_owned(), "EN".to_owned()]), Some(0));
        assert_eq!(stopped(b"", 0, &stops), None);
    }
}
