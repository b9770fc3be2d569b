//! `X.haul.seg`: a mapped copy of a library's vectors for fast exact scans. It may be deleted at any time.
//!
//! Layout, little-endian, sections aligned to 64 bytes:
//! ```text
//! header                256 bytes   identity, sizes, checksums
//! chunk ids             rows x i64
//! scales                rows x f32  row of length 1 = scale x codes + residual
//! residual lengths      rows x f32
//! inverse lengths       rows x f32  of the f16 rows
//! row checks            rows x i64  of the f16 rows, as the library has them
//! codes                 rows x dim x u8   code + 128; a row is filled up to whole words of four
//! halves                rows x dim x f16
//! ```
//! Nothing of it is believed unchecked. When a file is mapped, the checksums of header, facts (all sections but the two
//! last) and codes are compared, which reads what a first scan reads; a row of halves is compared with its check
//! whenever it decides about a hit, so the largest section is never read as a whole. A row gets in only if its numbers
//! are those that were stored and its chunk's text is the one they were made from.
//!
//! A segment names the generation it was made from. Chunks that came later (`chunk_id` above its last) are read
//! from SQLite, chunks that went are masked, and when either grows beyond a tenth it is made again: to a
//! temporary file, renamed into place, never changed after.
#![expect(unsafe_code, reason = "a file is mapped in one function")]

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use memmap2::Mmap;
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use uuid::Uuid;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::dense::{self, Rows};
use crate::ids::VectorKey;
use crate::library::{Library, folder_of, with_suffix};
use crate::payload::check_of;
use crate::read::ReadError;

#[cfg(target_endian = "big")]
compile_error!("segments are mapped as they stand, little-endian");

/// What stands beside a library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// No file.
    Absent,
    /// A file that a search will not use, and why.
    Unusable {
        /// What is wrong with it.
        why: String,
    },
    /// A file that a search uses.
    Usable {
        /// Rows in it.
        rows: u64,
        /// Chunks that came after it, at most.
        newer_rows: u64,
        /// Chunks that went after it, at most.
        removed_rows: u64,
    },
}

/// What [`refresh`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// It was still good.
    Kept,
    /// It was made again.
    Rebuilt,
    /// There is nothing to copy: the library has no chunks.
    Empty,
}

/// Makes the segment again if it is absent, unusable, or behind by more than a tenth of its rows or
/// `REBUILD_ROWS`. A search does this by itself; a job that has changed a library calls it at its end, so that
/// the first search need not.
///
/// # Errors
/// The library cannot be read, or the segment not be written.
pub fn refresh(library: &Library) -> Result<Refreshed, SegmentError> {
    match load(library)? {
        Loaded::Empty => Ok(Refreshed::Empty),
        Loaded::Usable { segment, behind } if !worth_rebuilding(&segment, behind) => Ok(Refreshed::Kept),
        _ => build(library).map(|_| Refreshed::Rebuilt),
    }
}

/// What stands beside the library now.
///
/// # Errors
/// The library cannot be read.
pub fn state(library: &Library) -> Result<State, ReadError> {
    Ok(match load(library)? {
        Loaded::Empty | Loaded::Absent => State::Absent,
        Loaded::Unusable(why) => State::Unusable { why },
        Loaded::Usable { segment, behind } => State::Usable {
            rows: segment.header.rows,
            newer_rows: behind.newer_rows,
            removed_rows: behind.removed_rows,
        },
    })
}

/// Why no segment was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The library cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A vector in the library is damaged.
    #[error("{path}: vector of chunk row {chunk_id}: {what}", path = .path.display())]
    Vector {
        /// The library.
        path: PathBuf,
        /// Row of the chunk.
        chunk_id: i64,
        /// What is wrong with it.
        what: String,
    },
    /// Chunks of the library cannot be found.
    #[error("{path}: {copied} chunks have a vector, its manifest counts {promised}", path = .path.display())]
    Chunks {
        /// The library.
        path: PathBuf,
        /// Chunks found.
        copied: u64,
        /// Chunks there should be.
        promised: u64,
    },
    /// The file cannot be written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The segment.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl SegmentError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read(error) => error.hint(),
            Self::Vector { .. } | Self::Chunks { .. } => Some(VERIFY_HINT),
            Self::Io { .. } => None,
        }
    }
}

/// After damage in the library's own file.
pub(crate) const VERIFY_HINT: &str =
    "`haul store verify` lists what is damaged; restore a backup, or ingest again into a new library";

