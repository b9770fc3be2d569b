//! What can be typed. Argument types only: nothing here opens a file or looks at the machine.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use haul_corpus::document::Format;
use haul_jobs::extract::caps::Most;
use haul_jobs::ingest::{FORMATS, Shard};
use haul_jobs::search::evaluate::{CUT, CUT_MAX};
use haul_jobs::vision::classes::Templates;
use haul_jobs::vision::mc::{PASSES_MAX, TRIALS_MAX};
use haul_jobs::vision::sites::Sites;
use haul_machine::dtype::DtypeRequest;
use haul_machine::verdict::DeviceRequest;
use haul_store::qdrant::Address;
use uuid::Uuid;

/// Run open models over everything you have, on the hardware you own.
#[derive(Debug, Parser)]
#[command(
    name = "haul",
    version,
    max_term_width = 80,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Print exactly one JSON document to stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print no notes and no progress to stderr; errors stay
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
    /// Log to stderr from this level on
    #[arg(long, global = true, env = "HAUL_LOG", value_name = "LEVEL", hide_env_values = true)]
    pub(crate) log: Option<LogLevel>,
    /// Where models, caches and profiles live [default: the platform's data folder]
    #[arg(long, global = true, env = "HAUL_HOME", value_name = "DIR", hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read books and documents into a searchable library
    Ingest(Box<IngestArgs>),
    /// Show what was ingested, how fast, and what failed, as a page
    Report(ReportArgs),
    /// Find passages in a library
    Search(SearchArgs),
    /// Measure search quality against judgments
    Eval(EvalArgs),
    /// Turn lines of stdin into vectors
    Embed(EmbedArgs),
    /// Read documents of companies into checked records, with evidence
    Extract(Box<ExtractArgs>),
    /// Correct a manuscript with a language model, and nothing else in it
    Correct(CorrectArgs),
    /// Answer requests in OpenAI's batch format with a language model
    Generate(GenerateArgs),
    /// Look at a library or a collection, check it, bring it elsewhere
    #[command(subcommand)]
    Store(StoreCommand),
    /// Add, download, list and check models
    #[command(subcommand)]
    Model(ModelCommand),
    /// Check a schema of what is extracted, or show its prompts
    #[command(subcommand)]
    Schema(SchemaCommand),
    /// Compare records with what is true
    #[command(subcommand)]
    Records(RecordsCommand),
    /// Say how sure vision encoders are of images
    #[command(subcommand)]
    Vision(VisionCommand),
    /// Compare GGUF files of one model, and say which to take
    Compare(CompareArgs),
    /// Find the fastest settings for a model, and keep them
    Tune(TuneArgs),
    /// Say what this machine can do, from measurement
    Doctor(DoctorArgs),
    /// Measure speed beside the roof of this machine
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Parse files for another haul process
    #[command(hide = true)]
    ParseWorker,
}

/// Flags of commands that embed one text at a time.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Compute")]
pub(crate) struct DeviceArgs {
    /// auto, cpu, gpu, cuda, cuda:N, vulkan, vulkan:N or metal; obeyed, or the run stops before it starts
    #[arg(long, env = "HAUL_DEVICE", value_name = "DEVICE", hide_env_values = true)]
    pub(crate) device: Option<DeviceRequest>,
}

/// Flags of commands that embed many.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Compute")]
pub(crate) struct ComputeArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Threads that compute [default: all usable cores]
    #[arg(long, env = "HAUL_THREADS", value_name = "N", hide_env_values = true)]
    pub(crate) threads: Option<usize>,
    /// Tokens in one batch, and at least one sequence [default: what `haul tune` found for the model, else 512]
    #[arg(long, env = "HAUL_BATCH_TOKENS", value_name = "N", hide_env_values = true)]
    pub(crate) batch_tokens: Option<usize>,
}

/// What vectors are computed with.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Compute")]
pub(crate) struct DtypeArg {
    /// auto, f32 (exact), bf16, int16 or int8; auto is what the library has, else the fastest of bf16 and int16
    /// where it gains on f32 [default: auto]
    #[arg(long, env = "HAUL_DTYPE", value_name = "DTYPE", hide_env_values = true)]
    pub(crate) dtype: Option<DtypeRequest>,
}

