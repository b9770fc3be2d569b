//! What commands that ask a language model have in common: their receipt and their exit code.

use std::collections::BTreeMap;
use std::time::SystemTime;

use haul_generate::Generator;
use haul_jobs::calls::Asked;
use haul_machine::verdict::Verdict;
use haul_machine::{clock, memory};
use haul_pipeline::receipt::{
    CacheUse, Calls, Failure as Failed, Items, MemoryUse, ModelUse, Rate, Receipt, RunState, SCHEMA,
    Truncated, Work,
};
use serde_json::{Value, json};

use crate::Exit;
use crate::cli::llm::EngineArgs;
use crate::commands::generator::Opened;

/// What a run says that a signal ended.
pub(crate) const INTERRUPTED: &str = "stopped; the same command goes on from here";

/// How a run went.
pub(crate) struct Run<'a> {
    pub(crate) job: &'a str,
    pub(crate) started: SystemTime,
    /// Wall time of the whole run.
    pub(crate) seconds: f64,
    /// Of which with an open model.
    pub(crate) answering_s: f64,
    pub(crate) settings: Value,
    pub(crate) asked: Asked,
    /// What an item is.
    pub(crate) unit: &'a str,
}

/// The settings of the engine as they were resolved.
pub(crate) fn settings_shown(args: &EngineArgs, generator: &Generator) -> Value {
    let mut shown = json!({ "model": args.model, "template": args.template });
    match generator {
        Generator::Local(local) => {
            shown["engine"] = json!(local.hello().engine);
            shown["load"] = json!(local.load());
            shown["context_tokens"] = json!(local.loaded().n_ctx);
            shown["restarts"] = json!(local.restarts());
        }
        Generator::Remote(remote) => {
            shown["server"] = json!({"address": remote.address().to_string(), "model": remote.model(), "parallel": remote.parallel()});
        }
        Generator::Fake(_) => {}
    }
    shown
}

impl Run<'_> {
    /// The receipt of the run.
    #[expect(clippy::cast_precision_loss, reason = "rates are for people; exact to 2^53")]
    pub(crate) fn receipt(self, opened: &Opened, items: Items, failures: Vec<Failed>) -> Receipt {
        let totals = self.asked.totals;
        let tokens = totals.prefill_tokens + totals.decode_tokens;
        let flops = 2 * opened.model.parameters * tokens;
        let answering_s = self.answering_s.max(1e-9);
        Receipt {
            schema: SCHEMA.to_owned(),
            job: self.job.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: clock::hostname(),
            state: if self.asked.interrupted { RunState::Interrupted } else { RunState::Finished },
            started: clock::rfc3339_utc(self.started),
            finished: clock::rfc3339_utc(SystemTime::now()),
            seconds: self.seconds,
            settings: self.settings,
            device: verdict(opened),
            model: Some(ModelUse {
                id: opened.model.id.clone(),
                sha256: opened.model.sha256.clone(),
                dtype: opened.model.quantisation.clone(),
                pooling: "none".to_owned(),
                dim: 0,
                max_tokens: opened.model.max_tokens as usize,
                loads: 1,
            }),
            rate: Rate {
                items_per_s: items.by_verdict.values().sum::<u64>() as f64 / answering_s,
                unit: self.unit.to_owned(),
                tokens_per_s: tokens as f64 / answering_s,
                gflops: flops as f64 / answering_s / 1e9,
                roof_gflops: BTreeMap::new(),
                percent_of_roof: 0.0,
            },
            items,
            work: Work { tokens, flops, bytes_read: 0 },
            calls: Some(Calls {
                n: totals.calls,
                prefill_tokens: totals.prefill_tokens,
                decode_tokens: totals.decode_tokens,
                reused_prefix_tokens: totals.reused_prefix_tokens,
                journalled: self.asked.journalled,
                retries: totals.retries,
                answering_s: self.answering_s,
            }),
            sent: None,
            passes: vec![],
            stages: vec![],
            quality: None,
            truncated: Truncated::default(),
            cache: CacheUse::default(),
            memory: MemoryUse { peak_rss: memory::peak_rss_bytes(), device_peak: None },
            forecast: None,
            failures,
            notes: vec![],
        }
    }
}

/// Of a server, what its answers said is in it too.
fn verdict(opened: &Opened) -> Verdict {
    match &opened.generator {
        Generator::Remote(remote) => remote.verdict(),
        _ => opened.verdict.clone(),
    }
}

/// 0 when all items are ok, 1 when some are not, 130 when a rerun goes on.
pub(crate) fn exit(receipt: &Receipt) -> Exit {
    match receipt.state {
        RunState::Interrupted => Exit::Interrupted,
        _ if receipt.items.ok < receipt.items.total => Exit::SomeNotOk,
        _ => Exit::Ok,
    }
}
