//! What answers calls, opened from `--model`: a GGUF file, by the worker beside this executable, or a server.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use haul_generate::Generator;
use haul_generate::gguf::Gguf;
use haul_generate::local::{Attention, FlashAttention, Load, Local, LocalSettings, Patience};
use haul_generate::proof::{self, Observed, Speed};
use haul_generate::remote::ServerAddress;
use haul_jobs::tune::profile::device_key;
use haul_jobs::tune::{self, TunedLoad};
use haul_machine::memory;
use haul_machine::roof::Roofs;
use haul_machine::verdict::{DeviceRequest, Verdict};
use haul_pipeline::stage::Stop;
use serde::{Deserialize, Serialize};

use crate::cli::llm::EngineArgs;
use crate::commands::{find, remote};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

/// Calls that a processor answers together: more of them make its products no faster.
const PARALLEL_CPU: u32 = 16;
/// And a card.
const PARALLEL_GPU: u32 = 32;
/// Sequences that the engine keeps apart, less the one for what calls share.
const PARALLEL_MAX: u32 = 255;
/// One call gets no more cells than this unless `--ctx` says so, whatever its model was trained on.
const CALL_TOKENS_MAX: u32 = 8192;
/// The KV cache takes at most one part in so many of the memory that is free, and copies of beginnings as much.
const KV_SHARE: u64 = 4;
/// The engine hands out cells in such steps.
const CELLS_STEP: u32 = 256;
const N_BATCH: u32 = 2048;
const N_UBATCH: u32 = 512;
const F16: &str = "f16";
/// Models of at most so many bytes are read by each core for itself: a step of theirs is shorter than what it takes cores to
/// wait for each other between its operations, and they stay in the cache that cores share.
const LANES_TENSOR_BYTES_MAX: u64 = 32 << 20;

/// An open model, and where it is.
pub(crate) struct Opened {
    pub(crate) generator: Generator,
    pub(crate) verdict: Verdict,
    pub(crate) model: Model,
}

/// What receipts say of a model.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) id: String,
    pub(crate) sha256: String,
    pub(crate) quantisation: String,
    pub(crate) parameters: u64,
    pub(crate) max_tokens: u32,
}

/// A GGUF file that passed our own check.
pub(crate) struct GgufFile {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) sha256: String,
    pub(crate) gguf: Gguf,
}

/// Opens what `--model` names, or says why not. A device that nobody asked for is named in one line.
/// `stop` ends every wait for it, now and later.
pub(crate) fn open(
    args: &EngineArgs,
    settings: &Settings,
    stop: &Stop,
    output: &Output,
) -> Result<Opened, Failure> {
    let name = model_name(args)?;
    if ServerAddress::is_one(name) {
        return remote::open(name, args, settings, stop, output);
    }
    let request = settings.device(&args.device)?;
    let file = find(name, settings, output)?;
    if tuned(&file, request, settings).is_some() {
        output.note("settings by `haul tune`, where no flag says otherwise; the receipt has them");
    }
    let local = Local::open_until(stop.flag(), local_settings(&file, args, settings)?)?;
    let verdict = verdict(request, &local, None, None);
    if request == DeviceRequest::Auto {
        output.note(&verdict.line());
    }
    if let Attention::Engine { instead_because: Some(why) } = &local.loaded().attention {
        output.note(&format!("attention is left to the engine, which is slower: {why}"));
    }
    refuse_elsewhere(request, &verdict)?;
    let model = Model {
        id: file.name,
        sha256: file.sha256,
        quantisation: file.gguf.quantisation.clone(),
        parameters: local.loaded().parameters,
        max_tokens: local.facts().context_tokens.unwrap_or(local.loaded().n_ctx),
    };
    Ok(Opened { generator: Generator::Local(Box::new(local)), verdict, model })
}

/// What was asked for by name and is not where the model is ends the run before it starts.
pub(crate) fn refuse_elsewhere(request: DeviceRequest, verdict: &Verdict) -> Result<(), Failure> {
    if proof::is_as_asked(request, verdict) {
        return Ok(());
    }
    let seen: Vec<_> = verdict.witnesses.iter().map(|witness| witness.detail.clone()).collect();
    Err(Failure::new(format!("--device {request}: the model is not there ({})", seen.join("; ")))
        .hint("`haul doctor --model FILE` says what was seen and why; --device auto takes what there is"))
}

