//! Reads one file into documents. Runs inside a worker process: a hostile file may end it.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::document::{Document, Format};
use crate::limits::Limits;
use crate::readers::Setup;
use crate::verdict::{ParseFailure, Verdict};
use crate::{
    docx, encoding, epub, html, json_lines, language, mail, markdown, pdf, picture, sniff, text, workbook,
};

/// Changes when the same file gives other documents; part of the pipeline fingerprint.
pub const VERSION: u32 = 4;

/// One document of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parsed {
    /// Which document of the file: the `id` of a JSONL line, or `line 2` where line 2 has none or cannot be
    /// read (an id that itself reads so becomes `id line 2`); none where a file is one document.
    pub part: Option<String>,
    /// The document, or why there is none.
    pub document: Result<Document, ParseFailure>,
}

/// What a reader has to say while it reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A document is read.
    Document(Box<Parsed>),
    /// A page was recognised; the limits of time count from here again, for a page takes seconds and there is no
    /// saying from the size of a file how many there are.
    PageRecognised,
}

/// Reads the file at `path` as `format` and hands each of its documents to `emit`, in order, as it is read; a
/// `Break` from `emit` ends the reading. An error says why the file as a whole, or the rest of it, was not
/// read.
pub fn parse(
    path: &Path,
    format: Format,
    setup: &Setup,
    emit: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<(), ParseFailure> {
    let limits = &setup.limits;
    let mut file = open(path)?;
    sniff::check(&mut file, format)?;
    if format == Format::JsonLines {
        return json_lines::read(file, limits, emit);
    }
    let mut document = match format {
        Format::Epub => epub::read(file, limits)?,
        Format::Docx => docx::read(file, limits)?,
        Format::Xlsx => workbook::read(file, limits)?,
        Format::Msg => mail::read(file, limits)?,
        Format::Picture => picture::read(path, setup)?,
        Format::Pdf => pdf::read(path, setup, &mut || emit(Event::PageRecognised))?,
        Format::Html => html::document(encoding::decode_markup(read_bytes(&mut file, limits)?), limits)?,
        Format::Markdown => markdown::document(encoding::decode(read_bytes(&mut file, limits)?)),
        Format::Text | Format::JsonLines => text::document(encoding::decode(read_bytes(&mut file, limits)?)),
    };
    if document.text.trim().is_empty() {
        return Err(without_text(&document));
    }
    document.detected_language = language::detect(&document.text);
    // A `Break` after the last document has nothing left to end.
    match emit(Event::Document(Box::new(Parsed { part: None, document: Ok(document) }))) {
        ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(()),
    }
}

/// Opens a regular file; anything else, such as a pipe, could block for ever.
pub(crate) fn open(path: &Path) -> Result<File, ParseFailure> {
    let failed = |error| ParseFailure::new(Verdict::Failed, format!("cannot open the file: {error}"));
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(ParseFailure::new(Verdict::Unsupported, "not a regular file"));
    }
    if metadata.len() == 0 {
        return Err(ParseFailure::new(Verdict::Empty, "zero bytes"));
    }
    File::open(path).map_err(failed)
}

fn read_bytes(file: &mut File, limits: &Limits) -> Result<Vec<u8>, ParseFailure> {
    let mut bytes = Vec::new();
    file.take(limits.text_bytes + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limits.text_bytes {
        let why = format!("a text file of more than {} bytes", limits.text_bytes);
        return Err(ParseFailure::new(Verdict::TooLarge, why));
    }
    Ok(bytes)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err calls")]
pub(crate) fn unreadable(error: std::io::Error) -> ParseFailure {
    ParseFailure::new(Verdict::Failed, format!("cannot read the file: {error}"))
}

fn without_text(document: &Document) -> ParseFailure {
    match document.furniture.images {
        0 => ParseFailure::new(Verdict::Empty, "no text"),
        images => ParseFailure::new(Verdict::NeedsOcr, format!("no text, but {images} images")),
    }
}
