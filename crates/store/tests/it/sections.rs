//! Parents of chunks: kept and checked beside them, never found by a search.

use haul_store::library::{DocumentRecord, Library, SectionRecord, VectorKey, section_point_id};
use haul_store::search::{Filters, Mode, Parents, Request, search};

use crate::fixture::{document, ingest, new_library, settings, vector};

/// Two sections, of the first two chunks and of the rest; of the second, only the beginning is embedded.
pub(crate) fn with_sections(mut document: DocumentRecord) -> DocumentRecord {
    let ranges = [0..2, 2..document.chunks.len()];
    for (number, range) in (0_u32..).zip(ranges) {
        let chunks = &mut document.chunks[range];
        let text: String = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
        let embedded = (number == 1).then(|| format!("{} [truncated]", chunks[0].text));
        let given = embedded.as_deref().unwrap_or(&text);
        let section = SectionRecord {
            point_id: section_point_id(&document.doc_id, &document.revision, number, given),
            vector_key: VectorKey::of(given, &settings().fingerprint()),
            name: format!("Part {number}"),
            start: chunks[0].start,
            end: chunks[chunks.len() - 1].end,
            tokens: 7,
            text,
            embedded,
        };
        chunks.iter_mut().for_each(|chunk| chunk.section_no = Some(number));
        document.sections.push(section);
    }
    document
}

const TEXTS: [&str; 5] = ["the lamp ", "the barge ", "a kettle ", "some bread ", "the end"];

#[test]
fn sections_are_stored_and_never_found() {
    let (_folder, path, mut library) = new_library();
    ingest(&mut library, &with_sections(document("a.txt", &TEXTS)));
    let info = library.info().unwrap();
    assert_eq!((info.chunks, info.sections, info.vectors, info.unreferenced_vectors), (5, 2, 7, 0));
    assert_eq!(library.verify().unwrap().findings, []);
    let filters = Filters::default();
    let query = vector("the lamp the barge ");
    for mode in [Mode::Dense, Mode::Bm25, Mode::Hybrid] {
        let request = Request {
            sparse: None,
            text: "the lamp the barge",
            vector: Some(&query),
            mode,
            filters: &filters,
            limit: 100,
            context: 0,
            parents: Parents::Without,
            min_score: None,
            threads: 1,
        };
        let hits = search(&library, &request).unwrap().hits;
        assert!(!hits.is_empty() && hits.iter().all(|hit| TEXTS.contains(&hit.text.as_str())), "{mode:?}");
    }
    let flat = document("a.txt", &TEXTS);
    let digest = library.digest().unwrap();
    ingest(&mut library, &flat);
    assert_eq!(library.info().unwrap().sections, 0, "the sections go with their revision");
    assert_ne!(library.digest().unwrap(), digest);
    assert_eq!(library.remove_documents(&[flat.doc_id]).unwrap().vectors, 7);
    drop((library, path));
}

#[test]
fn points_are_those_of_a_vector_store() {
    let (_folder, path, mut library) = new_library();
    ingest(&mut library, &with_sections(document("a.txt", &TEXTS)));
    ingest(&mut library, &document("b.txt", &["alone "]));
    let db = rusqlite::Connection::open(&path).unwrap();
    let mut statement = db
        .prepare(
            "SELECT coalesce(p.chunk_level, 'flat'), p.section_name, p.sequence_index, p.sibling_count, p.child_count,
                q.section_name, p.text
            FROM points p LEFT JOIN points q ON q.point_id = p.parent_id ORDER BY p.document_id, p.text",
        )
        .unwrap();
    type Row = (String, String, Option<u32>, Option<u32>, Option<u32>, Option<String>, String);
    let rows: Vec<Row> =
        statement.query_map([], |row| row.try_into()).unwrap().collect::<Result<_, _>>().unwrap();
    let child = |text: &str, name: &str, at, of| {
        let name = name.to_owned();
        ("child".to_owned(), name.clone(), Some(at), Some(of), None, Some(name), text.to_owned())
    };
    let parent = |text: &str, name: &str, of| {
        ("parent".to_owned(), name.to_owned(), None, None, Some(of), None, text.to_owned())
    };
    let expected = [
        child("a kettle ", "Part 1", 0, 3),
        parent("a kettle  [truncated]", "Part 1", 3),
        child("some bread ", "Part 1", 1, 3),
        child("the barge ", "Part 0", 1, 2),
        child("the end", "Part 1", 2, 3),
        child("the lamp ", "Part 0", 0, 2),
        parent("the lamp the barge ", "Part 0", 2),
        ("flat".to_owned(), "One".to_owned(), None, None, None, None, "alone ".to_owned()),
    ];
    assert_eq!(rows, expected);
}

/// A library made before there were sections keeps its digest and takes sections from now on.
#[test]
fn a_library_of_version_1_is_brought_up_to_date() {
    let (_folder, path, mut library) = new_library();
    ingest(&mut library, &document("a.txt", &TEXTS));
    let (digest, fingerprint) = (library.digest().unwrap(), library.settings().fingerprint());
    drop(library);
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "DROP VIEW points; DROP TABLE publications; DROP TABLE sparse_terms; DROP TABLE sections;
        ALTER TABLE roots DROP COLUMN path_check; ALTER TABLE chunks DROP COLUMN section_no; PRAGMA user_version = 1",
    )
    .unwrap();
    let kept: String =
        db.query_row("SELECT value FROM meta WHERE key = 'settings'", [], |row| row.get(0)).unwrap();
    assert!(!kept.contains("chunkers"), "settings of the default chunker are those of version 1: {kept}");
    drop(db);
    let mut library = Library::open(&path).unwrap();
    assert_eq!((library.digest().unwrap(), library.settings().fingerprint()), (digest, fingerprint));
    ingest(&mut library, &with_sections(document("b.txt", &TEXTS)));
    assert_eq!(library.verify().unwrap().findings, []);
}

#[test]
fn damage_to_a_section_is_found() {
    let (_folder, path, mut library) = new_library();
    ingest(&mut library, &with_sections(document("a.txt", &TEXTS)));
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute("UPDATE sections SET text = 'another' WHERE section_no = 0", []).unwrap();
    let found: Vec<_> = library.verify().unwrap().findings.into_iter().map(|finding| finding.check).collect();
    assert_eq!(found, ["section", "section"]);
}
