//! `embed`: lines of text to vectors, and to what the model's heads give, in order.

use std::io::{self, BufRead};

use serde::Deserialize;

use crate::stream::{self, TextError, TextFault};
pub use crate::stream::{Outcome, Parts, Settings, TextOutputs};

/// Bytes of one line.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// A run that could not go on. Rows written before it are right and in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedJobError {
    /// The input cannot be read, or a line is too long or not UTF-8.
    #[error("line {line} of the input cannot be read: {source}")]
    Read {
        /// From 1.
        line: u64,
        /// What the system says.
        source: io::Error,
    },
    /// A line that starts like JSON is not a `{"text": ...}` object.
    #[error("line {line} of the input is not a JSON object with a string \"text\": {source}")]
    Json {
        /// From 1.
        line: u64,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A text cannot be tokenized, or the model gave no vector for it.
    #[error("line {line} of the input (\"{first_words}\") {fault}")]
    Text {
        /// From 1.
        line: u64,
        /// How the text begins.
        first_words: String,
        /// Why.
        fault: TextFault,
    },
    /// The rows cannot be written.
    #[error("cannot write the vectors: {0}")]
    Write(#[from] io::Error),
}

impl From<TextError> for EmbedJobError {
    fn from(TextError { number, first_words, fault }: TextError) -> Self {
        Self::Text { line: number, first_words, fault }
    }
}

impl EmbedJobError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Json { .. } => {
                Some("a line is either plain text or {\"text\": \"...\"}; plain text must not start with {")
            }
            Self::Read { .. } => Some("lines are UTF-8 and at most 64 MiB long"),
            Self::Text { fault, .. } => fault.hint(),
            Self::Write(_) => None,
        }
    }
}

/// Reads texts from `input` and hands what the model gives for each to `write` in order.
///
/// # Errors
/// The first line that cannot be read, tokenized or embedded, or whose row cannot be written.
pub fn run(
    settings: &Settings,
    parts: &Parts<'_>,
    mut input: impl BufRead + Send,
    mut write: impl FnMut(&TextOutputs) -> io::Result<()> + Send,
) -> Result<Outcome, EmbedJobError> {
    let mut line = 0;
    let next = || {
        line += 1;
        match next_line(&mut input, line)? {
            // What came before a stop may be half a line.
            Some(text) if !parts.stop.requested() => text_of(text, line).map(Some),
            _ => Ok(None),
        }
    };
    stream::run(settings, parts, next, |outputs| Ok(write(outputs)?))
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// One line without its end; `None` at the end of the input.
fn next_line(input: &mut impl BufRead, line: u64) -> Result<Option<String>, EmbedJobError> {
    let failed = |source| EmbedJobError::Read { line, source };
    let mut bytes = Vec::new();
    let read =
        io::Read::take(&mut *input, LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes).map_err(failed)?;
    if read as u64 > LINE_BYTES_MAX {
        return Err(failed(io::Error::other(format!("longer than {LINE_BYTES_MAX} bytes"))));
    }
    if read == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        bytes.pop_if(|byte| *byte == b'\r');
    }
    String::from_utf8(bytes).map(Some).map_err(|error| failed(io::Error::other(error)))
}

fn text_of(line: String, number: u64) -> Result<String, EmbedJobError> {
    if !line.trim_start().starts_with('{') {
        return Ok(line);
    }
    let parsed: Line =
        serde_json::from_str(&line).map_err(|source| EmbedJobError::Json { line: number, source })?;
    Ok(parsed.text)
}
