//! Commits, verdicts, removals, and the digest over them.

use haul_store::library::{
    DocumentMetadata, DocumentUpdate, Library, Removed, VectorFault, VectorKey, VectorName, WriteError,
    storable,
};

use crate::fixture::{
    DIM, assert_sound, document, ingest, manifest_row, new_library, put_vectors, settings, vector,
};

#[test]
fn the_digest_knows_content_and_nothing_else() {
    let (a, b) = (document("a.txt", &["one", "two", "three"]), document("b.txt", &["two", "four"]));
    let (_folder, _, mut library) = new_library();
    ingest(&mut library, &a);
    ingest(&mut library, &b);

    let (_folder, _, mut other) = new_library();
    let mut moved = b.clone();
    moved.root = "/elsewhere".to_owned();
    moved.modified_ns = None;
    moved.cost.hostname = "there".to_owned();
    put_vectors(&mut other, &document("unused.txt", &["a vector no chunk uses"]));
    ingest(&mut other, &moved);
    ingest(&mut other, &document("a.txt", &["an older text"]));
    ingest(&mut other, &a);
    assert_eq!(library.digest().unwrap(), other.digest().unwrap());
    assert_sound(&other);

    let mut retitled = a.clone();
    retitled.title.push('!');
    ingest(&mut other, &retitled);
    assert_ne!(library.digest().unwrap(), other.digest().unwrap());
}

#[test]
fn a_new_revision_replaces_the_old_one_whole() {
    let (_folder, _, mut library) = new_library();
    ingest(&mut library, &document("a.txt", &["alpha", "beta", "gamma"]));
    ingest(&mut library, &document("a.txt", &["delta"]));
    let info = library.info().unwrap();
    assert_eq!((info.documents, info.chunks, info.unreferenced_vectors), (1, 1, 3));
    assert_sound(&library);
}

#[test]
fn a_chunk_without_its_vector_is_refused_and_nothing_is_committed() {
    let (_folder, _, mut library) = new_library();
    let (a, b) = (document("a.txt", &["one"]), document("b.txt", &["two"]));
    put_vectors(&mut library, &a);
    let refused = library.commit_documents(&[a, b.clone()]).unwrap_err();
    assert!(matches!(refused, WriteError::MissingVector { doc_id, chunk_no: 0, .. } if doc_id == b.doc_id));
    let info = library.info().unwrap();
    assert_eq!((info.documents, info.chunks, info.generation), (0, 0, 0));
    assert_eq!(library.manifest().unwrap(), []);
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let good = document("a.txt", &["one", "two"]);
    let (_folder, _, mut library) = new_library();
    put_vectors(&mut library, &good);
    let edits: [fn(&mut haul_store::library::DocumentRecord); 8] = [
        |document| document.revision[0] ^= 1,
        |document| document.chunks.clear(),
        |document| document.chunks.swap(0, 1),
        |document| document.chunks[1].text.push('!'),
        |document| document.chunks[1].vector_key.0[0] ^= 1,
        |document| document.chunks[1].chapter = 2,
        |document| document.chunks[1].page = Some(0),
        |document| document.chunks[1].start = document.chunks[1].end + 1,
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        let mut bad = good.clone();
        edit(&mut bad);
        let refused = library.commit_documents(&[bad]);
        assert!(matches!(refused, Err(WriteError::Inconsistent { .. })), "edit {number}: {refused:?}");
    }
    library.commit_documents(&[good]).unwrap();
}

#[test]
fn vectors_without_a_direction_are_refused() {
    let (_folder, _, mut library) = new_library();
    let key = VectorKey::of("text", &settings().fingerprint());
    let good = vector("other");
    for bad in [f32::NAN, f32::INFINITY, 70_000.0] {
        let mut row = vector("text");
        row[5] = bad;
        let rows = [(VectorKey([1; 32]), good.as_slice()), (key, row.as_slice())];
        let refused = library.put_vectors(VectorName::Dense, &rows).unwrap_err();
        assert!(
            matches!(refused, WriteError::BadVector { fault: VectorFault::Number { place: 5, .. }, .. }),
            "{refused}"
        );
        assert!(matches!(storable(&row, DIM), Err(VectorFault::Number { place: 5, .. })));
    }
    let rows: [(&[f32], _); 3] = [
        (&[1e-9; DIM], VectorFault::Zero),
        (&[-0.0; DIM], VectorFault::Zero),
        (&[1.0; 3], VectorFault::Dimension { found: 3, expected: DIM }),
    ];
    for (row, expected) in rows {
        let refused = library.put_vectors(VectorName::Dense, &[(key, row)]).unwrap_err();
        assert!(matches!(refused, WriteError::BadVector { fault, .. } if fault == expected), "{refused}");
        assert_eq!(storable(row, DIM), Err(expected));
    }
    assert_eq!(storable(&good, DIM), Ok(()));
    assert_eq!(storable(&[65_504.0; DIM], DIM), Ok(()));
    assert_eq!(library.info().unwrap().vectors, 0);
}

