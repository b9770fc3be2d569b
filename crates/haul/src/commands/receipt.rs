//! Where receipts stand: of runs that measure, of runs that fail, and never in place of anything else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
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

/// A receipt begins so, within this many bytes.
const BEGINNING: &str = "\"schema\": \"haul.receipt/";
const BEGINNING_BYTES: u64 = 64;

/// A run, and where its receipt goes.
pub(crate) struct Job<'a> {
    pub(crate) name: &'static str,
    pub(crate) started: SystemTime,
    pub(crate) device: DeviceRequest,
    /// The folder of a run that has one.
    pub(crate) out: Option<&'a Path>,
    /// Where the user wants the receipt too.
    pub(crate) receipt: Option<&'a Path>,
}

impl Job<'_> {
    /// Takes away an earlier run's receipt: from now on it says nothing of what is there, also where this run is killed.
    /// What fails before has changed nothing, and leaves the receipt of what is there.
    pub(crate) fn begin(&self) -> Result<(), Failure> {
        for file in self.files() {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Failure::io("remove", &file, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Hands on how the run went. Where it failed there is a receipt that says so, and why.
    pub(crate) fn ended<T>(&self, ran: Result<T, Failure>, output: &Output) -> Result<T, Failure> {
        if let Err(failure) = &ran {
            let receipt = self.failed(failure);
            for file in self.files() {
                if let Err(error) = write_too(&receipt, Some(&file)) {
                    output.note(&error.to_string());
                }
            }
        }
        ran
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let in_folder = self.out.map(|out| out.join("receipt.json"));
        in_folder.into_iter().chain(self.receipt.map(Path::to_owned))
    }

    fn failed(&self, failure: &Failure) -> Receipt {
        let (state, verdict) = match failure.exit() {
            Exit::Interrupted => (RunState::Interrupted, "interrupted"),
            _ => (RunState::Failed, "failed"),
        };
        let Job { name, started, device, .. } = *self;
        let why = NotOk { item: name.to_owned(), verdict: verdict.to_owned(), why: failure.to_string() };
        let measuring = Measuring {
            job: name,
            started,
            settings: json!({}),
            device: nothing_measured(device),
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

/// Whether a receipt can stand where the user wants it: said before hours of work, not after them.
pub(crate) fn check(receipt: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = receipt else { return Ok(()) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Failure::new(format!("--receipt: there is no folder {}", folder.display()))
            .hint("make the folder first"));
    }
    let is_free = match fs::metadata(path) {
        Ok(found) => found.is_file() && (found.len() == 0 || is_receipt(path)?),
        Err(_) => true,
    };
    if is_free {
        return Ok(());
    }
    Err(Failure::new(format!("--receipt: {} is there, and is no receipt", path.display()))
        .hint("nothing but an earlier receipt is replaced: give another name"))
}

fn is_receipt(path: &Path) -> Result<bool, Failure> {
    let mut beginning = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BEGINNING_BYTES).read_to_end(&mut beginning));
    read.map_err(|error| Failure::io("read", path, &error))?;
    Ok(String::from_utf8_lossy(&beginning).contains(BEGINNING))
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
    write_too(receipt, too)
}

/// Writes a receipt where the user wants it, unless the run itself left something else there.
pub(crate) fn write_too(receipt: &Receipt, too: Option<&Path>) -> Result<(), Failure> {
    check(too)?;
    too.map_or(Ok(()), |path| Ok(receipt.write(path)?))
}

/// What a receipt is made of where a run measures, or comes to nothing.
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

/// Files of results in a folder that are older than the run: they are of another one, or of other settings.
pub(crate) fn left_by_others(
    folder: &Path,
    started: SystemTime,
    is_result: impl Fn(&str) -> bool,
) -> Result<Vec<Note>, Failure> {
    let failed = |error: std::io::Error| Failure::io("list", folder, &error);
    let mut notes = vec![];
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_result = is_result(&entry.file_name().to_string_lossy());
        if is_result && entry.metadata().and_then(|of| of.modified()).map_err(failed)? < started {
            let says = "of an earlier run; this one has not written it".to_owned();
            notes.push(Note { item: entry.path().display().to_string(), says });
        }
    }
    notes.sort_by(|a, b| a.item.cmp(&b.item));
    Ok(notes)
}
