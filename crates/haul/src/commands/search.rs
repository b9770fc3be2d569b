//! `haul search`: a question to a library.

use haul_jobs::search::{Model, Question, Searcher};
use haul_store::library::Library;
use haul_store::search::{Filters, Mode};
use serde_json::json;
use std::num::NonZeroUsize;
use std::path::Path;

use crate::Exit;
use crate::cli::{DeviceArgs, FilterArgs, ModeArg, SearchArgs};
use crate::commands::{Machine, dense_of, dtype_of, model_of};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::summary;

/// Runs the command.
pub(crate) fn run(args: &SearchArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let store = settings.store(&args.store)?;
    let mode = mode(args.mode);
    let searcher = open(&store, mode, &args.compute, settings, output)?;
    let question = Question {
        mode,
        filters: filters(&args.filters),
        limit: args.limit as usize,
        context: args.context as usize,
    };
    let answer = searcher.search(&args.query, &question)?;
    if answer.truncated_tokens > 0 {
        output
            .note(&format!("the question is too long: its last {} tokens were cut", answer.truncated_tokens));
    }
    if answer.outcome.unranked_terms > 0 {
        output.note(&format!(
            "the question is too long: its last {} words were not ranked",
            answer.outcome.unranked_terms
        ));
    }
    if output.json() {
        output.json_document(&json!({
            "query": args.query,
            "mode": mode,
            "scan_ms": answer.outcome.scan_ms,
            "vectors": answer.outcome.vectors,
            "truncated_tokens": answer.truncated_tokens,
            "unranked_terms": answer.outcome.unranked_terms,
            "hits": answer.outcome.hits,
        }))?;
    } else {
        output.data(&summary::hits(&answer.outcome.hits))?;
    }
    Ok(Exit::Ok)
}

/// Opens the library, and its model unless words alone are ranked.
pub(crate) fn open(
    store: &Path,
    mode: Mode,
    device: &DeviceArgs,
    settings: &Settings,
    output: &Output,
) -> Result<Searcher, Failure> {
    let library = Library::open_read_only(store)?;
    let cores = settings.cpu().cores;
    let model = match mode {
        Mode::Bm25 => None,
        Mode::Dense | Mode::Hybrid => {
            let machine = Machine::resolve(settings.device(device)?, settings, output)?;
            let (dir, _) = model_of(library.settings(), settings)?;
            let options = dense_of(library.settings().dim);
            let embedder = machine.load(&dir, &options, dtype_of(library.settings())?, NonZeroUsize::MIN)?;
            Some(Model { dir, embedder })
        }
    };
    Ok(Searcher::new(library, model, cores))
}

pub(crate) fn mode(mode: ModeArg) -> Mode {
    match mode {
        ModeArg::Hybrid => Mode::Hybrid,
        ModeArg::Dense => Mode::Dense,
        ModeArg::Bm25 => Mode::Bm25,
    }
}

fn filters(args: &FilterArgs) -> Filters {
    Filters {
        tag: args.tag.clone(),
        series: args.series.clone(),
        author: args.author.clone(),
        title: args.title.clone(),
        language: args.language.clone(),
        format: args.format.clone(),
    }
}
