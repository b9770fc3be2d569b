//! `kill -9` at any moment of an ingest leaves a sound library, and finishing it gives the same digest.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use haul_store::library::{DocumentRecord, Library};

use crate::fixture::{Random, assert_sound, document, ingest, new_library, settings};

const DOCUMENTS: usize = 60;
const KILLS: usize = 20;

/// Argument that turns this binary into the writer that is killed.
const CHILD: &str = "library=";

/// Line the writer prints after each document.
const COMMITTED: &str = "committed";

/// Longest wait after such a line: about the time a document takes.
const PAUSE_US_MAX: u64 = 20_000;

fn documents() -> Vec<DocumentRecord> {
    (0..DOCUMENTS)
        .map(|number| {
            let texts: Vec<_> =
                (0..8).map(|chunk| format!("document {number} chunk {chunk}").repeat(40)).collect();
            document(&format!("{number}.txt"), &texts.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .collect()
}

/// Commits what the manifest lacks, in an order of its own.
#[expect(clippy::print_stdout, reason = "the parent counts these lines")]
fn finish(path: &Path, seed: u64) {
    let mut library = if path.exists() {
        Library::open(path).unwrap()
    } else {
        Library::create(path, &settings()).unwrap()
    };
    let mut documents = documents();
    let mut random = Random::new(seed);
    for place in (1..documents.len()).rev() {
        documents.swap(place, random.below(place as u64 + 1) as usize);
    }
    let known: Vec<_> = library.manifest().unwrap().into_iter().map(|row| row.doc_id).collect();
    for document in documents.iter().filter(|document| !known.contains(&document.doc_id)) {
        ingest(&mut library, document);
        println!("{COMMITTED}");
    }
    haul_store::segment::refresh(&library).unwrap();
}

/// The writer: does nothing in an ordinary run of the tests.
#[test]
fn writer() {
    let arguments: Vec<_> = std::env::args().collect();
    if let [.., seed, path] = arguments.as_slice()
        && let Some(path) = path.strip_prefix(CHILD)
    {
        finish(Path::new(path), seed.parse().unwrap());
    }
}

fn spawn(path: &Path, seed: u64) -> Child {
    #[expect(clippy::disallowed_methods, reason = "the test binary is its own child")]
    let this = std::env::current_exe().unwrap();
    Command::new(this)
        .args(["--exact", "kill::writer", "--nocapture"])
        .args([seed.to_string(), format!("{CHILD}{}", path.display())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the writer a moment after it has committed `documents` more. Whether it was still alive.
fn kill_after(mut child: Child, documents: usize, pause: Duration) -> bool {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut committed = lines.map(Result::unwrap).filter(|line| line.ends_with(COMMITTED));
    // By reference, so that the pipe stays open until the kill.
    committed.by_ref().take(documents).for_each(drop);
    std::thread::sleep(pause);
    let alive = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    alive
}

#[test]
fn a_killed_ingest_is_sound_and_ends_the_same() {
    let (_folder, _, mut library) = new_library();
    documents().iter().for_each(|document| ingest(&mut library, document));
    let expected = library.digest().unwrap();

    let mut random = Random::new(0x6b69_6c6c);
    let (mut hits, mut finished) = (0, 0);
    let mut folder = tempfile::tempdir().unwrap();
    for _ in 0..KILLS {
        let path = folder.path().join("books.haul");
        let left = DOCUMENTS - committed(&path);
        let child = spawn(&path, random.next());
        let pause = Duration::from_micros(random.below(PAUSE_US_MAX));
        hits += usize::from(kill_after(child, random.below(left as u64) as usize, pause));
        if path.exists() {
            assert_sound(&Library::open(&path).unwrap());
        }
        if committed(&path) > DOCUMENTS / 2 {
            finish(&path, random.next());
            assert_eq!(Library::open_read_only(&path).unwrap().digest().unwrap(), expected);
            folder = tempfile::tempdir().unwrap();
            finished += 1;
        }
    }
    println!("{hits} of {KILLS} kills hit a live run; {finished} libraries were finished");
    assert!(hits * 10 >= KILLS * 8 && finished > 1, "{hits} of {KILLS} kills hit, {finished} finished");
}

/// Documents a library has.
fn committed(path: &Path) -> usize {
    if !path.exists() {
        return 0;
    }
    Library::open_read_only(path).unwrap().manifest().unwrap().len()
}