/// The library.
#[derive(Clone, Debug, Args)]
pub(crate) struct StoreArg {
    /// The library: a file, or a collection of a Qdrant server as qdrant://HOST:6334/COLLECTION
    #[arg(long, env = "HAUL_STORE", value_name = "FILE.haul|qdrant://...", hide_env_values = true)]
    pub(crate) store: Option<PathBuf>,
    /// The library on this machine that a collection is filled from [default: in HAUL_HOME/manifests]
    #[arg(long, value_name = "FILE.haul")]
    pub(crate) manifest: Option<PathBuf>,
    /// Key that the server asks for
    #[arg(long, env = "HAUL_QDRANT_API_KEY", value_name = "KEY", hide_env_values = true, hide = true)]
    pub(crate) qdrant_api_key: Option<String>,
}

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

/// A number between 0 and 1.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| format!("`{text}` is no number between 0 and 1"))
}

/// Bytes, in binary units where one is named.
pub(crate) fn amount(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        "T" | "TB" | "TIB" => 1_u64 << 40,
        unit => return Err(format!("`{unit}` is no unit of memory (K, M, G, T)")),
    };
    let number = digits.trim().parse::<u64>().map_err(|_| "not a whole number of bytes".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "more bytes than there are".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// The folder for report.html, report.md and report.json; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
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

/// Which documents are meant.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct FilterArgs {
    /// Author contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) author: Option<String>,
    /// Title contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    /// Language, by metadata or as found in the text
    #[arg(long, value_name = "CODE")]
    pub(crate) language: Option<String>,
    /// epub, pdf, docx, text, markdown, html or json_lines
    #[arg(long, value_name = "NAME")]
    pub(crate) format: Option<String>,
    /// A tag contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) tag: Option<String>,
    /// Series contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) series: Option<String>,
    /// This very document, by its doc_id; may be given several times
    #[arg(long, value_name = "ID")]
    pub(crate) doc: Vec<Uuid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// All rankings that the library has, fused by rank
    Hybrid,
    /// Nearest vectors
    Dense,
    /// Words
    Bm25,
    /// Weights of tokens, in a library of a model that gives them (bge-m3)
    Sparse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RerankArg {
    /// Token by token, with a model that can (bge-m3)
    Colbert,
}

#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// What to look for
    #[arg(value_name = "QUERY")]
    pub(crate) query: String,
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// Which rankings to use
    #[arg(long, value_enum, default_value_t = ModeArg::Hybrid)]
    pub(crate) mode: ModeArg,
    /// Embed the ten best passages once more and order them by this
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) rerank: Option<RerankArg>,
    /// Passages to show
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    /// Neighbouring passages to show on each side
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) context: u32,
    /// Leave out passages with a lower score: the cosine in dense mode, BM25 in bm25 mode (no fixed range), the sum of
    /// 1/(60 + rank) in hybrid mode (at most 0.033)
    #[arg(allow_negative_numbers = true, long, value_name = "X", value_parser = score)]
    pub(crate) min_score: Option<f64>,
    /// Show what each passage stands in: its section where the library has parents, else its chapter
    #[arg(long)]
    pub(crate) parent: bool,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
    #[command(flatten)]
    pub(crate) compute: DeviceArgs,
}

fn score(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|score: &f64| score.is_finite()).ok_or_else(|| "not a number".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// Questions: lines of {"id","text"}, and "category" where they are to be averaged by it too
    #[arg(long, value_name = "FILE.jsonl", requires = "judgments", required_unless_present = "golden")]
    pub(crate) queries: Option<PathBuf>,
    /// TREC judgments: query 0 document gain
    #[arg(long, value_name = "FILE.qrels", requires = "queries")]
    pub(crate) judgments: Option<PathBuf>,
    /// Questions and judgments in one file: lines as for --queries with "relevant": documents by path or title
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["queries", "judgments"])]
    pub(crate) golden: Option<PathBuf>,
    /// Documents of each answer that count
    #[arg(long, default_value_t = CUT as u32, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=CUT_MAX as i64))]
    pub(crate) k: u32,
    /// Which rankings to use
    #[arg(long, value_enum, default_value_t = ModeArg::Hybrid)]
    pub(crate) mode: ModeArg,
    #[command(flatten)]
    pub(crate) compute: DeviceArgs,
}

