//! Vision transformers as `transformers` and open_clip run them: the image towers of CLIP (Radford et al. 2021) and of
//! SigLIP and SigLIP 2 (Zhai et al. 2023, Tschannen et al. 2025).
//!
//! An image is cut into square patches; each is a row, CLIP's behind a class row. The blocks are pre-norm. CLIP takes the
//! class row, norms and projects it; SigLIP lets one query of its own look at all rows (a MAP head).

use haul_kernels::act::Activation;
use haul_kernels::attention::Sees;
use serde::Deserialize;
use serde_json::Value;

use crate::model::blocks::{Blocks, Drops, Names, Rows, in_projection};
use crate::model::timm;
use crate::model::writer::{Bias, Sizes, Writer};
use crate::model::{ConfigError, LAYERS_MAX, SIZE_MAX, activation_named, epsilon, sized, tiled, unsupported};
use crate::pooling::PoolMode;
use crate::program::{BufferId, Layout, Linear, Op, Program};
use crate::weights::{Weights, WeightsError};

/// Colours of a pixel.
pub const CHANNELS: usize = 3;
/// Pixels of an image in each direction; known models stop at 512.
const IMAGE_SIZE_MAX: usize = 4096;

/// The image tower of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Pixels of an image in each direction.
    pub image_size: usize,
    /// Pixels of a patch in each direction.
    pub patch_size: usize,
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
    /// What becomes of the rows of an image.
    pub head: VisionHead,
    /// How the checkpoint calls its tensors.
    pub names: Names,
}

/// From the rows of an image to its one row of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisionHead {
    /// The class row, normed and projected to so many columns.
    Class {
        /// Columns of the features.
        dim: usize,
    },
    /// A query of the model's own, and a feed-forward behind it; as wide as the hidden state.
    Probe,
}

/// A place that may be perturbed: the outputs of a linear layer, or a whole block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Of a block.
    Block {
        /// Number of the block.
        block: u32,
        /// Which layer of it.
        layer: BlockLayer,
    },
    /// Of SigLIP's head: the first or second layer of its feed-forward.
    Head {
        /// Which.
        layer: HeadLayer,
    },
    /// Both branches of a block, which then hands on what it was given: stochastic depth.
    Depth {
        /// Number of the block.
        block: u32,
    },
}

/// The linear layers of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockLayer {
    /// Queries, keys and values.
    Qkv,
    /// Behind the attention.
    Proj,
    /// Into the feed-forward, before its activation.
    Fc1,
    /// Out of the feed-forward.
    Fc2,
}

/// The linear layers of a head's feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HeadLayer {
    /// Before its activation.
    Fc1,
    /// Behind it.
    Fc2,
}

/// Sites of a head are numbered from here.
const HEAD_SITES: u32 = 1 << 16;
/// And whole blocks from here.
const DEPTH_SITES: u32 = 1 << 17;

impl Site {
    /// What masks call it.
    pub fn number(self) -> u32 {
        match self {
            Site::Block { block, layer } => block * 4 + layer as u32,
            Site::Head { layer } => HEAD_SITES + layer as u32,
            Site::Depth { block } => DEPTH_SITES + block,
        }
    }
}

impl std::fmt::Display for Site {
    /// `blocks.3.mlp.fc2`; a whole block is `blocks.3`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Site::Block { block, layer } => {
                let layer = match layer {
                    BlockLayer::Qkv => "attn.qkv",
                    BlockLayer::Proj => "attn.proj",
                    BlockLayer::Fc1 => "mlp.fc1",
                    BlockLayer::Fc2 => "mlp.fc2",
                };
                write!(f, "blocks.{block}.{layer}")
            }
            Site::Head { layer: HeadLayer::Fc1 } => f.write_str("head.mlp.fc1"),
            Site::Head { layer: HeadLayer::Fc2 } => f.write_str("head.mlp.fc2"),
            Site::Depth { block } => write!(f, "blocks.{block}"),
        }
    }
}

impl VisionConfig {
    /// Reads and checks the object of a `config.json`.
    pub fn from_hugging_face(json: Value) -> Result<VisionConfig, ConfigError> {
        let kind = json.get("model_type").and_then(Value::as_str).unwrap_or("not given").to_owned();
        match kind.as_str() {
            "clip" | "siglip" => {
                let projection = json.get("projection_dim").cloned();
                let vision =
                    json.get("vision_config").cloned().unwrap_or_else(|| Value::Object(Default::default()));
                hugging_face(&kind, vision, projection)
            }
            "clip_vision_model" | "siglip_vision_model" => {
                let projection = json.get("projection_dim").cloned();
                hugging_face(kind.trim_end_matches("_vision_model"), json, projection)
            }
            _ => Err(unsupported("model_type", kind, "clip and siglip have an image tower that runs")),
        }
    }

