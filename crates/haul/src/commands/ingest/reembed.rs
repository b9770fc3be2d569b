//! `haul ingest --reembed`: a library made again with another model or other settings.
//!
//! The new library grows beside the old one, which answers searches meanwhile, and takes its place when it has every
//! document of it. A run that was stopped goes on where it was.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use haul_store::library::Library;
use uuid::Uuid;

use super::run_into;
use crate::Exit;
use crate::cli::IngestArgs;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Place, Settings};
use crate::traces;

/// What the new library is called until it takes the old one's place.
const DRAFT: &str = "reembed";
/// Documents that a refusal names.
const NAMED_MAX: usize = 5;

/// Runs the command with `--reembed`.
pub(super) fn run(args: &IngestArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let store = match settings.place(&args.store)? {
        Place::Library(path) => path,
        Place::Server { address, .. } => {
            return Err(Failure::new(format!("{address}: a collection keeps the settings it was made with")).hint(
                "ingest into a collection of another name, then `haul store alias` lets the old name stand for it",
            ));
        }
    };
    if !store.exists() {
        return run_into(args, settings, output, None);
    }
    // Held to the end: nobody writes what would be lost.
    let old = Library::open(&store)?;
    let draft = old.path().with_added_extension(DRAFT);
    let exit = run_into(args, settings, output, Some(&draft))?;
    if matches!(exit, Exit::Interrupted | Exit::CouldNotRun) || args.run.plan {
        return Ok(exit);
    }
    let new = Library::open(&draft)?;
    refuse_losses(&old, &new, args)?;
    old.replace(new)?;
    clean(&draft)?;
    output.note(&format!("{} is made with the new settings now", store.display()));
    Ok(exit)
}

/// Every document that can be searched in the old library can be searched in the new one.
fn refuse_losses(old: &Library, new: &Library, args: &IngestArgs) -> Result<(), Failure> {
    if args.prune || args.prune_all {
        return Ok(());
    }
    let there: HashSet<Uuid> = new.catalogue()?.into_iter().map(|entry| entry.doc_id).collect();
    let lost: Vec<String> = old
        .catalogue()?
        .into_iter()
        .filter(|entry| !there.contains(&entry.doc_id))
        .map(|entry| format!("{}/{}", entry.root.trim_end_matches('/'), entry.relative_path))
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    let named = lost.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    Err(Failure::new(format!(
        "{}: {} of its documents are not among what was read now, and it stays as it is: {named}{}",
        old.path().display(),
        lost.len(),
        if lost.len() > NAMED_MAX { ", ..." } else { "" }
    ))
    .hint("name every folder it was made from, and run again: what is done is kept; or give --prune"))
}

/// What else belonged to the draft goes.
fn clean(draft: &Path) -> Result<(), Failure> {
    let (lock, runs) = (with_suffix(draft, ".lock"), traces::folder_of(draft));
    for gone in [std::fs::remove_file(&lock), std::fs::remove_dir_all(&runs)] {
        match gone {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::io("remove", &runs, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
