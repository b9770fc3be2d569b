//! Several libraries into one: what comes along, what stays, what is refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use haul_store::library::{
    DocumentMetadata, DocumentUpdate, Library, LibrarySettings, MergeError, VectorKey, VectorName,
};
use haul_store::search::{Filters, Mode, Parents, Request, search};
use tempfile::TempDir;

use crate::fixture::{
    Random, assert_sound, document, ingest, manifest_row, new_library, put_vectors, settings, vector,
};
use crate::sections::with_sections;

const TEXTS: [&str; 3] = ["the lamp ", "the barge ", "a kettle "];

/// A library beside others, filled and closed.
fn library(folder: &TempDir, name: &str, fill: impl FnOnce(&mut Library)) -> PathBuf {
    let path = folder.path().join(name);
    fill(&mut Library::create(&path, &settings()).unwrap());
    path
}

fn digest(path: &Path) -> String {
    let library = Library::open_read_only(path).unwrap();
    assert_sound(&library);
    library.digest().unwrap()
}

fn log_rows(path: &Path) -> u64 {
    let db = rusqlite::Connection::open(path).unwrap();
    db.query_row("SELECT count(*) FROM ingest_log", [], |row| row.get(0)).unwrap()
}

#[test]
fn everything_comes_along_once() {
    let folder = tempfile::tempdir().unwrap();
    let cached = VectorKey::of("a text without a chunk", &settings().fingerprint());
    // Chunks of the same text share a vector, also across libraries.
    let (a, b, c) =
        (document("a.txt", &TEXTS), document("b.txt", &["the lamp ", "alone "]), document("c.txt", &["c "]));
    let a = with_sections(a);
    let broken = manifest_row(&document("broken.txt", &["x "]), "corrupt", Some("not a text"));
    let stale = |library: &mut Library| {
        ingest(library, &c);
        let mut row = manifest_row(&document("c.txt", &["newer "]), "corrupt", Some("broke"));
        row.chunks = 0;
        library.record_verdict(&[row]).unwrap();
    };
    let first = library(&folder, "first.haul", |library| {
        ingest(library, &a);
        library.put_vectors(VectorName::Dense, &[(cached, &vector("cached"))]).unwrap();
    });
    let second = library(&folder, "second.haul", |library| {
        ingest(library, &b);
        stale(library);
        library.record_verdict(std::slice::from_ref(&broken)).unwrap();
    });
    let whole = library(&folder, "whole.haul", |library| {
        ingest(library, &a);
        ingest(library, &b);
        stale(library);
        library.record_verdict(std::slice::from_ref(&broken)).unwrap();
        library.put_vectors(VectorName::Dense, &[(cached, &vector("cached"))]).unwrap();
    });
    let out = folder.path().join("out.haul");
    let inputs = [first.clone(), second.clone()];
    let taken = Library::merge(&out, &inputs).unwrap();
    let found: Vec<_> = taken.iter().map(|t| (t.documents, t.chunks, t.vectors, t.not_ok, t.known)).collect();
    assert_eq!(found, [(1, 3, 6, 0, 0), (2, 3, 2, 2, 0)]);
    assert_eq!(digest(&out), digest(&whole));
    let counts = |path: &Path| {
        let info = Library::open_read_only(path).unwrap().info().unwrap();
        (
            info.documents,
            info.stale_documents,
            info.sections,
            info.vectors,
            info.unreferenced_vectors,
            info.by_verdict,
        )
    };
    assert_eq!(counts(&out), counts(&whole));
    assert_eq!(Library::open_read_only(&out).unwrap().manifest().unwrap().len(), 4);
    assert_eq!(log_rows(&out), log_rows(&whole));

    // Again: nothing new. Further: what is new.
    Library::merge(&out, &inputs).unwrap();
    assert_eq!((digest(&out), log_rows(&out)), (digest(&whole), log_rows(&whole)));
    ingest(&mut Library::open(&first).unwrap(), &document("d.txt", &["d "]));
    let taken = Library::merge(&out, &inputs).unwrap();
    assert_eq!((taken[0].documents, taken[0].known, taken[1].documents), (1, 1, 0));
    assert_eq!(log_rows(&out), log_rows(&whole) + 1);
    digest(&out);
}

