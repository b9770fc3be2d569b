//! The document of a Word file: paragraphs `w:p` with their text in `w:t`.

use super::inline::{self, Whitespace};
use super::part::{PartKind, Reading, Splice};
use super::piece::{Draft, OBJECT, Piece, PieceKind};
use super::scanner::{Scanner, Tag, Token};
use super::{ManuscriptError, PassageKind};

/// Deleted and moved text, and what the text around it only refers to.
const IGNORED: [&str; 3] = ["w:del", "w:moveFrom", "w:rubyBase"];
/// What stands for itself in the text.
const OBJECTS: [&str; 9] = [
    "w:drawing",
    "w:pict",
    "w:object",
    "mc:AlternateContent",
    "m:oMath",
    "m:oMathPara",
    "w:ruby",
    "w:footnoteReference",
    "w:endnoteReference",
];
const PRESERVE: &str = " xml:space=\"preserve\"";

pub(super) fn read(source: &str, reading: Reading) -> Result<Reading, ManuscriptError> {
    let mut reader = Reader { source, reading, draft: Draft::default(), place: Place::default() };
    let mut scanner = Scanner::new(source, PartKind::Word);
    loop {
        let start = scanner.offset();
        let Some(token) = scanner.next() else { break };
        let range = start..scanner.offset();
        match token {
            Token::Start(tag) => reader.start(tag, range)?,
            Token::End(name) => reader.end(name)?,
            Token::Text(range) => reader.text(range),
        }
    }
    reader.close()?;
    Ok(reader.reading)
}

#[derive(Default)]
struct Place {
    /// The element of which nothing is read, and how many of its name are open in it.
    ignored: Option<(String, usize)>,
    is_text: bool,
    keeps_spaces: bool,
    cells: usize,
    is_heading: bool,
    is_item: bool,
    /// Complex fields and simple ones that are open.
    fields: usize,
}

struct Reader<'a> {
    source: &'a str,
    reading: Reading,
    draft: Draft,
    place: Place,
}

impl Reader<'_> {
    fn start(&mut self, tag: Tag<'_>, range: std::ops::Range<usize>) -> Result<(), ManuscriptError> {
        self.reading.note(tag.name);
        if let Some((name, depth)) = &mut self.place.ignored {
            *depth += usize::from(name == tag.name && !tag.is_closed);
            return Ok(());
        }
        let is_object = OBJECTS.contains(&tag.name);
        if is_object {
            self.draft.push(OBJECT, range, PieceKind::Fixed);
        } else {
            self.element(tag, range)?;
        }
        if !tag.is_closed && (is_object || IGNORED.contains(&tag.name)) {
            self.place.ignored = Some((tag.name.to_owned(), 1));
        }
        Ok(())
    }

    fn element(&mut self, tag: Tag<'_>, range: std::ops::Range<usize>) -> Result<(), ManuscriptError> {
        let value = || tag.attribute("w:val").unwrap_or_default();
        match tag.name {
            "w:p" => self.close()?,
            "w:tc" => self.place.cells += usize::from(!tag.is_closed),
            "w:pStyle" => self.place.is_heading = value().to_ascii_lowercase().starts_with("heading"),
            "w:numPr" => self.place.is_item = true,
            "w:t" => {
                self.place.is_text = !tag.is_closed;
                self.place.keeps_spaces = tag.attribute("xml:space") == Some("preserve");
            }
            "w:tab" if !self.draft.text.is_empty() => self.draft.push("\t", range, PieceKind::Fixed),
            "w:br" | "w:cr" => self.draft.push("\n", range, PieceKind::Fixed),
            "w:noBreakHyphen" => self.draft.push("\u{2011}", range, PieceKind::Fixed),
            "w:sym" => self.draft.push(OBJECT, range, PieceKind::Fixed),
            "w:fldSimple" => self.place.fields += usize::from(!tag.is_closed),
            "w:fldChar" => match tag.attribute("w:fldCharType") {
                Some("begin") => self.place.fields += 1,
                Some("end") => self.place.fields = self.place.fields.saturating_sub(1),
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, name: &str) -> Result<(), ManuscriptError> {
        self.reading.note(name);
        if let Some((ignored, depth)) = &mut self.place.ignored {
            *depth -= usize::from(ignored == name);
            if *depth == 0 {
                self.place.ignored = None;
            }
            return Ok(());
        }
        match name {
            "w:p" => self.close()?,
            "w:tc" => self.place.cells = self.place.cells.saturating_sub(1),
            "w:t" => self.place.is_text = false,
            "w:fldSimple" => self.place.fields = self.place.fields.saturating_sub(1),
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, mut range: std::ops::Range<usize>) {
        if !self.place.is_text || self.place.ignored.is_some() {
            self.reading.note(&self.source[range]);
            return;
        }
        if !self.place.keeps_spaces {
            let text = &self.source[range.clone()];
            range.start += text.len() - text.trim_ascii_start().len();
            range.end = range.start + text.trim_ascii().len();
        }
        inline::push(&mut self.draft, self.source, range, Whitespace::Kept, self.place.fields > 0);
    }

    fn close(&mut self) -> Result<(), ManuscriptError> {
        let kind = match &self.place {
            place if place.is_heading => PassageKind::Heading,
            place if place.is_item => PassageKind::ListItem,
            place if place.cells > 0 => PassageKind::TableCell,
            _ => PassageKind::Paragraph,
        };
        (self.place.is_heading, self.place.is_item) = (false, false);
        self.reading.take(std::mem::take(&mut self.draft), kind, self.source)
    }
}

/// Has Word keep the spaces at the ends of every text that a change gives some: `<w:t>` becomes
/// `<w:t xml:space="preserve">`.
pub(super) fn keep_spaces(source: &str, pieces: &[Piece], splices: &mut Vec<Splice>) {
    const BARE: &str = "<w:t>";
    let mut tags: Vec<usize> = Vec::new();
    for (range, text) in splices.iter() {
        let before = &source[..range.start];
        let Some(tag) = before.rfind('>').filter(|&at| before[..=at].ends_with(BARE)) else { continue };
        let end = source[tag + 1..].find('<').map_or(source.len(), |end| tag + 1 + end);
        let is_at_end = range.start == tag + 1 || range.end == end || text.is_empty();
        let inner = pieces.iter().any(|piece| piece.source.start == tag + 1);
        if is_at_end && inner {
            tags.push(tag);
        }
    }
    tags.dedup();
    splices.extend(tags.into_iter().map(|tag| (tag..tag, PRESERVE.to_owned())));
    splices.sort_by_key(|(range, _)| (range.start, range.end));
}
