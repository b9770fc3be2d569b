//! Calls and answers as OpenAI's routes have them.
//!
//! What a call says is sent, or the call is refused. What it leaves open is the server's own default. Fields that are
//! not OpenAI's (`top_k`, `min_p`, `repeat_penalty`, and `repetition_penalty` as vLLM calls it) are sent only where a
//! call sets them.

use haul_frames::{Constraint, Sampling};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Answer, Call, CallError, Finish, Message, Prompt, TokenLogprob};

pub(super) const MODELS: &str = "/models";
const CHAT: &str = "/chat/completions";
const COMPLETION: &str = "/completions";
/// llama-cpp-python calls a model by the path of its file.
const NAME_BYTES_MAX: usize = 4096;

/// How a server is told the schema of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `json_schema`: OpenAI, vLLM, SGLang, Ollama, llama-server.
    JsonSchema,
    /// `json_object` with the schema beside it: llama-cpp-python.
    JsonObject,
}

/// A call as it is sent.
pub(super) struct Sent {
    pub(super) route: &'static str,
    pub(super) body: Value,
}

/// A call for `model`.
pub(super) fn request(call: &Call, model: &str, dialect: Dialect) -> Result<Sent, CallError> {
    let mut body = json!({"model": model, "max_tokens": call.max_tokens, "stream": false});
    let route = match &call.prompt {
        Prompt::Text { prefix, suffix } => {
            body["prompt"] = json!(format!("{prefix}{suffix}"));
            COMPLETION
        }
        Prompt::Chat { messages, .. } => {
            body["messages"] = json!(messages);
            CHAT
        }
    };
    sampling(&mut body, &call.sampling);
    if !call.stop.is_empty() {
        body["stop"] = json!(call.stop);
    }
    match (call.logprobs, route) {
        (None, _) => {}
        (Some(top), CHAT) => {
            body["logprobs"] = json!(true);
            body["top_logprobs"] = json!(top);
        }
        (Some(top), _) => body["logprobs"] = json!(top),
    }
    match &call.constraint {
        None => {}
        Some(Constraint::Lark(_)) => {
            let why = "a Lark grammar, which OpenAI's routes do not have".to_owned();
            return Err(CallError::Refused { why });
        }
        Some(Constraint::JsonSchema(schema)) => {
            body["response_format"] = match dialect {
                Dialect::JsonSchema => {
                    json!({"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": schema}})
                }
                Dialect::JsonObject => json!({"type": "json_object", "schema": schema}),
            };
        }
    }
    Ok(Sent { route, body })
}

fn sampling(body: &mut Value, sampling: &Sampling) {
    // As decimal fractions: 0.7 as f32 is 0.699999988079071 as f64.
    let number =
        |value: f32| value.to_string().parse::<f64>().map_or_else(|_| json!(value), |exact| json!(exact));
    body["temperature"] = number(sampling.temperature);
    if sampling.temperature > 0.0 {
        body["top_p"] = number(sampling.top_p);
        body["seed"] = json!(sampling.seed);
    }
    if sampling.top_k > 0 {
        body["top_k"] = json!(sampling.top_k);
    }
    if sampling.min_p > 0.0 {
        body["min_p"] = number(sampling.min_p);
    }
    if (sampling.repeat_penalty - 1.0).abs() > f32::EPSILON {
        body["repeat_penalty"] = number(sampling.repeat_penalty);
        body["repetition_penalty"] = number(sampling.repeat_penalty);
        body["repeat_last_n"] = json!(sampling.repeat_last);
    }
}

/// What calls begin with, as one text: two with the same one have the same beginning of their prompts.
pub(super) fn beginning(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text { prefix, .. } => prefix.clone(),
        Prompt::Chat { messages, shared_bytes } => {
            let Some((last, before)) = messages.split_last() else { return String::new() };
            let turn = |Message { role, content }: &Message| format!("{role}\u{0}{content}\u{0}");
            let shared = last.content.get(..*shared_bytes).unwrap_or("");
            let mut text: String = before.iter().map(turn).collect();
            text.push_str(&last.role);
            text.push('\u{0}');
            text.push_str(shared);
            text
        }
    }
}

/// Bytes that [`beginning`] has of the prompt itself.
pub(super) fn beginning_bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text { prefix, .. } => prefix.len(),
        Prompt::Chat { messages, shared_bytes } => {
            let before = messages.len().saturating_sub(1);
            shared_bytes + messages[..before].iter().map(|message| message.content.len()).sum::<usize>()
        }
    }
}

/// An answer with nothing checked but its shape.
#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    timings: Option<Timings>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    message: Option<Said>,
    text: Option<String>,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u32>,
}

