//! HTML and XHTML to blocks of text: one pass over the tokens with a flat state.
//!
//! The edges of block elements always separate words and inline elements never do. Whitespace collapses as a
//! browser does it, except in `pre`. Navigation, scripts, page numbers and references to notes are furniture:
//! counted, not text.

use std::collections::HashSet;

use crate::chapters;
use crate::document::{Block, BlockKind, Document, Furniture};
use crate::encoding::Decoded;
use crate::limits::{Limits, METADATA_VALUE_BYTES_MAX, TITLE_BYTES_MAX};
use crate::markup::{Dialect, Element, Token, tokens};
use crate::text::decoded_document;
use crate::verdict::{ParseFailure, Verdict};

/// A row of a table is one block up to this size; a larger one is a page laid out as a table, and its
/// paragraphs are blocks of their own.
const ROW_BYTES_MAX: usize = 2000;
/// Where XHTML says that it is XHTML.
const DIALECT_BYTES: usize = 1024;
const SOFT_HYPHEN: char = '\u{ad}';

/// A document of one HTML file; its headings are its chapters.
pub(crate) fn document(decoded: Decoded, limits: &Limits) -> Result<Document, ParseFailure> {
    let mut document = decoded_document(decoded);
    let source = std::mem::take(&mut document.text);
    let page = read(&source, dialect(&source), &HashSet::new(), limits.text_bytes)?;
    document.furniture.add(&page.furniture);
    document.title = page.title;
    document.authors = page.authors;
    document.language = page.language;
    document.text = page.text;
    document.blocks = page.blocks;
    chapters::from_headings(&mut document, one_line_title);
    Ok(document)
}

/// The words of a title on one line, as far as a breadcrumb shows them.
pub(crate) fn one_line_title(text: &str) -> String {
    let mut title = text.split_whitespace().collect::<Vec<_>>().join(" ");
    title.truncate(title.floor_char_boundary(TITLE_BYTES_MAX));
    title
}

fn dialect(source: &str) -> Dialect {
    let start = &source[..source.floor_char_boundary(DIALECT_BYTES)];
    let is_xml = start.trim_start().starts_with("<?xml") || start.contains("http://www.w3.org/1999/xhtml");
    if is_xml { Dialect::Xhtml } else { Dialect::Html }
}

/// What one HTML file holds. Offsets are bytes of `text`.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) text: String,
    /// Their chapter is 0.
    pub(crate) blocks: Vec<Block>,
    /// Wanted ids with the index of the first block that starts at or after them.
    pub(crate) anchors: Vec<(String, usize)>,
    pub(crate) title: Option<String>,
    pub(crate) authors: Vec<String>,
    pub(crate) language: Option<String>,
    pub(crate) furniture: Furniture,
}

/// Reads one HTML file whose text may have `text_bytes`; notes where the `wanted` ids are.
pub(crate) fn read(
    source: &str,
    dialect: Dialect,
    wanted: &HashSet<String>,
    text_bytes: u64,
) -> Result<Page, ParseFailure> {
    let mut reader = Reader::new(wanted, text_bytes, Leave::Furniture);
    tokens(source, dialect, |token| reader.token(token));
    if reader.skipped.is_some() {
        // An element of furniture that nothing closes would swallow the rest of the page.
        reader = Reader::new(wanted, text_bytes, Leave::Scripts);
        tokens(source, dialect, |token| reader.token(token));
    }
    reader.finish()
}

/// What is left out of the text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    Furniture,
    /// Scripts, styles and drawings only.
    Scripts,
}

/// Kinds of element whose content is not text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Navigation,
    Script,
    PageBreak,
    NoteReference,
    Gloss,
    Drawing,
}

/// What stands between two words; a later one is stronger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    None,
    Space,
    Line,
    Cell,
}

struct Reader<'a> {
    page: Page,
    wanted: &'a HashSet<String>,
    text_bytes: u64,
    leave: Leave,
    /// Start of the open block, and the length of the text before its separator.
    open: Option<(usize, usize)>,
    gap: Gap,
    heading: Option<u8>,
    /// Open elements of each kind; an end tag without a start tag counts nothing.
    preformatted: usize,
    lists: usize,
    quotes: usize,
    in_row: bool,
    in_title: bool,
    after_pre_tag: bool,
    /// The element being left out, and how many of its name are open.
    skipped: Option<(String, usize)>,
}

