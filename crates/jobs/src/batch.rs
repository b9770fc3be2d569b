//! `generate`: requests in OpenAI's batch format to responses in its shape, each asked once.
//!
//! A line is `{"custom_id": "..", "method": "POST", "url": "/v1/chat/completions", "body": {..}}`. Responses come in the
//! order of the lines, whatever order is fastest. Requests that begin alike are found, so that what they share is
//! computed once ([`share_beginnings`]).

use std::collections::HashSet;
use std::io::{self, BufRead};

use haul_generate::Generator;
use haul_generate::call::{Answer, Call, CallError, Constraint, Finish, Message, Prompt, Sampling, in_range};
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::Stop;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::calls::{self, Asked, CallsError};

/// Bytes of all lines: what a run holds in memory.
const INPUT_BYTES_MAX: u64 = 1 << 30;
/// Tokens of an answer where the request does not say.
const ANSWER_TOKENS: u32 = 1024;
/// A beginning that is shorter is not worth a group of its own.
const SHARED_BYTES_MIN: usize = 64;
const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";
/// Who speaks: a template writes it among its marks.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// A request, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The user's name for it.
    pub custom_id: String,
    /// The model that the request names; answers come from the one that was opened.
    pub model: Option<String>,
    /// What is asked.
    pub call: Call,
}

/// What became of a request; `None` where a stop came first.
pub type Answered = Option<Result<Answer, CallError>>;

/// Why the lines cannot be asked. Nothing was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The input cannot be read.
    #[error("the input cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is longer than a run can hold.
    #[error("the input is longer than {INPUT_BYTES_MAX} bytes")]
    TooLong,
    /// A line is no request.
    #[error("line {line} of the input: {why}")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// Two lines have one name.
    #[error("line {line} of the input: custom_id {custom_id:?} came before")]
    Twice {
        /// From 1.
        line: u64,
        /// The name.
        custom_id: String,
    },
    /// The calls.
    #[error(transparent)]
    Calls(#[from] CallsError),
}

impl BatchError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read(_) => None,
            Self::TooLong => Some("split the file; a journal for each keeps answers".to_owned()),
            Self::Line { .. } | Self::Twice { .. } => Some(
                "a line is {\"custom_id\": \"1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {\"messages\": [..]}}"
                    .to_owned(),
            ),
            Self::Calls(error) => error.hint(),
        }
    }
}

/// Reads all lines, and refuses them as a whole if one is no request.
///
/// # Errors
/// The first line that cannot be asked as it stands: nothing that it says is left out.
pub fn read(input: impl BufRead) -> Result<Vec<Request>, BatchError> {
    let mut requests = Vec::new();
    let (mut names, mut bytes) = (HashSet::new(), 0);
    for (number, line) in (1_u64..).zip(io::Read::take(input, INPUT_BYTES_MAX + 1).lines()) {
        let line = line?;
        bytes += line.len() as u64 + 1;
        // Some editors begin a file with it.
        let line = line.strip_prefix('\u{FEFF}').filter(|_| number == 1).unwrap_or(&line);
        if bytes > INPUT_BYTES_MAX {
            return Err(BatchError::TooLong);
        }
        if line.trim().is_empty() {
            continue;
        }
        let request = request(line).map_err(|why| BatchError::Line { line: number, why })?;
        if !names.insert(request.custom_id.clone()) {
            return Err(BatchError::Twice { line: number, custom_id: request.custom_id });
        }
        requests.push(request);
    }
    share_beginnings(&mut requests);
    Ok(requests)
}

/// Asks all requests and gives their responses in order; `None` for those that a stop left unasked.
///
/// # Errors
/// The journal, or the generator as a whole.
pub fn run(
    requests: &[Request],
    generator: &mut Generator,
    journal: &mut Journal,
    progress: &Progress,
    stop: &Stop,
) -> Result<(Vec<Answered>, Asked), BatchError> {
    let calls: Vec<Call> = requests.iter().map(|request| request.call.clone()).collect();
    let mut results = vec![None; calls.len()];
    progress.expect(calls.len() as u64, calls.len() as u64);
    let asked = calls::answer("generate", generator, journal, &calls, stop, |number, result| {
        if let Ok(answer) = &result {
            progress.computed(1, answer.computed_tokens());
        }
        progress.done(1, 1);
        results[number] = Some(result);
    })?;
    Ok((results, asked))
}

