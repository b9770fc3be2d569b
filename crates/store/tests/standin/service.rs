//! The calls.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use qdrant_client::qdrant::collections_server::{Collections, CollectionsServer};
use qdrant_client::qdrant::points_server::{Points, PointsServer};
use qdrant_client::qdrant::qdrant_server::{Qdrant, QdrantServer};
use qdrant_client::qdrant::{self as api, PointStruct, RetrievedPoint, ScoredPoint};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::faults::{Fault, Faults};
use super::memory::{self, Memory};

type Answer<T> = Result<Response<T>, Status>;

/// Largest message, as a real server takes it.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

#[derive(Clone)]
struct Service(Arc<(Mutex<Memory>, Faults)>);

/// Serves until the process is killed.
pub(crate) fn run(folder: &Path, port: u16, faults: Faults) {
    let service = Service(Arc::new((Mutex::new(Memory::open(folder)), faults)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // Open before it is said: who read that connects at once.
        let open = TcpIncoming::bind(([127, 0, 0, 1], port).into()).unwrap();
        println!("serving {}", open.local_addr().unwrap().port());
        let points = PointsServer::new(service.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        tonic::transport::Server::builder()
            .add_service(points)
            .add_service(CollectionsServer::new(service.clone()))
            .add_service(QdrantServer::new(service))
            .serve_with_incoming(open)
            .await
            .unwrap();
    });
}

impl Service {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.0.lock().unwrap()
    }

    /// What goes wrong before a call is done; the faults that take half are for the caller.
    async fn fault(&self, kind: &str) -> Result<Option<Fault>, Status> {
        let fault = self.0.1.next(kind);
        match fault {
            Some(Fault::Refuse) => Err(Status::unavailable("the stand-in refuses this call")),
            Some(Fault::Exhausted) => {
                let mut status = Status::resource_exhausted("the stand-in has no room");
                status.metadata_mut().insert("retry-after", "1".parse().unwrap());
                Err(status)
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
            Some(Fault::Die) => std::process::abort(),
            other => Ok(other),
        }
    }

    fn after(fault: Option<Fault>) -> Result<(), Status> {
        match fault {
            Some(Fault::Half) => Err(Status::internal("the stand-in took half of it")),
            Some(Fault::Lost) => Err(Status::unavailable("the stand-in lost the answer")),
            Some(Fault::HalfDie) => std::process::abort(),
            _ => Ok(()),
        }
    }
}

fn absent(name: &str) -> Status {
    Status::not_found(format!("Collection `{name}` doesn't exist!"))
}

fn done() -> Response<api::PointsOperationResponse> {
    let result = api::UpdateResult { operation_id: Some(0), status: api::UpdateStatus::Completed as i32 };
    Response::new(api::PointsOperationResponse { result: Some(result), ..Default::default() })
}

fn retrieved(
    point: &PointStruct,
    payload: Option<&api::WithPayloadSelector>,
    vectors: bool,
) -> RetrievedPoint {
    use api::with_payload_selector::SelectorOptions;
    let payload = match payload.and_then(|selector| selector.selector_options.as_ref()) {
        Some(SelectorOptions::Enable(true)) => point.payload.clone(),
        Some(SelectorOptions::Include(wanted)) => {
            let wanted = |field: &&String| wanted.fields.contains(field);
            point
                .payload
                .iter()
                .filter(|(field, _)| wanted(field))
                .map(|(f, v)| (f.clone(), v.clone()))
                .collect()
        }
        _ => Default::default(),
    };
    RetrievedPoint {
        id: point.id.clone(),
        payload,
        vectors: vectors.then(|| output(point)),
        ..Default::default()
    }
}

fn output(point: &PointStruct) -> api::VectorsOutput {
    let vectors = memory::named(point)
        .into_iter()
        .map(|(name, vector)| {
            let vector = match vector.vector.unwrap() {
                api::vector::Vector::Dense(dense) => api::vector_output::Vector::Dense(dense),
                api::vector::Vector::Sparse(sparse) => api::vector_output::Vector::Sparse(sparse),
                other => panic!("the stand-in does not know {other:?}"),
            };
            (name, api::VectorOutput { vector: Some(vector), ..Default::default() })
        })
        .collect();
    let named = api::NamedVectorsOutput { vectors };
    api::VectorsOutput { vectors_options: Some(api::vectors_output::VectorsOptions::Vectors(named)) }
}

#[tonic::async_trait]
impl Qdrant for Service {
    async fn health_check(&self, _: Request<api::HealthCheckRequest>) -> Answer<api::HealthCheckReply> {
        self.fault("health").await?;
        let title = "stand-in for a Qdrant server".to_owned();
        Ok(Response::new(api::HealthCheckReply { title, version: "0.0.0".to_owned(), commit: None }))
    }
}

/// Calls that this program does not make. Spelled out, because `async_trait` does not see into a macro.
macro_rules! unknown {
    ($($name:ident($request:ident) -> $answer:ident;)*) => {$(
        fn $name<'a, 'b>(&'a self, _: Request<api::$request>) -> Later<'b, api::$answer>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async {
                Err(Status::unimplemented(concat!("the stand-in does not know ", stringify!($name))))
            })
        }
    )*};
}

