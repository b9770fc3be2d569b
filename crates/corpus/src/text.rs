//! Plain text: paragraphs between blank lines, kept as written.

use crate::chapters;
use crate::document::{Block, BlockKind, Document, Furniture};
use crate::encoding::Decoded;

/// A document of one chapter; nothing in plain text says where a heading is.
pub(crate) fn document(decoded: Decoded) -> Document {
    let mut document = decoded_document(decoded);
    document.blocks = paragraphs(&document.text);
    chapters::partition(&mut document, Vec::new());
    document
}

/// A document of that text, without blocks and chapters yet.
pub(crate) fn decoded_document(decoded: Decoded) -> Document {
    let furniture = Furniture {
        replaced_characters: decoded.replaced_characters,
        guessed_encodings: usize::from(decoded.guessed),
        ..Furniture::default()
    };
    Document { text: decoded.text, furniture, ..Document::default() }
}

/// Paragraphs between blank lines, without the whitespace around them.
fn paragraphs(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut paragraph: Option<(usize, usize)> = None;
    for (start, line) in lines(text) {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            blocks.extend(paragraph.take());
            continue;
        }
        let start = start + (line.len() - line.trim_start().len());
        let end = start + trimmed.len();
        paragraph = Some((paragraph.map_or(start, |(first, _)| first), end));
    }
    blocks.extend(paragraph);
    let block = |(start, end)| Block { kind: BlockKind::Paragraph, start, end, chapter: 0 };
    blocks.into_iter().map(block).collect()
}

/// Each line with its offset, its line break (LF, CR LF or CR) included.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let rest = &text[offset..];
        let at = rest.find(['\n', '\r']);
        let length = match at {
            Some(at) if rest[at..].starts_with("\r\n") => at + 2,
            Some(at) => at + 1,
            None => rest.len(),
        };
        let line = (offset, &rest[..length]);
        offset += length;
        (length > 0).then_some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::decode;

    #[test]
    fn paragraphs_keep_the_text_as_written() {
        for line_break in ["\n", "\r\n", "\r"] {
            let text = "\n  first line\nsecond\n \t\nnext  \n\n".replace('\n', line_break);
            let document = document(decode(text.clone().into_bytes()));
            document.check().unwrap();
            assert_eq!(document.text, text);
            let blocks: Vec<&str> = document.blocks.iter().map(|b| &text[b.start..b.end]).collect();
            assert_eq!(blocks, [&format!("first line{line_break}second"), "next"]);
        }
    }
}
