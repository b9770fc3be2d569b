//! Where a loaded model really is: what the engine was given, what memory went where, and what its speed allows.
//!
//! The log's `offloaded N/M layers` is no witness: it repeats what was asked for.

use haul_generate::local::{DeviceKind, Hello, Load, Loaded};
use haul_generate::proof::{self, Observed};
use haul_machine::verdict::{DeviceRequest, Placement, Verdict, Witness, WitnessKind};
use serde::Serialize;

/// A rate this much above the measured roof of main memory is not from main memory.
const ROOF_TOLERANCE: f64 = 1.25;
/// A smaller model may stand in the processor's caches, which the roof of main memory says nothing about.
const CACHED_BYTES_MAX: u64 = 256 << 20;

/// What a model takes, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Resident bytes of the worker with model and context.
    pub rss_bytes: u64,
    /// By device: what its free memory fell by.
    pub devices: Vec<TakenOn>,
    /// Bytes of the KV cache, as the engine's log names them; 0 where it names none.
    pub kv_bytes: u64,
    /// Bytes of its scratch buffers, likewise.
    pub compute_bytes: u64,
}

/// What a model takes of one device's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TakenOn {
    /// The device.
    pub device: String,
    /// By the load of the model.
    pub model_bytes: u64,
    /// By the context.
    pub context_bytes: u64,
}

/// What a loaded model takes.
#[must_use]
pub fn taken(hello: &Hello, loaded: &Loaded) -> Taken {
    let is_card = |name: &str| {
        hello.devices.iter().any(|device| {
            device.name == name && matches!(device.kind, DeviceKind::Gpu | DeviceKind::IntegratedGpu)
        })
    };
    let devices = loaded.memory.iter().filter(|memory| is_card(&memory.device)).map(|memory| TakenOn {
        device: memory.device.clone(),
        model_bytes: memory.free_before_bytes.saturating_sub(memory.free_loaded_bytes),
        context_bytes: memory.free_loaded_bytes.saturating_sub(memory.free_context_bytes),
    });
    let buffers = |what: &str| {
        let of_kind = loaded.buffers.iter().filter(|buffer| buffer.what.eq_ignore_ascii_case(what));
        (of_kind.map(|buffer| buffer.mib).sum::<f64>() * f64::from(1 << 20)) as u64
    };
    Taken {
        rss_bytes: loaded.rss_bytes,
        devices: devices.collect(),
        kv_bytes: buffers("KV"),
        compute_bytes: buffers("compute"),
    }
}

/// The verdict over a loaded model: the witnesses of [`haul_generate::proof`], and the speed of decoding.
/// `decode_tokens_per_s` is what it reached with one sequence, and `read_gb_per_s` what main memory of this machine gives
/// at most.
#[must_use]
pub fn placement(
    requested: DeviceRequest,
    hello: &Hello,
    load: &Load,
    loaded: &Loaded,
    decode_tokens_per_s: Option<f64>,
    read_gb_per_s: f64,
) -> Verdict {
    let mut verdict = proof::verdict(&Observed { requested, hello, load, loaded, speed: None, roofs: None });
    if let Some(rate) = decode_tokens_per_s {
        let (roof, agrees) =
            roof_witness(loaded, rate, read_gb_per_s, &verdict.used, load.devices.is_empty());
        verdict.witnesses.push(roof);
        if !agrees {
            verdict.verdict = Placement::Unknown;
        }
    }
    verdict
}

/// Each token that is decoded reads all weights once.
fn roof_witness(
    loaded: &Loaded,
    tokens_per_s: f64,
    read_gb_per_s: f64,
    used: &str,
    is_cpu: bool,
) -> (Witness, bool) {
    let gb_per_s = tokens_per_s * loaded.size_bytes as f64 / 1e9;
    let beyond = gb_per_s > read_gb_per_s * ROOF_TOLERANCE;
    let cached = loaded.size_bytes <= CACHED_BYTES_MAX;
    let says = match (is_cpu, beyond) {
        (true, true) if !cached => "unknown",
        (true, _) => "cpu",
        (false, true) => used,
        // As slow as the processor would be: no proof of the card, nor of the opposite.
        (false, false) => "unknown",
    };
    let small = if cached { "; weights this small may stand in caches" } else { "" };
    let detail = format!(
        "decode reads {gb_per_s:.1} GB/s of weights; main memory gives {read_gb_per_s:.1} GB/s at most{small}"
    );
    let witness = Witness { kind: WitnessKind::Roof, says: says.to_owned(), detail };
    (witness, !is_cpu || !beyond || cached)
}

