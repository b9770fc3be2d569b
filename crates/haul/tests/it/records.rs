//! Records beside what is true, through the command line.

use serde_json::json;

use crate::fixtures::{Home, assert_ran, repository};

const GOLDEN: &str = "Client,Facility,Spread,Final maturity,Rating\n\
    Acme,Term Loan A,2.75%,31 March 2031,BB\n\
    Acme,Term Loan B,3%,2032,\n\
    Beta,Bridge,4%,2033,B\n";
/// As `haul extract` writes it, with the tiny model's schema.
const RECORDS: &str = "Client Folder,Source Files,Comments,Confidence Score,margin,maturity_date,agent\r\n\
    Acme,a.pdf,Facility: Term Loan A | Type: term loan,1.00,275 bps,2031-03,Kelmore Bank\r\n\
    Acme,a.pdf,Facility: Term Loan B | Type: term loan,0.60,3.5%,,\r\n\
    Acme,a.pdf,Facility: Overdraft | Type: ,0.30,9%,,\r\n";
const MAP: &str = "\"Spread\" = \"margin\"\n\"Final maturity\" = \"maturity_date\"\n";

fn home() -> Home {
    let home = Home::empty();
    home.write("golden.csv", GOLDEN);
    home.write("records.csv", RECORDS);
    home.write("map.toml", MAP);
    home.write("schema.json", std::fs::read(repository().join("assets/tiny-llm/schema.json")).unwrap());
    home
}

const ARGS: [&str; 9] = [
    "records",
    "compare",
    "records.csv",
    "--golden",
    "golden.csv",
    "--columns",
    "map.toml",
    "--schema",
    "schema.json",
];

#[test]
fn shares_are_told_by_column_and_rows_by_name() {
    let home = home();
    assert_ran!(home, home.run(&ARGS), @"
    exit 0
    --- stdout
    1 of 6 values right in normal form (16.7 %), 2 as far as both say (33.3 %)
      1 wrong, 3 missing, 1 invented
      3 golden rows, 3 records: 1 missing, 1 extra

    column                        strict lenient golden wrong missing invented
    margin                        33.3 %  33.3 %      3     1       1        1
    maturity_date                  0.0 %  33.3 %      3     0       2        0

    rows without a record
      Beta: Bridge

    records without a row
      Acme: Overdraft

    golden columns that are none of the records, and not compared
      Rating
    --- stderr
    ");
}

/// Records of nothing beside a full table ended as if the command were wrong, columns about the record counted as values,
/// and of two columns for one field the last one won.
#[test]
fn empty_records_miss_everything_and_columns_are_fields_once() {
    let home = home();
    home.write("none.json", "[]");
    let none =
        home.json(&["records", "compare", "none.json", "--golden", "golden.csv", "--columns", "map.toml"]);
    assert_eq!((&none["counts"]["golden"], &none["counts"]["missing"]), (&8.into(), &8.into()), "{none:#}");
    assert_eq!(none["rows"]["missing"].as_array().unwrap().len(), 3);
    let own = home.json(&["records", "compare", "records.csv", "--golden", "records.csv"]);
    let mut columns: Vec<&str> =
        own["columns"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect();
    columns.sort_unstable();
    assert_eq!(columns, ["agent", "margin", "maturity_date"], "{own:#}");
    assert_eq!(own["accuracy"]["strict"], 1.0);
    home.write("twice.toml", "\"Spread\" = \"margin\"\n\"Rating\" = \"margin\"\n");
    let ran =
        home.run(&["records", "compare", "records.csv", "--golden", "golden.csv", "--columns", "twice.toml"]);
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(
        ran.stderr.contains("the columns \"Spread\" and \"Rating\" of the golden table are both \"margin\""),
        "{}",
        ran.stderr
    );
}

#[test]
fn json_has_every_difference() {
    let document = home().json(&ARGS);
    assert_eq!(document["schema"], "haul.records_compare/1");
    assert_eq!(document["rows"]["missing"], json!([{"company": "Beta", "facility": "Bridge"}]));
    let wrong = json!({
        "company": "Acme", "facility": "Term Loan B", "column": "margin", "golden": "3%", "found": "3.5%",
        "kind": "wrong",
    });
    assert!(document["differences"].as_array().unwrap().contains(&wrong));
    assert_eq!(document["accuracy"]["strict"].as_f64().map(|share| (share * 6.0).round()), Some(1.0));
}

#[test]
fn what_cannot_be_compared_is_named() {
    let home = home();
    home.write("bad.csv", "Client,Spread\nAcme,\"2%\n");
    home.write("bad.toml", "\"Spraed\" = \"margin\"\n");
    home.write("bad.json", "{}");
    assert_ran!(home, home.run(&["records", "compare", "records.csv", "--golden", "bad.csv"]), @r"
    exit 2
    --- stdout
    --- stderr
    haul: bad.csv: line 2: a quoted cell that does not end

    hint: tables are .csv files in UTF-8 with a head
    ");
    let mut args = ARGS;
    args[6] = "bad.toml";
    let ran = home.run(&args);
    assert!(
        ran.stderr.contains("which is no column of the golden table (did you mean \"Spread\"?)"),
        "{}",
        ran.stderr
    );
    let ran = home.run(&["records", "compare", "bad.json", "--golden", "golden.csv"]);
    assert!(ran.code == 2 && ran.stderr.contains("bad.json: no records"), "{}", ran.stderr);
}
