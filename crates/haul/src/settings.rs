//! Settings, resolved once: `haul.toml` in the home folder, then the environment, then flags.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use haul_generate::discover::Surroundings;
use haul_generate::remote::ApiKey;
use haul_machine::cpu::{self, Cpu, Isa};
use haul_machine::dtype::DtypeRequest;
use haul_machine::verdict::DeviceRequest;
use haul_store::qdrant::Address;
use serde::{Deserialize, Serialize};

use crate::cli::ingest::ReaderArgs;
use crate::cli::{self, ComputeArgs, DeviceArgs, DtypeArg, Global, StoreArg};
use crate::failure::Failure;
use crate::home_unix;

/// Name of the settings file in the home folder.
const FILE: &str = "haul.toml";
/// Tokens in one batch: the activations of small models stay in the cache of a core, and more rows would not read the
/// weights less often.
const BATCH_TOKENS: usize = 512;
const BATCH_TOKENS_MAX: usize = 1 << 20;
/// Forces an instruction set, so that tests run the kernels of each; no flag, for users have no use for it.
const ISA: &str = "HAUL_ISA";
const THREADS_MAX: usize = 1024;
/// The key of a server of language models.
const API_KEY: &str = "HAUL_API_KEY";
/// The cache of parsed text grows to this.
const CACHE_BYTES: u64 = 4 << 30;

/// What is set for all commands.
#[derive(Debug)]
pub(crate) struct Settings {
    home: PathBuf,
    file: SettingsFile,
    isa: Isa,
}

/// `haul.toml`. Every key has a flag or an environment variable that goes before it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    device: Option<String>,
    dtype: Option<String>,
    threads: Option<usize>,
    batch_tokens: Option<usize>,
    store: Option<PathBuf>,
    model: Option<String>,
    hub: Option<String>,
    cache_bytes: Option<u64>,
    pdfium: Option<PathBuf>,
    memory: Option<String>,
}

/// What `--store` names.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A library.
    Library(PathBuf),
    /// A collection of a server, and the library on this machine that it is filled from.
    Server {
        /// Where it is.
        address: Address,
        /// The library.
        manifest: PathBuf,
    },
}

/// How a command computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compute {
    pub(crate) threads: NonZeroUsize,
    pub(crate) batch_tokens: usize,
    pub(crate) batch_by: BatchBy,
}

/// Who says how many tokens a batch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BatchBy {
    /// A flag, the environment or `haul.toml`.
    User,
    /// `haul tune`, for this model and dtype on this device.
    Tune,
    /// Nobody.
    Default,
}

impl Settings {
    /// Reads `haul.toml` if it is there.
    pub(crate) fn resolve(global: &Global) -> Result<Self, Failure> {
        let home = global.home.clone().or_else(home_unix::default_home).ok_or_else(|| {
            Failure::new("there is no home folder to keep models and caches in")
                .hint("set HAUL_HOME to a folder")
        })?;
        let file = read(&home.join(FILE))?;
        Ok(Self { home, file, isa: isa()? })
    }

    /// Whether `HAUL_ISA` asks for another instruction set than the best.
    pub(crate) fn is_isa_forced(&self) -> bool {
        self.isa != Isa::best()
    }

    /// The processor, with the instruction set that the kernels run with.
    pub(crate) fn cpu(&self) -> Cpu {
        cpu::probe(self.isa)
    }

    /// `HAUL_HOME/models`.
    pub(crate) fn models(&self) -> PathBuf {
        self.home.join("models")
    }

    /// What the places depend on in which GGUF files are looked for.
    #[expect(clippy::disallowed_methods, reason = "settings are resolved here")]
    pub(crate) fn surroundings(&self) -> Surroundings {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let working_folder = std::env::current_dir()
            .inspect_err(|error| tracing::warn!(%error, "there is no working folder"))
            .ok();
        Surroundings {
            models: self.models(),
            user_home: home_unix::user_home(),
            working_folder,
            virtual_environment: variable("VIRTUAL_ENV"),
            satcn_model: variable("SATCN_GRMR_MODEL_PATH"),
        }
    }

