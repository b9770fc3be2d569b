//! Word documents: paragraphs, lists, tables and notes of `word/document.xml`, in the order of the file.
//!
//! Headings are known by their style or outline level and become chapters. A note stands after the paragraph that
//! refers to it. What a tracked change deletes or moves away is left out and counted; what it inserts is text.
//! Headers, footers and comments are not read.

use std::collections::HashMap;
use std::fs::File;

use serde_json::json;

use crate::archive::Archive;
use crate::chapters;
use crate::document::{BETWEEN_BLOCKS, BlockKind, Document};
use crate::encoding;
use crate::html::one_line_title;
use crate::limits::{Limits, METADATA_VALUE_BYTES_MAX};
use crate::markup::{Dialect, Element, Token, tokens};
use crate::verdict::{ParseFailure, Verdict};

/// Styles that go back to each other are followed no further.
const STYLE_CHAIN_MAX: usize = 16;
/// Word knows nine outline levels, a document six.
const HEADING_LEVEL_MAX: u8 = 6;

/// Reads a whole document.
pub(crate) fn read(file: File, limits: &Limits) -> Result<Document, ParseFailure> {
    let mut archive = Archive::open(file, limits)?;
    let main = main_part(&mut archive)?;
    let folder = main.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    let part = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let styles = styles(&text_of(&mut archive, &part("styles.xml"))?.unwrap_or_default());
    let mut notes = HashMap::new();
    for (name, element) in [("footnotes.xml", "footnote"), ("endnotes.xml", "endnote")] {
        let source = text_of(&mut archive, &part(name))?.unwrap_or_default();
        read_notes(&source, element, &styles, limits, &mut notes)?;
    }
    let Some(source) = text_of(&mut archive, &main)? else { return Err(without_document(&archive)) };
    let mut reader = Reader::new(&styles, notes, limits.text_bytes);
    tokens(&source, Dialect::Xml, |token| reader.token(token));
    let mut document = reader.finish()?;
    let core = text_of(&mut archive, "docProps/core.xml")?.unwrap_or_default();
    read_properties(&core, &mut document);
    chapters::from_headings(&mut document, one_line_title);
    Ok(document)
}

/// The part that the package names as its document.
pub(crate) fn main_part(archive: &mut Archive) -> Result<String, ParseFailure> {
    let main = named_main(archive)?.unwrap_or_else(|| "word/document.xml".to_owned());
    if archive.has(&main) && main.rsplit('/').next().is_some_and(|name| name.starts_with("document")) {
        return Ok(main);
    }
    Err(without_document(archive))
}

/// What a package of Office says its main part is.
pub(crate) fn named_main(archive: &mut Archive) -> Result<Option<String>, ParseFailure> {
    let relations = text_of(archive, "_rels/.rels")?.unwrap_or_default();
    let mut main = None;
    tokens(&relations, Dialect::Xml, |token| {
        if let Token::Start(element) = token
            && element.name() == "relationship"
            && element.attribute("type").is_some_and(|kind| kind.ends_with("/officeDocument"))
        {
            let target = element.attribute("target").map(|target| target.trim_start_matches('/').to_owned());
            main = main.take().or(target);
        }
    });
    Ok(main)
}

fn without_document(archive: &Archive) -> ParseFailure {
    let others = [
        ("xl/workbook.xml", "an Excel workbook"),
        ("ppt/presentation.xml", "a PowerPoint presentation"),
        ("META-INF/container.xml", "an EPUB"),
        ("content.xml", "an OpenDocument file"),
    ];
    match others.iter().find(|(path, _)| archive.has(path)) {
        Some((_, kind)) => {
            ParseFailure::new(Verdict::Unsupported, format!("named as docx, but its content is {kind}"))
        }
        None => ParseFailure::new(Verdict::Corrupt, "a zip archive without a Word document in it"),
    }
}

/// A part of the package as text; a part that a package need not have and lacks says nothing.
pub(crate) fn text_of(archive: &mut Archive, path: &str) -> Result<Option<String>, ParseFailure> {
    Ok(archive.read(path)?.map(|bytes| encoding::decode_markup(bytes).text))
}

/// What a paragraph of a style is; names are in lower case.
#[derive(Default)]
struct Style {
    name: String,
    based_on: Option<String>,
    outline_level: Option<u8>,
}

/// Styles by their ids.
type Styles = HashMap<String, Style>;

