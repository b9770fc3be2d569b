//! The statements inside a write transaction: a document's rows, its manifest row, its row in the log.

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use crate::host_unix;
use crate::ids::{self, Fingerprint, VectorKey};
use crate::payload::{self, ChunkPayload, DocumentPayload, SectionPayload, check_of};
use crate::read::vector_id;
use crate::records::{ChunkRecord, DocumentRecord, DocumentUpdate, ManifestRow, SectionRecord, VERDICTS};
use crate::settings::LibrarySettings;
use crate::sparse;
use crate::write::{Refusal, WriteError};

/// The ids recompute, the chunks are numbered without a gap, and each chunk's facts make sense: a mistake of
/// the caller is found here and not by a search years later.
pub(crate) fn check_document(document: &DocumentRecord, fingerprint: &Fingerprint) -> Result<(), WriteError> {
    let fail = |what: String| Err(WriteError::Inconsistent { doc_id: document.doc_id, what });
    if document.revision != ids::revision(&document.content_hash, fingerprint) {
        return fail("its revision is not that of its content hash and the library's settings".to_owned());
    }
    if document.chunks.is_empty() {
        return fail("no chunks; its verdict is `empty`, not `ok`".to_owned());
    }
    if !document.metadata.is_object() {
        return fail("its metadata are not a JSON object".to_owned());
    }
    for (number, chunk) in document.chunks.iter().enumerate() {
        if let Some(what) = chunk_fault(document, chunk, number, fingerprint) {
            return fail(format!("chunk {number}: {what}"));
        }
    }
    for (number, section) in (0..).zip(&document.sections) {
        let text = section.embedded_text();
        let point_id = ids::section_point_id(&document.doc_id, &document.revision, number, text);
        if section.point_id != point_id || section.vector_key != VectorKey::of(text, fingerprint) {
            return fail(format!("section {number}: its point id or vector key is not that of its text"));
        }
    }
    Ok(())
}

fn chunk_fault(
    document: &DocumentRecord,
    chunk: &ChunkRecord,
    number: usize,
    fingerprint: &Fingerprint,
) -> Option<String> {
    let point_id = ids::point_id(&document.doc_id, &document.revision, chunk.chunk_no, &chunk.text);
    if chunk.chunk_no as usize != number {
        Some(format!("numbered {}", chunk.chunk_no))
    } else if chunk.point_id != point_id {
        Some(format!("point id {}, its text makes {point_id}", chunk.point_id))
    } else if chunk.vector_key != VectorKey::of(&chunk.text, fingerprint) {
        Some(format!("vector key {} is not that of its text", chunk.vector_key))
    } else if chunk.chapter as usize >= document.chapters.len() {
        Some(format!("chapter {} of {}", chunk.chapter, document.chapters.len()))
    } else if chunk.section_no.is_some_and(|section| section as usize >= document.sections.len()) {
        Some(format!("section {:?} of {}", chunk.section_no, document.sections.len()))
    } else if chunk.start > chunk.end {
        Some(format!("bytes {}..{}", chunk.start, chunk.end))
    } else if chunk.page == Some(0) {
        Some("page 0; pages count from 1".to_owned())
    } else {
        None
    }
}

/// Number of chunks of the old revision that went.
pub(crate) fn replace_document(
    at: &Connection,
    document: &DocumentRecord,
    settings: &LibrarySettings,
    now_ms: i64,
) -> Result<u64, Refusal> {
    let root_id = root_id(at, &document.collection, &document.root)?;
    put_manifest_row(at, &manifest_row_of(document), root_id, document.chunks.len() as u64, now_ms)?;
    let removed_chunks = delete_document(at, &document.doc_id)?;
    let document_id = insert_document(at, document, root_id, now_ms)?;
    for chunk in &document.chunks {
        insert_chunk(at, document, document_id, chunk)?;
        let chunk_id = at.last_insert_rowid();
        if settings.sparse && !sparse::put_terms(at, chunk_id, &chunk.vector_key)? {
            let what = format!("chunk {}: its sparse vector is not in the library", chunk.chunk_no);
            return Err(WriteError::Inconsistent { doc_id: document.doc_id, what }.into());
        }
    }
    for (section_no, section) in (0..).zip(&document.sections) {
        insert_section(at, document, document_id, section_no, section)?;
    }
    Ok(removed_chunks)
}

