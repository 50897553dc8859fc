"""A made-up but plausible report, and images to go with it; every figure here is invented."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otprior.report import ReportImages, ReportRow, SamplingReport


def _row(label: str, fid: float, copies: float, **values: Any) -> dict[str, Any]:
    spread = 0.25 + 0.012 * fid
    half = 1.96 * (max(copies * (1 - copies), 0.002) / 500) ** 0.5
    metrics = {
        "fid": fid,
        "fid_interval": [fid - spread, fid + spread],
        "excess_fid": fid - 2.0,
        "excess_fid_interval": [fid - 2.0 - spread, fid - 2.0 + spread],
        "kid": 1.1e-4 * (fid - 2.0),
        "kid_interval": [1.1e-4 * (fid - 2.4), 1.1e-4 * (fid - 1.6)],
        "precision": max(0.05, 0.93 - 0.011 * fid),
        "recall": max(0.02, 0.88 - 0.014 * fid),
        "density": max(0.05, 1.05 - 0.015 * fid),
        "coverage": max(0.02, 0.95 - 0.013 * fid),
        "copy_rate": copies,
        "copy_rate_interval": [max(0.0, copies - half), copies + half],
        "duplicate_rate": 0.0,
        "nearest_pixel_distance": 5.2 - 2.0 * copies,
        "nearest_feature_distance": 4.1 - 1.5 * copies,
        "nearest_pixel_below_1pct": min(1.0, 0.7 * copies),
        "nearest_feature_below_1pct": min(1.0, 0.9 * copies),
        "seconds_per_image": 0.0035 * values["nfe"],
    }
    fixed = {"guidance": 1.0, "samples": 500, "seeds": "0-499"}
    return {"label": label, **fixed, **metrics, **values}


def bare_report(*rows: dict[str, Any], **parts: Any) -> SamplingReport:
    """A report of little else than rows, in which most was not measured."""
    nothing: dict[str, Any] = {
        "features": {"name": None, "dim": None},
        "ot": None,
        "reference": {"n": None, "fid_floor": None, "copy_rate": None},
    }
    return SamplingReport.from_json(nothing | {"rows": [bare_row(**row) for row in rows]} | parts)


def bare_row(**values: Any) -> ReportRow:
    """A row with these figures alone."""
    return ReportRow.from_json(dict.fromkeys(("prior", "nfe", "fid", "copy_rate")) | values)


def example_report() -> SamplingReport:
    """A report with the demo's kinds of rows."""
    return SamplingReport.from_json(example_json())


