//! The pre-norm blocks of CLIP's and SigLIP's towers, which are the same for images and for texts.

use haul_kernels::act::Activation;
use haul_kernels::attention::Sees;

use crate::model::vision::{BlockLayer, Site};
use crate::model::writer::{Bias, Writer};
use crate::pooling::{PoolMode, Pooling};
use crate::program::{BufferId, Layout, Linear, LinearId, Op};

/// Whose checkpoint it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// `transformers`: `config.json`.
    HuggingFace,
    /// open_clip: `open_clip_config.json`.
    OpenClip,
    /// timm, whose SigLIP towers open_clip has.
    Timm,
}

/// Blocks of one shape.
pub(super) struct Blocks<'s> {
    pub(super) hidden_size: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) activation: Activation,
    pub(super) sees: Sees,
    pub(super) names: Names,
    pub(super) drops: Drops<'s>,
    /// The one row of a sequence that anybody looks at behind the last block; all where there is none.
    pub(super) last_row: Option<PoolMode>,
}

/// The buffers of a block; of the last one, those of the one row that is looked at.
pub(super) struct Rows {
    pub(super) hidden: BufferId,
    pub(super) normed: BufferId,
    /// `[tokens, 3 * hidden]`.
    pub(super) qkv: BufferId,
    context: BufferId,
    attended: BufferId,
    /// Inside the feed-forward, once one of its layers is perturbed: all blocks share it.
    wide: Option<BufferId>,
}

impl Blocks<'_> {
    /// Writes all blocks over `hidden`, and gives the buffers of the last one.
    pub(super) fn write(&self, writer: &mut Writer<'_>, hidden: BufferId) -> Rows {
        let d = self.hidden_size;
        let [qkv, context, normed, attended] = [3 * d, d, d, d].map(|width| writer.token_buffer(width));
        let mut rows = Rows { hidden, normed, qkv, context, attended, wide: None };
        for block in 0..self.layers {
            self.attend(writer, &rows, block);
            if let Some(row) = self.last_row.filter(|_| block + 1 == self.layers) {
                rows = one_row(writer, &rows, row, d);
            }
            self.feed_forward(writer, &mut rows, block);
        }
        rows
    }

    /// `context = attention(norm(hidden))`.
    fn attend(&self, writer: &mut Writer<'_>, rows: &Rows, block: usize) {
        let Blocks { hidden_size: d, heads, sees, .. } = *self;
        let (head_size, called) = (d / heads, self.names.of_blocks());
        let at = |part: &str| format!("{}{block}.{part}", called.layers);
        let norm = writer.layer_norm(&at(called.attention_norm), Bias::Present);
        writer.push(Op::Norm { x: rows.hidden, norm, out: rows.normed });
        let stacked = self.names.qkv(writer, &at, d);
        let at = self.drops.at(of_block(block, BlockLayer::Qkv));
        push_perturbed(writer, rows.normed, stacked, (Activation::Identity, None), at, rows.qkv);
        let scale = 1.0 / (head_size as f32).sqrt();
        writer.push(Op::Attention { qkv: rows.qkv, heads, head_size, scale, sees, out: rows.context });
    }

    /// `attended = hidden + proj(context)`, `hidden = attended + mlp(norm(attended))`.
    fn feed_forward(&self, writer: &mut Writer<'_>, rows: &mut Rows, block: usize) {
        let Rows { hidden, context, normed, attended, ref mut wide, .. } = *rows;
        let Blocks { hidden_size: d, intermediate_size, .. } = *self;
        let called = self.names.of_blocks();
        let at = |part: &str| format!("{}{block}.{part}", called.layers);
        let linear = writer.linear(&[at(called.attention_out)], Bias::Present, d, d);
        let branch = self.drops.number(Site::Depth { block: block as u32 });
        let [proj, fc1, fc2] = [BlockLayer::Proj, BlockLayer::Fc1, BlockLayer::Fc2]
            .map(|layer| self.drops.at(of_block(block, layer)));
        let proj = Perturbed { branch, ..proj };
        push_perturbed(writer, context, linear, (Activation::Identity, Some(hidden)), proj, attended);

        let norm = writer.layer_norm(&at(called.mlp_norm), Bias::Present);
        writer.push(Op::Norm { x: attended, norm, out: normed });
        let up = writer.linear(&[at(called.up)], Bias::Present, intermediate_size, d);
        let down = writer.linear(&[at(called.down)], Bias::Present, d, intermediate_size);
        let at = [fc1, Perturbed { branch, ..fc2 }];
        self.push_mlp(writer, normed, (up, down), at, wide, (attended, hidden));
    }

    /// `out = residual + down(activation(up(x)))`.
    pub(super) fn push_mlp(
        &self,
        writer: &mut Writer<'_>,
        x: BufferId,
        (up, down): (LinearId, LinearId),
        at: [Perturbed; 2],
        wide: &mut Option<BufferId>,
        (residual, out): (BufferId, BufferId),
    ) {
        let activation = self.activation;
        if at == [Perturbed::default(); 2] {
            writer.push(Op::FeedForward { x, up, activation, down, residual: Some(residual), out });
            return;
        }
        let wide = *wide.get_or_insert_with(|| writer.buffer_like(x, self.intermediate_size));
        push_perturbed(writer, x, up, (activation, None), at[0], wide);
        push_perturbed(writer, wide, down, (Activation::Identity, Some(residual)), at[1], out);
    }
}

