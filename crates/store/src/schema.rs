//! The tables of a library, and how an older library becomes a current one.

use rusqlite::{Connection, TransactionBehavior};

/// "Haul" in ASCII, in the header of every library (bytes 68..72 of the file).
pub(crate) const APPLICATION_ID: u32 = 0x4861_756c;

/// Bytes of a page: three vectors of 1,024 f16 numbers fit, where SQLite's 4,096 would hold one.
const PAGE_SIZE_BYTES: u32 = 8192;

/// Tokenizer of the full text, as [`V1`] has it.
pub(crate) const TOKENIZER: &str = "porter unicode61 remove_diacritics 2";

/// Step `i` takes a library of version `i` to `i + 1`.
const MIGRATIONS: [&str; 4] = [V1, V2, PUBLICATIONS, SPARSE];

/// Version this program writes.
pub(crate) const VERSION: u32 = MIGRATIONS.len() as u32;

/// Settings of a new, still empty file, which must stand before the first table.
pub(crate) fn prepare_new(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "page_size", PAGE_SIZE_BYTES)?;
    db.pragma_update(None, "application_id", APPLICATION_ID)?;
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
}

/// Settings of every connection.
pub(crate) fn prepare_connection(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    // A page whose cells do not fit into it is damaged; found when it is read, at no measurable cost.
    db.pragma_update(None, "cell_size_check", true)?;
    db.pragma_update(None, "trusted_schema", false)
}

