//! What a collection holds: its documents, its digest, its examination, and its documents as a library has them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::convert::{filter, first_chunks, from_server, has_vector, of_documents, to_server};
use super::{BM25, Collection, ServerError, State, Wanted};
use crate::check::Report;
use crate::dense;
use crate::ids::{self, VectorKey};
use crate::library::Library;
use crate::points::{self, DOCUMENT_FIELD, Payload, Point, PointFingerprint};
use crate::publish::PublishError;
use crate::records::{ChapterRecord, ChunkRecord, DocumentRecord, IngestCost, SectionRecord};
use crate::settings::LibrarySettings;
use crate::terms::Terms;

/// A document of a collection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Its id.
    pub doc_id: Uuid,
    /// Its title.
    pub title: String,
    /// Its authors.
    pub authors: Vec<String>,
    /// Its format.
    pub format: String,
    /// Path below its root.
    pub relative_path: String,
    /// Its points, counted.
    pub points: u64,
}

/// What `haul store info` shows of a collection.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// Where it is.
    pub address: String,
    /// Points.
    pub points: u64,
    /// Documents.
    pub documents: u64,
    /// Points that this program did not write; no digest holds them.
    pub foreign_points: u64,
    /// Numbers of a dense vector.
    pub dim: usize,
    /// Name of the dense vector.
    pub dense_vector: String,
    /// Names of sparse vectors.
    pub sparse_vectors: Vec<String>,
    /// What the points were made with.
    pub settings: Option<LibrarySettings>,
    /// blake3 of the sorted (point id, payload hash, vector hash), as of a library.
    pub digest: String,
}

/// Documents of a collection, by path, counted by their points.
///
/// # Errors
/// The server is away.
pub fn documents(collection: &Collection) -> Result<Vec<Entry>, ServerError> {
    let fields = ["doc_id", "book_title", "authors", "format", "relative_path"];
    let mut found: BTreeMap<Uuid, Entry> = BTreeMap::new();
    collection.for_each(None, &Wanted { fields: &fields, vectors: false }, |point| {
        let payload = json_payload(point.payload);
        let Some(doc_id) = payload.get("doc_id").and_then(Value::as_str).and_then(|id| id.parse().ok())
        else {
            return Ok(());
        };
        let text =
            |field: &str| payload.get(field).and_then(Value::as_str).map(str::to_owned).unwrap_or_default();
        let entry = found.entry(doc_id).or_insert_with(|| Entry {
            doc_id,
            title: text("book_title"),
            authors: texts(&payload, "authors"),
            format: text("format"),
            relative_path: text("relative_path"),
            points: 0,
        });
        entry.points += 1;
        Ok::<(), ServerError>(())
    })?;
    let mut entries: Vec<Entry> = found.into_values().collect();
    entries.sort_by(|a, b| (&a.relative_path, a.doc_id).cmp(&(&b.relative_path, b.doc_id)));
    Ok(entries)
}

/// A document of a collection, and the file it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its id.
    pub doc_id: Uuid,
    /// Its title.
    pub title: String,
    /// Namespace of its id.
    pub collection: String,
    /// Path below its root.
    pub relative_path: String,
    /// Part of a file of many documents.
    pub part: Option<String>,
    /// Where the file was.
    pub file_path: String,
}

impl Origin {
    /// Whether its id is that of its path; a book of Calibre is known by other ids than that.
    #[must_use]
    pub fn is_of_a_file(&self) -> bool {
        self.doc_id == ids::doc_id_for_file(&self.collection, &self.relative_path, self.part.as_deref())
    }
}

/// Calls `each` for every document of the collection, or for those of `of` that are there, as their first chunks have
/// them; several times for one of which there are several revisions.
///
/// # Errors
/// The server is away.
pub fn for_each_origin(
    collection: &Collection,
    of: Option<&[Uuid]>,
    mut each: impl FnMut(Origin),
) -> Result<(), ServerError> {
    let fields = ["doc_id", "book_title", "collection", "relative_path", "part", "file_path"];
    let filter = first_chunks(of.map(of_documents).into_iter().collect());
    collection.for_each(Some(&filter), &Wanted { fields: &fields, vectors: false }, |point| {
        let payload = json_payload(point.payload);
        let optional = |field: &str| payload.get(field).and_then(Value::as_str).map(str::to_owned);
        let text = |field: &str| optional(field).unwrap_or_default();
        if let Some(doc_id) = doc_id_of(&payload) {
            each(Origin {
                doc_id,
                title: text("book_title"),
                collection: text("collection"),
                relative_path: text("relative_path"),
                part: optional("part"),
                file_path: text("file_path"),
            });
        }
        Ok(())
    })
}

