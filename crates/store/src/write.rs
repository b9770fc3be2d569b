//! Everything that changes a library. Each public function is one transaction.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use half::f16;
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use crate::commit::{
    check_document, delete_document, log_commit, log_verdict, next_generation, record_verdict,
    replace_document, root_id, touch, update_document,
};
use crate::host_unix;
use crate::ids::VectorKey;
use crate::library::{Access, Library};
use crate::payload::check_of;
use crate::read::ReadError;
use crate::records::{DocumentRecord, DocumentUpdate, ManifestRow, VectorName};
use crate::settings::LibrarySettings;
use crate::sparse;

impl Library {
    /// Stores vectors as f16 rows under the text they were made from. A key that is there already is left as it
    /// is: equal keys are equal vectors.
    ///
    /// # Errors
    /// A row is not [`storable`]: then no row of this call is stored.
    pub fn put_vectors(&mut self, name: VectorName, rows: &[(VectorKey, &[f32])]) -> Result<(), WriteError> {
        let dim = self.settings.dim;
        self.transact("storing vectors", |at, _| {
            for (key, row) in rows {
                let row = encode_row(row, dim).map_err(|fault| WriteError::BadVector { key: *key, fault })?;
                put_row(at, key, name, &row)?;
            }
            Ok(())
        })
    }

    /// Stores the weights of texts' tokens under the keys of their vectors, tokens ascending. In a library with sparse
    /// vectors a text has its sparse one before it has its dense one: then none that is known lacks it.
    ///
    /// # Errors
    /// A row is not [`storable_sparse`](crate::library::storable_sparse): then no row of this call is stored.
    pub fn put_sparse(&mut self, rows: &[(VectorKey, &[(u32, f32)])]) -> Result<(), WriteError> {
        self.transact("storing sparse vectors", |at, _| {
            for (key, terms) in rows {
                let row =
                    sparse::encode(terms).map_err(|fault| WriteError::BadVector { key: *key, fault })?;
                put_row(at, key, VectorName::Sparse, &row)?;
            }
            Ok(())
        })
    }

    /// Puts documents in, each whole: its old revision goes as the new one comes, with full text, manifest row
    /// and a row of `ingest_log`.
    ///
    /// # Errors
    /// A chunk's vector is missing or a record contradicts itself: then none of the documents is changed.
    pub fn commit_documents(&mut self, documents: &[DocumentRecord]) -> Result<(), WriteError> {
        self.transact("committing documents", |at, settings| {
            let fingerprint = settings.fingerprint();
            let now_ms = now_ms();
            let mut removed_chunks = 0;
            for document in documents {
                check_document(document, &fingerprint)?;
                removed_chunks += replace_document(at, document, settings, now_ms)?;
                log_commit(at, document, settings, now_ms)?;
            }
            next_generation(at, removed_chunks)
        })
    }

    /// Records inputs that did not end in `ok`. An earlier good revision stays searchable and is marked stale
    /// with the verdict, so that a file that breaks does not take its text away; [`Library::remove_documents`]
    /// does that.
    ///
    /// # Errors
    /// A verdict that is not one, or `ok`.
    pub fn record_verdict(&mut self, rows: &[ManifestRow]) -> Result<(), WriteError> {
        self.transact("recording verdicts", |at, settings| {
            let now_ms = now_ms();
            for row in rows {
                record_verdict(at, row, now_ms)?;
                log_verdict(at, row, settings, now_ms)?;
            }
            Ok(())
        })
    }

    /// Keeps folders that paths are relative to, whether a document of theirs is in this library or not.
    ///
    /// # Errors
    /// The disk's own.
    pub fn record_roots(&mut self, collection: &str, roots: &BTreeSet<String>) -> Result<(), WriteError> {
        self.transact("recording folders", |at, _| {
            roots.iter().try_for_each(|root| root_id(at, collection, root).map(drop)).map_err(Refusal::from)
        })
    }

    /// Takes over where an input stands, its size and time, when its content is unchanged.
    ///
    /// # Errors
    /// An input the library does not know, or one whose content hash or revision differs from the stored.
    pub fn touch(&mut self, rows: &[ManifestRow]) -> Result<(), WriteError> {
        self.transact("updating the manifest", |at, _| {
            let now_ms = now_ms();
            rows.iter().try_for_each(|row| touch(at, row, now_ms))
        })
    }

