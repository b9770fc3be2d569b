//! `compare`: files of one model, such as its quantisations, beside each other: speed with the proof of where it ran,
//! distributions on the user's text, task cases, a long text, memory, and a rule that says which to take.
//!
//! One file is loaded at a time, the base first. What the base says about the text is kept (the most likely tokens of
//! each position), so that the others are compared without it.
//!
//! Answers to the task cases are in the journal, and a run that is started again does not ask for them again. Everything
//! else is a measurement of this machine at this hour, and is made anew: speeds of two hours are not to be compared.

pub mod bench_format;
pub mod cases;
pub mod divergence;
pub mod document;
pub mod rule;

use std::path::PathBuf;

use haul_generate::call::Totals;
use haul_generate::local::{Load, Loaded, Local, Score, Scored};
use haul_generate::{GenerateError, Generator};
use haul_machine::verdict::{DeviceRequest, Placement, Verdict};
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::Stop;
use serde::Serialize;

use crate::calls::CallsError;
use crate::proof::{self, Taken};
use crate::speed::{self, Speed, Wanted};
use crate::statistics::{Paired, Ratio};
use cases::{CaseSet, CasesError, Scores};
use divergence::{Divergence, Divergences, TOP_K, Window};
use document::Document;
use rule::{Candidate, Recommendation};

/// Tokens of the text that distributions are compared on at most; windows are spread over the whole of it.
pub const SCORED_TOKENS_MAX: usize = 65_536;
/// Tokens of a prefill, as llama-bench takes them.
pub const PREFILL_TOKENS: u32 = 512;
/// Tokens of a decode, likewise.
pub const DECODE_TOKENS: u32 = 128;
/// Part of the context that an answer may take.
const ANSWER_SHARE: u32 = 2;

/// What is compared.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The user's text.
    pub text: String,
    /// Task cases.
    pub cases: CaseSet,
    /// Measured runs of each probe.
    pub repetitions: u32,
    /// What was asked for, for the verdicts.
    pub device: DeviceRequest,
}

/// A file to compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// What it is called by in the report; no two are called alike.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Hash of it.
    pub identity: String,
}

/// What the work is done with.
pub struct Parts<'a> {
    /// Loads a file, in a process of its own.
    pub open: &'a dyn Fn(&Subject) -> Result<Local, GenerateError>,
    /// What main memory gives at this moment, in 10^9 bytes per second.
    pub read_gb_per_s: &'a dyn Fn() -> f64,
    /// The processor's name.
    pub cpu: &'a str,
    /// Hears what is being done.
    pub say: &'a dyn Fn(&str),
    /// Where answers to task cases are kept.
    pub journal: &'a mut Journal,
    /// Counts files, and what their models compute.
    pub progress: &'a Progress,
    /// Set when the run should end early.
    pub stop: &'a Stop,
}

/// The whole comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the file that the others are compared with.
    pub base: String,
    /// Tokens of the text.
    pub text_tokens: u64,
    /// Tokens of it on which distributions are compared.
    pub scored_tokens: u64,
    /// Words of the text.
    pub text_words: u64,
    /// The files, the base first.
    pub files: Vec<FileReport>,
    /// All others against the base.
    pub against_base: Vec<Against>,
    /// Which to take.
    pub recommendation: Recommendation,
    /// Whether the run was stopped early; the files are those that were finished.
    pub interrupted: bool,
}

/// One file.
#[derive(Clone, Debug, Serialize)]
pub struct FileReport {
    /// The file.
    #[serde(flatten)]
    pub subject: Subject,
    /// What its header calls it.
    pub description: String,
    /// Bytes of its tensors.
    pub tensor_bytes: u64,
    /// Numbers of its tensors.
    pub parameters: u64,
    /// Milliseconds that reading it took.
    pub load_ms: u64,
    /// Milliseconds that making its context took.
    pub context_ms: u64,
    /// What it takes.
    pub memory: Taken,
    /// Prefill and decode.
    pub speed: Speed,
    /// What main memory gave before and after its probes, in 10^9 bytes per second: where this differs between files,
    /// the machine had other work.
    pub machine_read_gb_per_s: (f64, f64),
    /// Where it ran, and what proves it.
    pub placement: Verdict,
    /// Against the base; `None` for the base, or where it cannot be compared.
    pub divergence: Option<Divergence>,
    /// Why it cannot.
    pub no_divergence: Option<String>,
    /// Task cases.
    pub cases: Option<Scores>,
    /// The text as a long document.
    pub document: Document,
    /// Lines of the engine's log that warn.
    pub warnings: Vec<String>,
    /// What was loaded.
    #[serde(skip)]
    pub load: Load,
    /// The processor.
    #[serde(skip)]
    pub cpu_info: String,
    /// Backends of the engine's devices.
    #[serde(skip)]
    pub backends: String,
    /// Calls that were asked.
    #[serde(skip)]
    pub totals: Totals,
    /// Calls whose answers the journal had.
    #[serde(skip)]
    pub journalled: u64,
}