/// What answers calls: a GGUF file on this machine, or a server.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Language model")]
pub(crate) struct EngineArgs {
    /// A GGUF file or the name of one (`haul model list`), or a server with OpenAI's routes: http://HOST:PORT, and #NAME
    /// behind it where it has several models; HAUL_API_KEY is its key
    #[arg(long, env = "HAUL_LLM", value_name = "M.gguf|URL", hide_env_values = true)]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Threads that compute [default: what `haul tune` found for the model, else all usable cores]
    #[arg(long, env = "HAUL_THREADS", value_name = "N", hide_env_values = true)]
    pub(crate) threads: Option<usize>,
    /// Cells of the KV cache, in tokens, for all calls together [default: what a quarter of the free memory holds, and no
    /// more than the calls can use]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) ctx: Option<u32>,
    /// Calls that are answered together, or with a server at once [default: what `haul tune` found for the model, else
    /// 16, on a card 32]
    #[arg(long, value_name = "N")]
    pub(crate) parallel: Option<u32>,
    /// Type of the K cache: f16, bf16, f32, q8_0, q5_0, q5_1, q4_0, q4_1 or iq4_nl [default: f16]
    #[arg(long, value_name = "TYPE")]
    pub(crate) cache_type_k: Option<String>,
    /// Type of the V cache; one that is not f16, bf16 or f32 needs flash attention [default: f16]
    #[arg(long, value_name = "TYPE")]
    pub(crate) cache_type_v: Option<String>,
    /// A chat template (Jinja) in place of the model's own
    #[arg(long, value_name = "FILE")]
    pub(crate) template: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CorrectArgs {
    /// The manuscript: .md, .txt, .html, .epub or .docx
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The folder for the corrected file, diff.html, diff.json, receipt.json and the answers; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// How the model is asked: tiny, grmr-v3, grmr-v3-satcn, general, or one of --profiles [default: by the model's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// More profiles, as TOML: a table `profile` for each
    #[arg(long, value_name = "FILE")]
    pub(crate) profiles: Option<PathBuf>,
    /// The model alone (replace), the model and then a dictionary (hybrid), or the dictionary first (supplement)
    #[arg(long, value_enum, default_value = "replace")]
    pub(crate) mode: CorrectMode,
    /// A Hunspell dictionary of the system, or the path of a .dic file, for --mode hybrid and supplement
    #[arg(long, value_name = "NAME", default_value = "en_US")]
    pub(crate) dictionary: String,
    /// Write money, times, dates, ordinals and percent as they are spoken (English)
    #[arg(long)]
    pub(crate) tts: bool,
    /// End at the first call that fails, instead of keeping its passage
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// Exit 1 where the corrected file differs from this one
    #[arg(long, value_name = "FILE")]
    pub(crate) expect: Option<PathBuf>,
    /// Write what was done, where and how fast, as JSON, here too
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
}

/// What corrects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CorrectMode {
    /// The model
    Replace,
    /// The model, then a dictionary
    Hybrid,
    /// A dictionary, then the model
    Supplement,
}

