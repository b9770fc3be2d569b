//! A picture of a page, by the recognition that reads pages of scans.

use std::path::Path;

use crate::chapters;
use crate::document::{BlockKind, Document, PageStart};
use crate::parse::unreadable;
use crate::pdf::recognise;
use crate::readers::Setup;
use crate::verdict::{ParseFailure, Verdict};

/// Reads what is written in the picture; without recognition, it is one more picture without text.
pub(crate) fn read(path: &Path, setup: &Setup) -> Result<Document, ParseFailure> {
    let Some(ocr) = &setup.readers.ocr else {
        return Err(ParseFailure::new(Verdict::NeedsOcr, "a picture; --ocr reads it"));
    };
    let size_bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if size_bytes > setup.limits.entry_bytes {
        let why = format!("a picture of {size_bytes} bytes, more than {}", setup.limits.entry_bytes);
        return Err(ParseFailure::new(Verdict::TooLarge, why));
    }
    let text = recognise::of_image(ocr, &[&std::fs::read(path).map_err(unreadable)?])?;
    let mut document = Document::default();
    document.pages.push(PageStart { number: 1, start: 0 });
    let lines = text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    for paragraph in lines.split("\n\n").map(str::trim) {
        document.push(paragraph, BlockKind::Paragraph);
    }
    if document.text.is_empty() {
        return Err(ParseFailure::new(Verdict::Empty, "a picture in which no text is recognised"));
    }
    chapters::partition(&mut document, Vec::new());
    Ok(document)
}
