//! What a run will ask and how long that takes, before it does.
//!
//! Companies are asked for their entities, and some are read whole; their answers are kept, so nothing is asked for the
//! forecast alone. What those that were read came to is carried over to all, each stage by what it grows with: windows,
//! entities or neither. Where nothing is decided by answers, the number of calls is counted.

use haul_pipeline::journal::{Journal, State};
use serde::Serialize;

use super::ask::{Stage, StageUse, Tally};
use super::caps::Caps;
use super::run::Worth;
use super::schema::{Field, Schema};
use crate::calls::CallsError;

/// What other companies may differ by from those that were read: a range of at most two from end to end.
const SPREAD: f64 = 1.35;

/// A company that the forecast is of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Its windows.
    pub windows: usize,
    /// Its entities, where it was asked for them.
    pub entities: Option<usize>,
    /// What asking for them took.
    pub used: StageUse,
}

/// A company that was read for the forecast.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// Its windows.
    pub windows: usize,
    /// Its entities.
    pub entities: usize,
    /// Its calls.
    pub tally: Tally,
    /// What its later stages were good for.
    pub worth: Worth,
}

/// A forecast.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Companies.
    pub companies: usize,
    /// Their windows.
    pub windows: usize,
    /// Companies that were read for it.
    pub sampled: usize,
    /// Stage by stage.
    pub stages: Vec<PlannedStage>,
    /// All stages together.
    pub total: PlannedStage,
    /// What each cap would save, and lose.
    pub caps: Vec<CapWorth>,
}

/// What a stage will come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PlannedStage {
    /// Which; none for all together.
    pub stage: Option<Stage>,
    /// Fewest calls.
    pub calls_low: u64,
    /// Most calls; the same where they are counted.
    pub calls_high: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Of which are computed for other calls.
    pub reused_tokens: u64,
    /// Tokens of answers.
    pub answer_tokens: u64,
    /// On this machine.
    pub seconds: f64,
}

/// A cap, and what comes of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CapWorth {
    /// The flag.
    pub flag: &'static str,
    /// Calls that it saves.
    pub calls: u64,
    /// Seconds that it saves.
    pub seconds: f64,
    /// Values in a hundred that there would not be, or would be others.
    pub values_percent: f64,
}

/// Calculates the forecast.
#[must_use]
pub fn plan(schema: &Schema, caps: &Caps, companies: &[Counted], sampled: &[Sampled]) -> Plan {
    let windows: Vec<usize> = companies.iter().map(|company| company.windows).collect();
    let entities = mean(companies.iter().filter_map(|company| company.entities));
    let growth = Growth { caps, groups: schema.groups.len() };
    // Where all companies were read, nothing is guessed.
    let is_whole = sampled.len() == companies.len();
    let mut stages: Vec<PlannedStage> = Vec::new();
    for stage in Stage::ALL {
        let mut used = StageUse::default();
        if stage == Stage::Entities {
            companies.iter().for_each(|company| used.add(&company.used));
        } else {
            for company in sampled {
                // A stage that did not run took nothing.
                used.add(&company.tally.stages.get(&stage).copied().unwrap_or_default());
            }
        }
        let all: f64 = companies
            .iter()
            .map(|company| growth.of(stage, company.windows, company.entities.map_or(entities, as_f64)))
            .sum();
        let of_sample: f64 =
            sampled.iter().map(|company| growth.of(stage, company.windows, as_f64(company.entities))).sum();
        let scale = if of_sample > 0.0 { all / of_sample } else { 0.0 };
        let counted = counted(schema, caps, stage, &windows).or(is_whole.then_some(used.calls));
        if used.calls > 0 || counted.is_some_and(|calls| calls > 0) {
            stages.push(planned(stage, &used, scale, counted));
        }
    }
    let total = stages.iter().fold(PlannedStage::default(), |sum, stage| sum.and(stage));
    let caps = caps_worth(&stages, sampled);
    let windows = windows.iter().sum();
    Plan { companies: companies.len(), windows, sampled: sampled.len(), stages, total, caps }
}

/// Places of so many that lie in order, those first that stand for the others best: the middle, the quarters between, and
/// so on (the sequence of van der Corput).
#[must_use]
pub fn spread(count: usize) -> Vec<usize> {
    let mut seen = vec![false; count];
    let mut order = Vec::with_capacity(count);
    for number in 1_u32.. {
        if order.len() == count {
            break;
        }
        let place = ((u64::from(number.reverse_bits()) * count as u64) >> u32::BITS) as usize;
        if !std::mem::replace(&mut seen[place], true) {
            order.push(place);
        }
    }
    order
}

