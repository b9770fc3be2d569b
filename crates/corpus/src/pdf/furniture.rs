//! Running headers, running footers and page numbers.
//!
//! They stand at the edge of pages and come again, but for the number of the page, on the next page or the one after
//! it (left and right pages may differ). A title that comes once in a chapter does not. Other numbers are text: rows
//! of a table are alike but for their digits.

use std::collections::{HashMap, HashSet};

use super::{Line, Page, Place, Source};

/// A line is running where it is on so many pages in a row.
const RUNNING_PAGES_MIN: usize = 3;
/// Pages from one to the next of a row.
const PAGES_APART_MAX: u32 = 2;
/// Lines at each edge that are looked at.
const EDGE_LINES: usize = 3;
/// The share of a page's height that is its edge.
const EDGE_SHARE: f32 = 0.12;
/// Lines so much taller than those of the text are headings where they are numbered: "Sonnet 17" may count with the
/// pages too.
const HEADING_HEIGHTS: f32 = 1.2;
/// Longer lines are text.
const RUNNING_LETTERS_MAX: usize = 120;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Edge {
    Top,
    Bottom,
}

/// What lines must share to be one running line. A line shares several.
#[derive(PartialEq, Eq, Hash)]
enum Likeness {
    /// The same text.
    Text(String),
    /// The same text around a number that counts with the pages; front matter has another distance.
    PageNumber { before: String, after: String, from_page: i64 },
    /// A Roman numeral alone.
    Roman,
}

impl Likeness {
    fn is_numbered_text(&self) -> bool {
        matches!(self, Likeness::PageNumber { before, after, .. } if !(before.is_empty() && after.is_empty()))
    }
}

/// Takes running lines out of those pages that `is_looked_at` and says how many they were.
pub(super) fn remove(source: &mut Source, is_looked_at: impl Fn(&Page) -> bool) -> usize {
    let titles: HashSet<(u32, &str)> =
        source.outline.iter().filter_map(|entry| Some((entry.page?, entry.title.as_str()))).collect();
    let heading_height = HEADING_HEIGHTS * text_height(&source.pages);
    let mut seen: HashMap<(Edge, Likeness), Vec<(u32, usize)>> = HashMap::new();
    for page in source.pages.iter().filter(|page| is_looked_at(page)) {
        for (edge, index) in edge_lines(page) {
            let Line { text, place } = &page.lines[index];
            if text.chars().count() > RUNNING_LETTERS_MAX || titles.contains(&(page.number, text.as_str())) {
                continue;
            }
            let is_large = place.is_some_and(|place| place.height() > heading_height);
            for likeness in likenesses(text, page.number) {
                if is_large && likeness.is_numbered_text() {
                    continue;
                }
                seen.entry((edge, likeness)).or_default().push((page.number, index));
            }
        }
    }
    let mut running: HashMap<u32, Vec<usize>> = HashMap::new();
    for places in seen.values() {
        for (number, index) in in_a_row(places) {
            running.entry(number).or_default().push(index);
        }
    }
    let mut removed = 0;
    for page in &mut source.pages {
        let Some(lines) = running.get(&page.number) else { continue };
        let before = page.lines.len();
        let mut index = 0;
        page.lines.retain(|_| {
            index += 1;
            !lines.contains(&(index - 1))
        });
        removed += before - page.lines.len();
        page.had_furniture = true;
    }
    removed
}

