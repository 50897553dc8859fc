r"""The rival with the coupling's mean: a random training image, noised afresh around where its cell lies.

A coupled start α y_i + σ z differs from α y_i + σ ε in that z lies in the cell of y_i. The first thing that this
changes is the mean: m_i = E[z | i(z) = i] is not 0 but leans towards the atom, so that a coupled start carries more of
its atom than p_t* does. This rival has that mean and nothing else of the coupling,

    α y_i + σ (ρ m_i + ε),   i drawn by the masses, ε ~ N(0, I) independent,

with ρ the correlation of the coupled start that it stands beside. So what that start gains over it is what the
coupling is worth beyond a stronger signal. m_i is estimated from draws, in one of two forms (r_i = y_i − mean):

- "atom": m_i = (a + b |r_i|) r_i/|r_i|, the two numbers by least squares;
- "mean": m_i = Σ_k b_k ⟨r_i, u_k⟩ u_k over the atoms' principal axes u_k, one number an axis. (For Gaussian atoms of
  covariance Σ the map is Σ^{1/2}, and b_k is the inverse of the standard deviation along u_k.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from otprior.priors.base import Prior
from otprior.priors.options import PriorOptions, option
from otprior.priors.random_atom import RandomAtomPrior
from otprior.priors.semidiscrete import SemiDiscretePrior
from otprior.utils.random import normal_block
from otprior.utils.validation import check_choice, require

DIRECTIONS = ("atom", "mean")
DRAWS_PER_BLOCK, BLOCKS = 2048, 8
NO_VARIANCE = 1e-9  # relative to the largest


@dataclass(frozen=True)
class BoostedOptions(PriorOptions):
    """What can be chosen about a boosted random atom."""

    direction: str = option(
        "atom", "Form in which cell means are estimated.", choices=DIRECTIONS, of_start=True
    )
    correlation: float = option(
        1.0,
        "Correlation ρ of the coupled start's noise with the seed's, which scales the means.",
        of_start=True,
    )


class BoostedAtomPrior(RandomAtomPrior):
    """T(z, ε) = α y_{i(z)} + σ (m_{i(z)} + ε), i as in `RandomAtomPrior`.

    Build it with `of`.

    Arguments:
        shape: (C, H, W) of a latent.
        schedule: `NoiseSchedule.to_dict()`.
        timestep: t*.
        num_atoms: N.
        num_classes: Number of class labels, or None.
    """

    kind = "boosted_atom"
    Options = BoostedOptions
    made_from = "semidiscrete"
    means: Tensor  # (N, d)

    @register_to_config
    def __init__(
        self,
        shape: list[int],
        schedule: dict[str, Any],
        timestep: float,
        num_atoms: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(shape, schedule, timestep, num_atoms, num_classes)
        self.register_buffer("means", torch.zeros(num_atoms, self.dim))

    @classmethod
    def of(  # type: ignore[override]
        cls, prior: SemiDiscretePrior, timestep: float, means: Tensor | None = None
    ) -> Self:
        """The rival of a semidiscrete prior, on the same atoms.

        Arguments:
            prior: Fitted without labels.
            timestep: t*.
            means: m, shape (N, d), as `cell_means` gives them (times ρ); computed if left out.
        """
        rival = super().of(prior, timestep)
        rival.means = (cell_means(prior) if means is None else means).to(rival.atoms.device)
        return rival

    @classmethod
    def fit(cls, *args: Any, **options: Any) -> Self:
        """Not possible: the means are those of a semidiscrete prior's cells.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "a BoostedAtomPrior is not fitted to data: BoostedAtomPrior.of(prior, timestep) makes it"
        )

    @classmethod
    def derive(cls, fitted: Prior, timestep: float, options: Mapping[str, Any]) -> Self:
        """Made by `of` from a semidiscrete prior, with its cell means, computed once and scaled by ρ."""
        assert isinstance(fitted, SemiDiscretePrior)
        chosen = BoostedOptions.make(options)
        return cls.of(fitted, timestep, chosen.correlation * _known_means(fitted, chosen.direction))

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> str:
        """What it is."""
        return "random image + noise, boosted"

    def _start_and_source(
        self, z: Tensor, labels: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        start, source = super()._start_and_source(z, labels, fresh)
        return start + self.sigma * self.means[source], source


@lru_cache(maxsize=4)
def _known_means(prior: SemiDiscretePrior, direction: str) -> Tensor:
    return cell_means(prior, direction)


def cell_means(prior: SemiDiscretePrior, direction: str = "atom") -> Tensor:
    """m_i = E[z | i(z) = i] of each atom, in the form named, from 16,384 draws.

    Arguments:
        prior: Fitted without labels.
        direction: "atom" or "mean".

    Returns:
        Shape (N, d), float32.
    """
    check_choice("direction", direction, DIRECTIONS)
    require(prior.num_classes is None, "prior", "one without classes", f"{prior.num_classes} classes")
    atoms = prior.atoms.double().cpu()
    centred = atoms - atoms.mean(dim=0)
    tiny = torch.finfo(torch.float32).tiny
    lengths = torch.linalg.vector_norm(centred, dim=1).clamp(min=tiny)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors if direction == "mean" else None
    # Sums for least squares: of 1, |r|, |r|², ⟨z, r⟩/|r| and ⟨z, r⟩; or of products along each axis.
    normal, right = torch.zeros(2, 2).double(), torch.zeros(2).double()
    across, squares = torch.zeros(prior.dim).double(), torch.zeros(prior.dim).double()
    for block in range(BLOCKS):
        z = normal_block(0, "cell means", block, DRAWS_PER_BLOCK, prior.dim)
        cells = prior.source(z.reshape(-1, *prior.shape).to(prior.device))
        assert cells is not None
        r, z = centred[cells.cpu()], z.double()
        if axes is not None:
            r, z = r @ axes, z @ axes
            across += (z * r).sum(dim=0)
            squares += (r * r).sum(dim=0)
        else:
            length = torch.linalg.vector_norm(r, dim=1).clamp(min=tiny)
            predictors = torch.stack([torch.ones_like(length), length])
            normal += predictors @ predictors.T
            right += predictors @ ((z * r).sum(dim=1) / length)
    if axes is not None:
        # Along axes without variance there is nothing to estimate from, and nothing to shift.
        varies = squares > NO_VARIANCE * squares.max()
        gains = torch.where(varies, across / squares.clamp(min=tiny), 0.0)
        return (((centred @ axes) * gains) @ axes.T).float()
    constant, slope = torch.linalg.lstsq(normal, right[:, None]).solution[:, 0].tolist()
    return (centred * ((constant + slope * lengths) / lengths)[:, None]).float()
