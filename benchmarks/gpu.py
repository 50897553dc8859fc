"""What a GPU has to show in less than ten minutes: the CPU's cells, throughput, solves, a call of the pipeline.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --device cpu --scale 0.05     # a rehearsal without a GPU

1. *Cells*: of the same draws and offsets, found on the CPU and on the device; how many differ. And by how much
   the masses of cells that share a draw (softmax) do.
2. *Throughput*: draws a second of the search, over what large matrix products reach, as `kernel.py` measures it.
3. *Solves*: 10,000 and 60,000 atoms of d = 784 by gradients, 10,000 overlapping windows by Newton's method on blocks;
   seconds, χ² and draws.
4. *Pipeline*: the bundled network on the device with a prior, five evaluations, against the same seeds on the CPU.

Each part is written as soon as it is done.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kernel import SETS, block, product, seconds_of

from otprior import OTPriorPipeline, SemiDiscretePrior, bundled, solve_semidiscrete
from otprior.transport.cells.entropic import EntropicCells
from otprior.transport.cells.search import DRAWS_PER_SET, LaguerreCells, fast_bfloat16
from otprior.transport.independent_scores import independent_score_start
from otprior.transport.measure import DiscreteMeasure
from otprior.utils.files import write_json

REPEATS = 9
SHARED_AT = 3.0  # ε of the shares that are compared, about τ of these images


def images(count: int) -> torch.Tensor:
    """Atoms (count, 784): the bundled images, and beyond these mixtures of two of them."""
    atoms = bundled.atoms().images.flatten(1)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(len(atoms), (count,), generator=generator) for _ in range(2))
    share = torch.rand(count, 1, generator=generator)
    mixed = share * atoms[first] + (1 - share) * atoms[second]
    mixed[: len(atoms)] = atoms[:count]
    return mixed


def windows(count: int, side: int = 28) -> torch.Tensor:
    """Overlapping windows (count, side²) of one smooth random picture, with near duplicates as photographs have."""
    generator = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(512)
    size = (frequency[:, None] ** 2 + frequency[None, :] ** 2).sqrt().clamp(min=1 / 512)
    picture = torch.fft.ifft2(torch.fft.fft2(torch.randn(512, 512, generator=generator)) / size**2).real
    picture = picture / picture.abs().max()
    corners = torch.randint(512 - side, (count, 2), generator=generator).tolist()
    return torch.stack([picture[r : r + side, c : c + side].flatten() for r, c in corners])


def cells(device: torch.device, count: int) -> dict[str, Any]:
    """Draws whose cell differs between the devices, in float32 and as `precision="auto"` finds them; and shares."""
    atoms = images(count)
    h = independent_score_start(atoms, torch.full((count,), 1 / count, dtype=torch.float64))
    hard = LaguerreCells.build(DiscreteMeasure.build(atoms), seed=0)
    on_cpu = hard.find(h, "fit", range(SETS))
    measure = DiscreteMeasure.build(atoms.to(device))
    shared = [
        EntropicCells(each, SHARED_AT).hits(h.to(each.atoms.device), "fit", range(SETS)).cpu()
        for each in (hard, LaguerreCells.build(measure, 0))
    ]
    differing = {}
    for name, bfloat16 in (("float32", False), ("auto", fast_bfloat16(device))):
        found = LaguerreCells.build(measure, 0, bfloat16).find(h.to(device), "fit", range(SETS))
        differing[name] = int((found.cpu() != on_cpu).sum())
    apart = float((shared[0] - shared[1]).abs().sum() / shared[0].sum())
    return {"draws": on_cpu.numel(), "differing": differing, "mass_shared_otherwise": apart}


def throughput(device: torch.device, count: int) -> dict[str, Any]:
    """Share of the products' own rate that the search reaches, for draws that are mixed and that are not."""
    atoms = images(count).to(device)
    measure = DiscreteMeasure.build(atoms)
    h = torch.zeros(len(measure), dtype=torch.float64, device=device)
    shares: dict[str, Any] = {}
    for name, bfloat16 in (("float32", False), ("bfloat16", True)):
        peak = product(torch.bfloat16 if bfloat16 else torch.float32, device)
        search = block(LaguerreCells.build(measure, 0, bfloat16), h)
        seconds_of(peak, device), seconds_of(search, device)
        rates = []
        for _ in range(REPEATS):
            of_peak = 2 * 2048**3 / seconds_of(peak, device)
            draws = SETS * DRAWS_PER_SET / seconds_of(search, device)
            rates.append((draws, draws * 2 * len(measure) * measure.dim / of_peak))
        draws, share = np.median(np.array(rates), axis=0)
        shares[name] = {"draws_per_second": float(draws), "of_product_rate": float(share)}
    return shares


def solves(device: torch.device, scale: float) -> list[dict[str, Any]]:
    """Each solve's statistics, with χ² on fresh draws."""
    results = []
    for name, atoms in (
        ("images, 10,000", images(int(10_000 * scale))),
        ("images, 60,000", images(int(60_000 * scale))),
        ("windows, 10,000", windows(int(10_000 * scale))),
    ):
        solution = solve_semidiscrete(atoms.to(device), throw=False)
        results.append({"name": name, "chi2": solution.chi2.value, **solution.stats})
        print(f"{name}: {solution.stats['seconds']:.1f} s, χ² {solution.chi2.value:.4f}", flush=True)
    return results


def pipeline(device: torch.device) -> dict[str, Any]:
    """Seconds of a call of 64 images, and the largest difference from the CPU's images of the same seeds."""
    prior = SemiDiscretePrior.fit(bundled.atoms().images[:500], bundled.load_scheduler(), tol=0.3)
    found: dict[str, Any] = {}
    drawn = []
    for place in (torch.device("cpu"), device):
        pipe = OTPriorPipeline.from_pretrained(bundled.pipeline_path(), prior=prior, null_class_label=10).to(
            place
        )
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in range(64)]
        started = time.perf_counter()
        result = pipe(batch_size=64, num_inference_steps=5, generator=generators, output_type="pt")
        drawn.append(result.images.cpu())
        found[f"seconds_{place.type}"] = time.perf_counter() - started
    return found | {"largest_difference": float((drawn[0] - drawn[1]).abs().max())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="where to run")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of atoms")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="file for the results")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(
            "--device must be one that torch finds; got cuda without a GPU. Rehearse with --device cpu"
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    facts: dict[str, Any] = {"device": name, "torch": torch.__version__, "scale": args.scale}
    count = int(10_000 * args.scale)
    for part, measure in (
        ("cells", lambda: cells(device, count)),
        ("throughput", lambda: throughput(device, count)),
        ("solves", lambda: solves(device, args.scale)),
        ("pipeline", lambda: pipeline(device)),
    ):
        started = time.perf_counter()
        facts[part] = measure()
        facts[f"{part}_seconds"] = time.perf_counter() - started
        write_json(args.out, facts)
        print(f"{part}: {facts[part]}", flush=True)


if __name__ == "__main__":
    main()