    /// What a server of language models knows us by: only from the environment, for files and command lines are read
    /// by others.
    #[expect(clippy::disallowed_methods, reason = "settings are resolved here")]
    pub(crate) fn api_key(&self) -> Result<Option<ApiKey>, Failure> {
        let Some(value) = std::env::var_os(API_KEY).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let key = ApiKey::new(value.to_str().unwrap_or(""));
        key.map(Some).map_err(|error| Failure::new(format!("{API_KEY}: {error}")))
    }

    /// `HAUL_HOME/profiles`.
    pub(crate) fn profiles(&self) -> PathBuf {
        self.home.join("profiles")
    }

    /// `HAUL_HOME/cache/text`.
    pub(crate) fn text_cache(&self) -> PathBuf {
        self.home.join("cache").join("text")
    }

    /// `HAUL_HOME/cache/pixels`.
    pub(crate) fn pixel_cache(&self) -> PathBuf {
        self.home.join("cache").join("pixels")
    }

    /// `HAUL_HOME/backends`.
    pub(crate) fn backends(&self) -> PathBuf {
        self.home.join("backends")
    }

    /// `HAUL_HOME/cache/gguf`.
    pub(crate) fn gguf_cache(&self) -> PathBuf {
        self.home.join("cache").join("gguf")
    }

