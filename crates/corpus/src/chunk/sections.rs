//! Sections: the stretches of a text that the word chunkers cut one by one, and the parents of their chunks.

use crate::chunk::words::{self, is_space};
use crate::document::{Chapter, Document};

/// Alexandria takes a token for 1 / 1.3 words: its 500 tokens, `int(500 / 1.3)`.
pub const SHORT_WORDS: usize = 384;
/// Its 5,000 tokens: a text without a table of contents is cut every so many words.
pub const UNTITLED_WORDS: usize = 3846;

/// One section. Its text is `start..end` of the document's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Title of its longest chapter, or `Section N`.
    pub name: String,
    /// First byte of `Document::text`.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// The sections of Alexandria, and what it loses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detected {
    /// What is left, in order; there may be text between.
    pub sections: Vec<Section>,
    /// Sections of fewer than [`SHORT_WORDS`] words, and the words of the headings by which a text was cut.
    pub short: Dropped,
    /// What stands outside the first level of a PDF's outline: below it, or before its first entry.
    pub outside: Dropped,
}

/// What is not embedded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Sections with words.
    pub sections: usize,
    /// Their words.
    pub words: usize,
}

/// The chapters; one of fewer than [`SHORT_WORDS`] words goes with the next, the last one with the one before.
/// Sections partition the text.
#[must_use]
pub fn merged(document: &Document) -> Vec<Section> {
    let mut groups: Vec<Group> = Vec::new();
    let mut open: Option<Group> = None;
    for (index, chapter) in document.chapters.iter().enumerate() {
        let words = words::count(&document.text[chapter.start..chapter.end]);
        let group = match open.take() {
            Some(before) => before.with(index, words),
            None => Group { first: index, last: index, words, longest: index, longest_words: words },
        };
        if group.words < SHORT_WORDS { open = Some(group) } else { groups.push(group) }
    }
    match (open, groups.last_mut()) {
        (Some(rest), Some(before)) => {
            before.last = rest.last;
            if rest.longest_words > before.longest_words {
                before.longest = rest.longest;
            }
        }
        (Some(rest), None) => groups.push(rest),
        (None, _) => {}
    }
    (1..)
        .zip(groups)
        .map(|(number, group)| Section {
            name: name(document, group.longest, number),
            start: document.chapters[group.first].start,
            end: document.chapters[group.last].end,
        })
        .collect()
}

/// As Alexandria finds them: the chapters of a table of contents, of a PDF's outline those of its first level only;
/// without one, by headings in a PDF and every [`UNTITLED_WORDS`] words in anything else. Short ones are dropped; if
/// none is left, the whole text is cut by words.
#[must_use]
pub fn of_alexandria(document: &Document, format_name: &str) -> Detected {
    let has_contents = document.chapters.iter().any(|chapter| !chapter.breadcrumb.is_empty());
    let detected = match format_name {
        "epub" => chapters(document, |_| true),
        "pdf" if has_contents => chapters(document, |chapter| chapter.breadcrumb.len() == 1),
        "pdf" => headings(document),
        _ => Detected::default(),
    };
    if detected.sections.is_empty() { by_words(document) } else { detected }
}

/// Chapters on their way to a section.
struct Group {
    first: usize,
    last: usize,
    words: usize,
    longest: usize,
    longest_words: usize,
}

impl Group {
    fn with(self, index: usize, words: usize) -> Group {
        let (longest, longest_words) = match words > self.longest_words {
            true => (index, words),
            false => (self.longest, self.longest_words),
        };
        Group { last: index, words: self.words + words, longest, longest_words, ..self }
    }
}

fn name(document: &Document, chapter: usize, number: usize) -> String {
    let title = document.chapters[chapter].breadcrumb.last();
    title.cloned().unwrap_or_else(|| format!("Section {number}"))
}

impl Detected {
    fn add(&mut self, text: &str, section: Section, words_min: usize) {
        let words = words::count(&text[section.start..section.end]);
        if words >= words_min { self.sections.push(section) } else { self.short.add(words) }
    }
}

impl Dropped {
    fn add(&mut self, words: usize) {
        self.sections += usize::from(words > 0);
        self.words += words;
    }
}

fn chapters(document: &Document, is_section: impl Fn(&Chapter) -> bool) -> Detected {
    let mut detected = Detected::default();
    for (index, chapter) in document.chapters.iter().enumerate() {
        if is_section(chapter) {
            let name = name(document, index, index + 1);
            let section = Section { name, start: chapter.start, end: chapter.end };
            detected.add(&document.text, section, SHORT_WORDS);
        } else {
            detected.outside.add(words::count(&document.text[chapter.start..chapter.end]));
        }
    }
    detected
}

/// A line that looks like a heading begins a section and is no part of it.
fn headings(document: &Document) -> Detected {
    let text = &document.text;
    let mut detected = Detected::default();
    let mut open = Section { name: "Introduction".to_owned(), start: 0, end: 0 };
    let mut from = 0;
    for line in text.split_inclusive('\n') {
        if is_heading(words::stripped(line)) {
            detected.short.words += words::count(line);
            let next = Section { name: words::stripped(line).to_owned(), start: from + line.len(), end: 0 };
            let done = std::mem::replace(&mut open, next);
            detected.add(text, Section { end: from, ..done }, SHORT_WORDS);
        }
        from += line.len();
    }
    detected.add(text, Section { end: text.len(), ..open }, SHORT_WORDS);
    detected
}

