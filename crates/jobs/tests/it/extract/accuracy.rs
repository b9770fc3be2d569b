//! Records beside what is true. Each test that tells of the original names what its comparison got wrong.

use haul_jobs::extract::accuracy::{Columns, CompareError, Comparison, Sheet, Table, compare};
use haul_jobs::extract::schema::{Schema, Syntax};

const SCHEMA: &str = r#"
[entity]
name = "facility"
plural = "facilities"

[[groups]]
name = "terms"
[[groups.fields]]
name = "margin"
label = "Margin p.a."
type = "percent"
[[groups.fields]]
name = "maturity"
label = "Final maturity"
type = "date"
[[groups.fields]]
name = "amount"
type = "amount"
unit = "thousand"
[[groups.fields]]
name = "agent"
type = "text"
[[groups.fields]]
name = "hedged"
type = "yes_no"
[[groups.fields]]
name = "tenor"
type = "duration"
"#;

fn schema() -> Schema {
    Schema::parse(SCHEMA, Syntax::Toml).unwrap()
}

fn table(text: &str) -> Table {
    Table::parse(text).unwrap()
}

fn compared(records: &str, golden: &str) -> Comparison {
    let schema = schema();
    let records = Sheet::of_table(&table(records), Some(&schema)).unwrap();
    compare(&records, &table(golden), &Columns::new(), Some(&schema)).unwrap()
}

/// Of one row and one column: strict, lenient, wrong.
fn cell(column: &str, golden: &str, found: &str) -> (usize, usize, usize) {
    let sheet = |value: &str| format!("company,facility,{column}\nAcme,A,\"{value}\"\n");
    let counts = compared(&sheet(found), &sheet(golden)).overall;
    assert_eq!((counts.golden, counts.missing, counts.invented), (1, 0, 0), "{golden} {found}");
    (counts.strict, counts.lenient, counts.wrong)
}

const STRICT: (usize, usize, usize) = (1, 0, 0);
const LENIENT: (usize, usize, usize) = (0, 1, 0);
const WRONG: (usize, usize, usize) = (0, 0, 1);

#[test]
fn cells_are_read_as_their_fields_are() {
    for (column, golden, found, expected) in [
        ("margin", "2.75%", "275 bps", STRICT),
        ("margin", "2.75%", "2.754 %", LENIENT),
        ("margin", "2.75%", "2.57%", WRONG),
        ("maturity", "31 March 2031", "2031-03-31", STRICT),
        ("maturity", "03/2031", "31 March 2031", LENIENT),
        ("maturity", "03/2031", "30 April 2031", WRONG),
        ("amount", "EUR 250 million", "EUR 250000000", STRICT),
        ("amount", "250 million", "EUR 250m", LENIENT),
        ("amount", "USD 250m", "EUR 250m", WRONG),
        ("agent", "First Merchant Bank", "first merchant bank.", STRICT),
        ("agent", "First Merchant Bank", "First Merchant Bank plc", LENIENT),
        ("hedged", "Yes", "yes, by swap", STRICT),
        ("tenor", "three (3) years", "36 months", STRICT),
        ("tenor", "180 months", "180 days", WRONG),
    ] {
        assert_eq!(cell(column, golden, found), expected, "{column}: {golden} {found}");
    }
}

/// The original took one text inside the other for the same: "no" was right wherever "north" or "not known" stood, and
/// "5" wherever "2035" did.
#[test]
fn a_text_inside_another_is_not_the_same() {
    assert_eq!(cell("agent", "no", "Bank of the North"), WRONG);
    assert_eq!(cell("agent", "Bank", "First Merchant Bank of the North"), WRONG);
    assert_eq!(cell("agent", "5", "2035"), WRONG);
    // What begins with "no" was No: "Norway", "not later than May".
    assert_eq!(cell("hedged", "No", "Norway"), WRONG);
    assert_eq!(cell("hedged", "No", "not hedged until May"), WRONG);
}

/// The original matched rows by their place, so one facility too many made all after it wrong.
#[test]
fn rows_are_matched_by_what_they_are() {
    let golden = "Client Folder,Facility,margin,maturity\nAcme,Term Loan A,2%,2031\nAcme,Term Loan B,3%,2032\nBeta,Bridge,4%,2033\n";
    let records = "company,facility,margin,maturity\nbeta,the bridge,4%,2033\nAcme,Overdraft,9%,2040\nAcme,Term Loan B,3%,2032\nAcme,Facility 1,2%,2031\n";
    let compared = compared(records, golden);
    assert_eq!((compared.overall.golden, compared.overall.strict, compared.overall.invented), (6, 6, 2));
    assert!(compared.missing_rows.is_empty());
    assert_eq!(compared.extra_rows.len(), 1);
    assert_eq!(compared.extra_rows[0].facility, "Overdraft");
}

