"""Records figures of the library, and compares two recordings: did a change of the code's structure move any?

    python scripts/record_figures.py record before     # with the old code (PYTHONPATH=clone/src takes another clone's)
    python scripts/record_figures.py record after      # with the new code
    python scripts/record_figures.py compare before after

A recording holds images of the same seeds from every prior and by every scheduler, potentials of transport problems,
and what commands write: their report.json and arrays. All is seeded and runs on one thread, so that two recordings of
the same code on one machine agree bit for bit. It calls only what users call, and so runs unchanged on both sides.

`compare` exits with 1 if a figure that both have differs by more than --rtol, or if an item is missing as a whole.
Keys of a report that only one of them has are listed, and are no failure.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

# Before NumPy is loaded, whose libraries read them once.
os.environ.update(
    {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")} | {"HF_HUB_OFFLINE": "1"}
)

import numpy as np

Recording = tuple[
    dict[str, np.ndarray], dict[str, Any]
]  # arrays by name; figures by name, as JSON holds them

SEEDS, STEPS, ATOMS, NULL_LABEL = 16, 3, 1000, 10
SCHEDULERS = """DDPM DDPMParallel DPMSolverMultistep DPMSolverSinglestep EulerDiscrete HeunDiscrete LCM TCD
    EulerAncestralDiscrete LMSDiscrete UniPCMultistep DEISMultistep SASolver KDPM2Discrete KDPM2AncestralDiscrete
    DDIM DDIMParallel PNDM FlowMatchEulerDiscrete FlowMatchLCM EDMEuler"""
COMMANDS = {  # Each writes to the folder of its name; later ones read what earlier ones wrote.
    "gaussian": "fit bundled bundled --limit 500 --prior gaussian",
    "mixture": "fit bundled bundled --limit 500 --prior mixture --conditional",
    "semidiscrete": "fit bundled bundled --limit 500 --prior semidiscrete",
    "sample": "sample bundled --prior semidiscrete --seeds 0-63 --steps 3 --format npz",
    "sample-by-class": "sample bundled --prior mixture --class-labels 0-9 --seeds 0-31 --scheduler unipc "
    "--spacing grid:karras --steps 3 --format npz --float",
    "evaluate": "evaluate sample",
    "encode": "encode bundled bundled --limit 8 --steps 20",
    "decode": "encode bundled encode/codes.safetensors --decode",
    "bits": "encode bundled bundled --limit 4 --steps 8 --method heun --bits --probes 2",
    "audit": "audit bundled bundled --limit 300 --held-out bundled --prior semidiscrete --timesteps 300,500,999 "
    "--draws 8 --pairs 4 --fine-steps 8",
    "demo": "demo --quick --samples 24 --workers 1",
    "codes": "codes bundled --fast --images 40 --subset 10 --probed 2 --swaps 0 --workers 1",
    "verify": "verify --fast",
}
OF_THE_RUN = re.compile("environment|command|timings|format_version|.*seconds.*")


def moved_names() -> tuple[Any, Any, Any]:
    """The bundled data's module, BoostedAtomPrior and MiniBatchPrior, wherever this version has them."""
    try:
        bundled, rivals = import_module("otprior.data.bundled"), import_module("otprior_studies.rivals")
    except ImportError:
        bundled, rivals = import_module("otprior.bundled"), import_module("otprior")
    return bundled, rivals.BoostedAtomPrior, rivals.MiniBatchPrior


