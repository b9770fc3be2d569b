//! Calibre libraries: recognised, selected from, followed through renames and new metadata.
//!
//! The libraries are written here, with the tables and views of Calibre's own schema
//! (resources/metadata_sqlite.sql). Its views call functions that only Calibre defines, so a reader that used them
//! would fail.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, params};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::fixtures::{Home, Ran, Random, assert_ran, samples, text};

const SCHEMA: &str = r#"
CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE, sort TEXT COLLATE NOCASE,
    link TEXT NOT NULL DEFAULT "", UNIQUE(name));
CREATE TABLE books (id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL DEFAULT 'Unknown' COLLATE NOCASE,
    sort TEXT COLLATE NOCASE, timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    pubdate TIMESTAMP DEFAULT CURRENT_TIMESTAMP, series_index REAL NOT NULL DEFAULT 1.0,
    author_sort TEXT COLLATE NOCASE, isbn TEXT DEFAULT "" COLLATE NOCASE, lccn TEXT DEFAULT "" COLLATE NOCASE,
    path TEXT NOT NULL DEFAULT "", flags INTEGER NOT NULL DEFAULT 1, uuid TEXT, has_cover BOOL DEFAULT 0,
    last_modified TIMESTAMP NOT NULL DEFAULT "2000-01-01 00:00:00+00:00");
CREATE TABLE books_authors_link (id INTEGER PRIMARY KEY, book INTEGER NOT NULL, author INTEGER NOT NULL,
    UNIQUE(book, author));
CREATE TABLE books_languages_link (id INTEGER PRIMARY KEY, book INTEGER NOT NULL, lang_code INTEGER NOT NULL,
    item_order INTEGER NOT NULL DEFAULT 0, UNIQUE(book, lang_code));
CREATE TABLE books_publishers_link (id INTEGER PRIMARY KEY, book INTEGER NOT NULL, publisher INTEGER NOT NULL,
    UNIQUE(book));
CREATE TABLE books_ratings_link (id INTEGER PRIMARY KEY, book INTEGER NOT NULL, rating INTEGER NOT NULL,
    UNIQUE(book, rating));
CREATE TABLE books_series_link (id INTEGER PRIMARY KEY, book INTEGER NOT NULL, series INTEGER NOT NULL,
    UNIQUE(book));
CREATE TABLE books_tags_link (id INTEGER PRIMARY KEY, book INTEGER NOT NULL, tag INTEGER NOT NULL,
    UNIQUE(book, tag));
CREATE TABLE comments (id INTEGER PRIMARY KEY, book INTEGER NOT NULL, text TEXT NOT NULL COLLATE NOCASE,
    UNIQUE(book));
CREATE TABLE data (id INTEGER PRIMARY KEY, book INTEGER NOT NULL, format TEXT NOT NULL COLLATE NOCASE,
    uncompressed_size INTEGER NOT NULL, name TEXT NOT NULL, UNIQUE(book, format));
CREATE TABLE identifiers (id INTEGER PRIMARY KEY, book INTEGER NOT NULL,
    type TEXT NOT NULL DEFAULT "isbn" COLLATE NOCASE, val TEXT NOT NULL COLLATE NOCASE, UNIQUE(book, type));
CREATE TABLE languages (id INTEGER PRIMARY KEY, lang_code TEXT NOT NULL COLLATE NOCASE, UNIQUE(lang_code));
CREATE TABLE library_id (id INTEGER PRIMARY KEY, uuid TEXT NOT NULL, UNIQUE(uuid));
CREATE TABLE metadata_dirtied (id INTEGER PRIMARY KEY, book INTEGER NOT NULL, UNIQUE(book));
CREATE TABLE publishers (id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE, sort TEXT COLLATE NOCASE,
    UNIQUE(name));
CREATE TABLE ratings (id INTEGER PRIMARY KEY, rating INTEGER CHECK(rating > -1 AND rating < 11), UNIQUE(rating));
CREATE TABLE series (id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE, sort TEXT COLLATE NOCASE,
    UNIQUE(name));
CREATE TABLE tags (id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE, UNIQUE(name));
CREATE VIEW meta AS
    SELECT id, title,
        (SELECT sortconcat(bal.id, name) FROM books_authors_link AS bal JOIN authors ON(author = authors.id)
            WHERE book = books.id) authors,
        (SELECT concat(name) FROM tags WHERE tags.id IN (SELECT tag FROM books_tags_link WHERE book = books.id))
            tags,
        series_index, path, uuid
    FROM books;
PRAGMA user_version = 25;
"#;

const LIBRARY_UUID: &str = "eafa892d-9652-45ad-989e-64b8980a49da";

/// A Calibre library in `[HOME]/calibre`, and what a user does in it.
struct Calibre<'a> {
    home: &'a Home,
    db: Connection,
}

impl<'a> Calibre<'a> {
    fn new(home: &'a Home) -> Self {
        fs::create_dir_all(home.path("calibre")).unwrap();
        let db = Connection::open(home.path("calibre/metadata.db")).unwrap();
        db.execute_batch(SCHEMA).unwrap();
        db.execute("INSERT INTO library_id (uuid) VALUES (?1)", [LIBRARY_UUID]).unwrap();
        Self { home, db }
    }

