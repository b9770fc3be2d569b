//! Questions to a library: what is found, how well, and what odd questions do.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::fixtures::{Home, Needs, Ran, copy_tree, finished, repository, samples, text};
use crate::qdrant::Service;

/// The sample library with the tiny model, made once for the tests that only read it.
fn sample_home() -> &'static Home {
    static HOME: OnceLock<Home> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = Home::new();
        copy_tree(&samples().join("library"), &home.path("books"));
        home.write("books/bienen.html", "<html lang=\"de\"><head><title>Die Bienen</title><meta name=\"author\" content=\"Anna Imker\"></head><body><p>Der Honig der Bienen wird im Sommer geerntet, und das Wachs kommt in die Lampe.</p></body></html>");
        home.ingest(&["books"]);
        home
    })
}

fn hits(home: &Home, query: &str, flags: &[&str]) -> Vec<Value> {
    let args = [&["search", "--store", "lib.haul"], flags, &["--", query]].concat();
    let ran = home.run(&[&args[..args.len() - 2], &["--json", "--", query]].concat());
    assert_eq!(ran.code, 0, "haul {args:?}: {ran:#?}");
    ran.json()["hits"].as_array().unwrap().clone()
}

fn field<'a>(hit: &'a Value, name: &str) -> &'a str {
    hit[name].as_str().unwrap_or_else(|| panic!("no {name} in {hit:#}"))
}

#[test]
fn words_need_no_model() {
    let home = Home::new();
    copy_tree(&samples().join("library"), &home.path("books"));
    home.ingest(&["books"]);
    fs::remove_dir_all(home.path("home/models")).unwrap();
    let found = hits(&home, "bundled sticks", &["--mode", "bm25"]);
    assert!(field(&found[0], "text").contains("bundled sticks"), "{found:#?}");
    for mode in ["dense", "hybrid"] {
        let ran = home.run(&["search", "sticks", "--store", "lib.haul", "--mode", mode]);
        assert!(ran.code == 2 && ran.stderr.contains("the library's model tiny (sha256 "), "{ran:#?}");
        assert!(ran.stderr.contains("hint: add the same model with `haul model add DIR`"), "{ran:#?}");
    }
}