    /// Takes over where documents stand and what is known about them, where their content is unchanged: ids,
    /// chunks and vectors stay as they are.
    ///
    /// # Errors
    /// As for [`Library::touch`], or metadata that are not a JSON object: then none of the documents is changed.
    pub fn update_documents(&mut self, updates: &[DocumentUpdate]) -> Result<(), WriteError> {
        self.transact("updating metadata", |at, _| {
            let now_ms = now_ms();
            updates.iter().try_for_each(|update| update_document(at, update, now_ms))
        })
    }

    /// Takes documents out, with their manifest rows, and every vector that no chunk uses any more. Not while
    /// an ingest of this process has stored vectors it has not committed documents for.
    ///
    /// Ids that are not there are not counted. Where nothing is taken out nothing is written, and the library's
    /// generation stays what it was.
    ///
    /// # Errors
    /// The disk's own.
    pub fn remove_documents(&mut self, ids: &[Uuid]) -> Result<Removed, WriteError> {
        self.transact("removing documents", |at, _| remove(at, ids))
    }

    /// [`Library::remove_documents`] for documents whose files may still be there: the next ingest reads a file of many
    /// documents again if one of these was in it, as it does with a file of one.
    ///
    /// # Errors
    /// The disk's own.
    pub fn delete_documents(&mut self, ids: &[Uuid]) -> Result<Removed, WriteError> {
        self.transact("removing documents", |at, _| {
            let sql = "SELECT root_id, relative_path FROM manifest WHERE doc_id = ?1 AND part IS NOT NULL";
            let mut file_of = at.prepare(sql)?;
            let files =
                ids.iter().map(|id| file_of.query_row([id.as_bytes()], |row| row.try_into()).optional());
            let files: BTreeSet<Option<(i64, String)>> = files.collect::<rusqlite::Result<_>>()?;
            for file in files.into_iter().flatten() {
                // Rows without a time are never taken for unchanged.
                at.execute(
                    "UPDATE manifest SET modified_ns = NULL WHERE root_id = ?1 AND relative_path = ?2",
                    file,
                )?;
            }
            remove(at, ids)
        })
    }

    pub(crate) fn transact<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>, &LibrarySettings) -> Result<T, Refusal>,
    ) -> Result<T, WriteError> {
        if matches!(self.access, Access::Read) {
            return Err(WriteError::ReadOnly { path: self.path.clone() });
        }
        let settings = &self.settings;
        let done = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Refusal::Sqlite)
            .and_then(|transaction| {
                let value = work(&transaction, settings)?;
                transaction.commit()?;
                Ok(value)
            });
        done.map_err(|refusal| match refusal {
            Refusal::Input(error) => error,
            Refusal::Sqlite(source) => self.write_error(doing, source),
        })
    }

    fn write_error(&self, doing: &'static str, source: rusqlite::Error) -> WriteError {
        let path = self.path.clone();
        let is_full = source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        match host_unix::free_bytes(&path) {
            Ok(free_bytes) if is_full => WriteError::Full { path, doing, free_bytes },
            Ok(free_bytes) if is_unwritten(&source) => {
                WriteError::Unwritten { path, doing, free_bytes, source }
            }
            _ => WriteError::Sqlite { path, doing, source },
        }
    }
}

fn remove(at: &Transaction<'_>, ids: &[Uuid]) -> Result<Removed, Refusal> {
    let mut removed = Removed::default();
    for id in ids {
        removed.chunks += delete_document(at, id)?;
        let gone = at.execute("DELETE FROM manifest WHERE doc_id = ?1", [id.as_bytes()])?;
        removed.documents += gone as u64;
    }
    let unused = "DELETE FROM vectors
        WHERE name = 'dense'
        AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.vector_id = vectors.vector_id)
        AND NOT EXISTS (SELECT 1 FROM sections s WHERE s.vector_id = vectors.vector_id)";
    removed.vectors = at.execute(unused, [])? as u64;
    at.execute(
        "DELETE FROM vectors WHERE name = 'sparse'
        AND NOT EXISTS (SELECT 1 FROM vectors d WHERE d.key = vectors.key AND d.name = 'dense')",
        [],
    )?;
    if removed != Removed::default() {
        next_generation(at, removed.chunks)?;
    }
    Ok(removed)
}

