//! Language models behind a server: what a user sees of it, and that a rerun asks nothing twice.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::fixtures::{Home, Needs, Ran, assert_ran, ran, variable};
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

/// Every file below a folder holds nothing of the key.
fn assert_no_secret(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            assert_no_secret(&path);
        } else if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
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
    assert_no_secret(&home.path(""));
    // Another model of a server is another question.
    let named = generate(&home, &format!("{}#other", server.url()), &["--json"], &input).json();
    assert_eq!(named["calls"]["n"], 3);
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