fn insert_document(
    at: &Connection,
    document: &DocumentRecord,
    root_id: i64,
    now_ms: i64,
) -> Result<i64, Refusal> {
    let authors = json(&document.authors)?;
    let chapters = json(&document.chapters)?;
    let metadata = payload::canonical(&document.metadata);
    let hash = DocumentPayload {
        doc_id: document.doc_id.as_bytes(),
        collection: &document.collection,
        relative_path: &document.relative_path,
        part: document.part.as_deref(),
        format: &document.format,
        size_bytes: document.size_bytes,
        content_hash: &document.content_hash,
        revision: &document.revision,
        source: &document.source,
        source_id: document.source_id.as_deref(),
        title: &document.title,
        authors: &authors,
        language: document.language.as_deref(),
        detected_language: document.detected_language.as_deref(),
        metadata: &metadata,
        chapters: &chapters,
        truncated_tokens: document.truncated_tokens,
    }
    .hash();
    at.prepare_cached(
        "INSERT INTO documents (doc_id, root_id, relative_path, part, format, size_bytes, content_hash, revision,
            source, source_id, title, authors, language, detected_language, metadata, chapters,
            truncated_tokens, payload_check, ingested_ms)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
    )?
    .execute(params![
        document.doc_id.as_bytes(),
        root_id,
        document.relative_path,
        document.part,
        document.format,
        document.size_bytes,
        document.content_hash,
        document.revision,
        document.source,
        document.source_id,
        document.title,
        authors,
        document.language,
        document.detected_language,
        metadata,
        chapters,
        document.truncated_tokens,
        check_of(&hash),
        now_ms,
    ])?;
    Ok(at.last_insert_rowid())
}

fn insert_chunk(
    at: &Connection,
    document: &DocumentRecord,
    document_id: i64,
    chunk: &ChunkRecord,
) -> Result<(), Refusal> {
    let Some(vector_id) = vector_id(at, &chunk.vector_key)? else {
        let (doc_id, chunk_no, key) = (document.doc_id, chunk.chunk_no, chunk.vector_key);
        return Err(WriteError::MissingVector { doc_id, chunk_no, key }.into());
    };
    let hash = ChunkPayload {
        chunk_no: chunk.chunk_no,
        chapter: chunk.chapter,
        page: chunk.page,
        start: chunk.start,
        end: chunk.end,
        overlap_bytes: chunk.overlap_bytes,
        tokens: chunk.tokens,
        text: &chunk.text,
        section_no: chunk.section_no,
    }
    .hash();
    at.prepare_cached(
        "INSERT INTO chunks (document_id, chunk_no, point_id, vector_id, chapter, page, start_byte, end_byte,
            overlap_bytes, tokens, payload_check, text, section_no)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        document_id,
        chunk.chunk_no,
        chunk.point_id.as_bytes(),
        vector_id,
        chunk.chapter,
        chunk.page,
        chunk.start,
        chunk.end,
        chunk.overlap_bytes,
        chunk.tokens,
        check_of(&hash),
        chunk.text,
        chunk.section_no,
    ])?;
    Ok(())
}

fn insert_section(
    at: &Connection,
    document: &DocumentRecord,
    document_id: i64,
    section_no: u32,
    section: &SectionRecord,
) -> Result<(), Refusal> {
    let Some(vector_id) = vector_id(at, &section.vector_key)? else {
        let what = format!("section {section_no}: its vector {} is not in the library", section.vector_key);
        return Err(WriteError::Inconsistent { doc_id: document.doc_id, what }.into());
    };
    let hash = SectionPayload {
        section_no,
        name: &section.name,
        start: section.start,
        end: section.end,
        tokens: section.tokens,
        text: &section.text,
        embedded: section.embedded.as_deref(),
    }
    .hash();
    at.prepare_cached(
        "INSERT INTO sections (document_id, section_no, point_id, vector_id, name, start_byte, end_byte, tokens,
            payload_check, text, embedded)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        document_id,
        section_no,
        section.point_id.as_bytes(),
        vector_id,
        section.name,
        section.start,
        section.end,
        section.tokens,
        check_of(&hash),
        section.text,
        section.embedded,
    ])?;
    Ok(())
}

/// Takes the text out; the manifest row stays. Returns the number of chunks.
pub(crate) fn delete_document(at: &Connection, doc_id: &Uuid) -> rusqlite::Result<u64> {
    sparse::remove_terms(at, doc_id.as_bytes())?;
    let chunks = at
        .prepare_cached(
            "DELETE FROM chunks WHERE document_id = (SELECT document_id FROM documents WHERE doc_id = ?1)",
        )?
        .execute([doc_id.as_bytes()])?;
    at.prepare_cached(
        "DELETE FROM sections WHERE document_id = (SELECT document_id FROM documents WHERE doc_id = ?1)",
    )?
    .execute([doc_id.as_bytes()])?;
    at.prepare_cached("DELETE FROM documents WHERE doc_id = ?1")?.execute([doc_id.as_bytes()])?;
    Ok(chunks as u64)
}

