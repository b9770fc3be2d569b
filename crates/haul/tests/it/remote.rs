//! Language models behind a server: what a user sees of it, and that a rerun asks nothing twice.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fixtures::{Home, Needs, Ran, assert_ran, finished, ran, variable};
use crate::generate::tiny_llm;
use crate::llm_server::{Reply, Server, answer};

fn request(id: usize, text: &str) -> Value {
    let messages =
        json!([{"role": "system", "content": "Correct the text."}, {"role": "user", "content": text}]);
    json!({"custom_id": id.to_string(), "method": "POST", "url": "/v1/chat/completions",
           "body": {"messages": messages, "max_tokens": 64}})
}

fn lines(requests: &[Value]) -> String {
    requests.iter().map(|request| format!("{request}\n")).collect()
}

fn generate(home: &Home, url: &str, flags: &[&str], input: &str) -> Ran {
    let args = [&["generate", "--model", url, "--out", "out.jsonl"], flags].concat();
    ran(home.haul(&args).env("HAUL_API_KEY", SECRET), input.as_bytes())
}

const SECRET: &str = "sk-secret-0123456789";

fn responses(home: &Home) -> Vec<Value> {
    let text = fs::read_to_string(home.path("out.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every file below a folder holds nothing of a key.
fn assert_no_secret(folder: &Path, secret: &str) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            assert_no_secret(&path, secret);
        } else if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "the key is in {}", path.display());
        }
    }
}

#[test]
fn a_server_answers_requests_and_is_asked_once() {
    let server = Server::start(|asked| {
        assert_eq!(asked.key.as_deref(), Some("Bearer sk-secret-0123456789"));
        match asked.text() {
            "broken" => Reply::Json(400, json!({"error": {"message": format!("refused for {SECRET}")}})),
            "long" => Reply::Json(200, answer("cut he", "length")),
            text => Reply::Says(text.to_uppercase()),
        }
    });
    let home = Home::empty();
    let input = lines(&[request(0, "one"), request(1, "broken"), request(2, "long"), request(3, "two")]);
    let ran = generate(&home, &server.url(), &["--json", "--receipt", "receipt.json"], &input);
    assert_eq!(ran.code, 1, "{ran:#?}");
    let line = format!("server: {}/v1 with tiny; on what it computes is not known\n", server.url());
    assert_eq!(ran.stderr, line);
    let receipt = ran.json();
    assert_eq!(receipt["items"]["by_verdict"], json!({"cut": 1, "failed": 1, "ok": 2}));
    assert_eq!((&receipt["items"]["ok"], &receipt["truncated"]["items"]), (&json!(3), &json!(1)));
    assert_eq!(receipt["notes"], json!([{"item": "2", "says": "the answer is cut at max_tokens, 64"}]));
    assert_eq!(
        receipt["failures"],
        json!([{"item": "1", "verdict": "failed", "why": "refused: status 400: refused for [key]"}])
    );
    assert_eq!(
        (&receipt["device"]["verdict"], &receipt["device"]["used"]),
        (&json!("unknown"), &json!("unknown"))
    );
    let witness = &receipt["device"]["witnesses"][0];
    assert_eq!((&witness["kind"], &witness["says"]), (&json!("engine"), &json!("unknown")));
    assert!(witness["detail"].as_str().unwrap().contains(&server.url()), "{receipt:#}");
    assert_eq!(
        receipt["settings"]["server"],
        json!({"address": format!("{}/v1", server.url()), "model": "tiny", "parallel": 16})
    );
    let answered = responses(&home);
    let choice = |at: usize| &answered[at]["response"]["body"]["choices"][0];
    assert_eq!(choice(0)["message"]["content"], "ONE");
    assert_eq!(choice(2)["finish_reason"], "length");
    assert_eq!(answered[1]["error"]["code"], "refused");
    assert_eq!(server.asked().len(), 4);

    // What has an answer is not asked for again; what has none is.
    let again = generate(&home, &server.url(), &["--json"], &input).json();
    assert_eq!((&again["calls"]["n"], &again["calls"]["journalled"]), (&json!(0), &json!(3)));
    assert_eq!(server.asked().len(), 5);
    assert_eq!(responses(&home), answered);
    assert_no_secret(&home.path(""), SECRET);
}

