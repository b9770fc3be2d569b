//! Several libraries into one, row by row: nothing is parsed and nothing embedded again.
//!
//! Each input is one transaction, so a kill leaves a library that has some of the inputs, whole; the same merge goes on
//! from there. Columns are taken as the tables have them: all libraries of a merge are of the current schema.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension, Row, Statement, params};
use serde::Serialize;
use uuid::Uuid;

use crate::check;
use crate::commit::{delete_document, next_generation, root_id};
use crate::ids::VectorKey;
use crate::library::{Library, OpenError};
use crate::payload::check_of;
use crate::read::{ReadError, vector_id};
use crate::settings::Difference;
use crate::sparse;
use crate::write::{Refusal, WriteError};

/// What a merge took from one library.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// The library's file.
    pub from: PathBuf,
    /// Documents with text.
    pub documents: u64,
    /// Their chunks.
    pub chunks: u64,
    /// Vectors that were not there yet, those without a chunk included.
    pub vectors: u64,
    /// Inputs that ended in another verdict than `ok`.
    pub not_ok: u64,
    /// Inputs that were there already, in the same revision.
    pub known: u64,
}

/// Why libraries were not merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// A library cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A library among those to be merged into itself.
    #[error("{path}: this is the library to merge into", path = .path.display())]
    Itself {
        /// The library.
        path: PathBuf,
    },
    /// Vectors of two kinds.
    #[error(
        "{second} was made with other settings than {first}: {}",
        shown(differences),
        first = .first.display(),
        second = .second.display()
    )]
    Settings {
        /// The library to merge into, or the first one.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// A document in two states: which one is newer, the libraries do not tell.
    #[error(
        "document {doc_id} ({relative_path}) has one revision in {first} and another in {second}",
        first = .first.display(),
        second = .second.display()
    )]
    Revisions {
        /// The document.
        doc_id: Uuid,
        /// Its path below the root.
        relative_path: String,
        /// A library that has it.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
    },
    /// An input cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The library cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl MergeError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Open(error) => error.hint(),
            Self::Itself { .. } => Some("name the others only: what is in it stays"),
            Self::Settings { .. } => {
                Some("ingest all shards with the same model, dtype and chunker, and the same haul")
            }
            Self::Revisions { .. } => Some(
                "the file changed between two ingests: run the older one's ingest again, and merge into a new library",
            ),
            Self::Read(error) => error.hint(),
            Self::Write(error) => error.hint(),
        }
    }
}

fn shown(differences: &[Difference]) -> String {
    let one = |d: &Difference| format!("{} is {}, not {}", d.name, d.asked, d.stored);
    differences.iter().map(one).collect::<Vec<_>>().join("; ")
}

impl Library {
    /// Takes all that is in `inputs` into the library at `path`, which is made with the settings of the first if it is
    /// not there. Of what is there already in the same revision the newer metadata stay, so a merge that was
    /// cut short goes on.
    ///
    /// # Errors
    /// Nothing is written when an input is the library itself, has other settings, or has a document in another
    /// revision than another of them. After any other error the inputs before it are in, whole.
    pub fn merge(path: &Path, inputs: &[PathBuf]) -> Result<Vec<Taken>, MergeError> {
        let inputs: Vec<Library> =
            inputs.iter().map(|input| Library::open_read_only(input)).collect::<Result<_, _>>()?;
        let Some(first) = inputs.first() else { return Ok(vec![]) };
        let mut known = HashMap::new();
        let mut library = if path.exists() {
            let library = Library::open(path)?;
            if let Some(input) = inputs.iter().find(|input| input.path == library.path) {
                return Err(MergeError::Itself { path: input.path.clone() });
            }
            refuse(&library, &inputs, &mut known)?;
            library
        } else {
            refuse(first, &inputs, &mut known)?;
            Library::create(path, first.settings())?
        };
        let taken = inputs.iter().map(|input| library.take_in(input)).collect::<Result<_, _>>()?;
        // Where somebody reads, what was committed stays in the log until the next one who writes.
        library.empty_log()?;
        Ok(taken)
    }

    fn take_in(&mut self, input: &Library) -> Result<Taken, MergeError> {
        let snapshot = input
            .db
            .unchecked_transaction()
            .map_err(|source| MergeError::Read(input.read_error("merging", source)))?;
        let taken = self.transact("merging", |at, _| {
            let mut merge = Merge { at, from: &snapshot, input, taken: Taken::default() };
            merge.all()?;
            Ok(merge.taken)
        })?;
        Ok(Taken { from: input.path.clone(), ..taken })
    }
}

/// A document's revision, and the number of the library that has it.
type Known = HashMap<Uuid, ([u8; 32], usize)>;