#[test]
fn missing_vectors_are_each_named_once_in_order() {
    let (_folder, _, mut library) = new_library();
    put_vectors(&mut library, &document("a.txt", &["here"]));
    let keys = ["c", "here", "b", "c"].map(|text| VectorKey::of(text, &settings().fingerprint()));
    assert_eq!(library.missing_vectors(&keys).unwrap(), [keys[0], keys[2]]);
}

#[test]
fn a_failed_revision_leaves_the_good_one_searchable_and_says_so() {
    let (_folder, path, mut library) = new_library();
    let good = document("a.txt", &["one", "two"]);
    ingest(&mut library, &good);
    let digest = library.digest().unwrap();
    let broken = document("a.txt", &["garbage"]);
    for attempts in 1..=2 {
        library.record_verdict(&[manifest_row(&broken, "corrupt", Some("bad zip"))]).unwrap();
        let mut expected = manifest_row(&broken, "corrupt", Some("bad zip"));
        (expected.chunks, expected.attempts) = (2, attempts);
        assert_eq!(library.manifest().unwrap(), [expected]);
    }
    let info = library.info().unwrap();
    assert_eq!((info.documents, info.stale_documents, info.digest), (1, 1, digest));
    let reason: String = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("SELECT stale_reason FROM documents", [], |row| row.get(0))
        .unwrap();
    assert_eq!(reason, "corrupt: bad zip");
    assert_sound(&library);

    ingest(&mut library, &good);
    assert_eq!(library.info().unwrap().stale_documents, 0);
    assert_sound(&library);
}

#[test]
fn verdicts_of_documents_never_seen() {
    let (_folder, _, mut library) = new_library();
    let row = manifest_row(&document("a.pdf", &["x"]), "needs_ocr", None);
    library.record_verdict(std::slice::from_ref(&row)).unwrap();
    assert_eq!(library.info().unwrap().by_verdict, [("needs_ocr".to_owned(), 1)].into());
    for verdict in ["ok", "fine", ""] {
        let mut bad = row.clone();
        verdict.clone_into(&mut bad.verdict);
        assert!(matches!(library.record_verdict(&[bad]), Err(WriteError::Inconsistent { .. })), "{verdict}");
    }
    assert_sound(&library);
}

#[test]
fn touch_moves_what_is_unchanged_and_refuses_what_is_not() {
    let (_folder, _, mut library) = new_library();
    let a = document("a.txt", &["one"]);
    ingest(&mut library, &a);
    let mut row = manifest_row(&a, "ok", None);
    (row.root, row.modified_ns, row.size_bytes) = ("/new/place".to_owned(), Some(5), 7);
    row.relative_path = "renamed.txt".to_owned();
    library.touch(std::slice::from_ref(&row)).unwrap();
    assert_eq!(library.manifest().unwrap(), [row.clone()]);
    assert_sound(&library);
    row.revision[0] ^= 1;
    assert!(matches!(library.touch(&[row]), Err(WriteError::Inconsistent { .. })));
}

#[test]
fn removal_takes_text_manifest_and_unused_vectors() {
    let (_folder, _, mut library) = new_library();
    let (a, b) = (document("a.txt", &["shared", "mine"]), document("b.txt", &["shared"]));
    ingest(&mut library, &b);
    let digest = library.digest().unwrap();
    ingest(&mut library, &a);
    let absent = document("c.txt", &["x"]).doc_id;
    let removed = library.remove_documents(&[a.doc_id, absent]).unwrap();
    assert_eq!((removed.documents, removed.chunks, removed.vectors), (1, 2, 1));
    assert_eq!(library.digest().unwrap(), digest);
    assert_eq!(library.manifest().unwrap().len(), 1);
    assert_sound(&library);
}

/// Every ingest asks for this at its end, mostly with nothing to remove: that made a generation each time.
#[test]
fn removing_nothing_writes_nothing() {
    let (_folder, path, mut library) = new_library();
    ingest(&mut library, &document("a.txt", &["one", "two"]));
    let other = rusqlite::Connection::open(&path).unwrap();
    let state = || {
        let data_version: i64 = other.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap();
        let newest = "SELECT max(generation) FROM generations";
        (data_version, other.query_row(newest, [], |row| row.get::<_, i64>(0)).unwrap())
    };
    let before = state();
    let absent = document("c.txt", &["x"]).doc_id;
    for ids in [&[][..], &[absent]] {
        assert_eq!(library.remove_documents(ids).unwrap(), Removed::default());
        assert_eq!(state(), before);
    }
    put_vectors(&mut library, &document("b.txt", &["never committed"]));
    assert_eq!(library.remove_documents(&[]).unwrap().vectors, 1);
    assert_eq!(state().1, before.1 + 1);
}

