//! Search: BM25, exact vectors, or both fused by rank.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::path::PathBuf;
use std::time::Instant;

use haul_kernels::isa::Isa;
use rusqlite::Connection;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::check;
use crate::dense::{self, ChunkSet, Damaged, Query, Scored};
use crate::fulltext;
use crate::ids::Fingerprint;
use crate::library::{ChapterRecord, Library, ReadError};
use crate::parent;
use crate::qdrant::ServerError;
use crate::read::json_column;
use crate::segment::{self, Segment, SegmentError, Source, VERIFY_HINT};
use crate::sparse;

pub use crate::parent::{PARENT_BYTES_MAX, Parent};

/// How chunks are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// All rankings that the library has, fused by rank.
    Hybrid,
    /// Cosine of the query's vector, exact.
    Dense,
    /// Terms of the query.
    Bm25,
    /// Weights of the tokens that the query and a chunk have in common, in a library that stores them.
    Sparse,
}

impl Mode {
    /// Whether vectors are ranked.
    #[must_use]
    pub fn is_dense(self) -> bool {
        matches!(self, Self::Dense | Self::Hybrid)
    }

    /// Whether terms are ranked.
    #[must_use]
    pub fn is_bm25(self) -> bool {
        matches!(self, Self::Bm25 | Self::Hybrid)
    }

    /// Whether weights of tokens are ranked, in a library that has them.
    #[must_use]
    pub fn is_sparse(self) -> bool {
        matches!(self, Self::Sparse | Self::Hybrid)
    }
}

/// Which documents are meant; all given filters must hold. Letter case does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Part of an author's name.
    pub author: Option<String>,
    /// Part of the title.
    pub title: Option<String>,
    /// Language, of the metadata or else of the text: `en` also allows `en-GB`.
    pub language: Option<String>,
    /// Format: `epub`, `pdf`.
    pub format: Option<String>,
    /// Part of a tag, as Calibre has them.
    pub tag: Option<String>,
    /// Part of the series' name.
    pub series: Option<String>,
    /// Any of these documents; all where there are none.
    pub doc_ids: Vec<Uuid>,
}

/// Whether hits come with what they stand in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parents {
    /// Chunks alone.
    #[default]
    Without,
    /// Each with its section or chapter.
    With,
}

/// A question to a library.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The query as typed.
    pub text: &'a str,
    /// The query's vector, which [`Mode::Dense`] and [`Mode::Hybrid`] want.
    pub vector: Option<&'a [f32]>,
    /// Weights of the query's tokens, ascending; wanted in [`Mode::Sparse`], and in [`Mode::Hybrid`] by a library that
    /// stores sparse vectors.
    pub sparse: Option<&'a [(u32, f32)]>,
    /// How to rank.
    pub mode: Mode,
    /// Which documents may answer.
    pub filters: &'a Filters,
    /// Hits wanted, up to [`LIMIT_MAX`].
    pub limit: usize,
    /// Neighbouring chunks given with each hit, on each side, up to [`CONTEXT_MAX`].
    pub context: usize,
    /// Whether each hit comes with what it stands in.
    pub parents: Parents,
    /// Hits of a lower score are left out. Scores are those of [`Hit::score`], so they differ between modes.
    pub min_score: Option<f64>,
    /// Threads of the vector scan.
    pub threads: usize,
}

/// Most hits of one search.
pub const LIMIT_MAX: usize = 10_000;

/// Most neighbours of a hit, on each side.
pub const CONTEXT_MAX: usize = 100;

/// Terms of a query's text that are ranked; those beyond are counted in the outcome.
pub const TERMS_MAX: usize = 1024;

/// `k` of reciprocal rank fusion (Cormack, Clarke, Buettcher 2009).
const FUSION_K: f64 = 60.0;

/// Candidates a ranking gives for each hit wanted, and at least.
const CANDIDATES_PER_HIT: usize = 10;
const CANDIDATES_MIN: usize = 100;

