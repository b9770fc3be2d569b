//! Disks that are full, files that are damaged, libraries that are not for this program: named errors with a way out,
//! a library that stays whole, and a rerun that ends where an undisturbed run does.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixtures::{Home, Live, assert_named, write_corpus};

const INGEST: [&str; 6] = ["ingest", "books", "--store", "lib.haul", "--model", "tiny"];

#[test]
fn a_full_disk_stops_cleanly_and_a_rerun_finishes() {
    let whole = Home::new();
    write_corpus(&whole.path("books"), 6, 60);
    whole.ingest(&["books"]);
    let digest = whole.digest();
    let size_kib = fs::metadata(whole.path("lib.haul")).unwrap().len() / 1024;
    let (mut refused, mut kept, mut told) = (0, 0, 0);
    for step in 1..=12 {
        let home = Home::new();
        write_corpus(&home.path("books"), 6, 60);
        let flags = ["--quiet", "--receipt", "receipt.json"];
        let ran = home.limited(size_kib * step / 12, &[&INGEST[..], &flags].concat());
        if ran.code == 0 {
            // The log, and the file when the log was moved into it, stayed below the limit.
            assert_eq!(home.digest(), digest);
            continue;
        }
        assert_named(&ran, "lib.haul", "run the same command again");
        refused += 1;
        if home.path("lib.haul").exists() {
            home.assert_sound();
            kept += 1;
        }
        if let Ok(receipt) = fs::read(home.path("receipt.json")) {
            let receipt: Value = serde_json::from_slice(&receipt).unwrap();
            assert_eq!(
                (&receipt["state"], &receipt["failures"][0]["item"]),
                (&"failed".into(), &"ingest".into())
            );
            told += 1;
        }
        home.ingest(&["books"]);
        assert_eq!(home.digest(), digest, "step {step}");
        home.assert_sound();
    }
    println!("{refused} of 12 limits stopped a run, {kept} left a library");
    assert!(
        refused >= 6 && kept >= 3 && told >= 3,
        "{refused} of 12 limits stopped a run, {kept} left a library"
    );
}

/// SQLite's own file for readers takes 32 KiB; the segment has no room beside it.
#[test]
fn a_search_needs_next_to_no_room() {
    const KIB: u64 = 34;
    let home = Home::new();
    write_corpus(&home.path("books"), 3, 120);
    home.ingest(&["books"]);
    let ask = ["search", "river", "--store", "lib.haul", "--mode", "dense", "--json"];
    let without = home.limited(KIB, &ask);
    assert_eq!(without.code, 0, "{without:#?}");
    let (without, with) = (without.json(), home.ok(&ask).json());
    assert!(fs::metadata(home.path("lib.haul.seg")).unwrap().len() > KIB * 1024);
    assert_eq!(
        (&without["vectors"]["from"], &with["vectors"]["from"]),
        (&"library".into(), &"segment".into())
    );
    assert_eq!(without["hits"], with["hits"]);
}

