//! One request after another until there is an answer, or it is clear that there will be none.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::Response;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER};
use ureq::{Agent, Body};

use super::wire::{self, Dialect, Listing, Sent};
use super::{ApiKey, Patience, ServerAddress};
use crate::call::{Answer, Call, CallError};

/// Requests for one answer.
const ATTEMPTS_MAX: u32 = 6;
/// Of which so many may end by the clock: who had no answer in ten minutes, twice, has none in an hour.
const TIMEOUTS_MAX: u32 = 2;
/// Times that a server may say that it is busy, beside the attempts.
const BUSY_MAX: u32 = 10;
/// A server that wants to be left alone for longer has no answer today.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// Waits between attempts double up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// After so many calls in a row without a usable answer, the next have one attempt each until one succeeds.
const TROUBLED_CALLS_MAX: u32 = 8;
/// An answer of 4,096 tokens with 20 alternatives for each has 5 MiB.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// What an error quotes of a server.
const SAID_CHARS_MAX: usize = 300;
/// llama-cpp-python refuses with status 500, like everything else that goes wrong there: by this word it is told apart.
const SCHEMA_FIELD: &str = "response_format";
/// A wait looks this often whether the run is over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A server, spoken with from many threads.
pub(super) struct Client {
    agent: Agent,
    address: ServerAddress,
    key: Option<ApiKey>,
    backoff_first: Duration,
    /// Whether the server wants [`Dialect::JsonObject`].
    wants_json_object: AtomicBool,
    /// Nobody asks before this, because the server said so.
    not_before: Mutex<Option<Instant>>,
    /// Calls in a row to which nothing came back at all.
    silent: AtomicU32,
    /// Calls in a row without a usable answer.
    troubled: AtomicU32,
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
}

/// How often, and how, an attempt failed.
#[derive(Default)]
struct Failures {
    all: u32,
    timeouts: u32,
    busy: u32,
}

