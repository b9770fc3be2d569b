//! A library made again with other settings.

use std::fs;

use serde_json::json;

use crate::fixtures::{Home, text, write_corpus};

fn library() -> Home {
    let home = Home::new();
    write_corpus(&home.path("books"), 3, 8);
    home.ingest(&[text(&home.path("books"))]);
    home
}

/// The new library is that of an ingest from nothing; the old one's vectors are not in it.
#[test]
fn a_library_is_made_again_with_other_settings() {
    let home = library();
    let books = home.path("books");
    let before = home.digest();
    let refused =
        home.run(&["ingest", text(&books), "--store", "lib.haul", "--model", "tiny", "--dim", "16"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("--reembed"), "{}", refused.stderr);
    home.ingest(&[text(&books), "--dim", "16", "--reembed"]);
    let fresh = ["ingest", text(&books), "--store", "fresh.haul", "--model", "tiny", "--dim", "16"];
    home.ok(&fresh);
    let wanted = home.json(&["store", "info", "--store", "fresh.haul"]);
    let info = home.json(&["store", "info", "--store", "lib.haul"]);
    assert_eq!((&info["digest"], &info["settings"]["dim"]), (&wanted["digest"], &json!(16)));
    assert_ne!(info["digest"].as_str(), Some(before.as_str()));
    home.assert_sound();
    let left: Vec<_> = fs::read_dir(home.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("reembed"))
        .collect();
    assert_eq!(left, [""; 0]);
    let again = home.ingest(&[text(&books)]).0;
    assert_eq!(again["work"]["tokens"], 0);
}

/// A folder that is not named now must not take its documents away.
#[test]
fn documents_that_were_not_read_again_are_not_lost() {
    let home = library();
    home.write("more/other.txt", "A text from another folder.");
    home.ingest(&[text(&home.path("more"))]);
    let before = home.digest();
    let books = home.path("books");
    let more = home.path("more");
    let args = ["ingest", text(&books), "--store", "lib.haul", "--model", "tiny", "--dim", "16", "--reembed"];
    let refused = home.run(&args);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("1 of its documents are not among what was read now"),
        "{}",
        refused.stderr
    );
    assert_eq!(home.digest(), before);
    home.ok(&[&args[..], &[text(&more)]].concat());
    assert_eq!(home.json(&["store", "info", "--store", "lib.haul"])["settings"]["dim"], 16);
}

/// The new file was renamed over a library whose log a reader kept from being emptied. SQLite took that log for the new
/// library's, and nothing could be read any more.
#[test]
fn a_library_that_somebody_reads_is_not_replaced() {
    let home = library();
    let books = home.path("books");
    let reader = rusqlite::Connection::open(home.path("lib.haul")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM chunks;").unwrap();
    home.write("books/new.txt", "A text that came while somebody read.");
    home.ingest(&[text(&books)]);
    let before = home.digest();
    assert!(fs::metadata(home.path("lib.haul-wal")).unwrap().len() > 0, "the reader keeps the log");
    let args = ["ingest", text(&books), "--store", "lib.haul", "--model", "tiny", "--dim", "16", "--reembed"];
    for state in ["in a transaction", "open"] {
        let refused = home.run(&args);
        assert_eq!(refused.code, 2, "{state}: {refused:#?}");
        assert!(refused.stderr.contains("somebody has it open"), "{state}: {}", refused.stderr);
        assert_eq!(home.digest(), before, "{state}");
        home.assert_sound();
        if !reader.is_autocommit() {
            reader.execute_batch("COMMIT").unwrap();
        }
    }
    drop(reader);
    let ran = home.ok(&args);
    assert!(ran.stderr.contains("is made with the new settings now"), "{}", ran.stderr);
    assert_eq!(home.json(&["store", "info", "--store", "lib.haul"])["settings"]["dim"], 16);
    home.assert_sound();
}

/// A run was killed, its library removed by hand, and a new one begun under the name: the log that was left brought the
/// rows of the old one into it.
#[test]
fn a_new_library_does_not_take_the_log_of_one_that_is_gone() {
    let home = library();
    let reader = rusqlite::Connection::open(home.path("lib.haul")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM chunks;").unwrap();
    home.write("books/new.txt", "A text whose rows are in the log.");
    home.ingest(&[text(&home.path("books"))]);
    fs::copy(home.path("lib.haul-wal"), home.path("gone.haul-wal")).unwrap();
    home.write("other/one.txt", "The only text of the new library.");
    let other = home.path("other");
    let args = ["ingest", text(&other), "--store", "gone.haul", "--model", "tiny"];
    let refused = home.run(&args);
    assert_eq!(refused.code, 2, "{refused:#?}");
    assert!(
        refused.stderr.contains("gone.haul-wal: the log of a library that was here"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("-wal and -shm"), "{}", refused.stderr);
    fs::remove_file(home.path("gone.haul-wal")).unwrap();
    // An empty one is of nothing.
    home.write("gone.haul-wal", "");
    home.ok(&args);
    assert_eq!(home.json(&["store", "info", "--store", "gone.haul"])["documents"], 1);
}