#[derive(Debug, Args)]
pub(crate) struct ExtractArgs {
    /// Files of a company: a folder, a zip or a 7z archive; or a folder of those. A company is called like its folder
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// What is looked for: .toml or .json (`haul schema check`)
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: PathBuf,
    /// The folder for records.json, .jsonl and .csv, a page for each company (review/NAME.html), coverage.json,
    /// quality.json, receipt.json and the answers; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Tokens of a window of documents, at most [default: what the schema says and the model's context leaves]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    pub(crate) window_tokens: Option<u32>,
    /// Rank windows by an embedding model too, fused with their words: its name or folder (`haul model list`)
    /// [default: by words alone]
    #[arg(long, value_name = "NAME")]
    pub(crate) embedder: Option<String>,
    /// Windows that are asked which facilities they name, best first: a number, or all
    #[arg(long, value_name = "N", default_value_t = Most::All)]
    pub(crate) entity_windows: Most,
    /// Windows that every group of fields is asked in first, best first
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) group_windows: u32,
    /// Further windows of every group, best first: a number, or all
    #[arg(long, value_name = "N", default_value_t = Most::All)]
    pub(crate) section_passes: Most,
    /// Fields of a facility that are asked for by themselves in the end, what is perhaps there first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) deep_fields: u32,
    /// Do not ask again whether values are right
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Ask every group in every window, also for what is found and where the model says that nothing of it is there
    #[arg(long)]
    pub(crate) no_early_stop: bool,
    /// Facilities of a company, at most: those that most windows name [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) facilities: Option<u32>,
    /// Time for all calls, such as 90s, 60m or 2h: the most valuable come first, and the rest is listed [default: none]
    #[arg(long, value_name = "TIME", value_parser = crate::commands::extract::duration)]
    pub(crate) budget: Option<Duration>,
    /// Write every question and answer to DIR/traces/NAME.jsonl too, without keys and passwords
    #[arg(long)]
    pub(crate) traces: bool,
    /// Read some companies, say what calls, tokens and minutes all of them will come to and what each cap saves, and stop
    #[arg(long, conflicts_with_all = ["budget", "traces", "receipt"])]
    pub(crate) plan: bool,
    #[command(flatten)]
    pub(crate) readers: ReaderArgs,
    /// Write what was done, where and how fast, as JSON, here too
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Where responses go, a line each, in the order of the requests; answers are kept beside it until all are there
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Write what was done, where and how fast, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct EmbedArgs {
    /// A model's name or folder
    #[arg(long, env = "HAUL_MODEL", value_name = "NAME", hide_env_values = true)]
    pub(crate) model: Option<String>,
    /// Which prompt of the model stands before each text
    #[arg(long, value_enum)]
    pub(crate) role: Option<RoleArg>,
    /// Longest sequence given to the model [default: what the model's files say]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// Keep only the first N numbers of each vector, which needs a model trained for it (Matryoshka) [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) dim: Option<usize>,
    /// What to print for each text, of what the model has
    #[arg(long, value_enum, value_delimiter = ',', default_value = "dense", value_name = "LIST")]
    pub(crate) heads: Vec<HeadArg>,
    /// Write a NumPy array instead of JSONL on stdout
    #[arg(long, value_name = "FILE.npy")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) dtype: DtypeArg,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HeadArg {
    /// "embedding": one vector
    Dense,
    /// "sparse": a weight for each distinct token, by its id
    Sparse,
    /// "colbert": a vector for each token but the first
    Colbert,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    Query,
    Document,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Counts, settings, sizes and the digest
    Info(StoreArg),
    /// Check that everything in the library is whole
    Verify(StoreArg),
    /// Bring a library into a collection of a Qdrant server; embeds nothing
    Push(PushArgs),
    /// Make the manifest of a collection again, from the server alone
    Sync(StoreArg),
    /// List the collections of a server, and their aliases
    Collections(StoreArg),
    /// Copy a collection of a server to another name
    Copy(CopyArgs),
    /// Let another name stand for a collection, whatever it stood for before
    Alias(AliasArgs),
    /// List the documents that all given filters let through
    List(ListArgs),
    /// Remove the documents that all given filters let through, and show what was removed
    Delete(DeleteArgs),
    /// Bring libraries together that were made with the same settings, such as those of shards
    Merge(MergeArgs),
    /// List documents whose title or authors differ from Calibre's; 1 if there are any
    Mismatched(MismatchedArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// The collection; made if it is not there
    #[arg(long, value_name = "qdrant://HOST:6334/COLLECTION")]
    pub(crate) to: Address,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// Name of the copy, on the same server
    #[arg(long, value_name = "COLLECTION")]
    pub(crate) to: String,
}

#[derive(Debug, Args)]
pub(crate) struct AliasArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// The other name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// Remove them also where they are more than 10
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// The libraries to take in; they stay as they are
    #[arg(required = true, value_name = "FILE.haul")]
    pub(crate) inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArg,
}

