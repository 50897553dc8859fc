r"""Draws of a prior's starts, for laws that are not known in closed form.

A semi-discrete start is α b(z) + σ n, with a signal b (the cell's atom, or the softmax mean of atoms) and a noise n
that do not depend on t*. So one set of draws, which costs an assignment of seeds to cells, serves every t*.

Gaussian starts need no draws: `Prior.gaussian_law` gives their law. This module is the only one of the room that looks
at the class of a prior; any other prior is known by samples of its starts alone (`sample_starts`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from otprior.error.bounds.mass_coupling import MassPlan, mass_plan
from otprior.error.target import Target
from otprior.priors import Prior, RandomAtomPrior, SemiDiscretePrior
from otprior.transport.measure import DiscreteMeasure
from otprior.utils.random import normal_block, seed_from
from otprior.utils.validation import check_integer, require

BLOCK = 1024
# Seeds assigned to cells for the cells' masses: at least four for each atom, and as many as are assigned quickly.
MASS_DRAWS_AN_ATOM = 4
MOST_MASS_DRAWS = 1 << 16
QUICK_SCORES = 400_000_000


def semidiscrete(prior: Prior | None) -> SemiDiscretePrior | None:
    """The prior, if its starts are α b(z) + σ n as `draw_starts` needs; else None."""
    return prior if isinstance(prior, SemiDiscretePrior) else None


def holds_atoms(prior: Prior, rows: Tensor, label: int | None) -> bool:
    """Whether the atoms of a prior (of a class) are these rows (N, d), in any order."""
    if not isinstance(prior, SemiDiscretePrior | RandomAtomPrior):
        return False
    atoms = prior.atoms if prior.num_classes is None else prior.atoms[prior.classes == (label or 0)]
    atoms, rows = atoms.cpu(), rows.cpu().float()
    if atoms.shape != rows.shape:
        return False
    return torch.equal(atoms, rows) or _sorted_rows(atoms) == _sorted_rows(rows)


def starts_are_noised_atoms(prior: Prior) -> bool:
    """Whether the law of the starts is exactly p_t of the prior's atoms."""
    # (A subclass may start elsewhere.)
    return type(prior) is RandomAtomPrior


def _sorted_rows(rows: Tensor) -> list[bytes]:
    return sorted(row.tobytes() for row in rows.numpy())


@dataclass(frozen=True, eq=False)
class StartDraws:
    """Draws of a semi-discrete prior's starts, as signals and noises, and of its cells.

    Attributes:
        prior: The prior, at any timestep.
        atoms: Distinct atoms of positive mass (of the class), shape (N, d).
        weights: ν, the masses that the atoms should have, shape (N,), float64.
        signals: b of each draw, shape (n, d).
        noises: n of each draw, shape (n, d).
        cells: Index into `atoms` of each draw, int64 (n,).
        index: Index of each of `atoms` among the prior's atoms, int64 (N,).
        counts: Hits of each atom in a larger number of draws, int64 (N,).
        entropies: What each draw adds to the relative entropy of whitened noise, (n,), float64; None of another kind.
    """

    prior: SemiDiscretePrior
    atoms: Tensor
    weights: Tensor
    signals: Tensor
    noises: Tensor
    cells: Tensor
    index: Tensor
    counts: Tensor
    entropies: Tensor | None = None

    @cached_property
    def plan(self) -> MassPlan:
        """A transport plan from the cells' masses to `weights`."""
        return mass_plan(self.atoms, self.counts, self.weights)

    @cached_property
    def target(self) -> Target:
        """The data that this prior stands for: its atoms with their masses."""
        return Target.weighted(self.atoms, self.weights)

    def starts(self, alpha: float, sigma: float) -> Tensor:
        """α b + σ n, (n, d)."""
        return alpha * self.signals + sigma * self.noises


