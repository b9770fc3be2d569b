//! A collection of a Qdrant server: made, filled, counted, read. Calls wait for a server that is away, for a bounded
//! time, and nothing is counted on that the server has not confirmed.
//!
//! Dense vectors stand under the name `dense` (or without one, where the collection was made so), BM25 weights under
//! `bm25`, the model's own token weights under `sparse`. What the points were made with stands in the collection's
//! metadata, so that any machine can search it.

mod address;
pub mod catalogue;
mod convert;
pub mod search;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use qdrant_client::qdrant::with_payload_selector::SelectorOptions;
use qdrant_client::qdrant::{
    self as api, CountPointsBuilder, CreateAliasBuilder, CreateCollectionBuilder,
    CreateFieldIndexCollectionBuilder, DeletePointsBuilder, Distance, FieldType, Filter, GetPointsBuilder,
    Modifier, PointId, PointStruct, QueryBatchPointsBuilder, QueryPoints, RetrievedPoint, ScoredPoint,
    ScrollPointsBuilder, UpsertPointsBuilder, VectorParamsBuilder, vectors_config,
};
use qdrant_client::{Qdrant, QdrantError};
use serde_json::Value;
use tokio::runtime::Runtime;
use tracing::warn;
use uuid::Uuid;

pub use address::{Address, AddressError, GRPC_PORT};
pub(crate) use convert::{documents_except, points_with, to_server as convert_point};

use crate::settings::{Difference, LibrarySettings};

/// Longest time one call may take. A batch that makes the server grow a segment takes seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call is tried again while the server is away or has no room for it.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same for the first call of all: nothing has been done yet that a user would wait for.
const FIRST_PATIENCE: Duration = Duration::from_secs(3);
/// Pauses between tries grow twofold from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);
/// While pausing, a stop is looked for so often.
const STOP_INTERVAL: Duration = Duration::from_millis(50);
/// Tries of a call that the server says it failed at by a fault of its own.
const INTERNAL_TRIES: u32 = 4;

/// Points of one page when a collection is read.
const PAGE_POINTS: u32 = 256;

/// Vectors of a point.
pub(crate) const DENSE: &str = "dense";
pub(crate) const BM25: &str = "bm25";
pub(crate) const SPARSE: &str = "sparse";

/// Where a collection's metadata has what it was made with.
const METADATA: &str = "haul";

/// Payload fields with an index: what this program and its users filter by.
const INDEXES: [(&str, FieldType); 10] = [
    ("doc_id", FieldType::Keyword),
    ("chunk_no", FieldType::Integer),
    ("chunk_level", FieldType::Keyword),
    ("parent_id", FieldType::Keyword),
    ("book_title", FieldType::Keyword),
    ("author", FieldType::Keyword),
    ("language", FieldType::Keyword),
    ("format", FieldType::Keyword),
    ("tags", FieldType::Keyword),
    ("collection", FieldType::Keyword),
];

/// A connection to one collection.
pub struct Collection {
    client: Qdrant,
    runtime: Runtime,
    address: Address,
    stop: Stop,
}

/// What a server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Collections.
    pub collections: Vec<String>,
    /// The collection that each alias stands for.
    pub aliases: BTreeMap<String, String>,
}

/// Asked between tries: whether to give up now.
pub type Stop = Box<dyn Fn() -> bool + Send>;

/// What a server says of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Points, as the server counts them exactly.
    pub points: u64,
    /// Numbers in a dense vector.
    pub dim: usize,
    /// Name of the dense vector; empty for the one without a name.
    pub dense_name: String,
    /// Names of sparse vectors.
    pub sparse_names: Vec<String>,
    /// What the points were made with, as this program wrote it; `None` in a collection of another program.
    pub settings: Option<LibrarySettings>,
    /// Drawn when this program made the collection: tells it from another that has its name later.
    pub id: Option<String>,
    /// Payload fields that have an index.
    pub indexed: Vec<String>,
}

impl State {
    /// Whether words can be ranked: a collection that another program made may have no weights of them.
    #[must_use]
    pub fn ranks_words(&self) -> bool {
        self.has(BM25)
    }

    pub(crate) fn has(&self, sparse_name: &str) -> bool {
        self.sparse_names.iter().any(|name| name == sparse_name)
    }
}

