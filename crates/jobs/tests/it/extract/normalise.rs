//! Values as documents write them, and their normal forms.

use haul_jobs::extract::normalise::{Unread, normalise, of_field, readings};
use haul_jobs::extract::schema::{DateFormat, Field, FieldType, Formats, Unit};
use proptest::prelude::*;

const FORMATS: Formats = Formats { date: DateFormat::Day, day_first: None, decimal: '.' };

fn read(kind: FieldType, text: &str) -> Result<String, Unread> {
    normalise(kind, text, &FORMATS).map(|value| value.to_string())
}

#[track_caller]
fn all_read(kind: FieldType, cases: &[(&str, &str)]) {
    let wrong: Vec<_> = cases
        .iter()
        .filter(|(text, expected)| read(kind, text).as_deref() != Ok(expected))
        .map(|(text, expected)| format!("{text:?}: {:?}, not {expected:?}", read(kind, text)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[track_caller]
fn none_read(kind: FieldType, cases: &[(&str, Unread)]) {
    let wrong: Vec<_> = cases
        .iter()
        .filter(|(text, unread)| read(kind, text) != Err(*unread))
        .map(|(text, unread)| format!("{text:?}: {:?}, not {unread:?}", read(kind, text)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn dates() {
    all_read(
        FieldType::Date,
        &[
            ("14 September 2047", "2047-09-14"),
            ("on or about September 14, 2047", "2047-09-14"),
            ("September 14,2047", "2047-09-14"),
            ("Sept. 14th, 2047", "2047-09-14"),
            ("the 14th day of September, 2047", "2047-09-14"),
            ("March 31 st 2008", "2008-03-31"),
            ("14-Sep-47", "2047-09-14"),
            ("14.09.2047", "2047-09-14"),
            ("14.9.47", "2047-09-14"),
            ("2047-09-14", "2047-09-14"),
            ("31/03/2031", "2031-03-31"),
            ("03/31/2031", "2031-03-31"),
            ("05/05/2031", "2031-05-05"),
            ("03/2031", "2031-03"),
            ("2031-03", "2031-03"),
            ("March 2031", "2031-03"),
            ("mar 2031", "2031-03"),
            ("14 out 2031", "2031-10-14"),
            ("May 2031", "2031-05"),
            ("Q1 2031", "2031-03"),
            ("Q4/2031", "2031-12"),
            ("3Q 2031", "2031-09"),
            ("third quarter of 2031", "2031-09"),
            ("2031", "2031"),
            ("14 de septiembre de 2047", "2047-09-14"),
            ("1er janvier 2030", "2030-01-01"),
            ("1. M\u{e4}rz 2030", "2030-03-01"),
            ("14 wrze\u{15b}nia 2047 r.", "2047-09-14"),
            ("29 February 2024", "2024-02-29"),
            ("final maturity: 31 March 2031 (31/03/2031)", "2031-03-31"),
        ],
    );
    none_read(
        FieldType::Date,
        &[
            ("03/04/2031", Unread::Ambiguous),
            ("1 May 2030 or 1 June 2030", Unread::Several),
            ("2030-2031", Unread::Several),
            ("31 February 2030", Unread::Absent),
            ("29/02/2023", Unread::Absent),
            ("ten years from signing", Unread::Absent),
            ("45.99.2031", Unread::Absent),
            ("EUR 20,310", Unread::Absent),
            ("", Unread::Absent),
        ],
    );
    let day_first = Formats { day_first: Some(true), ..FORMATS };
    assert_eq!(normalise(FieldType::Date, "03/04/2031", &day_first).unwrap().to_string(), "2031-04-03");
    let month_first = Formats { day_first: Some(false), ..FORMATS };
    assert_eq!(normalise(FieldType::Date, "03/04/2031", &month_first).unwrap().to_string(), "2031-03-04");
}

#[test]
fn percentages() {
    all_read(
        FieldType::Percent,
        &[
            ("2.75%", "2.75%"),
            ("2,75 %", "2.75%"),
            ("2.750 per cent. per annum", "2.75%"),
            ("275 bps", "2.75%"),
            ("275bp", "2.75%"),
            ("12.5 basis points", "0.125%"),
            ("a margin of 2.75% (2.75 per cent)", "2.75%"),
            ("100%", "100%"),
            ("-0.5%", "-0.5%"),
            ("two per cent", "2%"),
            ("up to 3%", "3%"),
        ],
    );
    none_read(
        FieldType::Percent,
        &[
            // What no sign says is no percentage: it may be a share of one.
            ("2.75", Unread::Absent),
            ("0.0275", Unread::Absent),
            ("2-3%", Unread::Several),
            ("2.5% \u{2013} 3%", Unread::Several),
            ("between 2 and 3 per cent", Unread::Several),
            ("2 3/4%", Unread::Several),
            ("2% until year 5 and 2.5% thereafter", Unread::Several),
            ("EURIBOR", Unread::Absent),
            ("B2%", Unread::Absent),
        ],
    );
}

/// B.8.9: the original's list of ratio fields missed dividend cover, ND/RAB and D/E; here the type decides.
#[test]
fn ratios() {
    all_read(
        FieldType::Ratio,
        &[
            ("1.35x", "1.35x"),
            ("1.350 x", "1.35x"),
            ("1.35:1", "1.35x"),
            ("1.35 : 1.00", "1.35x"),
            ("1.35 to 1", "1.35x"),
            ("1.35 times", "1.35x"),
            ("not less than 1.20x", "1.2x"),
            ("135%", "1.35x"),
            ("1.35", "1.35x"),
            ("1,35x", "1.35x"),
            ("2\u{d7}", "2x"),
        ],
    );
    none_read(
        FieldType::Ratio,
        &[
            ("60:40", Unread::Ambiguous),
            ("1.20x-1.35x", Unread::Several),
            ("1.20x to 1.35x", Unread::Several),
            ("1.20x (lock-up), 1.05x (default)", Unread::Several),
            ("DSCR", Unread::Absent),
            ("see clause 21.2", Unread::Absent),
        ],
    );
}

/// B.8.9: "anything starting no is No".
#[test]
fn yes_and_no() {
    all_read(
        FieldType::YesNo,
        &[
            ("Yes", "Yes"),
            ("yes.", "Yes"),
            ("YES, by an interest rate swap", "Yes"),
            ("No", "No"),
            ("No - unhedged", "No"),
            ("no (see clause 4)", "No"),
            ("S\u{ed}", "Yes"),
            ("nein", "No"),
            ("Y", "Yes"),
            ("true", "Yes"),
        ],
    );
    none_read(
        FieldType::YesNo,
        &[
            ("Norway", Unread::Absent),
            ("North Sea Bank", Unread::Absent),
            ("no later than 2030", Unread::Absent),
            ("not stated", Unread::Absent),
            ("none", Unread::Absent),
            ("N/A", Unread::Absent),
            ("N, y", Unread::Absent),
            ("yesterday", Unread::Absent),
            ("", Unread::Absent),
        ],
    );
}

/// B.8.9: the original left amounts as they were, under a head that said thousands.
#[test]
fn amounts() {
    all_read(
        FieldType::Amount,
        &[
            ("EUR 250 million", "EUR 250000000"),
            ("\u{20ac}250m", "EUR 250000000"),
            ("250 mln EUR", "EUR 250000000"),
            ("MEUR 250", "EUR 250000000"),
            ("TEUR 12.5", "EUR 12500"),
            ("EUR 1.234.567,89", "EUR 1234567.89"),
            ("USD 12,500,000.00", "USD 12500000"),
            ("US$1.5bn", "USD 1500000000"),
            ("A$ 381,000,000", "AUD 381000000"),
            ("NOK 161 million", "NOK 161000000"),
            ("GBP 12 500 000", "GBP 12500000"),
            ("\u{a3}12k", "GBP 12000"),
            ("250,000", "250000"),
            ("80 MW", "80 MW"),
            ("an amount of EUR 5,000,000 (five million euros)", "EUR 5000000"),
            ("EUR -5 million", "EUR -5000000"),
        ],
    );
    none_read(
        FieldType::Amount,
        &[
            ("EUR 5-10 million", Unread::Several),
            ("EUR 5 million or EUR 6 million", Unread::Several),
            ("clause 5", Unread::Absent),
            ("250 m", Unread::Ambiguous),
            ("MEUR 5 million", Unread::Ambiguous),
            ("EUR 5 USD", Unread::Ambiguous),
            ("to be agreed", Unread::Absent),
        ],
    );
    // Whose dollar it is stays open.
    assert_eq!(read(FieldType::Amount, "$5m").as_deref(), Ok("$ 5000000"));
}

#[test]
fn durations() {
    all_read(
        FieldType::Duration,
        &[
            ("180 months", "180 months"),
            ("three (3) years", "36 months"),
            ("a three-year term", "36 months"),
            ("3-year", "36 months"),
            ("ten months", "10 months"),
            ("10 years and 6 months", "126 months"),
            ("one hundred and eighty months from signing", "180 months"),
            ("90 days", "90 days"),
            ("2 weeks", "14 days"),
            ("15y", "180 months"),
            ("2 a\u{f1}os", "24 months"),
            ("24 months (2 years)", "24 months"),
        ],
    );
    none_read(
        FieldType::Duration,
        &[
            ("2-3 years", Unread::Several),
            ("two or three years", Unread::Several),
            ("2 years; 3 years for trade secrets", Unread::Several),
            ("indefinitely", Unread::Absent),
            ("2031", Unread::Absent),
        ],
    );
}

#[test]
fn numbers_and_words() {
    all_read(FieldType::Number, &[("12,500", "12500"), ("three (3)", "3"), ("about 17", "17")]);
    none_read(
        FieldType::Number,
        &[("3 of 4", Unread::Several), ("A4", Unread::Absent), ("3/4", Unread::Several)],
    );
    all_read(FieldType::Text, &[("  two\n words ", "two words"), ("North Sea Bank", "North Sea Bank")]);
    none_read(FieldType::Name, &[(" \n", Unread::Absent)]);
}

fn field(kind: FieldType, unit: Unit) -> Field {
    Field {
        name: "f".to_owned(),
        label: "f".to_owned(),
        kind,
        description: String::new(),
        keywords: vec![],
        hints: vec![],
        values: vec![],
        synonyms: vec![],
        unit,
        max_tokens: None,
    }
}

#[test]
fn values_of_an_enum_are_found_by_their_spellings() {
    let field = Field {
        values: ["Senior secured", "unsecured", "No"].map(str::to_owned).to_vec(),
        synonyms: vec![("Senior secured".to_owned(), vec!["first lien".to_owned()])],
        ..field(FieldType::Enum, Unit::One)
    };
    let read = |text| of_field(&field, text, &FORMATS).map(|value| value.to_string());
    assert_eq!(read("senior  SECURED."), Ok("Senior secured".to_owned()));
    assert_eq!(read("First Lien"), Ok("Senior secured".to_owned()));
    // Neither a part of a value, nor a longer text with one in it.
    assert_eq!(read("secured"), Err(Unread::Absent));
    assert_eq!(read("North"), Err(Unread::Absent));
    assert_eq!(read("not unsecured"), Err(Unread::Absent));
}

#[test]
fn columns_are_written_as_the_schema_says() {
    let month = Formats { date: DateFormat::Month, ..FORMATS };
    let column = |kind, unit, text: &str| {
        let field = field(kind, unit);
        of_field(&field, text, &month).unwrap().in_column(&field, &month)
    };
    for (kind, unit, text, shown) in [
        (FieldType::Date, Unit::One, "31 March 2031", "03/2031"),
        (FieldType::Date, Unit::One, "Q2 2031", "06/2031"),
        (FieldType::Date, Unit::One, "2031", "2031"),
        (FieldType::Percent, Unit::One, "12.5 bps", "0.13%"),
        (FieldType::Percent, Unit::One, "2.5%", "2.50%"),
        (FieldType::Ratio, Unit::One, "1.2:1", "1.20x"),
        (FieldType::YesNo, Unit::One, "no.", "No"),
        (FieldType::Amount, Unit::Thousand, "EUR 250.5 million", "EUR 250500"),
        (FieldType::Amount, Unit::Million, "EUR 250,500", "EUR 0.2505"),
    ] {
        assert_eq!(column(kind, unit, text), shown, "{text}");
    }
}

#[test]
fn values_are_found_in_a_longer_text() {
    let text = "Dated 1 May 2030. The term is two (2) years; notice is 90 days.";
    let found = |kind| -> Vec<(&str, String)> {
        readings(kind, text, &FORMATS)
            .into_iter()
            .map(|reading| (&text[reading.range.clone()], reading.value.unwrap().to_string()))
            .collect()
    };
    assert_eq!(found(FieldType::Date), [("1 May 2030", "2030-05-01".to_owned())]);
    assert_eq!(
        found(FieldType::Duration),
        [("two (2) years", "24 months".to_owned()), ("90 days", "90 days".to_owned())]
    );
    assert_eq!(found(FieldType::Text), []);
}

fn kinds() -> impl Strategy<Value = FieldType> {
    prop::sample::select(FieldType::ALL.map(|(_, kind)| kind).to_vec())
}

/// What values are made of, and what lies near it.
fn texts() -> impl Strategy<Value = String> {
    let pieces = [
        "EUR",
        "MEUR",
        "$",
        "\u{20ac}",
        "1.35",
        "x",
        ":",
        "1",
        "2,75",
        "%",
        "275",
        "bps",
        "per",
        "cent",
        "March",
        "mar",
        "14",
        "th",
        "of",
        "2031",
        "31",
        "/",
        "-",
        "\u{2013}",
        ".",
        ",",
        "Q3",
        "three",
        "(3)",
        "years",
        "months",
        "and",
        "to",
        "12 500 000",
        "million",
        "m",
        "No",
        "yes",
        "(",
        ")",
        "\u{e9}",
        " ",
        "  ",
        "\n",
        "1.234.567,89",
        "day",
        "two",
        "hundred",
        "999999999999999999999999999999999999",
    ];
    prop_oneof![
        prop::collection::vec((prop::sample::select(pieces.to_vec()), any::<bool>()), 0..9).prop_map(
            |pieces| {
                pieces
                    .into_iter()
                    .map(|(piece, spaced)| if spaced { format!("{piece} ") } else { piece.to_owned() })
                    .collect()
            }
        ),
        any::<String>(),
    ]
}

fn digits(text: &str) -> String {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A normal form is its own normal form, and readings lie in the text.
    #[test]
    fn normal_forms_stay(kind in kinds(), text in texts(), day_first in any::<Option<bool>>(), comma in any::<bool>()) {
        let formats = Formats { day_first, decimal: if comma { ',' } else { '.' }, ..FORMATS };
        if let Ok(value) = normalise(kind, &text, &formats) {
            // Normal forms have a point.
            let again = normalise(kind, &value.to_string(), &FORMATS);
            prop_assert_eq!(again, Ok(value), "{:?}", text);
        }
        for reading in readings(kind, &text, &formats) {
            prop_assert!(text.is_char_boundary(reading.range.start) && text.is_char_boundary(reading.range.end));
            prop_assert!(reading.range.start < reading.range.end);
        }
    }

    /// The digits of a number stand in the text, one behind the other: nothing is added and nothing left out between.
    #[test]
    fn numbers_are_not_made_up(kind in prop::sample::select(vec![FieldType::Percent, FieldType::Ratio, FieldType::Amount, FieldType::Number]), text in texts()) {
        if let Ok(value) = normalise(kind, &text, &FORMATS) {
            let in_text: String = text.chars().filter(char::is_ascii_digit).collect();
            let has_words = ["two", "three", "hundred"].iter().any(|word| text.contains(word));
            prop_assert!(has_words || in_text.contains(&digits(&value.to_string())), "{:?}: {}", text, value);
        }
    }

    /// A text without digits and number words has no number, and one without a year no date.
    #[test]
    fn words_have_no_values(text in "[a-fh-mp-z ]{0,40}", kind in prop::sample::select(vec![FieldType::Date, FieldType::Percent, FieldType::Ratio, FieldType::Amount, FieldType::Duration, FieldType::Number])) {
        let has_number = ["six", "three", "five", "twelve", "thirty", "fifty", "sixty"].iter().any(|word| text.contains(word));
        prop_assert!(has_number || normalise(kind, &text, &FORMATS) == Err(Unread::Absent), "{:?}", text);
    }
}
