//! One contract, two stores: what a library has, a Qdrant collection has after it was published, each point once.
//!
//! The server is a real one where `HAUL_TEST_QDRANT` names its `HOST:PORT`, else the stand-in; tests that need a
//! server to fail on demand always take the stand-in.

use std::collections::BTreeSet;

use haul_store::library::VectorName;
use haul_store::library::{DocumentMetadata, DocumentUpdate, Library, LibrarySettings};
use haul_store::points::{VOLATILE_FIELDS, payload_hash};
use haul_store::publish::{PublishError, Published, Publisher};
use haul_store::qdrant::catalogue::{self, Restored};
use haul_store::qdrant::{Address, Collection, ServerError, State, search as server};
use haul_store::search::{Filters, Mode, Parents, Request, search};
use tempfile::TempDir;
use uuid::Uuid;

use crate::fixture::{self, DIM, document, ingest, manifest_row, new_library, settings, vector};
use crate::sections::with_sections;
use crate::standin::{Server, ask, serve};

const SERVER_TEST: &str = "qdrant::serve_as_the_stand_in";

/// No test: the stand-in server, when this binary is started as one.
#[test]
#[ignore = "the stand-in server's own process"]
fn serve_as_the_stand_in() {
    serve();
}

/// A collection of a name of its own, on a real server or a new stand-in.
struct Place {
    address: Address,
    standin: Option<(Server, TempDir)>,
}

impl Place {
    fn new() -> Place {
        #[expect(clippy::disallowed_methods, reason = "a test may be told where a server is")]
        match std::env::var("HAUL_TEST_QDRANT") {
            Ok(server) => {
                let address = format!("qdrant://{server}/haul-test-{}", Uuid::new_v4());
                Place { address: address.parse().unwrap(), standin: None }
            }
            Err(_) => Place::failing(""),
        }
    }

    fn failing(faults: &str) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), 0, faults, SERVER_TEST);
        Place { address: server.address("books").parse().unwrap(), standin: Some((server, folder)) }
    }

    fn restarted(self, faults: &str) -> Place {
        let (server, folder) = self.standin.unwrap();
        Place { address: self.address, standin: Some((server.restarted(faults, SERVER_TEST), folder)) }
    }

    fn connect(&self) -> Collection {
        Collection::connect(&self.address, None, Box::new(|| false)).unwrap()
    }

    fn publisher(&self, library: &Library) -> Publisher {
        Publisher::new(library, self.connect()).unwrap()
    }

    fn state(&self) -> State {
        self.connect().state().unwrap().unwrap()
    }

    fn digest(&self) -> String {
        catalogue::info(&self.connect(), &self.state()).unwrap().digest
    }

    /// Texts of the points that are there, with how often each is there.
    fn points(&self) -> u64 {
        self.state().points
    }

    fn findings(&self) -> Vec<String> {
        let report = catalogue::verify(&self.connect(), &self.state()).unwrap();
        report
            .findings
            .into_iter()
            .map(|finding| format!("{}: {}", finding.subject, finding.detail))
            .collect()
    }

    fn faults_hit(&self) -> usize {
        self.standin.as_ref().unwrap().0.faults_hit()
    }
}

fn publish_all(place: &Place, library: &Library) -> Published {
    let mut publisher = place.publisher(library);
    let pending = publisher.pending().unwrap();
    let done = publisher.publish(&pending).unwrap();
    assert_eq!(publisher.pending().unwrap(), [] as [Uuid; 0]);
    done
}