/// Indices of the lines at the edges: by where they stand, else the first and last ones.
fn edge_lines(page: &Page) -> Vec<(Edge, usize)> {
    let texts: Vec<usize> =
        (0..page.lines.len()).filter(|&index| !page.lines[index].text.is_empty()).collect();
    let is_placed = page.height > 0.0 && texts.iter().all(|&index| page.lines[index].place.is_some());
    if !is_placed {
        let edge = EDGE_LINES.min(texts.len() / 2);
        let top = texts[..edge].iter().map(|&index| (Edge::Top, index));
        return top.chain(texts[texts.len() - edge..].iter().map(|&index| (Edge::Bottom, index))).collect();
    }
    let (low, high) = (page.height * EDGE_SHARE, page.height * (1.0 - EDGE_SHARE));
    let middle = |line: &Line| line.place.map_or(0.0, |place| f32::midpoint(place.top, place.bottom));
    let mut from_top = texts;
    from_top.sort_by(|&a, &b| middle(&page.lines[b]).total_cmp(&middle(&page.lines[a])));
    let top = from_top.iter().take(EDGE_LINES).filter(|&&index| middle(&page.lines[index]) > high);
    let bottom = from_top.iter().rev().take(EDGE_LINES).filter(|&&index| middle(&page.lines[index]) < low);
    top.map(|&index| (Edge::Top, index)).chain(bottom.map(|&index| (Edge::Bottom, index))).collect()
}

/// The height of most lines; infinite where none is known.
fn text_height(pages: &[Page]) -> f32 {
    let places = pages.iter().flat_map(|page| page.lines.iter().filter_map(|line| line.place));
    let mut heights: Vec<f32> = places.map(Place::height).collect();
    heights.sort_by(f32::total_cmp);
    heights.get(heights.len() / 2).copied().unwrap_or(f32::INFINITY)
}

/// All that this line of a page may share with lines of other pages.
fn likenesses(text: &str, page: u32) -> Vec<Likeness> {
    let lower = text.to_lowercase();
    if lower.len() < 10 && !lower.is_empty() && lower.chars().all(|letter| "ivxlcdm".contains(letter)) {
        return vec![Likeness::Roman];
    }
    let mut likenesses = Vec::new();
    let mut start = 0;
    for run in lower.as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()) {
        let past = start + run.len();
        // More digits than a number has are none of a page.
        if let Ok(number) = lower[start..past].parse::<u32>() {
            let (before, after) = (lower[..start].to_owned(), lower[past..].to_owned());
            let from_page = i64::from(number) - i64::from(page);
            likenesses.push(Likeness::PageNumber { before, after, from_page });
        }
        start = past;
    }
    likenesses.push(Likeness::Text(lower));
    likenesses
}

