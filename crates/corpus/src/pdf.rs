//! PDF: an engine gives the lines of each page, and here they become one text.
//!
//! A page knows nothing of paragraphs, words that run over lines, or what repeats at its top; `furniture` takes
//! out running lines, `paragraphs` joins the rest. Chapters are those of the outline, at every level. A page
//! of pictures without text is listed, or recognised where the user asks for it.

use std::path::Path;

use serde_json::{Value, json};

use crate::document::Document;
use crate::limits::{Limits, METADATA_VALUE_BYTES_MAX};
use crate::readers::{Readers, Setup};
use crate::verdict::{ParseFailure, Verdict};
use crate::worker::Unusable;

mod columns;
mod furniture;
mod oxide;
mod paragraphs;
mod pdfium;
pub(crate) mod recognise;

/// Metadata of a document: what read it, as [`Readers::pdf_engine`] says.
pub const ENGINE: &str = "pdf_engine";
/// Metadata of a document: how many pages it has.
pub const PAGES: &str = "pdf_pages";
/// Metadata of a document: numbers of the pages that are pictures and have no text.
pub const PAGES_WITHOUT_TEXT: &str = "pdf_pages_without_text";
/// Metadata of a document: numbers of the pages that are damaged and could not be read.
pub const PAGES_DAMAGED: &str = "pdf_pages_damaged";
/// Metadata of a document: numbers of those pages without text that recognition failed on.
pub const PAGES_NOT_RECOGNISED: &str = "pdf_pages_not_recognised";
/// Metadata of a document: why recognition failed on the first page that it failed on.
pub const NOT_RECOGNISED_WHY: &str = "pdf_not_recognised_why";
/// Metadata of a document: how many pages were recognised.
pub const PAGES_RECOGNISED: &str = "pdf_pages_recognised";

/// A page of so many lines and shapes, and of no text, shows letters that are drawn.
const DRAWN_SHAPES_MIN: usize = 20;

/// Reads a whole PDF. `page_recognised` is called after each page that took seconds of recognising, whether or not
/// there was anything in it.
pub(crate) fn read(
    path: &Path,
    setup: &Setup,
    page_recognised: &mut dyn FnMut() -> std::ops::ControlFlow<()>,
) -> Result<Document, ParseFailure> {
    let readers = &setup.readers;
    let mut source = read_pages(path, setup)?;
    let mut running_lines = furniture::remove(&mut source, |_| true);
    let wanting = source.pages.iter().filter(|page| page.wants_recognition()).map(|page| page.number);
    let wanting: Vec<u32> = wanting.collect();
    let recognised = match &readers.ocr {
        Some(ocr) if !wanting.is_empty() => {
            let document = pdfium::open(path)?;
            let text = |number| recognise::text(ocr, &pdfium::render(&document, number)?);
            recognise_pages(&mut source.pages, &wanting, text, page_recognised)
        }
        _ => Recognised::default(),
    };
    // Without places, what runs over pages is known by its words alone.
    running_lines += furniture::remove(&mut source, |page| recognised.has(page.number));
    let left: Vec<u32> = wanting.iter().copied().filter(|number| !recognised.has(*number)).collect();
    refuse_without_text(&source.pages, &left, recognised.first_failure.as_ref())?;
    source.metadata.push((ENGINE, json!(readers.pdf_engine())));
    source.metadata.push((PAGES, json!(source.pages.len())));
    source.metadata.extend(page_lists(&source.pages, left, recognised));
    let mut document = paragraphs::document(source);
    document.furniture.running_lines = running_lines;
    for (name, count) in
        [("pdf_running_lines", running_lines), ("pdf_mended_hyphens", document.furniture.mended_hyphens)]
    {
        if count > 0 {
            document.metadata.insert(name.to_owned(), json!(count));
        }
    }
    Ok(document)
}

