"""Features of `haul vision mc` beside those of transformers and open_clip, at full size with random weights.

    python3 features.py --haul HAUL --images FOLDER --work DIR [--only clip-b32,siglip2-b16,...] [--num-images 8]

Each checkpoint is made once in DIR with weights from a fixed seed, in the layout of its library, with what the library itself
does to images. Printed are the lowest cosine over the images, in f32, and the largest difference. Needs torch, transformers, open_clip_torch, safetensors, numpy and Pillow up to 12.
"""
import argparse
import json
import os
import subprocess
import tempfile

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

CLIP_COLOURS = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF_COLOURS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
RESCALE = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}


def transformers_clip(folder):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=224, patch_size=32, projection_dim=512)
    model = CLIPVisionModelWithProjection(config)
    preprocess = RESCALE | CLIP_COLOURS | {"size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    save(folder, model, {"model_type": "clip", "projection_dim": 512, "vision_config": {"patch_size": 32}}, preprocess)
    return lambda pixels: model.eval()(pixel_values=pixels).image_embeds, "clip"


def transformers_siglip(folder):
    return siglip(folder, {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224, "patch_size": 16})


def transformers_so400m(folder):
    """The shape of so400m at 384 pixels; three of its 27 blocks, which are alike."""
    return siglip(folder, {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 3, "num_attention_heads": 16, "image_size": 384, "patch_size": 14})


def siglip(folder, sizes):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    model = SiglipVisionModel(SiglipVisionConfig(**sizes))
    side = sizes["image_size"]
    preprocess = RESCALE | HALF_COLOURS | {"size": {"height": side, "width": side}, "resample": 2}
    save(folder, model, {"model_type": "siglip", "vision_config": sizes}, preprocess)
    return lambda pixels: model.eval()(pixel_values=pixels).pooler_output, "siglip"


def save(folder, model, config, preprocess):
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    if not any(name.startswith("vision_model.") for name in tensors):
        tensors = {f"vision_model.{name}": tensor for name, tensor in tensors.items()}
    save_file(tensors, os.path.join(folder, "model.safetensors"))
    for name, document in [("config.json", config), ("preprocessor_config.json", preprocess)]:
        with open(os.path.join(folder, name), "w") as file:
            json.dump(document, file)


def open_clip_tower(name, preprocess):
    def make(folder):
        import open_clip

        model = open_clip.create_model(name)
        tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items() if key.startswith("visual.")}
        save_file(tensors, os.path.join(folder, "open_clip_model.safetensors"))
        config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": preprocess}
        with open(os.path.join(folder, "open_clip_config.json"), "w") as file:
            json.dump(config, file)
        return lambda pixels: model.eval().encode_image(pixels), preprocess

    return make


CHECKPOINTS = {
    "clip-b32": transformers_clip,
    "siglip2-b16": transformers_siglip,
    "so400m-shape": transformers_so400m,
    "open-clip-b32": open_clip_tower("ViT-B-32", {"mean": CLIP_COLOURS["image_mean"], "std": CLIP_COLOURS["image_std"]}),
    "open-clip-siglip2-b16": open_clip_tower("ViT-B-16-SigLIP2", {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}),
}


def pixels_of(kind, folder, paths):
    """As the library itself prepares images."""
    images = [Image.open(path).convert("RGB") for path in paths]
    if isinstance(kind, dict):
        from open_clip.transform import PreprocessCfg, image_transform_v2

        with open(os.path.join(folder, "open_clip_config.json")) as file:
            side = json.load(file)["model_cfg"]["vision_cfg"]["image_size"]
        transform = image_transform_v2(PreprocessCfg(size=side, **{key: tuple(value) if isinstance(value, list) else value for key, value in kind.items()}), is_train=False)
        return torch.stack([transform(image) for image in images])
    import transformers

    processor = {"clip": "CLIPImageProcessorPil", "siglip": "SiglipImageProcessorPil"}[kind]
    return getattr(transformers, processor).from_pretrained(folder)(images=images, return_tensors="pt")["pixel_values"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--haul", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--only", default=",".join(CHECKPOINTS))
    parser.add_argument("--num-images", type=int, default=8)
    args = parser.parse_args()
    for name in args.only.split(","):
        folder = os.path.join(args.work, name)
        os.makedirs(folder, exist_ok=True)
        torch.manual_seed(0)
        features, kind = CHECKPOINTS[name](folder)
        out = tempfile.mkdtemp(dir=args.work)
        command = [args.haul, "vision", "mc", args.images, "--model", folder, "--out", out, "--trials", "1", "--passes", "2"]
        command += ["--num-images", str(args.num_images), "--dtype", "f32", "--sites", "late-1", "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = np.load(os.path.join(out, "mc.npz"))
        with torch.no_grad():
            wanted = features(pixels_of(kind, folder, found["paths"])).double().numpy()
        ours = found["features"].astype(np.float64)
        cosines = (ours * wanted).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(wanted, axis=1)
        apart = np.abs(ours - wanted).max() / np.abs(wanted).max()
        print(f"{name:24} {len(cosines)} images, {wanted.shape[1]} numbers: cosine >= {cosines.min():.9f}, apart {apart:.1e} of the largest", flush=True)


if __name__ == "__main__":
    main()
