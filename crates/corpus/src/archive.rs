//! A zip archive, read under limits that no declared size can lift.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::sync::Arc;

use zip::ZipArchive;
use zip::read::{ZipFile, read_zipfile_from_stream};
use zip::result::ZipError;

use crate::limits::Limits;
use crate::parse::unreadable;
use crate::verdict::{ParseFailure, Verdict};

const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
const END_OF_DIRECTORY: &[u8] = b"PK\x05\x06";
/// The end record is 22 bytes, with a comment of up to 65,535 bytes after it.
const END_OF_DIRECTORY_BYTES_MAX: u64 = 22 + 65_535;
/// Where the end record counts the entries.
const ENTRY_COUNT_AT: usize = 10;
/// An archive without its directory is scanned whole up to this size.
const SCANNED_BYTES_MAX: u64 = 256 << 20;

/// An open archive.
pub(crate) struct Archive {
    entries: Entries,
    /// Names as paths are looked up: exact first, then without regard to case.
    by_name: HashMap<String, usize>,
    by_folded_name: HashMap<String, usize>,
    /// Entries that are no folders, those of one name each.
    files: usize,
    limits: Limits,
    file_bytes: u64,
    /// Bytes inflated so far.
    inflated_bytes: u64,
}

enum Entries {
    Listed(Box<ZipArchive<BufReader<File>>>),
    InMemory(Box<ZipArchive<Cursor<Arc<[u8]>>>>),
    /// The directory is broken: offsets of the local headers found by scanning.
    Scanned {
        file: BufReader<File>,
        offsets: Vec<u64>,
    },
}

impl Archive {
    /// Opens an archive, by scanning for its entries where its directory is broken.
    pub(crate) fn open(mut file: File, limits: &Limits) -> Result<Archive, ParseFailure> {
        let file_bytes = file.metadata().map_err(unreadable)?.len();
        let declared = declared_entries(&mut file, file_bytes)?;
        refuse_too_many(u64::from(declared), limits)?;
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let copy = file.try_clone().map_err(unreadable)?;
        let (names, entries) = match ZipArchive::new(BufReader::new(file)) {
            Ok(archive) => (listed_names(&archive, limits)?, Entries::Listed(Box::new(archive))),
            Err(error) => scan(copy, file_bytes, limits)?.ok_or_else(|| damaged("the archive", &error))?,
        };
        let listed = names.len();
        let mut archive = Archive::of_entries(names, entries, file_bytes, limits);
        if matches!(archive.entries, Entries::Listed(_)) && declared < u16::MAX {
            // Of entries with one name the directory's reader keeps the last.
            archive.files += usize::from(declared).saturating_sub(listed);
        }
        Ok(archive)
    }

