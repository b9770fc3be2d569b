//! Windows of a company by words and by vectors together, as `haul extract --embedder` ranks them.
//!
//! Vectors are kept in the run's journal, those of a company under its passages and those of questions under their
//! phrases, so that a run which goes on computes none of them again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use haul_pipeline::journal::{Journal, JournalError, State};

use super::super::documents::Company;
use super::super::windows::Window;
use super::dense::Vectors;
use super::embed::{self, EmbedError, Parts, Passages, Streaming};
use super::{Mode, Query, Ranked, rank};
use crate::extract::retrieve::bm25::Bm25;

/// What vectors are known by in journals.
const JOB: &str = "extract vectors";

/// An embedding model, ready to work on companies.
pub struct Embedding<'a> {
    /// How texts go through it.
    pub streaming: Streaming,
    /// The model and its device.
    pub parts: Parts<'a>,
    /// The model's hash and its dtype.
    pub identity: String,
}

/// Vectors of a company's windows, and of what may be asked about it.
#[derive(Clone, Debug)]
pub struct Hybrid {
    windows: Vectors,
    phrases: BTreeMap<String, Vec<f32>>,
}

/// A company's windows cannot be ranked by vectors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HybridError {
    /// A text has no vector.
    #[error("windows cannot be ranked by the embedding model: {0}")]
    Embed(#[from] EmbedError),
    /// The journal that keeps vectors.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Hybrid {
    /// Of a company's windows, for these questions.
    ///
    /// # Errors
    /// A text has no vector, a stop was asked for, or the journal.
    pub fn new(
        company: &Company,
        windows: &[Window],
        queries: &[Query],
        embedding: &Embedding<'_>,
        journal: &mut Journal,
    ) -> Result<Hybrid, HybridError> {
        let Embedding { streaming, parts, .. } = embedding;
        // A passage has to fit the embedding model, which may read less than a sentence at a time. What a language model
        // is shown stays as it is: it is a copy that is cut.
        let mut cut = company.clone();
        let most = embed::sentence_tokens_max(streaming, parts);
        cut.split_long(most, |lines| embed::count_tokens(parts, lines)).map_err(EmbedError::from)?;
        let windows: Vec<Window> = windows.iter().map(|window| within(company, &cut, window)).collect();
        let passages = Passages::of(&cut, streaming, parts)?;
        let texts = passages.texts(&cut);
        let rows = embedding.kept(Role::Document, texts, journal)?;
        let windows = Vectors::new(rows, &passages.0, &windows);
        let phrases: BTreeSet<String> = queries.iter().flat_map(|query| &query.phrases).cloned().collect();
        let rows = embedding.kept(Role::Query, phrases.iter().cloned().collect(), journal)?;
        Ok(Hybrid { windows, phrases: phrases.into_iter().zip(rows).collect() })
    }

    /// Windows by both rankings, fused. A question that was not given at the beginning is answered by its words alone.
    #[must_use]
    pub fn rank(&self, bm25: &Bm25, query: &Query) -> Vec<Ranked> {
        let of_query: Option<Vec<Vec<f32>>> =
            query.phrases.iter().map(|phrase| self.phrases.get(phrase).cloned()).collect();
        let vectors = of_query.as_deref().map(|of_query| (&self.windows, of_query));
        rank(bm25, vectors, query, Mode::Hybrid)
    }
}

/// The same window in a copy of the company whose sentences were cut.
fn within(company: &Company, cut: &Company, window: &Window) -> Window {
    let place = |at: usize| {
        let Some(sentence) = company.sentences.get(at) else { return cut.sentences.len() };
        let first = (sentence.source, sentence.start);
        cut.sentences.partition_point(|sentence| (sentence.source, sentence.start) < first)
    };
    let Range { start, end } = window.sentences;
    Window { sentences: place(start)..place(end), ..window.clone() }
}

/// What a text is to the model, which may have a prompt for it.
#[derive(Clone, Copy)]
enum Role {
    Document,
    Query,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Document => "document",
            Role::Query => "query",
        }
    }
}

impl Embedding<'_> {
    /// Vectors of texts, from the journal where the same model was given the same texts before.
    fn kept(
        &self,
        role: Role,
        texts: Vec<String>,
        journal: &mut Journal,
    ) -> Result<Vec<Vec<f32>>, HybridError> {
        let mut hasher = blake3::Hasher::new();
        for part in [JOB, &self.identity, role.name()].into_iter().chain(texts.iter().map(String::as_str)) {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let key = hasher.finalize();
        let entry = journal.get(&key)?.filter(|entry| entry.state == State::Done);
        if let Some(rows) = entry.and_then(|entry| rows_of(&entry.result?, texts.len())) {
            return Ok(rows);
        }
        let rows = match role {
            Role::Document => embed::documents(texts, &self.streaming, &self.parts)?,
            Role::Query => embed::phrases(texts, &self.streaming, &self.parts)?,
        };
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        journal.finish(&key, State::Done, &bytes, 0)?;
        Ok(rows)
    }
}

/// Rows of one width; none where the bytes are not so many rows.
fn rows_of(bytes: &[u8], count: usize) -> Option<Vec<Vec<f32>>> {
    const NUMBER_BYTES: usize = size_of::<f32>();
    let width = bytes.len() / count.max(1);
    if count == 0 || width == 0 || width * count != bytes.len() || !width.is_multiple_of(NUMBER_BYTES) {
        return None;
    }
    let (numbers, _) = bytes.as_chunks::<NUMBER_BYTES>();
    let numbers: Vec<f32> = numbers.iter().map(|number| f32::from_le_bytes(*number)).collect();
    Some(numbers.chunks(width / NUMBER_BYTES).map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::rows_of;

    #[test]
    fn rows_come_back_as_they_were_and_others_do_not() {
        let rows = [[1.0_f32, -0.5], [0.25, 3.0], [7.0, 1e-9]];
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        let back = rows_of(&bytes, 3).unwrap();
        assert_eq!(back, rows.map(|row| row.to_vec()));
        assert_eq!(rows_of(&bytes[1..], 3), None);
        assert_eq!(rows_of(&bytes, 5), None);
        assert_eq!(rows_of(&[], 0), None);
    }
}
