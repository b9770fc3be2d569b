//! Words and white space as Python's `str.split()` and `str.strip()` know them, which Alexandria counts by.

use std::ops::Range;

/// The byte range of each word of `text`.
pub fn words(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text[from..].find(|c| !is_space(c))?;
        let end = text[start..].find(is_space).map_or(text.len(), |length| start + length);
        from = end;
        Some(start..end)
    })
}

/// Words of `text`.
#[must_use]
pub fn count(text: &str) -> usize {
    words(text).count()
}

/// The words with one space between them.
#[must_use]
pub fn joined(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    for word in words(text) {
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.push_str(&text[word]);
    }
    joined
}

/// Without white space at both ends.
#[must_use]
pub fn stripped(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Python's `str.isspace`: also the four separators of ASCII.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_python() {
        let text = "\n one\u{a0}two\x1cthree  four\u{200b}five ";
        let found: Vec<&str> = words(text).map(|word| &text[word]).collect();
        assert_eq!(found, ["one", "two", "three", "four\u{200b}five"]);
        assert_eq!((count(text), joined(text).as_str()), (4, "one two three four\u{200b}five"));
        assert_eq!((count(" "), joined(""), stripped(" a b\n")), (0, String::new(), "a b"));
    }
}
