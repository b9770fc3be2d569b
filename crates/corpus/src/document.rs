//! What a file says: one text, and where its parts stand in it.

use serde::{Deserialize, Serialize};

use crate::sentence;

/// What stands between blocks of a document that is put together here.
pub(crate) const BETWEEN_BLOCKS: &str = "\n\n";
const BETWEEN_ROWS: &str = "\n";

/// One document. Offsets are bytes of `text` and stand on character boundaries.
///
/// Chapters partition the text: the first starts at 0, each starts where the one before ends, the last ends
/// at `text.len()`, and none is empty. Blocks are in order, do not overlap, are not empty, and each lies
/// inside its chapter; what stands outside of blocks is whitespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The title as the file's own metadata has it.
    pub title: Option<String>,
    /// Authors in the file's order.
    pub authors: Vec<String>,
    /// The language tag as the metadata says it, such as `en-GB`.
    pub language: Option<String>,
    /// The language found in the text, ISO 639-3 such as `eng`; none when the detector is not sure.
    pub detected_language: Option<String>,
    /// Identifiers as the package has them, its unique identifier first.
    pub identifiers: Vec<Identifier>,
    /// Other metadata: Dublin Core fields and series of a book, front matter, the fields of a JSONL line.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// The whole text.
    pub text: String,
    /// Headings, paragraphs, items, rows: see the type.
    pub blocks: Vec<Block>,
    /// Chapters: see the type.
    pub chapters: Vec<Chapter>,
    /// Where each page that has text begins, in order; a sheet of a workbook is a page. Empty for formats without pages.
    pub pages: Vec<PageStart>,
    /// What was left out or replaced, counted.
    pub furniture: Furniture,
}

/// One identifier of a package, such as an ISBN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identifier {
    /// The scheme if the package names one, such as `ISBN` or `uuid`.
    pub scheme: Option<String>,
    /// The value as written.
    pub value: String,
}

/// A run of text that stands by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// What it is.
    pub kind: BlockKind,
    /// First byte of `Document::text`.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Index into `Document::chapters`.
    pub chapter: usize,
}

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// A heading of level 1 to 6.
    Heading(u8),
    /// Running text.
    Paragraph,
    /// An item of a list, or a term or description of a definition list.
    ListItem,
    /// Running text inside a quotation.
    Quote,
    /// Text whose line breaks and spaces count: code, verse.
    Preformatted,
    /// One row of a table, cells separated by a tab.
    TableRow,
}

/// A part of the text with its place in the table of contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chapter {
    /// Titles from the outermost to this one, such as `["Part I", "Chapter 3"]`; empty where nothing names it.
    pub breadcrumb: Vec<String>,
    /// Path inside the package, with `#fragment` where the chapter starts at one; none outside EPUB.
    pub href: Option<String>,
    /// First byte of `Document::text`.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// Where the text of a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageStart {
    /// Counted from 1, whatever the page calls itself.
    pub number: u32,
    /// First byte of `Document::text` on the page; a paragraph may have begun on the page before.
    pub start: usize,
}

/// Counts of what is in the file and not in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Furniture {
    /// Elements of navigation: `nav`, tables of contents, landmarks, page lists.
    pub navigation: usize,
    /// Scripts, styles, templates and embedded frames.
    pub scripts: usize,
    /// Page breaks and page numbers.
    pub page_breaks: usize,
    /// References to notes and back from them (the notes themselves are text).
    pub note_references: usize,
    /// Pronunciation glosses over ruby text.
    pub glosses: usize,
    /// Images and drawings.
    pub images: usize,
    /// Soft hyphens taken out of words.
    pub soft_hyphens: usize,
    /// Characters replaced by U+FFFD because their bytes had no meaning in the encoding.
    pub replaced_characters: usize,
    /// Files decoded as windows-1252 because they neither declare an encoding nor are UTF-8.
    pub guessed_encodings: usize,
    /// Documents that the spine of a book names and the archive lacks.
    pub missing_documents: usize,
    /// Running headers, running footers and page numbers.
    pub running_lines: usize,
    /// Words put together again that a line break had hyphenated.
    pub mended_hyphens: usize,
    /// Pieces of text that a tracked change deletes.
    pub deleted_pieces: usize,
    /// Files that hang on a mail; they are documents of their own where containers are unpacked.
    #[serde(default)]
    pub attachments: usize,
    /// Pictures that hang on a mail to be shown in its text: logos, signatures, and now and then a scan.
    #[serde(default)]
    pub shown_pictures: usize,
}

