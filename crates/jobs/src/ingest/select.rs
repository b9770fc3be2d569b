//! Which files need work: the listing compared with the manifest.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use crossbeam_channel::Sender;
use haul_corpus::calibre::DATABASE;
use haul_corpus::document::Format;
use haul_corpus::readers::Readers;
use haul_corpus::source::{self, Listing, SourceError, SourceFile};
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_pipeline::journal::State;
use haul_pipeline::stage::Meter;
use haul_store::library::{
    DocumentMetadata, DocumentUpdate, Fingerprint, Library, ManifestRow, doc_id_for_file, revision,
};
use haul_store::qdrant::catalogue::Origin;
use uuid::Uuid;

use super::calibre::Book;
use super::metadata::{self, Own};
use super::parse::Unread;
use super::policy::Chosen;
use super::prefetch::{FetchError, Fetched, Prefetcher};
use super::quarantine::worth_another_try;
use super::shard::Shard;
use super::{Arrival, IngestError, Settings, Shared, Tally, journal_key};
use crate::parsed;

/// A library `X.haul` that is made again is called `X.haul.reembed` until it takes the old one's place.
pub const DRAFT: &str = "reembed";
/// What libraries are called.
const LIBRARY: &str = ".haul";
/// What stands beside a library `X.haul` and begins with its name: SQLite's files, lock, segment, runs.
const BESIDE: [&str; 7] = ["", "-wal", "-shm", "-journal", ".lock", ".seg", ".run"];
/// What is made beside a library before it is renamed, and has names beside it of its own.
const UNFINISHED: [&str; 2] = [".reembed", ".new"];
/// What every SQLite file begins with.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What the stage reads from beside the files themselves.
pub(crate) struct Sources<'a> {
    pub(crate) library: &'a Library,
    pub(crate) prefetcher: &'a mut Prefetcher,
}

/// Gives every listed file its verdict or sends it on to be read; the listing's own failures are counted too.
pub(crate) fn run(
    meter: &mut Meter,
    shared: &Shared<'_>,
    sources: &mut Sources<'_>,
    unread: &Sender<Unread>,
    arrivals: &Sender<Arrival>,
) -> Result<Tally, IngestError> {
    let mut tally = Tally::default();
    for failure in &shared.listing.failures {
        let ParseFailure { verdict, why } = &failure.failure;
        tally.fail_unnamed(failure.path.display().to_string(), verdict.name(), why);
    }
    tally.seen.extend(&shared.absent);
    let mut first_by_id: HashMap<Uuid, PathBuf> = HashMap::new();
    for (no, file) in (0..).zip(shared.listing.files.iter().cloned()) {
        if shared.stop.requested() {
            break;
        }
        let size_bytes = file.size_bytes;
        let file = shared.known.name(file);
        meter.finished(1);
        let doc_id = file.doc_id(shared.settings, None);
        if let Some(why) = shared.known.twin(&file, doc_id, first_by_id.get(&doc_id)) {
            tally.fail_unnamed(file.shown(), Verdict::Failed.name(), &why);
            shared.progress.done(1, size_bytes);
            continue;
        }
        first_by_id.insert(doc_id, file.file.path.clone());
        match decide(meter, shared, sources, &file, &mut tally)? {
            Decision::Nothing => {
                shared.progress.skipped(1, size_bytes);
                continue;
            }
            Decision::Settle(arrival) => {
                let begin = file.begin(shared, no);
                let end = Arrival::FileEnd { file_no: no, documents: 1 };
                for arrival in [begin, arrival(no), end] {
                    if meter.send(arrivals, arrival).is_err() {
                        return Ok(tally);
                    }
                }
            }
            Decision::Read { format, fetched } => {
                let begin = file.begin(shared, no);
                let Fetched { content_hash, copy } = fetched;
                let file = Unread { no, file: Arc::new(file), format, content_hash, copy, place: None };
                if meter.send(arrivals, begin).is_err() || meter.send(unread, file).is_err() {
                    return Ok(tally);
                }
            }
        }
    }
    Ok(tally)
}

/// What a file needs.
enum Decision {
    /// Nothing: it is as the library knows it, and counted.
    Nothing,
    /// A row in the manifest, made for the file's number.
    Settle(Box<dyn FnOnce(u64) -> Arrival>),
    /// To be read.
    Read { format: Format, fetched: Fetched },
}

