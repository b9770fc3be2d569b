//! Collections in memory, with a log of every confirmed change that the next life reads again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use prost::Message;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::{
    ChangeAliases, CollectionConfig, CollectionParams, Condition, CreateCollection,
    CreateFieldIndexCollection, DeletePoints, Filter, Modifier, PointId, PointStruct, QueryPoints,
    UpsertPoints, Vector, alias_operations, condition, point_id, points_selector, query, vector,
    vector_input, vectors, vectors_config,
};
use serde_json::Value;

/// Everything the server has.
pub(crate) struct Memory {
    pub(crate) collections: BTreeMap<String, Collection>,
    pub(crate) aliases: BTreeMap<String, String>,
    log: File,
}

/// One collection; points by id, in the order of the ids.
#[derive(Default)]
pub(crate) struct Collection {
    pub(crate) config: CollectionConfig,
    pub(crate) points: BTreeMap<String, PointStruct>,
    /// Payload fields with an index, and what they hold: a `PayloadSchemaType`.
    pub(crate) indexes: BTreeMap<String, i32>,
}

/// A change, as the log has it: its kind in one byte.
enum Change {
    Create(Box<CreateCollection>),
    Upsert(UpsertPoints),
    Delete(DeletePoints),
    Aliases(ChangeAliases),
    Index(CreateFieldIndexCollection),
}

impl Memory {
    pub(crate) fn open(folder: &Path) -> Memory {
        let path = folder.join("standin.log");
        let mut bytes = Vec::new();
        if path.exists() {
            File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
        }
        let log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let mut memory = Memory { collections: BTreeMap::new(), aliases: BTreeMap::new(), log };
        let mut rest = bytes.as_slice();
        while rest.len() >= 5 {
            let (kind, length) = (rest[0], u32::from_le_bytes(rest[1..5].try_into().unwrap()) as usize);
            // A change that was cut by a kill was never confirmed.
            let Some(body) = rest.get(5..5 + length) else { break };
            memory.apply(match kind {
                0 => Change::Create(Box::new(CreateCollection::decode(body).unwrap())),
                1 => Change::Upsert(UpsertPoints::decode(body).unwrap()),
                2 => Change::Delete(DeletePoints::decode(body).unwrap()),
                3 => Change::Aliases(ChangeAliases::decode(body).unwrap()),
                _ => Change::Index(CreateFieldIndexCollection::decode(body).unwrap()),
            });
            rest = &rest[5 + length..];
        }
        memory
    }

    pub(crate) fn create(&mut self, create: CreateCollection) {
        self.write(0, &create);
        self.apply(Change::Create(Box::new(create)));
    }

    pub(crate) fn upsert(&mut self, upsert: UpsertPoints) {
        self.write(1, &upsert);
        self.apply(Change::Upsert(upsert));
    }

    pub(crate) fn delete(&mut self, delete: DeletePoints) {
        self.write(2, &delete);
        self.apply(Change::Delete(delete));
    }

    pub(crate) fn change_aliases(&mut self, change: ChangeAliases) {
        self.write(3, &change);
        self.apply(Change::Aliases(change));
    }

    pub(crate) fn index(&mut self, index: CreateFieldIndexCollection) {
        self.write(4, &index);
        self.apply(Change::Index(index));
    }

    /// The collection of this name or alias.
    pub(crate) fn find(&self, name: &str) -> Option<&Collection> {
        self.collections.get(self.aliases.get(name).map_or(name, String::as_str))
    }

    fn write(&mut self, kind: u8, message: &impl Message) {
        let body = message.encode_to_vec();
        let mut record = vec![kind];
        record.extend((body.len() as u32).to_le_bytes());
        record.extend(body);
        self.log.write_all(&record).unwrap();
    }

