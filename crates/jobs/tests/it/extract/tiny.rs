//! The tiny model's companies: what is true of them stands in our sentences, and its windows hold all of it.

use std::collections::BTreeMap;
use std::fs;

use haul_corpus::document::Format;
use haul_jobs::extract::documents::Company;
use haul_jobs::extract::windows::{Room, coverage, cut};
use serde::Deserialize;

use super::fixtures::parsed;
use super::schema::read;
use crate::shared;

#[derive(Deserialize)]
struct Gold {
    files: Vec<String>,
    facilities: Vec<Facility>,
}

#[derive(Deserialize)]
struct Facility {
    fields: BTreeMap<String, Fact>,
}

#[derive(Deserialize)]
struct Fact {
    value: String,
    file: String,
    sentence: String,
}

/// Ten of the facts share a sentence of ours with the one before: Unicode's rules do not end a sentence at a full stop that a
/// number and a small letter follow ("... by law. 430 basis points is the margin ...").
#[test]
fn every_stated_fact_stands_in_a_sentence_of_ours() {
    let Some(folder) = shared("extract", "models/tiny-llm/companies") else { return };
    let schema = read("assets/tiny-llm/schema.json");
    let gold: BTreeMap<String, Gold> =
        serde_json::from_slice(&fs::read(folder.join("gold.json")).unwrap()).unwrap();
    let (mut facts, mut lost, mut windows) = (0, Vec::new(), 0);
    for (name, gold) in &gold {
        let of_file = |file: &String| parsed(&folder.join(name), file, Format::Text);
        let company = Company::new(name, gold.files.iter().map(of_file).collect(), schema.numbering.unit);
        // A token of this model's is about four bytes; lines are what is short here.
        let tokens: Vec<u32> = company.sentences.iter().map(|s| s.line.len() as u32 / 4 + 4).collect();
        let cut = cut(&company, &tokens, &Room::of(&schema.limits, 450)).unwrap();
        assert!(coverage(&company, &cut).is_whole() && cut.iter().all(|window| window.sentences.len() <= 16));
        windows += cut.len();
        for fact in gold.facilities.iter().flat_map(|facility| facility.fields.values()) {
            facts += 1;
            let is_it = |sentence: &haul_jobs::extract::documents::Sentence| {
                company.sources[sentence.source].file == fact.file && sentence.line.contains(&fact.sentence)
            };
            if !company.sentences.iter().any(is_it) || !fact.sentence.contains(&fact.value) {
                lost.push(format!("{name}/{}: {:?}", fact.file, fact.sentence));
            }
        }
    }
    println!("{facts} facts, {windows} windows, {} not in a sentence of ours", lost.len());
    assert_eq!(lost, [""; 0]);
    assert_eq!((gold.len(), facts), (24, 798));
}
