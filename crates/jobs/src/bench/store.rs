//! `bench store`: what a library of many vectors takes to be made, opened and searched on this machine.
//!
//! The library is made of synthetic documents by the functions an ingest writes with, and is gone afterwards.

use std::path::{Path, PathBuf};
use std::time::Instant;

use haul_machine::cpu::Cpu;
use haul_machine::{memory, roof};
use haul_pipeline::stage::Stop;
use haul_store::library::{
    ChapterRecord, ChunkRecord, Chunkers, DocumentRecord, Fingerprint, IngestCost, Library, LibrarySettings,
    OpenError, ReadError, VectorKey, VectorName, WriteError, doc_id_for_file, free_bytes, point_id, revision,
};
use haul_store::search::{self, Filters, Mode, Parents, Request};
use haul_store::segment::{self, SegmentError};
use serde::Serialize;
use uuid::Uuid;

use super::directions::{self, Directions};
use crate::mixes::Random;

/// What is made and asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Chunks, each with a vector of its own.
    pub rows: u64,
    /// Numbers of a vector.
    pub dim: usize,
    /// Searches timed.
    pub queries: usize,
    /// Threads of a search.
    pub threads: usize,
    /// The library is made in a folder of its own below this one.
    pub folder: PathBuf,
}

/// Hits of a search.
pub const K: usize = 10;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Chunks in the library.
    pub rows: u64,
    /// Numbers of a vector.
    pub dim: usize,
    /// Searches timed.
    pub queries: usize,
    /// Threads of a search.
    pub threads: usize,
    /// Hits of a search.
    pub k: usize,
    /// Seconds in the library's own functions, from the first vector to the last commit.
    pub ingest_s: f64,
    /// `rows / ingest_s`.
    pub ingest_rows_per_s: f64,
    /// The most memory the process held until then.
    pub ingest_peak_rss_bytes: Option<u64>,
    /// Bytes of the library, its log emptied.
    pub library_bytes: u64,
    /// Bytes of the segment.
    pub segment_bytes: u64,
    /// Seconds to make the segment from the library.
    pub segment_build_s: f64,
    /// Seconds to open the library anew and map and check its segment.
    pub open_s: f64,
    /// Milliseconds of a search's scan, as `haul search --json` has them in `scan_ms`: the median.
    pub scan_p50_ms: f64,
    /// The same, of which 95 of 100 are not above.
    pub scan_p95_ms: f64,
    /// Share of the `k` nearest rows, by a plain scan of the f32 vectors, that searches found.
    pub recall_at_10: f64,
    /// Bytes of int8 rows and their facts that a scan reads.
    pub scanned_bytes: u64,
    /// `scanned_bytes` over the median, in 10^9 bytes per second.
    pub scan_gb_per_s: f64,
    /// What all cores read from memory together, measured beside the searches, in 10^9 bytes per second.
    pub memory_gb_per_s: f64,
}

/// A library could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreBenchError {
    /// The disk has not enough room.
    #[error("{}: {needed_bytes} bytes are needed for {rows} rows of {dim} numbers, {free_bytes} are free", folder.display())]
    NoRoom {
        /// Where the library was to be made.
        folder: PathBuf,
        /// Rows asked for.
        rows: u64,
        /// Numbers of a row.
        dim: usize,
        /// Estimated from above.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// The folder cannot be made, looked at or removed.
    #[error("{}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The library cannot be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The library cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The library cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The segment cannot be made.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A search failed.
    #[error(transparent)]
    Search(#[from] search::SearchError),
}

impl StoreBenchError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoRoom { .. } => Some("take fewer --rows, or --scratch DIR on another disk"),
            Self::Folder { .. } => None,
            Self::Open(error) => error.hint(),
            Self::Write(error) => error.hint(),
            Self::Read(error) => error.hint(),
            Self::Segment(error) => error.hint(),
            Self::Search(error) => error.hint(),
        }
    }
}

/// Makes the library, asks it, and removes it, whatever happens. `None` when it was stopped.
///
/// # Errors
/// Too little room on the disk, or whatever the library says.
pub fn run(settings: &Settings, cpu: &Cpu, stop: &Stop) -> Result<Option<Report>, StoreBenchError> {
    check_room(settings)?;
    let scratch = Scratch::below(&settings.folder)?;
    let measured = Bench { settings, cpu, stop, directions: Directions::new(settings.dim) }.run(&scratch.0);
    let removed = scratch.remove();
    let report = measured?;
    removed.map(|()| report)
}

