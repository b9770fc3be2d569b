//! Companies as folders and archives, read through a real worker process.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use haul_corpus::limits::Limits;
use haul_corpus::readers::Setup;
use haul_corpus::source;
use haul_corpus::verdict::Verdict;
use haul_corpus::worker::{Worker, serve};
use haul_jobs::extract::input::{self, Desk, NESTED_MAX, Read, companies, read_companies};
use haul_pipeline::cache::Cache;
use sevenz_rust2::{ArchiveEntry, ArchiveWriter};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Passed to the child besides the name of the test to run, which then is the worker.
const AS_WORKER: &str = "as-worker";
/// libtest writes to stdout, so the frames leave by another descriptor.
const SCRIPT: &str =
    r#"exec "$0" extract::input::serve_as_child as-worker --exact --nocapture 3>&1 >/dev/null"#;

/// The worker process of the other tests; alone, it has nothing to do.
#[test]
fn serve_as_child() {
    if std::env::args().any(|arg| arg == AS_WORKER) {
        let replies = File::options().write(true).open("/proc/self/fd/3").unwrap();
        serve(std::io::stdin(), replies).unwrap();
    }
}

struct Room {
    folder: tempfile::TempDir,
    desk: Desk,
}

impl Room {
    fn new() -> Room {
        #[expect(clippy::disallowed_methods, reason = "the worker is this very test binary")]
        let program = std::env::current_exe().unwrap();
        let args = ["-c", SCRIPT, program.to_str().unwrap()];
        let limits = Limits { cpu_seconds: 20, wall_seconds: 120, ..Limits::DEFAULT };
        let worker = Worker::spawn(Path::new("/bin/sh"), &args, &Setup::built_in(&limits)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache"), 1 << 20).unwrap();
        let scratch = folder.path().join("unpacked");
        fs::create_dir(&scratch).unwrap();
        Room { folder, desk: Desk { worker, cache, scratch } }
    }

    fn write(&self, path: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join("in").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn folder(&self, path: &str) -> PathBuf {
        let path = self.folder.path().join("in").join(path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn read(&mut self, paths: &[PathBuf]) -> Vec<Read> {
        let found = companies(paths).unwrap();
        let read = found.into_iter().flat_map(|found| read_companies(&mut self.desk, found)).collect();
        assert_eq!(fs::read_dir(&self.desk.scratch).unwrap().count(), 0, "what was unpacked is gone");
        read
    }
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn seven_zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ArchiveWriter::new(Cursor::new(Vec::new())).unwrap();
    for (name, content) in files {
        writer.push_archive_entry(ArchiveEntry::new_file(name), Some(*content)).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// What was read, as `company: file = words`, and what was not, as `company: file: verdict`.
fn told(read: &[Read]) -> Vec<String> {
    let mut told = Vec::new();
    for company in read {
        let name = &company.company;
        let sources = company.sources.iter();
        told.extend(sources.map(|source| format!("{name}: {} = {}", source.file, source.document.text)));
        let unread = company.unread.iter();
        told.extend(unread.map(|unread| format!("{name}: {}: {}", unread.file, unread.failure.verdict)));
        told.extend(company.failure().map(|failure| format!("{name}: {}", failure.verdict)));
    }
    told.sort();
    told
}

#[test]
fn a_company_is_a_folder_or_an_archive() {
    let mut room = Room::new();
    room.write("all/Acme/deed.txt", b"one");
    room.write("all/Acme/old/deed.txt", b"two");
    room.write("all/Beta.zip", &zip(&[("deed.txt", b"three"), ("notes/a.md", b"four")]));
    room.write("all/Ceta.7z", &seven_zip(&[("deed.txt", b"five")]));
    room.write("all/.DS_Store", b"x");
    room.folder("all/Empty");
    let all = room.folder("all");
    let expected = [
        "Acme: deed.txt = one",
        "Acme: old/deed.txt = two",
        "Beta: deed.txt = three",
        "Beta: notes/a.md = four",
        "Ceta: deed.txt = five",
        "Empty: empty",
    ];
    assert_eq!(told(&room.read(std::slice::from_ref(&all))), expected);
    // A folder with files of its own is one company, whatever else is in it.
    room.write("all/letter.txt", b"six");
    let read = room.read(&[all]);
    assert_eq!(read.len(), 1);
    assert_eq!(
        told(&read),
        [
            "all: Acme/deed.txt = one",
            "all: Acme/old/deed.txt = two",
            "all: Beta.zip/deed.txt = three",
            "all: Beta.zip/notes/a.md = four",
            "all: Ceta.7z/deed.txt = five",
            "all: letter.txt = six",
        ]
    );
}

/// The archives that the original takes hold a folder for each company.
#[test]
fn an_archive_of_folders_is_many_companies() {
    let mut room = Room::new();
    let files: [(&str, &[u8]); 4] = [
        ("Acme/deed.txt", b"one"),
        ("Beta/deed.txt", b"two"),
        ("Beta/table.xls", b"x"),
        ("__MACOSX/Beta/._deed.txt", b"x"),
    ];
    let path = room.write("batch.zip", &zip(&files));
    let read = room.read(&[path]);
    assert_eq!(told(&read), ["Acme: deed.txt = one", "Beta: deed.txt = two", "Beta: table.xls: unsupported"]);
    let notices: Vec<String> = read.iter().flat_map(Read::notices).collect();
    assert_eq!(notices, ["files left out because their names begin with a dot: 1"]);
    assert!(read[1].unread[0].failure.why.contains("save it as .xlsx"));
}

#[test]
fn companies_of_one_name_are_told_apart() {
    let mut room = Room::new();
    room.write("all/Acme/deed.txt", b"one");
    room.write("all/Acme.zip", &zip(&[("deed.txt", b"two")]));
    let all = room.folder("all");
    assert_eq!(told(&room.read(&[all])), ["Acme (2): deed.txt = two", "Acme: deed.txt = one"]);
}

/// What is wrong with the archive as a whole is said of a company of its name; the companies in it are read.
#[test]
fn what_is_wrong_with_an_archive_of_companies_is_no_company() {
    let mut room = Room::new();
    let files: [(&str, &[u8]); 3] =
        [("Acme/deed.txt", b"one"), ("Beta/deed.txt", b"two"), ("../out.txt", b"x")];
    let path = room.write("batch.zip", &zip(&files));
    assert_eq!(
        told(&room.read(&[path])),
        [
            "Acme: deed.txt = one",
            "Beta: deed.txt = two",
            "batch: batch.zip/../out.txt: corrupt",
            "batch: corrupt"
        ]
    );
}

#[test]
fn files_of_one_name_are_told_apart() {
    let mut room = Room::new();
    let files = [room.write("a/deed.txt", b"one"), room.write("b/deed.txt", b"two")];
    let listing = source::list(&files).unwrap();
    let (sources, _) = input::read(&mut room.desk, &listing.files);
    let told: Vec<_> = sources.iter().map(|s| (s.file.as_str(), s.document.text.as_str())).collect();
    assert_eq!(told, [("deed.txt", "one"), ("deed.txt (2)", "two")]);
}

#[test]
fn archives_in_archives_are_read_to_a_bound() {
    let mut room = Room::new();
    let mut nested = zip(&[("deed.txt", b"deep")]);
    for _ in 1..NESTED_MAX {
        nested = zip(&[("in.zip", &nested)]);
    }
    let within = "in.zip/".repeat(NESTED_MAX - 1);
    let path = room.write("c/a.zip", &nested);
    room.write("c/b.txt", b"one");
    let company = path.parent().unwrap().to_path_buf();
    assert_eq!(
        told(&room.read(std::slice::from_ref(&company))),
        [format!("c: a.zip/{within}deed.txt = deep"), "c: b.txt = one".into()]
    );
    room.write("c/a.zip", &zip(&[("in.zip", &nested)]));
    let expected = [format!("c: a.zip/{within}in.zip: too_large"), "c: b.txt = one".into()];
    assert_eq!(told(&room.read(&[company])), expected);
}

#[test]
fn what_is_bad_is_named_and_the_rest_is_read() {
    let mut room = Room::new();
    let company = room.folder("c");
    room.write("c/good.txt", b"good");
    room.write("c/broken.xlsx", b"PK\x03\x04 and no more");
    room.write("c/locked.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1");
    room.write("c/empty.pdf", b"");
    room.write("c/scan.png", b"\x89PNG\r\n\x1a\n");
    room.write("c/out.zip", &zip(&[("../../good.txt", b"bad"), ("in.txt", b"in")]));
    room.write("c/broken.7z", b"7z\xbc\xaf\x27\x1c and no more");
    room.write("c/no.msg", b"not a mail");
    room.write("c/archive.zip", &zip(&[]));
    room.write("c/noextension", b"x");
    assert_eq!(
        told(&room.read(&[company])),
        [
            "c: archive.zip: empty",
            "c: broken.7z: corrupt",
            "c: broken.xlsx: corrupt",
            "c: empty.pdf: empty",
            "c: good.txt = good",
            "c: locked.xlsx: drm",
            "c: no.msg: corrupt",
            "c: noextension: unsupported",
            "c: out.zip/../../good.txt: corrupt",
            "c: out.zip/in.txt = in",
            "c: scan.png: needs_ocr",
        ]
    );
    assert_eq!(fs::read(room.folder.path().join("in/c/good.txt")).unwrap(), b"good");
    // Nothing of it can be read: the company itself has the verdict.
    let dead = room.write("d/locked.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1");
    let read = room.read(&[dead.parent().unwrap().to_path_buf()]);
    assert_eq!(read[0].failure().unwrap().verdict, Verdict::Drm);
}

/// A mail by its streams: the table of properties is what makes it one.
fn mail(streams: &[(String, &str)]) -> Vec<u8> {
    let mut file = cfb::CompoundFile::create(Cursor::new(Vec::new())).unwrap();
    file.create_stream("/__properties_version1.0").unwrap().write_all(&[0; 32]).unwrap();
    for (path, text) in streams {
        let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
        if !folder.is_empty() {
            file.create_storage_all(folder).unwrap();
        }
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        file.create_stream(path).unwrap().write_all(&bytes).unwrap();
    }
    file.flush().unwrap();
    file.into_inner().into_inner()
}

/// Pictures in the text of a mail, and files beyond its limit where the mail's own words are not read, left without a
/// word.
#[test]
fn what_of_a_mail_is_not_read_is_told() {
    let mut room = Room::new();
    let hanging =
        |number: usize, id: &str| format!("/__attach_version1.0_#{number:08X}/__substg1.0_{id}001F");
    let logo = mail(&[
        ("/__substg1.0_1000001F".to_owned(), "The margin is 2%."),
        (hanging(0, "3707"), "logo.png"),
        (hanging(0, "3712"), "logo@id"),
    ]);
    let path = room.write("shown/letter.msg", &logo);
    let read = room.read(&[path.parent().unwrap().to_path_buf()]);
    assert_eq!((read[0].sources.len(), read[0].unread.len()), (1, 0));
    let notices: Vec<String> = read[0].notices().collect();
    assert_eq!(notices, ["letter.msg: pictures that its text shows, which are not read: 1"]);

    let mut crowded = vec![("/__substg1.0_10090102".to_owned(), "LZFu")];
    crowded.extend((0..1_002).map(|number| (hanging(number, "3707"), "link.txt")));
    let path = room.write("crowded/letter.msg", &mail(&crowded));
    let read = room.read(&[path.parent().unwrap().to_path_buf()]);
    let of_mail = read[0].unread.iter().filter(|unread| unread.file == "letter.msg");
    let verdicts: Vec<Verdict> = of_mail.map(|unread| unread.failure.verdict).collect();
    assert_eq!((read[0].unread.len(), verdicts), (1_002, vec![Verdict::Unsupported, Verdict::TooLarge]));
}

/// Unchanged files are not parsed again, wherever they lie; a changed one is.
#[test]
fn documents_of_unchanged_files_are_kept() {
    let mut room = Room::new();
    let file = room.write("c/deed.txt", b"one");
    room.write("c/more.zip", &zip(&[("note.md", b"# two")]));
    let company = file.parent().unwrap().to_path_buf();
    let first = told(&room.read(std::slice::from_ref(&company)));
    assert_eq!(room.desk.cache.hits_and_misses(), (0, 2));
    assert_eq!(told(&room.read(std::slice::from_ref(&company))), first);
    assert_eq!(room.desk.cache.hits_and_misses(), (2, 2));
    room.write("c/deed.txt", b"another");
    assert_eq!(
        told(&room.read(std::slice::from_ref(&company))),
        ["c: deed.txt = another", "c: more.zip/note.md = # two"]
    );
    assert_eq!(room.desk.cache.hits_and_misses(), (3, 3));
    let listing = source::list(&[company]).unwrap();
    let (sources, unread) = input::read(&mut room.desk, &listing.files);
    assert_eq!((sources.len(), unread.len()), (2, 0));
}
