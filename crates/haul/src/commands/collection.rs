//! `haul store` for a collection of a Qdrant server.

use std::path::Path;

use haul_store::library::{Library, VectorName};
use haul_store::publish::Publisher;
use haul_store::qdrant::catalogue::{self, Restored};
use haul_store::qdrant::{Address, Collection, Names, State};
use serde::Serialize;
use uuid::Uuid;

use crate::cli::StoreArg;
use crate::cli::store::{AliasArgs, CopyArgs, PushArgs};
use crate::commands::server;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Place, Settings};
use crate::{Exit, signals_unix, summary};

/// Documents that `sync` puts into the manifest in one transaction.
const DOCUMENTS_PER_COMMIT: usize = 64;

/// Counts, settings and the digest, from the points themselves.
pub(crate) fn info(address: &Address, store: &StoreArg, output: &Output) -> Result<Exit, Failure> {
    let (collection, state) = server::existing(address, store)?;
    let info = catalogue::info(&collection, &state)?;
    if output.json() {
        output.json_document(&info)?;
    } else {
        output.data(&summary::collection(&info))?;
    }
    Ok(Exit::Ok)
}

/// Examines the points, and where there is a manifest, whether they are those it says.
pub(crate) fn verify(
    address: &Address,
    manifest: &Path,
    store: &StoreArg,
    output: &Output,
) -> Result<Exit, Failure> {
    let (collection, state) = server::existing(address, store)?;
    let mut report = catalogue::verify(&collection, &state)?;
    if manifest.exists() {
        let library = Library::open_read_only(manifest)?;
        let differing = catalogue::differing(&library, &collection, &state)?;
        report.differs_from_manifest(&differing);
    }
    if output.json() {
        output.json_document(&report)?;
    } else {
        output.data(&summary::verification(&report))?;
    }
    Ok(if report.findings.is_empty() { Exit::Ok } else { Exit::SomeNotOk })
}

/// What was pushed, and whether the server has it.
#[derive(Serialize)]
struct Pushed {
    documents: u64,
    points: u64,
    removed: u64,
    /// Documents that were sent again because the server did not have them as they were sent.
    mended: u64,
    digest: String,
}

/// From a library to a collection: what is missing there, then every point compared.
pub(crate) fn push(args: &PushArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let stop = signals_unix::stop_on_signals()?;
    let library = Library::open(&settings.store(&args.store)?)?;
    let collection = server::connect(&args.to, &args.store, server::on(&stop))?;
    let mut publisher = Publisher::new(&library, collection)?;
    let pending = publisher.pending()?;
    output.note(&format!("{} documents to push to {}", pending.len(), args.to));
    let mut done = publisher.publish(&pending)?;
    let wrong = catalogue::differing(&library, publisher.collection(), publisher.state())?;
    if !wrong.is_empty() {
        output.note(&format!("{} documents are not as they were sent, and are sent again", wrong.len()));
        publisher.forget(&wrong)?;
        done += publisher.publish(&wrong)?;
        if let Some(first) =
            catalogue::differing(&library, publisher.collection(), publisher.state())?.first()
        {
            return Err(Failure::new(format!("{}: document {first} is not as it was sent", args.to))
                .hint("`haul store verify` says what the server has of it"));
        }
    }
    let pushed = Pushed {
        documents: done.documents,
        points: done.points,
        removed: done.removed,
        mended: wrong.len() as u64,
        digest: library.digest()?,
    };
    if output.json() {
        output.json_document(&pushed)?;
    } else {
        output.data(&summary::pushed(done, &args.to, &pushed.digest))?;
    }
    Ok(Exit::Ok)
}

/// The manifest again, from the server alone.
pub(crate) fn sync(
    address: &Address,
    manifest: &Path,
    store: &StoreArg,
    output: &Output,
) -> Result<Exit, Failure> {
    let stop = signals_unix::stop_on_signals()?;
    let collection = server::connect(address, store, server::on(&stop))?;
    let (state, settings) = server::ours(&collection)?;
    make_folder(manifest)?;
    let mut library =
        if manifest.exists() { Library::open(manifest)? } else { Library::create(manifest, &settings)? };
    let differences = library.settings().differences(&settings);
    if let Some(difference) = differences.first() {
        return Err(Failure::new(format!(
            "{}: its {} is {}, the collection's {}",
            manifest.display(),
            difference.name,
            difference.stored,
            difference.asked
        ))
        .hint("--manifest names another file"));
    }
    let Synced { documents, alone, unfinished, not_whole } = take_over(&collection, &state, &mut library)?;
    let mut publisher = Publisher::new(&library, collection)?;
    publisher.adopt(&alone)?;
    publisher.claim(&unfinished)?;
    for doc_id in not_whole.iter().take(NAMED_MAX) {
        output.note(&format!("document {doc_id} is not whole on the server, and not in the manifest"));
    }
    if output.json() {
        output.json_document(&serde_json::json!({
            "documents": documents,
            "not_whole": not_whole,
            "manifest": manifest.display().to_string(),
            "digest": library.digest()?,
        }))?;
    } else {
        output.data(&format!("{documents} documents of {address} in {}\n", manifest.display()))?;
    }
    Ok(if not_whole.is_empty() { Exit::Ok } else { Exit::SomeNotOk })
}