/// A file against the base.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Against {
    /// The file.
    pub name: String,
    /// Why speeds say nothing: the two ran in different places, or one of them nobody knows where.
    pub not_comparable: Option<String>,
    /// Size over the base's.
    pub bytes_ratio: f64,
    /// Prefill speed over the base's.
    pub prefill: Option<Ratio>,
    /// Decode speed over the base's.
    pub decode: Option<Ratio>,
    /// Words per second of the long text over the base's; measured once.
    pub document_ratio: Option<f64>,
    /// Cases passed, less the base's.
    pub cases: Option<Paired>,
}

/// A comparison could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// Cases that cannot be used.
    #[error(transparent)]
    Cases(#[from] CasesError),
    /// A file that cannot be loaded, or a worker that is gone.
    #[error("{name}: {source}")]
    File {
        /// Which.
        name: String,
        /// Why.
        source: GenerateError,
    },
    /// The journal.
    #[error(transparent)]
    Calls(CallsError),
    /// Too short to say anything.
    #[error("the text has {tokens} tokens; distributions are compared on at least 2")]
    TextTooShort {
        /// Its length.
        tokens: usize,
    },
}

impl CompareError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { source, .. } => source.hint(),
            Self::TextTooShort { .. } => Some("give a text of a page or more with --text".to_owned()),
            Self::Calls(error) => error.hint(),
            Self::Cases(_) => None,
        }
    }
}

/// A file's distributions beside the base's.
enum Compared {
    /// It is the base.
    IsBase,
    /// How far they are apart.
    With(Option<Divergence>),
    /// Why there is nothing to compare.
    Not(String),
}

/// What the base leaves for the others.
#[derive(Default)]
struct Base {
    ids: Vec<i32>,
    windows: Vec<Window>,
    answers: Vec<Option<String>>,
}

/// Compares files; `subjects[0]` is the base.
///
/// # Errors
/// A file that cannot be loaded or asked, a text that is too short, cases that cannot be used.
pub fn run(settings: &Settings, subjects: &[Subject], parts: &mut Parts<'_>) -> Result<Report, CompareError> {
    settings.cases.check()?;
    parts.progress.expect(subjects.len() as u64, subjects.iter().map(|subject| subject.bytes).sum());
    let mut base = Base::default();
    let mut files: Vec<FileReport> = Vec::new();
    for (number, subject) in subjects.iter().enumerate() {
        let mut job = One { settings, parts, subject, is_base: number == 0 };
        let Some(file) = job.run(&mut base)? else { break };
        files.push(file);
        parts.progress.done(1, subject.bytes);
    }
    let against_base: Vec<Against> = match files.split_first() {
        Some((first, others)) => others.iter().map(|file| against(file, first)).collect(),
        None => vec![],
    };
    let base_name = subjects.first().map_or_else(String::new, |subject| subject.name.clone());
    let candidates: Vec<Candidate> = against_base
        .iter()
        .zip(files.iter().skip(1))
        .map(|(against, file)| candidate(against, file))
        .collect();
    Ok(Report {
        text_tokens: base.ids.len() as u64,
        scored_tokens: base
            .windows
            .iter()
            .map(|window| window.top.len().saturating_sub(window.first) as u64)
            .sum(),
        text_words: settings.text.split_whitespace().count() as u64,
        recommendation: rule::recommend(&base_name, &candidates),
        base: base_name,
        interrupted: files.len() < subjects.len(),
        files,
        against_base,
    })
}

