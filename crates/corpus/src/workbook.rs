//! Excel workbooks since 2007: each sheet is a page with its name as heading, and each of its rows a row of a table.
//!
//! A cell says what Excel shows where that bears on what it means: percentages, dates, and the words of its format
//! (`EUR`, `x`). Its number has the digits that are stored and not those that a column has room for. Formulas are not
//! computed; what the file keeps of their last result is read. Hidden sheets and rows are read as well.

mod format;

pub(crate) use format::civil;

use std::collections::HashMap;
use std::fs::File;

use crate::archive::Archive;
use crate::chapters;
use crate::document::{BlockKind, Document, PageStart};
use crate::docx::{named_main, read_properties, text_of};
use crate::html::one_line_title;
use crate::limits::{Limits, SHEETS_MAX, TABLE_COLUMNS_MAX};
use crate::markup::{Dialect, Element, Token, tokens};
use crate::verdict::{ParseFailure, Verdict};

use format::{Epoch, NumberFormat};

const WORKBOOK: &str = "xl/workbook.xml";

/// Reads a whole workbook.
pub(crate) fn read(file: File, limits: &Limits) -> Result<Document, ParseFailure> {
    let mut archive = Archive::open(file, limits)?;
    let main =
        named_main(&mut archive)?.filter(|main| archive.has(main)).unwrap_or_else(|| WORKBOOK.to_owned());
    let folder = main.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    let part = |name: &str| path_of(&folder, name);
    let source = text_of(&mut archive, &main)?.filter(|source| source.contains("sheet"));
    let Some(source) = source else { return Err(without_workbook(&archive)) };
    let (sheets, epoch) = sheets(&source);
    // A workbook may lack each of these parts: sheets then stand under their usual names, and cells hold their own text.
    let targets = targets(&text_of(&mut archive, &part("_rels/workbook.xml.rels"))?.unwrap_or_default());
    let strings = text_of(&mut archive, &part("sharedStrings.xml"))?.unwrap_or_default();
    let styles = text_of(&mut archive, &part("styles.xml"))?.unwrap_or_default();
    let looks = Looks { strings: shared_strings(&strings), formats: number_formats(&styles), epoch };
    let mut document = Document::default();
    for (number, sheet) in (1..).zip(&sheets) {
        let target = targets.get(&sheet.relation).cloned();
        let path = part(&target.unwrap_or_else(|| format!("worksheets/sheet{number}.xml")));
        let Some(source) = text_of(&mut archive, &path)? else {
            document.furniture.missing_documents += 1;
            continue;
        };
        let rows = Rows::of(&source, &looks, limits.text_bytes)?;
        append(&mut document, number, &sheet.name, rows);
        refuse_beyond(document.text.len(), limits.text_bytes)?;
    }
    if document.text.is_empty() && document.furniture.missing_documents > 0 {
        let why = format!("its {} sheets are not in the file, which is damaged", sheets.len());
        return Err(ParseFailure::new(Verdict::Corrupt, why));
    }
    document.furniture.images = archive.names().iter().filter(|name| name.contains("/media/")).count();
    read_properties(&text_of(&mut archive, "docProps/core.xml")?.unwrap_or_default(), &mut document);
    chapters::from_headings(&mut document, one_line_title);
    Ok(document)
}

fn without_workbook(archive: &Archive) -> ParseFailure {
    let others = [
        ("word/document.xml", "a Word document"),
        ("ppt/presentation.xml", "a PowerPoint presentation"),
        ("xl/workbook.bin", "a binary workbook (xlsb)"),
        ("content.xml", "an OpenDocument file"),
    ];
    match others.iter().find(|(path, _)| archive.has(path)) {
        Some((_, kind)) => {
            ParseFailure::new(Verdict::Unsupported, format!("named as xlsx, but its content is {kind}"))
        }
        None => ParseFailure::new(Verdict::Corrupt, "a zip archive without a workbook in it"),
    }
}

/// Targets of relations are below the folder of the part that has them, or absolute.
fn path_of(folder: &str, name: &str) -> String {
    match name.strip_prefix('/') {
        Some(absolute) => absolute.to_owned(),
        None if folder.is_empty() => name.to_owned(),
        None => format!("{folder}/{name}"),
    }
}

struct Sheet {
    name: String,
    relation: String,
}

