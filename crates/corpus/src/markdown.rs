//! Markdown: headings become chapters, front matter becomes metadata, the text stays as written.

use serde_json::Value;

use crate::chapters;
use crate::document::{Block, BlockKind, Document};
use crate::encoding::Decoded;
use crate::html::one_line_title;
use crate::text::{decoded_document, lines};

/// Lines within which front matter must end to be front matter.
const FRONT_MATTER_LINES_MAX: usize = 1000;
/// Spaces that make a line code, and one more than a heading may be indented by.
const CODE_INDENT: usize = 4;
const HEADING_LEVEL_MAX: usize = 6;
const FENCE_MIN: usize = 3;

/// A document of Markdown source.
pub(crate) fn document(decoded: Decoded) -> Document {
    let mut document = decoded_document(decoded);
    take_front_matter(&mut document);
    document.blocks = blocks(&document.text);
    chapters::from_headings(&mut document, heading_title);
    document
}

/// Moves a `---` block of `key: value` lines at the start out of the text. Values stay as written, without
/// their quotes; nested values are kept as the lines they are.
fn take_front_matter(document: &mut Document) {
    let mut source = lines(&document.text);
    if source.next().is_none_or(|(_, line)| line.trim_end() != "---") {
        return;
    }
    let Some((start_of_end, end_line)) =
        source.take(FRONT_MATTER_LINES_MAX).find(|(_, line)| matches!(line.trim_end(), "---" | "..."))
    else {
        return;
    };
    let matter: String = document.text.drain(..start_of_end + end_line.len()).collect();
    let mut fields: Vec<(String, String)> = Vec::new();
    for (_, line) in lines(&matter[..start_of_end]).skip(1) {
        let is_nested = line.starts_with([' ', '\t', '-', '#']);
        match (line.split_once(':'), fields.last_mut()) {
            (Some((key, value)), _) if !is_nested => {
                fields.push((key.trim().to_owned(), unquoted(value).to_owned()));
            }
            (_, Some((_, value))) if !line.trim().is_empty() => {
                value.push('\n');
                value.push_str(line.trim_end());
            }
            _ => {}
        }
    }
    for (key, value) in fields {
        let value = value.trim().to_owned();
        match key.as_str() {
            "title" => document.title = Some(value),
            "author" => document.authors = vec![value],
            "lang" | "language" => document.language = Some(value),
            _ => {
                document.metadata.insert(key, Value::String(value));
            }
        }
    }
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    ['"', '\''].iter().find_map(|&q| value.strip_prefix(q)?.strip_suffix(q)).unwrap_or(value)
}

fn blocks(text: &str) -> Vec<Block> {
    let mut reader = Reader { blocks: Vec::new(), open: None, fence: None };
    for (start, line) in lines(text) {
        reader.line(start, line);
    }
    reader.close();
    reader.blocks
}

/// Reads lines into blocks; knows the block that the next line may continue.
struct Reader {
    blocks: Vec<Block>,
    open: Option<Block>,
    /// The fence that opened the current code block.
    fence: Option<(char, usize)>,
}

impl Reader {
    fn line(&mut self, start: usize, line: &str) {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        let content = content.trim_end();
        let begin = start + indent;
        let end = begin + content.len();
        if let Some(fence) = self.fence {
            self.extend(end);
            if closes(content, fence) {
                self.fence = None;
                self.close();
            }
        } else if content.is_empty() {
            self.close();
        } else if indent >= CODE_INDENT && !matches!(self.open, Some(open) if !is_code(&open)) {
            // Indented code; inside a paragraph or an item, indentation is only layout.
            self.start_or_continue(BlockKind::Preformatted, begin, end);
        } else if let Some(fence) = fence(content) {
            self.start(BlockKind::Preformatted, begin, end);
            self.fence = Some(fence);
        } else if let Some(level) = heading_level(content) {
            self.start(BlockKind::Heading(level), begin, end);
            self.close();
        } else if let (Some(level), true) = (underline_level(content), self.open_is(BlockKind::Paragraph)) {
            self.extend(end);
            self.open.iter_mut().for_each(|block| block.kind = BlockKind::Heading(level));
            self.close();
        } else if content.starts_with('|') {
            self.start(BlockKind::TableRow, begin, end);
            self.close();
        } else if content.starts_with('>') {
            self.start_or_continue(BlockKind::Quote, begin, end);
        } else if is_item(content) {
            self.start(BlockKind::ListItem, begin, end);
        } else if self.open.is_some_and(|open| !is_code(&open)) {
            self.extend(end);
        } else {
            self.start(BlockKind::Paragraph, begin, end);
        }
    }

    fn start_or_continue(&mut self, kind: BlockKind, start: usize, end: usize) {
        if self.open_is(kind) { self.extend(end) } else { self.start(kind, start, end) }
    }

