"""Writes images/NAME.TREATMENT.rgb: what Pillow makes of images that are made worse, in the form of the other `.rgb` files.

    python3 treatments_reference.py
"""
import os
import struct

from PIL import Image, ImageFilter

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "images")


def smaller(image, by):
    small = image.resize((max(image.width // by, 1), max(image.height // by, 1)), Image.BILINEAR)
    return small.resize(image.size, Image.BILINEAR)


TREATMENTS = {
    "blur_r5": lambda image: image.filter(ImageFilter.GaussianBlur(radius=5)),
    "blur_r15": lambda image: image.filter(ImageFilter.GaussianBlur(radius=15)),
    "downsample_4x": lambda image: smaller(image, 4),
    "downsample_8x": lambda image: smaller(image, 8),
}
for name in ["rgb.png", "one.png", "large.png"]:
    with Image.open(os.path.join(HERE, name)) as image:
        image = image.convert("RGB")
    for treatment, of in TREATMENTS.items():
        treated = of(image)
        with open(os.path.join(HERE, f"{name}.{treatment}.rgb"), "wb") as out:
            out.write(struct.pack("<II", *treated.size) + treated.tobytes())