fn decide(
    meter: &mut Meter,
    shared: &Shared<'_>,
    sources: &mut Sources<'_>,
    file: &NamedFile,
    tally: &mut Tally,
) -> Result<Decision, IngestError> {
    let rows = shared.known.rows(file);
    let cut_anew = policy_chooses_anew(shared, sources.library, file, rows)?;
    if !cut_anew && untouched(shared, file, rows)? {
        if let (Some(_), [row]) = (&file.book, rows) {
            let row =
                ManifestRow { root: file.root.clone(), relative_path: file.relative.clone(), ..row.clone() };
            if let Some(update) = update(shared, sources.library, file, row)? {
                return Ok(settled(update));
            }
        }
        rows.iter().for_each(|row| tally.count_reused(row));
        return Ok(Decision::Nothing);
    }
    let format = match format_of(file) {
        Ok(format) => format,
        Err(failure) => return Ok(refused(shared, file, &failure)),
    };
    let fetched = match sources.prefetcher.fetch(meter, shared.stop, file) {
        Ok(fetched) => fetched,
        Err(FetchError::Local(error)) => return Err(error),
        Err(FetchError::Source(error)) => {
            let failure = ParseFailure::new(Verdict::Failed, format!("cannot be read: {error}"));
            return Ok(refused(shared, file, &failure));
        }
    };
    tally.bytes_read += file.file.size_bytes;
    let content_hash = parsed::content_hash(format, fetched.content_hash, &shared.setup.readers);
    let fetched = Fetched { content_hash, ..fetched };
    let row = file.row(shared, None, content_hash, None);
    // Of a file of many documents, its own row says nothing about the others.
    let of_one = format != Format::JsonLines;
    let is_settled = |known: &ManifestRow| known.verdict == "ok" || (of_one && !worth_another_try(known));
    let same = |known: &&ManifestRow| known.doc_id == row.doc_id && known.revision == row.revision;
    // The same bytes with another time: a good document stays, and a bad one is as bad as before.
    if let Some(known) = rows.iter().find(|known| !cut_anew && same(known) && is_settled(known)) {
        let (verdict, why, attempts) = (known.verdict.clone(), known.why.clone(), known.attempts);
        let row = ManifestRow { verdict, why, attempts, ..row };
        if file.book.is_some() && row.verdict == "ok" {
            let update = update(shared, sources.library, file, row.clone())?;
            return Ok(settled(update.unwrap_or(DocumentUpdate { row, metadata: None })));
        }
        return Ok(Decision::Settle(Box::new(move |file_no| Arrival::Unchanged { file_no, row })));
    }
    Ok(Decision::Read { format, fetched })
}

fn settled(update: DocumentUpdate) -> Decision {
    let update = Box::new(update);
    Decision::Settle(Box::new(move |file_no| Arrival::Updated { file_no, update }))
}

fn refused(shared: &Shared<'_>, file: &NamedFile, failure: &ParseFailure) -> Decision {
    let row = file.row(shared, None, [0; 32], Some(failure));
    Decision::Settle(Box::new(move |file_no| Arrival::Verdict { file_no, row }))
}

/// What the library has to take over of a book whose file is unchanged; `None` if it stands and is called as before.
fn update(
    shared: &Shared<'_>,
    library: &Library,
    file: &NamedFile,
    row: ManifestRow,
) -> Result<Option<DocumentUpdate>, IngestError> {
    let stored = match row.verdict.as_str() {
        "ok" => library.document_metadata(&row.doc_id)?,
        _ => None,
    };
    let metadata = stored.and_then(|stored| {
        let own = Own::kept(&stored).unwrap_or_default();
        let now = metadata::describe(file, None, own, shared.settings.junk).metadata;
        (now != stored).then_some(now)
    });
    let moved = shared
        .known
        .rows(file)
        .iter()
        .any(|known| (&known.root, &known.relative_path) != (&row.root, &row.relative_path));
    Ok((moved || metadata.is_some()).then_some(DocumentUpdate { row, metadata }))
}

