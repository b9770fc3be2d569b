//! A server with OpenAI's routes: vLLM, SGLang, llama-server, llama-cpp-python, Ollama, TGI, or one of somebody else.
//!
//! Calls are sent side by side, a bounded number at a time. Of calls that begin alike one goes ahead, and the others
//! follow when it is answered: the server then has their common beginning in its prompt cache, which it has not where
//! all of them come at once. While it says that it is busy fewer calls are in flight. Every fault is a verdict on its call
//! after a bounded number of attempts, or a bounded wait; a server of which several calls in a row get no response at all,
//! or nothing but that it is busy, ends the run, and what was answered stays answered.
//!
//! Where a server computes is not known, and never claimed: its verdict is `unknown`.

mod address;
mod client;
mod pace;
mod plan;
mod wire;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use haul_machine::verdict::{DeviceRequest, Placement, Verdict, Witness, WitnessKind};

pub use address::{AddressError, ApiKey, KeyError, ServerAddress};

use crate::call::{Answer, Call, CallError, Totals};
use crate::{Answered, GenerateError, ModelFacts};
use client::{Asked, Client, Fault};
use plan::Plan;
use wire::{Dialect, Offered};

/// After so many calls in a row to which nothing came back, the server counts as gone.
const SILENT_CALLS_MAX: u32 = 3;
/// After so many calls in a row that were given up because the server is busy, it is busy for all.
const BUSY_CALLS_MAX: u32 = 3;
/// A wait looks this often whether the run is over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Models that an error lists.
const MODELS_LISTED_MAX: usize = 8;
/// What a verdict says of what no server tells.
const UNKNOWN: &str = "unknown";

/// How long a server may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For name, TCP and TLS.
    pub connect: Duration,
    /// From the beginning of a request to the end of its answer. Answers are not streamed, so this is all of its tokens,
    /// and the time in the server's own queue.
    pub answer: Duration,
    /// For the list of its models, with which a server answers at once or not at all.
    pub list: Duration,
    /// How long one call waits, all in all, because the server says that it is busy, and how long all wait without an
    /// answer to any.
    pub busy: Duration,
    /// Before the second attempt; doubles with each.
    pub backoff_first: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(600),
            list: Duration::from_secs(15),
            busy: Duration::from_secs(600),
            backoff_first: Duration::from_millis(500),
        }
    }
}

/// What opens a server.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// Where it is, and perhaps which model.
    pub address: ServerAddress,
    /// What it wants to be shown.
    pub key: Option<ApiKey>,
    /// Calls that are with it at once.
    pub parallel: usize,
    /// How long it may take.
    pub patience: Patience,
    /// Set where the user wants to wait no longer.
    pub stop: Arc<AtomicBool>,
}

/// A server that answers calls.
pub struct Remote {
    client: Arc<Client>,
    address: ServerAddress,
    model: String,
    context_tokens: Option<u32>,
    parallel: usize,
    stop: Arc<AtomicBool>,
}

/// A server cannot be used, or no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// It does not say which models it has.
    #[error("{address}: no list of models after {attempts} attempts: {why}")]
    NoList {
        /// The server.
        address: String,
        /// Requests that were sent.
        attempts: u32,
        /// What went wrong last.
        why: String,
    },
    /// It has several models, or none, and none was named.
    #[error("{address}: {} models ({})", models.len(), listed(models))]
    WhichModel {
        /// The server.
        address: String,
        /// All that it offers.
        models: Vec<String>,
    },
    /// It has others than the one that was named.
    #[error("{address}: no model {model}; there are {}", listed(models))]
    NoSuchModel {
        /// The server.
        address: String,
        /// As it was named.
        model: String,
        /// All that it offers.
        models: Vec<String>,
    },
    /// It does not let us in.
    #[error("{address}: status {status}: {says}")]
    Unauthorized {
        /// The server.
        address: String,
        /// 401 or 403.
        status: u16,
        /// In its words.
        says: String,
    },
    /// It does not answer any more.
    #[error("{address}: no response to {calls} calls in a row: {why}")]
    Gone {
        /// The server.
        address: String,
        /// How many calls.
        calls: u32,
        /// What went wrong last.
        why: String,
    },
    /// It says that it has no time, for longer than calls are kept waiting.
    #[error("{address}: too busy for {calls} calls in a row: {why}")]
    Busy {
        /// The server.
        address: String,
        /// How many calls.
        calls: u32,
        /// In its words.
        why: String,
    },
    /// The user did not want to wait for it any longer.
    #[error("{address}: stopped while waiting for it")]
    Stopped {
        /// The server.
        address: String,
    },
}

fn listed(models: &[String]) -> String {
    let shown = models[..models.len().min(MODELS_LISTED_MAX)].join(", ");
    if models.len() > MODELS_LISTED_MAX { format!("{shown}, ...") } else { shown }
}

