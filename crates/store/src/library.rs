//! A library: one SQLite file that holds documents, chunks, vectors and full text.

use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};
use uuid::Uuid;

use crate::lock::{self, WriterLock};
use crate::log;
use crate::segment::Segment;
use crate::write::{UNWRITTEN_HINT, is_unwritten};
use crate::{host_unix, schema};

pub use crate::check::{Finding, Report};
pub use crate::host_unix::network_file_system;
pub use crate::ids::{
    Fingerprint, VectorKey, doc_id_for_book, doc_id_for_file, point_id, revision, section_point_id,
};
pub use crate::merge::{MergeError, Taken};
pub use crate::overview::Overview;
pub use crate::read::{Info, ReadError};
pub use crate::records::{
    CatalogueEntry, ChapterRecord, ChunkRecord, DocumentMetadata, DocumentRecord, DocumentUpdate, IngestCost,
    ManifestRow, SectionRecord, VERDICTS, VectorName,
};
pub use crate::settings::{Chunkers, Difference, FixedWords, LibrarySettings, SemanticWords};
pub use crate::sparse::storable_sparse;
pub use crate::write::{Removed, VectorFault, WriteError, storable};

/// Bytes that may still be written beside `path`.
///
/// # Errors
/// The system does not tell.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    host_unix::free_bytes(folder_of(path))
}

/// A library on disk, open for one writer or for reading.
#[derive(Debug)]
pub struct Library {
    pub(crate) db: Connection,
    pub(crate) path: PathBuf,
    pub(crate) access: Access,
    pub(crate) settings: LibrarySettings,
    pub(crate) uuid: Uuid,
    /// The segment as last mapped by a search.
    pub(crate) segment: RefCell<Option<Arc<Segment>>>,
}

/// What this handle may do.
#[derive(Debug)]
pub(crate) enum Access {
    Write(#[expect(dead_code, reason = "held for its drop")] WriterLock),
    Read,
}

/// What became of a library's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// All of it is in the file.
    Empty,
    /// Somebody reads a state before its end; what was committed is in both together.
    InUse,
}

/// How long a statement waits for another connection's lock. Readers never wait for a writer in WAL mode; this
/// covers recovery and checkpoints.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// Pages that the writer keeps. Keys of vectors are hashes: each goes to a page of its own, and with SQLite's own 2 MiB a
/// transaction wrote pages to the log and read them back as often as it came to them.
const WRITER_CACHE_KIB: i64 = 16 << 10;
/// Prepared statements kept by a connection.
const STATEMENT_CACHE: usize = 64;

/// First bytes of every SQLite file.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Where the header of an SQLite file has the application id, big-endian.
const APPLICATION_ID_AT: usize = 68;

/// Bytes of the header read before SQLite is let near a file.
const HEADER_BYTES: usize = 100;

impl Library {
    /// Makes a new library at `path` and opens it for writing.
    ///
    /// The file appears under its name only when it is whole, so a kill leaves no half-made library.
    ///
    /// # Errors
    /// A file is there already, another process writes there, a network file system, or the disk's own errors.
    pub fn create(path: &Path, settings: &LibrarySettings) -> Result<Library, OpenError> {
        let path = &resolve_new(path)?;
        refuse_existing(path)?;
        refuse_network(path)?;
        let lock = take_lock(path)?;
        refuse_existing(path)?; // by another `create` just before the lock was ours
        refuse_left_log(path)?;
        let draft = with_suffix(path, ".new");
        remove_draft(&draft)?;
        write_new(&draft, settings).map_err(|source| sqlite_error(&draft, source))?;
        std::fs::rename(&draft, path).map_err(|source| io_error(path, source))?;
        sync_folder(path).map_err(|source| io_error(path, source))?;
        Self::open_with(path, Access::Write(lock))
    }

    /// Opens for reading and writing. There is one writer at a time.
    ///
    /// # Errors
    /// Not a library, a newer library, a damaged one, another writer, a network file system.
    pub fn open(path: &Path) -> Result<Library, OpenError> {
        let path = &resolve(path)?;
        check_header(path)?;
        refuse_network(path)?;
        let lock = take_lock(path)?;
        Self::open_with(path, Access::Write(lock))
    }

    /// Opens for reading. Any number of readers, also while a writer works; each read sees what was committed
    /// when it began.
    ///
    /// # Errors
    /// Not a library, a newer library, a damaged one.
    pub fn open_read_only(path: &Path) -> Result<Library, OpenError> {
        let path = &resolve(path)?;
        check_header(path)?;
        Self::open_with(path, Access::Read)
    }

