//! What comes out of archives and mails, through a real worker process.

use std::fs;
use std::io::Cursor;

use haul_corpus::container::Container;
use haul_corpus::limits::Limits;
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_corpus::worker::Unpacked;
use sevenz_rust2::{ArchiveEntry, ArchiveWriter};

use crate::office::{Mail, mail, zip};
use crate::worker::{LIMITS, Room};

/// One file under the password `secret`, without and with its name, by the Python package py7zr 1.1.4.
const ENCRYPTED: [&[u8]; 2] = [include_bytes!("encrypted.7z"), include_bytes!("encrypted-names.7z")];

/// Each file by its name with its words, or with the verdict and the reason why there are none.
struct Came {
    files: Vec<(String, Result<String, ParseFailure>)>,
    result: Result<(), ParseFailure>,
}

fn unpack(bytes: &[u8], container: Container, limits: &Limits, bytes_max: u64) -> Came {
    let mut room = Room::new(limits);
    let path = room.folder.path().join("container");
    fs::write(&path, bytes).unwrap();
    let into = room.folder.path().join("into");
    fs::create_dir(&into).unwrap();
    let mut files = Vec::new();
    let result = room.worker.unpack(&path, container, &into, bytes_max, &mut |Unpacked { name, content }| {
        files.push((name, content.map(|path| fs::read_to_string(path).unwrap())));
    });
    // Nothing stands anywhere but in the folder, under a number.
    for entry in fs::read_dir(&into).unwrap() {
        assert!(entry.unwrap().file_name().to_str().unwrap().parse::<usize>().is_ok());
    }
    assert_eq!(fs::read_dir(room.folder.path()).unwrap().count(), 2);
    room.assert_works();
    Came { files, result }
}

fn names(came: &Came) -> Vec<(&str, Option<&str>)> {
    came.files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_ref().ok().map(String::as_str)))
        .collect()
}

