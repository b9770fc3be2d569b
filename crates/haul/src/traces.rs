//! What runs leave in `X.haul.run` beside the library: the last plan, a receipt of each run with its timeline, and
//! the list of what is not ok.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use haul_corpus::document::Format;
use haul_jobs::ingest;
use haul_jobs::ingest::plan::Plan;
use haul_pipeline::forecast::Range;
use haul_pipeline::progress::Point;
use haul_pipeline::receipt::{Failure as NotOk, Receipt};
use haul_store::library::Fingerprint;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Runs that are kept; the oldest goes first.
const RUNS_MAX: usize = 32;
const RUNS: &str = "runs";
const PLAN: &str = "plan.json";
/// Paths of inputs that are not ok.
pub(crate) const FAILURES: &str = "failures.txt";

/// One run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Trace {
    pub(crate) receipt: Receipt,
    pub(crate) timeline: Vec<Point>,
}

/// What `--plan` expects, and of which run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Planned {
    pub(crate) about: About,
    pub(crate) seconds: Range,
}

/// What makes two runs the same for a forecast.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    fingerprint: String,
    collection: String,
    threads: usize,
    batch_tokens: usize,
    files: u64,
    bytes: u64,
}

impl About {
    pub(crate) fn new(job: &ingest::Settings, fingerprint: &Fingerprint, (files, bytes): (u64, u64)) -> Self {
        Self {
            fingerprint: fingerprint.to_string(),
            collection: job.collection.clone(),
            threads: job.threads,
            batch_tokens: job.batch.tokens,
            files,
            bytes,
        }
    }
}

/// `X.haul.run` beside the library, which every run can do without.
pub(crate) fn folder_of(store: &Path) -> PathBuf {
    store.with_added_extension("run")
}

/// Keeps the receipt and the timeline of a run, and the list of what is not ok in it.
pub(crate) fn keep(
    folder: &Path,
    started: SystemTime,
    receipt: &Receipt,
    timeline: &[Point],
) -> Result<(), Failure> {
    write(&folder.join(FAILURES), failures(&receipt.failures).as_bytes())?;
    let runs = folder.join(RUNS);
    fs::create_dir_all(&runs).map_err(|error| Failure::io("create", &runs, &error))?;
    let begun_ms = started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let trace = Trace { receipt: receipt.clone(), timeline: timeline.to_vec() };
    write_json(&runs.join(format!("{begun_ms:014}.json")), &trace)?;
    let mut names = names(&runs)?;
    names.truncate(names.len().saturating_sub(RUNS_MAX));
    names.iter().try_for_each(|old| fs::remove_file(old).map_err(|error| Failure::io("remove", old, &error)))
}

/// The runs that are kept, the oldest first.
pub(crate) fn read(folder: &Path) -> Result<Vec<Trace>, Failure> {
    let runs = folder.join(RUNS);
    if !runs.is_dir() {
        return Ok(vec![]);
    }
    let traces: Result<Vec<Option<Trace>>, Failure> =
        names(&runs)?.iter().map(|path| read_json(path)).collect();
    Ok(traces?.into_iter().flatten().collect())
}

pub(crate) fn keep_plan(folder: &Path, about: About, plan: &Plan) -> Result<(), Failure> {
    write_json(&folder.join(PLAN), &Planned { about, seconds: plan.seconds })
}

pub(crate) fn read_plan(folder: &Path) -> Result<Option<Planned>, Failure> {
    read_json(&folder.join(PLAN))
}

/// A list of paths, as `--files-from` reads it: what is wrong with each stands in a comment above it. A name that no line
/// can hold is told in a comment too.
fn failures(failures: &[NotOk]) -> String {
    let mut list = String::from("# inputs that are not ok, each below its verdict and the reason\n");
    for NotOk { item, verdict, why } in failures {
        let file = file_of(item);
        let told = if is_a_line(file) { "" } else { "# no line of a list can name it: " };
        list.push_str(&format!("# {verdict}: {}\n{told}{}\n", on_one_line(why), on_one_line(file)));
    }
    list
}

/// Whether a path can be read from a list again. Where a name is not UTF-8, a mark stands in it.
fn is_a_line(path: &str) -> bool {
    !path.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER)
}

/// With line breaks, and what steers a terminal, as one would write them in Rust.
fn on_one_line(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// The file of an input; of a file of many, what stands after `#` names one of them.
fn file_of(item: &str) -> &str {
    let of_many = |path: &str| {
        let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
        extension.and_then(Format::from_extension) == Some(Format::JsonLines)
    };
    item.match_indices('#').map(|(at, _)| &item[..at]).find(|path| of_many(path)).unwrap_or(item)
}

fn names(runs: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error| Failure::io("list", runs, &error);
    let mut names = Vec::new();
    for entry in fs::read_dir(runs).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            names.push(path);
        }
    }
    names.sort();
    Ok(names)
}

/// None where there is no such file, or one that another version wrote.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io("read", path, &error)),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_vec_pretty(value)
        .map_err(|error| Failure::new(format!("cannot encode {}: {error}", path.display())))?;
    write(path, &json)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = path.with_added_extension("tmp");
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| Failure::io("write", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_a_list_of_paths_with_comments() {
        let not_ok =
            |item: &str, why: &str| NotOk { item: item.into(), verdict: "failed".into(), why: why.into() };
        let list = failures(&[
            not_ok("/a#b/c#.jsonl#id 7", "two\nlines"),
            not_ok("/books/x#1.epub", "torn"),
            not_ok("/books/line\nbreak\u{1b}[2J.epub", "torn"),
            not_ok("/books/not-utf-8-\u{fffd}.epub", "torn"),
        ]);
        let paths: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(paths, ["/a#b/c#.jsonl", "/books/x#1.epub"]);
        assert_eq!(list.lines().nth(1), Some("# failed: two\\nlines"));
        let told = "# no line of a list can name it: /books/line\\nbreak\\u{1b}[2J.epub";
        assert_eq!(list.lines().nth(6), Some(told));
    }
}
