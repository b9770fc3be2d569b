//! What a Calibre library knows of its books.
//!
//! The user's `metadata.db` is never opened: it is copied with its journals to a scratch folder, checked, and read
//! there, so that no lock of ours meets Calibre's and nothing is written on the share it may stand on. Only base
//! tables are read; Calibre's views need functions that Calibre itself defines.
//! Tables: resources/metadata_sqlite.sql of Calibre.

mod language_codes;

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};

use crate::limits::METADATA_VALUE_BYTES_MAX;

pub use language_codes::two_letters;

/// The database of a library, in its folder.
pub const DATABASE: &str = "metadata.db";

/// What SQLite keeps beside a database that is being written.
const JOURNALS: [&str; 2] = ["-wal", "-journal"];
/// First bytes of every SQLite file.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Copies taken of a database that changes meanwhile, or is damaged, before that is an error.
const COPIES_MAX: u32 = 4;
/// Between two copies.
const PAUSE: Duration = Duration::from_millis(250);
/// The tables that are read. `library_id` comes first: a database without it is another program's.
const TABLES: [&str; 16] = [
    "library_id",
    "books",
    "data",
    "authors",
    "books_authors_link",
    "tags",
    "books_tags_link",
    "series",
    "books_series_link",
    "publishers",
    "books_publishers_link",
    "ratings",
    "books_ratings_link",
    "languages",
    "books_languages_link",
    "identifiers",
];
/// What Calibre calls a book without a title.
const NO_TITLE: &str = "Unknown";
/// Calibre writes this year for a book without a date.
const NO_DATE: &str = "0101-";

/// Whether a folder is a Calibre library by its looks: [`read`] tells whether it really is one.
#[must_use]
pub fn is_library(folder: &Path) -> bool {
    folder.join(DATABASE).is_file()
}

/// Reads a library from a copy of its database, made in a folder of its own below `scratch` and removed again.
///
/// # Errors
/// No database, not Calibre's, damaged, or changing faster than it can be copied.
pub fn read(folder: &Path, scratch: &Path) -> Result<CalibreLibrary, CalibreError> {
    let database = folder.join(DATABASE);
    state(&database).map_err(|source| CalibreError::Io { doing: "read", path: database.clone(), source })?;
    check_header(&database)?;
    let mut copies = 0;
    loop {
        copies += 1;
        match read_copy(folder, &database, scratch) {
            Ok(Attempt::Whole(library)) => return Ok(library),
            Ok(Attempt::Torn(_)) | Err(CalibreError::Sqlite { .. }) if copies < COPIES_MAX => {
                thread::sleep(PAUSE);
            }
            Ok(Attempt::Torn(what)) => return Err(CalibreError::Damaged { path: database, copies, what }),
            Err(error) => return Err(error),
        }
    }
}

/// A library and its books, in the order of their ids.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibreLibrary {
    /// The folder that holds `metadata.db`.
    pub folder: PathBuf,
    /// Drawn by Calibre when the library was made; it outlives moves.
    pub uuid: String,
    /// All books.
    pub books: Vec<CalibreBook>,
}

/// A book as Calibre shows it. Nothing is filtered: a book without a title is called `Unknown` by Calibre.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibreBook {
    /// The number that Calibre shows and `calibredb` takes.
    pub id: i64,
    /// Outlives renames; none in a damaged row.
    pub uuid: Option<String>,
    /// Title.
    pub title: String,
    /// Authors in Calibre's order.
    pub authors: Vec<String>,
    /// Tags in alphabetical order.
    pub tags: Vec<String>,
    /// Series, and the book's number in it to two decimals.
    pub series: Option<(String, f64)>,
    /// Publisher.
    pub publisher: Option<String>,
    /// Stars, 0.5 to 5.
    pub rating: Option<f64>,
    /// Languages in Calibre's order, of two letters where ISO 639-1 has such a code.
    pub languages: Vec<String>,
    /// `isbn`, `doi`, `goodreads` ... with their values, by kind.
    pub identifiers: Vec<(String, String)>,
    /// ISO 8601, UTC.
    pub published: Option<String>,
    /// The files of the book, by format.
    pub files: Vec<CalibreFile>,
}

