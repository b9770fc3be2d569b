//! ModernBERT (Warner et al. 2024) as `transformers` runs it: gte-modernbert, modernbert-embed and their kin.
//! Pre-norm blocks, queries and keys turned by position, a gated feed-forward, and attention that sees the whole
//! sequence in some layers and a window in the others.

use haul_kernels::act::Activation;
use haul_kernels::attention::Sees;
use serde::Deserialize;

use crate::model::writer::{Bias, Writer};
use crate::model::{
    Architecture, ConfigError, LAYERS_MAX, ModelConfig, SIZE_MAX, activation_named, epsilon, sized, tiled,
    unsupported,
};
use crate::program::{BufferId, Op, Rotary};
use crate::weights::WeightsError;

/// The angles of so many positions are computed at load; known models read 8,192 tokens.
pub const POSITIONS_MAX: usize = 1 << 17;

/// What ModernBERT has of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct ModernBert {
    /// What each layer sees.
    pub attention: Vec<LayerAttention>,
    norm_bias: Bias,
    attention_bias: Bias,
    mlp_bias: Bias,
}

/// What one layer sees, and by which angles it turns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerAttention {
    /// So many tokens before and after; the whole sequence where there is none.
    pub sees: Sees,
    /// The base of the angles.
    pub theta: f32,
}

impl ModernBert {
    /// Writes everything up to the last hidden state, and gives its buffer.
    pub(super) fn write(
        &self,
        writer: &mut Writer<'_>,
        config: &ModelConfig,
    ) -> Result<BufferId, WeightsError> {
        writer.detect_prefix("model.", WORD_TABLE);
        writer.refuse_more_layers("layers.")?;
        let ModelConfig { hidden_size: d, intermediate_size, vocabulary_size, .. } = *config;
        let buffers = Buffers {
            hidden: writer.token_buffer(d),
            normed: writer.token_buffer(d),
            qkv: writer.token_buffer(3 * d),
            attended: writer.token_buffer(d),
            wide: writer.token_buffer(2 * intermediate_size),
            gated: writer.token_buffer(intermediate_size),
        };
        let word = writer.tensor(WORD_TABLE, &[vocabulary_size, d]);
        let norm = writer.layer_norm("embeddings.norm", self.norm_bias);
        let out = buffers.hidden;
        writer.push(Op::Embed { word, position: None, token_type: None, norm: Some(norm), out });
        for (layer, &attention) in self.attention.iter().enumerate() {
            self.attend(writer, config, &buffers, (layer, attention));
            self.feed_forward(writer, config, &buffers, layer);
        }
        let norm = writer.layer_norm("final_norm", self.norm_bias);
        writer.push(Op::Norm { x: buffers.hidden, norm, out: buffers.normed });
        Ok(buffers.normed)
    }

    /// `attended = hidden + attention(norm(hidden))`. The first layer's input is normed already.
    fn attend(
        &self,
        writer: &mut Writer<'_>,
        config: &ModelConfig,
        buffers: &Buffers,
        (layer, attention): (usize, LayerAttention),
    ) {
        let Buffers { hidden, normed, qkv, attended, .. } = *buffers;
        let ModelConfig { hidden_size: d, heads, max_tokens: positions, .. } = *config;
        let head_size = config.head_size();
        let mut x = hidden;
        if layer > 0 {
            let norm = writer.layer_norm(&at(layer, "attn_norm"), self.norm_bias);
            writer.push(Op::Norm { x: hidden, norm, out: normed });
            x = normed;
        }
        let stacked = writer.linear(&[at(layer, "attn.Wqkv")], self.attention_bias, 3 * d, d);
        writer.push_linear(x, stacked, Activation::Identity, None, qkv);
        let rotary = writer.rotary(Rotary { theta: attention.theta, head_size, positions });
        writer.push(Op::Rotary { qkv, heads, rotary });
        let (scale, sees) = (1.0 / (head_size as f32).sqrt(), attention.sees);
        // The normed rows have done their work; their buffer takes the heads' results.
        writer.push(Op::Attention { qkv, heads, head_size, scale, sees, out: normed });
        let linear = writer.linear(&[at(layer, "attn.Wo")], self.attention_bias, d, d);
        writer.push_linear(normed, linear, Activation::Identity, Some(hidden), attended);
    }

    /// `hidden = attended + Wo(activation(a) * b)` where `[a, b] = Wi(norm(attended))`.
    fn feed_forward(&self, writer: &mut Writer<'_>, config: &ModelConfig, buffers: &Buffers, layer: usize) {
        let Buffers { hidden, normed, attended, wide, gated, .. } = *buffers;
        let ModelConfig { hidden_size: d, intermediate_size, activation, .. } = *config;
        let norm = writer.layer_norm(&at(layer, "mlp_norm"), self.norm_bias);
        writer.push(Op::Norm { x: attended, norm, out: normed });
        let up = writer.linear(&[at(layer, "mlp.Wi")], self.mlp_bias, 2 * intermediate_size, d);
        writer.push_linear(normed, up, Activation::Identity, None, wide);
        writer.push(Op::Gate { x: wide, activation, out: gated });
        let down = writer.linear(&[at(layer, "mlp.Wo")], self.mlp_bias, d, intermediate_size);
        writer.push_linear(gated, down, Activation::Identity, Some(attended), hidden);
    }
}

const WORD_TABLE: &str = "embeddings.tok_embeddings.weight";

fn at(layer: usize, part: &str) -> String {
    format!("layers.{layer}.{part}")
}

