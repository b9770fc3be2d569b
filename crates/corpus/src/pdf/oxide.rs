//! PDFs by `pdf_oxide`, which is part of this program: the reader of machines without pdfium.

use std::path::Path;

use pdf_oxide::PdfDocument;
use pdf_oxide::error::Error;
use pdf_oxide::object::Object;
use pdf_oxide::outline::{Destination, OutlineItem};
use serde_json::json;

use super::{Line, OutlineEntry, Page, Source, TextBudget, authors, clean, refuse_too_many_pages, value};
use crate::limits::{DEPTH_MAX, Limits, PACKAGE_ITEMS_MAX};
use crate::verdict::{ParseFailure, Verdict};

/// Reads text, outline and metadata.
pub(super) fn read(path: &Path, limits: &Limits) -> Result<Source, ParseFailure> {
    let document = PdfDocument::open(path).map_err(|error| damaged(&error))?;
    if document.is_encrypted() && !document.authenticate(b"").map_err(|error| damaged(&error))? {
        return Err(ParseFailure::new(Verdict::Drm, "encrypted: opening it needs a password"));
    }
    let count = document.page_count().map_err(|error| damaged(&error))?;
    refuse_too_many_pages(count, limits)?;
    let mut source = Source::default();
    metadata(&document, &mut source);
    // Chapters are worth less than the text: an outline that cannot be read is none.
    if let Ok(Some(items)) = document.get_outline() {
        outline(&items, 0, &mut source.outline);
    }
    let mut budget = TextBudget::new(limits);
    for (index, number) in (0..count).zip(1..) {
        let page = read_page(&document, index, number);
        let page = page.unwrap_or_else(|error| Page::damaged(number, error.to_string()));
        budget.take(&page.lines)?;
        source.pages.push(page);
    }
    Ok(source)
}

fn read_page(document: &PdfDocument, index: usize, number: u32) -> Result<Page, Error> {
    let text = document.extract_text(index)?;
    let mut page = Page { number, lines: text.lines().map(line).collect(), ..Page::default() };
    if !page.has_text() {
        // The text of content that cannot be decoded is empty, and no error.
        document.get_page_content_data(index)?;
        // A picture that cannot be looked at is one.
        page.images = document.page_image_handles(index).map_or(1, |images| images.len());
    }
    Ok(page)
}

fn line(text: &str) -> Line {
    Line { text: clean(text.chars()), place: None }
}

fn metadata(document: &PdfDocument, source: &mut Source) {
    let load = |object: &Object| match object {
        Object::Reference(at) => document.load_object(*at).ok(),
        other => Some(other.clone()),
    };
    let info = document.trailer().as_dict().and_then(|trailer| trailer.get("Info")).and_then(load);
    let Some(info) = info.as_ref().and_then(Object::as_dict) else { return };
    let tag = |name: &str| {
        let object = info.get(name).and_then(load)?;
        value(&pdf_string(object.as_string()?))
    };
    source.title = tag("Title");
    source.authors = tag("Author").as_deref().map(authors).unwrap_or_default();
    for (name, key) in [("subject", "Subject"), ("keywords", "Keywords"), ("created", "CreationDate")] {
        if let Some(text) = tag(key) {
            source.metadata.push((name, json!(text)));
        }
    }
}

/// Strings of PDF are UTF-16 or UTF-8 with a mark, else nearly windows-1252 (ISO 32000-2, 7.9.2.2).
fn pdf_string(bytes: &[u8]) -> String {
    let (encoding, rest) = encoding_rs::Encoding::for_bom(bytes)
        .map_or((encoding_rs::WINDOWS_1252, bytes), |(encoding, mark)| (encoding, &bytes[mark..]));
    encoding.decode_without_bom_handling(rest).0.into_owned()
}

/// Recursion is bounded by `DEPTH_MAX`.
fn outline(items: &[OutlineItem], depth: usize, entries: &mut Vec<OutlineEntry>) {
    for item in items {
        if entries.len() >= PACKAGE_ITEMS_MAX || depth > DEPTH_MAX {
            return;
        }
        if let Some(title) = value(&item.title) {
            let page = match &item.dest {
                Some(Destination::PageIndex(index)) => u32::try_from(index + 1).ok(),
                _ => None,
            };
            entries.push(OutlineEntry { depth, title, page, top: None });
        }
        outline(&item.children, depth + 1, entries);
    }
}

fn damaged(error: &Error) -> ParseFailure {
    match error {
        Error::Io(error) => ParseFailure::new(Verdict::Failed, format!("cannot read the file: {error}")),
        other => ParseFailure::new(Verdict::Corrupt, format!("damaged: {other}")),
    }
}
