//! Lines of pages to one text of paragraphs, with chapters by the outline.

use std::collections::HashSet;

use super::{Line, OutlineEntry, Place, Source};
use crate::chapters;
use crate::document::{Block, BlockKind, Chapter, Document, Furniture, PageStart};
use crate::limits::TITLE_BYTES_MAX;

const BETWEEN_PARAGRAPHS: &str = "\n\n";
/// Lines around one by which the width of its column is known.
const COLUMN_LINES: usize = 12;
/// A gap of more than so many usual gaps parts paragraphs.
const WIDE_GAP: f32 = 1.4;
/// Heights of letters that differ by more are two kinds of text.
const HEIGHT_CHANGE: f32 = 0.2;
/// A line that ends so much of the column's width before its edge ends a paragraph with the sentence ...
const SHORT_LINE: f32 = 0.12;
/// ... and with so much, whatever it says.
const VERY_SHORT_LINE: f32 = 0.4;
/// Without places, a line of so much less than the letters around it is short.
const SHORT_LETTERS: f32 = 0.75;
/// A title may stand in so many lines.
const TITLE_LINES_MAX: usize = 4;

/// Joins the lines of all pages.
pub(super) fn document(source: Source) -> Document {
    let words = Words::of(&source);
    let lines = flat(&source);
    let titles = titles(&source.outline, &lines);
    let mut writer = Writer::new(&words);
    let mut chapters = Vec::new();
    let mut titles = titles.into_iter().peekable();
    let mut past_title = 0;
    for (index, line) in lines.iter().enumerate() {
        let mut kind = BlockKind::Paragraph;
        let in_title = index < past_title;
        let mut begins = index == past_title || !in_title && begins_paragraph(&lines, index);
        while let Some(title) = titles.next_if(|title| title.line == index) {
            past_title = past_title.max(title.past);
            (begins, kind) = (true, title.kind);
            chapters.push((title.breadcrumb, writer.text.len()));
        }
        let at = writer.write(line.text(), begins, kind);
        if let Some((_, start)) = chapters.last_mut().filter(|_| begins) {
            // The break before a paragraph belongs to the chapter before.
            if *start + BETWEEN_PARAGRAPHS.len() == at {
                *start = at;
            }
        }
        if writer.pages.last().is_none_or(|page| page.number != line.page) {
            writer.pages.push(PageStart { number: line.page, start: at });
        }
    }
    let chapters =
        chapters.into_iter().map(|(breadcrumb, start)| Chapter { breadcrumb, href: None, start, end: 0 });
    let mut document = Document {
        title: source.title,
        authors: source.authors,
        metadata: source.metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        text: writer.text,
        blocks: writer.blocks,
        pages: writer.pages,
        furniture: Furniture { mended_hyphens: writer.mended_hyphens, ..Furniture::default() },
        ..Document::default()
    };
    chapters::partition(&mut document, chapters.collect());
    document
}

/// A line and its page.
struct PageLine<'a> {
    page: u32,
    line: &'a Line,
    /// Whether an empty line of the engine's stood before it.
    after_gap: bool,
}

impl PageLine<'_> {
    fn text(&self) -> &str {
        &self.line.text
    }
}

fn flat(source: &Source) -> Vec<PageLine<'_>> {
    let mut lines = Vec::new();
    for page in &source.pages {
        let mut after_gap = false;
        for line in &page.lines {
            if line.text.is_empty() {
                after_gap = true;
                continue;
            }
            lines.push(PageLine { page: page.number, line, after_gap });
            after_gap = false;
        }
    }
    lines
}

