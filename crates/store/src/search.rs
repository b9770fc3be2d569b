//! Search: BM25, exact vectors, or both fused by rank.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Instant;

use haul_kernels::isa::Isa;
use rusqlite::Connection;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::dense::{self, ChunkSet, Query, Scored};
use crate::fulltext;
use crate::library::{ChapterRecord, Library, ReadError};
use crate::read::json_column;
use crate::segment::{self, Segment, SegmentError, Source};

/// How chunks are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Both rankings, fused by rank.
    Hybrid,
    /// Cosine of the query's vector, exact.
    Dense,
    /// Terms of the query.
    Bm25,
}

/// Which documents may answer; all given filters must hold. Letter case does not matter.
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
}

/// A question to a library.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The query as typed.
    pub text: &'a str,
    /// The query's vector; [`Mode::Bm25`] does without.
    pub vector: Option<&'a [f32]>,
    /// How to rank.
    pub mode: Mode,
    /// Which documents may answer.
    pub filters: &'a Filters,
    /// Hits wanted, up to [`LIMIT_MAX`].
    pub limit: usize,
    /// Neighbouring chunks given with each hit, on each side, up to [`CONTEXT_MAX`].
    pub context: usize,
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
    /// Larger is better. Cosine (dense), BM25 (bm25), or the sum of 1 / (60 + rank) (hybrid).
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
}

/// Answers a request. The same library and request give the same hits in the same order, whatever order the
/// documents came in (except where chunks of equal score stand at the very end of a ranking's candidates).
///
/// # Errors
/// A request that cannot be answered as asked, or a library that cannot be read.
pub fn search(library: &Library, request: &Request<'_>) -> Result<Outcome, SearchError> {
    let query = check_request(library, request)?;
    // The transaction begins after the segment is mapped: see `segment::for_search`.
    let (source, vectors) = match &query {
        Some(_) => vector_source(library)?,
        None => (None, VectorSource::None),
    };
    let error = |source| SearchError::Read(library.read_error("searching", source));
    let snapshot = library.db.unchecked_transaction().map_err(error)?;
    let allowed = allowed_chunks(&snapshot, request.filters).map_err(error)?;
    let candidates = CANDIDATES_MIN.max(CANDIDATES_PER_HIT * request.limit);

    let began = Instant::now();
    let mut rankings = Vec::new();
    if let Some(query) = &query {
        let scan = DenseScan { library, db: &snapshot, segment: source.as_deref(), query };
        rankings.push(scan.rank(allowed.as_ref(), candidates, request.threads)?);
    }
    if request.mode != Mode::Dense {
        rankings.push(
            fulltext::rank(&snapshot, request.text, allowed.as_ref(), candidates)
                .map_err(error)?
                .into_iter()
                .map(|ranked| (ranked.chunk_id, ranked.score))
                .collect(),
        );
    }
    let ranked = merge(&snapshot, rankings, request.limit).map_err(error)?;
    let scan_ms = milliseconds_since(began);

    let hits = ranked
        .into_iter()
        .map(|(chunk_id, score)| hit(&snapshot, chunk_id, score, request.context))
        .collect::<rusqlite::Result<_>>()
        .map_err(error)?;
    let unranked_terms = match request.mode {
        Mode::Dense => 0,
        Mode::Bm25 | Mode::Hybrid => fulltext::terms(request.text).skip(TERMS_MAX).count(),
    };
    Ok(Outcome { hits, scan_ms, vectors, unranked_terms })
}

/// Sum over rankings of 1 / (k + rank), ranks from 1: best first, among equals the lower id first.
#[must_use]
pub fn reciprocal_rank_fusion(rankings: &[&[i64]], k: f64) -> Vec<(i64, f64)> {
    let mut scores: HashMap<i64, f64> = HashMap::new();
    for ranking in rankings {
        for (place, id) in ranking.iter().enumerate() {
            *scores.entry(*id).or_default() += 1.0 / (k + (place + 1) as f64);
        }
    }
    let mut fused: Vec<_> = scores.into_iter().collect();
    fused.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    fused
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
    /// No segment, for another reason than that its place cannot be written.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A vector in the library is damaged.
    #[error("vector of chunk row {chunk_id}: {what}")]
    Vector {
        /// Row of the chunk.
        chunk_id: i64,
        /// What is wrong with it.
        what: String,
    },
}

impl SearchError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoVector { .. } => Some("--mode bm25 searches without a model"),
            Self::Dimension { .. } => Some("use the model the library was made with: `haul store info`"),
            Self::Read(error) => error.hint(),
            Self::Segment(error) => error.hint(),
            Self::Vector { .. } => Some("`haul store verify` lists what is damaged"),
            Self::BadVector | Self::TooMany { .. } => None,
        }
    }
}