/// What a search scans.
pub(crate) enum Source {
    /// A segment, made just now or before.
    Segment { segment: Arc<Segment>, rebuilt: bool },
    /// SQLite, because no segment could be made, or there is nothing in one.
    Sqlite { why: Option<String> },
}

/// The segment to search with, made anew where that is due. The caller begins its read transaction after this:
/// then the segment is never newer than what the transaction sees.
pub(crate) fn for_search(library: &Library) -> Result<Source, SegmentError> {
    let usable = match load(library)? {
        Loaded::Empty => return Ok(Source::Sqlite { why: None }),
        Loaded::Usable { segment, behind } if !worth_rebuilding(&segment, behind) => {
            return Ok(Source::Segment { segment, rebuilt: false });
        }
        Loaded::Usable { segment, .. } => Some(segment),
        Loaded::Absent | Loaded::Unusable(_) => None,
    };
    match (build(library), usable) {
        (Ok(segment), _) => Ok(Source::Segment { segment, rebuilt: true }),
        (Err(SegmentError::Io { .. }), Some(segment)) => Ok(Source::Segment { segment, rebuilt: false }),
        (Err(error @ SegmentError::Io { .. }), None) => Ok(Source::Sqlite { why: Some(error.to_string()) }),
        (Err(error), _) => Err(error),
    }
}

/// Another segment in the place of one that is damaged.
pub(crate) fn made_again(library: &Library) -> Result<Source, SegmentError> {
    library.segment.replace(None);
    match build(library) {
        Ok(segment) => Ok(Source::Segment { segment, rebuilt: true }),
        Err(error @ SegmentError::Io { .. }) => Ok(Source::Sqlite { why: Some(error.to_string()) }),
        Err(error) => Err(error),
    }
}

/// What is wrong with the segment, every byte of it read; `None` for a sound one or none.
pub(crate) fn fault(library: &Library) -> Result<Option<String>, ReadError> {
    Ok(match load(library)? {
        Loaded::Empty | Loaded::Absent => None,
        Loaded::Unusable(why) => Some(why),
        Loaded::Usable { segment, .. } => segment.row_fault(),
    })
}

/// A mapped segment.
#[derive(Debug)]
pub(crate) struct Segment {
    map: Mmap,
    header: Header,
    layout: Layout,
}

impl Segment {
    pub(crate) fn last_chunk_id(&self) -> i64 {
        self.header.last_chunk_id
    }

    /// Whether chunks of it may have gone since.
    pub(crate) fn has_removed_rows(&self, db: &Connection) -> rusqlite::Result<bool> {
        Ok(descent(db)?.removed_chunks > self.header.removed_chunks)
    }

    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows {
            dim: self.header.dim as usize,
            chunk_ids: self.section(&self.layout.chunk_ids),
            scales: self.section(&self.layout.scales),
            residuals: self.section(&self.layout.residuals),
            inverse_norms: self.section(&self.layout.inverse_norms),
            row_checks: self.section(&self.layout.row_checks),
            codes: self.section(&self.layout.codes),
            halves: self.section(&self.layout.halves),
        }
    }

    fn section<T: FromBytes + Immutable>(&self, range: &Range<usize>) -> &[T] {
        <[T]>::ref_from_bytes(&self.map[range.clone()])
            .expect("sections are aligned to 64 bytes and whole rows")
    }

    fn row_fault(&self) -> Option<String> {
        let rows = self.rows();
        let damaged =
            rows.chunk_ids.len() - (0..rows.chunk_ids.len()).filter(|row| rows.is_whole(*row)).count();
        (damaged > 0).then(|| format!("{damaged} of its f16 rows are not those that were stored"))
    }
}

/// A segment behind by more rows than this is made again.
const REBUILD_ROWS: u64 = 10_000;

/// A segment behind by more than one row in this many is made again.
const REBUILD_SHARE: u64 = 10;

fn worth_rebuilding(segment: &Segment, behind: Behind) -> bool {
    let rows = behind.newer_rows + behind.removed_rows;
    rows > REBUILD_ROWS || rows * REBUILD_SHARE > segment.header.rows
}

/// How far a segment is behind its library: upper bounds.
#[derive(Clone, Copy)]
struct Behind {
    newer_rows: u64,
    removed_rows: u64,
}

enum Loaded {
    /// The library has no chunks.
    Empty,
    Absent,
    Unusable(String),
    Usable {
        segment: Arc<Segment>,
        behind: Behind,
    },
}