    /// A book with its files, as Calibre lays them out; returns its id.
    fn add(&self, title: &str, authors: &[&str], files: &[(&str, &[u8])]) -> i64 {
        self.db
            .execute(
                "INSERT INTO books (title, pubdate, uuid) VALUES (?1, '0101-01-01 00:00:00+00:00', ?2)",
                params![title, format!("book-{title}-{}", authors.join("-"))],
            )
            .unwrap();
        let id = self.db.last_insert_rowid();
        self.author(id, authors);
        let (folder, name) = place(id, title, authors);
        self.db.execute("UPDATE books SET path = ?1 WHERE id = ?2", params![folder, id]).unwrap();
        for (format, content) in files {
            self.home.write(&format!("calibre/{folder}/{name}.{format}"), content);
            self.db
                .execute(
                    "INSERT INTO data (book, format, uncompressed_size, name) VALUES (?1, ?2, ?3, ?4)",
                    params![id, format.to_uppercase(), content.len() as i64, name],
                )
                .unwrap();
        }
        id
    }

    /// Replaces a book's authors, in this order.
    fn author(&self, id: i64, authors: &[&str]) {
        self.db.execute("DELETE FROM books_authors_link WHERE book = ?1", [id]).unwrap();
        for author in authors {
            self.link("author", "authors", "name", id, &author.replace(',', "|"));
        }
    }

    /// Links a value of another table to a book.
    fn link(&self, column: &str, table: &str, value_column: &str, book: i64, value: &str) {
        let insert = format!("INSERT OR IGNORE INTO {table} ({value_column}) VALUES (?1)");
        self.db.execute(&insert, [value]).unwrap();
        let link = format!(
            "INSERT INTO books_{table}_link (book, {column})
            SELECT ?1, id FROM {table} WHERE {value_column} = ?2"
        );
        self.db.execute(&link, params![book, value]).unwrap();
    }

    fn tag(&self, id: i64, tag: &str) {
        self.link("tag", "tags", "name", id, tag);
    }

    /// A new title moves the book's folder and files, as Calibre does.
    fn rename(&self, id: i64, title: &str, authors: &[&str]) {
        let old: String =
            self.db.query_row("SELECT path FROM books WHERE id = ?1", [id], |r| r.get(0)).unwrap();
        let (folder, name) = place(id, title, authors);
        let to = self.home.path("calibre").join(&folder);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(self.home.path("calibre").join(old), &to).unwrap();
        for entry in fs::read_dir(&to).unwrap() {
            let file = entry.unwrap().path();
            fs::rename(&file, to.join(format!("{name}.{}", text(file.extension().unwrap())))).unwrap();
        }
        self.db
            .execute("UPDATE books SET title = ?1, path = ?2 WHERE id = ?3", params![title, folder, id])
            .unwrap();
        self.db.execute("UPDATE data SET name = ?1 WHERE book = ?2", params![name, id]).unwrap();
        self.author(id, authors);
    }

    fn remove(&self, id: i64) {
        let folder: String =
            self.db.query_row("SELECT path FROM books WHERE id = ?1", [id], |row| row.get(0)).unwrap();
        fs::remove_dir_all(self.home.path("calibre").join(folder)).unwrap();
        for sql in ["DELETE FROM books WHERE id = ?1", "DELETE FROM data WHERE book = ?1"] {
            self.db.execute(sql, [id]).unwrap();
        }
    }

    fn file(&self, id: i64) -> PathBuf {
        let (folder, name, format): (String, String, String) = self
            .db
            .query_row(
                "SELECT path, name, lower(format) FROM books JOIN data ON book = books.id WHERE books.id = ?1",
                [id],
                |row| row.try_into(),
            )
            .unwrap();
        self.home.path("calibre").join(folder).join(format!("{name}.{format}"))
    }
}

fn place(id: i64, title: &str, authors: &[&str]) -> (String, String) {
    let first = authors.first().unwrap_or(&"Unknown");
    (format!("{first}/{title} ({id})"), format!("{title} - {first}"))
}

fn epub() -> Vec<u8> {
    fs::read(samples().join("library/the-slow-loaf.epub")).unwrap()
}

/// The library's documents by Calibre's id, through Alexandria's view where it has the column.
fn documents(home: &Home) -> Vec<(String, String, String, String)> {
    let db = Connection::open(home.path("lib.haul")).unwrap();
    let mut rows = db
        .prepare(
            "SELECT source || ' ' || coalesce(source_id, ''), book_title, coalesce(author, ''), file_name
            FROM books ORDER BY file_path",
        )
        .unwrap();
    rows.query_map([], |row| row.try_into()).unwrap().map(Result::unwrap).collect()
}

fn metadata(home: &Home, source_id: &str) -> (Value, Option<String>) {
    let db = Connection::open(home.path("lib.haul")).unwrap();
    let (metadata, language): (String, _) = db
        .query_row("SELECT metadata, language FROM documents WHERE source_id = ?1", [source_id], |row| {
            row.try_into()
        })
        .unwrap();
    (serde_json::from_str(&metadata).unwrap(), language)
}

