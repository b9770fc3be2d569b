//! What goes into a library: documents with their chunks, and the manifest row of every input.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::VectorKey;

/// Which vectors of a text are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorName {
    /// One f16 row of `dim` numbers a text.
    Dense,
    /// Tokens with their weights, where the model has a sparse head: written by
    /// [`Library::put_sparse`](crate::library::Library::put_sparse).
    Sparse,
}

impl VectorName {
    /// As stored in the column `vectors.name`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Sparse => "sparse",
        }
    }
}

/// A document with verdict `ok`, as one commit puts it into the library.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentRecord {
    /// Id that outlives revisions.
    pub doc_id: Uuid,
    /// Collection the document belongs to.
    pub collection: String,
    /// Folder the path is relative to. Not part of the digest: a library may move.
    pub root: String,
    /// Path below the root, `/` between its parts.
    pub relative_path: String,
    /// Id inside a file of many documents (JSONL).
    pub part: Option<String>,
    /// `epub`, `pdf`, `txt`, ...
    pub format: String,
    /// Size of the file, or of the part.
    pub size_bytes: u64,
    /// Modification time of the file, nanoseconds since 1970.
    pub modified_ns: Option<i64>,
    /// blake3 of the file, or of the part.
    pub content_hash: [u8; 32],
    /// [`revision`](crate::library::revision) of the content hash and the library's fingerprint.
    pub revision: [u8; 32],
    /// Where the document comes from: `calibre`, `local`.
    pub source: String,
    /// Id in that source, such as Calibre's book id.
    pub source_id: Option<String>,
    /// Title.
    pub title: String,
    /// Authors in the order of the metadata.
    pub authors: Vec<String>,
    /// Language as the metadata says.
    pub language: Option<String>,
    /// Language as the text shows.
    pub detected_language: Option<String>,
    /// Further metadata (series, publisher, tags): a JSON object.
    pub metadata: serde_json::Value,
    /// Chapters that chunks point to by index.
    pub chapters: Vec<ChapterRecord>,
    /// Chunks, numbered from 0 without a gap.
    pub chunks: Vec<ChunkRecord>,
    /// Sections that are embedded beside the chunks, numbered by their place here; none without parents.
    pub sections: Vec<SectionRecord>,
    /// The chunker that cut this document, for the view `ingest_log`.
    pub chunker: String,
    /// Tokens of the document that did not reach the model.
    pub truncated_tokens: u64,
    /// What the making of this revision took, for the view `ingest_log`.
    pub cost: IngestCost,
}

/// What is known about a document beside its text. No id and no vector depends on it.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentMetadata {
    /// Where the document comes from: `calibre`, `local`.
    pub source: String,
    /// Id in that source, such as Calibre's book id.
    pub source_id: Option<String>,
    /// Title.
    pub title: String,
    /// Authors in the order of the metadata.
    pub authors: Vec<String>,
    /// Language as the metadata says.
    pub language: Option<String>,
    /// Further metadata (series, publisher, tags): a JSON object.
    pub metadata: serde_json::Value,
}

/// A document whose text is the same and that stands elsewhere, or is called otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentUpdate {
    /// Where it stands now; content and revision as the library has them.
    pub row: ManifestRow,
    /// What is known about it now; `None` where that is the same.
    pub metadata: Option<DocumentMetadata>,
}

/// A document as a list of documents shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogueEntry {
    /// Id that outlives revisions.
    pub doc_id: Uuid,
    /// Folder the path is relative to.
    pub root: String,
    /// Path below the root.
    pub relative_path: String,
    /// Part of a file of many documents.
    pub part: Option<String>,
    /// `epub`, `pdf`, `txt`, ...
    pub format: String,
    /// Chunks of it.
    pub chunks: u64,
    /// What is known about it.
    pub metadata: DocumentMetadata,
}

/// Where in a document's table of contents a chunk stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChapterRecord {
    /// Titles from the outermost part to the chapter.
    pub breadcrumb: Vec<String>,
    /// Link inside the book, such as `text/ch01.xhtml#start`.
    pub href: Option<String>,
}

/// One chunk of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Number inside the document, from 0.
    pub chunk_no: u32,
    /// [`point_id`](crate::library::point_id) of document, revision, number and text.
    pub point_id: Uuid,
    /// Vector of the text; it must be in the library before the document is committed.
    pub vector_key: VectorKey,
    /// Index into [`DocumentRecord::chapters`].
    pub chapter: u32,
    /// Page, from 1, where the format has pages.
    pub page: Option<u32>,
    /// First byte in the document's text.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
    /// Bytes at the start that repeat the end of the previous chunk.
    pub overlap_bytes: u32,
    /// Tokens, special tokens not included.
    pub tokens: u32,
    /// The text itself.
    pub text: String,
    /// Index into [`DocumentRecord::sections`], where there are any.
    pub section_no: Option<u32>,
}

/// A stretch of a document whose chunks are its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionRecord {
    /// [`section_point_id`](crate::library::section_point_id) of document, revision, number and text.
    pub point_id: Uuid,
    /// Vector of what was embedded.
    pub vector_key: VectorKey,
    /// Its title.
    pub name: String,
    /// First byte in the document's text.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
    /// Tokens that the model was given, special tokens not included.
    pub tokens: u32,
    /// The whole text.
    pub text: String,
    /// What was embedded, where that is not the whole text.
    pub embedded: Option<String>,
}

impl SectionRecord {
    /// What was embedded.
    #[must_use]
    pub fn embedded_text(&self) -> &str {
        self.embedded.as_deref().unwrap_or(&self.text)
    }
}

/// What an ingest took. The columns of `ingest_log` that the library cannot know by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IngestCost {
    /// Machine that did the work.
    pub hostname: String,
    /// Device that did the work: `cpu`, `cuda:0`.
    pub device: String,
    /// Sequences, or tokens, a batch as the job counts them.
    pub batch_size: u64,
    /// Seconds from the first byte read to the commit.
    pub total_s: f64,
    /// Seconds of parsing and chunking.
    pub chunk_s: f64,
    /// Seconds of the model, as this document's share of its batches.
    pub embed_s: f64,
    /// Seconds of writing vectors.
    pub upload_s: f64,
}

/// One input and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRow {
    /// Id that outlives revisions.
    pub doc_id: Uuid,
    /// Collection the document belongs to.
    pub collection: String,
    /// Folder the path is relative to.
    pub root: String,
    /// Path below the root.
    pub relative_path: String,
    /// Id inside a file of many documents.
    pub part: Option<String>,
    /// `epub`, `pdf`, `txt`, ...
    pub format: String,
    /// Size of the file, or of the part.
    pub size_bytes: u64,
    /// Modification time of the file, nanoseconds since 1970.
    pub modified_ns: Option<i64>,
    /// blake3 of the file, or of the part.
    pub content_hash: [u8; 32],
    /// Revision that was tried last.
    pub revision: [u8; 32],
    /// One of [`VERDICTS`].
    pub verdict: String,
    /// Why, when the verdict is not `ok`.
    pub why: Option<String>,
    /// Chunks of this document in the library. The library counts them itself; ignored when a row is written.
    pub chunks: u32,
    /// Times this very revision was tried. The library counts them itself; ignored when a row is written.
    pub attempts: u32,
}

/// Verdicts an input can end in. `ok` is given by a commit, the others by a verdict.
pub const VERDICTS: [&str; 10] = [
    "ok",
    "empty",
    "needs_ocr",
    "drm",
    "corrupt",
    "unsupported",
    "timeout",
    "too_large",
    "failed",
    "skipped",
];