    /// What the library was made with.
    #[must_use]
    pub fn settings(&self) -> &LibrarySettings {
        &self.settings
    }

    /// Drawn when the library was made.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The library's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves everything from the write-ahead log into the file, so that the file's size is the library's. Waits some
    /// seconds for those who read what is older.
    ///
    /// # Errors
    /// The disk's own.
    pub fn empty_log(&mut self) -> Result<Log, WriteError> {
        let busy = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        match busy {
            Ok(true) => Ok(Log::InUse),
            Ok(false) => Ok(Log::Empty),
            Err(source) => {
                Err(WriteError::Sqlite { path: self.path.clone(), doing: "emptying the log", source })
            }
        }
    }

    fn open_with(path: &Path, access: Access) -> Result<Library, OpenError> {
        let log = with_suffix(path, "-wal");
        if let Some(detail) = log::fault(&log).map_err(|source| io_error(&log, source))? {
            return Err(OpenError::DamagedLog { log, detail });
        }
        let (db, settings, uuid) = connect(path, &access).map_err(|source| sqlite_error(path, source))??;
        Ok(Library { db, path: path.into(), access, settings, uuid, segment: RefCell::new(None) })
    }
}

/// Why a library was not opened or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// `create` found a file.
    #[error("{path}: there is a file already", path = .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// No such file.
    #[error("{path}: no such library", path = .path.display())]
    Missing {
        /// The file asked for.
        path: PathBuf,
    },
    /// `create` found the log of a library that is gone.
    #[error("{log}: the log of a library that was here; it may hold the last changes of that one", log = .log.display())]
    LeftLog {
        /// The log.
        log: PathBuf,
    },
    /// `create` found no folder to put the file into.
    #[error("{path}: there is no folder {folder}", path = .path.display(), folder = .folder.display())]
    NoFolder {
        /// The file to make.
        path: PathBuf,
        /// Where it was to stand: missing, or no folder.
        folder: PathBuf,
    },
    /// Something else than a library.
    #[error("{path}: not a Haul library ({what})", path = .path.display())]
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// Written by a newer program.
    #[error("{path}: library of version {found}, this program knows up to {known}", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Newest version this program knows.
        known: u32,
    },
    /// Older than this program, and open for reading only.
    #[error("{path}: library of version {found}, reading needs {needed}", path = .path.display())]
    Older {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Version this program reads.
        needed: u32,
    },
    /// Another process writes.
    #[error("{path}: another process is writing to this library: {holder}", path = .path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// `pid N on host`.
        holder: String,
    },
    /// The lock that a writer holds cannot be had.
    #[error("{path}: the lock file cannot be used: {source}", path = .path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// On a network file system.
    #[error("{path}: on a network file system ({file_system}), where SQLite's locks are not safe", path = .path.display())]
    Network {
        /// The file.
        path: PathBuf,
        /// Name of the file system.
        file_system: &'static str,
    },
    /// The file is a library, but its content cannot be read.
    #[error("{path}: the library is damaged: {detail}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The library's write-ahead log is damaged: commits in it cannot be read.
    #[error("{log}: the library's log is damaged: {detail}", log = .log.display())]
    DamagedLog {
        /// The log.
        log: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("{path}: {source}", path = .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
}

impl OpenError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::LeftLog { .. } => Some(
                "put the library back beside it, or remove what ends in -wal and -shm; or choose another name",
            ),
            Self::Exists { .. } => Some("open it instead, or choose another name"),
            Self::Missing { .. } => Some("`haul ingest PATH... --store FILE --model M` makes a library"),
            Self::NoFolder { .. } => Some("make the folder first, or choose another place"),
            Self::NotALibrary { .. } => {
                Some("--store takes a file that `haul ingest` made; nothing was changed")
            }
            Self::Newer { .. } => Some("install the newer haul that wrote it"),
            Self::Older { .. } => {
                Some("open it once for writing (`haul ingest`), which brings it up to date")
            }
            Self::Busy { .. } => Some("wait for it to finish; searching is possible meanwhile"),
            Self::Lock { .. } => Some(
                "writing needs a lock file of that name beside the library: make the folder writable, or move \
                 away what has the name",
            ),
            Self::Network { .. } => Some("put the library on a local disk and copy the finished file"),
            Self::Damaged { .. } => Some(
                "restore a backup, without what ends in -wal and -shm beside it, or ingest again into a new library",
            ),
            Self::DamagedLog { .. } => Some(
                "restore a backup, with -wal and -shm removed; or move the log away and run `haul store verify`: if \
                 it finds nothing, ingest \
                 again, and only what the log held is done anew",
            ),
            Self::Sqlite { source, .. } => is_unwritten(source).then_some(UNWRITTEN_HINT),
            Self::Io { .. } => None,
        }
    }
}

