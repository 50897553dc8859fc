"""Builds the bundled data and network, src/otprior/data/assets/fashion-mnist, and their manifest.

    python scripts/build_assets.py --checkpoint DIR   # a diffusers pipeline folder, stored in half precision
    python scripts/build_assets.py --by-class DIR     # the second network, that is good by class
    python scripts/build_assets.py                    # keeps the bundled network; rebuilds images and manifest

Rebuilding from the same sources gives the same pixels and the same splits, and the same bytes with the same liblzma.
Hashes, not a random generator, decide the splits, so that they can be checked in any language: images are ordered by
SHA-256 of "<key>/<index>".

- atoms: the first 1,000 training images of each class in that order, stored by ascending index;
- test images: in that order the first 2,000 are `validation`, then 4,000 `held_out`, 4,000 `reference`.

The classifier folder comes from train_classifier.py and is only listed here. settings.json comes from
choose_settings.py and is not listed, so that it may be written again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fashion_mnist import ASSETS, CLASS_NAMES, DEFAULT_SOURCE, FILES, LabelledImages, read_source
from safetensors.torch import load_file, save

from otprior.utils.files import output_file, sha256, write_json
from otprior_studies.training.export import stored
from otprior_studies.training.splits import in_hash_order

ATOMS_A_CLASS = 1_000
ATOM_KEY, SPLIT_KEY = "otprior-atoms", "otprior-test-split"
SPLITS = {"validation": 2_000, "held_out": 4_000, "reference": 4_000}
UNLISTED = {"manifest.json", "settings.json", "settings-by-class.json", "full_sampler.json"}
RULE = "indices in ascending order of the hexadecimal SHA-256 of the ASCII text '<key>/<index>'"

LICENSE = """\
Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist)

The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction, including
without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the
following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO
EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER
IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR
THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

# What both model cards begin and end with.
CARD_HEAD = """\
---
library_name: diffusers
license: mit
tags: [ddpm, image-generation, fashion-mnist]
---

"""
CARD_END = """\
**Data and rights.** Fashion-MNIST, MIT licence, copyright 2017 Zalando SE (see `LICENSE.fashion-mnist`).
"""

MODEL_CARD = (
    CARD_HEAD
    + """\
# A small class-conditional DDPM of Fashion-MNIST, 28x28

A diffusers `DDPMPipeline` folder: `UNet2DModel`, 28x28x1, channels 32-64-64, two layers a block, attention at
the lowest level, 1,624,577 parameters. Epsilon-prediction, linear betas 1e-4..2e-2, T = 1000, pixels in
[-1, 1]. Eleven class embeddings: 0-9 are the labels of Fashion-MNIST, 10 means no class (20 % of the labels
were dropped in training), so calls must pass `class_labels`.

**Training.** All 60,000 training images, batch 64, 9,000 steps, AdamW with a cosine rate from 1e-3, moving
average 0.9995 of the weights (these), no augmentation; about an hour on two CPU cores.

**Precision.** Tensors of more than 5,000 values are stored in float16; all are meant to be run in float32.
{agreement}

**Use and limits.** A test bed for samplers, small enough to ship. What holds
for it need not hold for larger networks.

"""
    + CARD_END
)

BY_CLASS_CARD = (
    CARD_HEAD
    + """\
# A DDPM of Fashion-MNIST, 28x28, that is good by class

The network of `pipeline`, trained further with labels; all else is as there. Calls must pass `class_labels`: 0-9 are
the labels of Fashion-MNIST, 10 means no class, for which it is worse than that network.

**Training.** From the weights of `pipeline`: all 60,000 training images, batch 64, 6,000 steps, bfloat16, a tenth of
the labels dropped, min-SNR weighting (5), AdamW with a cosine rate from 5e-4, moving average 0.999 of the weights
(these); 79 minutes of one core:

    python scripts/training_images.py --out train.npz
    python scripts/train_network.py train.npz --begin bundled --weighting min-snr --rate 5e-4 --label-drop 0.1 \\
        --decay 0.999 --precision bfloat16 --steps 6000 --out by-class

**Precision.** Tensors of more than 5,000 values are stored in float16; all are meant to be run in float32.

**Use and limits.** As for `pipeline`: a test bed for samplers. docs/results.md has its figures.

"""
    + CARD_END
)


def choose(data: dict[str, LabelledImages]) -> dict[str, tuple[LabelledImages, np.ndarray]]:
    """For the name of each image file, the images that it is taken from and the indices there."""
    train, test = data["train"], data["test"]
    atoms = np.sort(
        np.concatenate(
            [
                in_hash_order(ATOM_KEY, np.flatnonzero(train.labels == label))[:ATOMS_A_CLASS]
                for label in range(len(CLASS_NAMES))
            ]
        )
    )
    order = in_hash_order(SPLIT_KEY, np.arange(len(test.images)))
    ends = np.cumsum(list(SPLITS.values()))
    chosen = {"atoms": (train, atoms)}
    for name, part in zip(SPLITS, np.split(order, ends[:-1]), strict=True):
        chosen[name] = (test, part)
    return chosen


