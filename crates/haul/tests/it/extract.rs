//! Companies read by the repository's tiny model: records, evidence, and how a run ends.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::fixtures::{Home, Needs, Ran, repository};
use crate::generate::{killed_when_kept, tiny_llm};

fn companies() -> PathBuf {
    repository().join("samples/extract/companies")
}

fn extract(home: &Home, paths: &[&str], flags: &[&str]) -> Ran {
    let (model, schema) = (tiny_llm(), repository().join("assets/tiny-llm/schema.json"));
    let args = [
        "--schema",
        schema.to_str().unwrap(),
        "--model",
        model.to_str().unwrap(),
        "--out",
        "out",
        "--threads",
        "1",
        "--json",
    ];
    home.run(&[&["extract"], paths, &args, flags].concat())
}

fn document(home: &Home, name: &str) -> Value {
    serde_json::from_slice(&fs::read(home.path("out").join(name)).unwrap()).unwrap()
}

fn value<'a>(records: &'a Value, facility: &str, field: &str) -> &'a Value {
    let record = records.as_array().unwrap().iter().find(|record| record["facility"] == facility);
    &record.unwrap_or_else(|| panic!("no {facility} in {records:#}"))["fields"][field]
}

#[test]
fn companies_become_records_with_evidence_and_a_rerun_asks_nothing() {
    if !Needs("extract").worker() {
        return;
    }
    let home = Home::empty();
    let folder = companies();
    let ran = extract(&home, &[folder.to_str().unwrap()], &[]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let receipt = ran.json();
    let count = fs::read_dir(&folder).unwrap().count();
    assert_eq!(receipt["items"]["by_verdict"]["ok"], count);
    assert!(
        receipt["calls"]["reused_prefix_tokens"].as_u64() > receipt["calls"]["prefill_tokens"].as_u64(),
        "{receipt:#}"
    );
    let records = document(&home, "records.json");
    let margin = value(&records, "Term Loan A", "margin");
    assert_eq!(margin["value"], "2.35%");
    let evidence = &margin["evidence"];
    assert_eq!((&evidence["file"], &evidence["aligned"]), (&"credit-summary.txt".into(), &true.into()));
    let text = fs::read_to_string(folder.join("north-quay/credit-summary.txt")).unwrap();
    let quote = evidence["quote"].as_str().unwrap();
    assert!(text.contains(quote), "{quote}");
    assert_eq!(value(&records, "Working Capital Line", "margin")["value"], "3.10%");
    assert_eq!(value(&records, "Construction Facility", "base_rate")["value"], "NIBOR");
    let table = fs::read_to_string(home.path("out/records.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + records.as_array().unwrap().len());
    assert_eq!(document(&home, "coverage.json").as_array().unwrap().len(), count);
    let page = fs::read_to_string(home.path("out/review/north-quay.html")).unwrap();
    assert!(page.contains("credit-summary.txt") && page.contains("2.35%"), "{page}");

    let again = extract(&home, &[folder.to_str().unwrap()], &[]);
    assert_eq!(again.json()["calls"]["n"], 0, "{again:#?}");
    assert_eq!(document(&home, "records.json"), records);
}

#[test]
fn a_company_that_cannot_be_read_has_a_verdict_and_the_others_finish() {
    if !Needs("extract").worker() {
        return;
    }
    let home = Home::empty();
    home.write("in/empty/nothing.txt", "\n");
    home.write("in/broken/loan.pdf", "no pdf");
    let loan = fs::read(companies().join("tarn-hydro/loan-note.txt")).unwrap();
    home.write("in/tarn/loan-note.txt", &loan);
    home.write("in/tarn/table.xyz", "what is this");
    let ran = extract(&home, &["in"], &[]);
    assert_eq!(ran.code, 1, "{ran:#?}");
    let receipt = ran.json();
    assert_eq!(receipt["items"]["total"], 3);
    let failures = receipt["failures"].as_array().unwrap();
    let items: Vec<&str> = failures.iter().map(|failure| failure["item"].as_str().unwrap()).collect();
    assert_eq!(items, ["broken", "empty", "tarn"]);
    assert_eq!(failures[1]["verdict"], "empty");
    assert_eq!(failures[2]["verdict"], "partly_read");
    let records = document(&home, "records.json");
    assert_eq!(value(&records, "Construction Facility", "margin")["value"], "1.85%");
    let cuts = records[0]["cuts"].to_string();
    assert!(cuts.contains("table.xyz"), "{cuts}");
}

#[test]
fn what_a_cap_leaves_out_is_listed_and_a_forecast_writes_no_record() {
    if !Needs("extract").worker() {
        return;
    }
    let home = Home::empty();
    let folder = companies().join("north-quay");
    let folder = folder.to_str().unwrap();
    let plan = extract(
        &home,
        &[folder],
        &["--plan", "--facilities", "2", "--no-early-stop", "--deep-fields", "0", "--no-verify"],
    );
    assert_eq!(plan.code, 0, "{plan:#?}");
    assert!(!home.path("out/records.json").exists());
    let planned = plan.json()["total"].clone();
    assert_eq!(planned["calls_low"], planned["calls_high"]);
    let ran = extract(
        &home,
        &[folder],
        &["--facilities", "2", "--no-early-stop", "--deep-fields", "0", "--no-verify"],
    );
    let calls = &ran.json()["calls"];
    let asked = calls["n"].as_u64().unwrap() + calls["journalled"].as_u64().unwrap();
    assert_eq!(Some(asked), planned["calls_low"].as_u64(), "{calls:#}");
    let capped = extract(&home, &[folder], &["--group-windows", "1", "--section-passes", "0"]);
    assert_eq!(capped.code, 0, "{capped:#?}");
    let notes = capped.json()["notes"].to_string();
    assert!(notes.contains("--section-passes"), "{notes}");
}

#[test]
fn companies_of_one_name_stay_apart_and_what_cannot_run_says_so() {
    if !Needs("extract").worker() {
        return;
    }
    let home = Home::empty();
    home.write("a/one/x.txt", "x");
    home.write("b/one/x.txt", "x");
    let ran = extract(&home, &["a", "b"], &[]);
    assert_eq!((ran.code, &ran.json()["items"]["total"]), (0, &2.into()), "{ran:#?}");
    let companies: Vec<String> = document(&home, "coverage.json")
        .as_array()
        .unwrap()
        .iter()
        .map(|company| company["company"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(companies, ["one", "one (2)"]);
    // A stray file once made one company of a folder of companies, in silence.
    home.write("c/two/x.txt", "x");
    home.write("c/three/x.txt", "x");
    home.write("c/list.txt", "x");
    let ran = extract(&home, &["c"], &["--quiet"]);
    assert_eq!((ran.code, &ran.json()["items"]["total"]), (0, &1.into()), "{ran:#?}");
    let ran = extract(&home, &["c"], &[]);
    assert!(
        ran.stderr.contains("c is read as one company, for files stand beside its 2 folders"),
        "{ran:#?}"
    );
    let ran = extract(&home, &["a"], &["--budget", "soon"]);
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(ran.stderr.contains("90s, 60m or 2h"), "{}", ran.stderr);
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    if !Needs("extract").worker() {
        return;
    }
    let (home, whole) = (Home::empty(), Home::empty());
    let folder = companies();
    let folder = folder.to_str().unwrap();
    assert_eq!(extract(&whole, &[folder], &[]).code, 0);
    let (model, schema) = (tiny_llm(), repository().join("assets/tiny-llm/schema.json"));
    let (model, schema) = (model.to_str().unwrap(), schema.to_str().unwrap());
    let args = [
        "extract",
        folder,
        "--schema",
        schema,
        "--model",
        model,
        "--out",
        "out",
        "--threads",
        "1",
        "--quiet",
    ];
    let mut hits = 0;
    for kept_bytes in [30_000, 90_000] {
        let mut child = home.haul(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        hits += usize::from(killed_when_kept(&mut child, &home.path("out/journal.sqlite"), kept_bytes));
    }
    assert!(hits > 0, "every run ended before its kill");
    let ran = extract(&home, &[folder], &[]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let calls = ran.json()["calls"].clone();
    assert!(calls["journalled"].as_u64().unwrap() > 0, "{calls}");
    let values = |home: &Home| -> Vec<(String, Value)> {
        let records = document(home, "records.json");
        let fields = |record: &Value| {
            let facility = record["facility"].as_str().unwrap().to_owned();
            let fields = record["fields"].as_object().unwrap().clone();
            fields
                .into_iter()
                .map(move |(name, field)| (format!("{facility}/{name}"), field["value"].clone()))
        };
        records.as_array().unwrap().iter().flat_map(fields).collect()
    };
    let (a, b) = (values(&home), values(&whole));
    // The engine is not invariant to what is computed beside a call; that is its limit.
    let different = a.iter().zip(&b).filter(|(a, b)| a != b).count();
    assert!(a.len() == b.len() && different * 100 <= a.len(), "{different} of {} differ", a.len());
}
