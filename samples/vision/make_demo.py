"""Writes what `./dev demo vision` runs on: pictures of four kinds, and a small CLIP image tower with random weights.

    python3 make_demo.py FOLDER

Python alone, nothing to install. FOLDER/images has a folder for each kind, FOLDER/tiny-vit the checkpoint. The weights are
random: what the run says of the pictures shows how it works, not what is in them.
"""
import json
import math
import os
import random
import struct
import sys
import zlib

SIDE, PATCH, WIDTH, HEADS, LAYERS, MLP, DIM = 64, 16, 64, 4, 4, 128, 64
KINDS = ["plain", "gradient", "stripes", "noise"]
OF_EACH = 10
PIXELS = (96, 80)


def picture(kind, rng):
    """Rows of red, green and blue."""
    width, height = PIXELS
    one, two = ([rng.randrange(256) for _ in range(3)] for _ in range(2))
    step, angle = rng.randrange(4, 16), rng.random() * math.pi
    for y in range(height):
        row = bytearray()
        for x in range(width):
            if kind == "plain":
                share = 0.0
            elif kind == "gradient":
                share = (x * math.cos(angle) + y * math.sin(angle)) / (width + height) + 0.5
            elif kind == "stripes":
                share = float(int(x * math.cos(angle) + y * math.sin(angle)) // step % 2)
            else:
                share = rng.random()
            row += bytes(min(255, max(0, round(a + (b - a) * share))) for a, b in zip(one, two))
        yield bytes(row)


def write_png(path, rows):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", *PIXELS, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    with open(path, "wb") as out:
        out.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def tensors():
    """Names, shapes, and how far their numbers are from what they are about."""
    yield "vision_model.embeddings.class_embedding", [WIDTH], 0.0, 1.0
    yield "vision_model.embeddings.patch_embedding.weight", [WIDTH, 3, PATCH, PATCH], 0.0, 0.1
    yield "vision_model.embeddings.position_embedding.weight", [(SIDE // PATCH) ** 2 + 1, WIDTH], 0.0, 0.3
    norms = ["pre_layrnorm", "post_layernorm"]
    for layer in range(LAYERS):
        at = f"encoder.layers.{layer}."
        norms += [at + "layer_norm1", at + "layer_norm2"]
        linears = [(f"self_attn.{part}_proj", WIDTH, WIDTH) for part in ("q", "k", "v", "out")]
        for name, rows, columns in linears + [("mlp.fc1", MLP, WIDTH), ("mlp.fc2", WIDTH, MLP)]:
            yield f"vision_model.{at}{name}.weight", [rows, columns], 0.0, 1.5 / math.sqrt(columns)
            yield f"vision_model.{at}{name}.bias", [rows], 0.0, 0.1
    for name in norms:
        yield f"vision_model.{name}.weight", [WIDTH], 1.0, 0.1
        yield f"vision_model.{name}.bias", [WIDTH], 0.0, 0.1
    yield "visual_projection.weight", [DIM, WIDTH], 0.0, 1 / math.sqrt(WIDTH)


def write_model(folder, rng):
    os.makedirs(folder, exist_ok=True)
    header, data = {}, bytearray()
    for name, shape, middle, deviation in tensors():
        start = len(data)
        for _ in range(math.prod(shape)):
            data += struct.pack("<f", rng.gauss(middle, deviation))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + data)
    tower = {"hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
             "image_size": SIDE, "patch_size": PATCH, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    preprocess = {"do_resize": True, "size": {"shortest_edge": SIDE}, "resample": 3, "do_center_crop": True,
                  "crop_size": {"height": SIDE, "width": SIDE}, "do_rescale": True, "rescale_factor": 1 / 255,
                  "do_normalize": True, "image_mean": [0.48145466, 0.4578275, 0.40821073],
                  "image_std": [0.26862954, 0.26130258, 0.27577711]}
    config = {"model_type": "clip", "projection_dim": DIM, "vision_config": tower}
    for name, document in [("config.json", config), ("preprocessor_config.json", preprocess)]:
        with open(os.path.join(folder, name), "w") as out:
            json.dump(document, out, indent=1)


def main():
    folder, rng = sys.argv[1], random.Random(7)
    for kind in KINDS:
        os.makedirs(os.path.join(folder, "images", kind), exist_ok=True)
        for no in range(OF_EACH):
            write_png(os.path.join(folder, "images", kind, f"{no}.png"), picture(kind, rng))
    # One that is none: it gets a verdict, and the others are finished.
    with open(os.path.join(folder, "images", "broken.png"), "wb") as out:
        out.write(b"\x89PNG\r\n\x1a\n")
    write_model(os.path.join(folder, "tiny-vit"), rng)


main()
