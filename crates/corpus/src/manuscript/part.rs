//! One text of a document: the whole of it, or a chapter in its package.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use super::coding::Source;
use super::piece::{Draft, Piece};
use super::{ManuscriptError, Passage, PassageKind, RefusedEdit, apply, markdown, markup, plain, word};

/// Times that a part is written and read again before what is left of its edits is given up.
const ROUNDS_MAX: usize = 64;

/// By which rules a part is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartKind {
    Plain,
    Markdown,
    Html,
    Xhtml,
    Word,
}

impl PartKind {
    pub(super) fn is_markup(self) -> bool {
        matches!(self, PartKind::Html | PartKind::Xhtml | PartKind::Word)
    }
}

/// What reading a text gives.
pub(super) struct Reading {
    pub(super) passages: Vec<Passage>,
    pub(super) pieces: Vec<Vec<Piece>>,
    pub(super) piece_count: usize,
    /// Of each passage what stands between it and the one before that is not text, and last what follows.
    marks: Vec<u64>,
    mark: DefaultHasher,
    pieces_max: usize,
    lines: Lines,
}

/// Line numbers of offsets that only grow.
#[derive(Default)]
struct Lines {
    offset: usize,
    line: usize,
}

impl Reading {
    pub(super) fn new(pieces_max: usize) -> Reading {
        Reading {
            passages: Vec::new(),
            pieces: Vec::new(),
            piece_count: 0,
            marks: Vec::new(),
            mark: DefaultHasher::new(),
            pieces_max,
            lines: Lines::default(),
        }
    }

    /// Notes markup, which must be the same after writing.
    pub(super) fn note(&mut self, markup: impl Hash) {
        markup.hash(&mut self.mark);
    }

    /// Takes a passage, if it has words.
    pub(super) fn take(
        &mut self,
        draft: Draft,
        kind: PassageKind,
        source: &str,
    ) -> Result<(), ManuscriptError> {
        let Some((mut passage, pieces)) = draft.finish(kind) else { return Ok(()) };
        self.piece_count += pieces.len();
        if self.piece_count > self.pieces_max {
            let (count, limit) = (self.piece_count as u64, self.pieces_max as u64);
            return Err(ManuscriptError::TooLarge { what: "pieces of text between markup", count, limit });
        }
        let start = pieces.first().map_or(0, |piece| piece.source.start);
        if let Some(between) = source.as_bytes().get(self.lines.offset..start) {
            self.lines.line += between.iter().filter(|&&byte| byte == b'\n').count();
            self.lines.offset = start;
        }
        passage.place = format!("line {}", self.lines.line + 1);
        self.passages.push(passage);
        self.pieces.push(pieces);
        let mark = std::mem::take(&mut self.mark);
        self.marks.push(mark.finish());
        Ok(())
    }

    fn finish(mut self) -> Reading {
        self.marks.push(self.mark.finish());
        self
    }
}

fn read(kind: PartKind, text: &str, pieces_max: usize) -> Result<Reading, ManuscriptError> {
    let reading = Reading::new(pieces_max);
    let reading = match kind {
        PartKind::Plain => plain::read(text, reading),
        PartKind::Markdown => markdown::read(text, reading),
        PartKind::Html | PartKind::Xhtml => markup::read(text, kind, reading),
        PartKind::Word => word::read(text, reading),
    };
    reading.map(Reading::finish)
}

/// One text with the places of its passages.
pub(super) struct Part {
    pub(super) name: Option<String>,
    pub(super) source: Source,
    pub(super) piece_count: usize,
    kind: PartKind,
    pieces: Vec<Vec<Piece>>,
    marks: Vec<u64>,
}

/// A part as written; no text where nothing changed.
pub(super) struct WrittenPart {
    pub(super) text: Option<String>,
    pub(super) refused: Vec<(usize, RefusedEdit)>,
}

/// A change of a source: these bytes become that text.
pub(super) type Splice = (Range<usize>, String);

impl Part {
    pub(super) fn read(
        name: Option<String>,
        kind: PartKind,
        source: Source,
        pieces_max: usize,
    ) -> Result<(Part, Vec<Passage>), ManuscriptError> {
        let Reading { mut passages, pieces, piece_count, marks, .. } = read(kind, &source.text, pieces_max)?;
        if let Some(name) = &name {
            for passage in &mut passages {
                passage.place = format!("{name} {}", passage.place);
            }
        }
        Ok((Part { name, source, piece_count, kind, pieces, marks }, passages))
    }

