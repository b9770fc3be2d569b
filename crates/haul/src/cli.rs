//! What can be typed. Argument types only: nothing here opens a file or looks at the machine.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use haul_machine::dtype::DtypeRequest;
use haul_machine::verdict::DeviceRequest;

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
    Ingest(IngestArgs),
    /// Find passages in a library
    Search(SearchArgs),
    /// Measure search quality against judgments
    Eval(EvalArgs),
    /// Turn lines of stdin into vectors
    Embed(EmbedArgs),
    /// Look at a library or check it
    #[command(subcommand)]
    Store(StoreCommand),
    /// Add, download, list and check models
    #[command(subcommand)]
    Model(ModelCommand),
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
    /// Tokens in one batch [default: 2048, and at least one sequence]
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
    /// The library, one file
    #[arg(long, env = "HAUL_STORE", value_name = "FILE.haul", hide_env_values = true)]
    pub(crate) store: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    /// Files and folders: EPUB, HTML, Markdown, text, JSONL of {"id","title","text"}
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// A model's name or folder; needed when the library is new
    #[arg(long, env = "HAUL_MODEL", value_name = "NAME", hide_env_values = true)]
    pub(crate) model: Option<String>,
    /// How documents are cut
    #[arg(long, value_name = "KIND")]
    pub(crate) chunker: Option<ChunkerArg>,
    /// Tokens of a chunk, special tokens not counted [default: what the model takes]
    #[arg(long, value_name = "N")]
    pub(crate) chunk_tokens: Option<usize>,
    /// Sentences of a chunk that the next one repeats [default: 0]
    #[arg(long, value_name = "SENTENCES")]
    pub(crate) overlap: Option<usize>,
    /// Longest sequence given to the model [default: what the model's files say]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// Keep only the first N numbers of each vector, which needs a model trained for it (Matryoshka) [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) dim: Option<usize>,
    /// Namespace of document ids
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub(crate) collection: String,
    /// Remove documents whose files are gone
    #[arg(long)]
    pub(crate) prune: bool,
    /// Also write the receipt here
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) dtype: DtypeArg,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChunkerArg {
    /// Whole sentences up to a number of tokens
    Tokens,
    /// One chunk a document, cut off at the model's limit
    Whole,
}

/// Which passages may answer.
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
    /// epub, text, markdown, html or json_lines
    #[arg(long, value_name = "NAME")]
    pub(crate) format: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// Both rankings, fused by rank
    Hybrid,
    /// Nearest vectors
    Dense,
    /// Words
    Bm25,
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
    /// Passages to show
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    /// Neighbouring passages to show on each side
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) context: u32,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
    #[command(flatten)]
    pub(crate) compute: DeviceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// {"id","text"} lines
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) queries: PathBuf,
    /// TREC judgments: query 0 document gain
    #[arg(long, value_name = "FILE.qrels")]
    pub(crate) judgments: PathBuf,
    /// Which rankings to use
    #[arg(long, value_enum, default_value_t = ModeArg::Hybrid)]
    pub(crate) mode: ModeArg,
    #[command(flatten)]
    pub(crate) compute: DeviceArgs,
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
    /// Read every file of a model again and compare it with what was added
    Check {
        /// The model's name
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
pub(crate) enum BenchCommand {
    /// Tokens/s, share of the measured roof and agreement with f32, by dtype and kind of text
    Encoder(BenchEncoderArgs),
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
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}