#[test]
fn a_good_document_takes_the_place_of_one_that_failed() {
    let folder = tempfile::tempdir().unwrap();
    let good = document("a.txt", &TEXTS);
    let failed = manifest_row(&good, "timeout", Some("took too long"));
    let first = library(&folder, "first.haul", |library| {
        library.record_verdict(std::slice::from_ref(&failed)).unwrap();
    });
    let second = library(&folder, "second.haul", |library| ingest(library, &good));
    for (out, inputs) in [("one.haul", [&first, &second]), ("two.haul", [&second, &first])] {
        let out = folder.path().join(out);
        Library::merge(&out, &inputs.map(Clone::clone)).unwrap();
        assert_eq!(digest(&out), digest(&second));
        let rows = Library::open_read_only(&out).unwrap().manifest().unwrap();
        assert_eq!((rows.len(), rows[0].verdict.as_str(), rows[0].chunks), (1, "ok", 3));
    }
}

/// A book was tagged again after its shard had been merged: the shard merged once more brings the tags, in any order.
#[test]
fn newer_metadata_replace_the_older() {
    let folder = tempfile::tempdir().unwrap();
    let before = document("a.txt", &TEXTS);
    let first = library(&folder, "first.haul", |library| ingest(library, &before));
    let mut tagged = before.clone();
    tagged.title = "Another title".to_owned();
    let second = library(&folder, "second.haul", |library| {
        ingest(library, &before);
        let metadata = DocumentMetadata {
            source: tagged.source.clone(),
            source_id: tagged.source_id.clone(),
            title: tagged.title.clone(),
            authors: tagged.authors.clone(),
            language: tagged.language.clone(),
            metadata: tagged.metadata.clone(),
        };
        std::thread::sleep(Duration::from_millis(2));
        let row = manifest_row(&tagged, "ok", None);
        library.update_documents(&[DocumentUpdate { row, metadata: Some(metadata) }]).unwrap();
    });
    for (out, inputs) in [("one.haul", [&first, &second]), ("two.haul", [&second, &first])] {
        let out = folder.path().join(out);
        let taken = Library::merge(&out, &inputs.map(Clone::clone)).unwrap();
        assert_eq!(digest(&out), digest(&second));
        assert_eq!(taken.iter().map(|taken| taken.vectors).sum::<u64>(), 3);
        Library::merge(&out, &inputs.map(Clone::clone)).unwrap();
        assert_eq!(digest(&out), digest(&second));
    }
}

/// Words and vectors find what came with a merge, also where the segment was made before it.
#[test]
fn a_merged_library_is_searched_whole() {
    let (folder, path, mut out) = new_library();
    ingest(&mut out, &document("a.txt", &TEXTS));
    let filters = Filters::default();
    let query = vector("an octopus ");
    let hits = |library: &Library, mode| {
        let request = Request {
            text: "octopus",
            vector: Some(&query),
            mode,
            filters: &filters,
            limit: 10,
            context: 0,
            sparse: None,
            parents: Parents::Without,
            min_score: None,
            threads: 1,
        };
        search(library, &request).unwrap().hits
    };
    assert!(hits(&out, Mode::Bm25).is_empty());
    hits(&out, Mode::Dense);
    drop(out);
    let other =
        library(&folder, "other.haul", |library| ingest(library, &document("b.txt", &["an octopus ", "b "])));
    Library::merge(&path, &[other]).unwrap();
    let out = Library::open_read_only(&path).unwrap();
    for mode in [Mode::Bm25, Mode::Dense, Mode::Hybrid] {
        assert_eq!(hits(&out, mode)[0].text, "an octopus ", "{mode:?}");
    }
    assert_sound(&out);
}