/// What the calls of a stage grow with.
struct Growth<'a> {
    caps: &'a Caps,
    groups: usize,
}

impl Growth<'_> {
    fn of(&self, stage: Stage, windows: usize, entities: f64) -> f64 {
        let Growth { caps, groups } = self;
        match stage {
            Stage::Entities => as_f64(caps.entity_windows.of(windows)),
            Stage::Present => as_f64(windows.min(groups * caps.group_windows.max(1))),
            Stage::SectionsPresent => as_f64(windows.min(groups * caps.windows_of_group(windows))),
            Stage::Fields if !caps.early_stop => entities * as_f64(caps.windows_of_group(windows)),
            // Windows that speak of no entity are asked about once, as if there were one more.
            Stage::Fields | Stage::SectionsFields => entities + 1.0,
            Stage::Deep | Stage::Verify => entities,
        }
    }
}

fn mean(counts: impl Iterator<Item = usize>) -> f64 {
    let (sum, count) = counts.fold((0, 0), |(sum, count), one| (sum + one, count + 1));
    ratio(sum, count)
}

#[expect(clippy::cast_precision_loss, reason = "a forecast")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

/// What a stage took when it was asked, for a company whose answers the journal has by now: a forecast is of a run that
/// asks, and a second forecast samples what the first one has answered.
///
/// # Errors
/// The journal.
pub fn remember(
    journal: &mut Journal,
    model: &str,
    company: &str,
    tally: &mut Tally,
) -> Result<(), CallsError> {
    for (stage, used) in &mut tally.stages {
        let mut hasher = blake3::Hasher::new();
        for part in ["extract forecast", model, company, stage.name()] {
            hasher.update(part.as_bytes()).update(&[0]);
        }
        let key = hasher.finalize();
        let entry = journal.get(&key)?.and_then(|entry| entry.result);
        // What another version has written is asked anew.
        let before: Option<StageUse> = entry.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match before.filter(|before| before.calls == used.calls && before.asked >= used.asked) {
            Some(before) => *used = before,
            None => {
                journal.finish(&key, State::Done, &serde_json::to_vec(used)?, 0)?;
            }
        }
    }
    Ok(())
}

fn ratio(of: usize, to: usize) -> f64 {
    as_f64(of) / as_f64(to.max(1))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a forecast of what is not negative"
)]
fn scaled(count: u64, scale: f64) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "a forecast")]
    let count = count as f64;
    (count * scale).round() as u64
}

/// Calls of a stage, where no answer decides about them.
fn counted(schema: &Schema, caps: &Caps, stage: Stage, windows: &[usize]) -> Option<u64> {
    let count: usize = match stage {
        Stage::Entities => windows.iter().map(|windows| caps.entity_windows.of(*windows)).sum(),
        Stage::Fields if !caps.early_stop => {
            let entities = caps.facilities?;
            let questions = |fields: &[Field]| {
                let fields: Vec<&Field> = fields.iter().collect();
                schema.questions(&fields).count()
            };
            let of_groups: usize = schema.groups.iter().map(|group| questions(&group.fields)).sum();
            let of_company = |windows: &usize| entities * of_groups * caps.windows_of_group(*windows);
            windows.iter().map(of_company).sum()
        }
        _ => return None,
    };
    Some(count as u64)
}

fn planned(stage: Stage, used: &StageUse, scale: f64, counted: Option<u64>) -> PlannedStage {
    let calls = scaled(used.calls, scale);
    #[expect(clippy::cast_precision_loss, reason = "a forecast")]
    let per_call = |tokens: u64| tokens as f64 / used.calls.max(1) as f64;
    let expected = counted.unwrap_or(calls);
    #[expect(clippy::cast_precision_loss, reason = "a forecast")]
    let times = expected as f64;
    let tokens = |of_sample: u64| scaled(1, per_call(of_sample) * times);
    #[expect(clippy::cast_precision_loss, reason = "a forecast")]
    let seconds_per_call = used.seconds / used.asked.max(1) as f64;
    PlannedStage {
        stage: Some(stage),
        calls_low: counted.unwrap_or_else(|| scaled(calls, 1.0 / SPREAD)),
        calls_high: counted.unwrap_or_else(|| scaled(calls, SPREAD)),
        prompt_tokens: tokens(used.prompt_tokens),
        reused_tokens: tokens(used.reused_tokens),
        answer_tokens: tokens(used.answer_tokens),
        seconds: seconds_per_call * times,
    }
}

impl PlannedStage {
    fn and(self, other: &PlannedStage) -> PlannedStage {
        PlannedStage {
            stage: None,
            calls_low: self.calls_low + other.calls_low,
            calls_high: self.calls_high + other.calls_high,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            reused_tokens: self.reused_tokens + other.reused_tokens,
            answer_tokens: self.answer_tokens + other.answer_tokens,
            seconds: self.seconds + other.seconds,
        }
    }
}

