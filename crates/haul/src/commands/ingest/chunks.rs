//! The flags of chunkers: to what a library keeps, from there to the job, and to a preview.

use std::path::Path;

use haul_corpus::chunk::ChunkSettings;
use haul_corpus::chunk::fixed::FixedSettings;
use haul_corpus::chunk::topics::TopicSettings;
use haul_corpus::document::Format;
use haul_corpus::limits::Limits;
use haul_corpus::readers::Setup;
use haul_jobs::ingest::policy::{Chosen, Policy};
use haul_jobs::ingest::preview::{self, Preview};
use haul_jobs::ingest::{Chunker, Chunking, Losses, Outcome, Parents};
use haul_jobs::models::Models;
use haul_machine::dtype::DtypeRequest;
use haul_pipeline::batch::BatchLimits;
use haul_pipeline::receipt::Pass;
use haul_store::library::{Chunkers, FixedWords, Library, LibrarySettings, SemanticWords};

use super::{Target, library_settings, parse_worker, reembed, refuse_differences};
use crate::cli::ingest::{ChunkArgs, ChunkerArg, IngestArgs};
use crate::commands::{Machine, dense_of, dtype_of, model_of, select};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Place, Settings};
use crate::{Exit, readers, signals_unix, summary};

/// The defaults of Alexandria.
const FIXED: FixedWords = FixedWords { words: 500, overlap_words: 50, words_min: 100 };
const SEMANTIC: SemanticWords = SemanticWords { threshold_e4: 5500, words_min: 200, words_max: 1200 };
/// Words of a chunk, whatever is asked for.
const WORDS_MAX: usize = 100_000;
/// Libraries keep thresholds as whole numbers, so that equal ones are equal.
const THRESHOLD_UNITS: f64 = 10_000.0;
/// Bytes of a policy file.
const POLICY_BYTES_MAX: u64 = 16 << 20;

/// The chunker of the flags, else of the library, and the numbers of all chunkers that may be used.
pub(super) fn chunkers(
    args: &ChunkArgs,
    stored: Option<&LibrarySettings>,
) -> Result<(Chunker, Chunkers), Failure> {
    let kept = stored.map(|stored| &stored.chunkers);
    let chunker = match (args.chunker, stored) {
        (Some(ChunkerArg::Tokens), _) | (None, None) => Chunker::Tokens,
        (Some(ChunkerArg::Whole), _) => Chunker::Whole,
        (Some(ChunkerArg::Fixed), _) => Chunker::Fixed,
        (Some(ChunkerArg::Semantic), _) => Chunker::Semantic,
        (None, Some(stored)) => named(stored)?,
    };
    let policy = match &args.policy {
        Some(path) => Some(read_policy(path)?),
        None => kept.and_then(|kept| kept.policy.clone()).map(policy_of).transpose()?,
    };
    let uses = |wanted: Chunker, chosen: Chosen| {
        let by_policy = policy.as_ref().is_some_and(|policy| chooses(policy, chosen));
        chunker == wanted || by_policy || (wanted == Chunker::Semantic && !args.compare_thresholds.is_empty())
    };
    refuse_idle_flags(args, chunker, &uses)?;
    let alexandria_compat = args.alexandria_compat || kept.is_some_and(|kept| kept.alexandria_compat);
    let fixed = uses(Chunker::Fixed, Chosen::Fixed);
    let semantic = uses(Chunker::Semantic, Chosen::Semantic);
    let policy = policy.as_ref().map(serde_json::to_value).transpose();
    Ok((
        chunker,
        Chunkers {
            fixed: fixed.then(|| fixed_words(args, kept.and_then(|kept| kept.fixed))).transpose()?,
            semantic: semantic
                .then(|| semantic_words(args, kept.and_then(|kept| kept.semantic)))
                .transpose()?,
            parents: args.parents || args.alexandria_compat || kept.is_some_and(|kept| kept.parents),
            alexandria_compat,
            policy: policy.map_err(|error| Failure::new(format!("the policy cannot be kept: {error}")))?,
        },
    ))
}

