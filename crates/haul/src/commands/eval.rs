//! `haul eval`: search quality against judgments.

use std::path::Path;

use haul_jobs::search::Question;
use haul_jobs::search::evaluate::{evaluate, parse_judgments, parse_queries};
use haul_store::search::Filters;

use crate::Exit;
use crate::cli::EvalArgs;
use crate::commands::search;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::summary;

/// Runs the command.
pub(crate) fn run(args: &EvalArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let store = settings.store(&args.store)?;
    let queries = parse_queries(&args.queries, &read(&args.queries)?)?;
    let judgments = parse_judgments(&args.judgments, &read(&args.judgments)?)?;
    let mode = search::mode(args.mode);
    let searcher = search::open(&store, mode, &args.compute, settings, output)?;
    let question = Question { mode, filters: Filters::default(), limit: 0, context: 0 };
    let evaluation = evaluate(&searcher, &queries, &judgments, &question)?;
    if evaluation.queries == 0 {
        return Err(Failure::new("no query has a relevant document in the judgments")
            .hint("the first column of the judgments names the queries' ids"));
    }
    if output.json() {
        output.json_document(&evaluation)?;
    } else {
        output.data(&summary::evaluation(&evaluation))?;
    }
    Ok(Exit::Ok)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))
}
