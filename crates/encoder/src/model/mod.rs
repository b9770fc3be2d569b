//! The architectures: each reads its own part of `config.json` and writes a [`crate::program::Program`].

pub mod bert;
pub mod blocks;
pub mod modern_bert;
pub mod text;
mod timm;
pub mod vision;
mod writer;
pub mod xlm_roberta;

use haul_kernels::act::Activation;

use crate::model::bert::Bert;
use crate::model::modern_bert::ModernBert;
use crate::model::writer::{Sizes, Writer};
use crate::pooling::Pooling;
use crate::program::Program;
use crate::weights::{Weights, WeightsError};

/// No size in a configuration may be larger; known models stay three orders of magnitude below.
pub const SIZE_MAX: usize = 1 << 24;
/// The deepest known encoder has 48.
pub const LAYERS_MAX: usize = 1_000;

/// The part of `config.json` that decides what is computed: the sizes that every architecture has, and its own.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Columns of the hidden state.
    pub hidden_size: usize,
    /// Blocks of attention and feed-forward.
    pub layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub heads: usize,
    /// Columns inside the feed-forward.
    pub intermediate_size: usize,
    /// Activation of the feed-forward; `gelu` is the exact one, with erf.
    pub activation: Activation,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f32,
    /// Rows of the word table.
    pub vocabulary_size: usize,
    /// The longest sequence that has a position for each token.
    pub max_tokens: usize,
    /// What the architecture adds.
    pub architecture: Architecture,
}

/// The architectures that run, each with what only it has.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// BERT, and XLM-RoBERTa with its kin, which differ in names and in the numbering of positions.
    Bert(Bert),
    /// ModernBERT.
    ModernBert(ModernBert),
}

/// What is wanted of the hidden states `[tokens, hidden]`.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// How a sequence becomes one row.
    pub pooling: Pooling,
    /// Whether each row is divided by its length.
    pub normalize: bool,
    /// Only the first columns of a row, cut before it is divided by its length (Matryoshka); all where there is none.
    pub dim: Option<usize>,
    /// Outputs beside the dense rows; each needs its weights under [`Head::weights_prefix`].
    pub heads: Vec<Head>,
    /// Special tokens that get no sparse weight.
    pub dropped_ids: Vec<u32>,
}

/// An output beside the dense rows, as bge-m3 has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Head {
    /// One weight for each distinct token: `relu(Linear hidden -> 1)`, the largest where a token occurs again.
    Sparse,
    /// One normalised vector a token: `Linear hidden -> width`.
    Colbert,
}

impl Head {
    /// Every head there is.
    pub const ALL: [Head; 2] = [Head::Sparse, Head::Colbert];

    /// `sparse` or `colbert`.
    pub fn name(self) -> &'static str {
        match self {
            Head::Sparse => "sparse",
            Head::Colbert => "colbert",
        }
    }

    /// The file of a model directory that holds the head's weights.
    pub fn file_name(self) -> &'static str {
        match self {
            Head::Sparse => "sparse_linear.pt",
            Head::Colbert => "colbert_linear.pt",
        }
    }

    /// What stands before the names of the head's tensors among a model's weights.
    pub fn weights_prefix(self) -> &'static str {
        match self {
            Head::Sparse => "sparse_linear.",
            Head::Colbert => "colbert_linear.",
        }
    }
}

impl ModelConfig {
    /// Reads and checks the object of a `config.json`.
    pub fn from_json(json: serde_json::Value) -> Result<ModelConfig, ConfigError> {
        match json.get("model_type").and_then(|t| t.as_str()) {
            Some("bert") => bert::config(json),
            Some("xlm-roberta" | "roberta" | "camembert") => xlm_roberta::config(json),
            Some("modernbert") => modern_bert::config(json),
            other => Err(ConfigError::ModelType { found: other.unwrap_or("not given").into() }),
        }
    }

    /// The program of this model. `weights` only says how the tensors are named, and how wide the heads are.
    pub fn program(&self, weights: &Weights, wanted: &Wanted) -> Result<Program, WeightsError> {
        let ModelConfig { hidden_size, layers, layer_norm_eps, .. } = *self;
        let mut writer = Writer::new(Sizes { hidden_size, layers, layer_norm_eps }, weights);
        let hidden = match &self.architecture {
            Architecture::Bert(bert) => bert.write(&mut writer, self)?,
            Architecture::ModernBert(modern) => modern.write(&mut writer, self)?,
        };
        writer.finish(hidden, wanted)
    }

    /// Columns of one head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.heads
    }
}

/// The names of `transformers.activations`. Its `gelu` is the exact one.
fn activation_named(key: &'static str, name: &str) -> Result<Activation, ConfigError> {
    Ok(match name {
        "gelu" => Activation::GeluErf,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        _ => {
            let runs = "gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu and silu run";
            return Err(unsupported(key, name, runs));
        }
    })
}

fn epsilon(key: &'static str, eps: f32) -> Result<f32, ConfigError> {
    if eps.is_finite() && eps >= 0.0 {
        Ok(eps)
    } else {
        Err(unsupported(key, eps.to_string(), "zero or more is wanted"))
    }
}

fn sized(key: &'static str, value: usize, max: usize) -> Result<usize, ConfigError> {
    if (1..=max).contains(&value) { Ok(value) } else { Err(ConfigError::Size { key, value, max }) }
}

fn tiled(hidden_size: usize, heads: usize) -> Result<(), ConfigError> {
    if hidden_size.is_multiple_of(heads) { Ok(()) } else { Err(ConfigError::Heads { hidden_size, heads }) }
}

fn unsupported(key: &'static str, value: impl Into<String>, runs: &'static str) -> ConfigError {
    ConfigError::Unsupported { key, value: value.into(), runs }
}

/// Why a `config.json` was refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ConfigError {
    /// An architecture that does not run.
    #[error("model_type {found:?} does not run; bert, xlm-roberta, roberta, camembert and modernbert do")]
    ModelType { found: String },
    /// A key is missing or of the wrong type.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A value asks for something that is not run.
    #[error("{key} is {value:?}; {runs}")]
    Unsupported { key: &'static str, value: String, runs: &'static str },
    /// A size of zero, or an absurd one.
    #[error("{key} is {value}, which is not in 1..={max}")]
    Size { key: &'static str, value: usize, max: usize },
    /// The heads do not tile the hidden state.
    #[error("num_attention_heads {heads} does not divide hidden_size {hidden_size}")]
    Heads { hidden_size: usize, heads: usize },
    /// The padding id leaves no position for a token.
    #[error("pad_token_id {pad_token_id} leaves none of max_position_embeddings {positions} to a token")]
    NoPositions { pad_token_id: u32, positions: usize },
}
