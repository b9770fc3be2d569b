//! One request after another until there is an answer, or it is clear that there will be none.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::Response;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER};
use ureq::{Agent, Body};

use super::pace::{self, Pace, Refused};
use super::wire::{self, Dialect, Offered, Read as Taken, Unread};
use super::{ApiKey, LOOK_AGAIN, Patience, ServerAddress};
use crate::call::{Answer, Call, CallError, Constraint, Finish, WORDS_CHARS_MAX, shortened};
use crate::schema::Schema;

/// Requests for one answer, those that a busy server refuses not counted.
const ATTEMPTS_MAX: u32 = 6;
/// Of which so many may end by the clock: who had no answer in ten minutes, twice, has none in an hour.
const TIMEOUTS_MAX: u32 = 2;
/// A busy server is waited for no longer than this before anything is asked of it: it may be loading its model.
const LIST_BUSY_MAX: Duration = Duration::from_secs(120);
/// After so many calls in a row without a usable answer, the next have one attempt each until one succeeds.
const TROUBLED_CALLS_MAX: u32 = 8;
/// An answer of 4,096 tokens with 20 alternatives for each has 5 MiB.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// What an error quotes of a server.
const QUOTED_CHARS_MAX: usize = 300;
/// Of a text that is quoted, so much is looked at.
const LOOKED_AT_BYTES_MAX: usize = 64 << 10;
/// Names of other models that are kept for the receipt.
const OTHER_MODELS_MAX: usize = 4;
/// llama-cpp-python refuses with status 500, like everything else that goes wrong there: by this word it is told apart.
const SCHEMA_FIELD: &str = "response_format";

/// A server, spoken with from many threads.
pub(super) struct Client {
    agent: Agent,
    address: ServerAddress,
    key: Option<ApiKey>,
    patience: Patience,
    pace: Pace,
    /// Whether the server wants [`Dialect::JsonObject`].
    wants_json_object: AtomicBool,
    /// Calls in a row to which nothing came back at all.
    silent: AtomicU32,
    /// Calls in a row that were given up because the server is busy.
    busy: AtomicU32,
    /// Calls in a row without a usable answer.
    troubled: AtomicU32,
    /// What answers call their model where it is not the one that was asked.
    other_models: Mutex<BTreeSet<String>>,
}

/// What came of one call.
pub(super) struct Asked<T> {
    pub(super) result: Result<T, Fault>,
    /// Requests that were sent.
    pub(super) attempts: u32,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// It may be there next time.
    Passing(Passing),
    /// A verdict on the call, with the status where the server refused.
    Call(CallError, Option<u16>),
    /// The server does not know who asks: a matter of all calls.
    Unauthorized { status: u16, says: String },
}

/// What went wrong with an attempt.
#[derive(Debug)]
pub(super) struct Passing {
    pub(super) why: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// No connection.
    Unreachable,
    /// The clock ran out.
    Timeout,
    /// Something came that is no answer.
    Broken,
    /// The server says that it has no time, and perhaps for how long.
    Busy(Option<Duration>),
}

impl Passing {
    fn fault(kind: Kind, why: impl Into<String>) -> Fault {
        Fault::Passing(Self { why: why.into(), kind })
    }

    /// Whether nothing came back at all.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self.kind, Kind::Unreachable | Kind::Timeout)
    }

    /// Whether the server has no time.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.kind, Kind::Busy(_))
    }
}

/// How often, and how, the attempts at one call failed.
#[derive(Default)]
struct Failures {
    all: u32,
    busy: u32,
    timeouts: u32,
    /// What it waited because the server is busy.
    busy_waited: Duration,
}

impl Failures {
    /// The wait before the next attempt; none is to be made where there is none.
    fn next(&mut self, kind: Kind, attempts_max: u32, backoff_first: Duration) -> Option<Duration> {
        self.all += 1;
        self.timeouts += u32::from(kind == Kind::Timeout);
        let counted = self.all - self.busy;
        let is_enough = counted >= attempts_max || self.timeouts >= TIMEOUTS_MAX;
        (!is_enough).then(|| pace::jittered(pace::backoff(backoff_first, counted)))
    }