/// Bytes of a row beside its vector: text, ids, full text, indexes. Measured: 700.
const ROW_BYTES: u64 = 1200;

/// A page of SQLite holds whole rows: of vectors, at least two thirds of it are used.
fn library_bytes_at_most(rows: u64, dim: u64) -> u64 {
    rows * (2 * dim * 3 / 2 + ROW_BYTES)
}

/// Int8 and f16 numbers, and the facts of a row.
fn segment_bytes_at_most(rows: u64, dim: u64) -> u64 {
    rows * (3 * dim + 64)
}

/// The log, and what is smaller than an estimate.
const SPARE_BYTES: u64 = 256 << 20;

fn check_room(settings: &Settings) -> Result<(), StoreBenchError> {
    let (rows, dim, folder) = (settings.rows, settings.dim, &settings.folder);
    let inside = folder.join("library");
    let free_bytes =
        free_bytes(&inside).map_err(|source| StoreBenchError::Folder { path: folder.clone(), source })?;
    let dim_numbers = dim as u64;
    let needed_bytes =
        library_bytes_at_most(rows, dim_numbers) + segment_bytes_at_most(rows, dim_numbers) + SPARE_BYTES;
    if needed_bytes > free_bytes {
        return Err(StoreBenchError::NoRoom { folder: folder.clone(), rows, dim, needed_bytes, free_bytes });
    }
    Ok(())
}

/// A folder that goes with all that is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn below(folder: &Path) -> Result<Self, StoreBenchError> {
        let path = folder.join(format!("haul-bench-store-{}", Uuid::new_v4()));
        std::fs::create_dir(&path)
            .map_err(|source| StoreBenchError::Folder { path: path.clone(), source })?;
        Ok(Self(path))
    }

    fn remove(self) -> Result<(), StoreBenchError> {
        let path = self.0.clone();
        std::mem::forget(self);
        std::fs::remove_dir_all(&path).map_err(|source| StoreBenchError::Folder { path, source })
    }
}

/// On the way of a panic.
impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "{} stays behind", self.0.display());
        }
    }
}

struct Bench<'a> {
    settings: &'a Settings,
    cpu: &'a Cpu,
    stop: &'a Stop,
    directions: Directions,
}

/// Chunks of a document, and vectors of a transaction: an ingest commits as many at most.
const CHUNKS_PER_DOCUMENT: u64 = 1000;

/// Searches before the first that is timed: they bring the segment into memory.
const WARMING_SEARCHES: usize = 3;