/// Whether Calibre calls a book by another name now, and the library's policy chooses another chunker by it. A book that
/// was left out has no name in the library: then it is asked whether it still would be.
fn policy_chooses_anew(
    shared: &Shared<'_>,
    library: &Library,
    file: &NamedFile,
    rows: &[ManifestRow],
) -> Result<bool, IngestError> {
    let (Some(policy), Some(_), [row]) = (&shared.settings.chunking.policy, &file.book, rows) else {
        return Ok(false);
    };
    let chooses =
        |named: &DocumentMetadata| policy.choose(&named.title, &named.authors).map(|(chosen, _)| chosen);
    let now = |own| chooses(&metadata::describe(file, None, own, shared.settings.junk).metadata);
    if row.verdict == Verdict::Skipped.name() {
        return Ok(now(Own::default()) != Some(Chosen::None));
    }
    let stored = if row.verdict == "ok" { library.document_metadata(&row.doc_id)? } else { None };
    Ok(stored.is_some_and(|stored| now(Own::kept(&stored).unwrap_or_default()) != chooses(&stored)))
}

/// Whether everything about the file is as the library has it, so that nothing needs to be read.
fn untouched(shared: &Shared<'_>, file: &NamedFile, rows: &[ManifestRow]) -> Result<bool, IngestError> {
    let same = |row: &ManifestRow| file.is_settled_as(row, &shared.fingerprint, &shared.setup.readers);
    // A shard may have no line of a file of many documents, and then has no row of it.
    let may_have_none = shared.settings.shard.is_some() && file.file.format == Some(Format::JsonLines);
    if (rows.is_empty() && !may_have_none) || !rows.iter().all(same) {
        return Ok(false);
    }
    if !rows.is_empty() && rows.iter().all(|row| row.part.is_none()) {
        return Ok(true);
    }
    // Of a file of many documents, only the journal knows whether all of them reached the library.
    let journal = shared.journal.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(journal.get(&journal_key(shared, file))?.is_some_and(|entry| entry.state == State::Done))
}

/// A file as the library names it.
#[derive(Clone, Debug)]
pub(crate) struct NamedFile {
    pub(crate) file: SourceFile,
    pub(crate) root: String,
    pub(crate) relative: String,
    pub(crate) modified_ns: Option<i64>,
    /// What Calibre knows of it, if it is a book of a Calibre library.
    pub(crate) book: Option<Arc<Book>>,
}

impl NamedFile {
    /// Path in messages and receipts.
    pub(crate) fn shown(&self) -> String {
        self.file.path.display().to_string()
    }

    /// Whether a row is of these bytes, read with these settings and readers, and needs no further try.
    pub(crate) fn is_settled_as(
        &self,
        row: &ManifestRow,
        fingerprint: &Fingerprint,
        readers: &Readers,
    ) -> bool {
        row.size_bytes == self.file.size_bytes
            && row.modified_ns.is_some()
            && row.modified_ns == self.modified_ns
            && row.revision == revision(&row.content_hash, fingerprint)
            && parsed::is_read_by(self.file.format, &row.content_hash, readers)
            && !worth_another_try(row)
    }

    /// The id of the file's document, or of one part of it.
    pub(crate) fn doc_id(&self, settings: &Settings, part: Option<&str>) -> Uuid {
        match &self.book {
            Some(book) => book.doc_id,
            None => doc_id_for_file(&settings.collection, &self.relative, part),
        }
    }

    /// Whether the file is of interest to the run's shard: one of many documents is to each.
    fn is_own(&self, settings: &Settings) -> bool {
        self.file.format == Some(Format::JsonLines) || self.is_own_part(settings, None)
    }

    /// Whether the file's document, or one part of it, is one of the run's shard.
    pub(crate) fn is_own_part(&self, settings: &Settings, part: Option<&str>) -> bool {
        settings.shard.is_none_or(|shard| shard.has(&self.doc_id(settings, part)))
    }

