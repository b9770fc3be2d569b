//! One file for each command, and what several of them need: the machine, and a library's model.

pub(crate) mod bench;
pub(crate) mod calls;
pub(crate) mod collection;
pub(crate) mod compare;
pub(crate) mod correct;
pub(crate) mod doctor;
pub(crate) mod embed;
pub(crate) mod eval;
pub(crate) mod extract;
pub(crate) mod find;
pub(crate) mod generate;
pub(crate) mod generator;
pub(crate) mod gguf;
pub(crate) mod ingest;
pub(crate) mod model;
pub(crate) mod parse_worker;
pub(crate) mod receipt;
pub(crate) mod records;
pub(crate) mod remote;
pub(crate) mod report;
pub(crate) mod schema;
pub(crate) mod scratch;
pub(crate) mod search;
pub(crate) mod select;
pub(crate) mod server;
pub(crate) mod store;
pub(crate) mod tune;
pub(crate) mod vision;

use std::num::NonZeroUsize;

use haul_encoder::device::cpu::CpuDevice;
use haul_encoder::embedder::{Embedder, LoadError, LoadOptions};
use haul_encoder::model::Head;
use haul_encoder::model_dir::ModelDir;
use haul_jobs::models::{ModelRecord, Models};
use haul_jobs::tune::encoder::profile_for;
use haul_jobs::tune::profile::device_key;
use haul_machine::cpu::Cpu;
use haul_machine::dtype::{self, Dtype, DtypeRequest};
use haul_machine::roof;
use haul_machine::verdict::{DeviceRequest, Verdict, resolve};
use haul_store::library::LibrarySettings;

use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{BatchBy, Compute, Settings};

/// The machine, and the device that this run will use on it.
pub(crate) struct Machine {
    pub(crate) request: DeviceRequest,
    pub(crate) cpu: Cpu,
    pub(crate) verdict: Verdict,
}

impl Machine {
    /// Obeys the request or fails before anything else is done; `auto` prints its one verdict line.
    pub(crate) fn resolve(
        request: DeviceRequest,
        settings: &Settings,
        output: &Output,
    ) -> Result<Self, Failure> {
        let cpu = settings.cpu();
        let verdict = resolve(request, &cpu)?;
        if request == DeviceRequest::Auto {
            output.note(&verdict.line());
        }
        if settings.is_isa_forced() {
            output.note(&format!("instruction set: {}, because HAUL_ISA says so", cpu.isa.name()));
        }
        Ok(Self { request, cpu, verdict })
    }

    /// Loads a model's weights onto the device.
    pub(crate) fn load(
        &self,
        model: &ModelDir,
        options: &LoadOptions,
        dtype: Dtype,
        threads: NonZeroUsize,
    ) -> Result<Embedder, LoadError> {
        Embedder::load_with(model, &CpuDevice::new(self.cpu.isa, dtype, threads), options)
    }

    /// The batch tokens that `haul tune` found for a model in a dtype on this device, unless the user says how many. They
    /// change how fast vectors are computed, and no bit of them.
    pub(crate) fn tuned(
        &self,
        compute: Compute,
        model_sha256: &str,
        dtype: Dtype,
        settings: &Settings,
        output: &Output,
    ) -> Compute {
        if compute.batch_by == BatchBy::User {
            return compute;
        }
        let device = device_key(self.request, &self.cpu.name);
        let Some(tuned) = profile_for(&settings.profiles(), model_sha256, &device, dtype) else {
            return compute;
        };
        let batch_tokens = tuned.batch_tokens;
        output.note(&format!("batch tokens: {batch_tokens}, by `haul tune`; --batch-tokens takes others"));
        Compute { batch_tokens, batch_by: BatchBy::Tune, ..compute }
    }

    /// The dtype asked for. `auto` goes by the roofs of this machine and prints its one line.
    pub(crate) fn dtype(
        &self,
        request: DtypeRequest,
        settings: &Settings,
        output: &Output,
    ) -> Result<Dtype, Failure> {
        match request {
            DtypeRequest::Named(dtype) => Ok(dtype),
            DtypeRequest::Auto => {
                let taken = dtype::auto(&roof::load_or_measure(&settings.profiles(), &self.cpu)?);
                output.note(&taken.line());
                Ok(taken.dtype)
            }
        }
    }
}

/// The numbers of a vector that `--dim` asks for; all that the model has without it.
pub(crate) fn dim_of(asked: Option<usize>, model: &ModelDir) -> Result<usize, Failure> {
    let dim = asked.unwrap_or(model.dim());
    if (1..=model.dim()).contains(&dim) {
        return Ok(dim);
    }
    Err(Failure::new(format!("--dim {dim} is outside 1..={}, what {} gives", model.dim(), model.name)))
}

/// Dense vectors of so many numbers, as a library of that width has them.
pub(crate) fn dense_of(dim: usize) -> LoadOptions {
    LoadOptions { heads: vec![], dim: Some(dim) }
}

/// What a library keeps of each text: its vector, and the weights of its tokens where the library has those.
pub(crate) fn outputs_of(library: &LibrarySettings) -> LoadOptions {
    let heads = if library.sparse { vec![Head::Sparse] } else { vec![] };
    LoadOptions { heads, dim: Some(library.dim) }
}

/// What a library's vectors were computed with, and its queries are.
pub(crate) fn dtype_of(library: &LibrarySettings) -> Result<Dtype, Failure> {
    library.dtype.parse().map_err(|error| {
        Failure::new(format!("the library's dtype: {error}")).hint("install the haul that made the library")
    })
}

/// The model that a library was made with: by name, else whatever model has the same identity.
pub(crate) fn model_of(
    library: &LibrarySettings,
    settings: &Settings,
) -> Result<(ModelDir, ModelRecord), Failure> {
    let models = Models::open(&settings.models());
    let listed = models.list()?;
    let is_it = |record: &&ModelRecord| record.sha256 == library.model_sha256;
    let records = listed.iter().filter_map(|listed| listed.record.as_ref().ok());
    let named = records.clone().find(|record| record.name == library.model_name).filter(is_it);
    if let Some(record) = named.or_else(|| records.clone().find(is_it)) {
        return Ok(models.find(&record.name)?);
    }
    // A model of that name that is damaged says more than that it is missing.
    if listed.iter().any(|listed| listed.name == library.model_name && listed.record.is_err()) {
        models.find(&library.model_name)?;
    }
    Err(Failure::new(format!(
        "the library's model {} (sha256 {}) is not here",
        library.model_name,
        &library.model_sha256[..library.model_sha256.len().min(12)]
    ))
    .hint("add the same model with `haul model add DIR`; `haul model list` shows what is here"))
}
