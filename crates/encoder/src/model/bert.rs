//! BERT (Devlin et al. 2018) as `transformers` runs it: MiniLM, bge-*-en, e5 and their kin.

use haul_kernels::act::Activation;
use haul_kernels::attention::Sees;
use serde::Deserialize;

use crate::model::writer::{Bias, Writer};
use crate::model::{
    Architecture, ConfigError, LAYERS_MAX, ModelConfig, SIZE_MAX, activation_named, epsilon, sized, tiled,
    unsupported,
};
use crate::program::{BufferId, Numbering, Op, Positions};
use crate::weights::WeightsError;

/// What BERT and its kin have of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct Bert {
    /// Rows of the position table.
    pub positions: usize,
    /// How tokens are numbered into it.
    pub numbering: Numbering,
    /// Rows of the token-type table; the first is added to every token.
    pub token_types: usize,
    /// What stands before each name in a checkpoint of a task model.
    pub prefix: &'static str,
}

/// Reads a BERT's `config.json`.
pub(super) fn config(json: serde_json::Value) -> Result<ModelConfig, ConfigError> {
    let file: ConfigFile = serde_json::from_value(json)?;
    file.config(Numbering::FromZero, "bert.")
}

impl Bert {
    /// Writes everything up to the last hidden state, and gives its buffer.
    pub(super) fn write(
        &self,
        writer: &mut Writer<'_>,
        config: &ModelConfig,
    ) -> Result<BufferId, WeightsError> {
        writer.detect_prefix(self.prefix, WORD_TABLE);
        writer.refuse_more_layers("encoder.layer.")?;
        let d = config.hidden_size;
        let buffers = Buffers {
            hidden: writer.token_buffer(d),
            qkv: writer.token_buffer(3 * d),
            context: writer.token_buffer(d),
            attended: writer.token_buffer(d),
        };
        self.embed(writer, config, buffers.hidden);
        for layer in 0..config.layers {
            write_layer(writer, config, &buffers, layer);
        }
        Ok(buffers.hidden)
    }

    fn embed(&self, writer: &mut Writer<'_>, config: &ModelConfig, out: BufferId) {
        let ModelConfig { hidden_size: d, vocabulary_size, .. } = *config;
        let table = writer.tensor("embeddings.position_embeddings.weight", &[self.positions, d]);
        let op = Op::Embed {
            word: writer.tensor(WORD_TABLE, &[vocabulary_size, d]),
            position: Some(Positions { table, numbering: self.numbering }),
            token_type: Some(
                writer.tensor("embeddings.token_type_embeddings.weight", &[self.token_types, d]),
            ),
            norm: Some(writer.layer_norm("embeddings.LayerNorm", Bias::Present)),
            out,
        };
        writer.push(op);
    }
}

const WORD_TABLE: &str = "embeddings.word_embeddings.weight";

struct Buffers {
    hidden: BufferId,
    qkv: BufferId,
    context: BufferId,
    attended: BufferId,
}

/// Post-norm: each residual sum is normed before it goes on.
fn write_layer(writer: &mut Writer<'_>, config: &ModelConfig, buffers: &Buffers, layer: usize) {
    let Buffers { hidden, qkv, context, attended } = *buffers;
    let ModelConfig { hidden_size: d, heads, intermediate_size, activation, .. } = *config;
    let head_size = config.head_size();
    let at = |part: &str| format!("encoder.layer.{layer}.{part}");
    let names = ["query", "key", "value"].map(|which| at(&format!("attention.self.{which}")));

    let stacked = writer.linear(&names, Bias::Present, 3 * d, d);
    writer.push_linear(hidden, stacked, Activation::Identity, None, qkv);
    let scale = 1.0 / (head_size as f32).sqrt();
    writer.push(Op::Attention { qkv, heads, head_size, scale, sees: Sees::All, out: context });
    let attention_out = writer.linear(&[at("attention.output.dense")], Bias::Present, d, d);
    writer.push_linear(context, attention_out, Activation::Identity, Some(hidden), attended);
    let norm = writer.layer_norm(&at("attention.output.LayerNorm"), Bias::Present);
    writer.push(Op::Norm { x: attended, norm, out: attended });

    let up = writer.linear(&[at("intermediate.dense")], Bias::Present, intermediate_size, d);
    let down = writer.linear(&[at("output.dense")], Bias::Present, d, intermediate_size);
    let residual = Some(attended);
    writer.push(Op::FeedForward { x: attended, up, activation, down, residual, out: hidden });
    let norm = writer.layer_norm(&at("output.LayerNorm"), Bias::Present);
    writer.push(Op::Norm { x: hidden, norm, out: hidden });
}

/// `config.json` as `transformers` writes it for BERT and its kin, with the defaults of its `BertConfig`.
#[derive(Deserialize)]
pub(super) struct ConfigFile {
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

impl ConfigFile {
    pub(super) fn config(
        self,
        numbering: Numbering,
        prefix: &'static str,
    ) -> Result<ModelConfig, ConfigError> {
        if self.is_decoder {
            return Err(unsupported("is_decoder", "true", "bidirectional encoders run, decoders do not"));
        }
        if self.position_embedding_type != "absolute" {
            let value = self.position_embedding_type;
            return Err(unsupported("position_embedding_type", value, "only absolute runs"));
        }
        let positions = sized("max_position_embeddings", self.max_position_embeddings, SIZE_MAX)?;
        let config = ModelConfig {
            hidden_size: sized("hidden_size", self.hidden_size, SIZE_MAX)?,
            layers: sized("num_hidden_layers", self.num_hidden_layers, LAYERS_MAX)?,
            heads: sized("num_attention_heads", self.num_attention_heads, SIZE_MAX)?,
            intermediate_size: sized("intermediate_size", self.intermediate_size, SIZE_MAX)?,
            activation: activation_named("hidden_act", &self.hidden_act)?,
            layer_norm_eps: epsilon("layer_norm_eps", self.layer_norm_eps)?,
            vocabulary_size: sized("vocab_size", self.vocab_size, SIZE_MAX)?,
            max_tokens: usable_positions(positions, numbering)?,
            architecture: Architecture::Bert(Bert {
                positions,
                numbering,
                token_types: sized("type_vocab_size", self.type_vocab_size, SIZE_MAX)?,
                prefix,
            }),
        };
        tiled(config.hidden_size, config.heads)?;
        Ok(config)
    }
}

/// How many tokens have a row in the position table.
fn usable_positions(positions: usize, numbering: Numbering) -> Result<usize, ConfigError> {
    match numbering {
        Numbering::FromZero => Ok(positions),
        Numbering::AfterPadding { id } => match positions.checked_sub(id as usize + 1) {
            None | Some(0) => Err(ConfigError::NoPositions { pad_token_id: id, positions }),
            Some(usable) => Ok(usable),
        },
    }
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
