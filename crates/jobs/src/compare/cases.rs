//! Task cases: what a model makes of small inputs, scored by rules that a person can read, beside what doing nothing
//! scores.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Instant;

use haul_generate::Generator;
use haul_generate::call::{Answer, Call, CallError, Finish, Prompt};
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::Stop;
use serde::{Deserialize, Serialize};

use crate::calls::{self, Asked, CallsError};
use crate::statistics::{Paired, Share, Summary};

/// The first turn where the cases give none.
pub const SYSTEM: &str = "Correct the text.";
/// Cases of a set; an answer of each is in the report.
pub const CASES_MAX: usize = 10_000;
/// Times that each case is asked, to see whether the answer stays.
pub const RUNS: usize = 3;
/// An answer may be this many tokens longer than its input has bytes, of which a token has at least one.
const ANSWER_TOKENS_MORE: u32 = 32;

/// Cases and the turn that stands before each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseSet {
    /// The system turn.
    #[serde(default = "system")]
    pub system: String,
    /// The cases.
    #[serde(rename = "case")]
    pub cases: Vec<Case>,
}

/// One input, and what the answer must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it is called; no two are called alike.
    pub name: String,
    /// grammar, spelling, punctuation, preservation, edge_case, mixed, or any other word.
    pub category: String,
    /// What the model reads.
    pub input: String,
    /// The answer, white space at its ends left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What must be in it, as whole words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub must: Vec<String>,
    /// What must not be in it, as whole words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub must_not: Vec<String>,
}

fn system() -> String {
    SYSTEM.to_owned()
}

/// Cases that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CasesError {
    /// There are none, or too many.
    #[error("{found} cases, of 1 to {CASES_MAX}")]
    Count {
        /// How many there are.
        found: usize,
    },
    /// A case asks for nothing, so every answer would pass.
    #[error("case {name}: it has neither `expected` nor `must` nor `must_not`, or one of them is empty")]
    NoRule {
        /// Which.
        name: String,
    },
    /// Two cases have one name.
    #[error("case {name}: another case is called so too")]
    SameName {
        /// The name.
        name: String,
    },
    /// A case without an input or a name.
    #[error("case {number}: its name or its input is empty")]
    Empty {
        /// Which, from 1.
        number: usize,
    },
}

impl CaseSet {
    /// Sixteen cases of correction, for whoever brings none.
    #[must_use]
    pub fn built_in() -> CaseSet {
        let case = |(category, name, input, must, must_not): &BuiltIn| Case {
            name: (*name).to_owned(),
            category: (*category).to_owned(),
            input: (*input).to_owned(),
            expected: None,
            must: must.iter().map(|&text| text.to_owned()).collect(),
            must_not: must_not.iter().map(|&text| text.to_owned()).collect(),
        };
        CaseSet { system: system(), cases: BUILT_IN.iter().map(case).collect() }
    }

    /// Whether every case can fail and is told from the others.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), CasesError> {
        if !(1..=CASES_MAX).contains(&self.cases.len()) {
            return Err(CasesError::Count { found: self.cases.len() });
        }
        let mut names = BTreeSet::new();
        for (number, case) in (1..).zip(&self.cases) {
            if case.name.trim().is_empty() || case.input.trim().is_empty() {
                return Err(CasesError::Empty { number });
            }
            let lists = case.must.iter().chain(&case.must_not).chain(&case.expected);
            let texts: Vec<&String> = lists.collect();
            if texts.is_empty() || texts.iter().any(|text| text.trim().is_empty()) {
                return Err(CasesError::NoRule { name: case.name.clone() });
            }
            if !names.insert(&case.name) {
                return Err(CasesError::SameName { name: case.name.clone() });
            }
        }
        Ok(())
    }

    fn calls(&self, answer_tokens_max: u32) -> Vec<Call> {
        let call = |case: &Case| {
            let length = u32::try_from(case.input.len()).unwrap_or(u32::MAX);
            let tokens = length.saturating_add(ANSWER_TOKENS_MORE).min(answer_tokens_max);
            Call::greedy(Prompt::chat(Some(&self.system), "", &case.input), tokens)
        };
        self.cases.iter().map(call).collect()
    }
}

