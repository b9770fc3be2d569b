//! What is particular to PDFs in an ingest: which reader they go through is part of their revision, and pages that
//! have no text are told.
//!
//! One reader may see another text in a file than another, so a library must not hold both without anybody
//! knowing: with another reader (or another build of pdfium, or recognition of pictures) a PDF is another
//! revision and is read again. Vectors of the chunks that stayed the same are reused. The reader is known by the
//! end of the content hash, so that an unchanged file need not be opened to see who read it.

use std::io;
use std::path::PathBuf;

use haul_corpus::document::Format;
use haul_corpus::readers::Pdfium;
use haul_store::library::DocumentRecord;

use super::{Inputs, select};
use crate::parsed::page_notes;

/// Hexadecimal digits that tell one build of pdfium from another.
const BUILD_DIGITS: usize = 12;

/// A pdfium library, told from others by the hash of its file.
///
/// # Errors
/// When the file cannot be read.
pub fn identify(library: PathBuf) -> io::Result<Pdfium> {
    let hash = select::hash_file(&library)?;
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Pdfium { library, build: digits[..BUILD_DIGITS].to_owned() })
}

impl Inputs {
    /// Whether any of the files is to be read as this format.
    #[must_use]
    pub fn has(&self, format: Format) -> bool {
        self.listing.files.iter().any(|file| file.format == Some(format))
    }
}

/// What is said of a document whose pages are not all text, or could not all be read.
pub(super) fn notes(record: &DocumentRecord) -> Vec<String> {
    // Of a book in Calibre, what the file says stands below what Calibre knows.
    let own = record.metadata.pointer("/file/metadata").unwrap_or(&record.metadata);
    page_notes(own)
}
