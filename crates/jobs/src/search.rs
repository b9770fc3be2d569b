//! `search` and `eval`: questions to passages of a library, and how good the passages are.
//!
//! A question is embedded with the library's own model and query prompt; nothing here can choose another.

pub mod evaluate;

use haul_encoder::embedder::{EmbedError, Embedder};
use haul_encoder::model_dir::ModelDir;
use haul_encoder::tokenizer::TokenizeError;
use haul_store::library::Library;
use haul_store::search::{self as store, Filters, Mode, Outcome, Request};

/// A library with what is needed to ask it.
pub struct Searcher {
    library: Library,
    model: Option<Model>,
    scan_threads: usize,
}

/// The library's model.
pub struct Model {
    /// Its files.
    pub dir: ModelDir,
    /// Its weights on a device.
    pub embedder: Embedder,
}

/// How a library is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Which rankings are used.
    pub mode: Mode,
    /// Which documents may answer.
    pub filters: Filters,
    /// Passages wanted.
    pub limit: usize,
    /// Neighbouring chunks shown on each side.
    pub context: usize,
}

/// A question that got no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// The question holds no text.
    #[error("the question is empty")]
    Empty,
    /// A dense ranking was asked for and no model was given.
    #[error("{mode:?} search needs the library's model, which is not loaded")]
    NoModel {
        /// What was asked for.
        mode: Mode,
    },
    /// The question cannot be tokenized.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// The model gave no vector for the question.
    #[error("cannot embed the question: {0}")]
    Embed(#[from] EmbedError),
    /// The library cannot be searched.
    #[error(transparent)]
    Store(#[from] store::SearchError),
}

impl SearchError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Empty => Some("write what you are looking for".to_owned()),
            Self::Store(error) => error.hint().map(Into::into),
            _ => None,
        }
    }
}

/// Passages, and what the question lost on its way to the model.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The passages, best first.
    pub outcome: Outcome,
    /// Tokens of the question beyond the model's limit, which it never saw.
    pub truncated_tokens: usize,
}

impl Searcher {
    /// `model` may be left out for BM25 alone; `scan_threads` share the scan over the vectors.
    #[must_use]
    pub fn new(library: Library, model: Option<Model>, scan_threads: usize) -> Self {
        Self { library, model, scan_threads }
    }

    /// The library that is asked.
    #[must_use]
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// Passages for `text`, best first.
    ///
    /// # Errors
    /// An empty question, a model that fails on it, a library that cannot be read.
    pub fn search(&self, text: &str, question: &Question) -> Result<Answer, SearchError> {
        if text.trim().is_empty() {
            return Err(SearchError::Empty);
        }
        let (vector, truncated_tokens) = match question.mode {
            Mode::Bm25 => (None, 0),
            Mode::Dense | Mode::Hybrid => {
                let (vector, truncated_tokens) = self.embed(text, question.mode)?;
                (Some(vector), truncated_tokens)
            }
        };
        let request = Request {
            text,
            vector: vector.as_deref(),
            mode: question.mode,
            filters: &question.filters,
            limit: question.limit,
            context: question.context,
            threads: self.scan_threads,
        };
        Ok(Answer { outcome: store::search(&self.library, &request)?, truncated_tokens })
    }

    fn embed(&self, text: &str, mode: Mode) -> Result<(Vec<f32>, usize), SearchError> {
        let Some(Model { dir, embedder }) = &self.model else { return Err(SearchError::NoModel { mode }) };
        let settings = self.library.settings();
        let prompted = format!("{}{text}", settings.query_prompt);
        let ids = dir.tokenizer.encode(&dir.prepare(&prompted))?.ids;
        let room_tokens = settings.max_tokens.saturating_sub(dir.tokenizer.special_tokens());
        let kept = &ids[..ids.len().min(room_tokens)];
        let vectors = embedder.collect(embedder.submit(&[dir.tokenizer.frame(kept)])?)?;
        Ok((vectors.row(0).to_vec(), ids.len() - kept.len()))
    }
}
