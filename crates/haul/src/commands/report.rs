//! `haul report`: a library and its runs as a page, as Markdown and as JSON.

use std::path::Path;

use haul_store::library::Library;

use crate::Exit;
use crate::cli::ReportArgs;
use crate::failure::Failure;
use crate::output::Output;
use crate::report::{self, Report};
use crate::settings::Settings;

/// Runs the command.
pub(crate) fn run(args: &ReportArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let store = settings.store(&args.store)?;
    let library = Library::open_read_only(&store)?;
    let report = Report::of(&library, &store)?;
    std::fs::create_dir_all(&args.out).map_err(|error| Failure::io("create", &args.out, &error))?;
    let json = serde_json::to_string_pretty(&report)
        .map_err(|error| Failure::new(format!("cannot encode the report as JSON: {error}")))?;
    write(&args.out.join("report.json"), &json)?;
    write(&args.out.join("report.md"), &report::markdown::document(&report))?;
    let page = args.out.join("report.html");
    write(&page, &report::html::page(&report))?;
    if output.json() {
        output.json_document(&report)?;
    } else {
        output.data(&format!("{}\n", page.display()))?;
    }
    Ok(Exit::Ok)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::io("write", path, &error))
}