/// What [`Library::remove_documents`] took out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Inputs, with or without text.
    pub documents: u64,
    /// Chunks.
    pub chunks: u64,
    /// Vectors.
    pub vectors: u64,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Opened by `open_read_only`.
    #[error("{path}: open for reading only", path = .path.display())]
    ReadOnly {
        /// The library.
        path: PathBuf,
    },
    /// The disk, or the quota, is used up.
    #[error("{path}: {doing}: the disk is full ({free_bytes} bytes free)", path = .path.display())]
    Full {
        /// The library.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// Bytes free beside the library.
        free_bytes: u64,
    },
    /// The system refused to write: a limit on the sizes of files, a quota of some systems, a failing disk.
    #[error("{path}: {doing}: the system writes no more ({free_bytes} bytes free): {source}", path = .path.display())]
    Unwritten {
        /// The library.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// Bytes free beside the library.
        free_bytes: u64,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// A vector that is not [`storable`].
    #[error("vector {key}: {fault}")]
    BadVector {
        /// The vector.
        key: VectorKey,
        /// What is wrong with it.
        fault: VectorFault,
    },
    /// A document came before one of its vectors.
    #[error("document {doc_id}, chunk {chunk_no}: its vector {key} is not in the library")]
    MissingVector {
        /// The document.
        doc_id: Uuid,
        /// The chunk.
        chunk_no: u32,
        /// The vector.
        key: VectorKey,
    },
    /// A record that contradicts itself or the library.
    #[error("document {doc_id}: {what}")]
    Inconsistent {
        /// The document.
        doc_id: Uuid,
        /// What is wrong with it.
        what: String,
    },
    /// The library that is taken in cannot be read.
    #[error(transparent)]
    Unread(ReadError),
    /// A document of a library that was to be merged is damaged.
    #[error("{path}: {what}; nothing of this library was taken in", path = .path.display())]
    DamagedInput {
        /// That library.
        path: PathBuf,
        /// Which document, and what is wrong.
        what: String,
    },
    /// A vector of the library that is taken in is damaged.
    #[error("{path}: vector {key}: its numbers are not those that were stored", path = .path.display())]
    BadInput {
        /// The library that is read.
        path: PathBuf,
        /// The vector.
        key: VectorKey,
    },
    /// SQLite refused.
    #[error("{path}: {doing}: {source}", path = .path.display())]
    Sqlite {
        /// The library.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// SQLite's error.
        source: rusqlite::Error,
    },
}

impl WriteError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Full { .. } => {
                Some("free some space and run the same command again: it goes on where it was")
            }
            Self::Unwritten { .. } => Some(UNWRITTEN_HINT),
            Self::BadVector { fault, .. } => fault.hint(),
            Self::Unread(error) => error.hint(),
            Self::BadInput { .. } | Self::DamagedInput { .. } => {
                Some("`haul store verify` lists what is damaged; ingest that shard again")
            }
            _ => None,
        }
    }
}

/// After a refused write.
pub(crate) const UNWRITTEN_HINT: &str = "free some space, or lift the limit on file sizes (`ulimit -f`), and run the \
    same command again: it goes on where it was";

/// Whether SQLite could not write, sync or lengthen a file, or had no room to.
pub(crate) fn is_unwritten(source: &rusqlite::Error) -> bool {
    use rusqlite::ffi;
    let codes = [
        ffi::SQLITE_FULL,
        ffi::SQLITE_IOERR_WRITE,
        ffi::SQLITE_IOERR_FSYNC,
        ffi::SQLITE_IOERR_TRUNCATE,
        ffi::SQLITE_IOERR_SHMSIZE,
    ];
    source.sqlite_error().is_some_and(|error| codes.contains(&error.extended_code))
}

/// Why a row of numbers cannot be a vector of a library.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VectorFault {
    /// Another length than the library's.
    #[error("{found} numbers, the library's vectors have {expected}")]
    Dimension {
        /// Numbers in it.
        found: usize,
        /// Numbers the library wants.
        expected: usize,
    },
    /// NaN, infinite, or beyond f16.
    #[error("number {place} is {number}, f16 holds up to {}", f16::MAX)]
    Number {
        /// Index of the first such number.
        place: usize,
        /// The number.
        number: f32,
    },
    /// It has no direction.
    #[error("all numbers are zero as f16")]
    Zero,
    /// Sparse, and its tokens do not rise.
    #[error("its tokens are not in order")]
    Order,
}