pub(crate) fn record_verdict(at: &Connection, row: &ManifestRow, now_ms: i64) -> Result<(), Refusal> {
    let doc_id = row.doc_id;
    if row.verdict == "ok" || !VERDICTS.contains(&row.verdict.as_str()) {
        let what = format!("`{}` is no verdict of a failed input ({})", row.verdict, VERDICTS[1..].join(" "));
        return Err(WriteError::Inconsistent { doc_id, what }.into());
    }
    let reason = match &row.why {
        Some(why) => format!("{}: {why}", row.verdict),
        None => row.verdict.clone(),
    };
    at.prepare_cached("UPDATE documents SET stale_reason = ?2 WHERE doc_id = ?1")?
        .execute(params![doc_id.as_bytes(), reason])?;
    let chunks = at
        .prepare_cached("SELECT count(*) FROM chunks JOIN documents USING (document_id) WHERE doc_id = ?1")?
        .query_row([doc_id.as_bytes()], |row| row.get(0))?;
    let root_id = root_id(at, &row.collection, &row.root)?;
    put_manifest_row(at, row, root_id, chunks, now_ms)?;
    Ok(())
}

pub(crate) fn touch(at: &Connection, row: &ManifestRow, now_ms: i64) -> Result<(), Refusal> {
    let root_id = root_id(at, &row.collection, &row.root)?;
    let touched = at
        .prepare_cached(
            "UPDATE manifest SET root_id = ?4, relative_path = ?5, size_bytes = ?6, modified_ns = ?7,
                updated_ms = ?8
            WHERE doc_id = ?1 AND content_hash = ?2 AND revision = ?3",
        )?
        .execute(params![
            row.doc_id.as_bytes(),
            row.content_hash,
            row.revision,
            root_id,
            row.relative_path,
            row.size_bytes,
            row.modified_ns,
            now_ms,
        ])?;
    if touched == 0 {
        let what = "touched, but the library knows no input of this id, content and revision".to_owned();
        return Err(WriteError::Inconsistent { doc_id: row.doc_id, what }.into());
    }
    move_document(at, row, root_id)
}

pub(crate) fn update_document(at: &Connection, update: &DocumentUpdate, now_ms: i64) -> Result<(), Refusal> {
    let row = &update.row;
    if let Some(metadata) = &update.metadata {
        if !metadata.metadata.is_object() {
            let what = "its metadata are not a JSON object".to_owned();
            return Err(WriteError::Inconsistent { doc_id: row.doc_id, what }.into());
        }
        at.prepare_cached(
            "UPDATE documents SET source = ?2, source_id = ?3, title = ?4, authors = ?5, language = ?6,
                metadata = ?7
            WHERE doc_id = ?1",
        )?
        .execute(params![
            row.doc_id.as_bytes(),
            metadata.source,
            metadata.source_id,
            metadata.title,
            json(&metadata.authors)?,
            metadata.language,
            payload::canonical(&metadata.metadata),
        ])?;
    }
    // Last, because it also takes the check over what is there now.
    touch(at, row, now_ms)
}

/// A document's path is part of its payload, so its check moves with it.
fn move_document(at: &Connection, row: &ManifestRow, root_id: i64) -> Result<(), Refusal> {
    let doc_id = row.doc_id.as_bytes();
    let moved = at
        .prepare_cached(
            "UPDATE documents SET root_id = ?2, relative_path = ?3, size_bytes = ?4
            WHERE doc_id = ?1 AND revision = ?5",
        )?
        .execute(params![doc_id, root_id, row.relative_path, row.size_bytes, row.revision])?;
    if moved > 0 {
        let hash = crate::check::document_hash(at, &row.doc_id)?;
        at.prepare_cached("UPDATE documents SET payload_check = ?2 WHERE doc_id = ?1")?
            .execute(params![doc_id, check_of(&hash)])?;
    }
    Ok(())
}

pub(crate) fn root_id(at: &Connection, collection: &str, path: &str) -> rusqlite::Result<i64> {
    let known = at
        .prepare_cached("SELECT root_id FROM roots WHERE collection = ?1 AND path = ?2")?
        .query_row([collection, path], |row| row.get(0))
        .optional()?;
    if let Some(root_id) = known {
        return Ok(root_id);
    }
    at.prepare_cached("INSERT INTO roots (collection, path, path_check) VALUES (?1, ?2, ?3)")?
        .execute(params![collection, path, check_of(blake3::hash(path.as_bytes()).as_bytes())])?;
    Ok(at.last_insert_rowid())
}

