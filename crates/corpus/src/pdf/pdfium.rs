//! PDFs by pdfium, a library of this machine that is bound at run time.

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;
use std::sync::OnceLock;

use pdfium_render::prelude::{
    PdfBitmapFormat, PdfBookmark, PdfDestinationViewSettings, PdfDocument, PdfDocumentMetadataTagType,
    PdfPage, PdfPageObjectType, PdfPageObjectsCommon, PdfPageRenderRotation, PdfPageTextChar,
    PdfRenderConfig, Pdfium, PdfiumError, PdfiumInternalError,
};
use serde_json::json;

use super::columns::{self, Row, Segment};
use super::{
    Line, OutlineEntry, Page, Place, Source, TextBudget, authors, clean, refuse_too_many_pages, value,
};
use crate::limits::{DEPTH_MAX, Limits, PACKAGE_ITEMS_MAX};
use crate::verdict::{ParseFailure, Verdict};

/// A gap in a line that is wider than so many heights of it may be the gutter of columns.
const GAP_HEIGHTS: f32 = 0.8;
/// pdfium's mark for a hyphen at the end of a line where the word goes on; the line break after it is left out.
const LINE_HYPHENS: [u32; 2] = [0x02, 0xfffe];
/// Enough for letters of 6 points.
const PIXELS_PER_POINT: f32 = 300.0 / 72.0;
/// Longer sides are rendered coarser.
const SIDE_PIXELS_MAX: f32 = 6_000.0;

/// A document is closed and opened again after so many bytes of its file, by the average of its pages.
const KEPT_BYTES_MAX: i64 = 64 << 20;
/// Opening reads the table of all objects, so it is not done for every page.
const PAGES_PER_OPENING_MIN: i32 = 16;

static PDFIUM: OnceLock<Pdfium> = OnceLock::new();

/// Binds the library; a second call finds it bound.
pub(super) fn load(library: &Path) -> Result<(), String> {
    if PDFIUM.get().is_some() {
        return Ok(());
    }
    let bindings = Pdfium::bind_to_library(library).map_err(|error| match error {
        // Its source names the symbol that is missing.
        PdfiumError::LoadLibraryError(error) => match error.source() {
            Some(source) => format!("cannot be used as pdfium: {source}"),
            None => format!("cannot be used as pdfium: {error}"),
        },
        other => format!("cannot be used as pdfium: {other:?}"),
    })?;
    PDFIUM.get_or_init(|| Pdfium::new(bindings));
    Ok(())
}

/// Opens a file, which stays on disk: pdfium reads what it needs of it.
pub(super) fn open(path: &Path) -> Result<PdfDocument<'static>, ParseFailure> {
    let Some(pdfium) = PDFIUM.get() else {
        return Err(ParseFailure::new(Verdict::Failed, "pdfium is not loaded"));
    };
    pdfium.load_pdf_from_file(path, None).map_err(|error| match error {
        PdfiumError::PdfiumLibraryInternalError(
            PdfiumInternalError::PasswordError | PdfiumInternalError::SecurityError,
        ) => ParseFailure::new(Verdict::Drm, "encrypted: opening it needs a password"),
        PdfiumError::PdfiumLibraryInternalError(PdfiumInternalError::FileError) | PdfiumError::IoError(_) => {
            ParseFailure::new(Verdict::Failed, format!("pdfium cannot read the file: {error:?}"))
        }
        _ => ParseFailure::new(Verdict::Corrupt, "damaged: pdfium finds no document in it"),
    })
}