/// `X.haul` -> `X.haul.seg`, `X.haul.lock`, ...
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Follows links: the lock, the log and the segment stand beside the real file, whatever name it was asked by.
fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    path.canonicalize().map_err(|source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => OpenError::Missing { path: path.into() },
        _ => io_error(path, source),
    })
}

/// As [`resolve`], for a file that is not there yet.
fn resolve_new(path: &Path) -> Result<PathBuf, OpenError> {
    let asked = folder_of(path);
    let no_folder = || OpenError::NoFolder { path: path.into(), folder: asked.into() };
    let folder = asked.canonicalize().map_err(|source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => no_folder(),
        _ => io_error(path, source),
    })?;
    if folder.is_file() {
        return Err(no_folder());
    }
    let name = path.file_name().ok_or_else(|| OpenError::NotALibrary {
        path: path.into(),
        what: "a path without a file name".to_owned(),
    })?;
    Ok(folder.join(name))
}

/// Refuses whatever is not a library without SQLite touching it: SQLite would make a journal beside it.
fn check_header(path: &Path) -> Result<(), OpenError> {
    let not_a_library = |what: &str| Err(OpenError::NotALibrary { path: path.into(), what: what.to_owned() });
    let facts = path.metadata().map_err(|source| io_error(path, source))?;
    if facts.is_dir() {
        return not_a_library("a folder");
    }
    if !facts.is_file() {
        return not_a_library("not a regular file");
    }
    if facts.len() == 0 {
        return not_a_library("an empty file");
    }
    let mut header = Vec::with_capacity(HEADER_BYTES);
    File::open(path)
        .and_then(|file| file.take(HEADER_BYTES as u64).read_to_end(&mut header))
        .map_err(|source| io_error(path, source))?;
    if !header.starts_with(SQLITE_MAGIC) {
        return not_a_library("its first bytes are not those of an SQLite file");
    }
    let id = header.get(APPLICATION_ID_AT..APPLICATION_ID_AT + 4);
    if id != Some(&schema::APPLICATION_ID.to_be_bytes()) {
        return not_a_library("an SQLite file of another program");
    }
    Ok(())
}

fn refuse_existing(path: &Path) -> Result<(), OpenError> {
    match path.symlink_metadata() {
        Ok(_) => Err(OpenError::Exists { path: path.into() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io_error(path, source)),
    }
}

fn refuse_network(path: &Path) -> Result<(), OpenError> {
    let found = host_unix::network_file_system(folder_of(path)).map_err(|source| io_error(path, source))?;
    match found {
        Some(file_system) => Err(OpenError::Network { path: path.into(), file_system }),
        None => Ok(()),
    }
}

fn take_lock(path: &Path) -> Result<WriterLock, OpenError> {
    lock::take(path).map_err(|refusal| match refusal {
        lock::Refusal::Held(holder) => OpenError::Busy { path: path.into(), holder },
        lock::Refusal::Io(source) => OpenError::Lock { path: lock::path_of(path), source },
    })
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// SQLite would take the log of a library that was here for the new one's, and put its rows into it.
fn refuse_left_log(path: &Path) -> Result<(), OpenError> {
    let log = with_suffix(path, "-wal");
    match log.metadata() {
        Ok(facts) if facts.len() > 0 => return Err(OpenError::LeftLog { log }),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(source) => return Err(io_error(&log, source)),
    }
    remove_all(&[log, with_suffix(path, "-shm")])
}

/// Left by a `create` that was killed; the writer lock is held, so nobody is at work on it.
fn remove_draft(draft: &Path) -> Result<(), OpenError> {
    remove_all(&[draft.to_owned(), with_suffix(draft, "-wal"), with_suffix(draft, "-shm")])
}

/// Removes those that are there.
fn remove_all(files: &[PathBuf]) -> Result<(), OpenError> {
    for file in files {
        match std::fs::remove_file(file) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(file, error)),
        }
    }
    Ok(())
}

