//! What comes out beside whole dense vectors: the heads of a model that has them, and shorter vectors.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;

use crate::fixtures::{Home, Ran, copy_tree, samples, text, tiny_model};

const ALL_HEADS: [&str; 2] = ["--heads", "dense,sparse,colbert"];

/// Dense vectors of 32 numbers, and both heads with token rows of 24; in two forms of weights.
fn tiny_xlmr() -> PathBuf {
    tiny_model().with_file_name("tiny-xlmr")
}

/// What transformers and FlagEmbedding give for some texts.
#[derive(Deserialize)]
struct Golden {
    texts: Vec<GoldenText>,
}

#[derive(Deserialize)]
struct GoldenText {
    text: String,
    matryoshka_10: Vec<f64>,
    sparse: Vec<(u32, f64)>,
    colbert: Vec<Vec<f64>>,
}

fn golden() -> Vec<GoldenText> {
    let file = fs::read(tiny_model().with_file_name("tiny-xlmr-golden.json")).unwrap();
    serde_json::from_slice::<Golden>(&file).unwrap().texts
}

/// Its texts as input.
fn lines(golden: &[GoldenText]) -> String {
    golden.iter().map(|entry| json!({"text": entry.text}).to_string() + "\n").collect()
}

/// A line of `haul embed`.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    embedding: Option<Vec<f64>>,
    sparse: Option<BTreeMap<String, f64>>,
    colbert: Option<Vec<Vec<f64>>>,
}

fn printed(ran: &Ran) -> Vec<Line> {
    assert_eq!(ran.code, 0, "{ran:#?}");
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Lines of the golden's texts.
fn embed(home: &Home, model: &str, flags: &[&str], input: &str) -> Vec<Line> {
    printed(&home.run_with(&[&["embed", "--model", model, "--quiet"], flags].concat(), input))
}

fn assert_near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference <= 1e-4, "{difference}: {found:?} is not {expected:?}");
}

#[test]
fn heads_are_printed_as_the_model_gives_them() {
    let home = Home::empty();
    let golden = golden();
    let model = text(&tiny_xlmr()).to_owned();
    let all = embed(&home, &model, &ALL_HEADS, &lines(&golden));
    assert_eq!(all.len(), golden.len());
    for (line, expected) in all.iter().zip(&golden) {
        let sparse = line.sparse.as_ref().unwrap();
        // A weight on the border of none may be there or not.
        for (id, weight) in &expected.sparse {
            let found = sparse.get(&id.to_string()).copied().unwrap_or(0.0);
            assert!((found - weight).abs() <= 1e-4, "token {id} weighs {found}, not {weight}");
        }
        assert!(sparse.len() <= expected.sparse.len() + 1, "{sparse:?}");
        let colbert = line.colbert.as_ref().unwrap();
        assert_eq!(colbert.len(), expected.colbert.len());
        colbert.iter().zip(&expected.colbert).for_each(|(found, expected)| assert_near(found, expected));
    }
    // The heads ran beside the vectors, and change none of their bits; each may be had alone.
    let dense = embed(&home, &model, &[], &lines(&golden));
    let alone = |head| embed(&home, &model, &["--heads", head], &lines(&golden));
    let (sparse, colbert) = (alone("sparse"), alone("colbert"));
    for (number, line) in all.into_iter().enumerate() {
        let Line { embedding, sparse: weights, colbert: rows } = line;
        assert_eq!(dense[number], Line { embedding, ..Line::default() });
        assert_eq!(sparse[number], Line { sparse: weights, ..Line::default() });
        assert_eq!(colbert[number], Line { colbert: rows, ..Line::default() });
    }
}

/// bge-m3 comes as files of torch alone.
#[test]
fn a_model_of_torch_files_gives_the_same() {
    let home = Home::empty();
    copy_tree(&tiny_xlmr(), &home.path("torch"));
    fs::remove_file(home.path("torch/model.safetensors")).unwrap();
    home.ok(&["model", "add", "torch", "--name", "torch"]);
    home.ok(&["model", "check", "torch"]);
    let input = lines(&golden());
    let found = embed(&home, "torch", &ALL_HEADS, &input);
    assert_eq!(found, embed(&home, text(&tiny_xlmr()), &ALL_HEADS, &input));
}

