"""Writes images/: small images of every mode, and beside each `NAME.rgb`, what Pillow makes of it; resized.json, what its
resize and crop make of one. Pillow up to 12, which resizes rows first; numpy.

    python3 images_reference.py
"""
import hashlib
import json
import os
import struct
import zlib

import numpy as np
import PIL
from PIL import Image

# Pillow 13 resizes columns first where that is less work, and rounds differently then.
assert int(PIL.__version__.split(".")[0]) <= 12, PIL.__version__
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "images")
rng = np.random.default_rng(3)
y, x = np.mgrid[0:18, 0:26]
smooth = np.stack([x * 9, y * 13, (x + y) * 5], -1).astype(np.uint8)
noisy = np.clip(smooth.astype(int) + rng.integers(-40, 40, smooth.shape), 0, 255).astype(np.uint8)
rgb = Image.fromarray(noisy)


def keep(name, save):
    path = os.path.join(HERE, name)
    save(path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    with open(path + ".rgb", "wb") as out:
        out.write(struct.pack("<II", pixels.shape[1], pixels.shape[0]) + pixels.tobytes())


def png(path, width, height, depth, kind, rows, extra=b""):
    """For modes that Pillow does not write."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    with open(path, "wb") as out:
        out.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def packed(depth):
    values = rng.integers(0, 2**depth, (18, 26))
    bits = ((values[..., None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8).reshape(18, -1)
    return [np.packbits(row).tobytes() for row in bits]


os.makedirs(HERE, exist_ok=True)
keep("rgb.png", rgb.save)
keep("one.png", Image.new("RGB", (1, 1), (200, 100, 50)).save)
alpha = rgb.copy()
alpha.putalpha(Image.fromarray(rng.integers(0, 255, (18, 26)).astype(np.uint8)))
keep("rgba.png", alpha.save)
grey = rgb.convert("L")
keep("grey.png", grey.save)
keep("grey_alpha.png", alpha.convert("LA").save)
keep("palette.png", rgb.quantize(50).save)
keep("palette_transparent.png", lambda p: rgb.quantize(16).save(p, transparency=3))
keep("one_bit.png", rgb.convert("1").save)
for depth in (2, 4):
    keep(f"grey{depth}.png", lambda p: png(p, 26, 18, depth, 0, packed(depth)))
wide = [rng.integers(0, 2**16, 26 * 3).astype(">u2").tobytes() for _ in range(18)]
keep("rgb16.png", lambda p: png(p, 26, 18, 16, 2, wide))
grey16 = [(rng.integers(0, 2**16, 26) >> rng.integers(0, 12, 26)).astype(">u2").tobytes() for _ in range(18)]
keep("grey16.png", lambda p: png(p, 26, 18, 16, 0, grey16))
keep("grey_alpha16.png", lambda p: png(p, 26, 18, 16, 4, [row[:26 * 4] for row in wide]))
keep("rgba16.png", lambda p: png(p, 26, 18, 16, 6, [row + row[:52] for row in wide]))
keep("animated.png", lambda p: rgb.save(p, save_all=True, append_images=[rgb.rotate(180)]))
keep("rgb.bmp", rgb.save)
keep("palette.bmp", rgb.quantize(50).save)
keep("one_bit.bmp", rgb.convert("1").save)
keep("rgba.bmp", alpha.save)
keep("lossless.webp", lambda p: rgb.save(p, lossless=True))
keep("lossy.webp", lambda p: rgb.save(p, quality=80))
keep("alpha.webp", lambda p: alpha.save(p, lossless=True, exact=True))
keep("animated.webp", lambda p: rgb.save(p, save_all=True, append_images=[rgb.rotate(180)], lossless=True))
photo = Image.fromarray(np.asarray(rgb.resize((90, 70), Image.Resampling.BICUBIC)))
for sampling in (0, 1, 2):
    keep(f"sampling{sampling}.jpg", lambda p: photo.save(p, quality=90, subsampling=sampling))
keep("progressive.jpg", lambda p: photo.save(p, quality=85, progressive=True))
keep("grey.jpg", lambda p: photo.convert("L").save(p, quality=90))
keep("cmyk.jpg", lambda p: photo.convert("CMYK").save(p, quality=95))
exif = Image.Exif()
exif[0x0112] = 6
keep("rotated.jpg", lambda p: photo.save(p, quality=90, exif=exif))

# Soft shapes with some grain, as photographs have them, at a size that a camera or a data set has.
y, x = np.mgrid[0:187, 0:250]
scene = np.stack([128 + 90 * np.sin(x / 17 + k) * np.cos(y / (11 + 4 * k)) for k in range(3)], -1)
scene = np.clip(scene + rng.normal(0, 6, scene.shape), 0, 255).astype(np.uint8)
for sampling in (0, 2):
    path = os.path.join(HERE, f"scene{sampling}.jpg")
    Image.fromarray(scene).save(path, quality=85, subsampling=sampling)
    with Image.open(path) as image, open(path + ".clip96", "wb") as out:
        resized = image.convert("RGB").resize((int(96 * 250 / 187), 96), Image.Resampling.BICUBIC)
        left = (resized.size[0] - 96) // 2
        out.write(resized.crop((left, 0, left + 96, 96)).tobytes())

# Sizes that no block fits, restarts, and what a strong quantisation leaves.
odd = Image.fromarray(scene[:19, :33])
keep("odd.jpg", lambda p: odd.save(p, quality=90, subsampling=2))
keep("odd_rows.jpg", lambda p: odd.resize((1, 7)).save(p, quality=90, subsampling=1))
keep("restarts.jpg", lambda p: odd.save(p, quality=60, subsampling=2, restart_marker_rows=1))
keep("coarse.jpg", lambda p: odd.save(p, quality=10, progressive=True))
# Refused: the first ink is stored larger than the last.
odd.convert("CMYK").save(os.path.join(HERE, "inks.jpg"), quality=90, subsampling=2)

made = []
sources = {"rgb.png": rgb}
large = Image.fromarray(rng.integers(0, 255, (61, 97, 3)).astype(np.uint8))
large.save(os.path.join(HERE, "large.png"))
sources["large.png"] = large
filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
for name, image in sources.items():
    for filter_name, f in filters.items():
        for size in [(7, 5), (26, 40), (97, 61), (224, 224), (33, 61), (1, 1), (300, 9)]:
            out = image.resize(size, f)
            left, top = size[0] // 3, size[1] // 4
            crop = out.crop((left, top, left + max(size[0] // 2, 1), top + max(size[1] // 2, 1)))
            made.append({"image": name, "filter": filter_name, "full": size,
                         "sha256": hashlib.sha256(out.tobytes()).hexdigest(), "at": [left, top], "size": crop.size,
                         "crop_sha256": hashlib.sha256(crop.tobytes()).hexdigest()})


def numbers(pixels, mean, std):
    return ((pixels.astype(np.float32) / np.float32(255) - np.float32(mean)) / np.float32(std)).sum(dtype=np.float64)


def cropped(image, edge, start):
    """CLIP: the shorter side to `edge`, then the middle."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    full = (edge, int(edge * long / short)) if width <= height else (int(edge * long / short), edge)
    out = image.resize(full, Image.Resampling.BICUBIC)
    left, top = start(full[0] - edge), start(full[1] - edge)
    return out.crop((left, top, left + edge, top + edge))


processed = []
for width, height in [(97, 61), (61, 97), (30, 30), (53, 41), (41, 54), (55, 41)]:
    image = large.resize((width, height), Image.Resampling.NEAREST)
    image.save(os.path.join(HERE, f"clip{width}x{height}.png"))
    for edge in (32, 48):
        for kind, start in (("down", lambda left: left // 2), ("even", lambda left: int(round(left / 2.0)))):
            out = cropped(image, edge, start)
            processed.append({"image": f"clip{width}x{height}.png", "edge": edge, "kind": kind,
                              "sha256": hashlib.sha256(out.tobytes()).hexdigest(),
                              "sum": float(numbers(np.asarray(out), [0.48145466, 0.4578275, 0.40821073],
                                                   [0.26862954, 0.26130258, 0.27577711]))})
with open(os.path.join(HERE, "resized.json"), "w") as out:
    json.dump({"resized": made, "processed": processed}, out, indent=0)
