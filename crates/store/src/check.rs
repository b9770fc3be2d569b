//! The digest of a library, and its examination: both count the store itself, never its bookkeeping.

mod full_text;

use std::fmt::Display;

use rusqlite::{Connection, Row};
use serde::Serialize;
use uuid::Uuid;

use crate::ids::{self, Fingerprint, VectorKey};
use crate::library::Library;
use crate::payload::{ChunkPayload, DocumentPayload, SectionPayload, check_of};
use crate::points::{self, Point, PointFingerprint};
use crate::read::ReadError;
use crate::{dense, segment, sparse};

impl Library {
    /// blake3 of the sorted (point id, payload hash, vector hash), hexadecimal. It depends on content alone: not
    /// on the order of work, on times, on the host or on where the files stand. Another store that holds the same
    /// points has the same digest.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn digest(&self) -> Result<String, ReadError> {
        self.fingerprints()
            .map(points::digest_of)
            .map_err(|source| self.read_error("computing the digest", source))
    }

    /// Calls `each` for every chunk and section, as the point of a vector store.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn for_each_point(&self, each: impl FnMut(Point)) -> Result<(), ReadError> {
        self.points(each).map_err(|source| self.read_error("reading points", source))
    }

    fn fingerprints(&self) -> rusqlite::Result<Vec<PointFingerprint>> {
        let mut found = Vec::new();
        self.points(|point| found.push(point.fingerprint()))?;
        Ok(found)
    }

    fn points(&self, mut each: impl FnMut(Point)) -> rusqlite::Result<()> {
        let snapshot = self.db.unchecked_transaction()?;
        let mut statement = snapshot.prepare("SELECT doc_id FROM documents")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let doc_id = Uuid::from_bytes(row.get(0)?);
            points::for_each_point(&snapshot, &self.settings, &doc_id, |point| {
                each(point);
                Ok::<(), rusqlite::Error>(())
            })?;
        }
        Ok(())
    }

    /// Examines the library: SQLite's own check, references, full text, every vector, every id recomputed.
    ///
    /// # Errors
    /// The file cannot be read at all. Damage inside it is a finding, not an error.
    pub fn verify(&self) -> Result<Report, ReadError> {
        let snapshot =
            self.db.unchecked_transaction().map_err(|source| self.read_error("verifying", source))?;
        let mut report = Report::default();
        let fingerprint = self.settings.fingerprint();
        let (dim, sparse) = (self.settings.dim, self.settings.sparse);
        for (doing, check) in CHECKS {
            if let Err(error) = check(&snapshot, &mut report, &Expected { fingerprint, dim, sparse }) {
                report.add("readable", &doing, &error);
            }
        }
        if let Some(fault) = segment::fault(self)? {
            report.add("segment", &"the mapped copy of the vectors", &fault);
        }
        Ok(report)
    }
}

/// What an examination found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Documents counted.
    pub documents: u64,
    /// Chunks counted.
    pub chunks: u64,
    /// Vectors counted.
    pub vectors: u64,
    /// Everything that is not as it should be; empty for a sound library.
    pub findings: Vec<Finding>,
    /// Findings beyond the first thousand, which are counted and not listed.
    pub unlisted: u64,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check failed: `integrity`, `references`, `full_text`, `vector`, `sparse`, `document`, `chunk`, `manifest`,
    /// `section`, `segment`, `readable`, `foreign`.
    pub check: &'static str,
    /// What it failed on.
    pub subject: String,
    /// How.
    pub detail: String,
}

/// Findings a report lists.
const FINDINGS_MAX: usize = 1000;

impl Report {
    /// Adds documents of a manifest that a collection does not have as the manifest says.
    pub fn differs_from_manifest(&mut self, documents: &[Uuid]) {
        for doc_id in documents {
            self.add(
                "manifest",
                doc_id,
                &"the server does not have it as the manifest says: `haul store push`",
            );
        }
    }

