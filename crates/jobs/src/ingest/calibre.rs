//! Calibre libraries among the paths: which books are wanted, which of their files, and what they are called.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use haul_corpus::calibre::{self, CalibreBook, CalibreError, CalibreFile, CalibreLibrary, two_letters};
use haul_corpus::document::Format;
use haul_corpus::source::{ListFailure, Listing, SourceFile};
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_store::library::doc_id_for_book;
use uuid::Uuid;

use super::IngestError;

/// The order in which one file of a book is taken when it has several.
pub const FORMATS: [&str; 9] = ["epub", "docx", "pdf", "html", "htm", "xhtml", "md", "markdown", "txt"];

/// Which books of Calibre libraries are wanted; all given conditions must hold. Letter case does not matter.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Calibre's book ids; empty for all.
    pub ids: Vec<RangeInclusive<i64>>,
    /// Part of an author's name.
    pub author: Option<String>,
    /// Part of the title.
    pub title: Option<String>,
    /// Part of a tag.
    pub tag: Option<String>,
    /// A language: `en` or `eng`.
    pub language: Option<String>,
    /// Formats in order of preference, lower case; a book in none of them is not read.
    pub formats: Vec<String>,
    /// What a folder with a `metadata.db` is.
    pub folders: CalibreFolders,
}

/// What a folder with a `metadata.db` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalibreFolders {
    /// A Calibre library.
    Recognise,
    /// A folder like any other.
    Plain,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            ids: vec![],
            author: None,
            title: None,
            tag: None,
            language: None,
            formats: FORMATS.map(str::to_owned).to_vec(),
            folders: CalibreFolders::Recognise,
        }
    }
}

/// Libraries found among the paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryFound {
    /// Its folder.
    pub folder: PathBuf,
    /// Books in it.
    pub books: usize,
    /// Books that are wanted.
    pub selected: usize,
}

/// A book and the file of it that is an input.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) doc_id: Uuid,
    pub(crate) library_uuid: String,
    pub(crate) known: CalibreBook,
    /// Why none of its files is read, where none is.
    pub(crate) unreadable: Option<String>,
}

/// What the paths hold, taken apart.
#[derive(Default)]
pub(crate) struct Found {
    /// Paths that are no Calibre library and no book of one.
    pub(crate) plain: Vec<PathBuf>,
    pub(crate) libraries: Vec<LibraryFound>,
    /// Paths of which every document is listed.
    pub(crate) whole: Vec<PathBuf>,
    pub(crate) books: HashMap<PathBuf, Arc<Book>>,
    files: Vec<SourceFile>,
    failures: Vec<ListFailure>,
    /// Books that Calibre lists and that have no file there now.
    pub(crate) absent: HashSet<Uuid>,
    /// Every file that Calibre knows of, wanted or not.
    pub(crate) known_files: HashMap<PathBuf, Option<Uuid>>,
}

/// Takes Calibre's books out of the paths.
///
/// # Errors
/// A library that cannot be read, or a selection that selects nothing.
pub(crate) fn find(paths: Vec<PathBuf>, selection: &Selection, scratch: &Path) -> Result<Found, IngestError> {
    let mut found = Found::default();
    let mut libraries: Vec<CalibreLibrary> = Vec::new();
    let mut single: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
    for path in paths {
        match place(&path, selection) {
            Place::Library if libraries.iter().any(|library| library.folder == path) => {}
            Place::Library => libraries.push(calibre::read(&path, scratch)?),
            Place::BookOf(folder) => single.entry(folder).or_default().push(path),
            Place::Elsewhere => found.plain.push(path),
        }
    }
    single.retain(|folder, _| !libraries.iter().any(|library| library.folder == *folder));
    for (folder, paths) in single {
        found.add_single(&folder, paths, scratch)?;
    }
    let conditions = selection.conditions();
    if let (Some(condition), Some(path)) = (conditions.first(), found.plain.first()) {
        return Err(IngestError::NotSelectable { condition: condition.clone(), path: path.clone() });
    }
    refuse_absent_ids(&libraries, selection)?;
    for library in &libraries {
        found.add_library(library, selection);
    }
    let selected: usize = found.libraries.iter().map(|library| library.selected).sum();
    if selected == 0 && !conditions.is_empty() {
        let books = found.libraries.iter().map(|library| library.books).sum();
        return Err(IngestError::NothingSelected { conditions: conditions.join(" "), books });
    }
    found.whole.extend(found.plain.iter().cloned());
    Ok(found)
}

enum Place {
    Library,
    BookOf(PathBuf),
    Elsewhere,
}