    pub(super) fn passage_count(&self) -> usize {
        self.pieces.len()
    }

    /// The part with these edits, those left out that would be read as something else.
    pub(super) fn write(&self, passages: &[Passage], edits: &[Option<String>]) -> WrittenPart {
        let mut refused = Vec::new();
        let mut accepted: Vec<Option<Vec<Splice>>> = vec![None; edits.len()];
        for (index, edit) in edits.iter().enumerate() {
            let Some(edit) = edit.as_deref().filter(|edit| *edit != passages[index].text) else { continue };
            match self.splices(&passages[index], &self.pieces[index], edit) {
                Ok(splices) => accepted[index] = Some(splices),
                Err(why) => refused.push((index, why)),
            }
        }
        for round in 0..=ROUNDS_MAX {
            if accepted.iter().all(Option::is_none) {
                break;
            }
            let text = spliced(&self.source.text, accepted.iter().flatten().flatten());
            let wrong = self.wrong_passages(&text, passages, edits, &accepted);
            if wrong.is_empty() {
                refused.sort_by_key(|(index, _)| *index);
                return WrittenPart { text: Some(text), refused };
            }
            let given_up = if round == ROUNDS_MAX { (0..edits.len()).collect() } else { wrong };
            for index in given_up {
                if accepted[index].take().is_some() {
                    refused.push((index, RefusedEdit::Structure));
                }
            }
        }
        refused.sort_by_key(|(index, _)| *index);
        WrittenPart { text: None, refused }
    }

    fn splices(&self, passage: &Passage, pieces: &[Piece], edit: &str) -> Result<Vec<Splice>, RefusedEdit> {
        let changes = apply::changes(passage, edit)?;
        let mut splices = Vec::new();
        for (range, inserted) in changes {
            self.source.check(inserted)?;
            let (mut placed, starts_line) = apply::place(passage, pieces, range, inserted)?;
            for (_, text) in &mut placed {
                *text = apply::escaped(text, self.kind, starts_line);
            }
            splices.extend(placed);
        }
        if self.kind == PartKind::Word {
            word::keep_spaces(&self.source.text, pieces, &mut splices);
        }
        Ok(splices)
    }

    /// Accepted edits that a text, read again, does not bear out; some edit of them even where only a passage
    /// without an edit came out differently.
    fn wrong_passages(
        &self,
        text: &str,
        passages: &[Passage],
        edits: &[Option<String>],
        accepted: &[Option<Vec<Splice>>],
    ) -> Vec<usize> {
        let all = || (0..edits.len()).filter(|&index| accepted[index].is_some()).collect();
        let Ok(reading) = read(self.kind, text, usize::MAX) else { return all() };
        let is_right = |index: usize| {
            let (Some(old), Some(new)) = (passages.get(index), reading.passages.get(index)) else {
                return false;
            };
            let edit = edits[index].as_deref().filter(|_| accepted[index].is_some());
            new.text == edit.unwrap_or(&old.text)
                && new.kind == old.kind
                && reading.marks[index] == self.marks[index]
                && protected_texts(new).eq(protected_texts(old))
        };
        let wrong: Vec<usize> = (0..edits.len()).filter(|&index| !is_right(index)).collect();
        let is_whole = reading.passages.len() == passages.len() && reading.marks.last() == self.marks.last();
        match wrong.first() {
            None if is_whole => return Vec::new(),
            Some(_) if is_whole && wrong.iter().all(|&index| accepted[index].is_some()) => return wrong,
            _ => {}
        }
        let first = wrong.first().map_or(edits.len(), |first| first + 1);
        let before = (0..first).rev().find(|&index| accepted[index].is_some());
        let nearest = before.or_else(|| (first..edits.len()).find(|&index| accepted[index].is_some()));
        nearest.into_iter().collect()
    }
}

fn protected_texts(passage: &Passage) -> impl Iterator<Item = &str> {
    passage.protected.iter().map(|range| &passage.text[range.clone()])
}

/// The source with these changes, which come in the order of their places.
fn spliced<'a>(source: &str, splices: impl Iterator<Item = &'a Splice>) -> String {
    let mut text = String::with_capacity(source.len());
    let mut at = 0;
    for (range, new) in splices {
        text.push_str(&source[at..range.start]);
        text.push_str(new);
        at = range.end;
    }
    text.push_str(&source[at..]);
    text
}
