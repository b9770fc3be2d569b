//! Companies taken through all questions with a script in place of a model.

use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use haul_corpus::document::BlockKind;
use haul_generate::Generator;
use haul_generate::call::{CallError, Finish};
use haul_generate::fake::{Fake, Line};
use haul_jobs::extract::ask::{Parts, UNFINISHED};
use haul_jobs::extract::caps::{Caps, Most};
use haul_jobs::extract::documents::Company;
use haul_jobs::extract::record::{Decided, Record, Status, Tie};
use haul_jobs::extract::run::{self, Outcome};
use haul_jobs::extract::schema::{NumberedUnit, Schema};
use haul_jobs::extract::tables;
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::Stop;
use serde_json::{Value, json};

use super::fixtures::source;
use super::schema::read;

fn loans() -> Company {
    let file = source(
        "loans.txt",
        &[
            "# 1. Term Loan A",
            "The facility bears interest at a margin of 2.75% per annum. Kelmore Bank plc acts as agent of this facility.",
            "# 2. Revolving Facility",
            "The Revolving Facility bears interest at a margin of 3.10% per annum.",
            "# 3. The project",
            "Revenue grew by 5.00% in 2031. The site covers 12 hectares.",
        ],
    );
    Company::new("North Quay", vec![file], NumberedUnit::Sentence)
}

/// Answers as a model that knows its document and takes whatever comes first in it, whatever it is asked for.
fn answer(prompt: &str) -> String {
    let (document, question) = prompt.rsplit_once("\n\n").unwrap();
    let lines: Vec<(u32, &str)> = document
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once("] "))
        .map(|(number, text)| (number.parse().unwrap(), text))
        .collect();
    let task = question.lines().next().unwrap();
    let after =
        |mark: &str| question.lines().find_map(|line| line.strip_prefix(mark)).unwrap_or("").to_owned();
    let found = |field: &str| {
        let (before, behind) = match field {
            "margin" => ("margin of ", " per annum"),
            "agent" => ("", " acts as agent"),
            "upfront_fee" => ("grew by ", " in 2031"),
            _ => return None,
        };
        lines.iter().find_map(|(number, text)| {
            let (_, rest) = text.split_once(before)?;
            let (value, _) = rest.split_once(behind)?;
            Some(json!({"value": value, "at": number, "confidence": "HIGH"}))
        })
    };
    let said = match task {
        "TASK facilities" => {
            let names = ["Term Loan A", "Revolving Facility", "Sponsor Loan"];
            let named: Vec<Value> = names
                .iter()
                .filter(|name| document.contains(**name) || **name == "Sponsor Loan")
                .map(|name| json!({"name": name, "type": "term loan"}))
                .collect();
            json!({ "facilities": named })
        }
        "TASK present" => json!({"present": ["pricing", "parties"]}),
        "TASK verify" => json!({"correct": after("VALUE ") != "5.00%"}),
        _ => {
            let fields = after("FIELDS ");
            let stated = fields.split(", ").filter_map(|field| Some((field.to_owned(), found(field)?)));
            Value::Object(stated.collect())
        }
    };
    said.to_string()
}

fn extracted(fake: Fake, folder: &Path, caps: &Caps) -> (Outcome, Vec<String>) {
    extracted_of(loans(), &schema(), fake, folder, caps)
}

fn extracted_of(
    company: Company,
    schema: &Schema,
    fake: Fake,
    folder: &Path,
    caps: &Caps,
) -> (Outcome, Vec<String>) {
    let until = caps.budget.map(|budget| Instant::now() + budget);
    let mut generator = Generator::Fake(fake);
    let mut journal = Journal::open(&folder.join("journal.sqlite")).unwrap();
    let (progress, stop) = (Progress::default(), Stop::default());
    let mut parts = Parts {
        generator: &mut generator,
        journal: &mut journal,
        progress: &progress,
        stop: &stop,
        embedding: None,
        traces: None,
        so_far: None,
    };
    let outcome = run::company(schema, company, 450, caps, &[], until, &mut parts).unwrap();
    let Generator::Fake(fake) = generator else { unreachable!() };
    (outcome, fake.asked().to_vec())
}

