//! Settings, resolved once: `haul.toml` in the home folder, then the environment, then flags.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use haul_machine::cpu::Cpu;
use haul_machine::verdict::DeviceRequest;
use serde::Deserialize;

use crate::cli::{ComputeArgs, DeviceArgs, Global, StoreArg};
use crate::failure::Failure;
use crate::home_unix;

/// Name of the settings file in the home folder.
const FILE: &str = "haul.toml";
/// Tokens in one batch: activations of small models stay in the cache of a core, and weights are read once for
/// eight chunks of 256 tokens.
const BATCH_TOKENS: usize = 2048;
const BATCH_TOKENS_MAX: usize = 1 << 20;
const THREADS_MAX: usize = 1024;
/// The cache of parsed text grows to this.
const CACHE_BYTES: u64 = 4 << 30;

/// What is set for all commands.
#[derive(Debug)]
pub(crate) struct Settings {
    home: PathBuf,
    file: SettingsFile,
}

/// `haul.toml`. Every key has a flag or an environment variable that goes before it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    device: Option<String>,
    threads: Option<usize>,
    batch_tokens: Option<usize>,
    store: Option<PathBuf>,
    model: Option<String>,
    hub: Option<String>,
    cache_bytes: Option<u64>,
}

/// How a command computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compute {
    pub(crate) threads: NonZeroUsize,
    pub(crate) batch_tokens: usize,
}

impl Settings {
    /// Reads `haul.toml` if it is there.
    pub(crate) fn resolve(global: &Global) -> Result<Self, Failure> {
        let home = global.home.clone().or_else(home_unix::default_home).ok_or_else(|| {
            Failure::new("there is no home folder to keep models and caches in")
                .hint("set HAUL_HOME to a folder")
        })?;
        let file = read(&home.join(FILE))?;
        Ok(Self { home, file })
    }

    /// `HAUL_HOME/models`.
    pub(crate) fn models(&self) -> PathBuf {
        self.home.join("models")
    }

    /// `HAUL_HOME/profiles`.
    pub(crate) fn profiles(&self) -> PathBuf {
        self.home.join("profiles")
    }

    /// `HAUL_HOME/cache/text`.
    pub(crate) fn text_cache(&self) -> PathBuf {
        self.home.join("cache").join("text")
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

    pub(crate) fn store(&self, flag: &StoreArg) -> Result<PathBuf, Failure> {
        let store = flag.store.clone().or_else(|| self.file.store.clone()).ok_or_else(|| {
            Failure::new("no library is named")
                .hint("give --store FILE.haul, or set HAUL_STORE, or store in haul.toml")
        })?;
        if store.to_str().is_some_and(|name| name.contains("://")) {
            return Err(Failure::new(format!(
                "--store {}: this build knows libraries in files only",
                store.display()
            ))
            .hint("give the path of a file, such as books.haul"));
        }
        Ok(store)
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

    pub(crate) fn compute(&self, args: &ComputeArgs, cpu: &Cpu) -> Result<Compute, Failure> {
        let threads = args.threads.or(self.file.threads).unwrap_or(cpu.cores);
        let batch_tokens = args.batch_tokens.or(self.file.batch_tokens).unwrap_or(BATCH_TOKENS);
        let threads = NonZeroUsize::new(threads)
            .filter(|threads| threads.get() <= THREADS_MAX)
            .ok_or_else(|| Failure::new(format!("--threads {threads} is outside 1..={THREADS_MAX}")))?;
        if !(1..=BATCH_TOKENS_MAX).contains(&batch_tokens) {
            return Err(Failure::new(format!(
                "--batch-tokens {batch_tokens} is outside 1..={BATCH_TOKENS_MAX}"
            )));
        }
        Ok(Compute { threads, batch_tokens })
    }
}

fn read(path: &Path) -> Result<SettingsFile, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(SettingsFile::default()),
        Err(error) => return Err(Failure::io("read", path, &error)),
    };
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Failure::new(format!("{}:{line}: {}", path.display(), error.message()))
            .hint("keys: device, threads, batch_tokens, store, model, hub, cache_bytes")
    })
}
