//! Search in a collection: the rankings are the server's, the fusion and the hits are those of a library.
//!
//! Filters by format and id are the server's. The others are answered in two steps, so that they mean the same in either
//! store: which documents they let through is decided here, from the payload of the first chunks of those that the
//! server's let through, and the server ranks the points of those alone. Vectors are ranked by the server's own index, which may be approximate in a large collection.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Instant;

use qdrant_client::qdrant::{Condition, Filter, Query, QueryPoints, Range, ScoredPoint, VectorInput};
use serde_json::{Value, json};
use uuid::Uuid;

use super::convert::{filter, first_chunks, of_documents, uuid_of};
use super::{BM25, Collection, SPARSE, ServerError, State, Wanted};
use crate::parent::{PARENT_BYTES_MAX, Parent, Piece, Stretch};
use crate::search::{
    Filtered, Filters, Hit, Lowered, Mode, Outcome, Parents, Request, SearchError, VectorSource,
    candidates_for, check_bounds, check_sparse, fused, milliseconds_since, unranked_terms,
};
use crate::settings::LibrarySettings;
use crate::terms::Terms;

/// Answers a request from a collection, as [`crate::search::search`] does from a library.
///
/// # Errors
/// A request that cannot be answered as asked, a server that is away.
pub fn search(
    collection: &Collection,
    state: &State,
    settings: &LibrarySettings,
    request: &Request<'_>,
) -> Result<Outcome, SearchError> {
    check_bounds(request)?;
    check_sparse(request, state.has(SPARSE))?;
    let vector = dense_query(request, state.dim)?;
    let began = Instant::now();
    let Some(allowed) = allowed(collection, request.filters)? else {
        return Ok(outcome(Vec::new(), began, request));
    };
    let filter = filter(allowed, vec![Condition::matches("chunk_level", "parent".to_owned())]);
    let limit = candidates_for(request.limit) as u64;
    let base = QueryPoints {
        collection_name: collection.address().collection().to_owned(),
        filter: Some(filter),
        limit: Some(limit),
        with_payload: Some(false.into()),
        ..QueryPoints::default()
    };
    let mut queries = Vec::new();
    if let Some(vector) = vector {
        let nearest = Query::new_nearest(VectorInput::new_dense(vector.to_vec()));
        let using = Some(state.dense_name.clone()).filter(|name| !name.is_empty());
        queries.push(QueryPoints { query: Some(nearest), using, ..base.clone() });
    }
    if let Some(weights) = request.sparse.filter(|_| request.mode.is_sparse() && state.has(SPARSE)) {
        let (tokens, values): (Vec<u32>, Vec<f32>) = weights.iter().copied().unzip();
        let nearest = Query::new_nearest(VectorInput::new_sparse(tokens, values));
        queries.push(QueryPoints { query: Some(nearest), using: Some(SPARSE.to_owned()), ..base.clone() });
    }
    if request.mode.is_bm25() {
        queries.extend(bm25_query(collection, state, settings, request.text, &base)?);
    }
    let rankings = if queries.is_empty() { Vec::new() } else { collection.rank(&queries)? };
    let mut ranked = merged(rankings, request.limit);
    ranked.retain(|(_, score)| request.min_score.is_none_or(|least| *score >= least));
    let scanned = began.elapsed();
    let hits = hits(collection, &ranked, request)?;
    let mut outcome = outcome(hits, began, request);
    outcome.scan_ms = scanned.as_secs_f64() * 1e3;
    Ok(outcome)
}

fn outcome(hits: Vec<Hit>, began: Instant, request: &Request<'_>) -> Outcome {
    Outcome {
        hits,
        scan_ms: milliseconds_since(began),
        vectors: if request.mode == Mode::Bm25 { VectorSource::None } else { VectorSource::Server },
        unranked_terms: unranked_terms(request),
    }
}

