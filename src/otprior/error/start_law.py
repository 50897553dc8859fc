r"""The law of a prior's starts: in closed form where it is Gaussian, by draws where it is not.

A semi-discrete start is α b(z) + σ n, with a signal b (the cell's atom, or the softmax mean of atoms) and a noise n
that do not depend on t*. So one set of draws, which costs an assignment of seeds to cells, serves every t*.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from otprior.error.bounds.mass_coupling import MassPlan, mass_plan
from otprior.error.target import Target
from otprior.priors import (
    GaussianPrior,
    IdentityPrior,
    Prior,
    SemiDiscretePrior,
)
from otprior.transport.gaussian import isotropic, noised
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.moments import Spectrum
from otprior.utils.random import normal_block, seed_from
from otprior.utils.validation import check_integer, require

BLOCK = 1024
# Seeds assigned to cells, to see what masses these have: at least four an atom, and as many as are quickly assigned.
MASS_DRAWS_AN_ATOM = 4
MOST_MASS_DRAWS = 1 << 16
QUICK_SCORES = 400_000_000


def gaussian_start(prior: Prior, label: int | None = None) -> Spectrum | None:
    """Mean and covariance of the starts, exactly, if they are Gaussian; else None.

    Arguments:
        prior: Any prior.
        label: The class, for a conditional one.
    """
    if isinstance(prior, IdentityPrior):
        scale = prior.schedule.prior_scale(float(prior.timestep))
        return isotropic(torch.zeros(prior.dim), scale**2)
    if isinstance(prior, GaussianPrior):
        return noised(_in_float64(prior.spectrum(label or 0)), prior.alpha, prior.sigma)
    return None


@dataclass(frozen=True, eq=False)
class StartDraws:
    """Draws of a semi-discrete prior's starts, in their parts, and of its cells.

    Attributes:
        prior: The prior, at any timestep.
        atoms: Distinct atoms of positive mass (of the class), shape (N, d).
        weights: ν, the masses that they should have, shape (N,), float64.
        signals: b of each draw, shape (n, d).
        noises: n of each draw, shape (n, d).
        cells: Index into `atoms` of each draw, int64 (n,).
        index: The place of each of `atoms` among the prior's, int64 (N,).
        counts: Hits of each atom in a larger number of draws, int64 (N,).
    """

    prior: SemiDiscretePrior
    atoms: Tensor
    weights: Tensor
    signals: Tensor
    noises: Tensor
    cells: Tensor
    index: Tensor
    counts: Tensor

    @cached_property
    def plan(self) -> MassPlan:
        """Where the cells' mass would have to go."""
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
        count: Draws of whole starts n.
        mass_draws: Draws of cells; by default four an atom or more.
        weights: Masses of the prior's atoms (of its class), sum 1, shape (M,); equal by default. A prior's file does
            not say what weights it was fitted with.
        generator: Seeds all draws.

    Raises:
        ValueError: If the prior has no map for the class, or sends nothing to an atom that should have mass.
    """
    check_integer("count", count, 4)
    require(
        prior.alpha > 0 and prior.sigma > 0, "prior", "at a timestep with signal and noise", prior.timestep
    )
    home = prior.atoms.device
    of_class = torch.nonzero(prior.classes == (label or 0)).reshape(-1)
    require(len(of_class) > 0, "label", "a class that the prior was fitted on", label)
    measure = DiscreteMeasure.build(prior.atoms[of_class].cpu(), weights)
    index = of_class.cpu()[measure.index]
    reached = bool(torch.isfinite(prior.potential.cpu()[index]).all())
    hint = "Pass the weights that it was fitted with."
    require(reached, "atoms", "all of positive mass in the prior's map", "some that no seed goes to", hint)
    place = torch.full((len(prior.atoms),), -1, dtype=torch.int64)
    place[index] = torch.arange(len(index))

    seed = seed_from(generator)
    if mass_draws is None:
        quick = min(MOST_MASS_DRAWS, QUICK_SCORES // len(measure))
        mass_draws = max(MASS_DRAWS_AN_ATOM * len(measure), quick)
    wanted = max(count, mass_draws)
    counts = torch.zeros(len(measure), dtype=torch.int64)
    signals, noises, cells = [], [], []
    drawn = 0
    for block in range(-(-wanted // BLOCK)):
        z = normal_block(seed, "starts", block, BLOCK, prior.dim).reshape(-1, *prior.shape).to(home)
        labels = None if prior.num_classes is None else torch.full((len(z),), label or 0, device=home)
        if drawn < count:
            fresh = normal_block(seed, "fresh", block, BLOCK, prior.dim).reshape(z.shape).to(home)
            signal, noise, source = _parts(prior, z, labels, fresh)
            kept = slice(0, min(BLOCK, count - drawn))
            signals.append(signal[kept].cpu())
            noises.append(noise[kept].cpu())
            cells.append(place[source.cpu()[kept]])
            drawn += len(cells[-1])
        else:
            found = prior.source(z, labels)
            assert found is not None
            source = found
        counts += torch.bincount(place[source.cpu()], minlength=len(measure))
    return StartDraws(
        prior=prior,
        atoms=measure.atoms,
        weights=measure.weights,
        signals=torch.cat(signals),
        noises=torch.cat(noises),
        cells=torch.cat(cells),
        index=index,
        counts=counts,
    )


def any_starts(prior: Any, codes: Tensor, label: int | None, seed: int) -> Tensor:
    """T of seeds (n, d), with further noise drawn for each row where the prior takes any; (n, d) on the CPU.

    Arguments:
        prior: Any prior.
        codes: Seeds.
        label: The class, for a conditional one.
        seed: Of the further noise; the draw of a row does not depend on how many rows there are.
    """
    shape, home = (-1, *prior.shape), prior.device
    z = codes.float().reshape(shape).to(home)
    labels = None if prior.num_classes is None else torch.full((len(z),), label or 0, device=home)
    fresh = None
    if prior.needs_fresh:
        fresh = torch.cat([normal_block(seed, "further", row, 1, prior.dim) for row in range(len(z))])
        fresh = fresh.reshape(shape).to(home)
    return prior(z, labels, fresh).flatten(1).cpu()


def _parts(
    prior: SemiDiscretePrior, z: Tensor, labels: Tensor | None, fresh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Signal, noise and atom of each seed, on flat rows."""
    start, source = prior.start_and_source(z, labels, fresh if prior.needs_fresh else None)
    assert source is not None
    start, signal = start.flatten(1), prior.atoms[source]
    if prior.noise == "frozen":
        return signal, (start - prior.alpha * signal) / prior.sigma, source
    rho = 0.0 if prior.noise == "fresh" else prior.correlation
    noise = rho * z.flatten(1) + (1 - rho**2) ** 0.5 * fresh.flatten(1)
    if prior.smoothing:
        signal = (start - prior.sigma * noise) / prior.alpha
    return signal, noise, source


def _in_float64(spectrum: Spectrum) -> Spectrum:
    return Spectrum(
        spectrum.mean.double().cpu(),
        spectrum.basis.double().cpu(),
        spectrum.variances.double().cpu(),
        float(spectrum.residual),
    )