/// Reads text, outline and metadata.
pub(super) fn read(path: &Path, limits: &Limits) -> Result<Source, ParseFailure> {
    let mut document = open(path)?;
    let count = document.pages().len();
    refuse_too_many_pages(usize::try_from(count).unwrap_or(0), limits)?;
    let mut source = Source::default();
    metadata(&document, &mut source);
    source.outline = outline(&document);
    let mut budget = TextBudget::new(limits);
    let pages_per_opening = pages_per_opening(path, count);
    for (index, number) in (0..count).zip(1..) {
        if index > 0 && index % pages_per_opening == 0 {
            document = open(path)?;
        }
        let page = document.pages().get(index).and_then(|page| read_page(&page, number));
        let page = page.unwrap_or_else(|error| Page::damaged(number, format!("pdfium: {error:?}")));
        budget.take(&page.lines)?;
        source.pages.push(page);
    }
    Ok(source)
}

/// pdfium keeps what it has read until a document is closed, pictures too.
fn pages_per_opening(path: &Path, pages: i32) -> i32 {
    let file_bytes = std::fs::metadata(path).map_or(0, |facts| facts.len()).max(1);
    let share =
        i64::from(pages).saturating_mul(KEPT_BYTES_MAX) / i64::try_from(file_bytes).unwrap_or(i64::MAX);
    i32::try_from(share).unwrap_or(i32::MAX).max(PAGES_PER_OPENING_MIN)
}

fn metadata(document: &PdfDocument<'_>, source: &mut Source) {
    let tag = |tag| document.metadata().get(tag).and_then(|tag| value(tag.value()));
    source.title = tag(PdfDocumentMetadataTagType::Title);
    source.authors = tag(PdfDocumentMetadataTagType::Author).as_deref().map(authors).unwrap_or_default();
    for (name, kind) in [
        ("subject", PdfDocumentMetadataTagType::Subject),
        ("keywords", PdfDocumentMetadataTagType::Keywords),
        ("created", PdfDocumentMetadataTagType::CreationDate),
    ] {
        if let Some(text) = tag(kind) {
            source.metadata.push((name, json!(text)));
        }
    }
}

