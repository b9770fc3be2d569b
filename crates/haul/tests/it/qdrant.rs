//! A collection of a server as users meet it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixtures::{Home, Live, Needs, assert_ran, ran, small_model, text, variable, write_corpus};
use crate::kill::Place;
use crate::standin::{Server, ask, serve};

const SERVER_TEST: &str = "qdrant::serve_as_the_stand_in";

/// No test: the stand-in server, when this binary is started as one.
#[test]
#[ignore = "the stand-in server's own process"]
fn serve_as_the_stand_in() {
    serve();
}

/// A collection of a name of its own on a server.
pub(crate) struct Service {
    address: String,
    standin: Option<(Server, TempDir)>,
}

impl Service {
    /// On the real server that `HAUL_TEST_QDRANT` names, which has no faults to order, else on a new stand-in.
    pub(crate) fn place(faults: &str) -> Place {
        match variable("HAUL_TEST_QDRANT") {
            None => Service::standin(faults),
            Some(server) => {
                let name = TempDir::new().unwrap();
                let name = name.path().file_name().unwrap().to_str().unwrap().replace('.', "");
                let address = format!("qdrant://{server}/haul-test-{name}");
                Place::Server(Box::new(Service { address, standin: None }))
            }
        }
    }

    pub(crate) fn standin(faults: &str) -> Place {
        Place::Server(Box::new(Service::failing(faults)))
    }

    fn failing(faults: &str) -> Service {
        let folder = TempDir::new().unwrap();
        let server = Server::start(folder.path(), 0, faults, SERVER_TEST);
        Service { address: server.address("books"), standin: Some((server, folder)) }
    }

    pub(crate) fn new() -> Service {
        let Place::Server(service) = Service::place("") else { unreachable!("a place of a server") };
        *service
    }

    pub(crate) fn is_real() -> bool {
        variable("HAUL_TEST_QDRANT").is_some()
    }