/// Whether the line at `index` is the first of a paragraph.
fn begins_paragraph(lines: &[PageLine<'_>], index: usize) -> bool {
    let (before, line) = (&lines[index - 1], &lines[index]);
    if before.page != line.page {
        return !goes_on(before.text(), line.text());
    }
    match (before.line.place, line.line.place) {
        (Some(above), Some(place)) => begins_by_place(lines, index, above, place),
        _ => line.after_gap && !goes_on(before.text(), line.text()) || begins_by_letters(lines, index),
    }
}

fn begins_by_place(lines: &[PageLine<'_>], index: usize, above: Place, place: Place) -> bool {
    let (before, line) = (&lines[index - 1], &lines[index]);
    let height = place.height().max(above.height());
    let down = above.top - place.top;
    if down < 0.5 * height {
        // Beside the line before it, or in the next column.
        return !goes_on(before.text(), line.text());
    }
    let usual = usual_step(lines, index, height);
    if down > WIDE_GAP * usual || (place.height() - above.height()).abs() > HEIGHT_CHANGE * height {
        return true;
    }
    let ends = ends_sentence(before.text());
    let indented = place.left - above.left > 0.6 * height;
    let (left, right) = column(lines, index - 1, above);
    let missing = (right - above.right) / (right - left).max(1.0);
    let hyphenated = before.text().ends_with(HYPHENS);
    !hyphenated && (ends && (indented || missing > SHORT_LINE) || missing > VERY_SHORT_LINE)
        || ends && begins_item(line.text())
}

/// From the top of a line to the top of the next: the middle one of those near, for a page may set its text in
/// several ways.
fn usual_step(lines: &[PageLine<'_>], index: usize, height: f32) -> f32 {
    let near = &lines[index.saturating_sub(COLUMN_LINES)..(index + COLUMN_LINES).min(lines.len())];
    let steps = near.windows(2).filter_map(|pair| Some(pair[0].line.place?.top - pair[1].line.place?.top));
    let mut steps: Vec<f32> = steps.filter(|step| (0.5 * height..3.0 * height).contains(step)).collect();
    steps.sort_by(f32::total_cmp);
    steps.get(steps.len() / 2).copied().unwrap_or(height)
}

/// Left and right edge of the column that a line stands in, by the lines near it that begin where it does.
fn column(lines: &[PageLine<'_>], index: usize, place: Place) -> (f32, f32) {
    let near = &lines[index.saturating_sub(COLUMN_LINES)..(index + COLUMN_LINES).min(lines.len())];
    let own = near.iter().filter(|line| line.page == lines[index].page).filter_map(|line| line.line.place);
    let own = own.filter(|other| (other.left - place.left).abs() < 5.0 * place.height());
    own.fold((place.left, place.right), |(left, right), other| (left.min(other.left), right.max(other.right)))
}

fn begins_by_letters(lines: &[PageLine<'_>], index: usize) -> bool {
    let near = &lines[index.saturating_sub(COLUMN_LINES)..(index + COLUMN_LINES).min(lines.len())];
    let longest = near.iter().map(|line| line.text().chars().count()).max().unwrap_or(0);
    let before = lines[index - 1].text();
    #[expect(clippy::cast_precision_loss, reason = "letters of a line")]
    let is_short = (before.chars().count() as f32) < SHORT_LETTERS * longest as f32;
    ends_sentence(before) && (is_short || begins_item(lines[index].text()))
}

const HYPHENS: [char; 2] = ['-', '\u{2010}'];
const CLOSING: [char; 8] = ['"', '\'', ')', ']', '\u{201d}', '\u{2019}', '\u{bb}', '*'];

fn ends_sentence(text: &str) -> bool {
    text.trim_end_matches(CLOSING).ends_with(['.', '!', '?', ':', ';', '\u{2026}'])
}

/// Whether a paragraph runs from one line over a page, a column or a gap to the next.
fn goes_on(before: &str, text: &str) -> bool {
    let continues = text.starts_with(|letter: char| letter.is_lowercase());
    continues && (!ends_sentence(before) || before.ends_with(HYPHENS))
}

/// Bullets, dashes, `1.`, `(a)`.
fn begins_item(text: &str) -> bool {
    let word = text.split(' ').next().unwrap_or_default();
    let number = word.trim_start_matches('(').trim_end_matches([')', '.']);
    let is_number = number.len() <= 3 && number.chars().all(|letter| letter.is_ascii_alphanumeric());
    matches!(word, "\u{2022}" | "\u{2013}" | "\u{2014}" | "-" | "*" | "\u{25cf}" | "\u{f0b7}")
        || is_number && number.len() < word.len()
}

/// Where an entry of the outline begins.
struct Title {
    line: usize,
    /// The line after those that say the title; `line` itself where none do.
    past: usize,
    breadcrumb: Vec<String>,
    kind: BlockKind,
}

/// The entries in the order of the text. An entry begins at the line that says its title, else at the first line
/// that is not above the place it leads to, else with its page. Pages without text give their entry to the next
/// one that has some.
fn titles(outline: &[OutlineEntry], lines: &[PageLine<'_>]) -> Vec<Title> {
    let mut titles: Vec<Title> = Vec::new();
    // In the order of the outline: what an entry stands below may lead nowhere, or to a later page.
    let mut path: Vec<&OutlineEntry> = Vec::new();
    for entry in outline {
        path.retain(|above| above.depth < entry.depth);
        path.push(entry);
        titles.extend(title(&path, lines));
    }
    titles.sort_by_key(|title| title.line);
    titles
}

/// Of the last entry of `path`, which begins with the outermost; none where it leads nowhere.
fn title(path: &[&OutlineEntry], lines: &[PageLine<'_>]) -> Option<Title> {
    let entry = path.last()?;
    let page = entry.page?;
    let first = lines.partition_point(|line| line.page < page);
    let past = lines.partition_point(|line| line.page <= page);
    if first == lines.len() {
        return None;
    }
    let said = (first..past).find_map(|index| Some((index, says(&lines[index..past], &entry.title)?)));
    let below = |top: f32| {
        (first..past).find(|&index| lines[index].line.place.is_some_and(|place| place.bottom < top))
    };
    let kind = match said {
        Some(_) => BlockKind::Heading(u8::try_from(entry.depth + 1).unwrap_or(6).min(6)),
        None => BlockKind::Paragraph,
    };
    let (line, said_lines) = said.or_else(|| Some((entry.top.and_then(below)?, 0))).unwrap_or((first, 0));
    let bounded = |title: &str| title[..title.floor_char_boundary(TITLE_BYTES_MAX)].to_owned();
    let breadcrumb = path.iter().map(|entry| bounded(&entry.title)).collect();
    Some(Title { line, past: line + said_lines, breadcrumb, kind })
}

/// How many of these lines say the title, in letters and digits, if they begin with it.
fn says(lines: &[PageLine<'_>], title: &str) -> Option<usize> {
    let plain = |text: &str| -> String {
        text.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let title = plain(title);
    let mut said = String::new();
    for (count, line) in (1..).zip(lines.iter().take(TITLE_LINES_MAX)) {
        said.push_str(&plain(line.text()));
        // A number before a title is not always in the outline, and more may follow on its line.
        let unnumbered = said.trim_start_matches(|letter: char| letter.is_ascii_digit());
        if !title.is_empty() && (said == title || unnumbered == title) {
            return Some(count);
        }
        if !title.starts_with(&said) && !title.starts_with(unnumbered) {
            return None;
        }
    }
    None
}

/// The text as it grows.
struct Writer<'a> {
    words: &'a Words,
    text: String,
    blocks: Vec<Block>,
    pages: Vec<PageStart>,
    mended_hyphens: usize,
}

impl Writer<'_> {
    fn new(words: &Words) -> Writer<'_> {
        Writer { words, text: String::new(), blocks: Vec::new(), pages: Vec::new(), mended_hyphens: 0 }
    }

    /// Adds a line and says where it begins.
    fn write(&mut self, line: &str, begins: bool, kind: BlockKind) -> usize {
        if !begins && let Some(block) = self.blocks.last_mut() {
            match self.words.join(&self.text[block.start..], line) {
                Join::Space => self.text.push(' '),
                Join::WithHyphen => {}
                Join::WithoutHyphen => {
                    self.text.pop();
                    self.mended_hyphens += 1;
                }
            }
            let start = self.text.len();
            self.text.push_str(line);
            block.end = self.text.len();
            return start;
        }
        if !self.text.is_empty() {
            self.text.push_str(BETWEEN_PARAGRAPHS);
        }
        let start = self.text.len();
        self.text.push_str(line);
        self.blocks.push(Block { kind, start, end: self.text.len(), chapter: 0 });
        start
    }
}

/// How a line is put to the one before.
#[derive(Debug, PartialEq)]
enum Join {
    Space,
    /// The hyphen is the word's own.
    WithHyphen,
    /// The hyphen was the line's.
    WithoutHyphen,
}

/// The words of a document that have a hyphen inside a line, and those that have none.
struct Words {
    hyphenated: HashSet<String>,
    plain: HashSet<String>,
}

impl Words {
    fn of(source: &Source) -> Words {
        let mut words = Words { hyphenated: HashSet::new(), plain: HashSet::new() };
        for line in source.pages.iter().flat_map(|page| &page.lines) {
            for word in line.text.split(' ') {
                let word = word.trim_matches(|letter: char| !letter.is_alphanumeric()).to_lowercase();
                if word.contains(HYPHENS) {
                    words.hyphenated.insert(word)
                } else {
                    words.plain.insert(word)
                };
            }
        }
        words
    }

    /// A hyphen at the end of a line is the line's where the word goes on in a small letter, unless elsewhere the
    /// document writes the word with its hyphen and never without.
    fn join(&self, before: &str, line: &str) -> Join {
        let Some(stem) = before.strip_suffix('-').or_else(|| before.strip_suffix('\u{2010}')) else {
            return Join::Space;
        };
        if !stem.ends_with(char::is_alphabetic) || !line.starts_with(char::is_lowercase) {
            let touches = stem.ends_with(char::is_alphanumeric) && line.starts_with(char::is_alphanumeric);
            return if touches { Join::WithHyphen } else { Join::Space };
        }
        let first = stem.rsplit(' ').next().unwrap_or_default();
        let first = first.trim_start_matches(|letter: char| !letter.is_alphanumeric()).to_lowercase();
        let rest = line.split(' ').next().unwrap_or_default();
        let rest = rest.trim_end_matches(|letter: char| !letter.is_alphanumeric()).to_lowercase();
        let own = self.hyphenated.contains(&format!("{first}-{rest}"))
            && !self.plain.contains(&format!("{first}{rest}"));
        if own { Join::WithHyphen } else { Join::WithoutHyphen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdf::Page;

    fn words(lines: &[&str]) -> Words {
        let line = |text: &&str| Line { text: (*text).to_owned(), place: None };
        let lines = lines.iter().map(line).collect();
        let page = Page { number: 1, lines, ..Page::default() };
        Words::of(&Source { pages: vec![page], ..Source::default() })
    }

    #[test]
    fn hyphens_of_lines_go_and_hyphens_of_words_stay() {
        let words = words(&["a well-known lamp", "co-operate and cooperate"]);
        for (before, line, expected) in [
            ("the light-", "house stood", Join::WithoutHyphen),
            ("a well-", "known lamp", Join::WithHyphen),
            ("they co-", "operate.", Join::WithoutHyphen),
            ("the Anglo-", "Saxon king", Join::WithHyphen),
            ("pages 3-", "5", Join::WithHyphen),
            ("wait -", "they said", Join::Space),
            ("no hyphen", "at all", Join::Space),
        ] {
            assert_eq!(words.join(before, line), expected, "{before} {line}");
        }
    }

    #[test]
    fn items_and_sentences_are_known() {
        assert!(["1. One", "(a) x", "\u{2022} x", "iv) x"].iter().all(|text| begins_item(text)));
        assert!(!["I went", "the lamp", "1984 was"].iter().any(|text| begins_item(text)));
        assert!(ends_sentence("He said \u{201c}no.\u{201d}") && !ends_sentence("and then"));
        assert!(goes_on("and then", "he left") && !goes_on("The end.", "he") && !goes_on("and", "Then"));
    }
}