/// The segment this handle has mapped, if it still holds; else the file's.
fn load(library: &Library) -> Result<Loaded, ReadError> {
    let error = |source| library.read_error("comparing the segment", source);
    if last_chunk_id(&library.db).map_err(error)?.is_none() {
        return Ok(Loaded::Empty);
    }
    let mapped = library.segment.borrow().clone();
    if let Some(segment) = mapped
        && let Ok(behind) = compare(library, &segment).map_err(error)?
        && !worth_rebuilding(&segment, behind)
    {
        return Ok(Loaded::Usable { segment, behind });
    }
    let segment = match open(&path_of(library)) {
        Ok(segment) => Arc::new(segment),
        Err(Unopened::Absent) => return Ok(Loaded::Absent),
        Err(Unopened::Unusable(why)) => return Ok(Loaded::Unusable(why)),
    };
    Ok(match compare(library, &segment).map_err(error)? {
        Ok(behind) => {
            library.segment.replace(Some(Arc::clone(&segment)));
            Loaded::Usable { segment, behind }
        }
        Err(why) => Loaded::Unusable(why.to_owned()),
    })
}

/// How far `segment` is behind, or why it is not one of this library.
fn compare(library: &Library, segment: &Segment) -> rusqlite::Result<Result<Behind, &'static str>> {
    let header = &segment.header;
    if header.library != library.uuid.into_bytes() {
        return Ok(Err("it belongs to another library"));
    }
    if header.fingerprint != library.settings.fingerprint().0 || header.dim as usize != library.settings.dim {
        return Ok(Err("it was made with other settings"));
    }
    let stamp: Option<[u8; 16]> = library
        .db
        .prepare_cached("SELECT stamp FROM generations WHERE generation = ?1")?
        .query_row([header.generation], |row| row.get(0))
        .optional()?;
    if stamp != Some(header.stamp) {
        return Ok(Err("it was made from a state that is not in this library's past"));
    }
    let last = last_chunk_id(&library.db)?.unwrap_or(0);
    Ok(Ok(Behind {
        newer_rows: (last - header.last_chunk_id).max(0).unsigned_abs(),
        removed_rows: descent(&library.db)?.removed_chunks - header.removed_chunks,
    }))
}

/// The segment's file.
pub(crate) fn path_of(library: &Library) -> PathBuf {
    with_suffix(&library.path, ".seg")
}

fn last_chunk_id(db: &Connection) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT max(chunk_id) FROM chunks")?.query_row([], |row| row.get(0))
}

/// The newest generation.
struct Descent {
    generation: u64,
    stamp: [u8; 16],
    removed_chunks: u64,
}

fn descent(db: &Connection) -> rusqlite::Result<Descent> {
    db.prepare_cached(
        "SELECT generation, stamp, removed_chunks FROM generations ORDER BY generation DESC LIMIT 1",
    )?
    .query_row([], |row| {
        Ok(Descent { generation: row.get(0)?, stamp: row.get(1)?, removed_chunks: row.get(2)? })
    })
}

const MAGIC: [u8; 8] = *b"HAUL-SEG";
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 256;
const ALIGNMENT_BYTES: usize = 64;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: u32,
    dim: u32,
    rows: u64,
    library: [u8; 16],
    fingerprint: [u8; 32],
    generation: u64,
    stamp: [u8; 16],
    last_chunk_id: i64,
    removed_chunks: u64,
    /// blake3 of chunk ids, scales, residuals, inverse lengths and row checks, in this order.
    facts_sum: [u8; 32],
    /// blake3 of the blake3 of each block of codes.
    codes_sum: [u8; 32],
    /// blake3 of all of the above.
    header_sum: [u8; 32],
}

const HEADER_SUM_AT: usize = size_of::<Header>() - 32;

impl Header {
    fn sum(&self) -> [u8; 32] {
        *blake3::hash(&self.as_bytes()[..HEADER_SUM_AT]).as_bytes()
    }
}

/// Bytes of each section.
#[derive(Debug)]
struct Layout {
    chunk_ids: Range<usize>,
    scales: Range<usize>,
    residuals: Range<usize>,
    inverse_norms: Range<usize>,
    row_checks: Range<usize>,
    codes: Range<usize>,
    halves: Range<usize>,
    file_bytes: usize,
}