fn schema() -> Schema {
    read("assets/tiny-llm/schema.json")
}

fn record<'a>(outcome: &'a Outcome, facility: &str) -> &'a Record {
    outcome.records.iter().find(|record| record.facility == facility).unwrap()
}

fn says(text: &str) -> Line {
    Line::says(text)
}

#[test]
fn a_value_is_that_of_the_entity_its_sentence_is_about() {
    let folder = tempfile::tempdir().unwrap();
    let (outcome, _) = extracted(Fake::by(|prompt| says(&answer(prompt))), folder.path(), &Caps::USUAL);
    let names: Vec<&str> = outcome.records.iter().map(|record| record.facility.as_str()).collect();
    // No sentence names the third that the model lists.
    assert_eq!(names, ["Term Loan A", "Revolving Facility"]);
    let term = record(&outcome, "Term Loan A");
    let margin = &term.fields["margin"];
    assert_eq!((margin.value.as_deref(), margin.status), (Some("2.75%"), Status::Found));
    let evidence = margin.evidence.as_ref().unwrap();
    assert_eq!(evidence.quote, "The facility bears interest at a margin of 2.75% per annum.");
    assert_eq!(
        (evidence.aligned, evidence.tie, evidence.heading.as_deref()),
        (true, Tie::Under, Some("1. Term Loan A"))
    );
    let (start, end) = evidence.value_bytes.unwrap();
    assert_eq!(&loans().sources[0].document.text[start..end], "2.75%");
    assert_eq!(term.fields["agent"].value.as_deref(), Some("Kelmore Bank plc"));
    // Asked for the other one, the model gave the first margin of the window again: it is not taken.
    let revolving = record(&outcome, "Revolving Facility");
    assert_eq!(revolving.fields["margin"].value, None);
    assert_eq!(revolving.fields["agent"].value, None);
    // What stands beside no entity is of all, until the second question says no.
    let fee = &term.fields["upfront_fee"];
    assert_eq!((fee.status, &fee.others[0].value[..]), (Status::NotFound, "5.00%"));
    assert_eq!(fee.others[0].why, "asked again, the model says that it is not so");
    assert_eq!(term.fields["sponsor"].status, Status::NotFound);
    assert_eq!(margin.rule, Decided::Only);
    let row = tables::of_record(&schema(), term);
    assert!(row.starts_with("North Quay,loans.txt,Facility: Term Loan A | Type: term loan,"), "{row}");
    // The table alone says which of its values are not found again.
    let mut unsure = term.clone();
    unsure.fields.get_mut("margin").unwrap().evidence.as_mut().unwrap().aligned = false;
    let (schema, row) = (schema(), tables::of_record(&schema(), &unsure));
    let label = &schema.fields().find(|field| field.name == "margin").unwrap().label;
    let comments =
        format!("Facility: Term Loan A | Type: term loan | Not found again in its sentence: {label},");
    assert!(row.contains(&comments), "{row}");
    assert!(term.cuts.iter().any(|cut| cut.contains("Sponsor Loan")), "{:?}", term.cuts);
}

#[test]
fn an_answered_call_is_never_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let (first, asked) = extracted(Fake::by(|prompt| says(&answer(prompt))), folder.path(), &Caps::USUAL);
    assert!(asked.len() > 10, "{}", asked.len());
    let (second, asked) = extracted(Fake::by(|_| unreachable!()), folder.path(), &Caps::USUAL);
    assert_eq!(asked, [""; 0]);
    assert_eq!(first.records, second.records);
}