type Later<'b, T> = Pin<Box<dyn Future<Output = Answer<T>> + Send + 'b>>;

#[tonic::async_trait]
impl Points for Service {
    async fn upsert(&self, request: Request<api::UpsertPoints>) -> Answer<api::PointsOperationResponse> {
        let fault = self.fault("upsert").await?;
        let mut upsert = request.into_inner();
        let mut memory = self.memory();
        let collection =
            memory.find(&upsert.collection_name).ok_or_else(|| absent(&upsert.collection_name))?;
        for point in &upsert.points {
            for (name, vector) in memory::named(point) {
                let Some(row) = memory::dense(&vector) else { continue };
                let expected = memory::dim(collection, &name).ok_or_else(|| {
                    Status::invalid_argument(format!("Not existing vector name error: {name}"))
                })?;
                if row.len() as u64 != expected {
                    let what = format!("Vector dimension error: expected dim: {expected}, got {}", row.len());
                    return Err(Status::invalid_argument(what));
                }
            }
        }
        if matches!(fault, Some(Fault::Half | Fault::HalfDie)) {
            upsert.points.truncate(upsert.points.len() / 2);
        }
        memory.upsert(upsert);
        drop(memory);
        Self::after(fault)?;
        Ok(done())
    }

    async fn delete(&self, request: Request<api::DeletePoints>) -> Answer<api::PointsOperationResponse> {
        let fault = self.fault("delete").await?;
        let delete = request.into_inner();
        let mut memory = self.memory();
        memory.find(&delete.collection_name).ok_or_else(|| absent(&delete.collection_name))?;
        memory.delete(delete);
        drop(memory);
        Self::after(fault)?;
        Ok(done())
    }

    async fn get(&self, request: Request<api::GetPoints>) -> Answer<api::GetResponse> {
        self.fault("get").await?;
        let get = request.into_inner();
        let memory = self.memory();
        let collection = memory.find(&get.collection_name).ok_or_else(|| absent(&get.collection_name))?;
        let result = get
            .ids
            .iter()
            .filter_map(|id| collection.points.get(&memory::id(Some(id))))
            .map(|point| retrieved(point, get.with_payload.as_ref(), false))
            .collect();
        Ok(Response::new(api::GetResponse { result, ..Default::default() }))
    }

    async fn count(&self, request: Request<api::CountPoints>) -> Answer<api::CountResponse> {
        self.fault("count").await?;
        let count = request.into_inner();
        let memory = self.memory();
        let collection = memory.find(&count.collection_name).ok_or_else(|| absent(&count.collection_name))?;
        let filter = count.filter.unwrap_or_default();
        let count = collection.points.values().filter(|point| memory::passes(&filter, point)).count() as u64;
        Ok(Response::new(api::CountResponse {
            result: Some(api::CountResult { count }),
            ..Default::default()
        }))
    }

    async fn scroll(&self, request: Request<api::ScrollPoints>) -> Answer<api::ScrollResponse> {
        self.fault("scroll").await?;
        let scroll = request.into_inner();
        let memory = self.memory();
        let collection =
            memory.find(&scroll.collection_name).ok_or_else(|| absent(&scroll.collection_name))?;
        let filter = scroll.filter.unwrap_or_default();
        let from = scroll.offset.as_ref().map_or(String::new(), |id| memory::id(Some(id)));
        let vectors = scroll.with_vectors.is_some_and(|selector| {
            selector.selector_options == Some(api::with_vectors_selector::SelectorOptions::Enable(true))
        });
        let limit = scroll.limit.unwrap_or(10) as usize;
        let mut page: Vec<&PointStruct> = collection
            .points
            .range(from..)
            .map(|(_, point)| point)
            .filter(|point| memory::passes(&filter, point))
            .take(limit + 1)
            .collect();
        let next = if page.len() > limit { page.pop().and_then(|point| point.id.clone()) } else { None };
        let result =
            page.iter().map(|point| retrieved(point, scroll.with_payload.as_ref(), vectors)).collect();
        Ok(Response::new(api::ScrollResponse { next_page_offset: next, result, ..Default::default() }))
    }

    async fn query_batch(&self, request: Request<api::QueryBatchPoints>) -> Answer<api::QueryBatchResponse> {
        self.fault("query").await?;
        let batch = request.into_inner();
        let memory = self.memory();
        let collection = memory.find(&batch.collection_name).ok_or_else(|| absent(&batch.collection_name))?;
        let result = batch
            .query_points
            .iter()
            .map(|asked| {
                let ranked = memory::rank(collection, asked).into_iter();
                let scored = |(score, point): (f32, PointStruct)| ScoredPoint {
                    id: point.id,
                    score,
                    ..Default::default()
                };
                api::BatchResult { result: ranked.map(scored).collect() }
            })
            .collect();
        Ok(Response::new(api::QueryBatchResponse { result, ..Default::default() }))
    }

    async fn create_field_index(
        &self,
        request: Request<api::CreateFieldIndexCollection>,
    ) -> Answer<api::PointsOperationResponse> {
        self.fault("index").await?;
        self.memory().index(request.into_inner());
        Ok(done())
    }