impl Furniture {
    /// Adds the counts of another part of the same document.
    pub(crate) fn add(&mut self, other: &Furniture) {
        self.navigation += other.navigation;
        self.scripts += other.scripts;
        self.page_breaks += other.page_breaks;
        self.note_references += other.note_references;
        self.glosses += other.glosses;
        self.images += other.images;
        self.soft_hyphens += other.soft_hyphens;
        self.replaced_characters += other.replaced_characters;
        self.guessed_encodings += other.guessed_encodings;
        self.missing_documents += other.missing_documents;
        self.running_lines += other.running_lines;
        self.mended_hyphens += other.mended_hyphens;
        self.deleted_pieces += other.deleted_pieces;
        self.attachments += other.attachments;
        self.shown_pictures += other.shown_pictures;
    }
}

/// A sentence of a block. Sentences of a block follow each other without a gap, spaces between them included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// First byte of `Document::text`.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Index into `Document::blocks`.
    pub block: usize,
}

impl Document {
    /// Adds a block at the end of the text; nothing where it says nothing.
    pub(crate) fn push(&mut self, text: &str, kind: BlockKind) {
        if text.trim().is_empty() {
            return;
        }
        let after_row = self.blocks.last().is_some_and(|block| block.kind == BlockKind::TableRow);
        let between = if after_row && kind == BlockKind::TableRow { BETWEEN_ROWS } else { BETWEEN_BLOCKS };
        if !self.text.is_empty() {
            self.text.push_str(between);
        }
        let start = self.text.len();
        self.text.push_str(text);
        self.blocks.push(Block { kind, start, end: self.text.len(), chapter: 0 });
    }

    /// The sentences of all blocks, in order: everything of the text but the whitespace between blocks. What numbers a
    /// paragraph or heading, as in "2. Term Loan A", is no sentence by itself.
    pub fn sentences(&self) -> Vec<Sentence> {
        let mut sentences: Vec<Sentence> = Vec::new();
        for (number, block) in self.blocks.iter().enumerate() {
            let mut starts = vec![block.start];
            sentence::inner_starts(&self.text, block, block.start..block.end, &mut starts);
            starts.push(block.end);
            let first = sentences.len();
            for pair in starts.windows(2).filter(|pair| pair[0] < pair[1]) {
                match sentences[first..].last_mut() {
                    Some(last) if sentence::is_label(&self.text[last.start..last.end]) => last.end = pair[1],
                    _ => sentences.push(Sentence { start: pair[0], end: pair[1], block: number }),
                }
            }
        }
        sentences
    }

    /// The page that the byte at `offset` stands on; none for formats without pages.
    pub fn page_at(&self, offset: usize) -> Option<u32> {
        let past = self.pages.partition_point(|page| page.start <= offset);
        // What stands before the first page's text is whitespace at most.
        self.pages.get(past.saturating_sub(1)).map(|page| page.number)
    }

