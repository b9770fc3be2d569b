//! Documents of a library into a Qdrant collection, each exactly once, whatever dies when.
//!
//! A group of documents goes through named steps. `staged`: the library says, on disk, what is about to be sent.
//! `upserted`: every point was confirmed by the server. `verified`: the server counts every one of them. `committed`:
//! the library says so. `cleaned`: no point of an older revision is left, and the library says so. New points are in
//! before old ones go out, and what is not `cleaned` is sent again: ids are made from content, so that is no second
//! copy. The library is the outbox, so nothing is computed again for it.
//!
//! Several libraries may fill one collection. What a plain file's document is known by is the file: where the collection
//! has it from another one of the same relative path, it is another's, and is neither replaced nor removed. A library
//! that has published a document, or taken it over, knows it by its row in `publications`.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qdrant_client::qdrant::PointStruct;
use rusqlite::{Connection, TransactionBehavior, params};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::check;
use crate::library::{Access, Library, OpenError, ReadError, WriteError, second_connection};
use crate::points::{self, Point};
use crate::qdrant::catalogue::{self, Origin};
use crate::qdrant::{Address, Collection, ServerError, State, convert_point, documents_except, points_with};
use crate::settings::LibrarySettings;
use crate::terms::Terms;

/// Documents whose steps are taken together.
const GROUP_DOCUMENTS: usize = 64;
/// Points after which no further document joins a group.
const GROUP_POINTS: u64 = 512;
/// Points, and bytes of them, in one call.
const CALL_POINTS: usize = 128;
const CALL_BYTES: usize = 8 << 20;
/// How often a group whose points are not all counted is sent again, and how much longer each time before that: a
/// server that has just come back may show what it has only after a moment.
const VERIFY_TRIES: u32 = 5;
const VERIFY_PAUSE: Duration = Duration::from_millis(300);

/// The way of one library into one collection.
pub struct Publisher {
    db: Connection,
    settings: LibrarySettings,
    target: String,
    collection: Collection,
    state: State,
    terms: Terms,
    /// Plain files of the collection that this library has not published.
    others: Vec<Origin>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Published {
    /// Documents that are in the collection now and were not, or not as they are.
    pub documents: u64,
    /// Their points.
    pub points: u64,
    /// Documents that were taken out.
    pub removed: u64,
}

impl std::ops::AddAssign for Published {
    fn add_assign(&mut self, other: Self) {
        self.documents += other.documents;
        self.points += other.points;
        self.removed += other.removed;
    }
}

impl Publisher {
    /// From `library`, which is open for writing, into `collection`, which is made if it is not there.
    ///
    /// # Errors
    /// A library that is open for reading only, a collection of other settings, a server that is away.
    pub fn new(library: &Library, collection: Collection) -> Result<Publisher, PublishError> {
        if matches!(library.access, Access::Read) {
            return Err(PublishError::ReadOnly);
        }
        let state = collection.ensure(library.settings())?;
        let mut publisher = Publisher {
            db: second_connection(library)?,
            settings: library.settings().clone(),
            // Another collection under the same address is another target: nothing of ours is in it yet.
            target: state.id.clone().unwrap_or_else(|| collection.address().to_string()),
            terms: Terms::new(library.settings())?,
            collection,
            state,
            others: Vec::new(),
        };
        publisher.take_stock()?;
        publisher.forget_what_is_lost()?;
        Ok(publisher)
    }

    /// A server that has fewer points than the documents that seem to be there was set back: then everything is sent
    /// again.
    fn forget_what_is_lost(&mut self) -> Result<(), PublishError> {
        let published: u64 = self.db.query_row(
            "SELECT coalesce(sum(points), 0) FROM publications WHERE target = ?1 AND state = 'cleaned'",
            [&self.target],
            |row| row.get(0),
        )?;
        if self.state.points < published {
            warn!(
                points = self.state.points,
                published, "the server has fewer points than were published to it; all are sent again"
            );
            self.db.execute("UPDATE publications SET state = 'staged' WHERE target = ?1", [&self.target])?;
        }
        Ok(())
    }