/// One row a sequence of what the last block still needs.
fn one_row(writer: &mut Writer<'_>, rows: &Rows, row: PoolMode, d: usize) -> Rows {
    let [hidden, context, normed, attended] = [d; 4].map(|width| writer.sequence_buffer(width));
    for (x, out) in [(rows.hidden, hidden), (rows.context, context)] {
        writer.push(Op::Pool { x, pooling: Pooling { modes: vec![row] }, out });
    }
    Rows { hidden, normed, qkv: rows.qkv, context, attended, wide: None }
}

/// Where passes differ.
#[derive(Clone, Copy)]
pub(super) struct Drops<'s> {
    pub(super) sites: &'s [Site],
}

impl Drops<'_> {
    /// What is done to the outputs of a layer.
    pub(super) fn at(self, site: Site) -> Perturbed {
        Perturbed { outputs: self.number(site), branch: None }
    }

    fn number(self, site: Site) -> Option<u32> {
        self.sites.contains(&site).then(|| site.number())
    }
}

fn of_block(block: usize, layer: BlockLayer) -> Site {
    Site::Block { block: block as u32, layer }
}

/// What masks call that which differs between passes behind a layer.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Perturbed {
    /// Its outputs.
    outputs: Option<u32>,
    /// The branch that ends with it.
    branch: Option<u32>,
}

/// `out = skip(activation(perturb(x @ weight^T + bias))) + residual`.
fn push_perturbed(
    writer: &mut Writer<'_>,
    x: BufferId,
    linear: LinearId,
    (activation, residual): (Activation, Option<BufferId>),
    at: Perturbed,
    out: BufferId,
) {
    if at == Perturbed::default() {
        return writer.push_linear(x, linear, activation, residual, out);
    }
    writer.push_linear(x, linear, Activation::Identity, None, out);
    if let Some(site) = at.outputs {
        writer.push(Op::Perturb { x: out, site });
    }
    if activation != Activation::Identity {
        writer.push(Op::Activate { x: out, activation });
    }
    if let Some(site) = at.branch {
        writer.push(Op::Skip { x: out, site });
    }
    if let Some(y) = residual {
        writer.push(Op::Add { x: out, y });
    }
}

/// torch's `MultiheadAttention` keeps queries, keys and values in one matrix.
pub(super) fn in_projection(before: &str, d: usize) -> Linear {
    Linear {
        weights: vec![format!("{before}in_proj_weight")],
        layout: Layout::OutIn,
        biases: vec![format!("{before}in_proj_bias")],
        out_features: 3 * d,
        in_features: d,
    }
}

/// What a checkpoint calls the tensors of a block.
struct Called {
    layers: &'static str,
    attention_norm: &'static str,
    attention_out: &'static str,
    mlp_norm: &'static str,
    up: &'static str,
    down: &'static str,
}

impl Names {
    /// What stands before the number of a block.
    pub(super) fn layers(self) -> &'static str {
        self.of_blocks().layers
    }

    fn of_blocks(self) -> Called {
        match self {
            Names::HuggingFace => Called {
                layers: "encoder.layers.",
                attention_norm: "layer_norm1",
                attention_out: "self_attn.out_proj",
                mlp_norm: "layer_norm2",
                up: "mlp.fc1",
                down: "mlp.fc2",
            },
            Names::Timm => Called {
                layers: "blocks.",
                attention_norm: "norm1",
                attention_out: "attn.proj",
                mlp_norm: "norm2",
                up: "mlp.fc1",
                down: "mlp.fc2",
            },
            Names::OpenClip => Called {
                layers: "transformer.resblocks.",
                attention_norm: "ln_1",
                attention_out: "attn.out_proj",
                mlp_norm: "ln_2",
                up: "mlp.c_fc",
                down: "mlp.c_proj",
            },
        }
    }

    fn qkv(self, writer: &mut Writer<'_>, at: &impl Fn(&str) -> String, d: usize) -> LinearId {
        match self {
            Names::HuggingFace => {
                let names = ["q", "k", "v"].map(|which| at(&format!("self_attn.{which}_proj")));
                writer.linear(&names, Bias::Present, 3 * d, d)
            }
            Names::OpenClip => writer.linear_of(in_projection(&at("attn."), d)),
            Names::Timm => writer.linear(&[at("attn.qkv")], Bias::Present, 3 * d, d),
        }
    }
}
