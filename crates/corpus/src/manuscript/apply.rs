//! From a new text of a passage to changes of its source.

use std::ops::Range;

use similar::{Algorithm, DiffTag, capture_diff_slices};

use super::part::{PartKind, Splice};
use super::piece::{Piece, PieceKind};
use super::{Passage, RefusedEdit};

/// Longer passages are not compared word by word.
const COMPARED_BYTES_MAX: usize = 1 << 20;
/// Characters that mean something anywhere in a line of Markdown.
const MARKDOWN_SPECIALS: [char; 10] = ['\\', '`', '*', '_', '[', ']', '<', '~', '$', '|'];
/// Characters that mean something at the start of a line of Markdown.
const MARKDOWN_LINE_SPECIALS: [char; 5] = ['-', '+', '#', '>', '='];

/// The changes that make the passage's text the new one, in order: a range of the old text and what replaces it.
pub(super) fn changes<'a>(
    passage: &Passage,
    edit: &'a str,
) -> Result<Vec<(Range<usize>, &'a str)>, RefusedEdit> {
    let bytes = passage.text.len().max(edit.len());
    if bytes > COMPARED_BYTES_MAX {
        return Err(RefusedEdit::TooLong { bytes, limit: COMPARED_BYTES_MAX });
    }
    if edit.trim().is_empty() {
        return Err(RefusedEdit::Empty);
    }
    let (old, new) = (words(&passage.text), words(edit));
    let old_words: Vec<&str> = old.iter().map(|word| &passage.text[word.clone()]).collect();
    let new_words: Vec<&str> = new.iter().map(|word| &edit[word.clone()]).collect();
    let mut changes: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    for op in capture_diff_slices(Algorithm::Myers, &old_words, &new_words) {
        if op.tag() == DiffTag::Equal {
            continue;
        }
        let from = bytes_of(&old, op.old_range(), passage.text.len());
        let to = bytes_of(&new, op.new_range(), edit.len());
        match changes.last_mut() {
            Some((last_from, last_to)) if last_from.end == from.start && last_to.end == to.start => {
                last_from.end = from.end;
                last_to.end = to.end;
            }
            _ => changes.push((from, to)),
        }
    }
    let narrowed = changes.into_iter().map(|(from, to)| narrow(&passage.text, from, edit, to));
    let narrowed: Vec<(Range<usize>, &str)> = narrowed.collect();
    let inserted = narrowed.iter().flat_map(|(_, inserted)| inserted.chars());
    match inserted.into_iter().find(|c| c.is_control() || *c == '\u{fffe}' || *c == '\u{ffff}') {
        Some(control) => Err(RefusedEdit::Control(u32::from(control))),
        None => Ok(narrowed),
    }
}

/// Words, and every character between them by itself.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut in_word = false;
    for (at, character) in text.char_indices() {
        let end = at + character.len_utf8();
        let is_letter = character.is_alphanumeric();
        match words.last_mut() {
            Some(last) if in_word && is_letter => last.end = end,
            _ => words.push(at..end),
        }
        in_word = is_letter;
    }
    words
}

fn bytes_of(words: &[Range<usize>], range: Range<usize>, end: usize) -> Range<usize> {
    let start = words.get(range.start).map_or(end, |word| word.start);
    let end = if range.is_empty() { start } else { words[range.end - 1].end };
    start..end
}

/// A change without the characters at its ends that stay, so that a word half in bold stays half in bold.
fn narrow<'a>(old: &str, from: Range<usize>, new: &'a str, to: Range<usize>) -> (Range<usize>, &'a str) {
    let (before, after) = (&old[from.clone()], &new[to]);
    let same = |pairs: &mut dyn Iterator<Item = (char, char)>| -> usize {
        pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
    };
    let start = same(&mut before.chars().zip(after.chars()));
    let (before, after) = (&before[start..], &after[start..]);
    let end = same(&mut before.chars().rev().zip(after.chars().rev()));
    (from.start + start..from.end - end, &after[..after.len() - end])
}

