//! What a document is called: by Calibre, by its file, by its file's name; and what looks like a title and is none.

use haul_corpus::document::Document;
use haul_store::library::DocumentMetadata;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::calibre::Book;
use super::select::NamedFile;

/// What becomes of titles and authors that word processors and converters left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JunkMetadata {
    /// The next best is taken, and noted.
    Replace,
    /// They are taken as they are.
    Keep,
    /// A document without a real title and author is not taken in, and said to be `skipped`; nothing of it is
    /// recorded, so that a later run may take it.
    Skip,
}

/// Calibre's word for a title or an author that nobody entered.
const UNKNOWN: &str = "Unknown";
/// Titles with one of these in them come from a file's name.
const JUNK_TITLE_PARTS: [&str; 6] = [".doc", ".indd", ".wpd", ".rtf", "microsoft word", ":\\"];
/// Whole titles.
const JUNK_TITLES: [&str; 4] = ["untitled", "title", "?", "unknown"];
/// Whole names of authors.
const JUNK_AUTHORS: [&str; 8] =
    ["unknown", "admin", "administrator", "user", "owner", "www", "valued customer", "author"];
/// Shortest title of Alexandria's rules, in characters.
const TITLE_CHARS_MIN: usize = 2;

/// A description, and what had to be decided for it.
#[derive(Debug, PartialEq)]
pub(crate) struct Described {
    pub(crate) metadata: DocumentMetadata,
    /// What was replaced.
    pub(crate) notes: Vec<String>,
    /// Why the document is not taken in.
    pub(crate) skipped: Option<String>,
}

/// What the file itself says, kept beside Calibre's words so that these can change without reading the file again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Own {
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    authors: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: Map<String, Value>,
}

impl Own {
    pub(crate) fn of(document: &Document) -> Own {
        Own {
            title: document.title.clone(),
            authors: document.authors.clone(),
            language: document.language.clone(),
            metadata: document.metadata.clone(),
        }
    }

    /// As an earlier run kept it; `None` where it kept none.
    pub(crate) fn kept(stored: &DocumentMetadata) -> Option<Own> {
        serde_json::from_value(stored.metadata.get("file")?.clone()).ok()
    }
}

/// What a document is called, from all that is known about it.
pub(crate) fn describe(file: &NamedFile, part: Option<&str>, own: Own, junk: JunkMetadata) -> Described {
    match (&file.book, part) {
        (Some(book), _) => of_book(book, &own, junk),
        // The lines of a data set are called what they say.
        (None, Some(part)) => {
            let title = own.title.clone().unwrap_or_else(|| part.to_owned());
            let authors = own.authors.clone();
            Described { metadata: local(title, authors, own), notes: vec![], skipped: None }
        }
        (None, None) => of_file(&file.stem(), own, junk),
    }
}

/// Calibre's words win; where it says `Unknown`, the file's own are asked.
pub(crate) fn of_book(book: &Book, own: &Own, junk: JunkMetadata) -> Described {
    let known = &book.known;
    let mut notes = Vec::new();
    let mut title = known.title.clone();
    let mut authors = known.authors.clone();
    if junk != JunkMetadata::Keep {
        if let Some(better) = own.title.as_ref().filter(|own| title == UNKNOWN && !is_junk_title(own)) {
            notes.push(format!("Calibre knows no title; \"{better}\" is taken from the file"));
            title.clone_from(better);
        }
        authors.retain(|author| author != UNKNOWN);
        if authors.is_empty() {
            authors = own.authors.iter().filter(|author| !is_junk_author(author)).cloned().collect();
        }
    }
    let skipped = skipped(&title, &authors, junk);
    let language = known.languages.first().or(own.language.as_ref()).cloned();
    let metadata = DocumentMetadata {
        source: "calibre".to_owned(),
        source_id: Some(known.id.to_string()),
        title,
        authors,
        language,
        metadata: fields(book, own),
    };
    Described { metadata, notes, skipped }
}

/// What Calibre knows beside title, authors and language, as far as it knows it.
fn fields(book: &Book, own: &Own) -> Value {
    let known = &book.known;
    let identifiers: Map<String, Value> =
        known.identifiers.iter().map(|(kind, value)| (kind.clone(), json!(value))).collect();
    let (series, index) = known.series.clone().unzip();
    let fields = json!({
        "series": series,
        "series_index": index,
        "tags": known.tags,
        "languages": known.languages,
        "identifiers": identifiers,
        "publisher": known.publisher,
        "rating": known.rating,
        "published": known.published,
        "calibre": { "library": book.library_uuid, "book": known.uuid },
        "file": own,
    });
    let said = |value: &Value| match value {
        Value::Null => false,
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
        _ => true,
    };
    let Value::Object(fields) = fields else { return fields };
    // An empty `file` stays: it says that the file was asked.
    Value::Object(fields.into_iter().filter(|(name, value)| name == "file" || said(value)).collect())
}