impl Layout {
    /// Sections that are summed together.
    fn facts(&self) -> [&Range<usize>; 5] {
        [&self.chunk_ids, &self.scales, &self.residuals, &self.inverse_norms, &self.row_checks]
    }

    fn of(rows: usize, dim: usize) -> Self {
        let mut end = HEADER_BYTES;
        let mut section = |bytes: usize| {
            let start = end.next_multiple_of(ALIGNMENT_BYTES);
            end = start + bytes;
            start..end
        };
        let chunk_ids = section(rows * size_of::<i64>());
        let scales = section(rows * size_of::<f32>());
        let residuals = section(rows * size_of::<f32>());
        let inverse_norms = section(rows * size_of::<f32>());
        let row_checks = section(rows * size_of::<i64>());
        let codes = section(rows * dense::code_bytes(dim));
        let halves = section(rows * dim * size_of::<f16>());
        Self { chunk_ids, scales, residuals, inverse_norms, row_checks, codes, halves, file_bytes: end }
    }
}

enum Unopened {
    Absent,
    Unusable(String),
}

fn open(path: &Path) -> Result<Segment, Unopened> {
    let unusable = |why: &str| Unopened::Unusable(why.to_owned());
    let map = match map(path) {
        Ok(map) => map,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Unopened::Absent),
        Err(error) => return Err(Unopened::Unusable(error.to_string())),
    };
    let (header, _) = Header::read_from_prefix(&map).map_err(|_| unusable("it is too short for a header"))?;
    if header.magic != MAGIC {
        return Err(unusable("it is not a segment"));
    }
    if header.version != VERSION {
        return Err(unusable("it has another version"));
    }
    if header.header_sum != header.sum() {
        return Err(unusable("the checksum of its header is wrong"));
    }
    let layout = Layout::of(header.rows as usize, header.dim as usize);
    if map.len() != layout.file_bytes {
        return Err(unusable("it does not have the length its header says"));
    }
    let mut facts = blake3::Hasher::new();
    for section in layout.facts() {
        facts.update(&map[section.clone()]);
    }
    if header.facts_sum != *facts.finalize().as_bytes() {
        return Err(unusable("the checksum of its row facts is wrong"));
    }
    if header.codes_sum != sum_of_blocks(&map[layout.codes.clone()]) {
        return Err(unusable("the checksum of its int8 rows is wrong"));
    }
    Ok(Segment { map, header, layout })
}

/// Bytes of codes that are summed together.
const BLOCK_BYTES: usize = 4 << 20;

/// Threads that sum a mapped file: more than what memory can feed is of no use.
const SUM_THREADS_MAX: usize = 8;

/// blake3 of the blake3 of each block, by several threads.
fn sum_of_blocks(bytes: &[u8]) -> [u8; 32] {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(SUM_THREADS_MAX);
    let blocks = bytes.len().div_ceil(BLOCK_BYTES);
    let share = blocks.div_ceil(threads).max(1) * BLOCK_BYTES;
    let hash = |part: &[u8]| -> Vec<[u8; 32]> {
        part.chunks(BLOCK_BYTES).map(|block| *blake3::hash(block).as_bytes()).collect()
    };
    let sums: Vec<[u8; 32]> = std::thread::scope(|scope| {
        let parts: Vec<_> = bytes.chunks(share).map(|part| scope.spawn(move || hash(part))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("a sum does not panic")).collect()
    });
    *blake3::hash(sums.as_flattened()).as_bytes()
}

fn map(path: &Path) -> std::io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: a segment is written under a temporary name, renamed into place and never changed or truncated
    // after (`write_file`), so the bytes under this mapping stay. That another program cuts the file is
    // outside of what can be checked here, as for every mapped file.
    unsafe { Mmap::map(&file) }
}

/// Copies the vectors of every chunk into a new segment and maps it.
fn build(library: &Library) -> Result<Arc<Segment>, SegmentError> {
    let path = path_of(library);
    let io_error = |source| SegmentError::Io { path: path.clone(), source };
    remove_leftovers(&path).map_err(io_error)?;
    let draft = with_suffix(&path, &format!("{DRAFT}{}", Uuid::new_v4()));
    let written = write_draft(library, &draft);
    let renamed = written.and_then(|()| std::fs::rename(&draft, &path).map_err(io_error));
    if let Err(error) = renamed {
        if std::fs::remove_file(&draft).is_err() {
            // It was not made, or the next build removes it as a leftover.
        }
        return Err(error);
    }
    let segment = open(&path).map_err(|unopened| match unopened {
        Unopened::Absent => io_error(std::io::ErrorKind::NotFound.into()),
        Unopened::Unusable(why) => io_error(std::io::Error::other(why)),
    })?;
    let segment = Arc::new(segment);
    library.segment.replace(Some(Arc::clone(&segment)));
    Ok(segment)
}