/// Counts and the digest, from every point.
///
/// # Errors
/// The server is away.
pub fn info(collection: &Collection, state: &State) -> Result<Info, ServerError> {
    let read = fingerprints(collection, state)?;
    Ok(Info {
        address: collection.address().to_string(),
        points: state.points,
        documents: read.by_document.len() as u64,
        foreign_points: read.foreign,
        dim: state.dim,
        dense_vector: state.dense_name.clone(),
        sparse_vectors: state.sparse_names.clone(),
        settings: state.settings.clone(),
        digest: points::digest_of(read.by_document.into_values().flatten().collect()),
    })
}

/// Fingerprints of all points of ours.
pub struct Fingerprints {
    /// By document.
    pub by_document: HashMap<Uuid, Vec<PointFingerprint>>,
    /// Points that this program did not write.
    pub foreign: u64,
}

/// Reads every point and takes its fingerprint.
///
/// # Errors
/// The server is away.
pub fn fingerprints(collection: &Collection, state: &State) -> Result<Fingerprints, ServerError> {
    let mut read = Fingerprints { by_document: HashMap::new(), foreign: 0 };
    collection.for_each(None, &Wanted::ALL, |point| {
        match from_server(point, state).ok().and_then(|point| Some((doc_id_of(&point.payload)?, point))) {
            Some((doc_id, point)) => read.by_document.entry(doc_id).or_default().push(point.fingerprint()),
            None => read.foreign += 1,
        }
        Ok::<(), ServerError>(())
    })?;
    Ok(read)
}

/// Documents of `library` that the collection does not have point for point, in no order.
///
/// # Errors
/// The server is away, the library cannot be read.
pub fn differing(
    library: &Library,
    collection: &Collection,
    state: &State,
) -> Result<Vec<Uuid>, PublishError> {
    let mut sums: HashMap<Uuid, Sum> = HashMap::new();
    library.for_each_point(|point| {
        if let Some(doc_id) = doc_id_of(&point.payload) {
            sums.entry(doc_id).or_default().add(&point, 1);
        }
    })?;
    collection.for_each(None, &Wanted::ALL, |point| {
        // What is no point of ours, or of another library, is not looked at.
        if let Ok(point) = from_server(point, state)
            && let Some(sum) = doc_id_of(&point.payload).and_then(|doc_id| sums.get_mut(&doc_id))
        {
            sum.add(&point, u64::MAX);
        }
        Ok::<(), ServerError>(())
    })?;
    Ok(sums.into_iter().filter(|(_, sum)| *sum != Sum::default()).map(|(doc_id, _)| doc_id).collect())
}

/// Sum of hashes in whatever order: what one store adds, the other takes away.
#[derive(Default, PartialEq)]
struct Sum([u64; 4]);

impl Sum {
    fn add(&mut self, point: &Point, times: u64) {
        let (id, payload, rows) = point.fingerprint();
        let hash = *blake3::Hasher::new().update(&id).update(&payload).update(&rows).finalize().as_bytes();
        for (sum, part) in self.0.iter_mut().zip(hash.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*part).wrapping_mul(times));
        }
    }
}

/// Copies every point of ours to another collection of the same settings, made if it is not there. How many.
///
/// # Errors
/// The server is away, the other collection is of other settings.
pub fn copy(
    from: &Collection,
    state: &State,
    settings: &LibrarySettings,
    to: &Collection,
) -> Result<u64, PublishError> {
    let there = to.ensure(settings)?;
    let terms = Terms::new(settings)?;
    let (mut batch, mut copied) = (Vec::new(), 0);
    let mut send = |batch: &mut Vec<Point>| -> Result<(), PublishError> {
        let bm25 = terms.of_points(batch)?;
        let points: Vec<_> =
            batch.iter().zip(bm25).map(|(point, bm25)| to_server(point, bm25, &there)).collect();
        to.upsert(&points)?;
        copied += batch.len() as u64;
        batch.clear();
        Ok(())
    };
    from.for_each(None, &Wanted::ALL, |point| {
        // What another program wrote is not copied.
        batch.extend(from_server(point, state).ok());
        if batch.len() >= COPIED_TOGETHER { send(&mut batch) } else { Ok(()) }
    })?;
    if !batch.is_empty() {
        send(&mut batch)?;
    }
    Ok(copied)
}