    /// Opens an archive that is to be written again, of which every entry must be listed once.
    pub(crate) fn of_bytes(bytes: Arc<[u8]>, limits: &Limits) -> Result<Archive, ParseFailure> {
        let file_bytes = bytes.len() as u64;
        let declared = declared_entries(&mut Cursor::new(&*bytes), file_bytes)?;
        refuse_too_many(u64::from(declared), limits)?;
        let archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| damaged("the archive", &error))?;
        let names = listed_names(&archive, limits)?;
        if names.len() < usize::from(declared) && declared < u16::MAX {
            let why =
                format!("of {declared} entries of the archive only {} have names of their own", names.len());
            return Err(ParseFailure::new(Verdict::Corrupt, why));
        }
        Ok(Archive::of_entries(names, Entries::InMemory(Box::new(archive)), file_bytes, limits))
    }

    fn of_entries(names: Vec<String>, entries: Entries, file_bytes: u64, limits: &Limits) -> Archive {
        let mut by_name = HashMap::new();
        let mut by_folded_name = HashMap::new();
        let files = names.iter().filter(|name| is_file(name)).count();
        for (index, name) in names.into_iter().enumerate() {
            let name = name.replace('\\', "/");
            by_folded_name.entry(name.to_lowercase()).or_insert(index);
            by_name.entry(name).or_insert(index);
        }
        let limits = limits.clone();
        Archive { entries, by_name, by_folded_name, files, limits, file_bytes, inflated_bytes: 0 }
    }

    /// The directory of the archive is broken.
    pub(crate) fn is_damaged(&self) -> bool {
        matches!(self.entries, Entries::Scanned { .. })
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.index_of(path).is_some()
    }

    /// The names of all entries that are no folders, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.by_name.keys().filter(|name| is_file(name)).cloned().collect();
        names.sort();
        names
    }

    /// Entries that are no folders, also those that have one name.
    pub(crate) fn files(&self) -> usize {
        self.files
    }

    /// The first entry, by name, whose name ends so.
    pub(crate) fn find_by_suffix(&self, suffix: &str) -> Option<String> {
        self.by_name.keys().filter(|name| name.to_lowercase().ends_with(suffix)).min().cloned()
    }

    /// The content of an entry; none where the archive has no such entry.
    pub(crate) fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, ParseFailure> {
        let Some(index) = self.index_of(path) else { return Ok(None) };
        let budget = Budget {
            path,
            file_bytes: self.file_bytes,
            left_bytes: self.limits.archive_bytes.saturating_sub(self.inflated_bytes),
            limits: &self.limits,
        };
        let bytes = match &mut self.entries {
            Entries::Listed(archive) => {
                let entry = archive.by_index(index).map_err(|error| damaged(path, &error))?;
                inflate(entry, &budget)?
            }
            Entries::InMemory(archive) => {
                let entry = archive.by_index(index).map_err(|error| damaged(path, &error))?;
                inflate(entry, &budget)?
            }
            Entries::Scanned { file, offsets } => {
                file.seek(SeekFrom::Start(offsets[index])).map_err(unreadable)?;
                // Without the directory, an entry whose header leaves its size to a later record is lost.
                let lost = |error| ParseFailure::new(Verdict::Corrupt, format!("{path} is damaged: {error}"));
                let Some(entry) = read_zipfile_from_stream(file).map_err(lost)? else { return Ok(None) };
                inflate(entry, &budget)?
            }
        };
        self.inflated_bytes += bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// The name of an entry as the archive has it; none where it is not listed.
    pub(crate) fn entry_name(&self, path: &str) -> Option<String> {
        let index = self.index_of(path)?;
        let name = match &self.entries {
            Entries::Listed(archive) => archive.name_for_index(index),
            Entries::InMemory(archive) => archive.name_for_index(index),
            Entries::Scanned { .. } => None,
        };
        name?.ok().map(|name| name.into_owned())
    }

    fn index_of(&self, path: &str) -> Option<usize> {
        let folded = || self.by_folded_name.get(&path.to_lowercase());
        self.by_name.get(path).or_else(folded).copied()
    }
}

fn is_file(name: &str) -> bool {
    !name.is_empty() && !name.ends_with(['/', '\\'])
}

/// What one entry may inflate to.
struct Budget<'a> {
    path: &'a str,
    file_bytes: u64,
    left_bytes: u64,
    limits: &'a Limits,
}

fn inflate<R: Read>(mut entry: ZipFile<'_, R>, budget: &Budget<'_>) -> Result<Vec<u8>, ParseFailure> {
    let limits = budget.limits;
    // The declared size cannot be trusted to be small, only not to be larger than the file.
    let compressed = entry.compressed_size().min(budget.file_bytes);
    let by_ratio = limits.ratio_from_bytes.max(compressed.saturating_mul(limits.entry_ratio));
    let limit = by_ratio.min(limits.entry_bytes).min(budget.left_bytes);
    let mut bytes = Vec::new();
    let read = entry.by_ref().take(limit + 1).read_to_end(&mut bytes);
    if bytes.len() as u64 > limit {
        let why = match limit {
            _ if limit == budget.left_bytes => {
                format!("the archive inflates to more than {} bytes", limits.archive_bytes)
            }
            _ if limit == limits.entry_bytes => {
                format!("{} inflates to more than {limit} bytes", budget.path)
            }
            _ => format!(
                "{} inflates from {compressed} bytes to more than {limit}, over {} to 1",
                budget.path, limits.entry_ratio
            ),
        };
        return Err(ParseFailure::new(Verdict::TooLarge, why));
    }
    read.map_err(|error| damaged(budget.path, &ZipError::Io(error)))?;
    Ok(bytes)
}