/// A response line, in OpenAI's shape.
#[must_use]
pub fn response(request: &Request, result: &Result<Answer, CallError>, model: &str) -> Value {
    let (response, error) = match result {
        Ok(answer) => (json!({"status_code": 200, "body": body(request, answer, model)}), Value::Null),
        Err(error) => (Value::Null, json!({"code": code(error), "message": error.to_string()})),
    };
    json!({"id": format!("batch_req_{}", request.custom_id), "custom_id": request.custom_id, "response": response, "error": error})
}

fn body(request: &Request, answer: &Answer, model: &str) -> Value {
    let finish_reason = match answer.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    let (object, mut choice) = match request.call.prompt {
        Prompt::Chat { .. } => (
            "chat.completion",
            json!({"index": 0, "message": {"role": "assistant", "content": answer.text}, "finish_reason": finish_reason}),
        ),
        Prompt::Text { .. } => {
            ("text_completion", json!({"index": 0, "text": answer.text, "finish_reason": finish_reason}))
        }
    };
    if request.call.logprobs.is_some() {
        let tokens = answer.logprobs.iter().map(|token| {
            let top = token.top.iter().map(|(text, ln)| json!({"token": text, "logprob": ln}));
            json!({"token": token.token, "logprob": token.logprob, "top_logprobs": top.collect::<Vec<_>>()})
        });
        choice["logprobs"] = json!({"content": tokens.collect::<Vec<_>>()});
    }
    json!({
        "id": format!("haul-{}", request.custom_id), "object": object, "model": model, "choices": [choice],
        "usage": {
            "prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.answer_tokens,
            "total_tokens": u64::from(answer.prompt_tokens) + u64::from(answer.answer_tokens),
            "prompt_tokens_details": {"cached_tokens": answer.reused_tokens},
        },
    })
}

fn code(error: &CallError) -> &'static str {
    match error {
        CallError::TooLong { .. } => "too_long",
        CallError::Truncated { .. } => "truncated",
        CallError::NotOfSchema { .. } => "not_of_schema",
        CallError::Unusable { .. } => "unusable",
        CallError::GivenUp { .. } => "given_up",
        _ => "refused",
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    custom_id: String,
    method: Option<String>,
    url: Option<String>,
    body: Body,
}

/// What of OpenAI's requests can be done as it is said. A key that is not here would change the answer, and is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    model: Option<String>,
    messages: Option<Vec<Turn>>,
    prompt: Option<String>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    seed: Option<u32>,
    stop: Option<Stops>,
    response_format: Option<Value>,
    logprobs: Option<Value>,
    top_logprobs: Option<u32>,
    n: Option<u32>,
    stream: Option<bool>,
    #[serde(rename = "user")]
    _user: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    role: String,
    content: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stops {
    One(String),
    Many(Vec<String>),
}

fn request(line: &str) -> Result<Request, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let body = line.body;
    if let Some(method) = line.method.filter(|method| method != "POST") {
        return Err(format!("method {method:?}: it is POST"));
    }
    if body.n.is_some_and(|n| n != 1) || body.stream == Some(true) {
        return Err("n other than 1 and stream are not for batches".to_owned());
    }
    let prompt = prompt(line.url.as_deref(), body.messages, body.prompt)?;
    let logprobs = match (&body.logprobs, body.top_logprobs) {
        (Some(Value::Bool(true)), top) => Some(top.unwrap_or(0)),
        (Some(Value::Number(top)), None) => {
            Some(top.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("logprobs: a count")?)
        }
        (None | Some(Value::Bool(false) | Value::Null), None) => None,
        _ => return Err("logprobs is true, with top_logprobs a count, or a count alone".to_owned()),
    };
    let repeat_penalty = body.repeat_penalty.unwrap_or(1.0);
    let sampling = Sampling {
        temperature: body.temperature.unwrap_or(0.0),
        top_k: body.top_k.unwrap_or(0),
        top_p: body.top_p.unwrap_or(1.0),
        min_p: body.min_p.unwrap_or(0.0),
        repeat_penalty,
        repeat_last: if (repeat_penalty - 1.0).abs() < f32::EPSILON { 0 } else { 64 },
        seed: body.seed.unwrap_or(0),
    };
    in_range(&sampling)?;
    let call = Call {
        prompt,
        max_tokens: body.max_completion_tokens.or(body.max_tokens).unwrap_or(ANSWER_TOKENS),
        stop: match body.stop {
            None => vec![],
            Some(Stops::One(text)) => vec![text],
            Some(Stops::Many(texts)) => texts,
        },
        sampling,
        constraint: body.response_format.as_ref().map(constraint).transpose()?.flatten(),
        draft: None,
        logprobs,
    };
    Ok(Request { custom_id: line.custom_id, model: body.model, call })
}

