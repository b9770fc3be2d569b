//! The chunkers by words and by topic, the policy that chooses among them, and what they show before any is used.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fixtures::{Home, Live, Random, copy_tree, samples, text};

/// Numbers small enough for the samples and the tiny model.
const SEMANTIC: [&str; 8] =
    ["--chunker", "semantic", "--threshold", "0.9", "--semantic-min", "10", "--semantic-max", "60"];

fn home_with_samples() -> Home {
    let home = Home::new();
    copy_tree(&samples().join("library"), &home.path("books"));
    home
}

/// Some books of a few thousand words, no two sentences of which are equal but for chance.
fn home_with_novels(count: u64) -> Home {
    let home = Home::new();
    for number in 0..count {
        let mut random = Random(number);
        let chapters: Vec<String> =
            (0..5).map(|no| format!("# Chapter {no}\n\n{}\n", random.sentences(60 + 20 * no))).collect();
        home.write(&format!("books/novel-{number}.md"), chapters.join("\n"));
    }
    home
}

fn with<'a>(first: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    first.iter().chain(more).copied().collect()
}

#[test]
fn semantic_chunks_do_not_depend_on_threads_or_batches() {
    let mut digests = BTreeSet::new();
    for flags in [["--threads", "1", "--batch-tokens", "48"], ["--threads", "4", "--batch-tokens", "999"]] {
        let home = home_with_samples();
        let args = with(&["books", "--parents"], &[&SEMANTIC[..], &flags].concat());
        let (receipt, code) = home.ingest(&args);
        assert_eq!(code, 0, "{receipt:#}");
        digests.insert(home.digest());
        home.assert_sound();
        let passes: Vec<&Value> = receipt["passes"].as_array().unwrap().iter().collect();
        let [sentences, chunks] = passes.as_slice() else { panic!("{receipt:#}") };
        assert_eq!((&sentences["name"], &chunks["name"]), (&json!("sentences"), &json!("chunks")));
        let tokens = |pass: &Value| pass["tokens"].as_u64().unwrap();
        assert_eq!(tokens(sentences) + tokens(chunks), receipt["work"]["tokens"].as_u64().unwrap());
        assert!(tokens(sentences) > 0 && sentences["computed"].as_u64() <= sentences["texts"].as_u64());
        assert_eq!(receipt["truncated"], json!({"items": 0, "tokens": 0}));
    }
    assert_eq!(digests.len(), 1);
}