    pub(crate) fn add(&mut self, check: &'static str, subject: &dyn Display, detail: &dyn Display) {
        if self.findings.len() < FINDINGS_MAX {
            let (subject, detail) = (subject.to_string(), detail.to_string());
            self.findings.push(Finding { check, subject, detail });
        } else {
            self.unlisted += 1;
        }
    }
}

struct Expected {
    fingerprint: Fingerprint,
    dim: usize,
    sparse: bool,
}

type Check = fn(&Connection, &mut Report, &Expected) -> rusqlite::Result<()>;

const CHECKS: [(&str, Check); 10] = [
    ("SQLite's integrity check", check_integrity),
    ("references", check_references),
    ("full text", full_text::check),
    ("vectors", check_vectors),
    ("sparse vectors", check_sparse),
    ("documents", check_documents),
    ("chunks", check_chunks),
    ("chunk numbers", check_chunk_numbers),
    ("sections", check_sections),
    ("manifest", check_manifest),
];

fn check_integrity(db: &Connection, report: &mut Report, _: &Expected) -> rusqlite::Result<()> {
    let mut statement = db.prepare("PRAGMA integrity_check")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            report.add("integrity", &"the file", &line);
        }
    }
    Ok(())
}

fn check_references(db: &Connection, report: &mut Report, _: &Expected) -> rusqlite::Result<()> {
    let mut statement = db.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (table, target): (String, String) = (row.get(0)?, row.get(2)?);
        let number: Option<i64> = row.get(1)?;
        let number = number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        report.add(
            "references",
            &format!("{table} row {number}"),
            &format!("its row of {target} is not there"),
        );
    }
    Ok(())
}

fn check_vectors(db: &Connection, report: &mut Report, expected: &Expected) -> rusqlite::Result<()> {
    let mut statement = db.prepare("SELECT key, row_check, row FROM vectors WHERE name = 'dense'")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.vectors += 1;
        let key = VectorKey(row.get(0)?);
        let bytes = row.get_ref(2)?.as_blob()?;
        if bytes.len() != expected.dim * 2 {
            report.add("vector", &key, &format!("{} bytes, wanted {}", bytes.len(), expected.dim * 2));
        } else if row.get::<_, i64>(1)? != check_of(blake3::hash(bytes).as_bytes()) {
            report.add("vector", &key, &"its numbers are not those that were stored");
        } else if !dense::is_direction(&dense::decode_row(bytes)) {
            report.add("vector", &key, &"a number is not finite, or all are zero");
        }
    }
    Ok(())
}

fn check_sparse(db: &Connection, report: &mut Report, expected: &Expected) -> rusqlite::Result<()> {
    let findings = if expected.sparse { sparse::check(db)? } else { vec![] };
    findings.iter().for_each(|(subject, detail)| report.add("sparse", subject, detail));
    Ok(())
}