/// Refuses what cannot be one library. `base` is the one to merge into, or the first input.
fn refuse(base: &Library, inputs: &[Library], known: &mut Known) -> Result<(), MergeError> {
    for input in inputs {
        if input.settings.fingerprint() != base.settings.fingerprint() {
            let differences = base.settings.differences(&input.settings);
            let (first, second) = (base.path.clone(), input.path.clone());
            return Err(MergeError::Settings { first, second, differences });
        }
    }
    let all = [base].into_iter().chain(inputs).collect::<Vec<_>>();
    for (number, library) in all.iter().enumerate() {
        let failed = |source| MergeError::Read(library.read_error("reading the manifest", source));
        let mut statement =
            library.db.prepare("SELECT doc_id, revision, relative_path FROM manifest").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let read = || Ok((Uuid::from_bytes(row.get(0)?), row.get(1)?));
            let (doc_id, revision): (Uuid, [u8; 32]) = read().map_err(failed)?;
            let (there, holder) = *known.entry(doc_id).or_insert((revision, number));
            if there != revision {
                let relative_path = row.get(2).map_err(failed)?;
                let (first, second) = (all[holder].path.clone(), library.path.clone());
                return Err(MergeError::Revisions { doc_id, relative_path, first, second });
            }
        }
    }
    Ok(())
}

/// How a document stands in a library.
struct Standing {
    is_ok: bool,
    updated_ms: i64,
    /// Over what is known about it; `None` where it never was `ok`.
    payload_check: Option<i64>,
}

impl Standing {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            is_ok: row.get_ref("verdict")?.as_str()? == "ok",
            updated_ms: row.get("updated_ms")?,
            payload_check: row.get("payload_check")?,
        })
    }

    /// Of the same revision: what is `ok` goes before what is not, and then what was found out later.
    fn replaces(&self, there: &Self) -> bool {
        let is_newer = self.payload_check != there.payload_check && self.updated_ms > there.updated_ms;
        self.is_ok && (!there.is_ok || is_newer)
    }
}

/// One input on its way into a transaction.
struct Merge<'a> {
    at: &'a Connection,
    from: &'a Connection,
    input: &'a Library,
    taken: Taken,
}

