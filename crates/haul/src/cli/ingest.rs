//! What is read into a library, and how it is cut.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use haul_corpus::document::Format;
use haul_jobs::ingest::{FORMATS, Shard};

use super::{ComputeArgs, DtypeArg, StoreArg, amount};

#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    /// Calibre libraries, files and folders: EPUB, PDF, DOCX, HTML, Markdown, text, JSONL of {"id","title","text"}
    #[arg(required_unless_present = "files_from", value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// A model's name or folder; needed when the library is new
    #[arg(long, env = "HAUL_MODEL", value_name = "NAME", hide_env_values = true)]
    pub(crate) model: Option<String>,
    /// Longest sequence given to the model [default: what the model's files say]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// Keep only the first N numbers of each vector, which needs a model trained for it (Matryoshka) [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) dim: Option<usize>,
    /// Namespace of document ids
    #[arg(long, default_value = "default", value_name = "NAME", value_parser = namespace)]
    pub(crate) collection: String,
    /// Remove documents whose files are gone; refused where no file at all is found, and for more than 10 documents that
    /// are more than a quarter of what is known there: as when a share is not mounted
    #[arg(long, conflicts_with_all = ["calibre_id", "author", "title", "tag", "language", "prune_all"])]
    pub(crate) prune: bool,
    /// Remove documents whose files are gone, however many
    #[arg(long, conflicts_with_all = ["calibre_id", "author", "title", "tag", "language"])]
    pub(crate) prune_all: bool,
    /// Make the library again with another model or other settings; what no flag names stays as it is, and the new
    /// library takes the old one's place when it has all of it
    #[arg(long, conflicts_with = "shard")]
    pub(crate) reembed: bool,
    /// Also write the receipt here
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    #[command(flatten)]
    pub(crate) readers: ReaderArgs,
    #[command(flatten)]
    pub(crate) chunks: ChunkArgs,
    #[command(flatten)]
    pub(crate) dtype: DtypeArg,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// How long and how large a run may be.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Run")]
pub(crate) struct RunArgs {
    /// Say what the run will take, from a sample of the files, and stop
    #[arg(long, conflicts_with_all = ["receipt", "dry_run", "compare_thresholds"])]
    pub(crate) plan: bool,
    /// Only the documents of one of N processes that share the work, I from 0 to N-1; `haul store merge` brings their
    /// libraries together
    #[arg(long, value_name = "I/N", conflicts_with_all = ["dry_run", "compare_thresholds"])]
    pub(crate) shard: Option<Shard>,
    /// Memory that the run and its workers may take together, such as 4G or 512M [default: three quarters of what is
    /// free]
    #[arg(long, env = "HAUL_MEMORY", value_name = "BYTES", hide_env_values = true, value_parser = amount)]
    pub(crate) memory: Option<u64>,
}

/// A name that is one.
fn namespace(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("a name is needed".to_owned()) } else { Ok(text.to_owned()) }
}

/// How PDFs are read.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "PDF")]
pub(crate) struct ReaderArgs {
    /// The pdfium library [default: libpdfium.so beside haul or in HAUL_HOME/backends, else a reader of haul's own]
    #[arg(long, env = "HAUL_PDFIUM", value_name = "FILE", hide_env_values = true)]
    pub(crate) pdfium: Option<PathBuf>,
    /// Recognise pages that are pictures with the tesseract command; without it they are listed
    #[arg(long)]
    pub(crate) ocr: bool,
    /// Languages for tesseract, such as eng+deu [default: tesseract's own]
    #[arg(long, requires = "ocr", value_name = "LANGUAGES")]
    pub(crate) ocr_language: Option<String>,
}

