//! One ingest dealt out to several processes, and their libraries brought together.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixtures::{Home, assert_ran, copy_tree, samples, write_corpus};

const SHARDS: [&str; 3] = ["0/3", "1/3", "2/3"];

/// Files of all kinds, two JSONL files that are fine, one with bad lines, and files that end in other verdicts.
fn corpus(home: &Home) {
    write_corpus(&home.path("in"), 7, 24);
    home.write(
        "in/bad.jsonl",
        "{\"id\": \"a\", \"text\": \"The lamp.\"}\nwords\n{\"id\": \"b\", \"text\": \"\"}\n",
    );
    home.write("in/none.jsonl", "\n\n");
    home.write("in/empty.txt", "");
    home.write("in/broken.epub", "words");
    home.write("in/picture.bmp", "words");
}

fn ingest(home: &Home, store: &str, flags: &[&str]) -> Value {
    let args = [&["ingest", "in", "--store", store, "--model", "tiny", "--json"], flags].concat();
    let ran = home.run(&args);
    assert!([0, 1].contains(&ran.code), "haul {args:?} ended so: {ran:#?}");
    ran.json()
}

fn info(home: &Home, store: &str) -> Value {
    home.json(&["store", "info", "--store", store])
}

fn sound(home: &Home, store: &str) {
    assert_eq!(home.json(&["store", "verify", "--store", store])["findings"], json!([]), "{store}");
}

fn counts(receipt: &Value) -> (u64, u64) {
    let count = |name: &str| receipt["items"][name].as_u64().unwrap();
    (count("total"), count("ok"))
}