impl ServerError {
    /// The user's next step.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoList { .. } => {
                "is it running, and is this its address? A server without /v1/models is asked with #NAME behind its address"
            }
            Self::WhichModel { .. } => "name one behind the address: --model http://HOST:PORT#NAME",
            Self::NoSuchModel { .. } => "name one of them behind the address: --model http://HOST:PORT#NAME",
            Self::Unauthorized { .. } => "set HAUL_API_KEY to the key that this server knows you by",
            Self::Gone { .. } => {
                "what was answered is kept; the same command goes on when the server is back"
            }
            Self::Busy { .. } => {
                "what was answered is kept; the same command goes on later. A smaller --parallel asks less of it at once"
            }
            Self::Stopped { .. } => "the same command begins again",
        }
    }
}

impl Remote {
    /// Asks a server for its models, and takes the one that the address names, or the only one there is.
    ///
    /// # Errors
    /// It does not answer, or it is not clear which model is meant.
    pub fn open(settings: RemoteSettings) -> Result<Self, ServerError> {
        let RemoteSettings { address, key, parallel, patience, stop } = settings;
        let client = Arc::new(Client::new(&address, key, patience, parallel));
        let Asked { result, attempts } = models(&client, &address, &stop)?;
        let offered = match (result, address.model()) {
            (Ok(offered), _) => offered,
            (Err(Fault::Unauthorized { status, says }), _) => {
                return Err(ServerError::Unauthorized { address: address.to_string(), status, says });
            }
            (Err(Fault::Call(error, Some(status @ 403))), _) => {
                let (address, says) = (address.to_string(), error.to_string());
                return Err(ServerError::Unauthorized { address, status, says });
            }
            // Some servers have no such route.
            (Err(Fault::Call(_, Some(404 | 405))), Some(_)) => vec![],
            (Err(fault), _) => {
                return Err(ServerError::NoList { address: address.to_string(), attempts, why: said(fault) });
            }
        };
        let (model, context_tokens) = chosen(&address, offered)?;
        Ok(Self { client, address, model, context_tokens, parallel: parallel.max(1), stop })
    }

    /// The model that answers, as the server calls it.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Models that answers named where it was not the one that was asked; some servers answer with another one than they
    /// are asked for.
    #[must_use]
    pub fn other_models(&self) -> Vec<String> {
        self.client.other_models()
    }

    /// Where the server is.
    #[must_use]
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// Calls that are with it at once.
    #[must_use]
    pub fn parallel(&self) -> usize {
        self.parallel
    }

    /// What the model is.
    #[must_use]
    pub fn facts(&self) -> ModelFacts {
        ModelFacts {
            name: self.model.clone(),
            context_tokens: self.context_tokens,
            identity: format!("{}#{}", self.address, self.model),
        }
    }

    /// What is known of where it computes: nothing.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let schemas = match self.client.dialect() {
            Dialect::JsonSchema => "json_schema",
            Dialect::JsonObject => "json_object",
        };
        let others = self.other_models();
        let others =
            if others.is_empty() { String::new() } else { format!(", and names it {}", others.join(", ")) };
        let engine = Witness {
            kind: WitnessKind::Engine,
            says: UNKNOWN.to_owned(),
            detail: format!(
                "the server {} answers with {}{others}, schemas as {schemas}; it does not say on what",
                self.address, self.model
            ),
        };
        Verdict {
            requested: DeviceRequest::Auto.to_string(),
            used: UNKNOWN.to_owned(),
            name: self.address.to_string(),
            isa: UNKNOWN.to_owned(),
            verdict: Placement::Unknown,
            witnesses: vec![engine],
            fallback_from: None,
        }
    }

    /// Answers calls; see [`crate::Generator::run`].
    pub(crate) fn run(
        &mut self,
        calls: &[Call],
        answered: &mut Answered<'_>,
    ) -> Result<Totals, GenerateError> {
        let mut plan = Plan::new(calls);
        let mut totals = Totals::default();
        let mut in_flight = 0;
        // Threads that are still waiting when the run ends are left to themselves, and send nothing any more.
        let over = Over(Arc::new(AtomicBool::new(false)));
        let (sender, replies) = mpsc::sync_channel(self.parallel);
        loop {
            while in_flight < self.parallel
                && let Some(number) = plan.next()
            {
                self.send(number, &calls[number], Reply { number, asked: None, to: sender.clone() }, &over);
                in_flight += 1;
            }
            if in_flight == 0 {
                return Ok(totals);
            }
            let (number, asked) = match replies.recv_timeout(LOOK_AGAIN) {
                Ok(reply) => reply,
                Err(RecvTimeoutError::Timeout) if self.stop.load(Ordering::Relaxed) => return Ok(totals),
                Err(RecvTimeoutError::Timeout) => continue,
                // This thread has a sender of its own, so the channel never closes.
                Err(RecvTimeoutError::Disconnected) => return Ok(totals),
            };
            in_flight -= 1;
            plan.answered(number);
            let Taken { result, retries, end } = self.taken(asked);
            totals.retries += retries;
            match &result {
                Ok(answer) => totals.add(answer),
                Err(_) => totals.failed += 1,
            }
            let flow = answered(number, result);
            if let Some(error) = end {
                return Err(error.into());
            }
            if let ControlFlow::Break(()) = flow {
                return Ok(totals);
            }
        }
    }

    fn send(&self, number: usize, call: &Call, reply: Reply, over: &Over) {
        let (client, model, call) = (Arc::clone(&self.client), self.model.clone(), call.clone());
        let is_over = Arc::clone(&over.0);
        thread::spawn(move || {
            tracing::debug!("call {number} is sent");
            reply.with(client.ask(&call, &model, &is_over));
        });
    }

    /// What a call came to, and whether the run ends with it.
    fn taken(&self, asked: Option<Asked<Answer>>) -> Taken {
        let Some(Asked { result, attempts }) = asked else {
            let why = "the thread that asked for it failed".to_owned();
            return Taken { result: Err(CallError::GivenUp { attempts: 1, why }), retries: 0, end: None };
        };
        let address = || self.address.to_string();
        let (result, end) = match result {
            Ok(answer) => (Ok(answer), None),
            Err(Fault::Call(error, _)) => (Err(error), None),
            Err(Fault::Unauthorized { status, says }) => {
                let why = format!("status {status}: {says}");
                let end = ServerError::Unauthorized { address: address(), status, says };
                (Err(CallError::Refused { why }), Some(end))
            }
            Err(Fault::Passing(passing)) => {
                let (address, why) = (address(), passing.why.clone());
                let (silent, busy) = (self.client.silent_calls(), self.client.busy_calls());
                let end = if passing.is_silence() && silent >= SILENT_CALLS_MAX {
                    Some(ServerError::Gone { address, calls: silent, why })
                } else if passing.is_busy() && busy >= BUSY_CALLS_MAX {
                    Some(ServerError::Busy { address, calls: busy, why })
                } else {
                    None
                };
                (Err(CallError::GivenUp { attempts, why: passing.why }), end)
            }
        };
        Taken { result, retries: u64::from(attempts.saturating_sub(1)), end }
    }
}

