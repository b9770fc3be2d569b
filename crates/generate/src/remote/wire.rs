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
        Prompt::Text { prefix, suffix, .. } => {
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

/// Some servers begin their documents with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An answer with nothing checked but its shape. What it may leave out may also be null, or anything: counts of tokens are
/// no reason to lose an answer.
#[derive(Deserialize)]
struct Completion {
    model: Option<Value>,
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Value,
    /// Of llama-server.
    #[serde(default)]
    timings: Value,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    message: Option<Said>,
    text: Option<String>,
    finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Value,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
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

/// An answer, and the model that it names.
pub(super) struct Read {
    pub(super) answer: Answer,
    pub(super) model: Option<String>,
}

/// Why there is nothing in a body.
pub(super) enum Unread {
    /// It may be whole next time.
    NoJson(serde_json::Error),
    /// It is whole, and would be the same next time.
    Unusable(String),
}

fn document(body: &[u8]) -> Result<Value, Unread> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    serde_json::from_slice(body).map_err(Unread::NoJson)
}

fn of_shape<T: serde::de::DeserializeOwned>(document: Value) -> Result<T, Unread> {
    serde_json::from_value(document)
        .map_err(|error| Unread::Unusable(format!("it has another shape ({error})")))
}

/// Reads an answer.
pub(super) fn answer(body: &[u8], ms: u64) -> Result<Read, Unread> {
    let completion: Completion = of_shape(document(body)?)?;
    let unusable = |why: String| Err(Unread::Unusable(why));
    if let Some(error) = completion.error.filter(|error| !error.is_null()) {
        return unusable(format!("an error in place of an answer: {error}"));
    }
    let Some(choice) = completion.choices.into_iter().flatten().next() else {
        return unusable("no choice in it".to_owned());
    };
    let finish = match choice.finish_reason.as_deref() {
        Some("stop" | "eos_token" | "stop_sequence") => Finish::Stop,
        Some("length") => Finish::Length,
        Some(other) => return unusable(format!("it ended for the reason \"{other}\"")),
        None => return unusable("it does not say why it ended".to_owned()),
    };
    let text = match (choice.message.and_then(|said| said.content).or(choice.text), finish) {
        (Some(text), _) => text,
        // A model that thinks has used up its tokens before it said anything.
        (None, Finish::Length) => String::new(),
        (None, Finish::Stop) => return unusable("no text in it".to_owned()),
    };
    let usage = completion.usage;
    let prompt_tokens = count(&usage["prompt_tokens"]);
    let cached = [&usage["prompt_tokens_details"]["cached_tokens"], &completion.timings["cache_n"]];
    let cached = cached.into_iter().map(count).find(|tokens| *tokens > 0).unwrap_or(0);
    let answer = Answer {
        text,
        finish,
        prompt_tokens,
        reused_tokens: cached.min(prompt_tokens),
        answer_tokens: count(&usage["completion_tokens"]),
        ms,
        logprobs: logprobs(choice.logprobs),
    };
    Ok(Read { answer, model: completion.model.and_then(|model| model.as_str().map(str::to_owned)) })
}

/// A count of tokens, 0 where there is none: some servers write 5.0 or null.
fn count(value: &Value) -> u32 {
    let whole = value.as_f64().filter(|number| *number >= 0.0 && number.fract() == 0.0);
    // What is larger than any count is the largest one.
    whole.map_or(0, |number| number as u32)
}

/// None where a server does not offer them, or in a shape that is not known here.
fn logprobs(given: Value) -> Vec<TokenLogprob> {
    if given.is_null() {
        return vec![];
    }
    let Ok(given) = serde_json::from_value::<Logprobs>(given) else {
        tracing::debug!("log-probabilities of an unknown shape");
        return vec![];
    };
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
    }
}

/// A model that a server offers.
pub(super) struct Offered {
    pub(super) id: String,
    /// Tokens of prompt and answer together, as vLLM and SGLang say.
    pub(super) context_tokens: Option<u32>,
}

