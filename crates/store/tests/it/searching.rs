//! What a search answers, and from where.

use std::fs;

use haul_store::library::{DocumentRecord, Library};
use haul_store::search::{
    Filters, Hit, Mode, Outcome, Parents, Request, SearchError, VectorSource, reciprocal_rank_fusion, search,
};
use haul_store::segment::{self, Refreshed, State};

use crate::fixture::{DIM, Random, document, ingest, new_library, vector};

fn request<'a>(mode: Mode, text: &'a str, vector: Option<&'a [f32]>, filters: &'a Filters) -> Request<'a> {
    Request {
        text,
        vector,
        sparse: None,
        mode,
        filters,
        limit: 10,
        context: 0,
        parents: Parents::Without,
        min_score: None,
        threads: 2,
    }
}

fn bm25(library: &Library, text: &str) -> Vec<String> {
    let outcome = search(library, &request(Mode::Bm25, text, None, &Filters::default())).unwrap();
    outcome.hits.into_iter().map(|hit| hit.text).collect()
}

fn dense(library: &Library, query: &[f32]) -> Outcome {
    search(library, &request(Mode::Dense, "", Some(query), &Filters::default())).unwrap()
}

fn texts(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.text.as_str()).collect()
}

/// A library of many one-chunk documents with vectors of their own.
fn many(count: usize) -> (tempfile::TempDir, std::path::PathBuf, Library) {
    let (folder, path, mut library) = new_library();
    let documents: Vec<_> = (0..count)
        .map(|number| {
            let text = format!("text number {number}");
            document(&format!("{number}.txt"), &[&text])
        })
        .collect();
    add(&mut library, &documents);
    (folder, path, library)
}

fn add(library: &mut Library, documents: &[DocumentRecord]) {
    documents.iter().for_each(|document| crate::fixture::put_vectors(library, document));
    library.commit_documents(documents).unwrap();
}

#[test]
fn a_hit_tells_where_it_is_from() {
    let (_folder, _, mut library) = new_library();
    ingest(&mut library, &document("a/b.txt", &["zero", "one", "two apples", "three", "four"]));
    let filters = Filters::default();
    let asked = Request { context: 2, ..request(Mode::Bm25, "apple", None, &filters) };
    let outcome = search(&library, &asked).unwrap();
    let json = serde_json::to_value(&outcome.hits).unwrap();
    let expected = serde_json::json!([{
        "score": outcome.hits[0].score,
        "title": "Title of a/b.txt",
        "authors": ["Ann Author", "Émile Second"],
        "breadcrumb": ["Part", "Two"],
        "page": 3,
        "chunk_no": 2,
        "text": "two apples",
        "doc_id": document("a/b.txt", &[]).doc_id,
        "point_id": outcome.hits[0].point_id,
        "path": "/srv/books/a/b.txt",
        "relative_path": "a/b.txt",
        "before": ["zero", "one"],
        "after": ["three", "four"],
    }]);
    assert_eq!(json, expected);
    assert!(outcome.hits[0].score > 0.0);
}

#[test]
fn any_text_is_a_query() {
    let (_folder, _, mut library) = new_library();
    ingest(&mut library, &document("a.txt", &["the aero-elastic model's quote", "naïve Größe", "other"]));
    assert_eq!(
        bm25(&library, "\"model's\" AND (NEAR/2 OR text:other* ^x -y) {a} + b\0\u{7}"),
        ["the aero-elastic model's quote", "other"]
    );
    assert_eq!(bm25(&library, "elastic"), ["the aero-elastic model's quote"]);
    assert_eq!(bm25(&library, "naive grosse größe"), ["naïve Größe"]);
    for nothing in ["", " \t\n", "\"", "'", "*", "— …", "\u{0}", "🙂", "OR", "NOT AND"] {
        assert_eq!(bm25(&library, nothing), Vec::<String>::new(), "{nothing:?}");
    }
    let long = "word ".repeat(2000);
    let filters = Filters::default();
    let cut = search(&library, &request(Mode::Bm25, &long, None, &filters)).unwrap();
    assert_eq!(cut.unranked_terms, 2000 - 1024);
}

