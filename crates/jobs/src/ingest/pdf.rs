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
use haul_corpus::pdf::{
    NOT_RECOGNISED_WHY, PAGES, PAGES_DAMAGED, PAGES_NOT_RECOGNISED, PAGES_RECOGNISED, PAGES_WITHOUT_TEXT,
};
use haul_corpus::readers::{Pdfium, Readers};
use haul_store::library::DocumentRecord;
use serde_json::Value;

use super::{Inputs, select};

/// Hexadecimal digits that tell one build of pdfium from another.
const BUILD_DIGITS: usize = 12;
/// Of the content hash of a PDF, so much is the file's.
const FILE_HASH_BYTES: usize = 24;

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

/// The content hash of a file: of a PDF, its last bytes say which readers read it.
pub(super) fn content_hash(format: Format, mut file_hash: [u8; 32], readers: &Readers) -> [u8; 32] {
    if format == Format::Pdf {
        file_hash[FILE_HASH_BYTES..].copy_from_slice(&reader_hash(readers));
    }
    file_hash
}

/// Whether a file of the library was read by these readers. One that could not be opened has no hash.
pub(super) fn is_read_by(format: Option<Format>, content_hash: &[u8; 32], readers: &Readers) -> bool {
    format != Some(Format::Pdf)
        || content_hash[FILE_HASH_BYTES..] == reader_hash(readers)
        || *content_hash == [0; 32]
}

fn reader_hash(readers: &Readers) -> [u8; 32 - FILE_HASH_BYTES] {
    let hash = blake3::hash(readers.pdf_identity().as_bytes());
    std::array::from_fn(|index| hash.as_bytes()[index])
}

/// What is said of a document whose pages are not all text, or could not all be read.
pub(super) fn notes(record: &DocumentRecord) -> Vec<String> {
    // Of a book in Calibre, what the file says stands below what Calibre knows.
    let own = record.metadata.pointer("/file/metadata").unwrap_or(&record.metadata);
    page_notes(own)
}

fn page_notes(own: &Value) -> Vec<String> {
    let number = |key| own.get(key).and_then(Value::as_u64);
    let of = number(PAGES).map_or_else(String::new, |pages| format!(" of {pages}"));
    let of_pages = |key, one: &str, several: &str| {
        let numbers = own.get(key).and_then(Value::as_array)?;
        let numbers: Vec<u64> = numbers.iter().filter_map(Value::as_u64).collect();
        Some(match numbers.as_slice() {
            [page] => format!("page {page}{of} {one}"),
            pages => format!("pages {}{of} {several}", ranges(pages)),
        })
    };
    let mut notes = Vec::new();
    notes.extend(of_pages(
        PAGES_DAMAGED,
        "is damaged and could not be read",
        "are damaged and could not be read",
    ));
    notes.extend(of_pages(PAGES_WITHOUT_TEXT, "has no text and needs OCR", "have no text and need OCR"));
    let not_recognised = "could not be recognised";
    notes.extend(of_pages(PAGES_NOT_RECOGNISED, not_recognised, not_recognised).map(|says| {
        match own.get(NOT_RECOGNISED_WHY).and_then(Value::as_str) {
            Some(why) => format!("{says} ({why})"),
            None => says,
        }
    }));
    match number(PAGES_RECOGNISED) {
        Some(1) => notes.push("1 page is recognised from a picture".to_owned()),
        Some(pages) => notes.push(format!("{pages} pages are recognised from pictures")),
        None => {}
    }
    notes
}

/// Numbers in order as `3-5, 9`.
fn ranges(numbers: &[u64]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let shown = runs.map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        _ => run.iter().map(u64::to_string).collect(),
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_that_are_not_text_are_told() {
        // Damaged pages were a count in the metadata that nothing showed: they left the text without a word.
        let own = json!({PAGES: 200, PAGES_DAMAGED: [3, 4, 5]});
        assert_eq!(page_notes(&own), ["pages 3-5 of 200 are damaged and could not be read"]);
        let own = json!({
            PAGES: 9, PAGES_DAMAGED: [2], PAGES_WITHOUT_TEXT: [4, 6], PAGES_NOT_RECOGNISED: [6],
            NOT_RECOGNISED_WHY: "page 6: tesseract: signal: 9", PAGES_RECOGNISED: 1,
        });
        let says = [
            "page 2 of 9 is damaged and could not be read",
            "pages 4, 6 of 9 have no text and need OCR",
            "page 6 of 9 could not be recognised (page 6: tesseract: signal: 9)",
            "1 page is recognised from a picture",
        ];
        assert_eq!(page_notes(&own), says);
    }

    #[test]
    fn runs_of_pages_are_ranges() {
        assert_eq!(ranges(&[3, 4, 5, 9, 11, 12]), "3-5, 9, 11-12");
    }
}
