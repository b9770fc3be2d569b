//! Vision transformers as `transformers` and open_clip run them: the image towers of CLIP (Radford et al. 2021) and of
//! SigLIP and SigLIP 2 (Zhai et al. 2023, Tschannen et al. 2025).
//!
//! An image is cut into square patches; each is a row, CLIP's behind a class row. The blocks are pre-norm. CLIP takes the
//! class row, norms and projects it; SigLIP lets one query of its own look at all rows (a MAP head).

use haul_kernels::act::Activation;
use serde::Deserialize;
use serde_json::Value;

use crate::model::writer::{Bias, Sizes, Writer};
use crate::model::{ConfigError, LAYERS_MAX, SIZE_MAX, activation_named, epsilon, sized, tiled, unsupported};
use crate::pooling::{PoolMode, Pooling};
use crate::program::{BufferId, Layout, Linear, LinearId, Op, Program};
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

/// A linear layer whose outputs may fall out.
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

impl Site {
    /// What masks call it.
    pub fn number(self) -> u32 {
        match self {
            Site::Block { block, layer } => block * 4 + layer as u32,
            Site::Head { layer } => HEAD_SITES + layer as u32,
        }
    }
}

impl std::fmt::Display for Site {
    /// `blocks.3.mlp.fc2`.
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
        }
    }
}