fn dense_query<'a>(request: &Request<'a>, dim: usize) -> Result<Option<&'a [f32]>, SearchError> {
    if !request.mode.is_dense() {
        return Ok(None);
    }
    let vector = request.vector.ok_or(SearchError::NoVector { mode: request.mode })?;
    if vector.len() != dim {
        return Err(SearchError::Dimension { found: vector.len(), expected: dim });
    }
    if !vector.iter().all(|x| x.is_finite()) || vector.iter().all(|x| *x == 0.0) {
        return Err(SearchError::BadVector);
    }
    Ok(Some(vector))
}

/// `None` where no term is left to rank by.
fn bm25_query(
    collection: &Collection,
    state: &State,
    settings: &LibrarySettings,
    text: &str,
    base: &QueryPoints,
) -> Result<Option<QueryPoints>, SearchError> {
    if !state.ranks_words() {
        return Err(ServerError::NoWords { address: collection.address().clone() }.into());
    }
    let weights = Terms::new(settings).and_then(|terms| terms.of_query(text)).map_err(SearchError::Terms)?;
    if weights.is_empty() {
        return Ok(None);
    }
    let (places, values): (Vec<u32>, Vec<f32>) = weights.into_iter().unzip();
    let nearest = Query::new_nearest(VectorInput::new_sparse(places, values));
    Ok(Some(QueryPoints { query: Some(nearest), using: Some(BM25.to_owned()), ..base.clone() }))
}

/// Conditions of the filters; none where there is no filter, `None` where no document passes.
fn allowed(collection: &Collection, filters: &Filters) -> Result<Option<Vec<Condition>>, SearchError> {
    let mut exact = Vec::new();
    if !filters.doc_ids.is_empty() {
        exact.push(of_documents(&filters.doc_ids));
    }
    if let Some(format) = &filters.format {
        // Formats are written in small letters.
        exact.push(Condition::matches("format", format.to_lowercase()));
    }
    let rest = Filters { doc_ids: vec![], format: None, ..filters.clone() };
    if rest == Filters::default() {
        return Ok(Some(exact));
    }
    let lowered = Lowered::of(&rest);
    let mut passed: Vec<Uuid> = Vec::new();
    let fields = ["doc_id", "book_title", "authors", "language", "tags", "series"];
    let wanted = Wanted { fields: &fields, vectors: false };
    collection.for_each(Some(&first_chunks(exact)), &wanted, |point| {
        let payload = Payload::of(point.payload);
        let metadata = |field: &str| payload.0.get(field).cloned().unwrap_or_default();
        let document = Filtered {
            title: payload.text("book_title"),
            authors: payload.texts("authors"),
            language: payload.text("language"),
            format: String::new(),
            metadata: json!({ "tags": metadata("tags"), "series": metadata("series") }),
        };
        if lowered.allow(&document) {
            passed.push(payload.uuid("doc_id"));
        }
        Ok::<(), ServerError>(())
    })?;
    Ok((!passed.is_empty()).then(|| vec![of_documents(&passed)]))
}

/// Exactly this number.
fn only(number: u32) -> Range {
    span(number, number)
}

fn span(first: u32, last: u32) -> Range {
    Range { gte: Some(f64::from(first)), lte: Some(f64::from(last)), ..Range::default() }
}

/// One ranking as it is, or several fused; equal scores are ordered by point id, as in a library.
fn merged(rankings: Vec<Vec<ScoredPoint>>, limit: usize) -> Vec<(Uuid, f64)> {
    let best_first =
        |a: &(Uuid, f64), b: &(Uuid, f64)| -> Ordering { b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)) };
    let mut ranked = Vec::new();
    for ranking in rankings {
        // A point of another program may have a number for an id: it is none of ours.
        let ours = |point: &ScoredPoint| Some((uuid_of(point.id.as_ref()).ok()?, f64::from(point.score)));
        let mut scored: Vec<(Uuid, f64)> = ranking.iter().filter_map(ours).collect();
        scored.sort_by(best_first);
        ranked.push(scored);
    }
    let mut merged = match ranked.as_mut_slice() {
        [only] => std::mem::take(only),
        several => {
            let ids: Vec<Vec<Uuid>> =
                several.iter().map(|ranking| ranking.iter().map(|(id, _)| *id).collect()).collect();
            fused(&ids)
        }
    };
    merged.sort_by(best_first);
    merged.truncate(limit);
    merged
}

