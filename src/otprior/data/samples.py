"""The folder that `otprior sample` writes, and `otprior evaluate` reads.

| file | content |
|---|---|
| images/000042.png, ... | one 8-bit image a seed, named by it (`--format png`) |
| images.npz | `images` (N, H, W) or (N, H, W, C) as uint8, or (N, C, H, W) as float32 with `--float` |
| starts.npz | in the images' order: `seeds` (N,), and where there are any `labels` (N,) and `sources` (N,) |
| grid.png | a contact sheet (`--grid`) |
| report.json | how the images were made |

Images stand in ascending order of their seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprior.data.images import ImageSet, to_uint8
from otprior.data.sources.sampled import ARRAYS_FILE, STARTS_FILE, read_sample_report, read_starts
from otprior.data.streams import load_images
from otprior.utils.validation import check_finite, require

# Of samples in [-1, 1]: entries beyond this are far outside, and an image of less spread shows nothing.
FAR, FLAT = 1.5, 0.02
# Share of an image's entries that are far outside, and share of images that are no images, of a sampler that diverged.
SOME_FAR, SOME_IMAGES = 0.05, 0.1


def diverged(images: Tensor) -> str | None:
    """What is wrong with samples (B, C, H, W) that should be images in [-1, 1], in words; None if nothing is.

    A solver that diverges leaves values far outside, or images of one colour: figures then say nothing of the start.
    """
    share = float(no_images(images).double().mean())
    return f"{share:.0%} of them are far outside [-1, 1], or of one colour" if share > SOME_IMAGES else None


def no_images(images: Tensor) -> Tensor:
    """Which samples (B, C, H, W) are far outside [-1, 1] or of one colour, bool (B,)."""
    values = images.detach().double().flatten(1)
    return ((values.abs() > FAR).double().mean(dim=1) > SOME_FAR) | (values.std(dim=1) < FLAT)


class SampleWriter:
    """Takes images batch by batch, so that only what will be written is held.

    Arguments:
        folder: An empty folder.
        seeds: Of all images that will come, ascending.
        png: Whether to write a PNG an image, or one images.npz.
        as_float: Whether to keep float32 as the sampler ended, neither rounded nor clipped.
    """

    def __init__(self, folder: Path, seeds: Sequence[int], png: bool, as_float: bool) -> None:
        require(not (png and as_float), "--float", "left out with --format png", "both")
        self._folder = folder
        self._seeds = list(seeds)
        self._png = png
        self._float = as_float
        self._digits = max(6, len(str(self._seeds[-1])))
        self._parts: list[np.ndarray] = []
        self._sources: list[np.ndarray] = []
        self._count = 0

    def add(self, images: Tensor, sources: Tensor | None) -> None:
        """The next images, (B, C, H, W) in [-1, 1], with the atoms behind their starts, (B,)."""
        check_finite(f"images of seeds from {self._seeds[self._count]} on", images)
        if self._float:
            self._parts.append(images.float().cpu().numpy())
        else:
            colours = images.shape[1] in (1, 3)
            hint = "Latents are kept by --format npz --float"
            require(colours, "images", "grey or RGB", f"{images.shape[1]} channels", hint)
            pixels = to_uint8(images).transpose(0, 2, 3, 1)
            pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
            if self._png:
                self._write_pngs(pixels)
            else:
                self._parts.append(pixels)
        if sources is not None:
            self._sources.append(sources.cpu().numpy())
        self._count += len(images)

    def finish(self, labels: Sequence[int] | None) -> None:
        """Writes what was held back."""
        starts: dict[str, Any] = {"seeds": np.array(self._seeds, dtype=np.int64)}
        if labels is not None:
            starts["labels"] = np.array(labels, dtype=np.int64)
        if not self._png:
            np.savez_compressed(self._folder / ARRAYS_FILE, images=np.concatenate(self._parts), **starts)
        if self._sources:
            starts["sources"] = np.concatenate(self._sources)
        np.savez_compressed(self._folder / STARTS_FILE, **starts)

    def _write_pngs(self, pixels: np.ndarray) -> None:
        from PIL import Image

        (self._folder / "images").mkdir(exist_ok=True)
        for offset, image in enumerate(pixels):
            name = f"{self._seeds[self._count + offset]:0{self._digits}d}.png"
            Image.fromarray(image).save(self._folder / "images" / name)


@dataclass(frozen=True)
class SampleSet:
    """Images to evaluate, and what is known of how they were made.

    Attributes:
        images: In [-1, 1].
        seeds: One an image, or None.
        sources: Index of the atom behind each start, (N,), or None.
        report: The report.json beside them; {} where there is none.
    """

    images: ImageSet
    seeds: list[int] | None = None
    sources: Tensor | None = None
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """The report's row about these images, or {}."""
        rows = self.report.get("rows") or [{}]
        return rows[0]

    @property
    def atoms_sha256(self) -> str | None:
        """Digest of the images that `sources` index (`ImageSet.sha256`), if it is known."""
        return (self.report.get("settings") or {}).get("atoms_sha256")


def read_samples(path: Path, value_range: Any = "auto") -> SampleSet:
    """Reads a folder of `otprior sample`, or any images.

    Arguments:
        path: The folder, or whatever `otprior.data.load_images` takes.
        value_range: Of floating-point pixels in other files than `otprior sample` wrote; None for latents.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If something is damaged, or its parts do not belong together.
    """
    images = load_images(path, value_range=value_range)
    if not (path / STARTS_FILE).is_file():
        return SampleSet(images)
    starts = read_starts(path)
    sources = torch.from_numpy(starts["sources"]) if "sources" in starts else None
    return SampleSet(images, starts["seeds"].tolist(), sources, read_sample_report(path))