/// Whose checkpoint it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// `transformers`: `config.json`.
    HuggingFace,
    /// open_clip: `open_clip_config.json`.
    OpenClip,
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
        if let Some(timm) = vision.timm_model_name {
            return Err(unsupported(
                "timm_model_name",
                timm,
                "open_clip's own towers run; take the model as transformers has it",
            ));
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

    /// Every site, in the order in which a forward comes by.
    pub fn sites(&self) -> Vec<Site> {
        let layers = [BlockLayer::Qkv, BlockLayer::Proj, BlockLayer::Fc1, BlockLayer::Fc2];
        let blocks = (0..self.layers as u32)
            .flat_map(|block| layers.into_iter().map(move |layer| Site::Block { block, layer }));
        let head = [HeadLayer::Fc1, HeadLayer::Fc2].map(|layer| Site::Head { layer });
        let head = if self.head == VisionHead::Probe { &head[..] } else { &[] };
        blocks.chain(head.iter().copied()).collect()
    }

    /// The program of this tower; at `sites`, elements fall out.
    pub fn program(&self, weights: &Weights, sites: &[Site]) -> Result<Program, WeightsError> {
        let VisionConfig { hidden_size: d, layers, layer_norm_eps, .. } = *self;
        let mut writer = Writer::new(Sizes { hidden_size: d, layers, layer_norm_eps }, weights);
        let called = self.names.called();
        writer.detect_prefix(called.prefix, called.position);
        writer.refuse_more_layers(called.layers)?;
        let hidden = self.embed(&mut writer, &called);
        let [qkv, context, normed, attended] = [3 * d, d, d, d].map(|width| writer.token_buffer(width));
        let mut rows = Rows { hidden, context, normed, attended };
        let drops = Drops { sites };
        for block in 0..layers {
            self.attend(&mut writer, &called, &rows, (qkv, block), &drops);
            if block + 1 == layers && self.head != VisionHead::Probe {
                // Of the last block, nobody looks at other rows than the class row.
                rows = class_rows(&mut writer, &rows, d);
            }
            self.feed_forward(&mut writer, &called, &rows, block, &drops);
        }
        let dense = match self.head {
            VisionHead::Class { dim } => self.project(&mut writer, &called, rows.hidden, dim),
            VisionHead::Probe => self.probe(&mut writer, &rows, qkv, &drops),
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
        let position = writer.tensor(called.position, &[self.tokens(), d]);
        let out = writer.token_buffer(d);
        writer.push(Op::EmbedPatches { patch, class, position, out });
        if is_class {
            let norm = writer.layer_norm(called.first_norm, Bias::Present);
            writer.push(Op::Norm { x: out, norm, out });
        }
        out
    }

    /// `context = attention(norm(hidden))`.
    fn attend(
        &self,
        writer: &mut Writer<'_>,
        called: &Called,
        rows: &Rows,
        (qkv, block): (BufferId, usize),
        drops: &Drops<'_>,
    ) {
        let VisionConfig { hidden_size: d, heads, .. } = *self;
        let head_size = d / heads;
        let at = |part: &str| format!("{}{block}.{part}", called.layers);
        let norm = writer.layer_norm(&at(called.attention_norm), Bias::Present);
        writer.push(Op::Norm { x: rows.hidden, norm, out: rows.normed });
        let stacked = called.qkv(writer, &at, d);
        let site = drops.site(block, BlockLayer::Qkv);
        push_dropped(writer, rows.normed, stacked, (Activation::Identity, None), site, qkv);
        let scale = 1.0 / (head_size as f32).sqrt();
        writer.push(Op::Attention { qkv, heads, head_size, scale, window: None, out: rows.context });
    }

    /// `attended = hidden + proj(context)`, `hidden = attended + mlp(norm(attended))`.
    fn feed_forward(
        &self,
        writer: &mut Writer<'_>,
        called: &Called,
        rows: &Rows,
        block: usize,
        drops: &Drops<'_>,
    ) {
        let Rows { hidden, context, normed, attended } = *rows;
        let VisionConfig { hidden_size: d, intermediate_size, .. } = *self;
        let at = |part: &str| format!("{}{block}.{part}", called.layers);
        let linear = writer.linear(&[at(called.attention_out)], Bias::Present, d, d);
        let site = drops.site(block, BlockLayer::Proj);
        push_dropped(writer, context, linear, (Activation::Identity, Some(hidden)), site, attended);

        let norm = writer.layer_norm(&at(called.mlp_norm), Bias::Present);
        writer.push(Op::Norm { x: attended, norm, out: normed });
        let up = writer.linear(&[at(called.up)], Bias::Present, intermediate_size, d);
        let down = writer.linear(&[at(called.down)], Bias::Present, d, intermediate_size);
        let sites = [BlockLayer::Fc1, BlockLayer::Fc2].map(|layer| drops.site(block, layer));
        self.push_mlp(writer, normed, (up, down), sites, (attended, hidden));
    }

    /// `out = residual + down(activation(up(x)))`.
    fn push_mlp(
        &self,
        writer: &mut Writer<'_>,
        x: BufferId,
        (up, down): (LinearId, LinearId),
        sites: [Option<u32>; 2],
        (residual, out): (BufferId, BufferId),
    ) {
        let activation = self.activation;
        if sites == [None, None] {
            writer.push(Op::FeedForward { x, up, activation, down, residual: Some(residual), out });
            return;
        }
        let wide = writer.buffer_like(x, self.intermediate_size);
        push_dropped(writer, x, up, (activation, None), sites[0], wide);
        push_dropped(writer, wide, down, (Activation::Identity, Some(residual)), sites[1], out);
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

    fn probe(&self, writer: &mut Writer<'_>, rows: &Rows, qkv: BufferId, drops: &Drops<'_>) -> BufferId {
        let VisionConfig { hidden_size: d, heads, intermediate_size, .. } = *self;
        let norm = writer.layer_norm("post_layernorm", Bias::Present);
        writer.push(Op::Norm { x: rows.hidden, norm, out: rows.normed });
        let stacked = writer.linear_of(in_projection("head.attention.", d));
        writer.push_linear(rows.normed, stacked, Activation::Identity, None, qkv);
        let probe = writer.tensor("head.probe", &[1, 1, d]);
        let [seen, attended, out] = [d; 3].map(|width| writer.sequence_buffer(width));
        let scale = 1.0 / ((d / heads) as f32).sqrt();
        writer.push(Op::Probe { probe, qkv: stacked, x: qkv, heads, scale, out: seen });
        let linear = writer.linear(&["head.attention.out_proj".into()], Bias::Present, d, d);
        writer.push_linear(seen, linear, Activation::Identity, None, attended);
        let norm = writer.layer_norm("head.layernorm", Bias::Present);
        writer.push(Op::Norm { x: attended, norm, out: seen });
        let up = writer.linear(&["head.mlp.fc1".into()], Bias::Present, intermediate_size, d);
        let down = writer.linear(&["head.mlp.fc2".into()], Bias::Present, d, intermediate_size);
        let sites = [HeadLayer::Fc1, HeadLayer::Fc2].map(|layer| drops.number(Site::Head { layer }));
        self.push_mlp(writer, seen, (up, down), sites, (attended, out));
        out
    }
}

/// The buffers of a block; of the last one, those of the class row alone.
struct Rows {
    hidden: BufferId,
    context: BufferId,
    normed: BufferId,
    attended: BufferId,
}

/// The class rows of what the last block still needs.
fn class_rows(writer: &mut Writer<'_>, rows: &Rows, d: usize) -> Rows {
    let [hidden, context, normed, attended] = [d; 4].map(|width| writer.sequence_buffer(width));
    for (x, out) in [(rows.hidden, hidden), (rows.context, context)] {
        writer.push(Op::Pool { x, pooling: Pooling { modes: vec![PoolMode::Cls] }, out });
    }
    Rows { hidden, context, normed, attended }
}

/// Where elements fall out.
struct Drops<'s> {
    sites: &'s [Site],
}

impl Drops<'_> {
    fn site(&self, block: usize, layer: BlockLayer) -> Option<u32> {
        self.number(Site::Block { block: block as u32, layer })
    }

    fn number(&self, site: Site) -> Option<u32> {
        self.sites.contains(&site).then(|| site.number())
    }
}