fn hits(
    collection: &Collection,
    ranked: &[(Uuid, f64)],
    request: &Request<'_>,
) -> Result<Vec<Hit>, SearchError> {
    let context = request.context;
    let ids: Vec<Uuid> = ranked.iter().map(|(id, _)| *id).collect();
    let mut payloads: HashMap<Uuid, Payload> = HashMap::new();
    for point in if ids.is_empty() { Vec::new() } else { collection.get(&ids)? } {
        let id = uuid_of(point.id.as_ref()).map_err(|what| collection.bad_point(point.id.as_ref(), what))?;
        payloads.insert(id, Payload::of(point.payload));
    }
    let mut hits = Vec::with_capacity(ranked.len());
    for (id, score) in ranked {
        // A point that went between the two calls answers no more.
        let Some(payload) = payloads.remove(id) else { continue };
        let mut hit = payload.hit(*id, *score);
        if context > 0 {
            let last_before = hit.chunk_no.checked_sub(1);
            let reach = u32::try_from(context).unwrap_or(u32::MAX);
            if let Some(last) = last_before {
                hit.before =
                    neighbours(collection, hit.doc_id, span(hit.chunk_no.saturating_sub(reach), last))?;
            }
            let next = hit.chunk_no.saturating_add(1);
            hit.after = neighbours(collection, hit.doc_id, span(next, hit.chunk_no.saturating_add(reach)))?;
        }
        if request.parents == Parents::With {
            hit.parent = Some(parent(collection, &payload, &hit)?);
        }
        hits.push(hit);
    }
    Ok(hits)
}

/// Chunks of a chapter that are looked at on each side of one, which is more than a parent's text can hold.
const CHAPTER_REACH: u32 = 256;

/// The section a hit stands in, or its chapter put together from its chunks.
fn parent(collection: &Collection, payload: &Payload, hit: &Hit) -> Result<Parent, SearchError> {
    let own = payload.piece();
    let parent_id = payload.0.get("parent_id").and_then(Value::as_str).and_then(|id| id.parse().ok());
    if let Some(point_id) = parent_id
        && let Some(section) = collection.get(&[point_id])?.pop()
    {
        let section = Payload::of(section.payload);
        let text = section.text("full_text");
        let start = section.number("start") as usize;
        let at = (own.start + own.overlap_bytes).saturating_sub(start).min(text.len());
        let stretch = Stretch { at, own_bytes: own.text.len(), text, more: false };
        let (text, cut) = stretch.window(PARENT_BYTES_MAX);
        let name = Some(section.text("section_name")).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| hit.title.clone());
        return Ok(Parent { name, text, cut, doc_id: hit.doc_id, point_id: Some(point_id) });
    }
    let (text, cut) = chapter(collection, payload, hit, &own)?.window(PARENT_BYTES_MAX);
    let name = hit.breadcrumb.last().filter(|name| !name.is_empty()).unwrap_or(&hit.title).clone();
    Ok(Parent { name, text, cut, doc_id: hit.doc_id, point_id: None })
}

