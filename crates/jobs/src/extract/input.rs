//! Files of companies to their documents, through a worker process. A company is a folder, a zip or a 7z archive; what
//! archives and mails hold are files of the company like any other, named below the file that holds them.

mod reading;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use haul_corpus::container::{Container, inner_name};
use haul_corpus::document::Format;
use haul_corpus::source::{self, SourceError, SourceFile};
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_corpus::worker::Worker;
use haul_pipeline::cache::Cache;

use super::documents::Source;
use reading::Reading;

/// Archives within archives, and mails within them.
pub const NESTED_MAX: usize = 4;
/// Bytes that the archives of a company inflate to, all together.
pub const UNPACKED_BYTES_MAX: u64 = 4 << 30;
/// Files in the archives of a company.
pub const UNPACKED_FILES_MAX: usize = 50_000;

/// What reading a file makes of it, by the extension of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    /// It is a document.
    format: Option<Format>,
    /// It holds files.
    container: Option<Container>,
}

/// A file that gave no document.
#[derive(Clone, Debug, PartialEq)]
pub struct Unread {
    /// The file below the company's folder.
    pub file: String,
    /// Its verdict, and why.
    pub failure: ParseFailure,
}

/// A company among the paths of a user, before anything of it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The name of its folder or archive.
    pub name: String,
    /// Its folder, archive or file.
    pub path: PathBuf,
    /// Its files, or the archive that holds them.
    pub files: Vec<SourceFile>,
    /// What could not be listed.
    pub unread: Vec<Unread>,
    /// Files left out because their names start with a dot.
    pub hidden: usize,
    /// Folders in its folder: they may have been meant as a company each.
    pub folders: usize,
}

/// What was read of a company.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Its name.
    pub company: String,
    /// Its documents.
    pub sources: Vec<Source>,
    /// Files that gave none.
    pub unread: Vec<Unread>,
    /// What the text of a file that was read lacks, in words: pages without text, damaged ones.
    pub lacks: Vec<(String, String)>,
    /// What of a file that was read is left out as a rule, in words: pictures that a mail shows.
    pub notices: Vec<(String, String)>,
    /// Files left out because their names start with a dot.
    pub hidden: usize,
}

/// What reads files.
pub struct Desk {
    /// Reads and unpacks.
    pub worker: Worker,
    /// Documents of files that were read before.
    pub cache: Cache,
    /// A folder in which archives are unpacked. It is the caller's to remove: a killed run leaves what is in it.
    pub scratch: PathBuf,
}

impl Found {
    /// Whether a PDF is among its files, or may be in one of them.
    #[must_use]
    pub fn may_hold_pdfs(&self) -> bool {
        self.files.iter().any(|file| {
            let kind = Kind::of(&name_of(file));
            kind.format == Some(Format::Pdf) || kind.container.is_some()
        })
    }
}

impl Read {
    /// What was left out as a rule, in words.
    pub fn notices(&self) -> impl Iterator<Item = String> {
        let hidden = (self.hidden > 0)
            .then(|| format!("files left out because their names begin with a dot: {}", self.hidden));
        self.notices.iter().map(|(file, notice)| format!("{file}: {notice}")).chain(hidden)
    }

    /// Why there is nothing to ask about this company; none where there is a document.
    #[must_use]
    pub fn failure(&self) -> Option<ParseFailure> {
        if !self.sources.is_empty() {
            return None;
        }
        let Some(first) = self.unread.first() else {
            return Some(ParseFailure::new(Verdict::Empty, "no files"));
        };
        let is_same = self.unread.iter().all(|unread| unread.failure.verdict == first.failure.verdict);
        let verdict = if is_same { first.failure.verdict } else { Verdict::Failed };
        let count = self.unread.len();
        let why = format!("none of its files ({count}) could be read; {}: {}", first.file, first.failure.why);
        Some(ParseFailure::new(verdict, why))
    }
}

/// The companies under some paths. A folder with files is one, a folder of folders or archives has one in each of them,
/// an archive is one (or, where it holds nothing but folders, one for each: [`read_companies`] sees that), and so is any
/// other file by itself.
///
/// # Errors
/// A path is not there.
pub fn companies(paths: &[PathBuf]) -> Result<Vec<Found>, SourceError> {
    let mut found = Vec::new();
    for path in paths {
        let absolute =
            source::absolute(path).map_err(|error| SourceError::Absent { path: path.clone(), error })?;
        match parts(&absolute) {
            Some(parts) => {
                for part in parts {
                    found.push(company(&part)?);
                }
            }
            None => found.push(company(&absolute)?),
        }
    }
    name_apart(&mut found);
    Ok(found)
}

/// The folders and archives of a folder that has nothing else; none of any other.
fn parts(folder: &Path) -> Option<Vec<PathBuf>> {
    let mut parts = Vec::new();
    // One that cannot be listed is a company that says so.
    for entry in fs::read_dir(folder).ok()? {
        let path = entry.ok()?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_hidden {
            continue;
        }
        if !path.is_dir() && !is_archive(&path) {
            return None;
        }
        parts.push(path);
    }
    parts.sort();
    (!parts.is_empty()).then_some(parts)
}

fn is_archive(path: &Path) -> bool {
    let container = path.extension().and_then(OsStr::to_str).and_then(Container::from_extension);
    matches!(container, Some(Container::Zip | Container::SevenZip))
}

