//! One flipped bit at a time, in the segment, the log and the database: a search answers what it answered before, or
//! says what is damaged, or makes the segment again; never anything else.

use std::fs;
use std::path::{Path, PathBuf};

use haul_store::library::{Library, OpenError};
use haul_store::search::{Filters, Hit, Mode, Parents, Request, VectorSource, search};
use haul_store::segment::{self, State};

use crate::fixture::{Random, document, ingest, new_library, vector};

const DOCUMENTS: usize = 60;

fn text(number: usize) -> String {
    format!("text {number} about harbours, lanterns and the colour of slate {}", number % 7)
}

fn fill(library: &mut Library) {
    for number in 0..DOCUMENTS {
        ingest(library, &document(&format!("{number}.txt"), &[&text(number), &format!("more of {number}")]));
    }
}

/// What is asked after every flip: vectors with context, words, and both.
const MODES: [Mode; 3] = [Mode::Dense, Mode::Bm25, Mode::Hybrid];

/// The hits, and whether the segment was made again, or the error.
fn ask(path: &Path, mode: Mode) -> Result<(Vec<Hit>, bool), String> {
    let library = Library::open_read_only(path).map_err(|error| error.to_string())?;
    let (filters, query) = (Filters::default(), vector(&text(17)));
    let request = Request {
        text: "lanterns of slate 3",
        vector: Some(&query),
        sparse: None,
        mode,
        filters: &filters,
        limit: 10,
        context: 1,
        parents: Parents::Without,
        min_score: None,
        threads: 2,
    };
    let outcome = search(&library, &request).map_err(|error| error.to_string())?;
    let rebuilt = matches!(outcome.vectors, VectorSource::Segment { rebuilt_ms: Some(_) });
    Ok((outcome.hits, rebuilt))
}

fn answers(path: &Path) -> Vec<Vec<Hit>> {
    MODES.map(|mode| ask(path, mode).unwrap().0).into()
}

fn flip(bytes: &mut [u8], random: &mut Random) -> usize {
    let at = random.below(bytes.len() as u64) as usize;
    bytes[at] ^= 1 << random.below(8);
    at
}

/// A library and its segment, checkpointed and closed.
fn closed() -> (tempfile::TempDir, PathBuf) {
    let (folder, path, mut library) = new_library();
    fill(&mut library);
    library.empty_log().unwrap();
    segment::refresh(&library).unwrap();
    (folder, path)
}

fn segment_of(path: &Path) -> PathBuf {
    path.with_extension("haul.seg")
}

#[test]
fn in_the_segment() {
    let (_folder, path) = closed();
    let (whole, wanted) = (fs::read(segment_of(&path)).unwrap(), answers(&path));
    let mut random = Random::new(51);
    let (mut made_again, mut unused) = (0, 0);
    for _ in 0..250 {
        let mut bytes = whole.clone();
        let at = flip(&mut bytes, &mut random);
        fs::write(segment_of(&path), &bytes).unwrap();
        let library = Library::open_read_only(&path).unwrap();
        let is_found = !library.verify().unwrap().findings.is_empty();
        let (hits, rebuilt) = ask(&path, Mode::Dense).unwrap();
        assert_eq!(hits, wanted[0], "byte {at}");
        // Rows that cannot be among the hits are not read; verify reads them.
        assert!(is_found || !rebuilt, "byte {at}");
        if rebuilt {
            made_again += 1;
        } else {
            unused += 1;
        }
    }
    println!("flips in the segment: {made_again} made again, {unused} not read");
    assert!(made_again > 100, "{made_again} made again, {unused} not read");
}

/// The halves of the best row decide about it, and no checksum of a whole section is over them.
#[test]
fn in_the_rows_that_decide() {
    let (_folder, path) = closed();
    let (whole, wanted) = (fs::read(segment_of(&path)).unwrap(), answers(&path));
    let halves_bytes = DOCUMENTS * 2 * crate::fixture::DIM * 2;
    let halves = whole.len() - halves_bytes;
    let mut found = 0;
    for row in 0..DOCUMENTS * 2 {
        let mut bytes = whole.clone();
        bytes[halves + row * crate::fixture::DIM * 2 + row % 48] ^= 1 << (row % 8);
        fs::write(segment_of(&path), &bytes).unwrap();
        let (hits, rebuilt) = ask(&path, Mode::Dense).unwrap();
        assert_eq!(hits, wanted[0], "row {row}");
        found += usize::from(rebuilt);
    }
    assert!(found >= 10, "{found} rows decided");
}

