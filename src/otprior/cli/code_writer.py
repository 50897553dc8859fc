"""What `otprior encode` writes: codes, the images that they give again, and figures of the round trip."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.cli.progress import Bar
from otprior.cli.report_parts import empty_report
from otprior.data.images import ImageSet
from otprior.data.samples import SampleWriter
from otprior.diffusion.codes import Codes, Encoder, ImageCoder
from otprior.diffusion.denoisers import Denoiser
from otprior.diffusion.likelihood import bits_per_dimension, dequantised, log_likelihood
from otprior.report import contact_sheet
from otprior.utils.files import write_json
from otprior.utils.random import stream_generator

# Images of the contact sheet; more would be too small to see.
GRID_IMAGES = 20


class CodeWriter:
    """Encodes and decodes with a network, and writes what comes out.

    Arguments:
        pipe: The network, where it shall run, and its scheduler.
        encoder: The method.
        batch_size: Images at a time. (Rows of a batch share the stopping rule of an iteration, and an adaptive
            method's steps: within the tolerance a code depends on its batch.)
        facts: For the report: model, data.
    """

    def __init__(self, pipe: Any, encoder: Encoder, batch_size: int, facts: dict[str, Any]) -> None:
        self._coder = ImageCoder(pipe.unet, pipe.scheduler, encoder)
        self._batch_size = batch_size
        self._facts = facts
        self._device = next(pipe.unet.parameters()).device

    def encode(
        self, images: ImageSet, labels: Tensor | None, folder: Path, grid: bool, bar: Bar, bits: Bits | None
    ) -> dict[str, Any]:
        """Encodes and decodes images; writes codes, a sheet if wanted, and the report; returns its figures.

        Arguments:
            images: In [−1, 1].
            labels: The network's class labels, (N,), or None.
            folder: An empty folder.
            grid: Whether to write grid.png.
            bar: Shows progress.
            bits: For bits per dimension; None leaves them out.
        """
        codes, again, rates, residuals, evaluations = [], [], [], [], (0, 0)
        started = time.perf_counter()
        coder = self._coder
        for part, own_labels in self._batches(len(images), labels, bar):
            batch = images.images[part].to(self._device)
            with torch.no_grad():
                there = coder.encode(batch, own_labels)
                back = coder.decode(there.x, own_labels)
            codes.append(there.x.cpu())
            again.append(back.x.cpu())
            residuals.append(there.residual or 0.0)
            evaluations = (max(evaluations[0], there.evaluations), max(evaluations[1], back.evaluations))
            if bits is not None:
                rates.append(bits.measure(coder.denoiser(own_labels), batch, coder.clean, coder.noisy))
        seconds = time.perf_counter() - started
        code, image = torch.cat(codes), torch.cat(again)
        error = (image - images.images).abs().flatten(1)
        figures: dict[str, Any] = {
            "images": len(images),
            "evaluations to encode": evaluations[0],
            "evaluations to decode": evaluations[1],
            "round trip, mean error of a pixel": float(error.mean()),
            "round trip, largest error of a pixel": float(error.max()),
            "round trip, median over images of the largest": float(error.amax(dim=1).median()),
            "residual": max(residuals) if coder.encoder.method == "ddim" else None,
            "mean square of an entry": float((code.double() ** 2).mean()),
        }
        if rates:
            figures |= _summary(torch.cat(rates))
        moments = {"clean": list(coder.clean), "noisy": list(coder.noisy)}
        provenance = self._facts | {
            "schedule": coder.schedule.to_dict(),
            "moments": moments,
            "images": images.name,
            "images_sha256": images.sha256,
            "figures": figures,
        }
        Codes(code, labels, coder.encoder, provenance).save(folder / "codes.safetensors")
        if grid:
            # ±2 standard deviations of a code are white and black.
            _sheet(folder, images.images, code / 2, image)
        self._report(folder, figures | {"moments": moments}, seconds)
        return figures

    def decode(
        self, codes: Tensor, labels: Tensor | None, folder: Path, grid: bool, bar: Bar
    ) -> dict[str, Any]:
        """Makes images of codes (N, C, H, W) and writes them as `otprior sample` does; returns the figures."""
        writer = SampleWriter(folder, range(len(codes)), png=True, as_float=False)
        images, evaluations = [], 0
        started = time.perf_counter()
        for part, own_labels in self._batches(len(codes), labels, bar):
            with torch.no_grad():
                done = self._coder.decode(codes[part].to(self._device), own_labels)
            evaluations = max(evaluations, done.evaluations)
            images.append(done.x.cpu())
            writer.add(images[-1], None)
        writer.finish(None if labels is None else labels.tolist())
        if grid:
            _sheet(folder, codes / 2, torch.cat(images))
        figures = {"images": len(codes), "evaluations to decode": evaluations}
        self._report(folder, figures, time.perf_counter() - started)
        return figures

    def _batches(self, count: int, labels: Tensor | None, bar: Bar) -> Iterator[tuple[slice, Tensor | None]]:
        """Rows, and their class labels."""
        for begin in range(0, count, self._batch_size):
            part = slice(begin, min(begin + self._batch_size, count))
            bar.update(begin, count, f"{begin:,} of {count:,} images")
            yield part, None if labels is None else labels[part]

    def _report(self, folder: Path, figures: dict[str, Any], seconds: float) -> None:
        report = empty_report(self._facts | asdict(self._coder.encoder))
        report = report.replace(encoding=figures, timings={"seconds": seconds})
        write_json(folder / "report.json", report.to_json())


class Bits:
    """Bits per dimension of 8-bit images.

    Arguments:
        steps: Of Heun's method.
        probes: Random probes of the trace, for each image.
        seed: Of the probes and of the noise within a grey level.
    """

    def __init__(self, steps: int, probes: int, seed: int) -> None:
        self._steps, self._probes, self._seed = steps, probes, seed
        self._done = 0

    def measure(self, denoiser: Denoiser, images: Tensor, clean: Any, noisy: Any) -> Tensor:
        """Bits per dimension and their standard error by the probes, (B, 2), float64."""
        # (Of each image its own, so that it does not matter which are taken together.)
        numbers = range(self._done, self._done + len(images))
        own = [stream_generator(self._seed, "bits", number) for number in numbers]
        self._done += len(images)
        fine = torch.cat([dequantised(image[None].cpu(), each) for image, each in zip(images, own)]).to(
            images
        )
        found = log_likelihood(
            denoiser, clean.alpha * fine, clean, noisy, probes=self._probes, generator=own, steps=self._steps
        )
        dim = images[0].numel()
        bits = bits_per_dimension(found.log_density, dim, clean.alpha)
        return torch.stack([bits, found.standard_error / (dim * math.log(2))], dim=1).cpu()


def _summary(rates: Tensor) -> dict[str, float | None]:
    """Of bits per dimension and standard errors, (N, 2)."""
    count = len(rates)
    spread = float(rates[:, 0].std()) / math.sqrt(count) if count > 1 else None
    return {
        "bits per dimension": float(rates[:, 0].mean()),
        # By the images' own spread, which contains the probes'.
        "bits per dimension, standard error": spread,
        "bits per dimension, standard error by the probes": float(rates[:, 1].norm()) / count,
    }


def _sheet(folder: Path, *rows: Tensor) -> None:
    """A column for each image, `rows` under one another."""
    count = min(len(rows[0]), GRID_IMAGES)
    shown = torch.cat([row[:count].float().clamp(-1, 1) for row in rows])
    scale = max(1, 56 // max(shown.shape[2:]))
    contact_sheet(shown, columns=count, scale=scale).save(folder / "grid.png")
