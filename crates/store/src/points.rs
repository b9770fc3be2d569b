//! A library's chunks and sections as the points of a vector store, and the digest over them.
//!
//! This is the one place that says what a point's payload holds. The first group of fields are those that Alexandria's
//! own tools read; `docs/store.md` has the whole table.

use std::collections::HashMap;

use half::f16;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::dense;
use crate::payload::canonical;
use crate::read::json_column;
use crate::records::ChapterRecord;
use crate::settings::LibrarySettings;

/// Fields of a payload: a JSON object.
pub type Payload = Map<String, Value>;

/// One point of a vector store.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// [`point_id`](crate::library::point_id) or [`section_point_id`](crate::library::section_point_id).
    pub id: Uuid,
    /// What is known about it.
    pub payload: Payload,
    /// Its dense row, as the library has it.
    pub dense: Vec<f16>,
    /// Token id and weight of its sparse row, where the library has one: ids rise.
    pub sparse: Option<Vec<(u32, f16)>>,
}

/// Version of the payload as Alexandria counts it.
pub const INGEST_VERSION: &str = "2.0";

/// Fields that may differ between two ingests of the same input: times, places, and what a model is called. No digest
/// holds them.
pub const VOLATILE_FIELDS: [&str; 5] =
    ["ingested_at", "file_path", "modified_ns", "embedding_model_id", "embedding_model_name"];

/// Where chunks count from 0, a document's own fields stand in the payload of its first chunk, under this name.
pub const DOCUMENT_FIELD: &str = "document";

/// Hash of a point's payload: blake3 of its JSON, keys in order, without [`VOLATILE_FIELDS`].
#[must_use]
pub fn payload_hash(payload: &Payload) -> [u8; 32] {
    let kept: Payload = payload
        .iter()
        .filter(|(field, _)| !VOLATILE_FIELDS.contains(&field.as_str()))
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect();
    *blake3::hash(canonical(&Value::Object(kept)).as_bytes()).as_bytes()
}

impl Point {
    /// The text that searches by words rank it by; a parent is not ranked.
    pub(crate) fn ranked_text(&self) -> Option<&str> {
        let is_parent = self.payload.get("chunk_level").is_some_and(|level| level == "parent");
        self.payload.get("text").and_then(Value::as_str).filter(|_| !is_parent)
    }

    /// What a digest takes of the point: id, payload hash, and the blake3 of its rows as the library stores them.
    #[must_use]
    pub fn fingerprint(&self) -> PointFingerprint {
        let mut rows = blake3::Hasher::new();
        for number in &self.dense {
            rows.update(&number.to_le_bytes());
        }
        for (token, weight) in self.sparse.iter().flatten() {
            rows.update(&token.to_le_bytes()).update(&weight.to_le_bytes());
        }
        (*self.id.as_bytes(), payload_hash(&self.payload), *rows.finalize().as_bytes())
    }
}

/// Point id, payload hash, vector hash.
pub type PointFingerprint = ([u8; 16], [u8; 32], [u8; 32]);

/// blake3 of the sorted fingerprints, hexadecimal: equal for equal content in whatever store and order.
#[must_use]
pub fn digest_of(mut points: Vec<PointFingerprint>) -> String {
    points.sort_unstable();
    let mut digest = blake3::Hasher::new();
    for (id, payload, rows) in &points {
        digest.update(id).update(payload).update(rows);
    }
    digest.finalize().to_hex().to_string()
}

/// Calls `each` for every point of a document: sections first, as Alexandria writes parents before children, then
/// chunks by number. `false` if the library has no such document.
pub(crate) fn for_each_point<E: From<rusqlite::Error>>(
    db: &Connection,
    settings: &LibrarySettings,
    doc_id: &Uuid,
    mut each: impl FnMut(Point) -> Result<(), E>,
) -> Result<bool, E> {
    let Some(document) = Document::read(db, doc_id)? else { return Ok(false) };
    let common = document.common_fields(settings);
    for_each_section(db, &document, &common, &mut each)?;
    for_each_chunk(db, &document, &common, &mut each)?;
    Ok(true)
}

/// A document's row, and what its points say of it.
struct Document {
    document_id: i64,
    doc_id: Uuid,
    collection: String,
    root: String,
    relative_path: String,
    part: Option<String>,
    format: String,
    size_bytes: u64,
    modified_ns: Option<i64>,
    content_hash: [u8; 32],
    revision: [u8; 32],
    source: String,
    source_id: Option<String>,
    title: String,
    authors: Vec<String>,
    language: Option<String>,
    detected_language: Option<String>,
    metadata: Value,
    chapters: Vec<ChapterRecord>,
    truncated_tokens: u64,
    ingested_at: String,
    chunks: u64,
    sections: u64,
}

