//! `haul store`: what is in a library, whether it is whole, and what is taken out or brought together.

mod documents;
mod merge;

use haul_corpus::calibre;
use haul_jobs::ingest::mismatched::mismatches;
use haul_store::library::Library;

use crate::Exit;
use crate::cli::store::{MismatchedArgs, StoreCommand};
use crate::commands::collection;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Place, Settings};
use crate::summary;

/// Runs the command.
pub(crate) fn run(command: &StoreCommand, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    match command {
        StoreCommand::Info(store) => {
            let library = match settings.place(store)? {
                Place::Server { address, .. } => return collection::info(&address, store, output),
                Place::Library(path) => Library::open_read_only(&path)?,
            };
            let info = library.info()?;
            if output.json() {
                output.json_document(&info)?;
            } else {
                output.data(&summary::info(&info, library.path()))?;
            }
            Ok(Exit::Ok)
        }
        StoreCommand::Verify(store) => {
            let library = match settings.place(store)? {
                Place::Server { address, manifest } => {
                    return collection::verify(&address, &manifest, store, output);
                }
                Place::Library(path) => Library::open_read_only(&path)?,
            };
            let report = library.verify()?;
            if output.json() {
                output.json_document(&report)?;
            } else {
                output.data(&summary::verification(&report))?;
            }
            Ok(if report.findings.is_empty() { Exit::Ok } else { Exit::SomeNotOk })
        }
        StoreCommand::Push(args) => collection::push(args, settings, output),
        StoreCommand::Sync(store) => match settings.place(store)? {
            Place::Server { address, manifest } => collection::sync(&address, &manifest, store, output),
            Place::Library(_) => collection::of_server(store, settings).map(|_| Exit::Ok),
        },
        StoreCommand::Collections(store) => {
            collection::list(&collection::of_server(store, settings)?, store, output)
        }
        StoreCommand::Copy(args) => collection::copy(args, settings, output),
        StoreCommand::Alias(args) => collection::alias(args, settings, output),
        StoreCommand::List(args) => documents::list(args, settings, output),
        StoreCommand::Delete(args) => documents::delete(args, settings, output),
        StoreCommand::Merge(args) => merge::run(args, settings, output),
        StoreCommand::Mismatched(args) => mismatched(args, settings, output),
    }
}

fn mismatched(args: &MismatchedArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let store = settings.store(&args.store)?;
    let library = Library::open_read_only(&store)?;
    let folder = args.calibre.canonicalize().map_err(|error| Failure::io("find", &args.calibre, &error))?;
    if !calibre::is_library(&folder) {
        return Err(Failure::new(format!("{}: there is no {} in it", folder.display(), calibre::DATABASE))
            .hint("--calibre takes the folder of a Calibre library"));
    }
    let known = calibre::read(&folder, &std::env::temp_dir())?;
    let found = mismatches(&library.catalogue()?, &known);
    if output.json() {
        output.json_document(&found)?;
    } else {
        // What a collection has is changed by an ingest into it.
        let filled = match settings.place(&args.store)? {
            Place::Library(path) => path.display().to_string(),
            Place::Server { address, .. } => address.to_string(),
        };
        output.data(&summary::mismatches(&found, &filled))?;
    }
    Ok(if found.mismatched.is_empty() && found.gone.is_empty() { Exit::Ok } else { Exit::SomeNotOk })
}
