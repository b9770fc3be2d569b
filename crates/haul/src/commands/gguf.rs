//! GGUF files as `compare` and `tune` open them: by the worker beside this program, on the device that was asked for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use haul_generate::GenerateError;
use haul_generate::gguf::Gguf;
use haul_generate::local::{FlashAttention, Load, Local, LocalSettings, Patience};
use haul_machine::cpu::{self, Cpu};
use haul_machine::verdict::DeviceRequest;

use crate::cli::llm::LlmArgs;
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