/// A library in three commits, whose log a reader kept from being emptied; both files copied to `name`.
fn with_log(home: &Home, name: &str) {
    write_corpus(&home.path("books"), 1, 10);
    home.ingest(&["books"]);
    let reader = Connection::open(home.path("lib.haul")).unwrap();
    let count =
        || reader.query_row("SELECT count(*) FROM documents", [], |row| row.get::<_, i64>(0)).unwrap();
    assert!(count() > 0);
    for number in 0..3 {
        home.write(
            &format!("books/late {number}.txt"),
            format!("A late text about lanterns, number {number}."),
        );
        home.ingest(&["books"]);
    }
    fs::copy(home.path("lib.haul"), home.path(name)).unwrap();
    fs::copy(home.path("lib.haul-wal"), home.path(format!("{name}-wal"))).unwrap();
    assert!(count() > 3);
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x04;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_log_is_refused() {
    let home = Home::new();
    with_log(&home, "copy.haul");
    let copy = ["search", "lanterns", "--store", "copy.haul", "--mode", "bm25", "--quiet"];
    assert_eq!(home.run(&copy).code, 0);
    let log = home.path("copy.haul-wal");
    flip(&log, 32 + 24 + 100);
    assert_named(&home.run(&copy), "the library's log is damaged: frame 0", "haul store verify");
    let ingest = ["ingest", "books", "--store", "copy.haul", "--model", "tiny", "--quiet"];
    assert_named(&home.run(&ingest), "the library's log is damaged: frame 0", "move the log away");
    // As the hint says.
    fs::remove_file(&log).unwrap();
    home.ok(&["store", "verify", "--store", "copy.haul"]);
    home.ok(&ingest);
    let digest = |store: &str| home.json(&["store", "info", "--store", store])["digest"].clone();
    assert_eq!(digest("copy.haul"), digest("lib.haul"));
}

#[test]
fn a_damaged_database_is_named_and_not_shown() {
    let home = Home::new();
    home.write("books/a.txt", "The lantern in the harbour burned all night.");
    home.ingest(&["books"]);
    let path = home.path("lib.haul");
    let bytes = fs::read(&path).unwrap();
    let text = b"lantern in the harbour";
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
    flip(&path, at);
    // A hit is compared before it is shown, a vector before it is copied into a segment.
    for (mode, says) in
        [("bm25", "its fields are not those that were stored"), ("hybrid", "it is that of another text")]
    {
        let ran = home.run(&["search", "harbour", "--store", "lib.haul", "--mode", mode, "--quiet"]);
        assert_named(&ran, says, "`haul store verify`");
        assert_eq!(ran.stdout, "");
    }
    let report = home.run(&["store", "verify", "--store", "lib.haul"]);
    assert_eq!(report.code, 1, "{report:#?}");
}

#[test]
fn a_damaged_segment_is_made_again() {
    let home = Home::new();
    write_corpus(&home.path("books"), 3, 60);
    home.ingest(&["books"]);
    let ask = ["search", "river", "--store", "lib.haul", "--mode", "dense"];
    let hits = home.json(&ask)["hits"].clone();
    let segment = home.path("lib.haul.seg");
    let bytes = fs::metadata(&segment).unwrap().len() as usize;
    for at in [9, 100, 300, bytes / 2, bytes - 3] {
        flip(&segment, at);
        let report = home.run(&["store", "verify", "--store", "lib.haul", "--json"]);
        assert_eq!(
            (report.code, &report.json()["findings"][0]["check"]),
            (1, &Value::from("segment")),
            "byte {at}"
        );
        assert_eq!(home.json(&ask)["hits"], hits, "byte {at}");
        fs::remove_file(&segment).unwrap();
        home.json(&ask);
        home.assert_sound();
    }
}

#[test]
fn a_newer_library_is_refused() {
    let home = Home::new();
    home.write("books/a.txt", "Anything.");
    home.ingest(&["books"]);
    Connection::open(home.path("lib.haul")).unwrap().pragma_update(None, "user_version", 99).unwrap();
    for args in
        [&["search", "x", "--store", "lib.haul", "--quiet"][..], &[&INGEST[..], &["--quiet"]].concat()]
    {
        assert_named(
            &home.run(args),
            "library of version 99, this program knows up to",
            "install the newer haul",
        );
    }
}

fn left_in(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_benchmark_of_the_store_leaves_nothing() {
    let home = Home::empty();
    fs::create_dir(home.path("scratch")).unwrap();
    let bench = |rows: &'static str, dim: &'static str| {
        ["bench", "store", "--rows", rows, "--dim", dim, "--scratch", "scratch"]
    };
    let report = home.json(&bench("1200", "32"));
    assert_eq!((&report["schema"], &report["rows"]), (&"haul.bench.store/1".into(), &Value::from(1200)));
    for rate in
        ["ingest_rows_per_s", "scan_p50_ms", "scan_p95_ms", "segment_build_s", "open_s", "memory_gb_per_s"]
    {
        assert!(report[rate].as_f64().unwrap() > 0.0, "{rate}: {report:#}");
    }
    assert!(report["recall_at_10"].as_f64().unwrap() > 0.98, "{report:#}");
    let shown = home.ok(&bench("1200", "32"));
    assert!(shown.stdout.lines().all(|line| line.chars().count() <= 80), "{}", shown.stdout);
    assert_eq!(left_in(&home.path("scratch")), 0);

    assert_named(&home.run(&bench("1000000000", "16384")), "bytes are needed", "--scratch");

    let mut command = home.haul(&bench("1000000", "64"));
    let live = Live::start(command.stdout(Stdio::null()));
    let begun = Instant::now();
    while left_in(&home.path("scratch")) == 0 && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    live.signal(Signal::INT);
    let ended = live.finish();
    assert_eq!((ended.code, left_in(&home.path("scratch"))), (130, 0), "{ended:#?}");
}
