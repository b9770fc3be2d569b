//! Documents that are corrected and written back, every byte outside of changed words as it was.
//!
//! [`Manuscript::read`] gives the passages of a document (paragraphs, headings, list items, cells) as plain text, and
//! [`Manuscript::write`] takes new texts for some of them. A word-level diff says which words changed; only their
//! bytes are written anew, in the encoding and with the escapes of the document. What was written is read again:
//! where the structure or another text came out differently, the passage keeps its bytes and is named as refused.
//! Without a change the result is the input, byte for byte.
//!
//! Never touched: front matter, code (fenced, indented, inline), HTML blocks and tags, link destinations, images and
//! their alt texts, autolinks and bare addresses, footnote marks, mathematics, hard line breaks and the marks of
//! lists, quotes and tables in Markdown; tags, comments, declarations, CDATA, `head`, `script`, `style`, `pre`,
//! `code`, `textarea`, `svg`, `math` and `nav` in HTML; in an EPUB everything but the documents of its spine, and the
//! table of contents; in a Word document tabs, breaks, fields, drawings, formulas, deleted and moved text, notes,
//! headers and footers.
//!
//! Reading is bounded by [`Limits`] in bytes, by pieces, and by flat loops. It runs in this process. To move it into
//! a parse worker, a request would carry the bytes and edits and the reply the written bytes, in place of a document.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::limits::Limits;
use crate::verdict::ParseFailure;

use coding::Source;
use part::{Part, PartKind};

mod apply;
mod coding;
mod inline;
mod markdown;
mod markup;
mod package;
mod part;
mod piece;
mod plain;
mod scanner;
mod word;

/// Pieces of editable text that all passages of one document may have. Each costs some 40 bytes of memory.
const PIECES_MAX: usize = 4_000_000;

/// What kind of document it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManuscriptFormat {
    /// CommonMark with tables, footnotes, task lists, front matter and mathematics.
    Markdown,
    /// Plain text; blank lines stand between paragraphs.
    Text,
    /// HTML or XHTML.
    Html,
    /// EPUB 2 or 3.
    Epub,
    /// Word, Office Open XML.
    Docx,
}

impl ManuscriptFormat {
    /// The format by the extension of a file's name.
    #[must_use]
    pub fn from_path(path: &Path) -> Option<ManuscriptFormat> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "md" | "markdown" => Some(ManuscriptFormat::Markdown),
            "txt" | "text" => Some(ManuscriptFormat::Text),
            "html" | "htm" | "xhtml" => Some(ManuscriptFormat::Html),
            "epub" => Some(ManuscriptFormat::Epub),
            "docx" => Some(ManuscriptFormat::Docx),
            _ => None,
        }
    }
}

/// What a passage is in its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassageKind {
    /// A paragraph.
    Paragraph,
    /// A heading of any level.
    Heading,
    /// An item of a list, or a paragraph of one.
    ListItem,
    /// A cell of a table.
    TableCell,
    /// A paragraph of a quote.
    Quote,
    /// Anything else, such as a caption or a note.
    Other,
}

/// One paragraph-like block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Plain text of the whole block: without inline markup, entities decoded, soft line breaks as spaces. A hard
    /// line break is `\n`, an image U+FFFC; both are protected.
    pub text: String,
    /// Byte ranges of `text` that must never change, in order and apart.
    pub protected: Vec<Range<usize>>,
    /// What the passage is.
    pub kind: PassageKind,
    /// Where it stands, for people: `line 12`, `text/chapter2.xhtml line 40`.
    pub place: String,
}

impl Passage {
    /// Byte ranges of its sentences, blanks behind them included: together the whole text.
    #[must_use]
    pub fn sentences(&self) -> Vec<Range<usize>> {
        crate::sentence::ranges(&self.text)
    }
}

