//! What is done to a text besides the model: spelling by a dictionary, before or behind it, and words for numbers.

use std::ops::Range;

use haul_corpus::manuscript::Passage;

use super::speech;
use super::spelling::Speller;
use super::{Corrected, Status};

/// Where the dictionary stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// The model reads what the dictionary corrected.
    Before,
    /// The dictionary corrects what the model left.
    Behind,
}

/// What is done besides the model.
pub struct Finish {
    /// A dictionary, and where it stands.
    pub spelling: Option<(Speller, Spelling)>,
    /// Whether numbers, money, times and dates are written as they are spoken.
    pub speech: bool,
}

impl Finish {
    /// Passages as the model is to read them.
    pub(super) fn before(&self, passages: &[Passage]) -> Vec<Passage> {
        let Some((speller, Spelling::Before)) = &self.spelling else { return passages.to_vec() };
        let spelled = |passage: &Passage| {
            let text = speller.corrected(&passage.text, &passage.protected);
            Passage { protected: moved(&passage.text, &passage.protected, &text), text, ..passage.clone() }
        };
        passages.iter().map(spelled).collect()
    }

    /// What the model left, finished. `original` is the passage as it stands in the document.
    pub(super) fn behind(&self, original: &Passage, done: Corrected) -> Corrected {
        let mut text = done.after.clone().unwrap_or_else(|| done.before.clone());
        if let Some((speller, Spelling::Behind)) = &self.spelling {
            text = speller.corrected(&text, &moved(&original.text, &original.protected, &text));
        }
        if self.speech {
            text = speech::spoken(&text, &moved(&original.text, &original.protected, &text));
        }
        let is_changed = text != original.text;
        let status = match done.status {
            Status::Unchanged | Status::Skipped | Status::Corrected if is_changed => Status::Corrected,
            Status::Kept { kept } if is_changed => Status::PartlyCorrected { kept },
            Status::Corrected => Status::Unchanged,
            status => status,
        };
        Corrected { before: original.text.clone(), after: is_changed.then_some(text), status, ..done }
    }
}

/// Where protected parts of a text stand in its corrected form: they are the same words in the same order.
fn moved(text: &str, protected: &[Range<usize>], corrected: &str) -> Vec<Range<usize>> {
    let mut from = 0;
    let place = |range: &Range<usize>| {
        let part = &text[range.clone()];
        let at = from + corrected[from..].find(part)?;
        from = at + part.len();
        Some(at..from)
    };
    protected.iter().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a list of protected ranges with one entry")]
    fn protected_words_are_found_again() {
        let text = "teh `a` and teh `b`";
        assert_eq!(moved(text, &[4..7, 16..19], "these `a` and then the `b`"), [6..9, 23..26]);
        assert!(moved(text, &[4..7], "no code").is_empty());
    }
}
