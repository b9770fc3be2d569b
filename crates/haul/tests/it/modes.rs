//! Dtypes and instruction sets: what is taken, what is refused, what is measured, and how well modes agree.

use std::fs;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fixtures::{
    Home, Live, Ran, assert_ran, copy_tree, damaged_model, ran, repository, samples, text, tiny_model,
};

const DTYPES: [&str; 4] = ["f32", "int16", "bf16", "int8"];
const NUMBERS: usize = 32;

fn home_with_samples() -> Home {
    let home = Home::new();
    copy_tree(&samples().join("library"), &home.path("books"));
    home
}

/// A run with a variable set, or taken away.
fn with(home: &Home, variable: &str, value: Option<&str>, args: &[&str], input: &str) -> Ran {
    let mut command = home.haul(args);
    match value {
        Some(value) => command.env(variable, value),
        None => command.env_remove(variable),
    };
    ran(&mut command, input.as_bytes())
}

/// Vectors that `haul embed` prints.
fn vectors(ran: &Ran) -> Vec<Vec<f64>> {
    assert_eq!(ran.code, 0, "{ran:#?}");
    let row = |line| serde_json::from_str::<Value>(line).unwrap()["embedding"].clone();
    ran.stdout.lines().map(|line| serde_json::from_value(row(line)).unwrap()).collect()
}

/// Of rows at length 1, the smallest.
fn worst_cosine(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let cosine = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a * b).sum();
    a.iter().zip(b).map(cosine).fold(1.0, f64::min)
}

#[test]
fn every_dtype_ingests_and_searches() {
    let home = home_with_samples();
    let mut tokens = vec![];
    for dtype in DTYPES {
        let store = format!("{dtype}.haul");
        let ingest = ["ingest", "books", "--store", &store, "--model", "tiny"];
        let receipt = home.json(&[&ingest[..], &["--dtype", dtype]].concat());
        assert_eq!(
            (&receipt["model"]["dtype"], &receipt["settings"]["library"]["dtype"]),
            (&json!(dtype), &json!(dtype))
        );
        let number = |pointer: &str| receipt.pointer(pointer).and_then(Value::as_f64).unwrap();
        let roofs = &receipt["rate"]["roof_gflops"];
        let share = 100.0 * number("/rate/gflops") / roofs[dtype].as_f64().unwrap();
        assert!(
            (number("/rate/percent_of_roof") - share).abs() < 1e-6 && roofs.as_object().unwrap().len() == 4,
            "{roofs}"
        );
        tokens.push(number("/work/tokens"));
        assert_quality(dtype, &receipt, &home.json(&["store", "info", "--store", &store]));

        // The library's own from now on, whatever the machine would choose.
        let again = with(&home, "HAUL_DTYPE", None, &[&ingest[..], &["--json"]].concat(), "");
        assert_eq!(
            (again.code, &again.json()["model"]["dtype"], &again.json()["quality"]),
            (0, &json!(dtype), &Value::Null)
        );
        home.ok(&[&ingest[..], &["--dtype", "auto"]].concat());
        let other = if dtype == "int8" { "bf16" } else { "int8" };
        let refused = home.run(&[&ingest[..], &["--dtype", other]].concat());
        let says = format!("dtype is {dtype:?}, asked for {other:?}");
        assert!(
            refused.code == 2
                && refused.stderr.contains(&says)
                && refused.stderr.contains("hint: leave the flags out"),
            "{refused:#?}"
        );

        let hits =
            home.json(&["search", "why was the lens turned by hand", "--store", &store, "--mode", "dense"]);
        assert_eq!(hits["hits"].as_array().unwrap().len(), 5);
        assert!(home.ok(&["store", "info", "--store", &store]).stdout.contains(&format!("({dtype}, mean)")));
    }
    assert_eq!(tokens, [tokens[0]; 4], "a comparison with f32 is no work of the run");
}

