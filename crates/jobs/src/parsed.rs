//! Documents as they were read before, by the content of their files, for every job that reads files; and what they lack.

use haul_corpus::document::{Document, Format};
use haul_corpus::parse;
use haul_corpus::pdf::{
    NOT_RECOGNISED_WHY, PAGES, PAGES_DAMAGED, PAGES_NOT_RECOGNISED, PAGES_RECOGNISED, PAGES_WITHOUT_TEXT,
};
use haul_corpus::readers::Readers;
use haul_pipeline::cache::{Cache, CacheKey};
use serde_json::Value;
use tracing::warn;

/// Of the content hash of a PDF, so much is the file's.
const FILE_HASH_BYTES: usize = 24;

/// The content hash of a file: of one that another reader reads otherwise, its last bytes say which readers read it.
pub(crate) fn content_hash(format: Format, mut file_hash: [u8; 32], readers: &Readers) -> [u8; 32] {
    if depends_on_readers(format) {
        file_hash[FILE_HASH_BYTES..].copy_from_slice(&reader_hash(readers));
    }
    file_hash
}

/// Whether a file of the library was read by these readers. One that could not be opened has no hash.
pub(crate) fn is_read_by(format: Option<Format>, content_hash: &[u8; 32], readers: &Readers) -> bool {
    !format.is_some_and(depends_on_readers)
        || content_hash[FILE_HASH_BYTES..] == reader_hash(readers)
        || *content_hash == [0; 32]
}

fn depends_on_readers(format: Format) -> bool {
    matches!(format, Format::Pdf | Format::Picture)
}

fn reader_hash(readers: &Readers) -> [u8; 32 - FILE_HASH_BYTES] {
    let hash = blake3::hash(readers.pdf_identity().as_bytes());
    std::array::from_fn(|index| hash.as_bytes()[index])
}

/// Where the document of a file with this content is kept.
pub(crate) fn key(format: Format, content_hash: &[u8; 32]) -> CacheKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"parsed document|");
    hasher.update(&parse::VERSION.to_le_bytes());
    hasher.update(format.name().as_bytes());
    hasher.update(content_hash);
    hasher.finalize()
}

/// The document kept under a key.
pub(crate) fn get(cache: &Cache, key: &CacheKey) -> Option<Document> {
    let bytes = cache.get(key)?;
    // An entry that does not decode was written by another build; the file is read again.
    let document: Option<Document> = serde_json::from_slice(&bytes).ok();
    document.filter(|document| document.check().is_ok())
}

/// Keeps a document. `shown` is what the file is called in the log.
pub(crate) fn put(cache: &Cache, key: &CacheKey, shown: &str, document: &Document) {
    match serde_json::to_vec(document) {
        Ok(bytes) => cache.put(key, &bytes),
        Err(error) => warn!(%error, "{shown} cannot be kept in the cache"),
    }
}

/// What is said of a document whose pages are not all text, or could not all be read, by its own metadata.
#[must_use]
pub(crate) fn page_notes(own: &Value) -> Vec<String> {
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
