//! Against `transformers` and sentence-transformers; `tests/golden/make_goldens.py` made the numbers.

use std::collections::BTreeMap;

use haul_encoder::device::Device;
use haul_encoder::device::reference::ReferenceDevice;
use haul_encoder::embedder::Embedder;
use haul_encoder::model_dir::ModelDir;
use haul_encoder::pooling::{PoolMode, Pooling};
use haul_kernels::dtype::Dtype;
use haul_kernels::isa::Isa;
use serde::Deserialize;

use crate::common::{Copy, cpu, cpu_in, embed, golden_file, minilm_dir, sequence, tiny};

const COSINE_MIN: f64 = 0.99999;
const DIFFERENCE_MAX: f64 = 1e-4;
/// The mildest mistake in a tiny model, tanh for erf GELU, moves a normalised vector by 1.4e-4.
pub(crate) const TINY_DIFFERENCE_MAX: f64 = 1e-5;

#[derive(Deserialize)]
struct Golden {
    max_tokens: usize,
    texts: Vec<GoldenText>,
}

#[derive(Deserialize)]
struct GoldenText {
    what: String,
    text: String,
    tokens: usize,
    ids: Vec<u32>,
    pooled: BTreeMap<String, Vec<f32>>,
}

fn golden() -> Golden {
    serde_json::from_slice(&std::fs::read(golden_file("tiny-bert-golden.json")).unwrap()).unwrap()
}

pub(crate) fn devices() -> Vec<Box<dyn Device>> {
    let mut devices: Vec<Box<dyn Device>> = vec![Box::new(ReferenceDevice)];
    devices.extend(Isa::available().into_iter().map(|isa| Box::new(cpu(isa, 1)) as Box<dyn Device>));
    devices
}