/// A book's file is three names below the library's folder: author, title, file.
fn place(path: &Path, selection: &Selection) -> Place {
    if selection.folders == CalibreFolders::Plain {
        return Place::Elsewhere;
    }
    if path.is_dir() {
        return if calibre::is_library(path) { Place::Library } else { Place::Elsewhere };
    }
    match path.ancestors().nth(3).filter(|folder| calibre::is_library(folder)) {
        Some(folder) => Place::BookOf(folder.to_owned()),
        None => Place::Elsewhere,
    }
}

impl Found {
    /// Files named one by one: those that Calibre knows are its books, whatever format is preferred.
    fn add_single(&mut self, folder: &Path, paths: Vec<PathBuf>, scratch: &Path) -> Result<(), IngestError> {
        let library = match calibre::read(folder, scratch) {
            Ok(library) => library,
            // A file under another program's metadata.db is a plain file.
            Err(CalibreError::NotCalibre { .. }) => {
                self.plain.extend(paths);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let known: HashMap<PathBuf, (&CalibreBook, &CalibreFile)> = library
            .books
            .iter()
            .flat_map(|book| book.files.iter().map(move |file| (book, file)))
            .filter_map(|(book, file)| Some((folder.join(file.relative.as_ref()?), (book, file))))
            .collect();
        for path in paths {
            match known.get(&path) {
                Some((book, file)) => {
                    self.add_file(&library, book, file, None);
                    self.whole.push(path);
                }
                None => self.plain.push(path),
            }
        }
        Ok(())
    }

    fn add_library(&mut self, library: &CalibreLibrary, selection: &Selection) {
        let mut selected = 0;
        for book in library.books.iter().filter(|book| selection.wants(book)) {
            selected += 1;
            let preferred =
                selection.formats.iter().find_map(|format| book.files.iter().find(|f| f.format == *format));
            let taken = preferred.and_then(|file| {
                book.uuid.as_ref().map(|uuid| doc_id_for_book(&library.uuid, uuid, &file.format))
            });
            let files = book.files.iter().filter_map(|file| file.relative.as_ref());
            self.known_files.extend(files.map(|relative| (library.folder.join(relative), taken)));
            match (preferred, book.files.first()) {
                (Some(file), _) => self.add_file(library, book, file, None),
                (None, Some(other)) => self.add_file(library, book, other, Some(unreadable(book))),
                (None, None) => self.fail(
                    library.folder.join(named(book).replace('/', "_")),
                    Verdict::Unsupported,
                    "Calibre has no file of it".to_owned(),
                ),
            }
        }
        let (folder, books) = (library.folder.clone(), library.books.len());
        // What is not selected is not looked for, so nothing may be said to be gone.
        if selection.conditions().is_empty() {
            self.whole.push(folder.clone());
        }
        self.libraries.push(LibraryFound { folder, books, selected });
    }

    fn add_file(
        &mut self,
        library: &CalibreLibrary,
        book: &CalibreBook,
        file: &CalibreFile,
        unreadable: Option<String>,
    ) {
        let Some(relative) = &file.relative else {
            let why = "its path in Calibre's database leaves the library".to_owned();
            return self.fail(library.folder.join(named(book).replace('/', "_")), Verdict::Failed, why);
        };
        let path = library.folder.join(relative);
        let Some(book_uuid) = &book.uuid else {
            return self.fail(path, Verdict::Failed, format!("{} has no uuid in Calibre", named(book)));
        };
        let doc_id = doc_id_for_book(&library.uuid, book_uuid, &file.format);
        let facts = match fs::metadata(&path) {
            Ok(facts) if facts.is_file() => facts,
            Ok(_) => return self.fail(path, Verdict::Unsupported, "not a regular file".to_owned()),
            Err(error) => {
                self.absent.insert(doc_id);
                return self.fail(path, Verdict::Failed, format!("Calibre lists it, but: {error}"));
            }
        };
        let format = if unreadable.is_some() { None } else { Format::from_extension(&file.format) };
        self.files.push(SourceFile {
            root: library.folder.clone(),
            relative: relative.clone(),
            path: path.clone(),
            size_bytes: facts.len(),
            modified: facts.modified().ok(),
            format,
        });
        let library_uuid = library.uuid.clone();
        self.books.insert(path, Arc::new(Book { doc_id, library_uuid, known: book.clone(), unreadable }));
    }

    fn fail(&mut self, path: PathBuf, verdict: Verdict, why: String) {
        self.failures.push(ListFailure { path, failure: ParseFailure::new(verdict, why) });
    }

    /// Adds the books to what the plain paths list. A library inside a plain folder is listed once, as books.
    pub(crate) fn add_to(&mut self, listing: &mut Listing) {
        let is_calibres = |path: &Path| {
            self.books.contains_key(path)
                || self.libraries.iter().any(|library| path.starts_with(&library.folder))
        };
        listing.files.retain(|file| !is_calibres(&file.path));
        listing.files.append(&mut self.files);
        listing.failures.append(&mut self.failures);
    }
}

/// A book in messages.
fn named(book: &CalibreBook) -> String {
    format!("{} (book {})", book.title, book.id)
}

fn unreadable(book: &CalibreBook) -> String {
    let formats: Vec<String> = book.files.iter().map(|file| file.format.to_uppercase()).collect();
    format!("{} is there as {} only, which is not read", named(book), formats.join(", "))
}

impl Selection {
    /// The conditions as they were typed; empty when all books are wanted.
    fn conditions(&self) -> Vec<String> {
        let texts = [
            ("--author", &self.author),
            ("--title", &self.title),
            ("--tag", &self.tag),
            ("--language", &self.language),
        ];
        let texts = texts.into_iter().filter_map(|(flag, text)| Some(format!("{flag} {}", text.as_ref()?)));
        let ids = self.ids.iter().map(|ids| format!("--calibre-id {}", shown_ids(ids)));
        ids.chain(texts).collect()
    }

    fn wants(&self, book: &CalibreBook) -> bool {
        let any = |wanted: &Option<String>, of: &[String]| {
            wanted.as_ref().is_none_or(|wanted| {
                let wanted = wanted.to_lowercase();
                of.iter().any(|text| text.to_lowercase().contains(&wanted))
            })
        };
        let speaks = |wanted: &String| {
            let wanted = two_letters(wanted);
            book.languages.iter().any(|language| {
                *language == wanted
                    || language.strip_prefix(&wanted).is_some_and(|rest| rest.starts_with('-'))
            })
        };
        (self.ids.is_empty() || self.ids.iter().any(|range| range.contains(&book.id)))
            && any(&self.author, &book.authors)
            && any(&self.title, std::slice::from_ref(&book.title))
            && any(&self.tag, &book.tags)
            && self.language.as_ref().is_none_or(speaks)
    }
}

/// A number that was typed and is no book is a mistake; a range may have holes.
fn refuse_absent_ids(libraries: &[CalibreLibrary], selection: &Selection) -> Result<(), IngestError> {
    let ids: Vec<i64> = libraries.iter().flat_map(|library| &library.books).map(|book| book.id).collect();
    let absent = selection.ids.iter().find(|range| !ids.iter().any(|id| range.contains(id)));
    absent.map_or(Ok(()), |range| {
        let asked = shown_ids(range);
        let known = ids.iter().min().zip(ids.iter().max()).map(|(least, most)| (*least, *most));
        Err(IngestError::NoSuchBook { asked, books: ids.len(), known })
    })
}

fn shown_ids(ids: &RangeInclusive<i64>) -> String {
    if ids.start() == ids.end() { ids.start().to_string() } else { format!("{}-{}", ids.start(), ids.end()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> CalibreBook {
        CalibreBook {
            id: 7,
            uuid: Some("u".to_owned()),
            title: "The Slow Loaf".to_owned(),
            authors: vec!["Müller, Jane".to_owned(), "P. Q.".to_owned()],
            tags: vec!["Food & Drink".to_owned()],
            series: None,
            publisher: None,
            rating: None,
            languages: vec!["es".to_owned()],
            identifiers: vec![],
            published: None,
            files: vec![],
        }
    }

    #[test]
    fn conditions_are_parts_in_any_case_and_all_must_hold() {
        let some = |text: &str| Some(text.to_owned());
        let all = Selection::default();
        assert!(all.wants(&book()) && all.conditions().is_empty());
        let held = [
            Selection { ids: vec![1..=2, 5..=9], ..all.clone() },
            Selection { author: some("müller, J"), ..all.clone() },
            Selection { title: some("SLOW"), tag: some("drink"), ..all.clone() },
            Selection { language: some("spa"), ..all.clone() },
            Selection { language: some("ES"), ..all.clone() },
        ];
        assert!(held.iter().all(|selection| selection.wants(&book()) && !selection.conditions().is_empty()));
        let not = [
            Selection { ids: vec![1..=6], ..all.clone() },
            Selection { title: some("slow"), tag: some("crime"), ..all.clone() },
            Selection { language: some("e"), ..all },
        ];
        assert!(!not.iter().any(|selection| selection.wants(&book())));
    }
}
