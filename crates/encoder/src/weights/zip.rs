//! The directory of a zip archive of uncompressed entries, as torch writes it.
//!
//! Strict: everything has one place, so that no two readers see different archives in the same bytes. The directory
//! ends the file but for its end record; entries are stored, whole, and apart from each other.

use std::ops::Range;

/// What an archive begins with: the header of its first entry.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";
/// A state dict has one entry a tensor and a few more.
const ENTRIES_MAX: u64 = 2 * super::TENSORS_MAX as u64;

const END_SIGNATURE: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const END64_LOCATOR_SIGNATURE: &[u8] = b"PK\x06\x07";
const END64_LOCATOR_BYTES: usize = 20;
const END64_SIGNATURE: &[u8] = b"PK\x06\x06";
const END64_BYTES: usize = 56;
const ENTRY_SIGNATURE: &[u8] = b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;
const ENCRYPTED_FLAG: u16 = 1;
const STORED: u16 = 0;
/// Extra field with the sizes and the offset that do not fit 32 bits.
const ZIP64_FIELD: u16 = 1;

/// One stored entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it stands in the directory.
    pub(super) name: String,
    /// Its data in the file.
    pub(super) bytes: Range<usize>,
}

/// Why an archive has no entries.
#[derive(Debug)]
pub(super) struct Fault {
    /// The entry that is at fault, if it is one.
    pub(super) entry: Option<String>,
    pub(super) why: &'static str,
}

/// The entries of an archive, in the order of the directory. Their names are distinct and their data lies apart.
pub(super) fn entries(file: &[u8]) -> Result<Vec<Entry>, Fault> {
    let Directory { count, bytes } = directory(file)?;
    let end = bytes.end;
    let mut at = bytes.start;
    let mut entries = vec![];
    let mut spans = vec![];
    for _ in 0..count {
        let (listed, next) = listed_entry(&file[..end], at)?;
        at = next;
        let start = listed.local_header as usize;
        let entry = located(&file[..bytes.start], listed)?;
        spans.push((start, entry.bytes.end));
        entries.push(entry);
    }
    if at != end {
        return Err(fault("the directory is longer than its entries"));
    }
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(fault("entries overlap"));
    }
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(fault_of(pair[0], "it stands there twice")),
        None => Ok(entries),
    }
}

struct Directory {
    count: u64,
    bytes: Range<usize>,
}

fn directory(file: &[u8]) -> Result<Directory, Fault> {
    let cut = || fault("no end of the directory where the file ends; it is cut short or has a comment");
    let end_at = file.len().checked_sub(END_BYTES).ok_or_else(cut)?;
    let end = &file[end_at..];
    if !end.starts_with(END_SIGNATURE) || u16_at(end, 20) != 0 {
        return Err(cut());
    }
    let mut count = u64::from(u16_at(end, 10));
    let (mut size, mut start) = (u64::from(u32_at(end, 12)), u64::from(u32_at(end, 16)));
    let mut must_end_at = end_at;
    let locator_at = end_at.checked_sub(END64_LOCATOR_BYTES);
    if let Some(at) = locator_at.filter(|&at| file[at..].starts_with(END64_LOCATOR_SIGNATURE)) {
        let record_at = usize::try_from(u64_at(&file[at..], 8)).ok();
        let wanted_at = at.checked_sub(END64_BYTES).filter(|&wanted| record_at == Some(wanted));
        let record_at = wanted_at.ok_or_else(|| fault("the zip64 end record is not before its locator"))?;
        let record = &file[record_at..at];
        if !record.starts_with(END64_SIGNATURE) {
            return Err(fault("the zip64 end record has no signature"));
        }
        (count, size, start) = (u64_at(record, 32), u64_at(record, 40), u64_at(record, 48));
        must_end_at = record_at;
    }
    if count > ENTRIES_MAX {
        return Err(fault("it claims more entries than any model has"));
    }
    if start.checked_add(size) != Some(must_end_at as u64) {
        return Err(fault("the directory does not end where its end record begins"));
    }
    Ok(Directory { count, bytes: start as usize..must_end_at })
}