impl VectorFault {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Dimension { .. } | Self::Order => None,
            Self::Number { .. } | Self::Zero => Some("the model gave this vector; try --dtype f32"),
        }
    }
}

/// How the inside of a transaction fails.
pub(crate) enum Refusal {
    Input(WriteError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        Self::Input(error)
    }
}

/// Whether [`Library::put_vectors`] takes `row` into a library of vectors of `dim` numbers. It refuses all rows of a
/// call for one that is not, so a caller who is to go on without that one asks first.
///
/// # Errors
/// The row is not `dim` long, or a number of it is not finite as f16, or all are zero as f16.
pub fn storable(row: &[f32], dim: usize) -> Result<(), VectorFault> {
    if row.len() != dim {
        return Err(VectorFault::Dimension { found: row.len(), expected: dim });
    }
    let mut zero = true;
    for (place, &number) in row.iter().enumerate() {
        let half = f16::from_f32(number);
        if !half.is_finite() {
            return Err(VectorFault::Number { place, number });
        }
        zero &= half == f16::ZERO;
    }
    if zero { Err(VectorFault::Zero) } else { Ok(()) }
}

/// `dim` f16 numbers, little-endian.
fn encode_row(row: &[f32], dim: usize) -> Result<Vec<u8>, VectorFault> {
    storable(row, dim)?;
    Ok(row.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect())
}

/// A row that is there already is left as it is.
fn put_row(at: &Transaction<'_>, key: &VectorKey, name: VectorName, row: &[u8]) -> rusqlite::Result<()> {
    let check = check_of(blake3::hash(row).as_bytes());
    at.prepare_cached(
        "INSERT INTO vectors (key, name, row_check, row) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
    )?
    .execute(params![key.0, name.as_str(), check, row])?;
    Ok(())
}

/// Milliseconds since 1970; a clock before that counts as 1970.
fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::GENERATIONS_KEPT;

    fn settings() -> LibrarySettings {
        LibrarySettings {
            model_name: "tiny".to_owned(),
            model_sha256: "00".to_owned(),
            dim: 512,
            dtype: "f32".to_owned(),
            pooling: "mean".to_owned(),
            normalize: true,
            max_tokens: 256,
            chunker: "tokens".to_owned(),
            chunk_tokens: 254,
            overlap_sentences: 1,
            query_prompt: String::new(),
            document_prompt: String::new(),
            parser_version: 1,
            chunker_version: 1,
            numerics_version: 1,
            chunkers: crate::settings::Chunkers::default(),
            sparse: false,
        }
    }

    /// A bound on the pages of the file is a full disk to SQLite.
    #[test]
    fn a_full_disk_is_named_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut library = Library::create(&folder.path().join("full.haul"), &settings()).unwrap();
        let rows: Vec<_> = (0..100_u8).map(|n| (VectorKey([n; 32]), vec![f32::from(n) + 1.0; 512])).collect();
        let rows: Vec<_> = rows.iter().map(|(key, row)| (*key, row.as_slice())).collect();
        library.put_vectors(VectorName::Dense, &rows[..10]).unwrap();

        let pages: u32 = library.db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        set_max_pages(&library, pages + 3);
        let refused = library.put_vectors(VectorName::Dense, &rows).unwrap_err();
        assert!(matches!(refused, WriteError::Full { free_bytes: 1.., .. }), "{refused}");
        assert!(refused.hint().is_some());
        assert_eq!(library.info().unwrap().vectors, 10);
        assert_eq!(library.verify().unwrap().findings, []);

        set_max_pages(&library, u32::MAX - 1);
        library.put_vectors(VectorName::Dense, &rows).unwrap();
        assert_eq!(library.info().unwrap().vectors, 100);
    }

    fn set_max_pages(library: &Library, pages: u32) {
        library.db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    }

    #[test]
    fn the_line_of_descent_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::create(&folder.path().join("old.haul"), &settings()).unwrap();
        let at = library.db.unchecked_transaction().unwrap();
        for _ in 0..GENERATIONS_KEPT + 10 {
            assert!(next_generation(&at, 1).is_ok());
        }
        let (kept, newest, removed): (i64, i64, i64) = at
            .query_row("SELECT count(*), max(generation), max(removed_chunks) FROM generations", [], |row| {
                row.try_into()
            })
            .unwrap();
        let made = GENERATIONS_KEPT + 10;
        assert_eq!((kept, newest, removed), (GENERATIONS_KEPT, made, made));
    }
}
