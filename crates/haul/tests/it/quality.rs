//! What is taken out of a library, what a search shows beside a passage, and how good its answers are.

use std::fs;

use serde_json::{Value, json};

use crate::fixtures::{Home, Random, assert_ran, copy_tree, samples};

/// Thirty short texts in `in`, and five beside them.
fn thirty() -> Home {
    let home = Home::new();
    let mut random = Random(11);
    for number in 0..30 {
        home.write(&format!("in/{number:02}.txt"), random.sentences(2));
    }
    for number in 0..5 {
        home.write(&format!("beside/{number}.txt"), random.sentences(3));
    }
    home.ingest(&["in", "beside"]);
    home
}

fn documents(home: &Home) -> u64 {
    home.json(&["store", "info", "--store", "lib.haul"])["documents"].as_u64().unwrap()
}

fn empty(home: &Home, from: u32) {
    (from..30).for_each(|number| fs::remove_file(home.path(format!("in/{number:02}.txt"))).unwrap());
}

fn listed(receipt: &Value, name: &str) -> usize {
    receipt["items"][name].as_array().map_or(0, Vec::len)
}

/// A share that is not mounted is an empty folder, and a prune that believed it took a whole library away.
#[test]
fn an_emptied_share_is_not_pruned() {
    let home = thirty();
    empty(&home, 0);
    home.write("beside/new.txt", "Something new.");
    let (receipt, code) = home.ingest(&["in", "beside", "--prune"]);
    assert_eq!((code, &receipt["items"]["ok"]), (1, &json!(6)), "the run goes on: {receipt:#}");
    assert_eq!(receipt["items"]["prune_refused"], json!({"gone": 30, "known": 35}));
    assert_eq!((listed(&receipt, "gone"), listed(&receipt, "pruned"), documents(&home)), (30, 0, 36));
    let ran = home.run(&["ingest", "in", "--store", "lib.haul", "--prune"]);
    assert_eq!(ran.code, 1);
    let (says, hint) = ran.stderr.split_once("\n\n").unwrap();
    let last = says.lines().last().unwrap();
    assert_eq!(
        last,
        "haul: --prune: the files of 30 of 30 documents are gone, and none of these was removed"
    );
    assert_eq!(
        hint,
        "hint: a share that is not mounted looks like this; if they are gone, --prune-all removes them\n"
    );
    assert!(ran.stdout.contains("files gone, documents kept (--prune-all removes them):"), "{ran:#?}");

    let (receipt, code) = home.ingest(&["in", "--prune-all"]);
    assert_eq!((code, listed(&receipt, "pruned"), documents(&home)), (0, 30, 6));
    home.assert_sound();
}

#[test]
fn a_prune_takes_ten_or_a_quarter() {
    let home = thirty();
    // 10 of 30.
    empty(&home, 20);
    let (receipt, code) = home.ingest(&["in", "--prune"]);
    assert_eq!((code, listed(&receipt, "pruned"), documents(&home)), (0, 10, 25));
    // 11 of 20.
    (9..20).for_each(|number| fs::remove_file(home.path(format!("in/{number:02}.txt"))).unwrap());
    let (receipt, code) = home.ingest(&["in", "--prune"]);
    assert_eq!((code, listed(&receipt, "pruned"), documents(&home)), (1, 0, 25));

    let home = Home::new();
    let line = |number: u32| format!("{{\"id\": \"{number}\", \"text\": \"Line {number}.\"}}\n");
    home.write("in/lines.jsonl", (0..48).map(line).collect::<String>());
    home.ingest(&["in"]);
    // 13 of 48 are more than a quarter; 12 are not.
    home.write("in/lines.jsonl", (13..48).map(line).collect::<String>());
    assert_eq!(home.ingest(&["in", "--prune"]).1, 1);
    home.write("in/lines.jsonl", (12..48).map(line).collect::<String>());
    let (receipt, code) = home.ingest(&["in", "--prune"]);
    assert_eq!((code, listed(&receipt, "pruned"), documents(&home)), (0, 12, 36));
}

fn library() -> Home {
    let home = Home::new();
    copy_tree(&samples().join("library"), &home.path("in"));
    home.ingest(&["in"]);
    home
}