/// The text as an engine gives it, line by line, nothing joined and nothing left out: what is compared with other
/// programs.
///
/// # Errors
/// As of every reader.
pub fn raw_text(path: &Path, setup: &Setup) -> Result<String, ParseFailure> {
    load(&setup.readers).map_err(|Unusable { why, .. }| ParseFailure::new(Verdict::Failed, why))?;
    let source = read_pages(path, setup)?;
    let lines = source.pages.iter().flat_map(|page| page.lines.iter().map(|line| line.text.as_str()));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Loads the library of `readers` into this process for good.
pub(crate) fn load(readers: &Readers) -> Result<(), Unusable> {
    readers.pdfium.as_ref().map_or(Ok(()), |found| {
        pdfium::load(&found.library).map_err(|why| Unusable { library: found.library.clone(), why })
    })
}

/// What an engine finds in a file.
#[derive(Default)]
struct Source {
    title: Option<String>,
    authors: Vec<String>,
    metadata: Vec<(&'static str, Value)>,
    outline: Vec<OutlineEntry>,
    pages: Vec<Page>,
}

/// A title of the outline, in the outline's order.
struct OutlineEntry {
    /// 0 is the outermost.
    depth: usize,
    title: String,
    /// Number of the page; none where it leads nowhere, and only names what is below it.
    page: Option<u32>,
    /// Height on the page, in points from its bottom.
    top: Option<f32>,
}

#[derive(Default)]
struct Page {
    /// Counted from 1.
    number: u32,
    /// In points; 0 where the engine does not say where lines stand.
    height: f32,
    /// In reading order.
    lines: Vec<Line>,
    images: usize,
    /// Lines, curves and shadings.
    shapes: usize,
    /// Whether lines of this page were taken out as furniture.
    had_furniture: bool,
    /// Why the page, or its text, cannot be read; such a page has no lines.
    damage: Option<String>,
}

impl Page {
    fn damaged(number: u32, why: String) -> Page {
        Page { number, damage: Some(why), ..Page::default() }
    }

    fn has_text(&self) -> bool {
        self.lines.iter().any(|line| !line.text.is_empty())
    }

    /// A picture without text. What a scanner's owner stamped on the edge of a picture is no text of it; on a
    /// page with some drawn lines it may be all that there is.
    fn wants_recognition(&self) -> bool {
        let drawn = self.shapes >= DRAWN_SHAPES_MIN && !self.had_furniture;
        self.damage.is_none() && !self.has_text() && (self.images > 0 || drawn)
    }
}

/// One line of text, without white space around it.
struct Line {
    text: String,
    /// None where the engine does not say, or the page is turned.
    place: Option<Place>,
}

/// Where a line stands, in points from the lower left corner of the page.
#[derive(Clone, Copy)]
struct Place {
    left: f32,
    right: f32,
    top: f32,
    bottom: f32,
}

impl Place {
    fn height(self) -> f32 {
        self.top - self.bottom
    }
}

/// What the engine of these readers finds. A damaged page leaves the others as they are; if all are, the file is
/// corrupt.
fn read_pages(path: &Path, setup: &Setup) -> Result<Source, ParseFailure> {
    let source = match &setup.readers.pdfium {
        Some(_) => pdfium::read(path, &setup.limits)?,
        None => oxide::read(path, &setup.limits)?,
    };
    refuse_all_damaged(&source.pages)?;
    Ok(source)
}

fn refuse_all_damaged(pages: &[Page]) -> Result<(), ParseFailure> {
    let corrupt = |why| Err(ParseFailure::new(Verdict::Corrupt, why));
    match pages.first() {
        None => corrupt("damaged: no pages can be found in it".to_owned()),
        Some(Page { damage: Some(why), .. }) if pages.iter().all(|page| page.damage.is_some()) => {
            corrupt(format!("damaged: none of {} pages can be read: {why}", pages.len()))
        }
        Some(_) => Ok(()),
    }
}

/// The pages that are not plain text, as metadata.
fn page_lists(pages: &[Page], without_text: Vec<u32>, recognised: Recognised) -> Vec<(&'static str, Value)> {
    let damaged = pages.iter().filter(|page| page.damage.is_some()).map(|page| page.number).collect();
    let lists = [
        (PAGES_DAMAGED, damaged),
        (PAGES_WITHOUT_TEXT, without_text),
        (PAGES_NOT_RECOGNISED, recognised.failed),
    ];
    let mut metadata: Vec<(&str, Value)> = lists
        .into_iter()
        .filter(|(_, numbers): &(_, Vec<u32>)| !numbers.is_empty())
        .map(|(name, numbers)| (name, json!(numbers)))
        .collect();
    metadata.extend(recognised.first_failure.map(|failure| (NOT_RECOGNISED_WHY, json!(failure.why))));
    if !recognised.pages.is_empty() {
        metadata.push((PAGES_RECOGNISED, json!(recognised.pages.len())));
    }
    metadata
}

fn refuse_without_text(
    pages: &[Page],
    pages_without: &[u32],
    recognition: Option<&ParseFailure>,
) -> Result<(), ParseFailure> {
    if pages.iter().any(Page::has_text) {
        return Ok(());
    }
    let of = pages.len();
    let damaged = pages.iter().filter(|page| page.damage.is_some()).count();
    let and_damaged = if damaged > 0 { format!(", {damaged} are damaged") } else { String::new() };
    let without = pages_without.len();
    Err(match recognition {
        Some(failure) => ParseFailure::new(
            failure.verdict,
            format!("no text, {without} of {of} pages are pictures{and_damaged}; {}", failure.why),
        ),
        None if without > 0 => ParseFailure::new(
            Verdict::NeedsOcr,
            format!("no text, and {without} of {of} pages are pictures{and_damaged}; --ocr reads them"),
        ),
        None if damaged > 0 => ParseFailure::new(
            Verdict::Corrupt,
            format!("damaged: no text, and {damaged} of {of} pages are damaged"),
        ),
        None => ParseFailure::new(Verdict::Empty, format!("no text on {of} pages")),
    })
}

/// What came of pages that are pictures.
#[derive(Default)]
struct Recognised {
    /// Numbers of those with text now, in order.
    pages: Vec<u32>,
    /// Numbers of those that rendering or recognition failed on, in order.
    failed: Vec<u32>,
    /// Of the first of `failed`, with its number.
    first_failure: Option<ParseFailure>,
}

impl Recognised {
    fn has(&self, number: u32) -> bool {
        self.pages.binary_search(&number).is_ok()
    }
}

/// Gives the pages `wanting` the text that is recognised in them. A page that it fails on stays without text, and
/// the others as they are.
fn recognise_pages(
    pages: &mut [Page],
    wanting: &[u32],
    text: impl Fn(u32) -> Result<String, ParseFailure>,
    page_recognised: &mut dyn FnMut() -> std::ops::ControlFlow<()>,
) -> Recognised {
    let mut recognised = Recognised::default();
    for page in pages.iter_mut().filter(|page| wanting.binary_search(&page.number).is_ok()) {
        let number = page.number;
        match text(number) {
            Ok(text) => {
                page.lines =
                    text.lines().map(|line| Line { text: clean(line.chars()), place: None }).collect();
                if page.has_text() {
                    recognised.pages.push(number);
                }
            }
            Err(failure) => {
                recognised.failed.push(number);
                recognised.first_failure.get_or_insert_with(|| ParseFailure {
                    why: format!("page {number}: {}", failure.why),
                    ..failure
                });
            }
        }
        if page_recognised().is_break() {
            break;
        }
    }
    recognised
}

/// Characters as a line: runs of white space are one space, what cannot be seen goes.
fn clean(characters: impl Iterator<Item = char>) -> String {
    let mut line = String::new();
    for character in characters {
        if character.is_whitespace() {
            if !line.is_empty() && !line.ends_with(' ') {
                line.push(' ');
            }
        } else if !character.is_control() {
            line.push(character);
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// A value of the metadata, if there is anything in it.
fn value(text: &str) -> Option<String> {
    let text = clean(text.chars());
    let end = text.floor_char_boundary(METADATA_VALUE_BYTES_MAX);
    (!text.is_empty()).then(|| text[..end].to_owned())
}

fn authors(text: &str) -> Vec<String> {
    text.split(';').filter_map(value).collect()
}

fn refuse_too_many_pages(pages: usize, limits: &Limits) -> Result<(), ParseFailure> {
    if pages <= limits.pdf_pages as usize {
        return Ok(());
    }
    Err(ParseFailure::new(Verdict::TooLarge, format!("{pages} pages, more than {}", limits.pdf_pages)))
}

/// Counts the text of a document while it is read.
struct TextBudget {
    left_bytes: u64,
    limit_bytes: u64,
}

impl TextBudget {
    fn new(limits: &Limits) -> TextBudget {
        TextBudget { left_bytes: limits.text_bytes, limit_bytes: limits.text_bytes }
    }

    fn take(&mut self, lines: &[Line]) -> Result<(), ParseFailure> {
        let bytes: usize = lines.iter().map(|line| line.text.len()).sum();
        match self.left_bytes.checked_sub(bytes as u64) {
            Some(left) => {
                self.left_bytes = left;
                Ok(())
            }
            None => Err(ParseFailure::new(
                Verdict::TooLarge,
                format!("more than {} bytes of text", self.limit_bytes),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn picture(number: u32) -> Page {
        Page { number, images: 1, ..Page::default() }
    }

    fn failure() -> ParseFailure {
        ParseFailure::new(Verdict::Failed, "tesseract: signal: 9")
    }

    /// One page that tesseract or the renderer failed on lost the whole book, the pages with text too.
    #[test]
    fn a_page_that_recognition_fails_on_leaves_the_others() {
        let mut pages: Vec<Page> = (1..=4).map(picture).collect();
        let mut tried = 0;
        let text = |number| if number == 2 { Err(failure()) } else { Ok(format!("words of {number}")) };
        let recognised = recognise_pages(&mut pages, &[1, 2, 4], text, &mut || {
            tried += 1;
            ControlFlow::Continue(())
        });
        assert_eq!((tried, &recognised.pages, &recognised.failed), (3, &vec![1, 4], &vec![2]));
        assert_eq!(pages[3].lines[0].text, "words of 4");
        assert_eq!(refuse_without_text(&pages, &[2, 3], recognised.first_failure.as_ref()), Ok(()));
        let lists = page_lists(&pages, vec![2, 3], recognised);
        let expected = [
            (PAGES_WITHOUT_TEXT, json!([2, 3])),
            (PAGES_NOT_RECOGNISED, json!([2])),
            (NOT_RECOGNISED_WHY, json!("page 2: tesseract: signal: 9")),
            (PAGES_RECOGNISED, json!(2)),
        ];
        assert_eq!(lists, expected);
    }

    #[test]
    fn a_file_without_text_says_what_its_pages_are() {
        let refused = |pages: &[Page], without: &[u32], recognition: Option<&ParseFailure>| {
            let failure = refuse_without_text(pages, without, recognition).unwrap_err();
            (failure.verdict, failure.why)
        };
        let damaged = || Page::damaged(2, "no such object".to_owned());
        let says = |verdict, why: &str| (verdict, why.to_owned());
        assert_eq!(
            refused(&[picture(1), damaged()], &[1], Some(&failure())),
            says(Verdict::Failed, "no text, 1 of 2 pages are pictures, 1 are damaged; tesseract: signal: 9")
        );
        assert_eq!(
            refused(&[picture(1)], &[1], None),
            says(Verdict::NeedsOcr, "no text, and 1 of 1 pages are pictures; --ocr reads them")
        );
        assert_eq!(
            refused(&[Page { number: 1, ..Page::default() }, damaged()], &[], None),
            says(Verdict::Corrupt, "damaged: no text, and 1 of 2 pages are damaged")
        );
    }

    /// Their text was taken for empty where the engine failed on it, and the file was one without text.
    #[test]
    fn a_file_of_damaged_pages_is_corrupt() {
        let damaged = |number| Page::damaged(number, format!("object {number} is lost"));
        let failure = refuse_all_damaged(&[damaged(1), damaged(2)]).unwrap_err();
        let why = "damaged: none of 2 pages can be read: object 1 is lost";
        assert_eq!((failure.verdict, failure.why.as_str()), (Verdict::Corrupt, why));
        assert_eq!(refuse_all_damaged(&[damaged(1), picture(2)]), Ok(()));
        assert_eq!(refuse_all_damaged(&[]).unwrap_err().verdict, Verdict::Corrupt);
    }

    #[test]
    fn a_damaged_page_is_not_recognised() {
        assert!(picture(1).wants_recognition());
        assert!(!Page { damage: Some("bad".to_owned()), ..picture(1) }.wants_recognition());
    }
}