fn write_new(draft: &Path, settings: &LibrarySettings) -> rusqlite::Result<()> {
    let mut db = Connection::open(draft)?;
    schema::prepare_new(&db)?;
    schema::prepare_connection(&db)?;
    schema::migrate(&mut db)?;
    let transaction = db.transaction()?;
    let settings = serde_json::to_string(settings)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let mut put = transaction.prepare("INSERT INTO meta (key, value) VALUES (?1, ?2)")?;
    put.execute(params!["uuid", Uuid::new_v4().to_string()])?;
    put.execute(params!["settings", settings])?;
    drop(put);
    transaction.execute(
        "INSERT INTO generations (generation, stamp, removed_chunks) VALUES (0, ?1, 0)",
        [Uuid::new_v4().as_bytes()],
    )?;
    transaction.commit()?;
    // Closing checkpoints the log into the file, so the one file is all of it.
    db.close().map_err(|(_, error)| error)
}

/// A rename is on disk when its folder is.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

type Connected = (Connection, LibrarySettings, Uuid);

fn connect(path: &Path, access: &Access) -> rusqlite::Result<Result<Connected, OpenError>> {
    let mut db = open_connection(path, access)?;
    let found = schema::version(&db)?;
    if found > schema::VERSION {
        return Ok(Err(OpenError::Newer { path: path.into(), found, known: schema::VERSION }));
    }
    if found < schema::VERSION {
        match access {
            Access::Write(_) => schema::migrate(&mut db)?,
            Access::Read => {
                return Ok(Err(OpenError::Older { path: path.into(), found, needed: schema::VERSION }));
            }
        }
    }
    let settings: String = meta(&db, "settings")?;
    let uuid: String = meta(&db, "uuid")?;
    let damaged = |what: &str, error: &dyn std::fmt::Display| OpenError::Damaged {
        path: path.into(),
        detail: format!("{what} in meta: {error}"),
    };
    let uuid = match uuid.parse() {
        Ok(uuid) => uuid,
        Err(error) => return Ok(Err(damaged("uuid", &error))),
    };
    match serde_json::from_str(&settings) {
        Ok(settings) => Ok(Ok((db, settings, uuid))),
        Err(error) => Ok(Err(damaged("settings", &error))),
    }
}

/// A second connection of the process that holds the writer's lock.
pub(crate) fn second_connection(library: &Library) -> Result<Connection, OpenError> {
    open_connection(&library.path, &library.access).map_err(|source| sqlite_error(&library.path, source))
}

fn open_connection(path: &Path, access: &Access) -> rusqlite::Result<Connection> {
    match access {
        Access::Write(_) => {
            let db = Connection::open_with_flags(path, FLAGS | OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            db.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
            prepared(db)
        }
        Access::Read => {
            let readable = FLAGS | OpenFlags::SQLITE_OPEN_READ_ONLY;
            match prepared(Connection::open_with_flags(path, readable)?) {
                // A reader keeps its place in a file beside the library. Where none can be made (a read-only
                // medium, a folder of somebody else's) who reads cannot write either, so the file may be read as one that
                // never changes, provided it is whole by itself: who writes begins with the log.
                Err(error)
                    if matches!(
                        error.sqlite_error_code(),
                        Some(rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::ReadOnly)
                    ) && !with_suffix(path, "-wal").exists() =>
                {
                    let immutable = readable | OpenFlags::SQLITE_OPEN_URI;
                    prepared(Connection::open_with_flags(immutable_uri(path), immutable)?)
                }
                opened => opened,
            }
        }
    }
}

const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX;

/// Also reads once, which is when SQLite first touches the files.
fn prepared(db: Connection) -> rusqlite::Result<Connection> {
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    schema::prepare_connection(&db)?;
    schema::version(&db)?;
    Ok(db)
}

/// <https://sqlite.org/uri.html>
fn immutable_uri(path: &Path) -> PathBuf {
    let mut uri = Vec::from(b"file:");
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'%' | b'?' | b'#' => uri.extend_from_slice(format!("%{byte:02x}").as_bytes()),
            _ => uri.push(byte),
        }
    }
    uri.extend_from_slice(b"?immutable=1");
    host_unix::path_of(uri)
}

fn meta(db: &Connection, key: &str) -> rusqlite::Result<String> {
    db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
}

fn sqlite_error(path: &Path, source: rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match source.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => {
            OpenError::Damaged { path: path.into(), detail: source.to_string() }
        }
        _ => OpenError::Sqlite { path: path.into(), source },
    }
}

fn io_error(path: &Path, source: std::io::Error) -> OpenError {
    OpenError::Io { path: path.into(), source }
}