fn check_documents(db: &Connection, report: &mut Report, expected: &Expected) -> rusqlite::Result<()> {
    let mut statement = db.prepare(&format!("{DOCUMENT_ROWS} WHERE true"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.documents += 1;
        let document = DocumentRow::read(row)?;
        for what in document.faults(&expected.fingerprint) {
            report.add("document", &document.doc_id, &what);
        }
    }
    Ok(())
}

/// What is wrong with one document.
pub(crate) fn document_fault(
    db: &Connection,
    document_id: i64,
    fingerprint: &Fingerprint,
) -> rusqlite::Result<Option<String>> {
    db.prepare_cached(&format!("{DOCUMENT_ROWS} WHERE document_id = ?1"))?.query_row([document_id], |row| {
        let document = DocumentRow::read(row)?;
        Ok(document.faults(fingerprint).next().map(|what| format!("document {}: {what}", document.doc_id)))
    })
}

fn check_chunks(db: &Connection, report: &mut Report, expected: &Expected) -> rusqlite::Result<()> {
    let mut statement = db.prepare(&format!("{CHUNK_ROWS}, {CHUNK_OWNERS}"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.chunks += 1;
        let chunk = ChunkRow::read(row)?;
        for what in chunk.faults(row, &expected.fingerprint)? {
            report.add("chunk", &chunk.point_id, &what);
        }
    }
    Ok(())
}

/// What is wrong with one chunk.
pub(crate) fn chunk_fault(
    db: &Connection,
    chunk_id: i64,
    fingerprint: &Fingerprint,
) -> rusqlite::Result<Option<String>> {
    db.prepare_cached(&format!("{CHUNK_ROWS}, {CHUNK_OWNERS} WHERE c.chunk_id = ?1"))?.query_row(
        [chunk_id],
        |row| {
            let chunk = ChunkRow::read(row)?;
            let fault = chunk.faults(row, fingerprint)?.into_iter().next();
            Ok(fault.map(|what| format!("chunk {}: {what}", chunk.point_id)))
        },
    )
}

/// What is wrong with a document, or with a chunk, a section or a vector of it.
pub(crate) fn whole_fault(
    db: &Connection,
    doc_id: &Uuid,
    fingerprint: &Fingerprint,
) -> rusqlite::Result<Option<String>> {
    let (document_id, promised): (i64, u64) = db
        .prepare_cached(
            "SELECT document_id, chunks FROM documents JOIN manifest USING (doc_id) WHERE doc_id = ?1",
        )?
        .query_row([doc_id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if let Some(what) = document_fault(db, document_id, fingerprint)? {
        return Ok(Some(what));
    }
    let mut chunks = db.prepare_cached(
        "SELECT chunk_id, row, row_check FROM chunks LEFT JOIN vectors USING (vector_id) WHERE document_id = ?1",
    )?;
    let mut rows = chunks.query([document_id])?;
    let mut found = 0;
    while let Some(row) = rows.next()? {
        found += 1;
        if !is_whole_row(row, 1)? {
            return Ok(Some(format!(
                "document {doc_id}: the vector of a chunk is not the one that was stored"
            )));
        }
        if let Some(what) = chunk_fault(db, row.get(0)?, fingerprint)? {
            return Ok(Some(what));
        }
    }
    if found != promised {
        return Ok(Some(format!("document {doc_id}: {found} chunks of {promised}")));
    }
    sections_fault(db, document_id)
}

/// Whether the numbers of a vector, in a column, are those of the check in the next.
fn is_whole_row(row: &Row<'_>, column: usize) -> rusqlite::Result<bool> {
    let Some(bytes) = row.get_ref(column)?.as_blob_or_null()? else { return Ok(false) };
    Ok(row.get::<_, Option<i64>>(column + 1)? == Some(check_of(blake3::hash(bytes).as_bytes())))
}

/// What is wrong with a section of a document.
pub(crate) fn sections_fault(db: &Connection, document_id: i64) -> rusqlite::Result<Option<String>> {
    let mut statement = db.prepare_cached(&format!(
        "{SECTION_ROWS}, s.payload_check, v.row, v.row_check
        FROM sections s LEFT JOIN vectors v USING (vector_id) WHERE s.document_id = ?1"
    ))?;
    let mut rows = statement.query([document_id])?;
    while let Some(row) = rows.next()? {
        let section = SectionRow::read(row)?;
        if row.get::<_, i64>(8)? != check_of(&section.hash) || !is_whole_row(row, 9)? {
            return Ok(Some(format!("section {}: it is not the one that was stored", section.point_id)));
        }
    }
    Ok(None)
}

fn check_sections(db: &Connection, report: &mut Report, expected: &Expected) -> rusqlite::Result<()> {
    let mut statement = db.prepare(&format!(
        "{SECTION_ROWS}, s.payload_check, d.doc_id, d.revision, v.key
        FROM sections s JOIN documents d USING (document_id) JOIN vectors v USING (vector_id)"
    ))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let section = SectionRow::read(row)?;
        if row.get::<_, i64>(8)? != check_of(&section.hash) {
            report.add("section", &section.point_id, &"its fields are not those that were stored");
        }
        let text = match row.get_ref(7)?.as_str_or_null()? {
            Some(embedded) => embedded,
            None => row.get_ref(6)?.as_str()?,
        };
        let doc_id = Uuid::from_bytes(row.get(9)?);
        let point_id = ids::section_point_id(&doc_id, &row.get(10)?, section.section_no, text);
        if section.point_id != point_id
            || VectorKey(row.get(11)?) != VectorKey::of(text, &expected.fingerprint)
        {
            report.add("section", &section.point_id, &"its point id or vector is that of another text");
        }
    }
    Ok(())
}

fn check_chunk_numbers(db: &Connection, report: &mut Report, _: &Expected) -> rusqlite::Result<()> {
    let mut statement = db.prepare(
        "SELECT doc_id, count(*), min(chunk_no), max(chunk_no)
        FROM documents JOIN chunks USING (document_id)
        GROUP BY document_id HAVING min(chunk_no) <> 0 OR max(chunk_no) <> count(*) - 1",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (chunks, first, last): (u64, u64, u64) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let doc_id = Uuid::from_bytes(row.get(0)?);
        report.add("document", &doc_id, &format!("{chunks} chunks are numbered {first}..={last}"));
    }
    Ok(())
}

fn check_manifest(db: &Connection, report: &mut Report, _: &Expected) -> rusqlite::Result<()> {
    let mut statement = db.prepare(
        "SELECT m.doc_id, m.verdict, m.chunks,
            (SELECT count(*) FROM chunks c WHERE c.document_id = d.document_id),
            m.revision = d.revision
        FROM manifest m LEFT JOIN documents d USING (doc_id)",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let doc_id = Uuid::from_bytes(row.get(0)?);
        let verdict: String = row.get(1)?;
        let (promised, found): (u64, u64) = (row.get(2)?, row.get(3)?);
        let current: Option<bool> = row.get(4)?;
        if promised != found {
            report.add("manifest", &doc_id, &format!("it promises {promised} chunks, there are {found}"));
        }
        if verdict == "ok" && current != Some(true) {
            report.add("manifest", &doc_id, &"it says `ok`, but that revision is not in the library");
        }
    }
    Ok(())
}

/// Hash of one document's fields, as its row has them now.
pub(crate) fn document_hash(db: &Connection, doc_id: &Uuid) -> rusqlite::Result<[u8; 32]> {
    db.prepare_cached(&format!("{DOCUMENT_ROWS} WHERE doc_id = ?1"))?
        .query_row([doc_id.as_bytes()], |row| Ok(DocumentRow::read(row)?.hash))
}

const DOCUMENT_ROWS: &str = "SELECT document_id, doc_id, r.collection, relative_path, part, format, size_bytes,
    content_hash, revision, source, source_id, title, authors, language, detected_language, metadata, chapters,
    truncated_tokens, payload_check, r.path, r.path_check
    FROM documents JOIN roots r USING (root_id)";

struct DocumentRow {
    doc_id: Uuid,
    content_hash: [u8; 32],
    revision: [u8; 32],
    payload_check: i64,
    hash: [u8; 32],
    /// Whether the path of its root is the one that was stored; roots of older libraries have nothing to tell it by.
    root_is_whole: bool,
}

impl DocumentRow {
    /// Of a row of [`DOCUMENT_ROWS`].
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let doc_id: [u8; 16] = row.get(1)?;
        let content_hash = row.get(7)?;
        let revision = row.get(8)?;
        let hash = DocumentPayload {
            doc_id: &doc_id,
            collection: row.get_ref(2)?.as_str()?,
            relative_path: row.get_ref(3)?.as_str()?,
            part: row.get_ref(4)?.as_str_or_null()?,
            format: row.get_ref(5)?.as_str()?,
            size_bytes: row.get(6)?,
            content_hash: &content_hash,
            revision: &revision,
            source: row.get_ref(9)?.as_str()?,
            source_id: row.get_ref(10)?.as_str_or_null()?,
            title: row.get_ref(11)?.as_str()?,
            authors: row.get_ref(12)?.as_str()?,
            language: row.get_ref(13)?.as_str_or_null()?,
            detected_language: row.get_ref(14)?.as_str_or_null()?,
            metadata: row.get_ref(15)?.as_str()?,
            chapters: row.get_ref(16)?.as_str()?,
            truncated_tokens: row.get(17)?,
        }
        .hash();
        let doc_id = Uuid::from_bytes(doc_id);
        let path_check = check_of(blake3::hash(row.get_ref(19)?.as_bytes()?).as_bytes());
        let root_is_whole = row.get::<_, Option<i64>>(20)?.is_none_or(|stored| stored == path_check);
        Ok(Self { doc_id, content_hash, revision, payload_check: row.get(18)?, hash, root_is_whole })
    }

    fn faults(&self, fingerprint: &Fingerprint) -> impl Iterator<Item = &'static str> {
        let faults = [
            (self.payload_check != check_of(&self.hash), "its fields are not those that were stored"),
            (
                self.revision != ids::revision(&self.content_hash, fingerprint),
                "its revision is not that of its content and settings",
            ),
            (!self.root_is_whole, "the path of its root is not the one that was stored"),
        ];
        faults.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what)
    }
}

