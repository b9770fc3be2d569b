//! BM25 over the text of chunks, as FTS5 computes it. The index holds the chunk's text alone: a title in every
//! row of a book would lift all of its chunks alike and weaken the terms it is made of; titles have a filter.

use rusqlite::Connection;

use crate::dense::ChunkSet;
use crate::search::TERMS_MAX;

/// A chunk and how well it answers; larger is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ranked {
    pub(crate) chunk_id: i64,
    pub(crate) score: f64,
}

/// The `limit` best of the allowed chunks that hold a term of `text`: best first.
pub(crate) fn rank(
    db: &Connection,
    text: &str,
    allowed: Option<&ChunkSet>,
    limit: usize,
) -> rusqlite::Result<Vec<Ranked>> {
    let Some(expression) = expression(text) else { return Ok(Vec::new()) };
    let mut statement = db.prepare_cached(
        "SELECT rowid, bm25(chunks_fts) AS badness FROM chunks_fts WHERE chunks_fts MATCH ?1
        ORDER BY badness, rowid LIMIT ?2",
    )?;
    let limit_rows = if allowed.is_some() { -1 } else { limit as i64 };
    let mut rows = statement.query((expression, limit_rows))?;
    let mut ranked = Vec::new();
    while ranked.len() < limit
        && let Some(row) = rows.next()?
    {
        let chunk_id = row.get(0)?;
        if allowed.is_none_or(|allowed| allowed.contains(chunk_id)) {
            ranked.push(Ranked { chunk_id, score: -row.get::<_, f64>(1)? });
        }
    }
    Ok(ranked)
}

/// Terms a query is made of.
pub(crate) fn terms(text: &str) -> impl Iterator<Item = &str> {
    // Whatever is not ASCII is left to the tokenizer of the index; a quote never gets this far.
    text.split(|c: char| c.is_ascii() && !c.is_ascii_alphanumeric()).filter(|term| !term.is_empty())
}

/// Every term quoted, so nothing in it is syntax, and joined by OR.
fn expression(text: &str) -> Option<String> {
    let quoted: Vec<String> = terms(text).take(TERMS_MAX).map(|term| format!("\"{term}\"")).collect();
    (!quoted.is_empty()).then(|| quoted.join(" OR "))
}