/// Entries in order, from the outside in.
fn outline(document: &PdfDocument<'_>) -> Vec<OutlineEntry> {
    let mut entries = Vec::new();
    // An outline may run in circles.
    let mut seen = HashSet::new();
    let mut waiting: Vec<(PdfBookmark<'_>, usize)> = Vec::new();
    waiting.extend(document.bookmarks().root().map(|first| (first, 0)));
    while let Some((bookmark, depth)) = waiting.pop() {
        if seen.len() >= PACKAGE_ITEMS_MAX || depth > DEPTH_MAX || seen.contains(&bookmark) {
            continue;
        }
        waiting.extend(bookmark.next_sibling().map(|next| (next, depth)));
        waiting.extend(bookmark.first_child().map(|child| (child, depth + 1)));
        if let Some(entry) = outline_entry(&bookmark, depth) {
            entries.push(entry);
        }
        seen.insert(bookmark);
    }
    entries
}

fn outline_entry(bookmark: &PdfBookmark<'_>, depth: usize) -> Option<OutlineEntry> {
    let title = value(&bookmark.title()?)?;
    let destination = bookmark.destination();
    let page = destination.as_ref().and_then(|destination| destination.page_index().ok());
    let page = page.and_then(|index| Some(u32::try_from(index).ok()? + 1));
    let top = match destination.map(|destination| destination.view_settings()) {
        Some(Ok(
            PdfDestinationViewSettings::SpecificCoordinatesAndZoom(_, top, _)
            | PdfDestinationViewSettings::FitPageHorizontallyToWindow(top)
            | PdfDestinationViewSettings::FitBoundsHorizontallyToWindow(top),
        )) => top.map(|top| top.value),
        _ => None,
    };
    Some(OutlineEntry { depth, title, page, top })
}

fn read_page(page: &PdfPage<'_>, number: u32) -> Result<Page, PdfiumError> {
    let kinds = page.objects().iter().map(|object| object.object_type());
    let (mut images, mut shapes) = (0, 0);
    for kind in kinds {
        match kind {
            // A form may hold pictures; it counts as one where there is no text.
            PdfPageObjectType::Image | PdfPageObjectType::XObjectForm => images += 1,
            PdfPageObjectType::Path | PdfPageObjectType::Shading => shapes += 1,
            PdfPageObjectType::Text | PdfPageObjectType::Unsupported => {}
        }
    }
    let (height, lines) = (page.height().value, lines(page)?);
    Ok(Page { number, height, lines, images, shapes, ..Page::default() })
}

/// The lines that pdfium makes of the characters of a page, columns that were written across untangled.
fn lines(page: &PdfPage<'_>) -> Result<Vec<Line>, PdfiumError> {
    let text = page.text()?;
    let upright =
        matches!(page.rotation(), Ok(PdfPageRenderRotation::None | PdfPageRenderRotation::Degrees180));
    let mut rows = vec![Row::default()];
    for character in text.chars().iter() {
        let code = character.unicode_value();
        let row = rows.last_mut();
        match (char::from_u32(code), row) {
            (Some('\r' | '\n'), Some(row)) if !row.is_empty() => rows.push(Row::default()),
            (_, Some(row)) if LINE_HYPHENS.contains(&code) => {
                row.push('-', None, GAP_HEIGHTS);
                rows.push(Row::default());
            }
            (Some(letter), Some(row)) if letter != '\0' => {
                // A soft hyphen that is drawn is a hyphen.
                let letter = if letter == '\u{ad}' { '-' } else { letter };
                let place = (upright && !letter.is_whitespace()).then(|| place(&character)).flatten();
                row.push(letter, place, GAP_HEIGHTS);
            }
            _ => {}
        }
    }
    Ok(columns::untangle(rows))
}

fn place(character: &PdfPageTextChar<'_>) -> Option<Place> {
    let bounds = character.loose_bounds().ok()?;
    let place = Place {
        left: bounds.left().value,
        right: bounds.right().value,
        top: bounds.top().value,
        bottom: bounds.bottom().value,
    };
    let finite = [place.left, place.right, place.top, place.bottom].iter().all(|edge| edge.is_finite());
    (finite && place.height() > 0.0).then_some(place)
}

/// A page as a picture in shades of grey.
pub(super) struct Picture {
    pub(super) width: usize,
    pub(super) height: usize,
    /// One byte a pixel, row by row.
    pub(super) pixels: Vec<u8>,
}

pub(super) fn render(document: &PdfDocument<'_>, number: u32) -> Result<Picture, ParseFailure> {
    let failed =
        |error: PdfiumError| ParseFailure::new(Verdict::Failed, format!("it cannot be rendered: {error:?}"));
    let index = i32::try_from(number).unwrap_or(i32::MAX) - 1;
    let page = document.pages().get(index).map_err(failed)?;
    let (width, height) = (page.width().value.max(1.0), page.height().value.max(1.0));
    let scale = PIXELS_PER_POINT.min(SIDE_PIXELS_MAX / width.max(height));
    #[expect(clippy::cast_possible_truncation, reason = "bounded by SIDE_PIXELS_MAX")]
    let pixels = |points: f32| ((points * scale) as i32).max(1);
    let config = PdfRenderConfig::new()
        .set_fixed_size(pixels(width), pixels(height))
        .set_format(PdfBitmapFormat::Gray)
        .set_reverse_byte_order(false);
    let bitmap = page.render_with_config(&config).map_err(failed)?;
    let width = usize::try_from(bitmap.width()).unwrap_or(0);
    let height = usize::try_from(bitmap.height()).unwrap_or(0);
    let bytes = bitmap.as_raw_bytes();
    let stride = bytes.len().checked_div(height).unwrap_or(0);
    let pixels =
        bytes.chunks_exact(stride.max(1)).flat_map(|row| &row[..width.min(stride)]).copied().collect();
    Ok(Picture { width, height, pixels })
}

impl Segment {
    pub(super) fn text(&self) -> String {
        clean(self.letters.chars())
    }
}