    fn start(&mut self, kind: BlockKind, start: usize, end: usize) {
        self.close();
        self.open = Some(Block { kind, start, end, chapter: 0 });
    }

    fn extend(&mut self, end: usize) {
        if let Some(block) = &mut self.open {
            block.end = end.max(block.end);
        }
    }

    fn close(&mut self) {
        self.blocks.extend(self.open.take());
    }

    fn open_is(&self, kind: BlockKind) -> bool {
        self.open.is_some_and(|block| block.kind == kind)
    }
}

fn is_code(block: &Block) -> bool {
    block.kind == BlockKind::Preformatted
}

/// The character and length of a code fence.
fn fence(content: &str) -> Option<(char, usize)> {
    let mark = content.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let length = content.chars().take_while(|&c| c == mark).count();
    let rest = &content[length..];
    (length >= FENCE_MIN && !(mark == '`' && rest.contains('`'))).then_some((mark, length))
}

fn closes(content: &str, (mark, length): (char, usize)) -> bool {
    content.len() >= length && content.chars().all(|c| c == mark)
}

/// `## Title` has level 2.
fn heading_level(content: &str) -> Option<u8> {
    let level = content.bytes().take_while(|&b| b == b'#').count();
    let rest = &content[level..];
    let is_heading =
        (1..=HEADING_LEVEL_MAX).contains(&level) && (rest.is_empty() || rest.starts_with([' ', '\t']));
    is_heading.then_some(level as u8)
}

/// A line of `=` under a paragraph makes it a heading of level 1, a line of `-` of level 2.
fn underline_level(content: &str) -> Option<u8> {
    match content.as_bytes().first()? {
        b'=' if content.bytes().all(|b| b == b'=') => Some(1),
        b'-' if content.bytes().all(|b| b == b'-') => Some(2),
        _ => None,
    }
}

fn is_item(content: &str) -> bool {
    let after_bullet = content.strip_prefix(['-', '*', '+']);
    let digits = content.bytes().take_while(u8::is_ascii_digit).count();
    let after_number = content[digits..].strip_prefix(['.', ')']).filter(|_| digits > 0);
    after_bullet.or(after_number).is_some_and(|rest| rest.starts_with([' ', '\t']))
}

/// The words of a heading without its marks.
fn heading_title(source: &str) -> String {
    let first = source.lines().next().unwrap_or(source);
    match heading_level(first) {
        Some(level) => one_line_title(first[level as usize..].trim().trim_end_matches('#')),
        None => one_line_title(source.trim_end_matches(['=', '-'])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::decode;

    const SOURCE: &str = "---\ntitle: \"The Plan\"\nauthor: A. Writer\ntags:\n  - one\n  - two\n---\n\
        Before.\n\n# Part #\n\n## First\nText with `code`\nand more.\n\n- item one\n  goes on\n- item two\n\n\
        ```rust\n# not a heading\n\nlet x;\n```\n> quoted\n> twice\n\nSecond\n------\n\n| a | b |\n|---|---|\n\n    indented\n";

    #[test]
    fn blocks_are_slices_of_the_source() {
        let document = document(decode(SOURCE.as_bytes().to_vec()));
        document.check().unwrap();
        let blocks: Vec<_> =
            document.blocks.iter().map(|b| (b.kind, &document.text[b.start..b.end])).collect();
        use BlockKind::*;
        let expected = [
            (Paragraph, "Before."),
            (Heading(1), "# Part #"),
            (Heading(2), "## First"),
            (Paragraph, "Text with `code`\nand more."),
            (ListItem, "- item one\n  goes on"),
            (ListItem, "- item two"),
            (Preformatted, "```rust\n# not a heading\n\nlet x;\n```"),
            (Quote, "> quoted\n> twice"),
            (Heading(2), "Second\n------"),
            (TableRow, "| a | b |"),
            (TableRow, "|---|---|"),
            (Preformatted, "indented"),
        ];
        assert_eq!(blocks, expected);
    }

    #[test]
    fn front_matter_is_metadata_and_headings_are_chapters() {
        let document = document(decode(SOURCE.as_bytes().to_vec()));
        assert_eq!(document.title.as_deref(), Some("The Plan"));
        assert_eq!(document.authors, ["A. Writer"]);
        assert_eq!(document.metadata["tags"], "- one\n  - two");
        let breadcrumbs: Vec<_> = document.chapters.iter().map(|c| c.breadcrumb.join(" > ")).collect();
        assert_eq!(breadcrumbs, ["", "Part > First", "Part > Second"]);
    }

    #[test]
    fn a_rule_at_the_start_is_not_front_matter() {
        let source = "---\nJust text, and no end.\n";
        let document = document(decode(source.as_bytes().to_vec()));
        assert_eq!(document.text, source);
    }
}