/// `out = activation(drop(x @ weight^T + bias)) + residual`, where there is a site; else without the drop.
fn push_dropped(
    writer: &mut Writer<'_>,
    x: BufferId,
    linear: LinearId,
    (activation, residual): (Activation, Option<BufferId>),
    site: Option<u32>,
    out: BufferId,
) {
    let Some(site) = site else { return writer.push_linear(x, linear, activation, residual, out) };
    writer.push_linear(x, linear, Activation::Identity, None, out);
    writer.push(Op::Drop { x: out, site });
    if activation != Activation::Identity {
        writer.push(Op::Activate { x: out, activation });
    }
    if let Some(y) = residual {
        writer.push(Op::Add { x: out, y });
    }
}

/// torch's `MultiheadAttention` keeps queries, keys and values in one matrix.
fn in_projection(before: &str, d: usize) -> Linear {
    Linear {
        weights: vec![format!("{before}in_proj_weight")],
        layout: Layout::OutIn,
        biases: vec![format!("{before}in_proj_bias")],
        out_features: 3 * d,
        in_features: d,
    }
}

/// What a checkpoint calls its tensors.
struct Called {
    prefix: &'static str,
    patch: &'static str,
    class: &'static str,
    position: &'static str,
    first_norm: &'static str,
    last_norm: &'static str,
    layers: &'static str,
    attention_norm: &'static str,
    attention_out: &'static str,
    mlp_norm: &'static str,
    up: &'static str,
    down: &'static str,
    /// Stands outside of the tower.
    projection: (&'static str, Layout),
    names: Names,
}

impl Names {
    fn called(self) -> Called {
        match self {
            Names::HuggingFace => Called {
                prefix: "vision_model.",
                patch: "embeddings.patch_embedding",
                class: "embeddings.class_embedding",
                position: "embeddings.position_embedding.weight",
                // As the checkpoints spell it.
                first_norm: "pre_layrnorm",
                last_norm: "post_layernorm",
                layers: "encoder.layers.",
                attention_norm: "layer_norm1",
                attention_out: "self_attn.out_proj",
                mlp_norm: "layer_norm2",
                up: "mlp.fc1",
                down: "mlp.fc2",
                projection: ("visual_projection.weight", Layout::OutIn),
                names: self,
            },
            Names::OpenClip => Called {
                prefix: "visual.",
                patch: "conv1",
                class: "class_embedding",
                position: "positional_embedding",
                first_norm: "ln_pre",
                last_norm: "ln_post",
                layers: "transformer.resblocks.",
                attention_norm: "ln_1",
                attention_out: "attn.out_proj",
                mlp_norm: "ln_2",
                up: "mlp.c_fc",
                down: "mlp.c_proj",
                projection: ("visual.proj", Layout::InOut),
                names: self,
            },
        }
    }
}

impl Called {
    fn qkv(&self, writer: &mut Writer<'_>, at: &impl Fn(&str) -> String, d: usize) -> LinearId {
        match self.names {
            Names::HuggingFace => {
                let names = ["q", "k", "v"].map(|which| at(&format!("self_attn.{which}_proj")));
                writer.linear(&names, Bias::Present, 3 * d, d)
            }
            Names::OpenClip => writer.linear_of(in_projection(&at("attn."), d)),
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
struct OpenClipVision {
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
    image_size: usize,
    timm_model_name: Option<String>,
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
