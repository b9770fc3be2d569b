//! `haul store merge`: libraries of shards into one.

use haul_store::library::Library;
use serde_json::json;

use crate::Exit;
use crate::cli::store::MergeArgs;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::summary::catalogue;

/// Runs the command.
pub(super) fn run(args: &MergeArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let store = settings.store(&args.store)?;
    let taken = Library::merge(&store, &args.inputs)?;
    if output.json() {
        output.json_document(&json!({"store": store.display().to_string(), "taken": taken}))?;
    } else {
        output.data(&catalogue::merged(&taken, &store))?;
    }
    Ok(Exit::Ok)
}