/// The query to scan vectors with, if the mode wants one.
fn check_request(library: &Library, request: &Request<'_>) -> Result<Option<Query>, SearchError> {
    let bounds = [("limit", request.limit, LIMIT_MAX), ("context", request.context, CONTEXT_MAX)];
    if let Some((what, asked, most)) = bounds.into_iter().find(|(_, asked, most)| asked > most) {
        return Err(SearchError::TooMany { what, asked, most });
    }
    if request.mode == Mode::Bm25 {
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

fn vector_source(library: &Library) -> Result<(Mapped, VectorSource), SearchError> {
    let began = Instant::now();
    Ok(match segment::for_search(library)? {
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
    let filters = Lowered::of(filters);
    let mut documents = db.prepare_cached(
        "SELECT document_id, title, authors, coalesce(language, detected_language, ''), format, metadata
        FROM documents",
    )?;
    let mut chunks = db.prepare_cached("SELECT chunk_id FROM chunks WHERE document_id = ?1")?;
    let mut rows = documents.query([])?;
    let mut allowed = Vec::new();
    while let Some(row) = rows.next()? {
        let document = Filtered {
            title: row.get(1)?,
            authors: json_column(row, 2)?,
            language: row.get(3)?,
            format: row.get(4)?,
            // Metadata are long, and of interest to two filters only.
            metadata: if filters.read_metadata() { json_column(row, 5)? } else { Value::Null },
        };
        if filters.allow(&document) {
            for chunk in chunks.query_map([row.get::<_, i64>(0)?], |row| row.get(0))? {
                allowed.push(chunk?);
            }
        }
    }
    Ok(Some(ChunkSet::of(allowed)))
}

/// What filters look at.
struct Filtered {
    title: String,
    authors: Vec<String>,
    language: String,
    format: String,
    metadata: Value,
}

/// Filters in lower case.
struct Lowered {
    author: Option<String>,
    title: Option<String>,
    language: Option<String>,
    format: Option<String>,
    tag: Option<String>,
    series: Option<String>,
}

impl Lowered {
    fn of(filters: &Filters) -> Self {
        let lower = |text: &Option<String>| text.as_ref().map(|text| text.to_lowercase());
        Self {
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

    fn allow(&self, document: &Filtered) -> bool {
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
            best = dense::nearest(segment.rows(), self.query, allowed.or(live.as_ref()), limit, threads);
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
                "SELECT c.chunk_id, v.row FROM chunks c JOIN vectors v USING (vector_id) WHERE c.chunk_id > ?1",
            )
            .map_err(error)?;
        let mut rows = statement.query([after]).map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            let chunk_id = row.get(0).map_err(error)?;
            if allowed.is_some_and(|allowed| !allowed.contains(chunk_id)) {
                continue;
            }
            let bytes = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(error)?;
            let halves = segment::usable_row(bytes, self.library.settings.dim)
                .map_err(|what| SearchError::Vector { chunk_id, what })?;
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
            let ids: Vec<&[i64]> = ids.iter().map(Vec::as_slice).collect();
            reciprocal_rank_fusion(&ids, FUSION_K)
        }
    };
    merged.sort_by(|a, b| best_first(a, b, &points));
    merged.truncate(limit);
    Ok(merged)
}

fn best_first(a: &(i64, f64), b: &(i64, f64), points: &HashMap<i64, [u8; 16]>) -> Ordering {
    b.1.total_cmp(&a.1).then_with(|| points[&a.0].cmp(&points[&b.0]))
}

fn point_id(db: &Connection, chunk_id: i64) -> rusqlite::Result<[u8; 16]> {
    db.prepare_cached("SELECT point_id FROM chunks WHERE chunk_id = ?1")?
        .query_row([chunk_id], |row| row.get(0))
}

fn hit(db: &Connection, chunk_id: i64, score: f64, context: usize) -> rusqlite::Result<Hit> {
    let mut statement = db.prepare_cached(
        "SELECT c.document_id, c.chunk_no, c.chapter, c.page, c.point_id, c.text,
            d.doc_id, d.title, d.authors, d.chapters, r.path, d.relative_path, d.part
        FROM chunks c JOIN documents d USING (document_id) JOIN roots r USING (root_id)
        WHERE c.chunk_id = ?1",
    )?;
    statement.query_row([chunk_id], |row| {
        let (document_id, chunk_no): (i64, u32) = (row.get(0)?, row.get(1)?);
        let chapters: Vec<ChapterRecord> = json_column(row, 9)?;
        let chapter = chapters.into_iter().nth(row.get(2)?).ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let (root, relative_path): (String, String) = (row.get(10)?, row.get(11)?);
        let number = i64::from(chunk_no);
        let span = context as i64;
        Ok(Hit {
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
            before: texts(db, document_id, number - span, number - 1)?,
            after: texts(db, document_id, number + 1, number + span)?,
        })
    })
}

/// Texts of the chunks numbered `first..=last`, those that exist.
fn texts(db: &Connection, document_id: i64, first: i64, last: i64) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached(
        "SELECT text FROM chunks WHERE document_id = ?1 AND chunk_no BETWEEN ?2 AND ?3 ORDER BY chunk_no",
    )?
    .query_map([document_id, first, last], |row| row.get(0))?
    .collect()
}

fn milliseconds_since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}
