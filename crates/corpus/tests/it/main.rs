//! Tests of haul-corpus through its public API, on files built here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod containers;
mod epub;
mod files;
mod manuscript;
mod office;
mod pdf;
mod source;
mod worker;

use std::ops::ControlFlow;
use std::path::Path;

use haul_corpus::document::{Document, Format};
use haul_corpus::limits::Limits;
use haul_corpus::parse::{Event, Parsed, parse};
use haul_corpus::readers::Setup;
use haul_corpus::verdict::{ParseFailure, Verdict};

/// All documents of a file, read in this process.
fn parse_all(path: &Path, format: Format, limits: &Limits) -> Result<Vec<Parsed>, ParseFailure> {
    let mut documents = Vec::new();
    parse(path, format, &Setup::built_in(limits), &mut |event| {
        if let Event::Document(parsed) = event {
            documents.push(*parsed);
        }
        ControlFlow::Continue(())
    })?;
    for document in documents.iter().filter_map(|parsed| parsed.document.as_ref().ok()) {
        assert_eq!(document.check(), Ok(()));
    }
    Ok(documents)
}

/// The one document of a file with this content.
fn parse_bytes(bytes: &[u8], format: Format, limits: &Limits) -> Result<Document, ParseFailure> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut documents = parse_all(file.path(), format, limits)?;
    assert_eq!(documents.len(), 1);
    documents.remove(0).document
}

/// The verdict on a file that must have no text, with its reason for the eye of who reads a failed test.
fn verdict_on(bytes: &[u8], format: Format, limits: &Limits) -> (Verdict, String) {
    let failure = parse_bytes(bytes, format, limits).expect_err("no text");
    (failure.verdict, failure.why)
}

/// Each chapter as its breadcrumb and its words.
fn outline(document: &Document) -> Vec<(String, String)> {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let chapters = document.chapters.iter();
    chapters.map(|c| (c.breadcrumb.join(" > "), words(&document.text[c.start..c.end]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect()
}
