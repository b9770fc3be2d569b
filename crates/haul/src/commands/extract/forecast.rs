//! `haul extract --plan`: what a run will ask, by asking some of it.

use std::time::{Duration, Instant};

use haul_jobs::extract::ExtractError;
use haul_jobs::extract::ask::{Parts, Stage, Tally};
use haul_jobs::extract::documents::Company;
use haul_jobs::extract::input::{self, Desk, Found};
use haul_jobs::extract::plan::{self, Counted, Sampled};
use haul_jobs::extract::reading::Reading;
use haul_jobs::extract::run::{self, Outcome};
use haul_pipeline::journal::Journal;

use super::{Companies, not_read};
use crate::failure::Failure;
use crate::output::Output;
use crate::{Exit, summary};

/// Companies are asked for their entities for so long: what all others have is taken from these.
const ENTITIES_TIME: Duration = Duration::from_secs(60);
/// Then some are read whole for so long, but never fewer than [`SAMPLED_MIN`] and never more than [`SAMPLED_MAX`].
const SAMPLE_TIME: Duration = Duration::from_secs(20);
const SAMPLED_MIN: usize = 3;
const SAMPLED_MAX: usize = 8;
/// Answers that are no part of the forecast, in the folder of what is unpacked.
const UNKEPT: &str = "unkept.sqlite";

/// Asks companies for their entities, reads some of them, and says what all will come to.
pub(super) fn forecast(
    companies: &Companies<'_>,
    found: &[Found],
    desk: &mut Desk,
    parts: &mut Parts<'_>,
    output: &Output,
) -> Result<Exit, Failure> {
    let mut all = read(companies, found, desk, parts, output)?;
    if all.is_empty() {
        return Err(Failure::new("nothing to forecast: no company has text to ask about"));
    }
    all.sort_by_key(|(_, counted)| counted.windows);
    ask_for_entities(companies, &mut all, parts)?;
    all.sort_by_key(|(_, counted)| (counted.entities, counted.windows));
    let mut unkept = Journal::open(&desk.scratch.join(UNKEPT))?;
    let sampled = read_whole(companies, &mut all, &mut unkept, parts)?;
    if parts.stop.requested() {
        return Ok(Exit::Interrupted);
    }
    let counted: Vec<Counted> = all.into_iter().map(|(_, counted)| counted).collect();
    let plan = plan::plan(companies.schema, companies.caps, &counted, &sampled);
    if output.json() {
        output.json_document(&plan)?;
    } else {
        output.data(&summary::extract::plan(&plan))?;
    }
    Ok(Exit::Ok)
}

/// Companies that there is something to ask about, and how large they are.
fn read(
    companies: &Companies<'_>,
    found: &[Found],
    desk: &mut Desk,
    parts: &mut Parts<'_>,
    output: &Output,
) -> Result<Vec<(Company, Counted)>, Failure> {
    let mut all = Vec::new();
    for one in found.iter().flat_map(|found| input::read_companies(desk, found.clone())) {
        for unread in one.unread.iter().map(not_read) {
            output.note(&format!("{}: {unread}", one.company));
        }
        let company = Company::new(&one.company, one.sources, companies.schema.numbering.unit);
        if company.sentences.is_empty() {
            output.note(&format!("{}: no text, and not in the forecast", company.name));
            continue;
        }
        match Reading::new(companies.schema, company.clone(), companies.window_tokens, parts.generator) {
            Ok(reading) => {
                let windows = reading.windows.len();
                all.push((company, Counted { windows, ..Counted::default() }));
            }
            Err(ExtractError::Window(error)) => {
                output.note(&format!("{}: not in the forecast: {error}", company.name));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

fn ask_for_entities(
    companies: &Companies<'_>,
    all: &mut [(Company, Counted)],
    parts: &mut Parts<'_>,
) -> Result<(), Failure> {
    let Companies { schema, caps, window_tokens, .. } = *companies;
    let started = Instant::now();
    for place in plan::spread(all.len()) {
        if parts.stop.requested() || started.elapsed() > ENTITIES_TIME {
            break;
        }
        let (company, counted) = &mut all[place];
        let (entities, mut tally) = run::entities(schema, company.clone(), window_tokens, caps, parts)?;
        if !tally.asked.interrupted {
            take_entities(counted, entities, company, &mut tally, parts)?;
        }
    }
    Ok(())
}

/// Companies that stand for the others best, taken through all questions.
fn read_whole(
    companies: &Companies<'_>,
    all: &mut [(Company, Counted)],
    unkept: &mut Journal,
    parts: &mut Parts<'_>,
) -> Result<Vec<Sampled>, Failure> {
    let Companies { schema, caps, window_tokens, .. } = *companies;
    let (started, mut sampled) = (Instant::now(), Vec::new());
    for place in plan::spread(all.len()).into_iter().take(SAMPLED_MAX) {
        let is_enough = sampled.len() >= SAMPLED_MIN && started.elapsed() > SAMPLE_TIME;
        if is_enough || parts.stop.requested() {
            break;
        }
        let (company, counted) = &mut all[place];
        // A run comes to these questions right behind that for entities, when the engine still knows the windows. They
        // took a third longer, and so did the forecast, where other companies had been asked in between.
        let mut again = Parts {
            generator: &mut *parts.generator,
            journal: &mut *unkept,
            embedding: None,
            traces: None,
            so_far: None,
            ..*parts
        };
        run::entities(schema, company.clone(), window_tokens, caps, &mut again)?;
        let outcome = run::company(schema, company.clone(), window_tokens, caps, &[], None, parts)?;
        let Outcome { records, mut tally, worth, .. } = outcome;
        if !tally.asked.interrupted {
            take_entities(counted, records.len(), company, &mut tally, parts)?;
            sampled.push(Sampled { windows: counted.windows, entities: records.len(), tally, worth });
        }
    }
    Ok(sampled)
}

fn take_entities(
    counted: &mut Counted,
    entities: usize,
    company: &Company,
    tally: &mut Tally,
    parts: &mut Parts<'_>,
) -> Result<(), Failure> {
    let model = parts.generator.facts().identity;
    plan::remember(parts.journal, &model, &company.name, tally).map_err(ExtractError::from)?;
    counted.entities = Some(entities);
    // A company of no windows is asked nothing, and takes nothing.
    counted.used = tally.stages.get(&Stage::Entities).copied().unwrap_or_default();
    Ok(())
}
