"""Dropout statistics of `haul vision mc` against PyTorch's: transformers' own layers with dropout behind every Linear.

    haul vision mc IMAGES --model DIR --out OUT --sites uniform --trials 1 --passes 256 --save-passes --dtype f32
    python3 ztest.py DIR OUT [--dropout 0.01]

Masks differ, so numbers agree within the error of so many passes and no better: for each image, z is the difference of
the two traces over its standard error (by leaving out a pass at a time). Where nothing but chance differs, z has mean 0
and mean square 1. Features without dropout are compared as well. Needs torch, transformers, numpy and Pillow up to 12.
"""
import argparse
import glob
import json
import os
import time

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, CLIPImageProcessorPil, CLIPVisionModelWithProjection, SiglipVisionModel


class Dropped(torch.nn.Module):
    def __init__(self, linear, p):
        super().__init__()
        self.linear, self.p = linear, p

    def forward(self, x):
        return torch.nn.functional.dropout(self.linear(x), self.p, training=True)


def wrap(module, p):
    """Behind every Linear of the blocks; not behind the projection, which the study leaves alone."""
    count = 0
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear):
            setattr(module, name, Dropped(child, p))
            count += 1
        else:
            count += wrap(child, p)
    return count


def features(model, pixels):
    out = model(pixel_values=pixels)
    return out.image_embeds if hasattr(out, "image_embeds") else out.pooler_output


def trace(passes):
    """Of [T, D]: the unbiased trace and its error by the jackknife."""
    squares = ((passes - passes.mean(0)) ** 2).mean(1)
    t = len(squares)
    without = (squares.sum() - squares * t / (t - 1)) / (t - 2)
    return squares.sum() / (t - 1), np.sqrt((t - 1) * without.var())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--dropout", type=float, default=0.01)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(2)
    is_clip = json.load(open(os.path.join(args.model, "config.json")))["model_type"].startswith("clip")
    kind = CLIPVisionModelWithProjection if is_clip else SiglipVisionModel
    config = AutoConfig.from_pretrained(args.model)
    if is_clip and hasattr(config, "vision_config"):
        # The size of the projection stands outside of the tower.
        config.vision_config.projection_dim = config.projection_dim
    config = getattr(config, "vision_config", config)
    model = kind.from_pretrained(args.model, config=config, attn_implementation="eager").eval()
    processor = CLIPImageProcessorPil.from_pretrained(args.model)
    found = np.load(os.path.join(args.out, "mc.npz"))
    ours = np.load(glob.glob(os.path.join(args.out, "features", "trial0_*.npz"))[0])["pass_pre"].astype(np.float64)
    count = len(ours)
    images = [Image.open(path).convert("RGB") for path in found["paths"]]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        still = features(model, pixels).numpy().astype(np.float64)
        near = (still * found["features"]).sum(1)
        near /= np.linalg.norm(still, axis=1) * np.linalg.norm(found["features"], axis=1)
        print(f"without dropout: cosine at least {near.min():.7f}, {len(images)} images")
        tower = model.vision_model.encoder if hasattr(model, "vision_model") else model.encoder
        sites = wrap(tower, args.dropout)
        started, z = time.time(), []
        for no in range(len(images)):
            one, rows = pixels[no : no + 1].expand(args.batch, -1, -1, -1), []
            while len(rows) * args.batch < count:
                rows.append(features(model, one).numpy().astype(np.float64))
            theirs, error = trace(np.concatenate(rows)[:count])
            mine, my_error = trace(ours[:, no])
            z.append((mine - theirs) / np.hypot(error, my_error))
            # A run of more than half an hour on two cores leaves what it had when it is stopped.
            if len(z) % 8 == 0:
                so_far = np.array(z)
                print(f"{len(z)} images: mean z {so_far.mean():+.3f}, mean square {np.mean(so_far**2):.3f}", flush=True)
    z, seconds = np.array(z), time.time() - started
    print(f"{sites} layers wrapped, {count} passes an image, {len(images) * count / seconds:.1f} passes/s of PyTorch")
    print(f"z of trace_pre: mean {z.mean():+.3f} (error {1 / np.sqrt(len(z)):.3f}), mean square {np.mean(z * z):.3f}, "
          f"largest {np.abs(z).max():.2f}")


if __name__ == "__main__":
    main()