#[test]
fn another_model_of_a_server_is_another_question_and_one_that_is_none_is_refused() {
    let models = json!({"data": [{"id": "tiny"}, {"id": "other"}]});
    let server = Server::with_models(models, |asked| {
        let mut body = answer(asked.text(), "stop");
        body["model"] = json!(format!("{}-2024", asked.body["model"].as_str().unwrap()));
        Reply::Json(200, body)
    });
    let home = Home::empty();
    let input = lines(&[request(0, "one")]);
    for name in ["tiny", "other"] {
        let ran = generate(&home, &format!("{}#{name}", server.url()), &["--json"], &input);
        assert_eq!((ran.code, &ran.json()["calls"]["n"]), (0, &json!(1)), "{ran:#?}");
        // Servers answer with another model than they are asked for, and say so.
        let says = format!("server: asked for {name}, and its answers name {name}-2024\n");
        assert!(ran.stderr.ends_with(&says), "{ran:#?}");
        let detail = ran.json()["device"]["witnesses"][0]["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&format!("answers with {name}, and names it {name}-2024")), "{detail}");
    }
    let ran = generate(&home, &format!("{}#tinny", server.url()), &[], &input);
    assert_eq!(ran.code, 2, "{ran:#?}");
    let says = format!("haul: {}/v1: no model tinny; there are tiny, other\n\nhint: name one", server.url());
    assert!(ran.stderr.starts_with(&says), "{ran:#?}");
    assert_eq!(server.asked().len(), 2);
}

/// A key that changes where it is written in JSON, by Python or by PHP, or by Rust into an error.
const HARD_SECRET: &str = r#"sk-SECRET"k\e/y"#;

/// What a server says reached stdout, the receipt, the journal and the log: only some of its words were masked.
#[test]
fn a_key_is_nowhere_whatever_a_server_says_of_it() {
    let key = HARD_SECRET;
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let long = "z".repeat(3000);
    let said = |content: &str| Reply::Json(200, answer(content, "stop"));
    let server = Server::start(move |asked| match (asked.text(), asked.before_text) {
        ("error", _) => {
            let says = format!("your key {key} has no credit \u{1b}[31m {long}");
            Reply::Json(200, json!({"error": {"message": says}}))
        }
        ("finish", _) => Reply::Json(200, answer("x", &format!("weird {key} {long}"))),
        ("usage", _) => Reply::Json(200, json!({"choices": key, "usage": {"prompt_tokens": key}})),
        ("schema", _) => said(&json!({"a": format!("{key} {long}")}).to_string()),
        ("no json", _) => said(&format!("Sure, here is what you asked me for, as JSON, with it: \"{key}\"")),
        ("status", _) => Reply::Json(400, json!({"error": {"message": format!("for {key} {long}")}})),
        ("inside", _) => {
            let inner = json!({"upstream": json!({"key": key}).to_string()}).to_string();
            Reply::Json(400, json!({"error": inner.replace('/', "\\/")}))
        }
        ("redirect", _) => Reply::Full(302, vec![("location", format!("http://127.0.0.1:9/{key}"))], vec![]),
        ("model", _) => {
            let mut body = answer("x", "stop");
            body["model"] = json!(format!("{key} {long}"));
            Reply::Json(200, body)
        }
        ("type", 0) => Reply::Full(200, vec![("content-type", format!("text/{key}"))], key.into()),
        ("broken", 0) => {
            let body = format!("{{\"error\": {}", json!(format!("{key} {long}")));
            Reply::Full(200, vec![("content-type", "application/json".to_owned())], body.into_bytes())
        }
        ("busy", 0) => Reply::Json(429, json!({"error": {"message": key}})),
        (text, _) => Reply::Says(text.to_owned()),
    });
    let home = Home::empty();
    let names = [
        "error", "finish", "usage", "schema", "no json", "status", "inside", "redirect", "model", "type",
        "broken", "busy",
    ];
    let mut requests: Vec<Value> = names.iter().enumerate().map(|(id, name)| request(id, name)).collect();
    for of_schema in [3, 4] {
        requests[of_schema]["body"]["response_format"] =
            json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
    }
    for flags in [&["--receipt", "receipt.json"][..], &["--json"]] {
        let url = server.url();
        let args = [&["generate", "--model", &url, "--out", "out.jsonl"], flags].concat();
        let mut command = home.haul(&args);
        command.env("HAUL_API_KEY", key).env("HAUL_LOG", "trace");
        let ran = ran(&mut command, lines(&requests).as_bytes());
        assert_eq!(ran.code, 1, "{ran:#?}");
        for (name, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
            assert!(!text.contains("SECRET"), "the key is on {name}: {text}");
        }
        assert_no_secret(&home.path(""), "SECRET");
    }
    let receipt: Value = serde_json::from_slice(&fs::read(home.path("receipt.json")).unwrap()).unwrap();
    let failures = receipt["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 8, "{receipt:#}");
    for failure in failures {
        let why = failure["why"].as_str().unwrap();
        assert!(why.contains("[key]") && why.chars().count() < 500, "{failure}");
        assert!(!why.contains(char::is_control), "{why:?}");
    }
}

/// The sums of a run were made in 32 bits: it panicked, and lost what had been answered.
#[test]
fn counts_that_no_server_has_are_no_panic() {
    let server = Server::start(|asked| {
        let mut body = answer(asked.text(), "stop");
        body["usage"] = json!({"prompt_tokens": u32::MAX, "completion_tokens": u64::MAX});
        Reply::Json(200, body)
    });
    let home = Home::empty();
    let ran = generate(&home, &server.url(), &["--json"], &lines(&[request(0, "one"), request(1, "two")]));
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert_eq!(ran.json()["calls"]["decode_tokens"], 2 * u64::from(u32::MAX));
}

/// Servers write JSON in many ways; an answer that can be read is one, and what cannot be is not asked for again.
#[test]
fn an_answer_is_read_as_it_was_written_or_refused_at_once() {
    let server = Server::start(|asked| {
        let mut body = answer(asked.text(), "stop");
        let full =
            |kind: &str, body: Vec<u8>| Reply::Full(200, vec![("content-type", kind.to_owned())], body);
        match asked.text() {
            "upper" => return full("Application/JSON; charset=utf-8", body.to_string().into_bytes()),
            "mark" => {
                return full("application/json", [b"\xef\xbb\xbf", body.to_string().as_bytes()].concat());
            }
            "null" => body["usage"] = json!({"prompt_tokens": 5, "completion_tokens": null}),
            "float" => body["usage"] = json!({"prompt_tokens": 5.0, "completion_tokens": 2.0}),
            "parts" => body["choices"][0]["message"]["content"] = json!([{"type": "text", "text": "hi"}]),
            _ => {}
        }
        Reply::Json(200, body)
    });
    let home = Home::empty();
    let texts = ["upper", "mark", "null", "float", "parts"];
    let requests: Vec<Value> = texts.iter().enumerate().map(|(id, text)| request(id, text)).collect();
    let ran = generate(&home, &server.url(), &["--json"], &lines(&requests));
    assert_eq!(ran.code, 1, "{ran:#?}");
    let failures = ran.json()["failures"].clone();
    let why = "the server's answer cannot be used: it has another shape (invalid type: sequence, expected a string)";
    assert_eq!(failures, json!([{"item": "4", "verdict": "failed", "why": why}]));
    assert_eq!(server.asked().len(), 5);
}

fn spawned(home: &Home, url: &str, flags: &[&str], input: &str) -> Child {
    let args = [&["generate", "--model", url, "--out", "out.jsonl"], flags].concat();
    let input = fs::File::open(home.write("in.jsonl", input)).unwrap();
    let mut command = home.haul(&args);
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        sleep(Duration::from_millis(5));
    }
}

/// Calls were committed with the next one only: those that had been answered before a long wait were lost.
#[test]
fn no_call_that_was_answered_a_second_before_a_kill_is_asked_again() {
    let allowed = Arc::new(AtomicUsize::new(0));
    let answered = Arc::new(Mutex::new(Vec::new()));
    let (left, seen) = (Arc::clone(&allowed), Arc::clone(&answered));
    let server = Server::start(move |asked| {
        let take = |left: usize| left.checked_sub(1);
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err() {
            return Reply::Silent(Duration::from_secs(60));
        }
        seen.lock().unwrap().push(asked.text().to_owned());
        Reply::Says(asked.text().to_uppercase())
    });
    let home = Home::empty();
    let requests: Vec<Value> = (0..20).map(|id| request(id, &format!("text {id}"))).collect();
    for round in 1..=4 {
        allowed.store(3, Ordering::SeqCst);
        let mut child = spawned(&home, &server.url(), &["--parallel", "4"], &lines(&requests));
        wait_until("three answers", || answered.lock().unwrap().len() == 3 * round);
        sleep(Duration::from_secs(1));
        assert!(child.try_wait().unwrap().is_none(), "it waits for the fourth");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    allowed.store(usize::MAX, Ordering::SeqCst);
    let ran = generate(&home, &server.url(), &["--json"], &lines(&requests));
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert_eq!((&ran.json()["calls"]["n"], &ran.json()["calls"]["journalled"]), (&json!(8), &json!(12)));
    let answered = answered.lock().unwrap();
    assert_eq!(answered.iter().collect::<BTreeSet<_>>().len(), answered.len(), "asked twice: {answered:?}");
    assert_eq!(responses(&home).len(), 20);
}

/// A server of one call a second lost half of what it was asked by sixteen at once: each was tried ten times.
#[test]
fn a_limit_of_one_call_a_second_loses_none() {
    let last = Mutex::new(None::<Instant>);
    let server = Server::start(move |asked| {
        let mut last = last.lock().unwrap();
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            let says = br#"{"error": {"message": "one request a second"}}"#.to_vec();
            return Reply::Full(429, vec![("retry-after", "1".to_owned())], says);
        }
        *last = Some(Instant::now());
        Reply::Says(asked.text().to_owned())
    });
    let home = Home::empty();
    let requests: Vec<Value> = (0..14).map(|id| request(id, &format!("text {id}"))).collect();
    let ran = generate(&home, &server.url(), &["--json"], &lines(&requests));
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert_eq!(responses(&home).len(), 14);
    // Sixteen at once, each second, were a hundred requests.
    assert!(server.asked().len() < 70, "{} requests", server.asked().len());
}

#[test]
fn a_server_that_has_no_time_today_ends_the_run_and_keeps_what_it_answered() {
    let is_busy = Arc::new(AtomicBool::new(true));
    let busy = Arc::clone(&is_busy);
    let server = Server::start(move |asked| {
        if busy.load(Ordering::SeqCst) && asked.before >= 2 {
            let says = br#"{"error": {"message": "the quota of today is used up"}}"#.to_vec();
            return Reply::Full(429, vec![("retry-after", "3600".to_owned())], says);
        }
        Reply::Says(asked.text().to_owned())
    });
    let home = Home::empty();
    let requests: Vec<Value> = (0..30).map(|id| request(id, &format!("text {id}"))).collect();
    let ran = generate(&home, &server.url(), &["--parallel", "1"], &lines(&requests));
    assert_eq!(ran.code, 2, "{ran:#?}");
    let says = format!(
        "haul: {}/v1: too busy for 3 calls in a row: status 429: the quota of today is used up (it asks to be left alone for 3600 s)\n\nhint: what was answered is kept; ",
        server.url()
    );
    assert!(ran.stderr.contains(&says), "{ran:#?}");
    assert_eq!(server.asked().len(), 5);
    is_busy.store(false, Ordering::SeqCst);
    let ran = generate(&home, &server.url(), &["--json"], &lines(&requests));
    assert_eq!((ran.code, &ran.json()["calls"]["n"]), (0, &json!(28)), "{ran:#?}");
}

/// How long a run takes to end after a signal, and how it ends.
fn stopped_by(signal: Signal, child: Child) -> (Ran, Duration) {
    let start = Instant::now();
    kill_process(Pid::from_child(&child), signal).unwrap();
    (finished(child), start.elapsed())
}

const STOP_MAX: Duration = Duration::from_secs(2);

/// A signal was seen only with the next answer, which may take ten minutes.
#[test]
fn a_signal_ends_the_wait_for_a_server() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let is_silent = Arc::new(AtomicBool::new(true));
        let silent = Arc::clone(&is_silent);
        let server = Server::start(move |asked| {
            let is_silent = silent.load(Ordering::SeqCst) && asked.text() != "one";
            if is_silent {
                Reply::Silent(Duration::from_secs(60))
            } else {
                Reply::Says(asked.text().to_owned())
            }
        });
        let home = Home::empty();
        let input = lines(&[request(0, "one"), request(1, "two")]);
        let child = spawned(&home, &server.url(), &["--receipt", "receipt.json"], &input);
        wait_until("both calls", || server.asked().len() == 2);
        sleep(Duration::from_millis(200));
        let (ran, took) = stopped_by(signal, child);
        assert_eq!(ran.code, 130, "{ran:#?}");
        assert!(took < STOP_MAX, "{took:?}");
        assert!(ran.stderr.ends_with("stopped; the same command goes on from here\n"), "{ran:#?}");
        assert_eq!(responses(&home).len(), 1);
        let receipt: Value = serde_json::from_slice(&fs::read(home.path("receipt.json")).unwrap()).unwrap();
        assert_eq!(receipt["state"], "interrupted");
        is_silent.store(false, Ordering::SeqCst);
        assert_eq!(generate(&home, &server.url(), &["--json"], &input).json()["calls"]["n"], 1);
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_list_of_models() {
    let server = Server::of_all(|_| Reply::Silent(Duration::from_secs(60)));
    let home = Home::empty();
    let child = spawned(&home, &server.url(), &[], &lines(&[request(0, "one")]));
    wait_until("the list", || server.is_asked_for_models());
    let (ran, took) = stopped_by(Signal::INT, child);
    assert_eq!(ran.code, 130, "{ran:#?}");
    assert!(took < STOP_MAX, "{took:?}");
    assert!(ran.stderr.contains("/v1: stopped while waiting for it\n"), "{ran:#?}");
}

#[test]
fn a_signal_ends_the_wait_for_the_worker() {
    if !Needs("a signal").worker() {
        return;
    }
    let home = Home::empty();
    let model = tiny_llm();
    let requests: Vec<Value> =
        (0..400).map(|id| request(id, &format!("The fee was set at {id}.00% of the facility."))).collect();
    let child = spawned(&home, model.to_str().unwrap(), &["--threads", "1"], &lines(&requests));
    let journal = home.path("out.jsonl.journal");
    wait_until("some answers", || fs::metadata(&journal).is_ok_and(|file| file.len() > 20_000));
    // A worker that does not come back: it is stopped.
    let worker = child_of(child.id()).expect("a worker");
    kill_process(worker, Signal::STOP).unwrap();
    sleep(Duration::from_millis(200));
    let (ran, took) = stopped_by(Signal::TERM, child);
    assert_eq!(ran.code, 130, "{ran:#?}");
    assert!(took < STOP_MAX, "{took:?}");
    assert!(!responses(&home).is_empty());
    assert!(!Path::new(&format!("/proc/{}", worker.as_raw_nonzero())).exists(), "the worker is still there");
}

fn child_of(parent: u32) -> Option<Pid> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // `pid (name) state parent ...`
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        fields.split(' ').nth(1).is_some_and(|of| of == parent.to_string())
    };
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| number(entry.unwrap()));
    all.filter(is_child).find_map(Pid::from_raw)
}