/// A file that nobody manages: what it says of itself, else its name, `Title - Author.ext`.
fn of_file(stem: &str, own: Own, junk: JunkMetadata) -> Described {
    let mut notes = Vec::new();
    if junk != JunkMetadata::Replace {
        let title = own.title.clone().unwrap_or_else(|| stem.to_owned());
        let authors = own.authors.clone();
        let skipped = skipped(&title, &authors, junk);
        return Described { metadata: local(title, authors, own), notes, skipped };
    }
    let by_name = title_and_author(stem);
    let real = own.title.clone().filter(|title| !is_junk_title(title));
    let title = real.clone().unwrap_or_else(|| by_name.map_or(stem, |(title, _)| title).to_owned());
    if let (Some(junk), None) = (&own.title, &real) {
        notes.push(format!("its title \"{junk}\" is none; \"{title}\" is taken from the file's name"));
    }
    let mut authors: Vec<String> =
        own.authors.iter().filter(|author| !is_junk_author(author)).cloned().collect();
    // Only where the name begins with the title is its rest sure to be the author.
    if let (true, Some((named, author))) = (authors.is_empty(), by_name)
        && named.to_lowercase() == title.to_lowercase()
    {
        authors.push(author.to_owned());
    }
    if let Some(junk) = own.authors.iter().find(|author| is_junk_author(author)) {
        let instead =
            authors.first().map_or("left out".to_owned(), |author| format!("not taken; \"{author}\" is"));
        notes.push(format!("its author \"{junk}\" is {instead}"));
    }
    Described { metadata: local(title, authors, own), notes, skipped: None }
}

fn local(title: String, authors: Vec<String>, own: Own) -> DocumentMetadata {
    DocumentMetadata {
        source: "local".to_owned(),
        source_id: None,
        title,
        authors,
        language: own.language,
        metadata: Value::Object(own.metadata),
    }
}

fn skipped(title: &str, authors: &[String], junk: JunkMetadata) -> Option<String> {
    if junk != JunkMetadata::Skip {
        None
    } else if is_junk_title(title) {
        Some(format!("its title \"{title}\" is none"))
    } else if authors.iter().all(|author| is_junk_author(author)) {
        Some("its author is not known".to_owned())
    } else {
        None
    }
}

/// `Dracula - Bram Stoker`; a right side with a digit in it is a date or a number.
fn title_and_author(stem: &str) -> Option<(&str, &str)> {
    let (title, author) = stem.split_once(" - ").map(|(title, author)| (title.trim(), author.trim()))?;
    let is_name = author.contains(char::is_alphabetic) && !author.contains(|c: char| c.is_ascii_digit());
    (is_name && !author.contains(" - ") && !is_junk_title(title) && !is_junk_author(author))
        .then_some((title, author))
}

fn is_junk_title(title: &str) -> bool {
    let title = title.trim().to_lowercase();
    title.chars().count() < TITLE_CHARS_MIN
        || JUNK_TITLES.contains(&title.as_str())
        || JUNK_TITLE_PARTS.iter().any(|part| title.contains(part))
}

fn is_junk_author(author: &str) -> bool {
    let author = author.trim().to_lowercase();
    author.is_empty() || author == "?" || JUNK_AUTHORS.contains(&author.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(title: &str, authors: &[&str]) -> Own {
        Own {
            title: Some(title.to_owned()).filter(|title| !title.is_empty()),
            authors: authors.iter().map(|&author| author.to_owned()).collect(),
            ..Own::default()
        }
    }

    fn named(stem: &str, own: Own, junk: JunkMetadata) -> (String, Vec<String>, usize, bool) {
        let Described { metadata, notes, skipped } = of_file(stem, own, junk);
        (metadata.title, metadata.authors, notes.len(), skipped.is_some())
    }

    fn called(title: &str, author: &str, notes: usize, skipped: bool) -> (String, Vec<String>, usize, bool) {
        let authors = [author.to_owned()].into_iter().filter(|author| !author.is_empty()).collect();
        (title.to_owned(), authors, notes, skipped)
    }

    #[test]
    fn the_next_best_title_and_author_are_taken() {
        use JunkMetadata::{Keep, Replace, Skip};
        let stem = "Dracula - Bram Stoker";
        let cases = [
            (stem, own("", &[]), Replace, called("Dracula", "Bram Stoker", 0, false)),
            (
                stem,
                own("Microsoft Word - dracula.doc", &["admin"]),
                Replace,
                called("Dracula", "Bram Stoker", 2, false),
            ),
            (stem, own("Another", &[]), Replace, called("Another", "", 0, false)),
            (stem, own("dracula", &["Owner"]), Replace, called("dracula", "Bram Stoker", 1, false)),
            ("Report - 2023", own("", &[]), Replace, called("Report - 2023", "", 0, false)),
            ("scan", own("C:\\temp\\x", &[]), Replace, called("scan", "", 1, false)),
            ("scan", own("untitled", &["admin"]), Keep, called("untitled", "admin", 0, false)),
            (stem, own("Dracula", &["Bram Stoker"]), Skip, called("Dracula", "Bram Stoker", 0, false)),
            ("notes", own("Notes", &[]), Skip, called("Notes", "", 0, true)),
            (stem, own("untitled", &["Bram Stoker"]), Skip, called("untitled", "Bram Stoker", 0, true)),
        ];
        for (stem, own, junk, expected) in cases {
            assert_eq!(named(stem, own.clone(), junk), expected, "{stem} {own:?}");
        }
    }
}
