//! The sparse and ColBERT heads of bge-m3: FlagEmbedding's formulas, every batch, the longest sequence, refusals.

use haul_encoder::device::{Device, Outputs, SparseVector};
use haul_encoder::embedder::{Embedder, LoadError, LoadOptions};
use haul_encoder::model::Head;
use haul_encoder::model_dir::ModelDir;
use haul_encoder::weights::WeightsError;
use haul_kernels::isa::Isa;
use serde_json::json;

use crate::common::{Copy, cpu, golden_file};
use crate::families::{FamilyText, family_golden};
use crate::golden::{TINY_DIFFERENCE_MAX, assert_close, devices};

fn model() -> ModelDir {
    ModelDir::open(&golden_file("tiny-xlmr")).unwrap()
}

fn load(model: &ModelDir, device: &dyn Device, heads: &[Head]) -> Result<Embedder, LoadError> {
    Embedder::load_with(model, device, &LoadOptions { heads: heads.to_vec(), dim: None })
}

fn all_outputs(embedder: &Embedder, sequences: &[Vec<u32>]) -> Outputs {
    embedder.collect_all(embedder.submit(sequences).unwrap()).unwrap()
}

fn assert_sparse(what: &str, vector: &SparseVector, expected: &[(u32, f32)]) {
    // A weight that is as good as zero may fall on either side of it.
    let near_zero = |weight: f32| weight < 1e-5;
    let ours = vector.ids.iter().zip(&vector.weights).filter(|&(_, &weight)| !near_zero(weight));
    let theirs = expected.iter().filter(|&&(_, weight)| !near_zero(weight));
    assert!(ours.clone().map(|(id, _)| id).eq(theirs.clone().map(|(id, _)| id)), "{what}: {vector:?}");
    for ((id, ours), (_, theirs)) in ours.zip(theirs) {
        assert!((ours - theirs).abs() <= 1e-4, "{what}: token {id} weighs {ours}, not {theirs}");
    }
}

#[test]
fn heads_are_those_of_flagembedding() {
    let golden = family_golden("tiny-xlmr");
    let ids: Vec<Vec<u32>> = golden.texts.iter().map(|entry| entry.ids.clone()).collect();
    for device in devices() {
        let embedder = load(&model(), device.as_ref(), &Head::ALL).unwrap();
        let outputs = all_outputs(&embedder, &ids);
        let (sparse, colbert) = (outputs.sparse.unwrap(), outputs.colbert.unwrap());
        assert_eq!((sparse.len(), colbert.len()), (ids.len(), ids.len()));
        for (row, entry) in golden.texts.iter().enumerate() {
            let FamilyText { what, ids, sparse: weights, colbert: rows, .. } = entry;
            assert_sparse(what, &sparse[row], weights);
            assert!(
                sparse[row].ids.is_sorted_by(|a, b| a < b) && sparse[row].weights.iter().all(|&w| w > 0.0)
            );
            assert_eq!((colbert[row].rows(), colbert[row].dim()), (ids.len() - 1, 24), "{what}");
            for (token, expected) in rows.iter().enumerate() {
                let what = format!("{} {what}, token {token}", device.name());
                assert_close(&what, colbert[row].row(token), expected, TINY_DIFFERENCE_MAX);
            }
        }
    }
}

/// To the bit, for every output: alone, in batches, and whatever other heads run.
#[test]
fn outputs_do_not_know_their_batch() {
    let sequences: Vec<Vec<u32>> = [1usize, 2, 48, 16, 1, 17, 33, 5]
        .iter()
        .enumerate()
        .map(|(row, &n)| (0..n).map(|at| ((row * 7919 + at * 104_729) % 250) as u32).collect())
        .collect();
    for isa in Isa::available() {
        let embedder = load(&model(), &cpu(isa, 2), &Head::ALL).unwrap();
        let together = all_outputs(&embedder, &sequences);
        let (sparse, colbert) = (together.sparse.unwrap(), together.colbert.unwrap());
        let only = |head| all_outputs(&load(&model(), &cpu(isa, 1), &[head]).unwrap(), &sequences);
        assert_eq!(only(Head::Sparse).sparse.as_ref(), Some(&sparse));
        assert_eq!(only(Head::Colbert).colbert.as_ref(), Some(&colbert));
        let dense = load(&model(), &cpu(isa, 1), &[]).unwrap();
        assert_eq!(dense.collect(dense.submit(&sequences).unwrap()).unwrap(), together.dense);
        for (row, sequence) in sequences.iter().enumerate() {
            let alone = all_outputs(&embedder, std::slice::from_ref(sequence));
            assert_eq!(alone.dense.row(0), together.dense.row(row));
            assert_eq!(alone.sparse.unwrap()[0], sparse[row]);
            assert_eq!(alone.colbert.unwrap()[0], colbert[row]);
        }
        // A sequence of one token has nothing beside its first.
        assert_eq!((colbert[0].rows(), sparse[0].ids.len()), (0, 0));
    }
}