fn chapter(
    collection: &Collection,
    payload: &Payload,
    hit: &Hit,
    own: &Piece,
) -> Result<Stretch, SearchError> {
    let numbers =
        span(hit.chunk_no.saturating_sub(CHAPTER_REACH), hit.chunk_no.saturating_add(CHAPTER_REACH));
    let of_chapter = only(payload.number("chapter"));
    let must = vec![
        of_documents(&[hit.doc_id]),
        Condition::range("chunk_no", numbers),
        Condition::range("chapter", of_chapter),
    ];
    let wanted = Wanted { fields: &["text", "chunk_no", "start", "end", "overlap_bytes"], vectors: false };
    let mut pieces = Vec::new();
    collection.for_each(Some(&filter(must, vec![])), &wanted, |point| {
        pieces.push(Payload::of(point.payload).piece());
        Ok::<(), ServerError>(())
    })?;
    pieces.sort_by_key(|piece| piece.chunk_no);
    let before = pieces.iter().filter(|piece| piece.chunk_no < own.chunk_no);
    let mut text: String = before.map(Piece::own_text).collect();
    let more = pieces.len() > CHAPTER_REACH as usize;
    let (at, own_text) = (text.len(), own.own_text());
    text.push_str(&own_text);
    let after = pieces.iter().filter(|piece| piece.chunk_no > own.chunk_no);
    text.extend(after.map(Piece::own_text));
    Ok(Stretch { at, own_bytes: own_text.len(), text, more })
}

/// Texts of a document's chunks with these numbers, in reading order.
fn neighbours(collection: &Collection, doc_id: Uuid, numbers: Range) -> Result<Vec<String>, SearchError> {
    let filter: Filter = filter(vec![of_documents(&[doc_id]), Condition::range("chunk_no", numbers)], vec![]);
    let mut found = Vec::new();
    collection.for_each(
        Some(&filter),
        &Wanted { fields: &["text", "chunk_no"], vectors: false },
        |point| {
            let payload = Payload::of(point.payload);
            found.push((payload.number("chunk_no"), payload.text("text")));
            Ok::<(), ServerError>(())
        },
    )?;
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, text)| text).collect())
}

/// A payload that may be another program's: what is not there is empty.
struct Payload(HashMap<String, Value>);

impl Payload {
    fn of(payload: HashMap<String, qdrant_client::qdrant::Value>) -> Self {
        Self(payload.into_iter().map(|(field, value)| (field, value.into())).collect())
    }

    fn piece(&self) -> Piece {
        Piece {
            chunk_no: self.number("chunk_no"),
            start: self.number("start") as usize,
            end: self.number("end") as usize,
            overlap_bytes: self.number("overlap_bytes") as usize,
            text: self.text("text"),
        }
    }

    fn text(&self, field: &str) -> String {
        self.0.get(field).and_then(Value::as_str).map(str::to_owned).unwrap_or_default()
    }

    fn texts(&self, field: &str) -> Vec<String> {
        let texts = self.0.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        texts.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The one of `field`, where `list` has none: what is empty there is no author, and no chapter.
    fn texts_or(&self, list: &str, field: &str) -> Vec<String> {
        match self.texts(list) {
            texts if texts.is_empty() => {
                Some(self.text(field)).filter(|text| !text.is_empty()).into_iter().collect()
            }
            texts => texts,
        }
    }

    fn number(&self, field: &str) -> u32 {
        self.optional_number(field).unwrap_or(0)
    }

    fn optional_number(&self, field: &str) -> Option<u32> {
        self.0.get(field).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok())
    }

    fn uuid(&self, field: &str) -> Uuid {
        self.0.get(field).and_then(Value::as_str).and_then(|id| id.parse().ok()).unwrap_or(Uuid::nil())
    }

    fn hit(&self, point_id: Uuid, score: f64) -> Hit {
        let authors = self.texts_or("authors", "author");
        let breadcrumb = self.texts_or("breadcrumb", "section_name");
        let optional = |field: &str| self.0.get(field).and_then(Value::as_str).map(str::to_owned);
        Hit {
            score,
            title: self.text("book_title"),
            authors,
            breadcrumb,
            href: optional("href"),
            page: self.optional_number("page"),
            chunk_no: self.number("chunk_no"),
            text: self.text("text"),
            doc_id: self.uuid("doc_id"),
            point_id,
            path: self.text("file_path"),
            relative_path: self.text("relative_path"),
            part: optional("part"),
            before: Vec::new(),
            after: Vec::new(),
            parent: None,
        }
    }
}