fn styles(source: &str) -> Styles {
    let mut styles = Styles::new();
    let mut open: Option<(String, Style)> = None;
    tokens(source, Dialect::Xml, |token| match token {
        Token::Start(element) => match (element.name(), &mut open) {
            ("style", _) => {
                let id = element.attribute("w:styleid").unwrap_or_default().to_owned();
                open = Some((id, Style::default()));
            }
            ("name", Some((_, style))) => style.name = value(element).to_lowercase(),
            ("basedon", Some((_, style))) => style.based_on = Some(value(element).to_owned()),
            ("outlinelvl", Some((_, style))) => style.outline_level = value(element).parse().ok(),
            _ => {}
        },
        Token::End("style") => styles.extend(open.take()),
        Token::End(_) | Token::Text(_) => {}
    });
    styles
}

fn value<'a>(element: Element<'a>) -> &'a str {
    element.attribute("w:val").unwrap_or_default()
}

/// The level of headings that a style stands for: by its name or outline level, or those of a style it is based on.
fn heading_of(styles: &Styles, id: &str) -> Option<u8> {
    let mut id = id;
    for _ in 0..STYLE_CHAIN_MAX {
        let style = styles.get(id)?;
        let named = style.name.strip_prefix("heading ").and_then(|level| level.trim().parse().ok());
        let level = match style.name.as_str() {
            "title" => Some(1),
            _ => named.or(style.outline_level.filter(|level| *level < 9).map(|level| level + 1)),
        };
        match (level, &style.based_on) {
            (Some(level), _) => return Some(level),
            (None, Some(base)) => id = base,
            (None, None) => return None,
        }
    }
    None
}