def write_images(folder: Path, part: LabelledImages, indices: np.ndarray, name: str) -> dict[str, Any]:
    """Writes `<name>.npz` and returns its record for the manifest."""
    images, labels = part.images[indices], part.labels[indices]
    arrays = {"images": images, "labels": labels, "indices": indices.astype(np.int32)}
    # (LZMA is a seventh smaller than what numpy writes, which leaves room for a second network.)
    with output_file(folder / f"{name}.npz") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for key, values in arrays.items():
            content = io.BytesIO()
            np.save(content, values)
            # Dated 1980-01-01, so that equal arrays give equal bytes.
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), content.getvalue(), zipfile.ZIP_LZMA)
    return {"n": len(images), "pixels_sha256": hashlib.sha256(images.tobytes()).hexdigest()}


def copy_pipeline(checkpoint: Path, folder: Path, card: str) -> None:
    """Copies a diffusers folder with its large tensors rounded to float16, and adds a model card."""
    for name in ("model_index.json", "scheduler/scheduler_config.json", "unet/config.json"):
        config = json.loads((checkpoint / name).read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a path on the machine that trained it
        write_json(folder / name, config)
    weights = load_file(checkpoint / "unet" / "diffusion_pytorch_model.safetensors")
    half = {key: stored(value).contiguous() for key, value in weights.items()}
    with output_file(folder / "unet" / "diffusion_pytorch_model.safetensors") as temporary:
        temporary.write_bytes(save(half, metadata={"format": "pt"}))
    with output_file(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")


def compare_samples(checkpoint: Path, seeds: int) -> str:
    """How far 10-step DDIM samples move when the weights are rounded (and run in float32)."""
    from diffusers import DDIMScheduler, UNet2DModel

    exact = UNet2DModel.from_pretrained(checkpoint / "unet", local_files_only=True).eval()
    halved = UNet2DModel.from_pretrained(checkpoint / "unet", local_files_only=True).eval()
    halved.load_state_dict({key: stored(value) for key, value in halved.state_dict().items()})
    noise = torch.stack(
        [torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(seed)) for seed in range(seeds)]
    )
    labels = torch.full((seeds,), 10)
    samples = []
    for network in (exact, halved):
        scheduler = DDIMScheduler.from_pretrained(checkpoint / "scheduler", timestep_spacing="trailing")
        scheduler.set_timesteps(10)
        x = noise
        with torch.no_grad():
            for t in scheduler.timesteps:
                x = scheduler.step(network(x, t, class_labels=labels).sample, t, x).prev_sample
        samples.append(x.double())
    error = samples[0] - samples[1]
    return (
        f"10-step DDIM samples of {seeds} seeds, with the weights as stored and in full precision, differ by "
        f"{float(error.square().mean().sqrt()):.1e} (root mean square) and at most "
        f"{float(error.abs().max()):.1e} on the scale [-1, 1]; one grey level is 7.8e-3."
    )


def manifest(folder: Path, source: Path, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The manifest that `otprior.data.bundled` verifies: sources, rule of the splits, size and digest of each file."""
    listed = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).as_posix() not in UNLISTED
    )
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "size": path.stat().st_size}
        for path in listed
    }
    return {
        "format_version": 1,
        "name": "fashion-mnist",
        "class_names": list(CLASS_NAMES),
        "null_class_label": 10,
        "sources": {
            "dataset": "Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist",
            "package": "Debian dataset-fashion-mnist",
            "licence": "MIT",
            "copyright": "2017 Zalando SE",
            "sha256": {name: sha256(source / name) for names in FILES.values() for name in names},
        },
        "splits": {
            "rule": RULE,
            "atoms": {
                "of": "train",
                "key": ATOM_KEY,
                "take": f"the first {ATOMS_A_CLASS} of each class, then sorted by index",
                **records["atoms"],
            },
            **{
                name: {"of": "test", "key": SPLIT_KEY, "start": start, **records[name]}
                for name, start in zip(SPLITS, np.cumsum([0, *SPLITS.values()]).tolist())
            },
        },
        "files": files,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=DEFAULT_SOURCE, help="folder of the four IDX files")
    parser.add_argument(
        "--checkpoint", type=Path, help="diffusers folder to bundle; default: keep the present one"
    )
    parser.add_argument(
        "--by-class", type=Path, help="that of the second network; default: keep the present one"
    )
    parser.add_argument(
        "--classifier", type=Path, help="classifier folder to bundle; default: keep the present one"
    )
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--check-seeds", type=int, default=64, help="samples compared between precisions")
    arguments = parser.parse_args()

    data = read_source(arguments.source)
    arguments.out.mkdir(parents=True, exist_ok=True)
    records = {
        name: write_images(arguments.out, part, indices, name)
        for name, (part, indices) in choose(data).items()
    }
    if arguments.checkpoint:
        agreement = compare_samples(arguments.checkpoint, arguments.check_seeds)
        print(agreement)
        copy_pipeline(
            arguments.checkpoint, arguments.out / "pipeline", MODEL_CARD.format(agreement=agreement)
        )
    if arguments.by_class:
        copy_pipeline(arguments.by_class, arguments.out / "pipeline-by-class", BY_CLASS_CARD)
    if arguments.classifier:
        shutil.copytree(arguments.classifier, arguments.out / "classifier", dirs_exist_ok=True)
    with output_file(arguments.out / "LICENSE.fashion-mnist") as temporary:
        temporary.write_text(LICENSE, encoding="utf-8")
    content = manifest(arguments.out, arguments.source, records)
    write_json(arguments.out / "manifest.json", content)
    for name, record in content["files"].items():
        print(f"{record['size']:>10,}  {name}")
    print(f"{sum(record['size'] for record in content['files'].values()):>10,}  together")


if __name__ == "__main__":
    main()