#[test]
fn hits_say_where_they_are() {
    let home = sample_home();
    let found = hits(home, "causeway sticks flour Pell", &["--limit", "3"]);
    assert_eq!(found.len(), 3);
    let scores: Vec<f64> = found.iter().map(|hit| hit["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let letter =
        &hits(home, "letter behind the plaster of the lighthouse", &["--mode", "bm25", "--limit", "1"])[0];
    assert_eq!(
        (field(letter, "title"), &letter["authors"]),
        ("The Skarnholm Light", &json!(["Haul contributors"]))
    );
    assert_eq!(letter["breadcrumb"], json!(["Midwinter", "The Letter in the Wall"]));
    assert!(field(letter, "href").contains(".xhtml"), "{letter:#}");
    assert!(field(letter, "path").ends_with("/the-skarnholm-light.epub"), "{letter:#}");
    let well = &hits(home, "taste of iron in the well", &["--mode", "bm25", "--limit", "1"])[0];
    assert_eq!((field(well, "part"), field(well, "title")), ("well-water", "Result of the well test"));
}

#[test]
fn each_filter_keeps_what_it_names() {
    let home = sample_home();
    const QUERY: &str = "the honey in the lamp der Honig";
    let all = hits(home, QUERY, &["--limit", "1000", "--mode", "bm25"]);
    type Holds = fn(&Value) -> bool;
    let cases: &[(&str, &str, Holds)] = &[
        ("--author", "imker", |hit| hit["authors"] == json!(["Anna Imker"])),
        ("--title", "skarnholm", |hit| hit["title"] == "The Skarnholm Light"),
        ("--language", "de", |hit| hit["title"] == "Die Bienen"),
        ("--format", "json_lines", |hit| field(hit, "path").ends_with(".jsonl")),
    ];
    for (flag, value, holds) in cases {
        let expected = all.iter().filter(|hit| holds(hit)).count();
        assert!(
            0 < expected && expected < all.len(),
            "{flag} {value} says nothing here: {expected} of {}",
            all.len()
        );
        let kept = hits(home, QUERY, &["--limit", "1000", "--mode", "bm25", flag, value]);
        assert_eq!(kept.len(), expected, "{flag} {value}");
        for mode in ["bm25", "dense", "hybrid"] {
            let kept = hits(home, QUERY, &["--limit", "1000", "--mode", mode, flag, value]);
            assert!(!kept.is_empty() && kept.iter().all(holds), "{mode} {flag} {value}: {kept:#?}");
            let none = hits(home, QUERY, &["--mode", mode, flag, "nothing like this"]);
            assert_eq!(none, Vec::<Value>::new(), "{mode} {flag}");
        }
    }
    let both = hits(home, QUERY, &["--mode", "bm25", "--title", "skarnholm", "--format", "html"]);
    assert_eq!(both, Vec::<Value>::new(), "all filters hold at once");
}

#[test]
fn limit_and_context() {
    let home = sample_home();
    for mode in ["bm25", "dense", "hybrid"] {
        let seven = hits(home, "the storm", &["--mode", mode, "--limit", "7"]);
        let two = hits(home, "the storm", &["--mode", mode, "--limit", "2"]);
        assert_eq!((seven.len(), &two[..]), (7, &seven[..2]), "{mode}");
        assert!(seven[0].get("before").is_none() && seven[0].get("after").is_none());
    }
    let wide =
        &hits(home, "causeway of bundled sticks", &["--mode", "bm25", "--limit", "1", "--context", "2"])[0];
    let around = |name: &str| wide[name].as_array().unwrap().len();
    assert_eq!((around("before"), around("after")), (2, 2));
    let number = wide["chunk_no"].as_u64().unwrap();
    let text = field(wide, "text");
    let next = &hits(
        home,
        wide["after"][0].as_str().unwrap(),
        &["--mode", "bm25", "--limit", "1", "--context", "1"],
    )[0];
    assert_eq!((next["chunk_no"].as_u64().unwrap(), next["before"][0].as_str().unwrap()), (number + 1, text));
}

/// What a question holds is words, never syntax.
#[test]
fn odd_questions_are_answered() {
    let home = sample_home();
    let questions = [
        "\"",
        "\"unbalanced",
        "AND",
        "honey AND OR NOT",
        "NEAR(honey lamp, 5)",
        "NEAR",
        "*",
        "hon*",
        "^honey",
        "text:honey",
        "-honey",
        "honey -lamp",
        "(",
        "a)b(c",
        "'; DROP TABLE chunks; --",
        "???",
        "...",
        "%",
        "\\",
        "{}",
        "\u{1f41d}",
        "\u{1f41d} honey",
        "\u{202e}yenoh",
        "\t\nhoney\n",
        "caf\u{e9}",
        "\u{4e2d}\u{6587}",
        "a",
        "\u{feff}",
    ];
    for question in questions {
        for mode in ["bm25", "dense", "hybrid"] {
            hits(home, question, &["--mode", mode]);
        }
    }
    for empty in ["", " ", "\t\n"] {
        let ran = home.run(&["search", empty, "--store", "lib.haul"]);
        assert!(ran.code == 2 && ran.stderr.contains("the question is empty"), "{ran:#?}");
    }
}

/// A page pasted as a question: the model sees what it can take, and the user is told what was cut.
#[test]
fn a_very_long_question_is_cut_and_answered() {
    let home = sample_home();
    let long = "storm and honey ".repeat(6250);
    for mode in ["bm25", "dense", "hybrid"] {
        let ran = home.run(&["search", &long, "--store", "lib.haul", "--mode", mode, "--limit", "1"]);
        let Ran { code, stderr, .. } = ran;
        assert_eq!(code, 0, "{mode}: {stderr}");
        assert!(mode == "bm25" || stderr.contains("the question is too long: its last "), "{mode}: {stderr}");
    }
}

/// The segment is a copy: without it, with a stale one and with a broken one, the answers are the same.
#[test]
fn the_segment_is_disposable() {
    let home = Home::new();
    copy_tree(&samples().join("library"), &home.path("books"));
    home.ingest(&["books"]);
    let segment = home.path("lib.haul.seg");
    let dense = || hits(&home, "why was the lens turned by hand", &["--mode", "dense", "--limit", "20"]);
    let first = dense();
    let whole = fs::read(&segment).unwrap();
    assert_eq!(dense(), first);
    for broken in [vec![], b"words".to_vec(), whole[..whole.len() / 2].to_vec()] {
        fs::write(&segment, broken).unwrap();
        assert_eq!(dense(), first);
    }
    fs::remove_file(&segment).unwrap();
    assert_eq!(dense(), first);

    // The question as the model sees it, with its prompt: nothing can be nearer.
    home.write("books/new.txt", "query: why was the lens turned by hand");
    home.ingest(&["books"]);
    assert_eq!(field(&dense()[0], "title"), "new", "what is newer than the segment is found");
    fs::remove_file(home.path("books/new.txt")).unwrap();
    home.ingest(&["books", "--prune"]);
    assert_eq!(dense(), first, "what is gone from the library is gone from the answers");
    home.assert_sound();
}

#[test]
fn judgments_that_fit_nothing_are_an_error() {
    let home = sample_home();
    home.write("q.jsonl", "{\"id\": \"1\", \"text\": \"honey\"}\n");
    home.write("j.qrels", "2 0 bees-on-the-roof.html 1\n");
    let eval = |queries: &str| {
        home.run(&[
            "eval",
            "--store",
            "lib.haul",
            "--mode",
            "bm25",
            "--queries",
            queries,
            "--judgments",
            "j.qrels",
        ])
    };
    let ran = eval("q.jsonl");
    assert!(ran.code == 2 && ran.stderr.contains("no query has a relevant document"), "{ran:#?}");
    home.write("bad.jsonl", "{\"id\": \"1\", \"text\": \"honey\"}\n\nwords\n");
    let ran = eval("bad.jsonl");
    assert!(ran.code == 2 && ran.stderr.contains("bad.jsonl:3: "), "{ran:#?}");
}

/// Words alone already answer most of the questions written for the samples: documents are named in the judgments
/// by their paths below the root.
#[test]
fn questions_of_the_samples_by_words() {
    let scores =
        eval(sample_home(), &samples().join("questions.jsonl"), &samples().join("questions.qrels"), "bm25");
    assert_eq!(scores["queries"], 13);
    assert_at_least(&scores, 0.7);
}

#[test]
fn questions_of_the_samples() {
    let Some(minilm) = Needs("search::questions_of_the_samples").minilm() else { return };
    let home = home_with(&minilm);
    println!("{}", ingest(&home, &samples().join("library"), &[]));
    let scores =
        eval(&home, &samples().join("questions.jsonl"), &samples().join("questions.qrels"), "hybrid");
    assert_eq!(scores["queries"], 13);
    assert_at_least(&scores, 0.9);
}

#[test]
fn questions_to_a_real_book() {
    let needs = Needs("search::questions_to_a_real_book");
    let (Some(minilm), Some(books)) = (needs.minilm(), needs.shared("books")) else { return };
    let home = home_with(&minilm);
    println!("{}", ingest(&home, &books.join("sherlock-holmes.epub"), &[]));
    for (question, story) in [
        ("Who advertised a vacancy for a red-headed man?", "redheaded league"),
        ("Where was the blue carbuncle found?", "blue carbuncle"),
        ("How was the speckled band used to kill?", "speckled band"),
    ] {
        let first = &hits(&home, question, &[])[0];
        let place = first["breadcrumb"].to_string().to_lowercase();
        assert!(place.contains(story), "{question} {first:#}");
    }
}

/// Cranfield against the figures of other programs (`bench/cranfield/reference.py`): exact vectors give
/// sentence-transformers' score, words and both together no less than SQLite's and their fusion.
#[test]
fn cranfield() {
    let needs = Needs("search::cranfield");
    let (Some(minilm), Some(source)) = (needs.minilm(), needs.shared("retrieval")) else { return };
    let home = home_with(&minilm);
    let mut convert = Command::new("python3");
    convert.arg(repository().join("bench/cranfield/convert.py"));
    convert.arg("--source").arg(source).arg("--out").arg(home.path("cranfield"));
    assert!(convert.status().unwrap().success());
    let documents = home.path("cranfield/documents.jsonl");
    let flags = ["--chunker", "whole", "--max-tokens", "256"];
    println!("{}", ingest(&home, &documents, &flags));
    let ndcg_of = |library: &Home, mode| {
        let (queries, judgments) = ("cranfield/queries.jsonl", "cranfield/judgments.qrels");
        let scores = eval(library, &home.path(queries), &home.path(judgments), mode);
        assert_eq!(scores["queries"], 225);
        scores["ndcg@10"].as_f64().unwrap()
    };
    let ndcg = |mode| ndcg_of(&home, mode);
    let (dense, words, both) = (ndcg("dense"), ndcg("bm25"), ndcg("hybrid"));
    println!("nDCG@10 on Cranfield: dense {dense:.4}, bm25 {words:.4}, hybrid {both:.4}");
    assert!((dense - 0.3995).abs() <= 0.003, "dense {dense}");
    assert!(words >= 0.375, "bm25 {words}");
    assert!(both >= 0.43, "hybrid {both}");

    let service = Service::new();
    home.ok(&["store", "push", "--store", "lib.haul", "--to", &service.store()]);
    let (queries, judgments) = (home.path("cranfield/queries.jsonl"), home.path("cranfield/judgments.qrels"));
    let files = ["--queries", text(&queries), "--judgments", text(&judgments)];
    let there = home.json(&[&["eval", "--store", &service.store(), "--mode", "hybrid"], &files[..]].concat());
    println!("nDCG@10 on Cranfield in a collection: hybrid {}", there["ndcg@10"]);
    assert!(there["ndcg@10"].as_f64() >= Some(0.43), "{there:#}");

    for dtype in ["int16", "bf16", "int8"] {
        let library = home_with(&minilm);
        println!("{}", ingest(&library, &documents, &[&flags[..], &["--dtype", dtype]].concat()));
        let faster = ndcg_of(&library, "dense");
        println!("nDCG@10 on Cranfield in {dtype}: dense {faster:.4}");
        assert!((faster - dense).abs() <= 0.005, "dense {faster} in {dtype}, {dense} in f32");
    }
}

fn home_with(model: &Path) -> Home {
    let home = Home::empty();
    home.ok(&["model", "add", text(model), "--name", "minilm", "--link"]);
    home
}

/// Makes `lib.haul` and gives the head of the summary; not every input need be ok (Cranfield has two empty documents).
fn ingest(home: &Home, path: &Path, flags: &[&str]) -> String {
    let args =
        [&["ingest", text(path), "--store", "lib.haul", "--model", "minilm", "--quiet"], flags].concat();
    let ran = finished(home.haul(&args).stdout(std::process::Stdio::piped()).spawn().unwrap());
    assert!([0, 1].contains(&ran.code), "{ran:#?}");
    ran.stdout.lines().take(4).collect::<Vec<_>>().join("\n")
}

fn eval(home: &Home, queries: &Path, judgments: &Path, mode: &str) -> Value {
    home.json(&[
        "eval",
        "--store",
        "lib.haul",
        "--queries",
        text(queries),
        "--judgments",
        text(judgments),
        "--mode",
        mode,
    ])
}

fn assert_at_least(scores: &Value, ndcg: f64) {
    assert!(scores["ndcg@10"].as_f64().unwrap() >= ndcg, "{scores:#}");
}

/// Control characters of a document reached the terminal, where they can clear the screen or set its title.
#[test]
fn passages_cannot_steer_the_terminal() {
    let home = Home::new();
    home.write("books/a.txt", "An octopus \u{1b}[2J\u{1b}]0;title\u{7} in the harbour.");
    home.ingest(&["books"]);
    let ran = home.ok(&["search", "octopus", "--store", "lib.haul", "--mode", "bm25"]);
    assert!(ran.stdout.contains("octopus") && !ran.stdout.contains(['\u{1b}', '\u{7}']), "{ran:#?}");
}