impl Collection {
    /// Connects, and waits a moment for a server that is not there. `api_key` is sent with every call.
    ///
    /// # Errors
    /// No server answers, or it refuses.
    pub fn connect(address: &Address, api_key: Option<&str>, stop: Stop) -> Result<Collection, ServerError> {
        let mut config = Qdrant::from_url(&address.uri())
            .timeout(CALL_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .skip_compatibility_check();
        if let Some(api_key) = api_key {
            config.set_api_key(api_key);
        }
        // One connection: a writer sends one batch after the other.
        config.set_pool_size(1);
        let client = config.build().map_err(|error| ServerError::refused(address, "connecting", &error))?;
        let collection = Collection { client, runtime: event_loop()?, address: address.clone(), stop };
        collection.within(FIRST_PATIENCE, "connecting", async |client| client.health_check().await)?;
        Ok(collection)
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Another collection of the same server.
    ///
    /// # Errors
    /// Not a name, or the system gives no event loop.
    pub fn sibling(&self, collection: &str, stop: Stop) -> Result<Collection, ServerError> {
        Ok(Collection {
            client: Qdrant::new(self.client.config.clone())
                .map_err(|error| ServerError::refused(&self.address, "connecting", &error))?,
            runtime: event_loop()?,
            address: self.address.with_collection(collection)?,
            stop,
        })
    }

    /// What is there; `None` if no such collection.
    ///
    /// # Errors
    /// The server is away, or the collection has a layout this program cannot use.
    pub fn state(&self) -> Result<Option<State>, ServerError> {
        let name = self.address.collection();
        if !self.call("looking for the collection", async |client| client.collection_exists(name).await)? {
            return Ok(None);
        }
        let info = self
            .call("reading the collection's settings", async |client| client.collection_info(name).await)?;
        let info = info.result.unwrap_or_default();
        let indexed = info.payload_schema.into_keys().collect();
        let config = info.config.unwrap_or_default();
        let params = config.params.unwrap_or_default();
        let (dense_name, dim) = self.dense_of(params.vectors_config)?;
        let sparse = params.sparse_vectors_config.map(|sparse| sparse.map).unwrap_or_default();
        Ok(Some(State {
            points: self.count(None)?,
            dim,
            dense_name,
            sparse_names: sparse.into_keys().collect(),
            id: id_of(&config.metadata),
            settings: self.settings_of(config.metadata)?,
            indexed,
        }))
    }

    /// The collection as a library of `settings` needs it, made if it is not there. Safe to call again after a kill.
    ///
    /// # Errors
    /// A collection of another dimension or of other settings, a server that does not keep metadata.
    pub fn ensure(&self, settings: &LibrarySettings) -> Result<State, ServerError> {
        let state = match self.state()? {
            Some(state) => state,
            None => self.create(settings)?,
        };
        self.check(&state, settings)?;
        // An index that somebody made stays as it is.
        for (field, kind) in
            INDEXES.into_iter().filter(|(field, _)| !state.indexed.iter().any(|known| known == field))
        {
            self.call("making payload indexes", async |client| {
                let index =
                    CreateFieldIndexCollectionBuilder::new(self.address.collection(), field, kind).wait(true);
                client.create_field_index(index).await
            })?;
        }
        Ok(state)
    }

    fn create(&self, settings: &LibrarySettings) -> Result<State, ServerError> {
        let name = self.address.collection();
        let dense = || VectorParamsBuilder::new(settings.dim as u64, Distance::Cosine).on_disk(true);
        let metadata = HashMap::from([(
            METADATA.to_owned(),
            serde_json::json!({ "settings": settings, "id": Uuid::new_v4() }),
        )]);
        let made = self.call("making the collection", async |client| {
            let mut sparse = api::SparseVectorsConfigBuilder::default();
            sparse.add_named_vector_params(
                BM25,
                api::SparseVectorParamsBuilder::default().modifier(Modifier::Idf),
            );
            if settings.sparse {
                sparse.add_named_vector_params(SPARSE, api::SparseVectorParamsBuilder::default());
            }
            let mut create = CreateCollectionBuilder::new(name)
                .on_disk_payload(true)
                .sparse_vectors_config(sparse)
                .metadata(metadata.clone());
            if self.address.unnamed() {
                create = create.vectors_config(dense());
            } else {
                let mut named = api::VectorsConfigBuilder::default();
                named.add_named_vector_params(DENSE, dense());
                create = create.vectors_config(named);
            }
            client.create_collection(create).await
        });
        let state = self.state()?;
        match (made, state) {
            (_, Some(state)) if state.settings.is_none() => {
                Err(ServerError::NoMetadata { address: self.address.clone() })
            }
            // Another writer may have been faster, or the answer of a first try may have been lost.
            (_, Some(state)) => Ok(state),
            (Err(error), None) => Err(error),
            (Ok(_), None) => Err(self.absent()),
        }
    }

    fn check(&self, state: &State, settings: &LibrarySettings) -> Result<(), ServerError> {
        let address = self.address.clone();
        if state.dim != settings.dim {
            return Err(ServerError::Dimension { address, found: state.dim, expected: settings.dim });
        }
        match &state.settings {
            Some(theirs) if theirs.fingerprint() != settings.fingerprint() => {
                let differences = theirs.differences(settings);
                Err(ServerError::OtherSettings { address, differences })
            }
            // One that another program made has no settings: its dimension fits, and its points stay as they are.
            Some(_) | None => Ok(()),
        }
    }

    fn dense_of(&self, config: Option<api::VectorsConfig>) -> Result<(String, usize), ServerError> {
        let usable = |params: &api::VectorParams| params.distance == Distance::Cosine as i32;
        let found = match config.and_then(|config| config.config) {
            Some(vectors_config::Config::Params(params)) => Some((String::new(), params)),
            Some(vectors_config::Config::ParamsMap(map)) => {
                map.map.into_iter().find(|(name, _)| name == DENSE || name.is_empty())
            }
            None => None,
        };
        match found {
            Some((name, params)) if usable(&params) => {
                Ok((name, usize::try_from(params.size).unwrap_or(usize::MAX)))
            }
            Some((name, _)) => Err(ServerError::Layout {
                address: self.address.clone(),
                what: format!("its vector {name:?} is not compared by cosine"),
            }),
            None => Err(ServerError::Layout {
                address: self.address.clone(),
                what: format!("it has no vector named {DENSE:?}, and none without a name"),
            }),
        }
    }

    fn settings_of(
        &self,
        mut metadata: HashMap<String, api::Value>,
    ) -> Result<Option<LibrarySettings>, ServerError> {
        let Some(ours) = metadata.remove(METADATA) else { return Ok(None) };
        let ours = Value::from(ours);
        let settings = ours.get("settings").cloned().unwrap_or_default();
        serde_json::from_value(settings).map(Some).map_err(|error| ServerError::Layout {
            address: self.address.clone(),
            what: format!("its metadata are not those of this version: {error}"),
        })
    }

    /// Puts points in, or replaces those with the same ids; confirmed when it returns.
    pub(crate) fn upsert(&self, points: &[PointStruct]) -> Result<(), ServerError> {
        self.call("writing points", async |client| {
            let upsert = UpsertPointsBuilder::new(self.address.collection(), points.to_vec()).wait(true);
            client.upsert_points(upsert).await
        })
        .map(drop)
    }

    /// Removes the points a filter selects; confirmed when it returns.
    pub(crate) fn delete(&self, filter: &Filter) -> Result<(), ServerError> {
        self.call("removing points", async |client| {
            let delete =
                DeletePointsBuilder::new(self.address.collection()).points(filter.clone()).wait(true);
            client.delete_points(delete).await
        })
        .map(drop)
    }

    /// Points a filter selects, counted and not estimated.
    pub(crate) fn count(&self, filter: Option<&Filter>) -> Result<u64, ServerError> {
        let answer = self.call("counting points", async |client| {
            let mut count = CountPointsBuilder::new(self.address.collection()).exact(true);
            if let Some(filter) = filter {
                count = count.filter(filter.clone());
            }
            client.count(count).await
        })?;
        answer.result.map(|result| result.count).ok_or_else(|| self.absent())
    }

    /// Every point a filter selects, page by page in the order of the ids.
    pub(crate) fn for_each<E: From<ServerError>>(
        &self,
        filter: Option<&Filter>,
        wanted: &Wanted<'_>,
        mut each: impl FnMut(RetrievedPoint) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut offset: Option<PointId> = None;
        loop {
            let page = self.call("reading points", async |client| {
                let mut scroll = ScrollPointsBuilder::new(self.address.collection())
                    .limit(PAGE_POINTS)
                    .with_payload(wanted.payload())
                    .with_vectors(wanted.vectors);
                if let Some(filter) = filter {
                    scroll = scroll.filter(filter.clone());
                }
                if let Some(offset) = &offset {
                    scroll = scroll.offset(offset.clone());
                }
                client.scroll(scroll).await
            })?;
            page.result.into_iter().try_for_each(&mut each)?;
            match page.next_page_offset {
                Some(next) => offset = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Points by id, those that are there.
    pub(crate) fn get(&self, ids: &[Uuid]) -> Result<Vec<RetrievedPoint>, ServerError> {
        let ids: Vec<PointId> = ids.iter().map(|id| PointId::from(id.to_string())).collect();
        let answer = self.call("reading points", async |client| {
            client
                .get_points(GetPointsBuilder::new(self.address.collection(), ids.clone()).with_payload(true))
                .await
        })?;
        Ok(answer.result)
    }

    /// Several rankings in one call.
    pub(crate) fn rank(&self, queries: &[QueryPoints]) -> Result<Vec<Vec<ScoredPoint>>, ServerError> {
        let answer = self.call("searching", async |client| {
            client
                .query_batch(QueryBatchPointsBuilder::new(self.address.collection(), queries.to_vec()))
                .await
        })?;
        Ok(answer.result.into_iter().map(|batch| batch.result).collect())
    }

    /// Collections of the server, and what aliases stand for, in order of their names.
    ///
    /// # Errors
    /// The server is away.
    pub fn list(&self) -> Result<Names, ServerError> {
        let collections = self.call("listing collections", async |client| client.list_collections().await)?;
        let aliases = self.call("listing aliases", async |client| client.list_aliases().await)?;
        let mut names: Vec<String> = collections.collections.into_iter().map(|found| found.name).collect();
        names.sort_unstable();
        let aliases = aliases.aliases.into_iter().map(|alias| (alias.alias_name, alias.collection_name));
        Ok(Names { collections: names, aliases: aliases.collect() })
    }

    /// Lets `alias` stand for this collection, whatever it stood for before; the change is one step.
    ///
    /// # Errors
    /// Not a name; the server is away or refuses.
    pub fn set_alias(&self, alias: &str) -> Result<(), ServerError> {
        self.address.with_collection(alias)?;
        if self.list()?.aliases.get(alias).is_some_and(|of| of == self.address.collection()) {
            return Ok(());
        }
        // A server takes an alias that exists from where it stood in the same step.
        self.call("setting an alias", async |client| {
            client.create_alias(CreateAliasBuilder::new(self.address.collection(), alias)).await
        })
        .map(drop)
    }

    /// Ends here if that was asked for.
    pub(crate) fn check_stop(&self, doing: &'static str) -> Result<(), ServerError> {
        if (self.stop)() {
            Err(ServerError::Stopped { address: self.address.clone(), doing })
        } else {
            Ok(())
        }
    }

    /// No such collection.
    #[must_use]
    pub fn absent(&self) -> ServerError {
        ServerError::NoCollection { address: self.address.clone() }
    }

    fn call<T>(
        &self,
        doing: &'static str,
        work: impl AsyncFn(&Qdrant) -> Result<T, QdrantError>,
    ) -> Result<T, ServerError> {
        self.within(PATIENCE, doing, work)
    }

    /// Tries until it succeeds, is refused, or `patience` is over.
    #[expect(clippy::needless_pass_by_value, reason = "closures are handed on by value")]
    fn within<T>(
        &self,
        patience: Duration,
        doing: &'static str,
        work: impl AsyncFn(&Qdrant) -> Result<T, QdrantError>,
    ) -> Result<T, ServerError> {
        let began = Instant::now();
        let (mut pause, mut tries) = (PAUSE_FIRST, 0);
        loop {
            tries += 1;
            let answered = self.runtime.block_on(async {
                tokio::select! {
                    answered = work(&self.client) => Some(answered),
                    () = stopped(&self.stop) => None,
                }
            });
            let error = match answered {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => error,
                None => return Err(ServerError::Stopped { address: self.address.clone(), doing }),
            };
            let wait = match verdict(&error, tries) {
                Verdict::Refused => return Err(ServerError::refused(&self.address, doing, &error)),
                Verdict::Again => pause,
                Verdict::After(seconds) => seconds.max(pause),
            };
            if began.elapsed() + wait > patience {
                return Err(ServerError::Gone {
                    address: self.address.clone(),
                    doing,
                    tries,
                    waited_s: began.elapsed().as_secs_f64(),
                    last: said(&error),
                });
            }
            if tries == 1 {
                warn!(server = %self.address, doing, error = said(&error), "waiting for the server");
            }
            pause_unless(wait, &self.stop)
                .map_err(|Stopped| ServerError::Stopped { address: self.address.clone(), doing })?;
            pause = (pause * 2).min(PAUSE_LAST);
        }
    }
}

/// On the thread that calls: a connection is used by one.
fn event_loop() -> Result<Runtime, ServerError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ServerError::Runtime { source })
}

/// The id that this program gave a collection.
fn id_of(metadata: &HashMap<String, api::Value>) -> Option<String> {
    Some(Value::from(metadata.get(METADATA)?.clone()).get("id")?.as_str()?.to_owned())
}

/// What of each point is read.
pub(crate) struct Wanted<'a> {
    /// Fields of the payload; all if none are named.
    pub(crate) fields: &'a [&'a str],
    /// Whether vectors come too.
    pub(crate) vectors: bool,
}

impl Wanted<'_> {
    /// Everything there is.
    pub(crate) const ALL: Wanted<'static> = Wanted { fields: &[], vectors: true };

