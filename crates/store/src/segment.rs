//! `X.haul.seg`: a mapped copy of a library's vectors for fast exact scans. It may be deleted at any time.
//!
//! Layout, little-endian, sections aligned to 64 bytes:
//! ```text
//! header                256 bytes   identity, sizes, checksums
//! chunk ids             rows x i64
//! scales                rows x f32  row of length 1 = scale x codes + residual
//! residual lengths      rows x f32
//! inverse lengths       rows x f32  of the f16 rows
//! codes                 rows x dim x i8
//! halves                rows x dim x f16
//! ```
//! A segment names the generation it was made from. Chunks that came later (`chunk_id` above its last) are read
//! from SQLite, chunks that went are masked, and when either grows beyond a tenth it is made again: to a
//! temporary file, renamed into place, never changed after.
#![expect(unsafe_code, reason = "a file is mapped in one function")]

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
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
use crate::library::{Library, folder_of, with_suffix};
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
            Self::Vector { .. } => Some("`haul store verify` lists what is damaged"),
            Self::Io { .. } => None,
        }
    }
}

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
            codes: self.section(&self.layout.codes),
            halves: self.section(&self.layout.halves),
        }
    }

    fn section<T: FromBytes + Immutable>(&self, range: &Range<usize>) -> &[T] {
        <[T]>::ref_from_bytes(&self.map[range.clone()])
            .expect("sections are aligned to 64 bytes and whole rows")
    }

    fn row_fault(&self) -> Option<String> {
        let sum = |range: &Range<usize>| *blake3::hash(&self.map[range.clone()]).as_bytes();
        if sum(&self.layout.codes) != self.header.codes_sum {
            Some("the checksum of its int8 rows is wrong".to_owned())
        } else if sum(&self.layout.halves) != self.header.halves_sum {
            Some("the checksum of its f16 rows is wrong".to_owned())
        } else {
            None
        }
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
    let segment = match open(&segment_path(library)) {
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

fn segment_path(library: &Library) -> PathBuf {
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
const VERSION: u32 = 1;
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
    /// blake3 of chunk ids, scales, residuals and inverse lengths, in this order.
    facts_sum: [u8; 32],
    codes_sum: [u8; 32],
    halves_sum: [u8; 32],
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
    codes: Range<usize>,
    halves: Range<usize>,
    file_bytes: usize,
}

impl Layout {
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
        let codes = section(rows * dim);
        let halves = section(rows * dim * size_of::<f16>());
        Self { chunk_ids, scales, residuals, inverse_norms, codes, halves, file_bytes: end }
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
    for section in [&layout.chunk_ids, &layout.scales, &layout.residuals, &layout.inverse_norms] {
        facts.update(&map[section.clone()]);
    }
    if header.facts_sum != *facts.finalize().as_bytes() {
        return Err(unusable("the checksum of its row facts is wrong"));
    }
    Ok(Segment { map, header, layout })
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
    let path = segment_path(library);
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
        halves_sum: sums.halves,
        header_sum: [0; 32],
    };
    header.header_sum = header.sum();
    file.write_all(header.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error)
}

/// In the order of `vectors`, which is read from end to end; a vector of many chunks gives many rows.
fn copy_rows(library: &Library, db: &Connection, writer: &mut RowWriter) -> Result<(), SegmentError> {
    let sql_error = |source| library.read_error("copying vectors into the segment", source);
    let mut statement = db
        .prepare("SELECT c.chunk_id, v.row FROM vectors v CROSS JOIN chunks c ON c.vector_id = v.vector_id")
        .map_err(sql_error)?;
    let mut rows = statement.query([]).map_err(sql_error)?;
    while let Some(row) = rows.next().map_err(sql_error)? {
        let chunk_id = row.get(0).map_err(sql_error)?;
        let bytes = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(sql_error)?;
        let halves = usable_row(bytes, library.settings.dim).map_err(|what| SegmentError::Vector {
            path: library.path.clone(),
            chunk_id,
            what,
        })?;
        writer
            .push(chunk_id, bytes, &halves)
            .map_err(|source| SegmentError::Io { path: segment_path(library), source })?;
    }
    Ok(())
}

/// The numbers of a stored row, if it is one a search can score.
pub(crate) fn usable_row(bytes: &[u8], dim: usize) -> Result<Vec<f16>, String> {
    if bytes.len() != dim * size_of::<f16>() {
        return Err(format!("{} bytes, wanted {}", bytes.len(), dim * size_of::<f16>()));
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
    codes: SectionWriter,
    halves: SectionWriter,
    small: File,
    row_codes: Vec<i8>,
    chunk_ids: Vec<i64>,
    scales: Vec<f32>,
    residuals: Vec<f32>,
    inverse_norms: Vec<f32>,
}

struct Sums {
    facts: [u8; 32],
    codes: [u8; 32],
    halves: [u8; 32],
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
            codes: SectionWriter::new(at(&layout.codes)?),
            halves: SectionWriter::new(at(&layout.halves)?),
            small: at(&layout.chunk_ids)?,
            row_codes: Vec::new(),
            chunk_ids: Vec::with_capacity(rows),
            scales: Vec::with_capacity(rows),
            residuals: Vec::with_capacity(rows),
            inverse_norms: Vec::with_capacity(rows),
        })
    }

    fn push(&mut self, chunk_id: i64, bytes: &[u8], halves: &[f16]) -> std::io::Result<()> {
        self.row_codes.resize(halves.len(), 0);
        let inverse_norm = dense::inverse_norm(halves);
        let (scale, residual) = dense::quantise(halves, inverse_norm, &mut self.row_codes);
        self.chunk_ids.push(chunk_id);
        self.scales.push(scale);
        self.residuals.push(residual);
        self.inverse_norms.push(inverse_norm);
        self.codes.write(self.row_codes.as_bytes())?;
        self.halves.write(bytes)
    }

    fn finish(mut self) -> std::io::Result<Sums> {
        let sections: [(&Range<usize>, &[u8]); 4] = [
            (&self.layout.chunk_ids, self.chunk_ids.as_bytes()),
            (&self.layout.scales, self.scales.as_bytes()),
            (&self.layout.residuals, self.residuals.as_bytes()),
            (&self.layout.inverse_norms, self.inverse_norms.as_bytes()),
        ];
        let mut facts = blake3::Hasher::new();
        for (range, bytes) in sections {
            self.small.seek(SeekFrom::Start(range.start as u64))?;
            self.small.write_all(bytes)?;
            facts.update(bytes);
        }
        let facts = *facts.finalize().as_bytes();
        Ok(Sums { facts, codes: self.codes.finish()?, halves: self.halves.finish()? })
    }
}

struct SectionWriter {
    file: BufWriter<File>,
    sum: blake3::Hasher,
}

/// Bytes of a section gathered before they are written.
const SECTION_BUFFER_BYTES: usize = 1 << 20;

impl SectionWriter {
    fn new(file: File) -> Self {
        Self { file: BufWriter::with_capacity(SECTION_BUFFER_BYTES, file), sum: blake3::Hasher::new() }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.sum.update(bytes);
        self.file.write_all(bytes)
    }

    fn finish(mut self) -> std::io::Result<[u8; 32]> {
        self.file.flush()?;
        Ok(*self.sum.finalize().as_bytes())
    }
}
