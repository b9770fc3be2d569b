//! The journal: what was tried, how often, and what came of it, in one SQLite file with one owner.
//!
//! Results are grouped into one transaction, so that a job of a million calls does not wait a million times for the
//! disk. A thread of the journal's own closes it [`GROUP_COMMIT`] after its first write, whatever else happens: a job
//! may wait minutes for the next result, and a kill then loses none that is older than that.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

/// A group of writes is closed this long after its first one, so that it is on the disk within a second.
pub const GROUP_COMMIT: Duration = Duration::from_millis(500);
/// The next step of a run whose disk is full.
pub const NO_ROOM_HINT: &str =
    "the disk, a quota or a limit on file sizes may be full; the same command goes on from here";
const APPLICATION_ID: i32 = 0x4861_756a; // "Hauj"
const SCHEMA_VERSION: i32 = 1;
const SCHEMA: &str = "CREATE TABLE entries (
    key BLOB PRIMARY KEY, state TEXT NOT NULL, attempts INTEGER NOT NULL, result BLOB, ms INTEGER
) WITHOUT ROWID, STRICT;";

/// What identifies a piece of work: the hash of job, inputs and parameters.
pub type JournalKey = blake3::Hash;

/// Where a piece of work stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Begun, and not finished when the journal was last written: the run that began it was cut off.
    Begun,
    /// Finished with a result.
    Done,
    /// Finished without one; `result` says why.
    Failed,
}

/// One row of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub state: State,
    /// Number of the last attempt, from 1.
    pub attempts: u32,
    /// What the job stored when it finished.
    pub result: Option<Vec<u8>>,
    /// How long the last attempt took.
    pub ms: Option<u32>,
}

/// A journal that this process owns.
pub struct Journal {
    shared: Arc<Shared>,
    path: PathBuf,
    closer: Option<JoinHandle<()>>,
}

/// What a journal shares with the thread that closes its groups.
struct Shared {
    group: Mutex<Group>,
    /// A group was begun, or the journal ends.
    changed: Condvar,
}

struct Group {
    connection: Connection,
    open_since: Option<Instant>,
    /// Why the thread could not close a group; the next call says it.
    fault: Option<rusqlite::Error>,
    is_over: bool,
}

/// The journal could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process holds it.
    #[error("the journal {} is in use by another run", path.display())]
    InUse {
        /// The journal.
        path: PathBuf,
    },
    /// The file is something else, or of a newer version.
    #[error("{} is not a journal of this version ({found})", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
    /// SQLite failed.
    #[error("cannot use the journal {}: {source}", path.display())]
    Sqlite {
        /// The journal.
        path: PathBuf,
        /// SQLite's own words.
        source: rusqlite::Error,
    },
}

impl JournalError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Sqlite { source, .. } if is_out_of_room(source) => Some(NO_ROOM_HINT),
            Self::InUse { .. } => Some("wait for the other run to finish, or stop it"),
            Self::NotAJournal { .. } => Some("move the file away; a new journal is made"),
            Self::Sqlite { .. } => None,
        }
    }
}

