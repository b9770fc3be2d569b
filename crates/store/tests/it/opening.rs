//! What is opened, and what is refused untouched.

use std::fs;

use haul_store::library::{Library, OpenError};

use crate::fixture::{assert_sound, document, ingest, new_library, settings};

#[test]
fn settings_and_uuid_outlive_the_process() {
    let (_folder, path, library) = new_library();
    let uuid = library.uuid();
    drop(library);
    let library = Library::open(&path).unwrap();
    assert_eq!((library.settings(), library.uuid()), (&settings(), uuid));
    assert_sound(&library);
}

#[test]
fn one_writer_and_many_readers() {
    let (_folder, path, mut library) = new_library();
    let refused = Library::open(&path).unwrap_err();
    let holder = format!("pid {} on ", std::process::id());
    assert!(
        matches!(&refused, OpenError::Busy { holder: found, .. } if found.starts_with(&holder)),
        "{refused}"
    );

    let readers = [Library::open_read_only(&path).unwrap(), Library::open_read_only(&path).unwrap()];
    ingest(&mut library, &document("a.txt", &["one", "two"]));
    for reader in &readers {
        assert_eq!(reader.digest().unwrap(), library.digest().unwrap());
    }
    drop(library);
    Library::open(&path).unwrap();
}

/// The lock stood beside the link and not beside the file, so two names had two writers.
#[test]
fn a_link_does_not_get_around_the_lock() {
    let (folder, path, _library) = new_library();
    let link = folder.path().join("other-name.haul");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(Library::open(&link).unwrap_err(), OpenError::Busy { .. }));
}

#[test]
fn create_never_replaces_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    fs::write(&path, "mine").unwrap();
    assert!(matches!(Library::create(&path, &settings()).unwrap_err(), OpenError::Exists { .. }));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "no folder").unwrap();
    for place in ["nope", "nope/dir", "file", "file/dir"] {
        let place = folder.path().join(place);
        let path = place.join("x.haul");
        let refused = Library::create(&path, &settings()).unwrap_err();
        assert!(matches!(&refused, OpenError::NoFolder { folder, .. } if *folder == place), "{refused}");
        assert!(refused.hint().is_some());
        assert!(matches!(Library::open(&path).unwrap_err(), OpenError::Missing { .. }));
    }
}

/// The library was named: `x.haul: Is a directory`.
#[test]
fn a_lock_that_cannot_be_had_is_named() {
    let (_folder, path, library) = new_library();
    drop(library);
    let lock = path.with_extension("haul.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let refused = Library::open(&path).unwrap_err();
    assert!(matches!(&refused, OpenError::Lock { path, .. } if *path == lock), "{refused}");
    assert!(refused.hint().is_some());
    Library::open_read_only(&path).unwrap();
}

#[test]
fn what_is_no_library_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("empty"), "").unwrap();
    fs::write(at("text"), "not a database, but long enough to be one ".repeat(10)).unwrap();
    fs::write(at("short"), "SQLite format 3\0").unwrap();
    rusqlite::Connection::open(at("other.db")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let before: Vec<_> =
        ["empty", "text", "short", "other.db"].map(|name| fs::read(at(name)).unwrap()).into();

    for name in ["empty", "text", "short", "other.db", "."] {
        for open in [Library::open, Library::open_read_only] {
            let refused = open(&at(name)).unwrap_err();
            assert!(matches!(refused, OpenError::NotALibrary { .. }), "{name}: {refused}");
        }
    }
    assert!(matches!(Library::open(&at("absent")).unwrap_err(), OpenError::Missing { .. }));
    let after: Vec<_> = ["empty", "text", "short", "other.db"].map(|name| fs::read(at(name)).unwrap()).into();
    assert_eq!(before, after);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn a_newer_library_is_refused_by_its_version() {
    let (_folder, path, library) = new_library();
    drop(library);
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let refused = Library::open(&path).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 7, known: 4, .. }), "{refused}");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 0).unwrap();
    let refused = Library::open_read_only(&path).unwrap_err();
    assert!(matches!(refused, OpenError::Older { found: 0, needed: 4, .. }), "{refused}");
}

#[test]
fn a_truncated_library_is_damaged_not_smaller() {
    let (_folder, path, mut library) = new_library();
    ingest(&mut library, &document("a.txt", &["one", "two", "three"]));
    drop(library);
    let whole = fs::read(&path).unwrap();
    for kept in [whole.len() - 8192, whole.len() / 2, 8192, 200] {
        fs::write(&path, &whole[..kept]).unwrap();
        let refused = Library::open_read_only(&path).unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { .. }), "{kept} bytes: {refused}");
    }
}

/// A read-only medium has no place for the reader's own file. A folder of that name takes the place here.
#[test]
fn a_library_is_read_where_nothing_can_be_written() {
    let (_folder, path, mut library) = new_library();
    ingest(&mut library, &document("a.txt", &["one", "two"]));
    let digest = library.digest().unwrap();
    drop(library);
    fs::create_dir(path.with_extension("haul-shm")).unwrap();
    assert_eq!(Library::open_read_only(&path).unwrap().digest().unwrap(), digest);
}

#[test]
fn differences_are_named() {
    let stored = settings();
    let mut asked = settings();
    asked.model_name = "the same weights by another name".to_owned();
    assert_eq!((stored.differences(&asked), stored.fingerprint()), (vec![], asked.fingerprint()));
    asked.dtype = "bf16".to_owned();
    asked.chunk_tokens = 128;
    let named: Vec<_> = stored
        .differences(&asked)
        .into_iter()
        .map(|difference| (difference.name, difference.stored, difference.asked))
        .collect();
    assert_eq!(
        named,
        [
            ("dtype", "\"f32\"".to_owned(), "\"bf16\"".to_owned()),
            ("chunk_tokens", "254".to_owned(), "128".to_owned())
        ]
    );
    assert_ne!(stored.fingerprint(), asked.fingerprint());
    // A hash says nothing to anybody: the name stands before it.
    let other = haul_store::library::LibrarySettings { model_sha256: "cd".repeat(32), ..settings() };
    let [difference] = &stored.differences(&other)[..] else { panic!("one setting differs") };
    assert_eq!(difference.name, "model");
    assert!(difference.asked.ends_with("(sha256 cdcdcdcdcdcd)"), "{}", difference.asked);
}

/// A process that another thread spawns has a copy of the lock's file until its exec; the lock outlived its holder
/// by that moment, and opening again was refused.
#[test]
fn the_lock_goes_with_its_holder_while_processes_are_spawned() {
    let (_folder, path, library) = new_library();
    drop(library);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert!(std::process::Command::new("true").status().unwrap().success());
            }
        });
        let opened = (0..200).map(|_| Library::open(&path).map(drop)).find(Result::is_err);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(opened.is_none(), "{opened:?}");
    });
}