fn point_ids(home: &Home) -> Vec<Vec<u8>> {
    let db = Connection::open(home.path("lib.haul")).unwrap();
    let mut rows = db.prepare("SELECT point_id FROM chunks ORDER BY point_id").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// The digest of a library made in one go from Calibre as it is now.
fn digest_from_scratch(home: &Home) -> String {
    let args = ["--store", "fresh.haul", "--model", "tiny"];
    let ran = home.run(&[&["ingest", "calibre", "--json"], &args[..]].concat());
    assert!([0, 1].contains(&ran.code), "{ran:#?}");
    let info = home.json(&["store", "info", "--store", "fresh.haul"]);
    for name in ["fresh.haul", "fresh.haul-wal", "fresh.haul-shm"] {
        if home.path(name).exists() {
            fs::remove_file(home.path(name)).unwrap();
        }
    }
    info["digest"].as_str().unwrap().to_owned()
}

fn tokens(receipt: &Value) -> u64 {
    receipt["work"]["tokens"].as_u64().unwrap()
}

fn ingest(home: &Home, args: &[&str]) -> Ran {
    home.run(&[&["ingest", "calibre", "--store", "lib.haul", "--model", "tiny"], args].concat())
}

#[test]
fn a_library_is_recognised_and_its_words_win() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    let id = calibre.add(
        "Bread & Patience, Slowly",
        &["Smith, John", "Müller", "Doe, Jane"],
        &[("epub", &epub())],
    );
    calibre.tag(id, "Food, Drink");
    calibre.tag(id, "baking");
    calibre.link("series", "series", "name", id, "Loaves");
    calibre.link("publisher", "publishers", "name", id, "Ovens & Sons");
    calibre.link("rating", "ratings", "rating", id, "9");
    calibre.link("lang_code", "languages", "lang_code", id, "eng");
    calibre.link("lang_code", "languages", "lang_code", id, "spa");
    calibre
        .db
        .execute_batch(
            "UPDATE books SET series_index = 2.5, pubdate = '1999-12-31 23:00:00+00:00';
            UPDATE books_languages_link SET item_order = 2 - id;
            INSERT INTO identifiers (book, type, val) VALUES (1, 'isbn', '9780000000001'), (1, 'DOI', '10.1/x');
            INSERT INTO comments (book, text) VALUES (1, '<p>long</p>');",
        )
        .unwrap();
    let ran = ingest(&home, &[]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.stderr.contains("/calibre (1 books)\n"), "{ran:#?}");
    assert_eq!(
        documents(&home),
        [(
            "calibre 1".to_owned(),
            "Bread & Patience, Slowly".to_owned(),
            "Smith, John & Müller & Doe, Jane".to_owned(),
            "Bread & Patience, Slowly - Smith, John.epub".to_owned()
        )]
    );
    let (mut found, language) = metadata(&home, "1");
    let own = found.as_object_mut().unwrap().remove("file").unwrap();
    assert!(own["title"].is_string() && own["authors"].is_array(), "{own}");
    assert_eq!(language.as_deref(), Some("es"));
    let expected = json!({
        "series": "Loaves", "series_index": 2.5, "tags": ["baking", "Food, Drink"], "languages": ["es", "en"],
        "identifiers": {"doi": "10.1/x", "isbn": "9780000000001"}, "publisher": "Ovens & Sons", "rating": 4.5,
        "published": "1999-12-31T23:00:00+00:00",
        "calibre": {"library": LIBRARY_UUID, "book": "book-Bread & Patience, Slowly-Smith, John-Müller-Doe, Jane"},
    });
    assert_eq!(found, expected);
    let found = |args: &[&str]| {
        let base = ["search", "bread", "--store", "lib.haul", "--mode", "bm25"];
        home.json(&[&base[..], args].concat())["hits"].as_array().unwrap().len()
    };
    assert!(found(&[]) > 0);
    for filter in [["--tag", "DRINK"], ["--series", "loaves"], ["--author", "müller"], ["--language", "es"]]
    {
        assert_eq!(found(&filter), found(&[]), "{filter:?}");
    }
    assert_eq!(found(&["--tag", "crime"]), 0);
    let log: (String, String) = Connection::open(home.path("lib.haul"))
        .unwrap()
        .query_row("SELECT source, source_id FROM ingest_log", [], |row| row.try_into())
        .unwrap();
    assert_eq!(log, ("calibre".to_owned(), "1".to_owned()));
    home.assert_sound();
    // Nothing is ever written beside the user's database.
    let beside: Vec<_> =
        fs::read_dir(home.path("calibre")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "{beside:?}");
}

/// A new title moves the files; a new tag changes nothing on the disk. Neither is work for the model.
#[test]
fn renamed_and_tagged_books_stay_what_they_are() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    let loaf = calibre.add("The Slow Loaf", &["Unknown"], &[("epub", &epub())]);
    let lamp = calibre.add("Lamp", &["A. Keeper"], &[("txt", Random(1).sentences(20).as_bytes())]);
    home.ingest(&["calibre"]);
    let (points, digest) = (point_ids(&home), home.digest());

    calibre.rename(lamp, "The Lamp, Again", &["Keeper, A.", "B"]);
    calibre.tag(loaf, "bread");
    let (receipt, code) = home.ingest(&["calibre"]);
    assert_eq!((code, tokens(&receipt), &receipt["model"]["loads"]), (0, 0, &json!(0)));
    let items = json!({"total": 2, "ok": 2, "by_verdict": {"ok": 2}, "reused": 0, "updated": 2});
    assert_eq!(receipt["items"], items);
    assert_eq!(point_ids(&home), points);
    assert_ne!(home.digest(), digest);
    assert_eq!(home.digest(), digest_from_scratch(&home));
    let lamps = documents(&home).into_iter().find(|(source, ..)| source == "calibre 2").unwrap();
    assert_eq!((lamps.1.as_str(), lamps.2.as_str()), ("The Lamp, Again", "Keeper, A. & B"));
    assert_eq!(lamps.3, "The Lamp, Again - Keeper, A..txt");
    home.assert_sound();

    // A third run has nothing to do, and a touched file is still the same book.
    let (receipt, _) = home.ingest(&["calibre"]);
    assert_eq!(receipt["items"], json!({"total": 2, "ok": 2, "by_verdict": {"ok": 2}, "reused": 2}));
    let file = calibre.file(lamp);
    let content = fs::read(&file).unwrap();
    fs::write(&file, content).unwrap();
    let ran = ingest(&home, &[]);
    assert!(
        ran.code == 0 && ran.stdout.contains("0 tokens in") && ran.stdout.contains("2 inputs unchanged"),
        "{ran:#?}"
    );

    // A library that moves as a whole is the same library.
    let digest = home.digest();
    fs::rename(home.path("calibre"), home.path("moved")).unwrap();
    let (receipt, _) = home.ingest(&["moved"]);
    assert_eq!((tokens(&receipt), &receipt["items"]["reused"]), (0, &json!(2)));
    assert_eq!(home.digest(), digest);
    assert!(home.ingest(&["moved", "--prune"]).0["items"]["pruned"].is_null());
    home.assert_sound();
}