    /// Documents that were published and are not there, because another library took them out, are sent again; files
    /// that were never published are another's.
    fn take_stock(&mut self) -> Result<(), PublishError> {
        if self.state.points == 0 {
            return Ok(());
        }
        let published: HashMap<Uuid, bool> = self
            .db
            .prepare("SELECT doc_id, state = 'cleaned' AND points > 0 FROM publications WHERE target = ?1")?
            .query_map([&self.target], |row| Ok((Uuid::from_bytes(row.get(0)?), row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let (mut there, mut others) = (HashSet::new(), Vec::new());
        catalogue::for_each_origin(&self.collection, None, |origin| {
            if published.contains_key(&origin.doc_id) {
                there.insert(origin.doc_id);
            } else if origin.is_of_a_file() {
                others.push(origin);
            }
        })?;
        self.others = others;
        let is_lost =
            |(doc_id, is_cleaned): (Uuid, bool)| (is_cleaned && !there.contains(&doc_id)).then_some(doc_id);
        let lost: Vec<Uuid> = published.into_iter().filter_map(is_lost).collect();
        if !lost.is_empty() {
            warn!(
                documents = lost.len(),
                "documents that were published are there no more; they are sent again"
            );
            self.forget(&lost)?;
        }
        Ok(())
    }

    /// Plain files of the collection that this library had not published when it was opened.
    #[must_use]
    pub fn others(&self) -> &[Origin] {
        &self.others
    }

    /// Documents that are not in the collection as the library has them, those the library has no more included.
    ///
    /// # Errors
    /// The library cannot be read.
    pub fn pending(&self) -> Result<Vec<Uuid>, PublishError> {
        let mut statement = self.db.prepare_cached(
            "SELECT d.doc_id FROM documents d LEFT JOIN publications p ON p.doc_id = d.doc_id AND p.target = ?1
            WHERE p.state IS NOT 'cleaned' OR p.payload_check <> d.payload_check
            UNION ALL
            SELECT doc_id FROM publications WHERE target = ?1 AND doc_id NOT IN (SELECT doc_id FROM documents)",
        )?;
        let ids = statement.query_map([&self.target], |row| Ok(Uuid::from_bytes(row.get(0)?)))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }

    /// Forgets what was published of these documents, so that they count as pending.
    ///
    /// # Errors
    /// The library cannot be written.
    pub fn forget(&mut self, ids: &[Uuid]) -> Result<(), PublishError> {
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for id in ids {
            transaction
                .prepare_cached("UPDATE publications SET state = 'staged' WHERE target = ?1 AND doc_id = ?2")?
                .execute(params![self.target, id.as_bytes()])?;
        }
        Ok(transaction.commit()?)
    }

    /// Takes these documents as being in the collection, where they were just read from, each whole and alone.
    ///
    /// # Errors
    /// The library cannot be written.
    pub fn adopt(&mut self, ids: &[Uuid]) -> Result<(), PublishError> {
        self.mark_all(ids, "cleaned")
    }

    /// Takes these documents over from the collection, where there is more of them, so that they count as pending.
    ///
    /// # Errors
    /// The library cannot be written.
    pub fn claim(&mut self, ids: &[Uuid]) -> Result<(), PublishError> {
        self.mark_all(ids, "staged")
    }

    fn mark_all(&mut self, ids: &[Uuid], state: &'static str) -> Result<(), PublishError> {
        let mut rest = ids;
        while !rest.is_empty() {
            let group = self.group(rest)?;
            rest = &rest[group.taken..];
            self.mark(&group.documents, state)?;
        }
        Ok(())
    }

    /// Brings the collection to what the library has of these documents.
    ///
    /// # Errors
    /// The server is away for too long, or does not keep what it confirmed; the collection has a document from another
    /// file; the library cannot be read or written. What was cleaned before stays so.
    pub fn publish(&mut self, ids: &[Uuid]) -> Result<Published, PublishError> {
        let mut done = Published::default();
        let mut rest = ids;
        while !rest.is_empty() {
            self.collection.check_stop("publishing")?;
            let group = self.group(rest)?;
            rest = &rest[group.taken..];
            done += self.publish_group(&group)?;
        }
        Ok(done)
    }

    /// The connection, for what else is asked of the collection.
    #[must_use]
    pub fn collection(&self) -> &Collection {
        &self.collection
    }

    /// What the collection is like.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    fn group(&self, ids: &[Uuid]) -> Result<Group, PublishError> {
        let mut group = Group::default();
        let mut points = 0;
        let mut facts = self.db.prepare_cached(
            "SELECT payload_check,
                (SELECT count(*) FROM chunks c WHERE c.document_id = d.document_id)
                + (SELECT count(*) FROM sections s WHERE s.document_id = d.document_id),
                rtrim(r.path, '/') || '/' || d.relative_path
            FROM documents d JOIN roots r USING (root_id) WHERE doc_id = ?1",
        )?;
        let mut row_of =
            self.db.prepare_cached("SELECT 1 FROM publications WHERE target = ?1 AND doc_id = ?2")?;
        for id in ids.iter().take(GROUP_DOCUMENTS) {
            let is_known = row_of.exists(params![self.target, id.as_bytes()])?;
            let mut rows = facts.query([id.as_bytes()])?;
            match rows.next()? {
                Some(row) => {
                    let (payload_check, file_path) = (row.get(0)?, row.get(2)?);
                    let document =
                        Staged { doc_id: *id, payload_check, points: row.get(1)?, file_path, is_known };
                    points += document.points;
                    group.documents.push(document);
                }
                None if is_known => group.gone.push(*id),
                // Nothing of it was ever sent from here: what the collection has of it is another's.
                None => {}
            }
            group.taken += 1;
            if points >= GROUP_POINTS {
                break;
            }
        }
        Ok(group)
    }

    fn publish_group(&mut self, group: &Group) -> Result<Published, PublishError> {
        let mut done = Published::default();
        if !group.documents.is_empty() {
            self.refuse_others(&group.documents)?;
            self.mark(&group.documents, "staged")?;
            let kept = self.send_until_counted(group)?;
            self.mark(&group.documents, "committed")?;
            let ids: Vec<Uuid> = group.documents.iter().map(|document| document.doc_id).collect();
            self.collection.delete(&documents_except(&ids, &kept))?;
            step("swept");
            self.mark(&group.documents, "cleaned")?;
            done.documents = ids.len() as u64;
            done.points = kept.len() as u64;
        }
        if !group.gone.is_empty() {
            self.collection.delete(&documents_except(&group.gone, &[]))?;
            step("removed");
            self.unmark(&group.gone)?;
            done.removed = group.gone.len() as u64;
        }
        Ok(done)
    }

    /// A file of the same relative path below another root has the same document: theirs would be swept by ours.
    fn refuse_others(&self, documents: &[Staged]) -> Result<(), PublishError> {
        let new: HashMap<Uuid, &Staged> = documents
            .iter()
            .filter(|document| !document.is_known)
            .map(|document| (document.doc_id, document))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = new.keys().copied().collect();
        let mut other = None;
        catalogue::for_each_origin(&self.collection, Some(&ids), |origin| {
            let ours = new.get(&origin.doc_id).map(|document| &document.file_path);
            if let Some(ours) = ours.filter(|ours| **ours != origin.file_path && origin.is_of_a_file()) {
                other.get_or_insert((ours.clone(), origin.file_path));
            }
        })?;
        match other {
            None => Ok(()),
            Some((ours, theirs)) => {
                Err(PublishError::OtherFile { address: self.collection.address().clone(), ours, theirs })
            }
        }
    }

    /// Sends a group's points, and again while the server does not count all of them. Their ids.
    fn send_until_counted(&self, group: &Group) -> Result<Vec<Uuid>, PublishError> {
        let (mut expected, mut counted) = (0, 0);
        for tries in 0..VERIFY_TRIES {
            std::thread::sleep(VERIFY_PAUSE * tries);
            let sent = self.send(group)?;
            step("upserted");
            expected = sent.len() as u64;
            counted = self.collection.count(Some(&points_with(&sent)))?;
            if counted == expected {
                step("verified");
                return Ok(sent);
            }
        }
        Err(PublishError::Uncounted { address: self.collection.address().clone(), expected, counted })
    }

    /// In one snapshot of the library: the writer may replace a document after it was staged. Then the new one is sent
    /// now, and again when the writer hands it on, for it is not the one that is marked. What is damaged is not sent
    /// over what may be good there.
    fn send(&self, group: &Group) -> Result<Vec<Uuid>, PublishError> {
        let snapshot = self.db.unchecked_transaction()?;
        let fingerprint = self.settings.fingerprint();
        let mut batch = Batch { publisher: self, points: Vec::new(), bytes: 0, sent: Vec::new() };
        for document in &group.documents {
            if let Some(what) = check::whole_fault(&snapshot, &document.doc_id, &fingerprint)? {
                return Err(PublishError::Damaged { what });
            }
            points::for_each_point(&snapshot, &self.settings, &document.doc_id, |point| batch.add(point))?;
        }
        batch.flush()?;
        Ok(batch.sent)
    }

    fn mark(&mut self, documents: &[Staged], state: &'static str) -> Result<(), PublishError> {
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for document in documents {
            transaction
                .prepare_cached(
                    "INSERT INTO publications (target, doc_id, payload_check, points, state, updated_ms)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                    ON CONFLICT (target, doc_id) DO UPDATE SET payload_check = excluded.payload_check,
                        points = excluded.points, state = excluded.state, updated_ms = excluded.updated_ms",
                )?
                .execute(params![
                    self.target,
                    document.doc_id.as_bytes(),
                    document.payload_check,
                    document.points,
                    state,
                    now_ms(),
                ])?;
        }
        transaction.commit()?;
        step(state);
        Ok(())
    }

    fn unmark(&mut self, ids: &[Uuid]) -> Result<(), PublishError> {
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for id in ids {
            transaction
                .prepare_cached("DELETE FROM publications WHERE target = ?1 AND doc_id = ?2")?
                .execute(params![self.target, id.as_bytes()])?;
        }
        Ok(transaction.commit()?)
    }
}

/// What a log says of the way of a group; tests kill there.
fn step(step: &'static str) {
    debug!(stage = "publish", step, "step");
}

/// Documents whose steps are taken together.
#[derive(Default)]
struct Group {
    documents: Vec<Staged>,
    /// Documents that the library has no more.
    gone: Vec<Uuid>,
    /// Ids that the group is made of.
    taken: usize,
}

struct Staged {
    doc_id: Uuid,
    payload_check: i64,
    points: u64,
    /// Where its file is.
    file_path: String,
    /// The library has published it before, or taken it over.
    is_known: bool,
}

/// Points on their way, cut into calls.
struct Batch<'a> {
    publisher: &'a Publisher,
    points: Vec<Point>,
    bytes: usize,
    sent: Vec<Uuid>,
}

impl Batch<'_> {
    fn add(&mut self, point: Point) -> Result<(), PublishError> {
        let texts: usize = point.payload.values().map(|value| value.as_str().map_or(0, str::len)).sum();
        self.bytes += point.dense.len() * size_of::<f32>() + 2 * texts;
        self.points.push(point);
        if self.points.len() >= CALL_POINTS || self.bytes >= CALL_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), PublishError> {
        if self.points.is_empty() {
            return Ok(());
        }
        let Publisher { terms, state, collection, .. } = self.publisher;
        let bm25 = terms.of_points(&self.points)?;
        let points: Vec<PointStruct> =
            self.points.iter().zip(bm25).map(|(point, bm25)| convert_point(point, bm25, state)).collect();
        collection.upsert(&points)?;
        debug!(stage = "publish", step = "batch", points = points.len(), "step");
        self.sent.extend(self.points.drain(..).map(|point| point.id));
        self.bytes = 0;
        Ok(())
    }
}

/// Why documents are not in the collection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// What is published is written down in the library.
    #[error("the library is open for reading only")]
    ReadOnly,
    /// The server did not do what was asked.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A document that the collection has from another file, and this library never published.
    #[error("{address}: {theirs} is in it, which has the same path below its own root as {ours}")]
    OtherFile {
        /// Where.
        address: Address,
        /// The file of this library.
        ours: String,
        /// The file whose document is there.
        theirs: String,
    },
    /// The server confirmed points and does not count them.
    #[error("{address}: {expected} points were confirmed, and the server counts {counted} of them")]
    Uncounted {
        /// Where.
        address: Address,
        /// Points that were sent.
        expected: u64,
        /// Points that are there.
        counted: u64,
    },
    /// A document of the library is damaged.
    #[error("{what}; nothing of it was sent")]
    Damaged {
        /// Which, and what is wrong.
        what: String,
    },
    /// The library cannot be opened a second time.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The library cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The library cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The library cannot be read or written.
    #[error("the library, while it was published: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl PublishError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Server(error) => error.hint(),
            Self::Open(error) => error.hint(),
            Self::OtherFile { .. } => Some(
                "give one of the two folders a --collection of its own (`haul store delete --doc` takes a document out \
                 of a library); if both are one folder, `haul store sync` takes over what is there",
            ),
            Self::Uncounted { .. } => {
                Some("look at the server's log and disk, then run the same command again")
            }
            Self::Read(error) => error.hint(),
            Self::Write(error) => error.hint(),
            Self::Damaged { .. } => Some(
                "`haul store verify` lists what is damaged; restore a backup, or ingest again into a new library",
            ),
            Self::ReadOnly | Self::Sqlite(_) => None,
        }
    }
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
