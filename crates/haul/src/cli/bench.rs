//! Measurements.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use haul_machine::dtype::DtypeRequest;

use super::ingest::ReaderArgs;
use super::{ComputeArgs, DtypeArg};

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