/// A book is unchanged on the disk while its new title falls under another rule of the policy. It once stayed left out,
/// or kept the chunks of the old rule.
#[test]
fn a_new_title_asks_the_policy_again() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    let prose = Random(7).sentences(80);
    let list = calibre.add("Catalogue", &["A"], &[("txt", prose.as_bytes())]);
    let loaf = calibre.add("The Loaf", &["B"], &[("txt", Random(8).sentences(80).as_bytes())]);
    let policy = home.write(
        "policy.toml",
        "title_contains = [{ pattern = \"catalogue\", chunker = \"none\" }, { pattern = \"fixed\", chunker = \"fixed\" }]",
    );
    let (receipt, _) = home.ingest(&["calibre", "--policy", text(&policy)]);
    assert_eq!(receipt["items"]["by_verdict"], json!({"ok": 1, "skipped": 1}));

    calibre.rename(list, "Lamps", &["A"]);
    calibre.rename(loaf, "The Fixed Loaf", &["B"]);
    let (receipt, code) = home.ingest(&["calibre"]);
    assert_eq!((code, &receipt["items"]["by_verdict"]), (0, &json!({"ok": 2})), "{receipt:#}");
    home.ok(&["ingest", "calibre", "--store", "fresh.haul", "--model", "tiny", "--policy", text(&policy)]);
    let fresh = home.json(&["store", "info", "--store", "fresh.haul"]);
    assert_eq!(fresh["digest"].as_str(), Some(home.digest().as_str()));
    let (receipt, _) = home.ingest(&["calibre"]);
    assert_eq!((tokens(&receipt), &receipt["items"]["reused"]), (0, &json!(2)));
    home.assert_sound();
}

/// Where Calibre says nothing, the file's own words stand, and a later edit that takes Calibre's back brings them
/// back, without the file.
#[test]
fn the_files_own_words_stand_in_for_unknown() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    let loaf = calibre.add("Unknown", &["Unknown"], &[("epub", &epub())]);
    home.ingest(&["calibre"]);
    let own = documents(&home);
    assert!(own[0].1 != "Unknown" && !own[0].2.is_empty() && !own[0].2.contains("Unknown"), "{own:?}");
    calibre.rename(loaf, "Mine", &["Me"]);
    home.ingest(&["calibre"]);
    assert_eq!((documents(&home)[0].1.as_str(), documents(&home)[0].2.as_str()), ("Mine", "Me"));
    calibre.rename(loaf, "Unknown", &["Unknown"]);
    home.ingest(&["calibre"]);
    assert_eq!(documents(&home), own);
    let (receipt, _) = home.ingest(&["calibre", "--junk-metadata", "keep"]);
    assert_eq!(receipt["items"]["updated"], 1);
    assert_eq!((documents(&home)[0].1.as_str(), documents(&home)[0].2.as_str()), ("Unknown", "Unknown"));
}

#[test]
fn one_file_of_a_book_is_taken_by_preference() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    let words = Random(2).sentences(3);
    let words = words.as_bytes();
    calibre.add("Both", &["A"], &[("txt", words), ("mobi", b"x"), ("epub", &epub())]);
    calibre.add("Kindle", &["A"], &[("azw3", b"x"), ("mobi", b"x")]);
    calibre.add("Paper", &["A"], &[]);
    calibre.add("Both", &["B"], &[("azw3", b"x"), ("txt", words)]);
    let (receipt, code) = home.ingest(&["calibre"]);
    assert_eq!((code, &receipt["items"]["by_verdict"]), (1, &json!({"ok": 2, "unsupported": 2})));
    let whys: Vec<&str> =
        receipt["failures"].as_array().unwrap().iter().map(|f| f["why"].as_str().unwrap()).collect();
    assert_eq!(
        whys,
        ["Kindle (book 2) is there as AZW3, MOBI only, which is not read", "Calibre has no file of it"]
    );
    let formats: Vec<String> = documents(&home).into_iter().map(|(.., name)| name).collect();
    assert_eq!(formats, ["Both - A.epub", "Both - B.txt"]);
    // Two books of one title are two documents.
    let again = home.ingest(&["calibre"]).0;
    assert_eq!(again["items"]["reused"], 3, "{again:#}");
    // Another preference is another file; that of before is no more wanted.
    let again = home.ingest(&["calibre", "--formats", "txt"]).0;
    assert_eq!(again["items"]["gone"].as_array().map(Vec::len), Some(1), "{again:#}");

    let other = Home::new();
    fs::rename(home.path("calibre"), other.path("calibre")).unwrap();
    other.ingest(&["calibre", "--formats", "TXT,.epub"]);
    let formats: Vec<String> = documents(&other).into_iter().map(|(.., name)| name).collect();
    assert_eq!(formats, ["Both - A.txt", "Both - B.txt"]);
    assert_eq!(ingest(&other, &["--formats", "mobi"]).code, 2);
}