/// The work on one file.
struct One<'a, 'b> {
    settings: &'a Settings,
    parts: &'a mut Parts<'b>,
    subject: &'a Subject,
    is_base: bool,
}

impl One<'_, '_> {
    fn failed(&self, source: GenerateError) -> CompareError {
        CompareError::File { name: self.subject.name.clone(), source }
    }

    fn say(&self, what: &str) {
        (self.parts.say)(&format!("{}: {what}", self.subject.name));
    }

    /// `None` where a stop was asked for: half a file is nothing to compare.
    fn run(&mut self, base: &mut Base) -> Result<Option<FileReport>, CompareError> {
        if self.parts.stop.requested() {
            return Ok(None);
        }
        self.say("loading");
        let mut local = (self.parts.open)(self.subject).map_err(|error| self.failed(error))?;
        self.say("speed");
        let read_before = (self.parts.read_gb_per_s)();
        let wanted = Wanted {
            prefill_tokens: PREFILL_TOKENS,
            decode_tokens: DECODE_TOKENS,
            sequences: 1,
            repetitions: self.settings.repetitions,
        };
        let speed = speed::measure(&mut local, wanted).map_err(|error| self.failed(error))?;
        let read_after = (self.parts.read_gb_per_s)();
        self.say("distributions on the text");
        let Some(compared) = self.distributions(&mut local, base)? else { return Ok(None) };
        let mut report = self.facts(&local, speed, (read_before, read_after));
        match compared {
            Compared::IsBase => {}
            Compared::With(divergence) => report.divergence = divergence,
            Compared::Not(why) => report.no_divergence = Some(why),
        }
        Ok(if self.ask(local, base, &mut report)? { Some(report) } else { None })
    }

    /// Task cases and the long text; false where a stop was asked for.
    fn ask(&mut self, local: Local, base: &mut Base, report: &mut FileReport) -> Result<bool, CompareError> {
        let context_tokens = speed::usable_tokens(&local);
        let place = place(self.settings.device, local.load());
        let mut generator = Generator::Local(Box::new(local));
        self.say("task cases");
        let (progress, stop) = (self.parts.progress, self.parts.stop);
        let journal = &mut *self.parts.journal;
        let mut asking = cases::Asking { generator: &mut generator, journal, progress, stop };
        let answer_tokens_max = context_tokens / ANSWER_SHARE;
        let scored = cases::run(&self.settings.cases, &mut asking, &place, answer_tokens_max);
        let Some((scores, asked)) = scored.map_err(|error| self.not_asked(error))? else { return Ok(false) };
        report.cases = Some(scores);
        report.totals.merge(&asked.totals);
        report.journalled = asked.journalled;
        self.say("the text as a long document");
        let of_base = (!self.is_base).then_some(base.answers.as_slice());
        let system = &self.settings.cases.system;
        let mut parts = document::Parts { generator: &mut generator, progress, stop };
        let corrected = document::run(&self.settings.text, system, &mut parts, context_tokens, of_base);
        let Some((document, answers)) = corrected.map_err(|error| self.failed(error))? else {
            return Ok(false);
        };
        report.totals.merge(&document.totals());
        report.document = document;
        if self.is_base {
            base.answers = answers;
        }
        Ok(true)
    }

    fn not_asked(&self, error: CallsError) -> CompareError {
        match error {
            CallsError::Generate(source) => self.failed(source),
            other => CompareError::Calls(other),
        }
    }