/// Every tenth call comes to something else: no answer, no JSON, null, numbers, a list, half an object.
#[test]
fn no_odd_answer_loses_a_company() {
    for seed in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let mut number = seed;
        let fake = Fake::by(move |prompt| {
            number += 1;
            let odd = [
                "null",
                "17",
                "[]",
                "{\"margin\":null}",
                "{\"margin\":2.75}",
                "{\"margin\":{\"value\":true,\"at\":\"x\"}}",
            ];
            match number % 10 {
                0 => match number % 3 {
                    0 => Line::fails(CallError::Refused { why: "busy".to_owned() }),
                    1 => Line {
                        answer: Ok(("{\"facil".to_owned(), Finish::Length)),
                        after: std::time::Duration::ZERO,
                    },
                    _ => says(odd[(number / 10) % odd.len()]),
                },
                _ => says(&answer(prompt)),
            }
        });
        let (outcome, _) = extracted(fake, folder.path(), &Caps::USUAL);
        assert!(!outcome.records.is_empty());
        for record in &outcome.records {
            assert_eq!(record.fields.len(), schema().fields().count());
        }
    }
}

#[test]
fn a_company_without_entities_stands_for_one_and_caps_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let caps = Caps { group_windows: 1, section_passes: Most::Number(0), ..Caps::USUAL };
    let fake = Fake::by(|prompt| match prompt.ends_with("TASK facilities") {
        true => says(r#"{"facilities":[]}"#),
        false => says(&answer(prompt)),
    });
    let (outcome, _) = extracted(fake, folder.path(), &caps);
    let [only] = &outcome.records[..] else { panic!("{:?}", outcome.records) };
    assert_eq!((only.facility.as_str(), only.is_company), ("North Quay", true));
    assert!(only.cuts.iter().any(|cut| cut.contains("the company stands for one")), "{:?}", only.cuts);
    assert_eq!(only.fields["margin"].value.as_deref(), Some("2.75%"));
}

/// With nothing stopped early the number of calls is known beforehand.
#[test]
fn without_early_stop_every_window_is_asked_for_every_field() {
    let folder = tempfile::tempdir().unwrap();
    let caps = Caps { early_stop: false, verify: false, deep_fields: 0, ..Caps::USUAL };
    let (outcome, asked) = extracted(Fake::by(|prompt| says(&answer(prompt))), folder.path(), &caps);
    let (windows, entities) = (outcome.coverage.windows.len(), outcome.records.len());
    assert_eq!(asked.len(), windows + windows * entities * schema().fields().count());
    assert!(outcome.coverage.cells.iter().all(|cells| cells.read.len() == windows));
}

