//! Sparse vectors: what a search ranks by them, and that they come, go and are checked with their chunks.

use haul_store::library::{
    DocumentRecord, Library, LibrarySettings, VectorKey, VectorName, WriteError, revision,
};
use haul_store::search::{Filters, Mode, Parents, Request, SearchError, reciprocal_rank_fusion, search};
use rusqlite::Connection;

use crate::fixture::{assert_sound, document, new_library, settings, vector};

fn sparse_settings() -> LibrarySettings {
    LibrarySettings { sparse: true, ..settings() }
}

/// As `fixture::document`, with the ids of a library that stores sparse vectors.
fn sparse_document(path: &str, texts: &[&str]) -> DocumentRecord {
    let mut record = document(path, texts);
    let fingerprint = sparse_settings().fingerprint();
    record.revision = revision(&record.content_hash, &fingerprint);
    for chunk in &mut record.chunks {
        chunk.vector_key = VectorKey::of(&chunk.text, &fingerprint);
        let (doc_id, text) = (&record.doc_id, &chunk.text);
        chunk.point_id = haul_store::library::point_id(doc_id, &record.revision, chunk.chunk_no, text);
    }
    record
}

/// A text is `token:weight token:weight`.
fn terms(text: &str) -> Vec<(u32, f32)> {
    let term =
        |word: &str| word.split_once(':').map(|(id, weight)| (id.parse().unwrap(), weight.parse().unwrap()));
    text.split(' ').map(|word| term(word).unwrap()).collect()
}

fn put(library: &mut Library, document: &DocumentRecord) {
    for chunk in &document.chunks {
        library.put_sparse(&[(chunk.vector_key, &terms(&chunk.text))]).unwrap();
        library.put_vectors(VectorName::Dense, &[(chunk.vector_key, &vector(&chunk.text))]).unwrap();
    }
    library.commit_documents(std::slice::from_ref(document)).unwrap();
}

fn library() -> (tempfile::TempDir, std::path::PathBuf, Library) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books.haul");
    let mut library = Library::create(&path, &sparse_settings()).unwrap();
    put(&mut library, &sparse_document("a.txt", &["3:0.5 7:0.25", "3:0.125 9:2", "250001:1"]));
    put(&mut library, &sparse_document("b.txt", &["7:0.75 9:0.5"]));
    (folder, path, library)
}

fn ask(
    library: &Library,
    mode: Mode,
    sparse: &str,
    filters: &Filters,
) -> Result<Vec<(String, f64)>, SearchError> {
    let (query, sparse) = (vector("3:0.5 7:0.25"), terms(sparse));
    let request = Request {
        text: "3 7",
        vector: Some(&query),
        sparse: Some(&sparse),
        mode,
        filters,
        limit: 10,
        context: 0,
        parents: Parents::Without,
        min_score: None,
        threads: 1,
    };
    Ok(search(library, &request)?.hits.into_iter().map(|hit| (hit.text, hit.score)).collect())
}

#[test]
fn the_score_is_the_sum_over_common_tokens() {
    let (_folder, _, library) = library();
    let found = ask(&library, Mode::Sparse, "3:2 7:1 8:5", &Filters::default()).unwrap();
    let expected = [("3:0.5 7:0.25", 1.25), ("7:0.75 9:0.5", 0.75), ("3:0.125 9:2", 0.25)]
        .map(|(text, score)| (text.to_owned(), score));
    assert_eq!(found, expected);
    let only = Filters { title: Some("b.txt".to_owned()), ..Filters::default() };
    let found = ask(&library, Mode::Sparse, "3:2 7:1", &only).unwrap();
    assert_eq!(found, [("7:0.75 9:0.5".to_owned(), 0.75)]);
    assert_eq!(ask(&library, Mode::Sparse, "8:1", &Filters::default()).unwrap(), []);
}

#[test]
fn hybrid_fuses_three_rankings() {
    let (_folder, _, library) = library();
    let mode = |mode| ask(&library, mode, "9:1", &Filters::default()).unwrap();
    let rankings = [Mode::Dense, Mode::Sparse, Mode::Bm25].map(mode);
    let texts = ["3:0.5 7:0.25", "3:0.125 9:2", "250001:1", "7:0.75 9:0.5"];
    let ids = rankings.map(|ranking| {
        ranking
            .iter()
            .map(|(text, _)| texts.iter().position(|t| t == text).unwrap() as i64)
            .collect::<Vec<_>>()
    });
    assert!(ids.iter().all(|ids| !ids.is_empty()), "{ids:?}");
    let fused = reciprocal_rank_fusion(&[&ids[0], &ids[1], &ids[2]], 60.0);
    for (id, score) in fused {
        let found = mode(Mode::Hybrid).into_iter().find(|(text, _)| *text == texts[id as usize]).unwrap();
        assert!((found.1 - score).abs() < 1e-12, "{found:?}, not {score}");
    }
}

