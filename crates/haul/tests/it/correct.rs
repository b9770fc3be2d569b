//! Manuscripts corrected by the repository's tiny model: what changes, what never does, and how a run ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::fixtures::{Home, Needs, Ran, assert_ran, repository};
use crate::generate::{killed_when_kept, tiny_llm};
use crate::hostile::{archive, book};

fn correct(home: &Home, file: &Path, flags: &[&str]) -> Ran {
    let model = tiny_llm();
    let args = [
        "correct",
        file.to_str().unwrap(),
        "--model",
        model.to_str().unwrap(),
        "--out",
        "out",
        "--threads",
        "1",
    ];
    home.run(&[&args, flags].concat())
}

fn sample() -> PathBuf {
    repository().join("samples/manuscript/north-quay.md")
}

fn passages(home: &Home) -> Vec<Value> {
    let document: Value = serde_json::from_slice(&fs::read(home.path("out/diff.json")).unwrap()).unwrap();
    document["passages"].as_array().unwrap().clone()
}

/// What stands outside of the passages: marks, addresses, code, front matter.
fn is_untouched(before: &str, after: &str, parts: &[&str]) {
    for part in parts {
        assert!(before.contains(part), "the sample has no {part:?}");
        assert!(after.contains(part), "{part:?} is gone:\n{after}");
    }
}

#[test]
fn a_manuscript_is_corrected_and_its_markup_stays() {
    if !Needs("correct").worker() {
        return;
    }
    let home = Home::empty();
    let ran = correct(&home, &sample(), &["--json"]);
    assert!([0, 1].contains(&ran.code), "{ran:#?}");
    let receipt = ran.json();
    assert_eq!(receipt["job"], "correct");
    assert_eq!(receipt["device"]["verdict"], "cpu");
    assert!(receipt["calls"]["reused_prefix_tokens"].as_u64().unwrap() > 0, "{receipt:#}");
    let before = fs::read_to_string(sample()).unwrap();
    let after = fs::read_to_string(home.path("out/north-quay_corrected.md")).unwrap();
    is_untouched(
        &before,
        &after,
        &[
            "title: North Quay, notes for the board",
            "](https://example.org/north-quay/quality)",
            "|:-----|-------:|-------|",
            "drawn    = 4,250,000    # teh amount stays as it is",
            "2.75%",
            // The tiny model makes other sentences of these, which are not taken.
            "- The agent have prepared the list of changes.",
            "The committee have reviewed the *report* on the north quay",
        ],
    );
    assert!(after.contains("It is important that all documents are kept in a safe place.\n"), "{after}");
    assert_eq!(before.lines().count(), after.lines().count());
    let corrected = passages(&home).iter().filter(|passage| !passage["after"].is_null()).count();
    assert!(corrected >= 4, "{corrected} of {:#?}", passages(&home));
    for passage in passages(&home) {
        let Some(changes) = passage["changes"].as_array() else { continue };
        let text = |without: &str| -> String {
            changes
                .iter()
                .filter(|change| change["op"] != without)
                .map(|change| change["text"].as_str().unwrap())
                .collect()
        };
        assert_eq!(text("insert"), passage["before"].as_str().unwrap());
        assert_eq!(text("delete"), passage["after"].as_str().unwrap());
    }
    let page = fs::read_to_string(home.path("out/diff.html")).unwrap();
    assert!(page.contains("<ins>") && page.contains("<del>") && !page.contains("<script"), "{page}");

    // Its own result is what it expects, and costs no call.
    let golden = home.write("golden.md", &after);
    let again = correct(&home, &sample(), &["--json", "--expect", golden.to_str().unwrap()]);
    assert_eq!(again.code, ran.code, "{again:#?}");
    assert_eq!(again.json()["calls"]["n"], 0);
    let other = home.write("other.md", after.replacen("approved", "refused", 1));
    let differs = correct(&home, &sample(), &["--expect", other.to_str().unwrap()]);
    assert_eq!(differs.code, 1);
    assert!(differs.stderr.contains("other.md: line 8: expected "), "{differs:#?}");
}

