//! What can be typed. Argument types only: nothing here opens a file or looks at the machine.

pub(crate) mod bench;
pub(crate) mod ingest;
pub(crate) mod llm;
pub(crate) mod search;
pub(crate) mod store;
pub(crate) mod vision;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use haul_machine::dtype::DtypeRequest;
use haul_machine::verdict::DeviceRequest;

use self::bench::BenchCommand;
use self::ingest::IngestArgs;
use self::llm::{
    CompareArgs, CorrectArgs, EngineArgs, ExtractArgs, GenerateArgs, RecordsCommand, SchemaCommand, TuneArgs,
};
use self::search::{EmbedArgs, EvalArgs, SearchArgs};
use self::store::StoreCommand;
use self::vision::VisionCommand;

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

#[derive(Debug, Args)]
#[command(mut_arg("model", |model| model.value_name("M.gguf").help("A GGUF file or the name of one (`haul model list`)")))]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}
