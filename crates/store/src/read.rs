//! What an ingest asks before it works, and what a user asks about a library.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;
use uuid::Uuid;

use crate::ids::VectorKey;
use crate::library::{Library, with_suffix};
use crate::records::{CatalogueEntry, DocumentMetadata, ManifestRow, VectorName};
use crate::search::{Filters, allowed_documents};
use crate::settings::LibrarySettings;
use crate::{schema, segment};

impl Library {
    /// Every input the library knows, with its last verdict, in order of collection, path and part.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn manifest(&self) -> Result<Vec<ManifestRow>, ReadError> {
        manifest_rows(&self.db).map_err(|source| self.read_error("reading the manifest", source))
    }

    /// The folders that paths of a collection are relative to.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn roots(&self, collection: &str) -> Result<BTreeSet<String>, ReadError> {
        let read = || -> rusqlite::Result<_> {
            self.db
                .prepare_cached("SELECT path FROM roots WHERE collection = ?1")?
                .query_map([collection], |row| row.get(0))?
                .collect()
        };
        read().map_err(|source| self.read_error("reading folders", source))
    }

    /// What is known about a document; none where the library has no text of it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn document_metadata(&self, doc_id: &Uuid) -> Result<Option<DocumentMetadata>, ReadError> {
        document_metadata(&self.db, doc_id).map_err(|source| self.read_error("reading metadata", source))
    }

    /// Every document that can be searched, in order of path and id.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn catalogue(&self) -> Result<Vec<CatalogueEntry>, ReadError> {
        self.documents(&Filters::default())
    }

    /// The documents that the filters let through, in the same order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn documents(&self, filters: &Filters) -> Result<Vec<CatalogueEntry>, ReadError> {
        documents(&self.db, filters).map_err(|source| self.read_error("listing documents", source))
    }

    /// Those of `keys` that have no dense vector, each once, in the order asked.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn missing_vectors(&self, keys: &[VectorKey]) -> Result<Vec<VectorKey>, ReadError> {
        missing_vectors(&self.db, keys).map_err(|source| self.read_error("looking up vectors", source))
    }

    /// The texts of at most `count` chunks, evenly spaced over the library in the order in which they came to it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn sample_texts(&self, count: usize) -> Result<Vec<String>, ReadError> {
        sample_texts(&self.db, count).map_err(|source| self.read_error("reading chunks", source))
    }

    /// Counts, sizes and the digest. Reads the whole library (the digest needs it).
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn info(&self) -> Result<Info, ReadError> {
        let counts = counts(&self.db).map_err(|source| self.read_error("counting", source))?;
        Ok(Info {
            schema_version: schema::VERSION,
            uuid: self.uuid,
            settings: self.settings.clone(),
            fingerprint: self.settings.fingerprint().to_string(),
            generation: counts.generation,
            documents: counts.documents,
            stale_documents: counts.stale_documents,
            chunks: counts.chunks,
            sections: counts.sections,
            vectors: counts.vectors,
            unreferenced_vectors: counts.unreferenced_vectors,
            by_verdict: counts.by_verdict,
            file_bytes: file_bytes(&self.path)?,
            log_bytes: file_bytes(&with_suffix(&self.path, "-wal"))?,
            segment: segment::state(self)?,
            digest: self.digest()?,
        })
    }

    pub(crate) fn read_error(&self, doing: &'static str, source: rusqlite::Error) -> ReadError {
        ReadError::Sqlite { path: self.path.clone(), doing, source }
    }
}

/// What `haul store info` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// Version of the tables.
    pub schema_version: u32,
    /// Drawn when the library was made.
    pub uuid: Uuid,
    /// What it was made with.
    pub settings: LibrarySettings,
    /// Hash of the settings, hexadecimal.
    pub fingerprint: String,
    /// Commits that changed documents.
    pub generation: u64,
    /// Documents that can be searched.
    pub documents: u64,
    /// Those of them whose newest revision failed, so that an older one is served.
    pub stale_documents: u64,
    /// Chunks.
    pub chunks: u64,
    /// Sections that are embedded beside their chunks.
    pub sections: u64,
    /// Vectors.
    pub vectors: u64,
    /// Vectors no chunk uses: a cache, not part of the digest.
    pub unreferenced_vectors: u64,
    /// Inputs by verdict.
    pub by_verdict: BTreeMap<String, u64>,
    /// Bytes of the library's file.
    pub file_bytes: u64,
    /// Bytes of its write-ahead log.
    pub log_bytes: u64,
    /// The mapped copy of the vectors.
    pub segment: segment::State,
    /// [`Library::digest`].
    pub digest: String,
}

/// Why a library was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// SQLite refused.
    #[error("{path}: {doing}: {source}", path = .path.display())]
    Sqlite {
        /// The library.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// The operating system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl ReadError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let Self::Sqlite { source, .. } = self else { return None };
        match source.sqlite_error_code() {
            // What is not there, or not of its type, is damaged too.
            Some(DatabaseCorrupt | NotADatabase) | None => Some(segment::VERIFY_HINT),
            Some(_) => None,
        }
    }
}

fn manifest_rows(db: &Connection) -> rusqlite::Result<Vec<ManifestRow>> {
    db.prepare_cached(
        "SELECT doc_id, collection, path, relative_path, part, format, size_bytes, modified_ns, content_hash,
            revision, verdict, why, chunks, attempts
        FROM manifest JOIN roots USING (root_id)
        ORDER BY collection, relative_path, part, doc_id",
    )?
    .query_map([], manifest_row)?
    .collect()
}

