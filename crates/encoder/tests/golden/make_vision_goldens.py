#!/usr/bin/env python3
"""Makes the golden features of image towers: what transformers and open_clip say, float64, of float16 weights.

    make_vision_goldens.py clip         tiny-clip/ and tiny-clip-golden.json
    make_vision_goldens.py siglip       tiny-siglip/ and tiny-siglip-golden.json
    make_vision_goldens.py open-clip    tiny-open-clip/ and tiny-open-clip-golden.json
    make_vision_goldens.py so400m       tiny-so400m/ and tiny-so400m-golden.json: SigLIP with the awkward sizes of so400m
    make_vision_goldens.py timm-siglip  tiny-timm-siglip/ and tiny-timm-siglip-golden.json: SigLIP as open_clip has it, by timm

Everything comes from fixed seeds; the pixels are those of `pixels` below, which the tests draw again. Each script breaks
its model in some ways and stops unless a feature moves. The versions that made the committed files stand in README.md.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
IMAGES = 3
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
# A side of 20 leaves 4 pixels over beside two patches of 8.
CLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 20, "patch_size": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-3}
# A head of 72 columns, an odd feed-forward, patches that leave pixels over, as so400m has them at 384 pixels.
SO400M = CLIP | {"hidden_act": "gelu_pytorch_tanh", "hidden_size": 72, "num_attention_heads": 1, "intermediate_size": 269, "num_hidden_layers": 1, "patch_size": 7}
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


def bits_of(elements, site, seed, image, trial, number):
    """Eight elements a block, 16 bits each, the low half of a word first."""
    halves = lambda value: (value % 2**32, value >> 32)
    key = [int(word) for word in philox([*halves(image), *halves(seed)], (0, 0))[:2]]
    blocks = np.arange(-(-elements // 8), dtype=np.uint64)
    words = philox([blocks, np.full_like(blocks, site), np.full_like(blocks, number), np.full_like(blocks, trial)], key)
    bits = np.stack([word >> np.uint64(shift) & np.uint64(0xFFFF) for word in words for shift in (0, 16)], axis=1).reshape(-1)
    return bits[:elements]


NORMALS = np.array([statistics.NormalDist().inv_cdf((bits + 0.5) / 65536) for bits in range(65536)]).astype(np.float32).astype(np.float64)


def perturbed(output, bits, kind, p, spread):
    """Elements that fall out, or noise: as wide as a share of `spread`, or of each element."""
    if kind == "dropout":
        threshold = round(p * 65536)
        return output * torch.from_numpy(np.where(bits < threshold, 0.0, 1.0 / (1.0 - threshold / 65536))).reshape(output.shape)
    z = torch.from_numpy(NORMALS[bits.astype(np.int64)]).reshape(output.shape)
    return output + p * spread * z if kind == "gaussian" else output * (1 + p * z)


PASSES = [
    {"sites": ["blocks.0.mlp.fc1"], "p": 0.25},
    {"sites": ["blocks.1.mlp.fc2"], "p": 0.1},
    {"sites": ["blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.1.mlp.fc1", "blocks.1.mlp.fc2"], "p": 0.01},
    {"sites": ["blocks.0.attn.qkv", "blocks.1.attn.proj"], "p": 0.2},
    {"sites": ["head.mlp.fc1", "head.mlp.fc2"], "p": 0.2},
    {"sites": ["blocks.0.mlp.fc1", "blocks.1.mlp.fc2"], "perturb": "gaussian", "p": 0.25},
    {"sites": ["blocks.0.mlp.fc2", "blocks.1.mlp.fc1"], "perturb": "scale", "p": 0.2},
    {"sites": ["head.mlp.fc1"], "perturb": "gaussian", "p": 0.3},
    {"sites": ["blocks.0.attn.qkv"], "perturb": "scale", "p": 0.1},
    {"sites": ["blocks.0.mlp.fc2"], "p": 0.1},
    {"sites": ["blocks.0", "blocks.1"], "p": 0.5},
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
                    if number >= DEPTH:
                        hook = skipping(number, key, entry["p"])
                    else:
                        hook = perturbing(number, part, len(linears), key, entry, site in modules["one row"])
                    hooks.append(linear.register_forward_hook(hook))
            rows.append(features(model, image[None])[0].tolist())
            for hook in hooks:
                hook.remove()
        found.append(entry | {"features": [[float(f"{value:.9g}") for value in row] for row in rows]})
    return found


DEPTH = 131072


def perturbing(number, part, parts, key, entry, is_one_row):
    def hook(_, __, output):
        width = output.shape[-1]
        rows = output.numel() // width
        bits = bits_of(rows * width * parts, number, SEED, key, TRIAL, PASS).reshape(rows, parts, width)
        # Of a last block only the class row is computed.
        spread = output.reshape(-1, width)[:1 if is_one_row else None].std()
        kind = entry.get("perturb", "dropout")
        assert kind != "gaussian" or parts == 1
        return perturbed(output, bits[:, part].reshape(-1), kind, entry["p"], spread)

    return hook


def skipping(number, key, p):
    """The block hands on what it was given, where its coin falls."""
    falls = bool(bits_of(1, number, SEED, key, TRIAL, PASS)[0] < round(p * 65536))
    return lambda _, inputs, output: inputs[0] if falls else output


def block_modules(blocks, qkv, proj, fc1, fc2, has_class_row=True):
    kinds = [("attn.qkv", qkv), ("attn.proj", proj), ("mlp.fc1", fc1), ("mlp.fc2", fc2)]
    modules = {
        f"blocks.{number}.{name}": (number * 4 + kind, find(block))
        for number, block in enumerate(blocks)
        for kind, (name, find) in enumerate(kinds)
        if find is not None
    }
    modules |= {f"blocks.{number}": (DEPTH + number, [block]) for number, block in enumerate(blocks)}
    last = f"blocks.{len(blocks) - 1}"
    return modules | {"one row": [f"{last}.{name}" for name, _ in kinds[1:]] if has_class_row else []}


def hugging_face_modules(tower):
    modules = block_modules(
        tower.encoder.layers,
        lambda block: [block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj],
        lambda block: [block.self_attn.out_proj],
        lambda block: [block.mlp.fc1],
        lambda block: [block.mlp.fc2],
        not hasattr(tower, "head"),
    )
    if hasattr(tower, "head"):
        modules |= {"head.mlp.fc1": (65536, [tower.head.mlp.fc1]), "head.mlp.fc2": (65537, [tower.head.mlp.fc2])}
    return modules


def write(name, config_name, config, weights_name, model, features, breaks, modules, called=""):
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
    called = called or ("vision_model." if bare else "")
    kept = {f"{called}{n}": t.half().contiguous() for n, t in weights.items()}
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


def make_siglip(name="siglip", sizes=SIGLIP):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    model = SiglipVisionModel(SiglipVisionConfig(**sizes))
    config = {"model_type": "siglip", "vision_config": sizes}

    def features(model, images):
        return model(pixel_values=images).pooler_output

    def with_activation(images):
        other = SiglipVisionModel(SiglipVisionConfig(**(sizes | {"hidden_act": "gelu"})))
        other.load_state_dict(model.state_dict())
        return features(other.double().eval(), images)

    write(name, "config.json", config, "model.safetensors", model, features, {"the exact GELU": with_activation}, lambda model: hugging_face_modules(getattr(model, "vision_model", model)))


def make_so400m():
    make_siglip("so400m", SO400M)


def make_timm_siglip():
    from functools import partial

    from timm.models.vision_transformer import VisionTransformer

    def model_of(act):
        norm = partial(torch.nn.LayerNorm, eps=SIGLIP["layer_norm_eps"])
        ratio = SIGLIP["intermediate_size"] / SIGLIP["hidden_size"]
        return VisionTransformer(img_size=20, patch_size=6, embed_dim=32, depth=2, num_heads=4, mlp_ratio=ratio, class_token=False, global_pool="map", num_classes=0, act_layer=act, norm_layer=norm)

    model = model_of("gelu_tanh")

    def features(model, images):
        return model(images)

    def with_activation(images):
        other = model_of("gelu")
        other.load_state_dict(model.state_dict())
        return features(other.double().eval(), images)

    def modules(model):
        found = block_modules(model.blocks, lambda block: [block.attn.qkv], lambda block: [block.attn.proj], lambda block: [block.mlp.fc1], lambda block: [block.mlp.fc2], False)
        head = model.attn_pool.mlp
        return found | {"head.mlp.fc1": (65536, [head.fc1]), "head.mlp.fc2": (65537, [head.fc2])}

    # The sizes of a timm tower stand in its name, and no name is of so small a one: the tests read them here.
    config = {"model_type": "siglip", "vision_config": SIGLIP}
    write("timm-siglip", "config.json", config, "open_clip_model.safetensors", model, features, {"the exact GELU": with_activation}, modules, "visual.trunk.")


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

    library = {"open-clip": "open_clip_torch", "timm-siglip": "timm"}.get(family, "transformers")
    packages = ["torch", "numpy", library]
    return {package: metadata.version(package) for package in packages}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    families = {"clip": make_clip, "siglip": make_siglip, "open-clip": make_open_clip, "so400m": make_so400m, "timm-siglip": make_timm_siglip}
    parser.add_argument("family", choices=families)
    family = parser.parse_args().family
    VERSIONS = versions(family)
    families[family]()
