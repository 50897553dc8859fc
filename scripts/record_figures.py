"""Records figures of the library, and compares two recordings: did a change of the code's structure move any?

    python scripts/record_figures.py record FOLDER     # PYTHONPATH=CLONE/src records the code of another clone
    python scripts/record_figures.py compare BEFORE AFTER

A recording holds images of the same seeds from every prior and by every scheduler, potentials of transport problems,
and what commands write; all seeded, on one thread. `compare` exits with 1 if a figure differs by more than --rtol (of
the larger one, or an array's largest entry), or an array is missing. Keys that a report lacks are listed, no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

# Before the libraries are loaded that read them.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import diffusers
import numpy as np
import torch
from safetensors.numpy import load_file

import otprior

try:
    from otprior.data import bundled
    from otprior_studies.rivals.boosted_atom import BoostedAtomPrior
    from otprior_studies.rivals.mini_batch import MiniBatchPrior
except ImportError:  # where they were before
    from otprior import BoostedAtomPrior, MiniBatchPrior, bundled

SCHEDULERS = """DDPM DDPMParallel DPMSolverMultistep DPMSolverSinglestep EulerDiscrete HeunDiscrete LCM TCD
    EulerAncestralDiscrete LMSDiscrete UniPCMultistep DEISMultistep SASolver KDPM2Discrete KDPM2AncestralDiscrete
    DDIM DDIMParallel PNDM FlowMatchEulerDiscrete FlowMatchLCM EDMEuler"""
# A folder and the command that writes it; later ones read what earlier ones wrote.
COMMANDS = """gaussian: fit bundled bundled --limit 500 --prior gaussian
mixture: fit bundled bundled --limit 500 --prior mixture --conditional
semidiscrete: fit bundled bundled --limit 500 --prior semidiscrete
sample: sample bundled --prior semidiscrete --seeds 0-63 --steps 3 --format npz
by-class: sample bundled --prior mixture --class-labels 0-9 --scheduler unipc --spacing grid:karras --format npz --float
evaluate: evaluate sample
encode: encode bundled bundled --limit 8 --steps 20
decode: encode bundled encode/codes.safetensors --decode
bits: encode bundled bundled --limit 4 --steps 8 --method heun --bits --probes 2
audit: audit bundled bundled --limit 300 --held-out bundled --prior semidiscrete --timesteps 300,500,999 --draws 8
demo: demo --quick --samples 24 --workers 1
codes: codes bundled --fast --images 40 --subset 10 --probed 2 --swaps 0 --workers 1
verify: verify --fast"""
READERS = {
    ".json": lambda path: json.loads(path.read_text()),
    ".npz": lambda path: dict(np.load(path)),
    ".safetensors": load_file,
}
OF_THE_RUN = re.compile("environment|command|timings|format_version|.*seconds.*")


def fitted_priors(schedule: Any) -> dict[str, Any]:
    """Every prior of every kind of noise, fitted to the first bundled images."""
    atoms = bundled.atoms()
    images, labels = atoms.images[:1000], atoms.labels[:1000]
    semi = otprior.SemiDiscretePrior.fit(images, schedule, timestep=500)
    mixture = otprior.MixturePrior.fit(images, schedule, components=20)
    return {
        "N(0, I) at T": None,
        "identity": otprior.IdentityPrior.fit(images, schedule, 600),
        "gaussian": otprior.GaussianPrior.fit(images, schedule),
        "gaussian of rank 50, by class": otprior.GaussianPrior.fit(images, schedule, labels=labels, rank=50),
        "mixture": mixture,
        "mixture, fresh": mixture.with_options(noise="fresh"),
        "mixture, by class": otprior.MixturePrior.fit(images, schedule, labels=labels, components=3),
        "semidiscrete": semi,
        "semidiscrete, correlation 0.8": semi.with_options(correlation=0.8),
        "semidiscrete, smoothing 0.5": semi.with_options(smoothing=0.5),
        **{f"semidiscrete, {noise}": semi.with_options(noise=noise) for noise in ("fresh", "frozen")},
        "semidiscrete of rank 30": otprior.SemiDiscretePrior.fit(images, schedule, rank=30),
        "semidiscrete, by class": otprior.SemiDiscretePrior.fit(images, schedule, labels=labels),
        "random atom": otprior.RandomAtomPrior.fit(images, schedule, 500),
        "boosted atom": BoostedAtomPrior.of(semi, 500),
        "mini-batch": MiniBatchPrior.of(semi, 500),
    }


def images() -> dict[str, Any]:
    """Images of the same seeds from every prior, and by every scheduler; and what was fitted."""
    pipe = otprior.OTPriorPipeline.from_pretrained(bundled.pipeline_path(), null_class_label=10)
    pipe.set_progress_bar_config(disable=True)

    def sample(output_type: str = "latent", **options: Any) -> dict[str, Any]:
        options = {"num_inference_steps": 3, "output_type": output_type, **options}
        found = pipe(16, generator=[torch.Generator().manual_seed(seed) for seed in range(16)], **options)
        return {key: found[key] for key in ("images", "nfe", "sources") if key in found}

    result, labels, priors = {}, [seed % 10 for seed in range(16)], fitted_priors(pipe.scheduler)
    for name, pipe.prior in priors.items():
        result[name] = sample("pt", **({"class_labels": labels} if "by class" in name else {}))
        keys = ("timestep", "alpha", "sigma", "facts", "potential", "means", "variances", "residuals")
        result[name] |= {key: getattr(pipe.prior, key, None) for key in keys}
    pipe.prior = priors["semidiscrete"]
    result["semidiscrete, guided"] = sample(class_labels=labels, guidance_scale=2.0)
    result["semidiscrete, own timesteps"] = sample(num_inference_steps=None, timesteps=[500, 300, 50])
    config = {**pipe.scheduler.config, "skip_prk_steps": True}  # (PNDM needs that.)
    for scheduler in SCHEDULERS.split():
        pipe.scheduler = getattr(diffusers, f"{scheduler}Scheduler").from_config(config)
        for name in ("N(0, I) at T", "semidiscrete"):
            pipe.prior = priors[name]
            result[f"{name}, {scheduler}"] = sample()
    return result


def solves() -> dict[str, Any]:
    """Potentials of transport problems for every method, how the solves ended, and what is read off them."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)

    rows, plane = bundled.atoms().images[1000:1500].flatten(1), normal(200, 2)
    result: dict[str, Any] = {}
    for name, atoms, options in (
        ("line", normal(300, 1), {}),
        ("plane", plane, {}),
        ("plane, weighted", plane, {"weights": normal(200).softmax(dim=0)}),
        ("plane, uniform source", plane, {"source": "uniform"}),
        ("plane, entropic", plane, {"entropy": 0.2}),
        ("space", normal(60, 3), {}),
        ("images", rows, {}),
        ("images, few draws", rows, {"max_draws": 5000, "throw": False}),
    ):
        found = otprior.solve_semidiscrete(atoms, **options)
        z, u = normal(256, atoms.shape[1]).to(atoms), otprior.BrenierPotential.build(atoms, found.potential)
        cost = None if options else otprior.transport_cost(atoms, found.potential, draws=4096)
        read_off = {"cells": u.assign(z), "values": u.value(z), "barycentres": u.barycentre(z, 0.3)}
        result[name] = asdict(found) | read_off | {"cost": cost}
    schedule = otprior.NoiseSchedule.from_scheduler(bundled.load_scheduler())
    times = torch.arange(0, 1000, 37, dtype=torch.float64)
    grids = {kind: otprior.timestep_grid(schedule, 500, 7, kind) for kind in ("karras", "log_snr", "time")}
    return result | {"schedule": {"alpha": schedule.alpha(times), "sigma": schedule.sigma(times), **grids}}