/// Some of the texts again in f32, and what that took; in f32 nothing is compared.
fn assert_quality(dtype: &str, receipt: &Value, info: &Value) {
    let stages: Vec<&str> =
        receipt["stages"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    let quality = &receipt["quality"];
    if dtype == "f32" {
        assert_eq!((quality, &receipt["model"]["loads"], stages.len()), (&Value::Null, &json!(1), 5));
        return;
    }
    assert_eq!((&receipt["model"]["loads"], stages[5]), (&json!(2), "quality"));
    let vectors = info["vectors"].as_u64().unwrap();
    assert_eq!(quality["texts"].as_u64(), Some(vectors.min(200)), "{quality}");
    assert_eq!((&quality["against"], &quality["metric"]), (&json!("f32"), &json!("cosine")));
    let number = |name: &str| quality[name].as_f64().unwrap();
    assert!((-1e-9..0.05).contains(&number("delta")) && number("cosine_min") > 0.9, "{quality}");
    assert!(
        number("cosine_min") <= 1.0 - number("delta") + 1e-9 && number("top10_overlap") > 0.5,
        "{quality}"
    );
    assert!(number("seconds") > 0.0 && number("seconds") < receipt["seconds"].as_f64().unwrap(), "{quality}");
}

#[test]
fn a_faster_mode_says_what_it_costs() {
    let home = Home::new();
    home.write("books/loaf.txt", "Feed the starter in the evening. Bake the loaf in the morning.");
    home.write("books/canal.md", "The barge waited at the lock until the water had risen.");
    let ingest =
        &["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--dtype", "int16", "--threads", "1"];
    assert_ran!(home, home.run(ingest), @r#"
    exit 0
    --- stdout
    2 of 2 inputs ok in lib.haul
      2 chunks, 66 tokens in [TIME]; 0 inputs unchanged
      [RATE] in int16, [SHARE] of its measured roof
      agrees with f32: [AGREEMENT] (2 texts of 32 tokens)

      stage    threads     busy  starved  blocked    items
      list           1 [TIMES]        2
      parse          1 [TIMES]        2
      chunk          1 [TIMES]        2
      embed          1 [TIMES]        2
      commit         1 [TIMES]        2
      quality        1 [TIMES]        2
    --- stderr
    device: [CPU]
    "#);
}

#[test]
fn auto_goes_by_the_roofs_and_says_so() {
    let home = home_with_samples();
    let ingest = ["ingest", "books", "--store", "lib.haul", "--model", "tiny"];
    let made = with(&home, "HAUL_DTYPE", None, &[&ingest[..], &["--json"]].concat(), "");
    let receipt = made.json();
    let line = made.stderr.lines().find(|line| line.starts_with("dtype: ")).unwrap();
    let roof = |dtype: &str| receipt["rate"]["roof_gflops"][dtype].as_f64().unwrap();
    let fastest = if roof("int16") > 1.1 * roof("bf16") { "int16" } else { "bf16" };
    let taken = if roof(fastest) >= 1.25 * roof("f32") { fastest } else { "f32" };
    assert_eq!(receipt["model"]["dtype"], taken, "{receipt:#}");
    assert!(
        line.starts_with(&format!("dtype: {taken} (auto: ")) && line.ends_with("the f32 roof)")
            || taken == "f32",
        "{line}"
    );
    // A library has chosen already.
    let again = with(&home, "HAUL_DTYPE", None, &ingest, "");
    assert!(again.code == 0 && !again.stderr.contains("dtype:"), "{again:#?}");
    let doctor = home.ok(&["doctor"]).stdout;
    assert!(doctor.contains(line), "{doctor}");
    let embed =
        with(&home, "HAUL_DTYPE", None, &["embed", "--model", "tiny", "--out", "v.npy", "--json"], "lamp\n");
    assert_eq!(embed.json()["dtype"], taken);
    assert!(embed.stderr.contains(line), "{embed:#?}");
}

#[test]
fn a_dtype_from_file_environment_or_flag() {
    let home = Home::new();
    let dtype = |environment: Option<&str>, flags: &[&str]| {
        let args = [&["embed", "--model", "tiny", "--out", "v.npy", "--json"], flags].concat();
        with(&home, "HAUL_DTYPE", environment, &args, "lamp\n").json()["dtype"].as_str().unwrap().to_owned()
    };
    home.write("home/haul.toml", "dtype = \"bf16\"\n");
    assert_eq!(dtype(None, &[]), "bf16");
    assert_eq!(dtype(Some("int16"), &[]), "int16");
    assert_eq!(dtype(Some("int16"), &["--dtype", "int8"]), "int8");
    home.write("home/haul.toml", "dtype = \"f16\"\n");
    let wrong = with(&home, "HAUL_DTYPE", None, &["embed", "--model", "tiny"], "");
    assert!(
        wrong.code == 2
            && wrong
                .stderr
                .contains("haul.toml: dtype: `f16` is no dtype; known are f32, bf16, int16, int8, and auto"),
        "{wrong:#?}"
    );
}

/// The instruction sets of this machine, as the refusal of an unknown one lists them.
fn instruction_sets(home: &Home) -> Vec<String> {
    let refused = with(home, "HAUL_ISA", Some("abacus"), &["doctor"], "");
    assert_eq!((refused.code, refused.stdout.as_str()), (2, ""), "{refused:#?}");
    assert!(
        refused.stderr.starts_with("haul: HAUL_ISA=abacus: this machine has no such instruction set\n"),
        "{refused:#?}"
    );
    let list = refused.stderr.split("hint: this machine has ").nth(1).unwrap();
    list.trim().split(", ").map(str::to_owned).collect()
}

#[test]
fn each_instruction_set_does_the_whole_job() {
    let home = home_with_samples();
    let sets = instruction_sets(&home);
    assert_eq!(sets[0], "generic");
    let mut first_hits = vec![];
    for isa in &sets {
        let run = |args: &[&str]| with(&home, "HAUL_ISA", Some(isa), args, "");
        let store = format!("{isa}.haul");
        let ingest = run(&["ingest", "books", "--store", &store, "--model", "tiny", "--json"]);
        assert_eq!((ingest.code, &ingest.json()["device"]["isa"]), (0, &json!(isa)), "{ingest:#?}");
        assert!(ingest.stderr.contains(&format!(", {isa} (asked for: auto)")), "{ingest:#?}");
        let search =
            run(&["search", "the letter behind the plaster", "--store", &store, "--mode", "dense", "--json"]);
        first_hits.push(search.json()["hits"][0]["text"].clone());
        let doctor = run(&["doctor"]);
        assert!(doctor.stdout.contains(&format!("\nkernels    {isa}\n")), "{doctor:#?}");
    }
    assert_eq!(first_hits, vec![first_hits[0].clone(); sets.len()]);
}

#[test]
fn every_dtype_runs_on_every_instruction_set() {
    let home = Home::new();
    let input =
        "The lamp in the north window.\n\nThree boats in the storm, under the tower.\nkeep the light\n";
    let exact = vectors(&home.run_with(&["embed", "--model", "tiny", "--dtype", "f32"], input));
    for isa in instruction_sets(&home) {
        for (dtype, least) in [("f32", 0.999_99), ("int16", 0.999), ("bf16", 0.999), ("int8", 0.95)] {
            let args = ["embed", "--model", "tiny", "--dtype", dtype];
            let found = vectors(&with(&home, "HAUL_ISA", Some(&isa), &args, input));
            let cosine = worst_cosine(&exact, &found);
            assert!(cosine >= least, "{dtype} on {isa}: cosine {cosine}");
        }
    }
}

#[test]
fn a_benchmark_as_people_read_it() {
    let home = Home::new();
    home.write("texts.txt", "The lamp in the north window.\nkeep the light\n\nThree boats in the storm.\n");
    let bench = &[
        "bench",
        "encoder",
        "--model",
        "tiny",
        "--texts",
        "texts.txt",
        "--seconds",
        "0",
        "--dtype",
        "f32,int8",
    ];
    assert_ran!(home, home.run(bench), @r#"
    exit 0
    --- stdout
    tiny on [MACHINE]

      dtype mix         tokens  tokens/s  GFLOP/s   roof   %   cosine  worst  top 10
      f32   texts           27 [SPEED]
      int8  texts           27 [SPEED]  [AGREEMENT]
    --- stderr
    device: [CPU]
    "#);
}

#[test]
fn a_benchmark_makes_two_kinds_of_text() {
    let home = Home::new();
    let report = home.json(&["bench", "encoder", "--model", "tiny", "--seconds", "0", "--threads", "2"]);
    assert_eq!(
        (&report["schema"], &report["machine"]["threads"]),
        (&json!("haul.bench.encoder/1"), &json!(2))
    );
    let rows = report["rows"].as_array().unwrap();
    let named: Vec<(&str, &str)> =
        rows.iter().map(|row| (row["dtype"].as_str().unwrap(), row["mix"].as_str().unwrap())).collect();
    let expected = DTYPES.iter().flat_map(|dtype| [(*dtype, "48 tokens"), (dtype, "log-normal")]);
    assert_eq!(named, expected.collect::<Vec<_>>());
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap();
        let is = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-9;
        assert!(is(number("tokens_per_s"), number("tokens") / number("seconds")), "{row:#}");
        assert!(is(number("percent_of_roof"), 100.0 * number("gflops") / number("roof_gflops")), "{row:#}");
        assert!(report["roofs"][row["dtype"].as_str().unwrap()].as_f64().unwrap() >= number("roof_gflops"));
        assert_eq!(row["passes"], 1);
        match row["mix"].as_str() {
            Some("48 tokens") => assert_eq!((number("texts"), number("tokens")), (400.0, 400.0 * 48.0)),
            _ => assert!(is(number("texts"), 600.0) && number("tokens") < 600.0 * 48.0, "{row:#}"),
        }
        let quality = &row["quality"];
        if row["dtype"] == "f32" {
            assert_eq!(quality, &Value::Null);
        } else {
            assert_eq!((&quality["against"], &quality["texts"]), (&json!("f32"), &json!(200)));
            let share = |name: &str| quality[name].as_f64().unwrap();
            assert!(
                share("cosine_mean") > 0.95 && share("cosine_min") > 0.9 && share("top10_overlap") > 0.5,
                "{row:#}"
            );
        }
    }
    let again = home.json(&["bench", "encoder", "--model", "tiny", "--seconds", "0", "--dtype", "f32"]);
    assert_eq!(again["rows"][1]["tokens"], rows[1]["tokens"], "texts come from a seed");
}

#[test]
fn a_benchmark_on_the_users_own_texts() {
    let home = home_with_samples();
    home.ingest(&["books", "--dtype", "int8"]);
    let chunks = home.json(&["store", "info", "--store", "lib.haul"])["chunks"].as_u64().unwrap();
    let bench = ["bench", "encoder", "--store", "lib.haul", "--seconds", "0", "--dtype", "auto,int8,int8"];
    let report = home.json(&bench);
    assert_eq!(report["model"]["id"], "tiny", "the library's model");
    let last = report["rows"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["dtype"], &last["mix"], &last["texts"]),
        (&json!("int8"), &json!("library"), &json!(chunks.min(200)))
    );
    assert_eq!(report["rows"].as_array().unwrap().len(), 2, "each dtype once");
    home.write("texts.txt", "The lamp in the north window.\n");
    let report = home.json(&[&bench[..], &["--texts", "texts.txt", "--model", "tiny"]].concat());
    let row = &report["rows"][1];
    assert_eq!((&row["mix"], &row["texts"]), (&json!("texts"), &json!(1)));
    assert_eq!(row["quality"]["texts"], chunks.min(200), "compared on the library all the same");
}

#[test]
fn a_benchmark_that_cannot_run_says_why() {
    let home = Home::new();
    home.write("empty.txt", "");
    home.write("bytes.txt", b"salt\xff\n");
    for (args, says) in [
        (&[][..], "no model is named"),
        (&["--model", "nope"], "there is no model named nope"),
        (&["--model", "tiny", "--texts", "nowhere.txt"], "cannot read nowhere.txt"),
        (&["--model", "tiny", "--texts", "empty.txt"], "empty.txt holds no line"),
        (&["--model", "tiny", "--texts", "bytes.txt"], "cannot read bytes.txt"),
        (&["--store", "nowhere.haul"], "nowhere.haul: no such library"),
        (&["--model", "tiny", "--dtype", "f32,f64"], "`f64` is no dtype"),
        (&["--model", "tiny", "--seconds", "nan"], "not a number of seconds"),
        (&["--model", "tiny", "--threads", "0"], "--threads 0 is outside"),
        (&["--model", "tiny", "--device", "cuda"], "--device cuda: this build has no such device"),
    ] {
        let ran = home.run(&[&["bench", "encoder"], args].concat());
        assert!(
            ran.code == 2 && ran.stdout.is_empty() && ran.stderr.contains(says),
            "{args:?} {says}: {ran:#?}"
        );
    }
}

#[test]
fn a_benchmark_can_be_stopped() {
    let home = Home::new();
    let mut command = home.haul(&["bench", "encoder", "--model", "tiny", "--seconds", "600", "--json"]);
    let mut live = Live::start(command.stdout(Stdio::piped()));
    assert!(live.wait_for("stage=\"embed\""), "it computes");
    live.signal(Signal::INT);
    let ran = live.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (130, ""), "{ran:#?}");
}