/// Between the segment's name and a random one.
const DRAFT: &str = ".draft-";

/// Drafts of builds that were killed: nobody holds their lock.
fn remove_leftovers(path: &Path) -> std::io::Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    let prefix = format!("{}{DRAFT}", name.to_string_lossy());
    for entry in std::fs::read_dir(folder_of(path))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix)
            && let Ok(draft) = File::open(entry.path())
            && draft.try_lock().is_ok()
        {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write_draft(library: &Library, draft: &Path) -> Result<(), SegmentError> {
    let io_error = |source| SegmentError::Io { path: draft.into(), source };
    let sql_error = |source| library.read_error("copying vectors into the segment", source);
    let mut file = OpenOptions::new().write(true).create_new(true).open(draft).map_err(io_error)?;
    file.lock().map_err(io_error)?;
    let snapshot = library.db.unchecked_transaction().map_err(sql_error)?;
    let rows = snapshot
        .query_row("SELECT count(*) FROM chunks", [], |row| row.get::<_, usize>(0))
        .map_err(sql_error)?;
    let dim = library.settings.dim;
    let layout = Layout::of(rows, dim);
    let mut writer = RowWriter::new(draft, &layout, rows).map_err(io_error)?;
    copy_rows(library, &snapshot, &mut writer)?;
    let newest = descent(&snapshot).map_err(sql_error)?;
    let last_chunk_id = last_chunk_id(&snapshot).map_err(sql_error)?.unwrap_or(0);
    let sums = writer.finish().map_err(io_error)?;
    let mut header = Header {
        magic: MAGIC,
        version: VERSION,
        dim: dim as u32,
        rows: rows as u64,
        library: library.uuid.into_bytes(),
        fingerprint: library.settings.fingerprint().0,
        generation: newest.generation,
        stamp: newest.stamp,
        last_chunk_id,
        removed_chunks: newest.removed_chunks,
        facts_sum: sums.facts,
        codes_sum: sums.codes,
        header_sum: [0; 32],
    };
    header.header_sum = header.sum();
    file.write_all(header.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error)
}

/// In the order of `vectors`, which is read from end to end; a vector of many chunks gives many rows.
fn copy_rows(library: &Library, db: &Connection, writer: &mut RowWriter) -> Result<(), SegmentError> {
    let sql_error = |source| library.read_error("copying vectors into the segment", source);
    let fingerprint = library.settings.fingerprint();
    let mut statement = db
        .prepare(
            "SELECT c.chunk_id, v.row, v.row_check, v.key, c.text
            FROM vectors v CROSS JOIN chunks c ON c.vector_id = v.vector_id",
        )
        .map_err(sql_error)?;
    let mut rows = statement.query([]).map_err(sql_error)?;
    let mut copied = 0_u64;
    while let Some(row) = rows.next().map_err(sql_error)? {
        let (chunk_id, row_check) = (row.get(0).map_err(sql_error)?, row.get(2).map_err(sql_error)?);
        let bytes = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(sql_error)?;
        let text = row.get_ref(4).and_then(|value| Ok(value.as_str()?)).map_err(sql_error)?;
        let is_of_text = VectorKey(row.get(3).map_err(sql_error)?) == VectorKey::of(text, &fingerprint);
        let halves = usable_row(bytes, row_check, library.settings.dim)
            .and_then(
                |halves| if is_of_text { Ok(halves) } else { Err("it is that of another text".to_owned()) },
            )
            .map_err(|what| SegmentError::Vector { path: library.path.clone(), chunk_id, what })?;
        writer
            .push(chunk_id, (bytes, row_check), &halves)
            .map_err(|source| SegmentError::Io { path: path_of(library), source })?;
        copied += 1;
    }
    let promised = promised_chunks(db).map_err(sql_error)?;
    if copied != promised {
        return Err(SegmentError::Chunks { path: library.path.clone(), copied, promised });
    }
    Ok(())
}

/// Chunks by the manifest, which is written apart from them: no index of theirs can hide one.
fn promised_chunks(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT coalesce(sum(chunks), 0) FROM manifest", [], |row| row.get(0))
}

/// The numbers of a stored row, if it is one a search can score.
pub(crate) fn usable_row(bytes: &[u8], row_check: i64, dim: usize) -> Result<Vec<f16>, String> {
    if bytes.len() != dim * size_of::<f16>() {
        return Err(format!("{} bytes, wanted {}", bytes.len(), dim * size_of::<f16>()));
    }
    if row_check != check_of(blake3::hash(bytes).as_bytes()) {
        return Err("its numbers are not those that were stored".to_owned());
    }
    let halves = dense::decode_row(bytes);
    if !dense::is_direction(&halves) {
        return Err("a number is not finite, or all are zero".to_owned());
    }
    Ok(halves)
}

/// Writes the two large sections side by side and keeps the small ones until the end.
struct RowWriter<'a> {
    layout: &'a Layout,
    codes: BlockWriter,
    halves: BufWriter<File>,
    small: File,
    row_codes: Vec<u8>,
    chunk_ids: Vec<i64>,
    scales: Vec<f32>,
    residuals: Vec<f32>,
    inverse_norms: Vec<f32>,
    row_checks: Vec<i64>,
}