impl Document {
    fn read(db: &Connection, doc_id: &Uuid) -> rusqlite::Result<Option<Self>> {
        db.prepare_cached(
            "SELECT d.document_id, d.doc_id, r.collection, r.path, d.relative_path, d.part, d.format, d.size_bytes,
                m.modified_ns, d.content_hash, d.revision, d.source, d.source_id, d.title, d.authors, d.language,
                d.detected_language, d.metadata, d.chapters, d.truncated_tokens,
                strftime('%Y-%m-%dT%H:%M:%fZ', d.ingested_ms / 1000.0, 'unixepoch'),
                (SELECT count(*) FROM chunks c WHERE c.document_id = d.document_id),
                (SELECT count(*) FROM sections s WHERE s.document_id = d.document_id)
            FROM documents d JOIN roots r USING (root_id) JOIN manifest m USING (doc_id)
            WHERE d.doc_id = ?1",
        )?
        .query_row([doc_id.as_bytes()], Self::of_row)
        .optional()
    }

    fn of_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            document_id: row.get(0)?,
            doc_id: Uuid::from_bytes(row.get(1)?),
            collection: row.get(2)?,
            root: row.get(3)?,
            relative_path: row.get(4)?,
            part: row.get(5)?,
            format: row.get(6)?,
            size_bytes: row.get(7)?,
            modified_ns: row.get(8)?,
            content_hash: row.get(9)?,
            revision: row.get(10)?,
            source: row.get(11)?,
            source_id: row.get(12)?,
            title: row.get(13)?,
            authors: json_column(row, 14)?,
            language: row.get(15)?,
            detected_language: row.get(16)?,
            metadata: json_column(row, 17)?,
            chapters: json_column(row, 18)?,
            truncated_tokens: row.get(19)?,
            ingested_at: row.get(20)?,
            chunks: row.get(21)?,
            sections: row.get(22)?,
        })
    }

    /// What all points of the document say.
    fn common_fields(&self, settings: &LibrarySettings) -> Payload {
        let mut fields = Payload::new();
        let mut put = |field: &str, value: Value| fields.insert(field.to_owned(), value);
        put("book_title", self.title.clone().into());
        put("author", self.authors.join(" & ").into());
        put("language", self.language.as_ref().or(self.detected_language.as_ref()).cloned().into());
        put("ingested_at", self.ingested_at.clone().into());
        put("strategy", strategy(settings).into());
        put("embedding_model_id", settings.model_name.clone().into());
        put("embedding_model_name", settings.model_name.clone().into());
        put("embedding_dimension", settings.dim.into());
        put("ingest_version", INGEST_VERSION.into());
        put("source", self.source.clone().into());
        put("source_id", self.source_id.clone().into());
        put("doc_id", self.doc_id.to_string().into());
        put("revision", hex(&self.revision).into());
        put("collection", self.collection.clone().into());
        put("format", self.format.clone().into());
        put("relative_path", self.relative_path.clone().into());
        put("file_path", format!("{}/{}", self.root.trim_end_matches('/'), self.relative_path).into());
        put("authors", self.authors.clone().into());
        if let Some(part) = &self.part {
            put("part", part.clone().into());
        }
        for field in ["series", "tags"] {
            if let Some(value) = self.metadata.get(field) {
                put(field, settled(value));
            }
        }
        fields
    }

    /// What only one of its points needs to say, so that a library can be made from a store again.
    fn own_fields(&self) -> Value {
        json!({
            "size_bytes": self.size_bytes,
            "content_hash": hex(&self.content_hash),
            "language": self.language,
            "detected_language": self.detected_language,
            "metadata": settled(&self.metadata),
            "chapters": self.chapters,
            "truncated_tokens": self.truncated_tokens,
            "chunks": self.chunks,
            "sections": self.sections,
        })
    }
}