impl Failures {
    /// The wait before the next attempt; none is to be made where there is none.
    fn next(&mut self, kind: Kind, attempts_max: u32, backoff_first: Duration) -> Option<Duration> {
        self.all += 1;
        self.timeouts += u32::from(kind == Kind::Timeout);
        self.busy += u32::from(matches!(kind, Kind::Busy(_)));
        let others = self.all - self.busy;
        if others >= attempts_max || self.timeouts >= TIMEOUTS_MAX || self.busy >= BUSY_MAX {
            return None;
        }
        match kind {
            Kind::Busy(Some(wait)) => Some(wait).filter(|wait| *wait <= RETRY_AFTER_MAX),
            _ => Some(backoff_first.saturating_mul(1 << (self.all - 1).min(16)).min(BACKOFF_MAX)),
        }
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
            backoff_first: patience.backoff_first,
            wants_json_object: AtomicBool::new(false),
            not_before: Mutex::new(None),
            silent: AtomicU32::new(0),
            troubled: AtomicU32::new(0),
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

    /// The models that the server offers.
    pub(super) fn models(&self) -> Asked<Listing> {
        self.persist(&AtomicBool::new(false), || {
            let request = self.agent.get(self.address.url(wire::MODELS));
            let request = match &self.key {
                Some(key) => request.header(AUTHORIZATION, key.header()),
                None => request,
            };
            let body = self.body(request.call())?;
            let listing: Listing = serde_json::from_slice(&body)
                .map_err(|error| self.broken(&format!("no list of models ({error})"), &body))?;
            if listing.is_sound() {
                Ok(listing)
            } else {
                Err(self.broken("names of models that are none", &body))
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
        let asked = self.persist(is_over, || self.post(&sent));
        let result = asked.result.and_then(|answer| answer.map_err(|error| Fault::Call(error, None)));
        Asked { result, attempts: asked.attempts }
    }

    fn post(&self, sent: &Sent) -> Result<Result<Answer, CallError>, Fault> {
        let start = Instant::now();
        let request = self.agent.post(self.address.url(sent.route)).header(CONTENT_TYPE, "application/json");
        let request = match &self.key {
            Some(key) => request.header(AUTHORIZATION, key.header()),
            None => request,
        };
        let body = self.body(request.send(sent.body.to_string()))?;
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        wire::answer(&body, ms).map_err(|error| self.broken(&format!("no answer in JSON ({error})"), &body))
    }

    /// Attempts until one is not [`Fault::Passing`], or it is enough.
    fn persist<T>(&self, is_over: &AtomicBool, attempt: impl Fn() -> Result<T, Fault>) -> Asked<T> {
        let is_troubled = self.troubled.load(Ordering::Relaxed) >= TROUBLED_CALLS_MAX;
        let attempts_max = if is_troubled { 1 } else { ATTEMPTS_MAX };
        let mut failures = Failures::default();
        loop {
            self.wait_for_the_server(is_over);
            let result = attempt();
            let attempts = failures.all + 1;
            let passing = match result {
                Err(Fault::Passing(passing)) => passing,
                other => {
                    self.silent.store(0, Ordering::Relaxed);
                    self.troubled.store(0, Ordering::Relaxed);
                    return Asked { result: other, attempts };
                }
            };
            if !passing.is_silence() {
                self.silent.store(0, Ordering::Relaxed);
            }
            let wait = failures.next(passing.kind, attempts_max, self.backoff_first);
            let Some(wait) = wait.filter(|_| !is_over.load(Ordering::Relaxed)) else {
                self.silent.fetch_add(u32::from(passing.is_silence()), Ordering::Relaxed);
                self.troubled.fetch_add(1, Ordering::Relaxed);
                return Asked { result: Err(Fault::Passing(passing)), attempts };
            };
            tracing::warn!("{}: {}; trying again in {} ms", self.address, passing.why, wait.as_millis());
            if let Kind::Busy(Some(_)) = passing.kind {
                self.hold_all_for(wait);
            } else {
                sleep_until(Instant::now() + wait, is_over);
            }
        }
    }

    /// What the server asked of one is asked of all.
    fn hold_all_for(&self, wait: Duration) {
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = (*not_before).max(Some(Instant::now() + wait));
    }

    fn wait_for_the_server(&self, is_over: &AtomicBool) {
        let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = not_before {
            sleep_until(until, is_over);
        }
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
            Some(kind) if !kind.contains("json") => {
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
                let wait = header(response, &RETRY_AFTER).and_then(|seconds| seconds.trim().parse().ok());
                Passing::fault(Kind::Busy(wait.map(Duration::from_secs)), why)
            }
            500 if says.contains(SCHEMA_FIELD) => Fault::Call(CallError::Refused { why }, Some(status)),
            408 | 425 | 500 | 502 | 504..=599 => Passing::fault(Kind::Broken, why),
            _ => Fault::Call(CallError::Refused { why }, Some(status)),
        }
    }

    fn broken(&self, why: &str, body: &[u8]) -> Fault {
        let begins = self.quoted(&String::from_utf8_lossy(&body[..body.len().min(4 * SAID_CHARS_MAX)]));
        Passing::fault(Kind::Broken, format!("{why}: {begins:?}"))
    }

    /// What a server says, in one line of bounded length and without the key.
    fn quoted(&self, text: &str) -> String {
        let masked = self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.masked(text));
        let line = masked.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(SAID_CHARS_MAX) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None => line,
        }
    }
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
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(waits, [ms(500), ms(1000), ms(2000), ms(4000), ms(8000), None]);
        let mut failures = Failures::default();
        assert!(failures.next(Kind::Timeout, ATTEMPTS_MAX, first).is_some());
        assert!(failures.next(Kind::Timeout, ATTEMPTS_MAX, first).is_none());
        // A troubled server has one attempt.
        assert!(Failures::default().next(Kind::Broken, 1, first).is_none());
    }

    #[test]
    fn a_busy_server_is_waited_for_as_it_says_within_bounds() {
        let first = Duration::from_millis(500);
        let mut failures = Failures::default();
        let wait = Duration::from_secs(7);
        for _ in 1..BUSY_MAX {
            assert_eq!(failures.next(Kind::Busy(Some(wait)), ATTEMPTS_MAX, first), Some(wait));
        }
        assert_eq!(failures.next(Kind::Busy(Some(wait)), ATTEMPTS_MAX, first), None);
        let long = Kind::Busy(Some(Duration::from_secs(3600)));
        assert_eq!(Failures::default().next(long, ATTEMPTS_MAX, first), None);
    }
}
