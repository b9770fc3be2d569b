//! Points of a library to points of a server, and back.

use std::collections::HashMap;

use half::f16;
use qdrant_client::qdrant::{
    Condition, Filter, HasIdCondition, NamedVectors, PointId, PointStruct, Range, RetrievedPoint, Vector,
    Vectors, VectorsOutput, condition, point_id, vector_output, vectors_output,
};
use serde_json::Value;
use uuid::Uuid;

use super::{BM25, SPARSE, ServerError, State};
use crate::points::{Payload, Point};
use crate::terms::Weights;

/// A point as the server takes it.
pub(crate) fn to_server(point: &Point, bm25: Weights, state: &State) -> PointStruct {
    let dense: Vec<f32> = point.dense.iter().map(|x| x.to_f32()).collect();
    let mut vectors = HashMap::from([(state.dense_name.clone(), Vector::from(dense))]);
    if state.has(BM25) && !bm25.is_empty() {
        vectors.insert(BM25.to_owned(), Vector::from(bm25));
    }
    if let Some(sparse) = point.sparse.as_ref().filter(|_| state.has(SPARSE)) {
        let pairs: Vec<(u32, f32)> = sparse.iter().map(|(token, weight)| (*token, weight.to_f32())).collect();
        vectors.insert(SPARSE.to_owned(), Vector::from(pairs));
    }
    let payload = point.payload.iter().map(|(field, value)| (field.clone(), to_value(value))).collect();
    PointStruct {
        id: Some(PointId::from(point.id.to_string())),
        payload,
        vectors: Some(Vectors {
            vectors_options: Some(qdrant_client::qdrant::vectors::VectorsOptions::Vectors(NamedVectors {
                vectors,
            })),
        }),
    }
}

/// A point as the library had it: the server scaled its row to length 1, and the payload has the length it was.
pub(crate) fn from_server(point: RetrievedPoint, state: &State) -> Result<Point, String> {
    let id = id_of(&point)?;
    let payload: Payload =
        point.payload.into_iter().map(|(field, value)| (field, Value::from(value))).collect();
    let mut named = named(point.vectors);
    let length = payload.get("vector_norm").and_then(Value::as_f64).ok_or("it has no vector_norm")?;
    let dense = match named.remove(&state.dense_name) {
        Some(vector_output::Vector::Dense(row)) => {
            row.data.iter().map(|x| f16::from_f64(f64::from(*x) * length)).collect::<Vec<_>>()
        }
        _ => return Err(format!("it has no vector {:?}", state.dense_name)),
    };
    let sparse = match named.remove(SPARSE) {
        Some(vector_output::Vector::Sparse(row)) => {
            let mut pairs: Vec<(u32, f16)> =
                row.indices.into_iter().zip(row.values.into_iter().map(f16::from_f32)).collect();
            pairs.sort_unstable_by_key(|(token, _)| *token);
            Some(pairs)
        }
        _ => None,
    };
    Ok(Point { id, payload, dense, sparse })
}

/// Vectors by name; the one without a name has the empty one.
fn named(vectors: Option<VectorsOutput>) -> HashMap<String, vector_output::Vector> {
    match vectors.and_then(|vectors| vectors.vectors_options) {
        Some(vectors_output::VectorsOptions::Vector(only)) => {
            HashMap::from([(String::new(), only.into_vector())])
        }
        Some(vectors_output::VectorsOptions::Vectors(several)) => {
            several.vectors.into_iter().map(|(name, vector)| (name, vector.into_vector())).collect()
        }
        None => HashMap::new(),
    }
}

/// Whether a point has a vector of this name.
pub(crate) fn has_vector(point: &RetrievedPoint, name: &str) -> bool {
    named(point.vectors.clone()).contains_key(name)
}

/// A point's id, which is a UUID in every collection of ours.
pub(crate) fn id_of(point: &RetrievedPoint) -> Result<Uuid, String> {
    uuid_of(point.id.as_ref())
}

pub(crate) fn uuid_of(id: Option<&PointId>) -> Result<Uuid, String> {
    match id.and_then(|id| id.point_id_options.as_ref()) {
        Some(point_id::PointIdOptions::Uuid(text)) => {
            text.parse().map_err(|_| format!("{text:?} is no UUID"))
        }
        Some(point_id::PointIdOptions::Num(number)) => Err(format!("its id is the number {number}")),
        None => Err("it has no id".to_owned()),
    }
}

impl super::Collection {
    pub(crate) fn bad_point(&self, point: Option<&PointId>, what: String) -> ServerError {
        let point = uuid_of(point).map_or_else(|other| other, |id| id.to_string());
        ServerError::Point { address: self.address().clone(), point, what }
    }
}

/// Points of documents.
pub(crate) fn of_documents(ids: &[Uuid]) -> Condition {
    Condition::matches("doc_id", ids.iter().map(Uuid::to_string).collect::<Vec<String>>())
}

/// All points of documents but these.
pub(crate) fn documents_except(documents: &[Uuid], kept: &[Uuid]) -> Filter {
    let kept = if kept.is_empty() { vec![] } else { vec![with_ids(kept)] };
    filter(vec![of_documents(documents)], kept)
}

/// Points by id.
pub(crate) fn points_with(ids: &[Uuid]) -> Filter {
    filter(vec![with_ids(ids)], vec![])
}

/// Points by id.
fn with_ids(ids: &[Uuid]) -> Condition {
    let has_id = ids.iter().map(|id| PointId::from(id.to_string())).collect();
    Condition { condition_one_of: Some(condition::ConditionOneOf::HasId(HasIdCondition { has_id })) }
}

/// The first chunks of documents that pass `more`: one point a document, which has its own fields.
pub(crate) fn first_chunks(more: Vec<Condition>) -> Filter {
    let first = Condition::range("chunk_no", Range { gte: Some(0.0), lte: Some(0.0), ..Range::default() });
    filter(more.into_iter().chain([first]).collect(), vec![])
}

/// All of `must`, and none of `must_not`.
pub(crate) fn filter(must: Vec<Condition>, must_not: Vec<Condition>) -> Filter {
    Filter { must, must_not, ..Filter::default() }
}

pub(crate) fn to_value(value: &Value) -> qdrant_client::qdrant::Value {
    qdrant_client::qdrant::Value::from(value.clone())
}
