//! What is asked of a library, and texts as vectors.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use haul_jobs::search::evaluate::{CUT, CUT_MAX};
use uuid::Uuid;

use super::{ComputeArgs, DeviceArgs, DtypeArg, StoreArg};

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
