//! Servers that are sound, slow, broken or hostile: every call ends in an answer or a named verdict, after a bounded
//! number of requests, and nothing that was answered is lost.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use haul_generate::call::{Answer, Call, CallError, Constraint, Finish, Prompt, Totals};
use haul_generate::remote::{ApiKey, Patience, Remote, RemoteSettings, ServerAddress, ServerError};
use haul_generate::{GenerateError, Generator};
use haul_machine::verdict::Placement;
use serde_json::{Value, json};

use crate::server::{Asked, Reply, Server, answer};

const ATTEMPTS_MAX: u32 = 6;
const TROUBLED_CALLS_MAX: usize = 8;

fn settings(url: &str, parallel: usize) -> RemoteSettings {
    RemoteSettings {
        address: ServerAddress::parse(url).unwrap(),
        key: None,
        parallel,
        patience: Patience {
            connect: Duration::from_secs(2),
            answer: Duration::from_secs(20),
            list: Duration::from_secs(5),
            busy: Duration::from_secs(20),
            backoff_first: Duration::from_millis(1),
        },
        stop: Arc::default(),
    }
}

fn open(server: &Server, parallel: usize) -> Generator {
    Generator::Remote(Box::new(Remote::open(settings(&server.url(), parallel)).unwrap()))
}

fn calls(count: usize) -> Vec<Call> {
    (0..count).map(|number| Call::greedy(Prompt::chat(None, "", &number.to_string()), 8)).collect()
}

type Results = BTreeMap<usize, Result<Answer, CallError>>;

/// All results by number, each once, and what the run came to.
fn run(generator: &mut Generator, calls: &[Call]) -> (Results, Result<Totals, GenerateError>) {
    let mut results = BTreeMap::new();
    let run = generator.run(calls, &mut |number, result| {
        assert!(results.insert(number, result).is_none(), "call {number} was answered twice");
        ControlFlow::Continue(())
    });
    (results, run)
}

/// The one call of a server that always replies so.
fn one(
    reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    call: &Call,
) -> (Result<Answer, CallError>, usize) {
    let server = Server::start(reply);
    let (mut results, _) = run(&mut open(&server, 1), std::slice::from_ref(call));
    (results.remove(&0).unwrap(), server.asked().len())
}

fn text_of(result: &Result<Answer, CallError>) -> &str {
    &result.as_ref().unwrap().text
}

#[test]
fn a_sound_server_answers_by_number_whatever_the_order() {
    let server = Server::start(|asked| {
        // The later a call, the sooner its answer.
        sleep(Duration::from_millis(20 - asked.text().parse::<u64>().unwrap()));
        Reply::Says(format!("<{}>", asked.text()))
    });
    let mut generator = open(&server, 4);
    let facts = generator.facts();
    assert_eq!((facts.name.as_str(), facts.context_tokens), ("tiny", Some(512)));
    assert_eq!(facts.identity, format!("{}/v1#tiny", server.url()));
    let (results, totals) = run(&mut generator, &calls(16));
    for (number, result) in &results {
        assert_eq!(text_of(result), format!("<{number}>"));
    }
    let totals = totals.unwrap();
    assert_eq!((totals.calls, totals.prefill_tokens, totals.reused_prefix_tokens), (16, 16 * 5, 16 * 4));
    assert_eq!((totals.failed, totals.retries, totals.decode_tokens), (0, 0, 32));
    let most = server.asked().iter().map(|asked| asked.live).max().unwrap();
    assert!((2..=4).contains(&most), "{most} calls at once");
    let Generator::Remote(remote) = generator else { unreachable!() };
    let verdict = remote.verdict();
    assert_eq!((verdict.verdict, verdict.used.as_str()), (Placement::Unknown, "unknown"));
    assert!(verdict.witnesses[0].detail.contains("tiny"), "{verdict:?}");
}

