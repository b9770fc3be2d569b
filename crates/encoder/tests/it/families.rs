//! XLM-RoBERTa and ModernBERT against `transformers`; `tests/golden/make_family_goldens.py` made the numbers.

use std::collections::BTreeMap;

use haul_encoder::embedder::{Embedder, LoadError, LoadOptions};
use haul_encoder::model_dir::ModelDir;
use haul_encoder::pooling::{PoolMode, Pooling};
use haul_kernels::isa::Isa;
use serde::Deserialize;
use serde_json::Value;

use crate::common::{Copy, cpu, embed, golden_file, sequence};
use crate::golden::{TINY_DIFFERENCE_MAX, assert_close, devices};

#[derive(Deserialize)]
pub(crate) struct FamilyGolden {
    pub(crate) max_tokens: usize,
    pub(crate) texts: Vec<FamilyText>,
    pub(crate) long: Option<Long>,
    newer: Option<Value>,
}

#[derive(Deserialize)]
pub(crate) struct FamilyText {
    pub(crate) what: String,
    text: String,
    tokens: usize,
    pub(crate) ids: Vec<u32>,
    pooled: BTreeMap<String, Vec<f32>>,
    #[serde(default)]
    pooled_with_biases: BTreeMap<String, Vec<f32>>,
    #[serde(default)]
    pub(crate) sparse: Vec<(u32, f32)>,
    #[serde(default)]
    pub(crate) colbert: Vec<Vec<f32>>,
    #[serde(default)]
    matryoshka_10: Vec<f32>,
}

#[derive(Deserialize)]
pub(crate) struct Long {
    pub(crate) tokens: usize,
    pub(crate) cls_normalized: Vec<f32>,
    pub(crate) sparse: Vec<(u32, f32)>,
    pub(crate) last_colbert: Vec<f32>,
}