#[test]
fn documents_are_listed_and_removed() {
    let home = library();
    let store = ["--store", "lib.haul"];
    let run = |args: &[&str]| home.run(&[&["store"], args, &store].concat());
    assert_ran!(home, run(&["list", "--author", "HAUL", "--format", "epub"]), @"
    exit 0
    --- stdout
    title                                                        format       chunks
      authors                                   doc_id
    The Skarnholm Light                                          epub            287
      Haul contributors                         f29c8990-56b2-5f1e-a38c-cbcd83cc8172
    The Slow Loaf                                                epub            295
      Haul contributors                         43686739-be07-5787-9526-11047fcb06ec

    2 documents, 582 chunks
    --- stderr
    ");
    let all = home.json(&["store", "list", "--store", "lib.haul"]);
    let all = all["documents"].as_array().unwrap();
    assert_eq!(all.len(), 11);
    assert!(run(&["list"]).stdout.lines().all(|line| line.chars().count() <= 80));
    assert_eq!(run(&["list", "--title", "nothing like this"]).stdout, "no documents\n");

    let canal = all.iter().find(|d| d["relative_path"] == "ellermere-canal.txt").unwrap();
    let id = canal["doc_id"].as_str().unwrap();
    let hits = || {
        let args = ["search", "lamp", "--store", "lib.haul", "--mode", "dense", "--limit", "1000"];
        let hits = home.json(&args)["hits"].as_array().unwrap().clone();
        hits.iter().filter(|hit| hit["doc_id"] == id).count()
    };
    assert_eq!(json!(hits()), canal["chunks"]);
    assert_ran!(home, run(&["delete", "--doc", id]), @"
    exit 0
    --- stdout
    title                                                        format       chunks
      authors                                   doc_id
    ellermere-canal                                              text             96
                                                d138c194-c6dc-5906-9dcf-2c682dac321c

    removed 1 document, 96 chunks and 96 vectors that nothing else used
    --- stderr
    ");
    assert_eq!((hits(), documents(&home)), (0, 10));
    home.assert_sound();
    let ran = run(&["delete", "--doc", id]);
    assert!(ran.code == 2 && ran.stderr.contains(&format!("no document {id} is as asked for")), "{ran:#?}");

    let removed = home.json(&["store", "delete", "--title", "result", "--store", "lib.haul"]);
    assert_eq!(
        (&removed["removed"]["documents"], &removed["documents"][0]["title"]),
        (&json!(1), &json!("Result of the well test"))
    );
    // The files are still there: the next ingest takes both in again, also what was one line of a file of many.
    home.ingest(&["in"]);
    assert_eq!(documents(&home), 11);
}

#[test]
fn a_delete_that_means_nothing_or_much() {
    let home = thirty();
    let delete = |args: &[&str]| home.run(&[&["store", "delete", "--store", "lib.haul"], args].concat());
    for (args, says) in [
        (&[][..], "nothing says which documents to remove"),
        (&["--title", "nothing like this"], "no document is as asked for"),
        (&["--doc", "words"], "invalid value 'words' for '--doc <ID>'"),
        (&["--title", "0"], "13 documents are as asked for, and none was removed"),
    ] {
        let ran = delete(args);
        assert!(ran.code == 2 && ran.stdout.is_empty() && ran.stderr.contains(says), "{args:?}: {ran:#?}");
    }
    assert_eq!(documents(&home), 35);
    let ran = delete(&["--title", "0", "--yes"]);
    assert!(ran.code == 0 && ran.stdout.contains("\nremoved 13 documents, "), "{ran:#?}");
    assert_eq!(documents(&home), 22);
    // All conditions hold at once.
    assert_eq!(delete(&["--title", "1", "--author", "nobody"]).code, 2);
}

fn hits(home: &Home, query: &str, flags: &[&str]) -> Vec<Value> {
    let args = [&["search", query, "--store", "lib.haul"], flags].concat();
    home.json(&args)["hits"].as_array().unwrap().clone()
}

#[test]
fn a_threshold_is_of_the_score_that_is_shown() {
    let home = library();
    for mode in ["dense", "bm25", "hybrid"] {
        let flags = ["--mode", mode, "--limit", "20"];
        let all = hits(&home, "the keeper of the lamp", &flags);
        let score = |hit: &Value| hit["score"].as_f64().unwrap();
        let least = score(&all[9]);
        let expected: Vec<Value> = all.iter().filter(|hit| score(hit) >= least).cloned().collect();
        assert!(expected.len() >= 10 && expected.len() < all.len(), "{mode} says nothing here");
        let kept = hits(
            &home,
            "the keeper of the lamp",
            &[&flags[..], &["--min-score", &least.to_string()]].concat(),
        );
        assert_eq!(kept, expected, "{mode}");
    }
    assert_eq!(hits(&home, "the keeper", &["--min-score=1000"]), Vec::<Value>::new());
    for bad in ["high", "nan", "inf"] {
        let ran = home.run(&["search", "a", "--store", "lib.haul", "--min-score", bad]);
        assert!(ran.code == 2 && ran.stderr.contains("not a number"), "{bad}: {ran:#?}");
    }
}

#[test]
fn one_document_answers() {
    let home = library();
    let all = hits(&home, "the winter bread", &["--limit", "1000", "--mode", "dense"]);
    let ids: Vec<&str> = ["The Slow Loaf", "Result of the well test"]
        .iter()
        .map(|title| all.iter().find(|hit| hit["title"] == *title).unwrap()["doc_id"].as_str().unwrap())
        .collect();
    for mode in ["dense", "bm25", "hybrid"] {
        let one = hits(&home, "the winter bread", &["--limit", "1000", "--mode", mode, "--doc", ids[0]]);
        assert!(!one.is_empty() && one.iter().all(|hit| hit["doc_id"] == ids[0]), "{mode}");
    }
    let two = hits(
        &home,
        "the winter bread",
        &["--limit", "1000", "--mode", "dense", "--doc", ids[0], "--doc", ids[1]],
    );
    let expected = all.iter().filter(|hit| ids.iter().any(|id| hit["doc_id"] == *id)).count();
    assert_eq!(two.len(), expected);
}

/// Without sections, the parent of a passage is its chapter, put together from its chunks: the same text as the section
/// of a library that has them.
#[test]
fn a_passage_comes_with_what_it_stands_in() {
    let flat = library();
    let parents = Home::new();
    copy_tree(&samples().join("library"), &parents.path("in"));
    parents.ingest(&["in", "--parents"]);
    let flags = ["--mode", "bm25", "--limit", "1", "--parent"];
    let of = |home: &Home| hits(home, "letter behind the plaster of the lighthouse", &flags)[0].clone();
    let (hit, of_section) = (of(&flat), of(&parents));
    let parent = &hit["parent"];
    assert_eq!((&parent["name"], &parent["doc_id"]), (&json!("The Letter in the Wall"), &hit["doc_id"]));
    assert_eq!((parent.get("point_id"), parent.get("cut")), (None, None));
    let text = parent["text"].as_str().unwrap();
    assert!(
        text.contains(hit["text"].as_str().unwrap()) && text.len() > 2 * hit["text"].as_str().unwrap().len()
    );
    let section = &of_section["parent"];
    assert!(section["point_id"].is_string(), "{section:#}");
    assert!(section["text"].as_str().unwrap().contains(of_section["text"].as_str().unwrap()), "{section:#}");
    let ran =
        flat.ok(&[&["search", "letter behind the plaster", "--store", "lib.haul"], &flags[..]].concat());
    assert!(ran.stdout.contains("\n   in The Letter in the Wall:\n     "), "{ran:#?}");
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 80), "{ran:#?}");
    assert!(hits(&flat, "letter", &flags[..4]).iter().all(|hit| hit.get("parent").is_none()));
}