impl Journal {
    /// Opens or makes the journal at `path` and keeps every other process out until it is dropped.
    ///
    /// # Errors
    /// [`JournalError::InUse`] when another process has it, otherwise what is wrong with the file.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |source| sqlite_error(path, source);
        let connection = Connection::open(path).map_err(failed)?;
        // Waiting would only delay the answer: the other owner keeps it for its whole run.
        connection.busy_timeout(Duration::ZERO).map_err(failed)?;
        // In exclusive mode with a rollback journal the first write takes a lock that is kept.
        connection
            .execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=FULL; BEGIN EXCLUSIVE;")
            .map_err(failed)?;
        let version: i32 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
        let application: i32 =
            connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
        match (application, version) {
            (0, 0) => connection
                .execute_batch(&format!(
                    "{SCHEMA} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};"
                ))
                .map_err(failed)?,
            (APPLICATION_ID, SCHEMA_VERSION) => {}
            _ => {
                let found = format!("application {application:#x}, version {version}");
                return Err(JournalError::NotAJournal { path: path.to_owned(), found });
            }
        }
        connection.execute_batch("COMMIT").map_err(failed)?;
        let group = Group { connection, open_since: None, fault: None, is_over: false };
        let shared = Arc::new(Shared { group: Mutex::new(group), changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let closer = thread::spawn(move || of_thread.close_groups());
        Ok(Self { shared, path: path.to_owned(), closer: Some(closer) })
    }

    /// What is known of `key`.
    ///
    /// # Errors
    /// When SQLite fails, or has failed since the last call: what was written then is gone.
    pub fn get(&self, key: &JournalKey) -> Result<Option<Entry>, JournalError> {
        let mut group = self.shared.group();
        group.fault().map_err(|source| sqlite_error(&self.path, source))?;
        group
            .connection
            .prepare_cached("SELECT state, attempts, result, ms FROM entries WHERE key = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([key.as_bytes().as_slice()], |row| {
                        Ok(Entry {
                            state: state_from(row.get_ref(0)?.as_str()?)?,
                            attempts: row.get(1)?,
                            result: row.get(2)?,
                            ms: row.get(3)?,
                        })
                    })
                    .optional()
            })
            .map_err(|source| sqlite_error(&self.path, source))
    }

    /// Notes that an attempt at `key` begins, and returns the number of this attempt, from 1. An attempt that
    /// was cut off by a kill says nothing about the work, so it is begun again under the same number.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn begin(&mut self, key: &JournalKey) -> Result<u32, JournalError> {
        self.write(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO entries VALUES (?1, 'begun', 1, NULL, NULL) ON CONFLICT (key)
                     DO UPDATE SET state = 'begun', attempts = attempts + (state <> 'begun')
                     RETURNING attempts",
                )?
                .query_row([key.as_bytes().as_slice()], |row| row.get(0))
        })
    }

    /// Notes how the attempt at `key` ended, with what the job wants to find again.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn finish(
        &mut self,
        key: &JournalKey,
        state: State,
        result: &[u8],
        ms: u32,
    ) -> Result<(), JournalError> {
        self.write(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO entries VALUES (?1, ?2, 1, ?3, ?4) ON CONFLICT (key)
                     DO UPDATE SET state = ?2, result = ?3, ms = ?4",
                )?
                .execute(params![key.as_bytes().as_slice(), state_name(state), result, ms])
                .map(|_| ())
        })
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        self.shared.group().close().map_err(|source| sqlite_error(&self.path, source))
    }

    fn write<T>(
        &mut self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, JournalError> {
        let failed = |source| sqlite_error(&self.path, source);
        let mut group = self.shared.group();
        group.fault().map_err(failed)?;
        if group.open_since.is_none() {
            group.connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
            group.open_since = Some(Instant::now());
            self.shared.changed.notify_one();
        }
        change(&group.connection).map_err(failed)
    }
}

/// What was written is kept, also by a run that ends with an error.
impl Drop for Journal {
    fn drop(&mut self) {
        let mut group = self.shared.group();
        group.is_over = true;
        if let Err(error) = group.close() {
            tracing::warn!("the end of the journal {} is lost: {error}", self.path.display());
        }
        drop(group);
        self.shared.changed.notify_one();
        // The thread holds the connection, and with it the lock on the file.
        if self.closer.take().is_some_and(|closer| closer.join().is_err()) {
            tracing::warn!("the thread of the journal {} failed", self.path.display());
        }
    }
}