/// All that bge-m3 reads at once; the tiny position table over and over.
#[test]
fn the_longest_sequence_is_that_of_transformers() {
    let long = family_golden("tiny-xlmr").long.unwrap();
    let table = "embeddings.position_embeddings.weight";
    let copy = Copy::of("tiny-xlmr")
        .set("config.json", "max_position_embeddings", (long.tokens + 2).into())
        .set("sentence_bert_config.json", "max_seq_length", long.tokens.into())
        .edit_safetensors(|header, data| {
            let offset = |at: usize| header[table]["data_offsets"][at].as_u64().unwrap() as usize;
            let tiled: Vec<u8> =
                data[offset(0)..offset(1)].iter().copied().cycle().take((long.tokens + 2) * 32 * 2).collect();
            // The old table stays in its place under another name.
            let old = header.remove(table).unwrap();
            header.insert("old".into(), old);
            let (begin, end) = (data.len(), data.len() + tiled.len());
            data.extend(tiled);
            let entry = json!({"dtype": "F16", "shape": [long.tokens + 2, 32], "data_offsets": [begin, end]});
            header.insert(table.into(), entry);
        });
    let model = copy.open().unwrap();
    assert_eq!((model.max_tokens, model.config.max_tokens), (8192, 8192));
    let middle = (0..long.tokens - 2).map(|i| 4 + (i * 7919 % 246) as u32);
    let ids: Vec<u32> = [0].into_iter().chain(middle).chain([2]).collect();
    let embedder = load(&model, &cpu(Isa::best(), 1), &Head::ALL).unwrap();
    let outputs = all_outputs(&embedder, &[vec![0, 9, 2], ids]);
    assert_close("dense", outputs.dense.row(1), &long.cls_normalized, TINY_DIFFERENCE_MAX);
    let sparse = &outputs.sparse.unwrap()[1];
    let first = SparseVector { ids: sparse.ids[..20].to_vec(), weights: sparse.weights[..20].to_vec() };
    assert_sparse("sparse", &first, &long.sparse);
    let tokens = &outputs.colbert.unwrap()[1];
    assert_eq!(tokens.rows(), long.tokens - 1);
    assert_close("colbert", tokens.row(long.tokens - 2), &long.last_colbert, TINY_DIFFERENCE_MAX);
}

#[test]
fn a_head_that_is_not_there_is_refused() {
    let copy = Copy::of("tiny-xlmr").without("sparse_linear.pt");
    let model = copy.open().unwrap();
    let device = cpu(Isa::best(), 1);
    assert!(load(&model, &device, &[Head::Colbert]).is_ok());
    let refused = load(&model, &device, &Head::ALL).err().unwrap();
    assert!(matches!(refused, LoadError::NoHead { head: Head::Sparse, .. }), "{refused}");
    assert!(refused.to_string().ends_with("the sparse head is missing: there is no sparse_linear.pt"));
}

/// The heads must fit the model, whatever their file says.
#[test]
fn a_head_of_another_model_is_refused() {
    let copy = Copy::of("tiny-xlmr");
    std::fs::copy(copy.path().join("colbert_linear.pt"), copy.path().join("sparse_linear.pt")).unwrap();
    let refused = load(&copy.open().unwrap(), &cpu(Isa::best(), 1), &[Head::Sparse]).err().unwrap();
    let LoadError::Device(haul_encoder::device::DeviceError::Weights(WeightsError::Shape {
        path,
        found,
        expected,
        ..
    })) = refused
    else {
        panic!("{refused}");
    };
    assert!(path.ends_with("sparse_linear.pt"), "{}", path.display());
    assert_eq!((found, expected), (vec![24, 32], vec![1, 32]));
}