    /// What the manifest says of the file, or of one part of it.
    pub(crate) fn row(
        &self,
        shared: &Shared<'_>,
        part: Option<&str>,
        content_hash: [u8; 32],
        failure: Option<&ParseFailure>,
    ) -> ManifestRow {
        ManifestRow {
            doc_id: self.doc_id(shared.settings, part),
            collection: shared.settings.collection.clone(),
            root: self.root.clone(),
            relative_path: self.relative.clone(),
            part: part.map(str::to_owned),
            format: self.format_name().to_owned(),
            size_bytes: self.file.size_bytes,
            modified_ns: self.modified_ns,
            content_hash,
            revision: revision(&content_hash, &shared.fingerprint),
            verdict: failure.map_or(Verdict::Ok, |failure| failure.verdict).name().to_owned(),
            why: failure.map(|failure| failure.why.clone()),
            chunks: 0,
            attempts: 0,
        }
    }

    /// Whether size and time are still those of the listing.
    pub(crate) fn is_as_listed(&self) -> bool {
        self.file
            .path
            .metadata()
            .is_ok_and(|now| now.len() == self.file.size_bytes && now.modified().ok() == self.file.modified)
    }

    /// The file's name without its extension.
    pub(crate) fn stem(&self) -> String {
        self.file.path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
    }

    fn format_name(&self) -> &'static str {
        self.file.format.map_or("other", Format::name)
    }

    fn begin(&self, shared: &Shared<'_>, file_no: u64) -> Arrival {
        let journal_key = journal_key(shared, self);
        Arrival::FileBegin { file_no, size_bytes: self.file.size_bytes, journal_key }
    }
}

/// What the library knows of one collection before the run.
pub(crate) struct Known {
    rows: HashMap<(String, String), Vec<ManifestRow>>,
    roots: BTreeSet<String>,
    /// Rows of the books of this run: Calibre moves files, so their paths are no names.
    books: HashMap<Uuid, ManifestRow>,
    /// Collections of books of this run that another collection has.
    elsewhere: HashMap<Uuid, String>,
    /// The files of this run that are books of a Calibre library.
    files: HashMap<PathBuf, Arc<Book>>,
    /// Files that the server has under their relative paths, of which this library knows nothing.
    others: HashMap<String, String>,
}

impl Known {
    /// Of the documents, those of other shards are left out: nothing is said about them.
    pub(crate) fn new(
        manifest: Vec<ManifestRow>,
        settings: &Settings,
        files: HashMap<PathBuf, Arc<Book>>,
    ) -> Self {
        Self::of_shard(manifest, &settings.collection, settings.shard, files)
    }

    /// Of a run that asks no library.
    pub(crate) fn nothing(files: HashMap<PathBuf, Arc<Book>>) -> Self {
        Self::of_shard(vec![], "", None, files)
    }

    fn of_shard(
        manifest: Vec<ManifestRow>,
        collection: &str,
        shard: Option<Shard>,
        files: HashMap<PathBuf, Arc<Book>>,
    ) -> Self {
        let ids: HashSet<Uuid> = files.values().map(|book| book.doc_id).collect();
        let mut known = Self {
            rows: HashMap::new(),
            roots: BTreeSet::new(),
            books: HashMap::new(),
            elsewhere: HashMap::new(),
            files,
            others: HashMap::new(),
        };
        for row in manifest {
            let of_a_book = ids.contains(&row.doc_id);
            if row.collection != collection {
                if of_a_book {
                    known.elsewhere.insert(row.doc_id, row.collection);
                }
                continue;
            }
            let is_own = shard.is_none_or(|shard| shard.has_row(&row));
            if of_a_book {
                known.books.insert(row.doc_id, row);
                continue;
            }
            known.roots.insert(row.root.clone());
            if !is_own {
                continue;
            }
            known.rows.entry((row.root.clone(), row.relative_path.clone())).or_default().push(row);
        }
        known
    }

    /// Folders that earlier runs named files by, whether or not a document of theirs is in this library.
    pub(crate) fn add_roots(&mut self, roots: BTreeSet<String>) {
        self.roots.extend(roots);
    }

    /// What a server has of other libraries' files.
    pub(crate) fn add_others(&mut self, others: &[Origin], collection: &str) {
        let others = others.iter().filter(|origin| origin.collection == collection);
        self.others.extend(others.map(|origin| (origin.relative_path.clone(), origin.file_path.clone())));
    }

    /// The folders that the listed files are named by.
    pub(crate) fn roots_of(&self, listing: &Listing) -> BTreeSet<String> {
        let named = listing.files.iter().map(|file| self.name(file.clone()));
        named.filter(|file| file.book.is_none()).map(|file| file.root).collect()
    }

