//! Models of random numbers, as GGUF files: small ones of architectures that the tiny model is not of. What they say means
//! nothing, but it depends on all that they read.

use std::fs;
use std::path::Path;

const WIDTH: u64 = 48;
const INNER: u64 = 2 * WIDTH;
const STATE: u64 = 16;
const KERNEL: u64 = 4;
const RANK: u64 = 4;
const HEADS: u32 = 3;
const FORWARD: u64 = 64;
const LAYERS: u32 = 2;
/// All bytes, and the end of a text.
const VOCABULARY: u64 = 257;
pub(crate) const END: u32 = 256;
const CONTEXT: u32 = 1024;
/// Tokens that a layer of the model with windows sees.
pub(crate) const WINDOW: u32 = 16;
const ALIGNMENT: usize = 32;

/// What keeps what a model has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A state alone: Mamba.
    Recurrent,
    /// A state in one layer, a cache in the other: Jamba.
    Hybrid,
    /// A cache, of which every other layer sees a window: Gemma 2.
    Windowed,
    /// The same with a mark before every text.
    Marked,
    /// A cache of one head, which all heads of the queries read: Llama with queries in a group.
    Grouped,
}

/// Writes a model.
pub(crate) fn write(path: &Path, kind: Kind) {
    let mut file = File { random: 42, adds_bos: kind == Kind::Marked, ..File::default() };
    match kind {
        Kind::Recurrent => file.mamba(),
        Kind::Hybrid => file.jamba(),
        Kind::Windowed | Kind::Marked => file.gemma(),
        Kind::Grouped => file.llama(),
    }
    fs::write(path, file.bytes()).unwrap();
}

#[derive(Default)]
struct File {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<(String, Vec<u64>, Vec<f32>)>,
    random: u64,
    adds_bos: bool,
}

impl File {
    fn mamba(&mut self) {
        self.head("mamba", &[("feed_forward_length", 0), ("attention.head_count", 0)]);
        self.state_keys("mamba");
        for layer in 0..LAYERS {
            self.norm(&format!("blk.{layer}.attn_norm"));
            self.state_space(layer);
        }
    }

    fn jamba(&mut self) {
        self.head("jamba", &[("feed_forward_length", FORWARD as u32), ("attention.head_count", HEADS)]);
        self.state_keys("jamba");
        self.key("jamba.attention.head_count_kv", 9);
        self.keys.extend(5_u32.to_le_bytes());
        self.keys.extend(u64::from(LAYERS).to_le_bytes());
        for heads in [0, HEADS] {
            self.keys.extend(heads.to_le_bytes());
        }
        for layer in 0..LAYERS {
            self.norm(&format!("blk.{layer}.attn_norm"));
            if layer == 0 {
                self.state_space(layer);
                for (name, numbers) in [("ssm_dt_norm", RANK), ("ssm_b_norm", STATE), ("ssm_c_norm", STATE)] {
                    self.vector(&format!("blk.{layer}.{name}.weight"), numbers, 1.0, 0.05);
                }
            } else {
                self.attention(layer);
            }
            self.forward(layer);
        }
    }

    fn gemma(&mut self) {
        self.head(
            "gemma2",
            &[
                ("feed_forward_length", FORWARD as u32),
                ("attention.head_count", HEADS),
                ("attention.head_count_kv", HEADS),
                ("attention.sliding_window", WINDOW),
            ],
        );
        for layer in 0..LAYERS {
            for name in ["attn_norm", "post_attention_norm", "post_ffw_norm"] {
                self.norm(&format!("blk.{layer}.{name}"));
            }
            self.attention(layer);
            self.forward(layer);
        }
    }

    fn llama(&mut self) {
        self.head(
            "llama",
            &[
                ("feed_forward_length", FORWARD as u32),
                ("attention.head_count", HEADS),
                ("attention.head_count_kv", 1),
                ("rope.dimension_count", WIDTH as u32 / HEADS),
            ],
        );
        for layer in 0..LAYERS {
            let name = |tensor: &str| format!("blk.{layer}.{tensor}");
            self.norm(&name("attn_norm"));
            for (tensor, rows, scale) in [
                ("attn_q", WIDTH, 2.0),
                ("attn_k", WIDTH / u64::from(HEADS), 2.0),
                ("attn_v", WIDTH / u64::from(HEADS), 2.0),
                ("attn_output", WIDTH, 4.0),
            ] {
                self.matrix(&name(&format!("{tensor}.weight")), WIDTH, rows, scale);
            }
            self.forward(layer);
        }
    }

    /// What every model has: keys, a vocabulary of bytes, and both ends of the network.
    fn head(&mut self, architecture: &str, numbers: &[(&str, u32)]) {
        self.text("general.architecture", architecture);
        for (name, number) in numbers.iter().chain(&[
            ("context_length", CONTEXT),
            ("embedding_length", WIDTH as u32),
            ("block_count", LAYERS),
        ]) {
            self.number(&format!("{architecture}.{name}"), *number);
        }
        self.key(&format!("{architecture}.attention.layer_norm_rms_epsilon"), 6);
        self.keys.extend(1e-6_f32.to_le_bytes());
        self.text("tokenizer.ggml.model", "gpt2");
        self.text("tokenizer.ggml.pre", "gpt-2");
        let tokens: Vec<String> = (0..=255).map(|byte| as_gpt2_writes(byte).to_string()).collect();
        self.texts("tokenizer.ggml.tokens", tokens.iter().map(String::as_str).chain(["<|end|>"]));
        self.texts("tokenizer.ggml.merges", [].into_iter());
        self.key("tokenizer.ggml.token_type", 9);
        self.keys.extend(5_u32.to_le_bytes());
        self.keys.extend(VOCABULARY.to_le_bytes());
        for token in 0..VOCABULARY as u32 {
            // Normal tokens, and one that marks.
            self.keys.extend(if token == END { 3_i32 } else { 1 }.to_le_bytes());
        }
        self.number("tokenizer.ggml.bos_token_id", END);
        self.number("tokenizer.ggml.eos_token_id", END);
        self.key("tokenizer.ggml.add_bos_token", 7);
        self.keys.push(u8::from(self.adds_bos));
        self.matrix("token_embd.weight", WIDTH, VOCABULARY, 1.0);
        self.norm("output_norm");
        if architecture != "gemma2" {
            self.matrix("output.weight", WIDTH, VOCABULARY, 2.0);
        }
    }