fn sheets(source: &str) -> (Vec<Sheet>, Epoch) {
    let mut sheets = Vec::new();
    let mut epoch = Epoch::Year1900;
    tokens(source, Dialect::Xml, |token| {
        let Token::Start(element) = token else { return };
        match element.name() {
            "sheet" if sheets.len() < SHEETS_MAX => sheets.push(Sheet {
                name: element.attribute("name").unwrap_or_default().to_owned(),
                relation: element.attribute("r:id").unwrap_or_default().to_owned(),
            }),
            "workbookpr"
                if element.attribute("date1904").is_some_and(|value| value == "1" || value == "true") =>
            {
                epoch = Epoch::Year1904;
            }
            _ => {}
        }
    });
    (sheets, epoch)
}

fn targets(source: &str) -> HashMap<String, String> {
    let mut targets = HashMap::new();
    tokens(source, Dialect::Xml, |token| {
        if let Token::Start(element) = token
            && element.name() == "relationship"
            && let (Some(id), Some(target)) = (element.attribute("id"), element.attribute("target"))
        {
            targets.insert(id.to_owned(), target.to_owned());
        }
    });
    targets
}

/// The texts that cells name by number, without the readings that Japanese ones carry.
fn shared_strings(source: &str) -> Vec<String> {
    let mut strings = Vec::new();
    let mut open: Option<String> = None;
    let (mut is_text, mut is_reading) = (false, false);
    tokens(source, Dialect::Xml, |token| match token {
        Token::Start(element) => match element.name() {
            "si" if element.is_self_closing() => strings.push(String::new()),
            "si" => open = Some(String::new()),
            "t" => is_text = !element.is_self_closing(),
            "rph" => is_reading = !element.is_self_closing(),
            _ => {}
        },
        Token::End("si") => strings.extend(open.take()),
        Token::End("t") => is_text = false,
        Token::End("rph") => is_reading = false,
        Token::Text(text) if is_text && !is_reading => {
            if let Some(open) = &mut open {
                open.push_str(text);
            }
        }
        Token::End(_) | Token::Text(_) => {}
    });
    strings
}

/// The format of each style that cells name by number.
fn number_formats(source: &str) -> Vec<NumberFormat> {
    let mut codes: HashMap<u32, NumberFormat> = HashMap::new();
    let mut formats = Vec::new();
    let mut is_of_cells = false;
    tokens(source, Dialect::Xml, |token| match token {
        Token::Start(element) => match element.name() {
            "numfmt" => {
                if let Some(id) = number(element, "numfmtid") {
                    codes
                        .insert(id, NumberFormat::parse(element.attribute("formatcode").unwrap_or_default()));
                }
            }
            "cellxfs" => is_of_cells = true,
            "xf" if is_of_cells => {
                let id = number(element, "numfmtid").unwrap_or_default();
                formats.push(codes.get(&id).cloned().unwrap_or_else(|| NumberFormat::built_in(id)));
            }
            _ => {}
        },
        Token::End("cellxfs") => is_of_cells = false,
        Token::End(_) | Token::Text(_) => {}
    });
    formats
}

fn number(element: Element<'_>, name: &str) -> Option<u32> {
    element.attribute(name)?.parse().ok()
}

/// What the cells of all sheets are shown with.
struct Looks {
    strings: Vec<String>,
    formats: Vec<NumberFormat>,
    epoch: Epoch,
}

/// The rows of a sheet that say something: each as its cells with their columns.
#[derive(Default)]
struct Rows {
    rows: Vec<Vec<(usize, String)>>,
    text_bytes: usize,
}

impl Rows {
    fn of(source: &str, looks: &Looks, text_bytes_max: u64) -> Result<Rows, ParseFailure> {
        let mut rows = Rows::default();
        let mut open = None;
        let mut is_value = false;
        tokens(source, Dialect::Xml, |token| match token {
            Token::Start(element) => match element.name() {
                "row" => rows.rows.push(Vec::new()),
                "c" if !element.is_self_closing() => open = Some(Cell::of(element, rows.next_column())),
                "v" | "t" => is_value = !element.is_self_closing(),
                _ => {}
            },
            Token::End("v" | "t") => is_value = false,
            Token::End("c") => {
                if let Some(cell) = open.take().filter(|_| rows.text_bytes as u64 <= text_bytes_max) {
                    rows.push(&cell, looks);
                }
            }
            Token::Text(text) if is_value => {
                if let Some(cell) = &mut open {
                    cell.value.push_str(text);
                }
            }
            Token::End(_) | Token::Text(_) => {}
        });
        refuse_beyond(rows.text_bytes, text_bytes_max)?;
        rows.rows.retain(|row| !row.is_empty());
        Ok(rows)
    }

