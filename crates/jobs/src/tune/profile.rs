//! What tuning found, kept for a model on a device: a file in `HAUL_HOME/profiles` for each pair.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use haul_generate::local::{FlashAttention, Load};
use haul_machine::clock;
use haul_machine::verdict::DeviceRequest;
use serde::{Deserialize, Serialize};

/// Settings of a load that are tuned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedLoad {
    /// Cells of the KV cache.
    pub n_ctx: u32,
    /// Most tokens of one decode call.
    pub n_batch: u32,
    /// Tokens that kernels see at once.
    pub n_ubatch: u32,
    /// Sequences that decode together.
    pub n_seq_max: u32,
    /// Threads.
    pub threads: u32,
    /// Type of the K cache.
    pub type_k: String,
    /// Type of the V cache.
    pub type_v: String,
    /// Whether attention is one fused operation.
    pub flash_attention: FlashAttention,
}

/// What tuning found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile<T> {
    /// Hash of the model.
    pub model: String,
    /// What the model is called.
    pub name: String,
    /// The device; see [`device_key`].
    pub device: String,
    /// When, RFC 3339 in UTC.
    pub measured: String,
    /// How many times faster than the default.
    pub gain: f64,
    /// The settings.
    pub best: T,
}

/// A profile that cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the profile {}: {source}", path.display())]
pub struct ProfileError {
    path: PathBuf,
    source: std::io::Error,
}

impl ProfileError {
    /// The user's next step.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "the profiles directory must be writable; HAUL_HOME says where it is"
    }
}

impl TunedLoad {
    /// The tuned part of a load.
    #[must_use]
    pub fn of(load: &Load) -> TunedLoad {
        TunedLoad {
            n_ctx: load.n_ctx,
            n_batch: load.n_batch,
            n_ubatch: load.n_ubatch,
            n_seq_max: load.n_seq_max,
            threads: load.threads,
            type_k: load.type_k.clone(),
            type_v: load.type_v.clone(),
            flash_attention: load.flash_attention,
        }
    }

    /// Puts it into a load; what is not tuned stays.
    pub fn apply(&self, load: &mut Load) {
        load.n_ctx = self.n_ctx;
        load.n_batch = self.n_batch;
        load.n_ubatch = self.n_ubatch;
        load.n_seq_max = self.n_seq_max;
        load.threads = self.threads;
        load.type_k.clone_from(&self.type_k);
        load.type_v.clone_from(&self.type_v);
        load.flash_attention = self.flash_attention;
    }

    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        let flash = match self.flash_attention {
            FlashAttention::Auto => "auto",
            FlashAttention::On => "on",
            FlashAttention::Off => "off",
        };
        format!(
            "threads {}, batch {}/{}, flash attention {flash}, kv {}/{}, sequences {}, context {}",
            self.threads, self.n_batch, self.n_ubatch, self.type_k, self.type_v, self.n_seq_max, self.n_ctx
        )
    }
}

impl<T> Profile<T> {
    /// Of now.
    #[must_use]
    pub fn new(model: &str, name: &str, device: &str, gain: f64, best: T) -> Self {
        Self {
            model: model.to_owned(),
            name: name.to_owned(),
            device: device.to_owned(),
            measured: clock::rfc3339_utc(SystemTime::now()),
            gain,
            best,
        }
    }
}

/// What a device is called in profiles: it is known before a model is loaded, and a profile of `auto` is not one of
/// `cpu`, because `auto` may take a card tomorrow.
#[must_use]
pub fn device_key(request: DeviceRequest, cpu_name: &str) -> String {
    format!("{request} on {cpu_name}")
}

/// What was found for a model with this hash on a device; `None` where it was not tuned, or the profile cannot be read.
#[must_use]
pub fn profile_for(profiles_dir: &Path, model_identity: &str, device_name: &str) -> Option<TunedLoad> {
    read(profiles_dir, model_identity, device_name)
}

/// The best settings of any kind.
pub(super) fn read<T: for<'a> Deserialize<'a>>(dir: &Path, model: &str, device: &str) -> Option<T> {
    let path = dir.join(file_name(model, device));
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!("the profile {} cannot be read: {error}", path.display());
            return None;
        }
    };
    match serde_json::from_slice::<Profile<T>>(&text) {
        Ok(profile) if profile.model == model && profile.device == device => Some(profile.best),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!("the profile {} is none: {error}", path.display());
            None
        }
    }
}

/// Keeps a profile in place of an older one.
///
/// # Errors
/// The folder cannot be written.
pub fn save<T: Serialize>(profiles_dir: &Path, profile: &Profile<T>) -> Result<PathBuf, ProfileError> {
    let path = profiles_dir.join(file_name(&profile.model, &profile.device));
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = || {
        std::fs::create_dir_all(profiles_dir)?;
        std::fs::write(&temporary, serde_json::to_vec_pretty(profile)?)?;
        std::fs::rename(&temporary, &path)
    };
    match written() {
        Ok(()) => Ok(path),
        Err(source) => Err(ProfileError { path, source }),
    }
}

/// `tune-<hash>-<hash of the device's name>.json`
fn file_name(model: &str, device: &str) -> String {
    let short = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..16].to_owned();
    format!("tune-{}-{}.json", short(model), short(device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::tests::control;

    #[test]
    fn a_profile_is_of_one_model_on_one_device() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("profiles");
        assert_eq!(profile_for(&dir, "a", "cpu on x"), None);
        let best = TunedLoad { n_ubatch: 256, ..control() };
        let path = save(&dir, &Profile::new("a", "a.gguf", "cpu on x", 1.5, best.clone())).unwrap();
        assert_eq!(profile_for(&dir, "a", "cpu on x"), Some(best.clone()));
        assert_eq!(profile_for(&dir, "b", "cpu on x"), None);
        assert_eq!(profile_for(&dir, "a", "auto on x"), None);
        // A file of another model under this name, and one that is no profile.
        std::fs::copy(&path, dir.join(file_name("b", "cpu on x"))).unwrap();
        assert_eq!(profile_for(&dir, "b", "cpu on x"), None);
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(profile_for(&dir, "a", "cpu on x"), None);
        assert_eq!(device_key(DeviceRequest::Cuda(Some(0)), "x"), "cuda:0 on x");
    }

    #[test]
    fn a_tuned_load_goes_into_a_load_and_leaves_the_rest() {
        let mut load = crate::proof::tests::load(&[1]);
        let tuned = TunedLoad { n_ctx: 4096, n_batch: 1024, ..control() };
        tuned.apply(&mut load);
        assert_eq!(TunedLoad::of(&load), tuned);
        assert_eq!((load.devices.as_slice(), load.mmap), (&[1][..], true));
        assert_eq!(
            tuned.line(),
            "threads 2, batch 1024/512, flash attention auto, kv f16/f16, sequences 1, context 4096"
        );
    }
}