struct Buffers {
    hidden: BufferId,
    normed: BufferId,
    qkv: BufferId,
    attended: BufferId,
    wide: BufferId,
    gated: BufferId,
}

/// Reads a ModernBERT's `config.json`.
pub(super) fn config(json: serde_json::Value) -> Result<ModelConfig, ConfigError> {
    let file: ConfigFile = serde_json::from_value(json)?;
    let layers = sized("num_hidden_layers", file.num_hidden_layers, LAYERS_MAX)?;
    let config = ModelConfig {
        hidden_size: sized("hidden_size", file.hidden_size, SIZE_MAX)?,
        layers,
        heads: sized("num_attention_heads", file.num_attention_heads, SIZE_MAX)?,
        intermediate_size: sized("intermediate_size", file.intermediate_size, SIZE_MAX)?,
        activation: activation_named("hidden_activation", &file.hidden_activation)?,
        layer_norm_eps: epsilon("norm_eps", file.norm_eps)?,
        vocabulary_size: sized("vocab_size", file.vocab_size, SIZE_MAX)?,
        max_tokens: sized("max_position_embeddings", file.max_position_embeddings, POSITIONS_MAX)?,
        architecture: Architecture::ModernBert(ModernBert {
            attention: file.attention(layers)?,
            norm_bias: Bias::from_flag(file.norm_bias),
            attention_bias: Bias::from_flag(file.attention_bias),
            mlp_bias: Bias::from_flag(file.mlp_bias),
        }),
    };
    tiled(config.hidden_size, config.heads)?;
    if !config.head_size().is_multiple_of(2) {
        let value = config.head_size().to_string();
        return Err(unsupported("hidden_size / num_attention_heads", value, "columns turn in pairs"));
    }
    Ok(config)
}

/// `config.json` as `transformers` writes it, with the defaults of its `ModernBertConfig`.
#[derive(Deserialize)]
struct ConfigFile {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    #[serde(default = "default_activation")]
    hidden_activation: String,
    #[serde(default = "default_eps")]
    norm_eps: f32,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "default_positions")]
    max_position_embeddings: usize,
    /// The whole window, both sides.
    #[serde(default = "default_local_attention")]
    local_attention: usize,
    #[serde(default = "default_global_every")]
    global_attn_every_n_layers: usize,
    /// How releases from 5 on write the pattern of layers.
    layer_types: Option<Vec<String>>,
    #[serde(default = "default_global_theta")]
    global_rope_theta: f32,
    /// Absent or null: as the global one, in `transformers` before 5.
    #[serde(default = "default_local_theta")]
    local_rope_theta: Option<f32>,
    /// How releases from 5 on write the angles.
    rope_parameters: Option<RopeParameters>,
    rope_scaling: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RopeParameters {
    full_attention: Option<RopeOfLayers>,
    sliding_attention: Option<RopeOfLayers>,
}

#[derive(Deserialize)]
struct RopeOfLayers {
    rope_type: Option<String>,
    rope_theta: Option<f32>,
}

impl ConfigFile {
    fn attention(&self, layers: usize) -> Result<Vec<LayerAttention>, ConfigError> {
        if let Some(scaling) = &self.rope_scaling {
            return Err(unsupported("rope_scaling", scaling.to_string(), "unscaled angles run"));
        }
        let rope = self.rope_parameters.as_ref();
        let global = LayerAttention {
            sees: Sees::All,
            theta: theta(rope.and_then(|r| r.full_attention.as_ref()), self.global_rope_theta)?,
        };
        let local_theta = self.local_rope_theta.unwrap_or(self.global_rope_theta);
        let local = LayerAttention {
            sees: Sees::Near(sized("local_attention", self.local_attention, SIZE_MAX)? / 2),
            theta: theta(rope.and_then(|r| r.sliding_attention.as_ref()), local_theta)?,
        };
        let Some(types) = &self.layer_types else {
            let every = sized("global_attn_every_n_layers", self.global_attn_every_n_layers, SIZE_MAX)?;
            return Ok((0..layers)
                .map(|layer| if layer.is_multiple_of(every) { global } else { local })
                .collect());
        };
        if types.len() != layers {
            let count = types.len().to_string();
            return Err(unsupported("the length of layer_types", count, "one for each layer is wanted"));
        }
        let attention_of = |kind: &String| match kind.as_str() {
            "full_attention" => Ok(global),
            "sliding_attention" => Ok(local),
            _ => Err(unsupported("layer_types", kind, "full_attention and sliding_attention run")),
        };
        types.iter().map(attention_of).collect()
    }
}

fn theta(rope: Option<&RopeOfLayers>, otherwise: f32) -> Result<f32, ConfigError> {
    if let Some(kind) = rope.and_then(|rope| rope.rope_type.as_deref()).filter(|&kind| kind != "default") {
        return Err(unsupported("rope_type", kind, "only default runs"));
    }
    let theta = rope.and_then(|rope| rope.rope_theta).unwrap_or(otherwise);
    if theta.is_finite() && theta >= 1.0 {
        Ok(theta)
    } else {
        Err(unsupported("rope_theta", theta.to_string(), "one or more is wanted"))
    }
}

fn default_activation() -> String {
    "gelu".into()
}
fn default_eps() -> f32 {
    1e-5
}
fn default_positions() -> usize {
    8192
}
fn default_local_attention() -> usize {
    128
}
fn default_global_every() -> usize {
    3
}
fn default_global_theta() -> f32 {
    160_000.0
}
#[expect(clippy::unnecessary_wraps, reason = "the default of an optional key")]
fn default_local_theta() -> Option<f32> {
    Some(10_000.0)
}