#[test]
fn terms_come_and_go_with_their_chunks() {
    let (_folder, path, mut library) = library();
    let count =
        |sql: &str| Connection::open(&path).unwrap().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let terms = "SELECT count(*) FROM sparse_terms";
    assert_eq!((count(terms), library.info().unwrap().vectors), (7, 4));
    let first = library.digest().unwrap();
    put(&mut library, &sparse_document("a.txt", &["5:1"]));
    assert_eq!(count(terms), 3);
    assert_eq!(ask(&library, Mode::Sparse, "3:1", &Filters::default()).unwrap(), []);
    assert_sound(&library);
    put(&mut library, &sparse_document("a.txt", &["3:0.5 7:0.25", "3:0.125 9:2", "250001:1"]));
    assert_eq!(library.digest().unwrap(), first);
    let removed = library.remove_documents(&[sparse_document("a.txt", &[]).doc_id]).unwrap();
    assert_eq!((removed.chunks, removed.vectors), (3, 4));
    assert_eq!((count(terms), count("SELECT count(*) FROM vectors")), (2, 2));
    assert_sound(&library);
}

#[test]
fn a_chunk_without_its_sparse_vector_is_refused() {
    let (_folder, _, mut library) = library();
    let record = sparse_document("c.txt", &["1:1"]);
    let key = record.chunks[0].vector_key;
    library.put_vectors(VectorName::Dense, &[(key, &vector("1:1"))]).unwrap();
    let refused = library.commit_documents(std::slice::from_ref(&record)).unwrap_err();
    assert!(matches!(refused, WriteError::Inconsistent { .. }), "{refused}");
    for bad in [[(2, 0.5), (1, 0.5)], [(1, f32::NAN), (2, 1.0)]] {
        assert!(matches!(library.put_sparse(&[(key, &bad)]), Err(WriteError::BadVector { .. })));
    }
    assert_sound(&library);
}

/// The digest is that of dense vectors and of sparse ones.
#[test]
fn the_digest_knows_sparse_vectors() {
    let digest = |weight: &str| {
        let folder = tempfile::tempdir().unwrap();
        let mut library = Library::create(&folder.path().join("x.haul"), &sparse_settings()).unwrap();
        let record = sparse_document("a.txt", &["3:0.5"]);
        let key = record.chunks[0].vector_key;
        library.put_sparse(&[(key, &terms(weight))]).unwrap();
        library.put_vectors(VectorName::Dense, &[(key, &vector("3:0.5"))]).unwrap();
        library.commit_documents(&[record]).unwrap();
        library.digest().unwrap()
    };
    assert_eq!(digest("3:0.5"), digest("3:0.5"));
    assert_ne!(digest("3:0.5"), digest("3:0.25"));
}

#[test]
fn damage_to_sparse_vectors_is_found() {
    for edit in [
        "DELETE FROM sparse_terms WHERE token = 9 AND weight = 16384",
        "UPDATE sparse_terms SET weight = weight + 1 WHERE token = 3",
        "UPDATE sparse_terms SET token = 4 WHERE token = 3",
        "INSERT INTO sparse_terms VALUES (1, 99, 15360)",
        "UPDATE vectors SET row = zeroblob(12) WHERE name = 'sparse' AND vector_id = 1",
        "DELETE FROM vectors WHERE name = 'sparse' AND vector_id = 1",
    ] {
        let (_folder, path, library) = library();
        drop(library);
        let changed = Connection::open(&path).unwrap().execute(edit, []).unwrap();
        assert!(changed > 0, "{edit}");
        let report = Library::open_read_only(&path).unwrap().verify().unwrap();
        assert!(!report.findings.is_empty(), "{edit}");
        assert!(
            report.findings.iter().all(|finding| finding.check == "sparse"),
            "{edit}: {:?}",
            report.findings
        );
    }
}

#[test]
fn a_library_without_sparse_vectors_says_so() {
    let (_folder, _, library) = new_library();
    let refused = ask(&library, Mode::Sparse, "1:1", &Filters::default()).unwrap_err();
    assert!(matches!(refused, SearchError::NoSparse), "{refused}");
    assert!(refused.hint().is_some());
    assert_ne!(settings().fingerprint(), sparse_settings().fingerprint());
    let stored = serde_json::to_string(&settings()).unwrap();
    assert!(!stored.contains("sparse"), "{stored}");
}
