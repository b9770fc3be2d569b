//! Sentence boundaries inside a block, by UAX #29.

use std::borrow::Cow;

use icu_segmenter::SentenceSegmenter;
use icu_segmenter::options::SentenceBreakInvariantOptions;

use crate::document::{Block, BlockKind};

/// Words before a full stop that does not end an English sentence, which UAX #29 leaves to tailoring. Without
/// them, chunks of a novel end in "said Mr."
const ABBREVIATIONS: [&str; 14] = [
    "Mr.", "Mrs.", "Ms.", "Dr.", "St.", "Prof.", "Capt.", "Col.", "Gen.", "Lt.", "Rev.", "Messrs.", "e.g.",
    "i.e.",
];

/// Appends the offset in `text` of each sentence of `block` but the first, which starts where the block does.
pub(crate) fn inner_starts(text: &str, block: &Block, starts: &mut Vec<usize>) {
    let content = &text[block.start..block.end];
    let breaks = SentenceSegmenter::new(SentenceBreakInvariantOptions::default());
    for offset in breaks.segment_str(&unwrapped(content, block.kind)) {
        let inside = offset > 0 && offset < content.len();
        if inside && !ends_in_abbreviation(&content[..offset]) {
            starts.push(block.start + offset);
        }
    }
}

/// UAX #29 ends a sentence at every line break; in prose a line break is where the typist ran out of line.
/// Spaces take their place, byte for byte, so that offsets stay.
fn unwrapped(content: &str, kind: BlockKind) -> Cow<'_, str> {
    let lines_count = matches!(kind, BlockKind::Preformatted | BlockKind::TableRow);
    if lines_count || !content.contains(['\n', '\r']) {
        Cow::Borrowed(content)
    } else {
        Cow::Owned(content.replace(['\n', '\r'], " "))
    }
}

fn ends_in_abbreviation(before: &str) -> bool {
    let before = before.trim_end();
    let word = before.rsplit(char::is_whitespace).next().unwrap_or(before);
    let word = word.trim_start_matches(|c: char| !c.is_alphanumeric());
    ABBREVIATIONS.contains(&word) || is_initial(word)
}

/// `J.` as in "J. Watson", but not `I.`, which ends many a sentence.
fn is_initial(word: &str) -> bool {
    let mut characters = word.chars();
    let first = characters.next();
    characters.as_str() == "." && first.is_some_and(|c| c.is_uppercase() && c != 'I')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(text: &str, kind: BlockKind) -> Vec<&str> {
        let mut starts = vec![0];
        inner_starts(text, &Block { kind, start: 0, end: text.len(), chapter: 0 }, &mut starts);
        starts.push(text.len());
        starts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
    }

    #[test]
    fn sentences_end_at_full_stops_and_keep_their_space() {
        let text = "It rained. Was it late? “No,” he said. They left.";
        assert_eq!(
            sentences(text, BlockKind::Paragraph),
            ["It rained. ", "Was it late? ", "“No,” he said. ", "They left."]
        );
    }

    #[test]
    fn titles_and_initials_do_not_end_sentences() {
        let text = "I met Mr. Holmes and J. Watson. So did I. They left.";
        assert_eq!(
            sentences(text, BlockKind::Paragraph),
            ["I met Mr. Holmes and J. Watson. ", "So did I. ", "They left."]
        );
    }

    #[test]
    fn line_breaks_end_sentences_only_where_lines_count() {
        let text = "one line\r\nand its rest. Two";
        assert_eq!(sentences(text, BlockKind::Paragraph), ["one line\r\nand its rest. ", "Two"]);
        assert_eq!(sentences(text, BlockKind::Preformatted), ["one line\r\n", "and its rest. ", "Two"]);
    }
}