/// Rows without a record did not count in the original, so a system that found one of ten facilities was as good as one
/// that found all.
#[test]
fn missing_rows_are_missing_values() {
    let golden = "company,facility,margin,maturity\nAcme,A,2%,2031\nAcme,B,3%,2032\nCeta,C,3%,\n";
    let compared = compared("company,facility,margin,maturity\nAcme,A,2%,\n", golden);
    let all = &compared.overall;
    assert_eq!((all.golden, all.strict, all.missing, all.wrong), (5, 1, 4, 0));
    assert_eq!(all.strict_accuracy(), Some(0.2));
    let missing: Vec<_> = compared.missing_rows.iter().map(|row| row.company.as_str()).collect();
    assert_eq!(missing, ["Acme", "Ceta"]);
    assert_eq!(compared.columns[0].name, "maturity");
    assert_eq!(compared.columns[0].counts.strict_accuracy(), Some(0.0));
}

/// Words for nothing are no values, on either side: a golden `N/A` is not missed, and a `NOT_FOUND` is not invented.
#[test]
fn words_for_nothing_are_nothing() {
    let golden = "company,facility,margin,agent,hedged\nAcme,A,N/A,-,Yes\n";
    let records = "company,facility,margin,agent,hedged\nAcme,A,2%,NOT_FOUND,POSSIBLY_PRESENT\n";
    let all = compared(records, golden).overall;
    assert_eq!((all.golden, all.missing, all.invented, all.neither), (1, 1, 1, 1));
}

#[test]
fn tables_as_the_original_writes_them_are_read() {
    let records = "Client Folder,Source Files,Comments,Confidence Score,Margin p.a.,Final maturity\n\
        Acme,a.pdf,Facility: Term Loan A | Type: term loan,0.9,2.75%,03/2031\n";
    let golden = "Client,Name,Spread,End,Rating\nAcme,Term Loan A,2.75%,03/2031,BB\n";
    let schema = schema();
    let records = Sheet::of_table(&table(records), Some(&schema)).unwrap();
    let map = |lines: &[(&str, &str)]| -> Columns {
        lines.iter().map(|(golden, ours)| ((*golden).to_owned(), (*ours).to_owned())).collect()
    };
    let lines = [("Name", "facility"), ("Spread", "Margin p.a."), ("End", "maturity")];
    let compared = compare(&records, &table(golden), &map(&lines), Some(&schema)).unwrap();
    assert_eq!((compared.overall.strict, compared.overall.golden), (2, 2));
    assert_eq!(compared.not_compared, ["Rating"]);
    let error = compare(&records, &table(golden), &map(&[("Spraed", "margin")]), Some(&schema)).unwrap_err();
    assert!(error.to_string().contains("did you mean \"Spread\"?"), "{error}");
    let error = compare(&records, &table(golden), &map(&[("Spread", "magrin")]), Some(&schema)).unwrap_err();
    assert!(error.to_string().contains("did you mean \"margin\"?"), "{error}");
    let nothing = compare(&records, &table(golden), &Columns::new(), Some(&schema)).unwrap_err();
    assert_eq!(nothing, CompareError::NothingInCommon);
    let nameless = Sheet::of_table(&table("a,b\n1,2\n"), None).unwrap_err();
    assert_eq!(nameless, CompareError::NoCompany { table: "records" });
    assert!(nameless.hint().is_some());
}

/// Without a schema nobody says that 180 months and 180 days are of one type and not one value.
#[test]
fn without_a_schema_cells_are_read_as_what_both_are() {
    let compared = |golden: &str, found: &str| {
        let sheet = |value: &str| table(&format!("company,facility,x\nAcme,A,\"{value}\"\n"));
        let records = Sheet::of_table(&sheet(found), None).unwrap();
        let all = compare(&records, &sheet(golden), &Columns::new(), None).unwrap().overall;
        (all.strict, all.lenient, all.wrong)
    };
    assert_eq!(compared("2.75%", "275 bps"), STRICT);
    assert_eq!(compared("31 March 2031", "2031-03-31"), STRICT);
    assert_eq!(compared("180 months", "180 days"), WRONG);
    assert_eq!(compared("three years", "36 months"), STRICT);
    assert_eq!(compared("10", "100"), WRONG);
}
