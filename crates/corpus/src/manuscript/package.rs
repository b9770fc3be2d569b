//! The parts of an EPUB or a Word file that have prose, and the archive written anew around them.

use std::collections::{HashMap, HashSet};
use std::io::{Cursor, Read, Seek, Write};
use std::sync::Arc;

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::part::PartKind;
use super::{ManuscriptError, ManuscriptFormat};
use crate::archive::Archive;
use crate::limits::Limits;
use crate::{docx, epub};

/// What an EPUB says it is; by the standard its first entry, and stored.
const MIMETYPE: &str = "mimetype";

/// A part with prose.
pub(super) struct Document {
    pub(super) name: String,
    pub(super) kind: PartKind,
    pub(super) bytes: Vec<u8>,
}

/// The parts with prose, in reading order.
pub(super) fn unpack(
    bytes: &Arc<[u8]>,
    format: ManuscriptFormat,
    limits: &Limits,
) -> Result<Vec<Document>, ManuscriptError> {
    let mut archive = Archive::of_bytes(Arc::clone(bytes), limits)?;
    let (names, kind) = match format {
        ManuscriptFormat::Docx => (vec![docx::main_part(&mut archive)?], PartKind::Word),
        _ => (epub::prose(&mut archive)?, PartKind::Xhtml),
    };
    let mut documents = Vec::new();
    let mut seen = HashSet::new();
    for path in names {
        // The spine may spell a name otherwise than the archive does.
        let Some(name) = archive.entry_name(&path).filter(|name| seen.insert(name.clone())) else { continue };
        if let Some(bytes) = archive.read(&path)? {
            documents.push(Document { name, kind, bytes });
        }
    }
    Ok(documents)
}

/// The archive with other contents for some entries; every other entry is copied as it is compressed.
pub(super) fn repack(bytes: &[u8], changed: &HashMap<&str, &[u8]>) -> Result<Vec<u8>, ManuscriptError> {
    let failed = |error: ZipError| ManuscriptError::Archive { why: error.to_string() };
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(failed)?;
    let mut writer = ZipWriter::new(Cursor::new(Vec::with_capacity(bytes.len())));
    writer.set_raw_comment(archive.comment().into()).map_err(failed)?;
    let mimetype = archive.index_for_name(MIMETYPE);
    let others = (0..archive.len()).filter(|&index| Some(index) != mimetype);
    for index in mimetype.into_iter().chain(others) {
        let entry = archive.by_index_raw(index).map_err(failed)?;
        let name = entry.name().map_err(failed)?.into_owned();
        let content = match changed.get(name.as_str()) {
            Some(content) => content,
            None => {
                writer.raw_copy_file(entry).map_err(failed)?;
                continue;
            }
        };
        let options = entry.options().compression_method(CompressionMethod::Deflated);
        drop(entry);
        writer.start_file(name.as_str(), options).map_err(failed)?;
        writer.write_all(content).map_err(|error| failed(ZipError::Io(error)))?;
    }
    let written = writer.finish().map_err(failed)?.into_inner();
    check(&mut archive, &written, changed)?;
    Ok(written)
}

/// Opens the new archive and compares it with the old: the same entries, the changed ones with their new contents.
fn check<R: Read + Seek>(
    old: &mut ZipArchive<R>,
    written: &[u8],
    changed: &HashMap<&str, &[u8]>,
) -> Result<(), ManuscriptError> {
    let failed = |error: ZipError| ManuscriptError::Archive { why: error.to_string() };
    let mut new = ZipArchive::new(Cursor::new(written)).map_err(failed)?;
    for index in 0..old.len() {
        let (name, checksum, size) = {
            let entry = old.by_index_raw(index).map_err(failed)?;
            (entry.name().map_err(failed)?.into_owned(), entry.crc32(), entry.size())
        };
        let is_same = match changed.get(name.as_str()) {
            Some(content) => {
                let mut read = Vec::new();
                let entry = new.by_name(&name).map_err(failed)?;
                entry
                    .take(content.len() as u64 + 1)
                    .read_to_end(&mut read)
                    .map_err(|error| failed(error.into()))?;
                read == *content
            }
            None => {
                let at = new.index_for_name(&name);
                let entry = at.map(|at| new.by_index_raw(at)).transpose().map_err(failed)?;
                entry.is_some_and(|entry| (entry.crc32(), entry.size()) == (checksum, size))
            }
        };
        if !is_same {
            return Err(ManuscriptError::Archive { why: format!("{name} comes out differently") });
        }
    }
    Ok(())
}