    /// Of the base, what it says about the text; of another, how far that is from the base. `None` where a stop was asked
    /// for.
    fn distributions(&self, local: &mut Local, base: &mut Base) -> Result<Option<Compared>, CompareError> {
        let tokenized = local.tokenize(&[&self.settings.text]).map_err(|error| self.failed(error))?;
        let ids = tokenized.into_iter().next().unwrap_or_default();
        if self.is_base {
            let Some(of_base) = self.base(local, ids)? else { return Ok(None) };
            *base = of_base;
            return Ok(Some(Compared::IsBase));
        }
        if ids != base.ids {
            let at = ids.iter().zip(&base.ids).take_while(|(this, base)| this == base).count();
            return Ok(Some(Compared::Not(format!(
                "its tokenizer is another one: {} tokens of the text, and the base has {}; they part at token {at}",
                ids.len(),
                base.ids.len()
            ))));
        }
        let room = speed::usable_tokens(local) as usize;
        if let Some(window) = base.windows.iter().find(|window| window.ids.len() > room) {
            return Ok(Some(Compared::Not(format!(
                "its context of {room} tokens is smaller than a window of {}",
                window.ids.len()
            ))));
        }
        let mut divergences = Divergences::default();
        for window in &base.windows {
            let wanted = window.top.iter().map(|top| top.iter().map(|(id, _)| *id).collect()).collect();
            let score = Score { ids: window.ids.clone(), top_k: 1, wanted };
            let Some(scored) = self.score(local, score)? else { return Ok(None) };
            divergences.add(window, &scored);
        }
        Ok(Some(Compared::With(divergences.finish())))
    }

    fn base(&self, local: &mut Local, ids: Vec<i32>) -> Result<Option<Base>, CompareError> {
        let (before, text) = match ids.split_first() {
            Some((first, rest)) if local.loaded().adds_bos => (Some(*first), rest),
            _ => (None, ids.as_slice()),
        };
        let window_tokens = divergence::window_tokens(text.len(), speed::usable_tokens(local) as usize);
        let mut windows =
            divergence::windows(text, before, window_tokens, SCORED_TOKENS_MAX / window_tokens.max(1));
        if windows.is_empty() {
            return Err(CompareError::TextTooShort { tokens: text.len() });
        }
        for window in &mut windows {
            let score = Score { ids: window.ids.clone(), top_k: TOP_K, wanted: vec![] };
            let Some(scored) = self.score(local, score)? else { return Ok(None) };
            (window.top, window.next) = (scored.top, scored.next);
        }
        Ok(Some(Base { ids, windows, answers: vec![] }))
    }

    /// `None` where a stop was asked for.
    fn score(&self, local: &mut Local, score: Score) -> Result<Option<Scored>, CompareError> {
        if self.parts.stop.requested() {
            return Ok(None);
        }
        let tokens = score.ids.len() as u64;
        let scored = local.score(score).map_err(|error| self.failed(error))?;
        self.parts.progress.computed(1, tokens);
        Ok(Some(scored))
    }

    /// A report without what is asked of the model.
    fn facts(&self, local: &Local, speed: Speed, machine_read_gb_per_s: (f64, f64)) -> FileReport {
        let (hello, load, loaded): (_, _, &Loaded) = (local.hello(), local.load(), local.loaded());
        let rate = speed.decode_tokens_per_s.as_ref().map(|rates| rates.mean);
        let roof = machine_read_gb_per_s.0.max(machine_read_gb_per_s.1);
        let mut backends: Vec<&str> = hello.devices.iter().map(|device| device.backend.as_str()).collect();
        backends.dedup();
        FileReport {
            subject: self.subject.clone(),
            description: loaded.description.clone(),
            tensor_bytes: loaded.size_bytes,
            parameters: loaded.parameters,
            load_ms: loaded.load_ms,
            context_ms: loaded.context_ms,
            memory: proof::taken(hello, loaded),
            placement: proof::placement(self.settings.device, hello, load, loaded, rate, roof),
            speed,
            machine_read_gb_per_s,
            divergence: None,
            no_divergence: None,
            cases: None,
            document: Document::default(),
            warnings: loaded.warnings.clone(),
            load: load.clone(),
            cpu_info: self.parts.cpu.to_owned(),
            backends: backends.join(","),
            totals: Totals::default(),
            journalled: 0,
        }
    }
}

/// What answers depend on beside the file and the question: an answer from a card says nothing about the processor.
fn place(device: DeviceRequest, load: &Load) -> String {
    format!(
        "{device} {:?}, {} threads, {} cells, batch {}/{}, {} sequences, kv {}/{}",
        load.devices,
        load.threads,
        load.n_ctx,
        load.n_batch,
        load.n_ubatch,
        load.n_seq_max,
        load.type_k,
        load.type_v
    )
}

