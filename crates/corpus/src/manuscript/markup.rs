//! HTML and XHTML: block elements separate passages, inline elements are markup inside of them.

use super::inline::{self, Whitespace};
use super::part::{PartKind, Reading};
use super::piece::{Draft, OBJECT, PieceKind};
use super::scanner::{Scanner, Tag, Token};
use super::{ManuscriptError, PassageKind};

/// Elements that do not end a passage.
const INLINE: [&str; 40] = [
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font",
    "i", "img", "input", "ins", "kbd", "label", "mark", "math", "nobr", "q", "rb", "rt", "rp", "ruby", "s",
    "samp", "small", "span", "strike", "strong", "sub", "sup", "svg", "time", "tt", "u",
];
const INLINE_TOO: [&str; 5] = ["var", "wbr", "br", "meter", "output"];
/// Elements whose text is seen but never changed.
const FIXED: [&str; 7] = ["code", "kbd", "samp", "var", "tt", "rt", "rp"];
/// Elements of which nothing is read.
const IGNORED: [&str; 23] = [
    "head",
    "script",
    "style",
    "pre",
    "textarea",
    "title",
    "xmp",
    "iframe",
    "noembed",
    "noframes",
    "noscript",
    "template",
    "object",
    "audio",
    "video",
    "canvas",
    "select",
    "svg",
    "math",
    "nav",
    "map",
    "listing",
    "plaintext",
];
/// Elements that stand for a picture or formula in a passage.
const OBJECTS: [&str; 4] = ["img", "svg", "math", "input"];
/// Elements without content in HTML.
const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
];

pub(super) fn read(source: &str, kind: PartKind, reading: Reading) -> Result<Reading, ManuscriptError> {
    let mut reader = Reader { source, reading, draft: Draft::default(), place: Place::default() };
    let mut scanner = Scanner::new(source, kind);
    loop {
        let start = scanner.offset();
        let Some(token) = scanner.next() else { break };
        reader.token(&token, start, scanner.offset())?;
    }
    reader.close()?;
    Ok(reader.reading)
}

/// An element that is open, by its name, and how many of that name are open in it.
struct Open {
    name: String,
    depth: usize,
}

#[derive(Default)]
struct Place {
    is_heading: bool,
    is_caption: bool,
    cells: usize,
    items: usize,
    quotes: usize,
    ignored: Option<Open>,
    fixed: Option<Open>,
}

struct Reader<'a> {
    source: &'a str,
    reading: Reading,
    draft: Draft,
    place: Place,
}

impl Reader<'_> {
    fn token(&mut self, token: &Token<'_>, start: usize, end: usize) -> Result<(), ManuscriptError> {
        match token {
            Token::Text(range) if self.place.ignored.is_none() => {
                let is_fixed = self.place.fixed.is_some();
                inline::push(&mut self.draft, self.source, range.clone(), Whitespace::Folded, is_fixed);
                Ok(())
            }
            Token::Text(range) => {
                self.reading.note(&self.source[range.clone()]);
                Ok(())
            }
            Token::Start(tag) => {
                self.reading.note(&self.source[end - 1..end]);
                let name = tag.name.to_ascii_lowercase();
                self.reading.note(&name);
                self.start(*tag, &name, start..end)
            }
            Token::End(name) => {
                let name = name.to_ascii_lowercase();
                self.reading.note(&name);
                self.end(&name)
            }
        }
    }

    fn start(
        &mut self,
        tag: Tag<'_>,
        name: &str,
        range: std::ops::Range<usize>,
    ) -> Result<(), ManuscriptError> {
        let has_content = !tag.is_closed && !VOID.contains(&name);
        for open in [&mut self.place.ignored, &mut self.place.fixed].into_iter().flatten() {
            open.depth += usize::from(has_content && open.name == name);
        }
        if self.place.ignored.is_some() {
            return Ok(());
        }
        if OBJECTS.contains(&name) {
            self.draft.push(OBJECT, range, PieceKind::Fixed);
        } else if name == "br" {
            self.draft.trim_end();
            self.draft.push("\n", range, PieceKind::Fixed);
        } else if !is_inline(name) {
            self.close()?;
        }
        if has_content {
            self.enter(tag, name);
        }
        Ok(())
    }

    fn enter(&mut self, tag: Tag<'_>, name: &str) {
        let place = &mut self.place;
        match name {
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => place.is_heading = true,
            "caption" | "figcaption" => place.is_caption = true,
            "td" | "th" => place.cells += 1,
            "li" => place.items += 1,
            "blockquote" => place.quotes += 1,
            _ => {}
        }
        let open = || Some(Open { name: name.to_owned(), depth: 1 });
        let is_note_mark = ["epub:type", "role"].iter().filter_map(|key| tag.attribute(key)).any(|value| {
            value.split_ascii_whitespace().any(|word| word == "noteref" || word == "doc-noteref")
        });
        if IGNORED.contains(&name) {
            place.ignored = open();
        } else if place.fixed.is_none() && (FIXED.contains(&name) || is_note_mark) {
            place.fixed = open();
        }
    }

    fn end(&mut self, name: &str) -> Result<(), ManuscriptError> {
        for slot in [&mut self.place.ignored, &mut self.place.fixed] {
            if let Some(open) = slot.as_mut().filter(|open| open.name == name) {
                open.depth -= 1;
                if open.depth == 0 {
                    *slot = None;
                }
            }
        }
        if self.place.ignored.is_some() || is_inline(name) {
            return Ok(());
        }
        self.close()?;
        let place = &mut self.place;
        match name {
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => place.is_heading = false,
            "caption" | "figcaption" => place.is_caption = false,
            "td" | "th" => place.cells = place.cells.saturating_sub(1),
            "li" => place.items = place.items.saturating_sub(1),
            "blockquote" => place.quotes = place.quotes.saturating_sub(1),
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), ManuscriptError> {
        let kind = match &self.place {
            place if place.is_heading => PassageKind::Heading,
            place if place.is_caption => PassageKind::Other,
            place if place.items > 0 => PassageKind::ListItem,
            place if place.cells > 0 => PassageKind::TableCell,
            place if place.quotes > 0 => PassageKind::Quote,
            _ => PassageKind::Paragraph,
        };
        // An unclosed element must not protect the rest of the document.
        self.place.fixed = None;
        self.reading.take(std::mem::take(&mut self.draft), kind, self.source)
    }
}

fn is_inline(name: &str) -> bool {
    INLINE.contains(&name) || INLINE_TOO.contains(&name)
}
