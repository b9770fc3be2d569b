//! `haul store`: what is in a library, and whether it is whole.

use haul_store::library::Library;

use crate::Exit;
use crate::cli::StoreCommand;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::summary;

/// Runs the command.
pub(crate) fn run(command: &StoreCommand, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    match command {
        StoreCommand::Info(store) => {
            let library = Library::open_read_only(&settings.store(store)?)?;
            let info = library.info()?;
            if output.json() {
                output.json_document(&info)?;
            } else {
                output.data(&summary::info(&info, library.path()))?;
            }
            Ok(Exit::Ok)
        }
        StoreCommand::Verify(store) => {
            let library = Library::open_read_only(&settings.store(store)?)?;
            let report = library.verify()?;
            if output.json() {
                output.json_document(&report)?;
            } else {
                output.data(&summary::verification(&report))?;
            }
            Ok(if report.findings.is_empty() { Exit::Ok } else { Exit::SomeNotOk })
        }
    }
}
