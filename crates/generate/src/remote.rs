//! A server with OpenAI's routes: vLLM, SGLang, llama-server, llama-cpp-python, Ollama, TGI, or one of somebody else.
//!
//! Calls are sent side by side, a bounded number at a time. Of calls that begin alike one goes ahead, and the others
//! follow when it is answered: the server then has their common beginning in its prompt cache, which it has not where
//! all of them come at once. Every fault is a verdict on its call after a bounded number of attempts; a server to
//! which several calls in a row get no response at all ends the run, and what was answered stays answered.
//!
//! Where a server computes is not known, and never claimed: its verdict is `unknown`.

mod address;
mod client;
mod plan;
mod wire;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

use haul_machine::verdict::{DeviceRequest, Placement, Verdict, Witness, WitnessKind};

pub use address::{AddressError, ApiKey, KeyError, ServerAddress};

use crate::call::{Answer, Call, CallError, Constraint, Finish, Totals};
use crate::schema::Schema;
use crate::{Answered, GenerateError, ModelFacts};
use client::{Asked, Client, Fault};
use plan::Plan;
use wire::{Dialect, Offered};

/// After so many calls in a row to which nothing came back, the server counts as gone.
const SILENT_CALLS_MAX: u32 = 3;
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
    /// Before the second attempt; doubles with each.
    pub backoff_first: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(600),
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
}

/// A server that answers calls.
pub struct Remote {
    client: Arc<Client>,
    address: ServerAddress,
    model: String,
    context_tokens: Option<u32>,
    parallel: usize,
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
            Self::Unauthorized { .. } => "set HAUL_API_KEY to the key that this server knows you by",
            Self::Gone { .. } => {
                "what was answered is kept; the same command goes on when the server is back"
            }
        }
    }
}

impl Remote {
    /// Asks a server for its models, and takes the one that the address names, or the only one there is.
    ///
    /// # Errors
    /// It does not answer, or it is not clear which model is meant.
    pub fn open(settings: RemoteSettings) -> Result<Self, ServerError> {
        let RemoteSettings { address, key, parallel, patience } = settings;
        let client = Client::new(&address, key, patience, parallel);
        let Asked { result, attempts } = client.models();
        let offered = match (result, address.model()) {
            (Ok(listing), _) => listing.data,
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
        Ok(Self { client: Arc::new(client), address, model, context_tokens, parallel: parallel.max(1) })
    }

    /// The model that answers, as the server calls it.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
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
        let engine = Witness {
            kind: WitnessKind::Engine,
            says: UNKNOWN.to_owned(),
            detail: format!(
                "the server {} answers with {}, schemas as {schemas}; it does not say on what",
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
            // This thread has a sender of its own, so the channel never closes.
            let Some((number, asked)) = (in_flight > 0).then(|| replies.recv().ok()).flatten() else {
                return Ok(totals);
            };
            in_flight -= 1;
            plan.answered(number);
            let Taken { result, retries, end } = self.taken(&calls[number], asked);
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
    fn taken(&self, call: &Call, asked: Option<Asked<Answer>>) -> Taken {
        let Some(Asked { result, attempts }) = asked else {
            let why = "the thread that asked for it failed".to_owned();
            return Taken { result: Err(CallError::GivenUp { attempts: 1, why }), retries: 0, end: None };
        };
        let address = || self.address.to_string();
        let (result, end) = match result {
            Ok(answer) => (checked(answer, call), None),
            Err(Fault::Call(error, _)) => (Err(error), None),
            Err(Fault::Unauthorized { status, says }) => {
                let why = format!("status {status}: {says}");
                let end = ServerError::Unauthorized { address: address(), status, says };
                (Err(CallError::Refused { why }), Some(end))
            }
            Err(Fault::Passing(passing)) => {
                let silent = self.client.silent_calls();
                let is_gone = passing.is_silence() && silent >= SILENT_CALLS_MAX;
                let end = is_gone.then(|| ServerError::Gone {
                    address: address(),
                    calls: silent,
                    why: passing.why.clone(),
                });
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

/// The model that is meant, and its context where the server says it.
fn chosen(address: &ServerAddress, offered: Vec<Offered>) -> Result<(String, Option<u32>), ServerError> {
    match (address.model(), &offered[..]) {
        (Some(name), _) => {
            let context = offered.iter().find(|model| model.id == name).and_then(|model| model.max_model_len);
            Ok((name.to_owned(), context))
        }
        (None, [only]) => Ok((only.id.clone(), only.max_model_len)),
        (None, _) => Err(ServerError::WhichModel {
            address: address.to_string(),
            models: offered.into_iter().map(|model| model.id).collect(),
        }),
    }
}

/// A server may ignore a schema; an answer is held against it all the same. A cut one says so itself.
fn checked(answer: Answer, call: &Call) -> Result<Answer, CallError> {
    if let (Some(Constraint::JsonSchema(schema)), Finish::Stop) = (&call.constraint, answer.finish) {
        let schema = Schema::parse(schema).map_err(|error| CallError::Refused { why: error.to_string() })?;
        schema.check(&answer.text).map_err(|why| CallError::NotOfSchema { why })?;
    }
    Ok(answer)
}