impl<'a> Reader<'a> {
    fn new(wanted: &'a HashSet<String>, text_bytes: u64, leave: Leave) -> Reader<'a> {
        Reader {
            page: Page::default(),
            wanted,
            text_bytes,
            leave,
            open: None,
            gap: Gap::None,
            heading: None,
            preformatted: 0,
            lists: 0,
            quotes: 0,
            in_row: false,
            in_title: false,
            after_pre_tag: false,
            skipped: None,
        }
    }

    fn token(&mut self, token: Token<'_>) {
        if self.is_full() {
            return;
        }
        match token {
            Token::Start(element) => self.start(element),
            Token::End(name) => self.end(name),
            Token::Text(text) if self.skipped.is_none() => self.text(text),
            Token::Text(_) => {}
        }
    }

    fn is_full(&self) -> bool {
        self.page.text.len() as u64 > self.text_bytes
    }

    fn finish(mut self) -> Result<Page, ParseFailure> {
        self.close_block();
        if self.is_full() {
            let why = format!("a page with more than {} bytes of text", self.text_bytes);
            return Err(ParseFailure::new(Verdict::TooLarge, why));
        }
        let title = self.page.title.take().map(|title| one_line_title(&title));
        self.page.title = title.filter(|title| !title.is_empty());
        Ok(self.page)
    }

    fn start(&mut self, element: Element<'_>) {
        let name = element.name();
        if let Some((skipped, open)) = &mut self.skipped {
            if skipped == name && !element.is_self_closing() {
                *open += 1;
            }
            return;
        }
        self.note_anchor(element);
        if let Some(kind) = furniture(element) {
            self.count(kind);
            let is_left_out = self.leave == Leave::Furniture || matches!(kind, Kind::Script | Kind::Drawing);
            if is_left_out {
                if is_block(name) {
                    self.boundary();
                }
                if !element.is_self_closing() && !is_void(name) {
                    self.skipped = Some((name.to_owned(), 1));
                }
                return;
            }
        }
        self.start_content(element);
    }

    fn start_content(&mut self, element: Element<'_>) {
        let name = element.name();
        let has_content = !element.is_self_closing();
        match name {
            "title" => self.in_title = has_content && self.page.title.is_none(),
            "html" => self.page.language = language(element),
            "meta" => self.meta(element),
            "img" | "image" => self.page.furniture.images += 1,
            "br" => self.line_break(),
            "td" | "th" if self.in_row => self.widen(Gap::Cell),
            "tr" => {
                self.close_block();
                self.in_row = has_content;
            }
            "table" => {
                self.close_block();
                self.in_row = false;
            }
            _ if is_block(name) => self.boundary(),
            _ => {}
        }
        if has_content {
            match name {
                "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                    self.close_block();
                    self.heading = Some(name.as_bytes()[1] - b'0');
                }
                "ul" | "ol" | "dl" | "menu" => self.lists += 1,
                "blockquote" => self.quotes += 1,
                "pre" | "listing" | "xmp" => {
                    self.close_block();
                    self.preformatted += 1;
                    self.after_pre_tag = true;
                }
                _ => {}
            }
        }
    }