    /// Checks every promise of the offsets; the first one broken is the error. A reply of a worker is checked
    /// with this before anything slices its text.
    pub fn check(&self) -> Result<(), String> {
        let mut end_of_last = 0;
        for (index, chapter) in self.chapters.iter().enumerate() {
            if chapter.start != end_of_last || chapter.end <= chapter.start {
                return Err(format!(
                    "chapter {index} spans {}..{} after one that ends at {end_of_last}",
                    chapter.start, chapter.end
                ));
            }
            self.check_boundary(chapter.end)?;
            end_of_last = chapter.end;
        }
        if end_of_last != self.text.len() {
            return Err(format!("chapters end at {end_of_last} of {} bytes", self.text.len()));
        }
        let mut end_of_last = 0;
        for (index, block) in self.blocks.iter().enumerate() {
            let Some(chapter) = self.chapters.get(block.chapter) else {
                return Err(format!("block {index} names chapter {}", block.chapter));
            };
            let in_order = block.start >= end_of_last && block.end > block.start;
            if !in_order || block.start < chapter.start || block.end > chapter.end {
                return Err(format!(
                    "block {index} spans {}..{} in chapter {}..{}, after a block that ends at {end_of_last}",
                    block.start, block.end, chapter.start, chapter.end
                ));
            }
            self.check_boundary(block.start)?;
            self.check_boundary(block.end)?;
            self.check_gap(end_of_last, block.start)?;
            end_of_last = block.end;
        }
        self.check_gap(end_of_last, self.text.len())?;
        self.check_pages()
    }

    fn check_pages(&self) -> Result<(), String> {
        let mut last = PageStart { number: 0, start: 0 };
        for page in &self.pages {
            if page.number <= last.number || page.start < last.start || page.start > self.text.len() {
                return Err(format!("page {} starts at {} after {last:?}", page.number, page.start));
            }
            self.check_boundary(page.start)?;
            last = *page;
        }
        Ok(())
    }

    fn check_gap(&self, start: usize, end: usize) -> Result<(), String> {
        match self.text[start..end].trim().len() {
            0 => Ok(()),
            bytes => Err(format!("{bytes} bytes of text in {start}..{end} are in no block")),
        }
    }

    fn check_boundary(&self, offset: usize) -> Result<(), String> {
        if self.text.is_char_boundary(offset) {
            Ok(())
        } else {
            Err(format!("offset {offset} of {} bytes is inside a character", self.text.len()))
        }
    }
}

/// The kinds of file that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// EPUB 2 and 3.
    Epub,
    /// Plain text.
    Text,
    /// Markdown.
    Markdown,
    /// HTML and XHTML.
    Html,
    /// One JSON object a line: `{"id", "title", "text", ...}`.
    JsonLines,
    /// PDF.
    Pdf,
    /// Word documents since 2007.
    Docx,
    /// Excel workbooks since 2007.
    Xlsx,
    /// Mails as Outlook saves them.
    Msg,
    /// A picture of a page, which only recognition reads. No extension stands for it: pictures beside books are covers,
    /// and who wants them read says so.
    Picture,
}

impl Format {
    /// The format that a file name's extension stands for, without the dot, in any case.
    pub fn from_extension(extension: &str) -> Option<Format> {
        match extension.to_ascii_lowercase().as_str() {
            "epub" => Some(Format::Epub),
            "txt" | "text" => Some(Format::Text),
            "md" | "markdown" => Some(Format::Markdown),
            "html" | "htm" | "xhtml" => Some(Format::Html),
            "jsonl" | "ndjson" => Some(Format::JsonLines),
            "pdf" => Some(Format::Pdf),
            "docx" | "docm" => Some(Format::Docx),
            "xlsx" | "xlsm" => Some(Format::Xlsx),
            "msg" => Some(Format::Msg),
            _ => None,
        }
    }

    /// The name in ids and receipts, such as `epub`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Epub => "epub",
            Format::Text => "text",
            Format::Markdown => "markdown",
            Format::Html => "html",
            Format::JsonLines => "json_lines",
            Format::Pdf => "pdf",
            Format::Docx => "docx",
            Format::Xlsx => "xlsx",
            Format::Msg => "msg",
            Format::Picture => "picture",
        }
    }
}