/// Points of one call of a copy.
const COPIED_TOGETHER: usize = 128;

/// Examines a collection by its points: ids recomputed from texts, vectors usable, numbers complete, BM25 weights there,
/// one revision a document. Whether vectors and payloads are those that were sent, only [`differing`] can say.
///
/// # Errors
/// The server is away.
pub fn verify(collection: &Collection, state: &State) -> Result<Report, ServerError> {
    let mut report = Report::default();
    let mut documents: HashMap<Uuid, Counted> = HashMap::new();
    collection.for_each(None, &Wanted::ALL, |point| {
        let shown = super::convert::uuid_of(point.id.as_ref());
        let has_bm25 = !state.has(BM25) || has_vector(&point, BM25);
        let named = shown.as_ref().map_or_else(|what| what.clone(), Uuid::to_string);
        match from_server(point, state) {
            Ok(point) => {
                check_point(&point, state, &mut documents, &mut report);
                // A text without a term has no weights, nor has a parent.
                if !has_bm25 && point.ranked_text().is_some_and(has_term) {
                    report.add("full_text", &point.id, &"it has no BM25 weights");
                }
            }
            // In a collection that another program made, its points are no fault.
            Err(_) if state.settings.is_none() => {}
            Err(what) => report.add("foreign", &named, &what),
        }
        Ok::<(), ServerError>(())
    })?;
    report.documents = documents.len() as u64;
    for (doc_id, counted) in documents {
        counted.check(doc_id, &mut report);
    }
    Ok(report)
}

fn has_term(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_alphanumeric())
}

/// What was seen of a document.
#[derive(Default)]
struct Counted {
    revisions: HashSet<String>,
    chunks: HashSet<u64>,
    sections: HashSet<u64>,
    promised: Option<(u64, u64)>,
}

impl Counted {
    fn check(&self, doc_id: Uuid, report: &mut Report) {
        if self.revisions.len() > 1 {
            let what = format!("points of {} revisions; a publication was not ended", self.revisions.len());
            report.add("document", &doc_id, &what);
            return;
        }
        let found = (self.chunks.len() as u64, self.sections.len() as u64);
        match self.promised {
            None => report.add("document", &doc_id, &"its first chunk is not there"),
            Some(promised) if promised != found => {
                let (chunks, sections) = promised;
                let what = format!(
                    "{chunks} chunks and {sections} sections, of which {} and {} are there",
                    found.0, found.1
                );
                report.add("document", &doc_id, &what);
            }
            Some((chunks, _)) if self.chunks.iter().any(|number| *number >= chunks) => {
                report.add("document", &doc_id, &"its chunks are not numbered without a gap");
            }
            Some(_) => {}
        }
    }
}

fn check_point(point: &Point, state: &State, documents: &mut HashMap<Uuid, Counted>, report: &mut Report) {
    report.vectors += 1;
    let text = |field: &str| point.payload.get(field).and_then(Value::as_str);
    let number = |field: &str| point.payload.get(field).and_then(Value::as_u64);
    let (Some(doc_id), Some(revision)) = (doc_id_of(&point.payload), text("revision")) else {
        report.add("foreign", &point.id, &"it has no doc_id and revision of ours");
        return;
    };
    let counted = documents.entry(doc_id).or_default();
    counted.revisions.insert(revision.to_owned());
    if point.dense.len() != state.dim || !dense::is_direction(&point.dense) {
        report.add("vector", &point.id, &"a number is not finite, or all are zero");
    }
    let Some(hash) = hash_of(revision) else {
        report.add("chunk", &point.id, &"its revision is no hash");
        return;
    };
    let index = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let embedded = text("text").unwrap_or_default();
    let expected = if let Some(chunk_no) = number("chunk_no") {
        report.chunks += 1;
        counted.chunks.insert(chunk_no);
        if let Some(own) = point.payload.get(DOCUMENT_FIELD) {
            counted.promised =
                Some((own["chunks"].as_u64().unwrap_or(0), own["sections"].as_u64().unwrap_or(0)));
        }
        ids::point_id(&doc_id, &hash, index(chunk_no), embedded)
    } else {
        let section_no = number("section_index").unwrap_or(0);
        counted.sections.insert(section_no);
        ids::section_point_id(&doc_id, &hash, index(section_no), embedded)
    };
    if point.id != expected {
        report.add("chunk", &point.id, &"its id is not that of its document, number and text");
    }
}

