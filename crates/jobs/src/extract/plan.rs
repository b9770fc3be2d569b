//! What a run will ask and how long that takes, before it does.
//!
//! Some companies are read whole; their answers are kept, so nothing is asked for the forecast alone. What they came to is
//! carried over to all by the number of windows. Where nothing is decided by answers, the number of calls is counted.

use haul_pipeline::journal::{Journal, State};
use serde::Serialize;

use super::ask::{Stage, StageUse, Tally};
use super::caps::Caps;
use super::run::Worth;
use super::schema::{Field, Schema};
use crate::calls::CallsError;

/// What other companies may differ by from those that were read: a range of at most two from end to end.
const SPREAD: f64 = 1.35;

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

/// Calculates the forecast. `windows` are those of every company.
#[must_use]
pub fn plan(schema: &Schema, caps: &Caps, windows: &[usize], sampled: &[Sampled]) -> Plan {
    let all: usize = windows.iter().sum();
    let of_sample: usize = sampled.iter().map(|company| company.windows).sum();
    let scale = ratio(all, of_sample);
    let mut stages: Vec<PlannedStage> = Vec::new();
    for stage in Stage::ALL {
        let mut used = StageUse::default();
        for company in sampled {
            used.add(&company.tally.stages.get(&stage).copied().unwrap_or_default());
        }
        // Where all companies were read, nothing is guessed.
        let is_whole = sampled.len() == windows.len();
        let counted = counted(schema, caps, stage, windows).or(is_whole.then_some(used.calls));
        if used.calls > 0 || counted.is_some_and(|calls| calls > 0) {
            stages.push(planned(stage, &used, scale, counted));
        }
    }
    let total = stages.iter().fold(PlannedStage::default(), |sum, stage| sum.and(stage));
    let caps = caps_worth(&stages, sampled);
    Plan { companies: windows.len(), windows: all, sampled: sampled.len(), stages, total, caps }
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
    #[expect(clippy::cast_precision_loss, reason = "a forecast")]
    let ratio = of as f64 / to.max(1) as f64;
    ratio
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
