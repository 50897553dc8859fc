"""Writes all 60,000 training images of Fashion-MNIST to one file, for studies with more atoms than are bundled.

python scripts/training_images.py --out train.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from fashion_mnist import DEFAULT_SOURCE, read_source

from otprior.utils.files import output_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=DEFAULT_SOURCE, help="folder of the four IDX files")
    parser.add_argument("--out", type=Path, default=Path("train.npz"))
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the images' order; the first N images are a random sample",
    )
    args = parser.parse_args()
    train = read_source(args.source)["train"]
    order = np.random.default_rng(args.seed).permutation(len(train.images))
    with output_file(args.out) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, images=train.images[order], labels=train.labels[order])
    print(f"{args.out}: {len(order):,} images")


if __name__ == "__main__":
    main()