    /// Reads and checks the object of an `open_clip_config.json`.
    pub fn from_open_clip(json: Value) -> Result<VisionConfig, ConfigError> {
        let file: OpenClipFile = serde_json::from_value(json)?;
        let model = file.model_cfg;
        let vision = model.vision_cfg;
        if let Some(name) = &vision.timm_model_name {
            return timm::tower(name, &vision, model.embed_dim)?.checked();
        }
        let hidden_size = sized("width", vision.width, SIZE_MAX)?;
        let activation = if model.quick_gelu { Activation::QuickGelu } else { Activation::GeluErf };
        VisionConfig {
            image_size: vision.image_size,
            patch_size: vision.patch_size,
            hidden_size,
            layers: sized("layers", vision.layers, LAYERS_MAX)?,
            heads: hidden_size / sized("head_width", vision.head_width, hidden_size)?,
            intermediate_size: (hidden_size as f64 * vision.mlp_ratio) as usize,
            activation,
            layer_norm_eps: 1e-5,
            head: VisionHead::Class { dim: sized("embed_dim", model.embed_dim, SIZE_MAX)? },
            names: Names::OpenClip,
        }
        .checked()
    }

    fn checked(self) -> Result<VisionConfig, ConfigError> {
        sized("image_size", self.image_size, IMAGE_SIZE_MAX)?;
        sized("patch_size", self.patch_size, self.image_size)?;
        sized("intermediate_size", self.intermediate_size, SIZE_MAX)?;
        sized("heads", self.heads, self.hidden_size)?;
        tiled(self.hidden_size, self.heads)?;
        Ok(self)
    }

    /// Patches of an image; what is left over at its right and lower edge is not looked at.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Numbers of a patch.
    pub fn patch_width(&self) -> usize {
        CHANNELS * self.patch_size * self.patch_size
    }

    /// Rows of an image.
    pub fn tokens(&self) -> usize {
        self.patches() + usize::from(self.head != VisionHead::Probe)
    }

    /// The outputs of every linear layer, in the order in which a forward comes by.
    pub fn sites(&self) -> Vec<Site> {
        let layers = [BlockLayer::Qkv, BlockLayer::Proj, BlockLayer::Fc1, BlockLayer::Fc2];
        let blocks = (0..self.layers as u32)
            .flat_map(|block| layers.into_iter().map(move |layer| Site::Block { block, layer }));
        let head = [HeadLayer::Fc1, HeadLayer::Fc2].map(|layer| Site::Head { layer });
        let head = if self.head == VisionHead::Probe { &head[..] } else { &[] };
        blocks.chain(head.iter().copied()).collect()
    }

    /// Its blocks as sites.
    pub fn depths(&self) -> Vec<Site> {
        (0..self.layers as u32).map(|block| Site::Depth { block }).collect()
    }

    /// Whether it has a site.
    pub fn has(&self, site: Site) -> bool {
        self.sites().contains(&site) || self.depths().contains(&site)
    }

    /// The program of this tower, whose passes differ at `sites`.
    pub fn program(&self, weights: &Weights, sites: &[Site]) -> Result<Program, WeightsError> {
        let VisionConfig { hidden_size: d, layers, layer_norm_eps, .. } = *self;
        let mut writer = Writer::new(Sizes { hidden_size: d, layers, layer_norm_eps }, weights);
        let called = self.names.of_images();
        writer.detect_prefix(called.prefix, called.position);
        writer.refuse_more_layers(self.names.layers())?;
        let hidden = self.embed(&mut writer, &called);
        let blocks = Blocks {
            hidden_size: d,
            layers,
            heads: self.heads,
            intermediate_size: self.intermediate_size,
            activation: self.activation,
            sees: Sees::All,
            names: self.names,
            drops: Drops { sites },
            last_row: (self.head != VisionHead::Probe).then_some(PoolMode::Cls),
        };
        let rows = blocks.write(&mut writer, hidden);
        let dense = match self.head {
            VisionHead::Class { dim } => self.project(&mut writer, &called, rows.hidden, dim),
            VisionHead::Probe => self.probe(&mut writer, &rows, &blocks),
        };
        Ok(writer.program(dense))
    }

