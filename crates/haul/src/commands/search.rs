//! `haul search`: a question to a library.

use haul_encoder::model::Head;
use haul_jobs::search::{Model, Question, Searcher, Server, Source};
use haul_store::library::Library;
use haul_store::search::{Filters, Mode, Parents};
use serde_json::json;
use std::num::NonZeroUsize;

use crate::Exit;
use crate::cli::search::{FilterArgs, ModeArg, RerankArg, SearchArgs};
use crate::cli::{DeviceArgs, StoreArg};
use crate::commands::{Machine, dtype_of, model_of, outputs_of, server};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Place, Settings};
use crate::summary;

/// Runs the command.
pub(crate) fn run(args: &SearchArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let mode = mode(args.mode);
    let searcher = open(&args.store, (mode, args.rerank), &args.compute, settings, output)?;
    let question = Question {
        mode,
        filters: filters(&args.filters),
        limit: args.limit as usize,
        context: args.context as usize,
        parents: if args.parent { Parents::With } else { Parents::Without },
        min_score: args.min_score,
    };
    let answer = match args.rerank {
        None => searcher.search(&args.query, &question)?,
        Some(RerankArg::Colbert) => searcher.search_reranked(&args.query, &question)?,
    };
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
            "rerank": args.rerank.map(|RerankArg::Colbert| Head::Colbert.name()),
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

/// Opens what is searched, and its model, with the heads that are needed, unless words alone are ranked.
pub(crate) fn open(
    store: &StoreArg,
    (mode, rerank): (Mode, Option<RerankArg>),
    device: &DeviceArgs,
    settings: &Settings,
    output: &Output,
) -> Result<Searcher, Failure> {
    let source = source(store, settings)?;
    let cores = settings.cpu().cores;
    let model = if mode == Mode::Bm25 && rerank.is_none() {
        None
    } else {
        let machine = Machine::resolve(settings.device(device)?, settings, output)?;
        let (dir, _) = model_of(source.settings(), settings)?;
        let mut options = outputs_of(source.settings());
        options.heads.retain(|_| mode.is_sparse());
        options.heads.extend(rerank.map(|RerankArg::Colbert| Head::Colbert));
        let embedder = machine.load(&dir, &options, dtype_of(source.settings())?, NonZeroUsize::MIN)?;
        Some(Model { dir, embedder })
    };
    Ok(Searcher::new(source, model, cores))
}

fn source(store: &StoreArg, settings: &Settings) -> Result<Source, Failure> {
    let (address, manifest) = match settings.place(store)? {
        Place::Library(path) => return Ok(Source::Library(Box::new(Library::open_read_only(&path)?))),
        Place::Server { address, manifest } => (address, manifest),
    };
    let (collection, state) = server::existing(&address, store)?;
    let settings = match &state.settings {
        Some(settings) => settings.clone(),
        // A collection that another program made: what it was filled from says with which model.
        None if manifest.exists() => Library::open_read_only(&manifest)?.settings().clone(),
        None => server::ours(&collection)?.1,
    };
    Ok(Source::Server(Box::new(Server { collection, state, settings })))
}

pub(crate) fn mode(mode: ModeArg) -> Mode {
    match mode {
        ModeArg::Hybrid => Mode::Hybrid,
        ModeArg::Dense => Mode::Dense,
        ModeArg::Bm25 => Mode::Bm25,
        ModeArg::Sparse => Mode::Sparse,
    }
}

/// As typed.
pub(crate) fn filters(args: &FilterArgs) -> Filters {
    Filters {
        tag: args.tag.clone(),
        series: args.series.clone(),
        author: args.author.clone(),
        title: args.title.clone(),
        language: args.language.clone(),
        format: args.format.clone(),
        doc_ids: args.doc.clone(),
    }
}