/// A prompt cache has a common beginning only when one call that has it was answered: llama.cpp's server reuses nothing
/// for calls that come together.
#[test]
fn of_calls_that_begin_alike_one_goes_ahead() {
    let document =
        "The lighthouse stood on the rock since 1871, and its keepers wrote down every storm. ".repeat(3);
    let server = Server::start(|asked| {
        sleep(Duration::from_millis(30));
        Reply::Says(asked.text().chars().rev().take(2).collect())
    });
    let calls: Vec<Call> =
        (10..18).map(|number| Call::greedy(Prompt::chat(None, &document, &number.to_string()), 8)).collect();
    let (results, _) = run(&mut open(&server, 8), &calls);
    assert_eq!(results.len(), 8);
    let live: Vec<usize> = server.asked().iter().map(|asked| asked.live).collect();
    // The first, and the first of those that follow it.
    assert!(live[0] == 1 && live.iter().filter(|live| **live == 1).count() > 1, "{live:?}");
    assert!(*live.iter().max().unwrap() > 3, "{live:?}");
}

#[test]
fn a_busy_server_is_waited_for_as_long_as_it_says() {
    let retry_after = |seconds: &str| {
        Reply::Full(
            429,
            vec![("retry-after", seconds.to_owned())],
            br#"{"error": {"message": "slow down"}}"#.to_vec(),
        )
    };
    let start = Instant::now();
    let (result, requests) = one(
        move |asked| if asked.before == 0 { retry_after("1") } else { Reply::Says("ok".to_owned()) },
        &calls(1)[0],
    );
    assert_eq!((text_of(&result), requests), ("ok", 2));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    let (result, requests) = one(move |_| retry_after("86400"), &calls(1)[0]);
    let why = "status 429: slow down (it asks to be left alone for 86400 s)".to_owned();
    assert_eq!((result, requests), (Err(CallError::GivenUp { attempts: 1, why }), 1));
}