impl Case {
    /// What is wrong with an answer; nothing where it passes.
    #[must_use]
    pub fn faults(&self, answer: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if self.expected.as_ref().is_some_and(|expected| expected.trim() != answer.trim()) {
            faults.push("is not what was expected".to_owned());
        }
        faults.extend(
            self.must.iter().filter(|word| !has_words(answer, word)).map(|word| format!("lacks {word:?}")),
        );
        faults.extend(
            self.must_not.iter().filter(|word| has_words(answer, word)).map(|word| format!("has {word:?}")),
        );
        faults
    }
}

/// Whether `words` stands in `text` and does not end inside a word there.
fn has_words(text: &str, words: &str) -> bool {
    let joins = |a: Option<char>, b: Option<char>| {
        let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        is_letter(a) && is_letter(b)
    };
    text.match_indices(words).any(|(at, found)| {
        let (before, after) = (&text[..at], &text[at + found.len()..]);
        !joins(before.chars().next_back(), found.chars().next())
            && !joins(found.chars().next_back(), after.chars().next())
    })
}

/// What a model scored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Cases passed.
    pub passed: Share,
    /// Cases that pass when the input is given back as it is.
    pub identity: Share,
    /// Passed by category.
    pub by_category: BTreeMap<String, Category>,
    /// Whether answers stay the same when asked again.
    pub consistency: Consistency,
    /// Every case.
    pub cases: Vec<Scored>,
}

/// A category.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Category {
    /// Cases passed.
    pub passed: Share,
    /// Cases that pass when the input is given back as it is.
    pub identity: Share,
}

/// All cases, asked several times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Consistency {
    /// Times.
    pub runs: usize,
    /// Cases with the same answer in all of them.
    pub identical: Share,
    /// Seconds of each run over all cases; `None` where an earlier run of the command had asked some of them each time.
    pub seconds: Option<Summary>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    /// Its name.
    pub name: String,
    /// Its category.
    pub category: String,
    /// What the model said, where it said anything.
    pub answer: Option<String>,
    /// Why it does not pass; nothing where it does.
    pub faults: Vec<String>,
    /// Whether the answer is another text than the input.
    pub changed: bool,
    /// Whether it was the same every time.
    pub identical: bool,
    /// Milliseconds of the first answer, when it was asked.
    pub ms: u64,
}

impl Scored {
    /// Whether it passes.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.faults.is_empty()
    }
}

/// What answers cases, and keeps their answers.
pub(crate) struct Asking<'a> {
    pub(crate) generator: &'a mut Generator,
    pub(crate) journal: &'a mut Journal,
    pub(crate) progress: &'a Progress,
    pub(crate) stop: &'a Stop,
}

/// Asks every case [`RUNS`] times, all together each time, and scores the first answers. An answer that the journal has
/// under `place`, which says how and where the model is loaded, is not asked again. `None` where a stop was asked for.
///
/// # Errors
/// Nothing answers any more; the journal.
pub(crate) fn run(
    set: &CaseSet,
    asking: &mut Asking<'_>,
    place: &str,
    answer_tokens_max: u32,
) -> Result<Option<(Scores, Asked)>, CallsError> {
    let calls = set.calls(answer_tokens_max);
    let mut all = Asked::default();
    let mut rounds: Vec<Vec<Option<Result<Answer, CallError>>>> = Vec::with_capacity(RUNS);
    let mut seconds = Vec::with_capacity(RUNS);
    for round in 0..RUNS {
        let mut answers = vec![None; calls.len()];
        let job = format!("compare, cases, round {round}, {place}");
        let started = Instant::now();
        let Asking { generator, journal, progress, stop } = asking;
        let asked = calls::answer(&job, generator, journal, &calls, stop, |number, answer| {
            progress.computed(1, answer.as_ref().map_or(0, Answer::computed_tokens));
            answers[number] = Some(answer);
        })?;
        if asked.interrupted || stop.requested() {
            return Ok(None);
        }
        // The time of what was asked before is of another hour.
        if asked.journalled == asked.repeated {
            seconds.push(started.elapsed().as_secs_f64());
        }
        all.totals.merge(&asked.totals);
        all.journalled += asked.journalled;
        rounds.push(answers);
    }
    let cases: Vec<Scored> =
        set.cases.iter().enumerate().map(|(number, case)| scored(case, &rounds, number)).collect();
    Ok(scores(set, cases, seconds).map(|scores| (scores, all)))
}