#[derive(Debug, Args)]
pub(crate) struct MismatchedArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// The Calibre library: the folder that holds metadata.db
    #[arg(long, value_name = "DIR")]
    pub(crate) calibre: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Add a folder in Hugging Face layout
    Add {
        /// The folder
        dir: PathBuf,
        /// Its name from now on [default: the folder's]
        #[arg(long)]
        name: Option<String>,
        /// Link to the files instead of copying them
        #[arg(long)]
        link: bool,
    },
    /// Download a model from the hub
    Get {
        /// org/name, or org/name@revision
        id: String,
        /// Its name from now on [default: the last part of the id]
        #[arg(long)]
        name: Option<String>,
        /// The hub's address
        #[arg(long, env = "HAUL_HUB", value_name = "URL", hide_env_values = true)]
        hub: Option<String>,
    },
    /// List the models
    List,
    /// Write a GGUF file in another quantisation
    Quantize {
        /// The file, best in f16 or f32: what is quantised already only gets worse
        from: PathBuf,
        /// The new file
        to: PathBuf,
        /// q8_0, q6_k, q5_k_m, q4_k_m, iq4_xs, ... as llama.cpp calls them
        #[arg(long, value_name = "KIND")]
        kind: String,
    },
    /// Read every file of a model again and compare it with what was added; of a GGUF file, check the header
    Check {
        /// The model's name, or a GGUF file
        name: String,
        /// Also embed the texts of this file and compare with its vectors: lines of {"text","embedding"}, and
        /// "role": "query" or "document" where the model's prompt stands before the text
        #[arg(long, value_name = "FILE.jsonl")]
        golden: Option<PathBuf>,
        /// What to compute the vectors with, which says how near they must be [default: f32]
        #[arg(long, value_name = "DTYPE", requires = "golden")]
        dtype: Option<DtypeRequest>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VisionCommand {
    /// Run an image tower many times with dropout, and say how far its features spread
    Mc(Box<McArgs>),
    /// The study's experiment 0: whether 10 trials of 4, 16 and 64 passes agree
    Exp0(Box<McArgs>),
    /// Experiment 0b: the shape of what 5 trials of 64 passes spread over
    Exp0b(Box<McArgs>),
    /// Experiment 1: whether images keep their ranks from one rate to the next, 3 trials of 64 passes each
    Exp1(Box<McArgs>),
    /// Experiment 3: attention, feed-forward, one layer or all of them disturbed, 5 trials of 64 passes
    Exp3(Box<McArgs>),
    /// Experiment 4: models side by side, 10 trials of 64 passes
    Exp4(Box<McArgs>),
    /// Experiment 5: whether images whose class a model cannot name for sure are those that are uncertain, 64 passes
    Exp5(Box<AmbiguityArgs>),
    /// Experiment 6: how far the mean of 4 to 64 passes is from what the model says without dropout, 3 trials
    Exp6(Box<McArgs>),
    /// Whether images that are blurred or made small become less certain, 64 passes
    Ablation(Box<McArgs>),
    /// Derive every table again from saved passes and trials (.npz), without a model
    Analyze(AnalyzeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct McArgs {
    /// The folder of the images: .jpg, .jpeg, .png, .bmp and .webp in it and below
    #[arg(value_name = "FOLDER")]
    pub(crate) images: PathBuf,
    /// Folders of CLIP or SigLIP checkpoints, or names of those in HAUL_HOME/models; with a comma between several, which
    /// share the decoded images
    #[arg(long, alias = "models", required = true, value_name = "DIR[,DIR]", value_delimiter = ',')]
    pub(crate) model: Vec<PathBuf>,
    /// Where results go; with several models, each has a folder in it
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) images_taken: ImagesArgs,
    #[command(flatten)]
    pub(crate) dropout: DropoutArgs,
    /// Keep the products of all passes with each other in mc.npz, from which `haul vision analyze` derives every quantity
    #[arg(long, help_heading = "Results")]
    pub(crate) gram: bool,
    /// Keep the features of every pass: trial{k}_seed{s}.npz
    #[arg(long, help_heading = "Results")]
    pub(crate) save_passes: bool,
    /// As the original study: its sample of the images, and traces divided by the number of passes and not one less
    #[arg(long, help_heading = "Results")]
    pub(crate) seed_compat: bool,
    /// GELU in place of a checkpoint's quick form of it, as the original study ran CLIP
    #[arg(long, help_heading = "Results")]
    pub(crate) as_they_ran: bool,
    /// Say what the run and other ways to its numbers take, from a rate that is measured, and stop
    #[arg(long, help_heading = "Results", conflicts_with_all = ["receipt", "target_icc", "target_se"])]
    pub(crate) plan: bool,
    /// Write the receipt here too
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(crate) receipt: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Memory that the run and its workers may take together, such as 2G: batches become as small as that takes
    /// [default: three quarters of what is free]
    #[arg(long, env = "HAUL_MEMORY", value_name = "BYTES", hide_env_values = true, value_parser = amount, help_heading = "Compute")]
    pub(crate) memory: Option<u64>,
    /// Passes in one batch; changes no bit of the results [default: as many as --batch-tokens has room for,
    /// or 256 tokens]
    #[arg(long, value_name = "N", help_heading = "Compute")]
    pub(crate) batch_size: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) dtype: DtypeArg,
}

#[derive(Debug, Args)]
pub(crate) struct AmbiguityArgs {
    #[command(flatten)]
    pub(crate) passes: McArgs,
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,
}

/// What images are compared with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompts")]
pub(crate) struct PromptArgs {
    /// Names of the classes by their folders: {"n01440764": "tench"} as .json, or lines of folder, tab, name [default: the
    /// folders' own names]
    #[arg(long, value_name = "FILE")]
    pub(crate) class_map: Option<PathBuf>,
    /// Sentences with {} for the name, | between them; margins and entropies are of the first
    #[arg(long, value_name = "TEXT|TEXT", default_value = Templates::USUAL)]
    pub(crate) templates: Templates,
    /// The share of images with the lowest margin, and of those with the highest entropy, that uncertainty should find
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    pub(crate) quantile: f64,
}

/// Which images of a folder are taken.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Images")]
pub(crate) struct ImagesArgs {
    /// Take so many of the images [default: 500, of exp1 and exp3 1,000, of exp5 5,000; all where there are fewer]
    #[arg(long, value_name = "N")]
    pub(crate) num_images: Option<NonZeroUsize>,
    /// How they are chosen: classes takes as many of each folder as of the next, numpy those that the original study
    /// takes [default: classes]
    #[arg(long, value_name = "HOW")]
    pub(crate) sampling: Option<SamplingArg>,
    /// Take the images of this list, {"num_images": 2, "paths": ["a.jpg", "b.jpg"]}
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["num_images", "sampling"])]
    pub(crate) manifest: Option<PathBuf>,
}