/// Those of the places (in order of pages) that belong to a row of enough pages.
fn in_a_row(places: &[(u32, usize)]) -> Vec<(u32, usize)> {
    let near = |a: &(u32, usize), b: &(u32, usize)| b.0 - a.0 <= PAGES_APART_MAX;
    places
        .chunk_by(near)
        .filter(|row| row.chunk_by(|a, b| a.0 == b.0).count() >= RUNNING_PAGES_MIN)
        .flatten()
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u32, lines: &[(f32, &str)]) -> Page {
        let line = |&(top, text): &(f32, &str)| Line {
            text: text.to_owned(),
            place: Some(Place { left: 50.0, right: 500.0, top, bottom: top - 10.0 }),
        };
        let lines = lines.iter().map(line).collect();
        Page { number, height: 800.0, lines, ..Page::default() }
    }

    fn left(pages: Vec<Page>) -> (usize, Vec<String>) {
        let mut source = Source { pages, ..Source::default() };
        let removed = remove(&mut source, |_| true);
        let lines = source.pages.into_iter().flat_map(|page| page.lines);
        (removed, lines.map(|line| line.text).collect())
    }

    #[test]
    fn what_runs_over_pages_goes_and_titles_stay() {
        let texts = ["first text", "second text", "third text", "fourth text"];
        let page = |no: usize| {
            let number = no as u32 + 1;
            let footer = format!("{number}");
            // The footer is written before the text, as programs do.
            page(number, &[(40.0, &footer), (780.0, "THE LIGHT"), (400.0, texts[no]), (380.0, "of the lamp")])
        };
        let (removed, lines) = left((0..4).map(page).collect());
        assert_eq!(removed, 8);
        assert_eq!(lines, texts.iter().flat_map(|text| [*text, "of the lamp"]).collect::<Vec<_>>());
    }

    #[test]
    fn chapters_that_are_far_apart_keep_their_titles() {
        let title = ["Chapter 1", "x", "y", "Chapter 2", "z", "u", "Chapter 3"];
        let page = |no: usize| page(no as u32 + 1, &[(780.0, title[no]), (400.0, "text")]);
        assert_eq!(left((0..7).map(page).collect()).0, 0);
    }

    /// One line at the top of each page, over other text.
    fn topped(tops: &[&str]) -> usize {
        let bodies: Vec<String> = (0..tops.len()).map(|no| format!("body {}", "x".repeat(no))).collect();
        let page = |(no, top): (u32, (&&str, &String))| page(no, &[(780.0, top.0), (400.0, top.1)]);
        left((1..).zip(tops.iter().zip(&bodies)).map(page).collect()).0
    }

    #[test]
    fn numbers_that_count_with_the_pages_run() {
        assert_eq!(topped(&["Page 3 of 20", "Page 4 of 20", "Page 5 of 20"]), 3);
        assert_eq!(topped(&["xiv", "xv", "xvi"]), 3);
        // Left and right pages differ, and the pages after the front matter count from 1.
        assert_eq!(topped(&["7", "8", "9", "1", "2", "3"]), 6);
        let sides = ["2 The Lamp", "Oil 3", "4 The Lamp", "Oil 5", "6 The Lamp", "Oil 7"];
        assert_eq!(topped(&sides), 6);
    }

    /// Every number was any number, so rows of a table and headings that are numbered were taken for running lines.
    #[test]
    fn numbers_that_do_not_count_with_the_pages_are_text() {
        assert_eq!(topped(&["12 340 7", "13 98 11", "14 255 3", "15 17 60"]), 0);
        assert_eq!(topped(&["1874", "1902", "1911", "1930"]), 0);
        assert_eq!(topped(&["Sonnet 17", "Sonnet 19", "Sonnet 20", "Sonnet 22"]), 0);
        assert_eq!(topped(&["Table 1 of 4", "Table 2 of 5", "Table 3 of 6"]), 0);
        assert_eq!(topped(&["99999999999999999999", "99999999999999999998", "99999999999999999997"]), 0);
    }

    /// A book of one poem a page lost their headings, which count as the pages do.
    #[test]
    fn numbered_headings_in_large_letters_are_text() {
        let heights = |top: f32| {
            let page = |number: u32| {
                let heading = format!("Sonnet {number}");
                let body = "x".repeat(number as usize);
                let mut page = page(number, &[(780.0, &heading), (400.0, &body), (380.0, "a"), (360.0, "b")]);
                page.lines[0].place =
                    Some(Place { left: 50.0, right: 500.0, top: 780.0, bottom: 780.0 - top });
                page
            };
            left((1..=4).map(page).collect()).0
        };
        assert_eq!((heights(14.0), heights(10.0)), (0, 4));
    }

    /// Recognised pages kept their running lines: they had no text yet when the others lost theirs.
    #[test]
    fn pages_without_places_are_looked_at_alone() {
        let page = |number: u32| {
            let texts = [
                "THE LIGHT".to_owned(),
                format!("text {}", "x".repeat(number as usize)),
                format!("{number}"),
            ];
            let lines = texts.into_iter().map(|text| Line { text, place: None });
            let more = (0..3).map(|no| Line { text: format!("{number}{no} lamps"), place: None });
            let mut lines: Vec<Line> = lines.collect();
            lines.splice(1..1, more);
            Page { number, height: 800.0, lines, ..Page::default() }
        };
        let mut source = Source { pages: (1..=6).map(page).collect(), ..Source::default() };
        assert_eq!(remove(&mut source, |page| page.number > 3), 6);
        assert_eq!(source.pages.iter().map(|page| page.lines.len()).collect::<Vec<_>>(), [6, 6, 6, 4, 4, 4]);
    }
}