/// Each refusal is asked again, until no call had an answer for as long as one is kept waiting.
#[test]
fn a_server_that_is_always_busy_ends_the_run() {
    let server = Server::start(|asked| {
        if asked.before < 4 {
            return Reply::Says("ok".to_owned());
        }
        Reply::Json(429, json!({"error": {"message": "slow down"}}))
    });
    let mut settings = settings(&server.url(), 4);
    settings.patience.busy = Duration::from_millis(800);
    settings.patience.backoff_first = Duration::from_millis(50);
    let start = Instant::now();
    let (results, run) = run(&mut Generator::Remote(Box::new(Remote::open(settings).unwrap())), &calls(1000));
    let Err(GenerateError::Server(ServerError::Busy { calls, why, .. })) = run else { panic!("{run:?}") };
    assert!((3..=4).contains(&calls), "{calls}");
    assert!(why.starts_with("status 429: slow down"), "{why}");
    assert_eq!(results.values().filter(|result| result.is_ok()).count(), 4);
    assert!(results.len() < 12, "{}", results.len());
    assert!((8..60).contains(&server.asked().len()), "{}", server.asked().len());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// Its list of models was waited for as long as for an answer: twice ten minutes.
#[test]
fn a_list_of_models_is_not_waited_for_like_an_answer() {
    let server = Server::of_all(|_| Reply::Silent(Duration::from_secs(10)));
    let mut settings = settings(&server.url(), 1);
    settings.patience.list = Duration::from_millis(200);
    let start = Instant::now();
    let Err(error) = Remote::open(settings) else { panic!("it says nothing") };
    assert!(matches!(error, ServerError::NoList { attempts: 2, .. }), "{error}");
    assert!(server.is_asked_for_models());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_server_that_fails_now_and_then_loses_nothing() {
    let server = Server::start(|asked| match (asked.before_text, asked.text()) {
        (0, _) => Reply::Json(500, json!({"error": {"message": "out of memory"}})),
        (1, _) => Reply::Cut,
        (_, text) => Reply::Says(format!("<{text}>")),
    });
    let (results, totals) = run(&mut open(&server, 1), &calls(5));
    assert!(results.iter().all(|(number, result)| text_of(result) == format!("<{number}>")));
    assert_eq!(totals.unwrap().retries, 10);
}

/// Each call has its verdict, and a server that is broken for all of them is not asked six times for each of a
/// thousand.
#[test]
fn a_server_that_always_fails_gives_each_call_its_verdict() {
    let server = Server::start(|_| Reply::Json(500, json!({"error": {"message": "out of memory"}})));
    let (results, totals) = run(&mut open(&server, 1), &calls(20));
    let why = "status 500: out of memory".to_owned();
    assert_eq!(results[&0], Err(CallError::GivenUp { attempts: ATTEMPTS_MAX, why: why.clone() }));
    assert_eq!(results[&19], Err(CallError::GivenUp { attempts: 1, why }));
    assert_eq!(server.asked().len(), TROUBLED_CALLS_MAX * ATTEMPTS_MAX as usize + (20 - TROUBLED_CALLS_MAX));
    assert_eq!(totals.unwrap().failed, 20);
}

#[test]
fn what_is_no_answer_is_named() {
    let html = || Reply::Full(200, vec![("content-type", "text/html".to_owned())], b"<html>Log in".to_vec());
    let no_json =
        || Reply::Full(200, vec![("content-type", "application/json".to_owned())], b"{\"choices".to_vec());
    for (reply, why) in [
        (
            Box::new(html) as Box<dyn Fn() -> Reply + Send + Sync>,
            "an answer of type text/html, of application/json: \"<html>Log in\"",
        ),
        (Box::new(no_json), "no answer in JSON"),
        (Box::new(|| Reply::Cut), "the answer was cut after 13 bytes"),
        (Box::new(|| Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())), ""),
        (Box::new(|| Reply::Raw(vec![])), ""),
    ] {
        let (result, requests) = one(move |_| reply(), &calls(1)[0]);
        let Err(CallError::GivenUp { attempts, why: said }) = result else { panic!("{why}: {result:?}") };
        assert!(said.contains(why), "{why}: {said}");
        assert_eq!((attempts, requests), (ATTEMPTS_MAX, ATTEMPTS_MAX as usize), "{said}");
    }
    // What would come again is not asked for again.
    let redirect = || Reply::Full(307, vec![("location", "http://127.0.0.1:9/elsewhere".to_owned())], vec![]);
    for (reply, why) in [
        (Box::new(|| Reply::Endless) as Box<dyn Fn() -> Reply + Send + Sync>, "longer than 16 MiB"),
        (Box::new(redirect), "status 307, a redirect to http://127.0.0.1:9/elsewhere, which is not followed"),
        (Box::new(|| Reply::Json(400, json!({"error": {"message": "too long"}}))), "status 400: too long"),
        (Box::new(|| Reply::Json(200, json!({"error": "no such model"}))), "an error in place of an answer"),
        (Box::new(|| Reply::Json(200, json!({"choices": []}))), "no choice"),
    ] {
        let (result, requests) = one(move |_| reply(), &calls(1)[0]);
        let said = result.unwrap_err().to_string();
        assert!(said.contains(why), "{why}: {said}");
        assert_eq!(requests, 1, "{said}");
    }
}

#[test]
fn a_silent_server_is_waited_for_twice() {
    let server = Server::start(|_| Reply::Silent(Duration::from_secs(5)));
    let mut settings = settings(&server.url(), 1);
    settings.patience.answer = Duration::from_millis(300);
    let start = Instant::now();
    let (results, _) = run(&mut Generator::Remote(Box::new(Remote::open(settings).unwrap())), &calls(1));
    assert!(matches!(results[&0], Err(CallError::GivenUp { attempts: 2, .. })), "{results:?}");
    assert_eq!(server.asked().len(), 2);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn a_cut_answer_says_so_and_a_wrong_one_is_refused() {
    let schema = json!({"type": "object", "required": ["name"]});
    let call = Call { constraint: Some(Constraint::JsonSchema(schema)), ..calls(1).remove(0) };
    let says =
        |text: &'static str, finish: &'static str| move |_: &Asked| Reply::Json(200, answer(text, finish));
    assert_eq!(text_of(&one(says(r#"{"name": 1}"#, "stop"), &call).0), r#"{"name": 1}"#);
    let (cut, _) = one(says(r#"{"na"#, "length"), &call);
    assert_eq!(cut.unwrap().finish, Finish::Length);
    for text in ["{}", "Sure! {\"name\": 1}", r#"{"name""#] {
        let (result, requests) = one(says(text, "stop"), &call);
        assert!(matches!(result, Err(CallError::NotOfSchema { .. })), "{text}: {result:?}");
        assert_eq!(requests, 1);
    }
}

/// llama-cpp-python knows `json_object` with a schema alone. It answered `json_schema` with status 500, which was taken for
/// weather: six attempts, and no answer.
#[test]
fn a_server_that_refuses_schemas_as_openai_writes_them_is_asked_in_the_other_way_once() {
    let schema = Constraint::JsonSchema(json!({"type": "object"}));
    let calls: Vec<Call> =
        calls(3).into_iter().map(|call| Call { constraint: Some(schema.clone()), ..call }).collect();
    for status in [422, 500] {
        let server = Server::start(move |asked| match asked.body["response_format"]["type"].as_str() {
            Some("json_object") => Reply::Says("{}".to_owned()),
            _ => Reply::Json(
                status,
                json!({"error": {"message": "'loc': ('body', 'response_format', 'type')"}}),
            ),
        });
        let (results, totals) = run(&mut open(&server, 1), &calls);
        assert!(results.values().all(Result::is_ok), "{results:?}");
        assert_eq!((server.asked().len(), totals.unwrap().retries), (4, 1));
    }
    // A call that is refused in both ways has the first refusal as its verdict.
    let (result, _) = one(|_| Reply::Json(400, json!({"detail": "too long"})), &calls[0]);
    assert_eq!(result, Err(CallError::Refused { why: "status 400: too long".to_owned() }));
}

#[test]
fn a_server_that_is_down_is_an_error_before_anything_is_asked() {
    let server = Server::start(|_| Reply::Says(String::new()));
    let url = server.url();
    drop(server);
    let Err(error) = Remote::open(settings(&url, 1)) else { panic!("it is down") };
    assert!(matches!(&error, ServerError::NoList { attempts: ATTEMPTS_MAX, .. }), "{error}");
    assert!(
        error.to_string().starts_with(&format!("{url}/v1: no list of models after 6 attempts: ")),
        "{error}"
    );
}

/// Nothing that was answered is lost, and a thousand calls are not tried at a server that is gone.
#[test]
fn a_server_that_dies_ends_the_run() {
    let answered = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&answered);
    let server = Arc::new(OnceLock::<Server>::new());
    let own = Arc::clone(&server);
    let started = Server::start(move |_| {
        if counter.fetch_add(1, Ordering::SeqCst) == 10 {
            own.get().unwrap().go_down();
        }
        Reply::Says("ok".to_owned())
    });
    assert!(server.set(started).is_ok());
    let mut generator = open(server.get().unwrap(), 2);
    let (results, run) = run(&mut generator, &calls(1000));
    let Err(GenerateError::Server(ServerError::Gone { calls, .. })) = run else { panic!("{run:?}") };
    assert!((3..=4).contains(&calls), "{calls}");
    let ok = results.values().filter(|result| result.is_ok()).count();
    assert!((10..=12).contains(&ok), "{ok}");
    assert!(results.len() < 20, "{}", results.len());
}

#[test]
fn a_key_is_sent_and_never_said() {
    let secret = "sk-secret-0123456789";
    let server = Server::of_all(move |asked| {
        Reply::Json(
            401,
            json!({"error": {"message": format!("Incorrect API key provided: {}", asked.key.as_ref().unwrap())}}),
        )
    });
    let with_key = RemoteSettings { key: Some(ApiKey::new(secret).unwrap()), ..settings(&server.url(), 1) };
    assert!(!format!("{with_key:?}").contains("secret"));
    let Err(error) = Remote::open(with_key) else { panic!("it is refused") };
    assert_eq!(
        error.to_string(),
        format!("{}/v1: status 401: Incorrect API key provided: Bearer [key]", server.url())
    );
    let server = Server::start(|asked| Reply::Says(asked.key.clone().unwrap()));
    let with_key = RemoteSettings { key: Some(ApiKey::new(secret).unwrap()), ..settings(&server.url(), 1) };
    let mut generator = Generator::Remote(Box::new(Remote::open(with_key).unwrap()));
    let (results, _) = run(&mut generator, &calls(1));
    assert_eq!(text_of(&results[&0]), format!("Bearer {secret}"));
    assert!(!generator.facts().identity.contains(secret));
}

#[test]
fn the_model_is_the_only_one_or_named() {
    let two = || {
        Server::with_models(json!({"data": [{"id": "a"}, {"id": "b"}]}), |asked| {
            Reply::Says(asked.body["model"].as_str().unwrap().to_owned())
        })
    };
    let server = two();
    let Err(error) = Remote::open(settings(&server.url(), 1)) else { panic!("which one?") };
    assert_eq!(error.to_string(), format!("{}/v1: 2 models (a, b)", server.url()));
    let remote = Remote::open(settings(&format!("{}#b", server.url()), 1)).unwrap();
    let (results, _) = run(&mut Generator::Remote(Box::new(remote)), &calls(1));
    assert_eq!(text_of(&results[&0]), "b");
    // A server without such a route is asked for the model that was named.
    let none = Server::of_all(|asked| {
        if asked.route == "/v1/models" { Reply::Json(404, Value::Null) } else { Reply::Says("ok".to_owned()) }
    });
    assert!(Remote::open(settings(&none.url(), 1)).is_err());
    assert!(Remote::open(settings(&format!("{}#m", none.url()), 1)).is_ok());
    let hostile =
        Server::with_models(json!({"data": [{"id": "a\nb\u{1b}[2J"}]}), |_| Reply::Says(String::new()));
    let Err(error) = Remote::open(settings(&hostile.url(), 1)) else { panic!("no name") };
    assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
}

#[test]
fn a_run_that_is_stopped_waits_for_nobody() {
    let server = Server::start(|asked| {
        if asked.text() != "0" {
            sleep(Duration::from_secs(3));
        }
        Reply::Says("ok".to_owned())
    });
    let mut generator = open(&server, 4);
    let (start, mut seen) = (Instant::now(), 0);
    let run = generator.run(&calls(100), &mut |_, _| {
        seen += 1;
        ControlFlow::Break(())
    });
    assert_eq!((run.unwrap().calls, seen), (1, 1));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// Whatever bytes come, the call has a verdict.
#[test]
fn a_server_may_say_anything() {
    let random = |seed: usize| {
        let mut state = seed as u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let parts: [&[u8]; 12] = [
            b"HTTP/1.1 200 OK\r\n",
            b"content-length: 99999999999999999999\r\n",
            b"content-length: -1\r\n",
            b"content-length: 5\r\n",
            b"transfer-encoding: chunked\r\n",
            b"content-type: application/json\r\n",
            b"\r\n",
            b"ffffffffffffffff\r\n",
            b"5\r\n{\"a\":\r\n",
            b"0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"\0\xff: \r\n",
        ];
        let mut bytes = if next() % 4 == 0 { vec![] } else { parts[0].to_vec() };
        for _ in 0..next() % 8 {
            bytes.extend_from_slice(parts[next() % parts.len()]);
        }
        bytes
    };
    let server = Server::start(move |asked| Reply::Raw(random(asked.before)));
    let (results, run) = run(&mut open(&server, 4), &calls(60));
    assert!(results.values().all(Result::is_err), "{results:?}");
    assert!(run.is_ok() || matches!(run, Err(GenerateError::Server(ServerError::Gone { .. }))), "{run:?}");
}