    fn embed(&self, writer: &mut Writer<'_>, called: &Called) -> BufferId {
        let d = self.hidden_size;
        let is_class = self.head != VisionHead::Probe;
        let patch = writer.linear_of(Linear {
            weights: vec![format!("{}.weight", called.patch)],
            layout: Layout::Patch { channels: CHANNELS, side: self.patch_size },
            biases: if is_class { vec![] } else { vec![format!("{}.bias", called.patch)] },
            out_features: d,
            in_features: self.patch_width(),
        });
        let class = is_class.then(|| writer.tensor(called.class, &[d]));
        let shape = [1, self.tokens(), d];
        // timm has the axis of a batch.
        let shape = if self.names == Names::Timm { &shape[..] } else { &shape[1..] };
        let position = writer.tensor(called.position, shape);
        let out = writer.token_buffer(d);
        writer.push(Op::EmbedPatches { patch, class, position, out });
        if is_class {
            let norm = writer.layer_norm(called.first_norm, Bias::Present);
            writer.push(Op::Norm { x: out, norm, out });
        }
        out
    }

    fn project(&self, writer: &mut Writer<'_>, called: &Called, class: BufferId, dim: usize) -> BufferId {
        let norm = writer.layer_norm(called.last_norm, Bias::Present);
        writer.push(Op::Norm { x: class, norm, out: class });
        let (name, layout) = called.projection;
        writer.without_prefix();
        let (out_features, in_features) = (dim, self.hidden_size);
        let weights = vec![name.into()];
        let linear = writer.linear_of(Linear { weights, layout, biases: vec![], out_features, in_features });
        let out = writer.sequence_buffer(dim);
        writer.push_linear(class, linear, Activation::Identity, None, out);
        out
    }

    fn probe(&self, writer: &mut Writer<'_>, rows: &Rows, blocks: &Blocks<'_>) -> BufferId {
        let qkv = rows.qkv;
        let VisionConfig { hidden_size: d, heads, intermediate_size, .. } = *self;
        let head = self.names.of_head();
        let norm = writer.layer_norm(self.names.of_images().last_norm, Bias::Present);
        writer.push(Op::Norm { x: rows.hidden, norm, out: rows.normed });
        let stacked = writer.linear_of(match self.names {
            Names::Timm => query_first("attn_pool.", d),
            _ => in_projection("head.attention.", d),
        });
        writer.push_linear(rows.normed, stacked, Activation::Identity, None, qkv);
        let probe = writer.tensor(head.probe, &[1, 1, d]);
        let [seen, attended, out] = [d; 3].map(|width| writer.sequence_buffer(width));
        let scale = 1.0 / ((d / heads) as f32).sqrt();
        writer.push(Op::Probe { probe, qkv: stacked, x: qkv, heads, scale, out: seen });
        let linear = writer.linear(&[head.attention_out.into()], Bias::Present, d, d);
        writer.push_linear(seen, linear, Activation::Identity, None, attended);
        let norm = writer.layer_norm(head.norm, Bias::Present);
        writer.push(Op::Norm { x: attended, norm, out: seen });
        let up = writer.linear(&[head.up.into()], Bias::Present, intermediate_size, d);
        let down = writer.linear(&[head.down.into()], Bias::Present, d, intermediate_size);
        let at = [HeadLayer::Fc1, HeadLayer::Fc2].map(|layer| blocks.drops.at(Site::Head { layer }));
        blocks.push_mlp(writer, seen, (up, down), at, &mut None, (attended, out));
        out
    }
}

/// What a checkpoint calls the tensors around the blocks.
struct Called {
    prefix: &'static str,
    patch: &'static str,
    class: &'static str,
    position: &'static str,
    first_norm: &'static str,
    last_norm: &'static str,
    /// Stands outside of the tower.
    projection: (&'static str, Layout),
}

/// What a checkpoint calls the tensors of a MAP head.
struct HeadCalled {
    probe: &'static str,
    attention_out: &'static str,
    norm: &'static str,
    up: &'static str,
    down: &'static str,
}

/// timm's head has queries in one matrix, and keys and values in another.
fn query_first(before: &str, d: usize) -> Linear {
    let named = |what: &str| ["q", "kv"].map(|part| format!("{before}{part}.{what}")).to_vec();
    Linear {
        weights: named("weight"),
        layout: Layout::QueryFirst,
        biases: named("bias"),
        out_features: 3 * d,
        in_features: d,
    }
}

impl Names {
    fn of_head(self) -> HeadCalled {
        match self {
            Names::Timm => HeadCalled {
                probe: "attn_pool.latent",
                attention_out: "attn_pool.proj",
                norm: "attn_pool.norm",
                up: "attn_pool.mlp.fc1",
                down: "attn_pool.mlp.fc2",
            },
            Names::HuggingFace | Names::OpenClip => HeadCalled {
                probe: "head.probe",
                attention_out: "head.attention.out_proj",
                norm: "head.layernorm",
                up: "head.mlp.fc1",
                down: "head.mlp.fc2",
            },
        }
    }