pub(crate) fn assert_close(what: &str, row: &[f32], expected: &[f32], difference_max: f64) {
    assert_eq!(row.len(), expected.len(), "{what}");
    let cosine = cosine(row, expected);
    let difference = row.iter().zip(expected).map(|(&a, &b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    assert!(
        cosine >= COSINE_MIN && difference <= difference_max,
        "{what}: cosine {cosine}, largest difference {difference:.1e}"
    );
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn tiny_tokens_are_those_of_transformers() {
    let (model, golden) = (tiny(), golden());
    assert_eq!(model.max_tokens, golden.max_tokens);
    for entry in &golden.texts {
        let all = model.tokenizer.encode(&model.prepare(&entry.text)).unwrap().ids;
        assert_eq!(all.len() + model.tokenizer.special_tokens(), entry.tokens, "{}", entry.what);
        assert_eq!(sequence(&model, &entry.text), entry.ids, "{}", entry.what);
    }
}

#[test]
fn tiny_vectors_are_those_of_transformers_in_every_pooling() {
    let golden = golden();
    let ids: Vec<_> = golden.texts.iter().map(|entry| entry.ids.clone()).collect();
    for (device, mode) in devices().iter().flat_map(|device| {
        [PoolMode::Mean, PoolMode::Cls, PoolMode::Max, PoolMode::LastToken].map(|mode| (device, mode))
    }) {
        for (normalize, suffix) in [(false, ""), (true, "_normalized")] {
            let mut model = tiny();
            model.pooling = Pooling { modes: vec![mode] };
            model.normalize = normalize;
            let embedder = Embedder::load(&model, device.as_ref()).unwrap();
            let key = format!("{}{suffix}", mode.name());
            for (entry, row) in golden.texts.iter().zip(embed(&embedder, &ids, 5)) {
                assert_close(
                    &format!("{} {key} {}", device.name(), entry.what),
                    &row,
                    &entry.pooled[&key],
                    TINY_DIFFERENCE_MAX,
                );
            }
        }
    }
}

#[test]
fn several_poolings_stand_side_by_side() {
    let golden = golden();
    let mut model = tiny();
    model.pooling = Pooling { modes: vec![PoolMode::Cls, PoolMode::Max, PoolMode::Mean] };
    model.normalize = false;
    assert_eq!(model.dim(), 96);
    for device in devices() {
        let embedder = Embedder::load(&model, device.as_ref()).unwrap();
        let ids: Vec<_> = golden.texts.iter().map(|entry| entry.ids.clone()).collect();
        for (entry, row) in golden.texts.iter().zip(embed(&embedder, &ids, 3)) {
            let expected = ["cls", "max", "mean"].map(|mode| &entry.pooled[mode][..]).concat();
            assert_close(&entry.what, &row, &expected, TINY_DIFFERENCE_MAX);
        }
    }
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// The golden texts as sequences, and the vectors of sentence-transformers in f32.
fn minilm_golden(model: &ModelDir) -> (Vec<Vec<u32>>, Vec<f32>) {
    assert_eq!((model.max_tokens, model.dim(), model.normalize), (256, 384, true));
    let texts = std::fs::read_to_string(golden_file("minilm-texts.jsonl")).unwrap();
    let sequences: Vec<_> = texts
        .lines()
        .map(|line| sequence(model, &serde_json::from_str::<Line>(line).unwrap().text))
        .collect();
    let expected = read_npy("minilm-vectors.npy");
    assert_eq!(expected.len(), sequences.len() * model.dim());
    (sequences, expected)
}

#[test]
fn minilm_vectors_are_those_of_sentence_transformers() {
    let Some(dir) = minilm_dir() else { return };
    let model = ModelDir::open(&dir).unwrap();
    let (sequences, expected) = minilm_golden(&model);
    let embedder = Embedder::load(&model, &cpu(Isa::best(), 2)).unwrap();
    let rows = embed(&embedder, &sequences, 16);
    for (number, (row, expected)) in rows.iter().zip(expected.chunks_exact(model.dim())).enumerate() {
        assert_close(&format!("line {}", number + 1), row, expected, DIFFERENCE_MAX);
    }
}

/// Texts of the golden set that every instruction set embeds; the fastest embeds all.
const TEXTS_OF_EVERY_ISA: usize = 8;

/// What DESIGN.md promises of each mode against f32: the least cosine of any row, and the least mean.
fn promised(dtype: Dtype) -> (f64, f64) {
    match dtype {
        Dtype::F32 => (COSINE_MIN, COSINE_MIN),
        Dtype::Int16 | Dtype::Bf16 => (0.999, 0.999),
        Dtype::Int8 => (0.98, 0.994),
    }
}

#[test]
fn minilm_vectors_keep_what_every_dtype_promises() {
    let Some(dir) = minilm_dir() else { return };
    let model = ModelDir::open(&dir).unwrap();
    let (sequences, expected) = minilm_golden(&model);
    for (isa, dtype) in Isa::available().into_iter().flat_map(|isa| Dtype::ALL.map(|dtype| (isa, dtype))) {
        let count = if isa == Isa::best() { sequences.len() } else { TEXTS_OF_EVERY_ISA };
        let embedder = Embedder::load(&model, &cpu_in(isa, dtype, 2)).unwrap();
        let rows = embed(&embedder, &sequences[..count], 8);
        let cosines: Vec<f64> =
            rows.iter().zip(expected.chunks_exact(model.dim())).map(|(row, e)| cosine(row, e)).collect();
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        let least = cosines.iter().copied().fold(1.0, f64::min);
        println!("{} {dtype}: cosine mean {mean:.6}, least {least:.6} of {count} texts", isa.name());
        let (least_promised, mean_promised) = promised(dtype);
        assert!(least >= least_promised && mean >= mean_promised, "{} {dtype}: {mean} {least}", isa.name());
    }
}

/// A config.json that claims a huge word table once made every mode but f32 reserve memory for it, which aborts.
#[test]
fn a_word_table_that_is_not_there_is_refused_in_every_dtype() {
    for dtype in Dtype::ALL {
        let copy = Copy::new().set("config.json", "vocab_size", (1 << 24).into());
        let model = copy.open().unwrap();
        let Err(error) = Embedder::load(&model, &cpu_in(Isa::best(), dtype, 1)) else {
            panic!("{dtype}: a table of 2^24 rows was loaded");
        };
        assert!(error.to_string().contains("config.json says [16777216, 32]"), "{dtype}: {error}");
    }
}

/// The values of a little-endian f32 array in numpy's format 1.0.
fn read_npy(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(golden_file(name)).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header_bytes = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + header_bytes]).unwrap();
    assert!(header.contains("'descr': '<f4'") && header.contains("'fortran_order': False"), "{header}");
    bytes[10 + header_bytes..].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