/// Where a model is, from what the engine and the devices say, and from its speed where that was measured.
pub(crate) fn verdict(
    requested: DeviceRequest,
    local: &Local,
    speed: Option<Speed>,
    roofs: Option<&Roofs>,
) -> Verdict {
    proof::verdict(&Observed {
        requested,
        hello: local.hello(),
        load: local.load(),
        loaded: local.loaded(),
        speed,
        roofs,
    })
}

pub(crate) fn model_name(args: &EngineArgs) -> Result<&str, Failure> {
    args.model.as_deref().ok_or_else(|| Failure::new("no model is named").hint("give --model M.gguf"))
}

/// A file by its path or its name.
pub(crate) fn find(name: &str, settings: &Settings, output: &Output) -> Result<GgufFile, Failure> {
    let path = find::path(name, settings, output)?;
    let gguf = Gguf::read(&path)?;
    let sha256 = identity(&path, settings)?;
    let name = path.file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned());
    Ok(GgufFile { path, name, sha256, gguf })
}

/// What was known of a file when it was read last.
#[derive(Serialize, Deserialize)]
struct Known {
    bytes: u64,
    modified_ns: u128,
    sha256: String,
}

/// SHA-256 of the whole file, read once for as long as its length and time stay.
pub(crate) fn identity(path: &Path, settings: &Settings) -> Result<String, Failure> {
    let failed = |error: &std::io::Error| Failure::io("read", path, error);
    let absolute = path.canonicalize().map_err(|error| failed(&error))?;
    let metadata = fs::metadata(path).map_err(|error| failed(&error))?;
    let modified_ns = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_nanos());
    let record = settings
        .gguf_cache()
        .join(format!("{}.json", blake3::hash(absolute.as_os_str().as_encoded_bytes()).to_hex()));
    let known = fs::read(&record).ok().and_then(|bytes| serde_json::from_slice::<Known>(&bytes).ok());
    if let Some(known) =
        known.filter(|known| known.bytes == metadata.len() && known.modified_ns == modified_ns)
    {
        return Ok(known.sha256);
    }
    let sha256 = haul_jobs::models::sha256_of(path).map_err(|error| failed(&error))?;
    let known = Known { bytes: metadata.len(), modified_ns, sha256 };
    // Without the record the file is read again next time.
    let kept = serde_json::to_vec(&known)
        .map_err(std::io::Error::from)
        .and_then(|bytes| fs::create_dir_all(settings.gguf_cache()).and_then(|()| fs::write(&record, bytes)));
    if let Err(error) = kept {
        tracing::warn!(%error, "{} is not written", record.display());
    }
    Ok(known.sha256)
}

/// How a file is opened: the flags, and what the machine has room for.
pub(crate) fn local_settings(
    file: &GgufFile,
    args: &EngineArgs,
    settings: &Settings,
) -> Result<LocalSettings, Failure> {
    let device = settings.device(&args.device)?;
    let template = match &args.template {
        None => None,
        Some(path) => Some(fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?),
    };
    let (worker, backends) = settings.worker()?;
    let mut load = load(file, device, args, settings)?;
    let lanes = lanes(&file.gguf, &load);
    if lanes > 1 && lanes == load.threads {
        // A profile is of one context with all threads, and of the engine's attention; lanes of one thread have another.
        load.flash_attention = FlashAttention::Auto;
    }
    Ok(LocalSettings {
        worker,
        backends,
        device,
        lanes,
        load,
        template,
        identity: file.sha256.clone(),
        name: file.name.clone(),
        patience: Patience::default(),
    })
}