fn for_each_section<E: From<rusqlite::Error>>(
    db: &Connection,
    document: &Document,
    common: &Payload,
    each: &mut impl FnMut(Point) -> Result<(), E>,
) -> Result<(), E> {
    let mut statement = db.prepare_cached(
        "SELECT s.point_id, s.section_no, s.name, s.start_byte, s.end_byte, s.tokens, s.text, s.embedded, v.row,
            (SELECT row FROM vectors p WHERE p.key = v.key AND p.name = ?2),
            (SELECT count(*) FROM chunks c WHERE c.document_id = s.document_id AND c.section_no = s.section_no)
        FROM sections s JOIN vectors v USING (vector_id) WHERE s.document_id = ?1 ORDER BY s.section_no",
    )?;
    let mut rows = statement.query(params![document.document_id, SPARSE])?;
    while let Some(row) = rows.next()? {
        let mut payload = common.clone();
        let text: String = row.get(6)?;
        let embedded: Option<String> = row.get(7)?;
        let mut put = |field: &str, value: Value| payload.insert(field.to_owned(), value);
        put("strategy", "hierarchical".into());
        put("text", embedded.as_ref().unwrap_or(&text).clone().into());
        put("full_text", text.into());
        put("section_name", row.get::<_, String>(2)?.into());
        put("section_index", row.get::<_, u32>(1)?.into());
        put("child_count", row.get::<_, u64>(10)?.into());
        put("token_count", row.get::<_, u32>(5)?.into());
        put("chunk_level", "parent".into());
        put("start", row.get::<_, u64>(3)?.into());
        put("end", row.get::<_, u64>(4)?.into());
        each(point(row, 0, 8, payload)?)?;
    }
    Ok(())
}

fn for_each_chunk<E: From<rusqlite::Error>>(
    db: &Connection,
    document: &Document,
    common: &Payload,
    each: &mut impl FnMut(Point) -> Result<(), E>,
) -> Result<(), E> {
    let mut statement = db.prepare_cached(
        "SELECT c.point_id, c.chunk_no, c.chapter, c.page, c.start_byte, c.end_byte, c.overlap_bytes, c.tokens,
            c.text, c.section_no, v.row, (SELECT row FROM vectors p WHERE p.key = v.key AND p.name = ?2),
            s.point_id, s.name
        FROM chunks c JOIN vectors v USING (vector_id)
        LEFT JOIN sections s ON s.document_id = c.document_id AND s.section_no = c.section_no
        WHERE c.document_id = ?1 ORDER BY c.chunk_no",
    )?;
    let siblings = siblings(db, document)?;
    let mut sequence: HashMap<u32, u64> = HashMap::new();
    let mut rows = statement.query(params![document.document_id, SPARSE])?;
    while let Some(row) = rows.next()? {
        let mut payload = common.clone();
        chunk_fields(row, document, &mut payload)?;
        if let Some(section_no) = row.get::<_, Option<u32>>(9)? {
            let sequence_index = sequence.entry(section_no).or_default();
            payload.insert("sequence_index".to_owned(), (*sequence_index).into());
            payload.insert("sibling_count".to_owned(), siblings.get(&section_no).copied().into());
            *sequence_index += 1;
        }
        each(point(row, 0, 10, payload)?)?;
    }
    Ok(())
}

