//! Files to a library: what is computed, what is reused, what is said about it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fixtures::{Home, Live, Random, assert_ran, copy_tree, samples, write_corpus};

fn home_with_samples() -> Home {
    let home = Home::new();
    copy_tree(&samples().join("library"), &home.path("books"));
    home
}

fn count(receipt: &Value, pointer: &str) -> u64 {
    receipt.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {receipt:#}"))
}

fn tokens(receipt: &Value) -> u64 {
    count(receipt, "/work/tokens")
}

/// Tokens that a library of its own needs for these files.
fn tokens_alone(home: &Home, paths: &[&str]) -> u64 {
    let mut args = vec!["ingest"];
    args.extend(paths);
    args.extend(["--store", "alone.haul", "--model", "tiny"]);
    let tokens = tokens(&home.json(&args));
    for left in ["alone.haul", "alone.haul-wal", "alone.haul-shm"] {
        // SQLite may have removed the last two itself.
        fs::remove_file(home.path(left))
            .or_else(|error| home.path(left).try_exists().map(|there| assert!(!there, "{error}")))
            .unwrap();
    }
    tokens
}

/// The digest of a library made in one go from the files as they are now.
fn digest_from_scratch(home: &Home, folder: &str) -> String {
    let fresh = Home::new();
    copy_tree(&home.path(folder), &fresh.path(folder));
    fresh.ingest(&[folder]);
    fresh.digest()
}

/// All keys of a document, with `*` for the elements of a list and for names that are data.
fn keys(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    const DATA: [&str; 4] = ["/settings", "/items/by_verdict", "/rate/roof_gflops", "/device/witnesses/*"];
    match value {
        Value::Object(fields) if !DATA.contains(&at) => {
            for (name, field) in fields {
                keys(field, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            elements.iter().for_each(|element| keys(element, &format!("{at}/*"), found));
        }
        _ => {
            found.insert(at.to_owned());
        }
    }
}

const RECEIPT_KEYS: &[&str] = &[
    "/schema",
    "/job",
    "/version",
    "/host",
    "/state",
    "/started",
    "/finished",
    "/seconds",
    "/settings",
    "/device/requested",
    "/device/used",
    "/device/name",
    "/device/isa",
    "/device/verdict",
    "/device/witnesses/*",
    "/device/fallback_from",
    "/model/id",
    "/model/sha256",
    "/model/dtype",
    "/model/pooling",
    "/model/dim",
    "/model/max_tokens",
    "/model/loads",
    "/items/total",
    "/items/ok",
    "/items/by_verdict",
    "/items/reused",
    "/work/tokens",
    "/work/flops",
    "/work/bytes_read",
    "/calls",
    "/rate/items_per_s",
    "/rate/unit",
    "/rate/tokens_per_s",
    "/rate/gflops",
    "/rate/roof_gflops",
    "/rate/percent_of_roof",
    "/stages/*/name",
    "/stages/*/threads",
    "/stages/*/busy_s",
    "/stages/*/starved_s",
    "/stages/*/blocked_s",
    "/stages/*/items",
    "/quality",
    "/truncated/items",
    "/truncated/tokens",
    "/cache/hits",
    "/cache/misses",
    "/memory/peak_rss",
    "/memory/device_peak",
    "/forecast",
    "/failures/*/item",
    "/failures/*/verdict",
    "/failures/*/why",
];

#[test]
fn the_receipt_is_whole_and_adds_up() {
    let home = home_with_samples();
    home.write("books/broken.epub", "words");
    home.write("books/empty.txt", "");
    let (receipt, code) = home.ingest(&["books", "--receipt", "receipt.json", "--threads", "2"]);
    assert_eq!(code, 1);
    let written: Value = serde_json::from_slice(&fs::read(home.path("receipt.json")).unwrap()).unwrap();
    assert_eq!(written, receipt);

    let mut found = BTreeSet::new();
    keys(&receipt, "", &mut found);
    assert_eq!(found, RECEIPT_KEYS.iter().map(|&key| key.to_owned()).collect());
    assert_eq!(
        (&receipt["schema"], &receipt["job"], &receipt["state"]),
        (&json!("haul.receipt/1"), &json!("ingest"), &json!("finished"))
    );

    assert_eq!(
        receipt["items"],
        json!({"total": 13, "ok": 11, "by_verdict": {"corrupt": 1, "empty": 1, "ok": 11}, "reused": 0})
    );
    let failures: Vec<&Value> =
        receipt["failures"].as_array().unwrap().iter().map(|failure| &failure["verdict"]).collect();
    assert_eq!(failures, ["corrupt", "empty"]);
    let bytes: u64 =
        fs::read_dir(home.path("books")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(count(&receipt, "/work/bytes_read"), bytes);

    let seconds = receipt["seconds"].as_f64().unwrap();
    for stage in receipt["stages"].as_array().unwrap() {
        let part = |name: &str| stage[name].as_f64().unwrap();
        let (sum, wall) = (part("busy_s") + part("starved_s") + part("blocked_s"), part("threads") * seconds);
        assert!((sum - wall).abs() <= 0.02 * wall, "{stage} sums to {sum} s of {wall} s");
    }
    let stages: Vec<&Value> =
        receipt["stages"].as_array().unwrap().iter().map(|stage| &stage["name"]).collect();
    assert_eq!(stages, ["list", "parse", "chunk", "embed", "commit"]);

    let info = home.json(&["store", "info", "--store", "lib.haul"]);
    assert_eq!(info["by_verdict"], receipt["items"]["by_verdict"]);
    assert_eq!(receipt["settings"]["library"], info["settings"]);
    assert_eq!(receipt["settings"]["paths"], json!(["books"]));
    let rate = |name: &str| receipt["rate"][name].as_f64().unwrap();
    assert!((rate("items_per_s") * seconds - info["chunks"].as_f64().unwrap()).abs() < 0.5);
    assert!((rate("tokens_per_s") * seconds - tokens(&receipt) as f64).abs() < 0.5);
    assert!(rate("gflops") > 0.0 && rate("percent_of_roof") > 0.0);
    home.assert_sound();
}

#[test]
fn a_second_run_does_nothing() {
    let home = home_with_samples();
    let (first, code) = home.ingest(&["books"]);
    assert_eq!((code, count(&first, "/model/loads"), count(&first, "/items/reused")), (0, 1, 0));
    let before = home.digest();
    let (second, code) = home.ingest(&["books"]);
    assert_eq!(
        (code, tokens(&second), count(&second, "/model/loads"), count(&second, "/work/bytes_read")),
        (0, 0, 0, 0)
    );
    assert_eq!(second["items"], json!({"total": 11, "ok": 11, "by_verdict": {"ok": 11}, "reused": 11}));
    assert_eq!(home.digest(), before);
}

/// Threads and batches are how the work is done, never what comes out.
#[test]
fn threads_and_batches_do_not_change_the_digest() {
    let home = home_with_samples();
    home.ingest(&["books"]);
    let digest = home.digest();
    for flags in [["--threads", "1", "--batch-tokens", "1"], ["--threads", "5", "--batch-tokens", "100000"]] {
        let other = Home::new();
        copy_tree(&home.path("books"), &other.path("books"));
        other.ingest(&[&["books"][..], &flags].concat());
        assert_eq!(other.digest(), digest, "{flags:?}");
    }
}

#[test]
fn a_changed_book_is_replaced_and_alone_computed() {
    let home = home_with_samples();
    home.ingest(&["books"]);
    home.write(
        "books/ellermere-canal.txt",
        "The canal is dry. Nobody remembers the barge, and the lock keeper sells bread.",
    );
    let (receipt, _) = home.ingest(&["books"]);
    assert_eq!((count(&receipt, "/items/total"), count(&receipt, "/items/reused")), (11, 10));
    assert_eq!(tokens(&receipt), tokens_alone(&home, &["books/ellermere-canal.txt"]));
    assert_eq!(home.digest(), digest_from_scratch(&home, "books"));
    home.assert_sound();
}

/// A book that is broken by its next save is not lost: its last good text still answers, and the run says so.
#[test]
fn a_book_that_breaks_keeps_its_last_good_text() {
    let home = home_with_samples();
    home.ingest(&["books"]);
    let before = home.digest();
    let whole = fs::read(home.path("books/the-slow-loaf.epub")).unwrap();
    home.write("books/the-slow-loaf.epub", &whole[..whole.len() / 2]);
    let (receipt, code) = home.ingest(&["books"]);
    assert_eq!((code, &receipt["failures"][0]["verdict"]), (1, &json!("corrupt")));
    let info = home.json(&["store", "info", "--store", "lib.haul"]);
    assert_eq!((&info["stale_documents"], &info["digest"]), (&json!(1), &json!(before)));
    home.write("books/the-slow-loaf.epub", whole);
    let (receipt, code) = home.ingest(&["books"]);
    assert_eq!((code, tokens(&receipt)), (0, 0), "the texts are known: {receipt:#}");
    let info = home.json(&["store", "info", "--store", "lib.haul"]);
    assert_eq!((&info["stale_documents"], &info["digest"]), (&json!(0), &json!(before)));
}

#[test]
fn a_new_time_on_an_old_file_is_no_work() {
    let home = home_with_samples();
    home.ingest(&["books"]);
    let before = home.digest();
    let file = File::options().write(true).open(home.path("books/korvin-three-speed.md")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
    let (receipt, _) = home.ingest(&["books"]);
    assert_eq!(
        (tokens(&receipt), count(&receipt, "/items/reused"), count(&receipt, "/model/loads")),
        (0, 11, 0)
    );
    assert!(count(&receipt, "/work/bytes_read") > 0, "the file was hashed");
    let (receipt, _) = home.ingest(&["books"]);
    assert_eq!(count(&receipt, "/work/bytes_read"), 0, "its new time is remembered");
    assert_eq!(home.digest(), before);
}

#[test]
fn a_renamed_file_is_a_new_document_with_known_texts() {
    let home = home_with_samples();
    home.ingest(&["books"]);
    fs::rename(home.path("books/ellermere-canal.txt"), home.path("books/canal.txt")).unwrap();
    let (receipt, code) = home.ingest(&["books", "--prune"]);
    assert_eq!((code, tokens(&receipt), count(&receipt, "/items/reused")), (0, 0, 10));
    assert_eq!(home.digest(), digest_from_scratch(&home, "books"));
    home.assert_sound();
}

#[test]
fn a_removed_file_is_reported_and_kept_until_pruned() {
    let home = Home::new();
    home.write("books/a.txt", "The lamp in the north window.");
    home.write("books/b.txt", "Honey and salt under the bridge.");
    home.ingest(&["books"]);
    fs::remove_file(home.path("books/b.txt")).unwrap();
    let both = home.digest();
    let ran = home.ok(&["ingest", "books", "--store", "lib.haul"]);
    assert!(
        ran.stdout.contains("files gone, documents kept (--prune removes them):\n")
            && ran.stdout.contains("/books/b.txt\n"),
        "{ran:#?}"
    );
    assert_eq!(home.digest(), both);
    let gone = &home.ingest(&["books"]).0["items"]["gone"];
    assert_eq!(gone.as_array().map(Vec::len), Some(1), "{gone}");
    let ran = home.ok(&["ingest", "books", "--store", "lib.haul", "--prune"]);
    assert!(
        ran.stdout.contains("files gone, documents removed:\n") && ran.stdout.contains("/books/b.txt\n"),
        "{ran:#?}"
    );
    assert_eq!(home.digest(), digest_from_scratch(&home, "books"));
    home.assert_sound();
}

/// Other folders of the library are none of this run's business, and an unplugged disk is not an empty one.
#[test]
fn pruning_keeps_what_was_not_listed() {
    let home = Home::new();
    home.write("one/a.txt", "The lamp in the north window.");
    home.write("two/b.txt", "Honey and salt under the bridge.");
    home.ingest(&["one", "two"]);
    let before = home.digest();
    home.ok(&["ingest", "one", "--store", "lib.haul", "--prune"]);
    assert_eq!(home.digest(), before);
    fs::rename(home.path("two"), home.path("unplugged")).unwrap();
    assert_eq!(home.run(&["ingest", "one", "two", "--store", "lib.haul", "--prune"]).code, 2);
    assert_eq!(home.digest(), before);
}

#[test]
fn the_same_text_is_embedded_once() {
    let home = Home::new();
    let text = Random(1).sentences(30);
    home.write("books/a.txt", &text);
    let alone = tokens_alone(&home, &["books"]);
    home.write("books/b.txt", &text);
    home.write("books/c/d.txt", &text);
    let (receipt, _) = home.ingest(&["books"]);
    assert_eq!((count(&receipt, "/items/ok"), tokens(&receipt)), (3, alone));
    let info = home.json(&["store", "info", "--store", "lib.haul"]);
    assert_eq!(count(&info, "/chunks"), 3 * count(&info, "/vectors"));
}

/// Ids are made of the path below the root, so one of two would overwrite the other: it is refused by name.
#[test]
fn the_same_path_below_two_roots() {
    let home = Home::new();
    home.write("one/a.txt", "The lamp in the north window.");
    home.write("two/a.txt", "Honey and salt under the bridge.");
    let (receipt, code) = home.ingest(&["one", "two"]);
    assert_eq!((code, count(&receipt, "/items/ok")), (1, 1));
    let failure = &receipt["failures"][0];
    assert_eq!(failure["verdict"], "failed");
    assert!(failure["item"].as_str().unwrap().ends_with("two/a.txt"), "{failure}");
    assert!(
        failure["why"].as_str().unwrap().contains("one/a.txt has the same path below its own root"),
        "{failure}"
    );
    let (receipt, code) = home.ingest(&["two", "--collection", "second"]);
    assert_eq!((code, count(&receipt, "/items/ok")), (0, 1));
    assert_eq!(count(&home.json(&["store", "info", "--store", "lib.haul"]), "/documents"), 2);
}

#[test]
fn paths_that_overlap_are_read_once() {
    let home = Home::new();
    home.write("books/a.txt", "The lamp in the north window.");
    home.write("books/deep/b.txt", "Honey and salt under the bridge.");
    symlink("deep", home.path("books/again")).unwrap();
    let (receipt, code) = home.ingest(&["books", "books/deep", "books/a.txt", "./books"]);
    assert_eq!((code, count(&receipt, "/items/total")), (0, 2));
    assert_eq!(home.digest(), digest_from_scratch(&home, "books"));
}

#[test]
fn lines_of_a_jsonl_live_their_own_lives() {
    let home = Home::new();
    let line = |id: &str, text: &str| json!({"id": id, "title": "T", "text": text}).to_string();
    let [a, b, c] = ["The lamp in the north window.", "Honey and salt.", "Nobody mended the wheel."];
    home.write("books/n.jsonl", [line("a", a), line("b", b), line("c", c)].join("\n"));
    home.ingest(&["books"]);

    // Moved and with a blank line between: nothing is new.
    home.write("books/n.jsonl", [line("c", c), String::new(), line("a", a), line("b", b)].join("\n"));
    let (receipt, _) = home.ingest(&["books"]);
    assert_eq!((tokens(&receipt), count(&receipt, "/items/reused")), (0, 3));

    // One changed, one new, one gone.
    let (changed, new) = ("The lamp was carried to the garden.", "Seven kettles.");
    home.write("books/n.jsonl", [line("a", changed), line("b", b), line("d", new)].join("\n"));
    home.write("only.jsonl", [line("a", changed), line("d", new)].join("\n"));
    let (receipt, _) = home.ingest(&["books"]);
    assert_eq!(tokens(&receipt), tokens_alone(&home, &["only.jsonl"]));
    assert_eq!((count(&receipt, "/items/total"), count(&receipt, "/items/reused")), (3, 1));
    let ran = home.ok(&["ingest", "books", "--store", "lib.haul", "--prune"]);
    assert!(ran.stdout.contains("/books/n.jsonl#c\n"), "{ran:#?}");
    assert_eq!(home.digest(), digest_from_scratch(&home, "books"));

    // A line that breaks is one failed document.
    home.write("books/n.jsonl", [line("a", changed), "{\"id\": \"b\"".to_owned(), line("d", new)].join("\n"));
    let (receipt, code) = home.ingest(&["books"]);
    assert_eq!((code, &receipt["items"]["by_verdict"]), (1, &json!({"corrupt": 1, "ok": 2})));
    assert!(receipt["failures"][0]["why"].as_str().unwrap().starts_with("line 2: "), "{receipt:#}");
    home.assert_sound();
}

#[test]
fn one_writer_at_a_time() {
    let home = Home::new();
    write_corpus(&home.path("books"), 3, 40);
    let mut first = Live::start(
        home.haul(&["ingest", "books", "--store", "lib.haul", "--model", "tiny"]).stdout(Stdio::null()),
    );
    assert!(first.wait_for("begin"));
    first.signal(Signal::STOP);
    let second = home.run(&["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--quiet"]);
    let info = home.run(&["store", "info", "--store", "lib.haul"]);
    first.signal(Signal::CONT);
    let first = first.finish();
    assert_ran!(home, second, @r#"
    exit 2
    --- stdout
    --- stderr
    haul: [HOME]/lib.haul: another process is writing to this library: pid [PID]

    hint: wait for it to finish; searching is possible meanwhile
    "#);
    assert_eq!(info.code, 0, "readers go on: {info:#?}");
    assert_eq!(first.code, 0, "{first:#?}");
    home.assert_sound();
}

/// Files that the system does not let us read, in ways that stop even an administrator.
#[test]
fn unreadable_files_are_named() {
    let home = Home::new();
    home.write("books/good.txt", "The lamp in the north window.");
    symlink("nowhere", home.path("books/dangling.txt")).unwrap();
    symlink("loop.txt", home.path("books/loop.txt")).unwrap();
    symlink("/proc/self/mem", home.path("books/memory.txt")).unwrap();
    let (receipt, code) = home.ingest(&["books"]);
    assert_eq!((code, &receipt["items"]["by_verdict"]), (1, &json!({"failed": 3, "ok": 1})), "{receipt:#}");
    for failure in receipt["failures"].as_array().unwrap() {
        assert!(failure["why"].as_str().unwrap().contains("os error"), "{failure}");
    }
}

#[test]
fn a_folder_without_files_is_an_error_with_a_hint() {
    let home = Home::new();
    fs::create_dir_all(home.path("books/empty")).unwrap();
    assert_ran!(home, home.run(&["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--quiet"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: no files under [HOME]/books

    hint: give files, or a folder that holds EPUB, PDF, DOCX, HTML, Markdown, text or JSONL files
    "#);
    assert!(!home.path("lib.haul").exists(), "no library is made for nothing");
    home.write("books/.hidden.txt", "Hidden.");
    home.write("more/a.txt", "The lamp in the north window.");
    home.ingest(&["more"]);
    let ran = home.run(&["ingest", "books", "--store", "lib.haul"]);
    assert!(ran.code == 2 && ran.stderr.contains("; 1 hidden are left out"), "{ran:#?}");

    // A folder whose files are gone is not a folder without files.
    fs::remove_file(home.path("more/a.txt")).unwrap();
    let ran = home.ok(&["ingest", "more", "--store", "lib.haul"]);
    assert!(ran.stdout.contains("files gone, documents kept"), "{ran:#?}");
    // It looks like a share that is not mounted, though.
    let refused = home.run(&["ingest", "more", "--store", "lib.haul", "--prune"]);
    assert!(refused.code == 1 && refused.stderr.contains("--prune-all"), "{refused:#?}");
    home.ok(&["ingest", "more", "--store", "lib.haul", "--prune-all"]);
    assert_eq!(count(&home.json(&["store", "info", "--store", "lib.haul"]), "/documents"), 0);
}

/// `cd books; haul ingest . --store books.haul`: the library and what stands beside it are not its own input.
#[test]
fn a_library_among_its_input() {
    let home = Home::new();
    home.write("books/a.txt", "The lamp in the north window.");
    for reused in [0, 1] {
        let ran = home.json(&["ingest", "books", "--store", "books/books.haul", "--model", "tiny"]);
        assert_eq!(ran["items"], json!({"total": 1, "ok": 1, "by_verdict": {"ok": 1}, "reused": reused}));
        home.ok(&["search", "lamp", "--store", "books/books.haul"]);
    }
}

#[test]
fn whole_documents_are_cut_at_the_limit_and_reported() {
    let home = Home::new();
    home.write("books/long.txt", Random(2).sentences(50));
    home.write("books/short.txt", "Salt.");
    let (receipt, code) = home.ingest(&["books", "--chunker", "whole", "--max-tokens", "20"]);
    let cut = count(&receipt, "/truncated/tokens");
    assert_eq!((code, count(&receipt, "/truncated/items")), (0, 1));
    assert_eq!(count(&home.json(&["store", "info", "--store", "lib.haul"]), "/chunks"), 2);
    // The same text with one token more of room loses one token less.
    let receipt = home.json(&[
        "ingest",
        "books",
        "--store",
        "b.haul",
        "--model",
        "tiny",
        "--chunker",
        "whole",
        "--max-tokens",
        "21",
    ]);
    assert_eq!(count(&receipt, "/truncated/tokens"), cut - 1);
    let summary = home.ok(&[
        "ingest",
        "books",
        "--store",
        "c.haul",
        "--model",
        "tiny",
        "--chunker",
        "whole",
        "--max-tokens",
        "20",
    ]);
    let says =
        format!("1 texts were longer than the model takes and lost {},{:03} tokens", cut / 1000, cut % 1000);
    assert!(summary.stdout.contains(&says), "{says}: {summary:#?}");
}

/// Ctrl-C, a lost terminal and a polite kill: 130, a receipt that says so, and a rerun that ends where an
/// uninterrupted run does.
#[test]
fn signals_interrupt_and_a_rerun_finishes() {
    let whole = Home::new();
    write_corpus(&whole.path("books"), 5, 120);
    whole.ingest(&["books"]);
    let digest = whole.digest();
    for (signal, mark) in [
        (Signal::INT, "stage=\"embed\""),
        (Signal::HUP, "stage=\"parse\""),
        (Signal::TERM, "stage=\"chunk\""),
    ] {
        let home = Home::new();
        let books = whole.path("books");
        let books = books.to_str().unwrap();
        let mut command = home.haul(&["ingest", books, "--store", "lib.haul", "--model", "tiny", "--json"]);
        let mut live = Live::start(command.stdout(Stdio::piped()));
        assert!(live.wait_for(mark), "{signal:?} came too late");
        live.signal(signal);
        let ran = live.finish();
        assert_eq!(ran.code, 130, "{signal:?}: {ran:#?}");
        let receipt = ran.json();
        assert_eq!(receipt["state"], "interrupted");
        assert_eq!(progress(&home)["state"], "interrupted");
        home.assert_sound();
        let (again, code) = home.ingest(&[books]);
        assert_eq!((code, home.digest()), (0, digest.clone()), "{signal:?}: {again:#}");
        assert!(count(&again, "/items/reused") >= count(&receipt, "/items/ok"), "{signal:?}");
    }
}

fn progress(home: &Home) -> Value {
    serde_json::from_slice(&fs::read(home.path("lib.haul.run/progress.json")).unwrap()).unwrap()
}

/// Whoever watches `progress.json` never reads half of it.
#[test]
fn progress_is_valid_json_at_all_times() {
    let home = Home::new();
    write_corpus(&home.path("books"), 7, 120);
    let mut child = home
        .haul(&["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--quiet"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let file = home.path("lib.haul.run/progress.json");
    let mut states = BTreeSet::new();
    while child.try_wait().unwrap().is_none() {
        states.extend(read_state(&file));
    }
    states.extend(read_state(&file));
    assert_eq!(states.into_iter().collect::<Vec<_>>(), ["finished", "running"]);
    let last = progress(&home);
    let listed = count(&last, "/items_total");
    assert_eq!((listed, count(&last, "/items_done")), (124, listed));
    assert_eq!(count(&last, "/bytes_total"), count(&last, "/bytes_done"));
    assert!(count(&last, "/tokens") > 0);
}

fn read_state(file: &Path) -> Option<String> {
    let bytes = fs::read(file).ok()?;
    let snapshot: Value = serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}"));
    Some(snapshot["state"].as_str().unwrap().to_owned())
}

/// The cache of parsed text ended a run when it was full, or when two threads parsed equal files at once.
#[test]
fn a_full_cache_ends_no_run() {
    let home = Home::new();
    home.write("haul.toml", "cache_bytes = 20000");
    for n in 0..300 {
        home.write(&format!("books/{n}.html"), format!("<p>{}", n % 100));
    }
    let (receipt, code) = home.ingest(&["books", "--threads", "4"]);
    assert_eq!((code, count(&receipt, "/items/ok")), (0, 300));
    assert!(receipt.pointer("/cache/failures").is_none(), "{}", receipt["cache"]);
}

/// The words of another version were kept under the hash of the first, for good: a file is hashed, then read, and
/// may change in between.
#[test]
fn a_file_that_changes_between_hash_and_parse_poisons_nothing() {
    let home = Home::new();
    for n in 0..8 {
        home.write(&format!("books/a{n}.html"), "<b>".repeat(2_000_000) + "word");
    }
    home.write("books/z.txt", "The old words are of giraffes.");
    let args = ["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--threads", "1", "--json"];
    let mut live = Live::start(home.haul(&args).stdout(Stdio::null()));
    // By the end of the first file all are hashed, and the last is far from being read.
    assert!(live.wait_for("end"), "the run ended before a file was read");
    home.write("books/z.txt", "The brand new words are of walruses.");
    live.finish();
    home.write("books/z.txt", "The old words are of giraffes.");
    home.ingest(&["books"]);
    let hits = home.json(&["search", "giraffes walruses", "--store", "lib.haul", "--mode", "bm25"]);
    let texts: Vec<&str> =
        hits["hits"].as_array().unwrap().iter().filter_map(|hit| hit["text"].as_str()).collect();
    assert_eq!(texts, ["The old words are of giraffes."]);
}

/// A link to nowhere switched the report of removed files off, and with it --prune.
#[test]
fn a_dangling_link_hides_no_removed_file() {
    let home = Home::new();
    home.write("books/a.txt", "The lamp in the north window.");
    home.write("books/b.txt", "Honey and salt under the bridge.");
    home.ingest(&["books"]);
    fs::remove_file(home.path("books/b.txt")).unwrap();
    std::os::unix::fs::symlink("/nowhere", home.path("books/link.txt")).unwrap();
    let (receipt, code) = home.ingest(&["books", "--prune"]);
    assert_eq!((code, receipt["items"]["pruned"].as_array().map(Vec::len)), (1, Some(1)));
}

/// A book without half of its pages was plain `ok`; what a reader leaves out or guesses is said for each input.
#[test]
fn what_was_lost_in_an_input_that_is_ok_is_said() {
    let home = Home::new();
    home.write("books/old.txt", b"caf\xe9 and cr\xe8me in the north window");
    let (receipt, code) = home.ingest(&["books"]);
    assert_eq!(code, 0);
    let says = receipt["notes"][0]["says"].as_str().unwrap();
    assert!(says.contains("windows-1252"), "{says}");
}

/// A path that is not UTF-8 ended the run in a panic after all work was done.
#[test]
fn a_folder_whose_name_is_not_utf8_is_a_verdict() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let folder = home.path(std::ffi::OsStr::from_bytes(b"nu\xff"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.txt"), "The lamp in the north window.").unwrap();
    let mut command = home.haul(&["ingest", "--store", "lib.haul", "--model", "tiny", "--json"]);
    let ran = crate::fixtures::ran(command.arg(&folder), b"");
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert_eq!(ran.json()["failures"][0]["verdict"], "unsupported");
}

#[test]
fn a_receipt_that_cannot_be_written_is_said_before_the_work() {
    let home = Home::new();
    home.write("books/a.txt", "The lamp in the north window.");
    let args = ["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--receipt", "nowhere/r.json"];
    assert_eq!(home.run(&args).code, 2);
    assert!(!home.path("lib.haul").exists());
}

/// With its library in the folder, a `--reembed` took the list of failures for a book and every other file of Haul's own
/// for an input that failed; so did a run into a second library there.
#[test]
fn files_of_other_libraries_are_no_input() {
    let home = Home::new();
    home.write("books/a.txt", "The lamp in the north window.");
    home.write("books/torn.epub", "no zip");
    let ingest = |store: &str, flags: &[&str]| {
        let ran =
            home.run(&[&["ingest", "books", "--model", "tiny", "--json", "--store", store], flags].concat());
        assert_eq!(ran.code, 1, "{ran:#?}");
        ran.json()["items"]["by_verdict"].clone()
    };
    let alone = json!({"corrupt": 1, "ok": 1});
    assert_eq!(ingest("books/a.haul", &[]), alone);
    home.ok(&["search", "lamp", "--store", "books/a.haul"]);
    assert_eq!(ingest("books/b.haul", &[]), alone);
    assert_eq!(ingest("books/a.haul", &["--dim", "16", "--reembed"]), alone);
    assert_eq!(ingest("c.db", &[]), alone);
    // What others call so is an input.
    home.write("books/words.haul", "words");
    home.write("books/words.haul.run/b.txt", "Salt under the bridge.");
    home.write("books/a.haul.txt", "A kettle on the stove.");
    assert_eq!(ingest("books/a.haul", &[]), json!({"corrupt": 1, "ok": 3, "unsupported": 1}));
}

/// A name with a line break was two lines of the list of failures, and one with an escape sequence steered the terminal
/// that showed it.
#[test]
fn a_list_of_failures_holds_names_that_no_line_can() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    for name in [&b"line\nbreak.epub"[..], b"wipe\x1b[2J.epub", b"latin-\xe9.epub", b"plain.epub"] {
        let path = home.path(Path::new("books").join(std::ffi::OsStr::from_bytes(name)));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "no zip").unwrap();
    }
    let ran = home.run(&["ingest", "books", "--store", "lib.haul", "--model", "tiny"]);
    assert!(ran.code == 1 && !ran.stdout.contains('\x1b'), "{ran:#?}");
    let list = fs::read_to_string(home.path("lib.haul.run/failures.txt")).unwrap();
    assert!(list.lines().any(|line| line.starts_with('#') && line.ends_with("/line\\nbreak.epub")), "{list}");
    assert!(
        list.lines().any(|line| line.starts_with('#') && line.ends_with("/wipe\\u{1b}[2J.epub")),
        "{list}"
    );
    let again =
        home.run(&["ingest", "--files-from", "lib.haul.run/failures.txt", "--store", "lib.haul", "--json"]);
    assert_eq!(again.json()["items"]["by_verdict"], json!({"corrupt": 1}));
}