#[test]
fn what_chunks_repeat_is_once_in_their_parent() {
    let home = Home::new();
    let sentences: Vec<String> = (0..40).map(|number| format!("Boat {number} came in.")).collect();
    let content = sentences.join(" ");
    home.write("in/boats.txt", &content);
    home.ingest(&["in", "--overlap", "2"]);
    let db = rusqlite::Connection::open(home.path("lib.haul")).unwrap();
    let repeated: usize =
        db.query_row("SELECT sum(overlap_bytes) FROM chunks", [], |row| row.get(0)).unwrap();
    assert!(repeated > 100, "{repeated} bytes");
    for query in ["boat 0", "boat 20", "boat 39"] {
        let hit = &hits(&home, query, &["--mode", "bm25", "--limit", "1", "--parent"])[0];
        assert_eq!(hit["parent"]["text"].as_str().unwrap().trim(), content, "{query}");
    }
}

/// A text without chapters is one; as much of it is shown as a bound allows, around the passage.
#[test]
fn a_long_parent_is_cut_around_its_passage() {
    let home = Home::new();
    let mut random = Random(5);
    let (before, after) = (random.sentences(1200), random.sentences(1200));
    home.write("in/long.txt", format!("{before} An octopus sat in the harbour. {after}"));
    home.ingest(&["in"]);
    let hit = &hits(&home, "octopus", &["--mode", "bm25", "--limit", "1", "--parent"])[0];
    let text = hit["parent"]["text"].as_str().unwrap();
    assert_eq!((&hit["parent"]["cut"], &hit["parent"]["name"]), (&json!(true), &json!("long")));
    assert!(text.starts_with("[...] ") && text.ends_with(" [...]") && text.contains("octopus"), "{text}");
    assert!((32 << 10..33 << 10).contains(&text.len()), "{}", text.len());
}