#[test]
fn merged_shards_are_the_unsharded_library() {
    let home = Home::new();
    corpus(&home);
    let whole = ingest(&home, "whole.haul", &[]);
    let expected = info(&home, "whole.haul");
    let (mut total, mut ok) = (0, 0);
    for (number, shard) in SHARDS.iter().enumerate() {
        let receipt = ingest(&home, &format!("{number}.haul"), &["--shard", shard]);
        assert_eq!(receipt["settings"]["shard"], json!(shard));
        let (items, good) = counts(&receipt);
        assert!(items > 200 && items < 350, "shard {shard} has {items} of {:?}", counts(&whole));
        // A JSONL file with nothing in it is each shard's to tell.
        let files_of_all = u64::from(receipt.to_string().contains("none.jsonl"));
        assert_eq!(files_of_all, 1);
        (total, ok) = (total + items - files_of_all, ok + good);
        sound(&home, &format!("{number}.haul"));
    }
    assert_eq!((total + 1, ok), counts(&whole));

    let merge = ["store", "merge", "--store", "all.haul", "0.haul", "1.haul", "2.haul"];
    let merged = home.json(&merge);
    let found = info(&home, "all.haul");
    for field in ["digest", "documents", "chunks", "vectors", "unreferenced_vectors", "by_verdict"] {
        assert_eq!(found[field], expected[field], "{field}");
    }
    let sum: u64 = merged["taken"].as_array().unwrap().iter().map(|t| t["chunks"].as_u64().unwrap()).sum();
    assert_eq!(json!(sum), expected["chunks"]);
    sound(&home, "all.haul");
    for mode in ["bm25", "dense", "hybrid"] {
        let hits = |store: &str| {
            let args =
                ["search", "the keeper of the lamp", "--store", store, "--mode", mode, "--limit", "20"];
            home.json(&args)["hits"].clone()
        };
        assert_eq!(hits("all.haul"), hits("whole.haul"), "{mode}");
    }

    // A merge again takes nothing, and a log row is in the library once.
    let again = home.json(&merge);
    for taken in again["taken"].as_array().unwrap() {
        let count = |name: &str| taken[name].as_u64().unwrap();
        assert_eq!((count("documents"), count("chunks"), count("vectors"), count("not_ok")), (0, 0, 0, 0));
        assert!(count("known") > 0);
    }
    assert_eq!(info(&home, "all.haul")["digest"], expected["digest"]);
    let rows = |store: &str| -> u64 {
        let db = rusqlite::Connection::open(home.path(store)).unwrap();
        db.query_row("SELECT count(*) FROM ingest_log", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(rows("all.haul"), (0..3).map(|number| rows(&format!("{number}.haul"))).sum::<u64>());

    // The merged library goes on as one that was ingested: nothing is computed, nothing is gone.
    let receipt = ingest(&home, "all.haul", &["--prune"]);
    assert_eq!((&receipt["work"]["tokens"], &receipt["items"]["gone"]), (&json!(0), &Value::Null));
    assert_eq!(
        (counts(&receipt), info(&home, "all.haul")["digest"].clone()),
        (counts(&whole), found["digest"].clone())
    );
}

#[test]
fn a_shard_run_again_does_nothing() {
    let home = Home::new();
    write_corpus(&home.path("in"), 3, 8);
    home.write("in/one-line.jsonl", "{\"id\": \"alone\", \"text\": \"The lamp in the north window.\"}");
    for shard in SHARDS {
        let store = format!("{}.haul", &shard[..1]);
        let first = ingest(&home, &store, &["--shard", shard]);
        let second = ingest(&home, &store, &["--shard", shard]);
        assert_eq!(counts(&first), counts(&second), "{shard}");
        let (work, items) = (&second["work"], &second["items"]);
        assert_eq!(
            (&work["tokens"], &work["bytes_read"], &items["reused"]),
            (&json!(0), &json!(0), &items["total"])
        );
    }
}

/// Shards that share one library leave each other alone, whatever is pruned.
#[test]
fn shards_in_one_library_leave_each_other_alone() {
    let home = Home::new();
    corpus(&home);
    ingest(&home, "whole.haul", &[]);
    let expected = info(&home, "whole.haul");
    for _ in 0..2 {
        for shard in SHARDS {
            let receipt = ingest(&home, "one.haul", &["--shard", shard, "--prune-all"]);
            let items = &receipt["items"];
            assert_eq!((items.get("gone"), items.get("pruned")), (None, None), "{items:#}");
        }
    }
    let found = info(&home, "one.haul");
    assert_eq!((&found["digest"], &found["by_verdict"]), (&expected["digest"], &expected["by_verdict"]));

    // What is gone is the business of the shard that had it.
    fs::remove_file(home.path("in/letters.jsonl")).unwrap();
    let mut pruned = 0;
    for shard in SHARDS {
        let receipt = ingest(&home, "one.haul", &["--shard", shard, "--prune"]);
        pruned += receipt["items"]["pruned"].as_array().map_or(0, Vec::len);
    }
    assert_eq!(pruned, 30);
    sound(&home, "one.haul");
}

/// Each shard has a few documents of a folder that is not mounted, no more than one may lose; together they are most of
/// what there is.
#[test]
fn shards_do_not_prune_an_emptied_folder_in_small_parts() {
    let home = Home::new();
    (0..36).for_each(|number| drop(home.write(&format!("in/share/{number}.txt"), format!("Boat {number}."))));
    (0..12).for_each(|number| drop(home.write(&format!("in/{number}.txt"), format!("Lamp {number}."))));
    let run = |flags: &'static [&'static str]| {
        ["0/4", "1/4", "2/4", "3/4"].map(|shard| {
            let store = format!("{}.haul", &shard[..1]);
            let args = ["ingest", "in", "--store", &store, "--model", "tiny", "--shard", shard, "--json"];
            home.run(&[&args[..], flags].concat())
        })
    };
    run(&[]);
    fs::remove_dir_all(home.path("in/share")).unwrap();
    let gone = |receipt: &Value, name: &str| receipt["items"][name].as_array().map_or(0, Vec::len);
    let refused = run(&["--prune"]);
    let kept: Vec<usize> = refused.iter().map(|ran| gone(&ran.json(), "gone")).collect();
    assert!(kept.iter().sum::<usize>() == 36 && kept.iter().any(|kept| *kept <= 10), "{kept:?}");
    assert!(refused.iter().all(|ran| ran.code == 1 && gone(&ran.json(), "pruned") == 0), "{refused:#?}");
    let pruned: usize = run(&["--prune-all"]).iter().map(|ran| gone(&ran.json(), "pruned")).sum();
    assert_eq!(pruned, 36);
}

/// Lines of a JSONL file move, come and go: each shard follows with its own.
#[test]
fn shards_follow_a_changed_file_of_many_documents() {
    let home = Home::new();
    let line =
        |number: u32| format!("{{\"id\": \"{number}\", \"text\": \"Line {number} of the ledger.\"}}\n");
    home.write("in/ledger.jsonl", (0..40).map(line).collect::<String>());
    for shard in SHARDS {
        ingest(&home, &format!("{}.haul", &shard[..1]), &["--shard", shard]);
    }
    home.write("in/ledger.jsonl", (35..80).rev().map(line).collect::<String>());
    let mut pruned = 0;
    for shard in SHARDS {
        let receipt = ingest(&home, &format!("{}.haul", &shard[..1]), &["--shard", shard, "--prune-all"]);
        pruned += receipt["items"]["pruned"].as_array().map_or(0, Vec::len);
    }
    assert_eq!(pruned, 35);
    home.ok(&["store", "merge", "--store", "all.haul", "0.haul", "1.haul", "2.haul"]);
    ingest(&home, "whole.haul", &[]);
    assert_eq!(info(&home, "all.haul")["digest"], info(&home, "whole.haul")["digest"]);
}

/// A folder that was ingested before the one around it keeps its name in every shard, also in those that had nothing of
/// it: else two shards would take a file, or none.
#[test]
fn shards_name_files_alike() {
    let home = Home::new();
    home.write("in/deep/first.txt", "The lamp in the north window.");
    let ingest_all = |paths: &[&str]| {
        for shard in SHARDS {
            let store = format!("{}.haul", &shard[..1]);
            let args =
                [&["ingest"], paths, &["--store", &store, "--model", "tiny", "--shard", shard]].concat();
            home.ok(&args);
        }
        home.ok(&[&["ingest"], paths, &["--store", "whole.haul", "--model", "tiny"]].concat());
    };
    ingest_all(&["in/deep"]);
    (0..9).for_each(|number| drop(home.write(&format!("in/deep/{number}.txt"), format!("Boat {number}."))));
    home.write("in/above.txt", "Three boats in the storm.");
    ingest_all(&["in"]);
    home.ok(&["store", "merge", "--store", "all.haul", "0.haul", "1.haul", "2.haul"]);
    let (found, expected) = (info(&home, "all.haul"), info(&home, "whole.haul"));
    assert_eq!((&found["documents"], &found["digest"]), (&json!(11), &expected["digest"]));
}

/// A plan of a shard is about its own files.
#[test]
fn a_plan_is_of_the_shard() {
    let home = Home::new();
    write_corpus(&home.path("in"), 5, 40);
    let plan = |flags: &[&str]| {
        let args = ["ingest", "in", "--store", "plan.haul", "--model", "tiny", "--plan"];
        home.json(&[&args[..], flags].concat())["files"]["to_read"].as_u64().unwrap()
    };
    let all = plan(&[]);
    let shards = SHARDS.map(|shard| plan(&["--shard", shard]));
    // The two JSONL files are read by each.
    assert_eq!(shards.iter().sum::<u64>(), all + 2 * 2, "{shards:?}");
    assert!(shards.iter().all(|files| *files < all), "{shards:?}");
}

#[test]
fn shards_that_are_none() {
    let home = Home::new();
    home.write("in/a.txt", "The lamp.");
    for (shard, says) in [
        ("8/8", "there is no shard 8 of 8: shards count from 0, the last of 8 is 7/8"),
        ("3", "not I/N, such as 0/8 for the first of eight"),
        ("/8", "not I/N"),
        ("0/0", "not I/N"),
    ] {
        let ran = home.run(&["ingest", "in", "--store", "a.haul", "--model", "tiny", "--shard", shard]);
        assert!(ran.code == 2 && ran.stderr.contains(says), "{shard}: {ran:#?}");
        assert!(!home.path("a.haul").exists());
    }
}

#[test]
fn libraries_that_do_not_go_together() {
    let home = Home::new();
    home.write("in/a.txt", "The lamp in the north window.");
    home.write("in/b.txt", "Three boats in the storm.");
    for (store, flags) in [("a.haul", &[][..]), ("other.haul", &["--dtype", "int8", "--chunk-tokens", "20"])]
    {
        ingest(&home, store, flags);
    }
    let merge = |args: &[&str]| home.run(&[&["store", "merge", "--store"], args].concat());
    assert_ran!(home, merge(&["new.haul", "a.haul", "other.haul"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: [HOME]/other.haul was made with other settings than [HOME]/a.haul: dtype is "int8", not "f32"; chunk_tokens is 20, not 46

    hint: ingest all shards with the same model, dtype and chunker, and the same haul
    "#);
    home.write("in/a.txt", "The lamp in the south window.");
    ingest(&home, "changed.haul", &[]);
    assert_ran!(home, merge(&["new.haul", "a.haul", "changed.haul"]), @"
    exit 2
    --- stdout
    --- stderr
    haul: document eca3d55b-1887-527e-8ed8-235c30460825 (a.txt) has one revision in [HOME]/a.haul and another in [HOME]/changed.haul

    hint: the file changed between two ingests: run the older one's ingest again, and merge into a new library
    ");
    assert_ran!(home, merge(&["a.haul", "a.haul"]), @"
    exit 2
    --- stdout
    --- stderr
    haul: [HOME]/a.haul: this is the library to merge into

    hint: name the others only: what is in it stays
    ");
    let there = ["a.haul", "changed.haul"];
    let ran = merge(&there);
    assert!(ran.code == 2 && ran.stderr.contains("has one revision in "), "{ran:#?}");
    for (args, says) in [
        (&["new.haul", "nowhere.haul"][..], "nowhere.haul: no such library"),
        (&["new.haul", "in/a.txt"], "not a Haul library"),
        (&["nowhere/new.haul", "a.haul"], "there is no folder"),
        (&["new.haul"], "<FILE.haul>..."),
    ] {
        let ran = merge(args);
        assert!(ran.code == 2 && ran.stderr.contains(says), "{args:?}: {ran:#?}");
    }
    assert!(!home.path("new.haul").exists(), "nothing is made for what cannot be merged");
}

#[test]
fn a_merge_as_people_read_it() {
    let home = Home::new();
    copy_tree(&samples().join("library"), &home.path("in"));
    home.write("in/empty.txt", "");
    for shard in ["0/2", "1/2"] {
        ingest(&home, &format!("{}.haul", &shard[..1]), &["--shard", shard]);
    }
    let merge = ["store", "merge", "--store", "all.haul", "0.haul", "1.haul"];
    assert_ran!(home, home.run(&merge), @"
    exit 0
    --- stdout
    merged into all.haul
      [HOME]/0.haul
        4 documents, 398 chunks, 398 vectors taken
      [HOME]/1.haul
        7 documents, 472 chunks, 470 vectors taken
        1 input not ok, taken over as such
    --- stderr
    ");
    assert_ran!(home, home.run(&merge), @"
    exit 0
    --- stdout
    merged into all.haul
      [HOME]/0.haul
        0 documents, 0 chunks, 0 vectors taken
        4 inputs there already
      [HOME]/1.haul
        0 documents, 0 chunks, 0 vectors taken
        8 inputs there already
    --- stderr
    ");
}

/// A vector whose bytes are not those that were stored is found on the way, not years later.
#[test]
fn a_damaged_shard_is_not_merged() {
    let home = Home::new();
    write_corpus(&home.path("in"), 5, 8);
    ingest(&home, "0.haul", &["--shard", "0/2"]);
    ingest(&home, "1.haul", &["--shard", "1/2"]);
    let db = rusqlite::Connection::open(home.path("1.haul")).unwrap();
    db.execute("UPDATE vectors SET row = zeroblob(length(row)) WHERE vector_id = 5", []).unwrap();
    drop(db);
    let ran = home.run(&["store", "merge", "--store", "all.haul", "0.haul", "1.haul"]);
    assert!(ran.code == 2 && ran.stderr.contains("1.haul: vector "), "{ran:#?}");
    assert!(ran.stderr.contains("its numbers are not those that were stored"), "{ran:#?}");
    sound(&home, "all.haul");
    assert_eq!(info(&home, "all.haul")["digest"], info(&home, "0.haul")["digest"], "the first is in, whole");
}

/// A killed merge leaves whole libraries in the new one, and goes on from there.
#[test]
fn a_killed_merge_goes_on() {
    let home = Home::new();
    corpus(&home);
    for shard in SHARDS {
        ingest(&home, &format!("{}.haul", &shard[..1]), &["--shard", shard]);
    }
    let merge = ["store", "merge", "--store", "all.haul", "0.haul", "1.haul", "2.haul"];
    home.ok(&[&merge[..3], &["whole.haul"], &merge[4..]].concat());
    let expected = info(&home, "whole.haul")["digest"].clone();
    let (mut kills, mut partial) = (0, 0);
    for delay_ms in (0..).step_by(2) {
        let mut command = home.haul(&merge);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        kills += u32::from(!child.wait().unwrap().success());
        if !home.path("all.haul").exists() {
            continue;
        }
        sound(&home, "all.haul");
        let found = info(&home, "all.haul");
        if found["digest"] == expected {
            break;
        }
        partial += u32::from(found["documents"] != json!(0));
    }
    assert_eq!(info(&home, "all.haul")["digest"], expected);
    println!("{kills} merges were killed, {partial} left a part of the libraries");
    assert!(kills > 0 && partial > 0);
}