    fn payload(&self) -> SelectorOptions {
        if self.fields.is_empty() {
            SelectorOptions::Enable(true)
        } else {
            let fields = self.fields.iter().map(|field| (*field).to_owned()).collect();
            SelectorOptions::Include(api::PayloadIncludeSelector { fields })
        }
    }
}

/// What becomes of a call that failed.
enum Verdict {
    Refused,
    Again,
    After(Duration),
}

/// Calls may be sent twice without harm: ids are made from content. So everything that a later try may mend is tried.
fn verdict(error: &QdrantError, tries: u32) -> Verdict {
    match error {
        QdrantError::ResourceExhaustedError { retry_after_seconds, .. } => {
            Verdict::After(Duration::from_secs(*retry_after_seconds))
        }
        QdrantError::ResponseError { status } => {
            use tonic::Code;
            match status.code() {
                // The client's own words for a server that does not answer.
                Code::Internal if status.message().starts_with("Failed to connect") => Verdict::Again,
                Code::Unavailable
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::Cancelled
                | Code::Unknown => Verdict::Again,
                Code::Internal if tries < INTERNAL_TRIES => Verdict::Again,
                _ => Verdict::Refused,
            }
        }
        QdrantError::Io(_) => Verdict::Again,
        _ => Verdict::Refused,
    }
}

