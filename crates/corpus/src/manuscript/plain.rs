//! Plain text: paragraphs between blank lines.

use super::part::Reading;
use super::piece::{Draft, PieceKind};
use super::{ManuscriptError, PassageKind};
use crate::text::lines;

pub(super) fn read(text: &str, mut reading: Reading) -> Result<Reading, ManuscriptError> {
    let mut draft = Draft::default();
    let mut end = 0;
    for (start, line) in lines(text) {
        let words = line.trim();
        if words.is_empty() {
            reading.take(std::mem::take(&mut draft), PassageKind::Paragraph, text)?;
            continue;
        }
        let at = start + (line.len() - line.trim_start().len());
        if !draft.text.is_empty() {
            draft.push(" ", end..at, PieceKind::Encoded);
        }
        end = at + words.len();
        draft.push(words, at..end, PieceKind::Plain);
    }
    reading.take(draft, PassageKind::Paragraph, text)?;
    Ok(reading)
}
