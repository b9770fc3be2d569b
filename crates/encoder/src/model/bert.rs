//! BERT (Devlin et al. 2018) as `transformers` runs it: MiniLM, bge-*-en, e5 and their kin.

use haul_kernels::act::Activation;
use serde::Deserialize;

use crate::pooling::Pooling;
use crate::program::{Buffer, BufferId, LayerNorm, Linear, LinearId, Op, Program, Rows, Tensor, TensorId};
use crate::weights::{Weights, WeightsError};

/// No size in a configuration may be larger; known models stay three orders of magnitude below.
pub const SIZE_MAX: usize = 1 << 24;
/// The deepest known encoder has 48.
pub const LAYERS_MAX: usize = 1_000;

/// The part of `config.json` that decides what is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct BertConfig {
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
    /// Rows of the position table.
    pub positions: usize,
    /// Rows of the word table.
    pub vocabulary_size: usize,
    /// Rows of the token-type table.
    pub token_types: usize,
}

impl BertConfig {
    /// Reads and checks the object of a `config.json`.
    pub fn from_json(json: serde_json::Value) -> Result<BertConfig, ConfigError> {
        let file: ConfigFile = serde_json::from_value(json)?;
        if file.is_decoder {
            return Err(unsupported("is_decoder", "true", "bidirectional encoders run, decoders do not"));
        }
        if file.position_embedding_type != "absolute" {
            return Err(unsupported(
                "position_embedding_type",
                file.position_embedding_type,
                "only absolute runs",
            ));
        }
        let Some(activation) = activation_named(&file.hidden_act) else {
            return Err(unsupported(
                "hidden_act",
                file.hidden_act,
                "gelu, gelu_new, gelu_pytorch_tanh, relu and silu run",
            ));
        };
        if !(file.layer_norm_eps.is_finite() && file.layer_norm_eps >= 0.0) {
            return Err(unsupported(
                "layer_norm_eps",
                file.layer_norm_eps.to_string(),
                "zero or more is wanted",
            ));
        }
        let config = BertConfig {
            hidden_size: sized("hidden_size", file.hidden_size, SIZE_MAX)?,
            layers: sized("num_hidden_layers", file.num_hidden_layers, LAYERS_MAX)?,
            heads: sized("num_attention_heads", file.num_attention_heads, SIZE_MAX)?,
            intermediate_size: sized("intermediate_size", file.intermediate_size, SIZE_MAX)?,
            activation,
            layer_norm_eps: file.layer_norm_eps,
            positions: sized("max_position_embeddings", file.max_position_embeddings, SIZE_MAX)?,
            vocabulary_size: sized("vocab_size", file.vocab_size, SIZE_MAX)?,
            token_types: sized("type_vocab_size", file.type_vocab_size, SIZE_MAX)?,
        };
        if !config.hidden_size.is_multiple_of(config.heads) {
            return Err(ConfigError::Heads { hidden_size: config.hidden_size, heads: config.heads });
        }
        Ok(config)
    }

    /// The program of this model. `weights` only says how the tensors are named: with `bert.` before each name, as a
    /// checkpoint of a task model has it, or without.
    pub fn program(
        &self,
        weights: &Weights,
        pooling: &Pooling,
        normalize: bool,
    ) -> Result<Program, WeightsError> {
        let prefix = name_prefix(weights);
        self.refuse_more_layers(weights, prefix)?;
        let mut writer = Writer { config: self, prefix, ops: vec![], linears: vec![], tensors: vec![] };
        writer.embed();
        for layer in 0..self.layers {
            writer.layer(layer);
        }
        writer.pool(pooling, normalize);
        let d = self.hidden_size;
        let tokens = |width| Buffer { rows: Rows::Tokens, width };
        Ok(Program {
            buffers: vec![
                tokens(d),
                tokens(3 * d),
                tokens(d),
                tokens(d),
                tokens(self.intermediate_size),
                Buffer { rows: Rows::Sequences, width: d * pooling.modes.len() },
            ],
            ops: writer.ops,
            linears: writer.linears,
            tensors: writer.tensors,
            output: POOLED,
        })
    }

    /// A file with more layers than `config.json` says would give wrong vectors in silence.
    fn refuse_more_layers(&self, weights: &Weights, prefix: &str) -> Result<(), WeightsError> {
        let surplus = format!("{prefix}encoder.layer.{}.", self.layers);
        match weights.names().find(|name| name.starts_with(&surplus)) {
            None => Ok(()),
            Some(tensor) => Err(WeightsError::SurplusLayer {
                path: weights.path().into(),
                tensor: tensor.into(),
                layers: self.layers,
            }),
        }
    }
}

const HIDDEN: BufferId = BufferId(0);
const QKV: BufferId = BufferId(1);
const CONTEXT: BufferId = BufferId(2);
const ATTENDED: BufferId = BufferId(3);
const INTERMEDIATE: BufferId = BufferId(4);
const POOLED: BufferId = BufferId(5);

struct Writer<'a> {
    config: &'a BertConfig,
    prefix: &'a str,
    ops: Vec<Op>,
    linears: Vec<Linear>,
    tensors: Vec<Tensor>,
}