/// Columns 0..=10; the caller adds its own and the tables.
const CHUNK_ROWS: &str =
    "SELECT c.chunk_id, c.point_id, c.chunk_no, c.chapter, c.page, c.start_byte, c.end_byte,
    c.overlap_bytes, c.tokens, c.text, c.section_no";

/// Columns 11..=15 after [`CHUNK_ROWS`], and the tables.
const CHUNK_OWNERS: &str = "c.payload_check, d.doc_id, d.revision, v.key, json_array_length(d.chapters)
    FROM chunks c JOIN documents d USING (document_id) JOIN vectors v USING (vector_id)";

struct ChunkRow {
    point_id: Uuid,
    chunk_no: u32,
    hash: [u8; 32],
}

impl ChunkRow {
    /// Of a row that begins with [`CHUNK_ROWS`].
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let chunk_no = row.get(2)?;
        let hash = ChunkPayload {
            chunk_no,
            chapter: row.get(3)?,
            page: row.get(4)?,
            start: row.get(5)?,
            end: row.get(6)?,
            overlap_bytes: row.get(7)?,
            tokens: row.get(8)?,
            text: row.get_ref(9)?.as_str()?,
            section_no: row.get(10)?,
        }
        .hash();
        Ok(Self { point_id: Uuid::from_bytes(row.get(1)?), chunk_no, hash })
    }

    /// What is wrong with it, by a row that goes on with [`CHUNK_OWNERS`].
    fn faults(&self, row: &Row<'_>, fingerprint: &Fingerprint) -> rusqlite::Result<Vec<&'static str>> {
        let text = row.get_ref(9)?.as_str()?;
        let doc_id = Uuid::from_bytes(row.get(12)?);
        let point_id = ids::point_id(&doc_id, &row.get(13)?, self.chunk_no, text);
        let faults = [
            (row.get::<_, i64>(11)? != check_of(&self.hash), "its fields are not those that were stored"),
            (self.point_id != point_id, "its point id is not that of its text"),
            (
                VectorKey(row.get(14)?) != VectorKey::of(text, fingerprint),
                "its vector is that of another text",
            ),
            (row.get::<_, u32>(3)? >= row.get::<_, u32>(15)?, "its chapter is not in its document"),
        ];
        Ok(faults.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what).collect())
    }
}

/// Columns 0..=7; the caller adds its own and the tables.
const SECTION_ROWS: &str =
    "SELECT s.point_id, s.section_no, s.name, s.start_byte, s.end_byte, s.tokens, s.text, s.embedded";

struct SectionRow {
    point_id: Uuid,
    section_no: u32,
    hash: [u8; 32],
}

impl SectionRow {
    /// Of a row that begins with [`SECTION_ROWS`].
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let section_no = row.get(1)?;
        let hash = SectionPayload {
            section_no,
            name: row.get_ref(2)?.as_str()?,
            start: row.get(3)?,
            end: row.get(4)?,
            tokens: row.get(5)?,
            text: row.get_ref(6)?.as_str()?,
            embedded: row.get_ref(7)?.as_str_or_null()?,
        }
        .hash();
        Ok(Self { point_id: Uuid::from_bytes(row.get(0)?), section_no, hash })
    }
}
