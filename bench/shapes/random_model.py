#!/usr/bin/env python3
"""Writes a model directory of a real model's shape with random weights, to measure speed without the real weights.

    random_model.py --arch bge-m3 --out DIR [--dtype f16|f32] [--seed N]

Needs numpy alone. Memory stays below 300 MB; bge-m3 in f16 takes 1.2 GB of disk. The tokenizer is a stand-in: the
words `w0` to `w999`, and one unknown token for each other word. Vectors of such a model mean nothing.
"""

import argparse
import json
import struct
import zipfile
from pathlib import Path

import numpy as np

WEIGHT_STD = 0.02
CHUNK_ELEMENTS = 1 << 24
DTYPES = {"f16": ("F16", np.float16), "f32": ("F32", np.float32)}
SHAPES = {
    "minilm": {
        "dtype": "f32",
        "pooling": "mean",
        "max_tokens": 256,
        "special": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"},
        "config": {
            "model_type": "bert",
            "architectures": ["BertModel"],
            "vocab_size": 30522,
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "hidden_act": "gelu",
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
        },
    },
    "bge-m3": {
        "dtype": "f16",
        "pooling": "cls",
        "max_tokens": 8192,
        "special": {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>"},
        "config": {
            "model_type": "xlm-roberta",
            "architectures": ["XLMRobertaModel"],
            "vocab_size": 250002,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "hidden_act": "gelu",
            "max_position_embeddings": 8194,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
        },
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", required=True, choices=sorted(SHAPES))
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="default: as the real model is published")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.arch]
    write_files(arguments.out, shape)
    random_numbers = np.random.Generator(np.random.PCG64(arguments.seed))
    write_safetensors(arguments.out / "model.safetensors", tensors(shape["config"]), arguments.dtype or shape["dtype"], random_numbers)
    if arguments.arch == "bge-m3":
        width = shape["config"]["hidden_size"]
        write_torch(arguments.out / "sparse_linear.pt", {"weight": (1, width), "bias": (1,)}, random_numbers)
        write_torch(arguments.out / "colbert_linear.pt", {"weight": (width, width), "bias": (width,)}, random_numbers)


def tensors(config):
    """Names and shapes of a BertModel or XLMRobertaModel, without the pooler."""
    d, inner = config["hidden_size"], config["intermediate_size"]

    def linear(name, rows, columns):
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    def norm(name):
        return {f"{name}.weight": (d,), f"{name}.bias": (d,)}

    found = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], d),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], d),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], d),
        **norm("embeddings.LayerNorm"),
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        for part in ("query", "key", "value"):
            found |= linear(f"{at}attention.self.{part}", d, d)
        found |= linear(f"{at}attention.output.dense", d, d) | norm(f"{at}attention.output.LayerNorm")
        found |= linear(f"{at}intermediate.dense", inner, d)
        found |= linear(f"{at}output.dense", d, inner) | norm(f"{at}output.LayerNorm")
    return found


def values(name, shape, numpy_type, random_numbers):
    """The numbers of a tensor, by chunks: norms scale by one, biases are zero, all else is random."""
    elements = int(np.prod(shape))
    for start in range(0, elements, CHUNK_ELEMENTS):
        count = min(CHUNK_ELEMENTS, elements - start)
        if name.endswith("LayerNorm.weight"):
            yield np.ones(count, numpy_type)
        elif name.endswith("bias"):
            yield np.zeros(count, numpy_type)
        else:
            chunk = random_numbers.standard_normal(count, dtype=np.float32)
            chunk *= WEIGHT_STD
            yield chunk.astype(numpy_type, copy=False)


def write_safetensors(path, shapes, dtype, random_numbers):
    """8 bytes of header length, a JSON header, the numbers."""
    name_of_dtype, numpy_type = DTYPES[dtype]
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        begin, end = end, end + int(np.prod(shape)) * np.dtype(numpy_type).itemsize
        header[name] = {"dtype": name_of_dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            for chunk in values(name, shape, numpy_type, random_numbers):
                file.write(chunk.data)


def write_torch(path, shapes, random_numbers):
    """A float32 state dict as torch.save writes it: a zip of a pickle and one entry a tensor."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def integer(value):
        return b"J" + struct.pack("<i", value)

    def integers(sizes):
        return b"(" + b"".join(map(integer, sizes)) + b"t"

    pickle = b"\x80\x02ccollections\nOrderedDict\n)R("
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, (name, shape) in enumerate(shapes.items()):
            elements = int(np.prod(shape))
            strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
            storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(key)) + text("cpu") + integer(elements) + b"tQ"
            pickle += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(0)
            pickle += integers(shape) + integers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
            data = b"".join(chunk.tobytes() for chunk in values(name, shape, np.float32, random_numbers))
            archive.writestr(f"{path.stem}/data/{key}", data)
        archive.writestr(f"{path.stem}/data.pkl", pickle + b"u.")
        archive.writestr(f"{path.stem}/byteorder", b"little")
        archive.writestr(f"{path.stem}/version", b"3\n")


def write_files(folder, shape):
    """All of the sentence-transformers layout but the weights."""
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    module = "sentence_transformers.models."
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    files = {
        "config.json": shape["config"],
        "modules.json": [{"idx": i, "name": str(i), "path": path, "type": module + kind} for i, (path, kind) in enumerate(kinds)],
        "1_Pooling/config.json": {
            "word_embedding_dimension": shape["config"]["hidden_size"],
            "pooling_mode_cls_token": shape["pooling"] == "cls",
            "pooling_mode_mean_tokens": shape["pooling"] == "mean",
        },
        "sentence_bert_config.json": {"max_seq_length": shape["max_tokens"], "do_lower_case": False},
        "tokenizer.json": tokenizer(shape["special"]),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": shape["max_tokens"],
            **{f"{role}_token": token for role, token in shape["special"].items()},
            "eos_token": shape["special"]["sep"],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def tokenizer(special):
    ids = {token: i for i, token in enumerate([*special.values(), *(f"w{n}" for n in range(1000))])}
    first, last = special["cls"], special["sep"]
    parts = [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": last, "type_id": 0}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for token in special.values()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": parts,
            "pair": [*parts, {"Sequence": {"id": "B", "type_id": 0}}, parts[2]],
            "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (first, last)},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": special["unk"]},
    }


if __name__ == "__main__":
    main()