fn company(path: &Path) -> Result<Found, SourceError> {
    let listing = source::list(&[path.to_path_buf()])?;
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let below = |failed: &Path| failed.strip_prefix(path).unwrap_or(failed).display().to_string();
    let unread = listing.failures.into_iter();
    let unread = unread.map(|failed| Unread { file: below(&failed.path), failure: failed.failure });
    Ok(Found {
        name: name.map_or_else(|| "company".to_owned(), |name| name.to_string_lossy().into_owned()),
        path: path.to_path_buf(),
        files: listing.files,
        unread: unread.collect(),
        hidden: listing.hidden,
        folders: folders(path),
    })
}

fn folders(path: &Path) -> usize {
    fs::read_dir(path).map_or(0, |entries| entries.flatten().filter(|entry| entry.path().is_dir()).count())
}

/// `acme/` and `acme.zip` are two companies, and so are folders of one name in two folders.
fn name_apart(found: &mut [Found]) {
    let mut taken = HashSet::new();
    for company in found {
        company.name = unique(&mut taken, &company.name);
    }
}

/// The name, with a number behind it where another has it.
pub fn unique(taken: &mut HashSet<String>, name: &str) -> String {
    let mut unique = name.to_owned();
    for number in 2.. {
        if taken.insert(unique.clone()) {
            break;
        }
        unique = format!("{name} ({number})");
    }
    unique
}

/// Reads a company. An archive that holds nothing but folders is as many companies; whatever a file comes to is its own,
/// and the others are read.
pub fn read_companies(desk: &mut Desk, found: Found) -> Vec<Read> {
    let archive = match found.files.as_slice() {
        [file] if is_archive(&file.path) => Some(name_of(file)),
        _ => None,
    };
    let mut reading = Reading::new(desk);
    reading.files(&found.files);
    let mut read = reading.read;
    read.company = found.name;
    read.unread.extend(found.unread);
    read.hidden += found.hidden;
    match archive {
        Some(archive) => apart(read, &archive),
        None => vec![read],
    }
}

/// Takes the name of the archive off what came out of it, and that of its folders where they are companies. What is said
/// of the archive itself stays with a company of its name.
fn apart(read: Read, archive: &str) -> Vec<Read> {
    let inside = format!("{archive}/");
    let inner =
        |file: &str| file.strip_prefix(&inside).filter(|below| inner_name(below).is_ok()).map(str::to_owned);
    let files = read.sources.iter().map(|source| &source.file);
    let files = files.chain(read.unread.iter().map(|unread| &unread.file));
    let inner_files: Vec<String> = files.filter_map(|file| inner(file)).collect();
    let of_folders = !inner_files.is_empty() && inner_files.iter().all(|below| below.contains('/'));
    let company = |file: &str| match inner(file) {
        Some(below) if of_folders => {
            let (folder, below) = below.split_once('/').unwrap_or((&read.company, &below));
            (folder.to_owned(), below.to_owned())
        }
        Some(below) => (read.company.clone(), below),
        None => (read.company.clone(), file.to_owned()),
    };
    let mut companies: BTreeMap<String, Read> = BTreeMap::new();
    if !of_folders {
        companies.insert(read.company.clone(), Read::default());
    }
    for source in read.sources {
        let (name, file) = company(&source.file);
        companies.entry(name).or_default().sources.push(Source { file, ..source });
    }
    for unread in read.unread {
        let (name, file) = company(&unread.file);
        companies.entry(name).or_default().unread.push(Unread { file, ..unread });
    }
    for (file, lack) in read.lacks {
        let (name, file) = company(&file);
        companies.entry(name).or_default().lacks.push((file, lack));
    }
    for (file, notice) in read.notices {
        let (name, file) = company(&file);
        companies.entry(name).or_default().notices.push((file, notice));
    }
    let mut companies: Vec<Read> =
        companies.into_iter().map(|(company, read)| Read { company, ..read }).collect();
    if let Some(first) = companies.first_mut() {
        first.hidden = read.hidden;
    }
    companies
}

/// Reads files of one company, one after the other. What one file comes to is its own; the others are read.
pub fn read(desk: &mut Desk, files: &[SourceFile]) -> (Vec<Source>, Vec<Unread>) {
    let mut reading = Reading::new(desk);
    reading.files(files);
    (reading.read.sources, reading.read.unread)
}

/// The path of a file below its company's folder, with `/` between its parts.
fn name_of(file: &SourceFile) -> String {
    let parts = file.relative.components().map(|part| part.as_os_str().to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}

impl Kind {
    fn of(name: &str) -> Kind {
        let extension = Path::new(name).extension().and_then(OsStr::to_str).unwrap_or_default();
        Kind {
            format: Format::from_extension(extension).or_else(|| picture(extension)),
            container: Container::from_extension(extension),
        }
    }
}

/// Pictures among a company's papers are scans of pages, or may be.
fn picture(extension: &str) -> Option<Format> {
    let kinds = ["png", "jpg", "jpeg", "tif", "tiff", "bmp", "webp"];
    kinds.contains(&extension.to_ascii_lowercase().as_str()).then_some(Format::Picture)
}

/// What is said of a file of another kind.
fn unsupported(name: &str) -> ParseFailure {
    let extension = Path::new(name).extension().and_then(OsStr::to_str).unwrap_or_default().to_lowercase();
    let instead = match extension.as_str() {
        "xls" | "xlsb" | "ods" => "; save it as .xlsx",
        "doc" | "rtf" | "odt" => "; save it as .docx",
        "eml" => "; save it as .msg or .html",
        "rar" | "gz" | "tar" | "tgz" => "; pack it as .zip or .7z",
        _ => "",
    };
    let why = match extension.as_str() {
        "" => "a file without an extension".to_owned(),
        extension => format!("a kind of file that is not read (.{extension}){instead}"),
    };
    ParseFailure::new(Verdict::Unsupported, why)
}