    /// Takes the files of other shards out of a listing.
    pub(crate) fn keep_own(&self, listing: &mut Listing, settings: &Settings) {
        if settings.shard.is_some() {
            listing.files.retain(|file| self.name(file.clone()).is_own(settings));
        }
    }

    /// Rows of a file; several for a file of many documents.
    pub(crate) fn rows(&self, file: &NamedFile) -> &[ManifestRow] {
        match &file.book {
            Some(book) => self.books.get(&book.doc_id).map_or(&[], std::slice::from_ref),
            None => self.rows.get(&(file.root.clone(), file.relative.clone())).map_or(&[], Vec::as_slice),
        }
    }

    /// Why a file cannot be taken in beside another that has the same id: `first` of this run, or one of before.
    pub(crate) fn twin(&self, file: &NamedFile, doc_id: Uuid, first: Option<&PathBuf>) -> Option<String> {
        if file.book.is_none() {
            if let Some(twin) = first.cloned().or_else(|| self.same_name_elsewhere(file)) {
                return Some(format!(
                    "{} has the same path below its own root; give one of the folders a --collection of its own",
                    twin.display()
                ));
            }
            return self.same_name_on_server(file).map(|twin| {
                format!(
                    "the server has {twin}, which has the same path below its own root; give one of the folders a \
                     --collection of its own, or run `haul store sync` first if both are one folder"
                )
            });
        }
        if let Some(first) = first {
            return Some(format!("{} is the same book of the same library", first.display()));
        }
        let collection = self.elsewhere.get(&doc_id)?;
        Some(format!("the collection {collection} has this book; a Calibre library is in one collection"))
    }

    /// Documents that the library had under the listed paths before the run.
    pub(crate) fn documents_under(&self, paths: &[PathBuf]) -> usize {
        let rows = self.rows.values().flatten().chain(self.books.values());
        rows.filter(|row| row.chunks > 0 && is_under(row, paths)).count()
    }

    /// Rows that the run did not see, of files that should have been under one of the listed paths.
    pub(crate) fn gone(&self, paths: &[PathBuf], tally: &Tally) -> Vec<&ManifestRow> {
        let mut gone: Vec<&ManifestRow> = self
            .rows
            .values()
            .flatten()
            .filter(|row| !tally.saw(row))
            .filter(|row| is_under(row, paths))
            .collect();
        gone.sort_by(|a, b| (&a.root, &a.relative_path, &a.part).cmp(&(&b.root, &b.relative_path, &b.part)));
        gone
    }

    /// Names a listed file: a book by its Calibre library, whatever else is around that; another by the recorded root
    /// it lies under, if any (the outermost that already has the file, else the innermost), otherwise by the root it
    /// was listed with.
    pub(crate) fn name(&self, file: SourceFile) -> NamedFile {
        let modified_ns = file.modified.and_then(nanoseconds_since_1970);
        if let Some(book) = self.files.get(&file.path) {
            let (root, relative) = (file.root.display().to_string(), slashed(&file.relative));
            return NamedFile { file, root, relative, modified_ns, book: Some(Arc::clone(book)) };
        }
        let below = |root: &str| {
            let relative = file.path.strip_prefix(root).ok()?;
            Some((root.to_owned(), slashed(relative)))
        };
        let named = self.roots.iter().filter_map(|root| below(root)).collect::<Vec<_>>();
        let (root, relative) = named
            .iter()
            .find(|name| self.rows.contains_key(name))
            .or(named.last())
            .cloned()
            .unwrap_or_else(|| (file.root.display().to_string(), slashed(&file.relative)));
        NamedFile { file, root, relative, modified_ns, book: None }
    }

    /// Another file of this collection that has the same relative path under another root and is still there.
    fn same_name_elsewhere(&self, file: &NamedFile) -> Option<PathBuf> {
        self.roots
            .iter()
            .filter(|root| **root != file.root)
            .filter(|root| self.rows.contains_key(&((*root).clone(), file.relative.clone())))
            .map(|root| Path::new(root).join(&file.relative))
            .find(|other| other.exists())
    }