impl Merge<'_> {
    fn all(&mut self) -> Result<(), Refusal> {
        self.vectors()?;
        let (wanted, removed_chunks) = self.manifest()?;
        let documents = self.documents(&wanted)?;
        self.taken.documents = documents.len() as u64;
        self.taken.chunks = self.pieces(&documents, "chunks", "chunk_id")?;
        self.pieces(&documents, "sections", "section_id")?;
        self.log()?;
        if self.taken.documents + self.taken.not_ok + removed_chunks > 0 {
            next_generation(self.at, removed_chunks)?;
        }
        Ok(())
    }

    /// All of them, whether a chunk uses them or not: they are the cache of the model's work.
    fn vectors(&mut self) -> Result<(), Refusal> {
        let mut table = Table::of("vectors", "vector_id", self.at)?;
        let mut taken = 0;
        self.each("SELECT * FROM vectors", 0, |row| {
            let numbers = row.get_ref("row")?.as_bytes().map_err(rusqlite::Error::from)?;
            if check_of(blake3::hash(numbers).as_bytes()) != row.get::<_, i64>("row_check")? {
                let key = VectorKey(row.get("key")?);
                return Err(WriteError::BadInput { path: self.input.path.clone(), key }.into());
            }
            taken += table.copy(row, &[])?;
            Ok(())
        })?;
        self.taken.vectors = taken;
        Ok(())
    }

    /// The rows that are not there, those that are `ok` here and not there, and those whose document is the same here
    /// with newer metadata or at a newer place. Says which documents these are, and how many chunks went for them.
    fn manifest(&mut self) -> Result<(HashSet<[u8; 16]>, u64), Refusal> {
        let mut table = Table::of("manifest", "", self.at)?;
        let (mut wanted, mut removed_chunks) = (HashSet::new(), 0);
        let (mut known, mut not_ok) = (0, 0);
        let sql =
            "SELECT m.*, r.collection, r.path, d.payload_check FROM manifest m JOIN roots r USING (root_id)
            LEFT JOIN documents d USING (doc_id)";
        self.each(sql, 0, |row| {
            let doc_id: [u8; 16] = row.get("doc_id")?;
            let here = Standing::of(row)?;
            let there = self
                .at
                .prepare_cached(
                    "SELECT m.verdict, m.updated_ms, d.payload_check FROM manifest m
                    LEFT JOIN documents d USING (doc_id) WHERE doc_id = ?1",
                )?
                .query_row([doc_id], Standing::of)
                .optional()?;
            let is_ok = here.is_ok;
            if let Some(there) = there {
                if !here.replaces(&there) {
                    known += 1;
                    return Ok(());
                }
                removed_chunks += delete_document(self.at, &Uuid::from_bytes(doc_id))?;
                self.at.execute("DELETE FROM manifest WHERE doc_id = ?1", [doc_id])?;
            }
            wanted.insert(doc_id);
            not_ok += u64::from(!is_ok);
            table.copy(row, &[("root_id", self.root_id(row)?)])?;
            Ok(())
        })?;
        (self.taken.known, self.taken.not_ok) = (known, not_ok);
        Ok((wanted, removed_chunks))
    }

    /// The documents of `wanted`, by the input's number of each the new one.
    fn documents(&self, wanted: &HashSet<[u8; 16]>) -> Result<HashMap<i64, i64>, Refusal> {
        let mut table = Table::of("documents", "document_id", self.at)?;
        let mut documents = HashMap::with_capacity(wanted.len());
        let sql = "SELECT d.*, r.collection, r.path FROM documents d JOIN roots r USING (root_id) ORDER BY document_id";
        self.each(sql, 0, |row| {
            let doc_id: [u8; 16] = row.get("doc_id")?;
            if wanted.contains(&doc_id) {
                let fingerprint = self.input.settings.fingerprint();
                if let Some(what) = check::whole_fault(self.from, &Uuid::from_bytes(doc_id), &fingerprint)? {
                    return Err(WriteError::DamagedInput { path: self.input.path.clone(), what }.into());
                }
                table.copy(row, &[("root_id", self.root_id(row)?)])?;
                documents.insert(row.get("document_id")?, self.at.last_insert_rowid());
            }
            Ok(())
        })?;
        Ok(documents)
    }

    /// Chunks or sections, which have a vector each. Says how many there were.
    fn pieces(&self, documents: &HashMap<i64, i64>, name: &str, row_id: &str) -> Result<u64, Refusal> {
        let mut table = Table::of(name, row_id, self.at)?;
        let mut taken = 0;
        let sql =
            format!("SELECT t.*, v.key FROM {name} t JOIN vectors v USING (vector_id) ORDER BY {row_id}");
        self.each(&sql, 0, |row| {
            let Some(document_id) = documents.get(&row.get("document_id")?) else { return Ok(()) };
            // It came with the vectors, in this transaction.
            let vector_id = vector_id(self.at, &VectorKey(row.get("key")?))?
                .ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            let key = VectorKey(row.get("key")?);
            let copied = table.copy(row, &[("document_id", *document_id), ("vector_id", vector_id)])?;
            // Only chunks are searched by their tokens.
            if name == "chunks" && copied > 0 && self.input.settings.sparse {
                sparse::put_terms(self.at, self.at.last_insert_rowid(), &key)?;
            }
            taken += copied;
            Ok(())
        })?;
        Ok(taken)
    }

    /// The rows of the log after those that an earlier merge took.
    fn log(&self) -> Result<(), Refusal> {
        let mark = format!("merged {}", self.input.uuid);
        let seen: Option<i64> = self
            .at
            .query_row("SELECT value FROM meta WHERE key = ?1", [&mark], |row| row.get(0))
            .optional()?;
        let mut table = Table::of("ingests", "ingest_id", self.at)?;
        let mut last = seen.unwrap_or(0);
        self.each("SELECT * FROM ingests WHERE ingest_id > ?1 ORDER BY ingest_id", last, |row| {
            last = row.get("ingest_id")?;
            table.copy(row, &[])?;
            Ok(())
        })?;
        let put = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
        self.at.execute(put, params![mark, last])?;
        Ok(())
    }

    fn root_id(&self, row: &Row<'_>) -> rusqlite::Result<i64> {
        root_id(self.at, row.get_ref("collection")?.as_str()?, row.get_ref("path")?.as_str()?)
    }

    /// Hands on the rows of a query to the input; `after` is its parameter, if it has one.
    fn each(
        &self,
        sql: &str,
        after: i64,
        mut take: impl FnMut(&Row<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let unread = |source| Refusal::Input(WriteError::Unread(self.input.read_error("merging", source)));
        let mut statement = self.from.prepare(sql).map_err(unread)?;
        if statement.parameter_count() > 0 {
            statement.raw_bind_parameter(1, after).map_err(unread)?;
        }
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(unread)? {
            take(row)?;
        }
        Ok(())
    }
}

/// A table that rows are copied into.
struct Table<'a> {
    columns: Vec<String>,
    insert: Statement<'a>,
}

impl<'a> Table<'a> {
    /// `row_id` is the column whose numbers are the library's own.
    fn of(name: &str, row_id: &str, at: &'a Connection) -> rusqlite::Result<Self> {
        let columns: Vec<String> = at
            .prepare("SELECT name FROM pragma_table_info(?1) WHERE name <> ?2")?
            .query_map([name, row_id], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let places: Vec<String> = (1..=columns.len()).map(|place| format!("?{place}")).collect();
        let (columns_shown, places) = (columns.join(", "), places.join(", "));
        // Only vectors may be there already; elsewhere that is an error.
        let or = if name == "vectors" { "ON CONFLICT DO NOTHING" } else { "" };
        let insert = at.prepare(&format!("INSERT INTO {name} ({columns_shown}) VALUES ({places}) {or}"))?;
        Ok(Self { columns, insert })
    }

    /// Copies a row by the names of its columns, `instead` of some; 0 where it is there already.
    fn copy(&mut self, row: &Row<'_>, instead: &[(&str, i64)]) -> rusqlite::Result<u64> {
        for (place, column) in (1..).zip(&self.columns) {
            match instead.iter().find(|(name, _)| name == column) {
                Some((_, number)) => self.insert.raw_bind_parameter(place, number)?,
                None => self
                    .insert
                    .raw_bind_parameter(place, ToSqlOutput::Borrowed(row.get_ref(column.as_str())?))?,
            }
        }
        Ok(self.insert.raw_execute()? as u64)
    }
}
