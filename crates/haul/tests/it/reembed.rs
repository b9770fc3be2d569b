//! A library made again with other settings.

use std::fs;

use serde_json::json;

use crate::fixtures::{Home, small_model, text, write_corpus};

fn library() -> Home {
    let home = Home::new();
    write_corpus(&home.path("books"), 3, 8);
    home.ingest(&[text(&home.path("books"))]);
    home
}

/// Names of what an unfinished `--reembed` has beside libraries.
fn drafts(home: &Home) -> Vec<String> {
    let names = fs::read_dir(home.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).filter(|name| name.contains("reembed")).collect()
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
    assert_eq!(drafts(&home), [""; 0]);
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

/// Another model alone was asked for, and chunker, sections and the number of tokens that somebody had chosen went with
/// the old one, without a word.
#[test]
fn what_no_flag_names_stays_as_it_was() {
    let home = Home::new();
    write_corpus(&home.path("books"), 5, 8);
    small_model(&home.path("small"));
    home.ok(&["model", "add", "small", "--name", "small", "--link"]);
    let settings = || home.json(&["store", "info", "--store", "lib.haul"])["settings"].clone();
    let reembed = |flags: &[&str]| {
        home.json(&[&["ingest", "books", "--store", "lib.haul", "--reembed"], flags].concat());
        settings()
    };
    home.ingest(&["books", "--chunker", "semantic", "--parents", "--semantic-max", "300"]);
    let before = settings();
    let now = reembed(&["--model", "small"]);
    for kept in ["chunker", "chunkers", "dtype"] {
        assert_eq!(now[kept], before[kept], "{kept}: {now:#}");
    }
    assert!(home.json(&["store", "info", "--store", "lib.haul"])["sections"].as_u64() > Some(0));
    // What was the old model's own is the new one's own now.
    let own = |settings: &serde_json::Value| {
        let of = |name: &str| settings[name].clone();
        (of("model_name"), of("max_tokens"), of("chunk_tokens"), of("dim"))
    };
    assert_eq!(own(&now), (json!("small"), json!(24), json!(22), json!(32)));
    // Without a model it is the library's; what was chosen stays, as far as the next model reaches.
    let now = reembed(&["--dim", "16", "--max-tokens", "20"]);
    assert_eq!(own(&now), (json!("small"), json!(20), json!(18), json!(16)));
    let now = reembed(&["--model", "tiny"]);
    assert_eq!(own(&now), (json!("tiny"), json!(20), json!(18), json!(16)));
    home.assert_sound();
}

/// The draft of a `--reembed` that did not come to its end refused any other settings with the hint to type what had been
/// typed; a plain ingest said nothing of it, and a plan left a folder behind.
#[test]
fn an_unfinished_reembed_says_how_to_get_on() {
    let home = library();
    home.write("more/other.txt", "A text from another folder.");
    home.ingest(&["more"]);
    let args = ["ingest", "books", "--store", "lib.haul", "--reembed"];
    home.ok(&[&args[..], &["--plan", "--dim", "16"]].concat());
    assert_eq!(drafts(&home), [""; 0]);
    // It reads one of two folders, so the old library stays.
    assert_eq!(home.run(&[&args[..], &["--dim", "16"]].concat()).code, 2);
    let refused = home.run(&[&args[..], &["--dim", "8"]].concat());
    assert_eq!(refused.code, 2);
    for says in [
        "lib.haul.reembed was made with other settings: dim is 16, asked for 8",
        "hint: repeat the first run's settings to go on with it, or remove ",
        "lib.haul.reembed* ",
    ] {
        assert!(refused.stderr.contains(says), "{refused:#?}");
    }
    let plain = home.ok(&["ingest", "books", "--store", "lib.haul"]);
    assert!(
        plain.stderr.contains("lib.haul.reembed was begun by --reembed and is not finished"),
        "{plain:#?}"
    );
    for name in drafts(&home) {
        let path = home.path(name);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    let ran = home.ok(&[&args[..], &["--dim", "8", "more"]].concat());
    assert!(ran.stdout.contains(" inputs ok in ") && !ran.stdout.contains("reembed"), "{ran:#?}");
}
