//! What a chunk stands in: its section where the library has sections, else the text of its chapter.

use rusqlite::{Connection, Row};
use serde::Serialize;
use uuid::Uuid;

use crate::library::ChapterRecord;
use crate::read::json_column;

/// Bytes of a parent's text at most: about what a model of 8,192 tokens takes.
pub const PARENT_BYTES_MAX: usize = 32 << 10;

/// Stands where a parent's text was cut.
const CUT: &str = "[...]";

/// The stretch of a document that a chunk stands in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parent {
    /// Title of the section or chapter, else of the document.
    pub name: String,
    /// Its text; of one longer than [`PARENT_BYTES_MAX`], as much around the chunk, with `[...]` where it was cut.
    pub text: String,
    /// Whether it was cut.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Document.
    pub doc_id: Uuid,
    /// The section, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point_id: Option<Uuid>,
}

/// The parent of a chunk.
pub(crate) fn of_chunk(db: &Connection, chunk_id: i64) -> rusqlite::Result<Parent> {
    let sql = format!(
        "SELECT {PIECE}, c.document_id, c.chapter, c.section_no, d.doc_id, d.title, d.chapters
        FROM chunks c JOIN documents d USING (document_id) WHERE c.chunk_id = ?1"
    );
    db.prepare_cached(&sql)?.query_row([chunk_id], |row| {
        let own = Piece::read(row)?;
        let (document_id, chapter): (i64, usize) = (row.get(5)?, row.get(6)?);
        let section_no: Option<u32> = row.get(7)?;
        let doc_id = Uuid::from_bytes(row.get(8)?);
        let title: String = row.get(9)?;
        if let Some(section_no) = section_no {
            return section(db, document_id, section_no, &own, doc_id, title);
        }
        let chapters: Vec<ChapterRecord> = json_column(row, 10)?;
        let name = chapters.into_iter().nth(chapter).and_then(|chapter| chapter.breadcrumb.last().cloned());
        let stretch = chapter_around(db, document_id, chapter, &own)?;
        let (text, cut) = stretch.window(PARENT_BYTES_MAX);
        Ok(Parent { name: name.unwrap_or(title), text, cut, doc_id, point_id: None })
    })
}

fn section(
    db: &Connection,
    document_id: i64,
    section_no: u32,
    own: &Piece,
    doc_id: Uuid,
    title: String,
) -> rusqlite::Result<Parent> {
    db.prepare_cached(
        "SELECT point_id, name, start_byte, text FROM sections WHERE document_id = ?1 AND section_no = ?2",
    )?
    .query_row((document_id, section_no), |row| {
        let (name, start, text): (String, usize, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let at = (own.start + own.overlap_bytes).saturating_sub(start).min(text.len());
        let stretch = Stretch { at, own_bytes: own.text.len(), text, more: false };
        let (text, cut) = stretch.window(PARENT_BYTES_MAX);
        let point_id = Some(Uuid::from_bytes(row.get(0)?));
        let name = if name.is_empty() { title } else { name };
        Ok(Parent { name, text, cut, doc_id, point_id })
    })
}

/// Columns 0..=4 of what [`Piece::read`] reads.
const PIECE: &str = "c.chunk_no, c.start_byte, c.end_byte, c.overlap_bytes, c.text";

/// A chunk as part of a text.
pub(crate) struct Piece {
    pub(crate) chunk_no: u32,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) overlap_bytes: usize,
    pub(crate) text: String,
}

impl Piece {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            chunk_no: row.get(0)?,
            start: row.get(1)?,
            end: row.get(2)?,
            overlap_bytes: row.get(3)?,
            text: row.get(4)?,
        })
    }

    /// What it does not repeat of the chunk before. Chunks that are stretches of their document's text join to that very
    /// text; others, which were put together from words, get a space.
    pub(crate) fn own_text(&self) -> String {
        let own = self.text.get(self.overlap_bytes..);
        match own {
            Some(own) if self.text.len() == self.end - self.start => own.to_owned(),
            _ => format!("{} ", self.text.trim_end()),
        }
    }
}

/// The chunks of a chapter around one of them, as far as a window on it can reach.
fn chapter_around(
    db: &Connection,
    document_id: i64,
    chapter: usize,
    own: &Piece,
) -> rusqlite::Result<Stretch> {
    let reach = |comparison: &str, order: &str| -> rusqlite::Result<(Vec<String>, bool)> {
        let sql = format!(
            "SELECT {PIECE} FROM chunks c
            WHERE c.document_id = ?1 AND c.chapter = ?2 AND c.chunk_no {comparison} ?3 ORDER BY c.chunk_no {order}"
        );
        let mut statement = db.prepare_cached(&sql)?;
        let mut rows = statement.query((document_id, chapter, own.chunk_no))?;
        let (mut texts, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            if bytes >= PARENT_BYTES_MAX {
                return Ok((texts, true));
            }
            let text = Piece::read(row)?.own_text();
            bytes += text.len();
            texts.push(text);
        }
        Ok((texts, false))
    };
    let (mut before, more_before) = reach("<", "DESC")?;
    let (after, more_after) = reach(">", "ASC")?;
    before.reverse();
    let mut text = before.concat();
    let (at, own) = (text.len(), own.own_text());
    text.push_str(&own);
    after.iter().for_each(|after| text.push_str(after));
    Ok(Stretch { at, own_bytes: own.len(), text, more: more_before || more_after })
}

/// A text with a chunk in it.
pub(crate) struct Stretch {
    /// First byte of the chunk's own text.
    pub(crate) at: usize,
    pub(crate) own_bytes: usize,
    pub(crate) text: String,
    /// Whether there is more text beyond the ends of this one, which is then longer than a window.
    pub(crate) more: bool,
}

impl Stretch {
    /// At most `bytes_max` bytes with the chunk in the middle, and whether something was cut off.
    pub(crate) fn window(self, bytes_max: usize) -> (String, bool) {
        let length = self.text.len();
        if length <= bytes_max && !self.more {
            return (self.text, false);
        }
        let middle = self.at + self.own_bytes / 2;
        let start = middle.saturating_sub(bytes_max / 2).min(length.saturating_sub(bytes_max));
        let (start, end) = (self.text.ceil_char_boundary(start), start + bytes_max);
        let end = self.text.floor_char_boundary(end.min(length));
        let mut text = String::with_capacity(bytes_max + 2 * CUT.len() + 2);
        if start > 0 {
            text.push_str(CUT);
            text.push(' ');
        }
        text.push_str(&self.text[start..end]);
        if end < length {
            text.push(' ');
            text.push_str(CUT);
        }
        (text, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(text: &str, own: &str) -> Stretch {
        Stretch { at: text.find(own).unwrap(), own_bytes: own.len(), text: text.to_owned(), more: false }
    }

    #[test]
    fn a_window_has_the_chunk_in_it() {
        let text = "aaaa bbbb cccc dddd eeee ffff";
        let shown = |own: &str, bytes| stretch(text, own).window(bytes);
        assert_eq!(shown("cccc", 29), (text.to_owned(), false));
        assert_eq!(shown("aaaa", 9), ("aaaa bbbb [...]".to_owned(), true));
        assert_eq!(shown("ffff", 9), ("[...] eeee ffff".to_owned(), true));
        assert_eq!(shown("cccc", 14), ("[...] bbbb cccc dddd [...]".to_owned(), true));
        let umlauts = "äöü äöü äöü";
        for bytes in 1..umlauts.len() {
            let (window, cut) = stretch(umlauts, "öü").window(bytes);
            assert!(cut && window.len() <= bytes + 12, "{window}");
        }
    }
}