fn manifest_row_of(document: &DocumentRecord) -> ManifestRow {
    ManifestRow {
        doc_id: document.doc_id,
        collection: document.collection.clone(),
        root: document.root.clone(),
        relative_path: document.relative_path.clone(),
        part: document.part.clone(),
        format: document.format.clone(),
        size_bytes: document.size_bytes,
        modified_ns: document.modified_ns,
        content_hash: document.content_hash,
        revision: document.revision,
        verdict: "ok".to_owned(),
        why: None,
        chunks: 0,
        attempts: 0,
    }
}

fn put_manifest_row(
    at: &Connection,
    row: &ManifestRow,
    root_id: i64,
    chunks: u64,
    now_ms: i64,
) -> rusqlite::Result<()> {
    at.prepare_cached(
        "INSERT INTO manifest (doc_id, root_id, relative_path, part, format, size_bytes, modified_ns,
            content_hash, revision, verdict, why, chunks, attempts, updated_ms)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 1, ?13)
        ON CONFLICT (doc_id) DO UPDATE SET
            attempts = CASE WHEN revision = excluded.revision THEN attempts + 1 ELSE 1 END,
            root_id = excluded.root_id, relative_path = excluded.relative_path, part = excluded.part,
            format = excluded.format, size_bytes = excluded.size_bytes, modified_ns = excluded.modified_ns,
            content_hash = excluded.content_hash, revision = excluded.revision, verdict = excluded.verdict,
            why = excluded.why, chunks = excluded.chunks, updated_ms = excluded.updated_ms",
    )?
    .execute(params![
        row.doc_id.as_bytes(),
        root_id,
        row.relative_path,
        row.part,
        row.format,
        row.size_bytes,
        row.modified_ns,
        row.content_hash,
        row.revision,
        row.verdict,
        row.why,
        chunks,
        now_ms,
    ])?;
    Ok(())
}

pub(crate) fn log_commit(
    at: &Connection,
    document: &DocumentRecord,
    settings: &LibrarySettings,
    now_ms: i64,
) -> Result<(), Refusal> {
    let cost = &document.cost;
    at.prepare_cached(
        "INSERT INTO ingests (ingested_ms, hostname, title, authors, language, source, source_id, collection,
            chunks, size_bytes, total_s, embed_s, chunk_s, upload_s, device, model_name, batch_size, verdict,
            chunker)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, 'ok', ?18)",
    )?
    .execute(params![
        now_ms,
        cost.hostname,
        document.title,
        json(&document.authors)?,
        document.language.as_ref().or(document.detected_language.as_ref()),
        document.source,
        document.source_id,
        document.collection,
        document.chunks.len() as u64,
        document.size_bytes,
        cost.total_s,
        cost.embed_s,
        cost.chunk_s,
        cost.upload_s,
        cost.device,
        settings.model_name,
        cost.batch_size,
        document.chunker,
    ])?;
    Ok(())
}

/// A failed input has no title yet: its path stands for it.
pub(crate) fn log_verdict(
    at: &Connection,
    row: &ManifestRow,
    settings: &LibrarySettings,
    now_ms: i64,
) -> rusqlite::Result<()> {
    at.prepare_cached(
        "INSERT INTO ingests (ingested_ms, hostname, title, authors, collection, chunks, size_bytes, model_name,
            verdict, chunker)
        VALUES (?1, ?2, ?3, '[]', ?4, 0, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        now_ms,
        host_unix::host_name(),
        row.relative_path,
        row.collection,
        row.size_bytes,
        settings.model_name,
        row.verdict,
        settings.chunker,
    ])?;
    Ok(())
}

/// Generations kept in the line of descent. A segment older than that is rebuilt.
pub(crate) const GENERATIONS_KEPT: i64 = 4096;

pub(crate) fn next_generation(at: &Connection, removed_chunks: u64) -> Result<(), Refusal> {
    at.execute(
        "INSERT INTO generations (generation, stamp, removed_chunks)
        SELECT generation + 1, ?1, removed_chunks + ?2 FROM generations ORDER BY generation DESC LIMIT 1",
        params![Uuid::new_v4().as_bytes(), removed_chunks],
    )?;
    at.execute(
        "DELETE FROM generations WHERE generation <= (SELECT max(generation) FROM generations) - ?1",
        [GENERATIONS_KEPT],
    )?;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<String, Refusal> {
    serde_json::to_string(value)
        .map_err(|error| Refusal::Sqlite(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))
}