#[cfg(test)]
pub(crate) mod tests {
    use haul_generate::local::{Attention, Buffer, Device, DeviceMemory, FlashAttention};

    use super::*;

    pub(crate) fn hello(card: bool) -> Hello {
        let device = |index, name: &str, backend: &str, kind| Device {
            index,
            name: name.to_owned(),
            description: format!("the {name}"),
            backend: backend.to_owned(),
            kind,
            memory_total_bytes: 8 << 30,
            memory_free_bytes: 8 << 30,
        };
        let mut devices = vec![device(0, "CPU", "CPU", DeviceKind::Cpu)];
        if card {
            devices.push(device(1, "CUDA0", "CUDA", DeviceKind::Gpu));
        }
        Hello {
            protocol: 1,
            engine: "llama.cpp 1".to_owned(),
            features: "AVX2".to_owned(),
            backends: vec![],
            devices,
            can_offload: card,
        }
    }

    pub(crate) fn load(devices: &[usize]) -> Load {
        Load {
            model: "a.gguf".into(),
            devices: devices.to_vec(),
            gpu_layers: None,
            lanes: 1,
            n_ctx: 2048,
            n_batch: 512,
            n_ubatch: 512,
            n_seq_max: 1,
            kv_unified: true,
            threads: 2,
            type_k: "f16".to_owned(),
            type_v: "f16".to_owned(),
            flash_attention: FlashAttention::Auto,
            mmap: true,
        }
    }

    fn mib(bytes: u64) -> f64 {
        bytes as f64 / f64::from(1 << 20)
    }

    pub(crate) fn loaded(taken_by_card: u64) -> Loaded {
        let free = 8_u64 << 30;
        Loaded {
            description: "tiny".to_owned(),
            size_bytes: 1 << 30,
            parameters: 1 << 29,
            layers: 6,
            embedding: 256,
            vocabulary: 3840,
            n_ctx_train: 1024,
            n_ctx: 2048,
            chat_template: None,
            can_share_prefix: true,
            adds_bos: false,
            bos: String::new(),
            eos: String::new(),
            marks: vec![],
            load_ms: 10,
            context_ms: 5,
            memory: vec![DeviceMemory {
                device: "CUDA0".to_owned(),
                free_before_bytes: free,
                free_loaded_bytes: free - taken_by_card,
                free_context_bytes: free - taken_by_card - (64 << 20),
            }],
            buffers: vec![
                Buffer { device: "CPU".to_owned(), what: "KV".to_owned(), mib: 12.0 },
                Buffer { device: "CUDA0".to_owned(), what: "model".to_owned(), mib: mib(taken_by_card) },
            ],
            offloaded: Some((7, 7)),
            attention: Attention::Engine { instead_because: None },
            warnings: vec![],
            rss_bytes: 2 << 30,
        }
    }

    /// What the log claims (all layers on the card) is the same in every row.
    #[test]
    fn the_verdict_is_of_witnesses_and_not_of_claims() {
        let cases = [
            (false, 0, Some(10.0), Placement::Cpu),
            // 1 GiB a token at 100 tokens/s is more than this main memory gives.
            (false, 0, Some(100.0), Placement::Unknown),
            (true, 1 << 30, Some(100.0), Placement::OnDevice),
            (true, 1 << 30, None, Placement::OnDevice),
            (true, 1 << 29, None, Placement::Partial),
            (true, 0, Some(10.0), Placement::Cpu),
        ];
        for (card, taken, rate, wanted) in cases {
            let devices: &[usize] = if card { &[1] } else { &[] };
            let request = DeviceRequest::Auto;
            let verdict = placement(request, &hello(card), &load(devices), &loaded(taken), rate, 50.0);
            assert_eq!(verdict.verdict, wanted, "{verdict:#?}");
        }
    }

    #[test]
    fn memory_is_told_by_device_and_purpose() {
        let taken = taken(&hello(true), &loaded(1 << 30));
        assert_eq!(taken.kv_bytes, 12 << 20);
        assert_eq!(
            taken.devices,
            [TakenOn { device: "CUDA0".to_owned(), model_bytes: 1 << 30, context_bytes: 64 << 20 }]
        );
    }
}