fn manifest_row(row: &Row<'_>) -> rusqlite::Result<ManifestRow> {
    Ok(ManifestRow {
        doc_id: Uuid::from_bytes(row.get(0)?),
        collection: row.get(1)?,
        root: row.get(2)?,
        relative_path: row.get(3)?,
        part: row.get(4)?,
        format: row.get(5)?,
        size_bytes: row.get(6)?,
        modified_ns: row.get(7)?,
        content_hash: row.get(8)?,
        revision: row.get(9)?,
        verdict: row.get(10)?,
        why: row.get(11)?,
        chunks: row.get(12)?,
        attempts: row.get(13)?,
    })
}

/// Columns 0..=5 of what [`metadata_of`] reads.
const METADATA_COLUMNS: &str = "source, source_id, title, authors, language, metadata";

fn document_metadata(db: &Connection, doc_id: &Uuid) -> rusqlite::Result<Option<DocumentMetadata>> {
    db.prepare_cached(&format!("SELECT {METADATA_COLUMNS} FROM documents WHERE doc_id = ?1"))?
        .query_row([doc_id.as_bytes()], metadata_of)
        .optional()
}

fn documents(db: &Connection, filters: &Filters) -> rusqlite::Result<Vec<CatalogueEntry>> {
    let snapshot = db.unchecked_transaction()?;
    let mut statement = snapshot.prepare_cached(&format!(
        "SELECT {METADATA_COLUMNS}, doc_id, r.path, relative_path, part, format,
            (SELECT count(*) FROM chunks c WHERE c.document_id = d.document_id)
        FROM documents d JOIN roots r USING (root_id) WHERE document_id = ?1"
    ))?;
    let mut documents = allowed_documents(&snapshot, filters)?
        .into_iter()
        .map(|document_id| statement.query_row([document_id], catalogue_entry))
        .collect::<rusqlite::Result<Vec<_>>>()?;
    documents.sort_by(|a, b| (&a.relative_path, a.doc_id).cmp(&(&b.relative_path, b.doc_id)));
    Ok(documents)
}

fn catalogue_entry(row: &Row<'_>) -> rusqlite::Result<CatalogueEntry> {
    Ok(CatalogueEntry {
        doc_id: Uuid::from_bytes(row.get(6)?),
        root: row.get(7)?,
        relative_path: row.get(8)?,
        part: row.get(9)?,
        format: row.get(10)?,
        chunks: row.get(11)?,
        metadata: metadata_of(row)?,
    })
}

fn metadata_of(row: &Row<'_>) -> rusqlite::Result<DocumentMetadata> {
    Ok(DocumentMetadata {
        source: row.get(0)?,
        source_id: row.get(1)?,
        title: row.get(2)?,
        authors: json_column(row, 3)?,
        language: row.get(4)?,
        metadata: json_column(row, 5)?,
    })
}

/// A column that holds JSON.
pub(crate) fn json_column<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn missing_vectors(db: &Connection, keys: &[VectorKey]) -> rusqlite::Result<Vec<VectorKey>> {
    let snapshot = db.unchecked_transaction()?;
    let mut seen = HashSet::with_capacity(keys.len());
    let mut missing = Vec::new();
    for key in keys {
        if seen.insert(*key) && vector_id(&snapshot, key)?.is_none() {
            missing.push(*key);
        }
    }
    Ok(missing)
}

fn sample_texts(db: &Connection, count: usize) -> rusqlite::Result<Vec<String>> {
    let snapshot = db.unchecked_transaction()?;
    let ids: Vec<i64> = snapshot
        .prepare_cached("SELECT chunk_id FROM chunks ORDER BY chunk_id")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut by_id = snapshot.prepare_cached("SELECT text FROM chunks WHERE chunk_id = ?1")?;
    let texts = ids.len().min(count);
    (0..texts).map(|number| by_id.query_row([ids[number * ids.len() / texts]], |row| row.get(0))).collect()
}

/// Row of a dense vector.
pub(crate) fn vector_id(db: &Connection, key: &VectorKey) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT vector_id FROM vectors WHERE key = ?1 AND name = ?2")?
        .query_row((key.0, VectorName::Dense.as_str()), |row| row.get(0))
        .optional()
}

struct Counts {
    generation: u64,
    documents: u64,
    stale_documents: u64,
    chunks: u64,
    sections: u64,
    vectors: u64,
    unreferenced_vectors: u64,
    by_verdict: BTreeMap<String, u64>,
}

fn counts(db: &Connection) -> rusqlite::Result<Counts> {
    let snapshot = db.unchecked_transaction()?;
    let count = |sql: &str| snapshot.query_row(sql, [], |row| row.get::<_, u64>(0));
    Ok(Counts {
        generation: count("SELECT max(generation) FROM generations")?,
        documents: count("SELECT count(*) FROM documents")?,
        stale_documents: count("SELECT count(*) FROM documents WHERE stale_reason IS NOT NULL")?,
        chunks: count("SELECT count(*) FROM chunks")?,
        sections: count("SELECT count(*) FROM sections")?,
        vectors: count("SELECT count(*) FROM vectors WHERE name = 'dense'")?,
        unreferenced_vectors: count(
            "SELECT count(*) FROM vectors v
            WHERE v.name = 'dense' AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.vector_id = v.vector_id)
            AND NOT EXISTS (SELECT 1 FROM sections s WHERE s.vector_id = v.vector_id)",
        )?,
        by_verdict: snapshot
            .prepare_cached("SELECT verdict, count(*) FROM manifest GROUP BY verdict")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?,
    })
}

fn file_bytes(path: &Path) -> Result<u64, ReadError> {
    match path.metadata() {
        Ok(facts) => Ok(facts.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(ReadError::Io { path: path.into(), source }),
    }
}