/// What the job needs of what a library keeps.
pub(super) fn chunking(library: &LibrarySettings) -> Result<Chunking, Failure> {
    let kept = &library.chunkers;
    let (fixed, semantic) = (kept.fixed.unwrap_or(FIXED), kept.semantic.unwrap_or(SEMANTIC));
    Ok(Chunking {
        chunker: named(library)?,
        policy: kept.policy.clone().map(policy_of).transpose()?,
        tokens: ChunkSettings {
            chunk_tokens: library.chunk_tokens,
            overlap_sentences: library.overlap_sentences,
        },
        fixed: FixedSettings {
            words: fixed.words,
            overlap_words: fixed.overlap_words,
            words_min: fixed.words_min,
        },
        topics: TopicSettings {
            threshold: f64::from(semantic.threshold_e4) / THRESHOLD_UNITS,
            words_min: semantic.words_min,
            words_max: semantic.words_max,
        },
        losses: if kept.alexandria_compat { Losses::AsAlexandria } else { Losses::None },
        parents: if kept.parents { Parents::Embedded } else { Parents::Left },
    })
}

/// The sentence pass and the rest, for the receipt; nothing where no sentences were compared.
pub(super) fn passes(outcome: &Outcome) -> Vec<Pass> {
    let sentences = outcome.sentences;
    if sentences.sentences == 0 {
        return Vec::new();
    }
    let sentence_pass = Pass {
        name: "sentences".to_owned(),
        texts: sentences.sentences,
        computed: sentences.computed,
        tokens: sentences.tokens,
        busy_s: sentences.busy_s,
    };
    let chunk_pass = Pass {
        name: "chunks".to_owned(),
        texts: outcome.chunks,
        computed: outcome.vectors,
        tokens: outcome.tokens - sentences.tokens,
        busy_s: (outcome.busy_s - sentences.busy_s).max(0.0),
    };
    vec![sentence_pass, chunk_pass]
}

/// Shows how documents would be cut. A library that is there says how; without one, a model is enough.
pub(super) fn preview(args: &IngestArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let machine = Machine::resolve(settings.device(&args.compute.device)?, settings, output)?;
    let compute = settings.compute(&args.compute, &machine.cpu)?;
    let stop = signals_unix::stop_on_signals()?;
    let inputs = select::inputs(&args.paths, &args.select, output)?;
    let readers = (inputs.has(Format::Pdf) || args.readers.ocr)
        .then(|| readers::for_pdfs(&args.readers, settings, output))
        .transpose()?
        .unwrap_or_default();
    let asked = settings.model(args.model.as_deref());
    let is_library = args.store.store.is_some() || asked.is_none();
    let store = is_library.then(|| settings.store(&args.store)).transpose()?.filter(|store| store.exists());
    let library = store.as_deref().map(Library::open_read_only).transpose()?;
    let stored = library.as_ref().map(Library::settings);
    let (model, record) = match (&asked, stored) {
        (Some(name), _) => Models::open(&settings.models()).find(name)?,
        (None, Some(stored)) => model_of(stored, settings)?,
        (None, None) => {
            return Err(Failure::new("there is no library yet, and no model is named")
                .hint("give --model NAME: how a text is cut depends on the model's tokens"));
        }
    };
    let dtype = match (settings.dtype(&args.dtype)?.unwrap_or(DtypeRequest::Auto), stored) {
        (DtypeRequest::Named(dtype), _) => dtype,
        (DtypeRequest::Auto, Some(stored)) => dtype_of(stored)?,
        (auto, None) => machine.dtype(auto, settings, output)?,
    };
    let compute = machine.tuned(compute, &record.sha256, dtype, settings, output);
    // Thresholds are compared whatever the library has, and with --reembed it is another that is shown.
    let is_other = args.reembed || !args.chunks.compare_thresholds.is_empty();
    let kept = stored
        .filter(|_| is_other)
        .map(|stored| reembed::carried_over(args, stored, (&model, &record), settings));
    let wanted = library_settings(args, &model, &record, dtype, kept.as_ref().or(stored))?;
    if let (Some(store), Some(stored), false) = (store, stored, is_other) {
        let address = match settings.place(&args.store)? {
            Place::Server { address, .. } => Some(address),
            Place::Library(_) => None,
        };
        refuse_differences(&Target { store, address, old: None }, stored, &wanted)?;
    }
    let mut thresholds = args.chunks.compare_thresholds.clone();
    thresholds.sort_by(f64::total_cmp);
    thresholds.dedup();
    let options = dense_of(wanted.dim);
    let shown = preview::run(
        &preview::Settings {
            chunking: chunking(&wanted)?,
            thresholds,
            dtype,
            max_tokens: wanted.max_tokens,
            document_prompt: wanted.document_prompt.clone(),
            threads: compute.threads.get(),
            batch: BatchLimits { tokens: compute.batch_tokens, items: compute.batch_tokens },
            junk: select::junk(&args.select, &wanted),
        },
        &inputs,
        &preview::Parts {
            model: &model,
            load: &|dtype| machine.load(&model, &options, dtype, compute.threads),
            worker: &parse_worker()?,
            setup: &Setup { limits: Limits::DEFAULT, readers },
            stop: &stop,
        },
    )?;
    if output.json() {
        output.json_document(&shown)?;
    } else {
        output.data(&summary::preview::text(&shown, &wanted))?;
    }
    Ok(exit(&shown))
}