/// Why one passage keeps its bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedEdit {
    /// Code, an address, a mark or an image would change.
    #[error("the edit changes protected text at byte {at}: {text:?}")]
    Protected {
        /// Offset in the passage's text.
        at: usize,
        /// What is protected there.
        text: String,
    },
    /// The edit leaves no text.
    #[error("the edit leaves no text")]
    Empty,
    /// The edit brings in a line break or another control character.
    #[error("the edit brings in the control character U+{0:04X}")]
    Control(u32),
    /// The document's encoding has no such character.
    #[error("the encoding {encoding} has no {character:?}")]
    Encoding {
        /// Name of the encoding.
        encoding: &'static str,
        /// The first character it lacks.
        character: char,
    },
    /// Read again, the document would have another structure or another text.
    #[error("written, the edit would be read as another structure or another text")]
    Structure,
    /// Too large to compare word by word.
    #[error("a passage of {bytes} bytes, more than {limit}, is not compared word by word")]
    TooLong {
        /// Bytes of the longer text.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
}

/// Why a document is not read or not written.
#[derive(Debug, thiserror::Error)]
pub enum ManuscriptError {
    /// The file, its text or its number of pieces is over a limit.
    #[error("{what}: {count}, more than {limit}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many.
        count: u64,
        /// The bound.
        limit: u64,
    },
    /// Decoded and encoded again, the bytes would not be the same.
    #[error("{place} is not valid {encoding}: its bytes could not be written back as they are")]
    Encoding {
        /// The file or the part of it.
        place: String,
        /// Name of the encoding it was read in.
        encoding: &'static str,
    },
    /// The archive or the package in it cannot be read.
    #[error("{0}")]
    Unreadable(#[from] ParseFailure),
    /// The archive cannot be written anew without losing something.
    #[error("the archive cannot be written: {why}")]
    Archive {
        /// What was found.
        why: String,
    },
    /// As many edits as passages are needed.
    #[error("{edits} edits for {passages} passages")]
    EditCount {
        /// Passages of the document.
        passages: usize,
        /// Edits given.
        edits: usize,
    },
}

impl ManuscriptError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            ManuscriptError::TooLarge { .. } => "split the document and correct its parts",
            ManuscriptError::Encoding { .. } => "save the document as UTF-8 first",
            ManuscriptError::Unreadable(_) => "open the document in its own program and save it anew",
            ManuscriptError::Archive { .. } => {
                "open the book in an editor of EPUBs, or Word, and save it anew"
            }
            ManuscriptError::EditCount { .. } => "give one edit or none for each passage",
        }
    }
}

/// A document as written back.
#[derive(Debug)]
pub struct Written {
    /// The whole document.
    pub bytes: Vec<u8>,
    /// Passages whose edit was not applied, by index, and why.
    pub refused: Vec<(usize, RefusedEdit)>,
}

/// A document with its original bytes.
pub struct Manuscript {
    bytes: Arc<[u8]>,
    format: ManuscriptFormat,
    parts: Vec<Part>,
    passages: Vec<Passage>,
    left_alone: Vec<LeftAlone>,
}

/// A part of a package that has no passages, and is written as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftAlone {
    /// Its name in the package.
    pub part: String,
    /// Why it could not be read.
    pub why: String,
}

impl Manuscript {
    /// Reads a document. Nothing that it refers to is fetched.
    pub fn read(bytes: Vec<u8>, format: ManuscriptFormat) -> Result<Manuscript, ManuscriptError> {
        Manuscript::read_within(bytes, format, &Limits::DEFAULT)
    }

    /// Reads a document that may cost so much.
    pub fn read_within(
        bytes: Vec<u8>,
        format: ManuscriptFormat,
        limits: &Limits,
    ) -> Result<Manuscript, ManuscriptError> {
        let kind = match format {
            ManuscriptFormat::Markdown => PartKind::Markdown,
            ManuscriptFormat::Text => PartKind::Plain,
            ManuscriptFormat::Html => PartKind::Html,
            ManuscriptFormat::Epub | ManuscriptFormat::Docx => {
                return Manuscript::unpack(bytes, format, limits);
            }
        };
        refuse_over("bytes of the file", bytes.len(), limits.text_bytes)?;
        let source = Source::decode(&bytes, kind, "the file")?;
        let mut manuscript = Manuscript::empty(bytes.into(), format);
        manuscript.append(None, kind, source, limits)?;
        Ok(manuscript)
    }

