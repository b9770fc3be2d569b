//! Where the models of the tests are, and how a text becomes a sequence.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use haul_encoder::device::cpu::CpuDevice;
use haul_encoder::embedder::Embedder;
use haul_encoder::model_dir::{ModelDir, ModelError};
use haul_kernels::dtype::Dtype;
use haul_kernels::isa::Isa;
use serde_json::{Map, Value};
use tempfile::TempDir;

pub(crate) fn golden_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(crate) fn tiny_dir() -> PathBuf {
    golden_file("tiny-bert")
}

pub(crate) fn tiny() -> ModelDir {
    ModelDir::open(&tiny_dir()).unwrap()
}

/// A copy of a golden model that a test may spoil.
pub(crate) struct Copy(TempDir);

impl Copy {
    pub(crate) fn new() -> Copy {
        Copy::of("tiny-bert")
    }

    pub(crate) fn of(model: &str) -> Copy {
        let copy = Copy(tempfile::tempdir().unwrap());
        copy_files(&golden_file(model), copy.path());
        copy
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn edit(self, name: &str, edit: impl FnOnce(&mut Value)) -> Copy {
        let path = self.path().join(name);
        let mut json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(&mut json);
        std::fs::write(path, json.to_string()).unwrap();
        self
    }

    pub(crate) fn set(self, name: &str, key: &str, value: Value) -> Copy {
        self.edit(name, |json| json[key] = value)
    }

    pub(crate) fn edit_safetensors(self, edit: impl FnOnce(&mut Map<String, Value>, &mut Vec<u8>)) -> Copy {
        let path = self.path().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let header_bytes = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let (header, data) = bytes[8..].split_at(header_bytes);
        let (mut header, mut data) = (serde_json::from_slice(header).unwrap(), data.to_vec());
        edit(&mut header, &mut data);
        let header = Value::from(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(&path, [&length, header.as_bytes(), &data].concat()).unwrap();
        self
    }

    pub(crate) fn without(self, name: &str) -> Copy {
        std::fs::remove_file(self.path().join(name)).unwrap();
        self
    }

    pub(crate) fn open(&self) -> Result<ModelDir, ModelError> {
        ModelDir::open(self.path())
    }

    pub(crate) fn refusal(&self) -> String {
        self.open().map(|_| ()).unwrap_err().to_string()
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir(&copy).unwrap();
            copy_files(&path, &copy);
        } else {
            std::fs::copy(&path, &copy).unwrap();
        }
    }
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
    cpu_in(isa, Dtype::F32, threads)
}

pub(crate) fn cpu_in(isa: Isa, dtype: Dtype, threads: usize) -> CpuDevice {
    CpuDevice::new(isa, dtype, NonZeroUsize::new(threads).unwrap())
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