    pub(crate) fn store(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn faults_hit(&self) -> usize {
        self.standin.as_ref().map_or(0, |(server, _)| server.faults_hit())
    }

    pub(crate) fn wait(&mut self) {
        self.standin.as_mut().unwrap().0.wait();
    }

    pub(crate) fn restarted(self, faults: &str) -> Service {
        let (server, folder) = self.standin.unwrap();
        Service { address: self.address, standin: Some((server.restarted(faults, SERVER_TEST), folder)) }
    }

    fn another(&self, collection: &str) -> String {
        let (server, name) = self.address.rsplit_once('/').unwrap();
        format!("{server}/{name}-{collection}")
    }
}

fn library_with_books() -> Home {
    let home = Home::new();
    write_corpus(&home.path("books"), 7, 12);
    home
}

fn digest(home: &Home, store: &str) -> String {
    home.json(&["store", "info", "--store", store])["digest"].as_str().unwrap().to_owned()
}

/// Ingest, search, eval's search, info, verify, changes and prune, all with the server; the library of the same
/// input has the same digest.
#[test]
fn a_collection_is_filled_searched_and_kept() {
    let home = library_with_books();
    let service = Service::new();
    let (store, books) = (service.store(), home.path("books"));
    let args = ["ingest", text(&books), "--store", &store, "--model", "tiny"];
    let receipt = home.json(&args);
    home.ingest(&[text(&home.path("books"))]);
    assert_eq!(digest(&home, &store), home.digest());
    assert_eq!(receipt["sent"]["documents"], receipt["items"]["ok"]);
    assert_eq!(receipt["sent"]["target"].as_str(), Some(store.as_str()));
    let publish = receipt["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "publish");
    assert!(publish.is_some_and(|stage| stage["items"].as_u64() > Some(0)), "{receipt:#}");

    let again = home.json(&args);
    assert_eq!((&again["sent"]["documents"], &again["work"]["tokens"]), (&json!(0), &json!(0)));

    for mode in ["dense", "bm25", "hybrid"] {
        let search = |store: &str| {
            let found = home.json(&[
                "search",
                "the keeper of the light",
                "--store",
                store,
                "--mode",
                mode,
                "--limit",
                "3",
            ]);
            found["hits"].as_array().unwrap().iter().map(|hit| hit["text"].clone()).collect::<Vec<Value>>()
        };
        assert_eq!(search(&store)[0], search("lib.haul")[0], "{mode}");
    }

    fs::remove_file(home.path("books/text-0.txt")).unwrap();
    fs::write(home.path("books/text-3.txt"), "Only this sentence is left of it.").unwrap();
    let pruned = home.json(&[&args[..], &["--prune"]].concat());
    assert_eq!((&pruned["sent"]["documents"], &pruned["sent"]["removed"]), (&json!(1), &json!(1)));
    home.ingest(&[text(&home.path("books")), "--prune"]);
    assert_eq!(digest(&home, &store), home.digest());
    assert_eq!(home.json(&["store", "verify", "--store", &store])["findings"], json!([]));
}

/// A library made without a server is pushed, the push is repeated for nothing, and the manifest of the collection is
/// made again on a machine that never saw the books: its digest is the library's.
#[test]
fn a_library_is_pushed_and_comes_back() {
    let home = library_with_books();
    // Qdrant 1.18 reads 17 digits back as a neighbouring number; such a document was sent again by each push.
    let note = r#"{"id": "n", "text": "A note of the keeper's debts.", "rate": 0.12345678901234567, "x": [9.87654321e-9]}"#;
    fs::write(home.path("books/notes.jsonl"), note).unwrap();
    let service = Service::new();
    let store = service.store();
    home.ingest(&[text(&home.path("books"))]);
    let pushed = home.json(&["store", "push", "--store", "lib.haul", "--to", &store]);
    assert_eq!(pushed["digest"].as_str(), Some(home.digest().as_str()));
    let again = home.json(&["store", "push", "--store", "lib.haul", "--to", &store]);
    assert_eq!((&again["documents"], &again["mended"]), (&json!(0), &json!(0)));
    assert_eq!(digest(&home, &store), home.digest());

    let other = Home::new();
    let synced = other.json(&["store", "sync", "--store", &store, "--manifest", "lib.haul"]);
    assert_eq!(synced["digest"].as_str(), Some(home.digest().as_str()));
    other.assert_sound();
    let books = home.path("books");
    let args = ["ingest", text(&books), "--store", &store, "--manifest", "lib.haul"];
    let receipt = other.json(&args);
    assert_eq!((&receipt["work"]["tokens"], &receipt["sent"]["documents"]), (&json!(0), &json!(0)));
}

/// A collection in which somebody replaced a point: `verify` names the document, `push` mends it alone.
#[test]
fn points_that_are_not_ours_any_more_are_found_and_sent_again() {
    let home = library_with_books();
    let service = Service::new();
    home.ingest(&[text(&home.path("books"))]);
    home.ok(&["store", "push", "--store", "lib.haul", "--to", &service.store()]);
    replace_first(&service.store());
    let args = ["store", "verify", "--store", &service.store(), "--manifest", "lib.haul", "--json"];
    let ran = home.run(&args);
    assert_eq!(ran.code, 1);
    let findings = ran.json()["findings"].as_array().unwrap().clone();
    assert!(findings.iter().any(|finding| finding["check"] == "manifest"), "{findings:?}");
    let pushed = home.json(&["store", "push", "--store", "lib.haul", "--to", &service.store()]);
    assert_eq!(pushed["mended"], 1);
    assert_eq!(home.run(&args).code, 0);
}

/// A server that was set back to an older state: an ingest that finds nothing new in the books sends it what it lost,
/// without computing anything.
#[test]
fn a_server_that_was_set_back_gets_everything_again() {
    let home = library_with_books();
    let (service, books) = (Service::new(), home.path("books"));
    let store = service.store();
    let args = ["ingest", text(&books), "--store", &store, "--manifest", "lib.haul", "--model", "tiny"];
    home.ok(&args);
    damage(&store);
    let receipt = home.json(&args);
    assert_eq!(receipt["work"]["tokens"], 0);
    assert!(receipt["sent"]["documents"].as_u64() > Some(0), "{receipt:#}");
    assert_eq!(digest(&home, &store), home.digest());
}

/// A run that dies between new points and the removal of old ones leaves both. A manifest that is made from that knows
/// each document once, and the next ingest clears what is left.
#[test]
fn a_manifest_made_from_an_unfinished_publication_is_right() {
    let home = library_with_books();
    let (service, books) = (Service::new(), home.path("books"));
    let store = service.store();
    let ingest = |manifest: &str| {
        home.haul(&["ingest", text(&books), "--store", &store, "--manifest", manifest, "--model", "tiny"])
    };
    assert_eq!(ran(&mut ingest("a.haul"), b"").code, 0);
    for number in 0..12 {
        let path = home.path(format!("books/text-{number}.txt"));
        if path.exists() {
            fs::write(path, format!("A shorter text now, of number {number}.")).unwrap();
        }
    }
    let mut live = Live::start(ingest("a.haul").stdout(Stdio::null()));
    assert!(live.wait_for("step=\"verified\""));
    live.signal(rustix::process::Signal::KILL);
    live.finish();

    let synced = home.json(&["store", "sync", "--store", &store, "--manifest", "b.haul"]);
    assert_eq!(synced["not_whole"], json!([]));
    assert_eq!(ran(&mut ingest("b.haul"), b"").code, 0);
    home.ingest(&[text(&books)]);
    assert_eq!(digest(&home, &store), home.digest());
    assert_eq!(home.json(&["store", "verify", "--store", &store])["findings"], json!([]));
}

/// Gives the first point of the collection another vector.
fn replace_first(address: &str) {
    use qdrant_client::qdrant::{NamedVectors, PointStruct, ScrollPointsBuilder, UpsertPointsBuilder};
    ask(address, async |client, collection| {
        let scroll = ScrollPointsBuilder::new(collection).limit(1).with_payload(true);
        let point = client.scroll(scroll).await.unwrap().result.remove(0);
        let vectors = NamedVectors::default().add_vector("dense", vec![1.0; 32]);
        let other = PointStruct { id: point.id, payload: point.payload, vectors: Some(vectors.into()) };
        client.upsert_points(UpsertPointsBuilder::new(collection, vec![other]).wait(true)).await.unwrap();
    });
}

/// Removes the first point of the collection.
fn damage(address: &str) {
    use qdrant_client::qdrant::{DeletePointsBuilder, PointsIdsList, ScrollPointsBuilder};
    ask(address, async |client, collection| {
        let page = client.scroll(ScrollPointsBuilder::new(collection).limit(1)).await.unwrap();
        let ids = page.result.into_iter().map(|point| point.id.unwrap()).collect();
        let delete = DeletePointsBuilder::new(collection).points(PointsIdsList { ids }).wait(true);
        client.delete_points(delete).await.unwrap();
    });
}

#[test]
fn collections_are_copied_and_aliased() {
    let home = library_with_books();
    let service = Service::new();
    home.ingest(&[text(&home.path("books"))]);
    home.ok(&["store", "push", "--store", "lib.haul", "--to", &service.store()]);
    let copy = service.another("copy");
    let name = copy.rsplit_once('/').unwrap().1;
    home.ok(&["store", "copy", "--store", &service.store(), "--to", name]);
    assert_eq!(digest(&home, &copy), home.digest());
    let alias = service.another("alias");
    let alias_name = alias.rsplit_once('/').unwrap().1;
    home.ok(&["store", "alias", "--store", &copy, "--name", alias_name]);
    assert_eq!(digest(&home, &alias), home.digest());
    let listed = home.json(&["store", "collections", "--store", &service.store()]);
    assert!(listed["collections"].as_array().unwrap().contains(&json!(name)), "{listed:#}");
}

/// What another machine filled can be listed here: without a manifest the points say what there is, and a filter needs
/// a manifest.
#[test]
fn a_collection_without_a_manifest_is_listed() {
    let home = library_with_books();
    let service = Service::new();
    home.ingest(&[text(&home.path("books"))]);
    home.ok(&["store", "push", "--store", "lib.haul", "--to", &service.store()]);
    let other = Home::new();
    let ids = |listed: &Value| -> BTreeSet<String> {
        let documents = listed["documents"].as_array().unwrap();
        documents.iter().map(|document| document["doc_id"].as_str().unwrap().to_owned()).collect()
    };
    let listed = other.json(&["store", "list", "--store", &service.store()]);
    assert_eq!(ids(&listed), ids(&home.json(&["store", "list", "--store", "lib.haul"])));
    let shown = other.ok(&["store", "list", "--store", &service.store()]);
    assert!(shown.stdout.contains(" points\n"), "{}", shown.stdout);
    let filtered = other.run(&["store", "list", "--store", &service.store(), "--title", "a"]);
    assert_eq!(filtered.code, 2);
    assert!(filtered.stderr.contains("hint: `haul store sync"), "{}", filtered.stderr);
}

/// What is removed is removed from the manifest too, so there must be one; the way to it is in the message.
#[test]
fn a_delete_without_a_manifest_says_how_to_make_one() {
    let home = library_with_books();
    let service = Service::new();
    home.ingest(&[text(&home.path("books"))]);
    home.ok(&["store", "push", "--store", "lib.haul", "--to", &service.store()]);
    let other = Home::new();
    let delete = ["store", "delete", "--store", &service.store(), "--title", "text-3"];
    let refused = other.run(&delete);
    assert_eq!(refused.code, 2);
    let hint = format!("hint: `haul store sync --store {}` makes it from the server", service.store());
    assert!(
        refused.stderr.contains(": there is no manifest ") && refused.stderr.contains(&hint),
        "{refused:#?}"
    );
    other.ok(&["store", "sync", "--store", &service.store()]);
    let removed = other.ok(&delete);
    assert!(removed.stdout.contains("\nremoved 1 document, "), "{removed:#?}");
    home.ok(&["store", "delete", "--store", "lib.haul", "--title", "text-3"]);
    assert_eq!(digest(&other, &service.store()), home.digest());
}

/// Two folders with a file of the same path below each, two manifests, one collection: the second file had its document
/// in the place of the first one's. Now it is an input that failed, by the name of the other, and stays out until its
/// folder has a name of its own.
#[test]
fn folders_with_files_of_the_same_path_leave_each_other_alone() {
    let home = Home::new();
    let service = Service::new();
    home.write("ann/notes.txt", "The lamp in the north window.");
    home.write("bob/notes.txt", "A kettle on the stove.");
    home.write("bob/more.txt", "Three boats in the storm.");
    let store = service.store();
    let ingest = |folder: &str, flags: &[&str]| {
        let manifest = format!("{folder}.haul");
        let args =
            ["ingest", folder, "--store", &store, "--manifest", &manifest, "--model", "tiny", "--json"];
        home.run(&[&args[..], flags].concat())
    };
    let texts = || -> BTreeSet<String> {
        payloads(&store).values().map(|payload| payload["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ingest("ann", &[]).code, 0);
    let refused = ingest("bob", &[]);
    assert_eq!(refused.code, 1, "{refused:#?}");
    let failure = refused.json()["failures"][0].clone();
    assert_eq!(failure["verdict"], "failed");
    assert!(failure["item"].as_str().unwrap().ends_with("/bob/notes.txt"), "{failure:#}");
    let why = failure["why"].as_str().unwrap();
    assert!(why.contains("/ann/notes.txt") && why.contains("--collection"), "{why}");
    let (lamp, kettle, boats) =
        ("The lamp in the north window.", "A kettle on the stove.", "Three boats in the storm.");
    assert_eq!(texts(), [lamp, boats].map(str::to_owned).into());

    // A library that was made without the server is not pushed over it either.
    home.ok(&["ingest", "bob", "--store", "alone.haul", "--model", "tiny"]);
    let pushed = home.run(&["store", "push", "--store", "alone.haul", "--to", &store]);
    assert_eq!(pushed.code, 2);
    assert!(pushed.stderr.contains("/ann/notes.txt is in it, which has the same path"), "{pushed:#?}");
    assert!(pushed.stderr.contains("hint: give one of the two folders a --collection"), "{pushed:#?}");
    assert_eq!(texts(), [lamp, boats].map(str::to_owned).into());
    home.ok(&["store", "delete", "--store", &store, "--manifest", "alone.haul", "--title", "notes"]);
    assert_eq!(texts(), [lamp, boats].map(str::to_owned).into(), "what was never pushed is another's");

    assert_eq!(ingest("bob", &["--collection", "bob"]).code, 0);
    assert_eq!(texts(), [lamp, kettle, boats].map(str::to_owned).into());
    home.write("ann/notes.txt", "The lamp in the south window.");
    assert_eq!(ingest("ann", &[]).code, 0);
    let south = "The lamp in the south window.";
    assert_eq!(texts(), [south, kettle, boats].map(str::to_owned).into());
    // The same folder by a manifest that is new, as on a machine that lost its disk: the file is the same one.
    fs::remove_file(home.path("ann.haul")).unwrap();
    home.write("ann/notes.txt", "No lamp at all.");
    assert_eq!(ingest("ann", &[]).code, 0);
    assert_eq!(texts(), ["No lamp at all.", kettle, boats].map(str::to_owned).into());
}

/// Two manifests of one folder: what `store delete` takes out by one of them is still in its folder, and comes back with
/// the next ingest by the other, which computes nothing for it.
#[test]
fn what_another_manifest_took_out_comes_back() {
    let home = library_with_books();
    let (service, books) = (Service::new(), home.path("books"));
    let store = service.store();
    let args = |manifest: &'static str| {
        ["ingest", text(&books), "--store", &store, "--manifest", manifest, "--model", "tiny"]
    };
    home.ok(&args("lib.haul"));
    home.ok(&args("b.haul"));
    let before = digest(&home, &store);
    home.ok(&["store", "delete", "--store", &store, "--manifest", "b.haul", "--title", "text-3"]);
    assert_ne!(digest(&home, &store), before);
    let receipt = home.json(&args("lib.haul"));
    assert_eq!((&receipt["work"]["tokens"], &receipt["sent"]["documents"]), (&json!(0), &json!(1)));
    assert_eq!(digest(&home, &store), before);
}

/// A manifest that was made from the server has the documents of all shards. A shard sends its own of them alone: what
/// another shard took out stays out.
#[test]
fn a_shard_sends_its_own_documents_alone() {
    let home = library_with_books();
    let (service, books) = (Service::new(), home.path("books"));
    let store = service.store();
    let args = |manifest: &'static str, shard: &'static str| {
        [
            "ingest",
            text(&books),
            "--store",
            &store,
            "--manifest",
            manifest,
            "--model",
            "tiny",
            "--shard",
            shard,
        ]
    };
    home.ok(&args("0.haul", "0/2"));
    home.ok(&args("1.haul", "1/2"));
    home.ok(&["store", "sync", "--store", &store, "--manifest", "new.haul"]);
    let listed = home.json(&["store", "list", "--store", &store, "--manifest", "1.haul"]);
    let id = listed["documents"][0]["doc_id"].as_str().unwrap();
    home.ok(&["store", "delete", "--store", &store, "--manifest", "1.haul", "--doc", id]);
    let without = digest(&home, &store);
    assert_eq!(home.json(&args("new.haul", "0/2"))["sent"]["documents"], 0);
    assert_eq!(digest(&home, &store), without);
    home.ok(&args("new.haul", "1/2"));
    assert_ne!(digest(&home, &store), without, "its own shard brings it back");
}

#[test]
fn a_server_that_is_not_there_is_said_before_any_work() {
    let home = Home::new();
    home.write("books/a.txt", "words");
    let ran = home.run(&["ingest", "books", "--store", "qdrant://127.0.0.1:9/books", "--model", "tiny"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("qdrant://127.0.0.1:9/books: connecting: no success in"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: start the server"), "{}", ran.stderr);
    assert!(!home.path("home/manifests").exists());
    let http = home.run(&["search", "words", "--store", "qdrant://localhost:6333/books"]);
    assert_ran!(home, http, @r"
    exit 2
    --- stdout
    --- stderr
    haul: qdrant://localhost:6333/books: port 6333 is Qdrant's HTTP interface

    hint: the gRPC interface is on 6334
    ");
}

/// What a web server answers to gRPC was shown as it is, and nothing said what it means.
#[test]
fn a_port_that_speaks_http_is_told_by_its_answer() {
    use std::io::{Read, Write};
    let home = Home::new();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let mut begin = [0; 24];
            stream.read_exact(&mut begin).unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap();
            // Closed with bytes unread, the socket would take the answer back before the client has read it.
            std::io::copy(&mut stream, &mut std::io::sink()).ok();
        }
    });
    let ran = home.run(&["search", "words", "--store", &format!("qdrant://127.0.0.1:{port}/books")]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("hint: this does not answer in gRPC, as Qdrant does: usually at port 6334"),
        "{ran:#?}"
    );
}

/// Another model for a collection was refused with advice that is for libraries alone, and by a new manifest in the name
/// of a file that was not there yet.
#[test]
fn another_model_is_refused_in_the_name_of_the_collection() {
    let home = Home::new();
    home.write("books/a.txt", "Some words of a book.");
    small_model(&home.path("small"));
    home.ok(&["model", "add", "small", "--name", "small", "--link"]);
    let service = Service::new();
    let store = service.store();
    home.ok(&["ingest", "books", "--store", &store, "--model", "tiny"]);
    for manifest in [&[][..], &["--manifest", "o.haul"]] {
        let refused =
            home.run(&[&["ingest", "books", "--store", &store, "--model", "small"], manifest].concat());
        let says = format!("haul: {store} was made with other settings: model is \"tiny\" (sha256 ");
        assert!(refused.code == 2 && refused.stderr.contains(&says), "{refused:#?}");
        let hint = "hint: leave the flags out to use the collection's settings, or name another collection";
        assert!(refused.stderr.contains(hint) && !refused.stderr.contains("--reembed"), "{refused:#?}");
        assert!(!home.path("o.haul").exists());
    }
}

/// A collection that another program made has no weights of words: the default search sent people to another collection,
/// although dense search works. Its hits had an empty author and a chapter without a name.
#[test]
fn a_collection_without_words_is_searched_by_vectors() {
    use qdrant_client::qdrant::{
        CreateCollectionBuilder, Distance, VectorParamsBuilder, VectorsConfigBuilder,
    };
    let home = Home::new();
    home.write("books/lamp.txt", "The lamp in the north window.");
    let service = Service::new();
    let store = service.store();
    ask(&store, async |client, collection| {
        let mut vectors = VectorsConfigBuilder::default();
        vectors.add_named_vector_params("dense", VectorParamsBuilder::new(32, Distance::Cosine));
        client
            .create_collection(CreateCollectionBuilder::new(collection).vectors_config(vectors))
            .await
            .unwrap();
    });
    let ran = home.ok(&["ingest", "books", "--store", &store, "--model", "tiny"]);
    assert!(ran.stdout.starts_with(&format!("1 of 1 inputs ok in {store}\n")), "{ran:#?}");
    let says = format!("{store}: it has no BM25 weights; `haul search --mode dense` searches it");
    assert!(ran.stderr.contains(&says), "{ran:#?}");
    let refused = home.run(&["search", "a lamp", "--store", &store]);
    assert!(
        refused.code == 2 && refused.stderr.contains("hint: search it with --mode dense"),
        "{refused:#?}"
    );
    let dense = ["search", "a lamp", "--store", &store, "--mode", "dense"];
    let hit = &home.json(&dense)["hits"][0];
    assert_eq!((&hit["breadcrumb"], &hit["authors"]), (&json!([]), &json!([])));
    let shown = home.ok(&dense).stdout;
    assert!(shown.starts_with("1. lamp ["), "{shown}");
}

/// A server that has the collection with vectors of another length.
#[test]
fn a_collection_of_another_dimension_ends_with_2() {
    let home = Home::new();
    home.write("books/a.txt", "Some words of a book.");
    let service = Service::new();
    let store = service.store();
    home.ok(&["ingest", "books", "--store", &store, "--model", "tiny", "--dim", "16"]);
    let ran = home.run(&[
        "ingest",
        "books",
        "--store",
        &store,
        "--model",
        "tiny",
        "--dim",
        "32",
        "--manifest",
        "b.haul",
    ]);
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(ran.stderr.contains("dim is 16, asked for 32"), "{}", ran.stderr);
    assert!(!home.path("b.haul").exists(), "no manifest is made for a collection it does not fit");
}

/// A server away for a while in the middle of a run: the run waits for it; a signal ends the wait, and the next run
/// goes on.
#[test]
fn a_signal_ends_the_wait_for_a_server() {
    let home = library_with_books();
    let service = Service::failing("upsert:1:die");
    let books = home.path("books");
    let args =
        ["ingest", text(&books), "--store", &service.store(), "--manifest", "lib.haul", "--model", "tiny"];
    let mut service = service;
    let mut run = home.haul(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    service.wait();
    std::thread::sleep(Duration::from_millis(200));
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let service = service.restarted("");
    home.ok(&args);
    assert_eq!(digest(&home, &service.store()), home.digest());
}

/// The comparison after a push waits for a server too, and its end by a signal is an interruption like any other.
#[test]
fn a_signal_ends_the_comparison_of_a_push() {
    let home = library_with_books();
    let service = Service::failing("");
    home.ingest(&[text(&home.path("books"))]);
    let args = ["store", "push", "--store", "lib.haul", "--to", &service.store()];
    home.ok(&args);
    // Three pages say what is there before anything is pushed.
    let mut service = service.restarted("scroll:4:die");
    let mut run = home.haul(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    service.wait();
    std::thread::sleep(Duration::from_millis(200));
    rustix::process::kill_process(rustix::process::Pid::from_child(&run), rustix::process::Signal::INT)
        .unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
}

/// What Alexandria's documentation says its points hold, read from there: every field of parents, children and points
/// without parents is on ours, and ids are UUIDs that a second ingest makes again.
#[test]
fn alexandrias_own_client_finds_its_fields() {
    let Some(table) = (Needs("alexandrias_own_client_finds_its_fields")).reference("systems.md") else {
        return;
    };
    let fields = alexandrias_fields(&table);
    assert!(fields.iter().map(|(names, ..)| names.len()).sum::<usize>() >= 20, "{fields:?}");
    let home = library_with_books();
    let (hierarchical, flat) = (alexandrias_points(&home, &["--parents"]), alexandrias_points(&home, &[]));
    assert!(hierarchical.len() > 10 && flat.len() > 10);
    for (names, parent, child, without) in &fields {
        for name in names {
            for payload in hierarchical.values() {
                let wanted = if payload["chunk_level"] == "parent" { parent } else { child };
                assert!(!wanted || payload.get(name).is_some(), "{name}: {payload:#}");
            }
            assert!(!without || flat.values().all(|payload| payload.get(name).is_some()), "{name}");
        }
    }
    for payload in hierarchical.values().chain(flat.values()) {
        let is_parent = payload["chunk_level"] == "parent";
        let strategy = if is_parent { "hierarchical" } else { "universal-semantic" };
        assert_eq!(payload["strategy"], strategy, "{payload:#}");
        let parent = payload["parent_id"].as_str().map(|id| &hierarchical[id]);
        assert!(parent.is_none_or(|parent| parent["chunk_level"] == "parent"), "{payload:#}");
    }
    let keys = |points: BTreeMap<String, Value>| points.into_keys().collect::<BTreeSet<String>>();
    let again = keys(alexandrias_points(&home, &["--parents"]));
    assert_eq!(again, keys(hierarchical));
    // RFC 9562: version 5 in the third group, the variant in the fourth.
    let is_v5 = |id: &String| id.len() == 36 && &id[14..15] == "5" && "89ab".contains(&id[19..20]);
    assert!(again.iter().all(is_v5), "{again:?}");
}

/// Points of a new collection as Alexandria makes its own: one vector without a name, compared by cosine.
fn alexandrias_points(home: &Home, args: &[&str]) -> BTreeMap<String, Value> {
    use qdrant_client::qdrant::vectors_config::Config;
    use qdrant_client::qdrant::{Distance, PayloadSchemaType};
    let service = Service::new();
    let (store, books) = (format!("{}?unnamed", service.store()), home.path("books"));
    let ingest = ["ingest", text(&books), "--store", &store, "--model", "tiny", "--chunker", "fixed"];
    home.ok(&[&ingest[..], args].concat());
    let info = ask(&service.store(), async |client, collection| {
        client.collection_info(collection).await.unwrap().result.unwrap()
    });
    let indexed = |field: &str| info.payload_schema.get(field).map(|schema| schema.data_type());
    for field in ["book_title", "author", "language", "parent_id", "chunk_level", "doc_id"] {
        assert_eq!(indexed(field), Some(PayloadSchemaType::Keyword), "{field}");
    }
    let config = info.config.unwrap().params.unwrap().vectors_config.unwrap().config;
    let Some(Config::Params(vector)) = config else { panic!("{config:?}") };
    assert_eq!((vector.size, vector.distance()), (32, Distance::Cosine));
    payloads(&service.store())
}

/// Rows of the payload table of section A.4: field names, and whether parents, children and others have them.
fn alexandrias_fields(systems: &str) -> Vec<(Vec<String>, bool, bool, bool)> {
    let section = systems.split("### A.4").nth(1).unwrap().split("### A.5").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|') && !line.contains("---"));
    rows.skip(1)
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let has = |cell: &str| !cell.is_empty() && cell != "-";
            let names = cells[0].split(',').map(|name| name.trim().split(' ').next().unwrap().to_owned());
            (names.collect(), has(cells[1]), has(cells[2]), has(cells[3]))
        })
        .collect()
}

/// Ids and payloads of all points, as any client reads them.
fn payloads(address: &str) -> BTreeMap<String, Value> {
    use qdrant_client::qdrant::ScrollPointsBuilder;
    use qdrant_client::qdrant::point_id::PointIdOptions;
    ask(address, async |client, collection| {
        let scroll = ScrollPointsBuilder::new(collection).limit(10_000).with_payload(true);
        let page = client.scroll(scroll).await.unwrap();
        assert!(page.next_page_offset.is_none(), "more points than a page");
        let object = |payload: std::collections::HashMap<String, qdrant_client::qdrant::Value>| {
            Value::Object(payload.into_iter().map(|(field, value)| (field, value.into())).collect())
        };
        let point = |point: qdrant_client::qdrant::RetrievedPoint| {
            let Some(PointIdOptions::Uuid(id)) = point.id.and_then(|id| id.point_id_options) else {
                panic!("an id that is no UUID")
            };
            (id, object(point.payload))
        };
        page.result.into_iter().map(point).collect()
    })
}