#[test]
fn a_head_that_cannot_be_had_stops_before_anything_is_read() {
    let home = Home::new();
    let refused = |flags: &[&str], says: &str| {
        let ran = home.run_with(&[&["embed"], flags].concat(), "{ this is no input\n");
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{ran:#?}");
        assert!(ran.stderr.contains(says) && ran.stderr.contains("hint: "), "{says}: {ran:#?}");
        assert!(!home.path("v.npy").exists() && !home.path("v.npy.tmp").exists());
    };
    for (head, file) in [("sparse", "sparse_linear.pt"), ("colbert", "colbert_linear.pt")] {
        let heads = format!("dense,{head}");
        let says = format!("the {head} head is missing: there is no {file}");
        refused(&["--model", "tiny", "--heads", &heads], &says);
        refused(
            &["--model", text(&tiny_xlmr()), "--heads", &heads, "--out", "v.npy"],
            "--out: a NumPy array has room for the dense vectors alone",
        );
    }
    let wrong = home.run(&["embed", "--model", "tiny", "--heads", "dense,hydra"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("'hydra'"), "{wrong:#?}");
}

/// A head's file that is cut, or no file of torch, is found when the model is added.
#[test]
fn a_damaged_head_is_not_added() {
    let home = Home::empty();
    copy_tree(&tiny_xlmr(), &home.path("cut"));
    let head = fs::read(home.path("cut/colbert_linear.pt")).unwrap();
    fs::write(home.path("cut/colbert_linear.pt"), &head[..head.len() / 2]).unwrap();
    let ran = home.run(&["model", "add", "cut"]);
    assert!(ran.code == 2 && ran.stderr.contains("colbert_linear.pt"), "{ran:#?}");
    assert_eq!(home.json(&["model", "list"])["models"], json!([]));
}

/// The first numbers of the vector at their own length: what a model that was trained for it promises.
#[test]
fn shorter_vectors_are_the_beginning_of_long_ones() {
    let home = Home::new();
    let golden = golden();
    let short = embed(&home, text(&tiny_xlmr()), &["--dim", "10"], &lines(&golden));
    for (line, expected) in short.iter().zip(&golden) {
        assert_near(line.embedding.as_ref().unwrap(), &expected.matryoshka_10);
    }
    let input = "The lamp in the north window.\nThree boats in the storm.\n";
    let whole = embed(&home, "tiny", &[], input);
    for (short, whole) in embed(&home, "tiny", &["--dim", "12"], input).iter().zip(&whole) {
        let begin = &whole.embedding.as_ref().unwrap()[..12];
        let length = begin.iter().map(|number| number * number).sum::<f64>().sqrt();
        let expected: Vec<f64> = begin.iter().map(|number| number / length).collect();
        assert_near(short.embedding.as_ref().unwrap(), &expected);
    }
    assert_eq!(embed(&home, "tiny", &["--dim", "32"], input), whole);

    let args = ["embed", "--model", "tiny", "--dim", "12", "--out", "v.npy", "--json"];
    assert_eq!(home.run_with(&args, input).json()["dim"], 12);
    let bytes = fs::read(home.path("v.npy")).unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("'shape': (2, 12)") && bytes.len() == 128 + 2 * 12 * 4);
}

/// A library keeps the width of its vectors, for its queries as well.
#[test]
fn a_library_keeps_its_dim() {
    let home = Home::new();
    copy_tree(&samples().join("library"), &home.path("books"));
    let ingest = ["ingest", "books", "--store", "lib.haul", "--model", "tiny"];
    let receipt = home.json(&[&ingest[..], &["--dim", "12", "--dtype", "int16"]].concat());
    assert_eq!((&receipt["model"]["dim"], &receipt["settings"]["library"]["dim"]), (&json!(12), &json!(12)));
    // Compared with f32 vectors of the same width, or not at all.
    assert!(receipt["quality"]["cosine_min"].as_f64().unwrap() > 0.99, "{}", receipt["quality"]);
    home.assert_sound();

    let before = home.digest();
    for flags in [&["--dim", "16"][..], &["--dim", "32"]] {
        let refused = home.run(&[&ingest[..], &["--dtype", "int16"], flags].concat());
        let says = format!("dim is 12, asked for {}", flags[1]);
        assert!(
            refused.code == 2
                && refused.stderr.contains(&says)
                && refused.stderr.contains("hint: leave the flags out"),
            "{refused:#?}"
        );
    }
    // Left out, or the library's own: nothing is computed again.
    for flags in [&[][..], &["--dim", "12"]] {
        let again = home.json(&[&ingest[..], &["--dtype", "int16"], flags].concat());
        assert_eq!(again["work"]["tokens"], 0);
    }
    assert_eq!(home.digest(), before);

    let question = "why was the lens turned by hand";
    let found = home.json(&["search", question, "--store", "lib.haul", "--mode", "dense"]);
    assert_eq!(found["hits"].as_array().unwrap().len(), 5);
    let best = &found["hits"][0];
    let vector = |role, text: &str| {
        let line = json!({"text": text}).to_string();
        let flags = ["--dim", "12", "--dtype", "int16", "--role", role];
        embed(&home, "tiny", &flags, &line).pop().unwrap().embedding.unwrap()
    };
    let passage = vector("document", best["text"].as_str().unwrap());
    let cosine: f64 = vector("query", question).iter().zip(&passage).map(|(a, b)| a * b).sum();
    // Stored vectors are f16.
    assert!((cosine - best["score"].as_f64().unwrap()).abs() < 2e-3, "{cosine}: {best}");
}

#[test]
fn a_dim_that_the_model_has_not_is_refused() {
    let home = Home::new();
    home.write("books/loaf.txt", "Feed the starter in the evening.");
    for dim in ["0", "33"] {
        for args in [
            &["embed", "--model", "tiny"][..],
            &["ingest", "books", "--store", "lib.haul", "--model", "tiny"],
        ] {
            let ran = home.run(&[args, &["--dim", dim]].concat());
            let says = format!("--dim {dim} is outside 1..=32, what tiny gives");
            assert!(ran.code == 2 && ran.stdout.is_empty() && ran.stderr.contains(&says), "{ran:#?}");
        }
    }
    assert!(!home.path("lib.haul").exists());
}
