//! `search` and `eval`: questions to passages of a library, and how good the passages are.
//!
//! A question is embedded with the library's own model and query prompt; nothing here can choose another.

pub mod evaluate;
pub mod rerank;

use haul_encoder::device::{Outputs, SparseVector};
use haul_encoder::embedder::{EmbedError, Embedder};
use haul_encoder::model_dir::ModelDir;
use haul_encoder::tokenizer::TokenizeError;
use haul_store::library::{Library, LibrarySettings};
use haul_store::qdrant::{self, Collection, State};
use haul_store::search::{self as store, Filters, Mode, Outcome, Parents, Request};

/// What is asked.
pub enum Source {
    /// A library.
    Library(Box<Library>),
    /// A collection of a server.
    Server(Box<Server>),
}

/// A collection that this program filled, with what it was filled by.
pub struct Server {
    /// The connection.
    pub collection: Collection,
    /// What it is like.
    pub state: State,
    /// What its points were made with.
    pub settings: LibrarySettings,
}

impl Source {
    /// What the vectors were made with.
    #[must_use]
    pub fn settings(&self) -> &LibrarySettings {
        match self {
            Self::Library(library) => library.settings(),
            Self::Server(server) => &server.settings,
        }
    }

    fn search(&self, request: &Request<'_>) -> Result<Outcome, store::SearchError> {
        match self {
            Self::Library(library) => store::search(library, request),
            Self::Server(server) => {
                let Server { collection, state, settings } = &**server;
                qdrant::search::search(collection, state, settings, request)
            }
        }
    }
}

/// A library or collection with what is needed to ask it.
pub struct Searcher {
    source: Source,
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
    /// Whether each passage comes with what it stands in.
    pub parents: Parents,
    /// Passages of a lower score are left out.
    pub min_score: Option<f64>,
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
    /// The model was loaded without what re-ranking needs.
    #[error("the model gives no rows of tokens, by which passages are re-ranked")]
    NoColbert,
    /// More passages than are re-ranked.
    #[error("{limit} passages are asked for, {} are re-ranked at most", rerank::RERANKED)]
    TooManyReranked {
        /// What was asked for.
        limit: usize,
    },
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
            Self::NoColbert => Some("leave --rerank away, or take a model with a ColBERT head".to_owned()),
            Self::TooManyReranked { .. } => Some("take a smaller --limit, or leave --rerank away".to_owned()),
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
    pub fn new(source: Source, model: Option<Model>, scan_threads: usize) -> Self {
        Self { source, model, scan_threads }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// Passages for `text`, best first.
    ///
    /// # Errors
    /// An empty question, a model that fails on it, a library that cannot be read.
    pub fn search(&self, text: &str, question: &Question) -> Result<Answer, SearchError> {
        if text.trim().is_empty() {
            return Err(SearchError::Empty);
        }
        let has_sparse = self.source.settings().sparse;
        let (outputs, truncated_tokens) =
            if question.mode.is_dense() || question.mode.is_sparse() && has_sparse {
                let (outputs, truncated_tokens) = self.embed(text, question.mode)?;
                (Some(outputs), truncated_tokens)
            } else {
                (None, 0)
            };
        let vector = outputs.as_ref().map(|outputs| outputs.dense.row(0));
        let sparse = outputs.as_ref().and_then(|outputs| outputs.sparse.as_ref()?.first().cloned());
        let sparse = sparse.map(SparseVector::into_terms);
        let request = Request {
            text,
            vector: vector.filter(|_| question.mode.is_dense()),
            sparse: sparse.as_deref(),
            mode: question.mode,
            filters: &question.filters,
            limit: question.limit,
            context: question.context,
            parents: question.parents,
            min_score: question.min_score,
            threads: self.scan_threads,
        };
        Ok(Answer { outcome: self.source.search(&request)?, truncated_tokens })
    }

    /// What the model makes of the question, and how many of its tokens were too many.
    fn embed(&self, text: &str, mode: Mode) -> Result<(Outputs, usize), SearchError> {
        if self.model.is_none() {
            return Err(SearchError::NoModel { mode });
        }
        self.outputs(&self.source.settings().query_prompt, text)
    }

    /// What the model makes of one text behind a prompt, cut to what the library's texts were cut to.
    fn outputs(&self, prompt: &str, text: &str) -> Result<(Outputs, usize), SearchError> {
        let Some(Model { dir, embedder }) = &self.model else { return Err(SearchError::NoColbert) };
        let settings = self.source.settings();
        let prompted = format!("{prompt}{text}");
        let ids = dir.tokenizer.encode(&dir.prepare(&prompted))?.ids;
        let room_tokens = settings.max_tokens.saturating_sub(dir.tokenizer.special_tokens());
        let kept = &ids[..ids.len().min(room_tokens)];
        let outputs = embedder.collect_all(embedder.submit(&[dir.tokenizer.frame(kept)])?)?;
        Ok((outputs, ids.len() - kept.len()))
    }
}