/// Which note: its kind of element, and its id.
type NoteId = (&'static str, String);

fn read_notes(
    source: &str,
    kind: &'static str,
    styles: &Styles,
    limits: &Limits,
    notes: &mut HashMap<NoteId, String>,
) -> Result<(), ParseFailure> {
    let mut open: Option<(String, Reader<'_>)> = None;
    let mut closed = Vec::new();
    tokens(source, Dialect::Xml, |token| match token {
        // Separators are notes as well, of a type.
        Token::Start(element) if element.name() == kind && element.attribute("w:type").is_none() => {
            let id = element.attribute("w:id").unwrap_or_default().to_owned();
            open = Some((id, Reader::new(styles, HashMap::new(), limits.text_bytes)));
        }
        Token::End(name) if name == kind => closed.extend(open.take()),
        token => {
            if let Some((_, reader)) = &mut open {
                reader.token(token);
            }
        }
    });
    for (id, reader) in closed {
        let text = reader.finish()?.text.replace(BETWEEN_BLOCKS, " ");
        notes.insert((kind, id), text);
    }
    Ok(())
}

/// The document as it grows.
struct Reader<'a> {
    styles: &'a Styles,
    notes: HashMap<NoteId, String>,
    text_bytes: u64,
    document: Document,
    paragraph: Paragraph,
    /// Paragraphs around the one that is open: a text box stands inside one.
    outer: Vec<Paragraph>,
    table_depth: usize,
    /// Cells of the open row of the outermost table.
    cells: Vec<String>,
    /// Open elements whose text is left out.
    left_out: usize,
    is_text: bool,
    is_full: bool,
}

#[derive(Default)]
struct Paragraph {
    text: String,
    heading: Option<u8>,
    is_item: bool,
    notes: Vec<NoteId>,
}

impl<'a> Reader<'a> {
    fn new(styles: &'a Styles, notes: HashMap<NoteId, String>, text_bytes: u64) -> Reader<'a> {
        Reader {
            styles,
            notes,
            text_bytes,
            document: Document::default(),
            paragraph: Paragraph::default(),
            outer: Vec::new(),
            table_depth: 0,
            cells: Vec::new(),
            left_out: 0,
            is_text: false,
            is_full: false,
        }
    }

    fn token(&mut self, token: Token<'_>) {
        match token {
            Token::Start(element) => self.start(element),
            Token::End(name) => self.end(name),
            Token::Text(text) if self.is_text && self.left_out == 0 && !self.is_full => {
                self.paragraph.text.push_str(text);
                self.is_full =
                    (self.document.text.len() + self.paragraph.text.len()) as u64 > self.text_bytes;
            }
            Token::Text(_) => {}
        }
    }

    fn start(&mut self, element: Element<'_>) {
        let is_open = !element.is_self_closing();
        match element.name() {
            "p" if is_open => self.outer.push(std::mem::take(&mut self.paragraph)),
            "pstyle" => self.paragraph.heading = heading_of(self.styles, value(element)),
            "outlinelvl" => {
                let level = value(element).parse().ok().filter(|level: &u8| *level < 9);
                self.paragraph.heading = level.map(|level| level + 1).or(self.paragraph.heading);
            }
            "numpr" => self.paragraph.is_item = true,
            "t" => self.is_text = is_open,
            "tab" | "br" | "cr" if self.left_out == 0 => self.paragraph.text.push(' '),
            "nobreakhyphen" => self.paragraph.text.push('-'),
            "softhyphen" => self.document.furniture.soft_hyphens += 1,
            "footnotereference" => self.refer("footnote", element),
            "endnotereference" => self.refer("endnote", element),
            "blip" | "imagedata" => self.document.furniture.images += 1,
            // The same once more for programs that do not know the first.
            "fallback" if is_open => self.left_out += 1,
            "del" | "movefrom" if is_open => {
                self.left_out += 1;
                self.document.furniture.deleted_pieces += 1;
            }
            "tbl" if is_open => self.table_depth += 1,
            "tc" if is_open && self.table_depth == 1 => self.cells.push(String::new()),
            _ => {}
        }
    }

    fn refer(&mut self, kind: &'static str, element: Element<'_>) {
        self.document.furniture.note_references += 1;
        let id = element.attribute("w:id").unwrap_or_default().to_owned();
        if self.left_out == 0 {
            self.paragraph.notes.push((kind, id));
        }
    }

    fn end(&mut self, name: &str) {
        match name {
            "t" => self.is_text = false,
            "p" => self.end_paragraph(),
            "fallback" | "del" | "movefrom" => self.left_out = self.left_out.saturating_sub(1),
            "tr" if self.table_depth == 1 => self.end_row(),
            "tbl" => self.table_depth = self.table_depth.saturating_sub(1),
            _ => {}
        }
    }

    fn end_paragraph(&mut self) {
        let Some(outer) = self.outer.pop() else { return };
        let Paragraph { text, heading, is_item, notes } = std::mem::replace(&mut self.paragraph, outer);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match self.cells.last_mut() {
            Some(cell) => {
                let space = if cell.is_empty() || text.is_empty() { "" } else { " " };
                cell.push_str(space);
                cell.push_str(&text);
                // They follow the row.
                self.outer.first_mut().unwrap_or(&mut self.paragraph).notes.extend(notes);
            }
            None => {
                let kind = match heading {
                    Some(level) => BlockKind::Heading(level.min(HEADING_LEVEL_MAX)),
                    None if is_item => BlockKind::ListItem,
                    None => BlockKind::Paragraph,
                };
                self.document.push(&text, kind);
                self.push_notes(notes);
            }
        }
    }

    fn end_row(&mut self) {
        let row = std::mem::take(&mut self.cells).join("\t");
        self.document.push(row.trim_matches('\t'), BlockKind::TableRow);
        let notes = std::mem::take(&mut self.outer.first_mut().unwrap_or(&mut self.paragraph).notes);
        self.push_notes(notes);
    }

    fn push_notes(&mut self, notes: Vec<NoteId>) {
        for note in notes {
            if let Some(text) = self.notes.remove(&note) {
                self.document.push(&text, BlockKind::Paragraph);
            }
        }
    }

    fn finish(mut self) -> Result<Document, ParseFailure> {
        if self.is_full || self.document.text.len() as u64 > self.text_bytes {
            let why = format!("more than {} bytes of text", self.text_bytes);
            return Err(ParseFailure::new(Verdict::TooLarge, why));
        }
        // What nothing closes is text all the same.
        while !self.outer.is_empty() {
            self.end_paragraph();
        }
        if !self.cells.is_empty() {
            self.end_row();
        }
        Ok(self.document)
    }
}

/// Title, authors and the like of `docProps/core.xml`.
pub(crate) fn read_properties(source: &str, document: &mut Document) {
    let mut open: Option<&'static str> = None;
    let names = ["title", "creator", "language", "subject", "keywords", "created"];
    let mut found: HashMap<&'static str, String> = HashMap::new();
    tokens(source, Dialect::Xml, |token| match token {
        Token::Start(element) => open = names.into_iter().find(|name| *name == element.name()),
        Token::End(_) => open = None,
        Token::Text(text) => {
            if let Some(name) = open {
                found.entry(name).or_default().push_str(text);
            }
        }
    });
    let mut take = |name: &str| {
        let mut text = found.remove(name)?.trim().to_owned();
        text.truncate(text.floor_char_boundary(METADATA_VALUE_BYTES_MAX));
        (!text.is_empty()).then_some(text)
    };
    document.title = take("title");
    let authors = take("creator").unwrap_or_default();
    document.authors =
        authors.split(';').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    document.language = take("language");
    for name in ["subject", "keywords", "created"] {
        if let Some(text) = take(name) {
            document.metadata.insert(name.to_owned(), json!(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Furniture;

    fn read_body(body: &str, notes: &[(&str, &str)]) -> Document {
        let styles = styles(
            r#"<w:styles><w:style w:styleId="H1"><w:name w:val="heading 1"/></w:style>
            <w:style w:styleId="Mine"><w:name w:val="Mine"/><w:basedOn w:val="H1"/></w:style></w:styles>"#,
        );
        let notes =
            notes.iter().map(|(id, text)| (("footnote", (*id).to_owned()), (*text).to_owned())).collect();
        let mut reader = Reader::new(&styles, notes, 1 << 20);
        tokens(body, Dialect::Xml, |token| reader.token(token));
        let mut document = reader.finish().unwrap();
        chapters::from_headings(&mut document, one_line_title);
        document.check().unwrap();
        document
    }

    #[test]
    fn headings_lists_tables_and_notes_in_order() {
        let body = r#"<w:body><w:p><w:pPr><w:pStyle w:val="Mine"/></w:pPr><w:r><w:t>The lamp</w:t></w:r></w:p>
            <w:p><w:r><w:t xml:space="preserve">One </w:t><w:t>two</w:t><w:footnoteReference w:id="2"/></w:r></w:p>
            <w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>b</w:t></w:r></w:p></w:tc></w:tr>
            <w:tr><w:tc><w:p/></w:tc><w:tc><w:p><w:r><w:t>c</w:t></w:r></w:p></w:tc></w:tr></w:tbl>
            <w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>item</w:t></w:r></w:p></w:body>"#;
        let document = read_body(body, &[("2", "a note")]);
        assert_eq!(document.text, "The lamp\n\nOne two\n\na note\n\na\tb\nc\n\nitem");
        assert_eq!(document.chapters[0].breadcrumb, ["The lamp"]);
        let kinds: Vec<BlockKind> = document.blocks.iter().map(|block| block.kind).collect();
        use BlockKind::{Heading, ListItem, Paragraph, TableRow};
        assert_eq!(kinds, [Heading(1), Paragraph, Paragraph, TableRow, TableRow, ListItem]);
    }

    #[test]
    fn deleted_text_goes_and_inserted_text_stays() {
        let body = r#"<w:p><w:r><w:t>kept </w:t></w:r><w:del w:id="1"><w:r><w:delText>gone</w:delText></w:r></w:del>
            <w:ins w:id="2"><w:r><w:t>new</w:t></w:r></w:ins><w:moveFrom w:id="3"><w:r><w:t>moved</w:t></w:r></w:moveFrom></w:p>
            <w:p><w:pPr><w:rPr><w:del w:id="4"/></w:rPr></w:pPr><w:r><w:t>after</w:t></w:r></w:p>"#;
        let document = read_body(body, &[]);
        assert_eq!(document.text, "kept new\n\nafter");
        let expected = Furniture { deleted_pieces: 2, ..Furniture::default() };
        assert_eq!(document.furniture, expected);
    }

    #[test]
    fn a_text_box_is_a_paragraph_before_the_one_it_hangs_on() {
        let body = r#"<w:p><w:r><w:t>out</w:t></w:r><w:r><mc:AlternateContent><mc:Choice><w:txbxContent><w:p><w:r>
            <w:t>box</w:t></w:r></w:p></w:txbxContent></mc:Choice><mc:Fallback><w:p><w:r><w:t>box</w:t></w:r></w:p>
            </mc:Fallback></mc:AlternateContent></w:r><w:r><w:t>side</w:t></w:r></w:p>"#;
        assert_eq!(read_body(body, &[]).text, "box\n\noutside");
    }
}
