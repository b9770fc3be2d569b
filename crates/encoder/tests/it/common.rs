//! Where the models of the tests are, and how a text becomes a sequence.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use haul_encoder::device::cpu::CpuDevice;
use haul_encoder::embedder::Embedder;
use haul_encoder::model_dir::ModelDir;
use haul_kernels::isa::Isa;

pub(crate) fn golden_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(crate) fn tiny_dir() -> PathBuf {
    golden_file("tiny-bert")
}

pub(crate) fn tiny() -> ModelDir {
    ModelDir::open(&tiny_dir()).unwrap()
}

/// The real model, where `HAUL_TEST_MINILM` says it is. Without it the test is skipped, aloud; on CI it fails.
#[expect(clippy::disallowed_methods, reason = "a test has no settings; this says where the model is")]
pub(crate) fn minilm_dir() -> Option<PathBuf> {
    let dir = std::env::var_os("HAUL_TEST_MINILM").map(PathBuf::from);
    if dir.is_none() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI runs without HAUL_TEST_MINILM");
        println!("skipped: HAUL_TEST_MINILM does not say where all-MiniLM-L6-v2 is");
    }
    dir
}

pub(crate) fn cpu(isa: Isa, threads: usize) -> CpuDevice {
    CpuDevice::new(isa, NonZeroUsize::new(threads).unwrap())
}

/// The ids of a text as sentence-transformers would feed them, cut to what the model reads.
pub(crate) fn sequence(model: &ModelDir, text: &str) -> Vec<u32> {
    let ids = model.tokenizer.encode(&model.prepare(text)).unwrap().ids;
    model.tokenizer.frame(&ids[..ids.len().min(model.max_tokens - model.tokenizer.special_tokens())])
}

/// All rows of all sequences, by batches of `batch_sequences`, with as many in flight as the device likes.
pub(crate) fn embed(embedder: &Embedder, sequences: &[Vec<u32>], batch_sequences: usize) -> Vec<Vec<f32>> {
    let mut tickets = std::collections::VecDeque::new();
    let mut rows = vec![];
    let mut collect = |ticket| {
        rows.extend(embedder.collect(ticket).unwrap().iter().map(<[f32]>::to_vec));
    };
    for batch in sequences.chunks(batch_sequences) {
        if tickets.len() == embedder.batches_in_flight() {
            collect(tickets.pop_front().unwrap());
        }
        tickets.push_back(embedder.submit(batch).unwrap());
    }
    tickets.into_iter().for_each(collect);
    rows
}
