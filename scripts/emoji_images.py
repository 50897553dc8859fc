"""Writes colour images with classes: Google's emoji at 32 x 32, from npm's package emoji-datasource-google.

    npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz
    python scripts/emoji_images.py package --out emoji
    python scripts/train_classifier.py emoji/train.npz --out emoji-classifier

The images are of Noto Emoji (Apache License 2.0; the package itself: MIT). They lie over white. A class is a category
of Unicode's. An emoji and its skin tones are in one of the two files, since tones are near copies of each other: one
base emoji in five is held out, by the hash of its name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from otprior.utils.arrays import write_arrays

SIDE = 32
# (Unicode's "Component" has five images: skin tones and hair, which are no pictures.)
LEFT_OUT = "Component"
HELD_OUT = 5  # one base emoji in so many


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path, help="the unpacked package")
    parser.add_argument(
        "--out", type=Path, default=Path("emoji"), help="folder of train.npz and held_out.npz"
    )
    args = parser.parse_args()
    entries = json.loads((args.package / "emoji.json").read_text(encoding="utf-8"))
    names = sorted({entry["category"] for entry in entries} - {LEFT_OUT})
    parts: dict[str, list[tuple[np.ndarray, int]]] = {"train": [], "held_out": []}
    for entry in entries:
        if entry["category"] == LEFT_OUT:
            continue
        digest = hashlib.sha256(entry["name"].encode()).digest()
        part = "held_out" if digest[0] % HELD_OUT == 0 else "train"
        for picture in pictures(args.package / "img" / "google" / "64", entry):
            parts[part].append((picture, names.index(entry["category"])))
    args.out.mkdir(parents=True, exist_ok=True)
    for part, found in parts.items():
        images, labels = (np.stack([np.asarray(pair[k]) for pair in found]) for k in (0, 1))
        order = np.random.default_rng(0).permutation(len(images))
        arrays = {"images": images[order], "labels": labels[order], "class_names": np.array(names)}
        write_arrays(args.out / f"{part}.npz", arrays, compressed=True)
        print(f"{len(images):,} images in {args.out / part}.npz")


def pictures(folder: Path, entry: dict[str, Any]) -> Iterator[np.ndarray]:
    """An emoji and its skin tones, each (3, 32, 32), uint8."""
    for each in [entry, *entry.get("skin_variations", {}).values()]:
        path = folder / each["image"]
        if each["has_img_google"] and path.is_file():
            with Image.open(path) as image:
                rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            small = (
                Image.alpha_composite(white, rgba).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
            )
            yield np.asarray(small).transpose(2, 0, 1)


if __name__ == "__main__":
    main()