    /// Another file of this collection that the server has under the same relative path.
    fn same_name_on_server(&self, file: &NamedFile) -> Option<&str> {
        let other = self.others.get(&file.relative).filter(|_| self.rows(file).is_empty())?;
        let own = format!("{}/{}", file.root.trim_end_matches('/'), file.relative);
        (*other != own).then_some(other.as_str())
    }
}

fn is_under(row: &ManifestRow, paths: &[PathBuf]) -> bool {
    let path = Path::new(&row.root).join(&row.relative_path);
    paths.iter().any(|listed| path.starts_with(listed))
}

/// A document in messages and receipts: its path, and which part of it.
pub(crate) fn shown(row: &ManifestRow) -> String {
    let path = Path::new(&row.root).join(&row.relative_path).display().to_string();
    match &row.part {
        Some(part) => format!("{path}#{part}"),
        None => path,
    }
}

/// Makes the listing name files by absolute paths, so that the working directory does not matter.
///
/// # Errors
/// A path that is not there.
pub(crate) fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>, SourceError> {
    let absent = |path: &PathBuf, error| SourceError::Absent { path: path.clone(), error };
    paths.iter().map(|path| source::absolute(path).map_err(|error| absent(path, error))).collect()
}

/// A library that stands among its input, whatever it is called, is no input itself, nor is what belongs to it. Of the
/// draft of one that is made again, that one is meant.
pub(crate) fn leave_out_library(listing: &mut Listing, library: &Path) {
    let library = if library.extension().is_some_and(|extension| extension == DRAFT) {
        library.with_extension("")
    } else {
        library.to_owned()
    };
    let library = library.as_os_str().as_encoded_bytes();
    let belongs = |rest: &[u8]| {
        let name = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
        std::str::from_utf8(name).is_ok_and(is_beside)
    };
    listing.files.retain(|file| {
        let path = file.path.as_os_str().as_encoded_bytes();
        !path.strip_prefix(library).is_some_and(belongs)
    });
}

/// Libraries that stand among the input are none, nor is what belongs to them.
pub(crate) fn leave_out_libraries(listing: &mut Listing) {
    let mut known = HashMap::new();
    listing.files.retain(|file| !belongs_to_a_library(&file.path, &mut known));
}

/// Whether a file is a library, or what stands beside one and begins with its name.
fn belongs_to_a_library(path: &Path, known: &mut HashMap<PathBuf, bool>) -> bool {
    path.ancestors().any(|place| {
        let name = place.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.match_indices(LIBRARY).any(|(at, _)| {
            let (library, rest) = name.split_at(at + LIBRARY.len());
            let library = place.with_file_name(library);
            is_beside(rest) && *known.entry(library).or_insert_with_key(|library| is_sqlite(library))
        })
    })
}

/// Whether a library's own file is called so, its name left out.
fn is_beside(rest: &str) -> bool {
    let rest = UNFINISHED.iter().find_map(|unfinished| rest.strip_prefix(unfinished)).unwrap_or(rest);
    BESIDE.contains(&rest) || rest.starts_with(".seg.")
}

/// Others may call a file as libraries are called: that is an input as any other.
fn is_sqlite(path: &Path) -> bool {
    let mut begin = [0; SQLITE_MAGIC.len()];
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok()
        && begin == *SQLITE_MAGIC
}

/// The format of a file, or the verdict of one that is not read.
fn format_of(file: &NamedFile) -> Result<Format, ParseFailure> {
    file.file.format.ok_or_else(|| {
        let why = file.book.as_ref().and_then(|book| book.unreadable.clone()).unwrap_or_else(|| {
            if file.file.path.file_name().is_some_and(|name| name == DATABASE) {
                return "a Calibre library: name its folder itself, and what Calibre knows of its books is used"
                    .to_owned();
            }
            let extension = file.file.path.extension().and_then(|e| e.to_str()).unwrap_or("none");
            format!("no reader for this kind of file (extension: {extension})")
        });
        ParseFailure::new(Verdict::Unsupported, why)
    })
}

/// blake3 of a file's bytes.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn hash_file(path: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(*hasher.finalize().as_bytes())
}

fn nanoseconds_since_1970(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// A relative path with `/` between its parts on every platform.
fn slashed(path: &Path) -> String {
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}
