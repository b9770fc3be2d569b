//! How the text of a passage stands in its source.

use std::ops::Range;

use super::{Passage, PassageKind};

/// Text in the place of an image or another object.
pub(super) const OBJECT: &str = "\u{fffc}";
/// How bare addresses start.
const ADDRESS_STARTS: [&str; 4] = ["http://", "https://", "www.", "mailto:"];

/// Text and the source bytes that say it. Markup between two pieces belongs to none.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) text: Range<usize>,
    pub(super) source: Range<usize>,
    pub(super) kind: PieceKind,
}

/// How the source says the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// Byte for byte.
    Plain,
    /// Otherwise: an entity, an escape, a line break. Replaced whole or not at all.
    Encoded,
    /// Never changed.
    Fixed,
}

/// A passage that is being read.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) text: String,
    pub(super) pieces: Vec<Piece>,
}

impl Draft {
    pub(super) fn push(&mut self, text: &str, source: Range<usize>, kind: PieceKind) {
        let start = self.text.len();
        self.text.push_str(text);
        let end = self.text.len();
        if let Some(last) = self.pieces.last_mut()
            && last.kind == kind
            && kind != PieceKind::Encoded
            && last.source.end == source.start
        {
            last.text.end = end;
            last.source.end = source.end;
            return;
        }
        self.pieces.push(Piece { text: start..end, source, kind });
    }

    /// Whitespace at the end says nothing.
    pub(super) fn trim_end(&mut self) {
        while self.text.ends_with(' ')
            && let Some(last) = self.pieces.last_mut()
            && last.kind != PieceKind::Fixed
        {
            self.text.pop();
            match last.kind {
                PieceKind::Plain if last.text.len() > 1 => {
                    last.text.end -= 1;
                    last.source.end -= 1;
                }
                _ => {
                    self.pieces.pop();
                }
            }
        }
    }

    /// The passage, if it has words that may change.
    pub(super) fn finish(mut self, kind: PassageKind) -> Option<(Passage, Vec<Piece>)> {
        self.trim_end();
        let may_change = |piece: &Piece| {
            piece.kind != PieceKind::Fixed && self.text[piece.text.clone()].contains(char::is_alphanumeric)
        };
        if !self.pieces.iter().any(may_change) {
            return None;
        }
        let fixed = self.pieces.iter().filter(|piece| piece.kind == PieceKind::Fixed);
        let mut protected: Vec<Range<usize>> = fixed.map(|piece| piece.text.clone()).collect();
        protected.extend(addresses(&self.text));
        let passage = Passage { protected: merged(protected), text: self.text, kind, place: String::new() };
        Some((passage, self.pieces))
    }
}

/// Addresses written out in the text, without the punctuation after them.
fn addresses(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for word in text.split(char::is_whitespace) {
        let at = ADDRESS_STARTS.iter().filter_map(|mark| word.find(mark)).min();
        if let Some(at) = at {
            let address =
                word[at..].trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '"', '\'', '>']);
            found.push(start + at..start + at + address.len());
        }
        start += word.len();
        start += text[start..].chars().next().map_or(0, char::len_utf8);
    }
    found
}

fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}