fn seven_zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ArchiveWriter::new(Cursor::new(Vec::new())).unwrap();
    for (name, content) in files {
        writer.push_archive_entry(ArchiveEntry::new_file(name), Some(*content)).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

const ALL: u64 = u64::MAX;

#[test]
fn files_of_archives_come_out_by_name() {
    let files: [(&str, &[u8]); 3] = [("a/deed.txt", b"one"), ("b/deed.txt", b"two"), ("b/empty.txt", b"")];
    let expected = [("a/deed.txt", Some("one")), ("b/deed.txt", Some("two")), ("b/empty.txt", Some(""))];
    let came = unpack(&zip(&files), Container::Zip, &LIMITS, ALL);
    assert_eq!((names(&came).as_slice(), &came.result), (&expected[..], &Ok(())));
    let came = unpack(&seven_zip(&files), Container::SevenZip, &LIMITS, ALL);
    let mut found = names(&came);
    found.sort_unstable();
    assert_eq!((found.as_slice(), &came.result), (&expected[..], &Ok(())));
}

#[test]
fn what_hangs_on_a_mail_comes_out_and_what_its_body_shows_does_not() {
    let came = unpack(&mail(), Container::Mail, &LIMITS, ALL);
    let expected =
        [("terms.txt", Some("The term is ten years.")), ("The offer before/OLD.TXT", Some("Old terms."))];
    assert_eq!((names(&came).as_slice(), &came.result), (&expected[..], &Ok(())));
    let first = "/__attach_version1.0_#00000000/";
    let logo = Mail::default().text(first, "3707", "logo.png").text(first, "3712", "logo@id");
    let logo = logo.bytes(first, "__substg1.0_37010102", b"\x89PNG").built();
    assert_eq!(names(&unpack(&logo, Container::Mail, &LIMITS, ALL)), []);
}

/// What was beyond the limits of a mail was left out without a word.
#[test]
fn what_hangs_on_a_mail_beyond_its_limits_is_counted() {
    const MOST: usize = 1_000;
    const DEEPEST: usize = 8;
    let mut crowded = Mail::default();
    for number in 0..MOST + 2 {
        let folder = format!("/__attach_version1.0_#{number:08X}/");
        crowded = crowded.text(&folder, "3707", &format!("{number}.txt"));
        crowded = crowded.bytes(&folder, "__substg1.0_37010102", b"x");
    }
    let came = unpack(&crowded.built(), Container::Mail, &LIMITS, ALL);
    let failure = came.result.unwrap_err();
    assert_eq!((came.files.len(), failure.verdict), (MOST, Verdict::TooLarge));
    let why = "2 of 1002 files that hang on the mail were not read: 1000 are the most";
    assert_eq!(failure.why, why);

    let inner = "__attach_version1.0_#00000000/__substg1.0_3701000D/";
    let deepest = format!("/{}__attach_version1.0_#00000000/", inner.repeat(DEEPEST + 1));
    let deep = Mail::default().text(&deepest, "3707", "a.txt");
    let failure =
        unpack(&deep.bytes(&deepest, "__substg1.0_37010102", b"x").built(), Container::Mail, &LIMITS, ALL)
            .result
            .unwrap_err();
    assert_eq!(failure.why, "mails more than 8 deep in the mail were not read: 1");
}

/// Names that lead out of an archive once wrote over files of the user in other programs. Here a name is no path, and
/// such a file is not even read.
#[test]
fn no_name_of_an_archive_is_a_path() {
    let files: [(&str, &[u8]); 4] =
        [("../out.txt", b"x"), ("/etc/out.txt", b"x"), ("..\\other.txt", b"x"), ("good.txt", b"good")];
    for (bytes, container) in [(zip(&files), Container::Zip), (seven_zip(&files), Container::SevenZip)] {
        let came = unpack(&bytes, container, &LIMITS, ALL);
        assert_eq!(came.result, Ok(()));
        let (good, bad): (Vec<_>, Vec<_>) = came.files.iter().partition(|(_, content)| content.is_ok());
        assert_eq!(good, [&("good.txt".to_owned(), Ok("good".to_owned()))]);
        assert_eq!(bad.len(), 3);
        for (name, content) in bad {
            let failure = content.as_ref().unwrap_err();
            assert!(
                failure.verdict == Verdict::Corrupt && failure.why.contains("leads out"),
                "{name}: {failure}"
            );
        }
    }
}

#[test]
fn bombs_are_too_large() {
    let zeros = vec![b' '; 3 << 20];
    let files: [(&str, &[u8]); 2] = [("bomb.txt", &zeros), ("good.txt", b"good")];
    let came = unpack(&zip(&files), Container::Zip, &LIMITS, ALL);
    assert_eq!(came.result, Ok(()));
    let failure = came.files[0].1.as_ref().unwrap_err();
    assert!(failure.verdict == Verdict::TooLarge && failure.why.contains("200 to 1"), "{failure}");
    assert_eq!(came.files[1], ("good.txt".to_owned(), Ok("good".to_owned())));
    let came = unpack(&seven_zip(&files), Container::SevenZip, &LIMITS, ALL);
    let failure = came.result.unwrap_err();
    assert!(failure.verdict == Verdict::TooLarge && failure.why.contains("200 to 1"), "{failure}");
    assert!(came.files.is_empty());
    // What the caller has left for archives counts as well.
    let files: [(&str, &[u8]); 2] = [("a.txt", b"12345678"), ("b.txt", b"12345678")];
    let came = unpack(&zip(&files), Container::Zip, &LIMITS, 10);
    assert_eq!(came.result.unwrap_err().verdict, Verdict::TooLarge);
    let came = unpack(&seven_zip(&files), Container::SevenZip, &LIMITS, 10);
    assert_eq!(came.result.unwrap_err().verdict, Verdict::TooLarge);
    let few = Limits { archive_entries: 1, ..LIMITS };
    for (bytes, container) in [(zip(&files), Container::Zip), (seven_zip(&files), Container::SevenZip)] {
        assert_eq!(unpack(&bytes, container, &few, ALL).result.unwrap_err().verdict, Verdict::TooLarge);
    }
}

#[test]
fn archives_that_cannot_be_opened_are_named() {
    let good = seven_zip(&[("deed.txt", b"one")]);
    let mut flipped = good.clone();
    flipped[34] ^= 0xff;
    for (bytes, container, expected) in [
        (ENCRYPTED[0].to_vec(), Container::SevenZip, Verdict::Drm),
        (ENCRYPTED[1].to_vec(), Container::SevenZip, Verdict::Drm),
        (good[..good.len() - 4].to_vec(), Container::SevenZip, Verdict::Corrupt),
        (flipped, Container::SevenZip, Verdict::Corrupt),
        (b"just words".to_vec(), Container::SevenZip, Verdict::Corrupt),
        (b"just words".to_vec(), Container::Zip, Verdict::Corrupt),
        (b"just words".to_vec(), Container::Mail, Verdict::Corrupt),
        (Vec::new(), Container::Zip, Verdict::Empty),
    ] {
        let failure = unpack(&bytes, container, &LIMITS, ALL).result.unwrap_err();
        assert_eq!(failure.verdict, expected, "{failure}");
    }
}

/// Of two entries with one name only one can be read, and that is said.
#[test]
fn a_name_that_comes_twice_is_said() {
    let came = unpack(&zip(&[("a/b.txt", b"one"), ("a\\b.txt", b"two")]), Container::Zip, &LIMITS, ALL);
    assert_eq!(names(&came), [("a/b.txt", Some("one"))]);
    assert_eq!(came.result.unwrap_err().why, "of 2 files in the archive only 1 have names of their own");
}

/// A reader of the directory keeps the last of two entries with the very same name, and nobody was told of the first.
#[test]
fn an_entry_that_the_directory_has_twice_is_said() {
    let mut bytes = zip(&[("a/b.txt", b"one"), ("a/c.txt", b"two")]);
    let name = b"a/c.txt";
    for at in 0..bytes.len() - name.len() {
        if &bytes[at..at + name.len()] == name {
            bytes[at..at + name.len()].copy_from_slice(b"a/b.txt");
        }
    }
    let came = unpack(&bytes, Container::Zip, &LIMITS, ALL);
    assert_eq!(names(&came).len(), 1);
    assert_eq!(came.result.unwrap_err().why, "of 2 files in the archive only 1 have names of their own");
}

/// Files are sent a piece at a time; one of many pieces comes whole.
#[test]
fn large_files_come_whole() {
    let words: String = (0..400_000).map(|n| format!("{n} ")).collect();
    let came = unpack(&zip(&[("a.txt", words.as_bytes())]), Container::Zip, &LIMITS, ALL);
    assert!(came.files[0].1.as_ref().unwrap() == &words);
}