impl Shared {
    fn group(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes each group when its time has come, until the journal ends.
    fn close_groups(&self) {
        let mut group = self.group();
        while !group.is_over {
            group = match group.open_since {
                None => self.changed.wait(group).unwrap_or_else(PoisonError::into_inner),
                Some(since) => {
                    let left = GROUP_COMMIT.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        group.fault = group.close().err();
                        group
                    } else {
                        self.changed.wait_timeout(group, left).unwrap_or_else(PoisonError::into_inner).0
                    }
                }
            };
        }
    }
}

impl Group {
    /// Says once what kept the thread from closing a group.
    fn fault(&mut self) -> rusqlite::Result<()> {
        self.fault.take().map_or(Ok(()), Err)
    }

    fn close(&mut self) -> rusqlite::Result<()> {
        self.fault()?;
        match self.open_since.take() {
            Some(_) => self.connection.execute_batch("COMMIT"),
            None => Ok(()),
        }
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Begun => "begun",
        State::Done => "done",
        State::Failed => "failed",
    }
}

fn state_from(name: &str) -> rusqlite::Result<State> {
    match name {
        "begun" => Ok(State::Begun),
        "done" => Ok(State::Done),
        "failed" => Ok(State::Failed),
        other => Err(rusqlite::Error::InvalidColumnName(format!("journal state {other:?}"))),
    }
}

/// SQLite says of a file that may not grow that it cannot be written.
fn is_out_of_room(source: &rusqlite::Error) -> bool {
    matches!(source.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

fn sqlite_error(path: &Path, source: rusqlite::Error) -> JournalError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => JournalError::InUse { path },
        Some(ErrorCode::NotADatabase) => {
            JournalError::NotAJournal { path, found: "not an SQLite file".to_owned() }
        }
        _ => JournalError::Sqlite { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> JournalKey {
        blake3::hash(&[n])
    }

    #[test]
    fn attempts_are_counted_and_results_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.sqlite");
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.begin(&key(1)).unwrap(), 1);
        assert_eq!(journal.begin(&key(1)).unwrap(), 1, "the first attempt was cut off, not finished");
        journal.finish(&key(1), State::Failed, b"slow", 9).unwrap();
        assert_eq!(journal.begin(&key(1)).unwrap(), 2);
        journal.finish(&key(1), State::Failed, b"why", 7).unwrap();
        journal.begin(&key(2)).unwrap();
        journal.flush().unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        let failed = Entry { state: State::Failed, attempts: 2, result: Some(b"why".to_vec()), ms: Some(7) };
        assert_eq!(journal.get(&key(1)).unwrap(), Some(failed));
        assert_eq!(journal.get(&key(2)).unwrap().map(|entry| entry.state), Some(State::Begun));
        assert_eq!(journal.get(&key(3)).unwrap(), None);
    }

    /// The group was closed by the next write alone: the answers before a long wait were lost with a kill.
    #[test]
    fn a_group_is_closed_also_when_nothing_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.sqlite");
        let mut journal = Journal::open(&path).unwrap();
        journal.finish(&key(1), State::Done, b"answer", 1).unwrap();
        // A copy of the file alone has what is on the disk, as after a kill.
        let is_kept = || {
            let copy = dir.path().join("copy.sqlite");
            std::fs::copy(&path, &copy).unwrap();
            Journal::open(&copy).is_ok_and(|copy| copy.get(&key(1)).is_ok_and(|entry| entry.is_some()))
        };
        assert!(!is_kept());
        let start = Instant::now();
        while !is_kept() {
            assert!(start.elapsed() < Duration::from_secs(1), "the group is still open");
            thread::sleep(Duration::from_millis(10));
        }
        journal.finish(&key(2), State::Done, b"another", 1).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        assert!([1, 2].iter().all(|n| journal.get(&key(*n)).unwrap().is_some()));
    }

    #[test]
    fn a_second_owner_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.sqlite");
        let _owner = Journal::open(&path).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::InUse { .. })));
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        let notes = "these are notes, not a database. ".repeat(100);
        std::fs::write(&path, &notes).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::NotAJournal { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), notes);
    }
}
