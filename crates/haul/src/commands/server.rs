//! What the commands share that speak with a Qdrant server.

use haul_pipeline::stage;
use haul_store::library::LibrarySettings;
use haul_store::qdrant::{Address, Collection, State, Stop};

use crate::cli::StoreArg;
use crate::failure::Failure;

/// Connects with the key that was given, if any.
pub(crate) fn connect(address: &Address, store: &StoreArg, stop: Stop) -> Result<Collection, Failure> {
    let key = store.qdrant_api_key.as_deref().filter(|key| !key.is_empty());
    if key.is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Failure::new("HAUL_QDRANT_API_KEY holds characters that no key has")
            .hint("look for a line break or a blank at its end"));
    }
    Ok(Collection::connect(address, key, stop)?)
}

/// Nothing but its end ends a short command.
pub(crate) fn never() -> Stop {
    Box::new(|| false)
}

/// A signal ends the wait for a server.
pub(crate) fn on(stop: &stage::Stop) -> Stop {
    let stop = stop.clone();
    Box::new(move || stop.requested())
}

/// A collection that must be there, for a short command.
pub(crate) fn existing(address: &Address, store: &StoreArg) -> Result<(Collection, State), Failure> {
    let collection = connect(address, store, never())?;
    let state = collection.state()?.ok_or_else(|| collection.absent())?;
    Ok((collection, state))
}

/// A collection that this program made, with what its points were made with.
pub(crate) fn ours(collection: &Collection) -> Result<(State, LibrarySettings), Failure> {
    let state = collection.state()?.ok_or_else(|| collection.absent())?;
    let settings = state.settings.clone().ok_or_else(|| {
        Failure::new(format!("{}: its metadata do not say which model made its points", collection.address()))
            .hint("`haul ingest --store` or `haul store push --to` makes collections that say it")
    })?;
    Ok((state, settings))
}