/// Of llama-server.
#[derive(Deserialize)]
struct Timings {
    cache_n: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Logprobs {
    /// Of chats.
    Content { content: Vec<Token> },
    /// Of completions.
    Columns {
        tokens: Vec<String>,
        token_logprobs: Vec<Option<f32>>,
        #[serde(default)]
        top_logprobs: Option<Vec<Option<serde_json::Map<String, Value>>>>,
    },
    /// Nothing that is known here: a server that does not offer them.
    Other(Value),
}

#[derive(Deserialize)]
struct Token {
    token: String,
    logprob: f32,
    #[serde(default)]
    top_logprobs: Vec<Alternative>,
}

#[derive(Deserialize)]
struct Alternative {
    token: String,
    logprob: f32,
}

/// Reads an answer. `Err` within is a verdict on the call; the outer one is no answer of these routes at all.
pub(super) fn answer(bytes: &[u8], ms: u64) -> Result<Result<Answer, CallError>, serde_json::Error> {
    let completion: Completion = serde_json::from_slice(bytes)?;
    let unusable = |why: String| Ok(Err(CallError::Unusable { why }));
    if let Some(error) = completion.error.filter(|error| !error.is_null()) {
        return unusable(format!("an error in place of an answer: {error}"));
    }
    let Some(choice) = completion.choices.into_iter().next() else {
        return unusable("no choice in it".to_owned());
    };
    let finish = match choice.finish_reason.as_deref() {
        Some("stop" | "eos_token" | "stop_sequence") => Finish::Stop,
        Some("length") => Finish::Length,
        other => return unusable(format!("it ended for the reason {:?}", other.unwrap_or("none"))),
    };
    let text = match (choice.message.and_then(|said| said.content).or(choice.text), finish) {
        (Some(text), _) => text,
        // A model that thinks has used up its tokens before it said anything.
        (None, Finish::Length) => String::new(),
        (None, Finish::Stop) => return unusable("no text in it".to_owned()),
    };
    let usage = completion.usage.unwrap_or(Usage {
        prompt_tokens: 0,
        completion_tokens: 0,
        prompt_tokens_details: None,
    });
    let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
    let cached = cached.or(completion.timings.and_then(|timings| timings.cache_n)).unwrap_or(0);
    Ok(Ok(Answer {
        text,
        finish,
        prompt_tokens: usage.prompt_tokens,
        reused_tokens: cached.min(usage.prompt_tokens),
        answer_tokens: usage.completion_tokens,
        ms,
        logprobs: choice.logprobs.map_or_else(Vec::new, logprobs),
    }))
}

fn logprobs(given: Logprobs) -> Vec<TokenLogprob> {
    match given {
        Logprobs::Content { content } => content
            .into_iter()
            .map(|token| TokenLogprob {
                token: token.token,
                logprob: token.logprob,
                top: token.top_logprobs.into_iter().map(|other| (other.token, other.logprob)).collect(),
            })
            .collect(),
        Logprobs::Columns { tokens, token_logprobs, top_logprobs } => {
            let mut tops = top_logprobs.into_iter().flatten();
            let rows = tokens.into_iter().zip(token_logprobs);
            rows.filter_map(|(token, logprob)| {
                let mut top: Vec<(String, f32)> = tops
                    .next()
                    .flatten()
                    .into_iter()
                    .flatten()
                    .filter_map(|(token, logprob)| Some((token, logprob.as_f64()? as f32)))
                    .collect();
                top.sort_by(|a, b| b.1.total_cmp(&a.1));
                Some(TokenLogprob { token, logprob: logprob?, top })
            })
            .collect()
        }
        Logprobs::Other(other) => {
            tracing::debug!("log-probabilities of an unknown shape: {other}");
            vec![]
        }
    }
}

/// A model that a server offers.
#[derive(Deserialize)]
pub(super) struct Offered {
    pub(super) id: String,
    /// Tokens of prompt and answer together, as vLLM and SGLang say.
    pub(super) max_model_len: Option<u32>,
}

/// `/v1/models`.
#[derive(Deserialize)]
pub(super) struct Listing {
    pub(super) data: Vec<Offered>,
}

impl Listing {
    /// Whether the names can be shown in a line each.
    pub(super) fn is_sound(&self) -> bool {
        let is_name =
            |id: &str| (1..=NAME_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
        self.data.iter().all(|model| is_name(&model.id))
    }
}

/// What a server says of a request that it refuses: the message inside of its JSON, else all of it.
pub(super) fn refusal(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return text.into_owned() };
    let messages = [&value["error"]["message"], &value["error"], &value["message"], &value["detail"]];
    match messages.into_iter().find(|message| !message.is_null()) {
        Some(Value::String(message)) => message.clone(),
        Some(other) => other.to_string(),
        None => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(call: &Call) -> Value {
        request(call, "m", Dialect::JsonSchema).unwrap().body
    }

    #[test]
    fn a_call_is_sent_as_it_is() {
        let call = Call::greedy(Prompt::chat(Some("S"), "shared ", "rest"), 8);
        let messages =
            json!([{"role": "system", "content": "S"}, {"role": "user", "content": "shared rest"}]);
        assert_eq!(
            sent(&call),
            json!({"model": "m", "max_tokens": 8, "stream": false, "messages": messages, "temperature": 0.0})
        );
        let sampling = Sampling {
            temperature: 0.7,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.01,
            repeat_penalty: 1.05,
            repeat_last: 64,
            seed: 3,
        };
        let call = Call {
            sampling,
            stop: vec!["x".to_owned()],
            logprobs: Some(2),
            ..Call::greedy(Prompt::text("a"), 8)
        };
        assert_eq!(
            sent(&call),
            json!({"model": "m", "max_tokens": 8, "stream": false, "prompt": "a", "temperature": 0.7, "top_p": 0.95,
                   "seed": 3, "top_k": 40, "min_p": 0.01, "repeat_penalty": 1.05, "repetition_penalty": 1.05,
                   "repeat_last_n": 64, "stop": ["x"], "logprobs": 2})
        );
    }

    #[test]
    fn a_schema_is_sent_and_a_grammar_refused() {
        let schema = json!({"type": "object"});
        let with = |constraint| Call { constraint: Some(constraint), ..Call::greedy(Prompt::text("a"), 8) };
        let call = with(Constraint::JsonSchema(schema.clone()));
        assert_eq!(sent(&call)["response_format"]["json_schema"]["schema"], schema);
        let other = request(&call, "m", Dialect::JsonObject).unwrap().body;
        assert_eq!(other["response_format"], json!({"type": "json_object", "schema": schema}));
        let lark = with(Constraint::Lark("start: \"a\"".to_owned()));
        assert!(matches!(request(&lark, "m", Dialect::JsonSchema), Err(CallError::Refused { .. })));
    }

    #[test]
    fn answers_of_both_routes_are_read() {
        let chat = json!({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop", "logprobs": {"content": [
            {"token": "hi", "logprob": -0.5, "top_logprobs": [{"token": "hi", "logprob": -0.5}]}]}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}});
        let expected = Answer {
            text: "hi".to_owned(),
            finish: Finish::Stop,
            prompt_tokens: 9,
            reused_tokens: 4,
            answer_tokens: 1,
            ms: 7,
            logprobs: vec![TokenLogprob {
                token: "hi".to_owned(),
                logprob: -0.5,
                top: vec![("hi".to_owned(), -0.5)],
            }],
        };
        let read = |value: &Value| answer(value.to_string().as_bytes(), 7).unwrap();
        assert_eq!(read(&chat).unwrap(), expected);
        let completion = json!({"choices": [{"text": "hi", "finish_reason": "stop", "logprobs": {
            "tokens": ["hi"], "token_logprobs": [-0.5], "top_logprobs": [{"hi": -0.5}], "text_offset": [0]}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1}, "timings": {"cache_n": 4}});
        assert_eq!(read(&completion).unwrap(), expected);
        for (choice, why) in [
            (json!({"message": {"content": null}, "finish_reason": "stop"}), "no text"),
            (json!({"message": {"content": "x"}, "finish_reason": "content_filter"}), "content_filter"),
            (json!({"message": {"content": "x"}, "finish_reason": null}), "none"),
        ] {
            let error = read(&json!({"choices": [choice]})).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(read(&json!({"error": {"message": "no"}})).is_err());
        let thought = json!({"choices": [{"message": {"content": null}, "finish_reason": "length"}]});
        assert_eq!(read(&thought).unwrap().finish, Finish::Length);
    }

    #[test]
    fn a_beginning_is_what_calls_share_of_their_prompts() {
        let one = Prompt::chat(Some("S"), "document\n", "Who?");
        let other = Prompt::chat(Some("S"), "document\n", "Where?");
        assert_eq!(beginning(&one), beginning(&other));
        assert_ne!(beginning(&one), beginning(&Prompt::chat(Some("T"), "document\n", "Who?")));
        assert_eq!(beginning_bytes(&one), 10);
    }

    #[test]
    fn a_refusal_is_the_servers_own_words() {
        assert_eq!(refusal(br#"{"error": {"message": "too long", "type": "x"}}"#), "too long");
        assert_eq!(refusal(br#"{"detail": [1]}"#), "[1]");
        assert_eq!(refusal(b"<html>"), "<html>");
    }
}