/// Chunks of each section.
fn siblings(db: &Connection, document: &Document) -> rusqlite::Result<HashMap<u32, u64>> {
    db.prepare_cached(
        "SELECT section_no, count(*) FROM chunks WHERE document_id = ?1 AND section_no IS NOT NULL
        GROUP BY section_no",
    )?
    .query_map([document.document_id], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

/// Of a row of [`for_each_chunk`].
fn chunk_fields(row: &Row<'_>, document: &Document, payload: &mut Payload) -> rusqlite::Result<()> {
    let (chunk_no, chapter_no): (u32, u32) = (row.get(1)?, row.get(2)?);
    let chapter = document.chapters.get(chapter_no as usize).ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let section_name = row.get::<_, Option<String>>(13)?.or_else(|| chapter.breadcrumb.last().cloned());
    let mut put = |field: &str, value: Value| payload.insert(field.to_owned(), value);
    put("text", row.get::<_, String>(8)?.into());
    put("section_name", section_name.unwrap_or_default().into());
    put("token_count", row.get::<_, u32>(7)?.into());
    put("chunk_no", chunk_no.into());
    put("chapter", chapter_no.into());
    put("start", row.get::<_, u64>(4)?.into());
    put("end", row.get::<_, u64>(5)?.into());
    put("overlap_bytes", row.get::<_, u32>(6)?.into());
    put("breadcrumb", chapter.breadcrumb.clone().into());
    if let Some(href) = &chapter.href {
        put("href", href.clone().into());
    }
    if let Some(page) = row.get::<_, Option<u32>>(3)? {
        put("page", page.into());
    }
    if let Some(section_no) = row.get::<_, Option<u32>>(9)? {
        put("chunk_level", "child".into());
        put("section_index", section_no.into());
        put(
            "parent_id",
            row.get::<_, Option<[u8; 16]>>(12)?.map(|id| Uuid::from_bytes(id).to_string()).into(),
        );
    }
    if chunk_no == 0 {
        put(DOCUMENT_FIELD, document.own_fields());
        put("modified_ns", document.modified_ns.into());
    }
    Ok(())
}

/// How a row of the table `vectors` with token weights is called.
const SPARSE: &str = "sparse";

/// A point from the columns of its id and its dense row; the sparse row stands beside the dense one.
fn point(row: &Row<'_>, id: usize, dense: usize, mut payload: Payload) -> rusqlite::Result<Point> {
    let halves = dense::decode_row(row.get_ref(dense)?.as_blob()?);
    payload.insert("vector_norm".to_owned(), short(norm(&halves)).into());
    let sparse = row.get_ref(dense + 1)?.as_blob_or_null()?.map(decode_sparse);
    Ok(Point { id: Uuid::from_bytes(row.get(id)?), payload, dense: halves, sparse })
}

/// Length of a row, f64. With it, a row that a store has scaled to length 1 gives its f16 numbers back bit by bit.
pub(crate) fn norm(row: &[f16]) -> f64 {
    row.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>().sqrt()
}

/// A user's value with its fractions in 15 digits: servers write payloads as decimal numbers, and not all of them read
/// all 17 digits of an f64 back to the same bits. What came back otherwise would never equal what was sent.
fn settled(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let digits = number.as_f64().and_then(|x| format!("{x:.14e}").parse::<f64>().ok());
            digits.map_or_else(|| value.clone(), Value::from)
        }
        Value::Array(values) => values.iter().map(settled).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), settled(value))).collect(),
        _ => value.clone(),
    }
}

/// A length with eight decimals, for the same reason.
fn short(length: f64) -> f64 {
    (length * 1e8).round() / 1e8
}

/// `n` times a token id (u32) and its weight (f16), little-endian.
fn decode_sparse(bytes: &[u8]) -> Vec<(u32, f16)> {
    let (pairs, _) = bytes.as_chunks::<6>();
    pairs
        .iter()
        .map(|&[a, b, c, d, e, f]| (u32::from_le_bytes([a, b, c, d]), f16::from_le_bytes([e, f])))
        .collect()
}

/// The name that Alexandria's tools know a way of cutting by.
fn strategy(settings: &LibrarySettings) -> &str {
    match settings.chunker.as_str() {
        // As Alexandria writes it for both of its chunkers.
        "fixed" | "semantic" => "universal-semantic",
        ours => ours,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that works with cosines scales every row to length 1 in f32. The length brings the f16 row back.
    #[test]
    fn a_scaled_row_comes_back_bit_by_bit() {
        let row: Vec<f16> = (0..384).map(|n| f16::from_f32(((n * 37 % 101) as f32 - 50.0) / 400.0)).collect();
        let length = short(norm(&row));
        let scaled: Vec<f32> = row.iter().map(|x| (x.to_f64() / norm(&row)) as f32).collect();
        let back: Vec<f16> = scaled.iter().map(|y| f16::from_f64(f64::from(*y) * length)).collect();
        assert_eq!(back, row);
    }

    /// Qdrant 1.18 reads 17 digits back as a neighbouring number, so documents with such a number in their own fields
    /// were sent again by every push.
    #[test]
    fn fractions_of_users_have_digits_that_every_server_reads_back() {
        let value =
            json!({"a": [0.123_456_789_012_345_67, 3, -7], "b": {"c": 0.5}, "d": "0.12345678901234567"});
        let expected =
            json!({"a": [0.123_456_789_012_346, 3, -7], "b": {"c": 0.5}, "d": "0.12345678901234567"});
        assert_eq!(settled(&value), expected);
        assert_eq!(settled(&expected), expected);
    }

    #[test]
    fn times_and_places_are_in_no_digest() {
        let mut payload: Payload =
            serde_json::from_value(json!({"text": "a", "ingested_at": "now", "file_path": "/a/b"})).unwrap();
        let before = payload_hash(&payload);
        payload.insert("ingested_at".into(), "later".into());
        payload.insert("file_path".into(), "/elsewhere/b".into());
        assert_eq!(payload_hash(&payload), before);
        payload.insert("text".into(), "b".into());
        assert_ne!(payload_hash(&payload), before);
    }
}