/// A chunk that answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// Larger is better. Cosine (dense), BM25 (bm25), sum of products of weights (sparse), or the
    /// sum of 1 / (60 + rank) (hybrid).
    pub score: f64,
    /// Title of the document.
    pub title: String,
    /// Its authors.
    pub authors: Vec<String>,
    /// Titles from the outermost part to the chapter.
    pub breadcrumb: Vec<String>,
    /// Link inside the book.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub href: Option<String>,
    /// Page, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// Number of the chunk in its document.
    pub chunk_no: u32,
    /// Its text.
    pub text: String,
    /// Document.
    pub doc_id: Uuid,
    /// Chunk.
    pub point_id: Uuid,
    /// File of the document.
    pub path: String,
    /// The same below its root, `/` between its parts.
    pub relative_path: String,
    /// Id inside a file of many documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Texts of the chunks before it, in reading order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<String>,
    /// Texts of the chunks after it, in reading order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// What it stands in, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// What a search found, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Best first.
    pub hits: Vec<Hit>,
    /// Milliseconds of the rankings; making a segment and reading the hits' text are not in it.
    pub scan_ms: f64,
    /// Where the vectors were read.
    pub vectors: VectorSource,
    /// Terms of the query beyond [`TERMS_MAX`], which BM25 did not rank.
    pub unranked_terms: usize,
}

/// Where a search read vectors.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum VectorSource {
    /// None were needed.
    None,
    /// The segment, and newer rows from the library.
    Segment {
        /// Whether this search made the segment, which took this long.
        rebuilt_ms: Option<f64>,
    },
    /// All from the library, slower.
    Library {
        /// Why there is no segment; `None` when the library has no chunks.
        why: Option<String>,
    },
    /// The server's own index.
    Server,
}

/// Answers a request. The same library and request give the same hits in the same order, whatever order the
/// documents came in (except where chunks of equal score stand at the very end of a ranking's candidates).
///
/// # Errors
/// A request that cannot be answered as asked, or a library that cannot be read.
pub fn search(library: &Library, request: &Request<'_>) -> Result<Outcome, SearchError> {
    let query = check_request(library, request)?;
    let found = match &query {
        Some(_) => vector_source(library, segment::for_search)?,
        None => (None, VectorSource::None),
    };
    match answer(library, request, query.as_ref(), found) {
        // Once: what was just written and is damaged again is a failing disk.
        Err(SearchError::SegmentRow { .. }) => {
            let again = vector_source(library, segment::made_again)?;
            answer(library, request, query.as_ref(), again)
        }
        answered => answered,
    }
}

/// The transaction begins after the segment was mapped: see `segment::for_search`.
fn answer(
    library: &Library,
    request: &Request<'_>,
    query: Option<&Query>,
    (segment, vectors): (Mapped, VectorSource),
) -> Result<Outcome, SearchError> {
    let error = |source| SearchError::Read(library.read_error("searching", source));
    let snapshot = library.db.unchecked_transaction().map_err(error)?;
    let allowed = allowed_chunks(&snapshot, request.filters).map_err(error)?;
    let candidates = candidates_for(request.limit);

    let began = Instant::now();
    let mut rankings = Vec::new();
    if let Some(query) = query {
        let scan = DenseScan { library, db: &snapshot, segment: segment.as_deref(), query };
        rankings.push(scan.rank(allowed.as_ref(), candidates, request.threads)?);
    }
    if request.mode.is_sparse()
        && let Some(sparse) = request.sparse
    {
        rankings.push(sparse::rank(&snapshot, sparse, allowed.as_ref(), candidates).map_err(error)?);
    }
    if request.mode.is_bm25() {
        rankings.push(
            fulltext::rank(&snapshot, request.text, allowed.as_ref(), candidates)
                .map_err(error)?
                .into_iter()
                .map(|ranked| (ranked.chunk_id, ranked.score))
                .collect(),
        );
    }
    let mut ranked = merge(&snapshot, rankings, request.limit).map_err(error)?;
    ranked.retain(|(_, score)| request.min_score.is_none_or(|least| *score >= least));
    let scan_ms = milliseconds_since(began);

    let mut shown =
        Shown { db: &snapshot, checked: HashSet::new(), fingerprint: library.settings.fingerprint() };
    let mut hits = Vec::with_capacity(ranked.len());
    for (chunk_id, score) in ranked {
        let hit = hit(&mut shown, chunk_id, score, request).map_err(error)?;
        hits.push(hit.map_err(|what| SearchError::Damaged { path: library.path.clone(), what })?);
    }
    Ok(Outcome { hits, scan_ms, vectors, unranked_terms: unranked_terms(request) })
}