def fitted_priors(schedule: Any) -> dict[str, Any]:
    """Every prior of every kind of noise, fitted to the first bundled images."""
    from otprior import GaussianPrior, IdentityPrior, MixturePrior, RandomAtomPrior, SemiDiscretePrior

    bundled, boosted, mini_batch = moved_names()
    atoms = bundled.atoms()
    images, labels = atoms.images[:ATOMS], atoms.labels[:ATOMS]
    semi = SemiDiscretePrior.fit(images, schedule, timestep=500)
    mixture = MixturePrior.fit(images, schedule, components=20)
    return {
        "N(0, I) at T": None,
        "identity": IdentityPrior.fit(images, schedule, 600),
        "gaussian": GaussianPrior.fit(images, schedule),
        "gaussian of rank 50, by class": GaussianPrior.fit(images, schedule, labels=labels, rank=50),
        "mixture": mixture,
        "mixture, fresh": mixture.with_options(noise="fresh"),
        "mixture, by class": MixturePrior.fit(images, schedule, labels=labels, components=3),
        "semidiscrete": semi,
        "semidiscrete, correlation 0.8": semi.with_options(correlation=0.8),
        "semidiscrete, smoothing 0.5": semi.with_options(smoothing=0.5),
        "semidiscrete, fresh": semi.with_options(noise="fresh"),
        "semidiscrete, frozen": semi.with_options(noise="frozen"),
        "semidiscrete, at 400": semi.at(400),
        "semidiscrete of rank 30": SemiDiscretePrior.fit(images, schedule, rank=30),
        "semidiscrete, by class": SemiDiscretePrior.fit(images, schedule, labels=labels),
        "random atom": RandomAtomPrior.fit(images, schedule, 500),
        "boosted atom": boosted.of(semi, 500),
        "mini-batch": mini_batch.of(semi, 500),
    }


def record_images() -> Recording:
    """Images of the same seeds from every prior, and by every scheduler; and what was fitted."""
    import diffusers
    import torch

    from otprior import OTPriorPipeline

    arrays, figures = {}, {}
    pipe = OTPriorPipeline.from_pretrained(moved_names()[0].pipeline_path(), null_class_label=NULL_LABEL)
    pipe.set_progress_bar_config(disable=True)

    def sample(name: str, **options: Any) -> None:
        seeds = [torch.Generator().manual_seed(seed) for seed in range(SEEDS)]
        options = {"num_inference_steps": STEPS, "output_type": "latent"} | options
        found = pipe(batch_size=SEEDS, generator=seeds, **options)
        arrays[name] = found.images.numpy()
        figures[name] = {
            "nfe": found.nfe,
            "sources": None if found.sources is None else found.sources.tolist(),
        }

    priors, labels = fitted_priors(pipe.scheduler), [seed % NULL_LABEL for seed in range(SEEDS)]
    for name, pipe.prior in priors.items():
        sample(name, output_type="pt", **({"class_labels": labels} if "by class" in name else {}))
        if pipe.prior is not None:
            facts = {key: getattr(pipe.prior, key) for key in ("timestep", "alpha", "sigma")}
            figures[f"{name}: fit"] = without_run(facts | getattr(pipe.prior, "facts", {}))
        for key in ("potential", "means", "variances", "residuals"):
            if hasattr(pipe.prior, key):
                arrays[f"{name}: {key}"] = getattr(pipe.prior, key).numpy()
    pipe.prior = priors["semidiscrete"]
    sample("semidiscrete, guided", class_labels=labels, guidance_scale=2.0)
    sample("semidiscrete, own timesteps", num_inference_steps=None, timesteps=[500, 300, 50])
    own = pipe.scheduler.config
    for scheduler in SCHEDULERS.split():
        options = {"skip_prk_steps": True} if scheduler == "PNDM" else {}
        pipe.scheduler = getattr(diffusers, f"{scheduler}Scheduler").from_config(own, **options)
        for name in ("N(0, I) at T", "semidiscrete"):
            pipe.prior = priors[name]
            sample(f"{name}, {scheduler}")
    return arrays, figures