/// Documents of one to nine chunks, one with sections.
fn books(library: &mut Library) {
    for number in 0..9_usize {
        let texts: Vec<String> =
            (0..=number).map(|chunk| format!("the {chunk}th passage of book {number}, on whales")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        ingest(library, &document(&format!("{number}.txt"), &texts));
    }
    ingest(library, &with_sections(document("parts.txt", &["lamp ", "barge ", "kettle ", "bread ", "end"])));
}

#[test]
fn a_published_library_has_the_same_digest_and_is_sent_once() {
    let (_folder, _, mut library) = new_library();
    books(&mut library);
    let place = Place::new();
    let done = publish_all(&place, &library);
    assert_eq!((done.documents, done.points, done.removed), (10, 45 + 7, 0));
    assert_eq!(place.digest(), library.digest().unwrap());
    assert_eq!(place.findings(), [""; 0]);
    assert_eq!(publish_all(&place, &library), Published::default(), "nothing is sent twice");
    let listed = catalogue::documents(&place.connect()).unwrap();
    assert_eq!(listed.iter().map(|entry| entry.points).sum::<u64>(), 52);
}

/// Renamed, retagged, shortened, changed, deleted: the exact difference each time.
#[test]
fn changes_arrive_as_they_are() {
    let (_folder, _, mut library) = new_library();
    books(&mut library);
    let place = Place::new();
    publish_all(&place, &library);

    let shorter = document("8.txt", &["only this is left"]);
    ingest(&mut library, &shorter);
    let done = publish_all(&place, &library);
    assert_eq!((done.documents, done.points), (1, 1));
    assert_eq!(place.points(), 52 - 9 + 1);

    let renamed = document("0.txt", &["the 0th passage of book 0, on whales"]);
    let mut row = manifest_row(&renamed, "ok", None);
    row.relative_path = "elsewhere/zero.txt".to_owned();
    let metadata = DocumentMetadata {
        source: "calibre".to_owned(),
        source_id: Some("7".to_owned()),
        title: "Another title".to_owned(),
        authors: vec![],
        language: None,
        metadata: serde_json::json!({}),
    };
    library.update_documents(&[DocumentUpdate { row, metadata: Some(metadata) }]).unwrap();
    let done = publish_all(&place, &library);
    assert_eq!((done.documents, done.points), (1, 1));

    library.remove_documents(&[document("7.txt", &["x"]).doc_id]).unwrap();
    let done = publish_all(&place, &library);
    assert_eq!((done.documents, done.removed), (0, 1));
    assert_eq!(place.points(), 52 - 9 + 1 - 8);
    assert_eq!(place.digest(), library.digest().unwrap());
    assert_eq!(place.findings(), [""; 0]);
}

/// A document that moves its text to another one: equal revisions must not shield each other's old points.
#[test]
fn documents_that_swap_their_texts_are_both_right() {
    let (_folder, _, mut library) = new_library();
    let place = Place::new();
    ingest(&mut library, &document("a.txt", &["alpha one", "alpha two"]));
    ingest(&mut library, &document("b.txt", &["beta one"]));
    publish_all(&place, &library);
    ingest(&mut library, &document("a.txt", &["beta one"]));
    ingest(&mut library, &document("b.txt", &["alpha one", "alpha two"]));
    publish_all(&place, &library);
    assert_eq!(place.points(), 3);
    assert_eq!(place.digest(), library.digest().unwrap());
}

/// The same relative path below another folder is the same id and another file: neither its text nor its removal may
/// touch the first one's document. The same file in a new library is the same document.
#[test]
fn a_file_of_the_same_path_is_not_swept() {
    let place = Place::new();
    let (_folder, _, mut library) = new_library();
    ingest(&mut library, &document("a.txt", &["alpha one", "alpha two"]));
    publish_all(&place, &library);
    let digest = place.digest();

    let (_folder, _, mut other) = new_library();
    let mut twin = document("a.txt", &["beta one"]);
    twin.root = "/srv/others".to_owned();
    ingest(&mut other, &twin);
    let mut publisher = place.publisher(&other);
    assert_eq!(publisher.others().len(), 1);
    let refused = publisher.publish(&[twin.doc_id]).unwrap_err();
    let PublishError::OtherFile { ours, theirs, .. } = &refused else { panic!("{refused}") };
    assert_eq!((ours.as_str(), theirs.as_str()), ("/srv/others/a.txt", "/srv/books/a.txt"));
    assert!(refused.hint().unwrap().contains("--collection"));
    other.remove_documents(&[twin.doc_id]).unwrap();
    assert_eq!(publisher.publish(&[twin.doc_id]).unwrap(), Published::default());
    assert_eq!(place.digest(), digest);

    let (_folder, _, mut again) = new_library();
    ingest(&mut again, &document("a.txt", &["alpha three"]));
    publish_all(&place, &again);
    assert_eq!(place.digest(), again.digest().unwrap());
    assert_eq!(place.findings(), [""; 0]);
}

/// A document of two libraries that one of them takes out: the other one sends it again, whatever else was sent
/// meanwhile.
#[test]
fn what_another_library_took_out_is_sent_again() {
    let place = Place::new();
    let (_folder, _, mut first) = new_library();
    let (_folder, _, mut second) = new_library();
    for library in [&mut first, &mut second] {
        books(library);
        publish_all(&place, library);
    }
    first.remove_documents(&[document("7.txt", &["x"]).doc_id]).unwrap();
    // As many points more as went away: their number alone tells nothing.
    ingest(&mut first, &document("new.txt", &["1", "2", "3", "4", "5", "6", "7", "8", "9"]));
    let done = publish_all(&place, &first);
    assert_eq!((done.documents, done.removed), (1, 1));
    assert_eq!(place.digest(), first.digest().unwrap());
    let done = publish_all(&place, &second);
    assert_eq!((done.documents, done.points), (1, 8));
    assert_eq!(place.points(), 52 + 9);
    assert_eq!(place.findings(), [""; 0]);
}

/// A server counts in how many points a term is. Parents say again what their children say, so they have no terms.
#[test]
fn parents_have_no_terms() {
    use qdrant_client::qdrant::{ScrollPointsBuilder, vectors_output::VectorsOptions};
    let (_folder, _, mut library) = new_library();
    books(&mut library);
    let place = Place::new();
    publish_all(&place, &library);
    let points = ask(&place.address.to_string(), async |client, collection| {
        let scroll = ScrollPointsBuilder::new(collection).limit(1000).with_payload(true).with_vectors(true);
        client.scroll(scroll).await.unwrap().result
    });
    let mut parents = 0;
    for point in points {
        let is_parent = point
            .payload
            .get("chunk_level")
            .is_some_and(|level| level.as_str().is_some_and(|l| l == "parent"));
        let Some(VectorsOptions::Vectors(named)) = point.vectors.unwrap().vectors_options else { panic!() };
        assert_eq!(named.vectors.contains_key("bm25"), !is_parent, "{:?}", point.payload);
        parents += usize::from(is_parent);
    }
    assert_eq!(parents, 2);
    assert_eq!(place.findings(), [""; 0]);
}

#[test]
fn a_library_comes_back_from_the_server_alone() {
    let (_folder, _, mut library) = new_library();
    books(&mut library);
    let place = Place::new();
    publish_all(&place, &library);
    let (_other, _, mut restored) = new_library();
    let settings = place.state().settings.unwrap();
    assert_eq!(&settings, library.settings());
    catalogue::for_each_document(
        &place.connect(),
        &place.state(),
        &settings,
        |Restored { record, rows, .. }| {
            let rows: Vec<_> = rows.iter().map(|(key, row)| (*key, row.as_slice())).collect();
            restored.put_vectors(VectorName::Dense, &rows).unwrap();
            restored.commit_documents(&[record]).unwrap();
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(restored.digest().unwrap(), library.digest().unwrap());
    fixture::assert_sound(&restored);
    // The same rows again: nothing is lost that a payload does not say.
    let rows = |library: &Library| {
        let mut rows = library.manifest().unwrap();
        rows.iter_mut().for_each(|row| row.attempts = 0);
        rows
    };
    assert_eq!(rows(&restored), rows(&library));
}

fn asked<'a>(mode: Mode, text: &'a str, vector: Option<&'a [f32]>, filters: &'a Filters) -> Request<'a> {
    let (parents, min_score) = (Parents::With, None);
    Request {
        text,
        vector,
        sparse: None,
        mode,
        filters,
        limit: 5,
        context: 1,
        parents,
        min_score,
        threads: 1,
    }
}

/// The same hits from either store; only BM25 scores differ, by the length that is expected of a chunk.
#[test]
fn both_stores_answer_alike() {
    let (_folder, _, mut library) = new_library();
    books(&mut library);
    ingest(&mut library, &document("odd.txt", &["a harpoon and a whale"]));
    let place = Place::new();
    publish_all(&place, &library);
    let (collection, state) = (place.connect(), place.state());
    let query = vector("the 3th passage of book 5, on whales");
    let everything = Filters::default();
    let by_title = Filters { title: Some("OF 5".to_owned()), ..Filters::default() };
    let by_id = Filters { doc_ids: vec![document("8.txt", &["x"]).doc_id], ..Filters::default() };
    let nothing = Filters { author: Some("nobody".to_owned()), ..Filters::default() };
    let by_format = Filters { format: Some("TXT".to_owned()), ..Filters::default() };
    let of_no_format =
        Filters { format: Some("epub".to_owned()), title: Some("5".to_owned()), ..Filters::default() };
    let by_all = Filters {
        format: Some("txt".to_owned()),
        series: Some("TEST".to_owned()),
        language: Some("en".to_owned()),
        author: Some("émile".to_owned()),
        ..by_id.clone()
    };
    let tagged = Filters { tag: Some("a".to_owned()), ..Filters::default() };
    for filters in [&everything, &by_title, &by_id, &nothing, &by_format, &of_no_format, &by_all, &tagged] {
        let dense = asked(Mode::Dense, "", Some(&query), filters);
        let local = search(&library, &dense).unwrap().hits;
        let mut remote = server::search(&collection, &state, &settings(), &dense).unwrap().hits;
        assert_eq!(local.len(), remote.len());
        for (local, remote) in local.iter().zip(&mut remote) {
            assert!((local.score - remote.score).abs() < 1e-5, "{} {}", local.score, remote.score);
            remote.score = local.score;
        }
        assert_eq!(local, remote);
    }
    let bm25 = asked(Mode::Bm25, "harpoons?", None, &everything);
    let remote = server::search(&collection, &state, &settings(), &bm25).unwrap();
    assert_eq!(remote.hits.len(), 1);
    assert_eq!(remote.hits[0].text, search(&library, &bm25).unwrap().hits[0].text);
    let hybrid = asked(Mode::Hybrid, "harpoon", Some(&query), &everything);
    let texts =
        |hits: Vec<haul_store::search::Hit>| hits.into_iter().map(|hit| hit.text).collect::<BTreeSet<_>>();
    let local = search(&library, &hybrid).unwrap().hits;
    assert_eq!(texts(server::search(&collection, &state, &settings(), &hybrid).unwrap().hits), texts(local));
}

/// A filter by id or format is the server's own: no document is read for it. Others read those that pass such a one.
#[test]
fn exact_filters_read_nothing() {
    let (_folder, _, mut library) = new_library();
    books(&mut library);
    let place = Place::failing("");
    publish_all(&place, &library);
    let place = place.restarted("scroll:1:delay=100");
    let (collection, state) = (place.connect(), place.state());
    let query = vector("the 3th passage of book 5, on whales");
    let id = vec![document("5.txt", &["x"]).doc_id];
    let hits = |filters: &Filters| {
        let request = Request {
            context: 0,
            parents: Parents::Without,
            ..asked(Mode::Dense, "", Some(&query), filters)
        };
        server::search(&collection, &state, &settings(), &request).unwrap().hits.len()
    };
    assert_eq!(hits(&Filters { doc_ids: id.clone(), ..Filters::default() }), 5);
    assert_eq!(
        hits(&Filters { doc_ids: id.clone(), format: Some("txt".to_owned()), ..Filters::default() }),
        5
    );
    assert_eq!(place.faults_hit(), 0);
    assert_eq!(hits(&Filters { doc_ids: id, title: Some("of 5".to_owned()), ..Filters::default() }), 5);
    assert_eq!(place.faults_hit(), 1);
}

/// The fields that Alexandria's own tools read, of a child, of its parent, and of a point without one.
#[test]
fn payloads_have_the_fields_of_alexandria() {
    let flat = [
        "text",
        "book_title",
        "author",
        "section_name",
        "language",
        "ingested_at",
        "strategy",
        "embedding_model_id",
        "embedding_model_name",
        "embedding_dimension",
        "ingest_version",
    ];
    let both = ["source", "source_id", "token_count", "chunk_level"];
    let parent = ["full_text", "section_index", "child_count"];
    let child = ["parent_id", "sequence_index", "sibling_count"];
    let (_folder, _, mut library) = new_library();
    ingest(
        &mut library,
        &with_sections(document("parts.txt", &["lamp ", "barge ", "kettle ", "bread ", "end"])),
    );
    ingest(&mut library, &document("flat.txt", &["no parts"]));
    let mut seen = BTreeSet::new();
    library
        .for_each_point(|point| {
            let has = |fields: &[&str]| fields.iter().all(|field| point.payload.contains_key(*field));
            assert!(has(&flat), "{:?}", point.payload);
            match point.payload.get("chunk_level").and_then(|level| level.as_str()) {
                Some("parent") => assert!(has(&both) && has(&parent)),
                Some("child") => assert!(has(&both) && has(&child)),
                other => assert_eq!(other, None),
            }
            assert_eq!(point.payload["author"], "Ann Author & Émile Second");
            seen.insert(point.payload.get("chunk_level").map(ToString::to_string));
        })
        .unwrap();
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_collection_of_other_settings_is_refused() {
    let (_folder, _, library) = new_library();
    let place = Place::new();
    place.publisher(&library);
    for other in [
        LibrarySettings { dim: DIM + 1, ..settings() },
        LibrarySettings { dtype: "int8".to_owned(), ..settings() },
    ] {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::create(&folder.path().join("other.haul"), &other).unwrap();
        let refused = Publisher::new(&library, place.connect()).err().unwrap();
        let PublishError::Server(error) = &refused else { panic!("{refused}") };
        assert!(
            matches!(error, ServerError::Dimension { .. } | ServerError::OtherSettings { .. }),
            "{error}"
        );
        assert!(refused.hint().is_some());
    }
}

/// A library that was damaged must not be sent over the good points of the server.
#[test]
fn what_is_damaged_is_not_sent() {
    let (_folder, path, mut library) = new_library();
    books(&mut library);
    let place = Place::new();
    publish_all(&place, &library);
    let digest = place.digest();
    let db = rusqlite::Connection::open(&path).unwrap();
    for damage in [
        "UPDATE vectors SET row = zeroblob(length(row)) WHERE vector_id = (SELECT max(vector_id) FROM vectors)",
        "UPDATE documents SET title = 'another' WHERE document_id = 3",
        "DELETE FROM chunks WHERE chunk_id = (SELECT max(chunk_id) FROM chunks)",
    ] {
        db.execute_batch(damage).unwrap();
        let mut publisher = place.publisher(&library);
        let all: Vec<Uuid> = library.catalogue().unwrap().into_iter().map(|entry| entry.doc_id).collect();
        publisher.forget(&all).unwrap();
        let refused = publisher.publish(&all).unwrap_err();
        assert!(matches!(refused, PublishError::Damaged { .. }), "{refused}");
        assert!(refused.hint().is_some());
        assert_eq!(place.digest(), digest, "{damage}");
    }
}

/// Alexandria's collections have one vector without a name; they are filled as they are.
#[test]
fn a_vector_without_a_name() {
    let (_folder, _, mut library) = new_library();
    books(&mut library);
    let mut place = Place::new();
    place.address = format!("{}?unnamed", place.address).parse().unwrap();
    publish_all(&place, &library);
    assert_eq!(place.state().dense_name, "");
    assert_eq!(place.digest(), library.digest().unwrap());
    let query = vector("the 3th passage of book 5, on whales");
    let filters = Filters::default();
    let request = asked(Mode::Dense, "", Some(&query), &filters);
    let hits = server::search(&place.connect(), &place.state(), &settings(), &request).unwrap().hits;
    assert_eq!(hits[0].text, "the 3th passage of book 5, on whales");
}

/// Calls refused, delayed, half done, done and not answered: the same end, and every fault hit.
#[test]
fn faults_of_the_server_change_nothing() {
    let (_folder, _, mut library) = new_library();
    books(&mut library);
    for (faults, expected) in [
        ("upsert:1:refuse,count:1:refuse,delete:1:refuse", 3),
        ("upsert:1:half,upsert:2:half", 2),
        ("upsert:1:lost,delete:1:lost,exists:1:refuse", 3),
        ("upsert:1:exhausted,count:2:delay=300", 2),
        ("create:1:lost", 1),
    ] {
        let place = Place::failing(faults);
        let mut publisher = place.publisher(&library);
        publisher.forget(&publisher.pending().unwrap()).unwrap();
        let pending = publisher.pending().unwrap();
        publisher.publish(&pending).unwrap();
        assert_eq!(place.digest(), library.digest().unwrap(), "{faults}");
        assert_eq!(place.findings(), [""; 0], "{faults}");
        assert_eq!(place.faults_hit(), expected, "{faults}");
    }
}

/// A server that dies with half a batch, and comes back.
#[test]
fn a_server_that_dies_and_comes_back_loses_nothing() {
    let (_folder, _, mut library) = new_library();
    books(&mut library);
    let mut place = Place::failing("upsert:1:halfdie");
    let mut publisher = place.publisher(&library);
    let ids = publisher.pending().unwrap();
    let (place, done) = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publisher.publish(&ids));
        place.standin.as_mut().unwrap().0.wait();
        // Another life on the same port, while the publisher waits for it.
        let place = place.restarted("");
        (place, publishing.join().unwrap())
    });
    assert_eq!(done.unwrap().points, 52);
    assert_eq!(place.digest(), library.digest().unwrap());
}