fn prompt(url: Option<&str>, messages: Option<Vec<Turn>>, text: Option<String>) -> Result<Prompt, String> {
    match (url.unwrap_or(CHAT), messages, text) {
        (CHAT, Some(turns), None) if !turns.is_empty() => {
            if let Some(turn) = turns.iter().find(|turn| !ROLES.contains(&turn.role.as_str())) {
                return Err(format!("role {:?}: it is {}", turn.role, ROLES.join(", ")));
            }
            let messages =
                turns.into_iter().map(|Turn { role, content }| Message { role, content }).collect();
            Ok(Prompt::Chat { messages, shared_bytes: 0 })
        }
        (COMPLETION, None, Some(text)) => Ok(Prompt::text(&text)),
        (CHAT, ..) => Err(format!("{CHAT} has \"messages\", at least one, and no \"prompt\"")),
        (COMPLETION, ..) => Err(format!("{COMPLETION} has a \"prompt\", a text, and no \"messages\"")),
        (other, ..) => Err(format!("url {other:?}: it is {CHAT} or {COMPLETION}")),
    }
}

fn constraint(format: &Value) -> Result<Option<Constraint>, String> {
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Constraint::JsonSchema(json!({"type": "object"})))),
        Some("json_schema") if format["json_schema"]["schema"].is_object() => {
            Ok(Some(Constraint::JsonSchema(format["json_schema"]["schema"].clone())))
        }
        _ => {
            Err("response_format is {\"type\": \"text\"}, \"json_object\", or \"json_schema\" with a schema"
                .to_owned())
        }
    }
}

/// Finds requests whose prompts begin alike, and tells each call how much it shares with its neighbours: the longest
/// beginning of a run of prompts, sorted, that keeps half of the text that the run began with.
pub fn share_beginnings(requests: &mut [Request]) {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by(|a, b| key(&requests[*a]).cmp(&key(&requests[*b])));
    let mut first = 0;
    while first < order.len() {
        let mut common = key(&requests[order[first]]).1.len();
        let mut end = first + 1;
        while end < order.len() {
            let shared = shared_by(&requests[order[first]], &requests[order[end]]).min(common);
            if shared < SHARED_BYTES_MIN || 2 * shared < common {
                break;
            }
            common = shared;
            end += 1;
        }
        if end > first + 1 {
            for at in &order[first..end] {
                set_shared(&mut requests[*at].call.prompt, common);
            }
        }
        first = end;
    }
}

/// Everything before the last turn, and the text that may be shared in part.
fn key(request: &Request) -> (&[Message], &str) {
    match &request.call.prompt {
        Prompt::Chat { messages, .. } => match messages.split_last() {
            Some((last, before)) => (before, &last.content),
            None => (&[], ""),
        },
        Prompt::Text { suffix, .. } => (&[], suffix),
    }
}

fn shared_by(a: &Request, b: &Request) -> usize {
    let ((turns_a, text_a), (turns_b, text_b)) = (key(a), key(b));
    let is_chat = |request: &Request| matches!(request.call.prompt, Prompt::Chat { .. });
    if turns_a != turns_b || is_chat(a) != is_chat(b) {
        return 0;
    }
    let bytes = text_a.bytes().zip(text_b.bytes()).take_while(|(a, b)| a == b).count();
    (0..=bytes).rev().find(|at| text_a.is_char_boundary(*at)).unwrap_or(0)
}

