//! `haul model`: the models that are here.

use haul_jobs::models::{Download, HUB_URL, Hub, ModelRecord, Models, Placement};
use serde_json::json;

use crate::cli::ModelCommand;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::{Exit, signals_unix, summary};

/// Runs the command.
pub(crate) fn run(command: &ModelCommand, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let models = Models::open(&settings.models());
    match command {
        ModelCommand::Add { dir, name, link } => {
            let placement = if *link { Placement::Link } else { Placement::Copy };
            added(&models.add(dir, name.as_deref(), placement)?, output)
        }
        ModelCommand::Get { id, name, hub } => {
            let hub = Hub { url: settings.hub(hub.as_deref()).unwrap_or_else(|| HUB_URL.to_owned()) };
            let stop = signals_unix::stop_on_signals()?;
            let mut told = String::new();
            let mut progress = |download: Download<'_>| {
                if download.file != told {
                    told = download.file.to_owned();
                    output.note(&format!("{} ({})", download.file, summary::bytes(download.file_bytes)));
                }
            };
            let result = models.get(&hub, id, name.as_deref(), &|| stop.requested(), &mut progress);
            if stop.requested() && result.is_err() {
                output.note("stopped; the same command goes on from here");
                return Ok(Exit::Interrupted);
            }
            added(&result?, output)
        }
        ModelCommand::List => list(&models, output),
        ModelCommand::Check { name } => check(&models, name, output),
    }
}

fn added(record: &ModelRecord, output: &Output) -> Result<Exit, Failure> {
    if output.json() {
        output.json_document(record)?;
    } else {
        output.data(&format!("{}  sha256 {}", record.name, record.sha256))?;
    }
    Ok(Exit::Ok)
}

fn list(models: &Models, output: &Output) -> Result<Exit, Failure> {
    let listed = models.list()?;
    let damaged = listed.iter().filter(|listed| listed.record.is_err()).count();
    if output.json() {
        let rows: Vec<_> = listed
            .iter()
            .map(|listed| match &listed.record {
                Ok(record) => json!(record),
                Err(error) => json!({ "name": listed.name, "damaged": error.to_string() }),
            })
            .collect();
        output.json_document(&json!({ "models": rows }))?;
    } else {
        output.data(&summary::models(&listed))?;
    }
    Ok(if damaged == 0 { Exit::Ok } else { Exit::SomeNotOk })
}

fn check(models: &Models, name: &str, output: &Output) -> Result<Exit, Failure> {
    let report = models.check(name)?;
    if output.json() {
        output.json_document(&report)?;
    } else {
        output.data(&summary::model_check(&report))?;
    }
    Ok(if report.is_ok() { Exit::Ok } else { Exit::SomeNotOk })
}
