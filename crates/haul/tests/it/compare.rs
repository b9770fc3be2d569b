//! `haul compare` and `haul tune` with the tiny language model, through the worker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fixtures::{Home, Live, Needs, repository, text};
use crate::generate::{self, killed_when_kept};

/// The tiny model's folder, where it and the worker are there.
fn tiny_llm(test: &'static str) -> Option<PathBuf> {
    let worker = Path::new(env!("CARGO_BIN_EXE_haul")).with_file_name("haul-llama");
    let models = repository().join("../shared/models/tiny-llm");
    let missing = [(&worker, "haul-llama is not built"), (&models, "there is no ../shared/models/tiny-llm")];
    if let Some((_, why)) = missing.iter().find(|(path, _)| !path.exists()) {
        Needs(test).skip(why);
        return None;
    }
    Some(models)
}

const TEXT_CHARS: usize = 6000;

/// Text of the model's own world: companies, their facilities, and sentences with faults.
fn text_of_its_world(models: &Path) -> String {
    let mut all = String::new();
    for company in ["001", "002", "003"] {
        let folder = models.join("companies").join(company);
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            all.push_str(&fs::read_to_string(file).unwrap());
            all.push_str("\n\n");
        }
    }
    // A chapter is enough to tell quantisations apart, and is scored in seconds.
    all.chars().take(TEXT_CHARS).collect()
}

/// Cases of its world: the second is passed by doing nothing.
const CASES: &str = r#"
system = "Correct the text."

[[case]]
name = "agreement and spelling"
category = "mixed"
input = "The results was better than expected in every region."
expected = "The results were better than expected in every region."

[[case]]
name = "nothing to correct"
category = "preservation"
input = "The results were better than expected in every region."
must = ["The results were better than expected in every region."]
"#;

/// A home whose profiles are its own: what is tuned here is no other test's default.
fn home_of_its_own() -> Home {
    let home = Home::new();
    fs::remove_file(home.path("home/profiles")).unwrap();
    home
}

/// A file of a run's folder.
fn left(home: &Home, folder: &str, name: &str) -> Value {
    serde_json::from_slice(&fs::read(home.path(folder).join(name)).unwrap()).unwrap()
}

fn report(home: &Home, folder: &str) -> Value {
    left(home, folder, "report.json")
}

fn file<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["files"].as_array().unwrap().iter().find(|file| file["name"] == name).unwrap()
}

/// Answers of the three files hardly differ; their distributions do, and any honest metric puts q8_0 nearer to f16.
#[test]
fn quantisations_stand_in_their_order() {
    let Some(models) = tiny_llm("quantisations_stand_in_their_order") else { return };
    let home = Home::new();
    home.write("text.txt", text_of_its_world(&models));
    home.write("cases.toml", CASES);
    let files = ["tiny-q4_k_m.gguf", "tiny-f16.gguf", "tiny-q8_0.gguf"].map(|name| models.join(name));
    let mut args = vec!["compare"];
    args.extend(files.iter().map(text));
    args.extend([
        "--text",
        "text.txt",
        "--cases",
        "cases.toml",
        "--out",
        "out",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--repetitions",
        "2",
    ]);
    let printed = home.json(&args);
    let report = report(&home, "out");
    assert_eq!(printed, report);
    assert_eq!((&report["schema"], &report["base"]), (&"haul.compare/1".into(), &"tiny-f16.gguf".into()));
    let (q8, q4) = (file(&report, "tiny-q8_0.gguf"), file(&report, "tiny-q4_k_m.gguf"));
    let number = |file: &Value, path: &str| file.pointer(path).and_then(Value::as_f64).unwrap();
    let (near, far) = (number(q8, "/divergence/kld/mean"), number(q4, "/divergence/kld/mean"));
    assert!(0.0 < near && near < far, "q8_0 is {near} from f16 and q4_k_m {far}");
    // Not by chance: the intervals do not touch.
    let (above, below) =
        (number(q8, "/divergence/kld/interval/high"), number(q4, "/divergence/kld/interval/low"));
    assert!(above < below, "{above} {below}");
    let (near, far) = (number(q8, "/divergence/same_top/share"), number(q4, "/divergence/same_top/share"));
    assert!(near > far && near > 0.95, "q8_0 has {near} of f16's tokens and q4_k_m {far}");
    for file in report["files"].as_array().unwrap() {
        assert_eq!(file["placement"]["verdict"], "cpu", "{file:#}");
        assert!(number(file, "/speed/prefill_tokens_per_s/mean") > 100.0);
        assert!(number(file, "/speed/decode_tokens_per_s/mean") > 10.0);
        assert_eq!(file["speed"]["decode_ns"].as_array().unwrap().len(), 2);
        assert!(number(file, "/memory/rss_bytes") > number(file, "/tensor_bytes"));
        assert_eq!(file["cases"]["identity"]["hits"], 1);
        assert_eq!(file["cases"]["passed"]["hits"], 2, "{:#}", file["cases"]);
        assert!(number(file, "/document/words_per_s") > 1.0);
    }
    let rows: Value = serde_json::from_slice(&fs::read(home.path("out/llama-bench.json")).unwrap()).unwrap();
    let tests: Vec<_> =
        rows.as_array().unwrap().iter().map(|row| (&row["n_prompt"], &row["n_gen"])).collect();
    assert_eq!(tests.len(), 6);
    assert_eq!(tests[0], (&512.into(), &0.into()));
    assert_eq!(tests[1], (&0.into(), &128.into()));
    let receipt: Value = serde_json::from_slice(&fs::read(home.path("out/receipt.json")).unwrap()).unwrap();
    assert_eq!((&receipt["schema"], &receipt["job"]), (&"haul.receipt/1".into(), &"compare".into()));
    assert!(receipt["calls"]["n"].as_u64().unwrap() >= 18);
}

