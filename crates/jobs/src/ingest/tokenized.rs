//! A text tokenized once: the ids of any part of it, without asking the tokenizer again where that is exact.

use std::ops::Range;

use haul_encoder::model_dir::ModelDir;
use haul_encoder::tokenizer::{TokenizeError, Tokenizer};

use super::index32;

/// Text that is tokenized at once; chunks of every model are far shorter.
const WINDOW_BYTES: usize = 256 << 10;

/// Token ids of a text and where each stands in it.
pub(crate) struct Tokenized {
    ids: Vec<u32>,
    offsets: Vec<(u32, u32)>,
    is_sliceable: bool,
    /// Where two parts meet without a space between them: what the tokenizer makes of both together is not known.
    joints: Vec<usize>,
}

/// Whether the ids of a text are those of its parts, cut beside spaces: so it is with tokenizers of BERT, which part
/// words at white space before anything else, unless something is put before a text or done to it as a whole.
pub(crate) fn is_sliceable(model: &ModelDir, prompt: &str) -> bool {
    model.tokenizer.is_local_at_spaces() && is_plain(model, prompt)
}

/// Whether the model sees a text as it is.
pub(crate) fn is_plain(model: &ModelDir, prompt: &str) -> bool {
    prompt.is_empty() && model.prepare("A") == "A"
}

impl Tokenized {
    /// Of nothing yet; [`Tokenized::add`] adds parts in order.
    pub(crate) fn empty(is_sliceable: bool) -> Tokenized {
        Tokenized { ids: Vec::new(), offsets: Vec::new(), is_sliceable, joints: Vec::new() }
    }

    /// Of the whole text. A tokenizer takes some hundred bytes of memory for each byte of text, so a long text goes
    /// through it in windows.
    pub(crate) fn whole(
        tokenizer: &Tokenizer,
        text: &str,
        is_sliceable: bool,
    ) -> Result<Tokenized, TokenizeError> {
        let mut whole = Tokenized::empty(is_sliceable);
        for window in windows(text) {
            whole.add(tokenizer, text, window)?;
        }
        Ok(whole)
    }

    /// Adds the tokens of one part of the text, and returns their ids.
    pub(crate) fn add(
        &mut self,
        tokenizer: &Tokenizer,
        text: &str,
        part: Range<usize>,
    ) -> Result<&[u32], TokenizeError> {
        if !text[..part.start].ends_with(is_separator) {
            self.joints.push(part.start);
        }
        let base = index32(part.start);
        let encoding = tokenizer.encode(&text[part])?;
        let first = self.ids.len();
        self.offsets.extend(encoding.offsets.into_iter().map(|(start, end)| (base + start, base + end)));
        self.ids.extend(encoding.ids);
        Ok(&self.ids[first..])
    }

    /// Byte range of each token.
    pub(crate) fn offsets(&self) -> &[(u32, u32)] {
        &self.offsets
    }

    /// How many tokens start in a range of the text.
    pub(crate) fn count(&self, bytes: &Range<usize>) -> usize {
        self.between(bytes).len()
    }

    /// The ids of a part of the text that stands between spaces; `None` where only the tokenizer can tell.
    pub(crate) fn ids(&self, text: &str, bytes: &Range<usize>) -> Option<&[u32]> {
        let (before, part, after) = (&text[..bytes.start], &text[bytes.clone()], &text[bytes.end..]);
        let is_apart =
            (before.is_empty() || before.ends_with(is_separator) || part.starts_with(is_separator))
                && (after.is_empty() || after.starts_with(is_separator) || part.ends_with(is_separator));
        let joint = self.joints.partition_point(|&joint| joint <= bytes.start);
        let is_joined = self.joints.get(joint).is_some_and(|&joint| joint < bytes.end);
        (self.is_sliceable && is_apart && !is_joined).then(|| &self.ids[self.between(bytes)])
    }

    fn between(&self, bytes: &Range<usize>) -> Range<usize> {
        let first = |byte: usize| self.offsets.partition_point(|&(start, _)| (start as usize) < byte);
        first(bytes.start)..first(bytes.end)
    }
}

/// White space that every tokenizer takes for white space: others may be control characters to it, and vanish.
pub(crate) fn is_separator(c: char) -> bool {
    matches!(c, ' ' | '\n')
}

/// Cuts a text into pieces of at most [`WINDOW_BYTES`], after white space where there is any.
pub(crate) fn windows(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == text.len() {
            return None;
        }
        let limit = text.floor_char_boundary(start + WINDOW_BYTES);
        let in_window = &text[start..limit];
        let after_space = in_window.char_indices().rev().find(|(_, c)| c.is_whitespace());
        let end = match after_space {
            Some((at, space)) if limit < text.len() => start + at + space.len_utf8(),
            _ => limit,
        };
        let window = start..end;
        start = end;
        Some(window)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn windows_cover_the_text_and_end_after_white_space() {
        let word = "slowly ".repeat(WINDOW_BYTES / 5);
        let solid = "走".repeat(WINDOW_BYTES);
        for text in ["", "a", &word, &solid] {
            let windows: Vec<_> = windows(text).collect();
            assert_eq!(windows.iter().map(|w| &text[w.clone()]).collect::<String>(), text);
            assert!(windows.iter().all(|w| !w.is_empty() && w.len() <= WINDOW_BYTES));
        }
        assert!(windows(&word).all(|window| word[window].ends_with(' ')));
    }

    /// The committed model of the encoder's tests: a BERT tokenizer.
    fn tokenizer() -> Tokenizer {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../encoder/tests/golden/tiny-bert");
        Tokenizer::open(&dir.join("tokenizer.json")).unwrap()
    }

    /// Every part between spaces has the ids that the tokenizer gives it alone, or none at all.
    #[test]
    fn ids_of_parts_are_those_of_the_tokenizer() {
        let tokenizer = tokenizer();
        let text = "Mr. O\u{2019}Neil\u{b}x  said:\n\u{201c}Caf\u{e9}\u{301}s, 3.5% \u{5929}\u{5730} \u{85}y \
                    e\u{301}te\u{301} STRASSE \u{1f469}\u{200d}\u{1f680}!\u{201d} \u{130}I\u{307}  end";
        assert!(tokenizer.is_local_at_spaces());
        let whole = Tokenized::whole(&tokenizer, text, true).unwrap();
        let mut cut = Tokenized::empty(true);
        for (start, part) in text
            .match_indices(' ')
            .map(|(at, _)| at)
            .chain([text.len()])
            .scan(0, |start, end| Some((std::mem::replace(start, end), end)))
        {
            cut.add(&tokenizer, text, start..part).unwrap();
        }
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut sliced = 0;
        for (index, &start) in places.iter().enumerate() {
            for &end in &places[index..] {
                let alone = tokenizer.encode(&text[start..end]).unwrap().ids;
                for tokenized in [&whole, &cut] {
                    if let Some(ids) = tokenized.ids(text, &(start..end)) {
                        assert_eq!(ids, alone, "{:?}", &text[start..end]);
                        sliced += 1;
                    }
                }
            }
        }
        assert!(sliced > 100, "{sliced} parts between spaces");
    }

    #[test]
    fn a_text_that_is_parted_inside_a_word_is_not_sliced() {
        let text = "x".repeat(WINDOW_BYTES + 1);
        let whole = Tokenized::whole(&tokenizer(), &text, true).unwrap();
        assert_eq!(whole.ids(&text, &(0..text.len())), None);
        assert!(whole.count(&(0..text.len())) > 1);
    }
}