/// Documents that a note names.
const NAMED_MAX: usize = 10;

/// What became of a collection's documents.
struct Synced {
    documents: u64,
    /// Of which the collection has nothing else: those need not be sent.
    alone: Vec<Uuid>,
    /// Of which there are points of another revision too.
    unfinished: Vec<Uuid>,
    not_whole: Vec<Uuid>,
}

fn take_over(collection: &Collection, state: &State, library: &mut Library) -> Result<Synced, Failure> {
    let (mut records, mut alone, mut unfinished) = (Vec::new(), Vec::new(), Vec::new());
    let settings = library.settings().clone();
    let not_whole = catalogue::for_each_document(collection, state, &settings, |restored| {
        let Restored { record, rows, sparse, is_alone } = restored;
        if settings.sparse {
            // Before the dense rows: a text whose dense row is known is never computed again.
            let weights: Vec<_> = sparse.iter().map(|(key, weights)| (*key, weights.as_slice())).collect();
            library.put_sparse(&weights)?;
        }
        let rows: Vec<_> = rows.iter().map(|(key, row)| (*key, row.as_slice())).collect();
        library.put_vectors(VectorName::Dense, &rows)?;
        if is_alone { &mut alone } else { &mut unfinished }.push(record.doc_id);
        records.push(record);
        if records.len() >= DOCUMENTS_PER_COMMIT {
            library.commit_documents(&records)?;
            records.clear();
        }
        Ok(())
    })?;
    library.commit_documents(&records)?;
    let documents = (alone.len() + unfinished.len()) as u64;
    Ok(Synced { documents, alone, unfinished, not_whole })
}

/// Collections and aliases of the server.
pub(crate) fn list(address: &Address, store: &StoreArg, output: &Output) -> Result<Exit, Failure> {
    let Names { collections, aliases } = server::connect(address, store, server::never())?.list()?;
    if output.json() {
        let aliases: Vec<_> =
            aliases.iter().map(|(name, of)| serde_json::json!({ "alias": name, "collection": of })).collect();
        output.json_document(&serde_json::json!({ "collections": collections, "aliases": aliases }))?;
    } else {
        let aliases = aliases.into_iter().map(|(name, of)| format!("{name} -> {of}\n"));
        output.data(
            &collections.into_iter().map(|name| format!("{name}\n")).chain(aliases).collect::<String>(),
        )?;
    }
    Ok(Exit::Ok)
}

/// All points of a collection under another name.
pub(crate) fn copy(args: &CopyArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let address = of_server(&args.store, settings)?;
    let stop = signals_unix::stop_on_signals()?;
    let from = server::connect(&address, &args.store, server::on(&stop))?;
    let (state, made_with) = server::ours(&from)?;
    let to = from.sibling(&args.to, server::on(&stop))?;
    let points = catalogue::copy(&from, &state, &made_with, &to)?;
    if output.json() {
        output.json_document(&serde_json::json!({ "points": points, "to": to.address().to_string() }))?;
    } else {
        output.data(&format!("{points} points in {}\n", to.address()))?;
    }
    Ok(Exit::Ok)
}

/// Another name for a collection.
pub(crate) fn alias(args: &AliasArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let address = of_server(&args.store, settings)?;
    let (collection, _) = server::existing(&address, &args.store)?;
    collection.set_alias(&args.name)?;
    if output.json() {
        output
            .json_document(&serde_json::json!({ "alias": args.name, "collection": address.collection() }))?;
    } else {
        output.data(&format!("{} -> {}\n", args.name, address.collection()))?;
    }
    Ok(Exit::Ok)
}

/// The address, where a command is about servers alone.
pub(crate) fn of_server(store: &StoreArg, settings: &Settings) -> Result<Address, Failure> {
    match settings.place(store)? {
        Place::Server { address, .. } => Ok(address),
        Place::Library(path) => {
            Err(Failure::new(format!("{}: not a collection of a server", path.display()))
                .hint("--store takes qdrant://HOST:6334/COLLECTION here"))
        }
    }
}

/// The folder a manifest stands in.
pub(crate) fn make_folder(manifest: &Path) -> Result<(), Failure> {
    match manifest.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => {
            std::fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))
        }
        _ => Ok(()),
    }
}
