//! GGUF files, sound and made to harm. Each of the harmful ones took some program down once; none gets past the header
//! check, within a second each, and what is allocated is bounded by the size of the file.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use haul_generate::gguf::{Fault, Gguf, GgufError};
use proptest::prelude::*;

/// Writes the format piece by piece; every number can be wrong.
#[derive(Clone)]
struct Writer(Vec<u8>);

impl Writer {
    fn new(tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(keys)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn key(self, name: &str, kind: u32) -> Self {
        self.text(name).u32(kind)
    }

    fn number(self, name: &str, number: u32) -> Self {
        self.key(name, 4).u32(number)
    }

    fn tensor(self, name: &str, sizes: &[u64], kind: u32, offset: u64) -> Self {
        let mut writer = self.text(name).u32(sizes.len() as u32);
        for size in sizes {
            writer = writer.u64(*size);
        }
        writer.u32(kind).u64(offset)
    }

    /// Up to where tensors begin, and so many bytes of them.
    fn data(mut self, bytes: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + bytes, 7);
        self.0
    }
}

const KEYS: u64 = 6;

/// The keys that every file here has.
fn keys(extra: u64, tensors: u64) -> Writer {
    Writer::new(tensors, KEYS + extra)
        .key("general.architecture", 8)
        .text("llama")
        .number("llama.block_count", 2)
        .number("llama.embedding_length", 64)
        .number("llama.attention.head_count", 2)
        .number("llama.attention.head_count_kv", 1)
        .number("llama.context_length", 512)
}

fn sound() -> Vec<u8> {
    keys(1, 2)
        .key("tokenizer.ggml.tokens", 9)
        .u32(8)
        .u64(3)
        .text("a")
        .text("<0x0A>")
        .text("b")
        .tensor("token_embd.weight", &[64, 4], 0, 0)
        .tensor("output.weight", &[64, 4], 8, 1024)
        .data(1024 + 8 * 34)
}

fn read(bytes: &[u8]) -> Result<Gguf, GgufError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    let start = Instant::now();
    let read = Gguf::read(&path);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    read
}

