//! The language of a text whose metadata may lie or say nothing.

/// Bytes looked at, in the middle of the text: front matter is often in another language.
const SAMPLE_BYTES: usize = 16 << 10;

/// ISO 639-3 code of the language, if the detector is sure.
pub(crate) fn detect(text: &str) -> Option<String> {
    let middle = text.len() / 2;
    let start = text.floor_char_boundary(middle.saturating_sub(SAMPLE_BYTES / 2));
    let end = text.floor_char_boundary(middle + SAMPLE_BYTES / 2);
    let found = whatlang::detect(&text[start..end])?;
    found.is_reliable().then(|| found.lang().code().to_owned())
}