    fn unpack(
        bytes: Vec<u8>,
        format: ManuscriptFormat,
        limits: &Limits,
    ) -> Result<Manuscript, ManuscriptError> {
        refuse_over("bytes of the archive", bytes.len(), limits.archive_bytes)?;
        let bytes = bytes.into();
        let documents = package::unpack(&bytes, format, limits)?;
        let mut manuscript = Manuscript::empty(bytes, format);
        for document in documents {
            match Source::decode(&document.bytes, document.kind, &document.name) {
                Ok(source) => manuscript.append(Some(document.name), document.kind, source, limits)?,
                // The other chapters of the book can be corrected all the same.
                Err(error) => {
                    manuscript.left_alone.push(LeftAlone { part: document.name, why: error.to_string() });
                }
            }
        }
        Ok(manuscript)
    }

    fn empty(bytes: Arc<[u8]>, format: ManuscriptFormat) -> Manuscript {
        Manuscript { bytes, format, parts: Vec::new(), passages: Vec::new(), left_alone: Vec::new() }
    }

    fn append(
        &mut self,
        name: Option<String>,
        kind: PartKind,
        source: Source,
        limits: &Limits,
    ) -> Result<(), ManuscriptError> {
        let text_bytes: usize = self.parts.iter().map(|part| part.source.text.len()).sum();
        refuse_over("bytes of text", text_bytes + source.text.len(), limits.text_bytes)?;
        let pieces: usize = self.parts.iter().map(|part| part.piece_count).sum();
        let (part, passages) = Part::read(name, kind, source, PIECES_MAX.saturating_sub(pieces))?;
        self.parts.push(part);
        self.passages.extend(passages);
        Ok(())
    }

    /// The passages in the order of the document.
    #[must_use]
    pub fn passages(&self) -> &[Passage] {
        &self.passages
    }

    /// Parts of a package that have no passages because their bytes are not valid text.
    #[must_use]
    pub fn left_alone(&self) -> &[LeftAlone] {
        &self.left_alone
    }

    /// The document with `edits[i]` as the text of passage `i`; none leaves its bytes.
    pub fn write(&self, edits: &[Option<String>]) -> Result<Written, ManuscriptError> {
        if edits.len() != self.passages.len() {
            let (passages, edits) = (self.passages.len(), edits.len());
            return Err(ManuscriptError::EditCount { passages, edits });
        }
        let mut refused = Vec::new();
        let mut changed = Vec::new();
        let mut first = 0;
        for (index, part) in self.parts.iter().enumerate() {
            let own = first..first + part.passage_count();
            let written = part.write(&self.passages[own.clone()], &edits[own]);
            refused.extend(written.refused.into_iter().map(|(at, why)| (first + at, why)));
            if let Some(text) = written.text {
                changed.push((index, part.source.encode(&text)));
            }
            first += part.passage_count();
        }
        let bytes = match self.format {
            _ if changed.is_empty() => self.bytes.to_vec(),
            ManuscriptFormat::Epub | ManuscriptFormat::Docx => {
                let named = changed.iter().filter_map(|(index, bytes)| {
                    self.parts[*index].name.as_deref().map(|name| (name, bytes.as_slice()))
                });
                package::repack(&self.bytes, &named.collect())?
            }
            _ => changed.swap_remove(0).1,
        };
        Ok(Written { bytes, refused })
    }
}

fn refuse_over(what: &'static str, count: usize, limit: u64) -> Result<(), ManuscriptError> {
    let count = count as u64;
    if count <= limit { Ok(()) } else { Err(ManuscriptError::TooLarge { what, count, limit }) }
}
