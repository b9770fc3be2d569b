//! A prompt, how it is answered, and the answer.

use std::ops::Range;

pub use haul_frames::{Constraint, Finish, Sampling, TokenLogprob};
use serde::{Deserialize, Serialize};

/// One question to a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// What the model reads.
    pub prompt: Prompt,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// Texts that end the answer and are not in it.
    pub stop: Vec<String>,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// What the answer must be, if anything.
    pub constraint: Option<Constraint>,
    /// A text that the answer is likely to be near: engines of ours go faster where it is, and answer the same. It is no
    /// part of what a call is known by.
    #[serde(skip)]
    pub draft: Option<String>,
    /// Alternatives whose log-probabilities are given for each token; `None` gives none, not even the token's own.
    pub logprobs: Option<u32>,
}

/// What a model reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// As it is, without a template.
    Text {
        /// The beginning that other calls share.
        prefix: String,
        /// What stands behind it.
        suffix: String,
        /// What of it is a document's, in bytes: a mark of the model that it spells is text to engines of ours. All else
        /// is read with its marks. It is no part of what a call is known by.
        #[serde(skip)]
        content: Range<usize>,
    },
    /// Turns of a conversation, written out by the model's template.
    Chat {
        /// The last one is the user's.
        messages: Vec<Message>,
        /// How much of the last turn's content other calls share, in bytes.
        shared_bytes: usize,
    },
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// What a model made of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Without the text that stopped it.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of which were computed for other calls.
    pub reused_tokens: u32,
    /// Tokens of the answer.
    pub answer_tokens: u32,
    /// From its entry into a batch, or its first request, to its end.
    pub ms: u64,
    /// By token, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// What of a sampling no sampler can do, in the words of a request; such a value would be taken for another one.
///
/// # Errors
/// The first value that is out of its range.
pub fn in_range(sampling: &Sampling) -> Result<(), String> {
    let Sampling { temperature, top_p, min_p, repeat_penalty, .. } = *sampling;
    let ranges = [
        ("temperature", temperature, (0.0..=TEMPERATURE_MAX).contains(&temperature), "from 0 to 100"),
        ("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1"),
        ("min_p", min_p, (0.0..=1.0).contains(&min_p), "from 0 to 1"),
        ("repeat_penalty", repeat_penalty, repeat_penalty > 0.0 && repeat_penalty.is_finite(), "above 0"),
    ];
    match ranges.into_iter().find(|(_, _, is_in, _)| !is_in) {
        Some((name, value, _, range)) => Err(format!("{name} is {value}: it is {range}")),
        None => Ok(()),
    }
}

/// Beyond it every token is as likely as any other.
const TEMPERATURE_MAX: f32 = 100.0;

/// Words of an error: what an engine or a server says, and quotes, may be long.
pub(crate) const WORDS_CHARS_MAX: usize = 400;

/// The beginning of a text that is longer than so many characters.
pub(crate) fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Why one call has no answer. The text is one line for a list of failures.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Prompt and answer do not fit the model's context.
    #[error("{tokens} tokens of prompt and answer in a context of {context_tokens}")]
    TooLong {
        /// Both together.
        tokens: u64,
        /// What there is.
        context_tokens: u64,
    },
    /// The engine or the server will not do it.
    #[error("refused: {why}")]
    Refused {
        /// In its words.
        why: String,
    },
    /// Fewer tokens were read than were sent: the answer is to another question.
    #[error("the prompt has {sent} tokens, and {consumed} were read")]
    Truncated {
        /// Tokens of the prompt.
        sent: u64,
        /// Tokens that were read.
        consumed: u64,
    },
    /// The answer is not what the constraint asks for.
    #[error("the answer is not of its schema: {why}")]
    NotOfSchema {
        /// Where and what.
        why: String,
    },
    /// What came is no answer, and would be none next time.
    #[error("the server's answer cannot be used: {why}")]
    Unusable {
        /// What is wrong with it.
        why: String,
    },
    /// Tried as often as is allowed.
    #[error("no answer in {attempts} attempts: {why}")]
    GivenUp {
        /// How often.
        attempts: u32,
        /// What went wrong last.
        why: String,
    },
}

/// Sums over the answers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Calls that were answered.
    pub calls: u64,
    /// Calls that were not.
    pub failed: u64,
    /// Prompt tokens that were computed.
    pub prefill_tokens: u64,
    /// Prompt tokens that were there already.
    pub reused_prefix_tokens: u64,
    /// Tokens of answers.
    pub decode_tokens: u64,
    /// Requests that were sent again.
    pub retries: u64,
}

impl Call {
    /// The most likely answer of at most `max_tokens` tokens, of any form.
    #[must_use]
    pub fn greedy(prompt: Prompt, max_tokens: u32) -> Call {
        Call {
            prompt,
            max_tokens,
            stop: vec![],
            sampling: Sampling::GREEDY,
            constraint: None,
            draft: None,
            logprobs: None,
        }
    }
}

impl Answer {
    /// Tokens that were computed for it: of the prompt what was not there already, and its own.
    #[must_use]
    pub fn computed_tokens(&self) -> u64 {
        u64::from(self.prompt_tokens.saturating_sub(self.reused_tokens)) + u64::from(self.answer_tokens)
    }
}

impl Prompt {
    /// A text that shares nothing.
    #[must_use]
    pub fn text(text: &str) -> Prompt {
        Prompt::Text { prefix: String::new(), suffix: text.to_owned(), content: 0..0 }
    }

    /// A system turn and a user turn whose first part, `shared`, other calls have too.
    #[must_use]
    pub fn chat(system: Option<&str>, shared: &str, rest: &str) -> Prompt {
        let system = system.map(|content| Message { role: "system".to_owned(), content: content.to_owned() });
        let user = Message { role: "user".to_owned(), content: format!("{shared}{rest}") };
        Prompt::Chat { messages: system.into_iter().chain([user]).collect(), shared_bytes: shared.len() }
    }
}

impl CallError {
    /// The same in other words, where it has any.
    pub(crate) fn in_words(self, change: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Refused { why } => Self::Refused { why: change(&why) },
            Self::NotOfSchema { why } => Self::NotOfSchema { why: change(&why) },
            Self::Unusable { why } => Self::Unusable { why: change(&why) },
            Self::GivenUp { attempts, why } => Self::GivenUp { attempts, why: change(&why) },
            Self::TooLong { .. } | Self::Truncated { .. } => self,
        }
    }
}

impl Totals {
    /// Adds the sums of another run.
    pub fn merge(&mut self, other: &Totals) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.prefill_tokens += other.prefill_tokens;
        self.reused_prefix_tokens += other.reused_prefix_tokens;
        self.decode_tokens += other.decode_tokens;
        self.retries += other.retries;
    }

    /// Counts an answer.
    pub fn add(&mut self, answer: &Answer) {
        self.calls += 1;
        self.prefill_tokens += u64::from(answer.prompt_tokens.saturating_sub(answer.reused_tokens));
        self.reused_prefix_tokens += u64::from(answer.reused_tokens);
        self.decode_tokens += u64::from(answer.answer_tokens);
    }
}