/// The vectors that transformers gave for the tiny model, as a golden.
fn golden() -> Vec<String> {
    let path = repository().join("crates/encoder/tests/golden/tiny-bert-golden.json");
    let document: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let row = |text: &Value| json!({"text": text["text"], "embedding": text["pooled"]["mean"]}).to_string();
    document["texts"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn a_golden_of_another_program_is_met() {
    let home = Home::new();
    home.write("golden.jsonl", golden().join("\n"));
    let check = ["model", "check", "tiny", "--golden", "golden.jsonl"];
    let report = home.json(&check);
    let golden = &report["golden"];
    assert_eq!(
        (&golden["dtype"], golden["texts"].as_u64(), &golden["failed"]),
        (&json!("f32"), Some(self::golden().len() as u64), &json!([]))
    );
    assert!(
        golden["cosine_min"].as_f64().unwrap() >= 0.99999
            && golden["difference_max"].as_f64().unwrap() <= 1e-4,
        "{golden}"
    );
    for dtype in ["bf16", "int16"] {
        assert_eq!(home.json(&[&check[..], &["--dtype", dtype]].concat())["golden"]["dtype"], dtype);
    }
    // The role puts the model's prompt before the text.
    let query = vectors(&home.run_with(&["embed", "--model", "tiny", "--role", "query"], "lamp\n")).remove(0);
    let line = |role: &str| json!({"text": "lamp", "embedding": query, "role": role}).to_string();
    home.write("golden.jsonl", line("query"));
    home.ok(&check);
    home.write("golden.jsonl", line("document"));
    assert_eq!(home.run(&check).code, 1);
}

#[test]
fn rows_that_miss_a_golden_are_named() {
    let home = Home::new();
    let turned = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row["text"] = json!("Some other text than the one that was embedded");
        row.to_string()
    };
    let rows: Vec<String> = golden().into_iter().take(4).collect();
    home.write(
        "golden.jsonl",
        [&rows[0], &rows[1], &turned(&rows[2]), &rows[3]].map(String::as_str).join("\n"),
    );
    assert_ran!(home, home.run(&["model", "check", "tiny", "--golden", "golden.jsonl"]), @r#"
    exit 1
    --- stdout
    1_Pooling/config.json                    ok
    config.json                              ok
    config_sentence_transformers.json        ok
    model.safetensors                        ok
    modules.json                             ok
    sentence_bert_config.json                ok
    tokenizer.json                           ok
    tokenizer_config.json                    ok
    tiny: ok
    golden: 4 texts in f32
      worst cosine      0.879826, at least 0.99999
      mean cosine       0.9699.., at least 0.99999
      worst difference  1.8e-1, at most 1e-4

    not within:
      line 3: cosine 0.879826, off by 1.8e-1: Some other text than the one tha...
    golden: not ok
    --- stderr
    device: [CPU]
    "#);
    // Vectors say nothing of a model whose files are not its own.
    copy_tree(&tiny_model(), &home.path("mine"));
    home.ok(&["model", "add", "mine"]);
    fs::write(home.path("home/models/mine/config.json"), "{}").unwrap();
    let changed = home.run(&["model", "check", "mine", "--golden", "golden.jsonl", "--json"]);
    assert_eq!((changed.code, changed.json().get("golden")), (1, None));
}

#[test]
fn goldens_that_are_none() {
    let home = Home::new();
    let vector = |number: f64| vec![number; NUMBERS];
    let line = |embedding: &[f64]| json!({"text": "lamp", "embedding": embedding}).to_string();
    let nan = line(&vector(1.5)).replacen("1.5", "NaN", 1);
    let endless = line(&vector(1.5)).replacen("1.5", "1e999", 1);
    let cases = [
        (String::new(), "golden.jsonl is empty"),
        ("lamp\n".to_owned(), "golden.jsonl:1: not a {\"text\", \"embedding\"} object"),
        (format!("{}\n\n", line(&vector(1.0))), "golden.jsonl:2: not a {\"text\", \"embedding\"} object"),
        (
            "{\"text\": \"lamp\"}".to_owned(),
            "golden.jsonl:1: not a {\"text\", \"embedding\"} object: missing field",
        ),
        (
            format!("{}\n{}", line(&vector(1.0)), line(&[1.0])),
            "golden.jsonl:2: embedding has 1 numbers, the model's have 32",
        ),
        (nan, "golden.jsonl:1: not a"),
        (endless, "golden.jsonl:1: not a"),
        (line(&vector(0.0)), "golden.jsonl:1: embedding has the length 0"),
        (line(&vector(1e300)), "golden.jsonl:1: embedding has the length inf"),
        (line(&vector(1.0)).replace('}', ", \"role\": \"author\"}"), "golden.jsonl:1: not a"),
    ];
    for (content, says) in cases {
        home.write("golden.jsonl", &content);
        let ran = home.run(&["model", "check", "tiny", "--golden", "golden.jsonl"]);
        assert!(ran.code == 2 && ran.stdout.is_empty() && ran.stderr.contains(says), "{says}: {ran:#?}");
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert!(lines.len() == 3 && lines[2].starts_with("hint: "), "{says}: {ran:#?}");
    }
    let ran = home.run(&["model", "check", "tiny", "--golden", "nowhere.jsonl"]);
    assert!(ran.code == 2 && ran.stderr.contains("cannot read nowhere.jsonl"), "{ran:#?}");
    let ran = home.run(&["model", "check", "tiny", "--dtype", "int8"]);
    assert!(ran.code == 2 && ran.stderr.contains("--golden <FILE.jsonl>"), "{ran:#?}");
}

/// A vector that is none fails its own text, by name, and no other.
#[test]
fn texts_without_a_vector_are_named() {
    let home = Home::new();
    damaged_model(&home.path("damaged"));
    let bad = "The chain of the lamp is too long to be shown in an error as a whole";
    let says = "(\"The chain of the lamp is too lon...\") has no vector: the model gave NaN in column ";
    for dtype in ["f32", "bf16"] {
        let ran = home
            .run_with(&["embed", "--model", "./damaged", "--dtype", dtype], format!("lamp\n{bad}\nboat\n"));
        assert!(ran.code == 2 && ran.stderr.contains(&format!("line 2 of the input {says}")), "{ran:#?}");
        assert_eq!(ran.stdout.lines().count(), 1, "what came before it is right");

        home.write("books/sound.txt", "The lamp in the north window.");
        home.write("books/bad.txt", bad);
        let store = format!("{dtype}.haul");
        let ingest =
            ["ingest", "books", "--store", &store, "--model", "./damaged", "--dtype", dtype, "--json"];
        // One such text once ended the plan of a whole library.
        let plan = home.json(&[&ingest[..8], &["--plan"]].concat());
        let sample = &plan["sample"];
        assert_eq!((&sample["texts_failed"], &sample["texts_computed"]), (&json!(1), &json!(2)), "{plan:#}");
        assert!(sample["failed_why"].as_str().unwrap().starts_with("the model gave NaN"), "{plan:#}");
        let ran = home.run(&ingest);
        let receipt = ran.json();
        assert_eq!((ran.code, &receipt["items"]["ok"]), (1, &json!(1)), "{receipt:#}");
        let failure = &receipt["failures"][0];
        assert!(failure["item"].as_str().unwrap().ends_with("bad.txt"), "{failure}");
        assert!(failure["why"].as_str().unwrap().starts_with(&format!("chunk 0 {says}")), "{failure}");
    }
    let row = json!({"text": bad, "embedding": vec![1.0; NUMBERS]}).to_string();
    home.write("golden.jsonl", row);
    home.ok(&["model", "add", text(&home.path("damaged"))]);
    for (args, names) in [
        (&["bench", "encoder", "--model", "damaged", "--texts", "texts.txt"][..], "f32, texts: text 2 "),
        (&["model", "check", "damaged", "--golden", "golden.jsonl"], "golden: text 1 "),
    ] {
        home.write("texts.txt", format!("lamp\n{bad}\n"));
        let ran = home.run(args);
        assert!(ran.code == 2 && ran.stderr.contains(&format!("{names}{says}")), "{ran:#?}");
        assert!(ran.stderr.contains("hint: `haul model check NAME`"), "{ran:#?}");
    }
}
