"""The folder that `otprior sample` writes, and `otprior evaluate` reads.

| file | content |
|---|---|
| images/000042.png, ... | one 8-bit image a seed, named by it (`--format png`) |
| images/000042/000.png, ... | the frames of a film |
| images.npz | `images` (N, H, W[, C]) as uint8, or (N, C, H, W) as float32 with `--float`; (N, F, ...) of films |
| sounds/000042.wav, ... | one sound a seed, of 16 bits |
| sounds.npz | `sounds` (N, C, L), float32, and their `rate` |
| starts.npz | in the images' order: `seeds` (N,), and where there are any `labels` (N,) and `sources` (N,) |
| grid.png | a contact sheet (`--grid`) |
| report.json | how the images were made |

Images stand in ascending order of their seeds.
"""

from __future__ import annotations

import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprior.data.images import ImageSet, to_uint8
from otprior.data.sources.sampled import STARTS_FILE, read_sample_report, read_starts
from otprior.data.streams import open_images
from otprior.utils.validation import check_finite, require

# Of samples in [-1, 1]: entries beyond this are far outside, and an image of less spread shows nothing.
FAR, FLAT = 1.5, 0.02
# Share of an image's entries that are far outside, and share of images that are no images, of a sampler that diverged.
SOME_FAR, SOME_IMAGES = 0.05, 0.1


def diverged(images: Tensor) -> str | None:
    """What is wrong with samples (B, C, H, W) that should be images in [-1, 1], in words; None if nothing is.

    A solver that diverges leaves values far outside, or images of one colour: figures then say nothing of the start.
    """
    return divergence(float(no_images(images).double().mean()))


def divergence(share: float) -> str | None:
    """The same, of the share of samples that are no images."""
    return f"{share:.0%} of them are far outside [-1, 1], or of one colour" if share > SOME_IMAGES else None


def no_images(images: Tensor) -> Tensor:
    """Which samples (B, C, H, W) are far outside [-1, 1] or of one colour, bool (B,)."""
    values = images.detach().double().flatten(1)
    return ((values.abs() > FAR).double().mean(dim=1) > SOME_FAR) | (values.std(dim=1) < FLAT)


class SampleWriter:
    """Takes images, films or sounds batch by batch, so that only what will be written is held.

    Arguments:
        folder: An empty folder.
        seeds: Of all images that will come, ascending.
        png: Whether to write a file for each, or one for all.
        as_float: Whether to keep float32 as the sampler ended, neither rounded nor clipped.
        rate: Entries a second of sounds; None of images and films.
    """

    def __init__(
        self, folder: Path, seeds: Sequence[int], png: bool, as_float: bool, rate: int | None = None
    ) -> None:
        require(not (png and as_float), "--float", "left out with --format png", "both")
        self._folder = folder
        self._seeds = list(seeds)
        self._png = png
        self._float, self._rate = as_float, None if as_float else rate
        self._digits = max(6, len(str(self._seeds[-1])))
        self._parts: list[np.ndarray] = []
        self._sources: list[np.ndarray] = []
        self._count = 0

    def add(self, images: Tensor, sources: Tensor | None) -> None:
        """The next ones, with the atoms behind their starts, (B,).

        They are (B, C, H, W), or (B, F, C, H, W) of films, in [-1, 1]; (B, C, L) of sounds.
        """
        check_finite(f"images of seeds from {self._seeds[self._count]} on", images)
        if self._float or self._rate is not None:
            values = images.float().cpu().numpy()
            if self._png:
                self._write_sounds(values)
            else:
                self._parts.append(values)
        else:
            channels = images.shape[-3]
            hint = "Latents are kept by --format npz --float"
            require(channels in (1, 3), "images", "grey or RGB", f"{channels} channels", hint)
            pixels = np.moveaxis(to_uint8(images), -3, -1)
            pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
            if self._png:
                self._write_pngs(pixels, images.ndim == 5)
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
            name, facts = ("images", {}) if self._rate is None else ("sounds", {"rate": self._rate})
            whole = {name: np.concatenate(self._parts), **facts, **starts}
            np.savez_compressed(self._folder / f"{name}.npz", **whole)
        if self._sources:
            starts["sources"] = np.concatenate(self._sources)
        np.savez_compressed(self._folder / STARTS_FILE, **starts)

    def _path(self, kind: str, offset: int) -> Path:
        (self._folder / kind).mkdir(exist_ok=True)
        return self._folder / kind / f"{self._seeds[self._count + offset]:0{self._digits}d}"

    def _write_pngs(self, pixels: np.ndarray, films: bool) -> None:
        from PIL import Image

        for offset, each in enumerate(pixels):
            path = self._path("images", offset)
            if not films:
                Image.fromarray(each).save(path.with_suffix(".png"))
                continue
            path.mkdir()
            for number, frame in enumerate(each):
                Image.fromarray(frame).save(path / f"{number:03d}.png")

    def _write_sounds(self, sounds: np.ndarray) -> None:
        levels = np.round(32767 * np.clip(sounds, -1.0, 1.0)).astype("<i2")
        for offset, each in enumerate(levels):
            with wave.open(str(self._path("sounds", offset).with_suffix(".wav")), "wb") as file:
                file.setparams((len(each), 2, self._rate or 0, 0, "NONE", "not compressed"))
                file.writeframes(each.T.tobytes())


@dataclass(frozen=True)
class SampleSet:
    """Images to evaluate, and what is known of how they were made.

    Attributes:
        images: In [-1, 1].
        seeds: One an image, or None.
        sources: Index of the atom behind each start, (N,), or None.
        report: The report.json beside them; {} where there is none.

    Examples:
        >>> SampleSet(images, seeds=list(range(200))).images.images.shape
        torch.Size([200, 1, 28, 28])
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


def read_samples(
    path: Path, value_range: Any = "auto", pictures: Mapping[str, Any] | None = None
) -> SampleSet:
    """Reads a folder of `otprior sample`, or any images.

    Arguments:
        path: The folder, or whatever `otprior.data.load_images` takes.
        value_range: Of floating-point pixels in other files than `otprior sample` wrote; None for latents.
        pictures: What is done to pictures, by the arguments of `open_images`.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If something is damaged, or its parts do not belong together.

    Examples:
        >>> Image.fromarray(to_uint8(images.images[0, 0])).save("samples/000007.png")
        >>> read_samples(Path("samples")).images.images.shape
        torch.Size([1, 1, 28, 28])
    """
    images = open_images(path, value_range=value_range, **(pictures or {})).read()
    if not (path / STARTS_FILE).is_file():
        return SampleSet(images)
    starts = read_starts(path)
    sources = torch.from_numpy(starts["sources"]) if "sources" in starts else None
    return SampleSet(images, starts["seeds"].tolist(), sources, read_sample_report(path))
