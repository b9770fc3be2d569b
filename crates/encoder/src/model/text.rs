//! The text towers of CLIP (Radford et al. 2021) and of SigLIP and SigLIP 2 (Zhai et al. 2023, Tschannen et al. 2025), as
//! `transformers` and open_clip run them.
//!
//! A CLIP token sees those before it, and the last one is projected. SigLIP was trained on texts that are all as long as
//! its context, filled up with a padding token that takes part like any other; its last token goes through a layer.

use haul_kernels::act::Activation;
use haul_kernels::attention::Sees;
use serde::Deserialize;
use serde_json::Value;

use crate::model::blocks::{Blocks, Drops, Names};
use crate::model::writer::{Bias, Sizes, Writer};
use crate::model::{ConfigError, LAYERS_MAX, SIZE_MAX, activation_named, epsilon, sized, tiled, unsupported};
use crate::pooling::PoolMode;
use crate::program::{BufferId, Layout, Linear, Numbering, Op, Positions, Program};
use crate::weights::{Weights, WeightsError};

/// The text tower of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// The longest text, special tokens counted.
    pub context_tokens: usize,
    /// Rows of the word table.
    pub vocabulary_size: usize,
    /// Columns of the hidden state.
    pub hidden_size: usize,
    /// Blocks of attention and feed-forward.
    pub layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub heads: usize,
    /// Columns inside the feed-forward.
    pub intermediate_size: usize,
    /// Activation of the feed-forward.
    pub activation: Activation,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f32,
    /// Columns of the features.
    pub dim: usize,
    /// What else is CLIP's or SigLIP's.
    pub family: TextFamily,
    /// How the checkpoint calls its tensors.
    pub names: Names,
}

/// Whose text tower it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFamily {
    /// A token sees those before it.
    Clip,
    /// A token sees all; every text is filled up to the context.
    Siglip,
}

impl TextConfig {
    /// Reads and checks the object of a `config.json`.
    pub fn from_hugging_face(mut json: Value) -> Result<TextConfig, ConfigError> {
        let kind = json.get("model_type").and_then(Value::as_str).unwrap_or("not given");
        let family = match kind {
            "clip" => TextFamily::Clip,
            "siglip" => TextFamily::Siglip,
            _ => return Err(unsupported("model_type", kind, "clip and siglip have a text tower that runs")),
        };
        let projection: Option<usize> =
            json.get("projection_dim").cloned().map(serde_json::from_value).transpose()?;
        let text = json.get_mut("text_config").map(Value::take);
        let text = text.unwrap_or_else(|| Value::Object(Default::default()));
        hugging_face(family, text, projection)
    }

    /// Reads and checks the object of an `open_clip_config.json`.
    pub fn from_open_clip(json: Value) -> Result<TextConfig, ConfigError> {
        let OpenClipFile { model_cfg: model } = serde_json::from_value(json)?;
        let text = model.text_cfg;
        if let Some(name) = text.hf_model_name {
            return Err(unsupported("hf_model_name", name, "open_clip's own text towers run"));
        }
        if text.no_causal_mask {
            let why = "open_clip's causal text towers run; take the model as transformers has it";
            return Err(unsupported("no_causal_mask", "true", why));
        }
        let hidden_size = sized("width", text.width, SIZE_MAX)?;
        TextConfig {
            context_tokens: text.context_length,
            vocabulary_size: text.vocab_size,
            hidden_size,
            layers: sized("layers", text.layers, LAYERS_MAX)?,
            heads: text.heads,
            intermediate_size: (hidden_size as f64 * text.mlp_ratio) as usize,
            activation: if model.quick_gelu { Activation::QuickGelu } else { Activation::GeluErf },
            layer_norm_eps: 1e-5,
            dim: model.embed_dim,
            family: TextFamily::Clip,
            names: Names::OpenClip,
        }
        .checked()
    }

    fn checked(self) -> Result<TextConfig, ConfigError> {
        sized("context", self.context_tokens, SIZE_MAX)?;
        sized("vocab_size", self.vocabulary_size, SIZE_MAX)?;
        sized("intermediate_size", self.intermediate_size, SIZE_MAX)?;
        sized("projection", self.dim, SIZE_MAX)?;
        sized("heads", self.heads, self.hidden_size)?;
        tiled(self.hidden_size, self.heads)?;
        Ok(self)
    }

    /// The program of this tower.
    pub fn program(&self, weights: &Weights) -> Result<Program, WeightsError> {
        let TextConfig { hidden_size, layers, layer_norm_eps, .. } = *self;
        let mut writer = Writer::new(Sizes { hidden_size, layers, layer_norm_eps }, weights);
        let called = self.names.of_text();
        writer.detect_prefix(called.prefix, called.word);
        writer.refuse_more_layers(self.names.layers())?;
        let hidden = self.embed(&mut writer, &called);
        let blocks = Blocks {
            hidden_size,
            layers,
            heads: self.heads,
            intermediate_size: self.intermediate_size,
            activation: self.activation,
            sees: if self.family == TextFamily::Clip { Sees::Before } else { Sees::All },
            names: self.names,
            drops: Drops { sites: &[] },
            last_row: Some(PoolMode::LastToken),
        };
        let last = blocks.write(&mut writer, hidden).hidden;
        let norm = writer.layer_norm(called.last_norm, Bias::Present);
        writer.push(Op::Norm { x: last, norm, out: last });
        let out = writer.sequence_buffer(self.dim);
        let linear = match self.family {
            TextFamily::Siglip => writer.linear(&["head".into()], Bias::Present, self.dim, hidden_size),
            TextFamily::Clip => {
                writer.without_prefix();
                let (name, layout) = called.projection;
                let (weights, biases) = (vec![name.into()], vec![]);
                let (out_features, in_features) = (self.dim, hidden_size);
                writer.linear_of(Linear { weights, layout, biases, out_features, in_features })
            }
        };
        writer.push_linear(last, linear, Activation::Identity, None, out);
        Ok(writer.program(out))
    }

