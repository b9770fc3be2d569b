//! Which documents of a library are called otherwise than in Calibre, and which have no book there any more.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use haul_corpus::calibre::{CalibreBook, CalibreLibrary};
use haul_store::library::{CatalogueEntry, DocumentMetadata};
use serde::Serialize;

use super::calibre::Book;
use super::metadata::{JunkMetadata, Own, of_book};

/// What differs between a library and Calibre.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mismatches {
    /// The Calibre library's folder.
    pub calibre: PathBuf,
    /// Documents that have a book there.
    pub compared: usize,
    /// Those of them whose title or authors differ, in order of Calibre's ids.
    pub mismatched: Vec<Mismatch>,
    /// Documents of this Calibre library whose book it has no more.
    pub gone: Vec<Gone>,
}

/// One document that is called otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mismatch {
    /// Calibre's book id.
    pub calibre_id: i64,
    /// File of the document.
    pub path: String,
    /// Whether it was taken in as a plain file, which Calibre says nothing about.
    pub as_file: bool,
    /// Title and authors in the library.
    pub library: Names,
    /// Title and authors in Calibre, as an ingest would take them.
    pub in_calibre: Names,
}

/// Title and authors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Names {
    /// Title.
    pub title: String,
    /// Authors in order.
    pub authors: Vec<String>,
}

/// A document without a book.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gone {
    /// Calibre's book id when it was taken in.
    pub calibre_id: String,
    /// Title in the library.
    pub title: String,
    /// Where its file was.
    pub path: String,
}

/// Compares by Calibre's ids; a document that was taken in as a plain file is found by its path.
#[must_use]
pub fn mismatches(documents: &[CatalogueEntry], library: &CalibreLibrary) -> Mismatches {
    let by_uuid: HashMap<&str, &CalibreBook> =
        library.books.iter().filter_map(|book| Some((book.uuid.as_deref()?, book))).collect();
    let by_path: HashMap<PathBuf, &CalibreBook> = library
        .books
        .iter()
        .flat_map(|book| book.files.iter().filter_map(move |file| Some((file.relative.as_ref()?, book))))
        .map(|(relative, book)| (library.folder.join(relative), book))
        .collect();
    let mut found =
        Mismatches { calibre: library.folder.clone(), compared: 0, mismatched: vec![], gone: vec![] };
    for document in documents {
        let path = Path::new(&document.root).join(&document.relative_path);
        let ids = &document.metadata.metadata["calibre"];
        let book = match ids["book"].as_str() {
            Some(_) if ids["library"] != library.uuid.as_str() => continue,
            Some(uuid) => by_uuid.get(uuid),
            None => by_path.get(&path),
        };
        let shown = path.display().to_string();
        match book {
            Some(book) => found.compare(&document.metadata, library, book, (shown, ids["book"].is_null())),
            None if ids.is_null() => {}
            None => found.gone.push(Gone {
                calibre_id: document.metadata.source_id.clone().unwrap_or_default(),
                title: document.metadata.title.clone(),
                path: shown,
            }),
        }
    }
    found.mismatched.sort_by_key(|mismatch| mismatch.calibre_id);
    found
}

impl Mismatches {
    fn compare(
        &mut self,
        stored: &DocumentMetadata,
        library: &CalibreLibrary,
        book: &CalibreBook,
        (path, as_file): (String, bool),
    ) {
        self.compared += 1;
        let (doc_id, library_uuid) = (uuid::Uuid::nil(), library.uuid.clone());
        let known = Book { doc_id, library_uuid, known: book.clone(), unreadable: None };
        let expected =
            of_book(&known, &Own::kept(stored).unwrap_or_default(), JunkMetadata::Replace).metadata;
        let names = |of: &DocumentMetadata| Names { title: of.title.clone(), authors: of.authors.clone() };
        let (in_library, in_calibre) = (names(stored), names(&expected));
        if in_library != in_calibre {
            let (calibre_id, library) = (book.id, in_library);
            self.mismatched.push(Mismatch { calibre_id, path, as_file, library, in_calibre });
        }
    }
}