/// Terms of the query that no ranking sees.
pub(crate) fn unranked_terms(request: &Request<'_>) -> usize {
    if request.mode.is_bm25() { fulltext::terms(request.text).skip(TERMS_MAX).count() } else { 0 }
}

/// Candidates that a ranking gives for so many hits.
pub(crate) fn candidates_for(limit: usize) -> usize {
    (limit * CANDIDATES_PER_HIT).max(CANDIDATES_MIN)
}

/// Sum over rankings of 1 / (k + rank), ranks from 1: best first, among equals the lower id first.
#[must_use]
pub fn reciprocal_rank_fusion<T: Copy + Eq + Hash + Ord>(rankings: &[&[T]], k: f64) -> Vec<(T, f64)> {
    let mut scores: HashMap<T, f64> = HashMap::new();
    for ranking in rankings {
        for (place, id) in ranking.iter().enumerate() {
            *scores.entry(*id).or_default() += 1.0 / (k + (place + 1) as f64);
        }
    }
    keep_best_of(scores, usize::MAX)
}

/// The same with this program's `k`.
pub(crate) fn fused<T: Copy + Eq + Hash + Ord>(rankings: &[Vec<T>]) -> Vec<(T, f64)> {
    let rankings: Vec<&[T]> = rankings.iter().map(Vec::as_slice).collect();
    reciprocal_rank_fusion(&rankings, FUSION_K)
}

/// Why a search gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// Dense and hybrid search rank by a vector.
    #[error("the query has no vector, which {mode:?} search needs")]
    NoVector {
        /// The mode asked for.
        mode: Mode,
    },
    /// Sparse search in a library without sparse vectors.
    #[error(
        "the library stores no sparse vectors: its model has no sparse head, or had none when it was made"
    )]
    NoSparse,
    /// The vector is of another model.
    #[error("the query's vector has {found} numbers, the library's have {expected}")]
    Dimension {
        /// Numbers of the query.
        found: usize,
        /// Numbers of the library's vectors.
        expected: usize,
    },
    /// The vector has no direction.
    #[error("a number of the query's vector is not finite, or all are zero")]
    BadVector,
    /// More than a search can give.
    #[error("{what} is {asked}, the most is {most}")]
    TooMany {
        /// What was asked for.
        what: &'static str,
        /// How much.
        asked: usize,
        /// The bound.
        most: usize,
    },
    /// The library cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The server did not answer.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The terms of the query cannot be told.
    #[error("splitting the query into terms: {0}")]
    Terms(#[source] rusqlite::Error),
    /// No segment, for another reason than that its place cannot be written.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A vector in the library is damaged.
    #[error("{path}: vector of chunk row {chunk_id}: {what}", path = .path.display())]
    Vector {
        /// The library.
        path: PathBuf,
        /// Row of the chunk.
        chunk_id: i64,
        /// What is wrong with it.
        what: String,
    },
    /// A hit is not what was stored.
    #[error("{path}: {what}", path = .path.display())]
    Damaged {
        /// The library.
        path: PathBuf,
        /// Which part of it, and what is wrong.
        what: String,
    },
    /// The segment is damaged, and so was the one that was made in its place.
    #[error("{path}: row {row} is not what was written", path = .path.display())]
    SegmentRow {
        /// The segment.
        path: PathBuf,
        /// Place of the row in it.
        row: usize,
    },
}

impl SearchError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoVector { .. } => Some("--mode bm25 searches without a model"),
            Self::NoSparse => Some("--mode dense, bm25 or hybrid rank with what the library has"),
            Self::Dimension { .. } => Some("use the model the library was made with: `haul store info`"),
            Self::Read(error) => error.hint(),
            Self::Segment(error) => error.hint(),
            Self::Server(error) => error.hint(),
            Self::Vector { .. } | Self::Damaged { .. } => Some(VERIFY_HINT),
            Self::SegmentRow { .. } => Some(
                "it was made again and is damaged again: check the disk; the file may be removed at any time",
            ),
            Self::BadVector | Self::TooMany { .. } | Self::Terms(_) => None,
        }
    }
}

