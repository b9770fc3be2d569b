//! Character data of markup: entities decoded, whitespace as one space.

use std::ops::Range;

use pulldown_cmark::{Event, Parser};

use super::piece::{Draft, PieceKind};

/// No entity is longer, with `&` and `;`.
const ENTITY_BYTES_MAX: usize = 40;

/// Which whitespace counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whitespace {
    /// Any is one space, and none at the start of a passage or after another.
    Folded,
    /// Every space counts; a line break in the source is a space.
    Kept,
}

/// Appends the text in a range of the source.
pub(super) fn push(
    draft: &mut Draft,
    source: &str,
    range: Range<usize>,
    whitespace: Whitespace,
    is_fixed: bool,
) {
    let kind_of = |kind| if is_fixed { PieceKind::Fixed } else { kind };
    let bytes = source.as_bytes();
    let mut at = range.start;
    while at < range.end {
        let start = at;
        if is_space(bytes[at]) {
            let is_folded = whitespace == Whitespace::Folded;
            at += 1;
            while is_folded && at < range.end && is_space(bytes[at]) {
                at += 1;
            }
            let is_said = draft.text.is_empty() || draft.text.ends_with([' ', '\n']);
            if is_folded && is_said {
                continue;
            }
            let is_plain = &source[start..at] == " ";
            draft.push(" ", start..at, kind_of(if is_plain { PieceKind::Plain } else { PieceKind::Encoded }));
            continue;
        }
        if let Some((text, length)) = entity(&source[at..range.end]) {
            at += length;
            draft.push(&text, start..at, kind_of(PieceKind::Encoded));
            continue;
        }
        at += 1;
        while at < range.end && bytes[at] != b'&' && !is_space(bytes[at]) {
            at += 1;
        }
        draft.push(&source[start..at], start..at, kind_of(PieceKind::Plain));
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c')
}

/// The entity that a text starts with, decoded, and its bytes.
fn entity(text: &str) -> Option<(String, usize)> {
    let inner = text.strip_prefix('&')?;
    let end = inner.bytes().take(ENTITY_BYTES_MAX).position(|byte| byte == b';')?;
    let (name, length) = (&inner[..end], end + 2);
    if let Some(number) = name.strip_prefix('#') {
        let hexadecimal = number.strip_prefix(['x', 'X']);
        let code = match hexadecimal {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => number.parse(),
        };
        let character = char::from_u32(code.ok()?).filter(|character| !character.is_control())?;
        return Some((character.to_string(), length));
    }
    let common = match name {
        "amp" => "&",
        "lt" => "<",
        "gt" => ">",
        "quot" => "\"",
        "apos" => "'",
        "nbsp" => "\u{a0}",
        _ => "",
    };
    if !common.is_empty() {
        return Some((common.to_owned(), length));
    }
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    // Markdown has the entities of HTML, and its parser their table.
    let spelled = &text[..length];
    let mut events = Parser::new(spelled);
    let text = events.find_map(|event| if let Event::Text(text) = event { Some(text) } else { None })?;
    (*text != *spelled && !text.starts_with('&')).then(|| (text.into_string(), length))
}