pub(crate) fn family_golden(model: &str) -> FamilyGolden {
    let path = golden_file(&format!("{model}-golden.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn open(model: &str) -> ModelDir {
    ModelDir::open(&golden_file(model)).unwrap()
}

#[test]
fn tokens_are_those_of_transformers() {
    for name in ["tiny-xlmr", "tiny-modernbert"] {
        let (model, golden) = (open(name), family_golden(name));
        assert_eq!(model.max_tokens, golden.max_tokens);
        for entry in &golden.texts {
            let all = model.tokenizer.encode(&model.prepare(&entry.text)).unwrap().ids;
            assert_eq!(all.len() + model.tokenizer.special_tokens(), entry.tokens, "{}", entry.what);
            assert_eq!(sequence(&model, &entry.text), entry.ids, "{}", entry.what);
        }
    }
}

#[test]
fn vectors_are_those_of_transformers() {
    for name in ["tiny-xlmr", "tiny-modernbert"] {
        let golden = family_golden(name);
        let ids: Vec<_> = golden.texts.iter().map(|entry| entry.ids.clone()).collect();
        for device in devices() {
            for key in golden.texts[0].pooled.keys() {
                let mut model = open(name);
                let mode = PoolMode::from_name(key.trim_end_matches("_normalized")).unwrap();
                model.pooling = Pooling { modes: vec![mode] };
                model.normalize = key.ends_with("_normalized");
                let embedder = Embedder::load(&model, device.as_ref()).unwrap();
                for (entry, row) in golden.texts.iter().zip(embed(&embedder, &ids, 4)) {
                    let what = format!("{name} on {} {key} {}", device.name(), entry.what);
                    assert_close(&what, &row, &entry.pooled[key], difference_max(key));
                }
            }
        }
    }
}

/// Rows that are not normalised are up to ten times as long.
fn difference_max(key: &str) -> f64 {
    if key.ends_with("_normalized") { TINY_DIFFERENCE_MAX } else { 10.0 * TINY_DIFFERENCE_MAX }
}

/// Without biases, as the configuration says, the file's biases have no part; with them they have.
#[test]
fn modernbert_has_the_biases_that_its_configuration_says() {
    let golden = family_golden("tiny-modernbert");
    let ids: Vec<_> = golden.texts.iter().map(|entry| entry.ids.clone()).collect();
    let copy = ["norm_bias", "attention_bias", "mlp_bias"]
        .into_iter()
        .fold(Copy::of("tiny-modernbert"), |copy, key| copy.set("config.json", key, true.into()));
    for device in devices() {
        let embedder = Embedder::load(&copy.open().unwrap(), device.as_ref()).unwrap();
        for (entry, row) in golden.texts.iter().zip(embed(&embedder, &ids, 5)) {
            let expected = &entry.pooled_with_biases["mean_normalized"];
            assert_close(&entry.what, &row, expected, TINY_DIFFERENCE_MAX);
        }
    }
}

/// `transformers` 5 writes layers and angles in other words, and then without the old ones.
#[test]
fn modernbert_reads_both_spellings() {
    let newer = family_golden("tiny-modernbert").newer.unwrap();
    let copy = Copy::of("tiny-modernbert").edit("config.json", |json| {
        let json = json.as_object_mut().unwrap();
        for old in ["global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"] {
            json.remove(old).unwrap();
        }
        json.extend(newer.as_object().unwrap().clone());
    });
    assert_eq!(copy.open().unwrap().config, open("tiny-modernbert").config);
    // Without either, the defaults of transformers; a local theta of null is the global one.
    let thetas = |copy: Copy| match copy.open().unwrap().config.architecture {
        haul_encoder::model::Architecture::ModernBert(modern) => {
            modern.attention.iter().map(|a| a.theta).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let bare = |copy: Copy| {
        copy.edit("config.json", |json| {
            let json = json.as_object_mut().unwrap();
            json.remove("global_rope_theta").unwrap();
            json.remove("local_rope_theta");
        })
    };
    assert_eq!(thetas(bare(Copy::of("tiny-modernbert"))), [160_000.0, 10_000.0, 10_000.0, 160_000.0]);
    let null = Copy::of("tiny-modernbert").set("config.json", "local_rope_theta", Value::Null);
    assert_eq!(thetas(null), [1000.0; 4]);
}

/// The rows are cut first and divided by the length of what is left.
#[test]
fn fewer_columns_are_cut_before_the_norm() {
    let golden = family_golden("tiny-xlmr");
    let ids: Vec<_> = golden.texts.iter().map(|entry| entry.ids.clone()).collect();
    let options = |dim| LoadOptions { dim: Some(dim), ..LoadOptions::default() };
    for device in devices() {
        let embedder = Embedder::load_with(&open("tiny-xlmr"), device.as_ref(), &options(10)).unwrap();
        assert_eq!(embedder.dim(), 10);
        for (entry, row) in golden.texts.iter().zip(embed(&embedder, &ids, 3)) {
            assert_close(&entry.what, &row, &entry.matryoshka_10, TINY_DIFFERENCE_MAX);
        }
        let whole = Embedder::load_with(&open("tiny-xlmr"), device.as_ref(), &options(32)).unwrap();
        let plain = Embedder::load(&open("tiny-xlmr"), device.as_ref()).unwrap();
        assert_eq!(embed(&whole, &ids, 3), embed(&plain, &ids, 3));
    }
    for dim in [0, 33] {
        let refused = Embedder::load_with(&open("tiny-xlmr"), &cpu(Isa::best(), 1), &options(dim)).err();
        assert!(matches!(refused, Some(LoadError::Dim { dim: d, model_dim: 32 }) if d == dim));
    }
}

#[test]
fn flops_count_windows_and_gates() {
    let embedder = Embedder::load(&open("tiny-modernbert"), &cpu(Isa::best(), 1)).unwrap();
    // Four layers of d 32 and feed-forward 40; per pair of tokens 4 * d. In a window of 8 on each side, 20 tokens
    // see 17 each, less what the ends cut off: 8 + 7 + .. + 1 on each side.
    let products = 4 * 2 * 20 * (32 * 96 + 32 * 32 + 32 * 80 + 40 * 32);
    let (all, seen) = (20 * 20, 20 * 17 - 2 * 36);
    assert_eq!(embedder.flops(&[20]), products + 4 * 32 * (2 * all + 2 * seen));
}