#[test]
fn filters_hold_in_both_rankings() {
    let (_folder, _, mut library) = new_library();
    let mut english = document("en.txt", &["common words here", "more common words"]);
    let mut french = document("fr.txt", &["common words there"]);
    english.authors = vec!["Jane AUSTEN".to_owned()];
    french.language = None;
    french.detected_language = Some("fr".to_owned());
    french.format = "epub".to_owned();
    french.title = "Élan vital".to_owned();
    add(&mut library, &[english, french]);
    let query = vector("anything");
    let found = |edit: fn(&mut Filters)| {
        let mut filters = Filters::default();
        edit(&mut filters);
        [Mode::Bm25, Mode::Dense, Mode::Hybrid].map(|mode| {
            let outcome = search(&library, &request(mode, "common", Some(&query), &filters)).unwrap();
            let mut paths: Vec<_> = outcome.hits.into_iter().map(|hit| hit.path).collect();
            paths.sort();
            paths
        })
    };
    let (en, fr) = ("/srv/books/en.txt", "/srv/books/fr.txt");
    assert_eq!(found(|filters| filters.author = Some("austen".into())), [[en, en]; 3]);
    assert_eq!(found(|filters| filters.language = Some("EN".into())), [[en, en]; 3]);
    assert_eq!(found(|filters| filters.language = Some("e".into())), [[""; 0]; 3]);
    assert_eq!(found(|filters| filters.language = Some("fr".into())), [[fr]; 3]);
    assert_eq!(found(|filters| filters.format = Some("EPUB".into())), [[fr]; 3]);
    assert_eq!(found(|filters| filters.title = Some("élan".into())), [[fr]; 3]);
    assert_eq!(
        found(|filters| (filters.title, filters.author) = (Some("élan".into()), Some("austen".into()))),
        [[""; 0]; 3]
    );
}

#[test]
fn fusion_is_the_sum_of_reciprocal_ranks() {
    let fused = reciprocal_rank_fusion(&[&[1, 2, 3], &[3, 4]], 60.0);
    let expected = [(3, 1.0 / 63.0 + 1.0 / 61.0), (1, 1.0 / 61.0), (2, 1.0 / 62.0), (4, 1.0 / 62.0)];
    assert_eq!(fused, expected);
}