    fn state_keys(&mut self, architecture: &str) {
        for (name, number) in
            [("conv_kernel", KERNEL), ("inner_size", INNER), ("state_size", STATE), ("time_step_rank", RANK)]
        {
            self.number(&format!("{architecture}.ssm.{name}"), number as u32);
        }
    }

    fn state_space(&mut self, layer: u32) {
        let name = |tensor: &str| format!("blk.{layer}.{tensor}");
        self.matrix(&name("ssm_in.weight"), WIDTH, 2 * INNER, 2.0);
        self.matrix(&name("ssm_conv1d.weight"), KERNEL, INNER, 1.0);
        self.vector(&name("ssm_conv1d.bias"), INNER, 0.0, 0.1);
        self.matrix(&name("ssm_x.weight"), INNER, RANK + 2 * STATE, 2.0);
        self.matrix(&name("ssm_dt.weight"), RANK, INNER, 1.0);
        self.vector(&name("ssm_dt.bias"), INNER, -3.0, 0.5);
        // Decays, from slow to fast.
        let decays = (0..INNER).flat_map(|_| (1..=STATE).map(|number| -(number as f32) / 8.0)).collect();
        self.tensors.push((name("ssm_a"), vec![STATE, INNER], decays));
        self.vector(&name("ssm_d"), INNER, 1.0, 0.1);
        self.matrix(&name("ssm_out.weight"), INNER, WIDTH, 4.0);
    }

    fn attention(&mut self, layer: u32) {
        for (name, scale) in [("attn_q", 2.0), ("attn_k", 2.0), ("attn_v", 2.0), ("attn_output", 4.0)] {
            self.matrix(&format!("blk.{layer}.{name}.weight"), WIDTH, WIDTH, scale);
        }
    }

    fn forward(&mut self, layer: u32) {
        self.norm(&format!("blk.{layer}.ffn_norm"));
        self.matrix(&format!("blk.{layer}.ffn_gate.weight"), WIDTH, FORWARD, 1.0);
        self.matrix(&format!("blk.{layer}.ffn_up.weight"), WIDTH, FORWARD, 1.0);
        self.matrix(&format!("blk.{layer}.ffn_down.weight"), FORWARD, WIDTH, 1.0);
    }

    fn key(&mut self, name: &str, kind: u32) {
        string(&mut self.keys, name);
        self.keys.extend(kind.to_le_bytes());
        self.key_count += 1;
    }

    fn number(&mut self, name: &str, number: u32) {
        self.key(name, 4);
        self.keys.extend(number.to_le_bytes());
    }

    fn text(&mut self, name: &str, text: &str) {
        self.key(name, 8);
        string(&mut self.keys, text);
    }

    fn texts<'a>(&mut self, name: &str, texts: impl Iterator<Item = &'a str>) {
        let texts: Vec<&str> = texts.collect();
        self.key(name, 9);
        self.keys.extend(8_u32.to_le_bytes());
        self.keys.extend((texts.len() as u64).to_le_bytes());
        for text in texts {
            string(&mut self.keys, text);
        }
    }

    fn norm(&mut self, name: &str) {
        self.vector(&format!("{name}.weight"), WIDTH, 1.0, 0.05);
    }

    fn vector(&mut self, name: &str, numbers: u64, mean: f32, spread: f32) {
        let values = (0..numbers).map(|_| mean + spread * self.next()).collect();
        self.tensors.push((name.to_owned(), vec![numbers], values));
    }

    /// Rows of `columns` numbers that keep the size of what they multiply, times `scale`.
    fn matrix(&mut self, name: &str, columns: u64, rows: u64, scale: f32) {
        let spread = scale / (columns as f32).sqrt();
        let values = (0..columns * rows).map(|_| spread * self.next()).collect();
        self.tensors.push((name.to_owned(), vec![columns, rows], values));
    }

    /// A number of mean 0 and variance 1, the same on every machine: xorshift, scaled to an even distribution.
    fn next(&mut self) -> f32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let even = (self.random >> 40) as f32 / (1_u64 << 24) as f32;
        (even - 0.5) * 12_f32.sqrt()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.key_count.to_le_bytes());
        bytes.extend(&self.keys);
        let mut data: Vec<u8> = Vec::new();
        for (name, dimensions, values) in &self.tensors {
            string(&mut bytes, name);
            bytes.extend((dimensions.len() as u32).to_le_bytes());
            for dimension in dimensions {
                bytes.extend(dimension.to_le_bytes());
            }
            // Of 32-bit floats.
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(data);
        bytes
    }
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// GPT-2 has a visible character for every byte.
fn as_gpt2_writes(byte: u8) -> char {
    let is_visible = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if is_visible(byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|other| !is_visible(*other)).count() as u32;
    char::from_u32(256 + hidden_before).unwrap()
}
