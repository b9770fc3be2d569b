//! One company from its documents to its records.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::ExtractError;
use super::ask::{OUT_OF_TIME, Parts, Reply, Stage, Tally, UNFINISHED, ask};
use super::caps::Caps;
use super::crosscheck::crosscheck;
use super::documents::Company;
use super::entities::{self, Found};
use super::merge::{Candidate, merged, normal};
use super::passes::Passes;
use super::reading::Reading;
use super::record::{CompanyCoverage, Decided, FieldRecord, Other, Record, RuleFinding, Status, Tie};
use super::reply;
use super::schema::{Confidence, Field, Question, Schema, Subject};

/// Part of a company's time that the question for entities may take, and part of the rest that is left for what comes
/// behind the passes: one of so many.
const ENTITIES_SHARE: u32 = 3;
const BEHIND_SHARE: u32 = 4;

/// What a company came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// A record for each entity.
    pub records: Vec<Record>,
    /// What was read.
    pub coverage: CompanyCoverage,
    /// The calls.
    pub tally: Tally,
    /// What the stages behind the first pass were good for.
    pub worth: Worth,
}

/// Values that there would not be without a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Worth {
    /// All that were found.
    pub values: usize,
    /// Of which in windows behind those of the first pass alone.
    pub sections: usize,
    /// Of which when they were asked for by themselves.
    pub deep: usize,
    /// Of which the second question corrected.
    pub corrected: usize,
}

/// Reads a company. `cuts` is what is known to be missing before anything is asked, such as files that gave no document;
/// `until` is when its time is over.
///
/// # Errors
/// The generator or the journal as a whole.
pub fn company(
    schema: &Schema,
    company: Company,
    window_tokens: u32,
    caps: &Caps,
    cuts: &[String],
    until: Option<Instant>,
    parts: &mut Parts<'_>,
) -> Result<Outcome, ExtractError> {
    let reading = read(schema, company, window_tokens, parts)?;
    let mut tally = Tally::default();
    let mut cuts = cuts.to_vec();
    if reading.split > 0 {
        cuts.push(format!("{} sentences are longer than a window, and stand in two", reading.split));
    }
    let for_entities = part_of(until, |left| left / ENTITIES_SHARE);
    let found = found(&reading, caps, for_entities, &mut cuts, &mut tally, parts)?;
    if tally.asked.interrupted {
        // Which entities there are is not known.
        let coverage = reading.coverage();
        return Ok(Outcome { records: vec![], coverage, tally, worth: Worth::default() });
    }
    let mut passes = Passes::new(&reading, caps, &found.subjects, found.is_company);
    let entities = found.subjects.len();
    let merge_all = |passes: &Passes<'_>| -> Vec<Merged> {
        (0..entities).map(|entity| merge(passes, &reading, entity)).collect()
    };
    let tell = |passes: &Passes<'_>, tally: &Tally, parts: &mut Parts<'_>| {
        if let Some(so_far) = &mut parts.so_far {
            let merged = merge_all(passes);
            so_far(&outcome(&reading, &found, passes, merged, &cuts, End::Unfinished, tally.clone()));
        }
    };
    let mut waves = passes.waves(part_of(until, |left| left - left / BEHIND_SHARE));
    while passes.wave(&mut waves, &mut tally, parts)? {
        tell(&passes, &tally, parts);
    }
    if caps.deep_fields > 0 {
        deep(&mut passes, &reading, caps, entities, until, &mut tally, parts)?;
        tell(&passes, &tally, parts);
    }
    let mut of_entities = merge_all(&passes);
    if caps.verify {
        let unverified =
            verify(&passes, &reading, &found.subjects, &mut of_entities, until, &mut tally, parts)?;
        for (why, times) in unverified {
            tally.unread += if why == OUT_OF_TIME { 0 } else { times };
            cuts.push(format!("{times} values were not verified: {why}"));
        }
    }
    let end = if tally.asked.interrupted { End::Unfinished } else { End::Done };
    Ok(outcome(&reading, &found, &passes, of_entities, &cuts, end, tally))
}