/// `PRAGMA user_version`: the schema a file has.
pub(crate) fn version(db: &Connection) -> rusqlite::Result<u32> {
    db.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Runs the missing migrations in one transaction.
pub(crate) fn migrate(db: &mut Connection) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in MIGRATIONS.iter().skip(version(&transaction)? as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// Ids are blobs of 16 bytes, hashes of 32. Times are milliseconds since 1970.
///
/// `chunks.chunk_id` is never used twice (AUTOINCREMENT) and a chunk's vector never changes, so a segment stays
/// true for every chunk that is still there. `generations` is the library's line of descent: a segment made in
/// a generation that is not in it belongs to another history (a restored backup).
const V1: &str = "
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

CREATE TABLE generations (
    generation INTEGER PRIMARY KEY,
    stamp BLOB NOT NULL,
    removed_chunks INTEGER NOT NULL
) STRICT;

CREATE TABLE roots (
    root_id INTEGER PRIMARY KEY,
    collection TEXT NOT NULL,
    path TEXT NOT NULL,
    UNIQUE (collection, path)
) STRICT;

CREATE TABLE manifest (
    doc_id BLOB PRIMARY KEY,
    root_id INTEGER NOT NULL REFERENCES roots,
    relative_path TEXT NOT NULL,
    part TEXT,
    format TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    modified_ns INTEGER,
    content_hash BLOB NOT NULL,
    revision BLOB NOT NULL,
    verdict TEXT NOT NULL,
    why TEXT,
    chunks INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_by_root ON manifest (root_id);

CREATE TABLE documents (
    document_id INTEGER PRIMARY KEY,
    doc_id BLOB NOT NULL UNIQUE REFERENCES manifest,
    root_id INTEGER NOT NULL REFERENCES roots,
    relative_path TEXT NOT NULL,
    part TEXT,
    format TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    content_hash BLOB NOT NULL,
    revision BLOB NOT NULL,
    source TEXT NOT NULL,
    source_id TEXT,
    title TEXT NOT NULL,
    authors TEXT NOT NULL,
    language TEXT,
    detected_language TEXT,
    metadata TEXT NOT NULL,
    chapters TEXT NOT NULL,
    truncated_tokens INTEGER NOT NULL,
    stale_reason TEXT,
    payload_check INTEGER NOT NULL,
    ingested_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX documents_by_root ON documents (root_id);

CREATE TABLE vectors (
    vector_id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    name TEXT NOT NULL,
    row_check INTEGER NOT NULL,
    row BLOB NOT NULL,
    UNIQUE (key, name)
) STRICT;

CREATE TABLE chunks (
    chunk_id INTEGER PRIMARY KEY AUTOINCREMENT,
    document_id INTEGER NOT NULL REFERENCES documents,
    chunk_no INTEGER NOT NULL,
    point_id BLOB NOT NULL UNIQUE,
    vector_id INTEGER NOT NULL REFERENCES vectors,
    chapter INTEGER NOT NULL,
    page INTEGER,
    start_byte INTEGER NOT NULL,
    end_byte INTEGER NOT NULL,
    overlap_bytes INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    payload_check INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (document_id, chunk_no)
) STRICT;
CREATE INDEX chunks_by_vector ON chunks (vector_id);

CREATE VIRTUAL TABLE chunks_fts USING fts5(
    text,
    content = 'chunks',
    content_rowid = 'chunk_id',
    tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER chunks_fts_insert AFTER INSERT ON chunks BEGIN
    INSERT INTO chunks_fts (rowid, text) VALUES (new.chunk_id, new.text);
END;
CREATE TRIGGER chunks_fts_delete AFTER DELETE ON chunks BEGIN
    INSERT INTO chunks_fts (chunks_fts, rowid, text) VALUES ('delete', old.chunk_id, old.text);
END;
CREATE TRIGGER chunks_fts_update BEFORE UPDATE OF chunk_id, text ON chunks BEGIN
    SELECT RAISE(ABORT, 'a chunk is replaced, never edited');
END;

CREATE TABLE ingests (
    ingest_id INTEGER PRIMARY KEY,
    ingested_ms INTEGER NOT NULL,
    hostname TEXT NOT NULL,
    title TEXT NOT NULL,
    authors TEXT NOT NULL,
    language TEXT,
    source TEXT,
    source_id TEXT,
    collection TEXT NOT NULL,
    chunks INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    total_s REAL,
    embed_s REAL,
    chunk_s REAL,
    upload_s REAL,
    device TEXT,
    model_name TEXT NOT NULL,
    batch_size INTEGER,
    verdict TEXT NOT NULL,
    chunker TEXT NOT NULL
) STRICT;

CREATE VIEW books AS
SELECT
    r.collection AS collection,
    d.title AS book_title,
    (SELECT group_concat(value, ' & ') FROM json_each(d.authors)) AS author,
    coalesce(d.language, d.detected_language) AS language,
    d.source AS source,
    d.source_id AS source_id,
    rtrim(r.path, '/') || '/' || d.relative_path AS file_path,
    replace(d.relative_path, rtrim(d.relative_path, replace(d.relative_path, '/', '')), '') AS file_name,
    d.format AS file_type,
    (SELECT count(*) FROM chunks c WHERE c.document_id = d.document_id) AS chunks_count,
    d.size_bytes / 1048576.0 AS file_size_mb,
    strftime('%Y-%m-%dT%H:%M:%fZ', d.ingested_ms / 1000.0, 'unixepoch') AS ingested_at
FROM documents d JOIN roots r USING (root_id);

CREATE VIEW ingest_log AS
SELECT
    strftime('%Y-%m-%dT%H:%M:%fZ', ingested_ms / 1000.0, 'unixepoch') AS timestamp,
    hostname,
    title AS book_title,
    (SELECT group_concat(value, ' & ') FROM json_each(authors)) AS author,
    language,
    source,
    source_id,
    collection,
    chunks,
    size_bytes / 1048576.0 AS file_size_mb,
    total_s AS duration_total,
    embed_s AS duration_embed,
    chunk_s AS duration_chunk,
    upload_s AS duration_upload,
    CASE WHEN total_s > 0 THEN chunks / total_s END AS chunks_per_sec,
    device,
    model_name AS model_id,
    batch_size,
    verdict = 'ok' AS success,
    chunker AS chunking_mode
FROM ingests;
";

/// Sections: parents of chunks, embedded beside them. They are no chunks, so no search returns them and no full text
/// holds them. `embedded` is what the model was given, where that is not the text itself. A section's point id counts
/// from 2^31 on. `points` has the chunks and sections of a library as the points of a vector store.
const V2: &str = "
ALTER TABLE chunks ADD COLUMN section_no INTEGER;

CREATE TABLE sections (
    section_id INTEGER PRIMARY KEY,
    document_id INTEGER NOT NULL REFERENCES documents,
    section_no INTEGER NOT NULL,
    point_id BLOB NOT NULL UNIQUE,
    vector_id INTEGER NOT NULL REFERENCES vectors,
    name TEXT NOT NULL,
    start_byte INTEGER NOT NULL,
    end_byte INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    payload_check INTEGER NOT NULL,
    text TEXT NOT NULL,
    embedded TEXT,
    UNIQUE (document_id, section_no)
) STRICT;
CREATE INDEX sections_by_vector ON sections (vector_id);

CREATE VIEW points AS
SELECT
    s.document_id AS document_id,
    s.point_id AS point_id,
    s.vector_id AS vector_id,
    'parent' AS chunk_level,
    NULL AS parent_id,
    s.section_no AS section_index,
    s.name AS section_name,
    (SELECT count(*) FROM chunks c WHERE c.document_id = s.document_id AND c.section_no = s.section_no)
        AS child_count,
    NULL AS sequence_index,
    NULL AS sibling_count,
    s.tokens AS token_count,
    coalesce(s.embedded, s.text) AS text,
    s.text AS full_text
FROM sections s
UNION ALL
SELECT
    c.document_id,
    c.point_id,
    c.vector_id,
    CASE WHEN c.section_no IS NOT NULL THEN 'child' END,
    s.point_id,
    c.section_no,
    coalesce(s.name, json_extract(d.chapters, '$[' || c.chapter || '].breadcrumb[#-1]')),
    NULL,
    CASE WHEN c.section_no IS NOT NULL THEN
        row_number() OVER (PARTITION BY c.document_id, c.section_no ORDER BY c.chunk_no) - 1 END,
    CASE WHEN c.section_no IS NOT NULL THEN
        count(*) OVER (PARTITION BY c.document_id, c.section_no) END,
    c.tokens,
    c.text,
    NULL
FROM chunks c
JOIN documents d USING (document_id)
LEFT JOIN sections s ON s.document_id = c.document_id AND s.section_no = c.section_no;
";

/// Which documents stand in which other store, and how far each is on its way there: `staged` before the first of its
/// points is sent, `committed` when all of them are counted there, `cleaned` when no point of an older revision is
/// left. A row without a document is one that is to be removed there. The check of a root's path is absent in rows that are
/// older than it.
const PUBLICATIONS: &str = "
CREATE TABLE publications (
    target TEXT NOT NULL,
    doc_id BLOB NOT NULL,
    payload_check INTEGER NOT NULL,
    points INTEGER NOT NULL,
    state TEXT NOT NULL,
    updated_ms INTEGER NOT NULL,
    PRIMARY KEY (target, doc_id)
) STRICT, WITHOUT ROWID;
ALTER TABLE roots ADD COLUMN path_check INTEGER;
";

/// The inverted table over sparse vectors: which chunks have a token, and with what weight (the bits of an f16). The
/// vectors themselves stand in `vectors` under the name `sparse` and the key of the dense one.
const SPARSE: &str = "
CREATE TABLE sparse_terms (
    token INTEGER NOT NULL,
    chunk_id INTEGER NOT NULL,
    weight INTEGER NOT NULL,
    PRIMARY KEY (token, chunk_id)
) STRICT, WITHOUT ROWID;
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tokenizer() {
        assert!(V1.contains(&format!("tokenize = '{TOKENIZER}'")));
    }
}