struct Sums {
    facts: [u8; 32],
    codes: [u8; 32],
}

impl<'a> RowWriter<'a> {
    fn new(draft: &Path, layout: &'a Layout, rows: usize) -> std::io::Result<Self> {
        let at = |range: &Range<usize>| -> std::io::Result<File> {
            let mut file = OpenOptions::new().write(true).open(draft)?;
            file.seek(SeekFrom::Start(range.start as u64))?;
            Ok(file)
        };
        Ok(Self {
            layout,
            codes: BlockWriter::new(at(&layout.codes)?),
            halves: BufWriter::with_capacity(SECTION_BUFFER_BYTES, at(&layout.halves)?),
            small: at(&layout.chunk_ids)?,
            row_codes: Vec::new(),
            chunk_ids: Vec::with_capacity(rows),
            scales: Vec::with_capacity(rows),
            residuals: Vec::with_capacity(rows),
            inverse_norms: Vec::with_capacity(rows),
            row_checks: Vec::with_capacity(rows),
        })
    }

    fn push(&mut self, chunk_id: i64, (bytes, check): (&[u8], i64), halves: &[f16]) -> std::io::Result<()> {
        self.row_codes.resize(dense::code_bytes(halves.len()), 0);
        let inverse_norm = dense::inverse_norm(halves);
        let (scale, residual) = dense::quantise(halves, inverse_norm, &mut self.row_codes);
        self.chunk_ids.push(chunk_id);
        self.scales.push(scale);
        self.residuals.push(residual);
        self.inverse_norms.push(inverse_norm);
        self.row_checks.push(check);
        self.codes.write(&self.row_codes)?;
        self.halves.write_all(bytes)
    }

    fn finish(mut self) -> std::io::Result<Sums> {
        let sections: [&[u8]; 5] = [
            self.chunk_ids.as_bytes(),
            self.scales.as_bytes(),
            self.residuals.as_bytes(),
            self.inverse_norms.as_bytes(),
            self.row_checks.as_bytes(),
        ];
        let mut facts = blake3::Hasher::new();
        for (range, bytes) in self.layout.facts().into_iter().zip(sections) {
            self.small.seek(SeekFrom::Start(range.start as u64))?;
            self.small.write_all(bytes)?;
            facts.update(bytes);
        }
        let facts = *facts.finalize().as_bytes();
        self.halves.flush()?;
        Ok(Sums { facts, codes: self.codes.finish()? })
    }
}

/// Bytes of a section gathered before they are written.
const SECTION_BUFFER_BYTES: usize = 1 << 20;

/// Writes and sums blocks as [`sum_of_blocks`] reads them.
struct BlockWriter {
    file: File,
    block: Vec<u8>,
    sums: Vec<[u8; 32]>,
}

impl BlockWriter {
    fn new(file: File) -> Self {
        Self { file, block: Vec::with_capacity(BLOCK_BYTES), sums: Vec::new() }
    }

    fn write(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            if self.block.len() == BLOCK_BYTES {
                self.write_block()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn write_block(&mut self) -> std::io::Result<()> {
        self.sums.push(*blake3::hash(&self.block).as_bytes());
        self.file.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<[u8; 32]> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        Ok(*blake3::hash(self.sums.as_flattened()).as_bytes())
    }
}
