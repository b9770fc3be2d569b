//! EPUB 2 and 3: the spine in reading order, chapters by the table of contents.

use std::collections::{HashMap, HashSet};
use std::fs::File;

use crate::archive::Archive;
use crate::chapters;
use crate::document::{BlockKind, Chapter, Document, Furniture};
use crate::encoding;
use crate::html::{self, Page};
use crate::limits::Limits;
use crate::markup::Dialect;
use crate::verdict::{ParseFailure, Verdict};

use contents::Entry;
use package::Package;

mod contents;
mod encryption;
mod package;

/// What stands between two pages, as between two blocks.
const PAGE_SEPARATOR: &str = "\n\n";

/// Reads a whole book. Nothing that it refers to outside the archive is fetched.
pub(crate) fn read(file: File, limits: &Limits) -> Result<Document, ParseFailure> {
    let mut archive = Archive::open(file, limits)?;
    encryption::refuse_license(&archive)?;
    let package = package::read(&mut archive)?;
    encryption::refuse_encrypted(&mut archive, &package)?;
    let entries = contents::read(&mut archive, &package)?;

    let mut book = Book::new(&entries);
    for path in &package.spine {
        let Some(bytes) = archive.read(path)? else {
            book.document.furniture.missing_documents += 1;
            continue;
        };
        book.append(path, bytes, limits)?;
    }
    let missing = book.document.furniture.missing_documents;
    let of = package.spine.len();
    if missing > 0 && (archive.is_damaged() || missing * 2 > of) {
        let why = format!("{missing} of {of} documents of the spine are not in the archive");
        return Err(ParseFailure::new(Verdict::Corrupt, why));
    }
    Ok(book.finish(package))
}

/// The documents of the spine with prose in them, in reading order: the table of contents has none.
pub(crate) fn prose(archive: &mut Archive) -> Result<Vec<String>, ParseFailure> {
    encryption::refuse_license(archive)?;
    let package = package::read(archive)?;
    encryption::refuse_encrypted(archive, &package)?;
    let is_contents =
        |path: &String| Some(path) == package.nav.as_ref() || Some(path) == package.ncx.as_ref();
    Ok(package.spine.iter().filter(|path| !is_contents(path)).cloned().collect())
}

/// The text of a book as it grows, page by page.
struct Book<'a> {
    document: Document,
    entries: &'a [Entry],
    /// The entries of each file, by its path in lower case.
    by_path: HashMap<String, Vec<&'a Entry>>,
    chapters: Vec<Chapter>,
}

impl<'a> Book<'a> {
    fn new(entries: &'a [Entry]) -> Book<'a> {
        let mut by_path: HashMap<String, Vec<&Entry>> = HashMap::new();
        for entry in entries {
            by_path.entry(entry.path.to_lowercase()).or_default().push(entry);
        }
        Book { document: Document::default(), entries, by_path, chapters: Vec::new() }
    }

    fn append(&mut self, path: &str, bytes: Vec<u8>, limits: &Limits) -> Result<(), ParseFailure> {
        let own = self.by_path.remove(&path.to_lowercase()).unwrap_or_default();
        let wanted: HashSet<String> = own.iter().filter_map(|entry| entry.fragment.clone()).collect();
        let decoded = encoding::decode_markup(bytes);
        let separator = if self.document.text.is_empty() { "" } else { PAGE_SEPARATOR };
        let used = self.document.text.len() + separator.len();
        let room = limits.text_bytes.saturating_sub(used as u64);
        let page = html::read(&decoded.text, Dialect::Xhtml, &wanted, room)
            .map_err(|failure| ParseFailure { why: format!("{path}: {}", failure.why), ..failure })?;
        self.document.furniture.add(&page.furniture);
        self.document.furniture.add(&Furniture {
            replaced_characters: decoded.replaced_characters,
            guessed_encodings: usize::from(decoded.guessed),
            ..Furniture::default()
        });
        if !page.blocks.is_empty() {
            self.document.text.push_str(separator);
            self.append_page(path, &page, &own);
        }
        Ok(())
    }

    fn append_page(&mut self, path: &str, page: &Page, own: &[&Entry]) {
        let offset = self.document.text.len();
        self.document.text.push_str(&page.text);
        for block in &page.blocks {
            let mut block = *block;
            block.start += offset;
            block.end += offset;
            self.document.blocks.push(block);
        }
        if self.entries.is_empty() {
            return;
        }
        let mut starts = chapter_starts(path, page, own);
        if starts.first().is_none_or(|start| start.block > 0) {
            starts.insert(0, self.unlisted_start(path, page));
        }
        self.chapters.extend(starts.into_iter().map(|start| Chapter {
            breadcrumb: start.breadcrumb,
            href: Some(start.href),
            start: offset + page.blocks[start.block].start,
            end: 0,
        }));
    }

    /// A page that the table of contents does not name is named by its heading, or goes on with the chapter
    /// before it, as a chapter does that is split into several files.
    fn unlisted_start(&self, path: &str, page: &Page) -> Start {
        let first = &page.blocks[0];
        let breadcrumb = match (first.kind, self.chapters.last()) {
            (BlockKind::Heading(_), _) => vec![html::one_line_title(&page.text[first.start..first.end])],
            (_, Some(previous)) => previous.breadcrumb.clone(),
            (_, None) => Vec::new(),
        };
        Start { block: 0, depth: 0, breadcrumb, href: path.to_owned() }
    }

    fn finish(self, package: Package) -> Document {
        let mut document = Document {
            title: package.title,
            authors: package.authors,
            language: package.language,
            identifiers: package.identifiers,
            metadata: package.metadata,
            ..self.document
        };
        if self.entries.is_empty() {
            chapters::from_headings(&mut document, html::one_line_title);
        } else {
            chapters::partition(&mut document, self.chapters);
        }
        document
    }
}

/// Where a chapter starts in a page.
struct Start {
    /// Index into the page's blocks.
    block: usize,
    depth: usize,
    breadcrumb: Vec<String>,
    href: String,
}

/// The chapter starts of a page by its entries in the table of contents, in order of the text. Of several
/// entries for one place the deepest names it, and of those the first. A fragment that is not in the page
/// counts as the page's start.
fn chapter_starts(path: &str, page: &Page, own: &[&Entry]) -> Vec<Start> {
    let anchors: HashMap<&str, usize> =
        page.anchors.iter().rev().map(|(id, block)| (id.as_str(), *block)).collect();
    let mut starts: Vec<Start> = Vec::new();
    for entry in own {
        let anchor = entry.fragment.as_deref().and_then(|fragment| anchors.get(fragment).copied());
        let fragment = entry.fragment.as_ref().filter(|_| anchor.is_some());
        starts.push(Start {
            block: anchor.unwrap_or(0),
            // A fragment that is nowhere must not rename the page.
            depth: if entry.fragment.is_some() && anchor.is_none() { 0 } else { entry.breadcrumb.len() },
            breadcrumb: entry.breadcrumb.clone(),
            href: fragment.map_or_else(|| path.to_owned(), |fragment| format!("{path}#{fragment}")),
        });
    }
    starts.retain(|start| start.block < page.blocks.len());
    starts.sort_by_key(|start| (start.block, std::cmp::Reverse(start.depth)));
    starts.dedup_by_key(|start| start.block);
    starts
}
