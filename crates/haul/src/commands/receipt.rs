//! Receipts: of runs that measure, and of runs that fail.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use haul_machine::verdict::{DeviceRequest, Placement, Verdict};
use haul_machine::{clock, memory};
use haul_pipeline::receipt::{
    CacheUse, Calls, Failure as NotOk, Items, MemoryUse, Note, Rate, Receipt, RunState, SCHEMA, Truncated,
    Work,
};
use serde_json::{Value, json};

use crate::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// A run that has begun to work: an earlier run's receipt in its place says nothing of it.
pub(crate) struct Begun<'a> {
    pub(crate) job: &'static str,
    pub(crate) started: SystemTime,
    pub(crate) device: DeviceRequest,
    /// The folder of a run that has one.
    pub(crate) out: Option<&'a Path>,
    /// Where the user wants the receipt too.
    pub(crate) receipt: Option<&'a Path>,
}

impl Begun<'_> {
    /// Hands on how the run went. Where it failed there is a receipt that says so, and why.
    pub(crate) fn ended<T>(&self, ran: Result<T, Failure>, output: &Output) -> Result<T, Failure> {
        if let Err(failure) = &ran {
            let receipt = self.failed(failure);
            let files = self.out.map(|out| out.join("receipt.json")).into_iter();
            for file in files.chain(self.receipt.map(Path::to_owned)) {
                if let Err(error) = receipt.write(&file) {
                    output.note(&error.to_string());
                }
            }
        }
        ran
    }

    fn failed(&self, failure: &Failure) -> Receipt {
        let (state, verdict) = match failure.exit() {
            Exit::Interrupted => (RunState::Interrupted, "interrupted"),
            _ => (RunState::Failed, "failed"),
        };
        let why = NotOk { item: self.job.to_owned(), verdict: verdict.to_owned(), why: failure.to_string() };
        let measuring = Measuring {
            job: self.job,
            started: self.started,
            settings: json!({}),
            device: nothing_measured(self.device),
            unit: "item",
            items: Items::default(),
            calls: None,
            device_peak: None,
            failures: vec![why],
            notes: vec![],
            state,
        };
        measuring.receipt()
    }
}

/// Said before hours of work, not after them.
pub(crate) fn check_folder(receipt: Option<&Path>) -> Result<(), Failure> {
    let Some(folder) = receipt.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    if folder.is_dir() {
        return Ok(());
    }
    Err(Failure::new(format!("--receipt: there is no folder {}", folder.display()))
        .hint("make the folder first"))
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
pub(crate) fn write(receipt: &Receipt, out: &Path, too: Option<&Path>) -> Result<(), Failure> {
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
    pub(crate) failures: Vec<NotOk>,
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
                roof_gflops: BTreeMap::new(),
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
