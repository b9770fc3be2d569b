//! The receipt of a run.

use std::collections::BTreeMap;
use std::time::SystemTime;

use haul_corpus::verdict::Verdict;
use haul_jobs::vision::mc::Outcome;
use haul_machine::dtype::Dtype;
use haul_machine::{clock, memory, roof};
use haul_pipeline::receipt::{
    Items, MemoryUse, ModelUse, Quality, Rate as Speed, Receipt, RunState, SCHEMA, Truncated, Work,
};
use haul_pipeline::stage::Stages;
use serde_json::{Value, json};

use super::asked::{Asked, Model};
use super::chosen::Chosen;
use super::{Done, JOB, Ran};

impl Done {
    pub(super) fn receipt(
        &self,
        asked: &Asked<'_>,
        chosen: &Chosen,
        started: SystemTime,
        stages: &Stages,
        roofs: &roof::Roofs,
    ) -> Receipt {
        let seconds = stages.elapsed().as_secs_f64();
        let sum = |of: fn(&Outcome) -> u64| self.ran.iter().map(|ran| of(&ran.outcome)).sum::<u64>();
        let (passes, flops) = (sum(|outcome| outcome.passes), sum(|outcome| outcome.flops));
        let rate = self.rate(asked, passes, flops, roofs);
        let device = match flops {
            0 => asked.machine.verdict.clone(),
            _ => asked.machine.verdict.clone().with_measured_rate(rate.gflops, asked.dtype, roofs),
        };
        let tokens = self.ran.iter().map(|ran| (ran.outcome.passes + ran.outcome.prefixes) * ran.tokens);
        Receipt {
            schema: SCHEMA.to_owned(),
            job: JOB.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: clock::hostname(),
            state: if self.interrupted { RunState::Interrupted } else { RunState::Finished },
            started: clock::rfc3339_utc(started),
            finished: clock::rfc3339_utc(SystemTime::now()),
            seconds,
            settings: self.settings_shown(asked, chosen),
            device,
            model: asked.models.first().map(|model| model_use(asked, model, self.ran.first())),
            items: self.items(chosen),
            work: Work { tokens: tokens.sum(), flops, bytes_read: self.bytes_read },
            calls: None,
            sent: None,
            passes: vec![],
            rate,
            stages: stages.accounts(),
            quality: self.quality(),
            truncated: Truncated::default(),
            cache: self.cache,
            memory: MemoryUse { peak_rss: memory::peak_rss_bytes(), device_peak: None },
            forecast: None,
            failures: self.failures.clone(),
            notes: self.notes.clone(),
        }
    }

    fn items(&self, chosen: &Chosen) -> Items {
        let mut by_verdict: BTreeMap<String, u64> = BTreeMap::new();
        for failure in &self.failures {
            *by_verdict.entry(failure.verdict.clone()).or_default() += 1;
        }
        let ok = self.images.len() as u64;
        if ok > 0 {
            by_verdict.insert(Verdict::Ok.name().to_owned(), ok);
        }
        // Images whose every result was there, for every model.
        let reused = self.ran.iter().map(|ran| ran.outcome.reused_images).min().unwrap_or(0);
        let total = (chosen.files.len() + chosen.failures.len()) as u64;
        Items { total, ok, by_verdict, reused, ..Items::default() }
    }

    #[expect(clippy::cast_precision_loss, reason = "rates are for people; exact to 2^53")]
    fn rate(&self, asked: &Asked<'_>, passes: u64, flops: u64, roofs: &roof::Roofs) -> Speed {
        let compute_s: f64 = self.ran.iter().map(|ran| ran.outcome.compute_s).sum();
        let per_s = |count: u64| if compute_s > 0.0 { count as f64 / compute_s } else { 0.0 };
        let gflops = per_s(flops) / 1e9;
        let tokens: u64 = self.ran.iter().map(|ran| ran.outcome.passes * ran.tokens).sum();
        Speed {
            items_per_s: per_s(passes),
            unit: "image pass".to_owned(),
            tokens_per_s: per_s(tokens),
            gflops,
            roof_gflops: roofs.gflops.clone(),
            percent_of_roof: 100.0 * gflops / roofs.of(asked.dtype),
        }
    }

    /// Of the model whose dtype costs most.
    fn quality(&self) -> Option<Quality> {
        let all = self.ran.iter().filter_map(|ran| Some((ran.outcome.rounding.as_ref()?, ran.tokens)));
        let (rounding, tokens) = all.min_by(|a, b| a.0.cosine.total_cmp(&b.0.cosine))?;
        Some(Quality {
            against: Dtype::F32.name().to_owned(),
            metric: "cosine".to_owned(),
            delta: 1.0 - rounding.cosine,
            cosine_min: rounding.cosine_min,
            top10_overlap: None,
            texts: (rounding.images * rounding.passes) as u64,
            text_tokens_max: tokens,
            seconds: rounding.seconds,
        })
    }

    fn settings_shown(&self, asked: &Asked<'_>, chosen: &Chosen) -> Value {
        let Asked { args, models, .. } = asked;
        let shown = self.settings.as_ref().map(|settings| {
            json!({
                "sites": settings.sites.to_string(), "dropout": settings.dropout(), "trials": settings.trials,
                "perturbation": settings.perturbation.to_string(), "shared_masks": settings.shared_masks,
                "passes": settings.passes, "nested": settings.nested, "seed": settings.seed,
                "batch": settings.batch,
            })
        });
        let models: Vec<Value> = models
            .iter()
            .map(|model| {
                json!({"name": model.tower.name, "sha256": model.sha256, "image_size": model.tower.config.image_size,
                       "dim": model.tower.dim(), "preprocess": model.tower.preprocess})
            })
            .collect();
        let conditions = self.ran.iter().filter_map(|ran| ran.condition.as_ref()).collect::<Vec<_>>();
        let rounding = self.ran.iter().map(|ran| &ran.outcome.rounding).collect::<Vec<_>>();
        json!({
            "experiment": asked.experiment.name(), "images": args.images, "found": chosen.found, "sampling": chosen.sampling,
            "manifest": args.images_taken.manifest, "models": models, "passes": shown, "dtype": asked.dtype.name(),
            "threads": asked.threads, "ddof": asked.bias.ddof(), "gram": args.gram, "save_passes": args.save_passes,
            "as_they_ran": args.as_they_ran, "conditions": conditions, "pilots": self.pilots, "rounding": rounding, "reused_passes": self.ran.iter().map(|ran| ran.outcome.reused_passes).sum::<u64>(),
            "prefixes": self.ran.iter().map(|ran| ran.outcome.prefixes).sum::<u64>(),
        })
    }
}

fn model_use(asked: &Asked<'_>, model: &Model, ran: Option<&Ran>) -> ModelUse {
    ModelUse {
        id: model.tower.name.clone(),
        sha256: model.sha256.clone(),
        dtype: asked.dtype.name().to_owned(),
        pooling: match model.tower.config.head {
            haul_encoder::model::vision::VisionHead::Class { .. } => "class",
            haul_encoder::model::vision::VisionHead::Probe => "probe",
        }
        .to_owned(),
        dim: model.tower.dim(),
        max_tokens: model.tower.config.tokens(),
        loads: ran.map_or(0, |ran| ran.outcome.loads),
    }
}