/// Reads `/v1/models`.
pub(super) fn models(body: &[u8]) -> Result<Vec<Offered>, Unread> {
    #[derive(Deserialize)]
    struct Listing {
        /// Null where Ollama has none.
        data: Option<Vec<Model>>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
        #[serde(default)]
        max_model_len: Value,
    }
    let listing: Listing = of_shape(document(body)?)?;
    let offered = listing.data.into_iter().flatten().map(|model| {
        let context_tokens = Some(count(&model.max_model_len)).filter(|tokens| *tokens > 0);
        Offered { id: model.id, context_tokens }
    });
    Ok(offered.collect())
}

impl Offered {
    /// Whether the name can be shown in a line.
    pub(super) fn is_sound(&self) -> bool {
        (1..=NAME_BYTES_MAX).contains(&self.id.len()) && !self.id.chars().any(char::is_control)
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
        assert_eq!(read(&chat).unwrap(), expected);
        let completion = json!({"choices": [{"text": "hi", "finish_reason": "stop", "logprobs": {
            "tokens": ["hi"], "token_logprobs": [-0.5], "top_logprobs": [{"hi": -0.5}], "text_offset": [0]}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1}, "timings": {"cache_n": 4}});
        assert_eq!(read(&completion).unwrap(), expected);
        for (choice, why) in [
            (json!({"message": {"content": null}, "finish_reason": "stop"}), "no text"),
            (json!({"message": {"content": "x"}, "finish_reason": "content_filter"}), "content_filter"),
            (json!({"message": {"content": "x"}, "finish_reason": null}), "does not say why"),
            (json!({"message": {"content": [{"type": "text"}]}, "finish_reason": "stop"}), "another shape"),
        ] {
            let error = read(&json!({"choices": [choice]})).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(read(&json!({"error": {"message": "no"}})).is_err());
        assert!(read(&json!({"choices": null})).is_err());
        let thought = json!({"choices": [{"message": {"content": null}, "finish_reason": "length"}]});
        assert_eq!(read(&thought).unwrap().finish, Finish::Length);
    }

    fn read(value: &Value) -> Result<Answer, String> {
        match answer(value.to_string().as_bytes(), 7) {
            Ok(read) => Ok(read.answer),
            Err(Unread::Unusable(why)) => Err(why),
            Err(Unread::NoJson(error)) => panic!("{error}"),
        }
    }

    /// An answer was asked for six times, and lost, because its server wrote 5.0 tokens.
    #[test]
    fn counts_are_read_as_they_are_written() {
        let of = |usage: Value| {
            let choice = json!({"message": {"content": "x"}, "finish_reason": "stop"});
            let answer =
                read(&json!({"choices": [choice], "usage": usage, "model": null, "timings": 3})).unwrap();
            (answer.prompt_tokens, answer.answer_tokens)
        };
        assert_eq!(of(json!({"prompt_tokens": 5.0, "completion_tokens": null})), (5, 0));
        assert_eq!(of(json!({"prompt_tokens": "many", "completion_tokens": -1})), (0, 0));
        assert_eq!(
            of(json!({"prompt_tokens": 1e300, "completion_tokens": 4_294_967_295_u64})),
            (u32::MAX, u32::MAX)
        );
        for usage in [json!(null), json!([]), json!({"prompt_tokens_details": 1})] {
            assert_eq!(of(usage), (0, 0));
        }
    }

    #[test]
    fn lists_of_models_are_read_as_they_are_written() {
        let read = |body: &[u8]| models(body).ok().map(|models| models.len());
        assert_eq!(read(b"\xef\xbb\xbf{\"data\": [{\"id\": \"m\", \"max_model_len\": null}]}"), Some(1));
        assert_eq!(read(br#"{"object": "list", "data": null}"#), Some(0));
        assert_eq!(read(br#"{"data": [{"name": "m"}]}"#), None);
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
