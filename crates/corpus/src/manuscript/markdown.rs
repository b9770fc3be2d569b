//! Markdown, by the events of its parser and their byte ranges.

use std::ops::Range;

use pulldown_cmark::{Event, LinkType, Options, Parser, Tag, TagEnd};

use super::part::Reading;
use super::piece::{Draft, OBJECT, PieceKind};
use super::{ManuscriptError, PassageKind};

/// Inline HTML whose content is not prose.
const FIXED_TAGS: [&str; 8] = ["<code", "<kbd", "<samp", "<var", "<tt", "<pre", "<script", "<style"];

pub(super) fn read(text: &str, reading: Reading) -> Result<Reading, ManuscriptError> {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
        | Options::ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS
        | Options::ENABLE_MATH;
    let mut reader =
        Reader { source: text, reading, draft: Draft::default(), place: Place::default(), line_break: None };
    for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
        reader.event(event, range)?;
    }
    reader.close()?;
    Ok(reader.reading)
}

/// What is open around the text.
#[derive(Default)]
struct Place {
    is_heading: bool,
    is_cell: bool,
    items: usize,
    quotes: usize,
    notes: usize,
    /// Code, front matter or an HTML block.
    is_verbatim: bool,
    images: usize,
    /// Links whose text is their destination.
    addresses: usize,
    links: Vec<bool>,
    /// End tag of the inline HTML whose content stays.
    fixed_until: Option<&'static str>,
}

struct Reader<'a> {
    source: &'a str,
    reading: Reading,
    draft: Draft,
    place: Place,
    /// A soft line break, which reaches to the text after it.
    line_break: Option<Range<usize>>,
}

impl Reader<'_> {
    fn event(&mut self, event: Event<'_>, range: Range<usize>) -> Result<(), ManuscriptError> {
        if !matches!(event, Event::Text(_) | Event::SoftBreak) {
            self.reading.note(format!("{event:?}"));
        }
        match event {
            Event::Start(tag) => self.start(&tag, range)?,
            Event::End(tag) => self.end(tag)?,
            Event::Text(text) if self.place.is_verbatim => self.reading.note(&*text),
            _ if self.place.images > 0 || self.place.is_verbatim => {}
            Event::Text(text) => self.text(&text, range),
            Event::SoftBreak => self.line_break = Some(range),
            Event::HardBreak => self.fixed("\n", range),
            Event::Code(text) | Event::InlineMath(text) | Event::DisplayMath(text) => {
                self.fixed(&text, range);
            }
            Event::FootnoteReference(_) => {
                let mark = &self.source[range.clone()];
                self.fixed(mark, range);
            }
            Event::InlineHtml(tag) => self.inline_html(&tag),
            Event::Html(_) | Event::Rule | Event::TaskListMarker(_) => self.close()?,
        }
        Ok(())
    }

    fn start(&mut self, tag: &Tag<'_>, range: Range<usize>) -> Result<(), ManuscriptError> {
        match tag {
            Tag::Emphasis | Tag::Strong | Tag::Strikethrough | Tag::Superscript | Tag::Subscript => {
                return Ok(());
            }
            Tag::Link { link_type, .. } => {
                let is_address = matches!(link_type, LinkType::Autolink | LinkType::Email);
                self.place.addresses += usize::from(is_address);
                self.place.links.push(is_address);
                return Ok(());
            }
            Tag::Image { .. } => {
                if self.place.images == 0 {
                    self.fixed(OBJECT, range);
                }
                self.place.images += 1;
                return Ok(());
            }
            _ => self.close()?,
        }
        match tag {
            Tag::Heading { .. } => self.place.is_heading = true,
            Tag::TableCell => self.place.is_cell = true,
            Tag::Item => self.place.items += 1,
            Tag::BlockQuote(_) => self.place.quotes += 1,
            Tag::FootnoteDefinition(_) => self.place.notes += 1,
            Tag::CodeBlock(_) | Tag::HtmlBlock | Tag::MetadataBlock(_) => self.place.is_verbatim = true,
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, tag: TagEnd) -> Result<(), ManuscriptError> {
        match tag {
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough => return Ok(()),
            TagEnd::Superscript | TagEnd::Subscript => return Ok(()),
            TagEnd::Link => {
                let was_address = self.place.links.pop() == Some(true);
                self.place.addresses -= usize::from(was_address);
                return Ok(());
            }
            TagEnd::Image => {
                self.place.images = self.place.images.saturating_sub(1);
                return Ok(());
            }
            _ => self.close()?,
        }
        let place = &mut self.place;
        match tag {
            TagEnd::Heading(_) => place.is_heading = false,
            TagEnd::TableCell => place.is_cell = false,
            TagEnd::Item => place.items = place.items.saturating_sub(1),
            TagEnd::BlockQuote(_) => place.quotes = place.quotes.saturating_sub(1),
            TagEnd::FootnoteDefinition => place.notes = place.notes.saturating_sub(1),
            TagEnd::CodeBlock | TagEnd::HtmlBlock | TagEnd::MetadataBlock(_) => place.is_verbatim = false,
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), ManuscriptError> {
        self.line_break = None;
        self.place.fixed_until = None;
        let kind = match &self.place {
            place if place.is_heading => PassageKind::Heading,
            place if place.is_cell => PassageKind::TableCell,
            place if place.items > 0 => PassageKind::ListItem,
            place if place.quotes > 0 => PassageKind::Quote,
            place if place.notes > 0 => PassageKind::Other,
            _ => PassageKind::Paragraph,
        };
        self.reading.take(std::mem::take(&mut self.draft), kind, self.source)
    }

    fn text(&mut self, text: &str, mut range: Range<usize>) {
        self.break_line(range.start);
        if self.place.addresses > 0 || self.place.fixed_until.is_some() {
            self.draft.push(text, range, PieceKind::Fixed);
            return;
        }
        let is_plain = self.source.get(range.clone()) == Some(text);
        let end = self.draft.pieces.last().map_or(0, |piece| piece.source.end);
        let is_escaped = range.start > end && self.source.as_bytes()[range.start - 1] == b'\\';
        match text.chars().next() {
            Some(first) if is_plain && is_escaped && first.is_ascii_punctuation() => {
                let (first, rest) = text.split_at(first.len_utf8());
                let middle = range.start + first.len();
                self.draft.push(first, range.start - 1..middle, PieceKind::Encoded);
                range.start = middle;
                if !rest.is_empty() {
                    self.draft.push(rest, range, PieceKind::Plain);
                }
            }
            _ if is_plain => self.draft.push(text, range, PieceKind::Plain),
            _ => self.draft.push(text, range, PieceKind::Encoded),
        }
    }

    fn fixed(&mut self, text: &str, range: Range<usize>) {
        self.break_line(range.start);
        self.draft.push(text, range, PieceKind::Fixed);
    }

    fn break_line(&mut self, until: usize) {
        if let Some(line_break) = self.line_break.take() {
            self.draft.push(" ", line_break.start..until.max(line_break.end), PieceKind::Encoded);
        }
    }

    fn inline_html(&mut self, tag: &str) {
        let tag = tag.to_ascii_lowercase();
        match self.place.fixed_until {
            Some(end) if tag.strip_prefix("</").is_some_and(|tag| tag.starts_with(end)) => {
                self.place.fixed_until = None;
            }
            Some(_) => {}
            None => {
                let opened = FIXED_TAGS.iter().find(|fixed| tag.starts_with(**fixed));
                self.place.fixed_until = opened.map(|fixed| &fixed[1..]);
            }
        }
    }
}