fn scored(case: &Case, rounds: &[Vec<Option<Result<Answer, CallError>>>], number: usize) -> Scored {
    let text = |round: &Vec<Option<Result<Answer, CallError>>>| {
        round[number].as_ref().and_then(|answer| answer.as_ref().ok()).map(|answer| answer.text.clone())
    };
    let answer = text(&rounds[0]);
    let faults = match &rounds[0][number] {
        Some(Ok(answer)) => {
            let cut = (answer.finish == Finish::Length).then(|| "is cut at its limit".to_owned());
            cut.into_iter().chain(case.faults(&answer.text)).collect()
        }
        Some(Err(error)) => vec![error.to_string()],
        None => vec!["was not answered".to_owned()],
    };
    let ms = match &rounds[0][number] {
        Some(Ok(answer)) => answer.ms,
        _ => 0,
    };
    Scored {
        name: case.name.clone(),
        category: case.category.clone(),
        changed: answer.as_ref().is_some_and(|answer| answer.trim() != case.input.trim()),
        identical: answer.is_some() && rounds.iter().all(|round| text(round) == answer),
        answer,
        faults,
        ms,
    }
}

fn scores(set: &CaseSet, cases: Vec<Scored>, seconds: Vec<f64>) -> Option<Scores> {
    let share = |wanted: &dyn Fn(usize) -> bool, category: Option<&str>| {
        let of_category = |number: &usize| category.is_none_or(|name| set.cases[*number].category == name);
        let numbers: Vec<usize> = (0..cases.len()).filter(of_category).collect();
        Share::of(numbers.iter().filter(|number| wanted(**number)).count() as u64, numbers.len() as u64)
    };
    let passes = |number: usize| cases[number].passes();
    let identity = |number: usize| set.cases[number].faults(&set.cases[number].input).is_empty();
    let names: BTreeSet<&str> = set.cases.iter().map(|case| case.category.as_str()).collect();
    let category = |name: &str| {
        let category =
            Category { passed: share(&passes, Some(name))?, identity: share(&identity, Some(name))? };
        Some((name.to_owned(), category))
    };
    Some(Scores {
        passed: share(&passes, None)?,
        identity: share(&identity, None)?,
        by_category: names.into_iter().filter_map(category).collect(),
        consistency: Consistency {
            runs: RUNS,
            identical: share(&|number| cases[number].identical, None)?,
            seconds: Summary::of(seconds),
        },
        cases,
    })
}

/// One model's passes less another's, over the same cases.
#[must_use]
pub fn paired(this: &Scores, other: &Scores) -> Option<Paired> {
    let pairs = || this.cases.iter().zip(&other.cases).map(|(this, other)| (this.passes(), other.passes()));
    let count = |wanted: (bool, bool)| pairs().filter(|pair| *pair == wanted).count() as u64;
    Paired::of(count((true, false)), count((false, true)), this.cases.len() as u64)
}