/// An answer that ended at its limit made a failed cell of all fields of its group.
#[test]
fn a_cut_answer_is_asked_for_again_in_halves() {
    const FIELDS_MOST: usize = 2;
    let folder = tempfile::tempdir().unwrap();
    let mut schema = schema();
    schema.limits.fields_per_question = None;
    let fake = Fake::by(|prompt| {
        let fields = prompt.lines().find_map(|line| line.strip_prefix("FIELDS "));
        match fields.is_some_and(|fields| fields.split(", ").count() > FIELDS_MOST) {
            true => Line::cut(r#"{"margin": {"value": "2.7"#),
            false => says(&answer(prompt)),
        }
    });
    let (outcome, asked) = extracted_of(loans(), &schema, fake, folder.path(), &Caps::USUAL);
    assert_eq!(record(&outcome, "Term Loan A").fields["margin"].value.as_deref(), Some("2.75%"));
    assert!(outcome.coverage.cells.iter().all(|cells| cells.failed.is_empty()), "{:?}", outcome.coverage);
    let of_one = |prompt: &&String| prompt.contains("FIELDS") && !prompt.contains(", ");
    assert!(asked.iter().filter(of_one).count() > 0);

    // One that is cut whatever is asked ends in a verdict.
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::by(|prompt| match prompt.contains("FIELDS") {
        true => Line::cut(r#"{"margin": {"value": "2.7"#),
        false => says(&answer(prompt)),
    });
    let (outcome, _) = extracted_of(loans(), &schema, fake, folder.path(), &Caps::USUAL);
    let term = record(&outcome, "Term Loan A");
    assert_eq!(term.fields["margin"].status, Status::ExtractionError);
    assert!(term.cuts.iter().any(|cut| cut.contains("the answer was cut at")), "{:?}", term.cuts);
}

/// Questions for entities and for the truth of values that failed, or had an answer that nobody can read, left no line.
#[test]
fn a_question_without_an_answer_is_said_whatever_it_asks() {
    for (task, says_instead) in [("TASK verify", "maybe"), ("TASK verify", ""), ("TASK facilities", "none")] {
        let folder = tempfile::tempdir().unwrap();
        let fake = Fake::by(move |prompt| match prompt.contains(task) {
            true => says(says_instead),
            false => says(&answer(prompt)),
        });
        let (outcome, _) = extracted(fake, folder.path(), &Caps::USUAL);
        assert!(outcome.tally.unread > 0, "{task}: {says_instead:?}");
        let cuts = outcome.records[0].cuts.join("\n");
        let said =
            if task == "TASK verify" { "values were not verified: " } else { "windows were not read for " };
        assert!(cuts.contains(said), "{task}: {cuts}");
    }
}

/// Sections about other things, with the loans behind them.
fn long_company(sections: usize) -> Company {
    let mut paragraphs: Vec<String> = Vec::new();
    for section in 1..=sections {
        paragraphs.push(format!("# {section}. Site {section}"));
        paragraphs.extend((0..16).map(|line| format!("Field {line} of site {section} has clay and sand.")));
    }
    let loans = loans();
    let document = &loans.sources[0].document;
    let of_loans = document.blocks.iter().map(|block| {
        let words = &document.text[block.start..block.end];
        let mark = if matches!(block.kind, BlockKind::Heading(_)) { "# " } else { "" };
        format!("{mark}{words}")
    });
    paragraphs.extend(of_loans);
    let paragraphs: Vec<&str> = paragraphs.iter().map(String::as_str).collect();
    Company::new("Long", vec![source("all.txt", &paragraphs)], NumberedUnit::Sentence)
}

/// The loans stand at the end of the document: what is asked in the order of the documents, or group by group, has no
/// value when the time is over.
#[test]
fn a_budget_asks_for_what_is_likeliest_first_and_says_what_it_left() {
    const CALL: Duration = Duration::from_millis(4);
    const BUDGET: Duration = Duration::from_millis(600);
    let folder = tempfile::tempdir().unwrap();
    let slow = || Fake::by(|prompt| Line { after: CALL, ..says(&answer(prompt)) });
    let caps = Caps { budget: Some(BUDGET), ..Caps::USUAL };
    let started = Instant::now();
    let (outcome, asked) = extracted_of(long_company(60), &schema(), slow(), folder.path(), &caps);
    let took = started.elapsed();
    assert!(took < BUDGET * 2, "{took:?} for {} calls", asked.len());
    let term = record(&outcome, "Term Loan A");
    assert_eq!(term.fields["margin"].value.as_deref(), Some("2.75%"), "{:?}", term.cuts);
    let cuts = term.cuts.join("\n");
    assert!(cuts.contains("windows were not read for facilities: the time was over"), "{cuts}");
    assert!(cuts.contains("pairs of a window and a group were not asked: the time was over"), "{cuts}");
    let cells = &outcome.coverage.cells;
    assert!(cells.iter().any(|cells| !cells.out_of_time.is_empty()));
    assert!(cells.iter().all(|cells| cells.capped.is_empty()), "{cells:?}");

    // With time enough nothing is left out, and what was answered before is not asked again.
    let caps = Caps { budget: Some(Duration::from_secs(600)), ..Caps::USUAL };
    let fake = Fake::by(|prompt| says(&answer(prompt)));
    let (whole, more) = extracted_of(long_company(60), &schema(), fake, folder.path(), &caps);
    assert!(more.len() > asked.len(), "{} and {}", asked.len(), more.len());
    assert!(asked.iter().all(|prompt| !more.contains(prompt)));
    assert!(whole.coverage.cells.iter().all(|cells| cells.out_of_time.is_empty()));
}

/// A company of hours showed nothing before its end: its records are told behind every wave, and say that they are not
/// whole; and so they do when a run is interrupted.
#[test]
fn a_company_shows_what_it_has_come_to_before_it_is_done() {
    let told_until = |calls_max: usize, window_tokens: u32| {
        let folder = tempfile::tempdir().unwrap();
        let (progress, stop) = (Progress::default(), Stop::default());
        let (asked, requested) = (AtomicUsize::new(0), stop.clone());
        let fake = Fake::by(move |prompt| {
            if asked.fetch_add(1, Relaxed) + 1 == calls_max {
                requested.request();
            }
            says(&answer(prompt))
        });
        let mut told: Vec<Vec<Record>> = Vec::new();
        let mut parts = Parts {
            generator: &mut Generator::Fake(fake),
            journal: &mut Journal::open(&folder.path().join("journal.sqlite")).unwrap(),
            progress: &progress,
            stop: &stop,
            embedding: None,
            traces: None,
            so_far: Some(&mut |outcome: &Outcome| told.push(outcome.records.clone())),
        };
        let outcome =
            run::company(&schema(), loans(), window_tokens, &Caps::USUAL, &[], None, &mut parts).unwrap();
        (told, outcome)
    };
    let (told, outcome) = told_until(usize::MAX, 450);
    assert!(told.len() >= 2, "{}", told.len());
    let is_unfinished = |record: &Record| record.cuts.iter().filter(|cut| *cut == UNFINISHED).count();
    assert!(told.iter().flatten().all(|record| is_unfinished(record) == 1));
    assert!(outcome.records.iter().all(|record| is_unfinished(record) == 0));
    let values = |records: &[Record]| {
        records.iter().flat_map(|record| record.fields.values()).filter(|field| field.value.is_some()).count()
    };
    assert!(values(&told[0]) > 0);
    // The first wave is answered, and the stop comes in a later one.
    let (told, interrupted) = told_until(6, 450);
    assert!(interrupted.tally.asked.interrupted);
    assert_eq!((told[0].len(), interrupted.records.len()), (2, 2));
    for record in &interrupted.records {
        assert_eq!(record.cuts[0], UNFINISHED);
        assert!(!record.cuts.iter().any(|cut| cut.contains("--")), "{:?}", record.cuts);
    }
    assert!(values(&interrupted.records) > 0);
    assert!(told_until(1, 60).1.records.is_empty(), "not all windows were asked for entities");
}

/// A signal between two stages, or while a journal answers, left questions unasked that nobody missed: such a company was
/// whole, and its record said that the time of a run without `--budget` was over.
#[test]
fn a_stop_between_two_stages_leaves_a_company_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    for attempt in ["asked", "from the journal"] {
        let (progress, stop) = (Progress::default(), Stop::default());
        let requested = stop.clone();
        let mut parts = Parts {
            generator: &mut Generator::Fake(Fake::by(|prompt| says(&answer(prompt)))),
            journal: &mut Journal::open(&folder.path().join("journal.sqlite")).unwrap(),
            progress: &progress,
            stop: &stop,
            embedding: None,
            traces: None,
            so_far: Some(&mut |_: &Outcome| requested.request()),
        };
        let outcome = run::company(&schema(), loans(), 450, &Caps::USUAL, &[], None, &mut parts).unwrap();
        assert!(outcome.tally.asked.interrupted, "{attempt}");
        for record in &outcome.records {
            assert_eq!(record.cuts[0], UNFINISHED, "{attempt}");
            assert!(!record.cuts.iter().any(|cut| cut.contains("--budget")), "{attempt}: {:?}", record.cuts);
        }
        assert_eq!(outcome.records.len(), 2);
    }
}
