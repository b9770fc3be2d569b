//! Sentence boundaries inside a block, by UAX #29.

use std::borrow::Cow;
use std::ops::Range;

use icu_segmenter::SentenceSegmenter;
use icu_segmenter::options::SentenceBreakInvariantOptions;

use crate::document::{Block, BlockKind};

/// Words before a full stop that does not end an English sentence, which UAX #29 leaves to tailoring. Without
/// them, chunks of a novel end in "said Mr."
const ABBREVIATIONS: [&str; 14] = [
    "Mr.", "Mrs.", "Ms.", "Dr.", "St.", "Prof.", "Capt.", "Col.", "Gen.", "Lt.", "Rev.", "Messrs.", "e.g.",
    "i.e.",
];

/// The sentences of a paragraph, one after the other without a gap.
pub(crate) fn ranges(text: &str) -> Vec<Range<usize>> {
    let block = Block { kind: BlockKind::Paragraph, start: 0, end: text.len(), chapter: 0 };
    let mut starts = vec![0];
    inner_starts(text, &block, 0..text.len(), &mut starts);
    starts.push(text.len());
    starts.windows(2).map(|pair| pair[0]..pair[1]).filter(|range| !range.is_empty()).collect()
}

/// Appends the offset in `text` of each sentence of `block` that starts inside `range`, after its first byte.
/// Only what lies in both the block and `range` is segmented.
pub(crate) fn inner_starts(text: &str, block: &Block, range: Range<usize>, starts: &mut Vec<usize>) {
    let (from, to) = (block.start.max(range.start), block.end.min(range.end));
    let content = &text[from..to];
    let breaks = SentenceSegmenter::new(SentenceBreakInvariantOptions::default());
    let mut previous = 0;
    let mut is_abbreviated = false;
    for offset in breaks.segment_str(&unwrapped(content, block.kind)) {
        // After whitespace alone the words before are the same: looking back over it each time is quadratic.
        if !content[previous..offset].trim_start().is_empty() {
            is_abbreviated = ends_in_abbreviation(&text[block.start..from + offset]);
        }
        previous = offset;
        if offset > 0 && offset < content.len() && !is_abbreviated {
            starts.push(from + offset);
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

/// Whether a text only numbers what follows it: `2.`, `4.1.2`, `(a)`, `iv)`.
pub(crate) fn is_label(text: &str) -> bool {
    const BYTES_MAX: usize = 12;
    let text = text.trim();
    let is_mark = |c: char| ['.', '(', ')'].contains(&c);
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_roman = |part: &str| part.bytes().all(|byte| b"ivxIVX".contains(&byte));
    text.len() <= BYTES_MAX
        && text.contains(is_mark)
        && text.chars().any(char::is_alphanumeric)
        && text
            .split(is_mark)
            .all(|part| part.len() <= 1 && part.is_ascii() || is_number(part) || is_roman(part))
}

fn ends_in_abbreviation(before: &str) -> bool {
    let before = before.trim_end();
    let abbreviation = ABBREVIATIONS.into_iter().find(|abbreviation| before.ends_with(abbreviation));
    let length = abbreviation.map(str::len).or_else(|| initial_bytes(before));
    length.is_some_and(|length| is_word_start(&before[..before.len() - length]))
}

/// Bytes of a `J.` as in "J. Watson" at the end, but not of an `I.`, which ends many a sentence.
fn initial_bytes(before: &str) -> Option<usize> {
    let letter = before.strip_suffix('.')?.chars().next_back()?;
    (letter.is_uppercase() && letter != 'I').then_some(letter.len_utf8() + 1)
}

/// Whether only punctuation stands between the last whitespace and the end. Looks back no further than the
/// character that says so: a text without spaces would be read from its start for each of its sentences.
fn is_word_start(before: &str) -> bool {
    let last = before.chars().rev().find(|c| c.is_whitespace() || c.is_alphanumeric());
    last.is_none_or(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(text: &str, kind: BlockKind) -> Vec<&str> {
        let mut starts = vec![0];
        let block = Block { kind, start: 0, end: text.len(), chapter: 0 };
        inner_starts(text, &block, 0..text.len(), &mut starts);
        starts.push(text.len());
        starts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
    }

    #[test]
    fn labels_are_numbers_and_letters_alone() {
        for label in ["2.", "4.1.2. ", "(a)", "iv) ", "A.", "12.", "(2)(b)"] {
            assert!(is_label(label), "{label}");
        }
        for other in ["No.", "It.", "2", "2. Term", "Yes!", "...", "", "$ 5.", "\u{e9}."] {
            assert!(!is_label(other), "{other}");
        }
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
    fn abbreviations_are_whole_words_behind_any_punctuation() {
        let text = "So (“Mr. Holmes” and —J. W.) it was. It weighed 5 g. XMr. Two left. —. End.";
        let expected =
            ["So (“Mr. Holmes” and —J. W.) it was. ", "It weighed 5 g. ", "XMr. ", "Two left. —. ", "End."];
        assert_eq!(sentences(text, BlockKind::Paragraph), expected);
        // Line breaks after an abbreviation start no sentence either, however many they are.
        let text = "St.\n\n\nIves. \n\nYes";
        assert_eq!(sentences(text, BlockKind::Preformatted), ["St.\n\n\nIves. \n", "\n", "Yes"]);
    }

    #[test]
    fn line_breaks_end_sentences_only_where_lines_count() {
        let text = "one line\r\nand its rest. Two";
        assert_eq!(sentences(text, BlockKind::Paragraph), ["one line\r\nand its rest. ", "Two"]);
        assert_eq!(sentences(text, BlockKind::Preformatted), ["one line\r\n", "and its rest. ", "Two"]);
    }
}