#[test]
fn a_manuscript_is_corrected_by_a_server() {
    let server = Server::start(|asked| Reply::Says(asked.text().replace("teh", "the")));
    let home = Home::empty();
    let manuscript = home.write("letter.md", "# A letter\n\nHe saw *teh* boat and `code`.\n\n- teh end\n");
    let args = ["correct", manuscript.to_str().unwrap(), "--model", &server.url(), "--out", "out"];
    let ran = home.run(&args);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let corrected = fs::read_to_string(home.path("out/letter_corrected.md")).unwrap();
    assert_eq!(corrected, "# A letter\n\nHe saw *the* boat and `code`.\n\n- the end\n");
    assert!(ran.stdout.contains(&format!("tiny (unknown) on {}/v1", server.url())), "{ran:#?}");
    let asked = server.asked().len();
    assert_eq!(home.run(&args).code, 0);
    assert_eq!(server.asked().len(), asked);
}

#[test]
fn what_a_server_cannot_obey_is_refused() {
    let home = Home::empty();
    let server = "http://127.0.0.1:9";
    let input = lines(&[request(0, "one")]);
    assert_ran!(home, generate(&home, server, &["--device", "cpu"], &input), @r"
    exit 2
    --- stdout
    --- stderr
    haul: --device cpu with http://127.0.0.1:9/v1: where a server computes is its own matter

    hint: leave --device out, or give --device auto where HAUL_DEVICE or haul.toml names another
    ");
    assert_ran!(home, generate(&home, server, &["--ctx", "512"], &input), @r"
    exit 2
    --- stdout
    --- stderr
    haul: --ctx with http://127.0.0.1:9/v1: it is of a GGUF file on this machine

    hint: leave --ctx out; the server was started with its own
    ");
    assert_ran!(home, generate(&home, server, &["--threads", "2"], &input), @r"
    exit 2
    --- stdout
    --- stderr
    haul: --threads 2 with http://127.0.0.1:9/v1: nothing is computed on this machine

    hint: leave --threads out, and HAUL_THREADS unset; --parallel says how many calls are with the server
    ");
    assert_ran!(home, generate(&home, "http://me:secret@host", &[], &input), @r"
    exit 2
    --- stdout
    --- stderr
    haul: an address with a name or a password before its host

    hint: give the key of the server as HAUL_API_KEY
    ");
    let text = home.write("text.txt", "A text.");
    let text = text.to_str().unwrap();
    for args in [
        &["tune", "--model", server, "--out", "out"][..],
        &["compare", server, "--text", text, "--out", "out"],
        &["model", "quantize", server, "to.gguf", "--kind", "q8_0"],
        &["doctor", "--model", server],
    ] {
        let ran = home.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:#?}");
        assert_eq!(
            ran.stderr,
            "haul: http://127.0.0.1:9 is a server, and this command works on a GGUF file of this machine\n\nhint: `haul generate` and `haul correct` ask servers\n"
        );
    }
}

#[test]
fn a_server_that_is_away_is_said_before_anything_is_asked() {
    let home = Home::empty();
    let server = Server::start(|_| Reply::Says(String::new()));
    let url = server.url();
    drop(server);
    let ran = generate(&home, &url, &[], &lines(&[request(0, "one")]));
    assert_eq!(ran.code, 2, "{ran:#?}");
    let says = format!("haul: {url}/v1: no list of models after 6 attempts: ");
    assert!(ran.stderr.starts_with(&says) && ran.stderr.contains("\n\nhint: is it running"), "{ran:#?}");
    assert!(!home.path("out.jsonl").exists());
    let ran = ran_with_key(&home, &url, "a key");
    assert!(ran.code == 2 && ran.stderr.starts_with("haul: HAUL_API_KEY: a key of 5 bytes: "), "{ran:#?}");
}

fn state_of(receipt: &Path) -> Option<String> {
    let receipt: Value = serde_json::from_slice(&fs::read(receipt).ok()?).unwrap();
    Some(receipt["state"].as_str().unwrap().to_owned())
}

/// An earlier run's receipt once stood beside a run that had failed, or was killed, as if it were its own.
#[test]
fn a_receipt_is_of_the_run_that_made_what_is_there() {
    const SAYS: u8 = 0;
    const REFUSES: u8 = 1;
    const WAITS: u8 = 2;
    let mode = Arc::new(AtomicU8::new(SAYS));
    let now = Arc::clone(&mode);
    let server = Server::start(move |asked| match now.load(Ordering::SeqCst) {
        SAYS => Reply::Says(asked.text().to_owned()),
        REFUSES => Reply::Json(401, json!({"error": {"message": "who are you?"}})),
        _ => Reply::Silent(Duration::from_secs(60)),
    });
    let home = Home::empty();
    let url = server.url();
    let manuscript = home.write("letter.md", "He saw the boat.\n");
    let correct = |out: &str| {
        home.run(&[
            "correct",
            manuscript.to_str().unwrap(),
            "--model",
            &url,
            "--out",
            "out",
            "--receipt",
            out,
        ])
    };
    let flags = ["--receipt", "receipt.json"];
    let ask = |id: usize| lines(&[request(id, &format!("text {id}"))]);
    let states = || ["receipt.json", "out/receipt.json", "copy.json"].map(|name| state_of(&home.path(name)));
    let all = |state: &str| [state, state, state].map(|state| Some(state.to_owned()));

    assert_eq!((generate(&home, &url, &flags, &ask(0)).code, correct("copy.json").code), (0, 0));
    assert_eq!(states(), all("finished"));
    // What is refused before anything is asked changes nothing, and neither does it change that.
    let refused = home.run(&["correct", manuscript.to_str().unwrap(), "--model", "no.gguf", "--out", "out"]);
    assert_eq!((refused.code, states()), (2, all("finished")), "{refused:#?}");

    mode.store(REFUSES, Ordering::SeqCst);
    home.write("letter.md", "He saw the ship.\n");
    assert_eq!((generate(&home, &url, &flags, &ask(1)).code, correct("copy.json").code), (2, 2));
    assert_eq!(states(), all("failed"));
    let receipt: Value = serde_json::from_slice(&fs::read(home.path("copy.json")).unwrap()).unwrap();
    let why = receipt["failures"][0]["why"].as_str().unwrap();
    assert!(receipt["job"] == "correct" && why.contains("status 401: who are you?"), "{why}");

    mode.store(WAITS, Ordering::SeqCst);
    let asked = server.asked().len();
    let mut child = spawned(&home, &url, &flags, &ask(2));
    wait_until("a call", || server.asked().len() > asked);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(state_of(&home.path("receipt.json")), None);
}

/// A receipt was once written over a journal, a schema and the answers themselves, for it was told to.
#[test]
fn a_receipt_replaces_nothing_but_a_receipt() {
    let server = Server::start(|asked| Reply::Says(asked.text().to_owned()));
    let home = Home::empty();
    let one = lines(&[request(0, "one")]);
    let with = |receipt: &str| generate(&home, &server.url(), &["--receipt", receipt], &one);
    home.write("notes.txt", "mine");
    fs::create_dir(home.path("folder")).unwrap();
    for (receipt, says) in [
        ("no/receipt.json", "--receipt: there is no folder no"),
        ("notes.txt", "--receipt: notes.txt is there, and is no receipt"),
        ("folder", "--receipt: folder is there, and is no receipt"),
    ] {
        let ran = with(receipt);
        assert!(ran.code == 2 && ran.stderr.contains(says), "{ran:#?}");
    }
    assert!(server.asked().is_empty());
    assert_eq!(fs::read_to_string(home.path("notes.txt")).unwrap(), "mine");
    let over_its_answers = with("out.jsonl");
    assert_eq!(over_its_answers.code, 2, "{over_its_answers:#?}");
    assert_eq!(responses(&home).len(), 1);
    home.write("empty.json", "");
    assert_eq!((with("empty.json").code, with("empty.json").code), (0, 0));
}

fn ran_with_key(home: &Home, url: &str, key: &str) -> Ran {
    let mut command = home.haul(&["generate", "--model", url, "--out", "out.jsonl"]);
    ran(command.env("HAUL_API_KEY", key), lines(&[request(0, "one")]).as_bytes())
}

/// GGUF files by name, from the places of SATCN and our own.
#[test]
fn a_model_is_found_by_its_name_and_said() {
    let home = Home::empty();
    home.write("home/models/ours.gguf", "GGUF");
    home.write("home/models/folder/inside.gguf", "GGUF");
    home.write("user/.satcn/models/GRMR-V3-Q4B.Q4_K_M.gguf", "GGUF");
    home.write(".GRMR-V3-Q4B-GGUF/GRMR-V3-Q4B.Q8_0.gguf", "GGUF");
    home.write("user/.satcn/models/ours.gguf", "GGUF");
    let nowhere = home.path("nowhere");
    std::os::unix::fs::symlink(nowhere, home.path("home/models/broken.gguf")).unwrap();
    assert_ran!(home, home.run(&["model", "list"]), @r"
    exit 0
    --- stdout
    inside                                  4 B  GGUF in the models folder: [HOME]/home/models/folder/inside.gguf
    ours                                    4 B  GGUF in the models folder: [HOME]/home/models/ours.gguf
    GRMR-V3-Q4B.Q8_0                        4 B  GGUF in the working folder: [HOME]/.GRMR-V3-Q4B-GGUF/GRMR-V3-Q4B.Q8_0.gguf
    GRMR-V3-Q4B.Q4_K_M                      4 B  GGUF in SATCN's models: [HOME]/user/.satcn/models/GRMR-V3-Q4B.Q4_K_M.gguf
    ours                                    4 B  GGUF in SATCN's models: [HOME]/user/.satcn/models/ours.gguf
    not read: [HOME]/home/models/broken.gguf: No such file or directory (os error 2)
    --- stderr
    ");
    let listed = home.json(&["model", "list"]);
    assert_eq!(
        (&listed["gguf"][2]["place"], &listed["gguf"][2]["bytes"]),
        (&json!("working_folder"), &json!(4))
    );
    assert_eq!(listed["not_read"][0]["path"], json!(home.path("home/models/broken.gguf")));
    let ask = |name: &str| generate(&home, name, &[], &lines(&[request(0, "one")]));
    // The files are no models; that they were opened shows that they were found.
    assert_ran!(home, ask("grmr-v3-q4b.q8_0"), @r"
    exit 2
    --- stdout
    --- stderr
    model: [HOME]/.GRMR-V3-Q4B-GGUF/GRMR-V3-Q4B.Q8_0.gguf (in the working folder)
    haul: [HOME]/.GRMR-V3-Q4B-GGUF/GRMR-V3-Q4B.Q8_0.gguf: no sound GGUF file: it ends inside the version

    hint: download it again and compare its checksum with the one that its maker gives
    ");
    assert_ran!(home, ask("ours"), @r"
    exit 2
    --- stdout
    --- stderr
    haul: ours: 2 GGUF files: [HOME]/home/models/ours.gguf, [HOME]/user/.satcn/models/ours.gguf

    hint: name one of them by its path
    ");
    assert_ran!(home, ask("other"), @r"
    exit 2
    --- stdout
    --- stderr
    haul: other: no such GGUF file

    hint: there are GRMR-V3-Q4B.Q4_K_M, GRMR-V3-Q4B.Q8_0, inside, ours; `haul model list` says where
    ");
    for address in ["localhost:8000", "10.0.0.1:80/v1#tiny"] {
        let hint = format!("\n\nhint: a server is --model http://{address}\n");
        assert!(ask(address).stderr.ends_with(&hint), "{:#?}", ask(address));
    }
    for name in ["folder", "./home/models/folder"] {
        assert!(ask(name).stderr.contains("home/models/folder/inside.gguf ("), "{name}");
    }
}

/// Against a real one: `python -m llama_cpp.server --model assets/tiny-llm/tiny-q4_k_m.gguf` of `llama-cpp-python[server]`,
/// whose answers to the tiny model's own texts are those of the worker.
#[test]
#[ignore = "needs a server with the tiny model: HAUL_TEST_OPENAI=http://127.0.0.1:8000"]
fn a_real_server_answers_as_the_worker_does() {
    let url = variable("HAUL_TEST_OPENAI").expect("HAUL_TEST_OPENAI names a server");
    let mut requests = vec![
        request(0, "The results was better than expected in every region."),
        request(1, "The meeting was moved to the afternoon becase of the weather."),
        request(2, "Costs hava fallen because the company changed its supplier."),
        request(3, "The results was better than expected in every region."),
    ];
    requests[3]["body"]["max_tokens"] = json!(3);
    let written = "<|im_start|>system\nCorrect the text.<|im_end|>\n<|im_start|>user\nThe results was better than expected in every region.<|im_end|>\n<|im_start|>assistant\n";
    let body = json!({"prompt": written, "max_tokens": 32, "stop": "<|im_end|>"});
    requests.push(json!({"custom_id": "4", "url": "/v1/completions", "body": body}));
    let mut constrained = request(5, "The results was better than expected in every region.");
    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false});
    constrained["body"]["response_format"] =
        json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
    requests.push(constrained);
    let home = Home::empty();
    let ran = generate(&home, &url, &["--json"], &lines(&requests));
    assert_eq!(ran.code, 0, "{ran:#?}");
    let receipt = ran.json();
    assert_eq!(receipt["device"]["verdict"], "unknown");
    assert!(receipt["calls"]["prefill_tokens"].as_u64().unwrap() > 0, "{receipt:#}");
    let by_server = texts(&home);
    assert_eq!(by_server[0], "The results were better than expected in every region.");
    assert_eq!(by_server[4], by_server[0]);
    assert_eq!(responses(&home)[3]["response"]["body"]["choices"][0]["finish_reason"], "length");
    assert!(serde_json::from_str::<Value>(&by_server[5]).unwrap()["ok"].is_boolean(), "{by_server:?}");
    let again = generate(&home, &url, &["--json"], &lines(&requests)).json();
    assert_eq!((&again["calls"]["n"], &again["calls"]["journalled"]), (&json!(0), &json!(6)));
    if Needs("a real server").worker() {
        let home = Home::empty();
        let ran = generate(&home, tiny_llm().to_str().unwrap(), &["--threads", "1"], &lines(&requests));
        assert_eq!(ran.code, 0, "{ran:#?}");
        assert_eq!(texts(&home)[..5], by_server[..5]);
    }
}

fn texts(home: &Home) -> Vec<String> {
    let text = |response: &Value| {
        let choice = &response["response"]["body"]["choices"][0];
        choice["message"]["content"].as_str().or(choice["text"].as_str()).unwrap().to_owned()
    };
    responses(home).iter().map(text).collect()
}
