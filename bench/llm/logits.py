#!/usr/bin/env python3
"""Log-probabilities of the tiny model by Hugging Face transformers in f32, as a golden or beside haul-llama.

    logits.py golden  --model tiny-f16.gguf --tiny DIR --out tiny-f16.json [--count 12] [--seed 3]
    logits.py compare --model tiny-f16.gguf --golden tiny-f16.json --worker haul-llama [--threads 2]

`golden` reads the numbers that the GGUF file really holds (f16, taken to f32), undoes the order in which GGUF keeps
rotary rows, and runs LlamaForCausalLM. DIR holds `generate.py` and `tokenizer.json`. For each prompt the file gets its
token ids, the greedy text, and the 64 most likely tokens with their ln p at some positions, the last one among them.

`compare` has haul-llama tokenize and score the same prompts and prints the largest difference. It needs Python alone.
"""

import argparse
import json
from pathlib import Path

from frames import Worker
from tiny import load_tasks, log, machine, prompts, report

TOP = 64
POSITIONS = 4
GREEDY_TOKENS = 48
CONTEXT_TOKENS = 1024
END = "<|im_end|>"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("golden")
    make.add_argument("--model", required=True, type=Path)
    make.add_argument("--tiny", required=True, type=Path)
    make.add_argument("--out", required=True, type=Path)
    make.add_argument("--count", type=int, default=12)
    make.add_argument("--seed", type=int, default=3)
    make.set_defaults(run=golden)
    held = commands.add_parser("compare")
    held.add_argument("--model", required=True, type=Path)
    held.add_argument("--golden", required=True, type=Path)
    held.add_argument("--worker", required=True, type=Path)
    held.add_argument("--threads", type=int, default=2)
    held.set_defaults(run=compare)
    arguments = parser.parse_args()
    arguments.run(arguments)


def golden(arguments):
    import torch
    import transformers
    from tokenizers import Tokenizer

    # Threads that wait for each other take longer than one, for a model of this size.
    torch.set_num_threads(1)
    model = model_of(arguments.model)
    tokenizer = Tokenizer.from_file(str(arguments.tiny / "tokenizer.json"))
    end = tokenizer.token_to_id(END)
    lines = []
    for task, text in prompts(load_tasks(arguments.tiny), arguments.count, arguments.seed):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        with torch.no_grad():
            ln = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        rows = []
        for position in positions(len(ids)):
            values, tokens = ln[position].topk(TOP)
            pairs = zip(tokens.tolist(), values.tolist(), strict=True)
            rows.append({"position": position, "top": [[token, round(value, 5)] for token, value in pairs]})
        answer, is_whole = greedy(model, ids, end)
        row = {"task": task, "prompt": text, "ids": ids, "greedy": tokenizer.decode(answer)}
        row |= {"greedy_is_whole": is_whole, "rows": rows}
        log(f"{len(lines) + 1} of {arguments.count}")
        lines.append(json.dumps(row, ensure_ascii=False, separators=(",", ":")))
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}, f32"
    head = json.dumps({"model": arguments.model.name, "by": versions, "script": "bench/llm/logits.py golden"})
    body = ",\n".join(lines)
    arguments.out.write_text(f'{head[:-1]}, "prompts": [\n{body}\n]}}\n', encoding="utf-8")
    print(f"{arguments.out}: {len(lines)} prompts, {arguments.out.stat().st_size} bytes")


def positions(length):
    """Evenly spread, the last one among them."""
    return [length * (number + 1) // POSITIONS - 1 for number in range(POSITIONS)]


def greedy(model, ids, end):
    """Tokens of the answer, and whether the model ended it itself."""
    import torch

    answer, cache, read = [], None, ids
    while len(answer) < GREEDY_TOKENS:
        with torch.no_grad():
            said = model(torch.tensor([read]), past_key_values=cache, use_cache=True)
        token, cache = int(said.logits[0, -1].argmax()), said.past_key_values
        if token == end:
            return answer, True
        answer.append(token)
        read = [token]
    return answer, False


def model_of(path):
    """LlamaForCausalLM in f32 with the numbers of a GGUF file."""
    import gguf
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = gguf.GGUFReader(path)

    def fact(name):
        return reader.fields[f"llama.{name}"].contents()

    heads, layers = fact("attention.head_count"), fact("block_count")
    tensors = {
        tensor.name: torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)).float() for tensor in reader.tensors
    }
    config = LlamaConfig(
        vocab_size=len(tensors["token_embd.weight"]),
        hidden_size=fact("embedding_length"),
        intermediate_size=fact("feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=fact("attention.head_count_kv"),
        max_position_embeddings=fact("context_length"),
        rms_norm_eps=fact("attention.layer_norm_rms_epsilon"),
        rope_theta=fact("rope.freq_base"),
        tie_word_embeddings=True,
    )
    embeddings = tensors["token_embd.weight"]
    state = {"model.embed_tokens.weight": embeddings, "lm_head.weight": embeddings}
    state["model.norm.weight"] = tensors["output_norm.weight"]
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for layer in range(layers):
        for theirs, ours in names.items():
            numbers = tensors[f"blk.{layer}.{ours}.weight"]
            if ours in ("attn_q", "attn_k"):
                of = heads if ours == "attn_q" else config.num_key_value_heads
                # GGUF keeps the pairs of a rotation side by side, transformers in two halves.
                numbers = numbers.reshape(of, -1, 2, numbers.shape[1]).transpose(1, 2).reshape(numbers.shape)
            state[f"model.layers.{layer}.{theirs}.weight"] = numbers
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model.float().eval()


def compare(arguments):
    document = json.loads(arguments.golden.read_text(encoding="utf-8"))
    rows, worst = [], 0.0
    with Worker(arguments.worker, arguments.model, CONTEXT_TOKENS, arguments.threads) as worker:
        for number, prompt in enumerate(document["prompts"]):
            ids = worker.tokenize(prompt["prompt"])
            wanted = [[] for _ in ids]
            for row in prompt["rows"]:
                wanted[row["position"]] = [token for token, _ in row["top"]]
            scored = worker.score(ids, wanted=wanted)["wanted"]
            differences = [
                abs(ours - ln)
                for row in prompt["rows"]
                for ours, (_, ln) in zip(scored[row["position"]], row["top"], strict=True)
            ]
            answer = worker.answer("", [prompt["prompt"]], GREEDY_TOKENS)[0]["text"]
            worst = max(worst, *differences)
            same_ids, same_text = ids == prompt["ids"], answer == prompt["greedy"]
            rows.append((number, prompt["task"], len(ids), same_ids, f"{max(differences):.5f}", same_text))
        engine = worker.hello["engine"]
    rows.append(("all", "", "", all(row[3] for row in rows), f"{worst:.5f}", all(row[5] for row in rows)))
    facts = machine(arguments.threads, []) | {"engine": engine, "golden": document["by"]}
    report(facts, ["prompt", "task", "tokens", "same ids", "largest difference", "same greedy text"], rows, None)


if __name__ == "__main__":
    main()