/// How documents are cut.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Chunks")]
pub(crate) struct ChunkArgs {
    /// How documents are cut [default: tokens]
    #[arg(long, value_name = "KIND")]
    pub(crate) chunker: Option<ChunkerArg>,
    /// tokens: tokens of a chunk, special tokens not counted [default: what the model takes]
    #[arg(long, value_name = "N")]
    pub(crate) chunk_tokens: Option<usize>,
    /// tokens: sentences of a chunk that the next one repeats [default: 0]
    #[arg(long, value_name = "SENTENCES")]
    pub(crate) overlap: Option<usize>,
    /// fixed: words of a window [default: 500]
    #[arg(long, value_name = "WORDS")]
    pub(crate) fixed_words: Option<usize>,
    /// fixed: words that a window repeats of the one before [default: 50]
    #[arg(long, value_name = "WORDS")]
    pub(crate) fixed_overlap: Option<usize>,
    /// fixed: a last window of fewer words joins the one before [default: 100]
    #[arg(long, value_name = "WORDS")]
    pub(crate) fixed_min: Option<usize>,
    /// semantic: the topic changes between sentences whose cosine is below this [default: 0.55]
    #[arg(long, value_name = "COSINE", value_parser = cosine)]
    pub(crate) threshold: Option<f64>,
    /// semantic: words before a change of topic ends a chunk [default: 200]
    #[arg(long, value_name = "WORDS")]
    pub(crate) semantic_min: Option<usize>,
    /// semantic: words of a chunk at most [default: 1200]
    #[arg(long, value_name = "WORDS")]
    pub(crate) semantic_max: Option<usize>,
    /// Embed sections too, as parents of their chunks; searches still answer with chunks
    #[arg(long)]
    pub(crate) parents: bool,
    /// Sections, chunks and texts as Alexandria makes them: short sections are dropped, long chunks truncated, parents
    /// embedded
    #[arg(long)]
    pub(crate) alexandria_compat: bool,
    /// Rules by title and author, TOML or JSON, that choose semantic, fixed, tokens or none
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Show how documents would be cut, and write nothing
    #[arg(long, conflicts_with_all = ["prune", "prune_all", "receipt"])]
    pub(crate) dry_run: bool,
    /// Compare thresholds of the semantic chunker on the same sentences, and write nothing
    #[arg(long, value_name = "COSINE,...", value_delimiter = ',', value_parser = cosine,
          conflicts_with_all = ["prune", "prune_all", "receipt", "dry_run", "threshold"])]
    pub(crate) compare_thresholds: Vec<f64>,
}

/// What of the input is wanted, and how it is fetched.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct SelectArgs {
    /// Also read the files of this list: one path a line, # for comments, - for stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) files_from: Option<PathBuf>,
    /// Only Calibre's books of these ids, such as 1,2,5-9
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = book_ids)]
    pub(crate) calibre_id: Vec<RangeInclusive<i64>>,
    /// Only Calibre's books with an author who contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) author: Option<String>,
    /// Only Calibre's books whose title contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    /// Only Calibre's books with a tag that contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) tag: Option<String>,
    /// Only Calibre's books in this language: en or eng
    #[arg(long, value_name = "CODE")]
    pub(crate) language: Option<String>,
    /// The one file of a book in Calibre, by preference [default: epub,docx,pdf,html,md,txt]
    #[arg(long, value_name = "FORMAT,...", value_delimiter = ',', value_parser = book_format)]
    pub(crate) formats: Vec<String>,
    /// Take a folder with Calibre's metadata.db as a folder like any other
    #[arg(long)]
    pub(crate) plain_folders: bool,
    /// What becomes of titles and authors such as "untitled.doc" and "admin" [default: replace; with
    /// --alexandria-compat: skip]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) junk_metadata: Option<JunkArg>,
    /// Which files are copied to the local disk before they are read, at most 1 GiB at once
    #[arg(long, value_enum, default_value_t = PrefetchArg::Auto, value_name = "WHEN")]
    pub(crate) prefetch: PrefetchArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum JunkArg {
    /// Take the next best, such as the file's name
    Replace,
    /// Take them as they are
    Keep,
    /// Leave the document out, and list it
    Skip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrefetchArg {
    /// Those on network file systems
    Auto,
    /// All
    Always,
    /// None
    Never,
}

/// `7` or `5-9`.
fn book_ids(text: &str) -> Result<RangeInclusive<i64>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let id = |text: &str| text.trim().parse::<i64>().ok().filter(|id| *id > 0);
    id(first)
        .zip(id(last))
        .filter(|(first, last)| first <= last)
        .map(|(first, last)| first..=last)
        .ok_or_else(|| "not an id such as 7, nor a range such as 5-9".to_owned())
}

fn book_format(text: &str) -> Result<String, String> {
    let format = text.trim().trim_start_matches('.').to_lowercase();
    match Format::from_extension(&format) {
        Some(Format::JsonLines) | None => Err(format!("not one of {}", FORMATS.join(", "))),
        Some(_) => Ok(format),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChunkerArg {
    /// Whole sentences up to a number of tokens
    Tokens,
    /// One chunk a document, cut off at the model's limit
    Whole,
    /// Windows of words
    Fixed,
    /// Ends where the topic changes, which costs a pass of the model over every sentence
    Semantic,
}

fn cosine(text: &str) -> Result<f64, String> {
    let within = |cosine: &f64| (0.0..=1.0).contains(cosine);
    text.parse().ok().filter(within).ok_or_else(|| "not a number within 0..=1".to_owned())
}