/// What became of a call.
struct Taken {
    result: Result<Answer, CallError>,
    retries: u64,
    end: Option<ServerError>,
}

/// Tells waiting threads that nobody wants their answers any more.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sent in any case when its thread ends, so that no call is waited for in vain.
struct Reply {
    number: usize,
    asked: Option<Asked<Answer>>,
    to: SyncSender<(usize, Option<Asked<Answer>>)>,
}

impl Reply {
    fn with(mut self, asked: Asked<Answer>) {
        self.asked = Some(asked);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.to.send((self.number, self.asked.take())).is_err() {
            tracing::debug!("call {} was answered after the end of its run", self.number);
        }
    }
}

fn said(fault: Fault) -> String {
    match fault {
        Fault::Passing(passing) => passing.why,
        Fault::Call(error, _) => error.to_string(),
        Fault::Unauthorized { status, says } => format!("status {status}: {says}"),
    }
}

/// The models of a server. They are asked for by another thread, for the user may want to wait no longer.
fn models(
    client: &Arc<Client>,
    address: &ServerAddress,
    stop: &Arc<AtomicBool>,
) -> Result<Asked<Vec<Offered>>, ServerError> {
    let (sender, reply) = mpsc::sync_channel(1);
    let (asking, is_over) = (Arc::clone(client), Arc::clone(stop));
    thread::spawn(move || {
        if sender.send(asking.models(&is_over)).is_err() {
            tracing::debug!("a list of models that nobody waits for any more");
        }
    });
    loop {
        match reply.recv_timeout(LOOK_AGAIN) {
            _ if stop.load(Ordering::Relaxed) => {
                return Err(ServerError::Stopped { address: address.to_string() });
            }
            Ok(asked) => return Ok(asked),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let why = "the thread that asked for it failed".to_owned();
                return Err(ServerError::NoList { address: address.to_string(), attempts: 1, why });
            }
        }
    }
}

/// The model that is meant, and its context where the server says it. A name is believed where nothing is listed.
fn chosen(address: &ServerAddress, offered: Vec<Offered>) -> Result<(String, Option<u32>), ServerError> {
    let names = |offered: Vec<Offered>| offered.into_iter().map(|model| model.id).collect();
    match (address.model(), &offered[..]) {
        (Some(name), []) => Ok((name.to_owned(), None)),
        (Some(name), models) => match models.iter().find(|model| model.id == name) {
            Some(model) => Ok((name.to_owned(), model.context_tokens)),
            None => Err(ServerError::NoSuchModel {
                address: address.to_string(),
                model: name.to_owned(),
                models: names(offered),
            }),
        },
        (None, [only]) => Ok((only.id.clone(), only.context_tokens)),
        (None, _) => Err(ServerError::WhichModel { address: address.to_string(), models: names(offered) }),
    }
}
