//! Listing of files and folders.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use haul_corpus::document::Format;
use haul_corpus::source::{Listing, SourceError, list};
use haul_corpus::verdict::Verdict;

fn write(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "text").unwrap();
}

fn relative(listing: &Listing) -> Vec<&str> {
    listing.files.iter().map(|file| file.relative.to_str().unwrap()).collect()
}

#[test]
fn folders_are_listed_sorted_with_formats_and_relative_paths() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b/Two.EPUB", "a.txt", "b/one.md", "c.mobi", ".hidden/x.txt", "b/.x.txt", "z.jsonl"] {
        write(&folder.path().join(name));
    }
    let listing = list(&[folder.path().to_path_buf()]).unwrap();
    assert_eq!(relative(&listing), ["a.txt", "b/Two.EPUB", "b/one.md", "c.mobi", "z.jsonl"]);
    let formats: Vec<_> = listing.files.iter().map(|file| file.format).collect();
    let expected =
        [Some(Format::Text), Some(Format::Epub), Some(Format::Markdown), None, Some(Format::JsonLines)];
    assert_eq!(formats, expected);
    assert_eq!((listing.hidden, listing.failures.len()), (2, 0));
    let file = &listing.files[1];
    assert_eq!((file.root.as_path(), file.size_bytes), (folder.path(), 4));
    assert_eq!(file.path, folder.path().join("b/Two.EPUB"));
    assert!(file.modified.is_some());
}

#[test]
fn a_file_named_by_the_user_is_relative_to_its_folder_and_listed_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b.txt");
    write(&file);
    write(&folder.path().join("a.txt"));
    let paths = [file.clone(), folder.path().to_path_buf(), file.clone(), folder.path().to_path_buf()];
    let listing = list(&paths).unwrap();
    assert_eq!(relative(&listing), ["b.txt", "a.txt"]);
    assert_eq!(listing.files[0].root, folder.path());
}

#[test]
fn links_are_followed_and_loops_end() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("far.txt"));
    write(&folder.path().join("real/a.txt"));
    symlink(folder.path(), folder.path().join("real/loop")).unwrap();
    symlink(outside.path(), folder.path().join("link")).unwrap();
    symlink(folder.path().join("real/a.txt"), folder.path().join("same.txt")).unwrap();
    symlink("nowhere", folder.path().join("dangling.txt")).unwrap();
    let listing = list(&[folder.path().to_path_buf()]).unwrap();
    assert_eq!(relative(&listing), ["link/far.txt", "real/a.txt"]);
    let failures: Vec<_> = listing.failures.iter().map(|f| (f.path.clone(), f.failure.verdict)).collect();
    assert_eq!(failures, [(folder.path().join("dangling.txt"), Verdict::Failed)]);
}

#[test]
fn what_cannot_be_listed_is_an_item_with_a_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let bad_name = folder.path().join(OsStr::from_bytes(b"caf\xe9.txt"));
    write(&bad_name);
    let socket = folder.path().join("socket.txt");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut deep = folder.path().to_path_buf();
    for _ in 0..70 {
        deep.push("d");
    }
    write(&deep.join("a.txt"));
    let listing = list(&[folder.path().to_path_buf()]).unwrap();
    assert!(listing.files.is_empty());
    let found = |path: &Path| listing.failures.iter().find(|f| f.path == path).map(|f| f.failure.verdict);
    assert_eq!(found(&bad_name), Some(Verdict::Unsupported));
    assert_eq!(found(&socket), Some(Verdict::Unsupported));
    assert_eq!(listing.failures[1].failure.verdict, Verdict::TooLarge, "{:?}", listing.failures);
    assert_eq!(listing.failures.len(), 3);
}

#[test]
fn a_path_that_is_not_there_is_an_error_with_a_hint() {
    let error = list(&[PathBuf::from("/no/such/folder")]).unwrap_err();
    assert!(matches!(error, SourceError::Absent { .. }) && error.hint().is_some());
    assert!(error.to_string().contains("/no/such/folder"));
}