/// A process that was killed leaves its log. Damage before the last commit is refused; the last commit, damaged,
/// is one that was not finished.
#[test]
fn in_the_log() {
    let (folder, path, mut library) = new_library();
    fill(&mut library);
    library.empty_log().unwrap();
    for number in 0..6 {
        ingest(
            &mut library,
            &document(&format!("late {number}.txt"), &[&format!("late slate lanterns {number}")]),
        );
    }
    let before_last = {
        let (_folder, path, mut library) = new_library();
        fill(&mut library);
        for number in 0..5 {
            let text = format!("late slate lanterns {number}");
            ingest(&mut library, &document(&format!("late {number}.txt"), &[&text]));
        }
        drop(library);
        answers(&path)
    };
    let (database, log) = (fs::read(&path).unwrap(), fs::read(path.with_extension("haul-wal")).unwrap());
    let killed = folder.path().join("killed.haul");
    let restore = |log: &[u8]| {
        fs::write(&killed, &database).unwrap();
        fs::write(killed.with_extension("haul-wal"), log).unwrap();
        for beside in ["haul-shm", "haul.seg"] {
            if killed.with_extension(beside).exists() {
                fs::remove_file(killed.with_extension(beside)).unwrap();
            }
        }
    };
    restore(&log);
    let wanted = answers(&killed);
    assert_ne!(wanted, before_last);
    let mut random = Random::new(52);
    let (mut refused, mut unfinished, mut unused) = (0, 0, 0);
    for _ in 0..220 {
        let mut bytes = log.clone();
        let at = flip(&mut bytes, &mut random);
        restore(&bytes);
        match Library::open_read_only(&killed) {
            Err(error) => {
                assert!(matches!(error, OpenError::DamagedLog { .. }), "byte {at}: {error}");
                assert!(error.hint().is_some());
                refused += 1;
            }
            Ok(_) if answers(&killed) == wanted => unused += 1,
            Ok(library) => {
                assert_eq!(library.verify().unwrap().findings, [], "byte {at}");
                unfinished += 1;
            }
        }
    }
    println!("flips in the log: {refused} refused, {unfinished} as if not finished, {unused} not used");
    assert!(refused > 100, "{refused} refused, {unfinished} as if not finished, {unused} not used");
}

/// With the segment beside it and without. The full text has no checksums: `verify` compares it with the texts.
#[test]
fn in_the_database() {
    let (folder, path) = closed();
    let (whole, wanted) = (fs::read(&path).unwrap(), answers(&path));
    let segment = fs::read(segment_of(&path)).unwrap();
    let damaged = folder.path().join("damaged.haul");
    let used: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] != 0).collect();
    let mut random = Random::new(53);
    let (mut said, mut same, mut found) = (0, 0, 0);
    for round in 0..400 {
        let mut bytes = whole.clone();
        let at = used[random.below(used.len() as u64) as usize];
        bytes[at] ^= 1 << random.below(8);
        fs::write(&damaged, &bytes).unwrap();
        if round % 2 == 0 {
            fs::write(segment_of(&damaged), &segment).unwrap();
        } else if segment_of(&damaged).exists() {
            fs::remove_file(segment_of(&damaged)).unwrap();
        }
        for (mode, wanted) in MODES.into_iter().zip(&wanted) {
            match ask(&damaged, mode) {
                Err(_) => said += 1,
                Ok((hits, _)) if hits == *wanted => same += 1,
                Ok((hits, _)) => {
                    let library = Library::open_read_only(&damaged).unwrap();
                    let findings = library.verify().unwrap().findings;
                    let differing = hits.iter().zip(wanted).find(|(found, wanted)| found != wanted);
                    assert!(
                        mode != Mode::Dense && !findings.is_empty(),
                        "byte {at}, {mode:?}, round {round}: {differing:#?}"
                    );
                    found += 1;
                }
            }
        }
    }
    println!("flips in the database: {said} said, {same} the same, {found} by verify");
    // Whether one of the flips hits the full text is chance: ids are drawn anew each time.
    assert!(said > 100, "{said} said, {same} the same, {found} by verify");
    assert!(matches!(
        segment::state(&Library::open_read_only(&path).unwrap()).unwrap(),
        State::Usable { .. }
    ));
}
