//! `haul eval`: search quality against judgments.

use std::path::Path;

use haul_jobs::search::Question;
use haul_jobs::search::evaluate::{Judgments, Query, evaluate, parse_golden, parse_judgments, parse_queries};
use haul_store::search::{Filters, Parents};

use crate::Exit;
use crate::cli::search::EvalArgs;
use crate::commands::search;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::summary;

/// Runs the command.
pub(crate) fn run(args: &EvalArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let (queries, judgments) = questions(args)?;
    let mode = search::mode(args.mode);
    let searcher = search::open(&args.store, (mode, None), &args.compute, settings, output)?;
    let question = Question {
        mode,
        filters: Filters::default(),
        limit: 0,
        context: 0,
        parents: Parents::Without,
        min_score: None,
    };
    let evaluation = evaluate(&searcher, &queries, &judgments, &question, args.k as usize)?;
    if evaluation.all.queries == 0 {
        return Err(Failure::new("no query has a relevant document in the judgments").hint(
            match &args.golden {
                Some(_) => {
                    "each line of a golden file is {\"id\", \"text\", \"relevant\": [\"title or path\"]}"
                }
                None => "the first column of the judgments names the queries' ids",
            },
        ));
    }
    if output.json() {
        output.json_document(&evaluation)?;
    } else {
        output.data(&summary::evaluation(&evaluation))?;
    }
    Ok(Exit::Ok)
}

/// Of one file, or of two.
fn questions(args: &EvalArgs) -> Result<(Vec<Query>, Judgments), Failure> {
    if let Some(golden) = &args.golden {
        return Ok(parse_golden(golden, &read(golden)?)?);
    }
    let (Some(queries), Some(judgments)) = (&args.queries, &args.judgments) else {
        return Err(Failure::new("eval needs --golden, or --queries and --judgments"));
    };
    Ok((parse_queries(queries, &read(queries)?)?, parse_judgments(judgments, &read(judgments)?)?))
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
    // Editors of Windows put a byte order mark before the text.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