    fn end(&mut self, name: &str) {
        if let Some((skipped, open)) = &mut self.skipped {
            if skipped == name {
                *open -= 1;
                if *open == 0 {
                    self.skipped = None;
                }
            }
            return;
        }
        match name {
            "title" => self.in_title = false,
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                self.close_block();
                self.heading = None;
            }
            "tr" | "table" => {
                self.close_block();
                self.in_row = false;
            }
            "td" | "th" if self.in_row => {}
            "pre" | "listing" | "xmp" => {
                self.close_block();
                self.preformatted = self.preformatted.saturating_sub(1);
            }
            _ if is_block(name) => self.boundary(),
            _ => {}
        }
        match name {
            "ul" | "ol" | "dl" | "menu" => self.lists = self.lists.saturating_sub(1),
            "blockquote" => self.quotes = self.quotes.saturating_sub(1),
            _ => {}
        }
    }

    /// The edge of a block element: the end of the open block, or, inside a row, a new line in it.
    fn boundary(&mut self) {
        match self.open {
            Some((start, _)) if self.in_row && self.page.text.len() - start < ROW_BYTES_MAX => {
                self.widen(Gap::Line);
            }
            Some(_) => {
                self.close_block();
                // A heading that is still open here lacks its end tag.
                self.heading = None;
            }
            None => {}
        }
    }

    fn widen(&mut self, gap: Gap) {
        if self.open.is_some() {
            self.gap = self.gap.max(gap);
        }
    }

    fn line_break(&mut self) {
        match self.open {
            Some(_) if self.preformatted > 0 => self.page.text.push('\n'),
            _ => self.widen(Gap::Line),
        }
    }

    fn text(&mut self, text: &str) {
        if self.in_title {
            let title = self.page.title.get_or_insert_default();
            let room = METADATA_VALUE_BYTES_MAX.saturating_sub(title.len());
            title.push_str(&text[..text.floor_char_boundary(room)]);
            return;
        }
        if self.preformatted > 0 {
            // HTML drops the line break right after the tag.
            let text = if self.after_pre_tag { text.strip_prefix('\n').unwrap_or(text) } else { text };
            self.after_pre_tag = false;
            if self.open.is_some() || !text.trim().is_empty() {
                self.word(text);
            }
            return;
        }
        let mut rest = text;
        loop {
            let word_on = rest.trim_start_matches(is_collapsed);
            if word_on.len() < rest.len() {
                self.widen(Gap::Space);
            }
            if word_on.is_empty() {
                return;
            }
            let end = word_on.find(is_collapsed).unwrap_or(word_on.len());
            self.word(&word_on[..end]);
            rest = &word_on[end..];
        }
    }

    fn word(&mut self, word: &str) {
        let hyphens = word.matches(SOFT_HYPHEN).count();
        self.page.furniture.soft_hyphens += hyphens;
        if hyphens * SOFT_HYPHEN.len_utf8() == word.len() {
            return;
        }
        self.make_room();
        if hyphens == 0 {
            self.page.text.push_str(word);
        } else {
            self.page.text.extend(word.chars().filter(|&c| c != SOFT_HYPHEN));
        }
    }

    /// Opens a block where none is open, and writes what separates the next word from the last.
    fn make_room(&mut self) {
        let text = &mut self.page.text;
        match self.open {
            Some(_) => match self.gap {
                Gap::None => {}
                Gap::Space => text.push(' '),
                Gap::Line => text.push('\n'),
                Gap::Cell => text.push('\t'),
            },
            None => {
                let before = text.len();
                let kind = self.kind();
                match self.page.blocks.last() {
                    None => {}
                    Some(last) if last.kind == kind && is_tight(kind) => self.page.text.push('\n'),
                    Some(_) => self.page.text.push_str("\n\n"),
                }
                self.open = Some((self.page.text.len(), before));
            }
        }
        self.gap = Gap::None;
    }

    fn close_block(&mut self) {
        self.gap = Gap::None;
        let Some((start, before)) = self.open.take() else { return };
        let kept = self.page.text[start..].trim_end().len();
        if kept == 0 {
            self.page.text.truncate(before);
            let next = self.page.blocks.len();
            let later = self.page.anchors.iter_mut().rev().take_while(|(_, block)| *block > next);
            later.for_each(|(_, block)| *block = next);
            return;
        }
        self.page.text.truncate(start + kept);
        let kind = self.kind();
        self.page.blocks.push(Block { kind, start, end: start + kept, chapter: 0 });
    }

    fn kind(&self) -> BlockKind {
        match self.heading {
            Some(level) => BlockKind::Heading(level),
            None if self.preformatted > 0 => BlockKind::Preformatted,
            None if self.in_row => BlockKind::TableRow,
            None if self.lists > 0 => BlockKind::ListItem,
            None if self.quotes > 0 => BlockKind::Quote,
            None => BlockKind::Paragraph,
        }
    }

    fn note_anchor(&mut self, element: Element<'_>) {
        for attribute in ["id", "name"] {
            let Some(id) = element.attribute(attribute).filter(|id| self.wanted.contains(*id)) else {
                continue;
            };
            // An anchor after the first words of a paragraph stands for what follows the paragraph.
            let next = self.page.blocks.len() + usize::from(self.open.is_some());
            self.page.anchors.push((id.to_owned(), next));
        }
    }

    fn count(&mut self, kind: Kind) {
        let furniture = &mut self.page.furniture;
        match kind {
            Kind::Navigation => furniture.navigation += 1,
            Kind::Script => furniture.scripts += 1,
            Kind::PageBreak => furniture.page_breaks += 1,
            Kind::NoteReference => furniture.note_references += 1,
            Kind::Gloss => furniture.glosses += 1,
            Kind::Drawing => furniture.images += 1,
        }
    }

    fn meta(&mut self, element: Element<'_>) {
        let is_author = element.attribute("name").is_some_and(|name| name.eq_ignore_ascii_case("author"));
        let content = element.attribute("content").map(str::trim).filter(|content| !content.is_empty());
        if let (true, Some(author)) = (is_author, content) {
            let end = author.floor_char_boundary(METADATA_VALUE_BYTES_MAX);
            self.page.authors.push(author[..end].to_owned());
        }
    }
}

