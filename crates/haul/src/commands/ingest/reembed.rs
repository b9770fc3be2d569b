//! `haul ingest --reembed`: a library made again with another model or other settings.
//!
//! The new library grows beside the old one, which answers searches meanwhile, and takes its place when it has every
//! document of it. A run that was stopped goes on where it was.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use haul_encoder::model::Head;
use haul_encoder::model_dir::ModelDir;
use haul_jobs::ingest::DRAFT;
use haul_jobs::models::ModelRecord;
use haul_store::library::{Chunkers, Library, LibrarySettings};
use uuid::Uuid;

use super::{run_into, run_of};
use crate::Exit;
use crate::cli::ingest::{ChunkerArg, IngestArgs};
use crate::commands::model_of;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Place, Settings};
use crate::traces;

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
    let draft = draft_of(&old);
    let started = SystemTime::now();
    let exit = run_into(args, settings, output, Some(&old))?;
    if matches!(exit, Exit::Interrupted | Exit::CouldNotRun) || args.run.plan {
        return Ok(exit);
    }
    let device = settings.device(&args.compute.device)?;
    // Its receipt was written when the draft was whole, and has to go where that takes nobody's place.
    run_of(args, started, device).ended(take_place(old, &draft, args), output)?;
    output.note(&format!("{} is made with the new settings now", store.display()));
    Ok(exit)
}

fn take_place(old: Library, draft: &Path, args: &IngestArgs) -> Result<(), Failure> {
    let new = Library::open(draft)?;
    refuse_losses(&old, &new, args)?;
    old.replace(new)?;
    clean(draft)
}

/// What the new library is called until it takes the old one's place.
pub(super) fn draft_of(old: &Library) -> PathBuf {
    old.path().with_added_extension(DRAFT)
}

/// What a library that is made again has where no flag says otherwise: what the old one has. A size that was the old
/// model's own becomes the new model's own; one that somebody chose stays, as far as the new model reaches.
pub(super) fn carried_over(
    args: &IngestArgs,
    old: &LibrarySettings,
    (model, record): (&ModelDir, &ModelRecord),
    settings: &Settings,
) -> LibrarySettings {
    let sizes = |model: &ModelDir| (model.dim(), model.max_tokens);
    let own = if record.sha256 == old.model_sha256 {
        Some(sizes(model))
    } else {
        model_of(old, settings).ok().map(|(before, _)| sizes(&before))
    };
    // A model that is gone cannot say what was its own: then all of it is taken for that.
    let (own_dim, own_max_tokens) = own.unwrap_or((old.dim, old.max_tokens));
    let kept = |size: usize, own: usize, new: usize| if size == own { new } else { size.min(new) };
    let max_tokens = kept(old.max_tokens, own_max_tokens, model.max_tokens);
    let special_tokens = model.tokenizer.special_tokens();
    let room_tokens = args.max_tokens.unwrap_or(max_tokens).saturating_sub(special_tokens);
    let filled = old.chunk_tokens + special_tokens >= old.max_tokens;
    LibrarySettings {
        dim: kept(old.dim, own_dim, model.dim()),
        max_tokens,
        chunk_tokens: if filled { room_tokens } else { old.chunk_tokens.min(room_tokens) },
        chunkers: chunkers_of(args, old),
        sparse: model.head_file(Head::Sparse).is_some(),
        ..old.clone()
    }
}

/// Without what says nothing to the chunker that is asked for now.
fn chunkers_of(args: &IngestArgs, old: &LibrarySettings) -> Chunkers {
    let has_policy = args.chunks.policy.is_some() || old.chunkers.policy.is_some();
    let asked = if has_policy { None } else { args.chunks.chunker };
    let has_sections = !matches!(asked, Some(ChunkerArg::Whole));
    let by_words = !matches!(asked, Some(ChunkerArg::Whole | ChunkerArg::Tokens));
    Chunkers {
        parents: old.chunkers.parents && has_sections,
        alexandria_compat: old.chunkers.alexandria_compat && by_words,
        ..old.chunkers.clone()
    }
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
    let (lock, runs) = (draft.with_added_extension("lock"), traces::folder_of(draft));
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