    fn of_images(self) -> Called {
        match self {
            Names::HuggingFace => Called {
                prefix: "vision_model.",
                patch: "embeddings.patch_embedding",
                class: "embeddings.class_embedding",
                position: "embeddings.position_embedding.weight",
                // As the checkpoints spell it.
                first_norm: "pre_layrnorm",
                last_norm: "post_layernorm",
                projection: ("visual_projection.weight", Layout::OutIn),
            },
            // A SigLIP tower has neither a class row nor a norm before its blocks, nor a projection.
            Names::Timm => Called {
                prefix: "visual.trunk.",
                patch: "patch_embed.proj",
                class: "",
                position: "pos_embed",
                first_norm: "",
                last_norm: "norm",
                projection: ("", Layout::OutIn),
            },
            Names::OpenClip => Called {
                prefix: "visual.",
                patch: "conv1",
                class: "class_embedding",
                position: "positional_embedding",
                first_norm: "ln_pre",
                last_norm: "ln_post",
                projection: ("visual.proj", Layout::InOut),
            },
        }
    }
}

/// `vision_config` as `transformers` writes it, with the defaults of its `CLIPVisionConfig` and `SiglipVisionConfig`.
#[derive(Deserialize)]
struct TowerFile {
    #[serde(default = "default_width")]
    hidden_size: usize,
    #[serde(default = "default_intermediate")]
    intermediate_size: usize,
    #[serde(default = "default_layers")]
    num_hidden_layers: usize,
    #[serde(default = "default_layers")]
    num_attention_heads: usize,
    #[serde(default = "default_channels")]
    num_channels: usize,
    #[serde(default = "default_image_size")]
    image_size: usize,
    patch_size: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f32>,
    vision_use_head: Option<bool>,
}

fn hugging_face(kind: &str, vision: Value, projection: Option<Value>) -> Result<VisionConfig, ConfigError> {
    let file: TowerFile = serde_json::from_value(vision)?;
    if file.num_channels != CHANNELS {
        return Err(unsupported("num_channels", file.num_channels.to_string(), "images have three colours"));
    }
    let is_clip = kind == "clip";
    if !is_clip && file.vision_use_head == Some(false) {
        return Err(unsupported("vision_use_head", "false", "SigLIP's features come from its head"));
    }
    let (patch_size, activation, eps) =
        if is_clip { (32, "quick_gelu", 1e-5) } else { (16, "gelu_pytorch_tanh", 1e-6) };
    let head = if is_clip {
        let dim: Option<usize> = projection.map(serde_json::from_value).transpose()?;
        VisionHead::Class { dim: sized("projection_dim", dim.unwrap_or(512), SIZE_MAX)? }
    } else {
        VisionHead::Probe
    };
    VisionConfig {
        image_size: file.image_size,
        patch_size: file.patch_size.unwrap_or(patch_size),
        hidden_size: sized("hidden_size", file.hidden_size, SIZE_MAX)?,
        layers: sized("num_hidden_layers", file.num_hidden_layers, LAYERS_MAX)?,
        heads: file.num_attention_heads,
        intermediate_size: file.intermediate_size,
        activation: activation_named("hidden_act", file.hidden_act.as_deref().unwrap_or(activation))?,
        layer_norm_eps: epsilon("layer_norm_eps", file.layer_norm_eps.unwrap_or(eps))?,
        head,
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
    vision_cfg: OpenClipVision,
}

/// With the defaults of open_clip's `CLIPVisionCfg`.
#[derive(Deserialize)]
pub(super) struct OpenClipVision {
    #[serde(default = "default_layers")]
    layers: usize,
    #[serde(default = "default_width")]
    width: usize,
    #[serde(default = "default_head_width")]
    head_width: usize,
    #[serde(default = "default_mlp_ratio")]
    mlp_ratio: f64,
    #[serde(default = "default_open_clip_patch")]
    patch_size: usize,
    #[serde(default = "default_image_size")]
    pub(super) image_size: usize,
    timm_model_name: Option<String>,
    /// How rows become one; open_clip's default is the class row, of which SigLIP has none.
    #[serde(default)]
    pub(super) timm_pool: String,
    /// What stands behind that.
    #[serde(default = "default_timm_proj")]
    pub(super) timm_proj: String,
}

fn default_timm_proj() -> String {
    "linear".to_owned()
}
fn default_width() -> usize {
    768
}
fn default_intermediate() -> usize {
    3072
}
fn default_layers() -> usize {
    12
}
fn default_channels() -> usize {
    CHANNELS
}
fn default_image_size() -> usize {
    224
}
fn default_head_width() -> usize {
    64
}
fn default_mlp_ratio() -> f64 {
    4.0
}
fn default_open_clip_patch() -> usize {
    16
}
