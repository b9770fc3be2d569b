//! The rules of the house, read from the crate graph and the sources: who may import whom, where `unsafe`,
//! printing, the environment and operating-system code may stand, how long functions may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Crate -> crates of ours that it may import. A new arrow edits ARCHITECTURE.md in the same commit.
const ARROWS: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("machine", &["kernels"]),
    ("pipeline", &["machine"]),
    ("store", &["kernels"]),
    ("corpus", &[]),
    ("encoder", &["kernels", "machine"]),
    ("frames", &[]),
    ("llama-worker", &["frames", "kernels"]),
    ("generate", &["frames", "machine"]),
    ("jobs", &["kernels", "machine", "pipeline", "store", "corpus", "encoder", "generate"]),
    ("haul", &["machine", "pipeline", "store", "corpus", "encoder", "generate", "jobs"]),
];

/// Where `unsafe` may stand, by path prefix below `crates/`.
const UNSAFE_ROOMS: &[&str] =
    &["kernels/src/", "encoder/src/weights", "store/src/segment", "store/src/map", "llama-worker/src/"];

/// Share of functions that may be longer than [`LONG_LINES`], in percent. A ratchet: only ever lowered.
const LONG_FUNCTIONS_PERCENT_MAX: f64 = 3.0;
const LONG_LINES: usize = 50;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// Sources of the product: every `.rs` below `crates/*/src`, with its path below `crates/`, without test modules.
fn sources() -> BTreeMap<String, String> {
    let crates = root().join("crates");
    let mut found = BTreeMap::new();
    let mut folders = vec![crates.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(&crates).expect("below crates").to_string_lossy().into_owned();
                if name.split('/').nth(1) == Some("src") {
                    let text = fs::read_to_string(&path).expect("UTF-8");
                    found.insert(name, without_tests(&text));
                }
            }
        }
    }
    assert!(found.len() > 50, "only {} sources found", found.len());
    found
}

/// Cuts the test module off, and blanks comments and string contents, so that words in prose do not count.
fn without_tests(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    product.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// `file:line` of every line that holds one of `words`, in files that `allowed` does not let have it.
fn offences(words: &[&str], allowed: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !allowed(name)) {
        for (number, line) in (1..).zip(text.lines()) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    found
}

#[test]
fn arrows_point_downward() {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .expect("cargo metadata");
    let short = |name: &str| name.strip_prefix("haul-").unwrap_or(name).to_owned();
    let members: BTreeSet<String> = metadata.packages.iter().map(|p| short(p.name.as_str())).collect();
    let known: BTreeSet<String> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(members, known, "every crate has a row in ARROWS");
    for package in &metadata.packages {
        let name = short(package.name.as_str());
        let allowed = ARROWS.iter().find(|(n, _)| *n == name).map_or(&[][..], |(_, allowed)| allowed);
        for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            let to = short(&dependency.name);
            if members.contains(&to) {
                assert!(allowed.contains(&to.as_str()), "{name} -> {to} is no arrow of the house");
            }
        }
    }
}

/// Sibling jobs share what stands in `calls`, `encode`, `stream`, `mixes`, `quality`, `proof`, `speed` and `statistics` of
/// `jobs/src`, and never import each other.
#[test]
fn jobs_do_not_import_each_other() {
    let jobs = [
        "ingest", "search", "embed", "models", "bench", "golden", "correct", "compare", "tune", "extract",
        "vision",
    ];
    let mut found = Vec::new();
    for job in jobs {
        let own = |name: &str| {
            name == format!("jobs/src/{job}.rs") || name.starts_with(&format!("jobs/src/{job}/"))
        };
        let siblings: Vec<String> =
            jobs.iter().filter(|other| **other != job).map(|other| format!("crate::{other}::")).collect();
        let words: Vec<&str> = siblings.iter().map(String::as_str).collect();
        found.extend(offences(&words, |name| !own(name)));
    }
    assert_eq!(found, [""; 0]);
}

/// Batch work is CPU work on plain threads; the event loop under the calls to a server stays in its room.
#[test]
fn the_event_loop_stands_in_its_room() {
    let found = offences(&["tokio::", "async ", ".await"], |name| name.starts_with("store/src/qdrant"));
    assert_eq!(found, [""; 0]);
}