/// The names of a directory that is within the limits.
fn listed_names<R: Read + Seek>(
    archive: &ZipArchive<R>,
    limits: &Limits,
) -> Result<Vec<String>, ParseFailure> {
    refuse_too_many(archive.len() as u64, limits)?;
    refuse_declared_size(archive, limits)?;
    let names = (0..archive.len()).map(|index| match archive.name_for_index(index) {
        Some(Ok(name)) => name.into_owned(),
        _ => String::new(),
    });
    Ok(names.collect())
}

fn refuse_too_many(entries: u64, limits: &Limits) -> Result<(), ParseFailure> {
    if entries <= limits.archive_entries {
        return Ok(());
    }
    let why = format!("an archive of {entries} entries, more than {}", limits.archive_entries);
    Err(ParseFailure::new(Verdict::TooLarge, why))
}

/// Declared sizes are believed where they are against the file.
fn refuse_declared_size<R: Read + Seek>(
    archive: &ZipArchive<R>,
    limits: &Limits,
) -> Result<(), ParseFailure> {
    match archive.decompressed_size() {
        Some(bytes) if bytes > u128::from(limits.archive_bytes) => {
            let why = format!("an archive of {bytes} bytes inflated, more than {}", limits.archive_bytes);
            Err(ParseFailure::new(Verdict::TooLarge, why))
        }
        _ => Ok(()),
    }
}

/// The number of entries by the end record, read before a directory of any size is loaded; 0 without one.
fn declared_entries<R: Read + Seek>(file: &mut R, file_bytes: u64) -> Result<u16, ParseFailure> {
    let tail_bytes = file_bytes.min(END_OF_DIRECTORY_BYTES_MAX);
    file.seek(SeekFrom::Start(file_bytes - tail_bytes)).map_err(unreadable)?;
    let mut tail = Vec::new();
    file.take(tail_bytes).read_to_end(&mut tail).map_err(unreadable)?;
    let at = tail.windows(END_OF_DIRECTORY.len()).rposition(|window| window == END_OF_DIRECTORY);
    let count = at.and_then(|at| tail.get(at + ENTRY_COUNT_AT..at + ENTRY_COUNT_AT + 2));
    Ok(count.map_or(0, |count| u16::from_le_bytes([count[0], count[1]])))
}

/// Finds entries by their local headers, as repair tools do; none if there are none.
fn scan(
    mut file: File,
    file_bytes: u64,
    limits: &Limits,
) -> Result<Option<(Vec<String>, Entries)>, ParseFailure> {
    if file_bytes > SCANNED_BYTES_MAX {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.by_ref().take(SCANNED_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    let mut names = Vec::new();
    let mut offsets = Vec::new();
    let mut from = 0;
    while let Some(at) = find(&bytes[from..], LOCAL_HEADER) {
        let header = from + at;
        from = header + LOCAL_HEADER.len();
        if let Some(name) = local_name(&bytes[header..]) {
            names.push(name);
            offsets.push(header as u64);
            refuse_too_many(offsets.len() as u64, limits)?;
        }
    }
    let entries = Entries::Scanned { file: BufReader::new(file), offsets };
    Ok((!names.is_empty()).then_some((names, entries)))
}

/// The name in a local header: its length is at 26, its bytes are at 30.
fn local_name(header: &[u8]) -> Option<String> {
    let length = header.get(26..28)?;
    let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
    let name = header.get(30..30 + length)?;
    String::from_utf8(name.to_vec()).ok().filter(|name| !name.is_empty())
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

fn damaged(what: &str, error: &ZipError) -> ParseFailure {
    match error {
        ZipError::InvalidPassword | ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => {
            ParseFailure::new(Verdict::Drm, format!("{what} is encrypted with a password"))
        }
        ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_) => {
            ParseFailure::new(Verdict::Unsupported, format!("{what}: {error}"))
        }
        ZipError::Io(inner) if inner.kind() == io::ErrorKind::Unsupported => {
            ParseFailure::new(Verdict::Unsupported, format!("{what}: {inner}"))
        }
        _ => ParseFailure::new(Verdict::Corrupt, format!("{what} is damaged: {error}")),
    }
}
