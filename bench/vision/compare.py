"""Speed of `haul vision mc` beside PyTorch with dropout behind every Linear, on the same weights and images, in turns.

    python3 compare.py --haul HAUL --model DIR --images FOLDER [--rounds 3]

DIR is a CLIP checkpoint of transformers, FOLDER has 64 images or more. Printed are image passes per second, a whole job with
its decoding (64 images, 8 passes) beside the study's loop, which decodes anew for each pass, and ratios of medians over the
rounds. Needs torch, transformers and Pillow; ztest.py has the layers. On a machine that does something else, only ratios of
rounds that lie close together mean anything.
"""
import argparse
import glob
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

import torch
from PIL import Image
from transformers import AutoConfig, CLIPImageProcessorPil, CLIPVisionModelWithProjection

from ztest import wrap

LOOP = "the study's loop f32, s"
BATCH, JOB_IMAGES, JOB_PASSES = 32, 64, 8
# So many that the passes by which every site is tried once, 73 at all sites of a ViT-B, do not count.
RATE_IMAGES, RATE_PASSES = 8, 256


class Haul:
    def __init__(self, args):
        self.args, self.home = args, tempfile.mkdtemp()
        # Roofs are measured once a machine.
        self.run("f32", "uniform", 1, 2)

    def run(self, dtype, sites, images, passes):
        """Seconds from the command to its end, and passes per second with the model."""
        out = tempfile.mkdtemp()
        shutil.rmtree(os.path.join(self.home, "cache", "pixels"), ignore_errors=True)
        command = [self.args.haul, "vision", "mc", self.args.images, "--model", self.args.model, "--out", out, "--trials", "1",
                   "--passes", str(passes), "--num-images", str(images), "--dtype", dtype, "--sites", sites, "--json",
                   "--quiet"]
        started = time.time()
        receipt = subprocess.run(command, env={**os.environ, "HAUL_HOME": self.home}, capture_output=True, check=True).stdout
        seconds = time.time() - started
        shutil.rmtree(out)
        return seconds, json.loads(receipt)["rate"]["items_per_s"]


class Torch:
    def __init__(self, args):
        config = AutoConfig.from_pretrained(args.model)
        config.vision_config.projection_dim = config.projection_dim
        self.models = {}
        for name, dtype in [("f32", torch.float32), ("bf16", torch.bfloat16)]:
            model = CLIPVisionModelWithProjection.from_pretrained(args.model, config=config.vision_config, dtype=dtype).eval()
            wrap(model.vision_model.encoder if hasattr(model, "vision_model") else model.encoder, 0.01)
            self.models[name] = model
        self.side = config.vision_config.image_size
        self.processor = CLIPImageProcessorPil.from_pretrained(args.model)
        self.files = sorted(path for path in glob.glob(os.path.join(args.images, "**"), recursive=True) if os.path.isfile(path))

    def rate(self, dtype, batches=4):
        model = self.models[dtype]
        pixels = torch.randn(BATCH, 3, self.side, self.side, dtype=next(model.parameters()).dtype)
        model(pixel_values=pixels[:4])
        started = time.time()
        for _ in range(batches):
            model(pixel_values=pixels)
        return batches * BATCH / (time.time() - started)

    def job(self):
        started = time.time()
        for _ in range(JOB_PASSES):
            for start in range(0, JOB_IMAGES, BATCH):
                images = [Image.open(path).convert("RGB") for path in self.files[start : start + BATCH]]
                self.models["f32"](**self.processor(images=images, return_tensors="pt"))
        return time.time() - started


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--haul", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    haul, peer, found = Haul(args), Torch(args), {}
    for _ in range(args.rounds):
        with torch.no_grad():
            for dtype in ["f32", "bf16"]:
                found.setdefault(f"PyTorch {dtype}", []).append(peer.rate(dtype))
            found.setdefault(LOOP, []).append(peer.job())
        for dtype, sites in [("f32", "uniform"), ("bf16", "uniform"), ("bf16", "late-3")]:
            found.setdefault(f"haul {dtype} {sites}", []).append(haul.run(dtype, sites, RATE_IMAGES, RATE_PASSES)[1])
            seconds = haul.run(dtype, sites, JOB_IMAGES, JOB_PASSES)[0]
            found.setdefault(f"haul's job {dtype} {sites}, s", []).append(seconds)
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        print(f"{name:28} {medians[name]:9.2f}   {min(values):.2f} to {max(values):.2f}")
    for ours, theirs in [("haul f32 uniform", "PyTorch f32"), ("haul bf16 uniform", "PyTorch bf16"),
                         ("haul bf16 late-3", "haul bf16 uniform")]:
        print(f"{ours} / {theirs}: {medians[ours] / medians[theirs]:.2f}")
    for job in ["haul's job f32 uniform, s", "haul's job bf16 uniform, s", "haul's job bf16 late-3, s"]:
        ratio = medians[LOOP] / medians[job]
        print(f"{job.split(',')[0]}: {ratio:.2f} times the study's loop")
    shutil.rmtree(haul.home)


main()
