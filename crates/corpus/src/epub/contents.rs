//! The table of contents of a book: the navigation document of EPUB 3, or the NCX of EPUB 2.

use crate::encoding;
use crate::limits::{DEPTH_MAX, METADATA_VALUE_BYTES_MAX, PACKAGE_ITEMS_MAX};
use crate::markup::{Dialect, Element, Token, tokens};
use crate::verdict::ParseFailure;

use super::package::{Package, resolve};
use crate::archive::Archive;

/// One place that the table of contents names.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    /// Titles from the outermost to this one.
    pub(super) breadcrumb: Vec<String>,
    pub(super) path: String,
    pub(super) fragment: Option<String>,
}

/// The entries in their order; none where a book has no usable table of contents.
pub(super) fn read(archive: &mut Archive, package: &Package) -> Result<Vec<Entry>, ParseFailure> {
    for (path, style) in [(&package.nav, Style::Nav), (&package.ncx, Style::Ncx)] {
        let Some(path) = path else { continue };
        let Some(bytes) = archive.read(path)? else { continue };
        let source = encoding::decode_markup(bytes).text;
        let entries = match style {
            Style::Nav => entries_of_nav(path, &source),
            Style::Ncx => entries_of_ncx(path, &source),
        };
        if !entries.is_empty() {
            return Ok(entries);
        }
    }
    Ok(Vec::new())
}

enum Style {
    Nav,
    Ncx,
}

/// `<nav epub:type="toc"><ol><li><a href="...">Title</a><ol>...`; a title without a link is a `<span>`.
fn entries_of_nav(path: &str, source: &str) -> Vec<Entry> {
    let mut outline = Outline::new(path);
    let mut in_toc = false;
    tokens(source, Dialect::Xhtml, |token| match token {
        Token::Start(element) if element.name() == "nav" => in_toc = is_toc(element),
        Token::End("nav") => in_toc = false,
        _ if !in_toc => {}
        Token::Start(element) if element.is_self_closing() => {}
        Token::Start(element) => match element.name() {
            "ol" => outline.descend(),
            "li" => outline.next(),
            "a" => {
                outline.open_title();
                outline.link(element.attribute("href"));
            }
            "span" => outline.open_title(),
            _ => {}
        },
        Token::End("ol") => outline.ascend(),
        Token::End("a" | "span" | "li") => outline.close(),
        Token::End(_) => {}
        Token::Text(text) => outline.text(text),
    });
    outline.entries
}

fn is_toc(element: Element<'_>) -> bool {
    let is_type = |name: &str| name == "toc" || name == "doc-toc";
    let types = element.attribute("epub:type").or_else(|| element.attribute("role"));
    types.unwrap_or_default().split_ascii_whitespace().any(is_type)
}

/// `<navPoint><navLabel><text>Title</text></navLabel><content src="..."/><navPoint>...`
fn entries_of_ncx(path: &str, source: &str) -> Vec<Entry> {
    let mut outline = Outline::new(path);
    let mut in_map = false;
    tokens(source, Dialect::Xml, |token| match token {
        Token::Start(element) if element.name() == "navmap" => in_map = true,
        Token::End("navmap") => in_map = false,
        _ if !in_map => {}
        Token::Start(element) => match element.name() {
            "navpoint" if !element.is_self_closing() => {
                outline.descend();
                outline.next();
            }
            "text" if !element.is_self_closing() => outline.open_title(),
            "content" => {
                outline.link(element.attribute("src"));
                outline.close();
            }
            _ => {}
        },
        Token::End("navpoint") => outline.ascend(),
        Token::End("text") => outline.close_title(),
        Token::End(_) => {}
        Token::Text(text) => outline.text(text),
    });
    outline.entries
}

/// Entries as they are read, and the titles above the current one.
struct Outline<'a> {
    path: &'a str,
    entries: Vec<Entry>,
    /// The title at each level down to the current one.
    titles: Vec<String>,
    /// Levels open, those over the limit included.
    depth: usize,
    in_title: bool,
    link: Option<String>,
}

impl<'a> Outline<'a> {
    fn new(path: &'a str) -> Outline<'a> {
        Outline { path, entries: Vec::new(), titles: Vec::new(), depth: 0, in_title: false, link: None }
    }

    fn descend(&mut self) {
        self.close();
        self.depth += 1;
    }

    fn ascend(&mut self) {
        self.close();
        self.depth = self.depth.saturating_sub(1);
        self.titles.truncate(self.depth);
    }

    /// A new entry at the current level.
    fn next(&mut self) {
        self.close();
        self.titles.truncate(self.depth.saturating_sub(1));
    }

    fn open_title(&mut self) {
        let level = self.depth.min(DEPTH_MAX);
        if level > 0 && self.titles.len() < level {
            self.titles.resize(level, String::new());
            self.in_title = true;
        }
    }

    fn close_title(&mut self) {
        self.in_title = false;
    }

    fn link(&mut self, href: Option<&str>) {
        self.link = href.map(str::to_owned);
    }

    fn text(&mut self, text: &str) {
        if let (true, Some(title)) = (self.in_title, self.titles.last_mut()) {
            let room = METADATA_VALUE_BYTES_MAX.saturating_sub(title.len());
            title.push_str(&text[..text.floor_char_boundary(room)]);
        }
    }

    /// Ends the title; an entry with a link becomes a place.
    fn close(&mut self) {
        self.in_title = false;
        let Some(link) = self.link.take() else { return };
        let Some((path, fragment)) = resolve(self.path, &link) else { return };
        if self.entries.len() < PACKAGE_ITEMS_MAX {
            let titles = self.titles.iter().map(|title| crate::html::one_line_title(title));
            let breadcrumb = titles.filter(|title| !title.is_empty()).collect();
            self.entries.push(Entry { breadcrumb, path, fragment });
        }
    }
}