impl Bench<'_> {
    fn run(&self, folder: &Path) -> Result<Option<Report>, StoreBenchError> {
        let Settings { rows, dim, queries, threads, .. } = *self.settings;
        let path = folder.join("bench.haul");
        let Some((library, ingest_s)) = self.ingest(&path)? else { return Ok(None) };
        let ingest_peak_rss_bytes = memory::peak_rss_bytes();
        let began = Instant::now();
        segment::refresh(&library)?;
        let segment_build_s = began.elapsed().as_secs_f64();
        drop(library);

        let began = Instant::now();
        let library = Library::open_read_only(&path)?;
        segment::state(&library)?;
        let open_s = began.elapsed().as_secs_f64();
        let asked: Vec<Vec<f32>> = (0..queries as u64).map(|number| self.directions.query(number)).collect();
        let memory_before = roof::measure_read_now(self.cpu);
        let Some((mut scans_ms, found)) = self.searches(&library, &asked)? else { return Ok(None) };
        let memory_gb_per_s = memory_before.max(roof::measure_read_now(self.cpu));
        let how = (self.cpu.isa, self.cpu.cores);
        let stopped = || self.stop.requested();
        let Some(exact) = directions::nearest(&self.directions, rows, &asked, K, how, &stopped) else {
            return Ok(None);
        };
        scans_ms.sort_by(f64::total_cmp);
        let scan_p50_ms = super::median(scans_ms.clone());
        let scanned_bytes = rows * (dim as u64 + SCANNED_FACTS_BYTES);
        Ok(Some(Report {
            rows,
            dim,
            queries,
            threads,
            k: K,
            ingest_s,
            ingest_rows_per_s: rows as f64 / ingest_s,
            ingest_peak_rss_bytes,
            library_bytes: file_bytes(&path)?,
            segment_bytes: file_bytes(&path.with_extension("haul.seg"))?,
            segment_build_s,
            open_s,
            scan_p50_ms,
            scan_p95_ms: scans_ms[(scans_ms.len() * 95).div_ceil(100) - 1],
            recall_at_10: recall(&found, &exact),
            scanned_bytes,
            scan_gb_per_s: scanned_bytes as f64 / scan_p50_ms / 1e6,
            memory_gb_per_s,
        }))
    }

    /// Writes all documents; the seconds are those of the library alone, not of making what goes into it.
    fn ingest(&self, path: &Path) -> Result<Option<(Library, f64)>, StoreBenchError> {
        let settings = library_settings(self.settings.dim);
        let fingerprint = settings.fingerprint();
        let mut library = Library::create(path, &settings)?;
        let mut seconds = 0.0;
        for first in (0..self.settings.rows).step_by(CHUNKS_PER_DOCUMENT as usize) {
            if self.stop.requested() {
                return Ok(None);
            }
            let numbers = first..(first + CHUNKS_PER_DOCUMENT).min(self.settings.rows);
            let document = document(numbers.clone().map(text), first, &fingerprint);
            let vectors: Vec<Vec<f32>> = numbers.map(|number| self.directions.row(number)).collect();
            let rows: Vec<(VectorKey, &[f32])> = document
                .chunks
                .iter()
                .zip(&vectors)
                .map(|(chunk, vector)| (chunk.vector_key, vector.as_slice()))
                .collect();
            let began = Instant::now();
            library.put_vectors(VectorName::Dense, &rows)?;
            library.commit_documents(std::slice::from_ref(&document))?;
            seconds += began.elapsed().as_secs_f64();
        }
        let began = Instant::now();
        library.empty_log()?;
        Ok(Some((library, seconds + began.elapsed().as_secs_f64())))
    }

    /// Milliseconds of each search, and the numbers of the rows it found.
    #[expect(clippy::type_complexity, reason = "two lists side by side, taken apart at once")]
    fn searches(
        &self,
        library: &Library,
        queries: &[Vec<f32>],
    ) -> Result<Option<(Vec<f64>, Vec<Vec<u64>>)>, StoreBenchError> {
        let filters = Filters::default();
        let ask = |vector: &[f32]| {
            let request = Request {
                text: "",
                vector: Some(vector),
                sparse: None,
                mode: Mode::Dense,
                filters: &filters,
                limit: K,
                parents: Parents::Without,
                min_score: None,
                context: 0,
                threads: self.settings.threads,
            };
            search::search(library, &request)
        };
        for query in queries.iter().cycle().take(WARMING_SEARCHES) {
            ask(query)?;
        }
        let (mut scans_ms, mut found) = (Vec::new(), Vec::new());
        for query in queries {
            if self.stop.requested() {
                return Ok(None);
            }
            let outcome = ask(query)?;
            scans_ms.push(outcome.scan_ms);
            found.push(outcome.hits.iter().map(|hit| number_of(&hit.relative_path, hit.chunk_no)).collect());
        }
        Ok(Some((scans_ms, found)))
    }
}

/// What a scan reads of a row beside its int8 numbers: scale and length of the residual.
const SCANNED_FACTS_BYTES: u64 = 8;

/// Share of the exact rows that were found.
fn recall(found: &[Vec<u64>], exact: &[Vec<u64>]) -> f64 {
    let right: usize = found
        .iter()
        .zip(exact)
        .map(|(found, exact)| exact.iter().filter(|number| found.contains(number)).count())
        .sum();
    right as f64 / exact.iter().map(Vec::len).sum::<usize>() as f64
}

fn library_settings(dim: usize) -> LibrarySettings {
    LibrarySettings {
        model_name: "none, for a benchmark".to_owned(),
        model_sha256: "00".repeat(32),
        dim,
        dtype: "f32".to_owned(),
        pooling: "mean".to_owned(),
        normalize: true,
        max_tokens: 512,
        chunker: "tokens".to_owned(),
        chunk_tokens: 510,
        overlap_sentences: 0,
        query_prompt: String::new(),
        document_prompt: String::new(),
        parser_version: 1,
        chunker_version: 1,
        numerics_version: 1,
        chunkers: Chunkers::default(),
        sparse: false,
    }
}

/// Words of a text: few, so that what is measured is vectors.
const TEXT_WORDS: usize = 12;

