//! Records against the rules of the sample schema.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use haul_jobs::extract::crosscheck::{Finding, crosscheck, ordering};
use haul_jobs::extract::normalise::normalise;
use haul_jobs::extract::schema::{DateFormat, FieldType, Formats};

use super::schema::read;

fn checked(values: &[(&str, &str)]) -> (Vec<Finding>, BTreeMap<String, String>) {
    let schema = read("samples/extract/project-finance.toml");
    let mut record = values.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect();
    let findings = crosscheck(&schema, &mut record);
    (findings, record)
}

fn rules(values: &[(&str, &str)]) -> Vec<String> {
    checked(values).0.into_iter().map(|finding| finding.rule).collect()
}

#[test]
fn a_no_with_details_becomes_a_yes() {
    let (findings, record) = checked(&[("interest hedged", "no."), ("swap rate", "2.1%")]);
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].rule.as_str(), record["interest hedged"].as_str()), ("a swap is a hedge", "Yes"));
    let (set, before) = findings[0].set.as_ref().unwrap();
    assert_eq!((set.field.as_str(), before.as_deref()), ("interest hedged", Some("no.")));
    // Neither a No without details, nor details beside a Yes, nor a field that is empty.
    assert_eq!(rules(&[("interest hedged", "No")]), [""; 0]);
    assert_eq!(rules(&[("interest hedged", "Yes"), ("swap rate", "2.1%")]), [""; 0]);
    assert_eq!(rules(&[("interest hedged", "No"), ("swap rate", " ")]), [""; 0]);
    assert_eq!(rules(&[("interest hedged", "North"), ("swap rate", "2.1%")]), [""; 0]);
}

#[test]
fn dates_and_numbers_are_compared_where_they_can_be() {
    let order = |signing, maturity| rules(&[("signing date", signing), ("maturity date", maturity)]);
    assert_eq!(order("1 May 2031", "30 April 2031"), ["repaid after signing"]);
    assert_eq!(order("1 May 2031", "2030"), ["repaid after signing"]);
    assert_eq!(order("1 May 2031", "2031"), [""; 0]);
    assert_eq!(order("1 May 2031", "soon"), [""; 0]);
    let drawn =
        |outstanding, commitment| rules(&[("outstanding amount", outstanding), ("commitment", commitment)]);
    assert_eq!(drawn("EUR 12 million", "EUR 10,000,000"), ["drawn within the commitment"]);
    assert_eq!(drawn("EUR 12 million", "USD 10,000,000"), [""; 0]);
    assert_eq!(rules(&[("default DSCR", "1.20:1"), ("lock-up DSCR", "1.10x")]), ["default below lock-up"]);
}

#[test]
fn values_of_other_kinds_have_no_order() {
    let formats = Formats { date: DateFormat::Day, day_first: None, decimal: '.' };
    let value = |kind, text| normalise(kind, text, &formats).unwrap();
    let years = value(FieldType::Duration, "2 years");
    assert_eq!(ordering(&years, &value(FieldType::Duration, "25 months")), Some(Ordering::Less));
    assert_eq!(ordering(&years, &value(FieldType::Duration, "900 days")), None);
    assert_eq!(ordering(&value(FieldType::Percent, "2%"), &value(FieldType::Ratio, "2x")), None);
}