/// Asks which entities a company has, and nothing else: gives how many, and what that took.
///
/// # Errors
/// The generator or the journal as a whole.
pub fn entities(
    schema: &Schema,
    company: Company,
    window_tokens: u32,
    caps: &Caps,
    parts: &mut Parts<'_>,
) -> Result<(usize, Tally), ExtractError> {
    let reading = read(schema, company, window_tokens, parts)?;
    let (mut cuts, mut tally) = (vec![], Tally::default());
    let found = found(&reading, caps, None, &mut cuts, &mut tally, parts)?;
    Ok((found.subjects.len(), tally))
}

fn read<'a>(
    schema: &'a Schema,
    company: Company,
    window_tokens: u32,
    parts: &mut Parts<'_>,
) -> Result<Reading<'a>, ExtractError> {
    let mut reading = Reading::new(schema, company, window_tokens, parts.generator)?;
    if let Some(embedding) = parts.embedding {
        reading.embed(embedding, parts.journal)?;
    }
    Ok(reading)
}

/// Whether all that is to be asked of a company was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Unfinished,
}

fn outcome(
    reading: &Reading<'_>,
    found: &Found,
    passes: &Passes<'_>,
    of_entities: Vec<Merged>,
    cuts: &[String],
    end: End,
    tally: Tally,
) -> Outcome {
    let worth = worth(passes, &of_entities);
    let mut coverage = reading.coverage();
    coverage.cells = passes.cells();
    let cuts_of = |entity| -> Vec<String> {
        let cuts = cuts.iter().cloned();
        match end {
            End::Done => cuts.chain(passes.cuts(entity)).collect(),
            // What is still to be asked is not cut.
            End::Unfinished => {
                let cuts = cuts.filter(|cut| !cut.ends_with(OUT_OF_TIME));
                std::iter::once(UNFINISHED.to_owned()).chain(cuts).collect()
            }
        }
    };
    let records = of_entities
        .into_iter()
        .enumerate()
        .map(|(entity, merged)| record(reading, found, entity, merged, cuts_of(entity)));
    Outcome { records: records.collect(), coverage, tally, worth }
}

/// A value is a stage's where no answer of an earlier one says the same.
fn worth(passes: &Passes<'_>, of_entities: &[Merged]) -> Worth {
    let mut worth = Worth::default();
    for (entity, merged) in of_entities.iter().enumerate() {
        for ((_, answers), record) in passes.answers(entity).zip(&merged.fields) {
            let Some(value) = &record.value else { continue };
            worth.values += 1;
            let same = answers.candidates.iter().filter(|candidate| candidate.value == *value);
            match same.map(|candidate| candidate.stage).min() {
                _ if record.rule == Decided::Corrected => worth.corrected += 1,
                Some(Stage::SectionsFields) => worth.sections += 1,
                Some(Stage::Deep) => worth.deep += 1,
                _ => {}
            }
        }
    }
    worth
}

/// When a part of the time that is left is over.
fn part_of(until: Option<Instant>, part: impl Fn(Duration) -> Duration) -> Option<Instant> {
    let now = Instant::now();
    until.map(|until| now + part(until.saturating_duration_since(now)))
}

