r"""The stability of semi-discrete starts under errors of the potential: a bound, and measurements.

DPM-OT claims an error bound that makes the method stable (in its abstract, which is all that is known here). For the
map itself there is the following bound. Let u_h, u_k be the Brenier potentials of offsets h and k over the same atoms,
η = max |h_i − k_i|, i and j the cells of a seed. Then w = u_h − u_k lies within η of zero, and by Gaussian integration
by parts, L = Δ − z·∇,

    E|y_i − y_j|² = E|∇w|² = −E w L w ≤ η (E|L u_h| + E|L u_k|) ≤ η (A_h + A_k),
    A_h = E⟨z, y_i⟩ + E|⟨z, y_i⟩|,

for Δ u_h ≥ 0 has the mean E⟨z, ∇u_h⟩. (Atoms may be taken from any centre: w does not change.) So starts with the same
seeds satisfy

    W2 ≤ α √E|y_i − y_j|² ≤ α √(η (A_h + A_k)),

whatever the dimension and the number of atoms. The square root is right: the share of seeds that change cell is
proportional to η, and each of them jumps by the whole distance between two images. The law of the starts is stable;
single seeds are not. (Only h up to a constant counts, so the constant that makes η least is taken.)

References:
    Li et al., DPM-OT: a new diffusion probabilistic model based on optimal transport (2023), arXiv:2307.11308.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from otprior.error.bounds.dual import MeanEstimate
from otprior.priors import SemiDiscretePrior
from otprior.transport.potential import BrenierPotential, natural_scale
from otprior.utils.random import normal_block, seed_from
from otprior.utils.validation import check_integer, require

BLOCK = 1024


@dataclass(frozen=True)
class Perturbation:
    """The starts of a potential and of a perturbed one, with the same seeds.

    Attributes:
        size: Standard deviation of the perturbation of each offset, in units of its atom's τ.
        largest: η.
        changed: Share of seeds that change cell.
        gap: α √E|y_i − y_j|².
        gap_upper: Its upper 95 % limit.
        bound: α √(η (A_h + A_k)), with A estimated.
    """

    size: float
    largest: float
    changed: float
    gap: float
    gap_upper: float
    bound: float


def potential_stability(
    prior: SemiDiscretePrior,
    sizes: Sequence[float] = (0.01, 0.03, 0.1, 0.3),
    *,
    label: int | None = None,
    count: int = 4096,
    generator: torch.Generator,
) -> list[Perturbation]:
    """Perturbs the potential of a prior (of one class) by independent normal errors, and compares starts.

    Arguments:
        prior: The prior, without smoothing.
        sizes: Standard deviations of the errors, in units of τ_i (`natural_scale` of `transport.potential`), in which a
            cell's mass changes by a factor of about e.
        label: The class, for a conditional prior.
        count: Number of seeds.
        generator: Seeds the seeds' noise and the errors.
    """
    check_integer("count", count, 2)
    require(prior.smoothing == 0, "prior", "without smoothing", prior.smoothing)
    rank = prior.axes.shape[1]
    require(rank == 0, "prior", "with cells of all directions", f"one that finds them along {rank} axes")
    member = (prior.classes == (label or 0)) & torch.isfinite(prior.potential)
    atoms = prior.atoms[member].cpu()
    require(len(atoms) > 1, "prior", "one of at least two atoms", len(atoms))
    offsets = prior.potential[member].cpu()
    centred = atoms.double() - atoms.double().mean(dim=0)
    unit = natural_scale(atoms, torch.full((len(atoms),), 1 / len(atoms)))
    seed = seed_from(generator)
    own = BrenierPotential.build(atoms, offsets)
    rows = []
    for size in sizes:
        error = size * unit * torch.randn(len(atoms), generator=generator, dtype=torch.float64)
        error = error - (error.max() + error.min()) / 2
        other = BrenierPotential.build(atoms, offsets + error, own.radius)
        squares, changed, aligned = [], [], []
        for block in range(-(-count // BLOCK)):
            z = normal_block(seed, "stability", block, min(BLOCK, count - block * BLOCK), atoms.shape[1])
            first, second = own.assign(z), other.assign(z)
            squares.append(((centred[first] - centred[second]) ** 2).sum(dim=1))
            changed.append(first != second)
            along = [(z.double() * centred[cell]).sum(dim=1) for cell in (first, second)]
            aligned.append(along[0] + along[0].abs() + along[1] + along[1].abs())
        mean = MeanEstimate.of(torch.cat(squares))
        largest = float(error.abs().max())
        rows.append(
            Perturbation(
                size=float(size),
                largest=largest,
                changed=float(torch.cat(changed).double().mean()),
                gap=prior.alpha * math.sqrt(mean.value),
                gap_upper=prior.alpha * math.sqrt(mean.limit(0.95, "upper")),
                bound=prior.alpha * math.sqrt(largest * float(torch.cat(aligned).mean())),
            )
        )
    return rows
