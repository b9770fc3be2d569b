//! What a report shows of a library: counts that need no reading of texts or vectors.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde::Serialize;

use crate::library::Library;
use crate::read::ReadError;

/// Languages and formats that are named; the rest is counted together by their absence.
const GROUPS_MAX: u32 = 12;

/// Counts over a whole library.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    /// Documents that can be searched.
    pub documents: u64,
    /// Those of them whose newest revision failed, so that an older one is served.
    pub stale_documents: u64,
    /// Chunks.
    pub chunks: u64,
    /// Tokens of all chunks, special tokens not included.
    pub tokens: u64,
    /// Inputs by verdict.
    pub by_verdict: BTreeMap<String, u64>,
    /// Documents by format, the most frequent first.
    pub formats: Vec<(String, u64)>,
    /// Documents by language, by metadata or as found in the text, the most frequent first.
    pub languages: Vec<(String, u64)>,
    /// How many chunks have so many tokens, by tokens.
    pub chunk_tokens: Vec<(u32, u64)>,
}

impl Library {
    /// Counts for a report. Reads every chunk's row once, no text and no vector by itself.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn overview(&self) -> Result<Overview, ReadError> {
        overview(&self.db).map_err(|source| self.read_error("counting for a report", source))
    }
}

fn overview(db: &Connection) -> rusqlite::Result<Overview> {
    let at = db.unchecked_transaction()?;
    let count = |sql: &str| at.query_row(sql, [], |row| row.get::<_, u64>(0));
    let named = |sql: &str| -> rusqlite::Result<Vec<(String, u64)>> {
        at.prepare(sql)?.query_map([GROUPS_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let chunk_tokens: Vec<(u32, u64)> = at
        .prepare("SELECT tokens, count(*) FROM chunks GROUP BY tokens ORDER BY tokens")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Overview {
        documents: count("SELECT count(*) FROM documents")?,
        stale_documents: count("SELECT count(*) FROM documents WHERE stale_reason IS NOT NULL")?,
        chunks: chunk_tokens.iter().map(|(_, chunks)| chunks).sum(),
        tokens: chunk_tokens.iter().map(|(tokens, chunks)| u64::from(*tokens) * chunks).sum(),
        by_verdict: at
            .prepare("SELECT verdict, count(*) FROM manifest GROUP BY verdict")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?,
        formats: named(
            "SELECT format, count(*) AS n FROM documents GROUP BY format ORDER BY n DESC, format LIMIT ?1",
        )?,
        languages: named(
            "SELECT coalesce(language, detected_language, 'unknown') AS l, count(*) AS n
            FROM documents GROUP BY l ORDER BY n DESC, l LIMIT ?1",
        )?,
        chunk_tokens,
    })
}