#[test]
fn unsafe_stands_in_its_rooms() {
    let found = offences(&["unsafe {", "unsafe fn", "unsafe impl"], |name| {
        UNSAFE_ROOMS.iter().any(|room| name.starts_with(room))
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn only_the_binary_prints_and_reads_the_environment() {
    let words = [
        "println!",
        "print!(",
        "env::var",
        "env::args",
        "current_exe",
        "process::exit",
        "io::stdout",
        "io::stdin",
    ];
    // The worker is a program as well: its pipe, its log and its arguments stand in these.
    let is_a_program = |name: &str| {
        name.starts_with("haul/src/")
            || ["llama-worker/src/main.rs", "llama-worker/src/process_unix.rs"].contains(&name)
    };
    assert_eq!(offences(&words, is_a_program), [""; 0]);
    let anyhow = offences(&["anyhow"], |name| name.starts_with("haul/src/"));
    assert_eq!(anyhow, [""; 0]);
}

#[test]
fn operating_system_code_has_files_of_its_own() {
    let allowed = |name: &str| name.ends_with("_unix.rs") || name.ends_with("_windows.rs");
    let words = ["target_os", "std::os::unix", "std::os::linux", "rustix::"];
    assert_eq!(offences(&words, allowed), [""; 0]);
    // Elsewhere a `cfg` may only choose between such files.
    for (name, text) in sources().iter().filter(|(name, _)| !allowed(name)) {
        let lines: Vec<&str> = text.lines().collect();
        for pair in
            lines.windows(2).filter(|pair| pair[0].contains("cfg(unix)") || pair[0].contains("cfg(windows)"))
        {
            let chooses = pair[1].contains("_unix") || pair[1].contains("_windows");
            assert!(chooses, "{name}: {} before {}", pair[0].trim(), pair[1].trim());
        }
    }
}

#[test]
fn features_choose_nothing() {
    assert_eq!(offences(&["cfg(feature", "cfg!(feature"], |_| false), [""; 0]);
}

#[test]
fn architecture_names_every_crate() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for (name, _) in ARROWS {
        assert!(architecture.contains(&format!("`{name}`")), "ARCHITECTURE.md does not name `{name}`");
    }
    let words = architecture.split_whitespace().count();
    assert!(words <= 4000, "ARCHITECTURE.md has {words} words");
}

/// By indentation: a function begins at a line with `fn name(` and ends at the first `}` as deep as it began.
#[test]
fn functions_stay_short() {
    let mut lengths = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let trimmed = line.trim_start();
            let heads = ["fn ", "pub fn ", "pub(crate) fn ", "unsafe fn ", "pub(crate) unsafe fn "];
            if !heads.iter().any(|head| trimmed.starts_with(head)) {
                continue;
            }
            let end = format!("{}}}", &line[..line.len() - trimmed.len()]);
            if let Some(length) = lines[start..].iter().position(|l| *l == end) {
                lengths.push((length + 1, format!("{name}:{}", start + 1)));
            }
        }
    }
    let long: Vec<_> = lengths.iter().filter(|(length, _)| *length > LONG_LINES).collect();
    let percent = 100.0 * long.len() as f64 / lengths.len() as f64;
    assert!(lengths.len() > 500, "only {} functions found", lengths.len());
    assert!(percent <= LONG_FUNCTIONS_PERCENT_MAX, "{percent:.1} % of functions are long: {long:?}");
}

/// Every dependency of the workspace carries a comment that says why it is there.
#[test]
fn dependencies_carry_their_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let section = manifest.split("[workspace.dependencies]").nth(1).expect("dependencies");
    let section = section.split("\n[").next().expect("a section");
    let comments: String =
        section.lines().filter(|line| line.starts_with("# ")).collect::<Vec<_>>().join("\n");
    for line in section.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')) {
        let name = line.split(" = ").next().expect("a name");
        if !name.starts_with("haul-") {
            assert!(comments.contains(name), "{name} has no reason in Cargo.toml");
        }
    }
}
