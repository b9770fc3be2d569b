//! Passages and questions to vectors, by the encoder.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use haul_encoder::tokenizer::TokenizeError;

use super::super::documents::Company;
use super::super::windows::{Window, WindowError};
use super::Query;
use super::dense::{self, PASSAGE_TOKENS, Vectors};
use crate::stream::{self, TextError, TextOutputs};

pub use crate::stream::{Parts, Settings as Streaming};

/// Texts have no vectors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// One of them.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A line cannot be counted.
    #[error("a sentence cannot be tokenized: {0}")]
    Tokenize(#[from] TokenizeError),
    /// A sentence is longer than a passage.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// A stop was asked for.
    #[error("stopped")]
    Stopped,
}

/// Tokens of texts, without special ones.
///
/// # Errors
/// One cannot be tokenized.
pub fn count_tokens(parts: &Parts<'_>, texts: &[&str]) -> Result<Vec<u32>, TokenizeError> {
    let count = |text: &&str| {
        let ids = parts.model.tokenizer.encode(&parts.model.prepare(text))?.ids;
        Ok(u32::try_from(ids.len()).unwrap_or(u32::MAX))
    };
    texts.iter().map(count).collect()
}

/// Tokens of a sentence at most, so that a passage of it has room for its heading in the model.
#[must_use]
pub fn sentence_tokens_max(streaming: &Streaming, parts: &Parts<'_>) -> u32 {
    let room = streaming.max_tokens.saturating_sub(parts.model.tokenizer.special_tokens()) / 2;
    u32::try_from(room.max(1)).unwrap_or(u32::MAX)
}

/// Vectors of a company's passages. Its sentences have at most [`sentence_tokens_max`] tokens.
///
/// # Errors
/// A passage has no vector, or a stop was asked for.
pub fn windows(
    company: &Company,
    windows: &[Window],
    streaming: &Streaming,
    parts: &Parts<'_>,
) -> Result<Vectors, EmbedError> {
    let passages = Passages::of(company, streaming, parts)?;
    let rows = documents(passages.texts(company), streaming, parts)?;
    Ok(Vectors::new(rows, &passages.0, windows))
}

/// What of a company is embedded together: runs of its sentences.
pub struct Passages(pub Vec<Range<usize>>);

impl Passages {
    /// Of a company whose sentences have at most [`sentence_tokens_max`] tokens.
    ///
    /// # Errors
    /// A sentence that is longer, or that cannot be tokenized.
    pub fn of(company: &Company, streaming: &Streaming, parts: &Parts<'_>) -> Result<Passages, EmbedError> {
        let lines: Vec<&str> = company.sentences.iter().map(|sentence| sentence.line.as_str()).collect();
        let tokens = count_tokens(parts, &lines)?;
        let most = sentence_tokens_max(streaming, parts);
        let longest = tokens.iter().copied().max().unwrap_or(0);
        Ok(Passages(dense::passages(company, &tokens, PASSAGE_TOKENS.max(longest).min(most))?))
    }

    /// As they are embedded.
    #[must_use]
    pub fn texts(&self, company: &Company) -> Vec<String> {
        self.0.iter().map(|passage| dense::text(company, passage)).collect()
    }
}

/// Vectors of texts that are searched.
///
/// # Errors
/// One has no vector, or a stop was asked for.
pub fn documents(
    texts: Vec<String>,
    streaming: &Streaming,
    parts: &Parts<'_>,
) -> Result<Vec<Vec<f32>>, EmbedError> {
    let prompt = parts.model.prompts.document().to_owned();
    rows(texts, &Streaming { prompt, ..streaming.clone() }, parts)
}

/// Vectors of texts that search.
///
/// # Errors
/// One has no vector, or a stop was asked for.
pub fn phrases(
    texts: Vec<String>,
    streaming: &Streaming,
    parts: &Parts<'_>,
) -> Result<Vec<Vec<f32>>, EmbedError> {
    let prompt = parts.model.prompts.query().to_owned();
    rows(texts, &Streaming { prompt, ..streaming.clone() }, parts)
}

/// Vectors of the phrases of each question. A phrase of several questions is embedded once.
///
/// # Errors
/// A phrase has no vector, or a stop was asked for.
pub fn queries(
    queries: &[Query],
    streaming: &Streaming,
    parts: &Parts<'_>,
) -> Result<Vec<Vec<Vec<f32>>>, EmbedError> {
    let distinct: BTreeSet<&str> =
        queries.iter().flat_map(|query| &query.phrases).map(String::as_str).collect();
    let texts = distinct.iter().map(|phrase| (*phrase).to_owned()).collect();
    let rows = phrases(texts, streaming, parts)?;
    let by_phrase: BTreeMap<&str, Vec<f32>> = distinct.into_iter().zip(rows).collect();
    let of_query =
        |query: &Query| query.phrases.iter().map(|phrase| by_phrase[phrase.as_str()].clone()).collect();
    Ok(queries.iter().map(of_query).collect())
}

fn rows(texts: Vec<String>, streaming: &Streaming, parts: &Parts<'_>) -> Result<Vec<Vec<f32>>, EmbedError> {
    let wanted = texts.len();
    let mut rows = Vec::with_capacity(wanted);
    let mut texts = texts.into_iter();
    let keep = |outputs: &TextOutputs| {
        rows.push(unit(&outputs.dense));
        Ok::<(), TextError>(())
    };
    stream::run(streaming, parts, || Ok(texts.next()), keep)?;
    if rows.len() == wanted { Ok(rows) } else { Err(EmbedError::Stopped) }
}

/// Of length 1, whatever the model's last layer does.
fn unit(row: &[f32]) -> Vec<f32> {
    let length = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    row.iter().map(|x| (f64::from(*x) / length.max(f64::MIN_POSITIVE)) as f32).collect()
}