#[test]
fn a_model_against_itself_is_itself() {
    let Some(models) = tiny_llm("a_model_against_itself_is_itself") else { return };
    let home = Home::new();
    home.write("text.txt", text_of_its_world(&models));
    home.write("cases.toml", CASES);
    let model = models.join("tiny-q4_k_m.gguf");
    let model = text(&model);
    home.ok(&[
        "compare",
        model,
        model,
        "--text",
        "text.txt",
        "--cases",
        "cases.toml",
        "--out",
        "out",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--repetitions",
        "2",
    ]);
    let report = report(&home, "out");
    let copy = file(&report, "tiny-q4_k_m.gguf (2)");
    let divergence = &copy["divergence"];
    for path in ["mean", "median", "p90", "p99", "max"] {
        assert_eq!(divergence["kld"][path], 0.0, "{divergence:#}");
    }
    assert_eq!(divergence["same_top"]["share"], 1.0);
    assert_eq!((&divergence["delta_p_rms"], &divergence["perplexity_ratio"]), (&0.0.into(), &1.0.into()));
    assert!(divergence["positions"].as_u64().unwrap() > 1_000, "{divergence:#}");
    assert_eq!(copy["document"]["same_as_base"], copy["document"]["paragraphs"]);
    let line = report["recommendation"]["files"][0].as_str().unwrap();
    assert!(line.contains("divergence 0.0000: the same distributions"), "{line}");
    assert!(line.contains("no difference that these cases can show"), "{line}");
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"[0-9]+(?:[.,][0-9]+)*", "N");
    settings.add_filter(r"take tiny-qN.*", "take [FILE]");
    settings.add_filter(r"- \*\*tiny.*", "- [FILE]");
    settings.add_filter(r"(decodes at N times the base \(N to N\)): [a-z ]+;", "$1: [SPEED];");
    settings.add_filter(r"; attention by (the engine|Haul \([^)]*\))", "");
    settings.add_filter(r" [KMG]iB", " iB");
    // Which cases a model of four bits fails depends on the processor's kernels.
    settings.add_filter(r"(- tiny[^\n]* is not what was expected[^\n]*\n)+\n", "");
    settings.add_filter(r"llama\.cpp.*? was given", "[ENGINE] was given");
    let page = fs::read_to_string(home.path("out/report.md")).unwrap();
    settings.bind(|| insta::assert_snapshot!("compare_report", page));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one run and all that it leaves")]
