//! Schemas of what is extracted: what is said of good ones and of bad ones, how a model would be asked, and how well
//! windows are found with one.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::fixtures::{Home, Needs, assert_ran, full, repository, text};
use crate::generate::tiny_llm;

/// Contracts of the small form.
const CONTRACTS_FEW: usize = 6;

fn sample(name: &str) -> PathBuf {
    repository().join("samples/extract").join(name)
}

fn tiny_schema() -> PathBuf {
    repository().join("assets/tiny-llm/schema.json")
}

const BAD: &str = r#"
[entity]
name = "loan"
plural = "loans"

[[groups]]
name = "terms"

[[groups.fields]]
name = "margin"
type = "percnt"
kewords = ["spread"]

[[groups.fields]]
name = "margin"

[limits]
window_tokens = 300
overlap_tokens = 300

[prompts]
fields = "ASK {{ facility }}"
"#;

#[test]
fn good_schemas_are_counted() {
    let home = Home::empty();
    for name in ["project-finance.toml", "contracts.toml"] {
        home.write(name, fs::read(sample(name)).unwrap());
    }
    home.write("tiny.json", fs::read(tiny_schema()).unwrap());
    let counts = |name: &str| home.ok(&["schema", "check", name]).stdout;
    assert_eq!(
        counts("project-finance.toml"),
        "project-finance.toml: ok, 13 groups, 72 fields, 8 rules, 2 languages\n"
    );
    assert_eq!(counts("contracts.toml"), "contracts.toml: ok, 2 groups, 4 fields, 1 rule\n");
    assert_eq!(counts("tiny.json"), "tiny.json: ok, 6 groups, 24 fields\n");
    assert_eq!(
        home.json(&["schema", "check", "tiny.json"]),
        json!({"file": "tiny.json", "ok": true, "problems": [], "groups": 6, "fields": 24, "rules": 0, "languages": 0})
    );
}