#[test]
fn a_library_keeps_its_chunker_and_refuses_another() {
    let home = home_with_samples();
    home.ingest(&with(&["books"], &SEMANTIC));
    let (receipt, _) = home.ingest(&["books"]);
    assert_eq!(receipt["work"]["tokens"], 0, "the flags may be left out");
    let info = home.ok(&["store", "info", "--store", "lib.haul"]).stdout;
    assert!(info.contains("chunker    semantic, below 0.9000, 10 to 60 words\n"), "{info}");
    for (flags, said) in [
        (vec!["--chunker", "fixed"], "fixed_words is not set, asked for 500"),
        (vec!["--threshold", "0.55"], "semantic_threshold_e4 is 9000, asked for 5500"),
        (vec!["--parents"], "parents is not set, asked for true"),
    ] {
        let args = with(&["ingest", "books", "--store", "lib.haul"], &flags);
        let ran = home.run(&args);
        assert_eq!(ran.code, 2, "{args:?}");
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
}

#[test]
fn a_killed_sentence_pass_is_done_again() {
    let home = home_with_novels(4);
    let args = with(&["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--json"], &SEMANTIC);
    let mut live = Live::start(home.haul(&args).stdout(Stdio::piped()));
    assert!(live.wait_for("stage=\"embed\""), "the sentence pass begins");
    live.signal(Signal::KILL);
    live.finish();
    let (receipt, code) = home.ingest(&["books"]);
    assert_eq!((code, &receipt["items"]["ok"]), (0, &json!(4)));
    let whole = home_with_novels(4);
    whole.ingest(&with(&["books"], &SEMANTIC));
    assert_eq!(home.digest(), whole.digest());
}

#[test]
fn a_policy_chooses_by_title_and_author_and_is_part_of_the_library() {
    let home = Home::new();
    let prose = Random(1).sentences(80);
    for (name, title, author) in [
        ("red", "The Red Book", "C. G. Jung"),
        ("cook", "Jung's Cookbook", "A. Cook"),
        ("list", "Catalogue of lamps", "A. Cook"),
        ("rest", "Emma", "Jane Austen"),
    ] {
        let page = format!("<title>{title}</title><meta name=\"author\" content=\"{author}\"><p>{prose}</p>");
        home.write(&format!("books/{name}.html"), page);
    }
    let policy = home.write(
        "policy.toml",
        "default = \"fixed\"\nauthors = [\"jung\"]\ntitle_contains = [\n  { pattern = \"cookbook\", chunker = \"tokens\" },\n  { pattern = \"catalogue\", chunker = \"none\" },\n]\n",
    );
    let flags =
        ["--policy", text(&policy), "--semantic-min", "10", "--semantic-max", "60", "--threshold", "0.9"];
    let preview = home.json(&with(&["ingest", "books", "--model", "tiny", "--dry-run"], &flags));
    let chosen: Vec<&Value> =
        preview["documents"].as_array().unwrap().iter().map(|d| &d["chunker"]).collect();
    assert_eq!(chosen, ["tokens", "semantic", "fixed"]);
    let (receipt, code) = home.ingest(&with(&["books"], &flags));
    assert_eq!(code, 0, "what the user leaves out is no failure: {receipt:#}");
    assert_eq!(receipt["items"]["by_verdict"], json!({"ok": 3, "skipped": 1}));
    assert_eq!(receipt["failures"][0]["why"], "left out by the policy's rule title_contains \"catalogue\"");
    let (again, code) = home.ingest(&["books"]);
    assert_eq!((code, &again["items"]["reused"]), (0, &json!(4)), "{again:#}");
    home.write("policy.toml", "authors = [\"jung\"]\n");
    let refused = home.run(&["ingest", "books", "--store", "lib.haul", "--policy", text(&policy)]);
    assert!(refused.code == 2 && refused.stderr.contains("policy is"), "{refused:?}");
}

#[test]
fn what_alexandria_loses_is_lost_on_request_only_and_counted() {
    let home = Home::new();
    home.write("books/short.txt", Random(2).sentences(10));
    home.write("books/long.txt", Random(3).sentences(100));
    let compat = ["books", "--chunker", "semantic", "--alexandria-compat"];
    let (receipt, code) = home.ingest(&compat);
    assert_eq!((code, &receipt["items"]["by_verdict"]), (0, &json!({"skipped": 2})));
    assert_eq!(receipt["failures"][0]["why"], "its author is not known");
    let (receipt, code) = home.ingest(&[&compat[..], &["--junk-metadata", "replace"]].concat());
    assert_eq!((code, &receipt["items"]["by_verdict"]), (1, &json!({"empty": 1, "ok": 1})));
    let why = receipt["failures"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("1 sections under 384 words dropped, "), "{why}");
    assert!(
        receipt["truncated"]["tokens"].as_u64().unwrap() > 0,
        "chunks are longer than the tiny model takes"
    );
    let info = home.json(&["store", "info", "--store", "lib.haul"]);
    assert_eq!(info["sections"], 1, "parents are embedded as well: {info:#}");
    home.assert_sound();
    let kept = Home::new();
    copy_tree(&home.path("books"), &kept.path("books"));
    let (receipt, code) = kept.ingest(&["books", "--chunker", "semantic"]);
    assert_eq!((code, &receipt["truncated"]["tokens"]), (0, &json!(0)), "{receipt:#}");
}

/// Names of everything below the home folder.
fn everything(home: &Home) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![home.path("")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            found.insert(entry.path().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_dry_run_shows_chunks_and_writes_nothing() {
    let home = home_with_samples();
    let before = everything(&home);
    let args = with(&["ingest", "books", "--model", "tiny", "--dry-run"], &SEMANTIC);
    let preview = home.json(&args);
    let shown = home.ok(&args).stdout;
    assert_eq!(everything(&home), before);
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let (receipt, _) = home.ingest(&with(&["books"], &SEMANTIC));
    let info = home.json(&["store", "info", "--store", "lib.haul"]);
    assert_eq!(
        preview["total"]["count"], info["chunks"],
        "what it shows is what an ingest makes: {receipt:#}"
    );
    let documents = preview["documents"].as_array().unwrap();
    let sum: u64 = documents.iter().map(|d| d["chunks"]["count"].as_u64().unwrap()).sum();
    assert_eq!(Some(sum), preview["total"]["count"].as_u64());
    for document in documents {
        assert!((1..=3).contains(&document["samples"].as_array().unwrap().len()), "{document:#}");
        assert!(document["chunks"]["tokens"]["max"].as_u64().unwrap() <= 46);
    }
    // Of a library, its own settings are shown.
    let again = home.json(&["ingest", "books", "--store", "lib.haul", "--dry-run"]);
    assert_eq!(again["total"], preview["total"]);
}

#[test]
fn thresholds_are_compared_on_the_same_sentences() {
    let home = home_with_novels(2);
    let before = everything(&home);
    let flags = ["--semantic-min", "10", "--semantic-max", "80", "--compare-thresholds", "0.9,0.2,0.99,0.9"];
    let args = with(&["ingest", "books", "--model", "tiny"], &flags);
    let comparison = home.json(&args)["comparison"].clone();
    let shown = home.ok(&args).stdout;
    assert_eq!(everything(&home), before);
    let rows = comparison["rows"].as_array().unwrap();
    let column = |name: &str| rows.iter().map(|row| row[name].as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!(column("threshold"), [0.2, 0.9, 0.99], "in order, each once");
    assert!(column("chunks").is_sorted() && column("semantic_breaks").is_sorted(), "{comparison:#}");
    for row in rows {
        let count = |name: &str| row[name].as_u64().unwrap();
        // Each of the ten sections ends a chunk without a break.
        assert_eq!(count("chunks"), count("semantic_breaks") + count("forced_breaks") + 10, "{row:#}");
        let score =
            100.0 * row["coherence"].as_f64().unwrap() - 20.0 * row["forced_breaks"].as_f64().unwrap();
        assert!((score - row["score"].as_f64().unwrap()).abs() < 1e-9);
        assert!(row["words"]["max"].as_u64() <= Some(80) && row["samples"].as_array().unwrap().len() <= 3);
    }
    let best = rows.iter().map(|row| row["score"].as_f64().unwrap()).fold(f64::NEG_INFINITY, f64::max);
    let best = rows.iter().find(|row| row["score"].as_f64() == Some(best)).unwrap();
    assert_eq!(comparison["best"], best["threshold"]);
    assert!(shown.lines().all(|line| line.chars().count() <= 80) && shown.contains("  best\n"), "{shown}");
}

#[test]
fn flags_that_say_nothing_are_refused() {
    let home = home_with_samples();
    home.write("bad.toml", "titles = []\n");
    home.write("bad.json", "{\"authors\": [{\"pattern\": \"x\"}]}");
    for (flags, said) in [
        (vec!["--fixed-words", "9"], "--fixed-words says nothing to --chunker tokens"),
        (vec!["--chunker", "fixed", "--threshold", "0.5"], "--threshold says nothing to --chunker fixed"),
        (vec!["--chunker", "semantic", "--overlap", "1"], "--overlap says nothing to --chunker semantic"),
        (vec!["--alexandria-compat"], "--alexandria-compat says nothing to --chunker tokens"),
        (vec!["--chunker", "whole", "--parents"], "--parents says nothing"),
        (vec!["--chunker", "fixed", "--fixed-overlap", "251"], "cannot repeat 251"),
        (vec!["--chunker", "semantic", "--semantic-min", "1201"], "chunks cannot have 1201 to 1200 words"),
        (vec!["--chunker", "semantic", "--threshold", "1.5"], "not a number within 0..=1"),
        (vec!["--policy", "bad.toml"], "bad.toml: unknown field `titles`"),
        (vec!["--policy", "bad.json"], "bad.json: "),
        (vec!["--policy", "none.toml"], "cannot read none.toml"),
        (vec!["--dry-run", "--prune"], "cannot be used with"),
    ] {
        let args = with(&["ingest", "books", "--store", "lib.haul", "--model", "tiny"], &flags);
        let ran = home.run(&args);
        assert_eq!(ran.code, 2, "{args:?} {ran:?}");
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
        assert!(!home.path("lib.haul").exists(), "no library is made: {args:?}");
    }
}