fn settings_are_tuned_and_kept_for_the_model() {
    if !Needs("settings_are_tuned_and_kept_for_the_model").worker() {
        return;
    }
    let home = home_of_its_own();
    let model = generate::tiny_llm();
    let report = home.json(&[
        "tune",
        "--model",
        text(&model),
        "--out",
        "out",
        "--device",
        "cpu",
        "--repetitions",
        "1",
        "--receipt",
        "r.json",
    ]);
    assert_eq!(report["schema"], "haul.tune/1");
    let rows = report["rows"].as_array().unwrap();
    let axes: Vec<&str> = rows.iter().map(|row| row["axis"].as_str().unwrap()).collect();
    assert_eq!((axes.first(), axes.last()), (Some(&"control"), Some(&"control")));
    for axis in ["batch", "flash attention", "kv type", "sequences"] {
        assert!(axes.contains(&axis), "{axis} in {axes:?}");
    }
    assert!(report["drift"].is_number());
    for row in rows {
        assert!(row["measured"]["call_seconds"].as_f64().unwrap() > 0.0, "{row:#}");
        assert_eq!(row["measured"]["placement"]["verdict"], "cpu");
    }
    let impossible: Vec<&str> =
        report["impossible"].as_array().unwrap().iter().map(|row| row["why"].as_str().unwrap()).collect();
    for why in
        ["n_ubatch 1024 is above n_batch 512", "a V cache of q8_0 needs flash attention", "trained on 1024"]
    {
        assert!(impossible.iter().any(|found| found.contains(why)), "{why}: {impossible:?}");
    }
    // Which settings are best is this machine's to say, and what else it does meanwhile. What is kept is never slower than
    // the defaults, measured in turns with them at the end.
    let control = &rows[0]["load"];
    assert_eq!(control["n_seq_max"], 16, "the defaults of generate: {control:#}");
    assert_eq!((&report["best"]["type_k"], &report["best"]["type_v"]), (&"f16".into(), &"f16".into()));
    assert_eq!(report["best"]["n_ctx"], control["n_ctx"]);
    let seconds = |row: &Value| row["measured"]["call_seconds"].as_f64().unwrap();
    let end = &rows[rows.len() - 4..];
    let gain = report["gain"].as_f64().unwrap();
    assert!(gain >= 1.0, "{gain}");
    if &report["best"] == control {
        assert_eq!(gain, 1.0);
    } else {
        assert!(report["withdrawn"].is_null(), "{:#}", report["withdrawn"]);
        let axes: Vec<&str> = end.iter().map(|row| row["axis"].as_str().unwrap()).collect();
        assert_eq!(axes, ["control", "best", "best", "control"]);
        assert!(end.iter().all(|row| row["load"] == report["best"] || row["load"] == *control));
        let (control, best) =
            (seconds(&end[0]).min(seconds(&end[3])), seconds(&end[1]).min(seconds(&end[2])));
        assert!(best <= control && (control / best - gain).abs() < 1e-9, "{control} {best} {gain}");
    }
    let profile: Value =
        serde_json::from_slice(&fs::read(report["profile"].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!(profile["best"], report["best"]);
    assert!(profile["device"].as_str().unwrap().starts_with("cpu on "));
    let progress = left(&home, "out", "progress.json");
    assert_eq!((&progress["job"], &progress["state"]), (&"tune".into(), &"finished".into()));
    assert!(progress["items_done"].as_u64().unwrap() >= rows.len() as u64, "{progress:#}");
    assert!(progress["tokens"].as_u64().unwrap() > 0);
    assert_eq!(left(&home, "out", "receipt.json"), left(&home, "", "r.json"));
    // And is what the next command takes, unless a flag says otherwise.
    let text = "{\"custom_id\": \"1\", \"method\": \"POST\", \"url\": \"/v1/completions\", \
                \"body\": {\"model\": \"tiny\", \"prompt\": \"The results\", \"max_tokens\": 4}}\n";
    let model = model.to_str().unwrap();
    let generate = ["generate", "--model", model, "--device", "cpu", "--out", "a.jsonl", "--json"];
    let ran = home.run_with(&generate, text);
    assert!(ran.stderr.contains("settings by `haul tune`"), "{ran:#?}");
    let load = &ran.json()["settings"]["load"];
    for ours in ["n_batch", "n_ubatch"] {
        assert_eq!(load[ours], report["best"][ours], "{load:#}");
    }
    // So small a model answers in lanes, which share the threads.
    let threads = load["threads"].as_u64().unwrap() * load["lanes"].as_u64().unwrap();
    assert_eq!(threads, report["best"]["threads"], "{load:#}");
    let flags = generate.iter().copied().chain(["--threads", "1", "--parallel", "3"]).collect::<Vec<_>>();
    let load = &home.run_with(&flags, text).json()["settings"]["load"];
    assert_eq!((&load["threads"], &load["n_seq_max"]), (&json!(1), &json!(4)));
    let page = fs::read_to_string(home.path("out/report.md")).unwrap();
    assert!(page.contains("GGML\\_CUDA\\_FORCE\\_MMQ") && page.contains("it does nothing"), "{page}");
}

/// The time is up after the first row: what was left out is listed, and the control is measured twice all the same.
#[test]
fn a_budget_is_kept_and_what_it_left_out_is_listed() {
    if !Needs("a_budget_is_kept_and_what_it_left_out_is_listed").worker() {
        return;
    }
    let home = home_of_its_own();
    let model = generate::tiny_llm();
    let report = home.json(&[
        "tune",
        "--model",
        text(&model),
        "--out",
        "out",
        "--device",
        "cpu",
        "--budget",
        "0s",
        "--repetitions",
        "1",
    ]);
    assert_eq!(report["rows"].as_array().unwrap().len(), 2, "{report:#}");
    assert!(report["not_measured"].as_array().unwrap().len() > 10);
    assert_eq!(report["gain"], 1.0);
}

#[test]
fn an_encoder_gets_its_batch_tokens_and_keeps_them() {
    let home = home_of_its_own();
    let report = home.json(&["tune", "--model", "tiny", "--out", "out", "--dtype", "f32", "--threads", "1"]);
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() > 4, "{report:#}");
    assert!(rows.iter().any(|row| row["batch_tokens"] == report["best"]["batch_tokens"]));
    assert!(report["gain"].as_f64().unwrap() >= 1.0, "{report:#}");
    assert_eq!(left(&home, "out", "progress.json")["state"], "finished");
    let path = report["profile"].as_str().unwrap();
    let mut profile: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(profile["best"], report["best"]);
    assert!(profile["device"].as_str().unwrap().ends_with(", f32"), "{profile:#}");

    // A number that nobody would take by default.
    profile["best"]["batch_tokens"] = json!(96);
    fs::write(path, profile.to_string()).unwrap();
    let says = "batch tokens: 96, by `haul tune`";
    let embed = |flags: &[&str]| {
        let args = [&["embed", "--model", "tiny", "--out", "v.npy", "--json"], flags].concat();
        let ran = home.run_with(&args, "the first\nthe second and longer text\n");
        let document = ran.json();
        let batch = (document["batch_tokens"].as_u64().unwrap(), document["batch_tokens_by"].clone());
        (batch, ran.stderr.contains(says), fs::read(home.path("v.npy")).unwrap())
    };
    let (batch, is_said, vectors) = embed(&[]);
    assert_eq!((batch, is_said), ((96, json!("tune")), true));
    let (batch, is_said, with_flag) = embed(&["--batch-tokens", "64"]);
    assert_eq!((batch, is_said), ((64, json!("user")), false));
    assert!(vectors == with_flag, "batch tokens change no bit of a vector");
    let (batch, is_said, _) = embed(&["--dtype", "bf16"]);
    assert_eq!((batch, is_said), ((512, json!("default")), false));

    home.write("texts/a.txt", "The first text of a folder. It has two sentences.");
    let ingest = |flags: &[&str]| {
        let args = [&["ingest", "texts", "--store", "lib.haul", "--model", "tiny", "--json"], flags].concat();
        let ran = home.run(&args);
        assert_eq!(ran.code, 0, "{ran:#?}");
        let settings = ran.json()["settings"].clone();
        assert_eq!(ran.stderr.contains(says), settings["batch_tokens_by"] == "tune", "{ran:#?}");
        (settings["batch_tokens"].as_u64().unwrap(), settings["batch_tokens_by"].clone())
    };
    assert_eq!(ingest(&[]), (96, json!("tune")));
    assert_eq!(ingest(&["--batch-tokens", "64"]), (64, json!("user")));
    home.write("home/haul.toml", "batch_tokens = 128\n");
    assert_eq!(ingest(&[]), (128, json!("user")));
}

const CASE_COUNT: usize = 150;

/// A run that was stopped or killed asks for no answer to a case twice. Speeds are measured anew.
#[test]
#[expect(clippy::too_many_lines, reason = "one run and all that it leaves")]
fn a_killed_comparison_keeps_the_answers_to_its_cases() {
    if !Needs("compare").worker() {
        return;
    }
    let cases: String = (0..CASE_COUNT)
        .map(|number| {
            let percent = number as f64 / 100.0;
            format!(
                "{{\"name\": \"{number}\", \"category\": \"fees\", \
                 \"input\": \"Undrawn amuonts of the facility attarct a fee of {percent:.2}%.\", \
                 \"expected\": \"Undrawn amounts of the facility attract a fee of {percent:.2}%.\"}}\n"
            )
        })
        .collect();
    let prepared = || {
        let home = Home::empty();
        home.write("cases.jsonl", &cases);
        home.write("text.txt", "The results was better than expected.\n\nPlease sned the signed copy.\n");
        home
    };
    let model = generate::tiny_llm();
    let args = [
        "compare",
        text(&model),
        "--text",
        "text.txt",
        "--cases",
        "cases.jsonl",
        "--out",
        "out",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--repetitions",
        "1",
        "--json",
    ];
    let whole = prepared();
    let expected = whole.ok(&args).json();
    let home = prepared();
    let mut hits = 0;
    for kept_bytes in [30_000, 60_000] {
        let mut child = home.haul(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        hits += usize::from(killed_when_kept(&mut child, &home.path("out/journal.sqlite"), kept_bytes));
    }
    assert!(hits > 0, "every run ended before its kill");
    // Ctrl-C is not waited for until a file is done.
    let mut live = Live::start(home.haul(&args).stdout(Stdio::piped()));
    assert!(live.wait_for("task cases"), "there were no cases");
    live.signal(Signal::INT);
    let ran = live.finish();
    assert_eq!(ran.code, 130, "{ran:#?}");
    assert_eq!(ran.json()["files"], json!([]));
    let receipt = left(&home, "out", "receipt.json");
    assert_eq!((&receipt["state"], &receipt["items"]["ok"]), (&"interrupted".into(), &0.into()));
    assert_eq!(left(&home, "out", "progress.json")["state"], "interrupted");

    let found = home.ok(&args).json();
    let answers = |report: &Value| -> Vec<Value> {
        let cases = report["files"][0]["cases"]["cases"].as_array().unwrap();
        cases.iter().map(|case| case["answer"].clone()).collect()
    };
    assert_eq!(answers(&found), answers(&expected));
    assert_eq!(found["files"][0]["cases"]["passed"], expected["files"][0]["cases"]["passed"]);
    let receipt = left(&home, "out", "receipt.json");
    let calls = |name: &str| receipt["calls"][name].as_u64().unwrap();
    let paragraphs = found["files"][0]["document"]["paragraphs"].as_u64().unwrap();
    assert_eq!(calls("n") + calls("journalled"), 3 * CASE_COUNT as u64 + paragraphs, "{receipt:#}");
    assert!(calls("journalled") > 0, "{receipt:#}");
    let progress = left(&home, "out", "progress.json");
    assert_eq!((&progress["state"], &progress["items_done"]), (&"finished".into(), &1.into()));

    // Once more: no case is asked, and what is measured is measured.
    let again = home.ok(&args).json();
    let receipt = left(&home, "out", "receipt.json");
    assert_eq!(receipt["calls"]["journalled"], 3 * CASE_COUNT as u64);
    assert_eq!(again["files"][0]["cases"]["consistency"]["seconds"], Value::Null);
    assert!(again["files"][0]["document"]["words_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(answers(&again), answers(&expected));
}

/// What is wrong with the cases is said before any model is loaded.
#[test]
fn cases_that_cannot_fail_are_refused() {
    let home = Home::new();
    home.write("text.txt", "A text.");
    home.write("a.gguf", "no model");
    for (name, content, says) in [
        ("a.toml", "[[case]]\nname = \"a\"\ncolour = \"red\"\n", "a.toml:3: unknown field `colour`"),
        ("b.toml", "[[case]]\nname=\"a\"\ncategory=\"b\"\ninput=\"c\"\n", "case a: it has neither"),
        ("c.jsonl", "{\"system\": \"x\"}\n{\"name\": 3}\n", "c.jsonl:2: "),
        ("d.jsonl", "\n", "0 cases, of 1 to 10000"),
    ] {
        home.write(name, content);
        let ran = home.run(&["compare", "a.gguf", "--text", "text.txt", "--cases", name, "--out", "out"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{ran:#?}");
        assert!(ran.stderr.contains(says), "{says}: {ran:#?}");
        assert!(!home.path("out").exists());
    }
    let ran = home.run(&["tune", "--model", "a.gguf", "--out", "out", "--budget", "10 days"]);
    assert!(ran.code == 2 && ran.stderr.contains("`10 days` is no time such as 90s, 60m or 2h"), "{ran:#?}");
}