#[test]
fn everything_that_is_wrong_is_listed() {
    let home = Home::empty();
    home.write("bad.toml", BAD);
    assert_ran!(home, home.run(&["schema", "check", "bad.toml"]), @r#"
    exit 1
    --- stdout
    bad.toml: line 11, column 8: groups[0].fields[0].type: `percnt` is no type (did you mean `percent`?)
    bad.toml: line 12, column 1: groups[0].fields[0]: `kewords` is no key here (did you mean `keywords`?)
    bad.toml: line 15, column 8: groups[0].fields[1].name: a second field `margin`
    bad.toml: line 17, column 1: limits: windows of 300 tokens that repeat 300 never end
    4 problems
    --- stderr
    "#);
    let ran = home.run(&["schema", "check", "bad.toml", "--json"]);
    assert_eq!((ran.code, ran.json()["problems"].as_array().unwrap().len()), (1, 4));
    assert_eq!(ran.json()["problems"][0]["line"], 11);
    // What is to be explained must be right.
    assert_ran!(home, home.run(&["schema", "explain", "bad.toml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: bad.toml: line 11, column 8: groups[0].fields[0].type: `percnt` is no type (and 3 more)

    hint: `haul schema check FILE` lists them all
    "#);
}

#[test]
fn what_is_no_schema_could_not_be_checked() {
    let home = Home::empty();
    home.write("schema.yaml", "entity: loan");
    assert_ran!(home, home.run(&["schema", "check", "schema.yaml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: schema.yaml: no schema by its name

    hint: schemas are .toml and .json files
    "#);
    assert_ran!(home, home.run(&["schema", "check", "none.toml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: cannot read none.toml: No such file or directory (os error 2)
    "#);
    home.write("bytes.toml", b"\xff\xfe");
    assert_eq!(home.run(&["schema", "check", "bytes.toml"]).code, 2);
}

#[test]
fn a_schema_is_explained_as_it_would_be_asked() {
    let home = Home::empty();
    home.write("tiny.json", fs::read(tiny_schema()).unwrap());
    home.write("contracts.toml", fs::read(sample("contracts.toml")).unwrap());
    assert_ran!(home, home.run(&["schema", "explain", "tiny.json", "--group", "pricing"]), @r#"
    exit 0
    --- stdout
    facility: A loan or credit facility granted to the company
      types: term loan, revolving credit facility, bridge loan, capex facility, guarantee facility, VAT facility, working capital facility, construction loan
      6 groups, 24 fields

    pricing
      margin (percent): Interest margin over the reference rate; found by margin, spread, interest
      base_rate (enum): Reference rate; one of SOFR, EURIBOR, SONIA, SARON, BBSY, CORRA, NIBOR, STIBOR, TONA; found by reference rate, benchmark, floating rate
      commitment_fee (percent): Fee on the undrawn commitment; found by commitment fee, undrawn fee
      upfront_fee (percent): Arrangement fee paid at signing; found by upfront fee, arrangement fee

    sizes                                words  questions  answer tokens
      fields: pricing                       10          4            120
    a window has 450 tokens of a context of 1,024, beside the largest question and its answer

    --- user: the window, then one of the questions
    [1] (a sentence of the document)
    [2] (a sentence of the document)

    --- fields: pricing
    TASK fields
    FACILITY (the name of the facility)
    FIELDS margin
    --- its answer: {"type":"object","properties":{"margin":{"type":"object","properties":{"value":{"type":"string"},"at":{"type":"integer","minimum":1,"maximum":2},"confidence":{"enum":["HIGH","MEDIUM","LOW"]}},"required":["value","at","confidence"],"additionalProperties":false}},"required":[],"additionalProperties":false}
    --- stderr
    "#);
    let contracts = home.ok(&["schema", "explain", "contracts.toml"]).stdout;
    for part in [
        "a term has a beginning: where term is stated and effective_date is not stated, the record is marked: a term",
        "--- system\nYou read documents of one company and answer questions about its contracts (an agreement",
        "== example.pdf, page 1 ==\n[1] (a sentence of the document)\n[2] (a sentence of the document)\n",
        "--- entities\nWhich contracts does this document name?\n",
        "- party (name): The companies or persons that enter into the agreement; as it is named where",
        "Leave out every field that the document does not state.\n",
        "--- verify\nThe contract is: (the name of the contract)\n",
    ] {
        assert!(contracts.contains(part), "no {part:?} in:\n{contracts}");
    }
    assert_ran!(home, home.run(&["schema", "explain", "tiny.json", "--group", "prices"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: no group prices

    hint: there are amounts, pricing, dates, parties, covenants, terms
    "#);
    let document = home.json(&["schema", "explain", "tiny.json"]);
    assert_eq!(document["groups"].as_array().unwrap().len(), 6);
    assert_eq!(document["prompts"]["questions"][0]["question"], "TASK facilities");
    assert_eq!(document["prompts"]["unit"], "words");
}

#[test]
fn sizes_are_in_tokens_where_a_model_counts_them() {
    if !Needs("schema").worker() {
        return;
    }
    let home = Home::empty();
    let schema = tiny_schema();
    let model = tiny_llm();
    let document =
        home.json(&["schema", "explain", text(&schema), "--model", text(&model), "--threads", "1"]);
    let prompts = &document["prompts"];
    assert_eq!((&prompts["unit"], &prompts["context_tokens"]), (&json!("tokens"), &json!(1024)));
    assert_eq!(prompts["window_tokens"], 450);
    let sizes: Vec<u64> = prompts["questions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|asked| asked["size"].as_u64().unwrap())
        .collect();
    assert!(sizes.iter().all(|tokens| (2..60).contains(tokens)), "{sizes:?}");
}

/// Values that are known of contracts, as `haul bench windows` reads them; underscores stand for spaces.
fn expected(table: &str, most: usize) -> String {
    let mut lines = String::new();
    for row in table.lines().take(most) {
        let (file, known) = row.split_once('\t').unwrap();
        let mut values = serde_json::Map::new();
        for pair in known.split_whitespace() {
            let (field, value) = pair.split_once('=').unwrap();
            let of_field = values.entry(field).or_insert_with(|| json!([]));
            of_field.as_array_mut().unwrap().push(json!(value.replace('_', " ")));
        }
        writeln!(lines, "{}", json!({"file": file, "values": values})).unwrap();
    }
    lines
}

/// Windows of 300 tokens of real contracts, asked with a schema that knows contracts in general.
#[test]
fn windows_that_hold_a_value_are_among_the_first_three() {
    let needs = Needs("windows of contracts");
    let (Some(minilm), Some(pdfium), Some(contracts)) =
        (needs.minilm(), needs.pdfium(), needs.shared("contracts"))
    else {
        return;
    };
    let home = Home::empty();
    home.ok(&["model", "add", text(&minilm), "--name", "minilm", "--link"]);
    let table = fs::read_to_string(contracts.join("expected.tsv")).unwrap();
    let most = if full() { usize::MAX } else { CONTRACTS_FEW };
    let expected = home.write("expected.jsonl", expected(&table, most));
    let schema = sample("contracts.toml");
    let report = home.json(&[
        "bench",
        "windows",
        text(&contracts.join("pdf")),
        "--schema",
        text(&schema),
        "--expected",
        text(&expected),
        "--model",
        "minilm",
        "--pdfium",
        text(&pdfium),
    ]);
    let measured = &report["measured"];
    let share = |ranking: &str, of: &str| measured["shares"][ranking][of].as_f64().unwrap();
    let shown: Vec<String> = ["hybrid", "bm25", "dense", "random"]
        .map(|ranking| format!("{ranking} {:.3} {:.3}", share(ranking, "top1"), share(ranking, "top3")))
        .to_vec();
    println!("{} values: {}", measured["cases"], shown.join(", "));
    assert!(share("hybrid", "top3") >= 0.9, "{shown:?} {:#}", measured["by_field"]);
    assert!(share("hybrid", "top3") > share("random", "top3") + 0.2, "{shown:?}");
}
