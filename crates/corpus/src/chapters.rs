//! Chapters from headings, for files without a table of contents.

use crate::document::{Block, BlockKind, Chapter, Document};

/// Headings down to this level start chapters.
const CHAPTER_LEVEL_MAX: u8 = 3;

/// Partitions the text of `document` at its headings and tells each block its chapter. `title` gives the words
/// of a heading block.
pub(crate) fn from_headings(document: &mut Document, title: impl Fn(&str) -> String) {
    let mut open: Vec<(u8, String)> = Vec::new();
    let mut chapters: Vec<Chapter> = Vec::new();
    for block in &document.blocks {
        let BlockKind::Heading(level @ ..=CHAPTER_LEVEL_MAX) = block.kind else { continue };
        open.retain(|&(open_level, _)| open_level < level);
        open.push((level, title(&document.text[block.start..block.end])));
        let breadcrumb = open.iter().map(|(_, title)| title.clone()).collect();
        chapters.push(Chapter { breadcrumb, href: None, start: block.start, end: 0 });
    }
    partition(document, chapters);
}

/// Makes chapters that start where they say a partition of the text: what stands before the first goes to a
/// chapter without a name, or to the first if it is only whitespace; each ends where the next starts. A
/// chapter of nothing but headings joins the one below it, so that no chapter is a lone title.
pub(crate) fn partition(document: &mut Document, chapters: Vec<Chapter>) {
    let mut chapters = join_lone_titles(&document.blocks, chapters);
    let text_before = chapters.first().is_none_or(|first| !document.text[..first.start].trim().is_empty());
    match chapters.first_mut() {
        Some(first) if !text_before => first.start = 0,
        _ => chapters.insert(0, Chapter { breadcrumb: Vec::new(), href: None, start: 0, end: 0 }),
    }
    let mut end = document.text.len();
    for chapter in chapters.iter_mut().rev() {
        chapter.end = end;
        end = chapter.start;
    }
    chapters.retain(|chapter| chapter.start < chapter.end);
    assign(&mut document.blocks, &chapters);
    document.chapters = chapters;
}

fn join_lone_titles(blocks: &[Block], chapters: Vec<Chapter>) -> Vec<Chapter> {
    let mut joined: Vec<Chapter> = Vec::new();
    for mut chapter in chapters {
        if let Some(above) = joined.last()
            && chapter.breadcrumb.len() > above.breadcrumb.len()
            && chapter.breadcrumb.starts_with(&above.breadcrumb)
            && is_only_headings(blocks, above.start, chapter.start)
        {
            chapter.start = above.start;
            joined.pop();
        }
        joined.push(chapter);
    }
    joined
}

fn is_only_headings(blocks: &[Block], start: usize, end: usize) -> bool {
    let first = blocks.partition_point(|block| block.start < start);
    let past = blocks.partition_point(|block| block.start < end);
    blocks[first..past].iter().all(|block| matches!(block.kind, BlockKind::Heading(_)))
}

fn assign(blocks: &mut [Block], chapters: &[Chapter]) {
    let mut chapter = 0;
    for block in blocks {
        while chapter + 1 < chapters.len() && chapters[chapter].end <= block.start {
            chapter += 1;
        }
        block.chapter = chapter;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breadcrumbs(lines: &[(u8, &str)]) -> Vec<(String, String)> {
        let mut document = Document::default();
        for &(level, line) in lines {
            let start = document.text.len();
            document.text.push_str(line);
            let kind = if level == 0 { BlockKind::Paragraph } else { BlockKind::Heading(level) };
            document.blocks.push(Block { kind, start, end: document.text.len(), chapter: 0 });
            document.text.push('\n');
        }
        from_headings(&mut document, str::to_owned);
        document.check().unwrap();
        let chapters = document.chapters.iter();
        chapters.map(|c| (c.breadcrumb.join(">"), document.text[c.start..c.end].replace('\n', " "))).collect()
    }

    #[test]
    fn headings_nest_and_lone_titles_join_the_chapter_below() {
        let found = breadcrumbs(&[
            (0, "preface"),
            (1, "Part"),
            (2, "One"),
            (0, "a"),
            (2, "Two"),
            (4, "deep"),
            (1, "End"),
            (0, "z"),
        ]);
        let expected =
            [("", "preface "), ("Part>One", "Part One a "), ("Part>Two", "Two deep "), ("End", "End z ")];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn no_headings_make_one_chapter_without_a_name() {
        assert_eq!(breadcrumbs(&[(0, "a"), (0, "b")]), [(String::new(), "a b ".to_owned())]);
    }
}