#[test]
fn a_stop_ends_the_wait_for_a_server() {
    let (_folder, _, mut library) = new_library();
    books(&mut library);
    let place = Place::failing("upsert:*1:refuse");
    let stopped = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = std::sync::Arc::clone(&stopped);
    let stop = Box::new(move || seen.load(std::sync::atomic::Ordering::Relaxed));
    let collection = Collection::connect(&place.address, None, stop).unwrap();
    let mut publisher = Publisher::new(&library, collection).unwrap();
    let ids = publisher.pending().unwrap();
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publisher.publish(&ids));
        std::thread::sleep(std::time::Duration::from_millis(400));
        stopped.store(true, std::sync::atomic::Ordering::Relaxed);
        let error = publishing.join().unwrap().unwrap_err();
        assert!(matches!(error, PublishError::Server(ServerError::Stopped { .. })), "{error}");
    });
    assert_eq!(publisher_pending(&place.restarted(""), &library), 10);
}

fn publisher_pending(place: &Place, library: &Library) -> usize {
    place.publisher(library).pending().unwrap().len()
}

#[test]
fn nobody_there_is_said_at_once() {
    let address: Address = "qdrant://127.0.0.1:9/books".parse().unwrap();
    let error = Collection::connect(&address, None, Box::new(|| false)).err().unwrap();
    assert!(matches!(error, ServerError::Gone { .. }), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn aliases_and_siblings() {
    let (_folder, _, mut library) = new_library();
    books(&mut library);
    let place = Place::new();
    publish_all(&place, &library);
    let alias = format!("{}-now", place.address.collection());
    place.connect().set_alias(&alias).unwrap();
    place.connect().set_alias(&alias).unwrap();
    let by_alias = place.connect().sibling(&alias, Box::new(|| false)).unwrap();
    assert_eq!(by_alias.state().unwrap().unwrap().points, 52);
    let names = by_alias.list().unwrap();
    assert!(names.collections.iter().any(|name| name == place.address.collection()));
    assert_eq!(names.aliases.get(&alias).map(String::as_str), Some(place.address.collection()));
}

#[test]
fn volatile_fields_are_real_ones() {
    let (_folder, _, mut library) = new_library();
    ingest(&mut library, &document("a.txt", &["one"]));
    library
        .for_each_point(|point| {
            for field in VOLATILE_FIELDS {
                let mut without = point.payload.clone();
                assert!(without.remove(field).is_some(), "{field}");
                assert_eq!(payload_hash(&without), payload_hash(&point.payload));
            }
        })
        .unwrap();
}