    unknown! {
        update_vectors(UpdatePointVectors) -> PointsOperationResponse;
        delete_vectors(DeletePointVectors) -> PointsOperationResponse;
        set_payload(SetPayloadPoints) -> PointsOperationResponse;
        overwrite_payload(SetPayloadPoints) -> PointsOperationResponse;
        delete_payload(DeletePayloadPoints) -> PointsOperationResponse;
        clear_payload(ClearPayloadPoints) -> PointsOperationResponse;
        delete_field_index(DeleteFieldIndexCollection) -> PointsOperationResponse;
        create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse;
        delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse;
        search(SearchPoints) -> SearchResponse;
        search_batch(SearchBatchPoints) -> SearchBatchResponse;
        search_groups(SearchPointGroups) -> SearchGroupsResponse;
        recommend(RecommendPoints) -> RecommendResponse;
        recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse;
        recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse;
        discover(DiscoverPoints) -> DiscoverResponse;
        discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse;
        update_batch(UpdateBatchPoints) -> UpdateBatchResponse;
        query(QueryPoints) -> QueryResponse;
        query_groups(QueryPointGroups) -> QueryGroupsResponse;
        facet(FacetCounts) -> FacetResponse;
        search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse;
        search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse;
    }
}

#[tonic::async_trait]
impl Collections for Service {
    async fn get(
        &self,
        request: Request<api::GetCollectionInfoRequest>,
    ) -> Answer<api::GetCollectionInfoResponse> {
        self.fault("info").await?;
        let name = request.into_inner().collection_name;
        let memory = self.memory();
        let collection = memory.find(&name).ok_or_else(|| absent(&name))?;
        let points_count = Some(collection.points.len() as u64);
        let schema = |&data_type: &i32| api::PayloadSchemaInfo { data_type, ..Default::default() };
        let info = api::CollectionInfo {
            config: Some(collection.config.clone()),
            points_count,
            payload_schema: collection
                .indexes
                .iter()
                .map(|(field, of)| (field.clone(), schema(of)))
                .collect(),
            ..Default::default()
        };
        Ok(Response::new(api::GetCollectionInfoResponse { result: Some(info), ..Default::default() }))
    }

    async fn list(&self, _: Request<api::ListCollectionsRequest>) -> Answer<api::ListCollectionsResponse> {
        let names = self.memory().collections.keys().cloned().collect::<Vec<_>>();
        let collections = names.into_iter().map(|name| api::CollectionDescription { name }).collect();
        Ok(Response::new(api::ListCollectionsResponse { collections, ..Default::default() }))
    }

    async fn create(
        &self,
        request: Request<api::CreateCollection>,
    ) -> Answer<api::CollectionOperationResponse> {
        let fault = self.fault("create").await?;
        let create = request.into_inner();
        let mut memory = self.memory();
        if memory.find(&create.collection_name).is_some() {
            return Err(Status::already_exists("Collection already exists!"));
        }
        memory.create(create);
        drop(memory);
        Self::after(fault)?;
        Ok(Response::new(api::CollectionOperationResponse { result: true, ..Default::default() }))
    }

    async fn update_aliases(
        &self,
        request: Request<api::ChangeAliases>,
    ) -> Answer<api::CollectionOperationResponse> {
        self.memory().change_aliases(request.into_inner());
        Ok(Response::new(api::CollectionOperationResponse { result: true, ..Default::default() }))
    }

    async fn list_aliases(&self, _: Request<api::ListAliasesRequest>) -> Answer<api::ListAliasesResponse> {
        let aliases = self.memory().aliases.clone();
        let aliases = aliases
            .into_iter()
            .map(|(alias_name, collection_name)| api::AliasDescription { alias_name, collection_name })
            .collect();
        Ok(Response::new(api::ListAliasesResponse { aliases, ..Default::default() }))
    }

    async fn collection_exists(
        &self,
        request: Request<api::CollectionExistsRequest>,
    ) -> Answer<api::CollectionExistsResponse> {
        self.fault("exists").await?;
        let exists = self.memory().find(&request.into_inner().collection_name).is_some();
        let result = Some(api::CollectionExists { exists });
        Ok(Response::new(api::CollectionExistsResponse { result, ..Default::default() }))
    }

    unknown! {
        update(UpdateCollection) -> CollectionOperationResponse;
        delete(DeleteCollection) -> CollectionOperationResponse;
        list_collection_aliases(ListCollectionAliasesRequest) -> ListAliasesResponse;
        collection_cluster_info(CollectionClusterInfoRequest) -> CollectionClusterInfoResponse;
        update_collection_cluster_setup(UpdateCollectionClusterSetupRequest)
            -> UpdateCollectionClusterSetupResponse;
        create_shard_key(CreateShardKeyRequest) -> CreateShardKeyResponse;
        delete_shard_key(DeleteShardKeyRequest) -> DeleteShardKeyResponse;
        list_shard_keys(ListShardKeysRequest) -> ListShardKeysResponse;
    }
}