    fn apply(&mut self, change: Change) {
        let aliases = self.aliases.clone();
        let real = |name: String| aliases.get(&name).cloned().unwrap_or(name);
        match change {
            Change::Create(create) => {
                let params = CollectionParams {
                    vectors_config: create.vectors_config,
                    sparse_vectors_config: create.sparse_vectors_config,
                    ..CollectionParams::default()
                };
                let config = CollectionConfig {
                    params: Some(params),
                    metadata: create.metadata,
                    ..CollectionConfig::default()
                };
                self.collections
                    .insert(create.collection_name, Collection { config, ..Collection::default() });
            }
            Change::Upsert(upsert) => {
                let collection = self.collections.get_mut(&real(upsert.collection_name)).unwrap();
                for point in upsert.points {
                    collection.points.insert(id(point.id.as_ref()), scaled(point));
                }
            }
            Change::Delete(delete) => {
                let collection = self.collections.get_mut(&real(delete.collection_name)).unwrap();
                match delete.points.unwrap().points_selector_one_of.unwrap() {
                    points_selector::PointsSelectorOneOf::Points(list) => {
                        for point in list.ids {
                            collection.points.remove(&id(Some(&point)));
                        }
                    }
                    points_selector::PointsSelectorOneOf::Filter(filter) => {
                        collection.points.retain(|_, point| !passes(&filter, point));
                    }
                }
            }
            Change::Index(index) => {
                let collection = self.collections.get_mut(&real(index.collection_name)).unwrap();
                // A `FieldType` is numbered one below its `PayloadSchemaType`, whose 0 is "unknown".
                let holds = index.field_type.map_or(0, |field_type| field_type + 1);
                collection.indexes.insert(index.field_name, holds);
            }
            Change::Aliases(change) => {
                for action in change.actions.into_iter().filter_map(|action| action.action) {
                    match action {
                        alias_operations::Action::CreateAlias(create) => {
                            self.aliases.insert(create.alias_name, create.collection_name);
                        }
                        alias_operations::Action::DeleteAlias(delete) => {
                            self.aliases.remove(&delete.alias_name);
                        }
                        alias_operations::Action::RenameAlias(_) => unreachable!("never asked for"),
                    }
                }
            }
        }
    }
}

pub(crate) fn id(id: Option<&PointId>) -> String {
    match id.and_then(|id| id.point_id_options.as_ref()).expect("an id") {
        point_id::PointIdOptions::Uuid(uuid) => uuid.clone(),
        point_id::PointIdOptions::Num(number) => number.to_string(),
    }
}

/// Vectors of a point by name.
pub(crate) fn named(point: &PointStruct) -> HashMap<String, Vector> {
    match point.vectors.as_ref().and_then(|vectors| vectors.vectors_options.clone()) {
        Some(vectors::VectorsOptions::Vector(only)) => HashMap::from([(String::new(), only)]),
        Some(vectors::VectorsOptions::Vectors(several)) => several.vectors,
        None => HashMap::new(),
    }
}

pub(crate) fn dense(vector: &Vector) -> Option<&[f32]> {
    match &vector.vector {
        Some(vector::Vector::Dense(dense)) => Some(&dense.data),
        _ => None,
    }
}

/// As a server does where vectors are compared by cosine: dense rows get length 1.
fn scaled(mut point: PointStruct) -> PointStruct {
    let mut vectors = named(&point);
    for vector in vectors.values_mut() {
        if let Some(vector::Vector::Dense(dense)) = &mut vector.vector {
            let length = dense.data.iter().map(|x| x * x).sum::<f32>().sqrt();
            if length > 0.0 {
                dense.data.iter_mut().for_each(|x| *x /= length);
            }
        }
    }
    point.vectors = Some(vectors.into());
    point
}

pub(crate) fn passes(filter: &Filter, point: &PointStruct) -> bool {
    filter.must.iter().all(|condition| holds(condition, point))
        && !filter.must_not.iter().any(|condition| holds(condition, point))
        && (filter.should.is_empty() || filter.should.iter().any(|condition| holds(condition, point)))
}

fn holds(condition: &Condition, point: &PointStruct) -> bool {
    match condition.condition_one_of.as_ref().expect("a condition") {
        condition::ConditionOneOf::HasId(ids) => {
            let wanted: HashSet<String> = ids.has_id.iter().map(|wanted| id(Some(wanted))).collect();
            wanted.contains(&id(point.id.as_ref()))
        }
        condition::ConditionOneOf::Filter(filter) => passes(filter, point),
        condition::ConditionOneOf::Field(field) => {
            let value = point.payload.get(&field.key).map_or(Value::Null, |value| Value::from(value.clone()));
            if let Some(range) = &field.range {
                return value.as_f64().is_some_and(|number| {
                    range.gte.is_none_or(|least| number >= least)
                        && range.lte.is_none_or(|most| number <= most)
                });
            }
            let texts: Vec<&str> = match &value {
                Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
                other => other.as_str().into_iter().collect(),
            };
            match field.r#match.as_ref().and_then(|wanted| wanted.match_value.as_ref()).expect("a match") {
                MatchValue::Keyword(word) => texts.contains(&word.as_str()),
                MatchValue::Keywords(words) => {
                    words.strings.iter().any(|word| texts.contains(&word.as_str()))
                }
                other => panic!("the stand-in does not know {other:?}"),
            }
        }
        other => panic!("the stand-in does not know {other:?}"),
    }
}