def draw_starts(
    prior: SemiDiscretePrior,
    label: int | None = None,
    *,
    count: int = 2048,
    mass_draws: int | None = None,
    weights: Tensor | None = None,
    generator: torch.Generator,
) -> StartDraws:
    """Draws starts and counts cells.

    Arguments:
        prior: The prior.
        label: The class, for a conditional one.
        count: Number n of draws of whole starts.
        mass_draws: Number of draws of cells; by default four an atom or more.
        weights: Masses of the prior's atoms (of its class), sum 1, shape (M,); equal by default. A prior's file does
            not hold the weights that it was fitted with.
        generator: Seeds all draws.

    Raises:
        ValueError: If the prior has no map for the class, or sends nothing to an atom that should have mass.

    Examples:
        >>> small = torch.rand(40, 1, 4, 4) * 2 - 1
        >>> coupled = SemiDiscretePrior.fit(small, scheduler, timestep=500, tol=0.5)
        >>> draw_starts(coupled, count=64, generator=generator).signals.shape
        torch.Size([64, 16])
    """
    check_integer("count", count, 4)
    signal_and_noise = prior.alpha > 0 and prior.sigma > 0
    require(signal_and_noise, "prior", "at a timestep with signal and noise", prior.timestep)
    measure, index = _reached_atoms(prior, label, weights)
    place = torch.full((len(prior.atoms),), -1, dtype=torch.int64)
    place[index] = torch.arange(len(index))
    seed = seed_from(generator)
    if mass_draws is None:
        quick = min(MOST_MASS_DRAWS, QUICK_SCORES // len(measure))
        mass_draws = max(MASS_DRAWS_AN_ATOM * len(measure), quick)
    counts = torch.zeros(len(measure), dtype=torch.int64)
    blocks, entropies = [], []
    for block in range(-(-max(count, mass_draws) // BLOCK)):
        z, labels = _latents(prior, normal_block(seed, "starts", block, BLOCK, prior.dim), label)
        if block * BLOCK < count:
            fresh, _ = _latents(prior, normal_block(seed, "fresh", block, BLOCK, prior.dim), label)
            signal, noise, source = _signal_and_noise(prior, z, labels, fresh)
            blocks.append((signal.cpu(), noise.cpu(), place[source.cpu()]))
            if prior.noise == "whitened":
                entropies.append(prior.whitening_entropy(z, labels).cpu())
        else:
            found = prior.source(z, labels)
            assert found is not None
            source = found
        counts += torch.bincount(place[source.cpu()], minlength=len(measure))
    signals, noises, cells = (torch.cat(each)[:count] for each in zip(*blocks))
    left = torch.cat(entropies)[:count] if entropies else None
    return StartDraws(prior, measure.atoms, measure.weights, signals, noises, cells, index, counts, left)


def sample_starts(prior: Prior, codes: Tensor, label: int | None, seed: int) -> Tensor:
    """T of seeds (n, d), with further noise drawn for each row where the prior takes any; (n, d) on the CPU.

    Arguments:
        prior: Any prior.
        codes: The seeds z.
        label: The class, for a conditional prior.
        seed: Seeds the further noise; the draw of a row does not depend on the number of rows.
    """
    z, labels = _latents(prior, codes.float(), label)
    fresh = None
    if prior.needs_fresh:
        rows = [normal_block(seed, "further", row, 1, prior.dim) for row in range(len(z))]
        fresh, _ = _latents(prior, torch.cat(rows), label)
    return prior.forward(z, labels, fresh).flatten(1).cpu()


def seeds_to_starts(
    prior: SemiDiscretePrior, label: int | None, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """T for the coupling of the data's own flow: from codes z (n, d) to starts whose noise is the code, (n, d).

    Where the start's noise n is not the seed's alone, the seed is turned by an independent draw such that n = z all the
    same: seed ρ z + √(1 − ρ²) ε and further noise √(1 − ρ²) z − ρ ε are independent and N(0, I), as the prior needs.
    """
    seed = seed_from(generator)
    rho = 0.0 if prior.noise == "fresh" else prior.correlation

    def image(codes: Tensor) -> Tensor:
        codes = codes.float()
        # (Row by row, so that a row's draw does not depend on the number of rows.)
        other = torch.cat([normal_block(seed, "turn", row, 1, codes.shape[1]) for row in range(len(codes))])
        turn = math.sqrt(1 - rho**2)
        z, labels = _latents(prior, rho * codes + turn * other, label)
        fresh, _ = _latents(prior, turn * codes - rho * other, label)
        return prior.forward(z, labels, fresh if prior.needs_fresh else None).flatten(1).cpu()

    return image


def _reached_atoms(
    prior: SemiDiscretePrior, label: int | None, weights: Tensor | None
) -> tuple[DiscreteMeasure, Tensor]:
    """The distinct atoms of positive mass (of a class), and their indices among the prior's."""
    of_class = torch.nonzero(prior.classes == (label or 0)).reshape(-1)
    require(len(of_class) > 0, "label", "a class that the prior was fitted on", label)
    measure = DiscreteMeasure.build(prior.atoms[of_class].cpu(), weights)
    index = of_class.cpu()[measure.index]
    reached = bool(torch.isfinite(prior.potential.cpu()[index]).all())
    hint = "Pass the weights that it was fitted with."
    require(reached, "atoms", "all of positive mass in the prior's map", "some that no seed goes to", hint)
    return measure, index


def _latents(prior: Prior, rows: Tensor, label: int | None) -> tuple[Tensor, Tensor | None]:
    """Rows (n, d) as latents on the prior's device, and the labels that the prior takes with them."""
    z = rows.reshape(-1, *prior.shape).to(prior.device)
    return z, None if prior.num_classes is None else torch.full((len(z),), label or 0, device=z.device)


def _signal_and_noise(
    prior: SemiDiscretePrior, z: Tensor, labels: Tensor | None, fresh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """b, n and the atom's index of each seed, on flat rows."""
    start, source = prior.start_and_source(z, labels, fresh if prior.needs_fresh else None)
    assert source is not None
    start, signal = start.flatten(1), prior.atoms[source]
    if prior.noise in ("frozen", "whitened"):
        return signal, (start - prior.alpha * signal) / prior.sigma, source
    rho = 0.0 if prior.noise == "fresh" else prior.correlation
    noise = rho * z.flatten(1) + (1 - rho**2) ** 0.5 * fresh.flatten(1)
    if prior.smoothing:
        signal = (start - prior.sigma * noise) / prior.alpha
    return signal, noise, source