/// Refuses more than a search can give.
pub(crate) fn check_bounds(request: &Request<'_>) -> Result<(), SearchError> {
    let bounds = [("limit", request.limit, LIMIT_MAX), ("context", request.context, CONTEXT_MAX)];
    match bounds.into_iter().find(|(_, asked, most)| asked > most) {
        Some((what, asked, most)) => Err(SearchError::TooMany { what, asked, most }),
        None => Ok(()),
    }
}

/// Refuses a search by token weights where there are none, in the store or of the query.
pub(crate) fn check_sparse(request: &Request<'_>, has_sparse: bool) -> Result<(), SearchError> {
    if request.mode == Mode::Sparse && !has_sparse {
        return Err(SearchError::NoSparse);
    }
    if request.mode.is_sparse() && has_sparse && request.sparse.is_none() {
        return Err(SearchError::NoVector { mode: request.mode });
    }
    Ok(())
}

/// The query to scan vectors with, if the mode wants one.
fn check_request(library: &Library, request: &Request<'_>) -> Result<Option<Query>, SearchError> {
    check_bounds(request)?;
    check_sparse(request, library.settings.sparse)?;
    if !request.mode.is_dense() {
        return Ok(None);
    }
    let vector = request.vector.ok_or(SearchError::NoVector { mode: request.mode })?;
    let expected = library.settings.dim;
    if vector.len() != expected {
        return Err(SearchError::Dimension { found: vector.len(), expected });
    }
    Query::new(Isa::best(), vector).map(Some).ok_or(SearchError::BadVector)
}

type Mapped = Option<std::sync::Arc<Segment>>;

fn vector_source(
    library: &Library,
    find: fn(&Library) -> Result<Source, SegmentError>,
) -> Result<(Mapped, VectorSource), SearchError> {
    let began = Instant::now();
    Ok(match find(library)? {
        Source::Segment { segment, rebuilt } => {
            let rebuilt_ms = rebuilt.then(|| milliseconds_since(began));
            (Some(segment), VectorSource::Segment { rebuilt_ms })
        }
        Source::Sqlite { why } => (None, VectorSource::Library { why }),
    })
}

/// Chunks of the documents the filters let through; `None` when there is no filter.
fn allowed_chunks(db: &Connection, filters: &Filters) -> rusqlite::Result<Option<ChunkSet>> {
    if *filters == Filters::default() {
        return Ok(None);
    }
    let mut chunks = db.prepare_cached("SELECT chunk_id FROM chunks WHERE document_id = ?1")?;
    let mut allowed = Vec::new();
    for document_id in allowed_documents(db, filters)? {
        for chunk in chunks.query_map([document_id], |row| row.get(0))? {
            allowed.push(chunk?);
        }
    }
    Ok(Some(ChunkSet::of(allowed)))
}

/// Rows of the documents the filters let through.
pub(crate) fn allowed_documents(db: &Connection, filters: &Filters) -> rusqlite::Result<Vec<i64>> {
    let filters = Lowered::of(filters);
    let mut documents = db.prepare_cached(
        "SELECT document_id, title, authors, coalesce(language, detected_language, ''), format, metadata, doc_id
        FROM documents",
    )?;
    let mut rows = documents.query([])?;
    let mut allowed = Vec::new();
    while let Some(row) = rows.next()? {
        if !filters.names(Uuid::from_bytes(row.get(6)?)) {
            continue;
        }
        let document = Filtered {
            title: row.get(1)?,
            authors: json_column(row, 2)?,
            language: row.get(3)?,
            format: row.get(4)?,
            // Metadata are long, and of interest to two filters only.
            metadata: if filters.read_metadata() { json_column(row, 5)? } else { Value::Null },
        };
        if filters.allow(&document) {
            allowed.push(row.get(0)?);
        }
    }
    Ok(allowed)
}