def example_json() -> dict[str, Any]:
    """The same as JSON values."""
    noise: dict[str, Any] = {"prior": "none", "start_timestep": 999}
    start: dict[str, Any] = {"start_timestep": 500, "scheduler": "DPM++2M", "spacing": "uniform log-SNR"}
    rows = [
        _row(
            "full sampler",
            2.9,
            0.010,
            **noise,
            scheduler="DDIM",
            spacing="trailing",
            nfe=100,
            seed_agreement=1.0,
        ),
        _row(
            "N(0, I) at T",
            44.2,
            0.0,
            **noise,
            scheduler="DEIS",
            spacing="trailing",
            nfe=5,
            seed_agreement=0.45,
        ),
        _row(
            "N(0, I) at T",
            48.6,
            0.002,
            **noise,
            scheduler="UniPC",
            spacing="trailing",
            nfe=5,
            seed_agreement=0.46,
        ),
        _row(
            "N(0, I) at T",
            49.0,
            0.0,
            **noise,
            scheduler="DPM++2M",
            spacing="trailing",
            nfe=5,
            seed_agreement=0.48,
        ),
        _row(
            "N(0, I) at T",
            11.6,
            0.004,
            **noise,
            scheduler="DPM++2M",
            spacing="Karras",
            nfe=10,
            seed_agreement=0.92,
        ),
        _row(
            "N(0, I) at T",
            9.8,
            0.006,
            **noise,
            scheduler="DPM++2M",
            spacing="linspace",
            nfe=20,
            seed_agreement=0.97,
        ),
        _row(
            "coupled",
            6.4,
            0.016,
            prior="semidiscrete",
            noise="coupled",
            **start,
            nfe=3,
            source_rate=0.49,
            seed_agreement=0.66,
        ),
        _row(
            "coupled",
            4.9,
            0.014,
            prior="semidiscrete",
            noise="coupled",
            **start,
            nfe=5,
            source_rate=0.44,
            seed_agreement=0.68,
        ),
        _row("gaussian", 19.3, 0.0, prior="gaussian", noise=None, **start, nfe=5, seed_agreement=0.85),
        _row("identity", 123.0, 0.0, prior="identity", noise=None, **start, nfe=5, seed_agreement=0.31),
        _row(
            "frozen (DPM-OT as published)",
            14.4,
            0.002,
            prior="semidiscrete",
            noise="frozen",
            **start,
            nfe=5,
            source_rate=0.02,
            seed_agreement=0.6,
        )
        | {"duplicate_rate": 0.024},
        _row(
            "random training image + fresh noise",
            5.8,
            0.132,
            prior="random_atom",
            noise="fresh",
            **(start | {"start_timestep": 300}),
            nfe=5,
            source_rate=0.31,
        ),
    ]
    return {
        "format_version": 1,
        "features": {"name": "fashion-mnist-28 classifier, penultimate layer", "dim": 128},
        "ot": {
            "atoms": 10_000,
            "dim": 784,
            "chi2": 0.031,
            "chi2_interval": [0.026, 0.036],
            "chi2_upper": 0.036,
            "seconds": 71.4,
            "draws": 819_200,
            "outcome": "converged",
        },
        "reference": {
            "n": 500,
            "fid_floor": 2.0,
            "fid_floor_interval": [1.8, 2.2],
            "kid": 0.0,
            "precision": 0.91,
            "recall": 0.9,
            "density": 1.01,
            "coverage": 0.96,
            "copy_rate": 0.009,
            "copy_rate_interval": [0.003, 0.02],
            "duplicate_rate": 0.0,
            "nearest_pixel_distance": 5.1,
            "nearest_feature_distance": 4.0,
            "nearest_pixel_below_1pct": 0.01,
            "nearest_feature_below_1pct": 0.01,
        },
        "rows": rows,
        "gates": [
            {
                "statement": "excess FID, coupled at 5 over best N(0, I) at 20, is at most 0.5",
                "statistic": 0.37,
                "interval": [None, 0.42],
                "upper": 0.42,
                "threshold": 0.5,
                "reached": True,
            },
            {
                "statement": "copy rate of coupled less that of held-out images is at most 0.01",
                "statistic": 0.005,
                "interval": [None, 0.017],
                "upper": 0.017,
                "threshold": 0.01,
                "reached": False,
            },
        ],
        "settings": {
            "model": "fashion-mnist-28",
            "start timestep": 500,
            "smoothing": 0.0,
            "seed": 0,
            "best of": ["DPM++2M", "UniPC", "DEIS"],
        },
        "environment": {
            "otprior": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0",
            "diffusers": "0.42.1",
            "threads": 2,
        },
        "timings": {"fit gaussian": 1.9, "solve transport": 71.4, "sample": 142.0, "metrics": 38.5},
        "command": ["otprior", "demo", "--out", "demo report"],
    }


def example_images(count: int = 8, colour: bool = False) -> list[ReportImages]:
    """Images for three rows: soft blobs, their "nearest training images" a little moved."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for label in ("full sampler", "coupled, 5 evaluations", "random training image + fresh noise"):
        images = _blobs(count, generator, colour)
        nearest = (images.roll(1, dims=-1) * 0.9).clamp(-1, 1)
        copied = torch.arange(count) % 5 == 2
        rows.append(ReportImages(label, images, nearest, copied, range(count), "t* = 500 · 5 NFE"))
    return rows


def _blobs(count: int, generator: torch.Generator, colour: bool) -> Tensor:
    grid = torch.linspace(-1, 1, 28)
    centre = torch.rand(count, 2, 1, 1, generator=generator) - 0.5
    width = 0.2 + 0.3 * torch.rand(count, 2, 1, 1, generator=generator)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    soft = torch.exp(-(((y - centre[:, 0]) / width[:, 0]) ** 2) - ((x - centre[:, 1]) / width[:, 1]) ** 2)
    images = (2 * soft - 1)[:, None]
    return images.repeat(1, 3, 1, 1) if colour else images
