#!/usr/bin/env python3
"""A Qwen2 model of half a billion random parameters, as GGUF and for transformers, and how far engines differ on it.

    qwen2_random.py make    --tokenizer tokenizer.json --out DIR [--seed 0]
    qwen2_random.py compare --dir DIR --worker haul-llama [--tokens 192] [--threads 2] [--out FILE.json]

`make` writes `qwen2-random-f16.gguf` and a checkpoint with the very same numbers (safetensors, f16) of the shape of
Qwen2-0.5B: 24 layers, 896 wide, 14 heads, 2 of keys and values, feed-forward 4,864, biases on queries, keys and values,
tied embeddings, 151,936 tokens. The vocabulary is the given byte-level BPE, padded. 2 GB of disk.

`compare` scores a row of random tokens with haul-llama and with Qwen2ForCausalLM in f32, every position, and prints the
largest and the mean difference of ln p over the 64 tokens that transformers finds most likely and 64 random ones, and
how often both find the same token most likely. What such a model says means nothing; that it is read right does.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from frames import Worker
from tiny import log, machine, report

LAYERS, WIDTH, HEADS, KV_HEADS, INNER, VOCABULARY = 24, 896, 14, 2, 4864, 151_936
HEAD = WIDTH // HEADS
CONTEXT_TOKENS = 1024
ROPE_BASE = 1_000_000.0
NORM_EPS = 1e-6
BIAS_STD = 0.1
NORM_STD = 0.05
TOP = 64
GGUF = "qwen2-random-f16.gguf"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    write = commands.add_parser("make")
    write.add_argument("--tokenizer", required=True, type=Path)
    write.add_argument("--out", required=True, type=Path)
    write.add_argument("--seed", type=int, default=0)
    write.set_defaults(run=make)
    held = commands.add_parser("compare")
    held.add_argument("--dir", required=True, type=Path)
    held.add_argument("--worker", required=True, type=Path)
    held.add_argument("--tokens", type=int, default=192)
    held.add_argument("--threads", type=int, default=2)
    held.add_argument("--seed", type=int, default=1)
    held.add_argument("--out", type=Path)
    held.set_defaults(run=compare)
    arguments = parser.parse_args()
    arguments.run(arguments)


def shapes():
    """(name in GGUF, name in transformers, shape), in the order in which random numbers are drawn."""
    yield "token_embd.weight", "model.embed_tokens.weight", (VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        ours, theirs = f"blk.{layer}.", f"model.layers.{layer}."
        yield f"{ours}attn_norm.weight", f"{theirs}input_layernorm.weight", (WIDTH,)
        for short, rows in (("q", WIDTH), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD)):
            yield f"{ours}attn_{short}.weight", f"{theirs}self_attn.{short}_proj.weight", (rows, WIDTH)
            yield f"{ours}attn_{short}.bias", f"{theirs}self_attn.{short}_proj.bias", (rows,)
        yield f"{ours}attn_output.weight", f"{theirs}self_attn.o_proj.weight", (WIDTH, WIDTH)
        yield f"{ours}ffn_norm.weight", f"{theirs}post_attention_layernorm.weight", (WIDTH,)
        yield f"{ours}ffn_gate.weight", f"{theirs}mlp.gate_proj.weight", (INNER, WIDTH)
        yield f"{ours}ffn_up.weight", f"{theirs}mlp.up_proj.weight", (INNER, WIDTH)
        yield f"{ours}ffn_down.weight", f"{theirs}mlp.down_proj.weight", (WIDTH, INNER)
    yield "output_norm.weight", "model.norm.weight", (WIDTH,)


def numbers(rng, name, shape):
    """f16 numbers: matrices keep the size of what they multiply, scales are near one, biases near zero."""
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight"):
        values = 1 + NORM_STD * values
    elif name.endswith("bias"):
        values *= BIAS_STD
    else:
        values /= np.float32(np.sqrt(shape[1]))
    return values.astype(np.float16)


def make(arguments):
    import gguf
    from safetensors.numpy import save_file

    arguments.out.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(arguments.out / GGUF, "qwen2")
    writer.add_name("qwen2-random")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(NORM_EPS)
    add_tokenizer(gguf, writer, json.loads(arguments.tokenizer.read_text(encoding="utf-8")))
    rng = np.random.Generator(np.random.PCG64(arguments.seed))
    checkpoint, count = {}, 0
    for ours, theirs, shape in shapes():
        values = numbers(rng, ours, shape)
        checkpoint[theirs] = values
        count += values.size
        # llama.cpp keeps vectors in f32.
        writer.add_tensor(ours, values.astype(np.float32) if len(shape) == 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(checkpoint, arguments.out / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_BASE,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "vocab_size": VOCABULARY,
    }
    (arguments.out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    print(f"{arguments.out}: {count:,} parameters")


def add_tokenizer(gguf, writer, tokenizer):
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = [f"<|pad_{number}|>" for number in range(VOCABULARY)]
    types = [gguf.TokenType.UNUSED] * VOCABULARY
    for token, number in (vocabulary | special).items():
        tokens[number] = token
        types[number] = gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    end = max(special.values())
    writer.add_eos_token_id(end)
    writer.add_bos_token_id(end)
    writer.add_add_bos_token(False)


def compare(arguments):
    rng = np.random.Generator(np.random.PCG64(arguments.seed))
    ids = rng.integers(0, VOCABULARY, arguments.tokens).tolist()
    log("transformers, f32")
    ln, versions = theirs(arguments, ids)
    likely = np.argsort(-ln, axis=1)[:, :TOP]
    random = rng.integers(0, VOCABULARY, (len(ids), TOP))
    wanted = np.concatenate([likely, random], axis=1)
    log("haul-llama")
    with Worker(arguments.worker, arguments.dir / GGUF, CONTEXT_TOKENS, arguments.threads) as worker:
        scored = worker.score(ids, top_k=1, wanted=wanted.tolist())
        facts = machine(arguments.threads, []) | {"engine": worker.hello["engine"], "oracle": versions}
        facts["model"] = worker.loaded["description"]
    difference = np.abs(np.array(scored["wanted"]) - np.take_along_axis(ln, wanted, axis=1))
    same = sum(top[0][0] == best for top, best in zip(scored["top"], likely[:, 0].tolist(), strict=True))
    rows = [
        ("64 most likely", f"{difference[:, :TOP].max():.5f}", f"{difference[:, :TOP].mean():.5f}"),
        ("64 random", f"{difference[:, TOP:].max():.5f}", f"{difference[:, TOP:].mean():.5f}"),
        ("same most likely token", f"{same} of {len(ids)}", ""),
    ]
    report(facts, ["over all positions", "largest difference of ln p", "mean"], rows, arguments.out)


def theirs(arguments, ids):
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    model = transformers.Qwen2ForCausalLM.from_pretrained(arguments.dir, dtype=torch.float32).eval()
    with torch.no_grad():
        ln = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1).numpy()
    return ln, f"transformers {transformers.__version__}, torch {torch.__version__}, f32"


if __name__ == "__main__":
    main()