/// A text that no other row has.
fn text(number: u64) -> String {
    let mut random = Random::seeded(number);
    (0..TEXT_WORDS).fold(format!("row {number}"), |text, _| text + " " + random.word())
}

/// A document whose name is the number of its first row.
fn document(texts: impl Iterator<Item = String>, first: u64, fingerprint: &Fingerprint) -> DocumentRecord {
    let relative_path = format!("{first}.txt");
    let doc_id = doc_id_for_file("bench", &relative_path, None);
    let mut content_hash = [0; 32];
    content_hash[..8].copy_from_slice(&first.to_le_bytes());
    let revision = revision(&content_hash, fingerprint);
    let mut end = 0;
    let chunks: Vec<ChunkRecord> = (0..)
        .zip(texts)
        .map(|(chunk_no, text)| {
            let start = end;
            end += text.len() as u64;
            ChunkRecord {
                chunk_no,
                point_id: point_id(&doc_id, &revision, chunk_no, &text),
                vector_key: VectorKey::of(&text, fingerprint),
                chapter: 0,
                page: None,
                start,
                end,
                overlap_bytes: 0,
                tokens: TEXT_WORDS as u32 + 2,
                text,
                section_no: None,
            }
        })
        .collect();
    DocumentRecord {
        doc_id,
        collection: "bench".to_owned(),
        root: "/".to_owned(),
        relative_path,
        part: None,
        format: "text".to_owned(),
        size_bytes: end,
        modified_ns: None,
        content_hash,
        revision,
        source: "local".to_owned(),
        source_id: None,
        title: format!("Rows from {first}"),
        authors: vec![],
        language: None,
        detected_language: None,
        metadata: serde_json::json!({}),
        chapters: vec![ChapterRecord { breadcrumb: vec![], href: None }],
        chunks,
        sections: vec![],
        chunker: "tokens".to_owned(),
        truncated_tokens: 0,
        cost: IngestCost::default(),
    }
}

/// The number of the row that is this chunk of the document of this name.
fn number_of(relative_path: &str, chunk_no: u32) -> u64 {
    let first = relative_path.strip_suffix(".txt").and_then(|first| first.parse::<u64>().ok());
    first.expect("documents are named by the number of their first row") + u64::from(chunk_no)
}

fn file_bytes(path: &Path) -> Result<u64, StoreBenchError> {
    let facts =
        path.metadata().map_err(|source| StoreBenchError::Folder { path: path.to_owned(), source })?;
    Ok(facts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use haul_machine::cpu;

    fn settings(folder: &Path, rows: u64) -> Settings {
        Settings { rows, dim: 32, queries: 7, threads: 2, folder: folder.to_owned() }
    }

    fn left_in(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_small_library_is_measured_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cpu = cpu::probe(cpu::Isa::best());
        let stop = Stop::default();
        let report = run(&settings(folder.path(), 2500), &cpu, &stop).unwrap().unwrap();
        assert!(report.recall_at_10 > 0.98, "{report:?}");
        assert!(report.scan_p50_ms <= report.scan_p95_ms && report.scan_p50_ms > 0.0, "{report:?}");
        assert!(report.library_bytes <= library_bytes_at_most(2500, 32), "{report:?}");
        assert!(report.segment_bytes <= segment_bytes_at_most(2500, 32) + 4096, "{report:?}");
        assert!(report.scanned_bytes < report.segment_bytes, "{report:?}");
        assert_eq!(left_in(folder.path()), 0);

        stop.request();
        assert!(run(&settings(folder.path(), 2500), &cpu, &stop).unwrap().is_none());
        assert_eq!(left_in(folder.path()), 0);
    }

    #[test]
    fn too_little_room_is_refused_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let cpu = cpu::probe(cpu::Isa::best());
        let refused = run(&settings(folder.path(), 1 << 50), &cpu, &Stop::default()).unwrap_err();
        assert!(matches!(refused, StoreBenchError::NoRoom { free_bytes: 1.., .. }), "{refused}");
        assert!(refused.hint().is_some());
        assert_eq!(left_in(folder.path()), 0);
    }

    #[test]
    fn recall_is_the_share_of_the_exact_rows() {
        let exact = [vec![1, 2, 3, 4], vec![5, 6, 7, 8]];
        assert!((recall(&[vec![4, 3, 2, 1], vec![5, 6, 9, 10]], &exact) - 0.75).abs() < 1e-12);
    }
}