/// What a server, or the way to it, says.
fn said(error: &QdrantError) -> String {
    match error {
        // The client shows the whole chain of its own errors.
        QdrantError::ResponseError { status } if status.message().contains("Connection refused") => {
            "nobody listens there (connection refused)".to_owned()
        }
        QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => {
            format!("{:?}: {}", status.code(), status.message())
        }
        other => other.to_string(),
    }
}

/// Comes back when a stop is asked for.
async fn stopped(stop: &Stop) {
    while !stop() {
        tokio::time::sleep(STOP_INTERVAL).await;
    }
}

struct Stopped;

fn pause_unless(wait: Duration, stop: &Stop) -> Result<(), Stopped> {
    let began = Instant::now();
    while began.elapsed() < wait {
        if stop() {
            return Err(Stopped);
        }
        std::thread::sleep(STOP_INTERVAL.min(wait.saturating_sub(began.elapsed())));
    }
    if stop() { Err(Stopped) } else { Ok(()) }
}

/// A server did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Not the name of a collection.
    #[error(transparent)]
    Name(#[from] AddressError),
    /// No answer, or no room, for as long as it was tried.
    #[error("{address}: {doing}: no success in {tries} tries over {waited_s:.0} s; last: {last}")]
    Gone {
        /// Where.
        address: Address,
        /// What was being done.
        doing: &'static str,
        /// How often.
        tries: u32,
        /// For how long.
        waited_s: f64,
        /// What came last.
        last: String,
    },
    /// The server says no.
    #[error("{address}: {doing}: {said}")]
    Refused {
        /// Where.
        address: Address,
        /// What was being done.
        doing: &'static str,
        /// In the server's words.
        said: String,
    },
    /// The run was stopped while it waited for the server.
    #[error("{address}: {doing}: stopped while waiting for the server")]
    Stopped {
        /// Where.
        address: Address,
        /// What was being done.
        doing: &'static str,
    },
    /// No such collection.
    #[error("{address}: there is no such collection")]
    NoCollection {
        /// Where.
        address: Address,
    },
    /// Vectors of another length.
    #[error("{address}: its vectors have {found} numbers, the model's have {expected}")]
    Dimension {
        /// Where.
        address: Address,
        /// Numbers of a vector there.
        found: usize,
        /// Numbers of a vector of the library.
        expected: usize,
    },
    /// Points made otherwise.
    #[error("{address}: its points were made with other settings: {}", shown(differences))]
    OtherSettings {
        /// Where.
        address: Address,
        /// Each setting that differs.
        differences: Vec<Difference>,
    },
    /// Metadata of a collection are not kept.
    #[error("{address}: the server does not keep a collection's metadata")]
    NoMetadata {
        /// Where.
        address: Address,
    },
    /// A collection that cannot be used.
    #[error("{address}: {what}")]
    Layout {
        /// Where.
        address: Address,
        /// What is wrong.
        what: String,
    },
    /// A collection of another program, without weights of words.
    #[error("{address}: it has no BM25 weights, so it can be searched by vectors only")]
    NoWords {
        /// Where.
        address: Address,
    },
    /// A point that is not as this program writes them.
    #[error("{address}: point {point}: {what}")]
    Point {
        /// Where.
        address: Address,
        /// Its id.
        point: String,
        /// What is wrong with it.
        what: String,
    },
    /// The system gives no event loop.
    #[error("no event loop for the connection: {source}")]
    Runtime {
        /// The system's error.
        source: std::io::Error,
    },
}

