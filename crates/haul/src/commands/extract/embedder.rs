//! The embedding model of `haul extract --embedder`.

use haul_encoder::embedder::{Embedder as Weights, LoadOptions};
use haul_encoder::model_dir::ModelDir;
use haul_jobs::extract::retrieve::embed::{Parts, Streaming};
use haul_jobs::extract::retrieve::hybrid::Embedding;
use haul_jobs::models::{ModelRecord, Models};
use haul_machine::dtype::{Dtype, DtypeRequest};
use haul_machine::verdict::DeviceRequest;
use haul_pipeline::batch::BatchLimits;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::{Stages, Stop};
use serde_json::{Value, json};

use crate::cli::ComputeArgs;
use crate::cli::llm::ExtractArgs;
use crate::commands::Machine;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Compute, Settings};

/// An embedding model on the processor, wherever the language model is: a company's windows are a matter of seconds.
pub(super) struct Embedder {
    model: ModelDir,
    record: ModelRecord,
    dtype: Dtype,
    compute: Compute,
    weights: Weights,
}

impl Embedder {
    pub(super) fn open(
        name: &str,
        args: &ExtractArgs,
        settings: &Settings,
        output: &Output,
    ) -> Result<Embedder, Failure> {
        let machine = Machine::resolve(DeviceRequest::Cpu, settings, output)?;
        let (device, threads) = (args.engine.device.clone(), args.engine.threads);
        let compute = settings.compute(&ComputeArgs { device, threads, batch_tokens: None }, &machine.cpu)?;
        let (model, record) = Models::open(&settings.models()).find(name)?;
        let dtype = machine.dtype(DtypeRequest::Auto, settings, output)?;
        let weights = machine.load(&model, &LoadOptions::default(), dtype, compute.threads)?;
        Ok(Embedder { model, record, dtype, compute, weights })
    }

    pub(super) fn embedding<'a>(
        &'a self,
        stages: &'a Stages,
        progress: &'a Progress,
        stop: &'a Stop,
    ) -> Embedding<'a> {
        let (model, embedder) = (&self.model, &self.weights);
        Embedding {
            streaming: Streaming {
                max_tokens: model.max_tokens,
                prompt: String::new(),
                batch: BatchLimits { tokens: self.compute.batch_tokens, items: self.compute.batch_tokens },
                compute_threads: self.compute.threads.get(),
            },
            parts: Parts { model, embedder, stages, progress, stop },
            identity: format!("{} {}", self.record.sha256, self.dtype.name()),
        }
    }
}

/// How windows are ranked, as a receipt says it.
pub(super) fn ranking(embedder: Option<&Embedder>) -> Value {
    match embedder {
        None => json!({"by": "bm25"}),
        Some(Embedder { record, dtype, .. }) => json!({
            "by": "hybrid",
            "embedder": {"id": record.name, "sha256": record.sha256, "dtype": dtype.name()},
        }),
    }
}