#[test]
fn readers_do_not_write() {
    let (_folder, path, library) = new_library();
    drop(library);
    let mut reader = Library::open_read_only(&path).unwrap();
    assert!(matches!(reader.remove_documents(&[]), Err(WriteError::ReadOnly { .. })));
}

/// Alexandria's own queries run on these columns.
#[test]
fn the_views_have_alexandrias_columns() {
    let (_folder, path, mut library) = new_library();
    ingest(&mut library, &document("novels/emma.txt", &["one", "two"]));
    library.record_verdict(&[manifest_row(&document("bad.pdf", &["x"]), "drm", None)]).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    let book: (String, String, String, String, String, String, u32, f64) = db
        .query_row(
            "SELECT collection, book_title, author, file_path, file_name, file_type, chunks_count, file_size_mb
            FROM books",
            [],
            |row| row.try_into(),
        )
        .unwrap();
    let text = str::to_owned;
    assert_eq!(
        book,
        (
            text("default"),
            text("Title of novels/emma.txt"),
            text("Ann Author & Émile Second"),
            text("/srv/books/novels/emma.txt"),
            text("emma.txt"),
            text("txt"),
            2,
            1.0
        )
    );
    let names = |view: &str| -> Vec<String> {
        let statement = db.prepare(&format!("SELECT * FROM {view}")).unwrap();
        statement.column_names().map(str::to_owned).collect()
    };
    assert_eq!(
        names("books").join(" "),
        "collection book_title author language source source_id file_path file_name file_type chunks_count \
        file_size_mb ingested_at"
    );
    assert_eq!(
        names("ingest_log").join(" "),
        "timestamp hostname book_title author language source source_id collection chunks file_size_mb \
        duration_total duration_embed duration_chunk duration_upload chunks_per_sec device model_id batch_size \
        success chunking_mode"
    );
    let log: Vec<(String, bool, u32, Option<f64>)> = db
        .prepare("SELECT book_title, success, chunks, chunks_per_sec FROM ingest_log ORDER BY timestamp, success DESC")
        .unwrap()
        .query_map([], |row| row.try_into())
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(
        log,
        [(text("Title of novels/emma.txt"), true, 2, Some(1.0)), (text("bad.pdf"), false, 0, None)]
    );
}

/// New metadata are new words about the same points. The library's own checks and its digest go with them, and the
/// result is what a commit of the new words would have made.
#[test]
fn metadata_change_without_the_text() {
    let a = document("a.txt", &["one", "two"]);
    let (_folder, _, mut library) = new_library();
    ingest(&mut library, &a);
    let before = library.digest().unwrap();
    let stored = library.document_metadata(&a.doc_id).unwrap().unwrap();
    assert_eq!((&stored.title, &stored.authors, &stored.metadata), (&a.title, &a.authors, &a.metadata));

    let mut moved = a.clone();
    moved.relative_path = "new title/a.txt".to_owned();
    moved.title = "New title".to_owned();
    moved.authors = vec!["Somebody, Else".to_owned()];
    moved.language = None;
    moved.source_id = Some("7".to_owned());
    moved.metadata = serde_json::json!({"tags": ["x"], "series_index": 2.5});
    let metadata = DocumentMetadata {
        source: moved.source.clone(),
        source_id: moved.source_id.clone(),
        title: moved.title.clone(),
        authors: moved.authors.clone(),
        language: moved.language.clone(),
        metadata: moved.metadata.clone(),
    };
    let update = DocumentUpdate { row: manifest_row(&moved, "ok", None), metadata: Some(metadata.clone()) };
    library.update_documents(std::slice::from_ref(&update)).unwrap();
    assert_ne!(library.digest().unwrap(), before);
    assert_sound(&library);
    assert_eq!(library.document_metadata(&a.doc_id).unwrap(), Some(metadata.clone()));
    let entry = &library.catalogue().unwrap()[0];
    assert_eq!((entry.relative_path.as_str(), &entry.metadata), ("new title/a.txt", &metadata));
    assert_eq!(library.manifest().unwrap()[0].relative_path, "new title/a.txt");

    let (_folder, _, mut fresh) = new_library();
    ingest(&mut fresh, &moved);
    assert_eq!(library.digest().unwrap(), fresh.digest().unwrap());

    // Of another revision nothing is known, and then nothing of the call is changed.
    let digest = library.digest().unwrap();
    let mut other = update;
    other.row.revision = [9; 32];
    assert!(matches!(library.update_documents(&[other]), Err(WriteError::Inconsistent { .. })));
    assert_eq!(library.digest().unwrap(), digest);
}