def record_solves() -> Recording:
    """Potentials of transport problems for every method, how the solves ended, and what is read off them."""
    import torch

    from otprior import BrenierPotential, NoiseSchedule, solve_semidiscrete, timestep_grid, transport_cost

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)

    bundled = moved_names()[0]
    images, plane = bundled.atoms().images[ATOMS : ATOMS + 500].flatten(1), normal(200, 2)
    problems: dict[str, tuple[torch.Tensor, dict[str, Any]]] = {
        "line": (normal(300, 1), {}),
        "plane": (plane, {}),
        "plane, weighted": (plane, {"weights": normal(200, 1).flatten().softmax(dim=0)}),
        "plane, uniform source": (plane, {"source": "uniform"}),
        "plane, entropic": (plane, {"entropy": 0.2}),
        "space": (normal(60, 3), {}),
        "images": (images, {}),
        "images, another seed": (images, {"generator": torch.Generator().manual_seed(5)}),
        "images, few draws": (images, {"max_draws": 5000, "throw": False}),
    }
    arrays, figures = {}, {}
    for name, (atoms, options) in problems.items():
        found = solve_semidiscrete(atoms, **options)
        figures[name] = {"chi2": vars(found.chi2), "outcome": found.outcome.value, **without_run(found.stats)}
        z, brenier = normal(256, atoms.shape[1]).to(atoms), BrenierPotential.build(atoms, found.potential)
        arrays[f"{name}: potential"] = found.potential.numpy()
        arrays[f"{name}: cells"] = brenier.assign(z).numpy()
        arrays[f"{name}: values"] = brenier.value(z).numpy()
        arrays[f"{name}: barycentres"] = brenier.barycentre(z, 0.3).numpy()
        if not options:
            figures[name] |= {"cost": vars(transport_cost(atoms, found.potential, draws=4096))}
    schedule = NoiseSchedule.from_scheduler(bundled.load_scheduler())
    table = [[f(float(t)) for f in (schedule.alpha, schedule.sigma)] for t in range(0, 1000, 37)]
    grids = {kind: timestep_grid(schedule, 500, 7, kind) for kind in ("karras", "log_snr", "time")}
    return arrays, figures | {"schedule": {"alpha and sigma": table, "grids": grids}}


def record_commands() -> Recording:
    """Reports and arrays that the commands write, run with the code that is imported here."""
    import otprior

    arrays, figures = {}, {}
    own = str(Path(otprior.__file__).parents[1])
    with tempfile.TemporaryDirectory() as work:
        for name, arguments in COMMANDS.items():
            started = time.perf_counter()
            line = [sys.executable, "-m", "otprior", *arguments.split(), "--out", name]
            env = os.environ | {"PYTHONPATH": own}
            ran = subprocess.run(line, cwd=work, env=env, capture_output=True, text=True)
            print(f"  otprior {arguments}: {time.perf_counter() - started:.0f} s", flush=True)
            figures[name] = {"exit code": ran.returncode}
            if ran.returncode:
                print(f"  FAILED:\n{ran.stdout[-1000:]}{ran.stderr[-1000:]}")
                continue
            report = Path(work, name, "report.json")
            figures[name] |= without_run(json.loads(report.read_text())) if report.is_file() else {}
            arrays |= {f"{name}/{key}": array for key, array in arrays_of(Path(work, name))}
    return arrays, figures