/// Category, name, input, what must and what must not be in the answer.
type BuiltIn = (&'static str, &'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const BUILT_IN: &[BuiltIn] = &[
    (
        "grammar",
        "agreement of the verb",
        "The list of open questions were sent to the council yesterday.",
        &["was sent", "The list of open questions"],
        &["were sent"],
    ),
    (
        "grammar",
        "past participle",
        "She has went to the harbour every morning since May.",
        &["has gone", "harbour"],
        &["has went"],
    ),
    (
        "grammar",
        "article",
        "He bought a apple and an pear at the market.",
        &["an apple", "a pear"],
        &["a apple"],
    ),
    (
        "grammar",
        "pronoun",
        "Her and me painted the fence before the rain came.",
        &["She and I", "painted the fence"],
        &["Her and me"],
    ),
    (
        "spelling",
        "swapped letters",
        "They recieved the parcel on Wednesday and opened it at once.",
        &["received", "Wednesday"],
        &["recieved"],
    ),
    (
        "spelling",
        "doubled letters",
        "The accomodation near the station was occupied untill Sunday.",
        &["accommodation", "until"],
        &["accomodation", "untill"],
    ),
    (
        "spelling",
        "words that sound alike",
        "Their going to leave there coats by the door.",
        &["They're", "their coats"],
        &["there coats"],
    ),
    (
        "punctuation",
        "missing comma and full stop",
        "When the bell rang the children ran outside",
        &["rang, the children", "outside."],
        &[],
    ),
    (
        "punctuation",
        "apostrophe",
        "The dogs bowl was empty, and its owner hadnt noticed.",
        &["dog's bowl", "its owner", "hadn't"],
        &["hadnt", "it's owner"],
    ),
    (
        "punctuation",
        "question mark",
        "Where did you put the blue ladder.",
        &["Where did you put the blue ladder?"],
        &[],
    ),
    (
        "preservation",
        "names and numbers",
        "On 14 March 1893 Agnes Thorvald paid 2,750 crowns for the mill.",
        &["14 March 1893", "Agnes Thorvald", "2,750 crowns"],
        &[],
    ),
    (
        "preservation",
        "marks of emphasis",
        "The **second** door was *never* opened, said the porter.",
        &["**second**", "*never*"],
        &[],
    ),
    ("edge_case", "a single word", "Definately", &["Definitely"], &["Definately"]),
    (
        "edge_case",
        "nothing to correct",
        "Nobody had seen the ferry since noon.",
        &["Nobody had seen the ferry since noon."],
        &[],
    ),
    (
        "mixed",
        "several faults",
        "The manager dont know weather the reports was finished in time",
        &["doesn't know", "whether", "were finished"],
        &["dont", "weather", "was finished"],
    ),
    (
        "mixed",
        "faults beside what stays",
        "Mr. Okafor have payed 3.5 % intrest on the loan of 1,200 pounds.",
        &["has paid", "3.5 %", "interest", "Okafor", "1,200 pounds"],
        &["have", "payed", "intrest"],
    ),
];

#[cfg(test)]
mod tests {
    use haul_generate::fake::{Fake, Line};

    use super::*;

    fn case(name: &str, expected: Option<&str>, must: &[&str], must_not: &[&str]) -> Case {
        Case {
            name: name.to_owned(),
            category: "grammar".to_owned(),
            input: format!("the cat are {name}"),
            expected: expected.map(str::to_owned),
            must: must.iter().map(|&text| text.to_owned()).collect(),
            must_not: must_not.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    #[test]
    fn words_are_whole_words() {
        for (text, words, has) in [
            ("the cats are", "cat", false),
            ("the cat, are", "cat", true),
            ("concat", "cat", false),
            ("cat", "cat", true),
            ("(cat)", "cat", true),
            ("2,750 crowns", "750", true),
            ("1893", "189", false),
            ("**bold** text", "**bold**", true),
            ("where?", "where?", true),
            ("naïve", "na", false),
            ("concat cat", "cat", true),
        ] {
            assert_eq!(has_words(text, words), has, "{words:?} in {text:?}");
        }
    }

    #[test]
    fn the_built_in_cases_can_fail_and_are_not_passed_by_doing_nothing() {
        let set = CaseSet::built_in();
        set.check().unwrap();
        let categories: BTreeSet<&str> = set.cases.iter().map(|case| case.category.as_str()).collect();
        assert_eq!(
            categories.into_iter().collect::<Vec<_>>(),
            ["edge_case", "grammar", "mixed", "preservation", "punctuation", "spelling"]
        );
        assert_eq!(set.cases.len(), 16);
        // To give the input back passes where nothing is to be corrected, and nowhere else.
        let unchanged: Vec<&str> = set
            .cases
            .iter()
            .filter(|case| case.faults(&case.input).is_empty())
            .map(|case| case.name.as_str())
            .collect();
        assert_eq!(unchanged, ["names and numbers", "marks of emphasis", "nothing to correct"]);
        assert!(set.cases.iter().all(|case| !case.faults("").is_empty()), "no answer passes anywhere");
    }

    #[test]
    fn cases_without_a_rule_or_a_name_are_refused() {
        let set = |cases: Vec<Case>| CaseSet { system: system(), cases };
        let refused = |cases| set(cases).check().unwrap_err().to_string();
        assert_eq!(refused(vec![]), "0 cases, of 1 to 10000");
        assert!(refused(vec![case("a", None, &[], &[])]).contains("neither"));
        assert!(refused(vec![case("a", None, &[" "], &[])]).contains("neither"));
        let good = case("a", Some("the cat is here"), &[], &[]);
        assert_eq!(refused(vec![good.clone(), good.clone()]), "case a: another case is called so too");
        assert_eq!(refused(vec![case(" ", Some("x"), &[], &[])]), "case 1: its name or its input is empty");
        set(vec![good]).check().unwrap();
    }

    #[test]
    fn scores_stand_beside_what_doing_nothing_scores() {
        let mut set = CaseSet {
            system: system(),
            cases: vec![
                case("right", Some("the cat is here"), &[], &[]),
                case("wrong", None, &["is"], &["are"]),
                case("cut", None, &["cat"], &[]),
                case("refused", None, &["cat"], &[]),
                case("unsteady", None, &["cat"], &[]),
            ],
        };
        set.cases[4].category = "mixed".to_owned();
        let refused = || Line::fails(CallError::Refused { why: "busy".to_owned() });
        let round = |last: &str| {
            [
                Line::says(" the cat is here\n"),
                Line::says("the cats are"),
                Line::cut("the cat"),
                refused(),
                Line::says(last),
            ]
        };
        let lines = [round("a cat"), round("a cat"), round("the cat")].into_iter().flatten();
        let mut generator = Generator::Fake(Fake::new(lines));
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&folder.path().join("journal.sqlite")).unwrap();
        let (progress, stop) = (Progress::default(), Stop::default());
        let mut asking =
            Asking { generator: &mut generator, journal: &mut journal, progress: &progress, stop: &stop };
        let (scores, asked) = run(&set, &mut asking, "here", 100).unwrap().unwrap();
        let totals = asked.totals;
        assert_eq!(scores.consistency.seconds.as_ref().map(|seconds| seconds.samples.len()), Some(3));
        assert_eq!((scores.passed.hits, scores.passed.of), (2, 5));
        assert_eq!((scores.identity.hits, totals.calls, totals.failed), (3, 12, 3));
        let faults: Vec<String> = scores.cases.iter().map(|case| case.faults.join("; ")).collect();
        assert_eq!(faults, ["", "lacks \"is\"; has \"are\"", "is cut at its limit", "refused: busy", ""]);
        let identical: Vec<bool> = scores.cases.iter().map(|case| case.identical).collect();
        assert_eq!(identical, [true, true, true, false, false]);
        assert_eq!(scores.by_category["mixed"].passed.of, 1);
        assert_eq!(scores.by_category["grammar"].passed.hits, 1);
        let paired = paired(&scores, &scores).unwrap();
        assert_eq!((paired.only_this, paired.only_other, paired.of), (0, 0, 5));

        // Again: only what had no answer is asked, and no time is made up for what was.
        let mut generator = Generator::Fake(Fake::new([refused(), refused(), Line::says("a cat")]));
        let mut asking =
            Asking { generator: &mut generator, journal: &mut journal, progress: &progress, stop: &stop };
        let (again, asked) = run(&set, &mut asking, "here", 100).unwrap().unwrap();
        assert_eq!((asked.totals.calls, asked.totals.failed, asked.journalled), (1, 2, 12));
        assert_eq!(again.consistency.seconds, None);
        assert_eq!(
            (again.passed, again.consistency.identical),
            (scores.passed, scores.consistency.identical)
        );
        // Answers from another place are other answers.
        let mut generator = Generator::Fake(Fake::new((0..15).map(|_| Line::says("the cat"))));
        let mut asking =
            Asking { generator: &mut generator, journal: &mut journal, progress: &progress, stop: &stop };
        let (_, asked) = run(&set, &mut asking, "there", 100).unwrap().unwrap();
        assert_eq!((asked.totals.calls, asked.journalled), (15, 0));
    }
}
