"""The bundled default: a small diffusion network of Fashion-MNIST, images to fit to and to judge by.

A second network, `by_class_path`, is the first trained further with labels: the first is weak, that one good by class.

| name | images | network and classifier saw them | role |
|---|---|---|---|
| atoms | 10,000 training images, 1,000 a class | yes | what priors are fitted to |
| validation | 2,000 test images | no | settings are chosen on it |
| held_out | 4,000 test images | no | the floor: what real images score |
| reference | 4,000 test images | no | what every set is finally compared with |

Every file is checked against the SHA-256 of the manifest when it is first used in a process, so a figure
can be traced to its data. `settings.json`, `settings-by-class.json` and `full_sampler.json` are the exceptions: they
are results.

Each function takes `root`, a folder built by scripts/build_assets.py, in place of the packaged one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from otprior.data.images import ImageSet, to_pixels
from otprior.metrics.features import FeatureExtractor, load_classifier
from otprior.utils.files import read_json, sha256
from otprior.utils.validation import check_choice

if TYPE_CHECKING:
    from diffusers import DDPMPipeline, DDPMScheduler

ROOT = Path(__file__).parent / "assets" / "fashion-mnist"
SPLITS = ("validation", "held_out", "reference")
FORMAT_VERSION = 1


@cache
def manifest(root: Path = ROOT) -> dict[str, Any]:
    """Sources, splits, and size and SHA-256 of each file.

    Raises:
        FileNotFoundError: If the folder has no manifest.
        ValueError: If it is not valid JSON or of another format version.
    """
    path = root / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; reinstall otprior, or run scripts/build_assets.py")
    content = read_json(path)
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version must be {FORMAT_VERSION}; got {content.get('format_version')}"
        )
    return content


@cache
def _verified(name: str, root: Path) -> Path:
    """The path of a listed file, after its bytes were compared with the manifest."""
    record = manifest(root)["files"][name]
    path = root / name
    remedy = "reinstall otprior, or run scripts/build_assets.py"
    if not path.is_file():
        raise FileNotFoundError(f"bundled file {path} is missing; {remedy}")
    if path.stat().st_size != record["size"] or sha256(path) != record["sha256"]:
        raise ValueError(f"bundled file {path} is not the one its manifest lists; {remedy}")
    return path


def _verified_folder(name: str, root: Path) -> Path:
    for file in manifest(root)["files"]:
        if file.startswith(f"{name}/"):
            _verified(file, root)
    return root / name


def verify(root: Path = ROOT) -> list[str]:
    """Checks every file of the manifest, afresh, and returns their names.

    Raises:
        FileNotFoundError, ValueError: At the first file that is missing or differs; the message names it.
    """
    manifest.cache_clear()
    _verified.cache_clear()
    names = list(manifest(root)["files"])
    for name in names:
        _verified(name, root)
    return names


def class_names(root: Path = ROOT) -> tuple[str, ...]:
    """Names of the labels 0, 1, ..."""
    return tuple(manifest(root)["class_names"])


def null_class_label(root: Path = ROOT) -> int:
    """The label that tells the network "no class"."""
    return int(manifest(root)["null_class_label"])


def pipeline_path(root: Path = ROOT) -> Path:
    """The network's folder, in diffusers layout, verified."""
    return _verified_folder("pipeline", root)


def by_class_path(root: Path = ROOT) -> Path:
    """The folder of the network that is good by class, verified; it names its own label for no class."""
    return _verified_folder("pipeline-by-class", root)


# By the names that stand for them wherever a folder or "owner/name" of a model is asked for.
NETWORKS = {"bundled": pipeline_path, "bundled-by-class": by_class_path}


def load_pipeline(root: Path = ROOT) -> DDPMPipeline:
    """The network and its scheduler as a diffusers pipeline, in float32, from disk alone."""
    from diffusers import DDPMPipeline

    return DDPMPipeline.from_pretrained(pipeline_path(root), dtype=torch.float32, local_files_only=True)


def load_scheduler(root: Path = ROOT) -> DDPMScheduler:
    """The network's own scheduler, which says what noise schedule it was trained on."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_pretrained(pipeline_path(root) / "scheduler", local_files_only=True)


def _images(name: str, root: Path) -> ImageSet:
    with np.load(_verified(f"{name}.npz", root), allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    sources = manifest(root)["sources"]
    return ImageSet(
        images=to_pixels(images[:, None]),
        labels=torch.from_numpy(labels.astype(np.int64)),
        name=f"{manifest(root)['name']}/{name}",
        source=sources["dataset"],
        license=f"{sources['licence']}, copyright {sources['copyright']}",
        class_names=class_names(root),
    )


def atoms(root: Path = ROOT) -> ImageSet:
    """10,000 training images (10000, 1, 28, 28), 1,000 a class."""
    return _images("atoms", root)


def split(name: str, root: Path = ROOT) -> ImageSet:
    """One of the three disjoint parts of the test images: "validation", "held_out" or "reference"."""
    check_choice("split", name, SPLITS)
    return _images(name, root)


def extractor(root: Path = ROOT) -> FeatureExtractor:
    """The classifier whose penultimate layer gives the features."""
    return load_classifier(_verified_folder("classifier", root))


@dataclass(frozen=True)
class FullSampler:
    """What the network gives when it is given time: figures and classes, computed once.

    Attributes:
        row: Its row of a report.
        classes: Class, by the extractor, of the image of seed 0, 1, …; int64.
    """

    row: dict[str, Any]
    classes: Tensor


def full_sampler(root: Path = ROOT) -> FullSampler | None:
    """The full sampler's figures (`scripts/full_sampler.py` computes them), or None where none were stored."""
    stored = _read_result(root / "full_sampler.json")
    return FullSampler(stored["row"], torch.tensor(stored["classes"])) if stored else None


def settings(network: str = "bundled", root: Path = ROOT) -> dict[str, Any]:
    """Sampling settings of one of `NETWORKS`, chosen on the validation split, or {} where none were stored."""
    return _read_result(root / ("settings" + network.removeprefix("bundled") + ".json"))


def _read_result(path: Path) -> dict[str, Any]:
    """A JSON object that need not be there: {} then."""
    return read_json(path) if path.is_file() else {}