/// How a sample is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SamplingArg {
    Classes,
    Numpy,
}

/// What is done to a tower in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PerturbArg {
    /// Outputs fall out
    Dropout,
    /// Noise is added, as wide as a share of what the outputs spread
    Gaussian,
    /// Each output is multiplied with noise around 1
    Scale,
}

/// What falls out, and how often.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Dropout")]
pub(crate) struct DropoutArgs {
    /// Where elements fall out: uniform (every linear layer), mlp, attention, c_proj, late-K (the last K blocks' second
    /// layers), depth (whole blocks), or one site such as blocks.11.mlp.fc2 [default: uniform]
    #[arg(long, value_name = "SET")]
    pub(crate) sites: Option<Sites>,
    /// What is done there
    #[arg(long, value_name = "KIND", value_enum, default_value = "dropout")]
    pub(crate) perturb: PerturbArg,
    /// The share that falls out [default: 0.01]
    #[arg(long, alias = "p", value_name = "P", allow_negative_numbers = true)]
    pub(crate) dropout: Option<f64>,
    /// How strong noise is: its deviation over that of a layer's outputs, or over each of them [default: 0.01]
    #[arg(long, value_name = "M", conflicts_with = "dropout", allow_negative_numbers = true)]
    pub(crate) magnitude: Option<f64>,
    /// The same masks for all images, so that pairs of images differ by themselves alone
    #[arg(long)]
    pub(crate) shared_masks: bool,
    /// Rates of exp1, or magnitudes [default: 0.001,0.005,0.01,0.02,0.05,0.1]
    #[arg(long, value_name = "P,P", value_delimiter = ',', conflicts_with = "dropout")]
    pub(crate) p_values: Option<Vec<f64>>,
    /// Repetitions [default: those of the experiment, 10 of mc]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=TRIALS_MAX as i64))]
    pub(crate) trials: Option<u32>,
    /// Passes of a trial; of several numbers, results are given after each [default: those of the experiment,
    /// 4,16,64 of mc]
    #[arg(long, value_name = "T,T", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(2..=PASSES_MAX as i64))]
    pub(crate) passes: Option<Vec<u32>>,
    /// As many passes over each image as one trial's trace_pre needs for this ICC, by a pilot of 16 passes over 64 images
    #[arg(long, value_name = "ICC", value_parser = share,
          conflicts_with_all = ["passes", "target_se", "independent_t", "gram", "save_passes"])]
    pub(crate) target_icc: Option<f64>,
    /// As many passes over each image as bring the standard error of its trace_pre to this share of it, by such a pilot
    #[arg(long, value_name = "SHARE", value_parser = share,
          conflicts_with_all = ["passes", "independent_t", "gram", "save_passes"])]
    pub(crate) target_se: Option<f64>,
    /// Trials of their own for every number of passes, instead of one trial seen after so many
    #[arg(long)]
    pub(crate) independent_t: bool,
    /// Of all masks, and of the sample of images
    #[arg(long, value_name = "N", default_value_t = 42, allow_negative_numbers = true)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    /// Files, and folders for the .npz files in them: exp0_trials_T*.npz, trial*_seed*.npz, mc.npz and others
    #[arg(required = true, value_name = "DIR|FILE.npz")]
    pub(crate) paths: Vec<PathBuf>,
    /// Divide traces by the number of passes and not one less, as the original study did; and its second off-diagonal
    /// ratio beside the first
    #[arg(long)]
    pub(crate) seed_compat: bool,
    /// Frozen weights for weighted_trace_pre and topk64_trace_pre [default: of the images at hand]
    #[arg(long, value_name = "FILE.npz")]
    pub(crate) weights: Option<PathBuf>,
    /// Freeze the weights of the images at hand, for --weights
    #[arg(long, value_name = "FILE.npz", conflicts_with = "weights")]
    pub(crate) save_weights: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SchemaCommand {
    /// Say whether a schema can be used, and else everything that is wrong with it
    Check {
        /// The schema: .toml or .json
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show fields, every prompt as it would be sent, what answers must be, and sizes: in tokens with --model, else in words
    Explain(Box<ExplainArgs>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecordsCommand {
    /// Count by column how many values are right, wrong, missing and invented; rows that only one side has count as well
    Compare(RecordsCompareArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RecordsCompareArgs {
    /// The records: records.json, or a .csv with a column for the company
    #[arg(value_name = "RECORDS")]
    pub(crate) records: PathBuf,
    /// What is true: a .csv with a row for each entity
    #[arg(long, value_name = "GOLDEN.csv")]
    pub(crate) golden: PathBuf,
    /// Which golden column is which of the records, a line "Golden column" = "column" each; `company` and `facility` are
    /// columns as well. Columns of one name need no line
    #[arg(long, value_name = "MAP.toml")]
    pub(crate) columns: Option<PathBuf>,
    /// The schema of the records: cells are read by the types of its fields, and columns go by its labels
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The schema: .toml or .json
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only this group
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Tokens/s, share of the measured roof and agreement with f32, by dtype and kind of text
    Encoder(BenchEncoderArgs),
    /// What a library of many vectors takes to be made, opened and searched; it is made up, and removed again
    Store(BenchStoreArgs),
    /// How often the windows that are read first hold values that are known of documents
    #[command(hide = true)]
    Windows(BenchWindowsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchWindowsArgs {
    /// The folder of the documents
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// The schema: .toml or .json
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: PathBuf,
    /// What is known: a line {"file", "values": {FIELD: [VALUE, ...]}} for each document
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) expected: PathBuf,
    /// The embedding model's name or folder
    #[arg(long, env = "HAUL_MODEL", value_name = "NAME", hide_env_values = true)]
    pub(crate) model: Option<String>,
    /// Tokens of a window, as the embedding model counts them
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub(crate) window_tokens: u32,
    #[command(flatten)]
    pub(crate) readers: ReaderArgs,
    #[command(flatten)]
    pub(crate) dtype: DtypeArg,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchStoreArgs {
    /// Chunks in the library, each with a vector
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) rows: u64,
    /// Numbers of a vector
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub(crate) dim: u32,
    /// Searches to time
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) queries: u32,
    /// Threads of a search [default: all usable cores]
    #[arg(long, env = "HAUL_THREADS", value_name = "N", hide_env_values = true)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// The folder on whose disk the library is made [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchEncoderArgs {
    /// A model's name or folder [default: the library's]
    #[arg(long, env = "HAUL_MODEL", value_name = "NAME", hide_env_values = true)]
    pub(crate) model: Option<String>,
    /// Texts to embed, one a line, instead of texts that are made up
    #[arg(long, value_name = "FILE")]
    pub(crate) texts: Option<PathBuf>,
    /// A library: its chunks are compared with f32, and embedded unless --texts is given
    #[arg(long, value_name = "FILE.haul")]
    pub(crate) store: Option<PathBuf>,
    /// What to measure [default: f32,int16,bf16,int8]
    #[arg(long, value_name = "DTYPE,...", value_delimiter = ',')]
    pub(crate) dtype: Vec<DtypeRequest>,
    /// How long the work of one row is repeated, at least once
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds: f64,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    const SECONDS_MAX: f64 = 86_400.0;
    let within = |seconds: &f64| (0.0..=SECONDS_MAX).contains(seconds);
    text.parse()
        .ok()
        .filter(within)
        .ok_or_else(|| format!("not a number of seconds within 0..={SECONDS_MAX}"))
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// GGUF files of one model, such as its quantisations
    #[arg(required = true, value_name = "FILE.gguf")]
    pub(crate) files: Vec<PathBuf>,
    /// The text on which distributions are compared, and which is corrected as a long document
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,
    /// The folder for the reports; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The file that the others are compared with [default: the largest]
    #[arg(long, value_name = "FILE.gguf")]
    pub(crate) base: Option<PathBuf>,
    /// Task cases: TOML with a table `case` for each, or JSONL, of name, category, input, expected, must, must_not [default: 16 of
    /// haul's own]
    #[arg(long, value_name = "FILE")]
    pub(crate) cases: Option<PathBuf>,
    /// Measured runs of each speed
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) repetitions: u32,
    /// Write what was done, where and how fast, as JSON, here too
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) llm: LlmArgs,
}

/// How a GGUF file is opened.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Compute")]
pub(crate) struct LlmArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Threads that compute [default: all usable cores]
    #[arg(long, env = "HAUL_THREADS", value_name = "N", hide_env_values = true)]
    pub(crate) threads: Option<usize>,
    /// Tokens of the context
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(256..=1_048_576))]
    pub(crate) ctx: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct TuneArgs {
    /// A GGUF file, or an encoder's name or folder
    #[arg(long, env = "HAUL_MODEL", value_name = "FILE.gguf|NAME")]
    pub(crate) model: String,
    /// The folder for the reports; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// No measurement is begun that would end later, such as 10m, 90s or 1h
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = time)]
    pub(crate) budget: Duration,
    /// Measured runs of each speed
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) repetitions: u32,
    /// Write what was done, where and how fast, as JSON, here too
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) dtype: DtypeArg,
    #[command(flatten)]
    pub(crate) llm: LlmArgs,
}

/// A number of minutes, or with its unit: `90s`, `10m`, `1h`.
fn time(text: &str) -> Result<Duration, String> {
    const HOURS_MAX: f64 = 24.0;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "s" => 1.0,
        "" | "m" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("`{unit}` is no unit of time (s, m, h)")),
    };
    let seconds = digits.trim().parse::<f64>().map_err(|_| "not a time such as 10m".to_owned())? * factor;
    let is_within = (0.0..=HOURS_MAX * 3600.0).contains(&seconds);
    if is_within {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("not within 0..={HOURS_MAX} h"))
    }
}

#[derive(Debug, Args)]
#[command(mut_arg("model", |model| model.value_name("M.gguf").help("A GGUF file or the name of one (`haul model list`)")))]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}