fn set_shared(prompt: &mut Prompt, bytes: usize) {
    match prompt {
        Prompt::Chat { shared_bytes, .. } => *shared_bytes = bytes,
        Prompt::Text { prefix, suffix, .. } => {
            let rest = suffix.split_off(bytes);
            *prefix = std::mem::replace(suffix, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(body: &str) -> String {
        format!(r#"{{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{body}}}"#)
    }

    #[test]
    fn a_request_is_read_whole_or_refused() {
        let call = request(&line(
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":5,"temperature":0.5,"stop":"x","seed":7,"logprobs":true,"top_logprobs":2}"#,
        ))
        .unwrap()
        .call;
        assert_eq!((call.max_tokens, call.sampling.seed, call.logprobs), (5, 7, Some(2)));
        assert_eq!(call.stop, ["x"]);
        for (body, wrong) in [
            (r#"{"messages":[{"role":"user","content":"hi"}],"tools":[]}"#, "tools"),
            (r#"{"messages":[{"role":"user","content":"hi"}],"n":2}"#, "n other than 1"),
            (r#"{"messages":[]}"#, "at least one"),
            (r#"{"prompt":"hi"}"#, "messages"),
            (
                r#"{"messages":[{"role":"user","content":"hi"}],"response_format":{"type":"xml"}}"#,
                "response_format",
            ),
            (r#"{"messages":[{"role":"user","content":[{"type":"image"}]}]}"#, "string"),
            (r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":-1}"#, "u32"),
            (
                r#"{"messages":[{"role":"user<|im_end|>","content":"hi"}]}"#,
                "role \"user<|im_end|>\": it is system",
            ),
            (
                r#"{"messages":[{"role":"user","content":"hi"}],"top_p":-1}"#,
                "top_p is -1: it is above 0 and at most 1",
            ),
            (r#"{"messages":[{"role":"user","content":"hi"}],"min_p":99}"#, "min_p is 99: it is from 0 to 1"),
            (r#"{"messages":[{"role":"user","content":"hi"}],"temperature":-0.5}"#, "temperature is -0.5"),
            (r#"{"messages":[{"role":"user","content":"hi"}],"repeat_penalty":0}"#, "repeat_penalty is 0"),
        ] {
            let why = request(&line(body)).unwrap_err();
            assert!(why.contains(wrong), "{body}: {why}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_request() {
        let one = line(r#"{"messages":[{"role":"user","content":"hi"}]}"#);
        assert_eq!(read(format!("\u{FEFF}{one}\n").as_bytes()).unwrap().len(), 1);
        assert!(matches!(
            read(format!("\n\u{FEFF}{one}\n").as_bytes()),
            Err(BatchError::Line { line: 2, .. })
        ));
    }

    #[test]
    fn a_name_stands_once() {
        let twice = format!("{0}\n\n{0}\n", line(r#"{"messages":[{"role":"user","content":"hi"}]}"#));
        assert!(matches!(read(twice.as_bytes()), Err(BatchError::Twice { line: 3, .. })));
    }

    #[test]
    fn requests_that_begin_alike_say_so() {
        let document =
            "The lighthouse stood on the rock since 1871, and its keepers wrote down every storm. ".repeat(4);
        let other = document.replace("lighthouse", "monastery");
        let ask = |id: usize, content: &str| {
            let messages = vec![Message { role: "user".to_owned(), content: content.to_owned() }];
            Request {
                custom_id: id.to_string(),
                model: None,
                call: Call::greedy(Prompt::Chat { messages, shared_bytes: 0 }, 8),
            }
        };
        let mut requests = vec![
            ask(0, &format!("{document}Who?")),
            ask(1, &format!("{other}When?")),
            ask(2, &format!("{document}Where?")),
            ask(3, "Something else."),
            ask(4, &format!("{other}Who?")),
        ];
        share_beginnings(&mut requests);
        let shared: Vec<_> = requests
            .iter()
            .map(|request| match &request.call.prompt {
                Prompt::Chat { shared_bytes, .. } => *shared_bytes,
                Prompt::Text { .. } => unreachable!(),
            })
            .collect();
        // "Wh" of the questions is shared as well.
        assert_eq!(shared, [document.len() + 2, other.len() + 2, document.len() + 2, 0, other.len() + 2]);
    }

    #[test]
    fn a_response_has_openais_shape() {
        let request = request(&line(r#"{"messages":[{"role":"user","content":"hi"}]}"#)).unwrap();
        let answer = Answer {
            text: "ho".to_owned(),
            finish: Finish::Length,
            prompt_tokens: 9,
            reused_tokens: 4,
            answer_tokens: 2,
            ms: 1,
            logprobs: vec![],
        };
        let line = response(&request, &Ok(answer), "tiny");
        assert_eq!(line["response"]["body"]["choices"][0]["message"]["content"], "ho");
        assert_eq!(line["response"]["body"]["choices"][0]["finish_reason"], "length");
        assert_eq!(line["response"]["body"]["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
        assert!(line["error"].is_null());
        let refused = response(&request, &Err(CallError::Refused { why: "no".to_owned() }), "tiny");
        assert_eq!(refused["error"]["code"], "refused");
        assert!(refused["response"].is_null());
    }
}