    fn embed(&self, writer: &mut Writer<'_>, called: &Called) -> BufferId {
        let d = self.hidden_size;
        let word = writer.tensor(called.word, &[self.vocabulary_size, d]);
        let table = writer.tensor(called.position, &[self.context_tokens, d]);
        let out = writer.token_buffer(d);
        let position = Some(Positions { table, numbering: Numbering::FromZero });
        writer.push(Op::Embed { word, position, token_type: None, norm: None, out });
        out
    }
}

/// What a checkpoint calls the tensors around the blocks.
struct Called {
    prefix: &'static str,
    word: &'static str,
    position: &'static str,
    last_norm: &'static str,
    /// Of CLIP; stands outside of the tower.
    projection: (&'static str, Layout),
}

impl Names {
    fn of_text(self) -> Called {
        match self {
            Names::HuggingFace => Called {
                prefix: "text_model.",
                word: "embeddings.token_embedding.weight",
                position: "embeddings.position_embedding.weight",
                last_norm: "final_layer_norm",
                projection: ("text_projection.weight", Layout::OutIn),
            },
            // timm has no text towers; open_clip's stand beside its image towers.
            Names::OpenClip | Names::Timm => Called {
                prefix: "",
                word: "token_embedding.weight",
                position: "positional_embedding",
                last_norm: "ln_final",
                projection: ("text_projection", Layout::InOut),
            },
        }
    }
}

/// `text_config` as `transformers` writes it, with the defaults of its `CLIPTextConfig` and `SiglipTextConfig`.
#[derive(Deserialize)]
struct TowerFile {
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    max_position_embeddings: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f32>,
    projection_size: Option<usize>,
}

/// What [`TowerFile`] leaves out.
struct Usual {
    vocabulary_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    heads: usize,
    context_tokens: usize,
    activation: &'static str,
    layer_norm_eps: f32,
}

fn usual(family: TextFamily) -> Usual {
    match family {
        TextFamily::Clip => Usual {
            vocabulary_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            heads: 8,
            context_tokens: 77,
            activation: "quick_gelu",
            layer_norm_eps: 1e-5,
        },
        TextFamily::Siglip => Usual {
            vocabulary_size: 32_000,
            hidden_size: 768,
            intermediate_size: 3072,
            heads: 12,
            context_tokens: 64,
            activation: "gelu_pytorch_tanh",
            layer_norm_eps: 1e-6,
        },
    }
}

const USUAL_LAYERS: usize = 12;
/// CLIP's `projection_dim`.
const USUAL_PROJECTION: usize = 512;

fn hugging_face(
    family: TextFamily,
    text: Value,
    projection: Option<usize>,
) -> Result<TextConfig, ConfigError> {
    let file: TowerFile = serde_json::from_value(text)?;
    let usual = usual(family);
    let hidden_size = sized("hidden_size", file.hidden_size.unwrap_or(usual.hidden_size), SIZE_MAX)?;
    let layers = file.num_hidden_layers.unwrap_or(USUAL_LAYERS);
    let activation = file.hidden_act.as_deref().unwrap_or(usual.activation);
    TextConfig {
        context_tokens: file.max_position_embeddings.unwrap_or(usual.context_tokens),
        vocabulary_size: file.vocab_size.unwrap_or(usual.vocabulary_size),
        hidden_size,
        layers: sized("num_hidden_layers", layers, LAYERS_MAX)?,
        heads: file.num_attention_heads.unwrap_or(usual.heads),
        intermediate_size: file.intermediate_size.unwrap_or(usual.intermediate_size),
        activation: activation_named("hidden_act", activation)?,
        layer_norm_eps: epsilon("layer_norm_eps", file.layer_norm_eps.unwrap_or(usual.layer_norm_eps))?,
        dim: match family {
            TextFamily::Clip => projection.unwrap_or(USUAL_PROJECTION),
            TextFamily::Siglip => file.projection_size.unwrap_or(hidden_size),
        },
        family,
        names: Names::HuggingFace,
    }
    .checked()
}

#[derive(Deserialize)]
struct OpenClipFile {
    model_cfg: OpenClipModel,
}

#[derive(Deserialize)]
struct OpenClipModel {
    embed_dim: usize,
    #[serde(default)]
    quick_gelu: bool,
    text_cfg: OpenClipText,
}

/// With the defaults of open_clip's `CLIPTextCfg`.
#[derive(Deserialize)]
struct OpenClipText {
    #[serde(default = "default_context")]
    context_length: usize,
    #[serde(default = "default_vocabulary")]
    vocab_size: usize,
    #[serde(default = "default_width")]
    width: usize,
    #[serde(default = "default_heads")]
    heads: usize,
    #[serde(default = "default_layers")]
    layers: usize,
    #[serde(default = "default_mlp_ratio")]
    mlp_ratio: f64,
    hf_model_name: Option<String>,
    /// SigLIP's towers see all tokens.
    #[serde(default)]
    no_causal_mask: bool,
}

fn default_context() -> usize {
    77
}
fn default_vocabulary() -> usize {
    49_408
}
fn default_width() -> usize {
    512
}
fn default_heads() -> usize {
    8
}
fn default_layers() -> usize {
    12
}
fn default_mlp_ratio() -> f64 {
    4.0
}
