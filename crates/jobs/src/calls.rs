//! Calls of a language model that are asked once: what the journal has an answer to is never asked again.

use std::collections::HashMap;
use std::ops::ControlFlow;

use haul_generate::call::{Answer, Call, CallError, Totals};
use haul_generate::{GenerateError, Generator};
use haul_pipeline::journal::{Journal, JournalError, JournalKey, State};
use haul_pipeline::stage::Stop;

/// What became of the calls of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Asked {
    /// Of the calls that were asked now.
    pub totals: Totals,
    /// Calls whose answers the journal had, or that are the same as another one of the run.
    pub journalled: u64,
    /// Of which are the same as another one.
    pub repeated: u64,
    /// Whether a stop was asked for before all had answers.
    pub interrupted: bool,
}

/// Calls could not be asked, or their answers not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallsError {
    /// Nothing answers any more. What was answered before is in the journal.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal has what is no answer.
    #[error("an answer in the journal cannot be read: {0}")]
    Entry(#[from] serde_json::Error),
}

impl CallsError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Generate(error) => error.hint(),
            Self::Journal(error) => error.hint().map(str::to_owned),
            Self::Entry(_) => Some("move the journal away; all calls are asked anew".to_owned()),
        }
    }
}

/// What a call is known by: the model that answers, and everything that shapes the answer.
///
/// # Errors
/// The call cannot be written as JSON.
pub fn key(job: &str, identity: &str, call: &Call) -> Result<JournalKey, serde_json::Error> {
    let mut hasher = blake3::Hasher::new();
    for part in [job, identity] {
        hasher.update(part.as_bytes()).update(&[0]);
    }
    hasher.update(&serde_json::to_vec(call)?);
    Ok(hasher.finalize())
}

/// Answers every call once, from the journal or by asking (two that are the same in everything are one question), and
/// hands each to `answered` by its number as it comes. An answer is in the journal before it is handed on, and on the disk
/// within a second.
///
/// # Errors
/// The journal, or the generator as a whole. What one call came to is its own result.
pub fn answer(
    job: &str,
    generator: &mut Generator,
    journal: &mut Journal,
    calls: &[Call],
    stop: &Stop,
    mut answered: impl FnMut(usize, Result<Answer, CallError>),
) -> Result<Asked, CallsError> {
    let identity = generator.facts().identity;
    let keys = calls.iter().map(|call| key(job, &identity, call)).collect::<Result<Vec<_>, _>>()?;
    let mut asked = Asked::default();
    // Numbers of calls that are one question, by question, in the order in which they came first.
    let mut open: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<JournalKey, usize> = HashMap::new();
    for (number, key) in keys.iter().enumerate() {
        if let Some(at) = known.get(key) {
            asked.journalled += 1;
            asked.repeated += 1;
            open[*at].push(number);
            continue;
        }
        match journal.get(key)?.filter(|entry| entry.state == State::Done).and_then(|entry| entry.result) {
            Some(result) => {
                asked.journalled += 1;
                answered(number, Ok(serde_json::from_slice(&result)?));
            }
            None => {
                known.insert(*key, open.len());
                open.push(vec![number]);
            }
        }
    }
    let asking: Vec<Call> = open.iter().map(|numbers| calls[numbers[0]].clone()).collect();
    let mut failed = None;
    let result = generator.run(&asking, &mut |at, result| {
        if let Err(error) = keep(journal, &keys[open[at][0]], &result) {
            failed = Some(error);
            return ControlFlow::Break(());
        }
        for number in &open[at] {
            answered(*number, result.clone());
        }
        if stop.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    journal.flush()?;
    if let Some(error) = failed {
        return Err(error);
    }
    asked.totals = result?;
    asked.interrupted = stop.requested() && asked.totals.calls + asked.totals.failed < asking.len() as u64;
    Ok(asked)
}

fn keep(
    journal: &mut Journal,
    key: &JournalKey,
    result: &Result<Answer, CallError>,
) -> Result<(), CallsError> {
    match result {
        Ok(answer) => {
            let ms = u32::try_from(answer.ms).unwrap_or(u32::MAX);
            journal.finish(key, State::Done, &serde_json::to_vec(answer)?, ms)?;
        }
        Err(error) => journal.finish(key, State::Failed, error.to_string().as_bytes(), 0)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use haul_generate::call::Prompt;
    use haul_generate::fake::{Fake, Line};

    use super::*;

    fn asked(generator: &Generator) -> Vec<String> {
        match generator {
            Generator::Fake(fake) => fake.asked().to_vec(),
            _ => vec![],
        }
    }

    #[test]
    fn an_answered_call_is_never_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.sqlite");
        let calls: Vec<_> = ["a", "b", "c"].map(|text| Call::greedy(Prompt::text(text), 8)).into();
        let stop = Stop::default();
        let mut journal = Journal::open(&path).unwrap();
        let refused = CallError::Refused { why: "busy".to_owned() };
        let mut first =
            Generator::Fake(Fake::new([Line::says("A"), Line::fails(refused.clone()), Line::says("C")]));
        let mut seen = vec![];
        let run = answer("test", &mut first, &mut journal, &calls, &stop, |number, result| {
            seen.push((number, result.map(|answer| answer.text)));
        });
        assert_eq!(run.unwrap().totals.calls, 2);
        assert_eq!(seen, [(0, Ok("A".to_owned())), (1, Err(refused)), (2, Ok("C".to_owned()))]);
        drop(journal);

        let mut journal = Journal::open(&path).unwrap();
        let mut second = Generator::Fake(Fake::new([Line::says("B")]));
        let mut seen = vec![];
        let run = answer("test", &mut second, &mut journal, &calls, &stop, |number, result| {
            seen.push((number, result.unwrap().text));
        })
        .unwrap();
        assert_eq!((run.journalled, run.totals.calls), (2, 1));
        assert_eq!(seen, [(0, "A".to_owned()), (2, "C".to_owned()), (1, "B".to_owned())]);
        assert_eq!(asked(&second), ["b"]);
        // The same question twice is asked once.
        let twice = vec![Call::greedy(Prompt::text("d"), 8); 2];
        let mut third = Generator::Fake(Fake::new([Line::says("D")]));
        let mut seen = vec![];
        let run = answer("test", &mut third, &mut journal, &twice, &stop, |number, result| {
            seen.push((number, result.unwrap().text));
        });
        let run = run.unwrap();
        assert_eq!((run.journalled, run.repeated), (1, 1));
        assert_eq!(seen, [(0, "D".to_owned()), (1, "D".to_owned())]);
        // Another job, or another limit, is another question.
        assert_ne!(key("test", "m", &calls[0]).unwrap(), key("tests", "m", &calls[0]).unwrap());
        let longer = Call { max_tokens: 9, ..calls[0].clone() };
        assert_ne!(key("test", "m", &calls[0]).unwrap(), key("test", "m", &longer).unwrap());
    }
}