fn against(file: &FileReport, base: &FileReport) -> Against {
    let not_comparable = different_places(&file.placement, &base.placement);
    let is_comparable = not_comparable.is_none();
    let ratio = |pick: fn(&Speed) -> Option<&crate::statistics::Summary>| {
        let (this, of_base) = (pick(&file.speed)?, pick(&base.speed)?);
        if is_comparable { this.over(of_base) } else { None }
    };
    let document_ratio = file.document.words_per_s / base.document.words_per_s;
    Against {
        name: file.subject.name.clone(),
        bytes_ratio: file.subject.bytes as f64 / base.subject.bytes.max(1) as f64,
        prefill: ratio(|speed| speed.prefill_tokens_per_s.as_ref()),
        decode: ratio(|speed| speed.decode_tokens_per_s.as_ref()),
        document_ratio: Some(document_ratio).filter(|ratio| is_comparable && ratio.is_finite()),
        cases: file
            .cases
            .as_ref()
            .zip(base.cases.as_ref())
            .and_then(|(this, of_base)| cases::paired(this, of_base)),
        not_comparable,
    }
}

/// Why the speeds of two files say nothing beside each other.
fn different_places(this: &Verdict, base: &Verdict) -> Option<String> {
    let place = |verdict: &Verdict| match verdict.verdict {
        Placement::Cpu => "on the processor".to_owned(),
        Placement::OnDevice => format!("on {}", verdict.used),
        Placement::Partial => format!("in parts on {}", verdict.used),
        Placement::Unknown => format!("nobody knows where ({} was asked for)", verdict.used),
    };
    let is_same = this.verdict == base.verdict && this.used == base.used;
    if is_same && this.verdict != Placement::Unknown {
        return None;
    }
    Some(format!("it ran {}, and the base {}", place(this), place(base)))
}

fn candidate(against: &Against, file: &FileReport) -> Candidate {
    Candidate {
        name: against.name.clone(),
        bytes: file.subject.bytes,
        not_comparable: against.not_comparable.clone(),
        decode: against.decode,
        kld: file.divergence.as_ref().map(|divergence| (divergence.kld.mean, divergence.kld.interval)),
        cases: against.cases,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::proof::tests::{hello, load, loaded};

    pub(crate) fn file_report(name: &str) -> FileReport {
        let (hello, load, loaded) = (hello(false), load(&[]), loaded(0));
        let speed = Speed::of(512, 128, 1, vec![512_000_000; 2], vec![1_000_000_000; 2]);
        FileReport {
            subject: Subject {
                name: name.to_owned(),
                path: format!("{name}.gguf").into(),
                bytes: 1 << 30,
                identity: "0".repeat(64),
            },
            description: loaded.description.clone(),
            tensor_bytes: loaded.size_bytes,
            parameters: loaded.parameters,
            load_ms: 10,
            context_ms: 5,
            memory: proof::taken(&hello, &loaded),
            placement: proof::placement(DeviceRequest::Cpu, &hello, &load, &loaded, None, 50.0),
            speed,
            machine_read_gb_per_s: (50.0, 50.0),
            divergence: None,
            no_divergence: None,
            cases: None,
            document: Document { words_per_s: 100.0, ..Document::default() },
            warnings: vec![],
            load,
            cpu_info: "a processor".to_owned(),
            backends: "CPU".to_owned(),
            totals: Totals::default(),
            journalled: 0,
        }
    }

    /// Seed of the story: a processor was measured, and taken for a card.
    #[test]
    fn speeds_from_different_places_are_not_compared() {
        let (base, same) = (file_report("f16"), file_report("q4"));
        let found = against(&same, &base);
        assert_eq!(found.not_comparable, None);
        assert!((found.decode.unwrap().ratio - 1.0).abs() < 1e-12);
        let mut moved = file_report("q4");
        moved.placement.verdict = Placement::OnDevice;
        moved.placement.used = "cuda0".to_owned();
        let found = against(&moved, &base);
        assert_eq!(found.not_comparable.as_deref(), Some("it ran on cuda0, and the base on the processor"));
        assert_eq!((found.decode, found.prefill, found.document_ratio), (None, None, None));
        for file in [&mut moved.clone(), &mut moved] {
            file.placement.verdict = Placement::Unknown;
        }
        let unknown = against(&moved, &moved);
        assert!(unknown.not_comparable.is_some_and(|why| why.contains("nobody knows where")));
    }
}