/// The best points of one ranking.
pub(crate) fn rank(collection: &Collection, asked: &QueryPoints) -> Vec<(f32, PointStruct)> {
    let using = asked.using.clone().unwrap_or_default();
    let filter = asked.filter.clone().unwrap_or_default();
    let nearest = match asked.query.as_ref().and_then(|query| query.variant.as_ref()) {
        Some(query::Variant::Nearest(nearest)) => nearest.variant.clone().expect("a vector"),
        other => panic!("the stand-in does not know {other:?}"),
    };
    let idf = match &nearest {
        vector_input::Variant::Sparse(query) => frequencies(collection, &using, &query.indices),
        _ => HashMap::new(),
    };
    let mut ranked: Vec<(f32, PointStruct)> = collection
        .points
        .values()
        .filter(|point| passes(&filter, point))
        .filter_map(|point| {
            let vector = named(point).remove(&using)?;
            let score = match &nearest {
                vector_input::Variant::Dense(query) => cosine(&query.data, dense(&vector)?),
                vector_input::Variant::Sparse(query) => {
                    let pairs: Vec<(u32, f32)> =
                        query.indices.iter().copied().zip(query.values.iter().copied()).collect();
                    sparse_score(&pairs, &idf, &vector)?
                }
                other => panic!("the stand-in does not know {other:?}"),
            };
            Some((score, point.clone()))
        })
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| id(a.1.id.as_ref()).cmp(&id(b.1.id.as_ref()))));
    ranked.truncate(asked.limit.unwrap_or(10) as usize);
    ranked
}

fn cosine(query: &[f32], row: &[f32]) -> f32 {
    let length = query.iter().map(|x| x * x).sum::<f32>().sqrt();
    query.iter().zip(row).map(|(a, b)| a * b).sum::<f32>() / length
}

fn pairs(vector: &Vector) -> Option<Vec<(u32, f32)>> {
    match &vector.vector {
        Some(vector::Vector::Sparse(sparse)) => {
            Some(sparse.indices.iter().copied().zip(sparse.values.iter().copied()).collect())
        }
        _ => None,
    }
}

/// Sum over common places, each times its factor. `None` without any.
fn sparse_score(query: &[(u32, f32)], factors: &HashMap<u32, f32>, vector: &Vector) -> Option<f32> {
    let row: HashMap<u32, f32> = pairs(vector)?.into_iter().collect();
    let mut score = None;
    for (place, weight) in query {
        let Some(value) = row.get(place) else { continue };
        *score.get_or_insert(0.0) += weight * value * factors[place];
    }
    score
}

/// With the modifier, `ln((N - n + 0.5) / (n + 0.5) + 1)` of each place; 1 without.
fn frequencies(collection: &Collection, using: &str, places: &[u32]) -> HashMap<u32, f32> {
    let sparse = collection.config.params.as_ref().and_then(|params| params.sparse_vectors_config.as_ref());
    let idf = sparse.and_then(|sparse| sparse.map.get(using)?.modifier) == Some(Modifier::Idf as i32);
    let mut with: HashMap<u32, f32> = places.iter().map(|place| (*place, 0.0)).collect();
    for point in collection.points.values() {
        for (place, _) in named(point).get(using).and_then(pairs).unwrap_or_default() {
            with.entry(place).and_modify(|count| *count += 1.0);
        }
    }
    let all = collection.points.len() as f32;
    let factor = |with: f32| if idf { ((all - with + 0.5) / (with + 0.5) + 1.0).ln() } else { 1.0 };
    with.into_iter().map(|(place, with)| (place, factor(with))).collect()
}

/// Size of the dense vector of this name.
pub(crate) fn dim(collection: &Collection, name: &str) -> Option<u64> {
    match collection.config.params.as_ref()?.vectors_config.as_ref()?.config.as_ref()? {
        vectors_config::Config::Params(params) => name.is_empty().then_some(params.size),
        vectors_config::Config::ParamsMap(map) => map.map.get(name).map(|params| params.size),
    }
}