#[test]
fn a_killed_run_asks_nothing_twice() {
    if !Needs("correct").worker() {
        return;
    }
    let home = Home::empty();
    let text: String = (0..300)
        .map(|n| {
            format!("Undrawn amuonts of the facility attarct a fee of {:.2}%.\n\n", f64::from(n) / 100.0)
        })
        .collect();
    let file = home.write("long.md", &text);
    let whole = Home::empty();
    assert!([0, 1].contains(&correct(&whole, &file, &[]).code));
    let model = tiny_llm();
    let args = [
        "correct",
        file.to_str().unwrap(),
        "--model",
        model.to_str().unwrap(),
        "--out",
        "out",
        "--threads",
        "1",
        "--quiet",
    ];
    let mut hits = 0;
    for kept_bytes in [30_000, 60_000] {
        let mut child = home.haul(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        hits += usize::from(killed_when_kept(&mut child, &home.path("out/journal.sqlite"), kept_bytes));
    }
    assert!(hits > 0, "every run ended before its kill");
    let ran = correct(&home, &file, &["--json"]);
    assert!([0, 1].contains(&ran.code), "{ran:#?}");
    let receipt = ran.json();
    let calls = &receipt["calls"];
    assert_eq!(calls["n"].as_u64().unwrap() + calls["journalled"].as_u64().unwrap(), 300, "{calls}");
    assert!(calls["journalled"].as_u64().unwrap() > 0, "{calls}");
    let result = |home: &Home| fs::read_to_string(home.path("out/long_corrected.md")).unwrap();
    assert_eq!(result(&home), result(&whole));
    assert!(result(&home).contains("Undrawn amounts of the facility attract a fee of 0.85%."));
}

/// A chapter whose bytes are no text was left as it was, and neither the exit code nor a report said so.
#[test]
fn a_chapter_that_is_no_text_is_named() {
    if !Needs("correct").worker() {
        return;
    }
    let home = Home::empty();
    let mut entries = book("", "A book", &["<p>The report are complete.</p>", ""]);
    entries.last_mut().unwrap().1 = b"\xef\xbb\xbf<p>A caf\xe9 is open.</p>".to_vec();
    let file = home.write("book.epub", archive(&entries));
    let ran = correct(&home, &file, &["--json"]);
    assert_eq!(ran.code, 1, "{ran:#?}");
    let receipt = ran.json();
    assert_eq!(receipt["items"]["by_verdict"]["unreadable"], 1, "{receipt:#}");
    assert_eq!(receipt["items"]["total"], 2);
    let failure = &receipt["failures"][0];
    assert_eq!((&failure["item"], &failure["verdict"]), (&json!("p1.xhtml"), &json!("unreadable")));
    assert!(failure["why"].as_str().unwrap().starts_with("it keeps its bytes: "), "{failure}");
}

#[test]
fn what_is_no_manuscript_is_refused_before_a_model_is_opened() {
    let home = Home::empty();
    let file = home.write("letter.pdf", "%PDF-1.7");
    let ran = home.run(&["correct", file.to_str().unwrap(), "--model", "m.gguf", "--out", "out"]);
    assert_ran!(home, ran, @"
    exit 2
    --- stdout
    --- stderr
    haul: [HOME]/letter.pdf: no manuscript by its name

    hint: manuscripts are .md, .txt, .html, .epub and .docx files
    ");
    let broken = home.write("book.epub", "PK\u{3}\u{4} and no more");
    assert_eq!(home.run(&["correct", broken.to_str().unwrap(), "--model", "m.gguf", "--out", "out"]).code, 2);
    assert!(!home.path("out").exists());
}

#[test]
fn a_profile_is_known_by_name() {
    if !Needs("correct").worker() {
        return;
    }
    let home = Home::empty();
    let file = home.write("a.txt", "The report are complete.\n");
    let ran = correct(&home, &file, &["--profile", "nothing"]);
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(
        ran.stderr.contains("no profile nothing: there are tiny, grmr-v3, grmr-v3-satcn, general"),
        "{ran:#?}"
    );
    let ran = correct(&home, &file, &["--mode", "hybrid", "--dictionary", "xx_XX"]);
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(ran.stderr.contains("xx_XX") && ran.stderr.contains("hint: "), "{ran:#?}");
    let ran = correct(&home, &file, &["--profile", "general", "--json"]);
    assert_eq!(ran.json()["settings"]["profile"], json!("general"));
}
