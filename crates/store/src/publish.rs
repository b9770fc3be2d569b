//! Documents of a library into a Qdrant collection, each exactly once, whatever dies when.
//!
//! A group of documents goes through named steps. `staged`: the library says, on disk, what is about to be sent.
//! `upserted`: every point was confirmed by the server. `verified`: the server counts every one of them. `committed`:
//! the library says so. `cleaned`: no point of an older revision is left, and the library says so. New points are in
//! before old ones go out, and what is not `cleaned` is sent again: ids are made from content, so that is no second
//! copy. The library is the outbox, so nothing is computed again for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qdrant_client::qdrant::PointStruct;
use rusqlite::{Connection, TransactionBehavior, params};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::check;
use crate::library::{Access, Library, OpenError, ReadError, WriteError, second_connection};
use crate::points::{self, Point};
use crate::qdrant::{Collection, ServerError, State, convert_point, documents_except, points_with};
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
        };
        publisher.forget_what_is_lost()?;
        Ok(publisher)
    }

    /// A server that has fewer points than were published to it was set back: then everything is sent again.
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
        let mut rest = ids;
        while !rest.is_empty() {
            let group = self.group(rest)?;
            rest = &rest[group.taken..];
            self.mark(&group.documents, "cleaned")?;
        }
        Ok(())
    }

    /// Brings the collection to what the library has of these documents.
    ///
    /// # Errors
    /// The server is away for too long, or does not keep what it confirmed; the library cannot be read or written.
    /// What was cleaned before stays so.
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
                + (SELECT count(*) FROM sections s WHERE s.document_id = d.document_id)
            FROM documents d WHERE doc_id = ?1",
        )?;
        for id in ids.iter().take(GROUP_DOCUMENTS) {
            let mut rows = facts.query([id.as_bytes()])?;
            match rows.next()? {
                None => group.gone.push(*id),
                Some(row) => {
                    let document = Staged { doc_id: *id, payload_check: row.get(0)?, points: row.get(1)? };
                    points += document.points;
                    group.documents.push(document);
                }
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
        Err(PublishError::Uncounted { target: self.target.clone(), expected, counted })
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
        let texts: Vec<&str> = self
            .points
            .iter()
            .map(|point| point.payload.get("text").and_then(serde_json::Value::as_str).unwrap_or_default())
            .collect();
        let bm25 = terms.of_documents(&texts)?;
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
    /// The server confirmed points and does not count them.
    #[error("{target}: {expected} points were confirmed, and the server counts {counted} of them")]
    Uncounted {
        /// Where.
        target: String,
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