/// Asks windows which entities they name.
fn found(
    reading: &Reading<'_>,
    caps: &Caps,
    until: Option<Instant>,
    cuts: &mut Vec<String>,
    tally: &mut Tally,
    parts: &mut Parts<'_>,
) -> Result<Found, ExtractError> {
    let schema = reading.schema;
    let mut windows = reading.ranked_for_entities();
    let count = caps.entity_windows.of(windows.len());
    if count < windows.len() {
        let left = windows.len() - count;
        cuts.push(format!(
            "{left} of {} windows were not asked for {}: --entity-windows",
            windows.len(),
            schema.entity.plural
        ));
    }
    windows.truncate(count);
    let questions: Vec<(usize, Question<'_>)> =
        windows.iter().map(|window| (*window, Question::Entities)).collect();
    let replies = ask(reading, &questions, until, tally, parts)?;
    // Names come in the order of the documents, whatever is asked first.
    let replies: BTreeMap<usize, Reply> = windows.into_iter().zip(replies).collect();
    let mut answers = Vec::with_capacity(replies.len());
    let mut failed: BTreeMap<String, usize> = BTreeMap::new();
    for reply in replies.into_values() {
        let read = match reply {
            Reply::Answer(answer) => reply::entities(schema, &answer).map_err(|error| error.to_string()),
            Reply::Failed(why) => Err(why),
            Reply::NotAsked => Err(OUT_OF_TIME.to_owned()),
        };
        match read {
            Ok(names) => answers.push(names),
            Err(why) => *failed.entry(why).or_default() += 1,
        }
    }
    for (why, times) in failed {
        tally.unread += if why == OUT_OF_TIME { 0 } else { times };
        cuts.push(format!("{times} windows were not read for {}: {why}", schema.entity.plural));
    }
    let found = entities::found(schema, &reading.company, &answers, caps.facilities);
    cuts.extend(
        found
            .dropped
            .iter()
            .map(|(name, why)| format!("{name:?} is not taken as {}: {why}", schema.entity.name)),
    );
    if found.is_company {
        cuts.push(format!("no {} was found; the company stands for one", schema.entity.name));
    }
    Ok(found)
}

/// Fields of an entity, with the window of each value.
struct Merged {
    fields: Vec<FieldRecord>,
    windows: Vec<Option<usize>>,
}

fn merge(passes: &Passes<'_>, reading: &Reading<'_>, entity: usize) -> Merged {
    let formats = &reading.schema.formats;
    let (mut fields, mut windows) = (Vec::new(), Vec::new());
    for (field, answers) in passes.answers(entity) {
        let merged = merged(field, answers, formats);
        let is_it = |candidate: &&Candidate| {
            Some(&candidate.value) == merged.value.as_ref() && candidate.evidence == merged.evidence
        };
        windows.push(answers.candidates.iter().find(is_it).map(|candidate| candidate.window));
        fields.push(merged);
    }
    Merged { fields, windows }
}

/// Asks for what is perhaps there first, then for what was not found or is not sure, in the schema's order.
fn deep(
    passes: &mut Passes<'_>,
    reading: &Reading<'_>,
    caps: &Caps,
    entities: usize,
    until: Option<Instant>,
    tally: &mut Tally,
    parts: &mut Parts<'_>,
) -> Result<(), ExtractError> {
    let mut targets = Vec::new();
    for entity in 0..entities {
        let Merged { fields, .. } = merge(passes, reading, entity);
        let is_possible = |field: &FieldRecord| field.status == Status::PossiblyPresent;
        let is_open = |field: &FieldRecord| {
            !is_possible(field) && (field.value.is_none() || field.confidence == Some(Confidence::Low))
        };
        let first = (0..fields.len()).filter(|number| is_possible(&fields[*number]));
        let then = (0..fields.len()).filter(|number| is_open(&fields[*number]));
        targets.extend(first.chain(then).take(caps.deep_fields).map(|number| (entity, number)));
    }
    passes.deep(&targets, until, tally, parts)
}

/// Asks of every value whether it is right, in the window that it was found in; gives for how many there is no answer, by
/// cause.
fn verify(
    passes: &Passes<'_>,
    reading: &Reading<'_>,
    subjects: &[Subject],
    of_entities: &mut [Merged],
    until: Option<Instant>,
    tally: &mut Tally,
    parts: &mut Parts<'_>,
) -> Result<BTreeMap<String, usize>, ExtractError> {
    let fields: Vec<&Field> = reading.schema.fields().collect();
    let mut places = Vec::new();
    for (entity, merged) in of_entities.iter().enumerate() {
        for (number, record) in merged.fields.iter().enumerate() {
            if let (Some(value), Some(window)) = (&record.value, merged.windows[number]) {
                places.push((entity, number, window, value.clone()));
            }
        }
    }
    let questions: Vec<(usize, Question<'_>)> = places
        .iter()
        .map(|(entity, number, window, value)| {
            (*window, Question::Verify { subject: &subjects[*entity], field: fields[*number], value })
        })
        .collect();
    tally.stage = Stage::Verify;
    let replies = ask(reading, &questions, until, tally, parts)?;
    let mut unverified: BTreeMap<String, usize> = BTreeMap::new();
    for ((entity, number, window, _), reply) in places.iter().zip(replies) {
        let checked = match reply {
            Reply::Answer(answer) => {
                passes.reader_of(*window).checked(&answer).map_err(|error| error.to_string())
            }
            Reply::Failed(why) => Err(why),
            Reply::NotAsked => Err(OUT_OF_TIME.to_owned()),
        };
        let checked = match checked {
            Ok(checked) => checked,
            Err(why) => {
                *unverified.entry(why).or_default() += 1;
                continue;
            }
        };
        if checked.correct {
            continue;
        }
        let (field, record) = (fields[*number], &mut of_entities[*entity].fields[*number]);
        let instead = checked.instead.and_then(|stated| passes.instead(*window, *entity, field, &stated));
        correct(field, record, instead, passes.names_entities(), reading);
    }
    Ok(unverified)
}

/// What the second question says is taken where it stands in the document. Where it says no more than no, a value whose
/// sentence is about the entity stays and is not sure; one whose sentence is about no entity is none.
fn correct(
    field: &Field,
    record: &mut FieldRecord,
    instead: Option<Candidate>,
    subjects_are_named: bool,
    reading: &Reading<'_>,
) {
    let is_free =
        subjects_are_named && record.evidence.as_ref().is_none_or(|evidence| evidence.tie == Tie::Free);
    match instead {
        Some(instead) if Some(&instead.value) != record.value.as_ref() => {
            let before = lost(record, "asked again, the model corrected it");
            record.others.insert(0, before);
            record.normal = normal(field, &instead.value, &reading.schema.formats);
            record.value = Some(instead.value);
            record.confidence = Some(Confidence::Medium);
            record.probability = instead.probability;
            record.rule = Decided::Corrected;
            record.evidence = instead.evidence;
        }
        _ if is_free => {
            record.others.insert(0, lost(record, "asked again, the model says that it is not so"));
            let others = std::mem::take(&mut record.others);
            *record = FieldRecord { status: Status::NotFound, others, ..FieldRecord::default() };
        }
        _ => record.confidence = Some(Confidence::Low),
    }
}

/// The value of a field as one that is not taken.
fn lost(record: &FieldRecord, why: &str) -> Other {
    Other {
        value: record.value.clone().unwrap_or_default(),
        times: 1,
        why: why.to_owned(),
        evidence: record.evidence.clone(),
    }
}

fn record(reading: &Reading<'_>, found: &Found, entity: usize, merged: Merged, cuts: Vec<String>) -> Record {
    let schema = reading.schema;
    let subject = &found.subjects[entity];
    let mut fields: BTreeMap<String, FieldRecord> =
        schema.fields().map(|field| field.name.clone()).zip(merged.fields).collect();
    let findings = checked(schema, &mut fields);
    Record {
        company: reading.company.name.clone(),
        facility: subject.name.clone(),
        facility_type: subject.kind.clone(),
        is_company: found.is_company,
        source_files: reading.company.sources.iter().map(|source| source.file.clone()).collect(),
        language: reading.company.language().map(str::to_owned),
        confidence_score: Record::score(&fields),
        fields,
        findings,
        cuts,
    }
}

/// Holds the record against the rules of the schema.
fn checked(schema: &Schema, fields: &mut BTreeMap<String, FieldRecord>) -> Vec<RuleFinding> {
    let value_of = |(name, field): (&String, &FieldRecord)| Some((name.clone(), field.value.clone()?));
    let mut values: BTreeMap<String, String> = fields.iter().filter_map(value_of).collect();
    let found = crosscheck(schema, &mut values);
    let mut findings = Vec::with_capacity(found.len());
    for finding in found {
        let mut shown =
            RuleFinding { rule: finding.rule, say: finding.say, field: None, before: None, after: None };
        if let Some((set, before)) = finding.set {
            if let (Some(record), Some(field)) = (fields.get_mut(&set.field), schema.field(&set.field)) {
                record.normal = normal(field, &set.value, &schema.formats);
                record.value = Some(set.value.clone());
                record.status = Status::Found;
                record.confidence = Some(set.confidence);
                record.rule = Decided::Rule;
            }
            shown = RuleFinding { field: Some(set.field), before, after: Some(set.value), ..shown };
        }
        findings.push(shown);
    }
    findings
}