/// What filters look at.
pub(crate) struct Filtered {
    pub(crate) title: String,
    pub(crate) authors: Vec<String>,
    pub(crate) language: String,
    pub(crate) format: String,
    pub(crate) metadata: Value,
}

/// Filters in lower case.
pub(crate) struct Lowered<'a> {
    doc_ids: &'a [Uuid],
    author: Option<String>,
    title: Option<String>,
    language: Option<String>,
    format: Option<String>,
    tag: Option<String>,
    series: Option<String>,
}

impl<'a> Lowered<'a> {
    pub(crate) fn of(filters: &'a Filters) -> Self {
        let lower = |text: &Option<String>| text.as_ref().map(|text| text.to_lowercase());
        Self {
            doc_ids: &filters.doc_ids,
            author: lower(&filters.author),
            title: lower(&filters.title),
            language: lower(&filters.language),
            format: lower(&filters.format),
            tag: lower(&filters.tag),
            series: lower(&filters.series),
        }
    }

    fn read_metadata(&self) -> bool {
        self.tag.is_some() || self.series.is_some()
    }

    /// Whether the document is one of those that were named, where any were.
    pub(crate) fn names(&self, doc_id: Uuid) -> bool {
        self.doc_ids.is_empty() || self.doc_ids.contains(&doc_id)
    }

    pub(crate) fn allow(&self, document: &Filtered) -> bool {
        let holds = |filter: &Option<String>, test: &dyn Fn(&str) -> bool| filter.as_deref().is_none_or(test);
        let contains = |text: &str, wanted: &str| text.to_lowercase().contains(wanted);
        let texts = |name: &str| match &document.metadata[name] {
            Value::String(text) => vec![text.as_str()],
            Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
            _ => vec![],
        };
        holds(&self.title, &|wanted| contains(&document.title, wanted))
            && holds(&self.author, &|wanted| document.authors.iter().any(|name| contains(name, wanted)))
            && holds(&self.format, &|wanted| document.format.to_lowercase() == wanted)
            && holds(&self.tag, &|wanted| texts("tags").iter().any(|tag| contains(tag, wanted)))
            && holds(&self.series, &|wanted| texts("series").iter().any(|series| contains(series, wanted)))
            && holds(&self.language, &|wanted| {
                let language = document.language.to_lowercase();
                language == wanted || language.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('-'))
            })
    }
}

/// The vector ranking of one search.
struct DenseScan<'a> {
    library: &'a Library,
    db: &'a Connection,
    segment: Option<&'a Segment>,
    query: &'a Query,
}

impl DenseScan<'_> {
    fn rank(
        &self,
        allowed: Option<&ChunkSet>,
        limit: usize,
        threads: usize,
    ) -> Result<Vec<(i64, f64)>, SearchError> {
        let mut best = Vec::new();
        if let Some(segment) = self.segment {
            let live = if allowed.is_none() { self.live_chunks(segment)? } else { None };
            best = dense::nearest(segment.rows(), self.query, allowed.or(live.as_ref()), limit, threads)
                .map_err(|Damaged { row }| SearchError::SegmentRow {
                    path: segment::path_of(self.library),
                    row,
                })?;
        }
        let after = self.segment.map_or(0, Segment::last_chunk_id);
        self.score_newer(after, allowed, limit, &mut best)?;
        Ok(best.into_iter().map(|scored| (scored.chunk_id, f64::from(scored.score))).collect())
    }

    /// The chunks that are still there, when some of the segment's may not be. Chunks that a filter allows are
    /// live by themselves.
    fn live_chunks(&self, segment: &Segment) -> Result<Option<ChunkSet>, SearchError> {
        let read = || -> rusqlite::Result<Option<ChunkSet>> {
            if !segment.has_removed_rows(self.db)? {
                return Ok(None);
            }
            let mut statement =
                self.db.prepare_cached("SELECT chunk_id FROM chunks INDEXED BY chunks_by_vector")?;
            let ids = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(Some(ChunkSet::of(ids)))
        };
        read().map_err(|source| self.library.read_error("listing chunks", source).into())
    }

    /// Adds the chunks after `after`, from SQLite.
    fn score_newer(
        &self,
        after: i64,
        allowed: Option<&ChunkSet>,
        limit: usize,
        best: &mut Vec<Scored>,
    ) -> Result<(), SearchError> {
        let error = |source| SearchError::Read(self.library.read_error("scanning new vectors", source));
        let mut statement = self
            .db
            .prepare_cached(
                "SELECT c.chunk_id, v.row, v.row_check FROM chunks c JOIN vectors v USING (vector_id)
                WHERE c.chunk_id > ?1",
            )
            .map_err(error)?;
        let mut rows = statement.query([after]).map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            let chunk_id = row.get(0).map_err(error)?;
            if allowed.is_some_and(|allowed| !allowed.contains(chunk_id)) {
                continue;
            }
            let bytes = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(error)?;
            let row_check = row.get(2).map_err(error)?;
            let halves = segment::usable_row(bytes, row_check, self.library.settings.dim)
                .map_err(|what| SearchError::Vector { path: self.library.path.clone(), chunk_id, what })?;
            let score = self.query.score(&halves, dense::inverse_norm(&halves));
            best.push(Scored { chunk_id, score });
            if best.len() >= 2 * limit + BEST_BEFORE_CUT {
                dense::keep_best(best, limit);
            }
        }
        dense::keep_best(best, limit);
        Ok(())
    }
}