/// A book that was read as text got an EPUB that nobody can read; the text is still there, and `--prune` took its
/// document away, so that the book could not be found any more.
#[test]
fn a_format_that_fails_does_not_prune_the_one_before() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    calibre.add("Lamp", &["A"], &[("txt", Random(2).sentences(3).as_bytes()), ("epub", b"no archive")]);
    home.ingest(&["calibre", "--formats", "txt"]);
    for formats in ["epub,txt", "epub", "docx"] {
        let (receipt, code) = home.ingest(&["calibre", "--formats", formats, "--prune"]);
        assert_eq!((code, &receipt["items"].get("pruned")), (1, &None), "{receipt:#}");
        assert_eq!(documents(&home).len(), 1);
    }
}

#[test]
fn a_selection_selects_and_prunes_nothing() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    for (number, title) in (1..).zip(["One", "Two", "Three", "Four"]) {
        let id = calibre.add(title, &["Ann"], &[("txt", Random(number).sentences(4).as_bytes())]);
        if number % 2 == 0 {
            calibre.tag(id, "Even numbers");
        }
    }
    let total = |args: &[&str]| {
        let mut all = vec!["calibre"];
        all.extend(args);
        home.ingest(&all).0["items"].clone()
    };
    assert_eq!(total(&["--calibre-id", "1,3-9"])["total"], 3);
    let one = total(&["--tag", "EVEN", "--title", "two"]);
    assert_eq!((&one["total"], &one["gone"]), (&json!(1), &Value::Null));
    let ran = ingest(&home, &["--tag", "even"]);
    assert!(ran.stderr.contains("/calibre (4 books, 2 selected)\n"), "{ran:#?}");
    assert_eq!(home.json(&["store", "info", "--store", "lib.haul"])["documents"], 4);

    assert_ran!(home, ingest(&home, &["--calibre-id", "77", "--quiet"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: --calibre-id 77: Calibre has no such book (4 books, ids 1 to 4)

    hint: `calibredb list` shows the ids; --title selects by name
    "#);
    assert_ran!(home, ingest(&home, &["--author", "Bob", "--quiet"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: 4 books in Calibre, and none is as asked for: --author Bob

    hint: each is part of a name as Calibre shows it, in any letter case
    "#);
    let ran = ingest(&home, &["--tag", "even", "--prune"]);
    assert!(ran.code == 2 && ran.stderr.contains("cannot be used with '--prune'"), "{ran:#?}");
    home.write("plain/a.txt", "The lamp in the north window.");
    assert_ran!(home, ingest(&home, &["plain", "--author", "Ann", "--quiet"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: --author Ann selects books of a Calibre library, and [HOME]/plain is none

    hint: give the folder that holds metadata.db; for plain files, --files-from takes a list of paths
    "#);
    // What is gone shows in a run over all books, and not in one that looks at some.
    calibre.remove(1);
    assert_eq!(total(&["--title", "two"])["gone"], Value::Null);
    assert_eq!(total(&[])["gone"].as_array().map(Vec::len), Some(1));
    assert_eq!(home.json(&["store", "info", "--store", "lib.haul"])["documents"], 4);
}

#[test]
fn a_removed_book_is_reported_and_kept_until_pruned() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    calibre.add("Kept", &["A"], &[("txt", b"The lamp in the north window.")]);
    let gone = calibre.add("Gone", &["A"], &[("txt", b"Honey and salt under the bridge.")]);
    let lost = calibre.add("Lost", &["A"], &[("txt", b"Seven stones in the winter garden.")]);
    home.ingest(&["calibre"]);
    calibre.remove(gone);
    // Calibre still has this one; only its file is away, and that is no reason to forget it.
    fs::remove_file(calibre.file(lost)).unwrap();
    let (receipt, code) = home.ingest(&["calibre"]);
    assert_eq!((code, receipt["items"]["gone"].as_array().map(Vec::len)), (1, Some(1)), "{receipt:#}");
    assert!(receipt["items"]["gone"][0].as_str().unwrap().ends_with("Gone - A.txt"));
    let why = receipt["failures"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("Calibre lists it, but: "), "{why}");
    let (receipt, _) = home.ingest(&["calibre", "--prune"]);
    assert_eq!(receipt["items"]["pruned"].as_array().map(Vec::len), Some(1), "{receipt:#}");
    let titles: Vec<String> = documents(&home).into_iter().map(|(_, title, ..)| title).collect();
    assert_eq!(titles, ["Kept", "Lost"]);
    home.assert_sound();
}

/// Calibre may be open, in the middle of a transaction, or write a log: what was committed is read.
#[test]
fn an_open_database_is_no_obstacle() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    calibre.add("First", &["A"], &[("txt", b"The lamp in the north window.")]);
    calibre
        .db
        .execute_batch(
            "BEGIN EXCLUSIVE; UPDATE books SET title = 'Half'; INSERT INTO tags (name) VALUES ('x');",
        )
        .unwrap();
    assert_eq!(ingest(&home, &[]).code, 0);
    assert_eq!(documents(&home)[0].1, "First");
    calibre.db.execute_batch("ROLLBACK; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;").unwrap();
    calibre.rename(1, "In the log", &["A"]);
    assert!(home.path("calibre/metadata.db-wal").metadata().unwrap().len() > 0);
    assert_eq!(ingest(&home, &[]).code, 0);
    assert_eq!(documents(&home)[0].1, "In the log");
    // A journal that a killed Calibre left is played back, in the copy alone.
    calibre
        .db
        .execute_batch("PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; PRAGMA cache_spill = 1;")
        .unwrap();
    calibre.db.execute_batch("BEGIN; UPDATE books SET title = 'Spilled';").unwrap();
    for number in 0..4000 {
        calibre.db.execute("INSERT INTO tags (name) VALUES (?1)", [format!("tag number {number}")]).unwrap();
    }
    let copy = Home::new();
    for name in ["metadata.db", "metadata.db-journal"] {
        copy.write(&format!("calibre/{name}"), fs::read(home.path("calibre").join(name)).unwrap());
    }
    let (folder, name) = place(1, "In the log", &["A"]);
    copy.write(&format!("calibre/{folder}/{name}.txt"), "The lamp in the north window.");
    let before = fs::read(copy.path("calibre/metadata.db")).unwrap();
    assert_eq!(ingest(&copy, &[]).code, 0);
    assert_eq!(documents(&copy)[0].1, "In the log");
    assert_eq!(fs::read(copy.path("calibre/metadata.db")).unwrap(), before);
    assert!(copy.path("calibre/metadata.db-journal").exists());
}

#[test]
fn what_is_no_calibre_database_is_said() {
    let home = Home::new();
    home.write("calibre/metadata.db", "words, and no database at all");
    home.write("calibre/a.txt", "The lamp in the north window.");
    assert_ran!(home, ingest(&home, &["--quiet"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: [HOME]/calibre/metadata.db: not a Calibre database (its first bytes are not those of an SQLite file)

    hint: --plain-folders reads a folder with a metadata.db like any other folder
    "#);
    let other = Home::new();
    fs::create_dir(other.path("calibre")).unwrap();
    let db = Connection::open(other.path("calibre/metadata.db")).unwrap();
    db.execute_batch("CREATE TABLE notes (text)").unwrap();
    assert_ran!(other, ingest(&other, &["--quiet"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: [HOME]/calibre/metadata.db: not a Calibre database (it has no table library_id)

    hint: --plain-folders reads a folder with a metadata.db like any other folder
    "#);
    // As a plain folder, it is a text and a file that is not read.
    let (receipt, code) = home.ingest(&["calibre", "--plain-folders"]);
    assert_eq!((code, &receipt["items"]["by_verdict"]), (1, &json!({"ok": 1, "unsupported": 1})));
}

/// SQLite keeps anything in any column. One odd row refused a library of 9,000 books and named none of them.
#[test]
fn odd_values_are_words() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    let ids = ["Lamp", "Rope", "Salt", "Honey"]
        .map(|title| calibre.add(title, &["A"], &[("txt", format!("The {title} in the north.").as_bytes())]));
    let set = |sql: &str, id: i64| calibre.db.execute(sql, [id]).unwrap();
    set("UPDATE books SET title = x'4cff616d70' WHERE id = ?1", ids[0]);
    set("UPDATE books SET title = CAST(x'52ff6f7065' AS TEXT), path = './' || path WHERE id = ?1", ids[1]);
    set("UPDATE books SET title = 1984, pubdate = 2001, series_index = 'two' WHERE id = ?1", ids[2]);
    set("UPDATE books SET title = hex(zeroblob(1000000)) WHERE id = ?1", ids[3]);
    set("INSERT INTO identifiers (book, type, val) VALUES (?1, 'isbn', x'ff00')", ids[3]);
    let (receipt, code) = home.ingest(&["calibre"]);
    assert_eq!((code, &receipt["items"]["by_verdict"]), (0, &json!({"ok": 4})), "{receipt:#}");
    let titles: Vec<String> = documents(&home).into_iter().map(|document| document.1).collect();
    for title in ["L\u{fffd}amp", "R\u{fffd}ope", "1984", &"0".repeat(64 << 10)] {
        assert!(titles.iter().any(|found| found == title), "{}: {:.200}", &title[..4], titles.join(" "));
    }
}

/// Whoever opens a pipe waits for its other end: an ingest hung so, deaf to signals.
#[test]
fn a_pipe_beside_the_database_is_refused() {
    let home = Home::new();
    Calibre::new(&home).add("Lamp", &["A"], &[("txt", b"The lamp in the north window.")]);
    let pipe = home.path("calibre/metadata.db-wal");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert_ran!(home, ingest(&home, &["--quiet"]), @r"
    exit 2
    --- stdout
    --- stderr
    haul: cannot read [HOME]/calibre/metadata.db: metadata.db-wal is not a regular file
    ");
}

#[test]
fn a_damaged_database_is_said_after_some_tries() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    for number in 0..200 {
        calibre.add(&format!("Book {number}"), &["A"], &[]);
    }
    let path = home.path("calibre/metadata.db");
    drop(calibre);
    let mut bytes = fs::read(&path).unwrap();
    let (page, pages) = (4096, bytes.len() / 4096);
    for at in 2..pages {
        bytes[at * page..at * page + 64].fill(0xaa);
    }
    fs::write(&path, &bytes).unwrap();
    let ran = ingest(&home, &["--quiet"]);
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(
        ran.stderr.contains("/calibre/metadata.db: ") && ran.stderr.contains("hint: close Calibre"),
        "{ran:#?}"
    );
    assert!(!home.path("lib.haul").exists());

    // A copy that was torn by a writer is taken again.
    let home = Home::new();
    let calibre = Calibre::new(&home);
    calibre.add("Whole", &["A"], &[("txt", b"The lamp in the north window.")]);
    drop(calibre);
    let path = home.path("calibre/metadata.db");
    let whole = fs::read(&path).unwrap();
    let mut torn = whole.clone();
    torn[4096 * 2..].fill(0);
    fs::write(&path, torn).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(350));
            fs::write(&path, &whole).unwrap();
        });
        let ran = ingest(&home, &[]);
        assert_eq!(ran.code, 0, "{ran:#?}");
    });
}

#[test]
fn a_newer_schema_and_an_empty_library() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    let ran = ingest(&home, &[]);
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(ran.stderr.contains("/calibre (0 books)"), "{ran:#?}");
    calibre.add("Ärger im Büro – 夜", &["Åsa Öberg"], &[("txt", "Die Lampe im Fenster.".as_bytes())]);
    calibre
        .db
        .execute_batch(
            "PRAGMA user_version = 99; ALTER TABLE books ADD COLUMN mood TEXT;
            CREATE TABLE pages (book INTEGER, pages INTEGER);
            CREATE VIRTUAL TABLE page_fts USING fts5(text);",
        )
        .unwrap();
    assert_eq!(ingest(&home, &[]).code, 0);
    assert_eq!(documents(&home)[0].3, "Ärger im Büro – 夜 - Åsa Öberg.txt");
    // A table that is gone is named.
    calibre.db.execute_batch("ALTER TABLE books_tags_link RENAME TO books_labels_link").unwrap();
    let ran = ingest(&home, &[]);
    assert!(ran.code == 2 && ran.stderr.contains("it has no table books_tags_link"), "{ran:#?}");
}

/// The files of a library are its books, by whatever path one gets to them.
#[test]
fn a_single_file_of_a_library_is_its_book() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    let id = calibre.add("Lamp", &["A. Keeper"], &[("txt", b"The lamp in the north window.")]);
    calibre.tag(id, "light");
    calibre.add("Other", &["B"], &[("txt", b"Honey and salt under the bridge.")]);
    let stray = home.write("calibre/A. Keeper/Lamp (1)/notes.txt", "Seven stones in the winter garden.");
    home.write("plain/a.txt", "Bread and paper in the morning.");
    let list = format!(
        "# mine\n{}\n\n{}\nplain/a.txt\nplain/none.txt\n",
        calibre.file(id).display(),
        stray.display()
    );
    let ran = home.run_with(
        &["ingest", "--files-from", "-", "--store", "lib.haul", "--model", "tiny", "--json"],
        &list,
    );
    let receipt = ran.json();
    assert_eq!((ran.code, &receipt["items"]["by_verdict"]), (1, &json!({"failed": 1, "ok": 3})), "{ran:#?}");
    assert!(receipt["failures"][0]["item"].as_str().unwrap().ends_with("plain/none.txt"));
    let sources: Vec<String> = documents(&home).into_iter().map(|(source, ..)| source).collect();
    assert_eq!(sources, ["calibre 1", "local ", "local "]);
    let (receipt, _) = home.ingest(&["calibre"]);
    assert_eq!(receipt["items"]["reused"], 1, "{receipt:#}");
    // The stray is no book of Calibre's and is still there: not gone.
    assert_eq!(receipt["items"]["gone"], Value::Null);
    assert_eq!(home.json(&["store", "info", "--store", "lib.haul"])["documents"], 4);

    home.write("empty.txt", "# nothing\n\n");
    assert_ran!(home, home.run(&["ingest", "--files-from", "empty.txt", "--store", "lib.haul"]), @r#"
    exit 2
    --- stdout
    --- stderr
    device: [CPU]
    haul: there are no paths in empty.txt

    hint: one path a line; lines that begin with # are left out
    "#);
}

/// A Calibre library below a plain folder is what it is when it is named too.
#[test]
fn a_library_below_a_plain_folder_is_listed_once() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    calibre.add("Lamp", &["A"], &[("txt", b"The lamp in the north window.")]);
    home.write("in/b.txt", "Honey and salt under the bridge.");
    fs::rename(home.path("calibre"), home.path("in/calibre")).unwrap();
    let (receipt, code) = home.ingest(&["in", "in/calibre", "in/calibre/A/Lamp (1)/Lamp - A.txt"]);
    assert_eq!((code, &receipt["items"]["total"]), (0, &json!(2)));
    // Another collection would take the book away from this one.
    let (receipt, code) = home.ingest(&["in/calibre", "--collection", "second"]);
    assert_eq!(code, 1);
    let why = receipt["failures"][0]["why"].as_str().unwrap();
    assert!(why.contains("the collection default has this book"), "{why}");
    home.assert_sound();
}

#[test]
fn copies_of_prefetched_files_are_gone_after_the_run() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    for number in 0..20 {
        calibre.add(&format!("Book {number}"), &["A"], &[("txt", Random(number).sentences(9).as_bytes())]);
    }
    home.write("lib.haul.run/prefetch/left-by-a-killed-run.txt", "old");
    home.ingest(&["calibre", "--prefetch", "always"]);
    let left = home.path("lib.haul.run/prefetch");
    assert_eq!(fs::read_dir(left).unwrap().count(), 0);
    let digest = home.digest();
    assert_eq!(digest_from_scratch(&home), digest);
    // A place that takes no copies ends the run before anything is read, and says what to do.
    home.write("plain/a.txt", "Bread and paper in the morning.");
    fs::remove_dir(home.path("lib.haul.run/prefetch")).unwrap();
    home.write("lib.haul.run/prefetch", "a file in the way");
    let ran = home.run(&["ingest", "plain", "--store", "lib.haul", "--prefetch", "always"]);
    assert!(
        ran.code == 2 && ran.stderr.contains("hint: free some space, or read files where they are"),
        "{ran:#?}"
    );
}

#[test]
fn junk_is_replaced_kept_or_left_out() {
    let home = Home::new();
    let page = |title: &str, text: &str| format!("<!DOCTYPE html><title>{title}</title><p>{text}</p>");
    home.write(
        "in/Dracula - Bram Stoker.html",
        page("Microsoft Word - dracula.doc", "The lamp in the window."),
    );
    home.write("in/good.html", page("A Good Title", "Honey and salt."));
    let (receipt, code) = home.ingest(&["in", "--junk-metadata", "skip"]);
    assert_eq!((code, &receipt["items"]["by_verdict"]), (0, &json!({"skipped": 2})));
    let (receipt, code) = home.ingest(&["in"]);
    assert_eq!((code, &receipt["items"]["by_verdict"]), (0, &json!({"ok": 2})));
    let notes = receipt["notes"].as_array().unwrap();
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0]["says"].as_str().unwrap().contains("\"Dracula\" is taken from the file's name"),
        "{notes:?}"
    );
    let named: Vec<(String, String)> =
        documents(&home).into_iter().map(|(_, title, author, _)| (title, author)).collect();
    assert_eq!(named[0], ("Dracula".to_owned(), "Bram Stoker".to_owned()));
    assert_eq!(named[1], ("A Good Title".to_owned(), String::new()));
    // A file that is there and left out once counted as gone, and was pruned.
    home.write("in/good.html", page("A Good Title", "Honey, salt and bread."));
    let (receipt, code) = home.ingest(&["in", "--junk-metadata", "skip", "--prune"]);
    assert_eq!((code, &receipt["items"].get("pruned")), (0, &None), "{receipt:#}");
    assert_eq!(documents(&home).len(), 2);
}

#[test]
fn documents_that_are_called_otherwise_are_listed() {
    let home = Home::new();
    let calibre = Calibre::new(&home);
    for (number, title) in (1..).zip(["Lamp", "Bread", "Salt"]) {
        calibre.add(title, &["A. Keeper"], &[("txt", Random(number).sentences(4).as_bytes())]);
    }
    home.ingest(&["calibre"]);
    let list = ["store", "mismatched", "--store", "lib.haul", "--calibre", "calibre"];
    assert_ran!(home, home.run(&list), @r#"
    exit 0
    --- stdout
    0 of 3 documents are called otherwise in Calibre; 0 have no book there
    --- stderr
    "#);
    calibre.rename(
        1,
        "The Lamp of the North Window, and What the Keeper Saw There in Winter",
        &["A. Keeper"],
    );
    calibre.author(2, &["Baker, B.", "Miller"]);
    calibre.remove(3);
    assert_ran!(home, home.run(&list), @r#"
    exit 1
    --- stdout
    2 of 2 documents are called otherwise in Calibre; 1 have no book there

    book 1
      title    library  Lamp
               Calibre  The Lamp of the North Window, and What the Keeper Saw There
                        in Winter

    book 2
      authors  library  A. Keeper
               Calibre  Baker, B. & Miller

    in the library, and no more in Calibre:
      Salt (was book 3)

    take over Calibre's words, without embedding anything again:
      haul ingest "[HOME]/calibre" --store lib.haul

    remove what is gone:
      haul ingest "[HOME]/calibre" --store lib.haul --prune
    --- stderr
    "#);
    let found = home.run(&[&list[..], &["--json"]].concat()).json();
    assert_eq!((&found["compared"], found["mismatched"].as_array().map(Vec::len)), (&json!(2), Some(2)));
    assert_eq!(found["gone"][0]["title"], "Salt");
    home.ingest(&["calibre", "--prune"]);
    assert_eq!(home.run(&list).code, 0);
    let ran = home.run(&["store", "mismatched", "--store", "lib.haul", "--calibre", "."]);
    assert!(ran.code == 2 && ran.stderr.contains("there is no metadata.db in it"), "{ran:#?}");

    // What was taken in as plain files is found by its path.
    let plain = Home::new();
    fs::rename(home.path("calibre"), plain.path("calibre")).unwrap();
    fs::remove_file(plain.path("calibre/A. Keeper/Bread (2)/Bread - A. Keeper.txt")).unwrap();
    plain.ingest(&["calibre", "--plain-folders"]);
    let found = plain.run(&[&list[..], &["--json"]].concat()).json();
    assert_eq!((&found["compared"], &found["gone"]), (&json!(1), &json!([])), "{found:#}");
}