    /// The wait that a busy server gets: its refusals are not counted, the time is.
    fn next_of_busy(&mut self, refused: &Refused, busy_max: Duration) -> Option<Duration> {
        self.all += 1;
        self.busy += 1;
        let wait = refused.wait?;
        let waited = self.busy_waited.max(refused.unanswered).saturating_add(wait);
        if waited > busy_max {
            return None;
        }
        self.busy_waited += wait;
        Some(wait)
    }
}

impl Client {
    pub(super) fn new(
        address: &ServerAddress,
        key: Option<ApiKey>,
        patience: Patience,
        connections: usize,
    ) -> Self {
        let agent = Agent::config_builder()
            // Settings are passed in: without this the environment would choose a proxy.
            .proxy(None)
            .https_only(address.is_https())
            .http_status_as_error(false)
            // A redirect would carry the key and the prompts to a place that nobody named.
            .max_redirects(0)
            .timeout_connect(Some(patience.connect))
            .timeout_global(Some(patience.answer))
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .user_agent(concat!("haul/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self {
            agent,
            address: address.clone(),
            key,
            patience,
            pace: Pace::new(connections, patience.backoff_first),
            wants_json_object: AtomicBool::new(false),
            silent: AtomicU32::new(0),
            busy: AtomicU32::new(0),
            troubled: AtomicU32::new(0),
            other_models: Mutex::new(BTreeSet::new()),
        }
    }

    /// How the server is told schemas, as far as that is known.
    pub(super) fn dialect(&self) -> Dialect {
        if self.wants_json_object.load(Ordering::Relaxed) { Dialect::JsonObject } else { Dialect::JsonSchema }
    }

    /// Calls in a row to which nothing came back.
    pub(super) fn silent_calls(&self) -> u32 {
        self.silent.load(Ordering::Relaxed)
    }

    /// Calls in a row that were given up because the server is busy.
    pub(super) fn busy_calls(&self) -> u32 {
        self.busy.load(Ordering::Relaxed)
    }

    /// What answers called their model, where it is not the one that was asked.
    pub(super) fn other_models(&self) -> Vec<String> {
        self.other_models.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The models that the server offers.
    pub(super) fn models(&self, is_over: &AtomicBool) -> Asked<Vec<Offered>> {
        self.persist(self.patience.busy.min(LIST_BUSY_MAX), is_over, || {
            let request = self.agent.get(self.address.url(wire::MODELS));
            let request = request.config().timeout_global(Some(self.patience.list)).build();
            let request = match &self.key {
                Some(key) => request.header(AUTHORIZATION, key.header()),
                None => request,
            };
            let body = self.body(request.call())?;
            let offered =
                wire::models(&body).map_err(|unread| self.unread("list of models", unread, &body))?;
            let has_key = |text: &str| self.key.as_ref().is_some_and(|key| key.masked(text) != text);
            let is_sound = |model: &Offered| model.is_sound() && !has_key(&model.id);
            match offered.iter().all(is_sound) {
                true => Ok(offered),
                false => Err(unusable("names of models that are none")),
            }
        })
    }

    /// The answer to a call. A server that refuses the usual way of giving a schema is asked in the other one.
    pub(super) fn ask(&self, call: &Call, model: &str, is_over: &AtomicBool) -> Asked<Answer> {
        let dialect = self.dialect();
        let first = self.ask_in(dialect, call, model, is_over);
        let is_of_the_schema = call.constraint.is_some() && dialect == Dialect::JsonSchema;
        let (Err(Fault::Call(_, Some(400 | 422 | 500))), true) = (&first.result, is_of_the_schema) else {
            return first;
        };
        let second = self.ask_in(Dialect::JsonObject, call, model, is_over);
        let attempts = first.attempts + second.attempts;
        if second.result.is_err() {
            return Asked { attempts, ..first };
        }
        if !self.wants_json_object.swap(true, Ordering::Relaxed) {
            tracing::info!("{}: schemas are given as json_object, for json_schema is refused", self.address);
        }
        Asked { attempts, ..second }
    }

    fn ask_in(&self, dialect: Dialect, call: &Call, model: &str, is_over: &AtomicBool) -> Asked<Answer> {
        let sent = match wire::request(call, model, dialect) {
            Ok(sent) => sent,
            Err(error) => return Asked { result: Err(Fault::Call(error, None)), attempts: 0 },
        };
        self.persist(self.patience.busy, is_over, || {
            let read = self.post(sent.route, &sent.body.to_string())?;
            self.compare_model(read.model, model);
            checked(read.answer, call).map_err(|error| Fault::Call(error, None))
        })
    }

    fn post(&self, route: &str, body: &str) -> Result<Taken, Fault> {
        let start = Instant::now();
        let request = self.agent.post(self.address.url(route)).header(CONTENT_TYPE, "application/json");
        let request = match &self.key {
            Some(key) => request.header(AUTHORIZATION, key.header()),
            None => request,
        };
        let body = self.body(request.send(body))?;
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        wire::answer(&body, ms).map_err(|unread| self.unread("answer", unread, &body))
    }

    fn compare_model(&self, answered_by: Option<String>, asked: &str) {
        let Some(other) = answered_by.filter(|name| name != asked) else { return };
        let mut others = self.other_models.lock().unwrap_or_else(PoisonError::into_inner);
        if others.len() < OTHER_MODELS_MAX {
            others.insert(self.words(&other));
        }
    }

    /// Attempts until one is not [`Fault::Passing`], or it is enough. Every fault leaves the client here.
    fn persist<T>(
        &self,
        busy_max: Duration,
        is_over: &AtomicBool,
        attempt: impl Fn() -> Result<T, Fault>,
    ) -> Asked<T> {
        let is_troubled = self.troubled.load(Ordering::Relaxed) >= TROUBLED_CALLS_MAX;
        let attempts_max = if is_troubled { 1 } else { ATTEMPTS_MAX };
        let mut failures = Failures::default();
        loop {
            let Some(turn) = self.pace.turn(is_over) else {
                let result = Err(Passing::fault(Kind::Broken, "the run ended"));
                return Asked { result, attempts: failures.all };
            };
            let result = attempt().map_err(|fault| self.in_words(fault));
            let passing = match result {
                Err(Fault::Passing(passing)) => passing,
                other => {
                    turn.answered();
                    for in_a_row in [&self.silent, &self.busy, &self.troubled] {
                        in_a_row.store(0, Ordering::Relaxed);
                    }
                    return Asked { result: other, attempts: failures.all + 1 };
                }
            };
            if !passing.is_silence() {
                self.silent.store(0, Ordering::Relaxed);
            }
            let wait = match passing.kind {
                Kind::Busy(asked) => failures.next_of_busy(&turn.refused(asked), busy_max),
                kind => {
                    drop(turn);
                    failures.next(kind, attempts_max, self.patience.backoff_first)
                }
            };
            let Some(wait) = wait.filter(|_| !is_over.load(Ordering::Relaxed)) else {
                return self.given_up(passing, &failures);
            };
            tracing::warn!("{}: {}; trying again in {} ms", self.address, passing.why, wait.as_millis());
            if !passing.is_busy() {
                sleep_until(Instant::now() + wait, is_over);
            }
        }
    }

    fn given_up<T>(&self, mut passing: Passing, failures: &Failures) -> Asked<T> {
        self.silent.fetch_add(u32::from(passing.is_silence()), Ordering::Relaxed);
        self.troubled.fetch_add(1, Ordering::Relaxed);
        match passing.is_busy() {
            true => self.busy.fetch_add(1, Ordering::Relaxed),
            false => self.busy.swap(0, Ordering::Relaxed),
        };
        if !failures.busy_waited.is_zero() {
            passing.why += &format!("; it was waited for {} s", failures.busy_waited.as_secs());
        }
        Asked { result: Err(Fault::Passing(passing)), attempts: failures.all }
    }

    /// The whole body of a sound answer.
    fn body(&self, result: Result<Response<Body>, ureq::Error>) -> Result<Vec<u8>, Fault> {
        let mut response = result.map_err(|error| no_response(&error))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        let read = response.body_mut().as_reader().take(ANSWER_BYTES_MAX + 1).read_to_end(&mut body);
        if body.len() as u64 > ANSWER_BYTES_MAX {
            let why = format!("it is longer than {} MiB", ANSWER_BYTES_MAX >> 20);
            return Err(Fault::Call(CallError::Unusable { why }, None));
        }
        if let Err(error) = read {
            let kind =
                if error.kind() == std::io::ErrorKind::TimedOut { Kind::Timeout } else { Kind::Broken };
            return Err(Passing::fault(
                kind,
                format!("the answer was cut after {} bytes: {error}", body.len()),
            ));
        }
        if status != 200 {
            return Err(self.refused(status, &response, &body));
        }
        match header(&response, &CONTENT_TYPE) {
            Some(kind) if !kind.to_ascii_lowercase().contains("json") => {
                Err(self.broken(&format!("an answer of type {kind}, of application/json"), &body))
            }
            _ => Ok(body),
        }
    }

    fn refused(&self, status: u16, response: &Response<Body>, body: &[u8]) -> Fault {
        let says = self.quoted(&wire::refusal(body));
        let why =
            if says.is_empty() { format!("status {status}") } else { format!("status {status}: {says}") };
        match status {
            401 => Fault::Unauthorized { status, says },
            300..=399 => {
                let to = self.quoted(header(response, &LOCATION).unwrap_or("nowhere"));
                let why = format!("status {status}, a redirect to {to}, which is not followed");
                Fault::Call(CallError::Refused { why }, Some(status))
            }
            429 | 503 => {
                let asked = header(response, &RETRY_AFTER).and_then(|seconds| seconds.trim().parse().ok());
                let why = match asked {
                    Some(seconds) => format!("{why} (it asks to be left alone for {seconds} s)"),
                    None => why,
                };
                Passing::fault(Kind::Busy(asked.map(Duration::from_secs)), why)
            }
            500 if says.contains(SCHEMA_FIELD) => Fault::Call(CallError::Refused { why }, Some(status)),
            408 | 425 | 500 | 502 | 504..=599 => Passing::fault(Kind::Broken, why),
            _ => Fault::Call(CallError::Refused { why }, Some(status)),
        }
    }

    fn unread(&self, what: &str, unread: Unread, body: &[u8]) -> Fault {
        match unread {
            Unread::NoJson(error) => self.broken(&format!("no {what} in JSON ({error})"), body),
            Unread::Unusable(why) => unusable(&why),
        }
    }

    fn broken(&self, why: &str, body: &[u8]) -> Fault {
        let begins = &body[..body.len().min(LOOKED_AT_BYTES_MAX)];
        let begins = self.quoted(&String::from_utf8_lossy(begins));
        Passing::fault(Kind::Broken, format!("{why}: \"{begins}\""))
    }

    /// A fault in words that can be shown, logged and kept, whatever the server put into them.
    fn in_words(&self, fault: Fault) -> Fault {
        match fault {
            Fault::Passing(Passing { why, kind }) => Passing::fault(kind, self.words(&why)),
            Fault::Call(error, status) => Fault::Call(error.in_words(|why| self.words(why)), status),
            Fault::Unauthorized { status, says } => Fault::Unauthorized { status, says: self.words(&says) },
        }
    }

    fn words(&self, text: &str) -> String {
        self.line(text, WORDS_CHARS_MAX)
    }

    fn quoted(&self, text: &str) -> String {
        self.line(text, QUOTED_CHARS_MAX)
    }

    /// One line of bounded length without the key, and without what could steer a terminal.
    fn line(&self, text: &str, chars_max: usize) -> String {
        let text = &text[..text.floor_char_boundary(LOOKED_AT_BYTES_MAX)];
        let masked = self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.masked(text));
        let line = masked.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = line.replace(char::is_control, "\u{fffd}");
        shortened(&line, chars_max)
    }
}

fn unusable(why: &str) -> Fault {
    Fault::Call(CallError::Unusable { why: why.to_owned() }, None)
}

/// A server may ignore a schema; an answer is held against it all the same. A cut one says so itself.
fn checked(answer: Answer, call: &Call) -> Result<Answer, CallError> {
    if let (Some(Constraint::JsonSchema(schema)), Finish::Stop) = (&call.constraint, answer.finish) {
        let schema = Schema::parse(schema).map_err(|error| CallError::Refused { why: error.to_string() })?;
        schema.check(&answer.text).map_err(|why| CallError::NotOfSchema { why })?;
    }
    Ok(answer)
}

fn header<'r>(response: &'r Response<Body>, name: &HeaderName) -> Option<&'r str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Weather of the network, as opposed to a wrong address or a wrong certificate, which no attempt makes right.
fn no_response(error: &ureq::Error) -> Fault {
    use std::io::ErrorKind::{ConnectionRefused, InvalidData, TimedOut};

    let kind = match error {
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => Kind::Unreachable,
        ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => Kind::Unreachable,
        ureq::Error::Timeout(_) => Kind::Timeout,
        ureq::Error::Protocol(_) => Kind::Broken,
        ureq::Error::Io(error) => match error.kind() {
            ConnectionRefused => Kind::Unreachable,
            TimedOut => Kind::Timeout,
            InvalidData => return Fault::Call(CallError::Refused { why: error.to_string() }, None),
            // A connection that ends before an answer begins.
            _ => Kind::Broken,
        },
        _ => return Fault::Call(CallError::Refused { why: error.to_string() }, None),
    };
    Passing::fault(kind, error.to_string())
}

