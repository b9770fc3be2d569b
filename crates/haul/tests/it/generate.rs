//! Requests in OpenAI's batch format to responses, by the worker beside the program and the repository's tiny model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixtures::{Home, Needs, Ran, assert_ran, repository};
use crate::random;

pub(crate) fn tiny_llm() -> PathBuf {
    repository().join("assets/tiny-llm/tiny-q4_k_m.gguf")
}

fn request(id: usize, text: &str) -> Value {
    let messages =
        json!([{"role": "system", "content": "Correct the text."}, {"role": "user", "content": text}]);
    let body = json!({"model": "tiny", "messages": messages, "max_tokens": 64});
    json!({"custom_id": id.to_string(), "method": "POST", "url": "/v1/chat/completions", "body": body})
}

fn lines(requests: &[Value]) -> String {
    requests.iter().map(|request| format!("{request}\n")).collect()
}

fn generate(home: &Home, flags: &[&str], input: &str) -> Ran {
    let model = tiny_llm();
    let args = [
        &["generate", "--model", model.to_str().unwrap(), "--out", "out.jsonl", "--threads", "1", "--json"],
        flags,
    ]
    .concat();
    home.run_with(&args, input)
}

fn responses(home: &Home) -> Vec<Value> {
    let text = fs::read_to_string(home.path("out.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn content(response: &Value) -> &str {
    response["response"]["body"]["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn requests_are_answered_in_order_and_asked_once() {
    if !Needs("generate").worker() {
        return;
    }
    let home = Home::empty();
    // Of the tiny model's own world, where rounding does not change its answers.
    let texts = [
        "The results was better than expected in every region.",
        "The meeting was moved to the afternoon becase of the weather.",
        "Costs hava fallen because the company changed its supplier.",
    ];
    let ask = |id: usize| match texts.get(id) {
        Some(text) => request(id, text),
        None => request(
            id,
            &format!("Undrawn amuonts of the facility attarct a fee of {:.2}%.", id as f64 / 100.0),
        ),
    };
    let mut requests: Vec<_> = (0..40).map(ask).collect();
    requests[7]["body"]["messages"][1]["content"] = json!("word ".repeat(3000));
    let ran = generate(&home, &[], &lines(&requests));
    assert_eq!(ran.code, 1, "{ran:#?}");
    let receipt = ran.json();
    assert_eq!(receipt["items"]["by_verdict"], json!({"failed": 1, "ok": 39}));
    assert_eq!(receipt["failures"][0]["item"], "7");
    assert_eq!(receipt["calls"]["n"], 39);
    assert!(receipt["calls"]["reused_prefix_tokens"].as_u64().unwrap() > 38 * 5, "{receipt:#}");
    assert_eq!(receipt["device"]["verdict"], "cpu");
    assert_eq!(receipt["device"]["witnesses"][0]["kind"], "engine");
    let answered = responses(&home);
    let ids: Vec<_> =
        answered.iter().map(|response| response["custom_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, (0..40).map(|id| id.to_string()).collect::<Vec<_>>());
    assert_eq!(content(&answered[0]), "The results were better than expected in every region.");
    assert_eq!(answered[7]["error"]["code"], "refused");
    assert_eq!(answered[1]["response"]["body"]["choices"][0]["finish_reason"], "stop");

    // The second run asks nothing that has an answer.
    let again = generate(&home, &[], &lines(&requests)).json();
    assert_eq!((&again["calls"]["n"], &again["calls"]["journalled"]), (&json!(0), &json!(39)));
    assert_eq!(responses(&home), answered);
}

/// A Mamba model of random numbers: calls begin with copies of a state, which must not change what they are answered.
#[test]
fn calls_of_a_model_with_a_state_are_answered_as_if_alone() {
    if !Needs("generate").worker() {
        return;
    }
    const BEGINNING: &str = "All of these calls begin with the same words, which are read once. ";
    let home = Home::empty();
    let model = home.path("mamba.gguf");
    random::write(&model, random::Kind::Recurrent);
    let requests: Vec<_> = ["One.", "Two, too?", "Three!", "The fourth: "]
        .map(|end| {
            let body = json!({"model": "m", "prompt": format!("{BEGINNING}{end}"), "max_tokens": 12});
            json!({"custom_id": end, "method": "POST", "url": "/v1/completions", "body": body})
        })
        .into();
    let ask = |requests: &[Value], out: &str| -> (Value, Vec<String>) {
        let model = model.to_str().unwrap();
        let args = ["generate", "--model", model, "--out", out, "--threads", "1", "--json"];
        let ran = home.run_with(&args, lines(requests));
        assert_eq!(ran.code, 0, "{ran:#?}");
        let text = fs::read_to_string(home.path(out)).unwrap();
        let answer = |line: &str| {
            let response: Value = serde_json::from_str(line).unwrap();
            response["response"]["body"]["choices"][0]["text"].as_str().unwrap().to_owned()
        };
        (ran.json()["calls"].clone(), text.lines().map(answer).collect())
    };
    let (calls, together) = ask(&requests, "together.jsonl");
    let shared = BEGINNING.len();
    let all: usize = requests.iter().map(|r| r["body"]["prompt"].as_str().unwrap().len()).sum();
    assert_eq!(calls["reused_prefix_tokens"], 3 * shared, "a token is a byte: {calls}");
    assert_eq!(calls["prefill_tokens"], all - 3 * shared);
    for (number, request) in requests.iter().enumerate() {
        let (calls, alone) = ask(std::slice::from_ref(request), &format!("{number}.jsonl"));
        assert_eq!(alone, [together[number].clone()]);
        assert_eq!(calls["reused_prefix_tokens"], 0);
    }
    assert_ne!(together[0], together[1]);
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    if !Needs("generate").worker() {
        return;
    }
    let whole = Home::empty();
    let requests: Vec<_> = (0..400)
        .map(|id| {
            request(
                id,
                &format!("Undrawn amuonts of the facility attarct a fee of {:.2}%.", id as f64 / 100.0),
            )
        })
        .collect();
    let input = lines(&requests);
    assert_eq!(generate(&whole, &[], &input).code, 0);
    let expected: Vec<_> = responses(&whole).iter().map(|response| content(response).to_owned()).collect();
    let home = Home::empty();
    let model = tiny_llm();
    let stdin = home.write("in.jsonl", &input);
    let mut hits = 0;
    for kept_bytes in [30_000, 60_000] {
        let args = [
            "generate",
            "--model",
            model.to_str().unwrap(),
            "--out",
            "out.jsonl",
            "--threads",
            "1",
            "--quiet",
        ];
        let mut command = home.haul(&args);
        let stdin = fs::File::open(&stdin).unwrap();
        let mut child = command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        hits += usize::from(killed_when_kept(&mut child, &home.path("out.jsonl.journal"), kept_bytes));
    }
    assert!(hits > 0, "every run ended before its kill");
    wait_for_the_journal(&home);
    let ran = generate(&home, &[], &input);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let answers: Vec<_> = responses(&home).iter().map(|response| content(response).to_owned()).collect();
    assert_eq!(answers, expected);
}

/// Waits until a run's journal has grown to so many bytes, or the run has ended.
pub(crate) fn wait_until_kept(child: &mut Child, journal: &Path, bytes: u64) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(60) {
        if fs::metadata(journal).is_ok_and(|file| file.len() >= bytes) {
            break;
        }
        sleep(Duration::from_millis(5));
    }
}

/// Kills a run when its journal has grown to so many bytes; false where it ended before.
pub(crate) fn killed_when_kept(child: &mut Child, journal: &Path, bytes: u64) -> bool {
    wait_until_kept(child, journal, bytes);
    let is_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    is_running
}

/// The lock goes with the process, a moment after its end is seen.
fn wait_for_the_journal(home: &Home) {
    let start = Instant::now();
    while home.path("out.jsonl.journal-journal").exists() && start.elapsed() < Duration::from_secs(2) {
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_no_request_is_refused_before_a_model_is_opened() {
    let home = Home::empty();
    let ran =
        home.run_with(&["generate", "--model", "m.gguf", "--out", "out.jsonl"], "{\"custom_id\": \"1\"}\n");
    assert_ran!(home, ran, @r#"
    exit 2
    --- stdout
    --- stderr
    haul: line 1 of the input: missing field `body` at line 1 column 18

    hint: a line is {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [..]}}
    "#);
    assert!(!home.path("out.jsonl").exists());
}

#[test]
fn a_model_that_is_not_there_or_no_model_ends_in_one_line() {
    let home = Home::empty();
    let input = lines(&[request(0, "They was late")]);
    let ran = home.run_with(&["generate", "--model", "nothing", "--out", "out.jsonl"], &input);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.starts_with("haul: nothing: no such GGUF file\n\nhint: "), "{ran:#?}");
    let path = home.write("bad.gguf", b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
    let ran = home.run_with(&["generate", "--model", path.to_str().unwrap(), "--out", "out.jsonl"], &input);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("no sound GGUF file: 18446744073709551615 tensors, of at most"), "{ran:#?}");
}

#[test]
fn a_device_that_is_not_there_ends_the_run_before_it_starts() {
    if !Needs("generate").worker() {
        return;
    }
    let home = Home::empty();
    let ran = generate(&home, &["--device", "metal"], &lines(&[request(0, "They was late")]));
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(ran.stderr.contains("--device metal: the engine (llama.cpp"), "{ran:#?}");
    assert!(!home.path("out.jsonl").exists());
}

#[test]
fn the_doctor_says_where_a_model_runs() {
    if !Needs("doctor").worker() {
        return;
    }
    let home = Home::empty();
    let model = tiny_llm();
    let model = model.to_str().unwrap();
    let found = home.json(&["doctor", "--model", model, "--device", "cpu", "--threads", "1"]);
    assert_eq!(
        (&found["device"]["verdict"], &found["is_as_asked"]),
        (&json!("cpu"), &json!(true)),
        "{found:#}"
    );
    assert_eq!(found["quantisation"], "q4_k_m");
    let kinds: Vec<_> = found["device"]["witnesses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| w["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["engine", "memory", "roof"]);
    assert!(found["prefill_tokens_per_s"].as_f64().unwrap() > 100.0);
    let ran = home.run(&[
        "doctor",
        "--model",
        model,
        "--device",
        "cpu",
        "--threads",
        "1",
        "--cache-type-k",
        "q8_0",
    ]);
    // Whether a mixed cache is slow enough to be found depends on the processor; the control is always measured.
    assert!([0, 1].contains(&ran.code), "{ran:#?}");
    assert_eq!(
        ran.code == 1,
        ran.stdout.contains("found: with a cache of q8_0/f16 prefill runs at"),
        "{ran:#?}"
    );
    let shown = ran.stdout;
    assert!(shown.starts_with("verdict     on cpu: "), "{shown}");
    assert!(shown.contains("f16 cache   prefill "), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    assert_eq!(home.run(&["doctor", "--model", model, "--device", "cuda"]).code, 2);
}
