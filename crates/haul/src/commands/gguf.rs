//! GGUF files as `compare` and `tune` open them: by the worker beside this program, on the device that was asked for.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use haul_generate::GenerateError;
use haul_generate::gguf::Gguf;
use haul_generate::local::{FlashAttention, Load, Local, LocalSettings, Patience};
use haul_machine::cpu::{self, Cpu};
use haul_machine::verdict::{DeviceRequest, Placement, Verdict};
use haul_machine::{clock, memory};
use haul_pipeline::receipt::{
    CacheUse, Calls, Items, MemoryUse, Note, Rate, Receipt, RunState, SCHEMA, Truncated, Work,
};
use serde_json::Value;

use crate::cli::LlmArgs;
use crate::commands::generator;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

/// What llama.cpp's own tools begin with.
const N_BATCH: u32 = 2048;
const N_UBATCH: u32 = 512;
/// Before a measurement other programs are watched for so long; of less than this nothing is said.
const OTHERS_WATCHED: Duration = Duration::from_millis(200);
const BUSY_CORES: f64 = 0.2;

/// How files are opened.
pub(crate) struct Opener {
    worker: PathBuf,
    backends: Vec<PathBuf>,
    pub(crate) device: DeviceRequest,
    pub(crate) threads: u32,
}

/// A file that passed our own check, and its identity.
pub(crate) struct GgufFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    pub(crate) gguf: Gguf,
}

impl Opener {
    pub(crate) fn new(args: &LlmArgs, settings: &Settings) -> Result<Self, Failure> {
        let threads = settings.threads(args.threads, &settings.cpu())?;
        let (worker, backends) = settings.worker()?;
        Ok(Self {
            worker,
            backends,
            device: settings.device(&args.device)?,
            threads: u32::try_from(threads.get()).unwrap_or(u32::MAX),
        })
    }

    /// The load of a file with so many cells and sequences, and nothing tuned.
    pub(crate) fn load(&self, path: &Path, n_ctx: u32, n_seq_max: u32) -> Load {
        Load {
            model: path.to_owned(),
            devices: vec![],
            gpu_layers: None,
            lanes: 1,
            n_ctx,
            n_batch: N_BATCH.min(n_ctx),
            n_ubatch: N_UBATCH.min(n_ctx),
            n_seq_max,
            kv_unified: true,
            threads: self.threads,
            type_k: "f16".to_owned(),
            type_v: "f16".to_owned(),
            flash_attention: FlashAttention::Auto,
            mmap: true,
        }
    }

    /// Opens a file in a worker of its own.
    pub(crate) fn open(&self, name: &str, identity: &str, load: Load) -> Result<Local, GenerateError> {
        Local::open(LocalSettings {
            worker: self.worker.clone(),
            backends: self.backends.clone(),
            device: self.device,
            load,
            lanes: 1,
            template: None,
            identity: identity.to_owned(),
            name: name.to_owned(),
            patience: Patience::default(),
        })
    }
}

impl GgufFile {
    /// Checks the file's header, and reads it once for its hash.
    pub(crate) fn read(path: &Path, settings: &Settings) -> Result<Self, Failure> {
        let gguf = Gguf::read(path)?;
        let bytes = std::fs::metadata(path).map_err(|error| Failure::io("read", path, &error))?.len();
        Ok(Self { path: path.to_owned(), bytes, sha256: generator::identity(path, settings)?, gguf })
    }

    /// Its file name.
    pub(crate) fn name(&self) -> String {
        self.path
            .file_name()
            .map_or_else(|| self.path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }
}

/// Bytes per second of main memory now, in 10^9.
pub(crate) fn read_gb_per_s(settings: &Settings) -> f64 {
    haul_machine::roof::measure_read_now(&settings.cpu())
}

/// The verdict of a run that measured nothing.
pub(crate) fn nothing_measured(requested: DeviceRequest) -> Verdict {
    Verdict {
        requested: requested.to_string(),
        used: String::new(),
        name: String::new(),
        isa: String::new(),
        verdict: Placement::Unknown,
        witnesses: vec![],
        fallback_from: None,
    }
}

/// Writes a receipt into the folder of a run, and where the user wants it too.
pub(crate) fn write_receipt(receipt: &Receipt, out: &Path, too: Option<&Path>) -> Result<(), Failure> {
    receipt.write(&out.join("receipt.json"))?;
    too.map_or(Ok(()), |path| Ok(receipt.write(path)?))
}

/// What a receipt of a measuring job is made of.
pub(crate) struct Measuring {
    pub(crate) job: &'static str,
    pub(crate) started: SystemTime,
    pub(crate) settings: Value,
    pub(crate) device: Verdict,
    /// What is counted: file, row.
    pub(crate) unit: &'static str,
    pub(crate) items: Items,
    pub(crate) calls: Option<Calls>,
    pub(crate) device_peak: Option<u64>,
    pub(crate) failures: Vec<haul_pipeline::receipt::Failure>,
    pub(crate) notes: Vec<Note>,
    pub(crate) state: RunState,
}

impl Measuring {
    #[expect(clippy::cast_precision_loss, reason = "rates are for people; exact to 2^53")]
    pub(crate) fn receipt(self) -> Receipt {
        let seconds = self.started.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64());
        let tokens = self.calls.map_or(0, |calls| calls.prefill_tokens + calls.decode_tokens);
        let per_s = |count: u64| count as f64 / seconds.max(1e-9);
        Receipt {
            schema: SCHEMA.to_owned(),
            job: self.job.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: clock::hostname(),
            state: self.state,
            started: clock::rfc3339_utc(self.started),
            finished: clock::rfc3339_utc(SystemTime::now()),
            seconds,
            settings: self.settings,
            device: self.device,
            model: None,
            work: Work { tokens, flops: 0, bytes_read: 0 },
            calls: self.calls,
            sent: None,
            passes: vec![],
            rate: Rate {
                items_per_s: per_s(self.items.ok),
                unit: self.unit.to_owned(),
                tokens_per_s: per_s(tokens),
                gflops: 0.0,
                roof_gflops: std::collections::BTreeMap::new(),
                percent_of_roof: 0.0,
            },
            items: self.items,
            stages: vec![],
            quality: None,
            truncated: Truncated::default(),
            cache: CacheUse::default(),
            memory: MemoryUse { peak_rss: memory::peak_rss_bytes(), device_peak: self.device_peak },
            forecast: None,
            failures: self.failures,
            notes: self.notes,
        }
    }
}

/// Says so where other programs keep the processor busy: threads of the engine wait for each other in every step, so one
/// core that is shared makes all of them several times slower. Gives how many cores others keep busy.
pub(crate) fn note_others(cpu: &Cpu, output: &Output) -> Option<f64> {
    let busy = cpu::busy_cores(OTHERS_WATCHED)?;
    if busy >= BUSY_CORES {
        output.note(&format!(
            "other programs keep {busy:.1} of {} cores busy: speeds that are measured now are not the machine's",
            cpu.cores
        ));
    }
    Some((busy * 10.0).round() / 10.0)
}
