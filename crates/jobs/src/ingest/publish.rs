//! The publish stage: what the library has taken in goes to a server, in the order of the commits.
//!
//! The library on this machine is the outbox. What an earlier run committed and did not publish goes first, so a run
//! that finds nothing new still ends with a server that has everything. While the server is slow or away the channel
//! fills, the writer waits, and with it everything before it: nothing piles up in memory.

use crossbeam_channel::Receiver;
use haul_pipeline::stage::Meter;
use haul_store::publish::{PublishError, Published, Publisher};
use haul_store::qdrant::ServerError;
use uuid::Uuid;

use super::{IngestError, Shared};

/// Commits that are not published yet.
pub(crate) const UNPUBLISHED_MAX: usize = 8;

/// Publishes until the writer is gone.
pub(crate) fn run(
    meter: &mut Meter,
    shared: &Shared<'_>,
    publisher: &mut Publisher,
    committed: &Receiver<Vec<Uuid>>,
) -> Result<Published, IngestError> {
    let mut done = Published::default();
    let mut ids = pending(shared, publisher)?;
    loop {
        match publisher.publish(&ids) {
            Ok(published) => {
                meter.finished(published.documents + published.removed);
                done += published;
            }
            // A stop ends the wait for a server; what is left is the next run's.
            Err(PublishError::Server(ServerError::Stopped { .. })) => break,
            Err(error) => return Err(error.into()),
        }
        match meter.starved(|| committed.recv()) {
            Ok(next) if !shared.stop.requested() => ids = next,
            _ => break,
        }
    }
    Ok(done)
}

/// What was removed, and whatever else is still to be done.
pub(crate) fn finish(shared: &Shared<'_>, publisher: &mut Publisher) -> Result<Published, IngestError> {
    let pending = pending(shared, publisher)?;
    Ok(publisher.publish(&pending)?)
}

/// Of a shard, its own documents: a manifest that was made from the server has those of all.
fn pending(shared: &Shared<'_>, publisher: &Publisher) -> Result<Vec<Uuid>, IngestError> {
    let mut ids = publisher.pending()?;
    ids.retain(|id| shared.settings.shard.is_none_or(|shard| shard.has(id)));
    Ok(ids)
}