def commands() -> dict[str, Any]:
    """Reports and arrays that the commands write, run with the code that is imported here."""
    result: dict[str, Any] = {}
    env = os.environ | {"PYTHONPATH": str(Path(otprior.__file__).parents[1])}
    with tempfile.TemporaryDirectory() as work:
        for name, arguments in (line.split(": ") for line in COMMANDS.splitlines()):
            line = [sys.executable, "-m", "otprior", *arguments.split(), "--out", name]
            ran = subprocess.run(line, cwd=work, env=env, capture_output=True, text=True)
            result[name] = {"exit code": ran.returncode}
            if ran.returncode:
                print(f"FAILED: otprior {arguments}\n{ran.stdout[-1000:]}{ran.stderr[-1000:]}", flush=True)
            for path in Path(work, name).glob("*"):
                if path.suffix in READERS:
                    result[name][path.name] = READERS[path.suffix](path)
    return result


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Arrays and figures by path, but for what belongs to the run alone: its time, versions, and the command."""
    value = asdict(value) if is_dataclass(value) else value.value if isinstance(value, Enum) else value
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if not OF_THE_RUN.fullmatch(str(key)):
                yield from leaves(item, f"{name}/{key}")
    elif isinstance(value, torch.Tensor):
        yield name, value.numpy()
    else:
        yield name, float(value) if type(value) is int else value  # (500 and 500.0 are the same figure.)


def record(out: Path) -> int:
    """Writes a recording into a folder; returns 1 if a command failed."""
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    out.mkdir(parents=True, exist_ok=True)
    print(f"recording {Path(otprior.__file__).parent}, torch {torch.__version__}", flush=True)
    parts = {part.__name__: part() for part in (images, solves, commands)}
    found = {name: value for part in parts for name, value in leaves(parts[part], part)}
    arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    figures = {name: value for name, value in found.items() if name not in arrays}
    np.savez(out / "arrays.npz", **arrays)
    (out / "figures.json").write_text(json.dumps(figures, indent=0, default=str) + "\n")
    return int(any(value for name, value in figures.items() if name.endswith("/exit code")))


def difference(a: Any, b: Any) -> float:
    """−1 if equal bit for bit; else relative to the largest entry, or inf where it is no number."""
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes():
        return -1.0
    if x.shape != y.shape or {x.dtype.kind, y.dtype.kind} != {"f"}:
        return np.inf
    with np.errstate(invalid="ignore"):
        gap = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, np.abs(x.astype(float) - y)).max(initial=0)
    size = np.nan_to_num(np.abs([x, y]), posinf=0).max(initial=0)
    return float(np.nan_to_num(gap / (size or 1), nan=np.inf, posinf=np.inf))


def compare(folders: list[Path], rtol: float) -> int:
    """Prints how every item differs, then a table of what does by more than `rtol`; returns the exit code."""
    old, new = (READERS[".npz"](f / "arrays.npz") | READERS[".json"](f / "figures.json") for f in folders)
    items: dict[str, dict[str, float]] = {}
    failures, alone = [], set()
    for name, value in (old | new).items():
        found = items.setdefault("/".join(name.split("/")[:2]), {})
        if name in old and name in new:
            found[name] = difference(old[name], new[name])
            if found[name] > rtol:
                shown = (" ".join(str(side[name]).split())[:50] for side in (old, new))
                failures.append(f"{name}: {found[name]:.2g}: {' -> '.join(shown)}")
        elif value is not None:
            alone.add(f"{re.sub('/[0-9]+', '/*', name)}: only in {folders[name in new]}")
            failures += [f"{name}: missing"] if isinstance(value, np.ndarray) else []
    for item, found in items.items():
        worst = max(found, key=found.__getitem__, default="nothing in common")
        gap = found.get(worst, np.inf)
        verdict = "equal bit for bit" if gap < 0 else f"largest difference {gap:.2g} of {worst}"
        print(f"{item}: {verdict} ({len(found)} arrays and figures)")
        failures += [] if found else [f"{item}: nothing in common"]
    print(f"\n{len(alone)} keys are in one alone", *sorted(alone), sep="\n  ")
    print(f"\n{len(failures)} are missing, or further apart than {rtol:g}", *failures, sep="\n  ")
    return int(bool(failures or not items))


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choices = parser.add_subparsers(dest="command", required=True)
    recording = choices.add_parser("record", help="record figures of the code that is imported: 5 minutes")
    recording.add_argument("out", metavar="OUT_FOLDER", type=Path, help="the folder to write")
    comparing = choices.add_parser("compare", help="compare two recordings; exit code 1 if they differ")
    comparing.add_argument("folders", metavar=("BEFORE", "AFTER"), nargs=2, type=Path, help="two recordings")
    comparing.add_argument("--rtol", type=float, default=1e-6, help="relative difference allowed (1e-6)")
    given = parser.parse_args()
    return record(given.out) if given.command == "record" else compare(given.folders, given.rtol)


if __name__ == "__main__":
    sys.exit(main())