def arrays_of(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays in a folder's .npz and .safetensors files, by file and key."""
    from safetensors.numpy import load_file

    for path in sorted(folder.iterdir()):
        if path.suffix in (".npz", ".safetensors"):
            file = np.load(path) if path.suffix == ".npz" else load_file(path)
            yield from ((f"{path.name}/{key}", file[key]) for key in file)


def without_run(value: Any) -> Any:
    """A report without what belongs to the run alone: its time, versions, and the command."""
    if isinstance(value, dict):
        return {key: without_run(item) for key, item in value.items() if not OF_THE_RUN.fullmatch(str(key))}
    return [without_run(item) for item in value] if isinstance(value, list) else value


def record(out: Path) -> int:
    """Writes arrays and figures of each part into a folder; returns 1 if a command failed."""
    import torch

    import otprior

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    print(f"recording {Path(otprior.__file__).parent}, torch {torch.__version__}")
    figures: dict[str, Any] = {}
    for part in (record_images, record_solves, record_commands):
        started, name = time.perf_counter(), part.__name__.removeprefix("record_")
        arrays, figures = part()
        np.savez(out / f"{name}.npz", **arrays)
        (out / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(f"{name}: {len(arrays)} arrays, {len(figures)} reports, {time.perf_counter() - started:.0f} s")
    return int(any(found["exit code"] for found in figures.values()))


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Every item of a recording as what it holds by name: an array itself, named "", a report its figures."""
    items: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            items |= {f"{path.stem}: array of {key}": {"": file[key]} for key in file.files}
    for path in sorted(folder.glob("*.json")):
        for key, value in json.loads(path.read_text()).items():
            items[f"{path.stem}: figures of {key}"] = dict(leaves(value))
    return items


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What a JSON value holds, by path."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{name}/{key}")
    else:
        yield name, value


def difference(a: Any, b: Any) -> float | None:
    """None if equal bit for bit; else relative to the larger (the largest entry), or inf where it is no number."""
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes():
        return None
    if x.shape != y.shape or "f" not in (kinds := {x.dtype.kind, y.dtype.kind}) or not kinds <= {"f", "i"}:
        return math.inf
    if isinstance(a, np.ndarray) and x.dtype != y.dtype:
        return math.inf
    x, y = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return math.inf
    size = np.abs([x[finite], y[finite]]).max(initial=0)
    return float(np.abs(x - y)[finite].max(initial=0) / size) if size else 0.0


def compare(before: Path, after: Path, rtol: float) -> int:
    """Prints how every item differs, then a table of what does by more than `rtol`; returns the exit code."""
    old, new = read(before), read(after)
    failures, alone = [], {}
    for item in dict.fromkeys([*old, *new]):
        if item not in old or item not in new:
            failures.append(f"{item}: missing in {after if item in old else before}")
            continue
        one, other = old[item], new[item]
        found = {name: difference(one[name], other[name]) for name in one if name in other}
        moved = {name: value for name, value in found.items() if value is not None}
        worst = max(moved, key=lambda name: moved[name], default="")
        verdict = f"largest difference {moved[worst]:.2g} {worst}" if moved else "equal bit for bit"
        print(f"{item}: {verdict}{'' if '' in one else f' ({len(found)} figures)'}")
        for name in (name for name, value in moved.items() if value > rtol):
            values = "" if not name else f": {str(one[name])[:50]} -> {str(other[name])[:50]}"
            failures.append(f"{item}{name}: {moved[name]:.2g}{values}")
        for name in one.keys() ^ other.keys():
            if (one | other)[name] is not None:
                where = before if name in one else after
                alone[f"{item}{re.sub(r'/[0-9]+', '/*', name)}: only in {where}"] = None
    print(f"\n{len(alone)} keys of reports in one alone", *sorted(alone), sep="\n  ")
    print(
        f"\n{len(failures)} items or figures missing, or further apart than {rtol:g}", *failures, sep="\n  "
    )
    return int(bool(failures))


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser(
        "record", help="record figures of the code that is imported: five minutes"
    )
    recording.add_argument("out", metavar="OUT_FOLDER", type=Path, help="the folder to write")
    comparing = commands.add_parser("compare", help="compare two recordings; exit code 1 if they differ")
    comparing.add_argument("before", metavar="BEFORE", type=Path, help="a folder that `record` wrote")
    comparing.add_argument("after", metavar="AFTER", type=Path, help="another")
    comparing.add_argument(
        "--rtol", type=float, default=1e-6, help="relative difference allowed (%(default)g)"
    )
    given = parser.parse_args()
    return record(given.out) if given.command == "record" else compare(given.before, given.after, given.rtol)


if __name__ == "__main__":
    sys.exit(main())
