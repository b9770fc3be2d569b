//! Prompts to text: what asks a language model.
//!
//! A [`call::Call`] is a prompt, limits and perhaps a grammar; [`Generator::run`] takes many and hands each
//! [`call::Answer`] on as it comes, by the number of its call. Calls that begin alike are computed together
//! (`schedule`). What answers is the worker `haul-llama` with a GGUF file ([`local`]), a server with OpenAI's routes
//! ([`remote`]), or a script ([`fake`]).
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use haul_generate::Generator;
//! use haul_generate::call::{Call, Prompt};
//! use haul_generate::fake::{Fake, Line};
//!
//! let mut generator = Generator::Fake(Fake::new([Line::says("4")]));
//! let calls = [Call::greedy(Prompt::text("2 + 2 = "), 8)];
//! generator.run(&calls, &mut |number, answer| {
//!     assert_eq!((number, answer.unwrap().text.as_str()), (0, "4"));
//!     ControlFlow::Continue(())
//! })?;
//! # Ok::<(), haul_generate::GenerateError>(())
//! ```
//!
//! It never decides what a prompt says, never links llama.cpp, and never falls back to another model or device.
#![forbid(unsafe_code)]

pub mod call;
pub mod devices;
pub mod discover;
pub mod fake;
pub mod gguf;
pub mod local;
mod marks;
pub mod proof;
pub mod remote;
mod schedule;
pub mod schema;
pub mod template;
mod worker;
#[cfg(unix)]
mod worker_unix;

use std::ops::ControlFlow;

use call::{Answer, Call, CallError, Totals};
use devices::DeviceAbsent;
use fake::Fake;
use local::{Local, WorkerError};
use remote::{Remote, ServerError};

/// What answers calls.
pub enum Generator {
    /// A script of answers, for tests of what asks.
    Fake(Fake),
    /// A GGUF file, by the worker.
    Local(Box<Local>),
    /// A server with OpenAI's routes.
    Remote(Box<Remote>),
}

/// Where a finished call goes: its number among the calls of the run, and what came of it.
pub type Answered<'a> = dyn FnMut(usize, Result<Answer, CallError>) -> ControlFlow<()> + 'a;

/// What the model of a generator is, as far as its calls need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// How receipts name it.
    pub name: String,
    /// Tokens of prompt and answer together; `None` where the server does not say.
    pub context_tokens: Option<u32>,
    /// Hash of the weights, or of the server's address and model name: part of every journal key.
    pub identity: String,
}

/// Why no call can be answered any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The script has no line for another call.
    #[error("the script has {lines} lines, and call {call} has none")]
    ScriptEnded {
        /// Lines of the script.
        lines: usize,
        /// The call, from 0.
        call: usize,
    },
    /// The device that was asked for is not there.
    #[error(transparent)]
    Device(#[from] DeviceAbsent),
    /// The worker is gone, or cannot do it.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The server is gone, or cannot be used.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A template that was given for the model.
    #[error(transparent)]
    Template(#[from] template::TemplateError),
    /// A vocabulary whose marks cannot be told from texts.
    #[error("the marks of the model's vocabulary: {0}")]
    Marks(#[from] aho_corasick::BuildError),
}

impl GenerateError {
    /// Whether a stop was asked for, and nothing else is wrong.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Worker(WorkerError::Stopped) | Self::Server(ServerError::Stopped { .. }))
    }

    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Device(error) => Some(error.hint()),
            Self::Worker(error) => error.hint().map(str::to_owned),
            Self::Server(error) => Some(error.hint().to_owned()),
            Self::ScriptEnded { .. } | Self::Template(_) | Self::Marks(_) => None,
        }
    }
}

impl Generator {
    /// Answers `calls`, each once, in the order that is fastest; `answered` gets every one as it comes and may end the run.
    /// So may the stop that a worker or server was opened with, also while nothing comes. What was asked and not answered
    /// then is not counted.
    ///
    /// # Errors
    /// Nothing answers any more. What one call came to is its own result, and the others go on.
    pub fn run(&mut self, calls: &[Call], answered: &mut Answered<'_>) -> Result<Totals, GenerateError> {
        match self {
            Generator::Fake(fake) => fake.run(calls, answered),
            Generator::Local(local) => local.run(calls, answered),
            Generator::Remote(remote) => remote.run(calls, answered),
        }
    }

    /// What its model is.
    #[must_use]
    pub fn facts(&self) -> ModelFacts {
        match self {
            Generator::Fake(_) => {
                ModelFacts { name: "script".to_owned(), context_tokens: None, identity: "script".to_owned() }
            }
            Generator::Local(local) => local.facts(),
            Generator::Remote(remote) => remote.facts(),
        }
    }

    /// Tokens of texts, counted by the model's own tokenizer; `None` where it has none that we can ask.
    ///
    /// # Errors
    /// Nothing answers any more.
    pub fn count_tokens(&mut self, texts: &[&str]) -> Result<Option<Vec<u32>>, GenerateError> {
        match self {
            // A token for four bytes, and at least one.
            Generator::Fake(_) => Ok(Some(
                texts.iter().map(|text| u32::try_from(text.len() / 4 + 1).unwrap_or(u32::MAX)).collect(),
            )),
            Generator::Local(local) => local.count_tokens(texts).map(Some),
            // OpenAI's routes count nothing beforehand.
            Generator::Remote(_) => Ok(None),
        }
    }
}