/// One file of a book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalibreFile {
    /// Lower case: `epub`, `mobi`.
    pub format: String,
    /// Path below the library's folder; none where the database names a place outside of it.
    pub relative: Option<PathBuf>,
}

/// Why a library was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibreError {
    /// Something else than a Calibre database.
    #[error("{}: not a Calibre database ({what})", path.display())]
    NotCalibre {
        /// The file.
        path: PathBuf,
        /// What it is instead, or lacks.
        what: String,
    },
    /// No copy of it was whole.
    #[error("{}: {copies} copies of it were not whole: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Copies tried.
        copies: u32,
        /// What was wrong with the last.
        what: String,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// SQLite refused to read the copy.
    #[error("{}: its copy cannot be read: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
}

impl CalibreError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotCalibre { .. } => {
                Some("--plain-folders reads a folder with a metadata.db like any other folder")
            }
            Self::Damaged { .. } | Self::Sqlite { .. } => Some(
                "close Calibre and try again; if that does not help, Calibre's Library maintenance > Restore \
                 database mends it",
            ),
            Self::Io { .. } => None,
        }
    }
}

/// One copy, read.
enum Attempt {
    Whole(CalibreLibrary),
    Torn(String),
}

/// Refuses what is not an SQLite file before anything is copied.
fn check_header(database: &Path) -> Result<(), CalibreError> {
    let mut header = [0; SQLITE_MAGIC.len()];
    match fs::File::open(database).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) if header == *SQLITE_MAGIC => Ok(()),
        Err(source) if source.kind() != ErrorKind::UnexpectedEof => {
            Err(CalibreError::Io { doing: "read", path: database.into(), source })
        }
        _ => {
            let what = "its first bytes are not those of an SQLite file".to_owned();
            Err(CalibreError::NotCalibre { path: database.into(), what })
        }
    }
}

fn read_copy(folder: &Path, database: &Path, scratch: &Path) -> Result<Attempt, CalibreError> {
    let io_error = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| CalibreError::Io { doing, path, source }
    };
    let own = tempfile::Builder::new()
        .prefix("haul-calibre-")
        .tempdir_in(scratch)
        .map_err(io_error("make a folder in", scratch))?;
    let before = state(database).map_err(io_error("read", database))?;
    for suffix in [""].into_iter().chain(JOURNALS) {
        let (from, to) = (with_suffix(database, suffix), with_suffix(&own.path().join(DATABASE), suffix));
        match fs::copy(&from, &to) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound && !suffix.is_empty() => {}
            Err(error) => return Err(io_error("copy", &from)(error)),
        }
    }
    if state(database).map_err(io_error("read", database))? != before {
        return Ok(Attempt::Torn("Calibre wrote while it was copied".to_owned()));
    }
    let sqlite = |source| CalibreError::Sqlite { path: database.into(), source };
    let db = open_copy(&own.path().join(DATABASE)).map_err(sqlite)?;
    if let Some(what) = lacking(&db).map_err(sqlite)? {
        return Err(CalibreError::NotCalibre { path: database.into(), what });
    }
    if let Some(what) = damage(&db).map_err(sqlite)? {
        return Ok(Attempt::Torn(what));
    }
    let uuid = library_uuid(&db).map_err(sqlite)?.ok_or_else(|| CalibreError::NotCalibre {
        path: database.into(),
        what: "its library has no id; Calibre gives it one when it opens the library".to_owned(),
    })?;
    let books = books(&db).map_err(sqlite)?;
    Ok(Attempt::Whole(CalibreLibrary { folder: folder.to_owned(), uuid, books }))
}

/// Size and time of a file that is there.
type FileState = Option<(u64, Option<SystemTime>)>;