/// A document as a library takes it, and the rows of its texts.
pub struct Restored {
    /// The document.
    pub record: DocumentRecord,
    /// Key and row of each text.
    pub rows: Vec<(VectorKey, Vec<f32>)>,
    /// Key and token weights of each text that has some.
    pub sparse: Vec<(VectorKey, Vec<(u32, f32)>)>,
    /// Whether the collection has these points of the document and no others. Where a publication was not ended, there
    /// are points of another revision too.
    pub is_alone: bool,
}

/// Calls `each` for every document of the collection that is whole there. The ids of those that are not.
///
/// # Errors
/// The server is away, or points are not as this program writes them.
pub fn for_each_document(
    collection: &Collection,
    state: &State,
    settings: &LibrarySettings,
    mut each: impl FnMut(Restored) -> Result<(), PublishError>,
) -> Result<Vec<Uuid>, PublishError> {
    let mut doc_ids = BTreeSet::new();
    collection.for_each(None, &Wanted { fields: &["doc_id"], vectors: false }, |point| {
        let payload = json_payload(point.payload);
        doc_ids.extend(doc_id_of(&payload));
        Ok::<(), ServerError>(())
    })?;
    let mut not_whole = Vec::new();
    for doc_id in doc_ids {
        let mut points = Vec::new();
        let of_document = filter(vec![of_documents(&[doc_id])], vec![]);
        collection.for_each(Some(&of_document), &Wanted::ALL, |point| {
            let id = point.id.clone();
            points.push(from_server(point, state).map_err(|what| collection.bad_point(id.as_ref(), what))?);
            Ok::<(), ServerError>(())
        })?;
        let Some(first) = newest_whole(&points) else {
            not_whole.push(doc_id);
            continue;
        };
        let restored = restore(doc_id, first, &points, settings).map_err(|what| ServerError::Point {
            address: collection.address().clone(),
            point: format!("of document {doc_id}"),
            what,
        })?;
        each(restored)?;
    }
    Ok(not_whole)
}

/// The first chunk of the newest revision of which every point is there.
fn newest_whole(points: &[Point]) -> Option<&Point> {
    let revision = |point: &Point| point.payload.get("revision").and_then(Value::as_str).map(str::to_owned);
    let is_whole = |first: &&Point| {
        let own = &first.payload[DOCUMENT_FIELD];
        let promised =
            own["chunks"].as_u64().zip(own["sections"].as_u64()).map(|(chunks, sections)| chunks + sections);
        let there = points.iter().filter(|point| revision(point) == revision(first)).count() as u64;
        promised == Some(there)
    };
    let ingested =
        |first: &&Point| first.payload.get("ingested_at").and_then(Value::as_str).map(str::to_owned);
    points
        .iter()
        .filter(|point| point.payload.contains_key(DOCUMENT_FIELD))
        .filter(is_whole)
        .max_by_key(ingested)
}

/// What a document's first chunk says of it.
#[derive(Deserialize)]
struct Own {
    size_bytes: u64,
    content_hash: String,
    language: Option<String>,
    detected_language: Option<String>,
    metadata: Value,
    chapters: Vec<ChapterRecord>,
    truncated_tokens: u64,
}