#[test]
fn what_does_not_go_together_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let first = library(&folder, "first.haul", |library| ingest(library, &document("a.txt", &TEXTS)));
    let changed =
        library(&folder, "changed.haul", |library| ingest(library, &document("a.txt", &["other "])));
    let other = folder.path().join("other.haul");
    drop(Library::create(&other, &LibrarySettings { chunk_tokens: 20, ..settings() }).unwrap());
    let out = folder.path().join("out.haul");
    let refused = |inputs: &[&PathBuf]| {
        let inputs: Vec<PathBuf> = inputs.iter().map(|input| (*input).clone()).collect();
        let error = Library::merge(&out, &inputs).unwrap_err();
        assert!(!out.exists() && error.hint().is_some(), "{error}");
        error
    };
    let error = refused(&[&first, &other]);
    assert!(
        matches!(&error, MergeError::Settings { differences, .. } if differences[0].name == "chunk_tokens"),
        "{error}"
    );
    let error = refused(&[&first, &changed]);
    assert!(
        matches!(&error, MergeError::Revisions { relative_path, .. } if relative_path == "a.txt"),
        "{error}"
    );
    assert!(
        error.to_string().contains("first.haul") && error.to_string().contains("changed.haul"),
        "{error}"
    );
    let before = digest(&first);
    let error = Library::merge(&first, std::slice::from_ref(&changed)).unwrap_err();
    assert!(matches!(error, MergeError::Revisions { .. }), "{error}");
    // By whatever name: links and dots.
    let link = folder.path().join("link.haul");
    std::os::unix::fs::symlink(&first, &link).unwrap();
    for same in [&first, &link, &folder.path().join("./first.haul")] {
        let error = Library::merge(&first, std::slice::from_ref(same)).unwrap_err();
        assert!(matches!(error, MergeError::Itself { .. }), "{error}");
    }
    assert_eq!(digest(&first), before);
}

/// The order of libraries, and of documents in them, changes nothing.
#[test]
fn any_order_gives_the_same_library() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(3);
    let documents: Vec<_> = (0..12)
        .map(|number| {
            let texts: Vec<String> = (0..=number % 3).map(|no| format!("text {number} {no} ")).collect();
            document(&format!("{number}.txt"), &texts.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .collect();
    let whole = library(&folder, "whole.haul", |library| {
        documents.iter().for_each(|document| ingest(library, document));
    });
    let shards: Vec<PathBuf> = (0..4)
        .map(|shard| {
            library(&folder, &format!("{shard}.haul"), |library| {
                let own = documents.iter().enumerate().filter(|(number, _)| number % 4 == shard);
                own.for_each(|(_, document)| ingest(library, document));
            })
        })
        .collect();
    for trial in 0..4 {
        let mut inputs = shards.clone();
        (1..inputs.len()).rev().for_each(|last| inputs.swap(last, random.below(last as u64 + 1) as usize));
        let out = folder.path().join(format!("out-{trial}.haul"));
        Library::merge(&out, &inputs).unwrap();
        assert_eq!(digest(&out), digest(&whole), "{inputs:?}");
    }
}

#[test]
fn a_deleted_line_makes_its_file_be_read_again() {
    let (_folder, _path, mut library) = new_library();
    for part in ["1", "2"] {
        let mut line = document("notes.jsonl", &[&format!("line {part} ")]);
        line.part = Some(part.to_owned());
        line.doc_id = haul_store::library::doc_id_for_file("default", "notes.jsonl", Some(part));
        let chunk = &mut line.chunks[0];
        chunk.point_id = haul_store::library::point_id(&line.doc_id, &line.revision, 0, &chunk.text);
        put_vectors(&mut library, &line);
        library.commit_documents(&[line]).unwrap();
    }
    ingest(&mut library, &document("a.txt", &TEXTS));
    let rows = library.manifest().unwrap();
    let line = rows.iter().find(|row| row.part.as_deref() == Some("1")).unwrap();
    let removed = library.delete_documents(&[line.doc_id]).unwrap();
    assert_eq!((removed.documents, removed.chunks, removed.vectors), (1, 1, 1));
    let times: Vec<_> = library
        .manifest()
        .unwrap()
        .into_iter()
        .map(|row| (row.relative_path, row.modified_ns.is_some()))
        .collect();
    assert_eq!(times, [("a.txt".to_owned(), true), ("notes.jsonl".to_owned(), false)]);
    assert_sound(&library);
}