impl ServerError {
    fn refused(address: &Address, doing: &'static str, error: &QdrantError) -> Self {
        Self::Refused { address: address.clone(), doing, said: said(error) }
    }

    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Gone { .. } => Some(
                "start the server, or look at its log, and run the same command again: it goes on where it was \
                 (the port is that of gRPC, 6334 by default)",
            ),
            Self::Refused { said, .. }
                if said.starts_with("Unauthenticated") || said.starts_with("Permission") =>
            {
                Some("set HAUL_QDRANT_API_KEY to the server's key")
            }
            // What a server of another protocol answers is no frame to the client.
            Self::Refused { said, .. } if said.contains("h2 protocol error") => Some(
                "this does not answer in gRPC, as Qdrant does: usually at port 6334, beside HTTP at 6333",
            ),
            Self::Stopped { .. } => Some("run the same command again: it goes on where it was"),
            Self::NoCollection { .. } => Some("`haul ingest --store` or `haul store push --to` makes it"),
            Self::Dimension { .. } | Self::OtherSettings { .. } => {
                Some("name another collection for this model and these settings")
            }
            Self::Name(error) => Some(error.hint()),
            Self::NoMetadata { .. } => Some("Qdrant keeps them since version 1.16"),
            Self::Layout { .. } => Some("name another collection"),
            Self::NoWords { .. } => Some("search it with --mode dense"),
            Self::Refused { .. } | Self::Point { .. } | Self::Runtime { .. } => None,
        }
    }
}

fn shown(differences: &[Difference]) -> String {
    differences
        .iter()
        .map(|difference| format!("{} is {}, not {}", difference.name, difference.stored, difference.asked))
        .collect::<Vec<_>>()
        .join("; ")
}