fn language(element: Element<'_>) -> Option<String> {
    let language = element.attribute("lang").or_else(|| element.attribute("xml:lang"))?.trim();
    (!language.is_empty() && language.len() <= METADATA_VALUE_BYTES_MAX).then(|| language.to_owned())
}

/// Whitespace that HTML collapses; a no-break space is none.
fn is_collapsed(c: char) -> bool {
    c.is_ascii_whitespace()
}

/// Blocks of these kinds that follow each other are separated by one line break.
fn is_tight(kind: BlockKind) -> bool {
    matches!(kind, BlockKind::ListItem | BlockKind::TableRow)
}

fn furniture(element: Element<'_>) -> Option<Kind> {
    match element.name() {
        "nav" => return Some(Kind::Navigation),
        "script" | "style" | "template" | "iframe" | "noembed" | "noframes" => return Some(Kind::Script),
        "svg" => return Some(Kind::Drawing),
        "rt" | "rp" => return Some(Kind::Gloss),
        _ => {}
    }
    let types = element.attribute("epub:type").unwrap_or_default().split_ascii_whitespace();
    let roles = element.attribute("role").unwrap_or_default().split_ascii_whitespace();
    let classes = element.attribute("class").unwrap_or_default().split_ascii_whitespace();
    let by_type = types.filter_map(|name| match name {
        "pagebreak" => Some(Kind::PageBreak),
        "noteref" | "backlink" | "referrer" => Some(Kind::NoteReference),
        "toc" | "landmarks" | "page-list" | "loi" | "lot" => Some(Kind::Navigation),
        _ => None,
    });
    let by_role = roles.filter_map(|name| match name {
        "doc-pagebreak" => Some(Kind::PageBreak),
        "doc-noteref" | "doc-backlink" => Some(Kind::NoteReference),
        "navigation" | "doc-toc" | "doc-pagelist" => Some(Kind::Navigation),
        _ => None,
    });
    let by_class = classes.filter_map(|name| match name {
        "pagenum" | "page-number" | "pageno" => Some(Kind::PageBreak),
        _ => None,
    });
    by_type.chain(by_role).chain(by_class).next()
}

/// Elements whose edges separate words.
fn is_block(name: &str) -> bool {
    matches!(
        name,
        "address"
            | "article"
            | "aside"
            | "blockquote"
            | "body"
            | "button"
            | "caption"
            | "center"
            | "dd"
            | "details"
            | "dialog"
            | "dir"
            | "div"
            | "dl"
            | "dt"
            | "fieldset"
            | "figcaption"
            | "figure"
            | "footer"
            | "form"
            | "h1"
            | "h2"
            | "h3"
            | "h4"
            | "h5"
            | "h6"
            | "head"
            | "header"
            | "hgroup"
            | "hr"
            | "html"
            | "legend"
            | "li"
            | "listing"
            | "main"
            | "menu"
            | "nav"
            | "ol"
            | "optgroup"
            | "option"
            | "p"
            | "pre"
            | "search"
            | "section"
            | "select"
            | "summary"
            | "table"
            | "tbody"
            | "td"
            | "tfoot"
            | "th"
            | "thead"
            | "title"
            | "tr"
            | "ul"
            | "xmp"
    )
}