/// Where a change goes in the source, and whether it starts a line there.
pub(super) fn place(
    passage: &Passage,
    pieces: &[Piece],
    range: Range<usize>,
    inserted: &str,
) -> Result<(Vec<Splice>, bool), RefusedEdit> {
    let protected = |range: Range<usize>| RefusedEdit::Protected {
        at: range.start,
        text: passage.text[range].to_owned(),
    };
    let near = passage.protected.partition_point(|protected| protected.end <= range.start);
    if let Some(hit) = passage.protected.get(near)
        && if range.is_empty() { hit.start < range.start } else { hit.start < range.end }
    {
        return Err(protected(hit.clone()));
    }
    let first = pieces.partition_point(|piece| piece.text.end <= range.start);
    let starts_line =
        range.start == 0 || first.checked_sub(1).is_some_and(|before| is_break(passage, &pieces[before]));
    if range.is_empty() && pieces.get(first).is_none_or(|piece| piece.text.start >= range.start) {
        let before = first.checked_sub(1).map(|before| &pieces[before]);
        let before = before.filter(|piece| piece.kind != PieceKind::Fixed).map(|piece| piece.source.end);
        let after =
            pieces.get(first).filter(|piece| piece.kind != PieceKind::Fixed).map(|piece| piece.source.start);
        let at = before.or(after).ok_or_else(|| protected(range.start..range.start))?;
        return Ok((vec![(at..at, inserted.to_owned())], starts_line));
    }
    let mut runs: Vec<Run> = Vec::new();
    for piece in pieces[first..].iter().take_while(|piece| piece.text.start < range.end.max(range.start + 1))
    {
        add_overlap(&mut runs, passage, piece, &range);
    }
    let lettered = runs.iter().position(|run| run.has_letter).unwrap_or(0);
    let splices = runs.into_iter().enumerate().map(|(index, run)| {
        let middle = if index == lettered { inserted } else { "" };
        (run.source, format!("{}{middle}{}", run.before, run.after))
    });
    Ok((splices.collect(), starts_line))
}

fn is_break(passage: &Passage, piece: &Piece) -> bool {
    piece.kind != PieceKind::Plain && matches!(&passage.text[piece.text.clone()], " " | "\n")
}

/// Source without markup in it that a change replaces; `before` and `after` are text of pieces that are replaced
/// whole though the change has only a part of them.
#[derive(Default)]
struct Run {
    source: Range<usize>,
    has_letter: bool,
    before: String,
    after: String,
}

fn add_overlap(runs: &mut Vec<Run>, passage: &Passage, piece: &Piece, range: &Range<usize>) {
    let start = range.start.max(piece.text.start);
    let end = range.end.min(piece.text.end);
    let mut run = Run { source: piece.source.clone(), ..Run::default() };
    if piece.kind == PieceKind::Plain {
        let offset = piece.source.start;
        run.source = offset + (start - piece.text.start)..offset + (end - piece.text.start);
    } else {
        passage.text[piece.text.start..start].clone_into(&mut run.before);
        passage.text[end..piece.text.end].clone_into(&mut run.after);
    }
    run.has_letter = passage.text[start..end].contains(char::is_alphanumeric);
    match runs.last_mut() {
        Some(last) if last.source.end == run.source.start => {
            last.source.end = run.source.end;
            last.has_letter |= run.has_letter;
            last.after.push_str(&run.before);
            last.after.push_str(&run.after);
        }
        _ => runs.push(run),
    }
}

/// New text as the source says it.
pub(super) fn escaped(text: &str, kind: PartKind, starts_line: bool) -> String {
    match kind {
        PartKind::Plain => text.to_owned(),
        PartKind::Markdown => escaped_markdown(text, starts_line),
        PartKind::Html | PartKind::Xhtml | PartKind::Word => {
            text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
        }
    }
}

fn escaped_markdown(text: &str, starts_line: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut before = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let after = characters.peek();
        let is_special = match character {
            '&' => after.is_none_or(|c| c.is_ascii_alphanumeric() || *c == '#'),
            '.' | ')' => starts_line && text.starts_with(|c: char| c.is_ascii_digit()) && escaped.len() < 10,
            c if before.is_none() && starts_line && MARKDOWN_LINE_SPECIALS.contains(&c) => true,
            c => MARKDOWN_SPECIALS.contains(&c),
        };
        if is_special {
            escaped.push('\\');
        }
        escaped.push(character);
        before = Some(character);
    }
    escaped
}