    fn next_column(&self) -> usize {
        self.rows.last().and_then(|row| row.last()).map_or(0, |(column, _)| column + 1)
    }

    fn push(&mut self, cell: &Cell, looks: &Looks) {
        let shown = cell.shown(looks);
        let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        if shown.is_empty() {
            return;
        }
        self.text_bytes += shown.len() + 1;
        if self.rows.is_empty() {
            self.rows.push(Vec::new());
        }
        if let Some(row) = self.rows.last_mut() {
            row.push((cell.column, shown));
        }
    }
}

struct Cell {
    column: usize,
    kind: String,
    style: usize,
    value: String,
}

impl Cell {
    fn of(element: Element<'_>, next_column: usize) -> Cell {
        let column = element.attribute("r").and_then(column_of).unwrap_or(next_column);
        let style = number(element, "s").map_or(0, |style| style as usize);
        let kind = element.attribute("t").unwrap_or("n").to_owned();
        Cell { column, kind, style, value: String::new() }
    }

    fn shown(&self, looks: &Looks) -> String {
        match self.kind.as_str() {
            "s" => {
                let string = self.value.trim().parse::<usize>().ok().and_then(|at| looks.strings.get(at));
                string.cloned().unwrap_or_default()
            }
            "b" => if self.value.trim() == "1" { "TRUE" } else { "FALSE" }.to_owned(),
            "n" => match (looks.formats.get(self.style), self.value.trim().parse::<f64>()) {
                (Some(format), Ok(number)) => format.shown(number, looks.epoch),
                (None, Ok(number)) => NumberFormat::general().shown(number, looks.epoch),
                (_, Err(_)) => self.value.clone(),
            },
            _ => self.value.clone(),
        }
    }
}

/// `AB12` is column 27, counted from 0; none beyond the last column that Excel has.
fn column_of(reference: &str) -> Option<usize> {
    let mut column = 0usize;
    for letter in reference.bytes().take_while(u8::is_ascii_alphabetic) {
        column = column * 26 + usize::from(letter.to_ascii_uppercase() - b'A') + 1;
        if column > TABLE_COLUMNS_MAX {
            return None;
        }
    }
    column.checked_sub(1)
}

/// A sheet without text is no page. Cells that are apart in a row have empty ones between them, so that columns of
/// rows are the same columns; how many is bounded, for a stray cell may stand 16,000 columns away.
fn append(document: &mut Document, number: u32, name: &str, rows: Rows) {
    const GAP_MAX: usize = 32;
    let Some(first_column) = rows.rows.iter().filter_map(|row| row.first()).map(|(column, _)| *column).min()
    else {
        return;
    };
    let start = document.text.len();
    let heading = name.split_whitespace().collect::<Vec<_>>().join(" ");
    document.push(&heading, BlockKind::Heading(1));
    for row in rows.rows {
        let mut line = String::new();
        let mut next = first_column;
        for (column, cell) in row {
            line.extend(std::iter::repeat_n('\t', column.saturating_sub(next).min(GAP_MAX)));
            line.push_str(&cell);
            line.push('\t');
            next = column + 1;
        }
        line.truncate(line.trim_end_matches('\t').len());
        document.push(&line, BlockKind::TableRow);
    }
    let page_start =
        document.blocks.iter().find(|block| block.start >= start).map_or(start, |block| block.start);
    document.pages.push(PageStart { number, start: page_start });
}

fn refuse_beyond(text_bytes: usize, text_bytes_max: u64) -> Result<(), ParseFailure> {
    if text_bytes as u64 <= text_bytes_max {
        return Ok(());
    }
    Err(ParseFailure::new(Verdict::TooLarge, format!("more than {text_bytes_max} bytes of text")))
}

#[cfg(test)]
mod tests {
    use super::column_of;

    #[test]
    fn columns_are_counted_by_their_letters() {
        assert_eq!(["A1", "Z9", "AA1", "ab12", "XFD1"].map(column_of), [0, 25, 26, 27, 16_383].map(Some));
        assert_eq!(["12", "", "XFE1", "AAAAAAAAAAAAAAAAAAAAAAAA1"].map(column_of), [None; 4]);
    }
}