/// Scored rows gathered beyond twice the limit before the worst are dropped.
const BEST_BEFORE_CUT: usize = 1024;

/// One ranking as it is, or several fused. Equal scores are ordered by point id, which no order of work changes.
fn merge(
    db: &Connection,
    mut rankings: Vec<Vec<(i64, f64)>>,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, f64)>> {
    let mut points = HashMap::new();
    for ranking in &mut rankings {
        for (chunk_id, _) in ranking.iter() {
            points.insert(*chunk_id, point_id(db, *chunk_id)?);
        }
        ranking.sort_by(|a, b| best_first(a, b, &points));
    }
    let mut merged = match rankings.as_mut_slice() {
        [only] => std::mem::take(only),
        several => {
            let ids: Vec<Vec<i64>> =
                several.iter().map(|ranking| ranking.iter().map(|(id, _)| *id).collect()).collect();
            fused(&ids)
        }
    };
    merged.sort_by(|a, b| best_first(a, b, &points));
    merged.truncate(limit);
    Ok(merged)
}

/// Best first, among equals the lower chunk first.
pub(crate) fn keep_best_of<T: Copy + Ord>(
    scores: impl IntoIterator<Item = (T, f64)>,
    limit: usize,
) -> Vec<(T, f64)> {
    let mut scored: Vec<(T, f64)> = scores.into_iter().collect();
    scored.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored.truncate(limit);
    scored
}

fn best_first(a: &(i64, f64), b: &(i64, f64), points: &HashMap<i64, [u8; 16]>) -> Ordering {
    b.1.total_cmp(&a.1).then_with(|| points[&a.0].cmp(&points[&b.0]))
}

fn point_id(db: &Connection, chunk_id: i64) -> rusqlite::Result<[u8; 16]> {
    db.prepare_cached("SELECT point_id FROM chunks WHERE chunk_id = ?1")?
        .query_row([chunk_id], |row| row.get(0))
}

/// What hits are read from, and the documents that were found whole for an earlier hit.
struct Shown<'a> {
    db: &'a Connection,
    checked: HashSet<i64>,
    fingerprint: Fingerprint,
}

