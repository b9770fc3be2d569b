#!/usr/bin/env python3
"""Makes the golden features of text towers: what transformers and open_clip say, float64, of float16 weights.

    make_caption_goldens.py clip         tiny-clip-text/ and tiny-clip-text-golden.json
    make_caption_goldens.py siglip       tiny-siglip-text/ and tiny-siglip-text-golden.json
    make_caption_goldens.py open-clip    tiny-open-clip-text/ and tiny-open-clip-text-golden.json

Everything comes from fixed seeds. The tokenizer has 60 words of its own. Each script breaks its model in some ways and
stops unless a feature moves. The versions that made the committed files stand in README.md.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from make_vision_goldens import random_weights, versions

HERE = Path(__file__).resolve().parent
CONTEXT = 8
PAD, BEGIN, END = 0, 62, 63
TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": CONTEXT, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-3}
IDS = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}
OPEN_CLIP = {"embed_dim": 24, "quick_gelu": False, "vision_cfg": {"image_size": 20, "layers": 1, "width": 32, "head_width": 8, "mlp_ratio": 1.5, "patch_size": 8}, "text_cfg": {"context_length": CONTEXT, "vocab_size": 64, "width": 32, "heads": 4, "layers": 2, "mlp_ratio": 1.5}}
# The longest is cut.
TEXTS = ["w1", "w5 w6 w7", "w59 w3 w3 w2 w1", "w9 w10 w11 w12 w13 w14 w15 w16 w17", ""]


def tokenizer(family):
    words = {"<pad>": PAD, "<s>": BEGIN, "</s>": END, "<unk>": 1} | {f"w{number}": 1 + number for number in range(1, 61)}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    frame = "$A </s>" if family == "siglip" else "<s> $A </s>"
    special = [("</s>", END)] if family == "siglip" else [("<s>", BEGIN), ("</s>", END)]
    made.post_processor = processors.TemplateProcessing(single=frame, special_tokens=special)
    return made


def ids_of(made, family, text):
    """As the checkpoints' own processors have it: cut to the context, the end kept; SigLIP's filled up."""
    made.enable_truncation(CONTEXT)
    ids = made.encode(text).ids
    made.no_truncation()
    return ids + [PAD] * (CONTEXT - len(ids)) if family == "siglip" else ids


def write(family, config_name, config, weights_name, model, keep, features, breaks, likeness):
    name = f"tiny-{family}-text"
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    weights = random_weights(model.state_dict(), 20260404)
    # A whole checkpoint has them beside the towers.
    weights |= {key: torch.tensor(value, dtype=torch.float32).half().float() for key, value in likeness.items()}
    model.load_state_dict({key: value.reshape(model.state_dict()[key].shape) for key, value in weights.items() if key in model.state_dict()}, strict=False)
    model.double().eval()
    made = tokenizer(family)
    ids = [ids_of(made, family, text) for text in TEXTS]
    with torch.no_grad():
        rows = [features(model, torch.tensor([one]))[0] for one in ids]
        for what, break_it in breaks.items():
            moved = max((row - break_it(torch.tensor([one]))[0]).abs().max().item() for row, one in zip(rows, ids) if len(one) > 3)
            assert moved > 3e-4, f"{what} moves a feature by {moved}"
    (folder / config_name).write_text(json.dumps(config, indent=1) + "\n")
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}) + "\n")
    # Called as whole checkpoints call it.
    bare = family == "siglip" and not any(key.startswith("text_model.") for key in weights)
    called = lambda key: f"text_model.{key}" if bare and not key.startswith("logit_") else key
    save_file({called(key): value.half().contiguous() for key, value in weights.items() if keep(key)}, folder / weights_name, metadata={"format": "pt"})
    golden = {
        "note": "float64 forward of float16 weights",
        "versions": versions(family),
        "texts": TEXTS,
        "ids": ids,
        "features": [[float(f"{value:.9g}") for value in row.tolist()] for row in rows],
        "scale": float(weights["logit_scale"].double().exp().reshape(-1)[0]),
        "bias": float(weights["logit_bias"].double().reshape(-1)[0]) if "logit_bias" in weights else 0.0,
    }
    (HERE / f"{name}-golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{family}: {[len(one) for one in ids]}, length {[round(row.norm().item(), 3) for row in rows]}")



def make_clip():
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    def model_of(activation):
        return CLIPTextModelWithProjection(CLIPTextConfig(**(TEXT | IDS | {"hidden_act": activation}), projection_dim=24))

    model = model_of("quick_gelu")

    def features(model, ids):
        return model(input_ids=ids).text_embeds

    def with_activation(ids):
        other = model_of("gelu")
        other.load_state_dict(model.state_dict())
        return features(other.double().eval(), ids)

    def backwards(ids):
        turned = ids.clone()
        turned[:, 1:-1] = ids[:, 1:-1].flip(1)
        return features(model, turned)

    config = {"model_type": "clip", "projection_dim": 24, "text_config": TEXT | IDS}
    write("clip", "config.json", config, "model.safetensors", model, lambda _: True, features, {"the exact GELU": with_activation, "words turned": backwards}, {"logit_scale": 2.6592})


def make_siglip():
    from transformers import SiglipTextConfig, SiglipTextModel

    siglip = TEXT | {"hidden_act": "gelu_pytorch_tanh", "projection_size": 24}

    def model_of(activation):
        return SiglipTextModel(SiglipTextConfig(**(siglip | IDS | {"hidden_act": activation})))

    model = model_of("gelu_pytorch_tanh")

    def features(model, ids):
        return model(input_ids=ids).pooler_output

    def with_activation(ids):
        other = model_of("gelu")
        other.load_state_dict(model.state_dict())
        return features(other.double().eval(), ids)

    def without_padding(ids):
        kept = ids[ids != PAD][None]
        return features(model, kept)

    config = {"model_type": "siglip", "text_config": siglip | IDS}
    write("siglip", "config.json", config, "model.safetensors", model, lambda _: True, features, {"the exact GELU": with_activation}, {"logit_scale": [4.7], "logit_bias": [-16.5]})
    with torch.no_grad():
        short = torch.tensor([ids_of(tokenizer("siglip"), "siglip", TEXTS[0])])
        assert (features(model, short) - without_padding(short)).abs().max() > 3e-4, "the padding takes no part"


def make_open_clip():
    import open_clip

    def model_of(quick_gelu):
        return open_clip.model.CLIP(**(OPEN_CLIP | {"quick_gelu": quick_gelu}))

    model = model_of(False)

    def features(model, ids):
        # Its tokenizer fills up with zeros behind the end, which no token before sees.
        filled = torch.nn.functional.pad(ids, (0, CONTEXT - ids.shape[1]))
        return model.encode_text(filled)

    def with_activation(ids):
        other = model_of(True)
        other.load_state_dict(model.state_dict())
        return features(other.double().eval(), ids)

    config = {"model_cfg": OPEN_CLIP}
    write("open-clip", "open_clip_config.json", config, "open_clip_model.safetensors", model, lambda name: not name.startswith("visual."), features, {"quick GELU": with_activation}, {"logit_scale": 2.6592})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    families = {"clip": make_clip, "siglip": make_siglip, "open-clip": make_open_clip}
    parser.add_argument("family", choices=families)
    families[parser.parse_args().family]()