fn restore(
    doc_id: Uuid,
    first: &Point,
    points: &[Point],
    settings: &LibrarySettings,
) -> Result<Restored, String> {
    let own: Own =
        serde_json::from_value(first.payload[DOCUMENT_FIELD].clone()).map_err(|error| error.to_string())?;
    let text = |field: &str| field_text(&first.payload, field);
    let revision = text("revision")?;
    let current = |point: &&Point| point.payload.get("revision").and_then(Value::as_str) == Some(&revision);
    let fingerprint = settings.fingerprint();
    let (mut rows, mut sparse) = (Vec::new(), Vec::new());
    let (mut chunks, mut sections) = (Vec::new(), Vec::new());
    for point in points.iter().filter(current) {
        let key = VectorKey::of(&field_text(&point.payload, "text")?, &fingerprint);
        rows.push((key, point.dense.iter().map(|x| x.to_f32()).collect()));
        if let Some(weights) = &point.sparse {
            sparse.push((key, weights.iter().map(|(token, weight)| (*token, weight.to_f32())).collect()));
        } else if settings.sparse {
            // A text may have no token of weight; servers keep no empty rows.
            sparse.push((key, Vec::new()));
        }
        if point.payload.contains_key("chunk_no") {
            chunks.push(chunk_of(point, key)?);
        } else {
            sections.push((field_number(&point.payload, "section_index")?, section_of(point, key)?));
        }
    }
    chunks.sort_by_key(|chunk| chunk.chunk_no);
    sections.sort_by_key(|(number, _)| *number);
    let optional = |field: &str| first.payload.get(field).and_then(Value::as_str).map(str::to_owned);
    let relative_path = text("relative_path")?;
    let record = DocumentRecord {
        doc_id,
        collection: text("collection")?,
        root: text("file_path")?.trim_end_matches(&relative_path).trim_end_matches('/').to_owned(),
        part: optional("part"),
        format: text("format")?,
        size_bytes: own.size_bytes,
        modified_ns: first.payload.get("modified_ns").and_then(Value::as_i64),
        content_hash: hash_of(&own.content_hash).ok_or("its content hash is no hash")?,
        revision: hash_of(&revision).ok_or("its revision is no hash")?,
        source: text("source")?,
        source_id: optional("source_id"),
        title: text("book_title")?,
        authors: texts(&first.payload, "authors"),
        language: own.language,
        detected_language: own.detected_language,
        metadata: own.metadata,
        chapters: own.chapters,
        chunks,
        sections: sections.into_iter().map(|(_, section)| section).collect(),
        chunker: settings.chunker.clone(),
        truncated_tokens: own.truncated_tokens,
        cost: IngestCost::default(),
        relative_path,
    };
    let is_alone = points.iter().all(|point| current(&point));
    Ok(Restored { record, rows, sparse, is_alone })
}

fn chunk_of(point: &Point, vector_key: VectorKey) -> Result<ChunkRecord, String> {
    let number = |field: &str| field_number(&point.payload, field);
    let optional = |field: &str| point.payload.get(field).and_then(Value::as_u64).map(narrow).transpose();
    Ok(ChunkRecord {
        chunk_no: narrow(number("chunk_no")?)?,
        point_id: point.id,
        vector_key,
        chapter: narrow(number("chapter")?)?,
        page: optional("page")?,
        start: number("start")?,
        end: number("end")?,
        overlap_bytes: narrow(number("overlap_bytes")?)?,
        tokens: narrow(number("token_count")?)?,
        text: field_text(&point.payload, "text")?,
        section_no: optional("section_index")?,
    })
}

fn section_of(point: &Point, vector_key: VectorKey) -> Result<SectionRecord, String> {
    let number = |field: &str| field_number(&point.payload, field);
    let embedded = field_text(&point.payload, "text")?;
    let text = field_text(&point.payload, "full_text")?;
    Ok(SectionRecord {
        point_id: point.id,
        vector_key,
        name: field_text(&point.payload, "section_name")?,
        start: number("start")?,
        end: number("end")?,
        tokens: narrow(number("token_count")?)?,
        embedded: (embedded != text).then_some(embedded),
        text,
    })
}

fn narrow(number: u64) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("the number {number} is too large"))
}

fn field_text(payload: &Payload, field: &str) -> Result<String, String> {
    payload.get(field).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| format!("it has no {field}"))
}

fn field_number(payload: &Payload, field: &str) -> Result<u64, String> {
    payload.get(field).and_then(Value::as_u64).ok_or_else(|| format!("it has no {field}"))
}

fn texts(payload: &Payload, field: &str) -> Vec<String> {
    let list = payload.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn doc_id_of(payload: &Payload) -> Option<Uuid> {
    payload.get("doc_id")?.as_str()?.parse().ok()
}

fn json_payload(payload: HashMap<String, qdrant_client::qdrant::Value>) -> Payload {
    payload.into_iter().map(|(field, value)| (field, Value::from(value))).collect()
}

/// 32 bytes from their hexadecimal form.
fn hash_of(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (place, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(hash)
}
