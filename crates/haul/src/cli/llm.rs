//! What asks a language model, and what chooses one.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use haul_jobs::extract::caps::Most;

use super::ingest::ReaderArgs;
use super::{DeviceArgs, DtypeArg};

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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(64..=1_048_576), help_heading = "Questions")]
    pub(crate) window_tokens: Option<u32>,
    /// Rank windows by an embedding model too, fused with their words: its name or folder (`haul model list`)
    /// [default: by words alone]
    #[arg(long, value_name = "NAME", help_heading = "Questions")]
    pub(crate) embedder: Option<String>,
    /// Windows that are asked which facilities they name, best first: a number, or all
    #[arg(long, value_name = "N", default_value_t = Most::All, help_heading = "Questions")]
    pub(crate) entity_windows: Most,
    /// Windows that every group of fields is asked in first, best first
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Questions")]
    pub(crate) group_windows: u32,
    /// Further windows of every group, best first: a number, or all
    #[arg(long, value_name = "N", default_value_t = Most::All, help_heading = "Questions")]
    pub(crate) section_passes: Most,
    /// Fields of a facility that are asked for by themselves in the end, what is perhaps there first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000), help_heading = "Questions")]
    pub(crate) deep_fields: u32,
    /// Do not ask again whether values are right
    #[arg(long, help_heading = "Questions")]
    pub(crate) no_verify: bool,
    /// Ask every group in every window, also for what is found and where the model says that nothing of it is there
    #[arg(long, help_heading = "Questions")]
    pub(crate) no_early_stop: bool,
    /// Facilities of a company, at most: those that most windows name [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Questions")]
    pub(crate) facilities: Option<u32>,
    /// Time for all calls, such as 90s, 60m or 2h: the most valuable come first, and the rest is listed [default: none]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Run")]
    pub(crate) budget: Option<Duration>,
    /// Write every question and answer to DIR/traces/NAME.jsonl too, without keys and passwords
    #[arg(long, help_heading = "Results")]
    pub(crate) traces: bool,
    /// Read some companies, say what calls, tokens and minutes all of them will come to and what each cap saves, and stop
    #[arg(long, conflicts_with_all = ["budget", "traces", "receipt"], help_heading = "Run")]
    pub(crate) plan: bool,
    #[command(flatten)]
    pub(crate) readers: ReaderArgs,
    /// Write what was done, where and how fast, as JSON, here too
    #[arg(long, value_name = "FILE", help_heading = "Results")]
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

/// `90s`, `60m`, `2h`.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time such as 90s, 60m or 2h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}