fn sleep_until(until: Instant, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(LOOK_AGAIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end() {
        let first = Duration::from_millis(500);
        let mut failures = Failures::default();
        let waits: Vec<_> =
            (0..ATTEMPTS_MAX).map(|_| failures.next(Kind::Broken, ATTEMPTS_MAX, first)).collect();
        for (wait, seconds) in waits.iter().zip([0.5, 1.0, 2.0, 4.0, 8.0]) {
            let wait = wait.unwrap().as_secs_f64();
            assert!((seconds..=1.25 * seconds).contains(&wait), "{waits:?}");
        }
        assert_eq!(waits[5], None);
        let mut failures = Failures::default();
        assert!(failures.next(Kind::Timeout, ATTEMPTS_MAX, first).is_some());
        assert!(failures.next(Kind::Timeout, ATTEMPTS_MAX, first).is_none());
        // A troubled server has one attempt.
        assert!(Failures::default().next(Kind::Broken, 1, first).is_none());
    }

    #[test]
    fn a_busy_server_is_waited_for_by_the_clock_and_not_by_the_count() {
        let (second, busy_max) = (Duration::from_secs(1), Duration::from_secs(600));
        let refused = |unanswered| Refused { wait: Some(second), unanswered };
        let mut failures = Failures::default();
        for _ in 0..600 {
            assert_eq!(failures.next_of_busy(&refused(Duration::ZERO), busy_max), Some(second));
        }
        assert_eq!(failures.next_of_busy(&refused(Duration::ZERO), busy_max), None);
        // Nor is a call waited for when no other had an answer for so long.
        assert_eq!(Failures::default().next_of_busy(&refused(busy_max), busy_max), None);
        let too_long = Refused { wait: None, unanswered: Duration::ZERO };
        assert_eq!(Failures::default().next_of_busy(&too_long, busy_max), None);
    }
}
