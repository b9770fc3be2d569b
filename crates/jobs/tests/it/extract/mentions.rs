//! Which entity a sentence is about.

use haul_jobs::extract::documents::Company;
use haul_jobs::extract::mentions::Mentions;
use haul_jobs::extract::record::Tie;
use haul_jobs::extract::schema::{NumberedUnit, Schema, Syntax};

use super::fixtures::source;

const SCHEMA: &str = r#"
[entity]
name = "facility"
plural = "facilities"
description = "A loan"

[[groups]]
name = "parties"
[[groups.fields]]
name = "agent"
type = "name"
description = "Facility agent"
keywords = ["facility agent"]

[retrieval]
synonyms = [["facility", "tranche"]]
"#;

fn company(paragraphs: &[&str]) -> Company {
    Company::new("North Quay", vec![source("loans.txt", paragraphs)], NumberedUnit::Sentence)
}

/// Of every sentence, what it has to do with the first and with the second of two facilities.
fn ties(paragraphs: &[&str]) -> Vec<(Tie, Tie)> {
    let schema = Schema::parse(SCHEMA, Syntax::Toml).unwrap();
    let company = company(paragraphs);
    let names = ["Revolving Facility", "Axand Revolving Facility"].map(str::to_owned);
    let mentions = Mentions::of(&company, &names, &schema);
    (0..company.sentences.len()).map(|at| (mentions.tie(at, 0), mentions.tie(at, 1))).collect()
}

#[test]
fn a_name_within_a_longer_one_is_not_that_name() {
    let ties = ties(&["The Axand Revolving Facility is small.", "The Revolving Facility is large."]);
    assert_eq!(ties, [(Tie::Other, Tie::Names), (Tie::Names, Tie::Other)]);
}

#[test]
fn what_speaks_of_one_means_the_last_that_was_named() {
    let ties = ties(&[
        "The facility is there.",
        "The Revolving Facility is large.",
        "Margins are rising.",
        "The tranche is senior.",
        "Kelmore is the facility agent for the financing.",
    ]);
    let (free, first) = ((Tie::Free, Tie::Free), (Tie::Under, Tie::Other));
    assert_eq!(ties, [free, (Tie::Names, Tie::Other), free, first, free]);
}

#[test]
fn what_speaks_of_none_is_about_its_paragraph_or_its_heading() {
    let ties = ties(&[
        "# Part 1 - Axand Revolving Facility",
        "It matures in 2031.",
        "# Common terms",
        "The Revolving Facility is large. It matures in 2033.",
        "All of it is governed by English law.",
    ]);
    let (free, first, second) = ((Tie::Free, Tie::Free), (Tie::Under, Tie::Other), (Tie::Other, Tie::Under));
    assert_eq!(ties[1], second);
    assert_eq!(ties[3..], [(Tie::Names, Tie::Other), first, free]);
}