/// A hit, or what is damaged of it: chunk, document and neighbours are compared with their checks before they are
/// shown.
fn hit(
    shown: &mut Shown<'_>,
    chunk_id: i64,
    score: f64,
    request: &Request<'_>,
) -> rusqlite::Result<Result<Hit, String>> {
    let db = shown.db;
    let parent = match request.parents {
        Parents::Without => None,
        Parents::With => Some(parent::of_chunk(db, chunk_id)?),
    };
    let mut statement = db.prepare_cached(
        "SELECT c.document_id, c.chunk_no, c.chapter, c.page, c.point_id, c.text,
            d.doc_id, d.title, d.authors, d.chapters, r.path, d.relative_path, d.part, m.chunks
        FROM chunks c JOIN documents d USING (document_id) JOIN manifest m USING (doc_id)
        JOIN roots r ON r.root_id = d.root_id
        WHERE c.chunk_id = ?1",
    )?;
    let mut rows = statement.query([chunk_id])?;
    let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let (document_id, chunk_no): (i64, u32) = (row.get(0)?, row.get(1)?);
    if let Some(what) = shown.fault(document_id, chunk_id)? {
        return Ok(Err(what));
    }
    // A parent may be made of any of the document's chunks.
    if request.parents == Parents::With
        && let Some(what) = check::whole_fault(db, &Uuid::from_bytes(row.get(6)?), &shown.fingerprint)?
    {
        return Ok(Err(what));
    }
    let chapters: Vec<ChapterRecord> = json_column(row, 9)?;
    let chapter = chapters.into_iter().nth(row.get(2)?).ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let (root, relative_path): (String, String) = (row.get(10)?, row.get(11)?);
    let number = i64::from(chunk_no);
    let last = row.get::<_, i64>(13)? - 1;
    let span = request.context as i64;
    let mut neighbours = [Vec::new(), Vec::new()];
    for (texts, (first, last)) in
        neighbours.iter_mut().zip([(0.max(number - span), number - 1), (number + 1, last.min(number + span))])
    {
        match shown.texts(document_id, first, last)? {
            Ok(found) => *texts = found,
            Err(what) => return Ok(Err(what)),
        }
    }
    let [before, after] = neighbours;
    Ok(Ok(Hit {
        score,
        title: row.get(7)?,
        authors: json_column(row, 8)?,
        breadcrumb: chapter.breadcrumb,
        href: chapter.href,
        page: row.get(3)?,
        chunk_no,
        text: row.get(5)?,
        doc_id: Uuid::from_bytes(row.get(6)?),
        point_id: Uuid::from_bytes(row.get(4)?),
        path: format!("{}/{relative_path}", root.trim_end_matches('/')),
        relative_path,
        part: row.get(12)?,
        before,
        after,
        parent,
    }))
}

impl Shown<'_> {
    /// What is damaged of a chunk and its document.
    fn fault(&mut self, document_id: i64, chunk_id: i64) -> rusqlite::Result<Option<String>> {
        if !self.checked.contains(&document_id) {
            if let Some(what) = check::document_fault(self.db, document_id, &self.fingerprint)? {
                return Ok(Some(what));
            }
            self.checked.insert(document_id);
        }
        check::chunk_fault(self.db, chunk_id, &self.fingerprint)
    }

    /// Texts of the chunks numbered `first..=last`, or what is damaged of one: that it is not found is damage too.
    fn texts(
        &mut self,
        document_id: i64,
        first: i64,
        last: i64,
    ) -> rusqlite::Result<Result<Vec<String>, String>> {
        let mut statement = self.db.prepare_cached(
            "SELECT chunk_id, text FROM chunks WHERE document_id = ?1 AND chunk_no BETWEEN ?2 AND ?3
            ORDER BY chunk_no",
        )?;
        let mut rows = statement.query([document_id, first, last])?;
        let mut texts = Vec::new();
        for chunk_no in first.. {
            let Some(row) = rows.next()? else { break };
            let chunk_id: i64 = row.get(0)?;
            // The row itself is asked: what was found it by is an index, and that may be damaged.
            let is_it: bool = self
                .db
                .prepare_cached(
                    "SELECT document_id = ?2 AND chunk_no = ?3 FROM chunks NOT INDEXED WHERE chunk_id = ?1",
                )?
                .query_row([chunk_id, document_id, chunk_no], |row| row.get(0))?;
            if !is_it {
                return Ok(Err(format!("chunk {chunk_no} of a document: its index names another chunk")));
            }
            if let Some(what) = check::chunk_fault(self.db, chunk_id, &self.fingerprint)? {
                return Ok(Err(what));
            }
            texts.push(row.get(1)?);
        }
        let expected = (last - first + 1).max(0);
        if texts.len() as i64 != expected {
            let found = texts.len();
            return Ok(Err(format!("chunks {first} to {last} of a document: {found} found of {expected}")));
        }
        Ok(Ok(texts))
    }
}

pub(crate) fn milliseconds_since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}