fn fault(bytes: &[u8]) -> Fault {
    match read(bytes) {
        Err(GgufError::Unsound { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sound_file_is_read() {
    let gguf = read(&sound()).unwrap();
    assert_eq!((gguf.architecture.as_str(), gguf.layers, gguf.vocabulary), ("llama", 2, 3));
    assert_eq!((gguf.parameters, gguf.tensor_bytes), (512, 1024 + 8 * 34));
    assert_eq!(gguf.quantisation, "f32", "the type of most bytes, where the file does not say");
    assert_eq!((gguf.kv_width, gguf.head_size), ((64, 64), (32, 32)), "one head of 32 in each of two layers");
    // Two bytes a number for K and V, and 34 for each 32.
    assert_eq!(gguf.kv_bytes(10, "f16", "f16").unwrap(), 10 * 64 * 2 * 2);
    assert_eq!(gguf.kv_bytes(10, "q8_0", "f16").unwrap(), 10 * (2 * 34 + 64 * 2));
    assert!(matches!(gguf.kv_bytes(10, "q3", "f16"), Err(GgufError::KvType { .. })));
}

/// Files of Mamba and RWKV say that they have no heads: they keep a state, and no cache.
#[test]
fn a_model_without_attention_has_no_cache() {
    let bytes = Writer::new(1, 5)
        .key("general.architecture", 8)
        .text("mamba")
        .number("mamba.block_count", 2)
        .number("mamba.embedding_length", 64)
        .number("mamba.attention.head_count", 0)
        .number("mamba.context_length", 512)
        .tensor("token_embd.weight", &[64, 4], 0, 0)
        .data(1024);
    let gguf = read(&bytes).unwrap();
    assert_eq!(gguf.kv_width, (0, 0));
    assert_eq!(gguf.kv_bytes(4096, "f16", "q8_0").unwrap(), 0);
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let whole = sound();
    for end in 0..whole.len() {
        read(&whole[..end]).expect_err(&format!("cut at {end} of {}", whole.len()));
    }
}

#[test]
fn the_tiny_models_are_what_their_page_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny-llm");
    let gguf = Gguf::read(&folder.join("tiny-q4_k_m.gguf")).unwrap();
    assert_eq!((gguf.layers, gguf.embedding, gguf.vocabulary), (6, 256, 3840));
    assert_eq!((gguf.context_train, gguf.head_size), (1024, (32, 32)));
    assert_eq!(gguf.quantisation, "q4_k_m");
    assert!(gguf.has_chat_template);
    // 2 x 6 layers x 256 numbers of 2 bytes for 4,096 cells are 24 MiB.
    assert_eq!(gguf.kv_bytes(4096, "f16", "f16").unwrap(), 24 << 20);
}

#[test]
fn a_model_that_is_too_large_is_refused_with_the_sum() {
    let gguf = Gguf { tensor_bytes: 5 << 30, ..read(&sound()).unwrap() };
    let error = gguf.fits(4 << 30, 1 << 20, "f16", "f16").unwrap_err().to_string();
    assert_eq!(
        error,
        "5.00 GiB for weights + 0.25 GiB for a KV cache of 1048576 cells (f16/f16) + 0.50 GiB for computing = 5.75 GiB, and 4.00 GiB are free"
    );
    assert!(gguf.fits(6 << 30, 1 << 20, "f16", "f16").is_ok());
}

/// Files made to harm, by the name of the fault.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn no_hostile_file_gets_past_the_check() {
    let two_to = |power: u32| 1_u64 << power;
    let list = |kind: u32, count: u64| keys(1, 0).key("a", 9).u32(kind).u64(count).data(64);
    let tensor =
        |sizes: &[u64], kind: u32, offset: u64| keys(0, 1).tensor("t", sizes, kind, offset).data(4096);
    let aligned = |kind: u32, bytes: &[u8]| {
        keys(1, 1).key("general.alignment", kind).bytes(bytes).tensor("t", &[4], 0, 0).data(64)
    };
    let mut nested = keys(1, 0).key("a", 9);
    for _ in 0..100_000 {
        nested = nested.u32(9).u64(1);
    }
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("Ends", b"GGU".to_vec()),
        ("Magic", b"GGML\x03\0\0\0".to_vec()),
        ("Ends", b"GGUF".to_vec()),
        ("Version", b"GGUF\x01\0\0\0".to_vec()),
        ("Version", b"GGUF\0\0\0\x03".to_vec()),
        ("Count", Writer::new(0, 500_000_000).0),
        ("Count", Writer::new(0, two_to(63)).0),
        ("Count", Writer::new(two_to(32), 0).0),
        ("Count", Writer::new(u64::MAX, 0).0),
        ("Count", Writer::new(0, 1).u64(two_to(62)).data(64)),
        ("Count", Writer::new(0, 1).key("a", 8).u64(two_to(40)).data(64)),
        ("Count", list(4, two_to(61))),
        ("Count", list(4, two_to(32))),
        ("Count", list(8, two_to(60))),
        ("Count", list(9, two_to(60))),
        ("Type", list(13, 1)),
        ("Type", keys(1, 0).key("a", 77).data(64)),
        ("Key", nested.data(64)),
        ("Twice", keys(2, 0).number("a", 1).number("a", 2).data(0)),
        ("Twice", keys(0, 2).tensor("t", &[4], 0, 0).tensor("t", &[4], 0, 32).data(64)),
        ("Key", aligned(4, &0_u32.to_le_bytes())),
        ("Key", aligned(4, &0x8000_0000_u32.to_le_bytes())),
        ("Key", aligned(4, &48_u32.to_le_bytes())),
        ("Key", aligned(5, &(-32_i32).to_le_bytes())),
        ("Key", aligned(6, &32_f32.to_le_bytes())),
        ("Tensor", tensor(&[two_to(42) + 1, 1], 0, 0)),
        // Products that wrap to 0 and to 4.
        ("Tensor", tensor(&[two_to(31), two_to(31), 4], 0, 0)),
        ("Tensor", tensor(&[two_to(32), two_to(32)], 0, 0)),
        ("Tensor", tensor(&[two_to(30) + 1, two_to(30), two_to(4)], 0, 0)),
        ("Tensor", tensor(&[0, 4], 0, 0)),
        ("Tensor", tensor(&[], 0, 0)),
        ("Tensor", tensor(&[1, 1, 1, 1, 1], 0, 0)),
        ("Tensor", tensor(&[4], 0, 8192)),
        ("Tensor", tensor(&[4], 0, u64::MAX - 31)),
        ("Tensor", tensor(&[4], 0, 1)),
        ("Tensor", tensor(&[4096, 4096], 0, 0)),
        ("Tensor", tensor(&[33], 8, 0)),
        ("Type", tensor(&[32], 4, 0)),
        ("Type", tensor(&[32], 1000, 0)),
        ("Tensor", keys(0, 2).tensor("a", &[64], 0, 0).tensor("b", &[64], 0, 32).data(512)),
        ("Key", Writer::new(0, 1).number("general.architecture", 1).data(0)),
        ("Key", Writer::new(0, 1).key("general.architecture", 8).text("llama").data(0)),
        ("Key", keys(1, 0).key("tokenizer.ggml.tokens", 9).u32(8).u64(1).text("<0x-1>").data(0)),
        ("Key", keys(1, 0).key("tokenizer.ggml.tokens", 9).u32(8).u64(1).text("<0xFFFFFFFF>").data(0)),
        (
            "Key",
            keys(2, 0)
                .key("tokenizer.ggml.tokens", 9)
                .u32(8)
                .u64(1)
                .text("a")
                .key("tokenizer.ggml.scores", 9)
                .u32(6)
                .u64(2)
                .u64(0)
                .data(0),
        ),
        ("Key", keys(1, 0).key("tokenizer.ggml.tokens", 8).text("a").data(0)),
    ];
    assert!(cases.len() >= 40);
    for (number, (name, bytes)) in cases.iter().enumerate() {
        let fault = fault(bytes);
        assert!(format!("{fault:?}").starts_with(name), "case {number} ({name}): {fault:?}");
        assert!(!fault.to_string().contains('\n'));
    }
}

#[test]
fn numbers_outside_of_what_a_model_has_are_refused_by_name() {
    for (name, number) in [
        ("llama.block_count", 0),
        ("llama.block_count", 1 << 30),
        ("llama.embedding_length", u32::MAX),
        ("llama.attention.head_count_kv", 0),
        ("llama.context_length", 0),
    ] {
        let mut bytes = keys(0, 0).data(0);
        let at =
            bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap() + name.len() + 4;
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        match fault(&bytes) {
            Fault::Key { key, .. } => assert_eq!(key, name),
            other => panic!("{name} {number}: {other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is changed in a file, reading it ends with a model or a named fault.
    #[test]
    fn a_changed_file_is_read_or_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = sound();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        match read(&bytes) {
            Ok(gguf) => prop_assert!(gguf.tensor_bytes <= bytes.len() as u64),
            Err(error) => {
                let is_named = matches!(error, GgufError::Unsound { .. });
                prop_assert!(is_named, "{error}");
            }
        }
    }
}
