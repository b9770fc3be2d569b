//! Each kind of damage is found by name.

use haul_store::library::Library;
use rusqlite::Connection;

use crate::fixture::{document, ingest, new_library, vector};

/// Edits the tables behind the library's back and returns the checks that noticed.
fn checks_after(edit: &str) -> Vec<&'static str> {
    let (_folder, path, mut library) = new_library();
    ingest(&mut library, &document("a.txt", &["alpha beta", "gamma", "delta"]));
    ingest(&mut library, &document("b.txt", &["epsilon"]));
    drop(library);
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!("PRAGMA foreign_keys = OFF; {edit};")).unwrap();
    drop(db);
    let report = Library::open_read_only(&path).unwrap().verify().unwrap();
    let mut checks: Vec<_> = report.findings.iter().map(|finding| finding.check).collect();
    checks.dedup();
    checks
}

#[test]
fn sound() {
    assert_eq!(checks_after("SELECT 1"), Vec::<&str>::new());
}

#[test]
fn a_vector_is_gone() {
    assert_eq!(checks_after("DELETE FROM vectors WHERE vector_id = 2"), ["references"]);
}

#[test]
fn a_vector_has_other_numbers() {
    assert_eq!(checks_after("UPDATE vectors SET row = zeroblob(48) WHERE vector_id = 1"), ["vector"]);
    assert_eq!(checks_after("UPDATE vectors SET row = zeroblob(46) WHERE vector_id = 1"), ["vector"]);
}

#[test]
fn two_vectors_are_swapped() {
    let swap = "UPDATE chunks SET vector_id = 3 WHERE chunk_id = 1";
    assert_eq!(checks_after(swap), ["chunk"]);
}

#[test]
fn a_text_is_edited() {
    let edit = "DROP TRIGGER chunks_fts_update; UPDATE chunks SET text = 'omega' WHERE chunk_id = 1";
    assert_eq!(checks_after(edit), ["full_text", "chunk"]);
}

#[test]
fn a_page_is_edited() {
    assert_eq!(checks_after("UPDATE chunks SET page = 9 WHERE chunk_id = 1"), ["chunk"]);
}

#[test]
fn a_title_is_edited() {
    assert_eq!(checks_after("UPDATE documents SET title = 'x' WHERE document_id = 1"), ["document"]);
}

#[test]
fn a_chunk_is_gone() {
    assert_eq!(checks_after("DELETE FROM chunks WHERE chunk_id = 2"), ["document", "manifest"]);
}

#[test]
fn full_text_is_out_of_step() {
    let gone = "INSERT INTO chunks_fts (chunks_fts, rowid, text) VALUES ('delete', 2, 'gamma')";
    assert_eq!(checks_after(gone), ["full_text"]);
    let stray = "INSERT INTO chunks_fts (rowid, text) VALUES (99, 'stray')";
    assert_eq!(checks_after(stray), ["full_text"]);
}

#[test]
fn a_manifest_row_is_wrong() {
    assert_eq!(checks_after("UPDATE manifest SET chunks = 7 WHERE relative_path = 'b.txt'"), ["manifest"]);
    assert_eq!(checks_after("DELETE FROM documents WHERE document_id = 2"), ["references", "manifest"]);
}

/// Flips one bit at a time, in bytes that are not zero, all over the file. Each flip is refused at opening, or
/// found, or leaves the digest as it was (remains of old rows, the log of ingests); none panics.
#[test]
fn flipped_bits_never_pass_for_content() {
    let (folder, path, mut library) = new_library();
    for number in 0..20 {
        let text = format!("text of document {number}, with some words");
        ingest(&mut library, &document(&format!("{number}.txt"), &[&text, "shared"]));
    }
    let digest = library.digest().unwrap();
    drop(library);
    let whole = std::fs::read(&path).unwrap();
    let damaged = folder.path().join("damaged.haul");
    let (mut refused, mut found, mut harmless) = (0, 0, 0);
    let used: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] != 0).collect();
    for &at in used.iter().step_by(used.len() / 400) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&damaged, &bytes).unwrap();
        match Library::open_read_only(&damaged) {
            Err(_) => refused += 1,
            Ok(library) if library.verify().is_ok_and(|report| report.findings.is_empty()) => {
                assert_eq!(library.digest().unwrap(), digest, "byte {at}");
                harmless += 1;
            }
            Ok(_) => found += 1,
        }
    }
    println!("flips: {refused} refused, {found} found, {harmless} harmless");
    assert!(refused + found > 200, "{refused} refused, {found} found, {harmless} harmless");
}

#[test]
fn a_damaged_segment_is_found_and_not_searched() {
    use haul_store::search::{Filters, Mode, Parents, Request, VectorSource, search};
    let (_folder, path, mut library) = new_library();
    ingest(&mut library, &document("a.txt", &["alpha", "beta", "gamma"]));
    haul_store::segment::refresh(&library).unwrap();
    drop(library);
    let segment = path.with_extension("haul.seg");
    let whole = std::fs::read(&segment).unwrap();
    let query = vector("beta");
    for at in [0, 9, 40, 200, 256, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::remove_file(&segment).unwrap();
        std::fs::write(&segment, &bytes).unwrap();
        let library = Library::open_read_only(&path).unwrap();
        let report = library.verify().unwrap();
        let checks: Vec<_> = report.findings.iter().map(|finding| finding.check).collect();
        assert_eq!(checks, ["segment"], "byte {at}");
        let request = Request {
            text: "",
            vector: Some(&query),
            sparse: None,
            mode: Mode::Dense,
            filters: &Filters::default(),
            limit: 1,
            context: 0,
            parents: Parents::Without,
            min_score: None,
            threads: 1,
        };
        let outcome = search(&library, &request).unwrap();
        assert_eq!(outcome.hits[0].text, "beta");
        if at + 1 < whole.len() {
            assert!(matches!(outcome.vectors, VectorSource::Segment { rebuilt_ms: Some(_) }), "byte {at}");
        }
    }
}
