#!/usr/bin/env python3
"""Makes the golden vectors of the architectures beyond BERT: what transformers and FlagEmbedding's formulas say.

    make_family_goldens.py xlm-roberta     tiny-xlmr/ and tiny-xlmr-golden.json
    make_family_goldens.py modernbert      tiny-modernbert/ and tiny-modernbert-golden.json

Everything comes from fixed seeds. The versions that made the committed files stand in README.md.
"""

import argparse
import base64
import io
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, ModernBertConfig, ModernBertModel, XLMRobertaConfig, XLMRobertaModel

import make_goldens as bert
from make_goldens import LETTERS_AND_DIGITS, PUNCTUATION, WORD_STARTS, round_list, versions, write_json

HERE = Path(__file__).resolve().parent
MAX_TOKENS = 48

XLMR_CONFIG = {
    "architectures": ["XLMRobertaModel"],
    "model_type": "xlm-roberta",
    "vocab_size": 250,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 66,
    "position_embedding_type": "absolute",
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-3,
    "initializer_range": 0.02,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
XLMR_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
COLBERT_DIM = 24
# What the characters on the left become before anything else is done; XLM-RoBERTa's own table is NFKC and 300 KB.
NORMALIZED = [("ﬁ", "fi"), ("\u3000", " "), ("\u00a0", " "), ("\t", " "), ("\n", " "), ("\r", " "), ("½", "1/2"), ("①", "1"), ("e\u0301", "é"), ("\u200b", " "), ("…", "...")]
XLMR_TEXTS = bert.TINY_TEXTS + [
    ("normalised characters", "ﬁne ½ cup ① e\u0301 zero\u200bwidth"),
    ("padding inside", "oil <pad> lamp <pad> and sea"),
    ("the same words again", "sea sea boat sea boat storm sea"),
]
LONG_TOKENS = 8192

MODERN_CONFIG = {
    "architectures": ["ModernBertModel"],
    "model_type": "modernbert",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "hidden_activation": "gelu",
    "max_position_embeddings": 128,
    "norm_eps": 1e-3,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "global_attn_every_n_layers": 3,
    # 8 tokens on each side.
    "local_attention": 16,
    # Small, so that all pairs of columns turn by much within the model's length.
    "global_rope_theta": 1000.0,
    "local_rope_theta": 30.0,
    "pad_token_id": 0,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
MODERN_BIASES = {"norm_bias": True, "attention_bias": True, "mlp_bias": True}


def make_xlm_roberta():
    """Writes tiny-xlmr/ with its heads, twice: as safetensors and as torch saves it."""
    folder = HERE / "tiny-xlmr"
    weights = halved(random_weights(XLMRobertaModel(XLMRobertaConfig(**XLMR_CONFIG)).state_dict(), 20260403))
    write_layout(folder, XLMR_CONFIG, xlmr_tokenizer(), xlmr_tokenizer_config(), pooling="cls")
    save_file({name: tensor.half() for name, tensor in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    model = XLMRobertaModel(XLMRobertaConfig(**XLMR_CONFIG))
    model.load_state_dict(weights, strict=False)
    # A real state dict: with `_metadata`, with the integer buffer of older checkpoints.
    state = model.state_dict()
    state["embeddings.position_ids"] = torch.arange(XLMR_CONFIG["max_position_embeddings"]).unsqueeze(0)
    torch.save(state, folder / "pytorch_model.bin")
    heads = xlmr_heads()
    torch.save(heads["sparse"].state_dict(), folder / "sparse_linear.pt")
    torch.save(heads["colbert"].half().state_dict(), folder / "colbert_linear.pt")
    heads = {name: head.double() for name, head in heads.items()}

    model = loaded(XLMRobertaModel, folder, weights)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    golden = {
        "note": "float64 transformers forward of float16 weights; ids hold the special tokens and are cut to max_tokens",
        "versions": versions() | {"sentencepiece": sentencepiece.__version__},
        "max_tokens": MAX_TOKENS,
        "long": long_entry(weights, heads),
        "texts": [xlmr_entry(model, heads, tokenizer, what, text) for what, text in XLMR_TEXTS],
    }
    check_against_sentence_transformers(folder, golden["texts"], "cls_normalized")
    check_that_xlmr_mistakes_show(folder, weights, golden["texts"])
    write_golden(folder, golden)


def make_modernbert():
    """Writes tiny-modernbert/. Its file holds biases too, which the configuration says are not there."""
    folder = HERE / "tiny-modernbert"
    config = modern_config({})
    biased = modern_config(MODERN_BIASES)
    weights = halved(random_weights(ModernBertModel(biased).state_dict(), 20260404))
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_TOKENS} | {
        f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")
    }
    write_layout(folder, MODERN_CONFIG, bert.tiny_tokenizer(), tokenizer_config, pooling="mean")
    save_file({name: tensor.half() for name, tensor in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    model, biased = modern_model(config, weights), modern_model(biased, weights)
    tokenizer = bert.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")

    def entry(what, text):
        entry = bert.golden_entry(model, tokenizer, what, text)
        with_biases = bert.pool(bert.hidden_states(biased, entry["ids"]))
        kept = ("mean", "cls", "mean_normalized")
        return entry | {
            "pooled": {mode: entry["pooled"][mode] for mode in kept},
            "pooled_with_biases": {mode: round_list(with_biases[mode]) for mode in kept},
        }

    golden = {
        "note": "float64 transformers forward of float16 weights; ids hold the special tokens and are cut to max_tokens",
        "versions": versions(),
        "max_tokens": MAX_TOKENS,
        # What transformers makes of this configuration in its newer spelling.
        "newer": {key: config.to_dict()[key] for key in ("layer_types", "rope_parameters")},
        "texts": [entry(what, text) for what, text in bert.TINY_TEXTS],
    }
    check_against_sentence_transformers(folder, golden["texts"], "mean_normalized")
    check_that_modern_mistakes_show(config, weights, golden["texts"])
    write_golden(folder, golden)


def modern_config(changes):
    return ModernBertConfig(**(MODERN_CONFIG | changes))


def modern_model(config, weights):
    model = ModernBertModel._from_config(config, attn_implementation="eager").double().eval()
    result = model.load_state_dict(weights, strict=False)
    assert not result.missing_keys, result
    return model


def loaded(kind, folder, weights):
    """The saved model in float64: its rounded numbers are the same on every machine."""
    model = kind.from_pretrained(folder, attn_implementation="eager").double().eval()
    for name, tensor in model.state_dict().items():
        assert "pooler" in name or "position_ids" in name or "token_type_ids" in name or torch.equal(tensor, weights[name].double()), name
    return model


def random_weights(state, seed):
    """Random tensors. Biases and norms are random too, so that a forgotten one shows."""
    random_numbers = np.random.Generator(np.random.PCG64(seed))
    weights = {}
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point() or "pooler" in name:
            continue
        if "norm" in name.lower() and name.endswith("weight"):
            values = random_numbers.uniform(0.4, 1.6, shape)
        elif name.endswith("bias"):
            values = random_numbers.normal(0.0, 0.3, shape)
        elif "embeddings" in name:
            values = random_numbers.normal(0.0, 0.5, shape)
        else:
            values = random_numbers.normal(0.0, 2.0 / np.sqrt(shape[-1]), shape)
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def halved(weights):
    """Numbers that float16 holds, so that a file of half the size holds them exactly."""
    return {name: tensor.half().float() for name, tensor in weights.items()}


def xlmr_heads():
    torch.manual_seed(20260405)
    heads = {"sparse": torch.nn.Linear(32, 1), "colbert": torch.nn.Linear(32, COLBERT_DIM)}
    for head in heads.values():
        for parameter in head.parameters():
            parameter.data = parameter.data.half().float()
    return heads


def xlmr_entry(model, heads, tokenizer, what, text):
    ids = tokenizer(text.strip(), truncation=True, max_length=MAX_TOKENS)["input_ids"]
    whole = tokenizer(text.strip(), truncation=False)["input_ids"]
    hidden = bert.hidden_states(model, ids)
    pooled = bert.pool(hidden)
    return {
        "what": what,
        "text": text,
        "tokens": len(whole),
        "ids": ids,
        "pooled": {mode: round_list(pooled[mode]) for mode in ("cls", "mean", "cls_normalized")},
        "matryoshka_10": round_list(torch.nn.functional.normalize(hidden[0][:10], dim=-1)),
        "sparse": sparse_weights(hidden, ids, heads["sparse"]),
        "colbert": [short_list(row) for row in colbert_rows(hidden, heads["colbert"])],
    }


def sparse_weights(hidden, ids, head):
    """FlagEmbedding, `_sparse_embedding` and `_process_token_weights` of its M3 model."""
    with torch.no_grad():
        token_weights = torch.relu(head(hidden)).squeeze(-1).tolist()
    result = defaultdict(float)
    for weight, token in zip(token_weights, ids):
        if token not in {0, 1, 2, 3} and weight > 0 and weight > result[token]:
            result[token] = weight
    return [[token, float(f"{weight:.9g}")] for token, weight in sorted(result.items())]


def colbert_rows(hidden, head):
    """FlagEmbedding, `_colbert_embedding` of its M3 model: without the first token, with the last."""
    with torch.no_grad():
        return torch.nn.functional.normalize(head(hidden[1:]), dim=-1)


def long_entry(weights, heads):
    """As many tokens as bge-m3 reads. The position table is the tiny one over and over."""
    table = weights["embeddings.position_embeddings.weight"]
    rows = LONG_TOKENS + 2
    config = XLMRobertaConfig(**(XLMR_CONFIG | {"max_position_embeddings": rows}))
    model = XLMRobertaModel._from_config(config, attn_implementation="sdpa").double().eval()
    tiled = table.repeat(rows // len(table) + 1, 1)[:rows]
    model.load_state_dict(weights | {"embeddings.position_embeddings.weight": tiled}, strict=False)
    ids = [0, *(4 + i * 7919 % 246 for i in range(LONG_TOKENS - 2)), 2]
    hidden = bert.hidden_states(model, ids)
    return {
        "tokens": LONG_TOKENS,
        "cls_normalized": round_list(bert.pool(hidden)["cls_normalized"]),
        "sparse": sparse_weights(hidden, ids, heads["sparse"])[:20],
        "last_colbert": short_list(colbert_rows(hidden, heads["colbert"])[-1]),
    }


def short_list(vector):
    return [float(f"{x:.7g}") for x in vector.tolist()]


def xlmr_tokenizer():
    """A Unigram as XLM-RoBERTa's: a table of characters, white space as a mark, scores."""
    pieces = [(name, 0.0) for name in XLMR_SPECIAL] + [("▁", -3.0)]
    pieces += [("▁" + word, -6.0 - len(word) / 8 - i / 100) for i, word in enumerate(dict.fromkeys(WORD_STARTS))]
    pieces += [(end, -7.0 - i / 50) for i, end in enumerate(("ing", "ed", "er", "est", "ly", "ness", "house", "light", "ment", "able"))]
    pieces += [(c, -9.0 - i / 20) for i, c in enumerate(LETTERS_AND_DIGITS + "ABCDEFGHIKLMNOPRSTUVWZ" + PUNCTUATION + "éßøяиноλα日本灯€")]
    pieces = list(dict(reversed(pieces)).items())[::-1]
    assert len(pieces) < XLMR_CONFIG["vocab_size"], len(pieces)
    pieces.append(("<mask>", 0.0))
    special = {name: [piece for piece, _ in pieces].index(name) for name in [*XLMR_SPECIAL, "<mask>"]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, "single_word": False, "lstrip": name == "<mask>", "rstrip": False, "normalized": False, "special": True}
            for name, i in special.items()
        ],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap()).decode()},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "special_tokens": {name: {"id": name, "ids": [special[name]], "tokens": [name]} for name in ("<s>", "</s>")},
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": False},
    }


def charsmap():
    """The table of characters in sentencepiece's own compiled form. The model it is taken from has no other use."""
    rules = HERE / "rules.tsv"
    hexed = lambda text: " ".join(f"{ord(c):X}" for c in text)
    rules.write_text("".join(f"{hexed(a)}\t{hexed(b)}\n" for a, b in NORMALIZED))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the sea and the lamp of the tower"] * 20),
        model_writer=model,
        vocab_size=100,
        hard_vocab_limit=False,
        model_type="unigram",
        normalization_rule_tsv=str(rules),
        num_threads=1,
        minloglevel=2,
    )
    rules.unlink()
    # ModelProto.normalizer_spec.precompiled_charsmap
    normalizer_spec = next(value for field, value in protobuf_fields(model.getvalue()) if field == 3)
    return next(value for field, value in protobuf_fields(normalizer_spec) if field == 2)


def protobuf_fields(message):
    """Number and bytes of each field that is not a varint."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, message[at : at + size]
        at += size


def xlmr_tokenizer_config():
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    # Some releases write a token as an object.
    names["unk"] = {"__type": "AddedToken", "content": "<unk>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 64} | {f"{name}_token": token for name, token in names.items()}


def write_layout(folder, config, tokenizer, tokenizer_config, pooling):
    """The layout of a sentence-transformers model, without its weights."""
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    module = "sentence_transformers.models."
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": module + kind} for i, (path, kind) in enumerate(kinds)],
    )
    modes = {"cls": "cls_token", "mean": "mean_tokens"}
    write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": config["hidden_size"]} | {f"pooling_mode_{name}": mode == pooling for mode, name in modes.items()},
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})


def check_against_sentence_transformers(folder, entries, mode):
    """The same texts through the whole sentence-transformers stack: the files must mean what we think they mean."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
    assert model.max_seq_length == MAX_TOKENS, model.max_seq_length
    bert.check_tokenizers_agree(folder, model.tokenizer, [e["text"].strip() for e in entries])
    # One text a batch; stripped, as releases before 6 do it.
    vectors = model.encode([e["text"].strip() for e in entries], batch_size=1)
    difference = np.abs(vectors - np.array([e["pooled"][mode] for e in entries])).max()
    print(f"sentence-transformers f32 against the golden f64: max abs difference {difference:.2e}")
    assert difference < 3e-6


def check_that_xlmr_mistakes_show(folder, weights, entries):
    """Each usual mistake must move some vector by far more than a test tolerates."""
    tables = "embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"
    position, token_type = (weights[name] for name in tables)
    for what, changed in {
        "positions from 0": {tables[0]: position.roll(2, 0)},
        "positions from 1": {tables[0]: position.roll(1, 0)},
        "no token type": {tables[1]: torch.zeros_like(token_type)},
    }.items():
        model = loaded(XLMRobertaModel, folder, weights)
        model.load_state_dict(changed, strict=False)
        report_mistake(what, model, entries, "cls_normalized")
    # Numbering straight through padding moves the text that has it inside.
    model = loaded(XLMRobertaModel, folder, weights)
    inside = next(e for e in entries if e["what"] == "padding inside")
    with torch.no_grad():
        straight = torch.arange(2, len(inside["ids"]) + 2).unsqueeze(0)
        hidden = model(input_ids=torch.tensor([inside["ids"]]), position_ids=straight).last_hidden_state[0]
    moved = np.abs(bert.pool(hidden)["cls_normalized"].numpy() - inside["pooled"]["cls_normalized"]).max()
    print(f"mistake 'padding is numbered' moves a row by {moved:.1e}")
    assert moved > 5e-4


def check_that_modern_mistakes_show(config, weights, entries):
    def plain(changes):
        return modern_model(modern_config(changes), weights)

    def with_first_norm():
        model = plain({})
        model.layers[0].attn_norm = model.layers[1].attn_norm
        return model

    def with_swapped_gate():
        model = plain({})
        for layer in model.layers:
            layer.mlp.Wi.weight.data = layer.mlp.Wi.weight.data.roll(MODERN_CONFIG["intermediate_size"], 0)
        return model

    def without_final_norm():
        model = plain({})
        model.final_norm = torch.nn.Identity()
        return model

    for what, model in {
        "window of 7": plain({"local_attention": 14}),
        "window of 9": plain({"local_attention": 18}),
        "no window": plain({"global_attn_every_n_layers": 1, "global_rope_theta": 1000.0}),
        "one theta": plain({"local_rope_theta": 1000.0}),
        "thetas swapped": plain({"local_rope_theta": 1000.0, "global_rope_theta": 30.0}),
        "tanh GELU": plain({"hidden_activation": "gelu_pytorch_tanh"}),
        "epsilon 1e-5": plain({"norm_eps": 1e-5}),
        "a norm in layer 0": with_first_norm(),
        "gate and input swapped": with_swapped_gate(),
        "no final norm": without_final_norm(),
    }.items():
        report_mistake(what, model, entries, "mean")


def report_mistake(what, model, entries, mode):
    moved = max(np.abs(bert.pool(bert.hidden_states(model, e["ids"]))[mode].numpy() - e["pooled"][mode]).max() for e in entries)
    print(f"mistake {what!r} moves a row by {moved:.1e}")
    assert moved > 3e-4, what


def write_golden(folder, golden):
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in golden.pop("texts"))
    head = json.dumps(golden, ensure_ascii=False)[:-1]
    path = HERE / f"{folder.name}-golden.json"
    path.write_text(f'{head},\n "texts": [\n{lines}\n]}}\n', encoding="utf-8")
    size_bytes = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{folder.name}: {size_bytes} bytes, its golden vectors: {path.stat().st_size}")
    assert size_bytes < 300_000 and path.stat().st_size < 300_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=["xlm-roberta", "modernbert"])
    architecture = parser.parse_args().architecture
    print("versions:", json.dumps(versions()))
    make_xlm_roberta() if architecture == "xlm-roberta" else make_modernbert()


if __name__ == "__main__":
    main()