    /// The executable that runs GGUF files, which stands beside this one, and the folders with its backends.
    #[expect(clippy::disallowed_methods, reason = "libraries are told where the worker is")]
    pub(crate) fn worker(&self) -> Result<(PathBuf, Vec<PathBuf>), Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::new(format!("the path of this executable is not known: {error}")))?;
        let worker = program.with_file_name(format!("haul-llama{}", std::env::consts::EXE_SUFFIX));
        Ok((worker, vec![program.with_file_name("backends"), self.backends()]))
    }

    /// The pdfium library, where one is named.
    pub(crate) fn pdfium(&self, flag: &ReaderArgs) -> Option<PathBuf> {
        flag.pdfium.clone().or_else(|| self.file.pdfium.clone())
    }

    pub(crate) fn cache_bytes(&self) -> u64 {
        self.file.cache_bytes.unwrap_or(CACHE_BYTES)
    }

    pub(crate) fn hub(&self, flag: Option<&str>) -> Option<String> {
        flag.map(str::to_owned).or_else(|| self.file.hub.clone())
    }

    pub(crate) fn model(&self, flag: Option<&str>) -> Option<String> {
        flag.map(str::to_owned).or_else(|| self.file.model.clone())
    }

    /// Where the library is, or the collection with its manifest.
    pub(crate) fn place(&self, flag: &StoreArg) -> Result<Place, Failure> {
        let store = flag.store.clone().or_else(|| self.file.store.clone()).ok_or_else(|| {
            Failure::new("no library is named")
                .hint("give --store FILE.haul, or set HAUL_STORE, or store in haul.toml")
        })?;
        match store.to_str().filter(|name| name.contains("://")) {
            None if flag.manifest.is_some() => Err(Failure::new(format!(
                "--manifest is of a collection, and --store {} is a library",
                store.display()
            ))
            .hint("leave --manifest out, or give --store qdrant://HOST:6334/COLLECTION")),
            None => Ok(Place::Library(store)),
            Some(name) => {
                let address: Address = name.parse()?;
                let manifest = flag.manifest.clone().unwrap_or_else(|| self.manifest(&address, ""));
                Ok(Place::Server { address, manifest })
            }
        }
    }

    /// The file that holds a library: of a collection, its manifest.
    pub(crate) fn store(&self, flag: &StoreArg) -> Result<PathBuf, Failure> {
        Ok(match self.place(flag)? {
            Place::Library(path) => path,
            Place::Server { address, manifest } => {
                if !manifest.exists() {
                    return Err(Failure::new(format!(
                        "{address}: there is no manifest {}",
                        manifest.display()
                    ))
                    .hint(format!("`haul store sync --store {address}` makes it from the server")));
                }
                manifest
            }
        })
    }

    /// `HAUL_HOME/manifests/HOST_PORT_COLLECTION.haul`.
    pub(crate) fn manifest(&self, address: &Address, suffix: &str) -> PathBuf {
        self.home.join("manifests").join(format!("{}{suffix}.haul", address.file_stem()))
    }

    pub(crate) fn device(&self, flag: &DeviceArgs) -> Result<DeviceRequest, Failure> {
        match (flag.device, &self.file.device) {
            (Some(device), _) => Ok(device),
            (None, Some(name)) => {
                name.parse().map_err(|error| Failure::new(format!("{FILE}: device: {error}")))
            }
            (None, None) => Ok(DeviceRequest::Auto),
        }
    }

    /// The bytes of memory that a run was given, if it was.
    pub(crate) fn memory(&self, flag: Option<u64>) -> Result<Option<u64>, Failure> {
        match (flag, &self.file.memory) {
            (Some(bytes), _) => Ok(Some(bytes)),
            (None, Some(amount)) => cli::amount(amount)
                .map(Some)
                .map_err(|error| Failure::new(format!("{FILE}: memory: {error}"))),
            (None, None) => Ok(None),
        }
    }

    /// The dtype asked for, if any was.
    pub(crate) fn dtype(&self, flag: &DtypeArg) -> Result<Option<DtypeRequest>, Failure> {
        match (flag.dtype, &self.file.dtype) {
            (Some(dtype), _) => Ok(Some(dtype)),
            (None, Some(name)) => {
                name.parse().map(Some).map_err(|error| Failure::new(format!("{FILE}: dtype: {error}")))
            }
            (None, None) => Ok(None),
        }
    }

    /// Whether the user says how many threads compute, and what was tuned does not count.
    pub(crate) fn names_threads(&self, flag: Option<usize>) -> bool {
        flag.or(self.file.threads).is_some()
    }

    /// Threads that compute.
    pub(crate) fn threads(&self, flag: Option<usize>, cpu: &Cpu) -> Result<NonZeroUsize, Failure> {
        let threads = flag.or(self.file.threads).unwrap_or(cpu.cores);
        NonZeroUsize::new(threads)
            .filter(|threads| threads.get() <= THREADS_MAX)
            .ok_or_else(|| Failure::new(format!("--threads {threads} is outside 1..={THREADS_MAX}")))
    }

    pub(crate) fn compute(&self, args: &ComputeArgs, cpu: &Cpu) -> Result<Compute, Failure> {
        let asked = args.batch_tokens.or(self.file.batch_tokens);
        let batch_tokens = asked.unwrap_or(BATCH_TOKENS);
        let batch_by = if asked.is_some() { BatchBy::User } else { BatchBy::Default };
        let threads = self.threads(args.threads, cpu)?;
        if !(1..=BATCH_TOKENS_MAX).contains(&batch_tokens) {
            return Err(Failure::new(format!(
                "--batch-tokens {batch_tokens} is outside 1..={BATCH_TOKENS_MAX}"
            )));
        }
        Ok(Compute { threads, batch_tokens, batch_by })
    }
}

/// The instruction set that was forced, else the widest of this processor.
#[expect(clippy::disallowed_methods, reason = "settings are resolved here")]
fn isa() -> Result<Isa, Failure> {
    let Some(name) = std::env::var_os(ISA).filter(|name| !name.is_empty()) else { return Ok(Isa::best()) };
    name.to_str().and_then(Isa::from_name).ok_or_else(|| {
        let known: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
        Failure::new(format!("{ISA}={}: this machine has no such instruction set", name.display()))
            .hint(format!("this machine has {}", known.join(", ")))
    })
}

fn read(path: &Path) -> Result<SettingsFile, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(SettingsFile::default()),
        Err(error) => return Err(Failure::io("read", path, &error)),
    };
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Failure::new(format!("{}:{line}: {}", path.display(), error.message())).hint(
            "keys: device, dtype, threads, batch_tokens, memory, store, model, hub, cache_bytes, pdfium",
        )
    })
}