fn exit(shown: &Preview) -> Exit {
    if shown.interrupted {
        Exit::Interrupted
    } else if shown.failures.iter().any(|failure| failure.verdict != "skipped") {
        Exit::SomeNotOk
    } else {
        Exit::Ok
    }
}

fn named(library: &LibrarySettings) -> Result<Chunker, Failure> {
    Chunker::from_name(&library.chunker).ok_or_else(|| {
        Failure::new(format!("the library's chunker `{}` is not known", library.chunker))
            .hint("install the haul that made the library")
    })
}

fn policy_of(kept: serde_json::Value) -> Result<Policy, Failure> {
    serde_json::from_value(kept).map_err(|error| {
        Failure::new(format!("the library's policy: {error}")).hint("install the haul that made the library")
    })
}

/// JSON by the file's extension, else TOML.
fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let size_bytes = path.metadata().map_err(|error| Failure::io("read", path, &error))?.len();
    if size_bytes > POLICY_BYTES_MAX {
        return Err(Failure::new(format!(
            "{}: a policy of {size_bytes} bytes; at most {POLICY_BYTES_MAX}",
            path.display()
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let policy = match is_json {
        true => serde_json::from_str(&text).map_err(|error| error.to_string()),
        false => toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            format!("{} at line {line}", error.message())
        }),
    };
    policy.map_err(|why| {
        Failure::new(format!("{}: {why}", path.display())).hint(
            "lists `authors`, `title_contains`, `title_exact` of \"pattern\" or \
             {pattern = \"...\", chunker = \"semantic|fixed|tokens|none\"}, and `default`",
        )
    })
}

fn chooses(policy: &Policy, chosen: Chosen) -> bool {
    let rules = [&policy.title_exact, &policy.title_contains, &policy.authors];
    policy.default == Some(chosen) || rules.into_iter().flatten().any(|rule| rule.chunker == chosen)
}

/// A flag that changes nothing is a mistake.
fn refuse_idle_flags(
    args: &ChunkArgs,
    chunker: Chunker,
    uses: &dyn Fn(Chunker, Chosen) -> bool,
) -> Result<(), Failure> {
    let by_tokens = args.chunk_tokens.is_some() || args.overlap.is_some();
    let is_whole = chunker == Chunker::Whole;
    if is_whole && by_tokens && args.policy.is_none() {
        return Err(Failure::new(
            "--chunker whole cuts nothing, so --chunk-tokens and --overlap say nothing",
        )
        .hint("use --max-tokens to say how much of each document the model sees"));
    }
    let fixed = [
        ("--fixed-words", args.fixed_words.is_some()),
        ("--fixed-overlap", args.fixed_overlap.is_some()),
        ("--fixed-min", args.fixed_min.is_some()),
    ];
    let semantic = [
        ("--threshold", args.threshold.is_some()),
        ("--semantic-min", args.semantic_min.is_some()),
        ("--semantic-max", args.semantic_max.is_some()),
    ];
    let tokens = [("--chunk-tokens", args.chunk_tokens.is_some()), ("--overlap", args.overlap.is_some())];
    let of_chunkers = [
        (&fixed[..], Chunker::Fixed, Chosen::Fixed),
        (&semantic[..], Chunker::Semantic, Chosen::Semantic),
        (&tokens[..], Chunker::Tokens, Chosen::Tokens),
    ];
    for (flags, own, chosen) in of_chunkers {
        if let Some((flag, _)) = flags.iter().find(|(_, is_given)| *is_given && !uses(own, chosen)) {
            return Err(Failure::new(format!("{flag} says nothing to --chunker {}", chunker.name()))
                .hint(format!("it is for --chunker {}", own.name())));
        }
    }
    let by_words = uses(Chunker::Fixed, Chosen::Fixed) || uses(Chunker::Semantic, Chosen::Semantic);
    if args.alexandria_compat && !by_words {
        let message = format!("--alexandria-compat says nothing to --chunker {}", chunker.name());
        return Err(Failure::new(message).hint("Alexandria's chunkers are --chunker fixed and semantic"));
    }
    if args.parents && is_whole {
        return Err(Failure::new("--chunker whole makes one chunk a document, so --parents says nothing")
            .hint("leave --parents out, or take another chunker"));
    }
    Ok(())
}

fn fixed_words(args: &ChunkArgs, kept: Option<FixedWords>) -> Result<FixedWords, Failure> {
    let kept = kept.unwrap_or(FIXED);
    let fixed = FixedWords {
        words: args.fixed_words.unwrap_or(kept.words),
        overlap_words: args.fixed_overlap.unwrap_or(kept.overlap_words),
        words_min: args.fixed_min.unwrap_or(kept.words_min),
    };
    let FixedWords { words, overlap_words, words_min } = fixed;
    if !(1..=WORDS_MAX).contains(&words) {
        return Err(Failure::new(format!("--fixed-words {words} is outside 1..={WORDS_MAX}")));
    }
    if overlap_words > words / 2 || words_min > words {
        return Err(Failure::new(format!(
            "windows of {words} words cannot repeat {overlap_words} and have {words_min} at least"
        ))
        .hint(format!("--fixed-overlap within 0..={}, --fixed-min within 0..={words}", words / 2)));
    }
    Ok(fixed)
}

fn semantic_words(args: &ChunkArgs, kept: Option<SemanticWords>) -> Result<SemanticWords, Failure> {
    let kept = kept.unwrap_or(SEMANTIC);
    // The flag is within 0..=1.
    let units = |threshold: f64| (threshold * THRESHOLD_UNITS).round() as u32;
    let semantic = SemanticWords {
        threshold_e4: args.threshold.map_or(kept.threshold_e4, units),
        words_min: args.semantic_min.unwrap_or(kept.words_min),
        words_max: args.semantic_max.unwrap_or(kept.words_max),
    };
    let SemanticWords { words_min, words_max, .. } = semantic;
    if !(1..=WORDS_MAX).contains(&words_max) || words_min > words_max {
        return Err(Failure::new(format!("chunks cannot have {words_min} to {words_max} words"))
            .hint(format!("--semantic-min at most --semantic-max, and that within 1..={WORDS_MAX}")));
    }
    Ok(semantic)
}