/// `CHAPTER 1`, `Chapter 1`, `PART IV`, `Part 4`, `1. Title`.
fn is_heading(line: &str) -> bool {
    let named = |names: [&str; 2], number: fn(char) -> bool| {
        let rest = names.into_iter().find_map(|name| line.strip_prefix(name));
        rest.is_some_and(|rest| {
            rest.starts_with(is_space) && rest.trim_start_matches(is_space).starts_with(number)
        })
    };
    let numbered = || {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let title =
            rest.strip_prefix('.').filter(|rest| rest.len() < line.len() - 1 && rest.starts_with(is_space));
        title.is_some_and(|title| {
            title.trim_start_matches(is_space).starts_with(|c: char| c.is_ascii_uppercase())
        })
    };
    named(["CHAPTER", "Chapter"], |c| c.is_ascii_digit())
        || named(["PART", "Part"], |c| c.is_ascii_digit() || matches!(c, 'I' | 'V' | 'X'))
        || numbered()
}

/// Windows of words. The last one may have 384 words and is then dropped: here 384.6 is the bound.
fn by_words(document: &Document) -> Detected {
    let mut detected = Detected::default();
    let words: Vec<_> = words::words(&document.text).collect();
    for window in words.chunks(UNTITLED_WORDS) {
        let (Some(first), Some(last)) = (window.first(), window.last()) else { continue };
        let name = format!("Section {}", detected.sections.len() + 1);
        let section = Section { name, start: first.start, end: last.end };
        detected.add(&document.text, section, SHORT_WORDS + 1);
    }
    detected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::decode;
    use crate::markdown;

    fn document(source: &str) -> Document {
        markdown::document(decode(source.as_bytes().to_vec()))
    }

    /// `words` words after a heading.
    fn chapter(title: &str, words: usize) -> String {
        format!("# {title}\n\n{}\n\n", "word ".repeat(words))
    }

    fn shown(sections: &[Section], text: &str) -> Vec<(String, usize)> {
        sections.iter().map(|s| (s.name.clone(), words::count(&text[s.start..s.end]))).collect()
    }

    #[test]
    fn short_chapters_go_with_the_next_and_the_last_with_the_one_before() {
        let sources = [("Preface", 10), ("One", 400), ("Two", 500), ("Notes", 5), ("Index", 6)];
        let source: String = sources.iter().map(|(title, words)| chapter(title, *words)).collect();
        let document = document(&source);
        let sections = merged(&document);
        // Each heading is two words of its chapter: its mark stays in the text.
        assert_eq!(shown(&sections, &document.text), [("One".to_owned(), 414), ("Two".to_owned(), 517)]);
        assert_eq!(sections[0].end, sections[1].start);
        assert_eq!((sections[0].start, sections[1].end), (0, document.text.len()));
        let detected = of_alexandria(&document, "epub");
        assert_eq!(
            shown(&detected.sections, &document.text),
            [("One".to_owned(), 402), ("Two".to_owned(), 502)]
        );
        assert_eq!(detected.short, Dropped { sections: 3, words: 27 });
    }

    /// Alexandria ends an entry of the first level at the next entry of any level and takes no entry below.
    #[test]
    fn of_an_outline_the_first_level_is_taken() {
        let part = format!("{}## Below\n\n{}", chapter("Part", 400), "word ".repeat(500));
        let document = document(&[part, "\n\n".to_owned(), chapter("Next", 600)].concat());
        let names =
            |detected: &Detected| detected.sections.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        let of_pdf = of_alexandria(&document, "pdf");
        assert_eq!(names(&of_pdf), ["Part", "Next"]);
        assert_eq!((of_pdf.short, of_pdf.outside), (Dropped::default(), Dropped { sections: 1, words: 502 }));
        assert_eq!(names(&of_alexandria(&document, "epub")), ["Part", "Below", "Next"]);
    }

    #[test]
    fn a_text_of_short_chapters_alone_is_one_section() {
        let document = document(&[chapter("A", 3), chapter("B", 7)].concat());
        assert_eq!(shown(&merged(&document), &document.text), [("B".to_owned(), 14)]);
        assert!(merged(&Document::default()).is_empty());
    }

    #[test]
    fn without_contents_words_are_counted() {
        let document = document(&"word ".repeat(3846 * 2 + 384));
        let detected = of_alexandria(&document, "text");
        let expected = [("Section 1".to_owned(), 3846), ("Section 2".to_owned(), 3846)];
        assert_eq!(shown(&detected.sections, &document.text), expected);
        assert_eq!(detected.short, Dropped { sections: 1, words: 384 });
    }

    #[test]
    fn headings_are_those_of_alexandria() {
        for heading in ["CHAPTER 1", "Chapter 12: The end", "PART IV", "Part 3", "1. Title", "12.  End"] {
            assert!(is_heading(heading), "{heading}");
        }
        for line in
            ["chapter 1", "CHAPTER one", "Partly 1", "1.Title", "1. title", ". Title", "Chapter1", "12. ", ""]
        {
            assert!(!is_heading(line), "{line}");
        }
        let body = "word ".repeat(400);
        let text = format!("{body}\nChapter 1\n{body}\nCHAPTER 2\nshort\n");
        let document = crate::text::document(decode(text.into_bytes()));
        let detected = of_alexandria(&document, "pdf");
        let expected = [("Introduction".to_owned(), 400), ("Chapter 1".to_owned(), 400)];
        assert_eq!(shown(&detected.sections, &document.text), expected);
        assert_eq!(detected.short, Dropped { sections: 1, words: 5 });
    }
}
