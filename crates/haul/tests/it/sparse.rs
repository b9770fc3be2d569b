//! Libraries and collections of a model with heads: the weights of tokens are stored and searched, and passages re-ranked
//! token by token. The expected scores are computed here, from what `haul embed` prints for the same texts.

use serde_json::Value;

use crate::fixtures::{Home, tiny_model};
use crate::qdrant::Service;

const TEXTS: [(&str, &str); 4] = [
    ("lamp.txt", "The lamp in the north window burned all night."),
    ("loaf.txt", "A slow loaf needs water, salt and time."),
    ("tide.txt", "The tide came in over the salt meadows at night."),
    ("clock.txt", "Clocks in the north of the town are always late."),
];
const QUESTION: &str = "salt water at night";

fn home() -> Home {
    let home = Home::empty();
    let model = tiny_model().with_file_name("tiny-xlmr");
    home.ok(&["model", "add", model.to_str().unwrap(), "--name", "tiny", "--link"]);
    for (name, text) in TEXTS {
        home.write(&format!("texts/{name}"), text);
    }
    let (_, code) = home.ingest(&["texts"]);
    assert_eq!(code, 0);
    home
}

/// A collection of a server with the same texts.
fn collection(home: &Home) -> Service {
    let service = Service::new();
    home.ok(&["ingest", "texts", "--store", &service.store(), "--model", "tiny"]);
    service
}

/// What the model makes of a text.
fn embedded(home: &Home, text: &str) -> Value {
    let ran =
        home.run_with(&["embed", "--model", "tiny", "--heads", "dense,sparse,colbert"], format!("{text}\n"));
    assert_eq!(ran.code, 0, "{ran:#?}");
    serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap()
}

fn numbers(row: &Value) -> Vec<f64> {
    row.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn sparse_score(a: &Value, b: &Value) -> f64 {
    let (a, b) = (a["sparse"].as_object().unwrap(), b["sparse"].as_object().unwrap());
    a.iter().filter_map(|(id, weight)| Some(weight.as_f64()? * b.get(id)?.as_f64()?)).sum()
}

fn colbert_score(question: &Value, text: &Value) -> f64 {
    let rows = |value: &Value| value["colbert"].as_array().unwrap().iter().map(numbers).collect::<Vec<_>>();
    let (question, text) = (rows(question), rows(text));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let best = |row: &Vec<f64>| text.iter().map(|other| dot(row, other)).fold(f64::NEG_INFINITY, f64::max);
    question.iter().map(best).sum::<f64>() / question.len() as f64
}

/// `(text, score)` of every hit, in order.
fn hits(found: &Value) -> Vec<(String, f64)> {
    let hit = |hit: &Value| (hit["text"].as_str().unwrap().to_owned(), hit["score"].as_f64().unwrap());
    found["hits"].as_array().unwrap().iter().map(hit).collect()
}

fn assert_scores(found: &Value, score: impl Fn(&str) -> f64, tolerance: f64) {
    let found = hits(found);
    let mut expected: Vec<(&str, f64)> = TEXTS.map(|(_, text)| (text, score(text))).into();
    expected.retain(|(_, score)| *score > 0.0);
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));
    assert_eq!(found.len(), expected.len(), "{found:?}, not {expected:?}");
    for ((text, score), (expected_text, expected_score)) in found.iter().zip(expected) {
        assert_eq!(text, expected_text);
        assert!(
            (score - expected_score).abs() <= tolerance * expected_score,
            "{text}: {score}, not {expected_score}"
        );
    }
}

#[test]
fn sparse_search_is_the_model_s_own_score() {
    let home = home();
    let question = embedded(&home, QUESTION);
    let service = collection(&home);
    for store in ["lib.haul", &service.store()] {
        let found = home.json(&["search", QUESTION, "--store", store, "--mode", "sparse"]);
        // Stored weights are f16: eleven bits.
        assert_scores(&found, |text| sparse_score(&question, &embedded(&home, text)), 1e-3);
        assert!(!hits(&found).is_empty());
        // Three rankings are fused: the best score is that of three first places at most.
        let hybrid = home.json(&["search", QUESTION, "--store", store]);
        let best = hits(&hybrid)[0].1;
        assert!(best > 2.0 / 61.0 && best <= 3.0 / 61.0 + 1e-9, "{store}: {best}");
    }
    assert_eq!(
        home.json(&["store", "verify", "--store", &service.store()])["findings"],
        Value::Array(vec![])
    );
    home.assert_sound();
    let info = home.json(&["store", "info", "--store", "lib.haul"]);
    assert_eq!(
        (&info["settings"]["sparse"], &info["vectors"]),
        (&Value::from(true), &Value::from(TEXTS.len()))
    );
}

#[test]
fn a_second_ingest_finds_all_of_it_there() {
    let home = home();
    let digest = home.digest();
    let (receipt, _) = home.ingest(&["texts"]);
    assert_eq!((&receipt["work"]["tokens"], home.digest()), (&Value::from(0), digest.clone()));
    home.write("texts/lamp.txt", "Something else.");
    home.ingest(&["texts"]);
    home.write("texts/lamp.txt", TEXTS[0].1);
    home.ingest(&["texts"]);
    assert_eq!(home.digest(), digest);
    home.assert_sound();
    let planned = home.run(&["ingest", "texts", "--store", "new.haul", "--model", "tiny", "--plan"]);
    assert_eq!(planned.code, 0, "{planned:#?}");
}

#[test]
fn passages_are_re_ranked_token_by_token() {
    let home = home();
    let question = embedded(&home, QUESTION);
    let service = collection(&home);
    let stores = ["lib.haul".to_owned(), service.store()];
    let asked = stores.iter().flat_map(|store| ["hybrid", "dense", "sparse"].map(|mode| (store, mode)));
    for (store, mode) in asked {
        let found = home.json(&["search", QUESTION, "--store", store, "--mode", mode, "--rerank", "colbert"]);
        assert_eq!(found["rerank"], "colbert");
        let among: Vec<String> = hits(&found).into_iter().map(|(text, _)| text).collect();
        let score = |text: &str| {
            let is_found = among.iter().any(|found| found == text);
            if is_found { colbert_score(&question, &embedded(&home, text)) } else { 0.0 }
        };
        assert_scores(&found, score, 1e-4);
    }
    // Words alone find it, the model orders it.
    let words = home.json(&[
        "search", "salt", "--store", "lib.haul", "--mode", "bm25", "--rerank", "colbert", "--limit", "1",
    ]);
    assert_eq!(hits(&words).len(), 1);
}

#[test]
fn what_the_model_cannot_do_is_said() {
    let home = Home::new();
    home.write("texts/a.txt", TEXTS[0].1);
    home.ingest(&["texts"]);
    let refused = |args: &[&str], says: &str| {
        let ran = home.run(&[&["search", "lamp", "--store", "lib.haul", "--quiet"], args].concat());
        assert_eq!(ran.code, 2, "{ran:#?}");
        assert!(ran.stderr.contains(says) && ran.stderr.contains("\nhint: "), "{ran:#?}");
    };
    refused(&["--mode", "sparse"], "stores no sparse vectors");
    refused(&["--rerank", "colbert"], "the colbert head is missing");
    let xlmr = crate::sparse::home();
    let ran = xlmr.run(&["search", "lamp", "--store", "lib.haul", "--rerank", "colbert", "--limit", "11"]);
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(ran.stderr.contains("11 passages are asked for, 10 are re-ranked at most"), "{ran:#?}");
}