#[test]
fn a_golden_set_by_hand() {
    let home = Home::new();
    for (name, text) in
        [("a", "octopus harbour"), ("b", "octopus octopus octopus"), ("c", "kettle"), ("d", "storm")]
    {
        home.write(&format!("in/{name}.txt"), text);
    }
    home.ingest(&["in"]);
    // Words alone: `b` before `a` for "octopus", as it has it more often; `c` alone for "kettle", `d` for "storm".
    let lines = [
        json!({"id": "1", "text": "octopus", "category": "sea", "relevant": ["A", "in/nothing.txt"]}),
        json!({"id": "2", "text": "kettle", "category": "house", "relevant": ["c.txt"]}),
        json!({"id": "3", "text": "storm", "category": "sea", "relevant": ["c.txt"]}),
        json!({"id": "4", "text": "storm", "relevant": ["D"]}),
    ];
    home.write("golden.jsonl", lines.each_ref().map(Value::to_string).join("\n"));
    let eval = ["eval", "--store", "lib.haul", "--mode", "bm25", "--golden", "golden.jsonl"];
    let found = home.json(&[&eval[..], &["--k", "5"]].concat());
    // 1: at rank 2 of an ideal of two: (1/log2(3)) / (1 + 1/log2(3)) = 0.3868528; R 1/2, MRR 1/2, P 1/5. 2 and 4: all
    // 1, P 1/5. 3: all 0.
    let is = |found: &Value, expected: f64| (found.as_f64().unwrap() - expected).abs() < 1e-7;
    let expect = |found: &Value, queries: u64, [ndcg, recall, mrr, precision]: [f64; 4]| {
        assert!(
            is(&found["ndcg@5"], ndcg)
                && is(&found["recall@5"], recall)
                && is(&found["mrr@5"], mrr)
                && is(&found["p@5"], precision)
                && found["queries"] == queries,
            "{found:#}"
        );
    };
    let first = 0.386_852_8;
    expect(&found, 4, [(first + 2.0) / 4.0, 2.5 / 4.0, 2.5 / 4.0, 0.6 / 4.0]);
    expect(&found["by_category"]["sea"], 2, [first / 2.0, 0.25, 0.25, 0.1]);
    expect(&found["by_category"]["house"], 1, [1.0, 1.0, 1.0, 0.2]);
    assert_eq!(found["by_category"].as_object().unwrap().len(), 2);
    let keys: Vec<&String> = found.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["ndcg@5", "recall@5", "mrr@5", "p@5", "queries", "unjudged", "absent", "by_category"]);
    assert_eq!(found["absent"], json!(["in/nothing.txt"]));
    assert_ran!(home, home.run(&eval), @"
    exit 0
    --- stdout
                              queries       P@10      R@10    MRR@10   nDCG@10
    all                             4     0.0750    0.6250    0.6250    0.5967
      house                         1     0.1000    1.0000    1.0000    1.0000
      sea                           2     0.0500    0.2500    0.2500    0.1934

    names of relevant documents that no document has, counted as not found:
      in/nothing.txt
    --- stderr
    ");

    // As an editor of Windows saves it.
    home.write("golden.jsonl", format!("\u{feff}{}", lines.each_ref().map(Value::to_string).join("\r\n")));
    assert_eq!(home.json(&[&eval[..], &["--k", "5"]].concat()), found);

    // The same as queries and judgments.
    home.write("q.jsonl", lines[..3].iter().map(Value::to_string).collect::<Vec<_>>().join("\n"));
    home.write("j.qrels", "1 0 a.txt 1\n1 0 nothing.txt 1\n2 0 c.txt 1\n3 0 c.txt 1\n");
    let two = [
        "eval",
        "--store",
        "lib.haul",
        "--mode",
        "bm25",
        "--queries",
        "q.jsonl",
        "--judgments",
        "j.qrels",
        "--k",
        "5",
    ];
    assert_eq!(home.json(&two)["by_category"], found["by_category"]);
}

#[test]
fn golden_sets_that_cannot_be_used() {
    let home = Home::new();
    home.write("in/a.txt", "octopus harbour");
    home.ingest(&["in"]);
    home.write("golden.jsonl", json!({"id": "1", "text": "octopus", "relevant": ["A"]}).to_string());
    home.write("j.qrels", "1 0 a.txt 1\n");
    home.write("empty.jsonl", "\n");
    for (args, says) in [
        (&["--golden", "golden.jsonl", "--queries", "q.jsonl"][..], "cannot be used with"),
        (&["--queries", "q.jsonl"], "--judgments <FILE.qrels>"),
        (&["--judgments", "j.qrels"], "--queries <FILE.jsonl>"),
        (&["--golden", "golden.jsonl", "--k", "0"], "0 is not in 1..=1000"),
        (&["--golden", "empty.jsonl"], "hint: each line of a golden file is"),
        (&["--golden", "golden.jsonl", "--manifest", "m.haul"], "--manifest is of a collection"),
        (&["--golden", "q.qrels"], "cannot read q.qrels"),
        (&["--golden", "j.qrels"], "j.qrels:1: "),
    ] {
        let ran = home.run(&[&["eval", "--store", "lib.haul"], args].concat());
        assert!(ran.code == 2 && ran.stderr.contains(says), "{args:?}: {ran:#?}");
    }
}