/// What would go with a stage: its calls, and the values that no earlier one gives.
fn caps_worth(stages: &[PlannedStage], sampled: &[Sampled]) -> Vec<CapWorth> {
    let values: usize = sampled.iter().map(|company| company.worth.values).sum();
    let lost = |of: fn(&Worth) -> usize| {
        100.0 * ratio(sampled.iter().map(|company| of(&company.worth)).sum(), values)
    };
    let rows: [(&'static str, &[Stage], f64); 3] = [
        (
            "--section-passes 0",
            &[Stage::SectionsPresent, Stage::SectionsFields],
            lost(|worth| worth.sections),
        ),
        ("--deep-fields 0", &[Stage::Deep], lost(|worth| worth.deep)),
        ("--no-verify", &[Stage::Verify], lost(|worth| worth.corrected)),
    ];
    let of = |(flag, without, values_percent): (&'static str, &[Stage], f64)| {
        let those = stages.iter().filter(|stage| stage.stage.is_some_and(|stage| without.contains(&stage)));
        let sum = those.fold(PlannedStage::default(), |sum, stage| sum.and(stage));
        CapWorth {
            flag,
            calls: u64::midpoint(sum.calls_low, sum.calls_high),
            seconds: sum.seconds,
            values_percent,
        }
    };
    rows.into_iter().map(of).filter(|cap| cap.calls > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::schema::Syntax;

    #[test]
    fn places_that_come_first_stand_for_the_others() {
        assert_eq!(spread(8), [4, 2, 6, 1, 5, 3, 7, 0]);
        assert_eq!(spread(3), [1, 0, 2]);
        assert_eq!((spread(0), spread(1)), (vec![], vec![0]));
        let mut all = spread(1000);
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1000));
    }

    /// All stages grew with the windows: of 24 companies, those with three facilities take twice the calls of those with
    /// one, in as many windows, and a forecast from the wrong four was off by a quarter.
    #[test]
    fn a_stage_grows_with_what_it_asks_about() {
        let schema =
            Schema::parse(include_str!("../../../../assets/tiny-llm/schema.json"), Syntax::Json).unwrap();
        let used = |calls| StageUse { calls, prompt_tokens: 100 * calls, ..StageUse::default() };
        let stages = [(Stage::Entities, 10), (Stage::Present, 6), (Stage::Fields, 40), (Stage::Verify, 20)];
        let stages = stages.map(|(stage, calls)| (stage, used(calls)));
        let tally = Tally { stages: stages.into_iter().collect(), ..Tally::default() };
        let sampled = [Sampled { windows: 10, entities: 1, tally, worth: Worth::default() }];
        let counted = |windows, entities, calls| Counted { windows, entities, used: used(calls) };
        // The entities of the last one are not known, and taken as those of the others.
        let companies = [counted(10, Some(1), 10), counted(20, Some(3), 20), counted(30, None, 0)];
        let plan = plan(&schema, &Caps::USUAL, &companies, &sampled);
        let of = |stage| plan.stages.iter().find(|planned| planned.stage == Some(stage)).unwrap();
        assert_eq!((of(Stage::Entities).calls_low, of(Stage::Entities).calls_high), (60, 60));
        assert_eq!(of(Stage::Entities).prompt_tokens, 6000);
        // The best windows of six groups are 18 at most: 6 calls for 10 windows are 28 for 10, 18 and 18.
        assert_eq!(of(Stage::Present).prompt_tokens, 100 * 28);
        assert_eq!(of(Stage::Fields).prompt_tokens, 100 * 40 * (2 + 4 + 3) / 2);
        assert_eq!(of(Stage::Verify).prompt_tokens, 100 * 20 * (1 + 3 + 2));
    }

    #[test]
    fn a_range_is_at_most_two_from_end_to_end() {
        let used = StageUse { calls: 40, prompt_tokens: 400, asked: 40, seconds: 2.0, ..StageUse::default() };
        let stage = planned(Stage::Present, &used, 2.5, None);
        assert_eq!((stage.calls_low, stage.calls_high), (74, 135));
        assert!(stage.calls_high <= 2 * stage.calls_low);
        assert_eq!((stage.prompt_tokens, stage.seconds), (1000, 5.0));
        let exact = planned(Stage::Fields, &used, 2.5, Some(60));
        assert_eq!(
            (exact.calls_low, exact.calls_high, exact.prompt_tokens, exact.seconds),
            (60, 60, 600, 3.0)
        );
    }
}