#[test]
fn ties_do_not_depend_on_the_order_of_work() {
    let documents: Vec<_> =
        (0..30).map(|number| document(&format!("{number}.txt"), &["the very same text"])).collect();
    let query = vector("the very same text");
    let answers = [false, true].map(|reversed| {
        let (_folder, _, mut library) = new_library();
        let mut documents = documents.clone();
        if reversed {
            documents.reverse();
        }
        add(&mut library, &documents);
        [Mode::Hybrid, Mode::Dense, Mode::Bm25].map(|mode| {
            search(&library, &request(mode, "same", Some(&query), &Filters::default())).unwrap().hits
        })
    });
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn requests_that_cannot_be_answered() {
    let (_folder, _, library) = many(3);
    let filters = Filters::default();
    let ask = |vector: Option<&[f32]>| search(&library, &request(Mode::Hybrid, "text", vector, &filters));
    assert!(matches!(ask(None), Err(SearchError::NoVector { .. })));
    assert!(matches!(ask(Some(&[1.0; 3])), Err(SearchError::Dimension { found: 3, expected: DIM })));
    assert!(matches!(ask(Some(&[0.0; DIM])), Err(SearchError::BadVector)));
    assert!(matches!(ask(Some(&[f32::NAN; DIM])), Err(SearchError::BadVector)));
    let greedy = Request { limit: 10_001, ..request(Mode::Bm25, "text", None, &filters) };
    assert!(matches!(search(&library, &greedy), Err(SearchError::TooMany { what: "limit", .. })));
}

#[test]
fn an_empty_library_answers_nothing() {
    let (_folder, path, library) = new_library();
    let outcome = dense(&library, &vector("x"));
    assert_eq!((outcome.hits, outcome.vectors), (vec![], VectorSource::Library { why: None }));
    assert!(!path.with_extension("haul.seg").exists());
    assert_eq!(segment::refresh(&library).unwrap(), Refreshed::Empty);
}

/// The segment goes through everything a library can do to it; each time the answer is that of SQLite alone.
#[test]
fn the_segment_never_changes_an_answer() {
    let (_folder, path, mut library) = many(200);
    let file = path.with_extension("haul.seg");
    let query = Random::new(1).direction(DIM);
    let from_library = |library: &Library| {
        let kept = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let fresh = Library::open_read_only(library.path()).unwrap();
        let outcome = dense(&fresh, &query);
        assert!(matches!(&outcome.vectors, VectorSource::Library { why: Some(_) }), "{:?}", outcome.vectors);
        fs::remove_dir(&file).unwrap();
        fs::write(&file, kept).unwrap();
        outcome.hits
    };
    let kept = VectorSource::Segment { rebuilt_ms: None };
    let rebuilt =
        |outcome: &Outcome| matches!(outcome.vectors, VectorSource::Segment { rebuilt_ms: Some(_) });

    assert_eq!(segment::state(&library).unwrap(), State::Absent);
    let outcome = dense(&library, &query);
    assert!(rebuilt(&outcome));
    assert_eq!(outcome.hits, from_library(&library));
    assert_eq!(dense(&library, &query).vectors, kept);

    // A few newer rows are read beside it; one of them is the best.
    let new = document("new.txt", &["new"]);
    ingest(&mut library, &new);
    let newest = dense(&library, &vector("new"));
    assert_eq!((texts(&newest.hits)[0], &newest.vectors), ("new", &kept));
    assert_eq!(dense(&library, &query).hits, from_library(&library));

    // A few removed rows are masked.
    let best = dense(&library, &query).hits[0].doc_id;
    library.remove_documents(&[best]).unwrap();
    let outcome = dense(&library, &query);
    assert_eq!(outcome.vectors, kept);
    assert!(outcome.hits.iter().all(|hit| hit.doc_id != best));
    assert_eq!(outcome.hits, from_library(&library));
    assert_eq!(
        segment::state(&library).unwrap(),
        State::Usable { rows: 200, newer_rows: 1, removed_rows: 1 }
    );

    // Many changes are worth a new one.
    let gone: Vec<_> = (100..130).map(|n| document(&format!("{n}.txt"), &[""]).doc_id).collect();
    library.remove_documents(&gone).unwrap();
    let outcome = dense(&library, &query);
    assert!(rebuilt(&outcome));
    assert_eq!(outcome.hits, from_library(&library));
    assert_eq!(segment::refresh(&library).unwrap(), Refreshed::Kept);
}

/// A restored backup that went on differently had chunk numbers of its own, and the segment of the other history
/// gave its vectors to them.
#[test]
fn a_segment_of_another_history_is_not_used() {
    let (folder, path, library) = many(50);
    drop(library);
    let backup = folder.path().join("backup");
    fs::copy(&path, &backup).unwrap();

    let mut library = Library::open(&path).unwrap();
    add(&mut library, &[document("x.txt", &["x one", "x two"]), document("y.txt", &["y"])]);
    segment::refresh(&library).unwrap();
    drop(library);

    fs::copy(&backup, &path).unwrap();
    let mut library = Library::open(&path).unwrap();
    add(&mut library, &[document("y.txt", &["y"]), document("x.txt", &["x one", "x two"])]);
    assert!(matches!(segment::state(&library).unwrap(), State::Unusable { .. }));
    assert_eq!(texts(&dense(&library, &vector("x two")).hits)[0], "x two");
}

#[test]
fn drafts_of_killed_builds_are_removed() {
    let (folder, _, library) = many(5);
    let leftover = folder.path().join("books.haul.seg.draft-of-a-dead-process");
    fs::write(&leftover, "half a segment").unwrap();
    segment::refresh(&library).unwrap();
    assert!(!leftover.exists());
}

/// Readers search, and make segments, while a writer adds, replaces and removes documents: no error, every answer
/// of one moment, and the text always that of its vector.
#[test]
fn searching_while_a_writer_works() {
    let (_folder, path, mut library) = many(20);
    let done = std::sync::atomic::AtomicBool::new(false);
    let stopped = || done.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        let readers = [0_usize, 1, 2].map(|seed| {
            let path = &path;
            scope.spawn(move || {
                let library = Library::open_read_only(path).unwrap();
                let mut searches = 0;
                while !stopped() {
                    // Stays through the whole test, so its own text is the nearest to its vector.
                    let text = format!("text number {}", seed + searches % 5);
                    let query = vector(&text);
                    let filters = Filters::default();
                    let outcome =
                        search(&library, &request(Mode::Hybrid, &text, Some(&query), &filters)).unwrap();
                    assert_eq!(outcome.hits.len(), 10);
                    assert_eq!(dense(&library, &query).hits[0].text, text);
                    searches += 1;
                }
                searches
            })
        });
        for round in 0..60 {
            let text = format!("round {round}");
            ingest(&mut library, &document(&format!("r{}.txt", round % 7), &[&text, "shared", "more"]));
            if round % 5 == 4 {
                library.remove_documents(&[document(&format!("r{}.txt", round % 3), &[]).doc_id]).unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    crate::fixture::assert_sound(&library);
}

#[test]
fn a_library_moves_between_threads() {
    fn send<T: Send>() {}
    send::<Library>();
}