/// Size and time of the database and its journals: what a copy must find unchanged afterwards. Each is a file: whoever
/// opens a pipe waits for its other end.
fn state(database: &Path) -> io::Result<Vec<FileState>> {
    [""].into_iter()
        .chain(JOURNALS)
        .map(|suffix| match fs::metadata(with_suffix(database, suffix)) {
            Ok(facts) if facts.is_file() => Ok(Some((facts.len(), facts.modified().ok()))),
            Ok(_) => Err(io::Error::other(format!("{DATABASE}{suffix} is not a regular file"))),
            Err(error) if error.kind() == ErrorKind::NotFound && !suffix.is_empty() => Ok(None),
            Err(error) => Err(error),
        })
        .collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opened for writing, because only a writer plays a journal back; the copy is ours. After that nothing is changed.
fn open_copy(copy: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(copy, flags)?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    db.pragma_update(None, "query_only", true)?;
    Ok(db)
}

/// The first table of [`TABLES`] that is not there.
fn lacking(db: &Connection) -> rusqlite::Result<Option<String>> {
    let mut table = db.prepare("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1")?;
    for name in TABLES {
        if table.query_row([name], |row| row.get::<_, i64>(0))? == 0 {
            return Ok(Some(format!("it has no table {name}")));
        }
    }
    Ok(None)
}

/// What SQLite finds wrong with the tables that are read. Not the others: newer versions of Calibre have full-text
/// tables that only Calibre can open.
fn damage(db: &Connection) -> rusqlite::Result<Option<String>> {
    for table in TABLES {
        let says: String = db.query_row(&format!("PRAGMA integrity_check({table})"), [], |row| row.get(0))?;
        if says != "ok" {
            return Ok(Some(format!("table {table}: {says}")));
        }
    }
    Ok(None)
}

fn library_uuid(db: &Connection) -> rusqlite::Result<Option<String>> {
    let mut uuids = db.prepare("SELECT uuid FROM library_id ORDER BY id")?;
    let mut rows = uuids.query([])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

/// One query a table, put together here: joined in SQL, two authors and three tags would be six rows.
fn books(db: &Connection) -> rusqlite::Result<Vec<CalibreBook>> {
    let mut authors = linked(
        db,
        "SELECT l.book, a.name FROM books_authors_link l JOIN authors a ON a.id = l.author ORDER BY l.book, l.id",
        text,
    )?;
    let mut tags = linked(
        db,
        "SELECT l.book, t.name FROM books_tags_link l JOIN tags t ON t.id = l.tag ORDER BY l.book, t.name, t.id",
        text,
    )?;
    let mut series = linked(
        db,
        "SELECT l.book, s.name FROM books_series_link l JOIN series s ON s.id = l.series ORDER BY l.book, l.id",
        text,
    )?;
    let mut publishers = linked(
        db,
        "SELECT l.book, p.name FROM books_publishers_link l JOIN publishers p ON p.id = l.publisher
        ORDER BY l.book, l.id",
        text,
    )?;
    let mut ratings = linked(
        db,
        "SELECT l.book, r.rating FROM books_ratings_link l JOIN ratings r ON r.id = l.rating
        WHERE r.rating > 0 ORDER BY l.book, l.id",
        |row, at| row.get::<_, Option<i64>>(at),
    )?;
    let mut languages = linked(
        db,
        "SELECT l.book, g.lang_code FROM books_languages_link l JOIN languages g ON g.id = l.lang_code
        ORDER BY l.book, l.item_order, l.id",
        text,
    )?;
    let mut identifiers = identifiers(db)?;
    let mut names = file_names(db)?;
    db.prepare("SELECT id, uuid, title, path, series_index, pubdate FROM books ORDER BY id")?
        .query_map([], |row| {
            let id: i64 = row.get(0)?;
            // Never null in a sound row. Of a damaged one no file is found, and that book fails under its id.
            let folder = text(row, 3)?.unwrap_or_default();
            // Calibre's own default, for what is no number.
            let index = row.get_ref(4)?.as_f64().unwrap_or(1.0);
            // A book without a link has none: an empty list is the answer, not a failure.
            let of = |links: &mut HashMap<i64, Vec<String>>| links.remove(&id).unwrap_or_default();
            Ok(CalibreBook {
                id,
                uuid: text(row, 1)?,
                title: text(row, 2)?.unwrap_or_else(|| NO_TITLE.to_owned()),
                // Calibre keeps a comma in a name as a bar.
                authors: of(&mut authors).into_iter().map(|name| name.replace('|', ",")).collect(),
                tags: of(&mut tags),
                series: of(&mut series).into_iter().next().map(|name| (name, two_decimals(index))),
                publisher: of(&mut publishers).into_iter().next(),
                languages: of(&mut languages).iter().map(|code| two_letters(code)).collect(),
                rating: ratings.remove(&id).and_then(|r| r.first().map(|points| *points as f64 / 2.0)),
                identifiers: identifiers.remove(&id).unwrap_or_default(),
                published: text(row, 5)?.and_then(|date| iso_date(&date)),
                files: files(&folder, names.remove(&id).unwrap_or_default()),
            })
        })?
        .collect()
}

/// Values of a link table by book, in the order of the query.
fn linked<T>(
    db: &Connection,
    sql: &str,
    value: impl Fn(&Row<'_>, usize) -> rusqlite::Result<Option<T>>,
) -> rusqlite::Result<HashMap<i64, Vec<T>>> {
    let mut values: HashMap<i64, Vec<T>> = HashMap::new();
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(value) = value(row, 1)? {
            values.entry(row.get(0)?).or_default().push(value);
        }
    }
    Ok(values)
}

/// A value as words, whatever SQLite holds there: it lets anything stand in any column, and one odd row of one book must
/// not refuse all books. Cut at [`METADATA_VALUE_BYTES_MAX`].
fn text(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<String>> {
    let text = match row.get_ref(at)? {
        ValueRef::Null => return Ok(None),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(&bytes[..bytes.len().min(METADATA_VALUE_BYTES_MAX)]).into_owned()
        }
    };
    Ok(Some(text))
}

type Pairs = HashMap<i64, Vec<(String, String)>>;

fn identifiers(db: &Connection) -> rusqlite::Result<Pairs> {
    pairs(db, "SELECT book, lower(type), val FROM identifiers ORDER BY book, lower(type), id")
}

/// Formats of each book, and the names of their files.
fn file_names(db: &Connection) -> rusqlite::Result<Pairs> {
    pairs(db, "SELECT book, lower(format), name FROM data ORDER BY book, lower(format), id")
}

fn pairs(db: &Connection, sql: &str) -> rusqlite::Result<Pairs> {
    let mut pairs = Pairs::new();
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let (Some(key), Some(value)) = (text(row, 1)?, text(row, 2)?) {
            pairs.entry(row.get(0)?).or_default().push((key, value));
        }
    }
    Ok(pairs)
}

/// `<library>/<books.path>/<data.name>.<format>`.
fn files(folder: &str, names: Vec<(String, String)>) -> Vec<CalibreFile> {
    let file = |(format, name): (String, String)| {
        let relative = Path::new(folder).join(format!("{name}.{format}"));
        let inside =
            relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        CalibreFile { format, relative: inside.then_some(relative) }
    };
    names.into_iter().map(file).collect()
}

/// As Calibre shows a number in a series, and exact in JSON.
fn two_decimals(index: f64) -> f64 {
    (index * 100.0).round() / 100.0
}

/// `2017-12-11 02:32:46+00:00` as ISO 8601; none for Calibre's undefined date.
fn iso_date(date: &str) -> Option<String> {
    let date = date.trim();
    (!date.is_empty() && !date.starts_with(NO_DATE)).then(|| date.replacen(' ', "T", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_out_of_the_library_is_no_path() {
        let relative = |folder: &str| files(folder, vec![("epub".into(), "a".into())])[0].relative.clone();
        assert_eq!(relative("Author/Title (1)"), Some("Author/Title (1)/a.epub".into()));
        assert_eq!(relative("./Author"), Some("./Author/a.epub".into()));
        for folder in ["../elsewhere", "/etc", "Author/../../x"] {
            assert_eq!(relative(folder), None, "{folder}");
        }
    }

    #[test]
    fn dates_are_iso_and_the_undefined_one_is_none() {
        assert_eq!(iso_date("2017-12-11 02:32:46+00:00").as_deref(), Some("2017-12-11T02:32:46+00:00"));
        assert_eq!(iso_date("0101-01-01 00:00:00+00:00"), None);
        assert_eq!(iso_date(""), None);
    }
}