/// The flags, then what `haul tune` found for this model on this device, then what suits most.
fn load(
    file: &GgufFile,
    device: DeviceRequest,
    args: &EngineArgs,
    settings: &Settings,
) -> Result<Load, Failure> {
    let cpu = settings.cpu();
    let tuned = tuned(file, device, settings);
    let type_of = |flag: &Option<String>| flag.clone().unwrap_or_else(|| F16.to_owned());
    let (type_k, type_v) = (type_of(&args.cache_type_k), type_of(&args.cache_type_v));
    let usual = tuned.as_ref().map_or_else(|| usual_parallel(device), |tuned| tuned.n_seq_max);
    let parallel = parallel(args.parallel.unwrap_or(usual))?;
    let available = memory::probe()?.available_bytes;
    let n_ctx = match args.ctx {
        Some(0) => return Err(Failure::new("--ctx 0: a cache has cells")),
        Some(cells) => cells,
        None => cells(&file.gguf, parallel, &type_k, &type_v, available)?,
    };
    if n_ctx <= parallel {
        return Err(Failure::new(format!("--ctx {n_ctx}: {parallel} calls at a time have no cell each"))
            .hint("a context of some hundred cells at least, or a smaller --parallel"));
    }
    file.gguf.fits(available, n_ctx, &type_k, &type_v)?;
    let threads = match &tuned {
        Some(tuned) if !settings.names_threads(args.threads) => tuned.threads,
        _ => u32::try_from(settings.threads(args.threads, &cpu)?.get()).unwrap_or(u32::MAX),
    };
    Ok(Load {
        model: file.path.clone(),
        devices: vec![],
        gpu_layers: None,
        lanes: 1,
        n_ctx,
        n_batch: tuned.as_ref().map_or(N_BATCH, |tuned| tuned.n_batch),
        n_ubatch: tuned.as_ref().map_or(N_UBATCH, |tuned| tuned.n_ubatch),
        n_seq_max: parallel + 1,
        kv_unified: true,
        threads,
        type_k,
        type_v,
        flash_attention: tuned.as_ref().map_or(FlashAttention::Auto, |tuned| tuned.flash_attention),
        mmap: true,
    })
}

/// As many lanes as there are threads, calls and cells for, of a model that is small enough.
fn lanes(gguf: &Gguf, load: &Load) -> u32 {
    if gguf.tensor_bytes > LANES_TENSOR_BYTES_MAX {
        return 1;
    }
    let of_calls = load.n_seq_max.saturating_sub(1);
    load.threads.min(of_calls).min(load.n_ctx / call_cells(gguf)).max(1)
}

/// What `haul tune` found for a file on a device, if it was tuned.
fn tuned(file: &GgufFile, device: DeviceRequest, settings: &Settings) -> Option<TunedLoad> {
    tune::profile_for(&settings.profiles(), &file.sha256, &device_key(device, &settings.cpu().name))
}

/// Calls that are answered together where nobody says how many.
pub(crate) fn usual_parallel(device: DeviceRequest) -> u32 {
    if matches!(device, DeviceRequest::Cpu | DeviceRequest::Auto) { PARALLEL_CPU } else { PARALLEL_GPU }
}

/// Calls that are answered together, within bounds.
pub(crate) fn parallel(calls: u32) -> Result<u32, Failure> {
    if !(1..=PARALLEL_MAX).contains(&calls) {
        return Err(Failure::new(format!("--parallel {calls} is outside 1..={PARALLEL_MAX}")));
    }
    Ok(calls)
}

/// Cells that one call may use.
fn call_cells(gguf: &Gguf) -> u32 {
    gguf.context_train.clamp(CELLS_STEP, CALL_TOKENS_MAX)
}

/// Cells for all calls together: as many as they can use, and as the memory that is free allows.
fn cells(gguf: &Gguf, parallel: u32, type_k: &str, type_v: &str, available: u64) -> Result<u32, Failure> {
    let call = call_cells(gguf);
    let step_bytes = gguf.kv_bytes(CELLS_STEP, type_k, type_v)?.max(1);
    let steps = u32::try_from(available / KV_SHARE / step_bytes).unwrap_or(u32::MAX / CELLS_STEP);
    Ok(steps
        .saturating_mul(CELLS_STEP)
        .clamp(call, call.saturating_mul(parallel))
        .next_multiple_of(CELLS_STEP))
}
