//! Documents whose text, vectors and ids follow from a name.

use std::path::PathBuf;

use haul_store::library::{
    ChapterRecord, ChunkRecord, Chunkers, DocumentRecord, IngestCost, Library, LibrarySettings, ManifestRow,
    VectorKey, VectorName, doc_id_for_file, point_id, revision,
};
use tempfile::TempDir;

pub(crate) const DIM: usize = 24;

pub(crate) fn settings() -> LibrarySettings {
    LibrarySettings {
        model_name: "tiny".to_owned(),
        model_sha256: "ab".repeat(32),
        dim: DIM,
        dtype: "f32".to_owned(),
        pooling: "mean".to_owned(),
        normalize: true,
        max_tokens: 256,
        chunker: "tokens".to_owned(),
        chunk_tokens: 254,
        overlap_sentences: 1,
        query_prompt: String::new(),
        document_prompt: String::new(),
        parser_version: 1,
        chunker_version: 1,
        numerics_version: 1,
        chunkers: Chunkers::default(),
        sparse: false,
    }
}

/// A folder that goes with the test, and a new library in it.
pub(crate) fn new_library() -> (TempDir, PathBuf, Library) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books.haul");
    let library = Library::create(&path, &settings()).unwrap();
    (folder, path, library)
}

/// A document of the given chunks; its content hash follows from them.
pub(crate) fn document(relative_path: &str, texts: &[&str]) -> DocumentRecord {
    let fingerprint = settings().fingerprint();
    let doc_id = doc_id_for_file("default", relative_path, None);
    let content_hash = *blake3::hash(texts.join("\0").as_bytes()).as_bytes();
    let revision = revision(&content_hash, &fingerprint);
    let mut start = 0;
    let chunks = texts.iter().enumerate().map(|(number, text)| {
        let chunk_no = number as u32;
        let end = start + text.len() as u64;
        let chunk = ChunkRecord {
            chunk_no,
            point_id: point_id(&doc_id, &revision, chunk_no, text),
            vector_key: VectorKey::of(text, &fingerprint),
            chapter: u32::from(number >= 2),
            page: (number >= 2).then_some(chunk_no + 1),
            start,
            end,
            overlap_bytes: 0,
            tokens: text.split_whitespace().count() as u32,
            text: (*text).to_owned(),
            section_no: None,
        };
        start = end;
        chunk
    });
    DocumentRecord {
        doc_id,
        collection: "default".to_owned(),
        root: "/srv/books".to_owned(),
        relative_path: relative_path.to_owned(),
        part: None,
        format: "txt".to_owned(),
        size_bytes: 1 << 20,
        modified_ns: Some(1_700_000_000_000_000_000),
        content_hash,
        revision,
        source: "local".to_owned(),
        source_id: None,
        title: format!("Title of {relative_path}"),
        authors: vec!["Ann Author".to_owned(), "Émile Second".to_owned()],
        language: Some("en-GB".to_owned()),
        detected_language: None,
        metadata: serde_json::json!({"series": "Tests", "index": 1}),
        chapters: vec![
            ChapterRecord { breadcrumb: vec!["One".to_owned()], href: Some("one.xhtml".to_owned()) },
            ChapterRecord { breadcrumb: vec!["Part".to_owned(), "Two".to_owned()], href: None },
        ],
        chunks: chunks.collect(),
        sections: vec![],
        chunker: "tokens".to_owned(),
        truncated_tokens: 0,
        cost: IngestCost {
            hostname: "here".to_owned(),
            device: "cpu".to_owned(),
            batch_size: 32,
            total_s: 2.0,
            chunk_s: 0.5,
            embed_s: 1.0,
            upload_s: 0.1,
        },
    }
}

pub(crate) fn manifest_row(document: &DocumentRecord, verdict: &str, why: Option<&str>) -> ManifestRow {
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
        verdict: verdict.to_owned(),
        why: why.map(str::to_owned),
        chunks: document.chunks.len() as u32,
        attempts: 1,
    }
}

/// A direction that follows from the text.
pub(crate) fn vector(text: &str) -> Vec<f32> {
    let mut random =
        Random::new(u64::from_le_bytes(blake3::hash(text.as_bytes()).as_bytes()[..8].try_into().unwrap()));
    random.direction(DIM)
}

pub(crate) fn put_vectors(library: &mut Library, document: &DocumentRecord) {
    let chunks = document.chunks.iter().map(|chunk| (chunk.vector_key, vector(&chunk.text)));
    let sections =
        document.sections.iter().map(|section| (section.vector_key, vector(section.embedded_text())));
    let rows: Vec<_> = chunks.chain(sections).collect();
    let rows: Vec<_> = rows.iter().map(|(key, row)| (*key, row.as_slice())).collect();
    library.put_vectors(VectorName::Dense, &rows).unwrap();
}

/// Vectors, then the document.
pub(crate) fn ingest(library: &mut Library, document: &DocumentRecord) {
    put_vectors(library, document);
    library.commit_documents(std::slice::from_ref(document)).unwrap();
}

/// Nothing is wrong, and the counts are those of the tables.
pub(crate) fn assert_sound(library: &Library) {
    let report = library.verify().unwrap();
    assert_eq!(report.findings, [], "{report:#?}");
}

/// splitmix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A vector of length 1.
    pub(crate) fn direction(&mut self, dim: usize) -> Vec<f32> {
        let row: Vec<f32> = (0..dim).map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32 - 0.5).collect();
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter().map(|x| x / norm).collect()
    }
}