/// Elements that never have content or an end tag.
fn is_void(name: &str) -> bool {
    matches!(
        name,
        "area"
            | "base"
            | "br"
            | "col"
            | "embed"
            | "hr"
            | "img"
            | "input"
            | "link"
            | "meta"
            | "source"
            | "track"
            | "wbr"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encoding::decode_markup;

    fn parsed(source: &str) -> Document {
        let document = document(decode_markup(source.as_bytes().to_vec()), &Limits::DEFAULT).unwrap();
        document.check().unwrap();
        document
    }

    fn blocks(source: &str) -> Vec<(BlockKind, String)> {
        let document = parsed(source);
        document.blocks.iter().map(|b| (b.kind, document.text[b.start..b.end].to_owned())).collect()
    }

    fn check(source: &str, expected: &[(BlockKind, &str)]) {
        let expected: Vec<_> = expected.iter().map(|&(kind, text)| (kind, text.to_owned())).collect();
        assert_eq!(blocks(source), expected, "{source}");
    }

    #[test]
    fn inline_tags_never_split_words_and_block_tags_always_do() {
        use BlockKind::{Heading, Paragraph};
        check("<p>w<b>or</b>d <i>two</i><u>3</u></p>", &[(Paragraph, "word two3")]);
        check("<p>a<b> b</b> <i> c</i></p>", &[(Paragraph, "a b c")]);
        check("a<p>b</p>c<div>d<p>e</p></div>f", &["a", "b", "c", "d", "e", "f"].map(|t| (Paragraph, t)));
        check("<h2>One<br/>Two</h2>x", &[(Heading(2), "One\nTwo"), (Paragraph, "x")]);
        check(
            "<h1>no end<p>text</p><p>more</p>",
            &[(Heading(1), "no end"), (Paragraph, "text"), (Paragraph, "more")],
        );
    }

    #[test]
    fn kinds_of_blocks() {
        use BlockKind::{ListItem, Paragraph, Preformatted, Quote, TableRow};
        check("<ul><li>a<li><p>b</p></ul>c", &[(ListItem, "a"), (ListItem, "b"), (Paragraph, "c")]);
        check("<blockquote><p>q</p></blockquote>c", &[(Quote, "q"), (Paragraph, "c")]);
        check("<pre>\n  a\n\n  b  <b>c</b>\n</pre>d", &[(Preformatted, "  a\n\n  b  c"), (Paragraph, "d")]);
        let table = "<table><tr><th>a</th><td><p>b</p><p>c</p></td></tr><tr><td>d<td>e</table>f";
        check(table, &[(TableRow, "a\tb\nc"), (TableRow, "d\te"), (Paragraph, "f")]);
        assert_eq!(parsed(table).text, "a\tb\nc\nd\te\n\nf");
    }

    #[test]
    fn a_page_laid_out_as_a_table_keeps_its_paragraphs() {
        let long = "words ".repeat(ROW_BYTES_MAX / 6 + 1);
        let page = format!("<table><tr><td><p>{long}</p><p>{long}</p><p>{long}</p></td></tr></table>");
        assert_eq!(blocks(&page).len(), 3);
    }

    #[test]
    fn self_closing_elements_of_xhtml_swallow_nothing() {
        for element in ["script", "title", "a id='x'", "style", "textarea", "iframe", "nav", "p", "svg", "td"]
        {
            let page =
                format!("<html xmlns='http://www.w3.org/1999/xhtml'><body><{element}/><p>kept</p></body>");
            check(&page, &[(BlockKind::Paragraph, "kept")]);
        }
    }

    #[test]
    fn entities_spaces_and_character_data() {
        let check = |source: &str, text: &str| check(source, &[(BlockKind::Paragraph, text)]);
        check("<p>caf&eacute;&nbsp;&#8212;&#x2014; AT&T &unknown;</p>", "café\u{a0}—— AT&T &unknown;");
        check("<p> a \n\t b </p><p>&nbsp;</p>", "a b");
        check("<p>hy\u{ad}phen&shy;ated</p>", "hyphenated");
        check("<?xml version='1.0'?><p>a<![CDATA[ <b> & c]]></p>", "a <b> & c");
        check("<!DOCTYPE html [<!ENTITY x 'y'>]><p>&x;</p>", "&x;");
    }

    #[test]
    fn furniture_is_counted_and_left_out() {
        let page = "<nav><ol><li>Contents</li></ol></nav><script>var x = '</p>';</script><style>p{}</style>\
            <p>One<span epub:type='pagebreak' id='p2'>2</span> two<a epub:type='noteref' href='#n'>1</a>.\
            <span class='pagenum'>[3]</span> <ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby></p>\
            <aside epub:type='footnote' id='n'>A note. <a role='doc-backlink' href='#r'>back</a></aside>\
            <img alt='not text'/><svg><title>no</title><text>no</text></svg><template><p>no</p></template>";
        let document = parsed(page);
        assert_eq!(document.text, "One two. 漢\n\nA note.");
        let expected = Furniture {
            navigation: 1,
            scripts: 3,
            page_breaks: 2,
            note_references: 2,
            glosses: 3,
            images: 2,
            ..Furniture::default()
        };
        assert_eq!((document.furniture, document.title), (expected, None));
    }

    #[test]
    fn furniture_that_nothing_closes_does_not_swallow_the_page() {
        let document = parsed("<p>one</p><nav><p>two</p>");
        assert_eq!(document.text, "one\n\ntwo");
        assert_eq!(document.furniture.navigation, 1);
    }

    #[test]
    fn the_head_gives_title_author_and_language() {
        let page =
            "<html lang='de'><head><title>\n A &amp;\n B</title><meta name=Author content='C'></head>x";
        let document = parsed(page);
        assert_eq!(document.title.as_deref(), Some("A & B"));
        assert_eq!((document.authors, document.language), (vec!["C".to_owned()], Some("de".to_owned())));
        assert_eq!(document.text, "x");
    }

    #[test]
    fn anchors_stand_at_blocks() {
        let wanted = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        let page = "<p id='a'>0</p><h2><a id='b'></a>1</h2><p>2 <span id='c'/>more</p><p>&nbsp;<i id='d'/></p><p>3</p><p id='e'/>";
        let page = read(page, Dialect::Xhtml, &wanted, 1000).unwrap();
        let anchors: Vec<_> = page.anchors.iter().map(|(id, block)| (id.as_str(), *block)).collect();
        assert_eq!(anchors, [("a", 0), ("b", 1), ("c", 3), ("d", 3), ("e", 4)]);
    }

    #[test]
    fn a_hundred_thousand_nested_tags_are_read_in_a_moment() {
        let depth = 100_000;
        for tag in ["div", "b", "table", "blockquote", "ul", "nav"] {
            let page =
                format!("{}text{}", format!("<{tag}>").repeat(depth), format!("</{tag}>").repeat(depth));
            let start = std::time::Instant::now();
            let text = parsed(&format!("{page}<p>end</p>")).text;
            assert!(text.ends_with("end"), "{tag}");
            // Measured at 0.1 s; going quadratic would take minutes.
            assert!(start.elapsed().as_secs() < 5, "{tag}: {:?}", start.elapsed());
        }
    }

    #[test]
    fn text_over_the_limit_is_too_large() {
        let limit = |text_bytes| read("<p>12345</p>", Dialect::Html, &HashSet::new(), text_bytes);
        assert!(limit(5).is_ok());
        assert_eq!(limit(4).err().map(|failure| failure.verdict), Some(Verdict::TooLarge));
    }

    /// Pieces of markup, so that random pages reach the states that random bytes do not.
    fn markup() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "<p>",
            "</p>",
            "<div>",
            "</div>",
            "<pre>",
            "</pre>",
            "<h1>",
            "</h1>",
            "<h2>",
            "<br>",
            "<tr>",
            "</tr>",
            "<td>",
            "<table>",
            "</table>",
            "<nav>",
            "</nav>",
            "<script>",
            "</script>",
            "<title>",
            "</title>",
            "<li>",
            "<ul>",
            "</ul>",
            "<svg/>",
            "<a id='x'>",
            "<![CDATA[",
            "]]>",
            "<!--",
            "-->",
            "&amp;",
            "&shy;",
            "&nbsp;",
            " ",
            "\n",
            "é",
            "word",
            "\u{ad}",
            "<",
            ">",
            "\0",
            "漢字",
            "<span epub:type='pagebreak'>",
            "</span>",
            "<blockquote>",
            "</blockquote>",
        ]);
        prop::collection::vec(pieces, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_give_valid_offsets(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let document = document(decode_markup(bytes), &Limits::DEFAULT).unwrap();
            prop_assert_eq!(document.check(), Ok(()));
        }

        #[test]
        fn any_markup_gives_valid_offsets(page in markup()) {
            let document = document(decode_markup(page.into_bytes()), &Limits::DEFAULT).unwrap();
            prop_assert_eq!(document.check(), Ok(()));
            let touching = document.blocks.windows(2).find(|pair| pair[0].end == pair[1].start);
            prop_assert!(touching.is_none(), "{:?}", touching);
        }
    }
}
