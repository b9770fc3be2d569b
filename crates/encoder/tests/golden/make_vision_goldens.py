#!/usr/bin/env python3
"""Makes the golden features of image towers: what transformers and open_clip say, float64, of float16 weights.

    make_vision_goldens.py clip         tiny-clip/ and tiny-clip-golden.json
    make_vision_goldens.py siglip       tiny-siglip/ and tiny-siglip-golden.json
    make_vision_goldens.py open-clip    tiny-open-clip/ and tiny-open-clip-golden.json

Everything comes from fixed seeds; the pixels are those of `pixels` below, which the tests draw again. Each script breaks
its model in some ways and stops unless a feature moves. The versions that made the committed files stand in README.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
IMAGES = 3
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
# A side of 20 leaves 4 pixels over beside two patches of 8.
CLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 20, "patch_size": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-3}
SIGLIP = CLIP | {"hidden_act": "gelu_pytorch_tanh", "patch_size": 6}
OPEN_CLIP = {"embed_dim": 24, "quick_gelu": False, "vision_cfg": {"image_size": 20, "layers": 2, "width": 32, "head_width": 8, "mlp_ratio": 1.5, "patch_size": 8}, "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 4, "layers": 1}}


def pixels(side):
    """Levels of a linear congruential generator (Knuth's MMIX): bits 33 to 40 of each state."""
    state, levels = 20260403, []
    for _ in range(IMAGES * side * side * 3):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        levels.append(state >> 33 & 255)
    return np.array(levels, dtype=np.uint8).reshape(IMAGES, side, side, 3)


def normalised(images):
    levels = (images.astype(np.float64) / 255).astype(np.float32)
    levels = (levels - np.array(MEAN, dtype=np.float32)) / np.array(STD, dtype=np.float32)
    return torch.from_numpy(levels.astype(np.float64)).permute(0, 3, 1, 2)


def random_weights(state, seed):
    """Numbers that float16 holds. Biases and norms are random too, so that a forgotten one shows."""
    rng, weights = np.random.Generator(np.random.PCG64(seed)), {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        shape = tuple(tensor.shape)
        if ("norm" in name or "ln_" in name or "layrnorm" in name) and name.endswith("weight"):
            values = rng.uniform(0.4, 1.6, shape)
        elif name.endswith("bias"):
            values = rng.normal(0.0, 0.3, shape)
        else:
            values = rng.normal(0.0, 1.5 / np.sqrt(max(np.prod(shape[1:]), 1)), shape)
        weights[name] = torch.from_numpy(values.astype(np.float16).astype(np.float32))
    return weights


def philox(counter, key):
    """Philox4x32-10 of Salmon et al. 2011, over arrays of counters."""
    c, k = [np.asarray(word, dtype=np.uint64) for word in counter], list(key)
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        low = np.uint64(0xFFFFFFFF)
        c = [(second >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]), second & low, (first >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]), first & low]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def mask(elements, site, seed, image, trial, number, p):
    """What each element is multiplied with: eight elements a block, 16 bits each, the low half of a word first."""
    halves = lambda value: (value % 2**32, value >> 32)
    key = [int(word) for word in philox([*halves(image), *halves(seed)], (0, 0))[:2]]
    blocks = np.arange(-(-elements // 8), dtype=np.uint64)
    words = philox([blocks, np.full_like(blocks, site), np.full_like(blocks, number), np.full_like(blocks, trial)], key)
    bits = np.stack([word >> np.uint64(shift) & np.uint64(0xFFFF) for word in words for shift in (0, 16)], axis=1).reshape(-1)
    threshold = round(p * 65536)
    return torch.from_numpy(np.where(bits[:elements] < threshold, 0.0, 1.0 / (1.0 - threshold / 65536)))


PASSES = [
    {"sites": ["blocks.0.mlp.fc1"], "p": 0.25},
    {"sites": ["blocks.1.mlp.fc2"], "p": 0.1},
    {"sites": ["blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.1.mlp.fc1", "blocks.1.mlp.fc2"], "p": 0.01},
    {"sites": ["blocks.0.attn.qkv", "blocks.1.attn.proj"], "p": 0.2},
    {"sites": ["head.mlp.fc1", "head.mlp.fc2"], "p": 0.2},
]
SEED, TRIAL, PASS, IMAGE_KEYS = 2**40 + 7, 3, 11, [5, 2**33, 9]


def passes(model, images, features, modules):
    """Features of a pass at each list of sites that the model has; `modules` maps a site to its number and its modules,
    whose outputs stand side by side."""
    found = []
    for entry in PASSES:
        if not all(site in modules for site in entry["sites"]):
            continue
        rows = []
        for image, key in zip(images, IMAGE_KEYS):
            hooks = []
            for site in entry["sites"]:
                number, linears = modules[site]
                for part, linear in enumerate(linears):
                    hooks.append(linear.register_forward_hook(dropping(number, part, len(linears), key, entry["p"])))
            rows.append(features(model, image[None])[0].tolist())
            for hook in hooks:
                hook.remove()
        found.append(entry | {"features": [[float(f"{value:.9g}") for value in row] for row in rows]})
    return found


def dropping(number, part, parts, key, p):
    def hook(_, __, output):
        width = output.shape[-1]
        rows = output.numel() // width
        factors = mask(rows * width * parts, number, SEED, key, TRIAL, PASS, p).reshape(rows, parts, width)
        return output * factors[:, part].reshape(output.shape)

    return hook


def block_modules(blocks, qkv, proj, fc1, fc2):
    kinds = [("attn.qkv", qkv), ("attn.proj", proj), ("mlp.fc1", fc1), ("mlp.fc2", fc2)]
    return {
        f"blocks.{number}.{name}": (number * 4 + kind, find(block))
        for number, block in enumerate(blocks)
        for kind, (name, find) in enumerate(kinds)
        if find is not None
    }


def hugging_face_modules(tower):
    modules = block_modules(
        tower.encoder.layers,
        lambda block: [block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj],
        lambda block: [block.self_attn.out_proj],
        lambda block: [block.mlp.fc1],
        lambda block: [block.mlp.fc2],
    )
    if hasattr(tower, "head"):
        modules |= {"head.mlp.fc1": (65536, [tower.head.mlp.fc1]), "head.mlp.fc2": (65537, [tower.head.mlp.fc2])}
    return modules


def write(name, config_name, config, weights_name, model, features, breaks, modules):
    folder = HERE / f"tiny-{name}"
    folder.mkdir(exist_ok=True)
    weights = random_weights(model.state_dict(), 20260403)
    model.load_state_dict(weights, strict=False)
    model.double().eval()
    images = normalised(pixels(20))
    with torch.no_grad():
        rows = features(model, images)
        dropped = passes(model, images, features, modules(model))
        for what, break_it in breaks.items():
            broken = break_it(images)
            moved = (rows - broken).abs().max().item() if broken is not None else float("nan")
            assert moved > 3e-4, f"{what} moves a feature by {moved}"
    (folder / config_name).write_text(json.dumps(config, indent=1) + "\n")
    # The image tower alone, called as whole checkpoints call it: what texts need is not read.
    bare = not any(n.startswith(("vision_model.", "visual.")) for n in weights)
    kept = {f"vision_model.{n}" if bare else n: t.half().contiguous() for n, t in weights.items()}
    kept = {n: t for n, t in kept.items() if n.startswith(("vision", "visual"))}
    save_file(kept, folder / weights_name, metadata={"format": "pt"})
    golden = {
        "note": "float64 forward of float16 weights on the images of `pixels`",
        "versions": VERSIONS,
        "mean": MEAN,
        "std": STD,
        "seed": SEED,
        "trial": TRIAL,
        "pass": PASS,
        "image_keys": IMAGE_KEYS,
        "passes": dropped,
        "features": [[float(f"{value:.9g}") for value in row] for row in rows.tolist()],
    }
    (HERE / f"tiny-{name}-golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{name}: {rows.shape}, length {rows.norm(dim=1).tolist()}")


def make_clip():
    from transformers import CLIPConfig, CLIPVisionModelWithProjection, CLIPVisionConfig

    tower = CLIPVisionConfig(**CLIP, projection_dim=24)
    model = CLIPVisionModelWithProjection(tower)
    config = {"model_type": "clip", "projection_dim": 24, "vision_config": CLIP}

    def features(model, images):
        return model(pixel_values=images).image_embeds

    def with_activation(images):
        other = CLIPVisionModelWithProjection(CLIPVisionConfig(**(CLIP | {"hidden_act": "gelu"}), projection_dim=24))
        other.load_state_dict(model.state_dict())
        return features(other.double().eval(), images)

    def swapped(images):
        return features(model, images.flip(1))

    write("clip", "config.json", config, "model.safetensors", model, features, {"the exact GELU": with_activation, "colours swapped": swapped}, lambda model: hugging_face_modules(model.vision_model))


def make_siglip():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    model = SiglipVisionModel(SiglipVisionConfig(**SIGLIP))
    config = {"model_type": "siglip", "vision_config": SIGLIP}

    def features(model, images):
        return model(pixel_values=images).pooler_output

    def with_activation(images):
        other = SiglipVisionModel(SiglipVisionConfig(**(SIGLIP | {"hidden_act": "gelu"})))
        other.load_state_dict(model.state_dict())
        return features(other.double().eval(), images)

    write("siglip", "config.json", config, "model.safetensors", model, features, {"the exact GELU": with_activation}, lambda model: hugging_face_modules(getattr(model, "vision_model", model)))


def make_open_clip():
    import open_clip

    def model_of(quick_gelu):
        return open_clip.model.CLIP(**(OPEN_CLIP | {"quick_gelu": quick_gelu}))

    model = model_of(False)

    def features(model, images):
        return model.encode_image(images)

    def with_activation(images):
        other = model_of(True)
        other.load_state_dict(model.state_dict())
        return features(other.double().eval(), images)

    def modules(model):
        # Its attention reads the weights of `out_proj` and never calls it.
        return block_modules(model.visual.transformer.resblocks, None, None, lambda block: [block.mlp.c_fc], lambda block: [block.mlp.c_proj])

    config = {"model_cfg": OPEN_CLIP, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    write("open-clip", "open_clip_config.json", config, "open_clip_model.safetensors", model, features, {"quick GELU": with_activation}, modules)


def versions(family):
    import importlib.metadata as metadata

    packages = ["torch", "numpy", "open_clip_torch" if family == "open-clip" else "transformers"]
    return {package: metadata.version(package) for package in packages}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    families = {"clip": make_clip, "siglip": make_siglip, "open-clip": make_open_clip}
    parser.add_argument("family", choices=families)
    family = parser.parse_args().family
    VERSIONS = versions(family)
    families[family]()