/// What the directory says of an entry.
struct Listed {
    name: String,
    size: u64,
    local_header: u64,
}

/// The entry at `at`, and where the next one begins. `file` ends with the directory.
fn listed_entry(file: &[u8], at: usize) -> Result<(Listed, usize), Fault> {
    let cut = || fault("the directory is cut short");
    let head = file.get(at..at + ENTRY_BYTES).ok_or_else(cut)?;
    if !head.starts_with(ENTRY_SIGNATURE) {
        return Err(fault("an entry of the directory has no signature"));
    }
    let [name_bytes, extra_bytes, comment_bytes] = [28, 30, 32].map(|field| usize::from(u16_at(head, field)));
    let name_at = at + ENTRY_BYTES;
    let next = name_at + name_bytes + extra_bytes + comment_bytes;
    let variable = file.get(name_at..next).ok_or_else(cut)?;
    let name = std::str::from_utf8(&variable[..name_bytes])
        .map_err(|_| fault("an entry's name is not UTF-8"))?
        .to_owned();
    if u16_at(head, 8) & ENCRYPTED_FLAG != 0 {
        return Err(fault_of(&name, "it is encrypted"));
    }
    if u16_at(head, 10) != STORED {
        return Err(fault_of(&name, "it is compressed; torch stores"));
    }
    let mut fields = [24, 20, 42].map(|field| u64::from(u32_at(head, field)));
    if fields.contains(&u64::from(u32::MAX)) {
        fields = zip64_fields(fields, &variable[name_bytes..name_bytes + extra_bytes])
            .ok_or_else(|| fault_of(&name, "its zip64 field is missing or too short"))?;
    }
    let [size, packed_size, local_header] = fields;
    if size != packed_size {
        return Err(fault_of(&name, "it has two sizes, though it is stored"));
    }
    Ok((Listed { name, size, local_header }, next))
}

/// Size, packed size and offset, each from the zip64 field where the 32 bits are full.
fn zip64_fields(mut fields: [u64; 3], extra: &[u8]) -> Option<[u64; 3]> {
    let mut rest = extra;
    let mut values = loop {
        let (head, after) = rest.split_at_checked(4)?;
        let (data, next) = after.split_at_checked(usize::from(u16_at(head, 2)))?;
        if u16_at(head, 0) == ZIP64_FIELD {
            break data;
        }
        rest = next;
    };
    for field in fields.iter_mut().filter(|field| **field == u64::from(u32::MAX)) {
        let (value, next) = values.split_first_chunk::<8>()?;
        *field = u64::from_le_bytes(*value);
        values = next;
    }
    Some(fields)
}

/// Finds an entry's data behind its own header. `file` ends where the directory begins.
fn located(file: &[u8], listed: Listed) -> Result<Entry, Fault> {
    let Listed { name, size, local_header } = listed;
    let beyond = || fault_of(&name, "it lies beyond the file");
    let header = usize::try_from(local_header).ok().and_then(|at| file.get(at..)).ok_or_else(beyond)?;
    let head = header.get(..LOCAL_BYTES).ok_or_else(beyond)?;
    if !head.starts_with(MAGIC) {
        return Err(fault_of(&name, "its own header has no signature"));
    }
    let [name_bytes, extra_bytes] = [26, 28].map(|field| usize::from(u16_at(head, field)));
    if header.get(LOCAL_BYTES..LOCAL_BYTES + name_bytes) != Some(name.as_bytes()) {
        return Err(fault_of(&name, "its own header has another name"));
    }
    let start = local_header + (LOCAL_BYTES + name_bytes + extra_bytes) as u64;
    match start.checked_add(size) {
        Some(end) if end <= file.len() as u64 => Ok(Entry { name, bytes: start as usize..end as usize }),
        _ => Err(beyond()),
    }
}

fn fault(why: &'static str) -> Fault {
    Fault { entry: None, why }
}

fn fault_of(entry: &str, why: &'static str) -> Fault {
    Fault { entry: Some(entry.into()), why }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