impl Writer<'_> {
    fn embed(&mut self) {
        let BertConfig { hidden_size: d, positions, vocabulary_size, token_types, .. } = *self.config;
        let op = Op::EmbedNorm {
            word: self.tensor("embeddings.word_embeddings.weight", &[vocabulary_size, d]),
            position: self.tensor("embeddings.position_embeddings.weight", &[positions, d]),
            token_type: self.tensor("embeddings.token_type_embeddings.weight", &[token_types, d]),
            norm: self.layer_norm("embeddings.LayerNorm"),
            out: HIDDEN,
        };
        self.ops.push(op);
    }

    /// Post-norm: each residual sum is normed before it goes on.
    fn layer(&mut self, layer: usize) {
        let BertConfig { hidden_size: d, heads, intermediate_size, activation, .. } = *self.config;
        let head_size = d / heads;
        let at = |part: &str| format!("encoder.layer.{layer}.{part}");
        let [q, k, v] = ["query", "key", "value"].map(|which| at(&format!("attention.self.{which}")));

        let qkv = self.linear(&[q, k, v], 3 * d, d);
        self.push_linear(HIDDEN, qkv, Activation::Identity, None, QKV);
        let scale = 1.0 / (head_size as f32).sqrt();
        self.ops.push(Op::Attention { qkv: QKV, heads, head_size, scale, out: CONTEXT });
        let attention_out = self.linear(&[at("attention.output.dense")], d, d);
        self.push_linear(CONTEXT, attention_out, Activation::Identity, Some(HIDDEN), ATTENDED);
        self.push_norm(ATTENDED, &at("attention.output.LayerNorm"));

        let up = self.linear(&[at("intermediate.dense")], intermediate_size, d);
        self.push_linear(ATTENDED, up, activation, None, INTERMEDIATE);
        let down = self.linear(&[at("output.dense")], d, intermediate_size);
        self.push_linear(INTERMEDIATE, down, Activation::Identity, Some(ATTENDED), HIDDEN);
        self.push_norm(HIDDEN, &at("output.LayerNorm"));
    }

    fn pool(&mut self, pooling: &Pooling, normalize: bool) {
        self.ops.push(Op::Pool { x: HIDDEN, pooling: pooling.clone(), out: POOLED });
        if normalize {
            self.ops.push(Op::L2 { x: POOLED });
        }
    }

    fn push_linear(
        &mut self,
        x: BufferId,
        linear: LinearId,
        activation: Activation,
        residual: Option<BufferId>,
        out: BufferId,
    ) {
        self.ops.push(Op::Linear { x, linear, activation, residual, out });
    }

    fn push_norm(&mut self, x: BufferId, name: &str) {
        let norm = self.layer_norm(name);
        self.ops.push(Op::Norm { x, norm });
    }

    fn linear(&mut self, names: &[String], out_features: usize, in_features: usize) -> LinearId {
        let prefixed =
            |suffix: &str| names.iter().map(|name| format!("{}{name}.{suffix}", self.prefix)).collect();
        let linear =
            Linear { weights: prefixed("weight"), biases: prefixed("bias"), out_features, in_features };
        self.linears.push(linear);
        LinearId(self.linears.len() - 1)
    }

    fn layer_norm(&mut self, name: &str) -> LayerNorm {
        let d = self.config.hidden_size;
        LayerNorm {
            gamma: self.tensor(&format!("{name}.weight"), &[d]),
            beta: self.tensor(&format!("{name}.bias"), &[d]),
            eps: self.config.layer_norm_eps,
        }
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> TensorId {
        self.tensors.push(Tensor { name: format!("{}{name}", self.prefix), shape: shape.to_vec() });
        TensorId(self.tensors.len() - 1)
    }
}

fn name_prefix(weights: &Weights) -> &'static str {
    if weights.contains("bert.embeddings.word_embeddings.weight") { "bert." } else { "" }
}

/// `config.json` as `transformers` writes it, with the defaults of its `BertConfig`.
#[derive(Deserialize)]
struct ConfigFile {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    #[serde(default = "default_act")]
    hidden_act: String,
    #[serde(default = "default_eps")]
    layer_norm_eps: f32,
    max_position_embeddings: usize,
    vocab_size: usize,
    #[serde(default = "default_token_types")]
    type_vocab_size: usize,
    #[serde(default = "default_position_embedding_type")]
    position_embedding_type: String,
    #[serde(default)]
    is_decoder: bool,
}

fn default_act() -> String {
    "gelu".into()
}
fn default_eps() -> f32 {
    1e-12
}
fn default_token_types() -> usize {
    2
}
fn default_position_embedding_type() -> String {
    "absolute".into()
}

/// The names of `transformers.activations`. Its `gelu` is the exact one.
fn activation_named(name: &str) -> Option<Activation> {
    Some(match name {
        "gelu" => Activation::GeluErf,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        _ => return None,
    })
}

fn sized(key: &'static str, value: usize, max: usize) -> Result<usize, ConfigError> {
    if (1..=max).contains(&value) { Ok(value) } else { Err(ConfigError::Size { key, value, max }) }
}

fn unsupported(key: &'static str, value: impl Into<String>, runs: &'static str) -> ConfigError {
    ConfigError::Unsupported { key, value: value.into(), runs }
}

/// Why a `config.json` was refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ConfigError {
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
}
